/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-opensc"

#include "kw-card-rig.h"

#include <glib/gstdio.h>
#include <string.h>

/*
 * The virtual card as OpenSC's own tools see it: what they say, what openssl makes of the results, and what state the
 * card is in afterwards. Exit statuses prove little: sc-hsm-tool ends with 0 after a card has refused.
 */

#define N_SHARES 2
#define OTHER_KID "9"
#define PIN KW_CARD_RIG_PIN
#define SO_PIN KW_CARD_RIG_SO_PIN
#define WRONG_PIN "000000"
#define WRONG_SO_PIN "0000000000000000"
#define AES_BLOCK "00112233445566778899AABBCCDDEEFF"
#define SELECT_CARD "00A404000BE82B0601040181C31F020100"
#define VERIFY_PIN "0020008106363438323139"
#define VERIFY_WRONG_PIN "0020008106303030303030"
#define PIN_STATUS "00200081"
#define SO_PIN_STATUS "00200088"

/* Two share files with their passwords, and the check value that sc-hsm-tool prints after importing both. */
#define SHARE_1                                                                                    \
  "53616c7465645f5fe288bdbe09febc92d20650054cee1201a14c370e292dea76"                               \
  "4d74de7708d43eb01f20df3bf4b9110a8352ac6e2c2f029bbc1950defe340a61"
#define SHARE_2                                                                                    \
  "53616c7465645f5fbc0d28dbd054030bf77a86b68e69c734793f1ab9e6037bdb"                               \
  "cb7b54304c0914c345db21af4dceee8340c609611cd1c91b5553fa5fac207b8d"
#define CHECK_VALUE "C8669CF006D8F0FA"

typedef struct
{
  KwCardRig *rig;
  const char *directory;
  char *message; /* path of a file of 100 bytes */
} Fixture;

static char *
path_of (Fixture *f, const char *name)
{
  return g_build_filename (f->directory, name, NULL);
}

static Fixture *
fixture_new_blank (guint n_cards)
{
  static const char text[101]
      = "What a card signs here is a message of one hundred bytes, which is "
        "long enough to fill two blocks.   ";
  Fixture *f = g_new0 (Fixture, 1);

  f->rig = kw_card_rig_new (n_cards, NULL);
  f->directory = kw_card_rig_get_directory (f->rig);
  f->message = path_of (f, "message");
  g_assert_true (g_file_set_contents (f->message, text, sizeof text - 1, NULL));
  return f;
}

static Fixture *
fixture_new (guint n_cards)
{
  Fixture *f = fixture_new_blank (n_cards);

  for (guint i = 0; i < n_cards; i++)
    {
      g_autofree char *label = g_strdup_printf ("VT demo %u", i + 1);

      kw_card_rig_initialise (f->rig, i, NULL, NULL, N_SHARES, label, NULL);
      g_free (kw_card_rig_import_shares (f->rig, i, N_SHARES, NULL));
    }
  return f;
}

static void
fixture_free (Fixture *f)
{
  kw_card_rig_free (f->rig);
  g_free (f->message);
  g_free (f);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Fixture, fixture_free)

#define assert_has(text, part)                                                                     \
  G_STMT_START                                                                                     \
  {                                                                                                \
    if (strstr ((text), (part)) == NULL)                                                           \
      g_error ("%s:%d: no “%s” in:\n%s", __FILE__, __LINE__, (part), (text));                      \
  }                                                                                                \
  G_STMT_END

#define assert_has_not(text, part)                                                                 \
  G_STMT_START                                                                                     \
  {                                                                                                \
    if (strstr ((text), (part)) != NULL)                                                           \
      g_error ("%s:%d: “%s” in:\n%s", __FILE__, __LINE__, (part), (text));                         \
  }                                                                                                \
  G_STMT_END

static void
assert_answer (Fixture *f, guint card, const char *apdu, const char *expected)
{
  g_autofree char *answer = kw_card_rig_transmit (f->rig, card, apdu, NULL);

  g_assert_cmpstr (answer, ==, expected);
}

/* How many tries the PIN has; without selecting the card first, whoever is logged in gets 9000. */
static void
assert_pin_status (Fixture *f, guint card, const char *expected)
{
  g_autoptr (KwCardSession) session = kw_card_session_new (f->rig, card, NULL);
  g_autofree char *selected = kw_card_session_transmit_hex (session, SELECT_CARD, NULL);
  g_autofree char *status = kw_card_session_transmit_hex (session, PIN_STATUS, NULL);

  g_assert_true (g_str_has_suffix (selected, "9000"));
  g_assert_cmpstr (status, ==, expected);
}

