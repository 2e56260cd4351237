/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-log"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-log.h"

#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <string.h>

/*
 * GLib takes a log writer once in a process, so each test runs this program again as a child that
 * logs to a file and ends; the parent reads the file.
 */

#define NASTY "quote \" back \\ tab \t nl \n esc \x1b del \x7f bad \xff end"
#define NASTY_JSON "quote \" back \\ tab \t nl \n esc \x1b del \x7f bad \xef\xbf\xbd end"
#define NASTY_CONSOLE                                                                              \
  "quote \" back \\\\ tab \\x09 nl \\x0a esc \\x1b del \\x7f bad \xef\xbf\xbd end"

static void
say_nasty (KwLogger *logger G_GNUC_UNUSED, const char *path G_GNUC_UNUSED)
{
  kw_log (G_LOG_LEVEL_INFO, NASTY, "text", NASTY, "left_out", NULL, "empty", "", NULL);
}

static void
say_levels (KwLogger *logger G_GNUC_UNUSED, const char *path G_GNUC_UNUSED)
{
  kw_log (G_LOG_LEVEL_DEBUG, "debug", NULL, NULL);
  kw_log (G_LOG_LEVEL_INFO, "info", NULL, NULL);
  kw_log (G_LOG_LEVEL_MESSAGE, "message", NULL, NULL);
  kw_log (G_LOG_LEVEL_WARNING, "warn", NULL, NULL);
  kw_log (G_LOG_LEVEL_CRITICAL, "error", NULL, NULL);
}

static void
say_bare (KwLogger *logger G_GNUC_UNUSED, const char *path G_GNUC_UNUSED)
{
  kw_log (G_LOG_LEVEL_INFO, "Slots found", "slotIds", "[0, 17]", "port", "8513", NULL);
  kw_log (G_LOG_LEVEL_INFO, "Slots found", "slotIds", "[0],\"x\":[1]", "port", "85x", NULL);
  kw_log (G_LOG_LEVEL_INFO, "Slots found", "slotIds", "[,]", "port", "007", NULL);
  kw_log (G_LOG_LEVEL_INFO, "Slots found", "slotIds", "[]", "port", "", NULL);
}

static void
say_glib (KwLogger *logger G_GNUC_UNUSED, const char *path G_GNUC_UNUSED)
{
  g_info ("from %s", "GLib");
}

static void
say_many (KwLogger *logger G_GNUC_UNUSED, const char *path G_GNUC_UNUSED)
{
  kw_log (G_LOG_LEVEL_INFO, "many", "f1", "1", "f2", "1", "f3", "1", "f4", "1", "f5", "1", "f6",
          "1", "f7", "1", "f8", "1", "f9", "1", "f10", "1", "f11", "1", "f12", "1", "f13", "1",
          "f14", "1", "f15", "1", "f16", "1", "f17", "1", "f18", "1", "f19", "1", "f20", "1", "f21",
          "1", "f22", "1", "f23", "1", "f24", "1", NULL);
}

static void
reopen (KwLogger *logger, const char *path)
{
  g_autofree char *rotated = g_strconcat (path, ".1", NULL);

  kw_log (G_LOG_LEVEL_INFO, "old", NULL, NULL);
  g_assert_cmpint (g_rename (path, rotated), ==, 0);
  kw_log (G_LOG_LEVEL_INFO, "still old", NULL, NULL);
  g_assert_true (kw_logger_reopen (logger, NULL));
  kw_log (G_LOG_LEVEL_INFO, "new", NULL, NULL);
}

static void
reopen_fails (KwLogger *logger, const char *path)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *rotated = g_strconcat (path, ".1", NULL);

  g_assert_cmpint (g_rename (path, rotated), ==, 0);
  g_assert_cmpint (g_mkdir (path, 0700), ==, 0);
  g_assert_false (kw_logger_reopen (logger, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_CONFIG);
  kw_log (G_LOG_LEVEL_INFO, "still there", NULL, NULL);
  g_assert_cmpint (g_rmdir (path), ==, 0);
  g_assert_cmpint (g_rename (rotated, path), ==, 0);
}

