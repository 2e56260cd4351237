/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-trace.h"

#include "card-apdu.h"
#include "card-tlv.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>

#define INS_VERIFY 0x20
#define INS_CHANGE_REFERENCE_DATA 0x24
#define INS_RESET_RETRY_COUNTER 0x2C
#define INS_INITIALIZE 0x50
#define INS_DKEK 0x52
#define INS_GET_CHALLENGE 0x84

struct _CardTrace
{
  FILE *file;
  gboolean answer_is_secret; /* the one to the last command */
};

/* What INITIALIZE may show: options, limits, and numbers of shares, of keys that authenticate, and of key domains. */
static const guint16 shown_tags[] = { 0x80, 0x91, 0x92, 0x93, 0x97 };

/**
 * card_trace_new:
 * @path: where to; lines are added to what is there
 * @error: return location for a #GError
 *
 * Returns: (transfer full): the log, or %NULL when it cannot be opened
 */
CardTrace *
card_trace_new (const char *path, GError **error)
{
  CardTrace *self;
  int fd = g_open (path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  FILE *file = fd >= 0 ? fdopen (fd, "a") : NULL;

  if (!file)
    {
      g_set_error (error, G_IO_ERROR, g_io_error_from_errno (errno), "cannot write %s: %s", path,
                   g_strerror (errno));
      return NULL;
    }
  self = g_new0 (CardTrace, 1);
  self->file = file;
  setlinebuf (file);
  return self;
}

void
card_trace_free (CardTrace *self)
{
  fclose (self->file);
  g_free (self);
}

static void
append_hex (GString *text, const guint8 *bytes, gsize size, gboolean masked)
{
  for (gsize i = 0; i < size; i++)
    {
      if (masked)
        g_string_append (text, CARD_TRACE_MASK);
      else
        g_string_append_printf (text, "%02X", bytes[i]);
    }
}

static gboolean
is_shown (guint16 tag)
{
  for (guint i = 0; i < G_N_ELEMENTS (shown_tags); i++)
    {
      if (shown_tags[i] == tag)
        return TRUE;
    }
  return FALSE;
}

/* PINs stand between other elements there. What cannot be taken apart is masked as a whole. */
static void
append_initialize (GString *text, const guint8 *data, gsize size)
{
  CardTlvReader reader = { data, size };
  CardTlv tlv;

  while (card_tlv_next (&reader, &tlv))
    {
      append_hex (text, tlv.whole, tlv.whole_size - tlv.size, FALSE);
      append_hex (text, tlv.value, tlv.size, !is_shown (tlv.tag));
    }
  append_hex (text, reader.bytes, reader.size, TRUE);
}

/**
 * card_trace_format_command:
 * @apdu: a command
 * @size: bytes of it
 *
 * Returns: (transfer full): it in hexadecimal, with PINs and shares masked
 */
char *
card_trace_format_command (const guint8 *apdu, gsize size)
{
  GString *text = g_string_new (NULL);
  CardApdu parsed;
  guint8 ins = size > 1 ? apdu[1] : 0;
  gsize head_size;

  if (ins != INS_VERIFY && ins != INS_CHANGE_REFERENCE_DATA && ins != INS_RESET_RETRY_COUNTER
      && ins != INS_INITIALIZE && ins != INS_DKEK)
    {
      append_hex (text, apdu, size, FALSE);
      return g_string_free (text, FALSE);
    }
  /* Where the data begin is not known then. */
  if (!card_apdu_parse (apdu, size, &parsed))
    {
      append_hex (text, apdu, MIN (size, 4), FALSE);
      append_hex (text, apdu, size - MIN (size, 4), TRUE);
      return g_string_free (text, FALSE);
    }

  head_size = parsed.size > 0 ? (gsize) (parsed.data - apdu) : size;
  append_hex (text, apdu, head_size, FALSE);
  if (ins == INS_INITIALIZE)
    append_initialize (text, parsed.data, parsed.size);
  else
    append_hex (text, parsed.data, parsed.size, TRUE);
  append_hex (text, apdu + head_size + parsed.size, size - head_size - parsed.size, FALSE);
  return g_string_free (text, FALSE);
}

void
card_trace_command (CardTrace *self, const guint8 *apdu, gsize size)
{
  g_autofree char *text = card_trace_format_command (apdu, size);

  self->answer_is_secret = size > 1 && apdu[1] == INS_GET_CHALLENGE;
  fprintf (self->file, "> %s\n", text);
}

/**
 * card_trace_answer:
 * @self: the log
 * @response: the answer to the last command
 *
 * Logs an answer. Of a challenge only the status word is shown: hosts make shares of a DKEK, and their salts, from challenges.
 */
void
card_trace_answer (CardTrace *self, GBytes *response)
{
  g_autoptr (GString) text = g_string_new (NULL);
  gsize size;
  const guint8 *bytes = g_bytes_get_data (response, &size);
  gsize data_size = size - MIN (size, CARD_STATUS_SIZE);

  append_hex (text, bytes, data_size, self->answer_is_secret);
  append_hex (text, bytes + data_size, size - data_size, FALSE);
  fprintf (self->file, "< %s\n", text->str);
}

void
card_trace_event (CardTrace *self, const char *text)
{
  fprintf (self->file, "# %s\n", text);
}
