/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-test"

#include "config.h"

#include "kw-bus-names.h"
#include "kw-cli-bus.h"
#include "kw-cli-commands.h"
#include "kw-cli-output.h"
#include "kw-cli-sentence.h"
#include "kw-cli-table.h"
#include "kw-error.h"

#include <glib-unix.h>
#include <string.h>
#include <unistd.h>

/*
 * test: has the running daemon test devices and keys, and prints each result as it comes.
 */

#define RESULTS_TYPE "a(sssts)"

typedef struct
{
  KwCli *cli;
  GDBusConnection *bus;
  GMainLoop *loop;
  char *path; /* of the job */
  guint n_printed;
  guint n_failed;
  gboolean done;
  gboolean cancelled;
  GError *error;
} Test;

static void
test_fail (Test *test, GError *taken_error)
{
  if (test->error == NULL)
    test->error = taken_error;
  else
    g_clear_error (&taken_error);
  g_main_loop_quit (test->loop);
}

/* All outcomes take as much room as the longest one. */
static int
get_outcome_width (void)
{
  static const char *const outcomes[] = { "passed", "failed", "skipped" };
  glong width = 0;

  for (guint i = 0; i < G_N_ELEMENTS (outcomes); i++)
    {
      g_autofree char *word = kw_cli_translate_output (outcomes[i]);

      width = MAX (width, g_utf8_strlen (word, -1));
    }
  return (int) width;
}

/* One line a result; the advice below it. */
static gboolean
print_result (GVariant *result, GError **error)
{
  const char *name, *subject, *outcome, *advice;
  guint64 duration_usec;
  g_autofree char *word = NULL;
  g_autofree char *padded = NULL;
  g_autofree char *coloured = NULL;
  g_autofree char *told = NULL;
  g_autofree char *printable = NULL;
  g_autofree char *remedy = NULL;
  g_autofree char *below = NULL;
  g_autofree char *line = NULL;

  g_variant_get (result, "(&s&s&st&s)", &name, &subject, &outcome, &duration_usec, &advice);
  word = kw_cli_translate_output (outcome);
  padded
      = g_strdup_printf ("%s%*s", word, get_outcome_width () - (int) g_utf8_strlen (word, -1), "");
  coloured = kw_cli_colour (kw_cli_colour_of_state (outcome), padded);
  told = kw_cli_translate_output (subject);
  printable = kw_cli_dup_printable (told);
  remedy = kw_cli_translate_output (advice);
  below = *advice != '\0' ? kw_cli_wrap (remedy, 9) : g_strdup ("");
  line = g_strdup_printf ("%s  %-11s  %8.1f ms  %s\n%s", coloured, name,
                          (double) duration_usec / 1000.0, printable, below);
  return kw_cli_output_text (line, error);
}

/* How far it is, where people look on. */
static void
show_progress (Test *test, double progress)
{
  if (test->cli->json || !isatty (STDERR_FILENO))
    return;
  if (test->done)
    g_printerr ("\r\033[K");
  else
    g_printerr ("\r\033[K%3.0f %%", progress * 100.0);
}

static void
take_properties (Test *test, GVariant *properties)
{
  g_autoptr (GVariant) results
      = g_variant_lookup_value (properties, "Results", G_VARIANT_TYPE (RESULTS_TYPE));
  double progress = kw_cli_bus_get_double (properties, "Progress");
  GError *error = NULL;

  if (results != NULL && !test->cli->json)
    {
      if (isatty (STDERR_FILENO))
        g_printerr ("\r\033[K");
      for (; test->n_printed < g_variant_n_children (results); test->n_printed++)
        {
          g_autoptr (GVariant) result = g_variant_get_child_value (results, test->n_printed);

          if (!print_result (result, &error))
            {
              test_fail (test, error);
              return;
            }
        }
    }
  if (g_str_equal (kw_cli_bus_get_string (properties, "State"), "done"))
    {
      test->done = TRUE;
      g_main_loop_quit (test->loop);
    }
  show_progress (test, progress);
}

static GVariant *
get_job (Test *test, GError **error)
{
  g_autoptr (GVariant) reply
      = kw_cli_bus_call (test->bus, test->path, "org.freedesktop.DBus.Properties", "GetAll",
                         g_variant_new ("(s)", KW_BUS_JOB_INTERFACE), "(a{sv})", error);

  return reply != NULL ? g_variant_get_child_value (reply, 0) : NULL;
}

static void
on_changed (GDBusConnection *bus G_GNUC_UNUSED,
            const char *sender G_GNUC_UNUSED,
            const char *path,
            const char *interface G_GNUC_UNUSED,
            const char *signal G_GNUC_UNUSED,
            GVariant *parameters,
            gpointer user_data)
{
  Test *test = user_data;
  g_autoptr (GVariant) properties = NULL;

  if (g_strcmp0 (path, test->path) != 0
      || !g_variant_is_of_type (parameters, G_VARIANT_TYPE ("(sa{sv}as)")))
    return;
  g_variant_get (parameters, "(&s@a{sv}as)", NULL, &properties, NULL);
  take_properties (test, properties);
}

static void
on_vanished (GDBusConnection *bus G_GNUC_UNUSED, const char *name G_GNUC_UNUSED, gpointer user_data)
{
  test_fail (user_data, g_error_new_literal (KW_ERROR, KW_ERROR_UNAVAILABLE,
                                             "The daemon went away before the test was done"));
}

