/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-http-server"

#include "config.h"

#include "kw-http-server.h"

#include "kw-http-private.h"

#include "kw-caller.h"
#include "kw-limits.h"
#include "kw-listen.h"
#include "kw-log.h"
#include "kw-uuid.h"

#include <openssl/crypto.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * The HTTP server: libmicrohttpd with a small pool of event threads for each listening socket. They hold connections and
 * parse; they never call a token. A request whose answer comes later is suspended and resumed by whoever answers.
 *
 * libmicrohttpd's own time-out is one of inactivity, which a peer that sends a byte now and then never meets; so the main
 * context looks at the connections once a second and shuts those that have been in one phase for too long.
 *
 * Objects belong to the main context; a request may be answered from any thread.
 */

#define CONNECTION_MEMORY                                                                          \
  (8 * 1024)                /* request line, headers and the response's headers of one connection */
#define MAX_EVENT_THREADS 2 /* for each listening socket */
#define MAX_ROUTES 64
#define API_PREFIX "/api/"
#define SWEEP_INTERVAL_SECONDS 1
#define LAST_ANSWERS_USEC (500 * G_TIME_SPAN_MILLISECOND)
#define LAST_ANSWERS_INTERVAL_USEC (2 * G_TIME_SPAN_MILLISECOND)
#define OVERLONG_FACTOR                                                                            \
  4 /* an overlong chunked body is read and dropped up to this many times its limit, for a clean 413 */
#define MAX_TLS_FILE_BYTES (256 * 1024)

struct _KwHttpServer
{
  GObject parent_instance;

  const KwServerConfig *config; /* borrowed from the KwConfig, which lives as long as the process */
  KwHttpRoute routes[MAX_ROUTES];
  guint n_routes;
  GPtrArray *daemons;    /* of struct MHD_Daemon */
  GArray *given_back;    /* of int: sockets given back by libmicrohttpd */
  KwSecret *tls_key;     /* owned, nullable; PEM, ended by a NUL */
  char *tls_certificate; /* owned, nullable */
  guint sweep_source;
  gint quiesced;     /* atomic: connections are closed after their answer */
  gboolean stopping; /* guarded by lock: nothing is suspended any more */

  GMutex lock;
  GHashTable *
      connections; /* set of KwHttpConnection, owned by libmicrohttpd's notification; guarded by lock */
  GHashTable *pending; /* set of KwHttpRequest that are suspended; guarded by lock */
  GHashTable *streams; /* set of KwHttpStream that are open; guarded by lock */
  gsize n_body_bytes;  /* taken by secret bodies of all requests; guarded by lock */
};

G_DEFINE_FINAL_TYPE (KwHttpServer, kw_http_server, G_TYPE_OBJECT)

static void
set_phase (KwHttpConnection *connection, KwHttpPhase phase)
{
  if (connection == NULL)
    return;
  connection->since = g_get_monotonic_time ();
  g_atomic_int_set ((gint *) &connection->phase, (gint) phase);
}

static guint
phase_limit (const KwServerConfig *config, KwHttpPhase phase)
{
  switch (phase)
    {
    case KW_HTTP_PHASE_HEADERS:
      return config->header_timeout;
    case KW_HTTP_PHASE_BODY:
      return config->body_timeout;
    case KW_HTTP_PHASE_IDLE:
      return config->idle_timeout;
    case KW_HTTP_PHASE_ANSWER:
    default:
      return 0;
    }
}

static gboolean
sweep_connections (gpointer user_data)
{
  KwHttpServer *self = KW_HTTP_SERVER (user_data);
  gint64 now = g_get_monotonic_time ();
  GHashTableIter iter;
  gpointer key = NULL;

  g_mutex_lock (&self->lock);
  g_hash_table_iter_init (&iter, self->connections);
  while (g_hash_table_iter_next (&iter, &key, NULL))
    {
      KwHttpConnection *connection = key;
      guint limit = phase_limit (self->config,
                                 (KwHttpPhase) g_atomic_int_get ((gint *) &connection->phase));

      /* Reading then ends at once, and libmicrohttpd closes the connection. */
      if (limit > 0 && now - connection->since > (gint64) limit * G_USEC_PER_SEC)
        shutdown (connection->fd, SHUT_RDWR);
    }
  g_mutex_unlock (&self->lock);
  return G_SOURCE_CONTINUE;
}

