/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-token"

#include "config.h"

#include "kw-pkcs11-token.h"

#include "kw-ckr.h"
#include "kw-error.h"
#include "kw-limits.h"
#include "kw-pkcs11-crypto.h"
#include "kw-pkcs11-generate.h"

/*
 * A token in a slot of a PKCS#11 module, during one generation of the module.
 *
 * Every call borrows a session and looks the key's handle up in a cache. A session that is dead and
 * a handle that is unknown are replaced, and the call is repeated if it has no lasting effect.
 * A key that was there and cannot be found any more means that somebody changed the token under us:
 * only a module that is started anew tells the truth then, so that is TOKEN_GONE.
 *
 * The interface's slots are called by worker threads, up to get_concurrency() at once; check() and
 * release() by the back end's thread.
 */
struct _KwPkcs11Token
{
  GObject parent_instance;

  KwPkcs11Pool *pool;           /* owned */
  KwTokenInfo *info;            /* owned; immutable */
  const KwPkcs11Config *config; /* borrowed from the configuration, which lives longer */
  CK_TOKEN_INFO token_info;     /* as it was when the token was found; immutable */
  gboolean extractable;
  gint raw_rsa;   /* atomic; RAW_RSA_… */
  gint logged_in; /* atomic; a login succeeded at some time */

  GMutex lasting_lock; /* held over what makes and removes keys */

  GMutex lock;
  GHashTable *objects[KW_N_KEY_KINDS]; /* owned; GBytes → KwPkcs11Object; guarded by lock */
};

enum
{
  RAW_RSA_UNKNOWN,
  RAW_RSA_YES,
  RAW_RSA_NO,
};

static void kw_pkcs11_token_iface_init (KwTokenInterface *iface);

G_DEFINE_FINAL_TYPE_WITH_CODE (KwPkcs11Token,
                               kw_pkcs11_token,
                               G_TYPE_OBJECT,
                               G_IMPLEMENT_INTERFACE (KW_TYPE_TOKEN, kw_pkcs11_token_iface_init))

/* Once more for a dead session, and once more for a handle that died with it. */
#define MAX_ATTEMPTS 3

typedef gboolean (*TokenCall) (KwPkcs11Token *self,
                               KwPkcs11Session *session,
                               gpointer data,
                               GError **error);

static gboolean
session_is_dead (const KwPkcs11Session *session)
{
  return session->last_rv == CKR_SESSION_HANDLE_INVALID || session->last_rv == CKR_SESSION_CLOSED;
}

static gboolean
call_once (KwPkcs11Token *self, TokenCall call, gpointer data, GError **error)
{
  KwPkcs11Session session = { 0 };
  gboolean dead = FALSE;
  gboolean ok = FALSE;

  if (!kw_pkcs11_pool_borrow (self->pool, TRUE, &session, error))
    return FALSE;
  ok = call (self, &session, data, error);
  dead = !ok && session_is_dead (&session);
  kw_pkcs11_pool_give_back (self->pool, &session);
  if (dead)
    kw_pkcs11_pool_drop_idle (self->pool);
  return ok;
}

static gboolean
call_repeatable (KwPkcs11Token *self, TokenCall call, gpointer data, GError **error)
{
  for (guint i = 1; i < MAX_ATTEMPTS; i++)
    {
      g_autoptr (GError) local_error = NULL;

      if (call_once (self, call, data, &local_error))
        return TRUE;
      if (!g_error_matches (local_error, KW_ERROR, KW_ERROR_SESSION_LOST))
        {
          g_propagate_error (error, g_steal_pointer (&local_error));
          return FALSE;
        }
      g_debug ("Once more, after %s", local_error->message);
    }
  return call_once (self, call, data, error);
}

static gboolean
login_is_required (KwPkcs11Token *self)
{
  return (self->token_info.flags & CKF_LOGIN_REQUIRED) != 0;
}

static gboolean
set_not_logged_in (GError **error)
{
  g_set_error_literal (error, KW_ERROR, KW_ERROR_NOT_LOGGED_IN,
                       "The login to the token was lost, or none was made");
  return FALSE;
}

static KwPkcs11Object *
lookup_object (KwPkcs11Token *self, KwKeyKind kind, GBytes *id)
{
  KwPkcs11Object *object = NULL;

  g_mutex_lock (&self->lock);
  object = g_hash_table_lookup (self->objects[kind], id);
  if (object != NULL)
    kw_pkcs11_object_ref (object);
  g_mutex_unlock (&self->lock);
  return object;
}

