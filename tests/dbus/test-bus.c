/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-bus"

#include "kw-bus-error.h"
#include "kw-bus-names.h"
#include "kw-bus-objects.h"
#include "kw-daemon-rig.h"
#include "kw-envelope.h"
#include "kw-error.h"
#include "kw-names.h"

#include <json-glib/json-glib.h>
#include <signal.h>
#include <string.h>

/*
 * The daemon on a bus of its own, with a real SoftHSM2 token: its objects and methods, and the commands of keyward that use
 * them.
 */

#define CONFIG "[hsm]\nhsm_keyid = [\"label:first\", \"label:second\"]\nmax_plaintext = 65536\n"

typedef struct
{
  GTestDBus *dbus;
  KwDaemonRig *rig;
  GDBusConnection *bus;
} Fixture;

static void
set_up_stopped (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GError) error = NULL;

  f->dbus = g_test_dbus_new (G_TEST_DBUS_NONE);
  g_test_dbus_up (f->dbus);
  f->rig = kw_daemon_rig_new (NULL, CONFIG);
  kw_daemon_rig_set_environment (f->rig, "DBUS_SYSTEM_BUS_ADDRESS",
                                 g_test_dbus_get_bus_address (f->dbus));
  f->bus = g_dbus_connection_new_for_address_sync (
      g_test_dbus_get_bus_address (f->dbus),
      G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT
          | G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
      NULL, NULL, &error);
  g_assert_no_error (error);
  g_dbus_connection_set_exit_on_close (f->bus, FALSE);
}

static void
set_up (Fixture *f, gconstpointer data)
{
  set_up_stopped (f, data);
  kw_daemon_rig_start (f->rig);
  kw_daemon_rig_wait_for_log (f->rig, "On D-Bus");
}

static void
tear_down (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  kw_daemon_rig_free (f->rig);
  g_clear_object (&f->bus);
  g_test_dbus_down (f->dbus);
  g_object_unref (f->dbus);
}

/* How a command ended. */
typedef struct
{
  int status;
  GBytes *out;
  char *err;
} Run;

static void
run_free (Run *run)
{
  g_bytes_unref (run->out);
  g_free (run->err);
  g_free (run);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Run, run_free)

static const char *
get_text (Run *run)
{
  return g_bytes_get_data (run->out, NULL);
}

/* Runs keyward with @words, and @input on its standard input. The output ends with a NUL that is not counted. */
static Run *
run_with_input (Fixture *f, GBytes *input, const char *words)
{
  g_autoptr (GPtrArray) argv = g_ptr_array_new_with_free_func (g_free);
  g_auto (GStrv) split = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (GSubprocess) process = NULL;
  g_autoptr (GBytes) out = NULL;
  g_autoptr (GBytes) err = NULL;
  Run *run = g_new0 (Run, 1);
  GByteArray *text = g_byte_array_new ();

  g_assert_true (g_shell_parse_argv (words, NULL, &split, &error));
  g_ptr_array_add (argv, g_strdup (KW_TEST_KEYWARD));
  g_ptr_array_add (argv,
                   g_strdup_printf ("--bus-address=%s", g_test_dbus_get_bus_address (f->dbus)));
  for (guint i = 0; split[i] != NULL; i++)
    g_ptr_array_add (argv, g_strdup (split[i]));
  g_ptr_array_add (argv, NULL);
  process = g_subprocess_newv ((const char *const *) argv->pdata,
                               G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE
                                   | G_SUBPROCESS_FLAGS_STDERR_PIPE,
                               &error);
  g_assert_no_error (error);
  g_subprocess_communicate (process, input, NULL, &out, &err, &error);
  g_assert_no_error (error);
  run->status = g_subprocess_get_exit_status (process);
  run->err = g_bytes_get_size (err) > 0
                 ? g_strndup (g_bytes_get_data (err, NULL), g_bytes_get_size (err))
                 : g_strdup ("");
  g_byte_array_append (text, g_bytes_get_data (out, NULL), (guint) g_bytes_get_size (out));
  g_byte_array_append (text, (const guint8 *) "", 1);
  text->len--;
  run->out = g_byte_array_free_to_bytes (text);
  g_test_message ("keyward %s: %d", words, run->status);
  return run;
}

static Run *
run (Fixture *f, const char *words)
{
  g_autoptr (GBytes) nothing = g_bytes_new_static ("", 0);

  return run_with_input (f, nothing, words);
}

static void
assert_failed (Fixture *f, const char *words, int status, const char *message)
{
  g_autoptr (Run) result = run (f, words);
  g_autofree char *line = g_strdup_printf ("keyward: %s\n", message);

  g_assert_cmpint (result->status, ==, status);
  g_assert_cmpstr (result->err, ==, line);
  g_assert_cmpuint (g_bytes_get_size (result->out), ==, 0);
}

