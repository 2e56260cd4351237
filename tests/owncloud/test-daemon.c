/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-daemon"

#include "kw-daemon-rig.h"
#include "kw-shim-control.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * The life of the daemon: how it starts and refuses to, how it ends, what it does when its token misbehaves or is changed
 * underneath, and that no PIN is tried twice.
 */

#define WRONG_PIN "no such pin"

/* PKCS#11 v2.40 return values that a device in trouble gives. */
enum
{
  RV_GENERAL_ERROR = 0x05,
  RV_DEVICE_ERROR = 0x30,
  RV_DEVICE_REMOVED = 0x32,
  RV_KEY_HANDLE_INVALID = 0x60,
  RV_SESSION_CLOSED = 0xB0,
  RV_SESSION_HANDLE_INVALID = 0xB3,
  RV_TOKEN_NOT_PRESENT = 0xE0,
  RV_USER_NOT_LOGGED_IN = 0x101,
};

typedef struct
{
  KwDaemonRig *rig;
  KwShim *shim; /* NULL = SoftHSM itself */
  char *jwt;
  char *pem;
  char *path; /* /decrypt/… of the key */
  char *uuid;
  GBytes *plaintext;
  GBytes *ciphertext;
} Fixture;

static void
use_new_key (Fixture *f)
{
  g_clear_pointer (&f->pem, g_free);
  g_free (f->uuid);
  g_free (f->path);
  g_clear_pointer (&f->ciphertext, g_bytes_unref);
  f->uuid = kw_daemon_rig_make_key (f->rig, &f->pem);
  f->path = g_strdup_printf ("/decrypt/%s", f->uuid);
  f->ciphertext = kw_test_encrypt (f->pem, f->plaintext);
}

static Fixture *
fixture_new (gboolean with_shim, const char *extra_config)
{
  Fixture *f = g_new0 (Fixture, 1);

  if (with_shim)
    f->shim = kw_shim_new ();
  f->rig = kw_daemon_rig_new (with_shim ? kw_shim_get_module_path () : NULL, extra_config);
  f->jwt = kw_daemon_rig_make_jwt (f->rig);
  f->plaintext = g_bytes_new_static ("0123456789abcdefghijklmnopqrstuv", 32);
  return f;
}

static Fixture *
fixture_new_started (gboolean with_shim)
{
  Fixture *f = fixture_new (with_shim, NULL);

  kw_daemon_rig_start (f->rig);
  use_new_key (f);
  return f;
}

static void
fixture_free (Fixture *f)
{
  if (f->shim != NULL)
    kw_shim_clear_all (f->shim);
  kw_daemon_rig_free (f->rig);
  g_clear_pointer (&f->shim, kw_shim_free);
  g_free (f->jwt);
  g_free (f->pem);
  g_free (f->path);
  g_free (f->uuid);
  g_bytes_unref (f->plaintext);
  g_clear_pointer (&f->ciphertext, g_bytes_unref);
  g_free (f);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Fixture, fixture_free)

static guint
decrypt_status (Fixture *f)
{
  g_autoptr (KwTestResponse) response = kw_daemon_rig_post (f->rig, f->path, f->jwt, f->ciphertext);

  if (response->status == 200)
    g_assert_true (g_bytes_equal (response->body, f->plaintext));
  return response->status;
}

static guint
new_key_status (Fixture *f)
{
  g_autoptr (KwTestResponse) response = kw_daemon_rig_post (f->rig, "/keys/new", f->jwt, NULL);

  return response->status;
}

static void
wait_for_new_keys (Fixture *f)
{
  gint64 end = g_get_monotonic_time () + 60 * G_TIME_SPAN_SECOND;

  while (new_key_status (f) != 200)
    {
      g_assert_cmpint (g_get_monotonic_time (), <, end);
      g_usleep (50000);
    }
}

static void
assert_log_has (Fixture *f, const char *text)
{
  g_autofree char *log = kw_daemon_rig_dup_log (f->rig);

  if (strstr (log, text) == NULL)
    g_test_message ("log:\n%s", log);
  g_assert_nonnull (strstr (log, text));
}

