/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-backend"

#include "config.h"

#include "kw-error.h"
#include "kw-pkcs11-fixture.h"

#include <glib/gstdio.h>
#include <string.h>

/* The back end with its thread, on a real main loop: tokens that come, go and change under it. */

#define DEADLINE_USEC (20 * G_USEC_PER_SEC)
#define MS (G_USEC_PER_SEC / 1000)

static const KwPkcs11Timing fast = {
  .load_first = 20 * MS,
  .load_max = 50 * MS,
  .look_first = 20 * MS,
  .look_max = 50 * MS,
  .check = 20 * MS,
  .reset_first = 20 * MS,
  .reset_max = 100 * MS,
  .calm = 600 * G_USEC_PER_SEC,
  .stuck = 50 * MS,
  .share_first = 50 * MS,
  .share_max = 200 * MS,
};

/* What a started back end told. */
typedef struct
{
  KwPkcs11Fixture *fixture;
  guint n_added;
  guint n_removed;
  guint n_status;
  guint n_looks; /* C_GetTokenInfo, when a token was added last */
  GThread *main_thread;
} Watch;

static void
on_token_added (KwBackend *backend G_GNUC_UNUSED, KwToken *token, Watch *watch)
{
  g_assert_true (g_thread_self () == watch->main_thread);
  g_assert_null (watch->fixture->token);
  watch->fixture->token = g_object_ref (token);
  watch->n_looks = kw_shim_get_calls (watch->fixture->shim, KW_SHIM_C_GetTokenInfo);
  watch->n_added++;
}

static void
on_token_removed (KwBackend *backend G_GNUC_UNUSED, KwToken *token, Watch *watch)
{
  g_assert_true (g_thread_self () == watch->main_thread);
  g_assert_true (watch->fixture->token == token);
  g_clear_object (&watch->fixture->token);
  watch->n_removed++;
}

static void
on_status_changed (KwBackend *backend G_GNUC_UNUSED, Watch *watch)
{
  watch->n_status++;
}

static void
start_module (Watch *watch,
              KwPkcs11Fixture *fixture,
              const char *module,
              const char *settings,
              const KwPkcs11Timing *timing)
{
  g_autoptr (GError) error = NULL;

  *watch = (Watch){ .fixture = fixture, .main_thread = g_thread_self () };
  fixture->config = kw_pkcs11_fixture_make_config (module, settings);
  fixture->backend = g_object_new (KW_TYPE_PKCS11_BACKEND, NULL);
  kw_backend_configure (fixture->backend, fixture->config, &error);
  g_assert_no_error (error);
  kw_pkcs11_backend_set_timing (KW_PKCS11_BACKEND (fixture->backend), timing);
  g_signal_connect (fixture->backend, "token-added", G_CALLBACK (on_token_added), watch);
  g_signal_connect (fixture->backend, "token-removed", G_CALLBACK (on_token_removed), watch);
  g_signal_connect (fixture->backend, "status-changed", G_CALLBACK (on_status_changed), watch);
  kw_backend_start (fixture->backend);
}

static void
start (Watch *watch, KwPkcs11Fixture *fixture, const char *settings)
{
  start_module (watch, fixture, kw_shim_get_module_path (), settings, &fast);
}

static gboolean
on_tick (gpointer data G_GNUC_UNUSED)
{
  return G_SOURCE_CONTINUE;
}

typedef gboolean (*Condition) (Watch *watch, gconstpointer data);

static void
wait_until (Watch *watch, Condition condition, gconstpointer data)
{
  gint64 deadline = g_get_monotonic_time () + DEADLINE_USEC;
  guint tick = g_timeout_add (5, on_tick, NULL);

  while (!condition (watch, data))
    {
      if (g_get_monotonic_time () >= deadline)
        g_test_message ("Status: %s", kw_backend_get_status_text (watch->fixture->backend));
      g_assert_cmpint (g_get_monotonic_time (), <, deadline);
      g_main_context_iteration (NULL, TRUE);
    }
  g_source_remove (tick);
}

