/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-monitor"

#include "config.h"

#include "kw-bus-names.h"
#include "kw-cli-bus.h"
#include "kw-cli-commands.h"
#include "kw-cli-output.h"
#include "kw-cli-sentence.h"
#include "kw-cli-table.h"
#include "kw-error.h"

#include <glib-unix.h>
#include <glib/gi18n.h>
#include <string.h>

/*
 * monitor: prints what changes in the running daemon, line by line, until it is interrupted.
 */

typedef struct
{
  KwCli *cli;
  GMainLoop *loop;
  GHashTable *names; /* path → what it is called */
  GError *error;
} Monitor;

/* Figures change with each job; they are no news. */
static const char *const quiet_properties[] = {
  "Jobs", "Errors", "Failovers", "MedianMilliseconds", "P99Milliseconds", "StateSince", NULL
};

static void
monitor_end (Monitor *monitor, GError *taken_error)
{
  if (monitor->error == NULL)
    monitor->error = taken_error;
  else
    g_clear_error (&taken_error);
  g_main_loop_quit (monitor->loop);
}

static void
print_event (Monitor *monitor,
             const char *path,
             const char *event,
             const char *property,
             const char *value)
{
  g_autoptr (GDateTime) now = g_date_time_new_now_local ();
  const char *name = g_hash_table_lookup (monitor->names, path);
  g_autofree char *line = NULL;
  GError *error = NULL;
  gboolean printed;

  if (monitor->cli->json)
    {
      g_autofree char *time = g_date_time_format_iso8601 (now);
      g_autoptr (JsonBuilder) builder = json_builder_new ();
      g_autoptr (JsonNode) root = NULL;
      g_autofree char *text = NULL;

      json_builder_begin_object (builder);
      kw_cli_json_add_string (builder, "time", time);
      kw_cli_json_add_string (builder, "event", event);
      kw_cli_json_add_string (builder, "path", path);
      kw_cli_json_add_string (builder, "name", name);
      kw_cli_json_add_string (builder, "property", property);
      kw_cli_json_add_string (builder, "value", value);
      json_builder_end_object (builder);
      /* One object a line. */
      root = json_builder_get_root (builder);
      text = json_to_string (root, FALSE);
      line = g_strconcat (text, "\n", NULL);
    }
  else
    {
      g_autofree char *time = g_date_time_format (now, "%H:%M:%S");
      g_autofree char *told = value != NULL ? kw_cli_translate_output (value) : NULL;
      g_autofree char *printable = told != NULL ? kw_cli_dup_printable (told) : NULL;
      g_autofree char *news = kw_cli_translate_output (event);
      g_autofree char *coloured = printable != NULL && g_strcmp0 (property, "State") == 0
                                      ? kw_cli_colour (kw_cli_colour_of_state (value), printable)
                                      : g_strdup (printable);

      line = property != NULL
                 ? g_strdup_printf ("%s  %s  %s: %s\n", time, name != NULL ? name : path, property,
                                    coloured)
                 : g_strdup_printf ("%s  %s  %s\n", time, name != NULL ? name : path, news);
    }
  printed = kw_cli_output_text (line, &error);
  if (!printed)
    monitor_end (monitor, error);
}

static char *
format_value (GVariant *value)
{
  if (g_variant_is_of_type (value, G_VARIANT_TYPE_STRING))
    return g_variant_dup_string (value, NULL);
  return g_variant_print (value, FALSE);
}

/* Devices and keys go by serial number and id, the manager by the name of the program. */
static void
remember_name (Monitor *monitor, const char *path, GVariant *properties)
{
  const char *name = kw_cli_bus_get_string (properties, "Serial");

  if (*name == '\0')
    name = kw_cli_bus_get_string (properties, "Id");
  if (*name != '\0')
    g_hash_table_replace (monitor->names, g_strdup (path), g_strdup (name));
}

static void
print_added (Monitor *monitor, GVariant *parameters)
{
  const char *path;
  g_autoptr (GVariant) interfaces = NULL;
  GVariantIter iter;
  const char *interface;
  GVariant *properties;

  g_variant_get (parameters, "(&o@a{sa{sv}})", &path, &interfaces);
  g_variant_iter_init (&iter, interfaces);
  while (g_variant_iter_next (&iter, "{&s@a{sv}}", &interface, &properties))
    {
      remember_name (monitor, path, properties);
      g_variant_unref (properties);
    }
  print_event (monitor, path, N_ ("added"), NULL, NULL);
}

static void
print_changed (Monitor *monitor, const char *path, GVariant *parameters)
{
  g_autoptr (GVariant) properties = NULL;
  GVariantIter iter;
  const char *name;
  GVariant *value;

  g_variant_get (parameters, "(&s@a{sv}as)", NULL, &properties, NULL);
  g_variant_iter_init (&iter, properties);
  while (g_variant_iter_next (&iter, "{&sv}", &name, &value))
    {
      g_autofree char *text = format_value (value);

      if (!g_strv_contains (quiet_properties, name))
        print_event (monitor, path, "changed", name, text);
      g_variant_unref (value);
    }
}