static gpointer
say_often (gpointer user_data)
{
  for (guint i = 0; i < 200; i++)
    kw_log (G_LOG_LEVEL_INFO, "line", "thread", user_data, NULL);
  return NULL;
}

static void
say_from_threads (KwLogger *logger G_GNUC_UNUSED, const char *path G_GNUC_UNUSED)
{
  GThread *threads[4];

  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    threads[i] = g_thread_new ("say", say_often, (gpointer) "some thread");
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    g_thread_join (threads[i]);
}

typedef struct
{
  const char *name;
  void (*say) (KwLogger *logger, const char *path);
} Speech;

static const Speech speeches[] = {
  { "nasty", say_nasty },
  { "levels", say_levels },
  { "bare", say_bare },
  { "glib", say_glib },
  { "many", say_many },
  { "reopen", reopen },
  { "reopen-fails", reopen_fails },
  { "threads", say_from_threads },
};

/* The child: --say NAME LEVEL ENCODING PATH */
static int
run_child (char **argv)
{
  g_autoptr (GError) error = NULL;
  KwLogConfig config = { G_LOG_LEVEL_INFO, argv[5], KW_LOG_ENCODING_JSON };
  g_autoptr (KwLogger) logger = NULL;

  if (!kw_log_level_from_string (argv[3], &config.level))
    return 2;
  if (g_str_equal (argv[4], "console"))
    config.encoding = KW_LOG_ENCODING_CONSOLE;
  logger = kw_logger_new (&config, &error);
  if (logger == NULL)
    return 3;
  kw_logger_install (logger);
  for (guint i = 0; i < G_N_ELEMENTS (speeches); i++)
    {
      if (g_str_equal (speeches[i].name, argv[2]))
        speeches[i].say (logger, argv[5]);
    }
  return 0;
}

static void
run (const char *name, const char *level, const char *encoding, const char *path)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GSubprocess) child
      = g_subprocess_new (G_SUBPROCESS_FLAGS_NONE, &error, "/proc/self/exe", "--say", name, level,
                          encoding, path, NULL);

  g_assert_no_error (error);
  g_assert_true (g_subprocess_wait_check (child, NULL, &error));
  g_assert_no_error (error);
}

/* The lines of a log, without the empty one at its end. */
static GStrv
say (const char *name, const char *level, const char *encoding)
{
  char *directory = kw_test_make_directory ();
  g_autofree char *path = g_build_filename (directory, "log", NULL);
  g_autofree char *text = NULL;
  GStrv lines = NULL;

  run (name, level, encoding, path);
  text = kw_test_read_file (directory, "log");
  g_assert_true (text[0] == '\0' || g_str_has_suffix (text, "\n"));
  if (text[0] != '\0')
    text[strlen (text) - 1] = '\0';
  lines = g_strsplit (text, "\n", -1);
  kw_test_remove_directory (directory);
  return lines;
}

static JsonObject *
parse (const char *line)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (JsonNode) node = json_from_string (line, &error);

  g_assert_no_error (error);
  return json_object_ref (json_node_get_object (node));
}

