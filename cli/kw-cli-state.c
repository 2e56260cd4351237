/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-state"

#include "config.h"

#include "kw-cli-commands.h"
#include "kw-cli-config.h"
#include "kw-cli-output.h"
#include "kw-error.h"
#include "kw-keyring.h"
#include "kw-pin-guard.h"
#include "kw-uuid.h"

/*
 * device retry and keys accept: acts of the administrator on what the state directory remembers. No token is touched; a
 * running daemon watches the directory and takes it up.
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

gboolean
kw_cli_run_keys_accept (KwCli *cli, char **arguments, GError **error)
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
