/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-answers"

#include "kw-http-server.h"
#include "kw-server-start.h"
#include "kw-softhsm.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * Requests that are answered later, on the HTTP server alone.
 */

#define WAIT_SECONDS 20

typedef struct
{
  KwServerConfig config;
  KwHttpServer *server;
  guint16 port;
  GMutex lock;
  GCond changed;
  KwHttpRequest *request; /* guarded by lock: the one that waits */
  gboolean resuming;      /* guarded by lock: its answer is being given */
  gboolean go_on;         /* guarded by lock */
} Bench;

/* The one that resumes have to stop for; only one test runs at a time. */
static Bench *held; /* lint: allow file-scope — the function below has no other way to it */

/* Stands before that of the library: a thread that gives an answer may lose its processor right here. */
void
MHD_resume_connection (struct MHD_Connection *connection)
{
  void (*resume) (struct MHD_Connection *) = NULL;

  *(void **) &resume = dlsym (RTLD_NEXT, "MHD_resume_connection");
  if (held != NULL)
    {
      g_mutex_lock (&held->lock);
      held->resuming = TRUE;
      g_cond_broadcast (&held->changed);
      while (!held->go_on)
        g_cond_wait (&held->changed, &held->lock);
      g_mutex_unlock (&held->lock);
    }
  resume (connection);
}

static void
handle (KwHttpRequest *request, gpointer user_data)
{
  Bench *bench = user_data;

  g_mutex_lock (&bench->lock);
  bench->request = kw_http_request_ref (request);
  g_cond_broadcast (&bench->changed);
  g_mutex_unlock (&bench->lock);
}

static Bench *
bench_new (void)
{
  Bench *bench = g_new0 (Bench, 1);
  const KwHttpRoute route
      = { .method = "GET", .path = "/later", .handle = handle, .user_data = bench };

  bench->server = kw_server_start (&bench->config, &route, &bench->port);
  return bench;
}

static void
bench_free (Bench *bench)
{
  kw_http_server_stop (bench->server);
  g_clear_pointer (&bench->request, kw_http_request_unref);
  g_object_unref (bench->server);
  g_free (bench);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Bench, bench_free)

/* Asks, and comes back when the request waits for its answer. */
static int
ask (Bench *bench)
{
  static const char text[] = "GET /later HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  int fd = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons (bench->port) };
  const struct timeval limit = { WAIT_SECONDS, 0 };

  address.sin_addr.s_addr = htonl (INADDR_LOOPBACK);
  g_assert_cmpint (setsockopt (fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), ==, 0);
  g_assert_cmpint (connect (fd, (struct sockaddr *) &address, sizeof address), ==, 0);
  g_assert_cmpint (send (fd, text, strlen (text), MSG_NOSIGNAL), ==, strlen (text));
  g_mutex_lock (&bench->lock);
  while (bench->request == NULL)
    g_cond_wait (&bench->changed, &bench->lock);
  g_mutex_unlock (&bench->lock);
  while (kw_http_server_get_n_pending (bench->server) == 0)
    g_thread_yield ();
  return fd;
}

static void
expect (int fd, const char *text)
{
  g_autoptr (GString) received = g_string_new (NULL);

  while (strstr (received->str, text) == NULL)
    {
      char buffer[1024];
      ssize_t n = recv (fd, buffer, sizeof buffer, 0);

      g_assert_cmpint (n, >, 0);
      g_string_append_len (received, buffer, n);
    }
}

static gpointer
answer (gpointer data)
{
  Bench *bench = data;

  kw_http_request_respond_text (bench->request, 200, "here it is");
  return NULL;
}

/* libmicrohttpd ends the process when it is ended with a connection that rests: until then the request has to count. */
static void
test_pending_until_resumed (void)
{
  g_autoptr (Bench) bench = bench_new ();
  int fd = ask (bench);
  GThread *thread = NULL;
  guint n_pending = 0;

  held = bench;
  thread = g_thread_new ("answer", answer, bench);
  g_mutex_lock (&bench->lock);
  while (!bench->resuming)
    g_cond_wait (&bench->changed, &bench->lock);
  n_pending = kw_http_server_get_n_pending (bench->server);
  bench->go_on = TRUE;
  g_cond_broadcast (&bench->changed);
  g_mutex_unlock (&bench->lock);
  g_thread_join (thread);
  held = NULL;
  g_assert_cmpuint (n_pending, ==, 1);
  expect (fd, "here it is");
  g_assert_cmpuint (kw_http_server_get_n_pending (bench->server), ==, 0);
  close (fd);
}

/* Who still waits when the server ends is told so. */
static void
test_end_of_the_server (void)
{
  for (guint i = 0; i < 20; i++)
    {
      g_autoptr (Bench) bench = bench_new ();
      int fd = ask (bench);

      kw_http_server_stop (bench->server);
      expect (fd, "503");
      g_assert_cmpuint (kw_http_server_get_n_pending (bench->server), ==, 0);
      close (fd);
    }
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/answers/pending-until-resumed", test_pending_until_resumed);
  g_test_add_func ("/answers/end-of-the-server", test_end_of_the_server);
  return g_test_run ();
}
