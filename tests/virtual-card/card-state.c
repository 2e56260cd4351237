/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What a card keeps, as bytes: "KWVC" ‖ version, one byte ‖ fields ‖ SHA-256 of all before. Numbers are big-endian; a run of
 * bytes has its length, four bytes, before it. */

#include "card-private.h"

#include <gio/gio.h>
#include <openssl/crypto.h>
#include <string.h>

#define STATE_MAGIC "KWVC"
#define STATE_VERSION 2

/* The one before it: without the number of starts. */
#define STATE_VERSION_WITHOUT_STARTS 1

/* Largest state that is read, in bytes: memory, overheads and certificates stay far below. */
#define STATE_MAX_SIZE (16 * 1024 * 1024)

static gint
compare_ids (gconstpointer a, gconstpointer b, G_GNUC_UNUSED gpointer user_data)
{
  return (GPOINTER_TO_INT (a) > GPOINTER_TO_INT (b)) - (GPOINTER_TO_INT (a) < GPOINTER_TO_INT (b));
}

static void
content_free (gpointer content)
{
  g_byte_array_unref (content);
}

/**
 * card_files_new:
 *
 * Returns: (transfer full): no files
 */
GTree *
card_files_new (void)
{
  return g_tree_new_full (compare_ids, NULL, NULL, content_free);
}

/**
 * card_get_file:
 * @self: the card
 * @id: file id
 *
 * Returns: (transfer none) (nullable): its content
 */
GByteArray *
card_get_file (const Card *self, guint16 id)
{
  return g_tree_lookup (self->files, GINT_TO_POINTER (id));
}

static gboolean
add_size (G_GNUC_UNUSED gpointer id, gpointer content, gpointer sum)
{
  *(gsize *) sum += CARD_FILE_OVERHEAD + ((GByteArray *) content)->len;
  return FALSE;
}

/**
 * card_has_memory_for:
 * @self: the card
 * @more: bytes that would be added
 * @less: bytes that would go
 *
 * Returns: whether the memory is large enough
 */
gboolean
card_has_memory_for (const Card *self, gsize more, gsize less)
{
  gsize used = 0;

  g_tree_foreach (self->files, add_size, &used);
  for (guint i = 0; i < CARD_N_KEYS; i++)
    {
      if (self->keys[i])
        used += card_key_get_memory (self->keys[i]);
    }
  return used + more <= self->max_memory + less;
}

/**
 * card_put_file:
 * @self: the card
 * @id: file id
 * @content: (transfer full): what it is to hold
 */
void
card_put_file (Card *self, guint16 id, GByteArray *content)
{
  g_tree_insert (self->files, GINT_TO_POINTER (id), content);
  self->changed = TRUE;
}

void
card_remove_file (Card *self, guint16 id)
{
  g_tree_remove (self->files, GINT_TO_POINTER (id));
  if (self->current_file == id)
    self->current_file = CARD_NO_FILE;
  self->changed = TRUE;
}

static void
write_8 (GByteArray *array, guint8 number)
{
  g_byte_array_append (array, &number, 1);
}

static void
write_64 (GByteArray *array, guint64 number)
{
  guint64 bytes = GUINT64_TO_BE (number);

  g_byte_array_append (array, (const guint8 *) &bytes, sizeof bytes);
}

static void
write_run (GByteArray *array, const guint8 *bytes, gsize size)
{
  guint32 length = GUINT32_TO_BE ((guint32) size);

  g_byte_array_append (array, (const guint8 *) &length, sizeof length);
  if (size > 0)
    g_byte_array_append (array, bytes, (guint) size);
}

static void
write_bytes (GByteArray *array, GBytes *bytes)
{
  if (bytes)
    write_run (array, g_bytes_get_data (bytes, NULL), g_bytes_get_size (bytes));
  else
    write_run (array, NULL, 0);
}