static void
remember_object (KwPkcs11Token *self, KwKeyKind kind, GBytes *id, KwPkcs11Object *object)
{
  g_mutex_lock (&self->lock);
  if (g_hash_table_size (self->objects[kind]) < KW_MAX_KEYS_PER_TOKEN)
    g_hash_table_replace (self->objects[kind], g_bytes_ref (id), kw_pkcs11_object_ref (object));
  g_mutex_unlock (&self->lock);
}

static void
forget_object (KwPkcs11Token *self, KwKeyKind kind, GBytes *id)
{
  g_mutex_lock (&self->lock);
  g_hash_table_remove (self->objects[kind], id);
  g_mutex_unlock (&self->lock);
}

static void
set_key_not_found (KwPkcs11Token *self,
                   KwPkcs11Session *session,
                   KwKeyKind kind,
                   GBytes *id,
                   GError **error)
{
  g_autoptr (KwPkcs11Object) known = NULL;

  if (login_is_required (self) && kw_pkcs11_session_is_public (session))
    {
      set_not_logged_in (error);
      return;
    }
  known = lookup_object (self, kind, id);
  if (known != NULL)
    {
      forget_object (self, kind, id);
      g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE,
                   "A key that was on token %s is gone: another program changed the token",
                   self->info->label);
      return;
    }
  g_set_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND, "Token %s has no such %s key",
               self->info->label, kw_key_kind_to_string (kind));
}

/* A modulus that could not be read says nothing. */
static gboolean
modulus_is_same (const KwPkcs11Object *a, const KwPkcs11Object *b)
{
  return a->modulus == NULL || b->modulus == NULL || g_bytes_equal (a->modulus, b->modulus);
}

/*
 * Of a secret key nothing can be read that would tell it from another one. When its handle is no longer known and there is
 * a new one under the id, it has to be proven again that it is the same key before it encrypts: the device is started anew.
 */
static gboolean
secret_was_replaced (KwKeyKind kind, KwPkcs11Object *known, KwPkcs11Object *found)
{
  return kind == KW_KEY_KIND_AES && kw_pkcs11_object_is_stale (known)
         && known->handle != found->handle;
}

/*
 * A key that was known before under an id and is another one now is not taken: it has to pass the record of fingerprints
 * first, which it does when the token is started anew.
 */
static KwKey *
search_key (KwPkcs11Token *self,
            KwPkcs11Session *session,
            KwKeyKind kind,
            GBytes *id,
            KwPkcs11Object **out_object,
            GError **error)
{
  const CK_KEY_TYPE type = kw_pkcs11_type_of_kind (kind);
  g_autoptr (GArray) handles
      = kw_pkcs11_find_by_id (session, kw_pkcs11_class_of_kind (kind), &type, id, 2, error);
  g_autoptr (KwPkcs11Object) object = NULL;
  g_autoptr (KwPkcs11Object) known = NULL;
  KwKey *key = NULL;

  if (handles == NULL)
    return NULL;
  if (handles->len == 0)
    {
      set_key_not_found (self, session, kind, id, error);
      return NULL;
    }
  if (handles->len > 1)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_AMBIGUOUS,
                   "Token %s has several %s keys with the same id", self->info->label,
                   kw_key_kind_to_string (kind));
      return NULL;
    }
  key = kw_pkcs11_read_key (session, kind, g_array_index (handles, CK_OBJECT_HANDLE, 0), &object,
                            error);
  if (key == NULL)
    return NULL;
  known = lookup_object (self, kind, id);
  if (known != NULL && !modulus_is_same (known, object))
    {
      kw_key_unref (key);
      g_set_error (error, KW_ERROR, KW_ERROR_KEY_MISMATCH,
                   "Token %s holds another key under this id than before", self->info->label);
      return NULL;
    }
  if (known != NULL && secret_was_replaced (kind, known, object))
    {
      kw_key_unref (key);
      forget_object (self, kind, id);
      g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE,
                   "A secret key on token %s was removed and another one is there now",
                   self->info->label);
      return NULL;
    }
  remember_object (self, kind, id, object);
  if (out_object != NULL)
    *out_object = g_steal_pointer (&object);
  return key;
}

static KwPkcs11Object *
ensure_object (KwPkcs11Token *self,
               KwPkcs11Session *session,
               KwKeyKind kind,
               GBytes *id,
               GError **error)
{
  g_autoptr (KwPkcs11Object) object = lookup_object (self, kind, id);
  KwPkcs11Object *found = NULL;
  g_autoptr (KwKey) key = NULL;

  if (object != NULL && !kw_pkcs11_object_is_stale (object))
    return g_steal_pointer (&object);
  key = search_key (self, session, kind, id, &found, error);
  return found;
}

