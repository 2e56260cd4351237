/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-crypto.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

struct _CardRandom
{
  EVP_CIPHER_CTX *stream; /* NULL: the system's generator */
};

G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_CIPHER_CTX, EVP_CIPHER_CTX_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_MAC, EVP_MAC_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_MAC_CTX, EVP_MAC_CTX_free)

/**
 * card_random_new:
 *
 * Returns: (transfer full): libcrypto's generator, seeded by the system
 */
CardRandom *
card_random_new (void)
{
  return g_new0 (CardRandom, 1);
}

/**
 * card_random_new_seeded:
 * @seed: any number
 * @purpose: what the bytes are for: each purpose has a stream of its own
 * @start: which start of the card it is, so that no two have the same stream
 *
 * A generator that gives the same bytes each time: AES-256 in counter mode under the SHA-256 of what it is given. For tests
 * only: who knows the number knows the keys.
 *
 * Returns: (transfer full): the generator
 */
CardRandom *
card_random_new_seeded (guint64 seed, const char *purpose, guint64 start)
{
  CardRandom *self = g_new0 (CardRandom, 1);
  static const guint8 zero[CARD_AES_BLOCK_SIZE];
  guint8 key[CARD_SHA256_SIZE];
  const guint64 numbers[] = { GUINT64_TO_BE (seed), GUINT64_TO_BE (start) };
  g_autoptr (GByteArray) input = g_byte_array_new ();

  g_byte_array_append (input, (const guint8 *) numbers, sizeof numbers);
  g_byte_array_append (input, (const guint8 *) purpose, (guint) strlen (purpose));
  card_sha256 (input->data, input->len, key);
  self->stream = EVP_CIPHER_CTX_new ();
  if (EVP_EncryptInit_ex2 (self->stream, EVP_aes_256_ctr (), key, zero, NULL) != 1)
    g_error ("libcrypto has no AES-256 in counter mode");
  OPENSSL_cleanse (key, sizeof key);
  return self;
}

void
card_random_free (CardRandom *self)
{
  EVP_CIPHER_CTX_free (self->stream);
  g_free (self);
}

/**
 * card_random_fill:
 * @self: the generator
 * @bytes: (out): where the bytes go
 * @size: how many, at most 65,536
 *
 * Makes random bytes. There is nothing a card could do without them: the program ends when the system has none.
 */
void
card_random_fill (CardRandom *self, guint8 *bytes, gsize size)
{
  gboolean done;

  if (self->stream)
    {
      int n_bytes;

      memset (bytes, 0, size);
      done = EVP_EncryptUpdate (self->stream, bytes, &n_bytes, bytes, (int) size) == 1;
    }
  else
    {
      done = RAND_bytes (bytes, (int) size) == 1;
    }
  if (!done)
    g_error ("no random bytes");
}

/**
 * card_sha256:
 * @data: what to hash
 * @size: bytes of it
 * @out_digest: (out): SHA-256 of it
 */
void
card_sha256 (const guint8 *data, gsize size, guint8 out_digest[CARD_SHA256_SIZE])
{
  if (EVP_Digest (data, size, out_digest, NULL, EVP_sha256 (), NULL) != 1)
    g_error ("libcrypto has no SHA-256");
}

/**
 * card_aes_cbc:
 * @key: AES key
 * @key_size: 16, 24 or 32
 * @encrypt: %TRUE to encrypt, %FALSE to decrypt
 * @data: whole blocks
 * @size: bytes of @data, a multiple of %CARD_AES_BLOCK_SIZE
 * @out_data: (out): @size bytes; may be @data
 *
 * AES-CBC with an IV of zeros and no padding: what the card's cipher command and its wrapping use
 * (smartcard-hsm interface: commands 78, 72, 74). Sizes that do not fit are a bug, and end the program.
 */
void
card_aes_cbc (const guint8 *key,
              gsize key_size,
              gboolean encrypt,
              const guint8 *data,
              gsize size,
              guint8 *out_data)
{
  static const guint8 zero[CARD_AES_BLOCK_SIZE];
  g_autoptr (EVP_CIPHER_CTX) context = EVP_CIPHER_CTX_new ();
  const EVP_CIPHER *cipher = key_size == 16   ? EVP_aes_128_cbc ()
                             : key_size == 24 ? EVP_aes_192_cbc ()
                             : key_size == 32 ? EVP_aes_256_cbc ()
                                              : NULL;
  int n_bytes;

  if (!cipher || size % CARD_AES_BLOCK_SIZE != 0 || size > G_MAXINT
      || EVP_CipherInit_ex2 (context, cipher, key, zero, encrypt, NULL) != 1
      || EVP_CIPHER_CTX_set_padding (context, 0) != 1
      || EVP_CipherUpdate (context, out_data, &n_bytes, data, (int) size) != 1
      || (gsize) n_bytes != size)
    g_error ("AES-CBC failed with a key of %" G_GSIZE_FORMAT " and data of %" G_GSIZE_FORMAT
             " bytes",
             key_size, size);
}

/**
 * card_aes_cmac:
 * @key: AES key
 * @key_size: 16, 24 or 32
 * @data: what to authenticate
 * @size: bytes of it
 * @out_mac: (out): AES-CMAC (NIST SP 800-38B)
 *
 * A size of key that there is not is a bug, and ends the program.
 */
void
card_aes_cmac (const guint8 *key,
               gsize key_size,
               const guint8 *data,
               gsize size,
               guint8 out_mac[CARD_CMAC_SIZE])
{
  g_autoptr (EVP_MAC) mac = EVP_MAC_fetch (NULL, OSSL_MAC_NAME_CMAC, NULL);
  g_autoptr (EVP_MAC_CTX) context = EVP_MAC_CTX_new (mac);
  const char *cipher = key_size == 16   ? "AES-128-CBC"
                       : key_size == 24 ? "AES-192-CBC"
                       : key_size == 32 ? "AES-256-CBC"
                                        : NULL;
  OSSL_PARAM parameters[] = {
    OSSL_PARAM_construct_utf8_string (OSSL_MAC_PARAM_CIPHER, (char *) cipher, 0),
    OSSL_PARAM_construct_end (),
  };
  gsize n_bytes;

  if (!cipher || EVP_MAC_init (context, key, key_size, parameters) != 1
      || EVP_MAC_update (context, data, size) != 1
      || EVP_MAC_final (context, out_mac, &n_bytes, CARD_CMAC_SIZE) != 1
      || n_bytes != CARD_CMAC_SIZE)
    g_error ("AES-CMAC failed with a key of %" G_GSIZE_FORMAT " bytes", key_size);
}

/**
 * card_equal:
 * @a: bytes
 * @size_a: how many
 * @b: other bytes
 * @size_b: how many
 *
 * Compares secrets, in a time that tells nothing but whether the sizes differ.
 *
 * Returns: whether they are the same
 */
gboolean
card_equal (const guint8 *a, gsize size_a, const guint8 *b, gsize size_b)
{
  return size_a == size_b && CRYPTO_memcmp (a, b, size_a) == 0;
}
