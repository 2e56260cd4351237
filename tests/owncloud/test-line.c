/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-line"

#include "kw-daemon-rig.h"
#include "kw-shim-control.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * ownCloud's line protocol on the whole daemon, spoken by raw sockets.
 */

#define MAX_LINE 65536
#define N_IDLE 1000

typedef struct
{
  KwDaemonRig *rig;
  KwShim *shim; /* NULL = SoftHSM itself */
  char *token;
  char *pem;
  char *uuid;
  char *line;     /* ciphertext in base64 */
  char *expected; /* plaintext in base64 */
} Fixture;

static Fixture *
fixture_new (gboolean with_shim, const char *extra_config)
{
  Fixture *f = g_new0 (Fixture, 1);
  g_autoptr (GBytes) plaintext = g_bytes_new_static ("0123456789abcdefghijklmnopqrstuv", 32);
  g_autoptr (GBytes) ciphertext = NULL;

  if (with_shim)
    f->shim = kw_shim_new ();
  f->rig = kw_daemon_rig_new (with_shim ? kw_shim_get_module_path () : NULL, extra_config);
  kw_daemon_rig_start (f->rig);
  f->uuid = kw_daemon_rig_make_key (f->rig, &f->pem);
  f->token = kw_daemon_rig_dup_line_token (f->rig);
  ciphertext = kw_test_encrypt (f->pem, plaintext);
  f->line = g_base64_encode (g_bytes_get_data (ciphertext, NULL), g_bytes_get_size (ciphertext));
  f->expected = g_base64_encode (g_bytes_get_data (plaintext, NULL), 32);
  return f;
}

static void
fixture_free (Fixture *f)
{
  if (f->shim != NULL)
    kw_shim_clear_all (f->shim);
  kw_daemon_rig_free (f->rig);
  g_clear_pointer (&f->shim, kw_shim_free);
  g_free (f->token);
  g_free (f->pem);
  g_free (f->uuid);
  g_free (f->line);
  g_free (f->expected);
  g_free (f);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Fixture, fixture_free)

static void
assert_line (int fd, const char *expected)
{
  g_autofree char *line = kw_test_receive_line (fd);

  g_assert_cmpstr (line, ==, expected);
}

static void
assert_error (int fd)
{
  g_autofree char *line = kw_test_receive_line (fd);

  g_assert_nonnull (line);
  g_assert_true (g_str_has_prefix (line, "ERR "));
}

static void
send_line (int fd, const char *text, const char *end)
{
  kw_test_send (fd, text, -1);
  kw_test_send (fd, end, -1);
}

static int
greet (Fixture *f)
{
  int fd = kw_daemon_rig_connect_line (f->rig);

  send_line (fd, f->token, "\r\n");
  assert_line (fd, "OK");
  return fd;
}

static void
assert_decrypts (Fixture *f, int fd)
{
  send_line (fd, f->line, "\r\n");
  assert_line (fd, f->expected);
}

static void
test_conversation (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  int fd = greet (f);

  for (guint i = 0; i < 20; i++)
    assert_decrypts (f, fd);
  close (fd);
}

static void
test_bare_line_feed (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  int fd = kw_daemon_rig_connect_line (f->rig);

  send_line (fd, f->token, "\n");
  assert_line (fd, "OK");
  send_line (fd, f->line, "\n");
  assert_line (fd, f->expected);
  close (fd);
}

static void
test_byte_by_byte (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  int fd = kw_daemon_rig_connect_line (f->rig);
  g_autofree char *all = g_strconcat (f->token, "\r\n", f->line, "\r\n", NULL);

  for (const char *p = all; *p != '\0'; p++)
    kw_test_send (fd, p, 1);
  assert_line (fd, "OK");
  assert_line (fd, f->expected);
  close (fd);
}

