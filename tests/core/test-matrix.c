/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-matrix"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-fake-token.h"
#include "kw-keyring.h"
#include "kw-names.h"

#include <glib/gstdio.h>
#include <string.h>

#define FINGERPRINT_A "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
#define FINGERPRINT_B "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"

/* What the keyring makes of devices, told to it without any. */

#define MAX_DEVICES 3

typedef struct
{
  char *directory;
  KwKeyring *keyring;
  KwKeyringDevice devices[MAX_DEVICES];
  guint n_devices;
  guint n_recorded;
  guint n_changed;
} Fixture;

static void
on_recorded (KwKeyring *keyring G_GNUC_UNUSED, Fixture *fixture)
{
  fixture->n_recorded++;
}

static void
on_changed (KwKeyring *keyring G_GNUC_UNUSED, Fixture *fixture)
{
  fixture->n_changed++;
}

static void
set_keys (KwKeyring *keyring, const char *const *ids, gboolean encrypts, guint min_copies)
{
  g_autoptr (GPtrArray) selectors
      = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_selector_unref);

  for (guint i = 0; ids[i] != NULL; i++)
    g_ptr_array_add (selectors, kw_key_selector_new (ids[i], NULL));
  kw_keyring_set_keys (keyring, selectors, encrypts, min_copies);
}

static void
set_up (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const char *const names[] = { "A", "B", "C" };
  static const char *const ids[] = { "label:first", "label:old", NULL };

  fixture->directory = kw_test_make_directory ();
  fixture->keyring = kw_keyring_new (fixture->directory);
  set_keys (fixture->keyring, ids, TRUE, 1);
  g_signal_connect (fixture->keyring, "recorded", G_CALLBACK (on_recorded), fixture);
  g_signal_connect (fixture->keyring, "changed", G_CALLBACK (on_changed), fixture);
  for (guint i = 0; i < MAX_DEVICES; i++)
    fixture->devices[i] = (KwKeyringDevice){
      .name = names[i],
      .label = "token",
      .number = i + 1,
      .ready = TRUE,
      .checked = TRUE,
      .settled = TRUE,
      .keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref),
      .different = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref),
    };
}

static void
tear_down (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  for (guint i = 0; i < MAX_DEVICES; i++)
    {
      g_ptr_array_unref (fixture->devices[i].keys);
      g_ptr_array_unref (fixture->devices[i].different);
    }
  while (g_main_context_iteration (NULL, FALSE))
    ;
  g_object_unref (fixture->keyring);
  kw_test_remove_directory (fixture->directory);
}

static void
give (Fixture *fixture,
      guint device,
      const char *label,
      const char *fingerprint,
      KwKeyUsage usage,
      const char *weakness)
{
  g_autoptr (GBytes) id = g_bytes_new (label, strlen (label));
  g_autoptr (KwKey) key = kw_key_new_full (&(KwKeyFields){ .kind = KW_KEY_KIND_AES,
                                                           .bits = 256,
                                                           .id = id,
                                                           .label = label,
                                                           .usage = usage,
                                                           .weakness = weakness });

  g_ptr_array_add (fixture->devices[device].keys, kw_key_new_with_fingerprint (key, fingerprint));
  fixture->n_devices = MAX (fixture->n_devices, device + 1);
}

static void
give_good (Fixture *fixture, guint device, const char *label, const char *fingerprint)
{
  give (fixture, device, label, fingerprint,
        (KwKeyUsage) (KW_KEY_USAGE_ENCRYPT | KW_KEY_USAGE_DECRYPT), NULL);
}

static gboolean
judge (Fixture *fixture)
{
  return kw_keyring_judge (fixture->keyring, fixture->devices, fixture->n_devices);
}

/* Judges until what can be recorded is recorded. */
static void
judge_and_record (Fixture *fixture)
{
  guint n_recorded = fixture->n_recorded;

  g_assert_false (judge (fixture));
  kw_iterate_until (fixture->n_recorded > n_recorded);
  g_assert_false (judge (fixture));
}

