/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-api"

#include "config.h"

#include "kw-api-private.h"

#include "kw-limits.h"

#include <openssl/crypto.h>
#include <string.h>

/*
 * Encrypt, decrypt, rewrap, random: one message or a batch of them as JSON, or one as it is (application/octet-stream).
 * Each message of a batch is a job of its own, with a result of its own; the answer is written when the last has ended, by
 * the thread that ended it.
 *
 * Large bodies are taken apart by threads kept for it, so that no connection waits for another one's base64.
 */

#define TYPE_RAW "application/octet-stream"
#define HEADER_ASSOCIATED "Keyward-Associated-Data"
#define ENVELOPE_TEXT_PREFIX "keyward:"
#define LARGE_BODY_BYTES (64 * 1024)
#define RESULT_ROOM 512 /* of JSON around a message */

typedef enum
{
  ENCRYPT,
  DECRYPT,
  REWRAP,
  RANDOM,
} Kind;

enum
{
  MEMBER_INPUT,
  MEMBER_ASSOCIATED,
  MEMBER_KEY,
  N_MEMBERS,
};

/* What an item may have; the key is for encrypting alone. */
static const KwJsonMember encrypt_members[] = {
  { "plaintext", KW_JSON_STRING, TRUE },
  { "associated_data", KW_JSON_STRING, FALSE },
  { "key", KW_JSON_STRING, FALSE },
};

static const KwJsonMember open_members[] = {
  { "ciphertext", KW_JSON_STRING, TRUE },
  { "associated_data", KW_JSON_STRING, FALSE },
};

static const KwJsonMember random_members[] = { { "size", KW_JSON_NUMBER, TRUE } };

static const KwJsonMember batch_members[] = { { "items", KW_JSON_ARRAY, TRUE } };

typedef struct _Messages Messages;

typedef struct
{
  Messages *messages; /* borrowed */
  KwJob *job;         /* owned; NULL while it runs, and when it could not begin */
  GError *error;      /* owned: why it could not begin */
} Message;

struct _Messages
{
  KwApi *api;             /* owned */
  KwHttpRequest *request; /* owned */
  Kind kind;
  gboolean is_batch;
  gboolean is_raw;
  char *associated_header; /* owned, nullable: of a message that is sent as it is */
  char *key;               /* owned, nullable: likewise */
  gboolean too_large;      /* the only message is */
  guint n_messages;
  gint n_running; /* atomic; one more while they are being begun */
  Message *list;
};

static void
messages_free (Messages *self)
{
  for (guint i = 0; i < self->n_messages; i++)
    {
      g_clear_pointer (&self->list[i].job, kw_job_unref);
      g_clear_error (&self->list[i].error);
    }
  g_free (self->list);
  g_free (self->associated_header);
  g_free (self->key);
  kw_http_request_unref (self->request);
  g_object_unref (self->api);
  g_free (self);
}

static const GError *
error_of (const Message *message)
{
  return message->error != NULL ? message->error : kw_job_get_error (message->job);
}

/* --- answers --- */

static void
add_member (KwJsonWriter *writer, const char *name, const char *text)
{
  if (text == NULL)
    return;
  kw_json_writer_add (writer, ",\"");
  kw_json_writer_add (writer, name);
  kw_json_writer_add (writer, "\":");
  kw_json_writer_add_string (writer, text);
}

static void
write_result (KwJsonWriter *writer, Kind kind, const KwJob *job)
{
  static const char *const names[]
      = { "{\"ciphertext\":", "{\"plaintext\":", "{\"ciphertext\":", "{\"bytes\":" };
  gsize size = 0;
  gconstpointer data = NULL;

  kw_json_writer_add (writer, names[kind]);
  if (kind == ENCRYPT || kind == REWRAP)
    data = g_bytes_get_data (kw_job_get_envelope (job), &size);
  else
    {
      data = kw_secret_get_data (kw_job_get_plaintext (job));
      size = kw_secret_get_size (kw_job_get_plaintext (job));
    }
  kw_json_writer_add_base64 (writer, data, size);
  add_member (writer, "key", kind == RANDOM ? NULL : kw_job_get_key_name (job));
  add_member (writer, "fingerprint", kw_job_get_fingerprint (job));
  add_member (writer, "device", kw_job_get_device_name (job));
  if (kind == REWRAP)
    kw_json_writer_add (writer,
                        kw_job_get_changed (job) ? ",\"changed\":true" : ",\"changed\":false");
  kw_json_writer_add (writer, "}");
}

