/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-select"

#include "config.h"

#include "kw-pkcs11-select.h"

#include "kw-error.h"

#include <glib/gi18n.h>
#include <p11-kit/uri.h>
#include <string.h>

/*
 * Chooses the configured token among the slots of a module. No I/O: works on what the module told.
 *
 * Slot ids move, so a slot beside a label or serial number is only a hint: it decides between
 * several tokens that fit. All other criteria must fit together.
 */

#define NO_SLOT_ID ((CK_SLOT_ID) -1)

G_DEFINE_AUTOPTR_CLEANUP_FUNC (P11KitUri, p11_kit_uri_free)

static gsize
text_length (const guint8 *text, gsize size)
{
  /* The standard wants blanks; some modules end the text with a NUL instead. */
  const guint8 *end = memchr (text, '\0', size);
  gsize length = end != NULL ? (gsize) (end - text) : size;

  while (length > 0 && text[length - 1] == ' ')
    length--;
  return length;
}

static P11KitUri *
parse_uri (const char *text, GError **error)
{
  g_autoptr (P11KitUri) uri = p11_kit_uri_new ();
  int result = p11_kit_uri_parse (text, P11_KIT_URI_FOR_ANY, uri);
  CK_ULONG n_attributes = 0;

  if (result != P11_KIT_URI_OK)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "[pkcs11] uri is no PKCS#11 URI: %s",
                   p11_kit_uri_message (result));
      return NULL;
    }
  if (p11_kit_uri_get_pin_value (uri) != NULL || p11_kit_uri_get_pin_source (uri) != NULL)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_CONFIG,
                           "[pkcs11] uri must not carry pin-value or pin-source; the PIN belongs "
                           "in [pkcs11] pin, best as \"credential:NAME\" or \"file:PATH\"");
      return NULL;
    }
  if (p11_kit_uri_get_module_name (uri) != NULL || p11_kit_uri_get_module_path (uri) != NULL)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_CONFIG,
                           "[pkcs11] uri must not carry module-name or module-path; the module "
                           "belongs in [pkcs11] module");
      return NULL;
    }
  if (p11_kit_uri_any_unrecognized (uri))
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_CONFIG,
                           "[pkcs11] uri has an attribute that names no token or slot; known are "
                           "token, serial, model, manufacturer, slot-id, slot-description, "
                           "slot-manufacturer and library-…");
      return NULL;
    }
  p11_kit_uri_get_attributes (uri, &n_attributes);
  if (n_attributes > 0)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_CONFIG,
                           "[pkcs11] uri names a token; leave object, type and id out of it");
      return NULL;
    }
  return g_steal_pointer (&uri);
}

static gboolean
uri_fits (P11KitUri *uri, const CK_INFO *module_info, const KwPkcs11Slot *slot)
{
  return (p11_kit_uri_get_slot_id (uri) == NO_SLOT_ID || p11_kit_uri_get_slot_id (uri) == slot->id)
         && p11_kit_uri_match_module_info (uri, module_info) == 1
         && p11_kit_uri_match_slot_info (uri, &slot->slot_info) == 1
         && p11_kit_uri_match_token_info (uri, &slot->token_info) == 1;
}

static gboolean
slot_fits (const KwPkcs11Config *config,
           P11KitUri *uri,
           const CK_INFO *module_info,
           const KwPkcs11Slot *slot)
{
  const CK_TOKEN_INFO *token = &slot->token_info;

  if (!slot->has_token || (token->flags & CKF_TOKEN_INITIALIZED) == 0)
    return FALSE;
  if (config->token_label != NULL
      && !kw_pkcs11_text_equal (token->label, sizeof token->label, config->token_label))
    return FALSE;
  if (config->token_serial != NULL
      && !kw_pkcs11_text_equal (token->serialNumber, sizeof token->serialNumber,
                                config->token_serial))
    return FALSE;
  return uri == NULL || uri_fits (uri, module_info, slot);
}

static gboolean
slot_is_a_hint (const KwPkcs11Config *config)
{
  return config->token_label != NULL || config->token_serial != NULL || config->uri != NULL;
}

static void
append_candidate (GString *text, const KwPkcs11Slot *slot)
{
  const CK_TOKEN_INFO *token = &slot->token_info;
  g_autofree char *label = NULL;
  g_autofree char *serial = NULL;

  if (text->len > 0)
    g_string_append (text, "; ");
  g_string_append_printf (text, "slot %lu: ", slot->id);
  if (!slot->has_token)
    {
      g_string_append (text, N_ ("no token"));
      return;
    }
  if ((token->flags & CKF_TOKEN_INITIALIZED) == 0)
    {
      g_string_append (text, N_ ("a token that was never initialised"));
      return;
    }
  label = kw_pkcs11_dup_text (token->label, sizeof token->label);
  serial = kw_pkcs11_dup_text (token->serialNumber, sizeof token->serialNumber);
  g_string_append_printf (text, "label \"%s\", serial \"%s\"", label, serial);
}

static char *
dup_wanted (const KwPkcs11Config *config)
{
  g_autoptr (GString) text = g_string_new (NULL);

  if (config->has_slot && !slot_is_a_hint (config))
    g_string_append_printf (text, " slot %" G_GUINT64_FORMAT ",", config->slot);
  if (config->token_label != NULL)
    g_string_append_printf (text, " token_label \"%s\",", config->token_label);
  if (config->token_serial != NULL)
    g_string_append_printf (text, " token_serial \"%s\",", config->token_serial);
  if (config->uri != NULL)
    g_string_append_printf (text, " uri \"%s\",", config->uri);
  if (text->len == 0)
    return g_strdup ("No initialised token is there");
  g_string_truncate (text, text->len - 1);
  return g_strdup_printf ("No initialised token fits%s", text->str);
}

