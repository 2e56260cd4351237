/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-config.h"
#include "kw-grant.h"
#include "kw-job.h"

G_BEGIN_DECLS

/**
 * KwAccess:
 *
 * The tables `[[access]]`: what users and groups may do. Immutable and reference-counted; any thread.
 */
typedef struct _KwAccess KwAccess;

KwAccess *kw_access_new (KwConfig *config);

KwAccess *kw_access_ref (KwAccess *self);

void kw_access_unref (KwAccess *self);

KwGrant *
kw_access_resolve (const KwAccess *self, gint64 uid, const guint32 *groups, gsize n_groups);

gboolean kw_access_check_verb (const KwCaller *caller, KwVerb verb, GError **error);

gboolean kw_access_check_key (const KwCaller *caller, KwVerb verb, const char *key, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwAccess, kw_access_unref)

G_END_DECLS
