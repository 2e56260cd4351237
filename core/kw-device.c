/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-device"

#include "config.h"

#include "kw-device.h"

#include "kw-error.h"
#include "kw-fingerprint.h"
#include "kw-limits.h"
#include "kw-log.h"

#include <glib/gi18n.h>

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
  KwSecret *pin;         /* owned, nullable; guarded by pin_lock */
  KwSecret *first_pin;   /* owned, nullable: the one it was made with */
  GMutex pin_lock;       /* held for a moment only */
  char *pin_name;        /* owned, nullable */
  KwExecutor *executor;  /* owned */
  GMainContext *context; /* owned: the one it was made in */
  gint64 timeout_usec;
  guint64 number;

  KwDeviceState state;   /* main context */
  char *state_text;      /* main context; owned */
  gint64 state_since;    /* main context; wall-clock time in microseconds */
  GPtrArray *keys;       /* main context; owned; replaced, never changed */
  GPtrArray *different;  /* main context; owned; likewise: keys that are not the recorded ones */
  gboolean checked;      /* main context; the keys were looked at */
  gboolean checking;     /* main context; they are being proven again */
  gboolean busy;         /* main context; an open or refresh is under way */
  gboolean again;        /* main context; and another one was asked for meanwhile */
  gboolean again_login;  /* main context; and that has to log in */
  gboolean looking;      /* main context; busy or checking, and nobody was told of the end yet */
  gboolean look_again;   /* main context; a check was asked for meanwhile */
  gboolean look_failed;  /* main context; what is under way cannot be finished */
  guint64 n_looks_begun; /* main context */
  guint n_state_changes; /* main context */
  char *inventory;       /* main context; owned, nullable: what was listed last, in short */

  GMutex login_lock;
  guint login_generation; /* guarded by login_lock for writing; read atomically */
  gint n_pin_tries;       /* atomic; last seen, −1 while the token did not tell */
  gint n_tries_seen;      /* guarded by login_lock; −1 when the token does not tell */

  gint n_keys;        /* atomic: length of keys */
  KwFigures *figures; /* owned */
  gboolean retired;   /* its token was given up */
};

G_DEFINE_FINAL_TYPE (KwDevice, kw_device, G_TYPE_OBJECT)

enum
{
  SIGNAL_CHANGED,
  SIGNAL_TROUBLE,
  SIGNAL_LOOKED,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

#define OPEN_TIMEOUT_FACTOR 6

static const char *const state_nicks[] = {
  [KW_DEVICE_PROBING] = N_ ("probing"),       [KW_DEVICE_LOCKED] = N_ ("locked"),
  [KW_DEVICE_CHECKING] = N_ ("checking"),     [KW_DEVICE_READY] = N_ ("ready"),
  [KW_DEVICE_DEGRADED] = N_ ("degraded"),     [KW_DEVICE_PIN_REFUSED] = N_ ("pin-refused"),
  [KW_DEVICE_MISMATCHED] = N_ ("mismatched"), [KW_DEVICE_UNSUPPORTED] = N_ ("unsupported"),
  [KW_DEVICE_STUCK] = N_ ("stuck"),           [KW_DEVICE_GONE] = N_ ("gone"),
};

G_STATIC_ASSERT (G_N_ELEMENTS (state_nicks) == KW_N_DEVICE_STATES);

#define NO_ANSWER                                                                                  \
  "It does not answer; it is tried again by itself, and if that lasts, pull it out and put it in again"

/* An open or refresh on its way through the executor. */
typedef struct
{
  KwDevice *device;      /* owned */
  gboolean login;        /* log in first */
  guint n_state_changes; /* of the device, when it began */
  GPtrArray *keys;       /* owned, nullable */
  GPtrArray *different;  /* owned, nullable */
  char *inventory;       /* owned, nullable */
  GError *error;         /* owned, nullable */
} Inspection;

static void
inspection_free (Inspection *inspection)
{
  g_object_unref (inspection->device);
  g_clear_pointer (&inspection->keys, g_ptr_array_unref);
  g_clear_pointer (&inspection->different, g_ptr_array_unref);
  g_free (inspection->inventory);
  g_clear_error (&inspection->error);
  g_free (inspection);
}

static KwSecret *
ref_pin (KwDevice *self)
{
  g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->pin_lock);

  return self->pin != NULL ? kw_secret_ref (self->pin) : NULL;
}

