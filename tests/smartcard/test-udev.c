/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-sc-udev"

#include "kw-sc-bench.h"
#include "kw-sc-udev.h"

#include <string.h>
#include <umockdev.h>

/*
 * USB devices that the kernel knows and pcscd does not: which are card readers, and what is said of them.
 */

#define CLASS_SMART_CARD "0b"
#define CLASS_STORAGE "08"

typedef struct
{
  UMockdevTestbed *testbed;
  guint n_events;
} Fixture;

static Fixture *
fixture_new (void)
{
  Fixture *f = g_new0 (Fixture, 1);

  f->testbed = umockdev_testbed_new ();
  return f;
}

static void
fixture_free (Fixture *f)
{
  g_object_unref (f->testbed);
  g_free (f);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Fixture, fixture_free)

/* A device with one interface. */
static char *
plug (Fixture *f,
      const char *name,
      const char *vendor,
      const char *product,
      const char *text,
      const char *class)
{
  g_autofree char *interface_name = g_strdup_printf ("%s:1.0", name);
  char *device
      = umockdev_testbed_add_device (f->testbed, "usb", name, NULL, "idVendor", vendor, "idProduct",
                                     product, "product", text, NULL, "DEVTYPE", "usb_device", NULL);
  g_autofree char *interface = umockdev_testbed_add_device (f->testbed, "usb", interface_name,
                                                            device, "bInterfaceClass", class, NULL,
                                                            "DEVTYPE", "usb_interface", NULL);

  g_assert_nonnull (device);
  g_assert_nonnull (interface);
  umockdev_testbed_uevent (f->testbed, device, "add");
  return device;
}

static void
unplug (Fixture *f, const char *device)
{
  umockdev_testbed_uevent (f->testbed, device, "remove");
  umockdev_testbed_remove_device (f->testbed, device);
}

static void
on_event (gpointer user_data)
{
  ((Fixture *) user_data)->n_events++;
}

static char *
list (KwScUdev *udev)
{
  g_auto (GStrv) names = kw_sc_udev_list (udev);

  return g_strjoinv ("|", names);
}

static void
test_only_card_readers_count (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  g_autofree char *stick G_GNUC_UNUSED
      = plug (f, "1-1", "0781", "5567", "Cruzer Blade\n", CLASS_STORAGE);
  g_autofree char *hsm G_GNUC_UNUSED
      = plug (f, "1-2", "20a0", "4230", "Nitrokey HSM", CLASS_SMART_CARD);
  g_autofree char *other G_GNUC_UNUSED
      = plug (f, "1-3", "076b", "3031", "Smart Card Reader USB", CLASS_SMART_CARD);
  g_autofree char *third G_GNUC_UNUSED = plug (f, "1-4", "04E6", "5816", "uTrust", "0B");
  g_autoptr (KwScUdev) udev = kw_sc_udev_new (on_event, f);
  g_autofree char *names = list (udev);
  g_auto (GStrv) parts = g_strsplit (names, "|", -1);

  g_assert_cmpuint (g_strv_length (parts), ==, 3);
  g_assert_true (g_strv_contains ((const char *const *) parts, "Nitrokey HSM (20a0:4230)"));
  g_assert_true (
      g_strv_contains ((const char *const *) parts, "Smart Card Reader USB (076b:3031)"));
  g_assert_true (g_strv_contains ((const char *const *) parts, "SmartCard-HSM (04E6:5816)"));
}

/* What a device says of itself is printed as it is only where it is harmless. */
static void
test_names_are_cleaned (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  g_autofree char *long_name = g_strnfill (500, 'x');
  g_autofree char *one G_GNUC_UNUSED
      = plug (f, "1-1", "1234", "5678", "bad\033[31m\001name\xff", CLASS_SMART_CARD);
  g_autofree char *two G_GNUC_UNUSED = plug (f, "1-2", "1234", "5679", long_name, CLASS_SMART_CARD);
  g_autoptr (KwScUdev) udev = kw_sc_udev_new (on_event, f);
  g_autofree char *names = list (udev);

  g_assert_nonnull (strstr (names, "bad[31mname"));
  g_assert_null (strchr (names, '\033'));
  g_assert_null (strchr (names, '\001'));
  g_assert_true (g_utf8_validate (names, -1, NULL));
  g_assert_cmpuint (strlen (names), <, 200);
}

