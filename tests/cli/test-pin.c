/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-cli-pin"

#include "config.h"

#include "kw-cli-rig.h"

#include <glib/gstdio.h>
#include <string.h>

/* The PIN: where it comes from, and that a wrong one is presented exactly once. Behind the shim, which counts logins. */

#define CKF_USER_PIN_COUNT_LOW 0x00010000
#define CKF_USER_PIN_FINAL_TRY 0x00020000
#define CKF_USER_PIN_LOCKED 0x00040000
#define WRONG_PIN "0815-pin"

typedef void (*RigTest) (KwCliRig *rig);

static void
configure_pin (KwCliRig *rig, const char *pin)
{
  g_autofree char *line = pin != NULL ? g_strdup_printf ("pin = \"%s\"", pin) : g_strdup ("");

  kw_cli_rig_configure (rig, kw_shim_get_module_path (), line, NULL);
}

static void
run_with_rig (gconstpointer data)
{
  const RigTest *test = data;
  g_autoptr (KwCliRig) rig = NULL;

  if (kw_soft_hsm_is_missing ())
    return;
  rig = kw_cli_rig_new ();
  configure_pin (rig, KW_TEST_PIN);
  (*test) (rig);
}

static guint
logins (KwCliRig *rig)
{
  return kw_shim_get_calls (rig->shim, KW_SHIM_C_Login);
}

static KwCliRun *
show_unknown_key (KwCliRig *rig)
{
  return kw_cli_rig_run (rig, "showkey", KW_CLI_UNKNOWN_ID, NULL);
}

static void
test_wrong_pin (KwCliRig *rig)
{
  g_autofree char *serial = kw_soft_hsm_dup_serial (rig->hsm, "one");
  g_autofree char *advice = g_strdup_printf ("keyward device retry %s", serial);
  g_autoptr (KwCliRun) first = NULL;
  g_autoptr (KwCliRun) second = NULL;
  g_autoptr (KwCliRun) other_command = NULL;
  g_autoptr (KwCliRun) check = NULL;
  g_autoptr (KwCliRun) corrected = NULL;

  configure_pin (rig, WRONG_PIN);
  first = show_unknown_key (rig);
  kw_cli_run_assert_failed (first, 1, "refused the PIN");
  g_assert_cmpuint (logins (rig), ==, 1);
  second = show_unknown_key (rig);
  kw_cli_run_assert_failed (second, 1, "refused this PIN before, so it is not presented again");
  g_assert_nonnull (strstr (second->err, advice));
  other_command = kw_cli_rig_run (rig, "genkey", "a", NULL);
  kw_cli_run_assert_failed (other_command, 1, "refused this PIN before");
  check = kw_cli_rig_run (rig, "check", NULL);
  g_assert_cmpint (check->status, ==, 1);
  g_assert_nonnull (strstr (check->out, "problem  pin "));
  g_assert_nonnull (strstr (check->out, advice));
  g_assert_cmpuint (logins (rig), ==, 1);
  g_assert_false (kw_cli_rig_tree_contains (rig->state, WRONG_PIN));
  g_assert_null (strstr (first->err, WRONG_PIN));

  configure_pin (rig, KW_TEST_PIN);
  corrected = show_unknown_key (rig);
  kw_cli_run_assert_failed (corrected, 1, "has no such rsa key");
  g_assert_cmpuint (logins (rig), ==, 2);
}

static void
test_retry (KwCliRig *rig)
{
  g_autofree char *serial = kw_soft_hsm_dup_serial (rig->hsm, "one");
  g_autoptr (KwCliRun) nothing = kw_cli_rig_run (rig, "device", "retry", NULL);
  g_autoptr (KwCliRun) first = NULL;
  g_autoptr (KwCliRun) retry = NULL;
  g_autoptr (KwCliRun) again = NULL;
  g_autoptr (KwCliRun) latched = NULL;
  g_autoptr (KwCliRun) retry_serial = NULL;
  g_autoptr (KwCliRun) other = NULL;

  kw_cli_run_assert_silent_ok (nothing);
  g_assert_cmpstr (nothing->out, ==, "No token has refused a PIN; there is nothing to forget.\n");
  configure_pin (rig, WRONG_PIN);
  first = show_unknown_key (rig);
  retry = kw_cli_rig_run (rig, "device", "retry", NULL);
  kw_cli_run_assert_silent_ok (retry);
  g_assert_cmpstr (retry->out, ==, "1 token: the PIN will be presented once more.\n");
  g_assert_cmpuint (logins (rig), ==, 1);
  again = show_unknown_key (rig);
  kw_cli_run_assert_failed (again, 1, "refused the PIN");
  latched = show_unknown_key (rig);
  kw_cli_run_assert_failed (latched, 1, "refused this PIN before");
  g_assert_cmpuint (logins (rig), ==, 2);
  retry_serial = kw_cli_rig_run (rig, "device", "retry", serial, NULL);
  kw_cli_run_assert_silent_ok (retry_serial);
  g_assert_nonnull (strstr (retry_serial->out, serial));
  other = kw_cli_rig_run (rig, "device", "retry", "4711", NULL);
  kw_cli_run_assert_failed (other, 1,
                            "No PIN was ever presented to a token with serial number 4711");
}

