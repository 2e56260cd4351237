/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-service"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-fake-backend.h"
#include "kw-limits.h"
#include "kw-names.h"
#include "kw-plugins.h"
#include "kw-service.h"

#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <time.h>

#define PIN "648219"
#define KEY_ID "0123456789abcdef"
#define KEY_UUID "30313233-3435-3637-3839-616263646566"
#define WINDOW_USEC (60 * G_TIME_SPAN_SECOND)

/*
 * The clock of this program: GLib's, that a test can put forward. The core takes this one because a
 * program's own symbols come first.
 */
static gint64
move_clock (gint64 usec)
{
  static gint64 offset; /* lint: allow file-scope */

  offset += usec;
  return offset;
}

gint64
g_get_monotonic_time (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (gint64) now.tv_sec * G_USEC_PER_SEC + now.tv_nsec / 1000 + move_clock (0);
}

typedef struct
{
  char *directory;
  KwService *service;
  KwFakeToken *token;
} Fixture;

static void
make_service (Fixture *fixture, const char *settings)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *text
      = g_strdup_printf ("[state]\ndirectory = \"%s\"\n[pkcs11]\npin = \"" PIN "\"\n%s",
                         fixture->directory, settings);
  g_autoptr (KwConfig) config = kw_config_new_from_data ("test.toml", text, strlen (text), &error);

  g_assert_no_error (error);
  fixture->service = kw_service_new (config, &error);
  g_assert_no_error (error);
  kw_service_start (fixture->service);
}

static void
set_up (Fixture *fixture, gconstpointer data)
{
  fixture->directory = kw_test_make_directory ();
  make_service (fixture, data != NULL ? data : "");
  fixture->token = kw_fake_token_new ("A", PIN);
  kw_fake_token_add_key (fixture->token, KEY_ID, "material");
  kw_fake_token_add_aes_key (fixture->token, NULL, "master", 1);
  kw_fake_backend_plug (kw_fake_backend_get_newest (), fixture->token);
  kw_iterate_until (kw_pool_is_ready (kw_service_get_pool (fixture->service)));
}

static void
tear_down (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  gpointer service = fixture->service;

  kw_service_stop (fixture->service);
  g_object_add_weak_pointer (G_OBJECT (fixture->service), &service);
  g_object_unref (fixture->service);
  while (service != NULL || g_main_context_pending (NULL))
    if (!g_main_context_iteration (NULL, FALSE))
      g_thread_yield ();
  g_object_unref (fixture->token);
  kw_test_remove_directory (fixture->directory);
}

static void
on_done (KwJob *job G_GNUC_UNUSED, gpointer user_data)
{
  g_atomic_int_inc ((gint *) user_data);
  g_main_context_wakeup (NULL);
}

/* What came of a job: -1 for ok, else the code. */
static gint
do_job (Fixture *fixture, KwJob *job)
{
  g_autoptr (KwJob) kept = kw_job_ref (job);
  gint n_ended = 0;

  kw_job_set_callback (job, on_done, &n_ended);
  kw_service_submit (fixture->service, job);
  kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
  g_assert_cmpint (n_ended, ==, 1);
  return kw_job_get_error (kept) != NULL ? kw_job_get_error (kept)->code : -1;
}

static gint
decrypt_as (Fixture *fixture, KwCaller *caller, const char *id, const char *text)
{
  g_autoptr (GBytes) key_id = g_bytes_new (id, strlen (id));
  g_autoptr (GBytes) ciphertext = g_bytes_new (text, strlen (text));
  KwJob *job = kw_job_new_rsa_decrypt (caller, key_id, KW_RSA_PADDING_PKCS1, ciphertext);

  kw_job_set_may_run_here (job, TRUE);
  return do_job (fixture, job);
}

static gint
decrypt_from (Fixture *fixture, const char *address, gint64 uid, const char *text)
{
  g_autoptr (KwCaller) caller = kw_caller_new (KW_CALLER_JWT, "name", NULL, address, uid);

  return decrypt_as (fixture, caller, KEY_ID, text);
}

