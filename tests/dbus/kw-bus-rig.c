/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-bus-rig"

#include "kw-bus-rig.h"

#include "kw-bus-error.h"
#include "kw-bus-names.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct _KwBusRig
{
  char *directory;
  char *address;
  GSubprocess *bus;
  KwDaemonRig *daemon;
};

/* Everybody may connect, as on the system bus; the socket is where everybody can reach it. */
static const char bus_config[]
    = "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"\n"
      " \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n"
      "<busconfig>\n"
      "<type>custom</type>\n"
      "<listen>%s</listen>\n"
      "<auth>EXTERNAL</auth>\n"
      "<policy context=\"default\">\n"
      "<allow user=\"*\"/>\n"
      "<allow own=\"org.freedesktop.PolicyKit1\"/>\n"
      "<allow own=\"org.freedesktop.login1\"/>\n"
      "<allow send_type=\"signal\"/>\n"
      "<allow send_requested_reply=\"true\" send_type=\"method_return\"/>\n"
      "<allow send_requested_reply=\"true\" send_type=\"error\"/>\n"
      "<allow receive_type=\"method_call\"/>\n"
      "<allow receive_type=\"method_return\"/>\n"
      "<allow receive_type=\"error\"/>\n"
      "<allow receive_type=\"signal\"/>\n"
      "<allow send_destination=\"org.freedesktop.DBus\"/>\n"
      "<allow send_destination=\"org.freedesktop.PolicyKit1\"/>\n"
      "<allow send_destination=\"org.freedesktop.login1\"/>\n"
      "</policy>\n"
      /* So that our own limits are reached. */
      "<limit name=\"max_replies_per_connection\">10000</limit>\n"
      "<include>%s</include>\n"
      "</busconfig>\n";

KwBusRig *
kw_bus_rig_new (const char *extra_config)
{
  KwBusRig *self = g_new0 (KwBusRig, 1);
  g_autoptr (GError) error = NULL;

  kw_bus_error_register ();
  self->directory = g_dir_make_tmp ("keyward-bus-XXXXXX", &error);
  g_assert_no_error (error);
  g_assert_cmpint (g_chmod (self->directory, 0755), ==, 0);
  self->address = g_strdup_printf ("unix:path=%s/bus", self->directory);
  self->daemon = kw_daemon_rig_new (NULL, extra_config);
  kw_daemon_rig_set_environment (self->daemon, "DBUS_SYSTEM_BUS_ADDRESS", self->address);
  kw_bus_rig_start_bus (self);
  return self;
}

void
kw_bus_rig_start_bus (KwBusRig *self)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = g_build_filename (self->directory, "bus.conf", NULL);
  g_autofree char *text = g_strdup_printf (bus_config, self->address, KW_TEST_BUS_POLICY);
  const char *broker = g_getenv (KW_TEST_BROKER);
  g_autoptr (GDataInputStream) lines = NULL;
  g_autofree char *line = NULL;

  g_assert_true (g_file_set_contents (path, text, -1, &error));
  if (broker != NULL)
    self->bus
        = g_subprocess_new (G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_SILENCE,
                            &error, broker, strchr (self->address, '/'), path, NULL);
  else
    self->bus
        = g_subprocess_new (G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_SILENCE,
                            &error, "dbus-daemon", "--nofork", "--print-address=1", "--config-file",
                            path, NULL);
  g_assert_no_error (error);
  /* It says its address when it can be reached. */
  lines = g_data_input_stream_new (g_subprocess_get_stdout_pipe (self->bus));
  line = g_data_input_stream_read_line (lines, NULL, NULL, &error);
  g_assert_nonnull (line);
}

void
kw_bus_rig_stop_bus (KwBusRig *self)
{
  if (self->bus == NULL)
    return;
  g_subprocess_force_exit (self->bus);
  g_subprocess_wait (self->bus, NULL, NULL);
  g_clear_object (&self->bus);
}

