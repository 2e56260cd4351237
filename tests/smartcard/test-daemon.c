/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-sc-daemon"

#include "kw-card-rig.h"
#include "kw-daemon-rig.h"

#include <string.h>

/*
 * The whole daemon on virtual cards, spoken to as ownCloud does: cards are pulled and put back, pcscd is killed, other programs
 * use the same cards, and no caller notices while one good card is left.
 */

#define KEY_UUID "00112233-4455-6677-8899-aabbccddeeff"
#define KEY_ID "00112233445566778899aabbccddeeff"
#define N_SHARES 1
#define N_CLIENTS 4
#define STORM_SECONDS 15
#define MORE_DESCRIPTORS 4 /* connections of clients that are just being closed */
#define WRONG_PIN "000000"
#define PIN_STATUS "00200081"
#define SELECT_CARD "00A404000BE82B0601040181C31F020100"
#define PLAINTEXT "0123456789abcdefghijklmnopqrstuv"

typedef struct
{
  KwCardRig *cards;
  KwDaemonRig *rig;
  char *jwt;
  char *pem;
  char *path;
  GBytes *ciphertext;

  gint stop;     /* atomic */
  gint n_good;   /* atomic */
  gint n_failed; /* atomic */
  GThread *clients[N_CLIENTS];
} Fixture;

static void
set_config_with (Fixture *f, const char *pin, const char *hsm)
{
  g_autofree char *text = g_strdup_printf ("[logger]\nlevel = \"debug\"\npath = \"%s/log\"\n"
                                           "[jwt]\nsecret = \"%s\"\n"
                                           "[hsm]\nhsm_model = \"smartcard\"\nhsm_pin = \"%s\"\n%s"
                                           "[state]\ndirectory = \"%s/state\"\n"
                                           "[server]\nport = @PORT@\n",
                                           kw_daemon_rig_get_directory (f->rig), KW_TEST_JWT_SECRET,
                                           pin, hsm, kw_daemon_rig_get_directory (f->rig));

  kw_daemon_rig_set_config (f->rig, text);
}

static void
set_config (Fixture *f, const char *pin)
{
  set_config_with (f, pin, "");
}

static void
use_key (Fixture *f, const char *uuid)
{
  g_autoptr (GBytes) plaintext = g_bytes_new_static (PLAINTEXT, strlen (PLAINTEXT));

  g_free (f->path);
  f->path = g_strdup_printf ("/decrypt/%s", uuid);
  g_clear_pointer (&f->ciphertext, g_bytes_unref);
  f->ciphertext = kw_test_encrypt (f->pem, plaintext);
}

static Fixture *
fixture_new (guint n_cards)
{
  Fixture *f = g_new0 (Fixture, 1);

  f->cards = kw_card_rig_new (n_cards, NULL);
  f->rig = kw_daemon_rig_new (NULL, NULL);
  f->jwt = kw_daemon_rig_make_jwt (f->rig);
  kw_daemon_rig_set_environment (f->rig, "PCSCLITE_CSOCK_NAME",
                                 kw_card_rig_get_socket_name (f->cards));
  set_config (f, KW_CARD_RIG_PIN);
  for (guint i = 0; i < n_cards; i++)
    {
      g_autofree char *label = g_strdup_printf ("card %u", i + 1);

      kw_card_rig_initialise (f->cards, i, NULL, NULL, N_SHARES, label, NULL);
      g_free (kw_card_rig_import_shares (f->cards, i, N_SHARES, NULL));
    }
  return f;
}

/* One RSA key on all cards. */
static void
add_key (Fixture *f)
{
  guint8 kid = kw_card_rig_generate_rsa (f->cards, 0, 2048, KEY_ID, "shared", NULL);
  g_autofree char *path
      = g_build_filename (kw_card_rig_get_directory (f->cards), "public.pem", NULL);

  for (guint i = 1; i < kw_card_rig_get_n_cards (f->cards); i++)
    kw_card_rig_clone (f->cards, 0, i, kid, NULL);
  g_assert_cmpint (kw_card_rig_run (f->cards, NULL, "pkcs15-tool", "--reader",
                                    kw_card_rig_get_reader (f->cards, 0), "--read-public-key",
                                    KEY_ID, "--output", path, NULL),
                   ==, 0);
  g_assert_true (g_file_get_contents (path, &f->pem, NULL, NULL));
  use_key (f, KEY_UUID);
}

