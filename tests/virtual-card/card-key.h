/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "card-crypto.h"

#include <openssl/evp.h>

G_BEGIN_DECLS

/** CARD_MAX_ALGORITHMS: entries in a key's list of permitted algorithms */
#define CARD_MAX_ALGORITHMS 32

/** CARD_MAX_FIELD_SIZE: bytes of the largest number of a key: an RSA modulus of 4,096 bits */
#define CARD_MAX_FIELD_SIZE 512

/** CARD_UNLIMITED_USES: a key without a use counter */
#define CARD_UNLIMITED_USES ((gint64) -1)

/**
 * CardKeyKind:
 *
 * What sort of key it is. The numbers stand in state files.
 */
typedef enum
{
  CARD_KEY_RSA = 1,
  CARD_KEY_EC = 2,
  CARD_KEY_AES = 3,
} CardKeyKind;

/**
 * CardCurve:
 * @name: name in libcrypto
 * @bits: bits of the field
 * @field_size: bytes of a coordinate
 * @parameters: p, a, b, G (04‖x‖y) and n, in the order of tags 81…85 of a CV certificate (BSI TR-03110-3, D.3.3)
 *
 * An elliptic curve that the card knows.
 */
typedef struct
{
  const char *name;
  guint bits;
  gsize field_size;
  GBytes *parameters[5];
} CardCurve;

/** CARD_DEVICE_CURVE: the curve of a card's own key */
#define CARD_DEVICE_CURVE "brainpoolP256r1"

const CardCurve *card_curve_find (const char *name);

const CardCurve *card_curve_find_by_parameters (const guint8 *const *values, const gsize *sizes);

gsize card_curve_list (const CardCurve *const **out_curves);

/**
 * CardKey:
 * @kind: what sort of key it is
 * @bits: bits of the modulus, the field or the key
 * @curve: for an EC key
 * @pair: for RSA and EC
 * @secret: for AES
 * @algorithms: algorithm ids that are permitted; every one when @n_algorithms is 0
 * @n_algorithms: how many
 * @uses_left: how often it may still be used, or %CARD_UNLIMITED_USES
 *
 * A key on the card.
 */
typedef struct
{
  CardKeyKind kind;
  guint bits;
  const CardCurve *curve;
  EVP_PKEY *pair;
  guint8 secret[32];
  guint8 algorithms[CARD_MAX_ALGORITHMS];
  gsize n_algorithms;
  gint64 uses_left;
} CardKey;

/**
 * CardRsaNumbers:
 * @n: modulus
 * @e: public exponent
 * @d: private exponent
 * @p: a prime of @n, or %NULL together with @q
 * @q: the other one
 *
 * The numbers of an RSA key, big-endian.
 */
typedef struct
{
  GBytes *n;
  GBytes *e;
  GBytes *d;
  GBytes *p;
  GBytes *q;
} CardRsaNumbers;

void card_rsa_numbers_clear (CardRsaNumbers *numbers);

gboolean card_rsa_bits_are_known (guint bits);

CardKey *card_key_new_rsa (const CardRsaNumbers *numbers);

CardKey *
card_key_new_rsa_from_crt (const CardRsaNumbers *numbers, GBytes *dp, GBytes *dq, GBytes *inverse);

CardKey *card_key_new_rsa_from_pair (EVP_PKEY *pair);

CardKey *card_key_generate_rsa (guint bits, const guint8 *exponent, gsize exponent_size);

CardKey *card_key_new_ec (const CardCurve *curve, const guint8 *scalar, gsize size);

CardKey *card_key_generate_ec (const CardCurve *curve, CardRandom *random);

CardKey *card_key_new_aes (const guint8 *secret, gsize size);

void card_key_free (CardKey *self);

void card_key_get_rsa_numbers (const CardKey *self, CardRsaNumbers *out_numbers);

GBytes *card_key_get_ec_scalar (const CardKey *self);

GBytes *card_key_get_ec_point (const CardKey *self);

gboolean card_key_permits (const CardKey *self, guint8 algorithm);

gsize card_key_get_memory (const CardKey *self);

gsize card_key_get_memory_of (CardKeyKind kind, guint bits);

GBytes *card_key_rsa_raw (const CardKey *self, const guint8 *block, gsize size);

GBytes *card_key_rsa_sign (const CardKey *self, const EVP_MD *md, const guint8 *data, gsize size);

GBytes *
card_key_rsa_sign_pss (const CardKey *self, const EVP_MD *md, const guint8 *digest, gsize size);

GBytes *card_key_ecdsa (const CardKey *self, const guint8 *digest, gsize size);

GBytes *card_key_ecdsa_plain (const CardKey *self, const guint8 *data, gsize size);

GBytes *card_key_ecdh (const CardKey *self, const guint8 *point, gsize size);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (CardKey, card_key_free)

G_END_DECLS