void
kw_bus_rig_free (KwBusRig *self)
{
  g_autofree char *config = g_build_filename (self->directory, "bus.conf", NULL);
  g_autofree char *socket = g_build_filename (self->directory, "bus", NULL);

  kw_daemon_rig_free (self->daemon);
  kw_bus_rig_stop_bus (self);
  g_unlink (config);
  g_unlink (socket);
  g_rmdir (self->directory);
  g_free (self->directory);
  g_free (self->address);
  g_free (self);
}

/* With two keys, and ready. */
void
kw_bus_rig_start (KwBusRig *self)
{
  kw_daemon_rig_start (self->daemon);
  kw_daemon_rig_wait_for_log (self->daemon, "On D-Bus");
}

KwDaemonRig *
kw_bus_rig_get_daemon (KwBusRig *self)
{
  return self->daemon;
}

const char *
kw_bus_rig_get_address (KwBusRig *self)
{
  return self->address;
}

/* A connection of some user; the bus learns who that is when it is made. */
GDBusConnection *
kw_bus_rig_connect (KwBusRig *self, guint uid)
{
  g_autoptr (GError) error = NULL;
  GDBusConnection *bus = NULL;

  if (uid != geteuid ())
    g_assert_cmpint (seteuid (uid), ==, 0);
  bus = g_dbus_connection_new_for_address_sync (
      self->address,
      G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT
          | G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
      NULL, NULL, &error);
  if (getuid () != geteuid ())
    g_assert_cmpint (seteuid (getuid ()), ==, 0);
  g_assert_no_error (error);
  g_dbus_connection_set_exit_on_close (bus, FALSE);
  return bus;
}

GVariant *
kw_bus_rig_call (GDBusConnection *bus,
                 const char *path,
                 const char *interface,
                 const char *method,
                 GVariant *parameters,
                 GError **error)
{
  return g_dbus_connection_call_sync (bus, KW_BUS_NAME, path, interface, method, parameters, NULL,
                                      G_DBUS_CALL_FLAGS_NONE, -1, NULL, error);
}

/* Path of an object with this interface, once there is one. */
char *
kw_bus_rig_wait_for_object (GDBusConnection *bus, const char *interface, gint64 timeout_usec)
{
  gint64 deadline = g_get_monotonic_time () + timeout_usec;

  while (g_get_monotonic_time () < deadline)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (GVariant) reply
          = kw_bus_rig_call (bus, KW_BUS_PATH, "org.freedesktop.DBus.ObjectManager",
                             "GetManagedObjects", NULL, &error);
      g_autoptr (GVariant) objects = NULL;
      GVariantIter iter;
      const char *path = NULL;
      GVariant *interfaces = NULL;

      g_assert_no_error (error);
      objects = g_variant_get_child_value (reply, 0);
      g_variant_iter_init (&iter, objects);
      while (g_variant_iter_next (&iter, "{&o@a{sa{sv}}}", &path, &interfaces))
        {
          g_autoptr (GVariant) found = g_variant_lookup_value (interfaces, interface, NULL);

          g_variant_unref (interfaces);
          if (found != NULL)
            return g_strdup (path);
        }
    }
  return NULL;
}

struct _KwPolkit
{
  GThread *thread;
  GMainContext *context;
  GMainLoop *loop;
  GDBusConnection *bus;
  guint name_id;
  gint ready; /* atomic */
  gint mode;  /* atomic */
  GMutex lock;
  char *action; /* guarded by lock */
  guint flags;  /* guarded by lock */
  GPtrArray *unanswered;
};

static const char polkit_xml[]
    = "<node><interface name='org.freedesktop.PolicyKit1.Authority'>"
      "<method name='CheckAuthorization'>"
      "<arg type='(sa{sv})' direction='in'/><arg type='s' direction='in'/>"
      "<arg type='a{ss}' direction='in'/><arg type='u' direction='in'/><arg type='s' direction='in'/>"
      "<arg type='(bba{ss})' direction='out'/></method>"
      "<method name='CancelCheckAuthorization'><arg type='s' direction='in'/></method>"
      "</interface></node>";

