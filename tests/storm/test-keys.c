/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-keys"

#include "kw-bus-error.h"
#include "kw-bus-names.h"
#include "kw-card-rig.h"
#include "kw-daemon-rig.h"
#include "kw-error.h"

#include <string.h>

/*
 * The whole daemon on two cards whose keys are not as they should be: it never encrypts with a key that was not proven, and says
 * what is wrong.
 */

#define N_SHARES 1
#define KID 1
#define ALGORITHMS "1011189293"
#define KEY_PATH KW_BUS_KEY_PATH "0"

typedef struct
{
  GTestDBus *dbus;
  KwCardRig *cards;
  KwDaemonRig *rig;
  GDBusConnection *bus;
} Fixture;

static void
initialise (Fixture *f, guint card)
{
  kw_card_rig_initialise (f->cards, card, NULL, NULL, N_SHARES, "test", NULL);
  g_free (kw_card_rig_import_shares (f->cards, card, N_SHARES, NULL));
}

static void
set_config (Fixture *f, const char *hsm)
{
  const char *directory = kw_daemon_rig_get_directory (f->rig);
  g_autofree char *config
      = g_strdup_printf ("[logger]\nlevel = \"info\"\npath = \"%s/log\"\n[jwt]\nsecret = \"%s\"\n"
                         "[hsm]\nhsm_model = \"smartcard\"\nhsm_pin = \"%s\"\nhsm_keyid = 0\n%s"
                         "[state]\ndirectory = \"%s/state\"\n[server]\nport = @PORT@\n",
                         directory, KW_TEST_JWT_SECRET, KW_CARD_RIG_PIN, hsm, directory);

  kw_daemon_rig_set_config (f->rig, config);
}

static void
set_up (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  f->dbus = g_test_dbus_new (G_TEST_DBUS_NONE);
  g_test_dbus_up (f->dbus);
  f->bus = g_dbus_connection_new_for_address_sync (
      g_test_dbus_get_bus_address (f->dbus),
      G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT
          | G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
      NULL, NULL, NULL);
  g_dbus_connection_set_exit_on_close (f->bus, FALSE);
  f->cards = kw_card_rig_new (2, NULL);
  f->rig = kw_daemon_rig_new (NULL, NULL);
  kw_daemon_rig_set_environment (f->rig, "DBUS_SYSTEM_BUS_ADDRESS",
                                 g_test_dbus_get_bus_address (f->dbus));
  kw_daemon_rig_set_environment (f->rig, "PCSCLITE_CSOCK_NAME",
                                 kw_card_rig_get_socket_name (f->cards));
  set_config (f, "");
  initialise (f, 0);
  initialise (f, 1);
}

static void
tear_down (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  kw_daemon_rig_free (f->rig);
  kw_card_rig_free (f->cards);
  g_object_unref (f->bus);
  g_test_dbus_down (f->dbus);
  g_object_unref (f->dbus);
}

static void
make_key (Fixture *f, guint card)
{
  kw_card_rig_generate_aes (f->cards, card, KID, 256, ALGORITHMS, "test", NULL);
}

static GVariant *
get (Fixture *f, const char *path, const char *interface, const char *name)
{
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_sync (f->bus, KW_BUS_NAME, path, "org.freedesktop.DBus.Properties",
                                     "Get", g_variant_new ("(ss)", interface, name),
                                     G_VARIANT_TYPE ("(v)"), G_DBUS_CALL_FLAGS_NONE, -1, NULL,
                                     NULL);
  GVariant *value = NULL;

  if (reply != NULL)
    g_variant_get (reply, "(v)", &value);
  return value;
}

static void
wait_for (Fixture *f, const char *path, const char *interface, const char *name, GVariant *floating)
{
  g_autoptr (GVariant) wanted = g_variant_ref_sink (floating);
  g_autoptr (GVariant) value = NULL;
  g_autofree char *text = NULL;

  for (guint i = 0; i < 1500; i++)
    {
      g_clear_pointer (&value, g_variant_unref);
      value = get (f, path, interface, name);
      if (value != NULL && g_variant_equal (value, wanted))
        return;
      g_usleep (20000);
    }
  text = value != NULL ? g_variant_print (value, FALSE) : g_strdup ("not there");
  g_error ("%s of %s is %s", name, path, text);
}

