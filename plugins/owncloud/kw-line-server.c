/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-line-server"

#include "config.h"

#include "kw-line-server.h"

#include "kw-error.h"
#include "kw-listen.h"
#include "kw-log.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * ownCloud's line protocol: the client sends the token, then ciphertexts in base64, a line each; a line comes back for
 * every line.
 *
 * All connections are in one epoll set, each registered for one event at a time; a few threads wait on it. Whoever gets
 * the event owns the connection until it is registered again, so a connection needs no lock and its lines are answered in
 * order. The thread also uses the token itself where that is quick (kw_job_set_may_run_here): no thread switch for a
 * request. Should the token hang, only that request is stuck: it is answered when its deadline passes, by the main
 * context, and the other threads, with one more started in place of each that is lost, serve everybody else.
 */

#define MAX_LINE (64 * 1024)
#define TOKEN_TIMEOUT_USEC (10 * G_TIME_SPAN_SECOND)
#define READ_SIZE 8192
#define MAX_EVENT_THREADS 4
#define MAX_THREADS 32 /* with those that stand in for lost ones */
#define TICK_MSEC 500
#define SURPLUS_THREAD_WAIT_MSEC 5000
#define ACCEPTS_AT_ONCE 16

typedef struct
{
  KwLineServer *server; /* borrowed: it outlives its connections */
  int fd;               /* owned */
  gboolean listening;   /* not a connection but a listening socket */
  gboolean greeted;     /* the token was right */
  gboolean closing;     /* closed once the output is out */
  GThread *owner;   /* the thread that submitted the line which is being decrypted; compared only */
  gboolean *here;   /* on that thread's stack: the answer came while it was still submitting */
  gint64 since;     /* monotonic: when it connected */
  KwCaller *caller; /* owned */
  GByteArray *input; /* owned; NULL while nothing is waiting */
  gsize n_scanned;   /* bytes of the input without a line end */
  KwSecret *output;  /* owned, nullable */
  gsize n_written;
} Peer;

struct _KwLineServer
{
  GObject parent_instance;

  const KwLineConfig *config; /* borrowed from the KwConfig, which lives as long as the process */
  KwService *service;         /* owned */
  KwSecret *token;            /* owned */
  int epoll;                  /* owned */
  int wake;                   /* owned eventfd: readable = all threads leave */
  guint tick_source;
  guint n_event_threads;
  guint n_handled_before; /* main context: progress at the last tick */

  gint n_busy;    /* atomic: threads that handle an event */
  gint n_handled; /* atomic: events handled, wraps */
  gint n_pending; /* atomic: lines at the service */
  gint quiesced;  /* atomic: connections are closed once their answers are out */

  GMutex lock;
  GCond thread_left;
  GBytes *key_id;       /* guarded by lock; owned, nullable until it is known */
  GHashTable *peers;    /* guarded by lock; set of Peer, connections only */
  GPtrArray *listeners; /* guarded by lock; of Peer */
  guint n_threads;      /* guarded by lock */
  gboolean stopping;    /* guarded by lock */
  gboolean accepting;   /* guarded by lock */
  gboolean resting;     /* guarded by lock: out of descriptors, try again at the next tick */
};

G_DEFINE_FINAL_TYPE (KwLineServer, kw_line_server, G_TYPE_OBJECT)

static gpointer thread_main (gpointer user_data);

static void
peer_free (Peer *peer)
{
  close (peer->fd);
  g_clear_pointer (&peer->caller, kw_caller_unref);
  g_clear_pointer (&peer->input, g_byte_array_unref);
  g_clear_pointer (&peer->output, kw_secret_unref);
  g_free (peer);
}

static void
close_peer (Peer *peer)
{
  KwLineServer *self = peer->server;

  g_mutex_lock (&self->lock);
  g_hash_table_remove (self->peers, peer);
  g_mutex_unlock (&self->lock);
  peer_free (peer);
}

/* Gives the connection back to the epoll set; it must not be touched afterwards. */
static void
wait_for (Peer *peer, guint32 events)
{
  struct epoll_event event = { .events = events | EPOLLONESHOT | EPOLLRDHUP, .data.ptr = peer };

  if (epoll_ctl (peer->server->epoll, EPOLL_CTL_MOD, peer->fd, &event) != 0)
    close_peer (peer);
}

