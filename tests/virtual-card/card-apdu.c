/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-apdu.h"

#define HEADER_SIZE 4
#define EXTENDED_LENGTH_SIZE 3 /* 00 hi lo */

static gsize
read_16 (const guint8 *bytes)
{
  return ((gsize) bytes[0] << 8) | bytes[1];
}

static gsize
read_extended_le (const guint8 *bytes)
{
  gsize le = read_16 (bytes);

  return le == 0 ? CARD_MAX_EXTENDED_LE : le;
}

/**
 * card_apdu_parse:
 * @bytes: a command APDU
 * @size: bytes of it
 * @out_apdu: (out): its parts; data points into @bytes
 *
 * Takes a command of case 1, 2, 3 or 4, short or extended, apart (ISO/IEC 7816-4, 5.1).
 *
 * Returns: %FALSE when the lengths in it do not fit its size
 */
gboolean
card_apdu_parse (const guint8 *bytes, gsize size, CardApdu *out_apdu)
{
  const guint8 *body = bytes + HEADER_SIZE;
  gsize rest;

  if (size < HEADER_SIZE || size > CARD_MAX_APDU)
    return FALSE;

  *out_apdu = (CardApdu){ .cla = bytes[0], .ins = bytes[1], .p1 = bytes[2], .p2 = bytes[3] };
  rest = size - HEADER_SIZE;

  if (rest == 0) /* case 1 */
    return TRUE;

  if (rest == 1) /* case 2, short */
    {
      out_apdu->max_response = body[0] == 0 ? CARD_MAX_SHORT_LE : body[0];
      return TRUE;
    }

  if (body[0] != 0) /* cases 3 and 4, short */
    {
      out_apdu->data = body + 1;
      out_apdu->size = body[0];
      rest -= 1;
      if (rest == out_apdu->size)
        return TRUE;
      if (rest != out_apdu->size + 1)
        return FALSE;
      out_apdu->max_response = body[rest] == 0 ? CARD_MAX_SHORT_LE : body[rest];
      return TRUE;
    }

  if (rest < EXTENDED_LENGTH_SIZE)
    return FALSE;

  if (rest == EXTENDED_LENGTH_SIZE) /* case 2, extended */
    {
      out_apdu->max_response = read_extended_le (body + 1);
      return TRUE;
    }

  /* cases 3 and 4, extended */
  out_apdu->data = body + EXTENDED_LENGTH_SIZE;
  out_apdu->size = read_16 (body + 1);
  rest -= EXTENDED_LENGTH_SIZE;
  if (out_apdu->size == 0)
    return FALSE;
  if (rest == out_apdu->size)
    return TRUE;
  if (rest != out_apdu->size + 2)
    return FALSE;
  out_apdu->max_response = read_extended_le (out_apdu->data + out_apdu->size);
  return TRUE;
}
