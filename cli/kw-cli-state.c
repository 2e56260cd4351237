/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-state"

#include "config.h"

#include "kw-bus-names.h"
#include "kw-cli-bus.h"
#include "kw-cli-commands.h"
#include "kw-cli-config.h"
#include "kw-cli-output.h"
#include "kw-cli-sentence.h"
#include "kw-error.h"
#include "kw-keyring.h"
#include "kw-pin-guard.h"
#include "kw-uuid.h"

#include <glib/gi18n.h>
#include <string.h>

/*
 * device retry and keys accept: acts of the administrator on what is remembered of PINs and keys. A running daemon does them;
 * without one, or for a device that is not there, the state directory is changed here. Which AES key is meant only a daemon can
 * tell.
 */

static gboolean
print_retry (KwCli *cli, const char *serial, guint n_forgotten, GError **error)
{
  g_autofree char *text = NULL;

  if (cli->json)
    {
      g_autoptr (JsonBuilder) builder = json_builder_new ();

      json_builder_begin_object (builder);
      kw_cli_json_add_string (builder, "serial", serial);
      kw_cli_json_add_int (builder, "tokens", n_forgotten);
      json_builder_end_object (builder);
      return kw_cli_output_json (builder, error);
    }
  if (n_forgotten == 0)
    text = g_strdup ("No token has refused a PIN; there is nothing to forget.\n");
  else if (serial == NULL && n_forgotten == 1)
    text = g_strdup ("1 token: the PIN will be presented once more.\n");
  else if (serial != NULL)
    text = g_strdup_printf ("Token %s: the PIN will be presented once more.\n", serial);
  else
    text = g_strdup_printf ("%u tokens: the PIN will be presented once more.\n", n_forgotten);
  return kw_cli_output_sentence (text, error);
}

static gboolean
retry_offline (KwCli *cli, const char *serial, GError **error)
{
  g_autoptr (KwConfig) config = kw_cli_config_load (cli, error);
  g_autoptr (KwPinGuard) guard = NULL;
  guint n_forgotten = 0;

  if (config == NULL)
    return FALSE;
  guard = kw_pin_guard_new (kw_config_get_state_directory (config));
  if (!kw_pin_guard_forget (guard, serial, &n_forgotten, error))
    return FALSE;
  if (serial != NULL && n_forgotten == 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_NOT_FOUND,
                   "No PIN was ever presented to a token with serial number %s, as far as %s tells",
                   serial, kw_config_get_state_directory (config));
      return FALSE;
    }
  return print_retry (cli, serial, n_forgotten, error);
}

typedef struct
{
  GDBusConnection *bus;
  const char *serial; /* NULL = all that wait for the administrator */
  guint n_retried;
} Retry;

static gboolean
retry_device (const char *path, GVariant *device, gpointer user_data, GError **error)
{
  Retry *retry = user_data;
  const char *state = kw_cli_bus_get_string (device, "State");
  gboolean meant = retry->serial != NULL
                       ? g_str_equal (kw_cli_bus_get_string (device, "Serial"), retry->serial)
                       : g_str_equal (state, "pin-refused");
  g_autoptr (GVariant) reply = NULL;

  if (!meant)
    return TRUE;
  reply = kw_cli_bus_call (retry->bus, path, KW_BUS_DEVICE_INTERFACE, "Retry", NULL, "()", error);
  if (reply != NULL)
    retry->n_retried++;
  return reply != NULL;
}

/* By the daemon, if it runs and the device is there; @out_done is left FALSE when it is not. */
static gboolean
retry_by_daemon (KwCli *cli, const char *serial, gboolean *out_done, GError **error)
{
  g_autoptr (GDBusConnection) bus = kw_cli_bus_open (cli, NULL);
  Retry retry = { bus, serial, 0 };

  if (bus == NULL || !kw_cli_bus_is_there (bus, NULL))
    return TRUE;
  if (!kw_cli_bus_foreach (bus, KW_BUS_DEVICE_INTERFACE, retry_device, &retry, error))
    return FALSE;
  *out_done = retry.n_retried > 0;
  return !*out_done || print_retry (cli, serial, retry.n_retried, error);
}

