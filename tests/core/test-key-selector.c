/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-key-selector"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-key-selector.h"

#include <string.h>

static void
add_key (GPtrArray *keys, KwKeyKind kind, guint reference, const char *id, const char *label)
{
  g_autoptr (GBytes) bytes = g_bytes_new (id, strlen (id));

  g_ptr_array_add (keys, kw_key_new_full (&(KwKeyFields){ .kind = kind,
                                                          .bits = 256,
                                                          .id = bytes,
                                                          .label = label,
                                                          .reference = reference }));
}

/* As a card may list them: in no order, with RSA keys between. */
static GPtrArray *
make_keys (void)
{
  GPtrArray *keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);

  add_key (keys, KW_KEY_KIND_AES, 5, "a", "third");
  add_key (keys, KW_KEY_KIND_RSA, 1, "r", "first");
  add_key (keys, KW_KEY_KIND_AES, 4, "z", "twin");
  add_key (keys, KW_KEY_KIND_AES, 2, "\xab\xcd", "first");
  add_key (keys, KW_KEY_KIND_AES, 9, "y", "twin");
  return keys;
}

static guint
find (GPtrArray *keys, const char *text)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwKeySelector) selector = kw_key_selector_new (text, &error);
  KwKey *key = NULL;

  g_assert_no_error (error);
  key = kw_key_selector_find (selector, keys, &error);
  g_assert_no_error (error);
  return kw_key_get_reference (key);
}

static void
test_finds (void)
{
  g_autoptr (GPtrArray) keys = make_keys ();

  g_assert_cmpuint (find (keys, "0"), ==, 2);
  g_assert_cmpuint (find (keys, "1"), ==, 4);
  g_assert_cmpuint (find (keys, "3"), ==, 9);
  g_assert_cmpuint (find (keys, "label:first"), ==, 2);
  g_assert_cmpuint (find (keys, "id:ABcd"), ==, 2);
}

static void
test_finds_none (void)
{
  static const struct
  {
    const char *text;
    gint code;
    const char *message;
  } rows[] = {
    { "4", KW_ERROR_KEY_NOT_FOUND, "The device has 4 AES keys, so none at place 4" },
    { "label:nobody", KW_ERROR_KEY_NOT_FOUND, "The device has no AES key label:nobody" },
    { "id:72", KW_ERROR_KEY_NOT_FOUND, "The device has no AES key id:72" },
    { "label:twin", KW_ERROR_AMBIGUOUS, "The device has 2 AES keys label:twin" },
  };
  g_autoptr (GPtrArray) keys = make_keys ();

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (KwKeySelector) selector = kw_key_selector_new (rows[i].text, &error);

      g_assert_no_error (error);
      g_assert_null (kw_key_selector_find (selector, keys, &error));
      kw_assert_error (error, rows[i].code, rows[i].message);
    }
}

static void
test_one_spelling (void)
{
  static const char *const rows[][2]
      = { { "0", "0" }, { "007", "7" }, { "id:AbCd", "id:abcd" }, { "label:Ab", "label:Ab" } };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (KwKeySelector) selector = kw_key_selector_new (rows[i][0], NULL);
      g_autoptr (KwKeySelector) again = kw_key_selector_ref (selector);

      g_assert_cmpstr (kw_key_selector_get_text (again), ==, rows[i][1]);
    }
}

static void
test_refuses (void)
{
  static const char *const texts[] = { "",      "-1",      "+1",  "0x1",       "65536",
                                       "one",   "label:",  "id:", "id:1",      "id:1g",
                                       "ID:11", "Label:a", "1 ",  "label:\xff" };

  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_null (kw_key_selector_new (texts[i], &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_CONFIG);
      g_assert_true (g_str_has_prefix (error->message, "names no key: "));
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/key-selector/finds", test_finds);
  g_test_add_func ("/key-selector/finds-none", test_finds_none);
  g_test_add_func ("/key-selector/one-spelling", test_one_spelling);
  g_test_add_func ("/key-selector/refuses", test_refuses);
  return g_test_run ();
}
