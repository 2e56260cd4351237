/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-bus-call.h"

G_BEGIN_DECLS

/**
 * KwBusObjects:
 *
 * The objects below /org/keyward1, one for each device, key and test, as org.freedesktop.DBus.ObjectManager lists them. Main context.
 */
typedef struct _KwBusObjects KwBusObjects;

KwBusObjects *
kw_bus_objects_new (GDBusConnection *connection, KwService *service, KwBusCalls *calls);

void kw_bus_objects_free (KwBusObjects *self);

const char *kw_bus_objects_add_test (KwBusObjects *self, KwSelfTest *test);

char *kw_bus_objects_escape (const char *prefix, const char *name);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwBusObjects, kw_bus_objects_free)

G_END_DECLS
