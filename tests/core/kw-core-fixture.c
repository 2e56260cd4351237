/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-core-fixture"

#include "config.h"

#include "kw-core-fixture.h"

#include <glib/gstdio.h>
#include <string.h>

/*
 * What several tests of the core need: directories of their own, files in them, and silence.
 */

static GLogWriterOutput
drop_line (GLogLevelFlags level,
           const GLogField *fields,
           gsize n_fields,
           gpointer user_data G_GNUC_UNUSED)
{
  /* What Keyward logs is what the test provoked; what GLib complains of is not. */
  for (gsize i = 0; i < n_fields; i++)
    {
      if (g_str_equal (fields[i].key, "GLIB_DOMAIN") && g_str_equal (fields[i].value, "keyward"))
        return G_LOG_WRITER_HANDLED;
    }
  return g_log_writer_default (level, fields, n_fields, NULL);
}

/**
 * kw_test_make_directory:
 *
 * Makes a directory for one test, with no access for others.
 *
 * Returns: (transfer full): its path, for kw_test_remove_directory()
 */
char *
kw_test_make_directory (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = g_dir_make_tmp ("keyward-core-XXXXXX", &error);

  g_assert_no_error (error);
  return directory;
}

/**
 * kw_test_remove_directory:
 * @directory: (transfer full): a directory of files and directories of files
 *
 * Removes it with all that is in it.
 */
void
kw_test_remove_directory (char *directory)
{
  g_autoptr (GDir) entries = g_dir_open (directory, 0, NULL);
  const char *name = NULL;

  while (entries != NULL && (name = g_dir_read_name (entries)) != NULL)
    {
      g_autofree char *path = g_build_filename (directory, name, NULL);

      if (g_file_test (path, G_FILE_TEST_IS_DIR) && !g_file_test (path, G_FILE_TEST_IS_SYMLINK))
        kw_test_remove_directory (g_steal_pointer (&path));
      else
        g_assert_cmpint (g_unlink (path), ==, 0);
    }
  g_assert_cmpint (g_rmdir (directory), ==, 0);
  g_free (directory);
}

/**
 * kw_test_write_file:
 * @directory: where
 * @name: its name
 * @text: its contents
 * @mode: its mode
 *
 * Writes a file.
 *
 * Returns: (transfer full): its path
 */
char *
kw_test_write_file (const char *directory, const char *name, const char *text, int mode)
{
  g_autoptr (GError) error = NULL;
  char *path = g_build_filename (directory, name, NULL);

  g_file_set_contents (path, text, -1, &error);
  g_assert_no_error (error);
  g_assert_cmpint (g_chmod (path, mode), ==, 0);
  return path;
}

/**
 * kw_test_read_file:
 * @directory: where
 * @name: its name
 *
 * Reads a file that must be there.
 *
 * Returns: (transfer full): its contents
 */
char *
kw_test_read_file (const char *directory, const char *name)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = g_build_filename (directory, name, NULL);
  char *text = NULL;

  g_file_get_contents (path, &text, NULL, &error);
  g_assert_no_error (error);
  return text;
}

/**
 * kw_test_keep_quiet:
 *
 * Drops what Keyward logs: tests provoke warnings, which would end them. Once in a process.
 */
void
kw_test_keep_quiet (void)
{
  g_log_set_writer_func (drop_line, NULL, NULL);
}
