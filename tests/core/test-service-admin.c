/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-service-admin"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-fake-backend.h"
#include "kw-limits.h"
#include "kw-names.h"
#include "kw-plugins.h"
#include "kw-service.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define PIN "648219"
#define NO_FINGERPRINT "00112233445566778899aabbccddeeff"

typedef struct
{
  char *directory;
  char *path;
  KwService *service;
  KwFakeToken *token;
  KwCaller *admin;
  KwCaller *nobody;
  GAsyncResult *result;
} Fixture;

static void
write_config (Fixture *fixture, const char *pin, const char *settings)
{
  g_autofree char *text
      = g_strdup_printf ("[state]\ndirectory = \"%s\"\n%s%s%s[hsm]\n%s", fixture->directory,
                         pin != NULL ? "[pkcs11]\npin = \"" : "", pin != NULL ? pin : "",
                         pin != NULL ? "\"\n" : "", settings);

  g_clear_pointer (&fixture->path, g_free);
  fixture->path = kw_test_write_file (fixture->directory, "keyward.toml", text, 0600);
}

static KwCaller *
new_caller (guint classes, const char *const *keys)
{
  g_autoptr (KwGrant) grant = kw_grant_new (classes, keys);

  return kw_caller_new_with_grant (KW_CALLER_BUS, "unit", NULL, "bus", 1000, grant);
}

#define KEYS "hsm_keyid = [\"label:first\", \"label:second\"]\n"

static void
set_up_with (Fixture *fixture, const char *pin)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwConfig) config = NULL;

  fixture->directory = kw_test_make_directory ();
  write_config (fixture, pin, KEYS);
  config = kw_config_new_from_file (fixture->path, &error);
  g_assert_no_error (error);
  fixture->service = kw_service_new (config, &error);
  g_assert_no_error (error);
  kw_service_start (fixture->service);
  fixture->admin = new_caller ((1u << KW_N_VERB_CLASSES) - 1, NULL);
  fixture->nobody = new_caller (0, NULL);
  fixture->token = kw_fake_token_new ("A", PIN);
  kw_fake_token_add_aes_key (fixture->token, NULL, "first", 1);
  kw_fake_token_add_aes_key (fixture->token, NULL, "second", 2);
  kw_fake_backend_plug (kw_fake_backend_get_newest (), fixture->token);
}

static const KwKeyFacts *
find_key (Fixture *fixture, const char *id, KwKeyMatrix **out_matrix)
{
  g_clear_pointer (out_matrix, kw_key_matrix_unref);
  *out_matrix = kw_keyring_ref_matrix (kw_service_get_keyring (fixture->service));
  return kw_key_matrix_find_key (*out_matrix, id);
}

static gboolean
can_encrypt (Fixture *fixture, const char *id)
{
  g_autoptr (KwKeyMatrix) matrix = NULL;
  const KwKeyFacts *facts = find_key (fixture, id, &matrix);

  return facts != NULL && facts->can_encrypt;
}

static void
set_up (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  set_up_with (fixture, PIN);
  kw_iterate_until (can_encrypt (fixture, "label:first") && can_encrypt (fixture, "label:second"));
}

static KwDeviceState
device_state (Fixture *fixture)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (kw_service_get_pool (fixture->service));

  return devices->len > 0 ? kw_device_get_state (g_ptr_array_index (devices, 0))
                          : KW_DEVICE_PROBING;
}

static void
set_up_locked (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  set_up_with (fixture, NULL);
  kw_iterate_until (device_state (fixture) == KW_DEVICE_LOCKED);
}

static void
tear_down (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  gpointer service = fixture->service;

  g_clear_object (&fixture->result);
  kw_service_stop (fixture->service);
  g_object_add_weak_pointer (G_OBJECT (fixture->service), &service);
  g_object_unref (fixture->service);
  kw_caller_unref (fixture->admin);
  kw_caller_unref (fixture->nobody);
  while (service != NULL || g_main_context_pending (NULL))
    if (!g_main_context_iteration (NULL, FALSE))
      g_thread_yield ();
  g_object_unref (fixture->token);
  g_free (fixture->path);
  kw_test_remove_directory (fixture->directory);
}

