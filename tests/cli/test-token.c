/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-cli-token"

#include "config.h"

#include "kw-cli-rig.h"
#include "kw-config.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The commands that use a token, on SoftHSM2. */

#define PLAINTEXT "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
#define PLAINTEXT_OF_246 246
#define OTHER_USER 65533

typedef void (*RigTest) (KwCliRig *rig);

static void
run_with_rig (gconstpointer data)
{
  const RigTest *test = data;
  g_autoptr (KwCliRig) rig = NULL;

  if (kw_soft_hsm_is_missing ())
    return;
  rig = kw_cli_rig_new ();
  (*test) (rig);
}

static guint
count (const char *text, const char *part)
{
  guint n = 0;

  for (const char *p = strstr (text, part); p != NULL; p = strstr (p + 1, part))
    n++;
  return n;
}

static char *
strip (const char *text)
{
  return g_strstrip (g_strdup (text));
}

/* --- listslots ----------------------------------------------------------------------------- */

static void
test_listslots (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = kw_cli_rig_run (rig, "listslots", NULL);
  g_autofree char *serial = kw_soft_hsm_dup_serial (rig->hsm, "one");
  g_autofree char *serial_line = g_strdup_printf ("        Serial number: %s\n", serial);

  kw_cli_run_assert_silent_ok (run);
  g_assert_true (g_regex_match_simple (
      "^Available slots:\nSlot: \\d+,\n    Slot info:\n        Description: .*\n", run->out, 0, 0));
  g_assert_cmpuint (count (run->out, "Slot:"), ==, 2);
  g_assert_cmpuint (count (run->out, "\n    Token info:\n        Manufacturer ID: "), ==, 2);
  g_assert_nonnull (strstr (run->out, "        Label: one\n"));
  g_assert_nonnull (strstr (run->out, serial_line));
  g_assert_nonnull (strstr (run->out, "CKF_TOKEN_INITIALIZED"));
}

static void
test_listslots_json (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = kw_cli_rig_run (rig, "--json", "listslots", NULL);
  g_autoptr (JsonNode) node = NULL;
  JsonObject *root = NULL;
  JsonObject *slot = NULL;

  kw_cli_run_assert_silent_ok (run);
  node = kw_cli_run_parse (run);
  root = json_node_get_object (node);
  g_assert_cmpstr (json_object_get_string_member (root, "module"), ==, kw_soft_hsm_find_module ());
  g_assert_cmpuint (json_array_get_length (json_object_get_array_member (root, "slots")), ==, 2);
  slot = json_array_get_object_element (json_object_get_array_member (root, "slots"), 0);
  g_assert_cmpint (json_object_get_int_member (slot, "slot"), >, 0);
  g_assert_cmpstr (json_object_get_string_member (json_object_get_object_member (slot,
                                                                                 "token_info"),
                                                  "Label"),
                   ==, "one");
  g_assert_true (
      json_object_has_member (json_object_get_object_member (slot, "slot_info"), "Description"));
}

static void
test_listslots_without_config (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = NULL;

  if (kw_config_find_file () != NULL)
    {
      g_test_skip ("this machine has a configuration");
      return;
    }
  run = kw_cli_rig_run (NULL, "listslots", NULL);
  kw_cli_run_assert_ok (run);
  g_assert_true (g_str_has_prefix (run->out, "Available slots:\nSlot: "));
  g_assert_true (g_str_has_prefix (run->err, "keyward: No module is configured; used "));
  g_assert_cmpuint (count (run->err, "\n"), ==, 1);
}

static void
test_listslots_with_module_option (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run
      = kw_cli_rig_run (NULL, "listslots", "--module", kw_soft_hsm_find_module (), NULL);

  kw_cli_run_assert_ok (run);
  g_assert_nonnull (strstr (run->out, "        Label: one\n"));
  g_assert_null (strstr (run->err, "No module is configured"));
}

static void
test_listslots_with_unreadable_config (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = NULL;

  /* A folder cannot be read as a file, not by root either. */
  g_assert_cmpint (g_remove (rig->config), ==, 0);
  g_assert_cmpint (g_mkdir (rig->config, 0700), ==, 0);
  run = kw_cli_rig_run (rig, "listslots", "--module", kw_soft_hsm_find_module (), NULL);
  kw_cli_run_assert_ok (run);
  g_assert_nonnull (strstr (run->out, "        Label: one\n"));
  g_assert_true (g_str_has_prefix (run->err, "keyward: Warning: Cannot read "));
  g_assert_cmpuint (count (run->err, "\n"), ==, 1);
}

