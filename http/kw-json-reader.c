/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-json-reader"

#include "config.h"

#include "kw-json-reader.h"

#include "kw-error.h"
#include "kw-limits.h"

#include <glib/gi18n.h>
#include <openssl/evp.h>
#include <string.h>

/*
 * Reads JSON (RFC 8259) where it lies, without a copy of anything: what callers send may be a secret, and a general parser
 * would leave it in strings that nobody wipes. A document is checked as a whole first, its syntax, its depth and that it is
 * UTF-8; then objects are held to a table of their members: what is unknown, there twice, missing, or of another type is an
 * error that names it.
 *
 * Any thread.
 */

typedef struct
{
  const char *start;
  const char *at;
  const char *end;
  guint depth;
  GError **error;
} Scan;

static const char *const type_names[] = {
  [KW_JSON_NULL] = "null",
  [KW_JSON_BOOLEAN] = N_ ("true or false"),
  [KW_JSON_NUMBER] = N_ ("a number"),
  [KW_JSON_STRING] = N_ ("a string"),
  [KW_JSON_ARRAY] = N_ ("an array"),
  [KW_JSON_OBJECT] = N_ ("an object"),
};

static gboolean
refuse (Scan *scan, const char *what)
{
  g_set_error (scan->error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
               "The JSON text is wrong at byte %" G_GSIZE_FORMAT ": %s",
               (gsize) (scan->at - scan->start), what);
  return FALSE;
}

static void
skip_space (Scan *scan)
{
  while (scan->at < scan->end
         && (*scan->at == ' ' || *scan->at == '\t' || *scan->at == '\n' || *scan->at == '\r'))
    scan->at++;
}

static gboolean
is_next (const Scan *scan, char character)
{
  return scan->at < scan->end && *scan->at == character;
}

static gboolean
scan_escape (Scan *scan)
{
  if (scan->at < scan->end && *scan->at != '\0' && strchr ("\"\\/bfnrt", *scan->at) != NULL)
    {
      scan->at++;
      return TRUE;
    }
  if (!is_next (scan, 'u') || scan->end - scan->at < 5)
    return refuse (scan, "there is no such escape in a string");
  for (guint i = 1; i <= 4; i++)
    {
      if (!g_ascii_isxdigit (scan->at[i]))
        return refuse (scan, "four hexadecimal digits are wanted behind \\u");
    }
  scan->at += 5;
  return TRUE;
}

static gboolean
scan_string (Scan *scan)
{
  scan->at++;
  while (scan->at < scan->end && *scan->at != '"')
    {
      if ((guchar) *scan->at < 0x20)
        return refuse (scan, "a control character in a string");
      if (*scan->at++ == '\\' && !scan_escape (scan))
        return FALSE;
    }
  if (scan->at >= scan->end)
    return refuse (scan, "the string does not end");
  scan->at++;
  return TRUE;
}

static gboolean
scan_digits (Scan *scan)
{
  const char *start = scan->at;

  while (scan->at < scan->end && g_ascii_isdigit (*scan->at))
    scan->at++;
  return scan->at > start || refuse (scan, "a digit is wanted");
}

static gboolean
scan_number (Scan *scan)
{
  if (is_next (scan, '-'))
    scan->at++;
  if (is_next (scan, '0'))
    scan->at++;
  else if (!scan_digits (scan))
    return FALSE;
  if (is_next (scan, '.'))
    {
      scan->at++;
      if (!scan_digits (scan))
        return FALSE;
    }
  if (is_next (scan, 'e') || is_next (scan, 'E'))
    {
      scan->at++;
      if (is_next (scan, '+') || is_next (scan, '-'))
        scan->at++;
      return scan_digits (scan);
    }
  return TRUE;
}

static gboolean
scan_word (Scan *scan, const char *word)
{
  gsize size = strlen (word);

  if ((gsize) (scan->end - scan->at) < size || strncmp (scan->at, word, size) != 0)
    return refuse (scan, "a value is wanted");
  scan->at += size;
  return TRUE;
}

static gboolean scan_value (Scan *scan, KwJsonValue *out_value);

/* One member up to its value's end. */
static gboolean
scan_member (Scan *scan, KwJsonValue *out_name, KwJsonValue *out_value)
{
  skip_space (scan);
  if (!is_next (scan, '"'))
    return refuse (scan, "the name of a member is wanted");
  out_name->type = KW_JSON_STRING;
  out_name->text = scan->at;
  if (!scan_string (scan))
    return FALSE;
  out_name->size = (gsize) (scan->at - out_name->text);
  skip_space (scan);
  if (!is_next (scan, ':'))
    return refuse (scan, "a colon is wanted behind the name of a member");
  scan->at++;
  return scan_value (scan, out_value);
}

