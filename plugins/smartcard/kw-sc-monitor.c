/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-monitor"

#include "config.h"

#include "kw-sc-monitor.h"

#include "kw-sc-error.h"

#include <string.h>

/*
 * The thread that watches readers and cards, with a context of PC/SC of its own. It waits in SCardGetStatusChange, where it also
 * hears of readers that come and go; a slow poll catches what is missed. When pcscd goes away, the context is made anew until
 * there is one again, with growing pauses; everything that was there before is gone then.
 *
 * It speaks to no card, so it is never held up by one. What it sees goes, as a whole and only when it changed, to the context
 * that was the default of the thread that started it.
 */
struct _KwScMonitor
{
  gatomicrefcount references;

  KwScMonitorTiming timing;
  GMainContext *context; /* owned */
  KwScMonitorFunc func;
  gpointer user_data;
  gboolean stopped; /* no more news; context's thread only */

  GMutex lock;
  GCond changed;
  gboolean quit;             /* guarded by lock */
  gboolean awake;            /* guarded by lock: somebody wants a look now */
  guint n_closing;           /* guarded by lock: connections that are being closed */
  gboolean finished;         /* guarded by lock */
  gboolean waiting;          /* guarded by lock: inside SCardGetStatusChange */
  SCARDCONTEXT card_context; /* guarded by lock while waiting */

  /* thread */
  gboolean has_context;
  gint64 delay;
  KwScSnapshot *last; /* owned, nullable */
  GHashTable *states; /* owned: name → dwCurrentState */
};

#define PNP_READER "\\\\?PnP?\\Notification"
#define MAX_NAMES_BYTES 8192
#define MAX_READERS 64
#define CANCEL_USEC 20000

/* --- snapshots --- */

static void
reader_free (gpointer data)
{
  KwScReader *reader = data;

  g_free (reader->name);
  g_bytes_unref (reader->atr);
  g_free (reader);
}

/**
 * kw_sc_snapshot_new:
 * @service: how pcscd is
 * @text: (nullable): why
 *
 * Returns: (transfer full): a snapshot without readers. Any thread.
 */
KwScSnapshot *
kw_sc_snapshot_new (KwScService service, const char *text)
{
  KwScSnapshot *self = g_new0 (KwScSnapshot, 1);

  g_atomic_ref_count_init (&self->references);
  self->service = service;
  self->text = g_strdup (text);
  self->readers = g_ptr_array_new_with_free_func (reader_free);
  return self;
}

/**
 * kw_sc_snapshot_ref:
 * @self: a snapshot
 *
 * Returns: (transfer full): @self. Any thread.
 */
