/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-stream"

#include "config.h"

#include "kw-stream.h"

#include "kw-envelope.h"
#include "kw-error.h"

#include <errno.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Encrypts and decrypts what is too long for one message: from descriptor to descriptor, a chunk at a time, each
 * authenticated. Nothing is written that was not verified, and a file that was cut or lengthened is found out.
 *
 *    0  4  "KWF1"
 *    4  2  size of the envelope, big-endian
 *    6  n  envelope (KWE1) whose message is the key of the file, 32 bytes; its associated data is "keyward file 1", a zero
 *          byte, and what the caller gave
 *    …     chunks: up to 65,536 bytes of ciphertext and 16 of tag (AES-256-GCM); all but the last are full
 *
 * The nonce of a chunk is three zero bytes, its number from 0 in eight bytes, and 1 for the last chunk, 0 for the others. The
 * key is used for one file only. An empty file has one empty chunk.
 *
 * Blocks; for threads of their own.
 */

#define MAGIC "KWF1"
#define MAGIC_BYTES 4
#define PREFIX_BYTES 6
#define TAG_BYTES KW_ENVELOPE_TAG_BYTES
#define NONCE_BYTES KW_ENVELOPE_NONCE_BYTES
#define SEALED_BYTES (KW_STREAM_CHUNK_BYTES + TAG_BYTES)
#define MAX_CHUNKS (G_GUINT64_CONSTANT (1) << 32)
#define ENVELOPE_BYTES (KW_ENVELOPE_OVERHEAD_BYTES + KW_STREAM_KEY_BYTES)
#define THROW_AWAY "; throw away what was written"

static gboolean
fail (KwError code, const char *text, GError **error)
{
  g_set_error_literal (error, KW_ERROR, (gint) code, text);
  return FALSE;
}

/* Waits until a descriptor is ready, or all is cancelled. Files are always ready. */
static gboolean
wait_for (const KwStream *self, int fd, short events, GError **error)
{
  GPollFD cancel = { -1, 0, 0 };
  struct pollfd fds[2] = { { fd, events, 0 }, { -1, POLLIN, 0 } };
  gboolean has_cancel
      = self->cancellable != NULL && g_cancellable_make_pollfd (self->cancellable, &cancel);
  int n = 0;

  fds[1].fd = has_cancel ? cancel.fd : -1;
  do
    n = poll (fds, G_N_ELEMENTS (fds), -1);
  while (n < 0 && errno == EINTR);
  if (has_cancel)
    g_cancellable_release_fd (self->cancellable);
  if (self->cancellable != NULL && g_cancellable_is_cancelled (self->cancellable))
    return fail (KW_ERROR_CANCELLED, "The caller has left" THROW_AWAY, error);
  return TRUE;
}

/* Reads until the buffer is full or there is no more. */
static gboolean
read_all (const KwStream *self, guint8 *buffer, gsize size, gsize *out_n, GError **error)
{
  *out_n = 0;
  while (*out_n < size)
    {
      gssize n = -1;

      if (!wait_for (self, self->input, POLLIN, error))
        return FALSE;
      n = read (self->input, buffer + *out_n, size - *out_n);
      if (n < 0 && (errno == EINTR || errno == EAGAIN))
        continue;
      if (n < 0)
        {
          g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "The input cannot be read: %s" THROW_AWAY,
                       g_strerror (errno));
          return FALSE;
        }
      if (n == 0)
        return TRUE;
      *out_n += (gsize) n;
    }
  return TRUE;
}

/* What a descriptor takes without blocking once it is ready. */
static gsize
piece_size (int fd)
{
  struct stat info;

  return fstat (fd, &info) == 0 && S_ISREG (info.st_mode) ? SSIZE_MAX : PIPE_BUF;
}

static gboolean
write_all (const KwStream *self, const guint8 *data, gsize size, GError **error)
{
  gsize piece = piece_size (self->output);

  while (size > 0)
    {
      gssize n = -1;

      if (!wait_for (self, self->output, POLLOUT, error))
        return FALSE;
      n = write (self->output, data, MIN (size, piece));
      if (n < 0 && (errno == EINTR || errno == EAGAIN))
        continue;
      if (n < 0)
        {
          g_set_error (error, KW_ERROR, KW_ERROR_FAILED,
                       "The output cannot be written: %s" THROW_AWAY, g_strerror (errno));
          return FALSE;
        }
      data += n;
      size -= (gsize) n;
    }
  return TRUE;
}

static void
make_nonce (guint64 number, gboolean last, guint8 *nonce)
{
  guint64 big_endian = GUINT64_TO_BE (number);

  memset (nonce, 0, NONCE_BYTES);
  memcpy (nonce + 3, &big_endian, sizeof big_endian);
  nonce[NONCE_BYTES - 1] = last ? 1 : 0;
}