/*
 * Passes a result through, and notes when the reason for having none is the handle. A key that was found by its type cannot
 * be of another one: a token that says so is being taken apart, or gave the handle to another object, so it is looked for
 * again.
 */
static gboolean
check_handle (KwPkcs11Session *session, KwPkcs11Object *object, gboolean ok, GError **error)
{
  if (ok)
    return TRUE;
  if (session->last_rv == CKR_KEY_HANDLE_INVALID || session->last_rv == CKR_OBJECT_HANDLE_INVALID
      || session->last_rv == CKR_KEY_TYPE_INCONSISTENT)
    kw_pkcs11_object_mark_stale (object);
  if (session->last_rv == CKR_KEY_TYPE_INCONSISTENT && error != NULL && *error != NULL)
    {
      g_autofree char *text = g_strdup ((*error)->message);

      g_clear_error (error);
      g_set_error_literal (error, KW_ERROR, KW_ERROR_SESSION_LOST, text);
    }
  return FALSE;
}

static gboolean
ensure_raw_rsa_known (KwPkcs11Token *self, KwPkcs11Session *session, GError **error)
{
  CK_MECHANISM_INFO info = { 0 };
  gboolean can = FALSE;
  CK_RV rv = CKR_OK;

  if (g_atomic_int_get (&self->raw_rsa) != RAW_RSA_UNKNOWN)
    return TRUE;
  rv = session->functions->C_GetMechanismInfo (kw_pkcs11_pool_get_slot (self->pool), CKM_RSA_X_509,
                                               &info);
  if (rv != CKR_MECHANISM_INVALID
      && !kw_pkcs11_session_check (session, rv, "C_GetMechanismInfo", error))
    return FALSE;
  can = rv == CKR_OK && (info.flags & CKF_DECRYPT) != 0;
  g_atomic_int_set (&self->raw_rsa, can ? RAW_RSA_YES : RAW_RSA_NO);
  return TRUE;
}

typedef struct
{
  GBytes *id;
  KwRsaPadding padding;
  GBytes *ciphertext;
  KwSecret *plaintext;
} DecryptCall;

static gboolean
call_decrypt (KwPkcs11Token *self, KwPkcs11Session *session, gpointer data, GError **error)
{
  DecryptCall *call = data;
  g_autoptr (KwPkcs11Object) object = NULL;
  g_autoptr (GError) local_error = NULL;

  object = ensure_object (self, session, KW_KEY_KIND_RSA, call->id, error);
  if (object == NULL || !ensure_raw_rsa_known (self, session, error))
    return FALSE;
  if (g_atomic_int_get (&self->raw_rsa) == RAW_RSA_YES)
    {
      call->plaintext
          = kw_pkcs11_decrypt_raw (session, object, call->padding, call->ciphertext, &local_error);
      /* A token may list the mechanism and yet not have it for this key. */
      if (session->broken || !g_error_matches (local_error, KW_ERROR, KW_ERROR_NOT_SUPPORTED))
        {
          if (local_error != NULL)
            g_propagate_error (error, g_steal_pointer (&local_error));
          return check_handle (session, object, call->plaintext != NULL, error);
        }
    }
  call->plaintext
      = kw_pkcs11_decrypt_padded (session, object, call->padding, call->ciphertext, error);
  return check_handle (session, object, call->plaintext != NULL, error);
}

typedef struct
{
  GBytes *id;
  GBytes *digest;
  GBytes *signature;
} SignCall;

static gboolean
call_sign (KwPkcs11Token *self, KwPkcs11Session *session, gpointer data, GError **error)
{
  SignCall *call = data;
  g_autoptr (KwPkcs11Object) object = NULL;

  object = ensure_object (self, session, KW_KEY_KIND_RSA, call->id, error);
  if (object == NULL)
    return FALSE;
  call->signature = kw_pkcs11_sign_sha256 (session, object, call->digest, error);
  return check_handle (session, object, call->signature != NULL, error);
}

typedef struct
{
  GBytes *id;
  gboolean encrypt;
  const guint8 *iv;
  gconstpointer data;
  gsize size;
  KwSecret *output;
} AesCall;

static gboolean
call_aes_cbc (KwPkcs11Token *self, KwPkcs11Session *session, gpointer data, GError **error)
{
  AesCall *call = data;
  g_autoptr (KwPkcs11Object) object = NULL;

  object = ensure_object (self, session, KW_KEY_KIND_AES, call->id, error);
  if (object == NULL)
    return FALSE;
  call->output
      = kw_pkcs11_aes_cbc (session, object, call->encrypt, call->iv, call->data, call->size, error);
  return check_handle (session, object, call->output != NULL, error);
}

