/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-plugin"

#include "config.h"

#include "kw-backend.h"
#include "kw-names.h"

/* Links core alone, so that the types come from the module that is loaded. */

static void
test_module_registers_the_back_end (void)
{
  GIOExtensionPoint *point = g_io_extension_point_register (KW_BACKEND_EXTENSION_POINT);
  GIOExtension *extension = NULL;
  GList *modules = NULL;
  g_autoptr (KwBackend) backend = NULL;

  g_io_extension_point_set_required_type (point, KW_TYPE_BACKEND);
  modules = g_io_modules_load_all_in_directory (KW_TEST_PLUGIN_DIR);

  extension = g_io_extension_point_get_extension_by_name (point, "pkcs11");
  g_assert_nonnull (extension);
  g_assert_cmpint (g_io_extension_get_priority (extension), ==, 10);
  backend = g_object_new (g_io_extension_get_type (extension), NULL);
  g_assert_cmpstr (kw_backend_get_name (backend), ==, "pkcs11");
  g_list_free_full (modules, g_object_unref);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);

  g_test_add_func ("/plugin/module-registers-the-back-end", test_module_registers_the_back_end);

  return g_test_run ();
}
