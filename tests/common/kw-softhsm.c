/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-softhsm"

#include "kw-softhsm.h"

#include <gio/gio.h>
#include <glib/gstdio.h>
#include <string.h>

/*
 * Private SoftHSM2 tokens for a test: a directory of their own, named in SOFTHSM2_CONF for this
 * process and its children, and removed at the end.
 *
 * What SoftHSM 2.6 does that one would not expect, each seen:
 *
 * - It reads SOFTHSM2_CONF at C_Initialize. Tokens that other processes make later are not seen
 *   before C_Finalize and C_Initialize. Keys that other processes make or delete are seen at once.
 * - A token gets a new slot id when it is initialised for the first time; there is always one more
 *   slot with a token that is not initialised. Initialised anew, it keeps slot id and serial number.
 * - When another process deletes the token, its slot stays: C_GetTokenInfo answers
 *   CKR_GENERAL_ERROR, while C_GetSessionInfo, C_OpenSession and C_GenerateRandom go on as before.
 *   Handles of its keys answer CKR_OBJECT_HANDLE_INVALID, searches find nothing.
 *   softhsm2-util fails to delete the directory, though the token is gone, when a process that looks
 *   at the token at that moment makes its lock file again.
 * - A token is made in two steps; other processes see it for a moment without a PIN.
 * - When another process initialises the token anew, sessions still look logged in. Handles answer
 *   CKR_OBJECT_HANDLE_INVALID, searches find nothing. A key made by such a session is encrypted
 *   under what the old token held and cannot be read after the next C_Initialize.
 * - C_Login rewrites the token's file: logins of several processes at one time fail at times with
 *   CKR_GENERAL_ERROR. A wrong PIN sets CKF_USER_PIN_COUNT_LOW; a PIN is never locked.
 * - CKM_RSA_PKCS_OAEP takes SHA-1 alone, others are CKR_ARGUMENTS_BAD.
 * - softhsm2-util loads the module itself, so it runs as a process of its own here.
 */
struct _KwSoftHsm
{
  char *directory; /* owned */
  char *conf;      /* owned */
};

static const char *const module_paths[] = {
  "/usr/lib/softhsm/libsofthsm2.so",
  "/usr/lib64/softhsm/libsofthsm2.so",
  "/usr/lib64/pkcs11/libsofthsm2.so",
  "/usr/local/lib/softhsm/libsofthsm2.so",
};

static gboolean
try_util (const char *const *arguments, char **out_output)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GSubprocess) process = NULL;

  process = g_subprocess_newv (arguments,
                               G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_MERGE,
                               &error);
  g_assert_no_error (error);
  g_subprocess_communicate_utf8 (process, NULL, NULL, out_output, NULL, &error);
  g_assert_no_error (error);
  return g_subprocess_get_successful (process);
}

static char *
run_util (const char *const *arguments)
{
  g_autofree char *output = NULL;
  gboolean ok = try_util (arguments, &output);

  if (!ok)
    g_test_message ("softhsm2-util: %s", output);
  g_assert_true (ok);
  return g_steal_pointer (&output);
}

static void
run_delete (const char *const *arguments)
{
  static const char half_done[] = "Could not delete the directory: ";
  g_autofree char *output = NULL;
  char *path = NULL;

  if (try_util (arguments, &output))
    return;
  path = strstr (output, half_done);
  if (path == NULL)
    g_test_message ("softhsm2-util: %s", output);
  g_assert_nonnull (path);
  path += strlen (half_done);
  path[strcspn (path, "\n")] = '\0';
  kw_soft_hsm_remove_tree (path);
}

/**
 * kw_soft_hsm_find_module:
 *
 * Returns: (transfer none) (nullable): path of SoftHSM's module
 */
const char *
kw_soft_hsm_find_module (void)
{
  for (gsize i = 0; i < G_N_ELEMENTS (module_paths); i++)
    {
      if (g_file_test (module_paths[i], G_FILE_TEST_IS_REGULAR))
        return module_paths[i];
    }
  return NULL;
}

/**
 * kw_soft_hsm_is_missing:
 *
 * Marks the running test as skipped when SoftHSM is not installed.
 *
 * Returns: whether it is missing
 */
