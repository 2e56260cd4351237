/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-token"

#include "config.h"

#include "kw-token.h"

#include "kw-error.h"
#include "kw-limits.h"

/*
 * The interface that a back end implements for each plugged token. The wrappers check what every implementation may rely
 * on, once: sizes and ranges of what comes from callers.
 */

G_DEFINE_INTERFACE (KwToken, kw_token, G_TYPE_OBJECT)

#define AES_BLOCK_BYTES 16
#define SHA256_BYTES 32

static gpointer
not_supported (KwToken *self, const char *what, GError **error)
{
  const KwTokenInfo *info = kw_token_get_info (self);

  g_set_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED, "Token %s cannot %s", info->label, what);
  return NULL;
}

static void
kw_token_default_init (KwTokenInterface *iface G_GNUC_UNUSED)
{
}

/**
 * kw_token_info_new:
 *
 * Returns: (transfer full): an empty description, with what is not known marked so. Any thread.
 */
KwTokenInfo *
kw_token_info_new (void)
{
  KwTokenInfo *info = g_new0 (KwTokenInfo, 1);

  info->so_pin_tries_left = -1;
  return info;
}

/**
 * kw_token_info_copy:
 * @info: description of a token
 *
 * Returns: (transfer full): a deep copy. Any thread.
 */
KwTokenInfo *
kw_token_info_copy (const KwTokenInfo *info)
{
  KwTokenInfo *copy = NULL;

  g_return_val_if_fail (info != NULL, NULL);

  copy = g_new0 (KwTokenInfo, 1);
  copy->label = g_strdup (info->label);
  copy->serial = g_strdup (info->serial);
  copy->model = g_strdup (info->model);
  copy->manufacturer = g_strdup (info->manufacturer);
  copy->firmware = g_strdup (info->firmware);
  copy->reader = g_strdup (info->reader);
  copy->slot = info->slot;
  copy->dkek_check_value = g_strdup (info->dkek_check_value);
  copy->dkek_shares = info->dkek_shares;
  copy->dkek_shares_missing = info->dkek_shares_missing;
  copy->so_pin_tries_left = info->so_pin_tries_left;
  copy->options = g_strdup (info->options);
  return copy;
}

/**
 * kw_token_info_free:
 * @info: (transfer full): description of a token
 *
 * Frees a description. Any thread.
 */
void
kw_token_info_free (KwTokenInfo *info)
{
  g_return_if_fail (info != NULL);

  g_free (info->label);
  g_free (info->serial);
  g_free (info->model);
  g_free (info->manufacturer);
  g_free (info->firmware);
  g_free (info->reader);
  g_free (info->dkek_check_value);
  g_free (info->options);
  g_free (info);
}

/**
 * kw_token_set_decrypt_failed:
 * @error: (out) (optional): where to store the error
 *
 * Stores the one error that every decryption that fails because of its input ends with, whatever was wrong: telling
 * would make a padding oracle. Any thread.
 */
void
kw_token_set_decrypt_failed (GError **error)
{
  g_set_error_literal (error, KW_ERROR, KW_ERROR_DECRYPT_FAILED,
                       "The data cannot be decrypted with this key");
}

/**
 * kw_token_get_info:
 * @self: a token
 *
 * Returns: (transfer none): who the token is. Any thread.
 */
const KwTokenInfo *
kw_token_get_info (KwToken *self)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), NULL);

  return KW_TOKEN_GET_IFACE (self)->get_info (self);
}

/**
 * kw_token_get_concurrency:
 * @self: a token
 *
 * Returns: how many calls it can serve at once, at least 1. Any thread.
 */
guint
kw_token_get_concurrency (KwToken *self)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), 1);

  if (KW_TOKEN_GET_IFACE (self)->get_concurrency == NULL)
    return 1;
  return CLAMP (KW_TOKEN_GET_IFACE (self)->get_concurrency (self), 1, KW_MAX_SESSIONS);
}

/**
 * kw_token_get_pin_state:
 * @self: a token
 * @out_state: (out): the state
 * @error: where to store the error
 *
 * Reads what the token says about its user PIN. Blocks; worker threads only.
 *
 * Returns: %TRUE on success
 */
gboolean
kw_token_get_pin_state (KwToken *self, KwPinState *out_state, GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), FALSE);

  if (KW_TOKEN_GET_IFACE (self)->get_pin_state == NULL)
    return not_supported (self, "tell the state of its PIN", error) != NULL;
  return KW_TOKEN_GET_IFACE (self)->get_pin_state (self, out_state, error);
}

