/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-manager.h"

#include "kw-bus-file.h"
#include "kw-bus-generated.h"
#include "kw-bus-names.h"
#include "kw-bus-options.h"
#include "kw-error.h"
#include "kw-log.h"
#include "kw-uuid.h"

#include <gio/gunixfdlist.h>
#include <glib-unix.h>
#include <string.h>
#include <unistd.h>

struct _KwBusManager
{
  KwService *service;
  KwBusCalls *calls;
  KwBusObjects *objects;
  KwBusFiles *files;
  KwBusOrgKeyward1Manager *skeleton;
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

static void
encrypt_for (KwBusCall *call, KwCaller *caller, gpointer user_data G_GNUC_UNUSED)
{
  g_autoptr (GVariant) plaintext = kw_bus_call_ref_argument (call, 0);
  g_autoptr (GVariant) options = kw_bus_call_ref_argument (call, 1);
  KwBusOption known[]
      = { { KW_BUS_OPTION_ASSOCIATED_DATA, "ay", NULL }, { KW_BUS_OPTION_KEY, "s", NULL } };
  gsize max_plaintext = kw_config_get_hsm (kw_bus_call_get_config (call))->max_plaintext;
  g_autoptr (GBytes) associated_data = NULL;
  g_autoptr (KwSecret) secret = NULL;
  g_autoptr (KwJob) job = NULL;
  GError *error = NULL;

  if (g_variant_get_size (plaintext) > max_plaintext)
    g_set_error (&error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                 "The plaintext has %" G_GSIZE_FORMAT
                 " bytes; max_plaintext allows %" G_GSIZE_FORMAT,
                 g_variant_get_size (plaintext), max_plaintext);
  else if (kw_bus_options_read (options, known, G_N_ELEMENTS (known), &error))
    secret = kw_secret_new_unlocked (g_variant_get_size (plaintext), &error);
  if (secret == NULL)
    {
      kw_bus_options_clear (known, G_N_ELEMENTS (known));
      kw_bus_call_take_error (call, error);
      return;
    }
  if (g_variant_get_size (plaintext) > 0)
    memcpy (kw_secret_get_data (secret), g_variant_get_data (plaintext),
            g_variant_get_size (plaintext));
  associated_data = kw_bus_option_dup_bytes (&known[0]);
  job = kw_job_new_encrypt (caller, secret, associated_data);
  kw_job_set_key_name (job, kw_bus_option_get_string (&known[1]));
  kw_bus_options_clear (known, G_N_ELEMENTS (known));
  kw_bus_call_submit (call, job, answer_envelope);
}

typedef KwJob *(*NewJobFunc) (KwCaller *caller, GBytes *envelope, GBytes *associated_data);

static void
open_for (KwBusCall *call, KwCaller *caller, NewJobFunc new_job, KwBusAnswerFunc answer)
{
  g_autoptr (GVariant) ciphertext = kw_bus_call_ref_argument (call, 0);
  g_autoptr (GVariant) options = kw_bus_call_ref_argument (call, 1);
  KwBusOption known[] = { { KW_BUS_OPTION_ASSOCIATED_DATA, "ay", NULL } };
  g_autoptr (GBytes) associated_data = NULL;
  g_autoptr (GBytes) envelope = NULL;
  g_autoptr (KwJob) job = NULL;
  GError *error = NULL;

  if (!kw_bus_options_read (options, known, G_N_ELEMENTS (known), &error))
    {
      kw_bus_call_take_error (call, error);
      return;
    }
  associated_data = kw_bus_option_dup_bytes (&known[0]);
  kw_bus_options_clear (known, G_N_ELEMENTS (known));
  envelope = g_variant_get_data_as_bytes (ciphertext);
  job = new_job (caller, envelope, associated_data);
  kw_bus_call_submit (call, job, answer);
}

/* One block that is under an RSA key, as ownCloud has them; else an envelope, which tells its key itself. */
static void
decrypt_for (KwBusCall *call, KwCaller *caller, gpointer user_data G_GNUC_UNUSED)
{
  g_autoptr (GVariant) ciphertext = kw_bus_call_ref_argument (call, 0);
  g_autoptr (GVariant) options = kw_bus_call_ref_argument (call, 1);
  KwBusOption known[]
      = { { KW_BUS_OPTION_ASSOCIATED_DATA, "ay", NULL }, { KW_BUS_OPTION_KEY, "s", NULL } };
  g_autoptr (GBytes) associated_data = NULL;
  g_autoptr (GBytes) input = g_variant_get_data_as_bytes (ciphertext);
  g_autoptr (GBytes) key_id = NULL;
  g_autoptr (KwJob) job = NULL;
  const char *key = NULL;
  GError *error = NULL;

  if (!kw_bus_options_read (options, known, G_N_ELEMENTS (known), &error))
    {
      kw_bus_call_take_error (call, error);
      return;
    }
  associated_data = kw_bus_option_dup_bytes (&known[0]);
  key = kw_bus_option_get_string (&known[1]);
  if (key != NULL)
    key_id = kw_uuid_to_bytes (key, -1, NULL);
  if (key != NULL && (key_id == NULL || associated_data != NULL))
    g_set_error (&error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                 "The option key of Decrypt is the UUID of an RSA key, without associated-data; an "
                 "envelope tells its key itself");
  kw_bus_options_clear (known, G_N_ELEMENTS (known));
  if (error != NULL)
    {
      kw_bus_call_take_error (call, error);
      return;
    }
  job = key_id != NULL ? kw_job_new_rsa_decrypt (caller, key_id, KW_RSA_PADDING_PKCS1, input)
                       : kw_job_new_decrypt (caller, input, associated_data);
  kw_bus_call_submit (call, job, answer_plaintext);
}

static void
rewrap_for (KwBusCall *call, KwCaller *caller, gpointer user_data G_GNUC_UNUSED)
{
  open_for (call, caller, kw_job_new_rewrap, answer_rewrapped);
}

static void
random_for (KwBusCall *call, KwCaller *caller, gpointer user_data G_GNUC_UNUSED)
{
  g_autoptr (GVariant) size = kw_bus_call_ref_argument (call, 0);
  g_autoptr (KwJob) job = kw_job_new_random (caller, g_variant_get_uint32 (size));

  kw_bus_call_submit (call, job, answer_random);
}

static gboolean
find_kind (const char *name, guint *out_kind, GError **error)
{
  for (guint i = 0; i < G_N_ELEMENTS (kinds); i++)
    {
      if (g_str_equal (kinds[i].name, name))
        {
          *out_kind = i;
          return TRUE;
        }
    }
  g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
               "There is no kind of key “%s”; there are aes256, rsa2048, rsa3072 and rsa4096",
               name);
  return FALSE;
}