static void
generate (Fixture *f, const char *label)
{
  g_autofree char *words = g_strdup_printf ("keys generate --kind aes256 --label %s", label);
  g_autoptr (Run) result = run (f, words);

  g_assert_cmpint (result->status, ==, 0);
  g_assert_true (g_str_has_prefix (get_text (result), "id:"));
}

/* Waits until a property has a value, which the daemon tells by a signal. */
static void
wait_for_property (Fixture *f,
                   const char *path,
                   const char *interface,
                   const char *name,
                   GVariant *taken)
{
  g_autoptr (GVariant) wanted = g_variant_ref_sink (taken);

  for (guint i = 0; i < 500; i++)
    {
      g_autoptr (GVariant) reply
          = g_dbus_connection_call_sync (f->bus, KW_BUS_NAME, path,
                                         "org.freedesktop.DBus.Properties", "Get",
                                         g_variant_new ("(ss)", interface, name),
                                         G_VARIANT_TYPE ("(v)"), G_DBUS_CALL_FLAGS_NONE, -1, NULL,
                                         NULL);
      g_autoptr (GVariant) value = NULL;

      if (reply != NULL)
        g_variant_get (reply, "(v)", &value);
      if (value != NULL && g_variant_equal (value, wanted))
        return;
      g_usleep (20000);
    }
  g_error ("%s of %s did not become what it should", name, path);
}

static void
wait_until_ready (Fixture *f)
{
  wait_for_property (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Operational",
                     g_variant_new_boolean (TRUE));
}

static void
set_up_with_keys (Fixture *f, gconstpointer data)
{
  set_up (f, data);
  wait_until_ready (f);
  generate (f, "first");
  generate (f, "second");
  wait_for_property (f, KW_BUS_KEY_PATH "label_3afirst", KW_BUS_KEY_INTERFACE, "State",
                     g_variant_new_string ("ok"));
  wait_for_property (f, KW_BUS_KEY_PATH "label_3asecond", KW_BUS_KEY_INTERFACE, "State",
                     g_variant_new_string ("ok"));
}

static void
test_down (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  static const char *const commands[]
      = { "devices", "keys", "random 8", "test", "keys generate --kind aes256 --label x" };

  assert_failed (f, "status", 3,
                 "The daemon does not run; start it with: systemctl start keywardd");
  for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
    assert_failed (f, commands[i], 1,
                   "The daemon does not run; start it with: systemctl start keywardd");
  g_test_dbus_stop (f->dbus);
  {
    g_autoptr (Run) result = run (f, "status");

    g_assert_cmpint (result->status, ==, 3);
    g_assert_true (g_str_has_prefix (result->err, "keyward: Cannot reach D-Bus: "));
  }
}

static void
test_status (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (Run) ready = run (f, "status");
  g_autoptr (Run) json = run (f, "--json status");
  g_autoptr (JsonNode) node = json_from_string (get_text (json), NULL);
  JsonObject *object = json_node_get_object (node);
  JsonObject *device
      = json_array_get_object_element (json_object_get_array_member (object, "devices"), 0);
  JsonObject *key
      = json_array_get_object_element (json_object_get_array_member (object, "keys"), 0);
  g_auto (GStrv) lines = g_strsplit (get_text (ready), "\n", -1);

  g_assert_cmpint (ready->status, ==, 0);
  g_assert_cmpstr (ready->err, ==, "");
  g_assert_true (g_str_has_prefix (lines[0], "keywardd "));
  g_assert_true (g_str_has_suffix (lines[0], ": ready"));
  for (guint i = 0; lines[i] != NULL; i++)
    {
      g_assert_cmpint (g_utf8_strlen (lines[i], -1), <=, 80);
      g_assert_null (strchr (lines[i], '\033'));
    }
  g_assert_cmpint (json->status, ==, 0);
  g_assert_cmpstr (json_object_get_string_member (object, "state"), ==, "ready");
  g_assert_true (json_object_get_boolean_member (object, "operational"));
  g_assert_true (json_object_get_boolean_member (object, "consistent"));
  g_assert_cmpint (json_object_get_int_member (object, "ready_devices"), ==, 1);
  g_assert_cmpstr (json_object_get_string_member (device, "label"), ==, KW_TEST_TOKEN_LABEL);
  g_assert_cmpstr (json_object_get_string_member (device, "state"), ==, "ready");
  g_assert_cmpstr (json_object_get_string_member (key, "id"), ==, "label:first");
  g_assert_true (json_object_get_boolean_member (key, "encrypts"));
  g_assert_cmpint (json_object_get_int_member (key, "copies"), ==, 1);
}