static void
test_retry_json (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = kw_cli_rig_run (rig, "--json", "device", "retry", NULL);
  g_autoptr (JsonNode) node = kw_cli_run_parse (run);

  kw_cli_run_assert_silent_ok (run);
  g_assert_cmpint (json_object_get_int_member (json_node_get_object (node), "tokens"), ==, 0);
  g_assert_true (json_object_get_null_member (json_node_get_object (node), "serial"));
}

static void
test_retry_with_damaged_record (KwCliRig *rig)
{
  g_autofree char *path = g_build_filename (rig->state, "pins.state", NULL);
  g_autoptr (KwCliRun) run = NULL;

  kw_cli_rig_write (path, "no key file\n", 0600);
  run = kw_cli_rig_run (rig, "device", "retry", NULL);
  kw_cli_run_assert_failed (run, 1, "Cannot read the state file");
}

static void
test_state_directory_cannot_be_made (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = NULL;

  /* A file stands where the folder should be. */
  kw_soft_hsm_remove_tree (rig->state);
  kw_cli_rig_write (rig->state, "", 0600);
  run = show_unknown_key (rig);
  kw_cli_run_assert_failed (run, 1, "state");
  g_assert_cmpuint (logins (rig), ==, 0);
}

static void
test_locked_and_last_try (KwCliRig *rig)
{
  g_autoptr (KwCliRun) locked = NULL;
  g_autoptr (KwCliRun) final_try = NULL;
  g_autoptr (KwCliRun) low = NULL;

  kw_shim_set_token_flags (rig->shim, CKF_USER_PIN_LOCKED, 0);
  locked = show_unknown_key (rig);
  kw_cli_run_assert_failed (locked, 1, "is locked; unlock it with the SO-PIN");
  kw_shim_set_token_flags (rig->shim, CKF_USER_PIN_FINAL_TRY, 0);
  final_try = show_unknown_key (rig);
  kw_cli_run_assert_failed (final_try, 1,
                            "has one try of its PIN left, which is never used by a program");
  g_assert_cmpuint (logins (rig), ==, 0);
  kw_shim_set_token_flags (rig->shim, CKF_USER_PIN_COUNT_LOW, 0);
  low = show_unknown_key (rig);
  g_assert_cmpint (low->status, ==, 1);
  g_assert_cmpuint (logins (rig), <=, 1);
}

static void
test_no_pin (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = NULL;

  configure_pin (rig, NULL);
  run = show_unknown_key (rig);
  kw_cli_run_assert_failed (run, 1, "wants a PIN; set [pkcs11] pin");
  g_assert_cmpuint (logins (rig), ==, 0);
}

static void
test_pin_file (KwCliRig *rig)
{
  g_autofree char *path = kw_cli_rig_dup_path (rig, "pin");
  g_autofree char *source = g_strconcat ("file:", path, NULL);
  g_autoptr (KwCliRun) missing = NULL;
  g_autoptr (KwCliRun) open_file = NULL;
  g_autoptr (KwCliRun) good = NULL;

  configure_pin (rig, source);
  missing = show_unknown_key (rig);
  kw_cli_run_assert_failed (missing, 1, "[pkcs11] pin: Cannot look at ");
  kw_cli_rig_write (path, KW_TEST_PIN "\n", 0644);
  open_file = show_unknown_key (rig);
  kw_cli_run_assert_failed (open_file, 1, "[pkcs11] pin: ");
  g_assert_nonnull (strstr (open_file->err, "so others can get at it"));
  g_assert_cmpuint (logins (rig), ==, 0);
  g_assert_cmpint (g_chmod (path, 0600), ==, 0);
  good = show_unknown_key (rig);
  kw_cli_run_assert_failed (good, 1, "has no such rsa key");
}

static void
test_pin_from_credential (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = NULL;

  configure_pin (rig, "credential:pin");
  run = show_unknown_key (rig);
  kw_cli_run_assert_failed (run, 1, "systemd passed no credentials");
}

typedef struct
{
  const char *path;
  RigTest test;
} NamedTest;

static const NamedTest tests[] = {
  { "/pin/wrong", test_wrong_pin },
  { "/pin/retry", test_retry },
  { "/pin/retry-json", test_retry_json },
  { "/pin/retry-damaged-record", test_retry_with_damaged_record },
  { "/pin/no-state-directory", test_state_directory_cannot_be_made },
  { "/pin/locked-and-last-try", test_locked_and_last_try },
  { "/pin/none", test_no_pin },
  { "/pin/file", test_pin_file },
  { "/pin/credential", test_pin_from_credential },
};

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (tests); i++)
    g_test_add_data_func (tests[i].path, &tests[i].test, run_with_rig);
  return g_test_run ();
}
