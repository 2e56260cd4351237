/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "keyward"

#include "config.h"

#include "kw-cli-commands.h"
#include "kw-i18n.h"
#include "kw-log.h"
#include "kw-names.h"

#include <errno.h>
#include <glib/gi18n.h>
#include <locale.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/*
 * keyward, and hsmdaemon, which is the same program under the name that scripts for ownCloud know. Takes the command line
 * apart, finds the command in a table, runs it. Exit status: 0, 1 when it failed, 2 when the command line was wrong.
 */

#define EXIT_USAGE 2
#define NAME_KEYWARD "keyward"
#define DAEMON "keywardd"

static const KwCliCommand commands[] = {
  { "check", "", N_ ("Tell what is wrong with the set-up, and what to do"), 0, 0, NULL, NULL,
    kw_cli_run_check },
  { "decrypt", "[FILE]", N_ ("Decrypt an envelope; prints what is in it"), 0, 1, NAME_KEYWARD,
    kw_cli_add_decrypt_options, kw_cli_run_open },
  { "decrypt", "ID BASE64|-", N_ ("Decrypt with a key; prints base64"), 2, 2, KW_PROGRAM_HSMDAEMON,
    NULL, kw_cli_run_decrypt },
  { "device retry", "[SERIAL]", N_ ("Let a refused PIN be presented once more"), 0, 1, NULL, NULL,
    kw_cli_run_device_retry },
  { "devices", "", N_ ("List the devices"), 0, 0, NULL, NULL, kw_cli_run_devices },
  { "encrypt", "[FILE]", N_ ("Encrypt under the first key; prints an envelope"), 0, 1, NAME_KEYWARD,
    kw_cli_add_encrypt_options, kw_cli_run_seal },
  { "encrypt", "ID BASE64|-", N_ ("Encrypt under a public key; prints base64"), 2, 2,
    KW_PROGRAM_HSMDAEMON, NULL, kw_cli_run_encrypt },
  { "genkey", "LABEL", N_ ("Make an RSA key pair"), 1, 1, NULL, kw_cli_add_genkey_options,
    kw_cli_run_genkey },
  { "install", "", N_ ("Enable and start the service"), 0, 0, NULL, NULL, kw_cli_run_install },
  /* Before “keys”, which they begin with. */
  { "keys accept", "ID", N_ ("Accept the key that is there now under this id"), 1, 1, NULL,
    kw_cli_add_accept_options, kw_cli_run_keys_accept },
  { "keys generate", "", N_ ("Make a key through the daemon"), 0, 0, NULL,
    kw_cli_add_generate_options, kw_cli_run_keys_generate },
  { "keys", "", N_ ("List the keys, and when they were used"), 0, 0, NULL, NULL, kw_cli_run_keys },
  { "listslots", "", N_ ("List slots and the tokens in them"), 0, 0, NULL, NULL,
    kw_cli_run_listslots },
  { "monitor", "", N_ ("Print what changes, until interrupted"), 0, 0, NULL, NULL,
    kw_cli_run_monitor },
  { "random", "BYTES", N_ ("Print random bytes that a device made"), 1, 1, NULL,
    kw_cli_add_random_options, kw_cli_run_random },
  { "reload", "", N_ ("Have the daemon read its configuration anew"), 0, 0, NULL, NULL,
    kw_cli_run_reload },
  { "rewrap", "[FILE]", N_ ("Move an envelope to the first key"), 0, 1, NULL,
    kw_cli_add_envelope_options, kw_cli_run_rewrap },
  { "setup", "", N_ ("Write a configuration and show ownCloud's part"), 0, 0, NULL,
    kw_cli_add_setup_options, kw_cli_run_setup },
  { "showkey", "ID", N_ ("Print id, label and public key"), 1, 1, NULL, NULL, kw_cli_run_showkey },
  { "status", "", N_ ("Tell how the daemon, its devices and keys are"), 0, 0, NULL, NULL,
    kw_cli_run_status },
  { "test", "", N_ ("Test random numbers, each key on each device, and each pair"), 0, 0, NULL,
    NULL, kw_cli_run_test },
  { "unlock", "[SERIAL]", N_ ("Give devices their PIN, which is asked for and never stored"), 0, 1,
    NULL, NULL, kw_cli_run_unlock },
  { "webui login", "", N_ ("Print a link that lets a browser in"), 0, 0, NAME_KEYWARD, NULL,
    kw_cli_run_webui_login },
};

/* Options that every command has, and what they set beside KwCli. */
typedef struct
{
  gboolean help;
  gboolean version;
} GeneralOptions;

