/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* SELECT, READ BINARY, UPDATE BINARY, DELETE FILE and ENUMERATE OBJECTS. */

#include "card-private.h"

#include "card-tlv.h"

#include <string.h>

#define SELECT_BY_ID 0x00
#define SELECT_BY_NAME 0x04
#define SELECT_WITHOUT_ANSWER 0x0C
#define SELECT_FCP 0x04

#define TAG_FCI 0x6F
#define TAG_FCP 0x62
#define TAG_FILE_SIZE 0x80
#define TAG_DESCRIPTOR 0x82
#define TAG_FILE_ID 0x83
#define TAG_PROPRIETARY 0x85
#define TAG_OFFSET 0x54
#define TAG_CONTENT 0x53

#define DELETE_CURRENT_OR_ID 0x02

#define PLATFORM_OTHER 0x03 /* neither a JCOP nor a demonstration card */

static const guint8 application_id[]
    = { 0xE8, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x81, 0xC3, 0x1F, 0x02, 0x01 };

/* What a host may write, by the first byte of the id: descriptions, certificates and data. */
static const guint8 host_files[] = { 0xC4, 0xC8, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF };

/* What ENUMERATE lists beside keys. */
static const guint8 listed_files[] = { 0xC4, 0xC8, 0xC9, 0xCA, 0xCD, 0xCE, 0xCF };

static gboolean
is_key_file (guint16 id)
{
  return (id & 0xFF00) == CARD_FILE_KEYS;
}

static gboolean
is_for_host (guint16 id)
{
  return id == CARD_FILE_TOKEN_INFO || id == CARD_FILE_WRAPPED_KEY
         || memchr (host_files, id >> 8, sizeof host_files);
}

static guint16
read_16 (const guint8 *bytes)
{
  return (guint16) (bytes[0] << 8 | bytes[1]);
}

static void
append_template (CardAnswer *answer, const CardApdu *apdu, GByteArray *content)
{
  card_tlv_append (answer->data, apdu->p2 & SELECT_FCP ? TAG_FCP : TAG_FCI, content->data,
                   content->len);
  answer->may_be_cut = TRUE;
}

static guint
select_application (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  static const guint8 descriptor[] = { 0x78 };
  const guint8 proprietary[] = { self->kept.options[0], self->kept.options[1], PLATFORM_OTHER,
                                 self->version[0], self->version[1] };
  g_autoptr (GByteArray) content = NULL;

  if (apdu->size != sizeof application_id
      || memcmp (apdu->data, application_id, sizeof application_id) != 0)
    return CARD_SW_FILE_NOT_FOUND;

  self->selected = TRUE;
  self->logged_in = FALSE;
  self->current_file = CARD_NO_FILE;
  if (apdu->p2 == SELECT_WITHOUT_ANSWER)
    return CARD_SW_OK;

  content = g_byte_array_new ();
  card_tlv_append (content, TAG_DESCRIPTOR, descriptor, sizeof descriptor);
  card_tlv_append (content, TAG_PROPRIETARY, proprietary, sizeof proprietary);
  append_template (answer, apdu, content);
  return CARD_SW_OK;
}

static guint
select_file (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  static const guint8 descriptor[] = { 0x01 };
  g_autoptr (GByteArray) content = NULL;
  const GByteArray *file;
  guint8 size[2] = { 0 };
  guint16 id;

  if (apdu->size != 2)
    return CARD_SW_WRONG_LENGTH;
  id = read_16 (apdu->data);
  file = card_get_file (self, id);
  if (!file && !(is_key_file (id) && self->keys[id & 0xFF]))
    return CARD_SW_FILE_NOT_FOUND;

  self->current_file = id;
  if (apdu->p2 == SELECT_WITHOUT_ANSWER)
    return CARD_SW_OK;

  if (file)
    {
      size[0] = (guint8) (file->len >> 8);
      size[1] = (guint8) file->len;
    }
  content = g_byte_array_new ();
  card_tlv_append (content, TAG_FILE_SIZE, size, sizeof size);
  card_tlv_append (content, TAG_DESCRIPTOR, descriptor, sizeof descriptor);
  card_tlv_append (content, TAG_FILE_ID, apdu->data, 2);
  append_template (answer, apdu, content);
  return CARD_SW_OK;
}

/* 00 A4: by name, the application; by id, a file. Anything else is for cards with folders. */
guint
card_command_select (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  if (apdu->p2 != 0 && apdu->p2 != SELECT_FCP && apdu->p2 != SELECT_WITHOUT_ANSWER)
    return CARD_SW_WRONG_P1_P2;
  if (apdu->p1 == SELECT_BY_NAME)
    return select_application (self, apdu, answer);
  if (!self->selected)
    return CARD_SW_INS_NOT_SUPPORTED;
  if (apdu->p1 == SELECT_BY_ID)
    return select_file (self, apdu, answer);
  return CARD_SW_WRONG_P1_P2;
}

static guint
read_at (Card *self, gint id, gsize offset, const CardApdu *apdu, CardAnswer *answer)
{
  const GByteArray *file;
  gsize size;

  if (id == CARD_NO_FILE || (is_key_file ((guint16) id) && self->keys[id & 0xFF]))
    return CARD_SW_COMMAND_NOT_ALLOWED;
  file = card_get_file (self, (guint16) id);
  if (!file)
    return CARD_SW_FILE_NOT_FOUND;
  if ((id & 0xFF00) == CARD_FILE_PROTECTED_DATA && !self->logged_in)
    return CARD_SW_NOT_LOGGED_IN;
  if (offset > file->len)
    return CARD_SW_WRONG_OFFSET;

  size = MIN (file->len - offset, apdu->max_response);
  g_byte_array_append (answer->data, file->data + offset, (guint) size);
  return size < apdu->max_response || offset == file->len ? CARD_SW_END_OF_FILE : CARD_SW_OK;
}

