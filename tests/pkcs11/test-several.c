/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-several"

#include "config.h"

#include "kw-error.h"
#include "kw-key-matrix.h"
#include "kw-names.h"
#include "kw-pkcs11-fixture.h"
#include "kw-plugins.h"
#include "kw-service.h"

#include <string.h>

/*
 * Several tokens of one module as one pool: the service on a real SoftHSM2, whose tokens get copies
 * of one AES key, or of different ones, behind its back.
 */

#define DEADLINE_USEC (30 * G_USEC_PER_SEC)
#define MS (G_USEC_PER_SEC / 1000)
#define TWO_TOKENS                                                                                 \
  "[[pkcs11]]\nmodule = \"%s\"\ntoken_label = \"one\"\n"                                           \
  "[[pkcs11]]\nmodule = \"%s\"\ntoken_label = \"two\"\n"

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
  .share_first = 100 * MS,
  .share_max = 400 * MS,
};

typedef struct
{
  KwService *service;
  KwCaller *caller;
} Rig;

static gboolean
on_tick (gpointer data G_GNUC_UNUSED)
{
  return G_SOURCE_CONTINUE;
}

/* Runs the main loop until @condition holds, for so long at most. */
#define wait_until(condition)                                                                      \
  G_STMT_START                                                                                     \
  {                                                                                                \
    gint64 deadline = g_get_monotonic_time () + DEADLINE_USEC;                                     \
    guint tick = g_timeout_add (5, on_tick, NULL);                                                 \
                                                                                                   \
    while (!(condition))                                                                           \
      {                                                                                            \
        g_assert_cmpint (g_get_monotonic_time (), <, deadline);                                    \
        g_main_context_iteration (NULL, TRUE);                                                     \
      }                                                                                            \
    g_source_remove (tick);                                                                        \
  }                                                                                                \
  G_STMT_END

static GLogWriterOutput
drop_line (GLogLevelFlags level G_GNUC_UNUSED,
           const GLogField *fields G_GNUC_UNUSED,
           gsize n_fields G_GNUC_UNUSED,
           gpointer user_data G_GNUC_UNUSED)
{
  return G_LOG_WRITER_HANDLED;
}

/* Makes a token with an AES key of 32 bytes @value, called "master". */
static void
add_token (KwPkcs11Fixture *fixture, const char *label, guint8 value)
{
  g_autofree char *settings = g_strdup_printf ("token_label = \"%s\"", label);
  CK_OBJECT_CLASS object_class = CKO_SECRET_KEY;
  CK_KEY_TYPE type = CKK_AES;
  CK_BBOOL yes = CK_TRUE;
  CK_BBOOL no = CK_FALSE;
  guint8 bytes[32];
  CK_ATTRIBUTE attributes[] = {
    { CKA_CLASS, &object_class, sizeof object_class },
    { CKA_KEY_TYPE, &type, sizeof type },
    { CKA_TOKEN, &yes, 1 },
    { CKA_PRIVATE, &yes, 1 },
    { CKA_SENSITIVE, &yes, 1 },
    { CKA_EXTRACTABLE, &no, 1 },
    { CKA_ENCRYPT, &yes, 1 },
    { CKA_DECRYPT, &yes, 1 },
    { CKA_ID, (gpointer) "master", 6 },
    { CKA_LABEL, (gpointer) "master", 6 },
    { CKA_VALUE, bytes, sizeof bytes },
  };
  CK_SESSION_HANDLE session = 0;
  CK_OBJECT_HANDLE handle = 0;

  memset (bytes, value, sizeof bytes);
  kw_soft_hsm_add_token (fixture->hsm, label, KW_TEST_SO_PIN, KW_TEST_PIN);
  if (value == 0)
    return;
  kw_pkcs11_fixture_reopen (fixture, settings);
  session = kw_pkcs11_fixture_open_session (fixture);
  g_assert_cmpuint (fixture->functions->C_CreateObject (session, attributes,
                                                        G_N_ELEMENTS (attributes), &handle),
                    ==, CKR_OK);
  g_assert_cmpuint (fixture->functions->C_CloseSession (session), ==, CKR_OK);
  g_clear_object (&fixture->token);
  g_clear_object (&fixture->backend);
  g_clear_object (&fixture->config);
}

