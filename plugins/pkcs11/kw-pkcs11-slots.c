/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-slots"

#include "config.h"

#include "kw-pkcs11-slots.h"

#include "kw-backend.h"
#include "kw-ckr.h"
#include "kw-error.h"
#include "kw-limits.h"
#include "kw-log.h"

/*
 * Reads all slots of a module, and puts them in the words that `listslots` shows. The names are
 * those of ownCloud's daemon: scripts read them.
 */

typedef struct
{
  CK_FLAGS flag;
  const char *name;
} FlagName;

#define FLAG(flag)                                                                                 \
  {                                                                                                \
    flag, #flag                                                                                    \
  }

static const FlagName slot_flags[] = {
  FLAG (CKF_TOKEN_PRESENT),
  FLAG (CKF_REMOVABLE_DEVICE),
  FLAG (CKF_HW_SLOT),
};

static const FlagName token_flags[] = {
  FLAG (CKF_RNG),
  FLAG (CKF_WRITE_PROTECTED),
  FLAG (CKF_LOGIN_REQUIRED),
  FLAG (CKF_USER_PIN_INITIALIZED),
  FLAG (CKF_RESTORE_KEY_NOT_NEEDED),
  FLAG (CKF_CLOCK_ON_TOKEN),
  FLAG (CKF_PROTECTED_AUTHENTICATION_PATH),
  FLAG (CKF_DUAL_CRYPTO_OPERATIONS),
  FLAG (CKF_TOKEN_INITIALIZED),
  FLAG (CKF_SECONDARY_AUTHENTICATION),
  FLAG (CKF_USER_PIN_COUNT_LOW),
  FLAG (CKF_USER_PIN_FINAL_TRY),
  FLAG (CKF_USER_PIN_LOCKED),
  FLAG (CKF_USER_PIN_TO_BE_CHANGED),
  FLAG (CKF_SO_PIN_COUNT_LOW),
  FLAG (CKF_SO_PIN_FINAL_TRY),
  FLAG (CKF_SO_PIN_LOCKED),
  FLAG (CKF_SO_PIN_TO_BE_CHANGED),
};

#undef FLAG

static gboolean
read_slot (CK_FUNCTION_LIST *functions, CK_SLOT_ID id, KwPkcs11Slot *slot, GError **error)
{
  CK_RV rv = CKR_OK;

  slot->id = id;
  rv = functions->C_GetSlotInfo (id, &slot->slot_info);
  if (rv != CKR_OK)
    {
      kw_ckr_set_error (error, rv, "C_GetSlotInfo");
      return FALSE;
    }
  if ((slot->slot_info.flags & CKF_TOKEN_PRESENT) == 0)
    return TRUE;
  /* A token that cannot be read (pulled just now, or deleted) is as good as absent. */
  rv = functions->C_GetTokenInfo (id, &slot->token_info);
  slot->has_token = rv == CKR_OK;
  return TRUE;
}

static GArray *
read_slots (CK_FUNCTION_LIST *functions, GError **error)
{
  g_autoptr (GArray) slots = g_array_new (FALSE, TRUE, sizeof (KwPkcs11Slot));
  g_autoptr (GString) ids_text = g_string_new ("[");
  g_autofree CK_SLOT_ID *ids = g_new0 (CK_SLOT_ID, KW_MAX_SLOTS);
  CK_ULONG n_ids = 0;
  CK_RV rv = CKR_OK;

  /* Several modules look for slots anew only when asked for their number. */
  rv = functions->C_GetSlotList (CK_FALSE, NULL, &n_ids);
  if (rv == CKR_OK)
    {
      n_ids = KW_MAX_SLOTS;
      rv = functions->C_GetSlotList (CK_FALSE, ids, &n_ids);
    }
  if (rv != CKR_OK)
    {
      kw_ckr_set_error (error, rv, "C_GetSlotList");
      return NULL;
    }
  if (n_ids > KW_MAX_SLOTS)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                   "C_GetSlotList: the module tells of %lu slots where %d fit", n_ids,
                   KW_MAX_SLOTS);
      return NULL;
    }
  for (CK_ULONG i = 0; i < n_ids; i++)
    {
      KwPkcs11Slot slot = { 0 };

      g_string_append_printf (ids_text, "%s%lu", i > 0 ? "," : "", ids[i]);
      if (!read_slot (functions, ids[i], &slot, error))
        return NULL;
      g_array_append_val (slots, slot);
    }
  g_string_append_c (ids_text, ']');
  kw_log (G_LOG_LEVEL_DEBUG, "Slots found", "slotIds", ids_text->str, NULL);
  return g_steal_pointer (&slots);
}

static void
take_field (GPtrArray *fields, const char *name, char *value)
{
  g_ptr_array_add (fields, g_strdup (name));
  g_ptr_array_add (fields, value);
}

static void
add_text (GPtrArray *fields, const char *name, const guint8 *text, gsize size)
{
  take_field (fields, name, kw_pkcs11_dup_text (text, size));
}

static void
add_version (GPtrArray *fields, const char *name, const CK_VERSION *version)
{
  take_field (fields, name, g_strdup_printf ("%u.%u", version->major, version->minor));
}

static void
add_boolean (GPtrArray *fields, const char *name, gboolean value)
{
  take_field (fields, name, g_strdup (value ? "yes" : "no"));
}

static void
add_number (GPtrArray *fields, const char *name, CK_ULONG value)
{
  take_field (fields, name,
              value == CK_UNAVAILABLE_INFORMATION ? g_strdup ("unavailable")
                                                  : g_strdup_printf ("%lu", value));
}

