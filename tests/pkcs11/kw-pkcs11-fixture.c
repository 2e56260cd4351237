/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-fixture"

#include "config.h"

#include "kw-pkcs11-fixture.h"

#include <gmodule.h>
#include <string.h>

/*
 * A SoftHSM2 token behind the shim, for tests of the PKCS#11 back end. Each test has tokens and a
 * back end of its own; the shim is one per process, because a PKCS#11 module stays loaded.
 */

static KwShim *process_shim;

/**
 * kw_pkcs11_fixture_make_config:
 * @module: path of the PKCS#11 module
 * @settings: more lines for `[pkcs11]`
 *
 * Returns: (transfer full): a configuration
 */
KwConfig *
kw_pkcs11_fixture_make_config (const char *module, const char *settings)
{
  g_autofree char *text = g_strdup_printf ("[pkcs11]\nmodule = \"%s\"\n%s\n", module, settings);
  g_autoptr (GError) error = NULL;
  KwConfig *config = kw_config_new_from_data ("test.toml", text, strlen (text), &error);

  g_assert_no_error (error);
  return config;
}

static CK_FUNCTION_LIST *
get_functions (void)
{
  GModule *module = g_module_open (kw_shim_get_module_path (), G_MODULE_BIND_LOCAL);
  CK_C_GetFunctionList get_function_list = NULL;
  CK_FUNCTION_LIST *functions = NULL;

  g_assert_nonnull (module);
  g_module_make_resident (module);
  g_assert_true (g_module_symbol (module, "C_GetFunctionList", (gpointer *) &get_function_list));
  g_assert_cmpuint (get_function_list (&functions), ==, CKR_OK);
  return functions;
}

/**
 * kw_pkcs11_fixture_set_up:
 * @self: a fixture
 *
 * Makes an empty place for tokens.
 */
void
kw_pkcs11_fixture_set_up (KwPkcs11Fixture *self)
{
  self->shim = process_shim;
  kw_shim_clear_all (self->shim);
  kw_shim_reset_calls (self->shim);
  self->hsm = kw_soft_hsm_new ();
  self->functions = get_functions ();
}

/**
 * kw_pkcs11_fixture_login:
 * @self: a fixture with a token
 *
 * Logs in to the token with the right PIN.
 */
void
kw_pkcs11_fixture_login (KwPkcs11Fixture *self)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) pin = kw_secret_new_copy (KW_TEST_PIN, strlen (KW_TEST_PIN), &error);

  g_assert_no_error (error);
  kw_token_login (self->token, pin, &error);
  g_assert_no_error (error);
}

/**
 * kw_pkcs11_fixture_reopen:
 * @self: a fixture with a token in SoftHSM
 * @settings: lines for `[pkcs11]`
 *
 * Makes a new back end, finds the token by coldplug, and logs in.
 */
void
kw_pkcs11_fixture_reopen (KwPkcs11Fixture *self, const char *settings)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) tokens = NULL;

  g_clear_object (&self->token);
  g_clear_object (&self->backend);
  g_clear_object (&self->config);
  self->config = kw_pkcs11_fixture_make_config (kw_shim_get_module_path (), settings);
  self->backend = g_object_new (KW_TYPE_PKCS11_BACKEND, NULL);
  kw_backend_configure (self->backend, self->config, &error);
  g_assert_no_error (error);
  tokens = kw_backend_coldplug (self->backend, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (tokens->len, ==, 1);
  self->token = g_object_ref (g_ptr_array_index (tokens, 0));
  kw_pkcs11_fixture_login (self);
}

/**
 * kw_pkcs11_fixture_open:
 * @self: a fixture
 * @settings: lines for `[pkcs11]`
 *
 * Makes a token called "one" and opens it.
 */
void
kw_pkcs11_fixture_open (KwPkcs11Fixture *self, const char *settings)
{
  kw_soft_hsm_add_token (self->hsm, "one", KW_TEST_SO_PIN, KW_TEST_PIN);
  kw_pkcs11_fixture_reopen (self, settings);
}

/**
 * kw_pkcs11_fixture_tear_down:
 * @self: a fixture
 *
 * Ends all, and checks that every session was closed.
 */
void
kw_pkcs11_fixture_tear_down (KwPkcs11Fixture *self)
{
  kw_shim_clear_all (self->shim);
  g_clear_object (&self->token);
  g_clear_object (&self->backend);
  g_clear_object (&self->config);
  g_assert_cmpint (kw_shim_get_open_sessions (self->shim), ==, 0);
  g_clear_pointer (&self->hsm, kw_soft_hsm_free);
}

