/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-key.h"
#include "kw-secret.h"

G_BEGIN_DECLS

/**
 * KwRsaPadding:
 * @KW_RSA_PADDING_PKCS1: PKCS#1 v1.5 (RFC 8017, 7.2)
 * @KW_RSA_PADDING_OAEP_SHA1: OAEP with SHA-1 and MGF1 with SHA-1 (RFC 8017, 7.1), empty label
 * @KW_RSA_PADDING_OAEP_SHA256: OAEP with SHA-256 and MGF1 with SHA-256, empty label
 *
 * How the plaintext of an RSA ciphertext was padded.
 */
typedef enum
{
  KW_RSA_PADDING_PKCS1,
  KW_RSA_PADDING_OAEP_SHA1,
  KW_RSA_PADDING_OAEP_SHA256,
} KwRsaPadding;

/**
 * KwPinState:
 * @login_required: the token has private objects behind a PIN
 * @initialized: a user PIN was set
 * @protected_path: the PIN is typed at the reader, not given by us
 * @count_low: a wrong PIN was presented since the last right one
 * @final_try: the next wrong PIN locks
 * @locked: the PIN is locked
 * @tries_left: tries left, −1 when the token does not tell
 *
 * What the token says about its user PIN, read before each login.
 */
typedef struct
{
  gboolean login_required;
  gboolean initialized;
  gboolean protected_path;
  gboolean count_low;
  gboolean final_try;
  gboolean locked;
  gint tries_left;
} KwPinState;

/**
 * KwTokenInfo:
 * @label: label, without padding
 * @serial: serial number, without padding
 * @model: model
 * @manufacturer: maker of the token
 * @firmware: firmware version as "major.minor"
 * @reader: where it is plugged (slot description); for display only
 * @slot: slot id; for display only
 * @dkek_check_value: (nullable): check value, in hex, of the key that keys are wrapped with for other tokens; %NULL while
 *   the token has none
 * @dkek_shares: how many shares that key is made of; 0 when the token has no such key
 * @dkek_shares_missing: how many of them the token still waits for
 * @so_pin_tries_left: tries left of the SO-PIN, −1 when the token does not tell
 * @options: (nullable): how the token was set up, as text for display
 *
 * What a token says of itself, as it was when the token was found; all text is valid UTF-8 and does not change while the
 * token object lives.
 */
typedef struct
{
  char *label;
  char *serial;
  char *model;
  char *manufacturer;
  char *firmware;
  char *reader;
  guint64 slot;
  char *dkek_check_value;
  guint dkek_shares;
  guint dkek_shares_missing;
  gint so_pin_tries_left;
  char *options;
} KwTokenInfo;

KwTokenInfo *kw_token_info_new (void);

KwTokenInfo *kw_token_info_copy (const KwTokenInfo *info);

void kw_token_info_free (KwTokenInfo *info);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwTokenInfo, kw_token_info_free)

#define KW_TYPE_TOKEN (kw_token_get_type ())
G_DECLARE_INTERFACE (KwToken, kw_token, KW, TOKEN, GObject)

/**
 * KwTokenInterface:
 * @get_info: who the token is; any thread
 * @get_concurrency: how many threads may be inside the slots below at once; any thread
 * @get_pin_state: reads the PIN flags from the token
 * @login: presents the user PIN once. Never repeats it. Being logged in already is success
 * @list_keys: all private and secret keys, as #KwKey
 * @find_key: one key by CKA_ID, looked for anew; %KW_ERROR_KEY_NOT_FOUND when it is not there
 * @rsa_decrypt: decrypts one block. %KW_ERROR_DECRYPT_FAILED, always with the same message, when ciphertext or padding are bad
 * @sign: signs a SHA-256 digest, RSA PKCS#1 v1.5
 * @aes_cbc: AES-CBC over whole blocks, no padding; whatever the token splits it into, no other caller's blocks get between
 * @random: random bytes made by the token
 * @generate_rsa: makes an RSA pair on the token. Never over an object that has the id: %KW_ERROR_KEY_EXISTS, with nothing
 *   changed
 * @generate_aes: makes an AES key on the token that can encrypt and decrypt by CBC and, where the token knows cloning, be
 *   wrapped. @reference is the number it shall have, 0 for whichever is free; tokens that do not number keys take no notice.
 *   Never over an object that has the id or the number: %KW_ERROR_KEY_EXISTS, with nothing changed
 * @delete_key: removes a key, its public half and its description too
 * @export_key: wraps a key for another token of the same family, with its kind, CKA_ID, label and description in what comes
 *   out, so that the copy is found under the same names. What is inside is the family's own business
 * @import_key: the reverse of @export_key: stores the key under the CKA_ID and label that are wrapped with it, never under
 *   others, and never over a key or another object that has that id: %KW_ERROR_KEY_EXISTS, with nothing changed. @reference is
 *   the number it shall have here, 0 for whichever is free. %KW_ERROR_INVALID_ARGUMENT for what no token of the family wrapped or was damaged on the
 *   way, %KW_ERROR_NOT_SUPPORTED when this token has no transport key or another one than it was wrapped with. The caller
 *   compares fingerprints before the copy is used
 * @list_references: tells which numbers are taken, by keys or by what is left of one, and which is the last there is; only
 *   of tokens that order keys by a number
 * @can_clone: whether @export_key and @import_key are of any use on this token; any thread. Without this slot they are when
 *   there are both
 * @close: gives sessions back; afterwards every slot answers %KW_ERROR_TOKEN_GONE. Does not wait for calls in flight
 *
 * The seam between core and a back end: one plugged token. All slots but @get_info and @get_concurrency block, are called
 * by a device's worker threads only, and up to `get_concurrency ()` of them at once. @id is a CKA_ID. A slot that a back
 * end leaves out answers %KW_ERROR_NOT_SUPPORTED.
 *
 * Errors of the device itself satisfy kw_error_is_device_trouble(); a slot returns them only after it has done what it can
 * do alone (another session, the handle found again) and never repeats a call that may have had a lasting effect.
 */