static void
test_json (void)
{
  g_auto (GStrv) lines = say ("nasty", "info", "json");
  g_autoptr (JsonObject) object = parse (lines[0]);
  g_autoptr (GList) members = json_object_get_members (object);
  static const char *const names[] = { "level", "ts", "msg", "text", "empty" };

  g_assert_cmpuint (g_strv_length (lines), ==, 1);
  g_assert_cmpuint (g_list_length (members), ==, G_N_ELEMENTS (names));
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    g_assert_cmpstr (g_list_nth_data (members, i), ==, names[i]);
  g_assert_cmpstr (json_object_get_string_member (object, "level"), ==, "info");
  g_assert_cmpstr (json_object_get_string_member (object, "msg"), ==, NASTY_JSON);
  g_assert_cmpstr (json_object_get_string_member (object, "text"), ==, NASTY_JSON);
  g_assert_cmpstr (json_object_get_string_member (object, "empty"), ==, "");
  g_assert_true (
      g_regex_match_simple ("^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}[+-]\\d{4}$",
                            json_object_get_string_member (object, "ts"), G_REGEX_DEFAULT,
                            G_REGEX_MATCH_DEFAULT));
}

static void
test_console (void)
{
  g_auto (GStrv) lines = say ("nasty", "info", "console");
  g_auto (GStrv) parts = g_strsplit (lines[0], "\t", -1);

  g_assert_cmpuint (g_strv_length (lines), ==, 1);
  g_assert_cmpuint (g_strv_length (parts), ==, 5);
  g_assert_cmpstr (parts[1], ==, "info");
  g_assert_cmpstr (parts[2], ==, NASTY_CONSOLE);
  g_assert_cmpstr (parts[3], ==, "text=" NASTY_CONSOLE);
  g_assert_cmpstr (parts[4], ==, "empty=");
}

