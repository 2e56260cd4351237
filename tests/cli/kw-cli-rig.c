/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-rig"

#include "config.h"

#include "kw-cli-rig.h"

#include "kw-names.h"

#include <glib/gstdio.h>
#include <pwd.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Runs the commands as a person would, on a token of the test's own, and looks at exit status, standard output and
 * standard error.
 */

/* Where root runs this and the service is installed, what root made is to be the service's: commands go on as its user. */
static void
give_to_service (const char *path)
{
  const struct passwd *service = geteuid () == 0 ? getpwnam (KW_SERVICE_USER) : NULL;
  g_autoptr (GDir) directory = NULL;
  const char *name = NULL;
  struct stat info;

  if (service == NULL || lstat (path, &info) != 0)
    return;
  if (info.st_uid == 0 && (S_ISDIR (info.st_mode) || info.st_nlink == 1))
    g_assert_cmpint (lchown (path, service->pw_uid, service->pw_gid), ==, 0);
  directory = S_ISDIR (info.st_mode) ? g_dir_open (path, 0, NULL) : NULL;
  while (directory != NULL && (name = g_dir_read_name (directory)) != NULL)
    {
      g_autofree char *child = g_build_filename (path, name, NULL);

      give_to_service (child);
    }
}

static guint16
find_free_port (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GInetAddress) address = g_inet_address_new_loopback (G_SOCKET_FAMILY_IPV4);
  g_autoptr (GSocketAddress) any = g_inet_socket_address_new (address, 0);
  g_autoptr (GSocketAddress) bound = NULL;
  g_autoptr (GSocket) socket
      = g_socket_new (G_SOCKET_FAMILY_IPV4, G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_TCP, &error);

  g_assert_no_error (error);
  g_socket_bind (socket, any, FALSE, &error);
  g_assert_no_error (error);
  bound = g_socket_get_local_address (socket, &error);
  g_assert_no_error (error);
  return g_inet_socket_address_get_port (G_INET_SOCKET_ADDRESS (bound));
}

KwCliRig *
kw_cli_rig_new (void)
{
  KwCliRig *self = g_new0 (KwCliRig, 1);

  self->hsm = kw_soft_hsm_new ();
  self->shim = kw_shim_new ();
  self->directory = g_strdup (kw_soft_hsm_get_directory (self->hsm));
  self->config = kw_cli_rig_dup_path (self, "keyward.toml");
  self->state = kw_cli_rig_dup_path (self, "state");
  self->port = find_free_port ();
  g_assert_cmpint (g_mkdir (self->state, 0700), ==, 0);
  kw_soft_hsm_add_token (self->hsm, "one", KW_TEST_SO_PIN, KW_TEST_PIN);
  kw_cli_rig_configure (self, kw_soft_hsm_find_module (), "pin = \"" KW_TEST_PIN "\"", NULL);
  return self;
}

void
kw_cli_rig_free (KwCliRig *self)
{
  kw_shim_free (self->shim);
  kw_soft_hsm_free (self->hsm);
  g_free (self->directory);
  g_free (self->config);
  g_free (self->state);
  g_free (self);
}

char *
kw_cli_rig_dup_path (KwCliRig *self, const char *name)
{
  return g_build_filename (self->directory, name, NULL);
}

void
kw_cli_rig_write (const char *path, const char *text, int mode)
{
  g_autoptr (GError) error = NULL;

  g_file_set_contents (path, text, -1, &error);
  g_assert_no_error (error);
  g_assert_cmpint (g_chmod (path, mode), ==, 0);
}

char *
kw_cli_rig_read (const char *path)
{
  g_autoptr (GError) error = NULL;
  char *text = NULL;

  g_file_get_contents (path, &text, NULL, &error);
  g_assert_no_error (error);
  return text;
}

/* Writes the configuration; @pkcs11 has more lines for that table, @rest further tables. */
void
kw_cli_rig_configure (KwCliRig *self, const char *module, const char *pkcs11, const char *rest)
{
  g_autofree char *text
      = g_strdup_printf ("[server]\nport = %u\n\n[jwt]\nsecret = \"0123456789abcdef\"\n\n"
                         "[state]\ndirectory = \"%s\"\n\n[pkcs11]\nmodule = \"%s\"\n%s\n\n%s\n",
                         self->port, self->state, module, pkcs11, rest != NULL ? rest : "");

  kw_cli_rig_write (self->config, text, 0600);
}