static void
generate_for (KwBusCall *call, KwCaller *caller, gpointer user_data G_GNUC_UNUSED)
{
  g_autoptr (GVariant) kind = kw_bus_call_ref_argument (call, 0);
  g_autoptr (GVariant) label = kw_bus_call_ref_argument (call, 1);
  g_autoptr (GVariant) options = kw_bus_call_ref_argument (call, 2);
  const char *text = g_variant_get_string (label, NULL);
  g_autoptr (KwJob) job = NULL;
  GError *error = NULL;
  guint i = 0;

  if (!find_kind (g_variant_get_string (kind, NULL), &i, &error)
      || !kw_bus_options_read (options, NULL, 0, &error))
    {
      kw_bus_call_take_error (call, error);
      return;
    }
  job = kinds[i].kind == KW_KEY_KIND_AES ? kw_job_new_generate_aes (caller, kinds[i].bits, text)
                                         : kw_job_new_generate_rsa (caller, kinds[i].bits, text);
  kw_bus_call_submit (call, job, answer_generated);
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
  KwBusCall *call = user_data;
  GError *error = NULL;
  g_autoptr (KwKeyMatrix) matrix
      = kw_service_check_keys_finish (KW_SERVICE (source), result, &error);

  if (matrix == NULL)
    kw_bus_call_take_error (call, error);
  else
    kw_bus_call_return (call, g_variant_new ("(@a(ssss))", new_matrix (matrix, TRUE)));
}