static gsize
expected_size (const Messages *self)
{
  gsize size = RESULT_ROOM;

  for (guint i = 0; i < self->n_messages; i++)
    {
      const KwJob *job = self->list[i].job;

      size += RESULT_ROOM;
      if (job == NULL || kw_job_get_error (job) != NULL)
        continue;
      if (kw_job_get_envelope (job) != NULL)
        size += g_bytes_get_size (kw_job_get_envelope (job)) / 3 * 4;
      if (kw_job_get_plaintext (job) != NULL)
        size += kw_secret_get_size (kw_job_get_plaintext (job)) / 3 * 4;
    }
  return size;
}

static void
answer_batch (Messages *self)
{
  g_autoptr (KwJsonWriter) writer = kw_json_writer_new (expected_size (self));

  kw_json_writer_add (writer, "{\"results\":[");
  for (guint i = 0; i < self->n_messages; i++)
    {
      if (i > 0)
        kw_json_writer_add (writer, ",");
      if (error_of (&self->list[i]) != NULL)
        {
          kw_json_writer_add (writer, "{\"error\":");
          kw_api_write_error (writer, error_of (&self->list[i]));
          kw_json_writer_add (writer, "}");
        }
      else
        write_result (writer, self->kind, self->list[i].job);
    }
  kw_json_writer_add (writer, "]}");
  kw_api_respond_document (self->request, writer, KW_STATUS_OK);
}

static void
answer_raw (Messages *self, const KwJob *job)
{
  KwHttpHeader headers[5] = { { NULL, NULL } };
  KwHttpResponse response
      = { .status = KW_STATUS_OK, .content_type = TYPE_RAW, .headers = headers };
  guint n = 0;

  if (self->kind == ENCRYPT || self->kind == REWRAP)
    response.body = kw_job_get_envelope (job);
  else
    response.secret = kw_job_get_plaintext (job);
  if (self->kind != RANDOM && kw_job_get_key_name (job) != NULL)
    headers[n++] = (KwHttpHeader){ "Keyward-Key", kw_job_get_key_name (job) };
  if (kw_job_get_fingerprint (job) != NULL)
    headers[n++] = (KwHttpHeader){ "Keyward-Fingerprint", kw_job_get_fingerprint (job) };
  if (kw_job_get_device_name (job) != NULL)
    headers[n++] = (KwHttpHeader){ "Keyward-Device", kw_job_get_device_name (job) };
  if (self->kind == REWRAP)
    headers[n++] = (KwHttpHeader){ "Keyward-Changed", kw_job_get_changed (job) ? "true" : "false" };
  headers[n] = (KwHttpHeader){ NULL, NULL };
  kw_http_request_respond (self->request, &response);
}

static void
respond_refusal (Messages *self, const GError *error)
{
  if (self->too_large)
    kw_api_respond_problem (self->request, KW_STATUS_TOO_LARGE,
                            kw_error_to_string (KW_ERROR_INVALID_ARGUMENT), error->message);
  else
    kw_api_respond_error (self->request, error);
}

static void
answer (Messages *self)
{
  const KwJob *job = self->list[0].job;

  if (self->is_batch)
    answer_batch (self);
  else if (error_of (&self->list[0]) != NULL)
    respond_refusal (self, error_of (&self->list[0]));
  else if (self->is_raw)
    answer_raw (self, job);
  else
    {
      g_autoptr (KwJsonWriter) writer = kw_json_writer_new (expected_size (self));

      write_result (writer, self->kind, job);
      kw_api_respond_document (self->request, writer, KW_STATUS_OK);
    }
}