/* Runs a program, which must end with status 0; what it said. */
static char *run_ok (Fixture *f, ...) G_GNUC_NULL_TERMINATED;

static char *
run_ok (Fixture *f, ...)
{
  g_autoptr (GPtrArray) argv = g_ptr_array_new ();
  g_autofree char *output = NULL;
  va_list arguments;
  int status = 0;

  va_start (arguments, f);
  for (const char *argument = va_arg (arguments, char *); argument != NULL;
       argument = va_arg (arguments, char *))
    g_ptr_array_add (argv, (gpointer) argument);
  va_end (arguments);
  g_ptr_array_add (argv, NULL);
  status = kw_card_rig_runv (f->rig, &output, (const char *const *) argv->pdata);
  if (status != 0)
    {
      g_autofree char *command = g_strjoinv (" ", (char **) argv->pdata);

      g_error ("status %d of %s:\n%s", status, command, output);
    }
  return g_steal_pointer (&output);
}

#define PKCS11(f, card)                                                                            \
  (f), "pkcs11-tool", "--slot-description", kw_card_rig_get_reader ((f)->rig, (card))
#define PKCS11_LOGIN(f, card) PKCS11 (f, card), "--login", "--pin", PIN
#define SC_HSM(f, card) (f), "sc-hsm-tool", "--reader", kw_card_rig_get_reader ((f)->rig, (card))

/*
 * The path of a PEM file with the public key that the card shows. By pkcs15-tool, because pkcs11-tool --read-object of
 * OpenSC 0.23 fails with some curves, P-384 one of them.
 */
static char *
dup_public_key (Fixture *f, guint card, const char *id)
{
  g_autofree char *name = g_strdup_printf ("public-%u-%s.pem", card, id);
  g_autofree char *pem = path_of (f, name);

  g_free (run_ok (f, "pkcs15-tool", "--reader", kw_card_rig_get_reader (f->rig, card),
                  "--read-public-key", id, "--output", pem, NULL));
  g_free (run_ok (f, "openssl", "pkey", "-pubin", "-in", pem, "-noout", NULL));
  return g_steal_pointer (&pem);
}

static char *
read_hex (const char *path)
{
  g_autofree char *data = NULL;
  gsize size = 0;
  GString *text = g_string_new (NULL);

  g_assert_true (g_file_get_contents (path, &data, &size, NULL));
  for (gsize i = 0; i < size; i++)
    g_string_append_printf (text, "%02X", (guint8) data[i]);
  return g_string_free (text, FALSE);
}

static void
write_hex (const char *path, const char *hex)
{
  g_autoptr (GByteArray) bytes = g_byte_array_new ();

  for (; hex[0] != '\0'; hex += 2)
    {
      guint8 byte = (guint8) (g_ascii_xdigit_value (hex[0]) << 4 | g_ascii_xdigit_value (hex[1]));

      g_byte_array_append (bytes, &byte, 1);
    }
  g_assert_true (g_file_set_contents (path, (const char *) bytes->data, (gssize) bytes->len, NULL));
}

static void
assert_same_files (const char *a, const char *b)
{
  g_autofree char *text_a = read_hex (a);
  g_autofree char *text_b = read_hex (b);

  g_assert_cmpstr (text_a, ==, text_b);
}

/* PKCS#11 shows the same one. */
static void
check_public_key_object (Fixture *f, const char *id, const char *pem)
{
  g_autofree char *der = path_of (f, "public.der");
  g_autofree char *from_pem = path_of (f, "public-from-pem.der");

  g_free (run_ok (PKCS11 (f, 0), "--read-object", "--type", "pubkey", "--id", id, "--output-file",
                  der, NULL));
  g_free (run_ok (f, "openssl", "pkey", "-pubin", "-in", pem, "-outform", "DER", "-out", from_pem,
                  NULL));
  assert_same_files (der, from_pem);
}

/* --- signatures ------------------------------------------------------------------------------ */

static void
check_rsa_signature (Fixture *f, guint card, const char *id, const char *pem)
{
  g_autofree char *signature = path_of (f, "signature");
  g_autofree char *output = NULL;

  g_unlink (signature);
  g_free (run_ok (PKCS11_LOGIN (f, card), "--sign", "--id", id, "--mechanism", "SHA256-RSA-PKCS",
                  "--input-file", f->message, "--output-file", signature, NULL));
  output = run_ok (f, "openssl", "dgst", "-sha256", "-verify", pem, "-signature", signature,
                   f->message, NULL);
  assert_has (output, "Verified OK");
}

