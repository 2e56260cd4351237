/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-errors"

#include "config.h"

#include "kw-ckr.h"
#include "kw-error.h"
#include "kw-limits.h"
#include "kw-pkcs11-fixture.h"

#include <string.h>

/*
 * Every call the back end makes × every return value there is a name for (and two there is none
 * for): the right error, the token as it was, no session leaked, and all well again afterwards.
 */

#define UNKNOWN_RV 0x3333
#define VENDOR_RV 0x80001234
#define LAST_RV 0x201

typedef struct
{
  KwPkcs11Fixture *fixture;
  GBytes *rsa_id;
  GBytes *aes_id;
  GBytes *ciphertext;
} Keys;

/* One thing a caller may want; FALSE with an error when it fails. */
typedef gboolean (*Verb) (const Keys *keys, GError **error);

static gboolean
verb_decrypt (const Keys *keys, GError **error)
{
  g_autoptr (KwSecret) plaintext
      = kw_token_rsa_decrypt (keys->fixture->token, keys->rsa_id, KW_RSA_PADDING_PKCS1,
                              keys->ciphertext, error);

  return plaintext != NULL;
}

static gboolean
verb_sign (const Keys *keys, GError **error)
{
  g_autoptr (GBytes) digest = g_bytes_new ("0123456789abcdef0123456789abcdef", 32);
  g_autoptr (GBytes) signature = kw_token_sign (keys->fixture->token, keys->rsa_id, digest, error);

  return signature != NULL;
}

static gboolean
verb_aes (const Keys *keys, gboolean encrypt, GError **error)
{
  static const guint8 block[16] = { 7 };
  g_autoptr (KwSecret) output = kw_token_aes_cbc (keys->fixture->token, keys->aes_id, encrypt,
                                                  block, block, sizeof block, error);

  return output != NULL;
}

static gboolean
verb_aes_encrypt (const Keys *keys, GError **error)
{
  return verb_aes (keys, TRUE, error);
}

static gboolean
verb_aes_decrypt (const Keys *keys, GError **error)
{
  return verb_aes (keys, FALSE, error);
}

static gboolean
verb_random (const Keys *keys, GError **error)
{
  guint8 data[16];

  return kw_token_random (keys->fixture->token, data, sizeof data, error);
}

static gboolean
verb_list (const Keys *keys, GError **error)
{
  g_autoptr (GPtrArray) list = kw_token_list_keys (keys->fixture->token, error);

  return list != NULL;
}

static gboolean
verb_find (const Keys *keys, GError **error)
{
  g_autoptr (KwKey) key
      = kw_token_find_key (keys->fixture->token, KW_KEY_KIND_RSA, keys->rsa_id, error);

  return key != NULL;
}

static gboolean
verb_pin_state (const Keys *keys, GError **error)
{
  KwPinState state = { 0 };

  return kw_token_get_pin_state (keys->fixture->token, &state, error);
}

static gboolean
verb_login (const Keys *keys, GError **error)
{
  g_autoptr (KwSecret) pin = kw_secret_new_copy (KW_TEST_PIN, strlen (KW_TEST_PIN), NULL);

  return kw_token_login (keys->fixture->token, pin, error);
}

static gboolean
verb_generate (const Keys *keys, GError **error)
{
  g_autoptr (GBytes) id = kw_pkcs11_id ("new");
  g_autoptr (KwKey) key = kw_token_generate_aes (keys->fixture->token, 256, id, "new", error);

  return key != NULL;
}

static gboolean
verb_delete (const Keys *keys, GError **error)
{
  return kw_token_delete_key (keys->fixture->token, KW_KEY_KIND_RSA, keys->rsa_id, error);
}

typedef struct
{
  const char *name;
  Verb verb;
  KwShimFunction functions[7];
  guint n_functions;
} VerbRow;

static const VerbRow verbs[] = {
  { "decrypt", verb_decrypt, { KW_SHIM_C_DecryptInit, KW_SHIM_C_Decrypt }, 2 },
  { "sign", verb_sign, { KW_SHIM_C_SignInit, KW_SHIM_C_Sign }, 2 },
  { "aes-encrypt", verb_aes_encrypt, { KW_SHIM_C_EncryptInit, KW_SHIM_C_Encrypt }, 2 },
  { "aes-decrypt", verb_aes_decrypt, { KW_SHIM_C_DecryptInit, KW_SHIM_C_Decrypt }, 2 },
  { "random", verb_random, { KW_SHIM_C_GenerateRandom }, 1 },
  { "list",
    verb_list,
    { KW_SHIM_C_FindObjectsInit, KW_SHIM_C_FindObjects, KW_SHIM_C_FindObjectsFinal,
      KW_SHIM_C_GetAttributeValue },
    4 },
  { "find",
    verb_find,
    { KW_SHIM_C_FindObjectsInit, KW_SHIM_C_FindObjects, KW_SHIM_C_FindObjectsFinal,
      KW_SHIM_C_GetAttributeValue },
    4 },
  { "pin-state", verb_pin_state, { KW_SHIM_C_GetTokenInfo }, 1 },
  { "login", verb_login, { KW_SHIM_C_Login }, 1 },
  { "generate",
    verb_generate,
    { KW_SHIM_C_GetTokenInfo, KW_SHIM_C_FindObjectsInit, KW_SHIM_C_FindObjects,
      KW_SHIM_C_FindObjectsFinal, KW_SHIM_C_GenerateKey },
    5 },
  { "delete",
    verb_delete,
    { KW_SHIM_C_FindObjectsInit, KW_SHIM_C_FindObjects, KW_SHIM_C_FindObjectsFinal,
      KW_SHIM_C_DestroyObject },
    4 },
};