static void
test_levels (void)
{
  static const struct
  {
    const char *level;
    const char *wanted;
  } rows[] = {
    { "debug", "debug info message warn error" },
    { "info", "info message warn error" },
    { "warn", "warn error" },
    { "error", "error" },
    { "panic", "error" },
    { "fatal", "error" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_auto (GStrv) lines = say ("levels", rows[i].level, "json");
      g_autoptr (GString) said = g_string_new (NULL);

      for (guint j = 0; lines[j] != NULL; j++)
        {
          g_autoptr (JsonObject) object = parse (lines[j]);
          const char *message = json_object_get_string_member (object, "msg");

          g_string_append_printf (said, "%s%s", j > 0 ? " " : "", message);
          g_assert_cmpstr (json_object_get_string_member (object, "level"), ==,
                           g_str_equal (message, "message") ? "info" : message);
        }
      g_assert_cmpstr (said->str, ==, rows[i].wanted);
    }
}

static void
test_level_names (void)
{
  GLogLevelFlags level = G_LOG_LEVEL_DEBUG;

  g_assert_true (kw_log_level_from_string ("info", &level));
  g_assert_cmpuint (level, ==, G_LOG_LEVEL_INFO);
  g_assert_false (kw_log_level_from_string ("INFO", &level));
  g_assert_false (kw_log_level_from_string ("", &level));
  g_assert_cmpuint (level, ==, G_LOG_LEVEL_INFO);
}

/* Numbers and lists of numbers are not put in quotes; what only looks like them is. */
static void
test_bare_values (void)
{
  g_auto (GStrv) lines = say ("bare", "info", "json");

  g_assert_cmpuint (g_strv_length (lines), ==, 4);
  g_assert_nonnull (strstr (lines[0], ",\"slotIds\":[0, 17],\"port\":8513}"));
  g_assert_nonnull (strstr (lines[1], ",\"slotIds\":\"[0],\\\"x\\\":[1]\",\"port\":\"85x\"}"));
  g_assert_nonnull (strstr (lines[2], ",\"slotIds\":\"[,]\",\"port\":\"007\"}"));
  g_assert_nonnull (strstr (lines[3], ",\"slotIds\":[],\"port\":\"\"}"));
  for (guint i = 0; lines[i] != NULL; i++)
    json_object_unref (parse (lines[i]));
}

static void
test_glib_messages (void)
{
  g_auto (GStrv) lines = say ("glib", "info", "json");
  g_autoptr (JsonObject) object = parse (lines[0]);

  g_assert_cmpstr (json_object_get_string_member (object, "msg"), ==, "from GLib");
}

static void
test_too_many_fields (void)
{
  g_auto (GStrv) lines = say ("many", "info", "json");
  g_autoptr (JsonObject) object = parse (lines[0]);

  g_assert_true (json_object_has_member (object, "f21"));
  g_assert_false (json_object_has_member (object, "f22"));
}

static void
test_reopen (void)
{
  char *directory = kw_test_make_directory ();
  g_autofree char *path = g_build_filename (directory, "log", NULL);
  g_autofree char *old_text = NULL;
  g_autofree char *new_text = NULL;

  run ("reopen", "info", "console", path);
  old_text = kw_test_read_file (directory, "log.1");
  new_text = kw_test_read_file (directory, "log");
  g_assert_nonnull (strstr (old_text, "\told\n"));
  g_assert_nonnull (strstr (old_text, "\tstill old\n"));
  g_assert_null (strstr (old_text, "\tnew\n"));
  g_assert_nonnull (strstr (new_text, "\tnew\n"));
  kw_test_remove_directory (directory);
}

static void
test_reopen_fails (void)
{
  g_auto (GStrv) lines = say ("reopen-fails", "info", "console");

  g_assert_cmpuint (g_strv_length (lines), ==, 1);
  g_assert_true (g_str_has_suffix (lines[0], "\tstill there"));
}

static void
test_threads_do_not_mix_lines (void)
{
  g_auto (GStrv) lines = say ("threads", "info", "json");

  g_assert_cmpuint (g_strv_length (lines), ==, 800);
  for (guint i = 0; lines[i] != NULL; i++)
    {
      g_autoptr (JsonObject) object = parse (lines[i]);

      g_assert_cmpstr (json_object_get_string_member (object, "thread"), ==, "some thread");
    }
}

static void
test_cannot_be_opened (void)
{
  g_autoptr (GError) error = NULL;
  KwLogConfig config = { G_LOG_LEVEL_INFO, (char *) "/dev/null/log", KW_LOG_ENCODING_JSON };

  g_assert_null (kw_logger_new (&config, &error));
  kw_assert_error (error, KW_ERROR_CONFIG,
                   "Cannot open the log file /dev/null/log: Not a directory; see [logger] path");
}

static void
test_standard_streams (void)
{
  static const char *const paths[] = { "stderr", "stdout" };

  for (guint i = 0; i < G_N_ELEMENTS (paths); i++)
    {
      KwLogConfig config = { G_LOG_LEVEL_INFO, (char *) paths[i], KW_LOG_ENCODING_JSON };
      g_autoptr (KwLogger) logger = kw_logger_new (&config, NULL);

      g_assert_nonnull (logger);
      g_assert_true (kw_logger_reopen (logger, NULL));
    }
}

/* A full disk loses lines, nothing else. */
static void
test_full_disk (void)
{
  run ("levels", "info", "json", "/dev/full");
}

int
main (int argc, char **argv)
{
  if (argc == 6 && g_str_equal (argv[1], "--say"))
    return run_child (argv);
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/log/json", test_json);
  g_test_add_func ("/log/console", test_console);
  g_test_add_func ("/log/levels", test_levels);
  g_test_add_func ("/log/level-names", test_level_names);
  g_test_add_func ("/log/bare-values", test_bare_values);
  g_test_add_func ("/log/glib-messages", test_glib_messages);
  g_test_add_func ("/log/too-many-fields", test_too_many_fields);
  g_test_add_func ("/log/reopen", test_reopen);
  g_test_add_func ("/log/reopen-fails", test_reopen_fails);
  g_test_add_func ("/log/threads-do-not-mix-lines", test_threads_do_not_mix_lines);
  g_test_add_func ("/log/cannot-be-opened", test_cannot_be_opened);
  g_test_add_func ("/log/standard-streams", test_standard_streams);
  g_test_add_func ("/log/full-disk", test_full_disk);
  return g_test_run ();
}
