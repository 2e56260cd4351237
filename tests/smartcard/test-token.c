/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-sc-token"

#include "kw-error.h"
#include "kw-limits.h"
#include "kw-sc-fixture.h"

#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <string.h>

/*
 * A token's slots on virtual cards behind a real pcscd: what each does, beside libcrypto and OpenSC's tools, and what it says
 * when the card will not.
 */

#define SELECT_CARD "00A404000BE82B0601040181C31F020100"
#define VERIFY_WRONG_PIN "0020008106303030303030"
#define PIN_STATUS "00200081"

G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_PKEY, EVP_PKEY_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_PKEY_CTX, EVP_PKEY_CTX_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_CIPHER_CTX, EVP_CIPHER_CTX_free)

#define skip_without_cards()                                                                       \
  G_STMT_START                                                                                     \
  {                                                                                                \
    if (kw_card_rig_is_missing ())                                                                 \
      return;                                                                                      \
  }                                                                                                \
  G_STMT_END

static void
fill (guint8 *data, gsize size)
{
  for (gsize i = 0; i < size; i++)
    data[i] = (guint8) (i * 7 + i / 256 + 3);
}

/* --- info --- */

static void
test_info (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  const KwTokenInfo *info = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open (f, 0);
  info = kw_token_get_info (token);
  g_assert_cmpstr (info->serial, ==, kw_card_rig_get_serial (f->rig, 0));
  g_assert_cmpstr (info->label, ==, "card 1");
  g_assert_cmpstr (info->firmware, ==, "3.5");
  g_assert_cmpstr (info->manufacturer, ==, "www.CardContact.de");
  g_assert_cmpstr (info->reader, ==, kw_card_rig_get_reader (f->rig, 0));
  g_assert_cmpuint (info->dkek_shares, ==, SC_N_SHARES);
  g_assert_cmpuint (info->dkek_shares_missing, ==, 0);
  g_assert_cmpuint (strlen (info->dkek_check_value), ==, 16);
  g_assert_cmpint (info->so_pin_tries_left, ==, 15);
  g_assert_nonnull (strstr (info->options, "user PIN reset with SO-PIN enabled"));
  g_assert_cmpuint (kw_token_get_concurrency (token), ==, 1);
}

static void
test_info_without_dkek (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (KwToken) waiting = NULL;

  skip_without_cards ();
  f = sc_fixture_new_blank (2, NULL);
  kw_card_rig_initialise (f->rig, 0, NULL, NULL, -1, "lonely", NULL);
  kw_card_rig_initialise (f->rig, 1, NULL, NULL, 3, "waiting", NULL);
  token = sc_fixture_open (f, 0);
  waiting = sc_fixture_open (f, 1);
  g_assert_null (kw_token_get_info (token)->dkek_check_value);
  g_assert_cmpuint (kw_token_get_info (token)->dkek_shares, ==, 0);
  g_assert_null (kw_token_get_info (waiting)->dkek_check_value);
  g_assert_cmpuint (kw_token_get_info (waiting)->dkek_shares, ==, 3);
  g_assert_cmpuint (kw_token_get_info (waiting)->dkek_shares_missing, ==, 3);
}

