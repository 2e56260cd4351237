/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-daemon"

#include "config.h"

#include "kw-daemon.h"

#include "kw-api.h"
#include "kw-door.h"
#include "kw-listen.h"
#include "kw-names.h"
#include "kw-plugins.h"
#include "kw-sd.h"

#include <glib-unix.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/*
 * Builds the objects, joins them, runs the loop, and takes them apart in order. Everything here is in the main context.
 *
 * The end has three steps: no new requests; those at hand are finished, for a while; then everything is closed.
 */
struct _KwDaemon
{
  GObject parent_instance;

  KwConfig *config;   /* owned */
  KwLogger *logger;   /* owned */
  KwService *service; /* owned, nullable */
  KwHttpServer *http; /* owned, nullable */
  KwApi *api;         /* owned, nullable */
  KwBus *bus;         /* owned */
  KwBusOptions bus_options;
  GPtrArray *doors; /* owned; of KwDoor */
  GMainLoop *loop;  /* owned */
  int exit_status;
  gboolean ending;
  gint64 end_by; /* monotonic */
};

G_DEFINE_FINAL_TYPE (KwDaemon, kw_daemon, G_TYPE_OBJECT)

#define HTTP_SOCKET_MODE 0660
#define DRAIN_SECONDS 5
#define DRAIN_INTERVAL_MSEC 20
#define TOKEN_WAIT_SECONDS 5
#define MAX_LATE_EVENTS 1000
#define SPARE_DESCRIPTORS 64

static guint
count_pending (KwDaemon *self)
{
  guint n_pending = kw_http_server_get_n_pending (self->http) + kw_bus_get_n_pending (self->bus);

  for (guint i = 0; i < self->doors->len; i++)
    n_pending += kw_door_get_n_pending (g_ptr_array_index (self->doors, i));
  return n_pending;
}

static gboolean
quit_when_drained (gpointer user_data)
{
  KwDaemon *self = KW_DAEMON (user_data);

  if (count_pending (self) > 0 && g_get_monotonic_time () < self->end_by)
    return G_SOURCE_CONTINUE;
  g_main_loop_quit (self->loop);
  return G_SOURCE_REMOVE;
}

static void
begin_to_end (KwDaemon *self)
{
  if (self->ending)
    return;
  self->ending = TRUE;
  self->end_by = g_get_monotonic_time () + DRAIN_SECONDS * G_TIME_SPAN_SECOND;
  kw_sd_notify ("STOPPING=1", "Finishing requests");
  kw_http_server_quiesce (self->http);
  kw_bus_quiesce (self->bus);
  for (guint i = 0; i < self->doors->len; i++)
    kw_door_quiesce (g_ptr_array_index (self->doors, i));
  if (quit_when_drained (self) == G_SOURCE_CONTINUE)
    g_timeout_add (DRAIN_INTERVAL_MSEC, quit_when_drained, self);
}

static gboolean
on_end_signal (gpointer user_data)
{
  kw_log (G_LOG_LEVEL_INFO, "Ending", NULL, NULL);
  begin_to_end (KW_DAEMON (user_data));
  return G_SOURCE_CONTINUE;
}

static gboolean
on_hangup (gpointer user_data)
{
  KwDaemon *self = KW_DAEMON (user_data);
  g_autoptr (GError) log_error = NULL;
  g_autoptr (GError) audit_error = NULL;

  if (!kw_logger_reopen (self->logger, &log_error))
    kw_log (G_LOG_LEVEL_WARNING, "The log stays in its old file", "error", log_error->message,
            NULL);
  if (!kw_audit_reopen (kw_service_get_audit (self->service), &audit_error))
    kw_log (G_LOG_LEVEL_WARNING, "The audit log stays in its old file", "error",
            audit_error->message, NULL);
  return G_SOURCE_CONTINUE;
}

static void
on_door_failed (KwDoor *door G_GNUC_UNUSED, const char *text, KwDaemon *self)
{
  kw_log (G_LOG_LEVEL_CRITICAL, "Cannot go on", "error", text, NULL);
  self->exit_status = EXIT_FAILURE;
  begin_to_end (self);
}

static void
on_reloaded (KwService *service, KwDaemon *self)
{
  kw_logger_set_level (self->logger, kw_config_get_log (kw_service_get_config (service))->level);
}

