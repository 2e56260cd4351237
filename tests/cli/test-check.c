/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-cli-check"

#include "config.h"

#include "kw-cli-rig.h"
#include "kw-config.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* check: that it finds each thing that is wrong, and says what to do. */

#define CKF_USER_PIN_INITIALIZED 0x00000008
#define CKF_LOGIN_REQUIRED 0x00000004
#define CKF_PROTECTED_AUTHENTICATION_PATH 0x00000100
#define CKF_USER_PIN_COUNT_LOW 0x00010000
#define CKF_USER_PIN_LOCKED 0x00040000

typedef void (*RigTest) (KwCliRig *rig);

static void
run_with_rig (gconstpointer data)
{
  const RigTest *test = data;
  g_autoptr (KwCliRig) rig = NULL;

  if (kw_soft_hsm_is_missing ())
    return;
  rig = kw_cli_rig_new ();
  kw_cli_rig_configure (rig, kw_shim_get_module_path (), "pin = \"" KW_TEST_PIN "\"", NULL);
  (*test) (rig);
}

/* One finding of "check --json". */
static const char *
find_text (JsonNode *node, const char *name, const char *result, const char **out_advice)
{
  JsonArray *checks = json_object_get_array_member (json_node_get_object (node), "checks");

  for (guint i = 0; i < json_array_get_length (checks); i++)
    {
      JsonObject *check = json_array_get_object_element (checks, i);

      if (!g_str_equal (json_object_get_string_member (check, "name"), name)
          || !g_str_equal (json_object_get_string_member (check, "result"), result))
        continue;
      if (out_advice != NULL)
        *out_advice = json_object_get_null_member (check, "what_to_do")
                          ? NULL
                          : json_object_get_string_member (check, "what_to_do");
      return json_object_get_string_member (check, "text");
    }
  return NULL;
}

static void
assert_finding (KwCliRig *rig,
                const char *name,
                const char *result,
                const char *text,
                const char *advice)
{
  g_autoptr (KwCliRun) run = kw_cli_rig_run (rig, "check", "--json", NULL);
  g_autoptr (JsonNode) node = kw_cli_run_parse (run);
  gboolean problem = g_str_equal (result, "problem");
  const char *found_advice = NULL;
  const char *found = find_text (node, name, result, &found_advice);

  g_test_message ("%s", run->out);
  g_assert_nonnull (found);
  if (strstr (found, text) == NULL)
    g_assert_cmpstr (found, ==, text);
  if (advice != NULL && (found_advice == NULL || strstr (found_advice, advice) == NULL))
    g_assert_cmpstr (found_advice, ==, advice);
  g_assert_true ((found_advice != NULL) == problem);
  if (problem)
    {
      g_assert_cmpint (run->status, ==, 1);
      g_assert_true (g_str_has_suffix (run->err, " found\n"));
      g_assert_cmpint (json_object_get_int_member (json_node_get_object (node), "problems"), >, 0);
    }
  else
    {
      g_assert_cmpint (run->status, ==, 0);
      g_assert_cmpstr (run->err, ==, "");
    }
}

static void
test_all_is_well (KwCliRig *rig)
{
  static const char *const names[]
      = { "configuration", "permissions", "secret", "plugins", "module",
          "token",         "pin",         "port",   "state" };
  g_autoptr (KwCliRun) text = kw_cli_rig_run (rig, "check", NULL);
  g_autoptr (KwCliRun) json = kw_cli_rig_run (rig, "check", "--json", NULL);
  g_autoptr (JsonNode) node = kw_cli_run_parse (json);

  kw_cli_run_assert_silent_ok (text);
  kw_cli_run_assert_silent_ok (json);
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autofree char *start = g_strdup_printf ("\nok       %s ", names[i]);
      g_autofree char *lines = g_strconcat ("\n", text->out, NULL);

      g_assert_nonnull (strstr (lines, start));
      g_assert_nonnull (find_text (node, names[i], "ok", NULL));
    }
  g_assert_null (strstr (text->out, "problem"));
  g_assert_cmpint (json_object_get_int_member (json_node_get_object (node), "problems"), ==, 0);
  g_assert_cmpuint (kw_shim_get_calls (rig->shim, KW_SHIM_C_Login), ==, 0);
}

static void
test_text_of_problem (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = NULL;

  g_assert_cmpint (g_chmod (rig->config, 0644), ==, 0);
  run = kw_cli_rig_run (rig, "check", NULL);
  g_assert_cmpint (run->status, ==, 1);
  g_assert_true (g_regex_match_simple (
      "\nproblem  permissions    [^\n]* its mode is 0644, so others can get at it\n"
      " {24}what to do: chmod 0600 /",
      run->out, 0, 0));
  g_assert_cmpstr (run->err, ==, "keyward: 1 problem found\n");
}

