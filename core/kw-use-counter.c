/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-use-counter"

#include "config.h"

#include "kw-use-counter.h"

#include "kw-error.h"
#include "kw-limits.h"
#include "kw-log.h"
#include "kw-names.h"
#include "kw-state-file.h"
#include "kw-uuid.h"

#include <string.h>

/*
 * How often each key was used on which day (UTC). Counted in memory and added to a file in the state directory every few
 * seconds, and at the end. A key is named by what it is, its fingerprint or its UUID, not by its place in the configuration.
 *
 * The file has one group for each key; days beyond those that are kept are summed up. Any thread may count; flushing and
 * reporting block on the disk, and are done in a thread of their own while the service runs.
 */
struct _KwUseCounter
{
  GObject parent_instance;

  char *state_directory; /* owned */
  GMainContext *context; /* owned */

  GMutex lock;
  GHashTable *pending; /* owned; name of a key → GArray of KwUseDay; guarded by lock */
  gboolean scheduled;  /* guarded by lock: a flush is on its way */
  gboolean stopped;    /* guarded by lock */
  gboolean failing;    /* guarded by lock: the last write failed, and that was said */

  GMutex flush_lock; /* one writer at a time */
};

G_DEFINE_FINAL_TYPE (KwUseCounter, kw_use_counter, G_TYPE_OBJECT)

#define FLUSH_INTERVAL_SECONDS 5
#define KEY_FIRST "first"
#define KEY_OLDER "older"
#define DAY_LENGTH 10

static GHashTable *
table_new (void)
{
  return g_hash_table_new_full (g_str_hash, g_str_equal, g_free, (GDestroyNotify) g_array_unref);
}

static void
write_today (char *day, gsize size)
{
  g_autoptr (GDateTime) now = g_date_time_new_from_unix_utc (g_get_real_time () / G_USEC_PER_SEC);
  g_autofree char *text = g_date_time_format (now, "%Y-%m-%d");

  g_strlcpy (day, text, size);
}

static KwUseDay *
ensure_day (GArray *days, const char *day)
{
  KwUseDay fresh = { 0 };

  for (guint i = days->len; i > 0; i--)
    {
      KwUseDay *known = &g_array_index (days, KwUseDay, i - 1);

      if (g_str_equal (known->day, day))
        return known;
    }
  g_strlcpy (fresh.day, day, sizeof fresh.day);
  g_array_append_val (days, fresh);
  return &g_array_index (days, KwUseDay, days->len - 1);
}

static gboolean
is_day (const char *text)
{
  return strlen (text) == DAY_LENGTH && text[4] == '-' && text[7] == '-'
         && strspn (text, "0123456789-") == DAY_LENGTH;
}

/* "3 5 0"; what cannot be read counts for nothing. */
static void
read_numbers (GKeyFile *contents, const char *group, const char *key, guint64 *numbers)
{
  g_autofree char *text = g_key_file_get_string (contents, group, key, NULL);
  g_auto (GStrv) parts = text != NULL ? g_strsplit (text, " ", KW_N_USES) : NULL;

  for (guint i = 0; i < KW_N_USES; i++)
    {
      numbers[i] = 0;
      if (parts != NULL && i < g_strv_length (parts)
          && !g_ascii_string_to_unsigned (parts[i], 10, 0, G_MAXINT64, &numbers[i], NULL))
        numbers[i] = 0;
    }
}

static void
add_numbers (GKeyFile *contents, const char *group, const char *key, const guint64 *more)
{
  guint64 numbers[KW_N_USES] = { 0 };
  g_autofree char *text = NULL;

  read_numbers (contents, group, key, numbers);
  for (guint i = 0; i < KW_N_USES; i++)
    numbers[i] = MIN (numbers[i] + more[i], G_MAXINT64);
  text = g_strdup_printf ("%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT,
                          numbers[KW_USE_ENCRYPT], numbers[KW_USE_DECRYPT], numbers[KW_USE_SIGN]);
  g_key_file_set_string (contents, group, key, text);
}

static gint
compare_text (gconstpointer a, gconstpointer b)
{
  return g_strcmp0 (*(const char *const *) a, *(const char *const *) b);
}

