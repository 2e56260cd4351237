/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-pool"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-fake-backend.h"
#include "kw-health.h"
#include "kw-job-private.h"
#include "kw-pool.h"

#include <string.h>

#define PIN "648219"
#define LONG_USEC (20 * G_TIME_SPAN_SECOND)
#define SHORT_USEC (200 * G_TIME_SPAN_MILLISECOND)

typedef struct
{
  char *directory;
  KwFakeBackend *backend;
  KwPool *pool;
  KwCaller *caller;
} Fixture;

static void
set_up (Fixture *fixture, gconstpointer data)
{
  g_autoptr (KwPinGuard) guard = NULL;
  g_autoptr (KwKeyring) keyring = NULL;
  g_autoptr (KwSecret) pin = kw_secret_new_copy (PIN, strlen (PIN), NULL);
  KwDeviceOptions options = { 0 };

  fixture->directory = kw_test_make_directory ();
  guard = kw_pin_guard_new (fixture->directory);
  keyring = kw_keyring_new (fixture->directory);
  options.guard = guard;
  options.keyring = keyring;
  options.pin = data == NULL || *(const gint64 *) data != 0 ? pin : NULL;
  options.timeout_usec
      = data != NULL && *(const gint64 *) data != 0 ? *(const gint64 *) data : LONG_USEC;
  fixture->pool = kw_pool_new (&options);
  fixture->backend = kw_fake_backend_new ();
  fixture->caller = kw_caller_new (KW_CALLER_LOCAL, NULL, NULL, "unix", KW_CALLER_NO_UID);
  kw_pool_add_backend (fixture->pool, KW_BACKEND (fixture->backend));
  kw_pool_start (fixture->pool);
}

static void
tear_down (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  gpointer pool = fixture->pool;

  kw_pool_stop (fixture->pool);
  g_assert_false (kw_fake_backend_is_running (fixture->backend));
  /* Work that comes back late still holds the pool. */
  g_object_add_weak_pointer (G_OBJECT (fixture->pool), &pool);
  g_object_unref (fixture->pool);
  while (pool != NULL)
    if (!g_main_context_iteration (NULL, FALSE))
      g_thread_yield ();
  g_object_unref (fixture->backend);
  kw_caller_unref (fixture->caller);
  while (g_main_context_iteration (NULL, FALSE))
    ;
  kw_test_remove_directory (fixture->directory);
}

typedef struct
{
  KwJob *job;
  gint n_ended; /* atomic */
} Answer;

static void
on_done (KwJob *job G_GNUC_UNUSED, gpointer user_data)
{
  Answer *answer = user_data;

  g_atomic_int_inc (&answer->n_ended);
  g_main_context_wakeup (NULL);
}

static void
start (Fixture *fixture, Answer *answer, KwJob *job)
{
  answer->job = kw_job_ref (job);
  answer->n_ended = 0;
  job->service_callback = on_done;
  job->service_data = answer;
  kw_pool_submit (fixture->pool, job);
}

static void
start_decrypt (Fixture *fixture, Answer *answer, const char *id)
{
  g_autoptr (GBytes) key_id = g_bytes_new (id, strlen (id));
  g_autoptr (GBytes) ciphertext = g_bytes_new_static ("text", 4);

  start (fixture, answer,
         kw_job_new_rsa_decrypt (fixture->caller, key_id, KW_RSA_PADDING_PKCS1, ciphertext));
}

static void
wait_for (Answer *answer)
{
  kw_iterate_until (g_atomic_int_get (&answer->n_ended) > 0);
  g_assert_cmpint (g_atomic_int_get (&answer->n_ended), ==, 1);
}

static void
assert_ok (Answer *answer, const char *device)
{
  wait_for (answer);
  g_assert_no_error (answer->job->error);
  g_assert_true (kw_secret_equal (kw_job_get_plaintext (answer->job), "text", 4));
  if (device != NULL)
    g_assert_cmpstr (answer->job->device_name, ==, device);
  g_clear_pointer (&answer->job, kw_job_unref);
}

