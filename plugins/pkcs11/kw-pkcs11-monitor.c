/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-monitor"

#include "config.h"

#include "kw-pkcs11-monitor.h"

#include "kw-error.h"
#include "kw-pkcs11-slots.h"

#include <string.h>

/*
 * The thread that looks after one module: loads and initialises it, looks for the configured tokens,
 * watches them, and starts the module anew when a token is gone or gave trouble. It is the only
 * thread that initialises and finalises the module once it runs.
 *
 * To start a module anew takes all its tokens away. So while others of them work, a token that gave
 * trouble is dropped and found again in the same generation first; the module is started anew for it,
 * or for one that is missing, only now and then, and never while a call that was given up is still
 * inside, because C_Finalize would wait for it and the others with it.
 *
 * The thread owns the fields under "thread"; the owner's side talks to it under the lock, and hears
 * from it through idle sources on the context that was its thread's default at the start. The thread
 * keeps a reference of its own, so that one stuck inside the module never has its data freed.
 */

/* One table of the configuration, and the token it means. */
typedef struct
{
  const KwPkcs11Config *table; /* borrowed from the configuration */
  KwPkcs11Token *token;        /* owned; the token that was announced */
  gint64 token_since;
  gint64 reset_delay;
  gint64 not_before; /* monotonic: it is not looked for earlier */
  gboolean missing;  /* it was looked for and not found, so it is not only in back-off */
  char *reason;      /* owned; why it is not there */
} Place;

struct _KwPkcs11Monitor
{
  gatomicrefcount references;

  KwPkcs11Module *module; /* owned */
  KwConfig *config;       /* owned */
  KwPkcs11Timing timing;
  GMainContext *context; /* owned */
  KwPkcs11NewsFunc func;
  gpointer user_data;
  gboolean stopped; /* no more news; context's thread only */

  GMutex lock;
  GCond changed;
  gboolean quit;           /* guarded by lock */
  gboolean finished;       /* guarded by lock */
  GPtrArray *reset_tokens; /* owned; guarded by lock; of KwPkcs11Token: those that gave trouble */
  gint64 busy_since;       /* guarded by lock; 0 = outside the module */

  /* thread */
  GPtrArray *places;    /* owned; of Place */
  GPtrArray *lingering; /* owned; of KwPkcs11Token: dropped, with calls still inside */
  gint64 load_delay;
  gint64 look_delay;
  gint64 share_delay;
  gint64 share_after;     /* monotonic: others are disturbed no earlier */
  gboolean looked_before; /* a look without success is repeated */
};

/* How long calls in flight may take to return when all ends. */
#define QUIT_WAIT_USEC G_USEC_PER_SEC

typedef struct
{
  KwPkcs11Monitor *monitor; /* owned */
  KwPkcs11News news;
  KwPkcs11Token *token; /* owned, nullable */
  char *status;         /* owned, nullable */
} NewsItem;

static void
news_item_free (gpointer data)
{
  NewsItem *item = data;

  kw_pkcs11_monitor_unref (item->monitor);
  g_clear_object (&item->token);
  g_free (item->status);
  g_free (item);
}

static gboolean
deliver_news_cb (gpointer data)
{
  NewsItem *item = data;

  if (!item->monitor->stopped)
    item->monitor->func (item->news, item->token, item->status, item->monitor->user_data);
  return G_SOURCE_REMOVE;
}

static KwPkcs11Monitor *
monitor_ref (KwPkcs11Monitor *self)
{
  g_atomic_ref_count_inc (&self->references);
  return self;
}

static void
post (KwPkcs11Monitor *self, KwPkcs11News news, KwPkcs11Token *token, const char *status)
{
  NewsItem *item = g_new0 (NewsItem, 1);
  g_autoptr (GSource) source = g_idle_source_new ();

  item->monitor = monitor_ref (self);
  item->news = news;
  item->token = token != NULL ? g_object_ref (token) : NULL;
  item->status = g_strdup (status);
  g_source_set_priority (source, G_PRIORITY_DEFAULT);
  g_source_set_callback (source, deliver_news_cb, item, news_item_free);
  g_source_set_static_name (source, "kw-pkcs11-news");
  g_source_attach (source, self->context);
}

