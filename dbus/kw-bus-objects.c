/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-objects.h"

#include "kw-bus-generated.h"
#include "kw-bus-names.h"
#include "kw-bus-options.h"
#include "kw-error.h"

#include <math.h>

/* How often figures are told anew, in milliseconds. */
#define FIGURES_INTERVAL_MSEC 1000

struct _KwBusObjects
{
  KwService *service;
  KwBusCalls *calls;
  GDBusObjectManagerServer *server;
  GHashTable *devices; /* number of the device → Entry */
  GHashTable *keys;    /* id → Entry */
  GQueue jobs;         /* of Job, owned; the oldest first */
  guint n_jobs;
  guint sync_id;
  guint figures_id;
};

/* Tests that are kept to be read. */
#define MAX_JOBS 8

/* A test, and the object that shows it. */
typedef struct
{
  KwBusObjects *owner;
  char *path;
  KwSelfTest *test;
  KwBusOrgKeyward1Job *skeleton;
} Job;

typedef struct
{
  KwBusObjects *owner;
  char *path;
  char *name; /* serial number, or id of a key */
  GDBusInterfaceSkeleton *skeleton;
  gboolean seen;
} Entry;

static void
entry_free (gpointer data)
{
  Entry *entry = data;

  g_dbus_object_manager_server_unexport (entry->owner->server, entry->path);
  g_signal_handlers_disconnect_by_data (entry->skeleton, entry);
  g_signal_handlers_disconnect_by_data (entry->skeleton, entry->owner);
  g_object_unref (entry->skeleton);
  g_free (entry->path);
  g_free (entry->name);
  g_free (entry);
}

static void
job_free (gpointer data)
{
  Job *job = data;

  g_signal_handlers_disconnect_by_data (job->test, job);
  g_dbus_object_manager_server_unexport (job->owner->server, job->path);
  g_signal_handlers_disconnect_by_data (job->skeleton, job->owner);
  g_object_unref (job->skeleton);
  g_object_unref (job->test);
  g_free (job->path);
  g_free (job);
}

/**
 * kw_bus_objects_escape:
 * @prefix: path that ends with a slash
 * @name: any text
 *
 * Returns: (transfer full): a path for @name: letters and digits as they are, other bytes as _XX
 */
char *
kw_bus_objects_escape (const char *prefix, const char *name)
{
  GString *path = g_string_new (prefix);

  for (const char *at = name; *at != '\0'; at++)
    {
      if (g_ascii_isalnum (*at))
        g_string_append_c (path, *at);
      else
        g_string_append_printf (path, "_%02x", (guint8) *at);
    }
  if (*name == '\0')
    g_string_append_c (path, '_');
  return g_string_free (path, FALSE);
}

/* Exports an object with one interface; a path that is taken already gets a number. */
static Entry *
add_entry (KwBusObjects *self,
           const char *prefix,
           const char *name,
           GDBusInterfaceSkeleton *skeleton)
{
  g_autofree char *path = kw_bus_objects_escape (prefix, name);
  g_autoptr (GDBusObjectSkeleton) object = g_dbus_object_skeleton_new (path);
  Entry *entry = g_new0 (Entry, 1);

  g_dbus_object_skeleton_add_interface (object, skeleton);
  g_dbus_object_manager_server_export_uniquely (self->server, object);
  entry->owner = self;
  entry->path = g_strdup (g_dbus_object_get_object_path (G_DBUS_OBJECT (object)));
  entry->name = g_strdup (name);
  entry->skeleton = skeleton;
  return entry;
}

static const Entry *
find_device (KwBusObjects *self, const char *path)
{
  GHashTableIter iter;
  gpointer entry;

  g_hash_table_iter_init (&iter, self->devices);
  while (g_hash_table_iter_next (&iter, NULL, &entry))
    {
      if (g_str_equal (((Entry *) entry)->path, path))
        return entry;
    }
  return NULL;
}

