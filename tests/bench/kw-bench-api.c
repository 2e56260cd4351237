/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bench-api"

#include "kw-bench.h"

#include <jwt.h>
#include <libsoup/soup.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * The JSON API beside a bare libsoup server that answers a fixed body, both asked by wrk in turn; what the page weighs; and
 * what it costs that many listen to events.
 */

#define MAX_ROUNDS 99
#define N_LISTENERS 500
#define PLAINTEXT "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
#define PAGE_GOAL_KIB 60.0
#define RATIO_GOAL 0.6
#define READY_SECONDS 20

static const guint connection_counts[] = { 1, 4, 16, 64 };

typedef enum
{
  SOUP_BARE,
  SOUP_JWT,
  API_ENCRYPT,
  API_DECRYPT,
  N_TARGETS,
} Target;

static const char *const target_names[N_TARGETS] = {
  "libsoup, a fixed body",
  "libsoup, a fixed body, JWT checked",
  "encrypt 32 bytes, JSON",
  "decrypt 32 bytes, JSON",
};

/* --- the bare server, in a process of its own --- */

static void
on_soup_request (SoupServer *server G_GNUC_UNUSED,
                 SoupServerMessage *message,
                 const char *path,
                 GHashTable *query G_GNUC_UNUSED,
                 gpointer user_data G_GNUC_UNUSED)
{
  static const char body[] = "{\"plaintext\":\"" PLAINTEXT "\",\"key\":\"0\"}";

  if (g_str_equal (path, "/jwt"))
    {
      const char *header
          = soup_message_headers_get_one (soup_server_message_get_request_headers (message),
                                          "Authorization");
      jwt_t *jwt = NULL;

      if (header == NULL
          || jwt_decode (&jwt, header + strlen ("Bearer "),
                         (const unsigned char *) KW_TEST_JWT_SECRET,
                         (int) strlen (KW_TEST_JWT_SECRET))
                 != 0)
        {
          soup_server_message_set_status (message, 401, NULL);
          return;
        }
      jwt_free (jwt);
    }
  soup_server_message_set_status (message, 200, NULL);
  soup_server_message_set_response (message, "application/json", SOUP_MEMORY_STATIC, body,
                                    strlen (body));
}

/**
 * kw_bench_soup_server:
 * @port: where to listen on the loopback
 *
 * Serves a fixed body until the process is killed.
 *
 * Returns: exit status
 */
int
kw_bench_soup_server (guint16 port)
{
  g_autoptr (SoupServer) server = soup_server_new (NULL, NULL);
  g_autoptr (GMainLoop) loop = g_main_loop_new (NULL, FALSE);
  g_autoptr (GError) error = NULL;

  soup_server_add_handler (server, NULL, on_soup_request, NULL, NULL);
  if (!soup_server_listen_local (server, port, SOUP_SERVER_LISTEN_IPV4_ONLY, &error))
    {
      g_printerr ("keyward-bench: %s\n", error->message);
      return EXIT_FAILURE;
    }
  g_main_loop_run (loop);
  return EXIT_SUCCESS;
}

/* --- wrk --- */

static void
write_script (const char *path, const char *where, const char *jwt, const char *body)
{
  g_autofree char *text
      = g_strdup_printf ("wrk.method = \"POST\"\nwrk.path = \"%s\"\n"
                         "wrk.headers[\"Authorization\"] = \"Bearer %s\"\n"
                         "wrk.headers[\"Content-Type\"] = \"application/json\"\nwrk.body = '%s'\n",
                         where, jwt, body);
  g_autoptr (GError) error = NULL;

  g_file_set_contents (path, text, -1, &error);
  g_assert_no_error (error);
}

/* The number behind a word of what wrk prints. */
static double
find_number (const char *output, const char *word)
{
  const char *found = strstr (output, word);

  if (found == NULL)
    g_error ("wrk printed no %s: %s", word, output);
  return g_ascii_strtod (found + strlen (word), NULL);
}