static gboolean
was_added (Watch *watch, gconstpointer data)
{
  return watch->n_added >= GPOINTER_TO_UINT (data);
}

static gboolean
was_removed (Watch *watch, gconstpointer data)
{
  return watch->n_removed >= GPOINTER_TO_UINT (data);
}

/* A token is made in two steps, so it may be seen before its PIN is set, and be announced again
   then. Afterwards it stays through several looks. */
static gboolean
is_settled (Watch *watch, gconstpointer old_token)
{
  KwPkcs11Fixture *fixture = watch->fixture;

  return fixture->token != NULL && fixture->token != old_token
         && kw_shim_get_calls (fixture->shim, KW_SHIM_C_GetTokenInfo) >= watch->n_looks + 3;
}

static gboolean
status_has (Watch *watch, gconstpointer text)
{
  const char *status = kw_backend_get_status_text (watch->fixture->backend);

  return status != NULL && strstr (status, text) != NULL;
}

static gboolean
status_is_clear (Watch *watch, gconstpointer data G_GNUC_UNUSED)
{
  return kw_backend_get_status_text (watch->fixture->backend) == NULL;
}

static gboolean
call_hangs (Watch *watch, gconstpointer data)
{
  return kw_shim_get_hanging (watch->fixture->shim) >= GPOINTER_TO_INT (data);
}

static gboolean
was_called (Watch *watch, gconstpointer data)
{
  return kw_shim_get_calls (watch->fixture->shim, (KwShimFunction) GPOINTER_TO_UINT (data)) >= 3;
}

static gboolean
was_finalized (Watch *watch, gconstpointer data G_GNUC_UNUSED)
{
  CK_INFO info = { 0 };

  return watch->fixture->functions->C_GetInfo (&info) == CKR_CRYPTOKI_NOT_INITIALIZED;
}

static void
wait_added (Watch *watch, guint n_times)
{
  wait_until (watch, was_added, GUINT_TO_POINTER (n_times));
}

static void
wait_removed (Watch *watch, guint n_times)
{
  wait_until (watch, was_removed, GUINT_TO_POINTER (n_times));
}

static void
wait_status (Watch *watch, const char *text)
{
  wait_until (watch, status_has, text);
}

static void
add_token (KwPkcs11Fixture *fixture, const char *label)
{
  kw_soft_hsm_add_token (fixture->hsm, label, KW_TEST_SO_PIN, KW_TEST_PIN);
}

static void
assert_config_error (const char *settings, const char *message)
{
  g_autoptr (KwConfig) config
      = kw_config_new_from_data ("test.toml", settings, strlen (settings), NULL);
  g_autoptr (KwBackend) backend = g_object_new (KW_TYPE_PKCS11_BACKEND, NULL);
  g_autoptr (GError) error = NULL;

  g_assert_nonnull (config);
  g_assert_false (kw_backend_configure (backend, config, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_CONFIG);
  g_assert_nonnull (strstr (error->message, message));
}

static void
test_bad_configuration (KwPkcs11Fixture *fixture G_GNUC_UNUSED)
{
  assert_config_error ("", "set [pkcs11] module to its path");
  assert_config_error ("[pkcs11]\nmodule = \"/lib/x.so\"\nuri = \"pkcs11:token=a?pin-value=1\"\n",
                       "the PIN belongs in [pkcs11] pin");
}

static void
test_token_is_there (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };

  add_token (fixture, "one");
  start (&watch, fixture, "");
  kw_backend_start (fixture->backend);
  /* Nothing is told before the main loop runs. */
  g_assert_cmpuint (watch.n_added, ==, 0);
  wait_added (&watch, 1);
  g_assert_cmpstr (kw_token_get_info (fixture->token)->label, ==, "one");
  g_assert_null (kw_backend_get_status_text (fixture->backend));
}

