/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-refusals"

#include "config.h"

#include "kw-refusals.h"

#include "kw-limits.h"

/*
 * Who shows wrong tokens, cookies or links is listened to five times a second, by address. When more addresses were refused
 * than are remembered, all that are older than a second are forgotten, or else all of them: to remember is a courtesy.
 *
 * Any thread.
 */
struct _KwRefusals
{
  GMutex lock;
  GHashTable *counts; /* address → Count; guarded by lock */
};

typedef struct
{
  gint64 start; /* monotonic: of the second that is counted */
  guint n;
} Count;

static gboolean
is_old (gpointer key G_GNUC_UNUSED, gpointer value, gpointer user_data)
{
  const gint64 *now = user_data;

  return *now - ((const Count *) value)->start >= G_TIME_SPAN_SECOND;
}

/**
 * kw_refusals_new:
 *
 * Returns: (transfer full): nobody was refused
 */
KwRefusals *
kw_refusals_new (void)
{
  KwRefusals *self = g_new0 (KwRefusals, 1);

  g_mutex_init (&self->lock);
  self->counts = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  return self;
}

/**
 * kw_refusals_free:
 * @self: (transfer full): refusals
 *
 * Forgets all.
 */
void
kw_refusals_free (KwRefusals *self)
{
  g_hash_table_unref (self->counts);
  g_mutex_clear (&self->lock);
  g_free (self);
}

/**
 * kw_refusals_are_too_many:
 * @self: refusals
 * @address: where somebody connects from
 *
 * Returns: whether he has to wait before he is listened to again
 */
gboolean
kw_refusals_are_too_many (KwRefusals *self, const char *address)
{
  gint64 now = g_get_monotonic_time ();
  const Count *count = NULL;
  gboolean too_many = FALSE;

  g_mutex_lock (&self->lock);
  count = g_hash_table_lookup (self->counts, address);
  too_many = count != NULL && now - count->start < G_TIME_SPAN_SECOND
             && count->n >= KW_REFUSALS_PER_SECOND;
  g_mutex_unlock (&self->lock);
  return too_many;
}

/**
 * kw_refusals_count:
 * @self: refusals
 * @address: where somebody connects from
 *
 * Counts that he was refused.
 */
void
kw_refusals_count (KwRefusals *self, const char *address)
{
  gint64 now = g_get_monotonic_time ();
  Count *count = NULL;

  g_mutex_lock (&self->lock);
  count = g_hash_table_lookup (self->counts, address);
  if (count == NULL)
    {
      if (g_hash_table_size (self->counts) >= KW_MAX_REFUSED_CALLERS)
        g_hash_table_foreach_remove (self->counts, is_old, &now);
      if (g_hash_table_size (self->counts) >= KW_MAX_REFUSED_CALLERS)
        g_hash_table_remove_all (self->counts);
      count = g_new0 (Count, 1);
      count->start = now;
      g_hash_table_insert (self->counts, g_strdup (address), count);
    }
  if (now - count->start >= G_TIME_SPAN_SECOND)
    {
      count->start = now;
      count->n = 0;
    }
  count->n++;
  g_mutex_unlock (&self->lock);
}
