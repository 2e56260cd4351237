/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-dkek.h"
#include "card-fixture.h"
#include "card-key.h"
#include "card-tlv.h"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <string.h>

#define SELECT_APPLET "00A404000B E82B0601040181C31F0201 00"

static void
assert_answer (Card *card, const char *command, guint status, const char *wanted)
{
  g_autoptr (GBytes) answer = card_test_send (card, command, status);
  g_autofree char *hex
      = card_test_format_hex (g_bytes_get_data (answer, NULL), g_bytes_get_size (answer));
  g_autoptr (GBytes) wanted_bytes = card_test_parse_hex (wanted);
  g_autofree char *wanted_hex = card_test_format_hex (g_bytes_get_data (wanted_bytes, NULL),
                                                      g_bytes_get_size (wanted_bytes));

  g_assert_cmpstr (hex, ==, wanted_hex);
}

static Card *
new_logged_in (guint n_shares)
{
  Card *card = card_test_new (n_shares);

  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  return card;
}

static void
test_select (void)
{
  g_autoptr (Card) card = card_test_new_blank ();

  card_test_expect (card, "00A4040007 627601FF000000", 0x6A82);
  card_test_expect (card, "00A4040006 A00000000101", 0x6A82);
  card_test_expect (card, "00A40400", 0x6A82);
  assert_answer (card, SELECT_APPLET, 0x9000, "6F0A 820178 8505 0000030305");
  assert_answer (card, "00A404040B E82B0601040181C31F0201 00", 0x9000,
                 "620A 820178 8505 0000030305");
  assert_answer (card, "00A4040C0B E82B0601040181C31F0201", 0x9000, "");
  /* Case 3: nothing is asked for. */
  assert_answer (card, "00A404000B E82B0601040181C31F0201", 0x9000, "");
  assert_answer (card, "00A404000B E82B0601040181C31F0201 04", 0x9000, "6F0A 8201");
  card_test_expect (card, "00A4040010 E82B0601040181C31F02010000000000", 0x6A82);
  card_test_expect (card, "00A4080002 2F00 00", 0x6A86);
  card_test_expect (card, "00A4080004 50154946 00", 0x6A86);
  card_test_expect (card, "00A4000102 2F02 00", 0x6A86);
  card_test_expect (card, "00A4000002 2F00 00", 0x6A82);
  card_test_expect (card, "00A4000001 2F 00", 0x6700);
  card_test_expect (card, "00A4000002 CC05 00", 0x6A82);
  assert_answer (card, "00A4000002 CC00 00", 0x9000, "6F0B 80020000 820101 8302CC00");
  assert_answer (card, "00A4000C02 2F02", 0x9000, "");
}

/* What was selected by name says which options the card was initialised with. */
static void
test_select_shows_options (void)
{
  g_autoptr (Card) card = card_test_new (0);

  assert_answer (card, SELECT_APPLET, 0x9000, "6F0A 820178 8505 0001030305");
}

/* The names and numbers in EF 2F02, and who signed it. */
static void
test_certificates (void)
{
  g_autoptr (Card) card = card_test_new_blank ();
  g_autoptr (GBytes) content = NULL;
  CardTlvReader reader;
  CardTlv certificate, authority, inner, element;

  card_test_expect (card, "00A4000002 2F02 00", 0x9000);
  content = card_test_send (card, "00B10000 000004 54020000 0000", 0x6282);
  g_assert_cmpuint (g_bytes_get_size (content), ==, 455);

  reader = (CardTlvReader){ g_bytes_get_data (content, NULL), g_bytes_get_size (content) };
  g_assert_true (card_tlv_next (&reader, &certificate));
  g_assert_true (card_tlv_next (&reader, &authority));
  g_assert_cmpuint (reader.size, ==, 0);
  g_assert_cmphex (certificate.tag, ==, 0x7F21);
  g_assert_true (card_tlv_find (certificate.value, certificate.size, 0x7F4E, &inner));
  g_assert_true (card_tlv_find (inner.value, inner.size, 0x42, &element));
  g_assert_cmpmem (element.value, element.size, "VTDICA00001", 11);
  g_assert_true (card_tlv_find (inner.value, inner.size, 0x5F20, &element));
  g_assert_cmpmem (element.value, element.size, CARD_TEST_SERIAL "00000", 13);
  g_assert_true (card_tlv_find (authority.value, authority.size, 0x7F4E, &inner));
  g_assert_true (card_tlv_find (inner.value, inner.size, 0x5F20, &element));
  g_assert_cmpmem (element.value, element.size, "VTDICA00001", 11);
}

/* A verifier for r‖s over data, on a named curve, that knows nothing of CardKey. */
static gboolean
verify_plain (const char *curve,
              const CardTlv *point,
              const guint8 *data,
              gsize size,
              const CardTlv *signature)
{
  OSSL_PARAM parameters[] = {
    OSSL_PARAM_construct_utf8_string ("group", (char *) curve, 0),
    OSSL_PARAM_construct_octet_string ("pub", (void *) point->value, point->size),
    OSSL_PARAM_construct_end (),
  };
  EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name (NULL, "EC", NULL);
  EVP_PKEY *key = NULL;
  ECDSA_SIG *pair = ECDSA_SIG_new ();
  guint8 *der = NULL;
  EVP_MD_CTX *md = EVP_MD_CTX_new ();
  int der_size, half = (int) signature->size / 2;
  gboolean good;

  g_assert_true (EVP_PKEY_fromdata_init (context));
  g_assert_true (EVP_PKEY_fromdata (context, &key, EVP_PKEY_PUBLIC_KEY, parameters));
  ECDSA_SIG_set0 (pair, BN_bin2bn (signature->value, half, NULL),
                  BN_bin2bn (signature->value + half, half, NULL));
  der_size = i2d_ECDSA_SIG (pair, &der);
  g_assert_true (EVP_DigestVerifyInit (md, NULL, EVP_sha256 (), NULL, key));
  good = EVP_DigestVerify (md, der, (gsize) der_size, data, size) == 1;

  EVP_MD_CTX_free (md);
  OPENSSL_free (der);
  ECDSA_SIG_free (pair);
  EVP_PKEY_free (key);
  EVP_PKEY_CTX_free (context);
  return good;
}

static void
find_in_body (const CardTlv *certificate, guint16 tag, CardTlv *out_tlv)
{
  CardTlv body;

  g_assert_true (card_tlv_find (certificate->value, certificate->size, 0x7F4E, &body));
  g_assert_true (card_tlv_find (body.value, body.size, tag, out_tlv));
}

/* The point of the card's own key, from EF 2F02. */
static GBytes *
dup_device_point (Card *card)
{
  g_autoptr (GBytes) content = card_test_send (card, "00B12F02 000004 54020000 0000", 0x6282);
  CardTlvReader reader = { g_bytes_get_data (content, NULL), g_bytes_get_size (content) };
  CardTlv certificate, public_key, point;

  g_assert_true (card_tlv_next (&reader, &certificate));
  find_in_body (&certificate, 0x7F49, &public_key);
  g_assert_true (card_tlv_find (public_key.value, public_key.size, 0x86, &point));
  return g_bytes_new (point.value, point.size);
}

static void
check_request (Card *card, GBytes *answer, const char *curve)
{
  CardTlvReader reader = { g_bytes_get_data (answer, NULL), g_bytes_get_size (answer) };
  CardTlv request, certificate, body, element, public_key, point, signature, outer_name;
  g_autoptr (GBytes) device_point = dup_device_point (card);
  CardTlv device_tlv
      = { .value = g_bytes_get_data (device_point, NULL), .size = g_bytes_get_size (device_point) };
  gsize signed_size;

  g_assert_true (card_tlv_next (&reader, &request));
  g_assert_cmphex (request.tag, ==, 0x67);
  g_assert_cmpuint (reader.size, ==, 0);
  g_assert_true (card_tlv_find (request.value, request.size, 0x7F21, &certificate));
  g_assert_true (card_tlv_find (request.value, request.size, 0x42, &outer_name));
  g_assert_cmpmem (outer_name.value, outer_name.size, CARD_TEST_SERIAL "00000", 13);
  g_assert_true (card_tlv_find (request.value, request.size, 0x5F37, &signature));
  g_assert_cmpuint (signature.size, ==, 64);
  signed_size = certificate.whole_size + outer_name.whole_size;
  g_assert_true (
      verify_plain ("brainpoolP256r1", &device_tlv, certificate.whole, signed_size, &signature));

  find_in_body (&certificate, 0x5F20, &element);
  g_assert_cmpmem (element.value, element.size, CARD_TEST_SERIAL "00001", 13);
  find_in_body (&certificate, 0x42, &element);
  g_assert_cmpmem (element.value, element.size, "UTCA00001", 9);
  if (curve)
    {
      find_in_body (&certificate, 0x7F49, &public_key);
      g_assert_true (card_tlv_find (public_key.value, public_key.size, 0x86, &point));
      g_assert_true (card_tlv_find (certificate.value, certificate.size, 0x7F4E, &body));
      g_assert_true (card_tlv_find (certificate.value, certificate.size, 0x5F37, &signature));
      g_assert_true (verify_plain (curve, &point, body.whole, body.whole_size, &signature));
    }
}