static void
fixture_free (Fixture *f)
{
  kw_daemon_rig_free (f->rig);
  kw_card_rig_free (f->cards);
  g_free (f->jwt);
  g_free (f->pem);
  g_free (f->path);
  g_clear_pointer (&f->ciphertext, g_bytes_unref);
  g_free (f);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Fixture, fixture_free)

static guint
decrypt_status (Fixture *f)
{
  g_autoptr (KwTestResponse) response = kw_daemon_rig_post (f->rig, f->path, f->jwt, f->ciphertext);

  if (response->status == 200)
    g_assert_cmpmem (g_bytes_get_data (response->body, NULL), g_bytes_get_size (response->body),
                     PLAINTEXT, strlen (PLAINTEXT));
  return response->status;
}

static void
wait_until_decrypts (Fixture *f)
{
  gint64 deadline = g_get_monotonic_time () + 60 * G_TIME_SPAN_SECOND;

  while (decrypt_status (f) != 200)
    {
      g_assert_cmpint (g_get_monotonic_time (), <, deadline);
      g_usleep (20000);
    }
}

static void
wait_for_ready (Fixture *f, guint n)
{
  gint64 deadline = g_get_monotonic_time () + 60 * G_TIME_SPAN_SECOND;

  for (;;)
    {
      g_autofree char *log = kw_daemon_rig_dup_log (f->rig);
      g_auto (GStrv) parts = g_strsplit (log, "\"state\":\"ready\"", -1);

      if (g_strv_length (parts) > n)
        return;
      if (g_get_monotonic_time () > deadline)
        g_error ("not %u times ready:\n%s", n, log);
      g_usleep (20000);
    }
}

static gpointer
client_thread (gpointer user_data)
{
  Fixture *f = user_data;

  while (!g_atomic_int_get (&f->stop))
    {
      guint status = decrypt_status (f);

      if (status == 200)
        g_atomic_int_inc (&f->n_good);
      else
        {
          g_test_message ("a request was answered with %u", status);
          g_atomic_int_inc (&f->n_failed);
        }
    }
  return NULL;
}

static void
start_load (Fixture *f)
{
  for (guint i = 0; i < N_CLIENTS; i++)
    f->clients[i] = g_thread_new ("client", client_thread, f);
}

static void
end_load (Fixture *f)
{
  g_atomic_int_set (&f->stop, TRUE);
  for (guint i = 0; i < N_CLIENTS; i++)
    g_thread_join (f->clients[i]);
  g_test_message ("%d good, %d failed", f->n_good, f->n_failed);
  if (f->n_failed > 0)
    {
      g_autofree char *log = kw_daemon_rig_dup_log (f->rig);

      g_error ("%d requests failed:\n%s", f->n_failed, log);
    }
  g_assert_cmpint (f->n_good, >, 0);
}

#define skip_without_cards()                                                                       \
  G_STMT_START                                                                                     \
  {                                                                                                \
    if (kw_card_rig_is_missing ())                                                                 \
      return;                                                                                      \
  }                                                                                                \
  G_STMT_END

static void
test_new_key_and_decrypt (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *uuid = NULL;
  g_autofree char *listing = NULL;

  skip_without_cards ();
  f = fixture_new (1);
  kw_daemon_rig_start (f->rig);
  uuid = kw_daemon_rig_make_key (f->rig, &f->pem);
  use_key (f, uuid);
  g_assert_cmpuint (decrypt_status (f), ==, 200);
  listing = kw_card_rig_transmit (f->cards, 0, "80580000000000", NULL);
  g_assert_nonnull (strstr (listing, "CC01"));
  g_assert_nonnull (strstr (listing, "C401"));
  g_assert_nonnull (strstr (listing, "CE01"));
  /* Known again after a restart. */
  kw_daemon_rig_stop (f->rig);
  kw_daemon_rig_start (f->rig);
  g_assert_cmpuint (decrypt_status (f), ==, 200);
}