/* Writes what is there to write. FALSE = the connection is broken; out_all says whether nothing is left. */
static gboolean
flush_output (Peer *peer, gboolean *out_all)
{
  *out_all = FALSE;
  while (peer->output != NULL)
    {
      const guint8 *data = kw_secret_get_data (peer->output);
      gsize size = kw_secret_get_size (peer->output);
      gssize n = send (peer->fd, data + peer->n_written, size - peer->n_written,
                       MSG_NOSIGNAL | MSG_DONTWAIT);

      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        return errno == EAGAIN;
      peer->n_written += (gsize) n;
      if (peer->n_written == size)
        {
          g_clear_pointer (&peer->output, kw_secret_unref);
          peer->n_written = 0;
        }
    }
  *out_all = TRUE;
  return TRUE;
}

static void
set_output_text (Peer *peer, const char *prefix, const char *text)
{
  g_autofree char *line = g_strconcat (prefix, text, "\r\n", NULL);

  peer->output = kw_secret_new_copy (line, strlen (line), NULL);
  peer->closing |= peer->output == NULL;
}

static void
set_output_plaintext (Peer *peer, KwSecret *plaintext)
{
  gsize n_plaintext = kw_secret_get_size (plaintext);
  KwSecret *line = kw_secret_new ((n_plaintext / 3 + 1) * 4 + 4 + 2, NULL);
  char *text = NULL;
  gsize n = 0;
  int state = 0;
  int save = 0;

  if (line == NULL)
    {
      peer->closing = TRUE;
      return;
    }
  text = (char *) kw_secret_get_data (line);
  n = g_base64_encode_step (kw_secret_get_data (plaintext), n_plaintext, FALSE, text, &state,
                            &save);
  n += g_base64_encode_close (FALSE, text + n, &state, &save);
  OPENSSL_cleanse (&save, sizeof save);
  text[n++] = '\r';
  text[n++] = '\n';
  kw_secret_truncate (line, n);
  peer->output = line;
}

static void
set_answer (Peer *peer, KwJob *job)
{
  const GError *error = kw_job_get_error (job);

  peer->closing |= g_atomic_int_get (&peer->server->quiesced);
  if (error != NULL)
    set_output_text (peer, "ERR ", error->message);
  else
    set_output_plaintext (peer, kw_job_get_plaintext (job));
}

/*
 * On the thread that submitted the line: it goes on with the connection when kw_service_submit() returns. On any other: that
 * thread has let go of the connection, or is kept by a token and will not come back to it; the answer goes out from here, and
 * what follows is for the event threads.
 */
static void
on_decrypted (KwJob *job, gpointer user_data)
{
  Peer *peer = user_data;
  g_autoptr (KwLineServer) self = peer->server; /* the reference that submit_line() took */
  gboolean all_written = FALSE;

  set_answer (peer, job);
  if (g_thread_self () == peer->owner)
    *peer->here = TRUE;
  else if (!flush_output (peer, &all_written) || (all_written && peer->closing))
    close_peer (peer);
  else
    wait_for (peer, all_written && peer->input == NULL ? EPOLLIN : EPOLLOUT);
  /* Last: until then the server waits for this line. */
  g_atomic_int_add (&self->n_pending, -1);
}

static gboolean
decode_base64 (const guint8 *line, gsize n_line, GBytes **out_data)
{
  g_autofree char *text = NULL;
  guint8 *data = NULL;
  gsize n_padding = 0;
  gsize n_data = 0;

  if (n_line == 0 || n_line % 4 != 0)
    return FALSE;
  while (n_padding < 2 && line[n_line - 1 - n_padding] == '=')
    n_padding++;
  for (gsize i = 0; i < n_line - n_padding; i++)
    {
      if (!g_ascii_isalnum (line[i]) && line[i] != '+' && line[i] != '/')
        return FALSE;
    }
  text = g_strndup ((const char *) line, n_line);
  data = g_base64_decode (text, &n_data);
  *out_data = g_bytes_new_take (data, n_data);
  return TRUE;
}

