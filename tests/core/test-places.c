/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-places"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-instance.h"
#include "kw-job-private.h"
#include "kw-limits.h"

#include <string.h>

/* Keys that get another place, keys that were accepted before, and looking at keys anew. */

static KwJob *
encrypt_job (KwInstance *f)
{
  g_autoptr (KwSecret) message = kw_secret_new_copy ("text", 4, NULL);

  return kw_instance_run (f, kw_job_new_encrypt (f->caller, message, NULL));
}

static void
assert_no_encryption (KwInstance *f)
{
  g_autoptr (KwJob) job = encrypt_job (f);

  g_assert_nonnull (job->error);
  g_assert_null (kw_job_get_envelope (job));
}

static void
look_again (KwInstance *f, KwFakeToken *card)
{
  KwDevice *device = kw_instance_get_device (f, card);

  kw_device_refresh_keys (device);
  kw_iterate_until (!kw_device_is_busy (device));
}

static void
accept_key (KwInstance *f, const char *id, const char *fingerprint)
{
  g_assert_true (kw_keyring_accept (f->keyring, id, fingerprint, NULL));
  g_assert_true (kw_keyring_load (f->keyring, NULL, NULL));
  kw_pool_reopen_devices (f->pool, TRUE);
}

/* The fingerprint of the key that an entry means on the only device. */
static char *
dup_present_fingerprint (KwInstance *f, guint row)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (f->keyring);
  const KwMatrixCell *cell = kw_key_matrix_get_cell (matrix, row, 0);

  return g_strdup (kw_key_get_fingerprint (cell->key));
}

/* Somebody puts a key before the others: nothing is lost, and the advice says where the right one is. */
static void
test_moved (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (GBytes) envelope = NULL;
  g_autofree char *advice = NULL;

  kw_instance_add_key (a, "first", 2, 1);
  kw_instance_plug (f, a);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  envelope = kw_instance_encrypt (f, "text");
  kw_instance_add_key (a, "intruder", 1, 9);
  look_again (f, a);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_DIFFERENT, 0);
  kw_instance_wait_for_state (f, a, KW_DEVICE_READY);
  advice = kw_instance_dup_advice (f, "0");
  g_assert_nonnull (strstr (advice, "On device A key 0 is another one"));
  g_assert_nonnull (strstr (advice, "The recorded key is at place 1 now: \"first\""));
  g_assert_null (strstr (advice, "accept"));
  assert_no_encryption (f);
  for (guint i = 0; i < 5; i++)
    kw_instance_assert_decrypts (f, envelope, "text");
  /* Put right, all is as before. */
  kw_fake_token_remove_keys (a);
  kw_instance_add_key (a, "first", 2, 1);
  look_again (f, a);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  kw_instance_assert_decrypts (f, envelope, "text");
}

/* And the other way: a key before it went. */
static void
test_moved_forward (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (GBytes) envelope = NULL;
  g_autofree char *advice = NULL;

  kw_instance_add_key (a, "other", 1, 9);
  kw_instance_add_key (a, "first", 2, 1);
  kw_instance_plug (f, a);
  kw_instance_wait_for_key (f, "1", KW_KEY_STATE_OK, 1);
  envelope = kw_instance_encrypt (f, "text");
  kw_fake_token_remove_keys (a);
  kw_instance_add_key (a, "first", 2, 1);
  look_again (f, a);
  kw_instance_wait_for_key (f, "1", KW_KEY_STATE_MISSING, 0);
  advice = kw_instance_dup_advice (f, "1");
  g_assert_nonnull (strstr (advice, "On device A key 1 is not where hsm_keyid says"));
  g_assert_nonnull (strstr (advice, "The recorded key is at place 0 now: \"first\""));
  assert_no_encryption (f);
  kw_instance_assert_decrypts (f, envelope, "text");
}

/* With two devices the one that is right goes on encrypting. */
static void
test_moved_on_one_of_two (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');

  kw_instance_add_key (a, "first", 2, 1);
  kw_instance_add_key (b, "first", 2, 1);
  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 2);
  kw_instance_add_key (b, "intruder", 1, 9);
  look_again (f, b);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_DIFFERENT, 1);
  for (guint i = 0; i < 10; i++)
    {
      g_autoptr (KwJob) job = encrypt_job (f);

      g_assert_no_error (job->error);
      g_assert_cmpstr (kw_job_get_device_name (job), ==, "A");
    }
}