static void
write_key (GByteArray *array, guint8 id, const CardKey *key)
{
  CardRsaNumbers numbers;
  g_autoptr (GBytes) scalar = NULL;

  write_8 (array, id);
  write_8 (array, (guint8) key->kind);
  write_run (array, key->algorithms, key->n_algorithms);
  write_64 (array, (guint64) key->uses_left);
  switch (key->kind)
    {
    case CARD_KEY_RSA:
      card_key_get_rsa_numbers (key, &numbers);
      write_bytes (array, numbers.n);
      write_bytes (array, numbers.e);
      write_bytes (array, numbers.d);
      write_bytes (array, numbers.p);
      write_bytes (array, numbers.q);
      card_rsa_numbers_clear (&numbers);
      break;
    case CARD_KEY_EC:
      scalar = card_key_get_ec_scalar (key);
      write_run (array, (const guint8 *) key->curve->name, strlen (key->curve->name));
      write_bytes (array, scalar);
      break;
    case CARD_KEY_AES:
    default:
      write_run (array, key->secret, key->bits / 8);
      break;
    }
}

static gboolean
write_file (gpointer id, gpointer content, gpointer array)
{
  const GByteArray *bytes = content;

  write_64 (array, (guint64) GPOINTER_TO_INT (id));
  write_run (array, bytes->data, bytes->len);
  return FALSE;
}

/**
 * card_dup_state:
 * @self: the card
 *
 * Returns: (transfer full): all that it keeps when unplugged; keys and PINs stand in it as they are
 */
GBytes *
card_dup_state (const Card *self)
{
  const CardPersistent *kept = &self->kept;
  GByteArray *array = g_byte_array_new ();
  guint8 digest[CARD_SHA256_SIZE];
  guint n_keys = 0;

  g_byte_array_append (array, (const guint8 *) STATE_MAGIC, strlen (STATE_MAGIC));
  write_8 (array, STATE_VERSION);
  write_run (array, (const guint8 *) self->serial, strlen (self->serial));
  write_8 (array, (guint8) kept->initialized);
  write_run (array, kept->options, sizeof kept->options);
  write_8 (array, (guint8) kept->pin_is_transport);
  write_run (array, kept->pin, kept->pin_size);
  write_8 (array, kept->pin_max_tries);
  write_8 (array, kept->pin_tries);
  write_run (array, kept->so_pin, sizeof kept->so_pin);
  write_8 (array, kept->so_tries);
  write_8 (array, (guint8) kept->has_dkek);
  write_8 (array, kept->dkek_shares);
  write_8 (array, kept->dkek_missing);
  write_run (array, kept->dkek, sizeof kept->dkek);
  write_64 (array, kept->n_starts);

  for (guint i = 0; i < CARD_N_KEYS; i++)
    n_keys += self->keys[i] != NULL;
  write_64 (array, n_keys);
  for (guint i = 0; i < CARD_N_KEYS; i++)
    {
      if (self->keys[i])
        write_key (array, (guint8) i, self->keys[i]);
    }

  write_64 (array, (guint64) g_tree_nnodes (self->files));
  g_tree_foreach (self->files, write_file, array);

  card_sha256 (array->data, array->len, digest);
  g_byte_array_append (array, digest, sizeof digest);
  return g_byte_array_free_to_bytes (array);
}

/* A place in the bytes; good falls once something was missing or out of its range. */
typedef struct
{
  const guint8 *bytes;
  gsize size;
  gboolean good;
  gint last_id; /* of a key or a file: they come in order */
} Reader;

static guint64
read_number (Reader *reader, guint n_bytes, guint64 max)
{
  guint64 number = 0;

  if (!reader->good || reader->size < n_bytes)
    {
      reader->good = FALSE;
      return 0;
    }
  for (guint i = 0; i < n_bytes; i++)
    number = number << 8 | reader->bytes[i];
  reader->bytes += n_bytes;
  reader->size -= n_bytes;
  if (number > max)
    {
      reader->good = FALSE;
      return 0;
    }
  return number;
}

static const guint8 *
read_run (Reader *reader, gsize max_size, gsize *out_size)
{
  gsize size = read_number (reader, 4, max_size);
  const guint8 *run = reader->bytes;

  *out_size = 0;
  if (!reader->good || reader->size < size)
    {
      reader->good = FALSE;
      return NULL;
    }
  reader->bytes += size;
  reader->size -= size;
  *out_size = size;
  return run;
}