static void
test_generate_ec (void)
{
  const CardCurve *const *curves;
  gsize n_curves = card_curve_list (&curves);
  g_autoptr (Card) card = new_logged_in (0);

  for (gsize i = 0; i < n_curves; i++)
    {
      guint8 id = (guint8) (i + 1);
      g_autoptr (GBytes) command = card_test_make_ec_command (id, curves[i]->name);
      g_autoptr (GBytes) answer = card_test_send_bytes (card, command, 0x9000);
      g_autofree char *read = g_strdup_printf ("00B1CE%02X 000004 54020000 0000", id);
      g_autoptr (GBytes) file = card_test_send (card, read, 0x6282);

      check_request (card, answer, curves[i]->name);
      g_assert_true (g_bytes_equal (answer, file));
      if (g_str_equal (curves[i]->name, "prime256v1"))
        g_assert_cmpuint (g_bytes_get_size (answer), ==, 484);
    }
}

/* Reads modulus and exponent of a new key from its request. */
static EVP_PKEY *
read_rsa_public_key (Card *card, guint8 id)
{
  g_autofree char *read = g_strdup_printf ("00B1CE%02X 000004 54020000 0000", id);
  g_autoptr (GBytes) file = card_test_send (card, read, 0x6282);
  CardTlvReader reader = { g_bytes_get_data (file, NULL), g_bytes_get_size (file) };
  CardTlv request, certificate, public_key, n, e;
  EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name (NULL, "RSA", NULL);
  EVP_PKEY *key = NULL;
  OSSL_PARAM parameters[3];
  guint8 n_native[CARD_MAX_FIELD_SIZE], e_native[8];

  g_assert_true (card_tlv_next (&reader, &request));
  check_request (card, file, NULL);
  g_assert_true (card_tlv_find (request.value, request.size, 0x7F21, &certificate));
  find_in_body (&certificate, 0x7F49, &public_key);
  g_assert_true (card_tlv_find (public_key.value, public_key.size, 0x81, &n));
  g_assert_true (card_tlv_find (public_key.value, public_key.size, 0x82, &e));
  for (gsize i = 0; i < n.size; i++)
    n_native[n.size - 1 - i] = n.value[i];
  for (gsize i = 0; i < e.size; i++)
    e_native[e.size - 1 - i] = e.value[i];
  parameters[0] = OSSL_PARAM_construct_BN ("n", n_native, n.size);
  parameters[1] = OSSL_PARAM_construct_BN ("e", e_native, e.size);
  parameters[2] = OSSL_PARAM_construct_end ();
  g_assert_true (EVP_PKEY_fromdata_init (context));
  g_assert_true (EVP_PKEY_fromdata (context, &key, EVP_PKEY_PUBLIC_KEY, parameters));
  EVP_PKEY_CTX_free (context);
  return key;
}

static void
assert_rsa_signature (Card *card,
                      EVP_PKEY *public_key,
                      guint8 algorithm,
                      const EVP_MD *md,
                      gboolean pss,
                      const guint8 *data,
                      gsize size,
                      const guint8 *message,
                      gsize message_size)
{
  g_autofree char *header = g_strdup_printf ("806801%02X", algorithm);
  g_autoptr (GBytes) command = card_test_make_apdu (header, data, size, "0200");
  g_autoptr (GBytes) signature = card_test_send_bytes (card, command, 0x9000);
  EVP_MD_CTX *context = EVP_MD_CTX_new ();
  EVP_PKEY_CTX *key_context;

  g_assert_true (EVP_DigestVerifyInit (context, &key_context, md, NULL, public_key));
  if (pss)
    {
      g_assert_true (EVP_PKEY_CTX_set_rsa_padding (key_context, RSA_PKCS1_PSS_PADDING));
      g_assert_true (EVP_PKEY_CTX_set_rsa_pss_saltlen (key_context, RSA_PSS_SALTLEN_DIGEST));
    }
  g_assert_cmpint (EVP_DigestVerify (context, g_bytes_get_data (signature, NULL),
                                     g_bytes_get_size (signature), message, message_size),
                   ==, 1);
  EVP_MD_CTX_free (context);
}

static const guint8 sha256_prefix[] = { 0x30, 0x31, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
                                        0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20 };

static void
test_sign_rsa (void)
{
  static const char message[] = "what is signed";
  const EVP_MD *const digests[]
      = { NULL, EVP_sha1 (), EVP_sha224 (), EVP_sha256 (), EVP_sha384 (), EVP_sha512 () };
  g_autoptr (Card) card = new_logged_in (0);
  EVP_PKEY *public_key;
  guint8 info[sizeof sha256_prefix + 32];
  guint8 padded[256];

  card_test_make_rsa (card, 1, 2048);
  public_key = read_rsa_public_key (card, 1);

  for (guint8 i = 1; i < G_N_ELEMENTS (digests); i++)
    {
      assert_rsa_signature (card, public_key, 0x30 | i, digests[i], FALSE, (const guint8 *) message,
                            sizeof message, (const guint8 *) message, sizeof message);
      if (i != 2)
        assert_rsa_signature (card, public_key, 0x40 | i, digests[i], TRUE,
                              (const guint8 *) message, sizeof message, (const guint8 *) message,
                              sizeof message);
    }

  memcpy (info, sha256_prefix, sizeof sha256_prefix);
  EVP_Digest (message, sizeof message, info + sizeof sha256_prefix, NULL, EVP_sha256 (), NULL);
  assert_rsa_signature (card, public_key, 0x30, EVP_sha256 (), FALSE, info, sizeof info,
                        (const guint8 *) message, sizeof message);
  /* PSS over a hash, bare and in a DigestInfo. */
  assert_rsa_signature (card, public_key, 0x40, EVP_sha256 (), TRUE, info + sizeof sha256_prefix,
                        32, (const guint8 *) message, sizeof message);
  assert_rsa_signature (card, public_key, 0x40, EVP_sha256 (), TRUE, info, sizeof info,
                        (const guint8 *) message, sizeof message);
  /* A whole block, padded by the host. */
  memset (padded, 0xFF, sizeof padded);
  padded[0] = 0;
  padded[1] = 1;
  padded[sizeof padded - sizeof info - 1] = 0;
  memcpy (padded + sizeof padded - sizeof info, info, sizeof info);
  assert_rsa_signature (card, public_key, 0x20, EVP_sha256 (), FALSE, padded, sizeof padded,
                        (const guint8 *) message, sizeof message);
  EVP_PKEY_free (public_key);
}

static void
test_sign_ec (void)
{
  static const char message[] = "what is signed";
  const EVP_MD *const digests[]
      = { NULL, EVP_sha1 (), EVP_sha224 (), EVP_sha256 (), EVP_sha384 (), EVP_sha512 () };
  g_autoptr (Card) card = new_logged_in (0);
  g_autoptr (GBytes) command = card_test_make_ec_command (2, "prime256v1");
  g_autoptr (GBytes) request = card_test_send_bytes (card, command, 0x9000);
  const guint8 *bytes = g_bytes_get_data (request, NULL);
  CardTlvReader reader = { bytes, g_bytes_get_size (request) };
  CardTlv whole, certificate, public_key, point;

  g_assert_true (card_tlv_next (&reader, &whole));
  g_assert_true (card_tlv_find (whole.value, whole.size, 0x7F21, &certificate));
  find_in_body (&certificate, 0x7F49, &public_key);
  g_assert_true (card_tlv_find (public_key.value, public_key.size, 0x86, &point));

  for (guint8 i = 0; i < G_N_ELEMENTS (digests); i++)
    {
      guint8 digest[EVP_MAX_MD_SIZE];
      unsigned int digest_size;
      g_autofree char *header = g_strdup_printf ("806802%02X", 0x70 | i);
      g_autoptr (GBytes) sign_command = NULL;
      g_autoptr (GBytes) signature = NULL;
      OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string ("group", (char *) "prime256v1", 0),
        OSSL_PARAM_construct_octet_string ("pub", (void *) point.value, point.size),
        OSSL_PARAM_construct_end (),
      };
      EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name (NULL, "EC", NULL);
      EVP_PKEY *key = NULL;

      g_assert_true (EVP_Digest (message, sizeof message, digest, &digest_size,
                                 i ? digests[i] : EVP_sha256 (), NULL));
      if (i == 0)
        sign_command = card_test_make_apdu (header, digest, digest_size, "0200");
      else
        sign_command = card_test_make_apdu (header, message, sizeof message, "0200");
      signature = card_test_send_bytes (card, sign_command, 0x9000);

      g_assert_true (EVP_PKEY_fromdata_init (context));
      g_assert_true (EVP_PKEY_fromdata (context, &key, EVP_PKEY_PUBLIC_KEY, parameters));
      EVP_PKEY_CTX_free (context);
      context = EVP_PKEY_CTX_new (key, NULL);
      g_assert_true (EVP_PKEY_verify_init (context));
      g_assert_cmpint (EVP_PKEY_verify (context, g_bytes_get_data (signature, NULL),
                                        g_bytes_get_size (signature), digest, digest_size),
                       ==, 1);
      EVP_PKEY_CTX_free (context);
      EVP_PKEY_free (key);
    }
}