static void
assert_failed (Answer *answer, KwError code, const char *message)
{
  wait_for (answer);
  g_assert_error (answer->job->error, KW_ERROR, (gint) code);
  g_assert_cmpstr (answer->job->error->message, ==, message);
  g_assert_null (kw_job_get_plaintext (answer->job));
  g_clear_pointer (&answer->job, kw_job_unref);
}

static KwDevice *
find_device (Fixture *fixture, KwFakeToken *token)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (fixture->pool);
  KwDevice *device = NULL;

  for (guint i = 0; i < devices->len; i++)
    {
      if (kw_device_get_token (g_ptr_array_index (devices, i)) == KW_TOKEN (token))
        device = g_ptr_array_index (devices, i);
    }
  g_ptr_array_set_free_func (devices, g_object_unref);
  return device; /* the pool still holds it */
}

static void
wait_for_state (Fixture *fixture, KwFakeToken *token, KwDeviceState state)
{
  kw_iterate_until (kw_device_get_state (find_device (fixture, token)) == state);
}

static KwFakeToken *
plug (Fixture *fixture, const char *serial, const char *id)
{
  KwFakeToken *token = kw_fake_token_new (serial, PIN);

  if (id != NULL)
    kw_fake_token_add_key (token, id, "material");
  kw_fake_backend_plug (fixture->backend, token);
  return token;
}

static KwFakeToken *
plug_ready (Fixture *fixture, const char *serial, const char *id)
{
  KwFakeToken *token = plug (fixture, serial, id);

  wait_for_state (fixture, token, KW_DEVICE_READY);
  return token;
}

static void
test_one_device (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = plug_ready (fixture, "A", "one");
  g_autofree char *text = kw_pool_dup_status_text (fixture->pool);
  g_autoptr (GPtrArray) keys = kw_pool_dup_ready_keys (fixture->pool, KW_KEY_KIND_RSA);
  g_autoptr (GPtrArray) aes = kw_pool_dup_ready_keys (fixture->pool, KW_KEY_KIND_AES);
  KwDeviceFigures figures = { 0 };
  Answer answer = { 0 };

  g_assert_true (kw_pool_is_ready (fixture->pool));
  g_assert_cmpstr (text, ==, "1 device ready");
  g_assert_cmpuint (keys->len, ==, 1);
  g_assert_cmpuint (aes->len, ==, 0);
  start_decrypt (fixture, &answer, "one");
  assert_ok (&answer, "A");
  kw_device_get_figures (find_device (fixture, token), &figures);
  g_assert_cmpuint (figures.n_jobs, ==, 1);
  g_assert_cmpuint (figures.n_errors, ==, 0);
  g_assert_cmpuint (figures.n_logins, ==, 1);
}

static void
test_waits_for_first_device (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = NULL;
  Answer answer = { 0 };

  start_decrypt (fixture, &answer, "one");
  g_assert_cmpint (answer.n_ended, ==, 0);
  token = plug (fixture, "A", "one");
  assert_ok (&answer, "A");
}

static void
test_absent_device_is_told_at_once (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  Answer answer = { 0 };

  kw_fake_backend_set_status_text (fixture->backend, "The reader is missing");
  start_decrypt (fixture, &answer, "one");
  assert_failed (&answer, KW_ERROR_UNAVAILABLE, "No device is ready: The reader is missing");
}

