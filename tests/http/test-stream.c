/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-stream"

#include "kw-http-stream.h"
#include "kw-limits.h"
#include "kw-server-start.h"
#include "kw-softhsm.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * Answers without an end, on the HTTP server alone.
 */

#define SMALL_BUFFER 4096
#define WAIT_SECONDS 20

typedef struct
{
  KwServerConfig config;
  KwHttpServer *server;
  guint16 port;
  GMutex lock;
  GCond opened;
  KwHttpStream *stream; /* the last one; guarded by lock */
} Bench;

static void
handle (KwHttpRequest *request, gpointer user_data)
{
  Bench *bench = user_data;
  const KwHttpResponse response = { .status = 200, .content_type = "text/event-stream" };
  KwHttpStream *stream = kw_http_stream_new (request, &response);

  g_mutex_lock (&bench->lock);
  g_clear_pointer (&bench->stream, kw_http_stream_unref);
  bench->stream = stream;
  g_cond_signal (&bench->opened);
  g_mutex_unlock (&bench->lock);
}

static Bench *
bench_new (void)
{
  Bench *bench = g_new0 (Bench, 1);
  const KwHttpRoute route
      = { .method = "GET", .path = "/events", .handle = handle, .user_data = bench };

  bench->server = kw_server_start (&bench->config, &route, &bench->port);
  return bench;
}

static void
bench_free (Bench *bench)
{
  kw_http_server_stop (bench->server);
  g_clear_pointer (&bench->stream, kw_http_stream_unref);
  g_object_unref (bench->server);
  g_free (bench);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Bench, bench_free)

/* Connects and asks; the stream is open then. */
static int
open_stream (Bench *bench, int receive_buffer)
{
  static const char request[] = "GET /events HTTP/1.1\r\nHost: x\r\n\r\n";
  int fd = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons (bench->port) };
  const struct timeval limit = { WAIT_SECONDS, 0 };

  address.sin_addr.s_addr = htonl (INADDR_LOOPBACK);
  if (receive_buffer > 0)
    g_assert_cmpint (setsockopt (fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer),
                     ==, 0);
  g_assert_cmpint (setsockopt (fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), ==, 0);
  g_assert_cmpint (connect (fd, (struct sockaddr *) &address, sizeof address), ==, 0);
  g_mutex_lock (&bench->lock);
  g_clear_pointer (&bench->stream, kw_http_stream_unref);
  g_assert_cmpint (send (fd, request, strlen (request), MSG_NOSIGNAL), ==, strlen (request));
  while (bench->stream == NULL)
    g_cond_wait (&bench->opened, &bench->lock);
  g_mutex_unlock (&bench->lock);
  return fd;
}

