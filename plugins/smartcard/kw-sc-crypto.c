/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-crypto"

#include "config.h"

#include "kw-sc-crypto.h"

#include "kw-limits.h"
#include "kw-rsa-padding.h"
#include "kw-sc-error.h"

#include <openssl/crypto.h>
#include <openssl/rsa.h>
#include <string.h>

/*
 * Work that a card does with a key. Each result is checked: that of a private key with its public half; that of an AES key by a
 * block that goes along, of which it is known what comes out. So neither a key that somebody put in the place of another nor a
 * card that answers with garbage passes for a good one, and nothing is ever encrypted with a key that nobody has proven.
 *
 * Blocks; whoever has the link.
 */

#define CLA_ISO 0x00
#define CLA_HSM 0x80
#define INS_CHALLENGE 0x84
#define INS_CIPHER 0x78
#define INS_DECIPHER 0x62
#define INS_SIGN 0x68
#define MAX_DOUBLED_BYTES 64 /* that are decrypted twice */
#define ALGORITHM_CBC_ENCRYPT 0x10
#define ALGORITHM_CBC_DECRYPT 0x11
#define ALGORITHM_RSA_SIGN 0x20
#define ALGORITHM_RSA_DECRYPT 0x21
#define ALGORITHM_ECDSA 0x70

#define MAX_ECDSA_BYTES 144 /* in DER, for 521 bits */
#define SHA256_BYTES 32

/* DigestInfo of SHA-256 up to the digest: RFC 8017, 9.2, note 1. */
static const guint8 sha256_digest_info[] = {
  0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
  0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20,
};

G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_PKEY_CTX, EVP_PKEY_CTX_free)

static gboolean
set_not_the_same (KwScKey *key, GError **error)
{
  g_set_error (
      error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
      "What the card made with key %u is wrong: it holds another key than before, or is damaged",
      key->kid);
  return FALSE;
}

static gboolean
check_size (KwScSpan data, gsize expected, GError **error)
{
  if (data.size == expected)
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
               "The card answered with %" G_GSIZE_FORMAT " bytes where %" G_GSIZE_FORMAT
               " are right",
               data.size, expected);
  return FALSE;
}

/* That a key which was there is gone now means that somebody changed the card: only a new look tells the truth. */
static gboolean
run_with_key (KwScLink *link,
              KwScKey *key,
              const KwScCommand *command,
              const char *what,
              KwScAnswer *out_answer,
              GError **error)
{
  if (!kw_sc_card_exchange (link, command, out_answer, error))
    return FALSE;
  if (out_answer->sw == KW_SC_SW_OK)
    return TRUE;
  if (out_answer->sw == KW_SC_SW_NO_REFERENCE || out_answer->sw == KW_SC_SW_FILE_NOT_FOUND)
    g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE,
                 "Key %u is gone from the card: another program changed it", key->kid);
  else
    kw_sc_set_sw_error (error, out_answer->sw, what);
  return FALSE;
}

/* --- RSA and EC --- */

static gsize
modulus_bytes (KwScKey *key)
{
  return (kw_key_get_bits (key->key) + 7) / 8;
}

static gboolean
check_modulus (KwScKey *key, GError **error)
{
  if (key->public_key != NULL && modulus_bytes (key) >= KW_MIN_RSA_BITS / 8
      && modulus_bytes (key) <= KW_MAX_RSA_BYTES)
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED,
               "The card does not tell the public half of key %u, or it has not %d to %d bits",
               key->kid, KW_MIN_RSA_BITS, KW_MAX_RSA_BITS);
  return FALSE;
}

/* The public operation, without padding; as long as the modulus. %FALSE also for numbers that are not less than it. */
static gboolean
raise_to_public (KwScKey *key, const guint8 *input, guint8 *output)
{
  g_autoptr (EVP_PKEY_CTX) context = EVP_PKEY_CTX_new (key->public_key, NULL);
  gsize size = modulus_bytes (key);

  return context != NULL && EVP_PKEY_encrypt_init (context) == 1
         && EVP_PKEY_CTX_set_rsa_padding (context, RSA_NO_PADDING) == 1
         && EVP_PKEY_encrypt (context, output, &size, input, modulus_bytes (key)) == 1
         && size == modulus_bytes (key);
}

