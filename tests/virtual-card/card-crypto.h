/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

#define CARD_AES_BLOCK_SIZE 16
#define CARD_SHA256_SIZE 32
#define CARD_CMAC_SIZE 16

/**
 * CardRandom:
 *
 * Where a card's random bytes come from: the system, or for tests that have to be repeatable, a stream made from a
 * number.
 */
typedef struct _CardRandom CardRandom;

CardRandom *card_random_new (void);

CardRandom *card_random_new_seeded (guint64 seed, const char *purpose, guint64 start);

void card_random_free (CardRandom *self);

void card_random_fill (CardRandom *self, guint8 *bytes, gsize size);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (CardRandom, card_random_free)

void card_sha256 (const guint8 *data, gsize size, guint8 out_digest[CARD_SHA256_SIZE]);

void card_aes_cbc (const guint8 *key,
                   gsize key_size,
                   gboolean encrypt,
                   const guint8 *data,
                   gsize size,
                   guint8 *out_data);

void card_aes_cmac (const guint8 *key,
                    gsize key_size,
                    const guint8 *data,
                    gsize size,
                    guint8 out_mac[CARD_CMAC_SIZE]);

gboolean card_equal (const guint8 *a, gsize size_a, const guint8 *b, gsize size_b);

G_END_DECLS
