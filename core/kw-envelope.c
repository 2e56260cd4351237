/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-envelope"

#include "config.h"

#include "kw-envelope.h"

#include "kw-error.h"
#include "kw-limits.h"
#include "kw-token.h"

#include <openssl/evp.h>
#include <string.h>

/*
 * The format of what is encrypted, version 1:
 *
 *    0  4  "KWE1"
 *    4  1  suite   1 = data key wrapped by AES-256-CBC, data by AES-256-GCM
 *    5  1  flags   0
 *    6  8  first 8 bytes of the key's fingerprint
 *   14 16  IV of the wrap
 *   30 32  wrapped data key, without padding
 *   62 12  GCM nonce
 *   74  n  ciphertext
 *    …  16 GCM tag; associated data = bytes 0…73, then the caller's
 *
 * As text: "keyward:1:" and base64. One message has one spelling: base64 that another decoder would let pass is refused.
 *
 * Any thread. A message is encrypted straight into its envelope and decrypted straight into the memory that is given away.
 */

#define MAGIC "KWE1"
#define MAGIC_BYTES 4
#define OFFSET_VERSION 3
#define OFFSET_SUITE 4
#define OFFSET_FLAGS 5
#define OFFSET_PREFIX 6
#define OFFSET_WRAP_IV 14
#define OFFSET_WRAPPED_KEY 30
#define OFFSET_NONCE 62
#define SUITE_CBC_GCM 1
#define LOCKED_PLAINTEXT_BYTES                                                                     \
  65536 /* larger plaintexts live in memory that is wiped, but not locked */

G_STATIC_ASSERT (OFFSET_NONCE + KW_ENVELOPE_NONCE_BYTES == KW_ENVELOPE_HEADER_BYTES);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_CIPHER_CTX, EVP_CIPHER_CTX_free)

static gboolean
set_malformed (GError **error, const char *what)
{
  g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
               "This is no message that Keyward encrypted: %s", what);
  return FALSE;
}

static void
write_header (const KwEnvelopeHeader *header, guint8 *out)
{
  memcpy (out, MAGIC, MAGIC_BYTES);
  out[OFFSET_SUITE] = SUITE_CBC_GCM;
  out[OFFSET_FLAGS] = 0;
  memcpy (out + OFFSET_PREFIX, header->prefix, sizeof header->prefix);
  memcpy (out + OFFSET_WRAP_IV, header->wrap_iv, sizeof header->wrap_iv);
  memcpy (out + OFFSET_WRAPPED_KEY, header->wrapped_key, sizeof header->wrapped_key);
  memcpy (out + OFFSET_NONCE, header->nonce, sizeof header->nonce);
}

static gboolean
begin (EVP_CIPHER_CTX *context,
       gboolean encrypt,
       const KwSecret *data_key,
       const guint8 *header,
       GBytes *associated_data)
{
  gsize n_associated = 0;
  const guint8 *associated
      = associated_data != NULL ? g_bytes_get_data (associated_data, &n_associated) : NULL;
  int n = 0;

  return context != NULL && kw_secret_get_size (data_key) == KW_ENVELOPE_DATA_KEY_BYTES
         && n_associated <= G_MAXINT
         && EVP_CipherInit_ex (context, EVP_aes_256_gcm (), NULL, kw_secret_get_data (data_key),
                               header + OFFSET_NONCE, encrypt)
                == 1
         && EVP_CipherUpdate (context, NULL, &n, header, KW_ENVELOPE_HEADER_BYTES) == 1
         && (n_associated == 0
             || EVP_CipherUpdate (context, NULL, &n, associated, (int) n_associated) == 1);
}

static gboolean
process (EVP_CIPHER_CTX *context, const guint8 *input, gsize size, guint8 *output)
{
  int n = 0;

  /* OpenSSL takes a call without bytes for something else. */
  return size == 0
         || (EVP_CipherUpdate (context, output, &n, input, (int) size) == 1 && n == (int) size);
}

/**
 * kw_envelope_read_header:
 * @envelope: an envelope, in bytes
 * @out_header: (out caller-allocates): what stands before the message
 * @error: where to store the error
 *
 * Checks all that can be checked without a key. Any thread.
 *
 * Returns: %FALSE with %KW_ERROR_INVALID_ARGUMENT, whose message names what is wrong
 */
