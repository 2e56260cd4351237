/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-config"

#include "config.h"

#include "kw-config.h"

#include "kw-error.h"
#include "kw-grant.h"
#include "kw-limits.h"
#include "kw-log.h"
#include "kw-names.h"
#include "kw-toml.h"
#include "kw-uuid.h"
#include "kw-webadm-conf.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gi18n.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/*
 * The configuration: one TOML file, a superset of hsmdaemon.toml, read and checked as a whole at start and immutable
 * afterwards. Each key has one row in a table that says where it stands, what it may be, and where its value goes; an
 * unknown key, a wrong type and a value out of range are errors with file, line, key and, where one is near, the name that
 * was perhaps meant.
 *
 * A PIN or secret given as file: or credential: is read by kw_config_load_secrets(), so that commands which need neither
 * run for people who may not read them.
 */
struct _KwConfig
{
  GObject parent_instance;

  char *path; /* owned; NULL for the defaults */
  KwLogConfig log;
  char *audit_path; /* owned; NULL = journal or state directory */
  KwServerConfig server;
  KwJwtConfig jwt;
  char *jwt_secret_source; /* owned; "file:…" or "credential:…" */
  GPtrArray *pkcs11;       /* owned; of KwPkcs11Config; at least one */
  KwPkcs11Config *current; /* borrowed: the one whose lines are being read */
  KwHsmConfig hsm;
  gboolean has_model;
  gboolean has_encrypt;
  gboolean has_smartcard; /* the table is there */
  char *hsm_pin_source;   /* owned; like jwt_secret_source */
  KwSmartcardConfig smartcard;
  KwLineConfig line;
  GPtrArray *access;  /* owned; of KwAccessRule */
  KwAccessRule *rule; /* borrowed: the one whose lines are being read */
  KwWebuiConfig webui;
  GPtrArray *clients;        /* owned; of KwApiClientConfig */
  KwApiClientConfig *client; /* borrowed: the one whose lines are being read */
  char *state_directory;
  gboolean adapted; /* to the system or the command line: limits of connections, module */
  gboolean has_literal_secret; /* the file itself holds a PIN or secret */
};

G_DEFINE_FINAL_TYPE (KwConfig, kw_config, G_TYPE_OBJECT)

#define MAX_SUGGESTION_DISTANCE 3
#define MAX_TIMEOUT_SECONDS 3600
#define MAX_CHECK_SECONDS 86400
#define TABLE_PKCS11 "pkcs11"
#define TABLE_HSM "hsm"
#define TABLE_ACCESS "access"
#define TABLE_API "api"
#define TABLE_API_CLIENT "api.client"
#define MAX_CLIENT_NAME_BYTES 64
#define PIN_NAME_PKCS11 "[pkcs11] pin"
#define PIN_NAME_HSM "[hsm] hsm_pin"
#define KEY_ID_SEPARATORS " ,\t"
#define DEFAULT_MAX_PLAINTEXT (16 * 1024 * 1024)
#define SECRET_PREFIX_FILE "file:"
#define SECRET_PREFIX_CREDENTIAL "credential:"

typedef struct _KwConfigRow KwConfigRow;

/* Stores one value; on a bad one sets an error whose message goes on after "FILE:LINE: [table] key". */
typedef gboolean (*KwConfigSetter) (KwConfig *self,
                                    const KwConfigRow *row,
                                    const KwTomlEntry *entry,
                                    GError **error);

struct _KwConfigRow
{
  const char *table;
  const char *key;
  KwConfigSetter set;
  gsize offset;
  gint64 minimum;
  gint64 maximum;
};

static gboolean
wrong_type (const char *wanted, GError **error)
{
  g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "must be %s", wanted);
  return FALSE;
}

static gpointer
row_field (KwConfig *self, const KwConfigRow *row)
{
  if (g_str_equal (row->table, TABLE_PKCS11))
    return (guint8 *) self->current + row->offset;
  return (guint8 *) self + row->offset;
}

static gboolean
set_string (KwConfig *self, const KwConfigRow *row, const KwTomlEntry *entry, GError **error)
{
  char **field = row_field (self, row);

  if (entry->type != KW_TOML_STRING)
    return wrong_type ("a string in quotes", error);
  if (entry->string[0] == '\0')
    return wrong_type ("a string that is not empty", error);
  g_free (*field);
  *field = g_strdup (entry->string);
  return TRUE;
}

static gboolean
set_path (KwConfig *self, const KwConfigRow *row, const KwTomlEntry *entry, GError **error)
{
  if (entry->type != KW_TOML_STRING || !g_path_is_absolute (entry->string))
    return wrong_type ("an absolute path in quotes", error);
  return set_string (self, row, entry, error);
}

static gboolean
set_socket_path (KwConfig *self, const KwConfigRow *row, const KwTomlEntry *entry, GError **error)
{
  if (!set_path (self, row, entry, error))
    return FALSE;
  if (strlen (entry->string) >= sizeof ((struct sockaddr_un *) NULL)->sun_path)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                   "is too long: a socket's path has at most %" G_GSIZE_FORMAT " bytes",
                   sizeof ((struct sockaddr_un *) NULL)->sun_path - 1);
      return FALSE;
    }
  return TRUE;
}

static gboolean
read_integer (const KwConfigRow *row, const KwTomlEntry *entry, gint64 *out_value, GError **error)
{
  if (entry->type != KW_TOML_INTEGER || entry->integer < row->minimum
      || entry->integer > row->maximum)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                   "must be a whole number from %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT,
                   row->minimum, row->maximum);
      return FALSE;
    }
  *out_value = entry->integer;
  return TRUE;
}

static gboolean
set_uint (KwConfig *self, const KwConfigRow *row, const KwTomlEntry *entry, GError **error)
{
  guint *field = row_field (self, row);
  gint64 value = 0;

  if (!read_integer (row, entry, &value, error))
    return FALSE;
  *field = (guint) value;
  return TRUE;
}

static gboolean
set_size (KwConfig *self, const KwConfigRow *row, const KwTomlEntry *entry, GError **error)
{
  gsize *field = row_field (self, row);
  gint64 value = 0;

  if (!read_integer (row, entry, &value, error))
    return FALSE;
  *field = (gsize) value;
  return TRUE;
}

static gboolean
set_port (KwConfig *self, const KwConfigRow *row, const KwTomlEntry *entry, GError **error)
{
  guint16 *field = row_field (self, row);
  gint64 value = 0;

  if (!read_integer (row, entry, &value, error))
    return FALSE;
  *field = (guint16) value;
  return TRUE;
}

static gboolean
set_boolean (KwConfig *self, const KwConfigRow *row, const KwTomlEntry *entry, GError **error)
{
  gboolean *field = row_field (self, row);

  if (entry->type != KW_TOML_BOOLEAN)
    return wrong_type ("true or false", error);
  *field = entry->boolean;
  return TRUE;
}

static gboolean
set_log_level (KwConfig *self,
               const KwConfigRow *row G_GNUC_UNUSED,
               const KwTomlEntry *entry,
               GError **error)
{
  if (entry->type != KW_TOML_STRING || !kw_log_level_from_string (entry->string, &self->log.level))
    return wrong_type ("\"debug\", \"info\", \"warn\", \"error\", \"panic\" or \"fatal\"", error);
  return TRUE;
}

static gboolean
set_log_path (KwConfig *self, const KwConfigRow *row, const KwTomlEntry *entry, GError **error)
{
  char **field = row_field (self, row);
  g_autofree char *path = NULL;

  if (entry->type == KW_TOML_STRING && g_str_has_prefix (entry->string, "file:"))
    path = g_filename_from_uri (entry->string, NULL, NULL);
  else if (entry->type == KW_TOML_STRING)
    path = g_strdup (entry->string);
  if (path == NULL
      || !(g_path_is_absolute (path) || g_str_equal (path, "stderr")
           || g_str_equal (path, row->offset == G_STRUCT_OFFSET (KwConfig, log.path) ? "stdout"
                                                                                     : "journal")))
    return wrong_type (row->offset == G_STRUCT_OFFSET (KwConfig, log.path)
                           ? "\"stderr\", \"stdout\", an absolute path or a file:// URI"
                           : "\"journal\", \"stderr\", an absolute path or a file:// URI",
                       error);
  g_free (*field);
  *field = g_steal_pointer (&path);
  return TRUE;
}

static gboolean
set_log_encoding (KwConfig *self,
                  const KwConfigRow *row G_GNUC_UNUSED,
                  const KwTomlEntry *entry,
                  GError **error)
{
  if (entry->type == KW_TOML_STRING && g_str_equal (entry->string, "json"))
    self->log.encoding = KW_LOG_ENCODING_JSON;
  else if (entry->type == KW_TOML_STRING && g_str_equal (entry->string, "console"))
    self->log.encoding = KW_LOG_ENCODING_CONSOLE;
  else
    return wrong_type ("\"json\" or \"console\"", error);
  return TRUE;
}

static gboolean
set_slot (KwConfig *self,
          const KwConfigRow *row G_GNUC_UNUSED,
          const KwTomlEntry *entry,
          GError **error)
{
  if (entry->type == KW_TOML_INTEGER && entry->integer >= 0)
    self->current->slot = (guint64) entry->integer;
  else if (entry->type != KW_TOML_STRING
           || !g_ascii_string_to_unsigned (entry->string, 10, 0, G_MAXUINT64, &self->current->slot,
                                           NULL))
    return wrong_type ("a slot id as `listslots` prints it: a decimal number", error);
  self->current->has_slot = TRUE;
  return TRUE;
}

