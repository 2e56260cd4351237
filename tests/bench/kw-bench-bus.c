/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bench"

#include "kw-bench.h"

#include "kw-bus-names.h"
#include "kw-bus-rig.h"

#include <systemd/sd-bus.h>
#include <string.h>
#include <unistd.h>

/*
 * Calls on D-Bus beside an empty method on the same bus: what the way costs that both have in common is not ours to change.
 * The callers are plain ones, by sd-bus, each with a thread and a connection: GDBus would put a thread of its own between, and what
 * it takes of the processors is taken from what is measured.
 */

#define MAX_CLIENTS 16
#define MAX_SAMPLES 2000000
#define N_LISTENERS 200
#define SETTLE_USEC (20 * G_TIME_SPAN_SECOND)
#define CONFIG "[hsm]\nhsm_keyid = \"label:bench\"\ndata_key_ttl = 60\n"
#define PAYLOAD_BYTES 32
/* A name that the rig's policy lets anyone have. */
#define EMPTY_SERVICE "org.freedesktop.login1"
#define EMPTY_NAME "org.keyward1.Empty"
#define GOAL_RATIO 0.8
#define GOAL_P99_USEC 3000.0
#define GOAL_ADDED_USEC 290.0
#define GOAL_LISTENERS_KIB 8192

typedef enum
{
  CALL_EMPTY,
  CALL_ENCRYPT,
  CALL_DECRYPT,
  N_CALLS,
  CALL_RSA = N_CALLS,
} Call;

static const char *const call_names[N_CALLS] = { "empty method", "Encrypt, 32 B", "Decrypt, 32 B" };

static const char empty_xml[]
    = "<node><interface name='" EMPTY_NAME "'><method name='Call'>"
      "<arg type='ay' direction='in'/><arg type='a{sv}' direction='in'/>"
      "<arg type='ay' direction='out'/><arg type='a{sv}' direction='out'/>"
      "</method></interface></node>";

static void
on_empty_call (GDBusConnection *connection G_GNUC_UNUSED,
               const char *sender G_GNUC_UNUSED,
               const char *path G_GNUC_UNUSED,
               const char *interface G_GNUC_UNUSED,
               const char *method G_GNUC_UNUSED,
               GVariant *parameters,
               GDBusMethodInvocation *invocation,
               gpointer user_data G_GNUC_UNUSED)
{
  g_autoptr (GVariant) bytes = g_variant_get_child_value (parameters, 0);

  g_dbus_method_invocation_return_value (invocation, g_variant_new ("(@aya{sv})", bytes, NULL));
}

/**
 * kw_bench_bus_serve:
 * @address: address of a bus
 *
 * Serves a method that does nothing, until it is killed.
 */
void
kw_bench_bus_serve (const char *address)
{
  static const GDBusInterfaceVTable vtable = { .method_call = on_empty_call };
  g_autoptr (GDBusNodeInfo) node = g_dbus_node_info_new_for_xml (empty_xml, NULL);
  g_autoptr (GMainLoop) loop = g_main_loop_new (NULL, FALSE);
  g_autoptr (GDBusConnection) bus = g_dbus_connection_new_for_address_sync (
      address,
      G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT
          | G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
      NULL, NULL, NULL);

  g_dbus_connection_register_object (bus, "/", node->interfaces[0], &vtable, NULL, NULL, NULL);
  g_bus_own_name_on_connection (bus, EMPTY_SERVICE, G_BUS_NAME_OWNER_FLAGS_NONE, NULL, NULL, NULL,
                                NULL);
  g_main_loop_run (loop);
}

typedef struct
{
  sd_bus *bus;
  Call call;
  GBytes *input;
  const char *key; /* NULL = none */
  gint *go;        /* atomic: 1 = measure, 2 = end */
  GArray *samples;
} Client;

static void
call_once (const Client *client)
{
  static const char *const methods[] = { "Call", "Encrypt", "Decrypt", "Decrypt" };
  gboolean empty = client->call == CALL_EMPTY;
  sd_bus_error error = SD_BUS_ERROR_NULL;
  sd_bus_message *call = NULL;
  sd_bus_message *reply = NULL;

  g_assert_cmpint (sd_bus_message_new_method_call (client->bus, &call,
                                                   empty ? EMPTY_SERVICE : KW_BUS_NAME,
                                                   empty ? "/" : KW_BUS_PATH,
                                                   empty ? EMPTY_NAME : KW_BUS_MANAGER_INTERFACE,
                                                   methods[client->call]),
                   >=, 0);
  g_assert_cmpint (sd_bus_message_append_array (call, 'y', g_bytes_get_data (client->input, NULL),
                                                g_bytes_get_size (client->input)),
                   >=, 0);
  if (client->key != NULL)
    g_assert_cmpint (sd_bus_message_append (call, "a{sv}", 1, KW_BUS_OPTION_KEY, "s", client->key),
                     >=, 0);
  else
    g_assert_cmpint (sd_bus_message_append (call, "a{sv}", 0), >=, 0);
  g_assert_cmpint (sd_bus_call (client->bus, call, 0, &error, &reply), >=, 0);
  sd_bus_message_unref (reply);
  sd_bus_message_unref (call);
  sd_bus_error_free (&error);
}