static void
test_token_appears (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };

  start (&watch, fixture, "token_label = \"two\"");
  wait_status (&watch, "token_label \"two\"");
  g_assert_cmpuint (watch.n_status, >, 0);
  add_token (fixture, "one");
  wait_status (&watch, "label \"one\"");
  add_token (fixture, "two");
  wait_added (&watch, 1);
  g_assert_cmpstr (kw_token_get_info (fixture->token)->label, ==, "two");
  wait_until (&watch, status_is_clear, NULL);
}

static void
test_token_deleted_and_made_again (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };
  g_autoptr (KwToken) old = NULL;
  g_autoptr (GError) error = NULL;

  add_token (fixture, "one");
  start (&watch, fixture, "");
  wait_added (&watch, 1);
  old = g_object_ref (fixture->token);
  kw_pkcs11_fixture_login (fixture);

  kw_soft_hsm_delete_token (fixture->hsm, "one");
  wait_removed (&watch, 1);
  wait_status (&watch, "No initialised token is there");
  add_token (fixture, "one");
  wait_until (&watch, is_settled, old);
  g_assert_cmpstr (kw_token_get_info (fixture->token)->serial, !=, kw_token_get_info (old)->serial);
  kw_pkcs11_fixture_login (fixture);
  g_assert_null (kw_token_list_keys (old, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
}

static void
test_token_initialised_under_another_label (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };

  add_token (fixture, "one");
  start (&watch, fixture, "token_label = \"one\"");
  wait_added (&watch, 1);
  kw_soft_hsm_reinit_token (fixture->hsm, "one", "renamed", KW_TEST_SO_PIN, KW_TEST_PIN);
  wait_removed (&watch, 1);
  wait_status (&watch, "label \"renamed\"");
  g_assert_cmpuint (watch.n_added, ==, 1);
}

static void
test_token_initialised_under_its_label (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };
  g_autoptr (KwToken) old = NULL;
  g_autoptr (GBytes) id = NULL;
  g_autoptr (GError) error = NULL;

  add_token (fixture, "one");
  start (&watch, fixture, "");
  wait_added (&watch, 1);
  old = g_object_ref (fixture->token);
  kw_pkcs11_fixture_login (fixture);
  id = kw_pkcs11_fixture_add_aes (fixture, "aes");

  /* Label, serial number and slot stay: that a known key is gone tells. */
  kw_soft_hsm_reinit_token (fixture->hsm, "one", "one", KW_TEST_SO_PIN, KW_TEST_PIN);
  wait_until (&watch, is_settled, old);
  kw_pkcs11_fixture_login (fixture);
  g_assert_null (kw_token_find_key (fixture->token, KW_KEY_KIND_AES, id, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND);
}

static void
test_use_of_a_token_made_again (KwPkcs11Fixture *fixture)
{
  static const guint8 block[16] = { 0 };
  KwPkcs11Timing timing = fast;
  Watch watch = { 0 };
  g_autoptr (GBytes) id = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) output = NULL;

  /* No look at the token: its use shows that it is another one. */
  timing.check = 1000 * G_USEC_PER_SEC;
  add_token (fixture, "one");
  start_module (&watch, fixture, kw_shim_get_module_path (), "", &timing);
  wait_added (&watch, 1);
  kw_pkcs11_fixture_login (fixture);
  id = kw_pkcs11_fixture_add_aes (fixture, "aes");
  kw_soft_hsm_delete_token (fixture->hsm, "one");
  add_token (fixture, "one");

  g_assert_null (kw_token_aes_cbc (fixture->token, id, TRUE, block, block, 16, &error));
  g_assert_true (kw_error_is_device_trouble (error));
  kw_backend_reset_token (fixture->backend, fixture->token);
  wait_added (&watch, 2);
  kw_pkcs11_fixture_login (fixture);
  g_bytes_unref (kw_pkcs11_fixture_add_aes (fixture, "aes"));
  g_clear_error (&error);
  output = kw_token_aes_cbc (fixture->token, id, TRUE, block, block, 16, &error);
  g_assert_no_error (error);
}