static void
assert_key (Fixture *fixture,
            const char *id,
            KwKeyState state,
            guint n_copies,
            gboolean may_encrypt,
            const char *advice)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (fixture->keyring);
  const KwKeyFacts *facts = kw_key_matrix_find_key (matrix, id);

  g_assert_nonnull (facts);
  g_assert_cmpstr (facts->advice, ==, advice);
  g_assert_cmpint (facts->state, ==, state);
  g_assert_cmpuint (facts->n_copies, ==, n_copies);
  g_assert_true (facts->may_encrypt == may_encrypt);
}

static KwKeyState
cell (Fixture *fixture, guint key, guint device)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (fixture->keyring);

  return kw_key_matrix_get_cell (matrix, key, device)->state;
}

static void
test_two_alike (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwKeyMatrix) matrix = NULL;
  g_autofree char *text = NULL;

  for (guint i = 0; i < 2; i++)
    {
      give_good (fixture, i, "first", FINGERPRINT_A);
      give_good (fixture, i, "old", FINGERPRINT_B);
    }
  judge_and_record (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_OK, 2, TRUE, NULL);
  assert_key (fixture, "label:old", KW_KEY_STATE_OK, 2, FALSE, NULL);
  matrix = kw_keyring_ref_matrix (fixture->keyring);
  g_assert_true (kw_key_matrix_is_green (matrix));
  g_assert_cmpuint (kw_key_matrix_get_n_keys (matrix), ==, 2);
  g_assert_cmpuint (kw_key_matrix_get_n_devices (matrix), ==, 2);
  g_assert_cmpstr (kw_key_matrix_get_first_key (matrix)->id, ==, "label:first");
  g_assert_cmpstr (kw_key_matrix_get_key (matrix, 1)->fingerprint, ==, FINGERPRINT_B);
  g_assert_cmpstr (kw_key_matrix_get_key (matrix, 1)->label, ==, "old");
  g_assert_cmpstr (kw_key_matrix_get_device (matrix, 1)->name, ==, "B");
  text = kw_test_read_file (fixture->directory, KW_STATE_FILE_KEYS);
  g_assert_nonnull (strstr (text, "[hsm_keyid]\n"));
  g_assert_nonnull (strstr (text, "\nlabel:first=" FINGERPRINT_A "\n"));
}

static void
test_changed_is_told_once (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  give_good (fixture, 0, "first", FINGERPRINT_A);
  judge_and_record (fixture);
  g_assert_cmpuint (fixture->n_changed, ==, 2); /* unchecked, then ok */
  judge (fixture);
  g_assert_cmpuint (fixture->n_changed, ==, 2);
  fixture->devices[0].ready = FALSE;
  judge (fixture);
  g_assert_cmpuint (fixture->n_changed, ==, 3);
}

static void
test_missing (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  give_good (fixture, 0, "first", FINGERPRINT_A);
  fixture->n_devices = 2;
  judge_and_record (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_MISSING, 1, TRUE,
              "Key label:first is missing on device B; clone it to there");
  assert_key (fixture, "label:old", KW_KEY_STATE_MISSING, 0, FALSE,
              "Key label:old is on no device; make it, or plug in a device that has it");
  g_assert_cmpint (cell (fixture, 0, 0), ==, KW_KEY_STATE_OK);
  g_assert_cmpint (cell (fixture, 0, 1), ==, KW_KEY_STATE_MISSING);
}

static void
test_different_from_the_record (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  give_good (fixture, 0, "first", FINGERPRINT_A);
  judge_and_record (fixture);
  give_good (fixture, 1, "first", FINGERPRINT_B);
  g_assert_false (judge (fixture));
  assert_key (fixture, "label:first", KW_KEY_STATE_DIFFERENT, 1, TRUE,
              "On device B key label:first is another one (0b0b0b0b0b0b0b0b) than recorded "
              "(0a0a0a0a0a0a0a0a) and is not used; put the right key there, or run: keyward keys "
              "accept label:first");
  g_assert_cmpint (cell (fixture, 0, 0), ==, KW_KEY_STATE_OK);
  g_assert_cmpint (cell (fixture, 0, 1), ==, KW_KEY_STATE_DIFFERENT);
}