static void
on_polkit_call (GDBusConnection *connection,
                const char *sender G_GNUC_UNUSED,
                const char *path G_GNUC_UNUSED,
                const char *interface G_GNUC_UNUSED,
                const char *method,
                GVariant *parameters,
                GDBusMethodInvocation *invocation,
                gpointer user_data)
{
  KwPolkit *self = user_data;
  gint mode = g_atomic_int_get (&self->mode);

  if (!g_str_equal (method, "CheckAuthorization"))
    {
      g_dbus_method_invocation_return_value (invocation, NULL);
      return;
    }
  g_mutex_lock (&self->lock);
  g_free (self->action);
  g_variant_get (parameters, "(@(sa{sv})s@a{ss}u@s)", NULL, &self->action, NULL, &self->flags,
                 NULL);
  g_mutex_unlock (&self->lock);
  if (mode == KW_POLKIT_DELAYS)
    g_ptr_array_add (self->unanswered, invocation);
  else if (mode == KW_POLKIT_VANISHES)
    {
      g_ptr_array_add (self->unanswered, invocation);
      g_dbus_connection_close (connection, NULL, NULL, NULL);
    }
  else
    g_dbus_method_invocation_return_value (invocation,
                                           g_variant_new ("((bba{ss}))", mode == KW_POLKIT_ALLOWS,
                                                          mode == KW_POLKIT_WANTS_PASSWORD, NULL));
}

static void
on_polkit_name (GDBusConnection *connection G_GNUC_UNUSED,
                const char *name G_GNUC_UNUSED,
                gpointer user_data)
{
  g_atomic_int_set (&((KwPolkit *) user_data)->ready, TRUE);
}

static gpointer
polkit_thread (gpointer data)
{
  static const GDBusInterfaceVTable vtable = { .method_call = on_polkit_call };
  KwPolkit *self = data;
  g_autoptr (GDBusNodeInfo) node = g_dbus_node_info_new_for_xml (polkit_xml, NULL);

  g_main_context_push_thread_default (self->context);
  g_dbus_connection_register_object (self->bus, "/org/freedesktop/PolicyKit1/Authority",
                                     node->interfaces[0], &vtable, self, NULL, NULL);
  self->name_id = g_bus_own_name_on_connection (self->bus, "org.freedesktop.PolicyKit1",
                                                G_BUS_NAME_OWNER_FLAGS_NONE, on_polkit_name, NULL,
                                                self, NULL);
  g_main_loop_run (self->loop);
  g_bus_unown_name (self->name_id);
  g_main_context_pop_thread_default (self->context);
  return NULL;
}

KwPolkit *
kw_polkit_new (KwBusRig *rig)
{
  KwPolkit *self = g_new0 (KwPolkit, 1);

  g_mutex_init (&self->lock);
  self->unanswered = g_ptr_array_new_with_free_func (g_object_unref);
  self->context = g_main_context_new ();
  self->loop = g_main_loop_new (self->context, FALSE);
  self->bus = kw_bus_rig_connect (rig, getuid ());
  self->thread = g_thread_new ("polkit", polkit_thread, self);
  while (!g_atomic_int_get (&self->ready))
    g_thread_yield ();
  return self;
}

void
kw_polkit_free (KwPolkit *self)
{
  g_main_loop_quit (self->loop);
  g_thread_join (self->thread);
  g_ptr_array_unref (self->unanswered);
  g_dbus_connection_close_sync (self->bus, NULL, NULL);
  g_object_unref (self->bus);
  g_main_loop_unref (self->loop);
  g_main_context_unref (self->context);
  g_mutex_clear (&self->lock);
  g_free (self->action);
  g_free (self);
}

void
kw_polkit_set_mode (KwPolkit *self, KwPolkitMode mode)
{
  g_atomic_int_set (&self->mode, (gint) mode);
}

char *
kw_polkit_dup_last_action (KwPolkit *self)
{
  char *action = NULL;

  g_mutex_lock (&self->lock);
  action = g_strdup (self->action);
  g_mutex_unlock (&self->lock);
  return action;
}

guint
kw_polkit_get_last_flags (KwPolkit *self)
{
  guint flags = 0;

  g_mutex_lock (&self->lock);
  flags = self->flags;
  g_mutex_unlock (&self->lock);
  return flags;
}
