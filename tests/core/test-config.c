/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-config"

#include "config.h"

#include "kw-config.h"
#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-limits.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME "/etc/keyward/keyward.toml"
#define SECRET "5c0b9aee-58bb-4bd0-a6a4-2d7a4e7a4f0c"
#define LONG_PATH                                                                                  \
  "/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/"      \
  "01234567890123456789"
#define ONE_TO(maximum) "must be a whole number from 1 to " maximum
#define QUOTED "must be a string in quotes"
#define PATH "must be an absolute path in quotes"
#define LOG_PATH "must be \"stderr\", \"stdout\", an absolute path or a file:// URI"
#define AUDIT_PATH "must be \"journal\", \"stderr\", an absolute path or a file:// URI"
#define LEVELS "must be \"debug\", \"info\", \"warn\", \"error\", \"panic\" or \"fatal\""
#define SLOT "must be a slot id as `listslots` prints it: a decimal number"
#define BARE_NUMBER "must be in quotes: as a bare number it would lose its leading zeros"
#define USERS "must be a list of user names or uids, such as [\"www-data\"]"
#define YES_NO "must be true, false, \"Yes\" or \"No\""
#define MODELS "must be \"smartcard\", \"pkcs11\" or \"softhsm\""
#define KEY_IDS "must be a number, a string such as \"label:NAME\", or a list of them"
#define NO_KEY                                                                                     \
  "a key is a number (0 is the first AES key of a device), label:NAME, or id: and its CKA_ID in "  \
  "hex"
#define READERS "must be a list of names of readers, in which * and ? may stand for others"
#define URL "must be an http:// or https:// address"
#define UUID "must be the UUID of a key, as `genkey` prints it"

static KwConfig *
parse (const char *text, gsize size, GError **error)
{
  return kw_config_new_from_data (FILE_NAME, text, size, error);
}

static KwConfig *
parse_good (const char *text)
{
  g_autoptr (GError) error = NULL;
  KwConfig *config = parse (text, strlen (text), &error);

  g_assert_no_error (error);
  return config;
}

static void
assert_bad (const char *text, const char *message)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *whole = g_strconcat (FILE_NAME, message, NULL);

  g_assert_null (parse (text, strlen (text), &error));
  kw_assert_error (error, KW_ERROR_CONFIG, whole);
}

typedef struct
{
  const char *table;
  const char *key;
  const char *value;
  const char *message;
} Row;