static void
start_service (KwPkcs11Fixture *fixture, Rig *rig, const char *settings)
{
  const char *module = kw_shim_get_module_path ();
  g_autofree char *state
      = g_build_filename (kw_soft_hsm_get_directory (fixture->hsm), "state", NULL);
  g_autofree char *tables = g_strdup_printf (TWO_TOKENS, module, module);
  g_autofree char *text = g_strdup_printf (
      "[state]\ndirectory = \"%s\"\n[hsm]\nhsm_keyid = \"label:master\"\nhsm_pin = \"%s\"\n%s\n%s",
      state, KW_TEST_PIN, settings, tables);
  g_autoptr (GError) error = NULL;
  g_autoptr (KwConfig) config = kw_config_new_from_data ("test.toml", text, strlen (text), &error);

  g_assert_no_error (error);
  rig->caller = kw_caller_new (KW_CALLER_LOCAL, NULL, NULL, "unix", KW_CALLER_NO_UID);
  rig->service = kw_service_new (config, &error);
  g_assert_no_error (error);
  kw_service_start (rig->service);
}

static void
stop_service (Rig *rig)
{
  gpointer service = rig->service;

  kw_service_stop (rig->service);
  wait_until (kw_pool_is_idle (kw_service_get_pool (rig->service)));
  g_object_add_weak_pointer (G_OBJECT (rig->service), &service);
  g_object_unref (rig->service);
  while (service != NULL || g_main_context_pending (NULL))
    if (!g_main_context_iteration (NULL, FALSE))
      g_thread_yield ();
  kw_caller_unref (rig->caller);
}

static KwKeyFacts
get_facts (Rig *rig)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (kw_service_get_keyring (rig->service));

  return *kw_key_matrix_get_key (matrix, 0);
}

static void
on_done (KwJob *job G_GNUC_UNUSED, gpointer user_data)
{
  g_atomic_int_inc ((gint *) user_data);
  g_main_context_wakeup (NULL);
}

static void
start_job (Rig *rig, KwJob *job, gint *n_ended)
{
  kw_job_set_callback (job, on_done, n_ended);
  kw_service_submit (rig->service, kw_job_ref (job));
}

static void
run_job (Rig *rig, KwJob *job)
{
  gint n_ended = 0;

  start_job (rig, job, &n_ended);
  wait_until (g_atomic_int_get (&n_ended) > 0);
}

static KwJob *
encrypt_job (Rig *rig)
{
  g_autoptr (KwSecret) message = kw_secret_new_copy ("attack at dawn", 14, NULL);

  return kw_job_new_encrypt (rig->caller, message, NULL);
}

static GBytes *
encrypt (Rig *rig)
{
  g_autoptr (KwJob) job = encrypt_job (rig);

  run_job (rig, job);
  g_assert_no_error (kw_job_get_error (job));
  return g_bytes_ref (kw_job_get_envelope (job));
}

static void
assert_good (KwJob *job)
{
  g_assert_no_error (kw_job_get_error (job));
  g_assert_true (kw_secret_equal (kw_job_get_plaintext (job), "attack at dawn", 14));
}

/* Decrypts many at a time, until both devices have done some. */
static void
assert_both_decrypt (Rig *rig, GBytes *envelope)
{
  g_autoptr (GHashTable) devices = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);

  for (guint round = 0; g_hash_table_size (devices) < 2; round++)
    {
      KwJob *jobs[32] = { NULL };
      gint n_ended = 0;

      g_assert_cmpuint (round, <, 100);
      for (guint i = 0; i < G_N_ELEMENTS (jobs); i++)
        {
          jobs[i] = kw_job_new_decrypt (rig->caller, envelope, NULL);
          start_job (rig, jobs[i], &n_ended);
        }
      wait_until (g_atomic_int_get (&n_ended) == G_N_ELEMENTS (jobs));
      for (guint i = 0; i < G_N_ELEMENTS (jobs); i++)
        {
          assert_good (jobs[i]);
          g_hash_table_add (devices, g_strdup (kw_job_get_device_name (jobs[i])));
          kw_job_unref (jobs[i]);
        }
    }
}

