/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-token"

#include "config.h"

#include "kw-error.h"
#include "kw-limits.h"
#include "kw-pkcs11-fixture.h"
#include "kw-pkcs11-pool.h"

#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <string.h>

/* Every slot of the token on a real SoftHSM2; the shim counts and, in few places, disturbs. */

#define PLAINTEXT "a file key of 32 bytes, or so!!!"

G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_PKEY, EVP_PKEY_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_PKEY_CTX, EVP_PKEY_CTX_free)

static EVP_PKEY *
parse_public_key (KwKey *key)
{
  gsize size = 0;
  const guint8 *der = g_bytes_get_data (kw_key_get_public_key_der (key), &size);
  EVP_PKEY *public_key = d2i_PUBKEY (NULL, &der, (long) size);

  g_assert_nonnull (public_key);
  return public_key;
}

static GBytes *
encrypt_oaep (KwKey *key, const EVP_MD *digest)
{
  g_autoptr (EVP_PKEY) public_key = parse_public_key (key);
  g_autoptr (EVP_PKEY_CTX) context = EVP_PKEY_CTX_new (public_key, NULL);
  gsize size = KW_MAX_RSA_BYTES;
  g_autofree guint8 *output = g_malloc0 (size);

  g_assert_cmpint (EVP_PKEY_encrypt_init (context), ==, 1);
  g_assert_cmpint (EVP_PKEY_CTX_set_rsa_padding (context, RSA_PKCS1_OAEP_PADDING), ==, 1);
  g_assert_cmpint (EVP_PKEY_CTX_set_rsa_oaep_md (context, digest), ==, 1);
  g_assert_cmpint (EVP_PKEY_CTX_set_rsa_mgf1_md (context, digest), ==, 1);
  g_assert_cmpint (EVP_PKEY_encrypt (context, output, &size, (const guint8 *) PLAINTEXT,
                                     strlen (PLAINTEXT)),
                   ==, 1);
  return g_bytes_new (output, size);
}

static GBytes *
encrypt (KwKey *key, KwRsaPadding padding)
{
  g_autoptr (GBytes) plaintext = g_bytes_new (PLAINTEXT, strlen (PLAINTEXT));
  g_autoptr (GError) error = NULL;
  GBytes *ciphertext = NULL;

  if (padding == KW_RSA_PADDING_OAEP_SHA1)
    return encrypt_oaep (key, EVP_sha1 ());
  if (padding == KW_RSA_PADDING_OAEP_SHA256)
    return encrypt_oaep (key, EVP_sha256 ());
  ciphertext = kw_key_encrypt_pkcs1 (key, plaintext, &error);
  g_assert_no_error (error);
  return ciphertext;
}

static void
assert_decrypts (KwToken *token, KwKey *key, KwRsaPadding padding)
{
  g_autoptr (GBytes) ciphertext = encrypt (key, padding);
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) plaintext
      = kw_token_rsa_decrypt (token, kw_key_get_id (key), padding, ciphertext, &error);

  g_assert_no_error (error);
  g_assert_cmpmem (kw_secret_get_data (plaintext), kw_secret_get_size (plaintext), PLAINTEXT,
                   strlen (PLAINTEXT));
}

static void
assert_decrypt_error (KwToken *token,
                      GBytes *id,
                      KwRsaPadding padding,
                      GBytes *ciphertext,
                      KwError code)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GError) uniform = NULL;
  g_autoptr (KwSecret) plaintext = kw_token_rsa_decrypt (token, id, padding, ciphertext, &error);

  g_assert_null (plaintext);
  g_assert_error (error, KW_ERROR, (gint) code);
  if (code != KW_ERROR_DECRYPT_FAILED)
    return;
  kw_token_set_decrypt_failed (&uniform);
  g_assert_cmpstr (error->message, ==, uniform->message);
}

static void
assert_key_error (KwToken *token, GBytes *id, KwError code)
{
  g_autofree guint8 *data = g_malloc0 (KW_MAX_RSA_BYTES / 2);
  g_autoptr (GBytes) ciphertext = g_bytes_new (data, KW_MAX_RSA_BYTES / 2);

  assert_decrypt_error (token, id, KW_RSA_PADDING_PKCS1, ciphertext, code);
}

static void
test_info (KwPkcs11Fixture *fixture)
{
  const KwTokenInfo *info = NULL;
  g_autofree char *serial = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  info = kw_token_get_info (fixture->token);
  serial = kw_soft_hsm_dup_serial (fixture->hsm, "one");

  g_assert_cmpstr (info->label, ==, "one");
  g_assert_cmpstr (info->serial, ==, serial);
  g_assert_cmpstr (info->model, ==, "SoftHSM v2");
  g_assert_cmpstr (info->manufacturer, ==, "SoftHSM project");
  g_assert_true (g_str_has_prefix (info->reader, "SoftHSM slot ID"));
  g_assert_cmpuint (kw_token_get_concurrency (fixture->token), ==, 4);
}

static void
test_pin_state (KwPkcs11Fixture *fixture)
{
  g_autoptr (GError) error = NULL;
  KwPinState state = { 0 };

  kw_pkcs11_fixture_open (fixture, "");
  g_assert_true (kw_token_get_pin_state (fixture->token, &state, &error));
  g_assert_no_error (error);
  g_assert_true (state.login_required);
  g_assert_true (state.initialized);
  g_assert_false (state.protected_path || state.count_low || state.final_try || state.locked);
  g_assert_cmpint (state.tries_left, ==, -1);

  kw_shim_set_token_flags (fixture->shim,
                           CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED
                               | CKF_PROTECTED_AUTHENTICATION_PATH,
                           CKF_LOGIN_REQUIRED | CKF_USER_PIN_INITIALIZED);
  g_assert_true (kw_token_get_pin_state (fixture->token, &state, &error));
  g_assert_true (state.protected_path && state.count_low && state.final_try && state.locked);
  g_assert_false (state.login_required || state.initialized);

  kw_shim_set_token_flags (fixture->shim, 0, CKF_TOKEN_INITIALIZED);
  g_assert_false (kw_token_get_pin_state (fixture->token, &state, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_UNINITIALIZED);
}

static void
test_wrong_pin_is_presented_once (KwPkcs11Fixture *fixture)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) pin = kw_secret_new_copy ("wrong pin", 9, NULL);
  KwPinState state = { 0 };

  kw_pkcs11_fixture_open (fixture, "");
  kw_pkcs11_fixture_reopen (fixture, "");
  g_assert_cmpuint (fixture->functions->C_Logout (kw_pkcs11_fixture_open_session (fixture)), ==,
                    CKR_OK);
  kw_shim_reset_calls (fixture->shim);

  g_assert_false (kw_token_login (fixture->token, pin, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_PIN_REFUSED);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Login), ==, 1);
  g_assert_true (kw_token_get_pin_state (fixture->token, &state, NULL));
  g_assert_true (state.count_low);

  kw_pkcs11_fixture_login (fixture);
  g_assert_true (kw_token_get_pin_state (fixture->token, &state, NULL));
  g_assert_false (state.count_low);
}

