/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-plugins"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-fake-backend.h"
#include "kw-names.h"
#include "kw-plugins.h"
#include "kw-service.h"

#include <string.h>

#define NONE_INSTALLED                                                                             \
  "No back end is installed in " KW_PLUGIN_DIR                                                     \
  "; install one (libkeyward-pkcs11.so), or set KEYWARD_PLUGIN_PATH"

/* In this order: a type stays registered for the life of the process. */

static void
test_unknown_point_has_no_objects (void)
{
  g_autoptr (GPtrArray) objects = kw_plugins_new_objects ("keyward-nothing");

  g_assert_cmpuint (objects->len, ==, 0);
}

static void
test_empty_directory (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwConfig) config = kw_config_new_defaults ();
  char *directory = kw_test_make_directory ();
  g_autofree char *missing = g_build_filename (directory, "missing", NULL);
  g_autofree char *path = g_strjoin (":", directory, missing, "", NULL);

  g_setenv (KW_ENV_PLUGIN_PATH, path, TRUE);
  kw_plugins_load ();
  g_assert_null (kw_plugins_new_backends (config, &error));
  kw_assert_error (error, KW_ERROR_FAILED, NONE_INSTALLED);
  kw_test_remove_directory (directory);
}

static void
test_service_without_back_end (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = kw_test_make_directory ();
  g_autofree char *text = g_strdup_printf ("[state]\ndirectory = \"%s\"\n", directory);
  g_autoptr (KwConfig) config = kw_config_new_from_data ("test.toml", text, strlen (text), &error);

  g_assert_no_error (error);
  g_assert_null (kw_service_new (config, &error));
  kw_assert_error (error, KW_ERROR_FAILED, NONE_INSTALLED);
  kw_test_remove_directory (directory);
}

static void
test_back_end_is_made_and_configured (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwConfig) config = kw_config_new_defaults ();
  g_autoptr (GPtrArray) backends = NULL;

  g_io_extension_point_implement (KW_BACKEND_EXTENSION_POINT, KW_TYPE_FAKE_BACKEND, "fake", 0);
  backends = kw_plugins_new_backends (config, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (backends->len, ==, 1);
  g_assert_cmpstr (kw_backend_get_name (g_ptr_array_index (backends, 0)), ==, "fake");
}

static void
test_back_end_refuses_configuration (void)
{
  g_autoptr (GError) error = NULL;
  const char *text = "[pkcs11]\nuri = \"pkcs11:\"\n";
  g_autoptr (KwConfig) config = kw_config_new_from_data ("test.toml", text, strlen (text), &error);

  g_assert_null (kw_plugins_new_backends (config, &error));
  kw_assert_error (error, KW_ERROR_CONFIG, "the fake back end has no URIs");
}

static void
test_back_end_without_slots (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwFakeBackend) backend = kw_fake_backend_new ();

  g_assert_null (kw_backend_list_slots (KW_BACKEND (backend), &error));
  kw_assert_error (error, KW_ERROR_NOT_SUPPORTED, "The back end fake has no slots to list");
  g_assert_null (kw_backend_coldplug (KW_BACKEND (backend), &error));
  kw_assert_error (error, KW_ERROR_TOKEN_NOT_FOUND, "no token");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/plugins/1/unknown-point-has-no-objects", test_unknown_point_has_no_objects);
  g_test_add_func ("/plugins/2/empty-directory", test_empty_directory);
  g_test_add_func ("/plugins/3/service-without-back-end", test_service_without_back_end);
  g_test_add_func ("/plugins/4/back-end-is-made-and-configured",
                   test_back_end_is_made_and_configured);
  g_test_add_func ("/plugins/5/back-end-refuses-configuration",
                   test_back_end_refuses_configuration);
  g_test_add_func ("/plugins/6/back-end-without-slots", test_back_end_without_slots);
  return g_test_run ();
}