static void
test_blank (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (GBytes) atr = g_bytes_new_static ("", 0);
  g_autoptr (GError) error = NULL;
  gboolean blank = FALSE;

  skip_without_cards ();
  f = sc_fixture_new_blank (1, NULL);
  g_assert_null (kw_sc_token_new (kw_card_rig_get_reader (f->rig, 0), atr, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_UNINITIALIZED);
  g_assert_nonnull (strstr (error->message, kw_card_rig_get_serial (f->rig, 0)));
  g_assert_nonnull (strstr (error->message, "sc-hsm-tool --initialize"));
  g_assert_true (kw_sc_token_is_blank (kw_card_rig_get_reader (f->rig, 0), &blank, NULL));
  g_assert_true (blank);
  kw_card_rig_initialise (f->rig, 0, NULL, NULL, -1, "x", NULL);
  g_assert_true (kw_sc_token_is_blank (kw_card_rig_get_reader (f->rig, 0), &blank, NULL));
  g_assert_false (blank);
}

static void
test_no_card (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (GBytes) atr = g_bytes_new_static ("", 0);
  g_autoptr (GError) error = NULL;

  skip_without_cards ();
  f = sc_fixture_new_blank (1, NULL);
  kw_card_rig_eject (f->rig, 0, NULL);
  g_assert_true (kw_card_rig_wait_for_card (f->rig, 0, FALSE, 5000, NULL));
  g_assert_null (kw_sc_token_new (kw_card_rig_get_reader (f->rig, 0), atr, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
  g_clear_error (&error);
  g_assert_null (kw_sc_token_new ("No such reader 00 00", atr, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
}

/* --- PIN --- */

static void
try_pin (KwToken *token, const char *pin, KwError expected)
{
  g_autoptr (KwSecret) secret = kw_secret_new_copy (pin, strlen (pin), NULL);
  g_autoptr (GError) error = NULL;

  g_assert_false (kw_token_login (token, secret, &error));
  g_assert_error (error, KW_ERROR, (gint) expected);
}

static gint
tries_left (KwToken *token)
{
  KwPinState state = { 0 };
  g_autoptr (GError) error = NULL;

  kw_token_get_pin_state (token, &state, &error);
  g_assert_no_error (error);
  return state.tries_left;
}

static void
test_wrong_pin_costs_one_try (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  KwPinState state = { 0 };

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open (f, 0);
  g_assert_cmpint (tries_left (token), ==, 3);
  try_pin (token, "12345", KW_ERROR_PIN_INVALID);
  try_pin (token, "1234567890123456", KW_ERROR_PIN_INVALID);
  g_assert_cmpint (tries_left (token), ==, 3);
  try_pin (token, "000000", KW_ERROR_PIN_REFUSED);
  g_assert_cmpint (tries_left (token), ==, 2);
  g_assert_true (kw_token_get_pin_state (token, &state, NULL));
  g_assert_true (state.count_low && !state.final_try && !state.locked && state.login_required
                 && state.initialized);
  sc_login (token, KW_CARD_RIG_PIN);
  g_assert_cmpint (tries_left (token), ==, 3);
}

/* Tries that went between the look at the counter and the login are noticed. */
static void
test_tries_that_fall_meanwhile (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autofree char *answer = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open (f, 0);
  g_assert_cmpint (tries_left (token), ==, 3);
  answer = kw_card_rig_transmit (f->rig, 0, VERIFY_WRONG_PIN, NULL);
  g_assert_cmpstr (answer, ==, "63C2");
  try_pin (token, KW_CARD_RIG_PIN, KW_ERROR_PIN_PROTECTED);
  g_assert_cmpint (tries_left (token), ==, 2);
  g_free (answer);
  answer = kw_card_rig_transmit (f->rig, 0, VERIFY_WRONG_PIN, NULL);
  g_assert_cmpstr (answer, ==, "63C1");
  try_pin (token, KW_CARD_RIG_PIN, KW_ERROR_PIN_PROTECTED);
  g_free (answer);
  answer = kw_card_rig_transmit (f->rig, 0, VERIFY_WRONG_PIN, NULL);
  try_pin (token, KW_CARD_RIG_PIN, KW_ERROR_PIN_PROTECTED);
  g_assert_cmpint (tries_left (token), ==, 0);
}

/* A renewal compares the counter with what it was: it is told although the card does not, while somebody is logged in. */
static void
test_tries_are_known_while_logged_in (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autofree char *answer = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  g_assert_cmpint (tries_left (token), ==, 3);
  g_free (kw_card_rig_transmit (f->rig, 0, SELECT_CARD, NULL));
  answer = kw_card_rig_transmit (f->rig, 0, VERIFY_WRONG_PIN, NULL);
  g_assert_cmpstr (answer, ==, "63C2");
  g_assert_cmpint (tries_left (token), ==, 2);
}

/* Shares that came later: the object does not tell them, so it goes, and no PIN is presented. */
static void
test_card_set_up_meanwhile (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (KwToken) again = NULL;

  skip_without_cards ();
  f = sc_fixture_new_blank (1, NULL);
  kw_card_rig_initialise (f->rig, 0, NULL, NULL, 1, "before", NULL);
  token = sc_fixture_open (f, 0);
  g_free (kw_card_rig_import_shares (f->rig, 0, 1, NULL));
  try_pin (token, KW_CARD_RIG_PIN, KW_ERROR_TOKEN_GONE);
  again = sc_fixture_open_and_login (f, 0);
  g_assert_nonnull (kw_token_get_info (again)->dkek_check_value);
  kw_card_rig_initialise (f->rig, 0, NULL, "999999", 1, "after", NULL);
  try_pin (again, KW_CARD_RIG_PIN, KW_ERROR_TOKEN_GONE);
  g_assert_cmpint (tries_left (again), ==, 3);
}

/* --- random --- */

static void
test_random (void)
{
  static const gsize sizes[] = { 0, 1, 8, 256, 257, 1024, 1025, 5000 };
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GHashTable) seen = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open (f, 0);
  seen = g_hash_table_new_full (g_bytes_hash, g_bytes_equal, (GDestroyNotify) g_bytes_unref, NULL);
  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autofree guint8 *data = g_malloc0 (sizes[i] + 1);
      g_autoptr (GError) error = NULL;

      kw_token_random (token, data, sizes[i], &error);
      g_assert_no_error (error);
      g_assert_cmpuint (data[sizes[i]], ==, 0);
      for (gsize at = 0; at + 8 <= sizes[i]; at += 8)
        g_assert_true (g_hash_table_add (seen, g_bytes_new (data + at, 8)));
    }
}

/* --- RSA --- */

static GBytes *
encrypt (const KwKey *key, const char *text, KwRsaPadding padding)
{
  gsize n_der = 0;
  const guint8 *der = g_bytes_get_data (kw_key_get_public_key_der (key), &n_der);
  g_autoptr (EVP_PKEY) public_key = d2i_PUBKEY (NULL, &der, (long) n_der);
  g_autoptr (EVP_PKEY_CTX) context = EVP_PKEY_CTX_new (public_key, NULL);
  gsize size = (gsize) EVP_PKEY_get_size (public_key);
  guint8 *output = g_malloc (size);

  g_assert_cmpint (EVP_PKEY_encrypt_init (context), ==, 1);
  if (padding == KW_RSA_PADDING_PKCS1)
    g_assert_cmpint (EVP_PKEY_CTX_set_rsa_padding (context, RSA_PKCS1_PADDING), ==, 1);
  else
    {
      g_assert_cmpint (EVP_PKEY_CTX_set_rsa_padding (context, RSA_PKCS1_OAEP_PADDING), ==, 1);
      g_assert_cmpint (EVP_PKEY_CTX_set_rsa_oaep_md (context, padding == KW_RSA_PADDING_OAEP_SHA1
                                                                  ? EVP_sha1 ()
                                                                  : EVP_sha256 ()),
                       ==, 1);
    }
  g_assert_cmpint (EVP_PKEY_encrypt (context, output, &size, (const guint8 *) text, strlen (text)),
                   ==, 1);
  return g_bytes_new_take (output, size);
}

static void
assert_decrypts (KwToken *token, const KwKey *key)
{
  static const KwRsaPadding paddings[]
      = { KW_RSA_PADDING_PKCS1, KW_RSA_PADDING_OAEP_SHA1, KW_RSA_PADDING_OAEP_SHA256 };

  for (gsize i = 0; i < G_N_ELEMENTS (paddings); i++)
    {
      g_autoptr (GBytes) ciphertext = encrypt (key, "a secret", paddings[i]);
      g_autoptr (GError) error = NULL;
      g_autoptr (KwSecret) plaintext
          = kw_token_rsa_decrypt (token, kw_key_get_id (key), paddings[i], ciphertext, &error);

      g_assert_no_error (error);
      g_assert_true (kw_secret_equal (plaintext, "a secret", 8));
    }
}

static void
assert_signs (KwToken *token, const KwKey *key)
{
  guint8 digest[32];
  g_autoptr (GBytes) input = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) signature = NULL;
  gsize n_der = 0;
  const guint8 *der = g_bytes_get_data (kw_key_get_public_key_der (key), &n_der);
  g_autoptr (EVP_PKEY) public_key = d2i_PUBKEY (NULL, &der, (long) n_der);
  g_autoptr (EVP_PKEY_CTX) context = EVP_PKEY_CTX_new (public_key, NULL);

  fill (digest, sizeof digest);
  input = g_bytes_new (digest, sizeof digest);
  signature = kw_token_sign (token, kw_key_get_id (key), input, &error);
  g_assert_no_error (error);
  g_assert_cmpint (EVP_PKEY_verify_init (context), ==, 1);
  if (kw_key_get_kind (key) == KW_KEY_KIND_RSA)
    {
      g_assert_cmpint (EVP_PKEY_CTX_set_rsa_padding (context, RSA_PKCS1_PADDING), ==, 1);
      g_assert_cmpint (EVP_PKEY_CTX_set_signature_md (context, EVP_sha256 ()), ==, 1);
    }
  g_assert_cmpint (EVP_PKEY_verify (context, g_bytes_get_data (signature, NULL),
                                    g_bytes_get_size (signature), digest, sizeof digest),
                   ==, 1);
}

static void
test_rsa (void)
{
  static const guint bits[] = { 2048, 3072, 4096 };
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GPtrArray) keys = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  for (guint i = 0; i < G_N_ELEMENTS (bits); i++)
    {
      g_autoptr (GBytes) id = sc_id ((guint8) (0x10 + i));
      g_autoptr (GError) error = NULL;
      g_autoptr (KwKey) key = kw_token_generate_rsa (token, bits[i], id, "rsa", &error);

      g_assert_no_error (error);
      g_assert_cmpuint (kw_key_get_bits (key), ==, bits[i]);
      g_assert_cmpuint (kw_key_get_reference (key), ==, i + 1);
      g_assert_true (g_bytes_equal (kw_key_get_id (key), id));
      g_assert_cmpstr (kw_key_get_label (key), ==, "rsa");
      g_assert_nonnull (kw_key_get_fingerprint (key));
      assert_decrypts (token, key);
      assert_signs (token, key);
    }
  keys = kw_token_list_keys (token, NULL);
  g_assert_cmpuint (keys->len, ==, 3);
}

static void
test_bad_ciphertext (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) id = sc_id (0x10);
  g_autoptr (GBytes) wrong_id = sc_id (0x11);
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GBytes) good = NULL;
  guint8 bytes[256];
  g_autoptr (GError) error = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  key = kw_token_generate_rsa (token, 2048, id, "rsa", NULL);
  good = encrypt (key, "x", KW_RSA_PADDING_PKCS1);
  for (gsize i = 0; i < 4; i++)
    {
      g_autoptr (GBytes) bad = NULL;

      memset (bytes, i == 0 ? 0xFF : 0x42,
              sizeof bytes); /* not less than the modulus; bad padding */
      bad = g_bytes_new (bytes, i == 2 ? 255 : i == 3 ? 128 : 256);
      g_assert_null (kw_token_rsa_decrypt (token, id, KW_RSA_PADDING_PKCS1, bad, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_DECRYPT_FAILED);
      g_clear_error (&error);
    }
  g_assert_null (kw_token_rsa_decrypt (token, id, KW_RSA_PADDING_OAEP_SHA1, good, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_DECRYPT_FAILED);
  g_clear_error (&error);
  g_assert_null (kw_token_rsa_decrypt (token, wrong_id, KW_RSA_PADDING_PKCS1, good, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND);
  assert_decrypts (token, key);
}

static void
test_keys_of_opensc (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GPtrArray) keys = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  kw_card_rig_generate_rsa (f->rig, 0, 2048, "10", "rsa one", NULL);
  kw_card_rig_generate_ec (f->rig, 0, "prime256v1", "20", "ec one", NULL);
  kw_card_rig_generate_ec (f->rig, 0, "brainpoolP256r1", "21", "ec two", NULL);
  kw_card_rig_generate_aes (f->rig, 0, 9, 192, NULL, "aes one", NULL);
  token = sc_fixture_open_and_login (f, 0);
  keys = kw_token_list_keys (token, NULL);
  g_assert_cmpuint (keys->len, ==, 4);
  g_assert_cmpstr (kw_key_get_label (g_ptr_array_index (keys, 0)), ==, "rsa one");
  g_assert_cmpuint (kw_key_get_bits (g_ptr_array_index (keys, 0)), ==, 2048);
  assert_decrypts (token, g_ptr_array_index (keys, 0));
  for (guint i = 0; i < 3; i++)
    assert_signs (token, g_ptr_array_index (keys, i));
  g_assert_cmpint (kw_key_get_kind (g_ptr_array_index (keys, 1)), ==, KW_KEY_KIND_EC);
  g_assert_cmpstr (kw_key_get_label (g_ptr_array_index (keys, 3)), ==, "aes one");
  g_assert_cmpuint (kw_key_get_bits (g_ptr_array_index (keys, 3)), ==, 192);
  g_assert_cmpuint (kw_key_get_reference (g_ptr_array_index (keys, 3)), ==, 9);
}

/* OpenSC lists what was made here, and a signature by its means is good. */
static void
test_opensc_lists_ours (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) id = NULL;
  static const guint8 uuid[16] = { 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                                   0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF };
  g_autofree char *dump = NULL;
  g_autofree char *objects = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  id = g_bytes_new (uuid, sizeof uuid);
  {
    g_autoptr (GError) error = NULL;
    g_autoptr (KwKey) key G_GNUC_UNUSED
        = kw_token_generate_rsa (token, 2048, id, "made by keyward", &error);

    g_assert_no_error (error);
  }
  sc_run_ok (f, &dump, "pkcs15-tool", "--reader", kw_card_rig_get_reader (f->rig, 0), "-D", NULL);
  g_assert_nonnull (strstr (dump, "Private RSA Key [made by keyward]"));
  g_assert_nonnull (strstr (dump, "00112233445566778899aabbccddeeff"));
  g_assert_nonnull (strstr (dump, "ModLength      : 2048"));
  sc_run_ok (f, &objects, "pkcs11-tool", "--slot-description", kw_card_rig_get_reader (f->rig, 0),
             "--login", "--pin", KW_CARD_RIG_PIN, "-O", NULL);
  g_assert_nonnull (strstr (objects, "Private Key Object; RSA"));
  g_assert_nonnull (strstr (objects, "Public Key Object; RSA 2048 bits"));
  g_assert_nonnull (strstr (objects, "made by keyward"));
  sc_run_ok (f, NULL, "pkcs11-tool", "--slot-description", kw_card_rig_get_reader (f->rig, 0),
             "--login", "--pin", KW_CARD_RIG_PIN, "--sign", "--mechanism", "SHA256-RSA-PKCS",
             "--id", "00112233445566778899aabbccddeeff", "--input-file", "/etc/hostname",
             "--output-file", "/dev/null", NULL);
}

