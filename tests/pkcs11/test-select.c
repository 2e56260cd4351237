/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-select"

#include "config.h"

#include "kw-error.h"
#include "kw-pkcs11-select.h"

#include <string.h>

static void
fill (guint8 *field, gsize size, const char *text)
{
  memset (field, ' ', size);
  memcpy (field, text, MIN (strlen (text), size));
}

static KwPkcs11Slot
make_slot (CK_SLOT_ID id, const char *label, const char *serial)
{
  KwPkcs11Slot slot = { .id = id, .has_token = label != NULL };

  fill (slot.slot_info.slotDescription, sizeof slot.slot_info.slotDescription, "A reader");
  fill (slot.slot_info.manufacturerID, sizeof slot.slot_info.manufacturerID, "Reader Works");
  if (label == NULL)
    return slot;
  slot.slot_info.flags = CKF_TOKEN_PRESENT;
  fill (slot.token_info.label, sizeof slot.token_info.label, label);
  fill (slot.token_info.serialNumber, sizeof slot.token_info.serialNumber, serial);
  fill (slot.token_info.model, sizeof slot.token_info.model, "Model T");
  fill (slot.token_info.manufacturerID, sizeof slot.token_info.manufacturerID, "Token Works");
  slot.token_info.flags = CKF_TOKEN_INITIALIZED;
  return slot;
}

static const CK_INFO *
module_info (void)
{
  static CK_INFO info = { .cryptokiVersion = { 2, 40 }, .libraryVersion = { 1, 7 } };

  fill (info.manufacturerID, sizeof info.manufacturerID, "Module Works");
  fill (info.libraryDescription, sizeof info.libraryDescription, "A library");
  return &info;
}

static const KwPkcs11Slot *
choose (const KwPkcs11Config *config, const KwPkcs11Slot *slots, gsize n_slots, GError **error)
{
  return kw_pkcs11_select_slot (config, module_info (), slots, n_slots, error);
}

static void
assert_chosen (const KwPkcs11Config *config,
               const KwPkcs11Slot *slots,
               gsize n_slots,
               CK_SLOT_ID id)
{
  g_autoptr (GError) error = NULL;
  const KwPkcs11Slot *chosen = choose (config, slots, n_slots, &error);

  g_assert_no_error (error);
  g_assert_nonnull (chosen);
  g_assert_cmpuint (chosen->id, ==, id);
}

static char *
assert_refused (const KwPkcs11Config *config,
                const KwPkcs11Slot *slots,
                gsize n_slots,
                KwError code)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (choose (config, slots, n_slots, &error));
  g_assert_error (error, KW_ERROR, (gint) code);
  return g_strdup (error->message);
}

static void
test_only_token (void)
{
  KwPkcs11Config config = { 0 };
  KwPkcs11Slot slots[] = { make_slot (3, NULL, NULL), make_slot (7, "one", "S1") };

  assert_chosen (&config, slots, G_N_ELEMENTS (slots), 7);
}

static void
test_uninitialised_token_is_no_choice (void)
{
  KwPkcs11Config config = { 0 };
  KwPkcs11Slot slots[] = { make_slot (0, "one", "S1"), make_slot (1, "", "") };
  g_autofree char *message = NULL;

  slots[1].token_info.flags = 0;
  assert_chosen (&config, slots, G_N_ELEMENTS (slots), 0);

  slots[0].token_info.flags = 0;
  message = assert_refused (&config, slots, G_N_ELEMENTS (slots), KW_ERROR_TOKEN_NOT_FOUND);
  g_assert_cmpstr (message, ==,
                   "No initialised token is there. The module has slot 0: a token that was never "
                   "initialised; slot 1: a token that was never initialised");
}

static void
test_nothing_there (void)
{
  KwPkcs11Config config = { 0 };
  g_autofree char *message = assert_refused (&config, NULL, 0, KW_ERROR_TOKEN_NOT_FOUND);

  g_assert_cmpstr (message, ==, "No initialised token is there. The module has no slots");
}

static void
test_ambiguity_lists_candidates (void)
{
  KwPkcs11Config config = { .token_label = (char *) "same" };
  KwPkcs11Slot slots[]
      = { make_slot (5, "same", "S1"), make_slot (6, "other", "S2"), make_slot (9, "same", "S3") };
  g_autofree char *message
      = assert_refused (&config, slots, G_N_ELEMENTS (slots), KW_ERROR_AMBIGUOUS);

  g_assert_cmpstr (message, ==,
                   "2 tokens fit; choose one by [pkcs11] token_serial: slot 5: label \"same\", "
                   "serial \"S1\"; slot 9: label \"same\", serial \"S3\"");
}

