/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-fixture.h"

#include "card-crypto.h"

#include <gio/gio.h>
#include <string.h>

#define DIGEST_SIZE CARD_SHA256_SIZE

static const CardOptions options
    = { .version_major = 3, .version_minor = 5, .memory = CARD_DEFAULT_MEMORY };

/* A card with a key of each kind, files, spent tries and a share that is missing. */
static Card *
new_full (void)
{
  Card *card = card_test_new (2);
  g_autoptr (GBytes) make_ec = card_test_make_ec_command (2, "brainpoolP192r1");

  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  card_test_make_rsa (card, 1, 1024);
  g_bytes_unref (card_test_send_bytes (card, make_ec, 0x9000));
  card_test_expect (card, "804803B2 0C 9104101118929004 00000007", 0x9000);
  {
    /* A key that came without its primes. */
    g_autoptr (GBytes) blob = card_test_send (card, "80720192 000000", 0x9000);
    g_autoptr (GBytes) unwrap = card_test_make_apdu ("80740493", g_bytes_get_data (blob, NULL),
                                                     g_bytes_get_size (blob), "");

    g_bytes_unref (card_test_send_bytes (card, unwrap, 0x9000));
  }
  card_test_expect (card, "00D7C401 09 54020000 5303 010203", 0x9000);
  card_test_expect (card, "00D7C402 06 54020000 5300", 0x9000);
  card_test_expect (card, "0020008106 313131313131", 0x63C2);
  card_test_expect (card, "0020008808 3131313131313131", 0x63CE);
  return card;
}

static void
test_round_trip (void)
{
  g_autoptr (Card) card = new_full ();
  g_autoptr (GBytes) state = card_dup_state (card);
  g_autoptr (GError) error = NULL;
  g_autoptr (Card) copy = card_new_from_state (&options, state, &error);
  g_autoptr (GBytes) state_of_copy = NULL;

  g_assert_no_error (error);
  g_assert_nonnull (copy);
  state_of_copy = card_dup_state (copy);
  g_assert_true (g_bytes_equal (state, state_of_copy));
  g_assert_false (card_take_change (copy));
  g_assert_cmpstr (card_get_serial (copy), ==, CARD_TEST_SERIAL);
  card_test_expect (copy, "00200081", 0x63C2);
  card_test_expect (copy, "00200088", 0x63CE);
  card_test_expect (copy, "804803B2", 0x6982);
  card_test_expect (copy, CARD_TEST_LOGIN, 0x9000);
  for (guint id = 1; id <= 4; id += 3)
    {
      guint8 block[128] = { 0, 1 };
      g_autofree char *header = g_strdup_printf ("8068%02X20", id);
      g_autoptr (GBytes) sign = card_test_make_apdu (header, block, sizeof block, "0200");

      g_bytes_unref (card_test_send_bytes (copy, sign, 0x9000));
    }
}

static void
test_blank (void)
{
  g_autoptr (Card) card = card_test_new_blank ();
  g_autoptr (GBytes) state = card_dup_state (card);
  g_autoptr (Card) copy = card_new_from_state (&options, state, NULL);

  g_assert_nonnull (copy);
  card_test_expect (copy, "00200081", 0x6A88);
}

