/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-http-stream"

#include "config.h"

#include "kw-http-stream.h"

#include "kw-http-private.h"
#include "kw-limits.h"

#include <string.h>
#include <sys/socket.h>

/*
 * An answer without an end. What is added waits in a queue until libmicrohttpd asks for it; while there is nothing, the
 * connection is suspended. A reader who is too slow is cut off: nobody else should have to wait, or to pay, for him.
 *
 * Any thread may add; libmicrohttpd reads on the thread of the connection.
 */
struct _KwHttpStream
{
  gatomicrefcount references;
  KwHttpRequest *request; /* owned until the connection is gone */

  GMutex lock;
  GQueue queue;       /* of GBytes; guarded by lock */
  gsize n_queued;     /* bytes in it; guarded by lock */
  gsize n_sent;       /* of its first; guarded by lock */
  gboolean suspended; /* guarded by lock */
  gboolean closed;    /* nothing more is taken; guarded by lock */
  gboolean gone;      /* nobody reads any more; guarded by lock */
};

static void
resume (KwHttpStream *self)
{
  if (!self->suspended)
    return;
  self->suspended = FALSE;
  MHD_resume_connection (self->request->mhd);
}

static gsize
take_queued (KwHttpStream *self, char *buffer, gsize room)
{
  gsize n_taken = 0;

  while (n_taken < room && !g_queue_is_empty (&self->queue))
    {
      GBytes *bytes = g_queue_peek_head (&self->queue);
      gsize size = 0;
      const char *data = g_bytes_get_data (bytes, &size);
      gsize n = MIN (size - self->n_sent, room - n_taken);

      memcpy (buffer + n_taken, data + self->n_sent, n);
      n_taken += n;
      self->n_sent += n;
      if (self->n_sent < size)
        break;
      g_bytes_unref (g_queue_pop_head (&self->queue));
      self->n_sent = 0;
    }
  self->n_queued -= n_taken;
  return n_taken;
}

/* The thread of the connection. */
static ssize_t
on_read (void *cls, uint64_t position G_GNUC_UNUSED, char *buffer, size_t room)
{
  KwHttpStream *self = cls;
  ssize_t result = 0;

  g_mutex_lock (&self->lock);
  if (!g_queue_is_empty (&self->queue))
    result = (ssize_t) take_queued (self, buffer, room);
  else if (self->closed)
    result = MHD_CONTENT_READER_END_OF_STREAM;
  else
    {
      self->suspended = TRUE;
      MHD_suspend_connection (self->request->mhd);
    }
  g_mutex_unlock (&self->lock);
  return result;
}

/* libmicrohttpd needs the answer no more: its connection is gone. */
static void
on_gone (void *cls)
{
  KwHttpStream *self = cls;

  kw_http_server_remove_stream (self->request->server, self);
  g_mutex_lock (&self->lock);
  self->suspended = FALSE;
  self->closed = TRUE;
  self->gone = TRUE;
  g_mutex_unlock (&self->lock);
  kw_http_stream_unref (self);
}

/**
 * kw_http_stream_new:
 * @request: a request in its handler
 * @response: status, type and headers of the answer; it has no body
 *
 * Answers a request with a stream. The thread of the connection.
 *
 * Returns: (transfer full) (nullable): the stream; %NULL when the server ends, and the request was told so
 */
KwHttpStream *
kw_http_stream_new (KwHttpRequest *request, const KwHttpResponse *answer)
{
  KwHttpStream *self = g_new0 (KwHttpStream, 1);
  struct MHD_Response *response = NULL;

  g_atomic_ref_count_init (&self->references);
  g_mutex_init (&self->lock);
  g_queue_init (&self->queue);
  self->request = kw_http_request_ref (request);
  if (kw_http_server_add_stream (request->server, self))
    response = MHD_create_response_from_callback (MHD_SIZE_UNKNOWN, KW_HTTP_STREAM_BLOCK_BYTES,
                                                  on_read, kw_http_stream_ref (self), on_gone);
  if (response == NULL)
    {
      kw_http_request_respond_text (request, MHD_HTTP_SERVICE_UNAVAILABLE,
                                    "The service is stopping");
      kw_http_stream_unref (self);
      return NULL;
    }
  kw_http_request_add_headers (request, response, answer);
  kw_http_request_respond_raw (request, answer->status, response);
  return self;
}

/**
 * kw_http_stream_ref:
 * @self: a stream
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwHttpStream *
kw_http_stream_ref (KwHttpStream *self)
{
  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_http_stream_unref:
 * @self: (transfer full): a stream
 *
 * Gives a reference back. Any thread.
 */
void
kw_http_stream_unref (KwHttpStream *self)
{
  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_queue_clear_full (&self->queue, (GDestroyNotify) g_bytes_unref);
  kw_http_request_unref (self->request);
  g_mutex_clear (&self->lock);
  g_free (self);
}

/**
 * kw_http_stream_push:
 * @self: a stream
 * @bytes: what happened
 *
 * Sends more. A reader who has left too much lying is cut off. Any thread.
 *
 * Returns: %FALSE when nobody reads it any more
 */
gboolean
kw_http_stream_push (KwHttpStream *self, GBytes *bytes)
{
  gboolean open = FALSE;
  gboolean too_slow = FALSE;

  g_mutex_lock (&self->lock);
  open = !self->closed;
  /* Who has read all is not slow, however much comes at once. */
  too_slow = open && self->n_queued > 0
             && self->n_queued + g_bytes_get_size (bytes) > KW_MAX_STREAM_BYTES;
  if (too_slow)
    self->closed = TRUE;
  else if (open)
    {
      g_queue_push_tail (&self->queue, g_bytes_ref (bytes));
      self->n_queued += g_bytes_get_size (bytes);
      resume (self);
    }
  g_mutex_unlock (&self->lock);
  if (too_slow)
    kw_http_request_cut (self->request);
  return open && !too_slow;
}

/**
 * kw_http_stream_close:
 * @self: a stream
 *
 * Ends it after what was added. Any thread.
 */
void
kw_http_stream_close (KwHttpStream *self)
{
  g_mutex_lock (&self->lock);
  self->closed = TRUE;
  resume (self);
  g_mutex_unlock (&self->lock);
}
