/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-sc-formats"

#include "kw-error.h"
#include "kw-limits.h"
#include "kw-sc-apdu.h"
#include "kw-sc-cvc.h"
#include "kw-sc-description.h"
#include "kw-sc-error.h"
#include "kw-sc-status.h"
#include "kw-sc-wrap.h"

#include <string.h>

/*
 * What goes to a card and comes from it, taken apart and put together without one. All of it may be anything: what is cut short,
 * too long or turned over must come to an error, never further.
 */

/* A device's certificate and its issuer's, as EF 2F02 holds them. */
#define DEVICE_CERTIFICATES                                                                        \
  "7F2181DF7F4E81985F290100420B56544449434130303030317F494F060A04007F00070202020203864104840C665C" \
  "CB91EA7775E65A930F3AA198CCA0697A9C2F800E263E5D5D523AB6BF6FC6CCDAC30AA0818F9FF3C5582F465039E163" \
  "AC8349F2DFE887F88035B2C4185F200D565454455354303130303030307F4C10060B2B0601040181C31F0301015301" \
  "005F25060204000100015F24060304000100015F37404D1846087EAFBA489DC82C2E444B2B3902F559EA35AAB63143" \
  "E7D9D84BFBC44D15611B834DDB4C02B4F197BEBA9E264D48466D643D24BFD560032E9EB2485B48"

/* The request that a card made with a key on P-256. */
#define EC_REQUEST                                                                                 \
  "678201E07F218201897F4E8201415F29010042095554434130303030317F4982011D060A04007F0007020202020381" \
  "20FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF8220FFFFFFFF0000000100000000" \
  "0000000000000000FFFFFFFFFFFFFFFFFFFFFFFC83205AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63B" \
  "CE3C3E27D2604B8441046B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C2964FE342E2FE" \
  "1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F58520FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6" \
  "FAADA7179E84F3B9CAC2FC632551864104078674ECB153C8887B0B4C3152FDE174E02BAEE8878D33C976164EA9C9CC" \
  "1B03C32908E2D1128B7DA594BAD3DD0C1FAA2C10E02B935A3F554EA4A19E636695008701015F200D56545445535430" \
  "3130303030315F374002314ECB983AD5B574287DF9134204D3321BF04E308CFFD9A637321B7A7E714903FF4C4C0B1E" \
  "23390E9B29C017B05D290E6D404525CC9F8DB5E5618888D7FD3D420D565454455354303130303030305F37404015D4" \
  "15F99F7658C87CAA2FCB437A861B02BD1D3FC1F48A9872C91B4DE2D7905EE8A02F9F9CCB9BBD782C6135B30D6A466E" \
  "8DA47F9011C307FB2400F4032BD5"

/* The public key in it, as SubjectPublicKeyInfo. */
#define EC_SPKI                                                                                    \
  "3059301306072A8648CE3D020106082A8648CE3D03010703420004078674ECB153C8887B0B4C3152FDE174E02BAEE8" \
  "878D33C976164EA9C9CC1B03C32908E2D1128B7DA594BAD3DD0C1FAA2C10E02B935A3F554EA4A19E63669500"

#define RSA_DESCRIPTION                                                                            \
  "302A30100C07727361206F6E65030206C0040101300A0401100302047002010"                                \
  "1A10A300830020400"                                                                              \
  "02020800"
#define EC_DESCRIPTION                                                                             \
  "A02A300F0C066563206F6E65030206C0040101300B040120030307308002010"                                \
  "2A10A300830020400"                                                                              \
  "02020100"
#define AES_DESCRIPTION                                                                            \
  "A82530090C0761657320726177300804014403030"                                                      \
  "7C010A0063004020200"                                                                            \
  "80A10630043002"                                                                                 \
  "0400"

/* AES keys of 128 and 256 bits, wrapped with one DKEK. */
#define BLOB_128                                                                                   \
  "c8669cf006d8f0fa0f0008608648016503040100041011189900000000cf7d9c3bf550cccc365452d3a6f855855885" \
  "fd4a7a97a74aa1ab5985521802d5c240c3c820cffe6493ff6c760fee6feb"
#define BLOB_256                                                                                   \
  "c8669cf006d8f0fa0f00086086480165030401000000000000cbb2ffe16ae7b8c3927d9646ff33ae744a114995f6f0" \
  "9bcba150dec03e06d7fc23dce5d7d0de5c4d0a856afeb8e4adeafb992794a00b72c1d6298174e07948b9"