static void
test_decipher_rsa (void)
{
  g_autoptr (Card) card = new_logged_in (0);
  EVP_PKEY *public_key;
  EVP_PKEY_CTX *context;
  guint8 plain[256] = { 0, 2, 7, 7, 7 };
  guint8 encrypted[256];
  gsize size = sizeof encrypted;
  g_autoptr (GBytes) command = NULL;
  g_autoptr (GBytes) answer = NULL;

  card_test_make_rsa (card, 1, 2048);
  public_key = read_rsa_public_key (card, 1);
  context = EVP_PKEY_CTX_new (public_key, NULL);
  g_assert_true (EVP_PKEY_encrypt_init (context));
  g_assert_true (EVP_PKEY_CTX_set_rsa_padding (context, RSA_NO_PADDING));
  g_assert_true (EVP_PKEY_encrypt (context, encrypted, &size, plain, sizeof plain));
  EVP_PKEY_CTX_free (context);
  EVP_PKEY_free (public_key);

  /* All of the block comes back, with the zero that it begins with. */
  command = card_test_make_apdu ("80620121", encrypted, size, "0200");
  answer = card_test_send_bytes (card, command, 0x9000);
  g_assert_cmpmem (g_bytes_get_data (answer, NULL), g_bytes_get_size (answer), plain, sizeof plain);

  g_clear_pointer (&command, g_bytes_unref);
  command = card_test_make_apdu ("80620121", encrypted, size - 1, "0200");
  g_bytes_unref (card_test_send_bytes (card, command, 0x6700));
  /* Not smaller than the modulus. */
  memset (encrypted, 0xFF, sizeof encrypted);
  g_clear_pointer (&command, g_bytes_unref);
  command = card_test_make_apdu ("80620121", encrypted, size, "0200");
  g_bytes_unref (card_test_send_bytes (card, command, 0x6A80));
}

static void
test_ecdh (void)
{
  const CardCurve *curve = card_curve_find ("brainpoolP320r1");
  g_autoptr (CardRandom) random = card_random_new ();
  g_autoptr (CardKey) other = card_key_generate_ec (curve, random);
  g_autoptr (GBytes) other_point = card_key_get_ec_point (other);
  g_autoptr (Card) card = new_logged_in (0);
  g_autoptr (GBytes) make = card_test_make_ec_command (3, curve->name);
  g_autoptr (GBytes) request = card_test_send_bytes (card, make, 0x9000);
  g_autoptr (GBytes) command
      = card_test_make_apdu ("80620380", g_bytes_get_data (other_point, NULL),
                             g_bytes_get_size (other_point), "0200");
  g_autoptr (GBytes) answer = card_test_send_bytes (card, command, 0x9000);
  g_autoptr (GBytes) shared = NULL;
  g_autofree guint8 *off_curve
      = g_memdup2 (g_bytes_get_data (other_point, NULL), g_bytes_get_size (other_point));
  CardTlvReader reader = { g_bytes_get_data (request, NULL), g_bytes_get_size (request) };
  CardTlv whole, certificate, public_key, point;

  g_assert_true (card_tlv_next (&reader, &whole));
  g_assert_true (card_tlv_find (whole.value, whole.size, 0x7F21, &certificate));
  find_in_body (&certificate, 0x7F49, &public_key);
  g_assert_true (card_tlv_find (public_key.value, public_key.size, 0x86, &point));
  shared = card_key_ecdh (other, point.value, point.size);
  g_assert_true (g_bytes_equal (answer, shared));

  off_curve[10] ^= 1;
  g_clear_pointer (&command, g_bytes_unref);
  command = card_test_make_apdu ("80620380", off_curve, g_bytes_get_size (other_point), "0200");
  g_bytes_unref (card_test_send_bytes (card, command, 0x6A80));
  off_curve[10] ^= 1;
  off_curve[0] = 2;
  g_clear_pointer (&command, g_bytes_unref);
  command = card_test_make_apdu ("80620380", off_curve, g_bytes_get_size (other_point), "0200");
  g_bytes_unref (card_test_send_bytes (card, command, 0x6A80));
  card_test_expect (card, "80620380 01 04 00", 0x6700);
}

/* AES by another implementation of it than the card's calls: the vectors of NIST SP 800-38A, F.2, go through unwrapping. */
static void
test_cipher (void)
{
  g_autoptr (Card) card = new_logged_in (2);

  /* The key 2b7e1516…, wrapped; IV 000102…0f XORed into the first block (F.2.1). */
  static const guint8 secret[16] = { 0x2B, 0x7E, 0x15, 0x16, 0x28, 0xAE, 0xD2, 0xA6,
                                     0xAB, 0xF7, 0x15, 0x88, 0x09, 0xCF, 0x4F, 0x3C };
  guint8 dkek[32];
  g_autoptr (GBytes) dkek_bytes
      = card_test_parse_hex ("0a28388f6789265e1cc3b32d0822b05d1114da6f55e1ac3df3109b071a11d9a4");
  g_autoptr (CardKey) key = card_key_new_aes (secret, sizeof secret);
  g_autoptr (GBytes) blob = NULL;
  g_autoptr (GBytes) unwrap = NULL;

  memcpy (dkek, g_bytes_get_data (dkek_bytes, NULL), sizeof dkek);
  blob = card_dkek_wrap (dkek, key, dkek);
  unwrap = card_test_make_apdu ("80740593", g_bytes_get_data (blob, NULL), g_bytes_get_size (blob),
                                "");
  g_bytes_unref (card_test_send_bytes (card, unwrap, 0x9000));

  assert_answer (card,
                 "80780510 20 6bc0bce12a459991e134741a7f9e1925 ae2d8a571e03ac9c9eb76fac45af8e51 00",
                 0x9000, "7649abac8119b246cee98e9b12e9197d 5086cb9b507219ee95db113a917678b2");
  assert_answer (card,
                 "80780511 20 7649abac8119b246cee98e9b12e9197d 5086cb9b507219ee95db113a917678b2 00",
                 0x9000, "6bc0bce12a459991e134741a7f9e1925 ae2d8a571e03ac9c9eb76fac45af8e51");
  /* NIST SP 800-38B, D.1, examples 2 and 3. */
  assert_answer (card, "80780518 10 6bc1bee22e409f96e93d7e117393172a 00", 0x9000,
                 "070a16b46b4d4144f79bdd9dd04a287c");
  assert_answer (card,
                 "80780518 28 6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
                 "30c81c46a35ce411 00",
                 0x9000, "dfa66747de9ae63030ca32611497c827");
  card_test_expect (card, "80780510 0F 000102030405060708090a0b0c0d0e 00", 0x6700);
  card_test_expect (card, "80780510", 0x6700);
  card_test_expect (card, "80780518", 0x6700);
  card_test_expect (card, "80780599 10 6bc1bee22e409f96e93d7e117393172a 00", 0x6A81);
  card_test_expect (card, "80780510 10 6bc1bee22e409f96e93d7e117393172a 0F", 0x6700);
  card_test_expect (card, "80780510 10 6bc1bee22e409f96e93d7e117393172a", 0x6700);
}

static void
test_permitted_algorithms (void)
{
  g_autoptr (Card) card = new_logged_in (2);

  card_test_expect (card, "004801B0 04 91021011", 0x9000);
  card_test_expect (card, "80780110 10 00000000000000000000000000000000 00", 0x9000);
  card_test_expect (card, "80780118 10 00000000000000000000000000000000 00", 0x6A81);
  /* Without 92 in its list a key does not leave the card. */
  card_test_expect (card, "80720192 000000", 0x6985);
  card_test_expect (card, "804802B1 08 9106101118929399", 0x9000);
  card_test_expect (card, "80720292 000000", 0x9000);
  /* A key without a list may do everything. */
  card_test_expect (card, "804803B2", 0x9000);
  card_test_expect (card, "80780318 01 00 00", 0x9000);
  card_test_expect (card, "80720392 000000", 0x9000);
}

static void
test_use_counter (void)
{
  g_autoptr (Card) card = new_logged_in (0);

  card_test_expect (card, "004801B2 06 900400000002", 0x9000);
  card_test_expect (card, "80780110 10 00000000000000000000000000000000 00", 0x9000);
  /* What cannot be answered is not counted. */
  card_test_expect (card, "80780110 10 00000000000000000000000000000000 08", 0x6700);
  card_test_expect (card, "80780110 10 00000000000000000000000000000000 00", 0x9000);
  card_test_expect (card, "80780110 10 00000000000000000000000000000000 00", 0x6984);
}

static void
test_files (void)
{
  g_autoptr (Card) card = new_logged_in (0);

  assert_answer (card, "00D7C401 06 54020000 5300", 0x9000, "");
  assert_answer (card, "00A4000002 C401 00", 0x9000, "6F0B 80020000 820101 8302C401");
  assert_answer (card, "00B10000 04 54020000 00", 0x6282, "");
  card_test_expect (card, "00D70000 0A 54020000 5304 01020304", 0x9000);
  card_test_expect (card, "00D70000 09 54020004 5303 050607", 0x9000);
  assert_answer (card, "00A4000002 C401 00", 0x9000, "6F0B 80020007 820101 8302C401");
  /* Overwriting does not shorten. */
  card_test_expect (card, "00D7C401 08 54020001 5302 AABB", 0x9000);
  assert_answer (card, "00B1C401 04 54020000 00", 0x6282, "01AABB04050607");
  assert_answer (card, "00B1C401 04 54020000 07", 0x9000, "01AABB04050607");
  assert_answer (card, "00B1C401 04 54020002 02", 0x9000, "BB04");
  assert_answer (card, "00B1C401 04 54020007 00", 0x6282, "");
  card_test_expect (card, "00B1C401 04 54020008 00", 0x6B00);
  assert_answer (card, "00B00002 02", 0x9000, "BB04");
  card_test_expect (card, "00B08002 02", 0x6A86);
  card_test_expect (card, "00B00002 01 00 02", 0x6700);
  card_test_expect (card, "00D7C401 07 54020008 530100", 0x6B00);
  card_test_expect (card, "00D7C401", 0x6700);
  card_test_expect (card, "00D7C401 04 54020000", 0x6A80);
  card_test_expect (card, "00D7C401 07 54020000 530200", 0x6A80);
  card_test_expect (card, "00D7C401 07 54010053 020000", 0x6A80);
  card_test_expect (card, "00B1C401", 0x6700);
  card_test_expect (card, "00B1C401 03 540100 00", 0x6A80);
  card_test_expect (card, "00B1C401 05 5402000000 00", 0x6A80);
  card_test_expect (card, "00B1C402 04 54020000 00", 0x6A82);
  card_test_expect (card, "00B1CC05 04 54020000 00", 0x6A82);
  card_test_expect (card, "00B1CC00 04 54020000 00", 0x6986);
  assert_answer (card, "00B1C401 04 54020007", 0x6282, "");
  assert_answer (card, "00B1C401 04 54020006", 0x9000, "");
  /* A chunk of 255 bytes comes as an extended command. */
  {
    guint8 data[4 + 3 + 255] = { 0x54, 0x02, 0x00, 0x07, 0x53, 0x81, 0xFF };
    g_autoptr (GBytes) command = card_test_make_apdu ("00D70000", data, sizeof data, "");

    card_test_expect (card, "00A4000002 C401 00", 0x9000);
    g_bytes_unref (card_test_send_bytes (card, command, 0x9000));
    assert_answer (card, "00A4000002 C401 00", 0x9000, "6F0B 80020106 820101 8302C401");
  }

  card_test_expect (card, "00D72F03 08 54020000 53020000", 0x9000);
  card_test_expect (card, "00D72F02 08 54020000 53020000", 0x6985);
  card_test_expect (card, "00D7CC01 08 54020000 53020000", 0x6985);
  card_test_expect (card, "00D70102 08 54020000 53020000", 0x6A86);
  card_test_expect (card, "00E40200 02 C401", 0x9000);
  card_test_expect (card, "00E40200 02 C401", 0x6A82);
  card_test_expect (card, "00E40200 02 2F02", 0x6985);
  card_test_expect (card, "00E40200 02 CC00", 0x6985);
  card_test_expect (card, "00E40200 01 C4", 0x6700);
  card_test_expect (card, "00E40000 02 C401", 0x6A86);
  card_test_expect (card, SELECT_APPLET, 0x9000);
  card_test_expect (card, "00B10000 04 54020000 00", 0x6986);
  card_test_expect (card, "00B00000 00", 0x6986);
}