typedef struct
{
  guint8 *data;
  gsize size;
} RandomCall;

static gboolean
call_random (KwPkcs11Token *self G_GNUC_UNUSED,
             KwPkcs11Session *session,
             gpointer data,
             GError **error)
{
  RandomCall *call = data;

  return kw_pkcs11_random (session, call->data, call->size, error);
}

typedef struct
{
  KwKeyKind kind;
  GBytes *id;
  KwKey *key;
} FindCall;

static gboolean
call_find_key (KwPkcs11Token *self, KwPkcs11Session *session, gpointer data, GError **error)
{
  FindCall *call = data;

  call->key = search_key (self, session, call->kind, call->id, NULL, error);
  return call->key != NULL;
}

/*
 * Adds a listed key's handle to the cache, unless its id is not unique. A key that was known before under this id and is
 * another one now is not replaced: who uses it gets KW_ERROR_KEY_MISMATCH until the token is started anew.
 */
static void
remember_listed (KwPkcs11Token *self, GHashTable *seen, KwKey *key, KwPkcs11Object *object)
{
  GBytes *id = kw_key_get_id (key);
  g_autoptr (KwPkcs11Object) known = NULL;

  if (g_bytes_get_size (id) == 0)
    return;
  known = lookup_object (self, kw_key_get_kind (key), id);
  if (known != NULL
      && (!modulus_is_same (known, object)
          || (kw_key_get_kind (key) == KW_KEY_KIND_AES && known->handle != object->handle)))
    {
      kw_pkcs11_object_mark_stale (known);
      g_hash_table_add (seen, g_bytes_ref (id));
      return;
    }
  if (g_hash_table_add (seen, g_bytes_ref (id)))
    remember_object (self, kw_key_get_kind (key), id, object);
  else
    forget_object (self, kw_key_get_kind (key), id);
}

static gboolean
list_class (KwPkcs11Token *self,
            KwPkcs11Session *session,
            CK_OBJECT_CLASS object_class,
            GPtrArray *keys,
            GError **error)
{
  g_autoptr (GHashTable) seen
      = g_hash_table_new_full (g_bytes_hash, g_bytes_equal, (GDestroyNotify) g_bytes_unref, NULL);
  g_autoptr (GArray) handles
      = kw_pkcs11_find_by_class (session, object_class, KW_MAX_KEYS_PER_TOKEN, error);

  if (handles == NULL)
    return FALSE;
  if (handles->len == KW_MAX_KEYS_PER_TOKEN)
    g_warning ("Token %s has %d keys or more; the rest is not listed", self->info->label,
               KW_MAX_KEYS_PER_TOKEN);
  for (guint i = 0; i < handles->len; i++)
    {
      CK_OBJECT_HANDLE handle = g_array_index (handles, CK_OBJECT_HANDLE, i);
      g_autoptr (KwPkcs11Object) object = NULL;
      KwKeyKind kind = KW_KEY_KIND_RSA;
      gboolean known = FALSE;
      KwKey *key = NULL;

      if (!kw_pkcs11_read_key_kind (session, handle, &kind, &known, error))
        return FALSE;
      if (!known || kw_pkcs11_class_of_kind (kind) != object_class)
        continue;
      key = kw_pkcs11_read_key (session, kind, handle, &object, error);
      if (key == NULL)
        return FALSE;
      remember_listed (self, seen, key, object);
      g_ptr_array_add (keys, key);
    }
  return TRUE;
}

static gboolean
call_list_keys (KwPkcs11Token *self, KwPkcs11Session *session, gpointer data, GError **error)
{
  GPtrArray *keys = data;

  g_ptr_array_set_size (keys, 0);
  if (!list_class (self, session, CKO_PRIVATE_KEY, keys, error)
      || !list_class (self, session, CKO_SECRET_KEY, keys, error))
    return FALSE;
  /* A token may show its keys without a login; once there was one, or where there are no keys to
     be seen, a session that is not logged in does not show them all. */
  if (login_is_required (self) && (keys->len == 0 || g_atomic_int_get (&self->logged_in))
      && kw_pkcs11_session_is_public (session))
    return set_not_logged_in (error);
  return TRUE;
}

typedef struct
{
  KwPkcs11NewKey wanted;
  KwKeyKind kind;
  gboolean tried; /* the token was asked to make it */
  KwKey *key;
} GenerateCall;

