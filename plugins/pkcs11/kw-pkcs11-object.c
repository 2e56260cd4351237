/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-object"

#include "config.h"

#include "kw-pkcs11-object.h"

#include "kw-error.h"
#include "kw-limits.h"

#include <string.h>

/*
 * Finds objects on a token and reads what they tell. All of it runs on a borrowed session.
 *
 * Attributes are read with one call into a buffer of the largest size that is accepted, so a length
 * that changes between a call for the size and one for the value cannot do harm.
 */

#define FIND_BATCH 64
#define MAX_LABEL_READ 1024
#define MAX_EXPONENT_BYTES 64
#define MAX_TEMPLATE 3

typedef struct
{
  KwKeyKind kind;
  CK_OBJECT_CLASS object_class;
  CK_KEY_TYPE type;
} KindRow;

static const KindRow kind_rows[] = {
  { KW_KEY_KIND_RSA, CKO_PRIVATE_KEY, CKK_RSA },
  { KW_KEY_KIND_AES, CKO_SECRET_KEY, CKK_AES },
  { KW_KEY_KIND_EC, CKO_PRIVATE_KEY, CKK_EC },
};

G_STATIC_ASSERT (G_N_ELEMENTS (kind_rows) == KW_N_KEY_KINDS);

static void
set_lie (KwPkcs11Session *session, const char *function, GError **error)
{
  session->broken = TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
               "%s: the module tells of more than was asked for", function);
}

static gboolean
collect_handles (KwPkcs11Session *session, guint max_objects, GArray *handles, GError **error)
{
  CK_OBJECT_HANDLE batch[FIND_BATCH] = { 0 };

  while (handles->len < max_objects)
    {
      CK_ULONG n_wanted = MIN (FIND_BATCH, max_objects - handles->len);
      CK_ULONG n_found = 0;
      CK_RV rv = session->functions->C_FindObjects (session->handle, batch, n_wanted, &n_found);

      if (!kw_pkcs11_session_check (session, rv, "C_FindObjects", error))
        return FALSE;
      if (n_found > n_wanted)
        {
          set_lie (session, "C_FindObjects", error);
          return FALSE;
        }
      if (n_found == 0)
        break;
      g_array_append_vals (handles, batch, (guint) n_found);
    }
  return TRUE;
}

static GArray *
find_objects (KwPkcs11Session *session,
              CK_ATTRIBUTE *attributes,
              CK_ULONG n_attributes,
              guint max_objects,
              GError **error)
{
  g_autoptr (GArray) handles = g_array_new (FALSE, FALSE, sizeof (CK_OBJECT_HANDLE));
  gboolean ok = FALSE;
  CK_RV rv = CKR_OK;

  rv = session->functions->C_FindObjectsInit (session->handle, attributes, n_attributes);
  if (!kw_pkcs11_session_check (session, rv, "C_FindObjectsInit", error))
    return NULL;
  ok = collect_handles (session, max_objects, handles, error);
  rv = session->functions->C_FindObjectsFinal (session->handle);
  if (!kw_pkcs11_session_check (session, rv, "C_FindObjectsFinal", ok ? error : NULL) || !ok)
    return NULL;
  return g_steal_pointer (&handles);
}

static CK_ATTRIBUTE
id_attribute (GBytes *id)
{
  gsize size = 0;
  gconstpointer data = g_bytes_get_data (id, &size);

  return (CK_ATTRIBUTE){ CKA_ID, (gpointer) data, size };
}

/* *out_value is NULL, without an error, when the object does not tell. */
static gboolean
read_bytes (KwPkcs11Session *session,
            CK_OBJECT_HANDLE handle,
            CK_ATTRIBUTE_TYPE type,
            gsize max_size,
            GBytes **out_value,
            GError **error)
{
  g_autofree guint8 *buffer = g_malloc0 (max_size);
  CK_ATTRIBUTE attribute = { type, buffer, max_size };
  CK_RV rv = session->functions->C_GetAttributeValue (session->handle, handle, &attribute, 1);

  if (rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_ATTRIBUTE_TYPE_INVALID
      || rv == CKR_BUFFER_TOO_SMALL
      || (rv == CKR_OK && attribute.ulValueLen == CK_UNAVAILABLE_INFORMATION))
    {
      *out_value = NULL;
      return TRUE;
    }
  if (!kw_pkcs11_session_check (session, rv, "C_GetAttributeValue", error))
    return FALSE;
  if (attribute.ulValueLen > max_size)
    {
      set_lie (session, "C_GetAttributeValue", error);
      return FALSE;
    }
  *out_value = g_bytes_new_take (g_steal_pointer (&buffer), attribute.ulValueLen);
  return TRUE;
}

