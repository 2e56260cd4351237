/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-table"

#include "config.h"

#include "kw-cli-table.h"

#include "kw-cli-sentence.h"
#include "kw-cli.h"

#include <stdarg.h>
#include <string.h>
#include <unistd.h>

/* Width that everything fits in. */
#define MAX_WIDTH 80
#define GAP 2

/* Narrower than that no column is made. */
#define MIN_COLUMN 4

typedef struct
{
  char *text;
  KwCliColour colour;
} Cell;

struct _KwCliTable
{
  guint n_columns;
  GArray *cells; /* of Cell, row by row, the heads first */
};

static void
clear_cell (gpointer data)
{
  g_free (((Cell *) data)->text);
}

/**
 * kw_cli_table_new:
 * @heads: heads of the columns, in English, %NULL at the end
 *
 * Returns: (transfer full): a table without rows
 */
KwCliTable *
kw_cli_table_new (const char *const *heads)
{
  KwCliTable *self = g_new0 (KwCliTable, 1);

  self->n_columns = g_strv_length ((char **) heads);
  self->cells = g_array_new (FALSE, FALSE, sizeof (Cell));
  g_array_set_clear_func (self->cells, clear_cell);
  for (guint i = 0; i < self->n_columns; i++)
    {
      g_autofree char *head = kw_cli_translate_output (heads[i]);

      kw_cli_table_add (self, KW_CLI_PLAIN, head);
    }
  return self;
}

void
kw_cli_table_free (KwCliTable *self)
{
  g_array_unref (self->cells);
  g_free (self);
}

/**
 * kw_cli_table_add:
 * @self: the table
 * @colour: what the cell says
 * @text: the next cell; characters that a terminal would obey are made visible
 */
void
kw_cli_table_add (KwCliTable *self, KwCliColour colour, const char *text)
{
  Cell cell = { kw_cli_dup_printable (*text != '\0' ? text : "–"), colour };

  g_array_append_val (self->cells, cell);
}

/**
 * kw_cli_table_add_state:
 * @self: the table
 * @state: state of a device, a key, a test or the daemon
 *
 * Adds a cell with a state, in the reader's language and in its colour.
 */
void
kw_cli_table_add_state (KwCliTable *self, const char *state)
{
  g_autofree char *word = kw_cli_translate_output (state);

  kw_cli_table_add (self, kw_cli_colour_of_state (state), word);
}

void
kw_cli_table_add_printf (KwCliTable *self, KwCliColour colour, const char *format, ...)
{
  g_autofree char *text = NULL;
  va_list arguments;

  va_start (arguments, format);
  text = g_strdup_vprintf (format, arguments);
  va_end (arguments);
  kw_cli_table_add (self, colour, text);
}

guint
kw_cli_table_get_n_rows (KwCliTable *self)
{
  return self->cells->len / self->n_columns - 1;
}

gboolean
kw_cli_has_colours (void)
{
  const char *no_colour = g_getenv ("NO_COLOR");
  const char *terminal = g_getenv ("TERM");

  return isatty (STDOUT_FILENO) && (no_colour == NULL || *no_colour == '\0')
         && g_strcmp0 (terminal, "dumb") != 0;
}

/**
 * kw_cli_colour:
 * @colour: a colour
 * @text: text
 *
 * Returns: (transfer full): @text, in that colour on a terminal
 */
char *
kw_cli_colour (KwCliColour colour, const char *text)
{
  static const char *const codes[] = {
    [KW_CLI_PLAIN] = NULL,
    [KW_CLI_GREEN] = "32",
    [KW_CLI_AMBER] = "33",
    [KW_CLI_RED] = "31",
  };

  if (codes[colour] == NULL || !kw_cli_has_colours ())
    return g_strdup (text);
  return g_strdup_printf ("\033[%sm%s\033[0m", codes[colour], text);
}

