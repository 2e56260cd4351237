/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The commands that make, use, wrap and unwrap keys, and those for shares of the DKEK. */

#include "card-private.h"

#include "card-cvc.h"
#include "card-tlv.h"

#include <openssl/crypto.h>
#include <string.h>

#define ALGORITHM_CBC_ENCRYPT 0x10
#define ALGORITHM_CBC_DECRYPT 0x11
#define ALGORITHM_CMAC 0x18
#define ALGORITHM_RSA_RAW_SIGN 0x20
#define ALGORITHM_RSA_RAW_DECRYPT 0x21
#define ALGORITHM_RSA_PKCS1 0x30
#define ALGORITHM_RSA_PSS 0x40
#define ALGORITHM_ECDSA 0x70
#define ALGORITHM_ECDH 0x80
#define ALGORITHM_WRAP 0x92
#define ALGORITHM_UNWRAP 0x93
#define ALGORITHM_AES_128 0xB0
#define ALGORITHM_AES_192 0xB1
#define ALGORITHM_AES_256 0xB2

#define FAMILY_MASK 0xF0
#define HASH_MASK 0x0F

#define TAG_OUTER_AUTHORITY 0x45
#define TAG_USE_COUNTER 0x90
#define TAG_ALGORITHMS 0x91
#define TAG_KEY_DOMAIN 0x92

#define USE_COUNTER_SIZE 4

/* Public exponents that are taken: odd numbers of up to eight bytes. */
#define MAX_EXPONENT_SIZE 8

/* Hash of an algorithm, by its last digit: 20, 30, 40 and 70 take what was hashed by the host. */
static const EVP_MD *
get_digest (guint8 algorithm)
{
  switch (algorithm & HASH_MASK)
    {
    case 1:
      return EVP_sha1 ();
    case 2:
      return EVP_sha224 ();
    case 3:
      return EVP_sha256 ();
    case 4:
      return EVP_sha384 ();
    case 5:
      return EVP_sha512 ();
    default:
      return NULL;
    }
}

static const EVP_MD *
get_digest_by_size (gsize size)
{
  for (guint8 i = 1; i <= 5; i++)
    {
      const EVP_MD *md = get_digest (i);

      if ((gsize) EVP_MD_get_size (md) == size)
        return md;
    }
  return NULL;
}

/* A key's use counter. */
static void
spend_use (Card *self, CardKey *key)
{
  if (key->uses_left == CARD_UNLIMITED_USES)
    return;
  key->uses_left--;
  self->changed = TRUE;
}

/* Finds the key that P1 names; the card's own is not for hosts. */
static guint
find_key (const Card *self, guint8 id, CardKey **out_key)
{
  *out_key = id == 0 ? NULL : self->keys[id];
  return *out_key ? CARD_SW_OK : CARD_SW_REFERENCE_NOT_FOUND;
}

/* Looks whether key and algorithm go together, and the key may still be used. */
static guint
check_use (const CardKey *key, CardKeyKind kind, guint8 algorithm)
{
  if (key->kind != kind || !card_key_permits (key, algorithm))
    return CARD_SW_FUNCTION_NOT_SUPPORTED;
  return key->uses_left == 0 ? CARD_SW_DATA_INVALIDATED : CARD_SW_OK;
}

/* Answers with what an operation gave. NULL stands for input that it cannot do. */
static guint
answer_with (Card *self, CardKey *key, const CardApdu *apdu, CardAnswer *answer, GBytes *result)
{
  gsize size;
  const guint8 *bytes;

  if (!result)
    return CARD_SW_WRONG_DATA;
  bytes = g_bytes_get_data (result, &size);
  if (size > apdu->max_response)
    return CARD_SW_WRONG_LENGTH;
  spend_use (self, key);
  g_byte_array_append (answer->data, bytes, (guint) size);
  return CARD_SW_OK;
}

static gsize
hash (const EVP_MD *md, const CardApdu *apdu, guint8 out_digest[EVP_MAX_MD_SIZE])
{
  unsigned int size;

  if (EVP_Digest (apdu->data, apdu->size, out_digest, &size, md, NULL) != 1)
    g_error ("libcrypto lacks a hash");
  return size;
}

