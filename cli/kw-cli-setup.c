/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-setup"

#include "config.h"

#include "kw-cli-commands.h"
#include "kw-cli-config.h"
#include "kw-cli-output.h"
#include "kw-cli-prompt.h"
#include "kw-error.h"
#include "kw-names.h"

#include <glib/gi18n.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <openssl/crypto.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/*
 * setup: makes the secret that ownCloud and Keyward share, writes a configuration with it, keeps a PIN that is typed in a
 * file beside it, and prints what to say to ownCloud. The files belong to the service's user, or to whoever runs this, and
 * nobody else may read them.
 */

#define SECRET_BYTES 32
#define PIN_FILE_NAME "pin"
#define URL "http://localhost:8513"

void
kw_cli_add_setup_options (KwCli *cli, GOptionContext *context)
{
  const GOptionEntry entries[] = {
    { "output", 0, 0, G_OPTION_ARG_FILENAME, &cli->output,
      N_ ("Write this file instead of /etc/keyward/keyward.toml"), "FILE" },
    { "token-label", 0, 0, G_OPTION_ARG_STRING, &cli->token_label, N_ ("Label of the token to use"),
      "LABEL" },
    { "pin-file", 0, 0, G_OPTION_ARG_FILENAME, &cli->pin_file,
      N_ ("File with the PIN; - reads the PIN from standard input"), "PATH" },
    { "force", 0, 0, G_OPTION_ARG_NONE, &cli->force, N_ ("Replace files that exist"), NULL },
    G_OPTION_ENTRY_NULL,
  };

  g_option_context_add_main_entries (context, entries, GETTEXT_PACKAGE);
}

static KwSecret *
new_hex_secret (GError **error)
{
  static const char digits[] = "0123456789abcdef";
  g_autoptr (KwSecret) random = kw_secret_new_random (SECRET_BYTES, error);
  KwSecret *text = random != NULL ? kw_secret_new ((gsize) 2 * SECRET_BYTES, error) : NULL;

  for (guint i = 0; text != NULL && i < SECRET_BYTES; i++)
    {
      guint8 byte = kw_secret_get_data (random)[i];

      kw_secret_get_data (text)[2 * i] = (guint8) digits[byte >> 4];
      kw_secret_get_data (text)[2 * i + 1] = (guint8) digits[byte & 0x0F];
    }
  return text;
}

static gboolean
set_file_error (GError **error, const char *what, const char *path)
{
  int saved_errno = errno;

  g_set_error (error, KW_ERROR, KW_ERROR_PERMISSION, "Cannot %s %s: %s", what, path,
               g_strerror (saved_errno));
  return FALSE;
}

static gboolean
write_parts (int fd, const char *before, const KwSecret *secret, const char *after)
{
  const struct
  {
    gconstpointer data;
    gsize size;
  } parts[] = {
    { before, strlen (before) },
    { kw_secret_get_data (secret), kw_secret_get_size (secret) },
    { after, strlen (after) },
  };

  for (guint i = 0; i < G_N_ELEMENTS (parts); i++)
    {
      const guint8 *data = parts[i].data;
      gsize n_left = parts[i].size;

      while (n_left > 0)
        {
          gssize n = write (fd, data, n_left);

          if (n < 0 && errno == EINTR)
            continue;
          if (n < 0)
            return FALSE;
          data += n;
          n_left -= (gsize) n;
        }
    }
  return TRUE;
}

static void
give_to_service (int fd)
{
  const struct passwd *service = geteuid () == 0 ? getpwnam (KW_SERVICE_USER) : NULL;

  /* Where that fails, check tells that the service cannot read the file. */
  if (service != NULL)
    (void) !fchown (fd, service->pw_uid, service->pw_gid);
}

