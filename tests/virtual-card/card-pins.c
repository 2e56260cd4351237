/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* VERIFY, CHANGE REFERENCE DATA, RESET RETRY COUNTER, INITIALIZE DEVICE and GET CHALLENGE. */

#include "card-private.h"

#include "card-tlv.h"

#include <openssl/crypto.h>
#include <string.h>

#define USER_PIN 0x81
#define SO_PIN 0x88

#define RESET_WITH_NEW_PIN 0x00
#define RESET_COUNTER_ONLY 0x01

/* Largest challenge, in bytes. */
#define MAX_CHALLENGE 1024

static guint
tries_left (guint8 tries)
{
  return tries == 0 ? CARD_SW_PIN_BLOCKED : CARD_SW_TRIES_LEFT | MIN (tries, 15U);
}

/* What a wrong PIN costs. Who gives one is logged out as well. */
static guint
count_wrong_pin (Card *self, guint8 *tries)
{
  *tries -= 1;
  self->logged_in = FALSE;
  self->changed = TRUE;
  return tries_left (*tries);
}

static void
restore_tries (Card *self, guint8 *tries, guint8 max)
{
  if (*tries == max)
    return;
  *tries = max;
  self->changed = TRUE;
}

/* Compares the SO-PIN, and counts. */
static guint
check_so_pin (Card *self, const guint8 *so_pin)
{
  if (self->kept.so_tries == 0)
    return CARD_SW_PIN_BLOCKED;
  if (!card_equal (so_pin, CARD_SO_PIN_SIZE, self->kept.so_pin, CARD_SO_PIN_SIZE))
    return count_wrong_pin (self, &self->kept.so_tries);
  restore_tries (self, &self->kept.so_tries, CARD_MAX_SO_TRIES);
  return CARD_SW_OK;
}

static guint
verify_user_pin (Card *self, const CardApdu *apdu)
{
  CardPersistent *kept = &self->kept;

  if (apdu->size == 0)
    {
      if (self->logged_in)
        return CARD_SW_OK;
      if (kept->pin_tries == 0)
        return CARD_SW_PIN_BLOCKED;
      return kept->pin_is_transport ? CARD_SW_DATA_INVALIDATED : tries_left (kept->pin_tries);
    }

  if (kept->pin_tries == 0)
    return CARD_SW_PIN_BLOCKED;
  if (!card_equal (apdu->data, apdu->size, kept->pin, kept->pin_size))
    return count_wrong_pin (self, &kept->pin_tries);
  restore_tries (self, &kept->pin_tries, kept->pin_max_tries);
  /* A PIN for transport is good for being changed and nothing else. */
  if (kept->pin_is_transport)
    return CARD_SW_DATA_INVALIDATED;
  self->logged_in = TRUE;
  return CARD_SW_OK;
}

/* 00 20: says how many tries are left, or logs in. */
guint
card_command_verify (Card *self, const CardApdu *apdu, G_GNUC_UNUSED CardAnswer *answer)
{
  if (apdu->p1 != 0)
    return CARD_SW_WRONG_P1_P2;
  /* Others, such as 85 and 86 for fingerprints, must be unknown: else OpenSC takes the PIN to be entered at the reader. */
  if ((apdu->p2 != USER_PIN && apdu->p2 != SO_PIN) || !self->kept.initialized)
    return CARD_SW_REFERENCE_NOT_FOUND;

  if (apdu->p2 == USER_PIN)
    return verify_user_pin (self, apdu);
  if (apdu->size == 0)
    return tries_left (self->kept.so_tries);
  if (apdu->size != CARD_SO_PIN_SIZE)
    return CARD_SW_WRONG_LENGTH;
  return check_so_pin (self, apdu->data);
}

static gboolean
pin_size_is_good (gsize size)
{
  return size >= CARD_MIN_PIN && size <= CARD_MAX_PIN;
}

static void
set_pin (Card *self, const guint8 *pin, gsize size)
{
  OPENSSL_cleanse (self->kept.pin, sizeof self->kept.pin);
  memcpy (self->kept.pin, pin, size);
  self->kept.pin_size = size;
  self->kept.pin_tries = self->kept.pin_max_tries;
  self->kept.pin_is_transport = FALSE;
  self->changed = TRUE;
}