/**
 * kw_token_login:
 * @self: a token
 * @pin: (nullable): the PIN; %NULL where it is typed at the reader
 * @error: where to store the error
 *
 * Presents the user PIN, exactly once. Blocks; worker threads only.
 *
 * Returns: %TRUE when logged in; errors %KW_ERROR_PIN_REFUSED, %KW_ERROR_PIN_INVALID, %KW_ERROR_PIN_LOCKED
 */
gboolean
kw_token_login (KwToken *self, KwSecret *pin, GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), FALSE);

  if (KW_TOKEN_GET_IFACE (self)->login == NULL)
    return not_supported (self, "be logged in to", error) != NULL;
  return KW_TOKEN_GET_IFACE (self)->login (self, pin, error);
}

/**
 * kw_token_list_keys:
 * @self: a token
 * @error: where to store the error
 *
 * Lists the private and secret keys. Blocks; worker threads only.
 *
 * Returns: (transfer full) (element-type KwKey): the keys
 */
GPtrArray *
kw_token_list_keys (KwToken *self, GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), NULL);

  if (KW_TOKEN_GET_IFACE (self)->list_keys == NULL)
    return not_supported (self, "list its keys", error);
  return KW_TOKEN_GET_IFACE (self)->list_keys (self, error);
}

/**
 * kw_token_find_key:
 * @self: a token
 * @kind: its kind
 * @id: CKA_ID
 * @error: where to store the error
 *
 * Looks a key up by its CKA_ID. Blocks; worker threads only.
 *
 * Returns: (transfer full): the key; %KW_ERROR_KEY_NOT_FOUND when it is not there
 */
KwKey *
kw_token_find_key (KwToken *self, KwKeyKind kind, GBytes *id, GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), NULL);

  if (KW_TOKEN_GET_IFACE (self)->find_key == NULL)
    return not_supported (self, "find a key", error);
  return KW_TOKEN_GET_IFACE (self)->find_key (self, kind, id, error);
}

/**
 * kw_token_rsa_decrypt:
 * @self: a token
 * @id: CKA_ID of the key
 * @padding: how the plaintext is padded
 * @ciphertext: as long as the modulus
 * @error: where to store the error
 *
 * Decrypts one RSA block. Blocks; worker threads only.
 *
 * Returns: (transfer full): the plaintext; %KW_ERROR_DECRYPT_FAILED when ciphertext or padding are bad
 */
KwSecret *
kw_token_rsa_decrypt (KwToken *self,
                      GBytes *id,
                      KwRsaPadding padding,
                      GBytes *ciphertext,
                      GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), NULL);

  if (g_bytes_get_size (ciphertext) == 0 || g_bytes_get_size (ciphertext) > KW_MAX_RSA_BYTES)
    {
      kw_token_set_decrypt_failed (error);
      return NULL;
    }
  if (KW_TOKEN_GET_IFACE (self)->rsa_decrypt == NULL)
    return not_supported (self, "decrypt", error);
  return KW_TOKEN_GET_IFACE (self)->rsa_decrypt (self, id, padding, ciphertext, error);
}

/**
 * kw_token_sign:
 * @self: a token
 * @id: CKA_ID of an RSA key
 * @sha256_digest: 32 bytes
 * @error: where to store the error
 *
 * Signs a digest with PKCS#1 v1.5 (RFC 8017, 8.2). Blocks; worker threads only.
 *
 * Returns: (transfer full): the signature
 */
GBytes *
kw_token_sign (KwToken *self, GBytes *id, GBytes *sha256_digest, GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), NULL);

  g_return_val_if_fail (g_bytes_get_size (sha256_digest) == SHA256_BYTES, NULL);

  if (KW_TOKEN_GET_IFACE (self)->sign == NULL)
    return not_supported (self, "sign", error);
  return KW_TOKEN_GET_IFACE (self)->sign (self, id, sha256_digest, error);
}

/**
 * kw_token_aes_cbc:
 * @self: a token
 * @id: CKA_ID of an AES key
 * @encrypt: %TRUE to encrypt
 * @iv: 16 bytes
 * @data: input
 * @size: its size, a multiple of 16
 * @error: where to store the error
 *
 * Encrypts or decrypts whole blocks with AES-CBC, without padding. Blocks; worker threads only.
 *
 * Returns: (transfer full): as many bytes as went in
 */
KwSecret *
kw_token_aes_cbc (KwToken *self,
                  GBytes *id,
                  gboolean encrypt,
                  const guint8 *iv,
                  gconstpointer data,
                  gsize size,
                  GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), NULL);

  g_return_val_if_fail (iv != NULL, NULL);

  if (size == 0 || size % AES_BLOCK_BYTES != 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                   "AES-CBC works on whole blocks of %d bytes, not on %" G_GSIZE_FORMAT,
                   AES_BLOCK_BYTES, size);
      return NULL;
    }
  if (KW_TOKEN_GET_IFACE (self)->aes_cbc == NULL)
    return not_supported (self, "use AES", error);
  return KW_TOKEN_GET_IFACE (self)->aes_cbc (self, id, encrypt, iv, data, size, error);
}

