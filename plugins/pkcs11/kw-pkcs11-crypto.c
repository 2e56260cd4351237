/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-crypto"

#include "config.h"

#include "kw-pkcs11-crypto.h"

#include "kw-error.h"
#include "kw-limits.h"
#include "kw-rsa-padding.h"

#include <string.h>

/*
 * Operations with a key whose handle is known, on a borrowed session: one Init call and one that
 * does the work. When the second fails, the operation may still be active, so the session is broken.
 *
 * RSA blocks are decrypted raw where the token can, and unpadded here: in constant time, and with
 * all paddings, which many tokens lack. What the token says about a bad ciphertext never shows.
 */

#define AES_BLOCK_BYTES 16
#define PKCS1_OVERHEAD 11
#define RANDOM_PIECE 1024
#define SHA256_BYTES 32

/* DigestInfo of SHA-256 up to the digest: RFC 8017, 9.2, note 1. */
static const guint8 sha256_digest_info[] = {
  0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
  0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20,
};

static gboolean
check_last (KwPkcs11Session *session, CK_RV rv, const char *function, GError **error)
{
  if (kw_pkcs11_session_check (session, rv, function, error))
    return TRUE;
  session->broken = TRUE;
  return FALSE;
}

static void
set_wrong_length (KwPkcs11Session *session,
                  const char *function,
                  CK_ULONG length,
                  gsize expected,
                  GError **error)
{
  session->broken = TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
               "%s: the module tells of %lu bytes where %" G_GSIZE_FORMAT " are right", function,
               length, expected);
}

static gboolean
is_bad_data (CK_RV rv)
{
  return rv == CKR_ENCRYPTED_DATA_INVALID || rv == CKR_ENCRYPTED_DATA_LEN_RANGE
         || rv == CKR_DATA_INVALID || rv == CKR_DATA_LEN_RANGE;
}

static gboolean
check_modulus (KwPkcs11Object *object, GError **error)
{
  gsize n_modulus = object->modulus != NULL ? g_bytes_get_size (object->modulus) : 0;

  if (n_modulus >= KW_MIN_RSA_BITS / 8 && n_modulus <= KW_MAX_RSA_BYTES)
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED,
               "The token does not tell the key's modulus, or it has not %d to %d bits",
               KW_MIN_RSA_BITS, KW_MAX_RSA_BITS);
  return FALSE;
}

/* The ciphertext is public: time may tell what is wrong with it. */
static gboolean
check_ciphertext (KwPkcs11Object *object, GBytes *ciphertext, GError **error)
{
  if (g_bytes_get_size (ciphertext) == g_bytes_get_size (object->modulus)
      && g_bytes_compare (ciphertext, object->modulus) < 0)
    return TRUE;
  kw_token_set_decrypt_failed (error);
  return FALSE;
}

static gboolean
decrypt_init (KwPkcs11Session *session,
              KwPkcs11Object *object,
              CK_MECHANISM *mechanism,
              GError **error)
{
  CK_RV rv = session->functions->C_DecryptInit (session->handle, mechanism, object->handle);

  return kw_pkcs11_session_check (session, rv, "C_DecryptInit", error);
}

static CK_RV
decrypt (KwPkcs11Session *session, GBytes *ciphertext, KwSecret *output, CK_ULONG *out_size)
{
  gsize n_ciphertext = 0;
  const guint8 *input = g_bytes_get_data (ciphertext, &n_ciphertext);

  *out_size = kw_secret_get_size (output);
  return session->functions->C_Decrypt (session->handle, (guint8 *) input, n_ciphertext,
                                        kw_secret_get_data (output), out_size);
}

static void
fill_padding_mechanism (KwRsaPadding padding,
                        CK_RSA_PKCS_OAEP_PARAMS *oaep,
                        CK_MECHANISM *out_mechanism)
{
  gboolean sha256 = padding == KW_RSA_PADDING_OAEP_SHA256;

  if (padding == KW_RSA_PADDING_PKCS1)
    {
      *out_mechanism = (CK_MECHANISM){ CKM_RSA_PKCS, NULL, 0 };
      return;
    }
  *oaep = (CK_RSA_PKCS_OAEP_PARAMS){
    .hashAlg = sha256 ? CKM_SHA256 : CKM_SHA_1,
    .mgf = sha256 ? CKG_MGF1_SHA256 : CKG_MGF1_SHA1,
    .source = CKZ_DATA_SPECIFIED,
  };
  *out_mechanism = (CK_MECHANISM){ CKM_RSA_PKCS_OAEP, oaep, sizeof *oaep };
}

/**
 * kw_pkcs11_decrypt_raw:
 * @session: a session on loan
 * @object: an RSA key
 * @padding: how the plaintext is padded
 * @ciphertext: what to decrypt
 * @error: where to store the error
 *
 * Decrypts with CKM_RSA_X_509 and takes the padding off here. Blocks; the session's thread.
 *
 * Returns: (transfer full): the plaintext; %NULL with %KW_ERROR_DECRYPT_FAILED,
 *   %KW_ERROR_NOT_SUPPORTED or an error of the device
 */