gboolean
kw_envelope_read_header (GBytes *envelope, KwEnvelopeHeader *out_header, GError **error)
{
  gsize size = 0;
  const guint8 *data = NULL;
  g_autofree char *what = NULL;

  g_return_val_if_fail (envelope != NULL && out_header != NULL, FALSE);

  data = g_bytes_get_data (envelope, &size);
  if (size < OFFSET_VERSION || strncmp ((const char *) data, MAGIC, OFFSET_VERSION) != 0)
    return set_malformed (error, "it does not begin with \"" MAGIC "\"");
  if (size <= OFFSET_VERSION || data[OFFSET_VERSION] != MAGIC[OFFSET_VERSION])
    return set_malformed (error, "its version is not 1");
  if (size > OFFSET_SUITE && data[OFFSET_SUITE] != SUITE_CBC_GCM)
    {
      what = g_strdup_printf ("its suite is %u, and only 1 is known", data[OFFSET_SUITE]);
      return set_malformed (error, what);
    }
  if (size > OFFSET_FLAGS && data[OFFSET_FLAGS] != 0)
    {
      what = g_strdup_printf ("it has flags (0x%02x), and none are known", data[OFFSET_FLAGS]);
      return set_malformed (error, what);
    }
  if (size < KW_ENVELOPE_OVERHEAD_BYTES)
    {
      what = g_strdup_printf ("it has %" G_GSIZE_FORMAT " bytes, and the shortest one has %d", size,
                              KW_ENVELOPE_OVERHEAD_BYTES);
      return set_malformed (error, what);
    }
  if (size > (gsize) KW_MAX_PLAINTEXT_BYTES + KW_ENVELOPE_OVERHEAD_BYTES)
    {
      what = g_strdup_printf ("it has %" G_GSIZE_FORMAT " bytes, and the longest one has %d", size,
                              KW_MAX_PLAINTEXT_BYTES + KW_ENVELOPE_OVERHEAD_BYTES);
      return set_malformed (error, what);
    }
  memcpy (out_header->prefix, data + OFFSET_PREFIX, sizeof out_header->prefix);
  memcpy (out_header->wrap_iv, data + OFFSET_WRAP_IV, sizeof out_header->wrap_iv);
  memcpy (out_header->wrapped_key, data + OFFSET_WRAPPED_KEY, sizeof out_header->wrapped_key);
  memcpy (out_header->nonce, data + OFFSET_NONCE, sizeof out_header->nonce);
  return TRUE;
}

/*
 * Memory for an envelope. It is no secret; but a large one goes where secrets lie, to pages that were used before, because
 * fresh ones cost as much as to encrypt into them.
 */
static GBytes *
new_envelope_bytes (gsize size, guint8 **out_memory, GError **error)
{
  KwSecret *pages = NULL;

  if (size <= LOCKED_PLAINTEXT_BYTES)
    {
      *out_memory = g_malloc (size);
      return g_bytes_new_take (*out_memory, size);
    }
  pages = kw_secret_new_unlocked (size, error);
  if (pages == NULL)
    return NULL;
  *out_memory = kw_secret_get_data (pages);
  return g_bytes_new_with_free_func (*out_memory, size, (GDestroyNotify) kw_secret_unref, pages);
}

/**
 * kw_envelope_seal:
 * @header: what stands before the message
 * @data_key: the data key that is wrapped in @header, 32 bytes
 * @plaintext: the message, at most KW_MAX_PLAINTEXT_BYTES
 * @associated_data: (nullable): what is protected with it, but not in it
 * @error: where to store the error
 *
 * Encrypts a message into an envelope. The nonce must never have been used with this data key. Any thread.
 *
 * Returns: (transfer full): the envelope; %NULL with %KW_ERROR_FAILED
 */