/* Connections on which nothing is asked end now; the others end with their answer. */
static void
shut_idle_connections (KwHttpServer *self)
{
  GHashTableIter iter;
  gpointer key = NULL;

  g_mutex_lock (&self->lock);
  g_hash_table_iter_init (&iter, self->connections);
  while (g_hash_table_iter_next (&iter, &key, NULL))
    {
      KwHttpConnection *connection = key;

      if (g_atomic_int_get ((gint *) &connection->phase) == KW_HTTP_PHASE_IDLE)
        shutdown (connection->fd, SHUT_RDWR);
    }
  g_mutex_unlock (&self->lock);
}

static void
on_connection (void *cls,
               struct MHD_Connection *mhd,
               void **socket_context,
               enum MHD_ConnectionNotificationCode code)
{
  KwHttpServer *self = cls;
  KwHttpConnection *connection = *socket_context;

  if (code == MHD_CONNECTION_NOTIFY_STARTED)
    {
      const union MHD_ConnectionInfo *info
          = MHD_get_connection_info (mhd, MHD_CONNECTION_INFO_CONNECTION_FD);

      connection = g_new0 (KwHttpConnection, 1);
      connection->server = self;
      connection->fd = info->connect_fd;
      connection->uid = KW_CALLER_NO_UID;
      set_phase (connection, KW_HTTP_PHASE_HEADERS);
      *socket_context = connection;
      g_mutex_lock (&self->lock);
      g_hash_table_add (self->connections, connection);
      g_mutex_unlock (&self->lock);
      return;
    }
  g_mutex_lock (&self->lock);
  g_hash_table_remove (self->connections, connection);
  g_mutex_unlock (&self->lock);
  g_free (connection->peer);
  g_clear_pointer (&connection->groups, g_array_unref);
  g_free (connection);
}

/* libmicrohttpd counts for each listening socket; the cap is on all of them together. */
static enum MHD_Result
accept_connection (void *cls,
                   const struct sockaddr *address G_GNUC_UNUSED,
                   socklen_t n_address G_GNUC_UNUSED)
{
  KwHttpServer *self = cls;
  gboolean room = FALSE;

  g_mutex_lock (&self->lock);
  room = g_hash_table_size (self->connections) < self->config->max_connections;
  g_mutex_unlock (&self->lock);
  return room ? MHD_YES : MHD_NO;
}

