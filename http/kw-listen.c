/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-listen"

#include "config.h"

#include "kw-listen.h"

#include "kw-caller.h"
#include "kw-error.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/*
 * Opens listening sockets for the doors, and tells who is at the other end of a connection.
 */

#define BACKLOG 1024
#define MAX_PEER_GROUPS 1024 /* that are looked at */

static void
close_listed (gpointer data)
{
  close (*(int *) data);
}

static gboolean
fail (GError **error, const char *what, const char *where, int code)
{
  g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "Cannot %s %s: %s", what, where,
               g_strerror (code));
  return FALSE;
}

static int
open_tcp (const struct addrinfo *address, int *out_errno)
{
  int one = 1;
  int fd = socket (address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

  /* Each address family has a socket of its own, so IPv6 must not take IPv4's port too. */
  if (fd >= 0
      && (setsockopt (fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0
          || (address->ai_family == AF_INET6
              && setsockopt (fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) != 0)
          || bind (fd, address->ai_addr, address->ai_addrlen) != 0 || listen (fd, BACKLOG) != 0))
    {
      *out_errno = errno;
      close (fd);
      return -1;
    }
  if (fd < 0)
    *out_errno = errno;
  return fd;
}

/* A socket file that nobody listens on any more is left from a crash and may go. */
static gboolean
remove_stale_socket (const struct sockaddr_un *address, GError **error)
{
  struct stat info;
  int fd = -1;
  int result = 0;
  int saved_errno = 0;

  if (lstat (address->sun_path, &info) != 0)
    return TRUE;
  if (!S_ISSOCK (info.st_mode))
    return fail (error, "listen on", address->sun_path, EEXIST);
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return fail (error, "listen on", address->sun_path, errno);
  result = connect (fd, (const struct sockaddr *) address, sizeof *address);
  saved_errno = errno;
  close (fd);
  if (result == 0 || saved_errno != ECONNREFUSED)
    return fail (error, "listen on", address->sun_path, EADDRINUSE);
  if (unlink (address->sun_path) != 0)
    return fail (error, "remove", address->sun_path, errno);
  return TRUE;
}

/**
 * kw_listen_new_list:
 *
 * Returns: (transfer full) (element-type int): a list of descriptors that are closed when they leave it
 */
GArray *
kw_listen_new_list (void)
{
  GArray *sockets = g_array_new (FALSE, FALSE, sizeof (int));

  g_array_set_clear_func (sockets, close_listed);
  return sockets;
}

/* Opens all addresses of a name or number; gives 0, an errno, or the negative code of the resolver. */
static int
open_name (GArray *sockets, const char *hostname, guint16 port)
{
  struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM };
  struct addrinfo *addresses = NULL;
  g_autofree char *service = g_strdup_printf ("%u", port);
  gboolean opened = FALSE;
  int last_errno = EADDRNOTAVAIL;
  int result = getaddrinfo (hostname, service, &hints, &addresses);

  if (result != 0)
    return result;
  for (const struct addrinfo *address = addresses; address != NULL; address = address->ai_next)
    {
      int fd = open_tcp (address, &last_errno);

      if (fd >= 0)
        {
          g_array_append_val (sockets, fd);
          opened = TRUE;
        }
      else if (last_errno == EADDRINUSE)
        {
          opened = FALSE;
          break;
        }
    }
  freeaddrinfo (addresses);
  return opened ? 0 : last_errno;
}

/**
 * kw_listen_tcp:
 * @sockets: (element-type int): where the sockets are added
 * @hostname: name or address; "localhost" means the loopback addresses of IPv4 and IPv6, whatever the resolver knows
 * @port: the port
 * @error: where to store the error
 *
 * Listens on all addresses that a name has. An address family that this machine lacks is passed over. Blocks while the
 * name is looked up; before the main loop runs.
 *
 * Returns: %FALSE with %KW_ERROR_CONFIG when an address is in use or none could be had
 */
gboolean
kw_listen_tcp (GArray *sockets, const char *hostname, guint16 port, GError **error)
{
  g_autofree char *where = g_strdup_printf ("%s port %u", hostname, port);
  int result = 0;

  if (g_str_equal (hostname, "localhost"))
    {
      int result_ipv6 = 0;

      result = open_name (sockets, "127.0.0.1", port);
      if (result != EADDRINUSE)
        result_ipv6 = open_name (sockets, "::1", port);
      if (result == 0 && result_ipv6 == EADDRINUSE)
        result = EADDRINUSE;
      else if (result_ipv6 == 0 && result != EADDRINUSE)
        result = 0;
    }
  else
    result = open_name (sockets, hostname, port);
  if (result < 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "Cannot listen on %s: %s", where,
                   gai_strerror (result));
      return FALSE;
    }
  return result == 0 || fail (error, "listen on", where, result);
}

