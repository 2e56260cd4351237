/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-vault"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-envelope.h"
#include "kw-error.h"
#include "kw-fake-backend.h"
#include "kw-job-private.h"
#include "kw-vault.h"

#include <openssl/rand.h>
#include <string.h>
#include <time.h>

#define PIN "648219"
#define KEYS "[hsm]\nhsm_keyid = [\"label:first\", \"label:old\"]\n"
#define NO_DECRYPT "The data cannot be decrypted with this key"

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

/* A whole instance: record, devices, vault. */
typedef struct
{
  char *directory;
  KwConfig *config;
  KwKeyring *keyring;
  KwFakeBackend *backend;
  KwPool *pool;
  KwVault *vault;
} Instance;

typedef struct
{
  Instance main;
  KwCaller *caller;
} Fixture;

static void
instance_set_up (Instance *self, const char *settings)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwPinGuard) guard = NULL;
  g_autoptr (KwSecret) pin = kw_secret_new_copy (PIN, strlen (PIN), NULL);
  const KwHsmConfig *hsm = NULL;
  KwDeviceOptions options = { 0 };

  self->directory = kw_test_make_directory ();
  self->config = kw_config_new_from_data ("test.toml", settings, strlen (settings), &error);
  g_assert_no_error (error);
  hsm = kw_config_get_hsm (self->config);
  self->keyring = kw_keyring_new (self->directory);
  kw_keyring_set_keys (self->keyring, hsm->key_ids, hsm->encrypt_hsm, hsm->min_copies);
  guard = kw_pin_guard_new (self->directory);
  options.guard = guard;
  options.keyring = self->keyring;
  options.pin = pin;
  options.timeout_usec = 20 * G_TIME_SPAN_SECOND;
  self->pool = kw_pool_new (&options);
  self->backend = kw_fake_backend_new ();
  kw_pool_add_backend (self->pool, KW_BACKEND (self->backend));
  self->vault = kw_vault_new (self->pool, self->keyring, hsm);
  kw_pool_start (self->pool);
}

static void
instance_tear_down (Instance *self)
{
  gpointer pool = self->pool;
  gpointer vault = self->vault;

  kw_pool_stop (self->pool);
  kw_vault_stop (self->vault);
  g_object_add_weak_pointer (G_OBJECT (self->pool), &pool);
  g_object_add_weak_pointer (G_OBJECT (self->vault), &vault);
  g_object_unref (self->vault);
  g_object_unref (self->pool);
  while (pool != NULL || vault != NULL)
    if (!g_main_context_iteration (NULL, FALSE))
      g_thread_yield ();
  g_object_unref (self->backend);
  g_object_unref (self->keyring);
  g_object_unref (self->config);
  while (g_main_context_iteration (NULL, FALSE))
    ;
  kw_test_remove_directory (self->directory);
}

static void
set_up (Fixture *fixture, gconstpointer data)
{
  fixture->caller = kw_caller_new (KW_CALLER_LOCAL, NULL, NULL, "unix", KW_CALLER_NO_UID);
  instance_set_up (&fixture->main, data != NULL ? data : KEYS);
}

static void
tear_down (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  instance_tear_down (&fixture->main);
  kw_caller_unref (fixture->caller);
}

static void
on_done (KwJob *job G_GNUC_UNUSED, gpointer user_data)
{
  g_atomic_int_inc ((gint *) user_data);
  g_main_context_wakeup (NULL);
}

static void
start (Instance *instance, KwJob *job, gint *n_ended)
{
  job->service_callback = on_done;
  job->service_data = n_ended;
  kw_vault_submit (instance->vault, kw_job_ref (job));
}

static void
run (Instance *instance, KwJob *job)
{
  gint n_ended = 0;

  start (instance, job, &n_ended);
  kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
  g_assert_cmpint (n_ended, ==, 1);
}

static KwJob *
encrypt_job (Fixture *fixture, gconstpointer text, gsize size, GBytes *associated)
{
  g_autoptr (KwSecret) message = kw_secret_new_unlocked (size, NULL);

  if (size > 0)
    memcpy (kw_secret_get_data (message), text, size);
  return kw_job_new_encrypt (fixture->caller, message, associated);
}

static GBytes *
encrypt (Fixture *fixture, Instance *instance, gconstpointer text, gsize size, GBytes *associated)
{
  g_autoptr (KwJob) job = encrypt_job (fixture, text, size, associated);

  run (instance, job);
  g_assert_no_error (job->error);
  return g_bytes_ref (kw_job_get_envelope (job));
}

static void
assert_encrypt_error (Fixture *fixture, gint code, const char *message)
{
  g_autoptr (KwJob) job = encrypt_job (fixture, "text", 4, NULL);

  run (&fixture->main, job);
  g_assert_error (job->error, KW_ERROR, code);
  if (message != NULL)
    g_assert_cmpstr (job->error->message, ==, message);
  g_assert_null (kw_job_get_envelope (job));
}

static void
assert_decrypts (Fixture *fixture,
                 Instance *instance,
                 GBytes *envelope,
                 gconstpointer text,
                 gsize size,
                 GBytes *associated)
{
  g_autoptr (KwJob) job = kw_job_new_decrypt (fixture->caller, envelope, associated);

  run (instance, job);
  g_assert_no_error (job->error);
  g_assert_true (kw_secret_equal (kw_job_get_plaintext (job), text, size));
}

static void
assert_decrypt_error (Fixture *fixture,
                      GBytes *envelope,
                      GBytes *associated,
                      gint code,
                      const char *message)
{
  g_autoptr (KwJob) job = kw_job_new_decrypt (fixture->caller, envelope, associated);

  run (&fixture->main, job);
  g_assert_error (job->error, KW_ERROR, code);
  g_assert_cmpstr (job->error->message, ==, message);
  g_assert_null (kw_job_get_plaintext (job));
}