/* PSS over a hash takes a DigestInfo as well: OpenSC sends one. What it ends with is the hash. */
static GBytes *
sign_pss_hash (const CardKey *key, const guint8 *data, gsize size)
{
  const EVP_MD *md = get_digest_by_size (size);
  CardTlvReader reader = { data, size };
  CardTlv info, digest;

  if (!md && card_tlv_next (&reader, &info) && info.tag == 0x30 && reader.size == 0
      && card_tlv_find (info.value, info.size, 0x04, &digest))
    {
      data = digest.value;
      size = digest.size;
      md = get_digest_by_size (size);
    }
  return md ? card_key_rsa_sign_pss (key, md, data, size) : NULL;
}

static GBytes *
sign (const CardKey *key, const CardApdu *apdu)
{
  const EVP_MD *md = get_digest (apdu->p2);
  guint8 digest[EVP_MAX_MD_SIZE];
  const guint8 *data = apdu->data;
  gsize size = apdu->size;

  if (md)
    {
      size = hash (md, apdu, digest);
      data = digest;
    }
  switch (apdu->p2 & FAMILY_MASK)
    {
    case ALGORITHM_RSA_RAW_SIGN:
      return card_key_rsa_raw (key, data, size);
    case ALGORITHM_RSA_PKCS1:
      return card_key_rsa_sign (key, md, data, size);
    case ALGORITHM_RSA_PSS:
      return md ? card_key_rsa_sign_pss (key, md, data, size) : sign_pss_hash (key, data, size);
    case ALGORITHM_ECDSA:
    default:
      return card_key_ecdsa (key, data, size);
    }
}

static gboolean
is_signature_algorithm (guint8 algorithm)
{
  switch (algorithm)
    {
    case ALGORITHM_RSA_RAW_SIGN:
    case ALGORITHM_RSA_PKCS1:
    case ALGORITHM_RSA_PSS:
    case ALGORITHM_ECDSA:
      return TRUE;
    case ALGORITHM_RSA_PSS | 2: /* PSS with SHA-224 is none of the card's */
      return FALSE;
    default:
      return get_digest (algorithm)
             && ((algorithm & FAMILY_MASK) == ALGORITHM_RSA_PKCS1
                 || (algorithm & FAMILY_MASK) == ALGORITHM_RSA_PSS
                 || (algorithm & FAMILY_MASK) == ALGORITHM_ECDSA);
    }
}

/* 80 68: signs. */
guint
card_command_sign (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  CardKey *key;
  guint status = find_key (self, apdu->p1, &key);
  g_autoptr (GBytes) signature = NULL;

  if (status != CARD_SW_OK)
    return status;
  if (!is_signature_algorithm (apdu->p2))
    return CARD_SW_FUNCTION_NOT_SUPPORTED;
  status = check_use (key, (apdu->p2 & FAMILY_MASK) == ALGORITHM_ECDSA ? CARD_KEY_EC : CARD_KEY_RSA,
                      apdu->p2);
  if (status != CARD_SW_OK)
    return status;
  if (apdu->size == 0 || (apdu->p2 == ALGORITHM_RSA_RAW_SIGN && apdu->size != key->bits / 8))
    return CARD_SW_WRONG_LENGTH;

  signature = sign (key, apdu);
  return answer_with (self, key, apdu, answer, signature);
}

/* 80 62: the raw private operation, or a shared point. */
guint
card_command_decipher (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  CardKey *key;
  guint status = find_key (self, apdu->p1, &key);
  gboolean is_rsa = apdu->p2 == ALGORITHM_RSA_RAW_DECRYPT;
  g_autoptr (GBytes) result = NULL;

  if (status != CARD_SW_OK)
    return status;
  if (!is_rsa && apdu->p2 != ALGORITHM_ECDH)
    return CARD_SW_FUNCTION_NOT_SUPPORTED;
  status = check_use (key, is_rsa ? CARD_KEY_RSA : CARD_KEY_EC, apdu->p2);
  if (status != CARD_SW_OK)
    return status;
  if (apdu->size != (is_rsa ? key->bits / 8 : g_bytes_get_size (key->curve->parameters[3])))
    return CARD_SW_WRONG_LENGTH;

  result = is_rsa ? card_key_rsa_raw (key, apdu->data, apdu->size)
                  : card_key_ecdh (key, apdu->data, apdu->size);
  return answer_with (self, key, apdu, answer, result);
}