static const VerbRow *
find_verb (const char *name)
{
  for (gsize i = 0; i < G_N_ELEMENTS (verbs); i++)
    {
      if (g_str_equal (verbs[i].name, name))
        return &verbs[i];
    }
  g_assert_not_reached ();
}

static void
open_keys (Keys *keys, KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GBytes) plaintext = g_bytes_new ("secret", 6);
  g_autoptr (GError) error = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  keys->fixture = fixture;
  keys->rsa_id = g_bytes_ref (kw_key_get_id (key));
  keys->aes_id = kw_pkcs11_fixture_add_aes (fixture, "aes");
  keys->ciphertext = kw_key_encrypt_pkcs1 (key, plaintext, &error);
  g_assert_no_error (error);
}

static void
close_keys (Keys *keys)
{
  g_bytes_unref (keys->rsa_id);
  g_bytes_unref (keys->aes_id);
  g_bytes_unref (keys->ciphertext);
}

static gboolean
next_rv (gulong *rv)
{
  if (*rv == VENDOR_RV)
    return FALSE;
  if (*rv == UNKNOWN_RV)
    {
      *rv = VENDOR_RV;
      return TRUE;
    }
  do
    (*rv)++;
  while (*rv < LAST_RV && kw_ckr_to_string (*rv) == NULL);
  if (*rv >= LAST_RV)
    *rv = UNKNOWN_RV;
  return TRUE;
}

static gboolean
is_bad_data (gulong rv)
{
  return rv == CKR_ENCRYPTED_DATA_INVALID || rv == CKR_ENCRYPTED_DATA_LEN_RANGE
         || rv == CKR_DATA_INVALID || rv == CKR_DATA_LEN_RANGE;
}

/* What a verb answers when a function it needs always returns rv; -1 = it succeeds. */
static gint
expected_code (const VerbRow *row, KwShimFunction function, gulong rv)
{
  if (function == KW_SHIM_C_Login && rv == CKR_USER_ALREADY_LOGGED_IN)
    return -1;
  if (function == KW_SHIM_C_GetAttributeValue
      && (rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_ATTRIBUTE_TYPE_INVALID
          || rv == CKR_BUFFER_TOO_SMALL))
    return -1;
  if (row->verb == verb_decrypt && function == KW_SHIM_C_Decrypt && is_bad_data (rv))
    return KW_ERROR_DECRYPT_FAILED;
  /* A key is looked for by its type: one of another type is another object, or none any more. */
  if (rv == CKR_KEY_TYPE_INCONSISTENT
      && (row->verb == verb_decrypt || row->verb == verb_sign || row->verb == verb_aes_encrypt
          || row->verb == verb_aes_decrypt))
    return KW_ERROR_SESSION_LOST;
  return (gint) kw_ckr_to_error (rv);
}

static void
assert_result (const char *what, gboolean ok, const GError *error, gint expected)
{
  if (expected < 0)
    {
      if (!ok)
        g_test_message ("%s: %s", what, error->message);
      g_assert_no_error (error);
      g_assert_true (ok);
      return;
    }
  if (ok || !g_error_matches (error, KW_ERROR, expected))
    g_test_message ("%s: %s, expected %s", what, error != NULL ? error->message : "success",
                    kw_error_to_string ((KwError) expected));
  g_assert_false (ok);
  g_assert_error (error, KW_ERROR, expected);
}

static void
assert_as_before (const Keys *keys)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) list = kw_token_list_keys (keys->fixture->token, &error);

  g_assert_no_error (error);
  g_assert_cmpuint (list->len, ==, 2);
  verb_decrypt (keys, &error);
  g_assert_no_error (error);
  verb_aes_encrypt (keys, &error);
  g_assert_no_error (error);
  /* The login's and one of the pool, since one thread works. */
  g_assert_cmpint (kw_shim_get_open_sessions (keys->fixture->shim), ==, 2);
}

static void
try_return_value (const Keys *keys, const VerbRow *row, KwShimFunction function, gulong rv)
{
  KwShim *shim = keys->fixture->shim;
  g_autoptr (GError) error = NULL;
  g_autofree char *what
      = g_strdup_printf ("%s: %s returns 0x%lX", row->name, kw_shim_function_name (function), rv);
  gboolean ok = FALSE;

  kw_shim_reset_calls (shim);
  kw_shim_fail (shim, function, rv, KW_SHIM_ALWAYS);
  ok = row->verb (keys, &error);
  kw_shim_clear (shim, function);
  assert_result (what, ok, error, expected_code (row, function, rv));
  if (function == KW_SHIM_C_Login)
    g_assert_cmpuint (kw_shim_get_calls (shim, KW_SHIM_C_Login), ==, 1);
  else
    g_assert_cmpuint (kw_shim_get_calls (shim, KW_SHIM_C_Login), ==, 0);
  g_assert_cmpuint (kw_shim_get_calls (shim, KW_SHIM_C_GenerateKey), <=, 1);
  g_assert_cmpuint (kw_shim_get_calls (shim, KW_SHIM_C_DestroyObject), <=, 2);
  assert_as_before (keys);
}

static void
test_every_return_value (KwPkcs11Fixture *fixture, const char *verb)
{
  const VerbRow *row = find_verb (verb);
  Keys keys = { 0 };

  open_keys (&keys, fixture);
  for (guint i = 0; i < row->n_functions; i++)
    {
      for (gulong rv = 0; next_rv (&rv);)
        try_return_value (&keys, row, row->functions[i], rv);
    }
  close_keys (&keys);
}