static void
test_original_configuration (void)
{
  g_autoptr (Fixture) f = fixture_new (FALSE, NULL);
  g_autofree char *module = g_strdup (kw_soft_hsm_find_module ());
  g_autofree char *slot
      = kw_soft_hsm_dup_slot (kw_daemon_rig_get_soft_hsm (f->rig), KW_TEST_TOKEN_LABEL);
  g_autofree char *config = NULL;

  /* What hsmdaemon.toml holds, and nothing else but where this test may write. */
  config = g_strdup_printf (
      "# hsmdaemon\n[logger]\n# debug, info, warn, error, panic, fatal\nlevel = \"debug\"\n"
      "path = \"file://%s/log\"\nencoding = \"json\"\n\n"
      "[server]\nhostname = \"localhost\"\nport = @PORT@\n\n"
      "[jwt]\nsecret = \"" KW_TEST_JWT_SECRET "\"\n\n"
      "[pkcs11]\nmodule = \"%s\"\npin = \"" KW_TEST_PIN "\"\nslot = %s\n\n"
      "[state]\ndirectory = \"%s/state\"\n",
      kw_daemon_rig_get_directory (f->rig), module, slot, kw_daemon_rig_get_directory (f->rig));
  kw_daemon_rig_set_config (f->rig, config);
  kw_daemon_rig_start (f->rig);
  use_new_key (f);
  g_assert_cmpuint (decrypt_status (f), ==, 200);
  assert_log_has (f, "\"msg\":\"initialize pkcs11 module\",\"module\":");
  assert_log_has (f, "\"msg\":\"Slots found\",\"slotIds\":[");
  assert_log_has (f, "\"msg\":\"generated keypair\",\"tokenID\":");
  assert_log_has (f, "\"msg\":\"Server listening\",\"host\":\"localhost\",\"port\":");
}

static void
assert_refuses_to_start (Fixture *f, const char *reason)
{
  g_autofree char *errors = kw_daemon_rig_dup_refusal (f->rig);

  g_test_message ("%s", errors);
  g_assert_nonnull (strstr (errors, reason));
}

static void
test_weak_secrets_are_refused (void)
{
  const char *const weak[] = { "secret", "fifteen bytes..", "x" };

  for (guint i = 0; i < G_N_ELEMENTS (weak); i++)
    {
      g_autoptr (Fixture) f = fixture_new (FALSE, NULL);
      g_autofree char *config
          = g_strdup_printf ("[jwt]\nsecret = \"%s\"\n[server]\nport = @PORT@\n", weak[i]);

      kw_daemon_rig_set_config (f->rig, config);
      assert_refuses_to_start (f, "too weak");
    }
}

static void
test_configuration_errors_name_the_place (void)
{
  g_autoptr (Fixture) f = fixture_new (FALSE, NULL);

  kw_daemon_rig_set_config (f->rig, "[jwt]\nsecret = \"" KW_TEST_JWT_SECRET
                                    "\"\n[server]\nprot = @PORT@\n");
  assert_refuses_to_start (
      f, "keyward.toml:4: unknown key \"prot\" in table [server]; did you mean \"port\"?");
}

static void
test_second_daemon_is_refused (void)
{
  g_autoptr (Fixture) f = fixture_new_started (FALSE);
  g_autoptr (Fixture) second = fixture_new (FALSE, NULL);
  g_autofree char *config
      = g_strdup_printf ("[logger]\npath = \"%s/log\"\n[jwt]\nsecret = \"" KW_TEST_JWT_SECRET
                         "\"\n[server]\nport = %u\n"
                         "[pkcs11]\nmodule = \"%s\"\n[state]\ndirectory = \"%s/state\"\n",
                         kw_daemon_rig_get_directory (second->rig), kw_daemon_rig_get_port (f->rig),
                         kw_soft_hsm_find_module (), kw_daemon_rig_get_directory (second->rig));
  g_autofree char *log = NULL;

  kw_daemon_rig_set_config (second->rig, config);
  g_free (kw_daemon_rig_dup_refusal (second->rig));
  log = kw_daemon_rig_dup_log (second->rig);
  g_assert_nonnull (strstr (log, "Cannot listen on localhost port"));
  g_assert_cmpuint (decrypt_status (f), ==, 200);
}

