/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-ckr"

#include "config.h"

#include "kw-ckr.h"

/*
 * The one table that turns what a PKCS#11 function returned into a KwError. The numbers are those of PKCS#11 v2.40,
 * section 6.1 ("Function return values"); they stand here as numbers because core knows no PKCS#11 header.
 * Sorted by number.
 */
typedef struct
{
  gulong rv;
  const char *name;
  KwError code;
} KwCkrRow;

static const KwCkrRow ckr_rows[] = {
  { 0x002, "CKR_HOST_MEMORY", KW_ERROR_FAILED },
  { 0x003, "CKR_SLOT_ID_INVALID", KW_ERROR_TOKEN_GONE },
  { 0x005, "CKR_GENERAL_ERROR", KW_ERROR_DEVICE_FAILED },
  { 0x006, "CKR_FUNCTION_FAILED", KW_ERROR_DEVICE_FAILED },
  { 0x007, "CKR_ARGUMENTS_BAD", KW_ERROR_FAILED },
  { 0x009, "CKR_NEED_TO_CREATE_THREADS", KW_ERROR_MODULE_FAILED },
  { 0x00A, "CKR_CANT_LOCK", KW_ERROR_MODULE_FAILED },
  { 0x010, "CKR_ATTRIBUTE_READ_ONLY", KW_ERROR_NOT_SUPPORTED },
  { 0x011, "CKR_ATTRIBUTE_SENSITIVE", KW_ERROR_NOT_SUPPORTED },
  { 0x012, "CKR_ATTRIBUTE_TYPE_INVALID", KW_ERROR_NOT_SUPPORTED },
  { 0x013, "CKR_ATTRIBUTE_VALUE_INVALID", KW_ERROR_NOT_SUPPORTED },
  { 0x01B, "CKR_ACTION_PROHIBITED", KW_ERROR_NOT_SUPPORTED },
  { 0x020, "CKR_DATA_INVALID", KW_ERROR_INVALID_ARGUMENT },
  { 0x021, "CKR_DATA_LEN_RANGE", KW_ERROR_INVALID_ARGUMENT },
  { 0x030, "CKR_DEVICE_ERROR", KW_ERROR_DEVICE_FAILED },
  { 0x031, "CKR_DEVICE_MEMORY", KW_ERROR_TOKEN_FULL },
  { 0x032, "CKR_DEVICE_REMOVED", KW_ERROR_TOKEN_GONE },
  { 0x040, "CKR_ENCRYPTED_DATA_INVALID", KW_ERROR_DECRYPT_FAILED },
  { 0x041, "CKR_ENCRYPTED_DATA_LEN_RANGE", KW_ERROR_DECRYPT_FAILED },
  { 0x050, "CKR_FUNCTION_CANCELED", KW_ERROR_DEVICE_FAILED },
  { 0x051, "CKR_FUNCTION_NOT_PARALLEL", KW_ERROR_NOT_SUPPORTED },
  { 0x054, "CKR_FUNCTION_NOT_SUPPORTED", KW_ERROR_NOT_SUPPORTED },
  { 0x060, "CKR_KEY_HANDLE_INVALID", KW_ERROR_SESSION_LOST },
  { 0x062, "CKR_KEY_SIZE_RANGE", KW_ERROR_NOT_SUPPORTED },
  { 0x063, "CKR_KEY_TYPE_INCONSISTENT", KW_ERROR_INVALID_ARGUMENT },
  { 0x068, "CKR_KEY_FUNCTION_NOT_PERMITTED", KW_ERROR_NOT_SUPPORTED },
  { 0x069, "CKR_KEY_NOT_WRAPPABLE", KW_ERROR_NOT_SUPPORTED },
  { 0x06A, "CKR_KEY_UNEXTRACTABLE", KW_ERROR_NOT_SUPPORTED },
  { 0x070, "CKR_MECHANISM_INVALID", KW_ERROR_NOT_SUPPORTED },
  { 0x071, "CKR_MECHANISM_PARAM_INVALID", KW_ERROR_NOT_SUPPORTED },
  { 0x082, "CKR_OBJECT_HANDLE_INVALID", KW_ERROR_SESSION_LOST },
  { 0x090, "CKR_OPERATION_ACTIVE", KW_ERROR_SESSION_LOST },
  { 0x091, "CKR_OPERATION_NOT_INITIALIZED", KW_ERROR_SESSION_LOST },
  { 0x0A0, "CKR_PIN_INCORRECT", KW_ERROR_PIN_REFUSED },
  { 0x0A1, "CKR_PIN_INVALID", KW_ERROR_PIN_INVALID },
  { 0x0A2, "CKR_PIN_LEN_RANGE", KW_ERROR_PIN_INVALID },
  { 0x0A3, "CKR_PIN_EXPIRED", KW_ERROR_PIN_LOCKED },
  { 0x0A4, "CKR_PIN_LOCKED", KW_ERROR_PIN_LOCKED },
  { 0x0B0, "CKR_SESSION_CLOSED", KW_ERROR_SESSION_LOST },
  { 0x0B1, "CKR_SESSION_COUNT", KW_ERROR_BUSY },
  { 0x0B3, "CKR_SESSION_HANDLE_INVALID", KW_ERROR_SESSION_LOST },
  { 0x0B4, "CKR_SESSION_PARALLEL_NOT_SUPPORTED", KW_ERROR_NOT_SUPPORTED },
  { 0x0B5, "CKR_SESSION_READ_ONLY", KW_ERROR_DEVICE_FAILED },
  { 0x0B6, "CKR_SESSION_EXISTS", KW_ERROR_DEVICE_FAILED },
  { 0x0B7, "CKR_SESSION_READ_ONLY_EXISTS", KW_ERROR_DEVICE_FAILED },
  { 0x0B8, "CKR_SESSION_READ_WRITE_SO_EXISTS", KW_ERROR_DEVICE_FAILED },
  { 0x0C0, "CKR_SIGNATURE_INVALID", KW_ERROR_INVALID_ARGUMENT },
  { 0x0C1, "CKR_SIGNATURE_LEN_RANGE", KW_ERROR_INVALID_ARGUMENT },
  { 0x0D0, "CKR_TEMPLATE_INCOMPLETE", KW_ERROR_NOT_SUPPORTED },
  { 0x0D1, "CKR_TEMPLATE_INCONSISTENT", KW_ERROR_NOT_SUPPORTED },
  { 0x0E0, "CKR_TOKEN_NOT_PRESENT", KW_ERROR_TOKEN_GONE },
  { 0x0E1, "CKR_TOKEN_NOT_RECOGNIZED", KW_ERROR_TOKEN_UNINITIALIZED },
  { 0x0E2, "CKR_TOKEN_WRITE_PROTECTED", KW_ERROR_NOT_SUPPORTED },
  { 0x100, "CKR_USER_ALREADY_LOGGED_IN", KW_ERROR_DEVICE_FAILED },
  { 0x101, "CKR_USER_NOT_LOGGED_IN", KW_ERROR_NOT_LOGGED_IN },
  { 0x102, "CKR_USER_PIN_NOT_INITIALIZED", KW_ERROR_TOKEN_UNINITIALIZED },
  { 0x103, "CKR_USER_TYPE_INVALID", KW_ERROR_NOT_SUPPORTED },
  { 0x104, "CKR_USER_ANOTHER_ALREADY_LOGGED_IN", KW_ERROR_DEVICE_FAILED },
  { 0x105, "CKR_USER_TOO_MANY_TYPES", KW_ERROR_DEVICE_FAILED },
  { 0x110, "CKR_WRAPPED_KEY_INVALID", KW_ERROR_INVALID_ARGUMENT },
  { 0x112, "CKR_WRAPPED_KEY_LEN_RANGE", KW_ERROR_INVALID_ARGUMENT },
  { 0x120, "CKR_RANDOM_SEED_NOT_SUPPORTED", KW_ERROR_NOT_SUPPORTED },
  { 0x121, "CKR_RANDOM_NO_RNG", KW_ERROR_NOT_SUPPORTED },
  { 0x130, "CKR_DOMAIN_PARAMS_INVALID", KW_ERROR_NOT_SUPPORTED },
  { 0x150, "CKR_BUFFER_TOO_SMALL", KW_ERROR_DEVICE_FAILED },
  { 0x160, "CKR_SAVED_STATE_INVALID", KW_ERROR_DEVICE_FAILED },
  { 0x170, "CKR_INFORMATION_SENSITIVE", KW_ERROR_NOT_SUPPORTED },
  { 0x180, "CKR_STATE_UNSAVEABLE", KW_ERROR_NOT_SUPPORTED },
  { 0x190, "CKR_CRYPTOKI_NOT_INITIALIZED", KW_ERROR_TOKEN_GONE },
  { 0x191, "CKR_CRYPTOKI_ALREADY_INITIALIZED", KW_ERROR_MODULE_FAILED },
  { 0x1A0, "CKR_MUTEX_BAD", KW_ERROR_MODULE_FAILED },
  { 0x1A1, "CKR_MUTEX_NOT_LOCKED", KW_ERROR_MODULE_FAILED },
  { 0x200, "CKR_FUNCTION_REJECTED", KW_ERROR_DEVICE_FAILED },
};

