/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-control.h"

#include <errno.h>
#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Connections that may wait to be accepted. */
#define BACKLOG 16

struct _CardControl
{
  char *path;
  GSocket *socket;
  GSource *source;
  GPtrArray *clients;
  CardControlFunc func;
  gpointer user_data;
};

typedef struct
{
  CardControl *control;
  GSocket *socket;
  GSource *source;
  GString *input;
} Client;

static void
client_free (gpointer data)
{
  Client *client = data;

  g_source_destroy (client->source);
  g_source_unref (client->source);
  g_object_unref (client->socket);
  g_string_free (client->input, TRUE);
  g_free (client);
}

/* Sends a line. A client that does not read its answers loses the rest. */
static void
answer (Client *client, const char *text)
{
  g_autofree char *line = g_strconcat (text, "\n", NULL);

  g_socket_send (client->socket, line, strlen (line), NULL, NULL);
}

static void
take_lines (Client *client)
{
  char *end;

  while ((end = strchr (client->input->str, '\n')))
    {
      g_autofree char *line = g_strndup (client->input->str, (gsize) (end - client->input->str));
      g_autofree char *text = NULL;

      g_string_erase (client->input, 0, end - client->input->str + 1);
      if (g_utf8_validate (line, -1, NULL))
        text = client->control->func (g_strstrip (line), client->control->user_data);
      answer (client, text ? text : "error this is not text");
    }
}

static gboolean
on_input (GSocket *socket, G_GNUC_UNUSED GIOCondition condition, gpointer user_data)
{
  Client *client = user_data;
  char buffer[512];
  gssize size = g_socket_receive (socket, buffer, sizeof buffer, NULL, NULL);

  if (size > 0 && memchr (buffer, 0, (gsize) size))
    answer (client, "error this is not text");
  else if (size > 0)
    {
      g_string_append_len (client->input, buffer, size);
      take_lines (client);
      if (client->input->len <= CARD_CONTROL_MAX_LINE)
        return G_SOURCE_CONTINUE;
      answer (client, "error the line is too long");
    }

  g_ptr_array_remove_fast (client->control->clients, client);
  return G_SOURCE_REMOVE;
}

static gboolean
on_connection (GSocket *socket, G_GNUC_UNUSED GIOCondition condition, gpointer user_data)
{
  CardControl *self = user_data;
  GSocket *accepted = g_socket_accept (socket, NULL, NULL);
  Client *client;

  if (!accepted)
    return G_SOURCE_CONTINUE;
  g_socket_set_blocking (accepted, FALSE);
  client = g_new0 (Client, 1);
  client->control = self;
  client->socket = accepted;
  client->input = g_string_new (NULL);
  client->source = g_socket_create_source (accepted, G_IO_IN, NULL);
  g_source_set_callback (client->source, G_SOURCE_FUNC (on_input), client, NULL);
  g_source_attach (client->source, NULL);
  g_ptr_array_add (self->clients, client);
  return G_SOURCE_CONTINUE;
}

/* A socket on which nobody answers was left behind by a program that was killed. */
static void
remove_left_behind (const char *path, GSocketAddress *address)
{
  g_autoptr (GSocket) socket
      = g_socket_new (G_SOCKET_FAMILY_UNIX, G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_DEFAULT, NULL);
  g_autoptr (GError) error = NULL;
  GStatBuf status;

  if (socket && g_lstat (path, &status) == 0 && S_ISSOCK (status.st_mode)
      && !g_socket_connect (socket, address, NULL, &error)
      && g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED))
    g_unlink (path);
}

/**
 * card_control_new:
 * @path: where the socket shall be
 * @func: does what a line says
 * @user_data: given to @func
 * @error: return location for a #GError
 *
 * Returns: (transfer full): the socket; %NULL when it cannot be made
 */
CardControl *
card_control_new (const char *path, CardControlFunc func, gpointer user_data, GError **error)
{
  g_autoptr (GSocketAddress) address = NULL;
  g_autoptr (GSocket) socket = NULL;
  CardControl *self;

  if (strlen (path) >= sizeof ((struct sockaddr_un *) 0)->sun_path)
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_FILENAME_TOO_LONG,
                   "%s is too long for the path of a socket", path);
      return NULL;
    }
  address = g_unix_socket_address_new (path);
  remove_left_behind (path, address);
  socket
      = g_socket_new (G_SOCKET_FAMILY_UNIX, G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_DEFAULT, error);
  if (!socket)
    return NULL;
  g_socket_set_listen_backlog (socket, BACKLOG);
  if (!g_socket_bind (socket, address, FALSE, error))
    {
      g_prefix_error (error, "cannot listen on %s: ", path);
      return NULL;
    }
  if (!g_socket_listen (socket, error))
    {
      g_prefix_error (error, "cannot listen on %s: ", path);
      g_unlink (path);
      return NULL;
    }
  g_socket_set_blocking (socket, FALSE);

  self = g_new0 (CardControl, 1);
  self->path = g_strdup (path);
  self->clients = g_ptr_array_new_with_free_func (client_free);
  self->func = func;
  self->user_data = user_data;
  self->source = g_socket_create_source (socket, G_IO_IN, NULL);
  g_source_set_callback (self->source, G_SOURCE_FUNC (on_connection), self, NULL);
  g_source_attach (self->source, NULL);
  self->socket = g_steal_pointer (&socket);
  return self;
}

void
card_control_free (CardControl *self)
{
  g_ptr_array_unref (self->clients);
  g_source_destroy (self->source);
  g_source_unref (self->source);
  g_object_unref (self->socket);
  g_unlink (self->path);
  g_free (self->path);
  g_free (self);
}