/* Takes a PIN or secret, or the place where it is kept. */
static gboolean
read_secret (KwConfig *self,
             const KwTomlEntry *entry,
             gsize max_size,
             KwSecret **out_secret,
             char **out_source,
             GError **error)
{
  if (entry->type == KW_TOML_INTEGER)
    return wrong_type ("in quotes: as a bare number it would lose its leading zeros", error);
  if (entry->type != KW_TOML_STRING)
    return wrong_type ("a string in quotes", error);
  if (entry->string[0] == '\0')
    return TRUE;
  if (g_str_has_prefix (entry->string, SECRET_PREFIX_FILE)
      && !g_path_is_absolute (entry->string + strlen (SECRET_PREFIX_FILE)))
    return wrong_type ("file: and an absolute path", error);
  if (g_str_has_prefix (entry->string, SECRET_PREFIX_CREDENTIAL)
      && (entry->string[strlen (SECRET_PREFIX_CREDENTIAL)] == '\0'
          || strchr (entry->string, '/') != NULL))
    return wrong_type ("credential: and the name of a systemd credential", error);
  if (g_str_has_prefix (entry->string, SECRET_PREFIX_FILE)
      || g_str_has_prefix (entry->string, SECRET_PREFIX_CREDENTIAL))
    {
      *out_source = g_strdup (entry->string);
      return TRUE;
    }
  if (strlen (entry->string) > max_size)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                   "is too long: at most %" G_GSIZE_FORMAT " bytes", max_size);
      return FALSE;
    }
  *out_secret = kw_secret_new_copy (entry->string, strlen (entry->string), error);
  self->has_literal_secret = TRUE;
  return *out_secret != NULL;
}

static gboolean
set_jwt_secret (KwConfig *self,
                const KwConfigRow *row G_GNUC_UNUSED,
                const KwTomlEntry *entry,
                GError **error)
{
  return read_secret (self, entry, KW_MAX_SECRET_BYTES, &self->jwt.secret, &self->jwt_secret_source,
                      error);
}

static gboolean
set_pin (KwConfig *self,
         const KwConfigRow *row G_GNUC_UNUSED,
         const KwTomlEntry *entry,
         GError **error)
{
  return read_secret (self, entry, KW_MAX_PIN_BYTES, &self->current->pin,
                      &self->current->pin_source, error);
}

static gboolean
set_line_key (KwConfig *self,
              const KwConfigRow *row G_GNUC_UNUSED,
              const KwTomlEntry *entry,
              GError **error)
{
  if (entry->type == KW_TOML_STRING)
    self->line.key = kw_uuid_to_bytes (entry->string, -1, NULL);
  if (self->line.key == NULL)
    return wrong_type ("the UUID of a key, as `genkey` prints it", error);
  return TRUE;
}

static gboolean
user_to_uid (const char *name, guint32 *out_uid)
{
  guint64 number = 0;
  struct passwd *user = NULL;

  if (g_ascii_string_to_unsigned (name, 10, 0, G_MAXUINT32 - 1, &number, NULL))
    {
      *out_uid = (guint32) number;
      return TRUE;
    }
  user = getpwnam (name);
  if (user == NULL)
    return FALSE;
  *out_uid = user->pw_uid;
  return TRUE;
}

static gboolean
set_allow_users (KwConfig *self,
                 const KwConfigRow *row G_GNUC_UNUSED,
                 const KwTomlEntry *entry,
                 GError **error)
{
  if (entry->type != KW_TOML_STRING_LIST)
    return wrong_type ("a list of user names or uids, such as [\"www-data\"]", error);
  self->line.allow_uids = g_array_new (FALSE, FALSE, sizeof (guint32));
  for (guint i = 0; entry->list[i] != NULL; i++)
    {
      guint32 uid = 0;

      if (!user_to_uid (entry->list[i], &uid))
        {
          g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "names no user of this system: %s",
                       entry->list[i]);
          return FALSE;
        }
      g_array_append_val (self->line.allow_uids, uid);
    }
  return TRUE;
}

static gboolean
set_token_url (KwConfig *self, const KwConfigRow *row, const KwTomlEntry *entry, GError **error)
{
  g_autoptr (GUri) uri = NULL;

  if (entry->type == KW_TOML_STRING)
    uri = g_uri_parse (entry->string, G_URI_FLAGS_NONE, NULL);
  if (uri == NULL || g_uri_get_host (uri) == NULL || g_uri_get_host (uri)[0] == '\0'
      || !(g_str_equal (g_uri_get_scheme (uri), "https")
           || g_str_equal (g_uri_get_scheme (uri), "http")))
    return wrong_type ("an http:// or https:// address", error);
  return set_string (self, row, entry, error);
}

/* As webadm.conf has it, and as TOML does. */
static gboolean
set_encrypt_hsm (KwConfig *self,
                 const KwConfigRow *row G_GNUC_UNUSED,
                 const KwTomlEntry *entry,
                 GError **error)
{
  if (entry->type == KW_TOML_BOOLEAN)
    self->hsm.encrypt_hsm = entry->boolean;
  else if (entry->type == KW_TOML_STRING && g_ascii_strcasecmp (entry->string, "yes") == 0)
    self->hsm.encrypt_hsm = TRUE;
  else if (entry->type == KW_TOML_STRING && g_ascii_strcasecmp (entry->string, "no") == 0)
    self->hsm.encrypt_hsm = FALSE;
  else
    return wrong_type ("true, false, \"Yes\" or \"No\"", error);
  self->has_encrypt = TRUE;
  return TRUE;
}

static gboolean
set_hsm_model (KwConfig *self,
               const KwConfigRow *row G_GNUC_UNUSED,
               const KwTomlEntry *entry,
               GError **error)
{
  g_autofree char *nick
      = entry->type == KW_TOML_STRING ? g_ascii_strdown (entry->string, -1) : NULL;

  if (nick == NULL || !kw_hsm_model_from_string (nick, &self->hsm.model))
    return wrong_type ("\"smartcard\", \"pkcs11\" or \"softhsm\"", error);
  self->has_model = TRUE;
  return TRUE;
}

static gboolean
add_key_id (KwConfig *self, const char *text, GError **error)
{
  g_autoptr (KwKeySelector) selector = kw_key_selector_new (text, error);

  if (selector == NULL)
    return FALSE;
  for (guint i = 0; i < self->hsm.key_ids->len; i++)
    {
      const KwKeySelector *before = g_ptr_array_index (self->hsm.key_ids, i);

      if (!g_str_equal (kw_key_selector_get_text (before), kw_key_selector_get_text (selector)))
        continue;
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "names a key twice: \"%s\"", text);
      return FALSE;
    }
  if (self->hsm.key_ids->len >= KW_MAX_CONFIGURED_KEYS)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "names more than %d keys",
                   KW_MAX_CONFIGURED_KEYS);
      return FALSE;
    }
  g_ptr_array_add (self->hsm.key_ids, g_steal_pointer (&selector));
  return TRUE;
}

/* A list, each entry as it stands; or one text, in which WebADM's users separate several by blanks or commas. */
static gboolean
set_hsm_keyid (KwConfig *self,
               const KwConfigRow *row G_GNUC_UNUSED,
               const KwTomlEntry *entry,
               GError **error)
{
  g_auto (GStrv) parts = NULL;

  if (entry->type == KW_TOML_INTEGER)
    {
      g_autofree char *number = g_strdup_printf ("%" G_GINT64_FORMAT, entry->integer);

      return add_key_id (self, number, error);
    }
  if (entry->type == KW_TOML_STRING)
    parts = g_strsplit_set (entry->string, KEY_ID_SEPARATORS, -1);
  else if (entry->type == KW_TOML_STRING_LIST)
    parts = g_strdupv (entry->list);
  if (parts == NULL)
    return wrong_type ("a number, a string such as \"label:NAME\", or a list of them", error);
  for (guint i = 0; parts[i] != NULL; i++)
    {
      if ((parts[i][0] != '\0' || entry->type == KW_TOML_STRING_LIST)
          && !add_key_id (self, parts[i], error))
        return FALSE;
    }
  if (self->hsm.key_ids->len == 0)
    return wrong_type ("at least one key", error);
  return TRUE;
}

static gboolean
set_hsm_pin (KwConfig *self,
             const KwConfigRow *row G_GNUC_UNUSED,
             const KwTomlEntry *entry,
             GError **error)
{
  return read_secret (self, entry, KW_MAX_PIN_BYTES, &self->hsm.pin, &self->hsm_pin_source, error);
}

static gboolean
set_readers (KwConfig *self, const KwConfigRow *row, const KwTomlEntry *entry, GError **error)
{
  GStrv *field = row_field (self, row);
  gboolean good = entry->type == KW_TOML_STRING_LIST && entry->list[0] != NULL;

  for (guint i = 0; good && entry->list[i] != NULL; i++)
    good = entry->list[i][0] != '\0';
  if (!good)
    return wrong_type ("a list of names of readers, in which * and ? may stand for others", error);
  *field = g_strdupv (entry->list);
  return TRUE;
}

static gboolean
group_to_gid (const char *name, guint32 *out_gid)
{
  guint64 number = 0;
  struct group *group = NULL;

  if (g_ascii_string_to_unsigned (name, 10, 0, G_MAXUINT32 - 1, &number, NULL))
    {
      *out_gid = (guint32) number;
      return TRUE;
    }
  group = getgrnam (name);
  if (group == NULL)
    return FALSE;
  *out_gid = group->gr_gid;
  return TRUE;
}

