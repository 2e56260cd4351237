/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "keyward-bench"

#include "kw-bench.h"

#include <arpa/inet.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * Measures the daemon beside the bare PKCS#11 loop on the same token, interleaved in one run, because only ratios mean
 * anything on a shared machine.
 */

#define MAX_ROUNDS 99
#define N_WORK_REQUESTS 10000
#define N_IDLE_CONNECTIONS 1000
#define N_NEW_CONNECTIONS 100000
#define N_ABANDONED_CONNECTIONS 10000

static const guint client_counts[] = { 1, 4, 16, 64 };

typedef struct
{
  const char *title;
  double goal_4; /* ratio to the loop; 0 = none */
  double goal_16;
  double goal_added; /* microseconds over the loop's p50 with 1 client; 0 = none */
  double goal_p99_4; /* microseconds; 0 = none */
} ModeRow;

static const ModeRow mode_rows[KW_BENCH_N_MODES] = {
  [KW_BENCH_LOOP] = { "bare PKCS#11 loop", 0, 0, 0, 0 },
  [KW_BENCH_LINE_KEPT] = { "line socket, connection kept", 0.92, 0.92, 55, 1500 },
  [KW_BENCH_LINE_CLOSED] = { "line socket, a connection per request", 0.82, 0.85, 0, 0 },
  [KW_BENCH_HTTP_KEPT] = { "HTTP + JWT, keep-alive", 0.83, 0.83, 120, 2500 },
  [KW_BENCH_HTTP_CLOSED] = { "HTTP + JWT, a connection per request", 0.72, 0.75, 0, 0 },
};

typedef KwBenchFigures Results[MAX_ROUNDS][G_N_ELEMENTS (client_counts)][KW_BENCH_N_MODES];

static int
compare_doubles (gconstpointer a, gconstpointer b)
{
  double x = *(const double *) a;
  double y = *(const double *) b;

  return x < y ? -1 : x > y;
}

/**
 * kw_bench_median:
 * @values: (array length=n): figures, which are sorted
 * @n: how many, at least one
 *
 * Returns: the one in the middle
 */
