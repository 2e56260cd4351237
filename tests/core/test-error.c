/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-error"

#include "config.h"

#include "kw-caller.h"
#include "kw-ckr.h"
#include "kw-core-fixture.h"
#include "kw-device.h"
#include "kw-error.h"
#include "kw-job.h"

#define LAST_STANDARD_RV 0x201

static void
test_error_nicks (void)
{
  g_autoptr (GHashTable) seen = g_hash_table_new (g_str_hash, g_str_equal);
  KwError code = KW_ERROR_FAILED;

  for (guint i = 0; i < KW_N_ERRORS; i++)
    {
      const char *nick = kw_error_to_string ((KwError) i);

      g_assert_true (g_hash_table_add (seen, (gpointer) nick));
      g_assert_true (kw_error_from_string (nick, &code));
      g_assert_cmpuint (code, ==, i);
    }
  g_assert_cmpstr (kw_error_to_string ((KwError) KW_N_ERRORS), ==, "failed");
  g_assert_cmpstr (kw_error_to_string ((KwError) -1), ==, "failed");
  code = KW_ERROR_BUSY;
  g_assert_false (kw_error_from_string ("Failed", &code));
  g_assert_false (kw_error_from_string ("", &code));
  g_assert_cmpuint (code, ==, KW_ERROR_BUSY);
}

/* Nicks of errors are in audit logs and scripts: they never change. */
static void
test_error_nicks_are_api (void)
{
  static const char *const nicks[] = {
    "failed",          "invalid-argument", "config",        "permission",
    "not-authorized",  "rate-limited",     "key-not-found", "key-exists",
    "key-mismatch",    "decrypt-failed",   "unavailable",   "busy",
    "timeout",         "cancelled",        "not-supported", "ambiguous",
    "token-not-found", "token-gone",       "token-full",    "token-uninitialized",
    "session-lost",    "not-logged-in",    "device-failed", "module-failed",
    "pin-required",    "pin-invalid",      "pin-refused",   "pin-latched",
    "pin-protected",   "pin-locked",
  };

  g_assert_cmpuint (G_N_ELEMENTS (nicks), <=, KW_N_ERRORS);
  for (guint i = 0; i < G_N_ELEMENTS (nicks); i++)
    g_assert_cmpstr (kw_error_to_string ((KwError) i), ==, nicks[i]);
}

static void
test_other_nicks (void)
{
  KwDeviceState state = KW_DEVICE_PROBING;
  KwKeyKind kind = KW_KEY_KIND_RSA;

  for (guint i = 0; i < KW_N_DEVICE_STATES; i++)
    {
      g_assert_true (
          kw_device_state_from_string (kw_device_state_to_string ((KwDeviceState) i), &state));
      g_assert_cmpuint (state, ==, i);
    }
  g_assert_false (kw_device_state_from_string ("broken", &state));
  for (guint i = 0; i < KW_N_KEY_KINDS; i++)
    {
      g_assert_true (kw_key_kind_from_string (kw_key_kind_to_string ((KwKeyKind) i), &kind));
      g_assert_cmpuint (kind, ==, i);
    }
  g_assert_false (kw_key_kind_from_string ("dsa", &kind));
  g_assert_cmpstr (kw_verb_to_string (KW_VERB_RSA_DECRYPT), ==, "rsa-decrypt");
  g_assert_cmpstr (kw_verb_to_string (KW_VERB_GENERATE_RSA), ==, "generate-rsa");
  g_assert_cmpstr (kw_caller_kind_to_string (KW_CALLER_JWT), ==, "jwt");
  g_assert_cmpstr (kw_caller_kind_to_string (KW_CALLER_LINE), ==, "line");
  g_assert_cmpstr (kw_caller_kind_to_string (KW_CALLER_LOCAL), ==, "local");
}

