/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * CardTlv:
 * @tag: tag of one or two bytes, as in 0x81 or 0x7F49
 * @value: its value, inside the bytes that were read
 * @size: bytes of @value
 * @whole: the element with tag and length
 * @whole_size: bytes of @whole
 *
 * One element of BER-TLV (ISO/IEC 7816-4, 5.2.2).
 */
typedef struct
{
  guint16 tag;
  const guint8 *value;
  gsize size;
  const guint8 *whole;
  gsize whole_size;
} CardTlv;

/**
 * CardTlvReader:
 *
 * A place in a row of elements. Set both members to what is to be read.
 */
typedef struct
{
  const guint8 *bytes;
  gsize size;
} CardTlvReader;

gboolean card_tlv_next (CardTlvReader *reader, CardTlv *out_tlv);

gboolean card_tlv_find (const guint8 *bytes, gsize size, guint16 tag, CardTlv *out_tlv);

gsize card_tlv_get_size (guint16 tag, gsize size);

void card_tlv_append (GByteArray *array, guint16 tag, const guint8 *value, gsize size);

G_END_DECLS
