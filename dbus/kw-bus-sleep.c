/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-sleep.h"

#include "kw-log.h"

#include <gio/gunixfdlist.h>
#include <unistd.h>

#define LOGIND_NAME "org.freedesktop.login1"
#define LOGIND_PATH "/org/freedesktop/login1"
#define LOGIND_INTERFACE "org.freedesktop.login1.Manager"
#define LOGIND_TIMEOUT_MSEC 5000
#define DRAIN_USEC (3 * G_TIME_SPAN_SECOND) /* logind itself waits for five seconds */
#define DRAIN_INTERVAL_MSEC 20

struct _KwBusSleep
{
  GDBusConnection *connection; /* owned */
  KwService *service;          /* owned */
  GCancellable *cancellable;   /* owned */
  guint subscription;
  guint watch;
  int inhibitor; /* owned; −1 = none: the system may sleep at once */
  guint drain_id;
  gint64 drain_until; /* monotonic */
};

static void
on_inhibited (GObject *source, GAsyncResult *result, gpointer user_data)
{
  g_autoptr (GUnixFDList) fds = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_with_unix_fd_list_finish (G_DBUS_CONNECTION (source), &fds, result,
                                                         &error);
  KwBusSleep *self = NULL;
  gint32 handle = -1;

  if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    return;
  self = user_data;
  /* Without logind nobody sleeps either, or nobody tells us. */
  if (reply == NULL || fds == NULL)
    return;
  g_variant_get (reply, "(h)", &handle);
  if (self->inhibitor < 0)
    self->inhibitor = g_unix_fd_list_get (fds, handle, NULL);
}

static void
inhibit (KwBusSleep *self)
{
  if (self->inhibitor >= 0)
    return;
  g_dbus_connection_call_with_unix_fd_list (self->connection, LOGIND_NAME, LOGIND_PATH,
                                            LOGIND_INTERFACE, "Inhibit",
                                            g_variant_new ("(ssss)", "sleep", "Keyward",
                                                           "Requests at hand are finished first",
                                                           "delay"),
                                            G_VARIANT_TYPE ("(h)"), G_DBUS_CALL_FLAGS_NO_AUTO_START,
                                            LOGIND_TIMEOUT_MSEC, NULL, self->cancellable,
                                            on_inhibited, self);
}

static void
release (KwBusSleep *self)
{
  if (self->inhibitor >= 0)
    close (self->inhibitor);
  self->inhibitor = -1;
}

static gboolean
devices_are_idle (KwBusSleep *self)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (kw_service_get_pool (self->service));

  for (guint i = 0; i < devices->len; i++)
    {
      KwDeviceFigures figures = { 0 };

      kw_device_get_figures (g_ptr_array_index (devices, i), &figures);
      if (figures.n_outstanding > 0)
        return FALSE;
    }
  return TRUE;
}

static gboolean
drain (gpointer user_data)
{
  KwBusSleep *self = user_data;

  if (!devices_are_idle (self) && g_get_monotonic_time () < self->drain_until)
    return G_SOURCE_CONTINUE;
  self->drain_id = 0;
  kw_log (G_LOG_LEVEL_INFO, "The system goes to sleep", NULL, NULL);
  release (self);
  return G_SOURCE_REMOVE;
}

/* Cards lost their power: whoever is there now is looked at anew, its keys are proven again. */
static void
wake_up (KwBusSleep *self)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (kw_service_get_pool (self->service));

  g_clear_handle_id (&self->drain_id, g_source_remove);
  kw_log (G_LOG_LEVEL_INFO, "The system has woken up; all devices are looked at", NULL, NULL);
  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);
      KwDeviceState state = kw_device_get_state (device);

      if (state == KW_DEVICE_READY || state == KW_DEVICE_MISMATCHED)
        kw_device_refresh_keys (device);
    }
  inhibit (self);
}

static void
on_prepare_for_sleep (GDBusConnection *connection G_GNUC_UNUSED,
                      const char *sender G_GNUC_UNUSED,
                      const char *path G_GNUC_UNUSED,
                      const char *interface G_GNUC_UNUSED,
                      const char *signal G_GNUC_UNUSED,
                      GVariant *parameters,
                      gpointer user_data)
{
  KwBusSleep *self = user_data;
  gboolean sleeping = FALSE;

  if (!g_variant_is_of_type (parameters, G_VARIANT_TYPE ("(b)")))
    return;
  g_variant_get (parameters, "(b)", &sleeping);
  if (!sleeping)
    {
      wake_up (self);
      return;
    }
  self->drain_until = g_get_monotonic_time () + DRAIN_USEC;
  if (self->drain_id == 0 && drain (self) == G_SOURCE_CONTINUE)
    self->drain_id = g_timeout_add (DRAIN_INTERVAL_MSEC, drain, self);
}

static void
on_logind_appeared (GDBusConnection *connection G_GNUC_UNUSED,
                    const char *name G_GNUC_UNUSED,
                    const char *owner G_GNUC_UNUSED,
                    gpointer user_data)
{
  inhibit (user_data);
}

static void
on_logind_vanished (GDBusConnection *connection G_GNUC_UNUSED,
                    const char *name G_GNUC_UNUSED,
                    gpointer user_data)
{
  release (user_data);
}

/**
 * kw_bus_sleep_new:
 * @connection: the bus that logind is on
 * @service: has the devices
 *
 * Returns: (transfer full): who looks after sleep
 */
KwBusSleep *
kw_bus_sleep_new (GDBusConnection *connection, KwService *service)
{
  KwBusSleep *self = g_new0 (KwBusSleep, 1);

  self->connection = g_object_ref (connection);
  self->service = g_object_ref (service);
  self->cancellable = g_cancellable_new ();
  self->inhibitor = -1;
  self->subscription
      = g_dbus_connection_signal_subscribe (connection, LOGIND_NAME, LOGIND_INTERFACE,
                                            "PrepareForSleep", LOGIND_PATH, NULL,
                                            G_DBUS_SIGNAL_FLAGS_NONE, on_prepare_for_sleep, self,
                                            NULL);
  self->watch
      = g_bus_watch_name_on_connection (connection, LOGIND_NAME, G_BUS_NAME_WATCHER_FLAGS_NONE,
                                        on_logind_appeared, on_logind_vanished, self, NULL);
  return self;
}

void
kw_bus_sleep_free (KwBusSleep *self)
{
  g_cancellable_cancel (self->cancellable);
  g_bus_unwatch_name (self->watch);
  g_dbus_connection_signal_unsubscribe (self->connection, self->subscription);
  g_clear_handle_id (&self->drain_id, g_source_remove);
  release (self);
  g_object_unref (self->cancellable);
  g_object_unref (self->connection);
  g_object_unref (self->service);
  g_free (self);
}
