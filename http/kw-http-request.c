/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-http-request"

#include "config.h"

#include "kw-http-private.h"

#include "kw-listen.h"
#include "kw-log.h"

#include <sys/socket.h>

/*
 * What a handler sees of a request, and how it is answered: one function writes every response.
 */

static void
free_secret_body (void *cls)
{
  kw_secret_unref (cls);
}

static void
free_bytes_body (void *cls)
{
  g_bytes_unref (cls);
}

static struct MHD_Response *
make_response (const KwHttpResponse *answer)
{
  struct MHD_Response *response = NULL;
  gsize size = 0;
  const void *data = NULL;

  if (answer->secret != NULL)
    response = MHD_create_response_from_buffer_with_free_callback_cls (
        kw_secret_get_size (answer->secret), kw_secret_get_data (answer->secret), free_secret_body,
        kw_secret_ref (answer->secret));
  else if (answer->body != NULL)
    {
      data = g_bytes_get_data (answer->body, &size);
      response
          = MHD_create_response_from_buffer_with_free_callback_cls (size, (void *) data,
                                                                    free_bytes_body,
                                                                    g_bytes_ref (answer->body));
    }
  else
    response = MHD_create_response_from_buffer (0, (void *) "", MHD_RESPMEM_PERSISTENT);
  return response;
}

/**
 * kw_http_request_ref:
 * @request: a request
 *
 * Returns: (transfer full): @request with one more reference. Any thread.
 */
KwHttpRequest *
kw_http_request_ref (KwHttpRequest *request)
{
  g_return_val_if_fail (request != NULL, NULL);

  g_atomic_ref_count_inc (&request->references);
  return request;
}

/**
 * kw_http_request_unref:
 * @request: (transfer full): a request
 *
 * Gives a reference back. Any thread.
 */
void
kw_http_request_unref (KwHttpRequest *request)
{
  g_return_if_fail (request != NULL);

  if (!g_atomic_ref_count_dec (&request->references))
    return;
  if (request->destroy != NULL)
    request->destroy (request->data);
  if (request->response != NULL)
    MHD_destroy_response (request->response);
  g_clear_pointer (&request->body, g_byte_array_unref);
  g_clear_pointer (&request->body_bytes, g_bytes_unref);
  if (request->secret_body != NULL)
    {
      kw_http_server_return_body (request->server, kw_secret_get_size (request->secret_body));
      kw_secret_unref (request->secret_body);
    }
  g_free (request->argument);
  g_object_unref (request->server);
  g_mutex_clear (&request->lock);
  g_free (request);
}

/**
 * kw_http_request_get_argument:
 * @request: a request
 *
 * Returns: (transfer none) (nullable): what stood for the asterisk of its route. Event threads.
 */
const char *
kw_http_request_get_argument (KwHttpRequest *request)
{
  return request->argument;
}

/**
 * kw_http_request_get_header:
 * @request: a request in its check or handler
 * @name: name of a header, in any case
 *
 * Returns: (transfer none) (nullable): its value
 */
const char *
kw_http_request_get_header (KwHttpRequest *request, const char *name)
{
  return MHD_lookup_connection_value (request->mhd, MHD_HEADER_KIND, name);
}

/**
 * kw_http_request_get_peer:
 * @request: a request in its check or handler
 * @out_uid: (out): user id of the peer on a UNIX socket, else %KW_CALLER_NO_UID
 *
 * Returns: (transfer none): the peer's IP address, or "unix"
 */
const char *
kw_http_request_get_peer (KwHttpRequest *request, gint64 *out_uid)
{
  KwHttpConnection *connection = request->connection;

  if (connection->peer == NULL)
    connection->peer = kw_listen_describe_peer (connection->fd, &connection->uid);
  *out_uid = connection->uid;
  return connection->peer;
}

/**
 * kw_http_request_get_body:
 * @request: a request in its handler
 *
 * Returns: (transfer none) (nullable): its body
 */
GBytes *
kw_http_request_get_body (KwHttpRequest *request)
{
  return request->body_bytes;
}

/**
 * kw_http_request_get_secret_body:
 * @request: a request in its handler, of a route with secret_body
 *
 * Returns: (transfer none) (nullable): its body, %NULL when there is none
 */
KwSecret *
kw_http_request_get_secret_body (KwHttpRequest *request)
{
  return request->secret_body;
}

/**
 * kw_http_request_get_query:
 * @request: a request in its check or handler
 * @name: name of an argument behind the question mark
 *
 * Returns: (transfer none) (nullable): its value
 */
