/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-device.h"

G_BEGIN_DECLS

typedef void (*KwReplicationFunc) (guint n_copies, const GError *error, gpointer user_data);

void kw_replicate (KwDevice *origin,
                   KwKey *key,
                   GPtrArray *targets,
                   guint min_copies,
                   KwReplicationFunc done,
                   gpointer user_data);

G_END_DECLS
