/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-keyring"

#include "config.h"

#include "kw-keyring.h"

#include "kw-error.h"
#include "kw-names.h"
#include "kw-state-file.h"

/*
 * Which key stands behind an id. The fingerprint of each key is recorded in the state directory when the key is first
 * seen; a token that later shows another key under the same id is not used for it until the administrator accepts that.
 *
 * Any thread; calls that change the record block on the disk.
 */
struct _KwKeyring
{
  GObject parent_instance;

  char *state_directory; /* owned */
  GMutex lock;
  GHashTable *fingerprints; /* owned; name of the key → fingerprint; guarded by lock */
};

G_DEFINE_FINAL_TYPE (KwKeyring, kw_keyring, G_TYPE_OBJECT)

#define GROUP_KEYS "keys"

/* "rsa 6ba7b810-…" or "rsa 01ff" for ids that are no UUIDs. */
static char *
key_name (const KwKey *key)
{
  GString *name = g_string_new (kw_key_kind_to_string (kw_key_get_kind (key)));
  gsize size = 0;
  const guint8 *id = g_bytes_get_data (kw_key_get_id (key), &size);

  g_string_append_c (name, '-');
  if (kw_key_get_uuid (key) != NULL)
    g_string_append (name, kw_key_get_uuid (key));
  else
    {
      for (gsize i = 0; i < size; i++)
        g_string_append_printf (name, "%02x", id[i]);
    }
  return g_string_free (name, FALSE);
}

static GHashTable *
table_from_contents (GKeyFile *contents)
{
  GHashTable *table = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  g_auto (GStrv) names = g_key_file_get_keys (contents, GROUP_KEYS, NULL, NULL);

  for (guint i = 0; names != NULL && names[i] != NULL; i++)
    g_hash_table_insert (table, g_strdup (names[i]),
                         g_key_file_get_string (contents, GROUP_KEYS, names[i], NULL));
  return table;
}

static gboolean
tables_are_equal (GHashTable *a, GHashTable *b)
{
  GHashTableIter iter;
  gpointer name = NULL;
  gpointer fingerprint = NULL;

  if (g_hash_table_size (a) != g_hash_table_size (b))
    return FALSE;
  g_hash_table_iter_init (&iter, a);
  while (g_hash_table_iter_next (&iter, &name, &fingerprint))
    {
      if (g_strcmp0 (g_hash_table_lookup (b, name), fingerprint) != 0)
        return FALSE;
    }
  return TRUE;
}

typedef struct
{
  GPtrArray *keys; /* borrowed; of KwKey */
  GHashTable *
      different; /* borrowed; name of a key → the fingerprint that another process recorded meanwhile */
} RecordStep;

static gboolean
record_new_keys (GKeyFile *contents,
                 gboolean *out_changed,
                 gpointer user_data,
                 GError **error G_GNUC_UNUSED)
{
  RecordStep *step = user_data;
  GPtrArray *keys = step->keys;

  if (!g_key_file_has_group (contents, GROUP_KEYS))
    g_key_file_set_comment (contents, NULL, NULL,
                            " Fingerprint of each key as it was when first seen.", NULL);
  for (guint i = 0; i < keys->len; i++)
    {
      KwKey *key = g_ptr_array_index (keys, i);
      g_autofree char *name = key_name (key);
      g_autofree char *recorded = g_key_file_get_string (contents, GROUP_KEYS, name, NULL);

      if (recorded != NULL && !g_str_equal (recorded, kw_key_get_fingerprint (key)))
        g_hash_table_insert (step->different, g_steal_pointer (&name), g_strdup (recorded));
      if (recorded != NULL)
        continue;
      g_key_file_set_string (contents, GROUP_KEYS, name, kw_key_get_fingerprint (key));
      *out_changed = TRUE;
    }
  return TRUE;
}

static void
kw_keyring_finalize (GObject *object)
{
  KwKeyring *self = KW_KEYRING (object);

  g_free (self->state_directory);
  g_hash_table_unref (self->fingerprints);
  g_mutex_clear (&self->lock);
  G_OBJECT_CLASS (kw_keyring_parent_class)->finalize (object);
}

static void
kw_keyring_class_init (KwKeyringClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_keyring_finalize;
}

static void
kw_keyring_init (KwKeyring *self)
{
  g_mutex_init (&self->lock);
  self->fingerprints = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
}

/**
 * kw_keyring_new:
 * @state_directory: where fingerprints are recorded
 *
 * Returns: (transfer full): an empty keyring; kw_keyring_load() reads the record
 */
KwKeyring *
kw_keyring_new (const char *state_directory)
{
  KwKeyring *self = g_object_new (KW_TYPE_KEYRING, NULL);

  self->state_directory = g_strdup (state_directory);
  return self;
}

/**
 * kw_keyring_load:
 * @self: the keyring
 * @out_changed: (out) (optional): whether it says something else than was known
 * @error: where to store the error
 *
 * Reads the record, at start and when the file was replaced, which our own changes do too. Any thread; blocks on the disk.
 *
 * Returns: %FALSE with %KW_ERROR_FAILED or %KW_ERROR_PERMISSION; what was known before stays
 */