static KwFakeToken *
new_token (const char *serial, guint8 first, guint8 old)
{
  KwFakeToken *token = kw_fake_token_new (serial, PIN);

  if (first != 0)
    kw_fake_token_add_aes_key (token, NULL, "first", first);
  if (old != 0)
    kw_fake_token_add_aes_key (token, NULL, "old", old);
  return token;
}

static KwFakeToken *
plug (Instance *instance, const char *serial, guint8 first, guint8 old)
{
  KwFakeToken *token = new_token (serial, first, old);

  kw_fake_backend_plug (instance->backend, token);
  return token;
}

static KwKeyFacts
get_facts (Instance *instance, guint key)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (instance->keyring);

  return *kw_key_matrix_get_key (matrix, key);
}

static void
wait_for_copies (Instance *instance, guint n_copies)
{
  kw_iterate_until (get_facts (instance, 0).n_copies == n_copies);
}

/* What sets out before a key is proven has a data key that is not kept. */
static GBytes *
encrypt_when_ready (Fixture *fixture)
{
  wait_for_copies (&fixture->main, 1);
  return encrypt (fixture, &fixture->main, "text", 4, NULL);
}

static guint
count_aes (KwFakeToken *token)
{
  return kw_fake_token_get_n_calls (token, KW_FAKE_AES_CBC);
}

static void
test_round_trip (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (GBytes) associated = g_bytes_new_static ("user 7", 6);
  g_autoptr (GBytes) other = g_bytes_new_static ("user 8", 6);
  g_autoptr (GBytes) envelope = encrypt (fixture, &fixture->main, "attack at dawn", 14, associated);
  guint before = count_aes (token);

  assert_decrypts (fixture, &fixture->main, envelope, "attack at dawn", 14, associated);
  g_assert_cmpuint (count_aes (token), ==, before + 1);
  assert_decrypt_error (fixture, envelope, other, KW_ERROR_DECRYPT_FAILED, NO_DECRYPT);
  assert_decrypt_error (fixture, envelope, NULL, KW_ERROR_DECRYPT_FAILED, NO_DECRYPT);
  g_assert_cmpuint (kw_vault_get_n_data_keys (fixture->main.vault), ==, 0);
}

/* One operation of the device for each message, whatever its size; on no thread for long ones. */
static void
test_sizes (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const gsize sizes[] = { 0, 1, 15, 16, 16384, 16385, 65536, 65537, 1 << 20, 16 << 20 };
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autofree guint8 *text = g_malloc (16 << 20);
  guint before = 0;

  g_assert_cmpint (RAND_bytes (text, 16 << 20), ==, 1);
  wait_for_copies (&fixture->main, 1);
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (GBytes) envelope = NULL;

      before = count_aes (token);
      envelope = encrypt (fixture, &fixture->main, text, sizes[i], NULL);
      g_assert_cmpuint (g_bytes_get_size (envelope), ==, sizes[i] + 90);
      assert_decrypts (fixture, &fixture->main, envelope, text, sizes[i], NULL);
      g_assert_cmpuint (count_aes (token), ==, before + 2);
    }
}

static void
test_random_sizes (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  guint8 text[65536];

  g_assert_cmpint (RAND_bytes (text, sizeof text), ==, 1);
  for (guint i = 0; i < 1000; i++)
    {
      guint16 size = 0;
      g_autoptr (GBytes) envelope = NULL;

      g_assert_cmpint (RAND_bytes ((guint8 *) &size, sizeof size), ==, 1);
      envelope = encrypt (fixture, &fixture->main, text, size, NULL);
      assert_decrypts (fixture, &fixture->main, envelope, text, size, NULL);
    }
}

/* Two instances that share nothing but clones of a key read each other's messages. */
static void
test_two_instances (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  Instance other = { 0 };
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (KwFakeToken) b = NULL;
  g_autoptr (GBytes) ours = NULL;
  g_autoptr (GBytes) theirs = NULL;

  instance_set_up (&other, "[hsm]\nhsm_keyid = \"0\"\n");
  b = plug (&other, "B", 1, 0);
  ours = encrypt (fixture, &fixture->main, "ours", 4, NULL);
  theirs = encrypt (fixture, &other, "theirs", 6, NULL);
  assert_decrypts (fixture, &other, ours, "ours", 4, NULL);
  assert_decrypts (fixture, &fixture->main, theirs, "theirs", 6, NULL);
  instance_tear_down (&other);
}

static void
test_old_key_decrypts (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  Instance before = { 0 };
  g_autoptr (KwFakeToken) a = NULL;
  g_autoptr (KwFakeToken) b = NULL;
  g_autoptr (GBytes) envelope = NULL;
  g_autoptr (KwJob) job = NULL;
  g_autoptr (KwJob) again = NULL;

  instance_set_up (&before, "[hsm]\nhsm_keyid = \"label:old\"\n");
  b = plug (&before, "B", 0, 2);
  envelope = encrypt (fixture, &before, "text", 4, NULL);
  instance_tear_down (&before);

  a = plug (&fixture->main, "A", 1, 2);
  assert_decrypts (fixture, &fixture->main, envelope, "text", 4, NULL);
  job = kw_job_new_rewrap (fixture->caller, envelope, NULL);
  run (&fixture->main, job);
  g_assert_no_error (job->error);
  g_assert_true (kw_job_get_changed (job));
  g_assert_cmpstr (kw_job_get_key_name (job), ==, "label:first");
  g_assert_nonnull (job->old_fingerprint);
  g_assert_cmpstr (job->old_fingerprint, !=, kw_job_get_fingerprint (job));
  assert_decrypts (fixture, &fixture->main, kw_job_get_envelope (job), "text", 4, NULL);
  again = kw_job_new_rewrap (fixture->caller, kw_job_get_envelope (job), NULL);
  run (&fixture->main, again);
  g_assert_no_error (again->error);
  g_assert_false (kw_job_get_changed (again));
  g_assert_true (g_bytes_equal (kw_job_get_envelope (again), kw_job_get_envelope (job)));
  g_assert_null (kw_job_get_device_name (again));
}