static void
on_result (GObject *source G_GNUC_UNUSED, GAsyncResult *result, gpointer user_data)
{
  Fixture *fixture = user_data;

  g_set_object (&fixture->result, result);
}

static void
wait_for_result (Fixture *fixture)
{
  kw_iterate_until (fixture->result != NULL);
}

static void
assert_audited (Fixture *fixture, const char *verb, const char *result)
{
  g_autofree char *text = kw_test_read_file (fixture->directory, KW_STATE_FILE_AUDIT);
  g_auto (GStrv) lines = g_strsplit (g_strchomp (text), "\n", -1);
  const char *last = lines[g_strv_length (lines) - 1];
  g_autofree char *begin = g_strdup_printf ("\"verb\":\"%s\"", verb);
  g_autofree char *end = g_strdup_printf ("\"result\":\"%s\"", result);

  g_assert_nonnull (strstr (last, begin));
  g_assert_nonnull (strstr (last, end));
  g_assert_nonnull (strstr (last, "\"by\":\"bus\",\"name\":\"unit\""));
}

static gboolean
retry (Fixture *fixture, KwCaller *caller, const char *serial, GError **error)
{
  g_clear_object (&fixture->result);
  kw_service_retry_device_async (fixture->service, caller, serial, on_result, fixture);
  wait_for_result (fixture);
  return kw_service_retry_device_finish (fixture->service, fixture->result, error);
}

static gboolean
accept_key (Fixture *fixture,
            KwCaller *caller,
            const char *id,
            const char *fingerprint,
            GError **error)
{
  g_clear_object (&fixture->result);
  kw_service_accept_key_async (fixture->service, caller, id, fingerprint, on_result, fixture);
  wait_for_result (fixture);
  return kw_service_accept_key_finish (fixture->service, fixture->result, error);
}

static KwKeyMatrix *
check_keys (Fixture *fixture, KwCaller *caller, GError **error)
{
  g_clear_object (&fixture->result);
  kw_service_check_keys_async (fixture->service, caller, on_result, fixture);
  wait_for_result (fixture);
  return kw_service_check_keys_finish (fixture->service, fixture->result, error);
}

static gboolean
unlock (Fixture *fixture, KwCaller *caller, const char *pin, const char *serial, GError **error)
{
  g_autoptr (KwSecret) secret = kw_secret_new_copy (pin, strlen (pin), NULL);

  g_clear_object (&fixture->result);
  kw_service_unlock_async (fixture->service, caller, secret, serial, on_result, fixture);
  wait_for_result (fixture);
  return kw_service_unlock_finish (fixture->service, fixture->result, error);
}

static GStrv
reload (Fixture *fixture, KwCaller *caller, GError **error)
{
  g_clear_object (&fixture->result);
  kw_service_reload_async (fixture->service, caller, on_result, fixture);
  wait_for_result (fixture);
  return kw_service_reload_finish (fixture->service, fixture->result, error);
}

#define assert_code(error, wanted)                                                                 \
  G_STMT_START                                                                                     \
  {                                                                                                \
    g_assert_error (error, KW_ERROR, wanted);                                                      \
    g_clear_error (&(error));                                                                      \
  }                                                                                                \
  G_STMT_END