/* A new key is on both cards before it is told, so either can go. */
static void
test_new_key_is_on_both_cards (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *uuid = NULL;

  skip_without_cards ();
  f = fixture_new (2);
  kw_daemon_rig_start (f->rig);
  wait_for_ready (f, 2);
  uuid = kw_daemon_rig_make_key (f->rig, &f->pem);
  use_key (f, uuid);
  for (guint i = 0; i < 2; i++)
    {
      kw_card_rig_eject (f->cards, i, NULL);
      g_assert_true (kw_card_rig_wait_for_card (f->cards, i, FALSE, 10000, NULL));
      g_assert_cmpuint (decrypt_status (f), ==, 200);
      kw_card_rig_insert (f->cards, i, NULL);
      wait_for_ready (f, 3 + i);
    }
}

static guint
count_keys (Fixture *f, guint card)
{
  g_autofree char *list = kw_card_rig_transmit (f->cards, card, "80580000000000", NULL);
  guint n = 0;

  for (gsize i = 0; i + 4 <= strlen (list); i += 4)
    n += g_ascii_strncasecmp (list + i, "CC", 2) == 0 && strncmp (list + i + 2, "00", 2) != 0;
  return n;
}

static guint
new_key_status (Fixture *f)
{
  g_autoptr (KwTestResponse) response = kw_daemon_rig_post (f->rig, "/keys/new", f->jwt, NULL);

  return response->status;
}

/*
 * A key that is to be on two cards is not made while there is one; and where the other one cannot take it, it goes again. With
 * two that can, it is there on both.
 */
static void
test_too_few_copies (void)
{
  g_autoptr (Fixture) f = NULL;

  skip_without_cards ();
  f = fixture_new (2);
  set_config_with (f, KW_CARD_RIG_PIN, "min_copies = 2\n");
  kw_card_rig_eject (f->cards, 1, NULL);
  kw_daemon_rig_start (f->rig);
  wait_for_ready (f, 1);
  g_assert_cmpuint (new_key_status (f), ==, 503);
  g_assert_cmpuint (count_keys (f, 0), ==, 0);

  kw_card_rig_insert (f->cards, 1, NULL);
  wait_for_ready (f, 2);
  for (guint i = 0; i < 2; i++)
    g_free (kw_card_rig_control (f->cards, i, "fault ins=74,sw=6A84", NULL));
  g_assert_cmpuint (new_key_status (f), ==, 503);
  g_assert_cmpuint (count_keys (f, 0) + count_keys (f, 1), ==, 0);

  for (guint i = 0; i < 2; i++)
    g_free (kw_card_rig_control (f->cards, i, "fault clear", NULL));
  g_assert_cmpuint (new_key_status (f), ==, 200);
  g_assert_cmpuint (count_keys (f, 0), ==, 1);
  g_assert_cmpuint (count_keys (f, 1), ==, 1);
}

static void
test_cards_pulled_under_load (void)
{
  g_autoptr (Fixture) f = NULL;

  skip_without_cards ();
  f = fixture_new (2);
  add_key (f);
  kw_daemon_rig_start (f->rig);
  wait_for_ready (f, 2);
  start_load (f);
  for (guint i = 0; i < 6; i++)
    {
      g_usleep (300000);
      kw_card_rig_eject (f->cards, i % 2, NULL);
      g_usleep (300000);
      kw_card_rig_insert (f->cards, i % 2, NULL);
      wait_for_ready (f, 3 + i);
    }
  end_load (f);
}