static void
test_every_caller_and_verb (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const struct
  {
    KwCallerKind kind;
    gint decrypt;
    gint generate;
  } rows[] = {
    { KW_CALLER_JWT, -1, -1 },
    { KW_CALLER_LINE, -1, KW_ERROR_NOT_AUTHORIZED },
    { KW_CALLER_LOCAL, -1, -1 },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (KwCaller) caller
          = kw_caller_new (rows[i].kind, NULL, NULL, "127.0.0.1", KW_CALLER_NO_UID);

      g_assert_cmpint (decrypt_as (fixture, caller, KEY_ID, "text"), ==, rows[i].decrypt);
      g_assert_cmpint (do_job (fixture, kw_job_new_generate_rsa (caller, 2048, NULL)), ==,
                       rows[i].generate);
    }
  g_assert_cmpuint (kw_fake_token_get_n_calls (fixture->token, KW_FAKE_GENERATE_RSA), ==, 2);
}

/* What each kind of caller may do; the line protocol can only decrypt with RSA. */
static void
test_every_caller_and_message_verb (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const gboolean permitted[KW_N_CALLER_KINDS][5] = {
    [KW_CALLER_JWT] = { TRUE, TRUE, TRUE, TRUE, FALSE },
    [KW_CALLER_LINE] = { FALSE, FALSE, FALSE, FALSE, FALSE },
    [KW_CALLER_LOCAL] = { TRUE, TRUE, TRUE, TRUE, TRUE },
    [KW_CALLER_BUS] = { FALSE, FALSE, FALSE, FALSE, FALSE },
    [KW_CALLER_API] = { FALSE, FALSE, FALSE, FALSE, FALSE },
  };

  for (guint i = 0; i < KW_N_CALLER_KINDS; i++)
    {
      g_autoptr (KwCaller) caller
          = kw_caller_new ((KwCallerKind) i, NULL, NULL, "127.0.0.1", KW_CALLER_NO_UID);
      g_autoptr (GBytes) nonsense = g_bytes_new_static ("nonsense", 8);
      g_autoptr (KwSecret) message = kw_secret_new_copy ("text", 4, NULL);
      g_autofree char *label = g_strdup_printf ("label %u", i);
      gint results[] = {
        do_job (fixture, kw_job_new_encrypt (caller, message, NULL)),
        do_job (fixture, kw_job_new_decrypt (caller, nonsense, NULL)),
        do_job (fixture, kw_job_new_rewrap (caller, nonsense, NULL)),
        do_job (fixture, kw_job_new_random (caller, 16)),
        do_job (fixture, kw_job_new_generate_aes (caller, 256, label)),
      };
      const gint wanted[] = { -1, KW_ERROR_INVALID_ARGUMENT, KW_ERROR_INVALID_ARGUMENT, -1, -1 };

      for (guint j = 0; j < G_N_ELEMENTS (results); j++)
        g_assert_cmpint (results[j], ==, permitted[i][j] ? wanted[j] : KW_ERROR_NOT_AUTHORIZED);
    }
}

static KwJob *
encrypt_message (Fixture *fixture, KwCaller *caller)
{
  g_autoptr (KwSecret) message = kw_secret_new_copy ("text", 4, NULL);
  g_autoptr (KwJob) job = kw_job_new_encrypt (caller, message, NULL);

  g_assert_cmpint (do_job (fixture, kw_job_ref (job)), ==, -1);
  return g_steal_pointer (&job);
}

/* Bad messages are counted like bad RSA blocks, and stop both; malformed ones are not. */
static void
test_budget_is_for_messages_too (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwGrant) grant = kw_grant_new_all ();
  g_autoptr (KwCaller) caller
      = kw_caller_new_with_grant (KW_CALLER_BUS, NULL, NULL, "bus", 1000, grant);
  g_autoptr (KwJob) job = encrypt_message (fixture, caller);
  gsize size = 0;
  g_autofree guint8 *copy = g_memdup2 (g_bytes_get_data (kw_job_get_envelope (job), &size), 94);
  g_autoptr (GBytes) bad = NULL;
  g_autoptr (GBytes) nonsense = g_bytes_new_static ("nonsense", 8);

  copy[93] ^= 1;
  bad = g_bytes_new_take (g_steal_pointer (&copy), size);
  for (guint i = 0; i < 5; i++)
    g_assert_cmpint (do_job (fixture, kw_job_new_decrypt (caller, nonsense, NULL)), ==,
                     KW_ERROR_INVALID_ARGUMENT);
  for (guint i = 0; i < 3; i++)
    g_assert_cmpint (do_job (fixture, kw_job_new_decrypt (caller, bad, NULL)), ==,
                     KW_ERROR_DECRYPT_FAILED);
  g_assert_cmpint (do_job (fixture, kw_job_new_decrypt (caller, kw_job_get_envelope (job), NULL)),
                   ==, KW_ERROR_RATE_LIMITED);
  g_assert_cmpint (do_job (fixture, kw_job_new_rewrap (caller, kw_job_get_envelope (job), NULL)),
                   ==, KW_ERROR_RATE_LIMITED);
  g_assert_cmpint (decrypt_as (fixture, caller, KEY_ID, "text"), ==, KW_ERROR_RATE_LIMITED);
}

