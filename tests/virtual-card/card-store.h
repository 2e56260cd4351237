/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/**
 * CardStore:
 *
 * The file that a card's state is kept in. One program at a time has it.
 */
typedef struct _CardStore CardStore;

CardStore *card_store_new (const char *path, GError **error);

void card_store_free (CardStore *self);

gboolean card_store_load (CardStore *self, GBytes **out_state, GError **error);

gboolean card_store_save (CardStore *self, GBytes *state, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (CardStore, card_store_free)

G_END_DECLS
