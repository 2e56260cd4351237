/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-device.h"
#include "kw-job-private.h"

G_BEGIN_DECLS

#define KW_ROSTER_NEVER_AGAIN (-1)

/* A key of hsm_keyid, and where it may be used. */
typedef struct
{
  char *name;        /* owned: the entry */
  char *fingerprint; /* owned, nullable: the recorded one */
  guint8 prefix[KW_FINGERPRINT_PREFIX_BYTES];
  KwKeyState state;
  gboolean may_encrypt; /* as the first */
  gboolean can_encrypt; /* when it is asked for */
  char *advice;         /* owned, nullable */
  GPtrArray *devices;   /* owned; of KwDevice: ready ones on which it is proven */
  GPtrArray *key_ids;   /* owned; of GBytes: its CKA_ID on each of them */
  GPtrArray
      *readers; /* owned; of KwDevice: ready ones that have the key, wherever it stands there */
  GPtrArray *reader_key_ids; /* owned; of GBytes: likewise */
} KwRosterEntry;

typedef struct
{
  gatomicrefcount references;
  GPtrArray *devices; /* owned; of KwDevice: the ready ones */
  GHashTable *by_key; /* owned; KwKey's kind and id (LookupKey) → GPtrArray of KwDevice */
  GPtrArray *keys;    /* owned; of KwKey: each once */
  GPtrArray *aes;     /* owned; of KwRosterEntry, in the order of hsm_keyid */
  GPtrArray *former;  /* owned; of KwRosterEntry: what entries meant before; for decrypting */
  char *status_text;  /* owned: why there is no device, for callers */
  gint64 hope_until;  /* monotonic: a device that is missing now may be back until then */
  gint64
      expecting_until; /* monotonic: a device is thought to come until then; NEVER_AGAIN when stopped */
  guint64 refresh_started; /* how often keys were looked for */
  guint64 refresh_done;    /* how many of these have ended */
} KwRoster;

KwRoster *kw_roster_new (void);

KwRoster *kw_roster_ref (KwRoster *roster);

void kw_roster_unref (KwRoster *roster);

void kw_roster_add_device (KwRoster *roster, KwDevice *device);

void kw_roster_add_aes (KwRoster *roster, KwKeyMatrix *matrix, guint row, GPtrArray *devices);

void
kw_roster_add_former (KwRoster *roster, KwKeyring *keyring, const char *name, GPtrArray *devices);

GPtrArray *kw_roster_find_holders (const KwRoster *roster, KwKeyKind kind, GBytes *id);

KwRosterEntry *
kw_roster_find_entry (const KwRoster *roster, const KwKeyStep *step, const char *wanted_key);

GPtrArray *kw_roster_entry_get_holders (const KwRosterEntry *entry, gboolean wrap);

gboolean kw_roster_knows_all_entries (const KwRoster *roster);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwRoster, kw_roster_unref)

G_END_DECLS
