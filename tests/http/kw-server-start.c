/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kw-server-start.h"

#include "kw-listen.h"

#include <netinet/in.h>
#include <sys/socket.h>

/**
 * kw_server_start:
 * @config: filled here; has to live as long as the server
 * @route: the only one
 * @out_port: where to store the port
 *
 * Starts the HTTP server alone, on a port of the loopback address that was free.
 *
 * Returns: (transfer full): the server
 */
KwHttpServer *
kw_server_start (KwServerConfig *config, const KwHttpRoute *route, guint16 *out_port)
{
  g_autoptr (GArray) sockets = kw_listen_new_list ();
  struct sockaddr_in address = { 0 };
  socklen_t n_address = sizeof address;
  g_autoptr (GError) error = NULL;
  KwHttpServer *server = NULL;

  config->hostname = (char *) "127.0.0.1";
  config->max_connections = 64;
  config->header_timeout = 10;
  config->body_timeout = 10;
  config->idle_timeout = 10;
  g_assert_true (kw_listen_tcp (sockets, "127.0.0.1", 0, &error));
  g_assert_no_error (error);
  g_assert_cmpint (getsockname (g_array_index (sockets, int, 0), (struct sockaddr *) &address,
                                &n_address),
                   ==, 0);
  *out_port = ntohs (address.sin_port);
  server = kw_http_server_new (config);
  kw_http_server_add_route (server, route);
  g_assert_true (kw_http_server_start (server, sockets, &error));
  g_assert_no_error (error);
  return server;
}
