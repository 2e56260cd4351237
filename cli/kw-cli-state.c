/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-state"

#include "config.h"

#include "kw-bus-names.h"
#include "kw-cli-bus.h"
#include "kw-cli-commands.h"
#include "kw-cli-config.h"
#include "kw-cli-output.h"
#include "kw-error.h"
#include "kw-keyring.h"
#include "kw-pin-guard.h"
#include "kw-uuid.h"

#include <glib/gi18n.h>
#include <string.h>

/*
 * device retry and keys accept: acts of the administrator on what the state directory remembers. No token is touched; a
 * running daemon watches the directory and takes it up. Only which AES key is meant has to be asked of the daemon.
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
  else if (serial != NULL)
    text = g_strdup_printf ("Token %s: the PIN will be presented once more.\n", serial);
  else
    text = g_strdup_printf ("%u %s: the PIN will be presented once more.\n", n_forgotten,
                            n_forgotten == 1 ? "token" : "tokens");
  return kw_cli_output_text (text, error);
}

gboolean
kw_cli_run_device_retry (KwCli *cli, char **arguments, GError **error)
{
  const char *serial = arguments[0];
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
  return kw_cli_output_text (text, error);
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
accept_aes_key (KwCli *cli, const char *id, GError **error)
{
  g_autoptr (GDBusConnection) bus = kw_cli_bus_open (cli, error);
  g_autoptr (GVariant) reply = NULL;
  g_autofree char *text = NULL;
  GVariantBuilder options;

  if (bus == NULL)
    return FALSE;
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
  return kw_cli_output_text (text, error);
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
  return is_selector (arguments[0]) ? accept_aes_key (cli, arguments[0], error)
                                    : accept_rsa_key (cli, arguments, error);
}