static void
set_busy (KwPkcs11Monitor *self, gboolean busy)
{
  g_mutex_lock (&self->lock);
  self->busy_since = busy ? g_get_monotonic_time () : 0;
  g_mutex_unlock (&self->lock);
}

static gboolean
has_to_quit (KwPkcs11Monitor *self)
{
  gboolean quit = FALSE;

  g_mutex_lock (&self->lock);
  quit = self->quit;
  g_mutex_unlock (&self->lock);
  return quit;
}

static Place *
get_place (KwPkcs11Monitor *self, guint i)
{
  return g_ptr_array_index (self->places, i);
}

static Place *
find_place (KwPkcs11Monitor *self, KwPkcs11Token *token)
{
  for (guint i = 0; i < self->places->len; i++)
    {
      if (get_place (self, i)->token == token)
        return get_place (self, i);
    }
  return NULL;
}

static guint
count_tokens (KwPkcs11Monitor *self)
{
  guint n_tokens = 0;

  for (guint i = 0; i < self->places->len; i++)
    n_tokens += get_place (self, i)->token != NULL ? 1 : 0;
  return n_tokens;
}

/* Waits, unless it has to quit or a token it announced gave trouble: then says which place it is in. */
static Place *
wait_for_trouble (KwPkcs11Monitor *self, gint64 delay)
{
  gint64 deadline = g_get_monotonic_time () + delay;
  gboolean in_time = TRUE;
  Place *trouble = NULL;

  g_mutex_lock (&self->lock);
  while (in_time && !self->quit && trouble == NULL)
    {
      while (trouble == NULL && self->reset_tokens->len > 0)
        {
          trouble = find_place (self, g_ptr_array_index (self->reset_tokens, 0));
          g_ptr_array_remove_index (self->reset_tokens, 0);
        }
      if (trouble == NULL)
        in_time = g_cond_wait_until (&self->changed, &self->lock, deadline);
    }
  g_mutex_unlock (&self->lock);
  return trouble;
}

static gint64
back_off (gint64 delay, gint64 max)
{
  return MIN (delay * 2, max);
}

static void
initialize (KwPkcs11Monitor *self)
{
  /* Whoever waits for a token for days does not want to read of every look. */
  GLogLevelFlags level = self->looked_before ? G_LOG_LEVEL_DEBUG : G_LOG_LEVEL_INFO;
  g_autoptr (GError) error = NULL;
  gboolean ok = FALSE;

  set_busy (self, TRUE);
  ok = kw_pkcs11_module_load (self->module, &error)
       && kw_pkcs11_module_initialize (self->module, level, &error);
  set_busy (self, FALSE);
  if (ok)
    {
      self->load_delay = self->timing.load_first;
      return;
    }
  post (self, KW_PKCS11_NEWS_STATUS, NULL, error->message);
  wait_for_trouble (self, self->load_delay);
  self->load_delay = back_off (self->load_delay, self->timing.load_max);
}

/* Waits for calls in flight as long as it takes: C_Finalize beside another call is worse. */
static void
shut_down (KwPkcs11Monitor *self)
{
  set_busy (self, TRUE);
  for (guint i = 0; i < self->places->len; i++)
    {
      if (get_place (self, i)->token != NULL)
        kw_pkcs11_token_release (get_place (self, i)->token);
    }
  while (!kw_pkcs11_module_shut_down (self->module, QUIT_WAIT_USEC) && !has_to_quit (self))
    g_debug ("A call into %s is still in flight", kw_pkcs11_module_get_path (self->module));
  for (guint i = 0; i < self->places->len; i++)
    g_clear_object (&get_place (self, i)->token);
  g_ptr_array_set_size (self->lingering, 0);
  set_busy (self, FALSE);
}

