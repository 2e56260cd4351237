/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-replication"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-fake-backend.h"
#include "kw-job-private.h"
#include "kw-limits.h"
#include "kw-pool.h"

#include <string.h>

/* New keys are cloned to all devices, or are nowhere; and what else the pool does for several. */

#define PIN "648219"

typedef struct
{
  char *directory;
  KwKeyring *keyring;
  KwFakeBackend *backend;
  KwPool *pool;
  KwCaller *caller;
} Fixture;

static void
set_up (Fixture *fixture, gconstpointer data)
{
  g_autoptr (KwPinGuard) guard = NULL;
  g_autoptr (KwSecret) pin = kw_secret_new_copy (PIN, strlen (PIN), NULL);
  g_autoptr (GPtrArray) selectors
      = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_selector_unref);
  KwDeviceOptions options = { 0 };

  fixture->directory = kw_test_make_directory ();
  guard = kw_pin_guard_new (fixture->directory);
  fixture->keyring = kw_keyring_new (fixture->directory);
  g_ptr_array_add (selectors, kw_key_selector_new ("label:first", NULL));
  kw_keyring_set_keys (fixture->keyring, selectors, TRUE, 1);
  options.guard = guard;
  options.keyring = fixture->keyring;
  options.pin = pin;
  options.timeout_usec = 20 * G_TIME_SPAN_SECOND;
  fixture->pool = kw_pool_new (&options);
  fixture->backend = kw_fake_backend_new ();
  fixture->caller = kw_caller_new (KW_CALLER_LOCAL, NULL, NULL, "unix", KW_CALLER_NO_UID);
  kw_pool_add_backend (fixture->pool, KW_BACKEND (fixture->backend));
  if (data != NULL)
    kw_pool_set_replication (fixture->pool, TRUE, *(const guint *) data);
}

static void
tear_down (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  gpointer pool = fixture->pool;

  kw_pool_stop (fixture->pool);
  g_object_add_weak_pointer (G_OBJECT (fixture->pool), &pool);
  g_object_unref (fixture->pool);
  while (pool != NULL || g_main_context_pending (NULL))
    if (!g_main_context_iteration (NULL, FALSE))
      g_thread_yield ();
  g_object_unref (fixture->backend);
  g_object_unref (fixture->keyring);
  kw_caller_unref (fixture->caller);
  kw_test_remove_directory (fixture->directory);
}

static KwFakeToken *
plug (Fixture *fixture, const char *serial, char transport_key)
{
  KwFakeToken *token = kw_fake_token_new (serial, PIN);

  kw_fake_token_set_transport_key (token, transport_key);
  kw_fake_backend_plug (fixture->backend, token);
  return token;
}

static void
start_with (Fixture *fixture, guint n_devices)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (fixture->pool);

  g_ptr_array_set_free_func (devices, g_object_unref);
  kw_pool_start (fixture->pool);
  g_assert_cmpuint (devices->len, ==, n_devices);
  for (guint i = 0; i < n_devices; i++)
    kw_iterate_until (kw_device_get_state (g_ptr_array_index (devices, i)) == KW_DEVICE_READY);
}

static void
on_done (KwJob *job G_GNUC_UNUSED, gpointer user_data)
{
  g_atomic_int_inc ((gint *) user_data);
  g_main_context_wakeup (NULL);
}

static KwJob *
run (Fixture *fixture, KwJob *job)
{
  gint n_ended = 0;

  job->service_callback = on_done;
  job->service_data = &n_ended;
  kw_pool_submit (fixture->pool, kw_job_ref (job));
  kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
  return job;
}

static KwJob *
generate (Fixture *fixture, KwKeyKind kind)
{
  return run (fixture, kind == KW_KEY_KIND_RSA
                           ? kw_job_new_generate_rsa (fixture->caller, 2048, "new")
                           : kw_job_new_generate_aes (fixture->caller, 256, "new"));
}