KwSecret *
kw_pkcs11_decrypt_raw (KwPkcs11Session *session,
                       KwPkcs11Object *object,
                       KwRsaPadding padding,
                       GBytes *ciphertext,
                       GError **error)
{
  CK_MECHANISM mechanism = { CKM_RSA_X_509, NULL, 0 };
  g_autoptr (KwSecret) block = NULL;
  CK_ULONG n_output = 0;
  gsize n_modulus = 0;
  guint8 *data = NULL;
  CK_RV rv = CKR_OK;

  g_return_val_if_fail (session != NULL && object != NULL && ciphertext != NULL, NULL);

  if (!check_modulus (object, error) || !check_ciphertext (object, ciphertext, error))
    return NULL;
  n_modulus = g_bytes_get_size (object->modulus);
  block = kw_secret_new (n_modulus, error);
  if (block == NULL || !decrypt_init (session, object, &mechanism, error))
    return NULL;
  rv = decrypt (session, ciphertext, block, &n_output);
  if (is_bad_data (rv))
    {
      kw_token_set_decrypt_failed (error);
      return NULL;
    }
  if (!check_last (session, rv, "C_Decrypt", error))
    return NULL;
  if (n_output > n_modulus)
    {
      set_wrong_length (session, "C_Decrypt", n_output, n_modulus, error);
      return NULL;
    }
  /* Some tokens leave the leading zeros of the number out. */
  data = kw_secret_get_data (block);
  if (n_output < n_modulus)
    {
      memmove (data + (n_modulus - n_output), data, n_output);
      memset (data, 0, n_modulus - n_output);
    }
  return kw_rsa_unpad (padding, data, n_modulus, error);
}

/**
 * kw_pkcs11_decrypt_padded:
 * @session: a session on loan
 * @object: an RSA key
 * @padding: how the plaintext is padded
 * @ciphertext: what to decrypt
 * @error: where to store the error
 *
 * Decrypts and lets the token take the padding off, for tokens without CKM_RSA_X_509. Blocks; the
 * session's thread.
 *
 * Returns: (transfer full): the plaintext; %NULL with %KW_ERROR_DECRYPT_FAILED,
 *   %KW_ERROR_NOT_SUPPORTED or an error of the device
 */
KwSecret *
kw_pkcs11_decrypt_padded (KwPkcs11Session *session,
                          KwPkcs11Object *object,
                          KwRsaPadding padding,
                          GBytes *ciphertext,
                          GError **error)
{
  CK_RSA_PKCS_OAEP_PARAMS oaep = { 0 };
  CK_MECHANISM mechanism = { 0 };
  CK_SESSION_INFO info = { 0 };
  g_autoptr (KwSecret) plaintext = NULL;
  CK_ULONG n_output = 0;
  gboolean answers = FALSE;
  CK_RV rv = CKR_OK;

  g_return_val_if_fail (session != NULL && object != NULL && ciphertext != NULL, NULL);

  if (!check_modulus (object, error) || !check_ciphertext (object, ciphertext, error))
    return NULL;
  fill_padding_mechanism (padding, &oaep, &mechanism);
  plaintext = kw_secret_new (g_bytes_get_size (object->modulus), error);
  if (plaintext == NULL)
    return NULL;
  rv = session->functions->C_DecryptInit (session->handle, &mechanism, object->handle);
  if (rv == CKR_ARGUMENTS_BAD && padding != KW_RSA_PADDING_PKCS1)
    rv = CKR_MECHANISM_PARAM_INVALID;
  if (!kw_pkcs11_session_check (session, rv, "C_DecryptInit", error))
    return NULL;
  rv = decrypt (session, ciphertext, plaintext, &n_output);

  /* Asked after a success too, so that failures take no longer. Tokens have many words for a bad
     ciphertext; as long as the session lives, all mean just that. */
  answers = session->functions->C_GetSessionInfo (session->handle, &info) == CKR_OK;
  if (answers && (is_bad_data (rv) || rv == CKR_GENERAL_ERROR || rv == CKR_FUNCTION_FAILED))
    {
      kw_token_set_decrypt_failed (error);
      return NULL;
    }
  if (!check_last (session, rv, "C_Decrypt", error))
    return NULL;
  if (n_output > kw_secret_get_size (plaintext) - PKCS1_OVERHEAD)
    {
      set_wrong_length (session, "C_Decrypt", n_output,
                        kw_secret_get_size (plaintext) - PKCS1_OVERHEAD, error);
      return NULL;
    }
  kw_secret_truncate (plaintext, n_output);
  return g_steal_pointer (&plaintext);
}

/**
 * kw_pkcs11_sign_sha256:
 * @session: a session on loan
 * @object: an RSA key
 * @digest: 32 bytes
 * @error: where to store the error
 *
 * Signs a digest with PKCS#1 v1.5. Blocks; the session's thread.
 *
 * Returns: (transfer full): the signature; %NULL with an error
 */