gboolean
kw_soft_hsm_is_missing (void)
{
  g_autofree char *util = g_find_program_in_path ("softhsm2-util");

  if (util != NULL && kw_soft_hsm_find_module () != NULL)
    return FALSE;
  g_test_skip ("SoftHSM2 is not installed (softhsm2-util, libsofthsm2.so)");
  return TRUE;
}

/**
 * kw_soft_hsm_remove_tree:
 * @path: a file or directory
 *
 * Removes it and all below it.
 */
void
kw_soft_hsm_remove_tree (const char *path)
{
  g_autoptr (GDir) directory
      = g_file_test (path, G_FILE_TEST_IS_SYMLINK) ? NULL : g_dir_open (path, 0, NULL);
  const char *name = NULL;

  while (directory != NULL && (name = g_dir_read_name (directory)) != NULL)
    {
      g_autofree char *child = g_build_filename (path, name, NULL);

      kw_soft_hsm_remove_tree (child);
    }
  g_remove (path);
}

/**
 * kw_soft_hsm_new:
 *
 * Makes an empty place for tokens and points SOFTHSM2_CONF at it.
 *
 * Returns: (transfer full): the place
 */
KwSoftHsm *
kw_soft_hsm_new (void)
{
  KwSoftHsm *self = g_new0 (KwSoftHsm, 1);
  g_autoptr (GError) error = NULL;
  g_autofree char *tokens = NULL;
  g_autofree char *text = NULL;

  self->directory = g_dir_make_tmp ("keyward-softhsm-XXXXXX", &error);
  g_assert_no_error (error);
  self->conf = g_build_filename (self->directory, "softhsm2.conf", NULL);
  tokens = g_build_filename (self->directory, "tokens", NULL);
  g_assert_cmpint (g_mkdir (tokens, 0700), ==, 0);
  text = g_strdup_printf ("directories.tokendir = %s\n"
                          "objectstore.backend = file\n"
                          "log.level = ERROR\n"
                          "slots.removable = false\n",
                          tokens);
  g_file_set_contents (self->conf, text, -1, &error);
  g_assert_no_error (error);
  g_setenv ("SOFTHSM2_CONF", self->conf, TRUE);
  return self;
}

/**
 * kw_soft_hsm_free:
 * @self: (transfer full): the place
 *
 * Removes all tokens.
 */
void
kw_soft_hsm_free (KwSoftHsm *self)
{
  kw_soft_hsm_remove_tree (self->directory);
  g_free (self->directory);
  g_free (self->conf);
  g_free (self);
}

/**
 * kw_soft_hsm_get_directory:
 * @self: the place
 *
 * Returns: (transfer none): a directory that is removed at the end, free for other use
 */
const char *
kw_soft_hsm_get_directory (KwSoftHsm *self)
{
  return self->directory;
}

/**
 * kw_soft_hsm_get_conf:
 * @self: the place
 *
 * Returns: (transfer none): value of SOFTHSM2_CONF
 */
const char *
kw_soft_hsm_get_conf (KwSoftHsm *self)
{
  return self->conf;
}

/**
 * kw_soft_hsm_add_token:
 * @self: the place
 * @label: label of the token
 * @so_pin: its SO-PIN
 * @pin: its PIN
 *
 * Makes a token, from a process of its own.
 */
void
kw_soft_hsm_add_token (KwSoftHsm *self G_GNUC_UNUSED,
                       const char *label,
                       const char *so_pin,
                       const char *pin)
{
  const char *const arguments[] = { "softhsm2-util", "--init-token", "--free", "--label", label,
                                    "--so-pin",      so_pin,         "--pin",  pin,       NULL };

  g_free (run_util (arguments));
}

/**
 * kw_soft_hsm_delete_token:
 * @self: the place
 * @label: label of the token
 *
 * Deletes a token, from a process of its own.
 */
void
kw_soft_hsm_delete_token (KwSoftHsm *self G_GNUC_UNUSED, const char *label)
{
  const char *const arguments[] = { "softhsm2-util", "--delete-token", "--token", label, NULL };

  run_delete (arguments);
}

