/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-json"

#include "kw-error.h"
#include "kw-json-reader.h"
#include "kw-json-writer.h"
#include "kw-limits.h"

#include <string.h>

/*
 * JSON, read and written where it lies.
 */

static gboolean
check (const char *text, KwJsonValue *out_root, GError **error)
{
  return kw_json_check (text, strlen (text), out_root, error);
}

static void
test_good_documents (void)
{
  static const struct
  {
    const char *text;
    KwJsonType type;
  } cases[] = {
    { "null", KW_JSON_NULL },       { " true ", KW_JSON_BOOLEAN },
    { "false", KW_JSON_BOOLEAN },   { "0", KW_JSON_NUMBER },
    { "-0.5e+10", KW_JSON_NUMBER }, { "120E3", KW_JSON_NUMBER },
    { "\"\"", KW_JSON_STRING },     { "\"a\\n\\u00e9\\\\\\/\"", KW_JSON_STRING },
    { "[]", KW_JSON_ARRAY },        { "[1, [2, {\"a\": []}]]", KW_JSON_ARRAY },
    { "{}", KW_JSON_OBJECT },       { "\t{\"a\" : 1 ,\r\n\"b\":\"ü\"}", KW_JSON_OBJECT },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      KwJsonValue root;
      g_autoptr (GError) error = NULL;

      g_assert_true (check (cases[i].text, &root, &error));
      g_assert_no_error (error);
      g_assert_cmpint (root.type, ==, cases[i].type);
    }
}

static void
test_bad_documents (void)
{
  static const char *const cases[] = {
    "",
    " ",
    "nul",
    "tru",
    "truee",
    "{",
    "}",
    "[",
    "]",
    "[1",
    "[1,]",
    "[,1]",
    "[1 2]",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1,}",
    "{a:1}",
    "{'a':1}",
    "{\"a\":1 \"b\":2}",
    "\"",
    "\"\\x\"",
    "\"\\u12g4\"",
    "\"\\u12",
    "\"\\",
    "\"\t\"",
    "01",
    "1.",
    ".5",
    "+1",
    "1e",
    "1e+",
    "--1",
    "1 2",
    "{}{}",
    "\xff",
    "\"\xc3\"",
    "[1]x",
    "\"\\ud83\"",
    "NaN",
    "Infinity",
    "// a\n1",
    "{\"a\":1}}",
  };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      KwJsonValue root = { KW_JSON_NULL, "untouched", 9 };
      g_autoptr (GError) error = NULL;

      g_test_message ("case %" G_GSIZE_FORMAT, i);
      g_assert_false (check (cases[i], &root, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
      g_assert_nonnull (strstr (error->message, "at byte "));
      g_assert_cmpuint (root.size, ==, 9);
    }
}

/* What stands in front of a cut must never be read beyond. */
static void
test_each_truncation (void)
{
  static const char text[]
      = "{\"items\":[{\"plaintext\":\"aGFsbG8=\",\"n\":-1.5e3,\"t\":true},null,\"\\u0041\"]}";

  for (gsize n = 0; n < strlen (text); n++)
    {
      g_autofree char *exact = g_memdup2 (text, MAX (n, 1));
      KwJsonValue root;

      g_assert_false (kw_json_check (exact, n, &root, NULL));
    }
}

static char *
nest (guint depth, const char *open, const char *close)
{
  GString *text = g_string_new (NULL);

  for (guint i = 0; i < depth; i++)
    g_string_append (text, open);
  for (guint i = 0; i < depth; i++)
    g_string_append (text, close);
  return g_string_free (text, FALSE);
}