static GBytes *
from_hex (const char *hex)
{
  GByteArray *array = g_byte_array_new ();

  for (; hex[0] != '\0'; hex += 2)
    {
      guint8 byte = (guint8) (g_ascii_xdigit_value (hex[0]) << 4 | g_ascii_xdigit_value (hex[1]));

      g_byte_array_append (array, &byte, 1);
    }
  return g_byte_array_free_to_bytes (array);
}

static char *
to_hex (gconstpointer data, gsize size)
{
  GString *text = g_string_new (NULL);

  for (gsize i = 0; i < size; i++)
    g_string_append_printf (text, "%02X", ((const guint8 *) data)[i]);
  return g_string_free (text, FALSE);
}

static KwScSpan
span_of (GBytes *bytes)
{
  KwScSpan span = { 0 };

  span.data = g_bytes_get_data (bytes, &span.size);
  return span;
}

/* --- TLV --- */

static void
test_tlv_reads_what_it_wrote (void)
{
  static const gsize sizes[] = { 0, 1, 127, 128, 255, 256, 4000, 65535 };
  static const guint tags[] = { 0x04, 0x30, 0x5F29, 0x7F4E };

  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      for (gsize j = 0; j < G_N_ELEMENTS (tags); j++)
        {
          g_autofree guint8 *value = g_malloc0 (sizes[i] + 1);
          g_autoptr (GByteArray) array = g_byte_array_new ();
          KwScSpan rest = { 0 };
          KwScTlv tlv = { 0 };

          memset (value, 0xA5, sizes[i]);
          kw_sc_tlv_append (array, tags[j], value, sizes[i]);
          rest = (KwScSpan){ array->data, array->len };
          g_assert_true (kw_sc_tlv_next (&rest, &tlv));
          g_assert_cmpuint (tlv.tag, ==, tags[j]);
          g_assert_cmpmem (tlv.value.data, tlv.value.size, value, sizes[i]);
          g_assert_cmpuint (tlv.whole.size, ==, array->len);
          g_assert_cmpuint (rest.size, ==, 0);
          /* Nor is anything read that is cut short. */
          for (gsize cut = 0; cut < array->len && cut < 300; cut++)
            {
              KwScSpan less = { array->data, cut };

              g_assert_false (kw_sc_tlv_next (&less, &tlv));
              g_assert_cmpuint (less.size, ==, cut);
            }
        }
    }
}

static void
test_tlv_refuses (void)
{
  static const char *const bad[]
      = { "",         "30",   "5F",     "3002FF",    "3080", "3083000001FF",
          "5F8001FF", "3082", "308201", "30827FFF00" };

  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GBytes) bytes = from_hex (bad[i]);
      KwScSpan rest = span_of (bytes);
      KwScTlv tlv = { 0 };

      g_assert_false (kw_sc_tlv_next (&rest, &tlv));
    }
}

static void
test_tlv_finds (void)
{
  g_autoptr (GBytes) bytes = from_hex ("0401AA0401BB5F200043");
  KwScSpan value = { 0 };
  KwScSpan rest = span_of (bytes);

  g_assert_true (kw_sc_tlv_find (span_of (bytes), 0x04, &value));
  g_assert_cmpuint (value.data[0], ==, 0xAA);
  g_assert_true (kw_sc_tlv_find (span_of (bytes), 0x5F20, &value));
  g_assert_cmpuint (value.size, ==, 0);
  g_assert_false (kw_sc_tlv_find (span_of (bytes), 0x43, &value));
  g_assert_false (kw_sc_tlv_read (&rest, 0x5F20, &value));
  g_assert_cmpuint (rest.size, ==, g_bytes_get_size (bytes));
}

static void
test_tlv_numbers (void)
{
  static const struct
  {
    guint number;
    const char *hex;
  } cases[] = { { 0, "020100" },
                { 1, "020101" },
                { 127, "02017F" },
                { 128, "02020080" },
                { 2048, "02020800" },
                { 32768, "0203008000" },
                { 65536, "0203010000" },
                { 0x7FFFFFFF, "02047FFFFFFF" },
                { 0x80000000, "02050080000000" } };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GByteArray) array = g_byte_array_new ();
      g_autofree char *hex = NULL;
      KwScSpan value = { 0 };
      guint number = 0;

      kw_sc_tlv_append_uint (array, 0x02, cases[i].number);
      hex = to_hex (array->data, array->len);
      g_assert_cmpstr (hex, ==, cases[i].hex);
      value = (KwScSpan){ array->data + 2, array->len - 2 };
      g_assert_true (kw_sc_span_to_uint (value, &number) == (cases[i].number <= G_MAXINT32));
      if (cases[i].number <= G_MAXINT32)
        g_assert_cmpuint (number, ==, cases[i].number);
    }
}