static gboolean
put_in_place (const char *temporary, const char *path, gboolean replace, GError **error)
{
  int result = replace ? rename (temporary, path) : link (temporary, path);

  if (result == 0)
    return TRUE;
  if (errno == EEXIST)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_FAILED,
                   "%s is already there and was left as it is; --force replaces it, and its secret",
                   path);
      return FALSE;
    }
  return set_file_error (error, "write", path);
}

/* Writes a file that is whole or not there, and that nobody else can read at any moment. */
static gboolean
write_secret_file (const char *path,
                   const char *before,
                   const KwSecret *secret,
                   const char *after,
                   gboolean replace,
                   GError **error)
{
  g_autofree char *directory = g_path_get_dirname (path);
  g_autofree char *temporary = g_strconcat (path, ".XXXXXX", NULL);
  gboolean ok = FALSE;
  int fd = -1;

  if (g_mkdir_with_parents (directory, 0755) != 0)
    return set_file_error (error, "make the folder", directory);
  fd = g_mkstemp_full (temporary, O_WRONLY | O_CLOEXEC, 0600);
  if (fd < 0)
    return set_file_error (error, "write", path);
  give_to_service (fd);
  ok = write_parts (fd, before, secret, after) && fsync (fd) == 0;
  if (!ok)
    set_file_error (error, "write", path);
  close (fd);
  ok = ok && put_in_place (temporary, path, replace, error);
  (void) g_unlink (temporary);
  return ok;
}

static gboolean
refuse_existing (KwCli *cli, const char *path, GError **error)
{
  if (cli->force || !g_file_test (path, G_FILE_TEST_EXISTS | G_FILE_TEST_IS_SYMLINK))
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_FAILED,
               "%s is already there and was left as it is; --force replaces it, and its secret",
               path);
  return FALSE;
}

static char *
find_module (KwCli *cli, GError **error)
{
  g_autoptr (GPtrArray) modules = NULL;
  g_autofree char *path = NULL;

  if (cli->module != NULL)
    {
      path = g_canonicalize_filename (cli->module, NULL);
      if (g_file_test (path, G_FILE_TEST_IS_REGULAR))
        return g_steal_pointer (&path);
      g_set_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED, "There is no module %s", path);
      return NULL;
    }
  modules = kw_cli_find_modules ("/");
  path = g_strdup (kw_cli_choose_module (modules, error));
  if (modules->len > 1)
    {
      g_ptr_array_add (modules, NULL);
      g_free (path);
      path = g_strjoinv (", ", (char **) modules->pdata);
      g_set_error (error, KW_ERROR, KW_ERROR_AMBIGUOUS,
                   "There are several PKCS#11 modules; choose one with --module: %s", path);
      return NULL;
    }
  if (path != NULL)
    kw_cli_add_notice (cli, "The module is %s", path);
  return g_steal_pointer (&path);
}

/* Finds out about the PIN: in a file that is there, or to be written to one; neither when the token needs none. */
static gboolean
find_pin (KwCli *cli, const char *config_path, char **out_path, KwSecret **out_pin, GError **error)
{
  g_autoptr (KwSecret) pin = NULL;
  g_autofree char *directory = NULL;

  if (cli->pin_file != NULL && !g_str_equal (cli->pin_file, "-"))
    {
      *out_path = g_canonicalize_filename (cli->pin_file, NULL);
      return kw_config_check_file_mode (*out_path, error);
    }
  if (cli->pin_file != NULL)
    pin = kw_cli_read_secret_line (STDIN_FILENO, error);
  else if (kw_cli_prompt_is_possible ())
    pin = kw_cli_prompt_secret ("User PIN of the token (empty if it needs none): ", error);
  else
    g_set_error_literal (
        error, KW_ERROR, KW_ERROR_PIN_REQUIRED,
        "There is no terminal to ask for the PIN; give --pin-file PATH, or --pin-file - and the PIN on "
        "standard input");
  if (pin == NULL)
    return FALSE;
  if (kw_secret_get_size (pin) == 0)
    return TRUE;
  directory = g_path_get_dirname (config_path);
  *out_path = g_build_filename (directory, PIN_FILE_NAME, NULL);
  *out_pin = g_steal_pointer (&pin);
  return refuse_existing (cli, *out_path, error);
}

