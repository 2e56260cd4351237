/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-api"

#include "config.h"

#include "kw-api-private.h"

#include "kw-limits.h"

/*
 * The JSON API, the page, health and figures: routes on the HTTP server. The threads of the server check who calls, take
 * messages apart, and give out documents that lie ready. Everything that looks at devices or keys happens in the main
 * context.
 */

#define TICK_SECONDS 1
#define TICKS_BETWEEN_BEATS 10
#define MAX_LARGE_THREADS 2

G_DEFINE_FINAL_TYPE (KwApi, kw_api, G_TYPE_OBJECT)

static const char *const body_types[]
    = { "application/json", "application/octet-stream", "application/x-www-form-urlencoded", NULL };
static const char *const json_types[] = { "application/json", NULL };

static gboolean
render_now (gpointer user_data)
{
  KwApi *self = user_data;

  self->render_id = 0;
  kw_api_render (self);
  return G_SOURCE_REMOVE;
}

static void
render_soon (KwApi *self)
{
  if (self->render_id == 0)
    self->render_id = g_idle_add (render_now, self);
}

static void
on_reloaded (KwService *service, KwApi *self)
{
  kw_web_sessions_reconsider (self->sessions, service);
}

static gboolean
on_tick (gpointer user_data)
{
  KwApi *self = user_data;

  g_mutex_lock (&self->lock);
  self->alive = g_get_monotonic_time ();
  g_mutex_unlock (&self->lock);
  kw_api_render_figures (self);
  if (++self->n_ticks % TICKS_BETWEEN_BEATS == 0)
    kw_api_beat (self);
  return G_SOURCE_CONTINUE;
}

static void
add_routes (KwApi *self, KwHttpServer *http, const KwApiRoute *routes, guint n_routes)
{
  /* JSON needs four bytes for three, and a batch some room around each. */
  gsize max_message
      = kw_config_get_hsm (self->config)->max_plaintext / 3 * 4 + 2 * KW_API_JSON_ROOM;

  for (guint i = 0; i < n_routes; i++)
    {
      KwApiBinding *binding = g_new0 (KwApiBinding, 1);
      gboolean message = routes[i].max_body == KW_API_MESSAGE_BODY;
      const KwHttpRoute route = {
        .method = routes[i].method,
        .path = routes[i].path,
        .max_body = message ? max_message : routes[i].max_body,
        .content_types = message ? body_types : json_types,
        .secret_body = TRUE,
        .check = kw_api_check,
        .handle = routes[i].handle,
        .user_data = binding,
      };

      binding->api = self;
      binding->route = &routes[i];
      g_ptr_array_add (self->bindings, binding);
      kw_http_server_add_route (http, &route);
    }
}

typedef struct
{
  KwApi *api;
  KwHttpRequest *request;
  KwApiFunc func;
} Call;

static gboolean
run_call (gpointer user_data)
{
  Call *call = user_data;

  call->func (call->api, call->request);
  return G_SOURCE_REMOVE;
}

static void
call_free (gpointer data)
{
  Call *call = data;

  kw_http_request_unref (call->request);
  g_object_unref (call->api);
  g_free (call);
}

/* Has a request answered in the main context, when it comes round to it. Any thread. */
void
kw_api_call (KwApi *self, KwHttpRequest *request, KwApiFunc func)
{
  g_autoptr (GSource) source = g_idle_source_new ();
  Call *call = g_new0 (Call, 1);

  call->api = g_object_ref (self);
  call->request = kw_http_request_ref (request);
  call->func = func;
  /* Not g_main_context_invoke(): that would run here while nobody has the context. */
  g_source_set_priority (source, G_PRIORITY_DEFAULT);
  g_source_set_callback (source, run_call, call, call_free);
  g_source_attach (source, self->context);
}

static void
kw_api_dispose (GObject *object)
{
  kw_api_stop (KW_API (object));
  G_OBJECT_CLASS (kw_api_parent_class)->dispose (object);
}

