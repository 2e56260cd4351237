/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-self-test"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-fake-backend.h"
#include "kw-self-test.h"

#include <openssl/rand.h>
#include <string.h>

#define PIN "648219"
#define SAMPLE_BYTES 2500

typedef struct
{
  char *directory;
  KwKeyring *keyring;
  KwFakeBackend *backend;
  KwPool *pool;
  KwSelfTest *test;
  guint n_results; /* that signals told of */
  guint n_done;
} Fixture;

static void
set_up (Fixture *f, gconstpointer data)
{
  g_autoptr (KwPinGuard) guard = NULL;
  g_autoptr (KwSecret) pin = kw_secret_new_copy (PIN, strlen (PIN), NULL);
  g_autoptr (GPtrArray) selectors
      = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_selector_unref);
  KwDeviceOptions options = { 0 };

  g_ptr_array_add (selectors, kw_key_selector_new ("label:first", NULL));
  f->directory = kw_test_make_directory ();
  f->keyring = kw_keyring_new (f->directory);
  kw_keyring_set_keys (f->keyring, selectors, TRUE, 1);
  guard = kw_pin_guard_new (f->directory);
  options.guard = guard;
  options.keyring = f->keyring;
  options.pin = pin;
  options.timeout_usec = data != NULL ? GPOINTER_TO_INT (data) : 20 * G_TIME_SPAN_SECOND;
  f->pool = kw_pool_new (&options);
  f->backend = kw_fake_backend_new ();
  kw_pool_add_backend (f->pool, KW_BACKEND (f->backend));
  kw_pool_start (f->pool);
}

static void
set_up_plain (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  set_up (f, NULL);
}

static void
tear_down (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  gpointer pool = f->pool;

  g_clear_object (&f->test);
  kw_pool_stop (f->pool);
  g_object_add_weak_pointer (G_OBJECT (f->pool), &pool);
  g_object_unref (f->pool);
  while (pool != NULL)
    if (!g_main_context_iteration (NULL, FALSE))
      g_thread_yield ();
  g_object_unref (f->backend);
  g_object_unref (f->keyring);
  while (g_main_context_iteration (NULL, FALSE))
    ;
  kw_test_remove_directory (f->directory);
}

static KwFakeToken *
plug (Fixture *f, const char *serial, guint8 value)
{
  KwFakeToken *token = kw_fake_token_new (serial, PIN);
  g_autoptr (GBytes) id = g_bytes_new_static ("\1", 1);
  const KwKeyFields fields = { .kind = KW_KEY_KIND_AES,
                               .bits = 256,
                               .id = id,
                               .label = "first",
                               .usage = KW_KEY_USAGE_ENCRYPT | KW_KEY_USAGE_DECRYPT,
                               .reference = 1 };

  kw_fake_token_use_real_random (token);
  if (value != 0)
    kw_fake_token_add_aes_key (token, &fields, "first", value);
  kw_fake_backend_plug (f->backend, token);
  return token;
}

static gboolean
all_ready (Fixture *f, guint n)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (f->pool);
  guint n_ready = 0;

  for (guint i = 0; i < devices->len; i++)
    n_ready += kw_device_get_state (g_ptr_array_index (devices, i)) == KW_DEVICE_READY;
  return n_ready == n;
}

static gboolean
key_is (Fixture *f, KwKeyState state, guint n_copies)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (f->keyring);
  const KwKeyFacts *facts = kw_key_matrix_find_key (matrix, "label:first");

  return facts->state == state && facts->n_copies == n_copies;
}

static void
on_result (KwSelfTest *test, guint index, Fixture *f)
{
  g_assert_true (test == f->test);
  g_assert_cmpuint (index, ==, f->n_results);
  f->n_results++;
}

static void
on_done (KwSelfTest *test, Fixture *f)
{
  g_assert_false (kw_self_test_is_running (test));
  f->n_done++;
}

static void
start (Fixture *f)
{
  f->test = kw_self_test_new (f->pool, f->keyring);
  g_signal_connect (f->test, "result", G_CALLBACK (on_result), f);
  g_signal_connect (f->test, "done", G_CALLBACK (on_done), f);
  kw_self_test_start (f->test);
  g_assert_true (kw_self_test_is_running (f->test));
}

static void
run (Fixture *f)
{
  start (f);
  kw_iterate_until (f->n_done > 0);
  g_assert_cmpuint (f->n_results, ==, kw_self_test_get_n_steps (f->test));
  g_assert_cmpuint (f->n_done, ==, 1);
}

