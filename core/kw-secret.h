/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct _KwSecret KwSecret;

KwSecret *kw_secret_new (gsize size, GError **error);

KwSecret *kw_secret_new_unlocked (gsize size, GError **error);

KwSecret *kw_secret_new_copy (gconstpointer data, gsize size, GError **error);

KwSecret *kw_secret_new_take_string (char *string, GError **error);

KwSecret *kw_secret_new_random (gsize size, GError **error);

KwSecret *kw_secret_new_from_file (const char *path, gsize max_size, GError **error);

KwSecret *kw_secret_ref (KwSecret *self);

void kw_secret_unref (KwSecret *self);

guint8 *kw_secret_get_data (const KwSecret *self);

gsize kw_secret_get_size (const KwSecret *self);

void kw_secret_truncate (KwSecret *self, gsize size);

gboolean kw_secret_equal (const KwSecret *self, gconstpointer data, gsize size);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwSecret, kw_secret_unref)

G_END_DECLS