static gboolean
call_generate (KwPkcs11Token *self, KwPkcs11Session *session, gpointer data, GError **error)
{
  GenerateCall *call = data;
  g_autoptr (KwPkcs11Object) object = NULL;

  if (!kw_pkcs11_check_id_is_free (session, call->wanted.id, error))
    return FALSE;
  call->tried = TRUE;
  if (call->kind == KW_KEY_KIND_RSA)
    call->key = kw_pkcs11_generate_rsa (session, &call->wanted, &object, error);
  else
    call->key = kw_pkcs11_generate_aes (session, &call->wanted, &object, error);
  if (call->key == NULL)
    return FALSE;
  remember_object (self, call->kind, call->wanted.id, object);
  return TRUE;
}

static gboolean
call_destroy_all (KwPkcs11Token *self G_GNUC_UNUSED,
                  KwPkcs11Session *session,
                  gpointer data,
                  GError **error)
{
  return kw_pkcs11_destroy_all (session, data, error);
}

/* Runs with lasting_lock held, so that what is removed after a failure is our own. */
static KwKey *
generate_locked (KwPkcs11Token *self, GenerateCall *call, GError **error)
{
  g_autoptr (GError) cleanup_error = NULL;

  /* On a token that somebody initialised anew under us, a key would be made that nobody can read
     after a restart. */
  if (!kw_pkcs11_token_check (self, error))
    return NULL;
  if (call_once (self, call_generate, call, error))
    return call->key;
  if (call->tried && !call_once (self, call_destroy_all, call->wanted.id, &cleanup_error))
    g_debug ("After a key that could not be made: %s", cleanup_error->message);
  return NULL;
}

static KwKey *
generate (KwPkcs11Token *self,
          KwKeyKind kind,
          guint bits,
          GBytes *id,
          const char *label,
          GError **error)
{
  GenerateCall call = {
    .wanted = { bits, id, label != NULL ? label : "", self->extractable },
    .kind = kind,
  };
  KwKey *key = NULL;

  g_mutex_lock (&self->lasting_lock);
  key = generate_locked (self, &call, error);
  g_mutex_unlock (&self->lasting_lock);
  return key;
}

typedef struct
{
  KwKeyKind kind;
  GBytes *id;
} DeleteCall;

static gboolean
call_delete (KwPkcs11Token *self, KwPkcs11Session *session, gpointer data, GError **error)
{
  DeleteCall *call = data;

  if (kw_pkcs11_destroy_key (session, call->kind, call->id, error))
    return TRUE;
  if (error != NULL && g_error_matches (*error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND)
      && login_is_required (self) && kw_pkcs11_session_is_public (session))
    {
      g_clear_error (error);
      set_not_logged_in (error);
    }
  return FALSE;
}

static const KwTokenInfo *
kw_pkcs11_token_get_info (KwToken *token)
{
  return KW_PKCS11_TOKEN (token)->info;
}

static guint
kw_pkcs11_token_get_concurrency (KwToken *token)
{
  return kw_pkcs11_pool_get_size (KW_PKCS11_TOKEN (token)->pool);
}

static gboolean
read_token_info (KwPkcs11Token *self, CK_TOKEN_INFO *out_info, GError **error)
{
  KwPkcs11Module *module = kw_pkcs11_pool_get_module (self->pool);
  CK_FUNCTION_LIST *functions = NULL;
  CK_RV rv = CKR_OK;

  functions = kw_pkcs11_module_enter (module, kw_pkcs11_pool_get_generation (self->pool), error);
  if (functions == NULL)
    return FALSE;
  rv = functions->C_GetTokenInfo (kw_pkcs11_pool_get_slot (self->pool), out_info);
  kw_pkcs11_module_leave (module);
  if (rv == CKR_OK)
    return TRUE;
  kw_ckr_set_error (error, rv, "C_GetTokenInfo");
  return FALSE;
}

static gboolean
kw_pkcs11_token_get_pin_state (KwToken *token, KwPinState *out_state, GError **error)
{
  KwPkcs11Token *self = KW_PKCS11_TOKEN (token);
  CK_TOKEN_INFO info = { 0 };

  if (!read_token_info (self, &info, error))
    return FALSE;
  if ((info.flags & CKF_TOKEN_INITIALIZED) == 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_UNINITIALIZED,
                   "Token %s is not initialised any more", self->info->label);
      return FALSE;
    }
  *out_state = (KwPinState){
    .login_required = (info.flags & CKF_LOGIN_REQUIRED) != 0,
    .initialized = (info.flags & CKF_USER_PIN_INITIALIZED) != 0,
    .protected_path = (info.flags & CKF_PROTECTED_AUTHENTICATION_PATH) != 0,
    .count_low = (info.flags & CKF_USER_PIN_COUNT_LOW) != 0,
    .final_try = (info.flags & CKF_USER_PIN_FINAL_TRY) != 0,
    .locked = (info.flags & CKF_USER_PIN_LOCKED) != 0,
    .tries_left = -1,
  };
  return TRUE;
}

