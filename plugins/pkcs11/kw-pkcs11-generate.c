/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-generate"

#include "config.h"

#include "kw-pkcs11-generate.h"

#include "kw-error.h"
#include "kw-uuid.h"

#include <string.h>

/*
 * Makes keys on a token and removes them, on a borrowed session. None of this is ever repeated: a
 * call that failed may have had its effect all the same.
 */

#define MAX_PRIVATE_ATTRIBUTES 16
#define MAX_OBJECTS_OF_A_KEY 8

typedef struct
{
  CK_ATTRIBUTE attributes[MAX_PRIVATE_ATTRIBUTES];
  CK_ULONG n_attributes;
} Template;

static void
add_attribute (Template *template, CK_ATTRIBUTE_TYPE type, gconstpointer value, gsize size)
{
  g_return_if_fail (template->n_attributes < G_N_ELEMENTS (template->attributes));

  template->attributes[template->n_attributes++] = (CK_ATTRIBUTE){ type, (gpointer) value, size };
}

static void
add_boolean (Template *template, CK_ATTRIBUTE_TYPE type, gboolean value)
{
  static const CK_BBOOL yes = CK_TRUE;
  static const CK_BBOOL no = CK_FALSE;

  add_attribute (template, type, value ? &yes : &no, sizeof (CK_BBOOL));
}

static void
add_name (Template *template, const KwPkcs11NewKey *wanted)
{
  gsize n_id = 0;
  gconstpointer id = g_bytes_get_data (wanted->id, &n_id);

  add_attribute (template, CKA_ID, id, n_id);
  add_attribute (template, CKA_LABEL, wanted->label, strlen (wanted->label));
}

static void
add_protection (Template *template, const KwPkcs11NewKey *wanted)
{
  add_boolean (template, CKA_TOKEN, TRUE);
  add_boolean (template, CKA_PRIVATE, TRUE);
  add_boolean (template, CKA_SENSITIVE, TRUE);
  add_boolean (template, CKA_EXTRACTABLE, wanted->extractable);
}

static char *
dup_id_text (GBytes *id)
{
  g_autoptr (GString) text = NULL;
  char *uuid = kw_uuid_from_bytes (id);
  gsize size = 0;
  const guint8 *data = g_bytes_get_data (id, &size);

  if (uuid != NULL)
    return uuid;
  text = g_string_new (NULL);
  for (gsize i = 0; i < size; i++)
    g_string_append_printf (text, "%02x", data[i]);
  return g_string_free (g_steal_pointer (&text), FALSE);
}

static void
destroy_quietly (KwPkcs11Session *session, CK_OBJECT_HANDLE handle)
{
  CK_RV rv = session->functions->C_DestroyObject (session->handle, handle);

  if (rv != CKR_OK)
    g_warning ("An object of a key that could not be made remains on the token: "
               "C_DestroyObject: 0x%lX",
               rv);
}

static gboolean
destroy_handles (KwPkcs11Session *session, GArray *handles, GError **error)
{
  for (guint i = 0; i < handles->len; i++)
    {
      CK_OBJECT_HANDLE handle = g_array_index (handles, CK_OBJECT_HANDLE, i);
      CK_RV rv = session->functions->C_DestroyObject (session->handle, handle);

      if (!kw_pkcs11_session_check (session, rv, "C_DestroyObject", error))
        return FALSE;
    }
  return TRUE;
}

static KwKey *
read_new_rsa_key (KwPkcs11Session *session,
                  const KwPkcs11NewKey *wanted,
                  CK_OBJECT_HANDLE private_key,
                  KwPkcs11Object **out_object,
                  GError **error)
{
  g_autoptr (KwPkcs11Object) object = NULL;
  g_autoptr (KwKey) key
      = kw_pkcs11_read_key (session, KW_KEY_KIND_RSA, private_key, &object, error);

  if (key == NULL)
    return NULL;
  if (kw_key_get_public_key_der (key) == NULL || kw_key_get_bits (key) != wanted->bits
      || !g_bytes_equal (kw_key_get_id (key), wanted->id))
    {
      session->broken = TRUE;
      g_set_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                   "The token made another key than the RSA key of %u bits it was asked for",
                   wanted->bits);
      return NULL;
    }
  *out_object = g_steal_pointer (&object);
  return g_steal_pointer (&key);
}

