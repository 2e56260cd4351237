/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-service"

#include "config.h"

#include "kw-error.h"
#include "kw-fingerprint.h"
#include "kw-limits.h"
#include "kw-log.h"
#include "kw-service-private.h"
#include "kw-uuid.h"

#include <string.h>

/*
 * What administrators have the service do. Each act is authorised, carried out without holding up the main context (what
 * waits for a disk or a token does so in a thread), and audited with one line, whether it was granted or refused.
 *
 * Main context.
 */

#define UNLOCK_INTERVAL_MSEC 20

typedef struct
{
  KwCaller *caller; /* owned */
  KwVerb verb;
  char *key;         /* owned, nullable */
  char *device;      /* owned, nullable */
  gint64 started;    /* monotonic */
  char *fingerprint; /* owned, nullable: of the key that is right */
  GBytes *key_id;    /* owned, nullable: CKA_ID of an RSA key */

  GPtrArray *devices; /* owned, nullable; of KwDevice: to which a PIN is presented */
  gint64 deadline;    /* monotonic */
} Act;

static void
act_free (gpointer data)
{
  Act *act = data;

  kw_caller_unref (act->caller);
  g_free (act->key);
  g_free (act->device);
  g_free (act->fingerprint);
  g_clear_pointer (&act->key_id, g_bytes_unref);
  g_clear_pointer (&act->devices, g_ptr_array_unref);
  g_free (act);
}

static void
audit_act (KwService *self, const Act *act, const GError *error)
{
  KwAuditRecord record = {
    .verb = act->verb,
    .caller = act->caller,
    .key = act->key,
    .device = act->device,
    .result = "ok",
    .duration_usec = g_get_monotonic_time () - act->started,
  };

  if (error != NULL)
    record.result
        = kw_error_to_string (error->domain == KW_ERROR ? (KwError) error->code : KW_ERROR_FAILED);
  kw_audit_write (self->audit, &record);
  kw_metrics_count (self->metrics, act->verb, error, record.duration_usec);
  kw_log (error != NULL ? G_LOG_LEVEL_WARNING : G_LOG_LEVEL_INFO,
          error != NULL ? "Request failed" : "Done", "verb", kw_verb_to_string (act->verb), "key",
          act->key, "device", act->device, "error", error != NULL ? error->message : NULL, NULL);
}

/* Begins an act; NULL when the caller may not, and then the task has been answered. */
static Act *
begin (GTask *task, KwCaller *caller, KwVerb verb, const char *key, const char *device)
{
  KwService *self = g_task_get_source_object (task);
  Act *act = g_new0 (Act, 1);
  g_autoptr (GError) error = NULL;

  act->caller = kw_caller_ref (caller);
  act->verb = verb;
  act->key = g_strdup (key);
  act->device = g_strdup (device);
  act->started = g_get_monotonic_time ();
  g_task_set_task_data (task, act, act_free);
  if (key != NULL ? kw_access_check_key (caller, verb, key, &error)
                  : kw_access_check_verb (caller, verb, &error))
    return act;
  audit_act (self, act, error);
  g_task_return_error (task, g_steal_pointer (&error));
  return NULL;
}

/* @error: (transfer full) (nullable) */
static void
end (GTask *task, GError *error)
{
  audit_act (g_task_get_source_object (task), g_task_get_task_data (task), error);
  if (error != NULL)
    g_task_return_error (task, error);
  else
    g_task_return_boolean (task, TRUE);
}

/* Does what waits for a disk in a thread; @done ends the task in the main context. */
static void
run_in_thread (GTask *task, GTaskThreadFunc function, GAsyncReadyCallback done)
{
  KwService *self = g_task_get_source_object (task);
  g_autoptr (GTask) work = g_task_new (self, NULL, done, g_object_ref (task));

  /* The act lives as long as the task, which the callback gives back. */
  g_task_set_task_data (work, g_task_get_task_data (task), NULL);
  g_task_run_in_thread (work, function);
}

/**
 * kw_service_run_test:
 * @self: a service
 * @caller: who asks
 * @error: where to store the error
 *
 * Begins a test of all devices and keys; one runs at a time. Main context.
 *
 * Returns: (transfer full): the test, which may have begun before; %NULL with %KW_ERROR_NOT_AUTHORIZED, or %KW_ERROR_BUSY
 *   while one that was cancelled has not ended
 */