static gboolean
set_access_who (KwConfig *self, const KwConfigRow *row, const KwTomlEntry *entry, GError **error)
{
  gboolean is_user = g_str_equal (row->key, "user");

  if (entry->type != KW_TOML_STRING)
    return wrong_type (is_user ? "the name of a user, in quotes" : "the name of a group, in quotes",
                       error);
  if (self->rule->has_who)
    return wrong_type ("alone: a table [[access]] is for one user or for one group", error);
  if (!(is_user ? user_to_uid (entry->string, &self->rule->id)
                : group_to_gid (entry->string, &self->rule->id)))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "names no %s of this system: %s",
                   is_user ? N_ ("user") : N_ ("group"), entry->string);
      return FALSE;
    }
  self->rule->is_user = is_user;
  self->rule->has_who = TRUE;
  return TRUE;
}

static gboolean
read_verbs (const KwTomlEntry *entry, gboolean may_be_empty, guint *out_classes, GError **error)
{
  guint classes = 0;

  if (entry->type != KW_TOML_STRING_LIST || (entry->list[0] == NULL && !may_be_empty))
    return wrong_type ("a list such as [\"use-keys\", \"test\"]", error);
  for (guint i = 0; entry->list[i] != NULL; i++)
    {
      KwVerbClass verb_class = KW_VERB_CLASS_USE_KEYS;

      if (!kw_verb_class_from_string (entry->list[i], &verb_class))
        {
          g_set_error (
              error, KW_ERROR, KW_ERROR_CONFIG,
              "has an unknown verb \"%s\"; there are use-keys, test, manage-devices, manage-keys and unlock",
              entry->list[i]);
          return FALSE;
        }
      classes |= 1u << verb_class;
    }
  *out_classes = classes;
  return TRUE;
}

static gboolean
read_keys (const KwTomlEntry *entry, GStrv *out_keys, GError **error)
{
  if (entry->type != KW_TOML_STRING_LIST || entry->list[0] == NULL)
    return wrong_type ("a list of entries of hsm_keyid and of UUIDs, such as [\"0\"]", error);
  g_strfreev (*out_keys);
  *out_keys = g_strdupv (entry->list);
  return TRUE;
}

static gboolean
set_access_verbs (KwConfig *self,
                  const KwConfigRow *row G_GNUC_UNUSED,
                  const KwTomlEntry *entry,
                  GError **error)
{
  return read_verbs (entry, FALSE, &self->rule->classes, error);
}

static gboolean
set_access_keys (KwConfig *self,
                 const KwConfigRow *row G_GNUC_UNUSED,
                 const KwTomlEntry *entry,
                 GError **error)
{
  return read_keys (entry, &self->rule->keys, error);
}

static gboolean
set_webui_hosts (KwConfig *self,
                 const KwConfigRow *row G_GNUC_UNUSED,
                 const KwTomlEntry *entry,
                 GError **error)
{
  if (entry->type != KW_TOML_STRING_LIST)
    return wrong_type ("a list of names, such as [\"keys.example.org\"]", error);
  for (guint i = 0; entry->list[i] != NULL; i++)
    {
      if (entry->list[i][0] == '\0' || strpbrk (entry->list[i], ":/ ") != NULL)
        return wrong_type ("a list of names without port or scheme, such as [\"keys.example.org\"]",
                           error);
    }
  self->webui.hosts = g_strdupv (entry->list);
  return TRUE;
}

static gboolean
set_client_name (KwConfig *self,
                 const KwConfigRow *row G_GNUC_UNUSED,
                 const KwTomlEntry *entry,
                 GError **error)
{
  if (entry->type != KW_TOML_STRING || entry->string[0] == '\0'
      || strlen (entry->string) > MAX_CLIENT_NAME_BYTES)
    return wrong_type ("a name in quotes, of 64 bytes at most", error);
  self->client->name = g_strdup (entry->string);
  return TRUE;
}

static gboolean
set_client_secret (KwConfig *self,
                   const KwConfigRow *row G_GNUC_UNUSED,
                   const KwTomlEntry *entry,
                   GError **error)
{
  return read_secret (self, entry, KW_MAX_SECRET_BYTES, &self->client->secret,
                      &self->client->secret_source, error);
}

static gboolean
set_client_verbs (KwConfig *self,
                  const KwConfigRow *row G_GNUC_UNUSED,
                  const KwTomlEntry *entry,
                  GError **error)
{
  self->client->has_verbs = TRUE;
  return read_verbs (entry, TRUE, &self->client->classes, error);
}

static gboolean
set_client_keys (KwConfig *self,
                 const KwConfigRow *row G_GNUC_UNUSED,
                 const KwTomlEntry *entry,
                 GError **error)
{
  return read_keys (entry, &self->client->keys, error);
}

#define FIELD(member) G_STRUCT_OFFSET (KwConfig, member)
#define PKCS11_FIELD(member) G_STRUCT_OFFSET (KwPkcs11Config, member)

static const KwConfigRow config_rows[] = {
  { "logger", "level", set_log_level, 0, 0, 0 },
  { "logger", "path", set_log_path, FIELD (log.path), 0, 0 },
  { "logger", "encoding", set_log_encoding, 0, 0, 0 },
  { "audit", "path", set_log_path, FIELD (audit_path), 0, 0 },
  { "server", "hostname", set_string, FIELD (server.hostname), 0, 0 },
  { "server", "port", set_port, FIELD (server.port), 1, G_MAXUINT16 },
  { "server", "socket", set_socket_path, FIELD (server.socket), 0, 0 },
  { "server", "tls_certificate", set_path, FIELD (server.tls_certificate), 0, 0 },
  { "server", "tls_key", set_path, FIELD (server.tls_key), 0, 0 },
  { "server", "max_connections", set_uint, FIELD (server.max_connections), 1, 65536 },
  { "server", "header_timeout", set_uint, FIELD (server.header_timeout), 1, MAX_TIMEOUT_SECONDS },
  { "server", "body_timeout", set_uint, FIELD (server.body_timeout), 1, MAX_TIMEOUT_SECONDS },
  { "server", "idle_timeout", set_uint, FIELD (server.idle_timeout), 1, MAX_TIMEOUT_SECONDS },
  { "server", "failed_decrypts", set_uint, FIELD (server.failed_decrypts), 0, 1000000 },
  { "jwt", "secret", set_jwt_secret, 0, 0, 0 },
  { "jwt", "leeway", set_uint, FIELD (jwt.leeway), 0, MAX_TIMEOUT_SECONDS },
  { "pkcs11", "module", set_path, PKCS11_FIELD (module), 0, 0 },
  { "pkcs11", "pin", set_pin, 0, 0, 0 },
  { "pkcs11", "slot", set_slot, 0, 0, 0 },
  { "pkcs11", "token_label", set_string, PKCS11_FIELD (token_label), 0, 0 },
  { "pkcs11", "token_serial", set_string, PKCS11_FIELD (token_serial), 0, 0 },
  { "pkcs11", "uri", set_string, PKCS11_FIELD (uri), 0, 0 },
  { "pkcs11", "sessions", set_uint, PKCS11_FIELD (sessions), 1, KW_MAX_SESSIONS },
  { "pkcs11", "extractable", set_boolean, PKCS11_FIELD (extractable), 0, 0 },
  { "pkcs11", "timeout", set_uint, PKCS11_FIELD (timeout), 1, MAX_TIMEOUT_SECONDS },
  { "hsm", "encrypt_hsm", set_encrypt_hsm, 0, 0, 0 },
  { "hsm", "hsm_model", set_hsm_model, 0, 0, 0 },
  { "hsm", "hsm_keyid", set_hsm_keyid, 0, 0, 0 },
  { "hsm", "hsm_pin", set_hsm_pin, 0, 0, 0 },
  { "hsm", "webadm_conf", set_path, FIELD (hsm.webadm_conf), 0, 0 },
  { "hsm", "max_plaintext", set_size, FIELD (hsm.max_plaintext), 1, KW_MAX_PLAINTEXT_BYTES },
  { "hsm", "data_key_ttl", set_uint, FIELD (hsm.data_key_ttl), 0, KW_MAX_DATA_KEY_TTL_SECONDS },
  { "hsm", "min_copies", set_uint, FIELD (hsm.min_copies), 1, KW_MAX_COPIES },
  { "hsm", "check_interval", set_uint, FIELD (hsm.check_interval), 0, MAX_CHECK_SECONDS },
  { "hsm", "replicate", set_boolean, FIELD (hsm.replicate), 0, 0 },
  { "smartcard", "timeout", set_uint, FIELD (smartcard.timeout), 1, MAX_TIMEOUT_SECONDS },
  { "smartcard", "readers", set_readers, FIELD (smartcard.readers), 0, 0 },
  { "line", "socket", set_socket_path, FIELD (line.socket), 0, 0 },
  { "line", "hostname", set_string, FIELD (line.hostname), 0, 0 },
  { "line", "port", set_port, FIELD (line.port), 1, G_MAXUINT16 },
  { "line", "key", set_line_key, 0, 0, 0 },
  { "line", "allow_users", set_allow_users, 0, 0, 0 },
  { "line", "token_url", set_token_url, FIELD (line.token_url), 0, 0 },
  { "line", "token_file", set_path, FIELD (line.token_file), 0, 0 },
  { "line", "max_connections", set_uint, FIELD (line.max_connections), 1, 65536 },
  { "access", "user", set_access_who, 0, 0, 0 },
  { "access", "group", set_access_who, 0, 0, 0 },
  { "access", "verbs", set_access_verbs, 0, 0, 0 },
  { "access", "keys", set_access_keys, 0, 0, 0 },
  { "webui", "public_status", set_boolean, FIELD (webui.public_status), 0, 0 },
  { "webui", "hosts", set_webui_hosts, 0, 0, 0 },
  { TABLE_API_CLIENT, "name", set_client_name, 0, 0, 0 },
  { TABLE_API_CLIENT, "secret", set_client_secret, 0, 0, 0 },
  { TABLE_API_CLIENT, "verbs", set_client_verbs, 0, 0, 0 },
  { TABLE_API_CLIENT, "keys", set_client_keys, 0, 0, 0 },
  { "state", "directory", set_path, FIELD (state_directory), 0, 0 },
};