/* The result of one test, which has to be there once. */
static const KwTestResult *
find (Fixture *f, const char *name, const char *subject)
{
  GPtrArray *results = kw_self_test_get_results (f->test);
  const KwTestResult *found = NULL;

  for (guint i = 0; i < results->len; i++)
    {
      const KwTestResult *result = g_ptr_array_index (results, i);

      if (!g_str_equal (result->name, name) || !g_str_equal (result->subject, subject))
        continue;
      g_assert_null (found);
      found = result;
    }
  g_assert_nonnull (found);
  return found;
}

static void
assert_result (Fixture *f,
               const char *name,
               const char *subject,
               KwTestOutcome outcome,
               const char *advice)
{
  const KwTestResult *result = find (f, name, subject);

  g_assert_cmpstr (kw_test_outcome_to_string (result->outcome), ==,
                   kw_test_outcome_to_string (outcome));
  g_assert_cmpstr (result->advice, ==, advice);
}

static void
test_all_well (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  static const char *const names[] = { "one", "two" };

  g_object_unref (plug (f, "one", 7));
  g_object_unref (plug (f, "two", 7));
  kw_iterate_until (key_is (f, KW_KEY_STATE_OK, 2));
  run (f);
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autofree char *key = g_strdup_printf ("%s, key label:first", names[i]);
      g_autofree char *pair = g_strdup_printf ("%s to %s, key label:first", names[i], names[1 - i]);

      assert_result (f, "device", names[i], KW_TEST_PASSED, "");
      assert_result (f, "random", names[i], KW_TEST_PASSED, "");
      assert_result (f, "fingerprint", key, KW_TEST_PASSED, "");
      assert_result (f, "round-trip", key, KW_TEST_PASSED, "");
      assert_result (f, "pair", pair, KW_TEST_PASSED, "");
      g_assert_nonnull (find (f, "pin", names[i]));
    }
  g_assert_cmpuint (kw_self_test_count (f->test, KW_TEST_FAILED), ==, 0);
}

static void
test_nothing_there (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  run (f);
  g_assert_cmpuint (f->n_results, ==, 1);
  g_assert_cmpint (find (f, "device", "all devices")->outcome, ==, KW_TEST_FAILED);
}

/* Random bytes that repeat are found out. */
static void
test_not_random (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = kw_fake_token_new ("same", PIN);

  kw_fake_backend_plug (f->backend, token);
  kw_iterate_until (all_ready (f, 1));
  run (f);
  assert_result (f, "random", "same", KW_TEST_FAILED,
                 "It gave the same random bytes twice; do not make keys on it");
}

static void
test_key_missing (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_object_unref (plug (f, "one", 7));
  g_object_unref (plug (f, "two", 0));
  kw_iterate_until (all_ready (f, 2));
  kw_iterate_until (key_is (f, KW_KEY_STATE_MISSING, 1));
  run (f);
  g_assert_cmpint (find (f, "round-trip", "two, key label:first")->outcome, ==, KW_TEST_FAILED);
  g_assert_cmpstr (find (f, "round-trip", "two, key label:first")->advice, !=, "");
  assert_result (f, "round-trip", "one, key label:first", KW_TEST_PASSED, "");
}

/* A device that fails is named, with its own words; the others go on. */
static void
test_device_fails (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) bad = plug (f, "bad", 7);

  g_object_unref (plug (f, "good", 7));
  kw_iterate_until (key_is (f, KW_KEY_STATE_OK, 2));
  kw_fake_token_fail (bad, KW_FAKE_RANDOM, KW_ERROR_DEVICE_FAILED, 100);
  run (f);
  g_assert_cmpint (find (f, "random", "bad")->outcome, ==, KW_TEST_FAILED);
  assert_result (f, "random", "good", KW_TEST_PASSED, "");
}

/* A device that never answers costs its time limit, and no more. */
static void
test_device_hangs (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) stuck = plug (f, "stuck", 7);

  g_object_unref (plug (f, "works", 7));
  kw_iterate_until (key_is (f, KW_KEY_STATE_OK, 2));
  kw_fake_token_hold (stuck, KW_FAKE_RANDOM, TRUE);
  run (f);
  assert_result (f, "random", "stuck", KW_TEST_FAILED,
                 "It did not answer in time; unplug it and plug it in again");
  assert_result (f, "random", "works", KW_TEST_PASSED, "");
  kw_fake_token_hold (stuck, KW_FAKE_RANDOM, FALSE);
}