static gboolean
begin_chunk (EVP_CIPHER_CTX *context,
             gboolean encrypt,
             KwSecret *key,
             guint64 number,
             gboolean last)
{
  guint8 nonce[NONCE_BYTES];

  make_nonce (number, last, nonce);
  return EVP_CipherInit_ex (context, EVP_aes_256_gcm (), NULL, kw_secret_get_data (key), nonce,
                            encrypt)
         == 1;
}

static gboolean
seal_chunk (EVP_CIPHER_CTX *context,
            KwSecret *key,
            guint64 number,
            gboolean last,
            const guint8 *plain,
            gsize size,
            guint8 *sealed)
{
  int n = 0;

  return begin_chunk (context, TRUE, key, number, last)
         && (size == 0 || EVP_CipherUpdate (context, sealed, &n, plain, (int) size) == 1)
         && EVP_CipherFinal_ex (context, sealed + size, &n) == 1
         && EVP_CIPHER_CTX_ctrl (context, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, sealed + size) == 1;
}

static gboolean
open_chunk (EVP_CIPHER_CTX *context,
            KwSecret *key,
            guint64 number,
            gboolean last,
            guint8 *sealed,
            gsize size,
            guint8 *plain)
{
  gsize n_plain = size - TAG_BYTES;
  int n = 0;

  return begin_chunk (context, FALSE, key, number, last)
         && EVP_CIPHER_CTX_ctrl (context, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, sealed + n_plain) == 1
         && (n_plain == 0 || EVP_CipherUpdate (context, plain, &n, sealed, (int) n_plain) == 1)
         && EVP_CipherFinal_ex (context, plain + n_plain, &n) == 1;
}

/**
 * kw_stream_make_associated_data:
 * @associated_data: (nullable): what the caller gave
 *
 * Returns: (transfer full): associated data for the envelope of a file. Any thread.
 */
GBytes *
kw_stream_make_associated_data (GBytes *associated_data)
{
  GByteArray *bytes = g_byte_array_new ();

  /* Its closing zero included. */
  g_byte_array_append (bytes, (const guint8 *) KW_STREAM_ASSOCIATED_DATA,
                       sizeof KW_STREAM_ASSOCIATED_DATA);
  if (associated_data != NULL)
    g_byte_array_append (bytes, g_bytes_get_data (associated_data, NULL),
                         (guint) g_bytes_get_size (associated_data));
  return g_byte_array_free_to_bytes (bytes);
}

static void
tell_progress (const KwStream *self, guint64 n_bytes)
{
  if (self->progress != NULL)
    self->progress (n_bytes, self->user_data);
}

static gboolean
write_prefix (const KwStream *self, GBytes *envelope, GError **error)
{
  gsize size = 0;
  const guint8 *data = g_bytes_get_data (envelope, &size);
  guint8 prefix[PREFIX_BYTES] = MAGIC;

  prefix[MAGIC_BYTES] = (guint8) (size >> 8);
  prefix[MAGIC_BYTES + 1] = (guint8) size;
  return write_all (self, prefix, sizeof prefix, error) && write_all (self, data, size, error);
}

/* Two buffers in turn, since only the end of the input tells that a chunk is the last one. */
static gboolean
seal_chunks (const KwStream *self,
             EVP_CIPHER_CTX *context,
             KwSecret *key,
             KwSecret *buffers,
             guint8 *sealed,
             GError **error)
{
  guint8 *now = kw_secret_get_data (buffers);
  guint8 *next = now + KW_STREAM_CHUNK_BYTES;
  gsize n_now = 0;
  guint64 total = 0;

  if (!read_all (self, now, KW_STREAM_CHUNK_BYTES, &n_now, error))
    return FALSE;
  for (guint64 number = 0; number < MAX_CHUNKS; number++)
    {
      guint8 *swap = now;
      gsize n_next = 0;

      if (n_now == KW_STREAM_CHUNK_BYTES
          && !read_all (self, next, KW_STREAM_CHUNK_BYTES, &n_next, error))
        return FALSE;
      if (!seal_chunk (context, key, number, n_next == 0, now, n_now, sealed))
        return fail (KW_ERROR_FAILED, "The cipher failed" THROW_AWAY, error);
      if (!write_all (self, sealed, n_now + TAG_BYTES, error))
        return FALSE;
      total += n_now;
      tell_progress (self, total);
      if (n_next == 0)
        return TRUE;
      now = next;
      next = swap;
      n_now = n_next;
    }
  return fail (KW_ERROR_INVALID_ARGUMENT, "The file is too long" THROW_AWAY, error);
}

/**
 * kw_stream_seal:
 * @self: from where to where
 * @envelope: what the key of the file is in
 * @key: the key of the file: KW_STREAM_KEY_BYTES that are used for nothing else
 * @error: where to store the error
 *
 * Encrypts a file. Blocks; any thread.
 *
 * Returns: %FALSE with %KW_ERROR_FAILED or %KW_ERROR_CANCELLED; what was written then is of no use
 */
