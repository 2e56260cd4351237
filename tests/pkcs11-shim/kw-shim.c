/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-shim"

#include "kw-shim-state.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <p11-kit/pkcs11.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * A PKCS#11 module for tests: SoftHSM2's function list, copied, with functions in front that count
 * their calls and fail, hang, or lie about lengths when the control file says so. Without a control
 * file all calls go straight through.
 *
 * A PKCS#11 function has no context argument, so this is the one place with file-scope state.
 */

#define HANG_POLL_USEC 1000
#define LIE_TOO_MUCH 1000

static CK_FUNCTION_LIST shim_functions;
static CK_FUNCTION_LIST *real_functions;
static KwShimState *shim_state;
static char *shim_state_path;
static gint own_sessions;           /* atomic */
static CK_OBJECT_HANDLE last_found; /* of any session; for tests with one thread */

typedef struct
{
  KwShimFault fault;
  CK_RV rv;
} Plan;

static KwShimState *
map_state (const char *path)
{
  gint fd = open (path, O_RDWR | O_CLOEXEC);
  KwShimState *state = NULL;

  if (fd < 0)
    return NULL;
  state = mmap (NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close (fd);
  return state != MAP_FAILED && state->magic == KW_SHIM_MAGIC ? state : NULL;
}

/* Looks at the control file again at each start; an older one stays mapped for calls that hang. */
static void
ensure_state (void)
{
  const char *path = g_getenv (KW_SHIM_ENV_CONTROL);

  if (g_strcmp0 (path, shim_state_path) == 0)
    return;
  g_free (shim_state_path);
  shim_state_path = g_strdup (path);
  shim_state = path != NULL ? map_state (path) : NULL;
}

static gboolean
take_one (gint *counter)
{
  gint value = 0;

  do
    {
      value = g_atomic_int_get (counter);
      if (value <= 0)
        return FALSE;
    }
  while (!g_atomic_int_compare_and_exchange (counter, value, value - 1));
  return TRUE;
}

static void
hang (KwShimState *state, KwShimRow *row)
{
  g_atomic_int_inc (&state->hanging);
  while (g_atomic_int_get (&row->fault) == KW_SHIM_FAULT_HANG)
    g_usleep (HANG_POLL_USEC);
  g_atomic_int_add (&state->hanging, -1);
}

static Plan
begin (KwShimFunction function)
{
  KwShimState *state = shim_state;
  KwShimRow *row = NULL;
  Plan plan = { KW_SHIM_FAULT_NONE, CKR_OK };

  if (state == NULL)
    return plan;
  row = &state->rows[function];
  g_atomic_int_inc (&row->calls);
  plan.fault = (KwShimFault) g_atomic_int_get (&row->fault);
  if (plan.fault == KW_SHIM_FAULT_NONE)
    return plan;
  if (take_one (&row->skip)
      || (g_atomic_int_get (&row->times) != KW_SHIM_ALWAYS && !take_one (&row->times)))
    {
      plan.fault = KW_SHIM_FAULT_NONE;
      return plan;
    }
  plan.rv = (guint) g_atomic_int_get (&row->rv);
  if (plan.fault == KW_SHIM_FAULT_HANG)
    hang (state, row);
  return plan;
}

static CK_RV
end (Plan plan, CK_RV rv)
{
  return plan.fault == KW_SHIM_FAULT_FAIL_AFTER ? plan.rv : rv;
}

/* Spoils a length or count that a call told, when one with room for n_room did so. */
static CK_RV
end_with_length (Plan plan, CK_RV rv, CK_ULONG n_room, CK_ULONG *length)
{
  if (rv != CKR_OK)
    return end (plan, rv);
  switch (plan.fault)
    {
    case KW_SHIM_FAULT_SHORT:
      *length /= 2;
      break;
    case KW_SHIM_FAULT_NOTHING:
      *length = 0;
      break;
    case KW_SHIM_FAULT_HUGE:
      *length = n_room + LIE_TOO_MUCH;
      break;
    case KW_SHIM_FAULT_UNAVAILABLE:
      *length = CK_UNAVAILABLE_INFORMATION;
      break;
    case KW_SHIM_FAULT_GROW:
      *length = n_room + 1;
      return CKR_BUFFER_TOO_SMALL;
    case KW_SHIM_FAULT_NONE:
    case KW_SHIM_FAULT_FAIL:
    case KW_SHIM_FAULT_FAIL_AFTER:
    case KW_SHIM_FAULT_HANG:
    case KW_SHIM_FAULT_ENDLESS:
    default:
      break;
    }
  return end (plan, rv);
}

/* Defines shim_NAME, which fails or passes its arguments on. */
#define SHIM_SIMPLE(name, parameters, arguments)                                                   \
  static CK_RV shim_##name parameters                                                              \
  {                                                                                                \
    Plan plan = begin (KW_SHIM_##name);                                                            \
                                                                                                   \
    return plan.fault == KW_SHIM_FAULT_FAIL ? plan.rv                                              \
                                            : end (plan, real_functions->name arguments);          \
  }

/* Likewise for a function that tells a length, for which there is the room that it is given. */
#define SHIM_LENGTH(name, parameters, arguments, length)                                           \
  static CK_RV shim_##name parameters                                                              \
  {                                                                                                \
    Plan plan = begin (KW_SHIM_##name);                                                            \
    CK_ULONG n_room = *(length);                                                                   \
                                                                                                   \
    if (plan.fault == KW_SHIM_FAULT_FAIL)                                                          \
      return plan.rv;                                                                              \
    return end_with_length (plan, real_functions->name arguments, n_room, length);                 \
  }

SHIM_SIMPLE (C_GetInfo, (CK_INFO * info), (info))

SHIM_SIMPLE (C_GetMechanismInfo,
             (CK_SLOT_ID slot, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO *info),
             (slot, type, info))

SHIM_SIMPLE (C_GetSessionInfo, (CK_SESSION_HANDLE session, CK_SESSION_INFO *info), (session, info))

SHIM_SIMPLE (C_Login,
             (CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR *pin, CK_ULONG n_pin),
             (session, user, pin, n_pin))

SHIM_SIMPLE (C_Logout, (CK_SESSION_HANDLE session), (session))

SHIM_SIMPLE (C_DestroyObject,
             (CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object),
             (session, object))

SHIM_SIMPLE (C_FindObjectsInit,
             (CK_SESSION_HANDLE session, CK_ATTRIBUTE *attributes, CK_ULONG n_attributes),
             (session, attributes, n_attributes))

SHIM_SIMPLE (C_FindObjectsFinal, (CK_SESSION_HANDLE session), (session))

SHIM_SIMPLE (C_EncryptInit,
             (CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key),
             (session, mechanism, key))

SHIM_SIMPLE (C_DecryptInit,
             (CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key),
             (session, mechanism, key))

SHIM_SIMPLE (C_SignInit,
             (CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key),
             (session, mechanism, key))

SHIM_SIMPLE (C_GenerateKey,
             (CK_SESSION_HANDLE session,
              CK_MECHANISM *mechanism,
              CK_ATTRIBUTE *attributes,
              CK_ULONG n_attributes,
              CK_OBJECT_HANDLE *key),
             (session, mechanism, attributes, n_attributes, key))

SHIM_SIMPLE (C_GenerateKeyPair,
             (CK_SESSION_HANDLE session,
              CK_MECHANISM *mechanism,
              CK_ATTRIBUTE *public_attributes,
              CK_ULONG n_public_attributes,
              CK_ATTRIBUTE *private_attributes,
              CK_ULONG n_private_attributes,
              CK_OBJECT_HANDLE *public_key,
              CK_OBJECT_HANDLE *private_key),
             (session,
              mechanism,
              public_attributes,
              n_public_attributes,
              private_attributes,
              n_private_attributes,
              public_key,
              private_key))

SHIM_SIMPLE (C_GenerateRandom,
             (CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG n_data),
             (session, data, n_data))

SHIM_LENGTH (C_GetSlotList,
             (CK_BBOOL token_present, CK_SLOT_ID *slots, CK_ULONG *n_slots),
             (token_present, slots, n_slots),
             n_slots)

SHIM_LENGTH (C_Encrypt,
             (CK_SESSION_HANDLE session,
              CK_BYTE *data,
              CK_ULONG n_data,
              CK_BYTE *output,
              CK_ULONG *n_output),
             (session, data, n_data, output, n_output),
             n_output)

SHIM_LENGTH (C_Decrypt,
             (CK_SESSION_HANDLE session,
              CK_BYTE *data,
              CK_ULONG n_data,
              CK_BYTE *output,
              CK_ULONG *n_output),
             (session, data, n_data, output, n_output),
             n_output)

SHIM_LENGTH (C_Sign,
             (CK_SESSION_HANDLE session,
              CK_BYTE *data,
              CK_ULONG n_data,
              CK_BYTE *output,
              CK_ULONG *n_output),
             (session, data, n_data, output, n_output),
             n_output)

static CK_RV
shim_C_FindObjects (CK_SESSION_HANDLE session,
                    CK_OBJECT_HANDLE *objects,
                    CK_ULONG n_room,
                    CK_ULONG *n_objects)
{
  Plan plan = begin (KW_SHIM_C_FindObjects);
  CK_RV rv = CKR_OK;

  if (plan.fault == KW_SHIM_FAULT_FAIL)
    return plan.rv;
  rv = real_functions->C_FindObjects (session, objects, n_room, n_objects);
  if (rv == CKR_OK && *n_objects > 0)
    last_found = objects[*n_objects - 1];
  if (rv == CKR_OK && plan.fault == KW_SHIM_FAULT_ENDLESS)
    {
      objects[0] = last_found;
      *n_objects = 1;
    }
  return end_with_length (plan, rv, n_room, n_objects);
}

static CK_RV
shim_C_GetAttributeValue (CK_SESSION_HANDLE session,
                          CK_OBJECT_HANDLE object,
                          CK_ATTRIBUTE *attributes,
                          CK_ULONG n_attributes)
{
  Plan plan = begin (KW_SHIM_C_GetAttributeValue);
  CK_ULONG n_room = n_attributes > 0 ? attributes[0].ulValueLen : 0;
  CK_RV rv = CKR_OK;

  if (plan.fault == KW_SHIM_FAULT_FAIL)
    return plan.rv;
  rv = real_functions->C_GetAttributeValue (session, object, attributes, n_attributes);
  return n_attributes > 0 ? end_with_length (plan, rv, n_room, &attributes[0].ulValueLen) : rv;
}

static CK_RV
shim_C_GetTokenInfo (CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
  Plan plan = begin (KW_SHIM_C_GetTokenInfo);
  CK_RV rv = CKR_OK;

  if (plan.fault == KW_SHIM_FAULT_FAIL)
    return plan.rv;
  rv = real_functions->C_GetTokenInfo (slot, info);
  if (rv == CKR_OK && shim_state != NULL && (info->flags & CKF_TOKEN_INITIALIZED) != 0)
    {
      gint max_session_count = g_atomic_int_get (&shim_state->max_session_count);

      info->flags |= (CK_FLAGS) (guint) g_atomic_int_get (&shim_state->set_flags);
      info->flags &= ~(CK_FLAGS) (guint) g_atomic_int_get (&shim_state->clear_flags);
      if (max_session_count > 0)
        info->ulMaxSessionCount = (CK_ULONG) max_session_count;
    }
  return end (plan, rv);
}

static CK_RV
shim_C_GetSlotInfo (CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
  Plan plan = begin (KW_SHIM_C_GetSlotInfo);
  CK_RV rv = CKR_OK;

  if (plan.fault == KW_SHIM_FAULT_FAIL)
    return plan.rv;
  rv = real_functions->C_GetSlotInfo (slot, info);
  if (rv == CKR_OK && plan.fault == KW_SHIM_FAULT_NOTHING)
    info->flags &= ~(CK_FLAGS) CKF_TOKEN_PRESENT;
  return end (plan, rv);
}

static gboolean
has_too_many_sessions (void)
{
  gint max_session_count
      = shim_state != NULL ? g_atomic_int_get (&shim_state->max_session_count) : 0;

  return max_session_count > 0 && g_atomic_int_get (&own_sessions) >= max_session_count;
}

static void
count_sessions (gint difference)
{
  g_atomic_int_add (&own_sessions, difference);
  if (shim_state != NULL)
    g_atomic_int_add (&shim_state->open_sessions, difference);
}

static CK_RV
shim_C_OpenSession (CK_SLOT_ID slot,
                    CK_FLAGS flags,
                    void *application,
                    CK_NOTIFY notify,
                    CK_SESSION_HANDLE *session)
{
  Plan plan = begin (KW_SHIM_C_OpenSession);
  CK_RV rv = CKR_OK;

  if (plan.fault == KW_SHIM_FAULT_FAIL)
    return plan.rv;
  if (has_too_many_sessions ())
    return CKR_SESSION_COUNT;
  if (plan.fault == KW_SHIM_FAULT_NOTHING)
    {
      *session = CK_INVALID_HANDLE;
      return CKR_OK;
    }
  rv = real_functions->C_OpenSession (slot, flags, application, notify, session);
  if (rv == CKR_OK)
    count_sessions (1);
  return end (plan, rv);
}

static CK_RV
shim_C_CloseSession (CK_SESSION_HANDLE session)
{
  Plan plan = begin (KW_SHIM_C_CloseSession);
  CK_RV rv = CKR_OK;

  if (plan.fault == KW_SHIM_FAULT_FAIL)
    return plan.rv;
  rv = real_functions->C_CloseSession (session);
  if (rv == CKR_OK)
    count_sessions (-1);
  return end (plan, rv);
}

/* All sessions of a process are on one token in the tests. */
static CK_RV
shim_C_CloseAllSessions (CK_SLOT_ID slot)
{
  Plan plan = begin (KW_SHIM_C_CloseAllSessions);
  CK_RV rv = CKR_OK;

  if (plan.fault == KW_SHIM_FAULT_FAIL)
    return plan.rv;
  rv = real_functions->C_CloseAllSessions (slot);
  if (rv == CKR_OK)
    count_sessions (-g_atomic_int_get (&own_sessions));
  return end (plan, rv);
}

static CK_RV
shim_C_Initialize (void *init_args)
{
  const CK_C_INITIALIZE_ARGS *arguments = init_args;
  Plan plan = { KW_SHIM_FAULT_NONE, CKR_OK };

  ensure_state ();
  plan = begin (KW_SHIM_C_Initialize);
  if (plan.fault == KW_SHIM_FAULT_FAIL)
    return plan.rv;
  if (shim_state != NULL && g_atomic_int_get (&shim_state->cant_lock) != 0 && arguments != NULL
      && (arguments->flags & CKF_OS_LOCKING_OK) != 0)
    return CKR_CANT_LOCK;
  return end (plan, real_functions->C_Initialize (init_args));
}

static CK_RV
shim_C_Finalize (void *reserved)
{
  Plan plan = begin (KW_SHIM_C_Finalize);
  CK_RV rv = CKR_OK;

  if (plan.fault == KW_SHIM_FAULT_FAIL)
    return plan.rv;
  rv = real_functions->C_Finalize (reserved);
  if (rv == CKR_OK)
    count_sessions (-g_atomic_int_get (&own_sessions));
  return end (plan, rv);
}

static gboolean
load_real_module (void)
{
  static const char *const default_paths[] = {
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
  };
  const char *path = g_getenv (KW_SHIM_ENV_MODULE);
  CK_C_GetFunctionList get_function_list = NULL;
  void *library = path != NULL ? dlopen (path, RTLD_NOW | RTLD_LOCAL) : NULL;

  for (gsize i = 0; path == NULL && library == NULL && i < G_N_ELEMENTS (default_paths); i++)
    library = dlopen (default_paths[i], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL)
    return FALSE;
  *(void **) &get_function_list = dlsym (library, "C_GetFunctionList");
  return get_function_list != NULL && get_function_list (&real_functions) == CKR_OK
         && real_functions != NULL;
}

static CK_RV
shim_C_GetFunctionList (CK_FUNCTION_LIST **function_list)
{
  Plan plan = { KW_SHIM_FAULT_NONE, CKR_OK };

  if (real_functions == NULL && !load_real_module ())
    return CKR_GENERAL_ERROR;
  ensure_state ();
  plan = begin (KW_SHIM_C_GetFunctionList);
  if (plan.fault == KW_SHIM_FAULT_FAIL)
    return plan.rv;
  shim_functions = *real_functions;
#define KW_SHIM_ASSIGN(name) shim_functions.name = shim_##name;
  KW_SHIM_FUNCTIONS (KW_SHIM_ASSIGN)
#undef KW_SHIM_ASSIGN
  *function_list = plan.fault == KW_SHIM_FAULT_NOTHING ? NULL : &shim_functions;
  return end (plan, CKR_OK);
}

/**
 * C_GetFunctionList: (skip)
 * @function_list: (out): the functions
 *
 * The one function a PKCS#11 module exports.
 *
 * Returns: CKR_OK
 */
CK_RV
C_GetFunctionList (CK_FUNCTION_LIST **function_list)
{
  return shim_C_GetFunctionList (function_list);
}
