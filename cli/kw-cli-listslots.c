/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-listslots"

#include "config.h"

#include "kw-cli-commands.h"
#include "kw-cli-config.h"
#include "kw-cli-output.h"
#include "kw-cli-token.h"
#include "kw-error.h"

/*
 * listslots: what ownCloud's hsmdaemon printed, without the need for a configuration. Scripts take the number from lines
 * with "Slot:".
 */

static GPtrArray *
list_all_slots (KwConfig *config, GError **error)
{
  g_autoptr (GPtrArray) all = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_slot_info_free);
  g_autoptr (GPtrArray) backends = kw_cli_new_backends (config, error);

  if (backends == NULL)
    return NULL;
  for (guint i = 0; i < backends->len; i++)
    {
      g_autoptr (GError) local_error = NULL;
      GPtrArray *slots = kw_backend_list_slots (g_ptr_array_index (backends, i), &local_error);

      if (slots != NULL)
        g_ptr_array_extend_and_steal (all, slots);
      else if (!g_error_matches (local_error, KW_ERROR, KW_ERROR_NOT_SUPPORTED))
        {
          g_propagate_error (error, g_steal_pointer (&local_error));
          return NULL;
        }
    }
  return g_steal_pointer (&all);
}

static void
append_fields (GString *text, const char *title, GPtrArray *fields)
{
  if (fields->len == 0)
    return;
  g_string_append_printf (text, "    %s:\n", title);
  for (guint i = 0; i + 1 < fields->len; i += 2)
    {
      g_autofree char *value = kw_cli_dup_printable (g_ptr_array_index (fields, i + 1));

      g_string_append_printf (text, "        %s: %s\n", (char *) g_ptr_array_index (fields, i),
                              value);
    }
}

static gboolean
print_text (GPtrArray *slots, GError **error)
{
  g_autoptr (GString) text = g_string_new ("Available slots:\n");

  for (guint i = 0; i < slots->len; i++)
    {
      const KwSlotInfo *slot = g_ptr_array_index (slots, i);

      g_string_append_printf (text, "Slot: %" G_GUINT64_FORMAT ",\n", slot->slot);
      append_fields (text, "Slot info", slot->slot_fields);
      append_fields (text, "Token info", slot->token_fields);
    }
  return kw_cli_output_text (text->str, error);
}

static void
add_fields (JsonBuilder *builder, const char *name, GPtrArray *fields)
{
  json_builder_set_member_name (builder, name);
  if (fields->len == 0)
    {
      json_builder_add_null_value (builder);
      return;
    }
  json_builder_begin_object (builder);
  for (guint i = 0; i + 1 < fields->len; i += 2)
    kw_cli_json_add_string (builder, g_ptr_array_index (fields, i),
                            g_ptr_array_index (fields, i + 1));
  json_builder_end_object (builder);
}

static gboolean
print_json (KwConfig *config, GPtrArray *slots, GError **error)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();

  json_builder_begin_object (builder);
  kw_cli_json_add_string (builder, "module", kw_config_get_pkcs11 (config)->module);
  json_builder_set_member_name (builder, "slots");
  json_builder_begin_array (builder);
  for (guint i = 0; i < slots->len; i++)
    {
      const KwSlotInfo *slot = g_ptr_array_index (slots, i);

      json_builder_begin_object (builder);
      kw_cli_json_add_int (builder, "slot", (gint64) slot->slot);
      add_fields (builder, "slot_info", slot->slot_fields);
      add_fields (builder, "token_info", slot->token_fields);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
  json_builder_end_object (builder);
  return kw_cli_output_json (builder, error);
}

gboolean
kw_cli_run_listslots (KwCli *cli, char **arguments, GError **error)
{
  g_autoptr (GError) problem = NULL;
  g_autoptr (KwConfig) config = kw_cli_config_load_leniently (cli, &problem);
  g_autoptr (GPtrArray) slots = NULL;
  gboolean guessed = FALSE;

  if (problem != NULL)
    kw_cli_add_notice (cli, "Warning: %s", problem->message);
  if (kw_cli_config_ensure_module (cli, config, &guessed, error))
    slots = list_all_slots (config, error);
  if (slots == NULL)
    {
      /* The one line that is told has to have both. */
      if (problem != NULL)
        g_prefix_error (error, "%s; and then: ", problem->message);
      return FALSE;
    }
  return cli->json ? print_json (config, slots, error) : print_text (slots, error);
}