#undef FIELD
#undef PKCS11_FIELD

/* Levenshtein's distance between two short names. */
static guint
name_distance (const char *a, const char *b)
{
  gsize n_b = strlen (b);
  g_autofree guint *row = g_new (guint, n_b + 1);

  for (gsize j = 0; j <= n_b; j++)
    row[j] = (guint) j;
  for (gsize i = 0; a[i] != '\0'; i++)
    {
      guint diagonal = row[0];

      row[0] = (guint) i + 1;
      for (gsize j = 0; j < n_b; j++)
        {
          guint above = row[j + 1];

          row[j + 1] = MIN (MIN (above, row[j]) + 1, diagonal + (a[i] == b[j] ? 0 : 1));
          diagonal = above;
        }
    }
  return row[n_b];
}

static const char *
nearest_table (const char *name)
{
  const char *nearest = NULL;
  guint best = MAX_SUGGESTION_DISTANCE + 1;

  for (guint i = 0; i < G_N_ELEMENTS (config_rows); i++)
    {
      guint distance = name_distance (name, config_rows[i].table);

      if (distance < best)
        {
          best = distance;
          nearest = config_rows[i].table;
        }
    }
  return nearest;
}

/* The key that was perhaps meant: the one of this name in another table, else one of the same table that is like it. */
static const KwConfigRow *
nearest_row (const char *table, const char *key)
{
  const KwConfigRow *nearest = NULL;
  guint best = MAX_SUGGESTION_DISTANCE + 1;

  for (guint i = 0; i < G_N_ELEMENTS (config_rows); i++)
    {
      guint distance = name_distance (key, config_rows[i].key);

      if (distance == 0)
        return &config_rows[i];
      if (g_str_equal (config_rows[i].table, table) && distance < best)
        {
          best = distance;
          nearest = &config_rows[i];
        }
    }
  return nearest;
}

static gboolean
table_is_known (const char *table)
{
  for (guint i = 0; i < G_N_ELEMENTS (config_rows); i++)
    {
      if (g_str_equal (config_rows[i].table, table))
        return TRUE;
    }
  return FALSE;
}

static const KwConfigRow *
find_row (const char *table, const char *key)
{
  for (guint i = 0; i < G_N_ELEMENTS (config_rows); i++)
    {
      if (g_str_equal (config_rows[i].table, table) && g_str_equal (config_rows[i].key, key))
        return &config_rows[i];
    }
  return NULL;
}

static gboolean
refuse_unknown_key (const KwTomlEntry *entry, GError **error)
{
  const KwConfigRow *near = nearest_row (entry->table, entry->key);
  g_autofree char *where = entry->table[0] != '\0'
                               ? g_strdup_printf (" in table [%s]", entry->table)
                               : g_strdup (" outside any table");

  if (near != NULL && g_str_equal (near->table, entry->table))
    g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "unknown key \"%s\"%s; did you mean \"%s\"?",
                 entry->key, where, near->key);
  else if (near != NULL)
    g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                 "unknown key \"%s\"%s; did you mean \"%s\" in table [%s]?", entry->key, where,
                 near->key, near->table);
  else
    g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "unknown key \"%s\"%s", entry->key, where);
  return FALSE;
}

static void
pkcs11_config_free (gpointer data)
{
  KwPkcs11Config *pkcs11 = data;

  g_free (pkcs11->module);
  g_clear_pointer (&pkcs11->pin, kw_secret_unref);
  g_free (pkcs11->pin_source);
  g_free (pkcs11->token_label);
  g_free (pkcs11->token_serial);
  g_free (pkcs11->uri);
  g_free (pkcs11);
}

static void
add_pkcs11 (KwConfig *self)
{
  KwPkcs11Config *pkcs11 = g_new0 (KwPkcs11Config, 1);

  pkcs11->sessions = 4;
  pkcs11->timeout = 10;
  pkcs11->pin_name = PIN_NAME_PKCS11;
  g_ptr_array_add (self->pkcs11, pkcs11);
}

static gboolean
ensure_pkcs11 (KwConfig *self, guint index, GError **error)
{
  if (index >= KW_MAX_PKCS11_TABLES)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "more than %d tables [[pkcs11]]",
                   KW_MAX_PKCS11_TABLES);
      return FALSE;
    }
  while (self->pkcs11->len <= index)
    add_pkcs11 (self);
  self->current = g_ptr_array_index (self->pkcs11, index);
  return TRUE;
}

static void
access_rule_free (gpointer data)
{
  KwAccessRule *rule = data;

  g_strfreev (rule->keys);
  g_free (rule);
}

static gboolean
ensure_access (KwConfig *self, const KwTomlEntry *entry, guint index, GError **error)
{
  if (index >= KW_MAX_ACCESS_TABLES)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "more than %d tables [[access]]",
                   KW_MAX_ACCESS_TABLES);
      return FALSE;
    }
  while (self->access->len <= index)
    {
      KwAccessRule *rule = g_new0 (KwAccessRule, 1);

      rule->line = entry->line;
      g_ptr_array_add (self->access, rule);
    }
  self->rule = g_ptr_array_index (self->access, index);
  return TRUE;
}

static void
api_client_free (gpointer data)
{
  KwApiClientConfig *client = data;

  g_free (client->name);
  g_clear_pointer (&client->secret, kw_secret_unref);
  g_free (client->secret_source);
  g_strfreev (client->keys);
  g_clear_pointer (&client->grant, kw_grant_unref);
  g_free (client);
}

static gboolean
ensure_client (KwConfig *self, const KwTomlEntry *entry, GError **error)
{
  if (entry->index >= KW_MAX_API_CLIENTS)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "more than %d tables [[api.client]]",
                   KW_MAX_API_CLIENTS);
      return FALSE;
    }
  while (self->clients->len <= entry->index)
    {
      KwApiClientConfig *client = g_new0 (KwApiClientConfig, 1);

      client->line = entry->line;
      g_ptr_array_add (self->clients, client);
    }
  self->client = g_ptr_array_index (self->clients, entry->index);
  return TRUE;
}

static gboolean
apply_table (KwConfig *self, const KwTomlEntry *entry, GError **error)
{
  const char *near = nearest_table (entry->key);

  if (g_str_equal (entry->table, TABLE_API) && g_str_equal (entry->key, "client"))
    {
      if (entry->in_array)
        return ensure_client (self, entry, error);
      g_set_error_literal (error, KW_ERROR, KW_ERROR_CONFIG,
                           "[api.client] has to be written [[api.client]]: there may be several");
      return FALSE;
    }
  /* What stands around the clients. */
  if (entry->table[0] == '\0' && g_str_equal (entry->key, TABLE_API) && !entry->in_array)
    return TRUE;

  if (entry->table[0] == '\0' && table_is_known (entry->key))
    {
      if (entry->in_array && !g_str_equal (entry->key, TABLE_PKCS11)
          && !g_str_equal (entry->key, TABLE_ACCESS))
        {
          g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                       "[[%s]] is one of several, but there is one [%s] only", entry->key,
                       entry->key);
          return FALSE;
        }
      if (g_str_equal (entry->key, "line"))
        self->line.enabled = TRUE;
      if (g_str_equal (entry->key, "smartcard"))
        self->has_smartcard = TRUE;
      if (g_str_equal (entry->key, TABLE_ACCESS))
        return ensure_access (self, entry, entry->index, error);
      return !g_str_equal (entry->key, TABLE_PKCS11) || ensure_pkcs11 (self, entry->index, error);
    }
  if (entry->table[0] != '\0')
    g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "unknown table [%s.%s]", entry->table,
                 entry->key);
  else if (near != NULL)
    g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "unknown table [%s]; did you mean [%s]?",
                 entry->key, near);
  else
    g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "unknown table [%s]", entry->key);
  return FALSE;
}

static gboolean
apply_entry (KwConfig *self, const KwTomlEntry *entry, GError **error)
{
  const KwConfigRow *row = NULL;

  if (entry->type == KW_TOML_TABLE)
    return apply_table (self, entry, error);
  row = find_row (entry->table, entry->key);
  if (row == NULL)
    return refuse_unknown_key (entry, error);
  if (g_str_equal (row->table, TABLE_PKCS11) && !ensure_pkcs11 (self, entry->index, error))
    return FALSE;
  if (g_str_equal (row->table, TABLE_ACCESS) && !ensure_access (self, entry, entry->index, error))
    return FALSE;
  if (g_str_equal (row->table, TABLE_API_CLIENT) && !ensure_client (self, entry, error))
    return FALSE;
  if (!row->set (self, row, entry, error))
    {
      g_prefix_error (error, "[%s] %s ", entry->table, entry->key);
      return FALSE;
    }
  return TRUE;
}

static gint
compare_lines (gconstpointer a, gconstpointer b)
{
  const KwTomlEntry *entry_a = *(const KwTomlEntry *const *) a;
  const KwTomlEntry *entry_b = *(const KwTomlEntry *const *) b;

  return entry_a->line < entry_b->line ? -1 : entry_a->line > entry_b->line;
}

/* The four settings that a webadm.conf has. */
static const char *const webadm_keys[]
    = { "encrypt_hsm", "hsm_model", "hsm_keyid", "hsm_pin", NULL };

