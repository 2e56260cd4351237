/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-plugins"

#include "config.h"

#include "kw-plugins.h"

#include "kw-error.h"
#include "kw-names.h"

/*
 * Finds plugins: GIO modules that implement an extension point. They lie in one directory, or in those that the
 * environment names when Keyward runs from its build tree.
 */

/**
 * kw_plugins_register_point:
 * @name: name of the extension point
 * @required_type: type that implementations must have
 *
 * Makes an extension point known; more than once does no harm. Before kw_plugins_load().
 */
void
kw_plugins_register_point (const char *name, GType required_type)
{
  GIOExtensionPoint *point = g_io_extension_point_register (name);

  g_io_extension_point_set_required_type (point, required_type);
}

/**
 * kw_plugins_load:
 *
 * Loads all plugins. Main context, once, after the extension points were registered.
 */
void
kw_plugins_load (void)
{
  /* The modules stay loaded for good: their types cannot go away. */
  static GList *loaded = NULL;
  const char *path = g_getenv (KW_ENV_PLUGIN_PATH);
  g_auto (GStrv) directories
      = g_strsplit (path != NULL ? path : KW_PLUGIN_DIR, G_SEARCHPATH_SEPARATOR_S, -1);
  GIOModuleScope *scope = g_io_module_scope_new (G_IO_MODULE_SCOPE_BLOCK_DUPLICATES);

  kw_plugins_register_point (KW_BACKEND_EXTENSION_POINT, KW_TYPE_BACKEND);
  for (guint i = 0; directories[i] != NULL; i++)
    {
      loaded = g_list_concat (loaded, g_io_modules_load_all_in_directory_with_scope (directories[i],
                                                                                     scope));
    }
  g_io_module_scope_free (scope);
}

/**
 * kw_plugins_new_objects:
 * @extension_point: name of a registered extension point
 *
 * Makes one object of each implementation, by priority.
 *
 * Returns: (transfer full) (element-type GObject): the objects, perhaps none
 */
GPtrArray *
kw_plugins_new_objects (const char *extension_point)
{
  g_autoptr (GPtrArray) objects = g_ptr_array_new_with_free_func (g_object_unref);
  GIOExtensionPoint *point = g_io_extension_point_lookup (extension_point);

  if (point == NULL)
    return g_steal_pointer (&objects);
  for (GList *link = g_io_extension_point_get_extensions (point); link != NULL; link = link->next)
    g_ptr_array_add (objects, g_object_new (g_io_extension_get_type (link->data), NULL));
  return g_steal_pointer (&objects);
}

/**
 * kw_plugins_new_backends:
 * @config: the configuration
 * @error: where to store the error
 *
 * Makes and configures the back ends.
 *
 * Returns: (transfer full) (element-type KwBackend): at least one; %NULL with %KW_ERROR_CONFIG or, when no plugin was found,
 *   %KW_ERROR_FAILED
 */
GPtrArray *
kw_plugins_new_backends (KwConfig *config, GError **error)
{
  g_autoptr (GPtrArray) backends = kw_plugins_new_objects (KW_BACKEND_EXTENSION_POINT);
  const char *model = kw_hsm_model_to_string (kw_config_get_hsm (config)->model);

  if (backends->len == 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_FAILED,
                   "No back end is installed in %s; install one (libkeyward-pkcs11.so), or set %s",
                   KW_PLUGIN_DIR, KW_ENV_PLUGIN_PATH);
      return NULL;
    }
  for (guint i = backends->len; i > 0; i--)
    {
      const char *name = kw_backend_get_name (g_ptr_array_index (backends, i - 1));

      if (!kw_config_wants_backend (config, name))
        g_ptr_array_remove_index (backends, i - 1);
    }
  if (backends->len == 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                   "[hsm] hsm_model is \"%s\", but the back end for it is not installed in %s",
                   model, KW_PLUGIN_DIR);
      return NULL;
    }
  for (guint i = 0; i < backends->len; i++)
    {
      if (!kw_backend_configure (g_ptr_array_index (backends, i), config, error))
        return NULL;
    }
  return g_steal_pointer (&backends);
}