static const Row wrong_rows[] = {
  { "logger", "level", "1", LEVELS },
  { "logger", "level", "\"loud\"", LEVELS },
  { "logger", "path", "1", LOG_PATH },
  { "logger", "path", "\"journal\"", LOG_PATH },
  { "logger", "path", "\"log.txt\"", LOG_PATH },
  { "logger", "path", "\"file://host\"", LOG_PATH },
  { "logger", "encoding", "true", "must be \"json\" or \"console\"" },
  { "logger", "encoding", "\"xml\"", "must be \"json\" or \"console\"" },
  { "audit", "path", "1", AUDIT_PATH },
  { "audit", "path", "\"stdout\"", AUDIT_PATH },
  { "server", "hostname", "1", QUOTED },
  { "server", "hostname", "\"\"", "must be a string that is not empty" },
  { "server", "port", "\"8513\"", ONE_TO ("65535") },
  { "server", "port", "0", ONE_TO ("65535") },
  { "server", "port", "65536", ONE_TO ("65535") },
  { "server", "port", "8513.0", ONE_TO ("65535") },
  { "server", "socket", "1", PATH },
  { "server", "socket", "\"run/socket\"", PATH },
  { "server", "socket", "\"" LONG_PATH "\"", "is too long: a socket's path has at most 107 bytes" },
  { "server", "tls_certificate", "1", PATH },
  { "server", "tls_certificate", "\"cert.pem\"", PATH },
  { "server", "tls_key", "[]", PATH },
  { "server", "tls_key", "\"\"", PATH },
  { "server", "max_connections", "true", ONE_TO ("65536") },
  { "server", "max_connections", "65537", ONE_TO ("65536") },
  { "server", "header_timeout", "\"1\"", ONE_TO ("3600") },
  { "server", "header_timeout", "0", ONE_TO ("3600") },
  { "server", "body_timeout", "\"1\"", ONE_TO ("3600") },
  { "server", "body_timeout", "3601", ONE_TO ("3600") },
  { "server", "idle_timeout", "\"1\"", ONE_TO ("3600") },
  { "server", "idle_timeout", "-1", ONE_TO ("3600") },
  { "server", "failed_decrypts", "\"1\"", "must be a whole number from 0 to 1000000" },
  { "server", "failed_decrypts", "-1", "must be a whole number from 0 to 1000000" },
  { "jwt", "secret", "12345678901234567", BARE_NUMBER },
  { "jwt", "secret", "true", QUOTED },
  { "jwt", "secret", "\"file:secret\"", "must be file: and an absolute path" },
  { "jwt", "secret", "\"credential:\"",
    "must be credential: and the name of a systemd credential" },
  { "jwt", "secret", "\"credential:../x\"",
    "must be credential: and the name of a systemd credential" },
  { "jwt", "leeway", "\"1\"", "must be a whole number from 0 to 3600" },
  { "jwt", "leeway", "3601", "must be a whole number from 0 to 3600" },
  { "pkcs11", "module", "1", PATH },
  { "pkcs11", "module", "\"libsofthsm2.so\"", PATH },
  { "pkcs11", "pin", "648219", BARE_NUMBER },
  { "pkcs11", "pin", "[\"1\"]", QUOTED },
  { "pkcs11", "pin", "\"1\\u00002\"", QUOTED },
  { "pkcs11", "pin", "\"file:\"", "must be file: and an absolute path" },
  { "pkcs11", "slot", "true", SLOT },
  { "pkcs11", "slot", "-1", SLOT },
  { "pkcs11", "slot", "\"0x10\"", SLOT },
  { "pkcs11", "slot", "\"18446744073709551616\"", SLOT },
  { "pkcs11", "token_label", "1", QUOTED },
  { "pkcs11", "token_label", "\"\"", "must be a string that is not empty" },
  { "pkcs11", "token_serial", "1", QUOTED },
  { "pkcs11", "token_serial", "\"\"", "must be a string that is not empty" },
  { "pkcs11", "uri", "1979-05-27", QUOTED },
  { "pkcs11", "uri", "\"\"", "must be a string that is not empty" },
  { "pkcs11", "sessions", "\"1\"", ONE_TO ("64") },
  { "pkcs11", "sessions", "65", ONE_TO ("64") },
  { "pkcs11", "extractable", "1", "must be true or false" },
  { "pkcs11", "extractable", "\"yes\"", "must be true or false" },
  { "pkcs11", "timeout", "\"1\"", ONE_TO ("3600") },
  { "pkcs11", "timeout", "0", ONE_TO ("3600") },
  { "hsm", "encrypt_hsm", "1", YES_NO },
  { "hsm", "encrypt_hsm", "\"on\"", YES_NO },
  { "hsm", "hsm_model", "true", MODELS },
  { "hsm", "hsm_model", "\"card\"", MODELS },
  { "hsm", "hsm_keyid", "true", KEY_IDS },
  { "hsm", "hsm_keyid", "[1.5]", KEY_IDS },
  { "hsm", "hsm_keyid", "\" ,\"", "must be at least one key" },
  { "hsm", "hsm_keyid", "[]", "must be at least one key" },
  { "hsm", "hsm_keyid", "-1", "names no key: \"-1\"; " NO_KEY },
  { "hsm", "hsm_keyid", "[0, \"x\"]", "names no key: \"x\"; " NO_KEY },
  { "hsm", "hsm_keyid", "[0, \"\"]", "names no key: \"\"; " NO_KEY },
  { "hsm", "hsm_keyid", "[0, \"00\"]", "names a key twice: \"00\"" },
  { "hsm", "hsm_keyid", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]", "names more than 16 keys" },
  { "hsm", "hsm_pin", "648219", BARE_NUMBER },
  { "hsm", "webadm_conf", "\"webadm.conf\"", PATH },
  { "hsm", "max_plaintext", "0", ONE_TO ("67108864") },
  { "hsm", "max_plaintext", "67108865", ONE_TO ("67108864") },
  { "hsm", "data_key_ttl", "61", "must be a whole number from 0 to 60" },
  { "hsm", "min_copies", "0", ONE_TO ("32") },
  { "hsm", "check_interval", "86401", "must be a whole number from 0 to 86400" },
  { "hsm", "replicate", "\"yes\"", "must be true or false" },
  { "smartcard", "timeout", "0", ONE_TO ("3600") },
  { "smartcard", "readers", "\"*\"", READERS },
  { "smartcard", "readers", "[]", READERS },
  { "smartcard", "readers", "[\"a\", \"\"]", READERS },
  { "line", "socket", "1", PATH },
  { "line", "socket", "\"x\"", PATH },
  { "line", "hostname", "1", QUOTED },
  { "line", "port", "\"1\"", ONE_TO ("65535") },
  { "line", "port", "65536", ONE_TO ("65535") },
  { "line", "key", "1", UUID },
  { "line", "key", "\"6ba7b810\"", UUID },
  { "line", "allow_users", "\"root\"", USERS },
  { "line", "allow_users", "[[1]]", USERS },
  { "line", "allow_users", "[1.5]", USERS },
  { "line", "allow_users", "[\"ro\\u0000ot\"]", USERS },
  { "line", "allow_users", "[\"no such user\"]", "names no user of this system: no such user" },
  { "line", "allow_users", "[-1]", "names no user of this system: -1" },
  { "line", "allow_users", "[4294967295]", "names no user of this system: 4294967295" },
  { "line", "token_url", "1", URL },
  { "line", "token_url", "\"ftp://host/\"", URL },
  { "line", "token_url", "\"https:///path\"", URL },
  { "line", "token_file", "1", PATH },
  { "line", "token_file", "\"x\"", PATH },
  { "line", "max_connections", "\"1\"", ONE_TO ("65536") },
  { "line", "max_connections", "0", ONE_TO ("65536") },
  { "state", "directory", "1", PATH },
  { "state", "directory", "\"state\"", PATH },
};

static void
test_each_key_wrong (void)
{
  for (guint i = 0; i < G_N_ELEMENTS (wrong_rows); i++)
    {
      const Row *row = &wrong_rows[i];
      g_autofree char *text
          = g_strdup_printf ("# comment\n\n[%s]\n%s = %s\n", row->table, row->key, row->value);
      g_autofree char *message
          = g_strdup_printf (":4: [%s] %s %s", row->table, row->key, row->message);

      g_test_message ("%s", text);
      assert_bad (text, message);
    }
}

static void
test_secrets_too_long (void)
{
  g_autofree char *pin = g_strnfill (KW_MAX_PIN_BYTES + 1, '1');
  g_autofree char *secret = g_strnfill (KW_MAX_SECRET_BYTES + 1, '1');
  g_autofree char *pin_text = g_strdup_printf ("[pkcs11]\npin = \"%s\"\n", pin);
  g_autofree char *secret_text = g_strdup_printf ("[jwt]\nsecret = \"%s\"\n", secret);

  assert_bad (pin_text, ":2: [pkcs11] pin is too long: at most 255 bytes");
  assert_bad (secret_text, ":2: [jwt] secret is too long: at most 4096 bytes");
}