/* Hands a ciphertext to the service. TRUE = the answer is there already; FALSE = the connection is no longer ours. */
static gboolean
submit_line (Peer *peer, const guint8 *line, gsize n_line)
{
  KwLineServer *self = peer->server;
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) key_id = NULL;
  g_autoptr (GBytes) ciphertext = NULL;
  gboolean here = FALSE;
  KwJob *job = NULL;

  if (!decode_base64 (line, n_line, &ciphertext))
    {
      set_output_text (peer, "ERR ", "The line is not base64");
      return TRUE;
    }
  key_id = kw_line_server_dup_key_id (self, &error);
  if (key_id == NULL)
    {
      set_output_text (peer, "ERR ", error->message);
      return TRUE;
    }
  job = kw_job_new_rsa_decrypt (peer->caller, key_id, KW_RSA_PADDING_PKCS1, ciphertext);
  kw_job_set_may_run_here (job, TRUE);
  kw_job_set_callback (job, on_decrypted, peer);
  peer->owner = g_thread_self ();
  peer->here = &here;
  g_object_ref (self);
  g_atomic_int_inc (&self->n_pending);
  kw_service_submit (self->service, job);
  return here;
}

static void
check_token (Peer *peer, const guint8 *line, gsize n_line)
{
  if (kw_secret_equal (peer->server->token, line, n_line))
    {
      peer->greeted = TRUE;
      set_output_text (peer, "OK", "");
      return;
    }
  kw_log (G_LOG_LEVEL_WARNING, "Line token refused", "address",
          kw_caller_get_address (peer->caller), NULL);
  set_output_text (peer, "ERR ", "The token is not valid");
  peer->closing = TRUE;
}

/* Takes the next whole line out of the input and handles it. */
static gboolean
handle_line (Peer *peer, gsize n_line)
{
  GByteArray *input = peer->input;
  g_autofree guint8 *line = NULL;
  gsize n_text = n_line;
  gboolean ours = TRUE;

  if (n_text > 0 && input->data[n_text - 1] == '\r')
    n_text--;
  line = g_memdup2 (input->data, n_text);
  /* The first line is the token, or a guess at it. */
  if (!peer->greeted)
    OPENSSL_cleanse (input->data, n_text);
  if (n_line + 1 == input->len)
    g_clear_pointer (&peer->input, g_byte_array_unref);
  else
    g_byte_array_remove_range (input, 0, (guint) (n_line + 1));
  peer->n_scanned = 0;
  if (peer->greeted)
    ours = submit_line (peer, line, n_text);
  else
    {
      check_token (peer, line, n_text);
      OPENSSL_cleanse (line, n_text);
    }
  return ours;
}

/* Whether a whole line waits; its length without the line end. */
static gboolean
find_line (Peer *peer, gsize *out_n_line)
{
  const guint8 *end = NULL;

  if (peer->input == NULL)
    return FALSE;
  end = memchr (peer->input->data + peer->n_scanned, '\n', peer->input->len - peer->n_scanned);
  if (end == NULL)
    {
      peer->n_scanned = peer->input->len;
      return FALSE;
    }
  *out_n_line = (gsize) (end - peer->input->data);
  return TRUE;
}

