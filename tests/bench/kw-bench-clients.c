/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bench-clients"

#include "kw-bench.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * Clients of the daemon, all in one thread on an epoll set, so that the load generator takes as little of the two cores
 * as it can. Each client has one request under way; each answer is checked.
 */

#define MAX_ANSWER 2048
#define MAX_EVENTS 64

typedef struct
{
  int fd;
  gint64 started;
  char answer[MAX_ANSWER];
  gsize n_answer;
} Client;

typedef struct
{
  const KwBenchSetup *setup;
  KwBenchMode mode;
  char *request; /* what a client sends for one answer */
  gsize n_request;
  char *expected; /* end of a right answer */
  gsize n_expected;
  gsize n_whole; /* size of a whole answer on a kept connection, learnt from the first */
  int epoll;
  GArray *samples;
} Run;

static gboolean
is_http (KwBenchMode mode)
{
  return mode == KW_BENCH_HTTP_KEPT || mode == KW_BENCH_HTTP_CLOSED;
}

static gboolean
is_closed (KwBenchMode mode)
{
  return mode == KW_BENCH_LINE_CLOSED || mode == KW_BENCH_HTTP_CLOSED;
}

static void
prepare_line (Run *run)
{
  gsize n_ciphertext = 0;
  const guint8 *ciphertext = g_bytes_get_data (run->setup->ciphertext, &n_ciphertext);
  g_autofree char *text = g_base64_encode (ciphertext, n_ciphertext);
  g_autofree char *plaintext = g_base64_encode (g_bytes_get_data (run->setup->plaintext, NULL),
                                                g_bytes_get_size (run->setup->plaintext));

  run->request = run->mode == KW_BENCH_LINE_CLOSED
                     ? g_strconcat (run->setup->line_token, "\r\n", text, "\r\n", NULL)
                     : g_strconcat (text, "\r\n", NULL);
  run->n_request = strlen (run->request);
  run->expected = g_strconcat (plaintext, "\r\n", NULL);
  run->n_expected = strlen (run->expected);
  run->n_whole = run->n_expected + (run->mode == KW_BENCH_LINE_CLOSED ? strlen ("OK\r\n") : 0);
}

static void
prepare_http (Run *run)
{
  gsize n_ciphertext = 0;
  const guint8 *ciphertext = g_bytes_get_data (run->setup->ciphertext, &n_ciphertext);
  g_autofree char *head = g_strdup_printf (
      "POST /decrypt/%s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"
      "Content-Length: %" G_GSIZE_FORMAT "\r\n%s\r\n",
      run->setup->key_uuid, run->setup->jwt, n_ciphertext,
      run->mode == KW_BENCH_HTTP_CLOSED ? "Connection: close\r\n" : "");
  gsize n_head = strlen (head);

  run->n_request = n_head + n_ciphertext;
  run->request = g_malloc (run->n_request);
  memcpy (run->request, head, n_head);
  memcpy (run->request + n_head, ciphertext, n_ciphertext);
  run->n_expected = g_bytes_get_size (run->setup->plaintext);
  run->expected = g_memdup2 (g_bytes_get_data (run->setup->plaintext, NULL), run->n_expected);
}

static void
send_request (Run *run, Client *client)
{
  client->n_answer = 0;
  kw_test_send (client->fd, run->request, (gssize) run->n_request);
}

static void
connect_client (Run *run, Client *client)
{
  struct epoll_event event = { .events = EPOLLIN, .data.ptr = client };

  client->fd = is_http (run->mode) ? kw_daemon_rig_connect_http (run->setup->rig)
                                   : kw_daemon_rig_connect_line (run->setup->rig);
  if (run->mode == KW_BENCH_LINE_KEPT)
    {
      g_autofree char *ok = NULL;

      kw_test_send (client->fd, run->setup->line_token, -1);
      kw_test_send (client->fd, "\r\n", 2);
      ok = kw_test_receive_line (client->fd);
      g_assert_cmpstr (ok, ==, "OK");
    }
  g_assert_cmpint (epoll_ctl (run->epoll, EPOLL_CTL_ADD, client->fd, &event), ==, 0);
}