static void
test_rewrap_wants_the_right_data (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  Instance before = { 0 };
  g_autoptr (KwFakeToken) a = NULL;
  g_autoptr (KwFakeToken) b = NULL;
  g_autoptr (GBytes) associated = g_bytes_new_static ("user 7", 6);
  g_autoptr (GBytes) envelope = NULL;
  g_autoptr (KwJob) wrong = NULL;
  g_autoptr (KwJob) right = NULL;

  instance_set_up (&before, "[hsm]\nhsm_keyid = \"label:old\"\n");
  b = plug (&before, "B", 0, 2);
  envelope = encrypt (fixture, &before, "text", 4, associated);
  instance_tear_down (&before);
  a = plug (&fixture->main, "A", 1, 2);
  wrong = kw_job_new_rewrap (fixture->caller, envelope, NULL);
  run (&fixture->main, wrong);
  kw_assert_error (wrong->error, KW_ERROR_DECRYPT_FAILED, NO_DECRYPT);
  right = kw_job_new_rewrap (fixture->caller, envelope, associated);
  run (&fixture->main, right);
  g_assert_no_error (right->error);
  assert_decrypts (fixture, &fixture->main, kw_job_get_envelope (right), "text", 4, associated);
}

static void
test_text (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (GBytes) envelope = encrypt (fixture, &fixture->main, "text", 4, NULL);
  g_autofree char *text = kw_envelope_to_text (envelope);
  g_autoptr (GBytes) as_text = g_bytes_new (text, strlen (text));
  g_autoptr (GBytes) bad = g_bytes_new_static ("keyward:1:!", 11);

  assert_decrypts (fixture, &fixture->main, as_text, "text", 4, NULL);
  assert_decrypt_error (fixture, bad, NULL, KW_ERROR_INVALID_ARGUMENT,
                        "This is no message that Keyward encrypted: what follows \"keyward:1:\" is "
                        "not base64");
}

/* Whatever is wrong with what a device unwrapped, it is one and the same error. */
static void
test_flipped_bytes (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (GBytes) envelope = encrypt (fixture, &fixture->main, "text", 4, NULL);
  gsize size = 0;
  const guint8 *bytes = g_bytes_get_data (envelope, &size);

  for (gsize i = 0; i < size; i++)
    {
      g_autofree guint8 *copy = g_memdup2 (bytes, size);
      g_autoptr (GBytes) bad = NULL;
      g_autoptr (KwJob) job = NULL;

      copy[i] ^= 0x10;
      bad = g_bytes_new_take (g_steal_pointer (&copy), size);
      job = kw_job_new_decrypt (fixture->caller, bad, NULL);
      run (&fixture->main, job);
      if (i < 6)
        g_assert_error (job->error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
      else if (i < 14)
        g_assert_error (job->error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND);
      else
        kw_assert_error (job->error, KW_ERROR_DECRYPT_FAILED, NO_DECRYPT);
    }
}

static void
test_unknown_key (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  Instance other = { 0 };
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (KwFakeToken) b = NULL;
  g_autoptr (GBytes) envelope = NULL;

  instance_set_up (&other, "[hsm]\nhsm_keyid = 0\n");
  b = plug (&other, "B", 9, 0);
  envelope = encrypt (fixture, &other, "text", 4, NULL);
  instance_tear_down (&other);
  wait_for_copies (&fixture->main, 1);
  kw_iterate_until (get_facts (&fixture->main, 1).fingerprint != NULL);
  assert_decrypt_error (fixture, envelope, NULL, KW_ERROR_KEY_NOT_FOUND,
                        "The message was encrypted under a key that is none of [hsm] hsm_keyid");
}

static void
test_limits (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree guint8 *zeros = g_malloc0 (KW_MAX_ASSOCIATED_BYTES + 1);
  g_autoptr (GBytes) long_data = g_bytes_new (zeros, KW_MAX_ASSOCIATED_BYTES + 1);
  g_autoptr (GBytes) large = g_bytes_new (zeros, 191);
  g_autoptr (KwJob) too_long = encrypt_job (fixture, zeros, 101, NULL);
  g_autoptr (KwJob) too_much = encrypt_job (fixture, zeros, 1, long_data);
  g_autoptr (KwJob) most = encrypt_job (fixture, zeros, 100, NULL);
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autofree char *text = NULL;
  g_autoptr (GBytes) as_text = NULL;

  run (&fixture->main, too_long);
  kw_assert_error (too_long->error, KW_ERROR_INVALID_ARGUMENT,
                   "The message has 101 bytes, and [hsm] max_plaintext is 100");
  run (&fixture->main, too_much);
  kw_assert_error (too_much->error, KW_ERROR_INVALID_ARGUMENT,
                   "Associated data has at most 65536 bytes");
  assert_decrypt_error (fixture, large, NULL, KW_ERROR_INVALID_ARGUMENT,
                        "The encrypted message has 191 bytes, and with [hsm] max_plaintext at most "
                        "190 are read");
  run (&fixture->main, most);
  g_assert_no_error (most->error);
  text = kw_envelope_to_text (kw_job_get_envelope (most));
  as_text = g_bytes_new (text, strlen (text));
  assert_decrypts (fixture, &fixture->main, as_text, zeros, 100, NULL);
}

static void
test_random (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const gsize sizes[] = { 1, 32, KW_MAX_RANDOM_BYTES };
  static const gsize bad[] = { 0, KW_MAX_RANDOM_BYTES + 1 };
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 0, 0);

  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (KwJob) job = kw_job_new_random (fixture->caller, sizes[i]);

      run (&fixture->main, job);
      g_assert_no_error (job->error);
      g_assert_cmpuint (kw_secret_get_size (kw_job_get_plaintext (job)), ==, sizes[i]);
      g_assert_cmpstr (kw_job_get_device_name (job), ==, "A");
    }
  g_assert_cmpuint (kw_fake_token_get_n_calls (token, KW_FAKE_RANDOM), ==, 3);
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (KwJob) job = kw_job_new_random (fixture->caller, bad[i]);

      run (&fixture->main, job);
      kw_assert_error (job->error, KW_ERROR_INVALID_ARGUMENT,
                       "1 to 65536 random bytes can be had at a time");
    }
}