/**
 * kw_pkcs11_check_id_is_free:
 * @session: a session on loan
 * @id: CKA_ID
 * @error: where to store the error
 *
 * Checks that no object has an id yet. Blocks; the session's thread.
 *
 * Returns: %FALSE with %KW_ERROR_KEY_EXISTS or an error of the device
 */
gboolean
kw_pkcs11_check_id_is_free (KwPkcs11Session *session, GBytes *id, GError **error)
{
  g_autoptr (GArray) handles = NULL;
  g_autofree char *text = NULL;

  g_return_val_if_fail (session != NULL && id != NULL, FALSE);

  handles = kw_pkcs11_find_any_by_id (session, id, 1, error);
  if (handles == NULL)
    return FALSE;
  if (handles->len == 0)
    return TRUE;
  text = dup_id_text (id);
  g_set_error (error, KW_ERROR, KW_ERROR_KEY_EXISTS, "The token has a key with the id %s already",
               text);
  return FALSE;
}

/**
 * kw_pkcs11_generate_rsa:
 * @session: a session on loan
 * @wanted: what the key shall be like; its id must be free
 * @out_object: (out) (transfer full): where the key is
 * @error: where to store the error
 *
 * Makes an RSA pair. When it cannot be read afterwards, it is removed again. Blocks; the session's
 * thread.
 *
 * Returns: (transfer full): the key; %NULL with an error
 */
KwKey *
kw_pkcs11_generate_rsa (KwPkcs11Session *session,
                        const KwPkcs11NewKey *wanted,
                        KwPkcs11Object **out_object,
                        GError **error)
{
  static const guint8 public_exponent[] = { 0x01, 0x00, 0x01 };
  CK_MECHANISM mechanism = { CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0 };
  Template public_template = { 0 };
  Template private_template = { 0 };
  CK_ULONG bits = 0;
  CK_OBJECT_HANDLE public_key = CK_INVALID_HANDLE;
  CK_OBJECT_HANDLE private_key = CK_INVALID_HANDLE;
  KwKey *key = NULL;
  CK_RV rv = CKR_OK;

  g_return_val_if_fail (session != NULL && wanted != NULL, NULL);

  bits = wanted->bits;
  add_boolean (&public_template, CKA_TOKEN, TRUE);
  add_boolean (&public_template, CKA_PRIVATE, FALSE);
  add_boolean (&public_template, CKA_ENCRYPT, TRUE);
  add_boolean (&public_template, CKA_VERIFY, TRUE);
  add_attribute (&public_template, CKA_MODULUS_BITS, &bits, sizeof bits);
  add_attribute (&public_template, CKA_PUBLIC_EXPONENT, public_exponent, sizeof public_exponent);
  add_name (&public_template, wanted);
  add_protection (&private_template, wanted);
  add_boolean (&private_template, CKA_DECRYPT, TRUE);
  add_boolean (&private_template, CKA_SIGN, TRUE);
  add_name (&private_template, wanted);

  rv = session->functions->C_GenerateKeyPair (session->handle, &mechanism,
                                              public_template.attributes,
                                              public_template.n_attributes,
                                              private_template.attributes,
                                              private_template.n_attributes, &public_key,
                                              &private_key);
  if (!kw_pkcs11_session_check (session, rv, "C_GenerateKeyPair", error))
    return NULL;
  key = read_new_rsa_key (session, wanted, private_key, out_object, error);
  if (key == NULL)
    {
      destroy_quietly (session, private_key);
      destroy_quietly (session, public_key);
    }
  return key;
}

/**
 * kw_pkcs11_generate_aes:
 * @session: a session on loan
 * @wanted: what the key shall be like; its id must be free
 * @out_object: (out) (transfer full): where the key is
 * @error: where to store the error
 *
 * Makes an AES key. When it cannot be read afterwards, it is removed again. Blocks; the session's
 * thread.
 *
 * Returns: (transfer full): the key; %NULL with an error
 */