static void
test_least_outstanding (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  g_autoptr (KwFakeToken) b = plug_ready (fixture, "B", "one");
  Answer answers[4] = { { 0 } };
  guint n_calls[2] = { 0 };

  kw_fake_token_hold (a, KW_FAKE_RSA_DECRYPT, TRUE);
  kw_fake_token_hold (b, KW_FAKE_RSA_DECRYPT, TRUE);
  start_decrypt (fixture, &answers[0], "one");
  start_decrypt (fixture, &answers[1], "one");
  kw_fake_token_wait_inside (a, KW_FAKE_RSA_DECRYPT, 1);
  kw_fake_token_wait_inside (b, KW_FAKE_RSA_DECRYPT, 1);
  kw_fake_token_hold (a, KW_FAKE_RSA_DECRYPT, FALSE);
  kw_fake_token_hold (b, KW_FAKE_RSA_DECRYPT, FALSE);
  assert_ok (&answers[0], NULL);
  assert_ok (&answers[1], NULL);
  n_calls[0] = kw_fake_token_get_n_calls (a, KW_FAKE_RSA_DECRYPT);
  n_calls[1] = kw_fake_token_get_n_calls (b, KW_FAKE_RSA_DECRYPT);
  g_assert_cmpuint (n_calls[0], ==, 1);
  g_assert_cmpuint (n_calls[1], ==, 1);
}

static void
test_fails_over (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const KwError codes[]
      = { KW_ERROR_DEVICE_FAILED, KW_ERROR_TOKEN_GONE, KW_ERROR_SESSION_LOST,
          KW_ERROR_MODULE_FAILED, KW_ERROR_TOKEN_UNINITIALIZED };

  for (guint i = 0; i < G_N_ELEMENTS (codes); i++)
    {
      g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
      g_autoptr (KwFakeToken) b = plug_ready (fixture, "B", "one");
      guint n_resets = kw_fake_backend_get_n_resets (fixture->backend);
      Answer answers[2] = { { 0 } };

      kw_fake_token_fail (a, KW_FAKE_RSA_DECRYPT, codes[i], 1);
      start_decrypt (fixture, &answers[0], "one");
      start_decrypt (fixture, &answers[1], "one");
      assert_ok (&answers[0], NULL);
      assert_ok (&answers[1], NULL);
      kw_iterate_until (kw_fake_backend_get_n_resets (fixture->backend) > n_resets
                        || kw_fake_token_get_n_calls (a, KW_FAKE_RSA_DECRYPT) == 0);
      if (find_device (fixture, a) != NULL)
        kw_fake_backend_unplug (fixture->backend, a);
      kw_fake_backend_unplug (fixture->backend, b);
    }
}

static void
test_parks_until_device_is_back (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  g_autoptr (KwFakeToken) again = NULL;
  Answer answer = { 0 };

  kw_fake_token_fail (a, KW_FAKE_RSA_DECRYPT, KW_ERROR_TOKEN_GONE, 1);
  start_decrypt (fixture, &answer, "one");
  kw_iterate_until (kw_fake_backend_get_n_resets (fixture->backend) == 1);
  g_assert_cmpint (g_atomic_int_get (&answer.n_ended), ==, 0);
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_CLOSE), ==, 1);
  again = plug (fixture, "A", "one");
  assert_ok (&answer, "A");
}

/* Pulled while it works and while others wait: all of them are done by the other device. */
static void
test_unplug_with_a_queue (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  g_autoptr (KwFakeToken) b = NULL;
  Answer answers[5] = { { 0 } };

  kw_fake_token_hold (a, KW_FAKE_RSA_DECRYPT, TRUE);
  for (guint i = 0; i < G_N_ELEMENTS (answers); i++)
    start_decrypt (fixture, &answers[i], "one");
  kw_fake_token_wait_inside (a, KW_FAKE_RSA_DECRYPT, 1);
  kw_fake_backend_unplug (fixture->backend, a);
  b = plug (fixture, "B", "one");
  kw_fake_token_hold (a, KW_FAKE_RSA_DECRYPT, FALSE);
  for (guint i = 0; i < G_N_ELEMENTS (answers); i++)
    assert_ok (&answers[i], "B");
}

