/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-state-file"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-limits.h"
#include "kw-state-file.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "test.state"
#define N_WRITERS 4
#define N_UPDATES 25

static gboolean
count_up (GKeyFile *contents,
          gboolean *out_changed,
          gpointer user_data,
          GError **error G_GNUC_UNUSED)
{
  const char *key = user_data;
  int value = g_key_file_get_integer (contents, "count", key, NULL);

  g_key_file_set_integer (contents, "count", key, value + 1);
  *out_changed = TRUE;
  return TRUE;
}

static gboolean
change_nothing (GKeyFile *contents,
                gboolean *out_changed G_GNUC_UNUSED,
                gpointer user_data G_GNUC_UNUSED,
                GError **error G_GNUC_UNUSED)
{
  g_key_file_set_string (contents, "count", "lost", "yes");
  return TRUE;
}

static gboolean
fail (GKeyFile *contents, gboolean *out_changed, gpointer user_data G_GNUC_UNUSED, GError **error)
{
  g_key_file_set_string (contents, "count", "lost", "yes");
  *out_changed = TRUE;
  g_set_error_literal (error, KW_ERROR, KW_ERROR_PIN_LATCHED, "no");
  return FALSE;
}

static int
read_count (const char *directory, const char *key)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GKeyFile) contents = kw_state_file_read (directory, NAME, &error);

  g_assert_no_error (error);
  return g_key_file_get_integer (contents, "count", key, NULL);
}

static void
test_makes_directory_and_file (void)
{
  g_autoptr (GError) error = NULL;
  char *parent = kw_test_make_directory ();
  g_autofree char *directory = g_build_filename (parent, "state", NULL);
  g_autofree char *path = g_build_filename (directory, NAME, NULL);
  GStatBuf info;

  g_assert_true (kw_state_file_update (directory, NAME, count_up, (gpointer) "a", &error));
  g_assert_no_error (error);
  g_assert_cmpint (read_count (directory, "a"), ==, 1);
  g_assert_cmpint (g_stat (directory, &info), ==, 0);
  g_assert_cmpuint (info.st_mode & 0777, ==, 0700);
  g_assert_cmpint (g_stat (path, &info), ==, 0);
  g_assert_cmpuint (info.st_mode & 0777, ==, 0600);
  kw_test_remove_directory (parent);
}

static void
test_missing_file_is_empty (void)
{
  char *directory = kw_test_make_directory ();

  g_assert_cmpint (read_count (directory, "a"), ==, 0);
  kw_test_remove_directory (directory);
}

static void
test_unchanged_is_not_written (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = kw_test_make_directory ();
  g_autofree char *path = g_build_filename (directory, NAME, NULL);

  g_assert_true (kw_state_file_update (directory, NAME, change_nothing, NULL, &error));
  g_assert_false (g_file_test (path, G_FILE_TEST_EXISTS));
  kw_test_remove_directory (directory);
}

static void
test_failed_update_is_not_written (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = kw_test_make_directory ();
  g_autofree char *before = NULL;
  g_autofree char *after = NULL;

  g_assert_true (kw_state_file_update (directory, NAME, count_up, (gpointer) "a", NULL));
  before = kw_test_read_file (directory, NAME);
  g_assert_false (kw_state_file_update (directory, NAME, fail, NULL, &error));
  kw_assert_error (error, KW_ERROR_PIN_LATCHED, "no");
  after = kw_test_read_file (directory, NAME);
  g_assert_cmpstr (before, ==, after);
  kw_test_remove_directory (directory);
}

/* A new file takes the old one's place: who has the old one open still sees it whole. */
static void
test_is_replaced_as_a_whole (void)
{
  char *directory = kw_test_make_directory ();
  g_autofree char *path = g_build_filename (directory, NAME, NULL);
  GStatBuf before;
  GStatBuf after;
  g_autoptr (GDir) entries = NULL;
  guint n_entries = 0;

  g_assert_true (kw_state_file_update (directory, NAME, count_up, (gpointer) "a", NULL));
  g_assert_cmpint (g_stat (path, &before), ==, 0);
  g_assert_true (kw_state_file_update (directory, NAME, count_up, (gpointer) "a", NULL));
  g_assert_cmpint (g_stat (path, &after), ==, 0);
  g_assert_cmpuint (before.st_ino, !=, after.st_ino);
  entries = g_dir_open (directory, 0, NULL);
  while (g_dir_read_name (entries) != NULL)
    n_entries++;
  g_assert_cmpuint (n_entries, ==, 2); /* the file and the lock, nothing temporary */
  kw_test_remove_directory (directory);
}