/* Says what is missing, and nothing when all is there. */
static void
post_status (KwPkcs11Monitor *self)
{
  g_autoptr (GString) text = g_string_new (NULL);

  for (guint i = 0; i < self->places->len; i++)
    {
      const Place *place = get_place (self, i);

      if (place->token == NULL && place->reason != NULL
          && strstr (text->str, place->reason) == NULL)
        g_string_append_printf (text, "%s%s", text->len > 0 ? "; " : "", place->reason);
    }
  post (self, KW_PKCS11_NEWS_STATUS, NULL, text->len > 0 ? text->str : NULL);
}

static void
set_reason (Place *place, const char *reason)
{
  g_free (place->reason);
  place->reason = g_strdup (reason);
}

static gboolean
slot_is_taken (KwPkcs11Monitor *self, CK_SLOT_ID slot)
{
  for (guint i = 0; i < self->places->len; i++)
    {
      KwPkcs11Token *token = get_place (self, i)->token;

      if (token != NULL && kw_token_get_info (KW_TOKEN (token))->slot == slot)
        return TRUE;
    }
  return FALSE;
}

/* Looks for the token of one table among slots that were read just now. */
static void
fill_place (KwPkcs11Monitor *self, Place *place, const CK_INFO *info, GArray *slots)
{
  g_autoptr (GError) error = NULL;
  const KwPkcs11Slot *slot
      = kw_pkcs11_select_slot (place->table, info, (const KwPkcs11Slot *) (gpointer) slots->data,
                               slots->len, &error);

  if (slot == NULL)
    {
      set_reason (place, error->message);
      return;
    }
  if (slot_is_taken (self, slot->id))
    {
      set_reason (place, "Two tables [[pkcs11]] mean one token; tell them apart by token_serial");
      return;
    }
  place->token = kw_pkcs11_token_new (self->module, slot, place->table);
  place->token_since = g_get_monotonic_time ();
  set_reason (place, NULL);
}

/* Looks for all tokens that are missing and whose time has come. */
static void
look_for_missing (KwPkcs11Monitor *self)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GArray) slots = NULL;
  g_autoptr (GPtrArray) found = g_ptr_array_new ();
  gint64 now = g_get_monotonic_time ();
  CK_INFO info = { 0 };

  set_busy (self, TRUE);
  slots = kw_pkcs11_slots_read (self->module, &info, &error);
  for (guint i = 0; i < self->places->len; i++)
    {
      Place *place = get_place (self, i);

      if (place->token != NULL || place->not_before > now)
        continue;
      if (slots == NULL)
        set_reason (place, error->message);
      else
        fill_place (self, place, &info, slots);
      place->missing = place->token == NULL;
      if (!place->missing)
        g_ptr_array_add (found, place->token);
    }
  set_busy (self, FALSE);
  if (found->len > 0)
    {
      self->look_delay = self->timing.look_first;
      self->looked_before = FALSE;
    }
  post_status (self);
  for (guint i = 0; i < found->len; i++)
    post (self, KW_PKCS11_NEWS_ADDED, g_ptr_array_index (found, i), NULL);
}

/* Nothing is there yet. */
static void
look (KwPkcs11Monitor *self)
{
  look_for_missing (self);
  if (count_tokens (self) > 0)
    {
      self->share_delay = self->timing.share_first;
      self->share_after = g_get_monotonic_time () + self->share_delay;
      return;
    }
  /* Many modules see a new token only when they are initialised. */
  shut_down (self);
  wait_for_trouble (self, self->look_delay);
  self->look_delay = back_off (self->look_delay, self->timing.look_max);
  self->looked_before = TRUE;
}

/* Doubles the wait of a token that gives trouble again and again. */
static gint64
take_reset_delay (KwPkcs11Monitor *self, Place *place)
{
  gint64 delay = 0;

  if (g_get_monotonic_time () - place->token_since >= self->timing.calm)
    place->reset_delay = 0;
  delay = place->reset_delay;
  place->reset_delay
      = MAX (back_off (place->reset_delay, self->timing.reset_max), self->timing.reset_first);
  return delay;
}

