/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-config.h"
#include "kw-service.h"

G_BEGIN_DECLS

/**
 * KwBusOptions:
 * @session: use the session bus, not the system's
 * @address: (nullable): address of the bus to use instead of both
 *
 * Which bus is meant.
 */
typedef struct
{
  gboolean session;
  const char *address;
} KwBusOptions;

#define KW_TYPE_BUS (kw_bus_get_type ())
G_DECLARE_FINAL_TYPE (KwBus, kw_bus, KW, BUS, GObject)

KwBus *kw_bus_new (KwConfig *config, KwService *service, const KwBusOptions *options);

void kw_bus_start (KwBus *self);

void kw_bus_quiesce (KwBus *self);

guint kw_bus_get_n_pending (KwBus *self);

void kw_bus_stop (KwBus *self);

G_END_DECLS