static void
test_login_needs_a_pin (KwPkcs11Fixture *fixture)
{
  g_autoptr (GError) error = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  kw_shim_reset_calls (fixture->shim);
  g_assert_false (kw_token_login (fixture->token, NULL, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_PIN_REQUIRED);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Login), ==, 0);
}

static void
test_login_twice (KwPkcs11Fixture *fixture)
{
  kw_pkcs11_fixture_open (fixture, "");
  kw_pkcs11_fixture_login (fixture);
  g_assert_cmpint (kw_shim_get_open_sessions (fixture->shim), ==, 1);
}

static void
test_rsa_sizes (KwPkcs11Fixture *fixture)
{
  static const guint sizes[] = { 2048, 3072, 4096 };

  kw_pkcs11_fixture_open (fixture, "");
  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autofree char *name = g_strdup_printf ("rsa-%u", sizes[i]);
      g_autoptr (GBytes) id = kw_pkcs11_id (name);
      g_autoptr (GError) error = NULL;
      g_autoptr (KwKey) key
          = kw_token_generate_rsa (fixture->token, sizes[i], id, "a label", &error);
      g_autoptr (EVP_PKEY) public_key = NULL;

      g_assert_no_error (error);
      g_assert_cmpuint (kw_key_get_bits (key), ==, sizes[i]);
      g_assert_cmpint (kw_key_get_kind (key), ==, KW_KEY_KIND_RSA);
      g_assert_cmpstr (kw_key_get_label (key), ==, "a label");
      g_assert_true (g_bytes_equal (kw_key_get_id (key), id));
      public_key = parse_public_key (key);
      g_assert_cmpint (EVP_PKEY_get_bits (public_key), ==, (int) sizes[i]);
      assert_decrypts (fixture->token, key, KW_RSA_PADDING_PKCS1);
    }
}

static gboolean
read_boolean (KwPkcs11Fixture *fixture,
              CK_OBJECT_CLASS object_class,
              GBytes *id,
              CK_ATTRIBUTE_TYPE type)
{
  CK_SESSION_HANDLE session = kw_pkcs11_fixture_open_session (fixture);
  CK_OBJECT_HANDLE handle = kw_pkcs11_fixture_find (fixture, session, object_class, id);
  CK_BBOOL value = 2;
  CK_ATTRIBUTE attribute = { type, &value, sizeof value };

  g_assert_cmpuint (handle, !=, CK_INVALID_HANDLE);
  g_assert_cmpuint (fixture->functions->C_GetAttributeValue (session, handle, &attribute, 1), ==,
                    CKR_OK);
  g_assert_cmpuint (fixture->functions->C_CloseSession (session), ==, CKR_OK);
  g_assert_cmpuint (value, <=, 1);
  return value == CK_TRUE;
}

static void
test_new_keys_are_protected (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) rsa = NULL;
  g_autoptr (GBytes) aes = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  rsa = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  aes = kw_pkcs11_fixture_add_aes (fixture, "aes");

  g_assert_true (read_boolean (fixture, CKO_PRIVATE_KEY, kw_key_get_id (rsa), CKA_SENSITIVE));
  g_assert_true (read_boolean (fixture, CKO_PRIVATE_KEY, kw_key_get_id (rsa), CKA_PRIVATE));
  g_assert_false (read_boolean (fixture, CKO_PRIVATE_KEY, kw_key_get_id (rsa), CKA_EXTRACTABLE));
  g_assert_false (read_boolean (fixture, CKO_PUBLIC_KEY, kw_key_get_id (rsa), CKA_PRIVATE));
  g_assert_true (read_boolean (fixture, CKO_SECRET_KEY, aes, CKA_SENSITIVE));
  g_assert_true (read_boolean (fixture, CKO_SECRET_KEY, aes, CKA_PRIVATE));
  g_assert_false (read_boolean (fixture, CKO_SECRET_KEY, aes, CKA_EXTRACTABLE));
}

static void
test_extractable_when_configured (KwPkcs11Fixture *fixture)
{
  g_autoptr (GBytes) aes = NULL;

  kw_pkcs11_fixture_open (fixture, "extractable = true");
  aes = kw_pkcs11_fixture_add_aes (fixture, "aes");
  g_assert_true (read_boolean (fixture, CKO_SECRET_KEY, aes, CKA_EXTRACTABLE));
  g_assert_true (read_boolean (fixture, CKO_SECRET_KEY, aes, CKA_SENSITIVE));
}

static void
test_id_is_taken (KwPkcs11Fixture *fixture)
{
  g_autoptr (GBytes) id = NULL;
  g_autoptr (GError) error = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  id = kw_pkcs11_fixture_add_aes (fixture, "0123456789abcdef");
  g_assert_null (kw_token_generate_aes (fixture->token, 256, id, "", &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_EXISTS);
  g_assert_nonnull (strstr (error->message, "30313233-3435-3637-3839-616263646566"));
  g_clear_error (&error);
  g_assert_null (kw_token_generate_rsa (fixture->token, 2048, id, "", &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_EXISTS);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_GenerateKeyPair), ==, 0);
}

static void
test_decrypt_all_paddings (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_PKCS1);
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_OAEP_SHA1);
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_OAEP_SHA256);
}

static GBytes *
flip_last_bit (GBytes *bytes)
{
  gsize size = 0;
  g_autofree guint8 *data = g_memdup2 (g_bytes_get_data (bytes, &size), g_bytes_get_size (bytes));

  data[size - 1] ^= 1;
  return g_bytes_new_take (g_steal_pointer (&data), size);
}