static void
check_for (KwBusCall *call, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;

  kw_service_check_keys_async (self->service, caller, on_keys_checked, call);
}

static void
on_key_accepted (GObject *source, GAsyncResult *result, gpointer user_data)
{
  GError *error = NULL;

  if (kw_service_accept_key_finish (KW_SERVICE (source), result, &error))
    kw_bus_call_return (user_data, NULL);
  else
    kw_bus_call_take_error (user_data, error);
}

static void
accept_for (KwBusCall *call, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;
  g_autoptr (GVariant) id = kw_bus_call_ref_argument (call, 0);
  g_autoptr (GVariant) options = kw_bus_call_ref_argument (call, 1);
  KwBusOption known[] = { { KW_BUS_OPTION_FINGERPRINT, "s", NULL } };
  GError *error = NULL;

  if (!kw_bus_options_read (options, known, G_N_ELEMENTS (known), &error))
    {
      kw_bus_call_take_error (call, error);
      return;
    }
  kw_service_accept_key_async (self->service, caller, g_variant_get_string (id, NULL),
                               kw_bus_option_get_string (&known[0]), on_key_accepted, call);
  kw_bus_options_clear (known, G_N_ELEMENTS (known));
}

static void
test_for (KwBusCall *call, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;
  g_autoptr (GVariant) options = kw_bus_call_ref_argument (call, 0);
  g_autoptr (KwSelfTest) test = NULL;
  GError *error = NULL;

  if (kw_bus_options_read (options, NULL, 0, &error))
    test = kw_service_run_test (self->service, caller, &error);
  if (test == NULL)
    kw_bus_call_take_error (call, error);
  else
    kw_bus_call_return (call, g_variant_new ("(o)", kw_bus_objects_add_test (self->objects, test)));
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
web_login_for (KwBusCall *call, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;
  GError *error = NULL;
  g_autoptr (KwSecret) link = kw_service_make_web_login (self->service, caller, &error);
  int fd = link != NULL ? open_with_text (link, &error) : -1;
  g_autoptr (GUnixFDList) list = NULL;

  if (fd < 0)
    {
      kw_bus_call_take_error (call, error);
      return;
    }
  /* Takes the descriptor. */
  list = g_unix_fd_list_new_from_array (&fd, 1);
  kw_bus_call_return_with_fds (call, g_variant_new ("(h)", 0), list);
}

static void
on_unlocked (GObject *source, GAsyncResult *result, gpointer user_data)
{
  GError *error = NULL;

  if (kw_service_unlock_finish (KW_SERVICE (source), result, &error))
    kw_bus_call_return (user_data, NULL);
  else
    kw_bus_call_take_error (user_data, error);
}

static void
on_pin_read (KwBusCall *call,
             KwCaller *caller,
             KwSecret *pin,
             const GError *read_error,
             gpointer user_data)
{
  KwBusManager *self = user_data;
  g_autoptr (GVariant) options = kw_bus_call_ref_argument (call, 1);
  KwBusOption known[] = { { KW_BUS_OPTION_SERIAL, "s", NULL } };
  GError *error = NULL;

  if (pin == NULL)
    {
      kw_bus_call_fail (call, read_error);
      return;
    }
  if (!kw_bus_options_read (options, known, G_N_ELEMENTS (known), &error))
    {
      kw_bus_call_take_error (call, error);
      return;
    }
  kw_service_unlock_async (self->service, caller, pin, kw_bus_option_get_string (&known[0]),
                           on_unlocked, call);
  kw_bus_options_clear (known, G_N_ELEMENTS (known));
}

static void
unlock_for (KwBusCall *call, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;

  kw_bus_files_read_pin (self->files, call, caller, on_pin_read, self);
}

static void
on_config_reloaded (GObject *source, GAsyncResult *result, gpointer user_data)
{
  GError *error = NULL;
  g_auto (GStrv) later = kw_service_reload_finish (KW_SERVICE (source), result, &error);

  if (later == NULL)
    kw_bus_call_take_error (user_data, error);
  else
    kw_bus_call_return (user_data, g_variant_new ("(^as)", later));
}

static void
reload_for (KwBusCall *call, KwCaller *caller, gpointer user_data)
{
  KwBusManager *self = user_data;

  kw_service_reload_async (self->service, caller, on_config_reloaded, call);
}

static void
encrypt_file_for (KwBusCall *call, KwCaller *caller, gpointer user_data)
{
  kw_bus_files_encrypt_for (call, caller, ((KwBusManager *) user_data)->files);
}

static void
decrypt_file_for (KwBusCall *call, KwCaller *caller, gpointer user_data)
{
  kw_bus_files_decrypt_for (call, caller, ((KwBusManager *) user_data)->files);
}

/*
 * Every method with what it is about, which decides on the right it needs, and what answers it. Generating an RSA key needs the
 * same right as an AES key. What only has a job done is for any thread, and knows no manager.
 */
static const struct
{
  const char *name;
  const char *signal;
  KwVerb verb;
  KwBusCallFunc func;
  gboolean any_thread;
} methods[] = {
  { "Encrypt", "handle-encrypt", KW_VERB_ENCRYPT, encrypt_for, TRUE },
  { "Decrypt", "handle-decrypt", KW_VERB_DECRYPT, decrypt_for, TRUE },
  { "Rewrap", "handle-rewrap", KW_VERB_REWRAP, rewrap_for, TRUE },
  { "Random", "handle-random", KW_VERB_RANDOM, random_for, TRUE },
  { "GenerateKey", "handle-generate-key", KW_VERB_GENERATE_AES, generate_for, FALSE },
  { "RunTest", "handle-run-test", KW_VERB_RUN_TEST, test_for, FALSE },
  { "CheckConsistency", "handle-check-consistency", KW_VERB_CHECK_KEYS, check_for, FALSE },
  { "AcceptKey", "handle-accept-key", KW_VERB_ACCEPT_KEY, accept_for, FALSE },
  { "Unlock", "handle-unlock", KW_VERB_UNLOCK, unlock_for, FALSE },
  { "Reload", "handle-reload", KW_VERB_RELOAD, reload_for, FALSE },
  { "EncryptFile", "handle-encrypt-file", KW_VERB_ENCRYPT, encrypt_file_for, FALSE },
  { "DecryptFile", "handle-decrypt-file", KW_VERB_DECRYPT, decrypt_file_for, FALSE },
  { "WebLogin", "handle-web-login", KW_VERB_WEB_LOGIN, web_login_for, FALSE },
};

typedef struct
{
  KwBusManager *manager;
  KwVerb verb;
  KwBusCallFunc func;
} Method;

/* Connected to signals that differ in their parameters: those are read from the invocation, which comes first. */
static gboolean
on_call (KwBusOrgKeyward1Manager *skeleton G_GNUC_UNUSED,
         GDBusMethodInvocation *invocation,
         Method *method)
{
  kw_bus_calls_begin (method->manager->calls, invocation, method->verb, method->func,
                      method->manager);
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
      method->verb = methods[i].verb;
      method->func = methods[i].func;
      g_closure_set_marshal (closure, marshal_call);
      g_closure_add_finalize_notifier (closure, method, free_method);
      g_signal_connect_closure (self->skeleton, methods[i].signal, closure, FALSE);
    }
}