static void
test_cancel (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_object_unref (plug (f, "one", 7));
  kw_iterate_until (key_is (f, KW_KEY_STATE_OK, 1));
  start (f);
  kw_self_test_cancel (f->test);
  kw_self_test_cancel (f->test);
  g_assert_true (kw_self_test_is_running (f->test));
  kw_iterate_until (f->n_done > 0);
  g_assert_false (kw_self_test_is_running (f->test));
  while (g_main_context_iteration (NULL, FALSE))
    ;
  g_assert_cmpuint (f->n_done, ==, 1);
  g_assert_cmpuint (f->n_results, <, kw_self_test_get_n_steps (f->test));
}

/* A step that is under way when the test is cancelled belongs to it: until that is back no other test may begin. */
static void
test_cancel_during_a_step (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = plug (f, "one", 7);
  guint n_results = 0;

  kw_iterate_until (key_is (f, KW_KEY_STATE_OK, 1));
  kw_fake_token_hold (token, KW_FAKE_RANDOM, TRUE);
  start (f);
  kw_iterate_until (kw_fake_token_get_n_calls (token, KW_FAKE_RANDOM) > 0);
  n_results = f->n_results;
  kw_self_test_cancel (f->test);
  while (g_main_context_iteration (NULL, FALSE))
    ;
  g_assert_true (kw_self_test_is_running (f->test));
  g_assert_cmpuint (f->n_done, ==, 0);
  kw_fake_token_hold (token, KW_FAKE_RANDOM, FALSE);
  kw_iterate_until (f->n_done > 0);
  g_assert_false (kw_self_test_is_running (f->test));
  g_assert_cmpuint (f->n_results, ==, n_results);
}

/* What a thread of a device has done is taken by the main loop, though nobody runs that just then. */
static void
test_results_are_for_the_main_loop (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = plug (f, "one", 7);
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (f->pool);
  KwExecutor *executor = kw_device_get_executor (g_ptr_array_index (devices, 0));
  gint64 end = 0;
  guint n_results = 0;

  kw_iterate_until (key_is (f, KW_KEY_STATE_OK, 1));
  kw_fake_token_hold (token, KW_FAKE_RANDOM, TRUE);
  start (f);
  kw_iterate_until (kw_fake_token_get_n_calls (token, KW_FAKE_RANDOM) > 0);
  n_results = f->n_results;
  kw_fake_token_hold (token, KW_FAKE_RANDOM, FALSE);
  while (kw_executor_get_outstanding (executor) > 0)
    g_thread_yield ();
  /* Its last words come after that. */
  end = g_get_monotonic_time () + 20 * G_TIME_SPAN_MILLISECOND;
  while (g_get_monotonic_time () < end)
    g_thread_yield ();
  g_assert_cmpuint (f->n_results, ==, n_results);
  kw_iterate_until (f->n_done > 0);
  assert_result (f, "random", "one", KW_TEST_PASSED, "");
}

/* Keys that sign are tried by signing; one that cannot says what to do. */
static void
test_signatures (Fixture *f, gconstpointer data)
{
  KwKeyKind kind = (KwKeyKind) GPOINTER_TO_INT (data);
  const char *subject = kind == KW_KEY_KIND_EC ? "one, key signs" : "one, key 7369676e73";
  g_autoptr (KwFakeToken) token = kw_fake_token_new ("one", PIN);

  kw_fake_token_use_real_random (token);
  kw_fake_token_make_signing_key (token, "signs", kind);
  kw_fake_backend_plug (f->backend, token);
  kw_iterate_until (all_ready (f, 1));
  run (f);
  assert_result (f, "signature", subject, KW_TEST_PASSED, "");
  g_clear_object (&f->test);
  f->n_results = f->n_done = 0;
  kw_fake_token_fail (token, KW_FAKE_SIGN, KW_ERROR_FAILED, 1);
  run (f);
  assert_result (
      f, "signature", subject, KW_TEST_FAILED,
      "fake failure; unplug the device and plug it in again; if that does not help, delete the key there and "
      "clone it anew");
  g_clear_object (&f->test);
  f->n_results = f->n_done = 0;
  kw_fake_token_fail (token, KW_FAKE_SIGN, KW_ERROR_NOT_SUPPORTED, 1);
  run (f);
  g_assert_cmpint (find (f, "signature", subject)->outcome, ==, KW_TEST_SKIPPED);
}