gboolean
kw_cli_run_device_retry (KwCli *cli, char **arguments, GError **error)
{
  gboolean done = FALSE;

  if (!retry_by_daemon (cli, arguments[0], &done, error))
    return FALSE;
  return done || retry_offline (cli, arguments[0], error);
}

static gboolean
print_accept (KwCli *cli, const char *uuid, GError **error)
{
  g_autofree char *text = NULL;

  if (cli->json)
    {
      g_autoptr (JsonBuilder) builder = json_builder_new ();

      json_builder_begin_object (builder);
      kw_cli_json_add_string (builder, "id", uuid);
      json_builder_set_member_name (builder, "forgotten");
      json_builder_add_boolean_value (builder, TRUE);
      json_builder_end_object (builder);
      return kw_cli_output_json (builder, error);
    }
  text = g_strdup_printf (
      "Key %s: the recorded fingerprint is dropped; the key that is there now is recorded when it is "
      "seen next.\n",
      uuid);
  return kw_cli_output_sentence (text, error);
}

/* An entry of hsm_keyid, as opposed to the UUID of an RSA key. */
static gboolean
is_selector (const char *text)
{
  return g_str_has_prefix (text, "label:") || g_str_has_prefix (text, "id:")
         || (*text != '\0' && strspn (text, "0123456789") == strlen (text));
}

/* Which AES key is meant can only be said of devices that are there: the daemon knows them. */
static gboolean
accept_by_daemon (KwCli *cli, GDBusConnection *bus, const char *id, GError **error)
{
  g_autoptr (GVariant) reply = NULL;
  g_autofree char *text = NULL;
  GVariantBuilder options;

  g_variant_builder_init (&options, G_VARIANT_TYPE_VARDICT);
  if (cli->fingerprint != NULL)
    g_variant_builder_add (&options, "{sv}", KW_BUS_OPTION_FINGERPRINT,
                           g_variant_new_string (cli->fingerprint));
  reply = kw_cli_bus_call (bus, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "AcceptKey",
                           g_variant_new ("(sa{sv})", id, &options), "()", error);
  if (reply == NULL)
    return FALSE;
  if (cli->json)
    return print_accept (cli, id, error);
  text = g_strdup_printf ("Key %s: the key that was accepted is recorded.\n", id);
  return kw_cli_output_sentence (text, error);
}

void
kw_cli_add_accept_options (KwCli *cli, GOptionContext *context)
{
  const GOptionEntry entries[] = {
    { "fingerprint", 0, 0, G_OPTION_ARG_STRING, &cli->fingerprint,
      N_ ("Which AES key is right, where devices disagree"), "HEX" },
    G_OPTION_ENTRY_NULL,
  };

  g_option_context_add_main_entries (context, entries, GETTEXT_PACKAGE);
}

static gboolean
accept_rsa_key (KwCli *cli, char **arguments, GError **error)
{
  g_autoptr (GBytes) id = kw_cli_parse_key_id (arguments[0], error);
  g_autoptr (KwConfig) config = id != NULL ? kw_cli_config_load (cli, error) : NULL;
  g_autoptr (KwKeyring) keyring = NULL;
  g_autofree char *uuid = NULL;
  gboolean known = FALSE;

  if (config == NULL)
    return FALSE;
  keyring = kw_keyring_new (kw_config_get_state_directory (config));
  if (!kw_keyring_forget (keyring, id, &known, error))
    return FALSE;
  uuid = kw_uuid_from_bytes (id);
  if (!known)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND,
                   "No fingerprint of a key %s is recorded in %s", uuid,
                   kw_config_get_state_directory (config));
      return FALSE;
    }
  return print_accept (cli, uuid, error);
}

gboolean
kw_cli_run_keys_accept (KwCli *cli, char **arguments, GError **error)
{
  g_autoptr (GError) bus_error = NULL;
  g_autoptr (GDBusConnection) bus = kw_cli_bus_open (cli, &bus_error);

  if (bus != NULL && kw_cli_bus_is_there (bus, &bus_error))
    return accept_by_daemon (cli, bus, arguments[0], error);
  if (!is_selector (arguments[0]))
    return accept_rsa_key (cli, arguments, error);
  g_propagate_error (error, g_steal_pointer (&bus_error));
  return FALSE;
}
