/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-api"

#include "config.h"

#include "kw-api-private.h"

#include "kw-log.h"

#include <string.h>

/*
 * Answers of the API: documents, and problems (RFC 9457) with the sentences that all doors have.
 */

#define TYPE_JSON "application/json"
#define TYPE_PROBLEM "application/problem+json"
#define PROBLEM_PREFIX "urn:keyward:error:"
#define RETRY_AFTER_SECONDS 5
#define BUDGET_RETRY_AFTER_SECONDS 60

/* "key-not-found" → "Key not found" */
static char *
dup_title (const char *nick)
{
  char *title = g_strdup (nick);

  title[0] = g_ascii_toupper (title[0]);
  g_strdelimit (title, "-", ' ');
  return title;
}

void
kw_api_write_problem (KwJsonWriter *writer, guint status, const char *nick, const char *detail)
{
  g_autofree char *title = dup_title (nick);
  g_autofree char *type = g_strconcat (PROBLEM_PREFIX, nick, NULL);
  g_autofree char *number = g_strdup_printf ("%u", status);

  kw_json_writer_add (writer, "{\"type\":");
  kw_json_writer_add_string (writer, type);
  kw_json_writer_add (writer, ",\"title\":");
  kw_json_writer_add_string (writer, title);
  kw_json_writer_add (writer, ",\"status\":");
  kw_json_writer_add (writer, number);
  kw_json_writer_add (writer, ",\"detail\":");
  kw_json_writer_add_string (writer, detail);
  kw_json_writer_add (writer, "}");
}

static KwError
code_of (const GError *error)
{
  return error->domain == KW_ERROR ? (KwError) error->code : KW_ERROR_FAILED;
}

void
kw_api_write_error (KwJsonWriter *writer, const GError *error)
{
  KwError code = code_of (error);

  kw_api_write_problem (writer, kw_http_status_from_error (code), kw_error_to_string (code),
                        error->message);
}

static guint
retry_after (guint status, const char *nick)
{
  if (status == KW_STATUS_SERVICE_UNAVAILABLE)
    return RETRY_AFTER_SECONDS;
  if (status != KW_STATUS_TOO_MANY_REQUESTS)
    return 0;
  return g_str_equal (nick, kw_error_to_string (KW_ERROR_RATE_LIMITED)) ? BUDGET_RETRY_AFTER_SECONDS
                                                                        : 1;
}

/**
 * kw_api_respond_problem:
 * @request: a request
 * @status: HTTP status
 * @nick: what kind of problem it is
 * @detail: one sentence
 *
 * Answers with a problem. Any thread.
 */
void
kw_api_respond_problem (KwHttpRequest *request, guint status, const char *nick, const char *detail)
{
  g_autoptr (KwJsonWriter) writer = kw_json_writer_new (0);
  g_autoptr (KwSecret) body = NULL;
  static const KwHttpHeader challenge[]
      = { { "WWW-Authenticate", "Bearer realm=\"keyward\"" }, { NULL, NULL } };
  KwHttpResponse response = { .status = status,
                              .content_type = TYPE_PROBLEM,
                              .retry_after = retry_after (status, nick),
                              .headers = status == KW_STATUS_UNAUTHORIZED ? challenge : NULL };

  kw_api_write_problem (writer, status, nick, detail);
  body = kw_json_writer_finish (writer, NULL);
  response.secret = body;
  kw_http_request_respond (request, &response);
}

/**
 * kw_api_respond_error:
 * @request: a request
 * @error: why it failed
 *
 * Answers with what went wrong. Any thread.
 */
void
kw_api_respond_error (KwHttpRequest *request, const GError *error)
{
  KwError code = code_of (error);

  kw_api_respond_problem (request, kw_http_status_from_error (code), kw_error_to_string (code),
                          error->message);
}

/**
 * kw_api_respond_json:
 * @request: a request
 * @status: HTTP status
 * @json: a document
 *
 * Answers with a document that is no secret. Any thread.
 */
void
kw_api_respond_json (KwHttpRequest *request, guint status, GBytes *json)
{
  KwHttpResponse response = { .status = status, .content_type = TYPE_JSON, .body = json };

  kw_http_request_respond (request, &response);
}

/**
 * kw_api_respond_document:
 * @request: a request
 * @writer: what was written
 * @status: HTTP status
 *
 * Answers with a document that may be a secret. Any thread.
 */
void
kw_api_respond_document (KwHttpRequest *request, KwJsonWriter *writer, guint status)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) body = kw_json_writer_finish (writer, &error);
  KwHttpResponse response = { .status = status, .content_type = TYPE_JSON, .secret = body };

  if (body == NULL)
    kw_api_respond_error (request, error);
  else
    kw_http_request_respond (request, &response);
}