GBytes *
kw_pkcs11_sign_sha256 (KwPkcs11Session *session,
                       KwPkcs11Object *object,
                       GBytes *digest,
                       GError **error)
{
  CK_MECHANISM mechanism = { CKM_RSA_PKCS, NULL, 0 };
  guint8 input[sizeof sha256_digest_info + SHA256_BYTES];
  g_autofree guint8 *signature = NULL;
  CK_ULONG n_signature = 0;
  CK_RV rv = CKR_OK;

  g_return_val_if_fail (session != NULL && object != NULL, NULL);
  g_return_val_if_fail (g_bytes_get_size (digest) == SHA256_BYTES, NULL);

  if (!check_modulus (object, error))
    return NULL;
  memcpy (input, sha256_digest_info, sizeof sha256_digest_info);
  memcpy (input + sizeof sha256_digest_info, g_bytes_get_data (digest, NULL), SHA256_BYTES);
  n_signature = g_bytes_get_size (object->modulus);
  signature = g_malloc0 (n_signature);

  rv = session->functions->C_SignInit (session->handle, &mechanism, object->handle);
  if (!kw_pkcs11_session_check (session, rv, "C_SignInit", error))
    return NULL;
  rv = session->functions->C_Sign (session->handle, input, sizeof input, signature, &n_signature);
  if (!check_last (session, rv, "C_Sign", error))
    return NULL;
  if (n_signature != g_bytes_get_size (object->modulus))
    {
      set_wrong_length (session, "C_Sign", n_signature, g_bytes_get_size (object->modulus), error);
      return NULL;
    }
  return g_bytes_new_take (g_steal_pointer (&signature), n_signature);
}

/**
 * kw_pkcs11_aes_cbc:
 * @session: a session on loan
 * @object: an AES key
 * @encrypt: %TRUE to encrypt
 * @iv: 16 bytes
 * @data: whole blocks
 * @size: their size in bytes
 * @error: where to store the error
 *
 * Encrypts or decrypts with CKM_AES_CBC. Blocks; the session's thread.
 *
 * Returns: (transfer full): as many bytes as went in; %NULL with an error
 */
KwSecret *
kw_pkcs11_aes_cbc (KwPkcs11Session *session,
                   KwPkcs11Object *object,
                   gboolean encrypt,
                   const guint8 *iv,
                   gconstpointer data,
                   gsize size,
                   GError **error)
{
  CK_FUNCTION_LIST *functions = NULL;
  guint8 iv_copy[AES_BLOCK_BYTES];
  CK_MECHANISM mechanism = { CKM_AES_CBC, iv_copy, sizeof iv_copy };
  g_autoptr (KwSecret) output = NULL;
  const char *function = encrypt ? "C_Encrypt" : "C_Decrypt";
  CK_ULONG n_output = size;
  CK_RV rv = CKR_OK;

  g_return_val_if_fail (session != NULL && object != NULL && iv != NULL, NULL);

  functions = session->functions;
  memcpy (iv_copy, iv, sizeof iv_copy);
  output = kw_secret_new (size, error);
  if (output == NULL)
    return NULL;
  rv = encrypt ? functions->C_EncryptInit (session->handle, &mechanism, object->handle)
               : functions->C_DecryptInit (session->handle, &mechanism, object->handle);
  if (!kw_pkcs11_session_check (session, rv, encrypt ? "C_EncryptInit" : "C_DecryptInit", error))
    return NULL;
  rv = encrypt ? functions->C_Encrypt (session->handle, (gpointer) data, size,
                                       kw_secret_get_data (output), &n_output)
               : functions->C_Decrypt (session->handle, (gpointer) data, size,
                                       kw_secret_get_data (output), &n_output);
  if (!check_last (session, rv, function, error))
    return NULL;
  if (n_output != size)
    {
      set_wrong_length (session, function, n_output, size, error);
      return NULL;
    }
  return g_steal_pointer (&output);
}

/**
 * kw_pkcs11_random:
 * @session: a session on loan
 * @data: where they go
 * @size: how many
 * @error: where to store the error
 *
 * Lets the token make random bytes, in pieces that every token can. Blocks; the session's thread.
 *
 * Returns: %TRUE on success
 */
gboolean
kw_pkcs11_random (KwPkcs11Session *session, guint8 *data, gsize size, GError **error)
{
  g_return_val_if_fail (session != NULL && (data != NULL || size == 0), FALSE);

  for (gsize done = 0; done < size; done += RANDOM_PIECE)
    {
      CK_RV rv = session->functions->C_GenerateRandom (session->handle, data + done,
                                                       MIN (RANDOM_PIECE, size - done));

      if (!kw_pkcs11_session_check (session, rv, "C_GenerateRandom", error))
        return FALSE;
    }
  return TRUE;
}