GBytes *
kw_envelope_seal (const KwEnvelopeHeader *header,
                  const KwSecret *data_key,
                  const KwSecret *plaintext,
                  GBytes *associated_data,
                  GError **error)
{
  g_autoptr (EVP_CIPHER_CTX) context = NULL;
  g_autoptr (GBytes) bytes = NULL;
  guint8 *envelope = NULL;
  gsize size = 0;
  int n = 0;

  g_return_val_if_fail (header != NULL && data_key != NULL && plaintext != NULL, NULL);
  g_return_val_if_fail (kw_secret_get_size (plaintext) <= KW_MAX_PLAINTEXT_BYTES, NULL);

  size = kw_secret_get_size (plaintext);
  bytes = new_envelope_bytes (size + KW_ENVELOPE_OVERHEAD_BYTES, &envelope, error);
  if (bytes == NULL)
    return NULL;
  context = EVP_CIPHER_CTX_new ();
  write_header (header, envelope);
  if (!begin (context, TRUE, data_key, envelope, associated_data)
      || !process (context, kw_secret_get_data (plaintext), size,
                   envelope + KW_ENVELOPE_HEADER_BYTES)
      || EVP_CipherFinal_ex (context, envelope + KW_ENVELOPE_HEADER_BYTES + size, &n) != 1
      || EVP_CIPHER_CTX_ctrl (context, EVP_CTRL_AEAD_GET_TAG, KW_ENVELOPE_TAG_BYTES,
                              envelope + KW_ENVELOPE_HEADER_BYTES + size)
             != 1)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED, "The message cannot be encrypted");
      return NULL;
    }
  return g_steal_pointer (&bytes);
}

/**
 * kw_envelope_open:
 * @envelope: an envelope whose header was read
 * @data_key: the data key that was unwrapped
 * @associated_data: (nullable): as it was given when it was encrypted
 * @error: where to store the error
 *
 * Decrypts a message and checks that nothing of it was changed. Up to 64 KiB it comes in locked memory, as far as there is
 * any; what is larger is wiped all the same, but may be swapped out. Any thread.
 *
 * Returns: (transfer full): the message; %NULL with %KW_ERROR_DECRYPT_FAILED, which never says why
 */
KwSecret *
kw_envelope_open (GBytes *envelope,
                  const KwSecret *data_key,
                  GBytes *associated_data,
                  GError **error)
{
  g_autoptr (EVP_CIPHER_CTX) context = NULL;
  g_autoptr (KwSecret) plaintext = NULL;
  const guint8 *data = NULL;
  gsize size = 0;
  int n = 0;
  guint8 nothing[KW_ENVELOPE_TAG_BYTES];

  g_return_val_if_fail (envelope != NULL && data_key != NULL, NULL);

  data = g_bytes_get_data (envelope, &size);
  g_return_val_if_fail (size >= KW_ENVELOPE_OVERHEAD_BYTES, NULL);

  size -= KW_ENVELOPE_OVERHEAD_BYTES;
  /* Many at a time may use up what can be locked: then they do without, as large ones do. */
  if (size <= LOCKED_PLAINTEXT_BYTES)
    plaintext = kw_secret_new (size, NULL);
  if (plaintext == NULL)
    plaintext = kw_secret_new_unlocked (size, error);
  if (plaintext == NULL)
    return NULL;
  context = EVP_CIPHER_CTX_new ();
  if (!begin (context, FALSE, data_key, data, associated_data)
      || !process (context, data + KW_ENVELOPE_HEADER_BYTES, size, kw_secret_get_data (plaintext))
      || EVP_CIPHER_CTX_ctrl (context, EVP_CTRL_AEAD_SET_TAG, KW_ENVELOPE_TAG_BYTES,
                              (guint8 *) data + KW_ENVELOPE_HEADER_BYTES + size)
             != 1
      || EVP_CipherFinal_ex (context, nothing, &n) != 1)
    {
      kw_token_set_decrypt_failed (error);
      return NULL;
    }
  return g_steal_pointer (&plaintext);
}

/**
 * kw_envelope_to_text:
 * @envelope: an envelope, in bytes
 *
 * Returns: (transfer full): the envelope as text. Any thread.
 */
char *
kw_envelope_to_text (GBytes *envelope)
{
  gsize size = 0;
  const guint8 *data = NULL;
  g_autofree char *base64 = NULL;

  g_return_val_if_fail (envelope != NULL, NULL);

  data = g_bytes_get_data (envelope, &size);
  base64 = g_base64_encode (data, size);
  return g_strconcat (KW_ENVELOPE_TEXT_PREFIX, base64, NULL);
}

