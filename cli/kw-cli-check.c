/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-check"

#include "config.h"

#include "kw-backend.h"
#include "kw-cli-access.h"
#include "kw-cli-commands.h"
#include "kw-cli-config.h"
#include "kw-cli-port.h"
#include "kw-cli-report.h"
#include "kw-cli-token.h"
#include "kw-error.h"
#include "kw-names.h"
#include "kw-pin-guard.h"
#include "kw-plugins.h"
#include "kw-state-file.h"

#include <grp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * check: looks at everything that has to be right before the daemon can work, and says of each what is wrong and what to
 * do. It changes nothing, and presents no PIN.
 */

typedef struct
{
  KwCli *cli;          /* borrowed */
  KwConfig *config;    /* owned; the defaults where there is none that can be used */
  const char *path;    /* borrowed; NULL = there is no configuration */
  gboolean is_parsed;  /* the configuration could be read, whatever its mode */
  KwCliUser *service;  /* owned; NULL = not root, or there is no such user */
  KwCliReport *report; /* owned */
} Check;

static void
check_free (Check *check)
{
  g_clear_object (&check->config);
  g_clear_pointer (&check->service, kw_cli_user_free);
  kw_cli_report_free (check->report);
  g_free (check);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Check, check_free)

/* Most messages of ours are "what is wrong; what to do": takes them apart. */
static void
report_error (Check *check, const char *name, const GError *error, const char *advice)
{
  const char *semicolon = strstr (error->message, "; ");
  const char *ours = NULL;
  g_autofree char *text = NULL;

  if (semicolon == NULL)
    {
      kw_cli_report_problem (check->report, name, advice, "%s", error->message);
      return;
    }
  text = g_strndup (error->message, (gsize) (semicolon - error->message));
  ours = semicolon + strlen ("; ");
  if (g_str_has_prefix (ours, "run: "))
    ours += strlen ("run: ");
  kw_cli_report_problem (check->report, name, ours, "%s", text);
}

static void
check_configuration (Check *check)
{
  g_autoptr (GError) problem = NULL;

  check->path = check->cli->config_path != NULL ? check->cli->config_path : kw_config_find_file ();
  check->config = kw_cli_config_load_leniently (check->cli, &problem);
  check->is_parsed
      = check->path != NULL && g_strcmp0 (kw_config_get_path (check->config), check->path) == 0;
  if (check->path == NULL)
    kw_cli_report_problem (check->report, "configuration", "keyward setup",
                           "There is neither %s nor %s", KW_CONFIG_FILE, KW_CONFIG_FILE_HSMDAEMON);
  else if (check->is_parsed)
    kw_cli_report_ok (check->report, "configuration", "%s is valid", check->path);
  else
    report_error (check, "configuration", problem,
                  "correct the file, or have it made anew: keyward setup --force");
  if (check->is_parsed && problem != NULL)
    report_error (check, "permissions", problem, NULL);
  else if (check->is_parsed)
    kw_cli_report_ok (check->report, "permissions", "%s is closed to others, or holds no secret",
                      check->path);
}

static void
check_user (Check *check)
{
  if (getgrnam (KW_SERVICE_GROUP) == NULL)
    kw_cli_report_note (
        check->report, "group",
        "There is no group %s; systemd-sysusers makes it when the service is installed",
        KW_SERVICE_GROUP);
  else
    kw_cli_report_ok (check->report, "group", "Members of group %s may open the line socket",
                      KW_SERVICE_GROUP);
  if (geteuid () != 0)
    return;
  check->service = kw_cli_user_lookup (KW_SERVICE_USER);
  if (check->service == NULL)
    kw_cli_report_note (
        check->report, "user",
        "The service runs as user %s, whom there is not; systemd-sysusers makes him when it is installed",
        KW_SERVICE_USER);
  else
    kw_cli_report_ok (check->report, "user",
                      "The service runs as user %s; files are looked at with his eyes",
                      KW_SERVICE_USER);
}

/* Whether the service's user, or we if we are not root, can get at a file. */
static gboolean
check_access (Check *check, const char *name, const char *path, int wanted)
{
  g_autofree char *denial = NULL;
  g_autofree char *advice = NULL;

  if (path == NULL || check->service == NULL)
    return TRUE;
  denial = kw_cli_user_explain_denial (check->service, path, wanted);
  if (denial == NULL)
    return TRUE;
  advice = g_strdup_printf ("chown %s %s, and let him pass the folders above it", KW_SERVICE_USER,
                            path);
  kw_cli_report_problem (check->report, name, advice, "%s", denial);
  return FALSE;
}

