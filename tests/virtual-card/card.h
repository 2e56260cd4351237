/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "card-apdu.h"
#include "card-key.h"

G_BEGIN_DECLS

/** CARD_MIN_SERIAL, CARD_MAX_SERIAL: characters of a serial number; five more make the name in the card's certificate */
#define CARD_MIN_SERIAL 3
#define CARD_MAX_SERIAL 11

/** CARD_DEFAULT_MEMORY: what keys and files may take together, in bytes: about 60 RSA-2048 keys with their
 * requests and descriptions, some 2,000 bytes each, as on a 4K card */
#define CARD_DEFAULT_MEMORY (118 * 1024)

/** CARD_MAX_MEMORY: most that can be asked for; the state of such a card is still read */
#define CARD_MAX_MEMORY (8 * 1024 * 1024)

/**
 * CardRsaSource:
 * @bits: size of the modulus that is wanted
 * @user_data: what was given with it
 *
 * Gives an RSA key that was made beforehand.
 *
 * Returns: (transfer full) (nullable): a key nobody else has, or %NULL to have one made
 */
typedef CardKey *(*CardRsaSource) (guint bits, gpointer user_data);

/**
 * CardOptions:
 * @serial: serial number, two letters for a country and then letters and digits; (nullable): one is made up
 * @version_major: version of the applet, as the card tells it
 * @version_minor: second part of it
 * @memory: what keys and files may take together, in bytes
 * @seed: (nullable): number that random bytes are made from, for tests; %NULL for real ones
 * @needs_select: whether the applet answers only after it was selected, also after a reset
 * @rsa_source: (nullable): where RSA keys come from
 * @rsa_source_data: what it is given
 *
 * What a card is to be.
 */
typedef struct
{
  const char *serial;
  guint8 version_major;
  guint8 version_minor;
  gsize memory;
  const guint64 *seed;
  gboolean needs_select;
  CardRsaSource rsa_source;
  gpointer rsa_source_data;
} CardOptions;

/**
 * Card:
 *
 * A virtual SmartCard-HSM: what the applet does with each command, and what it keeps, with no input or output of its own. One
 * thread.
 */
typedef struct _Card Card;

Card *card_new (const CardOptions *options);

Card *card_new_from_state (const CardOptions *options, GBytes *state, GError **error);

void card_free (Card *self);

const char *card_get_serial (const Card *self);

void card_reset (Card *self);

GBytes *card_process (Card *self, const guint8 *apdu, gsize size);

GBytes *card_dup_state (const Card *self);

gboolean card_take_change (Card *self);

gboolean card_serial_is_valid (const char *serial);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Card, card_free)

G_END_DECLS