static void
test_pin_set_later (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };

  add_token (fixture, "one");
  kw_shim_set_token_flags (fixture->shim, 0, CKF_USER_PIN_INITIALIZED);
  start (&watch, fixture, "");
  wait_added (&watch, 1);
  kw_shim_set_token_flags (fixture->shim, 0, 0);
  wait_added (&watch, 2);
  g_assert_cmpuint (watch.n_removed, ==, 1);
}

static void
test_reset (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };
  g_autoptr (KwToken) old = NULL;
  guint n_finalize = 0;

  add_token (fixture, "one");
  start (&watch, fixture, "");
  wait_added (&watch, 1);
  old = g_object_ref (fixture->token);
  kw_pkcs11_fixture_login (fixture);
  n_finalize = kw_shim_get_calls (fixture->shim, KW_SHIM_C_Finalize);

  kw_backend_reset_token (fixture->backend, old);
  g_assert_cmpuint (watch.n_removed, ==, 1);
  /* A second complaint about the same token is an echo. */
  kw_backend_reset_token (fixture->backend, old);
  g_assert_cmpuint (watch.n_removed, ==, 1);
  wait_added (&watch, 2);
  g_assert_true (fixture->token != old);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Finalize), ==, n_finalize + 1);
  g_assert_cmpint (kw_shim_get_open_sessions (fixture->shim), ==, 0);
  kw_pkcs11_fixture_login (fixture);
  kw_backend_reset_token (fixture->backend, old);
  g_assert_cmpuint (watch.n_removed, ==, 1);
}

static void
test_resets_back_off (KwPkcs11Fixture *fixture)
{
  KwPkcs11Timing timing = fast;
  Watch watch = { 0 };
  gint64 began = 0;

  timing.reset_first = 100 * MS;
  timing.reset_max = 150 * MS;
  add_token (fixture, "one");
  start_module (&watch, fixture, kw_shim_get_module_path (), "", &timing);
  wait_added (&watch, 1);
  began = g_get_monotonic_time ();
  for (guint i = 1; i <= 4; i++)
    {
      kw_backend_reset_token (fixture->backend, fixture->token);
      wait_added (&watch, 1 + i);
    }
  /* At once, after 100 ms, after 150 ms, after 150 ms. */
  g_assert_cmpint (g_get_monotonic_time () - began, >=, 400 * MS);
}

static void
test_calm_ends_back_off (KwPkcs11Fixture *fixture)
{
  KwPkcs11Timing timing = fast;
  Watch watch = { 0 };

  /* Would take longer than the deadline if it backed off. */
  timing.reset_first = 1000 * G_USEC_PER_SEC;
  timing.calm = 0;
  add_token (fixture, "one");
  start_module (&watch, fixture, kw_shim_get_module_path (), "", &timing);
  wait_added (&watch, 1);
  for (guint i = 1; i <= 3; i++)
    {
      kw_backend_reset_token (fixture->backend, fixture->token);
      wait_added (&watch, 1 + i);
    }
}

static void
test_module_appears (KwPkcs11Fixture *fixture)
{
  g_autofree char *path
      = g_build_filename (kw_soft_hsm_get_directory (fixture->hsm), "module.so", NULL);
  g_autoptr (GError) error = NULL;
  g_autofree char *text = g_strnfill (4096, 'x');
  g_autoptr (GFile) link = g_file_new_for_path (path);
  Watch watch = { 0 };

  add_token (fixture, "one");
  start_module (&watch, fixture, path, "", &fast);
  wait_status (&watch, "cannot be loaded");

  g_assert_true (g_file_set_contents (path, text, -1, &error));
  wait_status (&watch, "invalid ELF header");
  g_assert_cmpint (g_unlink (path), ==, 0);
  g_assert_true (g_file_make_symbolic_link (link, kw_shim_get_module_path (), NULL, &error));
  g_assert_no_error (error);
  wait_added (&watch, 1);
  wait_until (&watch, status_is_clear, NULL);
}

static void
test_library_that_is_no_module (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };

  start_module (&watch, fixture, KW_TEST_OTHER_LIBRARY, "", &fast);
  wait_status (&watch, "it has no C_GetFunctionList");
}