static void
test_fails_over (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (KwFakeToken) b = plug (&fixture->main, "B", 1, 2);
  g_autoptr (GBytes) envelope = NULL;
  g_autoptr (KwFakeToken) again = NULL;

  wait_for_copies (&fixture->main, 2);
  envelope = encrypt (fixture, &fixture->main, "text", 4, NULL);
  kw_fake_token_fail (a, KW_FAKE_AES_CBC, KW_ERROR_DEVICE_FAILED, 1);
  for (guint i = 0; i < 2; i++)
    assert_decrypts (fixture, &fixture->main, envelope, "text", 4, NULL);
  /* One of them alone, which fails: the message waits for it to come back. */
  kw_fake_token_fail (b, KW_FAKE_AES_CBC, KW_ERROR_TOKEN_GONE, 1);
  kw_fake_backend_unplug (fixture->main.backend, a);
  again = new_token ("B", 1, 2);
  {
    g_autoptr (KwJob) job = kw_job_new_decrypt (fixture->caller, envelope, NULL);
    guint n_resets = kw_fake_backend_get_n_resets (fixture->main.backend);
    gint n_ended = 0;

    start (&fixture->main, job, &n_ended);
    kw_iterate_until (kw_fake_backend_get_n_resets (fixture->main.backend) == n_resets + 1);
    g_assert_cmpint (g_atomic_int_get (&n_ended), ==, 0);
    kw_fake_backend_plug (fixture->main.backend, again);
    kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
    g_assert_no_error (job->error);
  }
}

/* The other device has another key under the name: it is left alone, whatever happens. */
static void
test_different_key_is_never_used (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (KwFakeToken) b = NULL;
  g_autoptr (GBytes) envelope G_GNUC_UNUSED = encrypt (fixture, &fixture->main, "text", 4, NULL);
  guint n_calls = 0;

  b = plug (&fixture->main, "B", 7, 0);
  kw_iterate_until (get_facts (&fixture->main, 0).state == KW_KEY_STATE_DIFFERENT);
  n_calls = count_aes (b);
  for (guint i = 0; i < 20; i++)
    {
      g_autoptr (GBytes) more = encrypt (fixture, &fixture->main, "text", 4, NULL);

      assert_decrypts (fixture, &fixture->main, more, "text", 4, NULL);
    }
  kw_fake_backend_unplug (fixture->main.backend, a);
  wait_for_copies (&fixture->main, 0);
  move_clock (10 * G_TIME_SPAN_SECOND);
  assert_encrypt_error (fixture, KW_ERROR_UNAVAILABLE, NULL);
  g_assert_cmpuint (count_aes (b), ==, n_calls);
}

/* Nothing is recorded from either, nothing is encrypted under either. */
static void
test_two_that_disagree (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 0);
  g_autoptr (KwFakeToken) b = plug (&fixture->main, "B", 7, 0);
  g_autoptr (GBytes) envelope = NULL;

  kw_iterate_until (get_facts (&fixture->main, 0).state == KW_KEY_STATE_DIFFERENT);
  move_clock (10 * G_TIME_SPAN_SECOND);
  assert_encrypt_error (fixture, KW_ERROR_UNAVAILABLE, NULL);
  g_assert_null (get_facts (&fixture->main, 0).fingerprint);
  kw_fake_backend_unplug (fixture->main.backend, b);
  envelope = encrypt (fixture, &fixture->main, "text", 4, NULL);
  g_assert_nonnull (envelope);
}

static void
test_min_copies (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 0);
  g_autoptr (KwFakeToken) b = NULL;
  g_autoptr (GBytes) envelope = NULL;

  wait_for_copies (&fixture->main, 1);
  move_clock (10 * G_TIME_SPAN_SECOND);
  assert_encrypt_error (fixture, KW_ERROR_UNAVAILABLE,
                        "Key label:first is on 1 ready device, and min_copies is 2: nothing is "
                        "encrypted until more devices have it");
  b = plug (&fixture->main, "B", 1, 0);
  wait_for_copies (&fixture->main, 2);
  envelope = encrypt (fixture, &fixture->main, "text", 4, NULL);
  kw_fake_backend_unplug (fixture->main.backend, b);
  wait_for_copies (&fixture->main, 1);
  assert_decrypts (fixture, &fixture->main, envelope, "text", 4, NULL);
}

static void
test_weak_key (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = kw_fake_token_new ("A", PIN);

  kw_fake_token_add_aes_key (token, &(KwKeyFields){ .weakness = "firmware 3.1 made it" }, "first",
                             1);
  kw_fake_backend_plug (fixture->main.backend, token);
  wait_for_copies (&fixture->main, 1);
  move_clock (10 * G_TIME_SPAN_SECOND);
  assert_encrypt_error (
      fixture, KW_ERROR_NOT_SUPPORTED,
      "Key label:first is weak and may only decrypt: firmware 3.1 made it; make a "
      "new key and put it first in hsm_keyid");
}

static void
test_switched_off (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 0);

  wait_for_copies (&fixture->main, 1);
  move_clock (10 * G_TIME_SPAN_SECOND);
  assert_encrypt_error (fixture, KW_ERROR_UNAVAILABLE,
                        "Encryption is switched off: see [hsm] encrypt_hsm");
}

