/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-module"

#include "config.h"

#include "kw-pkcs11-module.h"

#include "kw-ckr.h"
#include "kw-error.h"
#include "kw-log.h"

#include <gmodule.h>

/*
 * One PKCS#11 module: the shared object, its function list, and whether it is initialised.
 *
 * Whoever calls into the module does so between enter() and leave(), so that C_Finalize never runs
 * beside another call. Each C_Initialize begins a new generation; what belongs to an older one (a
 * token, its sessions and handles) is refused at enter(). A module that cannot lock is entered by
 * one thread at a time.
 *
 * load(), initialize() and shut_down() belong to one thread, the back end's; the rest may be called
 * by any. The shared object is never unloaded: modules leave threads and exit handlers behind.
 */
struct _KwPkcs11Module
{
  GObject parent_instance;

  char *path;                  /* owned */
  CK_FUNCTION_LIST *functions; /* borrowed from the shared object; NULL until loaded */
  gboolean owned;              /* C_Initialize was ours, so C_Finalize is; back end's thread */

  GMutex lock;
  GCond changed;        /* a call ended */
  gboolean initialized; /* guarded by lock */
  gboolean serial;      /* guarded by lock */
  gboolean stopping;    /* guarded by lock */
  guint64 generation;   /* guarded by lock */
  guint n_calls;        /* guarded by lock */
};

G_DEFINE_FINAL_TYPE (KwPkcs11Module, kw_pkcs11_module, G_TYPE_OBJECT)

#define SUPPORTED_MAJOR_VERSION 2

static gboolean
has_all_functions (const CK_FUNCTION_LIST *functions)
{
  return functions->C_Initialize != NULL && functions->C_Finalize != NULL
         && functions->C_GetInfo != NULL && functions->C_GetSlotList != NULL
         && functions->C_GetSlotInfo != NULL && functions->C_GetTokenInfo != NULL
         && functions->C_GetMechanismInfo != NULL && functions->C_OpenSession != NULL
         && functions->C_CloseSession != NULL && functions->C_GetSessionInfo != NULL
         && functions->C_Login != NULL && functions->C_DestroyObject != NULL
         && functions->C_GetAttributeValue != NULL && functions->C_FindObjectsInit != NULL
         && functions->C_FindObjects != NULL && functions->C_FindObjectsFinal != NULL
         && functions->C_EncryptInit != NULL && functions->C_Encrypt != NULL
         && functions->C_DecryptInit != NULL && functions->C_Decrypt != NULL
         && functions->C_SignInit != NULL && functions->C_Sign != NULL
         && functions->C_GenerateKey != NULL && functions->C_GenerateKeyPair != NULL
         && functions->C_GenerateRandom != NULL;
}

static void
kw_pkcs11_module_finalize (GObject *object)
{
  KwPkcs11Module *self = KW_PKCS11_MODULE (object);

  g_free (self->path);
  g_mutex_clear (&self->lock);
  g_cond_clear (&self->changed);

  G_OBJECT_CLASS (kw_pkcs11_module_parent_class)->finalize (object);
}

static void
kw_pkcs11_module_class_init (KwPkcs11ModuleClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_pkcs11_module_finalize;
}

static void
kw_pkcs11_module_init (KwPkcs11Module *self)
{
  g_mutex_init (&self->lock);
  g_cond_init (&self->changed);
}

/**
 * kw_pkcs11_module_new:
 * @path: path of the shared object
 *
 * Describes a module; nothing is loaded yet. Any thread.
 *
 * Returns: (transfer full): the module
 */
KwPkcs11Module *
kw_pkcs11_module_new (const char *path)
{
  KwPkcs11Module *self = NULL;

  g_return_val_if_fail (path != NULL, NULL);

  self = g_object_new (KW_TYPE_PKCS11_MODULE, NULL);
  self->path = g_strdup (path);
  return self;
}

/**
 * kw_pkcs11_module_get_path:
 * @self: a module
 *
 * Returns: (transfer none): path of the shared object. Any thread.
 */
const char *
kw_pkcs11_module_get_path (KwPkcs11Module *self)
{
  g_return_val_if_fail (KW_IS_PKCS11_MODULE (self), NULL);

  return self->path;
}