/* The value of a digit, −1 for what is none. */
static gint
digit_value (char digit)
{
  if (digit >= 'A' && digit <= 'Z')
    return digit - 'A';
  if (digit >= 'a' && digit <= 'z')
    return digit - 'a' + 26;
  if (digit >= '0' && digit <= '9')
    return digit - '0' + 52;
  if (digit == '+')
    return 62;
  return digit == '/' ? 63 : -1;
}

static GBytes *
decode_base64 (const char *text, gsize size)
{
  g_autofree guint8 *bytes = NULL;
  gsize n_padding = 0;
  gsize n_bytes = 0;
  guint group = 0;

  if (size == 0 || size % 4 != 0)
    return NULL;
  while (n_padding < 2 && text[size - 1 - n_padding] == '=')
    n_padding++;
  bytes = g_try_malloc (size / 4 * 3);
  for (gsize i = 0; bytes != NULL && i < size - n_padding; i++)
    {
      gint value = digit_value (text[i]);

      if (value < 0)
        return NULL;
      group = group << 6 | (guint) value;
      if (i % 4 != 3)
        continue;
      bytes[n_bytes++] = (guint8) (group >> 16);
      bytes[n_bytes++] = (guint8) (group >> 8);
      bytes[n_bytes++] = (guint8) group;
      group = 0;
    }
  if (bytes == NULL)
    return NULL;
  /* Bits that are not used are zero, or the same bytes would have several spellings. */
  if (n_padding == 1)
    {
      if ((group & 0x3) != 0)
        return NULL;
      bytes[n_bytes++] = (guint8) (group >> 10);
      bytes[n_bytes++] = (guint8) (group >> 2);
    }
  else if (n_padding == 2)
    {
      if ((group & 0xF) != 0)
        return NULL;
      bytes[n_bytes++] = (guint8) (group >> 4);
    }
  return g_bytes_new_take (g_steal_pointer (&bytes), n_bytes);
}

/**
 * kw_envelope_from_text:
 * @text: an envelope as text, without blanks or line ends
 * @size: its size in bytes
 * @error: where to store the error
 *
 * The reverse of kw_envelope_to_text(). Any thread.
 *
 * Returns: (transfer full): the envelope in bytes; %NULL with %KW_ERROR_INVALID_ARGUMENT
 */
GBytes *
kw_envelope_from_text (const char *text, gsize size, GError **error)
{
  GBytes *bytes = NULL;
  const gsize n_prefix = strlen (KW_ENVELOPE_TEXT_PREFIX);

  g_return_val_if_fail (text != NULL || size == 0, NULL);

  if (size < n_prefix || strncmp (text, KW_ENVELOPE_TEXT_PREFIX, n_prefix) != 0)
    {
      set_malformed (error, "as text it begins with \"" KW_ENVELOPE_TEXT_PREFIX "\"");
      return NULL;
    }
  bytes = decode_base64 (text + n_prefix, size - n_prefix);
  if (bytes == NULL)
    set_malformed (error, "what follows \"" KW_ENVELOPE_TEXT_PREFIX "\" is not base64");
  return bytes;
}

/**
 * kw_envelope_is_text:
 * @data: an envelope
 *
 * Returns: %TRUE when it is written as text. Any thread.
 */
gboolean
kw_envelope_is_text (GBytes *data)
{
  gsize size = 0;
  const char *text = NULL;
  const gsize n_prefix = strlen (KW_ENVELOPE_TEXT_PREFIX);

  g_return_val_if_fail (data != NULL, FALSE);

  text = g_bytes_get_data (data, &size);
  return size >= n_prefix && strncmp (text, KW_ENVELOPE_TEXT_PREFIX, n_prefix) == 0;
}

/**
 * kw_envelope_decode:
 * @data: an envelope, in bytes or as text
 * @error: where to store the error
 *
 * Returns: (transfer full): the envelope in bytes, @data itself when it was that; %NULL with %KW_ERROR_INVALID_ARGUMENT. Any
 *   thread.
 */
GBytes *
kw_envelope_decode (GBytes *data, GError **error)
{
  gsize size = 0;
  const char *text = NULL;

  g_return_val_if_fail (data != NULL, NULL);

  if (!kw_envelope_is_text (data))
    return g_bytes_ref (data);
  text = g_bytes_get_data (data, &size);
  return kw_envelope_from_text (text, size, error);
}