static void
test_unknown_names (void)
{
  static const char *const rows[][2] = {
    { "[server]\nprot = 1\n",
      ":2: unknown key \"prot\" in table [server]; did you mean \"port\"?" },
    { "[pkcs11]\n\ntoken_lable = 1\n",
      ":3: unknown key \"token_lable\" in table [pkcs11]; did you mean \"token_label\"?" },
    { "[server]\npin = 1\n",
      ":2: unknown key \"pin\" in table [server]; did you mean \"pin\" in table [pkcs11]?" },
    { "[server]\nsomething = 1\n", ":2: unknown key \"something\" in table [server]" },
    { "module = 1\n",
      ":1: unknown key \"module\" outside any table; did you mean \"module\" in table [pkcs11]?" },
    { "nonsense = 1\n", ":1: unknown key \"nonsense\" outside any table" },
    { "[sever]\nport = 1\n", ":1: unknown table [sever]; did you mean [server]?" },
    { "[nonsense]\n", ":1: unknown table [nonsense]" },
    { "[server.tls]\nkey = 1\n", ":1: unknown table [server.tls]" },
    { "[[server]]\nport = 1\n",
      ":1: [[server]] is one of several, but there is one [server] only" },
    { "[[nonsense]]\n", ":1: unknown table [nonsense]" },
    { "[[pkcs11]]\n[[pkcs11.more]]\n", ":2: unknown table [pkcs11.more]" },
    { "[hsm]\nkeyid = 0\n", ":2: unknown key \"keyid\" in table [hsm]" },
    { "[hsm]\nhsm_keyd = 0\n",
      ":2: unknown key \"hsm_keyd\" in table [hsm]; did you mean \"hsm_keyid\"?" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    assert_bad (rows[i][0], rows[i][1]);
}

static void
test_not_toml (void)
{
  static const char *const rows[][2] = {
    { "[server\nport = 1\n", ":1: not valid TOML: " },
    { "[server]\nport 1\n", ":2: not valid TOML: " },
    { "[server]\nport = 1\nport = 2\n", ":3: not valid TOML: " },
    { "[server]\nport = 1\n[server]\n", ":3: not valid TOML: " },
    { "[server]\nhostname = \"a\nb\"\n", ":2: not valid TOML: " },
    { "[server]\nhostname = \"\xff\"\n", ":2: not valid TOML: " },
    { "[server]\nport = 99999999999999999999\n", ":2: not valid TOML: " },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *start = g_strconcat (FILE_NAME, rows[i][1], NULL);

      g_assert_null (parse (rows[i][0], strlen (rows[i][0]), &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_CONFIG);
      g_test_message ("%s", error->message);
      g_assert_true (g_str_has_prefix (error->message, start));
    }
}

static void
test_together (void)
{
  assert_bad ("[server]\ntls_key = \"/k\"\n",
              ": [server] tls_key is set, but tls_certificate is not: TLS needs both");
  assert_bad ("[server]\ntls_certificate = \"/c\"\n",
              ": [server] tls_certificate is set, but tls_key is not: TLS needs both");
  assert_bad ("[hsm]\nencrypt_hsm = true\n",
              ": [hsm] encrypt_hsm is set, but hsm_keyid is not: it says which key encrypts");
  assert_bad ("[line]\nhostname = \"::1\"\n",
              ": [line] hostname is set, but port is not: both are needed for TCP");
}

static void
assert_survives (const char *start, const char *middle, guint n, const char *end)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GString) text = g_string_new (start);

  for (guint i = 0; i < n; i++)
    g_string_append (text, middle);
  g_string_append (text, end);
  g_assert_null (parse (text->str, text->len, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_CONFIG);
  g_test_message ("%.200s", error->message);
}

static void
test_deep_nesting (void)
{
  assert_survives ("x = ", "[", 10000, "");
  assert_survives ("x = ", "[", 10000, "\n");
  assert_survives ("x = ", "{x=", 10000, "");
  assert_survives ("x", ".x", 120000, " = 1\n");
  assert_survives ("[x", ".x", 120000, "]\n");
  assert_survives ("[[x", ".x", 120000, "]]\n");
  assert_survives ("a = {x", ".x", 120000, "=1}\n");
}

static void
test_too_many_keys (void)
{
  g_autoptr (GString) text = g_string_new (NULL);

  for (guint i = 0; i <= KW_MAX_CONFIG_KEYS; i++)
    g_string_append_printf (text, "k%u = 1\n", i);
  assert_bad (text->str, ":0: not valid TOML: more than 1024 keys");
}

static void
test_file_too_large (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = kw_test_make_directory ();
  g_autofree char *text = g_strnfill (KW_MAX_CONFIG_BYTES + 1, '#');
  g_autofree char *path = kw_test_write_file (directory, "x.toml", text, 0600);
  g_autofree char *message = g_strdup_printf ("%s is longer than 262144 bytes", path);
  g_autoptr (KwConfig) config = NULL;

  g_assert_null (kw_config_new_from_file (path, &error));
  kw_assert_error (error, KW_ERROR_CONFIG, message);
  g_assert_cmpint (truncate (path, KW_MAX_CONFIG_BYTES), ==, 0);
  config = kw_config_new_from_file (path, &error);
  g_assert_no_error (error);
  kw_test_remove_directory (directory);
}

static void
test_file_is_missing (void)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (kw_config_new_from_file ("/dev/null/x", &error));
  kw_assert_error (error, KW_ERROR_CONFIG, "Cannot open /dev/null/x: Not a directory");
}

static void
test_defaults (void)
{
  g_autoptr (KwConfig) config = parse_good ("");

  g_assert_cmpstr (kw_config_get_path (config), ==, FILE_NAME);
  g_assert_cmpuint (kw_config_get_log (config)->level, ==, G_LOG_LEVEL_INFO);
  g_assert_cmpstr (kw_config_get_log (config)->path, ==, "stderr");
  g_assert_cmpstr (kw_config_get_server (config)->hostname, ==, "localhost");
  g_assert_cmpuint (kw_config_get_server (config)->port, ==, 8513);
  g_assert_cmpuint (kw_config_get_server (config)->failed_decrypts, ==, 60);
  g_assert_cmpuint (kw_config_get_jwt (config)->leeway, ==, 120);
  g_assert_cmpuint (kw_config_get_pkcs11 (config)->sessions, ==, 4);
  g_assert_false (kw_config_get_pkcs11 (config)->has_slot);
  g_assert_false (kw_config_get_line (config)->enabled);
  g_assert_null (kw_config_get_line (config)->socket);
  g_assert_null (kw_config_get_audit_path (config));
  g_assert_cmpstr (kw_config_get_state_directory (config), ==, "/var/lib/keyward");
}

static void
assert_key_ids (KwConfig *config, const char *wanted)
{
  g_autoptr (GString) found = g_string_new (NULL);
  GPtrArray *keys = kw_config_get_hsm (config)->key_ids;

  for (guint i = 0; i < keys->len; i++)
    g_string_append_printf (found, "%s%s", i > 0 ? "|" : "",
                            kw_key_selector_get_text (g_ptr_array_index (keys, i)));
  g_assert_cmpstr (found->str, ==, wanted);
}

static void
test_hsm_defaults (void)
{
  g_autoptr (KwConfig) config = parse_good ("");
  const KwHsmConfig *hsm = kw_config_get_hsm (config);

  g_assert_false (hsm->encrypt_hsm);
  g_assert_cmpint (hsm->model, ==, KW_HSM_MODEL_PKCS11);
  assert_key_ids (config, "");
  g_assert_null (hsm->pin);
  g_assert_cmpuint (hsm->max_plaintext, ==, 16 * 1024 * 1024);
  g_assert_cmpuint (hsm->data_key_ttl, ==, 0);
  g_assert_cmpuint (hsm->min_copies, ==, 1);
  g_assert_cmpuint (hsm->check_interval, ==, 900);
  g_assert_true (hsm->replicate);
  g_assert_cmpuint (kw_config_get_smartcard (config)->timeout, ==, 10);
  g_assert_null (kw_config_get_smartcard (config)->readers);
  g_assert_cmpuint (kw_config_get_n_pkcs11 (config), ==, 1);
}

static void
test_hsm_key_ids (void)
{
  static const char *const rows[][2] = {
    { "0", "0" },
    { "\"0\"", "0" },
    { "\"1 0,2\"", "1|0|2" },
    { "[1, \"label:my key\", \"id:0A0b\"]", "1|label:my key|id:0a0b" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autofree char *text = g_strdup_printf ("[hsm]\nhsm_keyid = %s\n", rows[i][0]);
      g_autoptr (KwConfig) config = parse_good (text);

      assert_key_ids (config, rows[i][1]);
      g_assert_true (kw_config_get_hsm (config)->encrypt_hsm);
    }
}

static void
test_hsm_models (void)
{
  static const struct
  {
    const char *text;
    KwHsmModel model;
    const char *module;
  } rows[] = {
    { "[pkcs11]\nmodule = \"/m.so\"\n", KW_HSM_MODEL_PKCS11, "/m.so" },
    { "[smartcard]\n", KW_HSM_MODEL_SMARTCARD, NULL },
    { "[smartcard]\n[pkcs11]\nmodule = \"/m.so\"\n", KW_HSM_MODEL_PKCS11, "/m.so" },
    { "[hsm]\nhsm_model = \"smartcard\"\n[pkcs11]\nmodule = \"/m.so\"\n", KW_HSM_MODEL_SMARTCARD,
      "/m.so" },
    { "[hsm]\nhsm_model = \"softhsm\"\n", KW_HSM_MODEL_SOFTHSM, "/usr/lib/softhsm/libsofthsm2.so" },
    { "[hsm]\nhsm_model = \"SoftHSM\"\n[pkcs11]\nmodule = \"/m.so\"\n", KW_HSM_MODEL_SOFTHSM,
      "/m.so" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (KwConfig) config = parse_good (rows[i].text);
      gboolean card = rows[i].model == KW_HSM_MODEL_SMARTCARD;

      g_assert_cmpint (kw_config_get_hsm (config)->model, ==, rows[i].model);
      g_assert_cmpstr (kw_config_get_pkcs11 (config)->module, ==, rows[i].module);
      g_assert_true (kw_config_wants_backend (config, "smartcard") == card);
      g_assert_true (kw_config_wants_backend (config, "pkcs11") == !card);
      g_assert_true (kw_config_wants_backend (config, "fake"));
    }
  for (guint i = 0; i < KW_N_HSM_MODELS; i++)
    {
      KwHsmModel model = KW_N_HSM_MODELS;

      g_assert_true (kw_hsm_model_from_string (kw_hsm_model_to_string ((KwHsmModel) i), &model));
      g_assert_cmpint (model, ==, i);
    }
}

static void
test_several_tokens (void)
{
  g_autoptr (KwConfig) config = parse_good ("[hsm]\nhsm_pin = \"shared\"\n"
                                            "[[pkcs11]]\nmodule = \"/a.so\"\nslot = 7\n"
                                            "[[pkcs11]]\nmodule = \"/a.so\"\ntoken_label = \"b\"\n"
                                            "pin = \"own\"\nsessions = 2\ntimeout = 3\n"
                                            "[[pkcs11]]\nmodule = \"/c.so\"\npin = \"file:/x\"\n");
  const KwPkcs11Config *table = NULL;

  g_assert_cmpuint (kw_config_get_n_pkcs11 (config), ==, 3);
  table = kw_config_get_pkcs11_table (config, 0);
  g_assert_true (table == kw_config_get_pkcs11 (config));
  g_assert_cmpuint (table->slot, ==, 7);
  g_assert_cmpuint (table->sessions, ==, 4);
  g_assert_true (kw_secret_equal (table->pin, "shared", 6));
  g_assert_cmpstr (table->pin_name, ==, "[hsm] hsm_pin");
  table = kw_config_get_pkcs11_table (config, 1);
  g_assert_false (table->has_slot);
  g_assert_cmpstr (table->token_label, ==, "b");
  g_assert_cmpuint (table->sessions, ==, 2);
  g_assert_cmpuint (table->timeout, ==, 3);
  g_assert_true (kw_secret_equal (table->pin, "own", 3));
  g_assert_cmpstr (table->pin_name, ==, "[pkcs11] pin");
  table = kw_config_get_pkcs11_table (config, 2);
  g_assert_cmpstr (table->module, ==, "/c.so");
  g_assert_null (table->pin);
  g_assert_cmpstr (table->pin_source, ==, "file:/x");
}

static void
test_too_many_tokens (void)
{
  g_autoptr (GString) text = g_string_new (NULL);

  for (guint i = 0; i <= KW_MAX_PKCS11_TABLES; i++)
    g_string_append (text, "[[pkcs11]]\n");
  assert_bad (text->str, ":33: more than 32 tables [[pkcs11]]");
}

static void
test_hsm_pin_from_a_file (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = kw_test_make_directory ();
  g_autofree char *pin = kw_test_write_file (directory, "pin", "648219\n", 0600);
  g_autofree char *text = g_strdup_printf ("[hsm]\nhsm_pin = \"file:%s\"\n", pin);
  g_autoptr (KwConfig) config = parse_good (text);
  g_auto (GStrv) files = kw_config_dup_secret_files (config);

  g_assert_cmpstr (files[0], ==, pin);
  g_assert_null (kw_config_get_pkcs11 (config)->pin);
  g_assert_true (kw_config_load_pin (config, &error));
  g_assert_true (kw_secret_equal (kw_config_get_hsm (config)->pin, "648219", 6));
  g_assert_true (kw_secret_equal (kw_config_get_pkcs11 (config)->pin, "648219", 6));
  kw_test_remove_directory (directory);
  config = (g_object_unref (config), parse_good (text));
  g_assert_false (kw_config_load_pin (config, &error));
  g_assert_true (g_str_has_prefix (error->message, "[hsm] hsm_pin: "));
}

static void
test_readers (void)
{
  g_autoptr (KwConfig) config
      = parse_good ("[smartcard]\ntimeout = 4\nreaders = [\"Nitrokey*\", \"*SCR*\"]\n");

  g_assert_cmpuint (kw_config_get_smartcard (config)->timeout, ==, 4);
  g_assert_cmpuint (g_strv_length (kw_config_get_smartcard (config)->readers), ==, 2);
  g_assert_cmpstr (kw_config_get_smartcard (config)->readers[1], ==, "*SCR*");
}

static void
test_hsmdaemon_file (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwConfig) config
      = parse_good ("[pkcs11]\n# softhsm\nmodule = \"/usr/lib/softhsm/libsofthsm2.so\"\n"
                    "pin = \"1234\"\nslot = 1989683358\n\n[jwt]\nsecret = \"" SECRET "\"\n\n"
                    "[logger]\nlevel = \"debug\"\npath = \"file:///var/log/hsm%20daemon.log\"\n"
                    "encoding = \"console\"\n\n[server]\nhostname = \"127.0.0.1\"\nport = 8514\n");

  g_assert_cmpstr (kw_config_get_pkcs11 (config)->module, ==, "/usr/lib/softhsm/libsofthsm2.so");
  g_assert_true (kw_secret_equal (kw_config_get_pkcs11 (config)->pin, "1234", 4));
  g_assert_true (kw_config_get_pkcs11 (config)->has_slot);
  g_assert_cmpuint (kw_config_get_pkcs11 (config)->slot, ==, 1989683358);
  g_assert_true (kw_secret_equal (kw_config_get_jwt (config)->secret, SECRET, strlen (SECRET)));
  g_assert_cmpuint (kw_config_get_log (config)->level, ==, G_LOG_LEVEL_DEBUG);
  g_assert_cmpstr (kw_config_get_log (config)->path, ==, "/var/log/hsm daemon.log");
  g_assert_cmpuint (kw_config_get_log (config)->encoding, ==, KW_LOG_ENCODING_CONSOLE);
  g_assert_cmpstr (kw_config_get_server (config)->hostname, ==, "127.0.0.1");
  g_assert_cmpuint (kw_config_get_server (config)->port, ==, 8514);
  g_assert_true (kw_config_check_server (config, &error));
  g_assert_no_error (error);
}

static void
test_empty_pin_is_none (void)
{
  g_autoptr (KwConfig) config = parse_good ("[pkcs11]\npin = \"\"\nslot = \"0\"\n");

  g_assert_null (kw_config_get_pkcs11 (config)->pin);
  g_assert_true (kw_config_get_pkcs11 (config)->has_slot);
}

static void
test_line (void)
{
  g_autoptr (KwConfig) plain = parse_good ("[line]\n");
  g_autoptr (KwConfig) tcp
      = parse_good ("[line]\nport = 99\nallow_users = [\"root\", 33, \"34\"]\n");

  g_assert_true (kw_config_get_line (plain)->enabled);
  g_assert_cmpstr (kw_config_get_line (plain)->socket, ==, "/run/keyward/owncloud.sock");
  g_assert_null (kw_config_get_line (tcp)->socket);
  g_assert_cmpstr (kw_config_get_line (tcp)->hostname, ==, "localhost");
  g_assert_cmpuint (kw_config_get_line (tcp)->allow_uids->len, ==, 3);
  g_assert_cmpuint (g_array_index (kw_config_get_line (tcp)->allow_uids, guint32, 0), ==, 0);
  g_assert_cmpuint (g_array_index (kw_config_get_line (tcp)->allow_uids, guint32, 1), ==, 33);
  g_assert_cmpuint (g_array_index (kw_config_get_line (tcp)->allow_uids, guint32, 2), ==, 34);
}

static void
test_cap_connections (void)
{
  g_autoptr (KwConfig) config
      = parse_good ("[server]\nmax_connections = 300\n[line]\nmax_connections = 100\n");

  g_assert_false (kw_config_cap_connections (config, 400));
  g_assert_true (kw_config_cap_connections (config, 200));
  g_assert_cmpuint (kw_config_get_server (config)->max_connections, ==, 150);
  g_assert_cmpuint (kw_config_get_line (config)->max_connections, ==, 50);
  g_assert_true (kw_config_cap_connections (config, 0));
  g_assert_cmpuint (kw_config_get_server (config)->max_connections, ==, 1);
}

static void
test_weak_secrets (void)
{
  static const struct
  {
    const char *secret;
    const char *size;
  } rows[] = { { "secret", "6" }, { "123456789012345", "15" } };
  g_autoptr (KwConfig) none = parse_good ("");
  g_autoptr (GError) error = NULL;

  g_assert_false (kw_config_check_server (none, &error));
  kw_assert_error (error, KW_ERROR_CONFIG,
                   FILE_NAME ": [jwt] secret is missing; make one with: hsmdaemon setup (or: "
                             "openssl rand -hex 32)");
  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autofree char *text = g_strdup_printf ("[jwt]\nsecret = \"%s\"\n", rows[i].secret);
      g_autofree char *message = g_strdup_printf (
          FILE_NAME ": [jwt] secret is too weak: it has %s bytes, at least 16 are needed; make one "
                    "with: openssl rand -hex 32, and give ownCloud the same: occ config:app:set "
                    "encryption hsm.jwt.secret",
          rows[i].size);
      g_autoptr (KwConfig) config = parse_good (text);

      g_assert_false (kw_config_check_server (config, &error));
      kw_assert_error (error, KW_ERROR_CONFIG, message);
    }
}

static void
test_modes (void)
{
  static const struct
  {
    const char *text;
    guint mode;
    gboolean good;
  } rows[] = {
    { "[pkcs11]\npin = \"1\"\n", 0600, TRUE },  { "[pkcs11]\npin = \"1\"\n", 0400, TRUE },
    { "[pkcs11]\npin = \"1\"\n", 0644, FALSE }, { "[pkcs11]\npin = \"1\"\n", 0604, FALSE },
    { "[pkcs11]\npin = \"1\"\n", 0620, FALSE }, { "[jwt]\nsecret = \"1\"\n", 0602, FALSE },
    { "[server]\nport = 1\n", 0644, TRUE },     { "[pkcs11]\npin = \"file:/x\"\n", 0644, TRUE },
    { "[pkcs11]\npin = \"\"\n", 0644, TRUE },
  };
  char *directory = kw_test_make_directory ();

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *path
          = kw_test_write_file (directory, "x.toml", rows[i].text, (int) rows[i].mode);
      g_autofree char *message = g_strdup_printf (
          "%s holds a secret but its mode is %04o, so others can get at it; run: chmod 0600 %s",
          path, rows[i].mode, path);
      g_autoptr (KwConfig) config G_GNUC_UNUSED = kw_config_new_from_file (path, &error);

      if (rows[i].good)
        g_assert_no_error (error);
      else
        kw_assert_error (error, KW_ERROR_PERMISSION, message);
    }
  kw_test_remove_directory (directory);
}