#if KW_TEST_SYSTEMD
static void
test_sockets_from_systemd (void)
{
  /* LISTEN_PID must be the daemon's own: exec keeps it. */
  const char *const wrapper[] = { "sh", "-c", "LISTEN_PID=$$ exec \"$@\"", "sh", NULL };
  g_autoptr (Fixture) f = fixture_new (FALSE, NULL);
  g_autofree char *config = NULL;
  guint16 http_port = 0;
  guint16 line_port = 0;
  int http = kw_test_listen_tcp (&http_port);
  int line = kw_test_listen_tcp (&line_port);
  int fd = -1;

  config = g_strdup_printf ("[logger]\npath = \"%s/log\"\nlevel = \"debug\"\n"
                            "[jwt]\nsecret = \"" KW_TEST_JWT_SECRET "\"\n[server]\nport = @PORT@\n"
                            "[pkcs11]\nmodule = \"%s\"\npin = \"" KW_TEST_PIN "\"\n"
                            "token_label = \"" KW_TEST_TOKEN_LABEL "\"\n"
                            "[state]\ndirectory = \"%s/state\"\n",
                            kw_daemon_rig_get_directory (f->rig), kw_soft_hsm_find_module (),
                            kw_daemon_rig_get_directory (f->rig));
  kw_daemon_rig_set_config (f->rig, config);
  kw_daemon_rig_set_wrapper (f->rig, wrapper);
  kw_daemon_rig_set_environment (f->rig, "LISTEN_FDS", "2");
  kw_daemon_rig_set_environment (f->rig, "LISTEN_FDNAMES", "http:line");
  kw_daemon_rig_pass_socket (f->rig, http, 3);
  kw_daemon_rig_pass_socket (f->rig, line, 4);
  kw_daemon_rig_start (f->rig);
  fd = kw_test_connect_tcp (http_port);
  kw_test_send (fd, "GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", -1);
  {
    g_autoptr (KwTestResponse) response = kw_test_receive_response (fd);

    g_assert_cmpuint (response->status, ==, 404);
  }
  close (fd);
  /* The line socket is on although the configuration has no table for it. That the sockets come blocking, as systemd
     passes them, holds up nobody. */
  for (guint i = 0; i < 50; i++)
    {
      g_autofree char *answer = NULL;

      fd = kw_test_connect_tcp (line_port);
      kw_test_send (fd, "guess\r\n", -1);
      answer = kw_test_receive_line (fd);
      g_assert_cmpstr (answer, ==, "ERR The token is not valid");
      close (fd);
    }
}
#endif

static void
test_restart_keeps_keys (void)
{
  g_autoptr (Fixture) f = fixture_new_started (FALSE);

  kw_daemon_rig_stop (f->rig);
  kw_daemon_rig_start (f->rig);
  g_assert_cmpuint (decrypt_status (f), ==, 200);
  kw_daemon_rig_kill (f->rig);
  kw_daemon_rig_start (f->rig);
  g_assert_cmpuint (decrypt_status (f), ==, 200);
}

static void
test_first_request_waits_for_the_device (void)
{
  g_autoptr (Fixture) f = fixture_new_started (FALSE);

  kw_daemon_rig_stop (f->rig);
  kw_daemon_rig_launch (f->rig);
  /* Listening, but perhaps not logged in yet: no failure all the same. */
  g_assert_cmpuint (decrypt_status (f), ==, 200);
}