static void
test_damaged_file_stays (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = kw_test_make_directory ();
  g_autofree char *path = kw_test_write_file (directory, NAME, "[count\nnonsense", 0600);
  g_autofree char *start = g_strdup_printf ("Cannot read the state file %s: ", path);
  g_autofree char *text = NULL;

  g_assert_null (kw_state_file_read (directory, NAME, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  g_assert_true (g_str_has_prefix (error->message, start));
  g_clear_error (&error);
  g_assert_false (kw_state_file_update (directory, NAME, count_up, (gpointer) "a", &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  text = kw_test_read_file (directory, NAME);
  g_assert_cmpstr (text, ==, "[count\nnonsense");
  kw_test_remove_directory (directory);
}

static void
test_too_large (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = kw_test_make_directory ();
  g_autofree char *path = kw_test_write_file (directory, NAME, "", 0600);
  g_autofree char *message
      = g_strdup_printf ("The state file %s is larger than 4194304 bytes", path);

  g_assert_cmpint (truncate (path, KW_MAX_STATE_FILE_BYTES + 1), ==, 0);
  g_assert_null (kw_state_file_read (directory, NAME, &error));
  kw_assert_error (error, KW_ERROR_FAILED, message);
  kw_test_remove_directory (directory);
}

static void
test_not_a_file (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = kw_test_make_directory ();
  g_autofree char *path = g_build_filename (directory, NAME, NULL);

  g_assert_cmpint (g_mkdir (path, 0700), ==, 0);
  g_assert_null (kw_state_file_read (directory, NAME, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  kw_test_remove_directory (directory);
}

static void
test_directory_cannot_be_made (void)
{
  g_autoptr (GError) error = NULL;
  char *parent = kw_test_make_directory ();
  g_autofree char *file = kw_test_write_file (parent, "file", "", 0600);
  g_autofree char *directory = g_build_filename (file, "state", NULL);
  g_autofree char *message = g_strdup_printf (
      "Cannot make the state directory %s: Not a directory; see [state] directory", directory);

  g_assert_false (kw_state_file_update (directory, NAME, count_up, (gpointer) "a", &error));
  kw_assert_error (error, KW_ERROR_PERMISSION, message);
  kw_test_remove_directory (parent);
}

static void
test_lock_is_a_link (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = kw_test_make_directory ();
  g_autofree char *lock = g_build_filename (directory, ".lock", NULL);
  g_autofree char *victim = g_build_filename (directory, "victim", NULL);
  g_autofree char *message
      = g_strdup_printf ("Cannot lock %s: Too many levels of symbolic links", lock);

  g_assert_cmpint (symlink (victim, lock), ==, 0);
  g_assert_false (kw_state_file_update (directory, NAME, count_up, (gpointer) "a", &error));
  kw_assert_error (error, KW_ERROR_PERMISSION, message);
  g_assert_false (g_file_test (victim, G_FILE_TEST_EXISTS));
  kw_test_remove_directory (directory);
}

static gboolean
take_away_directory (GKeyFile *contents,
                     gboolean *out_changed,
                     gpointer user_data,
                     GError **error G_GNUC_UNUSED)
{
  g_key_file_set_integer (contents, "count", "a", 1);
  *out_changed = TRUE;
  kw_test_remove_directory (g_strdup (user_data));
  return TRUE;
}

static void
test_cannot_be_written (void)
{
  g_autoptr (GError) error = NULL;
  char *parent = kw_test_make_directory ();
  g_autofree char *directory = g_build_filename (parent, "state", NULL);

  g_assert_false (kw_state_file_update (directory, NAME, take_away_directory, directory, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_PERMISSION);
  g_assert_true (g_str_has_prefix (error->message, "Cannot write "));
  kw_test_remove_directory (parent);
}

static gpointer
count_up_often (gpointer user_data)
{
  const char *directory = user_data;

  for (guint i = 0; i < N_UPDATES; i++)
    g_assert_true (kw_state_file_update (directory, NAME, count_up, (gpointer) "threads", NULL));
  return NULL;
}

static void
test_threads_lose_nothing (void)
{
  char *directory = kw_test_make_directory ();
  GThread *threads[N_WRITERS];

  for (guint i = 0; i < N_WRITERS; i++)
    threads[i] = g_thread_new ("writer", count_up_often, directory);
  for (guint i = 0; i < N_WRITERS; i++)
    g_thread_join (threads[i]);
  g_assert_cmpint (read_count (directory, "threads"), ==, N_WRITERS * N_UPDATES);
  kw_test_remove_directory (directory);
}

/* The child: this program, told where to count. */
static int
run_writer (const char *directory)
{
  for (guint i = 0; i < N_UPDATES; i++)
    {
      if (!kw_state_file_update (directory, NAME, count_up, (gpointer) "processes", NULL))
        return 1;
    }
  return 0;
}

static void
test_processes_lose_nothing (void)
{
  char *directory = kw_test_make_directory ();
  GSubprocess *writers[N_WRITERS];

  for (guint i = 0; i < N_WRITERS; i++)
    {
      g_autoptr (GError) error = NULL;

      writers[i] = g_subprocess_new (G_SUBPROCESS_FLAGS_NONE, &error, "/proc/self/exe",
                                     "--count-up-in", directory, NULL);
      g_assert_no_error (error);
    }
  for (guint i = 0; i < N_WRITERS; i++)
    {
      g_assert_true (g_subprocess_wait_check (writers[i], NULL, NULL));
      g_object_unref (writers[i]);
    }
  g_assert_cmpint (read_count (directory, "processes"), ==, N_WRITERS * N_UPDATES);
  kw_test_remove_directory (directory);
}

/* Only root can hand a file over, and only root needs to. */
static void
test_root_hands_over (void)
{
  char *directory = NULL;
  g_autofree char *path = NULL;
  g_autofree char *lock = NULL;
  GStatBuf info;

  if (geteuid () != 0)
    {
      g_test_skip ("not root");
      return;
    }
  directory = kw_test_make_directory ();
  path = g_build_filename (directory, NAME, NULL);
  lock = g_build_filename (directory, ".lock", NULL);
  if (chown (directory, 12345, 12346) != 0)
    {
      g_test_skip ("no CAP_CHOWN");
      kw_test_remove_directory (directory);
      return;
    }
  g_assert_true (kw_state_file_update (directory, NAME, count_up, (gpointer) "a", NULL));
  g_assert_cmpint (g_stat (path, &info), ==, 0);
  g_assert_cmpuint (info.st_uid, ==, 12345);
  g_assert_cmpuint (info.st_gid, ==, 12346);
  g_assert_cmpint (g_stat (lock, &info), ==, 0);
  g_assert_cmpuint (info.st_uid, ==, 12345);
  kw_test_remove_directory (directory);
}

int
main (int argc, char **argv)
{
  if (argc == 3 && g_str_equal (argv[1], "--count-up-in"))
    return run_writer (argv[2]);
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/state-file/makes-directory-and-file", test_makes_directory_and_file);
  g_test_add_func ("/state-file/missing-file-is-empty", test_missing_file_is_empty);
  g_test_add_func ("/state-file/unchanged-is-not-written", test_unchanged_is_not_written);
  g_test_add_func ("/state-file/failed-update-is-not-written", test_failed_update_is_not_written);
  g_test_add_func ("/state-file/is-replaced-as-a-whole", test_is_replaced_as_a_whole);
  g_test_add_func ("/state-file/damaged-file-stays", test_damaged_file_stays);
  g_test_add_func ("/state-file/too-large", test_too_large);
  g_test_add_func ("/state-file/not-a-file", test_not_a_file);
  g_test_add_func ("/state-file/directory-cannot-be-made", test_directory_cannot_be_made);
  g_test_add_func ("/state-file/lock-is-a-link", test_lock_is_a_link);
  g_test_add_func ("/state-file/cannot-be-written", test_cannot_be_written);
  g_test_add_func ("/state-file/threads-lose-nothing", test_threads_lose_nothing);
  g_test_add_func ("/state-file/processes-lose-nothing", test_processes_lose_nothing);
  g_test_add_func ("/state-file/root-hands-over", test_root_hands_over);
  return g_test_run ();
}