static gboolean
read_ulong (KwPkcs11Session *session,
            CK_OBJECT_HANDLE handle,
            CK_ATTRIBUTE_TYPE type,
            CK_ULONG *out_value,
            GError **error)
{
  g_autoptr (GBytes) bytes = NULL;
  CK_ULONG value = CK_UNAVAILABLE_INFORMATION;

  if (!read_bytes (session, handle, type, sizeof value, &bytes, error))
    return FALSE;
  if (bytes != NULL && g_bytes_get_size (bytes) == sizeof value)
    memcpy (&value, g_bytes_get_data (bytes, NULL), sizeof value);
  *out_value = value;
  return TRUE;
}

/* What the token does not tell is @fallback. */
static gboolean
read_boolean (KwPkcs11Session *session,
              CK_OBJECT_HANDLE handle,
              CK_ATTRIBUTE_TYPE type,
              gboolean fallback,
              gboolean *out_value,
              GError **error)
{
  g_autoptr (GBytes) bytes = NULL;
  CK_BBOOL value = fallback ? CK_TRUE : CK_FALSE;

  if (!read_bytes (session, handle, type, sizeof value, &bytes, error))
    return FALSE;
  if (bytes != NULL && g_bytes_get_size (bytes) == sizeof value)
    memcpy (&value, g_bytes_get_data (bytes, NULL), sizeof value);
  *out_value = value != CK_FALSE;
  return TRUE;
}

static char *
label_from_bytes (GBytes *bytes)
{
  g_autofree char *valid = NULL;
  gsize size = 0;
  const char *data = NULL;

  if (bytes == NULL)
    return g_strdup ("");
  data = g_bytes_get_data (bytes, &size);
  valid = data != NULL ? g_utf8_make_valid (data, (gssize) size) : g_strdup ("");
  if (strlen (valid) > KW_MAX_KEY_LABEL_BYTES)
    *g_utf8_find_prev_char (valid, valid + KW_MAX_KEY_LABEL_BYTES + 1) = '\0';
  return g_steal_pointer (&valid);
}

static GBytes *
strip_leading_zeros (GBytes *number)
{
  gsize size = 0;
  const guint8 *data = g_bytes_get_data (number, &size);
  gsize n_zeros = 0;

  while (n_zeros < size && data[n_zeros] == 0)
    n_zeros++;
  return g_bytes_new_from_bytes (number, n_zeros, size - n_zeros);
}

static gboolean
read_rsa_numbers (KwPkcs11Session *session,
                  CK_OBJECT_HANDLE handle,
                  GBytes **out_modulus,
                  GBytes **out_exponent,
                  GError **error)
{
  g_autoptr (GBytes) modulus = NULL;
  g_autoptr (GBytes) exponent = NULL;

  if (!read_bytes (session, handle, CKA_MODULUS, KW_MAX_RSA_BYTES + 1, &modulus, error)
      || !read_bytes (session, handle, CKA_PUBLIC_EXPONENT, MAX_EXPONENT_BYTES, &exponent, error))
    return FALSE;
  if (modulus != NULL)
    {
      GBytes *stripped = strip_leading_zeros (modulus);

      g_bytes_unref (modulus);
      modulus = stripped;
    }
  *out_modulus = g_steal_pointer (&modulus);
  *out_exponent = g_steal_pointer (&exponent);
  return TRUE;
}