static GBytes *
run_cipher (const CardKey *key, const CardApdu *apdu)
{
  gsize key_size = key->bits / 8;
  guint8 *result;

  if (apdu->p2 == ALGORITHM_CMAC)
    {
      result = g_malloc (CARD_CMAC_SIZE);
      card_aes_cmac (key->secret, key_size, apdu->data, apdu->size, result);
      return g_bytes_new_take (result, CARD_CMAC_SIZE);
    }
  result = g_malloc (apdu->size);
  card_aes_cbc (key->secret, key_size, apdu->p2 == ALGORITHM_CBC_ENCRYPT, apdu->data, apdu->size,
                result);
  return g_bytes_new_take (result, apdu->size);
}

/* 80 78: AES-CBC with an IV of zeros, or AES-CMAC. */
guint
card_command_cipher (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  CardKey *key;
  guint status = find_key (self, apdu->p1, &key);
  g_autoptr (GBytes) result = NULL;

  if (status != CARD_SW_OK)
    return status;
  if (apdu->p2 != ALGORITHM_CBC_ENCRYPT && apdu->p2 != ALGORITHM_CBC_DECRYPT
      && apdu->p2 != ALGORITHM_CMAC)
    return CARD_SW_FUNCTION_NOT_SUPPORTED;
  status = check_use (key, CARD_KEY_AES, apdu->p2);
  if (status != CARD_SW_OK)
    return status;
  if (apdu->size == 0 || (apdu->p2 != ALGORITHM_CMAC && apdu->size % CARD_AES_BLOCK_SIZE != 0))
    return CARD_SW_WRONG_LENGTH;

  result = run_cipher (key, apdu);
  return answer_with (self, key, apdu, answer, result);
}

/* 80 52: what is known of the DKEK, or one more share of it. */
guint
card_command_dkek (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  CardPersistent *kept = &self->kept;
  guint8 status[2 + CARD_KCV_SIZE] = { 0 };

  /* Without key domains there is the one of number 0, and nothing that can be done with it as a whole. */
  if (apdu->p1 != 0 || apdu->p2 != 0)
    return CARD_SW_WRONG_P1_P2;
  if (!kept->has_dkek)
    return CARD_SW_INS_NOT_SUPPORTED;
  if (apdu->size != 0 && apdu->size != CARD_DKEK_SIZE)
    return CARD_SW_WRONG_LENGTH;

  if (apdu->size > 0)
    {
      if (kept->dkek_missing == 0)
        return CARD_SW_CONDITIONS_NOT_SATISFIED;
      for (guint i = 0; i < CARD_DKEK_SIZE; i++)
        kept->dkek[i] ^= apdu->data[i];
      kept->dkek_missing--;
      self->changed = TRUE;
    }

  status[0] = kept->dkek_shares;
  status[1] = kept->dkek_missing;
  if (kept->dkek_missing == 0)
    card_dkek_get_check_value (kept->dkek, status + 2);
  g_byte_array_append (answer->data, status, sizeof status);
  answer->may_be_cut = TRUE;
  return CARD_SW_OK;
}

/* The limits of a new key are looked at before it is made, which may take seconds, or a key out of the pool. */
static gboolean
limits_are_good (const CardTlv *algorithms, const CardTlv *use_counter)
{
  return algorithms->size <= CARD_MAX_ALGORITHMS
         && (!use_counter->value || use_counter->size == USE_COUNTER_SIZE);
}

/* Puts limits that are good, which both kinds of generation take, into a new key. */
static void
set_limits (CardKey *key, const CardTlv *algorithms, const CardTlv *use_counter)
{
  if (algorithms->value)
    {
      memcpy (key->algorithms, algorithms->value, algorithms->size);
      key->n_algorithms = algorithms->size;
    }
  if (use_counter->value)
    {
      key->uses_left = 0;
      for (guint i = 0; i < USE_COUNTER_SIZE; i++)
        key->uses_left = key->uses_left << 8 | use_counter->value[i];
    }
}

/* Key domain 0 is the only one. */
static gboolean
domain_is_good (const CardTlv *domain)
{
  return !domain->value || (domain->size == 1 && domain->value[0] == 0);
}

/* What is wanted of a new pair. */
enum
{
  WANTED_PROFILE,
  WANTED_AUTHORITY,
  WANTED_PUBLIC_KEY,
  WANTED_HOLDER,
  WANTED_OUTER_AUTHORITY,
  WANTED_USE_COUNTER,
  WANTED_ALGORITHMS,
  WANTED_DOMAIN,
  N_WANTED,
};

