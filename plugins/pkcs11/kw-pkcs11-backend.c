/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-backend"

#include "config.h"

#include "kw-pkcs11-backend.h"

#include "kw-error.h"
#include "kw-names.h"
#include "kw-pkcs11-slots.h"

/*
 * The PKCS#11 back end: the tokens that the tables [[pkcs11]] mean, of one module or several. While it
 * is started, a monitor's thread for each module makes all calls that concern the module as a whole;
 * this object only passes its news on. Without being started it looks for the tokens, or lists the
 * slots, in the caller's thread.
 *
 * Main context.
 */
struct _KwPkcs11Backend
{
  GObject parent_instance;

  KwConfig *config; /* owned; NULL until configured */
  KwPkcs11Timing timing;
  GPtrArray *units; /* owned; of Unit */
  gboolean started;
  char *status;          /* owned; all that is to be said; NULL = nothing to wait for */
  GSource *stuck_source; /* owned */
};

/* One module, and what it is there for. */
typedef struct
{
  KwPkcs11Backend *backend; /* borrowed */
  KwPkcs11Module *module;   /* owned */
  GPtrArray *tables;        /* owned; of KwPkcs11Config, borrowed from the configuration */
  KwPkcs11Monitor *monitor; /* owned; NULL when not started */
  GPtrArray *tokens;        /* owned; of KwPkcs11Token: announced, or found by coldplug */
  char *status;             /* owned; NULL = nothing to wait for */
  char *stuck_status;       /* owned; NULL = calls return */
} Unit;

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
  .share_first = G_TIME_SPAN_MINUTE,
  .share_max = G_TIME_SPAN_HOUR,
};

static Unit *
get_unit (KwPkcs11Backend *self, guint i)
{
  return g_ptr_array_index (self->units, i);
}

static void
unit_free (gpointer data)
{
  Unit *unit = data;

  g_clear_pointer (&unit->monitor, kw_pkcs11_monitor_unref);
  g_ptr_array_unref (unit->tokens);
  g_ptr_array_unref (unit->tables);
  g_object_unref (unit->module);
  g_free (unit->status);
  g_free (unit->stuck_status);
  g_free (unit);
}

static Unit *
ensure_unit (KwPkcs11Backend *self, const char *path)
{
  Unit *unit = NULL;

  for (guint i = 0; i < self->units->len; i++)
    {
      if (g_str_equal (kw_pkcs11_module_get_path (get_unit (self, i)->module), path))
        return get_unit (self, i);
    }
  unit = g_new0 (Unit, 1);
  unit->backend = self;
  unit->module = kw_pkcs11_module_new (path);
  unit->tables = g_ptr_array_new ();
  unit->tokens = g_ptr_array_new_with_free_func (g_object_unref);
  g_ptr_array_add (self->units, unit);
  return unit;
}

static Unit *
find_unit_of_token (KwPkcs11Backend *self, KwToken *token)
{
  for (guint i = 0; i < self->units->len; i++)
    {
      if (g_ptr_array_find (get_unit (self, i)->tokens, token, NULL))
        return get_unit (self, i);
    }
  return NULL;
}

static void
remove_token (Unit *unit, KwPkcs11Token *token)
{
  g_autoptr (KwPkcs11Token) keep_alive G_GNUC_UNUSED = g_object_ref (token);

  if (!g_ptr_array_remove (unit->tokens, token))
    return;
  kw_token_close (KW_TOKEN (token));
  kw_backend_emit_token_removed (KW_BACKEND (unit->backend), KW_TOKEN (token));
}

static void
add_sentence (GString *text, const char *sentence)
{
  if (sentence != NULL)
    g_string_append_printf (text, "%s%s", text->len > 0 ? "; " : "", sentence);
}

static void
set_status (Unit *unit, char **field, const char *status)
{
  KwPkcs11Backend *self = unit->backend;
  g_autoptr (GString) text = g_string_new (NULL);

  if (g_strcmp0 (*field, status) == 0)
    return;
  g_free (*field);
  *field = g_strdup (status);
  for (guint i = 0; i < self->units->len; i++)
    add_sentence (text, get_unit (self, i)->stuck_status != NULL ? get_unit (self, i)->stuck_status
                                                                 : get_unit (self, i)->status);
  g_free (self->status);
  self->status = text->len > 0 ? g_strdup (text->str) : NULL;
  kw_backend_emit_status_changed (KW_BACKEND (self));
}

