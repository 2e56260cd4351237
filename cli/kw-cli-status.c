/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-status"

#include "config.h"

#include "kw-bus-names.h"
#include "kw-cli-bus.h"
#include "kw-cli-commands.h"
#include "kw-cli-output.h"
#include "kw-cli-sentence.h"
#include "kw-cli-table.h"

#include <glib/gi18n.h>
#include <string.h>

/*
 * status, devices and keys: what the running daemon says of itself.
 */

/* Exit status of “keyward status”. */
#define EXIT_DEGRADED 1
#define EXIT_DOWN 3

/* What objects are turned into. */
typedef struct
{
  GDBusConnection *bus;
  JsonBuilder *json;
  KwCliTable *table;
  GString *advice;
  char *first_key;
  guint n_objects;
} Listing;

static void
listing_clear (Listing *listing)
{
  g_clear_object (&listing->bus);
  g_clear_object (&listing->json);
  g_clear_pointer (&listing->table, kw_cli_table_free);
  g_free (listing->first_key);
  if (listing->advice != NULL)
    g_string_free (listing->advice, TRUE);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Listing, listing_clear)

/* What a property is called in JSON. */
typedef struct
{
  const char *member;
  const char *property;
} Member;

static const Member device_members[] = {
  { "serial", "Serial" },
  { "label", "Label" },
  { "model", "Model" },
  { "reader", "Reader" },
  { "firmware", "Firmware" },
  { "options", "Options" },
  { "state", "State" },
  { "state_text", "StateText" },
  { "state_since", "StateSince" },
  { "pin_tries_left", "PinTriesLeft" },
  { "so_pin_tries_left", "SoPinTriesLeft" },
  { "dkek_check_value", "DkekCheckValue" },
  { "keys", "Keys" },
  { "jobs", "Jobs" },
  { "errors", "Errors" },
  { "failovers", "Failovers" },
  { "median_milliseconds", "MedianMilliseconds" },
};

static const Member key_members[] = {
  { "id", "Id" },
  { "kind", "Kind" },
  { "label", "Label" },
  { "fingerprint", "Fingerprint" },
  { "encrypts", "Encrypts" },
  { "copies", "Copies" },
  { "state", "State" },
  { "advice", "Advice" },
};

static const Member manager_members[] = {
  { "version", "Version" },
  { "state", "State" },
  { "operational", "Operational" },
  { "consistent", "Consistent" },
  { "text", "StatusText" },
  { "key_ids", "KeyIds" },
  { "ready_devices", "ReadyDevices" },
};

static void
add_members (JsonBuilder *builder, GVariant *properties, const Member *members, guint n_members)
{
  for (guint i = 0; i < n_members; i++)
    {
      g_autoptr (GVariant) value = g_variant_lookup_value (properties, members[i].property, NULL);

      json_builder_set_member_name (builder, members[i].member);
      if (value != NULL)
        json_builder_add_value (builder, json_gvariant_serialize (value));
      else
        json_builder_add_null_value (builder);
    }
}

static void
add_advice (Listing *listing, const char *name, const char *text)
{
  g_autofree char *translated = NULL;
  g_autofree char *sentence = NULL;
  g_autofree char *lines = NULL;

  if (*text == '\0')
    return;
  translated = kw_cli_translate_output (text);
  sentence = g_strdup_printf ("%s: %s", name, translated);
  lines = kw_cli_wrap (sentence, 0);
  g_string_append (listing->advice, lines);
}

static void
add_device_json (Listing *listing, GVariant *device)
{
  json_builder_begin_object (listing->json);
  add_members (listing->json, device, device_members, G_N_ELEMENTS (device_members));
  json_builder_end_object (listing->json);
}

