/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-api"

#include "config.h"

#include "kw-api-private.h"

#include <json-glib/json-glib.h>
#include <openssl/crypto.h>
#include <string.h>

/*
 * What an administrator does: test everything, let a refused PIN be presented again, say which key is right, have all keys
 * looked at; and the session of his browser. The service says who may; all of it happens in the main context.
 */

#define DOCUMENT_JOB "job"
#define RENDER_TEST_MSEC 100

static const KwJsonMember accept_members[] = { { "fingerprint", KW_JSON_STRING, FALSE } };

/* --- tests --- */

void
kw_api_test_free (gpointer data)
{
  KwApiTest *test = data;

  g_clear_handle_id (&test->render_id, g_source_remove);
  g_signal_handlers_disconnect_by_data (test->test, test);
  g_object_unref (test->test);
  g_free (test);
}

static void
add_result (JsonBuilder *builder, const KwTestResult *result)
{
  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "test");
  json_builder_add_string_value (builder, result->name);
  json_builder_set_member_name (builder, "subject");
  json_builder_add_string_value (builder, result->subject);
  json_builder_set_member_name (builder, "outcome");
  json_builder_add_string_value (builder, kw_test_outcome_to_string (result->outcome));
  json_builder_set_member_name (builder, "microseconds");
  json_builder_add_int_value (builder, result->duration_usec);
  json_builder_set_member_name (builder, "advice");
  json_builder_add_string_value (builder, result->advice != NULL ? result->advice : "");
  json_builder_end_object (builder);
}

static GBytes *
test_to_json (const KwApiTest *test)
{
  static const struct
  {
    const char *name;
    KwTestOutcome outcome;
  } counts[] = { { "passed", KW_TEST_PASSED },
                 { "failed", KW_TEST_FAILED },
                 { "skipped", KW_TEST_SKIPPED } };
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autoptr (JsonNode) root = NULL;
  g_autofree char *id = g_strdup_printf ("%u", test->number);
  GPtrArray *results = kw_self_test_get_results (test->test);
  guint n_steps = kw_self_test_get_n_steps (test->test);
  gboolean running = kw_self_test_is_running (test->test);
  char *text = NULL;

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "id");
  json_builder_add_string_value (builder, id);
  json_builder_set_member_name (builder, "state");
  json_builder_add_string_value (builder, running ? "running" : "done");
  json_builder_set_member_name (builder, "progress");
  json_builder_add_double_value (builder,
                                 running && n_steps > 0 ? (double) results->len / n_steps : 1.0);
  for (guint i = 0; i < G_N_ELEMENTS (counts); i++)
    {
      json_builder_set_member_name (builder, counts[i].name);
      json_builder_add_int_value (builder, kw_self_test_count (test->test, counts[i].outcome));
    }
  json_builder_set_member_name (builder, "results");
  json_builder_begin_array (builder);
  for (guint i = 0; i < results->len; i++)
    add_result (builder, g_ptr_array_index (results, i));
  json_builder_end_array (builder);
  json_builder_end_object (builder);
  root = json_builder_get_root (builder);
  text = json_to_string (root, FALSE);
  return g_bytes_new_take (text, strlen (text));
}

static gboolean
tell_test (gpointer user_data)
{
  KwApiTest *test = user_data;

  test->render_id = 0;
  kw_api_set_document (test->api, DOCUMENT_JOB, test_to_json (test));
  return G_SOURCE_REMOVE;
}

/* Results come by the hundred; people see ten changes a second. */
static void
tell_test_soon (KwApiTest *test)
{
  if (test->render_id == 0)
    test->render_id = g_timeout_add (RENDER_TEST_MSEC, tell_test, test);
}

static void
on_test_result (KwSelfTest *self G_GNUC_UNUSED, guint index G_GNUC_UNUSED, KwApiTest *test)
{
  tell_test_soon (test);
}

static void
on_test_done (KwSelfTest *self G_GNUC_UNUSED, KwApiTest *test)
{
  tell_test_soon (test);
}

static KwApiTest *
add_test (KwApi *self, KwSelfTest *running)
{
  KwApiTest *test = NULL;

  for (GList *link = self->tests.head; link != NULL; link = link->next)
    {
      if (((KwApiTest *) link->data)->test == running)
        return link->data;
    }
  test = g_new0 (KwApiTest, 1);
  test->number = ++self->n_tests;
  test->test = g_object_ref (running);
  test->api = self;
  g_signal_connect (running, "result", G_CALLBACK (on_test_result), test);
  g_signal_connect (running, "done", G_CALLBACK (on_test_done), test);
  g_queue_push_tail (&self->tests, test);
  if (self->tests.length > KW_API_MAX_TESTS)
    kw_api_test_free (g_queue_pop_head (&self->tests));
  (void) tell_test (test);
  return test;
}

