/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-bus-access"

#include "kw-bus-generated.h"
#include "kw-bus-names.h"
#include "kw-bus-rig.h"
#include "kw-error.h"
#include "kw-grant.h"

#include <fcntl.h>
#include <gio/gunixfdlist.h>
#include <string.h>
#include <unistd.h>

/*
 * Who may do what on the bus: every method for root, with polkit's consent and without, without polkit, and by [[access]].
 */

#define CONFIG "[hsm]\nhsm_keyid = [\"label:first\", \"label:second\"]\n"
#define ACCESS "[[access]]\nuser = \"65534\"\nverbs = [\"use-keys\"]\nkeys = [\"label:first\"]\n"
#define WAIT_USEC (20 * G_TIME_SPAN_SECOND)
#define ANSWER_USEC (12 * G_TIME_SPAN_SECOND)

typedef struct
{
  KwBusRig *rig;
  GDBusConnection *root;
  GDBusConnection *other;
  KwPolkit *polkit;
  char *device;
  char *key;
  char *job;
} Fixture;

static void
make_key (Fixture *f, const char *label)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) reply G_GNUC_UNUSED
      = kw_bus_rig_call (f->root, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "GenerateKey",
                         g_variant_new ("(ssa{sv})", "aes256", label, NULL), &error);

  g_assert_no_error (error);
}

static void
wait_until_consistent (Fixture *f)
{
  gint64 deadline = g_get_monotonic_time () + WAIT_USEC;
  gboolean consistent = FALSE;

  while (!consistent)
    {
      g_autoptr (GVariant) reply
          = kw_bus_rig_call (f->root, KW_BUS_PATH, "org.freedesktop.DBus.Properties", "Get",
                             g_variant_new ("(ss)", KW_BUS_MANAGER_INTERFACE, "Consistent"), NULL);
      g_autoptr (GVariant) value = NULL;

      g_variant_get (reply, "(v)", &value);
      consistent = g_variant_get_boolean (value);
      g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    }
}

static void
set_up (Fixture *f, gconstpointer data)
{
  g_autofree char *config = g_strconcat (CONFIG, data != NULL ? (const char *) data : "", NULL);
  g_autoptr (GVariant) reply = NULL;
  g_autoptr (GError) error = NULL;

  f->rig = kw_bus_rig_new (config);
  kw_bus_rig_start (f->rig);
  f->root = kw_bus_rig_connect (f->rig, 0);
  f->other = kw_bus_rig_connect (f->rig, KW_TEST_OTHER_UID);
  f->device = kw_bus_rig_wait_for_object (f->root, KW_BUS_DEVICE_INTERFACE, WAIT_USEC);
  make_key (f, "first");
  make_key (f, "second");
  wait_until_consistent (f);
  f->key = kw_bus_rig_wait_for_object (f->root, KW_BUS_KEY_INTERFACE, WAIT_USEC);
  reply = kw_bus_rig_call (f->root, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "RunTest",
                           g_variant_new ("(a{sv})", NULL), &error);
  g_assert_no_error (error);
  g_variant_get (reply, "(o)", &f->job);
}

static void
tear_down (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_clear_object (&f->root);
  g_clear_object (&f->other);
  g_clear_pointer (&f->polkit, kw_polkit_free);
  kw_bus_rig_free (f->rig);
  g_free (f->device);
  g_free (f->key);
  g_free (f->job);
}

/* Arguments with which a method is called here; “%h” descriptors are an empty pipe and /dev/null. */
typedef struct
{
  const char *interface;
  const char *method;
  const char *parameters; /* NULL = none */
  const char *action;     /* NULL = anybody may */
} Row;

static const Row rows[] = {
  { KW_BUS_MANAGER_INTERFACE, "Encrypt", "(@ay [1], @a{sv} {})", "use-keys" },
  { KW_BUS_MANAGER_INTERFACE, "Decrypt", "(@ay [1], @a{sv} {})", "use-keys" },
  { KW_BUS_MANAGER_INTERFACE, "Rewrap", "(@ay [1], @a{sv} {})", "use-keys" },
  { KW_BUS_MANAGER_INTERFACE, "Random", "(uint32 8,)", "use-keys" },
  { KW_BUS_MANAGER_INTERFACE, "GenerateKey", "('rsa2048', 'x', @a{sv} {})", "manage-keys" },
  { KW_BUS_MANAGER_INTERFACE, "RunTest", "(@a{sv} {},)", "test" },
  { KW_BUS_MANAGER_INTERFACE, "CheckConsistency", NULL, "test" },
  { KW_BUS_MANAGER_INTERFACE, "AcceptKey", "('label:none', @a{sv} {})", "manage-keys" },
  { KW_BUS_MANAGER_INTERFACE, "Unlock", "(handle 0, @a{sv} {})", "unlock" },
  { KW_BUS_MANAGER_INTERFACE, "Reload", NULL, "manage-devices" },
  { KW_BUS_MANAGER_INTERFACE, "EncryptFile", "(handle 0, handle 1, @a{sv} {})", "use-keys" },
  { KW_BUS_MANAGER_INTERFACE, "DecryptFile", "(handle 0, handle 1, @a{sv} {})", "use-keys" },
  { KW_BUS_MANAGER_INTERFACE, "WebLogin", NULL, "test" },
  { KW_BUS_JOB_INTERFACE, "Cancel", NULL, "test" },
  { KW_BUS_DEVICE_INTERFACE, "Retry", NULL, "manage-devices" },
  { KW_BUS_DEVICE_INTERFACE, "Test", "(@a{sv} {},)", "test" },
  { KW_BUS_KEY_INTERFACE, "GetUses", NULL, NULL },
};