static void
test_mode_of_missing_file (void)
{
  g_autoptr (GError) error = NULL;

  g_assert_false (kw_config_check_file_mode ("/dev/null/x", &error));
  kw_assert_error (error, KW_ERROR_PERMISSION, "Cannot look at /dev/null/x: Not a directory");
}

static void
test_secrets_from_files (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = kw_test_make_directory ();
  g_autofree char *pin = kw_test_write_file (directory, "pin", "648219\n", 0600);
  g_autofree char *secret = kw_test_write_file (directory, "secret", SECRET "\n", 0600);
  g_autofree char *text = g_strdup_printf ("[pkcs11]\npin = \"file:%s\"\n[jwt]\nsecret = "
                                           "\"credential:secret\"\n",
                                           pin);
  g_autoptr (KwConfig) config = parse_good (text);
  g_auto (GStrv) files = kw_config_dup_secret_files (config);
  g_autofree char *open_mode = g_strdup_printf (
      "[pkcs11] pin: %s holds a secret but its mode is 0644, so others can get at it; run: chmod "
      "0600 %s",
      pin, pin);
  g_autofree char *missing
      = g_strdup_printf ("[pkcs11] pin: Cannot look at %s: No such file or directory", pin);
  g_autofree char *no_secret
      = g_strdup_printf ("[jwt] secret: Cannot open %s: No such file or directory", secret);

  g_assert_cmpuint (g_strv_length (files), ==, 1);
  g_assert_cmpstr (files[0], ==, pin);
  g_unsetenv ("CREDENTIALS_DIRECTORY");
  g_assert_cmpint (g_chmod (pin, 0644), ==, 0);
  g_assert_false (kw_config_load_pin (config, &error));
  kw_assert_error (error, KW_ERROR_PERMISSION, open_mode);
  g_assert_cmpint (g_unlink (pin), ==, 0);
  g_assert_false (kw_config_load_secrets (config, &error));
  kw_assert_error (error, KW_ERROR_PERMISSION, missing);
  g_free (pin);
  pin = kw_test_write_file (directory, "pin", "648219\n", 0600);
  g_assert_false (kw_config_load_secrets (config, &error));
  kw_assert_error (error, KW_ERROR_CONFIG,
                   "[jwt] secret is \"credential:secret\", but systemd passed no credentials; add "
                   "LoadCredential=secret:PATH to the unit");
  g_setenv ("CREDENTIALS_DIRECTORY", directory, TRUE);
  g_assert_cmpint (g_unlink (secret), ==, 0);
  g_assert_false (kw_config_load_secrets (config, &error));
  kw_assert_error (error, KW_ERROR_FAILED, no_secret);
  g_free (secret);
  secret = kw_test_write_file (directory, "secret", SECRET "\n", 0600);
  g_assert_true (kw_config_load_secrets (config, &error));
  g_assert_true (kw_secret_equal (kw_config_get_pkcs11 (config)->pin, "648219", 6));
  g_assert_true (kw_secret_equal (kw_config_get_jwt (config)->secret, SECRET, strlen (SECRET)));
  g_unsetenv ("CREDENTIALS_DIRECTORY");
  kw_test_remove_directory (directory);
}