static void
test_no_key_configured (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 0);

  kw_iterate_until (kw_pool_is_ready (fixture->main.pool));
  assert_encrypt_error (fixture, KW_ERROR_NOT_SUPPORTED,
                        "No key is configured to encrypt with: set [hsm] hsm_keyid");
}

static void
test_no_device (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  kw_fake_backend_set_status_text (fixture->main.backend, "The reader is missing");
  move_clock (10 * G_TIME_SPAN_SECOND);
  assert_encrypt_error (fixture, KW_ERROR_UNAVAILABLE, "No device is ready: The reader is missing");
}

/* A device that has nothing but the wrong keys is set aside, and comes back when that is put right. */
static void
test_mismatched_device (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 0);
  g_autoptr (KwFakeToken) b = NULL;
  g_autoptr (GPtrArray) devices = NULL;
  KwDevice *device = NULL;
  gboolean known = FALSE;

  wait_for_copies (&fixture->main, 1);
  kw_fake_backend_unplug (fixture->main.backend, a);
  b = plug (&fixture->main, "B", 7, 0);
  devices = kw_pool_dup_devices (fixture->main.pool);
  g_ptr_array_set_free_func (devices, g_object_unref);
  g_assert_cmpuint (devices->len, ==, 1);
  device = g_ptr_array_index (devices, 0);
  kw_iterate_until (kw_device_get_state (device) == KW_DEVICE_MISMATCHED);
  g_assert_nonnull (strstr (kw_device_get_state_text (device), "keyward keys accept label:first"));
  g_assert_false (kw_pool_is_ready (fixture->main.pool));
  g_assert_true (kw_keyring_forget_configured (fixture->main.keyring, "label:first", &known, NULL));
  g_assert_true (kw_keyring_load (fixture->main.keyring, NULL, NULL));
  kw_pool_reopen_devices (fixture->main.pool, TRUE);
  kw_iterate_until (kw_device_get_state (device) == KW_DEVICE_READY);
  wait_for_copies (&fixture->main, 1);
}

/* A key that is swapped while the device is in use is found out by the next proof. */
static void
test_keys_are_proven_again (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (GPtrArray) devices = NULL;
  KwDevice *device = NULL;
  guint before = 0;

  wait_for_copies (&fixture->main, 1);
  devices = kw_pool_dup_devices (fixture->main.pool);
  g_ptr_array_set_free_func (devices, g_object_unref);
  device = g_ptr_array_index (devices, 0);
  before = count_aes (a);
  kw_device_check_keys (device);
  kw_iterate_until (count_aes (a) == before + 2);
  while (g_main_context_iteration (NULL, FALSE))
    ;
  g_assert_cmpint (get_facts (&fixture->main, 0).state, ==, KW_KEY_STATE_OK);
  kw_fake_token_remove_keys (a);
  kw_fake_token_add_aes_key (a, NULL, "first", 7);
  kw_fake_token_add_aes_key (a, NULL, "old", 2);
  kw_iterate_until (!kw_device_is_busy (device));
  kw_device_check_keys (device);
  kw_iterate_until (get_facts (&fixture->main, 0).state == KW_KEY_STATE_DIFFERENT);
  g_assert_cmpint (get_facts (&fixture->main, 1).state, ==, KW_KEY_STATE_OK);
}

/* A device that is in trouble when its keys are proven again is started anew. */
static void
test_trouble_while_proving (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (GPtrArray) devices = NULL;

  wait_for_copies (&fixture->main, 1);
  devices = kw_pool_dup_devices (fixture->main.pool);
  g_ptr_array_set_free_func (devices, g_object_unref);
  kw_fake_token_fail (a, KW_FAKE_AES_CBC, KW_ERROR_DEVICE_FAILED, 1);
  kw_device_check_keys (g_ptr_array_index (devices, 0));
  kw_iterate_until (kw_fake_backend_get_n_resets (fixture->main.backend) == 1);
}

/* Lost between two proofs: the message goes elsewhere, and the device is looked at. */
static void
test_key_vanishes (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (KwFakeToken) b = NULL;
  g_autoptr (GBytes) envelope = encrypt (fixture, &fixture->main, "text", 4, NULL);
  g_autoptr (KwJob) job = kw_job_new_decrypt (fixture->caller, envelope, NULL);
  gint n_ended = 0;

  kw_fake_token_remove_keys (a);
  start (&fixture->main, job, &n_ended);
  kw_iterate_until (get_facts (&fixture->main, 0).state == KW_KEY_STATE_MISSING);
  b = plug (&fixture->main, "B", 1, 2);
  kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
  g_assert_no_error (job->error);
  g_assert_cmpstr (kw_job_get_device_name (job), ==, "B");
  wait_for_copies (&fixture->main, 1);
  g_assert_cmpuint (kw_fake_backend_get_n_resets (fixture->main.backend), ==, 0);
}

/* Whatever a device says about a key it was proven to have, the message goes elsewhere. */
static void
test_device_disowns_its_key (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const KwError codes[]
      = { KW_ERROR_INVALID_ARGUMENT, KW_ERROR_NOT_SUPPORTED, KW_ERROR_AMBIGUOUS, KW_ERROR_FAILED };

  for (guint i = 0; i < G_N_ELEMENTS (codes); i++)
    {
      g_autoptr (KwFakeToken) a = plug (&fixture->main, "A", 1, 2);
      g_autoptr (GBytes) envelope = encrypt_when_ready (fixture);
      g_autoptr (KwFakeToken) b = NULL;
      g_autoptr (KwJob) job = kw_job_new_decrypt (fixture->caller, envelope, NULL);
      gint n_ended = 0;

      kw_fake_token_fail (a, KW_FAKE_AES_CBC, codes[i], 5);
      start (&fixture->main, job, &n_ended);
      kw_iterate_until (get_facts (&fixture->main, 0).n_copies == 0);
      b = plug (&fixture->main, "B", 1, 2);
      kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
      g_assert_no_error (job->error);
      g_assert_cmpstr (kw_job_get_device_name (job), ==, "B");
      kw_fake_backend_unplug (fixture->main.backend, a);
      kw_fake_backend_unplug (fixture->main.backend, b);
      wait_for_copies (&fixture->main, 0);
    }
}