static void
on_pool_changed (KwPool *pool, gpointer user_data G_GNUC_UNUSED)
{
  g_autofree char *status = kw_pool_dup_status_text (pool);

  kw_sd_notify (NULL, status);
}

/* Every connection is a descriptor: take what the system allows, and allow no more connections than that. */
static void
raise_descriptor_limit (KwDaemon *self)
{
  struct rlimit limit;

  if (getrlimit (RLIMIT_NOFILE, &limit) != 0)
    return;
  if (limit.rlim_cur < limit.rlim_max)
    {
      limit.rlim_cur = limit.rlim_max;
      (void) setrlimit (RLIMIT_NOFILE, &limit);
      (void) getrlimit (RLIMIT_NOFILE, &limit);
    }
  if (kw_config_cap_connections (self->config,
                                 (guint) MIN (limit.rlim_cur
                                                  - MIN (limit.rlim_cur, SPARE_DESCRIPTORS),
                                              G_MAXUINT)))
    kw_log (
        G_LOG_LEVEL_WARNING,
        "Fewer descriptors are allowed than connections; raise LimitNOFILE=, or lower max_connections",
        NULL, NULL);
}

static GArray *
open_http_sockets (KwDaemon *self, GHashTable *passed, GError **error)
{
  const KwServerConfig *server = kw_config_get_server (self->config);
  g_autoptr (GArray) sockets = kw_listen_new_list ();
  g_autofree char *name = NULL;
  GArray *list = NULL;

  if (g_hash_table_steal_extended (passed, KW_SOCKET_NAME_HTTP, (gpointer *) &name,
                                   (gpointer *) &list))
    return list;
  if (!kw_listen_tcp (sockets, server->hostname, server->port, error))
    return NULL;
  if (server->socket != NULL && !kw_listen_unix (sockets, server->socket, HTTP_SOCKET_MODE, error))
    return NULL;
  return g_steal_pointer (&sockets);
}

static gboolean
open_doors (KwDaemon *self, GHashTable *sockets, GError **error)
{
  KwDoorContext context = { self->config, self->service, self->http, sockets };

  self->api = kw_api_new (&context);
  self->doors = kw_plugins_new_objects (KW_DOOR_EXTENSION_POINT);
  for (guint i = 0; i < self->doors->len; i++)
    {
      KwDoor *door = g_ptr_array_index (self->doors, i);

      g_signal_connect (door, "failed", G_CALLBACK (on_door_failed), self);
      if (!kw_door_start (door, &context, error))
        return FALSE;
    }
  return TRUE;
}

static gboolean
start (KwDaemon *self, GError **error)
{
  const KwServerConfig *server = kw_config_get_server (self->config);
  g_autoptr (GHashTable) passed = kw_sd_take_sockets (error);
  g_autoptr (GArray) http_sockets = NULL;
  g_autofree char *port = g_strdup_printf ("%u", server->port);

  if (passed == NULL)
    return FALSE;
  raise_descriptor_limit (self);
  kw_plugins_register_point (KW_DOOR_EXTENSION_POINT, KW_TYPE_DOOR);
  kw_plugins_load ();
  self->service = kw_service_new (self->config, error);
  if (self->service == NULL)
    return FALSE;
  self->http = kw_http_server_new (server);
  http_sockets = open_http_sockets (self, passed, error);
  if (http_sockets == NULL)
    return FALSE;
  /* The devices begin to come up while the doors are opened. */
  g_signal_connect (kw_service_get_pool (self->service), "changed", G_CALLBACK (on_pool_changed),
                    NULL);
  g_signal_connect (self->service, "reloaded", G_CALLBACK (on_reloaded), self);
  kw_service_start (self->service);
  self->bus = kw_bus_new (self->config, self->service, &self->bus_options);
  kw_bus_start (self->bus);
  if (!open_doors (self, passed, error) || !kw_http_server_start (self->http, http_sockets, error))
    return FALSE;
  kw_log (G_LOG_LEVEL_INFO, "Server listening", "host", server->hostname, "port", port, "version",
          KW_VERSION, "build", KW_BUILD, NULL);
  kw_sd_notify ("READY=1", NULL);
  return TRUE;
}