static const guint16 wanted_tags[N_WANTED] = {
  [WANTED_PROFILE] = CARD_TAG_PROFILE,
  [WANTED_AUTHORITY] = CARD_TAG_AUTHORITY,
  [WANTED_PUBLIC_KEY] = CARD_TAG_PUBLIC_KEY,
  [WANTED_HOLDER] = CARD_TAG_HOLDER,
  [WANTED_OUTER_AUTHORITY] = TAG_OUTER_AUTHORITY,
  [WANTED_USE_COUNTER] = TAG_USE_COUNTER,
  [WANTED_ALGORITHMS] = TAG_ALGORITHMS,
  [WANTED_DOMAIN] = TAG_KEY_DOMAIN,
};

/* Takes elements apart, each of which may be there once, and none besides @tags. */
static gboolean
parse_elements (const guint8 *bytes,
                gsize size,
                const guint16 *tags,
                guint n_tags,
                CardTlv *out_values)
{
  CardTlvReader reader = { bytes, size };
  CardTlv tlv;

  memset (out_values, 0, n_tags * sizeof *out_values);
  while (card_tlv_next (&reader, &tlv))
    {
      guint i = 0;

      while (i < n_tags && tags[i] != tlv.tag)
        i++;
      if (i == n_tags || out_values[i].value)
        return FALSE;
      out_values[i] = tlv;
    }
  return reader.size == 0;
}

/* A pair that is to be made. */
typedef struct
{
  const CardCurve *curve; /* NULL: RSA */
  guint bits;             /* of the modulus or the field */
  const guint8 *exponent; /* of RSA, inside the command, without zeros before it */
  gsize exponent_size;
} PairPlan;

static gboolean
plan_ec (const CardTlv values[], PairPlan *out_plan)
{
  const guint8 *parameters[5];
  gsize sizes[5];
  const CardCurve *curve;

  for (guint i = 0; i < G_N_ELEMENTS (parameters); i++)
    {
      if (!values[i].value)
        return FALSE;
      parameters[i] = values[i].value;
      sizes[i] = values[i].size;
    }
  curve = card_curve_find_by_parameters (parameters, sizes);
  if (!curve)
    return FALSE;
  *out_plan = (PairPlan){ .curve = curve, .bits = curve->bits };
  return TRUE;
}

static gboolean
plan_rsa (const CardTlv *exponent_tlv, const CardTlv *bits_tlv, PairPlan *out_plan)
{
  const guint8 *exponent = exponent_tlv->value;
  gsize exponent_size = exponent_tlv->size;
  guint bits;

  if (!exponent || !bits_tlv->value || bits_tlv->size != 2 || exponent_size > MAX_EXPONENT_SIZE)
    return FALSE;
  while (exponent_size > 0 && exponent[0] == 0)
    {
      exponent++;
      exponent_size--;
    }
  bits = (guint) bits_tlv->value[0] << 8 | bits_tlv->value[1];
  if (exponent_size == 0 || !(exponent[exponent_size - 1] & 1)
      || (exponent_size == 1 && exponent[0] == 1) || !card_rsa_bits_are_known (bits))
    return FALSE;
  *out_plan = (PairPlan){ .bits = bits, .exponent = exponent, .exponent_size = exponent_size };
  return TRUE;
}

/* The OID says RSA or EC by the last byte but one (BSI TR-03110-3, A.1.1.3): id-TA-RSA = 1, id-TA-ECDSA = 2. */
static gboolean
plan_pair (const CardTlv *public_key, PairPlan *out_plan)
{
  static const guint16 ec_tags[] = { 0x81, 0x82, 0x83, 0x84, 0x85, 0x87, CARD_TAG_OID };
  static const guint16 rsa_tags[] = { 0x82, 0x02, CARD_TAG_OID };
  static const guint8 oid_prefix[] = { 0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x02 };
  CardTlv oid;
  CardTlv values[G_N_ELEMENTS (ec_tags)];

  if (!card_tlv_find (public_key->value, public_key->size, CARD_TAG_OID, &oid)
      || oid.size != sizeof oid_prefix + 2
      || memcmp (oid.value, oid_prefix, sizeof oid_prefix) != 0)
    return FALSE;

  switch (oid.value[sizeof oid_prefix])
    {
    case 1:
      return parse_elements (public_key->value, public_key->size, rsa_tags, G_N_ELEMENTS (rsa_tags),
                             values)
             && plan_rsa (&values[0], &values[1], out_plan);
    case 2:
      return parse_elements (public_key->value, public_key->size, ec_tags, G_N_ELEMENTS (ec_tags),
                             values)
             && plan_ec (values, out_plan);
    default:
      return FALSE;
    }
}