#define ACCESS "[hsm]\nhsm_keyid = 0\n[[access]]\n"

static void
test_access (void)
{
  g_autoptr (KwConfig) config
      = parse_good (ACCESS "user = \"root\"\nverbs = [\"use-keys\", \"unlock\"]\n"
                           "keys = [\"0\", \"6ba7b810-9dad-11d1-80b4-00c04fd430c8\"]\n"
                           "[[access]]\ngroup = \"root\"\nverbs = [\"test\"]\n");
  GPtrArray *rules = kw_config_get_access (config);
  const KwAccessRule *first = g_ptr_array_index (rules, 0);
  const KwAccessRule *second = g_ptr_array_index (rules, 1);

  g_assert_cmpuint (rules->len, ==, 2);
  g_assert_true (first->is_user);
  g_assert_cmpuint (first->id, ==, 0);
  g_assert_cmpuint (first->classes, ==, 0x11);
  g_assert_cmpuint (g_strv_length (first->keys), ==, 2);
  g_assert_false (second->is_user);
  g_assert_null (second->keys);
}

static void
test_bad_access (void)
{
  assert_bad (ACCESS "user = \"no-such-user\"\n",
              ":4: [access] user names no user of this system: no-such-user");
  assert_bad (ACCESS "group = \"no-such-group\"\n",
              ":4: [access] group names no group of this system: no-such-group");
  assert_bad (
      ACCESS "user = \"root\"\ngroup = \"root\"\n",
      ":5: [access] group must be alone: a table [[access]] is for one user or for one group");
  assert_bad (ACCESS "user = 0\n", ":4: [access] user must be the name of a user, in quotes");
  assert_bad (ACCESS "group = 0\n", ":4: [access] group must be the name of a group, in quotes");
  assert_bad (
      ACCESS "verbs = [\"fly\"]\n",
      ":4: [access] verbs has an unknown verb \"fly\"; there are use-keys, test, manage-devices, "
      "manage-keys and unlock");
  assert_bad (ACCESS "verbs = \"test\"\n",
              ":4: [access] verbs must be a list such as [\"use-keys\", \"test\"]");
  assert_bad (ACCESS "keys = \"0\"\n",
              ":4: [access] keys must be a list of entries of hsm_keyid and of "
              "UUIDs, such as [\"0\"]");
  assert_bad (ACCESS "user = \"root\"\nverbs = [\"test\"]\nkeys = [\"1\"]\n",
              ":3: [[access]] keys has \"1\", which is neither in hsm_keyid nor a UUID");
  assert_bad (ACCESS "user = \"root\"\n", ":3: [[access]] needs verbs");
  assert_bad (ACCESS "verbs = [\"test\"]\n", ":3: [[access]] needs user or group");
  assert_bad (ACCESS "verb = [\"test\"]\n",
              ":4: unknown key \"verb\" in table [access]; did you mean \"verbs\"?");
}

