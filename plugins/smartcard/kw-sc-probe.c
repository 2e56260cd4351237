/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-probe"

#include "config.h"

#include "kw-sc-probe.h"

/*
 * Looks at a card that was put in. A card that hangs keeps a thread, and no more than that: the probe is dropped when the card
 * goes, and what comes of it later is thrown away.
 */
struct _KwScProbe
{
  gatomicrefcount references;

  char *reader; /* owned; immutable */
  GBytes *atr;  /* owned; immutable */
  gboolean blank_before;
  GMainContext *context; /* owned */
  KwScProbeFunc func;    /* NULL when dropped; context's thread only */
  gpointer user_data;

  /* Written by the thread before the result is delivered. */
  KwScToken *token; /* owned, nullable */
  gboolean is_blank;
  GError *error; /* owned, nullable */
};

static void
probe_unref (gpointer data)
{
  KwScProbe *self = data;

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_free (self->reader);
  g_bytes_unref (self->atr);
  g_main_context_unref (self->context);
  g_clear_object (&self->token);
  g_clear_error (&self->error);
  g_free (self);
}

static gboolean
deliver (gpointer user_data)
{
  KwScProbe *self = user_data;

  if (self->func != NULL)
    self->func (self, self->token, self->is_blank, self->error, self->user_data);
  return G_SOURCE_REMOVE;
}

static gpointer
probe_thread (gpointer user_data)
{
  KwScProbe *self = user_data;
  g_autoptr (GSource) source = g_idle_source_new ();

  /* Selecting the applet would get in the way of whoever is initialising the card just now. */
  if (self->blank_before)
    kw_sc_token_is_blank (self->reader, &self->is_blank, &self->error);
  if (!self->is_blank && self->error == NULL)
    self->token = kw_sc_token_new (self->reader, self->atr, &self->error);
  g_source_set_priority (source, G_PRIORITY_DEFAULT);
  g_source_set_callback (source, deliver, self, probe_unref);
  g_source_set_static_name (source, "kw-sc-probe");
  g_source_attach (source, self->context);
  return NULL;
}

/**
 * kw_sc_probe_start:
 * @reader: name of a reader with a card in it
 * @atr: the card's answer to reset
 * @blank_before: it is a SmartCard-HSM that was blank when it was looked at last
 * @func: (scope notified): hears what came of it, unless the probe is dropped before
 * @user_data: passed to @func
 *
 * Looks at a card. The result comes in the context that is the calling thread's default.
 *
 * Returns: (transfer full): the probe
 */
KwScProbe *
kw_sc_probe_start (const char *reader,
                   GBytes *atr,
                   gboolean blank_before,
                   KwScProbeFunc func,
                   gpointer user_data)
{
  KwScProbe *self = NULL;

  g_return_val_if_fail (reader != NULL && atr != NULL && func != NULL, NULL);

  self = g_new0 (KwScProbe, 1);
  g_atomic_ref_count_init (&self->references);
  g_atomic_ref_count_inc (&self->references);
  self->reader = g_strdup (reader);
  self->atr = g_bytes_ref (atr);
  self->blank_before = blank_before;
  self->context = g_main_context_ref_thread_default ();
  self->func = func;
  self->user_data = user_data;
  g_thread_unref (g_thread_new ("kw-sc-probe", probe_thread, self));
  return self;
}

/**
 * kw_sc_probe_drop:
 * @probe: (transfer full): a probe
 *
 * Says that nobody wants to hear of it any more. The context's thread.
 */
void
kw_sc_probe_drop (KwScProbe *probe)
{
  g_return_if_fail (probe != NULL);

  probe->func = NULL;
  probe_unref (probe);
}