/* One less is running; whoever ends the last one answers. */
static void
end_one (Messages *self)
{
  if (!g_atomic_int_dec_and_test (&self->n_running))
    return;
  answer (self);
  messages_free (self);
}

/* Any thread. */
static void
on_job_done (KwJob *job, gpointer user_data)
{
  Message *message = user_data;

  message->job = kw_job_ref (job);
  end_one (message->messages);
}

/* --- requests --- */

static void
begin_job (Message *message, KwJob *job)
{
  kw_job_set_callback (job, on_job_done, message);
  g_atomic_int_inc (&message->messages->n_running);
  kw_service_submit (message->messages->api->service, job);
}

static GBytes *
secret_to_bytes (KwSecret *secret)
{
  return g_bytes_new_with_free_func (kw_secret_get_data (secret), kw_secret_get_size (secret),
                                     (GDestroyNotify) kw_secret_unref, kw_secret_ref (secret));
}

static gboolean
decode_associated (const KwJsonValue *value, GBytes **out_data, GError **error)
{
  g_autoptr (KwSecret) decoded = NULL;

  *out_data = NULL;
  if (value->text == NULL)
    return TRUE;
  decoded = kw_json_decode_base64 (value, open_members[MEMBER_ASSOCIATED].name,
                                   KW_MAX_ASSOCIATED_BYTES, error);
  if (decoded != NULL)
    *out_data = g_bytes_new (kw_secret_get_data (decoded), kw_secret_get_size (decoded));
  return decoded != NULL;
}

/* More than may be encrypted is said by the status too. */
static void
set_too_large (Messages *self, GError **error)
{
  self->too_large = TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
               "The plaintext has more bytes than max_plaintext allows, which is %" G_GSIZE_FORMAT,
               kw_config_get_hsm (self->api->config)->max_plaintext);
}

static KwJob *
new_job (Messages *self, KwSecret *input, GBytes *associated, const char *key)
{
  KwCaller *caller = kw_api_get_caller (self->request);
  g_autoptr (GBytes) envelope = self->kind != ENCRYPT ? secret_to_bytes (input) : NULL;
  KwJob *job = NULL;

  switch (self->kind)
    {
    case ENCRYPT:
      job = kw_job_new_encrypt (caller, input, associated);
      if (key != NULL)
        kw_job_set_key_name (job, key);
      return job;
    case DECRYPT:
      return kw_job_new_decrypt (caller, envelope, associated);
    case REWRAP:
    case RANDOM:
    default:
      return kw_job_new_rewrap (caller, envelope, associated);
    }
}

/* An envelope may be given as the text that other doors print; any other string is base64. */
static KwSecret *
read_input (Messages *self, const KwJsonValue *value, GError **error)
{
  gsize max = kw_config_get_hsm (self->api->config)->max_plaintext;
  gsize n_prefix = strlen (ENVELOPE_TEXT_PREFIX);

  if (self->kind == ENCRYPT && value->size / 4 * 3 > max + KW_API_JSON_ROOM)
    {
      set_too_large (self, error);
      return NULL;
    }
  if (self->kind == ENCRYPT)
    {
      g_autoptr (KwSecret) plaintext
          = kw_json_decode_base64 (value, encrypt_members[MEMBER_INPUT].name,
                                   max + KW_API_JSON_ROOM, error);

      if (plaintext == NULL || kw_secret_get_size (plaintext) <= max)
        return g_steal_pointer (&plaintext);
      set_too_large (self, error);
      return NULL;
    }
  if (value->size > n_prefix + 2 && strncmp (value->text + 1, ENVELOPE_TEXT_PREFIX, n_prefix) == 0)
    return kw_json_dup_secret (value, open_members[MEMBER_INPUT].name, error);
  return kw_json_decode_base64 (value, open_members[MEMBER_INPUT].name, max + KW_API_JSON_ROOM,
                                error);
}

