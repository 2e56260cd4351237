/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-fake-token"

#include "config.h"

#include "kw-fake-token.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <string.h>

/*
 * A token without a device: it "decrypts" RSA by giving back what it gets, unless that begins with
 * "bad"; its AES keys are real ones of 32 equal bytes. It counts each call, can hold calls up until it is told to let them go, and can fail them.
 * Any thread; all state is guarded by the lock, apart from the info, which does not change.
 */
struct _KwFakeToken
{
  GObject parent_instance;

  KwTokenInfo *info; /* owned */

  GMutex lock;
  GCond changed;
  guint concurrency;
  char *pin; /* owned */
  KwPinState state;
  gboolean logged_in;
  gboolean closed;
  GPtrArray *keys;    /* owned; of KwKey */
  GHashTable *values; /* owned; KwKey → the byte an AES key is made of */
  guint8 next_value;
  guint last_reference; /* keys are ordered by a number; 0 = they have none */
  gboolean cannot_clone;
  EVP_PKEY *signing_key; /* owned, nullable */
  GBytes *signing_id;    /* owned, nullable */
  char transport_key;    /* what keys are wrapped with; NUL = none. '?' spoils them */
  guint n_calls[KW_N_FAKE_CALLS];
  guint n_inside[KW_N_FAKE_CALLS];
  gboolean hold[KW_N_FAKE_CALLS];
  guint n_failures[KW_N_FAKE_CALLS];
  KwError codes[KW_N_FAKE_CALLS];
  gboolean real_random;
};

static void kw_fake_token_iface_init (KwTokenInterface *iface);

G_DEFINE_FINAL_TYPE_WITH_CODE (KwFakeToken,
                               kw_fake_token,
                               G_TYPE_OBJECT,
                               G_IMPLEMENT_INTERFACE (KW_TYPE_TOKEN, kw_fake_token_iface_init))

/* Called with the lock held; gives it up while the call is held up. */
static gboolean
enter (KwFakeToken *self, KwFakeCall call, GError **error)
{
  gboolean fails = FALSE;

  self->n_calls[call]++;
  self->n_inside[call]++;
  g_cond_broadcast (&self->changed);
  while (self->hold[call])
    g_cond_wait (&self->changed, &self->lock);
  self->n_inside[call]--;
  fails = self->n_failures[call] > 0;
  if (fails)
    {
      self->n_failures[call]--;
      g_set_error (error, KW_ERROR, (gint) self->codes[call], "fake failure");
    }
  else if (self->closed)
    {
      fails = TRUE;
      g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE, "closed");
    }
  return !fails;
}

static KwKey *
find (KwFakeToken *self, GBytes *id)
{
  for (guint i = 0; i < self->keys->len; i++)
    {
      KwKey *key = g_ptr_array_index (self->keys, i);

      if (g_bytes_equal (kw_key_get_id (key), id))
        return key;
    }
  return NULL;
}

static gboolean
check_logged_in (KwFakeToken *self, GError **error)
{
  if (!self->state.login_required || self->logged_in)
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_NOT_LOGGED_IN, "nobody is logged in");
  return FALSE;
}

static const KwTokenInfo *
kw_fake_token_get_info (KwToken *token)
{
  return KW_FAKE_TOKEN (token)->info;
}

static guint
kw_fake_token_get_concurrency (KwToken *token)
{
  return KW_FAKE_TOKEN (token)->concurrency;
}

static gboolean
kw_fake_token_get_pin_state (KwToken *token, KwPinState *out_state, GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);

  if (!enter (self, KW_FAKE_GET_PIN_STATE, error))
    return FALSE;
  *out_state = self->state;
  return TRUE;
}

static gboolean
kw_fake_token_login (KwToken *token, KwSecret *pin, GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);

  if (!enter (self, KW_FAKE_LOGIN, error))
    return FALSE;
  if (pin == NULL ? !self->state.protected_path
                  : !kw_secret_equal (pin, self->pin, strlen (self->pin)))
    {
      if (self->state.tries_left > 0)
        self->state.tries_left--;
      g_set_error (error, KW_ERROR, KW_ERROR_PIN_REFUSED, "wrong");
      return FALSE;
    }
  self->logged_in = TRUE;
  return TRUE;
}

