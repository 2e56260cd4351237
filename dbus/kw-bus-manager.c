/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-manager.h"

#include "kw-bus-generated.h"
#include "kw-bus-names.h"
#include "kw-error.h"
#include "kw-log.h"
#include "kw-uuid.h"

#include <gio/gunixfdlist.h>
#include <glib-unix.h>
#include <string.h>
#include <unistd.h>

struct _KwBusManager
{
  KwConfig *config;
  KwService *service;
  KwBusCalls *calls;
  KwBusObjects *objects;
  KwBusOrgKeyward1Manager *skeleton;
  gboolean started; /* devices were looked for */
  guint update_id;
  gboolean was_consistent;
};

/* Kinds of keys that can be made. */
static const struct
{
  const char *name;
  KwKeyKind kind;
  guint bits;
} kinds[] = {
  { "aes256", KW_KEY_KIND_AES, 256 },
  { "rsa2048", KW_KEY_KIND_RSA, 2048 },
  { "rsa3072", KW_KEY_KIND_RSA, 3072 },
  { "rsa4096", KW_KEY_KIND_RSA, 4096 },
};

/* Takes options apart: each known one may be there, nothing else. */
static gboolean
read_options (GVariant *options,
              const char *name,
              const GVariantType *type,
              GVariant **out_value,
              GError **error)
{
  GVariantIter iter;
  const char *key;
  GVariant *value;

  if (out_value != NULL)
    *out_value = NULL;
  g_variant_iter_init (&iter, options);
  while (g_variant_iter_next (&iter, "{&sv}", &key, &value))
    {
      gboolean known = name != NULL && g_str_equal (key, name) && *out_value == NULL;

      if (!known || !g_variant_is_of_type (value, type))
        {
          if (known)
            g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                         "The option %s has the type %s, not %s", key,
                         g_variant_get_type_string (value), g_variant_type_peek_string (type));
          else
            g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "There is no option %s%s%s",
                         key, name != NULL ? "; there is " : "", name != NULL ? name : "");
          g_variant_unref (value);
          if (out_value != NULL)
            g_clear_pointer (out_value, g_variant_unref);
          return FALSE;
        }
      *out_value = value;
    }
  return TRUE;
}

static gboolean
read_associated_data (GVariant *options, GBytes **out_data, GError **error)
{
  g_autoptr (GVariant) value = NULL;

  *out_data = NULL;
  if (!read_options (options, KW_BUS_OPTION_ASSOCIATED_DATA, G_VARIANT_TYPE_BYTESTRING, &value,
                     error))
    return FALSE;
  if (value != NULL)
    *out_data = g_variant_get_data_as_bytes (value);
  return TRUE;
}

static GVariant *
new_bytes (GBytes *bytes)
{
  return g_variant_new_from_bytes (G_VARIANT_TYPE_BYTESTRING, bytes, TRUE);
}

/* Without a copy; the secret is wiped when the message has gone out. */
static GVariant *
new_secret_bytes (KwSecret *secret)
{
  return g_variant_new_from_data (G_VARIANT_TYPE_BYTESTRING, kw_secret_get_data (secret),
                                  kw_secret_get_size (secret), TRUE,
                                  (GDestroyNotify) kw_secret_unref, kw_secret_ref (secret));
}

static void
add_fact (GVariantBuilder *builder, const char *name, const char *text)
{
  if (text != NULL)
    g_variant_builder_add (builder, "{sv}", name, g_variant_new_string (text));
}

static void
init_facts (GVariantBuilder *builder, KwJob *job)
{
  g_variant_builder_init (builder, G_VARIANT_TYPE_VARDICT);
  add_fact (builder, KW_BUS_FACT_KEY, kw_job_get_key_name (job));
  add_fact (builder, KW_BUS_FACT_FINGERPRINT, kw_job_get_fingerprint (job));
  add_fact (builder, KW_BUS_FACT_DEVICE, kw_job_get_device_name (job));
}

