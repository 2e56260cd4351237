/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-cli.h"
#include "kw-config.h"

G_BEGIN_DECLS

KwConfig *kw_cli_config_load (KwCli *cli, GError **error);

KwConfig *kw_cli_config_load_leniently (KwCli *cli, GError **out_problem);

GPtrArray *kw_cli_find_modules (const char *root);

const char *kw_cli_choose_module (GPtrArray *modules, GError **error);

gboolean
kw_cli_config_ensure_module (KwCli *cli, KwConfig *config, gboolean *out_guessed, GError **error);

void kw_cli_append_toml_string (GString *toml, const char *text);

G_END_DECLS