static GPtrArray *
kw_fake_token_list_keys (KwToken *token, GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);
  GPtrArray *keys = NULL;

  if (!enter (self, KW_FAKE_LIST_KEYS, error))
    return NULL;
  keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  for (guint i = 0; i < self->keys->len; i++)
    g_ptr_array_add (keys, kw_key_ref (g_ptr_array_index (self->keys, i)));
  return keys;
}

static KwSecret *
kw_fake_token_rsa_decrypt (KwToken *token,
                           GBytes *id,
                           KwRsaPadding padding G_GNUC_UNUSED,
                           GBytes *ciphertext,
                           GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);
  gsize size = 0;
  const char *data = g_bytes_get_data (ciphertext, &size);

  if (!enter (self, KW_FAKE_RSA_DECRYPT, error) || !check_logged_in (self, error))
    return NULL;
  if (find (self, id) == NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND, "no such key");
      return NULL;
    }
  if (size >= 3 && strncmp (data, "bad", 3) == 0)
    {
      kw_token_set_decrypt_failed (error);
      return NULL;
    }
  return kw_secret_new_copy (data, size, error);
}

static KwSecret *
kw_fake_token_aes_cbc (KwToken *token,
                       GBytes *id,
                       gboolean encrypt,
                       const guint8 *iv,
                       gconstpointer data,
                       gsize size,
                       GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);
  g_autoptr (KwSecret) output = NULL;
  EVP_CIPHER_CTX *context = NULL;
  KwKey *key = NULL;
  guint8 bytes[32];
  int n = 0;

  if (!enter (self, KW_FAKE_AES_CBC, error) || !check_logged_in (self, error))
    return NULL;
  key = find (self, id);
  if (key == NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND, "no such key");
      return NULL;
    }
  memset (bytes, GPOINTER_TO_INT (g_hash_table_lookup (self->values, key)), sizeof bytes);
  output = kw_secret_new (size, error);
  context = EVP_CIPHER_CTX_new ();
  EVP_CipherInit_ex (context, EVP_aes_256_cbc (), NULL, bytes, iv, encrypt);
  EVP_CIPHER_CTX_set_padding (context, 0);
  EVP_CipherUpdate (context, kw_secret_get_data (output), &n, data, (int) size);
  EVP_CIPHER_CTX_free (context);
  return g_steal_pointer (&output);
}

static gboolean
kw_fake_token_random (KwToken *token, guint8 *data, gsize size, GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);

  if (!enter (self, KW_FAKE_RANDOM, error))
    return FALSE;
  memset (data, 0x5A, size);
  return !self->real_random || RAND_bytes (data, (int) size) == 1;
}

static KwKey *
new_aes_key (KwFakeToken *self, guint bits, GBytes *id, const char *label, guint reference)
{
  const guint both = KW_KEY_USAGE_ENCRYPT | KW_KEY_USAGE_DECRYPT;

  return kw_key_new_full (&(KwKeyFields){ .kind = KW_KEY_KIND_AES,
                                          .bits = bits,
                                          .id = id,
                                          .label = label,
                                          .usage = (KwKeyUsage) both,
                                          .reference = self->last_reference > 0 ? reference : 0 });
}

static KwKey *
kw_fake_token_generate_aes (KwToken *token,
                            guint bits,
                            GBytes *id,
                            const char *label,
                            guint reference,
                            GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);
  KwKey *key = NULL;

  if (!enter (self, KW_FAKE_GENERATE_AES, error) || !check_logged_in (self, error))
    return NULL;
  key = new_aes_key (self, bits, id, label, reference);
  g_ptr_array_add (self->keys, kw_key_ref (key));
  g_hash_table_insert (self->values, key, GINT_TO_POINTER (++self->next_value));
  return key;
}

static KwKey *
kw_fake_token_generate_rsa (KwToken *token,
                            guint bits,
                            GBytes *id,
                            const char *label,
                            GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);
  g_autoptr (GBytes) der = g_bytes_new_static ("new", 3);
  KwKey *key = NULL;

  if (!enter (self, KW_FAKE_GENERATE_RSA, error) || !check_logged_in (self, error))
    return NULL;
  key = kw_key_new (KW_KEY_KIND_RSA, bits, id, label, der);
  g_ptr_array_add (self->keys, kw_key_ref (key));
  return key;
}