/* The wrong one alone on the bus is noticed too. */
static void
test_wrong_one_alone (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  give_good (fixture, 0, "first", FINGERPRINT_A);
  judge_and_record (fixture);
  g_ptr_array_set_size (fixture->devices[0].keys, 0);
  give_good (fixture, 0, "first", FINGERPRINT_B);
  g_assert_false (judge (fixture));
  g_assert_cmpint (cell (fixture, 0, 0), ==, KW_KEY_STATE_DIFFERENT);
  while (g_main_context_iteration (NULL, FALSE))
    ;
  g_assert_cmpuint (fixture->n_recorded, ==, 1);
}

static void
test_disagreement_records_nothing (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;

  give_good (fixture, 0, "first", FINGERPRINT_A);
  give_good (fixture, 1, "first", FINGERPRINT_B);
  give_good (fixture, 2, "first", FINGERPRINT_B);
  g_assert_false (judge (fixture));
  assert_key (
      fixture, "label:first", KW_KEY_STATE_DIFFERENT, 0, FALSE,
      "The devices have different keys as key label:first: A has 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a, B has "
      "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b, C has 0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b; it is not used. Unplug what is wrong, or "
      "run: keyward keys accept label:first --fingerprint HEX");
  /* The administrator says which one is right. */
  g_assert_true (kw_keyring_accept (fixture->keyring, "label:first",
                                    "0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B", &error));
  g_assert_true (kw_keyring_load (fixture->keyring, NULL, NULL));
  g_assert_false (judge (fixture));
  g_assert_cmpint (cell (fixture, 0, 0), ==, KW_KEY_STATE_DIFFERENT);
  g_assert_cmpint (cell (fixture, 0, 1), ==, KW_KEY_STATE_OK);
  g_assert_cmpuint (fixture->n_recorded, ==, 0);
}

static void
test_waits_for_all_to_settle (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  give_good (fixture, 0, "first", FINGERPRINT_A);
  fixture->n_devices = 2;
  fixture->devices[1].settled = FALSE;
  fixture->devices[1].checked = FALSE;
  fixture->devices[1].ready = FALSE;
  g_assert_true (judge (fixture));
  assert_key (fixture, "label:first", KW_KEY_STATE_UNCHECKED, 0, FALSE, NULL);
  g_assert_cmpuint (fixture->n_recorded, ==, 0);
  /* And then the other one has another key. */
  give_good (fixture, 1, "first", FINGERPRINT_B);
  fixture->devices[1].settled = fixture->devices[1].checked = fixture->devices[1].ready = TRUE;
  g_assert_false (judge (fixture));
  g_assert_cmpint (cell (fixture, 0, 0), ==, KW_KEY_STATE_DIFFERENT);
  g_assert_cmpint (cell (fixture, 0, 1), ==, KW_KEY_STATE_DIFFERENT);
}

static void
test_min_copies (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const char *const ids[] = { "label:first", NULL };

  set_keys (fixture->keyring, ids, TRUE, 2);
  give_good (fixture, 0, "first", FINGERPRINT_A);
  judge_and_record (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_OK, 1, FALSE,
              "Key label:first is on 1 ready device, and min_copies is 2: nothing is encrypted "
              "until more devices have it");
  give_good (fixture, 1, "first", FINGERPRINT_A);
  judge (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_OK, 2, TRUE, NULL);
  fixture->devices[0].ready = FALSE;
  judge (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_OK, 1, FALSE,
              "Key label:first is on 1 ready device, and min_copies is 2: nothing is encrypted "
              "until more devices have it");
}