static void
test_messages_are_counted_and_audited (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwGrant) grant = kw_grant_new_all ();
  g_autoptr (KwCaller) caller
      = kw_caller_new_with_grant (KW_CALLER_BUS, NULL, NULL, "bus", 1000, grant);
  g_autoptr (KwJob) job = encrypt_message (fixture, caller);
  g_autofree char *name = kw_use_counter_dup_aes_name (kw_job_get_fingerprint (job));
  g_autoptr (GBytes) rsa_id = g_bytes_new_static (KEY_ID, 16);
  g_autofree char *rsa_name = kw_use_counter_dup_rsa_name (rsa_id);
  KwUseCounter *uses = kw_service_get_use_counter (fixture->service);
  g_autoptr (KwUseReport) report = NULL;
  g_autoptr (KwUseReport) rsa_report = NULL;
  g_autofree char *audit = NULL;

  g_assert_cmpint (do_job (fixture, kw_job_new_decrypt (caller, kw_job_get_envelope (job), NULL)),
                   ==, -1);
  g_assert_cmpint (do_job (fixture, kw_job_new_rewrap (caller, kw_job_get_envelope (job), NULL)),
                   ==, -1);
  g_assert_cmpint (decrypt_as (fixture, caller, KEY_ID, "text"), ==, -1);
  report = kw_use_counter_report (uses, name, NULL);
  g_assert_cmpuint (report->total[KW_USE_ENCRYPT], ==, 1);
  g_assert_cmpuint (report->total[KW_USE_DECRYPT], ==, 1);
  rsa_report = kw_use_counter_report (uses, rsa_name, NULL);
  g_assert_cmpuint (rsa_report->total[KW_USE_DECRYPT], ==, 1);
  audit = kw_test_read_file (fixture->directory, KW_STATE_FILE_AUDIT);
  g_assert_nonnull (
      strstr (audit,
              "\"verb\":\"encrypt\",\"key\":\"label:master\",\"result\":\"ok\",\"device\":\"A\""));
  g_assert_nonnull (
      strstr (audit, "\"verb\":\"rewrap\",\"key\":\"label:master\",\"result\":\"ok\""));
  g_assert_null (strstr (audit, "text"));
}

static void
test_budget_is_by_address (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  for (guint i = 0; i < 3; i++)
    g_assert_cmpint (decrypt_from (fixture, "10.0.0.1", KW_CALLER_NO_UID, "bad"), ==,
                     KW_ERROR_DECRYPT_FAILED);
  g_assert_cmpint (decrypt_from (fixture, "10.0.0.1", KW_CALLER_NO_UID, "bad"), ==,
                   KW_ERROR_RATE_LIMITED);
  g_assert_cmpint (decrypt_from (fixture, "10.0.0.1", KW_CALLER_NO_UID, "text"), ==,
                   KW_ERROR_RATE_LIMITED);
  g_assert_cmpint (decrypt_from (fixture, "10.0.0.2", KW_CALLER_NO_UID, "text"), ==, -1);
  g_assert_cmpuint (kw_fake_token_get_n_calls (fixture->token, KW_FAKE_RSA_DECRYPT), ==, 4);
}

static void
test_budget_is_by_uid (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  for (guint i = 0; i < 3; i++)
    g_assert_cmpint (decrypt_from (fixture, "unix", 1000, "bad"), ==, KW_ERROR_DECRYPT_FAILED);
  g_assert_cmpint (decrypt_from (fixture, "unix", 1000, "bad"), ==, KW_ERROR_RATE_LIMITED);
  g_assert_cmpint (decrypt_from (fixture, "unix", 1001, "text"), ==, -1);
  g_assert_cmpint (decrypt_from (fixture, "unix", 0, "text"), ==, -1);
}

