/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-sc-monitor.h"

G_BEGIN_DECLS

char *kw_sc_status_of_service (KwScSnapshot *snapshot, const char *const *devices);

char *kw_sc_status_of_missing_reader (KwScSnapshot *snapshot, const char *const *devices);

char *kw_sc_status_of_reader (const KwScReader *reader);

char *kw_sc_status_of_foreign_card (const KwScReader *reader);

G_END_DECLS
