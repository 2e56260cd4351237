/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-cli-commands"

#include "config.h"

#include "kw-cli-access.h"
#include "kw-cli-rig.h"
#include "kw-names.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What needs no token: help, usage errors, and the commands that start or enable the daemon. */

#define PIPES                                                                                      \
  (G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE)
#define NOBODY 65534

static const char *const command_names[] = {
  "check",   "decrypt",     "device retry",  "devices", "encrypt",   "genkey",
  "install", "keys accept", "keys generate", "keys",    "listslots", "monitor",
  "random",  "rewrap",      "setup",         "showkey", "status",
};

static void
test_version (void)
{
  static const char *const programs[] = { "keyward", "hsmdaemon" };

  for (guint i = 0; i < G_N_ELEMENTS (programs); i++)
    {
      g_autoptr (GSubprocessLauncher) launcher = kw_cli_rig_new_launcher (PIPES);
      g_autoptr (KwCliRun) run = kw_cli_rig_run_by (launcher, NULL, programs[i], "--version", NULL);

      kw_cli_run_assert_silent_ok (run);
      g_assert_cmpstr (run->out, ==, "keyward " KW_VERSION " (" KW_BUILD ")\n");
    }
}

static void
test_help (void)
{
  g_autoptr (KwCliRun) run = kw_cli_rig_run (NULL, "--help", NULL);

  kw_cli_run_assert_silent_ok (run);
  for (guint i = 0; i < G_N_ELEMENTS (command_names); i++)
    {
      g_autofree char *line = g_strdup_printf ("\n  %s ", command_names[i]);

      g_assert_nonnull (strstr (run->out, line));
    }
}

static void
test_help_of_commands (void)
{
  for (guint i = 0; i < G_N_ELEMENTS (command_names); i++)
    {
      g_auto (GStrv) words = g_strsplit (command_names[i], " ", 2);
      g_autofree char *usage = g_strdup_printf (" %s [OPTION…]", command_names[i]);
      g_autoptr (KwCliRun) run = NULL;

      if (words[1] != NULL)
        run = kw_cli_rig_run (NULL, words[0], words[1], "--help", NULL);
      else
        run = kw_cli_rig_run (NULL, words[0], "--help", NULL);
      kw_cli_run_assert_silent_ok (run);
      g_assert_nonnull (strstr (run->out, usage));
      g_assert_nonnull (strstr (run->out, "--config"));
    }
}

static void
test_version_behind_command (void)
{
  g_autoptr (KwCliRun) run = kw_cli_rig_run (NULL, "genkey", "--version", NULL);

  kw_cli_run_assert_silent_ok (run);
  g_assert_cmpstr (run->out, ==, "keyward " KW_VERSION " (" KW_BUILD ")\n");
}

static void
test_no_command (void)
{
  g_autoptr (KwCliRun) run = kw_cli_rig_run (NULL, NULL);

  g_assert_cmpint (run->status, ==, 2);
  g_assert_nonnull (strstr (run->out, "Commands:"));
  g_assert_cmpstr (run->err, ==, "");
}

typedef struct
{
  const char *const words[5];
  const char *message;
} UsageCase;

static const UsageCase usage_cases[] = {
  { { "frobnicate" }, "There is no command “frobnicate”; see keyward --help" },
  { { "--frobnicate" }, "--frobnicate; see keyward --help" },
  { { "--config" }, "--config; see keyward --help" },
  { { "listslots", "--frobnicate" }, "--frobnicate; see keyward listslots --help" },
  { { "listslots", "extra" }, "listslots takes no argument" },
  { { "check", "extra" }, "check takes no argument" },
  { { "install", "extra" }, "install takes no argument" },
  { { "setup", "extra" }, "setup takes no argument" },
  { { "setup", "--token-label", "" }, "--token-label is empty" },
  { { "genkey" }, "genkey wants LABEL; see keyward genkey --help" },
  { { "genkey", "--" }, "genkey wants LABEL" },
  { { "genkey", "a", "b" }, "genkey wants LABEL" },
  { { "genkey", "a", "--bits", "1024" }, "--bits is 2048, 3072 or 4096" },
  { { "genkey", "a", "--bits", "many" }, "--bits" },
  { { "genkey", "" }, "LABEL is UTF-8 text of 1 to 128 bytes" },
  { { "genkey", "a\nb" }, "LABEL is UTF-8 text of 1 to 128 bytes" },
  { { "genkey", "\xff" }, "LABEL is UTF-8 text of 1 to 128 bytes" },
  { { "showkey" }, "showkey wants ID" },
  { { "showkey", "nonsense" }, "Not a key id: a UUID such as" },
  { { "encrypt", KW_CLI_UNKNOWN_ID }, "encrypt wants ID BASE64|-" },
  { { "encrypt", "nonsense", "AAAA" }, "Not a key id" },
  { { "decrypt", KW_CLI_UNKNOWN_ID, "AAAA", "more" }, "decrypt wants ID BASE64|-" },
  { { "decrypt", "6b5cc71e-e583-11f1-bdf4-7b469cea3bf", "AAAA" }, "Not a key id" },
  { { "device" }, "“device” is followed by “retry”" },
  { { "device", "eject" }, "“device” is followed by “retry”" },
  { { "device", "retry", "a", "b" }, "device retry wants [SERIAL]" },
  { { "keys", "eject" }, "keys takes no argument" },
  { { "keys", "accept" }, "keys accept wants ID" },
  { { "keys", "accept", "nonsense" }, "Not a key id" },
};

