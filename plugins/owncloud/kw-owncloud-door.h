/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-door.h"

G_BEGIN_DECLS

#define KW_TYPE_OWNCLOUD_DOOR (kw_owncloud_door_get_type ())
G_DECLARE_FINAL_TYPE (KwOwncloudDoor, kw_owncloud_door, KW, OWNCLOUD_DOOR, GObject)

G_END_DECLS
