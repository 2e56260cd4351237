/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-crypt"

#include "config.h"

#include "kw-cli-commands.h"
#include "kw-cli-output.h"
#include "kw-cli-token.h"

/*
 * encrypt and decrypt one block, PKCS#1 v1.5, base64 in and out. Encrypting needs the public half alone and is done here.
 */

static GBytes *
bytes_of_secret (KwSecret *secret)
{
  return g_bytes_new_with_free_func (kw_secret_get_data (secret), kw_secret_get_size (secret),
                                     (GDestroyNotify) kw_secret_unref, kw_secret_ref (secret));
}

static gboolean
print_base64 (KwCli *cli, const char *name, const guint8 *data, gsize size, GError **error)
{
  g_autoptr (KwSecret) text = kw_cli_encode_base64 (data, size, error);
  g_autofree char *before = NULL;

  if (text == NULL)
    return FALSE;
  if (!cli->json)
    return kw_cli_output_secret ("", text, "\n", error);
  before = g_strdup_printf ("{\n  \"%s\" : \"", name);
  return kw_cli_output_secret (before, text, "\"\n}\n", error);
}

gboolean
kw_cli_run_encrypt (KwCli *cli, char **arguments, GError **error)
{
  g_autoptr (GBytes) id = kw_cli_parse_key_id (arguments[0], error);
  g_autoptr (KwSecret) plaintext = id != NULL ? kw_cli_read_base64 (arguments[1], error) : NULL;
  g_autoptr (KwCliToken) token = plaintext != NULL ? kw_cli_token_open (cli, error) : NULL;
  g_autoptr (KwKey) key = token != NULL ? kw_cli_token_find_key (token, id, error) : NULL;
  g_autoptr (GBytes) input = NULL;
  g_autoptr (GBytes) ciphertext = NULL;

  if (key == NULL)
    return FALSE;
  input = bytes_of_secret (plaintext);
  ciphertext = kw_key_encrypt_pkcs1 (key, input, error);
  if (ciphertext == NULL)
    return FALSE;
  return print_base64 (cli, "ciphertext", g_bytes_get_data (ciphertext, NULL),
                       g_bytes_get_size (ciphertext), error);
}

gboolean
kw_cli_run_decrypt (KwCli *cli, char **arguments, GError **error)
{
  g_autoptr (GBytes) id = kw_cli_parse_key_id (arguments[0], error);
  g_autoptr (KwSecret) ciphertext = id != NULL ? kw_cli_read_base64 (arguments[1], error) : NULL;
  g_autoptr (KwCliToken) token = ciphertext != NULL ? kw_cli_token_open (cli, error) : NULL;
  g_autoptr (KwSecret) plaintext = NULL;
  g_autoptr (GBytes) input = NULL;

  if (token == NULL)
    return FALSE;
  input = bytes_of_secret (ciphertext);
  plaintext = kw_cli_token_rsa_decrypt (token, id, input, error);
  if (plaintext == NULL)
    return FALSE;
  return print_base64 (cli, "plaintext", kw_secret_get_data (plaintext),
                       kw_secret_get_size (plaintext), error);
}
