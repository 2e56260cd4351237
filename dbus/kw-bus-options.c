/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-options.h"

#include "kw-error.h"
#include "kw-limits.h"

/*
 * The dictionaries of options that methods take: each known one may be there once with its type, and nothing else. Any thread.
 */

static KwBusOption *
find_option (KwBusOption *known, gsize n_known, const char *name)
{
  for (gsize i = 0; i < n_known; i++)
    {
      if (g_str_equal (known[i].name, name))
        return &known[i];
    }
  return NULL;
}

static gboolean
refuse_unknown (const char *name, KwBusOption *known, gsize n_known, GError **error)
{
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();
  g_auto (GStrv) names = NULL;
  g_autofree char *list = NULL;

  for (gsize i = 0; i < n_known; i++)
    g_strv_builder_add (builder, known[i].name);
  names = g_strv_builder_end (builder);
  list = g_strjoinv (", ", names);
  if (n_known == 0)
    g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "There is no option %s", name);
  else
    g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "There is no option %s; there is %s",
                 name, list);
  return FALSE;
}

/* @value: (transfer full) */
static gboolean
take_option (const char *name, GVariant *value, KwBusOption *known, gsize n_known, GError **error)
{
  g_autoptr (GVariant) taken = value;
  KwBusOption *option = find_option (known, n_known, name);

  if (option == NULL)
    return refuse_unknown (name, known, n_known, error);
  if (!g_variant_is_of_type (taken, G_VARIANT_TYPE (option->type)))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                   "The option %s has the type %s, not %s", name, g_variant_get_type_string (taken),
                   option->type);
      return FALSE;
    }
  if (option->value != NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "The option %s is given twice",
                   name);
      return FALSE;
    }
  option->value = g_steal_pointer (&taken);
  return TRUE;
}

/**
 * kw_bus_options_read:
 * @options: a{sv}
 * @known: (array length=n_known): what may be in it; kw_bus_options_clear() is for their values
 * @n_known: how many
 * @error: where to store the error
 *
 * Takes options apart.
 *
 * Returns: %FALSE with %KW_ERROR_INVALID_ARGUMENT, naming the option; then no values are left
 */
gboolean
kw_bus_options_read (GVariant *options, KwBusOption *known, gsize n_known, GError **error)
{
  GVariantIter iter;
  const char *name = NULL;
  GVariant *value = NULL;

  if (g_variant_n_children (options) > KW_MAX_BUS_OPTIONS)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "More than %d options",
                   KW_MAX_BUS_OPTIONS);
      return FALSE;
    }
  g_variant_iter_init (&iter, options);
  while (g_variant_iter_next (&iter, "{&sv}", &name, &value))
    {
      if (take_option (name, value, known, n_known, error))
        continue;
      kw_bus_options_clear (known, n_known);
      return FALSE;
    }
  return TRUE;
}

/**
 * kw_bus_option_dup_bytes:
 * @option: an option of the type ay
 *
 * Returns: (transfer full) (nullable): its value, %NULL when it was not given
 */
GBytes *
kw_bus_option_dup_bytes (const KwBusOption *option)
{
  return option->value != NULL ? g_variant_get_data_as_bytes (option->value) : NULL;
}

/**
 * kw_bus_option_get_string:
 * @option: an option of the type s
 *
 * Returns: (transfer none) (nullable): its value, %NULL when it was not given
 */
const char *
kw_bus_option_get_string (const KwBusOption *option)
{
  return option->value != NULL ? g_variant_get_string (option->value, NULL) : NULL;
}

void
kw_bus_options_clear (KwBusOption *known, gsize n_known)
{
  for (gsize i = 0; i < n_known; i++)
    g_clear_pointer (&known[i].value, g_variant_unref);
}
