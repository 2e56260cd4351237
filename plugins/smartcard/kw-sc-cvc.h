/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-key.h"
#include "kw-sc-tlv.h"

G_BEGIN_DECLS

char *kw_sc_cvc_dup_serial (KwScSpan certificates, GError **error);

GBytes *
kw_sc_cvc_dup_public_key (KwScSpan file, KwKeyKind *out_kind, guint *out_bits, GError **error);

G_END_DECLS
