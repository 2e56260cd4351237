/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* libFuzzer target: a row of commands to the virtual card. An input is a byte that says in which state the card is, and then
 * commands, each with its length in two bytes before it. */

#include "card-dkek.h"
#include "card-fixture.h"

#include <string.h>

/* Commands of one input: more would only be slow. */
#define MAX_COMMANDS 64

typedef enum
{
  START_BLANK,
  START_LOGGED_OUT,
  START_LOGGED_IN,
  START_LARGE, /* logged in, with a file that fills an answer */
  N_STARTS,
} Start;

int LLVMFuzzerTestOneInput (const guint8 *data, gsize size);

static CardKey *rsa_key;

/* RSA keys cost the time of thousands of commands. */
static CardKey *
give_rsa_key (G_GNUC_UNUSED guint bits, G_GNUC_UNUSED gpointer user_data)
{
  return card_key_new_rsa_from_pair (rsa_key->pair);
}

static const CardOptions small
    = { .version_major = 3, .version_minor = 5, .memory = 8 * 1024, .rsa_source = give_rsa_key };
static const CardOptions large
    = { .version_major = 3, .version_minor = 5, .memory = 192 * 1024, .rsa_source = give_rsa_key };

static const CardOptions *
get_options (Start start)
{
  return start == START_LARGE ? &large : &small;
}

static void
write_large_file (Card *card)
{
  guint8 data[CARD_TEST_MAX_DATA] = { 0x54, 0x02, 0x00, 0x00, 0x53, 0x82, 0xFF, 0xF7 };
  g_autoptr (GBytes) write = card_test_make_apdu ("00D7C901", data, sizeof data, "");

  g_bytes_unref (card_test_send_bytes (card, write, 0x9000));
  card_test_expect (card, "00D7C901 0C 5402FFF7 5306 010203040506", 0x9000);
}

/* A card with a key of each kind, a description and data, as bytes that each input begins with. */
static GBytes *
make_state (Start start)
{
  g_autoptr (Card) card = NULL;
  g_autoptr (GBytes) make_ec = NULL;
  GBytes *state;

  if (start == START_BLANK)
    {
      card = card_new (&small);
      return card_dup_state (card);
    }
  card = card_test_new (2);
  make_ec = card_test_make_ec_command (2, "prime256v1");
  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  card_test_make_rsa (card, 1, 1024);
  g_bytes_unref (card_test_send_bytes (card, make_ec, 0x9000));
  card_test_expect (card, "00480FB2 06 910410111892", 0x9000);
  card_test_expect (card, "00D7C401 09 54020000 5303 010203", 0x9000);
  card_test_expect (card, "00D7CD01 09 54020000 5303 010203", 0x9000);
  if (start == START_LARGE)
    write_large_file (card);
  state = card_dup_state (card);
  return state;
}

/* PINs may count down, whatever the answer is. */
static gboolean
may_count (guint8 ins)
{
  return ins == 0x20 || ins == 0x24 || ins == 0x2C || ins == 0x50;
}

static void
run_command (Card *card, const guint8 *apdu, gsize size)
{
  g_autoptr (GBytes) answer = card_process (card, apdu, size);
  gsize answer_size;
  const guint8 *bytes = g_bytes_get_data (answer, &answer_size);
  gboolean changed = card_take_change (card);
  guint8 status;

  g_assert (answer_size >= CARD_STATUS_SIZE && answer_size <= CARD_MAX_RESPONSE);
  status = bytes[answer_size - 2];
  g_assert (status >= 0x60 && (status & 0xF0) != 0x70);
  if (changed && status != 0x90)
    g_assert (size >= 2 && may_count (apdu[1]));
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  static GBytes *states[N_STARTS];
  Start start;
  g_autoptr (Card) card = NULL;
  g_autoptr (Card) copy = NULL;
  g_autoptr (GBytes) state = NULL;
  g_autoptr (GBytes) state_of_copy = NULL;

  if (!rsa_key)
    {
      rsa_key = card_key_generate_rsa (1024, (const guint8 *) "\1\0\1", 3);
      for (guint i = 0; i < N_STARTS; i++)
        states[i] = make_state (i);
    }
  if (size == 0)
    return 0;

  start = data[0] % N_STARTS;
  card = card_new_from_state (get_options (start), states[start], NULL);
  g_assert (card);
  if (start == START_LOGGED_IN || start == START_LARGE)
    card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  data++;
  size--;

  for (guint i = 0; i < MAX_COMMANDS && size >= 2; i++)
    {
      gsize length = (gsize) data[0] << 8 | data[1];

      data += 2;
      size -= 2;
      length = MIN (length, size);
      run_command (card, data, length);
      data += length;
      size -= length;
    }

  /* What is kept can be read back, and is the same. */
  state = card_dup_state (card);
  copy = card_new_from_state (get_options (start), state, NULL);
  g_assert (copy);
  state_of_copy = card_dup_state (copy);
  g_assert (g_bytes_equal (state, state_of_copy));
  return 0;
}
