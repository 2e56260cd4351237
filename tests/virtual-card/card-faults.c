/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-faults.h"

#include "card-cvc.h"
#include "card-tlv.h"

#include <string.h>

#define INS_GENERATE_PAIR 0x46
#define INS_GENERATE_SECRET 0x48
#define INS_DECIPHER 0x62
#define INS_SIGN 0x68
#define INS_WRAP 0x72
#define INS_UNWRAP 0x74
#define INS_CIPHER 0x78

#define ALGORITHM_ECDH 0x80
#define ALGORITHM_ECDSA 0x70

/* What a SmartCard-HSM 4K takes, roughly, in milliseconds. */
#define REALISTIC_RSA_2048_MS 300
#define REALISTIC_AES_MS 50
#define REALISTIC_EC_MS 100
#define REALISTIC_WRAP_MS 100
#define REALISTIC_GENERATE_RSA_MS 3000
#define REALISTIC_GENERATE_EC_MS 300

/* The byte of id-TA-ECDSA… that tells it from id-TA-RSA… (BSI TR-03110-3, A.1.1.3). */
#define OID_KIND_AT 8
#define OID_KIND_EC 2

/* A rule that applies for good. */
#define WITHOUT_END 0

/* Garbage is at most this long, in bytes. */
#define MAX_GARBAGE 40

typedef struct
{
  guint8 ins;
  guint16 status;
  gint64 skip;  /* matching commands that are let through first */
  gint64 count; /* times it still applies, or WITHOUT_END */
} Rule;

/**
 * card_faults_new:
 *
 * Returns: (transfer full): nothing that goes wrong
 */
CardFaults *
card_faults_new (void)
{
  CardFaults *self = g_new0 (CardFaults, 1);

  self->rules = g_array_new (FALSE, FALSE, sizeof (Rule));
  self->random = card_random_new ();
  self->drop_after = CARD_NEVER;
  self->freeze_after = CARD_NEVER;
  self->corrupt_after = CARD_NEVER;
  return self;
}

/**
 * card_faults_seed:
 * @self: the faults
 * @seed: a number
 *
 * Makes garbage repeatable.
 */
void
card_faults_seed (CardFaults *self, guint64 seed)
{
  card_random_free (self->random);
  self->random = card_random_new_seeded (seed, "faults", 0);
}

void
card_faults_free (CardFaults *self)
{
  card_random_free (self->random);
  g_array_unref (self->rules);
  g_free (self);
}

/* Those that ISO/IEC 7816-4, 5.6 has. */
static gboolean
is_status_word (guint64 number)
{
  return (number >= 0x6000 && number <= 0x6FFF) || (number >= 0x9000 && number <= 0x9FFF);
}

static gboolean
read_field (const char *field, Rule *rule, gboolean *has_ins, gboolean *has_status)
{
  const char *value = strchr (field, '=');
  gsize name_size = value ? (gsize) (value - field) : 0;
  guint64 number;

  if (!value)
    return FALSE;
  value++;

  if (name_size == 3 && strncmp (field, "ins", 3) == 0)
    {
      *has_ins = g_ascii_string_to_unsigned (value, 16, 0, G_MAXUINT8, &number, NULL);
      rule->ins = (guint8) number;
      return *has_ins;
    }
  if (name_size == 2 && strncmp (field, "sw", 2) == 0)
    {
      *has_status = g_ascii_string_to_unsigned (value, 16, 0, G_MAXUINT16, &number, NULL)
                    && is_status_word (number);
      rule->status = (guint16) number;
      return *has_status;
    }
  if (name_size == 5 && strncmp (field, "count", 5) == 0)
    return g_ascii_string_to_signed (value, 10, 0, G_MAXINT32, &rule->count, NULL);
  if (name_size == 4 && strncmp (field, "skip", 4) == 0)
    return g_ascii_string_to_signed (value, 10, 0, G_MAXINT32, &rule->skip, NULL);
  return FALSE;
}

/**
 * card_faults_add_rule:
 * @self: the faults
 * @text: "ins=68,sw=6F00,count=1,skip=0": instruction and status word in hexadecimal, how often (0 = always; without it once),
 *   and after how many such commands
 * @error: return location for a #GError
 *
 * Returns: whether @text was a rule, and there was room for it
 */
gboolean
card_faults_add_rule (CardFaults *self, const char *text, GError **error)
{
  g_auto (GStrv) fields = g_strsplit (text, ",", -1);
  Rule rule = { .count = 1 };
  gboolean has_ins = FALSE;
  gboolean has_status = FALSE;

  for (guint i = 0; fields[i]; i++)
    {
      if (!read_field (fields[i], &rule, &has_ins, &has_status))
        {
          g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                       "'%s' is no part of a fault; one looks like ins=68,sw=6F00,count=1,skip=0",
                       fields[i]);
          return FALSE;
        }
    }
  if (!has_ins || !has_status)
    {
      g_set_error_literal (error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                           "a fault needs ins= and sw=, as in ins=68,sw=6F00,count=1");
      return FALSE;
    }
  if (self->rules->len >= CARD_MAX_FAULTS)
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                   "there are %u faults already; 'fault clear' removes them", self->rules->len);
      return FALSE;
    }
  g_array_append_val (self->rules, rule);
  return TRUE;
}

void
card_faults_clear_rules (CardFaults *self)
{
  g_array_set_size (self->rules, 0);
}

/**
 * card_faults_match:
 * @self: the faults
 * @apdu: a command
 * @size: bytes of it
 * @out_status: (out): status word to answer with
 *
 * Finds the first rule for a command, and counts it.
 *
 * Returns: whether there is one
 */