/* Without its keys the daemon works, but wants attention; without its token it does not. */
static void
test_status_not_ready (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (Run) degraded = NULL;
  g_autoptr (Run) waiting = NULL;
  g_autoptr (Run) devices = NULL;

  wait_until_ready (f);
  degraded = run (f, "status");
  g_assert_cmpint (degraded->status, ==, 1);
  g_assert_nonnull (strstr (get_text (degraded), "label:first: Key label:first is on no device"));
  kw_soft_hsm_delete_token (kw_daemon_rig_get_soft_hsm (f->rig), KW_TEST_TOKEN_LABEL);
  wait_for_property (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "State",
                     g_variant_new_string ("waiting"));
  waiting = run (f, "status");
  g_assert_cmpint (waiting->status, ==, 3);
  g_assert_nonnull (strstr (get_text (waiting), ": waiting\n"));
  devices = run (f, "devices");
  g_assert_cmpstr (get_text (devices), ==, "No device is there.\n");
}

static void
test_encrypt (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GBytes) message = g_bytes_new_static ("what is\0secret\n", 15);
  g_autoptr (Run) text = run_with_input (f, message, "encrypt");
  g_autoptr (Run) binary = run_with_input (f, message, "encrypt --binary");
  g_autoptr (Run) bound = run_with_input (f, message, "encrypt --associated-data 'user 7'");
  g_autoptr (Run) from_text = NULL;
  g_autoptr (Run) from_binary = NULL;
  g_autoptr (Run) from_bound = NULL;
  g_autoptr (Run) wrong = NULL;
  g_autoptr (Run) json = NULL;
  g_autoptr (Run) plain_json = NULL;

  g_assert_cmpint (text->status, ==, 0);
  g_assert_true (g_str_has_prefix (get_text (text), KW_ENVELOPE_TEXT_PREFIX));
  g_assert_true (g_str_has_suffix (get_text (text), "\n"));
  g_assert_cmpuint (g_bytes_get_size (binary->out), ==, 15 + KW_ENVELOPE_OVERHEAD_BYTES);
  from_text = run_with_input (f, text->out, "decrypt");
  from_binary = run_with_input (f, binary->out, "decrypt -");
  from_bound = run_with_input (f, bound->out, "decrypt --associated-data 'user 7'");
  g_assert_true (g_bytes_equal (from_text->out, message));
  g_assert_true (g_bytes_equal (from_binary->out, message));
  g_assert_true (g_bytes_equal (from_bound->out, message));
  wrong = run_with_input (f, bound->out, "decrypt --associated-data 'user 8'");
  g_assert_cmpint (wrong->status, ==, 1);
  g_assert_cmpuint (g_bytes_get_size (wrong->out), ==, 0);

  json = run_with_input (f, message, "--json encrypt");
  {
    g_autoptr (JsonNode) node = json_from_string (get_text (json), NULL);
    JsonObject *object = json_node_get_object (node);
    const char *ciphertext = json_object_get_string_member (object, "ciphertext");
    g_autoptr (GBytes) bytes = g_bytes_new (ciphertext, strlen (ciphertext));

    g_assert_cmpstr (json_object_get_string_member (object, "key"), ==, "label:first");
    plain_json = run_with_input (f, bytes, "--json decrypt");
    g_assert_cmpstr (get_text (plain_json), ==,
                     "{\n  \"plaintext\" : \"d2hhdCBpcwBzZWNyZXQK\"\n}\n");
  }
}

/* The longest that is allowed goes through, one byte more does not; nor does nothing at all fail. */
static void
test_sizes (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  static const gsize sizes[] = { 0, 1, 65535, 65536 };
  g_autofree guint8 *bytes = g_malloc0 (65537);
  g_autoptr (GBytes) too_long = g_bytes_new (bytes, 65537);
  g_autoptr (Run) refused = run_with_input (f, too_long, "encrypt");

  g_assert_cmpint (refused->status, ==, 1);
  g_assert_cmpstr (refused->err, ==,
                   "keyward: The plaintext has 65537 bytes; max_plaintext allows 65536\n");
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (GBytes) message = g_bytes_new (bytes, sizes[i]);
      g_autoptr (Run) encrypted = run_with_input (f, message, "encrypt --binary");
      g_autoptr (Run) decrypted = run_with_input (f, encrypted->out, "decrypt");

      g_assert_true (g_bytes_equal (decrypted->out, message));
    }
}