/* What the service has to read, seen with the eyes of its user. */
static void
check_service_files (Check *check)
{
  const KwServerConfig *server = kw_config_get_server (check->config);
  g_auto (GStrv) files = kw_config_dup_secret_files (check->config);
  gboolean ok = TRUE;

  if (!check->is_parsed || check->service == NULL)
    return;
  ok = check_access (check, "permissions", check->path, R_OK);
  for (guint i = 0; files[i] != NULL; i++)
    ok = check_access (check, "permissions", files[i], R_OK) && ok;
  ok = check_access (check, "permissions", server->tls_certificate, R_OK) && ok;
  ok = check_access (check, "permissions", server->tls_key, R_OK) && ok;
  if (ok)
    kw_cli_report_ok (check->report, "permissions", "User %s can read what the service needs",
                      KW_SERVICE_USER);
}

/* A credential is there for the service alone, so that it cannot be seen from here is no fault. */
static gboolean
is_credential_of_service (const GError *error)
{
  return g_getenv ("CREDENTIALS_DIRECTORY") == NULL
         && strstr (error->message, "\"credential:") != NULL;
}

static void
check_secret (Check *check)
{
  g_autoptr (GError) error = NULL;

  if (!check->is_parsed)
    return;
  /* The PIN comes first there, and has a line of its own. */
  if (kw_config_load_pin (check->config, NULL) && !kw_config_load_secrets (check->config, &error))
    {
      if (is_credential_of_service (error))
        kw_cli_report_note (check->report, "secret",
                            "The JWT secret comes from systemd and cannot be seen from here");
      else
        report_error (check, "secret", error, "make the file, or run: keyward setup");
    }
  else if (kw_config_get_jwt (check->config)->secret == NULL
           && !kw_config_load_pin (check->config, NULL))
    kw_cli_report_note (check->report, "secret",
                        "The JWT secret is looked at when the PIN can be read");
  else if (!kw_config_check_server (check->config, &error))
    report_error (check, "secret", error, "keyward setup makes one");
  else
    kw_cli_report_ok (check->report, "secret", "The JWT secret is strong enough");
}

static gboolean
is_smartcard (Check *check)
{
  return kw_config_get_hsm (check->config)->model == KW_HSM_MODEL_SMARTCARD;
}

/* Reads the PIN; says why if that fails. */
static gboolean
check_pin_is_readable (Check *check)
{
  g_autoptr (GError) error = NULL;

  if (kw_config_load_pin (check->config, &error))
    return TRUE;
  if (is_credential_of_service (error))
    kw_cli_report_note (check->report, "pin",
                        "The PIN comes from systemd and cannot be seen from here");
  else
    report_error (check, "pin", error,
                  is_smartcard (check) ? "make the file that [hsm] hsm_pin names"
                                       : "make the file that [pkcs11] pin names");
  return FALSE;
}

static void
check_pin (Check *check, KwBackend *backend, KwToken *token)
{
  g_autoptr (KwPinGuard) guard = kw_pin_guard_new (kw_config_get_state_directory (check->config));
  g_autoptr (GError) error = NULL;
  g_autofree char *tries = NULL;
  g_autofree char *advice = NULL;
  KwTokenAccess access = { 0 };
  KwPinState state = { 0 };

  if (!kw_token_get_pin_state (token, &state, &error))
    {
      report_error (check, "pin", error, "see whether the token still answers");
      return;
    }
  if (!state.login_required)
    {
      kw_cli_report_ok (check->report, "pin", "The token wants no PIN");
      return;
    }
  if (!state.initialized)
    {
      kw_cli_report_problem (
          check->report, "pin",
          "set one with the token's own tool, for example pkcs11-tool --init-pin",
          "The token has no user PIN yet");
      return;
    }
  if (!check_pin_is_readable (check))
    return;
  if (!kw_backend_get_access (backend, token, &access))
    access.pin = kw_config_get_pkcs11 (check->config)->pin;
  if (state.protected_path && access.pin == NULL)
    {
      kw_cli_report_note (check->report, "pin", "The PIN is typed at the reader");
      return;
    }
  if (!kw_pin_guard_check (guard, token, &state, access.pin, access.pin_name, &error))
    {
      advice
          = g_strdup_printf ("set %s", access.pin_name != NULL ? access.pin_name : "[pkcs11] pin");
      report_error (check, "pin", error, advice);
      return;
    }
  tries = state.tries_left >= 0 ? g_strdup_printf ("; %d tries left", state.tries_left)
                                : g_strdup ("");
  if (state.count_low)
    kw_cli_report_note (
        check->report, "pin",
        "A wrong PIN was presented to the token lately%s; the configured one was not refused so far",
        tries);
  else
    kw_cli_report_ok (check->report, "pin", "The PIN was not refused so far%s", tries);
}

