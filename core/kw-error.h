/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

#define KW_ERROR (kw_error_quark ())

/**
 * KwError:
 * @KW_ERROR_FAILED: something that fits no other code
 * @KW_ERROR_INVALID_ARGUMENT: input that breaks a rule; the message names it
 * @KW_ERROR_CONFIG: the configuration is wrong; the message has file, line and key
 * @KW_ERROR_PERMISSION: a file is readable by too many, or not by us
 * @KW_ERROR_NOT_AUTHORIZED: this caller may not do this
 * @KW_ERROR_RATE_LIMITED: this caller had too many failed decrypts lately
 * @KW_ERROR_KEY_NOT_FOUND: no token holds the key
 * @KW_ERROR_KEY_EXISTS: a key with this id is already there
 * @KW_ERROR_KEY_MISMATCH: the key is not the one that was recorded under this id
 * @KW_ERROR_DECRYPT_FAILED: the ciphertext cannot be decrypted; never says why
 * @KW_ERROR_UNAVAILABLE: no device is ready; try again later
 * @KW_ERROR_BUSY: the queue is full; try again later
 * @KW_ERROR_TIMEOUT: the deadline passed
 * @KW_ERROR_CANCELLED: the caller or the daemon gave up
 * @KW_ERROR_NOT_SUPPORTED: the token or back end cannot do this
 * @KW_ERROR_AMBIGUOUS: several tokens or keys fit; the message lists them
 * @KW_ERROR_TOKEN_NOT_FOUND: no token fits; the message lists what is there
 * @KW_ERROR_TOKEN_GONE: the token was removed or its module was reset
 * @KW_ERROR_TOKEN_FULL: no room for another object
 * @KW_ERROR_TOKEN_UNINITIALIZED: the token was never initialised
 * @KW_ERROR_SESSION_LOST: the session is dead; another one may work
 * @KW_ERROR_NOT_LOGGED_IN: the login was lost
 * @KW_ERROR_DEVICE_FAILED: the device or its module answered with an error of its own
 * @KW_ERROR_MODULE_FAILED: the PKCS#11 module cannot be loaded or initialised
 * @KW_ERROR_PIN_REQUIRED: the token wants a PIN and none is configured
 * @KW_ERROR_PIN_INVALID: the PIN has a length or form the token never accepts
 * @KW_ERROR_PIN_REFUSED: the token refused the PIN: one try was spent
 * @KW_ERROR_PIN_LATCHED: the PIN is not presented, because this token refused it before
 * @KW_ERROR_PIN_PROTECTED: the PIN is not presented, because too few tries are left
 * @KW_ERROR_PIN_LOCKED: the token's PIN is locked
 *
 * The one error domain of Keyward. Codes are API: they are only ever added, at the end.
 */
typedef enum
{
  KW_ERROR_FAILED,
  KW_ERROR_INVALID_ARGUMENT,
  KW_ERROR_CONFIG,
  KW_ERROR_PERMISSION,
  KW_ERROR_NOT_AUTHORIZED,
  KW_ERROR_RATE_LIMITED,
  KW_ERROR_KEY_NOT_FOUND,
  KW_ERROR_KEY_EXISTS,
  KW_ERROR_KEY_MISMATCH,
  KW_ERROR_DECRYPT_FAILED,
  KW_ERROR_UNAVAILABLE,
  KW_ERROR_BUSY,
  KW_ERROR_TIMEOUT,
  KW_ERROR_CANCELLED,
  KW_ERROR_NOT_SUPPORTED,
  KW_ERROR_AMBIGUOUS,
  KW_ERROR_TOKEN_NOT_FOUND,
  KW_ERROR_TOKEN_GONE,
  KW_ERROR_TOKEN_FULL,
  KW_ERROR_TOKEN_UNINITIALIZED,
  KW_ERROR_SESSION_LOST,
  KW_ERROR_NOT_LOGGED_IN,
  KW_ERROR_DEVICE_FAILED,
  KW_ERROR_MODULE_FAILED,
  KW_ERROR_PIN_REQUIRED,
  KW_ERROR_PIN_INVALID,
  KW_ERROR_PIN_REFUSED,
  KW_ERROR_PIN_LATCHED,
  KW_ERROR_PIN_PROTECTED,
  KW_ERROR_PIN_LOCKED,
} KwError;

#define KW_N_ERRORS (KW_ERROR_PIN_LOCKED + 1)

GQuark kw_error_quark (void);

const char *kw_error_to_string (KwError code);

gboolean kw_error_from_string (const char *nick, KwError *out_code);

gboolean kw_error_is_device_trouble (const GError *error);

G_END_DECLS
