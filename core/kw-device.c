/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-device"

#include "config.h"

#include "kw-device.h"

#include "kw-error.h"
#include "kw-limits.h"
#include "kw-log.h"

/*
 * One plugged token: its state, its executor, the keys on it. State and keys belong to the main context. The functions
 * that use the token, kw_device_rsa_decrypt() and its like, are called by the executor's threads; they renew a login that
 * was lost, once, by the rules of the PIN guard.
 */
struct _KwDevice
{
  GObject parent_instance;

  KwToken *token;        /* owned */
  KwPinGuard *guard;     /* owned */
  KwKeyring *keyring;    /* owned */
  KwSecret *pin;         /* owned, nullable */
  char *pin_name;        /* owned, nullable */
  KwExecutor *executor;  /* owned */
  GMainContext *context; /* owned: the one it was made in */
  gint64 timeout_usec;
  guint64 number;

  KwDeviceState state; /* main context */
  char *state_text;    /* main context; owned */
  GPtrArray *keys;     /* main context; owned; replaced, never changed */
  gboolean busy;       /* main context; an open or refresh is under way */
  gboolean again;      /* main context; and another one was asked for meanwhile */

  GMutex login_lock;
  guint login_generation; /* guarded by login_lock for writing; read atomically */
  gint n_tries_seen;      /* guarded by login_lock; −1 when the token does not tell */

  gint n_keys;   /* atomic: length of keys */
  gint n_jobs;   /* atomic */
  gint n_errors; /* atomic */
};

G_DEFINE_FINAL_TYPE (KwDevice, kw_device, G_TYPE_OBJECT)

enum
{
  SIGNAL_CHANGED,
  SIGNAL_TROUBLE,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

#define OPEN_TIMEOUT_FACTOR 6

static const char *const state_nicks[] = {
  [KW_DEVICE_PROBING] = "probing",       [KW_DEVICE_LOCKED] = "locked",
  [KW_DEVICE_CHECKING] = "checking",     [KW_DEVICE_READY] = "ready",
  [KW_DEVICE_DEGRADED] = "degraded",     [KW_DEVICE_PIN_REFUSED] = "pin-refused",
  [KW_DEVICE_MISMATCHED] = "mismatched", [KW_DEVICE_UNSUPPORTED] = "unsupported",
  [KW_DEVICE_STUCK] = "stuck",           [KW_DEVICE_GONE] = "gone",
};

G_STATIC_ASSERT (G_N_ELEMENTS (state_nicks) == KW_N_DEVICE_STATES);

/* An open or refresh on its way through the executor. */
typedef struct
{
  KwDevice *device;     /* owned */
  gboolean login;       /* log in first */
  GPtrArray *keys;      /* owned, nullable */
  GPtrArray *different; /* owned, nullable */
  GError *error;        /* owned, nullable */
} Inspection;

static void
inspection_free (Inspection *inspection)
{
  g_object_unref (inspection->device);
  g_clear_pointer (&inspection->keys, g_ptr_array_unref);
  g_clear_pointer (&inspection->different, g_ptr_array_unref);
  g_clear_error (&inspection->error);
  g_free (inspection);
}

static gboolean
login (KwDevice *self, GError **error)
{
  KwPinState state = { 0 };

  if (!kw_pin_guard_login_named (self->guard, self->token, self->pin, self->pin_name, error)
      || !kw_token_get_pin_state (self->token, &state, error))
    return FALSE;
  self->n_tries_seen = state.tries_left;
  g_atomic_int_inc (&self->login_generation);
  return TRUE;
}

/*
 * Renews a login that was lost, unless another thread did since @generation. A try counter that fell since the last login
 * means that somebody else presents wrong PINs: then we stay away.
 */
static gboolean
renew_login (KwDevice *self, guint generation, GError **error)
{
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->login_lock);
  KwPinState state = { 0 };

  if ((guint) g_atomic_int_get (&self->login_generation) != generation)
    return TRUE;
  if (!kw_token_get_pin_state (self->token, &state, error))
    return FALSE;
  if (state.tries_left >= 0 && state.tries_left < self->n_tries_seen)
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_PIN_PROTECTED,
          "Device %s lost its login, and somebody else used up tries of its PIN: %d left; find out who, then run: "
          "keyward device retry %s",
          kw_device_get_name (self), state.tries_left, kw_device_get_name (self));
      return FALSE;
    }
  kw_log (G_LOG_LEVEL_INFO, "Login renewed", "device", kw_device_get_name (self), NULL);
  return login (self, error);
}