#define DEFINE_VERB_TEST(function, verb)                                                           \
  static void test_##function (KwPkcs11Fixture *fixture)                                           \
  {                                                                                                \
    test_every_return_value (fixture, verb);                                                       \
  }

DEFINE_VERB_TEST (decrypt, "decrypt")
DEFINE_VERB_TEST (sign, "sign")
DEFINE_VERB_TEST (aes_encrypt, "aes-encrypt")
DEFINE_VERB_TEST (aes_decrypt, "aes-decrypt")
DEFINE_VERB_TEST (random, "random")
DEFINE_VERB_TEST (list, "list")
DEFINE_VERB_TEST (find, "find")
DEFINE_VERB_TEST (pin_state, "pin-state")
DEFINE_VERB_TEST (login, "login")
DEFINE_VERB_TEST (generate, "generate")
DEFINE_VERB_TEST (delete, "delete")

/* What ends a session or a handle is made good within the call, when it happens once. */
static void
test_lost_once (KwPkcs11Fixture *fixture)
{
  static const gulong lost[]
      = { CKR_SESSION_HANDLE_INVALID,    CKR_SESSION_CLOSED,     CKR_OPERATION_ACTIVE,
          CKR_OPERATION_NOT_INITIALIZED, CKR_KEY_HANDLE_INVALID, CKR_OBJECT_HANDLE_INVALID };
  static const char *const repeatable[]
      = { "decrypt", "sign", "aes-encrypt", "aes-decrypt", "random", "list", "find" };
  Keys keys = { 0 };

  open_keys (&keys, fixture);
  for (gsize i = 0; i < G_N_ELEMENTS (repeatable); i++)
    {
      const VerbRow *row = find_verb (repeatable[i]);

      for (gsize j = 0; j < row->n_functions * G_N_ELEMENTS (lost); j++)
        {
          KwShimFunction function = row->functions[j / G_N_ELEMENTS (lost)];
          gulong rv = lost[j % G_N_ELEMENTS (lost)];
          g_autoptr (GError) error = NULL;
          g_autofree char *what = g_strdup_printf ("%s: %s returns 0x%lX once", row->name,
                                                   kw_shim_function_name (function), rv);
          gboolean ok = FALSE;

          kw_shim_reset_calls (fixture->shim);
          kw_shim_fail (fixture->shim, function, rv, 1);
          ok = row->verb (&keys, &error);
          assert_result (what, ok, error, -1);
          g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Login), ==, 0);
          assert_as_before (&keys);
        }
    }
  close_keys (&keys);
}

static void
test_lasting_calls_are_not_repeated (KwPkcs11Fixture *fixture)
{
  Keys keys = { 0 };
  g_autoptr (GError) error = NULL;

  open_keys (&keys, fixture);
  kw_shim_reset_calls (fixture->shim);
  kw_shim_fail (fixture->shim, KW_SHIM_C_GenerateKey, CKR_SESSION_HANDLE_INVALID, 1);
  g_assert_false (verb_generate (&keys, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_SESSION_LOST);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_GenerateKey), ==, 1);
  g_clear_error (&error);

  kw_shim_fail (fixture->shim, KW_SHIM_C_DestroyObject, CKR_SESSION_HANDLE_INVALID, 1);
  g_assert_false (verb_delete (&keys, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_SESSION_LOST);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_DestroyObject), ==, 1);
  assert_as_before (&keys);
  close_keys (&keys);
}