static void
set_not_found (const KwPkcs11Config *config,
               const KwPkcs11Slot *slots,
               gsize n_slots,
               GError **error)
{
  g_autoptr (GString) text = g_string_new (NULL);
  g_autofree char *wanted = dup_wanted (config);

  for (gsize i = 0; i < n_slots; i++)
    append_candidate (text, &slots[i]);
  g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_NOT_FOUND, "%s. The module has %s", wanted,
               text->len > 0 ? text->str : "no slots");
}

static void
set_ambiguous (const KwPkcs11Slot *const *fitting, gsize n_fitting, GError **error)
{
  g_autoptr (GString) text = g_string_new (NULL);

  for (gsize i = 0; i < n_fitting; i++)
    append_candidate (text, fitting[i]);
  g_set_error (error, KW_ERROR, KW_ERROR_AMBIGUOUS,
               "%" G_GSIZE_FORMAT " tokens fit; choose one by [pkcs11] token_serial: %s", n_fitting,
               text->str);
}

/**
 * kw_pkcs11_dup_text:
 * @text: text of a PKCS#11 structure: padded with blanks, not ended by NUL
 * @size: size of the field
 *
 * Copies a text field without its padding; what is no UTF-8, and control characters, are replaced.
 * Any thread.
 *
 * Returns: (transfer full): the text
 */
char *
kw_pkcs11_dup_text (const guint8 *text, gsize size)
{
  g_autofree char *valid = NULL;
  g_autoptr (GString) result = g_string_new (NULL);

  g_return_val_if_fail (text != NULL, NULL);

  valid = g_utf8_make_valid ((const char *) text, (gssize) text_length (text, size));
  for (const char *p = valid; *p != '\0'; p = g_utf8_next_char (p))
    {
      gunichar character = g_utf8_get_char (p);

      g_string_append_unichar (result, g_unichar_iscntrl (character) ? '?' : character);
    }
  return g_string_free (g_steal_pointer (&result), FALSE);
}

/**
 * kw_pkcs11_text_equal:
 * @text: text of a PKCS#11 structure
 * @size: size of the field
 * @expected: what it is compared with
 *
 * Compares a text field, without its padding, byte for byte. Any thread.
 *
 * Returns: whether they are equal
 */
gboolean
kw_pkcs11_text_equal (const guint8 *text, gsize size, const char *expected)
{
  gsize length = 0;

  g_return_val_if_fail (text != NULL && expected != NULL, FALSE);

  length = text_length (text, size);
  return strlen (expected) == length && strncmp ((const char *) text, expected, length) == 0;
}

/**
 * kw_pkcs11_check_criteria:
 * @config: table `[pkcs11]`
 * @error: where to store the error
 *
 * Checks what can be checked about the choice of a token without a module. Any thread.
 *
 * Returns: %FALSE with %KW_ERROR_CONFIG
 */
gboolean
kw_pkcs11_check_criteria (const KwPkcs11Config *config, GError **error)
{
  g_autoptr (P11KitUri) uri = NULL;

  g_return_val_if_fail (config != NULL, FALSE);

  if (config->uri == NULL)
    return TRUE;
  uri = parse_uri (config->uri, error);
  return uri != NULL;
}

/**
 * kw_pkcs11_select_slot:
 * @config: table `[pkcs11]`
 * @module_info: what C_GetInfo told
 * @slots: (array length=n_slots): the slots
 * @n_slots: how many
 * @error: where to store the error
 *
 * Chooses the slot whose token is the configured one; without any criterion, the only initialised
 * token. Any thread.
 *
 * Returns: (transfer none): one of @slots; %NULL with %KW_ERROR_TOKEN_NOT_FOUND or
 *   %KW_ERROR_AMBIGUOUS, whose messages list the candidates, or %KW_ERROR_CONFIG
 */
const KwPkcs11Slot *
kw_pkcs11_select_slot (const KwPkcs11Config *config,
                       const CK_INFO *module_info,
                       const KwPkcs11Slot *slots,
                       gsize n_slots,
                       GError **error)
{
  g_autoptr (P11KitUri) uri = NULL;
  g_autofree const KwPkcs11Slot **fitting = NULL;
  const KwPkcs11Slot *hinted = NULL;
  gsize n_fitting = 0;

  g_return_val_if_fail (config != NULL && module_info != NULL, NULL);
  g_return_val_if_fail (slots != NULL || n_slots == 0, NULL);

  if (config->uri != NULL)
    {
      uri = parse_uri (config->uri, error);
      if (uri == NULL)
        return NULL;
    }
  fitting = g_new0 (const KwPkcs11Slot *, n_slots + 1);
  for (gsize i = 0; i < n_slots; i++)
    {
      if (!slot_fits (config, uri, module_info, &slots[i]))
        continue;
      if (config->has_slot && slots[i].id == config->slot)
        hinted = &slots[i];
      fitting[n_fitting++] = &slots[i];
    }

  if (hinted != NULL)
    return hinted;
  if (n_fitting == 0 || (config->has_slot && !slot_is_a_hint (config)))
    {
      set_not_found (config, slots, n_slots, error);
      return NULL;
    }
  if (n_fitting > 1)
    {
      set_ambiguous (fitting, n_fitting, error);
      return NULL;
    }
  return fitting[0];
}