static void
assert_bad_ciphertexts_fail (KwPkcs11Fixture *fixture, KwKey *key)
{
  g_autofree guint8 *ones = g_malloc (256);
  g_autofree guint8 *zeros = g_malloc0 (257);
  g_autoptr (GBytes) too_big = NULL;
  g_autoptr (GBytes) zero = g_bytes_new (zeros, 256);
  g_autoptr (GBytes) too_short = g_bytes_new (zeros, 255);
  g_autoptr (GBytes) too_long = g_bytes_new (zeros, 257);
  g_autoptr (GBytes) empty = g_bytes_new (NULL, 0);

  memset (ones, 0xff, 256);
  too_big = g_bytes_new (ones, 256);
  for (guint i = KW_RSA_PADDING_PKCS1; i <= KW_RSA_PADDING_OAEP_SHA1; i++)
    {
      KwRsaPadding padding = (KwRsaPadding) i;
      g_autoptr (GBytes) good = encrypt (key, padding);
      g_autoptr (GBytes) damaged = flip_last_bit (good);
      GBytes *bad[] = { too_big, zero, too_short, too_long, empty, damaged };

      for (gsize j = 0; j < G_N_ELEMENTS (bad); j++)
        assert_decrypt_error (fixture->token, kw_key_get_id (key), padding, bad[j],
                              KW_ERROR_DECRYPT_FAILED);
      assert_decrypts (fixture->token, key, padding);
    }
}

static void
test_bad_ciphertexts_are_all_one_error (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  assert_bad_ciphertexts_fail (fixture, key);
  /* The session is good after each of them. */
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_CloseSession), ==, 0);
}

static void
test_without_raw_rsa (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GBytes) ciphertext = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  kw_shim_fail (fixture->shim, KW_SHIM_C_GetMechanismInfo, CKR_MECHANISM_INVALID, KW_SHIM_ALWAYS);
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_PKCS1);
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_OAEP_SHA1);
  assert_bad_ciphertexts_fail (fixture, key);
  /* SoftHSM's own OAEP knows SHA-1 alone. */
  ciphertext = encrypt (key, KW_RSA_PADDING_OAEP_SHA256);
  assert_decrypt_error (fixture->token, kw_key_get_id (key), KW_RSA_PADDING_OAEP_SHA256, ciphertext,
                        KW_ERROR_NOT_SUPPORTED);
}

static void
test_raw_rsa_listed_but_missing (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  kw_shim_fail (fixture->shim, KW_SHIM_C_DecryptInit, CKR_MECHANISM_INVALID, 1);
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_PKCS1);
}

static void
test_key_that_may_not_decrypt (KwPkcs11Fixture *fixture)
{
  CK_MECHANISM mechanism = { CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0 };
  CK_ULONG bits = 2048;
  CK_BBOOL yes = CK_TRUE;
  CK_BBOOL no = CK_FALSE;
  CK_ATTRIBUTE public_attributes[]
      = { { CKA_TOKEN, &yes, 1 }, { CKA_MODULUS_BITS, &bits, sizeof bits } };
  CK_ATTRIBUTE private_attributes[] = { { CKA_TOKEN, &yes, 1 },
                                        { CKA_PRIVATE, &yes, 1 },
                                        { CKA_DECRYPT, &no, 1 },
                                        { CKA_SIGN, &yes, 1 },
                                        { CKA_ID, (gpointer) "signer", 6 } };
  g_autoptr (GBytes) id = kw_pkcs11_id ("signer");
  CK_OBJECT_HANDLE handles[2] = { 0 };
  CK_SESSION_HANDLE session = 0;
  CK_RV rv = CKR_OK;

  kw_pkcs11_fixture_open (fixture, "");
  session = kw_pkcs11_fixture_open_session (fixture);
  rv = fixture->functions->C_GenerateKeyPair (session, &mechanism, public_attributes, 2,
                                              private_attributes, 5, &handles[0], &handles[1]);
  g_assert_cmpuint (rv, ==, CKR_OK);
  assert_key_error (fixture->token, id, KW_ERROR_NOT_SUPPORTED);
}

static void
test_sign (KwPkcs11Fixture *fixture)
{
  static const char message[] = "what is signed";
  guint8 digest[EVP_MAX_MD_SIZE];
  guint n_digest = 0;
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GBytes) digest_bytes = NULL;
  g_autoptr (GBytes) signature = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (EVP_PKEY) public_key = NULL;
  g_autoptr (EVP_PKEY_CTX) context = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  EVP_Digest (message, sizeof message, digest, &n_digest, EVP_sha256 (), NULL);
  digest_bytes = g_bytes_new (digest, n_digest);
  signature = kw_token_sign (fixture->token, kw_key_get_id (key), digest_bytes, &error);
  g_assert_no_error (error);

  public_key = parse_public_key (key);
  context = EVP_PKEY_CTX_new (public_key, NULL);
  g_assert_cmpint (EVP_PKEY_verify_init (context), ==, 1);
  g_assert_cmpint (EVP_PKEY_CTX_set_rsa_padding (context, RSA_PKCS1_PADDING), ==, 1);
  g_assert_cmpint (EVP_PKEY_CTX_set_signature_md (context, EVP_sha256 ()), ==, 1);
  g_assert_cmpint (EVP_PKEY_verify (context, g_bytes_get_data (signature, NULL),
                                    g_bytes_get_size (signature), digest, n_digest),
                   ==, 1);
}

static void
test_aes_cbc (KwPkcs11Fixture *fixture)
{
  static const guint8 iv[16] = { 1, 2, 3 };
  static const guint8 zero_iv[16] = { 0 };
  static const guint sizes[] = { 128, 192, 256 };
  guint8 data[64];

  memset (data, 'x', sizeof data);
  kw_pkcs11_fixture_open (fixture, "");
  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autofree char *name = g_strdup_printf ("aes-%u", sizes[i]);
      g_autoptr (GBytes) id = kw_pkcs11_id (name);
      g_autoptr (GError) error = NULL;
      g_autoptr (KwKey) key = kw_token_generate_aes (fixture->token, sizes[i], id, name, &error);
      g_autoptr (KwSecret) encrypted = NULL;
      g_autoptr (KwSecret) other = NULL;
      g_autoptr (KwSecret) decrypted = NULL;

      g_assert_no_error (error);
      g_assert_cmpuint (kw_key_get_bits (key), ==, sizes[i]);
      encrypted = kw_token_aes_cbc (fixture->token, id, TRUE, iv, data, sizeof data, &error);
      g_assert_no_error (error);
      other = kw_token_aes_cbc (fixture->token, id, TRUE, zero_iv, data, sizeof data, &error);
      g_assert_no_error (error);
      g_assert_false (kw_secret_equal (other, kw_secret_get_data (encrypted), sizeof data));
      decrypted = kw_token_aes_cbc (fixture->token, id, FALSE, iv, kw_secret_get_data (encrypted),
                                    kw_secret_get_size (encrypted), &error);
      g_assert_no_error (error);
      g_assert_true (kw_secret_equal (decrypted, data, sizeof data));
    }
}