static GVariant *
answer_envelope (KwJob *job)
{
  GVariantBuilder facts;

  init_facts (&facts, job);
  return g_variant_new ("(@aya{sv})", new_bytes (kw_job_get_envelope (job)), &facts);
}

static GVariant *
answer_rewrapped (KwJob *job)
{
  GVariantBuilder facts;

  init_facts (&facts, job);
  g_variant_builder_add (&facts, "{sv}", KW_BUS_FACT_CHANGED,
                         g_variant_new_boolean (kw_job_get_changed (job)));
  return g_variant_new ("(@aya{sv})", new_bytes (kw_job_get_envelope (job)), &facts);
}

static GVariant *
answer_plaintext (KwJob *job)
{
  GVariantBuilder facts;

  init_facts (&facts, job);
  return g_variant_new ("(@aya{sv})", new_secret_bytes (kw_job_get_plaintext (job)), &facts);
}

static GVariant *
answer_random (KwJob *job)
{
  return g_variant_new ("(@ay)", new_secret_bytes (kw_job_get_plaintext (job)));
}

static GVariant *
answer_generated (KwJob *job)
{
  KwKey *key = kw_job_get_key (job);
  GVariantBuilder facts;
  g_autofree char *id = NULL;

  if (kw_key_get_kind (key) == KW_KEY_KIND_AES)
    {
      gsize size;
      const guint8 *bytes = g_bytes_get_data (kw_key_get_id (key), &size);
      GString *text = g_string_new ("id:");

      for (gsize i = 0; i < size; i++)
        g_string_append_printf (text, "%02x", bytes[i]);
      id = g_string_free (text, FALSE);
    }
  else
    {
      id = g_strdup (kw_key_get_uuid (key));
    }
  g_variant_builder_init (&facts, G_VARIANT_TYPE_VARDICT);
  add_fact (&facts, KW_BUS_FACT_FINGERPRINT, kw_key_get_fingerprint (key));
  add_fact (&facts, KW_BUS_FACT_DEVICE, kw_job_get_device_name (job));
  return g_variant_new ("(sa{sv})", id, &facts);
}

/* The parameters of a call, which live as long as it. */
static GVariant *
ref_parameter (GDBusMethodInvocation *invocation, gsize index)
{
  return g_variant_get_child_value (g_dbus_method_invocation_get_parameters (invocation), index);
}

static void
return_error (GDBusMethodInvocation *invocation, GError *error)
{
  kw_bus_return_error (invocation, error);
  g_error_free (error);
}

static void
encrypt_for (GDBusMethodInvocation *invocation, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;
  g_autoptr (GVariant) plaintext = ref_parameter (invocation, 0);
  g_autoptr (GVariant) options = ref_parameter (invocation, 1);
  g_autoptr (GBytes) associated_data = NULL;
  g_autoptr (KwSecret) secret = NULL;
  g_autoptr (KwJob) job = NULL;
  GError *error = NULL;

  if (!read_associated_data (options, &associated_data, &error))
    {
      return_error (invocation, error);
      return;
    }
  if (g_variant_get_size (plaintext) > kw_config_get_hsm (self->config)->max_plaintext)
    {
      g_dbus_method_invocation_return_error (invocation, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                                             "The plaintext has %" G_GSIZE_FORMAT
                                             " bytes; max_plaintext allows %" G_GSIZE_FORMAT,
                                             g_variant_get_size (plaintext),
                                             kw_config_get_hsm (self->config)->max_plaintext);
      return;
    }
  secret = kw_secret_new_unlocked (g_variant_get_size (plaintext), &error);
  if (secret == NULL)
    {
      return_error (invocation, error);
      return;
    }
  if (g_variant_get_size (plaintext) > 0)
    memcpy (kw_secret_get_data (secret), g_variant_get_data (plaintext),
            g_variant_get_size (plaintext));
  job = kw_job_new_encrypt (caller, secret, associated_data);
  kw_bus_calls_submit (self->calls, invocation, job, answer_envelope);
}