static char *
describe_token (KwCli *cli, const char *module, const char *pin_path)
{
  GString *toml = g_string_new ("\"\n\n[pkcs11]\nmodule = ");

  kw_cli_append_toml_string (toml, module);
  if (cli->token_label != NULL)
    {
      g_string_append (toml, "\ntoken_label = ");
      kw_cli_append_toml_string (toml, cli->token_label);
    }
  if (pin_path != NULL)
    {
      g_autofree char *source = g_strconcat ("file:", pin_path, NULL);

      g_string_append (toml, "\npin = ");
      kw_cli_append_toml_string (toml, source);
    }
  g_string_append_c (toml, '\n');
  return g_string_free (toml, FALSE);
}

static gboolean
print_result (KwCli *cli,
              const char *config_path,
              const char *pin_path,
              const KwSecret *secret,
              GError **error)
{
  g_autoptr (JsonNode) config_node = NULL;
  g_autoptr (JsonNode) pin_node = NULL;
  g_autofree char *config_json = NULL;
  g_autofree char *pin_json = NULL;
  g_autofree char *before = NULL;

  if (!cli->json)
    return kw_cli_output_secret ("occ config:app:set encryption hsm.url --value '" URL "'\n"
                                 "occ config:app:set encryption hsm.jwt.secret --value '",
                                 secret,
                                 "'\n"
                                 "occ config:app:set encryption crypto.engine --value 'hsm'\n",
                                 error);
  config_node = json_node_init_string (json_node_alloc (), config_path);
  config_json = json_to_string (config_node, FALSE);
  pin_node = pin_path != NULL ? json_node_init_string (json_node_alloc (), pin_path)
                              : json_node_init_null (json_node_alloc ());
  pin_json = json_to_string (pin_node, FALSE);
  before = g_strdup_printf ("{\n  \"config\" : %s,\n  \"pin_file\" : %s,\n  \"hsm.url\" : \"" URL
                            "\",\n"
                            "  \"crypto.engine\" : \"hsm\",\n  \"hsm.jwt.secret\" : \"",
                            config_json, pin_json);
  return kw_cli_output_secret (before, secret, "\"\n}\n", error);
}

gboolean
kw_cli_run_setup (KwCli *cli, char **arguments G_GNUC_UNUSED, GError **error)
{
  g_autofree char *path
      = g_canonicalize_filename (cli->output != NULL ? cli->output : KW_CONFIG_FILE, NULL);
  g_autofree char *module = NULL;
  g_autofree char *pin_path = NULL;
  g_autofree char *rest = NULL;
  g_autoptr (KwSecret) pin = NULL;
  g_autoptr (KwSecret) secret = NULL;

  if (cli->token_label != NULL && cli->token_label[0] == '\0')
    {
      kw_cli_set_usage_error (error, "--token-label is empty");
      return FALSE;
    }
  if (!refuse_existing (cli, path, error))
    return FALSE;
  module = find_module (cli, error);
  if (module == NULL || !find_pin (cli, path, &pin_path, &pin, error))
    return FALSE;
  secret = new_hex_secret (error);
  if (secret == NULL
      || (pin != NULL && !write_secret_file (pin_path, "", pin, "\n", cli->force, error)))
    return FALSE;
  rest = describe_token (cli, module, pin_path);
  if (!write_secret_file (
          path,
          "# Written by keyward setup; keyward.toml(5) says what else can be set.\n\n[jwt]\nsecret = \"",
          secret, rest, cli->force, error))
    {
      if (pin != NULL)
        (void) g_unlink (pin_path);
      return FALSE;
    }
  kw_cli_add_notice (cli,
                     "Wrote %s; give the lines above on the ownCloud host, then run: keyward check",
                     path);
  return print_result (cli, path, pin_path, secret, error);
}
