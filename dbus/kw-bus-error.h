/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

#define KW_BUS_ERROR_PREFIX "org.keyward.Error."

void kw_bus_error_register (void);

G_END_DECLS