static void
test_listslots_with_open_config (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = NULL;

  g_assert_cmpint (g_chmod (rig->config, 0644), ==, 0);
  run = kw_cli_rig_run (rig, "listslots", NULL);
  kw_cli_run_assert_ok (run);
  g_assert_nonnull (strstr (run->out, "        Label: one\n"));
  g_assert_nonnull (strstr (run->err, "holds a secret but its mode is 0644"));
  g_assert_null (strstr (run->err, "No module is configured"));
}

static void
test_listslots_with_bad_module (KwCliRig *rig)
{
  g_autofree char *path = kw_cli_rig_dup_path (rig, "no-module.so");
  g_autoptr (KwCliRun) missing = kw_cli_rig_run (rig, "listslots", "--module", path, NULL);
  g_autoptr (KwCliRun) broken = NULL;
  g_autoptr (KwCliRun) with_problem = NULL;

  kw_cli_run_assert_failed (missing, 1, "no-module.so");
  kw_cli_rig_write (path, "no module at all", 0644);
  broken = kw_cli_rig_run (rig, "listslots", "--module", path, NULL);
  kw_cli_run_assert_failed (broken, 1, "cannot be loaded");
  g_assert_cmpint (g_chmod (rig->config, 0644), ==, 0);
  with_problem = kw_cli_rig_run (rig, "listslots", "--module", path, NULL);
  kw_cli_run_assert_failed (with_problem, 1, "; and then: ");
}

static void
test_listslots_into_full_disk (KwCliRig *rig)
{
  g_autoptr (GSubprocessLauncher) launcher
      = kw_cli_rig_new_launcher (G_SUBPROCESS_FLAGS_STDERR_PIPE);
  g_autoptr (KwCliRun) run = NULL;

  g_subprocess_launcher_take_stdout_fd (launcher, open ("/dev/full", O_WRONLY | O_CLOEXEC));
  run = kw_cli_rig_run_by (launcher, NULL, "keyward", "--config", rig->config, "listslots", NULL);
  kw_cli_run_assert_failed (run, 1, "Cannot write the result: No space left on device");
}

