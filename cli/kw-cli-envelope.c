/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-envelope"

#include "config.h"

#include "kw-bus-names.h"
#include "kw-cli-bus.h"
#include "kw-cli-commands.h"
#include "kw-cli-output.h"
#include "kw-envelope.h"
#include "kw-error.h"
#include "kw-limits.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gi18n.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

/*
 * encrypt, decrypt, rewrap, random and keys generate: work that the running daemon does.
 */

/* The daemon has a limit of its own, which may be lower. */
#define MAX_FILE_BYTES ((gsize) 64 * 1024 * 1024)
#define FIRST_BUFFER_BYTES 65536

static int
open_input (const char *path, GError **error)
{
  int fd;

  if (path == NULL || g_str_equal (path, "-"))
    return dup (STDIN_FILENO);
  fd = g_open (path, O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0)
    {
      int saved_errno = errno;

      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "Cannot read %s: %s", path,
                   g_strerror (saved_errno));
    }
  return fd;
}

static KwSecret *
grow (KwSecret *taken, GError **error)
{
  g_autoptr (KwSecret) old = taken;
  KwSecret *larger = kw_secret_new_unlocked (kw_secret_get_size (old) * 2, error);

  if (larger != NULL)
    memcpy (kw_secret_get_data (larger), kw_secret_get_data (old), kw_secret_get_size (old));
  return larger;
}

/* Reads a file, or standard input, to its end, into memory that is wiped. */
static KwSecret *
read_input (const char *path, GError **error)
{
  g_autoptr (KwSecret) content = NULL;
  int fd = open_input (path, error);
  gsize size = 0;
  gssize n;

  if (fd < 0)
    return NULL;
  content = kw_secret_new_unlocked (FIRST_BUFFER_BYTES, error);
  while (content != NULL)
    {
      n = read (fd, kw_secret_get_data (content) + size, kw_secret_get_size (content) - size);
      if (n < 0 && errno == EINTR)
        continue;
      if (n <= 0)
        break;
      size += (gsize) n;
      if (size > MAX_FILE_BYTES)
        {
          g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                       "The input is larger than %u MiB", (guint) (MAX_FILE_BYTES >> 20));
          close (fd);
          return NULL;
        }
      if (size == kw_secret_get_size (content))
        content = grow (g_steal_pointer (&content), error);
    }
  if (content != NULL && n < 0)
    {
      int saved_errno = errno;

      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "Cannot read %s: %s",
                   path != NULL ? path : "standard input", g_strerror (saved_errno));
      g_clear_pointer (&content, kw_secret_unref);
    }
  close (fd);
  if (content != NULL)
    kw_secret_truncate (content, size);
  return g_steal_pointer (&content);
}

static GVariant *
new_bytes (KwSecret *secret)
{
  return g_variant_new_from_data (G_VARIANT_TYPE_BYTESTRING, kw_secret_get_data (secret),
                                  kw_secret_get_size (secret), TRUE,
                                  (GDestroyNotify) kw_secret_unref, kw_secret_ref (secret));
}

static GVariant *
new_options (KwCli *cli)
{
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE_VARDICT);
  if (cli->associated_data != NULL)
    g_variant_builder_add (&builder, "{sv}", KW_BUS_OPTION_ASSOCIATED_DATA,
                           g_variant_new_fixed_array (G_VARIANT_TYPE_BYTE, cli->associated_data,
                                                      strlen (cli->associated_data), 1));
  if (cli->key != NULL)
    g_variant_builder_add (&builder, "{sv}", KW_BUS_OPTION_KEY, g_variant_new_string (cli->key));
  return g_variant_builder_end (&builder);
}

/* An envelope as text may have a line feed behind it, as files and terminals do. */
static void
trim_text (KwSecret *input)
{
  const guint8 *data = kw_secret_get_data (input);
  gsize size = kw_secret_get_size (input);

  if (size < strlen (KW_ENVELOPE_TEXT_PREFIX))
    return;
  /* lint: allow secret-compare — an envelope is no secret */
  if (memcmp (data, KW_ENVELOPE_TEXT_PREFIX, strlen (KW_ENVELOPE_TEXT_PREFIX)) != 0)
    return;
  while (g_ascii_isspace ((char) data[size - 1]))
    size--;
  kw_secret_truncate (input, size);
}