/* None of the acts is done for somebody without the right, and each refusal is in the audit log. */
static void
test_each_act_is_refused (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (kw_service_run_test (fixture->service, fixture->nobody, &error));
  assert_code (error, KW_ERROR_NOT_AUTHORIZED);
  assert_audited (fixture, "run-test", "not-authorized");
  g_assert_false (retry (fixture, fixture->nobody, "A", &error));
  assert_code (error, KW_ERROR_NOT_AUTHORIZED);
  assert_audited (fixture, "retry-device", "not-authorized");
  g_assert_false (accept_key (fixture, fixture->nobody, "label:first", NULL, &error));
  assert_code (error, KW_ERROR_NOT_AUTHORIZED);
  assert_audited (fixture, "accept-key", "not-authorized");
  g_assert_null (check_keys (fixture, fixture->nobody, &error));
  assert_code (error, KW_ERROR_NOT_AUTHORIZED);
  assert_audited (fixture, "check-keys", "not-authorized");
  g_assert_false (unlock (fixture, fixture->nobody, PIN, NULL, &error));
  assert_code (error, KW_ERROR_NOT_AUTHORIZED);
  assert_audited (fixture, "unlock", "not-authorized");
  g_assert_null (reload (fixture, fixture->nobody, &error));
  assert_code (error, KW_ERROR_NOT_AUTHORIZED);
  assert_audited (fixture, "reload", "not-authorized");
}

static void
test_test_and_check (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSelfTest) test = kw_service_run_test (fixture->service, fixture->admin, &error);
  g_autoptr (KwSelfTest) same = kw_service_run_test (fixture->service, fixture->admin, &error);
  g_autoptr (KwKeyMatrix) matrix = NULL;

  g_assert_no_error (error);
  g_assert_true (test == same);
  assert_audited (fixture, "run-test", "ok");
  kw_iterate_until (!kw_self_test_is_running (test));
  matrix = check_keys (fixture, fixture->admin, &error);
  g_assert_no_error (error);
  g_assert_true (kw_key_matrix_is_green (matrix));
  assert_audited (fixture, "check-keys", "ok");
}

/* One that was cancelled has to end before another begins. */
static void
test_test_after_a_cancelled_one (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSelfTest) test = NULL;
  g_autoptr (KwSelfTest) next = NULL;

  kw_fake_token_hold (fixture->token, KW_FAKE_RANDOM, TRUE);
  test = kw_service_run_test (fixture->service, fixture->admin, &error);
  g_assert_no_error (error);
  kw_iterate_until (kw_fake_token_get_n_calls (fixture->token, KW_FAKE_RANDOM) > 0);
  kw_self_test_cancel (test);
  g_assert_null (kw_service_run_test (fixture->service, fixture->admin, &error));
  assert_code (error, KW_ERROR_BUSY);
  assert_audited (fixture, "run-test", "busy");
  kw_fake_token_hold (fixture->token, KW_FAKE_RANDOM, FALSE);
  kw_iterate_until (!kw_self_test_is_running (test));
  next = kw_service_run_test (fixture->service, fixture->admin, &error);
  g_assert_no_error (error);
  g_assert_true (next != test);
  kw_iterate_until (!kw_self_test_is_running (next));
}

static void
test_refusals_of_doors_are_audited (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = g_error_new_literal (KW_ERROR, KW_ERROR_TIMEOUT, "polkit");

  kw_service_audit_refusal (fixture->service, fixture->nobody, KW_VERB_DECRYPT, NULL, error);
  assert_audited (fixture, "decrypt", "timeout");
}

static void
test_retry (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = kw_fake_token_new ("B", "other");
  g_autoptr (GError) error = NULL;

  kw_fake_backend_unplug (kw_fake_backend_get_newest (), fixture->token);
  kw_fake_backend_plug (kw_fake_backend_get_newest (), token);
  kw_iterate_until (device_state (fixture) == KW_DEVICE_PIN_REFUSED);
  kw_fake_token_set_pin (token, PIN);
  g_assert_false (retry (fixture, fixture->admin, "C", &error));
  assert_code (error, KW_ERROR_TOKEN_NOT_FOUND);
  assert_audited (fixture, "retry-device", "token-not-found");
  g_assert_true (retry (fixture, fixture->admin, "B", &error));
  g_assert_no_error (error);
  assert_audited (fixture, "retry-device", "ok");
  kw_iterate_until (device_state (fixture) == KW_DEVICE_READY);
}

