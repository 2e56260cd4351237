/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-cli.h"

G_BEGIN_DECLS

gboolean kw_cli_run_check (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_decrypt (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_device_retry (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_encrypt (KwCli *cli, char **arguments, GError **error);

void kw_cli_add_genkey_options (KwCli *cli, GOptionContext *context);

gboolean kw_cli_run_genkey (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_install (KwCli *cli, char **arguments, GError **error);

void kw_cli_add_accept_options (KwCli *cli, GOptionContext *context);

gboolean kw_cli_run_keys_accept (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_listslots (KwCli *cli, char **arguments, GError **error);

void kw_cli_add_setup_options (KwCli *cli, GOptionContext *context);

gboolean kw_cli_run_setup (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_showkey (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_status (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_devices (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_keys (KwCli *cli, char **arguments, GError **error);

void kw_cli_add_encrypt_options (KwCli *cli, GOptionContext *context);

void kw_cli_add_envelope_options (KwCli *cli, GOptionContext *context);

gboolean kw_cli_run_seal (KwCli *cli, char **arguments, GError **error);

void kw_cli_add_decrypt_options (KwCli *cli, GOptionContext *context);

gboolean kw_cli_run_open (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_rewrap (KwCli *cli, char **arguments, GError **error);

void kw_cli_add_random_options (KwCli *cli, GOptionContext *context);

gboolean kw_cli_run_random (KwCli *cli, char **arguments, GError **error);

void kw_cli_add_generate_options (KwCli *cli, GOptionContext *context);

gboolean kw_cli_run_keys_generate (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_test (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_unlock (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_reload (KwCli *cli, char **arguments, GError **error);

gboolean
kw_cli_stream (KwCli *cli, const char *method, const char *path, GVariant *options, GError **error);

gboolean kw_cli_run_monitor (KwCli *cli, char **arguments, GError **error);

gboolean kw_cli_run_webui_login (KwCli *cli, char **arguments, GError **error);

G_END_DECLS