static void
test_two_copies (KwPkcs11Fixture *fixture)
{
  Rig rig = { 0 };
  g_autoptr (GBytes) envelope = NULL;

  add_token (fixture, "one", 1);
  add_token (fixture, "two", 1);
  start_service (fixture, &rig, "min_copies = 2");
  envelope = encrypt (&rig);
  g_assert_cmpint (get_facts (&rig).state, ==, KW_KEY_STATE_OK);
  g_assert_cmpuint (get_facts (&rig).n_copies, ==, 2);
  assert_both_decrypt (&rig, envelope);
  stop_service (&rig);
}

/* PKCS#11 tokens cannot clone keys: one that has to be on two is not even made. */
static void
test_cannot_be_cloned (KwPkcs11Fixture *fixture)
{
  Rig rig = { 0 };

  add_token (fixture, "one", 1);
  add_token (fixture, "two", 1);
  start_service (fixture, &rig, "min_copies = 2");
  wait_until (get_facts (&rig).n_copies == 2);
  for (guint i = 0; i < 2; i++)
    {
      g_autoptr (KwJob) job = i == 0 ? kw_job_new_generate_rsa (rig.caller, 2048, "new")
                                     : kw_job_new_generate_aes (rig.caller, 256, "new");
      g_autoptr (GPtrArray) keys = NULL;

      run_job (&rig, job);
      g_assert_error (kw_job_get_error (job), KW_ERROR, KW_ERROR_UNAVAILABLE);
      g_assert_cmpstr (
          kw_job_get_error (job)->message, ==,
          "Keys cannot be cloned between these devices, and min_copies is 2, so no key was made; use cards "
          "with the same transport key, or set min_copies = 1 in [hsm] and see to copies yourself");
      keys = kw_pool_dup_ready_keys (kw_service_get_pool (rig.service), KW_KEY_KIND_RSA);
      g_assert_cmpuint (keys->len, ==, 0);
    }
  g_assert_cmpint (get_facts (&rig).state, ==, KW_KEY_STATE_OK);
  stop_service (&rig);
}

/* One is deleted by another program while many decrypt: nobody notices. */
static void
test_one_is_lost_under_load (KwPkcs11Fixture *fixture)
{
  Rig rig = { 0 };
  g_autoptr (GBytes) envelope = NULL;
  g_autoptr (GPtrArray) jobs = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_job_unref);
  gint n_ended = 0;

  add_token (fixture, "one", 1);
  add_token (fixture, "two", 1);
  start_service (fixture, &rig, "");
  envelope = encrypt (&rig);
  wait_until (get_facts (&rig).n_copies == 2);
  for (guint i = 0; i < 600; i++)
    {
      KwJob *job = kw_job_new_decrypt (rig.caller, envelope, NULL);

      g_ptr_array_add (jobs, job);
      start_job (&rig, job, &n_ended);
      if (i == 300)
        kw_soft_hsm_delete_token (fixture->hsm, "two");
      while (g_main_context_iteration (NULL, FALSE))
        ;
    }
  wait_until (g_atomic_int_get (&n_ended) == 600);
  for (guint i = 0; i < jobs->len; i++)
    assert_good (g_ptr_array_index (jobs, i));
  wait_until (get_facts (&rig).n_copies == 1);
  stop_service (&rig);
}

