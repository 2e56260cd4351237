/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/** CARD_CONTROL_MAX_LINE: longest line that is taken, in bytes */
#define CARD_CONTROL_MAX_LINE 4096

/**
 * CardControl:
 *
 * A UNIX socket on which each line is an order, answered by one line.
 */
typedef struct _CardControl CardControl;

/**
 * CardControlFunc:
 * @line: an order, without its end
 * @user_data: what was given with it
 *
 * Returns: (transfer full): the answer, without an end of line
 */
typedef char *(*CardControlFunc) (const char *line, gpointer user_data);

CardControl *
card_control_new (const char *path, CardControlFunc func, gpointer user_data, GError **error);

void card_control_free (CardControl *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (CardControl, card_control_free)

G_END_DECLS