/* --- APDU --- */

static void
assert_apdu (guint8 p1, gsize n_data, gsize n_expected, const char *head, const char *tail)
{
  guint8 data[KW_SC_APDU_MAX_DATA + 1] = { 0 };
  guint8 bytes[KW_SC_APDU_MAX_BYTES];
  const KwScCommand command = { 0x80, 0x78, p1, 0x10, data, n_data, n_expected };
  gsize size = kw_sc_apdu_build (&command, bytes, sizeof bytes);
  g_autofree char *hex = to_hex (bytes, size);

  g_assert_cmpuint (size, ==, strlen (head) / 2 + n_data + strlen (tail) / 2);
  g_assert_true (g_str_has_prefix (hex, head));
  g_assert_true (g_str_has_suffix (hex, tail));
}

static void
test_apdu_forms (void)
{
  assert_apdu (1, 0, 0, "80780110", "");
  assert_apdu (1, 0, 8, "80780110", "08");
  assert_apdu (1, 0, 256, "80780110", "00");
  assert_apdu (1, 0, 257, "80780110", "000101");
  assert_apdu (1, 0, KW_SC_APDU_ANY, "80780110", "000000");
  assert_apdu (1, 16, 0, "8078011010", "");
  assert_apdu (1, 255, 256, "80780110FF", "00");
  assert_apdu (1, 256, 0, "80780110000100", "");
  assert_apdu (1, 16, 512, "80780110000010", "0200");
  assert_apdu (1, 1024, 1024, "80780110000400", "0400");
  assert_apdu (1, 16, KW_SC_APDU_ANY, "80780110000010", "0000");
}

static void
test_apdu_too_long (void)
{
  guint8 data[KW_SC_APDU_MAX_DATA + 1] = { 0 };
  guint8 bytes[KW_SC_APDU_MAX_BYTES];
  const KwScCommand command = { 0x80, 0x78, 1, 0x10, data, sizeof data, 0 };

  g_assert_cmpuint (kw_sc_apdu_build (&command, bytes, sizeof bytes), ==, 0);
}

static void
test_apdu_answers (void)
{
  static const guint8 answer[] = { 0x01, 0x02, 0x63, 0xC2 };
  KwScSpan data = { 0 };
  guint sw = 0;

  g_assert_true (kw_sc_apdu_parse_answer (answer, 4, &data, &sw));
  g_assert_cmpuint (sw, ==, 0x63C2);
  g_assert_cmpmem (data.data, data.size, answer, 2);
  g_assert_true (kw_sc_apdu_parse_answer (answer + 2, 2, &data, &sw));
  g_assert_cmpuint (data.size, ==, 0);
  g_assert_false (kw_sc_apdu_parse_answer (answer, 1, &data, &sw));
  g_assert_false (kw_sc_apdu_parse_answer (answer, 0, &data, &sw));
}

/* --- errors --- */

