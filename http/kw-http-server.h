/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-config.h"
#include "kw-error.h"

G_BEGIN_DECLS

typedef struct _KwHttpRequest KwHttpRequest;

/**
 * KwHttpCheckFunc:
 * @request: a request whose headers are here and whose body is not
 * @user_data: as given with the route
 *
 * Decides whether a request may go on, before its body is read. When it may not, an answer has been given by
 * kw_http_request_respond(). Runs on a thread of the server; must not block.
 *
 * Returns: %TRUE when it may
 */
typedef gboolean (*KwHttpCheckFunc) (KwHttpRequest *request, gpointer user_data);

/**
 * KwHttpHandleFunc:
 * @request: the whole request; to be kept with kw_http_request_ref() when the answer comes later
 * @user_data: as given with the route
 *
 * Answers a request, by kw_http_request_respond(), at once or later, from any thread. Runs on a thread of the server; must
 * not block.
 */
typedef void (*KwHttpHandleFunc) (KwHttpRequest *request, gpointer user_data);

/**
 * KwHttpRoute:
 * @method: "POST" and the like
 * @path: the path; one asterisk stands for a segment, which kw_http_request_get_argument() gives
 * @max_body: most bytes in a body
 * @wants_body: a request without a stated length is answered 411
 * @content_types: (array zero-terminated=1): media types that a body may have; none stated is always accepted
 * @secret_body: the body is kept in a #KwSecret, for kw_http_request_get_secret_body()
 * @check: (nullable): see #KwHttpCheckFunc
 * @handle: see #KwHttpHandleFunc
 * @user_data: for both
 */
typedef struct
{
  const char *method;
  const char *path;
  gsize max_body;
  gboolean wants_body;
  const char *const *content_types;
  gboolean secret_body;
  KwHttpCheckFunc check;
  KwHttpHandleFunc handle;
  gpointer user_data;
} KwHttpRoute;

#define KW_TYPE_HTTP_SERVER (kw_http_server_get_type ())
G_DECLARE_FINAL_TYPE (KwHttpServer, kw_http_server, KW, HTTP_SERVER, GObject)

KwHttpServer *kw_http_server_new (const KwServerConfig *config);

void kw_http_server_add_route (KwHttpServer *self, const KwHttpRoute *route);

gboolean kw_http_server_start (KwHttpServer *self, GArray *sockets, GError **error);

void kw_http_server_quiesce (KwHttpServer *self);

guint kw_http_server_get_n_pending (KwHttpServer *self);

void kw_http_server_stop (KwHttpServer *self);

KwHttpRequest *kw_http_request_ref (KwHttpRequest *request);

void kw_http_request_unref (KwHttpRequest *request);

const char *kw_http_request_get_argument (KwHttpRequest *request);

const char *kw_http_request_get_header (KwHttpRequest *request, const char *name);

const char *kw_http_request_get_peer (KwHttpRequest *request, gint64 *out_uid);

GBytes *kw_http_request_get_body (KwHttpRequest *request);

KwSecret *kw_http_request_get_secret_body (KwHttpRequest *request);

const char *kw_http_request_get_query (KwHttpRequest *request, const char *name);

const guint32 *kw_http_request_get_groups (KwHttpRequest *request, gsize *out_n_groups);

gboolean kw_http_request_is_head (KwHttpRequest *request);

gboolean kw_http_request_is_secure (KwHttpRequest *request);

void kw_http_request_set_data (KwHttpRequest *request, gpointer data, GDestroyNotify destroy);

gpointer kw_http_request_get_data (KwHttpRequest *request);

/**
 * KwHttpHeader:
 * @name: name of a header
 * @value: its value
 */
typedef struct
{
  const char *name;
  const char *value;
} KwHttpHeader;

/**
 * KwHttpResponse:
 * @status: HTTP status
 * @content_type: (nullable): media type of the body
 * @body: (nullable): bytes of the body
 * @secret: (nullable): a body that is a secret, in place of @body
 * @retry_after: seconds for "Retry-After"; 0 = none
 * @policy: (nullable): "Content-Security-Policy"; %NULL = the one that allows nothing
 * @headers: (nullable): more headers, ended by one without a name
 */
typedef struct
{
  guint status;
  const char *content_type;
  GBytes *body;
  KwSecret *secret;
  guint retry_after;
  const char *policy;
  const KwHttpHeader *headers;
} KwHttpResponse;

void kw_http_request_respond (KwHttpRequest *request, const KwHttpResponse *response);

void kw_http_request_respond_text (KwHttpRequest *request, guint status, const char *text);

guint kw_http_status_from_error (KwError code);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwHttpRequest, kw_http_request_unref)

G_END_DECLS
