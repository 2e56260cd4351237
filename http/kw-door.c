/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-door"

#include "config.h"

#include "kw-door.h"

/*
 * The interface of a way in for callers.
 */

G_DEFINE_INTERFACE (KwDoor, kw_door, G_TYPE_OBJECT)

enum
{
  SIGNAL_FAILED,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

static void
kw_door_default_init (KwDoorInterface *iface)
{
  /**
   * KwDoor::failed:
   * @self: the door
   * @text: what is wrong and what to do
   */
  signals[SIGNAL_FAILED] = g_signal_new ("failed", G_TYPE_FROM_INTERFACE (iface), G_SIGNAL_RUN_LAST,
                                         0, NULL, NULL, NULL, G_TYPE_NONE, 1, G_TYPE_STRING);
}

/**
 * kw_door_start:
 * @self: a door
 * @context: what it works with; borrowed for the call
 * @error: where to store the error
 *
 * Opens the door. Main context.
 *
 * Returns: %FALSE with %KW_ERROR_CONFIG when a socket cannot be had
 */
gboolean
kw_door_start (KwDoor *self, const KwDoorContext *context, GError **error)
{
  g_return_val_if_fail (KW_IS_DOOR (self), FALSE);

  return KW_DOOR_GET_IFACE (self)->start (self, context, error);
}

/**
 * kw_door_quiesce:
 * @self: a door
 *
 * Takes no new request. Main context.
 */
void
kw_door_quiesce (KwDoor *self)
{
  g_return_if_fail (KW_IS_DOOR (self));

  if (KW_DOOR_GET_IFACE (self)->quiesce != NULL)
    KW_DOOR_GET_IFACE (self)->quiesce (self);
}

/**
 * kw_door_get_n_pending:
 * @self: a door
 *
 * Returns: how many requests are at hand. Main context.
 */
guint
kw_door_get_n_pending (KwDoor *self)
{
  g_return_val_if_fail (KW_IS_DOOR (self), 0);

  if (KW_DOOR_GET_IFACE (self)->get_n_pending == NULL)
    return 0;
  return KW_DOOR_GET_IFACE (self)->get_n_pending (self);
}

/**
 * kw_door_stop:
 * @self: a door
 *
 * Closes the door for good. Main context.
 */
void
kw_door_stop (KwDoor *self)
{
  g_return_if_fail (KW_IS_DOOR (self));

  KW_DOOR_GET_IFACE (self)->stop (self);
}

/**
 * kw_door_emit_failed:
 * @self: a door
 * @text: what is wrong and what to do
 *
 * For implementations: says that the door cannot work. Main context.
 */
void
kw_door_emit_failed (KwDoor *self, const char *text)
{
  g_return_if_fail (KW_IS_DOOR (self));

  g_signal_emit (self, signals[SIGNAL_FAILED], 0, text);
}