/* Sends what stands in a file to a method that gives bytes and facts. */
static GVariant *
call_with_input (KwCli *cli,
                 const char *path,
                 const char *method,
                 gboolean is_envelope,
                 GError **error)
{
  g_autoptr (GDBusConnection) bus = kw_cli_bus_open (cli, error);
  g_autoptr (KwSecret) input = bus != NULL ? read_input (path, error) : NULL;

  if (input == NULL)
    return NULL;
  if (is_envelope)
    trim_text (input);
  return kw_cli_bus_call (bus, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, method,
                          g_variant_new ("(@ay@a{sv})", new_bytes (input), new_options (cli)),
                          "(aya{sv})", error);
}

static void
add_facts (JsonBuilder *builder, GVariant *facts)
{
  GVariantIter iter;
  const char *name;
  GVariant *value;

  g_variant_iter_init (&iter, facts);
  while (g_variant_iter_next (&iter, "{&sv}", &name, &value))
    {
      json_builder_set_member_name (builder, name);
      if (g_variant_is_of_type (value, G_VARIANT_TYPE_STRING))
        json_builder_add_string_value (builder, g_variant_get_string (value, NULL));
      else if (g_variant_is_of_type (value, G_VARIANT_TYPE_BOOLEAN))
        json_builder_add_boolean_value (builder, g_variant_get_boolean (value));
      else
        json_builder_add_null_value (builder);
      g_variant_unref (value);
    }
}

/* An envelope is no secret. As text it ends with a line feed, as bytes with its last byte. */
static gboolean
print_envelope (KwCli *cli, GVariant *reply, GError **error)
{
  g_autoptr (GVariant) bytes = g_variant_get_child_value (reply, 0);
  g_autoptr (GVariant) facts = g_variant_get_child_value (reply, 1);
  g_autoptr (GBytes) envelope = g_variant_get_data_as_bytes (bytes);
  g_autofree char *text = NULL;
  g_autofree char *line = NULL;

  if (cli->binary)
    return kw_cli_output_bytes (g_bytes_get_data (envelope, NULL), g_bytes_get_size (envelope),
                                error);
  text = kw_envelope_to_text (envelope);
  if (cli->json)
    {
      g_autoptr (JsonBuilder) builder = json_builder_new ();

      json_builder_begin_object (builder);
      kw_cli_json_add_string (builder, "ciphertext", text);
      add_facts (builder, facts);
      json_builder_end_object (builder);
      return kw_cli_output_json (builder, error);
    }
  line = g_strconcat (text, "\n", NULL);
  return kw_cli_output_text (line, error);
}

static gboolean
check_options (KwCli *cli, GError **error)
{
  if (cli->stream && (cli->json || cli->binary))
    {
      kw_cli_set_usage_error (error, "--stream excludes --json and --binary");
      return FALSE;
    }
  if (!cli->stream && cli->output != NULL)
    {
      kw_cli_set_usage_error (error, "--output goes with --stream");
      return FALSE;
    }
  if (!cli->json || !cli->binary)
    return TRUE;
  kw_cli_set_usage_error (error, "--json and --binary exclude each other");
  return FALSE;
}

static void
add_stream_options (KwCli *cli, GOptionContext *context)
{
  const GOptionEntry entries[] = {
    { "stream", 0, 0, G_OPTION_ARG_NONE, &cli->stream,
      N_ ("For large input: any size, a chunk at a time, from FILE to --output"), NULL },
    { "output", 0, 0, G_OPTION_ARG_FILENAME, &cli->output,
      N_ ("With --stream: write to this file, not to standard output"), "FILE" },
    G_OPTION_ENTRY_NULL,
  };

  g_option_context_add_main_entries (context, entries, GETTEXT_PACKAGE);
}