static gboolean
apply_webadm_line (KwConfig *self, const KwWebadmLine *line, GError **error)
{
  KwTomlEntry entry = { .table = (char *) TABLE_HSM,
                        .key = line->key,
                        .line = line->line,
                        .type = KW_TOML_STRING,
                        .string = line->value };
  const KwConfigRow *row = find_row (TABLE_HSM, line->key);

  if (row->set (self, row, &entry, error))
    return TRUE;
  g_prefix_error (error, "%s ", line->key);
  return FALSE;
}

static gboolean
read_webadm_conf (KwConfig *self, GError **error)
{
  const char *path = self->hsm.webadm_conf;
  gboolean has_literal_secret = self->has_literal_secret;
  g_autoptr (KwSecret) data = NULL;
  g_autoptr (GPtrArray) lines = NULL;
  guint line = 0;

  if (self->has_encrypt || self->has_model || self->hsm.key_ids->len > 0 || self->hsm.pin != NULL
      || self->hsm_pin_source != NULL)
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_CONFIG,
          "%s: [hsm] webadm_conf is set, so encrypt_hsm, hsm_model, hsm_keyid and hsm_pin are "
          "read from %s; leave them out here",
          self->path, path);
      return FALSE;
    }
  data = kw_secret_new_from_file (path, KW_MAX_CONFIG_BYTES, error);
  if (data == NULL)
    {
      g_prefix_error (error, "%s: [hsm] webadm_conf: ", self->path);
      return FALSE;
    }
  if (!kw_webadm_conf_check_mode (path, error))
    return FALSE;
  lines = kw_webadm_conf_parse ((const char *) kw_secret_get_data (data), kw_secret_get_size (data),
                                webadm_keys, &line, error);
  for (guint i = 0; lines != NULL && i < lines->len; i++)
    {
      const KwWebadmLine *setting = g_ptr_array_index (lines, i);

      line = setting->line;
      if (!apply_webadm_line (self, setting, error))
        g_clear_pointer (&lines, g_ptr_array_unref);
    }
  /* A PIN there says nothing about our own file. */
  self->has_literal_secret = has_literal_secret;
  if (lines != NULL)
    return TRUE;
  g_prefix_error (error, "%s:%u: ", path, line);
  return FALSE;
}

/* The PIN of [hsm] is for all tokens that have none of their own. */
static void
share_hsm_pin (KwConfig *self)
{
  for (guint i = 0; self->hsm.pin != NULL && i < self->pkcs11->len; i++)
    {
      KwPkcs11Config *pkcs11 = g_ptr_array_index (self->pkcs11, i);

      if (pkcs11->pin != NULL || pkcs11->pin_source != NULL)
        continue;
      pkcs11->pin = kw_secret_ref (self->hsm.pin);
      pkcs11->pin_name = PIN_NAME_HSM;
    }
}

static gboolean
check_hsm (KwConfig *self, GError **error)
{
  gboolean has_module = FALSE;

  if (self->hsm.webadm_conf != NULL && !read_webadm_conf (self, error))
    return FALSE;
  for (guint i = 0; i < self->pkcs11->len; i++)
    {
      KwPkcs11Config *pkcs11 = g_ptr_array_index (self->pkcs11, i);

      has_module |= pkcs11->module != NULL;
      if (pkcs11->module == NULL && self->hsm.model == KW_HSM_MODEL_SOFTHSM)
        pkcs11->module = g_strdup (KW_SOFTHSM_MODULE);
    }
  if (!self->has_model && self->has_smartcard && !has_module)
    self->hsm.model = KW_HSM_MODEL_SMARTCARD;
  if (!self->has_encrypt)
    self->hsm.encrypt_hsm = self->hsm.key_ids->len > 0;
  if (self->hsm.encrypt_hsm && self->hsm.key_ids->len == 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                   "%s: [hsm] encrypt_hsm is set, but hsm_keyid is not: it says which key encrypts",
                   self->path);
      return FALSE;
    }
  share_hsm_pin (self);
  return TRUE;
}

/* A key that is granted has to be one there may be. */
static gboolean
key_is_known (KwConfig *self, const char *key)
{
  g_autoptr (GBytes) uuid = kw_uuid_to_bytes (key, -1, NULL);

  if (uuid != NULL)
    return TRUE;
  for (guint i = 0; i < self->hsm.key_ids->len; i++)
    {
      if (g_ascii_strcasecmp (key,
                              kw_key_selector_get_text (g_ptr_array_index (self->hsm.key_ids, i)))
          == 0)
        return TRUE;
    }
  return FALSE;
}

static gboolean
check_access_rule (KwConfig *self, const KwAccessRule *rule, GError **error)
{
  if (!rule->has_who || rule->classes == 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "%s:%u: [[access]] needs %s", self->path,
                   rule->line, rule->has_who ? "verbs" : "user or group");
      return FALSE;
    }
  for (guint i = 0; rule->keys != NULL && rule->keys[i] != NULL; i++)
    {
      if (!key_is_known (self, rule->keys[i]))
        {
          g_set_error (
              error, KW_ERROR, KW_ERROR_CONFIG,
              "%s:%u: [[access]] keys has \"%s\", which is neither in hsm_keyid nor a UUID",
              self->path, rule->line, rule->keys[i]);
          return FALSE;
        }
    }
  return TRUE;
}

static gboolean
check_access (KwConfig *self, GError **error)
{
  for (guint i = 0; i < self->access->len; i++)
    {
      if (!check_access_rule (self, g_ptr_array_index (self->access, i), error))
        return FALSE;
    }
  return TRUE;
}

static gboolean
check_client (KwConfig *self, KwApiClientConfig *client, GError **error)
{
  const char *missing = client->name == NULL                                      ? "name"
                        : client->secret == NULL && client->secret_source == NULL ? "secret"
                        : !client->has_verbs                                      ? "verbs"
                                                                                  : NULL;

  if (missing != NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "%s:%u: [[api.client]] needs %s", self->path,
                   client->line, missing);
      return FALSE;
    }
  for (guint i = 0; client->keys != NULL && client->keys[i] != NULL; i++)
    {
      if (!key_is_known (self, client->keys[i]))
        {
          g_set_error (
              error, KW_ERROR, KW_ERROR_CONFIG,
              "%s:%u: [[api.client]] keys has \"%s\", which is neither in hsm_keyid nor a UUID",
              self->path, client->line, client->keys[i]);
          return FALSE;
        }
    }
  client->grant = kw_grant_new (client->classes, (const char *const *) client->keys);
  return TRUE;
}

static gboolean
check_clients (KwConfig *self, GError **error)
{
  for (guint i = 0; i < self->clients->len; i++)
    {
      KwApiClientConfig *client = g_ptr_array_index (self->clients, i);

      if (!check_client (self, client, error))
        return FALSE;
      for (guint j = 0; j < i; j++)
        {
          const KwApiClientConfig *other = g_ptr_array_index (self->clients, j);

          if (!g_str_equal (client->name, other->name))
            continue;
          g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                       "%s:%u: [[api.client]] name: there is another client \"%s\"", self->path,
                       client->line, client->name);
          return FALSE;
        }
    }
  return TRUE;
}

static gboolean
check_together (KwConfig *self, GError **error)
{
  if ((self->server.tls_certificate == NULL) != (self->server.tls_key == NULL))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                   "%s: [server] %s is set, but %s is not: TLS needs both", self->path,
                   self->server.tls_key != NULL ? "tls_key" : "tls_certificate",
                   self->server.tls_key != NULL ? "tls_certificate" : "tls_key");
      return FALSE;
    }
  if (self->line.hostname != NULL && self->line.port == 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                   "%s: [line] hostname is set, but port is not: both are needed for TCP",
                   self->path);
      return FALSE;
    }
  if (self->line.port != 0 && self->line.hostname == NULL)
    self->line.hostname = g_strdup ("localhost");
  if (self->line.enabled && self->line.port == 0 && self->line.socket == NULL)
    self->line.socket = g_strdup (KW_LINE_SOCKET);
  return check_hsm (self, error) && check_access (self, error) && check_clients (self, error);
}

static void
kw_config_finalize (GObject *object)
{
  KwConfig *self = KW_CONFIG (object);

  g_free (self->path);
  g_free (self->log.path);
  g_free (self->audit_path);
  g_free (self->server.hostname);
  g_free (self->server.socket);
  g_free (self->server.tls_certificate);
  g_free (self->server.tls_key);
  g_clear_pointer (&self->jwt.secret, kw_secret_unref);
  g_free (self->jwt_secret_source);
  g_ptr_array_unref (self->pkcs11);
  g_ptr_array_unref (self->hsm.key_ids);
  g_clear_pointer (&self->hsm.pin, kw_secret_unref);
  g_free (self->hsm.webadm_conf);
  g_free (self->hsm_pin_source);
  g_strfreev (self->smartcard.readers);
  g_free (self->line.socket);
  g_free (self->line.hostname);
  g_clear_pointer (&self->line.key, g_bytes_unref);
  g_clear_pointer (&self->line.allow_uids, g_array_unref);
  g_free (self->line.token_url);
  g_free (self->line.token_file);
  g_ptr_array_unref (self->access);
  g_strfreev (self->webui.hosts);
  g_ptr_array_unref (self->clients);
  g_free (self->state_directory);
  G_OBJECT_CLASS (kw_config_parent_class)->finalize (object);
}

static void
kw_config_class_init (KwConfigClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_config_finalize;
}