static void
on_retried (GObject *source, GAsyncResult *result, gpointer user_data)
{
  GError *error = NULL;

  if (kw_service_retry_device_finish (KW_SERVICE (source), result, &error))
    kw_bus_call_return (user_data, NULL);
  else
    kw_bus_call_take_error (user_data, error);
}

static const char *
get_path (KwBusCall *call)
{
  return g_dbus_message_get_path (kw_bus_call_get_message (call));
}

/* It may have gone while the bus was asked who calls. */
static void
fail_gone (KwBusCall *call)
{
  kw_bus_call_take_error (call, g_error_new_literal (KW_ERROR, KW_ERROR_TOKEN_GONE,
                                                     "The device is gone"));
}

static void
retry_for (KwBusCall *call, KwCaller *caller, gpointer user_data)
{
  KwBusObjects *self = user_data;
  const Entry *entry = find_device (self, get_path (call));

  if (entry == NULL)
    fail_gone (call);
  else
    kw_service_retry_device_async (self->service, caller, entry->name, on_retried, call);
}

static void
test_for (KwBusCall *call, KwCaller *caller, gpointer user_data)
{
  KwBusObjects *self = user_data;
  const Entry *entry = find_device (self, get_path (call));
  g_autoptr (GVariant) options = kw_bus_call_ref_argument (call, 0);
  g_autoptr (KwSelfTest) test = NULL;
  GError *error = NULL;

  if (entry == NULL)
    {
      fail_gone (call);
      return;
    }
  if (kw_bus_options_read (options, NULL, 0, &error))
    test = kw_service_test_device (self->service, caller, entry->name, &error);
  if (test == NULL)
    kw_bus_call_take_error (call, error);
  else
    kw_bus_call_return (call, g_variant_new ("(o)", kw_bus_objects_add_test (self, test)));
}

static gboolean
on_test (KwBusOrgKeyward1Device *skeleton G_GNUC_UNUSED,
         GDBusMethodInvocation *invocation,
         GVariant *options G_GNUC_UNUSED,
         KwBusObjects *self)
{
  kw_bus_calls_begin (self->calls, invocation, KW_VERB_RUN_TEST, test_for, self);
  return TRUE;
}

static gboolean
on_retry (KwBusOrgKeyward1Device *skeleton G_GNUC_UNUSED,
          GDBusMethodInvocation *invocation,
          KwBusObjects *self)
{
  kw_bus_calls_begin (self->calls, invocation, KW_VERB_RETRY_DEVICE, retry_for, self);
  return TRUE;
}

/* Two digits are enough for people, and the value does not change with each job then. */
static double
to_milliseconds (gint64 usec)
{
  double msec = (double) usec / 1000.0;

  return msec < 10.0 ? round (msec * 100.0) / 100.0 : round (msec);
}

static void
set_figures (KwDevice *device, KwBusOrgKeyward1Device *skeleton)
{
  KwDeviceFigures figures;

  kw_device_get_figures (device, &figures);
  g_object_set (skeleton, "jobs", figures.n_jobs, "errors", figures.n_errors, "failovers",
                figures.n_failovers, "median-milliseconds", to_milliseconds (figures.p50_usec),
                "p99-milliseconds", to_milliseconds (figures.p99_usec), NULL);
}

static const char *
or_empty (const char *text)
{
  return text != NULL ? text : "";
}