/* Pulled while it works, not between two commands. */
static void
test_card_dropped_under_load (void)
{
  g_autoptr (Fixture) f = NULL;

  skip_without_cards ();
  f = fixture_new (2);
  add_key (f);
  g_free (kw_card_rig_control (f->cards, 0, "delay 20", NULL));
  g_free (kw_card_rig_control (f->cards, 1, "delay 20", NULL));
  kw_daemon_rig_start (f->rig);
  wait_for_ready (f, 2);
  start_load (f);
  for (guint i = 0; i < 4; i++)
    {
      g_usleep (200000);
      g_free (kw_card_rig_control (f->cards, i % 2, "drop-after 3", NULL));
      g_assert_true (kw_card_rig_wait_for_card (f->cards, i % 2, FALSE, 10000, NULL));
      kw_card_rig_insert (f->cards, i % 2, NULL);
      wait_for_ready (f, 3 + i);
    }
  end_load (f);
}

static void
test_pcscd_killed_under_load (void)
{
  g_autoptr (Fixture) f = NULL;

  skip_without_cards ();
  f = fixture_new (2);
  add_key (f);
  kw_daemon_rig_start (f->rig);
  wait_for_ready (f, 2);
  start_load (f);
  for (guint i = 0; i < 2; i++)
    {
      g_usleep (300000);
      kw_card_rig_kill_pcscd (f->cards, NULL);
      kw_card_rig_start_pcscd (f->cards, NULL);
      wait_for_ready (f, 4 + 2 * i);
    }
  end_load (f);
}

/* OpenSC's tools log us out each time they start. */
static void
test_opensc_beside_us (void)
{
  g_autoptr (Fixture) f = NULL;
  gint64 until = 0;
  guint n = 0;

  skip_without_cards ();
  f = fixture_new (2);
  add_key (f);
  kw_daemon_rig_start (f->rig);
  wait_for_ready (f, 2);
  start_load (f);
  until = g_get_monotonic_time () + 6 * G_TIME_SPAN_SECOND;
  while (g_get_monotonic_time () < until)
    {
      const char *reader = kw_card_rig_get_reader (f->cards, n % 2);

      g_assert_cmpint (kw_card_rig_run (f->cards, NULL, "sc-hsm-tool", "--reader", reader, NULL),
                       ==, 0);
      g_assert_cmpint (kw_card_rig_run (f->cards, NULL, "pkcs11-tool", "--slot-description", reader,
                                        "--login", "--pin", KW_CARD_RIG_PIN, "--sign",
                                        "--mechanism", "SHA256-RSA-PKCS", "--id", KEY_ID,
                                        "--input-file", "/etc/hostname", "--output-file",
                                        "/dev/null", NULL),
                       ==, 0);
      n++;
    }
  end_load (f);
  g_test_message ("%u rounds of OpenSC's tools", n);
  g_assert_cmpuint (n, >, 0);
}

static void
test_reset_beside_us (void)
{
  g_autoptr (Fixture) f = NULL;

  skip_without_cards ();
  f = fixture_new (1);
  add_key (f);
  kw_daemon_rig_start (f->rig);
  wait_for_ready (f, 1);
  start_load (f);
  for (guint i = 0; i < 10; i++)
    g_assert_cmpint (kw_card_rig_run (f->cards, NULL, "opensc-tool", "--reader",
                                      kw_card_rig_get_reader (f->cards, 0),
                                      i % 2 == 0 ? "--reset=warm" : "--reset=cold", NULL),
                     ==, 0);
  end_load (f);
}

static void
assert_tries (Fixture *f, const char *expected)
{
  g_autoptr (KwCardSession) session = kw_card_session_new (f->cards, 0, NULL);
  g_autofree char *answer = NULL;

  g_free (kw_card_session_transmit_hex (session, SELECT_CARD, NULL));
  answer = kw_card_session_transmit_hex (session, PIN_STATUS, NULL);
  g_assert_cmpstr (answer, ==, expected);
}

