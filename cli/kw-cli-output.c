/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-output"

#include "config.h"

#include "kw-cli-output.h"

#include "kw-cli.h"
#include "kw-error.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/*
 * Standard output has the result alone, and a result that could not be written is a failure. What is secret goes from
 * KwSecret to the descriptor without passing through a buffer of the C library, and comes in the same way.
 */

#define MAX_INPUT_BYTES (64 * 1024)
#define BASE64_ALPHABET "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

static gboolean
write_all (gconstpointer data, gsize size, GError **error)
{
  const guint8 *bytes = data;
  gsize n_written = 0;

  while (n_written < size)
    {
      gssize n = write (STDOUT_FILENO, bytes + n_written, size - n_written);

      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        {
          int saved_errno = errno;

          g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "Cannot write the result: %s",
                       g_strerror (saved_errno));
          return FALSE;
        }
      n_written += (gsize) n;
    }
  return TRUE;
}

gboolean
kw_cli_output_text (const char *text, GError **error)
{
  return write_all (text, strlen (text), error);
}

gboolean
kw_cli_output_bytes (gconstpointer data, gsize size, GError **error)
{
  return write_all (data, size, error);
}

/* Takes the builder with its one root node finished. */
gboolean
kw_cli_output_json (JsonBuilder *builder, GError **error)
{
  g_autoptr (JsonNode) root = json_builder_get_root (builder);
  g_autofree char *text = json_to_string (root, TRUE);
  g_autofree char *line = g_strconcat (text, "\n", NULL);

  return kw_cli_output_text (line, error);
}

gboolean
kw_cli_output_secret (const char *before, const KwSecret *secret, const char *after, GError **error)
{
  return write_all (before, strlen (before), error)
         && write_all (kw_secret_get_data (secret), kw_secret_get_size (secret), error)
         && write_all (after, strlen (after), error);
}

void
kw_cli_json_add_string (JsonBuilder *builder, const char *name, const char *value)
{
  json_builder_set_member_name (builder, name);
  if (value != NULL)
    json_builder_add_string_value (builder, value);
  else
    json_builder_add_null_value (builder);
}

void
kw_cli_json_add_int (JsonBuilder *builder, const char *name, gint64 value)
{
  json_builder_set_member_name (builder, name);
  json_builder_add_int_value (builder, value);
}

static KwSecret *
read_standard_input (GError **error)
{
  g_autoptr (KwSecret) text = kw_secret_new (MAX_INPUT_BYTES + 1, error);
  gsize n_read = 0;

  if (text == NULL)
    return NULL;
  while (n_read < kw_secret_get_size (text))
    {
      gssize n = read (STDIN_FILENO, kw_secret_get_data (text) + n_read,
                       kw_secret_get_size (text) - n_read);

      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        {
          int saved_errno = errno;

          g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "Cannot read standard input: %s",
                       g_strerror (saved_errno));
          return NULL;
        }
      if (n == 0)
        break;
      n_read += (gsize) n;
    }
  if (n_read > MAX_INPUT_BYTES)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "The input is longer than %d bytes",
                   MAX_INPUT_BYTES);
      return NULL;
    }
  kw_secret_truncate (text, n_read);
  return g_steal_pointer (&text);
}

/* Decodes an argument, or standard input when the argument is a dash. */
KwSecret *
kw_cli_read_base64 (const char *argument, GError **error)
{
  g_autoptr (KwSecret) text = NULL;

  if (g_str_equal (argument, "-"))
    text = read_standard_input (error);
  else
    text = kw_secret_new_copy (argument, strlen (argument), error);
  if (text == NULL)
    return NULL;
  return kw_cli_decode_base64 (text, error);
}

static int
base64_value (guint8 letter)
{
  const char *place = letter != '\0' ? strchr (BASE64_ALPHABET, letter) : NULL;

  return place != NULL ? (int) (place - BASE64_ALPHABET) : -1;
}

/*
 * Decodes base64 (RFC 4648, 4) strictly, because a letter that got lost must not turn into other bytes. Only white space
 * is passed over: tools break long lines.
 */
KwSecret *
kw_cli_decode_base64 (KwSecret *text, GError **error)
{
  const guint8 *input = kw_secret_get_data (text);
  gsize n_input = kw_secret_get_size (text);
  g_autoptr (KwSecret) result = kw_secret_new (n_input / 4 * 3 + 3, error);
  guint8 *output = NULL;
  guint32 bits = 0;
  gsize n_letters = 0;
  gsize n_padding = 0;
  gsize n_output = 0;
  gboolean valid = TRUE;

  if (result == NULL)
    return NULL;
  output = kw_secret_get_data (result);
  for (gsize i = 0; valid && i < n_input; i++)
    {
      int value = base64_value (input[i]);

      if (g_ascii_isspace (input[i]))
        continue;
      if (input[i] == '=')
        {
          n_padding++;
          continue;
        }
      valid = value >= 0 && n_padding == 0;
      bits = (bits << 6 | (guint32) MAX (value, 0)) & 0xFFFFFF;
      n_letters++;
      if (n_letters % 4 == 0)
        {
          output[n_output++] = (guint8) (bits >> 16);
          output[n_output++] = (guint8) (bits >> 8);
          output[n_output++] = (guint8) bits;
        }
    }
  valid = valid && n_padding <= 2 && (n_letters + n_padding) % 4 == 0;
  if (valid && n_padding == 1)
    {
      output[n_output++] = (guint8) (bits >> 10);
      output[n_output++] = (guint8) (bits >> 2);
    }
  if (valid && n_padding == 2)
    output[n_output++] = (guint8) (bits >> 4);
  if (!valid)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "The input is not base64");
      return NULL;
    }
  if (n_output == 0)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "The input is empty");
      return NULL;
    }
  kw_secret_truncate (result, n_output);
  return g_steal_pointer (&result);
}

KwSecret *
kw_cli_encode_base64 (const guint8 *data, gsize size, GError **error)
{
  /* What g_base64_encode_step() and g_base64_encode_close() ask for. */
  KwSecret *text = kw_secret_new ((size / 3 + 1) * 4 + 4, error);
  gint state = 0;
  gint save = 0;
  gsize n = 0;
  char *output = NULL;

  if (text == NULL)
    return NULL;
  output = (char *) kw_secret_get_data (text);
  n = g_base64_encode_step (data, size, FALSE, output, &state, &save);
  n += g_base64_encode_close (FALSE, output + n, &state, &save);
  kw_secret_truncate (text, n);
  return text;
}
