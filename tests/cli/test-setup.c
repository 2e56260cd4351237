/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-cli-setup"

#include "config.h"

#include "kw-cli-rig.h"
#include "kw-config.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

/* setup, and the question for a PIN at a terminal. */

#define OCC_PATTERN                                                                                \
  "^occ config:app:set encryption hsm\\.url --value 'http://localhost:8513'\n"                     \
  "occ config:app:set encryption hsm\\.jwt\\.secret --value '([0-9a-f]{64})'\n"                    \
  "occ config:app:set encryption crypto\\.engine --value 'hsm'\n$"

typedef void (*RigTest) (KwCliRig *rig);

static void
run_with_rig (gconstpointer data)
{
  const RigTest *test = data;
  g_autoptr (KwCliRig) rig = NULL;

  if (kw_soft_hsm_is_missing ())
    return;
  rig = kw_cli_rig_new ();
  g_remove (rig->config);
  (*test) (rig);
}

static void
assert_mode (const char *path)
{
  struct stat info;

  g_assert_cmpint (lstat (path, &info), ==, 0);
  g_assert_true (S_ISREG (info.st_mode));
  g_assert_cmpint (info.st_mode & 07777, ==, 0600);
}

static char *
dup_secret (const KwCliRun *run)
{
  g_autoptr (GMatchInfo) match = NULL;
  g_autoptr (GRegex) regex = g_regex_new (OCC_PATTERN, 0, 0, NULL);

  g_assert_true (g_regex_match (regex, run->out, 0, &match));
  return g_match_info_fetch (match, 1);
}

static guint
count_entries (const char *path)
{
  g_autoptr (GDir) directory = g_dir_open (path, 0, NULL);
  guint n = 0;

  while (directory != NULL && g_dir_read_name (directory) != NULL)
    n++;
  return n;
}

static KwCliRun *
set_up (KwCliRig *rig, const char *input, const char *pin_file, const char *option)
{
  return kw_cli_rig_run_with_input (NULL, input, "setup", "--output", rig->config, "--module",
                                    kw_soft_hsm_find_module (), "--token-label", "one",
                                    "--pin-file", pin_file, option, NULL);
}

static void
test_setup (KwCliRig *rig)
{
  g_autofree char *pin_path = kw_cli_rig_dup_path (rig, "pin");
  g_autofree char *pin_line = g_strdup_printf ("pin = \"file:%s\"\n", pin_path);
  g_autofree char *pin = NULL;
  g_autofree char *secret = NULL;
  g_autofree char *text = NULL;
  g_autofree char *again = NULL;
  guint n_before = count_entries (rig->directory);
  g_autoptr (KwCliRun) run = set_up (rig, KW_TEST_PIN "\nmore\n", "-", NULL);
  g_autoptr (KwCliRun) slots = NULL;

  kw_cli_run_assert_ok (run);
  secret = dup_secret (run);
  g_assert_null (strstr (run->out, KW_TEST_PIN));
  g_assert_null (strstr (run->err, KW_TEST_PIN));
  g_assert_null (strstr (run->err, secret));
  assert_mode (rig->config);
  assert_mode (pin_path);
  g_assert_cmpuint (count_entries (rig->directory), ==, n_before + 2);
  pin = kw_cli_rig_read (pin_path);
  g_assert_cmpstr (pin, ==, KW_TEST_PIN "\n");
  text = kw_cli_rig_read (rig->config);
  g_assert_nonnull (strstr (text, secret));
  g_assert_nonnull (strstr (text, "token_label = \"one\"\n"));
  g_assert_nonnull (strstr (text, pin_line));
  g_assert_null (strstr (text, KW_TEST_PIN));
  slots = kw_cli_rig_run (rig, "listslots", NULL);
  kw_cli_run_assert_silent_ok (slots);

  /* What was written is what was meant. */
  g_clear_pointer (&text, g_free);
  text = kw_cli_rig_read (rig->config);
  again = g_strdup_printf ("%s\n[state]\ndirectory = \"%s\"\n", text, rig->state);
  kw_cli_rig_write (rig->config, again, 0600);
  g_free (kw_cli_rig_generate (rig));
}