/* One that cannot be proven is not used, and does not keep the others from being used. */
static void
test_unprovable_key (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = new_token ("A", 1, 2);

  kw_fake_token_fail (a, KW_FAKE_AES_CBC, KW_ERROR_NOT_SUPPORTED, 1);
  kw_fake_backend_plug (fixture->main.backend, a);
  kw_iterate_until (get_facts (&fixture->main, 1).state == KW_KEY_STATE_OK);
  g_assert_cmpint (get_facts (&fixture->main, 0).state, ==, KW_KEY_STATE_UNCHECKED);
}

static void
test_generate (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = kw_fake_token_new ("A", PIN);
  g_autoptr (GBytes) high = g_bytes_new_static ("\xf0\xff\xff\xff\xff\xff\xff\xff-", 9);

  kw_fake_token_add_aes_key (token, &(KwKeyFields){ .id = high }, "first", 1);
  kw_fake_backend_plug (fixture->main.backend, token);
  wait_for_copies (&fixture->main, 1);
  for (guint i = 0; i < 20; i++)
    {
      g_autofree char *label = g_strdup_printf ("new %u", i);
      g_autoptr (KwJob) job = kw_job_new_generate_aes (fixture->caller, 256, label);
      gint n_ended = 0;

      job->service_callback = on_done;
      job->service_data = &n_ended;
      kw_pool_submit (fixture->main.pool, kw_job_ref (job));
      kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
      g_assert_no_error (job->error);
      g_assert_cmpuint (strlen (kw_key_get_fingerprint (kw_job_get_key (job))), ==, 32);
      /* It comes after the others, so that no place is another key's now. */
      g_assert_cmpint (g_bytes_compare (kw_key_get_id (kw_job_get_key (job)), high), >, 0);
    }
  g_assert_cmpint (get_facts (&fixture->main, 0).state, ==, KW_KEY_STATE_OK);
}

static void
test_generated_key_that_does_not_work (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 0, 0);
  g_autoptr (KwJob) job = kw_job_new_generate_aes (fixture->caller, 256, "new");
  gint n_ended = 0;

  kw_iterate_until (kw_pool_is_ready (fixture->main.pool));
  kw_fake_token_fail (token, KW_FAKE_AES_CBC, KW_ERROR_NOT_SUPPORTED, 1);
  job->service_callback = on_done;
  job->service_data = &n_ended;
  kw_pool_submit (fixture->main.pool, kw_job_ref (job));
  kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
  g_assert_error (job->error, KW_ERROR, KW_ERROR_NOT_SUPPORTED);
  g_assert_cmpuint (kw_fake_token_get_n_calls (token, KW_FAKE_DELETE_KEY), ==, 1);
}

/* With a time to live, one operation of the device serves many messages. */
static void
test_data_key_is_used_again (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (GBytes) envelope = encrypt_when_ready (fixture);
  guint before = count_aes (token);
  const guint8 *first = g_bytes_get_data (envelope, NULL);

  for (guint i = 0; i < 10; i++)
    {
      g_autoptr (GBytes) more = encrypt (fixture, &fixture->main, "more", 4, NULL);
      const guint8 *second = g_bytes_get_data (more, NULL);

      g_assert_cmpmem (first, 62, second, 62);
      g_assert_true (strncmp ((const char *) first + 62, (const char *) second + 62, 12) != 0);
      assert_decrypts (fixture, &fixture->main, more, "more", 4, NULL);
    }
  g_assert_cmpuint (count_aes (token), ==, before + 1); /* the first one that was decrypted */
  g_assert_cmpuint (kw_vault_get_n_data_keys (fixture->main.vault), ==, 2);
  move_clock (5 * G_TIME_SPAN_SECOND);
  kw_iterate_until (kw_vault_get_n_data_keys (fixture->main.vault) == 0);
  assert_decrypts (fixture, &fixture->main, envelope, "text", 4, NULL);
  g_assert_cmpuint (count_aes (token), ==, before + 2);
}

/* It is over the moment its time is, though it is wiped a little later. */
static void
test_data_key_expires (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (GBytes) envelope = encrypt_when_ready (fixture);
  guint before = 0;

  assert_decrypts (fixture, &fixture->main, envelope, "text", 4, NULL);
  before = count_aes (token);
  move_clock (5 * G_TIME_SPAN_SECOND);
  g_clear_pointer (&envelope, g_bytes_unref);
  envelope = encrypt (fixture, &fixture->main, "text", 4, NULL);
  assert_decrypts (fixture, &fixture->main, envelope, "text", 4, NULL);
  g_assert_cmpuint (count_aes (token), ==, before + 2);
}

static void
test_change_of_keys_forgets_data_keys (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (KwFakeToken) b = NULL;
  g_autoptr (GBytes) envelope = NULL;

  wait_for_copies (&fixture->main, 1);
  envelope = encrypt (fixture, &fixture->main, "text", 4, NULL);
  assert_decrypts (fixture, &fixture->main, envelope, "text", 4, NULL);
  g_assert_cmpuint (kw_vault_get_n_data_keys (fixture->main.vault), ==, 2);
  b = plug (&fixture->main, "B", 7, 2);
  kw_iterate_until (get_facts (&fixture->main, 0).state == KW_KEY_STATE_DIFFERENT);
  g_assert_cmpuint (kw_vault_get_n_data_keys (fixture->main.vault), ==, 0);
}

/* A message that begins when the keyring knows of another key, and the pool does not yet. */
typedef struct
{
  Fixture *fixture;
  KwJob *job;
  gint n_ended;
} Early;

