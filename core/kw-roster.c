/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-roster"

#include "config.h"

#include "kw-roster.h"

#include <openssl/crypto.h>

/*
 * Which ready device has which key. The pool makes one in the main context whenever something changes; from when others see
 * it it is never changed, so any thread may read it.
 */

typedef struct
{
  KwKeyKind kind;
  GBytes *id;
} LookupKey;

static guint
lookup_key_hash (gconstpointer data)
{
  const LookupKey *key = data;

  return g_bytes_hash (key->id) ^ (guint) key->kind;
}

static gboolean
lookup_key_equal (gconstpointer a, gconstpointer b)
{
  const LookupKey *key_a = a;
  const LookupKey *key_b = b;

  return key_a->kind == key_b->kind && g_bytes_equal (key_a->id, key_b->id);
}

static void
lookup_key_free (gpointer data)
{
  LookupKey *key = data;

  g_bytes_unref (key->id);
  g_free (key);
}

static void
entry_free (gpointer data)
{
  KwRosterEntry *entry = data;

  g_free (entry->name);
  g_free (entry->fingerprint);
  g_free (entry->advice);
  g_ptr_array_unref (entry->devices);
  g_ptr_array_unref (entry->key_ids);
  g_ptr_array_unref (entry->readers);
  g_ptr_array_unref (entry->reader_key_ids);
  g_free (entry);
}

static KwRosterEntry *
entry_new (const char *name, const char *fingerprint)
{
  KwRosterEntry *entry = g_new0 (KwRosterEntry, 1);

  entry->name = g_strdup (name);
  if (fingerprint != NULL && kw_fingerprint_get_prefix (fingerprint, entry->prefix))
    entry->fingerprint = g_strdup (fingerprint);
  entry->devices = g_ptr_array_new_with_free_func (g_object_unref);
  entry->key_ids = g_ptr_array_new_with_free_func ((GDestroyNotify) g_bytes_unref);
  entry->readers = g_ptr_array_new_with_free_func (g_object_unref);
  entry->reader_key_ids = g_ptr_array_new_with_free_func ((GDestroyNotify) g_bytes_unref);
  return entry;
}

/**
 * kw_roster_new:
 *
 * Returns: (transfer full): a roster without devices, to be filled before anybody else sees it. Any thread.
 */
KwRoster *
kw_roster_new (void)
{
  KwRoster *roster = g_new0 (KwRoster, 1);

  g_atomic_ref_count_init (&roster->references);
  roster->devices = g_ptr_array_new_with_free_func (g_object_unref);
  roster->keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  roster->aes = g_ptr_array_new_with_free_func (entry_free);
  roster->former = g_ptr_array_new_with_free_func (entry_free);
  roster->by_key = g_hash_table_new_full (lookup_key_hash, lookup_key_equal, lookup_key_free,
                                          (GDestroyNotify) g_ptr_array_unref);
  return roster;
}

/**
 * kw_roster_ref:
 * @roster: a roster
 *
 * Returns: (transfer full): @roster with one more reference. Any thread.
 */
KwRoster *
kw_roster_ref (KwRoster *roster)
{
  g_return_val_if_fail (roster != NULL, NULL);

  g_atomic_ref_count_inc (&roster->references);
  return roster;
}

/**
 * kw_roster_unref:
 * @roster: (transfer full): a roster
 *
 * Gives a reference back. Any thread.
 */
void
kw_roster_unref (KwRoster *roster)
{
  if (!g_atomic_ref_count_dec (&roster->references))
    return;
  g_ptr_array_unref (roster->devices);
  g_ptr_array_unref (roster->keys);
  g_hash_table_unref (roster->by_key);
  g_ptr_array_unref (roster->aes);
  g_ptr_array_unref (roster->former);
  g_free (roster->status_text);
  g_free (roster);
}

/**
 * kw_roster_add_device:
 * @roster: a roster that nobody else sees yet
 * @device: a ready device
 *
 * Adds a device and its keys, but for AES keys: which may be used where, the matrix says. Main context.
 */
void
kw_roster_add_device (KwRoster *roster, KwDevice *device)
{
  GPtrArray *keys = kw_device_get_keys (device);

  g_ptr_array_add (roster->devices, g_object_ref (device));
  for (guint i = 0; i < keys->len; i++)
    {
      KwKey *key = g_ptr_array_index (keys, i);
      LookupKey probe = { kw_key_get_kind (key), kw_key_get_id (key) };
      GPtrArray *holders = NULL;

      /* Which AES key may be used where, the matrix says. */
      if (kw_key_get_kind (key) == KW_KEY_KIND_AES)
        continue;
      holders = g_hash_table_lookup (roster->by_key, &probe);
      if (holders == NULL)
        {
          LookupKey *name = g_new0 (LookupKey, 1);

          name->kind = probe.kind;
          name->id = g_bytes_ref (probe.id);
          holders = g_ptr_array_new_with_free_func (g_object_unref);
          g_hash_table_insert (roster->by_key, name, holders);
          g_ptr_array_add (roster->keys, kw_key_ref (key));
        }
      g_ptr_array_add (holders, g_object_ref (device));
    }
}