static void
test_news (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  g_autoptr (KwScUdev) udev = kw_sc_udev_new (on_event, f);
  g_autofree char *device = NULL;
  gint64 deadline = g_get_monotonic_time () + 10 * G_TIME_SPAN_SECOND;

  device = plug (f, "1-1", "20a0", "4230", "Nitrokey HSM", CLASS_SMART_CARD);
  while (f->n_events == 0 && g_get_monotonic_time () < deadline)
    g_main_context_iteration (NULL, FALSE);
  g_assert_cmpuint (f->n_events, ==, 1);
  unplug (f, device);
  while (f->n_events == 1 && g_get_monotonic_time () < deadline)
    g_main_context_iteration (NULL, FALSE);
  g_assert_cmpuint (f->n_events, ==, 2);
  {
    g_autofree char *names = list (udev);

    g_assert_cmpstr (names, ==, "");
  }
}

static void
test_pcscd_does_not_run (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autoptr (Bench) bench = NULL;
  g_autofree char *device = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new ();
  bench = bench_new (sc_fixture_new_blank (1, NULL), BENCH_CONFIG, NULL);
  kw_card_rig_stop_pcscd (bench->cards->rig, NULL);
  kw_backend_start (KW_BACKEND (bench->backend));
  bench_wait_for_status (bench, "pcscd is not running; start it with");
  device = plug (f, "1-1", "20a0", "4230", "Nitrokey HSM", CLASS_SMART_CARD);
  bench_wait_for_status (bench, "pcscd is not running, so what is plugged in cannot be used "
                                "(Nitrokey HSM (20a0:4230)); start it with");
  unplug (f, device);
  bench_wait_for_status (bench, "pcscd is not running; start it with");
}

/* More devices than readers. The rig's readers are none on USB. */
static void
test_pcscd_shows_too_few (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autoptr (Bench) bench = NULL;
  g_autoptr (GPtrArray) slots = NULL;
  g_autoptr (GPtrArray) devices = g_ptr_array_new_with_free_func (g_free);

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new ();
  bench = bench_new (sc_fixture_new (1, NULL), BENCH_CONFIG, NULL);
  slots = kw_backend_list_slots (KW_BACKEND (bench->backend), NULL);
  kw_backend_start (KW_BACKEND (bench->backend));
  bench_wait_for_tokens (bench, 1);
  bench_wait_for_status (bench, NULL);
  for (guint i = 0; i <= slots->len; i++)
    {
      g_autofree char *name = g_strdup_printf ("1-%u", i + 1);

      bench_run_for (50);
      g_assert_null (kw_backend_get_status_text (KW_BACKEND (bench->backend)));
      g_ptr_array_add (devices, plug (f, name, "20a0", "4230", "Nitrokey HSM", CLASS_SMART_CARD));
    }
  bench_wait_for_status (bench, "plugged in, but pcscd shows fewer readers");
  bench_wait_for_status (bench, "pcscd --hotplug");
  /* It is no reason to do without the card that is there. */
  g_assert_cmpuint (bench->tokens->len, ==, 1);
  unplug (f, g_ptr_array_index (devices, 0));
  bench_wait_for_status (bench, NULL);
}

int
main (int argc, char **argv)
{
  const char *preload = g_getenv ("LD_PRELOAD");

  g_test_init (&argc, &argv, NULL);
  if (preload == NULL || strstr (preload, "umockdev") == NULL)
    {
      g_print ("1..0 # SKIP this has to be run by umockdev-wrapper\n");
      return 0;
    }
  /* pcscd and the cards live in the real world. */
  g_unsetenv ("LD_PRELOAD");
  g_test_add_func ("/udev/only-card-readers", test_only_card_readers_count);
  g_test_add_func ("/udev/names", test_names_are_cleaned);
  g_test_add_func ("/udev/news", test_news);
  g_test_add_func ("/udev/pcscd-does-not-run", test_pcscd_does_not_run);
  g_test_add_func ("/udev/pcscd-shows-too-few", test_pcscd_shows_too_few);
  return g_test_run ();
}