#define CLIENT "[hsm]\nhsm_keyid = 0\n[[api.client]]\n"
#define GOOD_CLIENT CLIENT "name = \"a\"\nsecret = \"0123456789abcdef\"\nverbs = [\"use-keys\"]\n"

static void
test_api_clients (void)
{
  g_autoptr (KwConfig) config
      = parse_good ("[jwt]\nsecret = \"" SECRET
                    "\"\n[webui]\npublic_status = true\nhosts = [\"keys.example\"]\n" GOOD_CLIENT
                    "keys = [\"0\"]\n"
                    "[[api.client]]\nname = \"b\"\nsecret = \"fedcba9876543210\"\nverbs = []\n");
  GPtrArray *clients = kw_config_get_api_clients (config);
  const KwApiClientConfig *first = g_ptr_array_index (clients, 0);
  const KwApiClientConfig *second = g_ptr_array_index (clients, 1);
  g_autofree char *url = kw_config_dup_url (config);
  g_autoptr (GError) error = NULL;

  g_assert_cmpuint (clients->len, ==, 2);
  g_assert_cmpstr (first->name, ==, "a");
  g_assert_true (kw_grant_allows_class (first->grant, KW_VERB_CLASS_USE_KEYS));
  g_assert_true (kw_grant_allows_key (first->grant, KW_VERB_CLASS_USE_KEYS, "0"));
  g_assert_false (kw_grant_allows_key (first->grant, KW_VERB_CLASS_USE_KEYS, "1"));
  g_assert_false (kw_grant_allows_class (second->grant, KW_VERB_CLASS_USE_KEYS));
  g_assert_true (kw_config_get_webui (config)->public_status);
  g_assert_cmpstr (kw_config_get_webui (config)->hosts[0], ==, "keys.example");
  g_assert_cmpstr (url, ==, "http://localhost:8513/");
  g_assert_true (kw_config_check_server (config, &error));
  g_assert_no_error (error);
}