static GPtrArray *
find_tokens (Check *check, KwBackend *backend)
{
  g_autoptr (GError) error = NULL;
  GPtrArray *tokens = kw_backend_coldplug (backend, &error);

  if (tokens == NULL)
    kw_cli_report_problem (
        check->report, "token",
        g_error_matches (error, KW_ERROR, KW_ERROR_AMBIGUOUS)
            ? "set [pkcs11] token_label or token_serial to the one that is meant"
        : is_smartcard (check)
            ? "plug a card in; listslots shows what is there"
            : "plug it in, or correct [pkcs11] token_label, token_serial, uri or slot; listslots shows "
              "what is there",
        "%s", error->message);
  return tokens;
}

static void
check_token (Check *check, KwBackend *backend, KwToken *token)
{
  const KwTokenInfo *info = kw_token_get_info (token);

  if (is_smartcard (check))
    kw_cli_report_ok (check->report, "token", "%s, serial number %s, %s, in reader %s", info->label,
                      info->serial, info->model, info->reader);
  else
    kw_cli_report_ok (check->report, "token",
                      "%s, serial number %s, %s, in slot %" G_GUINT64_FORMAT, info->label,
                      info->serial, info->model, info->slot);
  check_pin (check, backend, token);
}

static void
check_backend (Check *check, KwBackend *backend)
{
  const char *module = kw_config_get_pkcs11 (check->config)->module;
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) slots = kw_backend_list_slots (backend, &error);
  g_autoptr (GPtrArray) tokens = NULL;

  if (slots == NULL && !g_error_matches (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED))
    {
      kw_cli_report_problem (
          check->report, is_smartcard (check) ? "pcscd" : "module",
          is_smartcard (check)
              ? "install and start pcscd: systemctl enable --now pcscd.socket"
              : "see whether the path in [pkcs11] module is right and the package is installed",
          "%s", error->message);
      return;
    }
  if (slots != NULL && is_smartcard (check))
    kw_cli_report_ok (check->report, "pcscd", "It answers and has %u readers", slots->len);
  else if (slots != NULL && check_access (check, "module", module, R_OK))
    kw_cli_report_ok (check->report, "module", "%s works and has %u slots", module, slots->len);
  tokens = find_tokens (check, backend);
  for (guint i = 0; tokens != NULL && i < tokens->len; i++)
    check_token (check, backend, g_ptr_array_index (tokens, i));
}

static gboolean
check_module_is_set (Check *check)
{
  g_autoptr (GPtrArray) modules = NULL;
  g_autofree char *list = NULL;

  if (is_smartcard (check) || kw_config_get_pkcs11 (check->config)->module != NULL)
    return TRUE;
  modules = kw_cli_find_modules ("/");
  g_ptr_array_add (modules, NULL);
  list = g_strjoinv (", ", (char **) modules->pdata);
  kw_cli_report_problem (check->report, "module",
                         "set [pkcs11] module to the path of the token's PKCS#11 module",
                         "No module is configured; this machine has %s",
                         list[0] != '\0' ? list : "none in the usual places");
  return FALSE;
}