static gboolean
scan_list (Scan *scan, char closing)
{
  KwJsonValue name;
  KwJsonValue value;

  if (++scan->depth > KW_MAX_JSON_DEPTH)
    return refuse (scan, "too many brackets within each other");
  scan->at++;
  skip_space (scan);
  if (!is_next (scan, closing))
    {
      do
        {
          if (closing == '}' ? !scan_member (scan, &name, &value) : !scan_value (scan, &value))
            return FALSE;
          skip_space (scan);
        }
      while (is_next (scan, ',') && scan->at++ != NULL);
    }
  if (!is_next (scan, closing))
    return refuse (scan, closing == '}' ? "a comma or } is wanted" : "a comma or ] is wanted");
  scan->at++;
  scan->depth--;
  return TRUE;
}

static gboolean
scan_value (Scan *scan, KwJsonValue *out_value)
{
  gboolean good = FALSE;

  skip_space (scan);
  out_value->text = scan->at;
  switch (scan->at < scan->end ? *scan->at : '\0')
    {
    case '{':
      out_value->type = KW_JSON_OBJECT;
      good = scan_list (scan, '}');
      break;
    case '[':
      out_value->type = KW_JSON_ARRAY;
      good = scan_list (scan, ']');
      break;
    case '"':
      out_value->type = KW_JSON_STRING;
      good = scan_string (scan);
      break;
    case 't':
      out_value->type = KW_JSON_BOOLEAN;
      good = scan_word (scan, "true");
      break;
    case 'f':
      out_value->type = KW_JSON_BOOLEAN;
      good = scan_word (scan, "false");
      break;
    case 'n':
      out_value->type = KW_JSON_NULL;
      good = scan_word (scan, "null");
      break;
    default:
      out_value->type = KW_JSON_NUMBER;
      good = scan->at < scan->end && (g_ascii_isdigit (*scan->at) || *scan->at == '-')
                 ? scan_number (scan)
                 : refuse (scan, "a value is wanted");
    }
  out_value->size = (gsize) (scan->at - out_value->text);
  return good;
}

/**
 * kw_json_check:
 * @text: a document
 * @size: its size in bytes
 * @out_root: (out): its one value
 * @error: where to store the error
 *
 * Checks a whole document. Any thread.
 *
 * Returns: %FALSE with %KW_ERROR_INVALID_ARGUMENT, which says where it is wrong
 */
gboolean
kw_json_check (const char *text, gsize size, KwJsonValue *out_root, GError **error)
{
  Scan scan = { text, text, text + size, 0, error };
  KwJsonValue root;
  const char *bad = NULL;

  if (!g_utf8_validate_len (text, size, &bad))
    {
      scan.at = bad;
      return refuse (&scan, "it is not UTF-8");
    }
  if (!scan_value (&scan, &root))
    return FALSE;
  skip_space (&scan);
  if (scan.at < scan.end)
    return refuse (&scan, "there is more behind its end");
  *out_root = root;
  return TRUE;
}

/* The next piece of a list that is known to be good; position 0 is its bracket. */
static gboolean
step (const KwJsonValue *list, gsize *position, KwJsonValue *out_name, KwJsonValue *out_value)
{
  Scan scan = { list->text, list->text + MAX (*position, 1), list->text + list->size, 0, NULL };

  skip_space (&scan);
  if (is_next (&scan, ','))
    scan.at++;
  else if (is_next (&scan, ']') || is_next (&scan, '}'))
    return FALSE;
  if (out_name != NULL ? !scan_member (&scan, out_name, out_value) : !scan_value (&scan, out_value))
    return FALSE;
  *position = (gsize) (scan.at - scan.start);
  return TRUE;
}

/**
 * kw_json_next:
 * @array: an array of a checked document
 * @position: (inout): 0 at first
 * @out_value: (out): its next value
 *
 * Returns: %FALSE when there is none left. Any thread.
 */
gboolean
kw_json_next (const KwJsonValue *array, gsize *position, KwJsonValue *out_value)
{
  g_return_val_if_fail (array->type == KW_JSON_ARRAY, FALSE);

  return step (array, position, NULL, out_value);
}