static void
on_news (KwPkcs11News news, KwPkcs11Token *token, const char *status, gpointer user_data)
{
  Unit *unit = user_data;
  g_autoptr (KwPkcs11Backend) self = g_object_ref (unit->backend);

  switch (news)
    {
    case KW_PKCS11_NEWS_ADDED:
      g_ptr_array_add (unit->tokens, g_object_ref (token));
      kw_backend_emit_token_added (KW_BACKEND (self), KW_TOKEN (token));
      break;
    case KW_PKCS11_NEWS_REMOVED:
      /* Unless it was given up here already. */
      remove_token (unit, token);
      break;
    case KW_PKCS11_NEWS_STATUS:
    default:
      set_status (unit, &unit->status, status);
      break;
    }
}

static gboolean
on_stuck_check (gpointer user_data)
{
  g_autoptr (KwPkcs11Backend) self = g_object_ref (user_data);

  for (guint i = 0; i < self->units->len; i++)
    {
      Unit *unit = get_unit (self, i);
      g_autofree char *text = NULL;

      if (kw_pkcs11_monitor_get_busy_usec (unit->monitor) >= self->timing.stuck)
        text = g_strdup_printf ("A call into the PKCS#11 module %s does not return",
                                kw_pkcs11_module_get_path (unit->module));
      set_status (unit, &unit->stuck_status, text);
    }
  return G_SOURCE_CONTINUE;
}

static gboolean
ensure_initialized (Unit *unit, GError **error)
{
  return kw_pkcs11_module_is_initialized (unit->module)
         || (kw_pkcs11_module_load (unit->module, error)
             && kw_pkcs11_module_initialize (unit->module, G_LOG_LEVEL_INFO, error));
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

  g_ptr_array_set_size (self->units, 0);
  for (guint i = 0; i < kw_config_get_n_pkcs11 (config); i++)
    {
      const KwPkcs11Config *table = kw_config_get_pkcs11_table (config, i);

      if (table->module == NULL || table->module[0] == '\0')
        {
          g_set_error_literal (
              error, KW_ERROR, KW_ERROR_CONFIG,
              kw_config_get_n_pkcs11 (config) > 1
                  ? "A table [[pkcs11]] names no module: each of them is complete in itself"
                  : "No PKCS#11 module is configured: set [pkcs11] module to its path, for "
                    "example \"/usr/lib/softhsm/libsofthsm2.so\"");
          return FALSE;
        }
      if (!kw_pkcs11_check_criteria (table, error))
        return FALSE;
      g_ptr_array_add (ensure_unit (self, table->module)->tables, (gpointer) table);
    }
  g_set_object (&self->config, config);
  return TRUE;
}

static void
kw_pkcs11_backend_start (KwBackend *backend)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (backend);
  g_autoptr (GMainContext) context = NULL;

  g_return_if_fail (self->units->len > 0);

  if (self->started)
    return;
  self->started = TRUE;
  for (guint i = 0; i < self->units->len; i++)
    {
      Unit *unit = get_unit (self, i);

      unit->monitor = kw_pkcs11_monitor_start (unit->module, self->config, unit->tables,
                                               &self->timing, on_news, unit);
    }
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

  if (!self->started)
    return;
  if (self->stuck_source != NULL)
    {
      g_source_destroy (self->stuck_source);
      g_clear_pointer (&self->stuck_source, g_source_unref);
    }
  for (guint i = 0; i < self->units->len; i++)
    {
      Unit *unit = get_unit (self, i);

      kw_pkcs11_monitor_stop (unit->monitor);
      for (guint j = 0; j < unit->tokens->len; j++)
        kw_token_close (g_ptr_array_index (unit->tokens, j));
      g_ptr_array_set_size (unit->tokens, 0);
    }
}