static double
run_wrk (guint16 port, const char *script, guint n_connections, double seconds)
{
  g_autofree char *connections = g_strdup_printf ("-c%u", n_connections);
  g_autofree char *duration = g_strdup_printf ("-d%.0fs", MAX (seconds, 1.0));
  g_autofree char *url = g_strdup_printf ("http://127.0.0.1:%u/", port);
  const char *const argv[] = { "wrk", "-t1", connections, duration, "-s", script, url, NULL };
  g_autofree char *output = NULL;
  g_autoptr (GError) error = NULL;

  g_spawn_sync (NULL, (char **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &output, NULL, NULL,
                &error);
  g_assert_no_error (error);
  if (strstr (output, "Non-2xx") != NULL)
    g_error ("not all requests were answered well: %s", output);
  return find_number (output, "Requests/sec:");
}

/* --- the daemon --- */

static KwTestResponse *
ask (KwDaemonRig *rig, const char *method, const char *path, const char *jwt, const char *body)
{
  int fd = kw_daemon_rig_connect_http (rig);
  g_autofree char *request
      = g_strdup_printf ("%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"
                         "Content-Type: application/json\r\nContent-Length: %" G_GSIZE_FORMAT
                         "\r\n\r\n%s",
                         method, path, jwt, strlen (body), body);
  KwTestResponse *response = NULL;

  kw_test_send (fd, request, -1);
  response = kw_test_receive_response (fd);
  close (fd);
  return response;
}

/* The key is made by the daemon's own command line, over D-Bus; here on the token directly, which is found soon. */
static char *
dup_ciphertext (KwDaemonRig *rig, const char *jwt)
{
  gint64 by = g_get_monotonic_time () + READY_SECONDS * G_TIME_SPAN_SECOND;

  for (;;)
    {
      g_autoptr (KwTestResponse) response
          = ask (rig, "POST", "/api/v1/encrypt", jwt, "{\"plaintext\":\"" PLAINTEXT "\"}");
      g_autofree char *body
          = g_strndup (g_bytes_get_data (response->body, NULL), g_bytes_get_size (response->body));
      const char *start = strstr (body, "\"ciphertext\":\"");

      if (response->status == 200)
        return g_strndup (start + 14, strcspn (start + 14, "\""));
      if (g_get_monotonic_time () > by)
        g_error ("the daemon does not encrypt: %s", body);
      g_usleep (50000);
    }
}

static void
make_key (KwDaemonRig *rig)
{
  const char *const argv[] = { "pkcs11-tool",
                               "--module",
                               kw_soft_hsm_find_module (),
                               "--token-label",
                               KW_TEST_TOKEN_LABEL,
                               "--login",
                               "--pin",
                               KW_TEST_PIN,
                               "--keygen",
                               "--key-type",
                               "AES:32",
                               "--label",
                               "bench",
                               "--id",
                               "01",
                               NULL };
  g_auto (GStrv) environment
      = g_environ_setenv (g_get_environ (), "SOFTHSM2_CONF",
                          kw_soft_hsm_get_conf (kw_daemon_rig_get_soft_hsm (rig)), TRUE);
  g_autofree char *output = NULL;
  g_autoptr (GError) error = NULL;
  int status = 0;

  g_spawn_sync (NULL, (char **) argv, environment, G_SPAWN_SEARCH_PATH, NULL, NULL, &output,
                &output, &status, &error);
  g_assert_no_error (error);
  if (status != 0)
    g_error ("pkcs11-tool could not make a key: %s", output);
}

static void
bench_throughput (KwDaemonRig *rig, const char *jwt, guint rounds, double seconds)
{
  static double results[MAX_ROUNDS][G_N_ELEMENTS (connection_counts)][N_TARGETS];
  g_autofree char *ciphertext = dup_ciphertext (rig, jwt);
  g_autofree char *decrypt = g_strdup_printf ("{\"ciphertext\":\"%s\"}", ciphertext);
  guint16 soup_port = kw_test_find_free_port ();
  g_autofree char *port = g_strdup_printf ("%u", soup_port);
  g_autofree char *self = g_file_read_link ("/proc/self/exe", NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (GSubprocess) soup
      = g_subprocess_new (G_SUBPROCESS_FLAGS_NONE, &error, self, "--soup-server", port, NULL);
  g_autofree char *directory = g_strdup (kw_daemon_rig_get_directory (rig));
  g_autofree char *scripts[N_TARGETS] = { NULL };
  static const char *const paths[N_TARGETS] = { "/", "/jwt", "/api/v1/encrypt", "/api/v1/decrypt" };

  g_assert_no_error (error);
  for (guint t = 0; t < N_TARGETS; t++)
    {
      scripts[t] = g_strdup_printf ("%s/bench-%u.lua", directory, t);
      write_script (scripts[t], paths[t], jwt,
                    t == API_DECRYPT ? decrypt : "{\"plaintext\":\"" PLAINTEXT "\"}");
    }
  g_usleep (300000);
  for (guint r = 0; r < rounds; r++)
    for (guint c = 0; c < G_N_ELEMENTS (connection_counts); c++)
      for (guint t = 0; t < N_TARGETS; t++)
        {
          g_printerr ("\rround %u of %u, %2u connections ", r + 1, rounds, connection_counts[c]);
          results[r][c][t] = run_wrk (t <= SOUP_JWT ? soup_port : kw_daemon_rig_get_port (rig),
                                      scripts[t], connection_counts[c], seconds);
        }
  g_subprocess_force_exit (soup);
  g_printerr ("\r%40s\r", "");
  g_print (
      "JSON API with data-key reuse on SoftHSM2, medians of %u interleaved runs; ratio = beside libsoup "
      "with JWT\n",
      rounds);
  for (guint c = 0; c < G_N_ELEMENTS (connection_counts); c++)
    for (guint t = 0; t < N_TARGETS; t++)
      {
        double values[MAX_ROUNDS], ratios[MAX_ROUNDS], median = 0, ratio = 0;

        for (guint r = 0; r < rounds; r++)
          {
            values[r] = results[r][c][t];
            ratios[r] = values[r] / results[r][c][SOUP_JWT];
          }
        median = kw_bench_median (values, rounds);
        ratio = kw_bench_median (ratios, rounds);
        g_print ("%4u  %-39s %7.0f  %5.2f%s\n", connection_counts[c], target_names[t], median,
                 ratio,
                 t != API_ENCRYPT || connection_counts[c] != 16 ? ""
                 : ratio >= RATIO_GOAL                          ? " ok (goal 0.60)"
                                                                : " MISSED (goal 0.60)");
      }
}

static void
bench_listeners (KwDaemonRig *rig, const char *jwt)
{
  int pid = kw_daemon_rig_get_pid (rig);
  g_autofree int *sockets = g_new0 (int, N_LISTENERS);
  g_autofree char *request = g_strdup_printf (
      "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", jwt);
  guint64 before = kw_test_resident_kib (pid);
  char buffer[4096];

  for (guint i = 0; i < N_LISTENERS; i++)
    {
      sockets[i] = kw_daemon_rig_connect_http (rig);
      kw_test_send (sockets[i], request, -1);
      g_assert_cmpint (read (sockets[i], buffer, sizeof buffer), >, 0);
    }
  g_usleep (500000);
  g_print ("%d idle event listeners        %6.1f MiB\n", N_LISTENERS,
           (double) (kw_test_resident_kib (pid) - before) / 1024.0);
  for (guint i = 0; i < N_LISTENERS; i++)
    close (sockets[i]);
}

static gsize
compressed_size (gconstpointer data, gsize size)
{
  g_autoptr (GZlibCompressor) compressor = g_zlib_compressor_new (G_ZLIB_COMPRESSOR_FORMAT_GZIP, 6);
  g_autofree char *out = g_malloc (size + 1024);
  gsize n_read = 0;
  gsize n_written = 0;

  g_converter_convert (G_CONVERTER (compressor), data, size, out, size + 1024,
                       G_CONVERTER_INPUT_AT_END, &n_read, &n_written, NULL);
  return n_written;
}

/* All that a browser loads to show the page. */
static void
bench_page (KwDaemonRig *rig, const char *jwt)
{
  static const char *const paths[] = {
    "/", "/app.js", "/view.js", "/text.js", "/style.css", "/icon.svg", "/catalogue.json?language=de"
  };
  gsize n_plain = 0;
  gsize n_compressed = 0;

  for (guint i = 0; i < G_N_ELEMENTS (paths); i++)
    {
      g_autoptr (KwTestResponse) response = ask (rig, "GET", paths[i], jwt, "");
      gsize size = 0;
      gconstpointer data = g_bytes_get_data (response->body, &size);

      g_assert_cmpuint (response->status, ==, 200);
      n_plain += size;
      n_compressed += compressed_size (data, size);
    }
  g_print ("the page, in German            %6.1f KiB, gzipped %.1f   goal %.0f%s\n",
           (double) n_plain / 1024.0, (double) n_compressed / 1024.0, PAGE_GOAL_KIB,
           (double) n_compressed / 1024.0 < PAGE_GOAL_KIB ? " ok" : " MISSED");
}

/**
 * kw_bench_api:
 * @rounds: interleaved runs
 * @seconds: length of one run
 *
 * Measures the JSON API on a daemon of its own.
 */
void
kw_bench_api (guint rounds, double seconds)
{
  g_autoptr (KwDaemonRig) rig = kw_daemon_rig_new (
      NULL, "[audit]\npath = \"/dev/null\"\n[hsm]\nhsm_keyid = 0\ndata_key_ttl = 60\n");
  g_autofree char *claims = kw_test_make_claims (3600, 0, "keyward");
  g_autofree char *jwt
      = kw_test_make_jwt (KW_TEST_JWT_SECRET, "{\"alg\":\"HS256\",\"typ\":\"JWT\"}", claims);

  make_key (rig);
  kw_daemon_rig_start (rig);
  bench_throughput (rig, jwt, rounds, seconds);
  bench_page (rig, jwt);
  bench_listeners (rig, jwt);
}