static CardKey *
make_pair (Card *self, const PairPlan *plan)
{
  CardKey *key = NULL;

  if (plan->curve)
    return card_key_generate_ec (plan->curve, self->random);
  /* The pool's keys have the customary exponent. */
  if (self->rsa_source && plan->exponent_size == 3 && memcmp (plan->exponent, "\1\0\1", 3) == 0)
    key = self->rsa_source (plan->bits, self->rsa_source_data);
  return key ? key : card_key_generate_rsa (plan->bits, plan->exponent, plan->exponent_size);
}

static gsize
memory_of_key (const Card *self, guint8 id)
{
  return self->keys[id] ? card_key_get_memory (self->keys[id]) : 0;
}

static gboolean
name_is_good (const CardTlv *name, gsize max_size)
{
  return name->value && name->size > 0 && name->size <= max_size;
}

/* 00 46: makes an RSA or EC pair. The answer, which is a certificate request, is also stored. */
guint
card_command_generate_pair (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  guint8 id = apdu->p1;
  CardTlv wanted[N_WANTED];
  g_autoptr (CardKey) key = NULL;
  g_autoptr (GBytes) holder = NULL;
  g_autoptr (GBytes) authority = NULL;
  g_autoptr (GBytes) request = NULL;
  g_autofree char *device_holder = NULL;
  GByteArray *file, *old_file;
  PairPlan plan;
  guint16 file_id;
  gsize size;

  if (id == 0 || id > CARD_MAX_KEY_ID || apdu->p2 != 0)
    return CARD_SW_WRONG_P1_P2;
  if (apdu->size == 0)
    return CARD_SW_WRONG_LENGTH;
  if (!parse_elements (apdu->data, apdu->size, wanted_tags, N_WANTED, wanted)
      || !wanted[WANTED_PUBLIC_KEY].value
      || !name_is_good (&wanted[WANTED_AUTHORITY], CARD_MAX_AUTHORITY_NAME)
      || !name_is_good (&wanted[WANTED_HOLDER], CARD_MAX_HOLDER_NAME)
      || !domain_is_good (&wanted[WANTED_DOMAIN])
      || !limits_are_good (&wanted[WANTED_ALGORITHMS], &wanted[WANTED_USE_COUNTER])
      || !plan_pair (&wanted[WANTED_PUBLIC_KEY], &plan))
    return CARD_SW_WRONG_DATA;

  device_holder = card_dup_holder (self);
  size = card_cvc_get_request_size (plan.curve, plan.bits, plan.exponent_size,
                                    wanted[WANTED_HOLDER].size, wanted[WANTED_AUTHORITY].size,
                                    self->keys[0]->curve, strlen (device_holder));
  if (apdu->max_response > 0 && apdu->max_response < size)
    return CARD_SW_WRONG_LENGTH;
  file_id = CARD_FILE_REQUESTS | id;
  old_file = card_get_file (self, file_id);
  if (!card_has_memory_for (self,
                            card_key_get_memory_of (plan.curve ? CARD_KEY_EC : CARD_KEY_RSA,
                                                    plan.bits)
                                + size + CARD_FILE_OVERHEAD,
                            memory_of_key (self, id)
                                + (old_file ? CARD_FILE_OVERHEAD + old_file->len : 0)))
    return CARD_SW_MEMORY_FULL;

  key = make_pair (self, &plan);
  if (!key)
    return CARD_SW_WRONG_DATA;
  set_limits (key, &wanted[WANTED_ALGORITHMS], &wanted[WANTED_USE_COUNTER]);
  holder = g_bytes_new (wanted[WANTED_HOLDER].value, wanted[WANTED_HOLDER].size);
  authority = g_bytes_new (wanted[WANTED_AUTHORITY].value, wanted[WANTED_AUTHORITY].size);
  request = card_cvc_new_request (key, holder, authority, self->keys[0], device_holder);
  if (g_bytes_get_size (request) != size)
    g_error ("a certificate request has another size than was counted on");

  file = g_byte_array_new ();
  g_byte_array_append (file, g_bytes_get_data (request, NULL), (guint) size);
  if (apdu->max_response > 0)
    g_byte_array_append (answer->data, file->data, file->len);
  card_put_file (self, file_id, file);
  card_put_key (self, id, g_steal_pointer (&key));
  return CARD_SW_OK;
}