static void
set_device (KwBusObjects *self, KwDevice *device, KwBusOrgKeyward1Device *skeleton)
{
  const KwTokenInfo *info = kw_token_get_info (kw_device_get_token (device));
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (kw_service_get_keyring (self->service));
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();
  g_auto (GStrv) keys = NULL;

  for (guint j = 0; j < kw_key_matrix_get_n_devices (matrix); j++)
    {
      if (kw_key_matrix_get_device (matrix, j)->number != kw_device_get_number (device))
        continue;
      for (guint i = 0; i < kw_key_matrix_get_n_keys (matrix); i++)
        {
          KwKeyState state = kw_key_matrix_get_cell (matrix, i, j)->state;

          if (state == KW_KEY_STATE_OK || state == KW_KEY_STATE_WEAK)
            g_strv_builder_add (builder, kw_key_matrix_get_key (matrix, i)->id);
        }
    }
  keys = g_strv_builder_end (builder);
  g_object_set (skeleton, "serial", info->serial, "label", info->label, "model", info->model,
                "reader", info->reader, "firmware", info->firmware, "options",
                or_empty (info->options), "state",
                kw_device_state_to_string (kw_device_get_state (device)), "state-text",
                or_empty (kw_device_get_state_text (device)), "state-since",
                (guint64) kw_device_get_state_since (device), "pin-tries-left",
                kw_device_get_pin_tries_left (device), "so-pin-tries-left", info->so_pin_tries_left,
                "dkek-check-value", or_empty (info->dkek_check_value), "keys", keys, NULL);
  set_figures (device, skeleton);
}

static void
set_key (const KwKeyFacts *facts, KwBusOrgKeyward1Key *skeleton)
{
  g_object_set (skeleton, "id", facts->id, "kind", kw_key_kind_to_string (facts->kind), "label",
                facts->label, "fingerprint", or_empty (facts->fingerprint), "encrypts",
                facts->is_first && facts->may_encrypt, "copies", facts->n_copies, "state",
                kw_key_state_to_string (facts->state), "advice", or_empty (facts->advice), NULL);
}

static gboolean
on_get_uses (KwBusOrgKeyward1Key *skeleton, GDBusMethodInvocation *invocation, Entry *entry)
{
  KwService *service = entry->owner->service;
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (kw_service_get_keyring (service));
  const KwKeyFacts *facts = kw_key_matrix_find_key (matrix, entry->name);
  g_autofree char *name = facts != NULL ? kw_use_counter_dup_facts_name (facts) : NULL;
  g_autoptr (KwUseReport) report = NULL;
  g_autoptr (GError) error = NULL;
  GVariantBuilder days;

  if (name != NULL)
    {
      report = kw_use_counter_report (kw_service_get_use_counter (service), name, &error);
      if (report == NULL)
        {
          /* It is one of ours, so it has a name on D-Bus. */
          g_dbus_method_invocation_return_gerror (invocation, error);
          return TRUE;
        }
    }
  g_variant_builder_init (&days, G_VARIANT_TYPE ("a(sttt)"));
  for (guint i = 0; report != NULL && i < report->days->len; i++)
    {
      const KwUseDay *day = &g_array_index (report->days, KwUseDay, i);

      g_variant_builder_add (&days, "(sttt)", day->day, day->n[KW_USE_ENCRYPT],
                             day->n[KW_USE_DECRYPT], day->n[KW_USE_SIGN]);
    }
  kw_bus_org_keyward1_key_complete_get_uses (skeleton, invocation, g_variant_builder_end (&days));
  return TRUE;
}

static void
forget_unseen (GHashTable *entries)
{
  GHashTableIter iter;
  gpointer value;

  g_hash_table_iter_init (&iter, entries);
  while (g_hash_table_iter_next (&iter, NULL, &value))
    {
      Entry *entry = value;

      if (!entry->seen)
        g_hash_table_iter_remove (&iter);
      else
        {
          g_dbus_interface_skeleton_flush (entry->skeleton);
          entry->seen = FALSE;
        }
    }
}

static void
sync_devices (KwBusObjects *self)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (kw_service_get_pool (self->service));

  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);
      guint64 number = kw_device_get_number (device);
      Entry *entry = g_hash_table_lookup (self->devices, &number);

      if (entry == NULL)
        {
          KwBusOrgKeyward1Device *skeleton = kw_bus_org_keyward1_device_skeleton_new ();

          /* Complete when it is announced. */
          set_device (self, device, skeleton);
          entry = add_entry (self, KW_BUS_DEVICE_PATH, kw_device_get_name (device),
                             G_DBUS_INTERFACE_SKELETON (skeleton));
          g_signal_connect (skeleton, "handle-retry", G_CALLBACK (on_retry), self);
          g_signal_connect (skeleton, "handle-test", G_CALLBACK (on_test), self);
          g_hash_table_insert (self->devices, g_memdup2 (&number, sizeof number), entry);
        }
      else
        {
          set_device (self, device, KW_BUS_ORG_KEYWARD1_DEVICE (entry->skeleton));
        }
      entry->seen = TRUE;
    }
  forget_unseen (self->devices);
}