static void
test_depth (void)
{
  g_autofree char *deepest = nest (KW_MAX_JSON_DEPTH, "[", "]");
  g_autofree char *too_deep = nest (KW_MAX_JSON_DEPTH + 1, "[", "]");
  g_autofree char *bomb = g_strnfill (2000000, '[');
  KwJsonValue root;
  g_autoptr (GError) error = NULL;

  g_assert_true (check (deepest, &root, &error));
  g_assert_false (check (too_deep, &root, &error));
  g_assert_nonnull (strstr (error->message, "at byte 16"));
  g_clear_error (&error);
  g_assert_false (check (bomb, &root, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
}

static const KwJsonMember members[] = {
  { "name", KW_JSON_STRING, TRUE },
  { "size", KW_JSON_NUMBER, FALSE },
  { "list", KW_JSON_ARRAY, FALSE },
};

static void
test_members (void)
{
  static const struct
  {
    const char *text;
    const char *error; /* NULL = good */
  } cases[] = {
    { "{\"name\":\"x\"}", NULL },
    { "{\"list\":[1],\"size\":3,\"name\":\"x\"}", NULL },
    { "{}", "“name” is missing" },
    { "{\"name\":\"x\",\"nome\":1}", "no member \"nome\"" },
    { "{\"name\":\"x\",\"name\":\"y\"}", "“name” is there twice" },
    { "{\"n\\u0061me\":\"x\"}", "no member" },
    { "{\"name\":null}", "“name” has to be a string, not null" },
    { "{\"name\":\"x\",\"size\":\"3\"}", "“size” has to be a number, not a string" },
    { "{\"name\":\"x\",\"list\":{}}", "“list” has to be an array, not an object" },
    { "[]", "An object is wanted, not an array" },
    { "true", "An object is wanted, not true or false" },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      KwJsonValue root;
      KwJsonValue values[G_N_ELEMENTS (members)];
      g_autoptr (GError) error = NULL;

      g_assert_true (check (cases[i].text, &root, NULL));
      g_assert_true (kw_json_read_object (&root, members, G_N_ELEMENTS (members), values, &error)
                     == (cases[i].error == NULL));
      if (cases[i].error == NULL)
        g_assert_no_error (error);
      else
        {
          g_test_message ("%s", error->message);
          g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
          g_assert_nonnull (strstr (error->message, cases[i].error));
        }
    }
}

static void
test_arrays (void)
{
  KwJsonValue root;
  KwJsonValue value;
  gsize position = 0;
  guint n = 0;

  g_assert_true (check (" [ 1 , \"a,]\" ,[2,3], {\"b\":[4]} ] ", &root, NULL));
  while (kw_json_next (&root, &position, &value))
    {
      static const char *const texts[] = { "1", "\"a,]\"", "[2,3]", "{\"b\":[4]}" };

      g_assert_cmpuint (n, <, G_N_ELEMENTS (texts));
      g_assert_cmpmem (value.text, value.size, texts[n], strlen (texts[n]));
      n++;
    }
  g_assert_cmpuint (n, ==, 4);
  position = 0;
  g_assert_true (check ("[]", &root, NULL));
  g_assert_false (kw_json_next (&root, &position, &value));
}

/* RFC 4648, 10, and what is none. */
static void
test_base64 (void)
{
  static const struct
  {
    const char *text;
    const char *bytes; /* NULL = refused */
  } cases[] = {
    { "\"\"", "" },
    { "\"Zg==\"", "f" },
    { "\"Zm8=\"", "fo" },
    { "\"Zm9v\"", "foo" },
    { "\"Zm9vYg==\"", "foob" },
    { "\"Zm9vYmE=\"", "fooba" },
    { "\"Zm9vYmFy\"", "foobar" },
    { "\"Pz8\\/\"", "???" },
    { "\"Pz8/\"", "???" },
    { "\"Zg\"", NULL },
    { "\"Zg=\"", NULL },
    { "\"Zg===\"", NULL },
    { "\"=Zg=\"", NULL },
    { "\"Zg==Zg==\"", NULL },
    { "\"Zm9v \"", NULL },
    { "\" Zm9v\"", NULL },
    { "\"Zm9\\n\"", NULL },
    { "\"Zm9-\"", NULL },
    { "\"Zm9_\"", NULL },
    { "\"Zm9\\u0076\"", NULL },
    { "\"====\"", NULL },
    { "\"Zm9vé\"", NULL },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      KwJsonValue value;
      g_autoptr (GError) error = NULL;
      g_autoptr (KwSecret) bytes = NULL;

      g_test_message ("%s", cases[i].text);
      g_assert_true (check (cases[i].text, &value, NULL));
      bytes = kw_json_decode_base64 (&value, "x", 100, &error);
      if (cases[i].bytes == NULL)
        {
          g_assert_null (bytes);
          g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
          continue;
        }
      g_assert_no_error (error);
      g_assert_cmpmem (kw_secret_get_data (bytes), kw_secret_get_size (bytes), cases[i].bytes,
                       strlen (cases[i].bytes));
    }
}

static void
test_limits (void)
{
  KwJsonValue value;
  g_autoptr (GError) error = NULL;
  g_autofree char *text = NULL;
  guint64 number = 77;

  g_assert_true (check ("\"Zm9vYg==\"", &value, NULL));
  g_assert_null (kw_json_decode_base64 (&value, "data", 3, &error));
  g_assert_nonnull (strstr (error->message, "“data” has more than 3 bytes"));
  g_clear_error (&error);
  g_assert_true (check ("\"abcd\"", &value, NULL));
  g_assert_null (kw_json_dup_string (&value, "id", 3, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
  g_clear_error (&error);
  text = kw_json_dup_string (&value, "id", 4, &error);
  g_assert_cmpstr (text, ==, "abcd");
  g_assert_true (check ("\"a\\tb\"", &value, NULL));
  g_assert_null (kw_json_dup_string (&value, "id", 9, &error));
  g_clear_error (&error);
  g_assert_null (kw_json_dup_secret (&value, "id", &error));
  g_clear_error (&error);
  {
    static const char *const bad[] = { "-1", "1.5", "11", "1e1", "99999999999999999999999999" };

    for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
      {
        g_assert_true (check (bad[i], &value, NULL));
        g_assert_false (kw_json_get_unsigned (&value, "size", 10, &number, &error));
        g_assert_nonnull (strstr (error->message, "“size” has to be a whole number from 0 to 10"));
        g_clear_error (&error);
      }
  }
  g_assert_cmpuint (number, ==, 77);
  g_assert_true (check ("10", &value, NULL));
  g_assert_true (kw_json_get_unsigned (&value, "size", 10, &number, &error));
  g_assert_cmpuint (number, ==, 10);
}

/* Bytes of all lengths, written and read back, with small and large memory. */
static void
test_round_trip (void)
{
  for (gsize n = 0; n < 20000; n = n * 3 / 2 + 1)
    {
      g_autoptr (KwSecret) data = kw_secret_new_random (MAX (n, 1), NULL);
      g_autoptr (KwJsonWriter) writer = kw_json_writer_new (n % 2 == 0 ? 0 : n * 2);
      g_autoptr (KwSecret) text = NULL;
      g_autoptr (KwSecret) again = NULL;
      g_autoptr (GError) error = NULL;
      KwJsonValue root;
      KwJsonValue values[2];
      static const KwJsonMember both[]
          = { { "b", KW_JSON_STRING, TRUE }, { "t", KW_JSON_STRING, TRUE } };

      kw_json_writer_add (writer, "{\"b\":");
      kw_json_writer_add_base64 (writer, kw_secret_get_data (data), n);
      kw_json_writer_add (writer, ",\"t\":");
      kw_json_writer_add_string (writer, "a\"b\\c\n\x01é");
      kw_json_writer_add (writer, "}");
      text = kw_json_writer_finish (writer, &error);
      g_assert_no_error (error);
      g_assert_true (kw_json_check ((const char *) kw_secret_get_data (text),
                                    kw_secret_get_size (text), &root, &error));
      g_assert_true (kw_json_read_object (&root, both, 2, values, &error));
      again = kw_json_decode_base64 (&values[0], "b", n, &error);
      g_assert_no_error (error);
      g_assert_cmpmem (kw_secret_get_data (again), kw_secret_get_size (again),
                       kw_secret_get_data (data), n);
    }
}

/* Good texts with a few bytes changed: whatever comes out, nothing is read out of bounds. */
static void
test_damaged_texts (void)
{
  static const char text[]
      = "{\"items\":[{\"plaintext\":\"aGFsbG8=\",\"associated_data\":\"\"},{\"n\":[1,2.5e-3,true,null]}]}";

  for (guint round = 0; round < 20000; round++)
    {
      g_autofree char *copy = g_memdup2 (text, sizeof text - 1);
      KwJsonValue root;
      KwJsonValue values[G_N_ELEMENTS (members)];

      for (guint i = 0; i < 3; i++)
        copy[g_test_rand_int_range (0, sizeof text - 1)] = (char) g_test_rand_int_range (0, 256);
      if (kw_json_check (copy, sizeof text - 1, &root, NULL))
        (void) kw_json_read_object (&root, members, G_N_ELEMENTS (members), values, NULL);
    }
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/json/good", test_good_documents);
  g_test_add_func ("/json/bad", test_bad_documents);
  g_test_add_func ("/json/truncated", test_each_truncation);
  g_test_add_func ("/json/depth", test_depth);
  g_test_add_func ("/json/members", test_members);
  g_test_add_func ("/json/arrays", test_arrays);
  g_test_add_func ("/json/base64", test_base64);
  g_test_add_func ("/json/limits", test_limits);
  g_test_add_func ("/json/round-trip", test_round_trip);
  g_test_add_func ("/json/damaged", test_damaged_texts);
  return g_test_run ();
}