static gboolean
kw_fake_token_delete_key (KwToken *token, KwKeyKind kind G_GNUC_UNUSED, GBytes *id, GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);
  KwKey *key = NULL;

  if (!enter (self, KW_FAKE_DELETE_KEY, error) || !check_logged_in (self, error))
    return FALSE;
  key = find (self, id);
  if (key != NULL)
    g_ptr_array_remove (self->keys, key);
  return key != NULL;
}

/* Transport key, kind, value, length of the id, id, label. */
static GBytes *
kw_fake_token_export_key (KwToken *token, KwKeyKind kind, GBytes *id, GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);
  KwKey *key = NULL;
  GByteArray *wrapped = NULL;
  guint8 head[4]
      = { (guint8) self->transport_key, (guint8) kind, 0, (guint8) g_bytes_get_size (id) };

  if (!enter (self, KW_FAKE_EXPORT_KEY, error))
    return NULL;
  key = find (self, id);
  if (self->transport_key == '\0' || key == NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED, "no transport key");
      return NULL;
    }
  wrapped = g_byte_array_new ();
  head[2] = (guint8) GPOINTER_TO_INT (g_hash_table_lookup (self->values, key));
  g_byte_array_append (wrapped, head, sizeof head);
  g_byte_array_append (wrapped, g_bytes_get_data (id, NULL), (guint) g_bytes_get_size (id));
  g_byte_array_append (wrapped, (const guint8 *) kw_key_get_label (key),
                       (guint) strlen (kw_key_get_label (key)));
  return g_byte_array_free_to_bytes (wrapped);
}

static KwKey *
kw_fake_token_import_key (KwToken *token, GBytes *wrapped_key, guint reference, GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);
  gsize size = 0;
  const guint8 *data = g_bytes_get_data (wrapped_key, &size);
  g_autoptr (GBytes) id = g_bytes_new (data + 4, data[3]);
  g_autofree char *label = g_strndup ((const char *) data + 4 + data[3], size - 4 - data[3]);
  g_autoptr (GBytes) der = g_bytes_new_static ("new", 3);
  guint8 value = data[2];
  KwKey *key = NULL;

  if (!enter (self, KW_FAKE_IMPORT_KEY, error))
    return NULL;
  if (self->transport_key != (char) data[0] && self->transport_key != '?')
    {
      g_set_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED, "another transport key");
      return NULL;
    }
  if (self->transport_key == '?')
    value ^= 0x80;
  key = data[1] == KW_KEY_KIND_AES ? new_aes_key (self, 256, id, label, reference)
                                   : kw_key_new ((KwKeyKind) data[1], 256, id, label, der);
  g_ptr_array_add (self->keys, kw_key_ref (key));
  g_hash_table_insert (self->values, key, GINT_TO_POINTER (value));
  return key;
}

static GArray *
kw_fake_token_list_references (KwToken *token, guint *out_last, GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);
  GArray *references = NULL;

  if (self->last_reference == 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED, "no numbers");
      return NULL;
    }
  references = g_array_new (FALSE, FALSE, sizeof (guint));
  for (guint i = 0; i < self->keys->len; i++)
    {
      guint reference = kw_key_get_reference (g_ptr_array_index (self->keys, i));

      g_array_append_val (references, reference);
    }
  *out_last = self->last_reference;
  return references;
}

static gboolean
kw_fake_token_can_clone (KwToken *token)
{
  return !KW_FAKE_TOKEN (token)->cannot_clone;
}

static GBytes *
kw_fake_token_sign (KwToken *token, GBytes *id, GBytes *digest, GError **error)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);
  EVP_PKEY_CTX *context = NULL;
  guint8 signature[512];
  gsize size = sizeof signature;

  if (!enter (self, KW_FAKE_SIGN, error) || !check_logged_in (self, error))
    return NULL;
  if (self->signing_id == NULL || !g_bytes_equal (id, self->signing_id))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED, "it cannot sign");
      return NULL;
    }
  context = EVP_PKEY_CTX_new (self->signing_key, NULL);
  g_assert_cmpint (EVP_PKEY_sign_init (context), ==, 1);
  g_assert_cmpint (EVP_PKEY_CTX_set_signature_md (context, EVP_sha256 ()), ==, 1);
  g_assert_cmpint (EVP_PKEY_sign (context, signature, &size, g_bytes_get_data (digest, NULL),
                                  g_bytes_get_size (digest)),
                   ==, 1);
  EVP_PKEY_CTX_free (context);
  return g_bytes_new (signature, size);
}

