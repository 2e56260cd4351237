/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-storm"

#include "kw-bus-error.h"
#include "kw-bus-names.h"
#include "kw-card-rig.h"
#include "kw-daemon-rig.h"

#include <stdlib.h>
#include <string.h>

/*
 * Three cards with the same keys, eight clients that encrypt and decrypt without a pause, and somebody who pulls cards, puts them
 * back, freezes them, lets them answer errors and kills pcscd. As long as one good card is left at a time, no client may notice.
 */

#define N_CARDS 3
#define N_CLIENTS 8
#define N_SHARES 1
#define STORM_SECONDS 120
#define OPENSC_SECONDS 20
#define KID 1
#define N_ENVELOPES 20

/* When memory and descriptors are looked at first: everything was in use by then. */
#define SETTLE_SECONDS 10
#define MAX_GROWTH_PERCENT 10

/* Memory that a sanitizer keeps for itself says nothing about ours. */
#define SANITIZED (g_getenv ("KW_TEST_SANITIZED") != NULL)

typedef struct
{
  GTestDBus *dbus;
  KwCardRig *cards;
  KwDaemonRig *rig;

  gint stop;      /* atomic */
  gint n_good;    /* atomic */
  gint n_failed;  /* atomic */
  gint n_wrong;   /* atomic */
  gint64 longest; /* microseconds; under lock */
  char *first_error;
  GMutex lock;
} Storm;

static void
storm_set_up (Storm *storm, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *config = NULL;

  g_mutex_init (&storm->lock);
  storm->dbus = g_test_dbus_new (G_TEST_DBUS_NONE);
  g_test_dbus_up (storm->dbus);
  storm->cards = kw_card_rig_new (N_CARDS, NULL);
  for (guint i = 0; i < N_CARDS; i++)
    {
      g_autofree char *label = g_strdup_printf ("card %u", i + 1);

      kw_card_rig_initialise (storm->cards, i, NULL, NULL, N_SHARES, label, NULL);
      g_free (kw_card_rig_import_shares (storm->cards, i, N_SHARES, NULL));
    }
  storm->rig = kw_daemon_rig_new (NULL, NULL);
  kw_daemon_rig_set_environment (storm->rig, "DBUS_SYSTEM_BUS_ADDRESS",
                                 g_test_dbus_get_bus_address (storm->dbus));
  kw_daemon_rig_set_environment (storm->rig, "PCSCLITE_CSOCK_NAME",
                                 kw_card_rig_get_socket_name (storm->cards));
  config = g_strdup_printf ("[logger]\nlevel = \"info\"\npath = \"%s/log\"\n"
                            "[jwt]\nsecret = \"%s\"\n"
                            "[hsm]\nhsm_model = \"smartcard\"\nhsm_pin = \"%s\"\nhsm_keyid = 0\n"
                            "[smartcard]\ntimeout = 2\n"
                            "[state]\ndirectory = \"%s/state\"\n"
                            "[server]\nport = @PORT@\n",
                            kw_daemon_rig_get_directory (storm->rig), KW_TEST_JWT_SECRET,
                            KW_CARD_RIG_PIN, kw_daemon_rig_get_directory (storm->rig));
  kw_daemon_rig_set_config (storm->rig, config);
}

static void
storm_tear_down (Storm *storm, G_GNUC_UNUSED gconstpointer data)
{
  kw_daemon_rig_free (storm->rig);
  kw_card_rig_free (storm->cards);
  g_test_dbus_down (storm->dbus);
  g_object_unref (storm->dbus);
  g_free (storm->first_error);
  g_mutex_clear (&storm->lock);
}

static GDBusConnection *
connect_bus (Storm *storm)
{
  g_autoptr (GError) error = NULL;
  GDBusConnection *bus = g_dbus_connection_new_for_address_sync (
      g_test_dbus_get_bus_address (storm->dbus),
      G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT
          | G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
      NULL, NULL, &error);

  g_assert_no_error (error);
  g_dbus_connection_set_exit_on_close (bus, FALSE);
  return bus;
}

