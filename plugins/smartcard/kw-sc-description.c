/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-description"

#include "config.h"

#include "kw-sc-description.h"

#include "kw-error.h"
#include "kw-limits.h"

#include <string.h>

/*
 * The descriptions of keys in EF C4xx, which hosts write and cards only keep: private keys of PKCS#15 (ISO/IEC 7816-15, 8.3),
 * RSA with tag 30 and EC with A0, and secret keys with A8. Each is a sequence of attributes that all objects have, one of those
 * all keys have, one that depends on the kind, and one in A1.
 */

#define TAG_RSA 0x30
#define TAG_EC 0xA0
#define TAG_AES 0xA8
#define TAG_SEQUENCE 0x30
#define TAG_UTF8 0x0C
#define TAG_BITS 0x03
#define TAG_OCTETS 0x04
#define TAG_INTEGER 0x02
#define TAG_SUBCLASS 0xA0
#define TAG_TYPE 0xA1

#define AUTH_ID 1 /* the user PIN */
#define MAX_KEY_BITS 16384

/* A bit string of one byte: how many bits at its end do not count, and the bits. */
static const guint8 flags_private_modifiable[] = { 0x06, 0xC0 };
static const guint8 usage_rsa[] = { 0x04, 0x70 }; /* decrypt, sign, sign with recovery */
static const guint8 usage_ec[] = { 0x05, 0x20 };  /* sign */
static const guint8 usage_aes[] = { 0x02, 0xCC }; /* encrypt, decrypt, wrap, unwrap */

static gpointer
set_unreadable (GError **error)
{
  g_set_error_literal (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                       "The description of a key on the card cannot be read");
  return NULL;
}

static gboolean
kind_of_tag (guint tag, KwKeyKind *out_kind)
{
  switch (tag)
    {
    case TAG_RSA:
      *out_kind = KW_KEY_KIND_RSA;
      return TRUE;
    case TAG_EC:
      *out_kind = KW_KEY_KIND_EC;
      return TRUE;
    case TAG_AES:
      *out_kind = KW_KEY_KIND_AES;
      return TRUE;
    default:
      return FALSE;
    }
}

/* The first number in @attributes, two sequences deep at most: the size of a key stands behind an empty path. */
static guint
find_bits (KwScSpan attributes)
{
  KwScSpan inner = { 0 };
  KwScSpan number = { 0 };
  guint bits = 0;

  if (!kw_sc_tlv_find (attributes, TAG_SEQUENCE, &inner))
    return 0;
  if (!kw_sc_tlv_find (inner, TAG_INTEGER, &number) || !kw_sc_span_to_uint (number, &bits)
      || bits > MAX_KEY_BITS)
    return 0;
  return bits;
}

static gboolean
parse_key_attributes (KwScSpan file, KwScSpan attributes, KwScDescription *description)
{
  KwScSpan id = { 0 };
  KwScSpan reference = { 0 };

  if (!kw_sc_tlv_read (&attributes, TAG_OCTETS, &id) || id.size == 0
      || id.size > KW_MAX_KEY_ID_BYTES)
    return FALSE;
  description->id = g_bytes_new (id.data, id.size);
  if (kw_sc_tlv_find (attributes, TAG_INTEGER, &reference) && reference.size == 1)
    description->reference_offset = (gsize) (reference.data - file.data);
  return TRUE;
}

/**
 * kw_sc_description_parse:
 * @file: content of a key's EF C4xx
 * @error: where to store the error
 *
 * Reads a description. Any thread.
 *
 * Returns: (transfer full): what it tells; %NULL with %KW_ERROR_DEVICE_FAILED
 */
KwScDescription *
kw_sc_description_parse (KwScSpan file, GError **error)
{
  g_autoptr (KwScDescription) description = g_new0 (KwScDescription, 1);
  KwScSpan rest = file;
  KwScTlv whole = { 0 };
  KwScSpan object = { 0 };
  KwScSpan key = { 0 };
  KwScSpan special = { 0 };
  KwScSpan label = { 0 };

  if (file.size > KW_SC_MAX_DESCRIPTION_BYTES || !kw_sc_tlv_next (&rest, &whole)
      || !kind_of_tag (whole.tag, &description->kind)
      || !kw_sc_tlv_read (&whole.value, TAG_SEQUENCE, &object)
      || !kw_sc_tlv_read (&whole.value, TAG_SEQUENCE, &key)
      || !parse_key_attributes (file, key, description))
    return set_unreadable (error);
  if (kw_sc_tlv_find (object, TAG_UTF8, &label) && label.size <= KW_MAX_KEY_LABEL_BYTES)
    description->label = g_strndup ((const char *) label.data, label.size);
  else
    description->label = g_strdup ("");
  if (kw_sc_tlv_find (whole.value, description->kind == KW_KEY_KIND_AES ? TAG_SUBCLASS : TAG_TYPE,
                      &special))
    description->bits = find_bits (special);
  return g_steal_pointer (&description);
}

