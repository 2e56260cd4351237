/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib-object.h>

G_BEGIN_DECLS

/**
 * KwVerbClass:
 * @KW_VERB_CLASS_USE_KEYS: encrypt, decrypt, rewrap, random numbers
 * @KW_VERB_CLASS_TEST: test devices and keys, look at keys anew
 * @KW_VERB_CLASS_MANAGE_DEVICES: start a device anew, read the configuration anew
 * @KW_VERB_CLASS_MANAGE_KEYS: make keys, say which key is right
 * @KW_VERB_CLASS_UNLOCK: give the PIN
 *
 * Verbs that are granted together.
 */
typedef enum
{
  KW_VERB_CLASS_USE_KEYS,
  KW_VERB_CLASS_TEST,
  KW_VERB_CLASS_MANAGE_DEVICES,
  KW_VERB_CLASS_MANAGE_KEYS,
  KW_VERB_CLASS_UNLOCK,
} KwVerbClass;

#define KW_N_VERB_CLASSES (KW_VERB_CLASS_UNLOCK + 1)

const char *kw_verb_class_to_string (KwVerbClass verb_class);

gboolean kw_verb_class_from_string (const char *nick, KwVerbClass *out_class);

/**
 * KwGrant:
 *
 * Which verbs somebody may use, on which keys. Immutable and reference-counted; any thread.
 */
typedef struct _KwGrant KwGrant;

KwGrant *kw_grant_new (guint classes, const char *const *keys);

KwGrant *kw_grant_new_all (void);

KwGrant *kw_grant_merge (KwGrant *a, KwGrant *b);

KwGrant *kw_grant_ref (KwGrant *self);

void kw_grant_unref (KwGrant *self);

gboolean kw_grant_allows_class (const KwGrant *self, KwVerbClass verb_class);

gboolean kw_grant_allows_key (const KwGrant *self, KwVerbClass verb_class, const char *key);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwGrant, kw_grant_unref)

G_END_DECLS
