/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-backend"

#include "config.h"

#include "kw-pkcs11-backend.h"

#include "kw-error.h"
#include "kw-names.h"
#include "kw-pkcs11-slots.h"

/*
 * The PKCS#11 back end: one module, one token of it. While it is started, a monitor's thread makes
 * all calls that concern the module as a whole; this object only passes its news on. Without being
 * started it looks for the token, or lists the slots, in the caller's thread.
 *
 * Main context.
 */
struct _KwPkcs11Backend
{
  GObject parent_instance;

  KwConfig *config; /* owned; NULL until configured */
  KwPkcs11Timing timing;
  KwPkcs11Module *module;   /* owned; NULL until configured */
  KwPkcs11Monitor *monitor; /* owned; NULL when not started */
  KwPkcs11Token *token;     /* owned; announced, or found by coldplug */
  char *status;             /* owned; NULL = nothing to wait for */
  char *stuck_status;       /* owned; NULL = calls return */
  GSource *stuck_source;    /* owned */
};

static void kw_pkcs11_backend_iface_init (KwBackendInterface *iface);

G_DEFINE_FINAL_TYPE_WITH_CODE (KwPkcs11Backend,
                               kw_pkcs11_backend,
                               G_TYPE_OBJECT,
                               G_IMPLEMENT_INTERFACE (KW_TYPE_BACKEND,
                                                      kw_pkcs11_backend_iface_init))

/* How long the process may be kept from ending by a module that is being finalised. */
#define END_WAIT_USEC (3 * G_USEC_PER_SEC / 2)

static const KwPkcs11Timing default_timing = {
  .load_first = 1 * G_USEC_PER_SEC,
  .load_max = 30 * G_USEC_PER_SEC,
  .look_first = 2 * G_USEC_PER_SEC,
  .look_max = 10 * G_USEC_PER_SEC,
  .check = 5 * G_USEC_PER_SEC,
  .reset_first = G_USEC_PER_SEC / 4,
  .reset_max = 30 * G_USEC_PER_SEC,
  .calm = 30 * G_USEC_PER_SEC,
  .stuck = 10 * G_USEC_PER_SEC,
};

static void
remove_token (KwPkcs11Backend *self)
{
  g_autoptr (KwPkcs11Token) token = g_steal_pointer (&self->token);

  kw_token_close (KW_TOKEN (token));
  kw_backend_emit_token_removed (KW_BACKEND (self), KW_TOKEN (token));
}

static void
set_status (KwPkcs11Backend *self, char **field, const char *status)
{
  if (g_strcmp0 (*field, status) == 0)
    return;
  g_free (*field);
  *field = g_strdup (status);
  kw_backend_emit_status_changed (KW_BACKEND (self));
}

static void
on_news (KwPkcs11News news, KwPkcs11Token *token, const char *status, gpointer user_data)
{
  g_autoptr (KwPkcs11Backend) self = g_object_ref (user_data);

  switch (news)
    {
    case KW_PKCS11_NEWS_ADDED:
      g_set_object (&self->token, token);
      kw_backend_emit_token_added (KW_BACKEND (self), KW_TOKEN (token));
      break;
    case KW_PKCS11_NEWS_REMOVED:
      /* Otherwise it was given up here already. */
      if (self->token == token)
        remove_token (self);
      break;
    case KW_PKCS11_NEWS_STATUS:
    default:
      set_status (self, &self->status, status);
      break;
    }
}

static gboolean
on_stuck_check (gpointer user_data)
{
  g_autoptr (KwPkcs11Backend) self = g_object_ref (user_data);
  g_autofree char *text = NULL;

  if (kw_pkcs11_monitor_get_busy_usec (self->monitor) >= self->timing.stuck)
    text = g_strdup_printf ("A call into the PKCS#11 module %s does not return",
                            kw_pkcs11_module_get_path (self->module));
  set_status (self, &self->stuck_status, text);
  return G_SOURCE_CONTINUE;
}

static gboolean
ensure_initialized (KwPkcs11Backend *self, GError **error)
{
  return kw_pkcs11_module_is_initialized (self->module)
         || (kw_pkcs11_module_load (self->module, error)
             && kw_pkcs11_module_initialize (self->module, G_LOG_LEVEL_INFO, error));
}

static const char *
kw_pkcs11_backend_get_name (KwBackend *backend G_GNUC_UNUSED)
{
  return KW_BACKEND_PKCS11;
}

static gboolean
kw_pkcs11_backend_configure (KwBackend *backend, KwConfig *config, GError **error)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (backend);
  const KwPkcs11Config *pkcs11 = kw_config_get_pkcs11 (config);

  if (pkcs11->module == NULL || pkcs11->module[0] == '\0')
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_CONFIG,
                           "No PKCS#11 module is configured: set [pkcs11] module to its path, for "
                           "example \"/usr/lib/softhsm/libsofthsm2.so\"");
      return FALSE;
    }
  if (!kw_pkcs11_check_criteria (pkcs11, error))
    return FALSE;
  g_set_object (&self->config, config);
  g_clear_object (&self->module);
  self->module = kw_pkcs11_module_new (pkcs11->module);
  return TRUE;
}