static void
test_no_plugin (KwCliRig *rig)
{
  g_autoptr (GSubprocessLauncher) launcher
      = kw_cli_rig_new_launcher (G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
  g_autoptr (KwCliRun) slots = NULL;
  g_autoptr (KwCliRun) key = NULL;

  g_subprocess_launcher_setenv (launcher, "KEYWARD_PLUGIN_PATH", rig->state, TRUE);
  slots = kw_cli_rig_run_by (launcher, NULL, "keyward", "--config", rig->config, "listslots", NULL);
  kw_cli_run_assert_failed (slots, 1, "No back end is installed");
  key = kw_cli_rig_run_by (launcher, NULL, "keyward", "--config", rig->config, "genkey", "a", NULL);
  kw_cli_run_assert_failed (key, 1, "No back end is installed");
}

/* --- genkey and showkey -------------------------------------------------------------------- */

static void
test_genkey (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = kw_cli_rig_run (rig, "genkey", "my key, ä", NULL);
  g_autoptr (KwCliRun) shown = NULL;
  g_autoptr (KwCliRun) upper = NULL;
  g_autofree char *id = NULL;
  g_autofree char *upper_id = NULL;
  g_autofree char *keys_path = g_build_filename (rig->state, "keys.state", NULL);
  g_autofree char *audit_path = g_build_filename (rig->state, "audit.log", NULL);
  g_autofree char *keys = NULL;
  g_autofree char *audit = NULL;
  g_autofree char *expected = NULL;

  kw_cli_run_assert_silent_ok (run);
  g_assert_true (g_regex_match_simple (
      "^Id: [0-9a-f]{8}-[0-9a-f]{4}-1[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}, label: my key, ä\n\n"
      "-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/=]+\n)+-----END PUBLIC KEY-----\n$",
      run->out, 0, 0));
  id = g_strndup (run->out + strlen ("Id: "), 36);

  shown = kw_cli_rig_run (rig, "showkey", id, NULL);
  kw_cli_run_assert_silent_ok (shown);
  g_assert_cmpstr (shown->out, ==, run->out);
  upper_id = g_ascii_strup (id, -1);
  upper = kw_cli_rig_run (rig, "showkey", upper_id, NULL);
  kw_cli_run_assert_silent_ok (upper);
  g_assert_cmpstr (upper->out, ==, run->out);

  keys = kw_cli_rig_read (keys_path);
  expected = g_strdup_printf ("rsa-%s=", id);
  g_assert_nonnull (strstr (keys, expected));
  audit = kw_cli_rig_read (audit_path);
  g_assert_cmpuint (count (audit, "\n"), ==, 1);
  g_free (expected);
  expected = g_strdup_printf ("\"verb\":\"generate-rsa\",\"key\":\"%s\",\"result\":\"ok\"", id);
  g_assert_nonnull (strstr (audit, expected));
  g_free (expected);
  expected = g_strdup_printf (",\"uid\":%u}", (guint) getuid ());
  g_assert_nonnull (strstr (audit, expected));
}

static void
test_genkey_json_and_bits (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run
      = kw_cli_rig_run (rig, "genkey", "--bits", "3072", "--json", "--", "--label", NULL);
  g_autoptr (KwCliRun) shown = NULL;
  g_autoptr (JsonNode) node = NULL;
  JsonObject *key = NULL;

  kw_cli_run_assert_silent_ok (run);
  node = kw_cli_run_parse (run);
  key = json_node_get_object (node);
  g_assert_cmpstr (json_object_get_string_member (key, "label"), ==, "--label");
  g_assert_cmpint (json_object_get_int_member (key, "bits"), ==, 3072);
  g_assert_cmpuint (strlen (json_object_get_string_member (key, "fingerprint")), ==, 64);
  g_assert_true (g_str_has_prefix (json_object_get_string_member (key, "public_key"),
                                   "-----BEGIN PUBLIC KEY-----\n"));
  shown
      = kw_cli_rig_run (rig, "--json", "showkey", json_object_get_string_member (key, "id"), NULL);
  kw_cli_run_assert_silent_ok (shown);
  g_assert_cmpstr (shown->out, ==, run->out);
}

static void
test_unknown_key (KwCliRig *rig)
{
  g_autoptr (KwCliRun) shown = kw_cli_rig_run (rig, "showkey", KW_CLI_UNKNOWN_ID, NULL);
  g_autoptr (KwCliRun) encrypted
      = kw_cli_rig_run (rig, "encrypt", KW_CLI_UNKNOWN_ID, PLAINTEXT, NULL);
  g_autoptr (KwCliRun) decrypted
      = kw_cli_rig_run (rig, "decrypt", KW_CLI_UNKNOWN_ID, PLAINTEXT, NULL);
  g_autofree char *audit_path = g_build_filename (rig->state, "audit.log", NULL);
  g_autofree char *audit = kw_cli_rig_read (audit_path);

  kw_cli_run_assert_failed (shown, 1, "Token one has no such rsa key");
  kw_cli_run_assert_failed (encrypted, 1, "Token one has no such rsa key");
  kw_cli_run_assert_failed (decrypted, 1, "Token one has no such rsa key");
  g_assert_cmpuint (count (audit, "\n"), ==, 1);
  g_assert_nonnull (strstr (audit, "\"result\":\"key-not-found\""));
}

/* What the administrator set up for the daemon must not get between a result and its reader. */
static void
test_log_stays_out_of_stdout (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = NULL;

  kw_cli_rig_configure (rig, kw_soft_hsm_find_module (), "pin = \"" KW_TEST_PIN "\"",
                        "[logger]\nlevel = \"debug\"\npath = \"stdout\"\n");
  run = kw_cli_rig_run (rig, "genkey", "quiet", "--verbose", NULL);
  kw_cli_run_assert_ok (run);
  g_assert_true (
      g_regex_match_simple ("^Id: [-0-9a-f]{36}, label: quiet\n\n-----BEGIN PUBLIC KEY-----\n"
                            "([A-Za-z0-9+/=]+\n)+-----END PUBLIC KEY-----\n$",
                            run->out, 0, 0));
  g_assert_cmpstr (run->err, !=, "");
}

/* --- encrypt and decrypt ------------------------------------------------------------------- */

static void
test_round_trip (KwCliRig *rig)
{
  g_autofree char *id = kw_cli_rig_generate (rig);
  g_autoptr (KwCliRun) encrypted = kw_cli_rig_run (rig, "encrypt", id, PLAINTEXT, NULL);
  g_autoptr (KwCliRun) again
      = kw_cli_rig_run_with_input (rig, PLAINTEXT "\n", "encrypt", id, "-", NULL);
  g_autoptr (KwCliRun) decrypted = NULL;
  g_autoptr (KwCliRun) decrypted_again = NULL;
  g_autofree char *ciphertext = strip (encrypted->out);
  g_autofree char *audit_path = g_build_filename (rig->state, "audit.log", NULL);
  g_autofree char *audit = NULL;

  kw_cli_run_assert_silent_ok (encrypted);
  kw_cli_run_assert_silent_ok (again);
  g_assert_cmpuint (count (encrypted->out, "\n"), ==, 1);
  g_assert_cmpuint (strlen (ciphertext), ==, 344);
  g_assert_cmpstr (encrypted->out, !=, again->out);

  decrypted = kw_cli_rig_run (rig, "decrypt", id, ciphertext, NULL);
  kw_cli_run_assert_silent_ok (decrypted);
  g_assert_cmpstr (decrypted->out, ==, PLAINTEXT "\n");
  decrypted_again = kw_cli_rig_run_with_input (rig, again->out, "decrypt", id, "-", NULL);
  kw_cli_run_assert_silent_ok (decrypted_again);
  g_assert_cmpstr (decrypted_again->out, ==, PLAINTEXT "\n");

  audit = kw_cli_rig_read (audit_path);
  g_assert_cmpuint (count (audit, "\"verb\":\"rsa-decrypt\""), ==, 2);
  g_assert_cmpuint (count (audit, "\"result\":\"ok\""), ==, 3);
  g_assert_null (strstr (audit, PLAINTEXT));
  g_assert_false (kw_cli_rig_tree_contains (rig->state, KW_TEST_PIN));
}

static void
test_round_trip_json (KwCliRig *rig)
{
  g_autofree char *id = kw_cli_rig_generate (rig);
  g_autoptr (KwCliRun) encrypted = kw_cli_rig_run (rig, "--json", "encrypt", id, PLAINTEXT, NULL);
  g_autoptr (JsonNode) encrypted_node = kw_cli_run_parse (encrypted);
  const char *ciphertext
      = json_object_get_string_member (json_node_get_object (encrypted_node), "ciphertext");
  g_autoptr (KwCliRun) decrypted = kw_cli_rig_run (rig, "--json", "decrypt", id, ciphertext, NULL);
  g_autoptr (JsonNode) decrypted_node = kw_cli_run_parse (decrypted);

  kw_cli_run_assert_silent_ok (encrypted);
  kw_cli_run_assert_silent_ok (decrypted);
  g_assert_cmpstr (json_object_get_string_member (json_node_get_object (decrypted_node),
                                                  "plaintext"),
                   ==, PLAINTEXT);
}

static void
test_longest_plaintext (KwCliRig *rig)
{
  g_autofree char *id = kw_cli_rig_generate (rig);
  guint8 bytes[PLAINTEXT_OF_246] = { 0 };
  g_autofree char *too_long = g_base64_encode (bytes, sizeof bytes);
  g_autofree char *longest = g_base64_encode (bytes, sizeof bytes - 1);
  g_autoptr (KwCliRun) refused = kw_cli_rig_run (rig, "encrypt", id, too_long, NULL);
  g_autoptr (KwCliRun) encrypted = kw_cli_rig_run (rig, "encrypt", id, longest, NULL);
  g_autoptr (KwCliRun) decrypted
      = kw_cli_rig_run_with_input (rig, encrypted->out, "decrypt", id, "-", NULL);
  g_autofree char *plaintext = strip (decrypted->out);

  kw_cli_run_assert_failed (refused, 1,
                            "246 bytes are too long for a key of 2048 bits: at most 245 fit");
  kw_cli_run_assert_silent_ok (encrypted);
  kw_cli_run_assert_silent_ok (decrypted);
  g_assert_cmpstr (plaintext, ==, longest);
}

static void
test_bad_input (KwCliRig *rig)
{
  g_autofree char *id = kw_cli_rig_generate (rig);
  g_autofree char *huge = g_strnfill (64 * 1024 + 1, 'A');
  g_autoptr (KwCliRun) letters = kw_cli_rig_run (rig, "encrypt", id, "!!!!", NULL);
  g_autoptr (KwCliRun) short_one = kw_cli_rig_run (rig, "decrypt", id, "AAA", NULL);
  g_autoptr (KwCliRun) empty = kw_cli_rig_run_with_input (rig, "", "encrypt", id, "-", NULL);
  g_autoptr (KwCliRun) too_much = kw_cli_rig_run_with_input (rig, huge, "decrypt", id, "-", NULL);

  kw_cli_run_assert_failed (letters, 1, "The input is not base64");
  kw_cli_run_assert_failed (short_one, 1, "The input is not base64");
  kw_cli_run_assert_failed (empty, 1, "The input is empty");
  kw_cli_run_assert_failed (too_much, 1, "The input is longer than 65536 bytes");
}

static void
test_unreadable_input (KwCliRig *rig)
{
  g_autoptr (GSubprocessLauncher) launcher
      = kw_cli_rig_new_launcher (G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
  g_autoptr (KwCliRun) run = NULL;

  g_subprocess_launcher_take_stdin_fd (launcher, open (rig->directory, O_RDONLY | O_CLOEXEC));
  run = kw_cli_rig_run_by (launcher, NULL, "hsmdaemon", "--config", rig->config, "encrypt",
                           KW_CLI_UNKNOWN_ID, "-", NULL);
  kw_cli_run_assert_failed (run, 1, "Cannot read standard input: Is a directory");
}

static void
test_bad_ciphertext (KwCliRig *rig)
{
  g_autofree char *id = kw_cli_rig_generate (rig);
  guint8 bytes[256] = { 0, 1 };
  g_autofree char *damaged = g_base64_encode (bytes, sizeof bytes);
  g_autoptr (KwCliRun) wrong_length = kw_cli_rig_run (rig, "decrypt", id, "AAAA", NULL);
  g_autoptr (KwCliRun) wrong_padding = kw_cli_rig_run (rig, "decrypt", id, damaged, NULL);
  g_autofree char *audit_path = g_build_filename (rig->state, "audit.log", NULL);
  g_autofree char *audit = kw_cli_rig_read (audit_path);

  kw_cli_run_assert_failed (wrong_length, 1, "cannot be decrypted");
  kw_cli_run_assert_failed (wrong_padding, 1, "cannot be decrypted");
  g_assert_cmpstr (wrong_length->err, ==, wrong_padding->err);
  g_assert_cmpuint (count (audit, "\"result\":\"decrypt-failed\""), ==, 2);
}

/* --- the record of keys -------------------------------------------------------------------- */

/* Makes the record of a key that of another. */
static void
forge_record (KwCliRig *rig, const char *id)
{
  g_autofree char *path = g_build_filename (rig->state, "keys.state", NULL);
  g_autofree char *text = kw_cli_rig_read (path);
  g_autofree char *name = g_strdup_printf ("rsa-%s=", id);
  char *value = strstr (text, name);

  g_assert_nonnull (value);
  value += strlen (name);
  *value = *value == '0' ? '1' : '0';
  kw_cli_rig_write (path, text, 0600);
}

static void
test_mismatched_key (KwCliRig *rig)
{
  g_autofree char *id = kw_cli_rig_generate (rig);
  g_autofree char *upper_id = g_ascii_strup (id, -1);
  g_autofree char *audit_path = g_build_filename (rig->state, "audit.log", NULL);
  g_autofree char *audit = NULL;
  g_autofree char *advice = g_strdup_printf ("run: keyward keys accept %s", id);
  g_autoptr (KwCliRun) encrypted = NULL;
  g_autoptr (KwCliRun) decrypted = NULL;
  g_autoptr (KwCliRun) accepted = NULL;
  g_autoptr (KwCliRun) again = NULL;
  g_autoptr (KwCliRun) encrypted_again = NULL;

  forge_record (rig, id);
  encrypted = kw_cli_rig_run (rig, "encrypt", id, PLAINTEXT, NULL);
  kw_cli_run_assert_failed (encrypted, 1, "is not the one recorded under this id");
  g_assert_nonnull (strstr (encrypted->err, advice));
  decrypted = kw_cli_rig_run (rig, "decrypt", id, PLAINTEXT, NULL);
  kw_cli_run_assert_failed (decrypted, 1, "is not the one recorded under this id");
  audit = kw_cli_rig_read (audit_path);
  g_assert_nonnull (strstr (audit, "\"result\":\"key-mismatch\""));

  accepted = kw_cli_rig_run (rig, "keys", "accept", upper_id, NULL);
  kw_cli_run_assert_silent_ok (accepted);
  g_assert_nonnull (strstr (accepted->out, id));
  again = kw_cli_rig_run (rig, "keys", "accept", id, NULL);
  kw_cli_run_assert_failed (again, 1, "No fingerprint of a key");
  encrypted_again = kw_cli_rig_run (rig, "encrypt", id, PLAINTEXT, NULL);
  kw_cli_run_assert_silent_ok (encrypted_again);
}

static void
test_keys_accept_json (KwCliRig *rig)
{
  g_autofree char *id = kw_cli_rig_generate (rig);
  g_autoptr (KwCliRun) run = kw_cli_rig_run (rig, "keys", "accept", id, "--json", NULL);
  g_autoptr (JsonNode) node = kw_cli_run_parse (run);

  kw_cli_run_assert_silent_ok (run);
  g_assert_cmpstr (json_object_get_string_member (json_node_get_object (node), "id"), ==, id);
  g_assert_true (json_object_get_boolean_member (json_node_get_object (node), "forgotten"));
}

static void
test_damaged_record (KwCliRig *rig)
{
  g_autofree char *path = g_build_filename (rig->state, "keys.state", NULL);
  g_autoptr (KwCliRun) shown = NULL;
  g_autoptr (KwCliRun) accepted = NULL;

  kw_cli_rig_write (path, "no key file\n", 0600);
  shown = kw_cli_rig_run (rig, "showkey", KW_CLI_UNKNOWN_ID, NULL);
  kw_cli_run_assert_failed (shown, 1, "Cannot read the state file");
  accepted = kw_cli_rig_run (rig, "keys", "accept", KW_CLI_UNKNOWN_ID, NULL);
  kw_cli_run_assert_failed (accepted, 1, "Cannot read the state file");
}

static void
test_no_audit_no_use (KwCliRig *rig)
{
  g_autofree char *id = kw_cli_rig_generate (rig);
  g_autoptr (KwCliRun) decrypted = NULL;
  g_autoptr (KwCliRun) generated = NULL;

  kw_cli_rig_configure (rig, kw_shim_get_module_path (), "pin = \"" KW_TEST_PIN "\"",
                        "[audit]\npath = \"/nonexistent/audit.log\"\n");
  decrypted = kw_cli_rig_run (rig, "decrypt", id, PLAINTEXT, NULL);
  kw_cli_run_assert_failed (decrypted, 1, "Cannot open the audit log /nonexistent/audit.log");
  generated = kw_cli_rig_run (rig, "genkey", "unseen", NULL);
  kw_cli_run_assert_failed (generated, 1, "Cannot open the audit log /nonexistent/audit.log");
  g_assert_cmpuint (kw_shim_get_calls (rig->shim, KW_SHIM_C_DecryptInit), ==, 0);
  g_assert_cmpuint (kw_shim_get_calls (rig->shim, KW_SHIM_C_GenerateKeyPair), ==, 0);
}

static void
test_failing_token (KwCliRig *rig)
{
  g_autofree char *audit_path = g_build_filename (rig->state, "audit.log", NULL);
  g_autofree char *audit = NULL;
  g_autoptr (KwCliRun) run = NULL;

  kw_cli_rig_configure (rig, kw_shim_get_module_path (), "pin = \"" KW_TEST_PIN "\"", NULL);
  kw_shim_fail (rig->shim, KW_SHIM_C_GenerateKeyPair, 0x31 /* CKR_DEVICE_MEMORY */, KW_SHIM_ALWAYS);
  run = kw_cli_rig_run (rig, "genkey", "too much", NULL);
  kw_cli_run_assert_failed (run, 1, "CKR_DEVICE_MEMORY");
  audit = kw_cli_rig_read (audit_path);
  g_assert_nonnull (strstr (audit, "\"verb\":\"generate-rsa\",\"key\":\""));
  g_assert_nonnull (strstr (audit, "\"result\":\"token-full\""));
}

/* --- configuration and choice of token ----------------------------------------------------- */

static void
test_bad_config (KwCliRig *rig)
{
  g_autoptr (KwCliRun) open_file = NULL;
  g_autoptr (KwCliRun) unknown_key = NULL;
  g_autoptr (KwCliRun) missing = NULL;
  g_autofree char *line
      = g_strdup_printf ("%s:2: unknown key \"pinn\" in table [pkcs11]; did you mean \"pin\"?",
                         rig->config);

  g_assert_cmpint (g_chmod (rig->config, 0640), ==, 0);
  if (geteuid () == 0)
    g_assert_cmpint (chown (rig->config, 0, 4711), ==, 0);
  open_file = kw_cli_rig_run (rig, "genkey", "a", NULL);
  kw_cli_run_assert_failed (
      open_file, 1,
      "holds a secret but its mode is 0640, so others can get at it; run: chmod 0600 ");
  kw_cli_rig_write (rig->config, "[pkcs11]\npinn = \"1\"\n", 0600);
  unknown_key = kw_cli_rig_run (rig, "genkey", "a", NULL);
  kw_cli_run_assert_failed (unknown_key, 1, line);
  g_remove (rig->config);
  missing = kw_cli_rig_run (rig, "genkey", "a", NULL);
  kw_cli_run_assert_failed (missing, 1, "No such file or directory");
}

static void
test_config_errors_everywhere (KwCliRig *rig)
{
  g_autoptr (KwCliRun) retry = NULL;
  g_autoptr (KwCliRun) accept = NULL;

  g_remove (rig->config);
  retry = kw_cli_rig_run (rig, "device", "retry", NULL);
  kw_cli_run_assert_failed (retry, 1, "No such file or directory");
  accept = kw_cli_rig_run (rig, "keys", "accept", KW_CLI_UNKNOWN_ID, NULL);
  kw_cli_run_assert_failed (accept, 1, "No such file or directory");
}

static void
test_ambiguous_token (KwCliRig *rig)
{
  g_autofree char *serial = kw_soft_hsm_dup_serial (rig->hsm, "one");
  g_autofree char *by_serial
      = g_strdup_printf ("token_serial = \"%s\"\npin = \"" KW_TEST_PIN "\"", serial);
  g_autoptr (KwCliRun) ambiguous = NULL;
  g_autoptr (KwCliRun) chosen = NULL;
  g_autoptr (KwCliRun) absent = NULL;

  kw_soft_hsm_add_token (rig->hsm, "two", KW_TEST_SO_PIN, "other-pin");
  ambiguous = kw_cli_rig_run (rig, "genkey", "a", NULL);
  kw_cli_run_assert_failed (ambiguous, 1, "2 tokens fit");
  g_assert_nonnull (strstr (ambiguous->err, "label \"one\""));
  g_assert_nonnull (strstr (ambiguous->err, "label \"two\""));
  kw_cli_rig_configure (rig, kw_soft_hsm_find_module (), by_serial, NULL);
  chosen = kw_cli_rig_run (rig, "genkey", "a", NULL);
  kw_cli_run_assert_silent_ok (chosen);
  kw_cli_rig_configure (rig, kw_soft_hsm_find_module (), "token_label = \"three\"", NULL);
  absent = kw_cli_rig_run (rig, "genkey", "a", NULL);
  kw_cli_run_assert_failed (absent, 1, "No initialised token fits token_label \"three\"");
  g_assert_nonnull (strstr (absent->err, "label \"one\""));
}

static void
test_no_token (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = NULL;
  g_autoptr (KwCliRun) guessed = NULL;

  kw_soft_hsm_delete_token (rig->hsm, "one");
  run = kw_cli_rig_run (rig, "showkey", KW_CLI_UNKNOWN_ID, NULL);
  kw_cli_run_assert_failed (run, 1, "No initialised token is there");
  if (kw_config_find_file () != NULL)
    return;
  guessed = kw_cli_rig_run (NULL, "showkey", KW_CLI_UNKNOWN_ID, NULL);
  kw_cli_run_assert_failed (guessed, 1,
                            "(no [pkcs11] module is configured): No initialised token is there");
}

static void
test_hsmdaemon_toml (KwCliRig *rig)
{
  g_autoptr (KwCliRun) slots = kw_cli_rig_run (rig, "--json", "listslots", NULL);
  g_autoptr (JsonNode) node = kw_cli_run_parse (slots);
  JsonArray *array = json_object_get_array_member (json_node_get_object (node), "slots");
  gint64 slot = json_object_get_int_member (json_array_get_object_element (array, 0), "slot");
  g_autofree char *log = kw_cli_rig_dup_path (rig, "hsmdaemon.log");
  g_autofree char *text
      = g_strdup_printf ("[logger]\n# Valid log levels are panic, fatal, error, warn, info, debug\n"
                         "level = \"debug\"\n# Valid values are stderr, stdout or a path\n"
                         "path = \"%s\"\n# json or console\nencoding = \"json\"\n\n"
                         "[server]\nhostname = \"localhost\"\nport = 8513\n\n"
                         "[jwt]\nsecret = \"7a5900bf-a36b-4a5f-9a4e-0cd5d7a1f8c2\"\n\n"
                         "[pkcs11]\nmodule = \"%s\"\npin = \"" KW_TEST_PIN "\"\n"
                         "slot = %" G_GINT64_FORMAT "\n\n"
                         /* Ours: where a test may write. */
                         "[state]\ndirectory = \"%s\"\n",
                         log, kw_soft_hsm_find_module (), slot, rig->state);
  g_autofree char *id = NULL;

  kw_cli_rig_write (rig->config, text, 0600);
  id = kw_cli_rig_generate (rig);
  g_assert_nonnull (id);
}

/* --- files made by root -------------------------------------------------------------------- */

static void
test_root_hands_files_over (KwCliRig *rig)
{
  static const char *const names[] = { ".lock", "audit.log", "keys.state", "pins.state" };
  g_autofree char *id = NULL;

  if (geteuid () != 0)
    {
      g_test_skip ("only root makes files for others");
      return;
    }
  g_assert_cmpint (chown (rig->state, OTHER_USER, OTHER_USER), ==, 0);
  id = kw_cli_rig_generate (rig);
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autofree char *path = g_build_filename (rig->state, names[i], NULL);
      struct stat info;

      g_assert_cmpint (lstat (path, &info), ==, 0);
      g_assert_cmpuint (info.st_uid, ==, OTHER_USER);
      g_assert_cmpuint (info.st_gid, ==, OTHER_USER);
    }
}

/* One of root's files that was linked into the folder stays root's. */
static void
test_root_keeps_linked_files (KwCliRig *rig)
{
  g_autofree char *victim = kw_cli_rig_dup_path (rig, "victim");
  g_autofree char *lock = g_build_filename (rig->state, ".lock", NULL);
  g_autofree char *id = NULL;
  struct stat info;

  if (geteuid () != 0)
    {
      g_test_skip ("only root makes files for others");
      return;
    }
  g_file_set_contents (victim, "x", 1, NULL);
  g_assert_cmpint (chown (victim, 0, 0), ==, 0);
  g_assert_cmpint (link (victim, lock), ==, 0);
  g_assert_cmpint (chown (rig->state, OTHER_USER, OTHER_USER), ==, 0);
  id = kw_cli_rig_generate (rig);
  g_assert_cmpint (stat (victim, &info), ==, 0);
  g_assert_cmpuint (info.st_uid, ==, 0);
}

typedef struct
{
  const char *path;
  RigTest test;
} NamedTest;

static const NamedTest tests[] = {
  { "/listslots/text", test_listslots },
  { "/listslots/json", test_listslots_json },
  { "/listslots/without-config", test_listslots_without_config },
  { "/listslots/module-option", test_listslots_with_module_option },
  { "/listslots/unreadable-config", test_listslots_with_unreadable_config },
  { "/listslots/open-config", test_listslots_with_open_config },
  { "/listslots/bad-module", test_listslots_with_bad_module },
  { "/listslots/full-disk", test_listslots_into_full_disk },
  { "/plugins/none", test_no_plugin },
  { "/key/generate-and-show", test_genkey },
  { "/key/json-and-bits", test_genkey_json_and_bits },
  { "/key/unknown", test_unknown_key },
  { "/key/log-stays-out-of-stdout", test_log_stays_out_of_stdout },
  { "/crypt/round-trip", test_round_trip },
  { "/crypt/round-trip-json", test_round_trip_json },
  { "/crypt/longest-plaintext", test_longest_plaintext },
  { "/crypt/bad-input", test_bad_input },
  { "/crypt/unreadable-input", test_unreadable_input },
  { "/crypt/bad-ciphertext", test_bad_ciphertext },
  { "/record/mismatch", test_mismatched_key },
  { "/record/accept-json", test_keys_accept_json },
  { "/record/damaged", test_damaged_record },
  { "/audit/no-audit-no-use", test_no_audit_no_use },
  { "/audit/failure", test_failing_token },
  { "/config/bad", test_bad_config },
  { "/config/bad-everywhere", test_config_errors_everywhere },
  { "/config/hsmdaemon-toml", test_hsmdaemon_toml },
  { "/token/ambiguous", test_ambiguous_token },
  { "/token/none", test_no_token },
  { "/as-root/hands-files-over", test_root_hands_files_over },
  { "/as-root/keeps-linked-files", test_root_keeps_linked_files },
};

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (tests); i++)
    g_test_add_data_func (tests[i].path, &tests[i].test, run_with_rig);
  return g_test_run ();
}