static void
test_module_that_cannot_start_yet (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };

  add_token (fixture, "one");
  kw_shim_fail (fixture->shim, KW_SHIM_C_Initialize, CKR_DEVICE_ERROR, 3);
  start (&watch, fixture, "");
  wait_status (&watch, "cannot be initialised: C_Initialize: CKR_DEVICE_ERROR");
  wait_added (&watch, 1);
}

static void
test_ambiguity (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };
  g_autofree char *first = NULL;
  g_autofree char *candidate = NULL;

  add_token (fixture, "same");
  first = kw_soft_hsm_dup_serial (fixture->hsm, "same");
  add_token (fixture, "same");
  start (&watch, fixture, "token_label = \"same\"");
  candidate = g_strdup_printf ("label \"same\", serial \"%s\"", first);
  wait_status (&watch, candidate);
  g_assert_true (status_has (&watch, "2 tokens fit; choose one by [pkcs11] token_serial"));
  kw_soft_hsm_delete_serial (fixture->hsm, first);
  wait_added (&watch, 1);
}

static gpointer
random_in_thread (gpointer data)
{
  KwToken *token = data;
  guint8 bytes[8];
  GError *error = NULL;

  kw_token_random (token, bytes, sizeof bytes, &error);
  return error;
}

static void
test_reset_beside_a_call_that_hangs (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };
  g_autoptr (KwToken) old = NULL;
  g_autoptr (GThread) thread = NULL;
  g_autoptr (GError) error = NULL;
  guint n_finalize = 0;

  add_token (fixture, "one");
  start (&watch, fixture, "");
  wait_added (&watch, 1);
  old = g_object_ref (fixture->token);
  kw_shim_hang (fixture->shim, KW_SHIM_C_GenerateRandom);
  thread = g_thread_new ("hanging", random_in_thread, old);
  wait_until (&watch, call_hangs, GINT_TO_POINTER (1));
  n_finalize = kw_shim_get_calls (fixture->shim, KW_SHIM_C_Finalize);

  kw_backend_reset_token (fixture->backend, old);
  g_assert_cmpuint (watch.n_removed, ==, 1);
  wait_status (&watch, "does not return");
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Finalize), ==, n_finalize);
  g_assert_cmpuint (watch.n_added, ==, 1);

  kw_shim_clear (fixture->shim, KW_SHIM_C_GenerateRandom);
  error = g_thread_join (g_steal_pointer (&thread));
  wait_added (&watch, 2);
  wait_until (&watch, status_is_clear, NULL);
  kw_pkcs11_fixture_login (fixture);
}

static void
test_module_hangs_while_it_is_looked_at (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };

  add_token (fixture, "one");
  start (&watch, fixture, "");
  wait_added (&watch, 1);
  kw_shim_hang (fixture->shim, KW_SHIM_C_GetTokenInfo);
  wait_status (&watch, "does not return");
  kw_shim_clear (fixture->shim, KW_SHIM_C_GetTokenInfo);
  wait_until (&watch, status_is_clear, NULL);
  g_assert_cmpuint (watch.n_removed, ==, 0);
}

static void
test_busy_token_is_not_disturbed (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };
  g_autoptr (GThread) thread = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) id = NULL;

  add_token (fixture, "one");
  start (&watch, fixture, "sessions = 1");
  wait_added (&watch, 1);
  kw_pkcs11_fixture_login (fixture);
  id = kw_pkcs11_fixture_add_aes (fixture, "aes");
  kw_shim_hang (fixture->shim, KW_SHIM_C_GenerateRandom);
  thread = g_thread_new ("hanging", random_in_thread, fixture->token);
  wait_until (&watch, call_hangs, GINT_TO_POINTER (1));

  /* Looked at all the same, but without waiting for its one session. */
  kw_shim_reset_calls (fixture->shim);
  wait_until (&watch, was_called, GUINT_TO_POINTER (KW_SHIM_C_GetTokenInfo));
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_GetAttributeValue), ==, 0);
  g_assert_cmpuint (watch.n_removed, ==, 0);
  kw_shim_clear (fixture->shim, KW_SHIM_C_GenerateRandom);
  error = g_thread_join (g_steal_pointer (&thread));
  g_assert_no_error (error);
}

