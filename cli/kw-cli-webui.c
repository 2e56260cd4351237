/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-webui"

#include "config.h"

#include "kw-cli-bus.h"
#include "kw-cli-commands.h"
#include "kw-error.h"
#include "kw-i18n.h"
#include "kw-secret.h"

#include <glib/gi18n.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/*
 * webui login: prints a link that lets a browser use the status page. The daemon hands it over by a descriptor, and it goes
 * from there to standard output.
 */

#define MAX_LINK_BYTES 1024

static KwSecret *
read_link (int fd, GError **error)
{
  g_autoptr (KwSecret) link = kw_secret_new (MAX_LINK_BYTES, error);
  gsize n_read = 0;
  ssize_t n = 0;

  if (link == NULL)
    return NULL;
  while (n_read < MAX_LINK_BYTES
         && (n = read (fd, kw_secret_get_data (link) + n_read, MAX_LINK_BYTES - n_read)) > 0)
    n_read += (gsize) n;
  if (n_read == 0 || kw_secret_get_data (link)[n_read - 1] != '\n')
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED, "The daemon gave no whole link");
      return NULL;
    }
  kw_secret_truncate (link, n_read - 1);
  return g_steal_pointer (&link);
}

gboolean
kw_cli_run_webui_login (KwCli *cli, char **arguments G_GNUC_UNUSED, GError **error)
{
  g_autoptr (GDBusConnection) bus = kw_cli_bus_open (cli, error);
  g_autoptr (KwSecret) link = NULL;
  int fd = bus != NULL ? kw_cli_bus_call_for_fd (bus, "WebLogin", error) : -1;

  if (fd < 0)
    return FALSE;
  link = read_link (fd, error);
  close (fd);
  if (link == NULL)
    return FALSE;
  if (cli->json)
    g_print ("{\"link\": \"");
  fwrite (kw_secret_get_data (link), 1, kw_secret_get_size (link), stdout);
  g_print ("%s\n", cli->json ? "\"}" : "");
  kw_cli_add_notice (cli, "The link works once, within a minute, in a browser on this host.");
  return TRUE;
}
