/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-key.h"
#include "kw-pkcs11-pool.h"

G_BEGIN_DECLS

/**
 * KwPkcs11Object:
 * @handle: handle of the private or secret key
 * @modulus: (nullable): an RSA key's modulus, big-endian, without leading zeros
 *
 * Where a key is on its token. Immutable but for being marked stale, and reference-counted; any
 * thread.
 */
typedef struct
{
  gatomicrefcount references;
  gint stale; /* atomic */
  CK_OBJECT_HANDLE handle;
  GBytes *modulus;
} KwPkcs11Object;

KwPkcs11Object *kw_pkcs11_object_ref (KwPkcs11Object *self);

void kw_pkcs11_object_unref (KwPkcs11Object *self);

void kw_pkcs11_object_mark_stale (KwPkcs11Object *self);

gboolean kw_pkcs11_object_is_stale (KwPkcs11Object *self);

GArray *kw_pkcs11_find_by_id (KwPkcs11Session *session,
                              CK_OBJECT_CLASS object_class,
                              const CK_KEY_TYPE *type,
                              GBytes *id,
                              guint max_objects,
                              GError **error);

GArray *
kw_pkcs11_find_any_by_id (KwPkcs11Session *session, GBytes *id, guint max_objects, GError **error);

GArray *kw_pkcs11_find_by_class (KwPkcs11Session *session,
                                 CK_OBJECT_CLASS object_class,
                                 guint max_objects,
                                 GError **error);

gboolean kw_pkcs11_read_key_kind (KwPkcs11Session *session,
                                  CK_OBJECT_HANDLE handle,
                                  KwKeyKind *out_kind,
                                  gboolean *out_known,
                                  GError **error);

KwKey *kw_pkcs11_read_key (KwPkcs11Session *session,
                           KwKeyKind kind,
                           CK_OBJECT_HANDLE handle,
                           KwPkcs11Object **out_object,
                           GError **error);

CK_OBJECT_CLASS kw_pkcs11_class_of_kind (KwKeyKind kind);

CK_KEY_TYPE kw_pkcs11_type_of_kind (KwKeyKind kind);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwPkcs11Object, kw_pkcs11_object_unref)

G_END_DECLS