/* What was encrypted under the second key is still read, and moves to the first. */
static void
test_rewrap (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GBytes) message = g_bytes_new_static ("moves", 5);
  g_autoptr (Run) under_second = NULL;
  g_autoptr (Run) decrypted = NULL;
  g_autoptr (Run) moved = NULL;
  g_autoptr (Run) again = NULL;
  g_autoptr (Run) keys = NULL;

  kw_daemon_rig_stop (f->rig);
  kw_daemon_rig_set_extra_config (f->rig,
                                  "[hsm]\nhsm_keyid = [\"label:second\", \"label:first\"]\n");
  kw_daemon_rig_start (f->rig);
  wait_for_property (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "State",
                     g_variant_new_string ("ready"));
  under_second = run_with_input (f, message, "encrypt");
  kw_daemon_rig_stop (f->rig);
  kw_daemon_rig_set_extra_config (f->rig, CONFIG);
  kw_daemon_rig_start (f->rig);
  wait_for_property (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "State",
                     g_variant_new_string ("ready"));

  decrypted = run_with_input (f, under_second->out, "--json decrypt");
  g_assert_cmpint (decrypted->status, ==, 0);
  moved = run_with_input (f, under_second->out, "rewrap");
  g_assert_cmpint (moved->status, ==, 0);
  g_assert_cmpstr (moved->err, ==, "");
  g_assert_false (g_bytes_equal (moved->out, under_second->out));
  again = run_with_input (f, moved->out, "rewrap");
  g_assert_true (g_bytes_equal (moved->out, again->out));
  g_assert_cmpstr (again->err, ==,
                   "keyward: It is under the first key already; nothing had to change\n");
  /* Both keys were used today. */
  keys = run (f, "--json keys");
  {
    g_autoptr (JsonNode) node = json_from_string (get_text (keys), NULL);
    JsonArray *array = json_node_get_array (node);

    g_assert_cmpuint (json_array_get_length (array), ==, 2);
    for (guint i = 0; i < 2; i++)
      g_assert_cmpuint (json_array_get_length (
                            json_object_get_array_member (json_array_get_object_element (array, i),
                                                          "uses")),
                        ==, 1);
  }
}

static void
test_random (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (Run) text = NULL;
  g_autoptr (Run) binary = NULL;
  g_autofree guchar *decoded = NULL;
  gsize size;

  wait_until_ready (f);
  text = run (f, "random 32");
  binary = run (f, "random 1000 --binary");
  decoded = g_base64_decode (get_text (text), &size);
  g_assert_cmpuint (size, ==, 32);
  g_assert_cmpuint (g_bytes_get_size (binary->out), ==, 1000);
  assert_failed (f, "random none", 2, "BYTES is a number, 1 or more; see keyward random --help");
  assert_failed (f, "random 0", 2, "BYTES is a number, 1 or more; see keyward random --help");
}

static void
test_bad_input (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  assert_failed (f, "keys generate --kind des --label x", 1,
                 "There is no kind of key “des”; there are aes256, rsa2048, rsa3072 and rsa4096");
  assert_failed (f, "keys generate --kind aes256", 2,
                 "--kind and --label are needed; see keyward keys generate --help");
  assert_failed (f, "--json encrypt --binary", 2,
                 "--json and --binary exclude each other; see keyward encrypt --help");
  assert_failed (f, "encrypt /nonexistent", 1,
                 "Cannot read /nonexistent: No such file or directory");
  assert_failed (f, "encrypt /", 1, "Cannot read /: Is a directory");
  {
    g_autoptr (GBytes) noise = g_bytes_new_static ("noise", 5);
    g_autoptr (Run) decrypted = run_with_input (f, noise, "decrypt");

    g_assert_cmpint (decrypted->status, ==, 1);
    g_assert_true (
        g_str_has_prefix (decrypted->err, "keyward: This is no message that Keyward encrypted"));
  }
}

static void
assert_call_fails (Fixture *f,
                   const char *path,
                   const char *interface,
                   const char *method,
                   GVariant *parameters,
                   KwError code,
                   const char *message)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_sync (f->bus, KW_BUS_NAME, path, interface, method, parameters, NULL,
                                     G_DBUS_CALL_FLAGS_NONE, -1, NULL, &error);

  g_assert_null (reply);
  g_assert_error (error, KW_ERROR, (gint) code);
  g_dbus_error_strip_remote_error (error);
  g_assert_cmpstr (error->message, ==, message);
}

