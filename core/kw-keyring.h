/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-key.h"

G_BEGIN_DECLS

#define KW_TYPE_KEYRING (kw_keyring_get_type ())
G_DECLARE_FINAL_TYPE (KwKeyring, kw_keyring, KW, KEYRING, GObject)

KwKeyring *kw_keyring_new (const char *state_directory);

gboolean kw_keyring_load (KwKeyring *self, gboolean *out_changed, GError **error);

GPtrArray *
kw_keyring_admit (KwKeyring *self, GPtrArray *keys, GPtrArray **out_different, GError **error);

gboolean kw_keyring_forget (KwKeyring *self, GBytes *key_id, gboolean *out_known, GError **error);

G_END_DECLS
