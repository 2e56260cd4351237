/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-generation"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-instance.h"
#include "kw-job-private.h"
#include "kw-names.h"

#include <string.h>

/* What is looked at before a key is made, and where it is afterwards; on cards, whose keys have numbers. */

static KwJob *
generate (KwInstance *f, KwKeyKind kind, const char *label)
{
  return kw_instance_run (f, kind == KW_KEY_KIND_RSA
                                 ? kw_job_new_generate_rsa (f->caller, 2048, label)
                                 : kw_job_new_generate_aes (f->caller, 256, label));
}

/* Fails for the reason that is wanted, and nothing was made. */
static void
assert_refused (KwInstance *f, const char *label, KwError code, const char *message)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (f->pool);
  g_autoptr (KwJob) job = generate (f, KW_KEY_KIND_AES, label);

  g_assert_error (job->error, KW_ERROR, (gint) code);
  g_assert_cmpstr (job->error->message, ==, message);
  g_assert_null (kw_job_get_key (job));
  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);
      KwFakeToken *card = KW_FAKE_TOKEN (kw_device_get_token (device));

      g_assert_cmpuint (kw_fake_token_get_n_calls (card, KW_FAKE_GENERATE_AES), ==, 0);
    }
}

/* The number of the only key with that id on a card. */
static guint
find_reference (KwFakeToken *card, GBytes *id)
{
  g_autoptr (GPtrArray) keys = kw_token_list_keys (KW_TOKEN (card), NULL);
  guint reference = 0;

  for (guint i = 0; i < keys->len; i++)
    {
      KwKey *key = g_ptr_array_index (keys, i);

      if (!g_bytes_equal (kw_key_get_id (key), id))
        continue;
      g_assert_cmpuint (reference, ==, 0);
      reference = kw_key_get_reference (key);
    }
  return reference;
}

/* Cards whose numbers have holes, each in another place: the new key comes last on all of them, and key 0 stays what it is. */
static void
test_holes (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');
  g_autoptr (KwJob) job = NULL;
  g_autoptr (KwJob) next = NULL;

  kw_instance_add_key (a, "first", 2, 1);
  kw_instance_add_key (a, "a", 5, 2);
  kw_instance_add_key (b, "first", 3, 1);
  kw_instance_add_key (b, "b", 9, 3);
  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 2);
  job = generate (f, KW_KEY_KIND_AES, "new");
  g_assert_no_error (job->error);
  g_assert_cmpuint (find_reference (a, kw_key_get_id (job->key)), ==, 10);
  g_assert_cmpuint (find_reference (b, kw_key_get_id (job->key)), ==, 10);
  next = generate (f, KW_KEY_KIND_AES, "next");
  g_assert_no_error (next->error);
  g_assert_cmpuint (find_reference (a, kw_key_get_id (next->key)), ==, 11);
  g_assert_cmpuint (find_reference (b, kw_key_get_id (next->key)), ==, 11);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 2);
}

/* What another program made since the device was looked at counts as well. */
static void
test_looks_anew (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwJob) job = NULL;

  kw_instance_add_key (a, "first", 1, 1);
  kw_instance_plug (f, a);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  kw_instance_add_key (a, "by others", 7, 2);
  assert_refused (
      f, "by others", KW_ERROR_KEY_EXISTS,
      "Device A has an AES key with the label \"by others\" already, so no key was made; give the new one "
      "another label");
  job = generate (f, KW_KEY_KIND_AES, "new");
  g_assert_no_error (job->error);
  g_assert_cmpuint (find_reference (a, kw_key_get_id (job->key)), ==, 8);
}

static void
test_no_number_left (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');

  kw_instance_add_key (a, "first", 1, 1);
  kw_instance_add_key (b, "first", 1, 1);
  kw_instance_add_key (b, "last", 254, 2);
  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 2);
  assert_refused (
      f, "new", KW_ERROR_TOKEN_FULL,
      "No number is left for a new key: it has to come after those of all AES keys, the highest of which is 254 on device B, "
      "and 254 is the last; so none was made. Remove keys with high numbers that are not needed, from all devices");
}

/* Where keys have no numbers their ids order them. */
static void
test_no_id_left (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) token = kw_fake_token_new ("A", KW_INSTANCE_PIN);
  g_autoptr (GBytes) last = g_bytes_new_static ("\xff\xff\xff\xff\xff\xff\xff\xff\xff", 9);

  kw_fake_token_add_aes_key (token, &(KwKeyFields){ .id = last }, "last", 1);
  kw_instance_plug (f, token);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  assert_refused (
      f, "new", KW_ERROR_TOKEN_FULL,
      "No id is left for a new key: it has to come after those of all AES keys, and device A has one with the "
      "highest there is; so none was made. Remove that key, or give it another CKA_ID");
}