static void
test_bad_options (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  GVariant *bytes = g_variant_ref_sink (g_variant_new_bytestring ("x"));
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE_VARDICT);
  g_variant_builder_add (&builder, "{sv}", "associated", g_variant_new_boolean (TRUE));
  assert_call_fails (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Encrypt",
                     g_variant_new ("(@aya{sv})", bytes, &builder), KW_ERROR_INVALID_ARGUMENT,
                     "There is no option associated; there is associated-data, key");
  g_variant_builder_init (&builder, G_VARIANT_TYPE_VARDICT);
  g_variant_builder_add (&builder, "{sv}", "associated-data", g_variant_new_string ("text"));
  assert_call_fails (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Decrypt",
                     g_variant_new ("(@aya{sv})", bytes, &builder), KW_ERROR_INVALID_ARGUMENT,
                     "The option associated-data has the type s, not ay");
  g_variant_builder_init (&builder, G_VARIANT_TYPE_VARDICT);
  g_variant_builder_add (&builder, "{sv}", "fast", g_variant_new_boolean (TRUE));
  assert_call_fails (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "RunTest",
                     g_variant_new ("(a{sv})", &builder), KW_ERROR_INVALID_ARGUMENT,
                     "There is no option fast");
  g_variant_unref (bytes);
}

static void
test_key_acceptance (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) matrix
      = g_dbus_connection_call_sync (f->bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE,
                                     "CheckConsistency", NULL, G_VARIANT_TYPE ("(a(ssss))"),
                                     G_DBUS_CALL_FLAGS_NONE, -1, NULL, &error);
  g_autoptr (GVariant) cells = NULL;
  GVariantIter iter;
  const char *state;
  GVariantBuilder builder;
  GVariant *call;

  g_assert_no_error (error);
  cells = g_variant_get_child_value (matrix, 0);
  g_assert_cmpuint (g_variant_n_children (cells), ==, 2);
  g_variant_iter_init (&iter, cells);
  while (g_variant_iter_next (&iter, "(&s&s&s&s)", NULL, NULL, &state, NULL))
    g_assert_cmpstr (state, ==, "ok");

  g_variant_builder_init (&builder, G_VARIANT_TYPE_VARDICT);
  g_variant_builder_add (&builder, "{sv}", "fingerprint", g_variant_new_boolean (TRUE));
  call = g_variant_new ("(sa{sv})", "label:first", &builder);
  assert_call_fails (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "AcceptKey", call,
                     KW_ERROR_INVALID_ARGUMENT, "The option fingerprint has the type b, not s");
  assert_call_fails (
      f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "AcceptKey",
      g_variant_new ("(sa{sv})", "label:other", NULL), KW_ERROR_KEY_NOT_FOUND,
      "There is no key label:other: neither in hsm_keyid, nor is an RSA key recorded under it");
  g_variant_builder_init (&builder, G_VARIANT_TYPE_VARDICT);
  g_variant_builder_add (&builder, "{sv}", "fingerprint", g_variant_new_string ("12"));
  assert_call_fails (f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "AcceptKey",
                     g_variant_new ("(sa{sv})", "label:first", &builder), KW_ERROR_INVALID_ARGUMENT,
                     "A fingerprint of an AES key is 32 digits in hex");
}

static void
test_accept (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (Run) accepted = run (f, "keys accept label:first");

  g_assert_cmpint (accepted->status, ==, 0);
  g_assert_cmpstr (get_text (accepted), ==,
                   "Key label:first: the key that was accepted is recorded.\n");
  assert_failed (
      f, "keys accept label:none", 1,
      "There is no key label:none: neither in hsm_keyid, nor is an RSA key recorded under it");
  assert_failed (f, "keys accept label:first --fingerprint 00", 1,
                 "A fingerprint of an AES key is 32 digits in hex");
}

static char *
dup_path (Fixture *f, const char *name)
{
  return g_build_filename (kw_daemon_rig_get_directory (f->rig), name, NULL);
}

/* One block under an RSA key, as ownCloud has them. */
static void
test_rsa (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *pem = NULL;
  g_autofree char *uuid = kw_daemon_rig_make_key (f->rig, &pem);
  g_autoptr (GBytes) plain = g_bytes_new_static ("text", 4);
  g_autoptr (GBytes) block = kw_test_encrypt (pem, plain);
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) reply = NULL;
  g_autoptr (GVariant) text = NULL;
  GVariantBuilder options;

  g_variant_builder_init (&options, G_VARIANT_TYPE_VARDICT);
  g_variant_builder_add (&options, "{sv}", "key", g_variant_new_string (uuid));
  reply = g_dbus_connection_call_sync (
      f->bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Decrypt",
      g_variant_new ("(@aya{sv})",
                     g_variant_new_from_bytes (G_VARIANT_TYPE_BYTESTRING, block, TRUE), &options),
      NULL, G_DBUS_CALL_FLAGS_NONE, -1, NULL, &error);
  g_assert_no_error (error);
  text = g_variant_get_child_value (reply, 0);
  g_assert_cmpmem (g_variant_get_data (text), g_variant_get_size (text), "text", 4);
  g_variant_builder_init (&options, G_VARIANT_TYPE_VARDICT);
  g_variant_builder_add (&options, "{sv}", "key", g_variant_new_string ("label:first"));
  assert_call_fails (
      f, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Decrypt",
      g_variant_new ("(@aya{sv})", g_variant_new_bytestring ("x"), &options),
      KW_ERROR_INVALID_ARGUMENT,
      "The option key of Decrypt is the UUID of an RSA key, without associated-data; "
      "an envelope tells its key itself");
}