static void
kw_config_init (KwConfig *self)
{
  self->log.level = G_LOG_LEVEL_INFO;
  self->log.path = g_strdup ("stderr");
  self->log.encoding = KW_LOG_ENCODING_JSON;
  self->server.hostname = g_strdup ("localhost");
  self->server.port = 8513;
  self->server.max_connections = 2048;
  self->server.header_timeout = 10;
  self->server.body_timeout = 30;
  self->server.idle_timeout = 60;
  self->server.failed_decrypts = 60;
  self->jwt.leeway = 120;
  self->pkcs11 = g_ptr_array_new_with_free_func (pkcs11_config_free);
  add_pkcs11 (self);
  self->current = g_ptr_array_index (self->pkcs11, 0);
  self->hsm.key_ids = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_selector_unref);
  self->hsm.max_plaintext = DEFAULT_MAX_PLAINTEXT;
  self->hsm.min_copies = 1;
  self->hsm.check_interval = 900;
  self->hsm.replicate = TRUE;
  self->smartcard.timeout = 10;
  self->line.max_connections = 2048;
  self->access = g_ptr_array_new_with_free_func (access_rule_free);
  self->clients = g_ptr_array_new_with_free_func (api_client_free);
  self->state_directory = g_strdup (KW_STATE_DIRECTORY);
}

static const char *const model_nicks[] = {
  [KW_HSM_MODEL_PKCS11] = "pkcs11",
  [KW_HSM_MODEL_SOFTHSM] = "softhsm",
  [KW_HSM_MODEL_SMARTCARD] = "smartcard",
};

G_STATIC_ASSERT (G_N_ELEMENTS (model_nicks) == KW_N_HSM_MODELS);

/* Reads a whole file that may hold secrets; the caller wipes it. */
static KwSecret *
read_config_file (const char *path, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  KwSecret *data = kw_secret_new_from_file (path, KW_MAX_CONFIG_BYTES, &local_error);

  if (data == NULL)
    g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "%s", local_error->message);
  return data;
}

/**
 * kw_hsm_model_to_string:
 * @model: a model
 *
 * Returns: (transfer none): its nick, as `hsm_model` has it. Any thread.
 */
const char *
kw_hsm_model_to_string (KwHsmModel model)
{
  g_return_val_if_fail ((guint) model < G_N_ELEMENTS (model_nicks), NULL);

  return model_nicks[model];
}

/**
 * kw_hsm_model_from_string:
 * @nick: nick of a model
 * @out_model: (out): the model
 *
 * Returns: %FALSE when @nick is unknown. Any thread.
 */
gboolean
kw_hsm_model_from_string (const char *nick, KwHsmModel *out_model)
{
  g_return_val_if_fail (nick != NULL, FALSE);

  for (guint i = 0; i < G_N_ELEMENTS (model_nicks); i++)
    {
      if (g_str_equal (nick, model_nicks[i]))
        {
          *out_model = (KwHsmModel) i;
          return TRUE;
        }
    }
  return FALSE;
}

/**
 * kw_config_new_defaults:
 *
 * Returns: (transfer full): the configuration that an empty file means
 */
KwConfig *
kw_config_new_defaults (void)
{
  return g_object_new (KW_TYPE_CONFIG, NULL);
}

/**
 * kw_config_new_from_data:
 * @path: name for messages
 * @data: a TOML document
 * @size: its size in bytes
 * @error: where to store the error
 *
 * Reads and checks a configuration, apart from the mode of its file.
 *
 * Returns: (transfer full): the configuration; %NULL with %KW_ERROR_CONFIG, whose message begins "PATH:LINE: "
 */
KwConfig *
kw_config_new_from_data (const char *path, const char *data, gsize size, GError **error)
{
  g_autoptr (KwConfig) self = NULL;
  g_autoptr (GPtrArray) entries = NULL;
  g_autofree char *message = NULL;
  guint line = 0;

  g_return_val_if_fail (path != NULL && data != NULL, NULL);

  self = kw_config_new_defaults ();
  self->path = g_strdup (path);
  entries = kw_toml_parse (data, size, KW_MAX_CONFIG_KEYS, &line, &message);
  if (entries == NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "%s:%u: not valid TOML: %s", path, line,
                   message);
      return NULL;
    }
  g_ptr_array_sort (entries, compare_lines);
  for (guint i = 0; i < entries->len; i++)
    {
      const KwTomlEntry *entry = g_ptr_array_index (entries, i);

      if (!apply_entry (self, entry, error))
        {
          g_prefix_error (error, "%s:%u: ", path, entry->line);
          return NULL;
        }
    }
  if (!check_together (self, error))
    return NULL;
  return g_steal_pointer (&self);
}

/**
 * kw_config_new_from_file:
 * @path: the file
 * @error: where to store the error
 *
 * Reads and checks a configuration file. A file that holds a PIN or secret is refused when
 * kw_config_check_file_mode() finds it open to others.
 *
 * Returns: (transfer full): the configuration; %NULL with %KW_ERROR_CONFIG or %KW_ERROR_PERMISSION
 */
KwConfig *
kw_config_new_from_file (const char *path, GError **error)
{
  g_autoptr (KwConfig) self = NULL;
  g_autoptr (KwSecret) data = NULL;

  g_return_val_if_fail (path != NULL, NULL);

  data = read_config_file (path, error);
  if (data == NULL)
    return NULL;
  self = kw_config_new_from_data (path, (const char *) kw_secret_get_data (data),
                                  kw_secret_get_size (data), error);
  if (self == NULL)
    return NULL;
  if (self->has_literal_secret && !kw_config_check_file_mode (path, error))
    return NULL;
  return g_steal_pointer (&self);
}

/**
 * kw_config_find_file:
 *
 * Looks for the configuration where it is kept: Keyward's own place first, then hsmdaemon's.
 *
 * Returns: (transfer none) (nullable): the path of the first file that exists
 */
const char *
kw_config_find_file (void)
{
  if (g_file_test (KW_CONFIG_FILE, G_FILE_TEST_EXISTS))
    return KW_CONFIG_FILE;
  if (g_file_test (KW_CONFIG_FILE_HSMDAEMON, G_FILE_TEST_EXISTS))
    return KW_CONFIG_FILE_HSMDAEMON;
  return NULL;
}

/**
 * kw_config_check_file_mode:
 * @path: a file that holds a secret
 * @error: where to store the error
 *
 * Checks that nobody but its owner and root can get at a file, and that its owner is root, the service's user, or we. The
 * service's group is no exception: its members may open the line socket, but not read a PIN.
 *
 * Returns: %FALSE with %KW_ERROR_PERMISSION and a sentence on how to mend it
 */
gboolean
kw_config_check_file_mode (const char *path, GError **error)
{
  struct stat info;
  struct passwd *service = NULL;
  mode_t closed = S_IRWXO;

  g_return_val_if_fail (path != NULL, FALSE);

  if (stat (path, &info) != 0)
    {
      int saved_errno = errno;

      g_set_error (error, KW_ERROR, KW_ERROR_PERMISSION, "Cannot look at %s: %s", path,
                   g_strerror (saved_errno));
      return FALSE;
    }
  service = getpwnam (KW_SERVICE_USER);
  if (info.st_uid != 0 && info.st_uid != geteuid ()
      && (service == NULL || info.st_uid != service->pw_uid))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_PERMISSION,
                   "%s holds a secret but belongs to uid %u; run: chown %s %s", path,
                   (guint) info.st_uid, service != NULL ? KW_SERVICE_USER : "root", path);
      return FALSE;
    }
  closed |= info.st_gid == 0 ? S_IWGRP | S_IXGRP : S_IRWXG;
  if ((info.st_mode & closed) != 0)
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_PERMISSION,
          "%s holds a secret but its mode is %04o, so others can get at it; run: chmod 0600 %s",
          path, (guint) (info.st_mode & 07777), path);
      return FALSE;
    }
  return TRUE;
}

static gboolean
load_secret (const char *name,
             const char *source,
             gsize max_size,
             KwSecret **in_out_secret,
             GError **error)
{
  g_autofree char *path = NULL;
  const char *directory = g_getenv ("CREDENTIALS_DIRECTORY");

  if (source == NULL || *in_out_secret != NULL)
    return TRUE;
  if (g_str_has_prefix (source, SECRET_PREFIX_FILE))
    path = g_strdup (source + strlen (SECRET_PREFIX_FILE));
  else if (directory != NULL)
    path = g_build_filename (directory, source + strlen (SECRET_PREFIX_CREDENTIAL), NULL);
  else
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_CONFIG,
          "%s is \"%s\", but systemd passed no credentials; add LoadCredential=%s:PATH to the unit",
          name, source, source + strlen (SECRET_PREFIX_CREDENTIAL));
      return FALSE;
    }
  if (g_str_has_prefix (source, SECRET_PREFIX_FILE) && !kw_config_check_file_mode (path, error))
    {
      g_prefix_error (error, "%s: ", name);
      return FALSE;
    }
  *in_out_secret = kw_secret_new_from_file (path, max_size, error);
  if (*in_out_secret == NULL)
    {
      g_prefix_error (error, "%s: ", name);
      return FALSE;
    }
  if (kw_secret_get_size (*in_out_secret) == 0)
    g_clear_pointer (in_out_secret, kw_secret_unref);
  return TRUE;
}

/**
 * kw_config_load_pin:
 * @self: the configuration
 * @error: where to store the error
 *
 * Reads the PINs, for commands that need nothing else. Blocks.
 *
 * Returns: %FALSE with %KW_ERROR_CONFIG, %KW_ERROR_PERMISSION or %KW_ERROR_FAILED, naming key and file
 */
gboolean
kw_config_load_pin (KwConfig *self, GError **error)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), FALSE);

  for (guint i = 0; i < self->pkcs11->len; i++)
    {
      KwPkcs11Config *pkcs11 = g_ptr_array_index (self->pkcs11, i);

      if (!load_secret (PIN_NAME_PKCS11, pkcs11->pin_source, KW_MAX_PIN_BYTES, &pkcs11->pin, error))
        return FALSE;
    }
  if (!load_secret (PIN_NAME_HSM, self->hsm_pin_source, KW_MAX_PIN_BYTES, &self->hsm.pin, error))
    return FALSE;
  share_hsm_pin (self);
  return TRUE;
}