static void
test_urls (void)
{
  static const struct
  {
    const char *text;
    const char *url;
  } cases[] = {
    { "[server]\nhostname = \"::1\"\nport = 1\n", "http://[::1]:1/" },
    { "[server]\nhostname = \"0.0.0.0\"\nport = 2\n", "http://localhost:2/" },
    { "[server]\nhostname = \"::\"\nport = 3\n[webui]\nhosts = [\"k.example\"]\n",
      "http://k.example:3/" },
    { "[server]\nhostname = \"k.example\"\ntls_certificate = \"/c\"\ntls_key = \"/k\"\n",
      "https://k.example:8513/" },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (KwConfig) config = parse_good (cases[i].text);
      g_autofree char *url = kw_config_dup_url (config);

      g_assert_cmpstr (url, ==, cases[i].url);
    }
}

static void
test_bad_api_clients (void)
{
  g_autoptr (GString) many = g_string_new (CLIENT);

  assert_bad (CLIENT "secret = \"0123456789abcdef\"\nverbs = []\n",
              ":3: [[api.client]] needs name");
  assert_bad (CLIENT "name = \"a\"\nverbs = []\n", ":3: [[api.client]] needs secret");
  assert_bad (CLIENT "name = \"a\"\nsecret = \"0123456789abcdef\"\n",
              ":3: [[api.client]] needs verbs");
  assert_bad (CLIENT "name = 1\n",
              ":4: [api.client] name must be a name in quotes, of 64 bytes at most");
  assert_bad (CLIENT "secret = 1\n", ":4: [api.client] secret " BARE_NUMBER);
  assert_bad (CLIENT "verbs = [\"fly\"]\n",
              ":4: [api.client] verbs has an unknown verb \"fly\"; there are use-keys, test, "
              "manage-devices, manage-keys and unlock");
  assert_bad (CLIENT "keys = [\"0\"]\nvers = []\n",
              ":5: unknown key \"vers\" in table [api.client]; did you mean \"verbs\"?");
  assert_bad (GOOD_CLIENT "keys = [\"7\"]\n",
              ":3: [[api.client]] keys has \"7\", which is neither in hsm_keyid nor a UUID");
  assert_bad (GOOD_CLIENT
              "[[api.client]]\nname = \"a\"\nsecret = \"fedcba9876543210\"\nverbs = []\n",
              ":7: [[api.client]] name: there is another client \"a\"");
  assert_bad ("[api.client]\nname = \"a\"\n",
              ":1: [api.client] has to be written [[api.client]]: there may be several");
  assert_bad ("[api.clients]\n", ":1: unknown table [api.clients]");
  assert_bad ("[webui]\nhosts = \"a\"\n",
              ":2: [webui] hosts must be a list of names, such as [\"keys.example.org\"]");
  assert_bad ("[webui]\nhosts = [\"http://a\"]\n",
              ":2: [webui] hosts must be a list of names without port or scheme, such as "
              "[\"keys.example.org\"]");
  assert_bad ("[webui]\npublic_status = 1\n", ":2: [webui] public_status must be true or false");
  for (guint i = 0; i < KW_MAX_API_CLIENTS; i++)
    g_string_append (many, "[[api.client]]\n");
  assert_bad (many->str, ":35: more than 32 tables [[api.client]]");
}