static void
check_pss_signature (Fixture *f, guint card, const char *id, const char *pem)
{
  g_autofree char *signature = path_of (f, "signature");
  g_autofree char *output = NULL;

  g_unlink (signature);
  g_free (run_ok (PKCS11_LOGIN (f, card), "--sign", "--id", id, "--mechanism",
                  "SHA256-RSA-PKCS-PSS", "--input-file", f->message, "--output-file", signature,
                  NULL));
  output = run_ok (f, "openssl", "dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt",
                   "rsa_pss_saltlen:digest", "-verify", pem, "-signature", signature, f->message,
                   NULL);
  assert_has (output, "Verified OK");
}

static void
check_ecdsa_signature (Fixture *f, guint card, const char *id, const char *pem)
{
  g_autofree char *signature = path_of (f, "signature");
  g_autofree char *output = NULL;

  g_unlink (signature);
  g_free (run_ok (PKCS11_LOGIN (f, card), "--sign", "--id", id, "--mechanism", "ECDSA-SHA256",
                  "--signature-format", "openssl", "--input-file", f->message, "--output-file",
                  signature, NULL));
  output = run_ok (f, "openssl", "dgst", "-sha256", "-verify", pem, "-signature", signature,
                   f->message, NULL);
  assert_has (output, "Verified OK");
}

static void
test_signatures (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *rsa = NULL;
  g_autofree char *ec = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  kw_card_rig_generate_rsa (f->rig, 0, 2048, "10", "rsa one", NULL);
  kw_card_rig_generate_ec (f->rig, 0, "prime256v1", "20", "ec one", NULL);
  rsa = dup_public_key (f, 0, "10");
  ec = dup_public_key (f, 0, "20");
  check_public_key_object (f, "10", rsa);
  check_public_key_object (f, "20", ec);
  check_rsa_signature (f, 0, "10", rsa);
  check_pss_signature (f, 0, "10", rsa);
  check_ecdsa_signature (f, 0, "20", ec);
}

/* --- what is on the card --------------------------------------------------------------------- */

static void
test_status (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *output = NULL;
  g_autofree char *pending = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new_blank (1);
  kw_card_rig_initialise (f->rig, 0, SO_PIN, PIN, N_SHARES, "VT demo", NULL);
  pending = run_ok (SC_HSM (f, 0), NULL);
  assert_has (pending, "DKEK import pending, 2 share(s) still missing");
  g_free (kw_card_rig_import_shares (f->rig, 0, N_SHARES, NULL));
  output = run_ok (SC_HSM (f, 0), NULL);
  assert_has (output, "Version              : ");
  assert_has (output, "User PIN reset with SO-PIN enabled");
  assert_has (output, "SO-PIN tries left    : 15");
  assert_has (output, "User PIN tries left  : 3");
  assert_has (output, "DKEK shares          : 2");
  assert_has (output, "DKEK key check value : ");
  assert_has_not (output, "pending");
}

static void
test_lists (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *slots = NULL;
  g_autofree char *objects = NULL;
  g_autofree char *dump = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (2);
  g_assert_cmpuint (kw_card_rig_generate_rsa (f->rig, 0, 2048, "10", "rsa one", NULL), ==, 1);
  g_assert_cmpuint (kw_card_rig_generate_ec (f->rig, 0, "prime256v1", "20", "ec one", NULL), ==, 2);
  slots = run_ok (f, "pkcs11-tool", "--list-slots", NULL);
  for (guint i = 0; i < 2; i++)
    {
      assert_has (slots, kw_card_rig_get_reader (f->rig, i));
      assert_has (slots, kw_card_rig_get_serial (f->rig, i));
    }
  assert_has (slots, "VT demo 1 (UserPIN)");
  assert_has (slots, "VT demo 2 (UserPIN)");
  assert_has (slots, "login required, rng, token initialized, PIN initialized");
  objects = run_ok (PKCS11_LOGIN (f, 0), "--list-objects", NULL);
  assert_has (objects, "Private Key Object; RSA");
  assert_has (objects, "Public Key Object; RSA 2048 bits");
  assert_has (objects, "Private Key Object; EC");
  assert_has (objects, "Public Key Object; EC  EC_POINT 256 bits");
  assert_has (objects, "rsa one");
  assert_has (objects, "ec one");
  dump = run_ok (f, "pkcs15-tool", "--reader", kw_card_rig_get_reader (f->rig, 0), "--dump", NULL);
  assert_has (dump, "PKCS#15 Card [VT demo 1]");
  assert_has (dump, kw_card_rig_get_serial (f->rig, 0));
  assert_has (dump, "Private RSA Key [rsa one]");
  assert_has (dump, "Private EC Key [ec one]");
  assert_has (dump, "Key ref        : 2");
}