static gpointer
client_thread (gpointer data)
{
  Client *client = data;

  call_once (client);
  while (g_atomic_int_get (client->go) == 0)
    g_thread_yield ();
  while (g_atomic_int_get (client->go) == 1 && client->samples->len < MAX_SAMPLES)
    {
      gint64 before = g_get_monotonic_time ();
      guint32 usec = 0;

      call_once (client);
      usec = (guint32) (g_get_monotonic_time () - before);
      g_array_append_val (client->samples, usec);
    }
  return NULL;
}

static void
run_clients (sd_bus **buses,
             guint n_clients,
             Call what,
             GBytes *input,
             const char *key,
             double seconds,
             KwBenchFigures *out_figures)
{
  Client clients[MAX_CLIENTS];
  GThread *threads[MAX_CLIENTS];
  g_autoptr (GArray) samples = g_array_new (FALSE, FALSE, sizeof (guint32));
  gint go = 0;
  gint64 before = 0;

  for (guint i = 0; i < n_clients; i++)
    {
      clients[i] = (Client){ buses[i], what, input,
                             key,      &go,  g_array_new (FALSE, FALSE, sizeof (guint32)) };
      threads[i] = g_thread_new ("client", client_thread, &clients[i]);
    }
  g_usleep (100000);
  before = g_get_monotonic_time ();
  g_atomic_int_set (&go, 1);
  g_usleep ((gulong) (seconds * G_USEC_PER_SEC));
  g_atomic_int_set (&go, 2);
  seconds = (double) (g_get_monotonic_time () - before) / G_USEC_PER_SEC;
  for (guint i = 0; i < n_clients; i++)
    {
      g_thread_join (threads[i]);
      if (clients[i].samples->len > 0)
        g_array_append_vals (samples, clients[i].samples->data, clients[i].samples->len);
      g_array_unref (clients[i].samples);
    }
  kw_bench_figures_from_samples (samples, seconds, out_figures);
}

/* Makes a key, and a message under it. */
static GBytes *
prepare (GDBusConnection *bus, GBytes *plain)
{
  gint64 deadline = g_get_monotonic_time () + SETTLE_USEC;
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) key G_GNUC_UNUSED
      = kw_bus_rig_call (bus, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "GenerateKey",
                         g_variant_new ("(ssa{sv})", "aes256", "bench", NULL), &error);

  g_assert_no_error (error);
  while (TRUE)
    {
      g_autoptr (GVariant) reply
          = kw_bus_rig_call (bus, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Encrypt",
                             g_variant_new ("(@aya{sv})",
                                            g_variant_new_from_bytes (G_VARIANT_TYPE_BYTESTRING,
                                                                      plain, TRUE),
                                            NULL),
                             NULL);
      g_autoptr (GVariant) sealed = reply != NULL ? g_variant_get_child_value (reply, 0) : NULL;

      if (sealed != NULL)
        return g_variant_get_data_as_bytes (sealed);
      g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    }
}