gboolean
kw_stream_seal (const KwStream *self, GBytes *envelope, KwSecret *key, GError **error)
{
  g_autofree guint8 *sealed = g_malloc (SEALED_BYTES);
  g_autoptr (KwSecret) buffers = NULL;
  EVP_CIPHER_CTX *context = NULL;
  gboolean done = FALSE;

  g_return_val_if_fail (kw_secret_get_size (key) == KW_STREAM_KEY_BYTES, FALSE);
  g_return_val_if_fail (g_bytes_get_size (envelope) <= G_MAXUINT16, FALSE);

  buffers = kw_secret_new_unlocked ((gsize) 2 * KW_STREAM_CHUNK_BYTES, error);
  if (buffers == NULL || !write_prefix (self, envelope, error))
    return FALSE;
  context = EVP_CIPHER_CTX_new ();
  done = context != NULL && seal_chunks (self, context, key, buffers, sealed, error);
  EVP_CIPHER_CTX_free (context);
  return done;
}

/**
 * kw_stream_read_envelope:
 * @self: from where to where
 * @error: where to store the error
 *
 * Reads what an encrypted file begins with. Blocks; any thread.
 *
 * Returns: (transfer full): what the key of the file is in; %NULL with %KW_ERROR_INVALID_ARGUMENT when it is no such file
 */
GBytes *
kw_stream_read_envelope (const KwStream *self, GError **error)
{
  guint8 prefix[PREFIX_BYTES];
  guint8 envelope[ENVELOPE_BYTES];
  gsize n = 0;

  if (!read_all (self, prefix, sizeof prefix, &n, error))
    return NULL;
  if (n < sizeof prefix || CRYPTO_memcmp (prefix, MAGIC, MAGIC_BYTES) != 0
      || ((gsize) prefix[MAGIC_BYTES] << 8 | prefix[MAGIC_BYTES + 1]) != ENVELOPE_BYTES)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                           "This is no file that Keyward encrypted: it does not begin with KWF1");
      return NULL;
    }
  if (!read_all (self, envelope, sizeof envelope, &n, error))
    return NULL;
  if (n < sizeof envelope)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "The file is cut short");
      return NULL;
    }
  return g_bytes_new (envelope, sizeof envelope);
}

static gboolean
open_chunks (const KwStream *self,
             EVP_CIPHER_CTX *context,
             KwSecret *key,
             guint8 *sealed,
             guint8 *plain,
             GError **error)
{
  guint8 *now = sealed;
  guint8 *next = sealed + SEALED_BYTES;
  gsize n_now = 0;
  guint64 total = 0;

  if (!read_all (self, now, SEALED_BYTES, &n_now, error))
    return FALSE;
  for (guint64 number = 0; number < MAX_CHUNKS; number++)
    {
      guint8 *swap = now;
      gsize n_next = 0;

      if (n_now == SEALED_BYTES && !read_all (self, next, SEALED_BYTES, &n_next, error))
        return FALSE;
      if (n_now < TAG_BYTES || !open_chunk (context, key, number, n_next == 0, now, n_now, plain))
        return fail (KW_ERROR_DECRYPT_FAILED, "The file is damaged, or was cut short" THROW_AWAY,
                     error);
      if (!write_all (self, plain, n_now - TAG_BYTES, error))
        return FALSE;
      total += n_now - TAG_BYTES;
      tell_progress (self, total);
      if (n_next == 0)
        return TRUE;
      now = next;
      next = swap;
      n_now = n_next;
    }
  return fail (KW_ERROR_INVALID_ARGUMENT, "The file is too long" THROW_AWAY, error);
}

/**
 * kw_stream_open:
 * @self: from where to where; its envelope was read
 * @key: the key of the file
 * @error: where to store the error
 *
 * Decrypts what follows the envelope. Only what was verified is written. Blocks; any thread.
 *
 * Returns: %FALSE with %KW_ERROR_DECRYPT_FAILED, %KW_ERROR_FAILED or %KW_ERROR_CANCELLED; what was written then is only a part
 */
gboolean
kw_stream_open (const KwStream *self, KwSecret *key, GError **error)
{
  g_autofree guint8 *sealed = g_malloc ((gsize) 2 * SEALED_BYTES);
  g_autoptr (KwSecret) plain = NULL;
  EVP_CIPHER_CTX *context = NULL;
  gboolean done = FALSE;

  if (kw_secret_get_size (key) != KW_STREAM_KEY_BYTES)
    return fail (KW_ERROR_INVALID_ARGUMENT, "The key of the file has a wrong length", error);
  plain = kw_secret_new_unlocked (SEALED_BYTES, error);
  if (plain == NULL)
    return FALSE;
  context = EVP_CIPHER_CTX_new ();
  done = context != NULL
         && open_chunks (self, context, key, sealed, kw_secret_get_data (plain), error);
  EVP_CIPHER_CTX_free (context);
  return done;
}