static void
inspect (gpointer user_data)
{
  Inspection *inspection = user_data;
  KwDevice *self = inspection->device;
  g_autoptr (GPtrArray) keys = NULL;

  if (inspection->login)
    {
      g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->login_lock);

      if (!login (self, &inspection->error))
        return;
    }
  keys = kw_token_list_keys (self->token, &inspection->error);
  if (keys != NULL)
    inspection->keys
        = kw_keyring_admit (self->keyring, keys, &inspection->different, &inspection->error);
}

static void
log_different_keys (KwDevice *self, GPtrArray *different)
{
  for (guint i = 0; i < different->len; i++)
    {
      KwKey *key = g_ptr_array_index (different, i);

      kw_log (
          G_LOG_LEVEL_CRITICAL,
          "Key is not the one recorded under its id and is not used; if it was replaced on purpose, run: "
          "keyward keys accept ID",
          "device", kw_device_get_name (self), "key", kw_key_get_uuid (key), "label",
          kw_key_get_label (key), "fingerprint", kw_key_get_fingerprint (key), NULL);
    }
}

static void
take_failed_inspection (KwDevice *self, const GError *error)
{
  if (g_error_matches (error, KW_ERROR, KW_ERROR_PIN_REQUIRED))
    kw_device_set_state (self, KW_DEVICE_LOCKED, error->message);
  else if (g_error_matches (error, KW_ERROR, KW_ERROR_PIN_REFUSED)
           || g_error_matches (error, KW_ERROR, KW_ERROR_PIN_INVALID)
           || g_error_matches (error, KW_ERROR, KW_ERROR_PIN_LATCHED)
           || g_error_matches (error, KW_ERROR, KW_ERROR_PIN_PROTECTED)
           || g_error_matches (error, KW_ERROR, KW_ERROR_PIN_LOCKED))
    kw_device_set_state (self, KW_DEVICE_PIN_REFUSED, error->message);
  else
    g_signal_emit (self, signals[SIGNAL_TROUBLE], 0, KW_DEVICE_DEGRADED, error->message);
}

static void start_inspection (KwDevice *self, gboolean with_login);

static gboolean
take_inspection (gpointer user_data)
{
  Inspection *inspection = user_data;
  KwDevice *self = inspection->device;
  g_autofree char *text = NULL;

  self->busy = FALSE;
  if (self->state == KW_DEVICE_GONE || self->state == KW_DEVICE_STUCK)
    return G_SOURCE_REMOVE;
  if (inspection->error != NULL)
    {
      take_failed_inspection (self, inspection->error);
      return G_SOURCE_REMOVE;
    }
  log_different_keys (self, inspection->different);
  g_ptr_array_unref (self->keys);
  self->keys = g_ptr_array_ref (inspection->keys);
  g_atomic_int_set (&self->n_keys, (gint) self->keys->len);
  text = g_strdup_printf ("Ready with %u keys%s", self->keys->len,
                          inspection->different->len > 0
                              ? "; some keys are not the recorded ones and are not used"
                              : "");
  if (self->state != KW_DEVICE_READY)
    kw_device_set_state (self, KW_DEVICE_READY, text);
  /* What was asked for meanwhile may have come too late for this look. */
  if (self->again)
    start_inspection (self, FALSE);
  g_signal_emit (self, signals[SIGNAL_CHANGED], 0);
  return G_SOURCE_REMOVE;
}

static gboolean
take_overdue_inspection (gpointer user_data)
{
  KwDevice *self = KW_DEVICE (user_data);

  self->busy = FALSE;
  g_signal_emit (self, signals[SIGNAL_TROUBLE], 0, KW_DEVICE_STUCK, "It does not answer");
  return G_SOURCE_REMOVE;
}

static void
invoke_in_main (KwDevice *self, GSourceFunc function, gpointer data, GDestroyNotify destroy)
{
  g_autoptr (GSource) source = g_idle_source_new ();

  g_source_set_priority (source, G_PRIORITY_DEFAULT);
  g_source_set_callback (source, function, data, destroy);
  g_source_attach (source, self->context);
}