static void
test_random (KwPkcs11Fixture *fixture)
{
  static const struct
  {
    gsize size;
    guint n_calls;
  } cases[] = { { 0, 0 }, { 1, 1 }, { 1024, 1 }, { 1025, 2 }, { KW_MAX_RANDOM_BYTES, 64 } };
  g_autofree guint8 *data = g_malloc0 (KW_MAX_RANDOM_BYTES);

  kw_pkcs11_fixture_open (fixture, "");
  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;

      kw_shim_reset_calls (fixture->shim);
      g_assert_true (kw_token_random (fixture->token, data, cases[i].size, &error));
      g_assert_no_error (error);
      g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_GenerateRandom), ==,
                        cases[i].n_calls);
    }
  g_assert_false (data[0] == 0 && data[KW_MAX_RANDOM_BYTES - 1] == 0 && data[32768] == 0);
}

static void
test_list_keys (KwPkcs11Fixture *fixture)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) none = NULL;
  g_autoptr (GPtrArray) keys = NULL;
  g_autoptr (KwKey) rsa = NULL;
  g_autoptr (GBytes) aes = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  none = kw_token_list_keys (fixture->token, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (none->len, ==, 0);

  rsa = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  aes = kw_pkcs11_fixture_add_aes (fixture, "aes");
  keys = kw_token_list_keys (fixture->token, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (keys->len, ==, 2);
  g_assert_cmpint (kw_key_get_kind (keys->pdata[0]), ==, KW_KEY_KIND_RSA);
  g_assert_cmpstr (kw_key_get_fingerprint (keys->pdata[0]), ==, kw_key_get_fingerprint (rsa));
  g_assert_cmpint (kw_key_get_kind (keys->pdata[1]), ==, KW_KEY_KIND_AES);
  g_assert_true (g_bytes_equal (kw_key_get_id (keys->pdata[1]), aes));
}

static void
test_find_key (KwPkcs11Fixture *fixture)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwKey) made = NULL;
  g_autoptr (KwKey) found = NULL;
  g_autoptr (GBytes) other = kw_pkcs11_id ("other");

  kw_pkcs11_fixture_open (fixture, "");
  made = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  found = kw_token_find_key (fixture->token, KW_KEY_KIND_RSA, kw_key_get_id (made), &error);
  g_assert_no_error (error);
  g_assert_cmpstr (kw_key_get_fingerprint (found), ==, kw_key_get_fingerprint (made));

  g_assert_null (kw_token_find_key (fixture->token, KW_KEY_KIND_AES, kw_key_get_id (made), &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND);
  assert_key_error (fixture->token, other, KW_ERROR_KEY_NOT_FOUND);
}

/* Makes an AES key past all checks, with any label. */
static void
add_aes_behind_the_back (KwPkcs11Fixture *fixture, GBytes *id, gconstpointer label, gsize n_label)
{
  CK_SESSION_HANDLE session = kw_pkcs11_fixture_open_session (fixture);
  CK_MECHANISM mechanism = { CKM_AES_KEY_GEN, NULL, 0 };
  CK_BBOOL yes = CK_TRUE;
  CK_ULONG n_bytes = 32;
  CK_ATTRIBUTE attributes[]
      = { { CKA_TOKEN, &yes, 1 },
          { CKA_PRIVATE, &yes, 1 },
          { CKA_VALUE_LEN, &n_bytes, sizeof n_bytes },
          { CKA_ID, (gpointer) g_bytes_get_data (id, NULL), g_bytes_get_size (id) },
          { CKA_LABEL, (gpointer) label, n_label } };
  CK_OBJECT_HANDLE handle = 0;
  CK_RV rv = fixture->functions->C_GenerateKey (session, &mechanism, attributes, 5, &handle);

  g_assert_cmpuint (rv, ==, CKR_OK);
  g_assert_cmpuint (fixture->functions->C_CloseSession (session), ==, CKR_OK);
}

static void
test_aes_usage (KwPkcs11Fixture *fixture)
{
  static const struct
  {
    const char *settings;
    guint usage;
  } rows[] = {
    { "", KW_KEY_USAGE_ENCRYPT | KW_KEY_USAGE_DECRYPT },
    { "extractable = true", KW_KEY_USAGE_ENCRYPT | KW_KEY_USAGE_DECRYPT | KW_KEY_USAGE_WRAP },
  };

  kw_soft_hsm_add_token (fixture->hsm, "one", KW_TEST_SO_PIN, KW_TEST_PIN);
  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autofree char *name = g_strdup_printf ("aes %u", i);
      g_autoptr (GBytes) id = kw_pkcs11_id (name);
      g_autoptr (GError) error = NULL;
      g_autoptr (KwKey) made = NULL;
      g_autoptr (KwKey) found = NULL;

      kw_pkcs11_fixture_reopen (fixture, rows[i].settings);
      made = kw_token_generate_aes (fixture->token, 256, id, name, &error);
      g_assert_no_error (error);
      g_assert_cmpuint (kw_key_get_usage (made) & ~(guint) KW_KEY_USAGE_UNWRAP, ==, rows[i].usage);
      found = kw_token_find_key (fixture->token, KW_KEY_KIND_AES, id, &error);
      g_assert_no_error (error);
      g_assert_cmpuint (kw_key_get_usage (found), ==, kw_key_get_usage (made));
    }
}