static void
test_other_serial (void)
{
  g_autoptr (Card) card = card_test_new_blank ();
  g_autoptr (GBytes) state = card_dup_state (card);
  CardOptions other = options;
  g_autoptr (GError) error = NULL;

  other.serial = "VTOTHER";
  g_assert_null (card_new_from_state (&other, state, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT);
  g_assert_cmpstr (error->message, ==, "this is the state of card VTTEST01, not of VTOTHER");
}

static void
assert_refused (gconstpointer bytes, gsize size, const char *wanted)
{
  g_autoptr (GBytes) state = g_bytes_new (bytes, size);
  g_autoptr (GError) error = NULL;

  g_assert_null (card_new_from_state (&options, state, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA);
  if (wanted)
    g_assert_cmpstr (error->message, ==, wanted);
}

static void
test_damaged (void)
{
  g_autoptr (Card) card = new_full ();
  g_autoptr (GBytes) state = card_dup_state (card);
  gsize size = g_bytes_get_size (state);
  g_autofree guint8 *bytes = g_memdup2 (g_bytes_get_data (state, NULL), size);

  assert_refused ("", 0, "this is not the state of a virtual card");
  assert_refused ("something else that is long enough to be a state", 49,
                  "this is not the state of a virtual card");
  for (gsize i = 0; i < size; i++)
    {
      bytes[i] ^= 0x10;
      assert_refused (bytes, size,
                      i < 4 ? "this is not the state of a virtual card"
                            : "the state is damaged: its checksum does not fit");
      bytes[i] ^= 0x10;
      assert_refused (bytes, i, NULL);
    }
}

static void
set_digest (guint8 *bytes, gsize size)
{
  card_sha256 (bytes, size - DIGEST_SIZE, bytes + size - DIGEST_SIZE);
}

static void
test_other_version (void)
{
  g_autoptr (Card) card = card_test_new_blank ();
  g_autoptr (GBytes) state = card_dup_state (card);
  gsize size = g_bytes_get_size (state);
  g_autofree guint8 *bytes = g_memdup2 (g_bytes_get_data (state, NULL), size);

  bytes[4] = 9;
  set_digest (bytes, size);
  assert_refused (bytes, size, "the state has version 9, this program knows version 2");
}

/* A state of the version before lacks the eight bytes that count starts, behind the DKEK. */
static void
test_version_before (void)
{
  g_autoptr (Card) card = card_test_new (2);
  g_autoptr (GBytes) state = card_dup_state (card);
  gsize size = g_bytes_get_size (state);
  g_autofree guint8 *bytes = g_memdup2 (g_bytes_get_data (state, NULL), size);
  /* Magic, version, serial, initialized, options, transport, PIN, tries (2), SO-PIN, tries, DKEK (3), DKEK. */
  const gsize at = 4 + 1 + 4 + 8 + 1 + 4 + 2 + 1 + 4 + 6 + 2 + 4 + 8 + 1 + 3 + 4 + 32;
  g_autoptr (GBytes) old_state = NULL;
  g_autoptr (GBytes) again = NULL;
  g_autoptr (Card) copy = NULL;
  g_autoptr (GError) error = NULL;

  memmove (bytes + at, bytes + at + 8, size - at - 8);
  bytes[4] = 1;
  set_digest (bytes, size - 8);
  old_state = g_bytes_new (bytes, size - 8);
  copy = card_new_from_state (&options, old_state, &error);
  g_assert_no_error (error);
  again = card_dup_state (copy);
  g_assert_true (g_bytes_equal (again, state));
}

/* With a seed, each start has its own stream of random bytes, and the number of starts is kept. */
static void
test_seeded_starts (void)
{
  static const guint64 seed = 4711;
  CardOptions seeded = options;
  g_autoptr (Card) card = card_test_new (0);
  g_autoptr (GBytes) state = card_dup_state (card);
  g_autoptr (GHashTable) challenges
      = g_hash_table_new_full (g_bytes_hash, g_bytes_equal, (GDestroyNotify) g_bytes_unref, NULL);

  seeded.seed = &seed;
  for (guint i = 0; i < 4; i++)
    {
      g_autoptr (Card) started = card_new_from_state (&seeded, state, NULL);
      g_autoptr (Card) same = card_new_from_state (&seeded, state, NULL);
      g_autoptr (GBytes) challenge = card_test_send (started, "00840000 20", 0x9000);
      g_autoptr (GBytes) challenge_of_same = card_test_send (same, "00840000 20", 0x9000);

      g_assert_true (g_bytes_equal (challenge, challenge_of_same));
      g_assert_true (g_hash_table_add (challenges, g_bytes_ref (challenge)));
      g_assert_true (card_take_change (started));
      g_clear_pointer (&state, g_bytes_unref);
      state = card_dup_state (started);
    }
}

/* With the checksum set right: nothing that is read can make the reader go astray. */
static void
test_changed_with_checksum (void)
{
  g_autoptr (Card) card = new_full ();
  g_autoptr (GBytes) state = card_dup_state (card);
  gsize size = g_bytes_get_size (state);
  g_autofree guint8 *bytes = g_memdup2 (g_bytes_get_data (state, NULL), size);
  guint n_refused = 0;

  for (gsize i = 5; i < size - DIGEST_SIZE; i++)
    {
      guint8 old = bytes[i];
      g_autoptr (GBytes) changed = NULL;
      g_autoptr (Card) copy = NULL;
      g_autoptr (GBytes) again = NULL;

      bytes[i] ^= i % 2 ? 0xFF : 0x01;
      set_digest (bytes, size);
      changed = g_bytes_new (bytes, size);
      copy = card_new_from_state (&options, changed, NULL);
      bytes[i] = old;
      if (!copy)
        {
          n_refused++;
          continue;
        }
      /* What is taken is kept just so. */
      again = card_dup_state (copy);
      g_assert_true (g_bytes_equal (again, changed));
    }
  g_assert_cmpuint (n_refused, >, 50);

  for (gsize cut = 5; cut < size - DIGEST_SIZE; cut += 7)
    {
      g_autofree guint8 *part = g_memdup2 (bytes, cut + DIGEST_SIZE);

      set_digest (part, cut + DIGEST_SIZE);
      assert_refused (part, cut + DIGEST_SIZE,
                      "the state is damaged: its fields do not fit together");
    }
}

/* Commands that are refused leave everything as it is. */
static void
test_refused_changes_nothing (void)
{
  g_autoptr (Card) card = new_full ();
  g_autoptr (GRand) random = g_rand_new_with_seed (20);
  g_autoptr (GBytes) state = NULL;

  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  state = card_dup_state (card);
  card_take_change (card);
  for (guint i = 0; i < 20000; i++)
    {
      static const guint8 instructions[] = { 0xA4, 0xB0, 0xB1, 0xD7, 0xE4, 0x58, 0x84, 0x46,
                                             0x48, 0x52, 0x62, 0x68, 0x72, 0x74, 0x78, 0x50 };
      guint8 bytes[64];
      gsize size = (gsize) g_rand_int_range (random, 0, sizeof bytes);
      g_autoptr (GBytes) answer = NULL;
      const guint8 *status;

      for (gsize j = 0; j < sizeof bytes; j++)
        bytes[j] = (guint8) g_rand_int (random);
      bytes[0] = i % 2 ? 0x00 : 0x80;
      bytes[1] = instructions[i % G_N_ELEMENTS (instructions)];
      bytes[4] = (guint8) (size > 5 ? size - 5 : 0);
      answer = card_process (card, bytes, size);
      status = (const guint8 *) g_bytes_get_data (answer, NULL) + g_bytes_get_size (answer) - 2;
      if (status[0] != 0x90 && status[0] != 0x62)
        g_assert_false (card_take_change (card));
      else if (card_take_change (card))
        g_clear_pointer (&state, g_bytes_unref);
      if (!state)
        state = card_dup_state (card);
    }
}

/* It fits into a frame, and ends with a status word of ISO/IEC 7816-4, 5.6. */
static void
assert_sound_answer (GBytes *answer)
{
  gsize size;
  const guint8 *bytes = g_bytes_get_data (answer, &size);
  guint8 high;

  g_assert_cmpuint (size, >=, CARD_STATUS_SIZE);
  g_assert_cmpuint (size, <=, CARD_MAX_RESPONSE);
  high = bytes[size - CARD_STATUS_SIZE];
  g_assert_true (high == 0x90 || high == 0x62 || high == 0x63 || (high >= 0x64 && high <= 0x6F));
}

/* Up to 64 KiB of anything get a status word, and change nothing when they are refused. PINs are another matter: they count. */
static void
test_any_bytes (void)
{
  g_autoptr (Card) card = new_full ();
  g_autoptr (GRand) random = g_rand_new_with_seed (21);
  g_autofree guint8 *bytes = g_malloc (65536);
  static const guint8 counting[] = { 0x20, 0x24, 0x2C, 0x50 };
  static const guint8 parameters[] = { 0x00, 0x10, 0x18, 0x20, 0x33, 0x92, 0x93 };

  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  for (guint i = 0; i < 600; i++)
    {
      gsize size = i < 512 ? 65536 - (gsize) g_rand_int_range (random, 0, 65536) : 65536;
      g_autoptr (GBytes) before = card_dup_state (card);
      g_autoptr (GBytes) answer = NULL;
      const guint8 *status;
      gsize answer_size;

      for (gsize j = 0; j < 65536; j += 4)
        {
          guint32 word = g_rand_int (random);

          memcpy (bytes + j, &word, 4);
        }
      bytes[0] = i % 2 ? 0x00 : 0x80;
      bytes[1] = (guint8) (i / 2);
      if (!memchr (counting, bytes[1], sizeof counting))
        {
          bytes[2] = (guint8) (i % 5);
          bytes[3] = parameters[i % G_N_ELEMENTS (parameters)];
        }
      if (size >= 7)
        {
          bytes[4] = 0;
          bytes[5] = (guint8) ((size - 7) >> 8);
          bytes[6] = (guint8) (size - 7);
        }
      answer = card_process (card, bytes, size);
      assert_sound_answer (answer);
      answer_size = g_bytes_get_size (answer);
      status = g_bytes_get_data (answer, NULL);
      status += answer_size - CARD_STATUS_SIZE;
      if (status[0] != 0x90 && status[0] != 0x62)
        {
          g_autoptr (GBytes) after = card_dup_state (card);

          g_assert_true (g_bytes_equal (before, after));
        }
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/card-state/round-trip", test_round_trip);
  g_test_add_func ("/card-state/blank", test_blank);
  g_test_add_func ("/card-state/other-serial", test_other_serial);
  g_test_add_func ("/card-state/damaged", test_damaged);
  g_test_add_func ("/card-state/other-version", test_other_version);
  g_test_add_func ("/card-state/version-before", test_version_before);
  g_test_add_func ("/card-state/seeded-starts", test_seeded_starts);
  g_test_add_func ("/card-state/changed-with-checksum", test_changed_with_checksum);
  g_test_add_func ("/card-state/refused-changes-nothing", test_refused_changes_nothing);
  g_test_add_func ("/card-state/any-bytes", test_any_bytes);
  return g_test_run ();
}