/* The only token: starts the module anew. */
static void
start_anew (KwPkcs11Monitor *self, Place *place)
{
  gint64 delay = take_reset_delay (self, place);

  shut_down (self);
  if (delay > 0)
    wait_for_trouble (self, delay);
}

/* One of several: the others go on. */
static void
drop_token (KwPkcs11Monitor *self, Place *place)
{
  place->not_before = g_get_monotonic_time () + take_reset_delay (self, place);
  set_busy (self, TRUE);
  kw_pkcs11_token_release (place->token);
  set_busy (self, FALSE);
  g_ptr_array_add (self->lingering, g_steal_pointer (&place->token));
}

static void
drop_or_start_anew (KwPkcs11Monitor *self, Place *place)
{
  if (count_tokens (self) > 1)
    drop_token (self, place);
  else
    start_anew (self, place);
}

/* Calls that were given up: the module must not be finalised beside them. */
static gboolean
calls_linger (KwPkcs11Monitor *self)
{
  for (guint i = self->lingering->len; i > 0; i--)
    {
      if (kw_pkcs11_token_is_idle (g_ptr_array_index (self->lingering, i - 1)))
        g_ptr_array_remove_index (self->lingering, i - 1);
    }
  return self->lingering->len > 0;
}

/* Others work, and one is missing, perhaps because the module sees it only when it is started anew. */
static void
start_anew_for_missing (KwPkcs11Monitor *self)
{
  if (g_get_monotonic_time () < self->share_after || calls_linger (self))
    return;
  self->share_delay = back_off (self->share_delay, self->timing.share_max);
  self->share_after = g_get_monotonic_time () + self->share_delay;
  for (guint i = 0; i < self->places->len; i++)
    {
      if (get_place (self, i)->token != NULL)
        post (self, KW_PKCS11_NEWS_REMOVED, get_place (self, i)->token, NULL);
      get_place (self, i)->not_before = 0;
    }
  shut_down (self);
}

static void
check_token (KwPkcs11Monitor *self, Place *place)
{
  g_autoptr (GError) error = NULL;
  gboolean ok = FALSE;

  set_busy (self, TRUE);
  ok = kw_pkcs11_token_check (place->token, &error);
  set_busy (self, FALSE);
  if (ok)
    return;
  post (self, KW_PKCS11_NEWS_REMOVED, place->token, NULL);
  set_reason (place, error->message);
  post (self, KW_PKCS11_NEWS_STATUS, NULL, error->message);
  drop_or_start_anew (self, place);
}

/* Until when to sleep: the next check, or the next look for what is missing. */
static gint64
next_delay (KwPkcs11Monitor *self)
{
  gint64 delay = self->timing.check;
  gint64 now = g_get_monotonic_time ();

  for (guint i = 0; i < self->places->len; i++)
    {
      const Place *place = get_place (self, i);

      if (place->token == NULL)
        delay = MIN (delay, MAX (place->not_before - now, 0));
    }
  return delay;
}

static void
watch (KwPkcs11Monitor *self)
{
  Place *trouble = wait_for_trouble (self, next_delay (self));
  gboolean missing = FALSE;
  gint64 now = 0;

  if (trouble != NULL)
    {
      set_reason (trouble, "The token gave errors; its PKCS#11 module is being started anew");
      post (self, KW_PKCS11_NEWS_STATUS, NULL, trouble->reason);
      drop_or_start_anew (self, trouble);
      return;
    }
  for (guint i = 0; i < self->places->len && !has_to_quit (self); i++)
    {
      Place *place = get_place (self, i);

      if (place->token != NULL && kw_pkcs11_module_is_initialized (self->module))
        check_token (self, place);
    }
  if (has_to_quit (self) || !kw_pkcs11_module_is_initialized (self->module)
      || count_tokens (self) == self->places->len)
    return;
  look_for_missing (self);
  if (count_tokens (self) == self->places->len)
    {
      self->share_delay = self->timing.share_first;
      return;
    }
  now = g_get_monotonic_time ();
  for (guint i = 0; i < self->places->len; i++)
    {
      Place *place = get_place (self, i);

      if (place->missing)
        place->not_before = MAX (place->not_before, now + self->timing.check);
      missing |= place->missing;
    }
  if (missing && count_tokens (self) > 0)
    start_anew_for_missing (self);
}

