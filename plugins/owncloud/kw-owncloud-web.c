/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-owncloud-web"

#include "config.h"

#include "kw-owncloud-web.h"

#include "kw-jwt.h"
#include "kw-limits.h"
#include "kw-log.h"
#include "kw-names.h"
#include "kw-uuid.h"

#include <json-glib/json-glib.h>
#include <string.h>

/*
 * ownCloud's web API: POST /keys/new and POST /decrypt/{id}, each with a JSON Web Token.
 *
 * ownCloud's client understands a 5xx with a line of text and takes everything else for a crash. So whatever goes wrong
 * with a key is a 5xx here; 4xx is left to requests that no ownCloud makes, to a bad token, and to the budget of failed
 * decrypts.
 */
struct _KwOwncloudWeb
{
  KwService *service; /* owned */
  KwSecret *secret;   /* owned */
  guint leeway;
};

#define MAX_BODY (64 * 1024)
#define BEARER "Bearer "
#define KEY_BITS 2048
#define RETRY_AFTER_SECONDS 5
#define BUDGET_RETRY_AFTER_SECONDS 60

enum
{
  STATUS_OK = 200,
  STATUS_BAD_REQUEST = 400,
  STATUS_UNAUTHORIZED = 401,
  STATUS_TOO_MANY_REQUESTS = 429,
  STATUS_INTERNAL_SERVER_ERROR = 500,
  STATUS_SERVICE_UNAVAILABLE = 503,
};

/* What curl and PHP's streams call a body nobody gave a type, and what a careful client says. */
static const char *const raw_types[]
    = { "application/octet-stream", "application/x-www-form-urlencoded", NULL };

typedef struct
{
  KwCaller *caller; /* owned */
  char *subject;    /* owned, nullable */
} WebCaller;

static void
web_caller_free (gpointer data)
{
  WebCaller *web_caller = data;

  kw_caller_unref (web_caller->caller);
  g_free (web_caller->subject);
  g_free (web_caller);
}

static gboolean
check_token (KwHttpRequest *request, gpointer user_data)
{
  KwOwncloudWeb *self = user_data;
  g_autoptr (GError) error = NULL;
  g_autoptr (KwJwtClaims) claims = NULL;
  const char *header = kw_http_request_get_header (request, "Authorization");
  gint64 uid = KW_CALLER_NO_UID;
  const char *peer = kw_http_request_get_peer (request, &uid);
  WebCaller *web_caller = NULL;

  if (header == NULL || g_ascii_strncasecmp (header, BEARER, strlen (BEARER)) != 0)
    g_set_error_literal (&error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED,
                         "There is no token: Authorization: Bearer is missing");
  else
    claims = kw_jwt_verify (header + strlen (BEARER), self->secret, KW_JWT_AUDIENCE, self->leeway,
                            &error);
  if (claims == NULL)
    {
      static const char text[] = "The token is not valid\n";
      g_autoptr (GBytes) body = g_bytes_new_static (text, strlen (text));
      const KwHttpHeader headers[] = { { "WWW-Authenticate", "Bearer" }, { NULL, NULL } };
      KwHttpResponse response = { .status = STATUS_UNAUTHORIZED,
                                  .content_type = "text/plain; charset=utf-8",
                                  .body = body,
                                  .headers = headers };

      kw_log (G_LOG_LEVEL_WARNING, "Token refused", "address", peer, "error", error->message, NULL);
      kw_http_request_respond (request, &response);
      return FALSE;
    }
  web_caller = g_new0 (WebCaller, 1);
  web_caller->caller = kw_caller_new (KW_CALLER_JWT, claims->issuer, claims->request_id, peer, uid);
  web_caller->subject = g_steal_pointer (&claims->subject);
  kw_http_request_set_data (request, web_caller, web_caller_free);
  return TRUE;
}

static void
respond_error (KwHttpRequest *request, const GError *error)
{
  guint status = kw_http_status_from_error ((KwError) error->code);
  g_autofree char *line = g_strdup_printf ("%s\n", error->message);
  g_autoptr (GBytes) body = g_bytes_new (line, strlen (line));
  KwHttpResponse response = { .content_type = "text/plain; charset=utf-8", .body = body };

  if (status < STATUS_INTERNAL_SERVER_ERROR && status != STATUS_TOO_MANY_REQUESTS)
    status = STATUS_INTERNAL_SERVER_ERROR;
  if (status == STATUS_SERVICE_UNAVAILABLE)
    response.retry_after = RETRY_AFTER_SECONDS;
  if (status == STATUS_TOO_MANY_REQUESTS)
    response.retry_after = BUDGET_RETRY_AFTER_SECONDS;
  response.status = status;
  kw_http_request_respond (request, &response);
}

