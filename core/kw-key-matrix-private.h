/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-key-matrix.h"

G_BEGIN_DECLS

/* For who makes a matrix: first all devices, then the keys, then the cells; then it is not changed any more. */

KwKeyMatrix *kw_key_matrix_new (void);

void kw_key_matrix_add_device (KwKeyMatrix *self,
                               const char *name,
                               const char *label,
                               guint64 number,
                               gboolean ready);

KwKeyFacts *kw_key_matrix_add_key (KwKeyMatrix *self, const char *id, KwKeyKind kind);

KwMatrixCell *kw_key_matrix_edit_cell (KwKeyMatrix *self, guint key, guint device);

G_END_DECLS