/* The private operation on a number less than the modulus and as long; proven by the public one. */
static KwSecret *
raise_to_private (KwScLink *link,
                  KwScKey *key,
                  guint8 ins,
                  guint8 algorithm,
                  const char *what,
                  const guint8 *input,
                  GError **error)
{
  gsize size = modulus_bytes (key);
  const KwScCommand command = { CLA_HSM, ins, key->kid, algorithm, input, size, size };
  KwScAnswer answer = { 0 };
  g_autoptr (KwSecret) block = NULL;
  g_autoptr (GError) run_error = NULL;
  guint8 again[KW_MAX_RSA_BYTES];

  if (!run_with_key (link, key, &command, what, &answer, &run_error))
    {
      /* The number is less than the modulus that was read; a card that finds it too large has another one. */
      if (answer.sw == KW_SC_SW_WRONG_DATA)
        set_not_the_same (key, error);
      else
        g_propagate_error (error, g_steal_pointer (&run_error));
      return NULL;
    }
  if (!check_size (answer.data, size, error))
    return NULL;
  block = kw_secret_new_copy (answer.data.data, size, error);
  if (block == NULL)
    return NULL;
  if (!raise_to_public (key, kw_secret_get_data (block), again)
      || CRYPTO_memcmp (again, input, size) != 0)
    {
      set_not_the_same (key, error);
      return NULL;
    }
  return g_steal_pointer (&block);
}

/**
 * kw_sc_rsa_decrypt:
 * @link: a connection, logged in
 * @key: an RSA key
 * @padding: how the plaintext is padded
 * @ciphertext: what to decrypt
 * @error: where to store the error
 *
 * Decrypts a block; the padding is taken off here, in constant time.
 *
 * Returns: (transfer full): the plaintext; %NULL with %KW_ERROR_DECRYPT_FAILED or an error of the card
 */
KwSecret *
kw_sc_rsa_decrypt (KwScLink *link,
                   KwScKey *key,
                   KwRsaPadding padding,
                   GBytes *ciphertext,
                   GError **error)
{
  gsize size = 0;
  const guint8 *input = g_bytes_get_data (ciphertext, &size);
  guint8 ignored[KW_MAX_RSA_BYTES];
  g_autoptr (KwSecret) block = NULL;

  if (!check_modulus (key, error))
    return NULL;
  /* The ciphertext is public: time may tell what is wrong with it. The public operation takes what is less than the modulus. */
  if (size != modulus_bytes (key) || !raise_to_public (key, input, ignored))
    {
      kw_token_set_decrypt_failed (error);
      return NULL;
    }
  block
      = raise_to_private (link, key, INS_DECIPHER, ALGORITHM_RSA_DECRYPT, "DECIPHER", input, error);
  if (block == NULL)
    return NULL;
  return kw_rsa_unpad (padding, kw_secret_get_data (block), size, error);
}

static GBytes *
sign_rsa (KwScLink *link, KwScKey *key, GBytes *digest, GError **error)
{
  guint8 block[KW_MAX_RSA_BYTES];
  gsize size = modulus_bytes (key);
  gsize n_info = sizeof sha256_digest_info + SHA256_BYTES;
  g_autoptr (KwSecret) signature = NULL;

  if (!check_modulus (key, error))
    return NULL;
  /* EM = 00 ‖ 01 ‖ FF… ‖ 00 ‖ DigestInfo: RFC 8017, 9.2. */
  memset (block, 0xFF, size);
  block[0] = 0x00;
  block[1] = 0x01;
  block[size - n_info - 1] = 0x00;
  memcpy (block + size - n_info, sha256_digest_info, sizeof sha256_digest_info);
  memcpy (block + size - SHA256_BYTES, g_bytes_get_data (digest, NULL), SHA256_BYTES);
  signature = raise_to_private (link, key, INS_SIGN, ALGORITHM_RSA_SIGN, "SIGN", block, error);
  return signature != NULL ? g_bytes_new (kw_secret_get_data (signature), size) : NULL;
}