static void
test_pipelined_lines_in_order (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  int fd = kw_daemon_rig_connect_line (f->rig);
  g_autoptr (GString) all = g_string_new (NULL);

  g_string_append_printf (all, "%s\r\n", f->token);
  for (guint i = 0; i < 20; i++)
    g_string_append_printf (all, "%s\r\n!\r\n", f->line);
  kw_test_send (fd, all->str, (gssize) all->len);
  assert_line (fd, "OK");
  for (guint i = 0; i < 20; i++)
    {
      assert_line (fd, f->expected);
      assert_line (fd, "ERR The line is not base64");
    }
  close (fd);
}

static void
test_wrong_token (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *almost = g_strdup (f->token);
  g_autofree char *longer = g_strconcat (f->token, "0", NULL);
  g_autofree char *shorter = g_strndup (f->token, strlen (f->token) - 1);

  almost[10] = almost[10] == '0' ? '1' : '0';
  {
    const char *const guesses[] = { almost, longer, shorter, "", " ", f->line, "\x01\x02" };

    for (guint i = 0; i < G_N_ELEMENTS (guesses); i++)
      {
        int fd = kw_daemon_rig_connect_line (f->rig);

        /* What follows a wrong token is not looked at. */
        send_line (fd, guesses[i], "\r\n");
        assert_line (fd, "ERR The token is not valid");
        g_assert_true (kw_test_receive_end (fd));
        close (fd);
      }
  }
}

static void
test_token_guessing (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *log = NULL;

  for (guint i = 0; i < 200; i++)
    {
      int fd = kw_daemon_rig_connect_line (f->rig);
      g_autofree char *guess = g_strdup_printf ("%064x", i);

      send_line (fd, guess, "\n");
      assert_error (fd);
      close (fd);
    }
  log = kw_daemon_rig_dup_log (f->rig);
  g_assert_nonnull (strstr (log, "Line token refused"));
  g_assert_null (strstr (log, f->token));
}

static void
test_bad_lines (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  int fd = greet (f);
  const char *const bad[] = {
    "", "A", "AAA", "====", "AA=A", "A===", "AAAA====", "AAA\x80", "\x01\x02\x03\x04", "AA AA"
  };
  const char binary[] = { 0, 1, 2, 0, '\n' };

  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      send_line (fd, bad[i], "\r\n");
      assert_error (fd);
    }
  kw_test_send (fd, binary, sizeof binary);
  assert_error (fd);
  /* Well-formed, but no ciphertext of this key: the same words whatever is wrong. */
  send_line (fd, "AAAA", "\r\n");
  assert_line (fd, "ERR The data cannot be decrypted with this key");
  assert_decrypts (f, fd);
  close (fd);
}

static void
test_longest_line (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *longest = g_strnfill (MAX_LINE, 'A');
  int fd = greet (f);

  send_line (fd, longest, "\n");
  assert_line (fd, "ERR The data cannot be decrypted with this key");
  assert_decrypts (f, fd);
  send_line (fd, longest, "A\n");
  assert_line (fd, "ERR The line is too long");
  g_assert_true (kw_test_receive_end (fd));
  close (fd);
  /* A line that never ends is not collected for ever. */
  fd = kw_daemon_rig_connect_line (f->rig);
  for (guint i = 0; i < 4; i++)
    kw_test_send (fd, longest, -1);
  assert_line (fd, "ERR The line is too long");
  close (fd);
}

static void
test_vanishing_clients (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  guint before = 0;
  int pid = kw_daemon_rig_get_pid (f->rig);
  int fd = -1;

  close (greet (f));
  before = kw_test_count_descriptors (pid);
  for (guint i = 0; i < 200; i++)
    {
      fd = kw_daemon_rig_connect_line (f->rig);
      send_line (fd, f->token, "\r\n");
      send_line (fd, f->line, i % 2 == 0 ? "\r\n" : "");
      close (fd);
    }
  for (gint64 end = g_get_monotonic_time () + 20 * G_TIME_SPAN_SECOND;
       kw_test_count_descriptors (pid) > before && g_get_monotonic_time () < end;)
    g_usleep (10000);
  g_assert_cmpuint (kw_test_count_descriptors (pid), <=, before);
  fd = greet (f);
  assert_decrypts (f, fd);
  close (fd);
}

