/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/**
 * KwBusOption:
 * @name: its name
 * @type: type of its value
 * @value: (out) (transfer full) (nullable): the value that was given; begins as %NULL
 *
 * One option that a method takes.
 */
typedef struct
{
  const char *name;
  const char *type;
  GVariant *value;
} KwBusOption;

gboolean kw_bus_options_read (GVariant *options, KwBusOption *known, gsize n_known, GError **error);

GBytes *kw_bus_option_dup_bytes (const KwBusOption *option);

const char *kw_bus_option_get_string (const KwBusOption *option);

void kw_bus_options_clear (KwBusOption *known, gsize n_known);

G_END_DECLS