static void
test_half_made_keys_are_removed (KwPkcs11Fixture *fixture)
{
  static const struct
  {
    KwShimFunction function;
    KwShimFault fault;
    gint skip;
  } cases[] = {
    /* Made, but the module says it failed. */
    { KW_SHIM_C_GenerateKeyPair, KW_SHIM_FAULT_FAIL_AFTER, 0 },
    /* Made, but it cannot be read: the id, the modulus. */
    { KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_FAIL, 1 },
    { KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_HUGE, 3 },
    { KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_SHORT, 3 },
  };
  g_autoptr (GBytes) id = kw_pkcs11_id ("half");
  Keys keys = { 0 };

  open_keys (&keys, fixture);
  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      CK_SESSION_HANDLE session = 0;

      kw_shim_set_fault (fixture->shim, cases[i].function, cases[i].fault, CKR_DEVICE_ERROR,
                         cases[i].skip, KW_SHIM_ALWAYS);
      g_assert_null (kw_token_generate_rsa (fixture->token, 2048, id, "half", &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
      kw_shim_clear (fixture->shim, cases[i].function);

      assert_as_before (&keys);
      session = kw_pkcs11_fixture_open_session (fixture);
      g_assert_cmpuint (kw_pkcs11_fixture_find (fixture, session, CKO_PUBLIC_KEY, id), ==, 0);
      g_assert_cmpuint (kw_pkcs11_fixture_find (fixture, session, CKO_PRIVATE_KEY, id), ==, 0);
      fixture->functions->C_CloseSession (session);
    }
  close_keys (&keys);
}

static void
test_half_made_key_remains (KwPkcs11Fixture *fixture)
{
  g_autoptr (GError) error = NULL;
  Keys keys = { 0 };

  /* Made, not readable, and not to be removed: that is for the log. */
  open_keys (&keys, fixture);
  kw_shim_set_fault (fixture->shim, KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_FAIL,
                     CKR_DEVICE_ERROR, 3, KW_SHIM_ALWAYS);
  kw_shim_fail (fixture->shim, KW_SHIM_C_DestroyObject, CKR_DEVICE_ERROR, KW_SHIM_ALWAYS);
  g_test_expect_message ("kw-pkcs11-generate", G_LOG_LEVEL_WARNING, "*remains on the token*");
  g_assert_false (verb_generate (&keys, &error));
  g_test_assert_expected_messages ();
  g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
  close_keys (&keys);
}

static void
test_public_key_search_fails (KwPkcs11Fixture *fixture)
{
  g_autoptr (GError) error = NULL;
  Keys keys = { 0 };

  open_keys (&keys, fixture);
  kw_shim_set_fault (fixture->shim, KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_UNAVAILABLE, 0, 2,
                     KW_SHIM_ALWAYS);
  kw_shim_set_fault (fixture->shim, KW_SHIM_C_FindObjectsInit, KW_SHIM_FAULT_FAIL, CKR_DEVICE_ERROR,
                     1, KW_SHIM_ALWAYS);
  g_assert_false (verb_find (&keys, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
  kw_shim_clear_all (fixture->shim);
  assert_as_before (&keys);
  close_keys (&keys);
}

static void
test_each_attribute_of_a_list (KwPkcs11Fixture *fixture)
{
  Keys keys = { 0 };

  /* Kind, id, label, modulus, exponent of one; kind, id, label, length of the other. */
  open_keys (&keys, fixture);
  for (gint i = 0; i < 9; i++)
    {
      g_autoptr (GError) error = NULL;

      kw_shim_set_fault (fixture->shim, KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_FAIL,
                         CKR_DEVICE_ERROR, i, KW_SHIM_ALWAYS);
      g_assert_false (verb_list (&keys, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
      kw_shim_clear_all (fixture->shim);
      assert_as_before (&keys);
    }
  close_keys (&keys);
}

static void
test_public_object_unreadable (KwPkcs11Fixture *fixture)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) id = kw_pkcs11_id ("half");
  g_autoptr (KwKey) key = NULL;
  Keys keys = { 0 };

  /* The exponent beside the private key is not told: the public object is asked. */
  open_keys (&keys, fixture);
  kw_shim_set_fault (fixture->shim, KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_UNAVAILABLE, 0, 4,
                     1);
  key = kw_token_generate_rsa (fixture->token, 2048, id, "half", &error);
  g_assert_no_error (error);
  g_assert_nonnull (kw_key_get_public_key_der (key));
  close_keys (&keys);
}

static void
assert_lie (const Keys *keys,
            const char *verb,
            KwShimFunction function,
            KwShimFault fault,
            gint expected)
{
  const VerbRow *row = find_verb (verb);
  g_autoptr (GError) error = NULL;
  g_autofree char *what
      = g_strdup_printf ("%s: %s lies %d", verb, kw_shim_function_name (function), (int) fault);
  gboolean ok = FALSE;

  kw_shim_set_fault (keys->fixture->shim, function, fault, 0, 0, KW_SHIM_ALWAYS);
  ok = row->verb (keys, &error);
  kw_shim_clear (keys->fixture->shim, function);
  assert_result (what, ok, error, expected);
  assert_as_before (keys);
}

static void
test_lies_about_lengths (KwPkcs11Fixture *fixture)
{
  static const struct
  {
    const char *verb;
    KwShimFunction function;
    KwShimFault fault;
    gint expected;
  } cases[] = {
    { "decrypt", KW_SHIM_C_Decrypt, KW_SHIM_FAULT_HUGE, KW_ERROR_DEVICE_FAILED },
    { "decrypt", KW_SHIM_C_Decrypt, KW_SHIM_FAULT_UNAVAILABLE, KW_ERROR_DEVICE_FAILED },
    { "decrypt", KW_SHIM_C_Decrypt, KW_SHIM_FAULT_GROW, KW_ERROR_DEVICE_FAILED },
    /* Short output is a number with leading zeros, so this is just wrong data. */
    { "decrypt", KW_SHIM_C_Decrypt, KW_SHIM_FAULT_SHORT, KW_ERROR_DECRYPT_FAILED },
    { "decrypt", KW_SHIM_C_Decrypt, KW_SHIM_FAULT_NOTHING, KW_ERROR_DECRYPT_FAILED },
    { "sign", KW_SHIM_C_Sign, KW_SHIM_FAULT_HUGE, KW_ERROR_DEVICE_FAILED },
    { "sign", KW_SHIM_C_Sign, KW_SHIM_FAULT_SHORT, KW_ERROR_DEVICE_FAILED },
    { "sign", KW_SHIM_C_Sign, KW_SHIM_FAULT_NOTHING, KW_ERROR_DEVICE_FAILED },
    { "sign", KW_SHIM_C_Sign, KW_SHIM_FAULT_UNAVAILABLE, KW_ERROR_DEVICE_FAILED },
    { "sign", KW_SHIM_C_Sign, KW_SHIM_FAULT_GROW, KW_ERROR_DEVICE_FAILED },
    { "aes-encrypt", KW_SHIM_C_Encrypt, KW_SHIM_FAULT_HUGE, KW_ERROR_DEVICE_FAILED },
    { "aes-encrypt", KW_SHIM_C_Encrypt, KW_SHIM_FAULT_SHORT, KW_ERROR_DEVICE_FAILED },
    { "aes-encrypt", KW_SHIM_C_Encrypt, KW_SHIM_FAULT_GROW, KW_ERROR_DEVICE_FAILED },
    { "aes-decrypt", KW_SHIM_C_Decrypt, KW_SHIM_FAULT_HUGE, KW_ERROR_DEVICE_FAILED },
    { "aes-decrypt", KW_SHIM_C_Decrypt, KW_SHIM_FAULT_NOTHING, KW_ERROR_DEVICE_FAILED },
    { "find", KW_SHIM_C_FindObjects, KW_SHIM_FAULT_HUGE, KW_ERROR_DEVICE_FAILED },
    { "find", KW_SHIM_C_FindObjects, KW_SHIM_FAULT_UNAVAILABLE, KW_ERROR_DEVICE_FAILED },
    { "find", KW_SHIM_C_FindObjects, KW_SHIM_FAULT_ENDLESS, KW_ERROR_AMBIGUOUS },
    { "find", KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_HUGE, KW_ERROR_DEVICE_FAILED },
    { "find", KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_UNAVAILABLE, -1 },
    { "find", KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_GROW, -1 },
    /* The modulus is not the one that was seen before. */
    { "find", KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_NOTHING, KW_ERROR_KEY_MISMATCH },
    { "find", KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_SHORT, KW_ERROR_KEY_MISMATCH },
    { "list", KW_SHIM_C_FindObjects, KW_SHIM_FAULT_HUGE, KW_ERROR_DEVICE_FAILED },
    { "list", KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_HUGE, KW_ERROR_DEVICE_FAILED },
    { "list", KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_UNAVAILABLE, -1 },
    { "list", KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_GROW, -1 },
  };
  Keys keys = { 0 };

  open_keys (&keys, fixture);
  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    assert_lie (&keys, cases[i].verb, cases[i].function, cases[i].fault, cases[i].expected);
  close_keys (&keys);
}

static void
test_key_without_a_modulus (KwPkcs11Fixture *fixture)
{
  Keys keys = { 0 };
  g_autoptr (GError) error = NULL;

  open_keys (&keys, fixture);
  kw_pkcs11_fixture_reopen (fixture, "");
  kw_shim_set_fault (fixture->shim, KW_SHIM_C_GetAttributeValue, KW_SHIM_FAULT_UNAVAILABLE, 0, 0,
                     KW_SHIM_ALWAYS);
  g_assert_false (verb_decrypt (&keys, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED);
  g_clear_error (&error);
  g_assert_false (verb_sign (&keys, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED);
  close_keys (&keys);
}

static void
test_endless_list (KwPkcs11Fixture *fixture)
{
  Keys keys = { 0 };
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) list = NULL;

  open_keys (&keys, fixture);
  kw_shim_set_fault (fixture->shim, KW_SHIM_C_FindObjects, KW_SHIM_FAULT_ENDLESS, 0, 0,
                     KW_SHIM_ALWAYS);
  for (guint i = 0; i < 2; i++)
    g_test_expect_message ("kw-pkcs11-token", G_LOG_LEVEL_WARNING, "*keys or more*");
  list = kw_token_list_keys (fixture->token, &error);
  g_test_assert_expected_messages ();
  g_assert_no_error (error);
  g_assert_cmpuint (list->len, <=, 2 * KW_MAX_KEYS_PER_TOKEN);
  kw_shim_clear_all (fixture->shim);
  assert_as_before (&keys);
  close_keys (&keys);
}

static void
test_padded_decrypt_hides_the_reason (KwPkcs11Fixture *fixture)
{
  static const gulong hidden[] = { CKR_ENCRYPTED_DATA_INVALID, CKR_ENCRYPTED_DATA_LEN_RANGE,
                                   CKR_DATA_INVALID,           CKR_DATA_LEN_RANGE,
                                   CKR_GENERAL_ERROR,          CKR_FUNCTION_FAILED };
  Keys keys = { 0 };
  g_autoptr (GError) uniform = NULL;

  kw_token_set_decrypt_failed (&uniform);
  kw_shim_fail (fixture->shim, KW_SHIM_C_GetMechanismInfo, CKR_MECHANISM_INVALID, KW_SHIM_ALWAYS);
  open_keys (&keys, fixture);
  for (gsize i = 0; i < G_N_ELEMENTS (hidden); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (GError) dead_error = NULL;

      kw_shim_fail (fixture->shim, KW_SHIM_C_Decrypt, hidden[i], KW_SHIM_ALWAYS);
      g_assert_false (verb_decrypt (&keys, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_DECRYPT_FAILED);
      g_assert_cmpstr (error->message, ==, uniform->message);

      /* Unless the session is dead: then the device is to blame. */
      kw_shim_fail (fixture->shim, KW_SHIM_C_GetSessionInfo, CKR_DEVICE_ERROR, KW_SHIM_ALWAYS);
      g_assert_false (verb_decrypt (&keys, &dead_error));
      g_assert_cmpint (dead_error->code, ==, kw_ckr_to_error (hidden[i]));
      kw_shim_clear (fixture->shim, KW_SHIM_C_GetSessionInfo);
      kw_shim_clear (fixture->shim, KW_SHIM_C_Decrypt);
      assert_as_before (&keys);
    }
  assert_lie (&keys, "decrypt", KW_SHIM_C_Decrypt, KW_SHIM_FAULT_HUGE, KW_ERROR_DEVICE_FAILED);
  assert_lie (&keys, "decrypt", KW_SHIM_C_Decrypt, KW_SHIM_FAULT_GROW, KW_ERROR_DEVICE_FAILED);
  close_keys (&keys);
}

static void
test_opening_a_session (KwPkcs11Fixture *fixture)
{
  Keys keys = { 0 };

  open_keys (&keys, fixture);
  for (gulong rv = 0; next_rv (&rv);)
    {
      g_autoptr (GError) error = NULL;

      kw_pkcs11_fixture_reopen (fixture, "");
      kw_shim_fail (fixture->shim, KW_SHIM_C_OpenSession, rv, KW_SHIM_ALWAYS);
      g_assert_false (verb_decrypt (&keys, &error));
      g_assert_error (error, KW_ERROR, (gint) kw_ckr_to_error (rv));
      g_assert_cmpint (kw_shim_get_open_sessions (fixture->shim), ==, 1);
      kw_shim_clear (fixture->shim, KW_SHIM_C_OpenSession);
      assert_as_before (&keys);
    }
  close_keys (&keys);
}

static void
test_opening_the_login_session (KwPkcs11Fixture *fixture)
{
  Keys keys = { 0 };

  open_keys (&keys, fixture);
  for (gulong rv = 0; next_rv (&rv);)
    {
      g_autoptr (GError) error = NULL;

      /* The session there was is dead, and there is no other. */
      kw_shim_reset_calls (fixture->shim);
      kw_shim_fail (fixture->shim, KW_SHIM_C_GetSessionInfo, CKR_SESSION_HANDLE_INVALID, 1);
      kw_shim_fail (fixture->shim, KW_SHIM_C_OpenSession, rv, KW_SHIM_ALWAYS);
      g_assert_false (verb_login (&keys, &error));
      g_assert_error (error, KW_ERROR, (gint) kw_ckr_to_error (rv));
      g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Login), ==, 0);
      kw_shim_clear_all (fixture->shim);
      g_clear_error (&error);
      g_assert_true (verb_login (&keys, &error));
      g_assert_no_error (error);
      assert_as_before (&keys);
    }
  close_keys (&keys);
}

static void
test_invalid_session_handle (KwPkcs11Fixture *fixture)
{
  Keys keys = { 0 };
  g_autoptr (GError) error = NULL;

  open_keys (&keys, fixture);
  kw_pkcs11_fixture_reopen (fixture, "");
  kw_shim_set_fault (fixture->shim, KW_SHIM_C_OpenSession, KW_SHIM_FAULT_NOTHING, 0, 0,
                     KW_SHIM_ALWAYS);
  g_assert_false (verb_decrypt (&keys, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_SESSION_LOST);
  kw_shim_clear_all (fixture->shim);
  assert_as_before (&keys);
  close_keys (&keys);
}

static void
test_login_session_is_looked_at_first (KwPkcs11Fixture *fixture)
{
  Keys keys = { 0 };

  open_keys (&keys, fixture);
  for (gulong rv = 0; next_rv (&rv);)
    {
      g_autoptr (GError) error = NULL;

      kw_shim_reset_calls (fixture->shim);
      kw_shim_fail (fixture->shim, KW_SHIM_C_GetSessionInfo, rv, 1);
      g_assert_true (verb_login (&keys, &error));
      g_assert_no_error (error);
      g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Login), ==, 1);
      assert_as_before (&keys);
    }
  close_keys (&keys);
}

static void
test_looking_for_a_token (KwPkcs11Fixture *fixture)
{
  static const KwShimFunction functions[]
      = { KW_SHIM_C_GetInfo, KW_SHIM_C_GetSlotList, KW_SHIM_C_GetSlotInfo };

  kw_pkcs11_fixture_open (fixture, "");
  for (gsize i = 0; i < G_N_ELEMENTS (functions); i++)
    {
      for (gulong rv = 0; next_rv (&rv);)
        {
          g_autoptr (KwBackend) backend = g_object_new (KW_TYPE_PKCS11_BACKEND, NULL);
          g_autoptr (GError) error = NULL;

          g_clear_object (&fixture->token);
          g_clear_object (&fixture->backend);
          kw_shim_fail (fixture->shim, functions[i], rv, KW_SHIM_ALWAYS);
          g_assert_true (kw_backend_configure (backend, fixture->config, NULL));
          g_assert_null (kw_backend_coldplug (backend, &error));
          g_assert_error (error, KW_ERROR, (gint) kw_ckr_to_error (rv));
          g_clear_error (&error);
          g_assert_null (kw_backend_list_slots (backend, &error));
          g_assert_error (error, KW_ERROR, (gint) kw_ckr_to_error (rv));
          kw_shim_clear_all (fixture->shim);
        }
    }
}

static void
test_lies_about_slots (KwPkcs11Fixture *fixture)
{
  static const KwShimFault faults[]
      = { KW_SHIM_FAULT_HUGE, KW_SHIM_FAULT_UNAVAILABLE, KW_SHIM_FAULT_GROW };

  kw_pkcs11_fixture_open (fixture, "");
  for (gsize i = 0; i < G_N_ELEMENTS (faults); i++)
    {
      g_autoptr (KwBackend) backend = g_object_new (KW_TYPE_PKCS11_BACKEND, NULL);
      g_autoptr (GError) error = NULL;

      g_clear_object (&fixture->token);
      g_clear_object (&fixture->backend);
      kw_shim_set_fault (fixture->shim, KW_SHIM_C_GetSlotList, faults[i], 0, 0, KW_SHIM_ALWAYS);
      g_assert_true (kw_backend_configure (backend, fixture->config, NULL));
      g_assert_null (kw_backend_coldplug (backend, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
      kw_shim_clear_all (fixture->shim);
    }
}

static void
test_function_list (KwPkcs11Fixture *fixture)
{
  static const struct
  {
    KwShimFault fault;
    gulong rv;
    const char *message;
  } cases[] = {
    { KW_SHIM_FAULT_FAIL, CKR_GENERAL_ERROR, "C_GetFunctionList: CKR_GENERAL_ERROR" },
    { KW_SHIM_FAULT_FAIL, VENDOR_RV, "C_GetFunctionList: unknown return value" },
    { KW_SHIM_FAULT_NOTHING, 0, "no usable function list" },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (KwConfig) config = kw_pkcs11_fixture_make_config (kw_shim_get_module_path (), "");
      g_autoptr (KwBackend) backend = g_object_new (KW_TYPE_PKCS11_BACKEND, NULL);
      g_autoptr (GError) error = NULL;

      kw_shim_set_fault (fixture->shim, KW_SHIM_C_GetFunctionList, cases[i].fault, cases[i].rv, 0,
                         KW_SHIM_ALWAYS);
      g_assert_true (kw_backend_configure (backend, config, NULL));
      g_assert_null (kw_backend_list_slots (backend, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED);
      g_assert_nonnull (strstr (error->message, cases[i].message));
    }
}

static void
test_initialising_the_module (KwPkcs11Fixture *fixture)
{
  kw_pkcs11_fixture_open (fixture, "");
  for (gulong rv = 0; next_rv (&rv);)
    {
      g_autoptr (KwBackend) backend = g_object_new (KW_TYPE_PKCS11_BACKEND, NULL);
      g_autoptr (GPtrArray) tokens = NULL;
      g_autoptr (GError) error = NULL;

      /* That one is tolerated, but nobody initialised it here. */
      if (rv == CKR_CRYPTOKI_ALREADY_INITIALIZED)
        continue;
      g_clear_object (&fixture->token);
      g_clear_object (&fixture->backend);
      kw_shim_fail (fixture->shim, KW_SHIM_C_Initialize, rv, KW_SHIM_ALWAYS);
      g_assert_true (kw_backend_configure (backend, fixture->config, NULL));
      g_assert_null (kw_backend_coldplug (backend, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED);
      g_assert_nonnull (strstr (error->message, "C_Initialize"));
      g_clear_error (&error);

      kw_shim_clear_all (fixture->shim);
      tokens = kw_backend_coldplug (backend, &error);
      g_assert_no_error (error);
    }
}

static void
test_module_initialised_by_others (KwPkcs11Fixture *fixture)
{
  kw_soft_hsm_add_token (fixture->hsm, "one", KW_TEST_SO_PIN, KW_TEST_PIN);
  g_assert_cmpuint (fixture->functions->C_Initialize (NULL), ==, CKR_OK);
  kw_pkcs11_fixture_reopen (fixture, "");
  g_clear_object (&fixture->token);
  g_clear_object (&fixture->backend);
  /* What we did not initialise we do not finalise. */
  g_assert_cmpint (kw_shim_get_open_sessions (fixture->shim), ==, 0);
  g_assert_cmpuint (fixture->functions->C_Finalize (NULL), ==, CKR_OK);
}

static void
test_finalising_fails (KwPkcs11Fixture *fixture)
{
  Keys keys = { 0 };

  open_keys (&keys, fixture);
  kw_shim_fail (fixture->shim, KW_SHIM_C_Finalize, CKR_FUNCTION_FAILED, 1);
  kw_pkcs11_fixture_reopen (fixture, "");
  assert_as_before (&keys);
  close_keys (&keys);
  /* The second back end found the module initialised, so it is not its own to finalise. */
  g_clear_object (&fixture->token);
  g_clear_object (&fixture->backend);
  g_assert_cmpuint (fixture->functions->C_Finalize (NULL), ==, CKR_OK);
}

static void
test_closing_sessions_fails (KwPkcs11Fixture *fixture)
{
  Keys keys = { 0 };
  g_autoptr (GError) error = NULL;

  open_keys (&keys, fixture);
  kw_shim_fail (fixture->shim, KW_SHIM_C_CloseSession, CKR_DEVICE_ERROR, 1);
  kw_shim_fail (fixture->shim, KW_SHIM_C_DecryptInit, CKR_DEVICE_ERROR, 1);
  g_assert_false (verb_decrypt (&keys, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
  g_clear_error (&error);
  g_assert_true (verb_decrypt (&keys, &error));
  g_assert_no_error (error);
  close_keys (&keys);
}

static gpointer
decrypt_in_thread (gpointer data)
{
  const Keys *keys = data;
  GError *error = NULL;

  verb_decrypt (keys, &error);
  return error;
}

static void
wait_until_hanging (KwShim *shim, gint n_calls)
{
  gint64 deadline = g_get_monotonic_time () + 20 * G_USEC_PER_SEC;

  while (kw_shim_get_hanging (shim) < n_calls)
    {
      g_assert_cmpint (g_get_monotonic_time (), <, deadline);
      g_main_context_iteration (NULL, FALSE);
      g_thread_yield ();
    }
}

static void
test_close_beside_a_call_that_hangs (KwPkcs11Fixture *fixture)
{
  Keys keys = { 0 };
  g_autoptr (GThread) hanging = NULL;
  g_autoptr (GThread) waiting = NULL;
  g_autoptr (GError) error = NULL;

  open_keys (&keys, fixture);
  kw_pkcs11_fixture_reopen (fixture, "sessions = 1");
  g_assert_true (verb_decrypt (&keys, &error));
  kw_shim_hang (fixture->shim, KW_SHIM_C_Decrypt);
  hanging = g_thread_new ("hanging", decrypt_in_thread, &keys);
  wait_until_hanging (fixture->shim, 1);
  waiting = g_thread_new ("waiting", decrypt_in_thread, &keys);

  /* Returns at once, lets go whoever waits for the session, and leaves the other be. */
  kw_token_close (fixture->token);
  error = g_thread_join (g_steal_pointer (&waiting));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
  g_clear_error (&error);
  g_assert_cmpint (kw_shim_get_hanging (fixture->shim), ==, 1);

  kw_shim_clear (fixture->shim, KW_SHIM_C_Decrypt);
  error = g_thread_join (g_steal_pointer (&hanging));
  g_assert_no_error (error);
  g_assert_cmpint (kw_shim_get_open_sessions (fixture->shim), ==, 1);
  close_keys (&keys);
}

static void
test_module_is_not_finalised_beside_a_call (KwPkcs11Fixture *fixture)
{
  Keys keys = { 0 };
  g_autoptr (GThread) hanging = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (KwToken) token = NULL;

  open_keys (&keys, fixture);
  g_assert_true (verb_decrypt (&keys, &error));
  kw_shim_reset_calls (fixture->shim);
  kw_shim_hang (fixture->shim, KW_SHIM_C_Decrypt);
  hanging = g_thread_new ("hanging", decrypt_in_thread, &keys);
  wait_until_hanging (fixture->shim, 1);

  /* Waits for a while, then gives the module up. */
  token = g_object_ref (fixture->token);
  g_clear_object (&fixture->backend);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Finalize), ==, 0);

  kw_shim_clear (fixture->shim, KW_SHIM_C_Decrypt);
  error = g_thread_join (g_steal_pointer (&hanging));
  g_assert_no_error (error);
  close_keys (&keys);
  g_assert_cmpuint (fixture->functions->C_Finalize (NULL), ==, CKR_OK);
}

static void
add_tests (void)
{
  kw_pkcs11_add_test ("/errors/decrypt", test_decrypt);
  kw_pkcs11_add_test ("/errors/sign", test_sign);
  kw_pkcs11_add_test ("/errors/aes-encrypt", test_aes_encrypt);
  kw_pkcs11_add_test ("/errors/aes-decrypt", test_aes_decrypt);
  kw_pkcs11_add_test ("/errors/random", test_random);
  kw_pkcs11_add_test ("/errors/list", test_list);
  kw_pkcs11_add_test ("/errors/find", test_find);
  kw_pkcs11_add_test ("/errors/pin-state", test_pin_state);
  kw_pkcs11_add_test ("/errors/login", test_login);
  kw_pkcs11_add_test ("/errors/generate", test_generate);
  kw_pkcs11_add_test ("/errors/delete", test_delete);
  kw_pkcs11_add_test ("/errors/lost-once", test_lost_once);
  kw_pkcs11_add_test ("/errors/lasting-calls-are-not-repeated",
                      test_lasting_calls_are_not_repeated);
  kw_pkcs11_add_test ("/errors/half-made-keys-are-removed", test_half_made_keys_are_removed);
  kw_pkcs11_add_test ("/errors/half-made-key-remains", test_half_made_key_remains);
  kw_pkcs11_add_test ("/errors/public-key-search-fails", test_public_key_search_fails);
  kw_pkcs11_add_test ("/errors/each-attribute-of-a-list", test_each_attribute_of_a_list);
  kw_pkcs11_add_test ("/errors/public-object-unreadable", test_public_object_unreadable);
  kw_pkcs11_add_test ("/errors/lies-about-lengths", test_lies_about_lengths);
  kw_pkcs11_add_test ("/errors/key-without-a-modulus", test_key_without_a_modulus);
  kw_pkcs11_add_test ("/errors/endless-list", test_endless_list);
  kw_pkcs11_add_test ("/errors/padded-decrypt-hides-the-reason",
                      test_padded_decrypt_hides_the_reason);
  kw_pkcs11_add_test ("/errors/opening-a-session", test_opening_a_session);
  kw_pkcs11_add_test ("/errors/opening-the-login-session", test_opening_the_login_session);
  kw_pkcs11_add_test ("/errors/invalid-session-handle", test_invalid_session_handle);
  kw_pkcs11_add_test ("/errors/login-session-is-looked-at-first",
                      test_login_session_is_looked_at_first);
  kw_pkcs11_add_test ("/errors/looking-for-a-token", test_looking_for_a_token);
  kw_pkcs11_add_test ("/errors/lies-about-slots", test_lies_about_slots);
  kw_pkcs11_add_test ("/errors/function-list", test_function_list);
  kw_pkcs11_add_test ("/errors/initialising-the-module", test_initialising_the_module);
  kw_pkcs11_add_test ("/errors/module-initialised-by-others", test_module_initialised_by_others);
  kw_pkcs11_add_test ("/errors/finalising-fails", test_finalising_fails);
  kw_pkcs11_add_test ("/errors/closing-sessions-fails", test_closing_sessions_fails);
  kw_pkcs11_add_test ("/errors/close-beside-a-call-that-hangs",
                      test_close_beside_a_call_that_hangs);
  kw_pkcs11_add_test ("/errors/module-is-not-finalised-beside-a-call",
                      test_module_is_not_finalised_beside_a_call);
}

int
main (int argc, char **argv)
{
  return kw_pkcs11_test_main (argc, argv, add_tests);
}
