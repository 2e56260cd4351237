/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-config"

#include "config.h"

#include "kw-cli-config.h"

#include "kw-error.h"
#include "kw-limits.h"

#include <sys/stat.h>
#include <unistd.h>

/*
 * Where a command takes its settings from: the configuration, or without one what can be guessed. A guess is always told.
 */

/* Where distributions put the modules. */
static const char *const module_directories[] = {
  "/usr/lib",       "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64",
  "/usr/local/lib",
};

static const char *const module_names[] = {
  "softhsm/libsofthsm2.so",
  "pkcs11/libsofthsm2.so",
  "opensc-pkcs11.so",
};

/* Appends a basic string of TOML, with its quotes. */
void
kw_cli_append_toml_string (GString *toml, const char *text)
{
  g_string_append_c (toml, '"');
  for (const char *p = text; *p != '\0'; p++)
    {
      if (*p == '"' || *p == '\\')
        g_string_append_printf (toml, "\\%c", *p);
      else if (g_ascii_iscntrl (*p))
        g_string_append_printf (toml, "\\u%04x", (guint) (guchar) *p);
      else
        g_string_append_c (toml, *p);
    }
  g_string_append_c (toml, '"');
}

/* A person without root and without a configuration cannot write the service's records, so has some of his own. */
static KwConfig *
load_defaults (GError **error)
{
  g_autoptr (GString) toml = g_string_new ("[state]\ndirectory = ");
  g_autofree char *directory = NULL;

  if (geteuid () == 0)
    return kw_config_new_defaults ();
  directory = g_build_filename (g_get_user_state_dir (), "keyward", NULL);
  kw_cli_append_toml_string (toml, directory);
  return kw_config_new_from_data ("built-in configuration", toml->str, toml->len, error);
}

static KwConfig *
take_module (KwCli *cli, KwConfig *config)
{
  if (config != NULL && cli->module != NULL)
    {
      g_autofree char *path = g_canonicalize_filename (cli->module, NULL);

      kw_config_set_module (config, path);
    }
  return config;
}

/* The configuration that is named or found, else the defaults; one that cannot be used is an error. */
KwConfig *
kw_cli_config_load (KwCli *cli, GError **error)
{
  const char *path = cli->config_path != NULL ? cli->config_path : kw_config_find_file ();

  return take_module (cli,
                      path != NULL ? kw_config_new_from_file (path, error) : load_defaults (error));
}

/* Whatever the mode of the file: for commands that show no secret and use none. */
static KwConfig *
load_without_mode_check (const char *path, GError **error)
{
  g_autoptr (KwSecret) data = kw_secret_new_from_file (path, KW_MAX_CONFIG_BYTES, error);

  if (data == NULL)
    return NULL;
  return kw_config_new_from_data (path, (const char *) kw_secret_get_data (data),
                                  kw_secret_get_size (data), error);
}

/*
 * As kw_cli_config_load (), but a file that cannot be used is only told in @out_problem: what can be read of it is
 * used, else the defaults.
 */
KwConfig *
kw_cli_config_load_leniently (KwCli *cli, GError **out_problem)
{
  const char *path = cli->config_path != NULL ? cli->config_path : kw_config_find_file ();
  KwConfig *config = NULL;

  if (path == NULL)
    config = load_defaults (NULL);
  else
    {
      config = kw_config_new_from_file (path, out_problem);
      if (config == NULL)
        config = load_without_mode_check (path, NULL);
    }
  return take_module (cli, config != NULL ? config : kw_config_new_defaults ());
}

static gboolean
is_known_file (GHashTable *seen, const struct stat *info)
{
  g_autofree char *identity = g_strdup_printf ("%" G_GUINT64_FORMAT ":%" G_GUINT64_FORMAT,
                                               (guint64) info->st_dev, (guint64) info->st_ino);

  return !g_hash_table_add (seen, g_steal_pointer (&identity));
}

/* The modules that lie where they usually do below @root, each file once. */
GPtrArray *
kw_cli_find_modules (const char *root)
{
  GPtrArray *modules = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GHashTable) seen = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);

  for (guint i = 0; i < G_N_ELEMENTS (module_names); i++)
    {
      for (guint j = 0; j < G_N_ELEMENTS (module_directories); j++)
        {
          g_autofree char *path
              = g_build_filename (root, module_directories[j], module_names[i], NULL);
          struct stat info;

          if (stat (path, &info) == 0 && S_ISREG (info.st_mode) && !is_known_file (seen, &info))
            g_ptr_array_add (modules, g_steal_pointer (&path));
        }
    }
  return modules;
}

const char *
kw_cli_choose_module (GPtrArray *modules, GError **error)
{
  if (modules->len > 0)
    return g_ptr_array_index (modules, 0);
  g_set_error_literal (
      error, KW_ERROR, KW_ERROR_CONFIG,
      "No PKCS#11 module is configured, and none lies where they usually do; give --module PATH or set "
      "[pkcs11] module");
  return NULL;
}

/* Sees to it that there is a module: the option's, the configured one, or the first that lies where they usually do. */
gboolean
kw_cli_config_ensure_module (KwCli *cli, KwConfig *config, gboolean *out_guessed, GError **error)
{
  g_autoptr (GPtrArray) modules = NULL;
  g_autoptr (GString) others = g_string_new (NULL);
  const char *module = NULL;

  *out_guessed = kw_config_get_hsm (config)->model != KW_HSM_MODEL_SMARTCARD
                 && kw_config_get_pkcs11 (config)->module == NULL;
  if (!*out_guessed)
    return TRUE;
  modules = kw_cli_find_modules ("/");
  module = kw_cli_choose_module (modules, error);
  if (module == NULL)
    return FALSE;
  for (guint i = 1; i < modules->len; i++)
    g_string_append_printf (others, "%s%s", i > 1 ? ", " : "",
                            (char *) g_ptr_array_index (modules, i));
  if (others->len == 0)
    kw_cli_add_notice (cli, "No module is configured; used %s", module);
  else
    kw_cli_add_notice (cli, "No module is configured; used %s (also there: %s; --module chooses)",
                       module, others->str);
  kw_config_set_module (config, module);
  return TRUE;
}
