/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * KwScSpan: bytes that belong to somebody else
 */
typedef struct
{
  const guint8 *data;
  gsize size;
} KwScSpan;

/**
 * KwScTlv: one element of BER
 */
typedef struct
{
  guint tag; /* one or two bytes */
  KwScSpan value;
  KwScSpan whole; /* tag and length too */
} KwScTlv;

gboolean kw_sc_tlv_next (KwScSpan *rest, KwScTlv *out_tlv);

gboolean kw_sc_tlv_read (KwScSpan *rest, guint tag, KwScSpan *out_value);

gboolean kw_sc_tlv_find (KwScSpan elements, guint tag, KwScSpan *out_value);

gboolean kw_sc_span_to_uint (KwScSpan span, guint *out_number);

void kw_sc_tlv_append (GByteArray *array, guint tag, gconstpointer value, gsize size);

void kw_sc_tlv_append_array (GByteArray *array, guint tag, GByteArray *value);

void kw_sc_tlv_append_uint (GByteArray *array, guint tag, guint number);

G_END_DECLS