gboolean
card_faults_match (CardFaults *self, const guint8 *apdu, gsize size, guint16 *out_status)
{
  for (guint i = 0; size > 1 && i < self->rules->len; i++)
    {
      Rule *rule = &g_array_index (self->rules, Rule, i);

      if (rule->ins != apdu[1])
        continue;
      if (rule->skip > 0)
        {
          rule->skip--;
          continue;
        }
      *out_status = rule->status;
      if (rule->count != WITHOUT_END && --rule->count == 0)
        g_array_remove_index (self->rules, i);
      self->n_applied++;
      return TRUE;
    }
  return FALSE;
}

/**
 * card_faults_set_delay:
 * @self: the faults
 * @text: milliseconds, or "realistic"
 * @error: return location for a #GError
 *
 * Returns: whether @text was one of these
 */
gboolean
card_faults_set_delay (CardFaults *self, const char *text, GError **error)
{
  guint64 delay_ms = 0;
  gboolean realistic = g_str_equal (text, "realistic");

  if (!realistic && !g_ascii_string_to_unsigned (text, 10, 0, CARD_MAX_DELAY_MS, &delay_ms, NULL))
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                   "'%s' is no delay: milliseconds up to %d, or 'realistic'", text,
                   CARD_MAX_DELAY_MS);
      return FALSE;
    }
  self->delay_ms = (guint) delay_ms;
  self->realistic = realistic;
  return TRUE;
}

/* RSA takes time by the cube of its size, which the size of the answer tells. */
static guint
realistic_rsa_ms (gsize response_size)
{
  gsize scale = response_size * 100 / 256;

  return (guint) (REALISTIC_RSA_2048_MS * scale * scale * scale / 1000000);
}

static gboolean
generates_ec (const guint8 *bytes, gsize size)
{
  CardApdu apdu;
  CardTlv public_key, oid;

  return card_apdu_parse (bytes, size, &apdu)
         && card_tlv_find (apdu.data, apdu.size, CARD_TAG_PUBLIC_KEY, &public_key)
         && card_tlv_find (public_key.value, public_key.size, CARD_TAG_OID, &oid)
         && oid.size > OID_KIND_AT && oid.value[OID_KIND_AT] == OID_KIND_EC;
}

/**
 * card_faults_get_delay_ms:
 * @self: the faults
 * @apdu: a command
 * @size: bytes of it
 * @response: the answer
 *
 * Returns: how long the answer has to take at least, in milliseconds; no time at all when it is a refusal
 */
guint
card_faults_get_delay_ms (const CardFaults *self, const guint8 *apdu, gsize size, GBytes *response)
{
  static const guint8 success[CARD_STATUS_SIZE] = { CARD_SW_OK >> 8, CARD_SW_OK & 0xFF };
  gsize whole_size;
  const guint8 *bytes = g_bytes_get_data (response, &whole_size);
  gsize response_size = whole_size - CARD_STATUS_SIZE;
  guint8 algorithm = size > 3 ? apdu[3] : 0;
  guint realistic_ms;

  if (memcmp (bytes + response_size, success, sizeof success) != 0)
    return 0;
  switch (size > 1 ? apdu[1] : 0)
    {
    case INS_CIPHER:
    case INS_GENERATE_SECRET:
      realistic_ms = REALISTIC_AES_MS;
      break;
    case INS_SIGN:
      realistic_ms = (algorithm & 0xF0) == ALGORITHM_ECDSA ? REALISTIC_EC_MS
                                                           : realistic_rsa_ms (response_size);
      break;
    case INS_DECIPHER:
      realistic_ms
          = algorithm == ALGORITHM_ECDH ? REALISTIC_EC_MS : realistic_rsa_ms (response_size);
      break;
    case INS_GENERATE_PAIR:
      realistic_ms
          = generates_ec (apdu, size) ? REALISTIC_GENERATE_EC_MS : REALISTIC_GENERATE_RSA_MS;
      break;
    case INS_WRAP:
    case INS_UNWRAP:
      realistic_ms = REALISTIC_WRAP_MS;
      break;
    default:
      return 0;
    }
  return self->realistic ? realistic_ms : self->delay_ms;
}

/**
 * card_faults_count_down:
 * @commands: commands that still go well, or %CARD_NEVER; one less afterwards
 *
 * Returns: whether this one does not
 */
gboolean
card_faults_count_down (gint64 *commands)
{
  if (*commands == CARD_NEVER)
    return FALSE;
  if (*commands == 0)
    return TRUE;
  --*commands;
  return FALSE;
}

static GBytes *
make_garbage (CardFaults *self, GBytes *response)
{
  gsize size = g_bytes_get_size (response);
  guint8 noise[MAX_GARBAGE + 2];
  g_autofree guint8 *changed = NULL;

  card_random_fill (self->random, noise, sizeof noise);
  switch (noise[0] % 3)
    {
    case 0:
      changed = g_memdup2 (g_bytes_get_data (response, NULL), size);
      changed[noise[1] * size / 256] ^= (guint8) (1 << (noise[2] & 7));
      return g_bytes_new_take (g_steal_pointer (&changed), size);
    case 1:
      return g_bytes_new_from_bytes (response, 0, 2 + noise[1] * (size - 2) / 256);
    default:
      return g_bytes_new (noise + 2, MAX (2U, noise[1] % (MAX_GARBAGE + 1U)));
    }
}

/**
 * card_faults_corrupt:
 * @self: the faults
 * @response: a sound answer
 *
 * Returns: (transfer full): in turns at random: the answer with one bit turned, a part of it, or noise; never less than a status
 * word, and never the sound answer
 */
GBytes *
card_faults_corrupt (CardFaults *self, GBytes *response)
{
  GBytes *garbage = make_garbage (self, response);

  while (g_bytes_equal (garbage, response))
    {
      g_bytes_unref (garbage);
      garbage = make_garbage (self, response);
    }
  return garbage;
}