/* Old and new PIN stand one behind the other; where the old one ends, the card knows. */
static guint
change_user_pin (Card *self, const CardApdu *apdu)
{
  CardPersistent *kept = &self->kept;
  gsize old_size = kept->pin_size;

  if (kept->pin_tries == 0)
    return CARD_SW_PIN_BLOCKED;
  if (apdu->size < old_size || !card_equal (apdu->data, old_size, kept->pin, old_size))
    return count_wrong_pin (self, &kept->pin_tries);
  /* What is refused changes nothing, and so leaves the tries as they are. */
  if (!pin_size_is_good (apdu->size - old_size))
    return CARD_SW_WRONG_LENGTH;
  set_pin (self, apdu->data + old_size, apdu->size - old_size);
  return CARD_SW_OK;
}

/* 00 24: changes a PIN. */
guint
card_command_change_reference_data (Card *self,
                                    const CardApdu *apdu,
                                    G_GNUC_UNUSED CardAnswer *answer)
{
  guint status;

  if (apdu->p1 != 0)
    return CARD_SW_WRONG_P1_P2;
  if ((apdu->p2 != USER_PIN && apdu->p2 != SO_PIN) || !self->kept.initialized)
    return CARD_SW_REFERENCE_NOT_FOUND;
  if (apdu->size == 0)
    return CARD_SW_WRONG_LENGTH;
  if (apdu->p2 == USER_PIN)
    return change_user_pin (self, apdu);

  if (apdu->size != 2 * CARD_SO_PIN_SIZE)
    return CARD_SW_WRONG_LENGTH;
  status = check_so_pin (self, apdu->data);
  if (status != CARD_SW_OK)
    return status;
  memcpy (self->kept.so_pin, apdu->data + CARD_SO_PIN_SIZE, CARD_SO_PIN_SIZE);
  self->changed = TRUE;
  return CARD_SW_OK;
}

/* 00 2C: sets the user PIN, or its counter alone, with the SO-PIN. */
guint
card_command_reset_retry_counter (Card *self,
                                  const CardApdu *apdu,
                                  G_GNUC_UNUSED CardAnswer *answer)
{
  gsize pin_size;
  guint status;

  if (apdu->p1 != RESET_WITH_NEW_PIN && apdu->p1 != RESET_COUNTER_ONLY)
    return CARD_SW_WRONG_P1_P2;
  if (apdu->p2 != USER_PIN || !self->kept.initialized)
    return CARD_SW_REFERENCE_NOT_FOUND;
  if (!(self->kept.options[1] & CARD_OPTION_RESET_BY_SO_PIN))
    return CARD_SW_CONDITIONS_NOT_SATISFIED;
  if (apdu->size < CARD_SO_PIN_SIZE)
    return CARD_SW_WRONG_LENGTH;
  pin_size = apdu->size - CARD_SO_PIN_SIZE;
  if (apdu->p1 == RESET_WITH_NEW_PIN ? !pin_size_is_good (pin_size) : pin_size > 0)
    return CARD_SW_WRONG_LENGTH;

  status = check_so_pin (self, apdu->data);
  if (status != CARD_SW_OK)
    return status;
  if (apdu->p1 == RESET_WITH_NEW_PIN)
    set_pin (self, apdu->data + CARD_SO_PIN_SIZE, pin_size);
  else
    restore_tries (self, &self->kept.pin_tries, self->kept.pin_max_tries);
  self->logged_in = FALSE;
  return CARD_SW_OK;
}

/* What INITIALIZE may carry. */
enum
{
  PARAMETER_OPTIONS,
  PARAMETER_PIN,
  PARAMETER_SO_PIN,
  PARAMETER_TRIES,
  PARAMETER_SHARES,
  PARAMETER_DOMAINS,
  N_PARAMETERS,
};

static const struct
{
  guint16 tag;
  gsize min_size;
  gsize max_size;
  gboolean needed;
} parameters[N_PARAMETERS] = {
  [PARAMETER_OPTIONS] = { 0x80, 2, 2, TRUE },
  [PARAMETER_PIN] = { 0x81, CARD_MIN_PIN, CARD_MAX_PIN, TRUE },
  [PARAMETER_SO_PIN] = { 0x82, CARD_SO_PIN_SIZE, CARD_SO_PIN_SIZE, TRUE },
  [PARAMETER_TRIES] = { 0x91, 1, 1, TRUE },
  [PARAMETER_SHARES] = { 0x92, 1, 1, FALSE },
  [PARAMETER_DOMAINS] = { 0x97, 1, 1, FALSE },
};