static void
kw_api_finalize (GObject *object)
{
  KwApi *self = KW_API (object);

  g_thread_pool_free (self->threads, FALSE, FALSE);
  g_ptr_array_unref (self->bindings);
  g_ptr_array_unref (self->listeners);
  g_hash_table_unref (self->documents);
  g_hash_table_unref (self->states);
  g_queue_clear_full (&self->news, (GDestroyNotify) g_bytes_unref);
  kw_refusals_free (self->refusals);
  kw_refusals_free (self->old_cookies);
  kw_web_sessions_free (self->sessions);
  kw_verified_tokens_free (self->tokens);
  kw_tickets_unref (self->tickets);
  g_main_context_unref (self->context);
  g_object_unref (self->service);
  g_object_unref (self->config);
  g_mutex_clear (&self->lock);
  G_OBJECT_CLASS (kw_api_parent_class)->finalize (object);
}

static void
kw_api_class_init (KwApiClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  object_class->dispose = kw_api_dispose;
  object_class->finalize = kw_api_finalize;
}

static void
kw_api_init (KwApi *self)
{
  g_mutex_init (&self->lock);
  g_queue_init (&self->tests);
  g_queue_init (&self->news);
  self->bindings = g_ptr_array_new_with_free_func (g_free);
  self->listeners = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_http_stream_unref);
  self->documents
      = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, (GDestroyNotify) g_bytes_unref);
  self->states = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  self->context = g_main_context_ref_thread_default ();
  self->refusals = kw_refusals_new ();
  self->old_cookies = kw_refusals_new ();
  self->tokens = kw_verified_tokens_new ();
  self->threads = g_thread_pool_new (kw_api_run_large, NULL, MAX_LARGE_THREADS, FALSE, NULL);
  self->alive = g_get_monotonic_time ();
}

/**
 * kw_api_new:
 * @context: where it works
 *
 * Adds the routes of the API, the page, health and figures. Main context.
 *
 * Returns: (transfer full): what the routes work with; must live as long as the HTTP server
 */
KwApi *
kw_api_new (const KwDoorContext *context)
{
  KwApi *self = g_object_new (KW_TYPE_API, NULL);

  self->config = g_object_ref (context->config);
  self->service = g_object_ref (context->service);
  self->tickets = kw_tickets_ref (kw_service_get_tickets (context->service));
  self->sessions
      = kw_web_sessions_new (kw_config_get_state_directory (context->config), context->service);
  self->health = g_object_ref (kw_service_get_health (context->service));
  add_routes (self, context->http, kw_api_message_routes, kw_api_n_message_routes);
  add_routes (self, context->http, kw_api_state_routes, kw_api_n_state_routes);
  add_routes (self, context->http, kw_api_event_routes, kw_api_n_event_routes);
  add_routes (self, context->http, kw_api_admin_routes, kw_api_n_admin_routes);
  add_routes (self, context->http, kw_api_health_routes, kw_api_n_health_routes);
  add_routes (self, context->http, kw_api_page_routes, kw_api_n_page_routes);
  kw_api_render (self);
  g_signal_connect_swapped (self->health, "changed", G_CALLBACK (render_soon), self);
  g_signal_connect (self->service, "reloaded", G_CALLBACK (on_reloaded), self);
  self->tick_id = g_timeout_add_seconds (TICK_SECONDS, on_tick, self);
  return self;
}

/**
 * kw_api_stop:
 * @self: the API
 *
 * Follows nothing any more. May be called again. Main context.
 */
void
kw_api_stop (KwApi *self)
{
  g_return_if_fail (KW_IS_API (self));

  g_clear_handle_id (&self->render_id, g_source_remove);
  g_clear_handle_id (&self->tick_id, g_source_remove);
  g_queue_clear_full (&self->tests, kw_api_test_free);
  if (self->health != NULL)
    {
      g_signal_handlers_disconnect_by_data (self->service, self);
      g_signal_handlers_disconnect_by_data (self->health, self);
    }
  g_clear_object (&self->health);
}