/* "keyward" and "hsmdaemon" stand for the programs of this build. */
const char *
kw_cli_rig_get_program (const char *name)
{
  if (g_str_equal (name, "keyward"))
    return KW_TEST_KEYWARD;
  if (g_str_equal (name, "hsmdaemon"))
    return KW_TEST_HSMDAEMON;
  return name;
}

/*
 * LeakSanitizer's own tracer crashes when it looks at these short-lived processes, not each time but often enough. What they
 * run is looked at for leaks by the suites that link it; every other check of the sanitizers stays on.
 */
static void
leave_leaks_to_others (GSubprocessLauncher *launcher)
{
  const char *options = g_getenv ("ASAN_OPTIONS");
  g_autofree char *with = g_strconcat (options != NULL ? options : "", ":detect_leaks=0", NULL);

  g_subprocess_launcher_setenv (launcher, "ASAN_OPTIONS", with, TRUE);
}

GSubprocessLauncher *
kw_cli_rig_new_launcher (GSubprocessFlags flags)
{
  GSubprocessLauncher *launcher = g_subprocess_launcher_new (flags);
  const char *conf = g_getenv ("SOFTHSM2_CONF");
  const char *shim = g_getenv (KW_SHIM_ENV_CONTROL);
  g_autofree char *directory = conf != NULL ? g_path_get_dirname (conf) : NULL;

  if (directory != NULL && strstr (directory, "keyward-softhsm-") != NULL)
    give_to_service (directory);
  if (shim != NULL)
    give_to_service (shim);
  g_subprocess_launcher_setenv (launcher, KW_ENV_PLUGIN_PATH, KW_TEST_PLUGIN_PATH, TRUE);
  g_subprocess_launcher_setenv (launcher, "LC_ALL", "C.UTF-8", TRUE);
  g_subprocess_launcher_unsetenv (launcher, "LANGUAGE");
  leave_leaks_to_others (launcher);
  /* Whoever runs the tests keeps his own records. */
  g_subprocess_launcher_setenv (launcher, "HOME", "/nonexistent", TRUE);
  /* A daemon of this machine has no part in it. */
  g_subprocess_launcher_setenv (launcher, "DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent",
                                TRUE);
  g_subprocess_launcher_unsetenv (launcher, "XDG_STATE_HOME");
  g_subprocess_launcher_unsetenv (launcher, "CREDENTIALS_DIRECTORY");
  return launcher;
}

static KwCliRun *
run_vector (GSubprocessLauncher *launcher, const char *input, char **argv)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GSubprocess) process
      = g_subprocess_launcher_spawnv (launcher, (const char *const *) argv, &error);
  KwCliRun *run = g_new0 (KwCliRun, 1);

  g_assert_no_error (error);
  g_subprocess_communicate_utf8 (process, input, NULL, &run->out, &run->err, &error);
  g_assert_no_error (error);
  run->status = g_subprocess_get_if_exited (process) ? g_subprocess_get_exit_status (process) : -1;
  if (run->out == NULL)
    run->out = g_strdup ("");
  if (run->err == NULL)
    run->err = g_strdup ("");
  g_test_message ("%s… ended with %d: %s", argv[0], run->status, run->err);
  return run;
}

static void
add_arguments (GPtrArray *argv, va_list args)
{
  const char *argument = NULL;

  while ((argument = va_arg (args, const char *)) != NULL)
    g_ptr_array_add (argv,
                     g_strdup (argv->len == 0 ? kw_cli_rig_get_program (argument) : argument));
}

/* The general case; first argument is the program. */
KwCliRun *
kw_cli_rig_run_by (GSubprocessLauncher *launcher, const char *input, ...)
{
  g_autoptr (GPtrArray) argv = g_ptr_array_new_with_free_func (g_free);
  va_list args;

  va_start (args, input);
  add_arguments (argv, args);
  va_end (args);
  g_ptr_array_add (argv, NULL);
  return run_vector (launcher, input, (char **) argv->pdata);
}

