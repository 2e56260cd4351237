/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-key.h"
#include "kw-sc-tlv.h"

G_BEGIN_DECLS

#define KW_SC_MAX_DESCRIPTION_BYTES 512 /* what OpenSC reads of one */

/**
 * KwScDescription: what stands in a key's EF C4xx
 */
typedef struct
{
  KwKeyKind kind;
  guint bits;             /* 0 = not told */
  GBytes *id;             /* owned; CKA_ID */
  char *label;            /* owned; CKA_LABEL */
  gsize reference_offset; /* where in the file the key's number stands as one byte; 0 = nowhere */
} KwScDescription;

KwScDescription *kw_sc_description_parse (KwScSpan file, GError **error);

void kw_sc_description_free (KwScDescription *description);

GByteArray *kw_sc_description_build (KwKeyKind kind,
                                     guint bits,
                                     GBytes *id,
                                     const char *label,
                                     guint8 kid,
                                     GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwScDescription, kw_sc_description_free)

G_END_DECLS