static void
test_no_configuration (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run = NULL;
  g_autoptr (JsonNode) node = NULL;
  const char *advice = NULL;

  if (kw_config_find_file () != NULL)
    {
      g_test_skip ("this machine has a configuration");
      return;
    }
  run = kw_cli_rig_run (NULL, "check", "--json", NULL);
  node = kw_cli_run_parse (run);
  g_assert_cmpint (run->status, ==, 1);
  g_assert_nonnull (find_text (node, "configuration", "problem", &advice));
  g_assert_cmpstr (advice, ==, "keyward setup");
  g_assert_nonnull (find_text (node, "module", "problem", &advice));
}

static void
test_bad_configuration (KwCliRig *rig)
{
  kw_cli_rig_write (rig->config, "[serverr]\n", 0600);
  assert_finding (rig, "configuration", "problem", "keyward.toml:1: unknown table [serverr]",
                  "did you mean [server]?");
  g_remove (rig->config);
  assert_finding (rig, "configuration", "problem", "No such file or directory",
                  "keyward setup --force");
}

static void
test_weak_secret (KwCliRig *rig)
{
  g_autofree char *text = kw_cli_rig_read (rig->config);
  char *secret = strstr (text, "0123456789abcdef");

  memcpy (secret, "secret\" #       ", 16);
  kw_cli_rig_write (rig->config, text, 0600);
  assert_finding (rig, "secret", "problem", "[jwt] secret is too weak", "openssl rand -hex 32");
  g_assert_nonnull (strstr (text, "secret = "));
  memcpy (strstr (text, "secret = "), "leeway = 120  # ", 16);
  kw_cli_rig_write (rig->config, text, 0600);
  assert_finding (rig, "secret", "problem", "[jwt] secret is missing", NULL);
}

static void
replace_secret (KwCliRig *rig, const char *source)
{
  g_autofree char *text = kw_cli_rig_read (rig->config);
  g_auto (GStrv) parts = g_strsplit (text, "0123456789abcdef", 2);
  g_autofree char *changed = g_strjoinv (source, parts);

  kw_cli_rig_write (rig->config, changed, 0600);
}

static void
test_secret_in_file (KwCliRig *rig)
{
  g_autofree char *path = kw_cli_rig_dup_path (rig, "jwt");
  g_autofree char *source = g_strconcat ("file:", path, NULL);

  replace_secret (rig, source);
  assert_finding (rig, "secret", "problem", "[jwt] secret: Cannot look at", NULL);
  kw_cli_rig_write (path, "0123456789abcdef\n", 0644);
  assert_finding (rig, "secret", "problem", "its mode is 0644", "chmod 0600");
  kw_cli_rig_write (path, "0123456789abcdef\n", 0600);
  assert_finding (rig, "secret", "ok", "strong enough", NULL);
}

static void
test_credentials (KwCliRig *rig)
{
  replace_secret (rig, "credential:jwt");
  assert_finding (rig, "secret", "note", "comes from systemd", NULL);
  kw_cli_rig_configure (rig, kw_shim_get_module_path (), "pin = \"credential:pin\"", NULL);
  assert_finding (rig, "pin", "note", "The PIN comes from systemd", NULL);
  replace_secret (rig, "credential:jwt");
  assert_finding (rig, "secret", "note", "looked at when the PIN can be read", NULL);
}

static void
test_pin (KwCliRig *rig)
{
  g_autofree char *missing = g_strdup_printf ("pin = \"file:%s/no-pin\"", rig->directory);

  kw_cli_rig_configure (rig, kw_shim_get_module_path (), "", NULL);
  assert_finding (rig, "pin", "problem", "wants a PIN", "set [pkcs11] pin");
  kw_cli_rig_configure (rig, kw_shim_get_module_path (), missing, NULL);
  assert_finding (rig, "pin", "problem", "[pkcs11] pin: Cannot look at",
                  "make the file that [pkcs11] pin names");
  g_assert_cmpuint (kw_shim_get_calls (rig->shim, KW_SHIM_C_Login), ==, 0);
}

static void
test_pin_states (KwCliRig *rig)
{
  kw_shim_set_token_flags (rig->shim, CKF_USER_PIN_LOCKED, 0);
  assert_finding (rig, "pin", "problem", "is locked", "unlock it with the SO-PIN");
  kw_shim_set_token_flags (rig->shim, CKF_USER_PIN_COUNT_LOW, 0);
  assert_finding (rig, "pin", "note", "A wrong PIN was presented to the token lately", NULL);
  kw_shim_set_token_flags (rig->shim, 0, CKF_LOGIN_REQUIRED);
  assert_finding (rig, "pin", "ok", "The token wants no PIN", NULL);
  kw_shim_set_token_flags (rig->shim, 0, CKF_USER_PIN_INITIALIZED);
  assert_finding (rig, "pin", "problem", "no user PIN yet", "--init-pin");
  kw_cli_rig_configure (rig, kw_shim_get_module_path (), "", NULL);
  kw_shim_set_token_flags (rig->shim, CKF_PROTECTED_AUTHENTICATION_PATH, 0);
  assert_finding (rig, "pin", "note", "typed at the reader", NULL);
  g_assert_cmpuint (kw_shim_get_calls (rig->shim, KW_SHIM_C_Login), ==, 0);
}