static gboolean
has_text (const KwJsonValue *string, const char *text)
{
  gsize size = strlen (text);

  return string->size == size + 2 && strncmp (string->text + 1, text, size) == 0;
}

static gboolean
take_member (const KwJsonMember *members,
             guint n_members,
             const KwJsonValue *name,
             const KwJsonValue *value,
             KwJsonValue *out_values,
             GError **error)
{
  guint i = 0;

  while (i < n_members && !has_text (name, members[i].name))
    i++;
  if (i == n_members && n_members == 0)
    g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "There is no member %.*s here",
                 (int) MIN (name->size, KW_MAX_JSON_NAME_BYTES), name->text);
  else if (i == n_members)
    g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                 "There is no member %.*s here; the first that is known is %s",
                 (int) MIN (name->size, KW_MAX_JSON_NAME_BYTES), name->text, members[0].name);
  else if (out_values[i].text != NULL)
    g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "The member “%s” is there twice",
                 members[i].name);
  else if (value->type != members[i].type)
    g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "“%s” has to be %s, not %s",
                 members[i].name, type_names[members[i].type], type_names[value->type]);
  else
    {
      out_values[i] = *value;
      return TRUE;
    }
  return FALSE;
}

/**
 * kw_json_read_object:
 * @object: a value of a checked document
 * @members: what it may have
 * @n_members: how many that are
 * @out_values: (array length=n_members): values of the members; one that is not there has no text
 * @error: where to store the error
 *
 * Takes an object apart. Any thread.
 *
 * Returns: %FALSE with %KW_ERROR_INVALID_ARGUMENT, which names the member that is wrong
 */
gboolean
kw_json_read_object (const KwJsonValue *object,
                     const KwJsonMember *members,
                     guint n_members,
                     KwJsonValue *out_values,
                     GError **error)
{
  KwJsonValue name;
  KwJsonValue value;
  gsize position = 0;

  memset (out_values, 0, sizeof *out_values * n_members);
  if (object->type != KW_JSON_OBJECT)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "An object is wanted, not %s",
                   type_names[object->type]);
      return FALSE;
    }
  while (step (object, &position, &name, &value))
    {
      if (!take_member (members, n_members, &name, &value, out_values, error))
        return FALSE;
    }
  for (guint i = 0; i < n_members; i++)
    {
      if (members[i].required && out_values[i].text == NULL)
        {
          g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "The member “%s” is missing",
                       members[i].name);
          return FALSE;
        }
    }
  return TRUE;
}

/**
 * kw_json_has_member:
 * @object: a value of a checked document
 * @name: name of a member
 *
 * Returns: whether it is an object that has such a member. Any thread.
 */
gboolean
kw_json_has_member (const KwJsonValue *object, const char *name)
{
  KwJsonValue member;
  KwJsonValue value;
  gsize position = 0;

  while (object->type == KW_JSON_OBJECT && step (object, &position, &member, &value))
    {
      if (has_text (&member, name))
        return TRUE;
    }
  return FALSE;
}

/**
 * kw_json_dup_string:
 * @value: a string of a checked document
 * @name: what it is called, for errors
 * @max: most bytes it may have
 * @error: where to store the error
 *
 * Copies a string that is no secret and has no need of escapes, such as an id. Any thread.
 *
 * Returns: (transfer full): the string; %NULL with %KW_ERROR_INVALID_ARGUMENT
 */
char *
kw_json_dup_string (const KwJsonValue *value, const char *name, gsize max, GError **error)
{
  g_return_val_if_fail (value->type == KW_JSON_STRING, NULL);

  if (value->size - 2 > max)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                   "“%s” has more than %" G_GSIZE_FORMAT " bytes", name, max);
      return NULL;
    }
  if (memchr (value->text, '\\', value->size) != NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                   "“%s” has escapes, which it needs not", name);
      return NULL;
    }
  return g_strndup (value->text + 1, value->size - 2);
}

static KwSecret *
new_secret (gsize size, GError **error)
{
  return size > KW_MAX_LOCKED_BODY_BYTES ? kw_secret_new_unlocked (size, error)
                                         : kw_secret_new (size, error);
}

static KwSecret *
dup_without_escapes (const char *text, gsize size, gsize n, GError **error)
{
  KwSecret *plain = new_secret (n, error);
  char *out = plain != NULL ? (char *) kw_secret_get_data (plain) : NULL;

  for (gsize i = 0; plain != NULL && i < size; i++)
    {
      if (text[i] != '\\')
        *out++ = text[i];
    }
  return plain;
}