static void
measure_calls (GDBusConnection *bus, sd_bus **buses, guint rounds, double seconds)
{
  static const guint counts[] = { 1, 4, MAX_CLIENTS };
  guint8 bytes[PAYLOAD_BYTES] = { 0 };
  g_autoptr (GBytes) plain = g_bytes_new_static (bytes, sizeof bytes);
  g_autoptr (GBytes) sealed = prepare (bus, plain);

  g_print ("%-16s %8s %12s %9s %9s %7s\n", "D-Bus", "clients", "calls/s", "p50 us", "p99 us",
           "ratio");
  for (guint c = 0; c < G_N_ELEMENTS (counts); c++)
    {
      g_autofree double *values = g_new0 (double, (gsize) 3 * N_CALLS * rounds);
      double per_second[N_CALLS];
      double p50[N_CALLS];
      double p99[N_CALLS];

      /* Interleaved, so that all suffer alike from what else the machine does. */
      for (guint r = 0; r < rounds; r++)
        {
          for (guint call = 0; call < N_CALLS; call++)
            {
              KwBenchFigures figures = { 0 };

              run_clients (buses, counts[c], (Call) call, call == CALL_DECRYPT ? sealed : plain,
                           NULL, seconds, &figures);
              values[call * rounds + r] = figures.per_second;
              values[(N_CALLS + call) * rounds + r] = figures.p50_usec;
              values[(2 * N_CALLS + call) * rounds + r] = figures.p99_usec;
            }
        }
      for (guint call = 0; call < N_CALLS; call++)
        {
          double ratio = 0;

          per_second[call] = kw_bench_median (values + call * rounds, rounds);
          p50[call] = kw_bench_median (values + (N_CALLS + call) * rounds, rounds);
          p99[call] = kw_bench_median (values + (2 * N_CALLS + call) * rounds, rounds);
          ratio = per_second[call] / per_second[CALL_EMPTY];
          g_print ("%-16s %8u %12.0f %9.0f %9.0f %7.2f", call_names[call], counts[c],
                   per_second[call], p50[call], p99[call], ratio);
          if (call != CALL_EMPTY && counts[c] == MAX_CLIENTS)
            g_print ("  goal %.2f: %s", GOAL_RATIO, ratio >= GOAL_RATIO ? "reached" : "missed");
          if (call != CALL_EMPTY && counts[c] == 4)
            g_print ("  goal p99 %.0f: %s", GOAL_P99_USEC,
                     p99[call] <= GOAL_P99_USEC ? "reached" : "missed");
          if (call != CALL_EMPTY && counts[c] == 1)
            g_print ("  adds %.0f us, goal %.0f: %s", p50[call] - p50[CALL_EMPTY], GOAL_ADDED_USEC,
                     p50[call] - p50[CALL_EMPTY] <= GOAL_ADDED_USEC ? "reached" : "missed");
          g_print ("\n");
        }
    }
}

#define RSA_GOAL_RATIO 0.68
#define LOOP_THREADS 4

/* Beside the bare PKCS#11 loop with four threads on the same token. */
static void
measure_rsa (KwBusRig *rig, sd_bus **buses, guint rounds, double seconds)
{
  KwDaemonRig *daemon = kw_bus_rig_get_daemon (rig);
  static const guint counts[] = { 1, 4, MAX_CLIENTS };
  g_autofree char *pem = NULL;
  KwBenchSetup setup = { 0 };
  double loop_second = 0;

  setup.rig = daemon;
  setup.module = kw_soft_hsm_find_module ();
  setup.pin = KW_TEST_PIN;
  setup.seconds = seconds;
  setup.key_uuid = kw_daemon_rig_make_key (daemon, &pem);
  setup.key_id = kw_test_uuid_to_bytes (setup.key_uuid);
  setup.plaintext = g_bytes_new_static ("0123456789abcdef0123456789abcdef", PAYLOAD_BYTES);
  setup.ciphertext = kw_test_encrypt (pem, setup.plaintext);
  kw_bench_loop_open (&setup);
  for (guint c = 0; c < G_N_ELEMENTS (counts); c++)
    {
      g_autofree double *values = g_new0 (double, (gsize) 5 * rounds);
      double loop_p50 = 0;
      double bus_second = 0;
      double p50 = 0;
      double p99 = 0;

      for (guint r = 0; r < rounds; r++)
        {
          KwBenchFigures loop = { 0 };
          KwBenchFigures bus = { 0 };

          kw_bench_loop_run (&setup, counts[c] == 1 ? 1 : LOOP_THREADS, &loop);
          run_clients (buses, counts[c], CALL_RSA, setup.ciphertext, setup.key_uuid, seconds, &bus);
          values[r] = loop.per_second;
          values[rounds + r] = loop.p50_usec;
          values[2 * rounds + r] = bus.per_second;
          values[3 * rounds + r] = bus.p50_usec;
          values[4 * rounds + r] = bus.p99_usec;
        }
      loop_second = kw_bench_median (values, rounds);
      loop_p50 = kw_bench_median (values + rounds, rounds);
      bus_second = kw_bench_median (values + 2 * rounds, rounds);
      p50 = kw_bench_median (values + 3 * rounds, rounds);
      p99 = kw_bench_median (values + 4 * rounds, rounds);
      g_print ("%-16s %8u %12.0f %9.0f %9.0f %7.2f", "RSA-2048 decrypt", counts[c], bus_second, p50,
               p99, bus_second / loop_second);
      if (counts[c] == 1)
        g_print ("  adds %.0f us, goal %.0f: %s", p50 - loop_p50, GOAL_ADDED_USEC,
                 p50 - loop_p50 <= GOAL_ADDED_USEC ? "reached" : "missed");
      else if (counts[c] == MAX_CLIENTS)
        g_print ("  goal %.2f of the loop (%.0f/s): %s", RSA_GOAL_RATIO, loop_second,
                 bus_second / loop_second >= RSA_GOAL_RATIO ? "reached" : "missed");
      else
        g_print ("  goal p99 %.0f: %s", GOAL_P99_USEC, p99 <= GOAL_P99_USEC ? "reached" : "missed");
      g_print ("\n");
    }
  kw_bench_loop_close ();
  g_bytes_unref (setup.key_id);
  g_bytes_unref (setup.plaintext);
  g_bytes_unref (setup.ciphertext);
  g_free (setup.key_uuid);
}