static void
on_inspection_done (gpointer user_data,
                    KwWorkOutcome outcome,
                    gboolean was_running G_GNUC_UNUSED,
                    gint64 duration_usec G_GNUC_UNUSED)
{
  Inspection *inspection = user_data;

  if (outcome == KW_WORK_RAN)
    {
      /* The work frees its own; what is taken to the main context is a copy that holds the results. */
      Inspection *result = g_new0 (Inspection, 1);

      result->device = g_object_ref (inspection->device);
      result->keys = g_steal_pointer (&inspection->keys);
      result->different = g_steal_pointer (&inspection->different);
      result->error = g_steal_pointer (&inspection->error);
      invoke_in_main (inspection->device, take_inspection, result,
                      (GDestroyNotify) inspection_free);
    }
  else if (outcome == KW_WORK_OVERDUE)
    invoke_in_main (inspection->device, take_overdue_inspection, g_object_ref (inspection->device),
                    g_object_unref);
}

static void
start_inspection (KwDevice *self, gboolean with_login)
{
  Inspection *inspection = NULL;
  KwWork *work = NULL;

  if (self->state == KW_DEVICE_GONE)
    return;
  self->again = self->busy;
  if (self->busy)
    return;
  self->busy = TRUE;
  inspection = g_new0 (Inspection, 1);
  inspection->device = g_object_ref (self);
  inspection->login = with_login;
  work = kw_work_new (inspect, on_inspection_done, self->timeout_usec * OPEN_TIMEOUT_FACTOR,
                      inspection, (GDestroyNotify) inspection_free);
  kw_work_set_long (work);
  /* Refused only when the device was closed: then nobody waits for the result. */
  if (!kw_executor_submit (self->executor, work, FALSE, NULL))
    self->busy = FALSE;
}

static void
kw_device_dispose (GObject *object)
{
  KwDevice *self = KW_DEVICE (object);

  g_clear_object (&self->executor);
  g_clear_object (&self->token);
  g_clear_object (&self->guard);
  g_clear_object (&self->keyring);
  G_OBJECT_CLASS (kw_device_parent_class)->dispose (object);
}

static void
kw_device_finalize (GObject *object)
{
  KwDevice *self = KW_DEVICE (object);

  g_clear_pointer (&self->pin, kw_secret_unref);
  g_free (self->pin_name);
  g_free (self->state_text);
  g_ptr_array_unref (self->keys);
  g_main_context_unref (self->context);
  g_mutex_clear (&self->login_lock);
  G_OBJECT_CLASS (kw_device_parent_class)->finalize (object);
}

static void
kw_device_class_init (KwDeviceClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  object_class->dispose = kw_device_dispose;
  object_class->finalize = kw_device_finalize;

  /**
   * KwDevice::changed:
   * @self: the device
   *
   * Its state or its keys are others than before. Main context.
   */
  signals[SIGNAL_CHANGED] = g_signal_new ("changed", KW_TYPE_DEVICE, G_SIGNAL_RUN_LAST, 0, NULL,
                                          NULL, NULL, G_TYPE_NONE, 0);
  /**
   * KwDevice::trouble:
   * @self: the device
   * @state: a #KwDeviceState
   * @text: what is wrong
   *
   * It cannot be used as it is; somebody should have it started anew. Main context.
   */
  signals[SIGNAL_TROUBLE] = g_signal_new ("trouble", KW_TYPE_DEVICE, G_SIGNAL_RUN_LAST, 0, NULL,
                                          NULL, NULL, G_TYPE_NONE, 2, G_TYPE_UINT, G_TYPE_STRING);
}

static void
kw_device_init (KwDevice *self)
{
  g_mutex_init (&self->login_lock);
  self->keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  self->context = g_main_context_ref_thread_default ();
  self->state_text = g_strdup ("Just found");
}

/**
 * kw_device_state_to_string:
 * @state: a state
 *
 * Returns: (transfer none): its nick. Any thread.
 */
const char *
kw_device_state_to_string (KwDeviceState state)
{
  g_return_val_if_fail ((guint) state < G_N_ELEMENTS (state_nicks), NULL);

  return state_nicks[state];
}

/**
 * kw_device_state_from_string:
 * @nick: nick of a state
 * @out_state: (out): the state
 *
 * Returns: %FALSE when @nick is unknown. Any thread.
 */