static const char *
path_of (Fixture *f, const Row *row)
{
  if (g_str_equal (row->interface, KW_BUS_DEVICE_INTERFACE))
    return f->device;
  if (g_str_equal (row->interface, KW_BUS_KEY_INTERFACE))
    return f->key;
  if (g_str_equal (row->interface, KW_BUS_JOB_INTERFACE))
    return f->job;
  return KW_BUS_PATH;
}

static GError *
call_row (Fixture *f, GDBusConnection *bus, const Row *row, GDBusCallFlags flags)
{
  int input = open ("/dev/null", O_RDONLY | O_CLOEXEC);
  int output = open ("/dev/null", O_WRONLY | O_CLOEXEC);
  int fds[] = { input, output };
  g_autoptr (GUnixFDList) list = g_unix_fd_list_new_from_array (fds, 2);
  g_autoptr (GVariant) parameters = NULL;
  g_autoptr (GVariant) reply = NULL;
  GError *error = NULL;

  if (row->parameters != NULL)
    parameters = g_variant_ref_sink (g_variant_new_parsed (row->parameters));
  reply = g_dbus_connection_call_with_unix_fd_list_sync (bus, KW_BUS_NAME, path_of (f, row),
                                                         row->interface, row->method, parameters,
                                                         NULL, flags, (gint) (ANSWER_USEC / 1000),
                                                         list, NULL, NULL, &error);
  if (error != NULL)
    {
      g_test_message ("%s: %s", row->method, error->message);
      /* An answer of the daemon's own, whatever it is; never silence. */
      g_assert_cmpuint (error->domain, ==, KW_ERROR);
    }
  return error;
}

static const Row *
find_row (const char *interface, const char *method)
{
  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      if (g_str_equal (rows[i].interface, interface) && g_str_equal (rows[i].method, method))
        return &rows[i];
    }
  return NULL;
}

/* The interfaces and this table are the same. */
static void
test_each_method_has_a_row (void)
{
  GDBusInterfaceInfo *interfaces[]
      = { kw_bus_org_keyward1_manager_interface_info (), kw_bus_org_keyward1_job_interface_info (),
          kw_bus_org_keyward1_device_interface_info (), kw_bus_org_keyward1_key_interface_info () };
  guint n_methods = 0;

  for (guint i = 0; i < G_N_ELEMENTS (interfaces); i++)
    {
      for (guint j = 0; interfaces[i]->methods != NULL && interfaces[i]->methods[j] != NULL; j++)
        {
          const char *name = interfaces[i]->methods[j]->name;

          n_methods++;
          g_test_message ("%s.%s", interfaces[i]->name, name);
          g_assert_nonnull (find_row (interfaces[i]->name, name));
        }
      for (guint j = 0; interfaces[i]->properties != NULL && interfaces[i]->properties[j] != NULL;
           j++)
        g_assert_cmpint (interfaces[i]->properties[j]->flags, ==,
                         G_DBUS_PROPERTY_INFO_FLAGS_READABLE);
    }
  g_assert_cmpuint (n_methods, ==, G_N_ELEMENTS (rows));
}

static guint
count_in (const char *text, const char *part)
{
  guint n = 0;

  for (const char *at = strstr (text, part); at != NULL; at = strstr (at + 1, part))
    n++;
  return n;
}