/* --- AES --- */

static void
aes_by_libcrypto (const guint8 *key,
                  const guint8 *iv,
                  const guint8 *data,
                  gsize size,
                  guint8 *out_data)
{
  g_autoptr (EVP_CIPHER_CTX) context = EVP_CIPHER_CTX_new ();
  int n = 0;

  g_assert_cmpint (EVP_EncryptInit_ex (context, EVP_aes_256_cbc (), NULL, key, iv), ==, 1);
  g_assert_cmpint (EVP_CIPHER_CTX_set_padding (context, 0), ==, 1);
  g_assert_cmpint (EVP_EncryptUpdate (context, out_data, &n, data, (int) size), ==, 1);
  g_assert_cmpint (n, ==, size);
}

static void
assert_aes_is (KwToken *token, GBytes *id, const guint8 *key, gsize size, const guint8 *iv)
{
  g_autofree guint8 *data = g_malloc (size);
  g_autofree guint8 *expected = g_malloc (size);
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) ciphertext = NULL;
  g_autoptr (KwSecret) plaintext = NULL;

  fill (data, size);
  aes_by_libcrypto (key, iv, data, size, expected);
  ciphertext = kw_token_aes_cbc (token, id, TRUE, iv, data, size, &error);
  g_assert_no_error (error);
  g_assert_cmpmem (kw_secret_get_data (ciphertext), kw_secret_get_size (ciphertext), expected,
                   size);
  plaintext = kw_token_aes_cbc (token, id, FALSE, iv, expected, size, &error);
  g_assert_no_error (error);
  g_assert_true (kw_secret_equal (plaintext, data, size));
}

/*
 * A key that libcrypto has too: the bytes 00…1f, wrapped with the DKEK of two shares; the card gets these shares by APDU.
 */
#define SHARE_1 "8235d242ebb8ca168aaded9a9ca8850538235ef262d3df83323ac9f9440db8d4"
#define SHARE_2 "881deacd8c31ec48966e5eb7948a35582937849d373273bec12a52fe5e1c6170"
#define KNOWN_AES                                                                                  \
  "c8669cf006d8f0fa0f00086086480165030401000000000000cbb2ffe16ae7b8c3927d9646ff33ae744a114995f6f0" \
  "9bcba150dec03e06d7fc23dce5d7d0de5c4d0a856afeb8e4adeafb992794a00b72c1d6298174e07948b9"
#define KNOWN_DESCRIPTION                                                                          \
  "A82630090C076165732072617730080401440303"                                                       \
  "07C010A006300402020100A10630043002"                                                             \
  "0400"

static ScFixture *
fixture_new_with_known_key (void)
{
  ScFixture *f = sc_fixture_new_blank (1, NULL);
  g_autoptr (KwCardSession) session = NULL;
  g_autofree char *answer = NULL;

  kw_card_rig_initialise (f->rig, 0, NULL, NULL, 2, "known", NULL);
  session = kw_card_session_new (f->rig, 0, NULL);
  g_free (kw_card_session_transmit_hex (session, "8052000020" SHARE_1 "00", NULL));
  g_free (kw_card_session_transmit_hex (session, "8052000020" SHARE_2 "00", NULL));
  g_free (kw_card_session_transmit_hex (session, "0020008106363438323139", NULL));
  answer = kw_card_session_transmit_hex (session, "8074059359" KNOWN_AES, NULL);
  g_assert_cmpstr (answer, ==, "9000");
  return f;
}

