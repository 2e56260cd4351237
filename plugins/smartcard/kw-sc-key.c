/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-key"

#include "config.h"

#include "kw-sc-key.h"

#include "kw-sc-cvc.h"
#include "kw-sc-description.h"
#include "kw-sc-error.h"

#include <openssl/x509.h>
#include <string.h>

/*
 * The keys on a card: each has a number, from 1 to 254, under which the card keeps the key itself and hosts keep a description
 * and a certificate. The description tells CKA_ID, label and size; a key without one is known by its number.
 *
 * Nothing but a use tells one AES key from another. So of each the card is asked once what it makes of a fixed block, and
 * each later use is checked against that.
 */

#define CLA_HSM 0x80
#define INS_CIPHER 0x78
#define ALGORITHM_CBC_ENCRYPT 0x10
#define ALGORITHM_CBC_DECRYPT 0x11

#define PROOF_TEXT "keyward-check-01" /* one block */

G_STATIC_ASSERT (sizeof PROOF_TEXT - 1 == KW_SC_BLOCK_BYTES);

/**
 * kw_sc_key_ref:
 * @self: a key
 *
 * Returns: (transfer full): @self
 */
KwScKey *
kw_sc_key_ref (KwScKey *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_sc_key_unref:
 * @self: (transfer full): a key
 *
 * Gives a reference back.
 */
void
kw_sc_key_unref (KwScKey *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_clear_pointer (&self->key, kw_key_unref);
  g_clear_pointer (&self->public_key, EVP_PKEY_free);
  g_clear_pointer (&self->description, g_bytes_unref);
  g_free (self);
}

/* A file of a key; empty when there is none. */
static GBytes *
read_key_file (KwScLink *link, guint8 kind, guint8 kid, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  g_autoptr (GByteArray) content
      = kw_sc_card_read_file (link, KW_SC_FILE_ID (kind, kid), &local_error);

  if (content != NULL)
    return g_byte_array_free_to_bytes (g_steal_pointer (&content));
  if (g_error_matches (local_error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND))
    return g_bytes_new (NULL, 0);
  g_propagate_error (error, g_steal_pointer (&local_error));
  return NULL;
}

static KwScSpan
span_of (GBytes *bytes)
{
  KwScSpan span = { 0 };

  span.data = g_bytes_get_data (bytes, &span.size);
  return span;
}

static gboolean
cipher_one_block (KwScLink *link,
                  guint8 kid,
                  guint8 algorithm,
                  const guint8 *block,
                  KwScAnswer *out_answer,
                  GError **error)
{
  const KwScCommand command
      = { CLA_HSM, INS_CIPHER, kid, algorithm, block, KW_SC_BLOCK_BYTES, KW_SC_BLOCK_BYTES };

  return kw_sc_card_exchange (link, &command, out_answer, error);
}

/* Whether the card takes an operation of AES with a key of which nothing else is known. */
static gboolean
is_secret_key (KwScLink *link, guint8 kid, gboolean *out_is, GError **error)
{
  KwScAnswer answer = { 0 };

  if (!cipher_one_block (link, kid, ALGORITHM_CBC_ENCRYPT, (const guint8 *) PROOF_TEXT, &answer,
                         error))
    return FALSE;
  *out_is = answer.sw == KW_SC_SW_OK;
  return TRUE;
}

static KwKeyUsage
usage_of (const KwScKeyTraits *traits, KwKeyKind kind)
{
  KwKeyUsage usage = KW_KEY_USAGE_SIGN;

  if (kind == KW_KEY_KIND_AES)
    usage = (KwKeyUsage) (KW_KEY_USAGE_ENCRYPT | KW_KEY_USAGE_DECRYPT | KW_KEY_USAGE_UNWRAP);
  else if (kind == KW_KEY_KIND_RSA)
    usage = (KwKeyUsage) (KW_KEY_USAGE_DECRYPT | KW_KEY_USAGE_SIGN);
  return traits->can_be_wrapped ? (KwKeyUsage) (usage | KW_KEY_USAGE_WRAP) : usage;
}

static EVP_PKEY *
parse_public_key (GBytes *der)
{
  gsize size = 0;
  const guint8 *at = g_bytes_get_data (der, &size);

  return d2i_PUBKEY (NULL, &at, (long) size);
}

static KwScKey *
key_new (const KwScKeyTraits *traits,
         guint8 kid,
         KwKeyKind kind,
         guint bits,
         const KwScDescription *description,
         GBytes *public_key_der)
{
  KwScKey *self = g_new0 (KwScKey, 1);
  g_autoptr (GBytes) own_id = g_bytes_new (&kid, sizeof kid);
  g_autofree char *weakness = NULL;

  if (kind == KW_KEY_KIND_AES && traits->aes_is_weak)
    weakness = g_strdup_printf (
        "Firmware %s makes AES keys that can be guessed; make a new key on another device and clone it",
        traits->firmware);
  g_atomic_ref_count_init (&self->references);
  self->kid = kid;
  self->key = kw_key_new_full (&(KwKeyFields){
      .kind = kind,
      .bits = bits,
      .id = description != NULL ? description->id : own_id,
      .label = description != NULL ? description->label : NULL,
      .public_key_der = public_key_der,
      .usage = usage_of (traits, kind),
      .reference = kid,
      .weakness = weakness,
  });
  if (public_key_der != NULL)
    self->public_key = parse_public_key (public_key_der);
  return self;
}

/**
 * kw_sc_key_ensure_proof:
 * @self: an AES key
 * @link: a connection to its card
 * @error: where to store the error
 *
 * Finds out what the card makes of a fixed block with the key, unless that is known. It stays unknown, without an error, while
 * nobody is logged in, and where the key may neither encrypt nor decrypt.
 *
 * Returns: %FALSE when the card failed
 */
gboolean
kw_sc_key_ensure_proof (KwScKey *self, KwScLink *link, GError **error)
{
  static const guint8 algorithms[] = { ALGORITHM_CBC_ENCRYPT, ALGORITHM_CBC_DECRYPT };

  for (gsize i = 0; i < G_N_ELEMENTS (algorithms) && !self->has_proof; i++)
    {
      gboolean encrypt = algorithms[i] == ALGORITHM_CBC_ENCRYPT;
      KwScAnswer answer = { 0 };

      if (!cipher_one_block (link, self->kid, algorithms[i], (const guint8 *) PROOF_TEXT, &answer,
                             error))
        return FALSE;
      if (answer.sw != KW_SC_SW_OK)
        continue;
      if (answer.data.size != KW_SC_BLOCK_BYTES)
        {
          g_set_error_literal (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                               "The card answered with a block of the wrong size");
          return FALSE;
        }
      memcpy (encrypt ? self->proof_plain : self->proof_cipher, PROOF_TEXT, KW_SC_BLOCK_BYTES);
      memcpy (encrypt ? self->proof_cipher : self->proof_plain, answer.data.data,
              KW_SC_BLOCK_BYTES);
      self->has_proof = TRUE;
    }
  return TRUE;
}

/* What cannot be read of a key is left out; only a card that does not answer is an error. */
static KwScKey *
describe_key (KwScLink *link,
              const KwScKeyTraits *traits,
              guint8 kid,
              GBytes *description_file,
              GBytes *certificate_file,
              GError **error)
{
  g_autoptr (KwScDescription) description
      = g_bytes_get_size (description_file) > 0
            ? kw_sc_description_parse (span_of (description_file), NULL)
            : NULL;
  g_autoptr (GBytes) der = NULL;
  KwKeyKind kind = KW_KEY_KIND_RSA;
  guint bits = 0;
  gboolean is_secret = FALSE;

  if (g_bytes_get_size (certificate_file) > 0)
    der = kw_sc_cvc_dup_public_key (span_of (certificate_file), &kind, &bits, NULL);
  /* The certificate of another kind of key was left behind by somebody; the key is what its description says. */
  if (description != NULL && der != NULL && description->kind != kind)
    g_clear_pointer (&der, g_bytes_unref);
  if (description != NULL)
    return key_new (traits, kid, description->kind, der != NULL ? bits : description->bits,
                    description, der);
  if (der != NULL)
    return key_new (traits, kid, kind, bits, NULL, der);
  if (!is_secret_key (link, kid, &is_secret, error))
    return NULL;
  return is_secret ? key_new (traits, kid, KW_KEY_KIND_AES, 0, NULL, NULL)
                   /* With nothing known of it, it is of no use. */
                   : NULL;
}

/**
 * kw_sc_keys_read:
 * @link: a connection
 * @traits: what is the same for all keys of the card
 * @kid: number of a key that is there
 * @error: where to store the error
 *
 * Reads what is known of a key.
 *
 * Returns: (transfer full): the key; %NULL without an error when nothing is known of it, %NULL with one when the card failed
 */
KwScKey *
kw_sc_keys_read (KwScLink *link, const KwScKeyTraits *traits, guint8 kid, GError **error)
{
  g_autoptr (GBytes) description = read_key_file (link, KW_SC_FILE_DESCRIPTION, kid, error);
  g_autoptr (GBytes) certificate
      = description != NULL ? read_key_file (link, KW_SC_FILE_CERTIFICATE, kid, error) : NULL;
  g_autoptr (KwScKey) key = NULL;

  if (certificate == NULL)
    return NULL;
  key = describe_key (link, traits, kid, description, certificate, error);
  if (key == NULL)
    return NULL;
  if (g_bytes_get_size (description) > 0)
    key->description = g_steal_pointer (&description);
  if (kw_key_get_kind (key->key) == KW_KEY_KIND_AES && !kw_sc_key_ensure_proof (key, link, error))
    return NULL;
  return g_steal_pointer (&key);
}

static KwScKey *
find_known (GPtrArray *known, guint8 kid)
{
  for (guint i = 0; known != NULL && i < known->len; i++)
    {
      KwScKey *key = g_ptr_array_index (known, i);

      if (key->kid == kid)
        return key;
    }
  return NULL;
}

/**
 * kw_sc_keys_load:
 * @link: a connection
 * @traits: what is the same for all keys of the card
 * @known: (nullable) (element-type KwScKey): keys that need not be read again
 * @error: where to store the error
 *
 * Reads all keys of the card, ordered by their number.
 *
 * Returns: (transfer full) (element-type KwScKey): the keys; %NULL when the card failed
 */
GPtrArray *
kw_sc_keys_load (KwScLink *link, const KwScKeyTraits *traits, GPtrArray *known, GError **error)
{
  g_autoptr (GPtrArray) keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_sc_key_unref);
  g_autoptr (GArray) ids = kw_sc_card_enumerate (link, error);
  gboolean present[G_MAXUINT8 + 1] = { FALSE };

  if (ids == NULL)
    return NULL;
  for (guint i = 0; i < ids->len; i++)
    {
      guint16 id = g_array_index (ids, guint16, i);

      if (id >> 8 == KW_SC_FILE_KEY)
        present[id & 0xFF] = TRUE;
    }
  for (guint kid = 1; kid <= KW_SC_MAX_KID; kid++)
    {
      KwScKey *known_key = find_known (known, (guint8) kid);
      g_autoptr (GError) local_error = NULL;
      KwScKey *key = NULL;

      if (!present[kid])
        continue;
      key = known_key != NULL ? kw_sc_key_ref (known_key)
                              : kw_sc_keys_read (link, traits, (guint8) kid, &local_error);
      if (local_error != NULL)
        {
          g_propagate_error (error, g_steal_pointer (&local_error));
          return NULL;
        }
      if (key != NULL)
        g_ptr_array_add (keys, key);
      else
        g_debug ("Key %u of the card in reader %s has neither description nor certificate", kid,
                 kw_sc_link_get_reader (link));
    }
  return g_steal_pointer (&keys);
}
