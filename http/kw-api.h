/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-door.h"

G_BEGIN_DECLS

#define KW_TYPE_API (kw_api_get_type ())
G_DECLARE_FINAL_TYPE (KwApi, kw_api, KW, API, GObject)

KwApi *kw_api_new (const KwDoorContext *context);

void kw_api_stop (KwApi *self);

G_END_DECLS
