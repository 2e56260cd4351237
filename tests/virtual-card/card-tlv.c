/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-tlv.h"

#define LOW_TAG_BITS 0x1F
#define MORE_TAG_BYTES 0x80
#define LONG_LENGTH 0x80

/**
 * card_tlv_next:
 * @reader: where to read; moves behind the element
 * @out_tlv: (out): the element
 *
 * Reads one element. Tags of one or two bytes and lengths of up to two bytes are taken; a length need not be written in
 * the shortest way.
 *
 * Returns: %FALSE at the end and when there is no sound element: then @reader stays, so its size tells the two apart
 */
gboolean
card_tlv_next (CardTlvReader *reader, CardTlv *out_tlv)
{
  const guint8 *bytes = reader->bytes;
  gsize size = reader->size;
  gsize at = 0;
  guint16 tag;
  gsize length;

  if (size < 2)
    return FALSE;

  tag = bytes[at++];
  if ((tag & LOW_TAG_BITS) == LOW_TAG_BITS)
    {
      if (bytes[at] & MORE_TAG_BYTES)
        return FALSE;
      tag = (guint16) (tag << 8 | bytes[at++]);
    }

  if (at >= size)
    return FALSE;
  length = bytes[at++];
  if (length & LONG_LENGTH)
    {
      guint n_bytes = length & ~LONG_LENGTH;

      if (n_bytes < 1 || n_bytes > 2 || size - at < n_bytes)
        return FALSE;
      length = 0;
      while (n_bytes-- > 0)
        length = length << 8 | bytes[at++];
    }

  if (size - at < length)
    return FALSE;

  *out_tlv = (CardTlv){
    .tag = tag, .value = bytes + at, .size = length, .whole = bytes, .whole_size = at + length
  };
  reader->bytes += at + length;
  reader->size -= at + length;
  return TRUE;
}

/**
 * card_tlv_find:
 * @bytes: a row of elements
 * @size: bytes of it
 * @tag: which one is wanted
 * @out_tlv: (out): the first with that tag
 *
 * Returns: %FALSE when it is not there, or something before it is no element
 */
gboolean
card_tlv_find (const guint8 *bytes, gsize size, guint16 tag, CardTlv *out_tlv)
{
  CardTlvReader reader = { bytes, size };

  while (card_tlv_next (&reader, out_tlv))
    {
      if (out_tlv->tag == tag)
        return TRUE;
    }
  return FALSE;
}

/**
 * card_tlv_get_size:
 * @tag: tag of one or two bytes
 * @size: bytes of the value
 *
 * Returns: how many bytes card_tlv_append() appends for them
 */
gsize
card_tlv_get_size (guint16 tag, gsize size)
{
  return (tag > G_MAXUINT8 ? 2U : 1U) + (size >= 0x100 ? 3U : size >= LONG_LENGTH ? 2U : 1U) + size;
}

/**
 * card_tlv_append:
 * @array: where to write
 * @tag: tag of one or two bytes
 * @value: (nullable): value; %NULL when @size is 0
 * @size: bytes of it, at most 65,535
 *
 * Appends one element, its length written in the shortest way.
 */
void
card_tlv_append (GByteArray *array, guint16 tag, const guint8 *value, gsize size)
{
  guint8 head[5];
  guint n_head = 0;

  g_return_if_fail (size <= G_MAXUINT16);

  if (tag > G_MAXUINT8)
    head[n_head++] = (guint8) (tag >> 8);
  head[n_head++] = (guint8) tag;

  if (size >= 0x100)
    {
      head[n_head++] = LONG_LENGTH | 2;
      head[n_head++] = (guint8) (size >> 8);
    }
  else if (size >= LONG_LENGTH)
    {
      head[n_head++] = LONG_LENGTH | 1;
    }
  head[n_head++] = (guint8) size;

  g_byte_array_append (array, head, n_head);
  if (size > 0)
    g_byte_array_append (array, value, (guint) size);
}
