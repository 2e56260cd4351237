/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* vpcd's protocol: frames of a length in two bytes, big-endian, and as many bytes; the reader listens, the card connects. */

#include "card-link.h"

#include <errno.h>
#include <glib-unix.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define LENGTH_SIZE 2

/* Pauses between attempts to connect, in milliseconds. */
#define MIN_PAUSE_MS 20
#define MAX_PAUSE_MS 500

/* How long an attempt may take, in seconds. */
#define CONNECT_TIMEOUT 2

struct _CardLink
{
  GSocketAddress *address;
  CardLinkFunc func;
  gpointer user_data;

  gboolean inserted;
  GSocket *socket;
  guint watch_id;
  guint retry_id;
  guint pause_ms;

  guint8 frame[LENGTH_SIZE + G_MAXUINT16];
  gsize n_read;
  gboolean waits_for_answer;
};

static void connect_now (CardLink *self);

static gboolean
on_retry (gpointer user_data)
{
  CardLink *self = user_data;

  self->retry_id = 0;
  connect_now (self);
  return G_SOURCE_REMOVE;
}

static void
disconnect (CardLink *self)
{
  g_clear_handle_id (&self->watch_id, g_source_remove);
  g_clear_handle_id (&self->retry_id, g_source_remove);
  if (self->socket)
    g_socket_close (self->socket, NULL);
  g_clear_object (&self->socket);
  self->n_read = 0;
  self->waits_for_answer = FALSE;
}

static void
retry_later (CardLink *self)
{
  disconnect (self);
  if (!self->inserted)
    return;
  self->pause_ms = CLAMP (self->pause_ms * 2, MIN_PAUSE_MS, MAX_PAUSE_MS);
  self->retry_id = g_timeout_add (self->pause_ms, on_retry, self);
}

/* Bytes of the frame that are still missing. */
static gsize
get_missing (const CardLink *self)
{
  if (self->n_read < LENGTH_SIZE)
    return LENGTH_SIZE - self->n_read;
  return LENGTH_SIZE + ((gsize) self->frame[0] << 8 | self->frame[1]) - self->n_read;
}

/* Returns -1 when the connection is lost, 0 when there is nothing to read now. */
static gssize
receive (CardLink *self)
{
  const int yes = 1;
  int fd = g_socket_get_fd (self->socket);
  gssize size;

  /* The reader sends a frame in two pieces. Without this before each read, the second comes 40 ms late. */
  setsockopt (fd, IPPROTO_TCP, TCP_QUICKACK, &yes, sizeof yes);
  do
    size = recv (fd, self->frame + self->n_read, get_missing (self), MSG_DONTWAIT);
  while (size < 0 && errno == EINTR);
  if (size > 0)
    return size;
  return size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : -1;
}

static gboolean
on_readable (G_GNUC_UNUSED gint fd, G_GNUC_UNUSED GIOCondition condition, gpointer user_data)
{
  CardLink *self = user_data;
  gssize size;

  while ((size = receive (self)) > 0)
    {
      self->n_read += (gsize) size;
      if (self->n_read < LENGTH_SIZE || get_missing (self) > 0)
        continue;

      size = (gssize) self->n_read - LENGTH_SIZE;
      self->n_read = 0;
      if (size == 0)
        continue;

      self->pause_ms = 0;
      self->waits_for_answer = TRUE;
      self->watch_id = 0;
      self->func (self, self->frame + LENGTH_SIZE, (gsize) size, self->user_data);
      return G_SOURCE_REMOVE;
    }
  if (size == 0)
    return G_SOURCE_CONTINUE;

  self->watch_id = 0;
  retry_later (self);
  return G_SOURCE_REMOVE;
}

static void
read_on (CardLink *self)
{
  self->waits_for_answer = FALSE;
  self->watch_id = g_unix_fd_add (g_socket_get_fd (self->socket), G_IO_IN, on_readable, self);
}

static void
connect_now (CardLink *self)
{
  const int yes = 1;
  int fd;

  self->socket = g_socket_new (g_socket_address_get_family (self->address), G_SOCKET_TYPE_STREAM,
                               G_SOCKET_PROTOCOL_TCP, NULL);
  if (self->socket)
    g_socket_set_timeout (self->socket, CONNECT_TIMEOUT);
  if (!self->socket || !g_socket_connect (self->socket, self->address, NULL, NULL))
    {
      retry_later (self);
      return;
    }
  fd = g_socket_get_fd (self->socket);
  setsockopt (fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  read_on (self);
}

/**
 * card_link_new:
 * @host: numeric address of the reader
 * @port: its port
 * @func: is told of frames
 * @user_data: given to @func
 *
 * Returns: (transfer full): the link, with the card outside
 */
CardLink *
card_link_new (const char *host, guint16 port, CardLinkFunc func, gpointer user_data)
{
  CardLink *self = g_new0 (CardLink, 1);

  self->address = g_inet_socket_address_new_from_string (host, port);
  g_assert (self->address);
  self->func = func;
  self->user_data = user_data;
  return self;
}

void
card_link_free (CardLink *self)
{
  self->inserted = FALSE;
  disconnect (self);
  g_object_unref (self->address);
  g_free (self);
}

/**
 * card_link_insert:
 * @self: the link
 *
 * Puts the card into the reader: to connect is what that means to vpcd.
 */
void
card_link_insert (CardLink *self)
{
  if (self->inserted)
    return;
  self->inserted = TRUE;
  self->pause_ms = 0;
  connect_now (self);
}

/**
 * card_link_eject:
 * @self: the link
 *
 * Pulls the card out, also when a command waits for its answer.
 */
void
card_link_eject (CardLink *self)
{
  self->inserted = FALSE;
  disconnect (self);
}

gboolean
card_link_is_inserted (const CardLink *self)
{
  return self->inserted;
}

gboolean
card_link_is_connected (const CardLink *self)
{
  return self->socket != NULL;
}

/**
 * card_link_send:
 * @self: the link
 * @payload: what to answer the last frame with, at most 65,535 bytes
 *
 * Answers, and reads on. Nothing happens when the card was pulled out meanwhile.
 */
void
card_link_send (CardLink *self, GBytes *payload)
{
  gsize size;
  gconstpointer data = g_bytes_get_data (payload, &size);
  guint8 length[LENGTH_SIZE] = { (guint8) (size >> 8), (guint8) size };
  struct iovec pieces[] = { { length, sizeof length }, { (void *) data, size } };
  struct msghdr message = { .msg_iov = pieces, .msg_iovlen = G_N_ELEMENTS (pieces) };
  gssize sent;

  if (size > G_MAXUINT16)
    g_error ("an answer of %" G_GSIZE_FORMAT " bytes does not fit into a frame", size);
  if (!self->waits_for_answer)
    return;
  do
    sent = sendmsg (g_socket_get_fd (self->socket), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);

  /* A reader waits for its answer, so there is always room for one; whoever leaves none is not a reader. */
  if (sent != (gssize) (LENGTH_SIZE + size))
    retry_later (self);
  else
    read_on (self);
}

/**
 * card_link_skip:
 * @self: the link
 *
 * Reads on without an answer.
 */
void
card_link_skip (CardLink *self)
{
  if (self->waits_for_answer)
    read_on (self);
}