static void
encrypt_early (KwKeyring *keyring, Early *early)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (keyring);

  if (early->job != NULL || kw_key_matrix_get_key (matrix, 0)->state != KW_KEY_STATE_DIFFERENT)
    return;
  early->job = encrypt_job (early->fixture, "text", 4, NULL);
  start (&early->fixture->main, early->job, &early->n_ended);
  while (g_atomic_int_get (&early->n_ended) == 0)
    g_thread_yield ();
}

static void
test_withdrawn_key_is_not_kept (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  Early early = { .fixture = fixture };
  g_autoptr (KwJob) later = NULL;

  wait_for_copies (&fixture->main, 1);
  g_signal_connect (fixture->main.keyring, "changed", G_CALLBACK (encrypt_early), &early);
  g_assert_true (kw_keyring_accept (fixture->main.keyring, "label:first",
                                    "00112233445566778899aabbccddeeff", NULL));
  g_assert_true (kw_keyring_load (fixture->main.keyring, NULL, NULL));
  kw_pool_reopen_devices (fixture->main.pool, TRUE);
  kw_iterate_until (early.job != NULL
                    && get_facts (&fixture->main, 0).state == KW_KEY_STATE_DIFFERENT);
  /* Whatever became of that one: none goes on with what it left. */
  later = encrypt_job (fixture, "text", 4, NULL);
  run (&fixture->main, later);
  g_assert_nonnull (later->error);
  g_assert_cmpuint (kw_vault_get_n_data_keys (fixture->main.vault), ==, 0);
  g_signal_handlers_disconnect_by_data (fixture->main.keyring, &early);
  kw_job_unref (early.job);
}

/* Garbage takes no place from what is in use. */
static void
test_wrong_data_keys_are_not_kept (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (GBytes) envelope = encrypt_when_ready (fixture);
  gsize size = 0;
  g_autofree guint8 *copy = g_memdup2 (g_bytes_get_data (envelope, &size), 94);
  g_autoptr (GBytes) bad = NULL;

  copy[40] ^= 1;
  bad = g_bytes_new_take (g_steal_pointer (&copy), size);
  assert_decrypt_error (fixture, bad, NULL, KW_ERROR_DECRYPT_FAILED, NO_DECRYPT);
  g_assert_cmpuint (kw_vault_get_n_data_keys (fixture->main.vault), ==, 1);
}

static void
test_data_keys_are_bounded (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);

  wait_for_copies (&fixture->main, 1);
  for (guint i = 0; i < KW_MAX_CACHED_DATA_KEYS + 10; i++)
    {
      g_autoptr (GBytes) envelope = encrypt (fixture, &fixture->main, "text", 4, NULL);

      assert_decrypts (fixture, &fixture->main, envelope, "text", 4, NULL);
      /* The next one gets a new data key. */
      kw_vault_forget_sealing_key (fixture->main.vault);
    }
  g_assert_cmpuint (kw_vault_get_n_data_keys (fixture->main.vault), ==, KW_MAX_CACHED_DATA_KEYS);
}

/* Not more than so many bytes under one data key. */
static void
test_data_key_is_not_worn_out (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  gsize size = 60 << 20;
  g_autoptr (KwSecret) message = kw_secret_new_unlocked (size, NULL);
  guint n_messages = (guint) (KW_MAX_DATA_KEY_BYTES / size);
  guint before = 0;

  wait_for_copies (&fixture->main, 1);
  before = count_aes (token);
  for (guint i = 0; i < n_messages + 1; i++)
    {
      g_autoptr (KwJob) job = kw_job_new_encrypt (fixture->caller, message, NULL);

      run (&fixture->main, job);
      g_assert_no_error (job->error);
      g_assert_cmpuint (count_aes (token), ==, before + (i < n_messages ? 1 : 2));
    }
}

static void
test_many_at_a_time (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (KwFakeToken) b = plug (&fixture->main, "B", 1, 2);
  g_autoptr (GPtrArray) jobs = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_job_unref);
  gint n_ended = 0;
  guint8 text[40000] = { 0 };

  wait_for_copies (&fixture->main, 2);
  for (guint i = 0; i < 200; i++)
    {
      KwJob *job = encrypt_job (fixture, text, i % 2 == 0 ? 10 : sizeof text, NULL);

      g_ptr_array_add (jobs, job);
      start (&fixture->main, job, &n_ended);
    }
  kw_iterate_until (g_atomic_int_get (&n_ended) == 200);
  for (guint i = 0; i < jobs->len; i++)
    g_assert_no_error (kw_job_get_error (g_ptr_array_index (jobs, i)));
  /* Both did some; how many depends on which of them the machine let run, as the faster one gets more. */
  g_assert_cmpuint (count_aes (a), >, 2 + 4);
  g_assert_cmpuint (count_aes (b), >, 2 + 4);
}

/* One that was slow once is not left out for good. */
static void
test_slow_device_gets_another_chance (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = plug (&fixture->main, "A", 1, 2);
  g_autoptr (KwFakeToken) b = plug (&fixture->main, "B", 1, 2);
  gint n_ended = 0;
  guint before = 0;

  wait_for_copies (&fixture->main, 2);
  kw_fake_token_hold (a, KW_FAKE_RANDOM, TRUE);
  kw_fake_token_hold (b, KW_FAKE_RANDOM, TRUE);
  for (guint i = 0; i < 2; i++)
    {
      g_autoptr (KwJob) job = kw_job_new_random (fixture->caller, 8);

      start (&fixture->main, job, &n_ended);
    }
  kw_fake_token_wait_inside (a, KW_FAKE_RANDOM, 1);
  kw_fake_token_wait_inside (b, KW_FAKE_RANDOM, 1);
  kw_fake_token_hold (b, KW_FAKE_RANDOM, FALSE);
  kw_iterate_until (g_atomic_int_get (&n_ended) == 1);
  move_clock (10 * G_TIME_SPAN_SECOND);
  kw_fake_token_hold (a, KW_FAKE_RANDOM, FALSE);
  kw_iterate_until (g_atomic_int_get (&n_ended) == 2);
  before = kw_fake_token_get_n_calls (a, KW_FAKE_RANDOM);
  for (guint i = 0; i < 40; i++)
    {
      g_autoptr (KwJob) job = kw_job_new_random (fixture->caller, 8);

      run (&fixture->main, job);
      g_assert_cmpstr (kw_job_get_device_name (job), ==, "B");
    }
  move_clock (30 * G_TIME_SPAN_SECOND);
  for (guint i = 0; i < 40; i++)
    {
      g_autoptr (KwJob) job = kw_job_new_random (fixture->caller, 8);

      run (&fixture->main, job);
    }
  g_assert_cmpuint (kw_fake_token_get_n_calls (a, KW_FAKE_RANDOM), >, before);
}