KwSelfTest *
kw_service_run_test (KwService *self, KwCaller *caller, GError **error)
{
  return kw_service_test_device (self, caller, NULL, error);
}

/**
 * kw_service_test_device:
 * @self: a service
 * @caller: who asks
 * @device: (nullable): name of a device; %NULL for all
 * @error: where to store the error
 *
 * As kw_service_run_test(), for one device. Main context.
 *
 * Returns: (transfer full): the test, which may have begun before, for other devices; %NULL with %KW_ERROR_NOT_AUTHORIZED
 */
KwSelfTest *
kw_service_test_device (KwService *self, KwCaller *caller, const char *device, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  Act act = { 0 };

  g_return_val_if_fail (KW_IS_SERVICE (self) && caller != NULL, NULL);

  act.caller = caller;
  act.verb = KW_VERB_RUN_TEST;
  act.device = (char *) device;
  act.started = g_get_monotonic_time ();
  if (!kw_access_check_verb (caller, KW_VERB_RUN_TEST, &local_error))
    {
      audit_act (self, &act, local_error);
      g_propagate_error (error, g_steal_pointer (&local_error));
      return NULL;
    }
  if (self->test != NULL && kw_self_test_is_ending (self->test))
    {
      g_set_error_literal (&local_error, KW_ERROR, KW_ERROR_BUSY,
                           "The test before was cancelled, and its last step is still under way; "
                           "try again in a moment");
      audit_act (self, &act, local_error);
      g_propagate_error (error, g_steal_pointer (&local_error));
      return NULL;
    }
  if (self->test == NULL || !kw_self_test_is_running (self->test))
    {
      g_clear_object (&self->test);
      self->test = kw_self_test_new (self->pool, self->keyring);
      kw_self_test_set_device (self->test, device);
      kw_self_test_start (self->test);
    }
  audit_act (self, &act, NULL);
  return g_object_ref (self->test);
}

/**
 * kw_service_make_web_login:
 * @self: a service
 * @caller: who asks
 * @error: where to store the error
 *
 * Makes a link that lets a browser in once, within a minute, with the rights of the caller. Main context.
 *
 * Returns: (transfer full): the link; %NULL with %KW_ERROR_NOT_AUTHORIZED
 */
KwSecret *
kw_service_make_web_login (KwService *self, KwCaller *caller, GError **error)
{
  g_autofree char *url = NULL;
  g_autoptr (KwSecret) ticket = NULL;
  g_autoptr (KwSecret) link = NULL;
  g_autoptr (GError) local_error = NULL;
  Act act = { 0 };
  gsize n_start = 0;

  g_return_val_if_fail (KW_IS_SERVICE (self) && caller != NULL, NULL);

  act.caller = caller;
  act.verb = KW_VERB_WEB_LOGIN;
  act.started = g_get_monotonic_time ();
  if (kw_access_check_verb (caller, act.verb, &local_error))
    ticket = kw_tickets_issue (self->tickets, caller, &local_error);
  if (ticket != NULL)
    {
      g_autofree char *page = kw_config_dup_url (self->config);

      url = g_strconcat (page, "login/", NULL);
      n_start = strlen (url);
      link = kw_secret_new (n_start + KW_TICKET_CHARACTERS, &local_error);
    }
  audit_act (self, &act, local_error);
  if (link == NULL)
    {
      g_propagate_error (error, g_steal_pointer (&local_error));
      return NULL;
    }
  memcpy (kw_secret_get_data (link), url, n_start);
  memcpy (kw_secret_get_data (link) + n_start, kw_secret_get_data (ticket), KW_TICKET_CHARACTERS);
  return g_steal_pointer (&link);
}

static void
forget_pin_thread (GTask *work,
                   gpointer source_object,
                   gpointer task_data,
                   GCancellable *cancellable G_GNUC_UNUSED)
{
  KwService *self = KW_SERVICE (source_object);
  const Act *act = task_data;
  GError *error = NULL;
  guint n_forgotten = 0;

  if (kw_pin_guard_forget (self->guard, act->device, &n_forgotten, &error) && n_forgotten == 0)
    g_set_error (&error, KW_ERROR, KW_ERROR_TOKEN_NOT_FOUND,
                 "No PIN was ever presented to a token with serial number %s", act->device);
  if (error != NULL)
    g_task_return_error (work, error);
  else
    g_task_return_boolean (work, TRUE);
}