/**
 * kw_token_random:
 * @self: a token
 * @data: where they go
 * @size: how many, at most KW_MAX_RANDOM_BYTES
 * @error: where to store the error
 *
 * Lets the token make random bytes. Blocks; worker threads only.
 *
 * Returns: %TRUE on success
 */
gboolean
kw_token_random (KwToken *self, guint8 *data, gsize size, GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), FALSE);

  if (size > KW_MAX_RANDOM_BYTES)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "At most %d random bytes at a time",
                   KW_MAX_RANDOM_BYTES);
      return FALSE;
    }
  if (KW_TOKEN_GET_IFACE (self)->random == NULL)
    return not_supported (self, "make random numbers", error) != NULL;
  return KW_TOKEN_GET_IFACE (self)->random (self, data, size, error);
}

/**
 * kw_token_generate_rsa:
 * @self: a token
 * @bits: 2048, 3072 or 4096
 * @id: CKA_ID that no key has yet
 * @label: CKA_LABEL
 * @error: where to store the error
 *
 * Makes an RSA pair on the token. Blocks; worker threads only.
 *
 * Returns: (transfer full): the key; %KW_ERROR_KEY_EXISTS when @id is taken
 */
KwKey *
kw_token_generate_rsa (KwToken *self, guint bits, GBytes *id, const char *label, GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), NULL);

  if (bits != 2048 && bits != 3072 && bits != 4096)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                   "An RSA key has 2048, 3072 or 4096 bits, not %u", bits);
      return NULL;
    }
  if (KW_TOKEN_GET_IFACE (self)->generate_rsa == NULL)
    return not_supported (self, "make RSA keys", error);
  return KW_TOKEN_GET_IFACE (self)->generate_rsa (self, bits, id, label, error);
}

/**
 * kw_token_generate_aes:
 * @self: a token
 * @bits: 128, 192 or 256
 * @id: CKA_ID that no key has yet
 * @label: CKA_LABEL
 * @error: where to store the error
 *
 * Makes an AES key on the token, under whichever number is free. Blocks; worker threads only.
 *
 * Returns: (transfer full): the key; %KW_ERROR_KEY_EXISTS when @id is taken
 */
KwKey *
kw_token_generate_aes (KwToken *self, guint bits, GBytes *id, const char *label, GError **error)
{
  return kw_token_generate_aes_at (self, bits, id, label, 0, error);
}

/**
 * kw_token_generate_aes_at:
 * @self: a token
 * @bits: 128, 192 or 256
 * @id: CKA_ID that no key has yet
 * @label: CKA_LABEL
 * @reference: the number it shall have where keys have numbers; 0 for whichever is free
 * @error: where to store the error
 *
 * Makes an AES key on the token. Blocks; worker threads only.
 *
 * Returns: (transfer full): the key; %KW_ERROR_KEY_EXISTS when @id or @reference is taken
 */
KwKey *
kw_token_generate_aes_at (KwToken *self,
                          guint bits,
                          GBytes *id,
                          const char *label,
                          guint reference,
                          GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), NULL);

  if (bits != 128 && bits != 192 && bits != 256)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                   "An AES key has 128, 192 or 256 bits, not %u", bits);
      return NULL;
    }
  if (KW_TOKEN_GET_IFACE (self)->generate_aes == NULL)
    return not_supported (self, "make AES keys", error);
  return KW_TOKEN_GET_IFACE (self)->generate_aes (self, bits, id, label, reference, error);
}

/**
 * kw_token_delete_key:
 * @self: a token
 * @kind: its kind
 * @id: CKA_ID
 * @error: where to store the error
 *
 * Removes a key and its public half. Blocks; worker threads only.
 *
 * Returns: %TRUE on success; %KW_ERROR_KEY_NOT_FOUND when it is not there
 */
gboolean
kw_token_delete_key (KwToken *self, KwKeyKind kind, GBytes *id, GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), FALSE);

  if (KW_TOKEN_GET_IFACE (self)->delete_key == NULL)
    return not_supported (self, "delete keys", error) != NULL;
  return KW_TOKEN_GET_IFACE (self)->delete_key (self, kind, id, error);
}