/**
 * kw_config_load_secrets:
 * @self: the configuration
 * @error: where to store the error
 *
 * Reads the PIN and the JWT secret from the files or credentials that the configuration names. Blocks; before the main
 * loop runs.
 *
 * Returns: %FALSE with %KW_ERROR_CONFIG, %KW_ERROR_PERMISSION or %KW_ERROR_FAILED, naming key and file
 */
gboolean
kw_config_load_secrets (KwConfig *self, GError **error)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), FALSE);

  if (!kw_config_load_pin (self, error)
      || !load_secret ("[jwt] secret", self->jwt_secret_source, KW_MAX_SECRET_BYTES,
                       &self->jwt.secret, error))
    return FALSE;
  for (guint i = 0; i < self->clients->len; i++)
    {
      KwApiClientConfig *client = g_ptr_array_index (self->clients, i);

      if (!load_secret ("[[api.client]] secret", client->secret_source, KW_MAX_SECRET_BYTES,
                        &client->secret, error))
        return FALSE;
    }
  return TRUE;
}

static void
add_secret_file (GStrvBuilder *paths, const char *source)
{
  if (source != NULL && g_str_has_prefix (source, SECRET_PREFIX_FILE))
    g_strv_builder_add (paths, source + strlen (SECRET_PREFIX_FILE));
}

/**
 * kw_config_dup_secret_files:
 * @self: the configuration
 *
 * Returns: (transfer full): the paths given as `file:` for PINs and the JWT secret, and that of a webadm.conf. Any thread.
 */
GStrv
kw_config_dup_secret_files (KwConfig *self)
{
  g_autoptr (GStrvBuilder) paths = g_strv_builder_new ();

  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  for (guint i = 0; i < self->pkcs11->len; i++)
    add_secret_file (paths, ((KwPkcs11Config *) g_ptr_array_index (self->pkcs11, i))->pin_source);
  add_secret_file (paths, self->hsm_pin_source);
  if (self->hsm.webadm_conf != NULL)
    g_strv_builder_add (paths, self->hsm.webadm_conf);
  add_secret_file (paths, self->jwt_secret_source);
  for (guint i = 0; i < self->clients->len; i++)
    add_secret_file (paths,
                     ((KwApiClientConfig *) g_ptr_array_index (self->clients, i))->secret_source);
  return g_strv_builder_end (paths);
}

/* A secret that another one has too would tell nobody apart. */
static gboolean
client_secret_is_taken (KwConfig *self, guint index)
{
  const KwApiClientConfig *client = g_ptr_array_index (self->clients, index);
  gconstpointer data = kw_secret_get_data (client->secret);
  gsize size = kw_secret_get_size (client->secret);

  for (guint i = 0; i < index; i++)
    {
      if (kw_secret_equal (((KwApiClientConfig *) g_ptr_array_index (self->clients, i))->secret,
                           data, size))
        return TRUE;
    }
  return kw_secret_equal (self->jwt.secret, data, size);
}

static gboolean
check_client_secrets (KwConfig *self, const char *path, GError **error)
{
  for (guint i = 0; i < self->clients->len; i++)
    {
      const KwApiClientConfig *client = g_ptr_array_index (self->clients, i);
      gsize n_secret = client->secret != NULL ? kw_secret_get_size (client->secret) : 0;

      if (n_secret < KW_MIN_JWT_SECRET_BYTES)
        {
          g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                       "%s:%u: [[api.client]] secret of \"%s\" is too weak: it has %" G_GSIZE_FORMAT
                       " bytes, at least %d are needed; make one with: openssl rand -hex 32",
                       path, client->line, client->name, n_secret, KW_MIN_JWT_SECRET_BYTES);
          return FALSE;
        }
      if (client_secret_is_taken (self, i))
        {
          g_set_error (
              error, KW_ERROR, KW_ERROR_CONFIG,
              "%s:%u: [[api.client]] secret of \"%s\" is another one's too; each needs its own",
              path, client->line, client->name);
          return FALSE;
        }
    }
  return TRUE;
}

/**
 * kw_config_check_server:
 * @self: the configuration, its secrets loaded
 * @error: where to store the error
 *
 * Checks what only the daemon needs: secrets for JSON Web Tokens that are worth the name.
 *
 * Returns: %FALSE with %KW_ERROR_CONFIG and a sentence on how to make a secret
 */
gboolean
kw_config_check_server (KwConfig *self, GError **error)
{
  const char *path = NULL;
  gsize n_secret = 0;

  g_return_val_if_fail (KW_IS_CONFIG (self), FALSE);

  path = self->path != NULL ? self->path : KW_CONFIG_FILE;
  if (self->jwt.secret == NULL)
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_CONFIG,
          "%s: [jwt] secret is missing; make one with: hsmdaemon setup (or: openssl rand -hex 32)",
          path);
      return FALSE;
    }
  n_secret = kw_secret_get_size (self->jwt.secret);
  if (kw_secret_equal (self->jwt.secret, "secret", 6) || n_secret < KW_MIN_JWT_SECRET_BYTES)
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_CONFIG,
          "%s: [jwt] secret is too weak: it has %" G_GSIZE_FORMAT
          " bytes, at least %d are needed; make one with: "
          "openssl rand -hex 32, and give ownCloud the same: occ config:app:set encryption hsm.jwt.secret",
          path, n_secret, KW_MIN_JWT_SECRET_BYTES);
      return FALSE;
    }
  return check_client_secrets (self, path, error);
}

/**
 * kw_config_cap_connections:
 * @self: the configuration
 * @n_connections: how many connections the process can hold at once
 *
 * Lowers `max_connections` of [server] and [line], in proportion, until both together fit. Before anybody else holds @self.
 *
 * Returns: %TRUE when they had to be lowered
 */
gboolean
kw_config_cap_connections (KwConfig *self, guint n_connections)
{
  guint64 http = 0;
  guint64 line = 0;

  g_return_val_if_fail (KW_IS_CONFIG (self), FALSE);

  http = self->server.max_connections;
  line = self->line.enabled ? self->line.max_connections : 0;
  if (http + line <= n_connections)
    return FALSE;
  self->adapted = TRUE;
  self->server.max_connections = (guint) MAX (n_connections * http / (http + line), 1);
  self->line.max_connections = (guint) MAX (n_connections * line / (http + line), 1);
  return TRUE;
}

/**
 * kw_config_set_module:
 * @self: the configuration
 * @module: path of a PKCS#11 module
 *
 * Overrides `[pkcs11] module`, as the option --module does. Before anybody else holds @self.
 */
void
kw_config_set_module (KwConfig *self, const char *module)
{
  KwPkcs11Config *pkcs11 = NULL;

  g_return_if_fail (KW_IS_CONFIG (self));

  pkcs11 = g_ptr_array_index (self->pkcs11, 0);
  g_free (pkcs11->module);
  pkcs11->module = g_strdup (module);
  self->adapted = TRUE;
}

/**
 * kw_config_get_path:
 * @self: the configuration
 *
 * Returns: (transfer none) (nullable): the file it was read from, %NULL for the defaults. Any thread.
 */
const char *
kw_config_get_path (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return self->path;
}

/**
 * kw_config_get_log:
 * @self: the configuration
 *
 * Returns: (transfer none): table `[logger]`. Any thread.
 */
const KwLogConfig *
kw_config_get_log (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return &self->log;
}

/**
 * kw_config_get_audit_path:
 * @self: the configuration
 *
 * Returns: (transfer none) (nullable): `[audit] path`; %NULL = the journal under systemd, else a file in the state
 *   directory. Any thread.
 */
const char *
kw_config_get_audit_path (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return self->audit_path;
}

/**
 * kw_config_get_server:
 * @self: the configuration
 *
 * Returns: (transfer none): table `[server]`. Any thread.
 */
const KwServerConfig *
kw_config_get_server (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return &self->server;
}

/**
 * kw_config_get_jwt:
 * @self: the configuration
 *
 * Returns: (transfer none): table `[jwt]`. Any thread.
 */
const KwJwtConfig *
kw_config_get_jwt (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return &self->jwt;
}

/**
 * kw_config_get_pkcs11:
 * @self: the configuration
 *
 * Returns: (transfer none): table `[pkcs11]`, or the first of them. Any thread.
 */
const KwPkcs11Config *
kw_config_get_pkcs11 (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return g_ptr_array_index (self->pkcs11, 0);
}

/**
 * kw_config_get_n_pkcs11:
 * @self: the configuration
 *
 * Returns: how many tables `[[pkcs11]]` there are; 1 also when there is none. Any thread.
 */
guint
kw_config_get_n_pkcs11 (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), 0);

  return self->pkcs11->len;
}

/**
 * kw_config_get_pkcs11_table:
 * @self: the configuration
 * @index: which one, from 0
 *
 * Returns: (transfer none): one of the tables `[[pkcs11]]`. Any thread.
 */
const KwPkcs11Config *
kw_config_get_pkcs11_table (KwConfig *self, guint index)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);
  g_return_val_if_fail (index < self->pkcs11->len, NULL);

  return g_ptr_array_index (self->pkcs11, index);
}

/**
 * kw_config_get_hsm:
 * @self: the configuration
 *
 * Returns: (transfer none): table `[hsm]`. Any thread.
 */
const KwHsmConfig *
kw_config_get_hsm (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return &self->hsm;
}

/**
 * kw_config_get_smartcard:
 * @self: the configuration
 *
 * Returns: (transfer none): table `[smartcard]`. Any thread.
 */
