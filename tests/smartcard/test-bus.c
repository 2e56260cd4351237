/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-sc-bus"

#include "kw-bus-names.h"
#include "kw-bus-rig.h"
#include "kw-card-rig.h"

#include <string.h>

/*
 * A card that is pulled, or put in, is seen on the bus within a second.
 */

#define LIMIT_USEC G_TIME_SPAN_SECOND
#define WAIT_USEC (30 * G_TIME_SPAN_SECOND)
#define WAIT_MSEC 30000
#define N_CARDS 2

typedef struct
{
  KwCardRig *cards;
  KwBusRig *rig;
  GDBusConnection *bus;
  guint n_added;
  guint n_removed;
  char *last_path;
} Fixture;

static void
on_objects_changed (GDBusConnection *connection G_GNUC_UNUSED,
                    const char *sender G_GNUC_UNUSED,
                    const char *path G_GNUC_UNUSED,
                    const char *interface G_GNUC_UNUSED,
                    const char *signal,
                    GVariant *parameters,
                    gpointer user_data)
{
  Fixture *f = user_data;
  const char *object = NULL;

  g_variant_get_child (parameters, 0, "&o", &object);
  if (!g_str_has_prefix (object, KW_BUS_DEVICE_PATH))
    return;
  g_free (f->last_path);
  f->last_path = g_strdup (object);
  if (g_str_equal (signal, "InterfacesAdded"))
    f->n_added++;
  else
    f->n_removed++;
}

static guint
count_devices (Fixture *f)
{
  g_autoptr (GVariant) reply
      = kw_bus_rig_call (f->bus, KW_BUS_PATH, "org.freedesktop.DBus.ObjectManager",
                         "GetManagedObjects", NULL, NULL);
  g_autoptr (GVariant) objects = g_variant_get_child_value (reply, 0);
  GVariantIter iter;
  const char *path = NULL;
  guint n = 0;

  g_variant_iter_init (&iter, objects);
  while (g_variant_iter_next (&iter, "{&o@a{sa{sv}}}", &path, NULL))
    n += g_str_has_prefix (path, KW_BUS_DEVICE_PATH);
  return n;
}

static void
set_up (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *text = NULL;
  KwDaemonRig *daemon = NULL;
  gint64 deadline = g_get_monotonic_time () + WAIT_USEC;

  f->cards = kw_card_rig_new (N_CARDS, NULL);
  f->rig = kw_bus_rig_new (NULL);
  daemon = kw_bus_rig_get_daemon (f->rig);
  kw_daemon_rig_set_environment (daemon, "PCSCLITE_CSOCK_NAME",
                                 kw_card_rig_get_socket_name (f->cards));
  text = g_strdup_printf ("[logger]\nlevel = \"debug\"\npath = \"%s/log\"\n[jwt]\nsecret = \"%s\"\n"
                          "[hsm]\nhsm_model = \"smartcard\"\nhsm_pin = \"%s\"\n"
                          "[state]\ndirectory = \"%s/state\"\n[server]\nport = @PORT@\n",
                          kw_daemon_rig_get_directory (daemon), KW_TEST_JWT_SECRET, KW_CARD_RIG_PIN,
                          kw_daemon_rig_get_directory (daemon));
  kw_daemon_rig_set_config (daemon, text);
  for (guint i = 0; i < N_CARDS; i++)
    kw_card_rig_initialise (f->cards, i, NULL, NULL, 0, "card", NULL);
  kw_bus_rig_start (f->rig);
  f->bus = kw_bus_rig_connect (f->rig, geteuid ());
  while (count_devices (f) < N_CARDS)
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
  g_dbus_connection_signal_subscribe (f->bus, KW_BUS_NAME, "org.freedesktop.DBus.ObjectManager",
                                      NULL, KW_BUS_PATH, NULL, G_DBUS_SIGNAL_FLAGS_NONE,
                                      on_objects_changed, f, NULL);
}

static void
tear_down (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_clear_object (&f->bus);
  kw_bus_rig_free (f->rig);
  kw_card_rig_free (f->cards);
  g_free (f->last_path);
}

static gint64
wait_for (const guint *count, guint wanted)
{
  gint64 before = g_get_monotonic_time ();

  while (*count < wanted)
    {
      g_main_context_iteration (NULL, FALSE);
      g_assert_cmpint (g_get_monotonic_time () - before, <, WAIT_USEC);
    }
  return g_get_monotonic_time () - before;
}

static void
test_hot_plug (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *path
      = g_strconcat (KW_BUS_DEVICE_PATH, kw_card_rig_get_serial (f->cards, 1), NULL);
  gint64 usec = 0;
  gint64 before = 0;

  for (guint round = 1; round <= 3; round++)
    {
      kw_card_rig_eject (f->cards, 1, NULL);
      usec = wait_for (&f->n_removed, round);
      g_test_message ("removed after %" G_GINT64_FORMAT " ms", usec / 1000);
      g_assert_cmpint (usec, <, LIMIT_USEC);
      g_assert_cmpstr (f->last_path, ==, path);
      /* pcscd polls the virtual reader; from when it knows of the card, the time is ours. */
      before = g_get_monotonic_time ();
      kw_card_rig_insert (f->cards, 1, NULL);
      kw_card_rig_wait_for_card (f->cards, 1, TRUE, WAIT_MSEC, NULL);
      g_test_message ("pcscd knew after %" G_GINT64_FORMAT " ms",
                      (g_get_monotonic_time () - before) / 1000);
      usec = wait_for (&f->n_added, round);
      g_test_message ("added after %" G_GINT64_FORMAT " ms", usec / 1000);
      g_assert_cmpint (usec, <, LIMIT_USEC);
      g_assert_cmpstr (f->last_path, ==, path);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add ("/sc-bus/hot-plug", Fixture, NULL, set_up, test_hot_plug, tear_down);
  return g_test_run ();
}