/* Making a key costs no budget and is not stopped by one. */
static void
test_budget_is_for_decrypts (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwCaller) caller
      = kw_caller_new (KW_CALLER_JWT, NULL, NULL, "10.0.0.1", KW_CALLER_NO_UID);

  for (guint i = 0; i < 5; i++)
    g_assert_cmpint (decrypt_as (fixture, caller, KEY_ID, "text"), ==, -1);
  for (guint i = 0; i < 3; i++)
    decrypt_as (fixture, caller, KEY_ID, "bad");
  g_assert_cmpint (decrypt_as (fixture, caller, KEY_ID, "text"), ==, KW_ERROR_RATE_LIMITED);
  g_assert_cmpint (do_job (fixture, kw_job_new_generate_rsa (caller, 2048, NULL)), ==, -1);
}

static void
test_budget_comes_back (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  for (guint round = 0; round < 2; round++)
    {
      for (guint i = 0; i < 3; i++)
        g_assert_cmpint (decrypt_from (fixture, "10.0.0.1", KW_CALLER_NO_UID, "bad"), ==,
                         KW_ERROR_DECRYPT_FAILED);
      move_clock (WINDOW_USEC - G_TIME_SPAN_SECOND * 10);
      g_assert_cmpint (decrypt_from (fixture, "10.0.0.1", KW_CALLER_NO_UID, "bad"), ==,
                       KW_ERROR_RATE_LIMITED);
      move_clock (G_TIME_SPAN_SECOND * 11);
    }
  g_assert_cmpint (decrypt_from (fixture, "10.0.0.1", KW_CALLER_NO_UID, "text"), ==, -1);
}

static void
test_no_budget_no_limit (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  for (guint i = 0; i < 200; i++)
    g_assert_cmpint (decrypt_from (fixture, "10.0.0.1", KW_CALLER_NO_UID, "bad"), ==,
                     KW_ERROR_DECRYPT_FAILED);
}

/* More callers than are counted at a time: whoever comes last is still limited. */
static void
test_budget_table_is_bounded (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  for (guint i = 0; i < KW_MAX_BUDGET_CALLERS + 10; i++)
    {
      g_autofree char *address = g_strdup_printf ("2001:db8::%x", i);

      g_assert_cmpint (decrypt_from (fixture, address, KW_CALLER_NO_UID, "bad"), ==,
                       KW_ERROR_DECRYPT_FAILED);
    }
  for (guint i = 0; i < 3; i++)
    g_assert_cmpint (decrypt_from (fixture, "10.0.0.1", KW_CALLER_NO_UID, "bad"), ==,
                     KW_ERROR_DECRYPT_FAILED);
  g_assert_cmpint (decrypt_from (fixture, "10.0.0.1", KW_CALLER_NO_UID, "bad"), ==,
                   KW_ERROR_RATE_LIMITED);
}

static JsonObject *
last_audit_line (Fixture *fixture)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *text = kw_test_read_file (fixture->directory, KW_STATE_FILE_AUDIT);
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);
  guint n_lines = g_strv_length (lines);
  g_autoptr (JsonNode) node = NULL;

  g_assert_cmpuint (n_lines, >=, 2);
  g_assert_cmpstr (lines[n_lines - 1], ==, "");
  node = json_from_string (lines[n_lines - 2], &error);
  g_assert_no_error (error);
  return json_object_ref (json_node_get_object (node));
}

static void
assert_audit (Fixture *fixture,
              const char *verb,
              const char *key,
              const char *result,
              const char *device)
{
  g_autoptr (JsonObject) line = last_audit_line (fixture);

  g_assert_cmpstr (json_object_get_string_member (line, "verb"), ==, verb);
  g_assert_cmpstr (json_object_get_string_member_with_default (line, "key", NULL), ==, key);
  g_assert_cmpstr (json_object_get_string_member (line, "result"), ==, result);
  g_assert_cmpstr (json_object_get_string_member_with_default (line, "device", NULL), ==, device);
  g_assert_cmpint (json_object_get_int_member (line, "usec"), >=, 0);
  g_assert_true (g_regex_match_simple ("^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{6}Z$",
                                       json_object_get_string_member (line, "time"),
                                       G_REGEX_DEFAULT, G_REGEX_MATCH_DEFAULT));
}

