/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-apdu"

#include "config.h"

#include "kw-sc-apdu.h"

#include <string.h>

/*
 * Commands and answers on the wire (ISO/IEC 7816-4, 5.1): in the short form where it holds them, in the extended one
 * otherwise.
 */

#define SW_BYTES 2
#define MAX_SHORT_DATA 255
#define MAX_SHORT_EXPECTED 256

/**
 * kw_sc_apdu_build:
 * @command: a command with at most KW_SC_APDU_MAX_DATA bytes of data
 * @out_bytes: (out) (array length=n_bytes): where it goes
 * @n_bytes: room there, at least KW_SC_APDU_MAX_BYTES
 *
 * Writes a command. Any thread.
 *
 * Returns: how many bytes it takes; 0 when there is too much data
 */
gsize
kw_sc_apdu_build (const KwScCommand *command, guint8 *out_bytes, gsize n_bytes)
{
  gboolean extended = command->n_data > MAX_SHORT_DATA || command->n_expected > MAX_SHORT_EXPECTED;
  gsize n = 0;

  g_return_val_if_fail (n_bytes >= KW_SC_APDU_MAX_BYTES, 0);

  if (command->n_data > KW_SC_APDU_MAX_DATA || command->n_expected > KW_SC_APDU_ANY)
    return 0;
  out_bytes[n++] = command->cla;
  out_bytes[n++] = command->ins;
  out_bytes[n++] = command->p1;
  out_bytes[n++] = command->p2;
  if (extended)
    out_bytes[n++] = 0;
  if (command->n_data > 0)
    {
      if (extended)
        out_bytes[n++] = (guint8) (command->n_data >> 8);
      out_bytes[n++] = (guint8) (command->n_data & 0xFF);
      memcpy (out_bytes + n, command->data, command->n_data);
      n += command->n_data;
    }
  if (command->n_expected > 0)
    {
      /* The largest length, 256 or 65,536, is written as zero. */
      if (extended)
        out_bytes[n++] = (guint8) (command->n_expected >> 8 & 0xFF);
      out_bytes[n++] = (guint8) (command->n_expected & 0xFF);
    }
  return n;
}

/**
 * kw_sc_apdu_parse_answer:
 * @bytes: what a card answered
 * @size: how many
 * @out_data: (out): the data in it
 * @out_sw: (out): the status word
 *
 * Takes an answer apart. Any thread.
 *
 * Returns: %FALSE when there is not even a status word
 */
gboolean
kw_sc_apdu_parse_answer (const guint8 *bytes, gsize size, KwScSpan *out_data, guint *out_sw)
{
  if (size < SW_BYTES)
    return FALSE;
  *out_data = (KwScSpan){ bytes, size - SW_BYTES };
  *out_sw = (guint) bytes[size - 2] << 8 | bytes[size - 1];
  return TRUE;
}