static void
test_device_trouble (void)
{
  g_autoptr (GError) foreign = g_error_new_literal (G_IO_ERROR, KW_ERROR_TOKEN_GONE, "");

  g_assert_false (kw_error_is_device_trouble (NULL));
  g_assert_false (kw_error_is_device_trouble (foreign));
  for (guint i = 0; i < KW_N_ERRORS; i++)
    {
      g_autoptr (GError) error = g_error_new_literal (KW_ERROR, (gint) i, "");
      gboolean wanted = i == KW_ERROR_TOKEN_GONE || i == KW_ERROR_TOKEN_UNINITIALIZED
                        || i == KW_ERROR_SESSION_LOST || i == KW_ERROR_NOT_LOGGED_IN
                        || i == KW_ERROR_DEVICE_FAILED || i == KW_ERROR_MODULE_FAILED;

      g_test_message ("%s", kw_error_to_string ((KwError) i));
      g_assert_cmpint (kw_error_is_device_trouble (error), ==, wanted);
    }
}

static void
test_ckr_names_are_unique (void)
{
  g_autoptr (GHashTable) seen = g_hash_table_new (g_str_hash, g_str_equal);

  g_assert_cmpstr (kw_ckr_to_string (0), ==, "CKR_OK");
  for (gulong rv = 1; rv < LAST_STANDARD_RV; rv++)
    {
      const char *name = kw_ckr_to_string (rv);

      if (name == NULL)
        continue;
      g_assert_true (g_str_has_prefix (name, "CKR_"));
      g_assert_true (g_hash_table_add (seen, (gpointer) name));
      g_assert_cmpuint (kw_ckr_to_error (rv), <, KW_N_ERRORS);
    }
  g_assert_cmpuint (g_hash_table_size (seen), ==, 73);
}

static void
test_ckr_values (void)
{
  static const struct
  {
    gulong rv;
    KwError code;
    const char *message;
  } rows[] = {
    { 0x05, KW_ERROR_DEVICE_FAILED, "C_Decrypt: CKR_GENERAL_ERROR" },
    { 0x30, KW_ERROR_DEVICE_FAILED, "C_Decrypt: CKR_DEVICE_ERROR" },
    { 0x31, KW_ERROR_TOKEN_FULL, "C_Decrypt: CKR_DEVICE_MEMORY" },
    { 0x32, KW_ERROR_TOKEN_GONE, "C_Decrypt: CKR_DEVICE_REMOVED" },
    { 0x40, KW_ERROR_DECRYPT_FAILED, "C_Decrypt: CKR_ENCRYPTED_DATA_INVALID" },
    { 0x41, KW_ERROR_DECRYPT_FAILED, "C_Decrypt: CKR_ENCRYPTED_DATA_LEN_RANGE" },
    { 0xA0, KW_ERROR_PIN_REFUSED, "C_Decrypt: CKR_PIN_INCORRECT" },
    { 0xA2, KW_ERROR_PIN_INVALID, "C_Decrypt: CKR_PIN_LEN_RANGE" },
    { 0xA4, KW_ERROR_PIN_LOCKED, "C_Decrypt: CKR_PIN_LOCKED" },
    { 0xB3, KW_ERROR_SESSION_LOST, "C_Decrypt: CKR_SESSION_HANDLE_INVALID" },
    { 0xE0, KW_ERROR_TOKEN_GONE, "C_Decrypt: CKR_TOKEN_NOT_PRESENT" },
    { 0x101, KW_ERROR_NOT_LOGGED_IN, "C_Decrypt: CKR_USER_NOT_LOGGED_IN" },
    { 0x200, KW_ERROR_DEVICE_FAILED, "C_Decrypt: CKR_FUNCTION_REJECTED" },
    { 0x3333, KW_ERROR_DEVICE_FAILED, "C_Decrypt: unknown return value 0x00003333" },
    { 0x80001234UL, KW_ERROR_DEVICE_FAILED, "C_Decrypt: vendor's return value 0x80001234" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GError) error = NULL;

      kw_ckr_set_error (&error, rows[i].rv, "C_Decrypt");
      kw_assert_error (error, (gint) rows[i].code, rows[i].message);
    }
  g_assert_null (kw_ckr_to_string (0x3333));
  kw_ckr_set_error (NULL, 0x30, "C_Decrypt");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/error/nicks", test_error_nicks);
  g_test_add_func ("/error/nicks-are-api", test_error_nicks_are_api);
  g_test_add_func ("/error/other-nicks", test_other_nicks);
  g_test_add_func ("/error/device-trouble", test_device_trouble);
  g_test_add_func ("/ckr/names-are-unique", test_ckr_names_are_unique);
  g_test_add_func ("/ckr/values", test_ckr_values);
  return g_test_run ();
}
