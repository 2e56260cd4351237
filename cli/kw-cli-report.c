/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-report"

#include "config.h"

#include "kw-cli-report.h"

#include "kw-cli-output.h"
#include "kw-cli-sentence.h"
#include "kw-cli.h"

#include <glib/gi18n.h>
#include <stdarg.h>
#include <string.h>

/*
 * What check found: for each thing one line that says ok, note or problem, and below a problem what to do.
 */

#define NO_BREAK_SPACE "\302\240"

typedef enum
{
  RESULT_OK,
  RESULT_NOTE,
  RESULT_PROBLEM,
} Result;

typedef struct
{
  const char *name; /* static */
  Result result;
  char *text;   /* owned */
  char *advice; /* owned, nullable */
} Finding;

struct _KwCliReport
{
  GPtrArray *findings; /* owned; of Finding */
};

static const char *const result_nicks[] = {
  [RESULT_OK] = N_ ("ok"),
  [RESULT_NOTE] = N_ ("note"),
  [RESULT_PROBLEM] = N_ ("problem"),
};

static void
finding_free (gpointer data)
{
  Finding *finding = data;

  g_free (finding->text);
  g_free (finding->advice);
  g_free (finding);
}

KwCliReport *
kw_cli_report_new (void)
{
  KwCliReport *self = g_new0 (KwCliReport, 1);

  self->findings = g_ptr_array_new_with_free_func (finding_free);
  return self;
}

void
kw_cli_report_free (KwCliReport *self)
{
  g_return_if_fail (self != NULL);

  g_ptr_array_unref (self->findings);
  g_free (self);
}

static void G_GNUC_PRINTF (5, 0) add_finding (KwCliReport *self,
                                              const char *name,
                                              Result result,
                                              const char *advice,
                                              const char *format,
                                              va_list args)
{
  g_autofree char *text = g_strdup_vprintf (format, args);
  Finding *finding = g_new0 (Finding, 1);

  finding->name = name;
  finding->result = result;
  finding->text = kw_cli_dup_printable (text);
  finding->advice = advice != NULL ? kw_cli_dup_printable (advice) : NULL;
  g_ptr_array_add (self->findings, finding);
}

void
kw_cli_report_ok (KwCliReport *self, const char *name, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  add_finding (self, name, RESULT_OK, NULL, format, args);
  va_end (args);
}

void
kw_cli_report_note (KwCliReport *self, const char *name, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  add_finding (self, name, RESULT_NOTE, NULL, format, args);
  va_end (args);
}

void
kw_cli_report_problem (KwCliReport *self,
                       const char *name,
                       const char *advice,
                       const char *format,
                       ...)
{
  va_list args;

  va_start (args, format);
  add_finding (self, name, RESULT_PROBLEM, advice, format, args);
  va_end (args);
}

guint
kw_cli_report_count_problems (const KwCliReport *self)
{
  guint n = 0;

  for (guint i = 0; i < self->findings->len; i++)
    {
      const Finding *finding = g_ptr_array_index (self->findings, i);

      n += finding->result == RESULT_PROBLEM;
    }
  return n;
}

static gboolean
print_json (const KwCliReport *self, GError **error)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "checks");
  json_builder_begin_array (builder);
  for (guint i = 0; i < self->findings->len; i++)
    {
      const Finding *finding = g_ptr_array_index (self->findings, i);

      json_builder_begin_object (builder);
      kw_cli_json_add_string (builder, "name", finding->name);
      kw_cli_json_add_string (builder, "result", result_nicks[finding->result]);
      kw_cli_json_add_string (builder, "text", finding->text);
      kw_cli_json_add_string (builder, "what_to_do", finding->advice);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
  kw_cli_json_add_int (builder, "problems", kw_cli_report_count_problems (self));
  json_builder_end_object (builder);
  return kw_cli_output_json (builder, error);
}

/* Many findings are the halves of one sentence, "what is wrong; what to do", which is translated as a whole. */
static gboolean
translate_whole (const Finding *finding, const char *run, char **out_text, char **out_advice)
{
  g_autofree char *whole = g_strconcat (finding->text, "; ", run, finding->advice, NULL);
  g_autofree char *translated = kw_cli_translate_output (whole);
  char *semicolon = strstr (translated, "; ");
  char *advice = NULL;

  /* What is wrong may have some itself. */
  for (const char *p = strstr (finding->text, "; "); p != NULL && semicolon != NULL;
       p = strstr (p + 1, "; "))
    semicolon = strstr (semicolon + 1, "; ");
  if (semicolon == NULL || g_str_has_prefix (translated, finding->text)
      || (*run != '\0' && strstr (semicolon, run) != NULL))
    return FALSE;
  advice = semicolon + strlen ("; ");
  if (*run != '\0')
    advice = strstr (advice, ": ") != NULL ? strstr (advice, ": ") + strlen (": ") : advice;
  /* French has a blank before a semicolon, which does not break. */
  *semicolon = '\0';
  if (g_str_has_suffix (translated, NO_BREAK_SPACE))
    semicolon[-(gssize) strlen (NO_BREAK_SPACE)] = '\0';
  *out_text = g_strdup (translated);
  *out_advice = g_strdup (advice);
  return TRUE;
}

static void
translate_finding (const Finding *finding, char **out_text, char **out_advice)
{
  g_autofree char *text = kw_cli_translate_output (finding->text);
  g_autofree char *advice
      = finding->advice != NULL ? kw_cli_translate_output (finding->advice) : NULL;
  gboolean are_known
      = !g_str_equal (text, finding->text) && g_strcmp0 (advice, finding->advice) != 0;

  if (advice != NULL && !are_known
      && (translate_whole (finding, "run: ", out_text, out_advice)
          || translate_whole (finding, "", out_text, out_advice)))
    return;
  *out_text = g_steal_pointer (&text);
  *out_advice = g_steal_pointer (&advice);
}

gboolean
kw_cli_report_print (const KwCliReport *self, gboolean json, GError **error)
{
  g_autoptr (GString) text = g_string_new (NULL);

  if (json)
    return print_json (self, error);
  for (guint i = 0; i < self->findings->len; i++)
    {
      const Finding *finding = g_ptr_array_index (self->findings, i);

      g_autofree char *result = kw_cli_translate_output (result_nicks[finding->result]);
      g_autofree char *said = NULL;
      g_autofree char *advice = NULL;

      translate_finding (finding, &said, &advice);
      g_string_append_printf (text, "%-8s %-14s %s\n", result, finding->name, said);
      if (advice != NULL)
        {
          g_autofree char *plain = g_strdup_printf ("what to do: %s", advice);
          g_autofree char *line = kw_cli_translate_output (plain);

          g_string_append_printf (text, "%-8s %-14s %s\n", "", "", line);
        }
    }
  return kw_cli_output_text (text->str, error);
}