/* Sums up the oldest days, so that a group stays small. */
static void
fold_old_days (GKeyFile *contents, const char *group)
{
  g_auto (GStrv) keys = g_key_file_get_keys (contents, group, NULL, NULL);
  g_autoptr (GPtrArray) days = g_ptr_array_new ();

  for (guint i = 0; keys != NULL && keys[i] != NULL; i++)
    {
      if (is_day (keys[i]))
        g_ptr_array_add (days, keys[i]);
    }
  g_ptr_array_sort (days, compare_text);
  for (guint i = 0; i + KW_MAX_USE_DAYS < days->len; i++)
    {
      guint64 numbers[KW_N_USES] = { 0 };

      read_numbers (contents, group, g_ptr_array_index (days, i), numbers);
      add_numbers (contents, group, KEY_OLDER, numbers);
      g_key_file_remove_key (contents, group, g_ptr_array_index (days, i), NULL);
    }
}

static void
add_key (GKeyFile *contents, const char *name, GArray *days)
{
  for (guint i = 0; i < days->len; i++)
    {
      const KwUseDay *day = &g_array_index (days, KwUseDay, i);

      if (!g_key_file_has_key (contents, name, KEY_FIRST, NULL))
        g_key_file_set_string (contents, name, KEY_FIRST, day->day);
      add_numbers (contents, name, day->day, day->n);
    }
  fold_old_days (contents, name);
}

static gboolean
add_pending (GKeyFile *contents,
             gboolean *out_changed,
             gpointer user_data,
             GError **error G_GNUC_UNUSED)
{
  GHashTable *pending = user_data;
  GHashTableIter iter;
  gpointer name = NULL;
  gpointer days = NULL;
  g_auto (GStrv) groups = g_key_file_get_groups (contents, NULL);
  guint n_groups = g_strv_length (groups);

  if (n_groups == 0)
    g_key_file_set_comment (contents, NULL, NULL,
                            " Uses of each key by day (UTC): encrypted, decrypted, signed.", NULL);
  g_hash_table_iter_init (&iter, pending);
  while (g_hash_table_iter_next (&iter, &name, &days))
    {
      if (!g_key_file_has_group (contents, name) && n_groups >= KW_MAX_USE_KEYS)
        continue;
      n_groups += g_key_file_has_group (contents, name) ? 0 : 1;
      add_key (contents, name, days);
      *out_changed = TRUE;
    }
  return TRUE;
}

/* Called with the lock held: what could not be written is counted next time. */
static void
take_back (KwUseCounter *self, GHashTable *unwritten)
{
  GHashTableIter iter;
  gpointer name = NULL;
  gpointer value = NULL;

  g_hash_table_iter_init (&iter, unwritten);
  while (g_hash_table_iter_next (&iter, &name, &value))
    {
      GArray *days = value;
      GArray *known = g_hash_table_lookup (self->pending, name);

      if (known == NULL)
        {
          g_hash_table_insert (self->pending, g_strdup (name), g_array_ref (days));
          continue;
        }
      for (guint i = 0; i < days->len; i++)
        {
          const KwUseDay *day = &g_array_index (days, KwUseDay, i);
          KwUseDay *sum = ensure_day (known, day->day);

          for (guint j = 0; j < KW_N_USES; j++)
            sum->n[j] += day->n[j];
        }
    }
}

static void
flush_thread (GTask *task,
              gpointer source_object,
              gpointer task_data G_GNUC_UNUSED,
              GCancellable *cancellable G_GNUC_UNUSED)
{
  KwUseCounter *self = KW_USE_COUNTER (source_object);
  g_autoptr (GError) error = NULL;
  gboolean say = FALSE;

  kw_use_counter_flush (self, &error);
  g_mutex_lock (&self->lock);
  say = error != NULL && !self->failing;
  self->failing = error != NULL;
  g_mutex_unlock (&self->lock);
  if (say)
    kw_log (G_LOG_LEVEL_WARNING, "Uses of keys cannot be recorded", "error", error->message, NULL);
  g_task_return_boolean (task, TRUE);
}

static gboolean
start_flush (gpointer user_data)
{
  KwUseCounter *self = KW_USE_COUNTER (user_data);
  g_autoptr (GTask) task = NULL;
  gboolean stopped = FALSE;

  g_mutex_lock (&self->lock);
  self->scheduled = FALSE;
  stopped = self->stopped;
  g_mutex_unlock (&self->lock);
  if (stopped)
    return G_SOURCE_REMOVE;
  task = g_task_new (self, NULL, NULL, NULL);
  g_task_run_in_thread (task, flush_thread);
  return G_SOURCE_REMOVE;
}

/* Called with the lock held. */
static void
schedule_flush (KwUseCounter *self)
{
  g_autoptr (GSource) source = NULL;

  if (self->scheduled || self->stopped)
    return;
  self->scheduled = TRUE;
  source = g_timeout_source_new_seconds (FLUSH_INTERVAL_SECONDS);
  g_source_set_callback (source, start_flush, g_object_ref (self), g_object_unref);
  g_source_attach (source, self->context);
}