/* A key is proven by its fingerprint: where it stands on the device does not matter for decrypting. */
static void
find_readers (KwRosterEntry *entry, GPtrArray *devices)
{
  for (guint i = 0; entry->fingerprint != NULL && i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);
      GPtrArray *keys = kw_device_get_keys (device);

      for (guint j = 0; kw_device_get_state (device) == KW_DEVICE_READY && j < keys->len; j++)
        {
          KwKey *key = g_ptr_array_index (keys, j);

          if (kw_key_get_kind (key) != KW_KEY_KIND_AES
              || g_strcmp0 (kw_key_get_fingerprint (key), entry->fingerprint) != 0
              || (kw_key_get_usage (key) & KW_KEY_USAGE_DECRYPT) == 0)
            continue;
          g_ptr_array_add (entry->readers, g_object_ref (device));
          g_ptr_array_add (entry->reader_key_ids, g_bytes_ref (kw_key_get_id (key)));
          break;
        }
    }
}

/**
 * kw_roster_add_former:
 * @roster: a roster that nobody else sees yet
 * @keyring: the record
 * @name: an entry of `hsm_keyid`
 * @devices: (element-type KwDevice): all devices
 *
 * Adds what an entry meant before the administrator accepted another key, for decrypting. Main context.
 */
void
kw_roster_add_former (KwRoster *roster, KwKeyring *keyring, const char *name, GPtrArray *devices)
{
  g_auto (GStrv) former = kw_keyring_dup_former (keyring, name);

  for (guint i = 0; former[i] != NULL; i++)
    {
      KwRosterEntry *entry = entry_new (name, former[i]);

      entry->state = KW_KEY_STATE_MISSING;
      entry->advice = g_strdup_printf (
          "No ready device has the key that %s was before (%.16s), under which this is encrypted; plug in one that has it",
          name, former[i]);
      g_ptr_array_add (roster->former, entry);
      find_readers (entry, devices);
    }
}

/**
 * kw_roster_add_aes:
 * @roster: a roster that nobody else sees yet
 * @matrix: how keys are on devices
 * @row: a key of it
 * @devices: (element-type KwDevice): all devices, as they are in the matrix
 *
 * Adds an entry of `hsm_keyid`. Main context.
 */
void
kw_roster_add_aes (KwRoster *roster, KwKeyMatrix *matrix, guint row, GPtrArray *devices)
{
  const KwKeyFacts *facts = kw_key_matrix_get_key (matrix, row);
  KwRosterEntry *entry = entry_new (facts->id, facts->fingerprint);

  entry->state = facts->state;
  entry->may_encrypt = facts->may_encrypt;
  entry->can_encrypt = facts->can_encrypt;
  entry->advice = g_strdup (facts->advice);
  find_readers (entry, devices);
  g_ptr_array_add (roster->aes, entry);
  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);
      const KwMatrixCell *cell = kw_key_matrix_get_cell (matrix, row, i);

      if (kw_device_get_state (device) != KW_DEVICE_READY
          || (cell->state != KW_KEY_STATE_OK && cell->state != KW_KEY_STATE_WEAK))
        continue;
      g_ptr_array_add (entry->devices, g_object_ref (device));
      g_ptr_array_add (entry->key_ids, g_bytes_ref (kw_key_get_id (cell->key)));
    }
}

/**
 * kw_roster_find_holders:
 * @roster: a roster
 * @kind: kind of a key that is no AES key
 * @id: its CKA_ID
 *
 * Returns: (transfer none) (nullable) (element-type KwDevice): the ready devices that have it. Any thread.
 */
GPtrArray *
kw_roster_find_holders (const KwRoster *roster, KwKeyKind kind, GBytes *id)
{
  LookupKey probe = { kind, id };

  return g_hash_table_lookup (roster->by_key, &probe);
}

/**
 * kw_roster_find_entry:
 * @roster: a roster
 * @step: what is to be done with a key
 * @wanted_key: (nullable): which one is to encrypt; %NULL for the first
 *
 * Returns: (transfer none) (nullable): the entry. Any thread.
 */
KwRosterEntry *
kw_roster_find_entry (const KwRoster *roster, const KwKeyStep *step, const char *wanted_key)
{
  for (guint i = 0; i < roster->aes->len; i++)
    {
      KwRosterEntry *entry = g_ptr_array_index (roster->aes, i);

      if (step->wrap && (wanted_key == NULL || g_ascii_strcasecmp (entry->name, wanted_key) == 0))
        return entry;
      if (!step->wrap && entry->fingerprint != NULL
          && CRYPTO_memcmp (entry->prefix, step->prefix, sizeof entry->prefix) == 0)
        return entry;
    }
  for (guint i = 0; !step->wrap && i < roster->former->len; i++)
    {
      KwRosterEntry *entry = g_ptr_array_index (roster->former, i);

      if (entry->fingerprint != NULL
          && CRYPTO_memcmp (entry->prefix, step->prefix, sizeof entry->prefix) == 0)
        return entry;
    }
  return NULL;
}

/**
 * kw_roster_entry_get_holders:
 * @entry: an entry
 * @wrap: to encrypt
 *
 * Returns: (transfer none) (element-type KwDevice): the devices that can do that with the key. Any thread.
 */
GPtrArray *
kw_roster_entry_get_holders (const KwRosterEntry *entry, gboolean wrap)
{
  return wrap ? entry->devices : entry->readers;
}

/**
 * kw_roster_knows_all_entries:
 * @roster: a roster
 *
 * Returns: %FALSE when a key that is not known now may turn out to be one of `hsm_keyid` as devices come. Any thread.
 */
gboolean
kw_roster_knows_all_entries (const KwRoster *roster)
{
  for (guint i = 0; i < roster->aes->len; i++)
    {
      const KwRosterEntry *entry = g_ptr_array_index (roster->aes, i);

      if (entry->fingerprint == NULL)
        return FALSE;
    }
  return TRUE;
}