/* 00 48: makes an AES key. */
guint
card_command_generate_secret (Card *self, const CardApdu *apdu, G_GNUC_UNUSED CardAnswer *answer)
{
  static const guint16 tags[] = { TAG_ALGORITHMS, TAG_USE_COUNTER, TAG_KEY_DOMAIN };
  guint8 id = apdu->p1;
  CardTlv values[G_N_ELEMENTS (tags)];
  guint8 secret[32];
  gsize size;
  g_autoptr (CardKey) key = NULL;

  if (id == 0 || id > CARD_MAX_KEY_ID)
    return CARD_SW_WRONG_P1_P2;
  switch (apdu->p2)
    {
    case ALGORITHM_AES_128:
      size = 16;
      break;
    case ALGORITHM_AES_192:
      size = 24;
      break;
    case ALGORITHM_AES_256:
      size = 32;
      break;
    default:
      return CARD_SW_WRONG_P1_P2;
    }
  if (!parse_elements (apdu->data, apdu->size, tags, G_N_ELEMENTS (tags), values)
      || !domain_is_good (&values[2]) || !limits_are_good (&values[0], &values[1]))
    return CARD_SW_WRONG_DATA;
  if (!card_has_memory_for (self, card_key_get_memory_of (CARD_KEY_AES, (guint) size * 8),
                            memory_of_key (self, id)))
    return CARD_SW_MEMORY_FULL;

  card_random_fill (self->random, secret, size);
  key = card_key_new_aes (secret, size);
  OPENSSL_cleanse (secret, sizeof secret);
  set_limits (key, &values[0], &values[1]);
  card_put_key (self, id, g_steal_pointer (&key));
  return CARD_SW_OK;
}

/* What wrapping and unwrapping have in common: a DKEK, with all its shares. */
static guint
check_dkek (const Card *self)
{
  if (!self->kept.has_dkek)
    return CARD_SW_INS_NOT_SUPPORTED;
  return self->kept.dkek_missing > 0 ? CARD_SW_CONDITIONS_NOT_SATISFIED : CARD_SW_OK;
}

/* 80 72: gives a key, encrypted under the DKEK. */
guint
card_command_wrap (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  guint status = check_dkek (self);
  guint8 random[CARD_BLOB_RANDOM_SIZE];
  CardKey *key;
  g_autoptr (GBytes) blob = NULL;

  if (status != CARD_SW_OK)
    return status;
  if (apdu->p2 != ALGORITHM_WRAP)
    return CARD_SW_WRONG_P1_P2;
  if (apdu->size > 0)
    return CARD_SW_WRONG_LENGTH;
  status = find_key (self, apdu->p1, &key);
  if (status != CARD_SW_OK)
    return status;
  if (!card_key_permits (key, ALGORITHM_WRAP))
    return CARD_SW_CONDITIONS_NOT_SATISFIED;

  card_random_fill (self->random, random, sizeof random);
  blob = card_dkek_wrap (self->kept.dkek, key, random);
  if (g_bytes_get_size (blob) > apdu->max_response)
    return CARD_SW_WRONG_LENGTH;
  g_byte_array_append (answer->data, g_bytes_get_data (blob, NULL),
                       (guint) g_bytes_get_size (blob));
  return CARD_SW_OK;
}

/* 80 74: takes a key that was wrapped under the same DKEK, from the data or from EF 2F10. */
guint
card_command_unwrap (Card *self, const CardApdu *apdu, G_GNUC_UNUSED CardAnswer *answer)
{
  guint status = check_dkek (self);
  guint8 id = apdu->p1;
  const guint8 *blob = apdu->data;
  gsize size = apdu->size;
  g_autoptr (CardKey) key = NULL;

  if (status != CARD_SW_OK)
    return status;
  if (apdu->p2 != ALGORITHM_UNWRAP || id == 0 || id > CARD_MAX_KEY_ID)
    return CARD_SW_WRONG_P1_P2;
  if (size == 0)
    {
      const GByteArray *file = card_get_file (self, CARD_FILE_WRAPPED_KEY);

      if (!file)
        return CARD_SW_WRONG_LENGTH;
      blob = file->data;
      size = file->len;
    }

  key = card_dkek_unwrap (self->kept.dkek, blob, size);
  if (!key)
    return CARD_SW_WRONG_DATA;
  if (!card_has_memory_for (self, card_key_get_memory (key), memory_of_key (self, id)))
    return CARD_SW_MEMORY_FULL;
  card_put_key (self, id, g_steal_pointer (&key));
  return CARD_SW_OK;
}
