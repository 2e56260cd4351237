/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sd"

#include "config.h"

#include "kw-sd.h"

#include "kw-error.h"
#include "kw-listen.h"
#include "kw-names.h"

#include <glib-unix.h>

#if HAVE_SYSTEMD
#include <stdlib.h>
#include <systemd/sd-daemon.h>
#endif

/*
 * What passes between systemd and the daemon: readiness and status one way, listening sockets the other. Without systemd
 * nothing does.
 */

/**
 * kw_sd_notify:
 * @state: (nullable): such as "READY=1"
 * @status: (nullable): one sentence for `systemctl status`
 *
 * Tells systemd how the daemon is. Main context.
 */
void
kw_sd_notify (const char *state, const char *status)
{
#if HAVE_SYSTEMD
  sd_notifyf (0, "%s%s%s%s", state != NULL ? state : "", state != NULL ? "\n" : "",
              status != NULL ? "STATUS=" : "", status != NULL ? status : "");
#endif
}

/**
 * kw_sd_take_sockets:
 * @error: where to store the error
 *
 * Takes the listening sockets that systemd passed, by their FileDescriptorName=.
 *
 * Returns: (transfer full) (element-type utf8 GArray): lists of descriptors by name, perhaps none; %NULL with
 *   %KW_ERROR_CONFIG when one has a name that is not known
 */
GHashTable *
kw_sd_take_sockets (GError **error)
{
  g_autoptr (GHashTable) sockets
      = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, (GDestroyNotify) g_array_unref);

#if HAVE_SYSTEMD
  char **names = NULL;
  int n = sd_listen_fds_with_names (1, &names);

  for (int i = 0; i < n; i++)
    {
      int fd = SD_LISTEN_FDS_START + i;
      GArray *list = g_hash_table_lookup (sockets, names[i]);

      if (!g_str_equal (names[i], KW_SOCKET_NAME_HTTP)
          && !g_str_equal (names[i], KW_SOCKET_NAME_LINE))
        g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                     "systemd passed a socket called \"%s\"; FileDescriptorName= must be %s or %s",
                     names[i], KW_SOCKET_NAME_HTTP, KW_SOCKET_NAME_LINE);
      if (error != NULL && *error != NULL)
        break;
      if (list == NULL)
        {
          list = kw_listen_new_list ();
          g_hash_table_insert (sockets, g_strdup (names[i]), list);
        }
      /* systemd hands them over blocking unless the unit says NonBlocking=yes. */
      (void) g_unix_set_fd_nonblocking (fd, TRUE, NULL);
      g_array_append_val (list, fd);
    }
  for (int i = 0; i < n; i++)
    free (names[i]);
  free (names);
  if (error != NULL && *error != NULL)
    return NULL;
#endif
  return g_steal_pointer (&sockets);
}