static void
test_hangup_reopens_logs (void)
{
  g_autoptr (Fixture) f = fixture_new_started (FALSE);
  const char *directory = kw_daemon_rig_get_directory (f->rig);
  g_autofree char *log = g_build_filename (directory, "log", NULL);
  g_autofree char *old_log = g_build_filename (directory, "log.1", NULL);
  g_autofree char *audit = g_build_filename (directory, "state", "audit.log", NULL);
  g_autofree char *old_audit = g_build_filename (directory, "state", "audit.log.1", NULL);

  g_assert_cmpint (g_rename (log, old_log), ==, 0);
  g_assert_cmpint (g_rename (audit, old_audit), ==, 0);
  g_assert_cmpint (kill (kw_daemon_rig_get_pid (f->rig), SIGHUP), ==, 0);
  for (gint64 end = g_get_monotonic_time () + 30 * G_TIME_SPAN_SECOND; g_access (audit, F_OK) != 0;)
    {
      g_assert_cmpint (g_get_monotonic_time (), <, end);
      g_usleep (10000);
    }
  g_assert_cmpuint (decrypt_status (f), ==, 200);
  kw_daemon_rig_wait_for_log (f->rig, "Decrypted");
  {
    g_autofree char *lines = kw_daemon_rig_dup_audit (f->rig);

    g_assert_nonnull (strstr (lines, "rsa-decrypt"));
  }
}

static void
test_end_finishes_requests (void)
{
  g_autoptr (Fixture) f = fixture_new_started (TRUE);
  int fd = kw_daemon_rig_connect_http (f->rig);
  g_autofree char *head = g_strdup_printf (
      "POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 256\r\n\r\n",
      f->path, f->jwt);
  g_autoptr (KwTestResponse) response = NULL;
  gint64 end = g_get_monotonic_time () + 30 * G_TIME_SPAN_SECOND;

  kw_shim_hang (f->shim, KW_SHIM_C_Decrypt);
  kw_test_send (fd, head, -1);
  kw_test_send (fd, g_bytes_get_data (f->ciphertext, NULL), 256);
  while (kw_shim_get_hanging (f->shim) == 0)
    {
      g_assert_cmpint (g_get_monotonic_time (), <, end);
      g_usleep (1000);
    }
  g_assert_cmpint (kill (kw_daemon_rig_get_pid (f->rig), SIGTERM), ==, 0);
  kw_daemon_rig_wait_for_log (f->rig, "Ending");
  kw_shim_clear_all (f->shim);
  response = kw_test_receive_response (fd);
  g_assert_nonnull (response);
  g_assert_cmpuint (response->status, ==, 200);
  close (fd);
  g_assert_true (kw_daemon_rig_wait_for_exit (f->rig, 30));
}

typedef struct
{
  Fixture *fixture;
  char *token;
  char *line;
  guint n_answered;
} LoadThread;

/* Decrypts on the line socket until the daemon closes the connection. */
static gpointer
decrypt_until_closed (gpointer user_data)
{
  LoadThread *load = user_data;
  int fd = kw_daemon_rig_connect_line (load->fixture->rig);
  g_autofree char *answer = NULL;

  kw_test_send (fd, load->token, -1);
  kw_test_send (fd, "\r\n", -1);
  answer = kw_test_receive_line (fd);
  g_assert_cmpstr (answer, ==, "OK");
  for (;;)
    {
      g_autofree char *line = NULL;

      kw_test_send (fd, load->line, -1);
      line = kw_test_receive_line (fd);
      if (line == NULL)
        break;
      g_assert_false (g_str_has_prefix (line, "ERR "));
      g_atomic_int_inc ((gint *) &load->n_answered);
    }
  close (fd);
  return NULL;
}

static void
test_end_under_load (void)
{
  g_autoptr (Fixture) f = fixture_new_started (FALSE);
  g_autofree char *token = kw_daemon_rig_dup_line_token (f->rig);
  g_autofree char *text
      = g_base64_encode (g_bytes_get_data (f->ciphertext, NULL), g_bytes_get_size (f->ciphertext));
  g_autofree char *line = g_strconcat (text, "\r\n", NULL);
  LoadThread loads[8];
  GThread *threads[G_N_ELEMENTS (loads)];
  gint64 start = 0;

  for (guint i = 0; i < G_N_ELEMENTS (loads); i++)
    {
      loads[i] = (LoadThread){ f, token, line, 0 };
      threads[i] = g_thread_new ("load", decrypt_until_closed, &loads[i]);
    }
  for (guint i = 0; i < G_N_ELEMENTS (loads); i++)
    while (g_atomic_int_get ((gint *) &loads[i].n_answered) < 5)
      g_usleep (1000);
  start = g_get_monotonic_time ();
  /* Ends by itself with status 0, and soon: kept connections do not hold it up. */
  kw_daemon_rig_stop (f->rig);
  g_assert_cmpint (g_get_monotonic_time () - start, <, 4 * G_TIME_SPAN_SECOND);
  for (guint i = 0; i < G_N_ELEMENTS (loads); i++)
    g_thread_join (threads[i]);
}

