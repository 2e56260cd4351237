/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "card-key.h"

#include <gio/gio.h>

G_BEGIN_DECLS

gboolean card_pool_check (const char *directory, GError **error);

CardKey *card_pool_take (guint bits, gpointer directory);

G_END_DECLS