static void
test_cloned_to_all (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug (fixture, "A", 'x');
  g_autoptr (KwFakeToken) b = plug (fixture, "B", 'x');
  g_autoptr (KwFakeToken) c = plug (fixture, "C", 'x');

  start_with (fixture, 3);
  for (guint kind = 0; kind < 2; kind++)
    {
      g_autoptr (KwJob) job = generate (fixture, kind == 0 ? KW_KEY_KIND_RSA : KW_KEY_KIND_AES);

      g_assert_no_error (job->error);
      g_assert_nonnull (kw_job_get_key (job));
      g_assert_cmpuint (kw_fake_token_get_n_keys (a), ==, kind + 1);
      g_assert_cmpuint (kw_fake_token_get_n_keys (b), ==, kind + 1);
      g_assert_cmpuint (kw_fake_token_get_n_keys (c), ==, kind + 1);
    }
  /* And it is known there at once: any of them decrypts. */
  {
    g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (fixture->keyring);

    g_assert_cmpuint (kw_key_matrix_get_key (matrix, 1)->n_copies, ==, 3);
  }
}

/* Another family or another transport key, a full device: enough others have it. */
static void
test_some_cannot_take_it (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug (fixture, "A", 'x');
  g_autoptr (KwFakeToken) b = plug (fixture, "B", 'y');
  g_autoptr (KwFakeToken) c = plug (fixture, "C", 'x');
  g_autoptr (KwFakeToken) d = plug (fixture, "D", 'x');
  g_autoptr (KwJob) job = NULL;

  start_with (fixture, 4);
  kw_fake_token_fail (d, KW_FAKE_IMPORT_KEY, KW_ERROR_TOKEN_FULL, 1);
  job = generate (fixture, KW_KEY_KIND_RSA);
  g_assert_no_error (job->error);
  g_assert_cmpstr (kw_job_get_device_name (job), ==, "A");
  g_assert_cmpuint (kw_fake_token_get_n_keys (a), ==, 1);
  g_assert_cmpuint (kw_fake_token_get_n_keys (b), ==, 0);
  g_assert_cmpuint (kw_fake_token_get_n_keys (c), ==, 1);
  g_assert_cmpuint (kw_fake_token_get_n_keys (d), ==, 0);
}

static void
test_too_few_copies (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug (fixture, "A", 'x');
  g_autoptr (KwFakeToken) b = plug (fixture, "B", 'y');

  start_with (fixture, 2);
  for (guint kind = 0; kind < 2; kind++)
    {
      g_autoptr (KwJob) job = generate (fixture, kind == 0 ? KW_KEY_KIND_RSA : KW_KEY_KIND_AES);

      kw_assert_error (job->error, KW_ERROR_UNAVAILABLE,
                       "The new key got to 1 device, and min_copies is 2, so it was removed again; "
                       "plug in more devices with the same transport key");
      g_assert_null (kw_job_get_key (job));
      g_assert_cmpuint (kw_fake_token_get_n_keys (a), ==, 0);
      g_assert_cmpuint (kw_fake_token_get_n_keys (b), ==, 0);
    }
}

static void
test_cannot_be_wrapped (Fixture *fixture, gconstpointer data)
{
  g_autoptr (KwFakeToken) a = plug (fixture, "A", '\0');
  g_autoptr (KwFakeToken) b = plug (fixture, "B", '\0');
  g_autoptr (KwJob) job = NULL;

  start_with (fixture, 2);
  job = generate (fixture, KW_KEY_KIND_RSA);
  if (*(const guint *) data == 1)
    {
      g_assert_no_error (job->error);
      g_assert_cmpuint (kw_fake_token_get_n_keys (a) + kw_fake_token_get_n_keys (b), ==, 1);
      return;
    }
  g_assert_error (job->error, KW_ERROR, KW_ERROR_UNAVAILABLE);
  g_assert_cmpuint (kw_fake_token_get_n_keys (a) + kw_fake_token_get_n_keys (b), ==, 0);
}

/* A copy that turns out to be another key is removed, and counts for nothing. */
static void
test_spoilt_copy (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug (fixture, "A", 'x');
  g_autoptr (KwFakeToken) b = plug (fixture, "B", '?');
  g_autoptr (KwJob) job = NULL;

  start_with (fixture, 2);
  job = generate (fixture, KW_KEY_KIND_AES);
  g_assert_cmpuint (kw_fake_token_get_n_keys (a) + kw_fake_token_get_n_keys (b), ==, 0);
  g_assert_error (job->error, KW_ERROR, KW_ERROR_UNAVAILABLE);
}