gboolean
kw_device_state_from_string (const char *nick, KwDeviceState *out_state)
{
  g_return_val_if_fail (nick != NULL, FALSE);

  for (guint i = 0; i < G_N_ELEMENTS (state_nicks); i++)
    {
      if (g_str_equal (nick, state_nicks[i]))
        {
          *out_state = (KwDeviceState) i;
          return TRUE;
        }
    }
  return FALSE;
}

/**
 * kw_device_new:
 * @token: the token
 * @options: what it works with; copied
 *
 * Returns: (transfer full): a device in state "probing"; kw_device_open() goes on. Main context.
 */
KwDevice *
kw_device_new (KwToken *token, const KwDeviceOptions *options)
{
  KwDevice *self = NULL;
  g_autofree char *thread_name = NULL;

  g_return_val_if_fail (KW_IS_TOKEN (token), NULL);

  self = g_object_new (KW_TYPE_DEVICE, NULL);
  self->token = g_object_ref (token);
  self->guard = g_object_ref (options->guard);
  self->keyring = g_object_ref (options->keyring);
  self->pin = options->pin != NULL ? kw_secret_ref (options->pin) : NULL;
  self->pin_name = g_strdup (options->pin_name);
  self->timeout_usec = options->timeout_usec;
  self->number = options->number;
  thread_name = g_strdup_printf ("kw-%.8s", kw_device_get_name (self));
  self->executor = kw_executor_new (thread_name, kw_token_get_concurrency (token));
  return self;
}

/**
 * kw_device_open:
 * @self: a device that is not ready
 *
 * Logs in and looks at the keys; the signals tell how it went. Main context.
 */
void
kw_device_open (KwDevice *self)
{
  g_return_if_fail (KW_IS_DEVICE (self));

  start_inspection (self, TRUE);
}

/**
 * kw_device_refresh_keys:
 * @self: a ready device
 *
 * Looks at the keys again, because another process may have made one. Ends with a signal. Main context.
 */
void
kw_device_refresh_keys (KwDevice *self)
{
  g_return_if_fail (KW_IS_DEVICE (self));

  start_inspection (self, FALSE);
}

/**
 * kw_device_set_state:
 * @self: a device
 * @state: its state
 * @text: a sentence for the administrator
 *
 * Changes the state, logs that, and tells everybody. Main context.
 */
void
kw_device_set_state (KwDevice *self, KwDeviceState state, const char *text)
{
  const KwTokenInfo *info = NULL;
  GLogLevelFlags level = G_LOG_LEVEL_WARNING;

  g_return_if_fail (KW_IS_DEVICE (self));

  if (self->state == state && g_strcmp0 (self->state_text, text) == 0)
    return;
  if (state == KW_DEVICE_READY || state == KW_DEVICE_CHECKING || state == KW_DEVICE_GONE)
    level = G_LOG_LEVEL_INFO;
  info = kw_token_get_info (self->token);
  self->state = state;
  g_free (self->state_text);
  self->state_text = g_strdup (text);
  kw_log (level, "Device state", "device", kw_device_get_name (self), "label", info->label, "state",
          kw_device_state_to_string (state), "text", text, NULL);
  g_signal_emit (self, signals[SIGNAL_CHANGED], 0);
}

/**
 * kw_device_close:
 * @self: a device
 *
 * Gives the token up; waiting work is refused. Main context.
 */
void
kw_device_close (KwDevice *self)
{
  g_return_if_fail (KW_IS_DEVICE (self));

  if (self->state == KW_DEVICE_GONE)
    return;
  kw_device_set_state (self, KW_DEVICE_GONE, "Not plugged in any more");
  kw_executor_stop (self->executor);
  kw_token_close (self->token);
}

/**
 * kw_device_get_token:
 * @self: a device
 *
 * Returns: (transfer none): its token. Any thread.
 */
KwToken *
kw_device_get_token (KwDevice *self)
{
  g_return_val_if_fail (KW_IS_DEVICE (self), NULL);

  return self->token;
}

/**
 * kw_device_get_name:
 * @self: a device
 *
 * Returns: (transfer none): what it is called in logs: the serial number, or the label where there is none. Any thread.
 */
const char *
kw_device_get_name (KwDevice *self)
{
  const KwTokenInfo *info = NULL;

  g_return_val_if_fail (KW_IS_DEVICE (self), NULL);

  info = kw_token_get_info (self->token);
  return info->serial[0] != '\0' ? info->serial : info->label;
}

