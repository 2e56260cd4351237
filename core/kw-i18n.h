/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

const char *kw_i18n_get_directory (void);

void kw_i18n_init (void);

G_END_DECLS