static gboolean
kw_pkcs11_token_login (KwToken *token, KwSecret *pin, GError **error)
{
  KwPkcs11Token *self = KW_PKCS11_TOKEN (token);

  if (pin == NULL && (self->token_info.flags & CKF_PROTECTED_AUTHENTICATION_PATH) == 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_PIN_REQUIRED, "Token %s wants a PIN",
                   self->info->label);
      return FALSE;
    }
  if (!kw_pkcs11_pool_login (self->pool, pin, error))
    return FALSE;
  g_atomic_int_set (&self->logged_in, TRUE);
  return TRUE;
}

static GPtrArray *
kw_pkcs11_token_list_keys (KwToken *token, GError **error)
{
  g_autoptr (GPtrArray) keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);

  if (!call_repeatable (KW_PKCS11_TOKEN (token), call_list_keys, keys, error))
    return NULL;
  return g_steal_pointer (&keys);
}

static KwKey *
kw_pkcs11_token_find_key (KwToken *token, KwKeyKind kind, GBytes *id, GError **error)
{
  FindCall call = { kind, id, NULL };

  return call_repeatable (KW_PKCS11_TOKEN (token), call_find_key, &call, error) ? call.key : NULL;
}

static KwSecret *
kw_pkcs11_token_rsa_decrypt (KwToken *token,
                             GBytes *id,
                             KwRsaPadding padding,
                             GBytes *ciphertext,
                             GError **error)
{
  DecryptCall call = { id, padding, ciphertext, NULL };

  return call_repeatable (KW_PKCS11_TOKEN (token), call_decrypt, &call, error) ? call.plaintext
                                                                               : NULL;
}

static GBytes *
kw_pkcs11_token_sign (KwToken *token, GBytes *id, GBytes *sha256_digest, GError **error)
{
  SignCall call = { id, sha256_digest, NULL };

  return call_repeatable (KW_PKCS11_TOKEN (token), call_sign, &call, error) ? call.signature : NULL;
}

static KwSecret *
kw_pkcs11_token_aes_cbc (KwToken *token,
                         GBytes *id,
                         gboolean encrypt,
                         const guint8 *iv,
                         gconstpointer data,
                         gsize size,
                         GError **error)
{
  AesCall call = { id, encrypt, iv, data, size, NULL };

  return call_repeatable (KW_PKCS11_TOKEN (token), call_aes_cbc, &call, error) ? call.output : NULL;
}

static gboolean
kw_pkcs11_token_random (KwToken *token, guint8 *data, gsize size, GError **error)
{
  RandomCall call = { data, size };

  return call_repeatable (KW_PKCS11_TOKEN (token), call_random, &call, error);
}

static KwKey *
kw_pkcs11_token_generate_rsa (KwToken *token,
                              guint bits,
                              GBytes *id,
                              const char *label,
                              GError **error)
{
  return generate (KW_PKCS11_TOKEN (token), KW_KEY_KIND_RSA, bits, id, label, error);
}

static KwKey *
kw_pkcs11_token_generate_aes (KwToken *token,
                              guint bits,
                              GBytes *id,
                              const char *label,
                              guint reference G_GNUC_UNUSED,
                              GError **error)
{
  return generate (KW_PKCS11_TOKEN (token), KW_KEY_KIND_AES, bits, id, label, error);
}

static gboolean
kw_pkcs11_token_delete_key (KwToken *token, KwKeyKind kind, GBytes *id, GError **error)
{
  KwPkcs11Token *self = KW_PKCS11_TOKEN (token);
  g_autoptr (GError) local_error = NULL;
  DeleteCall call = { kind, id };
  gboolean ok = FALSE;

  g_mutex_lock (&self->lasting_lock);
  /* Forgotten first: that this key is gone soon means nothing to those who look after the token. */
  forget_object (self, kind, id);
  ok = call_once (self, call_delete, &call, &local_error);
  g_mutex_unlock (&self->lasting_lock);
  if (!ok)
    g_propagate_error (error, g_steal_pointer (&local_error));
  return ok;
}

static void
kw_pkcs11_token_close (KwToken *token)
{
  kw_pkcs11_pool_close (KW_PKCS11_TOKEN (token)->pool);
}