/* The largest file is read in one answer, which then is as long as a frame of the reader can be. */
static void
test_largest_file (void)
{
  const CardOptions options = { .serial = CARD_TEST_SERIAL, .version_major = 3, .memory = 1 << 20 };
  const gsize head_size = 8;
  g_autoptr (Card) card = card_new (&options);
  g_autofree guint8 *data = g_malloc0 (CARD_TEST_MAX_DATA);
  g_autoptr (GBytes) write = NULL;
  g_autoptr (GBytes) content = NULL;

  card_test_expect (card,
                    "80500000 19 80020001 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX
                    "910103",
                    0x9000);
  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  memcpy (data, "\x54\x02\x00\x00\x53\x82\xFF\xF7", head_size);
  memset (data + head_size, 0xAB, CARD_TEST_MAX_DATA - head_size);
  write = card_test_make_apdu ("00D7C901", data, CARD_TEST_MAX_DATA, "");
  g_bytes_unref (card_test_send_bytes (card, write, 0x9000));
  card_test_expect (card, "00D7C901 0D 5402FFF7 5307 01020304050607", 0x6A84);
  card_test_expect (card, "00D7C901 0C 5402FFF7 5306 010203040506", 0x9000);
  card_test_expect (card, "00D7C901 07 5402FFFD 530100", 0x6A84);

  content = card_test_send (card, "00B1C901 000004 54020000 0000", 0x6282);
  g_assert_cmpuint (g_bytes_get_size (content), ==, CARD_MAX_RESPONSE - CARD_STATUS_SIZE);
  g_clear_pointer (&content, g_bytes_unref);
  content = card_test_send (card, "00B1C901 000004 54020000 FFFD", 0x9000);
  g_assert_cmpuint (g_bytes_get_size (content), ==, CARD_MAX_RESPONSE - CARD_STATUS_SIZE);
}

/* A deleted file is not the current one any more; a key is no file. */
static void
test_current_file (void)
{
  g_autoptr (Card) card = new_logged_in (0);

  card_test_expect (card, "00D7C901 08 54020000 53020102", 0x9000);
  card_test_expect (card, "00E40200 02 C901", 0x9000);
  card_test_expect (card, "00B10000 04 54020000 00", 0x6986);
  card_test_expect (card, "00D70000 08 54020000 53020000", 0x6986);
  card_test_expect (card, "004801B2", 0x9000);
  card_test_expect (card, "00A4000002 CC01 00", 0x9000);
  card_test_expect (card, "00B10000 04 54020000 00", 0x6986);
  card_test_expect (card, "00E40200 02 CC01", 0x9000);
  card_test_expect (card, "00A4000002 CC01 00", 0x6A82);
}

static void
test_enumerate (void)
{
  g_autoptr (Card) card = new_logged_in (0);

  assert_answer (card, "80580000 000000", 0x9000, "CC00");
  card_test_expect (card, "804801B0", 0x9000);
  card_test_expect (card, "00D7C401 06 54020000 5300", 0x9000);
  card_test_expect (card, "00D7CD01 06 54020000 5300", 0x9000);
  card_test_expect (card, "00D72F03 06 54020000 5300", 0x9000);
  assert_answer (card, "80580000 000000", 0x9000, "CC00CC01C401CD01");
  assert_answer (card, "00580000 000000", 0x9000, "CC00CC01C401CD01");
  assert_answer (card, "80580000 05", 0x9000, "CC00CC01");
  assert_answer (card, "80580000", 0x9000, "");
  card_test_expect (card, "80580100 00", 0x6A86);
  card_test_expect (card, "80580000 01 00 00", 0x6700);
}

static void
test_protected_data (void)
{
  g_autoptr (Card) card = new_logged_in (0);

  card_test_expect (card, "00D7CD01 08 54020000 53020102", 0x9000);
  card_test_expect (card, "00D7CF01 08 54020000 53020102", 0x9000);
  assert_answer (card, "00B1CD01 04 54020000 02", 0x9000, "0102");
  card_reset (card);
  assert_answer (card, "00B1CF01 04 54020000 02", 0x9000, "0102");
  card_test_expect (card, "00B1CD01 04 54020000 02", 0x6982);
}

static void
test_verify (void)
{
  g_autoptr (Card) card = card_test_new_blank ();

  card_test_expect (card, "00200081", 0x6A88);
  card_test_expect (card, "00200088", 0x6A88);
  g_clear_pointer (&card, card_free);
  card = card_test_new (0);

  card_test_expect (card, "00200081", 0x63C3);
  card_test_expect (card, "00200081 00", 0x63C3);
  card_test_expect (card, "00200088", 0x63CF);
  card_test_expect (card, "00200085", 0x6A88);
  card_test_expect (card, "00200086", 0x6A88);
  card_test_expect (card, "00200181", 0x6A86);
  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  card_test_expect (card, "00200081", 0x9000);
  /* Who gives a wrong one is logged out. */
  card_test_expect (card, "0020008106 313131313131", 0x63C2);
  card_test_expect (card, "00200081", 0x63C2);
  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  card_test_expect (card, SELECT_APPLET, 0x9000);
  card_test_expect (card, "00200081", 0x63C3);
  /* Part of the PIN, or more than it, is not the PIN. */
  card_test_expect (card, "0020008105 3634383231", 0x63C2);
  card_test_expect (card, "0020008107 36343832313900", 0x63C1);
  card_test_expect (card, "0020008106 313131313131", 0x6983);
  card_test_expect (card, CARD_TEST_LOGIN, 0x6983);
  card_test_expect (card, "00200081", 0x6983);
  card_test_expect (card, "00240081 0C" CARD_TEST_PIN_HEX "313131313131", 0x6983);

  card_test_expect (card, "0020008808 " CARD_TEST_SO_PIN_HEX, 0x9000);
  card_test_expect (card, "0020008808 3131313131313131", 0x63CE);
  card_test_expect (card, "0020008807 31313131313131", 0x6700);
}

static void
test_change_pins (void)
{
  g_autoptr (Card) card = card_test_new (0);

  card_test_expect (card, "00240081 0D" CARD_TEST_PIN_HEX "37373737373737", 0x9000);
  card_test_expect (card, CARD_TEST_LOGIN, 0x63C2);
  card_test_expect (card, "0020008107 37373737373737", 0x9000);
  card_test_expect (card, "00240081 0C" CARD_TEST_PIN_HEX "313131313131", 0x63C2);
  /* A new PIN that is too short, or too long; and a try that was lost before stays so. */
  card_test_expect (card, "00240081 0C 37373737373737 3131313131", 0x6700);
  card_test_expect (card, "00240081 17 37373737373737 31313131313131313131313131313131", 0x6700);
  card_test_expect (card, "00200081", 0x63C2);
  card_test_expect (card, "00240081", 0x6700);
  card_test_expect (card, "00240181 01 00", 0x6A86);
  card_test_expect (card, "00240082 01 00", 0x6A88);
  card_test_expect (card, "00240088 10" CARD_TEST_SO_PIN_HEX "3131313131313131", 0x9000);
  card_test_expect (card, "00240088 10" CARD_TEST_SO_PIN_HEX "3131313131313131", 0x63CE);
  card_test_expect (card, "00240088 08" CARD_TEST_SO_PIN_HEX, 0x6700);
}