static gboolean
run_pkcs11_tool (Fixture *f, const char *arguments)
{
  g_autofree char *command
      = g_strdup_printf ("pkcs11-tool --module %s --token-label " KW_TEST_TOKEN_LABEL
                         " --login --pin " KW_TEST_PIN " %s",
                         kw_soft_hsm_find_module (), arguments);
  g_autofree char *errors = NULL;
  g_autofree char *output = NULL;
  int status = 0;

  g_assert_true (g_spawn_command_line_sync (command, &output, &errors, &status, NULL));
  if (status != 0)
    g_test_message ("%s: %s", command, errors);
  return status == 0;
}

static void
test_key_replaced_under_its_id (void)
{
  g_autoptr (Fixture) f = fixture_new_started (FALSE);
  g_auto (GStrv) parts = g_strsplit (f->uuid, "-", -1);
  g_autofree char *hex = g_strjoinv ("", parts);
  g_autofree char *delete_private = g_strdup_printf ("--delete-object --type privkey --id %s", hex);
  g_autofree char *delete_public = g_strdup_printf ("--delete-object --type pubkey --id %s", hex);
  g_autofree char *generate
      = g_strdup_printf ("--keypairgen --key-type rsa:2048 --id %s --label other", hex);
  g_autofree char *audit = NULL;

  g_assert_cmpuint (decrypt_status (f), ==, 200);
  g_assert_true (run_pkcs11_tool (f, delete_private));
  g_assert_true (run_pkcs11_tool (f, delete_public));
  g_assert_true (run_pkcs11_tool (f, generate));
  for (guint i = 0; i < 5; i++)
    g_assert_cmpuint (decrypt_status (f), >=, 500);
  kw_daemon_rig_wait_for_log (f->rig, "keyward keys accept");
  /* Not once was the other key used: that would have been a decrypt that failed. */
  audit = kw_daemon_rig_dup_audit (f->rig);
  g_assert_null (strstr (audit, "decrypt-failed"));
}

static void
test_wrong_pin_is_tried_once (void)
{
  g_autoptr (Fixture) f = fixture_new (TRUE, NULL);

  kw_daemon_rig_set_pin (f->rig, WRONG_PIN);
  kw_daemon_rig_launch (f->rig);
  kw_daemon_rig_wait_for_log (f->rig, "\"state\":\"pin-refused\"");
  g_assert_cmpuint (new_key_status (f), ==, 503);
  g_assert_cmpuint (kw_shim_get_calls (f->shim, KW_SHIM_C_Login), ==, 1);
  for (guint i = 0; i < 2; i++)
    {
      kw_daemon_rig_stop (f->rig);
      kw_daemon_rig_launch (f->rig);
      kw_daemon_rig_wait_for_log (f->rig, "\"state\":\"pin-refused\"");
      assert_log_has (f, "refused this PIN before");
      assert_log_has (f, "keyward device retry");
      g_assert_cmpuint (new_key_status (f), ==, 503);
    }
  g_assert_cmpuint (kw_shim_get_calls (f->shim, KW_SHIM_C_Login), ==, 1);
  /* Another PIN is another matter. */
  kw_daemon_rig_stop (f->rig);
  kw_daemon_rig_set_pin (f->rig, KW_TEST_PIN);
  kw_daemon_rig_start (f->rig);
  g_assert_cmpuint (new_key_status (f), ==, 200);
  {
    g_autofree char *log = kw_daemon_rig_dup_log (f->rig);

    g_assert_null (strstr (log, WRONG_PIN));
    g_assert_null (strstr (log, KW_TEST_PIN));
  }
}

