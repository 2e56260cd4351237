/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-api"

#include "config.h"

#include "kw-api-private.h"

#include "kw-log.h"

#include <json-glib/json-glib.h>
#include <math.h>
#include <string.h>

/*
 * What there is, as JSON: written by the main context when something changed, and given out by the threads of the server as
 * it is. Whoever listens to events gets each document that is another than before.
 */

#define DOCUMENT_STATUS "status"
#define DOCUMENT_DEVICES "devices"
#define DOCUMENT_KEYS "keys"
#define DOCUMENT_NEWS "news"
#define DEVICE_PREFIX "device/"

static void
add_string (JsonBuilder *builder, const char *name, const char *text)
{
  json_builder_set_member_name (builder, name);
  if (text != NULL)
    json_builder_add_string_value (builder, text);
  else
    json_builder_add_null_value (builder);
}

static void
add_number (JsonBuilder *builder, const char *name, gint64 number)
{
  json_builder_set_member_name (builder, name);
  json_builder_add_int_value (builder, number);
}

static void
add_boolean (JsonBuilder *builder, const char *name, gboolean value)
{
  json_builder_set_member_name (builder, name);
  json_builder_add_boolean_value (builder, value);
}

/* Three digits say enough. */
static void
add_milliseconds (JsonBuilder *builder, const char *name, gint64 usec)
{
  double msec = (double) usec / 1000.0;

  json_builder_set_member_name (builder, name);
  json_builder_add_double_value (builder,
                                 msec < 10.0 ? round (msec * 100.0) / 100.0 : round (msec));
}

static void
add_time (JsonBuilder *builder, const char *name, gint64 usec)
{
  g_autoptr (GDateTime) time = g_date_time_new_from_unix_utc (usec / G_USEC_PER_SEC);
  g_autofree char *text = time != NULL ? g_date_time_format (time, "%Y-%m-%dT%H:%M:%SZ") : NULL;

  add_string (builder, name, text);
}

static GBytes *
end_document (JsonBuilder *builder)
{
  g_autoptr (JsonNode) root = json_builder_get_root (builder);
  char *text = json_to_string (root, FALSE);

  return g_bytes_new_take (text, strlen (text));
}

/* --- one document each --- */

static GBytes *
render_status (KwApi *self)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (kw_service_get_keyring (self->service));
  const KwKeyFacts *first = kw_key_matrix_get_first_key (matrix);

  json_builder_begin_object (builder);
  add_string (builder, "version", KW_VERSION);
  add_string (builder, "state", kw_health_state_to_string (kw_health_get_state (self->health)));
  add_string (builder, "text", kw_health_get_text (self->health));
  add_boolean (builder, "operational", kw_health_is_operational (self->health));
  add_boolean (builder, "consistent", kw_health_is_consistent (self->health));
  add_number (builder, "devices", kw_health_get_n_devices (self->health));
  add_number (builder, "ready_devices", kw_health_get_n_ready (self->health));
  json_builder_set_member_name (builder, "key_ids");
  json_builder_begin_array (builder);
  for (guint i = 0; i < kw_key_matrix_get_n_keys (matrix); i++)
    {
      if (kw_key_matrix_get_key (matrix, i)->configured)
        json_builder_add_string_value (builder, kw_key_matrix_get_key (matrix, i)->id);
    }
  json_builder_end_array (builder);
  add_string (builder, "encrypt_key", first != NULL && first->may_encrypt ? first->id : NULL);
  json_builder_end_object (builder);
  return end_document (builder);
}

static void
add_device_keys (JsonBuilder *builder, KwKeyMatrix *matrix, guint64 number)
{
  json_builder_set_member_name (builder, "keys");
  json_builder_begin_array (builder);
  for (guint j = 0; j < kw_key_matrix_get_n_devices (matrix); j++)
    {
      if (kw_key_matrix_get_device (matrix, j)->number != number)
        continue;
      for (guint i = 0; i < kw_key_matrix_get_n_keys (matrix); i++)
        {
          KwKeyState state = kw_key_matrix_get_cell (matrix, i, j)->state;

          if (state == KW_KEY_STATE_OK || state == KW_KEY_STATE_WEAK)
            json_builder_add_string_value (builder, kw_key_matrix_get_key (matrix, i)->id);
        }
    }
  json_builder_end_array (builder);
}