static void
kw_fake_token_close (KwToken *token)
{
  KwFakeToken *self = KW_FAKE_TOKEN (token);
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);

  self->n_calls[KW_FAKE_CLOSE]++;
  self->closed = TRUE;
}

static void
kw_fake_token_finalize (GObject *object)
{
  KwFakeToken *self = KW_FAKE_TOKEN (object);

  kw_token_info_free (self->info);
  g_free (self->pin);
  EVP_PKEY_free (self->signing_key);
  g_clear_pointer (&self->signing_id, g_bytes_unref);
  g_ptr_array_unref (self->keys);
  g_hash_table_unref (self->values);
  g_mutex_clear (&self->lock);
  g_cond_clear (&self->changed);
  G_OBJECT_CLASS (kw_fake_token_parent_class)->finalize (object);
}

static void
kw_fake_token_class_init (KwFakeTokenClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_fake_token_finalize;
}

static void
kw_fake_token_init (KwFakeToken *self)
{
  g_mutex_init (&self->lock);
  g_cond_init (&self->changed);
  self->concurrency = 1;
  self->keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  self->values = g_hash_table_new (NULL, NULL);
  self->next_value = 0xC0;
  self->state = (KwPinState){ .login_required = TRUE, .initialized = TRUE, .tries_left = 3 };
}

static void
kw_fake_token_iface_init (KwTokenInterface *iface)
{
  iface->get_info = kw_fake_token_get_info;
  iface->get_concurrency = kw_fake_token_get_concurrency;
  iface->get_pin_state = kw_fake_token_get_pin_state;
  iface->login = kw_fake_token_login;
  iface->list_keys = kw_fake_token_list_keys;
  iface->rsa_decrypt = kw_fake_token_rsa_decrypt;
  iface->aes_cbc = kw_fake_token_aes_cbc;
  iface->random = kw_fake_token_random;
  iface->generate_aes = kw_fake_token_generate_aes;
  iface->generate_rsa = kw_fake_token_generate_rsa;
  iface->delete_key = kw_fake_token_delete_key;
  iface->export_key = kw_fake_token_export_key;
  iface->import_key = kw_fake_token_import_key;
  iface->list_references = kw_fake_token_list_references;
  iface->can_clone = kw_fake_token_can_clone;
  iface->sign = kw_fake_token_sign;
  iface->close = kw_fake_token_close;
}

/**
 * kw_fake_token_new:
 * @serial: its serial number
 * @pin: its PIN
 *
 * Returns: (transfer full): a token with three tries, on which nobody is logged in
 */
KwFakeToken *
kw_fake_token_new (const char *serial, const char *pin)
{
  KwFakeToken *self = g_object_new (KW_TYPE_FAKE_TOKEN, NULL);

  self->info = kw_token_info_new ();
  self->info->label = g_strdup ("Fake");
  self->info->serial = g_strdup (serial);
  self->info->model = g_strdup ("model");
  self->info->manufacturer = g_strdup ("Maker & Co");
  self->info->firmware = g_strdup ("1.0");
  self->info->reader = g_strdup ("reader");
  self->pin = g_strdup (pin);
  return self;
}

/**
 * kw_fake_key_new:
 * @id: its CKA_ID as text
 * @material: what its fingerprint is made from
 *
 * Returns: (transfer full): the description of an RSA key
 */
KwKey *
kw_fake_key_new (const char *id, const char *material)
{
  g_autoptr (GBytes) id_bytes = g_bytes_new (id, strlen (id));
  g_autoptr (GBytes) der = g_bytes_new (material, strlen (material));

  return kw_key_new (KW_KEY_KIND_RSA, 2048, id_bytes, id, der);
}

/**
 * kw_fake_token_add_key:
 * @self: a token
 * @id: CKA_ID of the key as text
 * @material: what its fingerprint is made from
 *
 * Puts a key on the token.
 */