static void
test_end_beside_a_call_that_hangs (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GThread) thread = NULL;
  g_autoptr (GError) error = NULL;

  add_token (fixture, "one");
  start (&watch, fixture, "");
  wait_added (&watch, 1);
  token = g_object_ref (fixture->token);
  kw_shim_hang (fixture->shim, KW_SHIM_C_GenerateRandom);
  kw_shim_hang (fixture->shim, KW_SHIM_C_GetTokenInfo);
  thread = g_thread_new ("hanging", random_in_thread, token);
  wait_until (&watch, call_hangs, GINT_TO_POINTER (2));

  kw_shim_reset_calls (fixture->shim);
  g_test_expect_message ("kw-pkcs11-backend", G_LOG_LEVEL_WARNING, "*does not return*");
  g_clear_object (&fixture->backend);
  g_test_assert_expected_messages ();
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Finalize), ==, 0);

  /* The thread goes on by itself, and finalises the module when it can. */
  kw_shim_clear_all (fixture->shim);
  error = g_thread_join (g_steal_pointer (&thread));
  g_assert_no_error (error);
  g_clear_object (&fixture->token);
  g_clear_object (&token);
  wait_until (&watch, was_finalized, NULL);
}

static void
test_stop (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GError) error = NULL;

  add_token (fixture, "one");
  start (&watch, fixture, "");
  wait_added (&watch, 1);
  token = g_object_ref (fixture->token);
  kw_backend_stop (fixture->backend);
  g_assert_null (kw_token_list_keys (token, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
  kw_soft_hsm_delete_token (fixture->hsm, "one");
  g_clear_object (&fixture->backend);
  while (g_main_context_iteration (NULL, FALSE))
    continue;
  g_assert_cmpuint (watch.n_removed, ==, 0);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Finalize), >, 0);
}

static void
test_stop_at_once (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };

  add_token (fixture, "one");
  start (&watch, fixture, "");
  kw_backend_stop (fixture->backend);
  g_clear_object (&fixture->backend);
  while (g_main_context_iteration (NULL, FALSE))
    continue;
  g_assert_cmpuint (watch.n_added, ==, 0);
}

static void
test_stop_beside_a_call_that_hangs (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };
  gint64 began = 0;

  add_token (fixture, "one");
  start (&watch, fixture, "");
  wait_added (&watch, 1);
  kw_shim_hang (fixture->shim, KW_SHIM_C_GetTokenInfo);
  wait_until (&watch, call_hangs, GINT_TO_POINTER (1));
  began = g_get_monotonic_time ();
  kw_backend_stop (fixture->backend);
  g_assert_cmpint (g_get_monotonic_time () - began, <, G_USEC_PER_SEC);
  kw_shim_clear (fixture->shim, KW_SHIM_C_GetTokenInfo);
}

static void
test_idle_token_is_left_alone (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };

  add_token (fixture, "one");
  start (&watch, fixture, "");
  wait_added (&watch, 1);
  kw_shim_reset_calls (fixture->shim);
  wait_until (&watch, was_called, GUINT_TO_POINTER (KW_SHIM_C_GetTokenInfo));
  for (guint i = 0; i < KW_SHIM_N_FUNCTIONS; i++)
    {
      if (i != KW_SHIM_C_GetTokenInfo)
        g_assert_cmpuint (kw_shim_get_calls (fixture->shim, (KwShimFunction) i), ==, 0);
    }
}

