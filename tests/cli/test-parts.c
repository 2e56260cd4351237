/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-cli-parts"

#include "config.h"

#include "kw-cli-access.h"
#include "kw-cli-config.h"
#include "kw-cli-output.h"
#include "kw-cli-port.h"
#include "kw-cli-rig.h"
#include "kw-error.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Pieces that commands are made of, without a program around them. */

static KwSecret *
decode (const char *text, GError **error)
{
  g_autoptr (KwSecret) secret = kw_secret_new_copy (text, strlen (text), NULL);

  return kw_cli_decode_base64 (secret, error);
}

static void
test_base64_round_trip (void)
{
  guint8 bytes[80];

  for (gsize i = 0; i < sizeof bytes; i++)
    bytes[i] = (guint8) (i * 37 + 200);
  for (gsize size = 1; size <= sizeof bytes; size++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (KwSecret) text = kw_cli_encode_base64 (bytes, size, &error);
      g_autofree char *expected = g_base64_encode (bytes, size);
      g_autoptr (KwSecret) back = NULL;

      g_assert_no_error (error);
      g_assert_cmpmem (kw_secret_get_data (text), kw_secret_get_size (text), expected,
                       strlen (expected));
      back = kw_cli_decode_base64 (text, &error);
      g_assert_no_error (error);
      g_assert_cmpmem (kw_secret_get_data (back), kw_secret_get_size (back), bytes, size);
    }
}

static void
test_base64_white_space (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) result = decode (" aGVs\r\nbG 8=\n", &error);

  g_assert_no_error (error);
  g_assert_cmpmem (kw_secret_get_data (result), kw_secret_get_size (result), "hello", 5);
}

