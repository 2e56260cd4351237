/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * KwCliColour:
 *
 * What a cell says, shown by a colour where that can be seen.
 */
typedef enum
{
  KW_CLI_PLAIN,
  KW_CLI_GREEN,
  KW_CLI_AMBER,
  KW_CLI_RED,
} KwCliColour;

/**
 * KwCliTable:
 *
 * Text in columns, for people.
 */
typedef struct _KwCliTable KwCliTable;

KwCliTable *kw_cli_table_new (const char *const *heads);

void kw_cli_table_free (KwCliTable *self);

void kw_cli_table_add (KwCliTable *self, KwCliColour colour, const char *text);

void kw_cli_table_add_state (KwCliTable *self, const char *state);

void kw_cli_table_add_printf (KwCliTable *self, KwCliColour colour, const char *format, ...)
    G_GNUC_PRINTF (3, 4);

guint kw_cli_table_get_n_rows (KwCliTable *self);

char *kw_cli_table_to_string (KwCliTable *self);

gboolean kw_cli_has_colours (void);

char *kw_cli_colour (KwCliColour colour, const char *text);

KwCliColour kw_cli_colour_of_state (const char *state);

char *kw_cli_wrap (const char *text, guint indent);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwCliTable, kw_cli_table_free)

G_END_DECLS
