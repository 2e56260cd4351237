/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-bus"

#include "config.h"

#include "kw-cli-bus.h"

#include "kw-bus-error.h"
#include "kw-bus-names.h"
#include "kw-error.h"

/*
 * The way to a running daemon: D-Bus, and only that.
 */

/* Work on slow devices waits for others before it. */
#define CALL_TIMEOUT_MSEC 120000

/* Whether the daemon runs is for the administrator to decide; polkit may ask for a password. */
#define CALL_FLAGS                                                                                 \
  (G_DBUS_CALL_FLAGS_NO_AUTO_START | G_DBUS_CALL_FLAGS_ALLOW_INTERACTIVE_AUTHORIZATION)

static char *
find_address (KwCli *cli, GError **error)
{
  if (cli->bus_address != NULL)
    return g_strdup (cli->bus_address);
  return g_dbus_address_get_for_bus_sync (cli->session ? G_BUS_TYPE_SESSION : G_BUS_TYPE_SYSTEM,
                                          NULL, error);
}

/**
 * kw_cli_bus_open:
 * @cli: the command line
 * @error: where to store the error
 *
 * Returns: (transfer full): a connection to the bus that the daemon should be on
 */
GDBusConnection *
kw_cli_bus_open (KwCli *cli, GError **error)
{
  g_autoptr (GError) bus_error = NULL;
  g_autofree char *address = find_address (cli, &bus_error);
  GDBusConnection *bus = NULL;

  kw_bus_error_register ();
  if (address != NULL)
    bus = g_dbus_connection_new_for_address_sync (
        address,
        G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT
            | G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
        NULL, NULL, &bus_error);
  if (bus == NULL)
    g_set_error (error, KW_ERROR, KW_ERROR_UNAVAILABLE, "Cannot reach D-Bus: %s",
                 bus_error->message);
  else
    g_dbus_connection_set_exit_on_close (bus, FALSE);
  return bus;
}

/* Says of the bus's own errors what they mean here. */
static void
propagate_error (GError *taken, GError **error)
{
  g_autoptr (GError) call_error = taken;

  if (call_error->domain == KW_ERROR)
    {
      g_dbus_error_strip_remote_error (call_error);
      g_propagate_error (error, g_steal_pointer (&call_error));
      return;
    }
  if (g_error_matches (call_error, G_DBUS_ERROR, G_DBUS_ERROR_SERVICE_UNKNOWN)
      || g_error_matches (call_error, G_DBUS_ERROR, G_DBUS_ERROR_NAME_HAS_NO_OWNER))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_UNAVAILABLE,
                   "The daemon does not run; start it with: systemctl start keywardd");
      return;
    }
  if (g_error_matches (call_error, G_DBUS_ERROR, G_DBUS_ERROR_NO_REPLY)
      || g_error_matches (call_error, G_IO_ERROR, G_IO_ERROR_CLOSED))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_UNAVAILABLE,
                   "The daemon went away before it answered");
      return;
    }
  g_dbus_error_strip_remote_error (call_error);
  g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "D-Bus: %s", call_error->message);
}

/**
 * kw_cli_bus_call:
 * @bus: the bus
 * @path: object of the daemon
 * @interface: its interface
 * @method: method of that
 * @parameters: (transfer floating) (nullable): what it takes
 * @reply_type: type of what it gives
 * @error: where to store the error, always one of %KW_ERROR
 *
 * Calls a method of the daemon.
 *
 * Returns: (transfer full): what it gave
 */
GVariant *
kw_cli_bus_call (GDBusConnection *bus,
                 const char *path,
                 const char *interface,
                 const char *method,
                 GVariant *parameters,
                 const char *reply_type,
                 GError **error)
{
  GError *call_error = NULL;
  GVariant *reply = g_dbus_connection_call_sync (bus, KW_BUS_NAME, path, interface, method,
                                                 parameters, G_VARIANT_TYPE (reply_type),
                                                 CALL_FLAGS, CALL_TIMEOUT_MSEC, NULL, &call_error);

  if (reply == NULL)
    propagate_error (call_error, error);
  return reply;
}

/**
 * kw_cli_bus_is_there:
 * @bus: the bus
 * @error: where to store the error
 *
 * Returns: whether the daemon runs; else %FALSE with %KW_ERROR_UNAVAILABLE
 */
gboolean
kw_cli_bus_is_there (GDBusConnection *bus, GError **error)
{
  g_autoptr (GVariant) reply
      = kw_cli_bus_call (bus, KW_BUS_PATH, "org.freedesktop.DBus.Peer", "Ping", NULL, "()", error);

  return reply != NULL;
}

/**
 * kw_cli_bus_call_with_fds:
 * @bus: the bus
 * @method: method of the daemon as a whole
 * @parameters: (transfer floating): what it takes
 * @fds: descriptors that are passed
 * @reply_type: type of what it gives
 * @error: where to store the error, always one of %KW_ERROR
 *
 * Calls a method that takes descriptors, which may last as long as it likes.
 *
 * Returns: (transfer full): what it gave
 */
GVariant *
kw_cli_bus_call_with_fds (GDBusConnection *bus,
                          const char *method,
                          GVariant *parameters,
                          GUnixFDList *fds,
                          const char *reply_type,
                          GError **error)
{
  GError *call_error = NULL;
  GVariant *reply
      = g_dbus_connection_call_with_unix_fd_list_sync (bus, KW_BUS_NAME, KW_BUS_PATH,
                                                       KW_BUS_MANAGER_INTERFACE, method, parameters,
                                                       G_VARIANT_TYPE (reply_type), CALL_FLAGS,
                                                       G_MAXINT, fds, NULL, NULL, &call_error);

  if (reply == NULL)
    propagate_error (call_error, error);
  return reply;
}