static void
test_status_words (void)
{
  static const struct
  {
    guint sw;
    KwError code;
  } cases[] = {
    { 0x6282, KW_ERROR_DEVICE_FAILED },    { 0x6300, KW_ERROR_PIN_REFUSED },
    { 0x63C0, KW_ERROR_PIN_LOCKED },       { 0x63C1, KW_ERROR_PIN_REFUSED },
    { 0x63CF, KW_ERROR_PIN_REFUSED },      { 0x6400, KW_ERROR_DEVICE_FAILED },
    { 0x6581, KW_ERROR_DEVICE_FAILED },    { 0x6700, KW_ERROR_DEVICE_FAILED },
    { 0x6881, KW_ERROR_DEVICE_FAILED },    { 0x6882, KW_ERROR_DEVICE_FAILED },
    { 0x6900, KW_ERROR_NOT_SUPPORTED },    { 0x6982, KW_ERROR_NOT_LOGGED_IN },
    { 0x6983, KW_ERROR_PIN_LOCKED },       { 0x6984, KW_ERROR_NOT_SUPPORTED },
    { 0x6985, KW_ERROR_NOT_SUPPORTED },    { 0x6986, KW_ERROR_NOT_SUPPORTED },
    { 0x6A80, KW_ERROR_INVALID_ARGUMENT }, { 0x6A81, KW_ERROR_NOT_SUPPORTED },
    { 0x6A82, KW_ERROR_KEY_NOT_FOUND },    { 0x6A84, KW_ERROR_TOKEN_FULL },
    { 0x6A86, KW_ERROR_DEVICE_FAILED },    { 0x6A88, KW_ERROR_KEY_NOT_FOUND },
    { 0x6B00, KW_ERROR_DEVICE_FAILED },    { 0x6D00, KW_ERROR_NOT_SUPPORTED },
    { 0x6E00, KW_ERROR_NOT_SUPPORTED },    { 0x6F00, KW_ERROR_DEVICE_FAILED },
    { 0x6F42, KW_ERROR_DEVICE_FAILED },    { 0x1234, KW_ERROR_DEVICE_FAILED },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *number = g_strdup_printf ("%04X", cases[i].sw);

      g_assert_cmpint (kw_sc_sw_to_code (cases[i].sw), ==, cases[i].code);
      kw_sc_set_sw_error (&error, cases[i].sw, "SIGN");
      g_assert_error (error, KW_ERROR, (gint) cases[i].code);
      g_assert_nonnull (strstr (error->message, number));
      g_assert_true (g_str_has_prefix (error->message, "SIGN: "));
    }
}

static void
test_return_values (void)
{
  static const struct
  {
    LONG rv;
    KwError code;
    const char *word;
  } cases[] = {
    { SCARD_E_SHARING_VIOLATION, KW_ERROR_DEVICE_FAILED, "scdaemon" },
    { SCARD_W_SECURITY_VIOLATION, KW_ERROR_MODULE_FAILED, "polkit" },
    { SCARD_E_NO_ACCESS, KW_ERROR_MODULE_FAILED, "polkit" },
    { SCARD_E_NO_SERVICE, KW_ERROR_TOKEN_GONE, "systemctl start pcscd.socket" },
    { SCARD_E_SERVICE_STOPPED, KW_ERROR_TOKEN_GONE, "pcscd" },
    { SCARD_P_SHUTDOWN, KW_ERROR_TOKEN_GONE, "pcscd" },
    { SCARD_E_INVALID_HANDLE, KW_ERROR_TOKEN_GONE, "pcscd" },
    { SCARD_F_COMM_ERROR, KW_ERROR_TOKEN_GONE, "pcscd" },
    { SCARD_W_REMOVED_CARD, KW_ERROR_TOKEN_GONE, "pulled" },
    { SCARD_E_NO_SMARTCARD, KW_ERROR_TOKEN_GONE, "no card" },
    { SCARD_E_READER_UNAVAILABLE, KW_ERROR_TOKEN_GONE, "pulled" },
    { SCARD_E_UNKNOWN_READER, KW_ERROR_TOKEN_GONE, "pulled" },
    { SCARD_W_RESET_CARD, KW_ERROR_SESSION_LOST, "reset" },
    { SCARD_W_UNPOWERED_CARD, KW_ERROR_DEVICE_FAILED, "power" },
    { SCARD_W_UNRESPONSIVE_CARD, KW_ERROR_DEVICE_FAILED, "contacts" },
    { SCARD_E_NOT_TRANSACTED, KW_ERROR_DEVICE_FAILED, "answer" },
    { SCARD_E_COMM_DATA_LOST, KW_ERROR_DEVICE_FAILED, "lost" },
    { SCARD_E_TIMEOUT, KW_ERROR_DEVICE_FAILED, "long" },
    { SCARD_E_PROTO_MISMATCH, KW_ERROR_NOT_SUPPORTED, "T=1" },
    { SCARD_E_INSUFFICIENT_BUFFER, KW_ERROR_DEVICE_FAILED, "longer" },
    { SCARD_W_UNSUPPORTED_CARD, KW_ERROR_NOT_SUPPORTED, "cannot" },
    { SCARD_F_INTERNAL_ERROR, KW_ERROR_DEVICE_FAILED, "failed" },
    { SCARD_F_UNKNOWN_ERROR, KW_ERROR_DEVICE_FAILED, "failed" },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;

      kw_sc_set_rv_error (&error, cases[i].rv, "Reader 00 00", "SCardTransmit");
      g_assert_error (error, KW_ERROR, (gint) cases[i].code);
      g_assert_nonnull (strstr (error->message, cases[i].word));
      g_assert_true (g_str_has_prefix (error->message, "Reader 00 00: "));
    }
}