/* The lock of the state directory is held by somebody: the main loop turns on, and the act is done when it is free. */
static void
test_a_held_lock_holds_up_nobody (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *path = g_build_filename (fixture->directory, ".lock", NULL);
  int fd = open (path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  gint64 before = 0;

  g_assert_cmpint (fd, >=, 0);
  g_assert_cmpint (flock (fd, LOCK_EX), ==, 0);
  before = g_get_monotonic_time ();
  kw_service_accept_key_async (fixture->service, fixture->admin, "label:first", NULL, on_result,
                               fixture);
  for (guint i = 0; i < 20; i++)
    g_main_context_iteration (NULL, FALSE);
  g_assert_cmpint (g_get_monotonic_time () - before, <, 5 * G_TIME_SPAN_SECOND);
  g_assert_null (fixture->result);
  g_assert_cmpint (flock (fd, LOCK_UN), ==, 0);
  close (fd);
  wait_for_result (fixture);
  g_assert_true (kw_service_accept_key_finish (fixture->service, fixture->result, NULL));
}

/* What was accepted is in force when the act has ended, not some time after. */
static void
test_accepted_key_is_in_force (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) other = kw_fake_token_new ("A", PIN);
  g_autoptr (KwKeyMatrix) matrix = NULL;
  g_autofree char *recorded = g_strdup (find_key (fixture, "label:first", &matrix)->fingerprint);
  g_autoptr (GError) error = NULL;

  kw_fake_token_add_aes_key (other, NULL, "first", 7);
  kw_fake_token_add_aes_key (other, NULL, "second", 2);
  kw_fake_backend_unplug (kw_fake_backend_get_newest (), fixture->token);
  kw_fake_backend_plug (kw_fake_backend_get_newest (), other);
  kw_iterate_until (find_key (fixture, "label:first", &matrix)->state == KW_KEY_STATE_DIFFERENT);
  g_assert_false (accept_key (fixture, fixture->admin, "label:first", NO_FINGERPRINT, &error));
  assert_code (error, KW_ERROR_KEY_NOT_FOUND);
  g_assert_false (accept_key (fixture, fixture->admin, "label:third", NULL, &error));
  assert_code (error, KW_ERROR_KEY_NOT_FOUND);
  g_assert_cmpstr (find_key (fixture, "label:first", &matrix)->fingerprint, ==, recorded);
  g_assert_true (accept_key (fixture, fixture->admin, "LABEL:first", NULL, &error));
  g_assert_no_error (error);
  g_assert_cmpstr (find_key (fixture, "label:first", &matrix)->fingerprint, !=, recorded);
  g_assert_cmpint (find_key (fixture, "label:first", &matrix)->state, ==, KW_KEY_STATE_OK);
  assert_audited (fixture, "accept-key", "ok");
}

static void
test_different_keys_are_not_accepted (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) other = kw_fake_token_new ("B", PIN);
  g_autoptr (KwKeyMatrix) matrix = NULL;
  g_autoptr (GError) error = NULL;

  kw_fake_token_add_aes_key (other, NULL, "first", 7);
  kw_fake_token_add_aes_key (other, NULL, "second", 2);
  kw_fake_backend_plug (kw_fake_backend_get_newest (), other);
  kw_iterate_until (find_key (fixture, "label:first", &matrix)->state == KW_KEY_STATE_DIFFERENT);
  g_assert_false (accept_key (fixture, fixture->admin, "label:first", NULL, &error));
  assert_code (error, KW_ERROR_AMBIGUOUS);
  assert_audited (fixture, "accept-key", "ambiguous");
}

