/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-key.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>
#include <string.h>

/* What a key takes of the card's memory beside its numbers, in bytes. */
#define KEY_OVERHEAD 32

#define UNCOMPRESSED_POINT 0x04

G_DEFINE_AUTOPTR_CLEANUP_FUNC (BIGNUM, BN_clear_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (BN_CTX, BN_CTX_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (ECDSA_SIG, ECDSA_SIG_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EC_GROUP, EC_GROUP_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EC_POINT, EC_POINT_clear_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_PKEY, EVP_PKEY_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_PKEY_CTX, EVP_PKEY_CTX_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (OSSL_PARAM, OSSL_PARAM_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (OSSL_PARAM_BLD, OSSL_PARAM_BLD_free)

/* Those that OpenSC 0.23 knows, and the card with it. */
static const struct
{
  const char *name;
  int nid;
} curve_names[] = {
  { "prime192v1", NID_X9_62_prime192v1 },
  { "prime256v1", NID_X9_62_prime256v1 },
  { "secp384r1", NID_secp384r1 },
  { "secp521r1", NID_secp521r1 },
  { "secp192k1", NID_secp192k1 },
  { "secp256k1", NID_secp256k1 },
  { "brainpoolP192r1", NID_brainpoolP192r1 },
  { "brainpoolP224r1", NID_brainpoolP224r1 },
  { "brainpoolP256r1", NID_brainpoolP256r1 },
  { "brainpoolP320r1", NID_brainpoolP320r1 },
  { "brainpoolP384r1", NID_brainpoolP384r1 },
  { "brainpoolP512r1", NID_brainpoolP512r1 },
};

static const guint rsa_bits[] = { 1024, 1536, 2048, 3072, 4096 };

static GBytes *
number_to_bytes (const BIGNUM *number, gsize size)
{
  guint8 *bytes = g_malloc (size);

  if (BN_bn2binpad (number, bytes, (int) size) < 0)
    g_error ("a number is longer than it may be");
  return g_bytes_new_take (bytes, size);
}

static BIGNUM *
number_from_bytes (GBytes *bytes)
{
  gsize size;
  const guint8 *data = g_bytes_get_data (bytes, &size);

  return BN_bin2bn (data, (int) size, NULL);
}

static GBytes *
point_to_bytes (const EC_GROUP *group, const EC_POINT *point, gsize field_size)
{
  gsize size = 1 + 2 * field_size;
  guint8 *bytes = g_malloc (size);

  if (EC_POINT_point2oct (group, point, POINT_CONVERSION_UNCOMPRESSED, bytes, size, NULL) != size)
    g_error ("a point is longer than it may be");
  return g_bytes_new_take (bytes, size);
}

static CardCurve *
curve_new (const char *name, int nid)
{
  CardCurve *curve = g_new0 (CardCurve, 1);
  g_autoptr (EC_GROUP) group = EC_GROUP_new_by_curve_name (nid);
  g_autoptr (BIGNUM) p = BN_new ();
  g_autoptr (BIGNUM) a = BN_new ();
  g_autoptr (BIGNUM) b = BN_new ();
  const BIGNUM *n;

  if (!group || EC_GROUP_get_curve (group, p, a, b, NULL) != 1)
    g_error ("libcrypto does not know the curve %s", name);
  n = EC_GROUP_get0_order (group);

  curve->name = name;
  curve->bits = (guint) EC_GROUP_get_degree (group);
  curve->field_size = (curve->bits + 7) / 8;
  curve->parameters[0] = number_to_bytes (p, curve->field_size);
  curve->parameters[1] = number_to_bytes (a, curve->field_size);
  curve->parameters[2] = number_to_bytes (b, curve->field_size);
  curve->parameters[3] = point_to_bytes (group, EC_GROUP_get0_generator (group), curve->field_size);
  curve->parameters[4] = number_to_bytes (n, (gsize) BN_num_bytes (n));
  return curve;
}

/**
 * card_curve_list:
 * @out_curves: (out) (transfer none): all curves; they live as long as the program
 *
 * Returns: how many there are
 */
gsize
card_curve_list (const CardCurve *const **out_curves)
{
  static const CardCurve *curves[G_N_ELEMENTS (curve_names)];
  static gsize made;

  if (g_once_init_enter (&made))
    {
      for (guint i = 0; i < G_N_ELEMENTS (curve_names); i++)
        curves[i] = curve_new (curve_names[i].name, curve_names[i].nid);
      g_once_init_leave (&made, 1);
    }
  *out_curves = curves;
  return G_N_ELEMENTS (curves);
}

/**
 * card_curve_find:
 * @name: libcrypto's name of a curve
 *
 * Returns: (transfer none) (nullable): the curve
 */
const CardCurve *
card_curve_find (const char *name)
{
  const CardCurve *const *curves;
  gsize n_curves = card_curve_list (&curves);

  for (gsize i = 0; i < n_curves; i++)
    {
      if (g_str_equal (curves[i]->name, name))
        return curves[i];
    }
  return NULL;
}

static gboolean
number_is (GBytes *wanted, const guint8 *value, gsize size)
{
  gsize wanted_size;
  const guint8 *wanted_data = g_bytes_get_data (wanted, &wanted_size);

  while (size > wanted_size && value[0] == 0)
    {
      value++;
      size--;
    }
  while (wanted_size > size && wanted_data[0] == 0)
    {
      wanted_data++;
      wanted_size--;
    }
  return size == wanted_size && memcmp (wanted_data, value, size) == 0;
}

/**
 * card_curve_find_by_parameters:
 * @values: p, a, b, G and n
 * @sizes: bytes of each
 *
 * A curve is taken only when all its parameters are the known ones: keys on a curve of somebody's making would be weak.
 *
 * Returns: (transfer none) (nullable): the curve
 */
const CardCurve *
card_curve_find_by_parameters (const guint8 *const *values, const gsize *sizes)
{
  const CardCurve *const *curves;
  gsize n_curves = card_curve_list (&curves);

  for (gsize i = 0; i < n_curves; i++)
    {
      gboolean same = TRUE;

      for (guint j = 0; same && j < G_N_ELEMENTS (curves[i]->parameters); j++)
        same = number_is (curves[i]->parameters[j], values[j], sizes[j]);
      if (same)
        return curves[i];
    }
  return NULL;
}

static GBytes *
pair_get_number (EVP_PKEY *pair, const char *name, gsize size)
{
  g_autoptr (BIGNUM) number = NULL;
  BIGNUM *read = NULL;

  if (EVP_PKEY_get_bn_param (pair, name, &read) != 1)
    return NULL;
  number = read;
  BN_set_flags (number, BN_FLG_CONSTTIME);
  return number_to_bytes (number, size ? size : (gsize) BN_num_bytes (number));
}

void
card_rsa_numbers_clear (CardRsaNumbers *numbers)
{
  g_clear_pointer (&numbers->n, g_bytes_unref);
  g_clear_pointer (&numbers->e, g_bytes_unref);
  g_clear_pointer (&numbers->d, g_bytes_unref);
  g_clear_pointer (&numbers->p, g_bytes_unref);
  g_clear_pointer (&numbers->q, g_bytes_unref);
}

/**
 * card_rsa_bits_are_known:
 * @bits: size of a modulus
 *
 * Returns: whether the card makes and takes RSA keys of that size
 */
gboolean
card_rsa_bits_are_known (guint bits)
{
  for (guint i = 0; i < G_N_ELEMENTS (rsa_bits); i++)
    {
      if (rsa_bits[i] == bits)
        return TRUE;
    }
  return FALSE;
}

static CardKey *
key_new (CardKeyKind kind, guint bits)
{
  CardKey *self = g_new0 (CardKey, 1);

  self->kind = kind;
  self->bits = bits;
  self->uses_left = CARD_UNLIMITED_USES;
  return self;
}

/* Whether d undoes e modulo n, tried on the number 2. */
static gboolean
exponents_fit (const BIGNUM *n, const BIGNUM *e, BIGNUM *d, BN_CTX *context)
{
  g_autoptr (BIGNUM) power = BN_new ();
  g_autoptr (BIGNUM) two = BN_new ();

  BN_set_flags (d, BN_FLG_CONSTTIME);
  return BN_set_word (two, 2) == 1 && BN_mod_exp (power, two, e, n, context) == 1
         && BN_mod_exp (power, power, d, n, context) == 1 && BN_cmp (power, two) == 0;
}

/* Adds the primes and what is computed from them, if they belong to the modulus. */
static gboolean
push_primes (OSSL_PARAM_BLD *builder,
             const BIGNUM *n,
             const BIGNUM *d,
             const BIGNUM *p,
             const BIGNUM *q,
             BIGNUM *const *scratch,
             BN_CTX *context)
{
  BIGNUM *dp = scratch[0];
  BIGNUM *dq = scratch[1];
  BIGNUM *inverse = scratch[2];

  return BN_mul (dp, p, q, context) == 1 && BN_cmp (dp, n) == 0 && !BN_is_one (p) && !BN_is_one (q)
         && BN_sub (dp, p, BN_value_one ()) == 1 && BN_mod (dp, d, dp, context) == 1
         && BN_sub (dq, q, BN_value_one ()) == 1 && BN_mod (dq, d, dq, context) == 1
         && BN_mod_inverse (inverse, q, p, context)
         && OSSL_PARAM_BLD_push_BN (builder, OSSL_PKEY_PARAM_RSA_FACTOR1, p) == 1
         && OSSL_PARAM_BLD_push_BN (builder, OSSL_PKEY_PARAM_RSA_FACTOR2, q) == 1
         && OSSL_PARAM_BLD_push_BN (builder, OSSL_PKEY_PARAM_RSA_EXPONENT1, dp) == 1
         && OSSL_PARAM_BLD_push_BN (builder, OSSL_PKEY_PARAM_RSA_EXPONENT2, dq) == 1
         && OSSL_PARAM_BLD_push_BN (builder, OSSL_PKEY_PARAM_RSA_COEFFICIENT1, inverse) == 1;
}

static EVP_PKEY *
pair_from_parameters (const char *type, OSSL_PARAM_BLD *builder)
{
  g_autoptr (OSSL_PARAM) parameters = OSSL_PARAM_BLD_to_param (builder);
  g_autoptr (EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_name (NULL, type, NULL);
  EVP_PKEY *pair = NULL;

  if (!parameters || EVP_PKEY_fromdata_init (context) != 1
      || EVP_PKEY_fromdata (context, &pair, EVP_PKEY_KEYPAIR, parameters) != 1)
    return NULL;
  return pair;
}

/**
 * card_key_new_rsa:
 * @numbers: the key; the primes may be missing
 *
 * Makes a key from its numbers, after a look at whether they belong together.
 *
 * Returns: (transfer full) (nullable): the key, or %NULL when they do not, or its size is none of the card's
 */
CardKey *
card_key_new_rsa (const CardRsaNumbers *numbers)
{
  g_autoptr (CardKey) self = NULL;
  g_autoptr (BN_CTX) context = BN_CTX_secure_new ();
  g_autoptr (OSSL_PARAM_BLD) builder = OSSL_PARAM_BLD_new ();
  g_autoptr (BIGNUM) n = number_from_bytes (numbers->n);
  g_autoptr (BIGNUM) e = number_from_bytes (numbers->e);
  g_autoptr (BIGNUM) d = number_from_bytes (numbers->d);
  g_autoptr (BIGNUM) p = numbers->p ? number_from_bytes (numbers->p) : NULL;
  g_autoptr (BIGNUM) q = numbers->q ? number_from_bytes (numbers->q) : NULL;
  g_autoptr (BIGNUM) dp = BN_new ();
  g_autoptr (BIGNUM) dq = BN_new ();
  g_autoptr (BIGNUM) inverse = BN_new ();
  BIGNUM *const scratch[] = { dp, dq, inverse };
  guint bits = (guint) BN_num_bits (n);

  if (!card_rsa_bits_are_known (bits) || !BN_is_odd (n) || !BN_is_odd (e) || BN_is_one (e)
      || BN_cmp (e, n) >= 0 || BN_cmp (d, n) >= 0 || !exponents_fit (n, e, d, context))
    return NULL;

  if (OSSL_PARAM_BLD_push_BN (builder, OSSL_PKEY_PARAM_RSA_N, n) != 1
      || OSSL_PARAM_BLD_push_BN (builder, OSSL_PKEY_PARAM_RSA_E, e) != 1
      || OSSL_PARAM_BLD_push_BN (builder, OSSL_PKEY_PARAM_RSA_D, d) != 1)
    return NULL;
  if (p && q && !push_primes (builder, n, d, p, q, scratch, context))
    return NULL;

  self = key_new (CARD_KEY_RSA, bits);
  self->pair = pair_from_parameters ("RSA", builder);
  return self->pair ? g_steal_pointer (&self) : NULL;
}

/**
 * card_key_new_rsa_from_crt:
 * @numbers: modulus, public exponent and both primes
 * @dp: d mod (p − 1)
 * @dq: d mod (q − 1)
 * @inverse: q⁻¹ mod p
 *
 * Makes a key from the numbers of the Chinese remainder theorem (RFC 8017, 3.2).
 *
 * Returns: (transfer full) (nullable): the key, or %NULL when they do not belong together
 */
CardKey *
card_key_new_rsa_from_crt (const CardRsaNumbers *numbers, GBytes *dp, GBytes *dq, GBytes *inverse)
{
  g_autoptr (BN_CTX) context = BN_CTX_secure_new ();
  g_autoptr (BIGNUM) e = number_from_bytes (numbers->e);
  g_autoptr (BIGNUM) p = number_from_bytes (numbers->p);
  g_autoptr (BIGNUM) q = number_from_bytes (numbers->q);
  g_autoptr (BIGNUM) given_dp = number_from_bytes (dp);
  g_autoptr (BIGNUM) given_dq = number_from_bytes (dq);
  g_autoptr (BIGNUM) given_inverse = number_from_bytes (inverse);
  g_autoptr (BIGNUM) p_less = BN_new ();
  g_autoptr (BIGNUM) q_less = BN_new ();
  g_autoptr (BIGNUM) order = BN_new ();
  g_autoptr (BIGNUM) d = BN_new ();
  g_autoptr (BIGNUM) check = BN_new ();
  g_autoptr (GBytes) d_bytes = NULL;
  CardRsaNumbers whole = *numbers;

  if (BN_sub (p_less, p, BN_value_one ()) != 1 || BN_sub (q_less, q, BN_value_one ()) != 1
      || BN_is_zero (p_less) || BN_is_zero (q_less) || BN_is_negative (p_less)
      || BN_is_negative (q_less) || BN_mul (order, p_less, q_less, context) != 1
      || !BN_mod_inverse (d, e, order, context))
    return NULL;

  if (BN_mod (check, d, p_less, context) != 1 || BN_cmp (check, given_dp) != 0
      || BN_mod (check, d, q_less, context) != 1 || BN_cmp (check, given_dq) != 0
      || !BN_mod_inverse (check, q, p, context) || BN_cmp (check, given_inverse) != 0)
    return NULL;

  d_bytes = number_to_bytes (d, (gsize) BN_num_bytes (d));
  whole.d = d_bytes;
  return card_key_new_rsa (&whole);
}

/**
 * card_key_new_rsa_from_pair:
 * @pair: (transfer none): a key of libcrypto
 *
 * Returns: (transfer full) (nullable): the same key, or %NULL when it is no RSA pair of one of the card's sizes
 */
CardKey *
card_key_new_rsa_from_pair (EVP_PKEY *pair)
{
  CardRsaNumbers numbers = { 0 };
  CardKey *self = NULL;

  if (EVP_PKEY_is_a (pair, "RSA"))
    {
      numbers.n = pair_get_number (pair, OSSL_PKEY_PARAM_RSA_N, 0);
      numbers.e = pair_get_number (pair, OSSL_PKEY_PARAM_RSA_E, 0);
      numbers.d = pair_get_number (pair, OSSL_PKEY_PARAM_RSA_D, 0);
      numbers.p = pair_get_number (pair, OSSL_PKEY_PARAM_RSA_FACTOR1, 0);
      numbers.q = pair_get_number (pair, OSSL_PKEY_PARAM_RSA_FACTOR2, 0);
      if (numbers.n && numbers.e && numbers.d && numbers.p && numbers.q)
        self = card_key_new_rsa (&numbers);
      card_rsa_numbers_clear (&numbers);
    }
  return self;
}

/**
 * card_key_generate_rsa:
 * @bits: size of the modulus, one of the card's
 * @exponent: public exponent, big-endian
 * @exponent_size: bytes of it
 *
 * Returns: (transfer full) (nullable): a new key, or %NULL when libcrypto refuses the exponent
 */
CardKey *
card_key_generate_rsa (guint bits, const guint8 *exponent, gsize exponent_size)
{
  g_autoptr (CardKey) self = key_new (CARD_KEY_RSA, bits);
  g_autoptr (EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_name (NULL, "RSA", NULL);
  g_autoptr (BIGNUM) e = BN_bin2bn (exponent, (int) exponent_size, NULL);

  if (EVP_PKEY_keygen_init (context) != 1
      || EVP_PKEY_CTX_set_rsa_keygen_bits (context, (int) bits) != 1
      || EVP_PKEY_CTX_set1_rsa_keygen_pubexp (context, e) != 1
      || EVP_PKEY_generate (context, &self->pair) != 1)
    return NULL;
  return g_steal_pointer (&self);
}

/**
 * card_key_new_ec:
 * @curve: its curve
 * @scalar: private key, big-endian
 * @size: bytes of it
 *
 * Returns: (transfer full) (nullable): the key, or %NULL when @scalar is not between 1 and n − 1
 */
CardKey *
card_key_new_ec (const CardCurve *curve, const guint8 *scalar, gsize size)
{
  g_autoptr (CardKey) self = key_new (CARD_KEY_EC, curve->bits);
  g_autoptr (OSSL_PARAM_BLD) builder = OSSL_PARAM_BLD_new ();
  g_autoptr (EC_GROUP) group = EC_GROUP_new_by_curve_name (OBJ_sn2nid (curve->name));
  g_autoptr (EC_POINT) point = EC_POINT_new (group);
  g_autoptr (BIGNUM) d = BN_secure_new ();
  g_autoptr (GBytes) public_key = NULL;

  BN_bin2bn (scalar, (int) size, d);
  BN_set_flags (d, BN_FLG_CONSTTIME);
  if (BN_is_zero (d) || BN_cmp (d, EC_GROUP_get0_order (group)) >= 0
      || EC_POINT_mul (group, point, d, NULL, NULL, NULL) != 1)
    return NULL;
  public_key = point_to_bytes (group, point, curve->field_size);

  if (OSSL_PARAM_BLD_push_utf8_string (builder, OSSL_PKEY_PARAM_GROUP_NAME, curve->name, 0) != 1
      || OSSL_PARAM_BLD_push_BN (builder, OSSL_PKEY_PARAM_PRIV_KEY, d) != 1
      || OSSL_PARAM_BLD_push_octet_string (builder, OSSL_PKEY_PARAM_PUB_KEY,
                                           g_bytes_get_data (public_key, NULL),
                                           g_bytes_get_size (public_key))
             != 1)
    return NULL;

  self->curve = curve;
  self->pair = pair_from_parameters ("EC", builder);
  return self->pair ? g_steal_pointer (&self) : NULL;
}

/**
 * card_key_generate_ec:
 * @curve: the curve
 * @random: where the private key comes from
 *
 * Returns: (transfer full): a new key
 */
CardKey *
card_key_generate_ec (const CardCurve *curve, CardRandom *random)
{
  gsize order_size;
  const guint8 *order = g_bytes_get_data (curve->parameters[4], &order_size);
  guint8 scalar[CARD_MAX_FIELD_SIZE];
  CardKey *self;

  do
    {
      card_random_fill (random, scalar, order_size);
      /* Bits above the order's first would make most tries too large. */
      for (guint8 mask = 0x80; !(order[0] & mask); mask >>= 1)
        scalar[0] &= (guint8) ~mask;
      self = card_key_new_ec (curve, scalar, order_size);
    }
  while (!self);
  OPENSSL_cleanse (scalar, sizeof scalar);
  return self;
}

/**
 * card_key_new_aes:
 * @secret: the key
 * @size: 16, 24 or 32
 *
 * Returns: (transfer full) (nullable): the key, or %NULL when @size is none of these
 */
CardKey *
card_key_new_aes (const guint8 *secret, gsize size)
{
  CardKey *self;

  if (size != 16 && size != 24 && size != 32)
    return NULL;
  self = key_new (CARD_KEY_AES, (guint) size * 8);
  memcpy (self->secret, secret, size);
  return self;
}

void
card_key_free (CardKey *self)
{
  EVP_PKEY_free (self->pair);
  OPENSSL_cleanse (self, sizeof *self);
  g_free (self);
}

/**
 * card_key_get_rsa_numbers:
 * @self: an RSA key
 * @out_numbers: (out): its numbers; primes are %NULL when they are not known. Free with card_rsa_numbers_clear()
 */
void
card_key_get_rsa_numbers (const CardKey *self, CardRsaNumbers *out_numbers)
{
  *out_numbers = (CardRsaNumbers){
    .n = pair_get_number (self->pair, OSSL_PKEY_PARAM_RSA_N, self->bits / 8),
    .e = pair_get_number (self->pair, OSSL_PKEY_PARAM_RSA_E, 0),
    .d = pair_get_number (self->pair, OSSL_PKEY_PARAM_RSA_D, self->bits / 8),
    .p = pair_get_number (self->pair, OSSL_PKEY_PARAM_RSA_FACTOR1, 0),
    .q = pair_get_number (self->pair, OSSL_PKEY_PARAM_RSA_FACTOR2, 0),
  };
}

/**
 * card_key_get_ec_scalar:
 * @self: an EC key
 *
 * Returns: (transfer full): its private half, as long as the field
 */
GBytes *
card_key_get_ec_scalar (const CardKey *self)
{
  return pair_get_number (self->pair, OSSL_PKEY_PARAM_PRIV_KEY, self->curve->field_size);
}

/**
 * card_key_get_ec_point:
 * @self: an EC key
 *
 * Returns: (transfer full): its public half, as 04‖x‖y
 */
GBytes *
card_key_get_ec_point (const CardKey *self)
{
  gsize size = 1 + 2 * self->curve->field_size;
  guint8 *point = g_malloc (size);
  g_autoptr (GBytes) x
      = pair_get_number (self->pair, OSSL_PKEY_PARAM_EC_PUB_X, self->curve->field_size);
  g_autoptr (GBytes) y
      = pair_get_number (self->pair, OSSL_PKEY_PARAM_EC_PUB_Y, self->curve->field_size);

  point[0] = UNCOMPRESSED_POINT;
  memcpy (point + 1, g_bytes_get_data (x, NULL), self->curve->field_size);
  memcpy (point + 1 + self->curve->field_size, g_bytes_get_data (y, NULL), self->curve->field_size);
  return g_bytes_new_take (point, size);
}

/**
 * card_key_permits:
 * @self: the key
 * @algorithm: an algorithm id
 *
 * Returns: whether the key's list of permitted algorithms is empty or holds @algorithm
 */
gboolean
card_key_permits (const CardKey *self, guint8 algorithm)
{
  return self->n_algorithms == 0 || memchr (self->algorithms, algorithm, self->n_algorithms);
}

/**
 * card_key_get_memory_of:
 * @kind: what sort of key
 * @bits: bits of the modulus, the field or the key
 *
 * Returns: what such a key takes of the card's memory, in bytes
 */
gsize
card_key_get_memory_of (CardKeyKind kind, guint bits)
{
  gsize size = bits / 8;

  switch (kind)
    {
    case CARD_KEY_RSA: /* n, d, p, q, dp, dq, q⁻¹ */
      return KEY_OVERHEAD + size * 9 / 2;
    case CARD_KEY_EC: /* d, x, y */
      return KEY_OVERHEAD + size * 3;
    case CARD_KEY_AES:
    default:
      return KEY_OVERHEAD + size;
    }
}

/**
 * card_key_get_memory:
 * @self: the key
 *
 * Returns: what the key takes of the card's memory, in bytes
 */
gsize
card_key_get_memory (const CardKey *self)
{
  return card_key_get_memory_of (self->kind, self->bits);
}

/* Signs @data, which is a digest when @md is set. */
static GBytes *
rsa_sign (const CardKey *self, int padding, const EVP_MD *md, const guint8 *data, gsize size)
{
  g_autoptr (EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_pkey (NULL, self->pair, NULL);
  guint8 signature[CARD_MAX_FIELD_SIZE];
  gsize signature_size = sizeof signature;

  if (EVP_PKEY_sign_init (context) != 1 || EVP_PKEY_CTX_set_rsa_padding (context, padding) != 1
      || (md && EVP_PKEY_CTX_set_signature_md (context, md) != 1)
      || (padding == RSA_PKCS1_PSS_PADDING
          && EVP_PKEY_CTX_set_rsa_pss_saltlen (context, RSA_PSS_SALTLEN_DIGEST) != 1)
      || EVP_PKEY_sign (context, signature, &signature_size, data, size) != 1)
    return NULL;
  return g_bytes_new (signature, signature_size);
}

/**
 * card_key_rsa_raw:
 * @self: an RSA key
 * @block: a number
 * @size: bytes of it
 *
 * The private operation and nothing else (RFC 8017, 5.1.2), blinded by libcrypto.
 *
 * Returns: (transfer full) (nullable): the result, as long as the modulus; %NULL when @block is not as long, or not smaller
 */
GBytes *
card_key_rsa_raw (const CardKey *self, const guint8 *block, gsize size)
{
  if (size != self->bits / 8)
    return NULL;
  return rsa_sign (self, RSA_NO_PADDING, NULL, block, size);
}

/**
 * card_key_rsa_sign:
 * @self: an RSA key
 * @md: (nullable): digest that @data is, or %NULL when @data is what the padding goes around
 * @data: digest, or DigestInfo
 * @size: bytes of it
 *
 * Signs with PKCS#1 v1.5 padding (RFC 8017, 8.2).
 *
 * Returns: (transfer full) (nullable): the signature; %NULL when @data is too long
 */
GBytes *
card_key_rsa_sign (const CardKey *self, const EVP_MD *md, const guint8 *data, gsize size)
{
  return rsa_sign (self, RSA_PKCS1_PADDING, md, data, size);
}

/**
 * card_key_rsa_sign_pss:
 * @self: an RSA key
 * @md: the digest
 * @digest: what to sign
 * @size: bytes of it
 *
 * Signs with PSS (RFC 8017, 8.1): MGF1 with the same digest, and a salt as long as it.
 *
 * Returns: (transfer full) (nullable): the signature; %NULL when the modulus is too short for @md
 */
GBytes *
card_key_rsa_sign_pss (const CardKey *self, const EVP_MD *md, const guint8 *digest, gsize size)
{
  return rsa_sign (self, RSA_PKCS1_PSS_PADDING, md, digest, size);
}

/**
 * card_key_ecdsa:
 * @self: an EC key
 * @digest: what to sign; cut when longer than the order
 * @size: bytes of it
 *
 * Returns: (transfer full) (nullable): the signature as SEQUENCE of r and s, in DER
 */
GBytes *
card_key_ecdsa (const CardKey *self, const guint8 *digest, gsize size)
{
  g_autoptr (EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_pkey (NULL, self->pair, NULL);
  guint8 signature[CARD_MAX_FIELD_SIZE];
  gsize signature_size = sizeof signature;

  if (EVP_PKEY_sign_init (context) != 1
      || EVP_PKEY_sign (context, signature, &signature_size, digest, size) != 1)
    return NULL;
  return g_bytes_new (signature, signature_size);
}

/**
 * card_key_ecdsa_plain:
 * @self: an EC key
 * @data: what to sign
 * @size: bytes of it
 *
 * Signs with ECDSA and SHA-256 the way CV certificates want it (BSI TR-03110-3, D.3.1).
 *
 * Returns: (transfer full): r‖s, each as long as the field
 */
GBytes *
card_key_ecdsa_plain (const CardKey *self, const guint8 *data, gsize size)
{
  guint8 digest[CARD_SHA256_SIZE];
  g_autoptr (GBytes) der = NULL;
  g_autoptr (ECDSA_SIG) signature = NULL;
  gsize field_size = self->curve->field_size;
  gsize der_size;
  const guint8 *at;
  guint8 *plain;

  card_sha256 (data, size, digest);
  der = card_key_ecdsa (self, digest, sizeof digest);
  if (!der)
    g_error ("libcrypto does not sign with a sound EC key");
  at = g_bytes_get_data (der, &der_size);
  signature = d2i_ECDSA_SIG (NULL, &at, (long) der_size);

  plain = g_malloc (2 * field_size);
  if (BN_bn2binpad (ECDSA_SIG_get0_r (signature), plain, (int) field_size) < 0
      || BN_bn2binpad (ECDSA_SIG_get0_s (signature), plain + field_size, (int) field_size) < 0)
    g_error ("a signature is longer than its field");
  return g_bytes_new_take (plain, 2 * field_size);
}

/**
 * card_key_ecdh:
 * @self: an EC key
 * @point: the other side's public key, 04‖x‖y
 * @size: bytes of it
 *
 * Returns: (transfer full) (nullable): 04‖x of the shared point; %NULL when @point is not on the curve
 */
GBytes *
card_key_ecdh (const CardKey *self, const guint8 *point, gsize size)
{
  g_autoptr (EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_pkey (NULL, self->pair, NULL);
  g_autoptr (EVP_PKEY_CTX) peer_context = EVP_PKEY_CTX_new_from_name (NULL, "EC", NULL);
  g_autoptr (EVP_PKEY) peer = NULL;
  guint8 shared[1 + CARD_MAX_FIELD_SIZE];
  gsize shared_size = sizeof shared - 1;
  OSSL_PARAM parameters[] = {
    OSSL_PARAM_construct_utf8_string (OSSL_PKEY_PARAM_GROUP_NAME, (char *) self->curve->name, 0),
    OSSL_PARAM_construct_octet_string (OSSL_PKEY_PARAM_PUB_KEY, (void *) point, size),
    OSSL_PARAM_construct_end (),
  };
  GBytes *result;

  if (size != 1 + 2 * self->curve->field_size || point[0] != UNCOMPRESSED_POINT)
    return NULL;
  if (EVP_PKEY_fromdata_init (peer_context) != 1
      || EVP_PKEY_fromdata (peer_context, &peer, EVP_PKEY_PUBLIC_KEY, parameters) != 1
      || EVP_PKEY_derive_init (context) != 1 || EVP_PKEY_derive_set_peer (context, peer) != 1
      || EVP_PKEY_derive (context, shared + 1, &shared_size) != 1)
    return NULL;

  shared[0] = UNCOMPRESSED_POINT;
  result = g_bytes_new (shared, 1 + shared_size);
  OPENSSL_cleanse (shared, sizeof shared);
  return result;
}
