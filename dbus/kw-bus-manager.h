/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-bus-call.h"
#include "kw-bus-objects.h"

G_BEGIN_DECLS

/**
 * KwBusManager:
 *
 * The object /org/keyward1: takes calls, and says how all is. Main context.
 */
typedef struct _KwBusManager KwBusManager;

KwBusManager *kw_bus_manager_new (GDBusConnection *connection,
                                  KwService *service,
                                  KwBusCalls *calls,
                                  KwBusObjects *objects,
                                  GError **error);

void kw_bus_manager_free (KwBusManager *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwBusManager, kw_bus_manager_free)

G_END_DECLS
