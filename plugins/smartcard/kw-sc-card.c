/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-card"

#include "config.h"

#include "kw-sc-card.h"

#include "kw-sc-error.h"

#include <string.h>

/*
 * The commands of a SmartCard-HSM that concern no particular key, in words. Files are named in each command, so no file has
 * to be selected; the applet is selected only when the card does not know it, because that logs everybody out.
 *
 * Blocks; whoever has the link.
 */

#define CLA_ISO 0x00
#define CLA_HSM 0x80
#define INS_VERIFY 0x20
#define INS_DKEK 0x52
#define INS_ENUMERATE 0x58
#define INS_SELECT 0xA4
#define INS_READ 0xB1
#define INS_UPDATE 0xD7
#define INS_DELETE 0xE4

#define SELECT_BY_NAME 0x04
#define DELETE_BY_ID 0x02
#define READ_BYTES 1024
#define WRITE_BYTES 900
#define TAG_OFFSET 0x54
#define TAG_CONTENT 0x53
#define TAG_FCI 0x6F
#define TAG_PROPRIETARY 0x85
#define MIN_PROPRIETARY 2
#define MAX_IDS 1024

static const guint8 applet_id[]
    = { 0xE8, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x81, 0xC3, 0x1F, 0x02, 0x01 };

static gboolean
set_foreign (KwScLink *link, GError **error)
{
  g_set_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED, "The card in reader %s is no SmartCard-HSM",
               kw_sc_link_get_reader (link));
  return FALSE;
}

/* Versions are the last two bytes; options stand in front, except on cards of the first years. */
static gboolean
parse_applet (KwScSpan fci, KwScApplet *out_applet)
{
  KwScSpan inner = { 0 };
  KwScSpan property = { 0 };

  if (!kw_sc_tlv_read (&fci, TAG_FCI, &inner) || !kw_sc_tlv_find (inner, TAG_PROPRIETARY, &property)
      || property.size < MIN_PROPRIETARY)
    return FALSE;
  *out_applet = (KwScApplet){
    .options = property.size >= 4 ? property.data[property.size - 4] : 0,
    .version_major = property.data[property.size - 2],
    .version_minor = property.data[property.size - 1],
  };
  return TRUE;
}

/**
 * kw_sc_card_select:
 * @link: a connection
 * @out_applet: (out): what the applet says of itself
 * @error: where to store the error
 *
 * Selects the applet, which logs everybody out.
 *
 * Returns: %FALSE with %KW_ERROR_NOT_SUPPORTED when the card is no SmartCard-HSM, or an error of the connection
 */
gboolean
kw_sc_card_select (KwScLink *link, KwScApplet *out_applet, GError **error)
{
  const KwScCommand command
      = { CLA_ISO, INS_SELECT, SELECT_BY_NAME, 0x00, applet_id, sizeof applet_id, 256 };
  KwScAnswer answer = { 0 };

  if (!kw_sc_link_transmit (link, &command, &answer, error))
    return FALSE;
  if (answer.sw != KW_SC_SW_OK && kw_sc_sw_to_code (answer.sw) == KW_ERROR_DEVICE_FAILED)
    {
      kw_sc_set_sw_error (error, answer.sw, "SELECT");
      return FALSE;
    }
  if (answer.sw != KW_SC_SW_OK || !parse_applet (answer.data, out_applet))
    return set_foreign (link, error);
  return TRUE;
}

static gboolean
is_unknown (guint sw)
{
  return sw == KW_SC_SW_UNKNOWN_INSTRUCTION || sw == KW_SC_SW_UNKNOWN_CLASS;
}

/**
 * kw_sc_card_exchange:
 * @link: a connection
 * @command: a command
 * @out_answer: (out): the card's answer, whatever the status word
 * @error: where to store the error
 *
 * Sends a command. Where the card does not know it, because another applet is selected, ours is selected and the command sent
 * again.
 *
 * Returns: %FALSE when no answer came
 */
gboolean
kw_sc_card_exchange (KwScLink *link,
                     const KwScCommand *command,
                     KwScAnswer *out_answer,
                     GError **error)
{
  const KwScCommand probe = { CLA_ISO, INS_VERIFY, 0x00, KW_SC_PIN_USER, NULL, 0, 0 };
  KwScApplet applet = { 0 };
  KwScAnswer answer = { 0 };

  if (!kw_sc_link_transmit (link, command, out_answer, error))
    return FALSE;
  if (!is_unknown (out_answer->sw))
    return TRUE;
  /* There are commands that the applet does not know in some states; that of a PIN it always knows. */
  if (!kw_sc_link_transmit (link, &probe, &answer, error))
    return FALSE;
  if (!is_unknown (answer.sw))
    {
      out_answer->data = (KwScSpan){ 0 };
      return TRUE;
    }
  return kw_sc_card_select (link, &applet, error)
         && kw_sc_link_transmit (link, command, out_answer, error);
}