static GOptionContext *
new_context (KwCli *cli, GeneralOptions *general, const char *parameters)
{
  const GOptionEntry entries[] = {
    { "bus-address", 0, 0, G_OPTION_ARG_STRING, &cli->bus_address,
      N_ ("Find the daemon on the bus at this address"), "ADDRESS" },
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &cli->config_path, N_ ("Read this configuration"),
      "FILE" },
    { "json", 0, 0, G_OPTION_ARG_NONE, &cli->json, N_ ("Print data as JSON"), NULL },
    { "module", 0, 0, G_OPTION_ARG_FILENAME, &cli->module, N_ ("Use this PKCS#11 module"), "PATH" },
    { "session", 0, 0, G_OPTION_ARG_NONE, &cli->session, N_ ("Find the daemon on the session bus"),
      NULL },
    { "verbose", 0, 0, G_OPTION_ARG_NONE, &cli->verbose, N_ ("Say on standard error what is done"),
      NULL },
    { "help", 'h', 0, G_OPTION_ARG_NONE, &general->help, N_ ("Show this and end"), NULL },
    { "version", 0, 0, G_OPTION_ARG_NONE, &general->version, N_ ("Show the version and end"),
      NULL },
    G_OPTION_ENTRY_NULL,
  };
  GOptionContext *context = g_option_context_new (parameters);

  g_option_context_set_help_enabled (context, FALSE);
  g_option_context_add_main_entries (context, entries, GETTEXT_PACKAGE);
  g_option_context_set_translation_domain (context, GETTEXT_PACKAGE);
  return context;
}

static gboolean
is_hsmdaemon (void)
{
  return g_str_equal (g_get_prgname (), KW_PROGRAM_HSMDAEMON);
}

/* ownCloud's scripts call the program hsmdaemon, and some commands mean something else to them. */
static gboolean
is_for_this_name (const KwCliCommand *command)
{
  return command->program == NULL
         || is_hsmdaemon () == g_str_equal (command->program, KW_PROGRAM_HSMDAEMON);
}

static int
show_version (void)
{
  g_print ("keyward %s (%s)\n", KW_VERSION, KW_BUILD);
  return EXIT_SUCCESS;
}

static int
show_program_help (GOptionContext *context)
{
  g_autoptr (GString) summary = g_string_new (_ ("Commands:"));
  g_autofree char *help = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
    {
      g_autofree char *call = g_strdup_printf ("%s %s", commands[i].name, commands[i].arguments);

      if (!is_for_this_name (&commands[i]))
        continue;
      g_string_append_printf (summary, "\n  %-24s %s", call, _ (commands[i].summary));
    }
  if (is_hsmdaemon ())
    g_string_append_printf (summary, "\n\n%s",
                            _ ("Without a command the daemon runs in the foreground."));
  g_option_context_set_summary (context, summary->str);
  g_option_context_set_description (
      context, N_ ("“keywardd(8)”, “keyward(1)” and “keyward.toml(5)” say more."));
  help = g_option_context_get_help (context, TRUE, NULL);
  g_print ("%s", help);
  return EXIT_SUCCESS;
}

static int
fail_usage (const char *command, const char *message)
{
  g_autofree char *line
      = g_strdup_printf ("%s; see %s%s%s --help", message, g_get_prgname (),
                         command != NULL ? " " : "", command != NULL ? command : "");

  kw_cli_say (line);
  return EXIT_USAGE;
}

static gboolean
set_up_log (const KwCli *cli)
{
  KwLogConfig config = {
    .level = cli->verbose ? G_LOG_LEVEL_DEBUG : G_LOG_LEVEL_WARNING,
    .path = (char *) "stderr",
    .encoding = KW_LOG_ENCODING_CONSOLE,
  };
  g_autoptr (GError) error = NULL;
  g_autoptr (KwLogger) logger = kw_logger_new (&config, &error);

  if (logger == NULL)
    {
      kw_cli_say (error->message);
      return FALSE;
    }
  kw_logger_install (logger);
  return TRUE;
}

/* Becomes the daemon; returns only when that fails. */
static int
run_daemon (const KwCli *cli)
{
  const char *directory = g_getenv (KW_ENV_SBIN_PATH);
  g_autofree char *path
      = g_build_filename (directory != NULL ? directory : KW_SBIN_DIR, DAEMON, NULL);
  g_autofree char *message = NULL;
  char *config_arguments[] = { path, (char *) "--config", cli->config_path, NULL };
  char *plain_arguments[] = { path, NULL };

  if (cli->json || cli->module != NULL || cli->verbose)
    return fail_usage (NULL, "a command is missing for these options");
  execv (path, cli->config_path != NULL ? config_arguments : plain_arguments);
  message = g_strdup_printf ("Cannot start the daemon %s: %s", path, g_strerror (errno));
  kw_cli_say (message);
  return EXIT_FAILURE;
}