static void
test_different_keys (KwPkcs11Fixture *fixture)
{
  Rig rig = { 0 };
  g_autoptr (KwJob) job = NULL;
  g_autoptr (KwKeyMatrix) matrix = NULL;
  g_autoptr (GBytes) envelope = NULL;
  g_autoptr (GError) error = NULL;
  g_autofree char *fingerprint = NULL;
  const KwMatrixCell *cell = NULL;

  add_token (fixture, "one", 1);
  add_token (fixture, "two", 2);
  start_service (fixture, &rig, "");
  wait_until (get_facts (&rig).state == KW_KEY_STATE_DIFFERENT);
  job = encrypt_job (&rig);
  run_job (&rig, job);
  g_assert_nonnull (kw_job_get_error (job));
  g_assert_null (get_facts (&rig).fingerprint);
  /* The administrator says which one it is. */
  matrix = kw_keyring_ref_matrix (kw_service_get_keyring (rig.service));
  cell = kw_key_matrix_get_cell (matrix, 0,
                                 g_str_equal (kw_key_matrix_get_device (matrix, 0)->label, "one")
                                     ? 0
                                     : 1);
  fingerprint = g_strdup (kw_key_get_fingerprint (cell->key));
  g_assert_true (kw_keyring_accept (kw_service_get_keyring (rig.service), "label:master",
                                    fingerprint, &error));
  wait_until (get_facts (&rig).n_copies == 1);
  envelope = encrypt (&rig);
  g_assert_nonnull (envelope);
  g_assert_cmpuint (get_facts (&rig).n_copies, ==, 1);
  g_assert_cmpint (get_facts (&rig).state, ==, KW_KEY_STATE_DIFFERENT);
  stop_service (&rig);
}

/* Another process's service reads what this one wrote, on a clone of the key. */
static void
test_over_a_restart (KwPkcs11Fixture *fixture)
{
  Rig rig = { 0 };
  Rig again = { 0 };
  g_autoptr (GBytes) envelope = NULL;
  g_autoptr (KwJob) job = NULL;

  add_token (fixture, "one", 1);
  start_service (fixture, &rig, "");
  envelope = encrypt (&rig);
  stop_service (&rig);
  kw_soft_hsm_delete_token (fixture->hsm, "one");
  add_token (fixture, "two", 1);
  start_service (fixture, &again, "");
  job = kw_job_new_decrypt (again.caller, envelope, NULL);
  run_job (&again, job);
  assert_good (job);
  stop_service (&again);
}

/* A back end by itself, and the tokens it has announced. */
typedef struct
{
  KwBackend *backend;
  GPtrArray *tokens;
  guint n_added;
} Watch;

static void
on_token_added (KwBackend *backend G_GNUC_UNUSED, KwToken *token, Watch *watch)
{
  g_ptr_array_add (watch->tokens, g_object_ref (token));
  watch->n_added++;
}

static void
on_token_removed (KwBackend *backend G_GNUC_UNUSED, KwToken *token, Watch *watch)
{
  g_assert_true (g_ptr_array_remove (watch->tokens, token));
}

static void
watch_start (Watch *watch, KwPkcs11Fixture *fixture, const char *tables)
{
  const char *module = kw_shim_get_module_path ();
  g_autofree char *text = g_strdup_printf (TWO_TOKENS, module, module);
  g_autoptr (GError) error = NULL;

  if (tables == NULL)
    tables = text;
  fixture->config = kw_config_new_from_data ("test.toml", tables, strlen (tables), &error);
  g_assert_no_error (error);
  watch->n_added = 0;
  watch->tokens = g_ptr_array_new_with_free_func (g_object_unref);
  watch->backend = g_object_new (KW_TYPE_PKCS11_BACKEND, NULL);
  g_assert_true (kw_backend_configure (watch->backend, fixture->config, &error));
  kw_pkcs11_backend_set_timing (KW_PKCS11_BACKEND (watch->backend), &fast);
  g_signal_connect (watch->backend, "token-added", G_CALLBACK (on_token_added), watch);
  g_signal_connect (watch->backend, "token-removed", G_CALLBACK (on_token_removed), watch);
  kw_backend_start (watch->backend);
}

static void
watch_stop (Watch *watch)
{
  kw_backend_stop (watch->backend);
  g_ptr_array_unref (watch->tokens);
  g_object_unref (watch->backend);
  while (g_main_context_iteration (NULL, FALSE))
    ;
}