/* The file that P1 and P2 name: 0000 is the current one. */
static gint
get_named_file (const Card *self, const CardApdu *apdu)
{
  guint16 id = (guint16) (apdu->p1 << 8 | apdu->p2);

  return id == 0 ? self->current_file : id;
}

/* 00 B1: reads from an offset in the data. */
guint
card_command_read (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  CardTlvReader reader = { apdu->data, apdu->size };
  CardTlv offset;

  if (apdu->size == 0)
    return CARD_SW_WRONG_LENGTH;
  if (!card_tlv_next (&reader, &offset) || reader.size > 0 || offset.tag != TAG_OFFSET
      || offset.size != 2)
    return CARD_SW_WRONG_DATA;
  return read_at (self, get_named_file (self, apdu), read_16 (offset.value), apdu, answer);
}

/* 00 B0: reads the current file from an offset in P1 and P2. */
guint
card_command_read_plain (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  if (apdu->size > 0)
    return CARD_SW_WRONG_LENGTH;
  if (apdu->p1 & 0x80) /* a short file id, which the card's files do not have */
    return CARD_SW_WRONG_P1_P2;
  return read_at (self, self->current_file, (gsize) apdu->p1 << 8 | apdu->p2, apdu, answer);
}

/* 00 D7: writes at an offset, and makes the file when P1 and P2 name one that is not there. */
guint
card_command_update (Card *self, const CardApdu *apdu, G_GNUC_UNUSED CardAnswer *answer)
{
  CardTlvReader reader = { apdu->data, apdu->size };
  gint id = get_named_file (self, apdu);
  CardTlv offset_tlv, content;
  GByteArray *file;
  GByteArray *changed;
  gsize offset, size, old_size;

  if (apdu->size == 0)
    return CARD_SW_WRONG_LENGTH;
  if (!card_tlv_next (&reader, &offset_tlv) || offset_tlv.tag != TAG_OFFSET || offset_tlv.size != 2
      || !card_tlv_next (&reader, &content) || content.tag != TAG_CONTENT || reader.size > 0)
    return CARD_SW_WRONG_DATA;
  if (id == CARD_NO_FILE)
    return CARD_SW_COMMAND_NOT_ALLOWED;
  if (id == CARD_FILE_CERTIFICATES || is_key_file ((guint16) id))
    return CARD_SW_CONDITIONS_NOT_SATISFIED;
  if (!is_for_host ((guint16) id))
    return CARD_SW_WRONG_P1_P2;

  offset = read_16 (offset_tlv.value);
  file = card_get_file (self, (guint16) id);
  old_size = file ? file->len : 0;
  if (offset > old_size)
    return CARD_SW_WRONG_OFFSET;
  size = MAX (old_size, offset + content.size);
  if (size > CARD_MAX_FILE_SIZE
      || !card_has_memory_for (self, size + (file ? 0 : CARD_FILE_OVERHEAD), old_size))
    return CARD_SW_MEMORY_FULL;

  changed = g_byte_array_sized_new ((guint) size);
  if (old_size > 0)
    g_byte_array_append (changed, file->data, (guint) old_size);
  g_byte_array_set_size (changed, (guint) size);
  if (content.size > 0)
    memcpy (changed->data + offset, content.value, content.size);
  card_put_file (self, (guint16) id, changed);
  self->current_file = id;
  return CARD_SW_OK;
}

/* 00 E4: removes a file or a key. */
guint
card_command_delete (Card *self, const CardApdu *apdu, G_GNUC_UNUSED CardAnswer *answer)
{
  guint16 id;

  if (apdu->p1 != DELETE_CURRENT_OR_ID || apdu->p2 != 0)
    return CARD_SW_WRONG_P1_P2;
  if (apdu->size != 2)
    return CARD_SW_WRONG_LENGTH;

  id = read_16 (apdu->data);
  if (id == CARD_FILE_CERTIFICATES || id == CARD_FILE_KEYS)
    return CARD_SW_CONDITIONS_NOT_SATISFIED;
  if (is_key_file (id) && self->keys[id & 0xFF])
    card_put_key (self, id & 0xFF, NULL);
  else if (!card_get_file (self, id))
    return CARD_SW_FILE_NOT_FOUND;
  card_remove_file (self, id);
  return CARD_SW_OK;
}

static gboolean
append_id (gpointer key, G_GNUC_UNUSED gpointer content, gpointer array)
{
  guint16 id = (guint16) GPOINTER_TO_INT (key);
  const guint8 bytes[] = { (guint8) (id >> 8), (guint8) id };

  if (memchr (listed_files, bytes[0], sizeof listed_files))
    g_byte_array_append (array, bytes, sizeof bytes);
  return FALSE;
}

/* 80 58: lists the ids of keys and files. */
guint
card_command_enumerate (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  if (apdu->p1 != 0 || apdu->p2 != 0)
    return CARD_SW_WRONG_P1_P2;
  if (apdu->size > 0)
    return CARD_SW_WRONG_LENGTH;

  for (guint i = 0; i < CARD_N_KEYS; i++)
    {
      const guint8 id[] = { CARD_FILE_KEYS >> 8, (guint8) i };

      if (self->keys[i])
        g_byte_array_append (answer->data, id, sizeof id);
    }
  g_tree_foreach (self->files, append_id, answer->data);
  /* No half ids, when the caller does not take all. */
  if (answer->data->len > apdu->max_response)
    g_byte_array_set_size (answer->data, (guint) apdu->max_response & ~1U);
  return CARD_SW_OK;
}