/* Nothing of a secret key can be compared, so one that was replaced is not used until the device was started anew. */
static void
test_replaced_secret_key (KwPkcs11Fixture *fixture)
{
  static const guint8 iv[16] = { 0 };

  kw_soft_hsm_add_token (fixture->hsm, "one", KW_TEST_SO_PIN, KW_TEST_PIN);
  for (guint look = 0; look < 2; look++)
    {
      g_autofree char *name = g_strdup_printf ("aes %u", look);
      g_autoptr (GBytes) id = NULL;
      g_autoptr (GError) error = NULL;
      g_autoptr (KwSecret) before = NULL;
      g_autoptr (GPtrArray) keys G_GNUC_UNUSED = NULL;
      CK_SESSION_HANDLE session = 0;

      kw_pkcs11_fixture_reopen (fixture, "");
      id = kw_pkcs11_fixture_add_aes (fixture, name);
      before = kw_token_aes_cbc (fixture->token, id, TRUE, iv, iv, sizeof iv, &error);
      g_assert_no_error (error);
      session = kw_pkcs11_fixture_open_session (fixture);
      g_assert_cmpuint (fixture->functions->C_DestroyObject (
                            session, kw_pkcs11_fixture_find (fixture, session, CKO_SECRET_KEY, id)),
                        ==, CKR_OK);
      g_assert_cmpuint (fixture->functions->C_CloseSession (session), ==, CKR_OK);
      add_aes_behind_the_back (fixture, id, "b", 1);
      /* Listing the keys does not make the other one known. */
      if (look > 0)
        keys = kw_token_list_keys (fixture->token, &error);
      g_assert_no_error (error);
      g_assert_null (kw_token_aes_cbc (fixture->token, id, TRUE, iv, iv, sizeof iv, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
    }
}

/* A token that is being taken apart says odd things of its keys: it is asked once more. */
static void
test_key_of_another_type (KwPkcs11Fixture *fixture)
{
  static const guint8 iv[16] = { 0 };
  g_autoptr (GBytes) id = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) output = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  id = kw_pkcs11_fixture_add_aes (fixture, "aes");
  kw_shim_fail (fixture->shim, KW_SHIM_C_EncryptInit, CKR_KEY_TYPE_INCONSISTENT, 1);
  output = kw_token_aes_cbc (fixture->token, id, TRUE, iv, iv, sizeof iv, &error);
  g_assert_no_error (error);
  kw_shim_fail (fixture->shim, KW_SHIM_C_EncryptInit, CKR_KEY_TYPE_INCONSISTENT, 10);
  g_assert_null (kw_token_aes_cbc (fixture->token, id, TRUE, iv, iv, sizeof iv, &error));
  g_assert_true (kw_error_is_device_trouble (error));
}

static void
test_two_keys_with_one_id (KwPkcs11Fixture *fixture)
{
  static const guint8 iv[16] = { 0 };
  g_autoptr (GBytes) id = kw_pkcs11_id ("twin");
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) keys = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  add_aes_behind_the_back (fixture, id, "a", 1);
  add_aes_behind_the_back (fixture, id, "b", 1);

  /* Listing them must not make one of them usable. */
  keys = kw_token_list_keys (fixture->token, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (keys->len, ==, 2);
  g_assert_null (kw_token_aes_cbc (fixture->token, id, TRUE, iv, iv, sizeof iv, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_AMBIGUOUS);
  g_clear_error (&error);
  g_assert_null (kw_token_find_key (fixture->token, KW_KEY_KIND_AES, id, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_AMBIGUOUS);
  g_clear_error (&error);
  g_assert_false (kw_token_delete_key (fixture->token, KW_KEY_KIND_AES, id, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_AMBIGUOUS);
}

static void
test_odd_labels (KwPkcs11Fixture *fixture)
{
  g_autoptr (GBytes) id = kw_pkcs11_id ("odd");
  g_autoptr (GBytes) long_id = kw_pkcs11_id ("long");
  g_autofree char *long_label = g_strnfill (300, 'l');
  g_autoptr (GError) error = NULL;
  g_autoptr (KwKey) odd = NULL;
  g_autoptr (KwKey) cut = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  add_aes_behind_the_back (fixture, id, "\xff\x80 x", 4);
  add_aes_behind_the_back (fixture, long_id, long_label, 300);

  odd = kw_token_find_key (fixture->token, KW_KEY_KIND_AES, id, &error);
  g_assert_no_error (error);
  g_assert_true (g_utf8_validate (kw_key_get_label (odd), -1, NULL));
  cut = kw_token_find_key (fixture->token, KW_KEY_KIND_AES, long_id, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (strlen (kw_key_get_label (cut)), ==, KW_MAX_KEY_LABEL_BYTES);
}

static void
test_key_without_an_id (KwPkcs11Fixture *fixture)
{
  g_autoptr (GBytes) id = g_bytes_new (NULL, 0);
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) keys = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  add_aes_behind_the_back (fixture, id, "nameless", 8);
  keys = kw_token_list_keys (fixture->token, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (keys->len, ==, 1);
  g_assert_cmpstr (kw_key_get_label (keys->pdata[0]), ==, "nameless");
  g_assert_cmpuint (g_bytes_get_size (kw_key_get_id (keys->pdata[0])), ==, 0);
}

static void
test_other_kinds_are_listed (KwPkcs11Fixture *fixture)
{
  /* OID of P-256. */
  static const guint8 curve[] = { 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07 };
  CK_MECHANISM mechanism = { CKM_EC_KEY_PAIR_GEN, NULL, 0 };
  CK_MECHANISM other_mechanism = { CKM_GENERIC_SECRET_KEY_GEN, NULL, 0 };
  CK_BBOOL yes = CK_TRUE;
  CK_ULONG n_bytes = 32;
  CK_ATTRIBUTE public_attributes[]
      = { { CKA_TOKEN, &yes, 1 }, { CKA_EC_PARAMS, (gpointer) curve, sizeof curve } };
  CK_ATTRIBUTE private_attributes[] = { { CKA_TOKEN, &yes, 1 }, { CKA_ID, (gpointer) "ec", 2 } };
  CK_ATTRIBUTE other_attributes[]
      = { { CKA_TOKEN, &yes, 1 }, { CKA_VALUE_LEN, &n_bytes, sizeof n_bytes } };
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) keys = NULL;
  CK_OBJECT_HANDLE handles[3] = { 0 };
  CK_SESSION_HANDLE session = 0;
  CK_RV rv = CKR_OK;

  kw_pkcs11_fixture_open (fixture, "");
  session = kw_pkcs11_fixture_open_session (fixture);
  rv = fixture->functions->C_GenerateKeyPair (session, &mechanism, public_attributes, 2,
                                              private_attributes, 2, &handles[0], &handles[1]);
  g_assert_cmpuint (rv, ==, CKR_OK);
  rv = fixture->functions->C_GenerateKey (session, &other_mechanism, other_attributes, 2,
                                          &handles[2]);
  g_assert_cmpuint (rv, ==, CKR_OK);

  /* The EC key is; a generic secret is of no use here. */
  keys = kw_token_list_keys (fixture->token, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (keys->len, ==, 1);
  g_assert_cmpint (kw_key_get_kind (keys->pdata[0]), ==, KW_KEY_KIND_EC);
}

static void
test_unknown_keys (KwPkcs11Fixture *fixture)
{
  static const guint8 iv[16] = { 0 };
  g_autoptr (GBytes) id = kw_pkcs11_id ("unknown");
  g_autoptr (GBytes) digest = g_bytes_new (PLAINTEXT, 32);
  g_autoptr (GError) error = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  g_assert_null (kw_token_sign (fixture->token, id, digest, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND);
  g_clear_error (&error);
  g_assert_null (kw_token_aes_cbc (fixture->token, id, TRUE, iv, iv, sizeof iv, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND);
}

static void
test_delete_key (KwPkcs11Fixture *fixture)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwKey) rsa = NULL;
  g_autoptr (GBytes) aes = NULL;
  CK_SESSION_HANDLE session = 0;

  kw_pkcs11_fixture_open (fixture, "");
  rsa = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  aes = kw_pkcs11_fixture_add_aes (fixture, "aes");
  g_assert_true (
      kw_token_delete_key (fixture->token, KW_KEY_KIND_RSA, kw_key_get_id (rsa), &error));
  g_assert_no_error (error);

  session = kw_pkcs11_fixture_open_session (fixture);
  g_assert_cmpuint (kw_pkcs11_fixture_find (fixture, session, CKO_PRIVATE_KEY, kw_key_get_id (rsa)),
                    ==, 0);
  g_assert_cmpuint (kw_pkcs11_fixture_find (fixture, session, CKO_PUBLIC_KEY, kw_key_get_id (rsa)),
                    ==, 0);
  g_assert_cmpuint (kw_pkcs11_fixture_find (fixture, session, CKO_SECRET_KEY, aes), !=, 0);
  assert_key_error (fixture->token, kw_key_get_id (rsa), KW_ERROR_KEY_NOT_FOUND);
  g_assert_false (
      kw_token_delete_key (fixture->token, KW_KEY_KIND_RSA, kw_key_get_id (rsa), &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND);
  g_clear_error (&error);
  g_assert_true (kw_token_delete_key (fixture->token, KW_KEY_KIND_AES, aes, &error));
  g_assert_no_error (error);
}

static void
test_no_search_per_request (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  kw_pkcs11_fixture_reopen (fixture, "");
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_PKCS1);

  kw_shim_reset_calls (fixture->shim);
  for (guint i = 0; i < 50; i++)
    assert_decrypts (fixture->token, key, KW_RSA_PADDING_PKCS1);
  for (guint i = 0; i < KW_SHIM_N_FUNCTIONS; i++)
    {
      gboolean needed = i == KW_SHIM_C_DecryptInit || i == KW_SHIM_C_Decrypt;

      g_test_message ("%s", kw_shim_function_name ((KwShimFunction) i));
      g_assert_cmpuint (kw_shim_get_calls (fixture->shim, (KwShimFunction) i), ==, needed ? 50 : 0);
    }
  g_assert_cmpint (kw_shim_get_open_sessions (fixture->shim), ==, 2);
}

typedef struct
{
  KwToken *token;
  KwKey *key;
} WorkerJob;

static gpointer
decrypt_many (gpointer data)
{
  WorkerJob *job = data;

  for (guint i = 0; i < 25; i++)
    assert_decrypts (job->token, job->key, KW_RSA_PADDING_PKCS1);
  return NULL;
}

static void
decrypt_in_threads (KwToken *token, KwKey *key, guint n_threads)
{
  WorkerJob job = { token, key };
  g_autoptr (GPtrArray) threads = g_ptr_array_new ();

  for (guint i = 0; i < n_threads; i++)
    g_ptr_array_add (threads, g_thread_new ("worker", decrypt_many, &job));
  for (guint i = 0; i < n_threads; i++)
    g_thread_join (threads->pdata[i]);
}

static void
test_pool_is_bounded (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;

  kw_pkcs11_fixture_open (fixture, "sessions = 2");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  g_assert_cmpuint (kw_token_get_concurrency (fixture->token), ==, 2);
  decrypt_in_threads (fixture->token, key, 4);
  g_assert_cmpint (kw_shim_get_open_sessions (fixture->shim), <=, 3);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_OpenSession), <=, 3);
}

static void
test_token_allows_few_sessions (KwPkcs11Fixture *fixture)
{
  static const struct
  {
    gint max_sessions;
    guint concurrency;
  } cases[] = { { 1, 1 }, { 2, 1 }, { 3, 2 }, { 5, 4 }, { 6, 4 } };
  g_autoptr (KwKey) key = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      kw_shim_set_max_sessions (fixture->shim, cases[i].max_sessions);
      kw_pkcs11_fixture_reopen (fixture, "");
      g_assert_cmpuint (kw_token_get_concurrency (fixture->token), ==, cases[i].concurrency);
      decrypt_in_threads (fixture->token, key, 4);
      g_assert_cmpint (kw_shim_get_open_sessions (fixture->shim), <=, cases[i].max_sessions);
    }
}

static void
test_sessions_run_out (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  kw_shim_set_fault (fixture->shim, KW_SHIM_C_OpenSession, KW_SHIM_FAULT_FAIL, CKR_SESSION_COUNT, 1,
                     KW_SHIM_ALWAYS);
  decrypt_in_threads (fixture->token, key, 4);
  g_assert_cmpint (kw_shim_get_open_sessions (fixture->shim), <=, 3);
}

static void
test_module_that_cannot_lock (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  kw_shim_set_cant_lock (fixture->shim, TRUE);
  kw_pkcs11_fixture_reopen (fixture, "");
  g_assert_cmpuint (kw_token_get_concurrency (fixture->token), ==, 1);
  decrypt_in_threads (fixture->token, key, 3);
}

static void
test_write_protected_token (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) id = kw_pkcs11_id ("new");

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  kw_shim_set_token_flags (fixture->shim, CKF_WRITE_PROTECTED, 0);
  kw_pkcs11_fixture_reopen (fixture, "");
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_PKCS1);
  g_assert_null (kw_token_generate_aes (fixture->token, 256, id, "", &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
  g_assert_nonnull (strstr (error->message, "CKR_SESSION_READ_ONLY"));
}

static void
test_write_protection_shows_at_open (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  kw_shim_fail (fixture->shim, KW_SHIM_C_OpenSession, CKR_TOKEN_WRITE_PROTECTED, 1);
  kw_pkcs11_fixture_reopen (fixture, "");
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_PKCS1);
}

static void
test_all_sessions_closed_under_us (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;
  CK_SLOT_ID slot = 0;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  decrypt_in_threads (fixture->token, key, 4);
  slot = (CK_SLOT_ID) kw_token_get_info (fixture->token)->slot;
  g_assert_cmpuint (fixture->functions->C_CloseAllSessions (slot), ==, CKR_OK);

  /* The login went with them; that is for the caller to renew. */
  assert_key_error (fixture->token, kw_key_get_id (key), KW_ERROR_NOT_LOGGED_IN);
  kw_pkcs11_fixture_login (fixture);
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_PKCS1);
}