static void
test_base64_refuses (void)
{
  static const char *const wrong[]
      = { "a",    "aa",    "aaa",  "aaaaa", "aaa==",      "aa=",     "====",
          "aa=a", "aaaa=", "aaa-", "aaa_",  "\xc3\xa4==", "aaaa====" };
  static const char *const empty[] = { "", "\n", " \t" };

  for (guint i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_null (decode (wrong[i], &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
      g_assert_cmpstr (error->message, ==, "The input is not base64");
    }
  for (guint i = 0; i < G_N_ELEMENTS (empty); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_null (decode (empty[i], &error));
      g_assert_cmpstr (error->message, ==, "The input is empty");
    }
}

static void
test_toml_string (void)
{
  g_autoptr (GString) toml = g_string_new ("[state]\ndirectory = ");
  const char *path = "/a \"quoted\\ place\"\n\x01/ä";
  g_autoptr (KwConfig) config = NULL;
  g_autoptr (GError) error = NULL;

  kw_cli_append_toml_string (toml, path);
  config = kw_config_new_from_data ("test", toml->str, toml->len, &error);
  g_assert_no_error (error);
  g_assert_cmpstr (kw_config_get_state_directory (config), ==, path);
}

static void
test_find_modules (void)
{
  g_autofree char *root = g_dir_make_tmp ("keyward-cli-XXXXXX", NULL);
  g_autofree char *folder = g_build_filename (root, "usr/lib/softhsm", NULL);
  g_autofree char *module = g_build_filename (folder, "libsofthsm2.so", NULL);
  g_autofree char *other_folder = g_build_filename (root, "usr/lib/x86_64-linux-gnu", NULL);
  g_autofree char *other = g_build_filename (other_folder, "opensc-pkcs11.so", NULL);
  g_autofree char *other_softhsm = g_build_filename (other_folder, "softhsm", NULL);
  g_autoptr (GPtrArray) none = kw_cli_find_modules (root);
  g_autoptr (GPtrArray) found = NULL;
  g_autoptr (GError) error = NULL;

  g_assert_cmpuint (none->len, ==, 0);
  g_assert_null (kw_cli_choose_module (none, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_CONFIG);

  g_assert_cmpint (g_mkdir_with_parents (folder, 0700), ==, 0);
  g_assert_cmpint (g_mkdir_with_parents (other_folder, 0700), ==, 0);
  g_file_set_contents (module, "x", 1, NULL);
  g_file_set_contents (other, "x", 1, NULL);
  /* The same file by another way is no second module. */
  g_assert_cmpint (symlink (folder, other_softhsm), ==, 0);
  found = kw_cli_find_modules (root);
  g_assert_cmpuint (found->len, ==, 2);
  g_assert_cmpstr (kw_cli_choose_module (found, NULL), ==, module);
  g_assert_cmpstr (g_ptr_array_index (found, 1), ==, other);
  kw_soft_hsm_remove_tree (root);
}

typedef struct
{
  int mode;
  guint uid_offset; /* from the owner's */
  gboolean in_group;
  int wanted;
  gboolean allowed;
} AccessCase;

static const AccessCase access_cases[] = {
  { 0400, 0, FALSE, R_OK, TRUE },       { 0400, 0, FALSE, W_OK, FALSE },
  { 0400, 1, FALSE, R_OK, FALSE },      { 0440, 1, TRUE, R_OK, TRUE },
  { 0440, 1, FALSE, R_OK, FALSE },      { 0444, 1, FALSE, R_OK, TRUE },
  { 0404, 1, TRUE, R_OK, FALSE },       { 0044, 0, TRUE, R_OK, FALSE },
  { 0660, 1, TRUE, R_OK | W_OK, TRUE }, { 0640, 1, TRUE, R_OK | W_OK, FALSE },
};

static void
test_access (void)
{
  g_autofree char *folder = g_dir_make_tmp ("keyward-cli-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (folder, "file", NULL);
  struct stat info;

  g_assert_cmpint (g_chmod (folder, 0755), ==, 0);
  g_file_set_contents (path, "x", 1, NULL);
  /* An owner who is not root: root may do everything. */
  if (geteuid () == 0)
    g_assert_cmpint (chown (path, 4711, 4712), ==, 0);
  g_assert_cmpint (stat (path, &info), ==, 0);
  for (guint i = 0; i < G_N_ELEMENTS (access_cases); i++)
    {
      const AccessCase *c = &access_cases[i];
      const guint group = info.st_gid + (c->in_group ? 0 : 1);
      g_autoptr (KwCliUser) user
          = kw_cli_user_new ("someone", info.st_uid + c->uid_offset, &group, 1);
      g_autofree char *denial = NULL;

      g_assert_cmpint (g_chmod (path, c->mode), ==, 0);
      denial = kw_cli_user_explain_denial (user, path, c->wanted);
      g_test_message ("case %u: %s", i, denial != NULL ? denial : "allowed");
      g_assert_true ((denial == NULL) == c->allowed);
    }
  g_assert_cmpint (g_chmod (path, 0600), ==, 0);
  kw_soft_hsm_remove_tree (folder);
}

static void
test_access_needs_the_folders (void)
{
  g_autofree char *folder = g_dir_make_tmp ("keyward-cli-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (folder, "file", NULL);
  const guint group = 54321;
  g_autoptr (KwCliUser) other = kw_cli_user_new ("someone", 54321, &group, 1);
  g_autoptr (KwCliUser) root = kw_cli_user_new ("root", 0, &group, 1);
  g_autofree char *denial = NULL;
  g_autofree char *missing = NULL;

  g_file_set_contents (path, "x", 1, NULL);
  g_assert_cmpint (g_chmod (path, 0644), ==, 0);
  g_assert_cmpint (g_chmod (folder, 0700), ==, 0);
  denial = kw_cli_user_explain_denial (other, path, R_OK);
  g_assert_nonnull (denial);
  g_assert_nonnull (strstr (denial, "is closed to user someone (mode 0700"));
  g_assert_null (kw_cli_user_explain_denial (root, path, R_OK));
  g_assert_cmpint (g_chmod (folder, 0711), ==, 0);
  g_assert_null (kw_cli_user_explain_denial (other, path, R_OK));
  g_remove (path);
  missing = kw_cli_user_explain_denial (other, path, R_OK);
  g_assert_nonnull (strstr (missing, "No such file"));
  kw_soft_hsm_remove_tree (folder);
}

static void
test_user_lookup (void)
{
  g_autoptr (KwCliUser) root = kw_cli_user_lookup ("root");

  g_assert_nonnull (root);
  g_assert_cmpuint (root->uid, ==, 0);
  g_assert_cmpuint (root->gids->len, >=, 1);
  g_assert_null (kw_cli_user_lookup ("there is no such user"));
}

static void
test_port_is_free_and_held (void)
{
  g_autoptr (GSocketListener) listener = g_socket_listener_new ();
  g_autoptr (GError) error = NULL;
  g_autofree char *held = NULL;
  g_autofree char *free_again = NULL;
  guint16 port = g_socket_listener_add_any_inet_port (listener, NULL, &error);

  g_assert_no_error (error);
  g_assert_cmpint (kw_cli_port_look_at ("localhost", port, &held), ==, KW_CLI_PORT_FOREIGN);
  g_assert_true (g_str_has_prefix (held, "is held by test-cli-parts (process "));
  g_socket_listener_close (listener);
  g_assert_cmpint (kw_cli_port_look_at ("localhost", port, &free_again), ==, KW_CLI_PORT_FREE);
  g_assert_cmpstr (free_again, ==, "is free");
}

static void
test_port_of_foreign_address (void)
{
  g_autofree char *text = NULL;

  /* Reserved for documentation (RFC 5737), so it is no address of this host. */
  g_assert_cmpint (kw_cli_port_look_at ("192.0.2.1", 8513, &text), ==, KW_CLI_PORT_UNUSABLE);
  g_assert_true (g_str_has_prefix (text, "cannot be listened on: "));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/base64/round-trip", test_base64_round_trip);
  g_test_add_func ("/base64/white-space", test_base64_white_space);
  g_test_add_func ("/base64/refuses", test_base64_refuses);
  g_test_add_func ("/toml/string", test_toml_string);
  g_test_add_func ("/modules/find", test_find_modules);
  g_test_add_func ("/access/modes", test_access);
  g_test_add_func ("/access/folders", test_access_needs_the_folders);
  g_test_add_func ("/access/user-lookup", test_user_lookup);
  g_test_add_func ("/port/free-and-held", test_port_is_free_and_held);
  g_test_add_func ("/port/foreign-address", test_port_of_foreign_address);
  return g_test_run ();
}