static void
test_gives_up_after_some_lives (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  Answer answer = { 0 };

  start_decrypt (fixture, &answer, "one");
  for (guint i = 0; i < KW_MAX_ATTEMPTS_PER_JOB; i++)
    {
      g_autoptr (KwFakeToken) token = kw_fake_token_new ("A", PIN);

      kw_fake_token_add_key (token, "one", "material");
      kw_fake_token_fail (token, KW_FAKE_RSA_DECRYPT, KW_ERROR_DEVICE_FAILED, 1);
      kw_fake_backend_plug (fixture->backend, token);
      kw_iterate_until (kw_fake_backend_get_n_resets (fixture->backend) == i + 1);
    }
  assert_failed (&answer, KW_ERROR_UNAVAILABLE, "The device failed: fake failure");
}

static void
test_errors_of_the_request_are_not_repeated (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  g_autoptr (KwFakeToken) b = plug_ready (fixture, "B", "one");
  Answer answer = { 0 };

  kw_fake_token_fail (a, KW_FAKE_RSA_DECRYPT, KW_ERROR_DECRYPT_FAILED, 1);
  kw_fake_token_fail (b, KW_FAKE_RSA_DECRYPT, KW_ERROR_DECRYPT_FAILED, 1);
  start_decrypt (fixture, &answer, "one");
  assert_failed (&answer, KW_ERROR_DECRYPT_FAILED, "fake failure");
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_RSA_DECRYPT)
                        + kw_fake_token_get_n_calls (b, KW_FAKE_RSA_DECRYPT),
                    ==, 1);
  g_assert_cmpuint (kw_fake_backend_get_n_resets (fixture->backend), ==, 0);
}

static void
test_lost_login_is_renewed_once (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = kw_fake_token_new ("A", PIN);
  Answer answers[4] = { { 0 } };

  kw_fake_token_set_concurrency (token, G_N_ELEMENTS (answers));
  kw_fake_token_add_key (token, "one", "material");
  kw_fake_backend_plug (fixture->backend, token);
  wait_for_state (fixture, token, KW_DEVICE_READY);
  kw_fake_token_log_out (token);
  kw_fake_token_hold (token, KW_FAKE_RSA_DECRYPT, TRUE);
  for (guint i = 0; i < G_N_ELEMENTS (answers); i++)
    start_decrypt (fixture, &answers[i], "one");
  kw_fake_token_wait_inside (token, KW_FAKE_RSA_DECRYPT, 1);
  kw_fake_token_hold (token, KW_FAKE_RSA_DECRYPT, FALSE);
  for (guint i = 0; i < G_N_ELEMENTS (answers); i++)
    assert_ok (&answers[i], "A");
  g_assert_cmpuint (kw_fake_token_get_n_calls (token, KW_FAKE_LOGIN), ==, 2);
  g_assert_cmpuint (kw_fake_backend_get_n_resets (fixture->backend), ==, 0);
}

/* The counter fell since: somebody else presents wrong PINs, and ours is not put at risk. */
static void
test_login_is_not_renewed_when_tries_fell (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  g_autoptr (KwFakeToken) b = NULL;
  Answer answer = { 0 };

  kw_fake_token_log_out (a);
  kw_fake_token_get_state (a)->tries_left = 2;
  start_decrypt (fixture, &answer, "one");
  /* Set aside as it is: started anew it would log in again. */
  kw_iterate_until (!kw_pool_is_ready (fixture->pool));
  b = plug (fixture, "B", "one");
  assert_ok (&answer, "B");
  g_assert_cmpuint (kw_fake_backend_get_n_resets (fixture->backend), ==, 0);
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_LOGIN), ==, 1);
}

static void
test_stuck_device (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  g_autoptr (KwFakeToken) b = NULL;
  Answer answer = { 0 };

  kw_fake_token_hold (a, KW_FAKE_RSA_DECRYPT, TRUE);
  start_decrypt (fixture, &answer, "one");
  kw_iterate_until (kw_fake_backend_get_n_resets (fixture->backend) == 1);
  b = plug (fixture, "B", "one");
  wait_for (&answer);
  g_assert_true (answer.job->error == NULL
                 || g_error_matches (answer.job->error, KW_ERROR, KW_ERROR_TIMEOUT));
  g_clear_pointer (&answer.job, kw_job_unref);
  kw_fake_token_hold (a, KW_FAKE_RSA_DECRYPT, FALSE);
}