static void
on_pin_forgotten (GObject *source, GAsyncResult *result, gpointer user_data)
{
  KwService *self = KW_SERVICE (source);
  g_autoptr (GTask) task = G_TASK (user_data);
  GError *error = NULL;

  if (g_task_propagate_boolean (G_TASK (result), &error))
    kw_pool_reopen_devices (self->pool, FALSE);
  end (task, error);
}

/**
 * kw_service_retry_device_async:
 * @self: a service
 * @caller: who asks
 * @serial: serial number of a token
 * @callback: told when it is done
 * @user_data: for @callback
 *
 * Lets a PIN that a token refused be presented to it once more, because the administrator said so, and starts the device
 * anew. Main context.
 */
void
kw_service_retry_device_async (KwService *self,
                               KwCaller *caller,
                               const char *serial,
                               GAsyncReadyCallback callback,
                               gpointer user_data)
{
  g_autoptr (GTask) task = NULL;

  g_return_if_fail (KW_IS_SERVICE (self) && caller != NULL && serial != NULL);

  task = g_task_new (self, NULL, callback, user_data);
  if (begin (task, caller, KW_VERB_RETRY_DEVICE, NULL, serial) != NULL)
    run_in_thread (task, forget_pin_thread, on_pin_forgotten);
}

/**
 * kw_service_retry_device_finish:
 * @self: a service
 * @result: what the callback got
 * @error: where to store the error
 *
 * Returns: %TRUE on success; %KW_ERROR_TOKEN_NOT_FOUND when no PIN was ever presented to it
 */
gboolean
kw_service_retry_device_finish (KwService *self, GAsyncResult *result, GError **error)
{
  g_return_val_if_fail (g_task_is_valid (result, self), FALSE);

  return g_task_propagate_boolean (G_TASK (result), error);
}

static void
accept_key_thread (GTask *work,
                   gpointer source_object,
                   gpointer task_data,
                   GCancellable *cancellable G_GNUC_UNUSED)
{
  KwService *self = KW_SERVICE (source_object);
  const Act *act = task_data;
  GError *error = NULL;
  gboolean known = TRUE;

  /* The public half of an RSA key is recorded anew when it is seen next. */
  if (act->key_id != NULL ? kw_keyring_forget (self->keyring, act->key_id, &known, &error)
                          : kw_keyring_accept (self->keyring, act->key, act->fingerprint, &error))
    {
      if (!known)
        g_set_error (
            &error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND,
            "There is no key %s: neither in hsm_keyid, nor is an RSA key recorded under it",
            act->key);
      else
        (void) kw_keyring_load (self->keyring, NULL, &error);
    }
  if (error != NULL)
    g_task_return_error (work, error);
  else
    g_task_return_boolean (work, TRUE);
}

static void
on_key_accepted (GObject *source, GAsyncResult *result, gpointer user_data)
{
  KwService *self = KW_SERVICE (source);
  g_autoptr (GTask) task = G_TASK (user_data);
  GError *error = NULL;

  if (g_task_propagate_boolean (G_TASK (result), &error))
    {
      kw_pool_judge_keys (self->pool);
      kw_pool_reopen_devices (self->pool, TRUE);
    }
  end (task, error);
}

/* The fingerprint of the key that all devices have now under an id; an error when they do not agree, or none has it. */
static const char *
find_present_fingerprint (const KwKeyMatrix *matrix, guint row, GError **error)
{
  const KwKeyFacts *facts = kw_key_matrix_get_key (matrix, row);
  const char *found = NULL;

  for (guint j = 0; j < kw_key_matrix_get_n_devices (matrix); j++)
    {
      const KwMatrixCell *cell = kw_key_matrix_get_cell (matrix, row, j);
      const char *fingerprint = cell->key != NULL ? kw_key_get_fingerprint (cell->key) : NULL;

      if (fingerprint == NULL)
        continue;
      if (found != NULL && !g_str_equal (found, fingerprint))
        {
          g_set_error (
              error, KW_ERROR, KW_ERROR_AMBIGUOUS,
              "Devices have different keys under %s: %s and %s; say which fingerprint is right, or unplug the "
              "device with the wrong one",
              facts->id, found, fingerprint);
          return NULL;
        }
      found = fingerprint;
    }
  if (found == NULL)
    g_set_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND, "No device has a key under %s",
                 facts->id);
  return found;
}