const KwSmartcardConfig *
kw_config_get_smartcard (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return &self->smartcard;
}

/**
 * kw_config_wants_backend:
 * @self: the configuration
 * @name: name of a back end
 *
 * Tells whether `hsm_model` leads to a back end. The tables of other models are left alone. Any thread.
 *
 * Returns: %TRUE when it is to be used
 */
gboolean
kw_config_wants_backend (KwConfig *self, const char *name)
{
  g_return_val_if_fail (KW_IS_CONFIG (self) && name != NULL, FALSE);

  if (g_str_equal (name, KW_BACKEND_SMARTCARD))
    return self->hsm.model == KW_HSM_MODEL_SMARTCARD;
  if (g_str_equal (name, KW_BACKEND_PKCS11))
    return self->hsm.model != KW_HSM_MODEL_SMARTCARD;
  return TRUE;
}

/**
 * kw_config_get_line:
 * @self: the configuration
 *
 * Returns: (transfer none): table `[line]`. Any thread.
 */
const KwLineConfig *
kw_config_get_line (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return &self->line;
}

/**
 * kw_config_get_state_directory:
 * @self: the configuration
 *
 * Returns: (transfer none): `[state] directory`. Any thread.
 */
const char *
kw_config_get_state_directory (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return self->state_directory;
}

/**
 * kw_config_get_access:
 * @self: the configuration
 *
 * Returns: (transfer none) (element-type KwAccessRule): the tables `[[access]]`. Any thread.
 */
GPtrArray *
kw_config_get_access (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return self->access;
}

static gboolean
secrets_are_equal (KwSecret *a, KwSecret *b)
{
  if (a == NULL || b == NULL)
    return a == b;
  return kw_secret_equal (a, kw_secret_get_data (b), kw_secret_get_size (b));
}

static gboolean
fields_are_equal (const KwConfigRow *row, gconstpointer a, gconstpointer b)
{
  if (row->set == set_uint)
    return *(const guint *) a == *(const guint *) b;
  if (row->set == set_size)
    return *(const gsize *) a == *(const gsize *) b;
  if (row->set == set_port)
    return *(const guint16 *) a == *(const guint16 *) b;
  if (row->set == set_boolean)
    return *(const gboolean *) a == *(const gboolean *) b;
  if (row->set == set_string || row->set == set_path || row->set == set_socket_path
      || row->set == set_log_path || row->set == set_token_url)
    return g_strcmp0 (*(char *const *) a, *(char *const *) b) == 0;
  return TRUE;
}

static gboolean
strvs_are_equal (char **a, char **b)
{
  return a == b
         || (a != NULL && b != NULL
             && g_strv_equal ((const char *const *) a, (const char *const *) b));
}

static gboolean
bytes_are_equal (GBytes *a, GBytes *b)
{
  return a == b || (a != NULL && b != NULL && g_bytes_equal (a, b));
}

static gboolean
uids_are_equal (GArray *a, GArray *b)
{
  if (a == NULL || b == NULL || a->len != b->len)
    return a == b;
  for (guint i = 0; i < a->len; i++)
    {
      if (g_array_index (a, guint32, i) != g_array_index (b, guint32, i))
        return FALSE;
    }
  return TRUE;
}

static gboolean
pkcs11_are_equal (const KwPkcs11Config *a, const KwPkcs11Config *b)
{
  return secrets_are_equal (a->pin, b->pin) && g_strcmp0 (a->pin_source, b->pin_source) == 0
         && a->has_slot == b->has_slot && a->slot == b->slot;
}

static gboolean
clients_are_equal (GPtrArray *a, GPtrArray *b)
{
  if (a->len != b->len)
    return FALSE;
  for (guint i = 0; i < a->len; i++)
    {
      const KwApiClientConfig *one = g_ptr_array_index (a, i);
      const KwApiClientConfig *other = g_ptr_array_index (b, i);

      if (!g_str_equal (one->name, other->name) || one->classes != other->classes
          || !secrets_are_equal (one->secret, other->secret)
          || g_strcmp0 (one->secret_source, other->secret_source) != 0
          || !strvs_are_equal (one->keys, other->keys))
        return FALSE;
    }
  return TRUE;
}

/* What has no field of a common type. */
static void
add_special_differences (KwConfig *self, KwConfig *other, GStrvBuilder *names)
{
  if (self->log.encoding != other->log.encoding)
    g_strv_builder_add (names, "[logger] encoding");
  if (!secrets_are_equal (self->jwt.secret, other->jwt.secret))
    g_strv_builder_add (names, "[jwt] secret");
  if (self->hsm.model != other->hsm.model)
    g_strv_builder_add (names, "[hsm] hsm_model");
  if (!secrets_are_equal (self->hsm.pin, other->hsm.pin))
    g_strv_builder_add (names, "[hsm] hsm_pin");
  if (!strvs_are_equal (self->smartcard.readers, other->smartcard.readers))
    g_strv_builder_add (names, "[smartcard] readers");
  if (self->line.enabled != other->line.enabled)
    g_strv_builder_add (names, "[line]");
  if (!bytes_are_equal (self->line.key, other->line.key))
    g_strv_builder_add (names, "[line] key");
  if (!uids_are_equal (self->line.allow_uids, other->line.allow_uids))
    g_strv_builder_add (names, "[line] allow_users");
  if (!strvs_are_equal (self->webui.hosts, other->webui.hosts))
    g_strv_builder_add (names, "[webui] hosts");
  if (!clients_are_equal (self->clients, other->clients))
    g_strv_builder_add (names, "[[api.client]]");
}

/* Rows whose changes are no matter, or show at once. */
static gboolean
row_is_passed_over (KwConfig *self, const KwConfigRow *row)
{
  if (self->adapted
      && (g_str_equal (row->key, "max_connections") || g_str_equal (row->key, "module")))
    return TRUE;
  return g_str_equal (row->table, TABLE_HSM)
         && (g_str_equal (row->key, "min_copies") || g_str_equal (row->key, "check_interval")
             || g_str_equal (row->key, "data_key_ttl"));
}

/**
 * kw_config_dup_differences:
 * @self: the configuration in use
 * @other: the one that is in the file now
 *
 * Tells what of a changed configuration shows after a restart only: all but the log level, `[[access]]`, `encrypt_hsm`,
 * `hsm_keyid`, `min_copies`, `check_interval` and `data_key_ttl`.
 *
 * Returns: (transfer full): names such as "[server] port". Any thread.
 */
GStrv
kw_config_dup_differences (KwConfig *self, KwConfig *other)
{
  g_autoptr (GStrvBuilder) names = g_strv_builder_new ();

  g_return_val_if_fail (KW_IS_CONFIG (self) && KW_IS_CONFIG (other), NULL);

  if (self->pkcs11->len != other->pkcs11->len)
    g_strv_builder_add (names, "[[pkcs11]]");
  for (guint i = 0; i < MIN (self->pkcs11->len, other->pkcs11->len); i++)
    {
      KwPkcs11Config *a = g_ptr_array_index (self->pkcs11, i);
      KwPkcs11Config *b = g_ptr_array_index (other->pkcs11, i);
      gboolean equal = pkcs11_are_equal (a, b);

      for (guint j = 0; j < G_N_ELEMENTS (config_rows) && equal; j++)
        equal = !g_str_equal (config_rows[j].table, TABLE_PKCS11)
                || row_is_passed_over (self, &config_rows[j])
                || fields_are_equal (&config_rows[j], (guint8 *) a + config_rows[j].offset,
                                     (guint8 *) b + config_rows[j].offset);
      if (!equal)
        g_strv_builder_add (names, "[pkcs11]");
    }
  for (guint i = 0; i < G_N_ELEMENTS (config_rows); i++)
    {
      const KwConfigRow *row = &config_rows[i];
      g_autofree char *name = g_strdup_printf ("[%s] %s", row->table, row->key);

      if (!g_str_equal (row->table, TABLE_PKCS11) && !row_is_passed_over (self, row)
          && !fields_are_equal (row, (guint8 *) self + row->offset, (guint8 *) other + row->offset))
        g_strv_builder_add (names, name);
    }
  add_special_differences (self, other, names);
  return g_strv_builder_end (names);
}

/**
 * kw_config_get_webui:
 * @self: the configuration
 *
 * Returns: (transfer none): table `[webui]`. Any thread.
 */
const KwWebuiConfig *
kw_config_get_webui (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return &self->webui;
}

/**
 * kw_config_get_api_clients:
 * @self: the configuration
 *
 * Returns: (transfer none) (element-type KwApiClientConfig): the tables `[[api.client]]`. Any thread.
 */
GPtrArray *
kw_config_get_api_clients (KwConfig *self)
{
  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  return self->clients;
}

/**
 * kw_config_dup_url:
 * @self: the configuration
 *
 * Returns: (transfer full): where the page is, as a browser on this host writes it, with a slash at its end. Any thread.
 */
char *
kw_config_dup_url (KwConfig *self)
{
  const char *host = NULL;
  gboolean is_any = FALSE;

  g_return_val_if_fail (KW_IS_CONFIG (self), NULL);

  host = self->server.hostname;
  is_any = g_str_equal (host, "0.0.0.0") || g_str_equal (host, "::") || g_str_equal (host, "*");
  if (is_any)
    host = self->webui.hosts != NULL && self->webui.hosts[0] != NULL ? self->webui.hosts[0]
                                                                     : "localhost";
  return g_strdup_printf ("%s://%s%s%s:%u/", self->server.tls_key != NULL ? "https" : "http",
                          strchr (host, ':') != NULL ? "[" : "", host,
                          strchr (host, ':') != NULL ? "]" : "", self->server.port);
}