static void
wait_for_key (Fixture *f, const char *state, guint n_copies)
{
  wait_for (f, KEY_PATH, KW_BUS_KEY_INTERFACE, "State", g_variant_new_string (state));
  wait_for (f, KEY_PATH, KW_BUS_KEY_INTERFACE, "Copies", g_variant_new_uint32 (n_copies));
}

static void
assert_device (Fixture *f, guint card, const char *state)
{
  g_autofree char *path
      = g_strconcat (KW_BUS_DEVICE_PATH, kw_card_rig_get_serial (f->cards, card), NULL);

  wait_for (f, path, KW_BUS_DEVICE_INTERFACE, "State", g_variant_new_string (state));
}

/* Encrypts; the envelope, or NULL with the error. */
static GVariant *
encrypt (Fixture *f, GError **error)
{
  g_autoptr (GVariant) reply = g_dbus_connection_call_sync (
      f->bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Encrypt",
      g_variant_new ("(@aya{sv})", g_variant_new_fixed_array (G_VARIANT_TYPE_BYTE, "text", 4, 1),
                     NULL),
      G_VARIANT_TYPE ("(aya{sv})"), G_DBUS_CALL_FLAGS_NONE, 30000, NULL, error);

  return reply != NULL ? g_variant_get_child_value (reply, 0) : NULL;
}

static void
assert_no_encryption (Fixture *f)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) envelope = encrypt (f, &error);

  g_assert_null (envelope);
  g_assert_true (error->domain == KW_ERROR);
  g_test_message ("%s", error->message);
}

static void
assert_decrypts (Fixture *f, GVariant *envelope)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_sync (f->bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE,
                                     "Decrypt", g_variant_new ("(@aya{sv})", envelope, NULL),
                                     G_VARIANT_TYPE ("(aya{sv})"), G_DBUS_CALL_FLAGS_NONE, 30000,
                                     NULL, &error);
  g_autoptr (GVariant) plaintext = NULL;

  g_assert_no_error (error);
  plaintext = g_variant_get_child_value (reply, 0);
  g_assert_cmpmem (g_variant_get_data (plaintext), g_variant_get_size (plaintext), "text", 4);
}

/* Two cards that disagree, and no record: neither is right until the administrator says so. */
static void
test_disagreement (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) accepted = NULL;
  g_autoptr (GVariant) envelope = NULL;

  make_key (f, 0);
  make_key (f, 1);
  kw_daemon_rig_start (f->rig);
  wait_for_key (f, "different", 0);
  wait_for (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Consistent", g_variant_new_boolean (FALSE));
  assert_no_encryption (f);

  kw_card_rig_eject (f->cards, 1, NULL);
  wait_for (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "ReadyDevices", g_variant_new_uint32 (1));
  accepted
      = g_dbus_connection_call_sync (f->bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE,
                                     "AcceptKey", g_variant_new ("(sa{sv})", "0", NULL), NULL,
                                     G_DBUS_CALL_FLAGS_NONE, -1, NULL, &error);
  g_assert_no_error (error);
  wait_for_key (f, "ok", 1);
  envelope = encrypt (f, &error);
  g_assert_no_error (error);
  /* The other one comes back, and is not used. */
  kw_card_rig_insert (f->cards, 1, NULL);
  wait_for_key (f, "different", 1);
  for (guint i = 0; i < 20; i++)
    assert_decrypts (f, envelope);
}