static gsize
read_array (Reader *reader, guint8 *array, gsize min_size, gsize max_size)
{
  gsize size;
  const guint8 *run = read_run (reader, max_size, &size);

  if (!run || size < min_size)
    {
      reader->good = FALSE;
      return 0;
    }
  memcpy (array, run, size);
  return size;
}

/* Copies a run that must not be empty; NULL for an empty one if that @may_be_empty. */
static GBytes *
read_bytes (Reader *reader, gsize max_size, gboolean may_be_empty)
{
  gsize size;
  const guint8 *run = read_run (reader, max_size, &size);

  if (!run || size == 0)
    {
      reader->good = reader->good && may_be_empty;
      return NULL;
    }
  return g_bytes_new (run, size);
}

static CardKey *
read_rsa (Reader *reader)
{
  CardRsaNumbers numbers = { 0 };
  CardKey *key = NULL;

  numbers.n = read_bytes (reader, CARD_MAX_FIELD_SIZE, FALSE);
  numbers.e = read_bytes (reader, CARD_MAX_FIELD_SIZE, FALSE);
  numbers.d = read_bytes (reader, CARD_MAX_FIELD_SIZE, FALSE);
  numbers.p = read_bytes (reader, CARD_MAX_FIELD_SIZE, TRUE);
  numbers.q = read_bytes (reader, CARD_MAX_FIELD_SIZE, TRUE);
  if (reader->good)
    key = card_key_new_rsa (&numbers);
  card_rsa_numbers_clear (&numbers);
  return key;
}

static CardKey *
read_ec (Reader *reader)
{
  gsize name_size;
  const guint8 *name_bytes = read_run (reader, CARD_MAX_FIELD_SIZE, &name_size);
  g_autofree char *name = name_bytes ? g_strndup ((const char *) name_bytes, name_size) : NULL;
  g_autoptr (GBytes) scalar = read_bytes (reader, CARD_MAX_FIELD_SIZE, FALSE);
  const CardCurve *curve = reader->good ? card_curve_find (name) : NULL;

  if (!curve)
    return NULL;
  return card_key_new_ec (curve, g_bytes_get_data (scalar, NULL), g_bytes_get_size (scalar));
}

static CardKey *
read_aes (Reader *reader)
{
  guint8 secret[32];
  gsize size = read_array (reader, secret, 0, sizeof secret);
  CardKey *key = reader->good ? card_key_new_aes (secret, size) : NULL;

  OPENSSL_cleanse (secret, sizeof secret);
  return key;
}

static void
read_key (Reader *reader, Card *self)
{
  guint8 id = (guint8) read_number (reader, 1, CARD_MAX_KEY_ID);
  CardKeyKind kind = (CardKeyKind) read_number (reader, 1, CARD_KEY_AES);
  guint8 algorithms[CARD_MAX_ALGORITHMS];
  gsize n_algorithms = read_array (reader, algorithms, 0, sizeof algorithms);
  guint64 uses_left = read_number (reader, 8, G_MAXUINT64);
  g_autoptr (CardKey) key = NULL;

  if (reader->good)
    key = kind == CARD_KEY_RSA   ? read_rsa (reader)
          : kind == CARD_KEY_EC  ? read_ec (reader)
          : kind == CARD_KEY_AES ? read_aes (reader)
                                 : NULL;
  if (!key || id <= reader->last_id
      || (uses_left > G_MAXUINT32 && uses_left != (guint64) CARD_UNLIMITED_USES))
    {
      reader->good = FALSE;
      return;
    }

  memcpy (key->algorithms, algorithms, n_algorithms);
  key->n_algorithms = n_algorithms;
  key->uses_left = (gint64) uses_left;
  self->keys[id] = g_steal_pointer (&key);
  reader->last_id = id;
}

static void
read_file (Reader *reader, Card *self)
{
  guint16 id = (guint16) read_number (reader, 8, G_MAXUINT16);
  gsize size;
  const guint8 *content = read_run (reader, CARD_MAX_FILE_SIZE, &size);
  GByteArray *array;

  if (!content || id <= reader->last_id)
    {
      reader->good = FALSE;
      return;
    }
  array = g_byte_array_new ();
  g_byte_array_append (array, content, (guint) size);
  card_put_file (self, id, array);
  reader->last_id = id;
}