/* From a file to a file, by descriptors; what fails leaves no file. */
static void
test_stream (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *plain = dup_path (f, "plain");
  g_autofree char *sealed = dup_path (f, "sealed");
  g_autofree char *opened = dup_path (f, "opened");
  g_autofree char *encrypt
      = g_strdup_printf ("encrypt --stream --key label:second --output %s %s", sealed, plain);
  g_autofree char *decrypt = g_strdup_printf ("decrypt --stream --output %s %s", opened, sealed);
  g_autofree char *wrong = g_strdup_printf ("decrypt --stream --output %s %s", opened, plain);
  g_autofree char *text = g_strnfill (200000, 'x');
  g_autofree char *back = NULL;
  g_autoptr (Run) encrypted = NULL;
  g_autoptr (Run) decrypted = NULL;
  g_autoptr (Run) from_pipe = NULL;

  wait_until_ready (f);
  g_assert_true (g_file_set_contents (plain, text, -1, NULL));
  encrypted = run (f, encrypt);
  g_assert_cmpint (encrypted->status, ==, 0);
  decrypted = run (f, decrypt);
  g_assert_cmpint (decrypted->status, ==, 0);
  g_assert_true (g_file_get_contents (opened, &back, NULL, NULL));
  g_assert_cmpstr (back, ==, text);
  assert_failed (f, wrong, 1,
                 "This is no file that Keyward encrypted: it does not begin with KWF1");
  g_assert_false (g_file_test (opened, G_FILE_TEST_EXISTS));
  assert_failed (f, "decrypt --stream /nonexistent", 1,
                 "Cannot open /nonexistent: No such file or directory");
  from_pipe = run (f, "encrypt --stream");
  g_assert_cmpint (from_pipe->status, ==, 0);
  g_assert_cmpmem (g_bytes_get_data (from_pipe->out, NULL), 4, "KWF1", 4);
}

static void
test_usage (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  assert_failed (f, "encrypt --stream --json", 2,
                 "--stream excludes --json and --binary; see keyward encrypt --help");
  assert_failed (f, "encrypt --output /tmp/x", 2,
                 "--output goes with --stream; see keyward encrypt --help");
}

static void
test_reload (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (Run) good = run (f, "reload");
  g_autoptr (Run) bad = NULL;

  g_assert_cmpint (good->status, ==, 0);
  g_assert_cmpstr (get_text (good), ==, "The configuration was read anew.\n");
  g_assert_true (
      g_file_set_contents (kw_daemon_rig_get_config_path (f->rig), "nonsense", -1, NULL));
  bad = run (f, "reload");
  g_assert_cmpint (bad->status, ==, 1);
  g_assert_nonnull (strstr (bad->err, "not valid TOML"));
}

/* The daemon does it, so the record is made by it and the act is in its audit log. */
static void
test_retry_by_command (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *serial
      = kw_soft_hsm_dup_serial (kw_daemon_rig_get_soft_hsm (f->rig), KW_TEST_TOKEN_LABEL);
  g_autofree char *words = g_strconcat ("device retry ", serial, NULL);
  g_autofree char *text
      = g_strdup_printf ("Token %s: the PIN will be presented once more.\n", serial);
  g_autofree char *audit = NULL;
  g_autoptr (Run) result = NULL;

  wait_until_ready (f);
  result = run (f, words);
  g_assert_cmpint (result->status, ==, 0);
  g_assert_cmpstr (get_text (result), ==, text);
  audit = kw_daemon_rig_dup_audit (f->rig);
  g_assert_nonnull (strstr (audit, "\"verb\":\"retry-device\",\"result\":\"ok\""));
}

static void
test_nobody_is_locked (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GBytes) pin = g_bytes_new_static ("1234\n", 5);
  g_autoptr (Run) result = NULL;

  wait_until_ready (f);
  result = run_with_input (f, pin, "unlock");
  g_assert_cmpint (result->status, ==, 1);
  g_assert_cmpstr (result->err, ==, "keyward: No device waits for a PIN\n");
}