/* Any thread. */
static void
on_decrypted (KwJob *job, gpointer user_data)
{
  g_autoptr (KwHttpRequest) request = user_data;
  KwHttpResponse response = { .status = STATUS_OK, .content_type = "application/octet-stream" };

  if (kw_job_get_error (job) != NULL)
    {
      respond_error (request, kw_job_get_error (job));
      return;
    }
  response.secret = kw_job_get_plaintext (job);
  kw_http_request_respond (request, &response);
}

static void
handle_decrypt (KwHttpRequest *request, gpointer user_data)
{
  KwOwncloudWeb *self = user_data;
  WebCaller *web_caller = kw_http_request_get_data (request);
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) key_id = kw_uuid_to_bytes (kw_http_request_get_argument (request), -1, &error);
  GBytes *body = kw_http_request_get_body (request);
  KwJob *job = NULL;

  if (key_id == NULL)
    {
      respond_error (request, error);
      return;
    }
  if (body == NULL)
    {
      kw_http_request_respond_text (request, STATUS_BAD_REQUEST,
                                    "The body is empty: the ciphertext is wanted");
      return;
    }
  job = kw_job_new_rsa_decrypt (web_caller->caller, key_id, KW_RSA_PADDING_PKCS1, body);
  kw_job_set_callback (job, on_decrypted, kw_http_request_ref (request));
  kw_service_submit (self->service, job);
}

static GBytes *
key_to_json (KwKey *key, GError **error)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autoptr (JsonNode) root = NULL;
  g_autofree char *pem = kw_key_dup_public_key_pem (key, error);
  char *text = NULL;

  if (pem == NULL)
    return NULL;
  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "publicKey");
  json_builder_add_string_value (builder, pem);
  json_builder_set_member_name (builder, "privateKeyId");
  json_builder_add_string_value (builder, kw_key_get_uuid (key));
  json_builder_end_object (builder);
  root = json_builder_get_root (builder);
  text = json_to_string (root, FALSE);
  return g_bytes_new_take (text, strlen (text));
}

/* Any thread. */
static void
on_generated (KwJob *job, gpointer user_data)
{
  g_autoptr (KwHttpRequest) request = user_data;
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) body = NULL;
  KwHttpResponse response = { .status = STATUS_OK, .content_type = "application/json" };

  if (kw_job_get_error (job) != NULL)
    {
      respond_error (request, kw_job_get_error (job));
      return;
    }
  body = key_to_json (kw_job_get_key (job), &error);
  if (body == NULL)
    {
      respond_error (request, error);
      return;
    }
  response.body = body;
  kw_http_request_respond (request, &response);
}

static void
handle_new_key (KwHttpRequest *request, gpointer user_data)
{
  KwOwncloudWeb *self = user_data;
  WebCaller *web_caller = kw_http_request_get_data (request);
  const char *label = web_caller->subject != NULL ? web_caller->subject : "";
  KwJob *job = NULL;

  if (strlen (label) > KW_MAX_KEY_LABEL_BYTES)
    {
      kw_http_request_respond_text (request, STATUS_BAD_REQUEST,
                                    "The label (the token's sub) is too long");
      return;
    }
  job = kw_job_new_generate_rsa (web_caller->caller, KEY_BITS, label);
  kw_job_set_callback (job, on_generated, kw_http_request_ref (request));
  kw_service_submit (self->service, job);
}

/**
 * kw_owncloud_web_new:
 * @context: where it works
 *
 * Adds the routes of ownCloud's web API. Main context.
 *
 * Returns: (transfer full): what the routes work with; must live as long as the HTTP server
 */
KwOwncloudWeb *
kw_owncloud_web_new (const KwDoorContext *context)
{
  KwOwncloudWeb *self = g_new0 (KwOwncloudWeb, 1);
  const KwJwtConfig *jwt = kw_config_get_jwt (context->config);
  const KwHttpRoute routes[] = {
    { .method = "POST",
      .path = "/keys/new",
      .max_body = MAX_BODY,
      .check = check_token,
      .handle = handle_new_key,
      .user_data = self },
    { .method = "POST",
      .path = "/decrypt/*",
      .max_body = MAX_BODY,
      .wants_body = TRUE,
      .content_types = raw_types,
      .check = check_token,
      .handle = handle_decrypt,
      .user_data = self },
  };

  self->service = g_object_ref (context->service);
  self->secret = kw_secret_ref (jwt->secret);
  self->leeway = jwt->leeway;
  for (guint i = 0; i < G_N_ELEMENTS (routes); i++)
    kw_http_server_add_route (context->http, &routes[i]);
  return self;
}

/**
 * kw_owncloud_web_free:
 * @self: (transfer full): what the routes worked with
 *
 * Frees it, after the HTTP server was stopped. Main context.
 */
void
kw_owncloud_web_free (KwOwncloudWeb *self)
{
  g_object_unref (self->service);
  kw_secret_unref (self->secret);
  g_free (self);
}