/**
 * kw_cli_colour_of_state:
 * @state: state of a device, a key, a test or the daemon
 *
 * Returns: the colour that says whether that is well
 */
KwCliColour
kw_cli_colour_of_state (const char *state)
{
  static const char *const green[] = { "ready", "ok", "passed", NULL };
  static const char *const amber[] = { "starting", "probing", "checking", "degraded", "unchecked",
                                       "weak",     "missing", "waiting",  "skipped",  NULL };

  if (g_strv_contains (green, state))
    return KW_CLI_GREEN;
  return g_strv_contains (amber, state) ? KW_CLI_AMBER : KW_CLI_RED;
}

/* Cuts to a width, with an ellipsis where something is missing. */
static char *
fit (const char *text, glong width)
{
  g_autofree char *part = NULL;

  if (g_utf8_strlen (text, -1) <= width)
    return g_strdup (text);
  part = g_utf8_substring (text, 0, width - 1);
  return g_strconcat (part, "…", NULL);
}

/* The widest column gives way until all fit. */
static void
find_widths (KwCliTable *self, glong *widths)
{
  glong sum = (glong) (self->n_columns - 1) * GAP;

  for (guint i = 0; i < self->cells->len; i++)
    {
      glong width = g_utf8_strlen (g_array_index (self->cells, Cell, i).text, -1);

      widths[i % self->n_columns] = MAX (widths[i % self->n_columns], width);
    }
  for (guint i = 0; i < self->n_columns; i++)
    sum += widths[i];
  while (sum > MAX_WIDTH)
    {
      guint widest = 0;

      for (guint i = 1; i < self->n_columns; i++)
        {
          if (widths[i] > widths[widest])
            widest = i;
        }
      if (widths[widest] <= MIN_COLUMN)
        return;
      widths[widest]--;
      sum--;
    }
}

/**
 * kw_cli_table_to_string:
 * @self: the table
 *
 * Returns: (transfer full): the table as lines of at most 80 columns
 */
char *
kw_cli_table_to_string (KwCliTable *self)
{
  g_autofree glong *widths = g_new0 (glong, self->n_columns);
  GString *text = g_string_new (NULL);

  find_widths (self, widths);
  for (guint i = 0; i < self->cells->len; i++)
    {
      const Cell *cell = &g_array_index (self->cells, Cell, i);
      guint column = i % self->n_columns;
      g_autofree char *cut = fit (cell->text, widths[column]);
      g_autofree char *coloured = kw_cli_colour (cell->colour, cut);

      g_string_append (text, coloured);
      if (column == self->n_columns - 1)
        {
          g_string_append_c (text, '\n');
          continue;
        }
      for (glong pad = g_utf8_strlen (cut, -1); pad < widths[column] + GAP; pad++)
        g_string_append_c (text, ' ');
    }
  return g_string_free (text, FALSE);
}

/**
 * kw_cli_wrap:
 * @text: a sentence
 * @indent: blanks before each line
 *
 * Returns: (transfer full): it in lines of at most 80 columns
 */
char *
kw_cli_wrap (const char *text, guint indent)
{
  g_autofree char *printable = kw_cli_dup_printable (text);
  g_auto (GStrv) words = g_strsplit (printable, " ", -1);
  GString *lines = g_string_new (NULL);
  glong column = 0;

  for (guint i = 0; words[i] != NULL; i++)
    {
      glong width = g_utf8_strlen (words[i], -1);

      if (column > 0 && column + 1 + width > MAX_WIDTH)
        {
          g_string_append_c (lines, '\n');
          column = 0;
        }
      if (column == 0)
        {
          g_string_append_printf (lines, "%*s", (int) indent, "");
          column = (glong) indent;
        }
      else
        {
          g_string_append_c (lines, ' ');
          column++;
        }
      g_string_append (lines, words[i]);
      column += width;
    }
  g_string_append_c (lines, '\n');
  return g_string_free (lines, FALSE);
}
