/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-keyring"

#include "config.h"

#include "kw-keyring.h"

#include "kw-error.h"
#include "kw-fingerprint.h"
#include "kw-key-matrix-private.h"
#include "kw-limits.h"
#include "kw-log.h"
#include "kw-names.h"
#include "kw-state-file.h"

#include <string.h>

/*
 * Which key stands behind an id. The fingerprint of each key is recorded in the state directory when the key is first
 * seen; a token that later shows another key under the same id is not used for it until the administrator accepts that.
 *
 * A key with a public half is recorded under its own id, by the first device that shows it. An AES key of `hsm_keyid` is
 * recorded under the entry it stands there with, since that is what callers and devices have in common; and only once all
 * devices have been looked at and those that have it agree, so that one wrong device that is early decides nothing.
 *
 * The matrix, which says how each key is on each device, is made in the main context and may be read by any thread. So may
 * the record; calls that change that block on the disk.
 */
struct _KwKeyring
{
  GObject parent_instance;

  char *state_directory; /* owned */
  gboolean encrypts;     /* main context */
  guint min_copies;      /* main context */
  gboolean recording;    /* main context: fingerprints are being written */

  GMutex lock;
  GPtrArray *selectors;     /* owned; of KwKeySelector; replaced, never changed; guarded by lock */
  GHashTable *fingerprints; /* owned; name of the key → fingerprint; guarded by lock */
  GHashTable *configured;   /* owned; entry of hsm_keyid → fingerprint; guarded by lock */
  GHashTable *former; /* owned; entry of hsm_keyid → fingerprints it had before; guarded by lock */
  GPtrArray *held; /* owned; of GBytes: CKA_IDs of keys that nobody may use yet; guarded by lock */
  KwKeyMatrix *matrix; /* owned; replaced, never changed; guarded by lock */
};