static void
add_device (JsonBuilder *builder, KwKeyMatrix *matrix, KwDevice *device)
{
  const KwTokenInfo *info = kw_token_get_info (kw_device_get_token (device));
  KwDeviceFigures figures;

  kw_device_get_figures (device, &figures);
  json_builder_begin_object (builder);
  add_string (builder, "serial", kw_device_get_name (device));
  add_string (builder, "label", info->label);
  add_string (builder, "model", info->model);
  add_string (builder, "manufacturer", info->manufacturer);
  add_string (builder, "reader", info->reader);
  add_string (builder, "firmware", info->firmware);
  add_string (builder, "options", info->options);
  add_string (builder, "state", kw_device_state_to_string (kw_device_get_state (device)));
  add_string (builder, "text", kw_device_get_state_text (device));
  add_time (builder, "since", kw_device_get_state_since (device));
  add_number (builder, "pin_tries_left", kw_device_get_pin_tries_left (device));
  add_number (builder, "so_pin_tries_left", info->so_pin_tries_left);
  add_string (builder, "dkek_check_value", info->dkek_check_value);
  add_number (builder, "dkek_shares", info->dkek_shares);
  add_number (builder, "dkek_shares_missing", info->dkek_shares_missing);
  add_device_keys (builder, matrix, kw_device_get_number (device));
  add_number (builder, "jobs", (gint64) figures.n_jobs);
  add_number (builder, "errors", (gint64) figures.n_errors);
  add_number (builder, "failovers", (gint64) figures.n_failovers);
  add_number (builder, "logins", figures.n_logins);
  add_number (builder, "outstanding", figures.n_outstanding);
  add_milliseconds (builder, "median_milliseconds", figures.p50_usec);
  add_milliseconds (builder, "p99_milliseconds", figures.p99_usec);
  json_builder_end_object (builder);
}

static GBytes *
render_devices (KwApi *self, GPtrArray *devices, GHashTable *out_seen)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (kw_service_get_keyring (self->service));
  g_autoptr (JsonBuilder) builder = json_builder_new ();

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "devices");
  json_builder_begin_array (builder);
  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);
      g_autoptr (JsonBuilder) alone = json_builder_new ();
      char *name = g_strconcat (DEVICE_PREFIX, kw_device_get_name (device), NULL);

      add_device (builder, matrix, device);
      add_device (alone, matrix, device);
      g_hash_table_replace (out_seen, name, end_document (alone));
    }
  json_builder_end_array (builder);
  json_builder_end_object (builder);
  return end_document (builder);
}

static void
add_key (JsonBuilder *builder, KwKeyMatrix *matrix, guint row)
{
  const KwKeyFacts *facts = kw_key_matrix_get_key (matrix, row);

  json_builder_begin_object (builder);
  add_string (builder, "id", facts->id);
  add_string (builder, "kind", kw_key_kind_to_string (facts->kind));
  add_string (builder, "label", facts->label);
  add_string (builder, "fingerprint", facts->fingerprint);
  add_boolean (builder, "configured", facts->configured);
  add_boolean (builder, "first", facts->is_first);
  add_boolean (builder, "encrypts", facts->is_first && facts->may_encrypt);
  add_number (builder, "copies", facts->n_copies);
  add_string (builder, "state", kw_key_state_to_string (facts->state));
  add_string (builder, "advice", facts->advice);
  json_builder_set_member_name (builder, "devices");
  json_builder_begin_array (builder);
  for (guint j = 0; j < kw_key_matrix_get_n_devices (matrix); j++)
    {
      const KwMatrixCell *cell = kw_key_matrix_get_cell (matrix, row, j);

      json_builder_begin_object (builder);
      add_string (builder, "serial", kw_key_matrix_get_device (matrix, j)->name);
      add_string (builder, "state", kw_key_state_to_string (cell->state));
      add_string (builder, "advice", cell->advice);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
  json_builder_end_object (builder);
}

static GBytes *
render_keys (KwApi *self)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (kw_service_get_keyring (self->service));
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  guint n_keys = MIN (kw_key_matrix_get_n_keys (matrix), KW_API_MAX_KEYS);

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "keys");
  json_builder_begin_array (builder);
  for (guint i = 0; i < n_keys; i++)
    add_key (builder, matrix, i);
  json_builder_end_array (builder);
  add_number (builder, "omitted", kw_key_matrix_get_n_keys (matrix) - n_keys);
  json_builder_end_object (builder);
  return end_document (builder);
}