static void
test_logged_out_under_us (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GError) error = NULL;
  CK_SESSION_HANDLE session = 0;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  session = kw_pkcs11_fixture_open_session (fixture);
  g_assert_cmpuint (fixture->functions->C_Logout (session), ==, CKR_OK);

  assert_key_error (fixture->token, kw_key_get_id (key), KW_ERROR_NOT_LOGGED_IN);
  g_assert_null (kw_token_list_keys (fixture->token, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_LOGGED_IN);
  g_clear_error (&error);
  g_assert_false (
      kw_token_delete_key (fixture->token, KW_KEY_KIND_RSA, kw_key_get_id (key), &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_LOGGED_IN);
  kw_pkcs11_fixture_login (fixture);
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_PKCS1);
}

static void
test_one_session_closed_under_us (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  kw_shim_reset_calls (fixture->shim);
  kw_shim_fail (fixture->shim, KW_SHIM_C_DecryptInit, CKR_SESSION_HANDLE_INVALID, 1);
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_PKCS1);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_OpenSession), ==, 1);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_Login), ==, 0);
  g_assert_cmpint (kw_shim_get_open_sessions (fixture->shim), ==, 2);
}

static void
test_handle_found_again (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  kw_shim_reset_calls (fixture->shim);
  kw_shim_fail (fixture->shim, KW_SHIM_C_DecryptInit, CKR_KEY_HANDLE_INVALID, 1);
  assert_decrypts (fixture->token, key, KW_RSA_PADDING_PKCS1);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_FindObjectsInit), ==, 1);
  g_assert_cmpuint (kw_shim_get_calls (fixture->shim, KW_SHIM_C_OpenSession), ==, 0);
}

