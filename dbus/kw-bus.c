/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus.h"

#include "kw-bus-error.h"
#include "kw-bus-manager.h"
#include "kw-bus-names.h"
#include "kw-bus-objects.h"
#include "kw-bus-sleep.h"
#include "kw-log.h"

/* Pauses between attempts to connect to the bus, in seconds. */
#define MIN_PAUSE_SECONDS 1
#define MAX_PAUSE_SECONDS 30

#define MAX_LATE_EVENTS 1000

/*
 * The door that is D-Bus: a connection that is made anew when the bus went away, and on it the objects of the service. Main
 * context.
 */
struct _KwBus
{
  GObject parent_instance;

  KwConfig *config;
  KwService *service;
  gboolean session;
  char *address;

  GCancellable *cancellable;
  guint pause_seconds;
  guint retry_id;
  gboolean complained; /* of a bus that cannot be reached; once is enough */

  GDBusConnection *connection;
  KwBusCalls *calls;
  KwBusManager *manager;
  KwBusObjects *objects;
  KwBusSleep *sleep;
  guint name_id;
};

G_DEFINE_FINAL_TYPE (KwBus, kw_bus, G_TYPE_OBJECT)

static void connect_now (KwBus *self);

static const char *
describe_bus (KwBus *self)
{
  if (self->address != NULL)
    return self->address;
  return self->session ? "the session bus" : "the system bus";
}

static gboolean
on_retry (gpointer user_data)
{
  KwBus *self = user_data;

  self->retry_id = 0;
  connect_now (self);
  return G_SOURCE_REMOVE;
}

static void
retry_later (KwBus *self, const char *reason)
{
  if (!self->complained)
    kw_log (G_LOG_LEVEL_WARNING,
            "No D-Bus; commands such as “keyward status” cannot reach the daemon until there is",
            "bus", describe_bus (self), "error", reason, NULL);
  self->complained = TRUE;
  self->pause_seconds = CLAMP (self->pause_seconds * 2, MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS);
  self->retry_id = g_timeout_add_seconds (self->pause_seconds, on_retry, self);
}

static void
disconnect (KwBus *self, gboolean flush)
{
  g_clear_handle_id (&self->name_id, g_bus_unown_name);
  g_clear_pointer (&self->sleep, kw_bus_sleep_free);
  g_clear_pointer (&self->manager, kw_bus_manager_free);
  g_clear_pointer (&self->objects, kw_bus_objects_free);
  g_clear_pointer (&self->calls, kw_bus_calls_free);
  if (flush && self->connection != NULL)
    /* lint: allow main-loop — the loop has ended, and answers are to be sent, also to those who waited to be authorised */
    (void) g_dbus_connection_flush_sync (self->connection, NULL, NULL);
  if (self->connection != NULL)
    g_signal_handlers_disconnect_by_data (self->connection, self);
  g_clear_object (&self->connection);
}

static void
on_closed (GDBusConnection *connection G_GNUC_UNUSED,
           gboolean by_peer G_GNUC_UNUSED,
           GError *error,
           KwBus *self)
{
  g_autofree char *reason = g_strdup (error != NULL ? error->message : "the bus went away");

  self->complained = FALSE;
  disconnect (self, FALSE);
  retry_later (self, reason);
}

static void
on_name_acquired (GDBusConnection *connection G_GNUC_UNUSED, const char *name, gpointer user_data)
{
  KwBus *self = user_data;

  self->pause_seconds = 0;
  self->complained = FALSE;
  kw_log (G_LOG_LEVEL_INFO, "On D-Bus", "name", name, "bus", describe_bus (self), NULL);
}

static void
on_name_lost (GDBusConnection *connection, const char *name, gpointer user_data G_GNUC_UNUSED)
{
  if (connection == NULL || g_dbus_connection_is_closed (connection))
    return;
  kw_log (
      G_LOG_LEVEL_WARNING,
      "Another daemon has the name on D-Bus, or the policy of the bus does not allow it to this user; is "
      "org.keyward1.conf installed?",
      "name", name, NULL);
}

