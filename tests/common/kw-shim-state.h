/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* Environment of the shim: the file through which it is controlled, and the module it wraps. */
#define KW_SHIM_ENV_CONTROL "KW_SHIM_CONTROL"
#define KW_SHIM_ENV_MODULE "KW_SHIM_MODULE"

#define KW_SHIM_MAGIC 0x4b57534d
#define KW_SHIM_ALWAYS (-1)

/* The functions that can be made to misbehave. */
#define KW_SHIM_FUNCTIONS(F)                                                                       \
  F (C_Initialize)                                                                                 \
  F (C_Finalize)                                                                                   \
  F (C_GetFunctionList)                                                                            \
  F (C_GetInfo)                                                                                    \
  F (C_GetSlotList)                                                                                \
  F (C_GetSlotInfo)                                                                                \
  F (C_GetTokenInfo)                                                                               \
  F (C_GetMechanismInfo)                                                                           \
  F (C_OpenSession)                                                                                \
  F (C_CloseSession)                                                                               \
  F (C_CloseAllSessions)                                                                           \
  F (C_GetSessionInfo)                                                                             \
  F (C_Login)                                                                                      \
  F (C_Logout)                                                                                     \
  F (C_DestroyObject)                                                                              \
  F (C_GetAttributeValue)                                                                          \
  F (C_FindObjectsInit)                                                                            \
  F (C_FindObjects)                                                                                \
  F (C_FindObjectsFinal)                                                                           \
  F (C_EncryptInit)                                                                                \
  F (C_Encrypt)                                                                                    \
  F (C_DecryptInit)                                                                                \
  F (C_Decrypt)                                                                                    \
  F (C_SignInit)                                                                                   \
  F (C_Sign)                                                                                       \
  F (C_GenerateKey)                                                                                \
  F (C_GenerateKeyPair)                                                                            \
  F (C_GenerateRandom)

/**
 * KwShimFunction:
 *
 * KW_SHIM_C_… for each of the functions above.
 */
#define KW_SHIM_ENUMERATE(name) KW_SHIM_##name,
typedef enum
{
  KW_SHIM_FUNCTIONS (KW_SHIM_ENUMERATE) KW_SHIM_N_FUNCTIONS
} KwShimFunction;
#undef KW_SHIM_ENUMERATE

/**
 * KwShimFault:
 * @KW_SHIM_FAULT_NONE: behave
 * @KW_SHIM_FAULT_FAIL: return the value without doing anything
 * @KW_SHIM_FAULT_FAIL_AFTER: do it, then return the value
 * @KW_SHIM_FAULT_HANG: do not begin until the fault is cleared
 * @KW_SHIM_FAULT_SHORT: do it, then tell of half the length or count
 * @KW_SHIM_FAULT_NOTHING: do it, then tell of length or count zero, of an empty slot, of an invalid
 *   session, of no function list
 * @KW_SHIM_FAULT_HUGE: do it, then tell of more than the buffer holds
 * @KW_SHIM_FAULT_UNAVAILABLE: do it, then tell CK_UNAVAILABLE_INFORMATION as the length
 * @KW_SHIM_FAULT_GROW: each time ask for a buffer one byte larger than the one given
 * @KW_SHIM_FAULT_ENDLESS: C_FindObjects only: tell of the last object found again and again
 *
 * What a function does instead of what it should.
 */
typedef enum
{
  KW_SHIM_FAULT_NONE,
  KW_SHIM_FAULT_FAIL,
  KW_SHIM_FAULT_FAIL_AFTER,
  KW_SHIM_FAULT_HANG,
  KW_SHIM_FAULT_SHORT,
  KW_SHIM_FAULT_NOTHING,
  KW_SHIM_FAULT_HUGE,
  KW_SHIM_FAULT_UNAVAILABLE,
  KW_SHIM_FAULT_GROW,
  KW_SHIM_FAULT_ENDLESS,
} KwShimFault;

/* One function; all fields are accessed atomically by the shim and by tests. */
typedef struct
{
  gint calls;
  gint fault;
  gint skip;  /* let so many calls pass first */
  gint times; /* then misbehave so often, or KW_SHIM_ALWAYS */
  guint rv;
} KwShimRow;

/* The control file, as all processes map it. */
typedef struct
{
  guint magic;
  gint open_sessions;     /* in all processes */
  gint hanging;           /* calls that hang now */
  gint cant_lock;         /* C_Initialize with locking answers CKR_CANT_LOCK */
  guint set_flags;        /* token flags that are set … */
  guint clear_flags;      /* … and cleared in what C_GetTokenInfo tells */
  gint max_session_count; /* what C_GetTokenInfo tells; 0 = the truth */
  KwShimRow rows[KW_SHIM_N_FUNCTIONS];
} KwShimState;

G_END_DECLS