gboolean
kw_keyring_load (KwKeyring *self, gboolean *out_changed, GError **error)
{
  g_autoptr (GKeyFile) contents = NULL;
  GHashTable *fresh = NULL;
  g_autoptr (GMutexLocker) locker = NULL;

  g_return_val_if_fail (KW_IS_KEYRING (self), FALSE);

  contents = kw_state_file_read (self->state_directory, KW_STATE_FILE_KEYS, error);
  if (contents == NULL)
    return FALSE;
  locker = g_mutex_locker_new (&self->lock);
  fresh = table_from_contents (contents);
  if (out_changed != NULL)
    *out_changed = !tables_are_equal (fresh, self->fingerprints);
  g_hash_table_unref (self->fingerprints);
  self->fingerprints = fresh;
  return TRUE;
}

/* Another process was first: what it recorded stands, and our keys are not the recorded ones. */
static void
take_back (KwKeyring *self, GHashTable *recorded, GPtrArray *admitted, GPtrArray *different)
{
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->lock);

  for (guint i = admitted->len; i > 0; i--)
    {
      KwKey *key = g_ptr_array_index (admitted, i - 1);
      g_autofree char *name = key_name (key);
      const char *fingerprint = g_hash_table_lookup (recorded, name);

      if (fingerprint == NULL)
        continue;
      g_hash_table_insert (self->fingerprints, g_steal_pointer (&name), g_strdup (fingerprint));
      g_ptr_array_add (different, kw_key_ref (key));
      g_ptr_array_remove_index (admitted, i - 1);
    }
}

/**
 * kw_keyring_admit:
 * @self: the keyring
 * @keys: (element-type KwKey): keys that a token shows
 * @out_different: (out) (transfer full) (element-type KwKey): those that are not the key recorded under their id
 * @error: where to store the error
 *
 * Compares keys with the record and records those seen for the first time. Keys without a fingerprint are left out. Any
 * thread; blocks on the disk when something is new.
 *
 * Returns: (transfer full) (element-type KwKey): the keys that may be used; %NULL with an error when the record cannot be
 *   written, so that no key is used whose fingerprint would not be known next time
 */
GPtrArray *
kw_keyring_admit (KwKeyring *self, GPtrArray *keys, GPtrArray **out_different, GError **error)
{
  g_autoptr (GPtrArray) admitted = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  g_autoptr (GPtrArray) different = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  g_autoptr (GPtrArray) fresh = g_ptr_array_new ();
  g_autoptr (GHashTable) recorded_meanwhile
      = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  RecordStep step = { fresh, recorded_meanwhile };

  g_return_val_if_fail (KW_IS_KEYRING (self), NULL);

  g_mutex_lock (&self->lock);
  for (guint i = 0; i < keys->len; i++)
    {
      KwKey *key = g_ptr_array_index (keys, i);
      g_autofree char *name = key_name (key);
      const char *recorded = g_hash_table_lookup (self->fingerprints, name);

      if (kw_key_get_fingerprint (key) == NULL)
        continue;
      if (recorded != NULL && !g_str_equal (recorded, kw_key_get_fingerprint (key)))
        {
          g_ptr_array_add (different, kw_key_ref (key));
          continue;
        }
      if (recorded == NULL)
        {
          g_hash_table_insert (self->fingerprints, g_steal_pointer (&name),
                               g_strdup (kw_key_get_fingerprint (key)));
          g_ptr_array_add (fresh, key);
        }
      g_ptr_array_add (admitted, kw_key_ref (key));
    }
  g_mutex_unlock (&self->lock);
  if (fresh->len > 0
      && !kw_state_file_update (self->state_directory, KW_STATE_FILE_KEYS, record_new_keys, &step,
                                error))
    {
      g_mutex_lock (&self->lock);
      for (guint i = 0; i < fresh->len; i++)
        {
          g_autofree char *name = key_name (g_ptr_array_index (fresh, i));

          g_hash_table_remove (self->fingerprints, name);
        }
      g_mutex_unlock (&self->lock);
      return NULL;
    }
  take_back (self, recorded_meanwhile, admitted, different);
  *out_different = g_steal_pointer (&different);
  return g_steal_pointer (&admitted);
}

typedef struct
{
  GBytes *key_id;
  gboolean known;
} ForgetStep;

static gboolean
forget_key (GKeyFile *contents,
            gboolean *out_changed,
            gpointer user_data,
            GError **error G_GNUC_UNUSED)
{
  ForgetStep *step = user_data;

  for (guint kind = 0; kind < KW_N_KEY_KINDS; kind++)
    {
      g_autoptr (KwKey) key = kw_key_new ((KwKeyKind) kind, 0, step->key_id, NULL, NULL);
      g_autofree char *name = key_name (key);

      if (g_key_file_remove_key (contents, GROUP_KEYS, name, NULL))
        step->known = TRUE;
    }
  *out_changed = step->known;
  return TRUE;
}

/**
 * kw_keyring_forget:
 * @self: the keyring
 * @key_id: CKA_ID of a key
 * @out_known: (out): whether a fingerprint was recorded
 * @error: where to store the error
 *
 * Drops the recorded fingerprint, so that the key which is there now is recorded when it is seen next. An act of the
 * administrator, never of the daemon. Any thread; blocks on the disk.
 *
 * Returns: %TRUE on success
 */
gboolean
kw_keyring_forget (KwKeyring *self, GBytes *key_id, gboolean *out_known, GError **error)
{
  ForgetStep step = { key_id, FALSE };

  g_return_val_if_fail (KW_IS_KEYRING (self), FALSE);

  if (!kw_state_file_update (self->state_directory, KW_STATE_FILE_KEYS, forget_key, &step, error))
    return FALSE;
  *out_known = step.known;
  return TRUE;
}
