/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-replication"

#include "config.h"

#include "kw-replication.h"

#include "kw-error.h"
#include "kw-limits.h"
#include "kw-log.h"

/*
 * Clones a key that was just made to other devices: wrapped on the one that has it, unwrapped on all others at a time, and
 * proven there to be the same. If too few devices have it in the end it is removed everywhere, so that nobody begins to
 * use a key that could be lost with one device. Only when all that is done is the key put on record, and shown to others.
 *
 * Main context; the work is done by the devices' threads.
 */

typedef struct
{
  KwKeyring *keyring; /* owned */
  KwDevice *origin;   /* owned */
  KwKey *key;         /* owned */
  GBytes *wrapped;    /* owned, nullable */
  GPtrArray *targets; /* owned; of KwDevice */
  GPtrArray *holders; /* owned; of KwDevice */
  GPtrArray *copies;  /* owned; of KwKey: the key as it is on each of the holders */
  guint min_copies;
  gboolean may_remain; /* nobody knows whether some device has the key */
  guint n_pending;
  GMainContext *context; /* owned */
  KwReplicationFunc done;
  gpointer user_data;
  GError *error; /* owned, nullable: why it was given up */
} Replication;

/* One call to one device. */
typedef struct _Errand Errand;

typedef gboolean (*ErrandFunc) (Errand *errand, GError **error);
typedef void (*ErrandDoneFunc) (Errand *errand);

struct _Errand
{
  Replication *replication; /* borrowed: it waits for all its errands */
  KwDevice *device;         /* owned */
  KwKey *key;               /* owned */
  GBytes *wrapped;          /* owned, nullable */
  KwKey *copy;              /* owned, nullable: what the device made of it */
  ErrandFunc run;
  ErrandDoneFunc done;
  GError *error; /* owned, nullable */
};

static void
errand_free (gpointer data)
{
  Errand *errand = data;

  g_object_unref (errand->device);
  kw_key_unref (errand->key);
  g_clear_pointer (&errand->wrapped, g_bytes_unref);
  g_clear_pointer (&errand->copy, kw_key_unref);
  g_clear_error (&errand->error);
  g_free (errand);
}

static void
finish (Replication *replication)
{
  if (replication->error == NULL)
    replication->done (replication->holders->len, FALSE, NULL, replication->user_data);
  else
    replication->done (0, replication->may_remain, replication->error, replication->user_data);
  g_object_unref (replication->keyring);
  g_object_unref (replication->origin);
  kw_key_unref (replication->key);
  g_clear_pointer (&replication->wrapped, g_bytes_unref);
  g_ptr_array_unref (replication->targets);
  g_ptr_array_unref (replication->holders);
  g_ptr_array_unref (replication->copies);
  g_main_context_unref (replication->context);
  g_clear_error (&replication->error);
  g_free (replication);
}

static gboolean
take_errand (gpointer user_data)
{
  Errand *errand = user_data;

  errand->replication->n_pending--;
  errand->done (errand);
  return G_SOURCE_REMOVE;
}

static void
run_errand (gpointer user_data)
{
  Errand *errand = user_data;

  errand->run (errand, &errand->error);
}

/* The work keeps its own; what goes to the main context is another one with the results. */
static void
on_errand_done (gpointer user_data,
                KwWorkOutcome outcome,
                gboolean was_running,
                gint64 duration_usec G_GNUC_UNUSED)
{
  Errand *errand = user_data;
  Errand *result = g_new0 (Errand, 1);
  g_autoptr (GSource) source = g_idle_source_new ();

  result->replication = errand->replication;
  result->device = g_object_ref (errand->device);
  result->key = kw_key_ref (errand->key);
  result->done = errand->done;
  if (outcome == KW_WORK_RAN)
    {
      result->wrapped = g_steal_pointer (&errand->wrapped);
      result->copy = g_steal_pointer (&errand->copy);
      result->error = g_steal_pointer (&errand->error);
    }
  else
    g_set_error_literal (&result->error, KW_ERROR, KW_ERROR_TIMEOUT,
                         outcome == KW_WORK_OVERDUE ? "it did not answer in time" : "it is gone");
  if (outcome == KW_WORK_OVERDUE && was_running)
    kw_device_report_stuck (errand->device);
  g_source_set_priority (source, G_PRIORITY_DEFAULT);
  g_source_set_callback (source, take_errand, result, errand_free);
  g_source_attach (source, result->replication->context);
}

