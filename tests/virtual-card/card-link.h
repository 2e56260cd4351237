/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/**
 * CardLink:
 *
 * The connection to a reader of vpcd. As long as the card is in, it is made anew whenever it is lost, with pauses that grow.
 * Everything happens in the main context.
 */
typedef struct _CardLink CardLink;

/**
 * CardLinkFunc:
 * @link: the link
 * @frame: one frame from the reader: a control byte, or a command
 * @size: bytes of it
 * @user_data: what was given with it
 *
 * Is told of each frame. No other one comes until card_link_send() or card_link_skip() was called.
 */
typedef void (*CardLinkFunc) (CardLink *link, const guint8 *frame, gsize size, gpointer user_data);

CardLink *card_link_new (const char *host, guint16 port, CardLinkFunc func, gpointer user_data);

void card_link_free (CardLink *self);

void card_link_insert (CardLink *self);

void card_link_eject (CardLink *self);

gboolean card_link_is_inserted (const CardLink *self);

gboolean card_link_is_connected (const CardLink *self);

void card_link_send (CardLink *self, GBytes *payload);

void card_link_skip (CardLink *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (CardLink, card_link_free)

G_END_DECLS