/* What was encrypted before another key was accepted is read as long as a device has the old key. */
static void
test_former (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');
  g_autoptr (GBytes) envelope = NULL;
  g_autoptr (GBytes) next = NULL;
  g_autoptr (KwJob) refused = NULL;
  g_autofree char *fingerprint = NULL;
  g_autofree char *advice = NULL;

  kw_instance_add_key (a, "first", 2, 1);
  kw_instance_plug (f, a);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  envelope = kw_instance_encrypt (f, "text");
  kw_instance_add_key (a, "new", 1, 9);
  look_again (f, a);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_DIFFERENT, 0);
  fingerprint = dup_present_fingerprint (f, 0);
  accept_key (f, "0", fingerprint);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  next = kw_instance_encrypt (f, "next");
  kw_instance_assert_decrypts (f, envelope, "text");
  kw_instance_assert_decrypts (f, next, "next");
  {
    g_autoptr (KwJob) moved = kw_instance_run (f, kw_job_new_rewrap (f->caller, envelope, NULL));

    g_assert_no_error (moved->error);
    g_assert_true (moved->changed);
  }
  /* Without the old key it says so, and it is read again when a device with that comes, if it has nothing else. */
  kw_fake_backend_unplug (f->backend, a);
  kw_instance_add_key (b, "new", 1, 9);
  kw_instance_plug (f, b);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  refused = kw_instance_run (f, kw_job_new_decrypt (f->caller, envelope, NULL));
  g_assert_error (refused->error, KW_ERROR, KW_ERROR_UNAVAILABLE);
  g_assert_nonnull (strstr (refused->error->message, "the key that 0 was before"));
  {
    g_autoptr (KwFakeToken) c = kw_instance_new_card ("C", 'x');

    kw_instance_add_key (c, "first", 2, 1);
    kw_instance_plug (f, c);
    kw_instance_wait_for_key (f, "0", KW_KEY_STATE_DIFFERENT, 1);
    kw_instance_wait_for_state (f, c, KW_DEVICE_READY);
    kw_instance_assert_decrypts (f, envelope, "text");
    advice = kw_instance_dup_advice (f, "0");
    g_assert_nonnull (strstr (advice, "On device C key 0 is the one that was recorded before"));
    g_assert_null (strstr (advice, "accept"));
    for (guint i = 0; i < 10; i++)
      {
        g_autoptr (KwJob) job = encrypt_job (f);

        g_assert_no_error (job->error);
        g_assert_cmpstr (kw_job_get_device_name (job), ==, "B");
      }
  }
}

/* How many are remembered is bounded; one that is accepted again is not a former one. */
static void
test_former_are_bounded (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *last = NULL;
  g_auto (GStrv) former = NULL;
  gboolean known = FALSE;

  for (guint i = 0; i < KW_MAX_FORMER_KEYS + 5; i++)
    {
      g_free (last);
      last = g_strdup_printf ("%032x", i);
      g_assert_true (kw_keyring_accept (f->keyring, "0", last, NULL));
    }
  g_assert_true (kw_keyring_accept (f->keyring, "0", "00000000000000000000000000000009", NULL));
  g_assert_true (kw_keyring_load (f->keyring, NULL, NULL));
  former = kw_keyring_dup_former (f->keyring, "0");
  g_assert_cmpuint (g_strv_length (former), ==, KW_MAX_FORMER_KEYS);
  g_assert_cmpstr (former[0], ==, last);
  g_assert_false (
      g_strv_contains ((const char *const *) former, "00000000000000000000000000000009"));
  /* One that is merely dropped was meant as well. */
  g_assert_true (kw_keyring_forget_configured (f->keyring, "0", &known, NULL));
  g_assert_true (kw_keyring_load (f->keyring, NULL, NULL));
  g_clear_pointer (&former, g_strfreev);
  former = kw_keyring_dup_former (f->keyring, "0");
  g_assert_cmpstr (former[0], ==, "00000000000000000000000000000009");
}