static gboolean
login (KwDevice *self, GError **error)
{
  g_autoptr (KwSecret) pin = ref_pin (self);
  KwPinState state = { 0 };

  if (!kw_pin_guard_login_named (self->guard, self->token, pin, self->pin_name, error))
    {
      /* How many are left is of most interest now. */
      if (kw_token_get_pin_state (self->token, &state, NULL))
        g_atomic_int_set (&self->n_pin_tries, state.tries_left);
      return FALSE;
    }
  if (!kw_token_get_pin_state (self->token, &state, error))
    return FALSE;
  self->n_tries_seen = state.tries_left;
  g_atomic_int_set (&self->n_pin_tries, state.tries_left);
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

typedef gboolean (*DeviceCall) (KwDevice *self, gpointer data, GError **error);

/* Calls into the token, and once more when the login was lost and could be renewed: nothing happened the first time. */
static gboolean
call_logged_in (KwDevice *self, DeviceCall call, gpointer data, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  guint generation = (guint) g_atomic_int_get (&self->login_generation);

  if (call (self, data, &local_error))
    return TRUE;
  if (!g_error_matches (local_error, KW_ERROR, KW_ERROR_NOT_LOGGED_IN))
    {
      g_propagate_error (error, g_steal_pointer (&local_error));
      return FALSE;
    }
  return renew_login (self, generation, error) && call (self, data, error);
}

static gboolean
call_list_keys (KwDevice *self, gpointer data, GError **error)
{
  GPtrArray **keys = data;

  *keys = kw_token_list_keys (self->token, error);
  return *keys != NULL;
}

typedef struct
{
  GBytes *id;
  char *fingerprint;
} FingerprintCall;

static gboolean
call_fingerprint (KwDevice *self, gpointer data, GError **error)
{
  FingerprintCall *call = data;

  call->fingerprint = kw_fingerprint_of_aes (self->token, call->id, error);
  return call->fingerprint != NULL;
}

/* All keys of the token but those that are just being made, of which nobody may know yet. */
static GPtrArray *
list_keys (KwDevice *self, GError **error)
{
  GPtrArray *keys = NULL;

  if (!call_logged_in (self, call_list_keys, &keys, error))
    return NULL;
  for (guint i = keys->len; i > 0; i--)
    {
      if (kw_keyring_is_held (self->keyring, kw_key_get_id (g_ptr_array_index (keys, i - 1))))
        g_ptr_array_remove_index (keys, i - 1);
    }
  return keys;
}

static gint
compare_lines (gconstpointer a, gconstpointer b)
{
  return g_strcmp0 (*(const char *const *) a, *(const char *const *) b);
}

/* What a list of keys says, without the fingerprints of AES keys: another one means that somebody made or removed keys. */
static char *
take_inventory (GPtrArray *keys)
{
  g_autoptr (GPtrArray) lines = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GChecksum) checksum = g_checksum_new (G_CHECKSUM_SHA256);

  for (guint i = 0; i < keys->len; i++)
    {
      const KwKey *key = g_ptr_array_index (keys, i);
      GBytes *id = kw_key_get_id (key);
      g_autofree char *id_text
          = g_base64_encode (g_bytes_get_data (id, NULL), g_bytes_get_size (id));
      const char *fingerprint
          = kw_key_get_public_key_der (key) != NULL ? kw_key_get_fingerprint (key) : "";

      g_ptr_array_add (lines,
                       g_strdup_printf ("%d %s %u %u %s %d %s\n", (int) kw_key_get_kind (key),
                                        id_text, kw_key_get_reference (key),
                                        (guint) kw_key_get_usage (key), fingerprint,
                                        kw_key_is_weak (key), kw_key_get_label (key)));
    }
  g_ptr_array_sort (lines, compare_lines);
  for (guint i = 0; i < lines->len; i++)
    g_checksum_update (checksum, g_ptr_array_index (lines, i), -1);
  return g_strdup (g_checksum_get_string (checksum));
}

/* Proves an AES key; one that cannot be proven stays without a fingerprint, and so is not used. */
static gboolean
add_aes_key (KwDevice *self, gboolean prove, KwKey *key, GPtrArray *keys, GError **error)
{
  FingerprintCall call = { kw_key_get_id (key), NULL };
  g_autoptr (GError) local_error = NULL;

  if (!prove || (kw_key_get_usage (key) & KW_KEY_USAGE_ENCRYPT) == 0)
    {
      g_ptr_array_add (keys, kw_key_ref (key));
      return TRUE;
    }
  if (!call_logged_in (self, call_fingerprint, &call, &local_error))
    {
      if (kw_error_is_device_trouble (local_error))
        {
          g_propagate_error (error, g_steal_pointer (&local_error));
          return FALSE;
        }
      kw_log (G_LOG_LEVEL_WARNING, "Key cannot be checked, so it is not used", "device",
              kw_device_get_name (self), "label", kw_key_get_label (key), "error",
              local_error->message, NULL);
    }
  g_ptr_array_add (keys, kw_key_new_with_fingerprint (key, call.fingerprint));
  g_free (call.fingerprint);
  return TRUE;
}

/*
 * A recorded key that is not where it is configured to be may have got another place: its fingerprint is looked for among the
 * AES keys that are not configured. As many are proven as is sensible.
 */
static gboolean
search_recorded_keys (KwDevice *self, GPtrArray *configured, GPtrArray *keys, GError **error)
{
  guint n_keys = keys->len;

  for (guint i = 0, n_proven = 0; i < n_keys && n_proven < KW_MAX_SEARCHED_KEYS; i++)
    {
      g_autoptr (KwKey) key = kw_key_ref (g_ptr_array_index (keys, i));
      g_autoptr (GPtrArray) proven = NULL;

      if (kw_key_get_kind (key) != KW_KEY_KIND_AES || g_ptr_array_find (configured, key, NULL)
          || kw_key_get_fingerprint (key) != NULL)
        continue;
      if (!kw_keyring_misses_key (self->keyring, keys))
        return TRUE;
      proven = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
      if (!add_aes_key (self, TRUE, key, proven, error))
        return FALSE;
      n_proven++;
      kw_key_unref (g_ptr_array_index (keys, i));
      keys->pdata[i] = kw_key_ref (g_ptr_array_index (proven, 0));
    }
  return TRUE;
}