static void
on_signal (GDBusConnection *connection G_GNUC_UNUSED,
           const char *sender G_GNUC_UNUSED,
           const char *path G_GNUC_UNUSED,
           const char *interface G_GNUC_UNUSED,
           const char *signal G_GNUC_UNUSED,
           GVariant *parameters G_GNUC_UNUSED,
           gpointer user_data G_GNUC_UNUSED)
{
}

static void
measure_listeners (KwBusRig *rig)
{
  g_autoptr (GPtrArray) listeners = g_ptr_array_new_with_free_func (g_object_unref);
  int pid = kw_daemon_rig_get_pid (kw_bus_rig_get_daemon (rig));
  guint64 before = kw_test_resident_kib (pid);
  guint64 after = 0;

  for (guint i = 0; i < N_LISTENERS; i++)
    {
      GDBusConnection *bus = kw_bus_rig_connect (rig, geteuid ());
      g_autoptr (GVariant) reply G_GNUC_UNUSED
          = kw_bus_rig_call (bus, KW_BUS_PATH, "org.freedesktop.DBus.ObjectManager",
                             "GetManagedObjects", NULL, NULL);

      g_dbus_connection_signal_subscribe (bus, KW_BUS_NAME, NULL, NULL, NULL, NULL,
                                          G_DBUS_SIGNAL_FLAGS_NONE, on_signal, NULL, NULL);
      g_ptr_array_add (listeners, bus);
    }
  after = kw_test_resident_kib (pid);
  g_print ("%u listeners: %" G_GINT64_FORMAT " KiB more, goal %d: %s\n", N_LISTENERS,
           (gint64) (after - before), GOAL_LISTENERS_KIB,
           (gint64) (after - before) < GOAL_LISTENERS_KIB ? "reached" : "missed");
}

static sd_bus *
connect_plain (KwBusRig *rig)
{
  sd_bus *bus = NULL;
  const char *name = NULL;

  g_assert_cmpint (sd_bus_new (&bus), >=, 0);
  g_assert_cmpint (sd_bus_set_address (bus, kw_bus_rig_get_address (rig)), >=, 0);
  g_assert_cmpint (sd_bus_set_bus_client (bus, TRUE), >=, 0);
  g_assert_cmpint (sd_bus_start (bus), >=, 0);
  /* Waits until it is known there: the bus does not keep for long who has not said who he is. */
  g_assert_cmpint (sd_bus_get_unique_name (bus, &name), >=, 0);
  return bus;
}

/**
 * kw_bench_bus:
 * @rounds: interleaved runs
 * @seconds: length of one
 *
 * Prints how fast calls on D-Bus are.
 */
void
kw_bench_bus (guint rounds, double seconds)
{
  KwBusRig *rig = kw_bus_rig_new (CONFIG);
  g_autoptr (GDBusConnection) bus = NULL;
  sd_bus *buses[MAX_CLIENTS];
  g_autoptr (GError) error = NULL;
  g_autoptr (GSubprocess) empty = NULL;
  g_autofree char *self = g_file_read_link ("/proc/self/exe", &error);
  gint64 deadline = g_get_monotonic_time () + SETTLE_USEC;
  gboolean there = FALSE;

  g_assert_no_error (error);
  kw_daemon_rig_set_log_level (kw_bus_rig_get_daemon (rig), "info");
  kw_bus_rig_start (rig);
  empty = g_subprocess_new (G_SUBPROCESS_FLAGS_NONE, &error, self, "--empty-service",
                            kw_bus_rig_get_address (rig), NULL);
  g_assert_no_error (error);
  bus = kw_bus_rig_connect (rig, geteuid ());
  for (guint i = 0; i < MAX_CLIENTS; i++)
    buses[i] = connect_plain (rig);
  while (!there)
    {
      g_autoptr (GVariant) reply
          = g_dbus_connection_call_sync (bus, EMPTY_SERVICE, "/", "org.freedesktop.DBus.Peer",
                                         "Ping", NULL, NULL, G_DBUS_CALL_FLAGS_NONE, -1, NULL,
                                         NULL);

      there = reply != NULL;
      g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    }
  measure_calls (bus, buses, rounds, seconds);
  measure_rsa (rig, buses, rounds, seconds);
  measure_listeners (rig);
  g_subprocess_force_exit (empty);
  for (guint i = 0; i < MAX_CLIENTS; i++)
    sd_bus_flush_close_unref (buses[i]);
  kw_bus_rig_free (rig);
}