/* Data keys that are at hand go with the key they were wrapped with. */
static void
test_accept_forgets_data_keys (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (GBytes) envelope = NULL;
  g_autoptr (GBytes) next = NULL;
  g_autofree char *fingerprint = NULL;

  kw_instance_add_key (a, "first", 2, 1);
  kw_instance_plug (f, a);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  envelope = kw_instance_encrypt (f, "text");
  g_assert_cmpuint (kw_vault_get_n_data_keys (f->vault), ==, 1);
  kw_instance_add_key (a, "new", 1, 9);
  look_again (f, a);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_DIFFERENT, 0);
  g_assert_cmpuint (kw_vault_get_n_data_keys (f->vault), ==, 0);
  assert_no_encryption (f);
  /* One that was unwrapped under the old key meanwhile. */
  kw_instance_assert_decrypts (f, envelope, "text");
  fingerprint = dup_present_fingerprint (f, 0);
  accept_key (f, "0", fingerprint);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  g_assert_cmpuint (kw_vault_get_n_data_keys (f->vault), ==, 0);
  next = kw_instance_encrypt (f, "next");
  g_assert_true (memcmp ((const char *) g_bytes_get_data (envelope, NULL) + 6,
                         (const char *) g_bytes_get_data (next, NULL) + 6, 8)
                 != 0);
  kw_instance_assert_decrypts (f, next, "next");
  kw_instance_assert_decrypts (f, envelope, "text");
}

typedef struct
{
  KwKeyMatrix *matrix;
  GError *error;
  gboolean done;
} Looked;

static void
on_looked (GObject *source_object, GAsyncResult *result, gpointer user_data)
{
  Looked *looked = user_data;

  looked->matrix = kw_pool_check_keys_finish (KW_POOL (source_object), result, &looked->error);
  looked->done = TRUE;
}

static void
wait_for_look (Looked *looked)
{
  kw_iterate_until (looked->done);
}

static void
looked_clear (Looked *looked)
{
  g_clear_pointer (&looked->matrix, kw_key_matrix_unref);
  g_clear_error (&looked->error);
  looked->done = FALSE;
}

/* The answer is what is there now, keys that other programs made or replaced included. */
static void
test_check (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');
  Looked looked = { 0 };

  kw_pool_check_keys_async (f->pool, NULL, on_looked, &looked);
  wait_for_look (&looked);
  g_assert_no_error (looked.error);
  g_assert_cmpuint (kw_key_matrix_get_n_devices (looked.matrix), ==, 0);
  looked_clear (&looked);

  kw_instance_add_key (a, "first", 2, 1);
  kw_instance_add_key (b, "first", 2, 1);
  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 2);
  kw_pool_check_keys_async (f->pool, NULL, on_looked, &looked);
  wait_for_look (&looked);
  g_assert_cmpint (kw_key_matrix_get_first_key (looked.matrix)->state, ==, KW_KEY_STATE_OK);
  looked_clear (&looked);

  /* A key of another program, on both kinds of list. */
  kw_instance_add_key (a, "intruder", 1, 9);
  kw_fake_token_add_key (b, "rsa", "material");
  kw_pool_check_keys_async (f->pool, NULL, on_looked, &looked);
  wait_for_look (&looked);
  g_assert_no_error (looked.error);
  g_assert_cmpint (kw_key_matrix_get_cell (looked.matrix, 0, 0)->state, ==, KW_KEY_STATE_DIFFERENT);
  g_assert_cmpint (kw_key_matrix_get_cell (looked.matrix, 0, 1)->state, ==, KW_KEY_STATE_OK);
  g_assert_nonnull (kw_key_matrix_find_key (looked.matrix, "727361"));
  looked_clear (&looked);

  /* The same list, but another key. */
  kw_fake_token_remove_keys (b);
  kw_instance_add_key (b, "first", 2, 7);
  kw_fake_token_add_key (b, "rsa", "material");
  kw_pool_check_keys_async (f->pool, NULL, on_looked, &looked);
  wait_for_look (&looked);
  g_assert_cmpint (kw_key_matrix_get_cell (looked.matrix, 0, 1)->state, ==, KW_KEY_STATE_DIFFERENT);
  looked_clear (&looked);
}

/* What is recorded by the look is in the answer. */
static void
test_check_waits_for_the_record (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  Looked looked = { 0 };
  gint64 settled = 0;

  kw_instance_plug (f, a);
  /* Later no other device is thought to be coming. */
  settled = g_get_monotonic_time () + 400 * G_TIME_SPAN_MILLISECOND;
  while (g_get_monotonic_time () < settled)
    if (!g_main_context_iteration (NULL, FALSE))
      g_thread_yield ();
  kw_instance_add_key (a, "first", 2, 1);
  kw_pool_check_keys_async (f->pool, NULL, on_looked, &looked);
  wait_for_look (&looked);
  g_assert_cmpint (kw_key_matrix_get_first_key (looked.matrix)->state, ==, KW_KEY_STATE_OK);
  looked_clear (&looked);
}

