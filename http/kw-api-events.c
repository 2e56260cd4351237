/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-api"

#include "config.h"

#include "kw-api-private.h"

#include "kw-limits.h"

#include <string.h>

/*
 * Server-sent events (WHATWG HTML, 9.2): each document when it is another than before, and a beat now and then, by which
 * both sides notice that the other one has gone. Who begins to listen gets all documents as they are.
 *
 * Whoever does not read fast enough is cut off by his stream, and comes again.
 */

#define RETRY_MSEC 1000

/* What a new listener is told first. */
static const char *const first_documents[] = { "status", "devices", "keys", "news", "job" };

static void
append_event (GString *text, const char *event, GBytes *json)
{
  gsize size = 0;
  const char *data = g_bytes_get_data (json, &size);

  /* JSON as we write it has no line breaks. */
  g_string_append_printf (text, "event: %s\ndata: ", event);
  g_string_append_len (text, data, (gssize) size);
  g_string_append (text, "\n\n");
}

static void
send_to_all (KwApi *self, GBytes *bytes)
{
  g_autoptr (GPtrArray) listeners
      = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_http_stream_unref);

  g_mutex_lock (&self->lock);
  for (guint i = 0; i < self->listeners->len; i++)
    g_ptr_array_add (listeners, kw_http_stream_ref (g_ptr_array_index (self->listeners, i)));
  g_mutex_unlock (&self->lock);
  for (guint i = 0; i < listeners->len; i++)
    {
      KwHttpStream *stream = g_ptr_array_index (listeners, i);

      if (kw_http_stream_push (stream, bytes))
        continue;
      g_mutex_lock (&self->lock);
      g_ptr_array_remove_fast (self->listeners, stream);
      g_mutex_unlock (&self->lock);
    }
}

/* Main context. */
void
kw_api_tell (KwApi *self, const char *event, GBytes *json)
{
  GString *text = g_string_new (NULL);
  g_autoptr (GBytes) bytes = NULL;

  append_event (text, event, json);
  bytes = g_string_free_to_bytes (text);
  send_to_all (self, bytes);
}

/* Main context. */
void
kw_api_beat (KwApi *self)
{
  static const char beat[] = "event: beat\ndata: {}\n\n";
  g_autoptr (GBytes) bytes = g_bytes_new_static (beat, strlen (beat));

  send_to_all (self, bytes);
}

static GBytes *
dup_first_event (KwApi *self)
{
  GString *text = g_string_new (NULL);

  g_string_append_printf (text, "retry: %d\n\n", RETRY_MSEC);
  for (guint i = 0; i < G_N_ELEMENTS (first_documents); i++)
    {
      g_autoptr (GBytes) document = kw_api_dup_document (self, first_documents[i]);

      if (document != NULL)
        append_event (text, first_documents[i], document);
    }
  return g_string_free_to_bytes (text);
}

static gboolean
there_is_room (KwApi *self)
{
  gboolean room = FALSE;

  g_mutex_lock (&self->lock);
  room = self->listeners->len < KW_MAX_EVENT_LISTENERS;
  g_mutex_unlock (&self->lock);
  return room;
}

static void
handle_events (KwHttpRequest *request, gpointer user_data)
{
  const KwApiBinding *binding = user_data;
  static const KwHttpHeader headers[] = { { "X-Accel-Buffering", "no" }, { NULL, NULL } };
  const KwHttpResponse response
      = { .status = KW_STATUS_OK, .content_type = "text/event-stream", .headers = headers };
  g_autoptr (KwHttpStream) stream = NULL;
  g_autoptr (GBytes) first = NULL;

  if (kw_http_request_is_head (request))
    {
      kw_http_request_respond (request, &response);
      return;
    }
  if (!there_is_room (binding->api))
    {
      kw_api_respond_problem (request, KW_STATUS_SERVICE_UNAVAILABLE, "too-many-listeners",
                              "Too many listen to events already; try again later");
      return;
    }
  stream = kw_http_stream_new (request, &response);
  if (stream == NULL)
    return;
  /* What changes in between is told twice rather than not at all. */
  g_mutex_lock (&binding->api->lock);
  g_ptr_array_add (binding->api->listeners, kw_http_stream_ref (stream));
  g_mutex_unlock (&binding->api->lock);
  first = dup_first_event (binding->api);
  (void) kw_http_stream_push (stream, first);
}

const KwApiRoute kw_api_event_routes[] = {
  { "GET", "/api/v1/events", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_events },
};

const guint kw_api_n_event_routes = G_N_ELEMENTS (kw_api_event_routes);
