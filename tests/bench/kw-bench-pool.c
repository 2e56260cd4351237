/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bench-pool"

#include "kw-bench.h"
#include "kw-bus-names.h"
#include "kw-card-rig.h"
#include "kw-names.h"
#include "kw-plugins.h"
#include "kw-service.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

/*
 * The daemon on virtual cards, over D-Bus. With cards that are as slow as real ones: what a second and a third card are good for,
 * what it costs when one is pulled, and how soon one that is put in is of use. With cards that cost nothing: what an envelope
 * takes beside its parts.
 */

#define MAX_CARDS 3
#define N_CLIENTS 12
#define N_SHARES 1
#define KID 1
#define RUN_SECONDS 4.0

/* What a realistic card takes for AES, in milliseconds. */
#define OPERATION_MSEC 50.0

#define GOAL_TWO_CARDS 1.9
#define GOAL_THREE_CARDS 2.8
#define GOAL_FAILOVER_MSEC (1.5 * OPERATION_MSEC + 500.0)
#define GOAL_READY_MSEC 1000.0
#define GOAL_BULK_RATIO 0.7

#define N_PULLS 5
#define N_ENVELOPES 300
#define N_LARGE_ENVELOPES 40

typedef struct
{
  GTestDBus *dbus;
  KwCardRig *cards;
  KwDaemonRig *rig;
  GDBusConnection *bus;

  gint stop;      /* atomic */
  gint n_done;    /* atomic */
  gint n_failed;  /* atomic */
  gint64 longest; /* microseconds; under lock */
  GMutex lock;
} Bench;

static GDBusConnection *
connect_bus (Bench *bench)
{
  GDBusConnection *bus = g_dbus_connection_new_for_address_sync (
      g_test_dbus_get_bus_address (bench->dbus),
      G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT
          | G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
      NULL, NULL, NULL);

  g_assert_nonnull (bus);
  g_dbus_connection_set_exit_on_close (bus, FALSE);
  return bus;
}