static void
test_reset_retry_counter (void)
{
  g_autoptr (Card) card = card_test_new (0);

  for (guint i = 0; i < 3; i++)
    card_test_expect (card, "0020008106 313131313131", i < 2 ? 0x63C2 - i : 0x6983);
  card_test_expect (card, "002C0081 0E 3131313131313131" CARD_TEST_PIN_HEX, 0x63CE);
  card_test_expect (card, "002C0181 08" CARD_TEST_SO_PIN_HEX, 0x9000);
  card_test_expect (card, "00200081", 0x63C3);
  card_test_expect (card, "002C0081 0E" CARD_TEST_SO_PIN_HEX "323232323232", 0x9000);
  card_test_expect (card, "00200081", 0x63C3);
  card_test_expect (card, "0020008106 323232323232", 0x9000);
  card_test_expect (card, "002C0081 0D" CARD_TEST_SO_PIN_HEX "3232323232", 0x6700);
  card_test_expect (card, "002C0181 09" CARD_TEST_SO_PIN_HEX "32", 0x6700);
  card_test_expect (card, "002C0081 07 31313131313131", 0x6700);
  card_test_expect (card, "002C0281 08" CARD_TEST_SO_PIN_HEX, 0x6A86);
  card_test_expect (card, "002C0088 08" CARD_TEST_SO_PIN_HEX, 0x6A88);
}

static void
test_reset_forbidden (void)
{
  g_autoptr (Card) card = card_test_new_blank ();

  card_test_expect (card, "002C0081 0E" CARD_TEST_SO_PIN_HEX "323232323232", 0x6A88);
  card_test_expect (card,
                    "80500000 19 80020000 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX
                    "910103",
                    0x9000);
  card_test_expect (card, "002C0081 0E" CARD_TEST_SO_PIN_HEX "323232323232", 0x6985);
}

static void
test_transport_pin (void)
{
  g_autoptr (Card) card = card_test_new_blank ();

  card_test_expect (card,
                    "80500000 19 80020003 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX
                    "910103",
                    0x9000);
  card_test_expect (card, "00200081", 0x6984);
  card_test_expect (card, CARD_TEST_LOGIN, 0x6984);
  card_test_expect (card, "804801B0", 0x6982);
  card_test_expect (card, "00240081 0C" CARD_TEST_PIN_HEX "323232323232", 0x9000);
  card_test_expect (card, "00200081", 0x63C3);
  card_test_expect (card, "0020008106 323232323232", 0x9000);
}

static void
test_initialize (void)
{
  g_autoptr (Card) card = new_logged_in (2);

  card_test_expect (card, "804801B0", 0x9000);
  card_test_expect (card, "00D7C401 06 54020000 5300", 0x9000);
  /* A wrong SO-PIN counts, and leaves all as it was. */
  card_test_expect (card, "80500000 19 80020001 8106 313131313131 8208 3131313131313131 910103",
                    0x63CE);
  assert_answer (card, "80580000 000000", 0x9000, "CC00CC01C401");
  assert_answer (card, "80520000 00", 0x9000, "0200 C8669CF006D8F0FA");
  /* With the right one nothing is left but the card's own key. */
  card_test_expect (card,
                    "80500000 1A 80020001 8107 31313131313131 8208" CARD_TEST_SO_PIN_HEX "910105",
                    0x9000);
  assert_answer (card, "80580000 000000", 0x9000, "CC00");
  card_test_expect (card, "80520000 00", 0x6D00);
  card_test_expect (card, "00200081", 0x63C5);
  card_test_expect (card, "00200088", 0x63CF);
  card_test_expect (card, "804801B0", 0x6982);
  card_test_expect (card, "00B12F02 000004 54020000 0000", 0x6282);
  /* One key domain is what there is. */
  card_test_expect (card,
                    "80500000 1C 80020001 8106 313131313131 8208" CARD_TEST_SO_PIN_HEX
                    "910103 970101",
                    0x9000);
}

static void
test_initialize_refused (void)
{
  static const char *const refused[] = {
    "80500000 17 80020001 8106 313131313131 8206 313131313131 910103",     /* a short SO-PIN */
    "80500000 18 80020001 8105 3131313131 8208 3131313131313131 910103",   /* a short PIN */
    "80500000 19 80020001 8106 313131313131 8208 3131313131313131 910104", /* too many tries for it */
    "80500000 19 80020001 8106 313131313131 8208 3131313131313131 910100",
    "80500000 1A 80020001 8107 31313131313131 8208 3131313131313131 910106",
    "80500000 1B 80020001 8108 3131313131313131 8208 3131313131313131 91010B",
    "80500000 16 80020001 8106 313131313131 8208 3131313131313131", /* no number of tries */
    "80500000 15 8106 313131313131 8208 3131313131313131 910103",   /* no options */
    "80500000 0F 80020001 8106 313131313131 910103",                /* no SO-PIN */
    "80500000 1C 80020001 8106 313131313131 8208 3131313131313131 910103 910103",
    "80500000 1D 80020001 8106 313131313131 8208 3131313131313131 910103 93020101", /* not known */
    "80500000 1C 80020001 8106 313131313131 8208 3131313131313131 910103 970102", /* two domains */
    "80500000 1C 80020001 8106 313131313131 8208 3131313131313131 910103 970100",
    "80500000 1D 80020001 8106 313131313131 8208 3131313131313131 910103 97020001",
    "80500000 1C 80020001 8106 313131313131 8208 3131313131313131 910103 950100",
    "80500000 1C 80020001 8106 313131313131 8208 3131313131313131 910103 960100",
    "80500000 1A 80020001 8106 313131313131 8208 3131313131313131 910103 92",
  };
  g_autoptr (Card) card = card_test_new_blank ();

  for (guint i = 0; i < G_N_ELEMENTS (refused); i++)
    card_test_expect (card, refused[i], 0x6A80);
  card_test_expect (card, "80500000", 0x6700);
  card_test_expect (card, "80500100 01 00", 0x6A86);
  card_test_expect (card, "00200081", 0x6A88);
}

/* Fifteen wrong SO-PINs, and the card can never be initialised again. */
static void
test_so_pin_blocked (void)
{
  g_autoptr (Card) card = card_test_new (0);

  for (guint i = 1; i <= 15; i++)
    card_test_expect (card, "0020008808 3131313131313131", i < 15 ? 0x63CF - i : 0x6983);
  card_test_expect (card, "0020008808 " CARD_TEST_SO_PIN_HEX, 0x6983);
  card_test_expect (card, "00200088", 0x6983);
  card_test_expect (card, "002C0181 08" CARD_TEST_SO_PIN_HEX, 0x6983);
  card_test_expect (card, "00240088 10" CARD_TEST_SO_PIN_HEX "3131313131313131", 0x6983);
  card_test_expect (card,
                    "80500000 19 80020001 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX
                    "910103",
                    0x6983);
  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
}

static void
test_dkek (void)
{
  g_autoptr (Card) card = card_test_new_blank ();

  card_test_expect (card, "80520000 00", 0x6D00);
  card_test_expect (card,
                    "80500000 1C 80020001 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX
                    "910103 920102",
                    0x9000);
  assert_answer (card, "80520000 00", 0x9000, "0202 0000000000000000");
  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  card_test_expect (card, "804801B0", 0x9000);
  card_test_expect (card, "80720192 000000", 0x6985);
  card_test_expect (card, "80740293 10 00000000000000000000000000000000", 0x6985);
  card_test_expect (card,
                    "80520000 1F 00000000000000000000000000000000000000000000000000000000000000 00",
                    0x6700);
  card_test_import_shares (card, 1);
  assert_answer (card, "80520000 00", 0x9000, "0201 0000000000000000");
  assert_answer (card,
                 "80520000 20 881deacd8c31ec48966e5eb7948a35582937849d373273bec12a52fe5e1c6170 00",
                 0x9000, "0200 C8669CF006D8F0FA");
  card_test_expect (
      card, "80520000 20 881deacd8c31ec48966e5eb7948a35582937849d373273bec12a52fe5e1c6170 00",
      0x6985);
  card_test_expect (card, "80520001 00", 0x6A86);
  card_test_expect (card, "80520100 00", 0x6A86);
}

/* Without shares the card makes a DKEK of its own; without the tag there is none. */
static void
test_dkek_kinds (void)
{
  g_autoptr (Card) card = card_test_new (0);
  g_autoptr (GBytes) status = NULL;

  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  card_test_expect (card, "804801B0", 0x9000);
  card_test_expect (card, "80720192 000000", 0x6D00);
  card_test_expect (card, "80740293 10 00000000000000000000000000000000", 0x6D00);
  card_test_expect (card,
                    "80500000 1C 80020001 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX
                    "910103 920100",
                    0x9000);
  status = card_test_send (card, "80520000 00", 0x9000);
  g_assert_cmpuint (g_bytes_get_size (status), ==, 10);
  g_assert_cmpmem (g_bytes_get_data (status, NULL), 2, "\0\0", 2);
  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  card_test_expect (card, "804801B0", 0x9000);
  card_test_expect (card, "80720192 000000", 0x9000);
}

