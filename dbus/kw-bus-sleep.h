/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-service.h"

G_BEGIN_DECLS

/**
 * KwBusSleep:
 *
 * Has the system wait for requests at hand before it sleeps, and looks at all devices anew when it wakes. Main context.
 */
typedef struct _KwBusSleep KwBusSleep;

KwBusSleep *kw_bus_sleep_new (GDBusConnection *connection, KwService *service);

void kw_bus_sleep_free (KwBusSleep *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwBusSleep, kw_bus_sleep_free)

G_END_DECLS