void
kw_cli_add_encrypt_options (KwCli *cli, GOptionContext *context)
{
  const GOptionEntry entries[] = {
    { "key", 0, 0, G_OPTION_ARG_STRING, &cli->key,
      N_ ("Encrypt under this entry of hsm_keyid, not the first"), "KEY" },
    G_OPTION_ENTRY_NULL,
  };

  kw_cli_add_envelope_options (cli, context);
  g_option_context_add_main_entries (context, entries, GETTEXT_PACKAGE);
  add_stream_options (cli, context);
}

void
kw_cli_add_envelope_options (KwCli *cli, GOptionContext *context)
{
  const GOptionEntry entries[] = {
    { "associated-data", 0, 0, G_OPTION_ARG_STRING, &cli->associated_data,
      N_ ("Bind the message to this; it is needed again to decrypt"), "TEXT" },
    { "binary", 0, 0, G_OPTION_ARG_NONE, &cli->binary, N_ ("Print bytes, not text"), NULL },
    G_OPTION_ENTRY_NULL,
  };

  g_option_context_add_main_entries (context, entries, GETTEXT_PACKAGE);
}

void
kw_cli_add_decrypt_options (KwCli *cli, GOptionContext *context)
{
  const GOptionEntry entries[] = {
    { "associated-data", 0, 0, G_OPTION_ARG_STRING, &cli->associated_data,
      N_ ("What the message was bound to"), "TEXT" },
    G_OPTION_ENTRY_NULL,
  };

  g_option_context_add_main_entries (context, entries, GETTEXT_PACKAGE);
  add_stream_options (cli, context);
}

gboolean
kw_cli_run_seal (KwCli *cli, char **arguments, GError **error)
{
  g_autoptr (GVariant) reply = NULL;

  if (!check_options (cli, error))
    return FALSE;
  if (cli->stream)
    return kw_cli_stream (cli, "EncryptFile", arguments[0], new_options (cli), error);
  reply = call_with_input (cli, arguments[0], "Encrypt", FALSE, error);
  return reply != NULL && print_envelope (cli, reply, error);
}

static KwSecret *
take_plaintext (GVariant *reply, GError **error)
{
  g_autoptr (GVariant) bytes = g_variant_get_child_value (reply, 0);
  KwSecret *secret = kw_secret_new_unlocked (g_variant_get_size (bytes), error);

  if (secret != NULL && g_variant_get_size (bytes) > 0)
    memcpy (kw_secret_get_data (secret), g_variant_get_data (bytes), g_variant_get_size (bytes));
  return secret;
}

gboolean
kw_cli_run_open (KwCli *cli, char **arguments, GError **error)
{
  g_autoptr (GVariant) reply = NULL;
  g_autoptr (KwSecret) plaintext = NULL;
  g_autoptr (KwSecret) text = NULL;

  if (!check_options (cli, error))
    return FALSE;
  if (cli->stream)
    return kw_cli_stream (cli, "DecryptFile", arguments[0], new_options (cli), error);
  reply = call_with_input (cli, arguments[0], "Decrypt", TRUE, error);
  plaintext = reply != NULL ? take_plaintext (reply, error) : NULL;

  if (plaintext == NULL)
    return FALSE;
  if (!cli->json)
    return kw_cli_output_secret ("", plaintext, "", error);
  text = kw_cli_encode_base64 (kw_secret_get_data (plaintext), kw_secret_get_size (plaintext),
                               error);
  return text != NULL && kw_cli_output_secret ("{\n  \"plaintext\" : \"", text, "\"\n}\n", error);
}

gboolean
kw_cli_run_rewrap (KwCli *cli, char **arguments, GError **error)
{
  g_autoptr (GVariant) reply = NULL;
  g_autoptr (GVariant) facts = NULL;
  gboolean changed = FALSE;

  if (!check_options (cli, error))
    return FALSE;
  reply = call_with_input (cli, arguments[0], "Rewrap", TRUE, error);
  if (reply == NULL || !print_envelope (cli, reply, error))
    return FALSE;
  facts = g_variant_get_child_value (reply, 1);
  (void) g_variant_lookup (facts, KW_BUS_FACT_CHANGED, "b", &changed);
  if (!changed && !cli->json)
    kw_cli_add_notice (cli, "It is under the first key already; nothing had to change");
  return TRUE;
}