/* FALSE when the device takes no work; then nothing is pending. */
static gboolean
send_errand (Replication *replication,
             KwDevice *device,
             GBytes *wrapped,
             ErrandFunc run,
             ErrandDoneFunc done)
{
  Errand *errand = g_new0 (Errand, 1);
  KwWork *work = NULL;

  errand->replication = replication;
  errand->device = g_object_ref (device);
  errand->key = kw_key_ref (replication->key);
  errand->wrapped = wrapped != NULL ? g_bytes_ref (wrapped) : NULL;
  errand->run = run;
  errand->done = done;
  work = kw_work_new (run_errand, on_errand_done,
                      kw_device_get_timeout_usec (device) * KW_GENERATE_TIMEOUT_FACTOR, errand,
                      errand_free);
  kw_work_set_long (work);
  if (!kw_executor_submit (kw_device_get_executor (device), work, FALSE, NULL))
    return FALSE;
  replication->n_pending++;
  return TRUE;
}

static gboolean
run_delete (Errand *errand, GError **error)
{
  return kw_device_delete_key (errand->device, kw_key_get_kind (errand->key),
                               kw_key_get_id (errand->key), error);
}

static void
on_deleted (Errand *errand)
{
  if (errand->error != NULL)
    {
      errand->replication->may_remain = TRUE;
      kw_log (G_LOG_LEVEL_WARNING,
              "A key that could not be cloned remains on a device; remove it there", "device",
              kw_device_get_name (errand->device), "key", kw_key_get_uuid (errand->key), "error",
              errand->error->message, NULL);
    }
  if (errand->replication->n_pending == 0)
    finish (errand->replication);
}

static void
remove_everywhere (Replication *replication)
{
  for (guint i = 0; i < replication->holders->len; i++)
    {
      if (!send_errand (replication, g_ptr_array_index (replication->holders, i), NULL, run_delete,
                        on_deleted))
        replication->may_remain = TRUE;
    }
  if (replication->n_pending == 0)
    finish (replication);
}

static void
record_thread (GTask *task,
               gpointer source_object,
               gpointer task_data,
               GCancellable *cancellable G_GNUC_UNUSED)
{
  const Replication *replication = task_data;
  g_autoptr (GError) error = NULL;

  /* AES keys are recorded by what hsm_keyid says of them, when the devices show them. */
  if (kw_key_get_kind (replication->key) == KW_KEY_KIND_AES
      || kw_keyring_record_new (KW_KEYRING (source_object), replication->key, &error))
    g_task_return_boolean (task, TRUE);
  else
    g_task_return_error (task, g_steal_pointer (&error));
}

/* From now on it is a key like any other. */
static void
on_recorded (GObject *source_object, GAsyncResult *result, gpointer user_data)
{
  Replication *replication = user_data;

  if (!g_task_propagate_boolean (G_TASK (result), &replication->error))
    {
      remove_everywhere (replication);
      return;
    }
  kw_keyring_release (KW_KEYRING (source_object), kw_key_get_id (replication->key));
  for (guint i = 0; i < replication->holders->len; i++)
    {
      KwDevice *device = g_ptr_array_index (replication->holders, i);

      if (kw_device_get_state (device) == KW_DEVICE_READY)
        kw_device_add_key (device, g_ptr_array_index (replication->copies, i));
    }
  finish (replication);
}

/* All who could have it were asked. */
static void
conclude (Replication *replication)
{
  if (replication->holders->len >= replication->min_copies)
    {
      g_autoptr (GTask) task = g_task_new (replication->keyring, NULL, on_recorded, replication);

      g_task_set_task_data (task, replication, NULL);
      g_task_run_in_thread (task, record_thread);
      return;
    }
  if (replication->holders->len == 1)
    g_set_error (&replication->error, KW_ERROR, KW_ERROR_UNAVAILABLE,
                 "The new key got to 1 device, and min_copies is %u, so it was removed again; plug "
                 "in more devices with the same transport key",
                 replication->min_copies);
  else
    g_set_error (&replication->error, KW_ERROR, KW_ERROR_UNAVAILABLE,
                 "The new key got to %u devices, and min_copies is %u, so it was removed again; "
                 "plug in more devices with the same transport key",
                 replication->holders->len, replication->min_copies);
  remove_everywhere (replication);
}