static void
test_low_counter_is_respected (void)
{
  g_autoptr (Fixture) f = fixture_new (TRUE, NULL);
  const gulong final_try = 0x00020000;
  const gulong locked = 0x00040000;

  kw_shim_set_token_flags (f->shim, final_try, 0);
  kw_daemon_rig_launch (f->rig);
  kw_daemon_rig_wait_for_log (f->rig, "one try of its PIN left");
  kw_daemon_rig_stop (f->rig);
  kw_shim_set_token_flags (f->shim, locked, 0);
  kw_daemon_rig_launch (f->rig);
  kw_daemon_rig_wait_for_log (f->rig, "is locked");
  g_assert_cmpuint (kw_shim_get_calls (f->shim, KW_SHIM_C_Login), ==, 0);
}

typedef struct
{
  KwShimFunction function;
  gulong rv;
} Fault;

static void
test_trouble_loses_no_request (void)
{
  g_autoptr (Fixture) f = fixture_new_started (TRUE);
  const Fault faults[] = {
    { KW_SHIM_C_Decrypt, RV_SESSION_HANDLE_INVALID },
    { KW_SHIM_C_DecryptInit, RV_SESSION_HANDLE_INVALID },
    { KW_SHIM_C_DecryptInit, RV_SESSION_CLOSED },
    { KW_SHIM_C_DecryptInit, RV_KEY_HANDLE_INVALID },
    { KW_SHIM_C_Decrypt, RV_USER_NOT_LOGGED_IN },
    { KW_SHIM_C_DecryptInit, RV_USER_NOT_LOGGED_IN },
    { KW_SHIM_C_Decrypt, RV_DEVICE_REMOVED },
    { KW_SHIM_C_DecryptInit, RV_TOKEN_NOT_PRESENT },
    { KW_SHIM_C_Decrypt, RV_GENERAL_ERROR },
    { KW_SHIM_C_Decrypt, RV_DEVICE_ERROR },
  };

  for (guint i = 0; i < G_N_ELEMENTS (faults); i++)
    {
      g_test_message ("%s: 0x%lx", kw_shim_function_name (faults[i].function), faults[i].rv);
      kw_shim_fail (f->shim, faults[i].function, faults[i].rv, 1);
      g_assert_cmpuint (decrypt_status (f), ==, 200);
      kw_shim_clear_all (f->shim);
      g_assert_cmpuint (decrypt_status (f), ==, 200);
    }
  g_assert_cmpint (kw_shim_get_open_sessions (f->shim), <=, 6);
}

static void
test_trouble_without_end_is_503 (void)
{
  g_autoptr (Fixture) f = fixture_new_started (TRUE);

  kw_shim_fail (f->shim, KW_SHIM_C_Decrypt, RV_DEVICE_ERROR, KW_SHIM_ALWAYS);
  g_assert_cmpuint (decrypt_status (f), ==, 503);
  kw_shim_clear_all (f->shim);
  for (gint64 end = g_get_monotonic_time () + 60 * G_TIME_SPAN_SECOND; decrypt_status (f) != 200;)
    {
      g_assert_cmpint (g_get_monotonic_time (), <, end);
      g_usleep (50000);
    }
}

static void
test_no_search_or_login_per_request (void)
{
  g_autoptr (Fixture) f = fixture_new_started (TRUE);

  g_assert_cmpuint (decrypt_status (f), ==, 200);
  kw_shim_reset_calls (f->shim);
  for (guint i = 0; i < 50; i++)
    g_assert_cmpuint (decrypt_status (f), ==, 200);
  g_assert_cmpuint (kw_shim_get_calls (f->shim, KW_SHIM_C_Login), ==, 0);
  g_assert_cmpuint (kw_shim_get_calls (f->shim, KW_SHIM_C_OpenSession), <=, 4);
  /* At most a look at the token now and then, once for all. */
  g_assert_cmpuint (kw_shim_get_calls (f->shim, KW_SHIM_C_FindObjectsInit), <=, 4);
  g_assert_cmpuint (kw_shim_get_calls (f->shim, KW_SHIM_C_Decrypt), ==, 50);
}

