/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-generate"

#include "config.h"

#include "kw-sc-generate.h"

#include "kw-sc-error.h"
#include "kw-sc-wrap.h"

#include <openssl/crypto.h>
#include <string.h>

/*
 * What makes keys, copies them and takes them away. All of it runs in a transaction, so that no other program takes the number
 * that was found free; and a key whose description cannot be written is removed again.
 *
 * Blocks; whoever has the link.
 */

#define CLA_ISO 0x00
#define CLA_HSM 0x80
#define INS_GENERATE_PAIR 0x46
#define INS_GENERATE_SECRET 0x48
#define INS_WRAP 0x72
#define INS_UNWRAP 0x74
#define ALGORITHM_WRAP 0x92
#define ALGORITHM_UNWRAP 0x93
#define ALGORITHM_AES_128 0xB0

#define TAG_PROFILE 0x5F29
#define TAG_AUTHORITY 0x42
#define TAG_PUBLIC_KEY 0x7F49
#define TAG_HOLDER 0x5F20
#define TAG_OID 0x06
#define TAG_EXPONENT 0x82
#define TAG_BITS 0x02
#define TAG_ALGORITHMS 0x91

/* What the request for a certificate names; nobody ever asks that authority. */
#define AUTHORITY "UTCA00001"
#define HOLDER_SEQUENCE "00001"

static const guint8 oid_rsa[]
    = { 0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x02, 0x01, 0x02 }; /* id-TA-RSA-v1-5-SHA-256 */
static const guint8 exponent[] = { 0x01, 0x00, 0x01 };
static const guint8 profile[] = { 0x00 };

/* CBC both ways, CMAC, and to be wrapped. Without 92 a key could never be cloned. */
static const guint8 aes_algorithms[] = { 0x10, 0x11, 0x18, 0x92, 0x93 };

/**
 * kw_sc_list_kids:
 * @link: a connection
 * @error: where to store the error
 *
 * Looks which numbers are taken by a key or by what somebody left of one.
 *
 * Returns: (transfer full) (element-type guint): the numbers, each once; %NULL with an error of the card
 */
GArray *
kw_sc_list_kids (KwScLink *link, GError **error)
{
  g_autoptr (GArray) ids = kw_sc_card_enumerate (link, error);
  gboolean taken[G_MAXUINT8 + 1] = { FALSE };
  GArray *kids = NULL;

  if (ids == NULL)
    return NULL;
  for (guint i = 0; i < ids->len; i++)
    {
      guint16 id = g_array_index (ids, guint16, i);

      if (id >> 8 == KW_SC_FILE_KEY || id >> 8 == KW_SC_FILE_DESCRIPTION
          || id >> 8 == KW_SC_FILE_CERTIFICATE)
        taken[id & 0xFF] = TRUE;
    }
  kids = g_array_new (FALSE, FALSE, sizeof (guint));
  for (guint kid = 1; kid <= KW_SC_MAX_KID; kid++)
    {
      if (taken[kid])
        g_array_append_val (kids, kid);
    }
  return kids;
}

static gboolean
is_taken (const GArray *kids, guint kid)
{
  for (guint i = 0; i < kids->len; i++)
    {
      if (g_array_index (kids, guint, i) == kid)
        return TRUE;
    }
  return FALSE;
}

/**
 * kw_sc_find_free_kid:
 * @link: a connection, in a transaction
 * @error: where to store the error
 *
 * Looks for a number under which there is neither a key nor what somebody left of one. It comes after all that are taken,
 * as long as there is such a number: keys are counted by it, and a new one must not move into the place of another.
 *
 * Returns: the number; 0 with %KW_ERROR_TOKEN_FULL or an error of the card
 */
guint8
kw_sc_find_free_kid (KwScLink *link, GError **error)
{
  g_autoptr (GArray) kids = kw_sc_list_kids (link, error);
  guint last = 0;

  if (kids == NULL)
    return 0;
  if (kids->len > 0)
    last = g_array_index (kids, guint, kids->len - 1);
  if (last < KW_SC_MAX_KID)
    return (guint8) (last + 1);
  for (guint kid = 1; kid < KW_SC_MAX_KID; kid++)
    {
      if (!is_taken (kids, kid))
        return (guint8) kid;
    }
  g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_FULL,
               "The card holds %d keys, which is as many as it can number", KW_SC_MAX_KID);
  return 0;
}