/* Reads what is there. FALSE = end or error; out_empty says that nothing was there. */
static gboolean
read_input (Peer *peer, gboolean *out_empty)
{
  guint8 buffer[READ_SIZE];
  gssize n = 0;

  do
    n = recv (peer->fd, buffer, sizeof buffer, MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  *out_empty = n < 0 && errno == EAGAIN;
  if (n <= 0)
    return *out_empty;
  if (peer->input == NULL)
    peer->input = g_byte_array_sized_new ((guint) n);
  g_byte_array_append (peer->input, buffer, (guint) n);
  OPENSSL_cleanse (buffer, peer->greeted ? 0 : (gsize) n);
  return TRUE;
}

static gboolean
line_is_too_long (Peer *peer, gboolean whole, gsize n_line)
{
  return whole ? n_line > MAX_LINE : peer->input != NULL && peer->input->len > MAX_LINE;
}

/*
 * Handles one event of a connection: at most one line, so that a quick client does not keep a thread to itself. Then the
 * connection is given back or closed.
 */
static void
serve_peer (Peer *peer)
{
  gboolean all_written = FALSE;
  gboolean empty = FALSE;
  gboolean whole = FALSE;
  gsize n_line = 0;

  if (!flush_output (peer, &all_written) || (all_written && peer->closing))
    {
      close_peer (peer);
      return;
    }
  if (!all_written)
    {
      wait_for (peer, EPOLLOUT);
      return;
    }
  /* A line that came but was not read yet is a new request. */
  if (g_atomic_int_get (&peer->server->quiesced))
    {
      close_peer (peer);
      return;
    }
  whole = find_line (peer, &n_line);
  if (!whole)
    {
      if (!read_input (peer, &empty))
        {
          close_peer (peer);
          return;
        }
      whole = find_line (peer, &n_line);
    }
  if (line_is_too_long (peer, whole, n_line))
    {
      set_output_text (peer, "ERR ", "The line is too long");
      peer->closing = TRUE;
    }
  else if (whole && !handle_line (peer, n_line))
    return;
  if (!flush_output (peer, &all_written) || (all_written && peer->closing))
    close_peer (peer);
  else
    /* What is left of the input may hold a whole line: a writable connection comes back at once. */
    wait_for (peer, all_written && (peer->input == NULL || peer->n_scanned == peer->input->len)
                        ? EPOLLIN
                        : EPOLLOUT);
}

static gboolean
uid_is_allowed (KwLineServer *self, gint64 uid)
{
  const GArray *allowed = self->config->allow_uids;

  if (allowed == NULL || uid == KW_CALLER_NO_UID)
    return TRUE;
  for (guint i = 0; i < allowed->len; i++)
    {
      if (g_array_index (allowed, guint32, i) == (guint32) uid)
        return TRUE;
    }
  return FALSE;
}

static void
refuse_connection (int fd, const char *text)
{
  /* The peer may not read it; that is its loss. */
  (void) !send (fd, text, strlen (text), MSG_NOSIGNAL | MSG_DONTWAIT);
  close (fd);
}

static void
take_connection (KwLineServer *self, int fd)
{
  struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT | EPOLLRDHUP };
  gint64 uid = KW_CALLER_NO_UID;
  g_autofree char *address = kw_listen_describe_peer (fd, &uid);
  gboolean full = FALSE;
  Peer *peer = NULL;

  if (!uid_is_allowed (self, uid))
    {
      g_autofree char *uid_text = g_strdup_printf ("%" G_GINT64_FORMAT, uid);

      kw_log (G_LOG_LEVEL_WARNING, "Line connection refused: [line] allow_users", "uid", uid_text,
              NULL);
      refuse_connection (fd, "ERR This user may not connect\r\n");
      return;
    }
  peer = g_new0 (Peer, 1);
  peer->server = self;
  peer->fd = fd;
  peer->since = g_get_monotonic_time ();
  peer->caller = kw_caller_new (KW_CALLER_LINE, NULL, NULL, address, uid);
  g_mutex_lock (&self->lock);
  full = g_hash_table_size (self->peers) >= self->config->max_connections || self->stopping;
  if (!full)
    g_hash_table_add (self->peers, peer);
  g_mutex_unlock (&self->lock);
  if (full)
    {
      kw_caller_unref (peer->caller);
      g_free (peer);
      refuse_connection (fd, "ERR Too many connections\r\n");
      return;
    }
  event.data.ptr = peer;
  if (epoll_ctl (self->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
    close_peer (peer);
}

/* Out of descriptors: without a rest the listening socket would wake us for ever. */
static void
rest_from_accepting (KwLineServer *self)
{
  gboolean news = FALSE;

  g_mutex_lock (&self->lock);
  news = !self->resting;
  self->resting = TRUE;
  for (guint i = 0; i < self->listeners->len; i++)
    epoll_ctl (self->epoll, EPOLL_CTL_DEL, ((Peer *) g_ptr_array_index (self->listeners, i))->fd,
               NULL);
  g_mutex_unlock (&self->lock);
  if (news)
    kw_log (G_LOG_LEVEL_WARNING,
            "No descriptor is left for a line connection; raise LimitNOFILE=", NULL, NULL);
}

static void
accept_connections (Peer *listener)
{
  for (guint i = 0; i < ACCEPTS_AT_ONCE; i++)
    {
      int fd = accept4 (listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

      if (fd >= 0)
        take_connection (listener->server, fd);
      else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
        {
          rest_from_accepting (listener->server);
          return;
        }
      else if (errno != EINTR && errno != ECONNABORTED)
        return;
    }
}

static gboolean
add_listener (KwLineServer *self, Peer *listener)
{
  struct epoll_event event = { .events = EPOLLIN | EPOLLEXCLUSIVE, .data.ptr = listener };

  return epoll_ctl (self->epoll, EPOLL_CTL_ADD, listener->fd, &event) == 0 || errno == EEXIST;
}

/* Called with the lock held. */
static void
start_thread (KwLineServer *self)
{
  g_autoptr (GThread) thread = NULL;

  self->n_threads++;
  thread = g_thread_try_new ("kw-line", thread_main, g_object_ref (self), NULL);
  if (thread == NULL)
    {
      self->n_threads--;
      g_object_unref (self);
    }
}

static gboolean
is_surplus (KwLineServer *self)
{
  gboolean surplus = FALSE;

  g_mutex_lock (&self->lock);
  surplus = self->n_threads > self->n_event_threads;
  g_mutex_unlock (&self->lock);
  return surplus;
}

static gpointer
thread_main (gpointer user_data)
{
  KwLineServer *self = user_data;
  struct epoll_event event = { 0 };

  for (;;)
    {
      int n
          = epoll_wait (self->epoll, &event, 1, is_surplus (self) ? SURPLUS_THREAD_WAIT_MSEC : -1);
      Peer *peer = event.data.ptr;

      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0 || (n > 0 && peer == NULL) || (n == 0 && is_surplus (self)))
        break;
      if (n == 0)
        continue;
      g_atomic_int_inc (&self->n_busy);
      if (peer->listening)
        accept_connections (peer);
      else
        serve_peer (peer);
      g_atomic_int_add (&self->n_busy, -1);
      g_atomic_int_inc (&self->n_handled);
    }
  g_mutex_lock (&self->lock);
  self->n_threads--;
  g_cond_broadcast (&self->thread_left);
  g_mutex_unlock (&self->lock);
  g_object_unref (self);
  return NULL;
}

/* Called with the lock held: connections that sent no token in time are shut; their threads then close them. */
static void
shut_silent_peers (KwLineServer *self)
{
  gint64 now = g_get_monotonic_time ();
  GHashTableIter iter;
  gpointer key = NULL;

  g_hash_table_iter_init (&iter, self->peers);
  while (g_hash_table_iter_next (&iter, &key, NULL))
    {
      const Peer *peer = key;

      if (!peer->greeted && now - peer->since > TOKEN_TIMEOUT_USEC)
        shutdown (peer->fd, SHUT_RDWR);
    }
}

static gboolean
on_tick (gpointer user_data)
{
  KwLineServer *self = KW_LINE_SERVER (user_data);
  guint n_handled = (guint) g_atomic_int_get (&self->n_handled);

  g_mutex_lock (&self->lock);
  shut_silent_peers (self);
  if (self->resting && self->accepting)
    {
      self->resting = FALSE;
      for (guint i = 0; i < self->listeners->len; i++)
        add_listener (self, g_ptr_array_index (self->listeners, i));
    }
  /* Every thread is busy and none has finished anything since the last tick: they are held up by a token. */
  if ((guint) g_atomic_int_get (&self->n_busy) >= self->n_threads
      && n_handled == self->n_handled_before && self->n_threads < MAX_THREADS)
    start_thread (self);
  g_mutex_unlock (&self->lock);
  self->n_handled_before = n_handled;
  return G_SOURCE_CONTINUE;
}

static void
kw_line_server_dispose (GObject *object)
{
  KwLineServer *self = KW_LINE_SERVER (object);

  kw_line_server_stop (self);
  g_clear_object (&self->service);
  G_OBJECT_CLASS (kw_line_server_parent_class)->dispose (object);
}

static void
kw_line_server_finalize (GObject *object)
{
  KwLineServer *self = KW_LINE_SERVER (object);

  if (self->epoll >= 0)
    close (self->epoll);
  if (self->wake >= 0)
    close (self->wake);
  g_clear_pointer (&self->token, kw_secret_unref);
  g_clear_pointer (&self->key_id, g_bytes_unref);
  g_hash_table_unref (self->peers);
  g_ptr_array_unref (self->listeners);
  g_mutex_clear (&self->lock);
  g_cond_clear (&self->thread_left);
  G_OBJECT_CLASS (kw_line_server_parent_class)->finalize (object);
}

static void
kw_line_server_class_init (KwLineServerClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  object_class->dispose = kw_line_server_dispose;
  object_class->finalize = kw_line_server_finalize;
}

static void
kw_line_server_init (KwLineServer *self)
{
  g_mutex_init (&self->lock);
  g_cond_init (&self->thread_left);
  self->epoll = -1;
  self->wake = -1;
  self->peers = g_hash_table_new (NULL, NULL);
  self->listeners = g_ptr_array_new_with_free_func ((GDestroyNotify) peer_free);
}

/**
 * kw_line_server_new:
 * @config: table `[line]`; must outlive the server
 * @service: what does the work
 * @token: what a client must send first
 *
 * Returns: (transfer full): a server without sockets. Main context.
 */
KwLineServer *
kw_line_server_new (const KwLineConfig *config, KwService *service, KwSecret *token)
{
  KwLineServer *self = g_object_new (KW_TYPE_LINE_SERVER, NULL);

  self->config = config;
  self->service = g_object_ref (service);
  self->token = kw_secret_ref (token);
  self->key_id = config->key != NULL ? g_bytes_ref (config->key) : NULL;
  return self;
}

/**
 * kw_line_server_start:
 * @self: a server
 * @sockets: (element-type int): listening sockets; taken out of the list
 * @error: where to store the error
 *
 * Begins to serve. Main context.
 *
 * Returns: %FALSE with %KW_ERROR_FAILED
 */
gboolean
kw_line_server_start (KwLineServer *self, GArray *sockets, GError **error)
{
  struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };
  gboolean ok = FALSE;

  g_return_val_if_fail (KW_IS_LINE_SERVER (self), FALSE);

  self->epoll = epoll_create1 (EPOLL_CLOEXEC);
  self->wake = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  ok = self->epoll >= 0 && self->wake >= 0
       && epoll_ctl (self->epoll, EPOLL_CTL_ADD, self->wake, &event) == 0;
  for (guint i = 0; ok && i < sockets->len; i++)
    {
      Peer *listener = g_new0 (Peer, 1);

      listener->server = self;
      listener->listening = TRUE;
      listener->fd = dup (g_array_index (sockets, int, i));
      g_ptr_array_add (self->listeners, listener);
      ok = listener->fd >= 0 && add_listener (self, listener);
    }
  if (!ok)
    {
      int saved_errno = errno;

      g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "The line socket cannot be served: %s",
                   g_strerror (saved_errno));
      return FALSE;
    }
  g_array_set_size (sockets, 0);
  self->accepting = TRUE;
  self->n_event_threads = CLAMP (g_get_num_processors (), 1, MAX_EVENT_THREADS);
  g_mutex_lock (&self->lock);
  for (guint i = 0; i < self->n_event_threads; i++)
    start_thread (self);
  g_mutex_unlock (&self->lock);
  self->tick_source = g_timeout_add (TICK_MSEC, on_tick, self);
  return TRUE;
}