static GVariant *
call (Storm *storm,
      GDBusConnection *bus,
      const char *method,
      GVariant *parameters,
      const char *type)
{
  gint64 begin = g_get_monotonic_time ();
  g_autoptr (GError) error = NULL;
  GVariant *reply
      = g_dbus_connection_call_sync (bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE,
                                     method, parameters, G_VARIANT_TYPE (type),
                                     G_DBUS_CALL_FLAGS_NONE, 60000, NULL, &error);
  gint64 took = g_get_monotonic_time () - begin;

  g_mutex_lock (&storm->lock);
  storm->longest = MAX (storm->longest, took);
  if (reply == NULL && storm->first_error == NULL)
    storm->first_error = g_strdup (error->message);
  g_mutex_unlock (&storm->lock);
  if (reply == NULL)
    {
      g_printerr ("# %s failed after %" G_GINT64_FORMAT " ms: %s\n", method, took / 1000,
                  error->message);
      g_atomic_int_inc (&storm->n_failed);
    }
  return reply;
}

/* One message there and back. */
static void
round_trip (Storm *storm, GDBusConnection *bus, GRand *random)
{
  guint8 message[512];
  gsize size = (gsize) g_rand_int_range (random, 0, sizeof message);
  g_autoptr (GVariant) encrypted = NULL;
  g_autoptr (GVariant) decrypted = NULL;
  g_autoptr (GVariant) ciphertext = NULL;
  g_autoptr (GVariant) plaintext = NULL;

  for (gsize i = 0; i < size; i++)
    message[i] = (guint8) g_rand_int (random);
  encrypted
      = call (storm, bus, "Encrypt",
              g_variant_new ("(@aya{sv})",
                             g_variant_new_fixed_array (G_VARIANT_TYPE_BYTE, message, size, 1),
                             NULL),
              "(aya{sv})");
  if (encrypted == NULL)
    return;
  ciphertext = g_variant_get_child_value (encrypted, 0);
  decrypted
      = call (storm, bus, "Decrypt", g_variant_new ("(@aya{sv})", ciphertext, NULL), "(aya{sv})");
  if (decrypted == NULL)
    return;
  plaintext = g_variant_get_child_value (decrypted, 0);
  if (g_variant_get_size (plaintext) == size
      && (size == 0 || memcmp (g_variant_get_data (plaintext), message, size) == 0))
    g_atomic_int_inc (&storm->n_good);
  else
    g_atomic_int_inc (&storm->n_wrong);
}

static gpointer
run_client (gpointer user_data)
{
  Storm *storm = user_data;
  g_autoptr (GDBusConnection) bus = connect_bus (storm);
  g_autoptr (GRand) random = g_rand_new ();

  while (!g_atomic_int_get (&storm->stop))
    round_trip (storm, bus, random);
  g_dbus_connection_close_sync (bus, NULL, NULL);
  return NULL;
}

static guint
count_ready (GDBusConnection *bus)
{
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_sync (bus, KW_BUS_NAME, KW_BUS_PATH,
                                     "org.freedesktop.DBus.Properties", "Get",
                                     g_variant_new ("(ss)", KW_BUS_MANAGER_INTERFACE,
                                                    "ReadyDevices"),
                                     G_VARIANT_TYPE ("(v)"), G_DBUS_CALL_FLAGS_NONE, -1, NULL,
                                     NULL);
  g_autoptr (GVariant) value = NULL;

  if (reply == NULL)
    return 0;
  g_variant_get (reply, "(v)", &value);
  return g_variant_get_uint32 (value);
}

static void
wait_for_ready (GDBusConnection *bus, guint n, guint seconds)
{
  gint64 deadline = g_get_monotonic_time () + (gint64) seconds * G_TIME_SPAN_SECOND;

  while (count_ready (bus) != n)
    {
      if (g_get_monotonic_time () > deadline)
        g_error ("%u of %u devices are ready", count_ready (bus), n);
      g_usleep (20000);
    }
}