static GPtrArray *
kw_pkcs11_backend_coldplug (KwBackend *backend, GError **error)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (backend);
  g_autoptr (GPtrArray) tokens = g_ptr_array_new_with_free_func (g_object_unref);
  g_autoptr (GError) first_error = NULL;

  g_return_val_if_fail (self->units->len > 0 && !self->started, NULL);

  for (guint i = 0; i < self->units->len; i++)
    {
      Unit *unit = get_unit (self, i);
      GError **wanted_error = first_error == NULL ? &first_error : NULL;
      GPtrArray *found = NULL;

      if (unit->tokens->len == 0 && ensure_initialized (unit, wanted_error))
        found = kw_pkcs11_look_for_tokens (unit->module, unit->tables, wanted_error);
      if (found != NULL)
        {
          g_ptr_array_unref (unit->tokens);
          unit->tokens = found;
        }
      for (guint j = 0; j < unit->tokens->len; j++)
        g_ptr_array_add (tokens, g_object_ref (g_ptr_array_index (unit->tokens, j)));
    }
  if (tokens->len > 0)
    return g_steal_pointer (&tokens);
  g_propagate_error (error, g_steal_pointer (&first_error));
  return NULL;
}

static GPtrArray *
kw_pkcs11_backend_list_slots (KwBackend *backend, GError **error)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (backend);
  g_autoptr (GPtrArray) all = NULL;

  g_return_val_if_fail (self->units->len > 0 && !self->started, NULL);

  for (guint i = 0; i < self->units->len; i++)
    {
      Unit *unit = get_unit (self, i);
      g_autoptr (GPtrArray) described = NULL;
      g_autoptr (GArray) slots = NULL;
      CK_INFO info = { 0 };

      if (!ensure_initialized (unit, error))
        return NULL;
      slots = kw_pkcs11_slots_read (unit->module, &info, error);
      if (slots == NULL)
        return NULL;
      described
          = kw_pkcs11_slots_describe ((const KwPkcs11Slot *) (gpointer) slots->data, slots->len);
      if (all == NULL)
        all = g_steal_pointer (&described);
      else
        g_ptr_array_extend_and_steal (all, g_steal_pointer (&described));
    }
  return g_steal_pointer (&all);
}

static void
kw_pkcs11_backend_reset_token (KwBackend *backend, KwToken *token)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (backend);
  Unit *unit = find_unit_of_token (self, token);

  g_return_if_fail (self->started);

  if (unit == NULL)
    return;
  kw_pkcs11_monitor_reset (unit->monitor, KW_PKCS11_TOKEN (token));
  remove_token (unit, KW_PKCS11_TOKEN (token));
}

static const char *
kw_pkcs11_backend_get_status_text (KwBackend *backend)
{
  return KW_PKCS11_BACKEND (backend)->status;
}

static void
kw_pkcs11_backend_get_access (KwBackend *backend G_GNUC_UNUSED,
                              KwToken *token,
                              KwTokenAccess *out_access)
{
  const KwPkcs11Config *table = kw_pkcs11_token_get_config (KW_PKCS11_TOKEN (token));

  *out_access = (KwTokenAccess){
    .pin = table->pin,
    .pin_name = table->pin_name,
    .timeout_usec = (gint64) table->timeout * G_USEC_PER_SEC,
  };
}

static void
shut_unit_down (Unit *unit)
{
  if (unit->monitor != NULL)
    {
      /* The process is about to end; exit handlers of the module must not run beside C_Finalize. */
      if (!kw_pkcs11_monitor_wait (unit->monitor, END_WAIT_USEC))
        g_warning ("A call into the PKCS#11 module does not return; it is not finalised");
      return;
    }
  for (guint i = 0; i < unit->tokens->len; i++)
    kw_pkcs11_token_release (g_ptr_array_index (unit->tokens, i));
  kw_pkcs11_module_shut_down (unit->module, END_WAIT_USEC);
}

static void
kw_pkcs11_backend_dispose (GObject *object)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (object);

  kw_pkcs11_backend_stop (KW_BACKEND (self));
  for (guint i = 0; i < self->units->len; i++)
    shut_unit_down (get_unit (self, i));
  g_ptr_array_set_size (self->units, 0);
  g_clear_object (&self->config);

  G_OBJECT_CLASS (kw_pkcs11_backend_parent_class)->dispose (object);
}

static void
kw_pkcs11_backend_finalize (GObject *object)
{
  KwPkcs11Backend *self = KW_PKCS11_BACKEND (object);

  g_ptr_array_unref (self->units);
  g_free (self->status);

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
  self->units = g_ptr_array_new_with_free_func (unit_free);
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
  iface->get_access = kw_pkcs11_backend_get_access;
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
  g_return_if_fail (timing != NULL && !self->started);

  self->timing = *timing;
}
