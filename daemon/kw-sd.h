/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

void kw_sd_notify (const char *state, const char *status);

GHashTable *kw_sd_take_sockets (GError **error);

G_END_DECLS