typedef KwJob *(*NewJobFunc) (KwCaller *caller, GBytes *envelope, GBytes *associated_data);

static void
open_for (KwBusManager *self,
          GDBusMethodInvocation *invocation,
          KwCaller *caller,
          NewJobFunc new_job,
          KwBusAnswerFunc answer)
{
  g_autoptr (GVariant) ciphertext = ref_parameter (invocation, 0);
  g_autoptr (GVariant) options = ref_parameter (invocation, 1);
  g_autoptr (GBytes) associated_data = NULL;
  g_autoptr (GBytes) envelope = NULL;
  g_autoptr (KwJob) job = NULL;
  GError *error = NULL;

  if (!read_associated_data (options, &associated_data, &error))
    {
      return_error (invocation, error);
      return;
    }
  envelope = g_variant_get_data_as_bytes (ciphertext);
  job = new_job (caller, envelope, associated_data);
  kw_bus_calls_submit (self->calls, invocation, job, answer);
}

static void
decrypt_for (GDBusMethodInvocation *invocation, KwCaller *caller, gpointer user_data)
{
  open_for (user_data, invocation, caller, kw_job_new_decrypt, answer_plaintext);
}

static void
rewrap_for (GDBusMethodInvocation *invocation, KwCaller *caller, gpointer user_data)
{
  open_for (user_data, invocation, caller, kw_job_new_rewrap, answer_rewrapped);
}

static void
random_for (GDBusMethodInvocation *invocation, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;
  g_autoptr (KwJob) job = NULL;
  guint32 size;

  g_variant_get (g_dbus_method_invocation_get_parameters (invocation), "(u)", &size);
  job = kw_job_new_random (caller, size);
  kw_bus_calls_submit (self->calls, invocation, job, answer_random);
}

static void
generate_for (GDBusMethodInvocation *invocation, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;
  g_autoptr (GVariant) options = ref_parameter (invocation, 2);
  g_autoptr (KwJob) job = NULL;
  const char *kind, *label;
  GError *error = NULL;
  guint i = 0;

  g_variant_get (g_dbus_method_invocation_get_parameters (invocation), "(&s&s@a{sv})", &kind,
                 &label, NULL);
  while (i < G_N_ELEMENTS (kinds) && !g_str_equal (kinds[i].name, kind))
    i++;
  if (i == G_N_ELEMENTS (kinds))
    {
      g_dbus_method_invocation_return_error (
          invocation, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
          "There is no kind of key “%s”; there are aes256, rsa2048, rsa3072 and rsa4096", kind);
      return;
    }
  if (!read_options (options, NULL, NULL, NULL, &error))
    {
      return_error (invocation, error);
      return;
    }
  job = kinds[i].kind == KW_KEY_KIND_AES ? kw_job_new_generate_aes (caller, kinds[i].bits, label)
                                         : kw_job_new_generate_rsa (caller, kinds[i].bits, label);
  kw_bus_calls_submit (self->calls, invocation, job, answer_generated);
}

/* Cells of the matrix; those that are well only if they are wanted. */
static GVariant *
new_matrix (KwKeyMatrix *matrix, gboolean all)
{
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE ("a(ssss)"));
  for (guint i = 0; i < kw_key_matrix_get_n_keys (matrix); i++)
    {
      for (guint j = 0; j < kw_key_matrix_get_n_devices (matrix); j++)
        {
          const KwMatrixCell *cell = kw_key_matrix_get_cell (matrix, i, j);

          if (all || cell->state != KW_KEY_STATE_OK)
            g_variant_builder_add (&builder, "(ssss)", kw_key_matrix_get_key (matrix, i)->id,
                                   kw_key_matrix_get_device (matrix, j)->name,
                                   kw_key_state_to_string (cell->state),
                                   cell->advice != NULL ? cell->advice : "");
        }
    }
  return g_variant_builder_end (&builder);
}

