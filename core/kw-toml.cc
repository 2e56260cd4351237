/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-toml"

/*
 * The one C++ file: reads TOML with toml++ and hands it on as a flat list of entries, so that everything else can be C.
 * No exception leaves this file.
 */

#include <toml++/toml.h>

#include "kw-toml.h"

#include "kw-limits.h"

#include <exception>
#include <openssl/crypto.h>
#include <string>
#include <string_view>

namespace
{

void
entry_free (gpointer data)
{
  auto *entry = static_cast<KwTomlEntry *> (data);

  g_free (entry->table);
  g_free (entry->key);
  if (entry->string != nullptr)
    OPENSSL_cleanse (entry->string, strlen (entry->string));
  g_free (entry->string);
  g_strfreev (entry->list);
  g_free (entry);
}

char *
dup_view (std::string_view view)
{
  return g_strndup (view.data (), view.size ());
}

bool
read_list (const toml::array &array, KwTomlEntry *entry)
{
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();

  for (const auto &element : array)
    {
      g_autofree char *text = nullptr;

      if (element.is_string ())
        {
          const std::string &value = element.as_string ()->get ();

          if (value.find ('\0') != std::string::npos)
            return false;
          text = dup_view (value);
        }
      else if (element.is_integer ())
        text = g_strdup_printf ("%" G_GINT64_FORMAT,
                                static_cast<gint64> (element.as_integer ()->get ()));
      else
        return false;
      g_strv_builder_add (builder, text);
    }
  entry->list = g_strv_builder_end (builder);
  return true;
}

bool walk (const toml::table &table,
           const std::string &path,
           guint index,
           bool in_array,
           guint max_entries,
           GPtrArray *entries);

/* Each table of an array is an entry of its own, as if it stood alone, with its number. */
bool
walk_tables (const toml::array &array,
             const std::string &path,
             std::string_view key,
             guint max_entries,
             GPtrArray *entries)
{
  guint index = 0;

  for (const auto &element : array)
    {
      if (entries->len >= max_entries)
        return false;

      auto *entry = g_new0 (KwTomlEntry, 1);
      g_ptr_array_add (entries, entry);
      entry->table = g_strdup (path.c_str ());
      entry->key = dup_view (key);
      entry->line = element.source ().begin.line;
      entry->type = KW_TOML_TABLE;
      entry->index = index;
      entry->in_array = TRUE;
      if (!walk (*element.as_table (),
                 path.empty () ? std::string (key) : path + "." + std::string (key), index, true,
                 max_entries, entries))
        return false;
      index++;
    }
  return true;
}

bool
walk (const toml::table &table,
      const std::string &path,
      guint index,
      bool in_array,
      guint max_entries,
      GPtrArray *entries)
{
  for (const auto &[key, node] : table)
    {
      if (entries->len >= max_entries)
        return false;
      if (node.is_array () && node.as_array ()->is_array_of_tables ())
        {
          if (!walk_tables (*node.as_array (), path, key.str (), max_entries, entries))
            return false;
          continue;
        }

      auto *entry = g_new0 (KwTomlEntry, 1);
      g_ptr_array_add (entries, entry);
      entry->table = g_strdup (path.c_str ());
      entry->key = dup_view (key.str ());
      entry->line = key.source ().begin.line;
      entry->type = KW_TOML_OTHER;
      entry->index = index;
      entry->in_array = in_array;
      if (node.is_table ())
        {
          entry->type = KW_TOML_TABLE;
          if (!walk (*node.as_table (),
                     path.empty () ? std::string (key.str ())
                                   : path + "." + std::string (key.str ()),
                     0, false, max_entries, entries))
            return false;
        }
      else if (node.is_string ())
        {
          const std::string &value = node.as_string ()->get ();

          /* A NUL inside would silently cut the value: such a string is no string to us. */
          if (value.find ('\0') == std::string::npos)
            {
              entry->type = KW_TOML_STRING;
              entry->string = dup_view (value);
            }
        }
      else if (node.is_integer ())
        {
          entry->type = KW_TOML_INTEGER;
          entry->integer = node.as_integer ()->get ();
        }
      else if (node.is_boolean ())
        {
          entry->type = KW_TOML_BOOLEAN;
          entry->boolean = node.as_boolean ()->get ();
        }
      else if (node.is_array () && read_list (*node.as_array (), entry))
        entry->type = KW_TOML_STRING_LIST;
    }
  return true;
}

/*
 * Dotted keys are tables in tables, which toml++ takes down by recursion and, unlike brackets, does not count. They stand
 * on one line, so bounding the dots of a line bounds them; comment lines may have any number.
 */
bool
dots_are_bounded (std::string_view text, guint *out_line)
{
  guint line = 1;
  guint n_dots = 0;
  bool blank = true;
  bool comment = false;

  for (const char c : text)
    {
      if (c == '\n')
        {
          line++;
          n_dots = 0;
          blank = true;
          comment = false;
          continue;
        }
      comment = comment || (blank && c == '#');
      blank = blank && (c == ' ' || c == '\t');
      if (c == '.' && !comment && ++n_dots > KW_MAX_CONFIG_DOTS)
        {
          *out_line = line;
          return false;
        }
    }
  return true;
}

} // namespace

/**
 * kw_toml_parse:
 * @data: a TOML document, UTF-8
 * @size: its size in bytes
 * @max_entries: most tables and keys it may have
 * @out_line: (out): line of the error, 0 when it has none
 * @out_message: (out): what is wrong
 *
 * Reads a TOML document into a flat list, in no particular order. Strings of the list are wiped when it is freed. Any
 * thread.
 *
 * Returns: (transfer full) (element-type KwTomlEntry): the entries; %NULL with @out_line and @out_message set
 */
extern "C" GPtrArray *
kw_toml_parse (const char *data, gsize size, guint max_entries, guint *out_line, char **out_message)
{
  try
    {
      if (!dots_are_bounded (std::string_view (data, size), out_line))
        {
          *out_message = g_strdup_printf ("more than %u dots in one line", KW_MAX_CONFIG_DOTS);
          return nullptr;
        }

      const toml::table document = toml::parse (std::string_view (data, size));
      g_autoptr (GPtrArray) entries = g_ptr_array_new_with_free_func (entry_free);
      if (walk (document, std::string (), 0, false, max_entries, entries))
        return g_ptr_array_ref (entries);
      *out_line = 0;
      *out_message = g_strdup_printf ("more than %u keys", max_entries);
    }
  catch (const toml::parse_error &error)
    {
      *out_line = error.source ().begin.line;
      *out_message = dup_view (error.description ());
    }
  catch (const std::exception &exception)
    {
      *out_line = 0;
      *out_message = g_strdup (exception.what ());
    }
  return nullptr;
}