/* A wrong PIN costs one try, however often the daemon starts or the card is put in; the right one is tried again. */
static void
test_wrong_pin (void)
{
  g_autoptr (Fixture) f = NULL;

  skip_without_cards ();
  f = fixture_new (1);
  add_key (f);
  set_config (f, WRONG_PIN);
  kw_daemon_rig_launch (f->rig);
  kw_daemon_rig_wait_for_log (f->rig, "\"state\":\"pin-refused\"");
  g_assert_cmpuint (decrypt_status (f), >=, 500);
  assert_tries (f, "63C2");
  kw_card_rig_eject (f->cards, 0, NULL);
  kw_daemon_rig_wait_for_log (f->rig, "\"state\":\"gone\"");
  kw_card_rig_insert (f->cards, 0, NULL);
  kw_daemon_rig_wait_for_log (f->rig, "refused this PIN before");
  kw_daemon_rig_stop (f->rig);
  kw_daemon_rig_launch (f->rig);
  kw_daemon_rig_wait_for_log (f->rig, "refused this PIN before");
  assert_tries (f, "63C2");
  kw_daemon_rig_stop (f->rig);
  /* Two are left: a PIN that this card never took is not tried, and one it took before is. */
  set_config (f, KW_CARD_RIG_PIN);
  kw_daemon_rig_launch (f->rig);
  kw_daemon_rig_wait_for_log (f->rig, "two tries of its PIN left");
  assert_tries (f, "63C2");
  kw_daemon_rig_stop (f->rig);
  g_free (kw_card_rig_transmit (f->cards, 0, "0020008106363438323139", NULL));
  kw_daemon_rig_start (f->rig);
  g_assert_cmpuint (decrypt_status (f), ==, 200);
  kw_daemon_rig_stop (f->rig);
  g_free (kw_card_rig_transmit (f->cards, 0, SELECT_CARD, NULL));
  g_free (kw_card_rig_transmit (f->cards, 0, "0020008106303030303030", NULL));
  assert_tries (f, "63C2");
  kw_daemon_rig_start (f->rig);
  g_assert_cmpuint (decrypt_status (f), ==, 200);
  kw_daemon_rig_stop (f->rig);
  /* The last one is nobody's. */
  g_free (kw_card_rig_transmit (f->cards, 0, SELECT_CARD, NULL));
  g_free (kw_card_rig_transmit (f->cards, 0, "0020008106303030303030", NULL));
  g_free (kw_card_rig_transmit (f->cards, 0, "0020008106303030303030", NULL));
  kw_daemon_rig_launch (f->rig);
  kw_daemon_rig_wait_for_log (f->rig, "has one try of its PIN left");
  assert_tries (f, "63C1");
}

/* Nothing is there at first, and then one thing after the other; the caller is told what is missing. */
static void
test_from_nothing (void)
{
  g_autoptr (Fixture) f = NULL;

  skip_without_cards ();
  f = fixture_new (1);
  add_key (f);
  kw_card_rig_eject (f->cards, 0, NULL);
  kw_card_rig_stop_pcscd (f->cards, NULL);
  kw_daemon_rig_launch (f->rig);
  kw_daemon_rig_wait_for_log (f->rig, "pcscd is not running; start it with");
  g_assert_cmpuint (decrypt_status (f), >=, 500);
  kw_card_rig_start_pcscd (f->cards, NULL);
  kw_daemon_rig_wait_for_log (f->rig, "has no card in it");
  kw_card_rig_insert (f->cards, 0, NULL);
  wait_until_decrypts (f);
}

/*
 * Everything at once, in an order that the test's seed decides: cards pulled, dropped in the middle of a command and frozen, and
 * pcscd killed, while one card at least is left alone.
 */