static void
test_usage_errors (void)
{
  for (guint i = 0; i < G_N_ELEMENTS (usage_cases); i++)
    {
      const char *const *words = usage_cases[i].words;
      g_autoptr (KwCliRun) run
          = kw_cli_rig_run (NULL, words[0], words[1], words[2], words[3], words[4], NULL);

      kw_cli_run_assert_failed (run, 2, usage_cases[i].message);
      g_assert_true (strstr (run->err, "; see keyward ") != NULL
                     || strstr (run->err, "; see hsmdaemon ") != NULL);
    }
}

static void
test_long_label (void)
{
  g_autofree char *label = g_strnfill (129, 'a');
  g_autoptr (KwCliRun) run = kw_cli_rig_run (NULL, "genkey", label, NULL);

  kw_cli_run_assert_failed (run, 2, "LABEL is UTF-8 text of 1 to 128 bytes");
}

/* A folder with a program of our own in it. */
typedef struct
{
  char *directory;
  char *log;
} FakeProgram;

static void
fake_program_set_up (FakeProgram *self, const char *name, const char *body)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = NULL;
  g_autofree char *text = NULL;

  self->directory = g_dir_make_tmp ("keyward-cli-XXXXXX", &error);
  g_assert_no_error (error);
  self->log = g_build_filename (self->directory, "log", NULL);
  path = g_build_filename (self->directory, name, NULL);
  text = g_strdup_printf ("#!/bin/sh\nprintf '%%s\\n' \"$*\" >'%s'\n%s\n", self->log, body);
  kw_cli_rig_write (path, text, 0755);
}

static void
fake_program_tear_down (FakeProgram *self)
{
  kw_soft_hsm_remove_tree (self->directory);
  g_free (self->directory);
  g_free (self->log);
}

static void
test_daemon (void)
{
  FakeProgram fake = { 0 };
  g_autoptr (GSubprocessLauncher) launcher = kw_cli_rig_new_launcher (PIPES);
  g_autoptr (KwCliRun) plain = NULL;
  g_autoptr (KwCliRun) with_config = NULL;
  g_autofree char *plain_log = NULL;
  g_autofree char *config_log = NULL;

  fake_program_set_up (&fake, "keywardd", "echo \"daemon $$\"; exit 3");
  g_subprocess_launcher_setenv (launcher, KW_ENV_SBIN_PATH, fake.directory, TRUE);

  plain = kw_cli_rig_run_by (launcher, NULL, "hsmdaemon", NULL);
  plain_log = kw_cli_rig_read (fake.log);
  with_config = kw_cli_rig_run_by (launcher, NULL, "hsmdaemon", "--config", "/a b", NULL);
  config_log = kw_cli_rig_read (fake.log);
  fake_program_tear_down (&fake);

  g_assert_cmpint (plain->status, ==, 3);
  g_assert_true (g_str_has_prefix (plain->out, "daemon "));
  g_assert_cmpstr (plain_log, ==, "\n");
  g_assert_cmpint (with_config->status, ==, 3);
  g_assert_cmpstr (config_log, ==, "--config /a b\n");
}

static void
test_daemon_is_missing (void)
{
  g_autoptr (GSubprocessLauncher) launcher = kw_cli_rig_new_launcher (PIPES);
  g_autoptr (KwCliRun) run = NULL;

  g_subprocess_launcher_setenv (launcher, KW_ENV_SBIN_PATH, "/nonexistent", TRUE);
  run = kw_cli_rig_run_by (launcher, NULL, "hsmdaemon", NULL);
  kw_cli_run_assert_failed (
      run, 1, "hsmdaemon: Cannot start the daemon /nonexistent/keywardd: No such file");
}

static void
test_daemon_takes_no_other_option (void)
{
  g_autoptr (GSubprocessLauncher) launcher = kw_cli_rig_new_launcher (PIPES);
  g_autoptr (KwCliRun) run = kw_cli_rig_run_by (launcher, NULL, "hsmdaemon", "--json", NULL);

  kw_cli_run_assert_failed (
      run, 2, "hsmdaemon: a command is missing for these options; see hsmdaemon --help");
}

