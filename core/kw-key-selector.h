/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-key.h"

G_BEGIN_DECLS

/**
 * KwKeySelector:
 *
 * Which AES key of a token is meant: one entry of `hsm_keyid`. Immutable and reference-counted; any thread.
 */
typedef struct _KwKeySelector KwKeySelector;

KwKeySelector *kw_key_selector_new (const char *text, GError **error);

KwKeySelector *kw_key_selector_ref (KwKeySelector *self);

void kw_key_selector_unref (KwKeySelector *self);

const char *kw_key_selector_get_text (const KwKeySelector *self);

const char *kw_key_selector_get_label (const KwKeySelector *self);

gboolean kw_key_selector_get_place (const KwKeySelector *self, guint *out_place);

KwKey *kw_key_selector_find (const KwKeySelector *self, GPtrArray *keys, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwKeySelector, kw_key_selector_unref)

G_END_DECLS
