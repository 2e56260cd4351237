/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-key-selector"

#include "config.h"

#include "kw-key-selector.h"

#include "kw-error.h"
#include "kw-limits.h"

#include <string.h>

/*
 * One way to name an AES key: by its place among the AES keys of a token, by its label, or by its CKA_ID. The text it was
 * written as, in one spelling, is also the name under which its fingerprint is recorded.
 */

typedef enum
{
  BY_PLACE,
  BY_LABEL,
  BY_ID,
} SelectorKind;

struct _KwKeySelector
{
  gatomicrefcount references;
  SelectorKind kind;
  char *text;  /* owned: "0", "label:NAME" or "id:hex" */
  guint place; /* BY_PLACE */
  char *label; /* owned; BY_LABEL */
  GBytes *id;  /* owned; BY_ID */
};

#define PREFIX_LABEL "label:"
#define PREFIX_ID "id:"

static GBytes *
bytes_from_hex (const char *text)
{
  gsize size = strlen (text) / 2;
  g_autofree guint8 *data = NULL;

  if (size == 0 || strlen (text) % 2 != 0 || size > KW_MAX_KEY_ID_BYTES)
    return NULL;
  data = g_malloc (size);
  for (gsize i = 0; i < size; i++)
    {
      gint high = g_ascii_xdigit_value (text[2 * i]);
      gint low = g_ascii_xdigit_value (text[2 * i + 1]);

      if (high < 0 || low < 0)
        return NULL;
      data[i] = (guint8) (high * 16 + low);
    }
  return g_bytes_new_take (g_steal_pointer (&data), size);
}

static gboolean
parse (KwKeySelector *self, const char *text)
{
  guint64 place = 0;

  if (g_str_has_prefix (text, PREFIX_LABEL))
    {
      self->kind = BY_LABEL;
      self->label = g_strdup (text + strlen (PREFIX_LABEL));
      self->text = g_strdup (text);
      return self->label[0] != '\0' && strlen (self->label) <= KW_MAX_KEY_LABEL_BYTES
             && g_utf8_validate (self->label, -1, NULL);
    }
  if (g_str_has_prefix (text, PREFIX_ID))
    {
      self->kind = BY_ID;
      self->id = bytes_from_hex (text + strlen (PREFIX_ID));
      self->text = g_ascii_strdown (text, -1);
      return self->id != NULL;
    }
  self->kind = BY_PLACE;
  if (!g_ascii_string_to_unsigned (text, 10, 0, KW_MAX_KEYS_PER_TOKEN - 1, &place, NULL))
    return FALSE;
  self->place = (guint) place;
  self->text = g_strdup_printf ("%u", self->place);
  return TRUE;
}

static gint
compare_places (gconstpointer a, gconstpointer b)
{
  return kw_key_compare_places (*(const KwKey *const *) a, *(const KwKey *const *) b);
}

static gboolean
fits (const KwKeySelector *self, const KwKey *key)
{
  switch (self->kind)
    {
    case BY_LABEL:
      return g_str_equal (kw_key_get_label (key), self->label);
    case BY_ID:
      return g_bytes_equal (kw_key_get_id (key), self->id);
    case BY_PLACE:
    default:
      return TRUE;
    }
}

/**
 * kw_key_selector_new:
 * @text: a number from 0, `label:NAME` or `id:HEX`
 * @error: where to store the error
 *
 * Reads one entry of `hsm_keyid`. Any thread.
 *
 * Returns: (transfer full): the selector; %NULL with %KW_ERROR_CONFIG
 */
KwKeySelector *
kw_key_selector_new (const char *text, GError **error)
{
  g_autoptr (KwKeySelector) self = NULL;

  g_return_val_if_fail (text != NULL, NULL);

  self = g_new0 (KwKeySelector, 1);
  g_atomic_ref_count_init (&self->references);
  if (parse (self, text))
    return g_steal_pointer (&self);
  g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
               "names no key: \"%s\"; a key is a number (0 is the first AES key of a device), "
               "label:NAME, or id: and its CKA_ID in hex",
               text);
  return NULL;
}

/**
 * kw_key_selector_ref:
 * @self: a selector
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwKeySelector *
kw_key_selector_ref (KwKeySelector *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_key_selector_unref:
 * @self: (transfer full): a selector
 *
 * Gives a reference back. Any thread.
 */
void
kw_key_selector_unref (KwKeySelector *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_free (self->text);
  g_free (self->label);
  g_clear_pointer (&self->id, g_bytes_unref);
  g_free (self);
}

/**
 * kw_key_selector_get_text:
 * @self: a selector
 *
 * Returns: (transfer none): what it was read from, in one spelling. Any thread.
 */
const char *
kw_key_selector_get_text (const KwKeySelector *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  return self->text;
}

/**
 * kw_key_selector_get_label:
 * @self: a selector
 *
 * Returns: (transfer none) (nullable): the label it looks for; %NULL when it looks for something else. Any thread.
 */
const char *
kw_key_selector_get_label (const KwKeySelector *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  return self->label;
}

/**
 * kw_key_selector_get_place:
 * @self: a selector
 * @out_place: (out): the place among the AES keys of a device
 *
 * Returns: %FALSE when it looks for something else. Any thread.
 */
gboolean
kw_key_selector_get_place (const KwKeySelector *self, guint *out_place)
{
  g_return_val_if_fail (self != NULL, FALSE);

  if (self->kind != BY_PLACE)
    return FALSE;
  *out_place = self->place;
  return TRUE;
}

/**
 * kw_key_selector_find:
 * @self: a selector
 * @keys: (element-type KwKey): all keys of one token
 * @error: where to store the error
 *
 * Finds the AES key that is meant. Any thread.
 *
 * Returns: (transfer none): one of @keys; %NULL with %KW_ERROR_KEY_NOT_FOUND, or %KW_ERROR_AMBIGUOUS when several fit
 */
KwKey *
kw_key_selector_find (const KwKeySelector *self, GPtrArray *keys, GError **error)
{
  g_autoptr (GPtrArray) fitting = g_ptr_array_new ();

  g_return_val_if_fail (self != NULL && keys != NULL, NULL);

  for (guint i = 0; i < keys->len; i++)
    {
      KwKey *key = g_ptr_array_index (keys, i);

      if (kw_key_get_kind (key) == KW_KEY_KIND_AES && fits (self, key))
        g_ptr_array_add (fitting, key);
    }
  if (self->kind == BY_PLACE)
    {
      g_ptr_array_sort (fitting, compare_places);
      if (self->place < fitting->len)
        return g_ptr_array_index (fitting, self->place);
      g_set_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND,
                   "The device has %u AES keys, so none at place %u", fitting->len, self->place);
      return NULL;
    }
  if (fitting->len == 1)
    return g_ptr_array_index (fitting, 0);
  if (fitting->len == 0)
    g_set_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND, "The device has no AES key %s",
                 self->text);
  else
    g_set_error (error, KW_ERROR, KW_ERROR_AMBIGUOUS, "The device has %u AES keys %s", fitting->len,
                 self->text);
  return NULL;
}
