/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-door.h"

G_BEGIN_DECLS

typedef struct _KwOwncloudWeb KwOwncloudWeb;

KwOwncloudWeb *kw_owncloud_web_new (const KwDoorContext *context);

void kw_owncloud_web_free (KwOwncloudWeb *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwOwncloudWeb, kw_owncloud_web_free)

G_END_DECLS