/* What may happen to a card. Each is undone after a while. */
static void
harm (Storm *storm, GRand *random, guint card)
{
  static const char *const faults[]
      = { "fault ins=78,sw=6F00,count=3", "fault ins=78,sw=6400,count=1",
          "fault ins=78,sw=6982,count=1" };
  g_autofree char *reply = NULL;

  switch (g_rand_int_range (random, 0, 6))
    {
    case 0:
    case 1:
      g_test_message ("card %u out", card + 1);
      kw_card_rig_eject (storm->cards, card, NULL);
      g_usleep ((gulong) g_rand_int_range (random, 10, 1500) * 1000);
      kw_card_rig_insert (storm->cards, card, NULL);
      break;
    case 2:
      g_test_message ("card %u frozen", card + 1);
      kw_card_rig_freeze (storm->cards, card, NULL);
      g_usleep ((gulong) g_rand_int_range (random, 100, 4000) * 1000);
      kw_card_rig_thaw (storm->cards, card, NULL);
      break;
    case 3:
      g_test_message ("card %u killed", card + 1);
      kw_card_rig_kill_card (storm->cards, card, NULL);
      kw_card_rig_start_card (storm->cards, card, NULL);
      break;
    case 4:
      g_test_message ("card %u errs", card + 1);
      reply
          = kw_card_rig_control (storm->cards, card,
                                 faults[g_rand_int_range (random, 0, G_N_ELEMENTS (faults))], NULL);
      break;
    default:
      g_test_message ("pcscd killed");
      kw_card_rig_kill_pcscd (storm->cards, NULL);
      kw_card_rig_start_pcscd (storm->cards, NULL);
      break;
    }
}

static void
make_key (Storm *storm)
{
  kw_card_rig_generate_aes (storm->cards, 0, KID, 256, "1011189293", "storm", NULL);
  for (guint i = 1; i < N_CARDS; i++)
    kw_card_rig_clone (storm->cards, 0, i, KID, NULL);
}

static void
start_daemon (Storm *storm, GDBusConnection *bus)
{
  kw_daemon_rig_start (storm->rig);
  kw_daemon_rig_wait_for_log (storm->rig, "On D-Bus");
  wait_for_ready (bus, N_CARDS, 30);
  kw_daemon_rig_wait_for_log (storm->rig, "\"copies\":\"3\"");
}

/* The daemon on all cards, and clients that do not stop. */
static void
begin_load (Storm *storm, GDBusConnection *bus, GThread **clients)
{
  start_daemon (storm, bus);
  for (guint i = 0; i < N_CLIENTS; i++)
    clients[i] = g_thread_new ("client", run_client, storm);
}

static void
end_load (Storm *storm, GThread **clients)
{
  g_atomic_int_set (&storm->stop, 1);
  for (guint i = 0; i < N_CLIENTS; i++)
    g_thread_join (clients[i]);
  g_printerr ("# %d messages there and back, the longest call took %" G_GINT64_FORMAT " ms\n",
              storm->n_good, storm->longest / 1000);
  g_assert_cmpstr (storm->first_error, ==, NULL);
  g_assert_cmpint (storm->n_failed, ==, 0);
  g_assert_cmpint (storm->n_wrong, ==, 0);
  g_assert_cmpint (storm->n_good, >, 100);
}

/* Two of three out at a time, each pair of them, and the last one does it alone. */
static void
test_two_out (Storm *storm, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GDBusConnection) bus = connect_bus (storm);
  GThread *clients[N_CLIENTS];

  make_key (storm);
  begin_load (storm, bus, clients);
  for (guint round = 0; round < 2 * N_CARDS; round++)
    {
      guint first = round % N_CARDS;
      guint second = (round + 1) % N_CARDS;
      gint n_before = 0;

      kw_card_rig_eject (storm->cards, first, NULL);
      kw_card_rig_eject (storm->cards, second, NULL);
      wait_for_ready (bus, 1, 30);
      n_before = g_atomic_int_get (&storm->n_good);
      while (g_atomic_int_get (&storm->n_good) < n_before + 20)
        g_usleep (1000);
      /* They come back in the other order, and the second one while the first is still looked at. */
      kw_card_rig_insert (storm->cards, second, NULL);
      kw_card_rig_insert (storm->cards, first, NULL);
      wait_for_ready (bus, N_CARDS, 60);
    }
  end_load (storm, clients);
}