static void
test_stuck_while_opening (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_fake_token_new ("A", PIN);

  kw_fake_token_hold (a, KW_FAKE_LIST_KEYS, TRUE);
  kw_fake_backend_plug (fixture->backend, a);
  kw_iterate_until (kw_fake_backend_get_n_resets (fixture->backend) == 1);
  g_assert_false (kw_pool_is_ready (fixture->pool));
  kw_fake_token_hold (a, KW_FAKE_LIST_KEYS, FALSE);
}

static KwDeviceState
find_state (Fixture *fixture, const char *name)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (fixture->pool);
  KwDeviceState state = KW_DEVICE_GONE;
  guint n_found = 0;

  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);

      if (!g_str_equal (kw_device_get_name (device), name))
        continue;
      state = kw_device_get_state (device);
      n_found++;
    }
  g_assert_cmpuint (n_found, <=, 1);
  return state;
}

/* A device that does not answer is shown until it comes back, or is pulled; the whole is not well meanwhile. */
static void
test_stuck_device_stays_to_be_seen (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  g_autoptr (KwFakeToken) b G_GNUC_UNUSED = plug_ready (fixture, "B", "two");
  g_autoptr (KwFakeToken) again = NULL;
  g_autoptr (KwKeyring) keyring = kw_keyring_new (fixture->directory);
  g_autoptr (KwHealth) health = kw_health_new (fixture->pool, keyring);
  Answer answer = { 0 };

  g_assert_cmpint (kw_health_get_state (health), ==, KW_HEALTH_READY);
  kw_fake_backend_set_expecting (fixture->backend, TRUE);
  kw_fake_token_hold (a, KW_FAKE_RSA_DECRYPT, TRUE);
  start_decrypt (fixture, &answer, "one");
  kw_iterate_until (kw_fake_backend_get_n_resets (fixture->backend) == 1);
  g_assert_cmpint (find_state (fixture, "A"), ==, KW_DEVICE_STUCK);
  kw_iterate_until (kw_health_get_state (health) == KW_HEALTH_DEGRADED);
  g_assert_cmpuint (kw_health_get_n_ready (health), ==, 1);
  g_assert_cmpuint (kw_health_get_n_devices (health), ==, 2);
  g_assert_nonnull (strstr (kw_health_get_text (health), "pull it out"));
  /* It comes back: one device under its name. */
  again = plug (fixture, "A", "one");
  wait_for_state (fixture, again, KW_DEVICE_READY);
  g_assert_cmpint (find_state (fixture, "A"), ==, KW_DEVICE_READY);
  kw_iterate_until (kw_health_get_state (health) == KW_HEALTH_READY);
  wait_for (&answer);
  g_clear_pointer (&answer.job, kw_job_unref);
  /* And is stuck again, and pulled. */
  kw_fake_token_hold (again, KW_FAKE_RSA_DECRYPT, TRUE);
  start_decrypt (fixture, &answer, "one");
  kw_iterate_until (kw_fake_backend_get_n_resets (fixture->backend) == 2);
  g_assert_cmpint (find_state (fixture, "A"), ==, KW_DEVICE_STUCK);
  kw_fake_backend_set_expecting (fixture->backend, FALSE);
  g_assert_cmpint (find_state (fixture, "A"), ==, KW_DEVICE_GONE);
  kw_iterate_until (kw_health_get_n_devices (health) == 1);
  wait_for (&answer);
  g_clear_pointer (&answer.job, kw_job_unref);
  kw_fake_token_hold (a, KW_FAKE_RSA_DECRYPT, FALSE);
  kw_fake_token_hold (again, KW_FAKE_RSA_DECRYPT, FALSE);
}