/* Public-key authentication (93) and biometry (95, 96) are out of scope, and refused like anything unknown. */
static gboolean
parse_parameters (const CardApdu *apdu, CardTlv out_values[N_PARAMETERS])
{
  CardTlvReader reader = { apdu->data, apdu->size };
  CardTlv tlv;

  memset (out_values, 0, sizeof (CardTlv) * N_PARAMETERS);
  while (card_tlv_next (&reader, &tlv))
    {
      guint i = 0;

      while (i < N_PARAMETERS && parameters[i].tag != tlv.tag)
        i++;
      if (i == N_PARAMETERS || out_values[i].value || tlv.size < parameters[i].min_size
          || tlv.size > parameters[i].max_size)
        return FALSE;
      out_values[i] = tlv;
    }

  for (guint i = 0; i < N_PARAMETERS; i++)
    {
      if (parameters[i].needed && !out_values[i].value)
        return FALSE;
    }
  /* There is one key domain, number 0. */
  if (out_values[PARAMETER_DOMAINS].value && out_values[PARAMETER_DOMAINS].value[0] != 1)
    return FALSE;
  return reader.size == 0;
}

/* The shorter the PIN, the fewer the tries. */
static guint
max_tries_for (gsize pin_size)
{
  return pin_size < 7 ? 3 : pin_size < 8 ? 5 : 10;
}

/* 80 50: wipes the card and sets it up. The SO-PIN of the first time stays for good. */
guint
card_command_initialize (Card *self, const CardApdu *apdu, G_GNUC_UNUSED CardAnswer *answer)
{
  CardPersistent *kept = &self->kept;
  CardTlv values[N_PARAMETERS];
  guint8 tries;

  if (apdu->p1 != 0 || apdu->p2 != 0)
    return CARD_SW_WRONG_P1_P2;
  if (apdu->size == 0)
    return CARD_SW_WRONG_LENGTH;
  if (!parse_parameters (apdu, values))
    return CARD_SW_WRONG_DATA;
  tries = values[PARAMETER_TRIES].value[0];
  if (tries == 0 || tries > max_tries_for (values[PARAMETER_PIN].size))
    return CARD_SW_WRONG_DATA;

  if (kept->initialized)
    {
      guint status = check_so_pin (self, values[PARAMETER_SO_PIN].value);

      if (status != CARD_SW_OK)
        return status;
    }

  card_wipe (self);
  kept->initialized = TRUE;
  memcpy (kept->options, values[PARAMETER_OPTIONS].value, sizeof kept->options);
  memcpy (kept->so_pin, values[PARAMETER_SO_PIN].value, sizeof kept->so_pin);
  kept->so_tries = CARD_MAX_SO_TRIES;
  kept->pin_max_tries = tries;
  set_pin (self, values[PARAMETER_PIN].value, values[PARAMETER_PIN].size);
  kept->pin_is_transport = (kept->options[1] & CARD_OPTION_TRANSPORT_PIN) != 0;
  if (values[PARAMETER_SHARES].value)
    {
      kept->has_dkek = TRUE;
      kept->dkek_shares = values[PARAMETER_SHARES].value[0];
      kept->dkek_missing = kept->dkek_shares;
      /* Without shares the card makes a DKEK that nobody else has. */
      if (kept->dkek_shares == 0)
        card_random_fill (self->random, kept->dkek, sizeof kept->dkek);
    }
  return CARD_SW_OK;
}

/* 00 84: random bytes. */
guint
card_command_get_challenge (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  if (apdu->p1 != 0 || apdu->p2 != 0)
    return CARD_SW_WRONG_P1_P2;
  if (apdu->size > 0 || apdu->max_response == 0 || apdu->max_response > MAX_CHALLENGE)
    return CARD_SW_WRONG_LENGTH;

  g_byte_array_set_size (answer->data, (guint) apdu->max_response);
  card_random_fill (self->random, answer->data->data, apdu->max_response);
  return CARD_SW_OK;
}