static void
test_coldplug_without_token (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwConfig) config = kw_pkcs11_fixture_make_config (kw_shim_get_module_path (), "");
  g_autoptr (KwBackend) backend = g_object_new (KW_TYPE_PKCS11_BACKEND, NULL);
  g_autoptr (GError) error = NULL;

  g_assert_true (kw_backend_configure (backend, config, NULL));
  g_assert_null (kw_backend_coldplug (backend, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_NOT_FOUND);
  g_assert_nonnull (strstr (error->message, "a token that was never initialised"));
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Initialize), ==, 1);
}

static void
test_coldplug_without_module (KwPkcs11Fixture *fixture G_GNUC_UNUSED)
{
  g_autoptr (KwConfig) config = kw_pkcs11_fixture_make_config ("/nowhere/module.so", "");
  g_autoptr (KwBackend) backend = g_object_new (KW_TYPE_PKCS11_BACKEND, NULL);
  g_autoptr (GError) error = NULL;

  g_assert_true (kw_backend_configure (backend, config, NULL));
  g_assert_null (kw_backend_coldplug (backend, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED);
  g_assert_nonnull (strstr (error->message, "/nowhere/module.so"));
  g_clear_error (&error);
  g_assert_null (kw_backend_list_slots (backend, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED);
}

static const char *
field_value (GPtrArray *fields, const char *name)
{
  for (guint i = 0; i + 1 < fields->len; i += 2)
    {
      if (g_str_equal (fields->pdata[i], name))
        return fields->pdata[i + 1];
    }
  return NULL;
}

static void
assert_field_names (GPtrArray *fields, const char *const *names)
{
  g_assert_cmpuint (fields->len, ==, 2 * g_strv_length ((char **) names));
  for (guint i = 0; names[i] != NULL; i++)
    g_assert_cmpstr (fields->pdata[2 * i], ==, names[i]);
}

static void
test_list_slots (KwPkcs11Fixture *fixture)
{
  static const char *const slot_names[] = { "Description",
                                            "Manufacturer ID",
                                            "Hardware version",
                                            "Firmware version",
                                            "Token present",
                                            "Flags",
                                            NULL };
  static const char *const token_names[] = { "Manufacturer ID",
                                             "Model",
                                             "Hardware version",
                                             "Firmware version",
                                             "Serial number",
                                             "Initialized",
                                             "User PIN init.",
                                             "Label",
                                             "MaxSessionCount",
                                             "SessionCount",
                                             "MaxRwSessionCount",
                                             "RwSessionCount",
                                             "MaxPinLen",
                                             "MinPinLen",
                                             "TotalPublicMemory",
                                             "FreePublicMemory",
                                             "TotalPrivateMemory",
                                             "FreePrivateMemory",
                                             "UTCTime",
                                             "Flags",
                                             NULL };
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) slots = NULL;
  const KwSlotInfo *slot = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  slots = kw_backend_list_slots (fixture->backend, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (slots->len, ==, 2);
  slot = slots->pdata[0];
  g_assert_cmpuint (slot->slot, ==, kw_token_get_info (fixture->token)->slot);
  assert_field_names (slot->slot_fields, slot_names);
  assert_field_names (slot->token_fields, token_names);
  g_assert_cmpstr (field_value (slot->slot_fields, "Token present"), ==, "yes");
  g_assert_cmpstr (field_value (slot->token_fields, "Label"), ==, "one");
  g_assert_cmpstr (field_value (slot->token_fields, "Initialized"), ==, "yes");
  g_assert_cmpstr (field_value (slot->token_fields, "MaxSessionCount"), ==, "unlimited");
  g_assert_cmpstr (field_value (slot->token_fields, "TotalPublicMemory"), ==, "unavailable");
  g_assert_nonnull (
      strstr (field_value (slot->token_fields, "Flags"), "CKF_LOGIN_REQUIRED CKF_USER_PIN_INIT"));
  g_assert_cmpstr (field_value (((KwSlotInfo *) slots->pdata[1])->token_fields, "Initialized"), ==,
                   "no");
}

static void
test_list_odd_slots (KwPkcs11Fixture *fixture)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) slots = NULL;
  g_autoptr (GPtrArray) empty_slots = NULL;
  const KwSlotInfo *slot = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  kw_shim_set_max_sessions (fixture->shim, 7);
  kw_shim_set_token_flags (fixture->shim, 0x80000000, 0);
  slots = kw_backend_list_slots (fixture->backend, &error);
  g_assert_no_error (error);
  slot = slots->pdata[0];
  g_assert_cmpstr (field_value (slot->token_fields, "MaxSessionCount"), ==, "7");
  g_assert_true (g_str_has_suffix (field_value (slot->token_fields, "Flags"), " 0x80000000"));

  kw_shim_set_fault (fixture->shim, KW_SHIM_C_GetSlotInfo, KW_SHIM_FAULT_NOTHING, 0, 0,
                     KW_SHIM_ALWAYS);
  empty_slots = kw_backend_list_slots (fixture->backend, &error);
  g_assert_no_error (error);
  slot = empty_slots->pdata[0];
  g_assert_cmpstr (field_value (slot->slot_fields, "Token present"), ==, "no");
  g_assert_cmpuint (slot->token_fields->len, ==, 0);
}