static void
test_deleted_key_is_gone (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *objects = NULL;
  guint8 kid = 0;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  kid = kw_card_rig_generate_ec (f->rig, 0, "prime256v1", "20", "ec one", NULL);
  g_free (run_ok (PKCS11_LOGIN (f, 0), "--delete-object", "--type", "privkey", "--id", "20", NULL));
  objects = run_ok (PKCS11_LOGIN (f, 0), "--list-objects", NULL);
  assert_has_not (objects, "Key Object");
  assert_answer (f, 0, "00A4000002CC0100", "6A82");
  assert_answer (f, 0, "00A4000002C40100", "6A82");
  /* The key reference is free again. */
  g_assert_cmpuint (kw_card_rig_generate_ec (f->rig, 0, "prime256v1", "21", "ec two", NULL), ==,
                    kid);
}

/* --- decryption and agreement ---------------------------------------------------------------- */

static void
test_decryption (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *pem = NULL;
  g_autofree char *ciphertext = NULL;
  g_autofree char *plaintext = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  kw_card_rig_generate_rsa (f->rig, 0, 2048, "10", "rsa one", NULL);
  pem = dup_public_key (f, 0, "10");
  ciphertext = path_of (f, "ciphertext");
  plaintext = path_of (f, "plaintext");

  g_free (run_ok (f, "openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", pem, "-in", f->message,
                  "-out", ciphertext, NULL));
  g_free (run_ok (PKCS11_LOGIN (f, 0), "--decrypt", "--id", "10", "--mechanism", "RSA-PKCS",
                  "--input-file", ciphertext, "--output-file", plaintext, NULL));
  assert_same_files (plaintext, f->message);

  g_unlink (plaintext);
  g_free (run_ok (f, "openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", pem, "-pkeyopt",
                  "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt",
                  "rsa_mgf1_md:sha256", "-in", f->message, "-out", ciphertext, NULL));
  g_free (run_ok (PKCS11_LOGIN (f, 0), "--decrypt", "--id", "10", "--mechanism", "RSA-PKCS-OAEP",
                  "--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256", "--input-file", ciphertext,
                  "--output-file", plaintext, NULL));
  assert_same_files (plaintext, f->message);
}

static void
check_agreement (Fixture *f, const char *curve, const char *id, const char *pem)
{
  g_autofree char *option = g_strdup_printf ("ec_paramgen_curve:%s", curve);
  g_autofree char *peer = path_of (f, "peer.pem");
  g_autofree char *peer_public = path_of (f, "peer.der");
  g_autofree char *by_card = path_of (f, "by-card");
  g_autofree char *by_openssl = path_of (f, "by-openssl");

  g_unlink (by_card);
  g_free (
      run_ok (f, "openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", option, "-out", peer, NULL));
  g_free (run_ok (f, "openssl", "pkey", "-in", peer, "-pubout", "-outform", "DER", "-out",
                  peer_public, NULL));
  g_free (run_ok (PKCS11_LOGIN (f, 0), "--derive", "--id", id, "--mechanism", "ECDH1-DERIVE",
                  "--input-file", peer_public, "--output-file", by_card, NULL));
  g_free (run_ok (f, "openssl", "pkeyutl", "-derive", "-inkey", peer, "-peerkey", pem, "-out",
                  by_openssl, NULL));
  assert_same_files (by_card, by_openssl);
}

static void
test_agreement (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *pem = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  kw_card_rig_generate_ec (f->rig, 0, "prime256v1", "20", "ec one", NULL);
  pem = dup_public_key (f, 0, "20");
  check_agreement (f, "P-256", "20", pem);
}

/* --- DKEK ------------------------------------------------------------------------------------ */

/* "DKEK key check value : …" of what sc-hsm-tool said. */
static char *
dup_check_value (const char *output)
{
  const char *start = strstr (output, "DKEK key check value");

  g_assert_nonnull (start);
  start = strchr (start, ':');
  g_assert_nonnull (start);
  return g_strndup (start + 2, 16);
}