KwScSnapshot *
kw_sc_snapshot_ref (KwScSnapshot *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_sc_snapshot_unref:
 * @self: (transfer full): a snapshot
 *
 * Gives a reference back. Any thread.
 */
void
kw_sc_snapshot_unref (KwScSnapshot *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_free (self->text);
  g_ptr_array_unref (self->readers);
  g_free (self);
}

/**
 * kw_sc_snapshot_find:
 * @self: a snapshot
 * @name: name of a reader
 *
 * Returns: (transfer none) (nullable): the reader. Any thread.
 */
KwScReader *
kw_sc_snapshot_find (KwScSnapshot *self, const char *name)
{
  g_return_val_if_fail (self != NULL, NULL);

  for (guint i = 0; i < self->readers->len; i++)
    {
      KwScReader *reader = g_ptr_array_index (self->readers, i);

      if (g_str_equal (reader->name, name))
        return reader;
    }
  return NULL;
}

static gboolean
reader_equal (const KwScReader *a, const KwScReader *b)
{
  return a->present == b->present && a->mute == b->mute && a->exclusive == b->exclusive
         && a->n_events == b->n_events && g_bytes_equal (a->atr, b->atr);
}

/**
 * kw_sc_snapshot_equal:
 * @self: a snapshot
 * @other: another one
 *
 * Returns: whether both say the same. Any thread.
 */
gboolean
kw_sc_snapshot_equal (KwScSnapshot *self, KwScSnapshot *other)
{
  g_return_val_if_fail (self != NULL && other != NULL, FALSE);

  if (self->service != other->service || g_strcmp0 (self->text, other->text) != 0
      || self->readers->len != other->readers->len)
    return FALSE;
  for (guint i = 0; i < self->readers->len; i++)
    {
      const KwScReader *reader = g_ptr_array_index (self->readers, i);
      const KwScReader *same = kw_sc_snapshot_find (other, reader->name);

      if (same == NULL || !reader_equal (reader, same))
        return FALSE;
    }
  return TRUE;
}

static KwScSnapshot *
snapshot_new_failed (LONG rv)
{
  g_autoptr (GError) error = NULL;

  if (kw_sc_rv_means_no_service (rv))
    return kw_sc_snapshot_new (KW_SC_SERVICE_ABSENT, NULL);
  kw_sc_set_rv_error (&error, rv, NULL, "pcscd");
  if (rv == SCARD_W_SECURITY_VIOLATION || rv == SCARD_E_NO_ACCESS)
    return kw_sc_snapshot_new (KW_SC_SERVICE_DENIED, error->message);
  return kw_sc_snapshot_new (KW_SC_SERVICE_FAILED, error->message);
}

/* Two readers of one name cannot be told apart; pcscd numbers those it knows to be alike. */
static void
add_reader (KwScSnapshot *snapshot, const SCARD_READERSTATE *state)
{
  KwScReader *reader = NULL;
  DWORD event = state->dwEventState;

  if ((event & (SCARD_STATE_UNKNOWN | SCARD_STATE_UNAVAILABLE | SCARD_STATE_IGNORE)) != 0
      || kw_sc_snapshot_find (snapshot, state->szReader) != NULL)
    return;
  reader = g_new0 (KwScReader, 1);
  reader->name = g_strdup (state->szReader);
  reader->present = (event & SCARD_STATE_PRESENT) != 0;
  reader->mute = (event & SCARD_STATE_MUTE) != 0;
  reader->exclusive = (event & SCARD_STATE_EXCLUSIVE) != 0;
  reader->n_events = (guint) (event >> 16) & G_MAXUINT16;
  reader->atr = reader->present
                    ? g_bytes_new (state->rgbAtr, MIN (state->cbAtr, sizeof state->rgbAtr))
                    : g_bytes_new (NULL, 0);
  g_ptr_array_add (snapshot->readers, reader);
}

/* --- the thread --- */

typedef struct
{
  KwScMonitor *monitor;   /* owned */
  KwScSnapshot *snapshot; /* owned */
} News;

/**
 * kw_sc_monitor_ref:
 * @self: a monitor
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwScMonitor *
kw_sc_monitor_ref (KwScMonitor *self)
{
  g_atomic_ref_count_inc (&self->references);
  return self;
}

static void
news_free (gpointer data)
{
  News *news = data;

  kw_sc_monitor_unref (news->monitor);
  kw_sc_snapshot_unref (news->snapshot);
  g_free (news);
}

static gboolean
deliver_news (gpointer user_data)
{
  News *news = user_data;

  if (!news->monitor->stopped)
    news->monitor->func (news->snapshot, news->monitor->user_data);
  return G_SOURCE_REMOVE;
}

static void
post (KwScMonitor *self, KwScSnapshot *snapshot)
{
  News *news = NULL;
  g_autoptr (GSource) source = NULL;

  if (self->last != NULL && kw_sc_snapshot_equal (self->last, snapshot))
    return;
  g_clear_pointer (&self->last, kw_sc_snapshot_unref);
  self->last = kw_sc_snapshot_ref (snapshot);
  news = g_new0 (News, 1);
  news->monitor = kw_sc_monitor_ref (self);
  news->snapshot = kw_sc_snapshot_ref (snapshot);
  source = g_idle_source_new ();
  g_source_set_priority (source, G_PRIORITY_DEFAULT);
  g_source_set_callback (source, deliver_news, news, news_free);
  g_source_set_static_name (source, "kw-sc-news");
  g_source_attach (source, self->context);
}

static gboolean
has_to_quit (KwScMonitor *self)
{
  gboolean quit = FALSE;

  g_mutex_lock (&self->lock);
  quit = self->quit;
  g_mutex_unlock (&self->lock);
  return quit;
}

static void
pause_until_woken (KwScMonitor *self, gint64 usec)
{
  gint64 deadline = g_get_monotonic_time () + usec;
  gboolean in_time = TRUE;

  g_mutex_lock (&self->lock);
  while (!self->quit && !self->awake && in_time)
    in_time = g_cond_wait_until (&self->changed, &self->lock, deadline);
  self->awake = FALSE;
  g_mutex_unlock (&self->lock);
}

static void
drop_context (KwScMonitor *self)
{
  if (self->has_context)
    SCardReleaseContext (self->card_context);
  self->has_context = FALSE;
  g_hash_table_remove_all (self->states);
}

/* Says what is wrong, and waits a while before the next attempt. */
static void
take_failure (KwScMonitor *self, LONG rv)
{
  g_autoptr (KwScSnapshot) snapshot = snapshot_new_failed (rv);

  drop_context (self);
  post (self, snapshot);
  pause_until_woken (self, self->delay);
  self->delay = MIN (self->delay * 2, self->timing.max);
}

static void
ensure_context (KwScMonitor *self)
{
  SCARDCONTEXT card_context = 0;
  LONG rv = SCardEstablishContext (SCARD_SCOPE_SYSTEM, NULL, NULL, &card_context);

  if (rv != SCARD_S_SUCCESS)
    {
      take_failure (self, rv);
      return;
    }
  g_mutex_lock (&self->lock);
  self->card_context = card_context;
  g_mutex_unlock (&self->lock);
  self->has_context = TRUE;
}

static LONG
list_readers (SCARDCONTEXT card_context, GPtrArray *names)
{
  char buffer[MAX_NAMES_BYTES] = { 0 };
  DWORD size = sizeof buffer - 2;
  LONG rv = SCardListReaders (card_context, NULL, buffer, &size);

  if (rv == SCARD_E_NO_READERS_AVAILABLE)
    return SCARD_S_SUCCESS;
  if (rv != SCARD_S_SUCCESS)
    return rv;
  for (const char *name = buffer; name[0] != '\0' && names->len < MAX_READERS;
       name += strlen (name) + 1)
    g_ptr_array_add (names, g_strdup (name));
  return SCARD_S_SUCCESS;
}

static SCARD_READERSTATE *
make_states (GPtrArray *names, GHashTable *known, gboolean with_pnp, DWORD *out_n)
{
  SCARD_READERSTATE *states = g_new0 (SCARD_READERSTATE, names->len + 1);

  for (guint i = 0; i < names->len; i++)
    {
      states[i].szReader = g_ptr_array_index (names, i);
      if (known != NULL)
        states[i].dwCurrentState
            = GPOINTER_TO_UINT (g_hash_table_lookup (known, states[i].szReader));
    }
  *out_n = names->len;
  if (with_pnp)
    {
      states[names->len].szReader = PNP_READER;
      /* Newer versions of pcsc-lite compare the number of readers with this one. */
      states[names->len].dwCurrentState = (DWORD) names->len << 16;
      *out_n += 1;
    }
  return states;
}

static KwScSnapshot *
take_states (GHashTable *known, const SCARD_READERSTATE *states, guint n_readers)
{
  KwScSnapshot *snapshot = kw_sc_snapshot_new (KW_SC_SERVICE_RUNNING, NULL);

  if (known != NULL)
    g_hash_table_remove_all (known);
  for (guint i = 0; i < n_readers; i++)
    {
      if (known != NULL)
        g_hash_table_insert (known, g_strdup (states[i].szReader),
                             GUINT_TO_POINTER (
                                 (guint) (states[i].dwEventState & ~(DWORD) SCARD_STATE_CHANGED)));
      add_reader (snapshot, &states[i]);
    }
  return snapshot;
}

/* One wait: for a change, for the poll, or to be cancelled. */
static void
watch (KwScMonitor *self)
{
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  g_autofree SCARD_READERSTATE *states = NULL;
  g_autoptr (KwScSnapshot) snapshot = NULL;
  DWORD n_states = 0;
  LONG rv = list_readers (self->card_context, names);
  gboolean quit = FALSE;

  if (rv != SCARD_S_SUCCESS)
    {
      take_failure (self, rv);
      return;
    }
  states = make_states (names, self->states, TRUE, &n_states);
  g_mutex_lock (&self->lock);
  quit = self->quit;
  self->waiting = !quit && !self->awake;
  g_mutex_unlock (&self->lock);
  if (quit)
    return;
  rv = SCardGetStatusChange (self->card_context,
                             self->waiting ? (DWORD) (self->timing.poll / 1000) : 0, states,
                             n_states);
  g_mutex_lock (&self->lock);
  self->waiting = FALSE;
  self->awake = FALSE;
  g_mutex_unlock (&self->lock);
  if (rv == SCARD_E_CANCELLED || rv == SCARD_E_UNKNOWN_READER)
    return;
  if (rv != SCARD_S_SUCCESS && rv != SCARD_E_TIMEOUT)
    {
      take_failure (self, rv);
      return;
    }
  self->delay = self->timing.first;
  snapshot = take_states (self->states, states, names->len);
  post (self, snapshot);
}

static gpointer
monitor_thread (gpointer user_data)
{
  KwScMonitor *self = user_data;

  while (!has_to_quit (self))
    {
      if (!self->has_context)
        ensure_context (self);
      else
        watch (self);
    }
  drop_context (self);
  g_clear_pointer (&self->last, kw_sc_snapshot_unref);
  g_mutex_lock (&self->lock);
  self->finished = TRUE;
  g_cond_broadcast (&self->changed);
  g_mutex_unlock (&self->lock);
  kw_sc_monitor_unref (self);
  return NULL;
}

/*
 * Gets the other thread out of its wait. A cancellation that comes just before the wait begins is lost, so it is repeated; and
 * it is another program that has to be told, so the main context has a thread do it.
 */
static gpointer
cancel_thread (gpointer user_data)
{
  KwScMonitor *self = user_data;

  g_mutex_lock (&self->lock);
  while (!self->finished && (self->quit || self->awake))
    {
      if (self->waiting)
        {
          SCARDCONTEXT card_context = self->card_context;

          g_mutex_unlock (&self->lock);
          SCardCancel (card_context);
          g_mutex_lock (&self->lock);
        }
      g_cond_wait_until (&self->changed, &self->lock, g_get_monotonic_time () + CANCEL_USEC);
    }
  g_mutex_unlock (&self->lock);
  kw_sc_monitor_unref (self);
  return NULL;
}

static void
start_cancel (KwScMonitor *self)
{
  GThread *thread
      = g_thread_try_new ("kw-sc-cancel", cancel_thread, kw_sc_monitor_ref (self), NULL);

  if (thread != NULL)
    g_thread_unref (thread);
  else
    kw_sc_monitor_unref (self); /* the poll ends the wait, only later */
}

/**
 * kw_sc_snapshot_take:
 *
 * Looks at all readers once, for those who do not watch them. Blocks; any thread.
 *
 * Returns: (transfer full): what there is
 */
KwScSnapshot *
kw_sc_snapshot_take (void)
{
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  g_autofree SCARD_READERSTATE *states = NULL;
  KwScSnapshot *snapshot = NULL;
  SCARDCONTEXT card_context = 0;
  DWORD n_states = 0;
  LONG rv = SCardEstablishContext (SCARD_SCOPE_SYSTEM, NULL, NULL, &card_context);

  if (rv != SCARD_S_SUCCESS)
    return snapshot_new_failed (rv);
  rv = list_readers (card_context, names);
  if (rv == SCARD_S_SUCCESS)
    {
      states = make_states (names, NULL, FALSE, &n_states);
      if (n_states > 0)
        rv = SCardGetStatusChange (card_context, 0, states, n_states);
    }
  if (rv == SCARD_S_SUCCESS || rv == SCARD_E_TIMEOUT)
    snapshot = take_states (NULL, states, names->len);
  else
    snapshot = snapshot_new_failed (rv);
  SCardReleaseContext (card_context);
  return snapshot;
}

/**
 * kw_sc_monitor_start:
 * @timing: how long to wait for what
 * @func: (scope notified): hears of each change
 * @user_data: passed to @func
 *
 * Starts to watch. News come in the context that is the calling thread's default.
 *
 * Returns: (transfer full): the monitor
 */
KwScMonitor *
kw_sc_monitor_start (const KwScMonitorTiming *timing, KwScMonitorFunc func, gpointer user_data)
{
  KwScMonitor *self = NULL;

  g_return_val_if_fail (timing != NULL && func != NULL, NULL);

  self = g_new0 (KwScMonitor, 1);
  g_atomic_ref_count_init (&self->references);
  g_mutex_init (&self->lock);
  g_cond_init (&self->changed);
  self->timing = *timing;
  self->delay = timing->first;
  self->context = g_main_context_ref_thread_default ();
  self->func = func;
  self->user_data = user_data;
  self->states = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  g_thread_unref (g_thread_new ("kw-sc-monitor", monitor_thread, kw_sc_monitor_ref (self)));
  return self;
}

/**
 * kw_sc_monitor_wake:
 * @self: a monitor
 *
 * Has it look now, because something may have happened that it did not hear of. Does not block. The context's thread.
 */
void
kw_sc_monitor_wake (KwScMonitor *self)
{
  gboolean was_awake = FALSE;

  g_return_if_fail (self != NULL);

  g_mutex_lock (&self->lock);
  was_awake = self->awake || self->quit;
  self->awake = TRUE;
  g_cond_broadcast (&self->changed);
  g_mutex_unlock (&self->lock);
  if (!was_awake)
    start_cancel (self);
}

/**
 * kw_sc_monitor_stop:
 * @self: a monitor
 *
 * Lets the thread end as soon as it can; there are no more news. Does not block. The context's thread.
 */
void
kw_sc_monitor_stop (KwScMonitor *self)
{
  gboolean had_quit = FALSE;

  g_return_if_fail (self != NULL);

  self->stopped = TRUE;
  g_mutex_lock (&self->lock);
  had_quit = self->quit;
  self->quit = TRUE;
  g_cond_broadcast (&self->changed);
  g_mutex_unlock (&self->lock);
  if (!had_quit)
    start_cancel (self);
}

typedef struct
{
  KwScMonitor *monitor; /* owned */
  KwScLink *link;       /* owned */
} Closing;

static gpointer
close_thread (gpointer data)
{
  Closing *closing = data;
  KwScMonitor *self = closing->monitor;

  kw_sc_link_free (closing->link);
  g_mutex_lock (&self->lock);
  self->n_closing--;
  g_cond_broadcast (&self->changed);
  g_mutex_unlock (&self->lock);
  kw_sc_monitor_unref (self);
  g_free (closing);
  return NULL;
}

/**
 * kw_sc_monitor_close_link:
 * @self: a monitor
 * @link: (transfer full): a connection to a card
 *
 * Closes a connection, which may take pcscd a while, in a thread that kw_sc_monitor_wait() waits for. Any thread.
 */
void
kw_sc_monitor_close_link (KwScMonitor *self, KwScLink *link)
{
  Closing *closing = g_new0 (Closing, 1);
  GThread *thread = NULL;

  closing->monitor = kw_sc_monitor_ref (self);
  closing->link = link;
  g_mutex_lock (&self->lock);
  self->n_closing++;
  g_mutex_unlock (&self->lock);
  thread = g_thread_try_new ("kw-sc-close", close_thread, closing, NULL);
  if (thread != NULL)
    g_thread_unref (thread);
  else
    (void) close_thread (closing);
}

/**
 * kw_sc_monitor_wait:
 * @self: a monitor that was stopped
 * @timeout_usec: how long to wait
 *
 * Waits for its thread, and those that close connections, to have ended. Blocks; any thread.
 *
 * Returns: whether they ended in time
 */
gboolean
kw_sc_monitor_wait (KwScMonitor *self, gint64 timeout_usec)
{
  gint64 deadline = g_get_monotonic_time () + timeout_usec;
  gboolean in_time = TRUE;
  gboolean finished = FALSE;

  g_return_val_if_fail (self != NULL, TRUE);

  g_mutex_lock (&self->lock);
  while ((!self->finished || self->n_closing > 0) && in_time)
    in_time = g_cond_wait_until (&self->changed, &self->lock, deadline);
  finished = self->finished && self->n_closing == 0;
  g_mutex_unlock (&self->lock);
  return finished;
}

/**
 * kw_sc_monitor_unref:
 * @self: (transfer full): a monitor
 *
 * Drops a reference; stop it first. Any thread.
 */
void
kw_sc_monitor_unref (KwScMonitor *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_clear_pointer (&self->context, g_main_context_unref);
  g_clear_pointer (&self->states, g_hash_table_unref);
  g_mutex_clear (&self->lock);
  g_cond_clear (&self->changed);
  g_free (self);
}