static gboolean
fingerprint_is_present (const KwKeyMatrix *matrix, guint row, const char *fingerprint)
{
  for (guint j = 0; j < kw_key_matrix_get_n_devices (matrix); j++)
    {
      const KwMatrixCell *cell = kw_key_matrix_get_cell (matrix, row, j);
      const char *present = cell->key != NULL ? kw_key_get_fingerprint (cell->key) : NULL;

      if (present != NULL && g_ascii_strcasecmp (present, fingerprint) == 0)
        return TRUE;
    }
  return FALSE;
}

/* As long as that of an AES key, or of an RSA key. */
static gboolean
is_fingerprint (const char *text)
{
  gsize size = strlen (text);

  return (size == 2 * KW_FINGERPRINT_AES_BYTES || size == 4 * KW_FINGERPRINT_AES_BYTES)
         && strspn (text, "0123456789abcdefABCDEF") == size;
}

static gboolean
find_row (const KwKeyMatrix *matrix, const char *id, guint *out_row)
{
  for (guint i = 0; i < kw_key_matrix_get_n_keys (matrix); i++)
    {
      if (g_ascii_strcasecmp (kw_key_matrix_get_key (matrix, i)->id, id) == 0)
        {
          *out_row = i;
          return TRUE;
        }
    }
  return FALSE;
}

/* Finds out which key is meant, and takes no fingerprint that no device has. */
static gboolean
choose_key (KwService *self, Act *act, const char *fingerprint, GError **error)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (self->keyring);
  guint row = 0;
  gboolean found = find_row (matrix, act->key, &row);

  if (fingerprint != NULL && !is_fingerprint (fingerprint))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                   "A fingerprint of an AES key is %d digits in hex", 2 * KW_FINGERPRINT_AES_BYTES);
      return FALSE;
    }
  if (fingerprint != NULL && (!found || !fingerprint_is_present (matrix, row, fingerprint)))
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND,
          "No device has a key with the fingerprint %s under %s; keyward keys shows what there is",
          fingerprint, act->key);
      return FALSE;
    }
  if (found && kw_key_matrix_get_key (matrix, row)->kind == KW_KEY_KIND_AES)
    {
      if (fingerprint == NULL)
        fingerprint = find_present_fingerprint (matrix, row, error);
      act->fingerprint = g_strdup (fingerprint);
      g_free (act->key);
      act->key = g_strdup (kw_key_matrix_get_key (matrix, row)->id);
      return fingerprint != NULL;
    }
  /* Of several different ones the first that is seen would be recorded. */
  if (found)
    {
      g_autoptr (GError) local_error = NULL;

      (void) find_present_fingerprint (matrix, row, &local_error);
      if (g_error_matches (local_error, KW_ERROR, KW_ERROR_AMBIGUOUS))
        {
          g_propagate_error (error, g_steal_pointer (&local_error));
          return FALSE;
        }
    }
  act->key_id = kw_uuid_to_bytes (act->key, -1, NULL);
  if (act->key_id != NULL)
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND,
               "There is no key %s: neither in hsm_keyid, nor is an RSA key recorded under it",
               act->key);
  return FALSE;
}

/**
 * kw_service_accept_key_async:
 * @self: a service
 * @caller: who asks
 * @id: entry of `hsm_keyid`, or UUID of an RSA key
 * @fingerprint: (nullable): which key is right; %NULL for the one that all devices have which are there
 * @callback: told when it is done
 * @user_data: for @callback
 *
 * Records the key that is there under an id in place of the recorded one, at once. Main context.
 */