static gboolean
list_device (const char *path G_GNUC_UNUSED,
             GVariant *device,
             gpointer user_data,
             GError **error G_GNUC_UNUSED)
{
  Listing *listing = user_data;
  const char *serial = kw_cli_bus_get_string (device, "Serial");
  const char *state = kw_cli_bus_get_string (device, "State");
  gint64 tries = kw_cli_bus_get_integer (device, "PinTriesLeft");

  listing->n_objects++;
  if (listing->json != NULL)
    {
      add_device_json (listing, device);
      return TRUE;
    }
  kw_cli_table_add (listing->table, KW_CLI_PLAIN, serial);
  kw_cli_table_add (listing->table, KW_CLI_PLAIN, kw_cli_bus_get_string (device, "Label"));
  kw_cli_table_add_state (listing->table, state);
  kw_cli_table_add (listing->table, KW_CLI_PLAIN, kw_cli_bus_get_string (device, "Firmware"));
  if (tries >= 0)
    kw_cli_table_add_printf (listing->table, tries > 1 ? KW_CLI_PLAIN : KW_CLI_RED,
                             "%" G_GINT64_FORMAT, tries);
  else
    kw_cli_table_add (listing->table, KW_CLI_PLAIN, "");
  kw_cli_table_add (listing->table, KW_CLI_PLAIN, kw_cli_bus_get_string (device, "DkekCheckValue"));
  kw_cli_table_add_printf (listing->table, KW_CLI_PLAIN, "%" G_GINT64_FORMAT,
                           kw_cli_bus_get_integer (device, "Jobs"));
  kw_cli_table_add_printf (listing->table, KW_CLI_PLAIN, "%" G_GINT64_FORMAT,
                           kw_cli_bus_get_integer (device, "Errors"));
  kw_cli_table_add_printf (listing->table, KW_CLI_PLAIN, "%g",
                           kw_cli_bus_get_double (device, "MedianMilliseconds"));
  if (!g_str_equal (state, "ready"))
    add_advice (listing, serial, kw_cli_bus_get_string (device, "StateText"));
  return TRUE;
}

static gboolean
list_devices (Listing *listing, GError **error)
{
  static const char *const heads[]
      = { N_ ("SERIAL"), N_ ("LABEL"), N_ ("STATE"), N_ ("FIRMWARE"), "PIN", "DKEK", N_ ("JOBS"),
          N_ ("ERRORS"), "MS",         NULL };

  if (listing->json == NULL)
    listing->table = kw_cli_table_new (heads);
  return kw_cli_bus_foreach (listing->bus, KW_BUS_DEVICE_INTERFACE, list_device, listing, error);
}

/* What key was used when: the last day with a use, and the sum. */
static void
read_uses (GVariant *days, const char **out_last_day, guint64 *out_n_uses)
{
  GVariantIter iter;
  const char *day;
  guint64 n_encrypts, n_decrypts, n_signs;

  *out_last_day = "";
  *out_n_uses = 0;
  g_variant_iter_init (&iter, days);
  while (g_variant_iter_next (&iter, "(&sttt)", &day, &n_encrypts, &n_decrypts, &n_signs))
    {
      *out_n_uses += n_encrypts + n_decrypts + n_signs;
      *out_last_day = day;
    }
}