static void
kw_pkcs11_backend_start (KwBackend *backend)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (backend);
  g_autoptr (GMainContext) context = NULL;

  g_return_if_fail (self->module != NULL);

  if (self->monitor != NULL)
    return;
  self->monitor
      = kw_pkcs11_monitor_start (self->module, self->config, &self->timing, on_news, self);
  context = g_main_context_ref_thread_default ();
  self->stuck_source = g_timeout_source_new ((guint) MAX (self->timing.stuck / 2000, 1));
  g_source_set_callback (self->stuck_source, on_stuck_check, self, NULL);
  g_source_set_static_name (self->stuck_source, "kw-pkcs11-stuck");
  g_source_attach (self->stuck_source, context);
}

static void
kw_pkcs11_backend_stop (KwBackend *backend)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (backend);

  if (self->monitor == NULL)
    return;
  if (self->stuck_source != NULL)
    {
      g_source_destroy (self->stuck_source);
      g_clear_pointer (&self->stuck_source, g_source_unref);
    }
  kw_pkcs11_monitor_stop (self->monitor);
  if (self->token != NULL)
    kw_token_close (KW_TOKEN (self->token));
  g_clear_object (&self->token);
}

static GPtrArray *
kw_pkcs11_backend_coldplug (KwBackend *backend, GError **error)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (backend);
  g_autoptr (GPtrArray) tokens = g_ptr_array_new_with_free_func (g_object_unref);

  g_return_val_if_fail (self->module != NULL && self->monitor == NULL, NULL);

  if (!ensure_initialized (self, error))
    return NULL;
  if (self->token == NULL)
    self->token
        = kw_pkcs11_look_for_token (self->module, kw_config_get_pkcs11 (self->config), error);
  if (self->token == NULL)
    return NULL;
  g_ptr_array_add (tokens, g_object_ref (self->token));
  return g_steal_pointer (&tokens);
}

static GPtrArray *
kw_pkcs11_backend_list_slots (KwBackend *backend, GError **error)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (backend);
  CK_INFO info = { 0 };
  g_autoptr (GArray) slots = NULL;

  g_return_val_if_fail (self->module != NULL && self->monitor == NULL, NULL);

  if (!ensure_initialized (self, error))
    return NULL;
  slots = kw_pkcs11_slots_read (self->module, &info, error);
  if (slots == NULL)
    return NULL;
  return kw_pkcs11_slots_describe ((const KwPkcs11Slot *) (gpointer) slots->data, slots->len);
}

static void
kw_pkcs11_backend_reset_token (KwBackend *backend, KwToken *token)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (backend);

  g_return_if_fail (self->monitor != NULL);

  if (self->token == NULL || KW_TOKEN (self->token) != token)
    return;
  kw_pkcs11_monitor_reset (self->monitor, self->token);
  remove_token (self);
}

static const char *
kw_pkcs11_backend_get_status_text (KwBackend *backend)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (backend);

  return self->stuck_status != NULL ? self->stuck_status : self->status;
}

static void
kw_pkcs11_backend_dispose (GObject *object)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (object);

  kw_pkcs11_backend_stop (KW_BACKEND (self));
  if (self->monitor != NULL)
    {
      /* The process is about to end; exit handlers of the module must not run beside C_Finalize. */
      if (!kw_pkcs11_monitor_wait (self->monitor, END_WAIT_USEC))
        g_warning ("A call into the PKCS#11 module does not return; it is not finalised");
      g_clear_pointer (&self->monitor, kw_pkcs11_monitor_unref);
    }
  else if (self->module != NULL)
    {
      if (self->token != NULL)
        kw_pkcs11_token_release (self->token);
      kw_pkcs11_module_shut_down (self->module, END_WAIT_USEC);
    }
  g_clear_object (&self->token);
  g_clear_object (&self->module);
  g_clear_object (&self->config);

  G_OBJECT_CLASS (kw_pkcs11_backend_parent_class)->dispose (object);
}

static void
kw_pkcs11_backend_finalize (GObject *object)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (object);

  g_free (self->status);
  g_free (self->stuck_status);

  G_OBJECT_CLASS (kw_pkcs11_backend_parent_class)->finalize (object);
}

static void
kw_pkcs11_backend_class_init (KwPkcs11BackendClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  object_class->dispose = kw_pkcs11_backend_dispose;
  object_class->finalize = kw_pkcs11_backend_finalize;
}

static void
kw_pkcs11_backend_init (KwPkcs11Backend *self)
{
  self->timing = default_timing;
}

static void
kw_pkcs11_backend_iface_init (KwBackendInterface *iface)
{
  iface->get_name = kw_pkcs11_backend_get_name;
  iface->configure = kw_pkcs11_backend_configure;
  iface->start = kw_pkcs11_backend_start;
  iface->stop = kw_pkcs11_backend_stop;
  iface->coldplug = kw_pkcs11_backend_coldplug;
  iface->list_slots = kw_pkcs11_backend_list_slots;
  iface->reset_token = kw_pkcs11_backend_reset_token;
  iface->get_status_text = kw_pkcs11_backend_get_status_text;
}

/**
 * kw_pkcs11_backend_set_timing:
 * @self: a back end that was not started
 * @timing: how long to wait for what
 *
 * Changes the waits from their defaults, so that tests need not wait as long as people may. Main
 * context.
 */
void
kw_pkcs11_backend_set_timing (KwPkcs11Backend *self, const KwPkcs11Timing *timing)
{
  g_return_if_fail (KW_IS_PKCS11_BACKEND (self));
  g_return_if_fail (timing != NULL && self->monitor == NULL);

  self->timing = *timing;
}