/* Shares made by the tool open the way from one card to another. */
static void
test_shares_of_the_tool (void)
{
  static const char *const names[] = { "s1.pbe", "s2.pbe" };
  static const char *const passwords[] = { "secret1", "secret2" };
  g_autoptr (Fixture) f = NULL;
  char *check_values[2] = { NULL };
  g_autofree char *pem = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new_blank (2);
  for (guint i = 0; i < 2; i++)
    {
      g_autofree char *path = path_of (f, names[i]);
      g_autofree char *data = NULL;
      gsize size = 0;

      kw_card_rig_initialise (f->rig, i, SO_PIN, PIN, N_SHARES, "VT demo", NULL);
      kw_card_rig_create_share_file (f->rig, i, path, passwords[i], NULL);
      g_assert_true (g_file_get_contents (path, &data, &size, NULL));
      g_assert_cmpuint (size, ==, 64);
      g_assert_true (g_str_has_prefix (data, "Salted__"));
    }
  for (guint i = 0; i < 2; i++)
    {
      for (guint j = 0; j < 2; j++)
        {
          g_autofree char *path = path_of (f, names[j]);
          g_autofree char *output
              = kw_card_rig_import_share_file (f->rig, i, path, passwords[j], NULL);

          if (j == 0)
            assert_has (output, "DKEK import pending, 1 share(s) still missing");
          else
            check_values[i] = dup_check_value (output);
        }
    }
  g_assert_cmpstr (check_values[0], ==, check_values[1]);
  g_assert_cmpstr (check_values[0], !=, "0000000000000000");
  kw_card_rig_generate_ec (f->rig, 0, "prime256v1", "20", "ec one", NULL);
  kw_card_rig_clone (f->rig, 0, 1, 1, NULL);
  pem = dup_public_key (f, 0, "20");
  check_ecdsa_signature (f, 1, "20", pem);
  g_free (check_values[0]);
  g_free (check_values[1]);
}

static void
test_known_shares (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *path = NULL;
  g_autofree char *check_value = NULL;
  g_autofree char *output = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new_blank (1);
  path = path_of (f, "share.pbe");
  kw_card_rig_initialise (f->rig, 0, SO_PIN, PIN, N_SHARES, "VT demo", NULL);
  write_hex (path, SHARE_1);
  g_free (kw_card_rig_import_share_file (f->rig, 0, path, "secret1", NULL));
  write_hex (path, SHARE_2);
  output = kw_card_rig_import_share_file (f->rig, 0, path, "secret2", NULL);
  check_value = dup_check_value (output);
  g_assert_cmpstr (check_value, ==, CHECK_VALUE);
}

static void
carry (Fixture *f, guint8 kid, const char *new_kid)
{
  g_autofree char *reference = g_strdup_printf ("%u", kid);
  g_autofree char *path = path_of (f, "wrapped");
  g_autofree char *output = NULL;

  g_unlink (path);
  g_free (
      run_ok (SC_HSM (f, 0), "--wrap-key", path, "--key-reference", reference, "--pin", PIN, NULL));
  output = run_ok (SC_HSM (f, 1), "--unwrap-key", path, "--key-reference", new_kid, "--pin", PIN,
                   NULL);
  assert_has (output, "Key successfully imported");
}

static void
test_keys_travel (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *rsa = NULL;
  g_autofree char *ec = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (2);
  carry (f, kw_card_rig_generate_rsa (f->rig, 0, 2048, "10", "rsa one", NULL), "9");
  carry (f, kw_card_rig_generate_ec (f->rig, 0, "prime256v1", "20", "ec one", NULL), "11");
  rsa = dup_public_key (f, 0, "10");
  ec = dup_public_key (f, 0, "20");
  check_rsa_signature (f, 1, "10", rsa);
  check_ecdsa_signature (f, 1, "20", ec);
}

static char *
encrypt_block (Fixture *f, guint card, guint8 kid)
{
  g_autoptr (KwCardSession) session = kw_card_session_new (f->rig, card, NULL);
  g_autofree char *verified = kw_card_session_transmit_hex (session, VERIFY_PIN, NULL);
  g_autofree char *apdu = g_strdup_printf ("8078%02X1010" AES_BLOCK "00", kid);
  char *answer = kw_card_session_transmit_hex (session, apdu, NULL);

  g_assert_cmpstr (verified, ==, "9000");
  g_assert_true (g_str_has_suffix (answer, "9000"));
  g_assert_cmpuint (strlen (answer), ==, 32 + 4);
  return answer;
}