static KwJob *
read_random (Messages *self, const KwJsonValue *item, GError **error)
{
  KwJsonValue value;
  guint64 size = 0;

  if (!kw_json_read_object (item, random_members, G_N_ELEMENTS (random_members), &value, error)
      || !kw_json_get_unsigned (&value, random_members[0].name, KW_MAX_RANDOM_BYTES, &size, error))
    return NULL;
  return kw_job_new_random (kw_api_get_caller (self->request), (gsize) size);
}

static KwJob *
read_item (Messages *self, const KwJsonValue *item, GError **error)
{
  KwJsonValue values[N_MEMBERS] = { 0 };
  g_autoptr (KwSecret) input = NULL;
  g_autoptr (GBytes) associated = NULL;
  g_autofree char *key = NULL;

  if (self->kind == RANDOM)
    return read_random (self, item, error);
  if (!kw_json_read_object (item, self->kind == ENCRYPT ? encrypt_members : open_members,
                            self->kind == ENCRYPT ? G_N_ELEMENTS (encrypt_members)
                                                  : G_N_ELEMENTS (open_members),
                            values, error)
      || !decode_associated (&values[MEMBER_ASSOCIATED], &associated, error))
    return NULL;
  if (values[MEMBER_KEY].text != NULL)
    {
      key = kw_json_dup_string (&values[MEMBER_KEY], encrypt_members[MEMBER_KEY].name,
                                KW_MAX_KEY_LABEL_BYTES, error);
      if (key == NULL)
        return NULL;
    }
  input = read_input (self, &values[MEMBER_INPUT], error);
  return input != NULL ? new_job (self, input, associated, key) : NULL;
}

static void
begin_item (Message *message, const KwJsonValue *item)
{
  KwJob *job = read_item (message->messages, item, &message->error);

  if (job != NULL)
    begin_job (message, job);
}

static guint
count_items (const KwJsonValue *array)
{
  KwJsonValue item;
  gsize position = 0;
  guint n = 0;

  while (n <= KW_MAX_BATCH && kw_json_next (array, &position, &item))
    n++;
  return n;
}

static gboolean
begin_batch (Messages *self, const KwJsonValue *items, GError **error)
{
  KwJsonValue item;
  gsize position = 0;
  guint n = count_items (items);

  if (n == 0 || n > KW_MAX_BATCH)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "A batch has from 1 to %d items",
                   KW_MAX_BATCH);
      return FALSE;
    }
  self->is_batch = TRUE;
  self->n_messages = n;
  self->list = g_new0 (Message, n);
  for (guint i = 0; i < n; i++)
    {
      self->list[i].messages = self;
      (void) kw_json_next (items, &position, &item);
      begin_item (&self->list[i], &item);
    }
  return TRUE;
}

static void
init_one (Messages *self)
{
  self->n_messages = 1;
  self->list = g_new0 (Message, 1);
  self->list[0].messages = self;
}

static gboolean
begin_json (Messages *self, KwSecret *body, GError **error)
{
  KwJsonValue root;
  KwJsonValue items;

  if (body == NULL)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                           "The body is empty: a JSON object is wanted");
      return FALSE;
    }
  if (!kw_json_check ((const char *) kw_secret_get_data (body), kw_secret_get_size (body), &root,
                      error))
    return FALSE;
  if (kw_json_has_member (&root, batch_members[0].name))
    return kw_json_read_object (&root, batch_members, G_N_ELEMENTS (batch_members), &items, error)
           && begin_batch (self, &items, error);
  init_one (self);
  begin_item (&self->list[0], &root);
  return TRUE;
}

/* Associated data of a message that is sent as it is. */
static gboolean
read_header (Messages *self, GBytes **out_data, GError **error)
{
  g_autofree char *quoted = self->associated_header != NULL
                                ? g_strdup_printf ("\"%s\"", self->associated_header)
                                : NULL;
  KwJsonValue value = { KW_JSON_STRING, quoted, quoted != NULL ? strlen (quoted) : 0 };

  if (decode_associated (&value, out_data, error))
    return TRUE;
  g_prefix_error (error, "%s: ", HEADER_ASSOCIATED);
  return FALSE;
}