double
kw_bench_median (double *values, guint n)
{
  qsort (values, n, sizeof *values, compare_doubles);
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static const char *
verdict (double value, double goal, gboolean more_is_better)
{
  if (goal == 0)
    return "";
  return (more_is_better ? value >= goal : value <= goal) ? " ok" : " MISSED";
}

static void
print_mode (Results results, guint rounds, guint count_index, KwBenchMode mode)
{
  const ModeRow *row = &mode_rows[mode];
  guint clients = client_counts[count_index];
  double per_second[MAX_ROUNDS], ratio[MAX_ROUNDS], p50[MAX_ROUNDS], p99[MAX_ROUNDS],
      added[MAX_ROUNDS];
  double goal = clients == 4 ? row->goal_4 : clients == 16 ? row->goal_16 : 0;
  double ratio_median = 0;
  double p99_median = 0;

  for (guint r = 0; r < rounds; r++)
    {
      const KwBenchFigures *figures = &results[r][count_index][mode];
      const KwBenchFigures *loop = &results[r][count_index][KW_BENCH_LOOP];

      per_second[r] = figures->per_second;
      ratio[r] = figures->per_second / loop->per_second;
      p50[r] = figures->p50_usec;
      p99[r] = figures->p99_usec;
      added[r] = figures->p50_usec - loop->p50_usec;
    }
  ratio_median = kw_bench_median (ratio, rounds);
  p99_median = kw_bench_median (p99, rounds);
  g_print ("%4u  %-39s %7.0f  %5.2f", clients, row->title, kw_bench_median (per_second, rounds),
           ratio_median);
  g_print ("%-7s %8.0f %8.0f", verdict (ratio_median, goal, TRUE), kw_bench_median (p50, rounds),
           p99_median);
  if (clients == 4)
    g_print ("%s", verdict (p99_median, row->goal_p99_4, FALSE));
  if (clients == 1 && mode != KW_BENCH_LOOP)
    {
      double added_median = kw_bench_median (added, rounds);

      g_print ("   +%.0f µs%s", added_median, verdict (added_median, row->goal_added, FALSE));
    }
  g_print ("\n");
}

static void
bench_decrypt (KwBenchSetup *setup, guint rounds)
{
  g_autofree Results *results = g_malloc0 (sizeof (Results));

  kw_bench_loop_open (setup);
  for (guint r = 0; r < rounds; r++)
    {
      for (guint c = 0; c < G_N_ELEMENTS (client_counts); c++)
        {
          g_printerr ("\rround %u of %u, %2u clients ", r + 1, rounds, client_counts[c]);
          for (guint m = 0; m < KW_BENCH_N_MODES; m++)
            {
              if (m == KW_BENCH_LOOP)
                kw_bench_loop_run (setup, client_counts[c], &(*results)[r][c][m]);
              else
                kw_bench_clients_run (setup, (KwBenchMode) m, client_counts[c],
                                      &(*results)[r][c][m]);
            }
        }
    }
  kw_bench_loop_close ();
  g_printerr ("\r%40s\r", "");
  g_print (
      "RSA-2048 decrypt, medians of %u interleaved runs of %.1f s; ratio = beside the bare loop\n",
      rounds, setup->seconds);
  g_print ("clients %-37s per s   ratio            p50 µs   p99 µs\n", "");
  for (guint c = 0; c < G_N_ELEMENTS (client_counts); c++)
    for (guint m = 0; m < KW_BENCH_N_MODES; m++)
      print_mode (*results, rounds, c, (KwBenchMode) m);
}

/* Until the first ciphertext is decrypted, asked for as soon as the daemon takes a connection. */
static void
bench_start (KwBenchSetup *setup, guint rounds)
{
  double values[MAX_ROUNDS];
  double result = 0;

  for (guint r = 0; r < rounds; r++)
    {
      kw_daemon_rig_stop (setup->rig);
      values[r] = (double) kw_daemon_rig_time_first_answer (setup->rig, setup->key_uuid, setup->jwt,
                                                            setup->ciphertext)
                  / 1000.0;
    }
  result = kw_bench_median (values, rounds);
  g_print ("start to first answer          %6.1f ms      goal 25%s\n", result,
           verdict (result, 25, FALSE));
}

static void
fresh_daemon (KwBenchSetup *setup)
{
  if (kw_daemon_rig_get_pid (setup->rig) != 0)
    kw_daemon_rig_stop (setup->rig);
  kw_daemon_rig_start (setup->rig);
  g_free (setup->line_token);
  setup->line_token = kw_daemon_rig_dup_line_token (setup->rig);
}

static void
decrypt_by_http (const KwBenchSetup *setup)
{
  g_autofree char *path = g_strdup_printf ("/decrypt/%s", setup->key_uuid);
  g_autoptr (KwTestResponse) response
      = kw_daemon_rig_post (setup->rig, path, setup->jwt, setup->ciphertext);

  g_assert_cmpuint (response->status, ==, 200);
}

static void
hold_connections (const KwBenchSetup *setup, gboolean http, const char *title, double goal_mib)
{
  int pid = kw_daemon_rig_get_pid (setup->rig);
  g_autofree int *sockets = g_new0 (int, N_IDLE_CONNECTIONS);
  guint64 before = kw_test_resident_kib (pid);
  guint descriptors = kw_test_count_descriptors (pid);
  double added = 0;

  for (guint i = 0; i < N_IDLE_CONNECTIONS; i++)
    {
      if (http)
        {
          g_autoptr (KwTestResponse) response = NULL;

          sockets[i] = kw_daemon_rig_connect_http (setup->rig);
          kw_test_send (sockets[i], "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", -1);
          response = kw_test_receive_response (sockets[i]);
          g_assert_cmpuint (response->status, ==, 404);
        }
      else
        {
          g_autofree char *ok = NULL;

          sockets[i] = kw_daemon_rig_connect_line (setup->rig);
          kw_test_send (sockets[i], setup->line_token, -1);
          kw_test_send (sockets[i], "\r\n", 2);
          ok = kw_test_receive_line (sockets[i]);
          g_assert_cmpstr (ok, ==, "OK");
        }
    }
  added = (double) (kw_test_resident_kib (pid) - before) / 1024.0;
  g_print ("%-30s %6.1f MiB     goal %.0f%s; %u descriptors\n", title, added, goal_mib,
           verdict (added, goal_mib, FALSE), kw_test_count_descriptors (pid) - descriptors);
  for (guint i = 0; i < N_IDLE_CONNECTIONS; i++)
    close (sockets[i]);
}

static void
bench_memory (KwBenchSetup *setup)
{
  double idle = 0;
  double seconds = setup->seconds;
  KwBenchFigures figures;

  fresh_daemon (setup);
  idle = (double) kw_test_resident_kib (kw_daemon_rig_get_pid (setup->rig)) / 1024.0;
  g_print ("resident, idle                 %6.1f MiB     goal 18%s\n", idle,
           verdict (idle, 18, FALSE));
  hold_connections (setup, FALSE, "1,000 idle line connections", 2);
  fresh_daemon (setup);
  hold_connections (setup, TRUE, "1,000 idle HTTP connections", 14);
  fresh_daemon (setup);
  setup->seconds = N_WORK_REQUESTS / 4000.0;
  kw_bench_clients_run (setup, KW_BENCH_HTTP_KEPT, 4, &figures);
  setup->seconds = seconds;
  g_print ("resident, after %6.0f requests %5.1f MiB\n",
           figures.per_second * N_WORK_REQUESTS / 4000.0,
           (double) kw_test_resident_kib (kw_daemon_rig_get_pid (setup->rig)) / 1024.0);
}

/* Sends a request that needs no token and gets the answer, or leaves. */
static void
one_connection (const KwBenchSetup *setup, gboolean close_at_peer)
{
  int fd = kw_daemon_rig_connect_http (setup->rig);
  g_autoptr (KwTestResponse) response = NULL;

  kw_test_send (fd,
                close_at_peer
                    ? "GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                    : "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
                -1);
  response = kw_test_receive_response (fd);
  g_assert_cmpuint (response->status, ==, 404);
  close (fd);
}

static void
bench_leaks (KwBenchSetup *setup)
{
  const struct
  {
    const char *title;
    guint n;
    gboolean close_at_peer;
  } cases[] = {
    { "connections, one request each", N_NEW_CONNECTIONS, TRUE },
    { "kept alive, closed by clients", N_ABANDONED_CONNECTIONS, FALSE },
  };

  fresh_daemon (setup);
  decrypt_by_http (setup);
  for (guint i = 0; i < 2000; i++)
    one_connection (setup, i % 2 == 0);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      int pid = kw_daemon_rig_get_pid (setup->rig);
      guint descriptors = kw_test_count_descriptors (pid);
      gint64 kib = (gint64) kw_test_resident_kib (pid);
      gint64 added = 0;
      int more = 0;

      for (guint j = 0; j < cases[i].n; j++)
        one_connection (setup, cases[i].close_at_peer);
      g_usleep (200000);
      added = (gint64) kw_test_resident_kib (pid) - kib;
      more = (int) kw_test_count_descriptors (pid) - (int) descriptors;
      g_print ("%6u %-29s %+" G_GINT64_FORMAT " KiB, %+d descriptors  goal under 1024 and 0%s\n",
               cases[i].n, cases[i].title, added, more,
               added < 1024 && more <= 0 ? " ok" : " MISSED");
    }
}