/* Properties are there to be read. */
static void
test_properties_are_read_only (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_sync (f->bus, KW_BUS_NAME, KW_BUS_PATH,
                                     "org.freedesktop.DBus.Properties", "Set",
                                     g_variant_new ("(ssv)", KW_BUS_MANAGER_INTERFACE, "State",
                                                    g_variant_new_string ("ready")),
                                     NULL, G_DBUS_CALL_FLAGS_NONE, -1, NULL, &error);

  g_assert_null (reply);
  g_assert_error (error, G_DBUS_ERROR, G_DBUS_ERROR_INVALID_ARGS);
}

static void
test_retry (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *serial
      = kw_soft_hsm_dup_serial (kw_daemon_rig_get_soft_hsm (f->rig), KW_TEST_TOKEN_LABEL);
  g_autofree char *path = NULL;
  g_autoptr (GVariant) reply = NULL;

  wait_until_ready (f);
  path = g_strconcat (KW_BUS_DEVICE_PATH, serial, NULL);
  wait_for_property (f, path, KW_BUS_DEVICE_INTERFACE, "State", g_variant_new_string ("ready"));
  reply = g_dbus_connection_call_sync (f->bus, KW_BUS_NAME, path, KW_BUS_DEVICE_INTERFACE, "Retry",
                                       NULL, NULL, G_DBUS_CALL_FLAGS_NONE, -1, NULL, &error);
  g_assert_no_error (error);
  g_assert_nonnull (reply);
}

static void
test_test (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  static const char *const names[]
      = { "device", "random", "pin", "fingerprint", "round-trip", "dkek" };
  g_autoptr (Run) result = run (f, "test");
  g_autoptr (Run) json = run (f, "--json test");
  g_autoptr (JsonNode) node = json_from_string (get_text (json), NULL);

  g_assert_cmpint (result->status, ==, 0);
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    g_assert_nonnull (strstr (get_text (result), names[i]));
  g_assert_nonnull (strstr (get_text (result), "tests, none failed\n"));
  g_assert_cmpint (json->status, ==, 0);
  g_assert_cmpint (json_object_get_int_member (json_node_get_object (node), "failed"), ==, 0);
}

static void
test_test_fails (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (Run) result = NULL;

  wait_until_ready (f);
  result = run (f, "test");
  g_assert_cmpint (result->status, ==, 1);
  g_assert_nonnull (strstr (get_text (result), "failed   round-trip"));
  g_assert_nonnull (strstr (get_text (result), "2 of "));
}

static void
test_monitor (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *address
      = g_strdup_printf ("--bus-address=%s", g_test_dbus_get_bus_address (f->dbus));
  g_autoptr (GError) error = NULL;
  g_autoptr (GSubprocess) monitor = g_subprocess_new (G_SUBPROCESS_FLAGS_STDOUT_PIPE, &error,
                                                      KW_TEST_KEYWARD, address, "monitor", NULL);
  g_autoptr (GDataInputStream) lines
      = g_data_input_stream_new (g_subprocess_get_stdout_pipe (monitor));
  static const char *const wanted[] = { "the daemon is there", "removed", "State: waiting" };
  gboolean all_there = FALSE;
  gboolean seen[G_N_ELEMENTS (wanted)] = { FALSE };

  g_assert_no_error (error);
  while (!all_there)
    {
      g_autofree char *line = g_data_input_stream_read_line (lines, NULL, NULL, &error);

      g_assert_no_error (error);
      g_assert_nonnull (line);
      g_test_message ("%s", line);
      for (guint i = 0; i < G_N_ELEMENTS (wanted); i++)
        seen[i] = seen[i] || strstr (line, wanted[i]) != NULL;
      if (strstr (line, wanted[0]) != NULL)
        kw_soft_hsm_delete_token (kw_daemon_rig_get_soft_hsm (f->rig), KW_TEST_TOKEN_LABEL);
      all_there = seen[0] && seen[1] && seen[2];
    }
  g_subprocess_send_signal (monitor, SIGTERM);
  g_assert_true (g_subprocess_wait_check (monitor, NULL, &error));
}

static void
test_monitor_ready (Fixture *f, gconstpointer data)
{
  wait_until_ready (f);
  test_monitor (f, data);
}

/* The daemon serves without a bus, and comes to one that appears. */
static void
test_bus_comes_later (Fixture *f, G_GNUC_UNUSED gconstpointer data)
{
  g_test_dbus_stop (f->dbus);
  kw_daemon_rig_start (f->rig);
  kw_daemon_rig_wait_for_log (f->rig, "No D-Bus");
  {
    g_autofree char *id = kw_daemon_rig_make_key (f->rig, NULL);

    g_assert_nonnull (id);
  }
}