static void
kw_pkcs11_token_finalize (GObject *object)
{
  KwPkcs11Token *self = KW_PKCS11_TOKEN (object);

  g_clear_object (&self->pool);
  g_clear_pointer (&self->info, kw_token_info_free);
  for (gsize i = 0; i < G_N_ELEMENTS (self->objects); i++)
    g_hash_table_unref (self->objects[i]);
  g_mutex_clear (&self->lasting_lock);
  g_mutex_clear (&self->lock);

  G_OBJECT_CLASS (kw_pkcs11_token_parent_class)->finalize (object);
}

static void
kw_pkcs11_token_class_init (KwPkcs11TokenClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_pkcs11_token_finalize;
}

static void
kw_pkcs11_token_init (KwPkcs11Token *self)
{
  g_mutex_init (&self->lasting_lock);
  g_mutex_init (&self->lock);
  for (gsize i = 0; i < G_N_ELEMENTS (self->objects); i++)
    self->objects[i]
        = g_hash_table_new_full (g_bytes_hash, g_bytes_equal, (GDestroyNotify) g_bytes_unref,
                                 (GDestroyNotify) kw_pkcs11_object_unref);
}

static void
kw_pkcs11_token_iface_init (KwTokenInterface *iface)
{
  iface->get_info = kw_pkcs11_token_get_info;
  iface->get_concurrency = kw_pkcs11_token_get_concurrency;
  iface->get_pin_state = kw_pkcs11_token_get_pin_state;
  iface->login = kw_pkcs11_token_login;
  iface->list_keys = kw_pkcs11_token_list_keys;
  iface->find_key = kw_pkcs11_token_find_key;
  iface->rsa_decrypt = kw_pkcs11_token_rsa_decrypt;
  iface->sign = kw_pkcs11_token_sign;
  iface->aes_cbc = kw_pkcs11_token_aes_cbc;
  iface->random = kw_pkcs11_token_random;
  iface->generate_rsa = kw_pkcs11_token_generate_rsa;
  iface->generate_aes = kw_pkcs11_token_generate_aes;
  iface->delete_key = kw_pkcs11_token_delete_key;
  iface->close = kw_pkcs11_token_close;
}

/* Picks an object out of the cache: any, or the given one if it is still there. */
static KwPkcs11Object *
pick_known_object (KwPkcs11Token *self, const KwPkcs11Object *wanted)
{
  KwPkcs11Object *picked = NULL;

  g_mutex_lock (&self->lock);
  for (gsize i = 0; i < G_N_ELEMENTS (self->objects); i++)
    {
      GHashTableIter iter;
      gpointer value = NULL;

      g_hash_table_iter_init (&iter, self->objects[i]);
      while (picked == NULL && g_hash_table_iter_next (&iter, NULL, &value))
        {
          if (wanted == NULL || wanted == value)
            picked = kw_pkcs11_object_ref (value);
        }
    }
  g_mutex_unlock (&self->lock);
  return picked;
}

static gboolean
text_changed (const guint8 *text, gsize size, const guint8 *new_text, gsize new_size)
{
  g_autofree char *before = kw_pkcs11_dup_text (text, size);
  g_autofree char *now = kw_pkcs11_dup_text (new_text, new_size);

  return !g_str_equal (before, now);
}

static gboolean
check_info_is_the_same (KwPkcs11Token *self, const CK_TOKEN_INFO *now, GError **error)
{
  const CK_TOKEN_INFO *before = &self->token_info;
  const CK_FLAGS flags = CKF_TOKEN_INITIALIZED | CKF_USER_PIN_INITIALIZED;

  if (((before->flags ^ now->flags) & flags) == 0
      && !text_changed (before->label, sizeof before->label, now->label, sizeof now->label)
      && !text_changed (before->serialNumber, sizeof before->serialNumber, now->serialNumber,
                        sizeof now->serialNumber))
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE,
               "Token %s was initialised anew or replaced by another", self->info->label);
  return FALSE;
}

static gboolean
check_known_object (KwPkcs11Token *self, KwPkcs11Object *object, GError **error)
{
  g_autoptr (KwPkcs11Object) still_known = NULL;
  KwPkcs11Session session = { 0 };
  gboolean unseen = FALSE;
  CK_OBJECT_CLASS object_class = 0;
  CK_ATTRIBUTE attribute = { CKA_CLASS, &object_class, sizeof object_class };
  CK_RV rv = CKR_OK;

  /* When all sessions are in use, their users will notice what is wrong. */
  if (!kw_pkcs11_pool_borrow (self->pool, FALSE, &session, NULL))
    return TRUE;
  rv = session.functions->C_GetAttributeValue (session.handle, object->handle, &attribute, 1);
  session.broken = rv != CKR_OK;
  /* Without the login, which the next request renews, a private key is out of sight. */
  unseen = rv == CKR_OBJECT_HANDLE_INVALID || rv == CKR_KEY_HANDLE_INVALID;
  unseen = unseen && !(login_is_required (self) && kw_pkcs11_session_is_public (&session));
  kw_pkcs11_pool_give_back (self->pool, &session);
  if (unseen)
    still_known = pick_known_object (self, object);
  if (still_known == NULL)
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE,
               "A key that was on token %s is gone: another program changed the token",
               self->info->label);
  return FALSE;
}