/* Gone in the middle of it. */
static void
test_target_is_pulled (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug (fixture, "A", 'x');
  g_autoptr (KwFakeToken) b = plug (fixture, "B", 'x');
  g_autoptr (KwJob) job = kw_job_new_generate_rsa (fixture->caller, 2048, "new");
  KwFakeToken *target = NULL;
  gint n_ended = 0;

  start_with (fixture, 2);
  kw_fake_token_hold (a, KW_FAKE_IMPORT_KEY, TRUE);
  kw_fake_token_hold (b, KW_FAKE_IMPORT_KEY, TRUE);
  job->service_callback = on_done;
  job->service_data = &n_ended;
  kw_pool_submit (fixture->pool, kw_job_ref (job));
  kw_iterate_until (kw_fake_token_get_n_calls (a, KW_FAKE_IMPORT_KEY)
                        + kw_fake_token_get_n_calls (b, KW_FAKE_IMPORT_KEY)
                    > 0);
  target = kw_fake_token_get_n_calls (a, KW_FAKE_IMPORT_KEY) > 0 ? a : b;
  kw_fake_backend_unplug (fixture->backend, target);
  kw_fake_token_hold (target, KW_FAKE_IMPORT_KEY, FALSE);
  kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
  g_assert_error (job->error, KW_ERROR, KW_ERROR_UNAVAILABLE);
  g_assert_cmpuint (kw_fake_token_get_n_keys (target == a ? b : a), ==, 0);
}

static void
test_switched_off (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug (fixture, "A", 'x');
  g_autoptr (KwFakeToken) b = plug (fixture, "B", 'x');
  g_autoptr (KwJob) job = NULL;

  start_with (fixture, 2);
  job = generate (fixture, KW_KEY_KIND_RSA);
  g_assert_no_error (job->error);
  g_assert_cmpuint (kw_fake_token_get_n_keys (a) + kw_fake_token_get_n_keys (b), ==, 1);
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_EXPORT_KEY), ==, 0);
}

static void
test_check_interval (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug (fixture, "A", 'x');
  guint n_calls = 0;

  kw_fake_token_add_aes_key (a, NULL, "first", 1);
  kw_fake_token_add_aes_key (a, NULL, "another", 1);
  kw_pool_set_check_interval (fixture->pool, 20 * G_TIME_SPAN_MILLISECOND);
  start_with (fixture, 1);
  n_calls = kw_fake_token_get_n_calls (a, KW_FAKE_AES_CBC);
  kw_iterate_until (kw_fake_token_get_n_calls (a, KW_FAKE_AES_CBC) >= n_calls + 5);
  /* What another program made is found as well: the list is looked at each time. */
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_LIST_KEYS), >=, 5);
}

/* What a device did is remembered when it is unplugged and comes back. */
static void
test_figures (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug (fixture, "A", 'x');
  g_autoptr (KwFakeToken) again = NULL;
  KwDeviceFigures figures = { 0 };

  start_with (fixture, 1);
  kw_fake_token_fail (a, KW_FAKE_RANDOM, KW_ERROR_DEVICE_FAILED, 1);
  {
    g_autoptr (KwJob) job = kw_job_new_random (fixture->caller, 8);
    gint n_ended = 0;

    job->service_callback = on_done;
    job->service_data = &n_ended;
    kw_pool_submit (fixture->pool, kw_job_ref (job));
    kw_iterate_until (kw_fake_backend_get_n_resets (fixture->backend) == 1);
    again = plug (fixture, "A", 'x');
    kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
    g_assert_no_error (job->error);
  }
  {
    g_autoptr (GPtrArray) devices = kw_pool_dup_devices (fixture->pool);

    g_ptr_array_set_free_func (devices, g_object_unref);
    kw_device_get_figures (g_ptr_array_index (devices, 0), &figures);
    g_assert_cmpuint (figures.n_jobs, ==, 2);
    g_assert_cmpuint (figures.n_errors, ==, 1);
    g_assert_cmpuint (figures.n_failovers, ==, 1);
    g_assert_cmpuint (figures.n_logins, ==, 1);
    g_assert_cmpuint (figures.n_outstanding, ==, 0);
    g_assert_cmpint (figures.p99_usec, >, 0);
    g_assert_cmpint (kw_device_get_state_since (g_ptr_array_index (devices, 0)), >,
                     g_get_real_time () - G_TIME_SPAN_MINUTE);
    g_assert_true (kw_device_is_checked (g_ptr_array_index (devices, 0)));
  }
}

