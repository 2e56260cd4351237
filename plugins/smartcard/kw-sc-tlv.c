/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-tlv"

#include "config.h"

#include "kw-sc-tlv.h"

/*
 * Elements of BER as cards have them: tags of one or two bytes, lengths of up to two. What is read comes from a card and
 * may be anything; nothing here reads beyond the span it was given, and no span that is handed out leaves its parent.
 */

#define TAG_IS_LONG 0x1F
#define TAG_HAS_MORE 0x80
#define LENGTH_1 0x81
#define LENGTH_2 0x82
#define MAX_SHORT_LENGTH 0x7F

static gboolean
read_tag (KwScSpan *rest, guint *out_tag)
{
  if (rest->size < 1)
    return FALSE;
  *out_tag = rest->data[0];
  if ((rest->data[0] & TAG_IS_LONG) != TAG_IS_LONG)
    {
      rest->data += 1;
      rest->size -= 1;
      return TRUE;
    }
  if (rest->size < 2 || (rest->data[1] & TAG_HAS_MORE) != 0)
    return FALSE;
  *out_tag = *out_tag << 8 | rest->data[1];
  rest->data += 2;
  rest->size -= 2;
  return TRUE;
}

static gboolean
read_length (KwScSpan *rest, gsize *out_length)
{
  gsize n_bytes = 1;

  if (rest->size < 1)
    return FALSE;
  *out_length = rest->data[0];
  if (rest->data[0] == LENGTH_1 && rest->size >= 2)
    {
      *out_length = rest->data[1];
      n_bytes = 2;
    }
  else if (rest->data[0] == LENGTH_2 && rest->size >= 3)
    {
      *out_length = (gsize) rest->data[1] << 8 | rest->data[2];
      n_bytes = 3;
    }
  else if (rest->data[0] > MAX_SHORT_LENGTH)
    return FALSE;
  rest->data += n_bytes;
  rest->size -= n_bytes;
  return *out_length <= rest->size;
}

/**
 * kw_sc_tlv_next:
 * @rest: (inout): elements; what is behind the first one afterwards
 * @out_tlv: (out): the first one
 *
 * Takes an element off. Any thread.
 *
 * Returns: %FALSE, with nothing changed, when there is none, or none that can be read
 */
gboolean
kw_sc_tlv_next (KwScSpan *rest, KwScTlv *out_tlv)
{
  KwScSpan at = *rest;
  guint tag = 0;
  gsize length = 0;

  if (!read_tag (&at, &tag) || !read_length (&at, &length))
    return FALSE;
  out_tlv->tag = tag;
  out_tlv->value = (KwScSpan){ at.data, length };
  out_tlv->whole = (KwScSpan){ rest->data, (gsize) (at.data - rest->data) + length };
  *rest = (KwScSpan){ at.data + length, at.size - length };
  return TRUE;
}

/**
 * kw_sc_tlv_read:
 * @rest: (inout): elements; what is behind the first one afterwards
 * @tag: the tag it must have
 * @out_value: (out): its value
 *
 * Takes an element off if it is the expected one. Any thread.
 *
 * Returns: %FALSE, with nothing changed, when it is not
 */
gboolean
kw_sc_tlv_read (KwScSpan *rest, guint tag, KwScSpan *out_value)
{
  KwScSpan at = *rest;
  KwScTlv tlv = { 0 };

  if (!kw_sc_tlv_next (&at, &tlv) || tlv.tag != tag)
    return FALSE;
  *rest = at;
  *out_value = tlv.value;
  return TRUE;
}

/**
 * kw_sc_tlv_find:
 * @elements: elements
 * @tag: a tag
 * @out_value: (out): value of the first element that has it
 *
 * Looks for an element among others of its level. Any thread.
 *
 * Returns: %FALSE when it is not there
 */
gboolean
kw_sc_tlv_find (KwScSpan elements, guint tag, KwScSpan *out_value)
{
  KwScTlv tlv = { 0 };

  while (kw_sc_tlv_next (&elements, &tlv))
    {
      if (tlv.tag == tag)
        {
          *out_value = tlv.value;
          return TRUE;
        }
    }
  return FALSE;
}

/**
 * kw_sc_span_to_uint:
 * @span: a number, big-endian
 * @out_number: (out): the number
 *
 * Reads a number of one to four bytes, the highest bit of which is not set. Any thread.
 *
 * Returns: %FALSE when it is longer, or negative
 */
gboolean
kw_sc_span_to_uint (KwScSpan span, guint *out_number)
{
  guint number = 0;

  if (span.size < 1 || span.size > 4 || (span.data[0] & 0x80) != 0)
    return FALSE;
  for (gsize i = 0; i < span.size; i++)
    number = number << 8 | span.data[i];
  *out_number = number;
  return TRUE;
}

static void
append_byte (GByteArray *array, guint8 byte)
{
  g_byte_array_append (array, &byte, 1);
}

/**
 * kw_sc_tlv_append:
 * @array: where to
 * @tag: tag of one or two bytes
 * @value: (nullable): value
 * @size: its size, less than 65,536
 *
 * Writes an element. Any thread.
 */
void
kw_sc_tlv_append (GByteArray *array, guint tag, gconstpointer value, gsize size)
{
  g_return_if_fail (size <= G_MAXUINT16);

  if (tag > G_MAXUINT8)
    append_byte (array, (guint8) (tag >> 8));
  append_byte (array, (guint8) (tag & 0xFF));
  if (size > G_MAXUINT8)
    {
      append_byte (array, LENGTH_2);
      append_byte (array, (guint8) (size >> 8));
    }
  else if (size > MAX_SHORT_LENGTH)
    append_byte (array, LENGTH_1);
  append_byte (array, (guint8) (size & 0xFF));
  if (size > 0)
    g_byte_array_append (array, value, (guint) size);
}

/**
 * kw_sc_tlv_append_array:
 * @array: where to
 * @tag: tag of one or two bytes
 * @value: (transfer none): value
 *
 * Writes an element. Any thread.
 */
void
kw_sc_tlv_append_array (GByteArray *array, guint tag, GByteArray *value)
{
  kw_sc_tlv_append (array, tag, value->data, value->len);
}

/**
 * kw_sc_tlv_append_uint:
 * @array: where to
 * @tag: tag of one or two bytes
 * @number: a number
 *
 * Writes a number as DER has it: as short as it can be without being taken for a negative one. Any thread.
 */
void
kw_sc_tlv_append_uint (GByteArray *array, guint tag, guint number)
{
  guint8 bytes[5] = { 0 };
  gsize first = 1;

  for (gsize i = 4; i > 0; i--, number >>= 8)
    bytes[i] = (guint8) (number & 0xFF);
  while (first < 4 && bytes[first] == 0)
    first++;
  if ((bytes[first] & 0x80) != 0)
    first--;
  kw_sc_tlv_append (array, tag, bytes + first, sizeof bytes - first);
}