const char *
kw_http_request_get_query (KwHttpRequest *request, const char *name)
{
  return MHD_lookup_connection_value (request->mhd, MHD_GET_ARGUMENT_KIND, name);
}

/**
 * kw_http_request_get_groups:
 * @request: a request in its check or handler
 * @out_n_groups: (out): how many
 *
 * Returns: (transfer none) (nullable): group ids of the peer on a UNIX socket
 */
const guint32 *
kw_http_request_get_groups (KwHttpRequest *request, gsize *out_n_groups)
{
  KwHttpConnection *connection = request->connection;

  if (connection->groups == NULL)
    connection->groups = kw_listen_get_peer_groups (connection->fd);
  *out_n_groups = connection->groups->len;
  return (const guint32 *) (const void *) connection->groups->data;
}

/**
 * kw_http_request_is_head:
 * @request: a request
 *
 * Returns: whether only the headers of the answer are wanted. Any thread.
 */
gboolean
kw_http_request_is_head (KwHttpRequest *request)
{
  return request->is_head;
}

/**
 * kw_http_request_is_secure:
 * @request: a request
 *
 * Returns: whether the server speaks TLS. Any thread.
 */
gboolean
kw_http_request_is_secure (KwHttpRequest *request)
{
  return kw_http_server_is_secure (request->server);
}

/**
 * kw_http_request_set_data:
 * @request: a request in its check or handler
 * @data: (transfer full): what belongs to it
 * @destroy: (nullable): frees @data
 *
 * Keeps something with a request, such as who its caller is.
 */
void
kw_http_request_set_data (KwHttpRequest *request, gpointer data, GDestroyNotify destroy)
{
  if (request->destroy != NULL)
    request->destroy (request->data);
  request->data = data;
  request->destroy = destroy;
}

/**
 * kw_http_request_get_data:
 * @request: a request
 *
 * Returns: (transfer none) (nullable): what was kept with it
 */
gpointer
kw_http_request_get_data (KwHttpRequest *request)
{
  return request->data;
}

/* Ends its connection from our side, whatever was being sent. */
void
kw_http_request_cut (KwHttpRequest *request)
{
  g_mutex_lock (&request->lock);
  if (request->connection != NULL)
    shutdown (request->connection->fd, SHUT_RDWR);
  g_mutex_unlock (&request->lock);
}

/* Only the first answer counts. Takes the response. */
void
kw_http_request_respond_raw (KwHttpRequest *request, guint status, struct MHD_Response *response)
{
  g_mutex_lock (&request->lock);
  if (!request->answered)
    {
      request->answered = TRUE;
      request->response = g_steal_pointer (&response);
      request->status = status;
      if (request->suspended)
        {
          request->suspended = FALSE;
          /* In this order: the server may be ended as soon as nothing is pending, and then no connection may rest. */
          MHD_resume_connection (request->mhd);
          kw_http_server_forget_pending (request->server, request);
        }
    }
  g_mutex_unlock (&request->lock);
  if (response != NULL)
    MHD_destroy_response (response);
}