static void
add_tests (void)
{
  kw_pkcs11_add_test ("/backend/bad-configuration", test_bad_configuration);
  kw_pkcs11_add_test ("/backend/token-is-there", test_token_is_there);
  kw_pkcs11_add_test ("/backend/token-appears", test_token_appears);
  kw_pkcs11_add_test ("/backend/token-deleted-and-made-again", test_token_deleted_and_made_again);
  kw_pkcs11_add_test ("/backend/token-initialised-under-another-label",
                      test_token_initialised_under_another_label);
  kw_pkcs11_add_test ("/backend/token-initialised-under-its-label",
                      test_token_initialised_under_its_label);
  kw_pkcs11_add_test ("/backend/use-of-a-token-made-again", test_use_of_a_token_made_again);
  kw_pkcs11_add_test ("/backend/pin-set-later", test_pin_set_later);
  kw_pkcs11_add_test ("/backend/reset", test_reset);
  kw_pkcs11_add_test ("/backend/resets-back-off", test_resets_back_off);
  kw_pkcs11_add_test ("/backend/calm-ends-back-off", test_calm_ends_back_off);
  kw_pkcs11_add_test ("/backend/module-appears", test_module_appears);
  kw_pkcs11_add_test ("/backend/library-that-is-no-module", test_library_that_is_no_module);
  kw_pkcs11_add_test ("/backend/module-that-cannot-start-yet", test_module_that_cannot_start_yet);
  kw_pkcs11_add_test ("/backend/ambiguity", test_ambiguity);
  kw_pkcs11_add_test ("/backend/reset-beside-a-call-that-hangs",
                      test_reset_beside_a_call_that_hangs);
  kw_pkcs11_add_test ("/backend/module-hangs-while-it-is-looked-at",
                      test_module_hangs_while_it_is_looked_at);
  kw_pkcs11_add_test ("/backend/busy-token-is-not-disturbed", test_busy_token_is_not_disturbed);
  kw_pkcs11_add_test ("/backend/end-beside-a-call-that-hangs", test_end_beside_a_call_that_hangs);
  kw_pkcs11_add_test ("/backend/stop", test_stop);
  kw_pkcs11_add_test ("/backend/stop-at-once", test_stop_at_once);
  kw_pkcs11_add_test ("/backend/stop-beside-a-call-that-hangs", test_stop_beside_a_call_that_hangs);
  kw_pkcs11_add_test ("/backend/idle-token-is-left-alone", test_idle_token_is_left_alone);
  kw_pkcs11_add_test ("/backend/coldplug-without-token", test_coldplug_without_token);
  kw_pkcs11_add_test ("/backend/coldplug-without-module", test_coldplug_without_module);
  kw_pkcs11_add_test ("/backend/list-slots", test_list_slots);
  kw_pkcs11_add_test ("/backend/list-odd-slots", test_list_odd_slots);
}

int
main (int argc, char **argv)
{
  return kw_pkcs11_test_main (argc, argv, add_tests);
}