/**
 * kw_sc_check_kid_is_free:
 * @link: a connection, in a transaction
 * @kid: a number
 * @error: where to store the error
 *
 * Looks whether a number that was found free on all cards still is on this one.
 *
 * Returns: %FALSE with %KW_ERROR_KEY_EXISTS or an error of the card
 */
gboolean
kw_sc_check_kid_is_free (KwScLink *link, guint kid, GError **error)
{
  g_autoptr (GArray) kids = kw_sc_list_kids (link, error);

  if (kids == NULL)
    return FALSE;
  if (kid > 0 && kid <= KW_SC_MAX_KID && !is_taken (kids, kid))
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_KEY_EXISTS,
               "Number %u, which the key was to have on all cards, was taken meanwhile; try again",
               kid);
  return FALSE;
}

static gboolean
generate_rsa (KwScLink *link, const KwScNewKey *wanted, guint8 kid, GError **error)
{
  g_autofree char *holder = g_strconcat (wanted->serial, HOLDER_SEQUENCE, NULL);
  const guint8 bits[] = { (guint8) (wanted->bits >> 8), (guint8) (wanted->bits & 0xFF) };
  g_autoptr (GByteArray) public_key = g_byte_array_new ();
  g_autoptr (GByteArray) data = g_byte_array_new ();
  g_autoptr (GByteArray) request = NULL;
  g_autoptr (GError) local_error = NULL;
  KwScCommand command = { CLA_ISO, INS_GENERATE_PAIR, kid, 0x00, NULL, 0, KW_SC_APDU_ANY };
  KwScAnswer answer = { 0 };
  KwScSpan written = { 0 };

  kw_sc_tlv_append (public_key, TAG_OID, oid_rsa, sizeof oid_rsa);
  kw_sc_tlv_append (public_key, TAG_EXPONENT, exponent, sizeof exponent);
  kw_sc_tlv_append (public_key, TAG_BITS, bits, sizeof bits);
  kw_sc_tlv_append (data, TAG_PROFILE, profile, sizeof profile);
  kw_sc_tlv_append (data, TAG_AUTHORITY, AUTHORITY, strlen (AUTHORITY));
  kw_sc_tlv_append_array (data, TAG_PUBLIC_KEY, public_key);
  kw_sc_tlv_append (data, TAG_HOLDER, holder, strlen (holder));
  command.data = data->data;
  command.n_data = data->len;
  if (!kw_sc_card_run (link, &command, "GENERATE KEY PAIR", &answer, error))
    return FALSE;
  request = g_byte_array_new ();
  g_byte_array_append (request, answer.data.data, (guint) answer.data.size);
  /* The card keeps the request itself; one that does not gets it written. */
  {
    g_autoptr (GByteArray) kept
        = kw_sc_card_read_file (link, KW_SC_FILE_ID (KW_SC_FILE_CERTIFICATE, kid), &local_error);

    if (kept != NULL)
      return TRUE;
  }
  if (!g_error_matches (local_error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND) || request->len == 0)
    {
      g_propagate_error (error, g_steal_pointer (&local_error));
      return FALSE;
    }
  written = (KwScSpan){ request->data, request->len };
  return kw_sc_card_write_file (link, KW_SC_FILE_ID (KW_SC_FILE_CERTIFICATE, kid), written, error);
}

static gboolean
generate_aes (KwScLink *link, const KwScNewKey *wanted, guint8 kid, GError **error)
{
  g_autoptr (GByteArray) data = g_byte_array_new ();
  KwScCommand command = { CLA_ISO, INS_GENERATE_SECRET,
                          kid,     (guint8) (ALGORITHM_AES_128 + wanted->bits / 64 - 2),
                          NULL,    0,
                          0 };

  kw_sc_tlv_append (data, TAG_ALGORITHMS, aes_algorithms, sizeof aes_algorithms);
  command.data = data->data;
  command.n_data = data->len;
  return kw_sc_card_run (link, &command, "GENERATE SYMMETRIC KEY", NULL, error);
}

/*
 * After a failure: all that is under a number that was free before. Within a transaction a login is not lost half-way, so
 * without one nothing was made.
 */