/**
 * kw_cli_bus_call_for_fd:
 * @bus: the bus
 * @method: method of the daemon as a whole, which gives one descriptor
 * @error: where to store the error, always one of %KW_ERROR
 *
 * Calls a method that gives a descriptor.
 *
 * Returns: the descriptor, to be closed; −1 with an error
 */
int
kw_cli_bus_call_for_fd (GDBusConnection *bus, const char *method, GError **error)
{
  GError *call_error = NULL;
  g_autoptr (GUnixFDList) fds = NULL;
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_with_unix_fd_list_sync (bus, KW_BUS_NAME, KW_BUS_PATH,
                                                       KW_BUS_MANAGER_INTERFACE, method, NULL,
                                                       G_VARIANT_TYPE ("(h)"), CALL_FLAGS,
                                                       CALL_TIMEOUT_MSEC, NULL, &fds, NULL,
                                                       &call_error);

  if (reply == NULL)
    {
      propagate_error (call_error, error);
      return -1;
    }
  if (fds == NULL || g_unix_fd_list_get_length (fds) != 1)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "The daemon's answer to %s has no descriptor",
                   method);
      return -1;
    }
  return g_unix_fd_list_get (fds, 0, error);
}

/**
 * kw_cli_bus_get_manager:
 * @bus: the bus
 * @error: where to store the error
 *
 * Returns: (transfer full): properties of the daemon as a whole, as a{sv}
 */
GVariant *
kw_cli_bus_get_manager (GDBusConnection *bus, GError **error)
{
  g_autoptr (GVariant) reply
      = kw_cli_bus_call (bus, KW_BUS_PATH, "org.freedesktop.DBus.Properties", "GetAll",
                         g_variant_new ("(s)", KW_BUS_MANAGER_INTERFACE), "(a{sv})", error);

  return reply != NULL ? g_variant_get_child_value (reply, 0) : NULL;
}

/**
 * kw_cli_bus_foreach:
 * @bus: the bus
 * @interface: an interface
 * @func: is called for each object of the daemon that has it, in the order of their paths
 * @user_data: given to @func
 * @error: where to store the error
 *
 * Returns: whether the objects could be read, and @func always said to go on
 */
gboolean
kw_cli_bus_foreach (GDBusConnection *bus,
                    const char *interface,
                    KwCliObjectFunc func,
                    gpointer user_data,
                    GError **error)
{
  g_autoptr (GVariant) reply
      = kw_cli_bus_call (bus, KW_BUS_PATH, "org.freedesktop.DBus.ObjectManager",
                         "GetManagedObjects", NULL, "(a{oa{sa{sv}}})", error);
  g_autoptr (GVariant) objects = NULL;
  g_autoptr (GTree) sorted = g_tree_new_full ((GCompareDataFunc) (void (*) (void)) g_strcmp0, NULL,
                                              g_free, (GDestroyNotify) g_variant_unref);
  GVariantIter iter;
  const char *path;
  GVariant *interfaces;

  if (reply == NULL)
    return FALSE;
  objects = g_variant_get_child_value (reply, 0);
  g_variant_iter_init (&iter, objects);
  while (g_variant_iter_next (&iter, "{&o@a{sa{sv}}}", &path, &interfaces))
    {
      GVariant *properties = g_variant_lookup_value (interfaces, interface, G_VARIANT_TYPE_VARDICT);

      if (properties != NULL)
        g_tree_insert (sorted, g_strdup (path), properties);
      g_variant_unref (interfaces);
    }
  for (GTreeNode *node = g_tree_node_first (sorted); node != NULL; node = g_tree_node_next (node))
    {
      if (!func (g_tree_node_key (node), g_tree_node_value (node), user_data, error))
        return FALSE;
    }
  return TRUE;
}

/**
 * kw_cli_bus_get_string:
 * @properties: properties of an object
 * @name: one of them
 *
 * Returns: (transfer none): its value, "" when it is not there
 */
const char *
kw_cli_bus_get_string (GVariant *properties, const char *name)
{
  const char *text = "";

  (void) g_variant_lookup (properties, name, "&s", &text);
  return text;
}

gboolean
kw_cli_bus_get_boolean (GVariant *properties, const char *name)
{
  gboolean value = FALSE;

  (void) g_variant_lookup (properties, name, "b", &value);
  return value;
}

/* A property of any integer type. */
gint64
kw_cli_bus_get_integer (GVariant *properties, const char *name)
{
  g_autoptr (GVariant) value = g_variant_lookup_value (properties, name, NULL);

  if (value == NULL)
    return 0;
  switch (g_variant_classify (value))
    {
    case G_VARIANT_CLASS_INT32:
      return g_variant_get_int32 (value);
    case G_VARIANT_CLASS_UINT32:
      return g_variant_get_uint32 (value);
    case G_VARIANT_CLASS_UINT64:
      return (gint64) g_variant_get_uint64 (value);
    default:
      return 0;
    }
}

double
kw_cli_bus_get_double (GVariant *properties, const char *name)
{
  double value = 0;

  (void) g_variant_lookup (properties, name, "d", &value);
  return value;
}

char **
kw_cli_bus_dup_strings (GVariant *properties, const char *name)
{
  char **strings = NULL;

  if (!g_variant_lookup (properties, name, "^as", &strings))
    strings = g_new0 (char *, 1);
  return strings;
}