/* A key that is configured by its label, and its device is not here. */
static void
test_label_of_an_absent_key (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');

  kw_instance_add_key (a, "first", 1, 1);
  kw_instance_plug (f, a);
  kw_instance_wait_for_key (f, "label:first", KW_KEY_STATE_OK, 1);
  assert_refused (
      f, "first", KW_ERROR_KEY_EXISTS,
      "Device A has an AES key with the label \"first\" already, so no key was made; give the new one another "
      "label");
  kw_instance_plug (f, b);
  kw_fake_backend_unplug (f->backend, a);
  assert_refused (
      f, "first", KW_ERROR_KEY_EXISTS,
      "Another key is on record as label:first of hsm_keyid, on a device that is not here, so no key was made; give the new "
      "one another label");
}

/* A blank card beside one with the key: the new one would be key 0 there. */
static void
test_place_of_a_missing_key (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');

  kw_instance_add_key (a, "first", 1, 1);
  kw_instance_plug (f, a);
  kw_instance_wait_for_key (f, "0", KW_KEY_STATE_OK, 1);
  kw_instance_plug (f, b);
  assert_refused (
      f, "new", KW_ERROR_KEY_EXISTS,
      "Device B does not have key 0 of hsm_keyid, and a new key would take its place there, so none was made; clone key 0 "
      "to the device first, or unplug it");
}

static void
test_too_few_devices (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');

  kw_instance_plug (f, a);
  assert_refused (
      f, "new", KW_ERROR_UNAVAILABLE,
      "1 device is ready, and min_copies is 2, so no key was made; plug in more devices");
}

static void
test_cannot_be_cloned (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');

  kw_fake_token_set_can_clone (a, FALSE, NULL);
  kw_fake_token_set_can_clone (b, FALSE, NULL);
  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  assert_refused (
      f, "new", KW_ERROR_UNAVAILABLE,
      "Keys cannot be cloned between these devices, and min_copies is 2, so no key was made; use cards with the same "
      "transport key, or set min_copies = 1 in [hsm] and see to copies yourself");
}

/* Two of three cards have the same transport key: the key is made on one of these, however much they have to do. */
static void
test_made_where_it_can_be_cloned (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'y');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');
  g_autoptr (KwFakeToken) c = kw_instance_new_card ("C", 'x');
  g_autoptr (KwJob) job = NULL;

  kw_fake_token_set_can_clone (a, TRUE, "0101010101010101");
  kw_fake_token_set_can_clone (b, TRUE, "0202020202020202");
  kw_fake_token_set_can_clone (c, TRUE, "0202020202020202");
  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  kw_instance_plug (f, c);
  for (guint i = 0; i < 4; i++)
    {
      g_autofree char *label = g_strdup_printf ("new %u", i);

      g_clear_pointer (&job, kw_job_unref);
      job = generate (f, i % 2 == 0 ? KW_KEY_KIND_AES : KW_KEY_KIND_RSA, label);
      g_assert_no_error (job->error);
    }
  g_assert_cmpuint (kw_fake_token_get_n_keys (a), ==, 0);
  g_assert_cmpuint (kw_fake_token_get_n_keys (b), ==, 4);
  g_assert_cmpuint (kw_fake_token_get_n_keys (c), ==, 4);
}

/* A device that makes no such keys says so, and another one makes it; if none does, that is what the caller hears. */
static void
test_another_one_makes_it (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');
  g_autoptr (KwJob) job = NULL;
  g_autoptr (KwJob) refused = NULL;

  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  kw_fake_token_fail (a, KW_FAKE_GENERATE_AES, KW_ERROR_NOT_SUPPORTED, 100);
  for (guint i = 0; i < 4; i++)
    {
      g_autofree char *label = g_strdup_printf ("new %u", i);

      g_clear_pointer (&job, kw_job_unref);
      job = generate (f, KW_KEY_KIND_AES, label);
      g_assert_no_error (job->error);
      g_assert_cmpstr (kw_job_get_device_name (job), ==, "B");
    }
  g_assert_cmpuint (kw_fake_token_get_n_keys (a), ==, 4);
  kw_fake_token_fail (b, KW_FAKE_GENERATE_AES, KW_ERROR_NOT_SUPPORTED, 100);
  refused = generate (f, KW_KEY_KIND_AES, "another");
  g_assert_error (refused->error, KW_ERROR, KW_ERROR_NOT_SUPPORTED);
}

