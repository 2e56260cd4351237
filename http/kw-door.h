/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-config.h"
#include "kw-http-server.h"
#include "kw-service.h"

G_BEGIN_DECLS

/**
 * KwDoorContext:
 * @config: the configuration, checked
 * @service: what does the work
 * @http: the HTTP server, not started yet: the place for routes
 * @sockets: (element-type utf8 GArray): listening sockets that systemd passed, by name; a door takes what is meant for it
 *   with g_hash_table_steal()
 *
 * What a door is given when it starts.
 */
typedef struct
{
  KwConfig *config;
  KwService *service;
  KwHttpServer *http;
  GHashTable *sockets;
} KwDoorContext;

#define KW_TYPE_DOOR (kw_door_get_type ())
G_DECLARE_INTERFACE (KwDoor, kw_door, KW, DOOR, GObject)

/**
 * KwDoorInterface:
 * @start: adds its routes, opens its sockets. Main context, before the loop runs
 * @quiesce: takes no new request, ends those at hand
 * @get_n_pending: how many requests are at hand
 * @stop: gives everything back
 *
 * A way in for callers. Doors are GIO modules on %KW_DOOR_EXTENSION_POINT. The signal `failed`, with a sentence, ends the
 * daemon: the door found out after its start that it cannot work as configured.
 */
struct _KwDoorInterface
{
  GTypeInterface parent_iface;

  gboolean (*start) (KwDoor *self, const KwDoorContext *context, GError **error);
  void (*quiesce) (KwDoor *self);
  guint (*get_n_pending) (KwDoor *self);
  void (*stop) (KwDoor *self);
};

gboolean kw_door_start (KwDoor *self, const KwDoorContext *context, GError **error);

void kw_door_quiesce (KwDoor *self);

guint kw_door_get_n_pending (KwDoor *self);

void kw_door_stop (KwDoor *self);

void kw_door_emit_failed (KwDoor *self, const char *text);

G_END_DECLS