static void
test_weak (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const guint both = KW_KEY_USAGE_ENCRYPT | KW_KEY_USAGE_DECRYPT;

  give (fixture, 0, "first", FINGERPRINT_A, (KwKeyUsage) both, "firmware 3.1 made it");
  give (fixture, 0, "old", FINGERPRINT_B, (KwKeyUsage) both, "firmware 3.1 made it");
  judge_and_record (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_WEAK, 1, FALSE,
              "Key label:first is weak and may only decrypt: firmware 3.1 made it; make a new key "
              "and put it first in hsm_keyid");
  assert_key (fixture, "label:old", KW_KEY_STATE_WEAK, 1, FALSE, "firmware 3.1 made it");
}

/* That another device has another key does not make a weak one better. */
static void
test_weak_and_different (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const guint both = KW_KEY_USAGE_ENCRYPT | KW_KEY_USAGE_DECRYPT;
  g_autoptr (KwKeyMatrix) matrix = NULL;
  const KwKeyFacts *facts = NULL;

  give (fixture, 0, "first", FINGERPRINT_A, (KwKeyUsage) both, "firmware 3.1 made it");
  judge_and_record (fixture);
  give_good (fixture, 1, "first", FINGERPRINT_B);
  judge (fixture);
  matrix = kw_keyring_ref_matrix (fixture->keyring);
  facts = kw_key_matrix_find_key (matrix, "label:first");
  g_assert_cmpint (facts->state, ==, KW_KEY_STATE_DIFFERENT);
  g_assert_false (facts->may_encrypt);
}

static void
test_usage (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  give (fixture, 0, "first", FINGERPRINT_A, KW_KEY_USAGE_ENCRYPT, NULL);
  give (fixture, 0, "old", NULL, KW_KEY_USAGE_DECRYPT, NULL);
  judge_and_record (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_UNCHECKED, 0, FALSE,
              "The key may not both encrypt and decrypt by CBC; make one that may");
  assert_key (fixture, "label:old", KW_KEY_STATE_UNCHECKED, 0, FALSE,
              "The key may not both encrypt and decrypt by CBC; make one that may");
}

static void
test_ambiguous_label (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  give_good (fixture, 0, "first", FINGERPRINT_A);
  give_good (fixture, 0, "first", FINGERPRINT_A);
  judge (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_UNCHECKED, 0, FALSE,
              "The device has 2 AES keys label:first");
}

static void
test_encryption_switched_off (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const char *const ids[] = { "label:first", NULL };

  set_keys (fixture->keyring, ids, FALSE, 1);
  give_good (fixture, 0, "first", FINGERPRINT_A);
  judge_and_record (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_OK, 1, FALSE, NULL);
}

static void
test_no_devices (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwKeyMatrix) matrix = NULL;

  judge (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_UNCHECKED, 0, FALSE,
              "No device is there that could have it");
  matrix = kw_keyring_ref_matrix (fixture->keyring);
  g_assert_false (kw_key_matrix_is_green (matrix));
  g_assert_null (kw_key_matrix_find_key (matrix, "0"));
}

/* Two processes start at a time: what the first one recorded stands. */
static void
test_recorded_meanwhile (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwKeyring) other = kw_keyring_new (fixture->directory);

  g_assert_true (kw_keyring_accept (other, "label:first", FINGERPRINT_B, NULL));
  give_good (fixture, 0, "first", FINGERPRINT_A);
  judge_and_record (fixture);
  g_assert_cmpint (cell (fixture, 0, 0), ==, KW_KEY_STATE_DIFFERENT);
}

static void
test_record_survives (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  gboolean changed = FALSE;

  give_good (fixture, 0, "first", FINGERPRINT_A);
  judge_and_record (fixture);
  g_assert_true (kw_keyring_load (fixture->keyring, &changed, NULL));
  g_assert_false (changed);
  judge (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_OK, 1, TRUE, NULL);
}