static void
test_token_made_anew (void)
{
  g_autoptr (Fixture) f = fixture_new_started (FALSE);
  KwSoftHsm *soft_hsm = kw_daemon_rig_get_soft_hsm (f->rig);

  kw_soft_hsm_delete_token (soft_hsm, KW_TEST_TOKEN_LABEL);
  g_assert_cmpuint (decrypt_status (f), >=, 500);
  kw_soft_hsm_add_token (soft_hsm, KW_TEST_TOKEN_LABEL, KW_TEST_SO_PIN, KW_TEST_PIN);
  wait_for_new_keys (f);
  use_new_key (f);
  g_assert_cmpuint (decrypt_status (f), ==, 200);
}

static void
test_token_initialised_underneath (void)
{
  g_autoptr (Fixture) f = fixture_new_started (FALSE);
  g_autofree char *line_key = NULL;

  kw_soft_hsm_reinit_token (kw_daemon_rig_get_soft_hsm (f->rig), KW_TEST_TOKEN_LABEL,
                            KW_TEST_TOKEN_LABEL, KW_TEST_SO_PIN, KW_TEST_PIN);
  g_assert_cmpuint (decrypt_status (f), >=, 500);
  wait_for_new_keys (f);
  use_new_key (f);
  g_assert_cmpuint (decrypt_status (f), ==, 200);
  /* What was made survives, so it was made on the token as it is now. */
  line_key = g_strdup_printf ("@LINE@\nkey = \"%s\"\n", f->uuid);
  kw_daemon_rig_set_extra_config (f->rig, line_key);
  kw_daemon_rig_stop (f->rig);
  kw_daemon_rig_start (f->rig);
  g_assert_cmpuint (decrypt_status (f), ==, 200);
}

static void
test_token_comes_late (void)
{
  g_autoptr (Fixture) f = fixture_new (FALSE, NULL);
  KwSoftHsm *soft_hsm = kw_daemon_rig_get_soft_hsm (f->rig);

  kw_soft_hsm_delete_token (soft_hsm, KW_TEST_TOKEN_LABEL);
  kw_daemon_rig_launch (f->rig);
  kw_daemon_rig_wait_for_log (f->rig, "Waiting for a device");
  kw_soft_hsm_add_token (soft_hsm, KW_TEST_TOKEN_LABEL, KW_TEST_SO_PIN, KW_TEST_PIN);
  kw_daemon_rig_wait_for_log (f->rig, "\"state\":\"ready\"");
  g_assert_cmpuint (new_key_status (f), ==, 200);
}

static void
replace_in_file (const char *path, const char *from, const char *to)
{
  g_autofree char *text = NULL;
  g_auto (GStrv) parts = NULL;
  g_autofree char *changed = NULL;

  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  parts = g_strsplit (text, from, -1);
  g_assert_cmpuint (g_strv_length (parts), >, 1);
  changed = g_strjoinv (to, parts);
  g_assert_true (
      g_file_set_contents_full (path, changed, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600, NULL));
}

static void
test_key_that_is_not_the_recorded_one (void)
{
  g_autoptr (Fixture) f = fixture_new_started (FALSE);
  g_autofree char *state
      = g_build_filename (kw_daemon_rig_get_directory (f->rig), "state", "keys.state", NULL);
  g_autofree char *name = g_strdup_printf ("rsa-%s=", f->uuid);
  g_autofree char *false_name = g_strdup_printf ("rsa-%s=00", f->uuid);

  kw_daemon_rig_stop (f->rig);
  replace_in_file (state, name, false_name);
  kw_daemon_rig_start (f->rig);
  assert_log_has (f, "keyward keys accept");
  g_assert_cmpuint (decrypt_status (f), ==, 500);
  /* The daemon sees it when the administrator puts it right. */
  replace_in_file (state, false_name, name);
  for (gint64 end = g_get_monotonic_time () + 30 * G_TIME_SPAN_SECOND; decrypt_status (f) != 200;)
    {
      g_assert_cmpint (g_get_monotonic_time (), <, end);
      g_usleep (50000);
    }
}

