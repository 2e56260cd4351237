/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * KwCliPortState:
 * @KW_CLI_PORT_FREE: nobody listens
 * @KW_CLI_PORT_OURS: the daemon does, or systemd for it
 * @KW_CLI_PORT_UNKNOWN: somebody does, and who it is cannot be seen by this user
 * @KW_CLI_PORT_FOREIGN: another program does
 * @KW_CLI_PORT_UNUSABLE: the address cannot be listened on
 *
 * What became of an address that the daemon is to listen on.
 */
typedef enum
{
  KW_CLI_PORT_FREE,
  KW_CLI_PORT_OURS,
  KW_CLI_PORT_UNKNOWN,
  KW_CLI_PORT_FOREIGN,
  KW_CLI_PORT_UNUSABLE,
} KwCliPortState;

KwCliPortState kw_cli_port_look_at (const char *hostname, guint16 port, char **out_text);

G_END_DECLS