void
kw_service_accept_key_async (KwService *self,
                             KwCaller *caller,
                             const char *id,
                             const char *fingerprint,
                             GAsyncReadyCallback callback,
                             gpointer user_data)
{
  g_autoptr (GTask) task = NULL;
  GError *error = NULL;
  Act *act = NULL;

  g_return_if_fail (KW_IS_SERVICE (self) && caller != NULL && id != NULL);

  task = g_task_new (self, NULL, callback, user_data);
  act = begin (task, caller, KW_VERB_ACCEPT_KEY, id, NULL);
  if (act == NULL)
    return;
  if (choose_key (self, act, fingerprint, &error))
    run_in_thread (task, accept_key_thread, on_key_accepted);
  else
    end (task, error);
}

/**
 * kw_service_accept_key_finish:
 * @self: a service
 * @result: what the callback got
 * @error: where to store the error
 *
 * Returns: %TRUE on success; %KW_ERROR_KEY_NOT_FOUND when there is no such key or no device has it, %KW_ERROR_AMBIGUOUS when
 *   devices have different ones
 */
gboolean
kw_service_accept_key_finish (KwService *self, GAsyncResult *result, GError **error)
{
  g_return_val_if_fail (g_task_is_valid (result, self), FALSE);

  return g_task_propagate_boolean (G_TASK (result), error);
}

static void
on_keys_checked (GObject *source, GAsyncResult *result, gpointer user_data)
{
  g_autoptr (GTask) task = G_TASK (user_data);
  GError *error = NULL;
  g_autoptr (KwKeyMatrix) matrix = kw_pool_check_keys_finish (KW_POOL (source), result, &error);

  end (task, matrix != NULL ? NULL : error);
}

/**
 * kw_service_check_keys_async:
 * @self: a service
 * @caller: who asks
 * @callback: told when it is done
 * @user_data: for @callback
 *
 * Has the keys looked at anew, and waits until that is done. Main context.
 */
void
kw_service_check_keys_async (KwService *self,
                             KwCaller *caller,
                             GAsyncReadyCallback callback,
                             gpointer user_data)
{
  g_autoptr (GTask) task = NULL;

  g_return_if_fail (KW_IS_SERVICE (self) && caller != NULL);

  task = g_task_new (self, NULL, callback, user_data);
  if (begin (task, caller, KW_VERB_CHECK_KEYS, NULL, NULL) == NULL)
    return;
  kw_pool_check_keys_async (self->pool, NULL, on_keys_checked, g_object_ref (task));
}

/**
 * kw_service_check_keys_finish:
 * @self: a service
 * @result: what the callback got
 * @error: where to store the error
 *
 * Returns: (transfer full): which key is how on which device; %NULL with %KW_ERROR_NOT_AUTHORIZED
 */
KwKeyMatrix *
kw_service_check_keys_finish (KwService *self, GAsyncResult *result, GError **error)
{
  g_return_val_if_fail (g_task_is_valid (result, self), NULL);

  if (!g_task_propagate_boolean (G_TASK (result), error))
    return NULL;
  return kw_keyring_ref_matrix (self->keyring);
}

/* What came of the PIN on all devices: an error for the first that did not take it. */
static GError *
judge_unlocking (KwService *self, const Act *act)
{
  GError *error = NULL;

  for (guint i = 0; i < act->devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (act->devices, i);
      KwDeviceState state = kw_device_get_state (device);

      if (state == KW_DEVICE_READY || state == KW_DEVICE_MISMATCHED)
        continue;
      kw_pool_forget_pin (self->pool, device);
      if (error == NULL)
        g_set_error (&error, KW_ERROR,
                     state == KW_DEVICE_PIN_REFUSED ? KW_ERROR_PIN_REFUSED : KW_ERROR_DEVICE_FAILED,
                     "Device %s: %s", kw_device_get_name (device),
                     kw_device_get_state_text (device));
    }
  return error;
}

static gboolean
watch_unlocking (gpointer user_data)
{
  GTask *task = G_TASK (user_data);
  KwService *self = g_task_get_source_object (task);
  const Act *act = g_task_get_task_data (task);

  for (guint i = 0; i < act->devices->len; i++)
    {
      if (kw_device_is_busy (g_ptr_array_index (act->devices, i))
          && g_get_monotonic_time () < act->deadline)
        return G_SOURCE_CONTINUE;
    }
  end (task, judge_unlocking (self, act));
  return G_SOURCE_REMOVE;
}