/* These two are ownCloud's under the name hsmdaemon alone; under the other they speak to a daemon. */
static const char *
find_program (char **arguments)
{
  static const char *const owncloud[] = { "encrypt", "decrypt", NULL };

  for (guint i = 0; arguments[i] != NULL; i++)
    {
      if (g_strv_contains (owncloud, arguments[i]))
        return KW_TEST_HSMDAEMON;
    }
  return KW_TEST_KEYWARD;
}

static KwCliRun *
run_keyward (KwCliRig *self, const char *input, va_list args)
{
  g_autoptr (GSubprocessLauncher) launcher
      = kw_cli_rig_new_launcher (G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE
                                 | G_SUBPROCESS_FLAGS_STDERR_PIPE);
  g_autoptr (GPtrArray) argv = g_ptr_array_new_with_free_func (g_free);

  g_ptr_array_add (argv, g_strdup (KW_TEST_KEYWARD));
  if (self != NULL)
    {
      g_ptr_array_add (argv, g_strdup ("--config"));
      g_ptr_array_add (argv, g_strdup (self->config));
    }
  add_arguments (argv, args);
  g_ptr_array_add (argv, NULL);
  g_free (argv->pdata[0]);
  argv->pdata[0] = g_strdup (find_program ((char **) argv->pdata + 1));
  return run_vector (launcher, input, (char **) argv->pdata);
}

/* Runs "keyward --config CONFIG …"; without a rig, "keyward …". */
KwCliRun *
kw_cli_rig_run (KwCliRig *self, ...)
{
  KwCliRun *run = NULL;
  va_list args;

  va_start (args, self);
  run = run_keyward (self, NULL, args);
  va_end (args);
  return run;
}

KwCliRun *
kw_cli_rig_run_with_input (KwCliRig *self, const char *input, ...)
{
  KwCliRun *run = NULL;
  va_list args;

  va_start (args, input);
  run = run_keyward (self, input, args);
  va_end (args);
  return run;
}

void
kw_cli_run_free (KwCliRun *self)
{
  g_free (self->out);
  g_free (self->err);
  g_free (self);
}

void
kw_cli_run_assert_ok (const KwCliRun *self)
{
  g_assert_cmpint (self->status, ==, 0);
  g_assert_cmpstr (self->out, !=, "");
}

void
kw_cli_run_assert_silent_ok (const KwCliRun *self)
{
  kw_cli_run_assert_ok (self);
  g_assert_cmpstr (self->err, ==, "");
}

/* Nothing on standard output, exactly one line on standard error, with @message in it. */
void
kw_cli_run_assert_failed (const KwCliRun *self, int status, const char *message)
{
  g_assert_cmpint (self->status, ==, status);
  g_assert_cmpstr (self->out, ==, "");
  g_assert_true (g_str_has_prefix (self->err, "keyward: ")
                 || g_str_has_prefix (self->err, "hsmdaemon: "));
  g_assert_true (strchr (self->err, '\n') == self->err + strlen (self->err) - 1);
  if (strstr (self->err, message) == NULL)
    g_assert_cmpstr (self->err, ==, message);
}

JsonNode *
kw_cli_run_parse (const KwCliRun *self)
{
  g_autoptr (GError) error = NULL;
  JsonNode *node = json_from_string (self->out, &error);

  g_assert_no_error (error);
  return node;
}

/* Makes a key, and tells its id. */
char *
kw_cli_rig_generate (KwCliRig *self)
{
  g_autoptr (KwCliRun) run = kw_cli_rig_run (self, "genkey", "test", NULL);

  kw_cli_run_assert_silent_ok (run);
  g_assert_true (g_str_has_prefix (run->out, "Id: "));
  return g_strndup (run->out + strlen ("Id: "), 36);
}

/* Whether a file below @path has @text in it. */
gboolean
kw_cli_rig_tree_contains (const char *path, const char *text)
{
  g_autoptr (GDir) directory = g_dir_open (path, 0, NULL);
  const char *name = NULL;
  g_autofree char *contents = NULL;
  gsize size = 0;

  while (directory != NULL && (name = g_dir_read_name (directory)) != NULL)
    {
      g_autofree char *child = g_build_filename (path, name, NULL);

      if (kw_cli_rig_tree_contains (child, text))
        return TRUE;
    }
  return directory == NULL && g_file_get_contents (path, &contents, &size, NULL)
         && memmem (contents, size, text, strlen (text)) != NULL;
}