/* polkit has an action for each class of verbs, and words for it in three languages. */
static void
test_each_class_has_an_action (void)
{
  g_autofree char *text = NULL;
  g_autoptr (GError) error = NULL;

  g_assert_true (g_file_get_contents (KW_TEST_POLICY, &text, NULL, &error));
  for (guint i = 0; i < KW_N_VERB_CLASSES; i++)
    {
      g_autofree char *action = g_strdup_printf ("<action id=\"" KW_BUS_ACTION_PREFIX "%s\">",
                                                 kw_verb_class_to_string ((KwVerbClass) i));

      g_assert_cmpuint (count_in (text, action), ==, 1);
    }
  g_assert_cmpuint (count_in (text, "<action "), ==, KW_N_VERB_CLASSES);
  g_assert_cmpuint (count_in (text, "<message xml:lang=\"de\">"), ==, KW_N_VERB_CLASSES);
  g_assert_cmpuint (count_in (text, "<message xml:lang=\"fr\">"), ==, KW_N_VERB_CLASSES);
  g_assert_cmpuint (count_in (text, "<message>"), ==, KW_N_VERB_CLASSES);
  g_assert_cmpuint (count_in (text, ">yes<"), ==, 0);
}

static void
assert_refused (Fixture *f, const char *text)
{
  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GError) error = call_row (f, f->other, &rows[i], G_DBUS_CALL_FLAGS_NONE);

      if (rows[i].action == NULL)
        {
          g_assert_no_error (error);
          continue;
        }
      g_assert_error (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED);
      g_assert_nonnull (strstr (error->message, text));
      g_assert_nonnull (strstr (error->message, rows[i].action));
    }
}

static void
assert_allowed (Fixture *f, GDBusConnection *bus)
{
  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GError) error = call_row (f, bus, &rows[i], G_DBUS_CALL_FLAGS_NONE);

      g_assert_false (g_error_matches (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED));
    }
}

static void
test_root (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  assert_allowed (f, f->root);
}

static void
test_no_polkit (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *audit = NULL;

  assert_refused (f, "there is no polkit here");
  audit = kw_daemon_rig_dup_audit (kw_bus_rig_get_daemon (f->rig));
  g_assert_nonnull (strstr (audit, "\"verb\":\"reload\",\"result\":\"not-authorized\""));
  g_assert_nonnull (strstr (audit, "\"uid\":65534"));
  g_assert_nonnull (strstr (audit, " pid "));
}

static void
test_denied (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  f->polkit = kw_polkit_new (f->rig);
  kw_polkit_set_mode (f->polkit, KW_POLKIT_DENIES);
  assert_refused (f, "polkit does not allow org.keyward1.");
}

static void
test_allowed (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  f->polkit = kw_polkit_new (f->rig);
  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *action = NULL;
      g_autofree char *wanted = g_strconcat ("org.keyward1.", rows[i].action, NULL);

      if (rows[i].action == NULL)
        continue;
      error = call_row (f, f->other, &rows[i], G_DBUS_CALL_FLAGS_NONE);
      g_assert_false (g_error_matches (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED));
      action = kw_polkit_dup_last_action (f->polkit);
      g_assert_cmpstr (action, ==, wanted);
    }
}

static void
test_password (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  f->polkit = kw_polkit_new (f->rig);
  kw_polkit_set_mode (f->polkit, KW_POLKIT_WANTS_PASSWORD);
  assert_refused (f, "polkit wants a password");
  g_assert_cmpuint (kw_polkit_get_last_flags (f->polkit), ==, 0);
}

static void
test_interaction (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;

  f->polkit = kw_polkit_new (f->rig);
  error = call_row (f, f->other, &rows[3], G_DBUS_CALL_FLAGS_ALLOW_INTERACTIVE_AUTHORIZATION);
  g_assert_no_error (error);
  g_assert_cmpuint (kw_polkit_get_last_flags (f->polkit), ==, 1);
}

/* polkit says nothing: the caller hears a sentence within the time limit. */
static void
test_delay (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  gint64 before = g_get_monotonic_time ();
  g_autoptr (GError) error = NULL;

  f->polkit = kw_polkit_new (f->rig);
  kw_polkit_set_mode (f->polkit, KW_POLKIT_DELAYS);
  error = call_row (f, f->other, &rows[0], G_DBUS_CALL_FLAGS_NONE);
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED);
  g_assert_nonnull (strstr (error->message, "polkit did not answer in time"));
  g_assert_cmpint (g_get_monotonic_time () - before, <, ANSWER_USEC);
  assert_allowed (f, f->root);
}

static void
test_vanishing (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GError) again = NULL;

  f->polkit = kw_polkit_new (f->rig);
  kw_polkit_set_mode (f->polkit, KW_POLKIT_VANISHES);
  error = call_row (f, f->other, &rows[0], G_DBUS_CALL_FLAGS_NONE);
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED);
  g_assert_nonnull (strstr (error->message, "polkit"));
  again = call_row (f, f->other, &rows[0], G_DBUS_CALL_FLAGS_NONE);
  g_assert_error (again, KW_ERROR, KW_ERROR_NOT_AUTHORIZED);
}