/* What a back end waits for is told while others are ready. */
static void
test_trouble_beside_ready_devices (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug_ready (fixture, "A", "one");
  g_autoptr (KwKeyring) keyring = kw_keyring_new (fixture->directory);
  g_autoptr (KwHealth) health = kw_health_new (fixture->pool, keyring);

  kw_fake_backend_set_status_text (fixture->backend, "The card in reader 7 does not answer");
  kw_iterate_until (kw_health_get_state (health) == KW_HEALTH_DEGRADED);
  g_assert_nonnull (strstr (kw_health_get_text (health), "reader 7"));
  g_assert_true (kw_health_is_operational (health));
  kw_fake_backend_set_status_text (fixture->backend, NULL);
  kw_iterate_until (kw_health_get_state (health) == KW_HEALTH_READY);
}

static void
test_health_without_devices (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwKeyring) keyring = kw_keyring_new (fixture->directory);
  g_autoptr (KwHealth) health = kw_health_new (fixture->pool, keyring);

  g_assert_cmpint (kw_health_get_state (health), ==, KW_HEALTH_STARTING);
  g_assert_false (kw_health_is_operational (health));
  kw_fake_backend_set_status_text (fixture->backend, "pcscd is not running");
  kw_iterate_until (kw_health_get_state (health) == KW_HEALTH_WAITING);
  g_assert_cmpstr (kw_health_get_text (health), ==, "pcscd is not running");
  for (guint i = 0; i < KW_N_HEALTH_STATES; i++)
    g_assert_nonnull (kw_health_state_to_string ((KwHealthState) i));
}

static void
test_key_made_by_others (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  Answer answer = { 0 };

  kw_fake_token_add_key (a, "two", "material");
  start_decrypt (fixture, &answer, "two");
  assert_ok (&answer, "A");
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_LIST_KEYS), ==, 2);
}

/* Keys were being looked at when the other process made the key: that look does not count. */
static void
test_key_made_during_a_look (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  Answer answers[2] = { { 0 } };

  start_decrypt (fixture, &answers[0], "none");
  kw_iterate_until (kw_fake_token_get_n_calls (a, KW_FAKE_LIST_KEYS) >= 2);
  start_decrypt (fixture, &answers[1], "two");
  kw_fake_token_add_key (a, "two", "material");
  assert_failed (&answers[0], KW_ERROR_KEY_NOT_FOUND, "No device holds this key");
  assert_ok (&answers[1], "A");
}

static void
test_unknown_key (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  Answer answer = { 0 };

  start_decrypt (fixture, &answer, "none");
  assert_failed (&answer, KW_ERROR_KEY_NOT_FOUND, "No device holds this key");
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_RSA_DECRYPT), ==, 0);
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_LIST_KEYS), ==, 2);
}

static void
test_generate (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", NULL);
  Answer answer = { 0 };

  kw_fake_token_log_out (a);
  start (fixture, &answer, kw_job_new_generate_rsa (fixture->caller, 2048, "label"));
  wait_for (&answer);
  g_assert_no_error (answer.job->error);
  g_assert_cmpstr (kw_key_get_label (kw_job_get_key (answer.job)), ==, "label");
  g_assert_nonnull (kw_key_get_uuid (kw_job_get_key (answer.job)));
  g_assert_cmpuint (kw_device_get_keys (find_device (fixture, a))->len, ==, 1);
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_LOGIN), ==, 2);
  kw_job_unref (answer.job);
}

static void
test_generate_is_never_repeated (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", NULL);
  g_autoptr (KwFakeToken) b = plug_ready (fixture, "B", NULL);
  Answer answer = { 0 };

  kw_fake_token_fail (a, KW_FAKE_GENERATE_RSA, KW_ERROR_DEVICE_FAILED, 1);
  kw_fake_token_fail (b, KW_FAKE_GENERATE_RSA, KW_ERROR_DEVICE_FAILED, 1);
  start (fixture, &answer, kw_job_new_generate_rsa (fixture->caller, 2048, NULL));
  assert_failed (&answer, KW_ERROR_UNAVAILABLE, "The device failed: fake failure");
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_GENERATE_RSA)
                        + kw_fake_token_get_n_calls (b, KW_FAKE_GENERATE_RSA),
                    ==, 1);
}

