/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-backend.h"

G_BEGIN_DECLS

void kw_plugins_load (void);

void kw_plugins_register_point (const char *name, GType required_type);

GPtrArray *kw_plugins_new_objects (const char *extension_point);

GPtrArray *kw_plugins_new_backends (KwConfig *config, GError **error);

G_END_DECLS