static gpointer
monitor_thread (gpointer data)
{
  KwPkcs11Monitor *self = data;

  while (!has_to_quit (self))
    {
      if (!kw_pkcs11_module_is_initialized (self->module))
        initialize (self);
      else if (count_tokens (self) == 0)
        look (self);
      else
        watch (self);
    }
  shut_down (self);

  g_mutex_lock (&self->lock);
  self->finished = TRUE;
  g_cond_broadcast (&self->changed);
  g_mutex_unlock (&self->lock);
  kw_pkcs11_monitor_unref (self);
  return NULL;
}

/**
 * kw_pkcs11_look_for_tokens:
 * @module: an initialised module
 * @tables: (element-type KwPkcs11Config): tables `[[pkcs11]]` of this module
 * @error: where to store the error
 *
 * Looks for the configured tokens. Blocks; the back end's thread.
 *
 * Returns: (transfer full) (element-type KwPkcs11Token): those that are there; %NULL with the first
 *   error, whose message lists what is there, when none is
 */
GPtrArray *
kw_pkcs11_look_for_tokens (KwPkcs11Module *module, GPtrArray *tables, GError **error)
{
  CK_INFO info = { 0 };
  g_autoptr (GArray) slots = NULL;
  g_autoptr (GPtrArray) tokens = g_ptr_array_new_with_free_func (g_object_unref);
  g_autoptr (GError) first_error = NULL;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (module) && tables != NULL, NULL);

  slots = kw_pkcs11_slots_read (module, &info, error);
  for (guint i = 0; slots != NULL && i < tables->len; i++)
    {
      const KwPkcs11Config *table = g_ptr_array_index (tables, i);
      const KwPkcs11Slot *slot
          = kw_pkcs11_select_slot (table, &info, (const KwPkcs11Slot *) (gpointer) slots->data,
                                   slots->len, first_error == NULL ? &first_error : NULL);

      if (slot != NULL)
        g_ptr_array_add (tokens, kw_pkcs11_token_new (module, slot, table));
    }
  if (slots == NULL)
    return NULL;
  if (tokens->len == 0)
    {
      g_propagate_error (error, g_steal_pointer (&first_error));
      return NULL;
    }
  return g_steal_pointer (&tokens);
}

static void
place_free (gpointer data)
{
  Place *place = data;

  g_clear_object (&place->token);
  g_free (place->reason);
  g_free (place);
}

/**
 * kw_pkcs11_monitor_start:
 * @module: a module that nobody else initialises
 * @config: the configuration; it does not change any more
 * @tables: (element-type KwPkcs11Config): those of its tables `[[pkcs11]]` that name the module
 * @timing: how long to wait for what
 * @func: (scope notified): hears the news
 * @user_data: passed to @func
 *
 * Starts a thread that looks after the configured tokens. The news come in the context that is the
 * calling thread's default.
 *
 * Returns: (transfer full): the monitor
 */
KwPkcs11Monitor *
kw_pkcs11_monitor_start (KwPkcs11Module *module,
                         KwConfig *config,
                         GPtrArray *tables,
                         const KwPkcs11Timing *timing,
                         KwPkcs11NewsFunc func,
                         gpointer user_data)
{
  KwPkcs11Monitor *self = NULL;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (module) && timing != NULL && func != NULL, NULL);

  self = g_new0 (KwPkcs11Monitor, 1);
  g_atomic_ref_count_init (&self->references);
  g_mutex_init (&self->lock);
  g_cond_init (&self->changed);
  self->module = g_object_ref (module);
  self->config = g_object_ref (config);
  self->timing = *timing;
  self->context = g_main_context_ref_thread_default ();
  self->func = func;
  self->user_data = user_data;
  self->places = g_ptr_array_new_with_free_func (place_free);
  for (guint i = 0; i < tables->len; i++)
    {
      Place *place = g_new0 (Place, 1);

      place->table = g_ptr_array_index (tables, i);
      g_ptr_array_add (self->places, place);
    }
  self->lingering = g_ptr_array_new_with_free_func (g_object_unref);
  self->reset_tokens = g_ptr_array_new_with_free_func (g_object_unref);
  self->load_delay = timing->load_first;
  self->look_delay = timing->look_first;
  g_thread_unref (g_thread_new ("kw-pkcs11", monitor_thread, monitor_ref (self)));
  return self;
}