static void
test_no_overwriting (KwCliRig *rig)
{
  g_autofree char *pin_path = kw_cli_rig_dup_path (rig, "pin");
  g_autofree char *first_secret = NULL;
  g_autofree char *second_secret = NULL;
  g_autofree char *before = NULL;
  g_autofree char *after = NULL;
  g_autoptr (KwCliRun) first = set_up (rig, "1234\n", "-", NULL);
  g_autoptr (KwCliRun) second = NULL;
  g_autoptr (KwCliRun) pin_only = NULL;
  g_autoptr (KwCliRun) forced = NULL;

  first_secret = dup_secret (first);
  before = kw_cli_rig_read (rig->config);
  second = set_up (rig, "5678\n", "-", NULL);
  kw_cli_run_assert_failed (
      second, 1, "keyward.toml is already there and was left as it is; --force replaces it");
  after = kw_cli_rig_read (rig->config);
  g_assert_cmpstr (before, ==, after);

  g_remove (rig->config);
  pin_only = set_up (rig, "5678\n", "-", NULL);
  kw_cli_run_assert_failed (pin_only, 1, "pin is already there and was left as it is");
  g_assert_false (g_file_test (rig->config, G_FILE_TEST_EXISTS));

  kw_cli_rig_write (rig->config, before, 0644);
  forced = set_up (rig, "5678\n", "-", "--force");
  kw_cli_run_assert_ok (forced);
  second_secret = dup_secret (forced);
  g_assert_cmpstr (first_secret, !=, second_secret);
  assert_mode (rig->config);
  g_clear_pointer (&after, g_free);
  after = kw_cli_rig_read (pin_path);
  g_assert_cmpstr (after, ==, "5678\n");
}

static void
test_symlink_is_not_followed (KwCliRig *rig)
{
  g_autofree char *target = kw_cli_rig_dup_path (rig, "target");
  g_autoptr (KwCliRun) run = NULL;

  g_assert_cmpint (symlink (target, rig->config), ==, 0);
  run = set_up (rig, "", "-", NULL);
  kw_cli_run_assert_failed (run, 1, "is already there");
  g_assert_false (g_file_test (target, G_FILE_TEST_EXISTS));
}

static void
test_existing_pin_file (KwCliRig *rig)
{
  g_autofree char *path = kw_cli_rig_dup_path (rig, "my-pin");
  g_autofree char *line = g_strdup_printf ("pin = \"file:%s\"\n", path);
  g_autofree char *text = NULL;
  g_autoptr (KwCliRun) missing = set_up (rig, NULL, path, NULL);
  g_autoptr (KwCliRun) open_file = NULL;
  g_autoptr (KwCliRun) good = NULL;

  kw_cli_run_assert_failed (missing, 1, "my-pin: No such file or directory");
  kw_cli_rig_write (path, KW_TEST_PIN "\n", 0644);
  open_file = set_up (rig, NULL, path, NULL);
  kw_cli_run_assert_failed (open_file, 1, "so others can get at it; run: chmod 0600 ");
  g_assert_false (g_file_test (rig->config, G_FILE_TEST_EXISTS));
  g_assert_cmpint (g_chmod (path, 0600), ==, 0);
  good = set_up (rig, NULL, path, NULL);
  kw_cli_run_assert_ok (good);
  text = kw_cli_rig_read (rig->config);
  g_assert_nonnull (strstr (text, line));
}

static void
test_no_pin (KwCliRig *rig)
{
  g_autofree char *text = NULL;
  g_autofree char *pin_path = kw_cli_rig_dup_path (rig, "pin");
  g_autoptr (KwCliRun) run = set_up (rig, "\n", "-", NULL);

  kw_cli_run_assert_ok (run);
  text = kw_cli_rig_read (rig->config);
  g_assert_null (strstr (text, "pin ="));
  g_assert_false (g_file_test (pin_path, G_FILE_TEST_EXISTS));
}

static void
test_long_pin (KwCliRig *rig)
{
  g_autofree char *longest = g_strnfill (255, '1');
  g_autofree char *too_long = g_strnfill (256, '1');
  g_autofree char *much_too_long = g_strnfill (5000, '1');
  g_autoptr (KwCliRun) refused = set_up (rig, too_long, "-", NULL);
  g_autoptr (KwCliRun) refused_too = set_up (rig, much_too_long, "-", NULL);
  g_autoptr (KwCliRun) taken = set_up (rig, longest, "-", NULL);

  kw_cli_run_assert_failed (refused, 1, "A PIN has at most 255 bytes");
  kw_cli_run_assert_failed (refused_too, 1, "A PIN has at most 255 bytes");
  kw_cli_run_assert_ok (taken);
}

static void
test_json (KwCliRig *rig)
{
  g_autofree char *pin_path = kw_cli_rig_dup_path (rig, "pin");
  g_autoptr (KwCliRun) run = set_up (rig, "1234\n", "-", "--json");
  g_autoptr (JsonNode) node = kw_cli_run_parse (run);
  JsonObject *root = json_node_get_object (node);

  kw_cli_run_assert_ok (run);
  g_assert_cmpstr (json_object_get_string_member (root, "config"), ==, rig->config);
  g_assert_cmpstr (json_object_get_string_member (root, "pin_file"), ==, pin_path);
  g_assert_cmpstr (json_object_get_string_member (root, "hsm.url"), ==, "http://localhost:8513");
  g_assert_cmpstr (json_object_get_string_member (root, "crypto.engine"), ==, "hsm");
  g_assert_cmpuint (strlen (json_object_get_string_member (root, "hsm.jwt.secret")), ==, 64);
}

