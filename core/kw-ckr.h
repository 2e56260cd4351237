/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-error.h"

G_BEGIN_DECLS

const char *kw_ckr_to_string (gulong rv);

KwError kw_ckr_to_error (gulong rv);

void kw_ckr_set_error (GError **error, gulong rv, const char *function);

G_END_DECLS
