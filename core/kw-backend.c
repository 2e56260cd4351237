/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-backend"

#include "config.h"

#include "kw-backend.h"

#include "kw-error.h"

/*
 * The interface that a back end implements: where tokens come from. Core asks what is there and what changed, never how.
 */

G_DEFINE_INTERFACE (KwBackend, kw_backend, G_TYPE_OBJECT)

enum
{
  SIGNAL_TOKEN_ADDED,
  SIGNAL_TOKEN_REMOVED,
  SIGNAL_STATUS_CHANGED,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

static void
kw_backend_default_init (KwBackendInterface *iface)
{
  GType type = G_TYPE_FROM_INTERFACE (iface);

  /**
   * KwBackend::token-added:
   * @self: the back end
   * @token: a token that is there now
   */
  signals[SIGNAL_TOKEN_ADDED] = g_signal_new ("token-added", type, G_SIGNAL_RUN_LAST, 0, NULL, NULL,
                                              NULL, G_TYPE_NONE, 1, KW_TYPE_TOKEN);
  /**
   * KwBackend::token-removed:
   * @self: the back end
   * @token: a token that was announced before and is gone
   */
  signals[SIGNAL_TOKEN_REMOVED] = g_signal_new ("token-removed", type, G_SIGNAL_RUN_LAST, 0, NULL,
                                                NULL, NULL, G_TYPE_NONE, 1, KW_TYPE_TOKEN);
  /**
   * KwBackend::status-changed:
   * @self: the back end
   */
  signals[SIGNAL_STATUS_CHANGED] = g_signal_new ("status-changed", type, G_SIGNAL_RUN_LAST, 0, NULL,
                                                 NULL, NULL, G_TYPE_NONE, 0);
}

/**
 * kw_slot_info_free:
 * @info: (transfer full): description of a slot
 *
 * Frees a description. Any thread.
 */
void
kw_slot_info_free (KwSlotInfo *info)
{
  g_return_if_fail (info != NULL);

  g_ptr_array_unref (info->slot_fields);
  g_ptr_array_unref (info->token_fields);
  g_free (info);
}

/**
 * kw_backend_get_name:
 * @self: a back end
 *
 * Returns: (transfer none): its short name. Any thread.
 */
const char *
kw_backend_get_name (KwBackend *self)
{
  g_return_val_if_fail (KW_IS_BACKEND (self), NULL);

  return KW_BACKEND_GET_IFACE (self)->get_name (self);
}

/**
 * kw_backend_configure:
 * @self: a back end
 * @config: the configuration
 * @error: where to store the error
 *
 * Hands the configuration over, before anything else is called. Main context.
 *
 * Returns: %FALSE with %KW_ERROR_CONFIG when the back end cannot work with it
 */
gboolean
kw_backend_configure (KwBackend *self, KwConfig *config, GError **error)
{
  g_return_val_if_fail (KW_IS_BACKEND (self), FALSE);

  return KW_BACKEND_GET_IFACE (self)->configure (self, config, error);
}

/**
 * kw_backend_start:
 * @self: a back end
 *
 * Begins to look for tokens. Never blocks. Main context.
 */
void
kw_backend_start (KwBackend *self)
{
  g_return_if_fail (KW_IS_BACKEND (self));

  KW_BACKEND_GET_IFACE (self)->start (self);
}

/**
 * kw_backend_stop:
 * @self: a back end
 *
 * Stops looking; no signal is emitted afterwards. Main context.
 */
void
kw_backend_stop (KwBackend *self)
{
  g_return_if_fail (KW_IS_BACKEND (self));

  KW_BACKEND_GET_IFACE (self)->stop (self);
}

/**
 * kw_backend_coldplug:
 * @self: a back end that was not started
 * @error: where to store the error
 *
 * Finds the configured tokens now. Blocks; for commands that do one thing and end.
 *
 * Returns: (transfer full) (element-type KwToken): at least one token; %NULL with %KW_ERROR_TOKEN_NOT_FOUND,
 *   %KW_ERROR_AMBIGUOUS or %KW_ERROR_MODULE_FAILED, whose message lists what is there
 */
GPtrArray *
kw_backend_coldplug (KwBackend *self, GError **error)
{
  g_return_val_if_fail (KW_IS_BACKEND (self), NULL);

  return KW_BACKEND_GET_IFACE (self)->coldplug (self, error);
}

/**
 * kw_backend_list_slots:
 * @self: a back end that was not started
 * @error: where to store the error
 *
 * Describes all slots. Blocks.
 *
 * Returns: (transfer full) (element-type KwSlotInfo): the slots; %NULL with an error
 */
GPtrArray *
kw_backend_list_slots (KwBackend *self, GError **error)
{
  g_return_val_if_fail (KW_IS_BACKEND (self), NULL);

  if (KW_BACKEND_GET_IFACE (self)->list_slots == NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED, "The back end %s has no slots to list",
                   kw_backend_get_name (self));
      return NULL;
    }
  return KW_BACKEND_GET_IFACE (self)->list_slots (self, error);
}

