/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-error"

#include "config.h"

#include "kw-error.h"

static const char *const error_nicks[] = {
  [KW_ERROR_FAILED] = "failed",
  [KW_ERROR_INVALID_ARGUMENT] = "invalid-argument",
  [KW_ERROR_CONFIG] = "config",
  [KW_ERROR_PERMISSION] = "permission",
  [KW_ERROR_NOT_AUTHORIZED] = "not-authorized",
  [KW_ERROR_RATE_LIMITED] = "rate-limited",
  [KW_ERROR_KEY_NOT_FOUND] = "key-not-found",
  [KW_ERROR_KEY_EXISTS] = "key-exists",
  [KW_ERROR_KEY_MISMATCH] = "key-mismatch",
  [KW_ERROR_DECRYPT_FAILED] = "decrypt-failed",
  [KW_ERROR_UNAVAILABLE] = "unavailable",
  [KW_ERROR_BUSY] = "busy",
  [KW_ERROR_TIMEOUT] = "timeout",
  [KW_ERROR_CANCELLED] = "cancelled",
  [KW_ERROR_NOT_SUPPORTED] = "not-supported",
  [KW_ERROR_AMBIGUOUS] = "ambiguous",
  [KW_ERROR_TOKEN_NOT_FOUND] = "token-not-found",
  [KW_ERROR_TOKEN_GONE] = "token-gone",
  [KW_ERROR_TOKEN_FULL] = "token-full",
  [KW_ERROR_TOKEN_UNINITIALIZED] = "token-uninitialized",
  [KW_ERROR_SESSION_LOST] = "session-lost",
  [KW_ERROR_NOT_LOGGED_IN] = "not-logged-in",
  [KW_ERROR_DEVICE_FAILED] = "device-failed",
  [KW_ERROR_MODULE_FAILED] = "module-failed",
  [KW_ERROR_PIN_REQUIRED] = "pin-required",
  [KW_ERROR_PIN_INVALID] = "pin-invalid",
  [KW_ERROR_PIN_REFUSED] = "pin-refused",
  [KW_ERROR_PIN_LATCHED] = "pin-latched",
  [KW_ERROR_PIN_PROTECTED] = "pin-protected",
  [KW_ERROR_PIN_LOCKED] = "pin-locked",
};

G_STATIC_ASSERT (G_N_ELEMENTS (error_nicks) == KW_N_ERRORS);

/**
 * kw_error_quark:
 *
 * Returns: the quark of the domain %KW_ERROR. Any thread.
 */
GQuark
kw_error_quark (void)
{
  return g_quark_from_static_string ("kw-error-quark");
}

/**
 * kw_error_to_string:
 * @code: a code of %KW_ERROR
 *
 * Gives the nick of an error code, as audit lines and machine-readable output show it. Any thread.
 *
 * Returns: (transfer none): the nick; "failed" for a number that is no code
 */
const char *
kw_error_to_string (KwError code)
{
  if ((guint) code >= G_N_ELEMENTS (error_nicks))
    return error_nicks[KW_ERROR_FAILED];
  return error_nicks[code];
}

/**
 * kw_error_from_string:
 * @nick: the nick of an error code
 * @out_code: (out): the code
 *
 * The reverse of kw_error_to_string(). Any thread.
 *
 * Returns: %FALSE when @nick is unknown
 */
gboolean
kw_error_from_string (const char *nick, KwError *out_code)
{
  g_return_val_if_fail (nick != NULL, FALSE);

  for (guint i = 0; i < G_N_ELEMENTS (error_nicks); i++)
    {
      if (g_str_equal (nick, error_nicks[i]))
        {
          *out_code = (KwError) i;
          return TRUE;
        }
    }
  return FALSE;
}

/**
 * kw_error_is_device_trouble:
 * @error: (nullable): what a token answered
 *
 * Tells an error that lies with the device, so that the same job may succeed on another one (or on this one
 * after a reset), from one that lies with the request. Any thread.
 *
 * Returns: %TRUE when the job should be tried elsewhere
 */
gboolean
kw_error_is_device_trouble (const GError *error)
{
  if (error == NULL || error->domain != KW_ERROR)
    return FALSE;
  switch ((KwError) error->code)
    {
    case KW_ERROR_TOKEN_GONE:
    case KW_ERROR_TOKEN_UNINITIALIZED:
    case KW_ERROR_SESSION_LOST:
    case KW_ERROR_NOT_LOGGED_IN:
    case KW_ERROR_DEVICE_FAILED:
    case KW_ERROR_MODULE_FAILED:
      return TRUE;
    default:
      return FALSE;
    }
}