static void
run_test (KwApi *self, KwHttpRequest *request)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSelfTest) running
      = kw_service_run_test (self->service, kw_api_get_caller (request), &error);
  g_autoptr (GBytes) json = NULL;
  g_autofree char *location = NULL;
  const KwApiTest *test = NULL;

  if (running == NULL)
    {
      kw_api_respond_error (request, error);
      return;
    }
  test = add_test (self, running);
  json = test_to_json (test);
  location = g_strdup_printf ("/api/v1/jobs/%u", test->number);
  {
    const KwHttpHeader headers[] = { { "Location", location }, { NULL, NULL } };
    const KwHttpResponse response = { .status = KW_STATUS_ACCEPTED,
                                      .content_type = "application/json",
                                      .body = json,
                                      .headers = headers };

    kw_http_request_respond (request, &response);
  }
}

static const KwApiTest *
find_test (KwApi *self, KwHttpRequest *request)
{
  guint64 number = 0;

  if (!g_ascii_string_to_unsigned (kw_http_request_get_argument (request), 10, 1, G_MAXUINT,
                                   &number, NULL))
    number = 0;
  for (GList *link = self->tests.head; link != NULL; link = link->next)
    {
      if (((KwApiTest *) link->data)->number == number)
        return link->data;
    }
  kw_api_respond_problem (request, KW_STATUS_NOT_FOUND, "job-not-found",
                          "There is no such job; the last eight are kept");
  return NULL;
}

static void
show_test (KwApi *self, KwHttpRequest *request)
{
  const KwApiTest *test = find_test (self, request);
  g_autoptr (GBytes) json = test != NULL ? test_to_json (test) : NULL;

  if (json != NULL)
    kw_api_respond_json (request, KW_STATUS_OK, json);
}

static void
cancel_test (KwApi *self, KwHttpRequest *request)
{
  const KwApiTest *test = find_test (self, request);
  g_autoptr (GBytes) json = NULL;

  if (test == NULL)
    return;
  kw_self_test_cancel (test->test);
  json = test_to_json (test);
  kw_api_respond_json (request, KW_STATUS_OK, json);
}

/* --- devices and keys --- */

static void
respond_done (KwHttpRequest *request)
{
  const KwHttpResponse response = { .status = KW_STATUS_NO_CONTENT };

  kw_http_request_respond (request, &response);
}

static void
on_retried (GObject *source, GAsyncResult *result, gpointer user_data)
{
  g_autoptr (KwHttpRequest) request = user_data;
  g_autoptr (GError) error = NULL;

  if (kw_service_retry_device_finish (KW_SERVICE (source), result, &error))
    respond_done (request);
  else
    kw_api_respond_error (request, error);
}

static void
retry_device (KwApi *self, KwHttpRequest *request)
{
  kw_service_retry_device_async (self->service, kw_api_get_caller (request),
                                 kw_http_request_get_argument (request), on_retried,
                                 kw_http_request_ref (request));
}

static void
on_accepted (GObject *source, GAsyncResult *result, gpointer user_data)
{
  g_autoptr (KwHttpRequest) request = user_data;
  g_autoptr (GError) error = NULL;

  if (kw_service_accept_key_finish (KW_SERVICE (source), result, &error))
    respond_done (request);
  else
    kw_api_respond_error (request, error);
}

/* FALSE with an error; NULL when no fingerprint was given. */
static gboolean
read_fingerprint (KwHttpRequest *request, char **out_fingerprint, GError **error)
{
  KwSecret *body = kw_http_request_get_secret_body (request);
  KwJsonValue root;
  KwJsonValue value;

  *out_fingerprint = NULL;
  if (body == NULL)
    return TRUE;
  if (!kw_json_check ((const char *) kw_secret_get_data (body), kw_secret_get_size (body), &root,
                      error)
      || !kw_json_read_object (&root, accept_members, G_N_ELEMENTS (accept_members), &value, error))
    return FALSE;
  if (value.text == NULL)
    return TRUE;
  *out_fingerprint
      = kw_json_dup_string (&value, accept_members[0].name, KW_API_MAX_FINGERPRINT, error);
  return *out_fingerprint != NULL;
}

static void
accept_key (KwApi *self, KwHttpRequest *request)
{
  g_autofree char *fingerprint = NULL;
  g_autoptr (GError) error = NULL;

  if (!read_fingerprint (request, &fingerprint, &error))
    {
      kw_api_respond_error (request, error);
      return;
    }
  kw_service_accept_key_async (self->service, kw_api_get_caller (request),
                               kw_http_request_get_argument (request), fingerprint, on_accepted,
                               kw_http_request_ref (request));
}

typedef struct
{
  KwApi *api;
  KwHttpRequest *request;
} Waiting;