/**
 * kw_json_dup_secret:
 * @value: a string of a checked document
 * @name: what it is called, for errors
 * @error: where to store the error
 *
 * Copies a string; escapes of slashes are taken away. Any thread.
 *
 * Returns: (transfer full): its bytes; %NULL with %KW_ERROR_INVALID_ARGUMENT when it has other escapes
 */
KwSecret *
kw_json_dup_secret (const KwJsonValue *value, const char *name, GError **error)
{
  const char *text = value->text + 1;
  gsize size = value->size - 2;
  gsize n_escapes = 0;

  g_return_val_if_fail (value->type == KW_JSON_STRING, NULL);

  for (gsize i = 0; i < size; i++)
    {
      if (text[i] != '\\')
        continue;
      if (text[++i] != '/')
        {
          g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                       "“%s” has escapes, which it needs not", name);
          return NULL;
        }
      n_escapes++;
    }
  return dup_without_escapes (text, size, size - n_escapes, error);
}

static gboolean
is_base64 (char character)
{
  return g_ascii_isalnum (character) || character == '+' || character == '/';
}

/* How many characters it is without the escapes of slashes, which PHP writes; −1 for what is no base64. */
static gssize
measure_base64 (const char *text, gsize size)
{
  gsize n = 0;
  gsize n_padding = 0;

  for (gsize i = 0; i < size; i++)
    {
      if (text[i] == '\\' && i + 1 < size && text[i + 1] == '/')
        continue;
      if (text[i] == '=')
        n_padding++;
      else if (!is_base64 (text[i]) || n_padding > 0)
        return -1;
      n++;
    }
  return n % 4 == 0 && n_padding <= 2 ? (gssize) n : -1;
}

/**
 * kw_json_decode_base64:
 * @value: a string of a checked document
 * @name: what it is called, for errors
 * @max: most bytes it may stand for
 * @error: where to store the error
 *
 * Decodes a string of base64 (RFC 4648, 4), with its padding and without line breaks. Any thread.
 *
 * Returns: (transfer full): the bytes; %NULL with an error
 */
KwSecret *
kw_json_decode_base64 (const KwJsonValue *value, const char *name, gsize max, GError **error)
{
  const char *text = value->text + 1;
  gsize size = value->size - 2;
  gssize n = measure_base64 (text, size);
  gsize n_padding = 0;
  g_autoptr (KwSecret) plain = NULL;
  g_autoptr (KwSecret) bytes = NULL;

  g_return_val_if_fail (value->type == KW_JSON_STRING, NULL);

  if (n < 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "“%s” is no base64 (RFC 4648, 4)",
                   name);
      return NULL;
    }
  while (n > 0 && n_padding < 2 && text[size - 1 - n_padding] == '=')
    n_padding++;
  if ((gsize) n / 4 * 3 - n_padding > max)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                   "“%s” has more than %" G_GSIZE_FORMAT " bytes", name, max);
      return NULL;
    }
  bytes = new_secret ((gsize) n / 4 * 3, error);
  if (bytes == NULL || n == 0)
    return g_steal_pointer (&bytes);
  if ((gsize) n != size)
    {
      plain = dup_without_escapes (text, size, (gsize) n, error);
      if (plain == NULL)
        return NULL;
      text = (const char *) kw_secret_get_data (plain);
    }
  (void) EVP_DecodeBlock (kw_secret_get_data (bytes), (const guchar *) text, (int) n);
  kw_secret_truncate (bytes, (gsize) n / 4 * 3 - n_padding);
  return g_steal_pointer (&bytes);
}

/**
 * kw_json_get_unsigned:
 * @value: a number of a checked document
 * @name: what it is called, for errors
 * @max: the largest that is allowed
 * @out_number: (out): the number
 * @error: where to store the error
 *
 * Reads a whole number. Any thread.
 *
 * Returns: %FALSE with %KW_ERROR_INVALID_ARGUMENT
 */
gboolean
kw_json_get_unsigned (const KwJsonValue *value,
                      const char *name,
                      guint64 max,
                      guint64 *out_number,
                      GError **error)
{
  g_autofree char *text = g_strndup (value->text, MIN (value->size, KW_MAX_JSON_NAME_BYTES));

  g_return_val_if_fail (value->type == KW_JSON_NUMBER, FALSE);

  if (g_ascii_string_to_unsigned (text, 10, 0, max, out_number, NULL))
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
               "“%s” has to be a whole number from 0 to %" G_GUINT64_FORMAT, name, max);
  return FALSE;
}
