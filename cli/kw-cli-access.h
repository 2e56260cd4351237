/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * KwCliUser:
 * @name: login name
 * @uid: user id
 * @gids: (element-type gid_t): all groups
 *
 * Somebody else, whose access to files is worked out.
 */
typedef struct
{
  char *name;
  guint uid;
  GArray *gids;
} KwCliUser;

KwCliUser *kw_cli_user_new (const char *name, guint uid, const guint *gids, gsize n_gids);

KwCliUser *kw_cli_user_lookup (const char *name);

void kw_cli_user_free (KwCliUser *self);

char *kw_cli_user_explain_denial (const KwCliUser *self, const char *path, int wanted);

gboolean kw_cli_become_service (const char *state_directory, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwCliUser, kw_cli_user_free)

G_END_DECLS