/**
 * kw_line_server_dup_key_id:
 * @self: a server
 * @error: where to store the error
 *
 * Tells which key decrypts: the configured one, or the only RSA key that there was when one was first needed. Any thread.
 *
 * Returns: (transfer full): its CKA_ID; %NULL with %KW_ERROR_UNAVAILABLE (no device is ready), %KW_ERROR_KEY_NOT_FOUND
 *   (there is no RSA key) or %KW_ERROR_AMBIGUOUS (there are several)
 */
GBytes *
kw_line_server_dup_key_id (KwLineServer *self, GError **error)
{
  g_autoptr (GMutexLocker) locker = NULL;
  g_autoptr (GPtrArray) keys = NULL;
  KwPool *pool = NULL;

  g_return_val_if_fail (KW_IS_LINE_SERVER (self), NULL);

  locker = g_mutex_locker_new (&self->lock);
  if (self->key_id != NULL)
    return g_bytes_ref (self->key_id);
  pool = kw_service_get_pool (self->service);
  keys = kw_pool_dup_ready_keys (pool, KW_KEY_KIND_RSA);
  if (keys->len == 1)
    {
      self->key_id = g_bytes_ref (kw_key_get_id (g_ptr_array_index (keys, 0)));
      return g_bytes_ref (self->key_id);
    }
  if (keys->len > 1)
    g_set_error (
        error, KW_ERROR, KW_ERROR_AMBIGUOUS,
        "The token holds %u RSA keys; set [line] key to the UUID of the one that the line socket uses",
        keys->len);
  else if (kw_pool_is_ready (pool))
    g_set_error_literal (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND,
                         "The token holds no RSA key; make one with: genkey LABEL");
  else
    g_set_error_literal (error, KW_ERROR, KW_ERROR_UNAVAILABLE, "No device is ready");
  return NULL;
}