static void
add_uses_json (JsonBuilder *builder, GVariant *days)
{
  GVariantIter iter;
  const char *day;
  guint64 n_encrypts, n_decrypts, n_signs;

  json_builder_set_member_name (builder, "uses");
  json_builder_begin_array (builder);
  g_variant_iter_init (&iter, days);
  while (g_variant_iter_next (&iter, "(&sttt)", &day, &n_encrypts, &n_decrypts, &n_signs))
    {
      json_builder_begin_object (builder);
      kw_cli_json_add_string (builder, "day", day);
      kw_cli_json_add_int (builder, "encrypted", (gint64) n_encrypts);
      kw_cli_json_add_int (builder, "decrypted", (gint64) n_decrypts);
      kw_cli_json_add_int (builder, "signed", (gint64) n_signs);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
}

static void
add_key_json (Listing *listing, GVariant *key, GVariant *days)
{
  json_builder_begin_object (listing->json);
  add_members (listing->json, key, key_members, G_N_ELEMENTS (key_members));
  add_uses_json (listing->json, days);
  json_builder_end_object (listing->json);
}

/* A key of hsm_keyid that is not the first: it decrypts what was encrypted before. */
static gboolean
is_retired (Listing *listing, GVariant *key)
{
  return listing->first_key != NULL && g_str_equal (kw_cli_bus_get_string (key, "Kind"), "aes")
         && !g_str_equal (kw_cli_bus_get_string (key, "Id"), listing->first_key);
}

/* Answers what is asked of an old key: may it go? */
static void
add_retirement (Listing *listing, const char *id, const char *last_day)
{
  g_autofree char *text = NULL;

  if (*last_day == '\0')
    text = g_strdup (
        "It decrypts only, and was never used since uses are counted. It may go once all data was moved "
        "to the first key with “keyward rewrap”");
  else
    text = g_strdup_printf (
        "It decrypts only, and was used last on %s. It may go once all data was moved to the first "
        "key with “keyward rewrap”, and that day does not change any more",
        last_day);
  add_advice (listing, id, text);
}

static gboolean
list_key (const char *path, GVariant *key, gpointer user_data, GError **error)
{
  Listing *listing = user_data;
  const char *id = kw_cli_bus_get_string (key, "Id");
  const char *state = kw_cli_bus_get_string (key, "State");
  const char *fingerprint = kw_cli_bus_get_string (key, "Fingerprint");
  g_autoptr (GVariant) reply = kw_cli_bus_call (listing->bus, path, KW_BUS_KEY_INTERFACE, "GetUses",
                                                NULL, "(a(sttt))", error);
  g_autoptr (GVariant) days = NULL;
  const char *last_day;
  guint64 n_uses;

  if (reply == NULL)
    return FALSE;
  days = g_variant_get_child_value (reply, 0);
  listing->n_objects++;
  if (listing->json != NULL)
    {
      add_key_json (listing, key, days);
      return TRUE;
    }
  read_uses (days, &last_day, &n_uses);
  kw_cli_table_add (listing->table, KW_CLI_PLAIN, id);
  kw_cli_table_add (listing->table, KW_CLI_PLAIN, kw_cli_bus_get_string (key, "Kind"));
  kw_cli_table_add (listing->table, KW_CLI_PLAIN, kw_cli_bus_get_string (key, "Label"));
  kw_cli_table_add_state (listing->table, state);
  kw_cli_table_add_printf (listing->table, KW_CLI_PLAIN, "%" G_GINT64_FORMAT,
                           kw_cli_bus_get_integer (key, "Copies"));
  kw_cli_table_add (listing->table, KW_CLI_PLAIN,
                    kw_cli_bus_get_boolean (key, "Encrypts") ? _ ("yes") : _ ("no"));
  kw_cli_table_add_printf (listing->table, KW_CLI_PLAIN, "%" G_GUINT64_FORMAT, n_uses);
  kw_cli_table_add (listing->table, KW_CLI_PLAIN, last_day);
  kw_cli_table_add_printf (listing->table, KW_CLI_PLAIN, "%.16s", fingerprint);
  add_advice (listing, id, kw_cli_bus_get_string (key, "Advice"));
  if (is_retired (listing, key))
    add_retirement (listing, id, last_day);
  return TRUE;
}

static gboolean
list_keys (Listing *listing, GError **error)
{
  static const char *const heads[] = { "ID",         N_ ("KIND"),     N_ ("LABEL"),
                                       N_ ("STATE"), N_ ("COPIES"),   N_ ("ENCRYPTS"),
                                       N_ ("USES"),  N_ ("LAST USE"), N_ ("FINGERPRINT"),
                                       NULL };

  g_autoptr (GVariant) manager = kw_cli_bus_get_manager (listing->bus, error);
  g_auto (GStrv) ids = NULL;

  if (manager == NULL)
    return FALSE;
  ids = kw_cli_bus_dup_strings (manager, "KeyIds");
  g_free (listing->first_key);
  listing->first_key = g_strdup (ids[0]);
  if (listing->json == NULL)
    listing->table = kw_cli_table_new (heads);
  return kw_cli_bus_foreach (listing->bus, KW_BUS_KEY_INTERFACE, list_key, listing, error);
}

static gboolean
print_table (Listing *listing, const char *nothing, GError **error)
{
  g_autofree char *table = kw_cli_table_to_string (listing->table);
  g_autofree char *text = NULL;

  if (listing->n_objects == 0)
    return kw_cli_output_sentence (nothing, error);
  text = g_strconcat (table, listing->advice->len > 0 ? "\n" : "", listing->advice->str, NULL);
  return kw_cli_output_text (text, error);
}

typedef gboolean (*ListFunc) (Listing *listing, GError **error);

static gboolean
run_list (KwCli *cli, ListFunc list, const char *nothing, GError **error)
{
  g_auto (Listing) listing = { .bus = kw_cli_bus_open (cli, error), .advice = g_string_new (NULL) };

  if (listing.bus == NULL)
    return FALSE;
  if (cli->json)
    {
      listing.json = json_builder_new ();
      json_builder_begin_array (listing.json);
    }
  if (!list (&listing, error))
    return FALSE;
  if (!cli->json)
    return print_table (&listing, nothing, error);
  json_builder_end_array (listing.json);
  return kw_cli_output_json (listing.json, error);
}

gboolean
kw_cli_run_devices (KwCli *cli, char **arguments G_GNUC_UNUSED, GError **error)
{
  return run_list (cli, list_devices, "No device is there.\n", error);
}

gboolean
kw_cli_run_keys (KwCli *cli, char **arguments G_GNUC_UNUSED, GError **error)
{
  return run_list (cli, list_keys, "No key is known. hsm_keyid names those to encrypt with.\n",
                   error);
}

static gboolean
print_status_json (Listing *listing, GVariant *manager, GError **error)
{
  JsonBuilder *builder = listing->json;

  json_builder_begin_object (builder);
  add_members (builder, manager, manager_members, G_N_ELEMENTS (manager_members));
  json_builder_set_member_name (builder, "devices");
  json_builder_begin_array (builder);
  if (!list_devices (listing, error))
    return FALSE;
  json_builder_end_array (builder);
  json_builder_set_member_name (builder, "keys");
  json_builder_begin_array (builder);
  if (!list_keys (listing, error))
    return FALSE;
  json_builder_end_array (builder);
  json_builder_end_object (builder);
  return kw_cli_output_json (builder, error);
}

static gboolean
print_status (Listing *listing, GVariant *manager, GError **error)
{
  const char *state = kw_cli_bus_get_string (manager, "State");
  g_autofree char *word = kw_cli_translate_output (state);
  g_autofree char *coloured = kw_cli_colour (kw_cli_colour_of_state (state), word);
  g_autofree char *status = kw_cli_translate_output (kw_cli_bus_get_string (manager, "StatusText"));
  g_autofree char *text = kw_cli_wrap (status, 0);
  g_autofree char *head
      = g_strdup_printf ("keywardd %s: %s\n%s", kw_cli_bus_get_string (manager, "Version"),
                         coloured, *text == '\n' ? "" : text);

  if (!kw_cli_output_text (head, error) || !list_devices (listing, error))
    return FALSE;
  if (listing->n_objects > 0
      && (!kw_cli_output_text ("\n", error) || !print_table (listing, "", error)))
    return FALSE;

  g_clear_pointer (&listing->table, kw_cli_table_free);
  g_string_truncate (listing->advice, 0);
  listing->n_objects = 0;
  if (!list_keys (listing, error))
    return FALSE;
  return listing->n_objects == 0
         || (kw_cli_output_text ("\n", error) && print_table (listing, "", error));
}

gboolean
kw_cli_run_status (KwCli *cli, char **arguments G_GNUC_UNUSED, GError **error)
{
  g_auto (Listing) listing = { .bus = kw_cli_bus_open (cli, error), .advice = g_string_new (NULL) };
  g_autoptr (GVariant) manager = NULL;
  gboolean printed;

  cli->exit_status = EXIT_DOWN;
  if (listing.bus == NULL)
    return FALSE;
  manager = kw_cli_bus_get_manager (listing.bus, error);
  if (manager == NULL)
    return FALSE;
  if (cli->json)
    {
      listing.json = json_builder_new ();
      printed = print_status_json (&listing, manager, error);
    }
  else
    {
      printed = print_status (&listing, manager, error);
    }
  if (!printed)
    return FALSE;
  if (g_str_equal (kw_cli_bus_get_string (manager, "State"), "ready"))
    cli->exit_status = EXIT_SUCCESS;
  else if (kw_cli_bus_get_boolean (manager, "Operational"))
    cli->exit_status = EXIT_DEGRADED;
  return TRUE;
}