static void
read_persistent (Reader *reader, guint8 version, CardPersistent *kept)
{
  kept->initialized = (gboolean) read_number (reader, 1, 1);
  read_array (reader, kept->options, sizeof kept->options, sizeof kept->options);
  kept->pin_is_transport = (gboolean) read_number (reader, 1, 1);
  kept->pin_size = read_array (reader, kept->pin, kept->initialized ? CARD_MIN_PIN : 0,
                               kept->initialized ? CARD_MAX_PIN : 0);
  kept->pin_max_tries = (guint8) read_number (reader, 1, G_MAXUINT8);
  kept->pin_tries = (guint8) read_number (reader, 1, kept->pin_max_tries);
  read_array (reader, kept->so_pin, sizeof kept->so_pin, sizeof kept->so_pin);
  kept->so_tries = (guint8) read_number (reader, 1, CARD_MAX_SO_TRIES);
  kept->has_dkek = (gboolean) read_number (reader, 1, 1);
  kept->dkek_shares = (guint8) read_number (reader, 1, G_MAXUINT8);
  kept->dkek_missing = (guint8) read_number (reader, 1, kept->dkek_shares);
  read_array (reader, kept->dkek, sizeof kept->dkek, sizeof kept->dkek);
  if (version != STATE_VERSION_WITHOUT_STARTS)
    kept->n_starts = read_number (reader, 8, G_MAXUINT64);
}

/**
 * card_read_state:
 * @self: a card without keys and files
 * @state: from card_dup_state()
 * @error: return location for a #GError
 *
 * Returns: whether @state was sound; otherwise @self is good for nothing but card_free()
 */
gboolean
card_read_state (Card *self, GBytes *state, GError **error)
{
  gsize size;
  const guint8 *bytes = g_bytes_get_data (state, &size);
  const gsize head_size = strlen (STATE_MAGIC) + 1;
  guint8 digest[CARD_SHA256_SIZE];
  const guint8 *serial;
  gsize serial_size;
  guint8 version;
  guint64 n_keys, n_files;
  Reader reader;

  if (size < head_size + sizeof digest || size > STATE_MAX_SIZE
      || memcmp (bytes, STATE_MAGIC, strlen (STATE_MAGIC)) != 0)
    {
      g_set_error_literal (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                           "this is not the state of a virtual card");
      return FALSE;
    }
  card_sha256 (bytes, size - sizeof digest, digest);
  if (memcmp (digest, bytes + size - sizeof digest, sizeof digest) != 0)
    {
      g_set_error_literal (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                           "the state is damaged: its checksum does not fit");
      return FALSE;
    }
  version = bytes[head_size - 1];
  if (version != STATE_VERSION && version != STATE_VERSION_WITHOUT_STARTS)
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                   "the state has version %u, this program knows version %u", version,
                   STATE_VERSION);
      return FALSE;
    }

  reader = (Reader){ bytes + head_size, size - head_size - sizeof digest, TRUE, -1 };
  serial = read_run (&reader, CARD_MAX_SERIAL, &serial_size);
  self->serial = g_strndup ((const char *) serial, serial ? serial_size : 0);
  read_persistent (&reader, version, &self->kept);
  n_keys = read_number (&reader, 8, CARD_N_KEYS);
  for (guint64 i = 0; reader.good && i < n_keys; i++)
    read_key (&reader, self);
  reader.last_id = -1;
  n_files = read_number (&reader, 8, G_MAXUINT16);
  for (guint64 i = 0; reader.good && i < n_files; i++)
    read_file (&reader, self);

  self->changed = FALSE;
  if (!reader.good || reader.size > 0 || !card_serial_is_valid (self->serial) || !self->keys[0]
      || self->keys[0]->kind != CARD_KEY_EC || !card_get_file (self, CARD_FILE_CERTIFICATES))
    {
      g_set_error_literal (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                           "the state is damaged: its fields do not fit together");
      return FALSE;
    }
  return TRUE;
}