/**
 * kw_sc_card_run:
 * @link: a connection
 * @command: a command
 * @what: its name, for messages
 * @out_answer: (out) (optional): the card's answer, with status 9000
 * @error: where to store the error
 *
 * kw_sc_card_exchange(), where any status but 9000 is an error.
 *
 * Returns: %TRUE when the card did it
 */
gboolean
kw_sc_card_run (KwScLink *link,
                const KwScCommand *command,
                const char *what,
                KwScAnswer *out_answer,
                GError **error)
{
  KwScAnswer answer = { 0 };

  if (!kw_sc_card_exchange (link, command, &answer, error))
    return FALSE;
  if (answer.sw != KW_SC_SW_OK)
    {
      kw_sc_set_sw_error (error, answer.sw, what);
      return FALSE;
    }
  if (out_answer != NULL)
    *out_answer = answer;
  return TRUE;
}

/**
 * kw_sc_card_read_pin_status:
 * @link: a connection
 * @reference: %KW_SC_PIN_USER or %KW_SC_PIN_SO
 * @out_status: (out): what the card says of it
 * @out_tries: (out): tries left, with %KW_SC_PIN_TRIES
 * @error: where to store the error
 *
 * Asks for the state of a PIN, which costs no try.
 *
 * Returns: %FALSE when the card does not tell
 */
gboolean
kw_sc_card_read_pin_status (KwScLink *link,
                            guint8 reference,
                            KwScPinStatus *out_status,
                            guint *out_tries,
                            GError **error)
{
  const KwScCommand command = { CLA_ISO, INS_VERIFY, 0x00, reference, NULL, 0, 0 };
  KwScAnswer answer = { 0 };
  guint tries = 0;

  if (!kw_sc_card_exchange (link, &command, &answer, error))
    return FALSE;
  if (kw_sc_sw_is_tries (answer.sw, &tries))
    {
      *out_status = tries > 0 ? KW_SC_PIN_TRIES : KW_SC_PIN_BLOCKED;
      *out_tries = tries;
      return TRUE;
    }
  *out_tries = 0;
  switch (answer.sw)
    {
    case KW_SC_SW_OK:
      *out_status = KW_SC_PIN_LOGGED_IN;
      return TRUE;
    case KW_SC_SW_PIN_BLOCKED:
      *out_status = KW_SC_PIN_BLOCKED;
      return TRUE;
    case KW_SC_SW_TRANSPORT_PIN:
      *out_status = KW_SC_PIN_TRANSPORT;
      return TRUE;
    case KW_SC_SW_NO_REFERENCE:
      *out_status = KW_SC_PIN_NONE;
      return TRUE;
    default:
      g_set_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                   "The card does not tell the state of its PIN (status %04X)", answer.sw);
      return FALSE;
    }
}

/**
 * kw_sc_card_read_dkek:
 * @link: a connection
 * @out_dkek: (out): the key that wraps others
 * @error: where to store the error
 *
 * Asks for the state of the DKEK.
 *
 * Returns: %FALSE when the card does not tell
 */
gboolean
kw_sc_card_read_dkek (KwScLink *link, KwScDkek *out_dkek, GError **error)
{
  const KwScCommand command = { CLA_HSM, INS_DKEK, 0x00, 0x00, NULL, 0, 256 };
  KwScAnswer answer = { 0 };
  KwScDkek dkek = { 0 };

  if (!kw_sc_card_exchange (link, &command, &answer, error))
    return FALSE;
  /* Cards with key domains have other words for one that is empty. */
  if (is_unknown (answer.sw) || answer.sw == KW_SC_SW_NO_REFERENCE
      || answer.sw == KW_SC_SW_NOT_ALLOWED)
    {
      *out_dkek = dkek;
      return TRUE;
    }
  if (answer.sw != KW_SC_SW_OK)
    {
      kw_sc_set_sw_error (error, answer.sw, "DKEK");
      return FALSE;
    }
  if (answer.data.size < 2 + sizeof dkek.check_value)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                           "The card tells too little of its DKEK");
      return FALSE;
    }
  dkek.exists = TRUE;
  dkek.n_shares = answer.data.data[0];
  dkek.n_missing = answer.data.data[1];
  memcpy (dkek.check_value, answer.data.data + 2, sizeof dkek.check_value);
  *out_dkek = dkek;
  return TRUE;
}

/**
 * kw_sc_card_enumerate:
 * @link: a connection
 * @error: where to store the error
 *
 * Lists keys and files.
 *
 * Returns: (transfer full) (element-type guint16): their ids; %NULL with an error
 */
