/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * KwTomlType:
 * @KW_TOML_TABLE: a table; its members follow as entries of their own
 * @KW_TOML_STRING: a string
 * @KW_TOML_INTEGER: a signed 64-bit integer
 * @KW_TOML_BOOLEAN: true or false
 * @KW_TOML_STRING_LIST: an array of strings and integers, the latter written as decimal strings
 * @KW_TOML_OTHER: anything else: float, date, time, mixed or nested array
 */
typedef enum
{
  KW_TOML_TABLE,
  KW_TOML_STRING,
  KW_TOML_INTEGER,
  KW_TOML_BOOLEAN,
  KW_TOML_STRING_LIST,
  KW_TOML_OTHER,
} KwTomlType;

/**
 * KwTomlEntry: one table or one key of a TOML document
 */
typedef struct
{
  char *table; /* dotted path of the table it stands in; "" at the top */
  char *key;
  guint line;        /* from 1 */
  guint index;       /* which one, from 0, when the table is one of an array of tables */
  gboolean in_array; /* the table is one of an array of tables, written [[…]] */
  KwTomlType type;
  char *string;
  gint64 integer;
  gboolean boolean;
  char **list;
} KwTomlEntry;

GPtrArray *kw_toml_parse (const char *data,
                          gsize size,
                          guint max_entries,
                          guint *out_line,
                          char **out_message);

G_END_DECLS