/**
 * kw_line_server_quiesce:
 * @self: a server
 *
 * Takes no new connection and no new line; what is at the service is answered. Main context.
 */
void
kw_line_server_quiesce (KwLineServer *self)
{
  GHashTableIter iter;
  gpointer key = NULL;

  g_return_if_fail (KW_IS_LINE_SERVER (self));

  g_atomic_int_set (&self->quiesced, TRUE);
  g_mutex_lock (&self->lock);
  self->accepting = FALSE;
  /* Those that wait for a line read the end now; those with a line at the service are answered first. */
  g_hash_table_iter_init (&iter, self->peers);
  while (g_hash_table_iter_next (&iter, &key, NULL))
    shutdown (((Peer *) key)->fd, SHUT_RD);
  for (guint i = 0; i < self->listeners->len; i++)
    epoll_ctl (self->epoll, EPOLL_CTL_DEL, ((Peer *) g_ptr_array_index (self->listeners, i))->fd,
               NULL);
  g_mutex_unlock (&self->lock);
}

/**
 * kw_line_server_get_n_pending:
 * @self: a server
 *
 * Returns: how many lines are at hand: at the service, or with a thread. Any thread.
 */
guint
kw_line_server_get_n_pending (KwLineServer *self)
{
  g_return_val_if_fail (KW_IS_LINE_SERVER (self), 0);

  return (guint) (g_atomic_int_get (&self->n_pending) + g_atomic_int_get (&self->n_busy));
}