gboolean
kw_cli_run_random (KwCli *cli, char **arguments, GError **error)
{
  g_autoptr (GDBusConnection) bus = NULL;
  g_autoptr (GVariant) reply = NULL;
  g_autoptr (KwSecret) bytes = NULL;
  g_autoptr (KwSecret) text = NULL;
  guint64 size;

  if (!check_options (cli, error))
    return FALSE;
  if (!g_ascii_string_to_unsigned (arguments[0], 10, 1, G_MAXUINT32, &size, NULL))
    {
      kw_cli_set_usage_error (error, "BYTES is a number, 1 or more");
      return FALSE;
    }
  bus = kw_cli_bus_open (cli, error);
  if (bus == NULL)
    return FALSE;
  reply = kw_cli_bus_call (bus, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Random",
                           g_variant_new ("(u)", (guint32) size), "(ay)", error);
  bytes = reply != NULL ? take_plaintext (reply, error) : NULL;
  if (bytes == NULL)
    return FALSE;
  if (cli->binary)
    return kw_cli_output_secret ("", bytes, "", error);
  text = kw_cli_encode_base64 (kw_secret_get_data (bytes), kw_secret_get_size (bytes), error);
  return text != NULL
         && kw_cli_output_secret (cli->json ? "{\n  \"random\" : \"" : "", text,
                                  cli->json ? "\"\n}\n" : "\n", error);
}

void
kw_cli_add_random_options (KwCli *cli, GOptionContext *context)
{
  const GOptionEntry entries[] = {
    { "binary", 0, 0, G_OPTION_ARG_NONE, &cli->binary, N_ ("Print bytes, not base64"), NULL },
    G_OPTION_ENTRY_NULL,
  };

  g_option_context_add_main_entries (context, entries, GETTEXT_PACKAGE);
}

void
kw_cli_add_generate_options (KwCli *cli, GOptionContext *context)
{
  const GOptionEntry entries[] = {
    { "kind", 0, 0, G_OPTION_ARG_STRING, &cli->kind, N_ ("aes256, rsa2048, rsa3072 or rsa4096"),
      "KIND" },
    { "label", 0, 0, G_OPTION_ARG_STRING, &cli->label, N_ ("Label of the key"), "LABEL" },
    G_OPTION_ENTRY_NULL,
  };

  g_option_context_add_main_entries (context, entries, GETTEXT_PACKAGE);
}

gboolean
kw_cli_run_keys_generate (KwCli *cli, char **arguments G_GNUC_UNUSED, GError **error)
{
  g_autoptr (GDBusConnection) bus = NULL;
  g_autoptr (GVariant) reply = NULL;
  g_autoptr (GVariant) facts = NULL;
  g_autofree char *line = NULL;
  const char *id;

  if (cli->kind == NULL || cli->label == NULL)
    {
      kw_cli_set_usage_error (error, "--kind and --label are needed");
      return FALSE;
    }
  bus = kw_cli_bus_open (cli, error);
  if (bus == NULL)
    return FALSE;
  reply = kw_cli_bus_call (bus, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "GenerateKey",
                           g_variant_new ("(ssa{sv})", cli->kind, cli->label, NULL), "(sa{sv})",
                           error);
  if (reply == NULL)
    return FALSE;
  g_variant_get (reply, "(&s@a{sv})", &id, &facts);
  if (cli->json)
    {
      g_autoptr (JsonBuilder) builder = json_builder_new ();

      json_builder_begin_object (builder);
      kw_cli_json_add_string (builder, "id", id);
      kw_cli_json_add_string (builder, "kind", cli->kind);
      kw_cli_json_add_string (builder, "label", cli->label);
      add_facts (builder, facts);
      json_builder_end_object (builder);
      return kw_cli_output_json (builder, error);
    }
  line = g_strdup_printf ("%s\n", id);
  if (g_str_has_prefix (id, "id:"))
    kw_cli_add_notice (cli, "To encrypt with it, name it in hsm_keyid: \"%s\"", id);
  return kw_cli_output_text (line, error);
}