static void
test_label_matches_exactly (void)
{
  KwPkcs11Config config = { .token_label = (char *) "key" };
  KwPkcs11Slot slots[]
      = { make_slot (1, "key two", "S1"), make_slot (2, "keys", "S2"), make_slot (3, "KEY", "S3") };
  g_autofree char *message
      = assert_refused (&config, slots, G_N_ELEMENTS (slots), KW_ERROR_TOKEN_NOT_FOUND);

  g_assert_nonnull (strstr (message, "token_label \"key\""));
  g_assert_nonnull (strstr (message, "slot 1: label \"key two\", serial \"S1\""));
  fill (slots[1].token_info.label, sizeof slots[1].token_info.label, "key");
  assert_chosen (&config, slots, G_N_ELEMENTS (slots), 2);
}

static void
test_label_as_long_as_its_field (void)
{
  KwPkcs11Config config = { .token_label = (char *) "0123456789abcdef0123456789abcdef" };
  KwPkcs11Slot slots[] = { make_slot (1, "0123456789abcdef0123456789abcdef", "S1"),
                           make_slot (2, "0123456789abcdef0123456789abcde", "S2") };

  assert_chosen (&config, slots, G_N_ELEMENTS (slots), 1);
}

static void
test_text_ended_by_nul (void)
{
  KwPkcs11Config config = { .token_serial = (char *) "S1" };
  KwPkcs11Slot slots[] = { make_slot (1, "one", "S1") };

  memcpy (slots[0].token_info.serialNumber, "S1\0garbage", 10);
  assert_chosen (&config, slots, G_N_ELEMENTS (slots), 1);
}

static void
test_serial (void)
{
  KwPkcs11Config config = { .token_serial = (char *) "S2" };
  KwPkcs11Slot slots[] = { make_slot (1, "same", "S1"), make_slot (2, "same", "S2") };

  assert_chosen (&config, slots, G_N_ELEMENTS (slots), 2);
}

static void
test_all_criteria_must_fit (void)
{
  KwPkcs11Config config = { .token_label = (char *) "one", .token_serial = (char *) "S2" };
  KwPkcs11Slot slots[] = { make_slot (1, "one", "S1"), make_slot (2, "two", "S2") };
  g_autofree char *message
      = assert_refused (&config, slots, G_N_ELEMENTS (slots), KW_ERROR_TOKEN_NOT_FOUND);

  g_assert_nonnull (strstr (message, "token_label \"one\", token_serial \"S2\""));
  config.token_serial = NULL;
  config.uri = (char *) "pkcs11:serial=S2";
  g_free (assert_refused (&config, slots, G_N_ELEMENTS (slots), KW_ERROR_TOKEN_NOT_FOUND));
}

static void
test_slot_alone_is_strict (void)
{
  KwPkcs11Config config = { .has_slot = TRUE, .slot = 2 };
  KwPkcs11Slot slots[]
      = { make_slot (1, "one", "S1"), make_slot (2, "two", "S2"), make_slot (3, NULL, NULL) };
  g_autofree char *message = NULL;

  assert_chosen (&config, slots, G_N_ELEMENTS (slots), 2);
  config.slot = 3;
  message = assert_refused (&config, slots, G_N_ELEMENTS (slots), KW_ERROR_TOKEN_NOT_FOUND);
  g_assert_nonnull (strstr (message, "; slot 3: no token"));
  g_assert_nonnull (strstr (message, "No initialised token fits slot 3. The module has slot 1: "));
}

static void
test_slot_beside_a_label_is_a_hint (void)
{
  KwPkcs11Config config = { .has_slot = TRUE, .slot = 2, .token_label = (char *) "same" };
  KwPkcs11Slot slots[] = { make_slot (1, "same", "S1"), make_slot (2, "same", "S2") };
  KwPkcs11Slot moved[] = { make_slot (8, "same", "S1"), make_slot (2, "other", "S2") };

  assert_chosen (&config, slots, G_N_ELEMENTS (slots), 2);
  assert_chosen (&config, moved, G_N_ELEMENTS (moved), 8);
  config.slot = 77;
  g_free (assert_refused (&config, slots, G_N_ELEMENTS (slots), KW_ERROR_AMBIGUOUS));
}