static void
push_text (Bench *bench, const char *text)
{
  g_autoptr (GBytes) bytes = g_bytes_new (text, strlen (text));

  g_assert_true (kw_http_stream_push (bench->stream, bytes));
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

static void
test_what_is_added_arrives (void)
{
  g_autoptr (Bench) bench = bench_new ();
  int fd = open_stream (bench, 0);

  push_text (bench, "first");
  expect (fd, "first");
  /* The connection is suspended in between. */
  for (guint i = 0; i < 100; i++)
    {
      g_autofree char *text = g_strdup_printf ("event %u.", i);

      push_text (bench, text);
      expect (fd, text);
    }
  kw_http_stream_close (bench->stream);
  expect (fd, "0\r\n\r\n");
  close (fd);
}

static void
test_the_end_of_the_server_ends_it (void)
{
  g_autoptr (Bench) bench = bench_new ();
  int fd = open_stream (bench, 0);
  g_autoptr (GBytes) bytes = g_bytes_new_static ("x", 1);

  push_text (bench, "last words");
  kw_http_server_quiesce (bench->server);
  expect (fd, "last words\r\n0\r\n\r\n");
  g_assert_false (kw_http_stream_push (bench->stream, bytes));
  close (fd);
}

static void
test_who_does_not_read_is_cut_off (void)
{
  g_autoptr (Bench) bench = bench_new ();
  int slow = open_stream (bench, SMALL_BUFFER);
  g_autofree char *text = g_strnfill (8192, 'x');
  g_autoptr (GBytes) bytes = g_bytes_new (text, strlen (text));
  KwHttpStream *stream = NULL;
  char buffer[65536];
  gsize n_pushed = 0;
  ssize_t n = 0;
  int quick = -1;

  g_mutex_lock (&bench->lock);
  stream = g_steal_pointer (&bench->stream);
  g_mutex_unlock (&bench->lock);
  /* What the kernel takes is not ours to say; it is a few megabytes at most. */
  while (kw_http_stream_push (stream, bytes))
    {
      n_pushed += strlen (text);
      g_assert_cmpuint (n_pushed, <, 512 * 1024 * 1024);
    }
  g_assert_cmpuint (n_pushed, >=, KW_MAX_STREAM_BYTES);
  g_assert_false (kw_http_stream_push (stream, bytes));
  /* Others are served as before. */
  quick = open_stream (bench, 0);
  push_text (bench, "hello");
  expect (quick, "hello");
  close (quick);
  do
    n = recv (slow, buffer, sizeof buffer, 0);
  while (n > 0);
  g_assert_true (n == 0 || errno == ECONNRESET);
  close (slow);
  kw_http_stream_unref (stream);
}

/* A list of very many keys is no fault of who reads it; neither at the beginning nor when the connection rests. */
static void
test_much_at_once (void)
{
  g_autoptr (Bench) bench = bench_new ();
  int fd = open_stream (bench, 0);
  g_autofree char *much = g_strnfill (2 * KW_MAX_STREAM_BYTES, 'x');

  push_text (bench, much);
  expect (fd, "xxxxxxxx");
  close (fd);
  fd = open_stream (bench, 0);
  push_text (bench, "hello");
  expect (fd, "hello");
  push_text (bench, much);
  kw_http_stream_close (bench->stream);
  expect (fd, "0\r\n\r\n");
  close (fd);
}

static void
test_who_leaves_is_noticed (void)
{
  g_autoptr (Bench) bench = bench_new ();
  int fd = open_stream (bench, 0);
  g_autoptr (GBytes) bytes = g_bytes_new_static ("beat", 4);
  gint64 by = g_get_monotonic_time () + WAIT_SECONDS * G_TIME_SPAN_SECOND;

  push_text (bench, "hello");
  expect (fd, "hello");
  close (fd);
  while (kw_http_stream_push (bench->stream, bytes))
    {
      g_assert_cmpint (g_get_monotonic_time (), <, by);
      g_thread_yield ();
    }
}

/* Many come, hear and go, while others add. */
static void
test_coming_and_going (void)
{
  g_autoptr (Bench) bench = bench_new ();

  for (guint i = 0; i < 300; i++)
    {
      int fd = open_stream (bench, 0);
      g_autoptr (GBytes) bytes = g_bytes_new_static ("beat", 4);

      (void) kw_http_stream_push (bench->stream, bytes);
      if (i % 3 == 0)
        expect (fd, "beat");
      (void) kw_http_stream_push (bench->stream, bytes);
      close (fd);
      (void) kw_http_stream_push (bench->stream, bytes);
      if (i % 2 == 0)
        kw_http_stream_close (bench->stream);
    }
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/stream/arrives", test_what_is_added_arrives);
  g_test_add_func ("/stream/server-ends", test_the_end_of_the_server_ends_it);
  g_test_add_func ("/stream/slow", test_who_does_not_read_is_cut_off);
  g_test_add_func ("/stream/much-at-once", test_much_at_once);
  g_test_add_func ("/stream/leaves", test_who_leaves_is_noticed);
  g_test_add_func ("/stream/coming-and-going", test_coming_and_going);
  return g_test_run ();
}