static void
kw_use_counter_finalize (GObject *object)
{
  KwUseCounter *self = KW_USE_COUNTER (object);

  g_free (self->state_directory);
  g_main_context_unref (self->context);
  g_hash_table_unref (self->pending);
  g_mutex_clear (&self->lock);
  g_mutex_clear (&self->flush_lock);
  G_OBJECT_CLASS (kw_use_counter_parent_class)->finalize (object);
}

static void
kw_use_counter_class_init (KwUseCounterClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_use_counter_finalize;
}

static void
kw_use_counter_init (KwUseCounter *self)
{
  g_mutex_init (&self->lock);
  g_mutex_init (&self->flush_lock);
  self->context = g_main_context_ref_thread_default ();
  self->pending = table_new ();
}

/**
 * kw_use_report_free:
 * @report: (transfer full): a report
 *
 * Frees a report. Any thread.
 */
void
kw_use_report_free (KwUseReport *report)
{
  g_return_if_fail (report != NULL);

  g_free (report->first_day);
  g_free (report->last_day);
  g_array_unref (report->days);
  g_free (report);
}

/**
 * kw_use_counter_new:
 * @state_directory: where the counts are kept
 *
 * Returns: (transfer full): a counter. Main context.
 */
KwUseCounter *
kw_use_counter_new (const char *state_directory)
{
  KwUseCounter *self = g_object_new (KW_TYPE_USE_COUNTER, NULL);

  self->state_directory = g_strdup (state_directory);
  return self;
}

/**
 * kw_use_counter_dup_aes_name:
 * @fingerprint: fingerprint of an AES key
 *
 * Returns: (transfer full): the name its uses are counted under. Any thread.
 */
char *
kw_use_counter_dup_aes_name (const char *fingerprint)
{
  g_return_val_if_fail (fingerprint != NULL, NULL);

  return g_strconcat ("aes-", fingerprint, NULL);
}

/**
 * kw_use_counter_dup_rsa_name:
 * @key_id: CKA_ID of an RSA key
 *
 * Returns: (transfer full): the name its uses are counted under. Any thread.
 */
char *
kw_use_counter_dup_rsa_name (GBytes *key_id)
{
  g_autofree char *uuid = NULL;
  GString *name = NULL;
  gsize size = 0;
  const guint8 *data = NULL;

  g_return_val_if_fail (key_id != NULL, NULL);

  uuid = kw_uuid_from_bytes (key_id);
  if (uuid != NULL)
    return g_strconcat ("rsa-", uuid, NULL);
  name = g_string_new ("rsa-");
  data = g_bytes_get_data (key_id, &size);
  for (gsize i = 0; i < size; i++)
    g_string_append_printf (name, "%02x", data[i]);
  return g_string_free (name, FALSE);
}

/**
 * kw_use_counter_dup_facts_name:
 * @facts: what is known of a key
 *
 * Returns: (transfer full) (nullable): the name its uses are counted under; %NULL for an AES key of which no fingerprint is
 * recorded, and which was never used therefore. Any thread.
 */
char *
kw_use_counter_dup_facts_name (const KwKeyFacts *facts)
{
  g_return_val_if_fail (facts != NULL, NULL);

  if (facts->kind != KW_KEY_KIND_AES)
    return g_strconcat ("rsa-", facts->id, NULL);
  return facts->fingerprint != NULL ? kw_use_counter_dup_aes_name (facts->fingerprint) : NULL;
}

/**
 * kw_use_counter_count:
 * @self: a counter
 * @name: name of a key
 * @use: what it was used for
 *
 * Counts one use, today. Any thread; does not block.
 */
void
kw_use_counter_count (KwUseCounter *self, const char *name, KwUse use)
{
  GArray *days = NULL;
  char today[DAY_LENGTH + 1];

  g_return_if_fail (KW_IS_USE_COUNTER (self) && name != NULL && (guint) use < KW_N_USES);

  write_today (today, sizeof today);
  g_mutex_lock (&self->lock);
  days = g_hash_table_lookup (self->pending, name);
  if (days == NULL && g_hash_table_size (self->pending) < KW_MAX_USE_KEYS)
    {
      days = g_array_new (FALSE, TRUE, sizeof (KwUseDay));
      g_hash_table_insert (self->pending, g_strdup (name), days);
    }
  if (days != NULL)
    {
      ensure_day (days, today)->n[use]++;
      schedule_flush (self);
    }
  g_mutex_unlock (&self->lock);
}

/**
 * kw_use_counter_flush:
 * @self: a counter
 * @error: where to store the error
 *
 * Adds what was counted to the file. When that fails it is kept for the next time. Any thread; blocks on the disk.
 *
 * Returns: %TRUE on success
 */