void
kw_fake_token_add_key (KwFakeToken *self, const char *id, const char *material)
{
  g_mutex_lock (&self->lock);
  g_ptr_array_add (self->keys, kw_fake_key_new (id, material));
  g_mutex_unlock (&self->lock);
}

/**
 * kw_fake_token_add_aes_key:
 * @self: a token
 * @fields: (nullable): more about the key: id, usage, reference, weakness; %NULL for a plain one
 * @label: its label, and its CKA_ID where @fields has none
 * @value: the byte that the key is made of, 32 times
 *
 * Puts an AES key on the token. Two tokens have the same key when they have the same @value.
 */
void
kw_fake_token_add_aes_key (KwFakeToken *self,
                           const KwKeyFields *fields,
                           const char *label,
                           guint8 value)
{
  g_autoptr (GBytes) id = g_bytes_new (label, strlen (label));
  KwKeyFields all = { 0 };
  KwKey *key = NULL;

  if (fields != NULL)
    all = *fields;
  all.kind = KW_KEY_KIND_AES;
  all.bits = 256;
  all.label = label;
  if (all.id == NULL)
    all.id = id;
  if (all.usage == KW_KEY_USAGE_NONE)
    all.usage = (KwKeyUsage) (KW_KEY_USAGE_ENCRYPT | KW_KEY_USAGE_DECRYPT);
  key = kw_key_new_full (&all);
  g_mutex_lock (&self->lock);
  g_ptr_array_add (self->keys, key);
  g_hash_table_insert (self->values, key, GINT_TO_POINTER (value));
  g_mutex_unlock (&self->lock);
}

/**
 * kw_fake_token_set_transport_key:
 * @self: a token
 * @transport_key: a letter; tokens with the same one can clone keys to each other. One with '?' takes
 *   all, and spoils AES keys
 *
 * Sets what keys are wrapped with.
 */
void
kw_fake_token_set_transport_key (KwFakeToken *self, char transport_key)
{
  g_mutex_lock (&self->lock);
  self->transport_key = transport_key;
  g_mutex_unlock (&self->lock);
}

/**
 * kw_fake_token_set_numbered:
 * @self: a token
 * @last: the last number there is
 *
 * From now on its keys are ordered by numbers, as on a card.
 */
void
kw_fake_token_set_numbered (KwFakeToken *self, guint last)
{
  g_mutex_lock (&self->lock);
  self->last_reference = last;
  g_mutex_unlock (&self->lock);
}

/**
 * kw_fake_token_set_can_clone:
 * @self: a token that no device has yet
 * @can_clone: whether it says that keys can be cloned
 * @check_value: (nullable): what it says of its transport key
 *
 * Changes what it says of cloning, whatever it does then.
 */
void
kw_fake_token_set_can_clone (KwFakeToken *self, gboolean can_clone, const char *check_value)
{
  self->cannot_clone = !can_clone;
  g_free (self->info->dkek_check_value);
  self->info->dkek_check_value = g_strdup (check_value);
}

/**
 * kw_fake_token_make_signing_key:
 * @self: a token
 * @id: CKA_ID of the key as text
 * @kind: RSA or EC
 *
 * Puts a key on the token that does nothing but sign. One at most.
 */
void
kw_fake_token_make_signing_key (KwFakeToken *self, const char *id, KwKeyKind kind)
{
  g_autoptr (GBytes) id_bytes = g_bytes_new (id, strlen (id));
  g_autoptr (GBytes) der = NULL;
  guint8 *data = NULL;
  int size = 0;

  self->signing_key = kind == KW_KEY_KIND_RSA ? EVP_RSA_gen (2048) : EVP_EC_gen ("P-256");
  size = i2d_PUBKEY (self->signing_key, &data);
  der = g_bytes_new (data, (gsize) size);
  OPENSSL_free (data);
  self->signing_id = g_bytes_ref (id_bytes);
  g_mutex_lock (&self->lock);
  g_ptr_array_add (self->keys, kw_key_new_full (&(KwKeyFields){ .kind = kind,
                                                                .bits = 256,
                                                                .id = id_bytes,
                                                                .label = id,
                                                                .public_key_der = der,
                                                                .usage = KW_KEY_USAGE_SIGN }));
  g_mutex_unlock (&self->lock);
}

