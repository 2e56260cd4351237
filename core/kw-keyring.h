/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-key-matrix.h"
#include "kw-key-selector.h"

G_BEGIN_DECLS

#define KW_TYPE_KEYRING (kw_keyring_get_type ())
G_DECLARE_FINAL_TYPE (KwKeyring, kw_keyring, KW, KEYRING, GObject)

/**
 * KwKeyringDevice:
 * @name: what the device is called
 * @label: label of its token
 * @number: its number
 * @ready: it takes work
 * @checked: its keys were looked at
 * @settled: it is not just coming up
 * @keys: (element-type KwKey): its AES keys, and its other keys that are the recorded ones
 * @different: (element-type KwKey): its other keys that are not
 *
 * What the keyring is told of a device. Everything is borrowed.
 */
typedef struct
{
  const char *name;
  const char *label;
  guint64 number;
  gboolean ready;
  gboolean checked;
  gboolean settled;
  GPtrArray *keys;
  GPtrArray *different;
} KwKeyringDevice;

KwKeyring *kw_keyring_new (const char *state_directory);

void
kw_keyring_set_keys (KwKeyring *self, GPtrArray *selectors, gboolean encrypts, guint min_copies);

gboolean kw_keyring_load (KwKeyring *self, gboolean *out_changed, GError **error);

GPtrArray *
kw_keyring_admit (KwKeyring *self, GPtrArray *keys, GPtrArray **out_different, GError **error);

gboolean kw_keyring_record_new (KwKeyring *self, KwKey *key, GError **error);

void kw_keyring_hold (KwKeyring *self, GBytes *key_id);

void kw_keyring_release (KwKeyring *self, GBytes *key_id);

gboolean kw_keyring_is_held (KwKeyring *self, GBytes *key_id);

char *kw_keyring_dup_recorded (KwKeyring *self, const char *id);

GStrv kw_keyring_dup_former (KwKeyring *self, const char *id);

gboolean kw_keyring_misses_key (KwKeyring *self, GPtrArray *keys);

gboolean kw_keyring_knows_any (KwKeyring *self, GPtrArray *keys);

GPtrArray *kw_keyring_ref_selectors (KwKeyring *self);

gboolean kw_keyring_forget (KwKeyring *self, GBytes *key_id, gboolean *out_known, GError **error);

gboolean
kw_keyring_forget_configured (KwKeyring *self, const char *id, gboolean *out_known, GError **error);

gboolean
kw_keyring_accept (KwKeyring *self, const char *id, const char *fingerprint, GError **error);

GPtrArray *kw_keyring_dup_configured (KwKeyring *self, GPtrArray *keys);

gboolean kw_keyring_judge (KwKeyring *self, const KwKeyringDevice *devices, guint n_devices);

gboolean kw_keyring_is_recording (KwKeyring *self);

KwKeyMatrix *kw_keyring_ref_matrix (KwKeyring *self);

G_END_DECLS
