/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "card-apdu.h"
#include "card-crypto.h"

#include <gio/gio.h>

G_BEGIN_DECLS

/** CARD_NEVER: no command will have that effect */
#define CARD_NEVER (-1)

/** CARD_MAX_DELAY_MS: longest delay that can be asked for, in milliseconds */
#define CARD_MAX_DELAY_MS 600000

/** CARD_MAX_FAULTS: rules at a time */
#define CARD_MAX_FAULTS 64

/**
 * CardFaults:
 * @rules: commands that are answered with a status word and nothing else
 * @delay_ms: how long cryptographic commands take at least, in milliseconds
 * @realistic: they take as long as on a real card instead
 * @drop_after: commands until the card is pulled out, or %CARD_NEVER
 * @freeze_after: commands until it answers no more, or %CARD_NEVER
 * @corrupt_after: commands until its answers are garbage, or %CARD_NEVER
 * @random: what garbage is made of
 * @n_applied: how often a rule was applied
 *
 * What is to go wrong.
 */
typedef struct
{
  GArray *rules;
  guint delay_ms;
  gboolean realistic;
  gint64 drop_after;
  gint64 freeze_after;
  gint64 corrupt_after;
  CardRandom *random;
  guint64 n_applied;
} CardFaults;

CardFaults *card_faults_new (void);

void card_faults_seed (CardFaults *self, guint64 seed);

void card_faults_free (CardFaults *self);

gboolean card_faults_add_rule (CardFaults *self, const char *text, GError **error);

void card_faults_clear_rules (CardFaults *self);

gboolean card_faults_match (CardFaults *self, const guint8 *apdu, gsize size, guint16 *out_status);

gboolean card_faults_set_delay (CardFaults *self, const char *text, GError **error);

guint
card_faults_get_delay_ms (const CardFaults *self, const guint8 *apdu, gsize size, GBytes *response);

gboolean card_faults_count_down (gint64 *commands);

GBytes *card_faults_corrupt (CardFaults *self, GBytes *response);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (CardFaults, card_faults_free)

G_END_DECLS