/* A token is asked nothing when what it is to take cannot be a wrapped key. */
static void
test_wrapped_key_is_bounded (Fixture *fixture G_GNUC_UNUSED, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = kw_fake_token_new ("A", PIN);
  g_autofree char *large = g_strnfill (KW_MAX_WRAPPED_KEY_BYTES + 1, 'x');
  g_autoptr (GBytes) none = g_bytes_new (NULL, 0);
  g_autoptr (GBytes) too_large = g_bytes_new (large, KW_MAX_WRAPPED_KEY_BYTES + 1);
  g_autoptr (GError) error = NULL;

  g_assert_null (kw_token_import_key (KW_TOKEN (token), none, &error));
  kw_assert_error (error, KW_ERROR_INVALID_ARGUMENT, "A wrapped key has 1 to 8192 bytes");
  g_assert_null (kw_token_import_key (KW_TOKEN (token), too_large, &error));
  kw_assert_error (error, KW_ERROR_INVALID_ARGUMENT, "A wrapped key has 1 to 8192 bytes");
  g_assert_cmpuint (kw_fake_token_get_n_calls (token, KW_FAKE_IMPORT_KEY), ==, 0);
}

static void
test_info_is_copied (Fixture *fixture G_GNUC_UNUSED, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwTokenInfo) info = kw_token_info_new ();
  g_autoptr (KwTokenInfo) copy = NULL;

  g_assert_cmpint (info->so_pin_tries_left, ==, -1);
  info->dkek_check_value = g_strdup ("c8669cf006d8f0fa");
  info->dkek_shares = 2;
  info->dkek_shares_missing = 1;
  info->so_pin_tries_left = 15;
  info->options = g_strdup ("User PIN reset with SO-PIN enabled");
  copy = kw_token_info_copy (info);
  g_assert_cmpstr (copy->dkek_check_value, ==, "c8669cf006d8f0fa");
  g_assert_cmpuint (copy->dkek_shares, ==, 2);
  g_assert_cmpuint (copy->dkek_shares_missing, ==, 1);
  g_assert_cmpint (copy->so_pin_tries_left, ==, 15);
  g_assert_cmpstr (copy->options, ==, "User PIN reset with SO-PIN enabled");
}

static void
add (const char *path, const guint *min_copies, void (*test) (Fixture *, gconstpointer))
{
  g_test_add (path, Fixture, min_copies, set_up, test, tear_down);
}

int
main (int argc, char **argv)
{
  static const guint one = 1;
  static const guint two = 2;

  g_test_init (&argc, &argv, NULL);
  kw_test_keep_quiet ();
  add ("/replication/cloned-to-all", &two, test_cloned_to_all);
  add ("/replication/some-cannot-take-it", &two, test_some_cannot_take_it);
  add ("/replication/too-few-copies", &two, test_too_few_copies);
  add ("/replication/cannot-be-wrapped", &one, test_cannot_be_wrapped);
  add ("/replication/cannot-be-wrapped-and-must", &two, test_cannot_be_wrapped);
  add ("/replication/spoilt-copy", &two, test_spoilt_copy);
  add ("/replication/target-is-pulled", &two, test_target_is_pulled);
  add ("/replication/switched-off", NULL, test_switched_off);
  add ("/pool/check-interval", NULL, test_check_interval);
  add ("/pool/figures", NULL, test_figures);
  add ("/token/wrapped-key-is-bounded", NULL, test_wrapped_key_is_bounded);
  add ("/token/info-is-copied", NULL, test_info_is_copied);
  return g_test_run ();
}
