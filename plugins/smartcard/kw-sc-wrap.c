/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-wrap"

#include "config.h"

#include "kw-sc-wrap.h"

#include "kw-error.h"

#include <string.h>

/*
 * Wrapped keys as sc-hsm-tool keeps them in files: the blob of the card, the description and, of a pair, the certificate,
 * in one sequence. Of the blob only what is not encrypted is looked at here: which DKEK it was wrapped with, and its kind.
 */

#define TAG_SEQUENCE 0x30
#define TAG_OCTETS 0x04
#define TAG_REQUEST 0x67
#define TAG_CERTIFICATE 0x7F21

#define TYPE_RSA 5
#define TYPE_RSA_CRT 6
#define TYPE_EC 12
#define TYPE_AES 15
#define MAC_BYTES 16
#define MIN_BLOB (KW_SC_CHECK_VALUE_BYTES + 1 + 4 * 2 + 16 + MAC_BYTES)
#define N_FIELDS 4

static gboolean
kind_of_blob (KwScSpan blob, KwKeyKind *out_kind)
{
  if (blob.size < MIN_BLOB || blob.size > KW_SC_MAX_FILE_BYTES)
    return FALSE;
  switch (blob.data[KW_SC_CHECK_VALUE_BYTES])
    {
    case TYPE_RSA:
    case TYPE_RSA_CRT:
      *out_kind = KW_KEY_KIND_RSA;
      return TRUE;
    case TYPE_EC:
      *out_kind = KW_KEY_KIND_EC;
      return TRUE;
    case TYPE_AES:
      *out_kind = KW_KEY_KIND_AES;
      return TRUE;
    default:
      return FALSE;
    }
}

static gboolean
is_certificate (guint tag)
{
  return tag == TAG_REQUEST || tag == TAG_CERTIFICATE || tag == TAG_SEQUENCE;
}

static gpointer
set_no_wrapped_key (GError **error)
{
  g_set_error_literal (
      error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
      "This is no key that a SmartCard-HSM wrapped, with its description, or it is damaged");
  return NULL;
}

/**
 * kw_sc_wrapped_parse:
 * @file: a wrapped key
 * @error: where to store the error
 *
 * Takes a wrapped key apart. Any thread.
 *
 * Returns: (transfer full): its parts; %NULL with %KW_ERROR_INVALID_ARGUMENT
 */
KwScWrapped *
kw_sc_wrapped_parse (KwScSpan file, GError **error)
{
  g_autoptr (KwScWrapped) wrapped = g_new0 (KwScWrapped, 1);
  KwScSpan parts = { 0 };
  KwScTlv description = { 0 };
  KwScTlv certificate = { 0 };
  KwKeyKind kind = KW_KEY_KIND_RSA;

  if (!kw_sc_tlv_read (&file, TAG_SEQUENCE, &parts) || file.size > 0
      || !kw_sc_tlv_read (&parts, TAG_OCTETS, &wrapped->blob)
      || !kind_of_blob (wrapped->blob, &kind) || !kw_sc_tlv_next (&parts, &description))
    return set_no_wrapped_key (error);
  wrapped->description = description.whole;
  wrapped->parsed_description = kw_sc_description_parse (description.whole, NULL);
  if (wrapped->parsed_description == NULL || wrapped->parsed_description->kind != kind)
    return set_no_wrapped_key (error);
  if (parts.size > 0)
    {
      if (!kw_sc_tlv_next (&parts, &certificate) || !is_certificate (certificate.tag)
          || parts.size > 0)
        return set_no_wrapped_key (error);
      wrapped->certificate = certificate.whole;
    }
  memcpy (wrapped->check_value, wrapped->blob.data, sizeof wrapped->check_value);
  return g_steal_pointer (&wrapped);
}

/**
 * kw_sc_wrapped_free:
 * @wrapped: (transfer full): a wrapped key taken apart
 *
 * Frees what it owns. Any thread.
 */
void
kw_sc_wrapped_free (KwScWrapped *wrapped)
{
  g_return_if_fail (wrapped != NULL);

  g_clear_pointer (&wrapped->parsed_description, kw_sc_description_free);
  g_free (wrapped);
}

static void
append_span (GByteArray *array, KwScSpan span)
{
  if (span.size > 0)
    g_byte_array_append (array, span.data, (guint) span.size);
}

/**
 * kw_sc_wrapped_build:
 * @blob: what the card gave
 * @description: the key's description
 * @certificate: its certificate, perhaps empty
 *
 * Puts a wrapped key together. Any thread.
 *
 * Returns: (transfer full): a wrapped key
 */
GBytes *
kw_sc_wrapped_build (KwScSpan blob, KwScSpan description, KwScSpan certificate)
{
  g_autoptr (GByteArray) parts = g_byte_array_new ();
  GByteArray *file = g_byte_array_new ();

  kw_sc_tlv_append (parts, TAG_OCTETS, blob.data, blob.size);
  append_span (parts, description);
  append_span (parts, certificate);
  kw_sc_tlv_append_array (file, TAG_SEQUENCE, parts);
  return g_byte_array_free_to_bytes (file);
}

/**
 * kw_sc_wrapped_guess_aes_bits:
 * @blob: what the card gave for an AES key
 *
 * Tells the size of a key from the length of its blob. One of 192 bits is as long as one of 256, which is the more usual. Any
 * thread.
 *
 * Returns: 128 or 256; 0 when @blob is none
 */
guint
kw_sc_wrapped_guess_aes_bits (KwScSpan blob)
{
  KwKeyKind kind = KW_KEY_KIND_RSA;
  KwScSpan rest = blob;

  if (!kind_of_blob (blob, &kind) || kind != KW_KEY_KIND_AES)
    return 0;
  rest.data += KW_SC_CHECK_VALUE_BYTES + 1;
  rest.size -= KW_SC_CHECK_VALUE_BYTES + 1;
  for (guint i = 0; i < N_FIELDS; i++)
    {
      gsize length = 0;

      if (rest.size < 2)
        return 0;
      length = (gsize) rest.data[0] << 8 | rest.data[1];
      if (rest.size - 2 < length)
        return 0;
      rest.data += 2 + length;
      rest.size -= 2 + length;
    }
  /* Eight random bytes, a length, the key, and padding to whole blocks. */
  return rest.size <= MAC_BYTES + 32 ? 128 : 256;
}
