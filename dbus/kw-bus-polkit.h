/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-grant.h"

G_BEGIN_DECLS

void kw_bus_polkit_check (GDBusConnection *connection,
                          const char *sender,
                          KwVerbClass verb_class,
                          gboolean interactive,
                          GCancellable *cancellable,
                          GAsyncReadyCallback callback,
                          gpointer user_data);

gboolean kw_bus_polkit_check_finish (GAsyncResult *result, GError **error);

G_END_DECLS