/* Many tokens keep the public numbers beside the private key; others only in the public object. */
static gboolean
read_rsa_numbers_of_pair (KwPkcs11Session *session,
                          CK_OBJECT_HANDLE private_key,
                          GBytes *id,
                          GBytes **out_modulus,
                          GBytes **out_exponent,
                          GError **error)
{
  const CK_KEY_TYPE type = CKK_RSA;
  g_autoptr (GBytes) modulus = NULL;
  g_autoptr (GBytes) exponent = NULL;
  g_autoptr (GArray) public_keys = NULL;

  if (!read_rsa_numbers (session, private_key, &modulus, &exponent, error))
    return FALSE;
  if (modulus == NULL || exponent == NULL)
    {
      g_clear_pointer (&modulus, g_bytes_unref);
      g_clear_pointer (&exponent, g_bytes_unref);
      public_keys = kw_pkcs11_find_by_id (session, CKO_PUBLIC_KEY, &type, id, 1, error);
      if (public_keys == NULL)
        return FALSE;
      if (public_keys->len > 0
          && !read_rsa_numbers (session, g_array_index (public_keys, CK_OBJECT_HANDLE, 0), &modulus,
                                &exponent, error))
        return FALSE;
    }
  *out_modulus = g_steal_pointer (&modulus);
  *out_exponent = g_steal_pointer (&exponent);
  return TRUE;
}

static guint
count_bits (GBytes *modulus)
{
  gsize size = 0;
  const guint8 *data = g_bytes_get_data (modulus, &size);

  if (size == 0)
    return 0;
  return (guint) (size - 1) * 8 + (guint) g_bit_storage (data[0]);
}

static KwPkcs11Object *
object_new (CK_OBJECT_HANDLE handle, GBytes *modulus)
{
  KwPkcs11Object *self = g_new0 (KwPkcs11Object, 1);

  g_atomic_ref_count_init (&self->references);
  self->handle = handle;
  self->modulus = modulus != NULL ? g_bytes_ref (modulus) : NULL;
  return self;
}

static KwKey *
read_rsa_key (KwPkcs11Session *session,
              CK_OBJECT_HANDLE handle,
              GBytes *id,
              const char *label,
              KwPkcs11Object **out_object,
              GError **error)
{
  g_autoptr (GBytes) modulus = NULL;
  g_autoptr (GBytes) exponent = NULL;
  g_autoptr (GBytes) der = NULL;
  g_autoptr (GError) local_error = NULL;

  if (!read_rsa_numbers_of_pair (session, handle, id, &modulus, &exponent, error))
    return NULL;
  if (modulus != NULL && exponent != NULL)
    {
      gsize n_modulus = 0;
      gsize n_exponent = 0;
      const guint8 *modulus_data = g_bytes_get_data (modulus, &n_modulus);
      const guint8 *exponent_data = g_bytes_get_data (exponent, &n_exponent);

      /* A key too small or too odd to be used does not hide the others. */
      der = kw_rsa_public_key_to_der (modulus_data != NULL ? modulus_data : (const guint8 *) "",
                                      n_modulus,
                                      exponent_data != NULL ? exponent_data : (const guint8 *) "",
                                      n_exponent, &local_error);
      if (der == NULL)
        g_debug ("Key \"%s\": %s", label, local_error->message);
    }
  *out_object = object_new (handle, modulus);
  return kw_key_new (KW_KEY_KIND_RSA, modulus != NULL ? count_bits (modulus) : 0, id, label, der);
}

static KwKey *
read_aes_key (KwPkcs11Session *session,
              CK_OBJECT_HANDLE handle,
              GBytes *id,
              const char *label,
              KwPkcs11Object **out_object,
              GError **error)
{
  static const struct
  {
    CK_ATTRIBUTE_TYPE type;
    KwKeyUsage usage;
    gboolean fallback;
  } rows[] = {
    { CKA_ENCRYPT, KW_KEY_USAGE_ENCRYPT, TRUE },
    { CKA_DECRYPT, KW_KEY_USAGE_DECRYPT, TRUE },
    { CKA_EXTRACTABLE, KW_KEY_USAGE_WRAP, FALSE },
    { CKA_UNWRAP, KW_KEY_USAGE_UNWRAP, FALSE },
  };
  CK_ULONG n_bytes = 0;
  guint usage = KW_KEY_USAGE_NONE;

  if (!read_ulong (session, handle, CKA_VALUE_LEN, &n_bytes, error))
    return NULL;
  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      gboolean permitted = FALSE;

      if (!read_boolean (session, handle, rows[i].type, rows[i].fallback, &permitted, error))
        return NULL;
      if (permitted)
        usage |= rows[i].usage;
    }
  *out_object = object_new (handle, NULL);
  return kw_key_new_full (&(KwKeyFields){ .kind = KW_KEY_KIND_AES,
                                          .bits = n_bytes <= 32 ? (guint) n_bytes * 8 : 0,
                                          .id = id,
                                          .label = label,
                                          .usage = (KwKeyUsage) usage });
}