static gboolean
on_interrupt (gpointer user_data)
{
  Test *test = user_data;

  if (test->cancelled)
    test_fail (test, g_error_new_literal (KW_ERROR, KW_ERROR_CANCELLED, "Interrupted"));
  test->cancelled = TRUE;
  g_dbus_connection_call (test->bus, KW_BUS_NAME, test->path, KW_BUS_JOB_INTERFACE, "Cancel", NULL,
                          NULL, G_DBUS_CALL_FLAGS_NONE, -1, NULL, NULL, NULL);
  return G_SOURCE_CONTINUE;
}

static gboolean
print_json (GVariant *job, GError **error)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autoptr (GVariant) results
      = g_variant_lookup_value (job, "Results", G_VARIANT_TYPE (RESULTS_TYPE));
  GVariantIter iter;
  const char *name, *subject, *outcome, *advice;
  guint64 duration_usec;

  json_builder_begin_object (builder);
  kw_cli_json_add_int (builder, "failed", kw_cli_bus_get_integer (job, "Failed"));
  json_builder_set_member_name (builder, "results");
  json_builder_begin_array (builder);
  g_variant_iter_init (&iter, results);
  while (g_variant_iter_next (&iter, "(&s&s&st&s)", &name, &subject, &outcome, &duration_usec,
                              &advice))
    {
      json_builder_begin_object (builder);
      kw_cli_json_add_string (builder, "test", name);
      kw_cli_json_add_string (builder, "subject", subject);
      kw_cli_json_add_string (builder, "outcome", outcome);
      kw_cli_json_add_int (builder, "microseconds", (gint64) duration_usec);
      kw_cli_json_add_string (builder, "advice", advice);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
  json_builder_end_object (builder);
  return kw_cli_output_json (builder, error);
}

static gboolean
print_summary (Test *test, GError **error)
{
  g_autoptr (GVariant) job = get_job (test, error);
  gint64 n_failed;
  g_autofree char *verdict = NULL;
  g_autofree char *told = NULL;
  g_autofree char *coloured = NULL;
  g_autofree char *line = NULL;

  if (job == NULL)
    return FALSE;
  n_failed = kw_cli_bus_get_integer (job, "Failed");
  test->cli->exit_status = n_failed > 0 || test->cancelled ? EXIT_FAILURE : EXIT_SUCCESS;
  if (test->cli->json)
    return print_json (job, error);
  take_properties (test, job);
  if (n_failed > 0)
    verdict
        = g_strdup_printf ("%" G_GINT64_FORMAT " of %u tests failed", n_failed, test->n_printed);
  else if (test->cancelled)
    verdict = g_strdup_printf ("%u tests, none failed, but it was cancelled", test->n_printed);
  else
    verdict = g_strdup_printf ("%u tests, none failed", test->n_printed);
  told = kw_cli_translate_output (verdict);
  coloured = kw_cli_colour (n_failed > 0 ? KW_CLI_RED : KW_CLI_GREEN, told);
  line = g_strdup_printf ("\n%s\n", coloured);
  return kw_cli_output_text (line, error);
}

/* Follows the job until it is done. */
static gboolean
follow (Test *test, GError **error)
{
  guint subscription
      = g_dbus_connection_signal_subscribe (test->bus, KW_BUS_NAME,
                                            "org.freedesktop.DBus.Properties", "PropertiesChanged",
                                            NULL, KW_BUS_JOB_INTERFACE, G_DBUS_SIGNAL_FLAGS_NONE,
                                            on_changed, test, NULL);
  g_autoptr (GVariant) reply
      = kw_cli_bus_call (test->bus, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "RunTest",
                         g_variant_new ("(a{sv})", NULL), "(o)", error);
  g_autoptr (GVariant) job = NULL;
  guint watch, sources[2];

  if (reply != NULL)
    {
      g_variant_get (reply, "(o)", &test->path);
      job = get_job (test, error);
    }
  if (job == NULL)
    {
      g_dbus_connection_signal_unsubscribe (test->bus, subscription);
      return FALSE;
    }
  watch = g_bus_watch_name_on_connection (test->bus, KW_BUS_NAME, G_BUS_NAME_WATCHER_FLAGS_NONE,
                                          NULL, on_vanished, test, NULL);
  sources[0] = g_unix_signal_add (SIGINT, on_interrupt, test);
  sources[1] = g_unix_signal_add (SIGTERM, on_interrupt, test);
  take_properties (test, job);
  if (!test->done)
    g_main_loop_run (test->loop);
  for (guint i = 0; i < G_N_ELEMENTS (sources); i++)
    g_source_remove (sources[i]);
  g_bus_unwatch_name (watch);
  g_dbus_connection_signal_unsubscribe (test->bus, subscription);
  if (test->error == NULL)
    return print_summary (test, error);
  g_propagate_error (error, g_steal_pointer (&test->error));
  return FALSE;
}

gboolean
kw_cli_run_test (KwCli *cli, char **arguments G_GNUC_UNUSED, GError **error)
{
  Test test = { .cli = cli };
  gboolean done;

  test.bus = kw_cli_bus_open (cli, error);
  if (test.bus == NULL)
    return FALSE;
  test.loop = g_main_loop_new (NULL, FALSE);
  done = follow (&test, error);
  g_main_loop_unref (test.loop);
  g_free (test.path);
  g_object_unref (test.bus);
  return done;
}