/* Finds the command that the words begin with; a command of two words takes both. */
static const KwCliCommand *
find_command (char **words, guint *out_n_words)
{
  for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
    {
      g_auto (GStrv) name = g_strsplit (commands[i].name, " ", 2);

      if (!g_str_equal (words[0], name[0]) || !is_for_this_name (&commands[i]))
        continue;
      if (name[1] != NULL && g_strcmp0 (words[1], name[1]) != 0)
        continue;
      *out_n_words = g_strv_length (name);
      return &commands[i];
    }
  return NULL;
}

static int
fail_unknown_command (const char *word)
{
  g_autofree char *message = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
    {
      gsize n_word = strlen (word);

      if (g_str_has_prefix (commands[i].name, word) && commands[i].name[n_word] == ' ')
        {
          message
              = g_strdup_printf ("“%s” is followed by “%s”", word, commands[i].name + n_word + 1);
          return fail_usage (NULL, message);
        }
    }
  message = g_strdup_printf ("There is no command “%s”", word);
  return fail_usage (NULL, message);
}

static gboolean
check_argument_count (const KwCliCommand *command, guint n_arguments, GError **error)
{
  if (n_arguments >= command->n_min && n_arguments <= command->n_max)
    return TRUE;
  if (command->n_max == 0)
    kw_cli_set_usage_error (error, "%s takes no argument", command->name);
  else
    kw_cli_set_usage_error (error, "%s wants %s", command->name, command->arguments);
  return FALSE;
}

static int
report_outcome (KwCli *cli, const KwCliCommand *command, const GError *error)
{
  if (error != NULL && error->domain == G_OPTION_ERROR)
    return fail_usage (command->name, error->message);
  if (error != NULL)
    {
      kw_cli_say (error->message);
      return cli->exit_status >= 0 ? cli->exit_status : EXIT_FAILURE;
    }
  for (guint i = 0; i < cli->notices->len; i++)
    kw_cli_say (g_ptr_array_index (cli->notices, i));
  return cli->exit_status >= 0 ? cli->exit_status : EXIT_SUCCESS;
}

static int
run_command (KwCli *cli,
             GeneralOptions *general,
             const KwCliCommand *command,
             int argc,
             char **argv)
{
  g_autoptr (GOptionContext) context = new_context (cli, general, command->arguments);
  g_autoptr (GError) error = NULL;
  g_autofree char *title = g_strdup_printf ("%s %s", g_get_prgname (), command->name);

  if (command->add_options != NULL)
    command->add_options (cli, context);
  g_option_context_set_summary (context, command->summary);
  if (!g_option_context_parse (context, &argc, &argv, &error))
    return fail_usage (command->name, error->message);
  if (general->version)
    return show_version ();
  if (general->help)
    {
      g_autofree char *help = NULL;

      g_set_prgname (title);
      help = g_option_context_get_help (context, TRUE, NULL);
      g_print ("%s", help);
      return EXIT_SUCCESS;
    }
  if (argc > 1 && g_str_equal (argv[1], "--"))
    {
      argv++;
      argc--;
    }
  if (check_argument_count (command, (guint) argc - 1, &error) && set_up_log (cli))
    command->run (cli, argv + 1, &error);
  return report_outcome (cli, command, error);
}

int
main (int argc, char **argv)
{
  const struct rlimit no_core = { 0, 0 };
  g_autoptr (KwCli) cli = kw_cli_new ();
  GeneralOptions general = { FALSE, FALSE };
  g_autoptr (GOptionContext) context = new_context (cli, &general, "COMMAND [ARGUMENT…]");
  g_autoptr (GError) error = NULL;
  g_autofree char *name = NULL;
  const KwCliCommand *command = NULL;
  guint n_words = 0;

  /* Output and messages are UTF-8 or the locale's; a core file would hold the PIN. */
  setlocale (LC_ALL, "");
  kw_i18n_init ();
  (void) setrlimit (RLIMIT_CORE, &no_core);
  name = argc > 0 ? g_path_get_basename (argv[0]) : g_strdup ("keyward");
  g_set_prgname (name);

  /* Up to the command; what follows may have options that only this command knows. */
  g_option_context_set_strict_posix (context, TRUE);
  if (!g_option_context_parse (context, &argc, &argv, &error))
    return fail_usage (NULL, error->message);
  if (general.version)
    return show_version ();
  if (general.help)
    return show_program_help (context);
  if (argc < 2 && is_hsmdaemon ())
    return run_daemon (cli);
  if (argc < 2)
    {
      show_program_help (context);
      return EXIT_USAGE;
    }
  command = find_command (argv + 1, &n_words);
  if (command == NULL)
    return fail_unknown_command (argv[1]);
  return run_command (cli, &general, command, argc - (int) n_words, argv + n_words);
}
