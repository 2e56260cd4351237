/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _KwScUdev KwScUdev;

typedef void (*KwScUdevFunc) (gpointer user_data);

KwScUdev *kw_sc_udev_new (KwScUdevFunc func, gpointer user_data);

void kw_sc_udev_free (KwScUdev *self);

char **kw_sc_udev_list (KwScUdev *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwScUdev, kw_sc_udev_free)

G_END_DECLS