/* What cannot be recorded is not used. */
static void
test_record_cannot_be_written (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *path
      = kw_test_write_file (fixture->directory, KW_STATE_FILE_KEYS, "nonsense", 0600);

  give_good (fixture, 0, "first", FINGERPRINT_A);
  for (guint i = 0; i < 50; i++)
    {
      judge (fixture);
      g_main_context_iteration (NULL, FALSE);
      g_usleep (1000);
    }
  assert_key (fixture, "label:first", KW_KEY_STATE_UNCHECKED, 0, FALSE, NULL);
  g_assert_cmpuint (fixture->n_recorded, ==, 0);
  /* The last attempt may still be under way, and what is judged meanwhile begins no other. */
  kw_iterate_until (!kw_keyring_is_recording (fixture->keyring));
  g_assert_cmpint (g_unlink (path), ==, 0);
  judge_and_record (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_OK, 1, TRUE, NULL);
}

static void
test_forget_configured (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  gboolean known = FALSE;

  give_good (fixture, 0, "first", FINGERPRINT_A);
  judge_and_record (fixture);
  g_ptr_array_set_size (fixture->devices[0].keys, 0);
  give_good (fixture, 0, "first", FINGERPRINT_B);
  g_assert_true (kw_keyring_forget_configured (fixture->keyring, "label:first", &known, NULL));
  g_assert_true (known);
  g_assert_true (kw_keyring_forget_configured (fixture->keyring, "label:first", &known, NULL));
  g_assert_false (known);
  g_assert_true (kw_keyring_load (fixture->keyring, &known, NULL));
  g_assert_true (known);
  judge_and_record (fixture);
  assert_key (fixture, "label:first", KW_KEY_STATE_OK, 1, TRUE, NULL);
}

static void
test_accept_refuses (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const char *const texts[]
      = { "", "0a", FINGERPRINT_A "0a", "xx0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a" };
  gboolean known = FALSE;

  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_false (kw_keyring_accept (fixture->keyring, "0", texts[i], &error));
      kw_assert_error (error, KW_ERROR_INVALID_ARGUMENT,
                       "A fingerprint of an AES key is 32 digits in hex");
    }
  g_free (kw_test_write_file (fixture->directory, KW_STATE_FILE_KEYS, "nonsense", 0600));
  g_assert_false (kw_keyring_accept (fixture->keyring, "0", FINGERPRINT_A, NULL));
  g_assert_false (kw_keyring_forget_configured (fixture->keyring, "0", &known, NULL));
}

static void
test_rsa_keys (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwKeyMatrix) matrix = NULL;
  g_autoptr (GPtrArray) different = NULL;
  g_autoptr (GPtrArray) admitted = NULL;
  const KwKeyFacts *facts = NULL;

  g_ptr_array_add (fixture->devices[0].keys, kw_fake_key_new ("0123456789abcdef", "material"));
  g_ptr_array_add (fixture->devices[0].keys, kw_fake_key_new ("a", "material"));
  admitted = kw_keyring_admit (fixture->keyring, fixture->devices[0].keys, &different, NULL);
  g_ptr_array_add (fixture->devices[1].different, kw_fake_key_new ("0123456789abcdef", "other"));
  g_ptr_array_add (fixture->devices[1].keys, kw_fake_key_new ("a", "material"));
  fixture->n_devices = 3;
  fixture->devices[2].checked = FALSE;
  judge (fixture);
  matrix = kw_keyring_ref_matrix (fixture->keyring);
  g_assert_cmpuint (kw_key_matrix_get_n_keys (matrix), ==, 4);
  facts = kw_key_matrix_find_key (matrix, "30313233-3435-3637-3839-616263646566");
  g_assert_cmpint (facts->state, ==, KW_KEY_STATE_DIFFERENT);
  g_assert_cmpuint (facts->n_copies, ==, 1);
  g_assert_false (facts->configured);
  g_assert_nonnull (strstr (facts->advice, "On device B key 30313233-"));
  g_assert_cmpint (cell (fixture, 2, 0), ==, KW_KEY_STATE_OK);
  g_assert_cmpint (cell (fixture, 2, 1), ==, KW_KEY_STATE_DIFFERENT);
  g_assert_cmpint (cell (fixture, 2, 2), ==, KW_KEY_STATE_UNCHECKED);
  g_assert_cmpint (kw_key_matrix_find_key (matrix, "61")->state, ==, KW_KEY_STATE_OK);
}