/**
 * kw_device_get_number:
 * @self: a device
 *
 * Returns: a number that no other device object of this process has. Any thread.
 */
guint64
kw_device_get_number (KwDevice *self)
{
  g_return_val_if_fail (KW_IS_DEVICE (self), 0);

  return self->number;
}

/**
 * kw_device_is_busy:
 * @self: a device
 *
 * Returns: %TRUE while it is being opened or its keys are being looked at. Main context.
 */
gboolean
kw_device_is_busy (KwDevice *self)
{
  g_return_val_if_fail (KW_IS_DEVICE (self), FALSE);

  return self->busy;
}

/**
 * kw_device_get_state:
 * @self: a device
 *
 * Returns: its state. Main context.
 */
KwDeviceState
kw_device_get_state (KwDevice *self)
{
  g_return_val_if_fail (KW_IS_DEVICE (self), KW_DEVICE_GONE);

  return self->state;
}

/**
 * kw_device_get_state_text:
 * @self: a device
 *
 * Returns: (transfer none): a sentence on its state. Main context.
 */
const char *
kw_device_get_state_text (KwDevice *self)
{
  g_return_val_if_fail (KW_IS_DEVICE (self), NULL);

  return self->state_text;
}

/**
 * kw_device_get_keys:
 * @self: a device
 *
 * Returns: (transfer none) (element-type KwKey): the keys that may be used on it; never changed, only replaced. Main
 *   context.
 */
GPtrArray *
kw_device_get_keys (KwDevice *self)
{
  g_return_val_if_fail (KW_IS_DEVICE (self), NULL);

  return self->keys;
}

/**
 * kw_device_add_key:
 * @self: a device
 * @key: a key that was just made on it and admitted
 *
 * Adds a key without looking at all of them again. Main context.
 */
void
kw_device_add_key (KwDevice *self, KwKey *key)
{
  g_autoptr (GPtrArray) keys = NULL;

  g_return_if_fail (KW_IS_DEVICE (self));

  /* A look that is under way may or may not have seen it. */
  self->again = self->busy;
  for (guint i = 0; i < self->keys->len; i++)
    {
      const KwKey *known = g_ptr_array_index (self->keys, i);

      if (kw_key_get_kind (known) == kw_key_get_kind (key)
          && g_bytes_equal (kw_key_get_id (known), kw_key_get_id (key)))
        return;
    }
  keys = g_ptr_array_copy (self->keys, (GCopyFunc) (void (*) (void)) kw_key_ref, NULL);
  g_ptr_array_set_free_func (keys, (GDestroyNotify) kw_key_unref);
  g_ptr_array_add (keys, kw_key_ref (key));
  g_ptr_array_unref (self->keys);
  self->keys = g_steal_pointer (&keys);
  g_atomic_int_set (&self->n_keys, (gint) self->keys->len);
  g_signal_emit (self, signals[SIGNAL_CHANGED], 0);
}

/**
 * kw_device_get_executor:
 * @self: a device
 *
 * Returns: (transfer none): what runs its work. Any thread.
 */
KwExecutor *
kw_device_get_executor (KwDevice *self)
{
  g_return_val_if_fail (KW_IS_DEVICE (self), NULL);

  return self->executor;
}

/**
 * kw_device_get_timeout_usec:
 * @self: a device
 *
 * Returns: how long one operation may take, in microseconds. Any thread.
 */
gint64
kw_device_get_timeout_usec (KwDevice *self)
{
  g_return_val_if_fail (KW_IS_DEVICE (self), 0);

  return self->timeout_usec;
}

/**
 * kw_device_rsa_decrypt:
 * @self: a device
 * @key_id: CKA_ID
 * @padding: how the plaintext is padded
 * @ciphertext: one block
 * @error: where to store the error
 *
 * kw_token_rsa_decrypt(), with a lost login renewed once. Executor's threads.
 *
 * Returns: (transfer full): the plaintext, or %NULL
 */
