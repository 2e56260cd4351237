/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "card-key.h"

G_BEGIN_DECLS

/** CARD_DKEK_SIZE: bytes of a device key encryption key, and of a share of it */
#define CARD_DKEK_SIZE 32

/** CARD_KCV_SIZE: bytes of a key check value */
#define CARD_KCV_SIZE 8

/** CARD_BLOB_RANDOM_SIZE: random bytes at the begin of what a blob encrypts */
#define CARD_BLOB_RANDOM_SIZE 8

/** CARD_MAX_BLOB: longest wrapped key that is looked at, in bytes; one of RSA-4096 has about 2,000 */
#define CARD_MAX_BLOB 4096

void card_dkek_get_check_value (const guint8 dkek[CARD_DKEK_SIZE],
                                guint8 out_check_value[CARD_KCV_SIZE]);

void card_dkek_derive (const guint8 dkek[CARD_DKEK_SIZE],
                       guint8 out_encryption_key[CARD_SHA256_SIZE],
                       guint8 out_mac_key[CARD_SHA256_SIZE]);

GBytes *card_dkek_wrap (const guint8 dkek[CARD_DKEK_SIZE],
                        const CardKey *key,
                        const guint8 random[CARD_BLOB_RANDOM_SIZE]);

CardKey *card_dkek_unwrap (const guint8 dkek[CARD_DKEK_SIZE], const guint8 *blob, gsize size);

G_END_DECLS