static void
on_keys_checked (GObject *source, GAsyncResult *result, gpointer user_data)
{
  GDBusMethodInvocation *invocation = user_data;
  g_autoptr (GError) error = NULL;
  g_autoptr (KwKeyMatrix) matrix
      = kw_service_check_keys_finish (KW_SERVICE (source), result, &error);

  if (matrix == NULL)
    kw_bus_return_error (invocation, error);
  else
    g_dbus_method_invocation_return_value (invocation,
                                           g_variant_new ("(@a(ssss))", new_matrix (matrix, TRUE)));
}

static void
check_for (GDBusMethodInvocation *invocation, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;

  kw_service_check_keys_async (self->service, caller, on_keys_checked, invocation);
}

static void
on_key_accepted (GObject *source, GAsyncResult *result, gpointer user_data)
{
  GDBusMethodInvocation *invocation = user_data;
  g_autoptr (GError) error = NULL;

  if (kw_service_accept_key_finish (KW_SERVICE (source), result, &error))
    g_dbus_method_invocation_return_value (invocation, NULL);
  else
    kw_bus_return_error (invocation, error);
}

static void
accept_for (GDBusMethodInvocation *invocation, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;
  g_autoptr (GVariant) options = ref_parameter (invocation, 1);
  g_autoptr (GVariant) fingerprint = NULL;
  const char *id;
  GError *error = NULL;

  g_variant_get (g_dbus_method_invocation_get_parameters (invocation), "(&s@a{sv})", &id, NULL);
  if (!read_options (options, KW_BUS_OPTION_FINGERPRINT, G_VARIANT_TYPE_STRING, &fingerprint,
                     &error))
    return_error (invocation, error);
  else
    kw_service_accept_key_async (self->service, caller, id,
                                 fingerprint != NULL ? g_variant_get_string (fingerprint, NULL)
                                                     : NULL,
                                 on_key_accepted, invocation);
}

static void
test_for (GDBusMethodInvocation *invocation, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;
  g_autoptr (GVariant) options = ref_parameter (invocation, 0);
  g_autoptr (KwSelfTest) test = NULL;
  GError *error = NULL;

  if (read_options (options, NULL, NULL, NULL, &error))
    test = kw_service_run_test (self->service, caller, &error);
  if (test == NULL)
    return_error (invocation, error);
  else
    g_dbus_method_invocation_return_value (invocation,
                                           g_variant_new ("(o)",
                                                          kw_bus_objects_add_test (self->objects,
                                                                                   test)));
}

/* A pipe holds more than a link, so writing does not wait. */
static int
open_with_text (KwSecret *text, GError **error)
{
  int fds[2];

  if (!g_unix_open_pipe (fds, FD_CLOEXEC, error))
    return -1;
  if (write (fds[1], kw_secret_get_data (text), kw_secret_get_size (text))
          != (gssize) kw_secret_get_size (text)
      || write (fds[1], "\n", 1) != 1)
    g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED, "The link cannot be handed over");
  close (fds[1]);
  if (*error == NULL)
    return fds[0];
  close (fds[0]);
  return -1;
}

static void
web_login_for (GDBusMethodInvocation *invocation, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;
  GError *error = NULL;
  g_autoptr (KwSecret) link = kw_service_make_web_login (self->service, caller, &error);
  int fd = link != NULL ? open_with_text (link, &error) : -1;
  g_autoptr (GUnixFDList) list = NULL;

  if (fd < 0)
    {
      return_error (invocation, error);
      return;
    }
  /* Takes the descriptor. */
  list = g_unix_fd_list_new_from_array (&fd, 1);
  g_dbus_method_invocation_return_value_with_unix_fd_list (invocation, g_variant_new ("(h)", 0),
                                                           list);
}

