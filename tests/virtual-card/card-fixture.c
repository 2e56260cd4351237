/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-fixture.h"

#include "card-key.h"
#include "card-tlv.h"

#include <string.h>

/**
 * card_test_parse_hex:
 * @hex: hexadecimal digits; blanks between bytes are passed over
 *
 * Returns: (transfer full): the bytes
 */
GBytes *
card_test_parse_hex (const char *hex)
{
  GByteArray *bytes = g_byte_array_new ();

  while (*hex)
    {
      guint8 byte;

      if (*hex == ' ' || *hex == '\n')
        {
          hex++;
          continue;
        }
      g_assert_true (g_ascii_isxdigit (hex[0]) && g_ascii_isxdigit (hex[1]));
      byte = (guint8) (g_ascii_xdigit_value (hex[0]) << 4 | g_ascii_xdigit_value (hex[1]));
      g_byte_array_append (bytes, &byte, 1);
      hex += 2;
    }
  return g_byte_array_free_to_bytes (bytes);
}

char *
card_test_format_hex (gconstpointer bytes, gsize size)
{
  GString *text = g_string_new (NULL);

  for (gsize i = 0; i < size; i++)
    g_string_append_printf (text, "%02X", ((const guint8 *) bytes)[i]);
  return g_string_free (text, FALSE);
}

/**
 * card_test_send_bytes:
 * @card: a card
 * @apdu: a command
 * @wanted_status: how it must end
 *
 * Returns: (transfer full): the data of the answer
 */
GBytes *
card_test_send_bytes (Card *card, GBytes *apdu, guint wanted_status)
{
  gsize size;
  const guint8 *bytes = g_bytes_get_data (apdu, &size);
  g_autoptr (GBytes) answer = card_process (card, bytes, size);
  gsize answer_size;
  const guint8 *answer_bytes = g_bytes_get_data (answer, &answer_size);
  g_autofree char *wanted = g_strdup_printf ("%04X", wanted_status);
  g_autofree char *got = NULL;

  g_assert_cmpuint (answer_size, >=, 2);
  got = card_test_format_hex (answer_bytes + answer_size - 2, 2);
  g_assert_cmpstr (got, ==, wanted);
  return g_bytes_new_from_bytes (answer, 0, answer_size - 2);
}

GBytes *
card_test_send (Card *card, const char *hex, guint wanted_status)
{
  g_autoptr (GBytes) apdu = card_test_parse_hex (hex);

  return card_test_send_bytes (card, apdu, wanted_status);
}

/**
 * card_test_make_apdu:
 * @header: CLA, INS, P1 and P2 in hexadecimal
 * @data: command data
 * @size: bytes of it
 * @le: two bytes of an extended Le in hexadecimal, or ""
 *
 * Returns: (transfer full): an extended APDU
 */
GBytes *
card_test_make_apdu (const char *header, gconstpointer data, gsize size, const char *le)
{
  g_autofree char *hex = card_test_format_hex (data, size);
  g_autofree char *whole = g_strdup_printf ("%s00%04X%s%s", header, (guint) size, hex, le);

  return card_test_parse_hex (whole);
}

Card *
card_test_new_blank (void)
{
  static const guint64 seed = 4711;
  const CardOptions options = { .serial = CARD_TEST_SERIAL,
                                .version_major = 3,
                                .version_minor = 5,
                                .memory = CARD_DEFAULT_MEMORY,
                                .seed = &seed };

  return card_new (&options);
}

/**
 * card_test_new:
 * @n_shares: shares of its DKEK, all of which are imported; 0 for no DKEK
 *
 * Returns: (transfer full): a card that is set up, with nobody logged in
 */
Card *
card_test_new (guint n_shares)
{
  Card *card = card_test_new_blank ();

  if (n_shares == 0)
    {
      card_test_expect (card,
                        "8050000019 80020001 8106" CARD_TEST_PIN_HEX " 8208" CARD_TEST_SO_PIN_HEX
                        " 910103",
                        0x9000);
      return card;
    }
  g_assert_cmpuint (n_shares, ==, 2);
  card_test_expect (card,
                    "805000001C 80020001 8106" CARD_TEST_PIN_HEX " 8208" CARD_TEST_SO_PIN_HEX
                    " 910103 920102",
                    0x9000);
  card_test_import_shares (card, n_shares);
  return card;
}

/* Both shares together are the DKEK of the vectors in test-dkek.c. */
void
card_test_import_shares (Card *card, guint n_shares)
{
  static const char *const shares[]
      = { "8235d242ebb8ca168aaded9a9ca8850538235ef262d3df83323ac9f9440db8d4",
          "881deacd8c31ec48966e5eb7948a35582937849d373273bec12a52fe5e1c6170" };

  for (guint i = 0; i < n_shares; i++)
    {
      g_autofree char *command = g_strdup_printf ("8052000020%s00", shares[i]);

      card_test_expect (card, command, 0x9000);
    }
}

/* Makes a key with the data that OpenSC sends. */
void
card_test_make_rsa (Card *card, guint8 id, guint bits)
{
  g_autofree char *command = g_strdup_printf ("0046%02X00 000037"
                                              "5F290100 4209555443413030303031"
                                              "7F4915060A0400 7F000702020201028203010001 0202%04X"
                                              "5F200D56545445535430313030303031 0000",
                                              id, bits);

  card_test_expect (card, command, 0x9000);
}

/**
 * card_test_make_ec_command:
 * @id: where the key goes
 * @curve: its curve
 *
 * Returns: (transfer full): a command that makes an EC key, as OpenSC sends it
 */
GBytes *
card_test_make_ec_command (guint8 id, const char *curve)
{
  static const guint8 oid[] = { 0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x02, 0x02, 0x03 };
  const CardCurve *parameters = card_curve_find (curve);
  g_autoptr (GByteArray) public_key = g_byte_array_new ();
  g_autoptr (GByteArray) data = g_byte_array_new ();
  g_autofree char *header = g_strdup_printf ("0046%02X00", id);

  g_assert_nonnull (parameters);
  card_tlv_append (public_key, 0x06, oid, sizeof oid);
  for (guint i = 0; i < G_N_ELEMENTS (parameters->parameters); i++)
    card_tlv_append (public_key, (guint16) (0x81 + i),
                     g_bytes_get_data (parameters->parameters[i], NULL),
                     g_bytes_get_size (parameters->parameters[i]));
  card_tlv_append (public_key, 0x87, (const guint8 *) "\1", 1);

  card_tlv_append (data, 0x5F29, (const guint8 *) "\0", 1);
  card_tlv_append (data, 0x42, (const guint8 *) "UTCA00001", 9);
  card_tlv_append (data, 0x7F49, public_key->data, public_key->len);
  card_tlv_append (data, 0x5F20, (const guint8 *) CARD_TEST_SERIAL "00001", 13);
  return card_test_make_apdu (header, data->data, data->len, "0000");
}