static void
start_unlocking (KwService *self, GTask *task, Act *act, KwSecret *pin)
{
  g_autoptr (GSource) source = NULL;
  gint64 timeout = 0;
  gsize size = kw_secret_get_size (pin);

  if (size == 0 || size > KW_MAX_PIN_BYTES)
    {
      end (task, g_error_new (KW_ERROR, KW_ERROR_PIN_INVALID, "A PIN has 1 to %d bytes",
                              KW_MAX_PIN_BYTES));
      return;
    }
  act->devices = kw_pool_unlock (self->pool, act->device, pin);
  if (act->devices->len == 0)
    {
      end (task, act->device != NULL ? g_error_new (KW_ERROR, KW_ERROR_TOKEN_NOT_FOUND,
                                                    "No device %s waits for a PIN", act->device)
                                     : g_error_new_literal (KW_ERROR, KW_ERROR_TOKEN_NOT_FOUND,
                                                            "No device waits for a PIN"));
      return;
    }
  for (guint i = 0; i < act->devices->len; i++)
    timeout = MAX (timeout, kw_device_get_timeout_usec (g_ptr_array_index (act->devices, i)));
  /* The device itself gives up before that, unless it lost its main context. */
  act->deadline = g_get_monotonic_time () + timeout * KW_GENERATE_TIMEOUT_FACTOR;
  source = g_timeout_source_new (UNLOCK_INTERVAL_MSEC);
  g_task_attach_source (task, source, watch_unlocking);
}

/**
 * kw_service_unlock_async:
 * @self: a service
 * @caller: who asks
 * @pin: the PIN
 * @serial: (nullable): serial number of a device; %NULL for all that wait for a PIN
 * @callback: told when the devices have taken it or not
 * @user_data: for @callback
 *
 * Presents a PIN to devices that wait for one, once to each, within the rules of the PIN guard. It is kept in memory as long as
 * the service runs, and never on a disk. Main context.
 */
void
kw_service_unlock_async (KwService *self,
                         KwCaller *caller,
                         KwSecret *pin,
                         const char *serial,
                         GAsyncReadyCallback callback,
                         gpointer user_data)
{
  g_autoptr (GTask) task = NULL;
  Act *act = NULL;

  g_return_if_fail (KW_IS_SERVICE (self) && caller != NULL && pin != NULL);

  task = g_task_new (self, NULL, callback, user_data);
  act = begin (task, caller, KW_VERB_UNLOCK, NULL, serial);
  if (act != NULL)
    start_unlocking (self, task, act, pin);
}

/**
 * kw_service_unlock_finish:
 * @self: a service
 * @result: what the callback got
 * @error: where to store the error
 *
 * Returns: %TRUE when all took it; %KW_ERROR_TOKEN_NOT_FOUND when none waits for a PIN, %KW_ERROR_PIN_INVALID for one of a wrong
 *   length, %KW_ERROR_PIN_REFUSED when one did not take it or the guard did not let it through
 */
gboolean
kw_service_unlock_finish (KwService *self, GAsyncResult *result, GError **error)
{
  g_return_val_if_fail (g_task_is_valid (result, self), FALSE);

  return g_task_propagate_boolean (G_TASK (result), error);
}

static void
read_config_thread (GTask *work,
                    gpointer source_object,
                    gpointer task_data G_GNUC_UNUSED,
                    GCancellable *cancellable G_GNUC_UNUSED)
{
  KwService *self = KW_SERVICE (source_object);
  const char *path = kw_config_get_path (self->config);
  g_autoptr (KwConfig) config = NULL;
  GError *error = NULL;

  if (path == NULL)
    g_set_error_literal (&error, KW_ERROR, KW_ERROR_NOT_SUPPORTED,
                         "The daemon was started without a configuration file");
  else
    config = kw_config_new_from_file (path, &error);
  if (config != NULL && !kw_config_load_secrets (config, &error))
    g_clear_object (&config);
  if (config != NULL)
    g_task_return_pointer (work, g_steal_pointer (&config), g_object_unref);
  else
    g_task_return_error (work, error);
}