/* --- what devices did --- */

static void
add_news (KwApi *self, const char *serial, const char *state, const char *text)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  GBytes *item = NULL;

  json_builder_begin_object (builder);
  add_number (builder, "number", ++self->n_news);
  add_time (builder, "time", g_get_real_time ());
  add_string (builder, "serial", serial);
  add_string (builder, "state", state);
  add_string (builder, "text", text);
  json_builder_end_object (builder);
  item = end_document (builder);
  g_queue_push_tail (&self->news, item);
  if (self->news.length > KW_API_MAX_NEWS)
    g_bytes_unref (g_queue_pop_head (&self->news));
}

static GBytes *
render_news (KwApi *self)
{
  GString *json = g_string_new ("{\"news\":[");

  for (GList *link = self->news.head; link != NULL; link = link->next)
    {
      gsize size = 0;
      const char *item = g_bytes_get_data (link->data, &size);

      if (link != self->news.head)
        g_string_append_c (json, ',');
      g_string_append_len (json, item, (gssize) size);
    }
  g_string_append (json, "]}");
  return g_string_free_to_bytes (json);
}

static void
follow_states (KwApi *self, GPtrArray *devices)
{
  g_autoptr (GHashTable) old = g_steal_pointer (&self->states);
  GHashTableIter iter;
  gpointer key = NULL;

  self->states = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);
      const char *name = kw_device_get_name (device);
      const char *state = kw_device_state_to_string (kw_device_get_state (device));
      const char *before = g_hash_table_lookup (old, name);

      if (before == NULL || !g_str_equal (before, state))
        add_news (self, name, state, kw_device_get_state_text (device));
      g_hash_table_insert (self->states, g_strdup (name), (gpointer) state);
      g_hash_table_remove (old, name);
    }
  g_hash_table_iter_init (&iter, old);
  while (g_hash_table_iter_next (&iter, &key, NULL))
    add_news (self, key, kw_device_state_to_string (KW_DEVICE_GONE), NULL);
}

/* --- keeping and giving --- */

/* Takes the document. Main context. */
void
kw_api_set_document (KwApi *self, const char *name, GBytes *json)
{
  g_autoptr (GBytes) document = json;
  const GBytes *before = NULL;
  gboolean changed = FALSE;

  g_mutex_lock (&self->lock);
  before = g_hash_table_lookup (self->documents, name);
  changed = before == NULL || !g_bytes_equal (before, document);
  if (changed)
    g_hash_table_replace (self->documents, g_strdup (name), g_bytes_ref (document));
  g_mutex_unlock (&self->lock);
  if (changed)
    kw_api_tell (self, name, document);
}

static gboolean
is_unseen_device (gpointer key, gpointer value G_GNUC_UNUSED, gpointer user_data)
{
  return g_str_has_prefix (key, DEVICE_PREFIX) && !g_hash_table_contains (user_data, key);
}