/**
 * kw_token_export_key:
 * @self: a token
 * @kind: its kind
 * @id: CKA_ID
 * @error: where to store the error
 *
 * Wraps a key for another token of the same family, together with its kind, CKA_ID, label and description. Blocks; worker
 * threads only.
 *
 * Returns: (transfer full): the wrapped key; %NULL with %KW_ERROR_KEY_NOT_FOUND, or with %KW_ERROR_NOT_SUPPORTED when the
 *   token or the key does not allow it
 */
GBytes *
kw_token_export_key (KwToken *self, KwKeyKind kind, GBytes *id, GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), NULL);

  if (KW_TOKEN_GET_IFACE (self)->export_key == NULL)
    return not_supported (self, "export keys", error);
  return KW_TOKEN_GET_IFACE (self)->export_key (self, kind, id, error);
}

/**
 * kw_token_import_key:
 * @self: a token
 * @wrapped_key: what kw_token_export_key() gave, at most KW_MAX_WRAPPED_KEY_BYTES
 * @error: where to store the error
 *
 * Takes a key that another token of the same family wrapped, under whichever number is free. Blocks; worker threads only.
 *
 * Returns: (transfer full): the key; %NULL with an error as of kw_token_import_key_at()
 */
KwKey *
kw_token_import_key (KwToken *self, GBytes *wrapped_key, GError **error)
{
  return kw_token_import_key_at (self, wrapped_key, 0, error);
}

/**
 * kw_token_import_key_at:
 * @self: a token
 * @wrapped_key: what kw_token_export_key() gave, at most KW_MAX_WRAPPED_KEY_BYTES
 * @reference: the number it shall have where keys have numbers; 0 for whichever is free
 * @error: where to store the error
 *
 * Takes a key that another token of the same family wrapped, and stores it under the CKA_ID and label that were wrapped with
 * it. Never goes over what is there. Blocks; worker threads only.
 *
 * Returns: (transfer full): the key; %NULL with %KW_ERROR_KEY_EXISTS when its CKA_ID or the number is taken,
 *   %KW_ERROR_INVALID_ARGUMENT when this is no wrapped key, %KW_ERROR_NOT_SUPPORTED when it was wrapped with another
 *   transport key, or %KW_ERROR_TOKEN_FULL
 */
KwKey *
kw_token_import_key_at (KwToken *self, GBytes *wrapped_key, guint reference, GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self), NULL);

  if (g_bytes_get_size (wrapped_key) == 0
      || g_bytes_get_size (wrapped_key) > KW_MAX_WRAPPED_KEY_BYTES)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "A wrapped key has 1 to %d bytes",
                   KW_MAX_WRAPPED_KEY_BYTES);
      return NULL;
    }
  if (KW_TOKEN_GET_IFACE (self)->import_key == NULL)
    return not_supported (self, "import keys", error);
  return KW_TOKEN_GET_IFACE (self)->import_key (self, wrapped_key, reference, error);
}

/**
 * kw_token_list_references:
 * @self: a token
 * @out_last: (out): the last number there is
 * @error: where to store the error
 *
 * Tells which numbers are taken, so that a new key gets one behind all others. Blocks; worker threads only.
 *
 * Returns: (transfer full) (element-type guint): the numbers; %NULL with %KW_ERROR_NOT_SUPPORTED where keys have none
 */
GArray *
kw_token_list_references (KwToken *self, guint *out_last, GError **error)
{
  g_return_val_if_fail (KW_IS_TOKEN (self) && out_last != NULL, NULL);

  if (KW_TOKEN_GET_IFACE (self)->list_references == NULL)
    return not_supported (self, "number keys", error);
  return KW_TOKEN_GET_IFACE (self)->list_references (self, out_last, error);
}

/**
 * kw_token_can_clone:
 * @self: a token
 *
 * Tells whether keys of the token can be copied to others of its family at all. Any thread.
 *
 * Returns: %FALSE when it is no use to try
 */
gboolean
kw_token_can_clone (KwToken *self)
{
  const KwTokenInterface *iface = NULL;

  g_return_val_if_fail (KW_IS_TOKEN (self), FALSE);

  iface = KW_TOKEN_GET_IFACE (self);
  if (iface->can_clone != NULL)
    return iface->can_clone (self);
  return iface->export_key != NULL && iface->import_key != NULL;
}

/**
 * kw_token_close:
 * @self: a token
 *
 * Gives the token's sessions back. Calls in flight end by themselves; later ones answer %KW_ERROR_TOKEN_GONE. Any thread.
 */
void
kw_token_close (KwToken *self)
{
  g_return_if_fail (KW_IS_TOKEN (self));

  if (KW_TOKEN_GET_IFACE (self)->close != NULL)
    KW_TOKEN_GET_IFACE (self)->close (self);
}