/* A card with the serial number of a known one, and other keys on it. */
static void
test_swapped (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) envelope = NULL;
  g_autoptr (GVariant) next = NULL;

  make_key (f, 0);
  kw_card_rig_clone (f->cards, 0, 1, KID, NULL);
  kw_daemon_rig_start (f->rig);
  wait_for_key (f, "ok", 2);
  envelope = encrypt (f, &error);
  g_assert_no_error (error);

  kw_card_rig_eject (f->cards, 1, NULL);
  wait_for (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "ReadyDevices", g_variant_new_uint32 (1));
  kw_card_rig_insert (f->cards, 1, NULL);
  wait_for_key (f, "ok", 2);
  kw_daemon_rig_stop (f->rig);
  initialise (f, 1);
  make_key (f, 1);
  kw_daemon_rig_start (f->rig);
  assert_device (f, 1, "mismatched");
  wait_for_key (f, "different", 1);
  for (guint i = 0; i < 20; i++)
    assert_decrypts (f, envelope);
  next = encrypt (f, &error);
  g_assert_no_error (error);

  /* And a wrong key that is alone is known for what it is. */
  kw_card_rig_eject (f->cards, 0, NULL);
  wait_for (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "ReadyDevices", g_variant_new_uint32 (0));
  assert_no_encryption (f);
}

/* A key that is on one card of two encrypts, unless more copies are wanted. */
static void
test_missing (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) envelope = NULL;

  make_key (f, 0);
  kw_daemon_rig_start (f->rig);
  wait_for_key (f, "missing", 1);
  envelope = encrypt (f, &error);
  g_assert_no_error (error);
  kw_daemon_rig_stop (f->rig);

  set_config (f, "min_copies = 2\n");
  kw_daemon_rig_start (f->rig);
  wait_for_key (f, "missing", 1);
  assert_no_encryption (f);
  assert_decrypts (f, envelope);
  kw_daemon_rig_stop (f->rig);
  kw_card_rig_clone (f->cards, 0, 1, KID, NULL);
  kw_daemon_rig_start (f->rig);
  wait_for_key (f, "ok", 2);
  g_clear_pointer (&envelope, g_variant_unref);
  envelope = encrypt (f, &error);
  g_assert_no_error (error);
}

/* What firmware 3.1 made is not encrypted with. */
static void
test_weak (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  static const char *const options[] = { "--version=3.1", NULL };

  make_key (f, 0);
  kw_card_rig_eject (f->cards, 1, NULL);
  kw_card_rig_set_card_options (f->cards, 0, options);
  kw_card_rig_restart_card (f->cards, 0, NULL);
  kw_daemon_rig_start (f->rig);
  wait_for (f, KEY_PATH, KW_BUS_KEY_INTERFACE, "State", g_variant_new_string ("weak"));
  assert_no_encryption (f);
}