static void
test_modules (KwCliRig *rig)
{
  g_autoptr (KwCliRun) missing
      = kw_cli_rig_run_with_input (NULL, "", "setup", "--output", rig->config, "--module",
                                   "/nonexistent.so", NULL);
  g_autoptr (KwCliRun) guessed = kw_cli_rig_run_with_input (NULL, "", "setup", "--output",
                                                            rig->config, "--pin-file", "-", NULL);

  kw_cli_run_assert_failed (missing, 1, "There is no module /nonexistent.so");
  /* What lies on this machine decides. */
  if (guessed->status == 0)
    g_assert_nonnull (strstr (guessed->err, "The module is /"));
  else
    kw_cli_run_assert_failed (guessed, 1,
                              "There are several PKCS#11 modules; choose one with --module: /");
}

static void
test_folder_is_made (KwCliRig *rig)
{
  g_autofree char *path = kw_cli_rig_dup_path (rig, "new/folder/keyward.toml");
  g_autofree char *folder_in_file = kw_cli_rig_dup_path (rig, "softhsm2.conf/keyward.toml");
  g_autoptr (KwCliRun) made
      = kw_cli_rig_run_with_input (NULL, "", "setup", "--output", path, "--module",
                                   kw_soft_hsm_find_module (), "--pin-file", "-", NULL);
  g_autoptr (KwCliRun) failed
      = kw_cli_rig_run_with_input (NULL, "", "setup", "--output", folder_in_file, "--module",
                                   kw_soft_hsm_find_module (), "--pin-file", "-", NULL);

  kw_cli_run_assert_ok (made);
  assert_mode (path);
  kw_cli_run_assert_failed (failed, 1, "Cannot make the folder ");
}

static void
test_output_is_a_folder (KwCliRig *rig)
{
  g_autofree char *pin_path G_GNUC_UNUSED = kw_cli_rig_dup_path (rig, "pin");
  g_autoptr (KwCliRun) run = NULL;
  guint n_before = 0;

  g_assert_cmpint (g_mkdir (rig->config, 0700), ==, 0);
  n_before = count_entries (rig->directory);
  run = set_up (rig, "1234\n", "-", "--force");
  kw_cli_run_assert_failed (run, 1, "Cannot write ");
  /* Neither a temporary file nor the PIN is left behind. */
  g_assert_cmpuint (count_entries (rig->directory), ==, n_before);
}

static void
test_no_terminal (KwCliRig *rig)
{
  g_autoptr (KwCliRun) run
      = kw_cli_rig_run_with_input (NULL, "1234\n", "setup", "--output", rig->config, "--module",
                                   kw_soft_hsm_find_module (), NULL);

  kw_cli_run_assert_failed (run, 1, "There is no terminal to ask for the PIN");
  g_assert_false (g_file_test (rig->config, G_FILE_TEST_EXISTS));
}

/* --- at a terminal ------------------------------------------------------------------------- */

typedef struct
{
  int master;
  int slave; /* kept open, to look at the terminal afterwards */
  GSubprocess *process;
} Terminal;

static void
terminal_start (Terminal *self, const char *const *argv)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GSubprocessLauncher) launcher
      = kw_cli_rig_new_launcher (G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);

  self->master = posix_openpt (O_RDWR | O_NOCTTY | O_CLOEXEC);
  g_assert_cmpint (self->master, >=, 0);
  g_assert_cmpint (grantpt (self->master), ==, 0);
  g_assert_cmpint (unlockpt (self->master), ==, 0);
  self->slave = open (ptsname (self->master), O_RDWR | O_NOCTTY | O_CLOEXEC);
  g_assert_cmpint (self->slave, >=, 0);
  g_subprocess_launcher_take_stdin_fd (launcher, dup (self->slave));
  self->process = g_subprocess_launcher_spawnv (launcher, argv, &error);
  g_assert_no_error (error);
}

/* Reads standard error until the prompt is there: what is typed before is thrown away with the echo. */
static void
terminal_await (Terminal *self, const char *prompt)
{
  GInputStream *stream = g_subprocess_get_stderr_pipe (self->process);
  g_autoptr (GString) text = g_string_new (NULL);
  g_autoptr (GError) error = NULL;

  while (strstr (text->str, prompt) == NULL)
    {
      char letter = '\0';

      g_assert_cmpint (g_input_stream_read (stream, &letter, 1, NULL, &error), ==, 1);
      g_assert_no_error (error);
      g_string_append_c (text, letter);
    }
}

static gboolean
terminal_echoes (Terminal *self)
{
  struct termios settings;

  g_assert_cmpint (tcgetattr (self->slave, &settings), ==, 0);
  return (settings.c_lflag & ECHO) != 0;
}