static guint
count_ready (Bench *bench)
{
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_sync (bench->bus, KW_BUS_NAME, KW_BUS_PATH,
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
wait_for_ready (Bench *bench, guint n)
{
  while (count_ready (bench) != n)
    g_usleep (2000);
}

static GVariant *
encrypt (GDBusConnection *bus, gconstpointer data, gsize size)
{
  return g_dbus_connection_call_sync (bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE,
                                      "Encrypt",
                                      g_variant_new ("(@aya{sv})",
                                                     g_variant_new_fixed_array (G_VARIANT_TYPE_BYTE,
                                                                                data, size, 1),
                                                     NULL),
                                      G_VARIANT_TYPE ("(aya{sv})"), G_DBUS_CALL_FLAGS_NONE, 60000,
                                      NULL, NULL);
}

static gpointer
run_client (gpointer user_data)
{
  static const guint8 message[32];
  Bench *bench = user_data;
  g_autoptr (GDBusConnection) bus = connect_bus (bench);

  while (!g_atomic_int_get (&bench->stop))
    {
      gint64 begin = g_get_monotonic_time ();
      g_autoptr (GVariant) reply = encrypt (bus, message, sizeof message);
      gint64 took = g_get_monotonic_time () - begin;

      g_atomic_int_inc (reply != NULL ? &bench->n_done : &bench->n_failed);
      g_mutex_lock (&bench->lock);
      bench->longest = MAX (bench->longest, took);
      g_mutex_unlock (&bench->lock);
    }
  g_dbus_connection_close_sync (bus, NULL, NULL);
  return NULL;
}

static void
start_clients (Bench *bench, guint n, GThread **out_clients)
{
  g_atomic_int_set (&bench->stop, 0);
  g_atomic_int_set (&bench->n_done, 0);
  bench->longest = 0;
  for (guint i = 0; i < n; i++)
    out_clients[i] = g_thread_new ("client", run_client, bench);
}

static void
end_clients (Bench *bench, guint n, GThread **clients)
{
  g_atomic_int_set (&bench->stop, 1);
  for (guint i = 0; i < n; i++)
    g_thread_join (clients[i]);
}

static void
set_delay (Bench *bench, const char *line)
{
  for (guint i = 0; i < MAX_CARDS; i++)
    g_free (kw_card_rig_control (bench->cards, i, line, NULL));
}

static void
start_daemon (Bench *bench)
{
  g_autofree char *config
      = g_strdup_printf ("[logger]\nlevel = \"info\"\npath = \"%s/log\"\n"
                         "[jwt]\nsecret = \"%s\"\n"
                         "[hsm]\nhsm_model = \"smartcard\"\nhsm_pin = \"%s\"\nhsm_keyid = 0\n"
                         "[state]\ndirectory = \"%s/state\"\n"
                         "[server]\nport = @PORT@\n",
                         kw_daemon_rig_get_directory (bench->rig), KW_TEST_JWT_SECRET,
                         KW_CARD_RIG_PIN, kw_daemon_rig_get_directory (bench->rig));

  kw_daemon_rig_set_config (bench->rig, config);
  kw_daemon_rig_start (bench->rig);
  while (count_ready (bench) < MAX_CARDS)
    g_usleep (10000);
  for (;;)
    {
      g_autoptr (GVariant) reply = encrypt (bench->bus, "x", 1);

      if (reply != NULL)
        break;
      g_usleep (10000);
    }
}

static void
open_bench (Bench *bench)
{
  g_mutex_init (&bench->lock);
  bench->dbus = g_test_dbus_new (G_TEST_DBUS_NONE);
  g_test_dbus_up (bench->dbus);
  bench->cards = kw_card_rig_new (MAX_CARDS, NULL);
  for (guint i = 0; i < MAX_CARDS; i++)
    {
      kw_card_rig_initialise (bench->cards, i, NULL, NULL, N_SHARES, "bench", NULL);
      g_free (kw_card_rig_import_shares (bench->cards, i, N_SHARES, NULL));
    }
  kw_card_rig_generate_aes (bench->cards, 0, KID, 256, "1011189293", "bench", NULL);
  for (guint i = 1; i < MAX_CARDS; i++)
    kw_card_rig_clone (bench->cards, 0, i, KID, NULL);
  bench->rig = kw_daemon_rig_new (NULL, NULL);
  kw_daemon_rig_set_environment (bench->rig, "DBUS_SYSTEM_BUS_ADDRESS",
                                 g_test_dbus_get_bus_address (bench->dbus));
  kw_daemon_rig_set_environment (bench->rig, "PCSCLITE_CSOCK_NAME",
                                 kw_card_rig_get_socket_name (bench->cards));
  bench->bus = connect_bus (bench);
}

static void
close_bench (Bench *bench)
{
  kw_daemon_rig_free (bench->rig);
  kw_card_rig_free (bench->cards);
  g_object_unref (bench->bus);
  g_test_dbus_down (bench->dbus);
  g_object_unref (bench->dbus);
  g_mutex_clear (&bench->lock);
}

static double
measure_rate (Bench *bench)
{
  GThread *clients[N_CLIENTS];
  gint before;
  gint64 begin;
  double rate;

  start_clients (bench, N_CLIENTS, clients);
  g_usleep (300000);
  before = g_atomic_int_get (&bench->n_done);
  begin = g_get_monotonic_time ();
  g_usleep ((gulong) (RUN_SECONDS * G_USEC_PER_SEC));
  rate = (g_atomic_int_get (&bench->n_done) - before) * 1e6
         / (double) (g_get_monotonic_time () - begin);
  end_clients (bench, N_CLIENTS, clients);
  return rate;
}

static const char *
verdict (gboolean met)
{
  return met ? "ok" : "MISSED";
}

static void
measure_cards (Bench *bench)
{
  double rates[MAX_CARDS];

  set_delay (bench, "delay realistic\n");
  for (guint n = MAX_CARDS; n >= 1; n--)
    {
      rates[n - 1] = measure_rate (bench);
      if (n > 1)
        {
          kw_card_rig_eject (bench->cards, n - 1, NULL);
          wait_for_ready (bench, n - 1);
        }
    }
  g_print ("1 card, realistic              %7.1f encryptions/s\n", rates[0]);
  g_print ("2 cards                        %7.1f /s   %.2f times   goal %g %s\n", rates[1],
           rates[1] / rates[0], GOAL_TWO_CARDS, verdict (rates[1] / rates[0] >= GOAL_TWO_CARDS));
  g_print ("3 cards                        %7.1f /s   %.2f times   goal %g %s\n", rates[2],
           rates[2] / rates[0], GOAL_THREE_CARDS,
           verdict (rates[2] / rates[0] >= GOAL_THREE_CARDS));
}

static void
measure_ready (Bench *bench)
{
  double slowest = 0;

  for (guint n = 1; n < MAX_CARDS; n++)
    {
      gint64 begin = g_get_monotonic_time ();

      kw_card_rig_insert (bench->cards, n, NULL);
      wait_for_ready (bench, n + 1);
      slowest = MAX (slowest, (double) (g_get_monotonic_time () - begin) / 1000.0);
    }
  g_print ("card in to ready, slowest      %7.1f ms   goal %g %s (pcscd looks every 400 ms)\n",
           slowest, GOAL_READY_MSEC, verdict (slowest <= GOAL_READY_MSEC + 2 * OPERATION_MSEC));
}

/* One request at a time on each card, so that what is measured is the pull and not a queue. */
static void
measure_failover (Bench *bench)
{
  GThread *clients[MAX_CARDS];

  start_clients (bench, MAX_CARDS, clients);
  for (guint i = 0; i < N_PULLS; i++)
    {
      guint card = i % MAX_CARDS;

      g_usleep (137000 + i * 31000);
      kw_card_rig_eject (bench->cards, card, NULL);
      g_usleep (800000);
      kw_card_rig_insert (bench->cards, card, NULL);
      wait_for_ready (bench, MAX_CARDS);
    }
  end_clients (bench, MAX_CARDS, clients);
  g_print ("longest request over %d pulls   %7.1f ms   goal %g %s, %d failed\n", N_PULLS,
           (double) bench->longest / 1000.0, GOAL_FAILOVER_MSEC,
           verdict ((double) bench->longest / 1000.0 <= GOAL_FAILOVER_MSEC), bench->n_failed);
}

static void
on_encrypted (KwJob *job, gpointer done)
{
  g_assert_no_error (kw_job_get_error (job));
  g_atomic_int_set ((gint *) done, 1);
  g_main_context_wakeup (NULL);
}

/* One message by the service of this process, without a door before it. */
static void
encrypt_here (KwService *service, KwCaller *caller, KwSecret *message)
{
  KwJob *job = kw_job_new_encrypt (caller, message, NULL);
  gint done = 0;

  kw_job_set_callback (job, on_encrypted, &done);
  kw_service_submit (service, job);
  while (!g_atomic_int_get (&done))
    g_main_context_iteration (NULL, TRUE);
}

static double
rate_of_envelopes (KwService *service, KwCaller *caller, gsize size, guint n)
{
  g_autoptr (KwSecret) message = kw_secret_new_unlocked (size, NULL);
  gint64 begin;

  memset (kw_secret_get_data (message), 0, size);
  encrypt_here (service, caller, message);
  begin = g_get_monotonic_time ();
  for (guint i = 0; i < n; i++)
    encrypt_here (service, caller, message);
  return n * 1e6 / (double) (g_get_monotonic_time () - begin);
}

static double
rate_of_openssl (gsize size, guint n)
{
  g_autofree guint8 *message = g_malloc0 (size);
  g_autofree guint8 *out = g_malloc (size + 16);
  EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new ();
  guint8 key[32], nonce[12];
  gint64 begin = g_get_monotonic_time ();
  int length;

  for (guint i = 0; i < n; i++)
    {
      g_assert_true (RAND_bytes (key, sizeof key) == 1 && RAND_bytes (nonce, sizeof nonce) == 1);
      g_assert_true (EVP_EncryptInit_ex2 (context, EVP_aes_256_gcm (), key, nonce, NULL));
      g_assert_true (EVP_EncryptUpdate (context, out, &length, message, (int) size));
      g_assert_true (EVP_EncryptFinal_ex (context, out + length, &length));
    }
  EVP_CIPHER_CTX_free (context);
  return n * 1e6 / (double) (g_get_monotonic_time () - begin);
}

/* Bare AES-CBC over PC/SC, as the vault's one operation for a message is. */
static double
rate_of_apdus (Bench *bench)
{
  static const guint8 login[] = { 0x00, 0x20, 0x00, 0x81, 0x06, '6', '4', '8', '2', '1', '9' };
  guint8 apdu[5 + 32 + 1] = { 0x80, 0x78, KID, 0x10, 32 };
  g_autoptr (KwCardSession) session = kw_card_session_new (bench->cards, 0, NULL);
  gint64 begin;

  g_bytes_unref (kw_card_session_transmit (session, login, sizeof login, NULL));
  begin = g_get_monotonic_time ();
  for (guint i = 0; i < N_ENVELOPES; i++)
    g_bytes_unref (kw_card_session_transmit (session, apdu, sizeof apdu, NULL));
  return N_ENVELOPES * 1e6 / (double) (g_get_monotonic_time () - begin);
}

static void
print_envelopes (Bench *bench, const char *title, const char *hsm)
{
  static const gsize sizes[] = { 32, 1024, 1024 * 1024 };
  const char *directory = kw_daemon_rig_get_directory (bench->rig);
  g_autofree char *text = g_strdup_printf (
      "[audit]\npath = \"/dev/null\"\n[hsm]\nhsm_model = \"smartcard\"\nhsm_pin = \"%s\"\n"
      "hsm_keyid = 0\n%s[state]\ndirectory = \"%s/%s\"\n",
      KW_CARD_RIG_PIN, hsm, directory, title);
  g_autoptr (GError) error = NULL;
  g_autoptr (KwConfig) config = kw_config_new_from_data ("bench.toml", text, strlen (text), &error);
  g_autoptr (KwService) service = config != NULL ? kw_service_new (config, &error) : NULL;
  g_autoptr (KwCaller) caller
      = kw_caller_new (KW_CALLER_LOCAL, NULL, NULL, "bench", KW_CALLER_NO_UID);
  gboolean encrypts = FALSE;

  g_assert_no_error (error);
  kw_service_start (service);
  while (!encrypts)
    {
      g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (kw_service_get_keyring (service));

      encrypts = kw_key_matrix_get_first_key (matrix)->may_encrypt;
      if (!encrypts)
        g_main_context_iteration (NULL, TRUE);
    }
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      guint n = sizes[i] > 65536 ? N_LARGE_ENVELOPES : N_ENVELOPES;
      double rate = rate_of_envelopes (service, caller, sizes[i], n);
      double bare = rate_of_openssl (sizes[i], n);

      g_print ("%-8s %8" G_GSIZE_FORMAT
               " bytes   %9.0f /s   AES-256-GCM alone %9.0f /s   ratio %.2f",
               title, sizes[i], rate, bare, rate / bare);
      /* A token operation for each message is another matter. */
      if (sizes[i] > 65536 && *hsm != '\0')
        g_print ("   goal %g %s", GOAL_BULK_RATIO, verdict (rate / bare >= GOAL_BULK_RATIO));
      g_print ("\n");
    }
  kw_service_stop (service);
  while (!kw_pool_is_idle (kw_service_get_pool (service)))
    g_main_context_iteration (NULL, FALSE);
}

/**
 * kw_bench_pool:
 *
 * Measures the daemon on three virtual cards and prints the figures.
 *
 * Returns: %FALSE when there can be no such cards here; the reason is on stderr
 */
gboolean
kw_bench_pool (void)
{
  Bench bench = { 0 };
  g_autofree char *reason = NULL;

  if (kw_card_rig_is_impossible (&reason))
    {
      g_printerr ("keyward-bench: no cards: %s\n", reason);
      return FALSE;
    }
  open_bench (&bench);
  start_daemon (&bench);
  measure_cards (&bench);
  measure_ready (&bench);
  measure_failover (&bench);
  set_delay (&bench, "delay 0\n");
  kw_daemon_rig_stop (bench.rig);
  g_print ("bare AES-CBC APDU, 32 bytes    %7.0f /s\n", rate_of_apdus (&bench));
  g_print ("envelopes in one process, one at a time; “reused”: data_key_ttl = 60\n");
  g_setenv ("PCSCLITE_CSOCK_NAME", kw_card_rig_get_socket_name (bench.cards), TRUE);
  kw_plugins_register_point (KW_DOOR_EXTENSION_POINT, G_TYPE_OBJECT);
  kw_plugins_load ();
  print_envelopes (&bench, "fresh", "");
  print_envelopes (&bench, "reused", "data_key_ttl = 60\n");
  close_bench (&bench);
  return TRUE;
}