gboolean
kw_use_counter_flush (KwUseCounter *self, GError **error)
{
  g_autoptr (GHashTable) pending = NULL;
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = NULL;
  gboolean ok = TRUE;

  g_return_val_if_fail (KW_IS_USE_COUNTER (self), FALSE);

  locker = g_mutex_locker_new (&self->flush_lock);
  g_mutex_lock (&self->lock);
  pending = g_steal_pointer (&self->pending);
  self->pending = table_new ();
  g_mutex_unlock (&self->lock);
  if (g_hash_table_size (pending) == 0)
    return TRUE;
  ok = kw_state_file_update_quickly (self->state_directory, KW_STATE_FILE_USES, add_pending,
                                     pending, error);
  if (ok)
    return TRUE;
  g_mutex_lock (&self->lock);
  take_back (self, pending);
  schedule_flush (self);
  g_mutex_unlock (&self->lock);
  return FALSE;
}

/**
 * kw_use_counter_stop:
 * @self: a counter
 *
 * Writes what was counted, for the last time. Main context, when the main loop does not run any more; blocks on the disk.
 */
void
kw_use_counter_stop (KwUseCounter *self)
{
  g_autoptr (GError) error = NULL;

  g_return_if_fail (KW_IS_USE_COUNTER (self));

  g_mutex_lock (&self->lock);
  self->stopped = TRUE;
  g_mutex_unlock (&self->lock);
  if (!kw_use_counter_flush (self, &error))
    kw_log (G_LOG_LEVEL_WARNING, "Uses of keys cannot be recorded", "error", error->message, NULL);
}

static gint
compare_days (gconstpointer a, gconstpointer b)
{
  return g_strcmp0 (((const KwUseDay *) a)->day, ((const KwUseDay *) b)->day);
}

/* Called with the lock held. */
static void
add_unwritten (KwUseCounter *self, const char *name, GArray *days)
{
  const GArray *pending = g_hash_table_lookup (self->pending, name);

  for (guint i = 0; pending != NULL && i < pending->len; i++)
    {
      const KwUseDay *day = &g_array_index (pending, KwUseDay, i);
      KwUseDay *sum = ensure_day (days, day->day);

      for (guint j = 0; j < KW_N_USES; j++)
        sum->n[j] += day->n[j];
    }
}

/**
 * kw_use_counter_report:
 * @self: a counter
 * @name: name of a key
 * @error: where to store the error
 *
 * Tells how much a key was used, what was not written yet included. Any thread; blocks on the disk.
 *
 * Returns: (transfer full): the report, empty for a key that was never used; %NULL with %KW_ERROR_FAILED or
 *   %KW_ERROR_PERMISSION when the file cannot be read
 */
KwUseReport *
kw_use_counter_report (KwUseCounter *self, const char *name, GError **error)
{
  g_autoptr (GKeyFile) contents = NULL;
  g_autoptr (KwUseReport) report = NULL;
  g_auto (GStrv) keys = NULL;

  g_return_val_if_fail (KW_IS_USE_COUNTER (self) && name != NULL, NULL);

  contents = kw_state_file_read (self->state_directory, KW_STATE_FILE_USES, error);
  if (contents == NULL)
    return NULL;
  report = g_new0 (KwUseReport, 1);
  report->days = g_array_new (FALSE, TRUE, sizeof (KwUseDay));
  report->first_day = g_key_file_get_string (contents, name, KEY_FIRST, NULL);
  keys = g_key_file_get_keys (contents, name, NULL, NULL);
  for (guint i = 0; keys != NULL && keys[i] != NULL; i++)
    {
      gboolean older = g_str_equal (keys[i], KEY_OLDER);

      if (older || is_day (keys[i]))
        read_numbers (contents, name, keys[i], ensure_day (report->days, older ? "" : keys[i])->n);
    }
  g_mutex_lock (&self->lock);
  add_unwritten (self, name, report->days);
  g_mutex_unlock (&self->lock);
  g_array_sort (report->days, compare_days);
  for (guint i = 0; i < report->days->len; i++)
    {
      const KwUseDay *day = &g_array_index (report->days, KwUseDay, i);

      for (guint j = 0; j < KW_N_USES; j++)
        report->total[j] += day->n[j];
      if (report->first_day == NULL)
        report->first_day = g_strdup (day->day);
    }
  if (report->days->len > 0)
    report->last_day = g_strdup (g_array_index (report->days, KwUseDay, report->days->len - 1).day);
  return g_steal_pointer (&report);
}