void
kw_http_request_add_headers (KwHttpRequest *request,
                             struct MHD_Response *response,
                             const KwHttpResponse *answer)
{
  if (answer->content_type != NULL)
    MHD_add_response_header (response, MHD_HTTP_HEADER_CONTENT_TYPE, answer->content_type);
  MHD_add_response_header (response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
  MHD_add_response_header (response, "X-Content-Type-Options", "nosniff");
  MHD_add_response_header (response, "X-Frame-Options", "DENY");
  MHD_add_response_header (response, "Content-Security-Policy",
                           answer->policy != NULL ? answer->policy
                                                  : "default-src 'none'; frame-ancestors 'none'");
  MHD_add_response_header (response, "Referrer-Policy", "no-referrer");
  if (answer->retry_after > 0)
    {
      g_autofree char *seconds = g_strdup_printf ("%u", answer->retry_after);

      MHD_add_response_header (response, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    }
  if (kw_http_server_is_quiesced (request->server))
    MHD_add_response_header (response, MHD_HTTP_HEADER_CONNECTION, "close");
  for (guint i = 0; answer->headers != NULL && answer->headers[i].name != NULL; i++)
    MHD_add_response_header (response, answer->headers[i].name, answer->headers[i].value);
}

/**
 * kw_http_request_respond:
 * @request: a request
 * @response: the answer; what it holds is referenced, not copied
 *
 * Answers a request. Only the first answer counts; an answer to a peer that has left goes nowhere. This one function
 * writes every response and sets the headers that all of them have. Any thread.
 */
void
kw_http_request_respond (KwHttpRequest *request, const KwHttpResponse *answer)
{
  struct MHD_Response *response = make_response (answer);

  if (response != NULL)
    kw_http_request_add_headers (request, response, answer);
  kw_http_request_respond_raw (request, answer->status, response);
}

static const char *
find_reason (guint status)
{
  const char *reason = MHD_get_reason_phrase_for (status);

  return reason != NULL ? reason : "Error";
}

/* As kw_http_request_respond_text(), with more headers. */
void
kw_http_request_respond_text_with (KwHttpRequest *request,
                                   guint status,
                                   const char *text,
                                   const KwHttpHeader *headers)
{
  gboolean problem = request->wants_problem && status >= MHD_HTTP_BAD_REQUEST;
  GString *line = g_string_new (NULL);
  g_autoptr (GBytes) body = NULL;
  KwHttpResponse response = { .status = status, .headers = headers };

  if (problem)
    {
      g_string_append (line, "{\"type\":\"about:blank\",\"title\":");
      kw_log_append_json_string (line, find_reason (status));
      g_string_append_printf (line, ",\"status\":%u,\"detail\":", status);
      kw_log_append_json_string (line, text);
      g_string_append (line, "}");
    }
  else
    g_string_append_printf (line, "%s\n", text);
  body = g_string_free_to_bytes (line);
  response.content_type = problem ? "application/problem+json" : "text/plain; charset=utf-8";
  response.body = body;
  kw_http_request_respond (request, &response);
}

/**
 * kw_http_request_respond_text:
 * @request: a request
 * @status: HTTP status
 * @text: one sentence
 *
 * Answers with one line of text; below /api/ an error is a problem document (RFC 9457). Any thread.
 */
void
kw_http_request_respond_text (KwHttpRequest *request, guint status, const char *text)
{
  kw_http_request_respond_text_with (request, status, text, NULL);
}

/**
 * kw_http_status_from_error:
 * @code: a code of %KW_ERROR
 *
 * The one table from errors to HTTP status. Any thread.
 *
 * Returns: the status
 */
guint
kw_http_status_from_error (KwError code)
{
  switch (code)
    {
    case KW_ERROR_INVALID_ARGUMENT:
    case KW_ERROR_AMBIGUOUS:
      return MHD_HTTP_BAD_REQUEST;
    case KW_ERROR_NOT_AUTHORIZED:
      return MHD_HTTP_FORBIDDEN;
    case KW_ERROR_RATE_LIMITED:
      return MHD_HTTP_TOO_MANY_REQUESTS;
    case KW_ERROR_KEY_NOT_FOUND:
      return MHD_HTTP_NOT_FOUND;
    case KW_ERROR_KEY_EXISTS:
    case KW_ERROR_KEY_MISMATCH:
      return MHD_HTTP_CONFLICT;
    case KW_ERROR_DECRYPT_FAILED:
      return MHD_HTTP_UNPROCESSABLE_CONTENT;
    case KW_ERROR_NOT_SUPPORTED:
      return MHD_HTTP_NOT_IMPLEMENTED;
    case KW_ERROR_TOKEN_FULL:
      return MHD_HTTP_INSUFFICIENT_STORAGE;
    case KW_ERROR_TIMEOUT:
      return MHD_HTTP_GATEWAY_TIMEOUT;
    case KW_ERROR_UNAVAILABLE:
    case KW_ERROR_BUSY:
    case KW_ERROR_CANCELLED:
    case KW_ERROR_TOKEN_NOT_FOUND:
    case KW_ERROR_TOKEN_GONE:
    case KW_ERROR_TOKEN_UNINITIALIZED:
    case KW_ERROR_SESSION_LOST:
    case KW_ERROR_NOT_LOGGED_IN:
    case KW_ERROR_PIN_REQUIRED:
    case KW_ERROR_PIN_INVALID:
    case KW_ERROR_PIN_REFUSED:
    case KW_ERROR_PIN_LATCHED:
    case KW_ERROR_PIN_PROTECTED:
    case KW_ERROR_PIN_LOCKED:
      return MHD_HTTP_SERVICE_UNAVAILABLE;
    case KW_ERROR_FAILED:
    case KW_ERROR_CONFIG:
    case KW_ERROR_PERMISSION:
    case KW_ERROR_DEVICE_FAILED:
    case KW_ERROR_MODULE_FAILED:
    default:
      return MHD_HTTP_INTERNAL_SERVER_ERROR;
    }
}