static void
test_aes_keys_travel (void)
{
  static const guint bits[] = { 128, 192, 256 };
  g_autoptr (Fixture) f = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (2);
  for (guint i = 0; i < G_N_ELEMENTS (bits); i++)
    {
      guint8 kid = (guint8) (20 + i);
      g_autofree char *before = NULL;
      g_autofree char *after = NULL;
      g_autofree char *cloned = NULL;
      g_autofree char *other_kid = g_strdup_printf ("%u", kid + 10u);

      kw_card_rig_generate_aes (f->rig, 0, kid, bits[i], NULL, "aes", NULL);
      before = encrypt_block (f, 0, kid);
      carry (f, kid, other_kid);
      after = encrypt_block (f, 1, (guint8) (kid + 10));
      g_assert_cmpstr (before, ==, after);
      kw_card_rig_clone (f->rig, 0, 1, kid, NULL);
      cloned = encrypt_block (f, 1, kid);
      g_assert_cmpstr (before, ==, cloned);
    }
}

static void
test_other_dkek_takes_no_key (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autoptr (GError) error = NULL;
  g_autofree char *path = NULL;
  g_autofree char *output = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (2);
  path = path_of (f, "wrapped");
  kw_card_rig_initialise (f->rig, 1, NULL, NULL, 1, "other", NULL);
  g_free (kw_card_rig_import_shares (f->rig, 1, 1, NULL));
  kw_card_rig_generate_ec (f->rig, 0, "prime256v1", "20", "ec one", NULL);
  g_free (run_ok (SC_HSM (f, 0), "--wrap-key", path, "--key-reference", "1", "--pin", PIN, NULL));
  kw_card_rig_run (f->rig, &output, "sc-hsm-tool", "--reader", kw_card_rig_get_reader (f->rig, 1),
                   "--unwrap-key", path, "--key-reference", OTHER_KID, "--pin", PIN, NULL);
  assert_has (output, "Wrapped key does not match DKEK");
  g_assert_false (kw_card_rig_clone (f->rig, 0, 1, 1, &error));
  assert_has (error->message, "6A80");
}

/* --- PINs ------------------------------------------------------------------------------------ */

static void
try_wrong_pin (Fixture *f, const char *expected)
{
  g_autofree char *output = NULL;

  g_assert_cmpint (kw_card_rig_run (f->rig, &output, "pkcs11-tool", "--slot-description",
                                    kw_card_rig_get_reader (f->rig, 0), "--login", "--pin",
                                    WRONG_PIN, "--list-objects", NULL),
                   !=, 0);
  assert_has (output, expected);
}

static void
test_wrong_pins_block_and_so_pin_unblocks (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *output = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  assert_pin_status (f, 0, "63C3");
  try_wrong_pin (f, "CKR_PIN_INCORRECT");
  assert_pin_status (f, 0, "63C2");
  try_wrong_pin (f, "CKR_PIN_INCORRECT");
  assert_pin_status (f, 0, "63C1");
  try_wrong_pin (f, "CKR_PIN_LOCKED");
  assert_pin_status (f, 0, "6983");
  /* The right one does not help any more. */
  assert_answer (f, 0, VERIFY_PIN, "6983");
  g_free (run_ok (PKCS11 (f, 0), "--login", "--login-type", "so", "--so-pin", SO_PIN, "--init-pin",
                  "--new-pin", PIN, NULL));
  assert_pin_status (f, 0, "63C3");
  output = run_ok (PKCS11_LOGIN (f, 0), "--list-objects", NULL);
  assert_has_not (output, "CKR_");
}

static void
test_pin_is_changed (void)
{
  g_autoptr (Fixture) f = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  g_free (run_ok (PKCS11_LOGIN (f, 0), "--change-pin", "--new-pin", "12345678", NULL));
  assert_answer (f, 0, VERIFY_PIN, "63C2");
  assert_answer (f, 0, "00200081083132333435363738", "9000");
}