/* What a key roll-out is: a new first key, the old one decrypts on, rewrap moves data, and the old one may go. */
static void
test_roll_out (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) envelope = NULL;
  g_autoptr (GVariant) reply = NULL;
  g_autoptr (GVariant) moved = NULL;
  g_autofree char *config = NULL;
  const char *directory = kw_daemon_rig_get_directory (f->rig);

  make_key (f, 0);
  kw_card_rig_clone (f->cards, 0, 1, KID, NULL);
  kw_daemon_rig_start (f->rig);
  wait_for_key (f, "ok", 2);
  envelope = encrypt (f, &error);
  g_assert_no_error (error);
  reply = g_dbus_connection_call_sync (f->bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE,
                                       "GenerateKey",
                                       g_variant_new ("(ssa{sv})", "aes256", "next", NULL), NULL,
                                       G_DBUS_CALL_FLAGS_NONE, -1, NULL, &error);
  g_assert_no_error (error);
  kw_daemon_rig_stop (f->rig);

  config
      = g_strdup_printf ("[logger]\nlevel = \"info\"\npath = \"%s/log\"\n[jwt]\nsecret = \"%s\"\n"
                         "[hsm]\nhsm_model = \"smartcard\"\nhsm_pin = \"%s\"\nhsm_keyid = [1, 0]\n"
                         "[state]\ndirectory = \"%s/state\"\n[server]\nport = @PORT@\n",
                         directory, KW_TEST_JWT_SECRET, KW_CARD_RIG_PIN, directory);
  kw_daemon_rig_set_config (f->rig, config);
  kw_daemon_rig_start (f->rig);
  wait_for (f, KW_BUS_KEY_PATH "1", KW_BUS_KEY_INTERFACE, "Encrypts", g_variant_new_boolean (TRUE));
  wait_for_key (f, "ok", 2);
  assert_decrypts (f, envelope);
  g_clear_pointer (&reply, g_variant_unref);
  reply = g_dbus_connection_call_sync (f->bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE,
                                       "Rewrap", g_variant_new ("(@aya{sv})", envelope, NULL),
                                       G_VARIANT_TYPE ("(aya{sv})"), G_DBUS_CALL_FLAGS_NONE, -1,
                                       NULL, &error);
  g_assert_no_error (error);
  moved = g_variant_get_child_value (reply, 0);
  kw_daemon_rig_stop (f->rig);

  /* The old key goes; what was moved is read, what was not is not. The new key has its place now. */
  for (guint i = 0; i < 2; i++)
    g_free (kw_card_rig_transmit (f->cards, i, "00E4020002CC01", NULL));
  set_config (f, "");
  kw_daemon_rig_start (f->rig);
  /* Under “0” another key is recorded: that it is the new one now is the administrator's word. */
  wait_for (f, KEY_PATH, KW_BUS_KEY_INTERFACE, "State", g_variant_new_string ("different"));
  g_clear_pointer (&reply, g_variant_unref);
  reply = g_dbus_connection_call_sync (f->bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE,
                                       "AcceptKey", g_variant_new ("(sa{sv})", "0", NULL), NULL,
                                       G_DBUS_CALL_FLAGS_NONE, -1, NULL, &error);
  g_assert_no_error (error);
  wait_for_key (f, "ok", 2);
  assert_decrypts (f, moved);
}

/* Asks for a new key; NULL with the error when there is none. */
static GVariant *
generate (Fixture *f, const char *label, GError **error)
{
  return g_dbus_connection_call_sync (f->bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE,
                                      "GenerateKey",
                                      g_variant_new ("(ssa{sv})", "aes256", label, NULL), NULL,
                                      G_DBUS_CALL_FLAGS_NONE, -1, NULL, error);
}

/* Whether a card has a key with a number. */
static gboolean
has_key (Fixture *f, guint card, guint kid)
{
  g_autofree char *list = kw_card_rig_transmit (f->cards, card, "80580000000000", NULL);
  g_autofree char *wanted = g_strdup_printf ("CC%02X", kid);
  gsize length = strlen (list);

  for (gsize i = 0; i + 4 <= length; i += 4)
    {
      if (g_ascii_strncasecmp (list + i, wanted, 4) == 0)
        return TRUE;
    }
  return FALSE;
}

/*
 * Two cards with holes among their numbers, another key on each: a new one has the same number on both, behind all others. One
 * with a label that is there, and one behind the last number, are not made.
 */