/* A device that cannot be looked at may have a key that the new one gets in the way of. */
static void
test_device_cannot_be_looked_at (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');

  kw_instance_plug (f, a);
  kw_fake_token_fail (a, KW_FAKE_LIST_KEYS, KW_ERROR_DEVICE_FAILED, 1);
  assert_refused (
      f, "new", KW_ERROR_UNAVAILABLE,
      "Device A could not be looked at, so no key was made: fake failure; try again, or unplug it");
}

static gboolean
is_recorded (KwInstance *f, const char *fingerprint)
{
  g_autofree char *path = g_build_filename (f->directory, KW_STATE_FILE_KEYS, NULL);
  g_autofree char *text = NULL;

  return g_file_get_contents (path, &text, NULL, NULL) && strstr (text, fingerprint) != NULL;
}

/* A key that was removed again has left nothing on record: the next one is the first. */
static void
test_after_a_failed_replication (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'y');
  g_autoptr (KwFakeToken) c = kw_instance_new_card ("C", 'x');
  g_autoptr (KwJob) failed = NULL;
  g_autoptr (KwJob) job = NULL;
  g_autoptr (GBytes) envelope = NULL;

  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  failed = generate (f, KW_KEY_KIND_AES, "first");
  g_assert_error (failed->error, KW_ERROR, KW_ERROR_UNAVAILABLE);
  g_assert_cmpuint (kw_fake_token_get_n_keys (a) + kw_fake_token_get_n_keys (b), ==, 0);
  g_assert_false (is_recorded (f, "label:first="));
  kw_fake_backend_unplug (f->backend, b);
  kw_instance_plug (f, c);
  job = generate (f, KW_KEY_KIND_AES, "first");
  g_assert_no_error (job->error);
  kw_instance_wait_for_key (f, "label:first", KW_KEY_STATE_OK, 2);
  g_assert_true (is_recorded (f, kw_key_get_fingerprint (job->key)));
  envelope = kw_instance_encrypt (f, "text");
  kw_instance_assert_decrypts (f, envelope, "text");
}

/* The same for an RSA key whose id the caller chose. */
static void
test_rsa_after_a_failed_replication (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'y');
  g_autoptr (GBytes) id = g_bytes_new_static ("0123456789abcdef", 16);

  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  for (guint i = 0; i < 2; i++)
    {
      KwJob *job = kw_job_new_generate_rsa (f->caller, 2048, "rsa");

      kw_job_set_key_id (job, id);
      job = kw_instance_run (f, job);
      if (i == 0)
        {
          g_assert_error (job->error, KW_ERROR, KW_ERROR_UNAVAILABLE);
          g_assert_false (is_recorded (f, "rsa-30313233"));
          kw_fake_token_set_transport_key (b, 'x');
        }
      else
        g_assert_no_error (job->error);
      kw_job_unref (job);
    }
  g_assert_true (is_recorded (f, "rsa-30313233"));
}

/* An id that is in use is refused by the device, and the key that has it is not hidden meanwhile, nor afterwards. */
static void
test_id_in_use (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (GBytes) id = g_bytes_new_static ("0123456789abcdef", 16);
  KwJob *job = kw_job_new_generate_rsa (f->caller, 2048, "rsa");

  kw_fake_token_add_key (a, "0123456789abcdef", "material");
  kw_instance_plug (f, a);
  kw_fake_token_fail (a, KW_FAKE_GENERATE_RSA, KW_ERROR_DEVICE_FAILED, 1);
  kw_job_set_key_id (job, id);
  job = kw_instance_run (f, job);
  g_assert_error (job->error, KW_ERROR, KW_ERROR_UNAVAILABLE);
  g_assert_false (kw_keyring_is_held (f->keyring, id));
  kw_job_unref (job);
}

/* Where the record cannot be written the key goes again, from all devices. */
static void
test_cannot_be_recorded (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');
  g_autoptr (KwJob) job = NULL;

  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  g_free (kw_test_write_file (f->directory, KW_STATE_FILE_KEYS, "nonsense", 0600));
  job = generate (f, KW_KEY_KIND_RSA, "new");
  g_assert_nonnull (job->error);
  g_assert_null (kw_job_get_key (job));
  g_assert_cmpuint (kw_fake_token_get_n_keys (a) + kw_fake_token_get_n_keys (b), ==, 0);
}