static KwHttpConnection *
connection_of (struct MHD_Connection *mhd)
{
  const union MHD_ConnectionInfo *info
      = MHD_get_connection_info (mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

  return info != NULL ? info->socket_context : NULL;
}

static const char *
skip_double_slash (const char *path)
{
  while (path[0] == '/' && path[1] == '/')
    path++;
  return path;
}

/* Whether a path fits a route; then also what stands for its asterisk. */
static gboolean
route_fits (const KwHttpRoute *route, const char *path, char **out_argument)
{
  const char *star = strchr (route->path, '*');
  gsize n_before = star != NULL ? (gsize) (star - route->path) : 0;
  gsize n_argument = 0;

  if (star == NULL)
    return g_str_equal (route->path, path);
  if (strncmp (route->path, path, n_before) != 0)
    return FALSE;
  n_argument = strcspn (path + n_before, "/");
  if (n_argument == 0 || !g_str_equal (star + 1, path + n_before + n_argument))
    return FALSE;
  g_free (*out_argument);
  *out_argument = g_strndup (path + n_before, n_argument);
  return TRUE;
}

/* Finds the route; where the path is known and the method is not, lists the methods it has. */
static const KwHttpRoute *
find_route (KwHttpServer *self,
            const char *method,
            const char *path,
            char **out_argument,
            GString *allowed)
{
  /* HEAD is GET without a body, which libmicrohttpd leaves away. */
  if (g_str_equal (method, MHD_HTTP_METHOD_HEAD))
    method = MHD_HTTP_METHOD_GET;
  for (guint i = 0; i < self->n_routes; i++)
    {
      const KwHttpRoute *route = &self->routes[i];

      if (!route_fits (route, path, out_argument))
        continue;
      if (g_str_equal (route->method, method))
        return route;
      g_string_append_printf (allowed, "%s%s", allowed->len > 0 ? ", " : "", route->method);
    }
  return NULL;
}

typedef struct
{
  guint n_length;
  guint n_encoding;
  gboolean chunked;
  gboolean coded; /* Content-Encoding other than identity */
  const char *length;
  const char *content_type;
} BodyHeaders;

static enum MHD_Result
on_header (void *cls, enum MHD_ValueKind kind G_GNUC_UNUSED, const char *name, const char *value)
{
  BodyHeaders *headers = cls;

  if (g_ascii_strcasecmp (name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0)
    {
      headers->n_length++;
      headers->length = value;
    }
  else if (g_ascii_strcasecmp (name, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0)
    {
      headers->n_encoding++;
      headers->chunked = value != NULL && g_ascii_strcasecmp (value, "chunked") == 0;
    }
  else if (g_ascii_strcasecmp (name, MHD_HTTP_HEADER_CONTENT_TYPE) == 0)
    headers->content_type = value;
  else if (g_ascii_strcasecmp (name, MHD_HTTP_HEADER_CONTENT_ENCODING) == 0)
    headers->coded = value == NULL || g_ascii_strcasecmp (value, "identity") != 0;
  return MHD_YES;
}

static gboolean
content_type_is_accepted (const KwHttpRoute *route, const char *content_type)
{
  g_autofree char *media_type = NULL;

  if (content_type == NULL || route->content_types == NULL)
    return TRUE;
  media_type = g_strndup (content_type, strcspn (content_type, ";"));
  g_strstrip (media_type);
  for (guint i = 0; route->content_types[i] != NULL; i++)
    {
      if (g_ascii_strcasecmp (media_type, route->content_types[i]) == 0)
        return TRUE;
    }
  return FALSE;
}

static void
read_body_headers (KwHttpRequest *request, BodyHeaders *out_headers)
{
  MHD_get_connection_values (request->mhd, MHD_HEADER_KIND, on_header, out_headers);
  request->has_body = out_headers->n_encoding > 0
                      || (out_headers->n_length > 0 && !g_str_equal (out_headers->length, "0"));
}

/* Checks what the headers say of the body; answers and gives FALSE when it cannot be taken. */
static gboolean
check_body_headers (KwHttpRequest *request, const BodyHeaders *headers)
{
  const KwHttpRoute *route = request->route;
  guint64 length = 0;

  if (headers->n_length > 1 || headers->n_encoding > 1
      || (headers->n_length > 0 && headers->n_encoding > 0)
      || (headers->n_length > 0
          && !g_ascii_string_to_unsigned (headers->length, 10, 0, G_MAXUINT64, &length, NULL)))
    kw_http_request_respond_text (request, MHD_HTTP_BAD_REQUEST,
                                  "The length of the body is stated badly, or twice");
  else if (headers->n_encoding > 0 && !headers->chunked)
    kw_http_request_respond_text (request, MHD_HTTP_NOT_IMPLEMENTED,
                                  "Transfer-Encoding: only chunked is known here");
  else if (route == NULL)
    return TRUE;
  else if (headers->coded || !content_type_is_accepted (route, headers->content_type))
    kw_http_request_respond_text (request, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE,
                                  "This type of body is not taken here");
  else if (route->wants_body && headers->n_length == 0 && headers->n_encoding == 0)
    kw_http_request_respond_text (request, MHD_HTTP_LENGTH_REQUIRED,
                                  "A body with a stated length is wanted");
  else if (length > route->max_body)
    kw_http_request_respond_text (request, MHD_HTTP_CONTENT_TOO_LARGE, "The body is too large");
  else
    {
      request->n_announced = (gsize) length;
      return TRUE;
    }
  return FALSE;
}

static enum MHD_Result
queue_answer (KwHttpRequest *request)
{
  struct MHD_Response *response = NULL;
  enum MHD_Result result = MHD_NO;
  guint status = 0;

  g_mutex_lock (&request->lock);
  response = g_steal_pointer (&request->response);
  status = request->status;
  g_mutex_unlock (&request->lock);
  if (response == NULL)
    return MHD_NO;
  set_phase (request->connection, KW_HTTP_PHASE_ANSWER);
  result = MHD_queue_response (request->mhd, status, response);
  MHD_destroy_response (response);
  return result;
}

static KwHttpRequest *
request_new (KwHttpServer *self, struct MHD_Connection *mhd)
{
  KwHttpRequest *request = g_new0 (KwHttpRequest, 1);

  g_atomic_ref_count_init (&request->references);
  g_mutex_init (&request->lock);
  request->server = g_object_ref (self);
  request->mhd = mhd;
  request->connection = connection_of (mhd);
  return request;
}

static void
refuse_method (KwHttpRequest *request, const char *allowed)
{
  const KwHttpHeader headers[] = { { MHD_HTTP_HEADER_ALLOW, allowed }, { NULL, NULL } };

  kw_http_request_respond_text_with (request, MHD_HTTP_METHOD_NOT_ALLOWED,
                                     "This method is not for this path", headers);
}

/*
 * The headers are here: is there a route, may it be used, can the body be taken? A request that is answered now and has a
 * body costs its connection: libmicrohttpd reads no more from it. One without a body is answered in the next step, and the
 * connection is kept.
 */
static enum MHD_Result
begin_request (KwHttpRequest *request, const char *url, const char *method)
{
  g_autoptr (GString) allowed = g_string_new (NULL);
  BodyHeaders headers = { 0 };

  set_phase (request->connection, KW_HTTP_PHASE_BODY);
  request->is_head = g_str_equal (method, MHD_HTTP_METHOD_HEAD);
  request->wants_problem = g_str_has_prefix (skip_double_slash (url), API_PREFIX);
  request->route
      = find_route (request->server, method, skip_double_slash (url), &request->argument, allowed);
  read_body_headers (request, &headers);
  if (!check_body_headers (request, &headers))
    return queue_answer (request);
  if (request->route == NULL && allowed->len > 0)
    refuse_method (request, allowed->str);
  else if (request->route == NULL)
    kw_http_request_respond_text (request, MHD_HTTP_NOT_FOUND, "There is nothing here");
  else if (request->route->check == NULL
           || request->route->check (request, request->route->user_data))
    return MHD_YES;
  request->handled = TRUE;
  return request->has_body ? queue_answer (request) : MHD_YES;
}

/* Room for bodies of all requests together is bounded; what a body takes is given back with the request. */
static gboolean
reserve_body (KwHttpServer *self, gsize n_bytes, gsize n_returned)
{
  gboolean room = FALSE;

  g_mutex_lock (&self->lock);
  room = self->n_body_bytes + n_bytes - n_returned <= KW_MAX_HTTP_BODY_BYTES;
  if (room)
    self->n_body_bytes += n_bytes - n_returned;
  g_mutex_unlock (&self->lock);
  return room;
}

void
kw_http_server_return_body (KwHttpServer *self, gsize n_bytes)
{
  g_mutex_lock (&self->lock);
  self->n_body_bytes -= n_bytes;
  g_mutex_unlock (&self->lock);
}

/* Makes room for a body as long as it is announced to be, or for twice as much as there was. */
static gboolean
grow_secret_body (KwHttpRequest *request, gsize wanted)
{
  gsize old_size = request->secret_body != NULL ? kw_secret_get_size (request->secret_body) : 0;
  gsize size = MAX (MAX (wanted, request->n_announced), old_size * 2);
  g_autoptr (KwSecret) secret = NULL;

  size = MIN (size, request->route->max_body);
  if (!reserve_body (request->server, size, old_size))
    return FALSE;
  secret = size > KW_MAX_LOCKED_BODY_BYTES ? kw_secret_new_unlocked (size, NULL)
                                           : kw_secret_new (size, NULL);
  if (secret == NULL)
    {
      kw_http_server_return_body (request->server, size - old_size);
      return FALSE;
    }
  if (old_size > 0)
    memcpy (kw_secret_get_data (secret), kw_secret_get_data (request->secret_body), old_size);
  g_clear_pointer (&request->secret_body, kw_secret_unref);
  request->secret_body = g_steal_pointer (&secret);
  return TRUE;
}

static gboolean
append_secret_body (KwHttpRequest *request, const char *data, gsize size)
{
  gsize wanted = request->n_received + size;

  if ((request->secret_body == NULL || kw_secret_get_size (request->secret_body) < wanted)
      && !grow_secret_body (request, wanted))
    return FALSE;
  memcpy (kw_secret_get_data (request->secret_body) + request->n_received, data, size);
  return TRUE;
}

static enum MHD_Result
take_body (KwHttpRequest *request, const char *data, size_t *size)
{
  gsize limit = request->route->max_body;

  if (request->n_received + *size > limit * OVERLONG_FACTOR)
    return MHD_NO;
  if (request->n_received + *size <= limit)
    {
      if (request->route->secret_body)
        request->no_room = request->no_room || !append_secret_body (request, data, *size);
      else
        {
          if (request->body == NULL)
            request->body = g_byte_array_sized_new ((guint) MIN (*size, limit));
          g_byte_array_append (request->body, (const guint8 *) data, (guint) *size);
        }
    }
  request->n_received += *size;
  *size = 0;
  return MHD_YES;
}

/* FALSE when the server is being stopped: libmicrohttpd cannot be ended with a suspended connection. */
static gboolean
add_pending (KwHttpRequest *request)
{
  KwHttpServer *self = request->server;
  gboolean stopping = FALSE;

  g_mutex_lock (&self->lock);
  stopping = self->stopping;
  if (!stopping)
    g_hash_table_add (self->pending, request);
  g_mutex_unlock (&self->lock);
  return !stopping;
}

/* The whole request is here. */
static enum MHD_Result
handle_request (KwHttpRequest *request)
{
  gboolean answered = FALSE;

  request->handled = TRUE;
  set_phase (request->connection, KW_HTTP_PHASE_ANSWER);
  if (request->n_received > request->route->max_body)
    kw_http_request_respond_text (request, MHD_HTTP_CONTENT_TOO_LARGE, "The body is too large");
  else if (request->no_room)
    kw_http_request_respond_text (request, MHD_HTTP_SERVICE_UNAVAILABLE,
                                  "Too many large requests at a time; try again later");
  else
    {
      if (request->secret_body != NULL)
        {
          kw_http_server_return_body (request->server, kw_secret_get_size (request->secret_body)
                                                           - request->n_received);
          kw_secret_truncate (request->secret_body, request->n_received);
        }
      if (request->body != NULL)
        request->body_bytes = g_byte_array_free_to_bytes (g_steal_pointer (&request->body));
      request->route->handle (request, request->route->user_data);
    }
  g_mutex_lock (&request->lock);
  answered = request->answered;
  if (!answered && !add_pending (request))
    {
      g_mutex_unlock (&request->lock);
      kw_http_request_respond_text (request, MHD_HTTP_SERVICE_UNAVAILABLE,
                                    "The service is stopping");
      return queue_answer (request);
    }
  if (!answered)
    {
      request->suspended = TRUE;
      MHD_suspend_connection (request->mhd);
    }
  g_mutex_unlock (&request->lock);
  return answered ? queue_answer (request) : MHD_YES;
}

static enum MHD_Result
on_request (void *cls,
            struct MHD_Connection *mhd,
            const char *url,
            const char *method,
            const char *version G_GNUC_UNUSED,
            const char *upload_data,
            size_t *upload_data_size,
            void **request_context)
{
  KwHttpRequest *request = *request_context;

  if (request == NULL)
    {
      request = request_new (KW_HTTP_SERVER (cls), mhd);
      *request_context = request;
      return begin_request (request, url, method);
    }
  if (request->handled)
    return queue_answer (request);
  if (*upload_data_size > 0)
    return take_body (request, upload_data, upload_data_size);
  return handle_request (request);
}

static void
on_request_completed (void *cls G_GNUC_UNUSED,
                      struct MHD_Connection *mhd G_GNUC_UNUSED,
                      void **request_context,
                      enum MHD_RequestTerminationCode code G_GNUC_UNUSED)
{
  KwHttpRequest *request = *request_context;

  if (request == NULL)
    return;
  set_phase (request->connection, KW_HTTP_PHASE_IDLE);
  kw_http_server_forget_pending (request->server, request);
  g_mutex_lock (&request->lock);
  request->mhd = NULL;
  request->connection = NULL;
  request->suspended = FALSE;
  g_mutex_unlock (&request->lock);
  *request_context = NULL;
  kw_http_request_unref (request);
}

void
kw_http_server_forget_pending (KwHttpServer *self, KwHttpRequest *request)
{
  g_mutex_lock (&self->lock);
  g_hash_table_remove (self->pending, request);
  g_mutex_unlock (&self->lock);
}

gboolean
kw_http_server_is_quiesced (KwHttpServer *self)
{
  return g_atomic_int_get (&self->quiesced);
}

gboolean
kw_http_server_is_secure (KwHttpServer *self)
{
  return self->tls_key != NULL;
}

/* FALSE when the server is being stopped. */
gboolean
kw_http_server_add_stream (KwHttpServer *self, KwHttpStream *stream)
{
  gboolean open = FALSE;

  g_mutex_lock (&self->lock);
  open = !self->stopping && !g_atomic_int_get (&self->quiesced);
  if (open)
    g_hash_table_add (self->streams, stream);
  g_mutex_unlock (&self->lock);
  return open;
}

void
kw_http_server_remove_stream (KwHttpServer *self, KwHttpStream *stream)
{
  g_mutex_lock (&self->lock);
  g_hash_table_remove (self->streams, stream);
  g_mutex_unlock (&self->lock);
}

/* A stream has no end of its own. */
static void
close_streams (KwHttpServer *self)
{
  g_autoptr (GPtrArray) streams
      = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_http_stream_unref);
  GHashTableIter iter;
  gpointer key = NULL;

  g_mutex_lock (&self->lock);
  g_hash_table_iter_init (&iter, self->streams);
  while (g_hash_table_iter_next (&iter, &key, NULL))
    g_ptr_array_add (streams, kw_http_stream_ref (key));
  g_mutex_unlock (&self->lock);
  for (guint i = 0; i < streams->len; i++)
    kw_http_stream_close (g_ptr_array_index (streams, i));
}

static void
on_library_log (void *cls G_GNUC_UNUSED, const char *format, va_list args)
{
  g_autofree char *text = NULL;

  /* What a peer does wrong is no news of ours; it helps to find faults. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  text = g_strdup_vprintf (format, args);
#pragma GCC diagnostic pop
  g_debug ("libmicrohttpd: %s", g_strchomp (text));
}

static void
kw_http_server_dispose (GObject *object)
{
  kw_http_server_stop (KW_HTTP_SERVER (object));
  G_OBJECT_CLASS (kw_http_server_parent_class)->dispose (object);
}

static void
kw_http_server_finalize (GObject *object)
{
  KwHttpServer *self = KW_HTTP_SERVER (object);

  g_ptr_array_unref (self->daemons);
  g_array_unref (self->given_back);
  g_hash_table_unref (self->connections);
  g_hash_table_unref (self->pending);
  g_hash_table_unref (self->streams);
  g_clear_pointer (&self->tls_key, kw_secret_unref);
  g_free (self->tls_certificate);
  g_mutex_clear (&self->lock);
  G_OBJECT_CLASS (kw_http_server_parent_class)->finalize (object);
}

static void
kw_http_server_class_init (KwHttpServerClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  object_class->dispose = kw_http_server_dispose;
  object_class->finalize = kw_http_server_finalize;
}

static void
kw_http_server_init (KwHttpServer *self)
{
  g_mutex_init (&self->lock);
  self->daemons = g_ptr_array_new ();
  self->given_back = kw_listen_new_list ();
  self->connections = g_hash_table_new (NULL, NULL);
  self->pending = g_hash_table_new (NULL, NULL);
  self->streams = g_hash_table_new (NULL, NULL);
}

static gboolean
load_tls_files (KwHttpServer *self, GError **error)
{
  const KwServerConfig *config = self->config;
  g_autoptr (GError) local_error = NULL;
  g_autoptr (KwSecret) key = NULL;
  gsize n_key = 0;

  if (config->tls_key == NULL)
    return TRUE;
  if (!kw_config_check_file_mode (config->tls_key, error))
    {
      g_prefix_error (error, "[server] tls_key: ");
      return FALSE;
    }
  if (!g_file_get_contents (config->tls_certificate, &self->tls_certificate, NULL, &local_error))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "[server] tls_certificate: %s",
                   local_error->message);
      return FALSE;
    }
  key = kw_secret_new_from_file (config->tls_key, MAX_TLS_FILE_BYTES, error);
  if (key == NULL)
    {
      g_prefix_error (error, "[server] tls_key: ");
      return FALSE;
    }
  n_key = kw_secret_get_size (key);
  self->tls_key = kw_secret_new (n_key + 1, error);
  if (self->tls_key == NULL)
    return FALSE;
  memcpy (kw_secret_get_data (self->tls_key), kw_secret_get_data (key), n_key);
  return TRUE;
}

static struct MHD_Daemon *
start_daemon (KwHttpServer *self, int fd)
{
  const KwServerConfig *config = self->config;
  guint flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
  struct MHD_OptionItem tls_options[] = {
    { MHD_OPTION_HTTPS_MEM_KEY, 0, NULL },
    { MHD_OPTION_HTTPS_MEM_CERT, 0, NULL },
    { MHD_OPTION_END, 0, NULL },
  };
  struct MHD_OptionItem no_options[] = { { MHD_OPTION_END, 0, NULL } };

  if (self->tls_key != NULL)
    {
      flags |= MHD_USE_TLS;
      tls_options[0].ptr_value = kw_secret_get_data (self->tls_key);
      tls_options[1].ptr_value = self->tls_certificate;
    }
  return MHD_start_daemon (flags, 0, accept_connection, self, on_request, self,
                           MHD_OPTION_EXTERNAL_LOGGER, on_library_log, NULL,
                           MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_THREAD_POOL_SIZE,
                           (unsigned int) CLAMP (g_get_num_processors (), 1, MAX_EVENT_THREADS),
                           MHD_OPTION_CONNECTION_LIMIT,
                           MAX (config->max_connections, MAX_EVENT_THREADS),
                           MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) CONNECTION_MEMORY,
                           MHD_OPTION_CONNECTION_TIMEOUT,
                           MAX (config->idle_timeout, config->body_timeout),
                           MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_NOTIFY_CONNECTION,
                           on_connection, self, MHD_OPTION_NOTIFY_COMPLETED, on_request_completed,
                           NULL, MHD_OPTION_ARRAY, self->tls_key != NULL ? tls_options : no_options,
                           MHD_OPTION_END);
}

/**
 * kw_http_server_new:
 * @config: table `[server]`; must outlive the server
 *
 * Returns: (transfer full): a server without routes or sockets. Main context.
 */
KwHttpServer *
kw_http_server_new (const KwServerConfig *config)
{
  KwHttpServer *self = g_object_new (KW_TYPE_HTTP_SERVER, NULL);

  self->config = config;
  return self;
}

/**
 * kw_http_server_add_route:
 * @self: a server that was not started
 * @route: copied; what it points to must outlive the server
 *
 * Adds a route. Main context.
 */
void
kw_http_server_add_route (KwHttpServer *self, const KwHttpRoute *route)
{
  g_return_if_fail (KW_IS_HTTP_SERVER (self));
  g_return_if_fail (self->n_routes < MAX_ROUTES);
  g_return_if_fail (self->daemons->len == 0);

  self->routes[self->n_routes++] = *route;
}

/**
 * kw_http_server_start:
 * @self: a server
 * @sockets: (element-type int): listening sockets; those that are used are taken out of it
 * @error: where to store the error
 *
 * Begins to serve. Main context.
 *
 * Returns: %FALSE with %KW_ERROR_CONFIG when TLS cannot be set up, or %KW_ERROR_FAILED
 */
gboolean
kw_http_server_start (KwHttpServer *self, GArray *sockets, GError **error)
{
  g_return_val_if_fail (KW_IS_HTTP_SERVER (self), FALSE);

  if (!load_tls_files (self, error))
    return FALSE;
  for (guint i = 0; i < sockets->len; i++)
    {
      int fd = dup (g_array_index (sockets, int, i));
      struct MHD_Daemon *mhd = fd >= 0 ? start_daemon (self, fd) : NULL;

      if (mhd == NULL)
        {
          if (fd >= 0)
            close (fd);
          g_set_error (error, KW_ERROR, self->tls_key != NULL ? KW_ERROR_CONFIG : KW_ERROR_FAILED,
                       "The HTTP server cannot be started%s",
                       self->tls_key != NULL
                           ? "; do [server] tls_certificate and tls_key belong together?"
                           : "");
          return FALSE;
        }
      g_ptr_array_add (self->daemons, mhd);
    }
  g_array_set_size (sockets, 0);
  self->sweep_source = g_timeout_add_seconds (SWEEP_INTERVAL_SECONDS, sweep_connections, self);
  return TRUE;
}

/**
 * kw_http_server_quiesce:
 * @self: a server
 *
 * Takes no new connection. Main context.
 */
void
kw_http_server_quiesce (KwHttpServer *self)
{
  g_return_if_fail (KW_IS_HTTP_SERVER (self));

  if (g_atomic_int_get (&self->quiesced))
    return;
  g_atomic_int_set (&self->quiesced, TRUE);
  close_streams (self);
  shut_idle_connections (self);
  for (guint i = 0; i < self->daemons->len; i++)
    {
      int fd = MHD_quiesce_daemon (g_ptr_array_index (self->daemons, i));

      if (fd >= 0)
        g_array_append_val (self->given_back, fd);
    }
}

/**
 * kw_http_server_get_n_pending:
 * @self: a server
 *
 * Returns: how many requests wait for their answer. Any thread.
 */
guint
kw_http_server_get_n_pending (KwHttpServer *self)
{
  guint n_pending = 0;

  g_return_val_if_fail (KW_IS_HTTP_SERVER (self), 0);

  g_mutex_lock (&self->lock);
  n_pending = g_hash_table_size (self->pending);
  g_mutex_unlock (&self->lock);
  return n_pending;
}

/*
 * Waits for answers to be sent, since libmicrohttpd closes connections at its end as they are. The loop does not run any more,
 * so this may sleep; a peer that does not read is not waited for.
 */
static void
wait_for_answers (GPtrArray *requests)
{
  gint64 by = g_get_monotonic_time () + LAST_ANSWERS_USEC;

  for (guint i = 0; i < requests->len; i++)
    {
      KwHttpRequest *request = g_ptr_array_index (requests, i);
      gboolean sent = FALSE;

      while (!sent && g_get_monotonic_time () < by)
        {
          g_mutex_lock (&request->lock);
          sent = request->mhd == NULL;
          g_mutex_unlock (&request->lock);
          if (!sent)
            g_usleep (LAST_ANSWERS_INTERVAL_USEC);
        }
    }
}

/**
 * kw_http_server_stop:
 * @self: a server
 *
 * Ends all connections; a request that still waits is answered 503. May be called again. Main context.
 */
void
kw_http_server_stop (KwHttpServer *self)
{
  g_autoptr (GPtrArray) pending = NULL;
  GHashTableIter iter;
  gpointer key = NULL;

  g_return_if_fail (KW_IS_HTTP_SERVER (self));

  if (self->sweep_source != 0)
    g_source_remove (self->sweep_source);
  self->sweep_source = 0;
  kw_http_server_quiesce (self);
  pending = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_http_request_unref);
  g_mutex_lock (&self->lock);
  self->stopping = TRUE;
  g_hash_table_iter_init (&iter, self->pending);
  while (g_hash_table_iter_next (&iter, &key, NULL))
    g_ptr_array_add (pending, kw_http_request_ref (key));
  g_mutex_unlock (&self->lock);
  for (guint i = 0; i < pending->len; i++)
    kw_http_request_respond_text (g_ptr_array_index (pending, i), MHD_HTTP_SERVICE_UNAVAILABLE,
                                  "The service is stopping");
  wait_for_answers (pending);
  for (guint i = 0; i < self->daemons->len; i++)
    MHD_stop_daemon (g_ptr_array_index (self->daemons, i));
  g_ptr_array_set_size (self->daemons, 0);
}