/**
 * kw_pkcs11_monitor_reset:
 * @self: a monitor
 * @token: a token that gave trouble
 *
 * Asks for a token to be found anew, and the module to be started anew where it has no other tokens
 * that work; ignored when the token is none of those that are there. Does not block. Any thread.
 */
void
kw_pkcs11_monitor_reset (KwPkcs11Monitor *self, KwPkcs11Token *token)
{
  g_return_if_fail (self != NULL && KW_IS_PKCS11_TOKEN (token));

  g_mutex_lock (&self->lock);
  if (!g_ptr_array_find (self->reset_tokens, token, NULL))
    g_ptr_array_add (self->reset_tokens, g_object_ref (token));
  g_cond_broadcast (&self->changed);
  g_mutex_unlock (&self->lock);
}

/**
 * kw_pkcs11_monitor_get_busy_usec:
 * @self: a monitor
 *
 * Tells for how long the thread has been inside the module, or waiting for others to leave it. Any
 * thread.
 *
 * Returns: microseconds; 0 when it is outside
 */
gint64
kw_pkcs11_monitor_get_busy_usec (KwPkcs11Monitor *self)
{
  gint64 busy_since = 0;

  g_return_val_if_fail (self != NULL, 0);

  g_mutex_lock (&self->lock);
  busy_since = self->busy_since;
  g_mutex_unlock (&self->lock);
  return busy_since != 0 ? g_get_monotonic_time () - busy_since : 0;
}

/**
 * kw_pkcs11_monitor_stop:
 * @self: a monitor
 *
 * Lets the thread end as soon as it can; there are no more news. Does not block. The context's
 * thread.
 */
void
kw_pkcs11_monitor_stop (KwPkcs11Monitor *self)
{
  g_return_if_fail (self != NULL);

  self->stopped = TRUE;
  g_mutex_lock (&self->lock);
  self->quit = TRUE;
  g_cond_broadcast (&self->changed);
  g_mutex_unlock (&self->lock);
}

/**
 * kw_pkcs11_monitor_wait:
 * @self: a monitor that was stopped
 * @timeout_usec: how long to wait
 *
 * Waits for the thread to have ended, and the module with it. Blocks; any thread.
 *
 * Returns: whether it ended in time
 */
gboolean
kw_pkcs11_monitor_wait (KwPkcs11Monitor *self, gint64 timeout_usec)
{
  gint64 deadline = g_get_monotonic_time () + timeout_usec;
  gboolean in_time = TRUE;
  gboolean finished = FALSE;

  g_return_val_if_fail (self != NULL, TRUE);

  g_mutex_lock (&self->lock);
  while (!self->finished && in_time)
    in_time = g_cond_wait_until (&self->changed, &self->lock, deadline);
  finished = self->finished;
  g_mutex_unlock (&self->lock);
  return finished;
}

/**
 * kw_pkcs11_monitor_unref:
 * @self: (transfer full): a monitor
 *
 * Drops a reference; stop it first. Any thread.
 */
void
kw_pkcs11_monitor_unref (KwPkcs11Monitor *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_clear_object (&self->module);
  g_clear_object (&self->config);
  g_ptr_array_unref (self->places);
  g_ptr_array_unref (self->lingering);
  g_ptr_array_unref (self->reset_tokens);
  g_clear_pointer (&self->context, g_main_context_unref);
  g_mutex_clear (&self->lock);
  g_cond_clear (&self->changed);
  g_free (self);
}