static void
test_wrong_so_pin_changes_nothing (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autoptr (GError) error = NULL;
  g_autofree char *pem = NULL;
  g_autofree char *slots = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  kw_card_rig_generate_ec (f->rig, 0, "prime256v1", "20", "ec one", NULL);
  pem = dup_public_key (f, 0, "20");
  assert_answer (f, 0, SO_PIN_STATUS, "63CF");
  g_assert_false (kw_card_rig_initialise (f->rig, 0, WRONG_SO_PIN, "99999999", 1, "other", &error));
  assert_has (error->message, "incorrect");
  assert_answer (f, 0, SO_PIN_STATUS, "63CE");
  slots = run_ok (f, "pkcs11-tool", "--list-slots", NULL);
  assert_has (slots, "VT demo 1 (UserPIN)");
  check_ecdsa_signature (f, 0, "20", pem);
  /* The right one counts from 15 again, and takes all keys. */
  kw_card_rig_initialise (f->rig, 0, SO_PIN, PIN, N_SHARES, "new", NULL);
  assert_answer (f, 0, SO_PIN_STATUS, "63CF");
  g_clear_pointer (&slots, g_free);
  slots = run_ok (PKCS11_LOGIN (f, 0), "--list-objects", NULL);
  assert_has_not (slots, "Key Object");
}

/* --- the process ends ------------------------------------------------------------------------ */

static void
test_state_outlives_the_process (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *rsa = NULL;
  g_autofree char *aes_before = NULL;
  g_autofree char *aes_after = NULL;
  g_autofree char *dkek_before = NULL;
  g_autofree char *dkek_after = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  kw_card_rig_generate_rsa (f->rig, 0, 2048, "10", "rsa one", NULL);
  kw_card_rig_generate_aes (f->rig, 0, 20, 256, NULL, "aes", NULL);
  rsa = dup_public_key (f, 0, "10");
  aes_before = encrypt_block (f, 0, 20);
  dkek_before = kw_card_rig_transmit (f->rig, 0, "8052000000", NULL);
  kw_card_rig_restart_card (f->rig, 0, NULL);
  dkek_after = kw_card_rig_transmit (f->rig, 0, "8052000000", NULL);
  g_assert_cmpstr (dkek_before, ==, dkek_after);
  check_rsa_signature (f, 0, "10", rsa);
  aes_after = encrypt_block (f, 0, 20);
  g_assert_cmpstr (aes_before, ==, aes_after);
}

/* A counter has fallen as soon as the answer is there, whatever happens to the process. */
static void
test_counters_outlive_a_kill (void)
{
  static const char *const answers[] = { "63C2", "63C1", "6983" };
  g_autoptr (Fixture) f = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  for (guint i = 0; i < G_N_ELEMENTS (answers); i++)
    {
      if (i == 1)
        {
          /* The right PIN brings the tries back, and that is kept too. */
          assert_answer (f, 0, VERIFY_PIN, "9000");
          kw_card_rig_restart_card (f->rig, 0, NULL);
          assert_pin_status (f, 0, "63C3");
          assert_answer (f, 0, VERIFY_WRONG_PIN, "63C2");
        }
      assert_answer (f, 0, VERIFY_WRONG_PIN, answers[i]);
      kw_card_rig_restart_card (f->rig, 0, NULL);
      assert_pin_status (f, 0, answers[i]);
    }
  /* Unblocking with a wrong SO-PIN costs one of its tries. */
  assert_answer (f, 0, "002C018108" WRONG_SO_PIN, "63CE");
  kw_card_rig_restart_card (f->rig, 0, NULL);
  assert_answer (f, 0, SO_PIN_STATUS, "63CE");
  assert_answer (f, 0, "002C018108" SO_PIN, "9000");
  kw_card_rig_restart_card (f->rig, 0, NULL);
  assert_pin_status (f, 0, "63C3");
}

/* --- AES by opensc-tool ---------------------------------------------------------------------- */

static void
test_aes_by_opensc_tool (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *output = NULL;
  g_autofree char *encrypted = NULL;
  g_autofree char *decrypt = NULL;
  g_autofree char *decrypted = NULL;
  g_auto (GStrv) answers = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  output = run_ok (f, "opensc-tool", "--reader", kw_card_rig_get_reader (f->rig, 0), "--send-apdu",
                   VERIFY_PIN, "--send-apdu", "00480FB206910410111899", "--send-apdu",
                   "80780F1010" AES_BLOCK "00", "--send-apdu", "80780F1810" AES_BLOCK "00", NULL);
  answers = g_strsplit (output, "SW1=0x90, SW2=0x00", -1);
  g_assert_cmpuint (g_strv_length (answers), ==, 5);
  encrypted = encrypt_block (f, 0, 0x0F);
  encrypted[32] = '\0';
  decrypt = g_strdup_printf ("80780F1110%s00", encrypted);
  {
    g_autoptr (KwCardSession) session = kw_card_session_new (f->rig, 0, NULL);

    g_free (kw_card_session_transmit_hex (session, VERIFY_PIN, NULL));
    decrypted = kw_card_session_transmit_hex (session, decrypt, NULL);
  }
  g_assert_cmpstr (decrypted, ==, AES_BLOCK "9000");
}