/**
 * kw_pkcs11_module_load:
 * @self: a module
 * @error: where to store the error
 *
 * Loads the shared object and checks its function list; does nothing when that is done. Blocks; the
 * back end's thread.
 *
 * Returns: %FALSE with %KW_ERROR_MODULE_FAILED
 */
gboolean
kw_pkcs11_module_load (KwPkcs11Module *self, GError **error)
{
  GModule *library = NULL;
  gpointer symbol = NULL;
  CK_C_GetFunctionList get_function_list = NULL;
  CK_FUNCTION_LIST *functions = NULL;
  CK_RV rv = CKR_OK;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (self), FALSE);

  if (self->functions != NULL)
    return TRUE;
  library = g_module_open (self->path, G_MODULE_BIND_LOCAL);
  if (library == NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED,
                   "The PKCS#11 module %s cannot be loaded: %s", self->path, g_module_error ());
      return FALSE;
    }
  if (!g_module_symbol (library, "C_GetFunctionList", &symbol) || symbol == NULL)
    {
      g_module_close (library);
      g_set_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED,
                   "%s is no PKCS#11 module: it has no C_GetFunctionList", self->path);
      return FALSE;
    }
  g_module_make_resident (library);
  /* ISO C has no conversion from an object pointer to a function pointer; POSIX promises it. */
  *(gpointer *) &get_function_list = symbol;
  rv = get_function_list (&functions);
  if (rv != CKR_OK)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED,
                   "The PKCS#11 module %s fails: C_GetFunctionList: %s", self->path,
                   kw_ckr_to_string (rv) != NULL ? kw_ckr_to_string (rv) : "unknown return value");
      return FALSE;
    }
  if (functions == NULL || functions->version.major != SUPPORTED_MAJOR_VERSION
      || !has_all_functions (functions))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED,
                   "The PKCS#11 module %s has no usable function list of version %d", self->path,
                   SUPPORTED_MAJOR_VERSION);
      return FALSE;
    }
  self->functions = functions;
  return TRUE;
}

/**
 * kw_pkcs11_module_initialize:
 * @self: a module that was loaded and is not initialised
 * @log_level: how serious the line in the log is
 * @error: where to store the error
 *
 * Calls C_Initialize and begins a new generation. A module that somebody else in this process has
 * initialised is used and not finalised. Blocks; the back end's thread.
 *
 * Returns: %FALSE with %KW_ERROR_MODULE_FAILED
 */
gboolean
kw_pkcs11_module_initialize (KwPkcs11Module *self, GLogLevelFlags log_level, GError **error)
{
  CK_C_INITIALIZE_ARGS arguments = { .flags = CKF_OS_LOCKING_OK };
  g_autoptr (GError) local_error = NULL;
  gboolean serial = FALSE;
  CK_RV rv = CKR_OK;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (self), FALSE);
  g_return_val_if_fail (self->functions != NULL, FALSE);

  kw_log (log_level, "initialize pkcs11 module", "module", self->path, NULL);
  rv = self->functions->C_Initialize (&arguments);
  if (rv == CKR_CANT_LOCK)
    {
      serial = TRUE;
      rv = self->functions->C_Initialize (NULL);
    }
  if (rv != CKR_OK && rv != CKR_CRYPTOKI_ALREADY_INITIALIZED)
    {
      kw_ckr_set_error (&local_error, rv, "C_Initialize");
      g_set_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED,
                   "The PKCS#11 module %s cannot be initialised: %s", self->path,
                   local_error->message);
      return FALSE;
    }
  if (rv == CKR_OK)
    self->owned = TRUE;
  g_mutex_lock (&self->lock);
  self->initialized = TRUE;
  self->stopping = FALSE;
  self->serial = serial;
  self->generation++;
  g_mutex_unlock (&self->lock);
  return TRUE;
}

/**
 * kw_pkcs11_module_shut_down:
 * @self: a module
 * @timeout_usec: how long to wait for calls in flight, in microseconds
 *
 * Refuses new calls, waits for those in flight and calls C_Finalize. When a call does not return in
 * time, C_Finalize is not called and new calls stay refused; shut down again to wait for longer.
 * Blocks; the back end's thread.
 *
 * Returns: %FALSE when a call is still in flight
 */
