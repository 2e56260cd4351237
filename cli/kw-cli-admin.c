/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-admin"

#include "config.h"

#include "kw-bus-names.h"
#include "kw-cli-bus.h"
#include "kw-cli-commands.h"
#include "kw-cli-output.h"
#include "kw-cli-prompt.h"
#include "kw-cli-sentence.h"
#include "kw-error.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gunixfdlist.h>
#include <glib/gi18n.h>
#include <string.h>
#include <unistd.h>

/*
 * What passes descriptors to the daemon: unlock, which gives it a PIN through a pipe, and files of any size, encrypted and
 * decrypted from one descriptor to another; and reload.
 */

/* A PIN that is never in an argument, an environment or a message. */
static KwSecret *
ask_for_pin (const char *serial, GError **error)
{
  g_autofree char *prompt = NULL;

  if (!kw_cli_prompt_is_possible ())
    return kw_cli_read_secret_line (STDIN_FILENO, error);
  prompt = serial != NULL ? g_strdup_printf (_ ("PIN of device %s: "), serial)
                          : g_strdup (_ ("PIN: "));
  return kw_cli_prompt_secret (prompt, error);
}

/* A pipe holds a PIN, so nobody has to wait. */
static int
open_pin_pipe (KwSecret *pin, GError **error)
{
  int ends[2] = { -1, -1 };
  gssize n = -1;

  if (pipe2 (ends, O_CLOEXEC) == 0)
    {
      n = write (ends[1], kw_secret_get_data (pin), kw_secret_get_size (pin));
      close (ends[1]);
    }
  if (n == (gssize) kw_secret_get_size (pin))
    return ends[0];
  g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED, "The PIN cannot be passed on");
  if (ends[0] >= 0)
    close (ends[0]);
  return -1;
}

static gboolean
print_done (KwCli *cli, const char *text, GError **error)
{
  g_autoptr (JsonBuilder) builder = NULL;

  if (!cli->json)
    return kw_cli_output_sentence (text, error);
  builder = json_builder_new ();
  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "done");
  json_builder_add_boolean_value (builder, TRUE);
  json_builder_end_object (builder);
  return kw_cli_output_json (builder, error);
}

gboolean
kw_cli_run_unlock (KwCli *cli, char **arguments, GError **error)
{
  g_autoptr (GDBusConnection) bus = kw_cli_bus_open (cli, error);
  g_autoptr (GUnixFDList) fds = g_unix_fd_list_new ();
  g_autoptr (KwSecret) pin = NULL;
  g_autoptr (GVariant) reply = NULL;
  GVariantBuilder options;
  int fd = -1;

  if (bus == NULL || !kw_cli_bus_is_there (bus, error))
    return FALSE;
  pin = ask_for_pin (arguments[0], error);
  fd = pin != NULL ? open_pin_pipe (pin, error) : -1;
  if (fd < 0)
    return FALSE;
  (void) g_unix_fd_list_append (fds, fd, NULL);
  close (fd);
  g_variant_builder_init (&options, G_VARIANT_TYPE_VARDICT);
  if (arguments[0] != NULL)
    g_variant_builder_add (&options, "{sv}", KW_BUS_OPTION_SERIAL,
                           g_variant_new_string (arguments[0]));
  reply = kw_cli_bus_call_with_fds (bus, "Unlock", g_variant_new ("(ha{sv})", 0, &options), fds,
                                    "()", error);
  return reply != NULL && print_done (cli, "The PIN was taken.\n", error);
}

gboolean
kw_cli_run_reload (KwCli *cli, char **arguments G_GNUC_UNUSED, GError **error)
{
  g_autoptr (GDBusConnection) bus = kw_cli_bus_open (cli, error);
  g_autoptr (GVariant) reply = NULL;
  g_auto (GStrv) later = NULL;

  if (bus == NULL)
    return FALSE;
  reply
      = kw_cli_bus_call (bus, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Reload", NULL, "(as)", error);
  if (reply == NULL)
    return FALSE;
  g_variant_get (reply, "(^as)", &later);
  for (guint i = 0; later[i] != NULL; i++)
    kw_cli_add_notice (cli, "%s was changed; that shows after: systemctl restart keywardd",
                       later[i]);
  return print_done (cli, "The configuration was read anew.\n", error);
}

/* Opens what is named, or takes standard input or output. */
static int
open_end (const char *path, gboolean for_output, GError **error)
{
  int fd = -1;

  if (path == NULL)
    fd = fcntl (for_output ? STDOUT_FILENO : STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
  else if (for_output)
    fd = open (path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  else
    fd = open (path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "Cannot open %s: %s",
                 path != NULL ? path : "standard input or output", g_strerror (errno));
  return fd;
}

/**
 * kw_cli_stream:
 * @cli: the command line
 * @method: EncryptFile or DecryptFile
 * @path: (nullable): what to read; %NULL for standard input
 * @options: (transfer floating): options of the method
 * @error: where to store the error
 *
 * Has the daemon read a file and write another one.
 *
 * Returns: %FALSE with an error; then what was written is to be thrown away, and a file that was named is gone
 */
gboolean
kw_cli_stream (KwCli *cli, const char *method, const char *path, GVariant *options, GError **error)
{
  g_autoptr (GVariant) taken = g_variant_ref_sink (options);
  g_autoptr (GDBusConnection) bus = NULL;
  g_autoptr (GUnixFDList) fds = NULL;
  g_autoptr (GVariant) reply = NULL;
  int ends[2] = { -1, -1 };

  if (cli->output == NULL && isatty (STDOUT_FILENO))
    {
      kw_cli_set_usage_error (error, "with --stream bytes are written; name a file with --output");
      return FALSE;
    }
  bus = kw_cli_bus_open (cli, error);
  if (bus == NULL || !kw_cli_bus_is_there (bus, error))
    return FALSE;
  ends[0] = open_end (path, FALSE, error);
  ends[1] = ends[0] >= 0 ? open_end (cli->output, TRUE, error) : -1;
  if (ends[1] < 0)
    {
      if (ends[0] >= 0)
        close (ends[0]);
      return FALSE;
    }
  /* The list closes them. */
  fds = g_unix_fd_list_new_from_array (ends, 2);
  reply = kw_cli_bus_call_with_fds (bus, method, g_variant_new ("(hh@a{sv})", 0, 1, taken), fds,
                                    "(a{sv})", error);
  if (reply == NULL && cli->output != NULL)
    (void) unlink (cli->output);
  return reply != NULL;
}