static gboolean
check_plugins (Check *check)
{
  g_autoptr (GPtrArray) backends = NULL;
  g_autoptr (GString) names = g_string_new (NULL);
  const char *path = g_getenv (KW_ENV_PLUGIN_PATH);

  kw_cli_load_plugins ();
  backends = kw_plugins_new_objects (KW_BACKEND_EXTENSION_POINT);
  if (backends->len == 0)
    {
      kw_cli_report_problem (check->report, "plugins",
                             "install Keyward anew; libkeyward-pkcs11.so is one of its files",
                             "There is no back end in %s", path != NULL ? path : KW_PLUGIN_DIR);
      return FALSE;
    }
  for (guint i = 0; i < backends->len; i++)
    g_string_append_printf (names, " %s", kw_backend_get_name (g_ptr_array_index (backends, i)));
  kw_cli_report_ok (check->report, "plugins", "Back ends:%s", names->str);
  return TRUE;
}

static void
check_tokens (Check *check)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) backends = NULL;

  if (!check_plugins (check) || !check_module_is_set (check))
    return;
  backends = kw_plugins_new_backends (check->config, &error);
  if (backends == NULL)
    {
      report_error (check, "token", error, "correct table [pkcs11]");
      return;
    }
  for (guint i = 0; i < backends->len; i++)
    check_backend (check, g_ptr_array_index (backends, i));
}

static void
check_port (Check *check, const char *table, const char *hostname, guint16 port)
{
  g_autofree char *text = NULL;
  g_autofree char *advice = NULL;
  KwCliPortState state = kw_cli_port_look_at (hostname, port, &text);

  if (state == KW_CLI_PORT_FREE || state == KW_CLI_PORT_OURS)
    kw_cli_report_ok (check->report, "port", "[%s] %s:%u %s", table, hostname, port, text);
  else if (state == KW_CLI_PORT_UNKNOWN)
    kw_cli_report_note (check->report, "port", "[%s] %s:%u %s", table, hostname, port, text);
  else
    {
      advice = g_strdup_printf ("stop that program, or set another [%s] port", table);
      kw_cli_report_problem (check->report, "port", advice, "[%s] %s:%u %s", table, hostname, port,
                             text);
    }
}

static void
check_ports (Check *check)
{
  const KwServerConfig *server = kw_config_get_server (check->config);
  const KwLineConfig *line = kw_config_get_line (check->config);

  check_port (check, "server", server->hostname, server->port);
  if (line->enabled && line->port != 0)
    check_port (check, "line", line->hostname, line->port);
}

static gboolean
check_state_files (Check *check, const char *directory)
{
  static const char *const names[] = { KW_STATE_FILE_PINS, KW_STATE_FILE_KEYS };

  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (GKeyFile) contents = kw_state_file_read (directory, names[i], &error);

      if (contents == NULL)
        {
          kw_cli_report_problem (
              check->report, "state",
              "give the files to the service's user, or take the damaged one back from a backup",
              "%s", error->message);
          return FALSE;
        }
    }
  return TRUE;
}

static void
check_state (Check *check)
{
  const char *directory = kw_config_get_state_directory (check->config);

  if (!g_file_test (directory, G_FILE_TEST_IS_DIR))
    {
      kw_cli_report_note (check->report, "state",
                          "%s is not there yet; it is made when the daemon starts", directory);
      return;
    }
  if (!check_access (check, "state", directory, R_OK | W_OK | X_OK))
    return;
  if (access (directory, R_OK | W_OK | X_OK) != 0)
    {
      kw_cli_report_problem (check->report, "state",
                             "run this as root, or as the user of the service",
                             "%s cannot be used by this user", directory);
      return;
    }
  if (check_state_files (check, directory))
    kw_cli_report_ok (check->report, "state", "%s can be used", directory);
}

gboolean
kw_cli_run_check (KwCli *cli, char **arguments G_GNUC_UNUSED, GError **error)
{
  g_autoptr (Check) check = g_new0 (Check, 1);
  guint n_problems = 0;

  check->cli = cli;
  check->report = kw_cli_report_new ();
  check_configuration (check);
  check_user (check);
  check_service_files (check);
  check_secret (check);
  check_ports (check);
  /* What follows is seen as the daemon will see it. */
  if (!kw_cli_become_service (kw_config_get_state_directory (check->config), error))
    return FALSE;
  check_tokens (check);
  check_state (check);
  if (!kw_cli_report_print (check->report, cli->json, error))
    return FALSE;
  n_problems = kw_cli_report_count_problems (check->report);
  if (n_problems == 1)
    g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED, "1 problem found");
  else if (n_problems > 1)
    g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "%u problems found", n_problems);
  return n_problems == 0;
}