static void
test_audit_of_each_outcome (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const KwError passed_on[]
      = { KW_ERROR_KEY_NOT_FOUND, KW_ERROR_NOT_SUPPORTED, KW_ERROR_TIMEOUT, KW_ERROR_FAILED };
  g_autoptr (KwCaller) line = kw_caller_new (KW_CALLER_LINE, NULL, NULL, "unix", 33);
  g_autoptr (KwCaller) jwt
      = kw_caller_new (KW_CALLER_JWT, "oc\"1", "r\n1", "::1", KW_CALLER_NO_UID);
  g_autoptr (JsonObject) object = NULL;

  decrypt_as (fixture, jwt, KEY_ID, "text");
  assert_audit (fixture, "rsa-decrypt", KEY_UUID, "ok", "A");
  object = last_audit_line (fixture);
  g_assert_cmpstr (json_object_get_string_member (object, "by"), ==, "jwt");
  g_assert_cmpstr (json_object_get_string_member (object, "name"), ==, "oc\"1");
  g_assert_cmpstr (json_object_get_string_member (object, "request"), ==, "r\n1");
  g_assert_cmpstr (json_object_get_string_member (object, "address"), ==, "::1");
  g_assert_false (json_object_has_member (object, "uid"));
  for (guint i = 0; i < G_N_ELEMENTS (passed_on); i++)
    {
      kw_fake_token_fail (fixture->token, KW_FAKE_RSA_DECRYPT, passed_on[i], 1);
      g_assert_cmpint (decrypt_as (fixture, jwt, KEY_ID, "text"), ==, (gint) passed_on[i]);
      assert_audit (fixture, "rsa-decrypt", KEY_UUID, kw_error_to_string (passed_on[i]), "A");
    }
  do_job (fixture, kw_job_new_generate_rsa (line, 2048, NULL));
  assert_audit (fixture, "generate-rsa", NULL, "not-authorized", NULL);
  json_object_unref (object);
  object = last_audit_line (fixture);
  g_assert_cmpint (json_object_get_int_member (object, "uid"), ==, 33);
  g_assert_false (json_object_has_member (object, "name"));
  for (guint i = 0; i < 3; i++)
    decrypt_as (fixture, line, KEY_ID, "bad");
  assert_audit (fixture, "rsa-decrypt", KEY_UUID, "decrypt-failed", "A");
  decrypt_as (fixture, line, KEY_ID, "bad");
  assert_audit (fixture, "rsa-decrypt", KEY_UUID, "rate-limited", NULL);
  kw_service_stop (fixture->service);
  decrypt_as (fixture, jwt, KEY_ID, "text");
  assert_audit (fixture, "rsa-decrypt", KEY_UUID, "unavailable", NULL);
}

static void
test_audit_has_no_payload (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *text = NULL;

  decrypt_from (fixture, "::1", KW_CALLER_NO_UID, "payload");
  text = kw_test_read_file (fixture->directory, KW_STATE_FILE_AUDIT);
  g_assert_null (strstr (text, "payload"));
  g_assert_null (strstr (text, PIN));
}