GArray *
kw_sc_card_enumerate (KwScLink *link, GError **error)
{
  const KwScCommand command = { CLA_HSM, INS_ENUMERATE, 0x00, 0x00, NULL, 0, KW_SC_APDU_ANY };
  KwScAnswer answer = { 0 };
  GArray *ids = NULL;

  if (!kw_sc_card_run (link, &command, "ENUMERATE", &answer, error))
    return NULL;
  if (answer.data.size % 2 != 0 || answer.data.size / 2 > MAX_IDS)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                           "The card's list of keys cannot be read");
      return NULL;
    }
  ids = g_array_new (FALSE, FALSE, sizeof (guint16));
  for (gsize i = 0; i < answer.data.size; i += 2)
    {
      guint16 id = KW_SC_FILE_ID (answer.data.data[i], answer.data.data[i + 1]);

      g_array_append_val (ids, id);
    }
  return ids;
}

static gboolean
read_piece (KwScLink *link,
            guint16 file_id,
            GByteArray *content,
            gboolean *out_more,
            GError **error)
{
  const guint8 offset[]
      = { TAG_OFFSET, 2, (guint8) (content->len >> 8), (guint8) (content->len & 0xFF) };
  const KwScCommand command
      = { CLA_ISO,       INS_READ,  (guint8) (file_id >> 8), (guint8) (file_id & 0xFF), offset,
          sizeof offset, READ_BYTES };
  KwScAnswer answer = { 0 };

  if (!kw_sc_card_exchange (link, &command, &answer, error))
    return FALSE;
  if (answer.sw != KW_SC_SW_OK && answer.sw != KW_SC_SW_END_OF_FILE)
    {
      kw_sc_set_sw_error (error, answer.sw, "READ BINARY");
      return FALSE;
    }
  if (answer.data.size > READ_BYTES || content->len + answer.data.size > KW_SC_MAX_FILE_BYTES)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED, "File %04X on the card is too long",
                   file_id);
      return FALSE;
    }
  g_byte_array_append (content, answer.data.data, (guint) answer.data.size);
  *out_more = answer.sw == KW_SC_SW_OK && answer.data.size == READ_BYTES;
  return TRUE;
}

/**
 * kw_sc_card_read_file:
 * @link: a connection
 * @file_id: id of a file
 * @error: where to store the error
 *
 * Reads a file.
 *
 * Returns: (transfer full): its content; %NULL with %KW_ERROR_KEY_NOT_FOUND when there is none, or another error
 */
GByteArray *
kw_sc_card_read_file (KwScLink *link, guint16 file_id, GError **error)
{
  g_autoptr (GByteArray) content = g_byte_array_new ();
  gboolean more = TRUE;

  while (more)
    {
      if (!read_piece (link, file_id, content, &more, error))
        return NULL;
    }
  return g_steal_pointer (&content);
}

static gboolean
write_piece (KwScLink *link,
             guint16 file_id,
             gsize offset,
             const guint8 *data,
             gsize size,
             GError **error)
{
  const guint8 offset_bytes[] = { (guint8) (offset >> 8), (guint8) (offset & 0xFF) };
  g_autoptr (GByteArray) elements = g_byte_array_new ();
  KwScCommand command
      = { CLA_ISO, INS_UPDATE, (guint8) (file_id >> 8), (guint8) (file_id & 0xFF), NULL, 0, 0 };

  kw_sc_tlv_append (elements, TAG_OFFSET, offset_bytes, sizeof offset_bytes);
  kw_sc_tlv_append (elements, TAG_CONTENT, data, size);
  command.data = elements->data;
  command.n_data = elements->len;
  return kw_sc_card_run (link, &command, "UPDATE BINARY", NULL, error);
}

/**
 * kw_sc_card_write_file:
 * @link: a connection, logged in
 * @file_id: id of a file that is not there
 * @content: what it is to hold
 * @error: where to store the error
 *
 * Makes a file.
 *
 * Returns: %FALSE with an error; then a part of it may be there
 */
gboolean
kw_sc_card_write_file (KwScLink *link, guint16 file_id, KwScSpan content, GError **error)
{
  g_return_val_if_fail (content.size > 0 && content.size <= KW_SC_MAX_FILE_BYTES, FALSE);

  for (gsize done = 0; done < content.size; done += WRITE_BYTES)
    {
      if (!write_piece (link, file_id, done, content.data + done,
                        MIN (content.size - done, WRITE_BYTES), error))
        return FALSE;
    }
  return TRUE;
}

/**
 * kw_sc_card_delete:
 * @link: a connection, logged in
 * @file_id: id of a file or key
 * @error: where to store the error
 *
 * Removes a file or a key.
 *
 * Returns: %FALSE with %KW_ERROR_KEY_NOT_FOUND when it is not there, or another error
 */
gboolean
kw_sc_card_delete (KwScLink *link, guint16 file_id, GError **error)
{
  const guint8 id[] = { (guint8) (file_id >> 8), (guint8) (file_id & 0xFF) };
  const KwScCommand command = { CLA_ISO, INS_DELETE, DELETE_BY_ID, 0x00, id, sizeof id, 0 };

  return kw_sc_card_run (link, &command, "DELETE", NULL, error);
}
