/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-store.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct _CardStore
{
  char *path;
  char *new_path;
  int directory_fd; /* for fsync after a rename */
  int lock_fd;
};

static void
set_errno_error (GError **error, const char *what, const char *path, int saved_errno)
{
  g_set_error (error, G_IO_ERROR, g_io_error_from_errno (saved_errno), "cannot %s %s: %s", what,
               path, g_strerror (saved_errno));
}

/* A file has one lock and one place for its new content, whatever links lead to it: so those are made from its true path. */
static char *
resolve (const char *path, GError **error)
{
  g_autofree char *directory = g_path_get_dirname (path);
  g_autofree char *name = g_path_get_basename (path);
  char *real_path = realpath (path, NULL);
  char *real_directory;
  char *resolved;
  GStatBuf status;

  if (!real_path && errno == ENOENT && g_lstat (path, &status) != 0)
    {
      real_directory = realpath (directory, NULL);
      if (!real_directory)
        {
          set_errno_error (error, "open the folder", directory, errno);
          return NULL;
        }
      resolved = g_build_filename (real_directory, name, NULL);
      free (real_directory);
      return resolved;
    }
  if (!real_path || g_stat (real_path, &status) != 0)
    {
      set_errno_error (error, "find", path, errno);
      free (real_path);
      return NULL;
    }
  resolved = g_strdup (real_path);
  free (real_path);
  if (!S_ISREG (status.st_mode))
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_NOT_REGULAR_FILE, "%s is no regular file", path);
      g_clear_pointer (&resolved, g_free);
    }
  else if (status.st_nlink > 1)
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_FAILED,
                   "%s has %u names (hard links), so another card could have it as well; give each "
                   "card a file of its own",
                   path, (guint) status.st_nlink);
      g_clear_pointer (&resolved, g_free);
    }
  return resolved;
}

/**
 * card_store_new:
 * @path: the state file; need not be there yet
 * @error: return location for a #GError
 *
 * Takes a state file for this program, by a lock on PATH.lock, PATH being where it really is.
 *
 * Returns: (transfer full): the store; %NULL when its folder is missing, it has several names, or another program has it
 */
CardStore *
card_store_new (const char *path, GError **error)
{
  g_autoptr (CardStore) self = g_new0 (CardStore, 1);
  g_autofree char *directory = NULL;
  g_autofree char *lock_path = NULL;

  self->lock_fd = -1;
  self->directory_fd = -1;
  self->path = resolve (path, error);
  if (!self->path)
    return NULL;
  directory = g_path_get_dirname (self->path);
  lock_path = g_strconcat (self->path, ".lock", NULL);
  self->new_path = g_strconcat (self->path, ".new", NULL);
  self->directory_fd = g_open (directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (self->directory_fd < 0)
    {
      set_errno_error (error, "open the folder", directory, errno);
      return NULL;
    }
  self->lock_fd = g_open (lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (self->lock_fd < 0)
    {
      set_errno_error (error, "open", lock_path, errno);
      return NULL;
    }
  if (flock (self->lock_fd, LOCK_EX | LOCK_NB) != 0)
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_BUSY,
                   "%s is the state of a card that runs already", path);
      return NULL;
    }
  return g_steal_pointer (&self);
}

void
card_store_free (CardStore *self)
{
  if (self->directory_fd >= 0)
    close (self->directory_fd);
  if (self->lock_fd >= 0)
    close (self->lock_fd);
  g_free (self->path);
  g_free (self->new_path);
  g_free (self);
}

/**
 * card_store_load:
 * @self: the store
 * @out_state: (out) (nullable): what stands in the file, %NULL when there is none
 * @error: return location for a #GError
 *
 * Returns: whether it could be read, or is not there
 */
gboolean
card_store_load (CardStore *self, GBytes **out_state, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  char *content;
  gsize size;

  if (g_file_get_contents (self->path, &content, &size, &local_error))
    {
      *out_state = g_bytes_new_take (content, size);
      return TRUE;
    }
  if (g_error_matches (local_error, G_FILE_ERROR, G_FILE_ERROR_NOENT))
    {
      *out_state = NULL;
      return TRUE;
    }
  g_propagate_error (error, g_steal_pointer (&local_error));
  return FALSE;
}

static gboolean
write_all (int fd, GBytes *bytes)
{
  gsize size;
  const guint8 *data = g_bytes_get_data (bytes, &size);

  while (size > 0)
    {
      gssize written = write (fd, data, size);

      if (written < 0 && errno == EINTR)
        continue;
      if (written <= 0)
        return FALSE;
      data += written;
      size -= (gsize) written;
    }
  return TRUE;
}

/**
 * card_store_save:
 * @self: the store
 * @state: what the file is to hold
 * @error: return location for a #GError
 *
 * Writes the file anew. It holds the old state or the new one at any time, and the new one when this returns.
 *
 * Returns: whether that was done
 */
gboolean
card_store_save (CardStore *self, GBytes *state, GError **error)
{
  int fd = g_open (self->new_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  gboolean written;
  int saved_errno;

  if (fd < 0)
    {
      set_errno_error (error, "write", self->new_path, errno);
      return FALSE;
    }
  written = write_all (fd, state) && fsync (fd) == 0;
  saved_errno = errno;
  if (close (fd) != 0 && written)
    {
      saved_errno = errno;
      written = FALSE;
    }
  if (!written)
    {
      g_unlink (self->new_path);
      set_errno_error (error, "write", self->new_path, saved_errno);
      return FALSE;
    }
  if (g_rename (self->new_path, self->path) != 0 || fsync (self->directory_fd) != 0)
    {
      set_errno_error (error, "write", self->path, errno);
      return FALSE;
    }
  return TRUE;
}