/* What only the daemon looks at. */
static void
test_weak_client_secrets (void)
{
  static const struct
  {
    const char *secret;
    const char *error;
  } cases[] = {
    { "short", "secret of \"a\" is too weak: it has 5 bytes, at least 16 are needed" },
    { SECRET, "secret of \"a\" is another one's too; each needs its own" },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *text
          = g_strdup_printf ("[jwt]\nsecret = \"" SECRET
                             "\"\n[[api.client]]\nname = \"a\"\nsecret = \"%s\"\nverbs = []\n",
                             cases[i].secret);
      g_autoptr (KwConfig) config = parse_good (text);
      g_autoptr (GError) error = NULL;

      g_assert_false (kw_config_check_server (config, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_CONFIG);
      g_assert_nonnull (strstr (error->message, cases[i].error));
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/config/each-key-wrong", test_each_key_wrong);
  g_test_add_func ("/config/secrets-too-long", test_secrets_too_long);
  g_test_add_func ("/config/unknown-names", test_unknown_names);
  g_test_add_func ("/config/not-toml", test_not_toml);
  g_test_add_func ("/config/together", test_together);
  g_test_add_func ("/config/deep-nesting", test_deep_nesting);
  g_test_add_func ("/config/too-many-keys", test_too_many_keys);
  g_test_add_func ("/config/file-too-large", test_file_too_large);
  g_test_add_func ("/config/file-is-missing", test_file_is_missing);
  g_test_add_func ("/config/defaults", test_defaults);
  g_test_add_func ("/config/hsm-defaults", test_hsm_defaults);
  g_test_add_func ("/config/hsm-key-ids", test_hsm_key_ids);
  g_test_add_func ("/config/hsm-models", test_hsm_models);
  g_test_add_func ("/config/several-tokens", test_several_tokens);
  g_test_add_func ("/config/too-many-tokens", test_too_many_tokens);
  g_test_add_func ("/config/hsm-pin-from-a-file", test_hsm_pin_from_a_file);
  g_test_add_func ("/config/readers", test_readers);
  g_test_add_func ("/config/hsmdaemon-file", test_hsmdaemon_file);
  g_test_add_func ("/config/empty-pin-is-none", test_empty_pin_is_none);
  g_test_add_func ("/config/line", test_line);
  g_test_add_func ("/config/access", test_access);
  g_test_add_func ("/config/bad-access", test_bad_access);
  g_test_add_func ("/config/api-clients", test_api_clients);
  g_test_add_func ("/config/bad-api-clients", test_bad_api_clients);
  g_test_add_func ("/config/weak-client-secrets", test_weak_client_secrets);
  g_test_add_func ("/config/urls", test_urls);
  g_test_add_func ("/config/cap-connections", test_cap_connections);
  g_test_add_func ("/config/weak-secrets", test_weak_secrets);
  g_test_add_func ("/config/modes", test_modes);
  g_test_add_func ("/config/mode-of-missing-file", test_mode_of_missing_file);
  g_test_add_func ("/config/secrets-from-files", test_secrets_from_files);
  return g_test_run ();
}
