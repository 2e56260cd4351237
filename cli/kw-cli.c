/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli"

#include "config.h"

#include "kw-cli.h"

#include "kw-cli-sentence.h"
#include "kw-uuid.h"

#include <stdarg.h>
#include <unistd.h>

/*
 * What all commands share: the command line taken apart, and how they speak to people. Results go to standard output
 * through kw-cli-output.h alone; everything else is one line on standard error.
 */

KwCli *
kw_cli_new (void)
{
  KwCli *self = g_new0 (KwCli, 1);

  self->exit_status = -1;
  self->notices = g_ptr_array_new_with_free_func (g_free);
  return self;
}

void
kw_cli_free (KwCli *self)
{
  g_return_if_fail (self != NULL);

  g_free (self->config_path);
  g_free (self->module);
  g_free (self->output);
  g_free (self->token_label);
  g_free (self->pin_file);
  g_free (self->bus_address);
  g_free (self->associated_data);
  g_free (self->kind);
  g_free (self->label);
  g_free (self->fingerprint);
  g_free (self->key);
  g_ptr_array_unref (self->notices);
  g_free (self);
}

/* Remembers a line for standard error that is worth reading only if the command succeeds. */
void
kw_cli_add_notice (KwCli *self, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  g_ptr_array_add (self->notices, g_strdup_vprintf (format, args));
  va_end (args);
}

/* Text from tokens and modules must neither break lines nor move a terminal's cursor. */
char *
kw_cli_dup_printable (const char *text)
{
  g_autofree char *valid = g_utf8_make_valid (text, -1);
  GString *result = g_string_new (NULL);

  for (const char *p = valid; *p != '\0'; p = g_utf8_next_char (p))
    {
      gunichar character = g_utf8_get_char (p);

      if (character == '\n')
        g_string_append_c (result, ' ');
      else
        g_string_append_unichar (result, g_unichar_iscntrl (character) ? '?' : character);
    }
  return g_string_free (result, FALSE);
}

/* Says one line on standard error, under the name the program was called by. */
void
kw_cli_say (const char *text)
{
  g_autofree char *translated = kw_cli_translate (text);
  g_autofree char *printable = kw_cli_dup_printable (translated);

  g_printerr ("%s: %s\n", g_get_prgname (), printable);
}

void
kw_cli_set_usage_error (GError **error, const char *format, ...)
{
  va_list args;
  g_autofree char *message = NULL;

  va_start (args, format);
  message = g_strdup_vprintf (format, args);
  va_end (args);
  g_set_error_literal (error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, message);
}

GBytes *
kw_cli_parse_key_id (const char *text, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  GBytes *id = kw_uuid_to_bytes (text, -1, &local_error);

  if (id == NULL)
    kw_cli_set_usage_error (error, "%s", local_error->message);
  return id;
}
