/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

#define KW_REFUSALS_PER_SECOND 5

/**
 * KwRefusals:
 *
 * Who was refused how often lately. Any thread.
 */
typedef struct _KwRefusals KwRefusals;

KwRefusals *kw_refusals_new (void);

void kw_refusals_free (KwRefusals *self);

gboolean kw_refusals_are_too_many (KwRefusals *self, const char *address);

void kw_refusals_count (KwRefusals *self, const char *address);

G_END_DECLS
