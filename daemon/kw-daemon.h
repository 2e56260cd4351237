/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-bus.h"
#include "kw-config.h"
#include "kw-log.h"

G_BEGIN_DECLS

#define KW_TYPE_DAEMON (kw_daemon_get_type ())
G_DECLARE_FINAL_TYPE (KwDaemon, kw_daemon, KW, DAEMON, GObject)

KwDaemon *kw_daemon_new (KwConfig *config, KwLogger *logger, const KwBusOptions *bus_options);

int kw_daemon_run (KwDaemon *self, GError **error);

G_END_DECLS