static void
clean_up (KwScLink *link, guint8 kid, const GError *reason)
{
  static const guint8 kinds[] = { KW_SC_FILE_KEY, KW_SC_FILE_DESCRIPTION, KW_SC_FILE_CERTIFICATE };

  if (g_error_matches (reason, KW_ERROR, KW_ERROR_NOT_LOGGED_IN))
    return;
  for (gsize i = 0; i < G_N_ELEMENTS (kinds); i++)
    {
      g_autoptr (GError) error = NULL;

      if (!kw_sc_card_delete (link, KW_SC_FILE_ID (kinds[i], kid), &error)
          && !g_error_matches (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND))
        g_warning (
            "What is left of key %u, which could not be made, cannot be removed from the card in "
            "reader %s: %s",
            kid, kw_sc_link_get_reader (link), error->message);
    }
}

static gboolean
generate_with_description (KwScLink *link,
                           const KwScNewKey *wanted,
                           guint8 kid,
                           KwScSpan description,
                           GError **error)
{
  return (wanted->kind == KW_KEY_KIND_AES ? generate_aes (link, wanted, kid, error)
                                          : generate_rsa (link, wanted, kid, error))
         && kw_sc_card_write_file (link, KW_SC_FILE_ID (KW_SC_FILE_DESCRIPTION, kid), description,
                                   error);
}

/**
 * kw_sc_generate_key:
 * @link: a connection, in a transaction and logged in
 * @wanted: what is to be made: an RSA or AES key
 * @kid: from kw_sc_find_free_kid()
 * @error: where to store the error
 *
 * Makes a key and describes it; if anything fails, nothing is left of it.
 *
 * Returns: %FALSE with %KW_ERROR_TOKEN_FULL or another error
 */
gboolean
kw_sc_generate_key (KwScLink *link, const KwScNewKey *wanted, guint8 kid, GError **error)
{
  g_autoptr (GByteArray) description
      = kw_sc_description_build (wanted->kind, wanted->bits, wanted->id, wanted->label, kid, error);
  g_autoptr (GError) local_error = NULL;
  KwScSpan span = { 0 };

  if (description == NULL)
    return FALSE;
  span = (KwScSpan){ description->data, description->len };
  if (generate_with_description (link, wanted, kid, span, &local_error))
    return TRUE;
  clean_up (link, kid, local_error);
  g_propagate_error (error, g_steal_pointer (&local_error));
  return FALSE;
}

/**
 * kw_sc_delete_key:
 * @link: a connection, in a transaction and logged in
 * @kid: number of a key
 * @error: where to store the error
 *
 * Removes a key, its description and its certificate.
 *
 * Returns: %FALSE with an error; the key is removed first
 */
gboolean
kw_sc_delete_key (KwScLink *link, guint8 kid, GError **error)
{
  static const guint8 kinds[] = { KW_SC_FILE_DESCRIPTION, KW_SC_FILE_CERTIFICATE };

  if (!kw_sc_card_delete (link, KW_SC_FILE_ID (KW_SC_FILE_KEY, kid), error))
    return FALSE;
  for (gsize i = 0; i < G_N_ELEMENTS (kinds); i++)
    {
      g_autoptr (GError) local_error = NULL;

      if (!kw_sc_card_delete (link, KW_SC_FILE_ID (kinds[i], kid), &local_error)
          && !g_error_matches (local_error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND))
        {
          g_propagate_error (error, g_steal_pointer (&local_error));
          return FALSE;
        }
    }
  return TRUE;
}

/* --- copies --- */

static GByteArray *
wrap (KwScLink *link, guint8 kid, GError **error)
{
  const KwScCommand command = { CLA_HSM, INS_WRAP, kid, ALGORITHM_WRAP, NULL, 0, KW_SC_APDU_ANY };
  KwScAnswer answer = { 0 };
  GByteArray *blob = NULL;

  if (!kw_sc_card_exchange (link, &command, &answer, error))
    return NULL;
  switch (answer.sw)
    {
    case KW_SC_SW_OK:
      blob = g_byte_array_new ();
      g_byte_array_append (blob, answer.data.data, (guint) answer.data.size);
      return blob;
    case KW_SC_SW_UNKNOWN_INSTRUCTION:
      g_set_error_literal (
          error, KW_ERROR, KW_ERROR_NOT_SUPPORTED,
          "The card was initialised without DKEK shares, so its keys can never leave it");
      return NULL;
    case KW_SC_SW_NOT_ALLOWED:
    case KW_SC_SW_NOT_PERMITTED:
      g_set_error (
          error, KW_ERROR, KW_ERROR_NOT_SUPPORTED,
          "Key %u cannot be wrapped: DKEK shares are missing, or it was made without permission for it",
          kid);
      return NULL;
    default:
      kw_sc_set_sw_error (error, answer.sw, "WRAP");
      return NULL;
    }
}