/**
 * kw_soft_hsm_delete_serial:
 * @self: the place
 * @serial: serial number of the token
 *
 * Deletes one of several tokens with the same label, from a process of its own.
 */
void
kw_soft_hsm_delete_serial (KwSoftHsm *self G_GNUC_UNUSED, const char *serial)
{
  const char *const arguments[] = { "softhsm2-util", "--delete-token", "--serial", serial, NULL };

  run_delete (arguments);
}

/**
 * kw_soft_hsm_reinit_token:
 * @self: the place
 * @label: label of the token
 * @new_label: label it gets
 * @so_pin: its SO-PIN
 * @pin: PIN it gets
 *
 * Initialises a token anew, from a process of its own: its keys are lost, its serial number stays.
 */
void
kw_soft_hsm_reinit_token (KwSoftHsm *self G_GNUC_UNUSED,
                          const char *label,
                          const char *new_label,
                          const char *so_pin,
                          const char *pin)
{
  const char *const arguments[]
      = { "softhsm2-util", "--init-token", "--token", label, "--label", new_label,
          "--so-pin",      so_pin,         "--pin",   pin,   NULL };

  g_free (run_util (arguments));
}

static char *
field_of_line (const char *line, const char *name)
{
  g_autofree char *text = g_strstrip (g_strdup (line));

  if (!g_str_has_prefix (text, name))
    return NULL;
  return g_strdup (g_strchug (text + strlen (name)));
}

/**
 * kw_soft_hsm_list_labels:
 * @self: the place
 *
 * Returns: (transfer full): the labels of all initialised tokens
 */
char **
kw_soft_hsm_list_labels (KwSoftHsm *self G_GNUC_UNUSED)
{
  const char *const arguments[] = { "softhsm2-util", "--show-slots", NULL };
  g_autofree char *output = run_util (arguments);
  g_auto (GStrv) lines = g_strsplit (output, "\n", -1);
  g_autoptr (GStrvBuilder) labels = g_strv_builder_new ();

  for (gsize i = 0; lines[i] != NULL; i++)
    {
      g_autofree char *label = field_of_line (lines[i], "Label:");

      if (label != NULL && label[0] != '\0')
        g_strv_builder_add (labels, label);
    }
  return g_strv_builder_end (labels);
}

/**
 * kw_soft_hsm_dup_slot:
 * @self: the place
 * @label: label of a token
 *
 * Returns: (transfer full) (nullable): the token's slot id, a decimal number
 */
char *
kw_soft_hsm_dup_slot (KwSoftHsm *self G_GNUC_UNUSED, const char *label)
{
  const char *const arguments[] = { "softhsm2-util", "--show-slots", NULL };
  g_autofree char *output = run_util (arguments);
  g_auto (GStrv) lines = g_strsplit (output, "\n", -1);
  const char *slot = NULL;

  for (gsize i = 0; lines[i] != NULL; i++)
    {
      g_autofree char *found = field_of_line (lines[i], "Label:");

      if (g_str_has_prefix (lines[i], "Slot "))
        slot = lines[i] + strlen ("Slot ");
      if (g_strcmp0 (found, label) == 0 && slot != NULL)
        return g_strstrip (g_strdup (slot));
    }
  return NULL;
}

/**
 * kw_soft_hsm_dup_serial:
 * @self: the place
 * @label: label of a token
 *
 * Returns: (transfer full) (nullable): the token's serial number
 */
char *
kw_soft_hsm_dup_serial (KwSoftHsm *self G_GNUC_UNUSED, const char *label)
{
  const char *const arguments[] = { "softhsm2-util", "--show-slots", NULL };
  g_autofree char *output = run_util (arguments);
  g_auto (GStrv) lines = g_strsplit (output, "\n", -1);
  g_autofree char *serial = NULL;

  for (gsize i = 0; lines[i] != NULL; i++)
    {
      g_autofree char *new_serial = field_of_line (lines[i], "Serial number:");
      g_autofree char *found = field_of_line (lines[i], "Label:");

      if (new_serial != NULL)
        {
          g_free (serial);
          serial = g_steal_pointer (&new_serial);
        }
      if (g_strcmp0 (found, label) == 0)
        return g_steal_pointer (&serial);
    }
  return NULL;
}