/* Another process logged us out before the key could be removed again: we log in once more. */
static void
test_removed_after_a_lost_login (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');
  g_autoptr (KwJob) job = kw_job_new_generate_rsa (f->caller, 2048, "new");
  KwFakeToken *origin = NULL;
  KwFakeToken *target = NULL;
  gint n_ended = 0;

  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  kw_fake_token_fail (a, KW_FAKE_IMPORT_KEY, KW_ERROR_INVALID_ARGUMENT, 1);
  kw_fake_token_fail (b, KW_FAKE_IMPORT_KEY, KW_ERROR_INVALID_ARGUMENT, 1);
  kw_fake_token_hold (a, KW_FAKE_IMPORT_KEY, TRUE);
  kw_fake_token_hold (b, KW_FAKE_IMPORT_KEY, TRUE);
  kw_instance_start (f, job, &n_ended);
  kw_iterate_until (kw_fake_token_get_n_calls (a, KW_FAKE_IMPORT_KEY)
                        + kw_fake_token_get_n_calls (b, KW_FAKE_IMPORT_KEY)
                    > 0);
  target = kw_fake_token_get_n_calls (a, KW_FAKE_IMPORT_KEY) > 0 ? a : b;
  origin = target == a ? b : a;
  g_assert_cmpuint (kw_fake_token_get_n_keys (origin), ==, 1);
  kw_fake_token_log_out (origin);
  kw_fake_token_hold (target, KW_FAKE_IMPORT_KEY, FALSE);
  kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
  g_assert_error (job->error, KW_ERROR, KW_ERROR_UNAVAILABLE);
  g_assert_cmpuint (kw_fake_token_get_n_keys (origin), ==, 0);
  g_assert_cmpuint (kw_fake_token_get_n_calls (origin, KW_FAKE_LOGIN), ==, 2);
}

/* While a key is being cloned, and when it could not be removed again, nobody takes notice of it. */
static void
test_unfinished_key_is_not_shown (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');
  g_autoptr (KwJob) job = kw_job_new_generate_aes (f->caller, 256, "first");
  KwFakeToken *origin = NULL;
  KwFakeToken *target = NULL;
  guint n_lists = 0;
  gint n_ended = 0;

  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  kw_fake_token_fail (a, KW_FAKE_DELETE_KEY, KW_ERROR_FAILED, 1);
  kw_fake_token_fail (b, KW_FAKE_DELETE_KEY, KW_ERROR_FAILED, 1);
  kw_fake_token_fail (a, KW_FAKE_IMPORT_KEY, KW_ERROR_INVALID_ARGUMENT, 1);
  kw_fake_token_fail (b, KW_FAKE_IMPORT_KEY, KW_ERROR_INVALID_ARGUMENT, 1);
  kw_fake_token_hold (a, KW_FAKE_IMPORT_KEY, TRUE);
  kw_fake_token_hold (b, KW_FAKE_IMPORT_KEY, TRUE);
  kw_instance_start (f, job, &n_ended);
  kw_iterate_until (kw_fake_token_get_n_calls (a, KW_FAKE_IMPORT_KEY)
                        + kw_fake_token_get_n_calls (b, KW_FAKE_IMPORT_KEY)
                    > 0);
  target = kw_fake_token_get_n_calls (a, KW_FAKE_IMPORT_KEY) > 0 ? a : b;
  origin = target == a ? b : a;
  for (guint i = 0; i < 2; i++)
    {
      n_lists = kw_fake_token_get_n_calls (origin, KW_FAKE_LIST_KEYS);
      kw_device_refresh_keys (kw_instance_get_device (f, origin));
      kw_iterate_until (kw_fake_token_get_n_calls (origin, KW_FAKE_LIST_KEYS) > n_lists
                        && !kw_device_is_busy (kw_instance_get_device (f, origin)));
      g_assert_cmpuint (kw_fake_token_get_n_keys (origin), ==, 1);
      g_assert_cmpuint (kw_device_get_keys (kw_instance_get_device (f, origin))->len, ==, 0);
      g_assert_false (is_recorded (f, "label:first="));
      kw_fake_token_hold (target, KW_FAKE_IMPORT_KEY, FALSE);
      kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
    }
  g_assert_error (job->error, KW_ERROR, KW_ERROR_UNAVAILABLE);
}