static KwToken *
find_token (Watch *watch, const char *label)
{
  for (guint i = 0; i < watch->tokens->len; i++)
    {
      KwToken *token = g_ptr_array_index (watch->tokens, i);

      if (g_str_equal (kw_token_get_info (token)->label, label))
        return token;
    }
  return NULL;
}

/* Trouble with one token is not trouble with the module. */
static void
test_reset_leaves_the_other_alone (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };
  KwToken *one = NULL;
  guint n_initialized = 0;

  add_token (fixture, "one", 0);
  add_token (fixture, "two", 0);
  watch_start (&watch, fixture, NULL);
  wait_until (watch.tokens->len == 2);
  one = find_token (&watch, "one");
  n_initialized = kw_shim_get_calls (fixture->shim, KW_SHIM_C_Initialize);
  for (guint i = 0; i < 4; i++)
    {
      kw_backend_reset_token (watch.backend, find_token (&watch, "two"));
      g_assert_null (find_token (&watch, "two"));
      wait_until (find_token (&watch, "two") != NULL);
      g_assert_true (find_token (&watch, "one") == one);
    }
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Initialize), ==, n_initialized);
  wait_until (kw_backend_get_status_text (watch.backend) == NULL);
  watch_stop (&watch);
}

/* Both in trouble: one after the other, or with the module as a whole, they are found again. */
static void
test_reset_of_all (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };

  add_token (fixture, "one", 0);
  add_token (fixture, "two", 0);
  watch_start (&watch, fixture, NULL);
  wait_until (watch.tokens->len == 2);
  kw_backend_reset_token (watch.backend, find_token (&watch, "one"));
  kw_backend_reset_token (watch.backend, find_token (&watch, "two"));
  wait_until (watch.tokens->len == 2);
  g_assert_cmpuint (watch.n_added, ==, 4);
  watch_stop (&watch);
}

/* SoftHSM sees it only when it is initialised anew, which is done now and then. */
static void
test_second_token_comes_later (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };

  add_token (fixture, "one", 0);
  watch_start (&watch, fixture, NULL);
  wait_until (watch.tokens->len == 1);
  wait_until (kw_backend_get_status_text (watch.backend) != NULL
              && strstr (kw_backend_get_status_text (watch.backend),
                         "No initialised token fits token_label \"two\"")
                     != NULL);
  add_token (fixture, "two", 0);
  wait_until (watch.tokens->len == 2);
  wait_until (kw_backend_get_status_text (watch.backend) == NULL);
  watch_stop (&watch);
}

static void
test_two_tables_mean_one_token (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };
  const char *module = kw_shim_get_module_path ();
  g_autofree char *text = g_strdup_printf ("[[pkcs11]]\nmodule = \"%s\"\ntoken_label = \"one\"\n"
                                           "[[pkcs11]]\nmodule = \"%s\"\n",
                                           module, module);

  add_token (fixture, "one", 0);
  watch_start (&watch, fixture, text);
  wait_until (watch.tokens->len == 1);
  wait_until (kw_backend_get_status_text (watch.backend) != NULL);
  g_assert_cmpstr (kw_backend_get_status_text (watch.backend), ==,
                   "Two tables [[pkcs11]] mean one token; tell them apart by token_serial");
  watch_stop (&watch);
}