static char *
dup_signature (const char *method)
{
  GDBusMethodInfo *info
      = g_dbus_interface_info_lookup_method (kw_bus_org_keyward1_manager_interface_info (), method);
  GString *signature = g_string_new (NULL);

  for (gsize i = 0; info->in_args[i] != NULL; i++)
    g_string_append (signature, info->in_args[i]->signature);
  return g_string_free (signature, FALSE);
}

static void
add_direct_methods (KwBusManager *self)
{
  for (guint i = 0; i < G_N_ELEMENTS (methods); i++)
    {
      g_autofree char *signature = methods[i].any_thread ? dup_signature (methods[i].name) : NULL;

      if (signature != NULL)
        kw_bus_calls_add_direct (self->calls, methods[i].name, signature, methods[i].verb,
                                 methods[i].func);
    }
  kw_bus_calls_start_filter (self->calls);
}

static GStrv
dup_key_ids (KwBusManager *self)
{
  GPtrArray *selectors = kw_config_get_hsm (kw_service_get_config (self->service))->key_ids;
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();

  for (guint i = 0; i < selectors->len; i++)
    g_strv_builder_add (builder, kw_key_selector_get_text (g_ptr_array_index (selectors, i)));
  return g_strv_builder_end (builder);
}

static gboolean
update (gpointer user_data)
{
  KwBusManager *self = user_data;
  g_auto (GStrv) ids = dup_key_ids (self);
  KwHealth *health = kw_service_get_health (self->service);
  gboolean consistent = kw_health_is_consistent (health);

  self->update_id = 0;
  g_object_set (self->skeleton, "state", kw_health_state_to_string (kw_health_get_state (health)),
                "operational", kw_health_is_operational (health), "consistent", consistent,
                "status-text", kw_health_get_text (health), "ready-devices",
                kw_health_get_n_ready (health), "key-ids", ids, NULL);
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
  if (self->update_id == 0)
    self->update_id = g_idle_add (update, self);
}