static void
test_unlock (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *pins = NULL;
  g_autofree char *long_pin = g_strnfill (KW_MAX_PIN_BYTES + 1, '1');
  g_autoptr (GError) error = NULL;

  g_assert_false (unlock (fixture, fixture->admin, long_pin, NULL, &error));
  assert_code (error, KW_ERROR_PIN_INVALID);
  g_assert_false (unlock (fixture, fixture->admin, PIN, "B", &error));
  assert_code (error, KW_ERROR_TOKEN_NOT_FOUND);
  g_assert_cmpuint (kw_fake_token_get_n_calls (fixture->token, KW_FAKE_LOGIN), ==, 0);
  g_assert_true (unlock (fixture, fixture->admin, PIN, "A", &error));
  g_assert_no_error (error);
  g_assert_cmpint (device_state (fixture), ==, KW_DEVICE_READY);
  assert_audited (fixture, "unlock", "ok");
  g_assert_false (unlock (fixture, fixture->admin, PIN, NULL, &error));
  assert_code (error, KW_ERROR_TOKEN_NOT_FOUND);
  pins = kw_test_read_file (fixture->directory, KW_STATE_FILE_PINS);
  g_assert_null (strstr (pins, PIN));
}

/* A wrong PIN costs one try, however often it is given. */
static void
test_wrong_pin_is_presented_once (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GPtrArray) devices = NULL;
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < 3; i++)
    {
      g_assert_false (unlock (fixture, fixture->admin, "000000", NULL, &error));
      assert_code (error, KW_ERROR_PIN_REFUSED);
    }
  g_assert_cmpuint (kw_fake_token_get_n_calls (fixture->token, KW_FAKE_LOGIN), ==, 1);
  assert_audited (fixture, "unlock", "pin-refused");
  devices = kw_pool_dup_devices (kw_service_get_pool (fixture->service));
  g_assert_cmpint (kw_device_get_pin_tries_left (g_ptr_array_index (devices, 0)), ==, 2);
  /* Two tries are left: the administrator has to say that he knows. The wrong PIN is not presented for that. */
  g_assert_false (unlock (fixture, fixture->admin, PIN, NULL, &error));
  assert_code (error, KW_ERROR_PIN_REFUSED);
  g_assert_true (retry (fixture, fixture->admin, "A", &error));
  kw_iterate_until (device_state (fixture) == KW_DEVICE_LOCKED);
  g_assert_cmpuint (kw_fake_token_get_n_calls (fixture->token, KW_FAKE_LOGIN), ==, 1);
  g_assert_true (unlock (fixture, fixture->admin, PIN, NULL, &error));
  g_assert_no_error (error);
}

/* A token that was unlocked comes back, as it does when pcscd is started anew: nobody has to be asked. */
static void
test_unlocked_token_comes_back (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) same = kw_fake_token_new ("A", PIN);

  g_assert_true (unlock (fixture, fixture->admin, PIN, NULL, NULL));
  kw_fake_backend_unplug (kw_fake_backend_get_newest (), fixture->token);
  g_assert_cmpint (device_state (fixture), ==, KW_DEVICE_PROBING);
  kw_fake_backend_plug (kw_fake_backend_get_newest (), same);
  kw_iterate_until (device_state (fixture) == KW_DEVICE_READY);
}

static void
count_reload (KwService *service G_GNUC_UNUSED, guint *n_reloads)
{
  (*n_reloads)++;
}

