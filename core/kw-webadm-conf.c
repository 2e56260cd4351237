/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-webadm-conf"

#include "config.h"

#include "kw-webadm-conf.h"

#include "kw-error.h"
#include "kw-names.h"

#include <errno.h>
#include <grp.h>
#include <openssl/crypto.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Reads the few settings that are ours out of a webadm.conf: lines of a name, blanks and a value, perhaps in quotes. All
 * other lines belong to WebADM and are passed over, unless the name is one of ours with a slip of the pen.
 */

#define BLANKS " \t"

static void
line_free (gpointer data)
{
  KwWebadmLine *line = data;

  g_free (line->key);
  OPENSSL_cleanse (line->value, strlen (line->value));
  g_free (line->value);
  g_free (line);
}

/* One letter too many, too few, or another one. */
static gboolean
is_near (const char *name, const char *wanted)
{
  gsize n_name = strlen (name);
  gsize n_wanted = strlen (wanted);
  gsize n_start = 0;
  gsize n_end = 0;

  while (name[n_start] != '\0' && name[n_start] == wanted[n_start])
    n_start++;
  while (n_end < n_name - MIN (n_start, n_name) && n_end < n_wanted - MIN (n_start, n_wanted)
         && name[n_name - 1 - n_end] == wanted[n_wanted - 1 - n_end])
    n_end++;
  return n_name <= n_start + n_end + 2 && n_wanted <= n_start + n_end + 2 && n_name + 1 >= n_wanted
         && n_wanted + 1 >= n_name;
}

static gboolean
take_line (const char *key,
           gsize n_key,
           const char *value,
           gsize n_value,
           guint number,
           const char *const *wanted,
           GPtrArray *lines,
           GError **error)
{
  g_autofree char *name = g_ascii_strdown (key, (gssize) n_key);
  KwWebadmLine *line = NULL;

  if (!g_strv_contains (wanted, name))
    {
      for (guint i = 0; wanted[i] != NULL; i++)
        {
          if (!is_near (name, wanted[i]))
            continue;
          g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                       "unknown setting \"%s\"; did you mean \"%s\"?", name, wanted[i]);
          return FALSE;
        }
      return TRUE;
    }
  for (guint i = 0; i < lines->len; i++)
    {
      const KwWebadmLine *before = g_ptr_array_index (lines, i);

      if (!g_str_equal (before->key, name))
        continue;
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                   "%s is set a second time; the first is in line %u", name, before->line);
      return FALSE;
    }
  if (n_value >= 2 && (value[0] == '"' || value[0] == '\'') && value[n_value - 1] == value[0])
    {
      value++;
      n_value -= 2;
    }
  if (n_value == 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "%s has no value", name);
      return FALSE;
    }
  line = g_new0 (KwWebadmLine, 1);
  line->key = g_steal_pointer (&name);
  line->value = g_strndup (value, n_value);
  line->line = number;
  g_ptr_array_add (lines, line);
  return TRUE;
}

/**
 * kw_webadm_conf_parse:
 * @data: contents of a webadm.conf
 * @size: their size in bytes
 * @wanted: (array zero-terminated=1): names of the settings that are looked for
 * @out_line: (out): number of the line that is wrong, from 1
 * @error: where to store the error
 *
 * Reads some of the settings. The values are wiped when the list is freed. Any thread.
 *
 * Returns: (transfer full) (element-type KwWebadmLine): those that are there; %NULL with %KW_ERROR_CONFIG
 */
GPtrArray *
kw_webadm_conf_parse (const char *data,
                      gsize size,
                      const char *const *wanted,
                      guint *out_line,
                      GError **error)
{
  g_autoptr (GPtrArray) lines = g_ptr_array_new_with_free_func (line_free);
  const char *end = NULL;
  guint number = 0;

  g_return_val_if_fail (data != NULL && wanted != NULL, NULL);

  end = data + size;
  for (const char *start = data; start < end; number++)
    {
      const char *line_end = memchr (start, '\n', (gsize) (end - start));
      const char *next = line_end != NULL ? line_end + 1 : end;
      gsize n_key = 0;
      gsize n_gap = 0;
      gsize n = (gsize) ((line_end != NULL ? line_end : end) - start);
      gsize n_blank = 0;

      while (n_blank < n && strchr (BLANKS, start[n_blank]) != NULL && start[n_blank] != '\0')
        n_blank++;
      start += n_blank;
      n -= n_blank;
      while (n > 0 && (g_ascii_isspace (start[n - 1])))
        n--;
      while (n_key < n && !g_ascii_isspace (start[n_key]))
        n_key++;
      while (n_key + n_gap < n && g_ascii_isspace (start[n_key + n_gap]))
        n_gap++;
      /* A NUL, or what is no ASCII, makes a name that is none of ours. */
      if (n_key > 0 && start[0] != '#' && memchr (start, '\0', n) == NULL
          && !take_line (start, n_key, start + n_key + n_gap, n - n_key - n_gap, number + 1, wanted,
                         lines, error))
        {
          *out_line = number + 1;
          return NULL;
        }
      start = next;
    }
  return g_steal_pointer (&lines);
}

/**
 * kw_webadm_conf_check_mode:
 * @path: a webadm.conf
 * @error: where to store the error
 *
 * Checks that only root and the service can read the file: it belongs to root, the service's user, or us; its group is
 * root's or the service's if that may read it; nobody else can do anything. Blocks; any thread.
 *
 * Returns: %FALSE with %KW_ERROR_PERMISSION and a sentence on how to mend it
 */
gboolean
kw_webadm_conf_check_mode (const char *path, GError **error)
{
  struct stat info;
  const struct passwd *user = NULL;
  const struct group *group = NULL;
  gboolean good_owner = FALSE;
  gboolean good_group = FALSE;

  g_return_val_if_fail (path != NULL, FALSE);

  if (stat (path, &info) != 0)
    {
      int saved_errno = errno;

      g_set_error (error, KW_ERROR, KW_ERROR_PERMISSION, "Cannot look at %s: %s", path,
                   g_strerror (saved_errno));
      return FALSE;
    }
  user = getpwnam (KW_SERVICE_USER);
  good_owner = info.st_uid == 0 || info.st_uid == geteuid ()
               || (user != NULL && info.st_uid == user->pw_uid);
  group = getgrnam (KW_SERVICE_GROUP);
  good_group = (info.st_mode & S_IRWXG) == 0
               || ((info.st_mode & (S_IWGRP | S_IXGRP)) == 0
                   && (info.st_gid == 0 || (group != NULL && info.st_gid == group->gr_gid)));
  if (good_owner && good_group && (info.st_mode & S_IRWXO) == 0)
    return TRUE;
  g_set_error (
      error, KW_ERROR, KW_ERROR_PERMISSION,
      "%s holds a PIN, but others than root and the group %s can get at it (owner %u, group %u, "
      "mode %04o); run: chown root:%s %s && chmod 0640 %s",
      path, KW_SERVICE_GROUP, (guint) info.st_uid, (guint) info.st_gid,
      (guint) (info.st_mode & 07777), KW_SERVICE_GROUP, path, path);
  return FALSE;
}