static KwScSpan
span_of_array (GByteArray *array)
{
  return array != NULL ? (KwScSpan){ array->data, array->len } : (KwScSpan){ 0 };
}

/* A key without a description goes on the way with one that says how it is known here. */
static GByteArray *
ensure_description (KwScKey *key, GByteArray *blob, GError **error)
{
  guint bits = kw_key_get_bits (key->key);
  GByteArray *description = NULL;
  gsize size = 0;

  if (key->description != NULL)
    {
      const guint8 *data = g_bytes_get_data (key->description, &size);

      description = g_byte_array_new ();
      g_byte_array_append (description, data, (guint) size);
      return description;
    }
  if (bits == 0)
    bits = kw_sc_wrapped_guess_aes_bits (span_of_array (blob));
  return kw_sc_description_build (kw_key_get_kind (key->key), bits, kw_key_get_id (key->key),
                                  kw_key_get_label (key->key), key->kid, error);
}

/**
 * kw_sc_export_key:
 * @link: a connection, in a transaction and logged in
 * @key: a key
 * @error: where to store the error
 *
 * Wraps a key under the DKEK.
 *
 * Returns: (transfer full): a wrapped key, as sc-hsm-tool has it in files; %NULL with %KW_ERROR_NOT_SUPPORTED or another error
 */
GBytes *
kw_sc_export_key (KwScLink *link, KwScKey *key, GError **error)
{
  g_autoptr (GByteArray) blob = wrap (link, key->kid, error);
  g_autoptr (GByteArray) description = NULL;
  g_autoptr (GByteArray) certificate = NULL;
  g_autoptr (GError) local_error = NULL;
  g_autoptr (KwScWrapped) check = NULL;
  g_autoptr (GBytes) wrapped = NULL;

  if (blob == NULL)
    return NULL;
  description = ensure_description (key, blob, error);
  if (description == NULL)
    return NULL;
  if (kw_key_get_kind (key->key) != KW_KEY_KIND_AES)
    certificate = kw_sc_card_read_file (link, KW_SC_FILE_ID (KW_SC_FILE_CERTIFICATE, key->kid),
                                        &local_error);
  if (local_error != NULL && !g_error_matches (local_error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND))
    {
      g_propagate_error (error, g_steal_pointer (&local_error));
      return NULL;
    }
  wrapped = kw_sc_wrapped_build (span_of_array (blob), span_of_array (description),
                                 span_of_array (certificate));
  check = kw_sc_wrapped_parse ((KwScSpan){ g_bytes_get_data (wrapped, NULL),
                                           g_bytes_get_size (wrapped) },
                               NULL);
  if (check == NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                   "What the card made of key %u is no wrapped key", key->kid);
      return NULL;
    }
  return g_steal_pointer (&wrapped);
}

/**
 * kw_sc_check_transport_key:
 * @link: a connection
 * @check_value: KW_SC_CHECK_VALUE_BYTES bytes: of the DKEK that a key was wrapped with
 * @error: where to store the error
 *
 * Looks whether a card can take a wrapped key.
 *
 * Returns: %FALSE with %KW_ERROR_NOT_SUPPORTED when it has no DKEK or another one
 */
gboolean
kw_sc_check_transport_key (KwScLink *link, const guint8 *check_value, GError **error)
{
  KwScDkek dkek = { 0 };

  if (!kw_sc_card_read_dkek (link, &dkek, error))
    return FALSE;
  if (!dkek.exists)
    g_set_error_literal (
        error, KW_ERROR, KW_ERROR_NOT_SUPPORTED,
        "The card was initialised without DKEK shares, so it takes no keys of others");
  else if (dkek.n_missing > 0)
    g_set_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED,
                 "The card still waits for %u of %u DKEK shares", dkek.n_missing, dkek.n_shares);
  else if (CRYPTO_memcmp (dkek.check_value, check_value, sizeof dkek.check_value) != 0)
    g_set_error_literal (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED,
                         "The key was wrapped with another DKEK than the card has");
  else
    return TRUE;
  return FALSE;
}