#define CKR_VENDOR_DEFINED_BIT 0x80000000UL

static const KwCkrRow *
ckr_find (gulong rv)
{
  for (guint i = 0; i < G_N_ELEMENTS (ckr_rows); i++)
    {
      if (ckr_rows[i].rv == rv)
        return &ckr_rows[i];
    }
  return NULL;
}

/**
 * kw_ckr_to_string:
 * @rv: a CK_RV
 *
 * Gives the name of a PKCS#11 return value. Any thread.
 *
 * Returns: (transfer none) (nullable): the name, %NULL when it is in no table (a vendor's own)
 */
const char *
kw_ckr_to_string (gulong rv)
{
  const KwCkrRow *row = NULL;

  if (rv == 0)
    return "CKR_OK";
  row = ckr_find (rv);
  return row != NULL ? row->name : NULL;
}

/**
 * kw_ckr_to_error:
 * @rv: a CK_RV other than CKR_OK
 *
 * Tells what a PKCS#11 return value means to Keyward. Any thread.
 *
 * Returns: the code; %KW_ERROR_DEVICE_FAILED for a value that is in no table
 */
KwError
kw_ckr_to_error (gulong rv)
{
  const KwCkrRow *row = ckr_find (rv);

  return row != NULL ? row->code : KW_ERROR_DEVICE_FAILED;
}

/**
 * kw_ckr_set_error:
 * @error: (out) (optional): where to store the error
 * @rv: a CK_RV other than CKR_OK
 * @function: name of the PKCS#11 function that returned it
 *
 * Stores the error for a PKCS#11 return value; the CKR name, or the number where there is none, is kept in the
 * message. Any thread.
 */
void
kw_ckr_set_error (GError **error, gulong rv, const char *function)
{
  const char *name = kw_ckr_to_string (rv);

  if (name != NULL)
    g_set_error (error, KW_ERROR, (gint) kw_ckr_to_error (rv), "%s: %s", function, name);
  else
    g_set_error (error, KW_ERROR, (gint) kw_ckr_to_error (rv), "%s: %s 0x%08lX", function,
                 (rv & CKR_VENDOR_DEFINED_BIT) != 0 ? "vendor's return value"
                                                    : "unknown return value",
                 rv);
}