struct _KwTokenInterface
{
  GTypeInterface parent_iface;

  const KwTokenInfo *(*get_info) (KwToken *self);
  guint (*get_concurrency) (KwToken *self);
  gboolean (*get_pin_state) (KwToken *self, KwPinState *out_state, GError **error);
  gboolean (*login) (KwToken *self, KwSecret *pin, GError **error);
  GPtrArray *(*list_keys) (KwToken *self, GError **error);
  KwKey *(*find_key) (KwToken *self, KwKeyKind kind, GBytes *id, GError **error);
  KwSecret *(*rsa_decrypt) (KwToken *self,
                            GBytes *id,
                            KwRsaPadding padding,
                            GBytes *ciphertext,
                            GError **error);
  GBytes *(*sign) (KwToken *self, GBytes *id, GBytes *sha256_digest, GError **error);
  KwSecret *(*aes_cbc) (KwToken *self,
                        GBytes *id,
                        gboolean encrypt,
                        const guint8 *iv,
                        gconstpointer data,
                        gsize size,
                        GError **error);
  gboolean (*random) (KwToken *self, guint8 *data, gsize size, GError **error);
  KwKey *(*generate_rsa) (KwToken *self, guint bits, GBytes *id, const char *label, GError **error);
  KwKey *(*generate_aes) (KwToken *self,
                          guint bits,
                          GBytes *id,
                          const char *label,
                          guint reference,
                          GError **error);
  gboolean (*delete_key) (KwToken *self, KwKeyKind kind, GBytes *id, GError **error);
  GBytes *(*export_key) (KwToken *self, KwKeyKind kind, GBytes *id, GError **error);
  KwKey *(*import_key) (KwToken *self, GBytes *wrapped_key, guint reference, GError **error);
  GArray *(*list_references) (KwToken *self, guint *out_last, GError **error);
  gboolean (*can_clone) (KwToken *self);
  void (*close) (KwToken *self);
};

const KwTokenInfo *kw_token_get_info (KwToken *self);

guint kw_token_get_concurrency (KwToken *self);

gboolean kw_token_get_pin_state (KwToken *self, KwPinState *out_state, GError **error);

gboolean kw_token_login (KwToken *self, KwSecret *pin, GError **error);

GPtrArray *kw_token_list_keys (KwToken *self, GError **error);

KwKey *kw_token_find_key (KwToken *self, KwKeyKind kind, GBytes *id, GError **error);

KwSecret *kw_token_rsa_decrypt (KwToken *self,
                                GBytes *id,
                                KwRsaPadding padding,
                                GBytes *ciphertext,
                                GError **error);

GBytes *kw_token_sign (KwToken *self, GBytes *id, GBytes *sha256_digest, GError **error);

KwSecret *kw_token_aes_cbc (KwToken *self,
                            GBytes *id,
                            gboolean encrypt,
                            const guint8 *iv,
                            gconstpointer data,
                            gsize size,
                            GError **error);

gboolean kw_token_random (KwToken *self, guint8 *data, gsize size, GError **error);

KwKey *
kw_token_generate_rsa (KwToken *self, guint bits, GBytes *id, const char *label, GError **error);

KwKey *
kw_token_generate_aes (KwToken *self, guint bits, GBytes *id, const char *label, GError **error);

KwKey *kw_token_generate_aes_at (KwToken *self,
                                 guint bits,
                                 GBytes *id,
                                 const char *label,
                                 guint reference,
                                 GError **error);

gboolean kw_token_delete_key (KwToken *self, KwKeyKind kind, GBytes *id, GError **error);

GBytes *kw_token_export_key (KwToken *self, KwKeyKind kind, GBytes *id, GError **error);

KwKey *kw_token_import_key (KwToken *self, GBytes *wrapped_key, GError **error);

KwKey *kw_token_import_key_at (KwToken *self, GBytes *wrapped_key, guint reference, GError **error);

GArray *kw_token_list_references (KwToken *self, guint *out_last, GError **error);

gboolean kw_token_can_clone (KwToken *self);

void kw_token_close (KwToken *self);

void kw_token_set_decrypt_failed (GError **error);

G_END_DECLS