static void
test_client_that_does_not_read (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  int deaf = greet (f);
  int other = greet (f);
  g_autoptr (GString) lines = g_string_new (NULL);
  struct timeval limit = { .tv_usec = 200000 };

  for (guint i = 0; i < 2000; i++)
    g_string_append (lines, "!\r\n");
  /* It stops being served when its answers do not fit any more; sending then blocks. */
  setsockopt (deaf, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  for (guint i = 0; i < 200; i++)
    {
      if (send (deaf, lines->str, lines->len, MSG_NOSIGNAL) < (gssize) lines->len)
        break;
    }
  assert_decrypts (f, other);
  for (guint i = 0; i < 2000; i++)
    assert_line (deaf, "ERR The line is not base64");
  close (deaf);
  assert_decrypts (f, other);
  close (other);
}

static void
test_idle_connections (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree int *sockets = g_new0 (int, N_IDLE);
  int pid = kw_daemon_rig_get_pid (f->rig);
  guint before = kw_test_count_descriptors (pid);
  struct rlimit limit;
  int fd = -1;

  g_assert_cmpint (getrlimit (RLIMIT_NOFILE, &limit), ==, 0);
  limit.rlim_cur = limit.rlim_max;
  g_assert_cmpint (setrlimit (RLIMIT_NOFILE, &limit), ==, 0);
  for (guint i = 0; i < N_IDLE; i++)
    sockets[i] = greet (f);
  g_assert_cmpuint (kw_test_count_descriptors (pid), <=, before + N_IDLE);
  fd = greet (f);
  assert_decrypts (f, fd);
  close (fd);
  for (guint i = 0; i < N_IDLE; i += 100)
    assert_decrypts (f, sockets[i]);
  for (guint i = 0; i < N_IDLE; i++)
    close (sockets[i]);
}

static void
test_token_file (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *path
      = g_build_filename (kw_daemon_rig_get_directory (f->rig), "line.token", NULL);
  g_autofree char *socket_path
      = g_build_filename (kw_daemon_rig_get_directory (f->rig), "line.sock", NULL);
  struct stat info;

  g_assert_cmpint (stat (path, &info), ==, 0);
  g_assert_cmpuint (info.st_mode & 07777, ==, 0640);
  g_assert_cmpint (stat (socket_path, &info), ==, 0);
  g_assert_cmpuint (info.st_mode & 07777, ==, 0660);
  g_assert_cmpuint (strlen (f->token), ==, 64);
}

static void
test_audit (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  int fd = greet (f);
  g_autofree char *audit = NULL;
  g_autofree char *uid
      = g_strdup_printf ("\"by\":\"line\",\"address\":\"unix\",\"uid\":%u}", (guint) getuid ());

  assert_decrypts (f, fd);
  close (fd);
  audit = kw_daemon_rig_dup_audit (f->rig);
  g_assert_nonnull (strstr (audit, uid));
  g_assert_null (strstr (audit, f->token));
}

static void
test_silent_connection_is_closed (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  int silent = kw_daemon_rig_connect_line (f->rig);
  int greeted = greet (f);
  gint64 start = g_get_monotonic_time ();

  kw_test_send (silent, "half a token", -1);
  g_assert_true (kw_test_receive_end (silent));
  g_assert_cmpint (g_get_monotonic_time () - start, >, 9 * G_TIME_SPAN_SECOND);
  g_assert_cmpint (g_get_monotonic_time () - start, <, 20 * G_TIME_SPAN_SECOND);
  assert_decrypts (f, greeted);
  close (silent);
  close (greeted);
}

static void
test_token_changes_at_each_start (void)
{
  g_autoptr (Fixture) f = fixture_new (FALSE, NULL);
  g_autofree char *fresh = NULL;
  int fd = -1;

  kw_daemon_rig_kill (f->rig);
  /* The socket that the dead daemon left is replaced. */
  kw_daemon_rig_start (f->rig);
  fresh = kw_daemon_rig_dup_line_token (f->rig);
  g_assert_cmpstr (fresh, !=, f->token);
  fd = kw_daemon_rig_connect_line (f->rig);
  send_line (fd, f->token, "\n");
  assert_error (fd);
  close (fd);
}

static void
test_users_can_be_limited (void)
{
  g_autoptr (Fixture) f = fixture_new (FALSE, "@LINE@\nallow_users = [\"65533\"]\n");
  int fd = kw_daemon_rig_connect_line (f->rig);

  assert_line (fd, "ERR This user may not connect");
  g_assert_true (kw_test_receive_end (fd));
  close (fd);
}

static void
test_users_can_be_allowed (void)
{
  g_autofree char *config
      = g_strdup_printf ("@LINE@\nallow_users = [\"65533\", %u]\n", (guint) getuid ());
  g_autoptr (Fixture) f = fixture_new (FALSE, config);
  int fd = greet (f);

  assert_decrypts (f, fd);
  close (fd);
}

static void
test_connection_cap (void)
{
  g_autoptr (Fixture) f = fixture_new (FALSE, "@LINE@\nmax_connections = 3\n");
  int first = greet (f);
  int second = greet (f);
  int third = greet (f);
  int fourth = kw_daemon_rig_connect_line (f->rig);

  assert_line (fourth, "ERR Too many connections");
  close (fourth);
  assert_decrypts (f, third);
  close (first);
  close (second);
  close (third);
}

static void
test_tcp (void)
{
  g_autoptr (KwDaemonRig) rig = NULL;
  g_autofree char *audit = NULL;
  g_autofree char *config = NULL;
  guint16 port = 0;

  /* The rig's own way to find a free port, used once more. */
  for (guint i = 0; i < 5 && rig == NULL; i++)
    {
      g_autofree char *log = NULL;

      port = kw_test_find_free_port ();
      config = g_strdup_printf ("@LINE@\nport = %u\n", port);
      rig = kw_daemon_rig_new (NULL, config);
      kw_daemon_rig_launch (rig);
      log = kw_daemon_rig_dup_log (rig);
      if (strstr (log, "Server listening") == NULL)
        {
          g_clear_pointer (&rig, kw_daemon_rig_free);
          g_clear_pointer (&config, g_free);
        }
    }
  g_assert_nonnull (rig);
  kw_daemon_rig_wait_for_log (rig, "\"state\":\"ready\"");
  {
    g_autofree char *pem = NULL;
    g_autofree char *uuid G_GNUC_UNUSED = kw_daemon_rig_make_key (rig, &pem);
    g_autofree char *token = kw_daemon_rig_dup_line_token (rig);
    g_autoptr (GBytes) plaintext = g_bytes_new_static ("x", 1);
    g_autoptr (GBytes) ciphertext = kw_test_encrypt (pem, plaintext);
    g_autofree char *line
        = g_base64_encode (g_bytes_get_data (ciphertext, NULL), g_bytes_get_size (ciphertext));
    int fd = kw_test_connect_tcp (port);

    send_line (fd, token, "\r\n");
    assert_line (fd, "OK");
    send_line (fd, line, "\r\n");
    assert_line (fd, "eA==");
    close (fd);
  }
  audit = kw_daemon_rig_dup_audit (rig);
  g_assert_nonnull (strstr (audit, "\"by\":\"line\",\"address\":\"127.0.0.1\"}"));
}

static void
test_no_key_yet (void)
{
  g_autoptr (KwDaemonRig) rig = kw_daemon_rig_new (NULL, NULL);
  g_autofree char *token = NULL;
  g_autofree char *uuid G_GNUC_UNUSED = NULL;
  g_autofree char *answer = NULL;
  int fd = -1;

  kw_daemon_rig_start (rig);
  token = kw_daemon_rig_dup_line_token (rig);
  fd = kw_daemon_rig_connect_line (rig);
  send_line (fd, token, "\n");
  assert_line (fd, "OK");
  send_line (fd, "AAAA", "\n");
  answer = kw_test_receive_line (fd);
  g_assert_nonnull (strstr (answer, "genkey"));
  uuid = kw_daemon_rig_make_key (rig, NULL);
  send_line (fd, "AAAA", "\n");
  assert_line (fd, "ERR The data cannot be decrypted with this key");
  close (fd);
}

static void
test_ambiguous_key_is_an_error_at_start (void)
{
  g_autoptr (Fixture) f = fixture_new (FALSE, NULL);
  g_autofree char *second G_GNUC_UNUSED = kw_daemon_rig_make_key (f->rig, NULL);
  g_autofree char *log = NULL;
  int fd = greet (f);

  /* While it runs, the key it began with stays. */
  assert_decrypts (f, fd);
  close (fd);
  kw_daemon_rig_stop (f->rig);
  kw_daemon_rig_launch (f->rig);
  g_assert_true (kw_daemon_rig_wait_for_exit (f->rig, 30));
  log = kw_daemon_rig_dup_log (f->rig);
  g_assert_nonnull (strstr (log, "2 RSA keys; set [line] key"));
}

static void
test_configured_key (void)
{
  g_autoptr (Fixture) f = fixture_new (FALSE, NULL);
  g_autofree char *second G_GNUC_UNUSED = kw_daemon_rig_make_key (f->rig, NULL);
  g_autofree char *config = g_strdup_printf ("@LINE@\nkey = \"%s\"\n", f->uuid);
  int fd = -1;

  kw_daemon_rig_stop (f->rig);
  kw_daemon_rig_set_extra_config (f->rig, config);
  kw_daemon_rig_start (f->rig);
  g_free (f->token);
  f->token = kw_daemon_rig_dup_line_token (f->rig);
  fd = greet (f);
  assert_decrypts (f, fd);
  close (fd);
}

static void
test_hanging_module (void)
{
  g_autoptr (Fixture) f = fixture_new (TRUE, NULL);
  int stuck = -1;
  int others[8];
  gint64 start = 0;

  kw_daemon_rig_stop (f->rig);
  kw_daemon_rig_set_pkcs11_config (f->rig, "timeout = 1\n");
  kw_daemon_rig_start (f->rig);
  g_free (f->token);
  f->token = kw_daemon_rig_dup_line_token (f->rig);
  stuck = greet (f);
  for (guint i = 0; i < G_N_ELEMENTS (others); i++)
    others[i] = greet (f);
  assert_decrypts (f, stuck);
  kw_shim_hang (f->shim, KW_SHIM_C_Decrypt);
  start = g_get_monotonic_time ();
  /* More requests than the door has threads: each is answered, none waits for the module. */
  send_line (stuck, f->line, "\r\n");
  for (guint i = 0; i < G_N_ELEMENTS (others); i++)
    send_line (others[i], f->line, "\r\n");
  assert_error (stuck);
  for (guint i = 0; i < G_N_ELEMENTS (others); i++)
    assert_error (others[i]);
  g_assert_cmpint (g_get_monotonic_time () - start, <, 15 * G_TIME_SPAN_SECOND);
  kw_shim_clear_all (f->shim);
  /* When the module answers again, so does the daemon. */
  for (gint64 end = g_get_monotonic_time () + 60 * G_TIME_SPAN_SECOND;;)
    {
      g_autofree char *line = NULL;

      send_line (stuck, f->line, "\r\n");
      line = kw_test_receive_line (stuck);
      if (g_strcmp0 (line, f->expected) == 0)
        break;
      g_assert_cmpint (g_get_monotonic_time (), <, end);
      g_usleep (50000);
    }
  close (stuck);
  for (guint i = 0; i < G_N_ELEMENTS (others); i++)
    {
      assert_decrypts (f, others[i]);
      close (others[i]);
    }
}

typedef struct
{
  int listener;
  guint16 port;
  char *requests[3];
} OwncloudServer;

/* Plays the route that takes the token: refuses it, then breaks off, then accepts it. */
static gpointer
serve_token_route (gpointer user_data)
{
  OwncloudServer *server = user_data;

  for (guint i = 0; i < G_N_ELEMENTS (server->requests); i++)
    {
      int fd = accept (server->listener, NULL, NULL);
      char buffer[8192];
      gsize n = 0;

      g_assert_cmpint (fd, >=, 0);
      while (n < sizeof buffer - 1)
        {
          gssize got = recv (fd, buffer + n, sizeof buffer - 1 - n, 0);

          if (got <= 0)
            break;
          n += (gsize) got;
          buffer[n] = '\0';
          if (strstr (buffer, "\"}") != NULL)
            break;
        }
      buffer[n] = '\0';
      server->requests[i] = g_strdup (buffer);
      if (i == 0)
        kw_test_send (fd, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                      -1);
      if (i == 2)
        kw_test_send (fd, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", -1);
      close (fd);
    }
  return NULL;
}

static void
test_token_is_handed_over (void)
{
  OwncloudServer server = { 0 };
  g_autofree char *config = NULL;
  g_autoptr (KwDaemonRig) rig = NULL;
  g_autofree char *token = NULL;
  GThread *thread = NULL;

  server.listener = kw_test_listen_tcp (&server.port);
  config = g_strdup_printf ("@LINE@\ntoken_url = \"http://127.0.0.1:%u/token\"\n", server.port);
  rig = kw_daemon_rig_new (NULL, config);
  thread = g_thread_new ("owncloud", serve_token_route, &server);
  kw_daemon_rig_start (rig);
  kw_daemon_rig_wait_for_log (rig, "The line token was accepted");
  g_thread_join (thread);
  token = kw_daemon_rig_dup_line_token (rig);
  for (guint i = 0; i < G_N_ELEMENTS (server.requests); i++)
    {
      g_assert_true (g_str_has_prefix (server.requests[i], "POST /token HTTP/1.1\r\n"));
      g_assert_nonnull (strstr (server.requests[i], "Authorization: Bearer "));
      g_assert_nonnull (strstr (server.requests[i], token));
      g_free (server.requests[i]);
    }
  {
    g_autofree char *log = kw_daemon_rig_dup_log (rig);

    g_assert_nonnull (strstr (log, "HTTP status 503"));
    g_assert_null (strstr (log, token));
  }
  close (server.listener);
}

int
main (int argc, char **argv)
{
  g_autoptr (Fixture) f = NULL;
  const struct
  {
    const char *path;
    GTestDataFunc function;
  } shared[] = {
    { "/line/conversation", test_conversation },
    { "/line/bare-line-feed", test_bare_line_feed },
    { "/line/byte-by-byte", test_byte_by_byte },
    { "/line/pipelined", test_pipelined_lines_in_order },
    { "/line/token/wrong", test_wrong_token },
    { "/line/token/guessing", test_token_guessing },
    { "/line/token/file", test_token_file },
    { "/line/bad-lines", test_bad_lines },
    { "/line/longest", test_longest_line },
    { "/line/vanishing-clients", test_vanishing_clients },
    { "/line/client-that-does-not-read", test_client_that_does_not_read },
    { "/line/idle-connections", test_idle_connections },
    { "/line/audit", test_audit },
    { "/line/silent-connection", test_silent_connection_is_closed },
  };

  g_test_init (&argc, &argv, NULL);
  f = fixture_new (FALSE, "@SERVER@\nfailed_decrypts = 0\n");
  for (guint i = 0; i < G_N_ELEMENTS (shared); i++)
    g_test_add_data_func (shared[i].path, f, shared[i].function);
  g_test_add_func ("/line/token/changes-at-each-start", test_token_changes_at_each_start);
  g_test_add_func ("/line/token/handed-over", test_token_is_handed_over);
  g_test_add_func ("/line/users/limited", test_users_can_be_limited);
  g_test_add_func ("/line/users/allowed", test_users_can_be_allowed);
  g_test_add_func ("/line/connection-cap", test_connection_cap);
  g_test_add_func ("/line/tcp", test_tcp);
  g_test_add_func ("/line/key/none-yet", test_no_key_yet);
  g_test_add_func ("/line/key/ambiguous", test_ambiguous_key_is_an_error_at_start);
  g_test_add_func ("/line/key/configured", test_configured_key);
  g_test_add_func ("/line/hanging-module", test_hanging_module);
  return g_test_run ();
}