gboolean
kw_pkcs11_module_shut_down (KwPkcs11Module *self, gint64 timeout_usec)
{
  gint64 deadline = g_get_monotonic_time () + timeout_usec;
  gboolean was_initialized = FALSE;
  gboolean in_time = TRUE;
  CK_RV rv = CKR_OK;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (self), FALSE);

  g_mutex_lock (&self->lock);
  self->stopping = TRUE;
  g_cond_broadcast (&self->changed);
  while (self->n_calls > 0 && in_time)
    in_time = g_cond_wait_until (&self->changed, &self->lock, deadline);
  was_initialized = self->initialized;
  in_time = self->n_calls == 0;
  if (in_time)
    self->initialized = FALSE;
  g_mutex_unlock (&self->lock);

  if (!in_time)
    return FALSE;
  if (was_initialized && self->owned)
    {
      rv = self->functions->C_Finalize (NULL);
      if (rv == CKR_OK || rv == CKR_CRYPTOKI_NOT_INITIALIZED)
        self->owned = FALSE;
      else
        g_debug ("C_Finalize: 0x%lX", rv);
    }
  return TRUE;
}

/**
 * kw_pkcs11_module_get_generation:
 * @self: a module
 *
 * Returns: how often it was initialised; 0 before the first time. Any thread.
 */
guint64
kw_pkcs11_module_get_generation (KwPkcs11Module *self)
{
  guint64 generation = 0;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (self), 0);

  g_mutex_lock (&self->lock);
  generation = self->generation;
  g_mutex_unlock (&self->lock);
  return generation;
}

/**
 * kw_pkcs11_module_is_initialized:
 * @self: a module
 *
 * Returns: whether it can be entered. Any thread.
 */
gboolean
kw_pkcs11_module_is_initialized (KwPkcs11Module *self)
{
  gboolean initialized = FALSE;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (self), FALSE);

  g_mutex_lock (&self->lock);
  initialized = self->initialized && !self->stopping;
  g_mutex_unlock (&self->lock);
  return initialized;
}

/**
 * kw_pkcs11_module_is_serial:
 * @self: a module
 *
 * Returns: whether one thread at a time is let in, because the module cannot lock. Any thread.
 */
gboolean
kw_pkcs11_module_is_serial (KwPkcs11Module *self)
{
  gboolean serial = FALSE;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (self), FALSE);

  g_mutex_lock (&self->lock);
  serial = self->serial;
  g_mutex_unlock (&self->lock);
  return serial;
}

/**
 * kw_pkcs11_module_enter:
 * @self: a module
 * @generation: the generation the caller's slot, sessions and handles belong to
 * @error: where to store the error
 *
 * Begins a stretch of calls into the module; kw_pkcs11_module_leave() ends it. Any thread.
 *
 * Returns: (transfer none): the module's functions; %NULL with %KW_ERROR_TOKEN_GONE when the module
 *   was shut down or started anew
 */
CK_FUNCTION_LIST *
kw_pkcs11_module_enter (KwPkcs11Module *self, guint64 generation, GError **error)
{
  CK_FUNCTION_LIST *functions = NULL;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (self), NULL);

  g_mutex_lock (&self->lock);
  while (self->serial && self->n_calls > 0 && !self->stopping && self->generation == generation)
    g_cond_wait (&self->changed, &self->lock);
  if (self->initialized && !self->stopping && self->generation == generation)
    {
      self->n_calls++;
      functions = self->functions;
    }
  g_mutex_unlock (&self->lock);

  if (functions == NULL)
    g_set_error_literal (error, KW_ERROR, KW_ERROR_TOKEN_GONE,
                         "The token was removed or its PKCS#11 module was started anew");
  return functions;
}

/**
 * kw_pkcs11_module_leave:
 * @self: a module that was entered
 *
 * Ends a stretch of calls into the module. Any thread.
 */
void
kw_pkcs11_module_leave (KwPkcs11Module *self)
{
  g_return_if_fail (KW_IS_PKCS11_MODULE (self));

  g_mutex_lock (&self->lock);
  g_warn_if_fail (self->n_calls > 0);
  self->n_calls--;
  g_cond_broadcast (&self->changed);
  g_mutex_unlock (&self->lock);
}