static void
on_checked (GObject *source, GAsyncResult *result, gpointer user_data)
{
  g_autofree Waiting *waiting = user_data;
  g_autoptr (KwApi) api = waiting->api;
  g_autoptr (KwHttpRequest) request = waiting->request;
  g_autoptr (GError) error = NULL;
  g_autoptr (KwKeyMatrix) matrix
      = kw_service_check_keys_finish (KW_SERVICE (source), result, &error);
  g_autoptr (GBytes) json = NULL;

  if (matrix == NULL)
    {
      kw_api_respond_error (request, error);
      return;
    }
  kw_api_render (api);
  json = kw_api_dup_document (api, "keys");
  kw_api_respond_json (request, KW_STATUS_OK, json);
}

static void
check_keys (KwApi *self, KwHttpRequest *request)
{
  Waiting *waiting = g_new0 (Waiting, 1);

  waiting->api = g_object_ref (self);
  waiting->request = kw_http_request_ref (request);
  kw_service_check_keys_async (self->service, kw_api_get_caller (request), on_checked, waiting);
}

/* --- sessions of browsers --- */

static void
handle_session (KwHttpRequest *request, gpointer user_data G_GNUC_UNUSED)
{
  g_autoptr (KwJsonWriter) writer = kw_json_writer_new (0);
  const char *cookie = kw_api_get_cookie (request);
  const KwCaller *caller = kw_api_get_caller (request);
  g_autofree char *token = cookie != NULL ? kw_web_sessions_dup_forgery_token (cookie) : NULL;
  gboolean first = TRUE;

  kw_json_writer_add (writer, "{\"token\":");
  if (token != NULL && caller != NULL)
    kw_json_writer_add_string (writer, token);
  else
    kw_json_writer_add (writer, "null");
  kw_json_writer_add (writer, ",\"verbs\":[");
  for (guint i = 0; caller != NULL && i < KW_N_VERB_CLASSES; i++)
    {
      if (!kw_grant_allows_class (kw_caller_get_grant (caller), (KwVerbClass) i))
        continue;
      if (!first)
        kw_json_writer_add (writer, ",");
      first = FALSE;
      kw_json_writer_add_string (writer, kw_verb_class_to_string ((KwVerbClass) i));
    }
  kw_json_writer_add (writer, "]}");
  kw_api_respond_document (request, writer, KW_STATUS_OK);
}

static void
handle_log_out (KwHttpRequest *request, gpointer user_data)
{
  const KwApiBinding *binding = user_data;
  const char *cookie = kw_api_get_cookie (request);

  if (cookie != NULL)
    kw_web_sessions_close (binding->api->sessions, cookie);
  respond_done (request);
}

/* --- into the main context --- */

static void
handle_run_test (KwHttpRequest *request, gpointer user_data)
{
  kw_api_call (((const KwApiBinding *) user_data)->api, request, run_test);
}

static void
handle_show_test (KwHttpRequest *request, gpointer user_data)
{
  kw_api_call (((const KwApiBinding *) user_data)->api, request, show_test);
}

static void
handle_cancel_test (KwHttpRequest *request, gpointer user_data)
{
  kw_api_call (((const KwApiBinding *) user_data)->api, request, cancel_test);
}

static void
handle_retry (KwHttpRequest *request, gpointer user_data)
{
  kw_api_call (((const KwApiBinding *) user_data)->api, request, retry_device);
}

static void
handle_accept (KwHttpRequest *request, gpointer user_data)
{
  kw_api_call (((const KwApiBinding *) user_data)->api, request, accept_key);
}

static void
handle_check (KwHttpRequest *request, gpointer user_data)
{
  kw_api_call (((const KwApiBinding *) user_data)->api, request, check_keys);
}

const KwApiRoute kw_api_admin_routes[] = {
  { "POST", "/api/v1/test", KW_API_ACT, KW_VERB_CLASS_TEST, KW_API_MAX_SMALL_BODY,
    handle_run_test },
  { "GET", "/api/v1/jobs/*", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_show_test },
  { "DELETE", "/api/v1/jobs/*", KW_API_ACT, KW_VERB_CLASS_TEST, KW_API_MAX_SMALL_BODY,
    handle_cancel_test },
  { "POST", "/api/v1/check", KW_API_ACT, KW_VERB_CLASS_TEST, KW_API_MAX_SMALL_BODY, handle_check },
  { "POST", "/api/v1/devices/*/retry", KW_API_ACT, KW_VERB_CLASS_MANAGE_DEVICES,
    KW_API_MAX_SMALL_BODY, handle_retry },
  { "POST", "/api/v1/keys/*/accept", KW_API_ACT, KW_VERB_CLASS_MANAGE_KEYS, KW_API_MAX_SMALL_BODY,
    handle_accept },
  { "GET", "/api/v1/session", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_session },
  { "DELETE", "/api/v1/session", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_log_out },
};

const guint kw_api_n_admin_routes = G_N_ELEMENTS (kw_api_admin_routes);