/* A look that was begun before does not count: there is another one. */
static void
test_check_during_a_check (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  Looked first = { 0 };
  Looked second = { 0 };
  guint n_lists = 0;

  kw_instance_add_key (a, "first", 2, 1);
  kw_instance_plug (f, a);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  n_lists = kw_fake_token_get_n_calls (a, KW_FAKE_LIST_KEYS);
  kw_fake_token_hold (a, KW_FAKE_AES_CBC, TRUE);
  kw_pool_check_keys_async (f->pool, NULL, on_looked, &first);
  kw_iterate_until (kw_fake_token_get_n_calls (a, KW_FAKE_LIST_KEYS) == n_lists + 1);
  while (g_main_context_iteration (NULL, FALSE))
    ;
  kw_instance_add_key (a, "intruder", 1, 9);
  kw_pool_check_keys_async (f->pool, NULL, on_looked, &second);
  kw_fake_token_hold (a, KW_FAKE_AES_CBC, FALSE);
  wait_for_look (&first);
  wait_for_look (&second);
  g_assert_cmpint (kw_key_matrix_get_first_key (second.matrix)->state, ==, KW_KEY_STATE_DIFFERENT);
  looked_clear (&first);
  looked_clear (&second);
}

/* What comes between: the device goes, the caller does, the service does. */
static void
test_check_ends (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  Looked looked = { 0 };
  Looked cancelled = { 0 };

  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  kw_fake_token_hold (a, KW_FAKE_LIST_KEYS, TRUE);
  kw_fake_token_hold (b, KW_FAKE_LIST_KEYS, TRUE);
  kw_pool_check_keys_async (f->pool, NULL, on_looked, &looked);
  kw_pool_check_keys_async (f->pool, cancellable, on_looked, &cancelled);
  g_cancellable_cancel (cancellable);
  wait_for_look (&cancelled);
  g_assert_error (cancelled.error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
  looked_clear (&cancelled);
  kw_fake_backend_unplug (f->backend, a);
  kw_fake_token_hold (a, KW_FAKE_LIST_KEYS, FALSE);
  g_assert_false (looked.done);
  kw_pool_stop (f->pool);
  wait_for_look (&looked);
  g_assert_error (looked.error, KW_ERROR, KW_ERROR_UNAVAILABLE);
  looked_clear (&looked);
  kw_fake_token_hold (b, KW_FAKE_LIST_KEYS, FALSE);
}

/* One that is in trouble shows as such; one that has no time is told of. */
static void
test_check_of_a_bad_device (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  Looked looked = { 0 };
  gint n_ended = 0;

  kw_instance_add_key (a, "first", 2, 1);
  kw_instance_plug (f, a);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  kw_fake_token_hold (a, KW_FAKE_RANDOM, TRUE);
  for (guint i = 0; i < KW_MAX_QUEUED_JOBS + 1; i++)
    {
      g_autoptr (KwJob) job = kw_job_new_random (f->caller, 8);

      kw_instance_start (f, job, &n_ended);
      if (i == 0)
        kw_fake_token_wait_inside (a, KW_FAKE_RANDOM, 1);
    }
  kw_pool_check_keys_async (f->pool, NULL, on_looked, &looked);
  wait_for_look (&looked);
  kw_assert_error (looked.error, KW_ERROR_BUSY, "Device A is too busy to be looked at; try again");
  looked_clear (&looked);
  kw_fake_token_hold (a, KW_FAKE_RANDOM, FALSE);
  kw_iterate_until (g_atomic_int_get (&n_ended) == KW_MAX_QUEUED_JOBS + 1);

  kw_fake_token_fail (a, KW_FAKE_LIST_KEYS, KW_ERROR_DEVICE_FAILED, 1);
  kw_pool_check_keys_async (f->pool, NULL, on_looked, &looked);
  wait_for_look (&looked);
  g_assert_no_error (looked.error);
  g_assert_cmpuint (kw_key_matrix_get_n_devices (looked.matrix), ==, 0);
  looked_clear (&looked);
}

/* Somebody who asks while a look is under way hears of its end, though there is no other one: the device is set aside then. */
static void
test_check_of_a_device_that_is_set_aside (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  Looked looked = { 0 };

  kw_instance_add_key (a, "first", 2, 1);
  kw_instance_plug (f, a);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  kw_fake_token_hold (a, KW_FAKE_LIST_KEYS, TRUE);
  kw_device_refresh_keys (kw_instance_get_device (f, a));
  kw_fake_token_wait_inside (a, KW_FAKE_LIST_KEYS, 1);
  kw_pool_check_keys_async (f->pool, NULL, on_looked, &looked);
  kw_device_set_state (kw_instance_get_device (f, a), KW_DEVICE_PIN_REFUSED, "trouble");
  kw_fake_token_hold (a, KW_FAKE_LIST_KEYS, FALSE);
  wait_for_look (&looked);
  g_assert_no_error (looked.error);
  g_assert_false (kw_key_matrix_get_device (looked.matrix, 0)->ready);
  looked_clear (&looked);
}

/* A look that ends late does not make good what was found out about the device meanwhile. */
static void
test_late_look (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  static const KwDeviceState states[] = { KW_DEVICE_PIN_REFUSED, KW_DEVICE_DEGRADED };

  for (guint i = 0; i < G_N_ELEMENTS (states); i++)
    {
      g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
      KwDevice *device = NULL;

      kw_instance_plug (f, a);
      device = kw_instance_get_device (f, a);
      kw_fake_token_hold (a, KW_FAKE_LIST_KEYS, TRUE);
      kw_device_refresh_keys (device);
      kw_fake_token_wait_inside (a, KW_FAKE_LIST_KEYS, 1);
      kw_device_set_state (device, states[i], "trouble");
      kw_fake_token_hold (a, KW_FAKE_LIST_KEYS, FALSE);
      kw_iterate_until (!kw_device_is_busy (device));
      g_assert_cmpint (kw_device_get_state (device), ==, states[i]);
      g_assert_cmpstr (kw_device_get_state_text (device), ==, "trouble");
      kw_fake_backend_unplug (f->backend, a);
    }
}

/* A login that is asked for while the device is looked at is not forgotten over that. */
static void
test_open_during_a_look (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  KwDevice *device = NULL;

  kw_instance_plug (f, a);
  device = kw_instance_get_device (f, a);
  kw_fake_token_hold (a, KW_FAKE_LIST_KEYS, TRUE);
  kw_device_refresh_keys (device);
  kw_fake_token_wait_inside (a, KW_FAKE_LIST_KEYS, 1);
  kw_device_set_state (device, KW_DEVICE_PIN_REFUSED, "trouble");
  kw_device_open (device);
  kw_fake_token_hold (a, KW_FAKE_LIST_KEYS, FALSE);
  kw_instance_wait_for_state (f, a, KW_DEVICE_READY);
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_LOGIN), ==, 2);
}