/* Every method with what answers it. */
static const struct
{
  const char *signal;
  KwBusCallFunc func;
} methods[] = {
  { "handle-encrypt", encrypt_for },         { "handle-decrypt", decrypt_for },
  { "handle-rewrap", rewrap_for },           { "handle-random", random_for },
  { "handle-generate-key", generate_for },   { "handle-run-test", test_for },
  { "handle-check-consistency", check_for }, { "handle-accept-key", accept_for },
  { "handle-web-login", web_login_for },
};

typedef struct
{
  KwBusManager *manager;
  KwBusCallFunc func;
} Method;

/* Connected to signals that differ in their parameters: those are read from the invocation, which comes first. */
static gboolean
on_call (KwBusOrgKeyward1Manager *skeleton G_GNUC_UNUSED,
         GDBusMethodInvocation *invocation,
         Method *method)
{
  kw_bus_calls_authorise (method->manager->calls, invocation, method->func, method->manager);
  return TRUE;
}

/* A closure whose handler gets the invocation and nothing of what follows it. */
static void
marshal_call (GClosure *closure,
              GValue *return_value,
              guint n_values G_GNUC_UNUSED,
              const GValue *values,
              gpointer hint G_GNUC_UNUSED,
              gpointer data G_GNUC_UNUSED)
{
  g_value_set_boolean (return_value, on_call (g_value_get_object (&values[0]),
                                              g_value_get_object (&values[1]), closure->data));
}

static void
free_method (gpointer data, GClosure *closure G_GNUC_UNUSED)
{
  g_free (data);
}

static void
connect_methods (KwBusManager *self)
{
  for (guint i = 0; i < G_N_ELEMENTS (methods); i++)
    {
      Method *method = g_new0 (Method, 1);
      GClosure *closure = g_closure_new_simple (sizeof (GClosure), method);

      method->manager = self;
      method->func = methods[i].func;
      g_closure_set_marshal (closure, marshal_call);
      g_closure_add_finalize_notifier (closure, method, free_method);
      g_signal_connect_closure (self->skeleton, methods[i].signal, closure, FALSE);
    }
}

static guint
count_ready_devices (KwBusManager *self)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (kw_service_get_pool (self->service));
  guint n_ready = 0;

  for (guint i = 0; i < devices->len; i++)
    n_ready += kw_device_get_state (g_ptr_array_index (devices, i)) == KW_DEVICE_READY;
  return n_ready;
}

static gboolean
all_devices_are_ready (KwBusManager *self)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (kw_service_get_pool (self->service));

  return count_ready_devices (self) == devices->len;
}

/* Whether no configured key is another one somewhere, or missing. */
static gboolean
is_consistent (KwBusManager *self)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (kw_service_get_keyring (self->service));

  return kw_key_matrix_is_green (matrix);
}

/* What wants attention most: a key, or else a device. */
static char *
dup_advice (KwBusManager *self)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (kw_service_get_keyring (self->service));
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (kw_service_get_pool (self->service));

  for (guint i = 0; i < kw_key_matrix_get_n_keys (matrix); i++)
    {
      const KwKeyFacts *facts = kw_key_matrix_get_key (matrix, i);

      if (facts->configured && facts->advice != NULL)
        return g_strdup (facts->advice);
    }
  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);

      if (kw_device_get_state (device) != KW_DEVICE_READY)
        return g_strdup_printf ("%s: %s", kw_device_get_name (device),
                                kw_device_get_state_text (device));
    }
  return NULL;
}

