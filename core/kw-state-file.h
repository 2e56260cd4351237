/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef gboolean (*KwStateFileFunc) (GKeyFile *contents,
                                     gboolean *out_changed,
                                     gpointer user_data,
                                     GError **error);

GKeyFile *kw_state_file_read (const char *directory, const char *name, GError **error);

gboolean kw_state_file_update (const char *directory,
                               const char *name,
                               KwStateFileFunc update,
                               gpointer user_data,
                               GError **error);

void kw_state_file_hand_over (int fd, const char *path);

gboolean kw_state_file_update_quickly (const char *directory,
                                       const char *name,
                                       KwStateFileFunc update,
                                       gpointer user_data,
                                       GError **error);

G_END_DECLS