/**
 * kw_line_server_stop:
 * @self: a server
 *
 * Ends the threads and all connections. A thread that a token holds up is left behind, with what it uses. May be called
 * again. Main context.
 */
void
kw_line_server_stop (KwLineServer *self)
{
  guint64 one = 1;
  gint64 deadline = g_get_monotonic_time () + G_TIME_SPAN_SECOND;
  gboolean all_left = FALSE;
  GHashTableIter iter;
  gpointer key = NULL;

  g_return_if_fail (KW_IS_LINE_SERVER (self));

  g_clear_handle_id (&self->tick_source, g_source_remove);
  if (self->wake < 0 || self->stopping)
    return;
  kw_line_server_quiesce (self);
  (void) !write (self->wake, &one, sizeof one);
  g_mutex_lock (&self->lock);
  self->stopping = TRUE;
  while (self->n_threads > 0 && g_cond_wait_until (&self->thread_left, &self->lock, deadline))
    continue;
  all_left = self->n_threads == 0 && g_atomic_int_get (&self->n_pending) == 0;
  g_hash_table_iter_init (&iter, self->peers);
  while (g_hash_table_iter_next (&iter, &key, NULL))
    {
      shutdown (((Peer *) key)->fd, SHUT_RDWR);
      if (all_left)
        peer_free (key);
    }
  g_hash_table_remove_all (self->peers);
  g_mutex_unlock (&self->lock);
}