/* Another key is on record under the id that was asked for: the new one goes again. */
static void
test_generate_under_a_taken_id (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  g_autoptr (KwFakeToken) b = NULL;
  g_autoptr (GBytes) id = g_bytes_new_static ("one", 3);
  KwJob *job = kw_job_new_generate_rsa (fixture->caller, 2048, NULL);
  Answer answer = { 0 };

  kw_fake_backend_unplug (fixture->backend, a);
  b = plug_ready (fixture, "B", NULL);
  kw_job_set_key_id (job, id);
  start (fixture, &answer, job);
  assert_failed (&answer, KW_ERROR_KEY_MISMATCH,
                 "Another key is recorded under the id of the new one");
  g_assert_cmpuint (kw_fake_token_get_n_calls (b, KW_FAKE_DELETE_KEY), ==, 1);
}

static void
test_different_key_is_not_used (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  g_autoptr (KwFakeToken) b = kw_fake_token_new ("B", PIN);
  Answer answer = { 0 };

  kw_fake_token_add_key (b, "one", "another");
  kw_fake_token_add_key (b, "two", "material");
  kw_fake_backend_plug (fixture->backend, b);
  wait_for_state (fixture, b, KW_DEVICE_READY);
  g_assert_cmpuint (kw_device_get_keys (find_device (fixture, b))->len, ==, 1);
  g_assert_cmpstr (kw_device_get_state_text (find_device (fixture, b)), ==,
                   "Ready, but some keys are not the recorded ones and are not used");
  kw_fake_backend_unplug (fixture->backend, a);
  start_decrypt (fixture, &answer, "one");
  assert_failed (&answer, KW_ERROR_KEY_NOT_FOUND, "No device holds this key");
  g_assert_cmpuint (kw_fake_token_get_n_calls (b, KW_FAKE_RSA_DECRYPT), ==, 0);
}

static void
test_wrong_pin (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_fake_token_new ("A", "other");
  guint n_forgotten = 0;
  g_autoptr (KwPinGuard) guard = kw_pin_guard_new (fixture->directory);

  kw_fake_backend_plug (fixture->backend, a);
  wait_for_state (fixture, a, KW_DEVICE_PIN_REFUSED);
  kw_pool_reopen_devices (fixture->pool, TRUE);
  kw_iterate_until (!kw_device_is_busy (find_device (fixture, a)));
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_LOGIN), ==, 1);
  kw_fake_token_set_pin (a, PIN);
  g_assert_true (kw_pin_guard_forget (guard, NULL, &n_forgotten, NULL));
  kw_pool_reopen_devices (fixture->pool, TRUE);
  wait_for_state (fixture, a, KW_DEVICE_READY);
}

static void
test_no_pin (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug (fixture, "A", "one");
  g_autofree char *text = NULL;

  wait_for_state (fixture, a, KW_DEVICE_LOCKED);
  text = kw_pool_dup_status_text (fixture->pool);
  g_assert_cmpstr (text, ==, "Device A: Token Fake (A) wants a PIN; set [pkcs11] pin");
  g_assert_cmpuint (kw_fake_backend_get_n_resets (fixture->backend), ==, 0);
}

static void
test_trouble_while_opening (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_fake_token_new ("A", PIN);

  kw_fake_token_fail (a, KW_FAKE_LIST_KEYS, KW_ERROR_DEVICE_FAILED, 1);
  kw_fake_backend_plug (fixture->backend, a);
  kw_iterate_until (kw_fake_backend_get_n_resets (fixture->backend) == 1);
  g_assert_false (kw_pool_is_ready (fixture->pool));
}