/* What one card wraps, another with the same shares unwraps, and does the same with it. */
static void
test_clone (void)
{
  g_autoptr (Card) from = new_logged_in (2);
  g_autoptr (Card) to = new_logged_in (2);
  g_autoptr (Card) stranger = new_logged_in (0);
  g_autoptr (GBytes) make_ec = card_test_make_ec_command (2, "secp521r1");

  card_test_make_rsa (from, 1, 1024);
  g_bytes_unref (card_test_send_bytes (from, make_ec, 0x9000));
  card_test_expect (from, "804803B2 06 910410111892", 0x9000);
  for (guint i = 1; i <= 3; i++)
    {
      g_autofree char *wrap = g_strdup_printf ("8072%02X92 000000", i);
      g_autofree char *header = g_strdup_printf ("8074%02X93", i + 0x10);
      g_autoptr (GBytes) blob = card_test_send (from, wrap, 0x9000);
      g_autoptr (GBytes) command = card_test_make_apdu (header, g_bytes_get_data (blob, NULL),
                                                        g_bytes_get_size (blob), "");

      g_bytes_unref (card_test_send_bytes (to, command, 0x9000));
      g_bytes_unref (card_test_send_bytes (stranger, command, 0x6D00));
    }

  {
    static const char aes[] = "8078%02X10 10 00000000000000000000000000000000 00";
    g_autofree char *one = g_strdup_printf (aes, 3);
    g_autofree char *other = g_strdup_printf (aes, 0x13);
    g_autoptr (GBytes) a = card_test_send (from, one, 0x9000);
    g_autoptr (GBytes) b = card_test_send (to, other, 0x9000);
    guint8 block[128] = { 0, 1 };
    g_autoptr (GBytes) sign_one = card_test_make_apdu ("80680120", block, sizeof block, "0200");
    g_autoptr (GBytes) sign_other = card_test_make_apdu ("80681120", block, sizeof block, "0200");
    g_autoptr (GBytes) c = card_test_send_bytes (from, sign_one, 0x9000);
    g_autoptr (GBytes) d = card_test_send_bytes (to, sign_other, 0x9000);

    g_assert_true (g_bytes_equal (a, b));
    g_assert_true (g_bytes_equal (c, d));
  }
  /* The list came along. */
  card_test_expect (to, "80781399 10 00000000000000000000000000000000 00", 0x6A81);
  card_test_expect (
      to, "80681270 20 0000000000000000000000000000000000000000000000000000000000000001 00",
      0x9000);
  /* Requests stay where they were made. */
  card_test_expect (to, "00A4000002 CE11 00", 0x6A82);
}

/* A large blob goes through EF 2F10. */
static void
test_unwrap_from_file (void)
{
  g_autoptr (Card) card = new_logged_in (2);
  g_autoptr (GBytes) blob = NULL;
  g_autoptr (GByteArray) data = g_byte_array_new ();
  g_autoptr (GBytes) write = NULL;

  card_test_expect (card, "80740293", 0x6700);
  card_test_make_rsa (card, 1, 1024);
  blob = card_test_send (card, "80720192 000000", 0x9000);
  card_tlv_append (data, 0x54, (const guint8 *) "\0\0", 2);
  card_tlv_append (data, 0x53, g_bytes_get_data (blob, NULL), g_bytes_get_size (blob));
  write = card_test_make_apdu ("00D72F10", data->data, data->len, "");
  g_bytes_unref (card_test_send_bytes (card, write, 0x9000));
  card_test_expect (card, "80740293", 0x9000);
  card_test_expect (card, "00A4000002 CC02 00", 0x9000);
}

static void
test_wrap_refused (void)
{
  g_autoptr (Card) card = new_logged_in (2);
  g_autoptr (GBytes) blob = NULL;
  g_autofree guint8 *changed = NULL;
  g_autoptr (GBytes) command = NULL;

  card_test_expect (card, "804801B2", 0x9000);
  card_test_expect (card, "80720193 000000", 0x6A86);
  card_test_expect (card, "80720192 01 00 00", 0x6700);
  card_test_expect (card, "80720292 000000", 0x6A88);
  card_test_expect (card, "80720092 000000", 0x6A88);
  card_test_expect (card, "80720192 10", 0x6700);
  card_test_expect (card, "80720192", 0x6700);
  card_test_expect (card, "80740092 01 00", 0x6A86);
  card_test_expect (card, "80740093 01 00", 0x6A86);
  card_test_expect (card, "8074FF93 01 00", 0x6A86);
  card_test_expect (card, "80740593 01 00", 0x6A80);
  blob = card_test_send (card, "80720192 000000", 0x9000);
  changed = g_memdup2 (g_bytes_get_data (blob, NULL), g_bytes_get_size (blob));
  changed[40] ^= 1;
  command = card_test_make_apdu ("80740593", changed, g_bytes_get_size (blob), "");
  g_bytes_unref (card_test_send_bytes (card, command, 0x6A80));
  card_test_expect (card, "00A4000002 CC05 00", 0x6A82);
}

static void
test_generate_refused (void)
{
  static const char head[] = "5F290100 4209555443413030303031";
  static const char rsa[] = "7F4915060A04007F000702020201028203010001 02020400";
  static const char name[] = "5F200D56545445535430313030303031";
  const struct
  {
    const char *parts[4];
  } refused[] = {
    { { head, rsa } },                   /* no name */
    { { rsa, name } },                   /* no authority */
    { { head, name } },                  /* no key */
    { { head, rsa, name, "920101" } },   /* a domain that is not there */
    { { head, rsa, name, "90020001" } }, /* half a counter */
    { { head, rsa, name, "930101" } },   /* not known */
    { { head, rsa, name, name } },
    { { head, rsa, "5F2015565454455354303130303030310000000000000000" } }, /* a long name */
    { { "5F290100 421155544341303030303155544341303030303155", rsa, name } },
    { { head, "7F4915060A04007F000702020201028203010001 02020401", name } }, /* no size */
    { { head, "7F4915060A04007F000702020201028203010000 02020400", name } }, /* an even exponent */
    { { head, "7F4915060A04007F000702020201028203000001 02020400", name } }, /* one as exponent */
    { { head, "7F4911060A04007F00070202020102 8203010001", name } },
    { { head, "7F4915060A04007F000702020203028203010001 02020400", name } }, /* another OID */
    { { head, "7F490A 82030100010203020400", name } },
    { { head, "7F490F 060A04007F00070202020203 810101", name } }, /* half a curve */
  };
  g_autoptr (Card) card = new_logged_in (0);

  for (guint i = 0; i < G_N_ELEMENTS (refused); i++)
    {
      g_autoptr (GString) hex = g_string_new (NULL);
      g_autoptr (GBytes) data = NULL;
      g_autoptr (GBytes) command = NULL;

      for (guint j = 0; j < G_N_ELEMENTS (refused[i].parts) && refused[i].parts[j]; j++)
        g_string_append (hex, refused[i].parts[j]);
      data = card_test_parse_hex (hex->str);
      command = card_test_make_apdu ("00460100", g_bytes_get_data (data, NULL),
                                     g_bytes_get_size (data), "0000");
      g_bytes_unref (card_test_send_bytes (card, command, 0x6A80));
    }
  card_test_expect (card, "00460000 01 00", 0x6A86);
  card_test_expect (card, "0046FF00 01 00", 0x6A86);
  card_test_expect (card, "00460101 01 00", 0x6A86);
  card_test_expect (card, "00460100", 0x6700);
  card_test_expect (card, "804800B0", 0x6A86);
  card_test_expect (card, "8048FFB0", 0x6A86);
  card_test_expect (card, "804801B3", 0x6A86);
  card_test_expect (card, "804801B0 01 00", 0x6A80);
  card_test_expect (card, "804801B0 04 90020001", 0x6A80);
  card_test_expect (card, "804801B0 03 920101", 0x6A80);
  card_test_expect (
      card, "804801B0 23 9121000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F20",
      0x6A80);
  assert_answer (card, "80580000 000000", 0x9000, "CC00");
}

/* An answer that does not fit is refused before there is a key; without Le the request is only stored. */
static void
test_generate_answers (void)
{
  static const char data[]
      = "5F2901004209555443413030303031 7F4915060A04007F000702020201028203010001"
        "02020400 5F200D56545445535430313030303031";
  g_autoptr (Card) card = new_logged_in (0);
  g_autofree char *short_le = g_strdup_printf ("00460100 37 %s 10", data);
  g_autofree char *without_le = g_strdup_printf ("00460100 37 %s", data);

  card_test_expect (card, short_le, 0x6700);
  assert_answer (card, "80580000 000000", 0x9000, "CC00");
  assert_answer (card, without_le, 0x9000, "");
  assert_answer (card, "80580000 000000", 0x9000, "CC00CC01CE01");
}

static CardKey *
count_and_give_rsa (guint bits, gpointer n_given)
{
  *(guint *) n_given += 1;
  return card_key_generate_rsa (bits, (const guint8 *) "\1\0\1", 3);
}

/* What is refused takes no key from the pool; the size of the answer is known to the byte beforehand. */
static void
test_generate_refused_early (void)
{
#define PAIR                                                                                       \
  "5F2901004209555443413030303031 7F4915060A04007F000702020201028203010001 02020400"               \
  "5F200D56545445535430313030303031"
  static const struct
  {
    const char *command;
    guint status;
  } refused[] = {
    { "00460100 000037" PAIR "0001", 0x6700 },
    { "00460100 00003C" PAIR "9003000001 0000", 0x6A80 },
    { "00460100 00005A" PAIR
      "9121000000000000000000000000000000000000000000000000000000000000000000"
      "0000",
      0x6A80 },
  };
  guint n_given = 0;
  CardOptions options = { .serial = CARD_TEST_SERIAL,
                          .version_major = 3,
                          .memory = 1400,
                          .rsa_source = count_and_give_rsa,
                          .rsa_source_data = &n_given };
  g_autoptr (Card) card = card_new (&options);
  g_autoptr (Card) larger = NULL;
  g_autoptr (GBytes) answer = NULL;
  g_autoptr (GBytes) state = NULL;
  g_autofree char *too_short = NULL;
  g_autofree char *just_enough = NULL;

  card_test_expect (card,
                    "80500000 19 80020001 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX
                    "910103",
                    0x9000);
  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  for (guint i = 0; i < G_N_ELEMENTS (refused); i++)
    card_test_expect (card, refused[i].command, refused[i].status);
  card_test_expect (card, "00460100 000037" PAIR "0000", 0x6A84);
  g_assert_cmpuint (n_given, ==, 0);

  state = card_dup_state (card);
  options.memory = CARD_DEFAULT_MEMORY;
  larger = card_new_from_state (&options, state, NULL);
  g_assert_nonnull (larger);
  card_test_expect (larger, CARD_TEST_LOGIN, 0x9000);
  answer = card_test_send (larger, "00460100 000037" PAIR "0000", 0x9000);
  g_assert_cmpuint (n_given, ==, 1);
  too_short
      = g_strdup_printf ("00460100 000037" PAIR "%04X", (guint) g_bytes_get_size (answer) - 1);
  just_enough = g_strdup_printf ("00460100 000037" PAIR "%04X", (guint) g_bytes_get_size (answer));
  card_test_expect (larger, too_short, 0x6700);
  g_assert_cmpuint (n_given, ==, 1);
  card_test_expect (larger, just_enough, 0x9000);
  g_assert_cmpuint (n_given, ==, 2);
#undef PAIR
}

