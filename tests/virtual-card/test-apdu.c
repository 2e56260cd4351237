/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-apdu.h"
#include "card-fixture.h"
#include "card-tlv.h"

#include <string.h>

static void
assert_parts (const char *hex, gsize size, gsize max_response)
{
  g_autoptr (GBytes) bytes = card_test_parse_hex (hex);
  CardApdu apdu;

  g_assert_true (card_apdu_parse (g_bytes_get_data (bytes, NULL), g_bytes_get_size (bytes), &apdu));
  g_assert_cmphex (apdu.cla, ==, 0x80);
  g_assert_cmphex (apdu.ins, ==, 0x68);
  g_assert_cmphex (apdu.p1, ==, 0x01);
  g_assert_cmphex (apdu.p2, ==, 0x20);
  g_assert_cmpuint (apdu.size, ==, size);
  g_assert_cmpuint (apdu.max_response, ==, max_response);
  if (size > 0)
    g_assert_cmphex (apdu.data[0], ==, 0xAA);
}

static void
assert_refused (const char *hex)
{
  g_autoptr (GBytes) bytes = card_test_parse_hex (hex);
  CardApdu apdu;

  g_assert_false (
      card_apdu_parse (g_bytes_get_data (bytes, NULL), g_bytes_get_size (bytes), &apdu));
}

static void
test_short (void)
{
  assert_parts ("80680120", 0, 0);
  assert_parts ("80680120 01", 0, 1);
  assert_parts ("80680120 FF", 0, 255);
  assert_parts ("80680120 00", 0, 256);
  assert_parts ("80680120 01 AA", 1, 0);
  assert_parts ("80680120 03 AABBCC", 3, 0);
  assert_parts ("80680120 03 AABBCC 10", 3, 16);
  assert_parts ("80680120 03 AABBCC 00", 3, 256);
  /* One byte after Lc 01 is data, not Le. */
  assert_parts ("80680120 01 AA 00", 1, 256);
}

static void
test_extended (void)
{
  assert_parts ("80680120 00 0001", 0, 1);
  assert_parts ("80680120 00 0200", 0, 512);
  assert_parts ("80680120 00 0000", 0, 65536);
  assert_parts ("80680120 00 0001 AA", 1, 0);
  assert_parts ("80680120 00 0003 AABBCC", 3, 0);
  assert_parts ("80680120 00 0003 AABBCC 0000", 3, 65536);
  assert_parts ("80680120 00 0003 AABBCC 0200", 3, 512);
}

static void
test_longest (void)
{
  g_autofree guint8 *bytes = g_malloc0 (CARD_MAX_APDU + 1);
  CardApdu apdu;

  bytes[5] = bytes[6] = 0xFF;
  g_assert_true (card_apdu_parse (bytes, CARD_MAX_APDU, &apdu));
  g_assert_cmpuint (apdu.size, ==, 65535);
  g_assert_cmpuint (apdu.max_response, ==, 65536);
  g_assert_true (card_apdu_parse (bytes, CARD_MAX_APDU - 2, &apdu));
  g_assert_cmpuint (apdu.max_response, ==, 0);
  g_assert_false (card_apdu_parse (bytes, CARD_MAX_APDU - 1, &apdu));
  g_assert_false (card_apdu_parse (bytes, CARD_MAX_APDU + 1, &apdu));
}

static void
test_wrong_lengths (void)
{
  assert_refused ("");
  assert_refused ("80");
  assert_refused ("8068");
  assert_refused ("806801");
  assert_refused ("80680120 02 AA");
  assert_refused ("80680120 01 AA 0000");
  assert_refused ("80680120 03 AABB");
  assert_refused ("80680120 FF AA");
  assert_refused ("80680120 00 00");
  assert_refused ("80680120 00 0002 AA");
  assert_refused ("80680120 00 0001 AA 00");
  assert_refused ("80680120 00 0001 AA 000000");
  assert_refused ("80680120 00 0000 AA");
  assert_refused ("80680120 00 0000 0000");
}

/* Whatever the lengths say, what was parsed lies inside the bytes. */
static void
test_every_length (void)
{
  for (guint lc = 0; lc <= 0xFF; lc++)
    {
      for (gsize size = 0; size <= 270; size++)
        {
          g_autofree guint8 *bytes = g_malloc0 (size + 1);
          CardApdu apdu;

          if (size > 4)
            bytes[4] = (guint8) lc;
          if (!card_apdu_parse (bytes, size, &apdu) || apdu.size == 0)
            continue;
          g_assert_true (apdu.data >= bytes + 5 && apdu.data + apdu.size <= bytes + size);
        }
    }
}

static void
test_tlv_round_trip (void)
{
  static const gsize sizes[] = { 0, 1, 127, 128, 255, 256, 65535 };
  static const guint16 tags[] = { 0x06, 0x81, 0x7F49, 0x5F29 };
  g_autofree guint8 *value = g_malloc0 (65535);

  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      for (guint j = 0; j < G_N_ELEMENTS (tags); j++)
        {
          g_autoptr (GByteArray) array = g_byte_array_new ();
          CardTlvReader reader;
          CardTlv tlv;

          card_tlv_append (array, tags[j], value, sizes[i]);
          reader = (CardTlvReader){ array->data, array->len };
          g_assert_true (card_tlv_next (&reader, &tlv));
          g_assert_cmphex (tlv.tag, ==, tags[j]);
          g_assert_cmpuint (tlv.size, ==, sizes[i]);
          g_assert_cmpuint (tlv.whole_size, ==, array->len);
          g_assert_cmpuint (reader.size, ==, 0);
          /* Cut anywhere, it is no element. */
          if (sizes[i] < 300)
            {
              for (guint cut = 0; cut < array->len; cut++)
                {
                  reader = (CardTlvReader){ array->data, cut };
                  g_assert_false (card_tlv_next (&reader, &tlv));
                }
            }
        }
    }
}

static void
test_tlv_refused (void)
{
  static const char *const refused[] = {
    "7F8101 00",     /* a tag of three bytes */
    "81 80 0000",    /* indefinite length */
    "81 83000001AA", /* a length of three bytes */
    "81 02 AA",
  };
  CardTlv tlv;

  for (guint i = 0; i < G_N_ELEMENTS (refused); i++)
    {
      g_autoptr (GBytes) bytes = card_test_parse_hex (refused[i]);
      CardTlvReader reader = { g_bytes_get_data (bytes, NULL), g_bytes_get_size (bytes) };

      g_assert_false (card_tlv_next (&reader, &tlv));
      g_assert_cmpuint (reader.size, ==, g_bytes_get_size (bytes));
    }
  g_assert_false (card_tlv_find ((const guint8 *) "\x81\x01\xAA", 3, 0x82, &tlv));
  g_assert_true (card_tlv_find ((const guint8 *) "\x81\x01\xAA\x82\x00", 5, 0x82, &tlv));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/card-apdu/short", test_short);
  g_test_add_func ("/card-apdu/extended", test_extended);
  g_test_add_func ("/card-apdu/longest", test_longest);
  g_test_add_func ("/card-apdu/wrong-lengths", test_wrong_lengths);
  g_test_add_func ("/card-apdu/every-length", test_every_length);
  g_test_add_func ("/card-tlv/round-trip", test_tlv_round_trip);
  g_test_add_func ("/card-tlv/refused", test_tlv_refused);
  return g_test_run ();
}