static void
add_maximum (GPtrArray *fields, const char *name, CK_ULONG value)
{
  if (value == CK_EFFECTIVELY_INFINITE)
    take_field (fields, name, g_strdup ("unlimited"));
  else
    add_number (fields, name, value);
}

static void
add_flags (GPtrArray *fields, CK_FLAGS flags, const FlagName *names, gsize n_names)
{
  g_autoptr (GString) text = g_string_new (NULL);

  for (gsize i = 0; i < n_names; i++)
    {
      if ((flags & names[i].flag) != 0)
        g_string_append_printf (text, "%s%s", text->len > 0 ? " " : "", names[i].name);
      flags &= ~names[i].flag;
    }
  if (flags != 0)
    g_string_append_printf (text, "%s0x%lX", text->len > 0 ? " " : "", flags);
  take_field (fields, "Flags", g_string_free (g_steal_pointer (&text), FALSE));
}

static GPtrArray *
describe_slot_info (const CK_SLOT_INFO *info)
{
  GPtrArray *fields = g_ptr_array_new_with_free_func (g_free);

  add_text (fields, "Description", info->slotDescription, sizeof info->slotDescription);
  add_text (fields, "Manufacturer ID", info->manufacturerID, sizeof info->manufacturerID);
  add_version (fields, "Hardware version", &info->hardwareVersion);
  add_version (fields, "Firmware version", &info->firmwareVersion);
  add_boolean (fields, "Token present", (info->flags & CKF_TOKEN_PRESENT) != 0);
  add_flags (fields, info->flags, slot_flags, G_N_ELEMENTS (slot_flags));
  return fields;
}

static GPtrArray *
describe_token_info (const CK_TOKEN_INFO *info)
{
  GPtrArray *fields = g_ptr_array_new_with_free_func (g_free);

  add_text (fields, "Manufacturer ID", info->manufacturerID, sizeof info->manufacturerID);
  add_text (fields, "Model", info->model, sizeof info->model);
  add_version (fields, "Hardware version", &info->hardwareVersion);
  add_version (fields, "Firmware version", &info->firmwareVersion);
  add_text (fields, "Serial number", info->serialNumber, sizeof info->serialNumber);
  add_boolean (fields, "Initialized", (info->flags & CKF_TOKEN_INITIALIZED) != 0);
  add_boolean (fields, "User PIN init.", (info->flags & CKF_USER_PIN_INITIALIZED) != 0);
  add_text (fields, "Label", info->label, sizeof info->label);
  add_maximum (fields, "MaxSessionCount", info->ulMaxSessionCount);
  add_number (fields, "SessionCount", info->ulSessionCount);
  add_maximum (fields, "MaxRwSessionCount", info->ulMaxRwSessionCount);
  add_number (fields, "RwSessionCount", info->ulRwSessionCount);
  add_number (fields, "MaxPinLen", info->ulMaxPinLen);
  add_number (fields, "MinPinLen", info->ulMinPinLen);
  add_number (fields, "TotalPublicMemory", info->ulTotalPublicMemory);
  add_number (fields, "FreePublicMemory", info->ulFreePublicMemory);
  add_number (fields, "TotalPrivateMemory", info->ulTotalPrivateMemory);
  add_number (fields, "FreePrivateMemory", info->ulFreePrivateMemory);
  add_text (fields, "UTCTime", info->utcTime, sizeof info->utcTime);
  add_flags (fields, info->flags, token_flags, G_N_ELEMENTS (token_flags));
  return fields;
}

/**
 * kw_pkcs11_slots_read:
 * @module: an initialised module
 * @out_info: (out): what C_GetInfo tells
 * @error: where to store the error
 *
 * Reads all slots and what is in them. Blocks; the back end's thread.
 *
 * Returns: (transfer full) (element-type KwPkcs11Slot): the slots; %NULL with an error of the module
 */
GArray *
kw_pkcs11_slots_read (KwPkcs11Module *module, CK_INFO *out_info, GError **error)
{
  CK_INFO info = { 0 };
  CK_FUNCTION_LIST *functions = NULL;
  GArray *slots = NULL;
  CK_RV rv = CKR_OK;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (module), NULL);

  functions = kw_pkcs11_module_enter (module, kw_pkcs11_module_get_generation (module), error);
  if (functions == NULL)
    return NULL;
  rv = functions->C_GetInfo (&info);
  if (rv == CKR_OK)
    slots = read_slots (functions, error);
  else
    kw_ckr_set_error (error, rv, "C_GetInfo");
  kw_pkcs11_module_leave (module);
  if (slots != NULL)
    *out_info = info;
  return slots;
}

/**
 * kw_pkcs11_slots_describe:
 * @slots: (array length=n_slots): slots
 * @n_slots: how many
 *
 * Puts slots into words. Any thread.
 *
 * Returns: (transfer full) (element-type KwSlotInfo): a description of each
 */
GPtrArray *
kw_pkcs11_slots_describe (const KwPkcs11Slot *slots, gsize n_slots)
{
  GPtrArray *descriptions = NULL;

  g_return_val_if_fail (slots != NULL || n_slots == 0, NULL);

  descriptions = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_slot_info_free);
  for (gsize i = 0; i < n_slots; i++)
    {
      KwSlotInfo *description = g_new0 (KwSlotInfo, 1);

      description->slot = slots[i].id;
      description->slot_fields = describe_slot_info (&slots[i].slot_info);
      description->token_fields = slots[i].has_token ? describe_token_info (&slots[i].token_info)
                                                     : g_ptr_array_new_with_free_func (g_free);
      g_ptr_array_add (descriptions, description);
    }
  return descriptions;
}