static void
test_aes_beside_libcrypto (void)
{
  static const gsize sizes[]
      = { 16, 32, 48, 992, 1008, 1024, 1040, 2000, 2016, 2032, 2048, 3024, 4096, 4992, 5008 };
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) id = sc_id (5);
  guint8 key[32];
  guint8 ivs[3][16] = { { 0 } };

  skip_without_cards ();
  f = fixture_new_with_known_key ();
  token = sc_fixture_open_and_login (f, 0);
  for (guint i = 0; i < sizeof key; i++)
    key[i] = (guint8) i;
  memset (ivs[1], 0xFF, 16);
  fill (ivs[2], 16);
  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      for (gsize j = 0; j < G_N_ELEMENTS (ivs); j++)
        assert_aes_is (token, id, key, sizes[i], ivs[j]);
    }
}

/* The key in it was put there without a description; it is known by its number, and its size is not. */
static void
test_key_without_description (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GPtrArray) keys = NULL;
  g_autoptr (GBytes) wrapped = NULL;
  g_autoptr (GBytes) id = sc_id (5);
  g_autoptr (GError) error = NULL;

  skip_without_cards ();
  f = fixture_new_with_known_key ();
  token = sc_fixture_open_and_login (f, 0);
  keys = kw_token_list_keys (token, NULL);
  g_assert_cmpuint (keys->len, ==, 1);
  g_assert_cmpint (kw_key_get_kind (g_ptr_array_index (keys, 0)), ==, KW_KEY_KIND_AES);
  g_assert_true (g_bytes_equal (kw_key_get_id (g_ptr_array_index (keys, 0)), id));
  g_assert_cmpstr (kw_key_get_label (g_ptr_array_index (keys, 0)), ==, "");
  wrapped = kw_token_export_key (token, KW_KEY_KIND_AES, id, &error);
  g_assert_no_error (error);
  g_assert_true (kw_token_delete_key (token, KW_KEY_KIND_AES, id, NULL));
  {
    g_autoptr (KwKey) key = kw_token_import_key (token, wrapped, &error);

    g_assert_no_error (error);
    g_assert_cmpuint (kw_key_get_bits (key), ==, 256);
    g_assert_true (g_bytes_equal (kw_key_get_id (key), id));
  }
}

static void
test_aes_generate (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autofree char *listing = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  for (guint i = 0; i < 3; i++)
    {
      g_autoptr (GBytes) id = sc_id ((guint8) (0x40 + i));
      g_autoptr (GError) error = NULL;
      g_autoptr (KwKey) key = kw_token_generate_aes (token, 128 + 64 * i, id, "aes", &error);
      guint8 iv[16] = { 1 };
      guint8 data[64] = { 2 };
      g_autoptr (KwSecret) ciphertext = NULL;
      g_autoptr (KwSecret) plaintext = NULL;

      g_assert_no_error (error);
      g_assert_cmpuint (kw_key_get_bits (key), ==, 128 + 64 * i);
      g_assert_false (kw_key_is_weak (key));
      g_assert_true ((kw_key_get_usage (key) & KW_KEY_USAGE_WRAP) != 0);
      ciphertext = kw_token_aes_cbc (token, id, TRUE, iv, data, sizeof data, &error);
      g_assert_no_error (error);
      plaintext = kw_token_aes_cbc (token, id, FALSE, iv, kw_secret_get_data (ciphertext),
                                    sizeof data, &error);
      g_assert_no_error (error);
      g_assert_true (kw_secret_equal (plaintext, data, sizeof data));
    }
  listing = sc_enumerate (f, 0);
  g_assert_nonnull (strstr (listing, "CC03"));
  g_assert_nonnull (strstr (listing, "C403"));
}