/**
 * kw_backend_reset_token:
 * @self: a back end that was started
 * @token: a token it announced
 *
 * Asks for a token that gave trouble to be dropped and found anew. Main context.
 */
void
kw_backend_reset_token (KwBackend *self, KwToken *token)
{
  g_return_if_fail (KW_IS_BACKEND (self));

  KW_BACKEND_GET_IFACE (self)->reset_token (self, token);
}

/**
 * kw_backend_get_status_text:
 * @self: a back end
 *
 * Returns: (transfer none) (nullable): a sentence on what it waits for, %NULL when all is well. Main context.
 */
const char *
kw_backend_get_status_text (KwBackend *self)
{
  g_return_val_if_fail (KW_IS_BACKEND (self), NULL);

  return KW_BACKEND_GET_IFACE (self)->get_status_text (self);
}

/**
 * kw_backend_is_token_expected:
 * @self: a back end
 * @token: a token that it dropped
 *
 * Returns: whether the token may still be where it was, and be announced again. Main context.
 */
gboolean
kw_backend_is_token_expected (KwBackend *self, KwToken *token)
{
  KwBackendInterface *iface = NULL;

  g_return_val_if_fail (KW_IS_BACKEND (self), FALSE);

  iface = KW_BACKEND_GET_IFACE (self);
  return iface->is_token_expected != NULL && iface->is_token_expected (self, token);
}

/**
 * kw_backend_get_access:
 * @self: a back end
 * @token: one of its tokens
 * @out_access: (out): how to use it
 *
 * Asks for the PIN and the time limit that the configuration has for a token. Main context.
 *
 * Returns: %FALSE when the back end leaves that to the defaults
 */
gboolean
kw_backend_get_access (KwBackend *self, KwToken *token, KwTokenAccess *out_access)
{
  KwTokenAccess access = { 0 };

  g_return_val_if_fail (KW_IS_BACKEND (self), FALSE);

  if (KW_BACKEND_GET_IFACE (self)->get_access == NULL)
    return FALSE;
  KW_BACKEND_GET_IFACE (self)->get_access (self, token, &access);
  *out_access = access;
  return TRUE;
}

/**
 * kw_backend_emit_token_added:
 * @self: a back end
 * @token: the token
 *
 * For implementations: announces a token. Main context.
 */
void
kw_backend_emit_token_added (KwBackend *self, KwToken *token)
{
  g_return_if_fail (KW_IS_BACKEND (self));

  g_signal_emit (self, signals[SIGNAL_TOKEN_ADDED], 0, token);
}

/**
 * kw_backend_emit_token_removed:
 * @self: a back end
 * @token: the token
 *
 * For implementations: says that a token announced before is gone. Main context.
 */
void
kw_backend_emit_token_removed (KwBackend *self, KwToken *token)
{
  g_return_if_fail (KW_IS_BACKEND (self));

  g_signal_emit (self, signals[SIGNAL_TOKEN_REMOVED], 0, token);
}

/**
 * kw_backend_emit_status_changed:
 * @self: a back end
 *
 * For implementations: says that the status text is another one. Main context.
 */
void
kw_backend_emit_status_changed (KwBackend *self)
{
  g_return_if_fail (KW_IS_BACKEND (self));

  g_signal_emit (self, signals[SIGNAL_STATUS_CHANGED], 0);
}
