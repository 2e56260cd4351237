/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-sc-card.h"
#include "kw-sc-description.h"

G_BEGIN_DECLS

/**
 * KwScWrapped: a wrapped key taken apart; the spans point into it
 */
typedef struct
{
  KwScSpan blob;
  KwScSpan description;
  KwScSpan certificate;                /* perhaps empty */
  KwScDescription *parsed_description; /* owned */
  guint8 check_value[KW_SC_CHECK_VALUE_BYTES];
} KwScWrapped;

KwScWrapped *kw_sc_wrapped_parse (KwScSpan file, GError **error);

void kw_sc_wrapped_free (KwScWrapped *wrapped);

GBytes *kw_sc_wrapped_build (KwScSpan blob, KwScSpan description, KwScSpan certificate);

guint kw_sc_wrapped_guess_aes_bits (KwScSpan blob);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwScWrapped, kw_sc_wrapped_free)

G_END_DECLS