static void
run_test (gconstpointer data)
{
  KwPkcs11Test test = NULL;
  KwPkcs11Fixture fixture = { 0 };

  if (kw_soft_hsm_is_missing ())
    return;
  memcpy (&test, &data, sizeof test);
  kw_pkcs11_fixture_set_up (&fixture);
  test (&fixture);
  kw_pkcs11_fixture_tear_down (&fixture);
}

/**
 * kw_pkcs11_add_test:
 * @path: path of the test
 * @test: the test
 *
 * Adds a test that runs in a fixture of its own, without a token at first.
 */
void
kw_pkcs11_add_test (const char *path, KwPkcs11Test test)
{
  gconstpointer data = NULL;

  memcpy (&data, &test, sizeof test);
  g_test_add_data_func (path, data, run_test);
}

/**
 * kw_pkcs11_fixture_open_session:
 * @self: a fixture with a token
 *
 * Returns: a session of the test's own on the token
 */
CK_SESSION_HANDLE
kw_pkcs11_fixture_open_session (KwPkcs11Fixture *self)
{
  CK_SESSION_HANDLE session = CK_INVALID_HANDLE;
  CK_RV rv
      = self->functions->C_OpenSession (kw_token_get_info (self->token)->slot,
                                        CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session);

  g_assert_cmpuint (rv, ==, CKR_OK);
  return session;
}

/**
 * kw_pkcs11_fixture_find:
 * @self: a fixture
 * @session: a session
 * @object_class: class of the object
 * @id: its CKA_ID
 *
 * Returns: handle of the object; CK_INVALID_HANDLE when there is none
 */
CK_OBJECT_HANDLE
kw_pkcs11_fixture_find (KwPkcs11Fixture *self,
                        CK_SESSION_HANDLE session,
                        CK_OBJECT_CLASS object_class,
                        GBytes *id)
{
  CK_ATTRIBUTE attributes[]
      = { { CKA_CLASS, &object_class, sizeof object_class },
          { CKA_ID, (gpointer) g_bytes_get_data (id, NULL), g_bytes_get_size (id) } };
  CK_OBJECT_HANDLE handle = CK_INVALID_HANDLE;
  CK_ULONG n_found = 0;

  g_assert_cmpuint (self->functions->C_FindObjectsInit (session, attributes, 2), ==, CKR_OK);
  g_assert_cmpuint (self->functions->C_FindObjects (session, &handle, 1, &n_found), ==, CKR_OK);
  g_assert_cmpuint (self->functions->C_FindObjectsFinal (session), ==, CKR_OK);
  return n_found > 0 ? handle : CK_INVALID_HANDLE;
}

/**
 * kw_pkcs11_id:
 * @text: some text
 *
 * Returns: (transfer full): its bytes, as a CKA_ID
 */
GBytes *
kw_pkcs11_id (const char *text)
{
  return g_bytes_new (text, strlen (text));
}

/**
 * kw_pkcs11_fixture_add_aes:
 * @self: a fixture with a token
 * @id: CKA_ID
 *
 * Makes an AES-256 key.
 *
 * Returns: (transfer full): its CKA_ID
 */
GBytes *
kw_pkcs11_fixture_add_aes (KwPkcs11Fixture *self, const char *id)
{
  g_autoptr (GError) error = NULL;
  GBytes *id_bytes = kw_pkcs11_id (id);
  g_autoptr (KwKey) key = kw_token_generate_aes (self->token, 256, id_bytes, id, &error);

  g_assert_no_error (error);
  g_assert_nonnull (key);
  return id_bytes;
}

/**
 * kw_pkcs11_fixture_add_rsa:
 * @self: a fixture with a token
 * @id: CKA_ID
 *
 * Makes an RSA-2048 key.
 *
 * Returns: (transfer full): the key
 */
KwKey *
kw_pkcs11_fixture_add_rsa (KwPkcs11Fixture *self, const char *id)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) id_bytes = kw_pkcs11_id (id);
  KwKey *key = kw_token_generate_rsa (self->token, 2048, id_bytes, id, &error);

  g_assert_no_error (error);
  return key;
}

/**
 * kw_pkcs11_test_main:
 * @argc: as main() has it
 * @argv: as main() has it
 * @add_tests: adds the tests
 *
 * Runs the tests with a shim for the process.
 *
 * Returns: exit code
 */
int
kw_pkcs11_test_main (int argc, char **argv, void (*add_tests) (void))
{
  int result = 0;

  g_test_init (&argc, &argv, NULL);
  process_shim = kw_shim_new ();
  add_tests ();
  result = g_test_run ();
  g_clear_pointer (&process_shim, kw_shim_free);
  return result;
}