static void
test_generate (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) envelope = NULL;
  g_autoptr (GVariant) reply = NULL;

  kw_card_rig_generate_aes (f->cards, 0, 3, 256, ALGORITHMS, "test", NULL);
  kw_card_rig_clone (f->cards, 0, 1, 3, NULL);
  kw_card_rig_generate_aes (f->cards, 0, 5, 256, ALGORITHMS, "a", NULL);
  kw_card_rig_generate_aes (f->cards, 1, 9, 256, ALGORITHMS, "b", NULL);
  kw_daemon_rig_start (f->rig);
  wait_for_key (f, "ok", 2);
  envelope = encrypt (f, &error);
  g_assert_no_error (error);
  reply = generate (f, "next", &error);
  g_assert_no_error (error);
  for (guint card = 0; card < 2; card++)
    {
      g_assert_true (has_key (f, card, 10));
      g_assert_false (has_key (f, card, 6));
    }
  wait_for_key (f, "ok", 2);
  assert_decrypts (f, envelope);

  g_assert_null (generate (f, "next", &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_EXISTS);
  g_clear_error (&error);
  kw_card_rig_generate_aes (f->cards, 1, 254, 256, ALGORITHMS, "last", NULL);
  g_assert_null (generate (f, "one more", &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_FULL);
  for (guint card = 0; card < 2; card++)
    g_assert_false (has_key (f, card, 11));
  wait_for_key (f, "ok", 2);
  assert_decrypts (f, envelope);
}

/* Another key comes before the right one while the daemon runs: that is told, and what is encrypted can be read. */
static void
test_moved (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) envelope = NULL;
  g_autoptr (GVariant) advice = NULL;

  set_config (f, "check_interval = 1\n");
  for (guint card = 0; card < 2; card++)
    if (card == 0)
      kw_card_rig_generate_aes (f->cards, card, 3, 256, ALGORITHMS, "test", NULL);
    else
      kw_card_rig_clone (f->cards, 0, card, 3, NULL);
  kw_daemon_rig_start (f->rig);
  wait_for_key (f, "ok", 2);
  envelope = encrypt (f, &error);
  g_assert_no_error (error);
  for (guint card = 0; card < 2; card++)
    kw_card_rig_generate_aes (f->cards, card, 1, 256, ALGORITHMS, "other", NULL);
  wait_for_key (f, "different", 0);
  advice = get (f, KEY_PATH, KW_BUS_KEY_INTERFACE, "Advice");
  g_assert_nonnull (
      strstr (g_variant_get_string (advice, NULL), "The recorded key is at place 1 now: \"test\""));
  assert_no_encryption (f);
  for (guint i = 0; i < 10; i++)
    assert_decrypts (f, envelope);
}

/* keyward check looks at cards as it does at tokens of a module. */
static void
test_check (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *config
      = g_build_filename (kw_daemon_rig_get_directory (f->rig), "check.toml", NULL);
  g_autofree char *text
      = g_strdup_printf ("[server]\nport = %u\n[jwt]\nsecret = \"%s\"\n"
                         "[hsm]\nhsm_model = \"smartcard\"\nhsm_pin = \"%s\"\nhsm_keyid = 0\n"
                         "[state]\ndirectory = \"%s\"\n",
                         kw_test_find_free_port (), KW_TEST_JWT_SECRET, KW_CARD_RIG_PIN,
                         kw_daemon_rig_get_directory (f->rig));
  g_autofree char *output = NULL;

  g_assert_true (g_file_set_contents_full (config, text, -1, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
  kw_card_rig_set_environment (f->cards, "KEYWARD_PLUGIN_PATH", KW_TEST_PLUGIN_PATH);
  kw_card_rig_run (f->cards, &output, KW_TEST_KEYWARD, "--config", config, "check", NULL);
  g_test_message ("%s", output);
  for (guint i = 0; i < 2; i++)
    {
      g_autofree char *line = g_strdup_printf ("serial number %s, SmartCard-HSM",
                                               kw_card_rig_get_serial (f->cards, i));

      g_assert_nonnull (strstr (output, line));
    }
  g_assert_nonnull (strstr (output, "ok       pcscd          It answers and has"));
  g_assert_nonnull (
      strstr (output, "ok       pin            The PIN was not refused so far; 3 tries left"));
  g_assert_null (strstr (output, "problem  module"));
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
#define ADD(name, func) g_test_add ("/keys/" name, Fixture, NULL, set_up, func, tear_down)
  ADD ("disagreement", test_disagreement);
  ADD ("swapped", test_swapped);
  ADD ("missing", test_missing);
  ADD ("weak", test_weak);
  ADD ("roll-out", test_roll_out);
  ADD ("generate", test_generate);
  ADD ("moved", test_moved);
  ADD ("check", test_check);
  return g_test_run ();
}