/* A curve counts as known only when all of its parameters are. */
static void
test_changed_curve (void)
{
  g_autoptr (Card) card = new_logged_in (0);
  g_autoptr (GBytes) command = card_test_make_ec_command (1, "prime256v1");
  gsize size = g_bytes_get_size (command);
  const guint8 *bytes = g_bytes_get_data (command, NULL);
  /* Behind header, Lc, profile, CAR, template and OID: 81 20 p, 82 20 a, 83 20 b, 84 41 G, 85 20 n. */
  static const gsize in_values[] = { 45, 79, 113, 147, 213 };

  for (guint i = 0; i < G_N_ELEMENTS (in_values); i++)
    {
      g_autofree guint8 *changed = g_memdup2 (bytes, size);
      g_autoptr (GBytes) changed_command = NULL;

      changed[in_values[i]] ^= 1;
      changed_command = g_bytes_new (changed, size);
      g_bytes_unref (card_test_send_bytes (card, changed_command, 0x6A80));
    }
  g_bytes_unref (card_test_send_bytes (card, command, 0x9000));
}

static void
test_use_refused (void)
{
  g_autoptr (Card) card = new_logged_in (0);
  g_autoptr (GBytes) make_ec = card_test_make_ec_command (2, "prime256v1");

  card_test_make_rsa (card, 1, 1024);
  g_bytes_unref (card_test_send_bytes (card, make_ec, 0x9000));
  card_test_expect (card, "804803B0", 0x9000);

  card_test_expect (card, "80680170 01 00 00", 0x6A81);
  card_test_expect (card, "80680230 01 00 00", 0x6A81);
  card_test_expect (card, "80680320 01 00 00", 0x6A81);
  card_test_expect (card, "80620180 01 00 00", 0x6A81);
  card_test_expect (card, "80620221 01 00 00", 0x6A81);
  card_test_expect (card, "80780110 10 00000000000000000000000000000000 00", 0x6A81);
  /* Algorithms that are none. */
  card_test_expect (card, "80680142 01 00 00", 0x6A81);
  card_test_expect (card, "80680121 01 00 00", 0x6A81);
  card_test_expect (card, "80680136 01 00 00", 0x6A81);
  card_test_expect (card, "80620122 01 00 00", 0x6A81);
  /* Keys that are none, and the card's own. */
  card_test_expect (card, "80680930 01 00 00", 0x6A88);
  card_test_expect (card, "80620921 01 00 00", 0x6A88);
  card_test_expect (card, "80780910 01 00 00", 0x6A88);
  card_test_expect (card, "80680070 01 00 00", 0x6A88);
  /* Input that cannot be signed. */
  card_test_expect (card, "80680120 01 00 00", 0x6700);
  card_test_expect (card, "80680130", 0x6700);
  card_test_expect (card, "80680140 03 000000 00", 0x6A80);
  card_test_expect (card, "80680140 06 300404020000 00", 0x6A80);
  {
    /* SHA-512 and a salt as long do not fit into 1,024 bits. */
    guint8 digest[64] = { 0 };
    g_autoptr (GBytes) pss = card_test_make_apdu ("80680140", digest, sizeof digest, "0200");
    guint8 block[118] = { 0 };
    g_autoptr (GBytes) pkcs1 = card_test_make_apdu ("80680130", block, sizeof block, "0200");
    guint8 large[128];
    g_autoptr (GBytes) raw = NULL;

    g_bytes_unref (card_test_send_bytes (card, pss, 0x6A80));
    g_bytes_unref (card_test_send_bytes (card, pkcs1, 0x6A80));
    memset (large, 0xFF, sizeof large);
    raw = card_test_make_apdu ("80680120", large, sizeof large, "0200");
    g_bytes_unref (card_test_send_bytes (card, raw, 0x6A80));
  }
  card_test_expect (card, "80680131 01 00 7F", 0x6700);
  card_test_expect (card, "80680131 01 00", 0x6700);
}

static void
test_challenge (void)
{
  g_autoptr (Card) card = card_test_new_blank ();
  g_autoptr (GBytes) a = card_test_send (card, "00840000 20", 0x9000);
  g_autoptr (GBytes) b = card_test_send (card, "00840000 20", 0x9000);
  g_autoptr (GBytes) large = card_test_send (card, "00840000 000400", 0x9000);

  g_assert_cmpuint (g_bytes_get_size (a), ==, 32);
  g_assert_false (g_bytes_equal (a, b));
  g_assert_cmpuint (g_bytes_get_size (large), ==, 1024);
  card_test_expect (card, "00840000 000401", 0x6700);
  card_test_expect (card, "00840000", 0x6700);
  card_test_expect (card, "00840000 01 00 08", 0x6700);
  card_test_expect (card, "00840100 08", 0x6A86);
}

/* The same number, the same card: that is what makes runs of tests repeatable. */
static void
test_seed (void)
{
  g_autoptr (Card) one = new_logged_in (2);
  g_autoptr (Card) other = new_logged_in (2);
  g_autoptr (GBytes) challenge_one = card_test_send (one, "00840000 20", 0x9000);
  g_autoptr (GBytes) challenge_other = card_test_send (other, "00840000 20", 0x9000);
  g_autoptr (GBytes) make = card_test_make_ec_command (1, "prime256v1");
  g_autoptr (GBytes) blob_one = NULL;
  g_autoptr (GBytes) blob_other = NULL;

  g_assert_true (g_bytes_equal (challenge_one, challenge_other));
  g_bytes_unref (card_test_send_bytes (one, make, 0x9000));
  g_bytes_unref (card_test_send_bytes (other, make, 0x9000));
  blob_one = card_test_send (one, "80720192 000000", 0x9000);
  blob_other = card_test_send (other, "80720192 000000", 0x9000);
  g_assert_true (g_bytes_equal (blob_one, blob_other));
}

static void
test_classes (void)
{
  g_autoptr (Card) card = new_logged_in (0);

  card_test_expect (card, "00000000", 0x6D00);
  card_test_expect (card, "80FF0000", 0x6D00);
  card_test_expect (card, "00220000", 0x6D00);
  card_test_expect (card, "002A0000", 0x6D00);
  card_test_expect (card, "80540000", 0x6D00);
  card_test_expect (card, "80200081", 0x6E00);
  card_test_expect (card, "00680120", 0x6E00);
  card_test_expect (card, "0C200081", 0x6882);
  card_test_expect (card, "8C680120", 0x6882);
  card_test_expect (card, "04200081", 0x6882);
  card_test_expect (card, "10200081", 0x6E00);
  card_test_expect (card, "FF200081", 0x6E00);
}

static void
test_login_is_wanted (void)
{
  static const char *const commands[] = {
    "00D7C401 06 54020000 5300",
    "00E40200 02 C401",
    "00460100 01 00",
    "004801B0",
    "804801B0",
    "80620121 01 00 00",
    "80680120 01 00 00",
    "80720192 000000",
    "80740193 01 00",
    "80780110 01 00 00",
  };
  g_autoptr (Card) blank = card_test_new_blank ();
  g_autoptr (Card) card = card_test_new (2);

  for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
    {
      card_test_expect (blank, commands[i], 0x6982);
      card_test_expect (card, commands[i], 0x6982);
    }
  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  card_test_expect (card, "804801B0", 0x9000);
  card_reset (card);
  card_test_expect (card, "804801B0", 0x6982);
}

static void
test_needs_select (void)
{
  const CardOptions options = { .serial = CARD_TEST_SERIAL,
                                .version_major = 3,
                                .memory = CARD_DEFAULT_MEMORY,
                                .needs_select = TRUE };
  g_autoptr (Card) card = card_new (&options);

  card_test_expect (card, "00200081", 0x6D00);
  card_test_expect (card, "00A4000002 2F02 00", 0x6D00);
  card_test_expect (card, "00A4040006 A00000000101", 0x6A82);
  card_test_expect (card, SELECT_APPLET, 0x9000);
  card_test_expect (card, "00200081", 0x6A88);
  card_reset (card);
  card_test_expect (card, "00200081", 0x6D00);
}