static void
test_stop_ends_all_jobs (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug_ready (fixture, "A", "one");
  Answer running = { 0 };
  Answer queued = { 0 };
  Answer parked = { 0 };
  Answer late = { 0 };

  kw_fake_token_hold (a, KW_FAKE_RSA_DECRYPT, TRUE);
  start_decrypt (fixture, &running, "one");
  kw_fake_token_wait_inside (a, KW_FAKE_RSA_DECRYPT, 1);
  start_decrypt (fixture, &queued, "one");
  start_decrypt (fixture, &parked, "two");
  kw_pool_stop (fixture->pool);
  kw_pool_stop (fixture->pool);
  start_decrypt (fixture, &late, "one");
  assert_failed (&queued, KW_ERROR_UNAVAILABLE, "No device is ready: The service is stopping");
  assert_failed (&parked, KW_ERROR_UNAVAILABLE, "No device is ready: The service is stopping");
  assert_failed (&late, KW_ERROR_UNAVAILABLE, "No device is ready: The service is stopping");
  kw_fake_token_hold (a, KW_FAKE_RSA_DECRYPT, FALSE);
  assert_failed (&running, KW_ERROR_UNAVAILABLE, "No device is ready: The service is stopping");
}

static const gint64 short_timeout = SHORT_USEC;
static const gint64 without_pin = 0;

static void
add (const char *path, const gint64 *data, void (*test) (Fixture *, gconstpointer))
{
  g_test_add (path, Fixture, data, set_up, test, tear_down);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  kw_test_keep_quiet ();
  add ("/pool/one-device", NULL, test_one_device);
  add ("/pool/waits-for-first-device", NULL, test_waits_for_first_device);
  add ("/pool/absent-device-is-told-at-once", NULL, test_absent_device_is_told_at_once);
  add ("/pool/least-outstanding", NULL, test_least_outstanding);
  add ("/pool/fails-over", NULL, test_fails_over);
  add ("/pool/parks-until-device-is-back", NULL, test_parks_until_device_is_back);
  add ("/pool/unplug-with-a-queue", NULL, test_unplug_with_a_queue);
  add ("/pool/gives-up-after-some-lives", NULL, test_gives_up_after_some_lives);
  add ("/pool/errors-of-the-request-are-not-repeated", NULL,
       test_errors_of_the_request_are_not_repeated);
  add ("/pool/lost-login-is-renewed-once", NULL, test_lost_login_is_renewed_once);
  add ("/pool/login-is-not-renewed-when-tries-fell", NULL,
       test_login_is_not_renewed_when_tries_fell);
  add ("/pool/stuck-device", &short_timeout, test_stuck_device);
  add ("/pool/stuck-device-stays", &short_timeout, test_stuck_device_stays_to_be_seen);
  add ("/pool/trouble-beside-ready", NULL, test_trouble_beside_ready_devices);
  add ("/pool/health-without-devices", NULL, test_health_without_devices);
  add ("/pool/stuck-while-opening", &short_timeout, test_stuck_while_opening);
  add ("/pool/key-made-by-others", NULL, test_key_made_by_others);
  add ("/pool/key-made-during-a-look", NULL, test_key_made_during_a_look);
  add ("/pool/unknown-key", NULL, test_unknown_key);
  add ("/pool/generate", NULL, test_generate);
  add ("/pool/generate-is-never-repeated", NULL, test_generate_is_never_repeated);
  add ("/pool/generate-under-a-taken-id", NULL, test_generate_under_a_taken_id);
  add ("/pool/different-key-is-not-used", NULL, test_different_key_is_not_used);
  add ("/pool/wrong-pin", NULL, test_wrong_pin);
  add ("/pool/no-pin", &without_pin, test_no_pin);
  add ("/pool/trouble-while-opening", NULL, test_trouble_while_opening);
  add ("/pool/stop-ends-all-jobs", NULL, test_stop_ends_all_jobs);
  return g_test_run ();
}