static void
test_damaged_state_file_is_left_alone (void)
{
  g_autoptr (Fixture) f = fixture_new_started (FALSE);
  g_autofree char *state
      = g_build_filename (kw_daemon_rig_get_directory (f->rig), "state", "keys.state", NULL);
  g_autofree char *text = NULL;

  kw_daemon_rig_stop (f->rig);
  g_assert_true (g_file_set_contents (state, "[keys\nbroken", -1, NULL));
  g_free (kw_daemon_rig_dup_refusal (f->rig));
  assert_log_has (f, "keys.state");
  g_assert_true (g_file_get_contents (state, &text, NULL, NULL));
  g_assert_cmpstr (text, ==, "[keys\nbroken");
}

static void
test_secrets_stay_inside (void)
{
  g_autoptr (Fixture) f = fixture_new_started (FALSE);
  int pid = kw_daemon_rig_get_pid (f->rig);
  const char *const files[] = { "cmdline", "environ" };
  g_autofree char *status_path = g_strdup_printf ("/proc/%d/status", pid);
  g_autofree char *status = NULL;
  const char *locked = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (files); i++)
    {
      g_autofree char *path = g_strdup_printf ("/proc/%d/%s", pid, files[i]);
      g_autofree char *data = NULL;
      gsize n = 0;

      g_assert_true (g_file_get_contents (path, &data, &n, NULL));
      g_assert_null (memmem (data, n, KW_TEST_PIN, strlen (KW_TEST_PIN)));
      g_assert_null (memmem (data, n, KW_TEST_JWT_SECRET, strlen (KW_TEST_JWT_SECRET)));
    }
  g_assert_true (g_file_get_contents (status_path, &status, NULL, NULL));
  locked = strstr (status, "VmLck:");
  g_assert_nonnull (locked);
  /* AddressSanitizer makes mlock() do nothing. */
  if (g_getenv ("KW_TEST_SANITIZED") == NULL)
    g_assert_cmpuint (g_ascii_strtoull (locked + strlen ("VmLck:"), NULL, 10), >, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/daemon/start/original-configuration", test_original_configuration);
  g_test_add_func ("/daemon/start/weak-secrets", test_weak_secrets_are_refused);
  g_test_add_func ("/daemon/start/configuration-errors", test_configuration_errors_name_the_place);
  g_test_add_func ("/daemon/start/second-daemon", test_second_daemon_is_refused);
#if KW_TEST_SYSTEMD
  g_test_add_func ("/daemon/start/sockets-from-systemd", test_sockets_from_systemd);
#endif
  g_test_add_func ("/daemon/start/keeps-keys", test_restart_keeps_keys);
  g_test_add_func ("/daemon/start/first-request-waits", test_first_request_waits_for_the_device);
  g_test_add_func ("/daemon/start/damaged-state-file", test_damaged_state_file_is_left_alone);
  g_test_add_func ("/daemon/hangup", test_hangup_reopens_logs);
  g_test_add_func ("/daemon/end/finishes-requests", test_end_finishes_requests);
  g_test_add_func ("/daemon/end/under-load", test_end_under_load);
  g_test_add_func ("/daemon/keys/replaced-under-its-id", test_key_replaced_under_its_id);
  g_test_add_func ("/daemon/pin/wrong-is-tried-once", test_wrong_pin_is_tried_once);
  g_test_add_func ("/daemon/pin/low-counter", test_low_counter_is_respected);
  g_test_add_func ("/daemon/trouble/loses-no-request", test_trouble_loses_no_request);
  g_test_add_func ("/daemon/trouble/without-end", test_trouble_without_end_is_503);
  g_test_add_func ("/daemon/no-search-or-login-per-request", test_no_search_or_login_per_request);
  g_test_add_func ("/daemon/token/made-anew", test_token_made_anew);
  g_test_add_func ("/daemon/token/initialised-underneath", test_token_initialised_underneath);
  g_test_add_func ("/daemon/token/comes-late", test_token_comes_late);
  g_test_add_func ("/daemon/keys/not-the-recorded-one", test_key_that_is_not_the_recorded_one);
  g_test_add_func ("/daemon/secrets", test_secrets_stay_inside);
  return g_test_run ();
}
