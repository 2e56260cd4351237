/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-monitor"

#include "config.h"

#include "kw-pkcs11-monitor.h"

#include "kw-error.h"
#include "kw-pkcs11-slots.h"

/*
 * The thread of the back end: loads and initialises the module, looks for the configured token,
 * watches it, and starts the module anew when the token is gone or gave trouble. It is the only
 * thread that initialises and finalises the module once it runs.
 *
 * The thread owns the fields under "thread"; the owner's side talks to it under the lock, and hears
 * from it through idle sources on the context that was its thread's default at the start. The thread
 * keeps a reference of its own, so that one stuck inside the module never has its data freed.
 */
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
  gboolean quit;              /* guarded by lock */
  gboolean finished;          /* guarded by lock */
  KwPkcs11Token *reset_token; /* owned; guarded by lock; a token that gave trouble */
  gint64 busy_since;          /* guarded by lock; 0 = outside the module */

  /* thread */
  KwPkcs11Token *token; /* owned; the token that was announced */
  gint64 token_since;
  gint64 load_delay;
  gint64 look_delay;
  gint64 reset_delay;
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

/* Waits, unless it has to quit or the token it announced gave trouble. */
static gboolean
wait_for_trouble (KwPkcs11Monitor *self, gint64 delay)
{
  gint64 deadline = g_get_monotonic_time () + delay;
  gboolean in_time = TRUE;
  gboolean trouble = FALSE;

  g_mutex_lock (&self->lock);
  while (in_time && !self->quit && !trouble)
    {
      trouble = self->reset_token != NULL && self->reset_token == self->token;
      g_clear_object (&self->reset_token);
      if (!trouble)
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
  if (self->token != NULL)
    kw_pkcs11_token_release (self->token);
  while (!kw_pkcs11_module_shut_down (self->module, QUIT_WAIT_USEC) && !has_to_quit (self))
    g_debug ("A call into %s is still in flight", kw_pkcs11_module_get_path (self->module));
  g_clear_object (&self->token);
  set_busy (self, FALSE);
}

static void
look (KwPkcs11Monitor *self)
{
  g_autoptr (GError) error = NULL;

  set_busy (self, TRUE);
  self->token
      = kw_pkcs11_look_for_token (self->module, kw_config_get_pkcs11 (self->config), &error);
  set_busy (self, FALSE);
  if (self->token != NULL)
    {
      self->token_since = g_get_monotonic_time ();
      self->look_delay = self->timing.look_first;
      self->looked_before = FALSE;
      post (self, KW_PKCS11_NEWS_STATUS, NULL, NULL);
      post (self, KW_PKCS11_NEWS_ADDED, self->token, NULL);
      return;
    }
  post (self, KW_PKCS11_NEWS_STATUS, NULL, error->message);
  /* Many modules see a new token only when they are initialised. */
  shut_down (self);
  wait_for_trouble (self, self->look_delay);
  self->look_delay = back_off (self->look_delay, self->timing.look_max);
  self->looked_before = TRUE;
}

static void
start_anew (KwPkcs11Monitor *self)
{
  gint64 lived = g_get_monotonic_time () - self->token_since;

  shut_down (self);
  if (lived >= self->timing.calm)
    self->reset_delay = 0;
  if (self->reset_delay > 0)
    wait_for_trouble (self, self->reset_delay);
  self->reset_delay
      = MAX (back_off (self->reset_delay, self->timing.reset_max), self->timing.reset_first);
}

static void
watch (KwPkcs11Monitor *self)
{
  g_autoptr (GError) error = NULL;
  gboolean ok = FALSE;

  if (wait_for_trouble (self, self->timing.check))
    {
      post (self, KW_PKCS11_NEWS_STATUS, NULL,
            "The token gave errors; its PKCS#11 module is being started anew");
      start_anew (self);
      return;
    }
  if (has_to_quit (self))
    return;
  set_busy (self, TRUE);
  ok = kw_pkcs11_token_check (self->token, &error);
  set_busy (self, FALSE);
  if (ok)
    return;
  post (self, KW_PKCS11_NEWS_REMOVED, self->token, NULL);
  post (self, KW_PKCS11_NEWS_STATUS, NULL, error->message);
  start_anew (self);
}

static gpointer
monitor_thread (gpointer data)
{
  KwPkcs11Monitor *self = data;

  while (!has_to_quit (self))
    {
      if (!kw_pkcs11_module_is_initialized (self->module))
        initialize (self);
      else if (self->token == NULL)
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
 * kw_pkcs11_look_for_token:
 * @module: an initialised module
 * @config: table `[pkcs11]`
 * @error: where to store the error
 *
 * Looks for the configured token. Blocks; the back end's thread.
 *
 * Returns: (transfer full): the token; %NULL with an error whose message lists what is there
 */
KwPkcs11Token *
kw_pkcs11_look_for_token (KwPkcs11Module *module, const KwPkcs11Config *config, GError **error)
{
  CK_INFO info = { 0 };
  g_autoptr (GArray) slots = NULL;
  const KwPkcs11Slot *slot = NULL;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (module) && config != NULL, NULL);

  slots = kw_pkcs11_slots_read (module, &info, error);
  if (slots == NULL)
    return NULL;
  slot = kw_pkcs11_select_slot (config, &info, (const KwPkcs11Slot *) (gpointer) slots->data,
                                slots->len, error);
  return slot != NULL ? kw_pkcs11_token_new (module, slot, config) : NULL;
}

/**
 * kw_pkcs11_monitor_start:
 * @module: a module that nobody else initialises
 * @config: the configuration; it does not change any more
 * @timing: how long to wait for what
 * @func: (scope notified): hears the news
 * @user_data: passed to @func
 *
 * Starts a thread that looks after the configured token. The news come in the context that is the
 * calling thread's default.
 *
 * Returns: (transfer full): the monitor
 */
KwPkcs11Monitor *
kw_pkcs11_monitor_start (KwPkcs11Module *module,
                         KwConfig *config,
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
 * Asks for the module to be started anew; ignored when the token is not the one that is there. Does
 * not block. Any thread.
 */
void
kw_pkcs11_monitor_reset (KwPkcs11Monitor *self, KwPkcs11Token *token)
{
  g_return_if_fail (self != NULL && KW_IS_PKCS11_TOKEN (token));

  g_mutex_lock (&self->lock);
  g_set_object (&self->reset_token, token);
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
  g_clear_object (&self->token);
  g_clear_object (&self->reset_token);
  g_clear_pointer (&self->context, g_main_context_unref);
  g_mutex_clear (&self->lock);
  g_cond_clear (&self->changed);
  g_free (self);
}