/* What can be changed while work goes on. */
static void
apply_config (KwService *self, KwConfig *config)
{
  const KwHsmConfig *hsm = kw_config_get_hsm (config);

  g_set_object (&self->current_config, config);
  g_mutex_lock (&self->access_lock);
  g_clear_pointer (&self->access, kw_access_unref);
  self->access = kw_access_new (config);
  g_mutex_unlock (&self->access_lock);
  kw_keyring_set_keys (self->keyring, hsm->key_ids, hsm->encrypt_hsm, hsm->min_copies);
  kw_pool_set_check_interval (self->pool, (gint64) hsm->check_interval * G_USEC_PER_SEC);
  kw_pool_set_replication (self->pool, kw_config_get_hsm (self->config)->replicate,
                           hsm->min_copies);
  kw_vault_set_data_key_ttl (self->vault, hsm->data_key_ttl);
  kw_pool_judge_keys (self->pool);
  kw_pool_reopen_devices (self->pool, TRUE);
  g_signal_emit_by_name (self, "reloaded");
}

static void
on_config_read (GObject *source, GAsyncResult *result, gpointer user_data)
{
  KwService *self = KW_SERVICE (source);
  g_autoptr (GTask) task = G_TASK (user_data);
  GError *error = NULL;
  g_autoptr (KwConfig) config = g_task_propagate_pointer (G_TASK (result), &error);
  g_auto (GStrv) differences = NULL;
  g_autofree char *list = NULL;

  audit_act (self, g_task_get_task_data (task), error);
  if (config == NULL)
    {
      g_task_return_error (task, error);
      return;
    }
  differences = kw_config_dup_differences (self->config, config);
  list = g_strjoinv (", ", differences);
  if (differences[0] != NULL)
    kw_log (G_LOG_LEVEL_WARNING, "These settings were changed and show after a restart only",
            "settings", list, NULL);
  apply_config (self, config);
  g_task_return_pointer (task, g_steal_pointer (&differences), (GDestroyNotify) g_strfreev);
}

/**
 * kw_service_reload_async:
 * @self: a service
 * @caller: who asks
 * @callback: told when it is done
 * @user_data: for @callback
 *
 * Reads the configuration anew. Log level, `[[access]]`, `encrypt_hsm`, `hsm_keyid`, `min_copies`, `check_interval` and
 * `data_key_ttl` are in force at once, other settings after a restart. Main context.
 */
void
kw_service_reload_async (KwService *self,
                         KwCaller *caller,
                         GAsyncReadyCallback callback,
                         gpointer user_data)
{
  g_autoptr (GTask) task = NULL;

  g_return_if_fail (KW_IS_SERVICE (self) && caller != NULL);

  task = g_task_new (self, NULL, callback, user_data);
  if (begin (task, caller, KW_VERB_RELOAD, NULL, NULL) != NULL)
    run_in_thread (task, read_config_thread, on_config_read);
}

/**
 * kw_service_reload_finish:
 * @self: a service
 * @result: what the callback got
 * @error: where to store the error
 *
 * Returns: (transfer full): settings that were changed and show after a restart only; %NULL with %KW_ERROR_CONFIG or
 *   %KW_ERROR_PERMISSION, and then all stays as it was
 */
GStrv
kw_service_reload_finish (KwService *self, GAsyncResult *result, GError **error)
{
  g_return_val_if_fail (g_task_is_valid (result, self), NULL);

  return g_task_propagate_pointer (G_TASK (result), error);
}

/**
 * kw_service_audit_refusal:
 * @self: a service
 * @caller: who asked
 * @verb: for what
 * @key: (nullable): about which key
 * @error: why he was refused
 *
 * Audits what a door refused by itself, because somebody else whom it asked did. Main context.
 */
void
kw_service_audit_refusal (KwService *self,
                          KwCaller *caller,
                          KwVerb verb,
                          const char *key,
                          const GError *error)
{
  Act act = { 0 };

  g_return_if_fail (KW_IS_SERVICE (self) && caller != NULL && error != NULL);

  act.caller = caller;
  act.verb = verb;
  act.key = (char *) key;
  act.started = g_get_monotonic_time ();
  audit_act (self, &act, error);
}