static void
set_up (KwBus *self)
{
  g_autoptr (GError) error = NULL;

  g_dbus_connection_set_exit_on_close (self->connection, FALSE);
  g_signal_connect (self->connection, "closed", G_CALLBACK (on_closed), self);
  self->calls = kw_bus_calls_new (self->connection, self->config, self->service);
  self->objects = kw_bus_objects_new (self->connection, self->service, self->calls);
  self->manager
      = kw_bus_manager_new (self->connection, self->service, self->calls, self->objects, &error);
  if (self->manager == NULL)
    {
      disconnect (self, FALSE);
      retry_later (self, error->message);
      return;
    }
  self->sleep = kw_bus_sleep_new (self->connection, self->service);
  /* The name comes last: whoever waits for it finds everything there. */
  self->name_id
      = g_bus_own_name_on_connection (self->connection, KW_BUS_NAME, G_BUS_NAME_OWNER_FLAGS_NONE,
                                      on_name_acquired, on_name_lost, self, NULL);
}

static void
on_connected (GObject *source G_GNUC_UNUSED, GAsyncResult *result, gpointer user_data)
{
  g_autoptr (GError) error = NULL;
  GDBusConnection *connection = g_dbus_connection_new_for_address_finish (result, &error);
  KwBus *self;

  if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    return;
  self = user_data;
  if (connection == NULL)
    {
      retry_later (self, error->message);
      return;
    }
  self->connection = connection;
  set_up (self);
}

static void
connect_now (KwBus *self)
{
  g_autoptr (GError) error = NULL;
  GBusType type = self->session ? G_BUS_TYPE_SESSION : G_BUS_TYPE_SYSTEM;
  g_autofree char *address = g_strdup (self->address);

  /* lint: allow main-loop — it reads the environment */
  address = address != NULL ? address : g_dbus_address_get_for_bus_sync (type, NULL, &error);

  if (address == NULL)
    {
      retry_later (self, error->message);
      return;
    }
  /* A connection of its own, so that nobody else's end of it is ours. */
  g_dbus_connection_new_for_address (address,
                                     G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT
                                         | G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
                                     NULL, self->cancellable, on_connected, self);
}

static void
kw_bus_dispose (GObject *object)
{
  KwBus *self = KW_BUS (object);

  kw_bus_stop (self);
  g_clear_object (&self->cancellable);
  g_clear_object (&self->service);
  g_clear_object (&self->config);
  G_OBJECT_CLASS (kw_bus_parent_class)->dispose (object);
}

static void
kw_bus_finalize (GObject *object)
{
  g_free (KW_BUS (object)->address);
  G_OBJECT_CLASS (kw_bus_parent_class)->finalize (object);
}

static void
kw_bus_class_init (KwBusClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  object_class->dispose = kw_bus_dispose;
  object_class->finalize = kw_bus_finalize;
}

static void
kw_bus_init (KwBus *self)
{
  self->cancellable = g_cancellable_new ();
}

/**
 * kw_bus_new:
 * @config: the configuration
 * @service: does the work
 * @options: which bus
 *
 * Returns: (transfer full): the door, closed
 */
KwBus *
kw_bus_new (KwConfig *config, KwService *service, const KwBusOptions *options)
{
  KwBus *self = g_object_new (KW_TYPE_BUS, NULL);

  kw_bus_error_register ();
  self->config = g_object_ref (config);
  self->service = g_object_ref (service);
  self->session = options->session;
  self->address = g_strdup (options->address);
  return self;
}

/**
 * kw_bus_start:
 * @self: the door
 *
 * Connects to the bus, and goes on trying as long as that fails: a daemon without D-Bus serves its other doors.
 */
void
kw_bus_start (KwBus *self)
{
  connect_now (self);
}

/**
 * kw_bus_quiesce:
 * @self: the door
 *
 * From now on new calls are refused.
 */
void
kw_bus_quiesce (KwBus *self)
{
  if (self->calls != NULL)
    kw_bus_calls_quiesce (self->calls);
}

guint
kw_bus_get_n_pending (KwBus *self)
{
  return self->calls != NULL ? kw_bus_calls_get_n_pending (self->calls) : 0;
}

void
kw_bus_stop (KwBus *self)
{
  g_cancellable_cancel (self->cancellable);
  /* After that no more calls come, and those that have come, but were not looked at, are told that they came too late. */
  g_clear_handle_id (&self->name_id, g_bus_unown_name);
  for (guint i = 0; self->connection != NULL && i < MAX_LATE_EVENTS; i++)
    {
      if (!g_main_context_iteration (NULL, FALSE))
        break;
    }
  disconnect (self, TRUE);
  g_clear_handle_id (&self->retry_id, g_source_remove);
}
