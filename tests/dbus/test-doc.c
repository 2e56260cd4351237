/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-bus-doc"

#include "kw-bus-names.h"
#include "kw-bus-rig.h"

#include <string.h>

/*
 * docs/dbus.md is what the interfaces say, and each of its command lines works.
 */

#define WAIT_USEC (20 * G_TIME_SPAN_SECOND)
#define SETUP                                                                                      \
  "set -eu; cd \"$WORK\"; busctl () { command busctl --address=\"$ADDRESS\" \"$@\"; }\n"           \
  "keyward () { \"" KW_TEST_KEYWARD "\" --bus-address=\"$ADDRESS\" \"$@\"; }\n"                    \
  "DEVICE=$(busctl --list tree org.keyward1 | grep -m1 /device/)\n"                                \
  "KEY=$(busctl --list tree org.keyward1 | grep -m1 /key/)\n"                                      \
  "JOB=/org/keyward1/job/1\n"                                                                      \
  "printf 123456789 >plain\n"
#define ENVELOPE                                                                                    \
  "ENVELOPE=$(busctl call org.keyward1 /org/keyward1 org.keyward1.Manager Encrypt 'aya{sv}' 5 104 " \
  "101 108 108 111 0 | awk '{ for (i = 2; i <= $2 + 2; i++) printf \"%s \", $i }')\n"

static char *
run (const char *text, const char *address, const char *directory)
{
  g_autoptr (GSubprocessLauncher) launcher = g_subprocess_launcher_new (
      G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_MERGE);
  g_autoptr (GError) error = NULL;
  g_autoptr (GSubprocess) process = NULL;
  char *output = NULL;

  g_subprocess_launcher_setenv (launcher, "ADDRESS", address, TRUE);
  g_subprocess_launcher_setenv (launcher, "WORK", directory, TRUE);
  process = g_subprocess_launcher_spawn (launcher, &error, "bash", "-c", text, NULL);
  g_assert_no_error (error);
  g_subprocess_communicate_utf8 (process, NULL, NULL, &output, NULL, &error);
  g_assert_no_error (error);
  if (g_subprocess_get_exit_status (process) != 0)
    g_error ("%s\n%s", text, output);
  return output;
}

static void
test_page_is_current (void)
{
  g_autofree char *output = run (KW_TEST_DBUS_DOC " --check", "", "/");

  g_assert_cmpstr (output, ==, "");
}

static char *
find_line (const char *lines, const char *method)
{
  g_auto (GStrv) list = g_strsplit (lines, "\n", -1);
  g_autofree char *prefix = g_strconcat (method, "\t", NULL);

  for (guint i = 0; list[i] != NULL; i++)
    {
      if (g_str_has_prefix (list[i], prefix))
        return g_strdup (list[i] + strlen (prefix));
    }
  g_assert_not_reached ();
}

static void
run_line (KwBusRig *rig, const char *setup, const char *line)
{
  g_autofree char *script = g_strconcat (setup, line, NULL);
  g_autofree char *output = run (script, kw_bus_rig_get_address (rig),
                                 kw_daemon_rig_get_directory (kw_bus_rig_get_daemon (rig)));

  g_test_message ("%s: %s", line, output);
}

static void
wait_for_state (GDBusConnection *bus, const char *path, const char *interface, const char *state)
{
  gint64 deadline = g_get_monotonic_time () + WAIT_USEC;

  while (g_get_monotonic_time () < deadline)
    {
      g_autoptr (GVariant) reply
          = kw_bus_rig_call (bus, path, "org.freedesktop.DBus.Properties", "Get",
                             g_variant_new ("(ss)", interface, "State"), NULL);
      g_autoptr (GVariant) value = NULL;

      g_assert_nonnull (reply);
      g_variant_get (reply, "(v)", &value);
      if (g_str_equal (g_variant_get_string (value, NULL), state))
        return;
    }
  g_assert_not_reached ();
}

/* The daemon has no PIN at first: the line for Unlock() gives it one. */
static void
test_each_line_works (void)
{
  KwBusRig *rig = kw_bus_rig_new ("[hsm]\nhsm_keyid = 0\n");
  g_autofree char *lines = run (KW_TEST_DBUS_DOC " --lines", "", "/");
  g_auto (GStrv) list = g_strsplit (g_strchomp (lines), "\n", -1);
  g_autofree char *unlock = find_line (lines, "Unlock");
  g_autofree char *generate = find_line (lines, "GenerateKey");
  g_autofree char *test = find_line (lines, "RunTest");
  g_autofree char *device = NULL;
  g_autofree char *key = NULL;
  g_autoptr (GDBusConnection) bus = NULL;

  kw_daemon_rig_set_pin (kw_bus_rig_get_daemon (rig), "");
  kw_daemon_rig_launch (kw_bus_rig_get_daemon (rig));
  kw_daemon_rig_wait_for_log (kw_bus_rig_get_daemon (rig), "On D-Bus");
  bus = kw_bus_rig_connect (rig, geteuid ());
  device = kw_bus_rig_wait_for_object (bus, KW_BUS_DEVICE_INTERFACE, WAIT_USEC);
  g_assert_nonnull (device);
  wait_for_state (bus, device, KW_BUS_DEVICE_INTERFACE, "locked");
  run_line (rig, SETUP "printf '" KW_TEST_PIN "\\n' >pin\n", unlock);
  wait_for_state (bus, device, KW_BUS_DEVICE_INTERFACE, "ready");
  run_line (rig, SETUP, generate);
  key = kw_bus_rig_wait_for_object (bus, KW_BUS_KEY_INTERFACE, WAIT_USEC);
  wait_for_state (bus, key, KW_BUS_KEY_INTERFACE, "ok");
  run_line (rig, SETUP, test);
  for (guint i = 0; list[i] != NULL; i++)
    {
      const char *line = strchr (list[i], '\t') + 1;

      if (!g_str_equal (line, unlock) && !g_str_equal (line, generate))
        run_line (rig, strstr (line, "$ENVELOPE") != NULL ? SETUP ENVELOPE : SETUP, line);
    }
  run_line (rig, SETUP, "cmp plain opened");
  run_line (rig, SETUP, "busctl introspect org.keyward1 /org/keyward1");
  run_line (rig, SETUP,
            "busctl get-property org.keyward1 /org/keyward1 org.keyward1.Manager State");
  kw_bus_rig_free (rig);
}

int
main (int argc, char **argv)
{
  g_autofree char *busctl = g_find_program_in_path ("busctl");

  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/bus-doc/page-is-current", test_page_is_current);
  if (busctl != NULL)
    g_test_add_func ("/bus-doc/each-line-works", test_each_line_works);
  return g_test_run ();
}
