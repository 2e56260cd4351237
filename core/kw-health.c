/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-health"

#include "config.h"

#include "kw-health.h"

#include <glib/gi18n.h>

/*
 * How the service is: one word, one sentence, and what wants attention most. All doors say it the same way because they all
 * ask here. The signal “changed” comes once for all that changed together. Main context.
 */
struct _KwHealth
{
  GObject parent_instance;

  KwPool *pool;       /* owned */
  KwKeyring *keyring; /* owned */
  guint update_id;
  gboolean started; /* devices were looked for */

  KwHealthState state;
  gboolean consistent;
  char *text; /* owned */
  guint n_ready;
  guint n_devices;
};

enum
{
  SIGNAL_CHANGED,
  N_SIGNALS,
};

static guint signals[N_SIGNALS];

G_DEFINE_FINAL_TYPE (KwHealth, kw_health, G_TYPE_OBJECT)

static const char *const state_names[] = {
  [KW_HEALTH_STARTING] = N_ ("starting"),
  [KW_HEALTH_WAITING] = N_ ("waiting"),
  [KW_HEALTH_DEGRADED] = "degraded",
  [KW_HEALTH_READY] = "ready",
};

/* What wants attention most: a key, or else a device. */
static char *
dup_advice (KwKeyMatrix *matrix, GPtrArray *devices)
{
  for (guint i = 0; i < kw_key_matrix_get_n_keys (matrix); i++)
    {
      const KwKeyFacts *facts = kw_key_matrix_get_key (matrix, i);

      if (facts->configured && facts->advice != NULL)
        return g_strdup (facts->advice);
    }
  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);

      if (kw_device_get_state (device) != KW_DEVICE_READY)
        return g_strdup_printf ("%s: %s", kw_device_get_name (device),
                                kw_device_get_state_text (device));
    }
  return NULL;
}

static KwHealthState
judge (KwHealth *self, gboolean trouble)
{
  if (self->n_ready == 0)
    return self->started ? KW_HEALTH_WAITING : KW_HEALTH_STARTING;
  return self->consistent && self->n_ready == self->n_devices && !trouble ? KW_HEALTH_READY
                                                                          : KW_HEALTH_DEGRADED;
}

static gboolean
update (gpointer user_data)
{
  KwHealth *self = user_data;
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (self->pool);
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (self->keyring);
  g_autofree char *summary = kw_pool_dup_status_text (self->pool);
  g_autofree char *trouble = kw_pool_dup_trouble (self->pool);
  g_autofree char *advice = NULL;

  self->update_id = 0;
  self->n_devices = devices->len;
  self->n_ready = 0;
  for (guint i = 0; i < devices->len; i++)
    self->n_ready += kw_device_get_state (g_ptr_array_index (devices, i)) == KW_DEVICE_READY;
  self->consistent = kw_key_matrix_is_green (matrix);
  self->state = judge (self, trouble != NULL);
  advice = self->n_ready > 0 ? dup_advice (matrix, devices) : NULL;
  if (advice == NULL && self->n_ready > 0)
    advice = g_steal_pointer (&trouble);
  g_free (self->text);
  self->text
      = advice != NULL ? g_strdup_printf ("%s. %s", summary, advice) : g_steal_pointer (&summary);
  g_signal_emit (self, signals[SIGNAL_CHANGED], 0);
  return G_SOURCE_REMOVE;
}

static void
update_soon (KwHealth *self)
{
  self->started = TRUE;
  if (self->update_id == 0)
    self->update_id = g_idle_add (update, self);
}

static void
kw_health_dispose (GObject *object)
{
  KwHealth *self = KW_HEALTH (object);

  g_clear_handle_id (&self->update_id, g_source_remove);
  if (self->pool != NULL)
    g_signal_handlers_disconnect_by_data (self->pool, self);
  if (self->keyring != NULL)
    g_signal_handlers_disconnect_by_data (self->keyring, self);
  g_clear_object (&self->pool);
  g_clear_object (&self->keyring);
  G_OBJECT_CLASS (kw_health_parent_class)->dispose (object);
}

static void
kw_health_finalize (GObject *object)
{
  g_free (KW_HEALTH (object)->text);
  G_OBJECT_CLASS (kw_health_parent_class)->finalize (object);
}

static void
kw_health_class_init (KwHealthClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  object_class->dispose = kw_health_dispose;
  object_class->finalize = kw_health_finalize;
  /**
   * KwHealth::changed:
   *
   * Something of it may be different now.
   */
  signals[SIGNAL_CHANGED] = g_signal_new ("changed", KW_TYPE_HEALTH, G_SIGNAL_RUN_LAST, 0, NULL,
                                          NULL, NULL, G_TYPE_NONE, 0);
}

static void
kw_health_init (KwHealth *self G_GNUC_UNUSED)
{
}

/**
 * kw_health_new:
 * @pool: has the devices
 * @keyring: has the keys
 *
 * Returns: (transfer full): how the service is, from now on. Main context.
 */
KwHealth *
kw_health_new (KwPool *pool, KwKeyring *keyring)
{
  KwHealth *self = g_object_new (KW_TYPE_HEALTH, NULL);

  self->pool = g_object_ref (pool);
  self->keyring = g_object_ref (keyring);
  (void) update (self);
  self->started = self->n_devices > 0;
  g_signal_connect_swapped (pool, "changed", G_CALLBACK (update_soon), self);
  g_signal_connect_swapped (keyring, "changed", G_CALLBACK (update_soon), self);
  return self;
}

/**
 * kw_health_state_to_string:
 * @state: a state
 *
 * Returns: (transfer none): its nick. Any thread.
 */
const char *
kw_health_state_to_string (KwHealthState state)
{
  g_return_val_if_fail ((guint) state < G_N_ELEMENTS (state_names), NULL);

  return state_names[state];
}

/**
 * kw_health_get_state:
 * @self: the health
 *
 * Returns: how the service is
 */
KwHealthState
kw_health_get_state (KwHealth *self)
{
  return self->state;
}

/**
 * kw_health_is_operational:
 * @self: the health
 *
 * Returns: whether a device is ready, so that requests can be answered
 */
gboolean
kw_health_is_operational (KwHealth *self)
{
  return self->n_ready > 0;
}

/**
 * kw_health_is_consistent:
 * @self: the health
 *
 * Returns: whether no configured key is another one somewhere, or missing
 */
gboolean
kw_health_is_consistent (KwHealth *self)
{
  return self->consistent;
}

/**
 * kw_health_get_text:
 * @self: the health
 *
 * Returns: (transfer none): one sentence on the state, and what to do when something is to be done
 */
const char *
kw_health_get_text (KwHealth *self)
{
  return self->text;
}

/**
 * kw_health_get_n_ready:
 * @self: the health
 *
 * Returns: how many devices take work
 */
guint
kw_health_get_n_ready (KwHealth *self)
{
  return self->n_ready;
}

/**
 * kw_health_get_n_devices:
 * @self: the health
 *
 * Returns: how many devices there are
 */
guint
kw_health_get_n_devices (KwHealth *self)
{
  return self->n_devices;
}