/* --- all sizes, all curves ------------------------------------------------------------------- */

static void
test_rsa_sizes (void)
{
  static const guint sizes[] = { 1024, 1536, 2048, 3072, 4096 };
  g_autoptr (Fixture) f = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autofree char *id = g_strdup_printf ("%u", 10 + i);
      g_autofree char *pem = NULL;

      kw_card_rig_generate_rsa (f->rig, 0, sizes[i], id, "rsa", NULL);
      pem = dup_public_key (f, 0, id);
      check_rsa_signature (f, 0, id, pem);
      check_pss_signature (f, 0, id, pem);
    }
}

static void
test_curves (void)
{
  static const char *const curves[]
      = { "prime192v1",      "prime256v1",      "secp384r1",       "secp521r1",
          "secp192k1",       "secp256k1",       "brainpoolP192r1", "brainpoolP224r1",
          "brainpoolP256r1", "brainpoolP320r1", "brainpoolP384r1", "brainpoolP512r1" };
  g_autoptr (Fixture) f = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  for (guint i = 0; i < G_N_ELEMENTS (curves); i++)
    {
      g_autofree char *id = g_strdup_printf ("%u", 20 + i);
      g_autofree char *pem = NULL;

      g_test_message ("%s", curves[i]);
      kw_card_rig_generate_ec (f->rig, 0, curves[i], id, curves[i], NULL);
      pem = dup_public_key (f, 0, id);
      check_ecdsa_signature (f, 0, id, pem);
      check_agreement (f, curves[i], id, pem);
    }
}

static void
test_test_of_pkcs11_tool (void)
{
  g_autoptr (Fixture) f = NULL;
  g_autofree char *output = NULL;

  if (kw_card_rig_is_missing ())
    return;
  f = fixture_new (1);
  kw_card_rig_generate_rsa (f->rig, 0, 2048, "10", "rsa one", NULL);
  kw_card_rig_generate_ec (f->rig, 0, "prime256v1", "20", "ec one", NULL);
  output = run_ok (PKCS11_LOGIN (f, 0), "--test", NULL);
  assert_has (output, "No errors");
}

static void
add_tests (void)
{
  g_test_add_func ("/opensc/status", test_status);
  g_test_add_func ("/opensc/lists", test_lists);
  g_test_add_func ("/opensc/signatures", test_signatures);
  g_test_add_func ("/opensc/decryption", test_decryption);
  g_test_add_func ("/opensc/agreement", test_agreement);
  g_test_add_func ("/opensc/deleted-key", test_deleted_key_is_gone);
  g_test_add_func ("/opensc/aes-raw", test_aes_by_opensc_tool);
  g_test_add_func ("/opensc/own-test", test_test_of_pkcs11_tool);
  g_test_add_func ("/opensc/sizes/rsa", test_rsa_sizes);
  g_test_add_func ("/opensc/sizes/curves", test_curves);
  g_test_add_func ("/opensc/dkek/keys-travel", test_keys_travel);
  g_test_add_func ("/opensc/dkek/aes-keys-travel", test_aes_keys_travel);
  g_test_add_func ("/opensc/dkek/other-takes-no-key", test_other_dkek_takes_no_key);
  g_test_add_func ("/opensc/pin/blocked-and-unblocked", test_wrong_pins_block_and_so_pin_unblocks);
  g_test_add_func ("/opensc/pin/changed", test_pin_is_changed);
  g_test_add_func ("/opensc/pin/wrong-so-pin", test_wrong_so_pin_changes_nothing);
  g_test_add_func ("/opensc/end/state", test_state_outlives_the_process);
  g_test_add_func ("/opensc/end/counters", test_counters_outlive_a_kill);
}

/* Over a minute of the processor: the tool hashes ten million times for each share. */
static void
add_slow_tests (void)
{
  g_test_add_func ("/opensc/dkek/shares-of-the-tool", test_shares_of_the_tool);
  g_test_add_func ("/opensc/dkek/known-shares", test_known_shares);
}

int
main (int argc, char **argv)
{
  const char *part = g_getenv ("KW_TEST_PART");

  g_test_init (&argc, &argv, NULL);
  if (g_strcmp0 (part, "slow") != 0)
    add_tests ();
  if (g_strcmp0 (part, "fast") != 0)
    add_slow_tests ();
  return g_test_run ();
}