/* Two at a time do not get the same number. */
static void
test_two_at_a_time (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwFakeToken) b = kw_instance_new_card ("B", 'x');
  g_autoptr (KwJob) one = kw_job_new_generate_aes (f->caller, 256, "one");
  g_autoptr (KwJob) two = kw_job_new_generate_aes (f->caller, 256, "two");
  gint n_ended = 0;

  kw_instance_plug (f, a);
  kw_instance_plug (f, b);
  kw_instance_start (f, one, &n_ended);
  kw_instance_start (f, two, &n_ended);
  kw_iterate_until (g_atomic_int_get (&n_ended) == 2);
  g_assert_no_error (one->error);
  g_assert_no_error (two->error);
  g_assert_cmpuint (find_reference (a, kw_key_get_id (one->key))
                        + find_reference (a, kw_key_get_id (two->key)),
                    ==, 3);
  g_assert_cmpuint (find_reference (a, kw_key_get_id (one->key)), ==,
                    find_reference (b, kw_key_get_id (one->key)));
  g_assert_cmpuint (find_reference (a, kw_key_get_id (two->key)), ==,
                    find_reference (b, kw_key_get_id (two->key)));
}

/* One waits for its turn when the service stops. */
static void
test_stopped (KwInstance *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwFakeToken) a = kw_instance_new_card ("A", 'x');
  g_autoptr (KwJob) one = kw_job_new_generate_aes (f->caller, 256, "one");
  g_autoptr (KwJob) two = kw_job_new_generate_aes (f->caller, 256, "two");
  gint n_ended = 0;

  kw_instance_plug (f, a);
  kw_fake_token_hold (a, KW_FAKE_GENERATE_AES, TRUE);
  kw_instance_start (f, one, &n_ended);
  kw_instance_start (f, two, &n_ended);
  kw_iterate_until (kw_fake_token_get_n_calls (a, KW_FAKE_GENERATE_AES) == 1);
  while (g_main_context_iteration (NULL, FALSE))
    ;
  kw_pool_stop (f->pool);
  g_assert_error (two->error, KW_ERROR, KW_ERROR_UNAVAILABLE);
  kw_fake_token_hold (a, KW_FAKE_GENERATE_AES, FALSE);
  kw_iterate_until (g_atomic_int_get (&n_ended) == 2);
}

int
main (int argc, char **argv)
{
#define BY_PLACE "[hsm]\nhsm_keyid = 0\n"
#define BY_LABEL "[hsm]\nhsm_keyid = \"label:first\"\n"
#define ALONE BY_LABEL "replicate = false\n"
#define TWO_COPIES BY_LABEL "min_copies = 2\n"
#define ADD(name, settings, func)                                                                  \
  g_test_add ("/generation/" name, KwInstance, settings, kw_instance_set_up, func,                 \
              kw_instance_tear_down)
  g_test_init (&argc, &argv, NULL);
  kw_test_keep_quiet ();
  ADD ("holes", BY_PLACE, test_holes);
  ADD ("looks-anew", BY_PLACE, test_looks_anew);
  ADD ("no-number-left", BY_PLACE, test_no_number_left);
  ADD ("no-id-left", BY_PLACE, test_no_id_left);
  ADD ("label-of-an-absent-key", BY_LABEL, test_label_of_an_absent_key);
  ADD ("place-of-a-missing-key", BY_PLACE, test_place_of_a_missing_key);
  ADD ("too-few-devices", TWO_COPIES, test_too_few_devices);
  ADD ("cannot-be-cloned", TWO_COPIES, test_cannot_be_cloned);
  ADD ("made-where-it-can-be-cloned", TWO_COPIES, test_made_where_it_can_be_cloned);
  ADD ("another-one-makes-it", BY_LABEL, test_another_one_makes_it);
  ADD ("device-cannot-be-looked-at", BY_LABEL, test_device_cannot_be_looked_at);
  ADD ("after-a-failed-replication", TWO_COPIES, test_after_a_failed_replication);
  ADD ("rsa-after-a-failed-replication", TWO_COPIES, test_rsa_after_a_failed_replication);
  ADD ("id-in-use", ALONE, test_id_in_use);
  ADD ("cannot-be-recorded", BY_LABEL, test_cannot_be_recorded);
  ADD ("removed-after-a-lost-login", TWO_COPIES, test_removed_after_a_lost_login);
  ADD ("unfinished-key-is-not-shown", TWO_COPIES, test_unfinished_key_is_not_shown);
  ADD ("two-at-a-time", BY_LABEL, test_two_at_a_time);
  ADD ("stopped", BY_LABEL, test_stopped);
  return g_test_run ();
}