/**
 * kw_pkcs11_object_ref:
 * @self: an object
 *
 * Returns: (transfer full): the object, with one more reference. Any thread.
 */
KwPkcs11Object *
kw_pkcs11_object_ref (KwPkcs11Object *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_pkcs11_object_unref:
 * @self: (transfer full): an object
 *
 * Drops a reference. Any thread.
 */
void
kw_pkcs11_object_unref (KwPkcs11Object *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_clear_pointer (&self->modulus, g_bytes_unref);
  g_free (self);
}

/**
 * kw_pkcs11_object_mark_stale:
 * @self: an object
 *
 * Notes that the token no longer knows its handle. Any thread.
 */
void
kw_pkcs11_object_mark_stale (KwPkcs11Object *self)
{
  g_return_if_fail (self != NULL);

  g_atomic_int_set (&self->stale, TRUE);
}

/**
 * kw_pkcs11_object_is_stale:
 * @self: an object
 *
 * Returns: whether its handle turned out to be unknown to the token. Any thread.
 */
gboolean
kw_pkcs11_object_is_stale (KwPkcs11Object *self)
{
  g_return_val_if_fail (self != NULL, TRUE);

  return g_atomic_int_get (&self->stale);
}

/**
 * kw_pkcs11_class_of_kind:
 * @kind: kind of key
 *
 * Returns: class of the object that does the key's work. Any thread.
 */
CK_OBJECT_CLASS
kw_pkcs11_class_of_kind (KwKeyKind kind)
{
  g_return_val_if_fail ((guint) kind < G_N_ELEMENTS (kind_rows), CKO_PRIVATE_KEY);

  return kind_rows[kind].object_class;
}

/**
 * kw_pkcs11_type_of_kind:
 * @kind: kind of key
 *
 * Returns: its CKA_KEY_TYPE. Any thread.
 */
CK_KEY_TYPE
kw_pkcs11_type_of_kind (KwKeyKind kind)
{
  g_return_val_if_fail ((guint) kind < G_N_ELEMENTS (kind_rows), CKK_RSA);

  return kind_rows[kind].type;
}

/**
 * kw_pkcs11_find_by_id:
 * @session: a session on loan
 * @object_class: class of object
 * @type: (nullable): CKA_KEY_TYPE, %NULL for any
 * @id: CKA_ID
 * @max_objects: stop after so many
 * @error: where to store the error
 *
 * Finds objects by class, type and id. Blocks; the session's thread.
 *
 * Returns: (transfer full) (element-type gulong): their handles, perhaps none; %NULL with an error
 */
GArray *
kw_pkcs11_find_by_id (KwPkcs11Session *session,
                      CK_OBJECT_CLASS object_class,
                      const CK_KEY_TYPE *type,
                      GBytes *id,
                      guint max_objects,
                      GError **error)
{
  CK_ATTRIBUTE attributes[MAX_TEMPLATE] = { 0 };
  CK_ULONG n_attributes = 0;

  g_return_val_if_fail (session != NULL && id != NULL, NULL);

  attributes[n_attributes++] = (CK_ATTRIBUTE){ CKA_CLASS, &object_class, sizeof object_class };
  attributes[n_attributes++] = id_attribute (id);
  if (type != NULL)
    attributes[n_attributes++] = (CK_ATTRIBUTE){ CKA_KEY_TYPE, (gpointer) type, sizeof *type };
  return find_objects (session, attributes, n_attributes, max_objects, error);
}

/**
 * kw_pkcs11_find_any_by_id:
 * @session: a session on loan
 * @id: CKA_ID
 * @max_objects: stop after so many
 * @error: where to store the error
 *
 * Finds objects of any class by id. Blocks; the session's thread.
 *
 * Returns: (transfer full) (element-type gulong): their handles, perhaps none; %NULL with an error
 */
GArray *
kw_pkcs11_find_any_by_id (KwPkcs11Session *session, GBytes *id, guint max_objects, GError **error)
{
  CK_ATTRIBUTE attribute = { 0 };

  g_return_val_if_fail (session != NULL && id != NULL, NULL);

  attribute = id_attribute (id);
  return find_objects (session, &attribute, 1, max_objects, error);
}

/**
 * kw_pkcs11_find_by_class:
 * @session: a session on loan
 * @object_class: class of object
 * @max_objects: stop after so many
 * @error: where to store the error
 *
 * Finds all objects of a class. Blocks; the session's thread.
 *
 * Returns: (transfer full) (element-type gulong): their handles, perhaps none; %NULL with an error
 */
GArray *
kw_pkcs11_find_by_class (KwPkcs11Session *session,
                         CK_OBJECT_CLASS object_class,
                         guint max_objects,
                         GError **error)
{
  CK_ATTRIBUTE attribute = { CKA_CLASS, &object_class, sizeof object_class };

  g_return_val_if_fail (session != NULL, NULL);

  return find_objects (session, &attribute, 1, max_objects, error);
}

/**
 * kw_pkcs11_read_key_kind:
 * @session: a session on loan
 * @handle: a private or secret key
 * @out_kind: (out): its kind
 * @out_known: (out): whether it is of a kind Keyward knows
 * @error: where to store the error
 *
 * Reads of what kind a key is. Blocks; the session's thread.
 *
 * Returns: %FALSE with an error
 */
gboolean
kw_pkcs11_read_key_kind (KwPkcs11Session *session,
                         CK_OBJECT_HANDLE handle,
                         KwKeyKind *out_kind,
                         gboolean *out_known,
                         GError **error)
{
  CK_ULONG type = 0;

  g_return_val_if_fail (session != NULL, FALSE);

  if (!read_ulong (session, handle, CKA_KEY_TYPE, &type, error))
    return FALSE;
  *out_known = FALSE;
  for (gsize i = 0; i < G_N_ELEMENTS (kind_rows); i++)
    {
      if (kind_rows[i].type == type)
        {
          *out_kind = kind_rows[i].kind;
          *out_known = TRUE;
        }
    }
  return TRUE;
}

/**
 * kw_pkcs11_read_key:
 * @session: a session on loan
 * @kind: kind of the key
 * @handle: the private or secret key
 * @out_object: (out) (optional) (transfer full): where the key is
 * @error: where to store the error
 *
 * Reads all there is to tell of a key. What the token does not tell is left out. Blocks; the
 * session's thread.
 *
 * Returns: (transfer full): the key; %NULL with an error
 */
KwKey *
kw_pkcs11_read_key (KwPkcs11Session *session,
                    KwKeyKind kind,
                    CK_OBJECT_HANDLE handle,
                    KwPkcs11Object **out_object,
                    GError **error)
{
  g_autoptr (GBytes) id = NULL;
  g_autoptr (GBytes) label_bytes = NULL;
  g_autoptr (KwPkcs11Object) object = NULL;
  g_autoptr (KwKey) key = NULL;
  g_autofree char *label = NULL;

  g_return_val_if_fail (session != NULL, NULL);

  if (!read_bytes (session, handle, CKA_ID, KW_MAX_KEY_ID_BYTES, &id, error)
      || !read_bytes (session, handle, CKA_LABEL, MAX_LABEL_READ, &label_bytes, error))
    return NULL;
  if (id == NULL)
    id = g_bytes_new (NULL, 0);
  label = label_from_bytes (label_bytes);
  switch (kind)
    {
    case KW_KEY_KIND_RSA:
      key = read_rsa_key (session, handle, id, label, &object, error);
      break;
    case KW_KEY_KIND_AES:
      key = read_aes_key (session, handle, id, label, &object, error);
      break;
    case KW_KEY_KIND_EC:
    default:
      object = object_new (handle, NULL);
      key = kw_key_new (kind, 0, id, label, NULL);
      break;
    }
  if (key == NULL)
    return NULL;
  if (out_object != NULL)
    *out_object = g_steal_pointer (&object);
  return g_steal_pointer (&key);
}