static gboolean
unwrap_command (KwScLink *link, guint8 kid, KwScSpan data, GError **error)
{
  const KwScCommand command
      = { CLA_HSM, INS_UNWRAP, kid, ALGORITHM_UNWRAP, data.data, data.size, 0 };
  KwScAnswer answer = { 0 };

  if (!kw_sc_card_exchange (link, &command, &answer, error))
    return FALSE;
  if (answer.sw == KW_SC_SW_OK)
    return TRUE;
  /* The DKEK is the right one, so the blob is not as the card made it. */
  if (answer.sw == KW_SC_SW_WRONG_DATA)
    g_set_error_literal (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                         "The wrapped key was damaged on the way");
  else
    kw_sc_set_sw_error (error, answer.sw, "UNWRAP");
  return FALSE;
}

/* A blob that is too long for one command is put into a file for the card to fetch. */
static gboolean
unwrap (KwScLink *link, guint8 kid, KwScSpan blob, GError **error)
{
  const KwScSpan nothing = { 0 };
  gboolean ok = FALSE;

  if (blob.size <= KW_SC_APDU_MAX_DATA)
    return unwrap_command (link, kid, blob, error);
  kw_sc_card_delete (link, KW_SC_EF_WRAPPED_KEY, NULL);
  ok = kw_sc_card_write_file (link, KW_SC_EF_WRAPPED_KEY, blob, error)
       && unwrap_command (link, kid, nothing, error);
  kw_sc_card_delete (link, KW_SC_EF_WRAPPED_KEY, NULL);
  return ok;
}

/* The description names the number that the key had on the other card. */
static GBytes *
renumber (const KwScWrapped *wrapped, guint8 kid)
{
  g_autofree guint8 *copy = g_memdup2 (wrapped->description.data, wrapped->description.size);
  gsize offset = wrapped->parsed_description->reference_offset;

  if (offset > 0 && offset < wrapped->description.size && kid < 0x80)
    copy[offset] = kid;
  return g_bytes_new_take (g_steal_pointer (&copy), wrapped->description.size);
}

static gboolean
import_parts (KwScLink *link, const KwScWrapped *wrapped, guint8 kid, GError **error)
{
  g_autoptr (GBytes) description = renumber (wrapped, kid);
  KwScSpan span = { 0 };

  span.data = g_bytes_get_data (description, &span.size);
  return unwrap (link, kid, wrapped->blob, error)
         && kw_sc_card_write_file (link, KW_SC_FILE_ID (KW_SC_FILE_DESCRIPTION, kid), span, error)
         && (wrapped->certificate.size == 0
             || kw_sc_card_write_file (link, KW_SC_FILE_ID (KW_SC_FILE_CERTIFICATE, kid),
                                       wrapped->certificate, error));
}

/**
 * kw_sc_import_key:
 * @link: a connection, in a transaction and logged in
 * @wrapped_key: a wrapped key that kw_sc_wrapped_parse() takes
 * @kid: from kw_sc_find_free_kid()
 * @error: where to store the error
 *
 * Takes a wrapped key; if anything fails, nothing is left of it.
 *
 * Returns: %FALSE with %KW_ERROR_NOT_SUPPORTED, %KW_ERROR_INVALID_ARGUMENT, %KW_ERROR_TOKEN_FULL or another error
 */
gboolean
kw_sc_import_key (KwScLink *link, KwScSpan wrapped_key, guint8 kid, GError **error)
{
  g_autoptr (KwScWrapped) wrapped = kw_sc_wrapped_parse (wrapped_key, error);
  g_autoptr (GError) local_error = NULL;

  if (wrapped == NULL || !kw_sc_check_transport_key (link, wrapped->check_value, error))
    return FALSE;
  if (import_parts (link, wrapped, kid, &local_error))
    return TRUE;
  clean_up (link, kid, local_error);
  g_propagate_error (error, g_steal_pointer (&local_error));
  return FALSE;
}