static gboolean
run_import (Errand *errand, GError **error)
{
  KwKey *key = kw_device_import_key (errand->device, errand->wrapped, errand->key, error);

  if (key == NULL)
    return FALSE;
  errand->copy = key;
  return TRUE;
}

static void
on_imported (Errand *errand)
{
  Replication *replication = errand->replication;

  if (errand->error == NULL)
    {
      g_ptr_array_add (replication->holders, g_object_ref (errand->device));
      g_ptr_array_add (replication->copies, kw_key_ref (errand->copy));
    }
  else
    {
      /* A device that failed in the middle of it may have taken the key. */
      replication->may_remain |= kw_error_is_device_trouble (errand->error)
                                 || g_error_matches (errand->error, KW_ERROR, KW_ERROR_TIMEOUT);
      kw_log (G_LOG_LEVEL_WARNING, "A new key could not be cloned to a device", "device",
              kw_device_get_name (errand->device), "key", kw_key_get_uuid (errand->key), "error",
              errand->error->message, NULL);
    }
  if (replication->n_pending == 0)
    conclude (replication);
}

static gboolean
run_export (Errand *errand, GError **error)
{
  errand->wrapped = kw_device_export_key (errand->device, errand->key, error);
  return errand->wrapped != NULL;
}

static void
on_exported (Errand *errand)
{
  Replication *replication = errand->replication;

  if (errand->error != NULL)
    {
      kw_log (g_error_matches (errand->error, KW_ERROR, KW_ERROR_NOT_SUPPORTED)
                  ? G_LOG_LEVEL_INFO
                  : G_LOG_LEVEL_WARNING,
              "A new key stays on one device", "device", kw_device_get_name (errand->device), "key",
              kw_key_get_uuid (errand->key), "reason", errand->error->message, NULL);
      conclude (replication);
      return;
    }
  replication->wrapped = g_bytes_ref (errand->wrapped);
  for (guint i = 0; i < replication->targets->len; i++)
    send_errand (replication, g_ptr_array_index (replication->targets, i), replication->wrapped,
                 run_import, on_imported);
  if (replication->n_pending == 0)
    conclude (replication);
}

/**
 * kw_replicate:
 * @keyring: the record; the key is held there
 * @origin: a device that has the key
 * @key: the key, with its fingerprint
 * @targets: (element-type KwDevice): where it shall be too
 * @min_copies: on how many devices it must be in the end, @origin included
 * @done: told once how many have it, or why it was removed again; later, in the main context
 * @user_data: for @done
 *
 * Clones a new key, records it and adds it to the devices. A device that cannot take it, because its family or its transport key is another one, counts for
 * nothing. Main context.
 */
void
kw_replicate (KwKeyring *keyring,
              KwDevice *origin,
              KwKey *key,
              GPtrArray *targets,
              guint min_copies,
              KwReplicationFunc done,
              gpointer user_data)
{
  Replication *replication = NULL;

  g_return_if_fail (KW_IS_KEYRING (keyring) && KW_IS_DEVICE (origin) && key != NULL
                    && targets != NULL && done != NULL);

  replication = g_new0 (Replication, 1);
  replication->keyring = g_object_ref (keyring);
  replication->origin = g_object_ref (origin);
  replication->key = kw_key_ref (key);
  replication->targets = g_ptr_array_ref (targets);
  replication->holders = g_ptr_array_new_with_free_func (g_object_unref);
  g_ptr_array_add (replication->holders, g_object_ref (origin));
  replication->copies = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  g_ptr_array_add (replication->copies, kw_key_ref (key));
  replication->min_copies = min_copies;
  replication->context = g_main_context_ref_thread_default ();
  replication->done = done;
  replication->user_data = user_data;
  if (targets->len == 0 || !send_errand (replication, origin, NULL, run_export, on_exported))
    conclude (replication);
}