static void
test_key_deleted_under_us (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;
  CK_SESSION_HANDLE session = 0;
  CK_OBJECT_HANDLE handle = 0;

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  session = kw_pkcs11_fixture_open_session (fixture);
  handle = kw_pkcs11_fixture_find (fixture, session, CKO_PRIVATE_KEY, kw_key_get_id (key));
  g_assert_cmpuint (fixture->functions->C_DestroyObject (session, handle), ==, CKR_OK);

  /* It may as well be the whole token that was changed: once, that is trouble of the device. */
  assert_key_error (fixture->token, kw_key_get_id (key), KW_ERROR_TOKEN_GONE);
  assert_key_error (fixture->token, kw_key_get_id (key), KW_ERROR_KEY_NOT_FOUND);
}

static void
test_token_deleted_under_us (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) id = kw_pkcs11_id ("new");

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  kw_soft_hsm_delete_token (fixture->hsm, "one");

  g_assert_null (kw_token_generate_aes (fixture->token, 256, id, "", &error));
  g_assert_true (kw_error_is_device_trouble (error));
  assert_key_error (fixture->token, kw_key_get_id (key), KW_ERROR_TOKEN_GONE);
}

static void
test_token_initialised_under_us (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) id = kw_pkcs11_id ("new");

  kw_pkcs11_fixture_open (fixture, "");
  key = kw_pkcs11_fixture_add_rsa (fixture, "rsa");
  kw_soft_hsm_reinit_token (fixture->hsm, "one", "one", KW_TEST_SO_PIN, KW_TEST_PIN);

  /* A key made now could not be read later. */
  g_assert_null (kw_token_generate_aes (fixture->token, 256, id, "", &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
  assert_key_error (fixture->token, kw_key_get_id (key), KW_ERROR_TOKEN_GONE);
}

static void
assert_all_gone (KwToken *token)
{
  static const guint8 iv[16] = { 0 };
  g_autoptr (GBytes) id = kw_pkcs11_id ("any");
  g_autoptr (GBytes) digest = g_bytes_new (iv, 16);
  g_autoptr (GBytes) digest32 = g_bytes_new (PLAINTEXT, 32);
  g_autoptr (KwSecret) pin = kw_secret_new_copy ("1234", 4, NULL);
  guint8 data[16];
  GError *errors[9] = { NULL };

  g_assert_false (kw_token_login (token, pin, &errors[0]));
  g_assert_null (kw_token_list_keys (token, &errors[1]));
  g_assert_null (kw_token_find_key (token, KW_KEY_KIND_RSA, id, &errors[2]));
  g_assert_null (kw_token_rsa_decrypt (token, id, KW_RSA_PADDING_PKCS1, digest, &errors[3]));
  g_assert_null (kw_token_sign (token, id, digest32, &errors[4]));
  g_assert_null (kw_token_aes_cbc (token, id, TRUE, iv, iv, 16, &errors[5]));
  g_assert_false (kw_token_random (token, data, sizeof data, &errors[6]));
  g_assert_false (kw_token_delete_key (token, KW_KEY_KIND_RSA, id, &errors[7]));
  g_assert_null (kw_token_generate_aes (token, 256, id, "", &errors[8]));
  for (gsize i = 0; i < G_N_ELEMENTS (errors); i++)
    {
      g_assert_error (errors[i], KW_ERROR, KW_ERROR_TOKEN_GONE);
      g_clear_error (&errors[i]);
    }
}

static void
test_closed_token (KwPkcs11Fixture *fixture)
{
  kw_pkcs11_fixture_open (fixture, "");
  kw_shim_reset_calls (fixture->shim);
  kw_token_close (fixture->token);
  /* Closing is done in the main context, so it makes no call into the module. */
  for (guint i = 0; i < KW_SHIM_N_FUNCTIONS; i++)
    g_assert_cmpuint (kw_shim_get_calls (fixture->shim, (KwShimFunction) i), ==, 0);
  assert_all_gone (fixture->token);
}

static void
test_token_outlives_its_back_end (KwPkcs11Fixture *fixture)
{
  KwPinState state = { 0 };
  g_autoptr (GError) error = NULL;

  kw_pkcs11_fixture_open (fixture, "");
  g_clear_object (&fixture->backend);
  assert_all_gone (fixture->token);
  g_assert_false (kw_token_get_pin_state (fixture->token, &state, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
  g_assert_cmpstr (kw_token_get_info (fixture->token)->label, ==, "one");
}

static void
test_pool_outlives_its_module (KwPkcs11Fixture *fixture)
{
  g_autoptr (KwPkcs11Module) module = kw_pkcs11_module_new (kw_shim_get_module_path ());
  g_autoptr (KwPkcs11Pool) pool = NULL;
  g_autoptr (KwPkcs11Pool) closed = NULL;
  g_autoptr (GError) error = NULL;
  CK_TOKEN_INFO info = { .flags = CKF_TOKEN_INITIALIZED, .ulMaxSessionCount = 1 };
  KwPkcs11Session session = { 0 };
  CK_SLOT_ID slot = 0;

  kw_pkcs11_fixture_open (fixture, "");
  slot = (CK_SLOT_ID) kw_token_get_info (fixture->token)->slot;
  g_clear_object (&fixture->token);
  g_clear_object (&fixture->backend);
  g_assert_true (kw_pkcs11_module_load (module, &error));
  g_assert_true (kw_pkcs11_module_initialize (module, G_LOG_LEVEL_DEBUG, &error));
  closed = kw_pkcs11_pool_new (module, slot, &info, 1);
  info.ulMaxSessionCount = CK_EFFECTIVELY_INFINITE;
  pool = kw_pkcs11_pool_new (module, slot, &info, 1);
  g_assert_true (kw_pkcs11_pool_borrow (pool, TRUE, &session, &error));
  g_assert_false (kw_pkcs11_pool_borrow (pool, FALSE, &session, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_BUSY);
  g_clear_error (&error);
  kw_pkcs11_pool_give_back (pool, &session);

  kw_pkcs11_pool_close (closed);
  g_assert_false (kw_pkcs11_pool_login (closed, NULL, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
  g_clear_error (&error);

  g_assert_true (kw_pkcs11_module_shut_down (module, 0));
  g_assert_false (kw_pkcs11_pool_borrow (pool, TRUE, &session, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
  g_clear_error (&error);
  g_assert_false (kw_pkcs11_pool_login (pool, NULL, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
  kw_pkcs11_pool_release (pool);
}

static void
test_no_export (KwPkcs11Fixture *fixture)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) id = kw_pkcs11_id ("any");

  kw_pkcs11_fixture_open (fixture, "");
  g_assert_null (kw_token_export_key (fixture->token, KW_KEY_KIND_AES, id, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED);
}

static void
add_tests (void)
{
  kw_pkcs11_add_test ("/token/info", test_info);
  kw_pkcs11_add_test ("/token/pin-state", test_pin_state);
  kw_pkcs11_add_test ("/token/wrong-pin-is-presented-once", test_wrong_pin_is_presented_once);
  kw_pkcs11_add_test ("/token/login-needs-a-pin", test_login_needs_a_pin);
  kw_pkcs11_add_test ("/token/login-twice", test_login_twice);
  kw_pkcs11_add_test ("/token/rsa-sizes", test_rsa_sizes);
  kw_pkcs11_add_test ("/token/new-keys-are-protected", test_new_keys_are_protected);
  kw_pkcs11_add_test ("/token/extractable-when-configured", test_extractable_when_configured);
  kw_pkcs11_add_test ("/token/id-is-taken", test_id_is_taken);
  kw_pkcs11_add_test ("/token/decrypt-all-paddings", test_decrypt_all_paddings);
  kw_pkcs11_add_test ("/token/bad-ciphertexts-are-all-one-error",
                      test_bad_ciphertexts_are_all_one_error);
  kw_pkcs11_add_test ("/token/without-raw-rsa", test_without_raw_rsa);
  kw_pkcs11_add_test ("/token/raw-rsa-listed-but-missing", test_raw_rsa_listed_but_missing);
  kw_pkcs11_add_test ("/token/key-that-may-not-decrypt", test_key_that_may_not_decrypt);
  kw_pkcs11_add_test ("/token/sign", test_sign);
  kw_pkcs11_add_test ("/token/aes-cbc", test_aes_cbc);
  kw_pkcs11_add_test ("/token/key-of-another-type", test_key_of_another_type);
  kw_pkcs11_add_test ("/token/aes-usage", test_aes_usage);
  kw_pkcs11_add_test ("/token/replaced-secret-key", test_replaced_secret_key);
  kw_pkcs11_add_test ("/token/random", test_random);
  kw_pkcs11_add_test ("/token/list-keys", test_list_keys);
  kw_pkcs11_add_test ("/token/find-key", test_find_key);
  kw_pkcs11_add_test ("/token/two-keys-with-one-id", test_two_keys_with_one_id);
  kw_pkcs11_add_test ("/token/odd-labels", test_odd_labels);
  kw_pkcs11_add_test ("/token/key-without-an-id", test_key_without_an_id);
  kw_pkcs11_add_test ("/token/other-kinds-are-listed", test_other_kinds_are_listed);
  kw_pkcs11_add_test ("/token/unknown-keys", test_unknown_keys);
  kw_pkcs11_add_test ("/token/delete-key", test_delete_key);
  kw_pkcs11_add_test ("/token/no-search-per-request", test_no_search_per_request);
  kw_pkcs11_add_test ("/token/pool-is-bounded", test_pool_is_bounded);
  kw_pkcs11_add_test ("/token/token-allows-few-sessions", test_token_allows_few_sessions);
  kw_pkcs11_add_test ("/token/sessions-run-out", test_sessions_run_out);
  kw_pkcs11_add_test ("/token/module-that-cannot-lock", test_module_that_cannot_lock);
  kw_pkcs11_add_test ("/token/write-protected-token", test_write_protected_token);
  kw_pkcs11_add_test ("/token/write-protection-shows-at-open", test_write_protection_shows_at_open);
  kw_pkcs11_add_test ("/token/all-sessions-closed-under-us", test_all_sessions_closed_under_us);
  kw_pkcs11_add_test ("/token/logged-out-under-us", test_logged_out_under_us);
  kw_pkcs11_add_test ("/token/one-session-closed-under-us", test_one_session_closed_under_us);
  kw_pkcs11_add_test ("/token/handle-found-again", test_handle_found_again);
  kw_pkcs11_add_test ("/token/key-deleted-under-us", test_key_deleted_under_us);
  kw_pkcs11_add_test ("/token/token-deleted-under-us", test_token_deleted_under_us);
  kw_pkcs11_add_test ("/token/token-initialised-under-us", test_token_initialised_under_us);
  kw_pkcs11_add_test ("/token/closed-token", test_closed_token);
  kw_pkcs11_add_test ("/token/token-outlives-its-back-end", test_token_outlives_its_back_end);
  kw_pkcs11_add_test ("/token/pool-outlives-its-module", test_pool_outlives_its_module);
  kw_pkcs11_add_test ("/token/no-export", test_no_export);
}

int
main (int argc, char **argv)
{
  return kw_pkcs11_test_main (argc, argv, add_tests);
}
