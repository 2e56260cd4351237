/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "keywardd"

#include "config.h"

#include "kw-daemon.h"
#include "kw-error.h"
#include "kw-i18n.h"
#include "kw-names.h"
#include "kw-secret.h"

#include <glib/gi18n.h>
#include <locale.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>

/*
 * Reads the options and the configuration, sees to it that secrets can be kept, and runs the daemon.
 */

#define EXIT_USAGE 2

static int
fail (const char *text)
{
  g_printerr ("keywardd: %s\n", text);
  return EXIT_FAILURE;
}

static KwConfig *
load_config (const char *given_path, GError **error)
{
  const char *path = given_path != NULL ? given_path : kw_config_find_file ();
  g_autoptr (KwConfig) config = NULL;

  if (path == NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                   "There is no configuration: neither %s nor %s; make one with: hsmdaemon setup",
                   KW_CONFIG_FILE, KW_CONFIG_FILE_HSMDAEMON);
      return NULL;
    }
  config = kw_config_new_from_file (path, error);
  if (config == NULL || !kw_config_load_secrets (config, error)
      || !kw_config_check_server (config, error))
    return NULL;
  return g_steal_pointer (&config);
}

/* Secrets need memory that is locked and in no core dump; without it the daemon does not start. */
static gboolean
protect_process (GError **error)
{
  g_autoptr (KwSecret) probe = NULL;

  (void) prctl (PR_SET_DUMPABLE, 0);
  umask (0077);
  probe = kw_secret_new (1, error);
  return probe != NULL;
}

int
main (int argc, char **argv)
{
  g_autofree char *config_path = NULL;
  KwBusOptions bus_options = { FALSE, NULL };
  g_autofree char *bus_address = NULL;
  gboolean version = FALSE;
  const GOptionEntry entries[] = {
    { "config", 'c', 0, G_OPTION_ARG_FILENAME, &config_path,
      N_ ("Read the configuration from FILE"), "FILE" },
    { "session", 0, 0, G_OPTION_ARG_NONE, &bus_options.session,
      N_ ("Go to the session bus, not the system's"), NULL },
    { "bus-address", 0, 0, G_OPTION_ARG_STRING, &bus_address, N_ ("Go to the bus at this address"),
      "ADDRESS" },
    { "version", 'V', 0, G_OPTION_ARG_NONE, &version, N_ ("Show the version"), NULL },
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GOptionContext) options
      = g_option_context_new (N_ ("- serve keys from hardware security modules"));
  g_autoptr (GError) error = NULL;
  g_autoptr (KwConfig) config = NULL;
  g_autoptr (KwLogger) logger = NULL;
  g_autoptr (KwDaemon) daemon = NULL;
  int status = EXIT_FAILURE;

  setlocale (LC_ALL, "");
  kw_i18n_init ();
  g_option_context_add_main_entries (options, entries, GETTEXT_PACKAGE);
  g_option_context_set_translation_domain (options, GETTEXT_PACKAGE);
  if (!g_option_context_parse (options, &argc, &argv, &error) || argc > 1)
    {
      g_printerr ("keywardd: %s; see keywardd --help\n",
                  error != NULL ? error->message : "it takes no arguments");
      return EXIT_USAGE;
    }
  if (version)
    {
      g_print ("keywardd %s (%s)\n", KW_VERSION, KW_BUILD);
      return EXIT_SUCCESS;
    }
  if (!protect_process (&error))
    return fail (error->message);
  config = load_config (config_path, &error);
  if (config == NULL)
    return fail (error->message);
  logger = kw_logger_new (kw_config_get_log (config), &error);
  if (logger == NULL)
    return fail (error->message);
  kw_logger_install (logger);
  bus_options.address = bus_address;
  daemon = kw_daemon_new (config, logger, &bus_options);
  status = kw_daemon_run (daemon, &error);
  if (error != NULL)
    kw_log (G_LOG_LEVEL_CRITICAL, "Cannot start", "error", error->message, NULL);
  return status;
}
