/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-token.h"

G_BEGIN_DECLS

KwSecret *kw_rsa_unpad (KwRsaPadding padding, const guint8 *block, gsize size, GError **error);

G_END_DECLS
