/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-port"

#include "config.h"

#include "kw-cli-port.h"

#include <gio/gio.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

/*
 * Whether a TCP port is free, and if not, who holds it. The kernel tells which socket listens; which process has that
 * socket is found in /proc, as far as this user may look.
 */

#define STATE_LISTEN "0A"
#define FIELD_LOCAL 1
#define FIELD_STATE 3
#define FIELD_INODE 9

/* One line of /proc/net/tcp: the inode if it is a socket that listens on this port. */
static char *
inode_of_line (const char *line, guint16 port)
{
  g_auto (GStrv) parts = g_strsplit_set (line, " \t", -1);
  const char *fields[FIELD_INODE + 1] = { NULL };
  const char *colon = NULL;
  guint64 number = 0;
  guint n = 0;

  for (guint i = 0; parts[i] != NULL && n < G_N_ELEMENTS (fields); i++)
    {
      if (parts[i][0] != '\0')
        fields[n++] = parts[i];
    }
  if (n < G_N_ELEMENTS (fields) || !g_str_equal (fields[FIELD_STATE], STATE_LISTEN))
    return NULL;
  colon = strrchr (fields[FIELD_LOCAL], ':');
  if (colon == NULL || !g_ascii_string_to_unsigned (colon + 1, 16, 0, G_MAXUINT16, &number, NULL)
      || number != port)
    return NULL;
  return g_strdup (fields[FIELD_INODE]);
}

static char *
find_listening_inode (guint16 port)
{
  static const char *const tables[] = { "/proc/net/tcp", "/proc/net/tcp6" };

  for (guint i = 0; i < G_N_ELEMENTS (tables); i++)
    {
      g_autofree char *contents = NULL;
      g_auto (GStrv) lines = NULL;

      if (!g_file_get_contents (tables[i], &contents, NULL, NULL))
        continue;
      lines = g_strsplit (contents, "\n", -1);
      for (guint j = 0; lines[j] != NULL; j++)
        {
          char *inode = inode_of_line (lines[j], port);

          if (inode != NULL)
            return inode;
        }
    }
  return NULL;
}

static gboolean
process_has_socket (const char *process, const char *link)
{
  g_autofree char *folder = g_build_filename ("/proc", process, "fd", NULL);
  g_autoptr (GDir) descriptors = g_dir_open (folder, 0, NULL);
  const char *name = NULL;

  while (descriptors != NULL && (name = g_dir_read_name (descriptors)) != NULL)
    {
      g_autofree char *path = g_build_filename (folder, name, NULL);
      g_autofree char *target = g_file_read_link (path, NULL);

      if (g_strcmp0 (target, link) == 0)
        return TRUE;
    }
  return FALSE;
}

/* The number of the process that has the socket; the youngest one, since systemd hands its sockets down. */
static char *
find_process (const char *inode)
{
  g_autofree char *link = g_strdup_printf ("socket:[%s]", inode);
  g_autoptr (GDir) processes = g_dir_open ("/proc", 0, NULL);
  const char *name = NULL;
  guint64 best = 0;

  while (processes != NULL && (name = g_dir_read_name (processes)) != NULL)
    {
      guint64 number = 0;

      if (g_ascii_string_to_unsigned (name, 10, 1, G_MAXUINT32, &number, NULL) && number > best
          && process_has_socket (name, link))
        best = number;
    }
  return best > 0 ? g_strdup_printf ("%" G_GUINT64_FORMAT, best) : NULL;
}

static KwCliPortState
look_at_holder (guint16 port, char **out_text)
{
  g_autofree char *inode = find_listening_inode (port);
  g_autofree char *process = inode != NULL ? find_process (inode) : NULL;
  g_autofree char *path
      = process != NULL ? g_build_filename ("/proc", process, "comm", NULL) : NULL;
  g_autofree char *name = NULL;

  if (path == NULL || !g_file_get_contents (path, &name, NULL, NULL))
    {
      *out_text = g_strdup ("is in use; root can see by whom");
      return KW_CLI_PORT_UNKNOWN;
    }
  g_strchomp (name);
  *out_text = g_strdup_printf ("is held by %s (process %s)", name, process);
  return g_str_equal (name, "keywardd") || g_str_equal (name, "systemd") ? KW_CLI_PORT_OURS
                                                                         : KW_CLI_PORT_FOREIGN;
}

static gboolean
can_bind (GInetAddress *address, guint16 port, GError **error)
{
  g_autoptr (GSocketAddress) socket_address = g_inet_socket_address_new (address, port);
  g_autoptr (GSocket) socket = g_socket_new (g_inet_address_get_family (address),
                                             G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_TCP, error);

  if (socket == NULL)
    return FALSE;
  if (g_inet_address_get_family (address) == G_SOCKET_FAMILY_IPV6)
    g_socket_set_option (socket, IPPROTO_IPV6, IPV6_V6ONLY, 1, NULL);
  return g_socket_bind (socket, socket_address, TRUE, error);
}

static GList *
resolve (const char *hostname, GError **error)
{
  g_autoptr (GResolver) resolver = NULL;
  GList *addresses = NULL;

  if (g_str_equal (hostname, "localhost"))
    {
      addresses = g_list_append (addresses, g_inet_address_new_loopback (G_SOCKET_FAMILY_IPV4));
      return g_list_append (addresses, g_inet_address_new_loopback (G_SOCKET_FAMILY_IPV6));
    }
  resolver = g_resolver_get_default ();
  return g_resolver_lookup_by_name (resolver, hostname, NULL, error);
}

/* Tries to listen on all addresses of @hostname, as the daemon would; @out_text goes on after the name of the port. */
KwCliPortState
kw_cli_port_look_at (const char *hostname, guint16 port, char **out_text)
{
  g_autoptr (GError) error = NULL;
  GList *addresses = resolve (hostname, &error);
  guint n_free = 0;

  for (GList *link = addresses; link != NULL; link = link->next)
    {
      g_clear_error (&error);
      if (can_bind (link->data, port, &error))
        n_free++;
      else if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_ADDRESS_IN_USE))
        {
          g_resolver_free_addresses (addresses);
          return look_at_holder (port, out_text);
        }
    }
  g_resolver_free_addresses (addresses);
  /* A host without IPv6 has one loopback address only. */
  if (n_free > 0)
    {
      *out_text = g_strdup ("is free");
      return KW_CLI_PORT_FREE;
    }
  *out_text = g_strdup_printf ("cannot be listened on: %s",
                               error != NULL ? error->message : "no address");
  return KW_CLI_PORT_UNUSABLE;
}