static gboolean
update (gpointer user_data)
{
  KwBusManager *self = user_data;
  KwPool *pool = kw_service_get_pool (self->service);
  guint n_ready = count_ready_devices (self);
  gboolean consistent = is_consistent (self);
  g_autofree char *summary = kw_pool_dup_status_text (pool);
  g_autofree char *advice = n_ready > 0 ? dup_advice (self) : NULL;
  g_autofree char *text
      = advice != NULL ? g_strdup_printf ("%s. %s", summary, advice) : g_strdup (summary);
  const char *state;

  self->update_id = 0;
  if (n_ready == 0)
    state = self->started ? "waiting" : "starting";
  else
    state = consistent && all_devices_are_ready (self) ? "ready" : "degraded";
  g_object_set (self->skeleton, "state", state, "operational", n_ready > 0, "consistent",
                consistent, "status-text", text, "ready-devices", n_ready, NULL);
  /* One message with all that changed, now. */
  g_dbus_interface_skeleton_flush (G_DBUS_INTERFACE_SKELETON (self->skeleton));
  if (self->was_consistent && !consistent)
    {
      g_autoptr (KwKeyMatrix) matrix
          = kw_keyring_ref_matrix (kw_service_get_keyring (self->service));

      kw_bus_org_keyward1_manager_emit_keys_inconsistent (self->skeleton,
                                                          new_matrix (matrix, FALSE));
    }
  self->was_consistent = consistent;
  return G_SOURCE_REMOVE;
}

static void
update_soon (KwBusManager *self)
{
  self->started = TRUE;
  if (self->update_id == 0)
    self->update_id = g_idle_add (update, self);
}

/**
 * kw_bus_manager_new:
 * @connection: the bus
 * @config: the configuration
 * @service: does the work
 * @calls: takes calls; has to live longer
 * @objects: shows tests; has to live longer
 * @error: where to store the error
 *
 * Returns: (transfer full): the object, exported; %NULL when that failed
 */
KwBusManager *
kw_bus_manager_new (GDBusConnection *connection,
                    KwConfig *config,
                    KwService *service,
                    KwBusCalls *calls,
                    KwBusObjects *objects,
                    GError **error)
{
  g_autoptr (KwBusManager) self = g_new0 (KwBusManager, 1);
  GPtrArray *selectors = kw_config_get_hsm (config)->key_ids;
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();
  g_auto (GStrv) ids = NULL;

  self->config = g_object_ref (config);
  self->service = g_object_ref (service);
  self->calls = calls;
  self->objects = objects;
  self->skeleton = kw_bus_org_keyward1_manager_skeleton_new ();
  for (guint i = 0; i < selectors->len; i++)
    g_strv_builder_add (builder, kw_key_selector_get_text (g_ptr_array_index (selectors, i)));
  ids = g_strv_builder_end (builder);
  g_object_set (self->skeleton, "version", KW_VERSION, "key-ids", ids, NULL);
  connect_methods (self);
  g_signal_connect_swapped (kw_service_get_pool (service), "changed", G_CALLBACK (update_soon),
                            self);
  g_signal_connect_swapped (kw_service_get_keyring (service), "changed", G_CALLBACK (update_soon),
                            self);
  self->started = kw_pool_is_ready (kw_service_get_pool (service));
  self->was_consistent = is_consistent (self);
  update (self);
  if (!g_dbus_interface_skeleton_export (G_DBUS_INTERFACE_SKELETON (self->skeleton), connection,
                                         KW_BUS_PATH, error))
    return NULL;
  return g_steal_pointer (&self);
}

void
kw_bus_manager_free (KwBusManager *self)
{
  g_clear_handle_id (&self->update_id, g_source_remove);
  g_signal_handlers_disconnect_by_data (kw_service_get_pool (self->service), self);
  g_signal_handlers_disconnect_by_data (kw_service_get_keyring (self->service), self);
  if (g_dbus_interface_skeleton_get_connection (G_DBUS_INTERFACE_SKELETON (self->skeleton)) != NULL)
    g_dbus_interface_skeleton_unexport (G_DBUS_INTERFACE_SKELETON (self->skeleton));
  g_object_unref (self->skeleton);
  g_object_unref (self->service);
  g_object_unref (self->config);
  g_free (self);
}