/**
 * kw_listen_unix:
 * @sockets: (element-type int): where the socket is added
 * @path: path of the socket
 * @mode: permissions of the socket
 * @error: where to store the error
 *
 * Listens on a UNIX socket; one that is left from a crash is replaced, one that is in use is not.
 *
 * Returns: %FALSE with %KW_ERROR_CONFIG
 */
gboolean
kw_listen_unix (GArray *sockets, const char *path, guint mode, GError **error)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  int fd = -1;

  g_return_val_if_fail (strlen (path) < sizeof address.sun_path, FALSE);

  g_strlcpy (address.sun_path, path, sizeof address.sun_path);
  if (!remove_stale_socket (&address, error))
    return FALSE;
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return fail (error, "listen on", path, errno);
  /* Nobody can connect before listen(), so the mode is right from the first connection on. */
  if (bind (fd, (const struct sockaddr *) &address, sizeof address) != 0 || chmod (path, mode) != 0
      || listen (fd, BACKLOG) != 0)
    {
      int saved_errno = errno;

      close (fd);
      return fail (error, "listen on", path, saved_errno);
    }
  g_array_append_val (sockets, fd);
  return TRUE;
}

/**
 * kw_listen_describe_peer:
 * @fd: a connected socket
 * @out_uid: (out): user id of the other end of a UNIX socket, else %KW_CALLER_NO_UID
 *
 * Returns: (transfer full): the IP address of the other end, or "unix". Any thread.
 */
char *
kw_listen_describe_peer (int fd, gint64 *out_uid)
{
  struct sockaddr_storage address = { 0 };
  socklen_t n_address = sizeof address;
  char text[INET6_ADDRSTRLEN] = "unknown";

  *out_uid = KW_CALLER_NO_UID;
  if (getpeername (fd, (struct sockaddr *) &address, &n_address) != 0)
    return g_strdup (text);
  if (address.ss_family == AF_UNIX)
    {
      struct ucred credentials;
      socklen_t n_credentials = sizeof credentials;

      if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &credentials, &n_credentials) == 0)
        *out_uid = credentials.uid;
      return g_strdup ("unix");
    }
  if (address.ss_family == AF_INET)
    inet_ntop (AF_INET, &((struct sockaddr_in *) &address)->sin_addr, text, sizeof text);
  else if (address.ss_family == AF_INET6)
    inet_ntop (AF_INET6, &((struct sockaddr_in6 *) &address)->sin6_addr, text, sizeof text);
  return g_strdup (text);
}

/**
 * kw_listen_get_peer_groups:
 * @fd: a connected UNIX socket
 *
 * Returns: (transfer full) (element-type guint32): the groups of the other end; empty on any other socket. Any thread.
 */
GArray *
kw_listen_get_peer_groups (int fd)
{
  GArray *groups = g_array_new (FALSE, FALSE, sizeof (guint32));
  struct ucred credentials;
  socklen_t n_credentials = sizeof credentials;
  gid_t more[MAX_PEER_GROUPS];
  socklen_t n_more = sizeof more;

  if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &credentials, &n_credentials) == 0
      && credentials.pid > 0)
    g_array_append_val (groups, credentials.gid);
  if (getsockopt (fd, SOL_SOCKET, SO_PEERGROUPS, more, &n_more) == 0)
    g_array_append_vals (groups, more, (guint) (n_more / sizeof (gid_t)));
  return groups;
}