/* Clients that decrypt what was encrypted before, and what they encrypt themselves. */
typedef struct
{
  Storm *storm;
  GVariant *envelopes[N_ENVELOPES]; /* owned */
} Readers;

static GVariant *
encrypt_byte (Storm *storm, GDBusConnection *bus, guint8 byte)
{
  g_autoptr (GVariant) reply
      = call (storm, bus, "Encrypt",
              g_variant_new ("(@aya{sv})",
                             g_variant_new_fixed_array (G_VARIANT_TYPE_BYTE, &byte, 1, 1), NULL),
              "(aya{sv})");

  return reply != NULL ? g_variant_get_child_value (reply, 0) : NULL;
}

static gpointer
run_reader (gpointer user_data)
{
  Readers *readers = user_data;
  Storm *storm = readers->storm;
  g_autoptr (GDBusConnection) bus = connect_bus (storm);

  for (guint i = 0; !g_atomic_int_get (&storm->stop); i++)
    {
      guint8 wanted = (guint8) (i % N_ENVELOPES);
      g_autoptr (GVariant) envelope = i % 2 == 0 ? g_variant_ref (readers->envelopes[wanted])
                                                 : encrypt_byte (storm, bus, wanted);
      g_autoptr (GVariant) reply
          = envelope != NULL ? call (storm, bus, "Decrypt",
                                     g_variant_new ("(@aya{sv})", envelope, NULL), "(aya{sv})")
                             : NULL;
      g_autoptr (GVariant) plaintext = NULL;

      if (reply == NULL)
        continue;
      plaintext = g_variant_get_child_value (reply, 0);
      if (g_variant_get_size (plaintext) == 1
          && *(const guint8 *) g_variant_get_data (plaintext) == wanted)
        g_atomic_int_inc (&storm->n_good);
      else
        g_atomic_int_inc (&storm->n_wrong);
    }
  g_dbus_connection_close_sync (bus, NULL, NULL);
  return NULL;
}

/*
 * A card whose answers are garbage for a while: others do its work, nobody gets a wrong answer, or is told that his message
 * is bad, and nobody gets an envelope that cannot be opened.
 */
static void
test_garbage (Storm *storm, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GDBusConnection) bus = connect_bus (storm);
  Readers readers = { .storm = storm };
  GThread *clients[N_CLIENTS];

  make_key (storm);
  start_daemon (storm, bus);
  for (guint8 i = 0; i < N_ENVELOPES; i++)
    {
      readers.envelopes[i] = encrypt_byte (storm, bus, i);
      g_assert_nonnull (readers.envelopes[i]);
    }
  for (guint i = 0; i < N_CLIENTS; i++)
    clients[i] = g_thread_new ("client", run_reader, &readers);
  for (guint round = 0; round < 10 * N_CARDS; round++)
    {
      guint card = round % N_CARDS;
      gint n_before = 0;

      g_free (kw_card_rig_control (storm->cards, card, "corrupt-after 0", NULL));
      n_before = g_atomic_int_get (&storm->n_good);
      while (g_atomic_int_get (&storm->n_good) < n_before + 50)
        g_usleep (1000);
      g_free (kw_card_rig_control (storm->cards, card, "corrupt-after never", NULL));
      /* What it said of its PIN meanwhile may have set it aside. */
      kw_card_rig_eject (storm->cards, card, NULL);
      kw_card_rig_insert (storm->cards, card, NULL);
      wait_for_ready (bus, N_CARDS, 60);
    }
  end_load (storm, clients);
  for (guint i = 0; i < N_ENVELOPES; i++)
    g_variant_unref (readers.envelopes[i]);
}

