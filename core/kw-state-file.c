/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-state-file"

#include "config.h"

#include "kw-state-file.h"

#include "kw-error.h"
#include "kw-limits.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Small files in the state directory, shared by the daemon and the commands. A change is made under a lock between
 * processes and reaches the disk whole or not at all: temporary file, fsync, rename. A file that cannot be understood is
 * an error and is left as it was.
 *
 * A command that root runs must not leave files that the service cannot read: they are given to the owner of the directory.
 */

#define LOCK_FILE ".lock"

static gboolean
ensure_directory (const char *directory, GError **error)
{
  int saved_errno = 0;

  if (g_mkdir_with_parents (directory, 0700) == 0)
    return TRUE;
  saved_errno = errno;
  g_set_error (error, KW_ERROR, KW_ERROR_PERMISSION,
               "Cannot make the state directory %s: %s; see [state] directory", directory,
               g_strerror (saved_errno));
  return FALSE;
}

/* Waits for the lock; it is only ever held for one small write. Closing the descriptor gives it back. */
static int
lock_directory (const char *directory, GError **error)
{
  g_autofree char *path = g_build_filename (directory, LOCK_FILE, NULL);
  int fd = open (path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  int result = -1;
  int saved_errno = 0;

  if (fd >= 0)
    {
      do
        result = flock (fd, LOCK_EX);
      while (result != 0 && errno == EINTR);
    }
  if (result == 0)
    {
      kw_state_file_hand_over (fd, path);
      return fd;
    }
  saved_errno = errno;
  if (fd >= 0)
    close (fd);
  g_set_error (error, KW_ERROR, KW_ERROR_PERMISSION, "Cannot lock %s: %s", path,
               g_strerror (saved_errno));
  return -1;
}

static void
hand_over_path (const char *path)
{
  int fd = geteuid () == 0 ? open (path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY) : -1;

  if (fd < 0)
    return;
  kw_state_file_hand_over (fd, path);
  close (fd);
}

static gboolean
write_contents (const char *path, GKeyFile *contents, GFileSetContentsFlags flags, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  gsize size = 0;
  g_autofree char *data = g_key_file_to_data (contents, &size, NULL);

  if (g_file_set_contents_full (path, data, (gssize) size, flags, 0600, &local_error))
    {
      hand_over_path (path);
      return TRUE;
    }
  g_set_error (error, KW_ERROR, KW_ERROR_PERMISSION, "Cannot write %s: %s", path,
               local_error->message);
  return FALSE;
}

/**
 * kw_state_file_read:
 * @directory: the state directory
 * @name: name of the file in it
 * @error: where to store the error
 *
 * Reads a state file. Blocks; any thread.
 *
 * Returns: (transfer full): its contents, empty when there is no such file; %NULL with %KW_ERROR_FAILED when it is damaged
 *   or %KW_ERROR_PERMISSION when it cannot be read
 */
GKeyFile *
kw_state_file_read (const char *directory, const char *name, GError **error)
{
  g_autoptr (GKeyFile) contents = g_key_file_new ();
  g_autoptr (GError) local_error = NULL;
  g_autofree char *path = NULL;
  GStatBuf info;

  g_return_val_if_fail (directory != NULL && name != NULL, NULL);

  path = g_build_filename (directory, name, NULL);
  if (g_stat (path, &info) == 0 && info.st_size > KW_MAX_STATE_FILE_BYTES)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "The state file %s is larger than %d bytes",
                   path, KW_MAX_STATE_FILE_BYTES);
      return NULL;
    }
  if (g_key_file_load_from_file (contents, path, G_KEY_FILE_NONE, &local_error)
      || g_error_matches (local_error, G_FILE_ERROR, G_FILE_ERROR_NOENT))
    return g_steal_pointer (&contents);
  g_set_error (error, KW_ERROR,
               local_error->domain == G_FILE_ERROR ? KW_ERROR_PERMISSION : KW_ERROR_FAILED,
               "Cannot read the state file %s: %s", path, local_error->message);
  return NULL;
}

static gboolean
update_file (const char *directory,
             const char *name,
             KwStateFileFunc update,
             gpointer user_data,
             GFileSetContentsFlags flags,
             GError **error)
{
  g_autoptr (GKeyFile) contents = NULL;
  g_autofree char *path = NULL;
  gboolean changed = FALSE;
  gboolean ok = FALSE;
  int lock = -1;

  g_return_val_if_fail (directory != NULL && name != NULL && update != NULL, FALSE);

  if (!ensure_directory (directory, error))
    return FALSE;
  lock = lock_directory (directory, error);
  if (lock < 0)
    return FALSE;
  path = g_build_filename (directory, name, NULL);
  contents = kw_state_file_read (directory, name, error);
  ok = contents != NULL && update (contents, &changed, user_data, error)
       && (!changed || write_contents (path, contents, flags, error));
  close (lock);
  return ok;
}

/**
 * kw_state_file_update:
 * @directory: the state directory; made when it is missing
 * @name: name of the file in it
 * @update: (scope call): changes the contents and says whether it did
 * @user_data: for @update
 * @error: where to store the error
 *
 * Reads a state file, lets @update change it, and writes it back, as one step towards all processes. Nothing is written
 * when @update fails or changes nothing. Blocks; any thread.
 *
 * Returns: %TRUE on success
 */
gboolean
kw_state_file_update (const char *directory,
                      const char *name,
                      KwStateFileFunc update,
                      gpointer user_data,
                      GError **error)
{
  return update_file (directory, name, update, user_data,
                      G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE, error);
}

/**
 * kw_state_file_update_quickly:
 * @directory: the state directory; made when it is missing
 * @name: name of the file in it
 * @update: (scope call): changes the contents and says whether it did
 * @user_data: for @update
 * @error: where to store the error
 *
 * kw_state_file_update() without waiting for the disk: the change survives the end of the process, but perhaps not a power
 * cut, after which the file is as it was before or after. Blocks; any thread.
 *
 * Returns: %TRUE on success
 */
gboolean
kw_state_file_update_quickly (const char *directory,
                              const char *name,
                              KwStateFileFunc update,
                              gpointer user_data,
                              GError **error)
{
  return update_file (directory, name, update, user_data, G_FILE_SET_CONTENTS_CONSISTENT, error);
}

/**
 * kw_state_file_hand_over:
 * @fd: a file that this process writes
 * @path: its path
 *
 * When root made the file in a directory that belongs to somebody else, gives it to that owner. A file with further links
 * is left alone: it may be one of root's that was put there. Any thread.
 */
void
kw_state_file_hand_over (int fd, const char *path)
{
  g_autofree char *directory = NULL;
  struct stat file;
  struct stat parent;

  g_return_if_fail (fd >= 0 && path != NULL);

  if (geteuid () != 0)
    return;
  directory = g_path_get_dirname (path);
  if (fstat (fd, &file) != 0 || !S_ISREG (file.st_mode) || file.st_uid != 0 || file.st_nlink != 1
      || stat (directory, &parent) != 0 || parent.st_uid == 0)
    return;
  /* Where that fails (no CAP_CHOWN) the service says which file it cannot read. */
  (void) !fchown (fd, parent.st_uid, parent.st_gid);
}