static void
test_module (KwCliRig *rig)
{
  kw_cli_rig_configure (rig, "/nonexistent.so", "", NULL);
  assert_finding (rig, "module", "problem", "/nonexistent.so", NULL);
  kw_cli_rig_write (rig->config, "[jwt]\nsecret = \"0123456789abcdef\"\n", 0600);
  assert_finding (rig, "module", "problem", "No module is configured; this machine has /",
                  "set [pkcs11] module");
}

static void
test_token (KwCliRig *rig)
{
  kw_cli_rig_configure (rig, kw_shim_get_module_path (), "token_label = \"three\"", NULL);
  assert_finding (rig, "token", "problem", "label \"one\"", "plug it in");
  kw_soft_hsm_add_token (rig->hsm, "two", KW_TEST_SO_PIN, KW_TEST_PIN);
  kw_cli_rig_configure (rig, kw_shim_get_module_path (), "", NULL);
  assert_finding (rig, "token", "problem", "2 tokens fit",
                  "set [pkcs11] token_label or token_serial");
  kw_cli_rig_configure (rig, kw_shim_get_module_path (), "uri = \"no uri\"", NULL);
  assert_finding (rig, "token", "problem", "[pkcs11] uri is no PKCS#11 URI", NULL);
}

static void
test_plugins (KwCliRig *rig)
{
  g_autoptr (GSubprocessLauncher) launcher
      = kw_cli_rig_new_launcher (G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
  g_autoptr (KwCliRun) run = NULL;

  g_subprocess_launcher_setenv (launcher, "KEYWARD_PLUGIN_PATH", rig->state, TRUE);
  run = kw_cli_rig_run_by (launcher, NULL, "keyward", "--config", rig->config, "check", NULL);
  g_assert_cmpint (run->status, ==, 1);
  g_assert_nonnull (strstr (run->out, "problem  plugins        There is no back end in "));
}

static void
test_port (KwCliRig *rig)
{
  g_autoptr (GSocketListener) listener = g_socket_listener_new ();
  g_autoptr (GError) error = NULL;
  g_autofree char *rest = NULL;
  guint16 port = g_socket_listener_add_any_inet_port (listener, NULL, &error);

  g_assert_no_error (error);
  rest = g_strdup_printf ("[line]\nport = %u\nallow_users = [\"root\"]\n", port);
  kw_cli_rig_configure (rig, kw_shim_get_module_path (), "pin = \"" KW_TEST_PIN "\"", rest);
  assert_finding (rig, "port", "problem",
                  "[line] localhost:", "stop that program, or set another [line] port");
  assert_finding (rig, "port", "problem", "is held by test-cli-check (process ", NULL);
}

static void
test_state (KwCliRig *rig)
{
  g_autofree char *path = g_build_filename (rig->state, "keys.state", NULL);

  kw_cli_rig_write (path, "no key file\n", 0600);
  assert_finding (rig, "state", "problem", "Cannot read the state file", NULL);
  kw_soft_hsm_remove_tree (rig->state);
  assert_finding (rig, "state", "note", "is not there yet", NULL);
  g_assert_false (g_file_test (rig->state, G_FILE_TEST_EXISTS));
}

static void
test_unanswering_token (KwCliRig *rig)
{
  kw_shim_fail (rig->shim, KW_SHIM_C_GetSlotList, 0x30 /* CKR_DEVICE_ERROR */, KW_SHIM_ALWAYS);
  assert_finding (rig, "module", "problem", "CKR_DEVICE_ERROR", NULL);
}

static void
test_full_disk (KwCliRig *rig)
{
  g_autoptr (GSubprocessLauncher) launcher
      = kw_cli_rig_new_launcher (G_SUBPROCESS_FLAGS_STDERR_PIPE);
  g_autoptr (KwCliRun) run = NULL;

  g_subprocess_launcher_set_stdout_file_path (launcher, "/dev/full");
  run = kw_cli_rig_run_by (launcher, NULL, "keyward", "--config", rig->config, "check", NULL);
  kw_cli_run_assert_failed (run, 1, "Cannot write the result");
}

typedef struct
{
  const char *path;
  RigTest test;
} NamedTest;

static const NamedTest tests[] = {
  { "/check/all-is-well", test_all_is_well },
  { "/check/text-of-problem", test_text_of_problem },
  { "/check/no-configuration", test_no_configuration },
  { "/check/bad-configuration", test_bad_configuration },
  { "/check/weak-secret", test_weak_secret },
  { "/check/secret-in-file", test_secret_in_file },
  { "/check/credentials", test_credentials },
  { "/check/pin", test_pin },
  { "/check/pin-states", test_pin_states },
  { "/check/module", test_module },
  { "/check/token", test_token },
  { "/check/plugins", test_plugins },
  { "/check/port", test_port },
  { "/check/state", test_state },
  { "/check/unanswering-token", test_unanswering_token },
  { "/check/full-disk", test_full_disk },
};

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (tests); i++)
    g_test_add_data_func (tests[i].path, &tests[i].test, run_with_rig);
  return g_test_run ();
}