static void
test_storm (void)
{
  g_autoptr (Fixture) f = NULL;
  gint64 until = 0;
  guint n = 0;
  guint n_descriptors = 0;

  skip_without_cards ();
  f = fixture_new (3);
  add_key (f);
  kw_daemon_rig_start (f->rig);
  wait_for_ready (f, 3);
  wait_until_decrypts (f);
  n_descriptors = kw_test_count_descriptors (kw_daemon_rig_get_pid (f->rig));
  start_load (f);
  until = g_get_monotonic_time () + STORM_SECONDS * G_TIME_SPAN_SECOND;
  while (g_get_monotonic_time () < until)
    {
      guint card = n % 2;

      switch (g_test_rand_int_range (0, 4))
        {
        case 0:
          kw_card_rig_eject (f->cards, card, NULL);
          g_usleep ((gulong) g_test_rand_int_range (0, 400000));
          kw_card_rig_insert (f->cards, card, NULL);
          break;
        case 1:
          g_free (kw_card_rig_control (f->cards, card, "drop-after 2", NULL));
          g_usleep (300000);
          g_free (kw_card_rig_control (f->cards, card, "drop-after never", NULL));
          kw_card_rig_insert (f->cards, card, NULL);
          break;
        case 2:
          kw_card_rig_freeze (f->cards, card, NULL);
          g_usleep ((gulong) g_test_rand_int_range (0, 500000));
          kw_card_rig_thaw (f->cards, card, NULL);
          break;
        default:
          kw_card_rig_kill_pcscd (f->cards, NULL);
          kw_card_rig_start_pcscd (f->cards, NULL);
          break;
        }
      g_usleep ((gulong) g_test_rand_int_range (0, 600000));
      n++;
    }
  end_load (f);
  g_test_message ("%u events", n);
  /* Connections to pcscd are given back. */
  until = g_get_monotonic_time () + 20 * G_TIME_SPAN_SECOND;
  while (kw_test_count_descriptors (kw_daemon_rig_get_pid (f->rig))
             > n_descriptors + MORE_DESCRIPTORS
         && g_get_monotonic_time () < until)
    g_usleep (50000);
  g_assert_cmpuint (kw_test_count_descriptors (kw_daemon_rig_get_pid (f->rig)), <=,
                    n_descriptors + MORE_DESCRIPTORS);
}

/* A card that hangs costs the requests on it a while, and no request its answer. */
static void
test_frozen_card (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *text = NULL;

  skip_without_cards ();
  f = fixture_new (2);
  add_key (f);
  text = g_strdup_printf ("[logger]\nlevel = \"debug\"\npath = \"%s/log\"\n"
                          "[jwt]\nsecret = \"%s\"\n"
                          "[hsm]\nhsm_model = \"smartcard\"\nhsm_pin = \"%s\"\n"
                          "[smartcard]\ntimeout = 2\n"
                          "[state]\ndirectory = \"%s/state\"\n"
                          "[server]\nport = @PORT@\n",
                          kw_daemon_rig_get_directory (f->rig), KW_TEST_JWT_SECRET, KW_CARD_RIG_PIN,
                          kw_daemon_rig_get_directory (f->rig));
  kw_daemon_rig_set_config (f->rig, text);
  kw_daemon_rig_start (f->rig);
  wait_for_ready (f, 2);
  start_load (f);
  g_usleep (300000);
  kw_card_rig_freeze (f->cards, 0, NULL);
  kw_daemon_rig_wait_for_log (f->rig, "\"state\":\"stuck\"");
  g_usleep (500000);
  kw_card_rig_thaw (f->cards, 0, NULL);
  wait_for_ready (f, 3);
  end_load (f);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/daemon/new-key-and-decrypt", test_new_key_and_decrypt);
  g_test_add_func ("/daemon/new-key-is-on-both", test_new_key_is_on_both_cards);
  g_test_add_func ("/daemon/too-few-copies", test_too_few_copies);
  g_test_add_func ("/daemon/from-nothing", test_from_nothing);
  g_test_add_func ("/daemon/cards-pulled", test_cards_pulled_under_load);
  g_test_add_func ("/daemon/card-dropped", test_card_dropped_under_load);
  g_test_add_func ("/daemon/pcscd-killed", test_pcscd_killed_under_load);
  g_test_add_func ("/daemon/opensc-beside-us", test_opensc_beside_us);
  g_test_add_func ("/daemon/reset-beside-us", test_reset_beside_us);
  g_test_add_func ("/daemon/storm", test_storm);
  g_test_add_func ("/daemon/frozen-card", test_frozen_card);
  g_test_add_func ("/daemon/wrong-pin", test_wrong_pin);
  return g_test_run ();
}