static void
stop (KwDaemon *self)
{
  if (self->service != NULL)
    kw_service_stop (self->service);
  for (guint i = 0; self->doors != NULL && i < self->doors->len; i++)
    kw_door_stop (g_ptr_array_index (self->doors, i));
  if (self->bus != NULL)
    kw_bus_stop (self->bus);
  if (self->http != NULL)
    kw_http_server_stop (self->http);
  if (self->api != NULL)
    kw_api_stop (self->api);
}

/*
 * Waits for calls into tokens to return, since the modules' libraries are taken apart when the process ends. The loop does
 * not run any more, so this may sleep.
 */
static gboolean
wait_for_tokens (KwDaemon *self)
{
  gint64 deadline = g_get_monotonic_time () + TOKEN_WAIT_SECONDS * G_TIME_SPAN_SECOND;

  if (self->service == NULL)
    return TRUE;
  while (!kw_pool_is_idle (kw_service_get_pool (self->service)))
    {
      if (g_get_monotonic_time () > deadline)
        return FALSE;
      g_usleep (DRAIN_INTERVAL_MSEC * 1000);
    }
  return TRUE;
}

/*
 * What threads have left for the main context holds devices, whose connections are to be closed before their libraries go, and calls
 * on D-Bus.
 */
static void
take_what_is_left (void)
{
  for (guint i = 0; i < MAX_LATE_EVENTS; i++)
    {
      if (!g_main_context_iteration (NULL, FALSE))
        return;
    }
}

static void
kw_daemon_dispose (GObject *object)
{
  KwDaemon *self = KW_DAEMON (object);

  g_clear_pointer (&self->doors, g_ptr_array_unref);
  g_clear_object (&self->bus);
  g_clear_object (&self->http);
  g_clear_object (&self->api);
  g_clear_object (&self->service);
  g_clear_object (&self->logger);
  g_clear_object (&self->config);
  G_OBJECT_CLASS (kw_daemon_parent_class)->dispose (object);
}

static void
kw_daemon_finalize (GObject *object)
{
  g_main_loop_unref (KW_DAEMON (object)->loop);
  g_free ((char *) KW_DAEMON (object)->bus_options.address);
  G_OBJECT_CLASS (kw_daemon_parent_class)->finalize (object);
}

static void
kw_daemon_class_init (KwDaemonClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  object_class->dispose = kw_daemon_dispose;
  object_class->finalize = kw_daemon_finalize;
}

static void
kw_daemon_init (KwDaemon *self)
{
  self->loop = g_main_loop_new (NULL, FALSE);
  self->exit_status = EXIT_SUCCESS;
}

/**
 * kw_daemon_new:
 * @config: the configuration, its secrets loaded
 * @logger: the installed logger
 * @bus_options: which D-Bus it is to be found on
 *
 * Returns: (transfer full): a daemon that was not started
 */
KwDaemon *
kw_daemon_new (KwConfig *config, KwLogger *logger, const KwBusOptions *bus_options)
{
  KwDaemon *self = g_object_new (KW_TYPE_DAEMON, NULL);

  self->config = g_object_ref (config);
  self->logger = g_object_ref (logger);
  self->bus_options.session = bus_options->session;
  self->bus_options.address = g_strdup (bus_options->address);
  return self;
}

/**
 * kw_daemon_run:
 * @self: a daemon
 * @error: where to store the error
 *
 * Starts everything, serves until a signal comes, and stops everything.
 *
 * Returns: exit status; EXIT_FAILURE with @error set when the start failed
 */
int
kw_daemon_run (KwDaemon *self, GError **error)
{
  guint sources[] = {
    g_unix_signal_add (SIGTERM, on_end_signal, self),
    g_unix_signal_add (SIGINT, on_end_signal, self),
    g_unix_signal_add (SIGHUP, on_hangup, self),
  };

  if (start (self, error))
    g_main_loop_run (self->loop);
  else
    self->exit_status = EXIT_FAILURE;
  stop (self);
  if (!wait_for_tokens (self))
    {
      /* A call that never returns must not see the end of its own library. */
      kw_log (G_LOG_LEVEL_WARNING, "Ending although a call into a token does not return", NULL,
              NULL);
      _exit (self->exit_status); /* lint: allow banned-call — see above */
    }
  take_what_is_left ();
  for (guint i = 0; i < G_N_ELEMENTS (sources); i++)
    g_source_remove (sources[i]);
  return self->exit_status;
}
