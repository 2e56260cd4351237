/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * KwCli:
 * @config_path: (nullable): --config
 * @module: (nullable): --module
 * @json: --json
 * @verbose: --verbose
 * @bits: --bits of genkey
 * @output: (nullable): --output of setup
 * @token_label: (nullable): --token-label of setup
 * @pin_file: (nullable): --pin-file of setup
 * @force: --force of setup
 * @session: --session
 * @bus_address: (nullable): --bus-address
 * @associated_data: (nullable): --associated-data
 * @binary: --binary
 * @stream: --stream
 * @key: (nullable): --key of encrypt
 * @kind: (nullable): --kind of keys generate
 * @label: (nullable): --label of keys generate
 * @fingerprint: (nullable): --fingerprint of keys accept
 * @exit_status: status to end with, where a command has more to say than whether it succeeded; −1 otherwise
 * @notices: (element-type utf8): what to say on standard error once the command succeeded
 *
 * One command line, taken apart.
 */
typedef struct
{
  char *config_path;
  char *module;
  gboolean json;
  gboolean verbose;
  gint bits;
  char *output;
  char *token_label;
  char *pin_file;
  gboolean force;
  gboolean session;
  char *bus_address;
  char *associated_data;
  gboolean binary;
  gboolean stream;
  char *key;
  char *kind;
  char *label;
  char *fingerprint;
  int exit_status;
  GPtrArray *notices;
} KwCli;

/**
 * KwCliCommand:
 * @name: one word or two
 * @arguments: its arguments as the help shows them
 * @summary: what it does, for the list of commands
 * @n_min: fewest arguments
 * @n_max: most arguments
 * @program: (nullable): the only name of the program under which there is this command, %NULL for both
 * @add_options: (nullable): adds the options that are its own
 * @run: does it; @arguments ends with %NULL. Fails with an error of %KW_ERROR or, when the command line is wrong, of
 *   %G_OPTION_ERROR
 *
 * One row of the table of commands.
 */
typedef struct
{
  const char *name;
  const char *arguments;
  const char *summary;
  guint n_min;
  guint n_max;
  const char *program;
  void (*add_options) (KwCli *cli, GOptionContext *context);
  gboolean (*run) (KwCli *cli, char **arguments, GError **error);
} KwCliCommand;

KwCli *kw_cli_new (void);

void kw_cli_free (KwCli *self);

void kw_cli_add_notice (KwCli *self, const char *format, ...) G_GNUC_PRINTF (2, 3);

void kw_cli_say (const char *text);

char *kw_cli_dup_printable (const char *text);

void kw_cli_set_usage_error (GError **error, const char *format, ...) G_GNUC_PRINTF (2, 3);

GBytes *kw_cli_parse_key_id (const char *text, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwCli, kw_cli_free)

G_END_DECLS