static void
test_reload (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_auto (GStrv) nothing = NULL;
  g_auto (GStrv) later = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (KwGrant) grant = NULL;
  g_autoptr (KwKeyMatrix) matrix = NULL;
  guint n_reloads = 0;

  g_signal_connect (fixture->service, "reloaded", G_CALLBACK (count_reload), &n_reloads);
  nothing = reload (fixture, fixture->admin, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (g_strv_length (nothing), ==, 0);
  g_assert_cmpuint (n_reloads, ==, 1);
  write_config (fixture, "1234",
                KEYS "min_copies = 2\ncheck_interval = 5\n[server]\nport = 99\n"
                     "[[access]]\nuser = \"7001\"\nverbs = [\"test\"]\n");
  later = reload (fixture, fixture->admin, &error);
  g_assert_no_error (error);
  g_assert_true (g_strv_contains ((const char *const *) later, "[server] port"));
  g_assert_true (g_strv_contains ((const char *const *) later, "[pkcs11]"));
  g_assert_cmpuint (g_strv_length (later), ==, 2);
  g_assert_false (find_key (fixture, "label:first", &matrix)->may_encrypt);
  grant = kw_service_resolve_grant (fixture->service, 7001, NULL, 0);
  g_assert_true (kw_grant_allows_class (grant, KW_VERB_CLASS_TEST));
  assert_audited (fixture, "reload", "ok");
  write_config (fixture, PIN, "hsm_keyid = [\"label:second\"]\n");
  g_strfreev (reload (fixture, fixture->admin, &error));
  g_assert_no_error (error);
  kw_iterate_until (find_key (fixture, "label:second", &matrix)->may_encrypt);
  g_assert_null (find_key (fixture, "label:first", &matrix));
}

/* A file with a mistake changes nothing. */
static void
test_bad_reload (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;

  write_config (fixture, PIN, "hsm_keyid = [\"label:third\"]\nmin_copies = 0\n");
  g_assert_null (reload (fixture, fixture->admin, &error));
  assert_code (error, KW_ERROR_CONFIG);
  assert_audited (fixture, "reload", "config");
  g_assert_true (can_encrypt (fixture, "label:first"));
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
  gint n_ended = 0;

  kw_job_set_callback (job, on_done, &n_ended);
  kw_service_submit (fixture->service, kw_job_ref (job));
  kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
  return kw_job_get_error (job) != NULL ? kw_job_get_error (job)->code : -1;
}

static KwJob *
encrypt (Fixture *fixture, KwCaller *caller, const char *key, gint wanted)
{
  g_autoptr (KwSecret) message = kw_secret_new_copy ("text", 4, NULL);
  KwJob *job = kw_job_new_encrypt (caller, message, NULL);

  kw_job_set_key_name (job, key);
  g_assert_cmpint (do_job (fixture, job), ==, wanted);
  return job;
}

static void
test_chosen_key (Fixture *fixture, gconstpointer data)
{
  g_autoptr (KwJob) first = NULL;
  g_autoptr (KwJob) second = encrypt (fixture, fixture->admin, "Label:second", -1);
  g_autoptr (KwJob) again = encrypt (fixture, fixture->admin, "label:second", -1);
  g_autoptr (KwJob) none = encrypt (fixture, fixture->admin, "label:third", KW_ERROR_KEY_NOT_FOUND);

  first = encrypt (fixture, fixture->admin, NULL, -1);
  g_assert_cmpstr (kw_job_get_key_name (first), ==, "label:first");
  g_assert_cmpstr (kw_job_get_key_name (second), ==, "label:second");
  g_assert_cmpstr (kw_job_get_fingerprint (again), ==, kw_job_get_fingerprint (second));
  if (data == NULL)
    return;
  write_config (fixture, PIN, KEYS "min_copies = 2\n");
  g_strfreev (reload (fixture, fixture->admin, NULL));
  g_clear_pointer (&none, kw_job_unref);
  none = encrypt (fixture, fixture->admin, "label:second", KW_ERROR_UNAVAILABLE);
}

/* Which key a message is under shows on the way only; no device does anything for those who may not use it. */
static void
test_key_of_others (Fixture *fixture, gconstpointer data)
{
  static const char *const keys[] = { "label:first", NULL };
  g_autoptr (KwCaller) caller = new_caller (1u << KW_VERB_CLASS_USE_KEYS, keys);
  g_autoptr (KwJob) first = NULL;
  g_autoptr (KwJob) second = NULL;
  g_autoptr (KwJob) mine = NULL;
  g_autoptr (KwJob) decrypt = NULL;
  g_autoptr (KwJob) rewrap = NULL;
  guint n_calls = 0;

  if (data != NULL)
    {
      write_config (fixture, PIN, KEYS "data_key_ttl = 30\n");
      g_strfreev (reload (fixture, fixture->admin, NULL));
    }
  first = encrypt (fixture, caller, NULL, -1);
  second = encrypt (fixture, fixture->admin, "label:second", -1);
  decrypt = kw_job_new_decrypt (fixture->admin, kw_job_get_envelope (second), NULL);
  g_assert_cmpint (do_job (fixture, decrypt), ==, -1);
  n_calls = kw_fake_token_get_n_calls (fixture->token, KW_FAKE_AES_CBC);
  mine = encrypt (fixture, caller, "label:second", KW_ERROR_NOT_AUTHORIZED);
  g_clear_pointer (&decrypt, kw_job_unref);
  decrypt = kw_job_new_decrypt (caller, kw_job_get_envelope (second), NULL);
  g_assert_cmpint (do_job (fixture, decrypt), ==, KW_ERROR_NOT_AUTHORIZED);
  g_assert_nonnull (strstr (kw_job_get_error (decrypt)->message, "label:second"));
  g_assert_null (kw_job_get_plaintext (decrypt));
  assert_audited (fixture, "decrypt", "not-authorized");
  rewrap = kw_job_new_rewrap (caller, kw_job_get_envelope (second), NULL);
  g_assert_cmpint (do_job (fixture, rewrap), ==, KW_ERROR_NOT_AUTHORIZED);
  g_assert_cmpuint (kw_fake_token_get_n_calls (fixture->token, KW_FAKE_AES_CBC), ==, n_calls);
}

static void
add (const char *path, void (*test) (Fixture *, gconstpointer))
{
  g_test_add (path, Fixture, NULL, set_up, test, tear_down);
}

static void
add_locked (const char *path, void (*test) (Fixture *, gconstpointer))
{
  g_test_add (path, Fixture, NULL, set_up_locked, test, tear_down);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  kw_test_keep_quiet ();
  kw_plugins_register_point (KW_BACKEND_EXTENSION_POINT, KW_TYPE_BACKEND);
  g_io_extension_point_implement (KW_BACKEND_EXTENSION_POINT, KW_TYPE_FAKE_BACKEND, "fake", 0);
  add ("/service-admin/each-act-is-refused", test_each_act_is_refused);
  add ("/service-admin/test-and-check", test_test_and_check);
  add ("/service-admin/test-after-a-cancelled-one", test_test_after_a_cancelled_one);
  add ("/service-admin/refusals-of-doors", test_refusals_of_doors_are_audited);
  add ("/service-admin/retry", test_retry);
  add ("/service-admin/a-held-lock", test_a_held_lock_holds_up_nobody);
  add ("/service-admin/accept/in-force", test_accepted_key_is_in_force);
  add ("/service-admin/accept/different", test_different_keys_are_not_accepted);
  add_locked ("/service-admin/unlock/right", test_unlock);
  add_locked ("/service-admin/unlock/wrong", test_wrong_pin_is_presented_once);
  add_locked ("/service-admin/unlock/comes-back", test_unlocked_token_comes_back);
  add ("/service-admin/reload/good", test_reload);
  add ("/service-admin/reload/bad", test_bad_reload);
  add ("/service-admin/key/chosen", test_chosen_key);
  g_test_add ("/service-admin/key/too-few-copies", Fixture, "copies", set_up, test_chosen_key,
              tear_down);
  add ("/service-admin/key/of-others", test_key_of_others);
  g_test_add ("/service-admin/key/of-others-cached", Fixture, "cached", set_up, test_key_of_others,
              tear_down);
  return g_test_run ();
}