static void
test_memory (void)
{
  const CardOptions options = { .serial = CARD_TEST_SERIAL, .version_major = 3, .memory = 1300 };
  g_autoptr (Card) card = card_new (&options);
  guint8 data[4 + 4 + 600] = { 0x54, 0x02, 0x00, 0x00, 0x53, 0x82, 0x02, 0x58 };
  g_autoptr (GBytes) write = card_test_make_apdu ("00D7C901", data, sizeof data, "");
  g_autoptr (GBytes) again = card_test_make_apdu ("00D7C902", data, sizeof data, "");
  g_autoptr (GBytes) make_ec = card_test_make_ec_command (1, "prime256v1");

  card_test_expect (card,
                    "80500000 1C 80020001 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX
                    "910103 920102",
                    0x9000);
  card_test_import_shares (card, 2);
  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  card_test_expect (card, "804802B2", 0x9000);
  g_bytes_unref (card_test_send_bytes (card, write, 0x9000));
  g_bytes_unref (card_test_send_bytes (card, again, 0x6A84));
  g_bytes_unref (card_test_send_bytes (card, make_ec, 0x6A84));
  assert_answer (card, "80580000 000000", 0x9000, "CC00CC02C901");
  /* What takes the place of something needs no more than the difference. */
  g_bytes_unref (card_test_send_bytes (card, write, 0x9000));
  card_test_expect (card, "804802B2", 0x9000);
  card_test_expect (card, "00E40200 02 C901", 0x9000);
  {
    g_autoptr (GBytes) blob = card_test_send (card, "80720292 000000", 0x9000);
    guint8 fill[4 + 4 + 580] = { 0x54, 0x02, 0x00, 0x00, 0x53, 0x82, 0x02, 0x44 };
    g_autoptr (GBytes) most = card_test_make_apdu ("00D7C901", fill, sizeof fill, "");
    g_autoptr (GBytes) unwrap = card_test_make_apdu ("80740393", g_bytes_get_data (blob, NULL),
                                                     g_bytes_get_size (blob), "");

    g_bytes_unref (card_test_send_bytes (card, most, 0x9000));
    card_test_expect (card, "00D7CA01 06 54020000 5300", 0x9000);
    g_bytes_unref (card_test_send_bytes (card, unwrap, 0x6A84));
    card_test_expect (card, "804803B2", 0x6A84);
  }
}

static CardKey *
give_same_rsa (guint bits, gpointer key)
{
  const CardKey *rsa = key;

  g_assert_cmpuint (rsa->bits, ==, bits);
  return card_key_new_rsa_from_pair (rsa->pair);
}

/* As many keys as a 4K card is said to hold, each with a request and a description of 80 bytes. */
static void
test_sixty_rsa (void)
{
  g_autoptr (CardKey) key = card_key_generate_rsa (2048, (const guint8 *) "\1\0\1", 3);
  const CardOptions options = { .serial = CARD_TEST_SERIAL,
                                .version_major = 3,
                                .memory = CARD_DEFAULT_MEMORY,
                                .rsa_source = give_same_rsa,
                                .rsa_source_data = key };
  g_autoptr (Card) card = card_new (&options);
  const guint8 description[6 + 80] = { 0x54, 0x02, 0x00, 0x00, 0x53, 0x50 };

  card_test_expect (card,
                    "80500000 19 80020001 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX
                    "910103",
                    0x9000);
  card_test_expect (card, CARD_TEST_LOGIN, 0x9000);
  for (guint8 id = 1; id <= 60; id++)
    {
      g_autofree char *header = g_strdup_printf ("00D7C4%02X", id);
      g_autoptr (GBytes) describe
          = card_test_make_apdu (header, description, sizeof description, "");

      card_test_make_rsa (card, id, 2048);
      g_bytes_unref (card_test_send_bytes (card, describe, 0x9000));
    }
}

/* Each status word that the card itself gives, with the shortest way there. */
static void
test_status_words (void)
{
#define SET_UP "8050000019 80020001 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX "910103"
#define SET_UP_FOR_TRANSPORT                                                                       \
  "8050000019 80020003 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX "910103"
#define SET_UP_WITH_DKEK                                                                           \
  "805000001C 80020001 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX "910103 920101"
#define WRONG_PIN "0020008106 313131313131"
  static const struct
  {
    guint status;
    const char *commands[6]; /* the last one ends with it */
  } rows[] = {
    { 0x9000, { SELECT_APPLET } },
    { 0x6282, { "00B12F02 000004 54020000 0000" } },
    { 0x63C2, { SET_UP, WRONG_PIN } },
    { 0x6700, { "00200081 063634" } },
    { 0x6982, { SET_UP, "004801B0" } },
    { 0x6983, { SET_UP, WRONG_PIN, WRONG_PIN, WRONG_PIN, WRONG_PIN } },
    { 0x6984, { SET_UP_FOR_TRANSPORT, "00200081" } },
    { 0x6985, { SET_UP_WITH_DKEK, CARD_TEST_LOGIN, "80720192 000000" } },
    { 0x6986, { "00B10000 04 54020000 00" } },
    { 0x6A80, { "80500000 01 00" } },
    { 0x6A81, { SET_UP, CARD_TEST_LOGIN, "004801B0", "80680120 01 00 00" } },
    { 0x6A82, { "00A4040006 A00000000101" } },
    { 0x6A84, { SET_UP, CARD_TEST_LOGIN, "00D7C901 0A 54020000 5304 01020304" } },
    { 0x6A86, { "80580100 00" } },
    { 0x6A88, { "00200081" } },
    { 0x6D00, { "80520000 00" } },
    { 0x6E00, { "80200081" } },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      const CardOptions options = { .serial = CARD_TEST_SERIAL,
                                    .version_major = 3,
                                    .memory = rows[i].status == 0x6A84 ? 0 : CARD_DEFAULT_MEMORY };
      g_autoptr (Card) card = card_new (&options);
      guint n_commands = 0;

      while (n_commands < G_N_ELEMENTS (rows[i].commands) && rows[i].commands[n_commands])
        n_commands++;
      for (guint j = 0; j + 1 < n_commands; j++)
        {
          g_autoptr (GBytes) command = card_test_parse_hex (rows[i].commands[j]);

          g_bytes_unref (
              card_process (card, g_bytes_get_data (command, NULL), g_bytes_get_size (command)));
        }
      card_test_expect (card, rows[i].commands[n_commands - 1], rows[i].status);
    }
}

static void
test_large_rsa (void)
{
  static const guint sizes[] = { 1536, 3072, 4096 };
  g_autoptr (Card) card = new_logged_in (0);

  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      EVP_PKEY *public_key;

      card_test_make_rsa (card, 1, sizes[i]);
      public_key = read_rsa_public_key (card, 1);
      g_assert_cmpint (EVP_PKEY_get_bits (public_key), ==, (int) sizes[i]);
      assert_rsa_signature (card, public_key, 0x33, EVP_sha256 (), FALSE, (const guint8 *) "x", 1,
                            (const guint8 *) "x", 1);
      EVP_PKEY_free (public_key);
    }
}

static void
test_serials (void)
{
  const CardOptions options = { .version_major = 3, .memory = CARD_DEFAULT_MEMORY };
  g_autoptr (Card) one = card_new (&options);
  g_autoptr (Card) other = card_new (&options);

  g_assert_true (card_serial_is_valid (card_get_serial (one)));
  g_assert_cmpstr (card_get_serial (one), !=, card_get_serial (other));
  g_assert_true (g_str_has_prefix (card_get_serial (one), "VT"));
  g_assert_true (card_serial_is_valid ("DEX"));
  g_assert_true (card_serial_is_valid ("DENK0100001"));
  g_assert_false (card_serial_is_valid ("DE"));
  g_assert_false (card_serial_is_valid ("DENK01000012"));
  g_assert_false (card_serial_is_valid ("1E234"));
  g_assert_false (card_serial_is_valid ("DEabc"));
  g_assert_false (card_serial_is_valid ("DE 12"));
  g_assert_false (card_serial_is_valid (""));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, func) g_test_add_func ("/card/" name, func)
  ADD ("select", test_select);
  ADD ("select-shows-options", test_select_shows_options);
  ADD ("certificates", test_certificates);
  ADD ("generate-ec", test_generate_ec);
  ADD ("sign-rsa", test_sign_rsa);
  ADD ("sign-ec", test_sign_ec);
  ADD ("decipher-rsa", test_decipher_rsa);
  ADD ("ecdh", test_ecdh);
  ADD ("cipher", test_cipher);
  ADD ("permitted-algorithms", test_permitted_algorithms);
  ADD ("use-counter", test_use_counter);
  ADD ("files", test_files);
  ADD ("largest-file", test_largest_file);
  ADD ("current-file", test_current_file);
  ADD ("enumerate", test_enumerate);
  ADD ("protected-data", test_protected_data);
  ADD ("verify", test_verify);
  ADD ("change-pins", test_change_pins);
  ADD ("reset-retry-counter", test_reset_retry_counter);
  ADD ("reset-forbidden", test_reset_forbidden);
  ADD ("transport-pin", test_transport_pin);
  ADD ("initialize", test_initialize);
  ADD ("initialize-refused", test_initialize_refused);
  ADD ("so-pin-blocked", test_so_pin_blocked);
  ADD ("dkek", test_dkek);
  ADD ("dkek-kinds", test_dkek_kinds);
  ADD ("clone", test_clone);
  ADD ("unwrap-from-file", test_unwrap_from_file);
  ADD ("wrap-refused", test_wrap_refused);
  ADD ("generate-refused", test_generate_refused);
  ADD ("generate-refused-early", test_generate_refused_early);
  ADD ("generate-answers", test_generate_answers);
  ADD ("changed-curve", test_changed_curve);
  ADD ("use-refused", test_use_refused);
  ADD ("challenge", test_challenge);
  ADD ("seed", test_seed);
  ADD ("classes", test_classes);
  ADD ("login-is-wanted", test_login_is_wanted);
  ADD ("needs-select", test_needs_select);
  ADD ("memory", test_memory);
  ADD ("sixty-rsa", test_sixty_rsa);
  ADD ("status-words", test_status_words);
  ADD ("large-rsa", test_large_rsa);
  ADD ("serials", test_serials);
  return g_test_run ();
}
