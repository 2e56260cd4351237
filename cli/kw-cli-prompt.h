/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-secret.h"

G_BEGIN_DECLS

gboolean kw_cli_prompt_is_possible (void);

KwSecret *kw_cli_prompt_secret (const char *prompt, GError **error);

KwSecret *kw_cli_read_secret_line (int fd, GError **error);

G_END_DECLS