static KwCliRun *
run_install (const char *path)
{
  g_autoptr (GSubprocessLauncher) launcher = kw_cli_rig_new_launcher (PIPES);

  g_subprocess_launcher_setenv (launcher, "PATH", path, TRUE);
  return kw_cli_rig_run_by (launcher, NULL, "hsmdaemon", "install", NULL);
}

static gboolean
is_not_root (void)
{
  if (geteuid () == 0)
    return FALSE;
  g_test_skip ("install is for root");
  return TRUE;
}

static void
test_install (void)
{
  FakeProgram fake = { 0 };
  g_autoptr (KwCliRun) run = NULL;
  g_autofree char *log = NULL;

  if (is_not_root ())
    return;
  fake_program_set_up (&fake, "systemctl", "echo noise");
  run = run_install (fake.directory);
  log = kw_cli_rig_read (fake.log);
  fake_program_tear_down (&fake);

  kw_cli_run_assert_silent_ok (run);
  g_assert_true (g_str_has_prefix (run->out, "Install HSM Daemon: "));
  g_assert_true (g_str_has_suffix (run->out, " [  OK  ]\n"));
  g_assert_cmpstr (log, ==, "enable --now keywardd.service\n");
}

static void
assert_install_failed (const KwCliRun *run, const char *message)
{
  g_assert_cmpint (run->status, ==, 1);
  g_assert_true (g_str_has_prefix (run->out, "Install HSM Daemon: "));
  g_assert_true (g_str_has_suffix (run->out, " [FAILED]\n"));
  if (strstr (run->err, message) == NULL)
    g_assert_cmpstr (run->err, ==, message);
}

static void
test_install_fails (void)
{
  FakeProgram fake = { 0 };
  g_autoptr (KwCliRun) run = NULL;

  if (is_not_root ())
    return;
  fake_program_set_up (&fake, "systemctl", "echo 'Unit is masked.' >&2; exit 1");
  run = run_install (fake.directory);
  fake_program_tear_down (&fake);
  assert_install_failed (
      run, "hsmdaemon: systemctl enable --now keywardd.service failed: Unit is masked.");
}

static void
test_install_fails_in_silence (void)
{
  FakeProgram fake = { 0 };
  g_autoptr (KwCliRun) run = NULL;

  if (is_not_root ())
    return;
  fake_program_set_up (&fake, "systemctl", "exit 1");
  run = run_install (fake.directory);
  fake_program_tear_down (&fake);
  assert_install_failed (run, "failed: it did not say why; run: hsmdaemon check");
}

static void
test_install_without_systemctl (void)
{
  g_autoptr (KwCliRun) run = NULL;

  if (is_not_root ())
    return;
  run = run_install ("/nonexistent");
  assert_install_failed (run, "systemctl");
}

static void
become_nobody (gpointer user_data G_GNUC_UNUSED)
{
  if (setgid (NOBODY) != 0 || setuid (NOBODY) != 0)
    g_printerr ("cannot become nobody\n");
}

static void
test_install_needs_root (void)
{
  const guint gid = NOBODY;
  g_autoptr (KwCliUser) nobody = kw_cli_user_new ("nobody", NOBODY, &gid, 1);
  g_autoptr (GSubprocessLauncher) launcher = kw_cli_rig_new_launcher (PIPES);
  g_autoptr (KwCliRun) run = NULL;
  g_autofree char *denial
      = kw_cli_user_explain_denial (nobody, kw_cli_rig_get_program ("hsmdaemon"), X_OK);

  if (geteuid () == 0 && denial != NULL)
    {
      g_test_skip ("the build folder is closed to other users");
      return;
    }
  if (geteuid () == 0)
    g_subprocess_launcher_set_child_setup (launcher, become_nobody, NULL, NULL);
  run = kw_cli_rig_run_by (launcher, NULL, "hsmdaemon", "install", NULL);
  assert_install_failed (
      run, "hsmdaemon: Only root can install the service; run: sudo hsmdaemon install\n");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/commands/version", test_version);
  g_test_add_func ("/commands/version-behind-command", test_version_behind_command);
  g_test_add_func ("/commands/help", test_help);
  g_test_add_func ("/commands/help-of-commands", test_help_of_commands);
  g_test_add_func ("/commands/none", test_no_command);
  g_test_add_func ("/commands/usage-errors", test_usage_errors);
  g_test_add_func ("/commands/long-label", test_long_label);
  g_test_add_func ("/daemon/runs", test_daemon);
  g_test_add_func ("/daemon/missing", test_daemon_is_missing);
  g_test_add_func ("/daemon/takes-no-other-option", test_daemon_takes_no_other_option);
  g_test_add_func ("/install/ok", test_install);
  g_test_add_func ("/install/fails", test_install_fails);
  g_test_add_func ("/install/fails-in-silence", test_install_fails_in_silence);
  g_test_add_func ("/install/without-systemctl", test_install_without_systemctl);
  g_test_add_func ("/install/needs-root", test_install_needs_root);
  return g_test_run ();
}