static void
test_aes_not_permitted (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) id = sc_id (3);
  g_autoptr (GBytes) decrypt_id = sc_id (4);
  g_autoptr (GError) error = NULL;
  guint8 block[16] = { 0 };
  g_autoptr (KwSecret) plaintext = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  kw_card_rig_generate_aes (f->rig, 0, 3, 256, "18", "only MACs", NULL);
  kw_card_rig_generate_aes (f->rig, 0, 4, 256, "11", "only decrypts", NULL);
  token = sc_fixture_open_and_login (f, 0);
  g_assert_null (kw_token_aes_cbc (token, id, TRUE, block, block, 16, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED);
  g_clear_error (&error);
  g_assert_null (kw_token_export_key (token, KW_KEY_KIND_AES, id, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED);
  g_clear_error (&error);
  g_assert_null (kw_token_aes_cbc (token, decrypt_id, TRUE, block, block, 16, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED);
  g_clear_error (&error);
  plaintext = kw_token_aes_cbc (token, decrypt_id, FALSE, block, block, 16, &error);
  g_assert_no_error (error);
}

static void
test_weak_firmware (void)
{
  static const char *const versions[] = { "3.1", "3.2", "3.0", "3.3" };

  skip_without_cards ();
  for (gsize i = 0; i < G_N_ELEMENTS (versions); i++)
    {
      const char *const options[] = { "--version", versions[i], NULL };
      gboolean weak = i < 2;
      g_autoptr (ScFixture) f = sc_fixture_new (1, options);
      g_autoptr (KwToken) token = NULL;
      g_autoptr (GBytes) id = sc_id (0x40);
      g_autoptr (GError) error = NULL;
      g_autoptr (GPtrArray) keys = NULL;
      g_autoptr (KwKey) key = NULL;

      kw_card_rig_generate_aes (f->rig, 0, 1, 256, NULL, "aes", NULL);
      token = sc_fixture_open_and_login (f, 0);
      g_assert_cmpstr (kw_token_get_info (token)->firmware, ==, versions[i]);
      keys = kw_token_list_keys (token, NULL);
      g_assert_true (kw_key_is_weak (g_ptr_array_index (keys, 0)) == weak);
      key = kw_token_generate_aes (token, 256, id, "aes", &error);
      g_assert_true ((key == NULL) == weak);
      if (weak)
        g_assert_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED);
    }
}

/* Somebody puts another key under the number, with the same description: it does not pass for the one before. */
static void
test_replaced_keys_are_noticed (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) aes_id = sc_id (0x40);
  g_autoptr (GBytes) rsa_id = sc_id (0x10);
  g_autoptr (KwKey) aes = NULL;
  g_autoptr (KwKey) rsa = NULL;
  g_autoptr (GBytes) ciphertext = NULL;
  g_autoptr (GError) error = NULL;
  guint8 block[32] = { 0 };

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  aes = kw_token_generate_aes (token, 256, aes_id, "aes", NULL);
  rsa = kw_token_generate_rsa (token, 2048, rsa_id, "rsa", NULL);
  ciphertext = encrypt (rsa, "x", KW_RSA_PADDING_PKCS1);
  /* A new modulus that is less than the ciphertext: the card does not even begin. */
  g_free (kw_card_rig_control (f->rig, 0, "fault ins=62,sw=6A80,count=1", NULL));
  g_assert_null (kw_token_rsa_decrypt (token, rsa_id, KW_RSA_PADDING_PKCS1, ciphertext, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
  g_clear_error (&error);
  /* On our own login, without a SELECT. */
  g_free (kw_card_rig_transmit (f->rig, 0, "004801B20791051011189293", NULL));
  g_assert_null (kw_token_aes_cbc (token, aes_id, TRUE, block, block, 32, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
  g_clear_error (&error);
  g_assert_null (kw_token_aes_cbc (token, aes_id, FALSE, block, block, 32, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
  g_clear_error (&error);
  g_free (kw_card_rig_transmit (f->rig, 0,
                                "00460200000037"
                                "5F290100"
                                "4209555443413030303031"
                                "7F4915060A04007F00070202020102"
                                "8203010001"
                                "02020800"
                                "5F200D56545445535430313030303031"
                                "0000",
                                NULL));
  g_assert_null (kw_token_rsa_decrypt (token, rsa_id, KW_RSA_PADDING_PKCS1, ciphertext, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
  g_clear_error (&error);
  /* And one that is gone. */
  g_free (kw_card_rig_transmit (f->rig, 0, "00E4020002CC01", NULL));
  g_assert_null (kw_token_aes_cbc (token, aes_id, TRUE, block, block, 32, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
}

/* --- what lasts --- */

static void
test_never_over_a_key (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) id = sc_id (0x40);
  g_autoptr (GBytes) other_id = sc_id (0x41);
  g_autoptr (KwKey) key = NULL;
  g_autoptr (KwKey) other = NULL;
  g_autoptr (GBytes) wrapped = NULL;
  g_autofree char *before = NULL;
  g_autofree char *after = NULL;
  g_autoptr (GError) error = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  key = kw_token_generate_aes (token, 256, id, "aes", NULL);
  wrapped = kw_token_export_key (token, KW_KEY_KIND_AES, id, NULL);
  before = sc_enumerate (f, 0);
  g_assert_null (kw_token_generate_aes (token, 256, id, "aes", &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_EXISTS);
  g_clear_error (&error);
  g_assert_null (kw_token_generate_rsa (token, 2048, id, "rsa", &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_EXISTS);
  g_clear_error (&error);
  g_assert_null (kw_token_import_key (token, wrapped, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_EXISTS);
  after = sc_enumerate (f, 0);
  g_assert_cmpstr (before, ==, after);
  /* A description or certificate without a key keeps its number occupied. */
  g_free (kw_card_rig_transmit (f->rig, 0,
                                "00D7C402075402000053"
                                "0141",
                                NULL));
  g_free (kw_card_rig_transmit (f->rig, 0,
                                "00D7CE03075402000053"
                                "0141",
                                NULL));
  other = kw_token_generate_aes (token, 256, other_id, "aes", NULL);
  g_assert_cmpuint (kw_key_get_reference (other), ==, 4);
}

static void
test_delete (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) id = sc_id (0x10);
  g_autoptr (KwKey) key = NULL;
  g_autofree char *listing = NULL;
  g_autoptr (GError) error = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  key = kw_token_generate_rsa (token, 2048, id, "rsa", NULL);
  g_assert_false (kw_token_delete_key (token, KW_KEY_KIND_AES, id, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND);
  g_clear_error (&error);
  g_assert_true (kw_token_delete_key (token, KW_KEY_KIND_RSA, id, &error));
  g_assert_no_error (error);
  listing = sc_enumerate (f, 0);
  g_assert_cmpstr (listing, ==, "CC009000");
  g_assert_null (kw_token_find_key (token, KW_KEY_KIND_RSA, id, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND);
}

static void
clone_and_compare (ScFixture *f, KwKeyKind kind, guint bits)
{
  g_autoptr (KwToken) from = sc_fixture_open_and_login (f, 0);
  g_autoptr (KwToken) to = sc_fixture_open_and_login (f, 1);
  g_autoptr (GBytes) id = sc_id ((guint8) (bits / 64 + kind));
  g_autoptr (GError) error = NULL;
  g_autoptr (KwKey) key = kind == KW_KEY_KIND_RSA
                              ? kw_token_generate_rsa (from, bits, id, "travels", &error)
                              : kw_token_generate_aes (from, bits, id, "travels", &error);
  g_autoptr (GBytes) wrapped = NULL;
  g_autoptr (KwKey) copy = NULL;

  g_assert_no_error (error);
  wrapped = kw_token_export_key (from, kind, id, &error);
  g_assert_no_error (error);
  copy = kw_token_import_key (to, wrapped, &error);
  g_assert_no_error (error);
  g_assert_cmpint (kw_key_get_kind (copy), ==, kind);
  g_assert_cmpuint (kw_key_get_bits (copy), ==, bits);
  g_assert_cmpstr (kw_key_get_label (copy), ==, "travels");
  g_assert_true (g_bytes_equal (kw_key_get_id (copy), id));
  g_assert_cmpstr (kw_key_get_fingerprint (copy), ==, kw_key_get_fingerprint (key));
  if (kind == KW_KEY_KIND_RSA)
    assert_decrypts (to, key);
  else
    {
      guint8 block[16] = { 0 };
      g_autoptr (KwSecret) a = kw_token_aes_cbc (from, id, TRUE, block, block, 16, &error);
      g_autoptr (KwSecret) b = kw_token_aes_cbc (to, id, TRUE, block, block, 16, &error);

      g_assert_no_error (error);
      g_assert_true (kw_secret_equal (a, kw_secret_get_data (b), 16));
    }
}

static void
test_clone (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autofree char *listing = NULL;

  skip_without_cards ();
  f = sc_fixture_new (2, NULL);
  clone_and_compare (f, KW_KEY_KIND_RSA, 2048);
  clone_and_compare (f, KW_KEY_KIND_AES, 256);
  /* Its blob takes more than one command. */
  clone_and_compare (f, KW_KEY_KIND_RSA, 4096);
  listing = sc_enumerate (f, 1);
  g_assert_null (strstr (listing, "2F10"));
}

static void
test_clone_by_sc_hsm_tool (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) from = NULL;
  g_autoptr (KwToken) to = NULL;
  g_autoptr (GBytes) id = sc_id (0x40);
  g_autoptr (GBytes) rsa_id = sc_id (0x10);
  g_autoptr (GError) error = NULL;
  g_autofree char *path = NULL;
  g_autofree char *output = NULL;
  guint8 block[16] = { 0 };

  skip_without_cards ();
  f = sc_fixture_new (2, NULL);
  path = g_build_filename (kw_card_rig_get_directory (f->rig), "wrapped", NULL);
  from = sc_fixture_open_and_login (f, 0);
  to = sc_fixture_open_and_login (f, 1);
  {
    g_autoptr (KwKey) key G_GNUC_UNUSED = kw_token_generate_aes (from, 256, id, "aes", &error);
    g_autoptr (KwKey) rsa G_GNUC_UNUSED = kw_token_generate_rsa (from, 2048, rsa_id, "rsa", &error);
    g_autoptr (GBytes) wrapped = kw_token_export_key (from, KW_KEY_KIND_AES, id, &error);

    g_assert_no_error (error);
    g_assert_true (g_file_set_contents (path, g_bytes_get_data (wrapped, NULL),
                                        (gssize) g_bytes_get_size (wrapped), NULL));
  }
  /* Ours, taken by the tool. */
  sc_run_ok (f, &output, "sc-hsm-tool", "--reader", kw_card_rig_get_reader (f->rig, 1),
             "--unwrap-key", path, "--key-reference", "7", "--pin", KW_CARD_RIG_PIN, NULL);
  sc_login (to, KW_CARD_RIG_PIN);
  {
    g_autoptr (KwKey) key = kw_token_find_key (to, KW_KEY_KIND_AES, id, &error);
    g_autoptr (KwSecret) a = NULL;
    g_autoptr (KwSecret) b = NULL;

    g_assert_no_error (error);
    g_assert_cmpuint (kw_key_get_reference (key), ==, 7);
    b = kw_token_aes_cbc (to, id, TRUE, block, block, 16, &error);
    g_assert_no_error (error);
    a = kw_token_aes_cbc (from, id, TRUE, block, block, 16, &error);
    g_assert_no_error (error);
    g_assert_true (kw_secret_equal (a, kw_secret_get_data (b), 16));
  }
  /* The tool's, taken by us. */
  g_free (output);
  output = NULL;
  sc_run_ok (f, &output, "sc-hsm-tool", "--reader", kw_card_rig_get_reader (f->rig, 0),
             "--wrap-key", path, "--key-reference", "2", "--pin", KW_CARD_RIG_PIN, NULL);
  {
    g_autofree char *data = NULL;
    gsize size = 0;
    g_autoptr (GBytes) wrapped = NULL;
    g_autoptr (KwKey) key = NULL;

    g_assert_true (g_file_get_contents (path, &data, &size, NULL));
    wrapped = g_bytes_new (data, size);
    key = kw_token_import_key (to, wrapped, &error);
    g_assert_no_error (error);
    g_assert_cmpstr (kw_key_get_label (key), ==, "rsa");
    g_assert_cmpuint (kw_key_get_reference (key), ==, 8); /* after 7, the last */
    assert_decrypts (to, key);
  }
}

static void
test_import_refuses (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) from = NULL;
  g_autoptr (KwToken) to = NULL;
  g_autoptr (KwToken) without = NULL;
  g_autoptr (GBytes) id = sc_id (0x40);
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GBytes) wrapped = NULL;
  g_autofree guint8 *copy = NULL;
  gsize size = 0;

  skip_without_cards ();
  f = sc_fixture_new_blank (3, NULL);
  kw_card_rig_initialise (f->rig, 0, NULL, NULL, 2, "from", NULL);
  kw_card_rig_initialise (f->rig, 1, NULL, NULL, 1, "other DKEK", NULL);
  kw_card_rig_initialise (f->rig, 2, NULL, NULL, -1, "no DKEK", NULL);
  g_free (kw_card_rig_import_shares (f->rig, 0, 2, NULL));
  from = sc_fixture_open_and_login (f, 0);
  to = sc_fixture_open_and_login (f, 1);
  without = sc_fixture_open_and_login (f, 2);
  key = kw_token_generate_aes (from, 256, id, "aes", NULL);
  wrapped = kw_token_export_key (from, KW_KEY_KIND_AES, id, NULL);
  copy = g_memdup2 (g_bytes_get_data (wrapped, &size), g_bytes_get_size (wrapped));
  size = g_bytes_get_size (wrapped);
  {
    g_autoptr (GError) error = NULL;

    /* Shares are missing; then it has another DKEK. */
    g_assert_null (kw_token_import_key (to, wrapped, &error));
    g_assert_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED);
    g_clear_error (&error);
    g_free (kw_card_rig_import_shares (f->rig, 1, 1, NULL));
    g_assert_null (kw_token_import_key (to, wrapped, &error));
    g_assert_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED);
    g_clear_error (&error);
    g_assert_null (kw_token_import_key (without, wrapped, &error));
    g_assert_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED);
    g_clear_error (&error);
    g_assert_true (kw_token_delete_key (from, KW_KEY_KIND_AES, id, &error));
  }
  /* Any byte of the blob behind the check value turned over. */
  for (gsize i = 5 + 8; i < 5 + 89; i += 5)
    {
      g_autoptr (GBytes) bad = NULL;
      g_autoptr (GError) error = NULL;
      g_autofree char *listing = NULL;

      copy[i] ^= 0x01;
      bad = g_bytes_new (copy, size);
      copy[i] ^= 0x01;
      g_assert_null (kw_token_import_key (from, bad, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
      listing = sc_enumerate (f, 0);
      g_assert_cmpstr (listing, ==, "CC009000");
    }
  {
    g_autoptr (GError) error = NULL;
    g_autoptr (KwKey) back = kw_token_import_key (from, wrapped, &error);

    g_assert_no_error (error);
    g_assert_nonnull (back);
  }
}

/* Whatever fails half-way, nothing is left of the key. */
static void
test_nothing_left_after_failure (void)
{
  static const char *const faults[] = {
    "fault ins=D7,sw=6A84", "fault ins=D7,sw=6F00", "fault ins=48,sw=6A84",
    "fault ins=46,sw=6A84", "fault ins=74,sw=6A84", "fault ins=D7,sw=6700,skip=1",
  };
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) id = sc_id (0x40);
  g_autoptr (GBytes) rsa_id = sc_id (0x10);
  g_autoptr (GBytes) wrapped = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  {
    g_autoptr (KwKey) rsa G_GNUC_UNUSED = kw_token_generate_rsa (token, 2048, rsa_id, "rsa", NULL);

    wrapped = kw_token_export_key (token, KW_KEY_KIND_RSA, rsa_id, NULL);
    g_assert_true (kw_token_delete_key (token, KW_KEY_KIND_RSA, rsa_id, NULL));
  }
  for (gsize i = 0; i < G_N_ELEMENTS (faults); i++)
    {
      for (guint what = 0; what < 3; what++)
        {
          g_autoptr (GError) error = NULL;
          g_autoptr (KwKey) key = NULL;
          g_autofree char *listing = NULL;

          g_free (kw_card_rig_control (f->rig, 0, faults[i], NULL));
          if (what == 0)
            key = kw_token_generate_aes (token, 256, id, "aes", &error);
          else if (what == 1)
            key = kw_token_generate_rsa (token, 2048, rsa_id, "rsa", &error);
          else
            key = kw_token_import_key (token, wrapped, &error);
          g_free (kw_card_rig_control (f->rig, 0, "fault clear", NULL));
          if (key != NULL)
            g_assert_true (
                kw_token_delete_key (token, kw_key_get_kind (key), kw_key_get_id (key), NULL));
          else
            g_assert_nonnull (error);
          listing = sc_enumerate (f, 0);
          g_assert_cmpstr (listing, ==, "CC009000");
        }
    }
}

static void
test_memory_full (void)
{
  static const char *const options[] = { "--memory", "6000", NULL };
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) keys = NULL;
  guint n_made = 0;

  skip_without_cards ();
  f = sc_fixture_new (1, options);
  token = sc_fixture_open_and_login (f, 0);
  for (guint i = 0; i < 20 && error == NULL; i++)
    {
      g_autoptr (GBytes) id = sc_id ((guint8) (0x10 + i));
      g_autoptr (KwKey) key = kw_token_generate_rsa (token, 2048, id, "rsa", &error);

      n_made += key != NULL;
    }
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_FULL);
  g_assert_cmpuint (n_made, >, 0);
  keys = kw_token_list_keys (token, NULL);
  g_assert_cmpuint (keys->len, ==, n_made);
}

/* --- other programs, and cards that fail --- */

static void
test_logout_by_others (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) id = sc_id (0x40);
  g_autoptr (KwKey) key = NULL;
  g_autoptr (KwSecret) first = NULL;
  g_autoptr (KwSecret) output = NULL;
  g_autoptr (GError) error = NULL;
  guint8 block[16] = { 0 };

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  key = kw_token_generate_aes (token, 256, id, "aes", NULL);
  first = kw_token_aes_cbc (token, id, TRUE, block, block, 16, NULL);
  g_free (kw_card_rig_transmit (f->rig, 0, SELECT_CARD, NULL));
  g_assert_null (kw_token_aes_cbc (token, id, TRUE, block, block, 16, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_LOGGED_IN);
  g_clear_error (&error);
  sc_login (token, KW_CARD_RIG_PIN);
  output = kw_token_aes_cbc (token, id, TRUE, block, block, 16, &error);
  g_assert_no_error (error);
  g_assert_true (kw_secret_equal (output, kw_secret_get_data (first), 16));
}

static void
reset_and_use (const char *const *options, const char *how)
{
  g_autoptr (ScFixture) f = sc_fixture_new (1, options);
  g_autoptr (KwToken) token = sc_fixture_open_and_login (f, 0);
  g_autoptr (GBytes) id = sc_id (0x40);
  g_autoptr (KwKey) key G_GNUC_UNUSED = kw_token_generate_aes (token, 256, id, "aes", NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) output = NULL;
  guint8 block[16] = { 0 };

  sc_run_ok (f, NULL, "opensc-tool", "--reader", kw_card_rig_get_reader (f->rig, 0), how, NULL);
  g_assert_null (kw_token_aes_cbc (token, id, TRUE, block, block, 16, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_LOGGED_IN);
  g_clear_error (&error);
  sc_login (token, KW_CARD_RIG_PIN);
  output = kw_token_aes_cbc (token, id, TRUE, block, block, 16, &error);
  g_assert_no_error (error);
}

/* Also with cards that forget which applet is selected. */
static void
test_reset_by_others (void)
{
  static const char *const forgetful[] = { "--no-implicit-select", NULL };

  skip_without_cards ();
  reset_and_use (NULL, "--reset=warm");
  reset_and_use (NULL, "--reset=cold");
  reset_and_use (forgetful, "--reset=warm");
  reset_and_use (forgetful, "--reset=cold");
}

/* From a login on nobody comes between until the call that it was made for is through. */
static void
test_login_is_kept_for_a_call (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) id = sc_id (0x40);
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GSubprocessLauncher) launcher = NULL;
  g_auto (GStrv) environment = NULL;
  g_autoptr (GSubprocess) rival = NULL;
  g_autoptr (GError) error = NULL;
  guint n_lost = 0;
  guint8 block[16] = { 0 };
  gint64 until = 0;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  key = kw_token_generate_aes (token, 256, id, "aes", NULL);
  launcher = g_subprocess_launcher_new (G_SUBPROCESS_FLAGS_STDOUT_SILENCE
                                        | G_SUBPROCESS_FLAGS_STDERR_SILENCE);
  environment = kw_card_rig_dup_environment (f->rig);
  g_subprocess_launcher_set_environ (launcher, environment);
  rival = g_subprocess_launcher_spawn (launcher, &error, "sh", "-c",
                                       "while :; do opensc-tool --reader \"$0\" --name; done",
                                       kw_card_rig_get_reader (f->rig, 0), NULL);
  g_assert_no_error (error);
  until = g_get_monotonic_time () + 3 * G_TIME_SPAN_SECOND;
  while (g_get_monotonic_time () < until)
    {
      g_autoptr (KwSecret) output = kw_token_aes_cbc (token, id, TRUE, block, block, 16, &error);

      if (output != NULL)
        continue;
      g_assert_error (error, KW_ERROR, KW_ERROR_NOT_LOGGED_IN);
      g_clear_error (&error);
      n_lost++;
      sc_login (token, KW_CARD_RIG_PIN);
      output = kw_token_aes_cbc (token, id, TRUE, block, block, 16, &error);
      g_assert_no_error (error);
    }
  g_subprocess_force_exit (rival);
  g_subprocess_wait (rival, NULL, NULL);
  g_test_message ("the login was lost %u times", n_lost);
  g_assert_cmpuint (n_lost, >, 0);
}

/* A login that nothing follows keeps the card from others for a moment only. */
static void
test_login_is_let_go (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  gint64 start = 0;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  start = g_get_monotonic_time ();
  sc_run_ok (f, NULL, "opensc-tool", "--reader", kw_card_rig_get_reader (f->rig, 0), "--name",
             NULL);
  g_assert_cmpint (g_get_monotonic_time () - start, <, 20 * G_TIME_SPAN_SECOND);
  sc_login (token, KW_CARD_RIG_PIN);
  kw_token_close (token);
  sc_run_ok (f, NULL, "opensc-tool", "--reader", kw_card_rig_get_reader (f->rig, 0), "--name",
             NULL);
}

static void
test_pulled_in_the_middle (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) id = sc_id (0x40);
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GError) error = NULL;
  guint8 data[4096] = { 0 };

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  key = kw_token_generate_aes (token, 256, id, "aes", NULL);
  g_free (kw_card_rig_control (f->rig, 0, "drop-after 2", NULL));
  g_assert_null (kw_token_aes_cbc (token, id, TRUE, data, data, sizeof data, &error));
  g_assert_true (kw_error_is_device_trouble (error));
  g_clear_error (&error);
  /* The object stays dead, also when the card is back. */
  g_assert_true (kw_card_rig_wait_for_card (f->rig, 0, FALSE, 5000, NULL));
  kw_card_rig_insert (f->rig, 0, NULL);
  g_assert_true (kw_card_rig_wait_for_card (f->rig, 0, TRUE, 5000, NULL));
  g_assert_null (kw_token_aes_cbc (token, id, TRUE, data, data, 16, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
  g_clear_error (&error);
  g_object_unref (token);
  token = sc_fixture_open_and_login (f, 0);
  {
    g_autoptr (KwSecret) output G_GNUC_UNUSED
        = kw_token_aes_cbc (token, id, TRUE, data, data, sizeof data, &error);
  }
  g_assert_no_error (error);
}

static void
test_closed (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GError) error = NULL;
  guint8 data[16];

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open (f, 0);
  kw_token_close (token);
  g_assert_false (kw_token_random (token, data, sizeof data, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
}

/* Garbage comes to an error or, where a bit of the data alone is turned, to what a check above the token finds. */
static void
test_garbage (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) id = sc_id (0x10);
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GBytes) ciphertext = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  key = kw_token_generate_rsa (token, 2048, id, "rsa", NULL);
  ciphertext = encrypt (key, "a secret", KW_RSA_PADDING_PKCS1);
  for (guint i = 0; i < 100; i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (KwSecret) plaintext = NULL;

      g_free (kw_card_rig_control (f->rig, 0, "corrupt-after 0", NULL));
      plaintext = kw_token_rsa_decrypt (token, id, KW_RSA_PADDING_PKCS1, ciphertext, &error);
      g_free (kw_card_rig_control (f->rig, 0, "corrupt-after never", NULL));
      if (plaintext != NULL)
        g_assert_true (kw_secret_equal (plaintext, "a secret", 8));
      else
        g_assert_false (g_error_matches (error, KW_ERROR, KW_ERROR_DECRYPT_FAILED));
    }
}

/* Opening a card that answers with garbage, somewhere: an error, or a token that is right. */
static void
test_garbage_while_opening (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (GBytes) atr = g_bytes_new_static ("", 0);

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  kw_card_rig_generate_rsa (f->rig, 0, 2048, "10", "rsa one", NULL);
  for (guint i = 0; i < 60; i++)
    {
      g_autofree char *order = g_strdup_printf ("corrupt-after %u", i % 12);
      g_autoptr (KwScToken) token = NULL;
      g_autoptr (GPtrArray) keys = NULL;
      g_autoptr (GError) error = NULL;

      g_free (kw_card_rig_control (f->rig, 0, order, NULL));
      token = kw_sc_token_new (kw_card_rig_get_reader (f->rig, 0), atr, &error);
      if (token != NULL)
        keys = kw_token_list_keys (KW_TOKEN (token), &error);
      g_assert_true ((token != NULL && keys != NULL) == (error == NULL));
      g_free (kw_card_rig_control (f->rig, 0, "corrupt-after never", NULL));
    }
}

static void
test_faults (void)
{
  static const struct
  {
    guint sw;
    KwError code;
  } cases[] = {
    { 0x6400, KW_ERROR_DEVICE_FAILED }, { 0x6700, KW_ERROR_DEVICE_FAILED },
    { 0x6982, KW_ERROR_NOT_LOGGED_IN }, { 0x6985, KW_ERROR_NOT_SUPPORTED },
    { 0x6A80, KW_ERROR_DEVICE_FAILED }, { 0x6A81, KW_ERROR_NOT_SUPPORTED },
    { 0x6A82, KW_ERROR_TOKEN_GONE },    { 0x6A88, KW_ERROR_TOKEN_GONE },
    { 0x6D00, KW_ERROR_NOT_SUPPORTED }, { 0x6E00, KW_ERROR_NOT_SUPPORTED },
    { 0x6F00, KW_ERROR_DEVICE_FAILED }, { 0x9100, KW_ERROR_DEVICE_FAILED },
  };
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (GBytes) id = sc_id (0x10);
  g_autoptr (KwKey) key = NULL;
  g_autoptr (GBytes) ciphertext = NULL;

  skip_without_cards ();
  f = sc_fixture_new (1, NULL);
  token = sc_fixture_open_and_login (f, 0);
  key = kw_token_generate_rsa (token, 2048, id, "rsa", NULL);
  ciphertext = encrypt (key, "x", KW_RSA_PADDING_PKCS1);
  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *fault = g_strdup_printf ("fault ins=62,sw=%04X", cases[i].sw);
      g_autoptr (GError) error = NULL;

      g_free (kw_card_rig_control (f->rig, 0, fault, NULL));
      g_assert_null (kw_token_rsa_decrypt (token, id, KW_RSA_PADDING_PKCS1, ciphertext, &error));
      g_assert_error (error, KW_ERROR, (gint) cases[i].code);
      assert_decrypts (token, key);
    }
}

typedef struct
{
  KwToken *token;
  GBytes *id;
  gint done; /* atomic */
} FrozenCall;

static gpointer
frozen_thread (gpointer user_data)
{
  FrozenCall *call = user_data;
  guint8 block[16] = { 0 };
  g_autoptr (KwSecret) output
      = kw_token_aes_cbc (call->token, call->id, TRUE, block, block, 16, NULL);

  g_atomic_int_set (&call->done, 1 + (output != NULL));
  return NULL;
}

/* A card that hangs holds up its own thread: closing it and using another card go on. */
static void
test_frozen (void)
{
  g_autoptr (ScFixture) f = NULL;
  g_autoptr (KwToken) token = NULL;
  g_autoptr (KwToken) other = NULL;
  g_autoptr (GBytes) id = sc_id (0x40);
  g_autoptr (KwKey) key = NULL;
  FrozenCall call = { 0 };
  GThread *thread = NULL;
  guint8 data[16];

  skip_without_cards ();
  f = sc_fixture_new (2, NULL);
  token = sc_fixture_open_and_login (f, 0);
  other = sc_fixture_open (f, 1);
  key = kw_token_generate_aes (token, 256, id, "aes", NULL);
  kw_card_rig_freeze (f->rig, 0, NULL);
  call = (FrozenCall){ token, id, 0 };
  thread = g_thread_new ("frozen", frozen_thread, &call);
  g_usleep (100000);
  g_assert_cmpint (g_atomic_int_get (&call.done), ==, 0);
  g_assert_true (kw_token_random (other, data, sizeof data, NULL));
  kw_token_close (token);
  kw_card_rig_thaw (f->rig, 0, NULL);
  g_thread_join (thread);
  g_assert_cmpint (g_atomic_int_get (&call.done), ==, 2);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/info/initialised", test_info);
  g_test_add_func ("/info/without-dkek", test_info_without_dkek);
  g_test_add_func ("/info/blank", test_blank);
  g_test_add_func ("/info/no-card", test_no_card);
  g_test_add_func ("/pin/wrong-costs-one-try", test_wrong_pin_costs_one_try);
  g_test_add_func ("/pin/tries-that-fall-meanwhile", test_tries_that_fall_meanwhile);
  g_test_add_func ("/pin/tries-while-logged-in", test_tries_are_known_while_logged_in);
  g_test_add_func ("/pin/card-set-up-meanwhile", test_card_set_up_meanwhile);
  g_test_add_func ("/random", test_random);
  g_test_add_func ("/rsa/sizes", test_rsa);
  g_test_add_func ("/rsa/bad-ciphertext", test_bad_ciphertext);
  g_test_add_func ("/keys/of-opensc", test_keys_of_opensc);
  g_test_add_func ("/keys/opensc-lists-ours", test_opensc_lists_ours);
  g_test_add_func ("/keys/without-description", test_key_without_description);
  g_test_add_func ("/keys/replaced", test_replaced_keys_are_noticed);
  g_test_add_func ("/aes/beside-libcrypto", test_aes_beside_libcrypto);
  g_test_add_func ("/aes/generate", test_aes_generate);
  g_test_add_func ("/aes/not-permitted", test_aes_not_permitted);
  g_test_add_func ("/aes/weak-firmware", test_weak_firmware);
  g_test_add_func ("/lasting/never-over-a-key", test_never_over_a_key);
  g_test_add_func ("/lasting/delete", test_delete);
  g_test_add_func ("/lasting/clone", test_clone);
  g_test_add_func ("/lasting/clone-by-sc-hsm-tool", test_clone_by_sc_hsm_tool);
  g_test_add_func ("/lasting/import-refuses", test_import_refuses);
  g_test_add_func ("/lasting/nothing-left", test_nothing_left_after_failure);
  g_test_add_func ("/lasting/memory-full", test_memory_full);
  g_test_add_func ("/others/logout", test_logout_by_others);
  g_test_add_func ("/others/reset", test_reset_by_others);
  g_test_add_func ("/others/login-is-kept", test_login_is_kept_for_a_call);
  g_test_add_func ("/others/login-is-let-go", test_login_is_let_go);
  g_test_add_func ("/trouble/pulled", test_pulled_in_the_middle);
  g_test_add_func ("/trouble/closed", test_closed);
  g_test_add_func ("/trouble/garbage", test_garbage);
  g_test_add_func ("/trouble/garbage-while-opening", test_garbage_while_opening);
  g_test_add_func ("/trouble/faults", test_faults);
  g_test_add_func ("/trouble/frozen", test_frozen);
  return g_test_run ();
}