static void
test_uri (void)
{
  static const struct
  {
    const char *uri;
    CK_SLOT_ID id;
  } cases[] = {
    { "pkcs11:token=two", 2 },
    { "pkcs11:serial=S1", 1 },
    { "pkcs11:token=with%20blank", 4 },
    { "pkcs11:slot-id=2", 2 },
    { "pkcs11:model=Model%20T;manufacturer=Token%20Works;token=two", 2 },
    { "pkcs11:slot-description=A%20reader;serial=S2", 2 },
    { "pkcs11:library-manufacturer=Module%20Works;serial=S2", 2 },
  };
  KwPkcs11Slot slots[] = { make_slot (1, "one", "S1"), make_slot (2, "two", "S2"),
                           make_slot (4, "with blank", "S4") };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      KwPkcs11Config config = { .uri = (char *) cases[i].uri };
      g_autoptr (GError) error = NULL;

      g_assert_true (kw_pkcs11_check_criteria (&config, &error));
      g_assert_no_error (error);
      assert_chosen (&config, slots, G_N_ELEMENTS (slots), cases[i].id);
    }
}

static void
test_uri_that_fits_nothing (void)
{
  static const char *const uris[]
      = { "pkcs11:token=tw", "pkcs11:model=Model%20S", "pkcs11:slot-id=3",
          "pkcs11:library-manufacturer=Other", "pkcs11:token=one;serial=S2" };
  KwPkcs11Slot slots[] = { make_slot (1, "one", "S1"), make_slot (2, "two", "S2") };

  for (gsize i = 0; i < G_N_ELEMENTS (uris); i++)
    {
      KwPkcs11Config config = { .uri = (char *) uris[i] };

      g_free (assert_refused (&config, slots, G_N_ELEMENTS (slots), KW_ERROR_TOKEN_NOT_FOUND));
    }
}

static void
test_bad_uris (void)
{
  static const struct
  {
    const char *uri;
    const char *message;
  } cases[] = {
    { "token=one", "is no PKCS#11 URI" },
    { "pkcs11:token=%zz", "is no PKCS#11 URI" },
    { "pkcs11:token=one?pin-value=1234", "the PIN belongs in [pkcs11] pin" },
    { "pkcs11:token=one?pin-source=file:/etc/pin", "the PIN belongs in [pkcs11] pin" },
    { "pkcs11:token=one?module-path=/lib/x.so", "the module belongs in [pkcs11] module" },
    { "pkcs11:token=one?module-name=x", "the module belongs in [pkcs11] module" },
    { "pkcs11:token=one;object=key", "leave object, type and id out" },
    { "pkcs11:token=one;colour=blue", "names no token or slot" },
  };
  KwPkcs11Slot slots[] = { make_slot (1, "one", "S1") };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      KwPkcs11Config config = { .uri = (char *) cases[i].uri };
      g_autoptr (GError) error = NULL;

      g_assert_false (kw_pkcs11_check_criteria (&config, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_CONFIG);
      g_assert_nonnull (strstr (error->message, cases[i].message));
      g_assert_null (strstr (error->message, "1234"));
      g_free (assert_refused (&config, slots, 1, KW_ERROR_CONFIG));
    }
}

static void
test_text_is_made_safe (void)
{
  static const struct
  {
    const char *text;
    const char *expected;
  } cases[] = {
    { "plain   ", "plain" },
    { "        ", "" },
    { " lead   ", " lead" },
    { "a\nb\033[1m", "a?b?[1m" },
    { "\xff\xfe      ", "\xef\xbf\xbd\xef\xbf\xbd" },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *text
          = kw_pkcs11_dup_text ((const guint8 *) cases[i].text, strlen (cases[i].text));

      g_assert_cmpstr (text, ==, cases[i].expected);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);

  g_test_add_func ("/select/only-token", test_only_token);
  g_test_add_func ("/select/uninitialised-token-is-no-choice",
                   test_uninitialised_token_is_no_choice);
  g_test_add_func ("/select/nothing-there", test_nothing_there);
  g_test_add_func ("/select/ambiguity-lists-candidates", test_ambiguity_lists_candidates);
  g_test_add_func ("/select/label-matches-exactly", test_label_matches_exactly);
  g_test_add_func ("/select/label-as-long-as-its-field", test_label_as_long_as_its_field);
  g_test_add_func ("/select/text-ended-by-nul", test_text_ended_by_nul);
  g_test_add_func ("/select/serial", test_serial);
  g_test_add_func ("/select/all-criteria-must-fit", test_all_criteria_must_fit);
  g_test_add_func ("/select/slot-alone-is-strict", test_slot_alone_is_strict);
  g_test_add_func ("/select/slot-beside-a-label-is-a-hint", test_slot_beside_a_label_is_a_hint);
  g_test_add_func ("/select/uri", test_uri);
  g_test_add_func ("/select/uri-that-fits-nothing", test_uri_that_fits_nothing);
  g_test_add_func ("/select/bad-uris", test_bad_uris);
  g_test_add_func ("/select/text-is-made-safe", test_text_is_made_safe);

  return g_test_run ();
}