static GVariant *
encrypt (GDBusConnection *bus, const char *key, GError **error)
{
  GVariantBuilder options;
  g_autoptr (GVariant) reply = NULL;

  g_variant_builder_init (&options, G_VARIANT_TYPE_VARDICT);
  if (key != NULL)
    g_variant_builder_add (&options, "{sv}", "key", g_variant_new_string (key));
  reply
      = kw_bus_rig_call (bus, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Encrypt",
                         g_variant_new ("(@aya{sv})", g_variant_new_bytestring ("text"), &options),
                         error);
  return reply != NULL ? g_variant_get_child_value (reply, 0) : NULL;
}

/* A service has one key by [[access]], and nothing of the other. */
static void
test_access_table (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) mine = encrypt (f->other, NULL, &error);
  g_autoptr (GVariant) others = NULL;
  g_autoptr (GVariant) nothing = NULL;
  g_autoptr (GVariant) text = NULL;

  g_assert_no_error (error);
  text = kw_bus_rig_call (f->other, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Decrypt",
                          g_variant_new ("(@aya{sv})", mine, NULL), &error);
  g_assert_no_error (error);
  g_assert_null (encrypt (f->other, "label:second", &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED);
  g_clear_error (&error);
  others = encrypt (f->root, "label:second", &error);
  g_assert_no_error (error);
  nothing = kw_bus_rig_call (f->other, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Decrypt",
                             g_variant_new ("(@aya{sv})", others, NULL), &error);
  g_assert_null (nothing);
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED);
  g_assert_nonnull (strstr (error->message, "label:second"));
}

/* Rights that are taken away in the file are gone after Reload(). */
static void
test_reload_takes_rights (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) mine G_GNUC_UNUSED = encrypt (f->other, NULL, &error);
  g_autoptr (GVariant) reply = NULL;
  g_autofree char *text = NULL;
  const char *path = kw_daemon_rig_get_config_path (kw_bus_rig_get_daemon (f->rig));
  char *table = NULL;

  g_assert_no_error (error);
  g_assert_true (g_file_get_contents (path, &text, NULL, &error));
  table = strstr (text, "[[access]]");
  g_assert_nonnull (table);
  memset (table, '\n', strlen (ACCESS));
  g_assert_true (g_file_set_contents_full (path, text, -1, G_FILE_SET_CONTENTS_NONE, 0600, &error));
  reply = kw_bus_rig_call (f->root, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Reload", NULL, &error);
  g_assert_no_error (error);
  g_assert_null (encrypt (f->other, NULL, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED);
}

/* Whoever reads what is there is asked nothing. */
static void
test_anybody_may_look (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *device
      = kw_bus_rig_wait_for_object (f->other, KW_BUS_DEVICE_INTERFACE, WAIT_USEC);
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) reply
      = kw_bus_rig_call (f->other, device, "org.freedesktop.DBus.Properties", "Set",
                         g_variant_new ("(ssv)", KW_BUS_DEVICE_INTERFACE, "State",
                                        g_variant_new_string ("ready")),
                         &error);

  g_assert_cmpstr (device, ==, f->device);
  g_assert_null (reply);
  g_assert_nonnull (error);
}

static void
skip_users (void)
{
  g_test_skip ("only root can be several users");
}

static void
skip_broker (void)
{
  g_test_skip ("dbus-broker is not installed, or this is not root");
}

int
main (int argc, char **argv)
{
  g_autofree char *launcher = g_find_program_in_path ("dbus-broker-launch");

  g_test_init (&argc, &argv, NULL);
  if (g_getenv (KW_TEST_BROKER) != NULL && (launcher == NULL || geteuid () != 0))
    {
      g_test_add_func ("/broker", skip_broker);
      return g_test_run ();
    }
  g_test_add_func ("/access/each-method-has-a-row", test_each_method_has_a_row);
  g_test_add_func ("/access/each-class-has-an-action", test_each_class_has_an_action);
  if (geteuid () != 0)
    {
      g_test_add_func ("/access/several-users", skip_users);
      return g_test_run ();
    }
#define ADD(name, data, func) g_test_add ("/access/" name, Fixture, data, set_up, func, tear_down)
  ADD ("root", NULL, test_root);
  ADD ("no-polkit", NULL, test_no_polkit);
  ADD ("denied", NULL, test_denied);
  ADD ("allowed", NULL, test_allowed);
  ADD ("password", NULL, test_password);
  ADD ("interaction", NULL, test_interaction);
  ADD ("delay", NULL, test_delay);
  ADD ("vanishing", NULL, test_vanishing);
  ADD ("access-table", ACCESS, test_access_table);
  ADD ("reload-takes-rights", ACCESS, test_reload_takes_rights);
  ADD ("anybody-may-look", NULL, test_anybody_may_look);
  return g_test_run ();
}