int
main (int argc, char **argv)
{
#define FIRST "[hsm]\nhsm_keyid = 0\n"
#define SECOND "[hsm]\nhsm_keyid = 1\n"
#define REUSE FIRST "data_key_ttl = 60\n"
#define ADD(name, settings, func)                                                                  \
  g_test_add ("/places/" name, KwInstance, settings, kw_instance_set_up, func,                     \
              kw_instance_tear_down)
  g_test_init (&argc, &argv, NULL);
  kw_test_keep_quiet ();
  ADD ("moved", FIRST, test_moved);
  ADD ("moved-forward", SECOND, test_moved_forward);
  ADD ("moved-on-one-of-two", FIRST, test_moved_on_one_of_two);
  ADD ("former", FIRST, test_former);
  ADD ("former-are-bounded", FIRST, test_former_are_bounded);
  ADD ("accept-forgets-data-keys", REUSE, test_accept_forgets_data_keys);
  ADD ("check", FIRST, test_check);
  ADD ("check-waits-for-the-record", FIRST, test_check_waits_for_the_record);
  ADD ("check-during-a-check", FIRST, test_check_during_a_check);
  ADD ("check-ends", FIRST, test_check_ends);
  ADD ("check-of-a-bad-device", FIRST, test_check_of_a_bad_device);
  ADD ("check-of-a-device-that-is-set-aside", FIRST, test_check_of_a_device_that_is_set_aside);
  ADD ("late-look", FIRST, test_late_look);
  ADD ("open-during-a-look", FIRST, test_open_during_a_look);
  return g_test_run ();
}
