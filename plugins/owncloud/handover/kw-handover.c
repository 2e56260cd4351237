/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-handover"

#include "config.h"

#include "kw-error.h"
#include "kw-jwt.h"
#include "kw-log.h"
#include "kw-names.h"

#include <libsoup/soup.h>
#include <string.h>

/*
 * Hands the token of the line socket to ownCloud: a POST with a JSON Web Token, repeated with back-off until it is
 * accepted. Everything runs in the main context.
 */

#define FIRST_DELAY_SECONDS 1
#define MAX_DELAY_SECONDS 300
#define REQUEST_TIMEOUT_SECONDS 30
#define JWT_LIFETIME_SECONDS 120
#define JWT_ISSUER "keyward"

#define KW_TYPE_LINE_TOKEN_SENDER (kw_line_token_sender_get_type ())
G_DECLARE_FINAL_TYPE (KwLineTokenSender, kw_line_token_sender, KW, LINE_TOKEN_SENDER, GObject)

GObject *kw_handover_new (KwSecret *token, KwSecret *jwt_secret, const char *url);

struct _KwLineTokenSender
{
  GObject parent_instance;

  KwSecret *token;      /* owned */
  KwSecret *jwt_secret; /* owned */
  char *url;            /* owned */
  SoupSession *session; /* owned, nullable: only until the token was accepted */
  GCancellable *cancellable;
  guint delay;
  guint timer;
};

G_DEFINE_FINAL_TYPE (KwLineTokenSender, kw_line_token_sender, G_TYPE_OBJECT)

static gboolean try_to_send (gpointer user_data);

static void
try_again_later (KwLineTokenSender *self, const char *reason)
{
  g_autofree char *seconds = g_strdup_printf ("%u", self->delay);

  kw_log (G_LOG_LEVEL_WARNING, "The line token was not accepted; trying again", "url", self->url,
          "reason", reason, "seconds", seconds, NULL);
  self->timer = g_timeout_add_seconds (self->delay, try_to_send, self);
  self->delay = MIN (self->delay * 2, MAX_DELAY_SECONDS);
}

static void
on_sent (GObject *source, GAsyncResult *result, gpointer user_data)
{
  g_autoptr (KwLineTokenSender) self = user_data;
  g_autoptr (GError) error = NULL;
  g_autoptr (GInputStream) body G_GNUC_UNUSED
      = soup_session_send_finish (SOUP_SESSION (source), result, &error);
  SoupMessage *message = soup_session_get_async_result_message (SOUP_SESSION (source), result);
  guint status = message != NULL ? soup_message_get_status (message) : 0;

  if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED) || self->session == NULL)
    return;
  if (error != NULL)
    {
      try_again_later (self, error->message);
      return;
    }
  if (!SOUP_STATUS_IS_SUCCESSFUL (status))
    {
      g_autofree char *reason = g_strdup_printf ("HTTP status %u", status);

      try_again_later (self, reason);
      return;
    }
  kw_log (G_LOG_LEVEL_INFO, "The line token was accepted", "url", self->url, NULL);
  g_clear_object (&self->session);
}

/* {"token": "…"}, in memory that is wiped; the token is hexadecimal, so nothing needs escaping. */
static GBytes *
make_body (KwSecret *token)
{
  static const char head[] = "{\"token\":\"";
  static const char tail[] = "\"}";
  gsize n_head = strlen (head);
  gsize n_token = kw_secret_get_size (token);
  KwSecret *body = kw_secret_new (n_head + n_token + strlen (tail), NULL);

  if (body == NULL)
    return NULL;
  memcpy (kw_secret_get_data (body), head, n_head);
  memcpy (kw_secret_get_data (body) + n_head, kw_secret_get_data (token), n_token);
  memcpy (kw_secret_get_data (body) + n_head + n_token, tail, strlen (tail));
  return g_bytes_new_with_free_func (kw_secret_get_data (body), kw_secret_get_size (body),
                                     (GDestroyNotify) kw_secret_unref, body);
}

static gboolean
try_to_send (gpointer user_data)
{
  KwLineTokenSender *self = KW_LINE_TOKEN_SENDER (user_data);
  g_autoptr (GError) error = NULL;
  g_autoptr (SoupMessage) message = soup_message_new (SOUP_METHOD_POST, self->url);
  g_autoptr (GBytes) body = make_body (self->token);
  g_autofree char *jwt = kw_jwt_sign (self->jwt_secret, JWT_ISSUER, KW_JWT_AUDIENCE_OWNCLOUD,
                                      JWT_LIFETIME_SECONDS, &error);
  g_autofree char *authorization = g_strconcat ("Bearer ", jwt, NULL);

  self->timer = 0;
  if (message == NULL || body == NULL || jwt == NULL)
    {
      try_again_later (self, error != NULL ? error->message : "the request cannot be made");
      return G_SOURCE_REMOVE;
    }
  soup_message_headers_replace (soup_message_get_request_headers (message), "Authorization",
                                authorization);
  soup_message_set_request_body_from_bytes (message, "application/json", body);
  /* A token must not wander to wherever an answer points. */
  soup_message_add_flags (message, SOUP_MESSAGE_NO_REDIRECT);
  soup_session_send_async (self->session, message, G_PRIORITY_DEFAULT, self->cancellable, on_sent,
                           g_object_ref (self));
  return G_SOURCE_REMOVE;
}

static void
kw_line_token_sender_dispose (GObject *object)
{
  KwLineTokenSender *self = KW_LINE_TOKEN_SENDER (object);

  g_clear_handle_id (&self->timer, g_source_remove);
  if (self->cancellable != NULL)
    g_cancellable_cancel (self->cancellable);
  g_clear_object (&self->session);
  g_clear_object (&self->cancellable);
  G_OBJECT_CLASS (kw_line_token_sender_parent_class)->dispose (object);
}

static void
kw_line_token_sender_finalize (GObject *object)
{
  KwLineTokenSender *self = KW_LINE_TOKEN_SENDER (object);

  g_clear_pointer (&self->token, kw_secret_unref);
  g_clear_pointer (&self->jwt_secret, kw_secret_unref);
  g_free (self->url);
  G_OBJECT_CLASS (kw_line_token_sender_parent_class)->finalize (object);
}

static void
kw_line_token_sender_class_init (KwLineTokenSenderClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  object_class->dispose = kw_line_token_sender_dispose;
  object_class->finalize = kw_line_token_sender_finalize;
}

static void
kw_line_token_sender_init (KwLineTokenSender *self)
{
  self->cancellable = g_cancellable_new ();
  self->delay = FIRST_DELAY_SECONDS;
}

/**
 * kw_handover_new:
 * @token: the token
 * @jwt_secret: secret that ownCloud shares
 * @url: where it takes the token
 *
 * Begins to hand the token over. Main context.
 *
 * Returns: (transfer full): what does it; g_object_run_dispose() gives up
 */
GObject *
kw_handover_new (KwSecret *token, KwSecret *jwt_secret, const char *url)
{
  KwLineTokenSender *self = g_object_new (KW_TYPE_LINE_TOKEN_SENDER, NULL);

  self->token = kw_secret_ref (token);
  self->jwt_secret = kw_secret_ref (jwt_secret);
  self->url = g_strdup (url);
  self->session = soup_session_new ();
  soup_session_set_timeout (self->session, REQUEST_TIMEOUT_SECONDS);
  self->timer = g_idle_add (try_to_send, self);
  return G_OBJECT (self);
}
