/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-json-writer"

#include "config.h"

#include "kw-json-writer.h"

#include "kw-error.h"
#include "kw-limits.h"
#include "kw-log.h"

#include <openssl/evp.h>
#include <string.h>

/*
 * Writes answers that hold a secret, in base64, straight into KwSecret. An answer that finds no memory is an error at its
 * end, so that nobody has to look in between.
 */
struct _KwJsonWriter
{
  KwSecret *secret; /* owned; with room for what follows; NULL without memory */
  gsize n_used;
  GError *error; /* owned */
};

#define BASE64_PIECE_BYTES (3 * 16 * 1024 * 1024)

static KwSecret *
new_secret (gsize size, GError **error)
{
  return size > KW_MAX_LOCKED_BODY_BYTES ? kw_secret_new_unlocked (size, error)
                                         : kw_secret_new (size, error);
}

/* Room for so many bytes more; NULL when there is none. */
static char *
make_room (KwJsonWriter *self, gsize n_bytes)
{
  gsize size = 0;
  KwSecret *larger = NULL;

  if (self->secret == NULL)
    return NULL;
  size = kw_secret_get_size (self->secret);
  if (self->n_used + n_bytes > size)
    {
      larger = new_secret (MAX (size * 2, self->n_used + n_bytes), &self->error);
      if (larger != NULL)
        memcpy (kw_secret_get_data (larger), kw_secret_get_data (self->secret), self->n_used);
      kw_secret_unref (self->secret);
      self->secret = larger;
      if (larger == NULL)
        return NULL;
    }
  return (char *) kw_secret_get_data (self->secret) + self->n_used;
}

/**
 * kw_json_writer_new:
 * @expected: how many bytes it will be, or 0
 *
 * Returns: (transfer full): an empty document
 */
KwJsonWriter *
kw_json_writer_new (gsize expected)
{
  KwJsonWriter *self = g_new0 (KwJsonWriter, 1);

  self->secret = new_secret (MAX (expected, KW_MAX_JSON_NAME_BYTES), &self->error);
  return self;
}

/**
 * kw_json_writer_free:
 * @self: (transfer full): a document
 *
 * Wipes what was written and not taken.
 */
void
kw_json_writer_free (KwJsonWriter *self)
{
  g_clear_pointer (&self->secret, kw_secret_unref);
  g_clear_error (&self->error);
  g_free (self);
}

/**
 * kw_json_writer_add:
 * @self: a document
 * @text: JSON as it is, such as brackets
 *
 * Adds text.
 */
void
kw_json_writer_add (KwJsonWriter *self, const char *text)
{
  gsize size = strlen (text);
  char *room = make_room (self, size);

  if (room == NULL)
    return;
  memcpy (room, text, size);
  self->n_used += size;
}

/**
 * kw_json_writer_add_string:
 * @self: a document
 * @text: a text that is no secret
 *
 * Adds a string, with its quotes and the escapes it needs.
 */
void
kw_json_writer_add_string (KwJsonWriter *self, const char *text)
{
  g_autoptr (GString) json = g_string_new (NULL);

  kw_log_append_json_string (json, text);
  kw_json_writer_add (self, json->str);
}

/**
 * kw_json_writer_add_base64:
 * @self: a document
 * @data: bytes
 * @size: how many
 *
 * Adds a string of base64 (RFC 4648, 4).
 */
void
kw_json_writer_add_base64 (KwJsonWriter *self, gconstpointer data, gsize size)
{
  char *room = make_room (self, (size + 2) / 3 * 4 + 3); /* with its quotes and EVP's NUL */
  gsize n_piece = 0;

  if (room == NULL)
    return;
  *room++ = '"';
  for (gsize done = 0; done < size; done += n_piece)
    {
      n_piece = MIN (size - done, BASE64_PIECE_BYTES);
      room += EVP_EncodeBlock ((guchar *) room, (const guchar *) data + done, (int) n_piece);
    }
  *room++ = '"';
  self->n_used = (gsize) (room - (char *) kw_secret_get_data (self->secret));
}

/**
 * kw_json_writer_finish:
 * @self: a document
 * @error: where to store the error
 *
 * Returns: (transfer full): what was written; %NULL with %KW_ERROR_FAILED when there was no memory
 */
KwSecret *
kw_json_writer_finish (KwJsonWriter *self, GError **error)
{
  if (self->secret == NULL)
    {
      g_propagate_error (error, g_steal_pointer (&self->error));
      return NULL;
    }
  kw_secret_truncate (self->secret, self->n_used);
  return g_steal_pointer (&self->secret);
}