static void
set_device_documents (KwApi *self, GHashTable *seen)
{
  GHashTableIter iter;
  gpointer key = NULL;
  gpointer value = NULL;

  g_mutex_lock (&self->lock);
  g_hash_table_foreach_remove (self->documents, is_unseen_device, seen);
  g_hash_table_iter_init (&iter, seen);
  while (g_hash_table_iter_next (&iter, &key, &value))
    g_hash_table_replace (self->documents, g_strdup (key), g_bytes_ref (value));
  g_mutex_unlock (&self->lock);
}

static gint
compare_names (gconstpointer a, gconstpointer b)
{
  return strcmp (kw_device_get_name (*(KwDevice *const *) a),
                 kw_device_get_name (*(KwDevice *const *) b));
}

/* Writes what is counted all the time anew. Main context. */
void
kw_api_render_figures (KwApi *self)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (kw_service_get_pool (self->service));
  g_autoptr (GHashTable) seen
      = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, (GDestroyNotify) g_bytes_unref);
  GBytes *device_list = NULL;

  /* In one order, whichever was plugged in last. */
  g_ptr_array_sort (devices, compare_names);
  device_list = render_devices (self, devices, seen);
  follow_states (self, devices);
  set_device_documents (self, seen);
  kw_api_set_document (self, DOCUMENT_DEVICES, device_list);
}

/* Writes all documents anew. Main context. */
void
kw_api_render (KwApi *self)
{
  kw_api_render_figures (self);
  kw_api_set_document (self, DOCUMENT_KEYS, render_keys (self));
  kw_api_set_document (self, DOCUMENT_STATUS, render_status (self));
  kw_api_set_document (self, DOCUMENT_NEWS, render_news (self));
}

/* Any thread. */
GBytes *
kw_api_dup_document (KwApi *self, const char *name)
{
  GBytes *document = NULL;

  g_mutex_lock (&self->lock);
  document = g_hash_table_lookup (self->documents, name);
  if (document != NULL)
    g_bytes_ref (document);
  g_mutex_unlock (&self->lock);
  return document;
}

static void
respond_with (KwHttpRequest *request, gpointer user_data, const char *name)
{
  const KwApiBinding *binding = user_data;
  g_autoptr (GBytes) document = kw_api_dup_document (binding->api, name);

  kw_api_respond_json (request, KW_STATUS_OK, document);
}

static void
handle_status (KwHttpRequest *request, gpointer user_data)
{
  respond_with (request, user_data, DOCUMENT_STATUS);
}

static void
handle_devices (KwHttpRequest *request, gpointer user_data)
{
  respond_with (request, user_data, DOCUMENT_DEVICES);
}

static void
handle_device (KwHttpRequest *request, gpointer user_data)
{
  const KwApiBinding *binding = user_data;
  const char *serial = kw_http_request_get_argument (request);
  g_autofree char *name = g_strconcat (DEVICE_PREFIX, serial, NULL);
  g_autoptr (GBytes) document = kw_api_dup_document (binding->api, name);

  if (document != NULL)
    kw_api_respond_json (request, KW_STATUS_OK, document);
  else
    kw_api_respond_problem (request, KW_STATUS_NOT_FOUND,
                            kw_error_to_string (KW_ERROR_TOKEN_NOT_FOUND),
                            "No device with this serial number is plugged in");
}

static void
handle_keys (KwHttpRequest *request, gpointer user_data)
{
  respond_with (request, user_data, DOCUMENT_KEYS);
}

static void
handle_news (KwHttpRequest *request, gpointer user_data)
{
  respond_with (request, user_data, DOCUMENT_NEWS);
}

const KwApiRoute kw_api_state_routes[] = {
  { "GET", "/api/v1/status", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_status },
  { "GET", "/api/v1/devices", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_devices },
  { "GET", "/api/v1/devices/*", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_device },
  { "GET", "/api/v1/keys", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_keys },
  { "GET", "/api/v1/news", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_news },
};

const guint kw_api_n_state_routes = G_N_ELEMENTS (kw_api_state_routes);