static void
sync_keys (KwBusObjects *self)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (kw_service_get_keyring (self->service));

  for (guint i = 0; i < kw_key_matrix_get_n_keys (matrix); i++)
    {
      const KwKeyFacts *facts = kw_key_matrix_get_key (matrix, i);
      Entry *entry = g_hash_table_lookup (self->keys, facts->id);

      if (entry == NULL)
        {
          KwBusOrgKeyward1Key *skeleton = kw_bus_org_keyward1_key_skeleton_new ();

          set_key (facts, skeleton);
          entry
              = add_entry (self, KW_BUS_KEY_PATH, facts->id, G_DBUS_INTERFACE_SKELETON (skeleton));
          g_signal_connect (skeleton, "handle-get-uses", G_CALLBACK (on_get_uses), entry);
          g_hash_table_insert (self->keys, g_strdup (facts->id), entry);
        }
      else
        {
          set_key (facts, KW_BUS_ORG_KEYWARD1_KEY (entry->skeleton));
        }
      entry->seen = TRUE;
    }
  forget_unseen (self->keys);
}

static gboolean
sync_all (gpointer user_data)
{
  KwBusObjects *self = user_data;

  self->sync_id = 0;
  sync_devices (self);
  sync_keys (self);
  return G_SOURCE_REMOVE;
}

static void
sync_soon (KwBusObjects *self)
{
  if (self->sync_id == 0)
    self->sync_id = g_idle_add (sync_all, self);
}

static gboolean
tell_figures (gpointer user_data)
{
  KwBusObjects *self = user_data;
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (kw_service_get_pool (self->service));

  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);
      guint64 number = kw_device_get_number (device);
      Entry *entry = g_hash_table_lookup (self->devices, &number);

      if (entry != NULL)
        set_figures (device, KW_BUS_ORG_KEYWARD1_DEVICE (entry->skeleton));
    }
  return G_SOURCE_CONTINUE;
}

static void
set_job (Job *job)
{
  GPtrArray *results = kw_self_test_get_results (job->test);
  guint n_steps = kw_self_test_get_n_steps (job->test);
  gboolean running = kw_self_test_is_running (job->test);
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE ("a(sssts)"));
  for (guint i = 0; i < results->len; i++)
    {
      const KwTestResult *result = g_ptr_array_index (results, i);

      g_variant_builder_add (&builder, "(sssts)", result->name, result->subject,
                             kw_test_outcome_to_string (result->outcome),
                             (guint64) result->duration_usec, result->advice);
    }
  g_object_set (job->skeleton, "state", running ? "running" : "done", "progress",
                running && n_steps > 0 ? (double) results->len / n_steps : 1.0, "results",
                g_variant_builder_end (&builder), "failed",
                kw_self_test_count (job->test, KW_TEST_FAILED), NULL);
}

static void
on_test_result (KwSelfTest *test G_GNUC_UNUSED, guint index G_GNUC_UNUSED, Job *job)
{
  set_job (job);
}

static void
on_test_done (KwSelfTest *test, Job *job)
{
  set_job (job);
  g_dbus_interface_skeleton_flush (G_DBUS_INTERFACE_SKELETON (job->skeleton));
  kw_bus_org_keyward1_job_emit_done (job->skeleton, kw_self_test_count (test, KW_TEST_FAILED));
}

static Job *
find_job (KwBusObjects *self, const char *path)
{
  for (GList *link = self->jobs.head; link != NULL; link = link->next)
    {
      if (g_str_equal (((Job *) link->data)->path, path))
        return link->data;
    }
  return NULL;
}

