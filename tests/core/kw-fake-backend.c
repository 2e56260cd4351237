/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-fake-backend"

#include "config.h"

#include "kw-fake-backend.h"

/*
 * A back end whose tokens come and go as a test says. A reset drops the token; nothing takes its
 * place until the test plugs one in. Main context.
 */
struct _KwFakeBackend
{
  GObject parent_instance;

  gboolean running;
  guint n_resets;
  gboolean expecting; /* tokens that were reset are still plugged in */
  char *status_text;  /* owned, nullable */
};

static void kw_fake_backend_iface_init (KwBackendInterface *iface);

G_DEFINE_FINAL_TYPE_WITH_CODE (KwFakeBackend,
                               kw_fake_backend,
                               G_TYPE_OBJECT,
                               G_IMPLEMENT_INTERFACE (KW_TYPE_BACKEND, kw_fake_backend_iface_init))

static GQuark
newest_quark (void)
{
  return g_quark_from_static_string ("kw-fake-backend-newest");
}

static const char *
kw_fake_backend_get_name (KwBackend *backend G_GNUC_UNUSED)
{
  return "fake";
}

static gboolean
kw_fake_backend_configure (KwBackend *backend G_GNUC_UNUSED, KwConfig *config, GError **error)
{
  if (kw_config_get_pkcs11 (config)->uri == NULL)
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "the fake back end has no URIs");
  return FALSE;
}

static void
kw_fake_backend_start (KwBackend *backend)
{
  KW_FAKE_BACKEND (backend)->running = TRUE;
}

static void
kw_fake_backend_stop (KwBackend *backend)
{
  KW_FAKE_BACKEND (backend)->running = FALSE;
}

static GPtrArray *
kw_fake_backend_coldplug (KwBackend *backend G_GNUC_UNUSED, GError **error)
{
  g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_NOT_FOUND, "no token");
  return NULL;
}

static void
kw_fake_backend_reset_token (KwBackend *backend, KwToken *token)
{
  KW_FAKE_BACKEND (backend)->n_resets++;
  kw_backend_emit_token_removed (backend, token);
}

static gboolean
kw_fake_backend_is_token_expected (KwBackend *backend, KwToken *token G_GNUC_UNUSED)
{
  return KW_FAKE_BACKEND (backend)->expecting;
}

static const char *
kw_fake_backend_get_status_text (KwBackend *backend)
{
  return KW_FAKE_BACKEND (backend)->status_text;
}

static void
kw_fake_backend_finalize (GObject *object)
{
  KwFakeBackend *self = KW_FAKE_BACKEND (object);

  if (kw_fake_backend_get_newest () == self)
    g_type_set_qdata (KW_TYPE_FAKE_BACKEND, newest_quark (), NULL);
  g_free (self->status_text);
  G_OBJECT_CLASS (kw_fake_backend_parent_class)->finalize (object);
}

static void
kw_fake_backend_class_init (KwFakeBackendClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_fake_backend_finalize;
}

static void
kw_fake_backend_init (KwFakeBackend *self)
{
  g_type_set_qdata (KW_TYPE_FAKE_BACKEND, newest_quark (), self);
}

static void
kw_fake_backend_iface_init (KwBackendInterface *iface)
{
  iface->get_name = kw_fake_backend_get_name;
  iface->configure = kw_fake_backend_configure;
  iface->start = kw_fake_backend_start;
  iface->stop = kw_fake_backend_stop;
  iface->coldplug = kw_fake_backend_coldplug;
  iface->reset_token = kw_fake_backend_reset_token;
  iface->is_token_expected = kw_fake_backend_is_token_expected;
  iface->get_status_text = kw_fake_backend_get_status_text;
}

/**
 * kw_fake_backend_new:
 *
 * Returns: (transfer full): a back end without tokens
 */
KwFakeBackend *
kw_fake_backend_new (void)
{
  return g_object_new (KW_TYPE_FAKE_BACKEND, NULL);
}

/**
 * kw_fake_backend_get_newest:
 *
 * Returns: (transfer none) (nullable): the back end that was made last, perhaps by the service
 */
KwFakeBackend *
kw_fake_backend_get_newest (void)
{
  return g_type_get_qdata (KW_TYPE_FAKE_BACKEND, newest_quark ());
}

/**
 * kw_fake_backend_plug:
 * @self: a back end
 * @token: a token
 *
 * Announces a token.
 */
void
kw_fake_backend_plug (KwFakeBackend *self, KwFakeToken *token)
{
  kw_backend_emit_token_added (KW_BACKEND (self), KW_TOKEN (token));
}

/**
 * kw_fake_backend_unplug:
 * @self: a back end
 * @token: a token
 *
 * Says that a token is gone.
 */
void
kw_fake_backend_unplug (KwFakeBackend *self, KwFakeToken *token)
{
  kw_backend_emit_token_removed (KW_BACKEND (self), KW_TOKEN (token));
}

/**
 * kw_fake_backend_set_status_text:
 * @self: a back end
 * @text: (nullable): what it waits for
 *
 * Changes the status text and says so.
 */
void
kw_fake_backend_set_status_text (KwFakeBackend *self, const char *text)
{
  g_free (self->status_text);
  self->status_text = g_strdup (text);
  kw_backend_emit_status_changed (KW_BACKEND (self));
}

/**
 * kw_fake_backend_set_expecting:
 * @self: a back end
 * @expecting: whether tokens that were reset are still plugged in
 *
 * Changes that and says so.
 */
void
kw_fake_backend_set_expecting (KwFakeBackend *self, gboolean expecting)
{
  self->expecting = expecting;
  kw_backend_emit_status_changed (KW_BACKEND (self));
}

/**
 * kw_fake_backend_get_n_resets:
 * @self: a back end
 *
 * Returns: how often a token was to be reset
 */
guint
kw_fake_backend_get_n_resets (KwFakeBackend *self)
{
  return self->n_resets;
}

/**
 * kw_fake_backend_is_running:
 * @self: a back end
 *
 * Returns: %TRUE between start and stop
 */
gboolean
kw_fake_backend_is_running (KwFakeBackend *self)
{
  return self->running;
}
