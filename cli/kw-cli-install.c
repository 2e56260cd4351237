/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-install"

#include "config.h"

#include "kw-cli-commands.h"
#include "kw-cli-output.h"
#include "kw-error.h"

#include <gio/gio.h>
#include <unistd.h>

/*
 * install: enables and starts the service, in the words of ownCloud's hsmdaemon. The unit itself came with the package.
 */

#define UNIT "keywardd.service"
#define LINE "Install HSM Daemon:                                 "

static gboolean
enable_unit (GError **error)
{
  g_autoptr (GError) local_error = NULL;
  g_autoptr (GSubprocess) systemctl = NULL;
  g_autofree char *messages = NULL;

  if (geteuid () != 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_PERMISSION,
                   "Only root can install the service; run: sudo %s install", g_get_prgname ());
      return FALSE;
    }
  systemctl = g_subprocess_new (G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_MERGE,
                                &local_error, "systemctl", "enable", "--now", UNIT, NULL);
  if (systemctl != NULL
      && g_subprocess_communicate_utf8 (systemctl, NULL, NULL, &messages, NULL, &local_error)
      && g_subprocess_get_successful (systemctl))
    return TRUE;
  if (messages != NULL)
    g_strstrip (messages);
  g_set_error (error, KW_ERROR, KW_ERROR_FAILED,
               "systemctl enable --now " UNIT " failed: %s; run: %s check",
               local_error != NULL                       ? local_error->message
               : messages != NULL && messages[0] != '\0' ? messages
                                                         : "it did not say why",
               g_get_prgname ());
  return FALSE;
}

gboolean
kw_cli_run_install (KwCli *cli G_GNUC_UNUSED, char **arguments G_GNUC_UNUSED, GError **error)
{
  gboolean enabled = enable_unit (error);
  gboolean printed = kw_cli_output_text (enabled ? LINE "[  OK  ]\n" : LINE "[FAILED]\n",
                                         enabled ? error : NULL);

  return enabled && printed;
}