/**
 * kw_fake_token_get_n_keys:
 * @self: a token
 *
 * Returns: how many keys are on it
 */
guint
kw_fake_token_get_n_keys (KwFakeToken *self)
{
  guint n_keys = 0;

  g_mutex_lock (&self->lock);
  n_keys = self->keys->len;
  g_mutex_unlock (&self->lock);
  return n_keys;
}

/**
 * kw_fake_token_remove_keys:
 * @self: a token
 *
 * Takes all keys away, as another program may.
 */
void
kw_fake_token_remove_keys (KwFakeToken *self)
{
  g_mutex_lock (&self->lock);
  g_hash_table_remove_all (self->values);
  g_ptr_array_set_size (self->keys, 0);
  g_mutex_unlock (&self->lock);
}

/**
 * kw_fake_token_set_pin:
 * @self: a token
 * @pin: its new PIN
 *
 * Changes the PIN, as another program may.
 */
void
kw_fake_token_set_pin (KwFakeToken *self, const char *pin)
{
  g_mutex_lock (&self->lock);
  g_free (self->pin);
  self->pin = g_strdup (pin);
  g_mutex_unlock (&self->lock);
}

/**
 * kw_fake_token_get_state:
 * @self: a token that nobody uses just now
 *
 * Returns: (transfer none): what it says of its PIN, to be changed
 */
KwPinState *
kw_fake_token_get_state (KwFakeToken *self)
{
  return &self->state;
}

/**
 * kw_fake_token_set_concurrency:
 * @self: a token that no device has yet
 * @concurrency: how many calls it serves at once
 *
 * Calls are counted and held up side by side either way.
 */
void
kw_fake_token_set_concurrency (KwFakeToken *self, guint concurrency)
{
  self->concurrency = concurrency;
}

/**
 * kw_fake_token_log_out:
 * @self: a token
 *
 * Ends the login, as a reset by another process does.
 */
void
kw_fake_token_log_out (KwFakeToken *self)
{
  g_mutex_lock (&self->lock);
  self->logged_in = FALSE;
  g_mutex_unlock (&self->lock);
}

/**
 * kw_fake_token_fail:
 * @self: a token
 * @call: which call
 * @code: how it fails
 * @times: how often
 *
 * Makes the next calls fail.
 */
void
kw_fake_token_fail (KwFakeToken *self, KwFakeCall call, KwError code, guint times)
{
  g_mutex_lock (&self->lock);
  self->codes[call] = code;
  self->n_failures[call] = times;
  g_mutex_unlock (&self->lock);
}

/**
 * kw_fake_token_hold:
 * @self: a token
 * @call: which call
 * @hold: %TRUE to keep callers inside, %FALSE to let them go
 *
 * Holds calls up.
 */
void
kw_fake_token_hold (KwFakeToken *self, KwFakeCall call, gboolean hold)
{
  g_mutex_lock (&self->lock);
  self->hold[call] = hold;
  g_cond_broadcast (&self->changed);
  g_mutex_unlock (&self->lock);
}

/**
 * kw_fake_token_wait_inside:
 * @self: a token that holds @call up
 * @call: which call
 * @n_inside: how many callers
 *
 * Waits until that many callers are held up.
 */
void
kw_fake_token_wait_inside (KwFakeToken *self, KwFakeCall call, guint n_inside)
{
  g_mutex_lock (&self->lock);
  while (self->n_inside[call] < n_inside)
    g_cond_wait (&self->changed, &self->lock);
  g_mutex_unlock (&self->lock);
}

/**
 * kw_fake_token_get_n_calls:
 * @self: a token
 * @call: which call
 *
 * Returns: how often it was called
 */
guint
kw_fake_token_get_n_calls (KwFakeToken *self, KwFakeCall call)
{
  guint n_calls = 0;

  g_mutex_lock (&self->lock);
  n_calls = self->n_calls[call];
  g_mutex_unlock (&self->lock);
  return n_calls;
}

/* From now on its random numbers are random; before, they are the same byte. */
void
kw_fake_token_use_real_random (KwFakeToken *self)
{
  self->real_random = TRUE;
}