KwSecret *
kw_device_rsa_decrypt (KwDevice *self,
                       GBytes *key_id,
                       KwRsaPadding padding,
                       GBytes *ciphertext,
                       GError **error)
{
  g_autoptr (GError) local_error = NULL;
  guint generation = (guint) g_atomic_int_get (&self->login_generation);
  KwSecret *plaintext
      = kw_token_rsa_decrypt (self->token, key_id, padding, ciphertext, &local_error);

  if (plaintext != NULL)
    return plaintext;
  if (!g_error_matches (local_error, KW_ERROR, KW_ERROR_NOT_LOGGED_IN))
    {
      g_propagate_error (error, g_steal_pointer (&local_error));
      return NULL;
    }
  if (!renew_login (self, generation, error))
    return NULL;
  return kw_token_rsa_decrypt (self->token, key_id, padding, ciphertext, error);
}

/* A key whose fingerprint cannot be recorded is not left on the token: nobody would ever use it. */
static gboolean
admit_new_key (KwDevice *self, KwKey *key, GError **error)
{
  g_autoptr (GPtrArray) keys = g_ptr_array_new ();
  g_autoptr (GPtrArray) admitted = NULL;
  g_autoptr (GPtrArray) different = NULL;

  g_ptr_array_add (keys, key);
  admitted = kw_keyring_admit (self->keyring, keys, &different, error);
  if (admitted != NULL && admitted->len == 1)
    return TRUE;
  if (admitted != NULL)
    g_set_error_literal (error, KW_ERROR, KW_ERROR_KEY_MISMATCH,
                         "Another key is recorded under the id of the new one");
  kw_token_delete_key (self->token, kw_key_get_kind (key), kw_key_get_id (key), NULL);
  return FALSE;
}

/**
 * kw_device_generate_rsa:
 * @self: a device
 * @bits: 2048, 3072 or 4096
 * @key_id: CKA_ID
 * @label: CKA_LABEL
 * @error: where to store the error
 *
 * kw_token_generate_rsa(), with a lost login renewed once; records the fingerprint of the new key. Executor's threads.
 *
 * Returns: (transfer full): the key, or %NULL
 */
KwKey *
kw_device_generate_rsa (KwDevice *self,
                        guint bits,
                        GBytes *key_id,
                        const char *label,
                        GError **error)
{
  g_autoptr (GError) local_error = NULL;
  guint generation = (guint) g_atomic_int_get (&self->login_generation);
  g_autoptr (KwKey) key = NULL;

  if ((guint) g_atomic_int_get (&self->n_keys) >= KW_MAX_KEYS_PER_TOKEN)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_FULL,
                   "Device %s holds %d keys; more would not be found again after a restart",
                   kw_device_get_name (self), KW_MAX_KEYS_PER_TOKEN);
      return NULL;
    }
  key = kw_token_generate_rsa (self->token, bits, key_id, label, &local_error);
  /* Nothing was made while nobody was logged in, so this may be said again. */
  if (key == NULL && g_error_matches (local_error, KW_ERROR, KW_ERROR_NOT_LOGGED_IN))
    {
      g_clear_error (&local_error);
      if (!renew_login (self, generation, error))
        return NULL;
      key = kw_token_generate_rsa (self->token, bits, key_id, label, &local_error);
    }
  if (key == NULL)
    {
      g_propagate_error (error, g_steal_pointer (&local_error));
      return NULL;
    }
  if (!admit_new_key (self, key, error))
    return NULL;
  return g_steal_pointer (&key);
}

/**
 * kw_device_count_job:
 * @self: a device
 * @trouble: it ended with trouble of the device
 *
 * Counts a job. Any thread.
 */
void
kw_device_count_job (KwDevice *self, gboolean trouble)
{
  g_return_if_fail (KW_IS_DEVICE (self));

  g_atomic_int_inc (&self->n_jobs);
  if (trouble)
    g_atomic_int_inc (&self->n_errors);
}

/**
 * kw_device_get_figures:
 * @self: a device
 * @out_figures: (out): its figures
 *
 * Tells what the device did since it was plugged in. Any thread.
 */
void
kw_device_get_figures (KwDevice *self, KwDeviceFigures *out_figures)
{
  g_return_if_fail (KW_IS_DEVICE (self));

  out_figures->n_jobs = (guint) g_atomic_int_get (&self->n_jobs);
  out_figures->n_errors = (guint) g_atomic_int_get (&self->n_errors);
  out_figures->n_logins = (guint) g_atomic_int_get (&self->login_generation);
  out_figures->mean_usec = kw_executor_get_mean_usec (self->executor);
}
