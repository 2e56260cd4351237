/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-owncloud-door"

#include "config.h"

#include "kw-owncloud-door.h"

#include "kw-line-server.h"
#include "kw-line-token.h"
#include "kw-listen.h"
#include "kw-log.h"
#include "kw-names.h"
#include "kw-owncloud-web.h"

/*
 * The way in for ownCloud: its web API, and its line socket with the hand-over of the token. Main context.
 */
struct _KwOwncloudDoor
{
  GObject parent_instance;

  KwOwncloudWeb *web; /* owned */
  KwLineServer *line; /* owned, nullable */
  GObject *handover;  /* owned, nullable: hands the token over */
  KwPool *pool;       /* owned, nullable: watched until the line socket's key is clear */
  gboolean pool_was_ready;
};

#define LINE_SOCKET_MODE 0660

static void kw_owncloud_door_iface_init (KwDoorInterface *iface);

G_DEFINE_FINAL_TYPE_WITH_CODE (KwOwncloudDoor,
                               kw_owncloud_door,
                               G_TYPE_OBJECT,
                               G_IMPLEMENT_INTERFACE (KW_TYPE_DOOR, kw_owncloud_door_iface_init))

static void
stop_watching (KwOwncloudDoor *self)
{
  if (self->pool != NULL)
    g_signal_handlers_disconnect_by_data (self->pool, self);
  g_clear_object (&self->pool);
}

static void
stop_handover (KwOwncloudDoor *self)
{
  if (self->handover != NULL)
    g_object_run_dispose (self->handover);
  g_clear_object (&self->handover);
}

/*
 * Until the line socket's key is clear: the first time that a device is ready, several keys are an error at start. A token
 * without a key is watched further, so that the first one made is the one, whatever is made after it.
 */
static void
on_pool_changed (KwPool *pool, KwOwncloudDoor *self)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) key_id = NULL;
  gboolean first = !self->pool_was_ready;

  if (!kw_pool_is_ready (pool))
    return;
  self->pool_was_ready = TRUE;
  key_id = kw_line_server_dup_key_id (self->line, &error);
  if (key_id != NULL)
    stop_watching (self);
  else if (first && g_error_matches (error, KW_ERROR, KW_ERROR_AMBIGUOUS))
    {
      stop_watching (self);
      kw_door_emit_failed (KW_DOOR (self), error->message);
    }
  else if (first)
    kw_log (G_LOG_LEVEL_WARNING, "The line socket has no key yet", "error", error->message, NULL);
}

static GArray *
open_line_sockets (const KwDoorContext *context, GError **error)
{
  const KwLineConfig *config = kw_config_get_line (context->config);
  g_autoptr (GArray) sockets = kw_listen_new_list ();
  g_autofree char *name = NULL;
  GArray *passed = NULL;

  if (g_hash_table_steal_extended (context->sockets, KW_SOCKET_NAME_LINE, (gpointer *) &name,
                                   (gpointer *) &passed))
    {
      g_array_unref (sockets);
      sockets = passed;
    }
  else
    {
      if (config->socket != NULL
          && !kw_listen_unix (sockets, config->socket, LINE_SOCKET_MODE, error))
        return NULL;
      if (config->port != 0 && !kw_listen_tcp (sockets, config->hostname, config->port, error))
        return NULL;
    }
  return g_steal_pointer (&sockets);
}

static gboolean
hand_over_token (KwOwncloudDoor *self,
                 const KwDoorContext *context,
                 KwSecret *token,
                 GError **error)
{
  const KwLineConfig *config = kw_config_get_line (context->config);

  if (config->token_file != NULL && !kw_line_token_write_file (token, config->token_file, error))
    return FALSE;
  if (config->token_url != NULL)
    {
      self->handover
          = kw_line_token_start_handover (token, kw_config_get_jwt (context->config)->secret,
                                          config->token_url, error);
      if (self->handover == NULL)
        return FALSE;
    }
  if (config->token_file == NULL && config->token_url == NULL)
    kw_log (G_LOG_LEVEL_WARNING,
            "Nobody is told the token of the line socket; set [line] token_file or token_url", NULL,
            NULL);
  return TRUE;
}

static gboolean
start_line (KwOwncloudDoor *self, const KwDoorContext *context, GError **error)
{
  g_autoptr (KwSecret) token = kw_line_token_new (error);
  g_autoptr (GArray) sockets = NULL;

  if (token == NULL)
    return FALSE;
  sockets = open_line_sockets (context, error);
  if (sockets == NULL)
    return FALSE;
  self->line = kw_line_server_new (kw_config_get_line (context->config), context->service, token);
  if (!kw_line_server_start (self->line, sockets, error)
      || !hand_over_token (self, context, token, error))
    return FALSE;
  self->pool = g_object_ref (kw_service_get_pool (context->service));
  g_signal_connect (self->pool, "changed", G_CALLBACK (on_pool_changed), self);
  return TRUE;
}

static gboolean
kw_owncloud_door_start (KwDoor *door, const KwDoorContext *context, GError **error)
{
  KwOwncloudDoor *self = KW_OWNCLOUD_DOOR (door);

  self->web = kw_owncloud_web_new (context);
  if (!kw_config_get_line (context->config)->enabled
      && !g_hash_table_contains (context->sockets, KW_SOCKET_NAME_LINE))
    return TRUE;
  return start_line (self, context, error);
}

static void
kw_owncloud_door_quiesce (KwDoor *door)
{
  KwOwncloudDoor *self = KW_OWNCLOUD_DOOR (door);

  stop_watching (self);
  stop_handover (self);
  if (self->line != NULL)
    kw_line_server_quiesce (self->line);
}

static guint
kw_owncloud_door_get_n_pending (KwDoor *door)
{
  KwOwncloudDoor *self = KW_OWNCLOUD_DOOR (door);

  return self->line != NULL ? kw_line_server_get_n_pending (self->line) : 0;
}

static void
kw_owncloud_door_stop (KwDoor *door)
{
  KwOwncloudDoor *self = KW_OWNCLOUD_DOOR (door);

  stop_watching (self);
  stop_handover (self);
  if (self->line != NULL)
    kw_line_server_stop (self->line);
}

static void
kw_owncloud_door_iface_init (KwDoorInterface *iface)
{
  iface->start = kw_owncloud_door_start;
  iface->quiesce = kw_owncloud_door_quiesce;
  iface->get_n_pending = kw_owncloud_door_get_n_pending;
  iface->stop = kw_owncloud_door_stop;
}

static void
kw_owncloud_door_dispose (GObject *object)
{
  KwOwncloudDoor *self = KW_OWNCLOUD_DOOR (object);

  stop_watching (self);
  g_clear_object (&self->line);
  stop_handover (self);
  g_clear_pointer (&self->web, kw_owncloud_web_free);
  G_OBJECT_CLASS (kw_owncloud_door_parent_class)->dispose (object);
}

static void
kw_owncloud_door_class_init (KwOwncloudDoorClass *klass)
{
  G_OBJECT_CLASS (klass)->dispose = kw_owncloud_door_dispose;
}

static void
kw_owncloud_door_init (KwOwncloudDoor *self G_GNUC_UNUSED)
{
}