static void
cancel_for (KwBusCall *call, KwCaller *caller G_GNUC_UNUSED, gpointer user_data)
{
  Job *job = find_job (user_data, get_path (call));

  if (job != NULL)
    kw_self_test_cancel (job->test);
  kw_bus_call_return (call, NULL);
}

static gboolean
on_cancel (KwBusOrgKeyward1Job *skeleton G_GNUC_UNUSED,
           GDBusMethodInvocation *invocation,
           KwBusObjects *self)
{
  kw_bus_calls_begin (self->calls, invocation, KW_VERB_RUN_TEST, cancel_for, self);
  return TRUE;
}

/**
 * kw_bus_objects_add_test:
 * @self: the objects
 * @test: a test
 *
 * Shows a test on the bus, if it is not there yet.
 *
 * Returns: (transfer none): path of its object
 */
const char *
kw_bus_objects_add_test (KwBusObjects *self, KwSelfTest *test)
{
  g_autoptr (GDBusObjectSkeleton) object = NULL;
  Job *job = NULL;

  for (GList *link = self->jobs.head; link != NULL; link = link->next)
    {
      if (((Job *) link->data)->test == test)
        return ((Job *) link->data)->path;
    }
  job = g_new0 (Job, 1);
  job->owner = self;
  job->test = g_object_ref (test);
  job->path = g_strdup_printf ("%s%u", KW_BUS_JOB_PATH, ++self->n_jobs);
  job->skeleton = kw_bus_org_keyward1_job_skeleton_new ();
  set_job (job);
  g_signal_connect (test, "result", G_CALLBACK (on_test_result), job);
  g_signal_connect (test, "done", G_CALLBACK (on_test_done), job);
  g_signal_connect (job->skeleton, "handle-cancel", G_CALLBACK (on_cancel), self);
  object = g_dbus_object_skeleton_new (job->path);
  g_dbus_object_skeleton_add_interface (object, G_DBUS_INTERFACE_SKELETON (job->skeleton));
  g_dbus_object_manager_server_export (self->server, object);
  g_queue_push_tail (&self->jobs, job);
  if (self->jobs.length > MAX_JOBS)
    job_free (g_queue_pop_head (&self->jobs));
  return job->path;
}

/**
 * kw_bus_objects_new:
 * @connection: the bus
 * @service: has the devices and keys
 * @calls: takes calls; has to live longer
 *
 * Returns: (transfer full): the objects, exported
 */
KwBusObjects *
kw_bus_objects_new (GDBusConnection *connection, KwService *service, KwBusCalls *calls)
{
  KwBusObjects *self = g_new0 (KwBusObjects, 1);

  self->service = g_object_ref (service);
  self->calls = calls;
  self->server = g_dbus_object_manager_server_new (KW_BUS_PATH);
  self->devices = g_hash_table_new_full (g_int64_hash, g_int64_equal, g_free, entry_free);
  self->keys = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, entry_free);
  sync_all (self);
  g_dbus_object_manager_server_set_connection (self->server, connection);
  g_signal_connect_swapped (kw_service_get_pool (service), "changed", G_CALLBACK (sync_soon), self);
  g_signal_connect_swapped (kw_service_get_keyring (service), "changed", G_CALLBACK (sync_soon),
                            self);
  self->figures_id = g_timeout_add (FIGURES_INTERVAL_MSEC, tell_figures, self);
  return self;
}

void
kw_bus_objects_free (KwBusObjects *self)
{
  g_clear_handle_id (&self->sync_id, g_source_remove);
  g_clear_handle_id (&self->figures_id, g_source_remove);
  g_signal_handlers_disconnect_by_data (kw_service_get_pool (self->service), self);
  g_signal_handlers_disconnect_by_data (kw_service_get_keyring (self->service), self);
  g_queue_clear_full (&self->jobs, job_free);
  g_hash_table_unref (self->devices);
  g_hash_table_unref (self->keys);
  g_dbus_object_manager_server_set_connection (self->server, NULL);
  g_object_unref (self->server);
  g_object_unref (self->service);
  g_free (self);
}