enum
{
  SIGNAL_CHANGED,
  SIGNAL_RECORDED,
  SIGNAL_NOT_RECORDED,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

G_DEFINE_FINAL_TYPE (KwKeyring, kw_keyring, G_TYPE_OBJECT)

#define GROUP_KEYS "keys"
#define GROUP_CONFIGURED "hsm_keyid"
#define GROUP_FORMER "hsm_keyid before" /* fingerprints that were accepted before, for decrypting */
#define FORMER_SEPARATOR " "
#define FILE_COMMENT " Fingerprint of each key as it was when first seen."
#define SHOWN_DIGITS 16 /* of a fingerprint, in sentences */

/* The UUID, or hex for ids that are none. */
static char *
id_text (const KwKey *key)
{
  GString *text = NULL;
  gsize size = 0;
  const guint8 *id = g_bytes_get_data (kw_key_get_id (key), &size);

  if (kw_key_get_uuid (key) != NULL)
    return g_strdup (kw_key_get_uuid (key));
  text = g_string_sized_new (2 * size);
  for (gsize i = 0; i < size; i++)
    g_string_append_printf (text, "%02x", id[i]);
  return g_string_free (text, FALSE);
}

/* "rsa-6ba7b810-…" or "rsa-01ff". */
static char *
key_name (const KwKey *key)
{
  g_autofree char *id = id_text (key);

  return g_strconcat (kw_key_kind_to_string (kw_key_get_kind (key)), "-", id, NULL);
}

/* A label may have characters that a name in a state file cannot have. */
static char *
configured_name (const char *id)
{
  return g_uri_escape_string (id, ":", FALSE);
}

static GHashTable *
table_new (void)
{
  return g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
}

static GHashTable *
table_from_contents (GKeyFile *contents, const char *group)
{
  GHashTable *table = table_new ();
  g_auto (GStrv) names = g_key_file_get_keys (contents, group, NULL, NULL);

  for (guint i = 0; names != NULL && names[i] != NULL; i++)
    {
      char *value = g_key_file_get_string (contents, group, names[i], NULL);

      if (value != NULL)
        g_hash_table_insert (table, g_strdup (names[i]), value);
    }
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

static void
ensure_comment (GKeyFile *contents)
{
  if (!g_key_file_has_group (contents, GROUP_KEYS)
      && !g_key_file_has_group (contents, GROUP_CONFIGURED))
    g_key_file_set_comment (contents, NULL, NULL, FILE_COMMENT, NULL);
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

  ensure_comment (contents);
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

/* Fingerprints of configured keys on their way to the disk, in a thread of their own. */
typedef struct
{
  GHashTable *fresh;    /* owned; name → fingerprint */
  GHashTable *recorded; /* owned; name → what stands in the file afterwards */
} ConfiguredStep;

static void
configured_step_free (gpointer data)
{
  ConfiguredStep *step = data;

  g_hash_table_unref (step->fresh);
  g_hash_table_unref (step->recorded);
  g_free (step);
}

/* What another process recorded meanwhile stands. */
static gboolean
record_configured (GKeyFile *contents,
                   gboolean *out_changed,
                   gpointer user_data,
                   GError **error G_GNUC_UNUSED)
{
  ConfiguredStep *step = user_data;
  GHashTableIter iter;
  gpointer name = NULL;
  gpointer fingerprint = NULL;

  ensure_comment (contents);
  g_hash_table_iter_init (&iter, step->fresh);
  while (g_hash_table_iter_next (&iter, &name, &fingerprint))
    {
      g_autofree char *before = g_key_file_get_string (contents, GROUP_CONFIGURED, name, NULL);

      g_hash_table_insert (step->recorded, g_strdup (name),
                           g_strdup (before != NULL ? before : fingerprint));
      if (before != NULL)
        continue;
      g_key_file_set_string (contents, GROUP_CONFIGURED, name, fingerprint);
      *out_changed = TRUE;
    }
  return TRUE;
}

static void
record_thread (GTask *task,
               gpointer source_object,
               gpointer task_data,
               GCancellable *cancellable G_GNUC_UNUSED)
{
  KwKeyring *self = KW_KEYRING (source_object);
  g_autoptr (GError) error = NULL;

  if (kw_state_file_update (self->state_directory, KW_STATE_FILE_KEYS, record_configured, task_data,
                            &error))
    g_task_return_boolean (task, TRUE);
  else
    g_task_return_error (task, g_steal_pointer (&error));
}

static void
on_recorded (GObject *source_object, GAsyncResult *result, gpointer user_data G_GNUC_UNUSED)
{
  KwKeyring *self = KW_KEYRING (source_object);
  ConfiguredStep *step = g_task_get_task_data (G_TASK (result));
  g_autoptr (GError) error = NULL;
  GHashTableIter iter;
  gpointer name = NULL;
  gpointer fingerprint = NULL;

  self->recording = FALSE;
  if (!g_task_propagate_boolean (G_TASK (result), &error))
    {
      kw_log (G_LOG_LEVEL_CRITICAL, "Fingerprints cannot be recorded, so new keys are not used",
              "error", error->message, NULL);
      g_signal_emit (self, signals[SIGNAL_NOT_RECORDED], 0);
      return;
    }
  g_mutex_lock (&self->lock);
  g_hash_table_iter_init (&iter, step->recorded);
  while (g_hash_table_iter_next (&iter, &name, &fingerprint))
    g_hash_table_insert (self->configured, g_strdup (name), g_strdup (fingerprint));
  g_mutex_unlock (&self->lock);
  g_signal_emit (self, signals[SIGNAL_RECORDED], 0);
}

static void
start_recording (KwKeyring *self, GHashTable *fresh)
{
  ConfiguredStep *step = NULL;
  g_autoptr (GTask) task = NULL;

  if (self->recording || g_hash_table_size (fresh) == 0)
    return;
  self->recording = TRUE;
  step = g_new0 (ConfiguredStep, 1);
  step->fresh = g_hash_table_ref (fresh);
  step->recorded = table_new ();
  task = g_task_new (self, NULL, on_recorded, NULL);
  g_task_set_task_data (task, step, configured_step_free);
  g_task_run_in_thread (task, record_thread);
}

/* A judgement on its way. */
typedef struct
{
  KwKeyring *keyring;
  const KwKeyringDevice *devices;
  guint n_devices;
  KwKeyMatrix *matrix;
  GHashTable *fresh; /* owned; keys to be recorded: name → fingerprint */
  gboolean waiting;  /* there is a key that can be recorded only when all devices have settled */
} Judgement;

/**
 * kw_keyring_dup_recorded:
 * @self: the keyring
 * @id: an entry of `hsm_keyid`, in the spelling of kw_key_selector_get_text()
 *
 * Returns: (transfer full) (nullable): the recorded fingerprint, %NULL while there is none. Any thread.
 */
char *
kw_keyring_dup_recorded (KwKeyring *self, const char *id)
{
  g_autofree char *name = configured_name (id);
  char *recorded = NULL;

  g_mutex_lock (&self->lock);
  recorded = g_strdup (g_hash_table_lookup (self->configured, name));
  g_mutex_unlock (&self->lock);
  return recorded;
}

static gboolean
key_can_do_both (const KwKey *key)
{
  const guint both = KW_KEY_USAGE_ENCRYPT | KW_KEY_USAGE_DECRYPT;

  return (kw_key_get_usage (key) & both) == both;
}

/* How one configured key is on one device, apart from what the record says. */
static void
look_at_device (const KwKeySelector *selector, const KwKeyringDevice *device, KwMatrixCell *cell)
{
  g_autoptr (GError) error = NULL;
  KwKey *key = NULL;

  if (!device->checked)
    return;
  key = kw_key_selector_find (selector, device->keys, &error);
  if (key == NULL)
    {
      cell->state = g_error_matches (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND)
                        ? KW_KEY_STATE_MISSING
                        : KW_KEY_STATE_UNCHECKED;
      cell->advice = g_strdup (error->message);
      return;
    }
  cell->key = kw_key_ref (key);
  if (!key_can_do_both (key))
    cell->advice = g_strdup ("The key may not both encrypt and decrypt by CBC; make one that may");
}

/* What the devices that have been looked at say the key is: NULL when none says anything or when they disagree. */
static const char *
find_consensus (const Judgement *judgement, guint row, gboolean *out_disagree)
{
  const char *consensus = NULL;

  *out_disagree = FALSE;
  for (guint i = 0; i < judgement->n_devices; i++)
    {
      const KwMatrixCell *cell = kw_key_matrix_get_cell (judgement->matrix, row, i);
      const char *fingerprint = cell->key != NULL ? kw_key_get_fingerprint (cell->key) : NULL;

      if (fingerprint == NULL)
        continue;
      if (consensus != NULL && !g_str_equal (consensus, fingerprint))
        {
          *out_disagree = TRUE;
          return NULL;
        }
      consensus = fingerprint;
    }
  return consensus;
}

static gboolean
all_settled (const Judgement *judgement)
{
  for (guint i = 0; i < judgement->n_devices; i++)
    {
      if (!judgement->devices[i].settled)
        return FALSE;
    }
  return TRUE;
}

static char *
describe_disagreement (const Judgement *judgement, guint row, const char *id)
{
  g_autoptr (GString) text = g_string_new (NULL);

  for (guint i = 0; i < judgement->n_devices; i++)
    {
      const KwMatrixCell *cell = kw_key_matrix_get_cell (judgement->matrix, row, i);

      if (cell->key != NULL && kw_key_get_fingerprint (cell->key) != NULL)
        g_string_append_printf (text, "%s%s has %s", text->len > 0 ? ", " : "",
                                judgement->devices[i].name, kw_key_get_fingerprint (cell->key));
    }
  return g_strdup_printf (
      "The devices have different keys as key %s: %s; it is not used. Unplug what is wrong, or run: "
      "keyward keys accept %s --fingerprint HEX",
      id, text->str, id);
}

/* With nothing on record: what all agree on is recorded, once all had their say. */
static void
judge_unrecorded (Judgement *judgement, guint row, KwKeyFacts *facts)
{
  gboolean disagree = FALSE;
  const char *consensus = find_consensus (judgement, row, &disagree);

  if (disagree)
    {
      facts->advice = describe_disagreement (judgement, row, facts->id);
      for (guint i = 0; i < judgement->n_devices; i++)
        {
          KwMatrixCell *cell = kw_key_matrix_edit_cell (judgement->matrix, row, i);

          if (cell->key != NULL && kw_key_get_fingerprint (cell->key) != NULL)
            cell->state = KW_KEY_STATE_DIFFERENT;
        }
      return;
    }
  if (consensus == NULL)
    return;
  if (all_settled (judgement))
    g_hash_table_insert (judgement->fresh, configured_name (facts->id), g_strdup (consensus));
  else
    judgement->waiting = TRUE;
}

static gint
compare_places (gconstpointer a, gconstpointer b)
{
  return kw_key_compare_places (*(const KwKey *const *) a, *(const KwKey *const *) b);
}

/* Where the recorded key is among the AES keys of a device. */
static KwKey *
find_by_fingerprint (GPtrArray *keys, const char *fingerprint, guint *out_place)
{
  g_autoptr (GPtrArray) sorted = g_ptr_array_new ();

  for (guint i = 0; i < keys->len; i++)
    {
      if (kw_key_get_kind (g_ptr_array_index (keys, i)) == KW_KEY_KIND_AES)
        g_ptr_array_add (sorted, g_ptr_array_index (keys, i));
    }
  g_ptr_array_sort (sorted, compare_places);
  for (guint i = 0; i < sorted->len; i++)
    {
      KwKey *key = g_ptr_array_index (sorted, i);

      if (g_strcmp0 (kw_key_get_fingerprint (key), fingerprint) != 0)
        continue;
      *out_place = i;
      return key;
    }
  return NULL;
}

/*
 * The recorded key is on the device, but not where it is configured to be: another one came before it, or one before it went.
 * What was encrypted under it can still be decrypted. To accept another key would be the wrong thing to do.
 */
static gboolean
judge_misplaced (KwMatrixCell *cell, const KwKeyFacts *facts, const KwKeyringDevice *device)
{
  const char *there = cell->key != NULL ? kw_key_get_fingerprint (cell->key) : NULL;
  guint place = 0;
  KwKey *recorded = NULL;
  g_autofree char *other = NULL;

  /* Several that fit, or one that cannot be proven, have their own advice. */
  if (!device->checked || g_strcmp0 (there, facts->fingerprint) == 0
      || (there == NULL && cell->state != KW_KEY_STATE_MISSING))
    return FALSE;
  recorded = find_by_fingerprint (device->keys, facts->fingerprint, &place);
  if (recorded == NULL)
    return FALSE;
  other = there != NULL
              ? g_strdup_printf ("key %s is another one (%.*s) now", facts->id, SHOWN_DIGITS, there)
              : g_strdup_printf ("key %s is not where hsm_keyid says", facts->id);
  g_free (cell->advice);
  cell->state = there != NULL ? KW_KEY_STATE_DIFFERENT : KW_KEY_STATE_MISSING;
  cell->advice = g_strdup_printf (
      "On device %s %s. The recorded key is at place %u now: \"%s\" (%.*s). It decrypts, and does not encrypt; make "
      "the AES keys of this device the same as before, or set hsm_keyid to where the key is now on all devices",
      device->name, other, place, kw_key_get_label (recorded), SHOWN_DIGITS, facts->fingerprint);
  return TRUE;
}

/* A device that was not there when the administrator accepted another key needs that one; it is no reason to go back. */
static char *
describe_difference (KwKeyring *self,
                     const KwKeyFacts *facts,
                     const char *fingerprint,
                     const char *device)
{
  g_auto (GStrv) former = kw_keyring_dup_former (self, facts->id);

  if (g_strv_contains ((const char *const *) former, fingerprint))
    return g_strdup_printf (
        "On device %s key %s is the one that was recorded before (%.*s); it decrypts, and does not encrypt. Clone the key that "
        "is recorded now (%.*s) to there",
        device, facts->id, SHOWN_DIGITS, fingerprint, SHOWN_DIGITS, facts->fingerprint);
  return g_strdup_printf (
      "On device %s key %s is another one (%.*s) than recorded (%.*s) and is not used; put the right key there, or "
      "run: keyward keys accept %s",
      device, facts->id, SHOWN_DIGITS, fingerprint, SHOWN_DIGITS, facts->fingerprint, facts->id);
}

static void
judge_cell (KwKeyring *self, KwMatrixCell *cell, const KwKeyFacts *facts, const char *device)
{
  const char *fingerprint = cell->key != NULL ? kw_key_get_fingerprint (cell->key) : NULL;

  if (fingerprint == NULL)
    return;
  if (!g_str_equal (fingerprint, facts->fingerprint))
    {
      g_free (cell->advice);
      cell->state = KW_KEY_STATE_DIFFERENT;
      cell->advice = describe_difference (self, facts, fingerprint, device);
      return;
    }
  if (!key_can_do_both (cell->key))
    return;
  cell->state = KW_KEY_STATE_OK;
  if (!kw_key_is_weak (cell->key))
    return;
  cell->state = KW_KEY_STATE_WEAK;
  cell->advice = g_strdup (kw_key_get_weakness (cell->key));
}

/* How serious a state is for the key as a whole. */
static guint
severity (KwKeyState state)
{
  static const guint severities[] = {
    [KW_KEY_STATE_OK] = 0,   [KW_KEY_STATE_UNCHECKED] = 1, [KW_KEY_STATE_MISSING] = 2,
    [KW_KEY_STATE_WEAK] = 3, [KW_KEY_STATE_DIFFERENT] = 4,
  };

  G_STATIC_ASSERT (G_N_ELEMENTS (severities) == KW_N_KEY_STATES);
  return severities[state];
}

/* The most serious cell of a row gives its state, and its advice where there is none yet. */
static void
sum_up_row (const Judgement *judgement, guint row, KwKeyFacts *facts)
{
  const KwMatrixCell *worst = NULL;
  guint n_checked = 0;

  for (guint i = 0; i < judgement->n_devices; i++)
    {
      const KwMatrixCell *cell = kw_key_matrix_get_cell (judgement->matrix, row, i);
      gboolean usable = cell->state == KW_KEY_STATE_OK || cell->state == KW_KEY_STATE_WEAK;

      if (cell->key != NULL && facts->label[0] == '\0')
        {
          g_free (facts->label);
          facts->label = g_strdup (kw_key_get_label (cell->key));
        }
      if (usable && judgement->devices[i].ready)
        facts->n_copies++;
      if (!judgement->devices[i].checked)
        continue;
      n_checked++;
      if (worst == NULL || severity (cell->state) > severity (worst->state))
        worst = cell;
    }
  facts->state = worst != NULL ? worst->state : KW_KEY_STATE_UNCHECKED;
  if (facts->advice != NULL)
    return;
  if (n_checked == 0)
    facts->advice = g_strdup ("No device is there that could have it");
  else if (worst != NULL && worst->state != KW_KEY_STATE_OK)
    facts->advice = g_strdup (worst->advice);
}

static void
advise_missing (const Judgement *judgement, guint row, KwKeyFacts *facts)
{
  for (guint i = 0; facts->state == KW_KEY_STATE_MISSING && i < judgement->n_devices; i++)
    {
      const KwMatrixCell *cell = kw_key_matrix_get_cell (judgement->matrix, row, i);
      guint place = 0;

      if (cell->state != KW_KEY_STATE_MISSING)
        continue;
      /* It is there after all, and the advice says where. */
      if (facts->fingerprint != NULL && judgement->devices[i].checked
          && find_by_fingerprint (judgement->devices[i].keys, facts->fingerprint, &place) != NULL)
        return;
      g_free (facts->advice);
      facts->advice
          = facts->n_copies > 0
                ? g_strdup_printf ("Key %s is missing on device %s; clone it to there", facts->id,
                                   judgement->devices[i].name)
                : g_strdup_printf (
                    "Key %s is on no device; make it, or plug in a device that has it", facts->id);
      return;
    }
}

/* Whether a ready device has the key in a form that is weak: a job to encrypt could come to it. */
static gboolean
is_weak_somewhere (const Judgement *judgement, guint row)
{
  for (guint i = 0; i < judgement->n_devices; i++)
    {
      if (judgement->devices[i].ready
          && kw_key_matrix_edit_cell (judgement->matrix, row, i)->state == KW_KEY_STATE_WEAK)
        return TRUE;
    }
  return FALSE;
}

/* Whether nothing would stand in the way of encrypting with a key, be it the first or not. */
static gboolean
can_encrypt (const Judgement *judgement, guint row, const KwKeyFacts *facts)
{
  const KwKeyring *self = judgement->keyring;

  return facts->fingerprint != NULL && facts->state != KW_KEY_STATE_WEAK && self->encrypts
         && facts->n_copies >= self->min_copies && facts->n_copies > 0
         && !is_weak_somewhere (judgement, row);
}

/* Whether the first key may be used for what is new. */
static void
judge_encryption (const Judgement *judgement, guint row, KwKeyFacts *facts)
{
  KwKeyring *self = judgement->keyring;

  facts->can_encrypt = can_encrypt (judgement, row, facts);
  if (!facts->is_first || facts->fingerprint == NULL)
    return;
  if (facts->state == KW_KEY_STATE_WEAK)
    {
      g_autofree char *weakness = g_steal_pointer (&facts->advice);

      facts->advice = g_strdup_printf (
          "Key %s is weak and may only decrypt: %s; make a new key and put it first in hsm_keyid",
          facts->id, weakness);
      return;
    }
  if (facts->n_copies < self->min_copies && facts->n_copies > 0)
    {
      g_free (facts->advice);
      if (facts->n_copies == 1)
        facts->advice = g_strdup_printf (
            "Key %s is on 1 ready device, and min_copies is %u: nothing is encrypted until more "
            "devices have it",
            facts->id, self->min_copies);
      else
        facts->advice = g_strdup_printf (
            "Key %s is on %u ready devices, and min_copies is %u: nothing is encrypted until more "
            "devices have it",
            facts->id, facts->n_copies, self->min_copies);
    }
  facts->may_encrypt = facts->can_encrypt;
}

static void
judge_configured (Judgement *judgement, guint row, const KwKeySelector *selector)
{
  const char *id = kw_key_selector_get_text (selector);
  KwKeyFacts *facts = kw_key_matrix_add_key (judgement->matrix, id, KW_KEY_KIND_AES);

  facts->configured = TRUE;
  facts->is_first = row == 0;
  facts->fingerprint = kw_keyring_dup_recorded (judgement->keyring, id);
  for (guint i = 0; i < judgement->n_devices; i++)
    {
      KwMatrixCell *cell = kw_key_matrix_edit_cell (judgement->matrix, row, i);

      look_at_device (selector, &judgement->devices[i], cell);
      if (facts->fingerprint != NULL && !judge_misplaced (cell, facts, &judgement->devices[i]))
        judge_cell (judgement->keyring, cell, facts, judgement->devices[i].name);
    }
  if (facts->fingerprint == NULL)
    judge_unrecorded (judgement, row, facts);
  sum_up_row (judgement, row, facts);
  advise_missing (judgement, row, facts);
  judge_encryption (judgement, row, facts);
}

/* The RSA keys of a list by their CKA_IDs: there may be thousands, on each device. */
static GHashTable *
index_rsa_keys (GPtrArray *keys)
{
  GHashTable *index = g_hash_table_new (g_bytes_hash, g_bytes_equal);

  for (guint i = 0; keys != NULL && i < keys->len; i++)
    {
      KwKey *key = g_ptr_array_index (keys, i);

      if (kw_key_get_kind (key) == KW_KEY_KIND_RSA)
        g_hash_table_insert (index, kw_key_get_id (key), key);
    }
  return index;
}

/* RSA keys by their names: all that some device shows. */
static GHashTable *
collect_rsa_keys (const Judgement *judgement)
{
  GHashTable *keys = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);

  for (guint i = 0; i < judgement->n_devices; i++)
    {
      GPtrArray *lists[] = { judgement->devices[i].keys, judgement->devices[i].different };

      for (guint j = 0; j < G_N_ELEMENTS (lists); j++)
        {
          for (guint k = 0; lists[j] != NULL && k < lists[j]->len; k++)
            {
              KwKey *key = g_ptr_array_index (lists[j], k);

              if (kw_key_get_kind (key) == KW_KEY_KIND_RSA)
                g_hash_table_insert (keys, id_text (key), key);
            }
        }
    }
  return keys;
}

static gint
compare_names (gconstpointer a, gconstpointer b)
{
  return g_strcmp0 (a, b);
}

static void
judge_rsa (Judgement *judgement,
           const char *id,
           const KwKey *sample,
           GPtrArray *good_keys,
           GPtrArray *bad_keys)
{
  guint row = kw_key_matrix_get_n_keys (judgement->matrix);
  KwKeyFacts *facts = kw_key_matrix_add_key (judgement->matrix, id, KW_KEY_KIND_RSA);
  g_autofree char *name = key_name (sample);

  g_mutex_lock (&judgement->keyring->lock);
  facts->fingerprint = g_strdup (g_hash_table_lookup (judgement->keyring->fingerprints, name));
  g_mutex_unlock (&judgement->keyring->lock);
  for (guint i = 0; i < judgement->n_devices; i++)
    {
      const KwKeyringDevice *device = &judgement->devices[i];
      KwMatrixCell *cell = kw_key_matrix_edit_cell (judgement->matrix, row, i);
      KwKey *good = g_hash_table_lookup (g_ptr_array_index (good_keys, i), kw_key_get_id (sample));
      KwKey *bad = g_hash_table_lookup (g_ptr_array_index (bad_keys, i), kw_key_get_id (sample));

      if (!device->checked)
        continue;
      cell->state = good != NULL  ? KW_KEY_STATE_OK
                    : bad != NULL ? KW_KEY_STATE_DIFFERENT
                                  : KW_KEY_STATE_MISSING;
      if (good != NULL || bad != NULL)
        cell->key = kw_key_ref (good != NULL ? good : bad);
      if (good == NULL && bad != NULL)
        cell->advice = g_strdup_printf (
            "On device %s key %s is another one than recorded and is not used; put the right key there, or run: keyward "
            "keys accept %s",
            device->name, id, id);
    }
  sum_up_row (judgement, row, facts);
  advise_missing (judgement, row, facts);
}

static void
judge_all_rsa (Judgement *judgement)
{
  g_autoptr (GHashTable) keys = collect_rsa_keys (judgement);
  g_autoptr (GList) names = g_list_sort (g_hash_table_get_keys (keys), compare_names);
  g_autoptr (GPtrArray) good_keys
      = g_ptr_array_new_with_free_func ((GDestroyNotify) g_hash_table_unref);
  g_autoptr (GPtrArray) bad_keys
      = g_ptr_array_new_with_free_func ((GDestroyNotify) g_hash_table_unref);

  for (guint i = 0; i < judgement->n_devices; i++)
    {
      g_ptr_array_add (good_keys, index_rsa_keys (judgement->devices[i].keys));
      g_ptr_array_add (bad_keys, index_rsa_keys (judgement->devices[i].different));
    }
  for (GList *link = names; link != NULL; link = link->next)
    judge_rsa (judgement, link->data, g_hash_table_lookup (keys, link->data), good_keys, bad_keys);
}

static void
log_changes (const KwKeyMatrix *before, const KwKeyMatrix *after)
{
  for (guint i = 0; i < kw_key_matrix_get_n_keys (after); i++)
    {
      const KwKeyFacts *facts = kw_key_matrix_get_key (after, i);
      const KwKeyFacts *old = NULL;
      g_autofree char *n_copies = NULL;

      /* The rest are RSA keys, of which devices say themselves what is wrong. */
      if (!facts->configured)
        return;
      old = kw_key_matrix_find_key (before, facts->id);
      n_copies = g_strdup_printf ("%u", facts->n_copies);
      if (old != NULL && old->state == facts->state && old->n_copies == facts->n_copies
          && g_strcmp0 (old->advice, facts->advice) == 0)
        continue;
      kw_log (facts->advice == NULL                    ? G_LOG_LEVEL_INFO
              : facts->state == KW_KEY_STATE_DIFFERENT ? G_LOG_LEVEL_CRITICAL
                                                       : G_LOG_LEVEL_WARNING,
              "Key state", "key", facts->id, "state", kw_key_state_to_string (facts->state),
              "fingerprint", facts->fingerprint, "copies", n_copies, "text", facts->advice, NULL);
    }
}

static void
kw_keyring_finalize (GObject *object)
{
  KwKeyring *self = KW_KEYRING (object);

  g_free (self->state_directory);
  g_ptr_array_unref (self->selectors);
  g_hash_table_unref (self->fingerprints);
  g_hash_table_unref (self->configured);
  g_hash_table_unref (self->former);
  g_ptr_array_unref (self->held);
  kw_key_matrix_unref (self->matrix);
  g_mutex_clear (&self->lock);
  G_OBJECT_CLASS (kw_keyring_parent_class)->finalize (object);
}

static void
kw_keyring_class_init (KwKeyringClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_keyring_finalize;

  /**
   * KwKeyring::changed:
   * @self: the keyring
   *
   * kw_keyring_ref_matrix() gives another matrix than before. Main context.
   */
  signals[SIGNAL_CHANGED] = g_signal_new ("changed", KW_TYPE_KEYRING, G_SIGNAL_RUN_LAST, 0, NULL,
                                          NULL, NULL, G_TYPE_NONE, 0);
  /**
   * KwKeyring::recorded:
   * @self: the keyring
   *
   * Fingerprints were recorded, so that kw_keyring_judge() may come to another result. Main context.
   */
  signals[SIGNAL_RECORDED] = g_signal_new ("recorded", KW_TYPE_KEYRING, G_SIGNAL_RUN_LAST, 0, NULL,
                                           NULL, NULL, G_TYPE_NONE, 0);
  /**
   * KwKeyring::not-recorded:
   * @self: the keyring
   *
   * Fingerprints could not be recorded, so what is new is not used. Main context.
   */
  signals[SIGNAL_NOT_RECORDED] = g_signal_new ("not-recorded", KW_TYPE_KEYRING, G_SIGNAL_RUN_LAST,
                                               0, NULL, NULL, NULL, G_TYPE_NONE, 0);
}

static void
kw_keyring_init (KwKeyring *self)
{
  g_mutex_init (&self->lock);
  self->selectors = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_selector_unref);
  self->min_copies = 1;
  self->fingerprints = table_new ();
  self->configured = table_new ();
  self->former = table_new ();
  self->held = g_ptr_array_new_with_free_func ((GDestroyNotify) g_bytes_unref);
  self->matrix = kw_key_matrix_new ();
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
 * kw_keyring_set_keys:
 * @self: a keyring
 * @selectors: (element-type KwKeySelector): the entries of `hsm_keyid`
 * @encrypts: the first of them may encrypt
 * @min_copies: when it is on so many ready devices
 *
 * Says which AES keys are to be looked after. Later changes show when keys are judged next. Main context.
 */
void
kw_keyring_set_keys (KwKeyring *self, GPtrArray *selectors, gboolean encrypts, guint min_copies)
{
  GPtrArray *fresh = NULL;
  g_autoptr (GPtrArray) old = NULL;

  g_return_if_fail (KW_IS_KEYRING (self) && selectors != NULL);

  fresh = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_selector_unref);
  for (guint i = 0; i < selectors->len; i++)
    g_ptr_array_add (fresh, kw_key_selector_ref (g_ptr_array_index (selectors, i)));
  g_mutex_lock (&self->lock);
  old = self->selectors;
  self->selectors = fresh;
  g_mutex_unlock (&self->lock);
  self->encrypts = encrypts;
  self->min_copies = MAX (min_copies, 1);
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
  GHashTable *fresh_configured = NULL;
  GHashTable *fresh_former = NULL;
  g_autoptr (GMutexLocker) locker = NULL;

  g_return_val_if_fail (KW_IS_KEYRING (self), FALSE);

  contents = kw_state_file_read (self->state_directory, KW_STATE_FILE_KEYS, error);
  if (contents == NULL)
    return FALSE;
  locker = g_mutex_locker_new (&self->lock);
  fresh = table_from_contents (contents, GROUP_KEYS);
  fresh_configured = table_from_contents (contents, GROUP_CONFIGURED);
  fresh_former = table_from_contents (contents, GROUP_FORMER);
  if (out_changed != NULL)
    *out_changed = !tables_are_equal (fresh, self->fingerprints)
                   || !tables_are_equal (fresh_configured, self->configured)
                   || !tables_are_equal (fresh_former, self->former);
  g_hash_table_unref (self->fingerprints);
  g_hash_table_unref (self->configured);
  g_hash_table_unref (self->former);
  self->fingerprints = fresh;
  self->former = fresh_former;
  self->configured = fresh_configured;
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
 * Compares keys with the record and records those seen for the first time. Keys without a fingerprint are left out, and so
 * are AES keys, which kw_keyring_judge() looks after. Any thread; blocks on the disk when something is new.
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

      if (kw_key_get_fingerprint (key) == NULL || kw_key_get_kind (key) == KW_KEY_KIND_AES)
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

/**
 * kw_keyring_record_new:
 * @self: the keyring
 * @key: an RSA key that was just made
 * @error: where to store the error
 *
 * Records the fingerprint of a new key. Any thread; blocks on the disk.
 *
 * Returns: %TRUE on success; %FALSE with %KW_ERROR_KEY_MISMATCH when another one is recorded under its id, or an error of the
 *   disk
 */
gboolean
kw_keyring_record_new (KwKeyring *self, KwKey *key, GError **error)
{
  g_autoptr (GPtrArray) keys = g_ptr_array_new ();
  g_autoptr (GPtrArray) admitted = NULL;
  g_autoptr (GPtrArray) different = NULL;

  g_return_val_if_fail (KW_IS_KEYRING (self) && key != NULL, FALSE);

  g_ptr_array_add (keys, key);
  admitted = kw_keyring_admit (self, keys, &different, error);
  if (admitted == NULL)
    return FALSE;
  if (different->len == 0)
    return TRUE;
  g_set_error_literal (error, KW_ERROR, KW_ERROR_KEY_MISMATCH,
                       "Another key is recorded under the id of the new one");
  return FALSE;
}

/* The lock held. */
static gboolean
find_held (KwKeyring *self, GBytes *key_id, guint *out_place)
{
  return g_ptr_array_find_with_equal_func (self->held, key_id, g_bytes_equal, out_place);
}

/**
 * kw_keyring_hold:
 * @self: the keyring
 * @key_id: CKA_ID of a key that is about to be made
 *
 * From now on devices take no notice of this key: it may be removed again, and then must not be on record. Any thread.
 */
void
kw_keyring_hold (KwKeyring *self, GBytes *key_id)
{
  g_return_if_fail (KW_IS_KEYRING (self) && key_id != NULL);

  g_mutex_lock (&self->lock);
  if (!find_held (self, key_id, NULL))
    {
      if (self->held->len >= KW_MAX_HELD_KEYS)
        g_ptr_array_remove_index (self->held, 0);
      g_ptr_array_add (self->held, g_bytes_ref (key_id));
    }
  g_mutex_unlock (&self->lock);
}

/**
 * kw_keyring_release:
 * @self: the keyring
 * @key_id: CKA_ID of a key that was made well, or that is nowhere
 *
 * The reverse of kw_keyring_hold(). Any thread.
 */
void
kw_keyring_release (KwKeyring *self, GBytes *key_id)
{
  guint place = 0;

  g_return_if_fail (KW_IS_KEYRING (self) && key_id != NULL);

  g_mutex_lock (&self->lock);
  if (find_held (self, key_id, &place))
    g_ptr_array_remove_index (self->held, place);
  g_mutex_unlock (&self->lock);
}

/**
 * kw_keyring_is_held:
 * @self: the keyring
 * @key_id: CKA_ID of a key
 *
 * Returns: %TRUE when no notice is to be taken of it. Any thread.
 */
gboolean
kw_keyring_is_held (KwKeyring *self, GBytes *key_id)
{
  gboolean held = FALSE;

  g_return_val_if_fail (KW_IS_KEYRING (self), FALSE);

  g_mutex_lock (&self->lock);
  held = find_held (self, key_id, NULL);
  g_mutex_unlock (&self->lock);
  return held;
}

/**
 * kw_keyring_dup_former:
 * @self: the keyring
 * @id: an entry of `hsm_keyid`, in the spelling of kw_key_selector_get_text()
 *
 * Tells which keys an entry meant before the administrator accepted another one. They decrypt, where a device has them.
 *
 * Returns: (transfer full): their fingerprints, the latest first. Any thread.
 */
GStrv
kw_keyring_dup_former (KwKeyring *self, const char *id)
{
  g_autofree char *name = configured_name (id);
  const char *former = NULL;
  GStrv fingerprints = NULL;

  g_return_val_if_fail (KW_IS_KEYRING (self), NULL);

  g_mutex_lock (&self->lock);
  former = g_hash_table_lookup (self->former, name);
  fingerprints = g_strsplit (former != NULL ? former : "", FORMER_SEPARATOR, KW_MAX_FORMER_KEYS);
  g_mutex_unlock (&self->lock);
  return fingerprints;
}

static gboolean
has_fingerprint (GPtrArray *keys, const char *fingerprint)
{
  for (guint i = 0; i < keys->len; i++)
    {
      if (g_strcmp0 (kw_key_get_fingerprint (g_ptr_array_index (keys, i)), fingerprint) == 0)
        return TRUE;
    }
  return FALSE;
}

/**
 * kw_keyring_ref_selectors:
 * @self: the keyring
 *
 * Returns: (transfer full) (element-type KwKeySelector): the entries of `hsm_keyid`, as they are now; never changed, only
 *   replaced. Any thread.
 */
GPtrArray *
kw_keyring_ref_selectors (KwKeyring *self)
{
  GPtrArray *selectors = NULL;

  g_return_val_if_fail (KW_IS_KEYRING (self), NULL);

  g_mutex_lock (&self->lock);
  selectors = g_ptr_array_ref (self->selectors);
  g_mutex_unlock (&self->lock);
  return selectors;
}

/* Whether one of the keys on record for hsm_keyid, now or before, is among @keys (@here) or is not (!@here). */
static gboolean
any_recorded (KwKeyring *self, GPtrArray *keys, gboolean here)
{
  g_autoptr (GPtrArray) selectors = kw_keyring_ref_selectors (self);

  for (guint i = 0; i < selectors->len; i++)
    {
      const char *id = kw_key_selector_get_text (g_ptr_array_index (selectors, i));
      g_autofree char *recorded = kw_keyring_dup_recorded (self, id);
      g_auto (GStrv) former = kw_keyring_dup_former (self, id);

      if (recorded != NULL && has_fingerprint (keys, recorded) == here)
        return TRUE;
      for (guint j = 0; former[j] != NULL; j++)
        {
          if (has_fingerprint (keys, former[j]) == here)
            return TRUE;
        }
    }
  return FALSE;
}

/**
 * kw_keyring_misses_key:
 * @self: the keyring
 * @keys: (element-type KwKey): keys of one token, some with a fingerprint
 *
 * Tells whether a key that is on record for `hsm_keyid`, now or before, is not among those with a fingerprint. It may be one
 * of the others. Any thread.
 *
 * Returns: %TRUE when it is worth to look
 */
gboolean
kw_keyring_misses_key (KwKeyring *self, GPtrArray *keys)
{
  g_return_val_if_fail (KW_IS_KEYRING (self), FALSE);

  return any_recorded (self, keys, FALSE);
}

/**
 * kw_keyring_knows_any:
 * @self: the keyring
 * @keys: (element-type KwKey): keys of one token
 *
 * Tells whether one of them is on record for `hsm_keyid`, now or before, so that the token is of use at least to decrypt. Any
 * thread.
 *
 * Returns: %FALSE when none is
 */
gboolean
kw_keyring_knows_any (KwKeyring *self, GPtrArray *keys)
{
  g_return_val_if_fail (KW_IS_KEYRING (self), FALSE);

  return any_recorded (self, keys, TRUE);
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

typedef struct
{
  const char *name;
  const char *fingerprint; /* nullable: the entry goes */
  gboolean known;
} AcceptStep;

/* What an entry meant until now goes to the head of what it meant before; what it means from now on is not among that. */
static void
remember_former (GKeyFile *contents, const char *name, const char *old, const char *next)
{
  g_autofree char *text = g_key_file_get_string (contents, GROUP_FORMER, name, NULL);
  g_auto (GStrv) known = g_strsplit (text != NULL ? text : "", FORMER_SEPARATOR, 0);
  g_autoptr (GPtrArray) former = g_ptr_array_new ();
  g_autofree char *joined = NULL;

  if (old != NULL && g_strcmp0 (old, next) != 0)
    g_ptr_array_add (former, (gpointer) old);
  for (guint i = 0; known[i] != NULL && former->len < KW_MAX_FORMER_KEYS; i++)
    {
      if (g_strcmp0 (known[i], next) != 0 && g_strcmp0 (known[i], old) != 0)
        g_ptr_array_add (former, known[i]);
    }
  g_ptr_array_add (former, NULL);
  joined = g_strjoinv (FORMER_SEPARATOR, (char **) former->pdata);
  if (joined[0] != '\0')
    g_key_file_set_string (contents, GROUP_FORMER, name, joined);
  else
    g_key_file_remove_key (contents, GROUP_FORMER, name, NULL);
}

static gboolean
replace_configured (GKeyFile *contents,
                    gboolean *out_changed,
                    gpointer user_data,
                    GError **error G_GNUC_UNUSED)
{
  AcceptStep *step = user_data;

  g_autofree char *old = g_key_file_get_string (contents, GROUP_CONFIGURED, step->name, NULL);

  ensure_comment (contents);
  step->known = old != NULL;
  remember_former (contents, step->name, old, step->fingerprint);
  if (step->fingerprint != NULL)
    g_key_file_set_string (contents, GROUP_CONFIGURED, step->name, step->fingerprint);
  else if (step->known)
    g_key_file_remove_key (contents, GROUP_CONFIGURED, step->name, NULL);
  *out_changed = step->known || step->fingerprint != NULL;
  return TRUE;
}

/**
 * kw_keyring_forget_configured:
 * @self: the keyring
 * @id: an entry of `hsm_keyid`, in the spelling of kw_key_selector_get_text()
 * @out_known: (out): whether a fingerprint was recorded
 * @error: where to store the error
 *
 * Drops the recorded fingerprint of an AES key, so that what all devices agree on is recorded next; what was encrypted under
 * that key can still be decrypted. An act of the administrator, never of the daemon. Any thread; blocks on the disk.
 *
 * Returns: %TRUE on success
 */
gboolean
kw_keyring_forget_configured (KwKeyring *self, const char *id, gboolean *out_known, GError **error)
{
  g_autofree char *name = configured_name (id);
  AcceptStep step = { name, NULL, FALSE };

  g_return_val_if_fail (KW_IS_KEYRING (self), FALSE);

  if (!kw_state_file_update (self->state_directory, KW_STATE_FILE_KEYS, replace_configured, &step,
                             error))
    return FALSE;
  *out_known = step.known;
  return TRUE;
}

/**
 * kw_keyring_accept:
 * @self: the keyring
 * @id: an entry of `hsm_keyid`, in the spelling of kw_key_selector_get_text()
 * @fingerprint: fingerprint of the key that is right, in hex
 * @error: where to store the error
 *
 * Records which key is meant; what settles a dispute between devices. What was recorded before is remembered, so that what
 * was encrypted under that key can still be decrypted. An act of the administrator, never of the daemon. Any thread; blocks on
 * the disk.
 *
 * Returns: %TRUE on success; %FALSE with %KW_ERROR_INVALID_ARGUMENT when this is no fingerprint
 */
gboolean
kw_keyring_accept (KwKeyring *self, const char *id, const char *fingerprint, GError **error)
{
  g_autofree char *name = configured_name (id);
  g_autofree char *lower = g_ascii_strdown (fingerprint, -1);
  AcceptStep step = { name, lower, FALSE };

  g_return_val_if_fail (KW_IS_KEYRING (self), FALSE);

  if (strlen (lower) != 2 * KW_FINGERPRINT_AES_BYTES
      || strspn (lower, "0123456789abcdef") != strlen (lower))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                   "A fingerprint of an AES key is %d digits in hex", 2 * KW_FINGERPRINT_AES_BYTES);
      return FALSE;
    }
  return kw_state_file_update (self->state_directory, KW_STATE_FILE_KEYS, replace_configured, &step,
                               error);
}

/**
 * kw_keyring_dup_configured:
 * @self: the keyring
 * @keys: (element-type KwKey): all keys of one token
 *
 * Returns: (transfer container) (element-type KwKey): those of @keys that entries of `hsm_keyid` mean, borrowed. Any thread.
 */
GPtrArray *
kw_keyring_dup_configured (KwKeyring *self, GPtrArray *keys)
{
  g_autoptr (GPtrArray) configured = g_ptr_array_new ();
  g_autoptr (GPtrArray) selectors = NULL;

  g_return_val_if_fail (KW_IS_KEYRING (self), NULL);

  selectors = kw_keyring_ref_selectors (self);
  for (guint i = 0; i < selectors->len; i++)
    {
      KwKey *key = kw_key_selector_find (g_ptr_array_index (selectors, i), keys, NULL);

      if (key != NULL && !g_ptr_array_find (configured, key, NULL))
        g_ptr_array_add (configured, key);
    }
  return g_steal_pointer (&configured);
}

/**
 * kw_keyring_judge:
 * @self: the keyring
 * @devices: (array length=n_devices): all devices
 * @n_devices: how many
 *
 * Compares the keys of all devices with each other and with the record, and makes the matrix anew. A configured key that is
 * not on record is recorded when all devices have settled and those that have it agree; `recorded` is emitted when that is
 * done. Main context; does not block.
 *
 * Returns: %TRUE when a key waits for devices to settle
 */
gboolean
kw_keyring_judge (KwKeyring *self, const KwKeyringDevice *devices, guint n_devices)
{
  g_autoptr (KwKeyMatrix) matrix = kw_key_matrix_new ();
  g_autoptr (KwKeyMatrix) old = NULL;
  g_autoptr (GHashTable) fresh = table_new ();
  Judgement judgement = { self, devices, n_devices, matrix, fresh, FALSE };

  g_return_val_if_fail (KW_IS_KEYRING (self), FALSE);

  for (guint i = 0; i < n_devices; i++)
    kw_key_matrix_add_device (matrix, devices[i].name, devices[i].label, devices[i].number,
                              devices[i].ready);
  for (guint i = 0; i < self->selectors->len; i++)
    judge_configured (&judgement, i, g_ptr_array_index (self->selectors, i));
  judge_all_rsa (&judgement);
  start_recording (self, fresh);
  if (kw_key_matrix_equal (matrix, self->matrix))
    return judgement.waiting;
  g_mutex_lock (&self->lock);
  old = self->matrix;
  self->matrix = kw_key_matrix_ref (matrix);
  g_mutex_unlock (&self->lock);
  log_changes (old, matrix);
  g_signal_emit (self, signals[SIGNAL_CHANGED], 0);
  return judgement.waiting;
}

/**
 * kw_keyring_is_recording:
 * @self: the keyring
 *
 * Returns: %TRUE while fingerprints are being written, after which more keys may be of use. Main context.
 */
gboolean
kw_keyring_is_recording (KwKeyring *self)
{
  g_return_val_if_fail (KW_IS_KEYRING (self), FALSE);

  return self->recording;
}

/**
 * kw_keyring_ref_matrix:
 * @self: the keyring
 *
 * Returns: (transfer full): which key is how on which device. Any thread.
 */
KwKeyMatrix *
kw_keyring_ref_matrix (KwKeyring *self)
{
  KwKeyMatrix *matrix = NULL;

  g_return_val_if_fail (KW_IS_KEYRING (self), NULL);

  g_mutex_lock (&self->lock);
  matrix = kw_key_matrix_ref (self->matrix);
  g_mutex_unlock (&self->lock);
  return matrix;
}