static void
inspect (gpointer user_data)
{
  Inspection *inspection = user_data;
  KwDevice *self = inspection->device;
  g_autoptr (GPtrArray) all = NULL;
  g_autoptr (GPtrArray) keys = NULL;
  g_autoptr (GPtrArray) configured = NULL;

  if (inspection->login)
    {
      g_autoptr (GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new (&self->login_lock);

      if (!login (self, &inspection->error))
        return;
    }
  all = list_keys (self, &inspection->error);
  if (all == NULL)
    return;
  inspection->inventory = take_inventory (all);
  keys = kw_keyring_admit (self->keyring, all, &inspection->different, &inspection->error);
  configured = kw_keyring_dup_configured (self->keyring, all);
  for (guint i = 0; keys != NULL && i < all->len; i++)
    {
      KwKey *key = g_ptr_array_index (all, i);

      if (kw_key_get_kind (key) == KW_KEY_KIND_AES
          && !add_aes_key (self, g_ptr_array_find (configured, key, NULL), key, keys,
                           &inspection->error))
        return;
    }
  if (keys != NULL && !search_recorded_keys (self, configured, keys, &inspection->error))
    return;
  inspection->keys = g_steal_pointer (&keys);
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

/* Tells that what was begun to look at the keys is over, and begins what was asked for meanwhile. */
static void
end_look (KwDevice *self)
{
  guint64 number = self->n_looks_begun;
  gboolean whole = !self->look_failed;

  if (!self->looking || self->busy || self->checking)
    return;
  self->looking = FALSE;
  self->look_failed = FALSE;
  if (self->look_again)
    {
      self->look_again = FALSE;
      /* The one that was asked for is over before it began, when the device is not in use any more. */
      if (kw_device_check_keys (self) == 0)
        number = ++self->n_looks_begun;
    }
  g_signal_emit (self, signals[SIGNAL_LOOKED], 0, number, whole);
}

static gboolean
is_in_use (const KwDevice *self)
{
  return self->state == KW_DEVICE_READY || self->state == KW_DEVICE_MISMATCHED;
}

/* Something else was found out about the device while it was looked at; what the look says is of a time before that. */
static gboolean
was_overtaken (const KwDevice *self, const Inspection *inspection)
{
  return self->state == KW_DEVICE_GONE || self->state == KW_DEVICE_STUCK
         || (inspection->n_state_changes != self->n_state_changes && !is_in_use (self));
}

static void
inspect_again (KwDevice *self)
{
  gboolean with_login = self->again_login;

  if (!self->again)
    return;
  self->again = FALSE;
  self->again_login = FALSE;
  start_inspection (self, with_login);
}

static void
take_keys (KwDevice *self, Inspection *inspection)
{
  log_different_keys (self, inspection->different);
  g_ptr_array_unref (self->keys);
  self->keys = g_ptr_array_ref (inspection->keys);
  g_ptr_array_unref (self->different);
  self->different = g_ptr_array_ref (inspection->different);
  g_free (self->inventory);
  self->inventory = g_steal_pointer (&inspection->inventory);
  self->checked = TRUE;
  g_atomic_int_set (&self->n_keys, (gint) self->keys->len);
}

static gboolean
take_inspection (gpointer user_data)
{
  Inspection *inspection = user_data;
  KwDevice *self = inspection->device;
  const char *text = NULL;

  self->busy = FALSE;
  if (was_overtaken (self, inspection) || inspection->error != NULL)
    {
      self->look_failed = TRUE;
      if (!was_overtaken (self, inspection))
        take_failed_inspection (self, inspection->error);
      inspect_again (self);
      end_look (self);
      return G_SOURCE_REMOVE;
    }
  take_keys (self, inspection);
  text = inspection->different->len > 0
             ? N_ ("Ready, but some keys are not the recorded ones and are not used")
             : "Ready";
  /* Whether a device with the wrong keys is of use again is not for it to say. */
  if (!is_in_use (self))
    kw_device_set_state (self, KW_DEVICE_READY, text);
  /* What was asked for meanwhile may have come too late for this look. */
  inspect_again (self);
  g_signal_emit (self, signals[SIGNAL_CHANGED], 0);
  end_look (self);
  return G_SOURCE_REMOVE;
}

static gboolean
take_overdue_inspection (gpointer user_data)
{
  KwDevice *self = KW_DEVICE (user_data);

  self->busy = FALSE;
  self->look_failed = TRUE;
  g_signal_emit (self, signals[SIGNAL_TROUBLE], 0, KW_DEVICE_STUCK, NO_ANSWER);
  end_look (self);
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
      result->n_state_changes = inspection->n_state_changes;
      result->inventory = g_steal_pointer (&inspection->inventory);
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

/* What is under way cannot go on: the device is too busy, or was closed. */
static gboolean
drop_look (gpointer user_data)
{
  KwDevice *self = KW_DEVICE (user_data);

  self->look_failed = TRUE;
  end_look (self);
  return G_SOURCE_REMOVE;
}

/* What is found out from here on is part of one look, until nothing is under way any more. */
static void
begin_look (KwDevice *self)
{
  if (self->looking)
    return;
  self->looking = TRUE;
  self->look_failed = FALSE;
  self->n_looks_begun++;
}

static void
start_inspection (KwDevice *self, gboolean with_login)
{
  Inspection *inspection = NULL;
  KwWork *work = NULL;

  if (self->state == KW_DEVICE_GONE)
    return;
  if (self->busy)
    {
      self->again = TRUE;
      self->again_login |= with_login;
      return;
    }
  begin_look (self);
  self->busy = TRUE;
  inspection = g_new0 (Inspection, 1);
  inspection->device = g_object_ref (self);
  inspection->login = with_login;
  inspection->n_state_changes = self->n_state_changes;
  work = kw_work_new (inspect, on_inspection_done, self->timeout_usec * OPEN_TIMEOUT_FACTOR,
                      inspection, (GDestroyNotify) inspection_free);
  kw_work_set_long (work);
  /* Refused only when the device was closed: then nobody waits for the result. */
  if (kw_executor_submit (self->executor, work, FALSE, NULL))
    return;
  self->busy = FALSE;
  invoke_in_main (self, drop_look, g_object_ref (self), g_object_unref);
}

/* The keys of a device, listed, and those that were proven proven again, one by one between other work. */
typedef struct
{
  KwDevice *device; /* owned */
  GPtrArray *keys;  /* owned; of KwKey */
  char *inventory;  /* owned: what the list has to say */
  guint next;       /* 0: the list; from 1 on the keys */
  gboolean same;    /* written by the worker, read by `done` only if that came in time */
  GError *error;    /* owned; likewise */
} KeyCheck;

static void
key_check_free (KeyCheck *check)
{
  g_object_unref (check->device);
  g_ptr_array_unref (check->keys);
  g_free (check->inventory);
  g_clear_error (&check->error);
  g_free (check);
}

static void
run_key_check (gpointer user_data)
{
  KeyCheck *check = user_data;
  FingerprintCall call = { NULL, NULL };
  KwKey *key = NULL;

  if (check->next == 0)
    {
      g_autoptr (GPtrArray) keys = list_keys (check->device, &check->error);
      g_autofree char *inventory = keys != NULL ? take_inventory (keys) : NULL;

      check->same = inventory != NULL && g_str_equal (inventory, check->inventory);
      return;
    }
  key = g_ptr_array_index (check->keys, check->next - 1);
  call.id = kw_key_get_id (key);
  if (call_logged_in (check->device, call_fingerprint, &call, &check->error))
    check->same = g_str_equal (call.fingerprint, kw_key_get_fingerprint (key));
  g_free (call.fingerprint);
}

static void submit_key_check (KwDevice *self, GPtrArray *keys, const char *inventory, guint next);

static gboolean
take_key_check (gpointer user_data)
{
  KeyCheck *check = user_data;
  KwDevice *self = check->device;

  self->checking = FALSE;
  if (!is_in_use (self))
    self->look_failed = TRUE;
  else if (check->same)
    submit_key_check (self, check->keys, check->inventory, check->next + 1);
  else if (check->error != NULL && kw_error_is_device_trouble (check->error))
    {
      self->look_failed = TRUE;
      take_failed_inspection (self, check->error);
    }
  else
    start_inspection (self, FALSE); /* which finds out what there is now */
  end_look (self);
  return G_SOURCE_REMOVE;
}

static gboolean
take_overdue_key_check (gpointer user_data)
{
  KwDevice *self = KW_DEVICE (user_data);

  self->checking = FALSE;
  self->look_failed = TRUE;
  if (self->state == KW_DEVICE_READY)
    g_signal_emit (self, signals[SIGNAL_TROUBLE], 0, KW_DEVICE_STUCK, NO_ANSWER);
  end_look (self);
  return G_SOURCE_REMOVE;
}

static gboolean
drop_key_check (gpointer user_data)
{
  KwDevice *self = KW_DEVICE (user_data);

  self->checking = FALSE;
  self->look_failed = TRUE;
  end_look (self);
  return G_SOURCE_REMOVE;
}

static void
on_key_check_done (gpointer user_data,
                   KwWorkOutcome outcome,
                   gboolean was_running,
                   gint64 duration_usec G_GNUC_UNUSED)
{
  KeyCheck *check = user_data;

  if (outcome == KW_WORK_RAN)
    {
      KeyCheck *result = g_new0 (KeyCheck, 1);

      result->device = g_object_ref (check->device);
      result->keys = g_ptr_array_ref (check->keys);
      result->inventory = g_strdup (check->inventory);
      result->next = check->next;
      result->same = check->same;
      result->error = g_steal_pointer (&check->error);
      invoke_in_main (check->device, take_key_check, result, (GDestroyNotify) key_check_free);
    }
  else
    invoke_in_main (check->device,
                    outcome == KW_WORK_OVERDUE && was_running ? take_overdue_key_check
                                                              : drop_key_check,
                    g_object_ref (check->device), g_object_unref);
}

static void
submit_key_check (KwDevice *self, GPtrArray *keys, const char *inventory, guint next)
{
  KeyCheck *check = NULL;
  KwWork *work = NULL;

  if (next > keys->len)
    return;
  self->checking = TRUE;
  check = g_new0 (KeyCheck, 1);
  check->device = g_object_ref (self);
  check->keys = g_ptr_array_ref (keys);
  check->inventory = g_strdup (inventory);
  check->next = next;
  work = kw_work_new (run_key_check, on_key_check_done, self->timeout_usec, check,
                      (GDestroyNotify) key_check_free);
  /* A device that is too busy is looked at next time. */
  if (kw_executor_submit (self->executor, work, FALSE, NULL))
    return;
  self->checking = FALSE;
  self->look_failed = TRUE;
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
  g_clear_pointer (&self->first_pin, kw_secret_unref);
  g_free (self->pin_name);
  g_free (self->state_text);
  g_free (self->inventory);
  g_ptr_array_unref (self->keys);
  g_ptr_array_unref (self->different);
  kw_figures_unref (self->figures);
  g_main_context_unref (self->context);
  g_mutex_clear (&self->pin_lock);
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
  /**
   * KwDevice::looked:
   * @self: the device
   * @number: which look it was, as kw_device_check_keys() told
   * @whole: all was looked at; otherwise the device was too busy, or is in trouble
   *
   * A look at its keys has ended. Main context.
   */
  signals[SIGNAL_LOOKED] = g_signal_new ("looked", KW_TYPE_DEVICE, G_SIGNAL_RUN_LAST, 0, NULL, NULL,
                                         NULL, G_TYPE_NONE, 2, G_TYPE_UINT64, G_TYPE_BOOLEAN);
}

static void
kw_device_init (KwDevice *self)
{
  g_mutex_init (&self->pin_lock);
  g_mutex_init (&self->login_lock);
  self->n_pin_tries = -1;
  self->keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  self->different = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  self->state_since = g_get_real_time ();
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
  self->first_pin = options->pin != NULL ? kw_secret_ref (options->pin) : NULL;
  self->pin_name = g_strdup (options->pin_name);
  self->timeout_usec = options->timeout_usec;
  self->number = options->number;
  self->figures = options->figures != NULL ? kw_figures_ref (options->figures) : kw_figures_new ();
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
 * kw_device_set_pin:
 * @self: the device
 * @pin: (nullable): a PIN; %NULL for the one it was made with
 *
 * Chooses the PIN that is presented from the next login on. Main context.
 */
void
kw_device_set_pin (KwDevice *self, KwSecret *pin)
{
  g_autoptr (KwSecret) old = NULL;

  g_return_if_fail (KW_IS_DEVICE (self));

  if (pin == NULL)
    pin = self->first_pin;
  g_mutex_lock (&self->pin_lock);
  old = self->pin;
  self->pin = pin != NULL ? kw_secret_ref (pin) : NULL;
  g_mutex_unlock (&self->pin_lock);
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
 * kw_device_check_keys:
 * @self: a device
 *
 * Lists the keys of a ready device anew, and proves that those of `hsm_keyid` are the same as before, one by one, so that
 * other work gets between. What is different is found out and told by the signals. While the device is being looked at, that
 * begins afterwards. One whose keys were the wrong ones is looked at as a whole. Main context.
 *
 * Returns: number of the look, which `looked` tells when it has ended; 0 when the device is not in use
 */
guint64
kw_device_check_keys (KwDevice *self)
{
  g_autoptr (GPtrArray) keys = NULL;

  g_return_val_if_fail (KW_IS_DEVICE (self), 0);

  if (!is_in_use (self))
    return 0;
  if (self->looking)
    {
      self->look_again = TRUE;
      return self->n_looks_begun + 1;
    }
  if (self->state == KW_DEVICE_MISMATCHED || self->inventory == NULL)
    {
      start_inspection (self, FALSE);
      return self->n_looks_begun;
    }
  begin_look (self);
  keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  for (guint i = 0; i < self->keys->len; i++)
    {
      KwKey *key = g_ptr_array_index (self->keys, i);

      if (kw_key_get_kind (key) == KW_KEY_KIND_AES && kw_key_get_fingerprint (key) != NULL)
        g_ptr_array_add (keys, kw_key_ref (key));
    }
  submit_key_check (self, keys, self->inventory, 0);
  /* It is told from the main loop, as everybody expects. */
  if (!self->checking)
    invoke_in_main (self, drop_look, g_object_ref (self), g_object_unref);
  return self->n_looks_begun;
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
  if (self->state != state)
    {
      self->state_since = g_get_real_time ();
      self->n_state_changes++;
    }
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
  kw_device_retire (self);
}

/**
 * kw_device_retire:
 * @self: a device
 *
 * Gives the token up like kw_device_close(), but goes on to show the state it was in last: its token is in trouble and may
 * come back as another device. May be called again. Main context.
 */
void
kw_device_retire (KwDevice *self)
{
  g_return_if_fail (KW_IS_DEVICE (self));

  if (self->retired)
    return;
  self->retired = TRUE;
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
 * kw_device_get_state_since:
 * @self: a device
 *
 * Returns: when it came to its state, as wall-clock time in microseconds. Main context.
 */
gint64
kw_device_get_state_since (KwDevice *self)
{
  g_return_val_if_fail (KW_IS_DEVICE (self), 0);

  return self->state_since;
}

/**
 * kw_device_get_pin_tries_left:
 * @self: a device
 *
 * Returns: tries left for the user PIN when it was last looked at, −1 when the token does not tell. Any thread.
 */
gint
kw_device_get_pin_tries_left (KwDevice *self)
{
  g_return_val_if_fail (KW_IS_DEVICE (self), -1);

  return g_atomic_int_get (&self->n_pin_tries);
}

/**
 * kw_device_is_checked:
 * @self: a device
 *
 * Returns: %TRUE when its keys were looked at since it was plugged in. Main context.
 */
gboolean
kw_device_is_checked (KwDevice *self)
{
  g_return_val_if_fail (KW_IS_DEVICE (self), FALSE);

  return self->checked;
}

/**
 * kw_device_get_different_keys:
 * @self: a device
 *
 * Returns: (transfer none) (element-type KwKey): RSA keys on it that are not the recorded ones; never changed, only
 *   replaced. Main context.
 */
GPtrArray *
kw_device_get_different_keys (KwDevice *self)
{
  g_return_val_if_fail (KW_IS_DEVICE (self), NULL);

  return self->different;
}

/**
 * kw_device_get_keys:
 * @self: a device
 *
 * Returns: (transfer none) (element-type KwKey): the RSA keys that may be used on it, and its AES keys, of which the keyring
 *   says which may; never changed, only replaced. Main context.
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
  self->again |= self->busy;
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

typedef struct
{
  GBytes *key_id;
  KwRsaPadding padding;
  GBytes *ciphertext;
  KwSecret *plaintext;
} RsaCall;

static gboolean
call_rsa_decrypt (KwDevice *self, gpointer data, GError **error)
{
  RsaCall *call = data;

  call->plaintext
      = kw_token_rsa_decrypt (self->token, call->key_id, call->padding, call->ciphertext, error);
  return call->plaintext != NULL;
}

/**
 * kw_device_compute_fingerprint:
 * @self: a device
 * @key_id: CKA_ID of an AES key
 * @error: where to store the error
 *
 * Computes the fingerprint of a key anew, with a lost login renewed once. Executor's threads.
 *
 * Returns: (transfer full): the fingerprint, or %NULL
 */
char *
kw_device_compute_fingerprint (KwDevice *self, GBytes *key_id, GError **error)
{
  FingerprintCall call = { key_id, NULL };

  return call_logged_in (self, call_fingerprint, &call, error) ? call.fingerprint : NULL;
}

/**
 * kw_device_report_stuck:
 * @self: a device
 *
 * To be told when work other than that of the pool did not come back from it. Main context.
 */
void
kw_device_report_stuck (KwDevice *self)
{
  g_return_if_fail (KW_IS_DEVICE (self));

  if (self->state == KW_DEVICE_READY)
    g_signal_emit (self, signals[SIGNAL_TROUBLE], 0, KW_DEVICE_STUCK, NO_ANSWER);
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
  RsaCall call = { key_id, padding, ciphertext, NULL };

  return call_logged_in (self, call_rsa_decrypt, &call, error) ? call.plaintext : NULL;
}

typedef struct
{
  GBytes *key_id;
  gboolean encrypt;
  const guint8 *iv;
  gconstpointer data;
  gsize size;
  KwSecret *output;
} AesCall;

static gboolean
call_aes_cbc (KwDevice *self, gpointer data, GError **error)
{
  AesCall *call = data;

  call->output = kw_token_aes_cbc (self->token, call->key_id, call->encrypt, call->iv, call->data,
                                   call->size, error);
  if (call->output != NULL && kw_secret_get_size (call->output) != call->size)
    {
      g_clear_pointer (&call->output, kw_secret_unref);
      g_set_error_literal (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                           "The token answered with the wrong number of blocks");
    }
  return call->output != NULL;
}

/**
 * kw_device_aes_cbc:
 * @self: a device
 * @key_id: CKA_ID
 * @encrypt: %TRUE to encrypt
 * @iv: 16 bytes
 * @data: whole blocks
 * @size: their size in bytes
 * @error: where to store the error
 *
 * kw_token_aes_cbc(), with a lost login renewed once. Executor's threads.
 *
 * Returns: (transfer full): as many bytes as went in, or %NULL
 */
KwSecret *
kw_device_aes_cbc (KwDevice *self,
                   GBytes *key_id,
                   gboolean encrypt,
                   const guint8 *iv,
                   gconstpointer data,
                   gsize size,
                   GError **error)
{
  AesCall call = { key_id, encrypt, iv, data, size, NULL };

  return call_logged_in (self, call_aes_cbc, &call, error) ? call.output : NULL;
}

static gboolean
call_random (KwDevice *self, gpointer data, GError **error)
{
  KwSecret *bytes = data;

  return kw_token_random (self->token, kw_secret_get_data (bytes), kw_secret_get_size (bytes),
                          error);
}

/**
 * kw_device_random:
 * @self: a device
 * @size: how many bytes
 * @error: where to store the error
 *
 * kw_token_random(), with a lost login renewed once. Executor's threads.
 *
 * Returns: (transfer full): the bytes, or %NULL
 */
KwSecret *
kw_device_random (KwDevice *self, gsize size, GError **error)
{
  g_autoptr (KwSecret) bytes = kw_secret_new (size, error);

  if (bytes == NULL || !call_logged_in (self, call_random, bytes, error))
    return NULL;
  return g_steal_pointer (&bytes);
}

typedef struct
{
  KwKeyKind kind;
  GBytes *id;
} DeleteCall;

static gboolean
call_delete (KwDevice *self, gpointer data, GError **error)
{
  DeleteCall *call = data;

  return kw_token_delete_key (self->token, call->kind, call->id, error);
}

/**
 * kw_device_delete_key:
 * @self: a device
 * @kind: kind of a key
 * @key_id: its CKA_ID
 * @error: where to store the error
 *
 * kw_token_delete_key(), with a lost login renewed once. Executor's threads.
 *
 * Returns: %TRUE on success
 */
gboolean
kw_device_delete_key (KwDevice *self, KwKeyKind kind, GBytes *key_id, GError **error)
{
  DeleteCall call = { kind, key_id };

  return call_logged_in (self, call_delete, &call, error);
}

typedef struct
{
  GBytes *id;
  GBytes *digest;
  GBytes *signature;
} SignCall;

static gboolean
call_sign (KwDevice *self, gpointer data, GError **error)
{
  SignCall *call = data;

  call->signature = kw_token_sign (self->token, call->id, call->digest, error);
  return call->signature != NULL;
}

/**
 * kw_device_sign:
 * @self: a device
 * @key_id: CKA_ID of an RSA or EC key
 * @sha256_digest: 32 bytes
 * @error: where to store the error
 *
 * kw_token_sign(), with a lost login renewed once. Executor's threads.
 *
 * Returns: (transfer full): the signature, or %NULL
 */
GBytes *
kw_device_sign (KwDevice *self, GBytes *key_id, GBytes *sha256_digest, GError **error)
{
  SignCall call = { key_id, sha256_digest, NULL };

  return call_logged_in (self, call_sign, &call, error) ? call.signature : NULL;
}

typedef struct
{
  GArray *references;
  guint last;
} ReferencesCall;

static gboolean
call_list_references (KwDevice *self, gpointer data, GError **error)
{
  ReferencesCall *call = data;

  call->references = kw_token_list_references (self->token, &call->last, error);
  return call->references != NULL;
}

/**
 * kw_device_survey_keys:
 * @self: a device
 * @out_references: (out) (transfer full) (nullable) (element-type guint): numbers that are taken, %NULL where keys have none
 * @out_last: (out): the last number there is
 * @error: where to store the error
 *
 * Lists what is on the device just now, before another key is made. A lost login is renewed once. Executor's threads.
 *
 * Returns: (transfer full) (element-type KwKey): its keys, AES keys without fingerprints; or %NULL
 */
GPtrArray *
kw_device_survey_keys (KwDevice *self, GArray **out_references, guint *out_last, GError **error)
{
  ReferencesCall call = { NULL, 0 };
  g_autoptr (GError) local_error = NULL;
  GPtrArray *keys = NULL;

  if (!call_logged_in (self, call_list_references, &call, &local_error)
      && !g_error_matches (local_error, KW_ERROR, KW_ERROR_NOT_SUPPORTED))
    {
      g_propagate_error (error, g_steal_pointer (&local_error));
      return NULL;
    }
  if (!call_logged_in (self, call_list_keys, &keys, error))
    {
      g_clear_pointer (&call.references, g_array_unref);
      return NULL;
    }
  *out_references = call.references;
  *out_last = call.last;
  return keys;
}

/**
 * kw_device_record_key:
 * @self: a device
 * @key: an RSA key that was just made on it, and nowhere else
 * @error: where to store the error
 *
 * Records the fingerprint of a new key. One that cannot be recorded is not left on the token, as nobody would ever use it.
 * Executor's threads; blocks on the disk.
 *
 * Returns: %TRUE on success
 */
gboolean
kw_device_record_key (KwDevice *self, KwKey *key, GError **error)
{
  if (kw_keyring_record_new (self->keyring, key, error))
    return TRUE;
  kw_device_delete_key (self, kw_key_get_kind (key), kw_key_get_id (key), NULL);
  return FALSE;
}

typedef struct
{
  KwKeyKind kind;
  guint bits;
  GBytes *key_id;
  const char *label;
  guint reference;
  KwKey *key;
} GenerateCall;

static gboolean
call_generate (KwDevice *self, gpointer data, GError **error)
{
  GenerateCall *call = data;

  call->key
      = call->kind == KW_KEY_KIND_RSA
            ? kw_token_generate_rsa (self->token, call->bits, call->key_id, call->label, error)
            : kw_token_generate_aes_at (self->token, call->bits, call->key_id, call->label,
                                        call->reference, error);
  return call->key != NULL;
}

static KwKey *
generate (KwDevice *self, GenerateCall *call, GError **error)
{
  if ((guint) g_atomic_int_get (&self->n_keys) >= KW_MAX_KEYS_PER_TOKEN)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_FULL,
                   "Device %s holds %d keys; more would not be found again after a restart",
                   kw_device_get_name (self), KW_MAX_KEYS_PER_TOKEN);
      return NULL;
    }
  return call_logged_in (self, call_generate, call, error) ? call->key : NULL;
}

/**
 * kw_device_generate_rsa:
 * @self: a device
 * @bits: 2048, 3072 or 4096
 * @key_id: CKA_ID
 * @label: CKA_LABEL
 * @error: where to store the error
 *
 * kw_token_generate_rsa(), with a lost login renewed once. Nothing is recorded yet. Executor's threads.
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
  GenerateCall call = { KW_KEY_KIND_RSA, bits, key_id, label, 0, NULL };

  return generate (self, &call, error);
}

/**
 * kw_device_generate_aes:
 * @self: a device
 * @bits: 128, 192 or 256
 * @key_id: CKA_ID
 * @label: CKA_LABEL
 * @reference: the number it shall have where keys have numbers; 0 for whichever is free
 * @error: where to store the error
 *
 * kw_token_generate_aes_at(), with a lost login renewed once; finds out the fingerprint of the new key. A key that cannot even
 * do that is removed again. Executor's threads.
 *
 * Returns: (transfer full): the key, with its fingerprint, or %NULL
 */
KwKey *
kw_device_generate_aes (KwDevice *self,
                        guint bits,
                        GBytes *key_id,
                        const char *label,
                        guint reference,
                        GError **error)
{
  GenerateCall call = { KW_KEY_KIND_AES, bits, key_id, label, reference, NULL };
  g_autoptr (KwKey) key = generate (self, &call, error);
  FingerprintCall check = { key_id, NULL };
  KwKey *proven = NULL;

  if (key == NULL)
    return NULL;
  if (!call_logged_in (self, call_fingerprint, &check, error))
    {
      kw_device_delete_key (self, KW_KEY_KIND_AES, key_id, NULL);
      return NULL;
    }
  proven = kw_key_new_with_fingerprint (key, check.fingerprint);
  g_free (check.fingerprint);
  return proven;
}

typedef struct
{
  KwKey *key;
  GBytes *wrapped;
  guint reference;
} CloneCall;

static gboolean
call_export (KwDevice *self, gpointer data, GError **error)
{
  CloneCall *call = data;

  call->wrapped = kw_token_export_key (self->token, kw_key_get_kind (call->key),
                                       kw_key_get_id (call->key), error);
  return call->wrapped != NULL;
}

static gboolean
call_import (KwDevice *self, gpointer data, GError **error)
{
  CloneCall *call = data;

  call->key = kw_token_import_key_at (self->token, call->wrapped, call->reference, error);
  return call->key != NULL;
}

/**
 * kw_device_export_key:
 * @self: a device
 * @key: a key on it
 * @error: where to store the error
 *
 * kw_token_export_key(), with a lost login renewed once. Executor's threads.
 *
 * Returns: (transfer full): the wrapped key, or %NULL
 */
GBytes *
kw_device_export_key (KwDevice *self, KwKey *key, GError **error)
{
  CloneCall call = { key, NULL, 0 };

  return call_logged_in (self, call_export, &call, error) ? call.wrapped : NULL;
}

/* A copy is the same key under the same id, proven by using it where it has no public half. */
static KwKey *
prove_copy (KwDevice *self, KwKey *copy, KwKey *original, GError **error)
{
  FingerprintCall call = { kw_key_get_id (copy), NULL };
  g_autoptr (KwKey) proven = NULL;

  if (kw_key_get_kind (copy) == KW_KEY_KIND_AES)
    {
      if (!call_logged_in (self, call_fingerprint, &call, error))
        return NULL;
      proven = kw_key_new_with_fingerprint (copy, call.fingerprint);
      g_free (call.fingerprint);
    }
  else
    proven = kw_key_ref (copy);
  if (kw_key_get_kind (proven) == kw_key_get_kind (original)
      && g_bytes_equal (kw_key_get_id (proven), kw_key_get_id (original))
      && kw_key_get_fingerprint (proven) != NULL
      && g_strcmp0 (kw_key_get_fingerprint (proven), kw_key_get_fingerprint (original)) == 0)
    return g_steal_pointer (&proven);
  g_set_error (error, KW_ERROR, KW_ERROR_KEY_MISMATCH,
               "What device %s took for a copy is another key", kw_device_get_name (self));
  return NULL;
}

/**
 * kw_device_import_key:
 * @self: a device
 * @wrapped_key: a key that another device wrapped
 * @original: the key as it is there, with its fingerprint
 * @error: where to store the error
 *
 * kw_token_import_key_at(), with a lost login renewed once; an AES key gets the number it has there. A copy that is not proven to be the same key is removed again.
 * Executor's threads.
 *
 * Returns: (transfer full): the copy, with its fingerprint, or %NULL
 */
KwKey *
kw_device_import_key (KwDevice *self, GBytes *wrapped_key, KwKey *original, GError **error)
{
  /* The place of an AES key is told by its number, so it has the same one everywhere. */
  CloneCall call
      = { NULL, wrapped_key,
          kw_key_get_kind (original) == KW_KEY_KIND_AES ? kw_key_get_reference (original) : 0 };
  g_autoptr (KwKey) copy = NULL;
  KwKey *proven = NULL;

  if (!call_logged_in (self, call_import, &call, error))
    return NULL;
  copy = call.key;
  proven = prove_copy (self, copy, original, error);
  if (proven == NULL)
    kw_device_delete_key (self, kw_key_get_kind (copy), kw_key_get_id (copy), NULL);
  return proven;
}

/**
 * kw_device_count_job:
 * @self: a device
 * @duration_usec: how long it worked, in microseconds; less than 0 when that is not known
 * @trouble: it ended with trouble of the device
 *
 * Counts a job. Any thread.
 */
void
kw_device_count_job (KwDevice *self, gint64 duration_usec, gboolean trouble)
{
  g_return_if_fail (KW_IS_DEVICE (self));

  kw_figures_count_job (self->figures, duration_usec, trouble);
}

/**
 * kw_device_count_failover:
 * @self: a device
 *
 * Counts a job that was given to another device after this one failed. Any thread.
 */
void
kw_device_count_failover (KwDevice *self)
{
  g_return_if_fail (KW_IS_DEVICE (self));

  kw_figures_count_failover (self->figures);
}

/**
 * kw_device_get_figures:
 * @self: a device
 * @out_figures: (out): its figures
 *
 * Tells what the device did, over all times it was plugged in. Any thread.
 */
void
kw_device_get_figures (KwDevice *self, KwDeviceFigures *out_figures)
{
  KwFiguresReading reading = { 0 };

  g_return_if_fail (KW_IS_DEVICE (self));

  kw_figures_read (self->figures, &reading);
  *out_figures = (KwDeviceFigures){
    .n_jobs = reading.n_jobs,
    .n_errors = reading.n_errors,
    .n_failovers = reading.n_failovers,
    .n_logins = (guint) g_atomic_int_get (&self->login_generation),
    .n_outstanding = kw_executor_get_outstanding (self->executor),
    .mean_usec = kw_executor_get_mean_usec (self->executor),
    .p50_usec = reading.p50_usec,
    .p99_usec = reading.p99_usec,
  };
}