/* --- certificates --- */

static void
test_serial (void)
{
  g_autoptr (GBytes) file = from_hex (DEVICE_CERTIFICATES);
  g_autoptr (GError) error = NULL;
  g_autofree char *serial = kw_sc_cvc_dup_serial (span_of (file), &error);

  g_assert_no_error (error);
  g_assert_cmpstr (serial, ==, "VTTEST01");
}

static void
test_serial_damaged (void)
{
  static const char *const bad[]
      = { "",
          "3000",
          "7F2100",
          "7F21037F4E00",
          "7F210D7F4E0A5F200741424344303030", /* too short */
          "7F21117F4E0E5F200B4142004430303030303030",
          "7F211F7F4E1C5F20194142414241424142414241424142414241424142303030303030" };
  g_autoptr (GBytes) file = from_hex (DEVICE_CERTIFICATES);

  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GBytes) bytes = from_hex (bad[i]);
      g_autoptr (GError) error = NULL;

      g_assert_null (kw_sc_cvc_dup_serial (span_of (bytes), &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
    }
  for (gsize cut = 0; cut < g_bytes_get_size (file); cut++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_null (
          kw_sc_cvc_dup_serial ((KwScSpan){ g_bytes_get_data (file, NULL), cut }, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
    }
}

static void
test_ec_request (void)
{
  g_autoptr (GBytes) file = from_hex (EC_REQUEST);
  g_autoptr (GError) error = NULL;
  KwKeyKind kind = KW_KEY_KIND_RSA;
  guint bits = 0;
  g_autoptr (GBytes) der = kw_sc_cvc_dup_public_key (span_of (file), &kind, &bits, &error);
  g_autofree char *hex = NULL;

  g_assert_no_error (error);
  g_assert_cmpint (kind, ==, KW_KEY_KIND_EC);
  g_assert_cmpuint (bits, ==, 256);
  hex = to_hex (g_bytes_get_data (der, NULL), g_bytes_get_size (der));
  g_assert_cmpstr (hex, ==, EC_SPKI);
}

/* Each byte turned over, and each length cut: an answer or an error, and nothing worse. */
static void
test_public_key_damaged (void)
{
  g_autoptr (GBytes) file = from_hex (EC_REQUEST);
  gsize size = g_bytes_get_size (file);

  for (gsize i = 0; i < size; i++)
    {
      g_autofree guint8 *copy = g_memdup2 (g_bytes_get_data (file, NULL), size);
      g_autoptr (GError) error = NULL;
      g_autoptr (GBytes) der = NULL;
      KwKeyKind kind = KW_KEY_KIND_RSA;
      guint bits = 0;

      g_assert_null (kw_sc_cvc_dup_public_key ((KwScSpan){ copy, i }, &kind, &bits, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
      g_clear_error (&error);
      copy[i] ^= 0xFF;
      der = kw_sc_cvc_dup_public_key ((KwScSpan){ copy, size }, &kind, &bits, &error);
      g_assert_true ((der != NULL) == (error == NULL));
    }
}

static void
test_public_key_refuses (void)
{
  static const char *const bad[] = {
    "",
    "04020000",
    "6703020100",
    "3003020100",
    "7F211E7F4E1B7F4918060A04007F00070202020102810301000182030100018400", /* RSA of 17 bits */
    "7F21137F4E107F490D060904007F0007020202028100",                       /* an OID too short */
    "7F21147F4E117F490E060A04007F000702020209098100",                     /* an OID unknown */
  };

  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GBytes) bytes = from_hex (bad[i]);
      g_autoptr (GError) error = NULL;
      KwKeyKind kind = KW_KEY_KIND_RSA;
      guint bits = 0;

      g_assert_null (kw_sc_cvc_dup_public_key (span_of (bytes), &kind, &bits, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
    }
}

/* --- descriptions --- */

static void
assert_description (const char *hex, KwKeyKind kind, guint bits, guint8 id, const char *label)
{
  g_autoptr (GBytes) file = from_hex (hex);
  g_autoptr (GError) error = NULL;
  g_autoptr (KwScDescription) description = kw_sc_description_parse (span_of (file), &error);

  g_assert_no_error (error);
  g_assert_cmpint (description->kind, ==, kind);
  g_assert_cmpuint (description->bits, ==, bits);
  g_assert_cmpmem (g_bytes_get_data (description->id, NULL), g_bytes_get_size (description->id),
                   &id, 1);
  g_assert_cmpstr (description->label, ==, label);
}

static void
test_descriptions (void)
{
  assert_description (RSA_DESCRIPTION, KW_KEY_KIND_RSA, 2048, 0x10, "rsa one");
  assert_description (EC_DESCRIPTION, KW_KEY_KIND_EC, 256, 0x20, "ec one");
  assert_description (AES_DESCRIPTION, KW_KEY_KIND_AES, 128, 0x44, "aes raw");
}

static void
test_description_is_written_as_opensc_does (void)
{
  const guint8 id = 0x10;
  g_autoptr (GBytes) bytes = g_bytes_new (&id, 1);
  g_autoptr (GError) error = NULL;
  g_autoptr (GByteArray) file
      = kw_sc_description_build (KW_KEY_KIND_RSA, 2048, bytes, "rsa one", 1, &error);
  g_autofree char *hex = NULL;

  g_assert_no_error (error);
  hex = to_hex (file->data, file->len);
  g_assert_cmpstr (hex, ==, RSA_DESCRIPTION);
}

static void
test_description_round_trip (void)
{
  static const gsize id_sizes[] = { 1, 16, KW_MAX_KEY_ID_BYTES };
  static const gsize label_sizes[] = { 0, 7, 100, KW_MAX_KEY_LABEL_BYTES };
  static const guint bits[] = { 2048, 256, 256 };
  static const KwKeyKind kinds[] = { KW_KEY_KIND_RSA, KW_KEY_KIND_EC, KW_KEY_KIND_AES };

  for (gsize i = 0; i < G_N_ELEMENTS (kinds); i++)
    {
      for (gsize j = 0; j < G_N_ELEMENTS (id_sizes) * G_N_ELEMENTS (label_sizes); j++)
        {
          guint8 id[KW_MAX_KEY_ID_BYTES];
          g_autofree char *label = g_strnfill (label_sizes[j / 3], 'x');
          g_autoptr (GBytes) bytes = NULL;
          g_autoptr (GByteArray) file = NULL;
          g_autoptr (KwScDescription) description = NULL;
          g_autoptr (GError) error = NULL;

          memset (id, 0xC3, sizeof id);
          bytes = g_bytes_new (id, id_sizes[j % 3]);
          file = kw_sc_description_build (kinds[i], bits[i], bytes, label, 0x42, &error);
          g_assert_no_error (error);
          description = kw_sc_description_parse ((KwScSpan){ file->data, file->len }, &error);
          g_assert_no_error (error);
          g_assert_cmpint (description->kind, ==, kinds[i]);
          g_assert_cmpuint (description->bits, ==, bits[i]);
          g_assert_true (g_bytes_equal (description->id, bytes));
          g_assert_cmpstr (description->label, ==, label);
          if (kinds[i] != KW_KEY_KIND_AES)
            g_assert_cmpuint (file->data[description->reference_offset], ==, 0x42);
        }
    }
}

static void
test_description_too_long (void)
{
  guint8 id[KW_MAX_KEY_ID_BYTES + 1] = { 0 };
  g_autofree char *label = g_strnfill (KW_MAX_KEY_LABEL_BYTES + 1, 'x');
  g_autoptr (GBytes) long_id = g_bytes_new (id, sizeof id);
  g_autoptr (GBytes) no_id = g_bytes_new (id, 0);
  g_autoptr (GBytes) good_id = g_bytes_new (id, 1);
  g_autoptr (GError) error = NULL;

  g_assert_null (kw_sc_description_build (KW_KEY_KIND_AES, 256, long_id, "x", 1, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
  g_clear_error (&error);
  g_assert_null (kw_sc_description_build (KW_KEY_KIND_AES, 256, no_id, "x", 1, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
  g_clear_error (&error);
  g_assert_null (kw_sc_description_build (KW_KEY_KIND_AES, 256, good_id, label, 1, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
}

static void
test_description_damaged (void)
{
  static const char *const good[] = { RSA_DESCRIPTION, EC_DESCRIPTION, AES_DESCRIPTION };

  for (gsize i = 0; i < G_N_ELEMENTS (good); i++)
    {
      g_autoptr (GBytes) file = from_hex (good[i]);
      gsize size = g_bytes_get_size (file);

      for (gsize j = 0; j < size; j++)
        {
          g_autofree guint8 *copy = g_memdup2 (g_bytes_get_data (file, NULL), size);
          g_autoptr (GError) error = NULL;
          g_autoptr (KwScDescription) description = NULL;

          g_assert_null (kw_sc_description_parse ((KwScSpan){ copy, j }, &error));
          g_assert_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED);
          g_clear_error (&error);
          copy[j] ^= 0xFF;
          description = kw_sc_description_parse ((KwScSpan){ copy, size }, &error);
          g_assert_true ((description != NULL) == (error == NULL));
        }
    }
}

/* --- wrapped keys --- */

static void
test_wrapped_round_trip (void)
{
  g_autoptr (GBytes) blob = from_hex (BLOB_256);
  g_autoptr (GBytes) description = from_hex (AES_DESCRIPTION);
  g_autoptr (GBytes) file
      = kw_sc_wrapped_build (span_of (blob), span_of (description), (KwScSpan){ 0 });
  g_autoptr (GError) error = NULL;
  g_autoptr (KwScWrapped) wrapped = kw_sc_wrapped_parse (span_of (file), &error);

  g_assert_no_error (error);
  g_assert_cmpmem (wrapped->blob.data, wrapped->blob.size, g_bytes_get_data (blob, NULL),
                   g_bytes_get_size (blob));
  g_assert_cmpmem (wrapped->description.data, wrapped->description.size,
                   g_bytes_get_data (description, NULL), g_bytes_get_size (description));
  g_assert_cmpuint (wrapped->certificate.size, ==, 0);
  g_assert_cmpmem (wrapped->check_value, sizeof wrapped->check_value, g_bytes_get_data (blob, NULL),
                   sizeof wrapped->check_value);
  g_assert_cmpstr (wrapped->parsed_description->label, ==, "aes raw");
}

static void
test_wrapped_refuses (void)
{
  g_autoptr (GBytes) blob = from_hex (BLOB_256);
  g_autoptr (GBytes) short_blob = from_hex ("c8669cf006d8f0fa0f");
  g_autoptr (GBytes) aes = from_hex (AES_DESCRIPTION);
  g_autoptr (GBytes) rsa = from_hex (RSA_DESCRIPTION);
  g_autoptr (GBytes) junk = from_hex ("0401AA");
  const KwScSpan nothing = { 0 };
  GBytes *const bad[] = {
    kw_sc_wrapped_build (nothing, span_of (aes), nothing),
    kw_sc_wrapped_build (span_of (blob), nothing, nothing),
    kw_sc_wrapped_build (span_of (short_blob), span_of (aes), nothing),
    kw_sc_wrapped_build (span_of (blob), span_of (rsa), nothing), /* of another kind */
    kw_sc_wrapped_build (span_of (blob), span_of (junk), nothing),
    kw_sc_wrapped_build (span_of (blob), span_of (aes), span_of (junk)),
    g_bytes_ref (aes),
    g_bytes_new_static ("", 0),
  };

  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_null (kw_sc_wrapped_parse (span_of (bad[i]), &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
      g_bytes_unref (bad[i]);
    }
}

static void
test_wrapped_damaged (void)
{
  g_autoptr (GBytes) blob = from_hex (BLOB_128);
  g_autoptr (GBytes) description = from_hex (AES_DESCRIPTION);
  g_autoptr (GBytes) file
      = kw_sc_wrapped_build (span_of (blob), span_of (description), (KwScSpan){ 0 });
  gsize size = g_bytes_get_size (file);

  for (gsize i = 0; i < size; i++)
    {
      g_autofree guint8 *copy = g_memdup2 (g_bytes_get_data (file, NULL), size);
      g_autoptr (GError) error = NULL;
      g_autoptr (KwScWrapped) wrapped = NULL;

      g_assert_null (kw_sc_wrapped_parse ((KwScSpan){ copy, i }, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
      g_clear_error (&error);
      copy[i] ^= 0xFF;
      wrapped = kw_sc_wrapped_parse ((KwScSpan){ copy, size }, &error);
      g_assert_true ((wrapped != NULL) == (error == NULL));
    }
}

static void
test_wrapped_sizes (void)
{
  g_autoptr (GBytes) small = from_hex (BLOB_128);
  g_autoptr (GBytes) large = from_hex (BLOB_256);
  g_autoptr (GBytes) none = from_hex (AES_DESCRIPTION);

  g_assert_cmpuint (kw_sc_wrapped_guess_aes_bits (span_of (small)), ==, 128);
  g_assert_cmpuint (kw_sc_wrapped_guess_aes_bits (span_of (large)), ==, 256);
  g_assert_cmpuint (kw_sc_wrapped_guess_aes_bits (span_of (none)), ==, 0);
}

/* --- sentences --- */

static void
test_sentences (void)
{
  static const char *const none[] = { NULL };
  static const char *const one[] = { "Nitrokey HSM (20a0:4230)", NULL };
  g_autoptr (KwScSnapshot) absent = kw_sc_snapshot_new (KW_SC_SERVICE_ABSENT, NULL);
  g_autoptr (KwScSnapshot) denied = kw_sc_snapshot_new (KW_SC_SERVICE_DENIED, "polkit");
  g_autoptr (KwScSnapshot) running = kw_sc_snapshot_new (KW_SC_SERVICE_RUNNING, NULL);
  g_autofree char *text = kw_sc_status_of_service (absent, none);

  g_assert_cmpstr (text, ==, "pcscd is not running; start it with: systemctl start pcscd.socket");
  g_free (text);
  text = kw_sc_status_of_service (absent, one);
  g_assert_nonnull (strstr (text, "Nitrokey HSM (20a0:4230)"));
  g_assert_true (g_str_has_prefix (text, "pcscd is not running"));
  g_free (text);
  text = kw_sc_status_of_service (denied, one);
  g_assert_cmpstr (text, ==, "polkit");
  g_free (text);
  text = kw_sc_status_of_service (running, one);
  g_assert_null (text);
  text = kw_sc_status_of_missing_reader (running, none);
  g_assert_cmpstr (text, ==, "No card reader and no SmartCard-HSM is plugged in");
  g_free (text);
  text = kw_sc_status_of_missing_reader (running, one);
  g_assert_nonnull (strstr (text, "pcscd shows no reader: Nitrokey HSM (20a0:4230)"));
  g_assert_nonnull (strstr (text, "pcscd --hotplug"));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/tlv/reads-what-it-wrote", test_tlv_reads_what_it_wrote);
  g_test_add_func ("/tlv/refuses", test_tlv_refuses);
  g_test_add_func ("/tlv/finds", test_tlv_finds);
  g_test_add_func ("/tlv/numbers", test_tlv_numbers);
  g_test_add_func ("/apdu/forms", test_apdu_forms);
  g_test_add_func ("/apdu/too-long", test_apdu_too_long);
  g_test_add_func ("/apdu/answers", test_apdu_answers);
  g_test_add_func ("/error/status-words", test_status_words);
  g_test_add_func ("/error/return-values", test_return_values);
  g_test_add_func ("/cvc/serial", test_serial);
  g_test_add_func ("/cvc/serial-damaged", test_serial_damaged);
  g_test_add_func ("/cvc/ec-request", test_ec_request);
  g_test_add_func ("/cvc/public-key-damaged", test_public_key_damaged);
  g_test_add_func ("/cvc/public-key-refuses", test_public_key_refuses);
  g_test_add_func ("/description/parse", test_descriptions);
  g_test_add_func ("/description/as-opensc-does", test_description_is_written_as_opensc_does);
  g_test_add_func ("/description/round-trip", test_description_round_trip);
  g_test_add_func ("/description/too-long", test_description_too_long);
  g_test_add_func ("/description/damaged", test_description_damaged);
  g_test_add_func ("/wrapped/round-trip", test_wrapped_round_trip);
  g_test_add_func ("/wrapped/refuses", test_wrapped_refuses);
  g_test_add_func ("/wrapped/damaged", test_wrapped_damaged);
  g_test_add_func ("/wrapped/sizes", test_wrapped_sizes);
  g_test_add_func ("/status/sentences", test_sentences);
  return g_test_run ();
}