static gboolean
begin_raw (Messages *self, KwSecret *body, GError **error)
{
  g_autoptr (GBytes) associated = NULL;
  g_autoptr (KwSecret) empty = NULL;

  if (self->kind == RANDOM)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                           "Random numbers are asked for in JSON: {\"size\": 32}");
      return FALSE;
    }
  if (self->kind == ENCRYPT && body != NULL
      && kw_secret_get_size (body) > kw_config_get_hsm (self->api->config)->max_plaintext)
    {
      set_too_large (self, error);
      return FALSE;
    }
  if (!read_header (self, &associated, error))
    return FALSE;
  if (body == NULL)
    {
      empty = kw_secret_new (0, error);
      body = empty;
    }
  if (body == NULL)
    return FALSE;
  init_one (self);
  begin_job (&self->list[0], new_job (self, body, associated, self->key));
  return TRUE;
}

static void
begin (Messages *self)
{
  KwSecret *body = kw_http_request_get_secret_body (self->request);
  g_autoptr (GError) error = NULL;
  gboolean begun = FALSE;

  if (self->is_raw)
    begun = begin_raw (self, body, &error);
  else
    begun = begin_json (self, body, &error);
  if (begun)
    {
      end_one (self);
      return;
    }
  respond_refusal (self, error);
  messages_free (self);
}

/* On a thread for large messages. */
void
kw_api_run_large (gpointer data, gpointer user_data G_GNUC_UNUSED)
{
  begin (data);
}

/* Headers and query are the connection's, which may be gone when another thread comes to it. */
static void
read_headers (Messages *self)
{
  const char *type = kw_http_request_get_header (self->request, "Content-Type");

  self->is_raw = type != NULL && g_ascii_strncasecmp (type, TYPE_RAW, strlen (TYPE_RAW)) == 0;
  if (!self->is_raw)
    return;
  self->associated_header
      = g_strdup (kw_http_request_get_header (self->request, HEADER_ASSOCIATED));
  self->key = g_strdup (kw_http_request_get_query (self->request, "key"));
}

static void
handle (KwHttpRequest *request, gpointer user_data, Kind kind)
{
  const KwApiBinding *binding = user_data;
  KwSecret *body = kw_http_request_get_secret_body (request);
  Messages *self = g_new0 (Messages, 1);

  self->api = g_object_ref (binding->api);
  self->request = kw_http_request_ref (request);
  self->kind = kind;
  self->n_running = 1;
  read_headers (self);
  if (body != NULL && kw_secret_get_size (body) > LARGE_BODY_BYTES)
    g_thread_pool_push (self->api->threads, self, NULL);
  else
    begin (self);
}

static void
handle_encrypt (KwHttpRequest *request, gpointer user_data)
{
  handle (request, user_data, ENCRYPT);
}

static void
handle_decrypt (KwHttpRequest *request, gpointer user_data)
{
  handle (request, user_data, DECRYPT);
}

static void
handle_rewrap (KwHttpRequest *request, gpointer user_data)
{
  handle (request, user_data, REWRAP);
}

static void
handle_random (KwHttpRequest *request, gpointer user_data)
{
  handle (request, user_data, RANDOM);
}

const KwApiRoute kw_api_message_routes[] = {
  { "POST", "/api/v1/encrypt", KW_API_ACT, KW_VERB_CLASS_USE_KEYS, KW_API_MESSAGE_BODY,
    handle_encrypt },
  { "POST", "/api/v1/decrypt", KW_API_ACT, KW_VERB_CLASS_USE_KEYS, KW_API_MESSAGE_BODY,
    handle_decrypt },
  { "POST", "/api/v1/rewrap", KW_API_ACT, KW_VERB_CLASS_USE_KEYS, KW_API_MESSAGE_BODY,
    handle_rewrap },
  { "POST", "/api/v1/random", KW_API_ACT, KW_VERB_CLASS_USE_KEYS, KW_API_MAX_SMALL_BODY,
    handle_random },
};

const guint kw_api_n_message_routes = G_N_ELEMENTS (kw_api_message_routes);