KwKey *
kw_pkcs11_generate_aes (KwPkcs11Session *session,
                        const KwPkcs11NewKey *wanted,
                        KwPkcs11Object **out_object,
                        GError **error)
{
  CK_MECHANISM mechanism = { CKM_AES_KEY_GEN, NULL, 0 };
  Template template = { 0 };
  CK_ULONG n_bytes = 0;
  CK_OBJECT_HANDLE handle = CK_INVALID_HANDLE;
  KwKey *key = NULL;
  CK_RV rv = CKR_OK;

  g_return_val_if_fail (session != NULL && wanted != NULL, NULL);

  n_bytes = wanted->bits / 8;
  add_protection (&template, wanted);
  add_boolean (&template, CKA_ENCRYPT, TRUE);
  add_boolean (&template, CKA_DECRYPT, TRUE);
  add_attribute (&template, CKA_VALUE_LEN, &n_bytes, sizeof n_bytes);
  add_name (&template, wanted);

  rv = session->functions->C_GenerateKey (session->handle, &mechanism, template.attributes,
                                          template.n_attributes, &handle);
  if (!kw_pkcs11_session_check (session, rv, "C_GenerateKey", error))
    return NULL;
  key = kw_pkcs11_read_key (session, KW_KEY_KIND_AES, handle, out_object, error);
  if (key == NULL)
    destroy_quietly (session, handle);
  return key;
}

/**
 * kw_pkcs11_destroy_all:
 * @session: a session on loan
 * @id: CKA_ID
 * @error: where to store the error
 *
 * Removes what is left of a key that could not be made. Blocks; the session's thread.
 *
 * Returns: %FALSE with an error of the device
 */
gboolean
kw_pkcs11_destroy_all (KwPkcs11Session *session, GBytes *id, GError **error)
{
  g_autoptr (GArray) handles = NULL;

  g_return_val_if_fail (session != NULL && id != NULL, FALSE);

  handles = kw_pkcs11_find_any_by_id (session, id, MAX_OBJECTS_OF_A_KEY, error);
  return handles != NULL && destroy_handles (session, handles, error);
}

/**
 * kw_pkcs11_destroy_key:
 * @session: a session on loan
 * @kind: kind of the key
 * @id: CKA_ID
 * @error: where to store the error
 *
 * Removes a key: its public half first, so that a failure half-way leaves a key that works and can
 * be removed again. Blocks; the session's thread.
 *
 * Returns: %FALSE with %KW_ERROR_KEY_NOT_FOUND, %KW_ERROR_AMBIGUOUS or an error of the device
 */
gboolean
kw_pkcs11_destroy_key (KwPkcs11Session *session, KwKeyKind kind, GBytes *id, GError **error)
{
  CK_KEY_TYPE type = 0;
  g_autoptr (GArray) keys = NULL;
  g_autoptr (GArray) public_keys = NULL;
  g_autofree char *text = NULL;

  g_return_val_if_fail (session != NULL && id != NULL, FALSE);

  type = kw_pkcs11_type_of_kind (kind);
  text = dup_id_text (id);
  keys = kw_pkcs11_find_by_id (session, kw_pkcs11_class_of_kind (kind), &type, id, 2, error);
  if (keys == NULL)
    return FALSE;
  if (keys->len != 1)
    {
      if (keys->len == 0)
        g_set_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND,
                     "The token has no %s key with the "
                     "id %s",
                     kw_key_kind_to_string (kind), text);
      else
        g_set_error (error, KW_ERROR, KW_ERROR_AMBIGUOUS,
                     "The token has several %s keys with the "
                     "id %s",
                     kw_key_kind_to_string (kind), text);
      return FALSE;
    }
  if (kw_pkcs11_class_of_kind (kind) == CKO_PRIVATE_KEY)
    {
      public_keys
          = kw_pkcs11_find_by_id (session, CKO_PUBLIC_KEY, &type, id, MAX_OBJECTS_OF_A_KEY, error);
      if (public_keys == NULL || !destroy_handles (session, public_keys, error))
        return FALSE;
    }
  return destroy_handles (session, keys, error);
}
