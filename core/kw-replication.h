/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-device.h"

G_BEGIN_DECLS

/* @may_remain: it was given up, and the key may be on some device all the same. */
typedef void (*KwReplicationFunc) (guint n_copies,
                                   gboolean may_remain,
                                   const GError *error,
                                   gpointer user_data);

void kw_replicate (KwKeyring *keyring,
                   KwDevice *origin,
                   KwKey *key,
                   GPtrArray *targets,
                   guint min_copies,
                   KwReplicationFunc done,
                   gpointer user_data);

G_END_DECLS