/* The main loop must not be held up by a token full of RSA keys. */
static void
test_many_rsa_keys (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  gint64 start = 0;

  for (guint i = 0; i < 20000; i++)
    {
      g_autofree char *id = g_strdup_printf ("%016u", i);

      for (guint j = 0; j < 2; j++)
        g_ptr_array_add (fixture->devices[j].keys, kw_fake_key_new (id, "material"));
    }
  fixture->n_devices = 2;
  start = g_get_monotonic_time ();
  judge (fixture);
  judge (fixture);
  /* Far less than a comparison of each with each would take. */
  g_assert_cmpint (g_get_monotonic_time () - start, <, 10 * G_TIME_SPAN_SECOND);
}

static void
test_configured_keys_are_told (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  GPtrArray *keys = fixture->devices[0].keys;
  g_autoptr (GPtrArray) configured = NULL;

  give_good (fixture, 0, "first", NULL);
  give_good (fixture, 0, "another", NULL);
  configured = kw_keyring_dup_configured (fixture->keyring, keys);
  g_assert_cmpuint (configured->len, ==, 1);
  g_assert_true (g_ptr_array_index (configured, 0) == g_ptr_array_index (keys, 0));
}

static void
test_state_nicks (void)
{
  KwKeyState state = KW_N_KEY_STATES;

  for (guint i = 0; i < KW_N_KEY_STATES; i++)
    {
      g_assert_true (kw_key_state_from_string (kw_key_state_to_string ((KwKeyState) i), &state));
      g_assert_cmpint (state, ==, i);
    }
  g_assert_false (kw_key_state_from_string ("good", &state));
}

static void
add (const char *path, void (*test) (Fixture *, gconstpointer))
{
  g_test_add (path, Fixture, NULL, set_up, test, tear_down);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  kw_test_keep_quiet ();
  add ("/matrix/two-alike", test_two_alike);
  add ("/matrix/changed-is-told-once", test_changed_is_told_once);
  add ("/matrix/missing", test_missing);
  add ("/matrix/different-from-the-record", test_different_from_the_record);
  add ("/matrix/wrong-one-alone", test_wrong_one_alone);
  add ("/matrix/disagreement-records-nothing", test_disagreement_records_nothing);
  add ("/matrix/waits-for-all-to-settle", test_waits_for_all_to_settle);
  add ("/matrix/min-copies", test_min_copies);
  add ("/matrix/weak", test_weak);
  add ("/matrix/weak-and-different", test_weak_and_different);
  add ("/matrix/usage", test_usage);
  add ("/matrix/ambiguous-label", test_ambiguous_label);
  add ("/matrix/encryption-switched-off", test_encryption_switched_off);
  add ("/matrix/no-devices", test_no_devices);
  add ("/matrix/recorded-meanwhile", test_recorded_meanwhile);
  add ("/matrix/record-survives", test_record_survives);
  add ("/matrix/record-cannot-be-written", test_record_cannot_be_written);
  add ("/matrix/forget-configured", test_forget_configured);
  add ("/matrix/accept-refuses", test_accept_refuses);
  add ("/matrix/rsa-keys", test_rsa_keys);
  add ("/matrix/many-rsa-keys", test_many_rsa_keys);
  add ("/matrix/configured-keys-are-told", test_configured_keys_are_told);
  g_test_add_func ("/matrix/state-nicks", test_state_nicks);
  return g_test_run ();
}