/**
 * kw_pkcs11_token_new:
 * @module: an initialised module
 * @slot: the slot it is in, as described by the module in this generation
 * @config: table `[pkcs11]`
 *
 * Makes the object for a token; no call into the module is made yet. Any thread.
 *
 * Returns: (transfer full): the token
 */
KwPkcs11Token *
kw_pkcs11_token_new (KwPkcs11Module *module, const KwPkcs11Slot *slot, const KwPkcs11Config *config)
{
  KwPkcs11Token *self = NULL;
  const CK_TOKEN_INFO *token = NULL;
  KwTokenInfo *info = NULL;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (module), NULL);
  g_return_val_if_fail (slot != NULL && slot->has_token && config != NULL, NULL);

  self = g_object_new (KW_TYPE_PKCS11_TOKEN, NULL);
  token = &slot->token_info;
  self->token_info = *token;
  self->config = config;
  self->extractable = config->extractable;
  self->pool
      = kw_pkcs11_pool_new (module, slot->id, token, CLAMP (config->sessions, 1, KW_MAX_SESSIONS));
  info = kw_token_info_new ();
  info->label = kw_pkcs11_dup_text (token->label, sizeof token->label);
  info->serial = kw_pkcs11_dup_text (token->serialNumber, sizeof token->serialNumber);
  info->model = kw_pkcs11_dup_text (token->model, sizeof token->model);
  info->manufacturer = kw_pkcs11_dup_text (token->manufacturerID, sizeof token->manufacturerID);
  info->firmware
      = g_strdup_printf ("%u.%u", token->firmwareVersion.major, token->firmwareVersion.minor);
  info->reader = kw_pkcs11_dup_text (slot->slot_info.slotDescription,
                                     sizeof slot->slot_info.slotDescription);
  info->slot = slot->id;
  self->info = info;
  return self;
}

/**
 * kw_pkcs11_token_get_config:
 * @self: a token
 *
 * Returns: (transfer none): the table `[pkcs11]` that means it; valid while the configuration is. Any
 *   thread.
 */
const KwPkcs11Config *
kw_pkcs11_token_get_config (KwPkcs11Token *self)
{
  g_return_val_if_fail (KW_IS_PKCS11_TOKEN (self), NULL);

  return self->config;
}

/**
 * kw_pkcs11_token_is_idle:
 * @self: a token that was released
 *
 * Returns: whether no call of it is inside the module any more. Any thread.
 */
gboolean
kw_pkcs11_token_is_idle (KwPkcs11Token *self)
{
  g_return_val_if_fail (KW_IS_PKCS11_TOKEN (self), TRUE);

  return kw_pkcs11_pool_is_idle (self->pool);
}

/**
 * kw_pkcs11_token_check:
 * @self: a token
 * @error: where to store the error
 *
 * Looks whether the token is still the one that was found: it answers, has the same label and
 * serial number, and still knows a key it knew before. The last is how a token that was initialised
 * anew under its old label shows. Blocks; the back end's thread or a worker.
 *
 * Returns: %FALSE with %KW_ERROR_TOKEN_GONE or another error of the device
 */
gboolean
kw_pkcs11_token_check (KwPkcs11Token *self, GError **error)
{
  CK_TOKEN_INFO info = { 0 };
  g_autoptr (KwPkcs11Object) object = NULL;

  g_return_val_if_fail (KW_IS_PKCS11_TOKEN (self), FALSE);

  if (!read_token_info (self, &info, error) || !check_info_is_the_same (self, &info, error))
    return FALSE;
  object = pick_known_object (self, NULL);
  return object == NULL || check_known_object (self, object, error);
}

/**
 * kw_pkcs11_token_release:
 * @self: a token
 *
 * Closes the token and its sessions that are not in use. Blocks; the back end's thread.
 */
void
kw_pkcs11_token_release (KwPkcs11Token *self)
{
  g_return_if_fail (KW_IS_PKCS11_TOKEN (self));

  kw_pkcs11_pool_release (self->pool);
}
