/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-access"

#include "config.h"

#include "kw-cli-access.h"

#include "kw-error.h"
#include "kw-names.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Whether another user could get at a file, worked out from owners and modes, since nobody can ask the kernel on somebody
 * else's behalf. Access lists beyond the mode are not looked at. And how root becomes that user.
 */

#define MAX_GROUPS 1024

KwCliUser *
kw_cli_user_new (const char *name, guint uid, const guint *gids, gsize n_gids)
{
  KwCliUser *self = g_new0 (KwCliUser, 1);

  self->name = g_strdup (name);
  self->uid = uid;
  self->gids = g_array_new (FALSE, FALSE, sizeof (guint));
  g_array_append_vals (self->gids, gids, (guint) n_gids);
  return self;
}

/* NULL when there is no such user. */
KwCliUser *
kw_cli_user_lookup (const char *name)
{
  const struct passwd *entry = getpwnam (name);
  g_autofree gid_t *gids = g_new0 (gid_t, MAX_GROUPS);
  int n_gids = MAX_GROUPS;

  if (entry == NULL)
    return NULL;
  if (getgrouplist (name, entry->pw_gid, gids, &n_gids) < 0)
    n_gids = MAX_GROUPS;
  return kw_cli_user_new (name, entry->pw_uid, gids, (gsize) n_gids);
}

void
kw_cli_user_free (KwCliUser *self)
{
  g_return_if_fail (self != NULL);

  g_free (self->name);
  g_array_unref (self->gids);
  g_free (self);
}

static gboolean
is_in_group (const KwCliUser *self, gid_t gid)
{
  for (guint i = 0; i < self->gids->len; i++)
    {
      if (g_array_index (self->gids, guint, i) == gid)
        return TRUE;
    }
  return FALSE;
}

/* The bits of the one class that counts for this user: owner, else group, else others. */
static gboolean
mode_allows (const KwCliUser *self, const struct stat *info, int wanted)
{
  mode_t bits = info->st_mode & 07;

  if (self->uid == 0)
    return TRUE;
  if (info->st_uid == self->uid)
    bits = (info->st_mode >> 6) & 07;
  else if (is_in_group (self, info->st_gid))
    bits = (info->st_mode >> 3) & 07;
  return (bits & (mode_t) wanted) == (mode_t) wanted;
}

static char *
explain_step (const KwCliUser *self, const char *path, int wanted)
{
  struct stat info;

  if (stat (path, &info) != 0)
    return g_strdup_printf ("%s: %s", path, g_strerror (errno));
  if (mode_allows (self, &info, wanted))
    return NULL;
  return g_strdup_printf ("%s is closed to user %s (mode %04o, owner %u:%u)", path, self->name,
                          (guint) (info.st_mode & 07777), (guint) info.st_uid, (guint) info.st_gid);
}

/*
 * Why the user cannot get at @path in the way @wanted (R_OK, W_OK, X_OK) says; NULL when he can. The folders on the way
 * have to let him pass too.
 */
char *
kw_cli_user_explain_denial (const KwCliUser *self, const char *path, int wanted)
{
  g_autofree char *real = realpath (path, NULL);
  const char *p = real;

  if (real == NULL)
    return g_strdup_printf ("%s: %s", path, g_strerror (errno));
  while (p != NULL && *p != '\0')
    {
      const char *end = p + 1;
      g_autofree char *folder = NULL;
      char *denial = NULL;

      while (*end != '/' && *end != '\0')
        end++;
      /* "/" first, then each folder above the last part. */
      folder = p == real ? g_strdup ("/") : g_strndup (real, (gsize) (p - real));
      denial = explain_step (self, folder, X_OK);
      if (denial != NULL)
        return denial;
      p = end;
    }
  return explain_step (self, real, wanted);
}

/*
 * Where the state directory is the service's, root goes on as the user of the service for good. A token may be a folder of
 * files (SoftHSM2's are): this way commands see what the daemon sees, and it can read the keys they make.
 */
gboolean
kw_cli_become_service (const char *state_directory, GError **error)
{
  const struct passwd *service = geteuid () == 0 ? getpwnam (KW_SERVICE_USER) : NULL;
  struct stat info;

  if (service == NULL || stat (state_directory, &info) != 0 || info.st_uid != service->pw_uid)
    return TRUE;
  if (initgroups (service->pw_name, service->pw_gid) == 0
      && setresgid (service->pw_gid, service->pw_gid, service->pw_gid) == 0
      && setresuid (service->pw_uid, service->pw_uid, service->pw_uid) == 0)
    {
      g_setenv ("HOME", service->pw_dir, TRUE);
      return TRUE;
    }
  g_set_error (error, KW_ERROR, KW_ERROR_PERMISSION, "Cannot go on as user %s: %s", KW_SERVICE_USER,
               g_strerror (errno));
  return FALSE;
}