static void
test_escape (void)
{
  static const struct
  {
    const char *name;
    const char *path;
  } cases[] = {
    { "DENK0100001", "/p/DENK0100001" },
    { "label:a b", "/p/label_3aa_20b" },
    { "", "/p/_" },
    { "ü_", "/p/_c3_bc_5f" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *path = kw_bus_objects_escape ("/p/", cases[i].name);

      g_assert_cmpstr (path, ==, cases[i].path);
      g_assert_true (g_variant_is_object_path (path));
    }
}

/* Each error keeps its code on its way over the bus. */
static void
test_errors (void)
{
  kw_bus_error_register ();
  for (guint i = 0; i < KW_N_ERRORS; i++)
    {
      g_autoptr (GError) error = g_error_new (KW_ERROR, (gint) i, "text");
      g_autofree char *name = g_dbus_error_encode_gerror (error);
      g_autoptr (GError) decoded = g_dbus_error_new_for_dbus_error (name, "text");

      g_assert_true (g_str_has_prefix (name, KW_BUS_ERROR_PREFIX));
      g_assert_true (g_dbus_is_interface_name (name));
      g_assert_error (decoded, KW_ERROR, (gint) i);
    }
}

/* The daemon speaks English; whoever shows a sentence translates it. */
static void
test_language (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (Run) status = NULL;
  g_autoptr (Run) json = NULL;
  g_autofree char *before = g_strdup (g_getenv ("LC_ALL"));

  g_setenv ("LC_ALL", "C.UTF-8", TRUE);
  g_setenv ("LANGUAGE", "de", TRUE);
  g_setenv (KW_ENV_LOCALE_PATH, KW_TEST_LOCALE_DIR, TRUE);
  assert_failed (
      f, "keys accept 7", 1,
      "Es gibt keinen Schlüssel 7: weder in hsm_keyid, noch ist darunter ein RSA-Schlüssel "
      "aufgezeichnet");
  status = run (f, "status");
  g_assert_nonnull (strstr (get_text (status), ": bereit\n1 Gerät bereit\n"));
  g_assert_nonnull (strstr (get_text (status), "SERIENNR."));
  json = run (f, "--json status");
  g_assert_nonnull (strstr (get_text (json), "1 device ready"));
  g_unsetenv (KW_ENV_LOCALE_PATH);
  g_unsetenv ("LANGUAGE");
  if (before != NULL)
    g_setenv ("LC_ALL", before, TRUE);
  else
    g_unsetenv ("LC_ALL");
}

int
main (int argc, char **argv)
{
  /* Whoever runs the tests may read another language. */
  g_unsetenv ("LANGUAGE");
  g_test_init (&argc, &argv, NULL);
  kw_bus_error_register ();
#define ADD(name, up, func) g_test_add ("/bus/" name, Fixture, NULL, up, func, tear_down)
  ADD ("down", set_up_stopped, test_down);
  ADD ("status", set_up_with_keys, test_status);
  ADD ("status-not-ready", set_up, test_status_not_ready);
  ADD ("encrypt", set_up_with_keys, test_encrypt);
  ADD ("sizes", set_up_with_keys, test_sizes);
  ADD ("rewrap", set_up_with_keys, test_rewrap);
  ADD ("random", set_up, test_random);
  ADD ("bad-input", set_up_with_keys, test_bad_input);
  ADD ("bad-options", set_up, test_bad_options);
  ADD ("key-acceptance", set_up_with_keys, test_key_acceptance);
  ADD ("accept", set_up_with_keys, test_accept);
  ADD ("properties-are-read-only", set_up, test_properties_are_read_only);
  ADD ("retry", set_up, test_retry);
  ADD ("retry-by-command", set_up, test_retry_by_command);
  ADD ("rsa", set_up, test_rsa);
  ADD ("stream", set_up_with_keys, test_stream);
  ADD ("usage", set_up_stopped, test_usage);
  ADD ("reload", set_up, test_reload);
  ADD ("nobody-is-locked", set_up, test_nobody_is_locked);
  ADD ("test", set_up_with_keys, test_test);
  ADD ("test-fails", set_up, test_test_fails);
  ADD ("language", set_up_with_keys, test_language);
  ADD ("monitor", set_up, test_monitor_ready);
  ADD ("bus-comes-later", set_up_stopped, test_bus_comes_later);
  g_test_add_func ("/bus/escape", test_escape);
  g_test_add_func ("/bus/errors", test_errors);
  return g_test_run ();
}