static gboolean
answer_is_whole (Run *run, Client *client, gssize n_read)
{
  if (run->mode == KW_BENCH_HTTP_CLOSED)
    return n_read == 0;
  if (run->n_whole == 0)
    {
      const char *body = memmem (client->answer, client->n_answer, "\r\n\r\n", 4);

      if (body == NULL || (gsize) (client->answer + client->n_answer - body) < 4 + run->n_expected)
        return FALSE;
      run->n_whole = client->n_answer;
    }
  return client->n_answer >= run->n_whole;
}

static void
check_answer (Run *run, Client *client)
{
  if (client->n_answer < run->n_expected
      || memcmp (client->answer + client->n_answer - run->n_expected, run->expected,
                 run->n_expected)
             != 0)
    g_error ("wrong answer: %.*s", (int) client->n_answer, client->answer);
}

/* Reads what a client was sent; TRUE when its request is answered. */
static gboolean
read_answer (Run *run, Client *client)
{
  gssize n = recv (client->fd, client->answer + client->n_answer, MAX_ANSWER - client->n_answer,
                   MSG_DONTWAIT);

  if (n < 0 && errno == EAGAIN)
    return FALSE;
  if (n < 0 || (n == 0 && run->mode != KW_BENCH_HTTP_CLOSED))
    g_error ("the daemon closed a connection: %s", n < 0 ? g_strerror (errno) : "end");
  client->n_answer += (gsize) n;
  if (!answer_is_whole (run, client, n))
    return FALSE;
  check_answer (run, client);
  return TRUE;
}

static void
start_client (Run *run, Client *client)
{
  client->started = g_get_monotonic_time ();
  if (client->fd < 0)
    connect_client (run, client);
  send_request (run, client);
}

static void
finish_request (Run *run, Client *client)
{
  guint32 sample = (guint32) (g_get_monotonic_time () - client->started);

  g_array_append_val (run->samples, sample);
  if (is_closed (run->mode))
    {
      close (client->fd);
      client->fd = -1;
    }
}

static void
run_free (Run *run)
{
  g_free (run->request);
  g_free (run->expected);
  close (run->epoll);
}

static void
prepare (Run *run)
{
  run->epoll = epoll_create1 (EPOLL_CLOEXEC);
  if (is_http (run->mode))
    prepare_http (run);
  else
    prepare_line (run);
}

/**
 * kw_bench_clients_run:
 * @setup: what to measure
 * @mode: how the clients speak
 * @n_clients: how many there are
 * @out_figures: (out): the figures
 *
 * Lets clients decrypt for a while.
 */
void
kw_bench_clients_run (const KwBenchSetup *setup,
                      KwBenchMode mode,
                      guint n_clients,
                      KwBenchFigures *out_figures)
{
  Run run = { .setup = setup, .mode = mode };
  g_autofree Client *clients = g_new0 (Client, n_clients);
  g_autoptr (GArray) samples = g_array_sized_new (FALSE, FALSE, sizeof (guint32), 16384);
  gint64 start = 0;
  gint64 end = 0;
  guint n_active = n_clients;

  run.samples = samples;
  prepare (&run);
  for (guint i = 0; i < n_clients; i++)
    {
      clients[i].fd = -1;
      if (!is_closed (mode))
        connect_client (&run, &clients[i]);
    }
  start = g_get_monotonic_time ();
  end = start + (gint64) (setup->seconds * G_USEC_PER_SEC);
  for (guint i = 0; i < n_clients; i++)
    start_client (&run, &clients[i]);
  while (n_active > 0)
    {
      struct epoll_event events[MAX_EVENTS];
      int n = epoll_wait (run.epoll, events, MAX_EVENTS, -1);

      for (int i = 0; i < n; i++)
        {
          Client *client = events[i].data.ptr;

          if (!read_answer (&run, client))
            continue;
          finish_request (&run, client);
          if (g_get_monotonic_time () < end)
            start_client (&run, client);
          else
            n_active--;
        }
    }
  kw_bench_figures_from_samples (samples,
                                 (double) (g_get_monotonic_time () - start) / G_USEC_PER_SEC,
                                 out_figures);
  for (guint i = 0; i < n_clients; i++)
    {
      if (clients[i].fd >= 0)
        close (clients[i].fd);
    }
  run_free (&run);
}