static void
test_audit_is_reopened (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *path = g_build_filename (fixture->directory, KW_STATE_FILE_AUDIT, NULL);
  g_autofree char *rotated = g_strconcat (path, ".1", NULL);
  g_autoptr (GError) error = NULL;

  decrypt_from (fixture, "::1", KW_CALLER_NO_UID, "text");
  g_assert_cmpint (g_rename (path, rotated), ==, 0);
  g_assert_true (kw_audit_reopen (kw_service_get_audit (fixture->service), &error));
  decrypt_from (fixture, "::1", KW_CALLER_NO_UID, "bad");
  assert_audit (fixture, "rsa-decrypt", KEY_UUID, "decrypt-failed", "A");
  g_assert_cmpint (g_unlink (path), ==, 0);
  g_assert_cmpint (g_mkdir (path, 0700), ==, 0);
  g_assert_false (kw_audit_reopen (kw_service_get_audit (fixture->service), &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_CONFIG);
  decrypt_from (fixture, "::1", KW_CALLER_NO_UID, "text");
}

/* Audit lines that cannot be written do not stop the service. */
static void
test_audit_disk_is_full (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  for (guint i = 0; i < 3; i++)
    g_assert_cmpint (decrypt_from (fixture, "::1", KW_CALLER_NO_UID, "text"), ==, -1);
}

static void
test_audit_cannot_be_opened (void)
{
  g_autoptr (GError) error = NULL;
  const char *text = "[audit]\npath = \"/dev/null/audit\"\n";
  g_autoptr (KwConfig) config = kw_config_new_from_data ("test.toml", text, strlen (text), &error);

  g_assert_null (kw_service_new (config, &error));
  kw_assert_error (error, KW_ERROR_CONFIG,
                   "Cannot open the audit log /dev/null/audit: Not a directory; see [audit] path");
}

static void
test_damaged_keyring (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = kw_test_make_directory ();
  g_autofree char *path G_GNUC_UNUSED
      = kw_test_write_file (directory, KW_STATE_FILE_KEYS, "nonsense", 0600);
  g_autofree char *text = g_strdup_printf ("[state]\ndirectory = \"%s\"\n", directory);
  g_autoptr (KwConfig) config = kw_config_new_from_data ("test.toml", text, strlen (text), NULL);

  g_assert_null (kw_service_new (config, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  kw_test_remove_directory (directory);
}

/* A command tells the daemon through the state directory that a PIN may be tried again. */
static void
test_state_directory_is_watched (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = kw_fake_token_new ("B", "other");
  g_autoptr (KwPinGuard) command = kw_pin_guard_new (fixture->directory);
  g_autofree char *path G_GNUC_UNUSED
      = g_build_filename (fixture->directory, KW_STATE_FILE_PINS, NULL);
  guint n_forgotten = 0;

  kw_fake_backend_unplug (kw_fake_backend_get_newest (), fixture->token);
  kw_fake_backend_plug (kw_fake_backend_get_newest (), token);
  kw_iterate_until (kw_fake_token_get_n_calls (token, KW_FAKE_LOGIN) == 1);
  kw_fake_token_set_pin (token, PIN);
  do
    g_assert_true (kw_pin_guard_forget (command, "B", &n_forgotten, NULL));
  while (n_forgotten == 0);
  kw_iterate_until (kw_pool_is_ready (kw_service_get_pool (fixture->service)));
  g_assert_cmpuint (kw_fake_token_get_n_calls (token, KW_FAKE_LOGIN), ==, 2);
}

static void
add (const char *path, const char *settings, void (*test) (Fixture *, gconstpointer))
{
  g_test_add (path, Fixture, settings, set_up, test, tear_down);
}

#define HSM "[hsm]\nhsm_keyid = \"label:master\"\n"
#define BUDGET_3 "[server]\nfailed_decrypts = 3\n"

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  kw_test_keep_quiet ();
  kw_plugins_register_point (KW_BACKEND_EXTENSION_POINT, KW_TYPE_BACKEND);
  g_io_extension_point_implement (KW_BACKEND_EXTENSION_POINT, KW_TYPE_FAKE_BACKEND, "fake", 0);
  add ("/service/every-caller-and-verb", "", test_every_caller_and_verb);
  add ("/service/every-caller-and-message-verb", HSM, test_every_caller_and_message_verb);
  add ("/service/budget/is-for-messages-too", HSM BUDGET_3, test_budget_is_for_messages_too);
  add ("/service/messages-are-counted-and-audited", HSM, test_messages_are_counted_and_audited);
  add ("/service/budget/is-by-address", BUDGET_3, test_budget_is_by_address);
  add ("/service/budget/is-by-uid", BUDGET_3, test_budget_is_by_uid);
  add ("/service/budget/is-for-decrypts", BUDGET_3, test_budget_is_for_decrypts);
  add ("/service/budget/comes-back", BUDGET_3, test_budget_comes_back);
  add ("/service/budget/none-no-limit", "[server]\nfailed_decrypts = 0\n", test_no_budget_no_limit);
  add ("/service/budget/table-is-bounded", BUDGET_3, test_budget_table_is_bounded);
  add ("/service/audit/each-outcome", BUDGET_3, test_audit_of_each_outcome);
  add ("/service/audit/no-payload", "", test_audit_has_no_payload);
  add ("/service/audit/reopened", "", test_audit_is_reopened);
  add ("/service/audit/disk-is-full", "[audit]\npath = \"/dev/full\"\n", test_audit_disk_is_full);
  g_test_add_func ("/service/audit/cannot-be-opened", test_audit_cannot_be_opened);
  g_test_add_func ("/service/damaged-keyring", test_damaged_keyring);
  add ("/service/state-directory-is-watched", "", test_state_directory_is_watched);
  return g_test_run ();
}