/**
 * kw_bus_manager_new:
 * @connection: the bus
 * @service: does the work
 * @calls: takes calls; has to live longer
 * @objects: shows tests; has to live longer
 * @error: where to store the error
 *
 * Returns: (transfer full): the object, exported; %NULL when that failed
 */
KwBusManager *
kw_bus_manager_new (GDBusConnection *connection,
                    KwService *service,
                    KwBusCalls *calls,
                    KwBusObjects *objects,
                    GError **error)
{
  g_autoptr (KwBusManager) self = g_new0 (KwBusManager, 1);

  self->service = g_object_ref (service);
  self->calls = calls;
  self->objects = objects;
  self->skeleton = kw_bus_org_keyward1_manager_skeleton_new ();
  self->files = kw_bus_files_new (connection, service);
  g_object_set (self->skeleton, "version", KW_VERSION, NULL);
  connect_methods (self);
  g_signal_connect_swapped (kw_service_get_health (service), "changed", G_CALLBACK (update_soon),
                            self);
  g_signal_connect_swapped (service, "reloaded", G_CALLBACK (update_soon), self);
  self->was_consistent = kw_health_is_consistent (kw_service_get_health (service));
  update (self);
  if (!g_dbus_interface_skeleton_export (G_DBUS_INTERFACE_SKELETON (self->skeleton), connection,
                                         KW_BUS_PATH, error))
    return NULL;
  add_direct_methods (self);
  return g_steal_pointer (&self);
}

void
kw_bus_manager_free (KwBusManager *self)
{
  g_clear_handle_id (&self->update_id, g_source_remove);
  g_signal_handlers_disconnect_by_data (kw_service_get_health (self->service), self);
  if (g_dbus_interface_skeleton_get_connection (G_DBUS_INTERFACE_SKELETON (self->skeleton)) != NULL)
    g_dbus_interface_skeleton_unexport (G_DBUS_INTERFACE_SKELETON (self->skeleton));
  g_signal_handlers_disconnect_by_data (self->service, self);
  g_object_unref (self->skeleton);
  kw_bus_files_free (self->files);
  g_object_unref (self->service);
  g_free (self);
}