/* Whatever fails, there is something to be done about it. */
static void
test_failures_have_advice (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  static const KwFakeCall calls[] = { KW_FAKE_RANDOM, KW_FAKE_AES_CBC };
  g_autoptr (KwFakeToken) a = plug (f, "one", 7);
  g_autoptr (KwFakeToken) b G_GNUC_UNUSED = plug (f, "two", 7);
  guint n_failed = 0;

  kw_iterate_until (key_is (f, KW_KEY_STATE_OK, 2));
  for (guint i = 0; i < G_N_ELEMENTS (calls); i++)
    kw_fake_token_fail (a, calls[i], KW_ERROR_FAILED, 100);
  run (f);
  for (guint i = 0; i < kw_self_test_get_results (f->test)->len; i++)
    {
      const KwTestResult *result = g_ptr_array_index (kw_self_test_get_results (f->test), i);

      if (result->outcome != KW_TEST_FAILED)
        continue;
      n_failed++;
      g_assert_nonnull (strstr (result->advice, "fake failure; "));
    }
  g_assert_cmpuint (n_failed, ==, 5); /* random, fingerprint, round trip, both pairs */
}

/* While it is being tested a device may go. */
static void
test_unplugged (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = plug (f, "one", 7);

  kw_iterate_until (key_is (f, KW_KEY_STATE_OK, 1));
  start (f);
  kw_fake_backend_unplug (f->backend, token);
  kw_iterate_until (f->n_done > 0);
  g_assert_cmpuint (kw_self_test_count (f->test, KW_TEST_FAILED), >, 0);
}

static void
test_bounds (void)
{
  guint8 sample[SAMPLE_BYTES];
  g_autofree char *reason = NULL;
  guint n_good = 0;

  for (guint i = 0; i < 200; i++)
    {
      g_autofree char *why = NULL;

      g_assert_cmpint (RAND_bytes (sample, sizeof sample), ==, 1);
      n_good += (guint) kw_self_test_is_random_enough (sample, sizeof sample, &why);
    }
  /* Each of 14 bounds is missed once in 10,000 times. */
  g_assert_cmpuint (n_good, >=, 190);

  memset (sample, 0, sizeof sample);
  g_assert_false (kw_self_test_is_random_enough (sample, sizeof sample, &reason));
  g_assert_cmpstr (reason, ==, "the same bit 20000 times in a row");
  g_clear_pointer (&reason, g_free);
  memset (sample, 0x55, sizeof sample);
  g_assert_false (kw_self_test_is_random_enough (sample, sizeof sample, &reason));
  g_assert_cmpstr (reason, ==, "10000 runs of 1 equal bits");
  g_clear_pointer (&reason, g_free);
  memset (sample, 0x77, sizeof sample);
  g_assert_false (kw_self_test_is_random_enough (sample, sizeof sample, &reason));
  g_assert_cmpstr (reason, ==, "15000 ones in 20000 bits");

  /* 25 equal bits in a row may be, 26 may not. */
  g_assert_cmpint (RAND_bytes (sample, sizeof sample), ==, 1);
  sample[100] = 0x55;
  memset (sample + 101, 0xFF, 3);
  sample[104] = 0xD5; /* after 01: 1 + 24 + 2 = 27 */
  g_clear_pointer (&reason, g_free);
  g_assert_false (kw_self_test_is_random_enough (sample, sizeof sample, &reason));
  g_assert_cmpstr (reason, ==, "the same bit 27 times in a row");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  kw_test_keep_quiet ();
#define ADD(name, func, data)                                                                      \
  g_test_add ("/self-test/" name, Fixture, data, set_up, func, tear_down)
  ADD ("all-well", test_all_well, NULL);
  ADD ("nothing-there", test_nothing_there, NULL);
  ADD ("not-random", test_not_random, NULL);
  ADD ("key-missing", test_key_missing, NULL);
  ADD ("device-fails", test_device_fails, NULL);
  ADD ("device-hangs", test_device_hangs, GINT_TO_POINTER (300 * G_TIME_SPAN_MILLISECOND));
  ADD ("cancel", test_cancel, NULL);
  ADD ("cancel-during-a-step", test_cancel_during_a_step, NULL);
  ADD ("results-are-for-the-main-loop", test_results_are_for_the_main_loop, NULL);
  g_test_add ("/self-test/signatures/rsa", Fixture, GINT_TO_POINTER (KW_KEY_KIND_RSA), set_up_plain,
              test_signatures, tear_down);
  g_test_add ("/self-test/signatures/ec", Fixture, GINT_TO_POINTER (KW_KEY_KIND_EC), set_up_plain,
              test_signatures, tear_down);
  ADD ("failures-have-advice", test_failures_have_advice, NULL);
  ADD ("unplugged", test_unplugged, NULL);
  g_test_add_func ("/self-test/bounds", test_bounds);
  return g_test_run ();
}
