/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-executor.h"
#include "kw-figures.h"
#include "kw-keyring.h"
#include "kw-pin-guard.h"
#include "kw-token.h"

G_BEGIN_DECLS

/**
 * KwDeviceState:
 * @KW_DEVICE_PROBING: just found
 * @KW_DEVICE_LOCKED: wants a PIN that is not configured
 * @KW_DEVICE_CHECKING: logged in; its keys are being looked at
 * @KW_DEVICE_READY: takes work
 * @KW_DEVICE_DEGRADED: answers with errors; it is being started anew
 * @KW_DEVICE_PIN_REFUSED: the PIN was refused, or may not be presented
 * @KW_DEVICE_MISMATCHED: holds another key under a configured id
 * @KW_DEVICE_UNSUPPORTED: nothing Keyward can use
 * @KW_DEVICE_STUCK: a call overran its deadline
 * @KW_DEVICE_GONE: unplugged
 *
 * Only a ready device takes work.
 */
typedef enum
{
  KW_DEVICE_PROBING,
  KW_DEVICE_LOCKED,
  KW_DEVICE_CHECKING,
  KW_DEVICE_READY,
  KW_DEVICE_DEGRADED,
  KW_DEVICE_PIN_REFUSED,
  KW_DEVICE_MISMATCHED,
  KW_DEVICE_UNSUPPORTED,
  KW_DEVICE_STUCK,
  KW_DEVICE_GONE,
} KwDeviceState;

#define KW_N_DEVICE_STATES (KW_DEVICE_GONE + 1)

const char *kw_device_state_to_string (KwDeviceState state);

gboolean kw_device_state_from_string (const char *nick, KwDeviceState *out_state);

#define KW_TYPE_DEVICE (kw_device_get_type ())
G_DECLARE_FINAL_TYPE (KwDevice, kw_device, KW, DEVICE, GObject)

/**
 * KwDeviceOptions:
 * @guard: stands between PIN and token
 * @keyring: knows which key belongs to which id
 * @pin: (nullable): the configured PIN
 * @pin_name: (nullable): the setting it stands in, for messages; %NULL = "[pkcs11] pin"
 * @timeout_usec: how long one operation may take, in microseconds
 * @number: a number for this device object, never given twice
 * @figures: (nullable): what was counted of this device before; %NULL to begin anew
 */
typedef struct
{
  KwPinGuard *guard;
  KwKeyring *keyring;
  KwSecret *pin;
  const char *pin_name;
  gint64 timeout_usec;
  guint64 number;
  KwFigures *figures;
} KwDeviceOptions;

KwDevice *kw_device_new (KwToken *token, const KwDeviceOptions *options);

void kw_device_open (KwDevice *self);

void kw_device_set_pin (KwDevice *self, KwSecret *pin);

void kw_device_refresh_keys (KwDevice *self);

guint64 kw_device_check_keys (KwDevice *self);

void kw_device_set_state (KwDevice *self, KwDeviceState state, const char *text);

void kw_device_close (KwDevice *self);

void kw_device_retire (KwDevice *self);

KwToken *kw_device_get_token (KwDevice *self);

const char *kw_device_get_name (KwDevice *self);

guint64 kw_device_get_number (KwDevice *self);

gboolean kw_device_is_busy (KwDevice *self);

KwDeviceState kw_device_get_state (KwDevice *self);

const char *kw_device_get_state_text (KwDevice *self);

gint64 kw_device_get_state_since (KwDevice *self);

gint kw_device_get_pin_tries_left (KwDevice *self);

gboolean kw_device_is_checked (KwDevice *self);

GPtrArray *kw_device_get_keys (KwDevice *self);

GPtrArray *kw_device_get_different_keys (KwDevice *self);

void kw_device_add_key (KwDevice *self, KwKey *key);

KwExecutor *kw_device_get_executor (KwDevice *self);

gint64 kw_device_get_timeout_usec (KwDevice *self);

KwSecret *kw_device_rsa_decrypt (KwDevice *self,
                                 GBytes *key_id,
                                 KwRsaPadding padding,
                                 GBytes *ciphertext,
                                 GError **error);

KwSecret *kw_device_aes_cbc (KwDevice *self,
                             GBytes *key_id,
                             gboolean encrypt,
                             const guint8 *iv,
                             gconstpointer data,
                             gsize size,
                             GError **error);

char *kw_device_compute_fingerprint (KwDevice *self, GBytes *key_id, GError **error);

void kw_device_report_stuck (KwDevice *self);

KwSecret *kw_device_random (KwDevice *self, gsize size, GError **error);

KwKey *kw_device_generate_aes (KwDevice *self,
                               guint bits,
                               GBytes *key_id,
                               const char *label,
                               guint reference,
                               GError **error);

gboolean kw_device_delete_key (KwDevice *self, KwKeyKind kind, GBytes *key_id, GError **error);

GBytes *kw_device_sign (KwDevice *self, GBytes *key_id, GBytes *sha256_digest, GError **error);

GPtrArray *
kw_device_survey_keys (KwDevice *self, GArray **out_references, guint *out_last, GError **error);

gboolean kw_device_record_key (KwDevice *self, KwKey *key, GError **error);

GBytes *kw_device_export_key (KwDevice *self, KwKey *key, GError **error);

KwKey *kw_device_import_key (KwDevice *self, GBytes *wrapped_key, KwKey *original, GError **error);

KwKey *kw_device_generate_rsa (KwDevice *self,
                               guint bits,
                               GBytes *key_id,
                               const char *label,
                               GError **error);

/**
 * KwDeviceFigures:
 * @n_jobs: jobs that ran to an end, good or bad
 * @n_errors: those that ended with trouble of the device
 * @n_failovers: those that were given to another device then
 * @n_logins: logins since it was plugged in, renewals included
 * @n_outstanding: jobs that wait or run
 * @mean_usec: moving mean of a job's duration, in microseconds
 * @p50_usec: half of the jobs took at most so long lately; 0 before the first
 * @p99_usec: all but one in a hundred did
 */
typedef struct
{
  guint64 n_jobs;
  guint64 n_errors;
  guint64 n_failovers;
  guint n_logins;
  guint n_outstanding;
  gint64 mean_usec;
  gint64 p50_usec;
  gint64 p99_usec;
} KwDeviceFigures;

void kw_device_count_job (KwDevice *self, gint64 duration_usec, gboolean trouble);

void kw_device_count_failover (KwDevice *self);

void kw_device_get_figures (KwDevice *self, KwDeviceFigures *out_figures);

G_END_DECLS