/* One module that is not there does not keep the tokens of another from being used. */
static void
test_one_module_is_missing (KwPkcs11Fixture *fixture)
{
  Watch watch = { 0 };
  g_autofree char *text
      = g_strdup_printf ("[[pkcs11]]\nmodule = \"/nowhere/module.so\"\n"
                         "[[pkcs11]]\nmodule = \"%s\"\npin = \"%s\"\ntimeout = 7\n",
                         kw_shim_get_module_path (), KW_TEST_PIN);
  KwTokenAccess access = { 0 };

  add_token (fixture, "one", 0);
  watch_start (&watch, fixture, text);
  wait_until (watch.tokens->len == 1);
  wait_until (kw_backend_get_status_text (watch.backend) != NULL);
  g_assert_true (g_str_has_prefix (kw_backend_get_status_text (watch.backend),
                                   "The PKCS#11 module /nowhere/module.so cannot be loaded"));
  g_assert_true (
      kw_backend_get_access (watch.backend, g_ptr_array_index (watch.tokens, 0), &access));
  g_assert_true (kw_secret_equal (access.pin, KW_TEST_PIN, strlen (KW_TEST_PIN)));
  g_assert_cmpstr (access.pin_name, ==, "[pkcs11] pin");
  g_assert_cmpint (access.timeout_usec, ==, 7 * G_USEC_PER_SEC);
  watch_stop (&watch);
}

static void
test_coldplug_finds_all (KwPkcs11Fixture *fixture)
{
  const char *module = kw_shim_get_module_path ();
  g_autofree char *text
      = g_strdup_printf (TWO_TOKENS "[[pkcs11]]\nmodule = \"/nowhere/m.so\"\n", module, module);
  g_autofree char *none = g_strdup ("[[pkcs11]]\nmodule = \"/m.so\"\n[[pkcs11]]\nslot = 1\n");
  g_autoptr (GError) error = NULL;
  g_autoptr (KwBackend) backend = g_object_new (KW_TYPE_PKCS11_BACKEND, NULL);
  g_autoptr (KwBackend) other = g_object_new (KW_TYPE_PKCS11_BACKEND, NULL);
  g_autoptr (KwConfig) incomplete = NULL;
  g_autoptr (GPtrArray) tokens = NULL;

  add_token (fixture, "one", 0);
  add_token (fixture, "two", 0);
  fixture->config = kw_config_new_from_data ("test.toml", text, strlen (text), &error);
  g_assert_no_error (error);
  g_assert_true (kw_backend_configure (backend, fixture->config, &error));
  tokens = kw_backend_coldplug (backend, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (tokens->len, ==, 2);
  g_assert_null (kw_backend_list_slots (backend, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED);
  g_clear_error (&error);
  incomplete = kw_config_new_from_data ("test.toml", none, strlen (none), &error);
  g_assert_false (kw_backend_configure (other, incomplete, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_CONFIG);
  g_assert_cmpstr (error->message, ==,
                   "A table [[pkcs11]] names no module: each of them is complete in itself");
}

static void
add_tests (void)
{
  g_log_set_writer_func (drop_line, NULL, NULL);
  kw_plugins_register_point (KW_BACKEND_EXTENSION_POINT, KW_TYPE_BACKEND);
  g_io_extension_point_implement (KW_BACKEND_EXTENSION_POINT, KW_TYPE_PKCS11_BACKEND, "pkcs11", 0);
  kw_pkcs11_add_test ("/several/two-copies", test_two_copies);
  kw_pkcs11_add_test ("/several/cannot-be-cloned", test_cannot_be_cloned);
  kw_pkcs11_add_test ("/several/one-is-lost-under-load", test_one_is_lost_under_load);
  kw_pkcs11_add_test ("/several/different-keys", test_different_keys);
  kw_pkcs11_add_test ("/several/over-a-restart", test_over_a_restart);
  kw_pkcs11_add_test ("/several/reset-leaves-the-other-alone", test_reset_leaves_the_other_alone);
  kw_pkcs11_add_test ("/several/reset-of-all", test_reset_of_all);
  kw_pkcs11_add_test ("/several/second-token-comes-later", test_second_token_comes_later);
  kw_pkcs11_add_test ("/several/two-tables-mean-one-token", test_two_tables_mean_one_token);
  kw_pkcs11_add_test ("/several/one-module-is-missing", test_one_module_is_missing);
  kw_pkcs11_add_test ("/several/coldplug-finds-all", test_coldplug_finds_all);
}

int
main (int argc, char **argv)
{
  return kw_pkcs11_test_main (argc, argv, add_tests);
}
