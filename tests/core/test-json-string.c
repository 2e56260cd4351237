/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-json-string"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-log.h"

#include <json-glib/json-glib.h>
#include <string.h>

static char *
write_json (const char *text)
{
  GString *json = g_string_new (NULL);

  kw_log_append_json_string (json, text);
  return g_string_free (json, FALSE);
}

static void
assert_reads_back (const char *json, const char *wanted)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (JsonNode) node = json_from_string (json, &error);

  g_assert_no_error (error);
  g_assert_cmpstr (json_node_get_string (node), ==, wanted);
}

static void
test_exact (void)
{
  static const char *const rows[][2] = {
    { "", "\"\"" },
    { "plain", "\"plain\"" },
    { "a\"b", "\"a\\\"b\"" },
    { "a\\b", "\"a\\\\b\"" },
    { "a\nb", "\"a\\nb\"" },
    { "\t\r\x01\x1f\x7f", "\"\\u0009\\u000d\\u0001\\u001f\\u007f\"" },
    { "gr\xc3\xbc\xc3\x9f", "\"gr\xc3\xbc\xc3\x9f\"" },
    { "\xf0\x9f\x94\x91", "\"\xf0\x9f\x94\x91\"" },
    { "a\xff\xfe"
      "b",
      "\"a\xef\xbf\xbd\xef\xbf\xbd"
      "b\"" },
    { "cut \xf0\x9f", "\"cut \xef\xbf\xbd\xef\xbf\xbd\"" },
    { "\"},{\"level\":\"", "\"\\\"},{\\\"level\\\":\\\"\"" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autofree char *json = write_json (rows[i][0]);

      g_assert_cmpstr (json, ==, rows[i][1]);
    }
}

/* json-glib reads "\u007f" and the like back to what went in. */
static void
test_each_byte_reads_back (void)
{
  for (guint byte = 1; byte < 0x80; byte++)
    {
      char text[] = { 'a', (char) byte, 'z', '\0' };
      g_autofree char *json = write_json (text);

      assert_reads_back (json, text);
    }
  for (guint byte = 0x80; byte <= 0xFF; byte++)
    {
      char text[] = { 'a', (char) byte, 'z', '\0' };
      g_autofree char *json = write_json (text);

      assert_reads_back (json, "a\xef\xbf\xbdz");
    }
}

static void
test_appends (void)
{
  g_autoptr (GString) json = g_string_new ("[");

  kw_log_append_json_string (json, "x");
  g_assert_cmpstr (json->str, ==, "[\"x\"");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/json-string/exact", test_exact);
  g_test_add_func ("/json-string/each-byte-reads-back", test_each_byte_reads_back);
  g_test_add_func ("/json-string/appends", test_appends);
  return g_test_run ();
}