/**
 * kw_sc_description_free:
 * @description: (transfer full): a description
 *
 * Frees a description. Any thread.
 */
void
kw_sc_description_free (KwScDescription *description)
{
  g_return_if_fail (description != NULL);

  g_clear_pointer (&description->id, g_bytes_unref);
  g_free (description->label);
  g_free (description);
}

static void
append_bits (GByteArray *array, KwKeyKind kind)
{
  switch (kind)
    {
    case KW_KEY_KIND_AES:
      kw_sc_tlv_append (array, TAG_BITS, usage_aes, sizeof usage_aes);
      return;
    case KW_KEY_KIND_EC:
      kw_sc_tlv_append (array, TAG_BITS, usage_ec, sizeof usage_ec);
      return;
    case KW_KEY_KIND_RSA:
    default:
      kw_sc_tlv_append (array, TAG_BITS, usage_rsa, sizeof usage_rsa);
      return;
    }
}

/* Attributes of the type: an empty path and, where they tell it, the size. */
static void
append_type (GByteArray *array, guint bits)
{
  g_autoptr (GByteArray) path = g_byte_array_new ();
  g_autoptr (GByteArray) fields = g_byte_array_new ();
  g_autoptr (GByteArray) type = g_byte_array_new ();

  kw_sc_tlv_append (path, TAG_OCTETS, NULL, 0);
  kw_sc_tlv_append_array (fields, TAG_SEQUENCE, path);
  if (bits > 0)
    kw_sc_tlv_append_uint (fields, TAG_INTEGER, bits);
  kw_sc_tlv_append_array (type, TAG_SEQUENCE, fields);
  kw_sc_tlv_append_array (array, TAG_TYPE, type);
}

static void
append_secret_size (GByteArray *array, guint bits)
{
  g_autoptr (GByteArray) fields = g_byte_array_new ();
  g_autoptr (GByteArray) subclass = g_byte_array_new ();

  kw_sc_tlv_append_uint (fields, TAG_INTEGER, bits);
  kw_sc_tlv_append_array (subclass, TAG_SEQUENCE, fields);
  kw_sc_tlv_append_array (array, TAG_SUBCLASS, subclass);
}

/**
 * kw_sc_description_build:
 * @kind: kind of the key
 * @bits: its size
 * @id: CKA_ID, 1 to KW_MAX_KEY_ID_BYTES bytes
 * @label: (nullable): CKA_LABEL, at most KW_MAX_KEY_LABEL_BYTES bytes
 * @kid: its number on the card
 * @error: where to store the error
 *
 * Writes a description of a key: a private key as OpenSC does, a secret one as the vendor's programs do. Any thread.
 *
 * Returns: (transfer full): content for EF C4xx; %NULL with %KW_ERROR_INVALID_ARGUMENT when id or label are too long
 */
GByteArray *
kw_sc_description_build (KwKeyKind kind,
                         guint bits,
                         GBytes *id,
                         const char *label,
                         guint8 kid,
                         GError **error)
{
  g_autoptr (GByteArray) object = g_byte_array_new ();
  g_autoptr (GByteArray) key = g_byte_array_new ();
  g_autoptr (GByteArray) content = g_byte_array_new ();
  GByteArray *file = NULL;
  const guint8 auth_id = AUTH_ID;
  gsize n_label = label != NULL ? strlen (label) : 0;

  if (g_bytes_get_size (id) == 0 || g_bytes_get_size (id) > KW_MAX_KEY_ID_BYTES
      || n_label > KW_MAX_KEY_LABEL_BYTES)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                   "On a card, the id of a key has 1 to %d bytes and its label at most %d",
                   KW_MAX_KEY_ID_BYTES, KW_MAX_KEY_LABEL_BYTES);
      return NULL;
    }
  kw_sc_tlv_append (object, TAG_UTF8, label, n_label);
  if (kind != KW_KEY_KIND_AES)
    {
      kw_sc_tlv_append (object, TAG_BITS, flags_private_modifiable,
                        sizeof flags_private_modifiable);
      kw_sc_tlv_append (object, TAG_OCTETS, &auth_id, sizeof auth_id);
    }
  kw_sc_tlv_append (key, TAG_OCTETS, g_bytes_get_data (id, NULL), g_bytes_get_size (id));
  append_bits (key, kind);
  if (kind != KW_KEY_KIND_AES)
    kw_sc_tlv_append_uint (key, TAG_INTEGER, kid);
  kw_sc_tlv_append_array (content, TAG_SEQUENCE, object);
  kw_sc_tlv_append_array (content, TAG_SEQUENCE, key);
  if (kind == KW_KEY_KIND_AES)
    append_secret_size (content, bits);
  append_type (content, kind == KW_KEY_KIND_AES ? 0 : bits);
  file = g_byte_array_new ();
  kw_sc_tlv_append_array (file,
                          kind == KW_KEY_KIND_AES  ? TAG_AES
                          : kind == KW_KEY_KIND_EC ? TAG_EC
                                                   : TAG_RSA,
                          content);
  return file;
}