static GBytes *
sign_ec (KwScLink *link, KwScKey *key, GBytes *digest, GError **error)
{
  const guint8 *input = g_bytes_get_data (digest, NULL);
  const KwScCommand command
      = { CLA_HSM, INS_SIGN, key->kid, ALGORITHM_ECDSA, input, SHA256_BYTES, 256 };
  KwScAnswer answer = { 0 };
  g_autoptr (EVP_PKEY_CTX) context = NULL;

  if (!run_with_key (link, key, &command, "SIGN", &answer, error))
    return NULL;
  if (answer.data.size == 0 || answer.data.size > MAX_ECDSA_BYTES)
    {
      set_not_the_same (key, error);
      return NULL;
    }
  if (key->public_key != NULL)
    {
      context = EVP_PKEY_CTX_new (key->public_key, NULL);
      if (context == NULL || EVP_PKEY_verify_init (context) != 1
          || EVP_PKEY_verify (context, answer.data.data, answer.data.size, input, SHA256_BYTES)
                 != 1)
        {
          set_not_the_same (key, error);
          return NULL;
        }
    }
  return g_bytes_new (answer.data.data, answer.data.size);
}

/**
 * kw_sc_sign_sha256:
 * @link: a connection, logged in
 * @key: an RSA or EC key
 * @digest: 32 bytes
 * @error: where to store the error
 *
 * Signs a digest: RSA with PKCS#1 v1.5, EC with ECDSA in DER.
 *
 * Returns: (transfer full): the signature; %NULL with an error
 */
GBytes *
kw_sc_sign_sha256 (KwScLink *link, KwScKey *key, GBytes *digest, GError **error)
{
  g_return_val_if_fail (g_bytes_get_size (digest) == SHA256_BYTES, NULL);

  return kw_key_get_kind (key->key) == KW_KEY_KIND_EC ? sign_ec (link, key, digest, error)
                                                      : sign_rsa (link, key, digest, error);
}

/* --- AES --- */

static void
xor_block (guint8 *block, const guint8 *other)
{
  for (gsize i = 0; i < KW_SC_BLOCK_BYTES; i++)
    block[i] ^= other[i];
}

/* What is known of the proof, as it goes in and as it comes out. */
static const guint8 *
proof_in (const KwScKey *key, gboolean encrypt)
{
  return encrypt ? key->proof_plain : key->proof_cipher;
}

static const guint8 *
proof_out (const KwScKey *key, gboolean encrypt)
{
  return encrypt ? key->proof_cipher : key->proof_plain;
}

/*
 * What is short, such as a data key, is decrypted twice in one command: the copies differ by what CBC puts on their first
 * blocks. The proof tells a wrong key and noise, but not a bit that is turned somewhere behind it, and the caller would hear
 * that his message is bad. Ciphertexts cannot be compared that way, as each block depends on those before it.
 */
static gsize
size_of_copy (gboolean encrypt, gsize size)
{
  return !encrypt && size <= MAX_DOUBLED_BYTES ? size : 0;
}

static gboolean
copies_agree (const KwScKey *key, const guint8 *in, const guint8 *out, gsize size)
{
  guint8 first[KW_SC_BLOCK_BYTES];

  memcpy (first, out, sizeof first);
  if (key->has_proof)
    xor_block (first, key->proof_cipher);
  xor_block (first, in + size - KW_SC_BLOCK_BYTES);
  return CRYPTO_memcmp (first, out + size, sizeof first) == 0
         && CRYPTO_memcmp (out + sizeof first, out + size + sizeof first, size - sizeof first) == 0;
}

/*
 * One command. The card's CBC begins with an IV of zeros. To encrypt, what stands in front of our first block (the IV, or the
 * last block of the piece before) is XORed onto it before, to decrypt afterwards. With a proof in front, the block that the
 * card itself puts on our first one is the proof's ciphertext, which is XORed away the same way.
 */