static void
on_signal (GDBusConnection *bus G_GNUC_UNUSED,
           const char *sender G_GNUC_UNUSED,
           const char *path,
           const char *interface G_GNUC_UNUSED,
           const char *signal,
           GVariant *parameters,
           gpointer user_data)
{
  Monitor *monitor = user_data;
  const char *removed;

  if (g_str_equal (signal, "InterfacesAdded")
      && g_variant_is_of_type (parameters, G_VARIANT_TYPE ("(oa{sa{sv}})")))
    print_added (monitor, parameters);
  else if (g_str_equal (signal, "InterfacesRemoved")
           && g_variant_is_of_type (parameters, G_VARIANT_TYPE ("(oas)")))
    {
      g_variant_get (parameters, "(&oas)", &removed, NULL);
      print_event (monitor, removed, N_ ("removed"), NULL, NULL);
      g_hash_table_remove (monitor->names, removed);
    }
  else if (g_str_equal (signal, "PropertiesChanged")
           && g_variant_is_of_type (parameters, G_VARIANT_TYPE ("(sa{sv}as)")))
    print_changed (monitor, path, parameters);
  else if (g_str_equal (signal, "KeysInconsistent"))
    print_event (monitor, path, N_ ("keys-inconsistent"), NULL, NULL);
}

static void
on_appeared (GDBusConnection *bus G_GNUC_UNUSED,
             const char *name G_GNUC_UNUSED,
             const char *owner G_GNUC_UNUSED,
             gpointer user_data)
{
  print_event (user_data, KW_BUS_PATH, "the daemon is there", NULL, NULL);
}

static void
on_vanished (GDBusConnection *bus G_GNUC_UNUSED, const char *name G_GNUC_UNUSED, gpointer user_data)
{
  print_event (user_data, KW_BUS_PATH, "the daemon is not there", NULL, NULL);
}

static void
on_closed (GDBusConnection *bus G_GNUC_UNUSED,
           gboolean by_peer G_GNUC_UNUSED,
           GError *error G_GNUC_UNUSED,
           gpointer user_data)
{
  monitor_end (user_data,
               g_error_new_literal (KW_ERROR, KW_ERROR_UNAVAILABLE, "The bus went away"));
}

static gboolean
on_interrupt (gpointer user_data)
{
  monitor_end (user_data, NULL);
  return G_SOURCE_CONTINUE;
}

static gboolean
remember_object (const char *path,
                 GVariant *properties,
                 gpointer user_data,
                 GError **error G_GNUC_UNUSED)
{
  remember_name (user_data, path, properties);
  return TRUE;
}

gboolean
kw_cli_run_monitor (KwCli *cli, char **arguments G_GNUC_UNUSED, GError **error)
{
  g_autoptr (GDBusConnection) bus = kw_cli_bus_open (cli, error);
  Monitor monitor = { .cli = cli };
  guint subscription, watch, sources[2];

  if (bus == NULL)
    return FALSE;
  monitor.loop = g_main_loop_new (NULL, FALSE);
  monitor.names = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  g_hash_table_insert (monitor.names, g_strdup (KW_BUS_PATH), g_strdup ("keywardd"));
  subscription
      = g_dbus_connection_signal_subscribe (bus, KW_BUS_NAME, NULL, NULL, NULL, NULL,
                                            G_DBUS_SIGNAL_FLAGS_NONE, on_signal, &monitor, NULL);
  /* A daemon that is not there yet is news as well, when it comes. */
  (void) kw_cli_bus_foreach (bus, KW_BUS_DEVICE_INTERFACE, remember_object, &monitor, NULL);
  (void) kw_cli_bus_foreach (bus, KW_BUS_KEY_INTERFACE, remember_object, &monitor, NULL);
  watch = g_bus_watch_name_on_connection (bus, KW_BUS_NAME, G_BUS_NAME_WATCHER_FLAGS_NONE,
                                          on_appeared, on_vanished, &monitor, NULL);
  g_signal_connect (bus, "closed", G_CALLBACK (on_closed), &monitor);
  sources[0] = g_unix_signal_add (SIGINT, on_interrupt, &monitor);
  sources[1] = g_unix_signal_add (SIGTERM, on_interrupt, &monitor);
  g_main_loop_run (monitor.loop);

  for (guint i = 0; i < G_N_ELEMENTS (sources); i++)
    g_source_remove (sources[i]);
  g_signal_handlers_disconnect_by_data (bus, &monitor);
  g_bus_unwatch_name (watch);
  g_dbus_connection_signal_unsubscribe (bus, subscription);
  g_hash_table_unref (monitor.names);
  g_main_loop_unref (monitor.loop);
  if (monitor.error == NULL)
    return TRUE;
  g_propagate_error (error, monitor.error);
  return FALSE;
}