static void
terminal_type (Terminal *self, const char *text)
{
  g_assert_false (terminal_echoes (self));
  g_assert_cmpint (write (self->master, text, strlen (text)), ==, (gssize) strlen (text));
}

static char *
terminal_finish (Terminal *self)
{
  g_autoptr (GError) error = NULL;
  char *out = NULL;

  g_subprocess_communicate_utf8 (self->process, NULL, NULL, &out, NULL, &error);
  g_assert_no_error (error);
  g_assert_true (terminal_echoes (self));
  return out;
}

static void
terminal_clear (Terminal *self)
{
  char shown[256] = "";
  gssize n = 0;

  /* Nothing of what was typed came back. */
  g_assert_cmpint (fcntl (self->master, F_SETFL, O_NONBLOCK), ==, 0);
  n = read (self->master, shown, sizeof shown - 1);
  g_assert_null (strstr (shown, "1234"));
  g_assert_cmpint (n, <=, 2);
  close (self->master);
  close (self->slave);
  g_object_unref (self->process);
}

static void
test_terminal (KwCliRig *rig)
{
  const char *const argv[]
      = { kw_cli_rig_get_program ("keyward"), "setup", "--output", rig->config, "--module",
          kw_soft_hsm_find_module (),         NULL };
  g_autofree char *pin_path = kw_cli_rig_dup_path (rig, "pin");
  g_autofree char *pin = NULL;
  g_autofree char *out = NULL;
  Terminal terminal = { 0 };

  terminal_start (&terminal, argv);
  terminal_await (&terminal, "User PIN of the token (empty if it needs none): ");
  terminal_type (&terminal, "1234\n");
  out = terminal_finish (&terminal);
  g_assert_cmpint (g_subprocess_get_exit_status (terminal.process), ==, 0);
  g_assert_true (g_regex_match_simple (OCC_PATTERN, out, 0, 0));
  terminal_clear (&terminal);
  pin = kw_cli_rig_read (pin_path);
  g_assert_cmpstr (pin, ==, "1234\n");
}

static void
test_terminal_of_a_command (KwCliRig *rig)
{
  const char *const argv[]
      = { kw_cli_rig_get_program ("keyward"), "--config", rig->config, "genkey", "typed", NULL };
  g_autofree char *out = NULL;
  Terminal terminal = { 0 };

  kw_cli_rig_configure (rig, kw_soft_hsm_find_module (), "pin = \"credential:pin\"", NULL);
  terminal_start (&terminal, argv);
  terminal_await (&terminal, "PIN of token one (");
  terminal_await (&terminal, "): ");
  terminal_type (&terminal, KW_TEST_PIN "\n");
  out = terminal_finish (&terminal);
  g_assert_cmpint (g_subprocess_get_exit_status (terminal.process), ==, 0);
  g_assert_true (g_str_has_prefix (out, "Id: "));
  terminal_clear (&terminal);
}

static void
test_terminal_and_signal (KwCliRig *rig)
{
  const char *const argv[]
      = { kw_cli_rig_get_program ("keyward"), "setup", "--output", rig->config, "--module",
          kw_soft_hsm_find_module (),         NULL };
  g_autofree char *out = NULL;
  Terminal terminal = { 0 };

  terminal_start (&terminal, argv);
  terminal_await (&terminal, "PIN");
  terminal_await (&terminal, "): ");
  g_assert_false (terminal_echoes (&terminal));
  g_subprocess_send_signal (terminal.process, SIGINT);
  out = terminal_finish (&terminal);
  g_assert_true (g_subprocess_get_if_signaled (terminal.process));
  g_assert_cmpint (g_subprocess_get_term_sig (terminal.process), ==, SIGINT);
  terminal_clear (&terminal);
  g_assert_false (g_file_test (rig->config, G_FILE_TEST_EXISTS));
}

typedef struct
{
  const char *path;
  RigTest test;
} NamedTest;

static const NamedTest tests[] = {
  { "/setup/writes", test_setup },
  { "/setup/no-overwriting", test_no_overwriting },
  { "/setup/symlink", test_symlink_is_not_followed },
  { "/setup/existing-pin-file", test_existing_pin_file },
  { "/setup/no-pin", test_no_pin },
  { "/setup/long-pin", test_long_pin },
  { "/setup/json", test_json },
  { "/setup/modules", test_modules },
  { "/setup/folder", test_folder_is_made },
  { "/setup/output-is-a-folder", test_output_is_a_folder },
  { "/setup/no-terminal", test_no_terminal },
  { "/terminal/setup", test_terminal },
  { "/terminal/command", test_terminal_of_a_command },
  { "/terminal/signal", test_terminal_and_signal },
};

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (tests); i++)
    g_test_add_data_func (tests[i].path, &tests[i].test, run_with_rig);
  return g_test_run ();
}