static gboolean
cipher_piece (KwScLink *link,
              KwScKey *key,
              gboolean encrypt,
              const guint8 *chain,
              const guint8 *data,
              gsize size,
              guint8 *out,
              GError **error)
{
  gsize n_proof = key->has_proof ? KW_SC_BLOCK_BYTES : 0;
  gsize n_copy = size_of_copy (encrypt, size);
  g_autoptr (KwSecret) input = kw_secret_new (n_proof + size + n_copy, error);
  KwScCommand command = { CLA_HSM,
                          INS_CIPHER,
                          key->kid,
                          encrypt ? ALGORITHM_CBC_ENCRYPT : ALGORITHM_CBC_DECRYPT,
                          NULL,
                          n_proof + size + n_copy,
                          n_proof + size + n_copy };
  KwScAnswer answer = { 0 };
  guint8 *first = NULL;

  if (input == NULL)
    return FALSE;
  first = kw_secret_get_data (input) + n_proof;
  memcpy (first, data, size);
  memcpy (first + size, data, n_copy);
  if (n_proof > 0)
    memcpy (kw_secret_get_data (input), proof_in (key, encrypt), n_proof);
  if (encrypt)
    {
      xor_block (first, chain);
      if (n_proof > 0)
        xor_block (first, key->proof_cipher);
    }
  command.data = kw_secret_get_data (input);
  if (!run_with_key (link, key, &command, "CIPHER", &answer, error)
      || !check_size (answer.data, n_proof + size + n_copy, error))
    return FALSE;
  if ((n_proof > 0 && CRYPTO_memcmp (answer.data.data, proof_out (key, encrypt), n_proof) != 0)
      || (n_copy > 0 && !copies_agree (key, data, answer.data.data + n_proof, size)))
    return set_not_the_same (key, error);
  memcpy (out, answer.data.data + n_proof, size);
  if (!encrypt)
    {
      xor_block (out, chain);
      if (n_proof > 0)
        xor_block (out, key->proof_cipher);
    }
  return TRUE;
}

/**
 * kw_sc_aes_cbc:
 * @link: a connection, logged in
 * @key: an AES key
 * @encrypt: %TRUE to encrypt
 * @iv: 16 bytes
 * @data: whole blocks
 * @size: their size in bytes
 * @error: where to store the error
 *
 * Encrypts or decrypts with AES-CBC, in as many commands as it takes.
 *
 * Returns: (transfer full): as many bytes as went in; %NULL with an error
 */
KwSecret *
kw_sc_aes_cbc (KwScLink *link,
               KwScKey *key,
               gboolean encrypt,
               const guint8 *iv,
               gconstpointer data,
               gsize size,
               GError **error)
{
  g_autoptr (KwSecret) output = kw_secret_new (size, error);
  const guint8 *input = data;
  guint8 chain[KW_SC_BLOCK_BYTES];
  gsize n_piece = 0;

  g_return_val_if_fail (size % KW_SC_BLOCK_BYTES == 0, NULL);

  if (output == NULL || !kw_sc_key_ensure_proof (key, link, error))
    return NULL;
  memcpy (chain, iv, sizeof chain);
  for (gsize done = 0; done < size; done += n_piece)
    {
      guint8 *out = kw_secret_get_data (output) + done;

      n_piece = MIN (size - done,
                     (gsize) KW_SC_APDU_MAX_DATA - (key->has_proof ? KW_SC_BLOCK_BYTES : 0));
      if (!cipher_piece (link, key, encrypt, chain, input + done, n_piece, out, error))
        return NULL;
      memcpy (chain, (encrypt ? out : input + done) + n_piece - KW_SC_BLOCK_BYTES, sizeof chain);
    }
  return g_steal_pointer (&output);
}

/**
 * kw_sc_random:
 * @link: a connection
 * @data: where they go
 * @size: how many
 * @error: where to store the error
 *
 * Lets the card make random bytes.
 *
 * Returns: %TRUE on success
 */
gboolean
kw_sc_random (KwScLink *link, guint8 *data, gsize size, GError **error)
{
  gsize n_piece = 0;

  for (gsize done = 0; done < size; done += n_piece)
    {
      KwScCommand command = { CLA_ISO, INS_CHALLENGE, 0x00, 0x00, NULL, 0, 0 };
      KwScAnswer answer = { 0 };

      n_piece = MIN (size - done, KW_SC_APDU_MAX_DATA);
      command.n_expected = n_piece;
      if (!kw_sc_card_run (link, &command, "GET CHALLENGE", &answer, error)
          || !check_size (answer.data, n_piece, error))
        return FALSE;
      memcpy (data + done, answer.data.data, n_piece);
    }
  return TRUE;
}
