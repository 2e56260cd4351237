/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-sc-apdu.h"

#include <glib-object.h>

G_BEGIN_DECLS

/**
 * KwScAnswer: what a card answered, up to the next command
 */
typedef struct
{
  KwScSpan data;
  guint sw;
} KwScAnswer;

typedef struct _KwScLink KwScLink;

KwScLink *kw_sc_link_new (const char *reader, GError **error);

void kw_sc_link_free (KwScLink *self);

const char *kw_sc_link_get_reader (KwScLink *self);

guint kw_sc_link_get_n_resets (KwScLink *self);

gboolean kw_sc_link_begin (KwScLink *self, GError **error);

void kw_sc_link_end (KwScLink *self);

gboolean kw_sc_link_transmit (KwScLink *self,
                              const KwScCommand *command,
                              KwScAnswer *out_answer,
                              GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwScLink, kw_sc_link_free)

G_END_DECLS