/* OpenSC's tools log us out and reset cards each time they start, while AES is at work on all cards. */
static void
test_opensc (Storm *storm, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GDBusConnection) bus = connect_bus (storm);
  GThread *clients[N_CLIENTS];
  gint64 end = 0;
  guint n = 0;

  make_key (storm);
  for (guint i = 0; i < N_CARDS; i++)
    kw_card_rig_generate_rsa (storm->cards, i, 2048, "10", "rsa", NULL);
  begin_load (storm, bus, clients);
  end = g_get_monotonic_time () + OPENSC_SECONDS * G_TIME_SPAN_SECOND;
  while (g_get_monotonic_time () < end)
    {
      const char *reader = kw_card_rig_get_reader (storm->cards, n % N_CARDS);

      g_assert_cmpint (kw_card_rig_run (storm->cards, NULL, "sc-hsm-tool", "--reader", reader,
                                        NULL),
                       ==, 0);
      g_assert_cmpint (kw_card_rig_run (storm->cards, NULL, "pkcs11-tool", "--slot-description",
                                        reader, "--login", "--pin", KW_CARD_RIG_PIN, "--sign",
                                        "--mechanism", "SHA256-RSA-PKCS", "--id", "10",
                                        "--input-file", "/etc/hostname", "--output-file",
                                        "/dev/null", NULL),
                       ==, 0);
      n++;
    }
  end_load (storm, clients);
  g_printerr ("# %u rounds of OpenSC's tools\n", n);
  g_assert_cmpuint (n, >, 2);
  wait_for_ready (bus, N_CARDS, 30);
}

static void
assert_within (const char *what, guint64 first, guint64 last)
{
  g_test_message ("%s: %" G_GUINT64_FORMAT " at first, %" G_GUINT64_FORMAT " at the end", what,
                  first, last);
  g_assert_cmpuint (last, <=, first + first * MAX_GROWTH_PERCENT / 100);
}

static void
test_storm (Storm *storm, G_GNUC_UNUSED gconstpointer data)
{
  const char *given_seed = g_getenv ("STORM_SEED");
  const char *given_seconds = g_getenv ("STORM_SECONDS");
  guint32 seed = given_seed ? (guint32) strtoul (given_seed, NULL, 10) : g_random_int ();
  gint64 seconds = given_seconds ? strtol (given_seconds, NULL, 10) : STORM_SECONDS;
  g_autoptr (GRand) random = g_rand_new_with_seed (seed);
  g_autoptr (GDBusConnection) bus = connect_bus (storm);
  GThread *clients[N_CLIENTS];
  gint64 begin, end;
  guint64 resident = 0;
  guint n_descriptors = 0;
  guint n_harms = 0;

  g_test_message ("STORM_SEED=%u", seed);
  g_printerr ("# STORM_SEED=%u\n", seed);
  make_key (storm);
  begin_load (storm, bus, clients);
  begin = g_get_monotonic_time ();
  end = begin + seconds * G_TIME_SPAN_SECOND;
  while (g_get_monotonic_time () < end)
    {
      harm (storm, random, (guint) g_rand_int_range (random, 0, N_CARDS));
      n_harms++;
      /* The next one only when all are well again: so a good card is left at any time. */
      wait_for_ready (bus, N_CARDS, 60);
      g_usleep ((gulong) g_rand_int_range (random, 1, 300) * 1000);
      if (resident == 0
          && g_get_monotonic_time ()
                 > begin + MIN (SETTLE_SECONDS, seconds / 3) * G_TIME_SPAN_SECOND)
        {
          resident = kw_test_resident_kib (kw_daemon_rig_get_pid (storm->rig));
          n_descriptors = kw_test_count_descriptors (kw_daemon_rig_get_pid (storm->rig));
        }
    }
  g_printerr ("# %u harms\n", n_harms);
  end_load (storm, clients);
  assert_within ("descriptors", n_descriptors,
                 kw_test_count_descriptors (kw_daemon_rig_get_pid (storm->rig)));
  if (!SANITIZED)
    assert_within ("resident KiB", resident,
                   kw_test_resident_kib (kw_daemon_rig_get_pid (storm->rig)));
}

