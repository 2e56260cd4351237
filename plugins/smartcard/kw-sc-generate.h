/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-sc-key.h"

G_BEGIN_DECLS

/**
 * KwScNewKey: a key that is to be made
 */
typedef struct
{
  KwKeyKind kind;
  guint bits;
  GBytes *id;         /* borrowed */
  const char *label;  /* borrowed */
  const char *serial; /* borrowed: of the card */
} KwScNewKey;

GArray *kw_sc_list_kids (KwScLink *link, GError **error);

guint8 kw_sc_find_free_kid (KwScLink *link, GError **error);

gboolean kw_sc_check_kid_is_free (KwScLink *link, guint kid, GError **error);

gboolean kw_sc_generate_key (KwScLink *link, const KwScNewKey *wanted, guint8 kid, GError **error);

gboolean kw_sc_delete_key (KwScLink *link, guint8 kid, GError **error);

GBytes *kw_sc_export_key (KwScLink *link, KwScKey *key, GError **error);

gboolean kw_sc_check_transport_key (KwScLink *link, const guint8 *check_value, GError **error);

gboolean kw_sc_import_key (KwScLink *link, KwScSpan wrapped_key, guint8 kid, GError **error);

G_END_DECLS