int
main (int argc, char **argv)
{
  int rounds = 5;
  double seconds = 1.0;
  g_auto (GStrv) parts = NULL;
  const GOptionEntry entries[] = {
    { "rounds", 'r', 0, G_OPTION_ARG_INT, &rounds, "Interleaved runs, an odd number (5)", "N" },
    { "seconds", 's', 0, G_OPTION_ARG_DOUBLE, &seconds, "Length of one run (1.0)", "S" },
    { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &parts, NULL,
      "[decrypt] [start] [memory] [leaks] [cards] [pool] [api] [bus]" },
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GOptionContext) options
      = g_option_context_new ("- measure Keyward beside the bare PKCS#11 loop");
  g_autoptr (GError) error = NULL;
  g_autoptr (KwDaemonRig) rig = NULL;
  g_autofree char *pem = NULL;
  guint8 plaintext[32];
  KwBenchSetup setup = { 0 };
  struct rlimit limit;

  if (argc == 3 && g_str_equal (argv[1], "--soup-server"))
    {
      guint64 port = 0;

      return g_ascii_string_to_unsigned (argv[2], 10, 1, G_MAXUINT16, &port, NULL)
                 ? kw_bench_soup_server ((guint16) port)
                 : 2;
    }
  if (argc == 3 && g_str_equal (argv[1], "--empty-service"))
    {
      kw_bench_bus_serve (argv[2]);
      return EXIT_SUCCESS;
    }
  g_option_context_add_main_entries (options, entries, NULL);
  if (!g_option_context_parse (options, &argc, &argv, &error) || rounds < 1 || rounds > MAX_ROUNDS
      || seconds <= 0)
    {
      g_printerr ("keyward-bench: %s\n",
                  error != NULL ? error->message : "a number is out of range");
      return 2;
    }
#define WANTED(part) (parts == NULL || g_strv_contains ((const char *const *) parts, part))
  if (WANTED ("cards") && !kw_bench_cards () && parts != NULL)
    return EXIT_FAILURE;
  if (WANTED ("pool") && !kw_bench_pool () && parts != NULL)
    return EXIT_FAILURE;
  if (WANTED ("bus"))
    kw_bench_bus ((guint) rounds, seconds);
  if (WANTED ("api"))
    kw_bench_api ((guint) rounds, seconds);
  if (parts != NULL && g_strv_length (parts) == 1
      && (WANTED ("cards") || WANTED ("pool") || WANTED ("api") || WANTED ("bus")))
    return EXIT_SUCCESS;
  getrlimit (RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit (RLIMIT_NOFILE, &limit);
  rig = kw_daemon_rig_new (NULL, "[audit]\npath = \"/dev/null\"\n");
  kw_daemon_rig_set_log_level (rig, "info");
  kw_daemon_rig_start (rig);
  setup.rig = rig;
  setup.module = kw_soft_hsm_find_module ();
  setup.pin = KW_TEST_PIN;
  setup.seconds = seconds;
  setup.key_uuid = kw_daemon_rig_make_key (rig, &pem);
  setup.key_id = kw_test_uuid_to_bytes (setup.key_uuid);
  for (guint i = 0; i < sizeof plaintext; i++)
    plaintext[i] = (guint8) i;
  setup.plaintext = g_bytes_new (plaintext, sizeof plaintext);
  setup.ciphertext = kw_test_encrypt (pem, setup.plaintext);
  setup.jwt = kw_daemon_rig_make_jwt (rig);
  setup.line_token = kw_daemon_rig_dup_line_token (rig);
  if (WANTED ("decrypt"))
    bench_decrypt (&setup, (guint) rounds);
  if (WANTED ("start"))
    bench_start (&setup, (guint) rounds);
  if (WANTED ("memory"))
    bench_memory (&setup);
  if (WANTED ("leaks"))
    bench_leaks (&setup);
#undef WANTED
  g_bytes_unref (setup.plaintext);
  g_bytes_unref (setup.ciphertext);
  g_bytes_unref (setup.key_id);
  g_free (setup.key_uuid);
  g_free (setup.jwt);
  g_free (setup.line_token);
  return EXIT_SUCCESS;
}
