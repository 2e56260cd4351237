/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/** CARD_TRACE_MASK: what stands in a trace for each byte of a PIN, of a share of a DKEK, or of a challenge */
#define CARD_TRACE_MASK "**"

/**
 * CardTrace:
 *
 * A log of commands and answers: lines "> HEX" and "< HEX", and "# …" for what else happens.
 */
typedef struct _CardTrace CardTrace;

CardTrace *card_trace_new (const char *path, GError **error);

void card_trace_free (CardTrace *self);

void card_trace_command (CardTrace *self, const guint8 *apdu, gsize size);

void card_trace_answer (CardTrace *self, GBytes *response);

void card_trace_event (CardTrace *self, const char *text);

char *card_trace_format_command (const guint8 *apdu, gsize size);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (CardTrace, card_trace_free)

G_END_DECLS