/* A daemon of its own on one card of the rig. */
static KwDaemonRig *
start_on_card (Storm *storm, guint card, GTestDBus *dbus)
{
  KwDaemonRig *rig = kw_daemon_rig_new (NULL, NULL);
  g_autofree char *config
      = g_strdup_printf ("[logger]\nlevel = \"info\"\npath = \"%s/log\"\n"
                         "[jwt]\nsecret = \"%s\"\n"
                         "[hsm]\nhsm_model = \"smartcard\"\nhsm_pin = \"%s\"\nhsm_keyid = 0\n"
                         "[smartcard]\nreaders = [\"%s\"]\n"
                         "[state]\ndirectory = \"%s/state\"\n"
                         "[server]\nport = @PORT@\n",
                         kw_daemon_rig_get_directory (rig), KW_TEST_JWT_SECRET, KW_CARD_RIG_PIN,
                         kw_card_rig_get_reader (storm->cards, card),
                         kw_daemon_rig_get_directory (rig));

  kw_daemon_rig_set_environment (rig, "DBUS_SYSTEM_BUS_ADDRESS",
                                 g_test_dbus_get_bus_address (dbus));
  kw_daemon_rig_set_environment (rig, "PCSCLITE_CSOCK_NAME",
                                 kw_card_rig_get_socket_name (storm->cards));
  kw_daemon_rig_set_config (rig, config);
  kw_daemon_rig_start (rig);
  kw_daemon_rig_wait_for_log (rig, "\"copies\":\"1\"");
  kw_daemon_rig_wait_for_log (rig, "On D-Bus");
  return rig;
}

/* What one host encrypts, another with clones of its keys decrypts. */
static void
test_two_daemons (Storm *storm, G_GNUC_UNUSED gconstpointer data)
{
  GTestDBus *other_dbus = g_test_dbus_new (G_TEST_DBUS_NONE);
  KwDaemonRig *one, *other;
  g_autoptr (GDBusConnection) bus = connect_bus (storm);
  g_autoptr (GDBusConnection) other_bus = NULL;
  g_autoptr (GVariant) encrypted = NULL;
  g_autoptr (GVariant) decrypted = NULL;
  g_autoptr (GVariant) ciphertext = NULL;
  g_autoptr (GVariant) plaintext = NULL;

  g_test_dbus_up (other_dbus);
  kw_card_rig_generate_aes (storm->cards, 0, KID, 256, "1011189293", "shared", NULL);
  kw_card_rig_clone (storm->cards, 0, 1, KID, NULL);
  one = start_on_card (storm, 0, storm->dbus);
  other = start_on_card (storm, 1, other_dbus);
  other_bus = g_dbus_connection_new_for_address_sync (
      g_test_dbus_get_bus_address (other_dbus),
      G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT
          | G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
      NULL, NULL, NULL);
  g_dbus_connection_set_exit_on_close (other_bus, FALSE);

  encrypted
      = call (storm, bus, "Encrypt",
              g_variant_new ("(@aya{sv})",
                             g_variant_new_fixed_array (G_VARIANT_TYPE_BYTE, "both", 4, 1), NULL),
              "(aya{sv})");
  g_assert_nonnull (encrypted);
  ciphertext = g_variant_get_child_value (encrypted, 0);
  decrypted = call (storm, other_bus, "Decrypt", g_variant_new ("(@aya{sv})", ciphertext, NULL),
                    "(aya{sv})");
  g_assert_nonnull (decrypted);
  plaintext = g_variant_get_child_value (decrypted, 0);
  g_assert_cmpmem (g_variant_get_data (plaintext), g_variant_get_size (plaintext), "both", 4);
  kw_daemon_rig_free (one);
  kw_daemon_rig_free (other);
  g_test_dbus_down (other_dbus);
  g_object_unref (other_dbus);
}

int
main (int argc, char **argv)
{
  g_autofree char *reason = NULL;

  g_test_init (&argc, &argv, NULL);
  if (kw_card_rig_is_impossible (&reason))
    {
      g_print ("1..0 # SKIP %s\n", reason);
      return 0;
    }
  kw_bus_error_register ();
  g_test_add ("/storm/two-daemons", Storm, NULL, storm_set_up, test_two_daemons, storm_tear_down);
  g_test_add ("/storm/two-out", Storm, NULL, storm_set_up, test_two_out, storm_tear_down);
  g_test_add ("/storm/garbage", Storm, NULL, storm_set_up, test_garbage, storm_tear_down);
  g_test_add ("/storm/opensc-beside-us", Storm, NULL, storm_set_up, test_opensc, storm_tear_down);
  g_test_add ("/storm/encrypt-and-decrypt", Storm, NULL, storm_set_up, test_storm, storm_tear_down);
  return g_test_run ();
}