static void
test_too_many_bytes (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token G_GNUC_UNUSED = plug (&fixture->main, "A", 1, 2);
  g_autoptr (GPtrArray) jobs = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_job_unref);
  g_autoptr (KwSecret) message = kw_secret_new_unlocked (60 << 20, NULL);
  gint n_ended = 0;
  guint n_busy = 0;

  wait_for_copies (&fixture->main, 1);
  kw_fake_token_hold (token, KW_FAKE_AES_CBC, TRUE);
  for (guint i = 0; i < 5; i++)
    {
      KwJob *job = kw_job_new_encrypt (fixture->caller, message, NULL);

      g_ptr_array_add (jobs, job);
      start (&fixture->main, job, &n_ended);
    }
  kw_fake_token_hold (token, KW_FAKE_AES_CBC, FALSE);
  kw_iterate_until (g_atomic_int_get (&n_ended) == 5);
  for (guint i = 0; i < jobs->len; i++)
    n_busy += g_error_matches (kw_job_get_error (g_ptr_array_index (jobs, i)), KW_ERROR,
                               KW_ERROR_BUSY);
  g_assert_cmpuint (n_busy, ==, 1);
}

static void
test_stopped (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  kw_pool_stop (fixture->main.pool);
  kw_vault_stop (fixture->main.vault);
  assert_encrypt_error (fixture, KW_ERROR_UNAVAILABLE,
                        "No device is ready: The service is stopping");
}

#define TTL KEYS "data_key_ttl = 5\n"

static void
add (const char *path, const char *settings, void (*test) (Fixture *, gconstpointer))
{
  g_test_add (path, Fixture, settings, set_up, test, tear_down);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  kw_test_keep_quiet ();
  add ("/vault/round-trip", NULL, test_round_trip);
  add ("/vault/sizes", NULL, test_sizes);
  add ("/vault/random-sizes", NULL, test_random_sizes);
  add ("/vault/two-instances", NULL, test_two_instances);
  add ("/vault/old-key-decrypts", NULL, test_old_key_decrypts);
  add ("/vault/rewrap-wants-the-right-data", NULL, test_rewrap_wants_the_right_data);
  add ("/vault/text", NULL, test_text);
  add ("/vault/flipped-bytes", NULL, test_flipped_bytes);
  add ("/vault/unknown-key", NULL, test_unknown_key);
  add ("/vault/limits", KEYS "max_plaintext = 100\n", test_limits);
  add ("/vault/random", NULL, test_random);
  add ("/vault/fails-over", NULL, test_fails_over);
  add ("/vault/different-key-is-never-used", NULL, test_different_key_is_never_used);
  add ("/vault/two-that-disagree", NULL, test_two_that_disagree);
  add ("/vault/min-copies", KEYS "min_copies = 2\n", test_min_copies);
  add ("/vault/weak-key", NULL, test_weak_key);
  add ("/vault/switched-off", KEYS "encrypt_hsm = \"No\"\n", test_switched_off);
  add ("/vault/no-key-configured", "", test_no_key_configured);
  add ("/vault/no-device", NULL, test_no_device);
  add ("/vault/mismatched-device", NULL, test_mismatched_device);
  add ("/vault/keys-are-proven-again", NULL, test_keys_are_proven_again);
  add ("/vault/trouble-while-proving", NULL, test_trouble_while_proving);
  add ("/vault/key-vanishes", NULL, test_key_vanishes);
  add ("/vault/device-disowns-its-key", NULL, test_device_disowns_its_key);
  add ("/vault/unprovable-key", NULL, test_unprovable_key);
  add ("/vault/generate", NULL, test_generate);
  add ("/vault/generated-key-that-does-not-work", NULL, test_generated_key_that_does_not_work);
  add ("/vault/data-key/is-used-again", TTL, test_data_key_is_used_again);
  add ("/vault/data-key/expires", TTL, test_data_key_expires);
  add ("/vault/data-key/change-of-keys-forgets", TTL, test_change_of_keys_forgets_data_keys);
  add ("/vault/data-key/withdrawn-key-is-not-kept", TTL, test_withdrawn_key_is_not_kept);
  add ("/vault/data-key/wrong-ones-are-not-kept", TTL, test_wrong_data_keys_are_not_kept);
  add ("/vault/data-key/bounded", TTL, test_data_keys_are_bounded);
  add ("/vault/data-key/not-worn-out", KEYS "data_key_ttl = 60\nmax_plaintext = 67108864\n",
       test_data_key_is_not_worn_out);
  add ("/vault/many-at-a-time", NULL, test_many_at_a_time);
  add ("/vault/slow-device-gets-another-chance", NULL, test_slow_device_gets_another_chance);
  add ("/vault/too-many-bytes", KEYS "max_plaintext = 67108864\n", test_too_many_bytes);
  add ("/vault/stopped", NULL, test_stopped);
  return g_test_run ();
}
