/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-keys"

#include "config.h"

#include "kw-cli-commands.h"
#include "kw-cli-output.h"
#include "kw-cli-token.h"
#include "kw-limits.h"

#include <glib/gi18n.h>
#include <string.h>

/*
 * genkey and showkey: make an RSA key pair, or find one, and print its id, its label and its public half.
 */

#define DEFAULT_BITS 2048

static const gint allowed_bits[] = { 2048, 3072, 4096 };

void
kw_cli_add_genkey_options (KwCli *cli, GOptionContext *context)
{
  const GOptionEntry entries[] = {
    { "bits", 0, 0, G_OPTION_ARG_INT, &cli->bits, N_ ("Size of the key: 2048, 3072 or 4096"),
      "NUMBER" },
    G_OPTION_ENTRY_NULL,
  };

  cli->bits = DEFAULT_BITS;
  g_option_context_add_main_entries (context, entries, GETTEXT_PACKAGE);
}

static gboolean
check_bits (gint bits, GError **error)
{
  for (guint i = 0; i < G_N_ELEMENTS (allowed_bits); i++)
    {
      if (bits == allowed_bits[i])
        return TRUE;
    }
  kw_cli_set_usage_error (error, "--bits is 2048, 3072 or 4096");
  return FALSE;
}

static gboolean
check_label (const char *label, GError **error)
{
  gboolean clean = label[0] != '\0' && strlen (label) <= KW_MAX_KEY_LABEL_BYTES
                   && g_utf8_validate (label, -1, NULL);

  for (const char *p = label; clean && *p != '\0'; p = g_utf8_next_char (p))
    clean = !g_unichar_iscntrl (g_utf8_get_char (p));
  if (!clean)
    kw_cli_set_usage_error (error,
                            "LABEL is UTF-8 text of 1 to %d bytes without control characters",
                            KW_MAX_KEY_LABEL_BYTES);
  return clean;
}

static gboolean
print_key_json (const KwKey *key, const char *pem, GError **error)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();

  json_builder_begin_object (builder);
  kw_cli_json_add_string (builder, "id", kw_key_get_uuid (key));
  kw_cli_json_add_string (builder, "label", kw_key_get_label (key));
  kw_cli_json_add_int (builder, "bits", kw_key_get_bits (key));
  kw_cli_json_add_string (builder, "fingerprint", kw_key_get_fingerprint (key));
  kw_cli_json_add_string (builder, "public_key", pem);
  json_builder_end_object (builder);
  return kw_cli_output_json (builder, error);
}

static gboolean
print_key (KwCli *cli, const KwKey *key, GError **error)
{
  g_autofree char *pem = kw_key_dup_public_key_pem (key, error);
  g_autofree char *label = NULL;
  g_autofree char *text = NULL;

  if (pem == NULL)
    return FALSE;
  if (cli->json)
    return print_key_json (key, pem, error);
  label = kw_cli_dup_printable (kw_key_get_label (key));
  text = g_strdup_printf ("Id: %s, label: %s\n\n%s", kw_key_get_uuid (key), label, pem);
  return kw_cli_output_text (text, error);
}

gboolean
kw_cli_run_genkey (KwCli *cli, char **arguments, GError **error)
{
  g_autoptr (KwCliToken) token = NULL;
  g_autoptr (KwKey) key = NULL;

  if (!check_bits (cli->bits, error) || !check_label (arguments[0], error))
    return FALSE;
  token = kw_cli_token_open (cli, error);
  if (token != NULL)
    key = kw_cli_token_generate_rsa (token, (guint) cli->bits, arguments[0], error);
  return key != NULL && print_key (cli, key, error);
}

gboolean
kw_cli_run_showkey (KwCli *cli, char **arguments, GError **error)
{
  g_autoptr (GBytes) id = kw_cli_parse_key_id (arguments[0], error);
  g_autoptr (KwCliToken) token = id != NULL ? kw_cli_token_open (cli, error) : NULL;
  g_autoptr (KwKey) key = token != NULL ? kw_cli_token_find_key (token, id, error) : NULL;

  return key != NULL && print_key (cli, key, error);
}
