/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pkcs11-pool"

#include "config.h"

#include "kw-pkcs11-pool.h"

#include "kw-ckr.h"
#include "kw-error.h"

/*
 * The sessions of one token. They are opened when first needed and kept; each call borrows one. A
 * session on which something odd happened is closed instead of being reused. The session that the
 * login was made on is kept apart and open, so that the login survives; only a token that allows no
 * second session has them share.
 *
 * Any thread may call; those functions that call into the module block.
 */
struct _KwPkcs11Pool
{
  GObject parent_instance;

  KwPkcs11Module *module; /* owned */
  guint64 generation;
  CK_SLOT_ID slot;
  guint size;
  gboolean single; /* the token allows one session */

  GMutex login_lock;               /* taken before lock; held over C_Login */
  CK_SESSION_HANDLE login_session; /* guarded by login_lock */
  gboolean has_login_session;      /* guarded by login_lock */
  gint n_logins;                   /* atomic: logins under way */

  GMutex lock;
  GCond given_back;
  GArray *idle;       /* owned, of CK_SESSION_HANDLE; guarded by lock */
  guint n_open;       /* idle and on loan; guarded by lock */
  guint limit;        /* what the token turned out to allow; guarded by lock */
  gboolean read_only; /* guarded by lock */
  gboolean closed;    /* guarded by lock */
};

G_DEFINE_FINAL_TYPE (KwPkcs11Pool, kw_pkcs11_pool, G_TYPE_OBJECT)

static guint
limit_sessions (guint wanted, CK_ULONG maximum)
{
  if (maximum == CK_EFFECTIVELY_INFINITE || maximum == CK_UNAVAILABLE_INFORMATION)
    return wanted;
  return (guint) MIN ((CK_ULONG) wanted, maximum);
}

static void
set_closed (GError **error)
{
  g_set_error_literal (error, KW_ERROR, KW_ERROR_TOKEN_GONE, "The token was removed");
}

static CK_RV
open_session (KwPkcs11Pool *self, CK_FUNCTION_LIST *functions, CK_SESSION_HANDLE *out_handle)
{
  CK_SESSION_HANDLE handle = CK_INVALID_HANDLE;
  gboolean read_only = FALSE;
  CK_RV rv = CKR_OK;

  g_mutex_lock (&self->lock);
  read_only = self->read_only;
  g_mutex_unlock (&self->lock);

  rv = functions->C_OpenSession (self->slot, CKF_SERIAL_SESSION | (read_only ? 0 : CKF_RW_SESSION),
                                 NULL, NULL, &handle);
  if (rv == CKR_TOKEN_WRITE_PROTECTED && !read_only)
    {
      g_mutex_lock (&self->lock);
      self->read_only = TRUE;
      g_mutex_unlock (&self->lock);
      rv = functions->C_OpenSession (self->slot, CKF_SERIAL_SESSION, NULL, NULL, &handle);
    }
  if (rv == CKR_OK && handle == CK_INVALID_HANDLE)
    return CKR_SESSION_HANDLE_INVALID;
  if (rv == CKR_OK)
    *out_handle = handle;
  return rv;
}

/* Takes an idle session, or the right to open one (*out_handle is invalid then). */
static gboolean
take_idle (KwPkcs11Pool *self, gboolean wait, CK_SESSION_HANDLE *out_handle, GError **error)
{
  CK_SESSION_HANDLE handle = CK_INVALID_HANDLE;
  gboolean closed = FALSE;
  gboolean taken = FALSE;

  g_mutex_lock (&self->lock);
  while (wait && !self->closed && self->idle->len == 0 && self->n_open >= self->limit)
    g_cond_wait (&self->given_back, &self->lock);
  closed = self->closed;
  if (!closed && self->idle->len > 0)
    {
      handle = g_array_index (self->idle, CK_SESSION_HANDLE, self->idle->len - 1);
      g_array_set_size (self->idle, self->idle->len - 1);
      taken = TRUE;
    }
  else if (!closed && self->n_open < self->limit)
    {
      self->n_open++;
      taken = TRUE;
    }
  g_mutex_unlock (&self->lock);

  if (closed)
    set_closed (error);
  else if (!taken)
    g_set_error_literal (error, KW_ERROR, KW_ERROR_BUSY, "All sessions of the token are in use");
  if (taken)
    *out_handle = handle;
  return taken;
}

static void
forget_session (KwPkcs11Pool *self)
{
  g_mutex_lock (&self->lock);
  self->n_open--;
  g_cond_signal (&self->given_back);
  g_mutex_unlock (&self->lock);
}

/* The token has no more sessions: make do with those that are open, if there are any. */
static gboolean
shrink (KwPkcs11Pool *self)
{
  gboolean others = FALSE;

  g_mutex_lock (&self->lock);
  self->n_open--;
  others = self->n_open > 0;
  if (others)
    self->limit = self->n_open;
  g_mutex_unlock (&self->lock);
  return others;
}

static void
close_handle (CK_FUNCTION_LIST *functions, CK_SESSION_HANDLE handle)
{
  CK_RV rv = functions->C_CloseSession (handle);

  if (rv != CKR_OK)
    g_debug ("C_CloseSession: 0x%lX", rv);
}

static gboolean
ensure_login_session (KwPkcs11Pool *self, CK_FUNCTION_LIST *functions, GError **error)
{
  CK_SESSION_INFO info = { 0 };
  CK_RV rv = CKR_OK;

  /* Looked at first, because C_Login itself is never repeated. */
  if (self->has_login_session)
    {
      if (functions->C_GetSessionInfo (self->login_session, &info) == CKR_OK)
        return TRUE;
      close_handle (functions, self->login_session);
      self->has_login_session = FALSE;
    }
  rv = open_session (self, functions, &self->login_session);
  if (rv != CKR_OK)
    {
      kw_ckr_set_error (error, rv, "C_OpenSession");
      return FALSE;
    }
  self->has_login_session = TRUE;
  return TRUE;
}

static gboolean
login_on (CK_FUNCTION_LIST *functions, CK_SESSION_HANDLE handle, KwSecret *pin, GError **error)
{
  CK_RV rv = functions->C_Login (handle, CKU_USER, pin != NULL ? kw_secret_get_data (pin) : NULL,
                                 pin != NULL ? kw_secret_get_size (pin) : 0);

  if (rv == CKR_OK || rv == CKR_USER_ALREADY_LOGGED_IN)
    return TRUE;
  kw_ckr_set_error (error, rv, "C_Login");
  return FALSE;
}

static gboolean
login_on_pooled_session (KwPkcs11Pool *self, KwSecret *pin, GError **error)
{
  KwPkcs11Session session = { 0 };
  gboolean ok = FALSE;

  if (!kw_pkcs11_pool_borrow (self, TRUE, &session, error))
    return FALSE;
  ok = login_on (session.functions, session.handle, pin, error);
  kw_pkcs11_pool_give_back (self, &session);
  return ok;
}

static void
kw_pkcs11_pool_finalize (GObject *object)
{
  KwPkcs11Pool *self = KW_PKCS11_POOL (object);

  g_clear_object (&self->module);
  g_array_unref (self->idle);
  g_mutex_clear (&self->login_lock);
  g_mutex_clear (&self->lock);
  g_cond_clear (&self->given_back);

  G_OBJECT_CLASS (kw_pkcs11_pool_parent_class)->finalize (object);
}

static void
kw_pkcs11_pool_class_init (KwPkcs11PoolClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_pkcs11_pool_finalize;
}

static void
kw_pkcs11_pool_init (KwPkcs11Pool *self)
{
  g_mutex_init (&self->login_lock);
  g_mutex_init (&self->lock);
  g_cond_init (&self->given_back);
  self->idle = g_array_new (FALSE, FALSE, sizeof (CK_SESSION_HANDLE));
}

/**
 * kw_pkcs11_session_check:
 * @session: a session on loan
 * @rv: what a function returned
 * @function: its name
 * @error: where to store the error
 *
 * Turns a return value into an error, and marks the session for closing unless the value is one
 * that leaves a session as it was. The session's thread.
 *
 * Returns: whether @rv is CKR_OK
 */
gboolean
kw_pkcs11_session_check (KwPkcs11Session *session, CK_RV rv, const char *function, GError **error)
{
  g_return_val_if_fail (session != NULL, FALSE);

  session->last_rv = rv;
  switch (rv)
    {
    case CKR_OK:
      return TRUE;
    case CKR_KEY_HANDLE_INVALID:
    case CKR_OBJECT_HANDLE_INVALID:
    case CKR_USER_NOT_LOGGED_IN:
    case CKR_KEY_FUNCTION_NOT_PERMITTED:
    case CKR_KEY_TYPE_INCONSISTENT:
    case CKR_KEY_SIZE_RANGE:
    case CKR_MECHANISM_INVALID:
    case CKR_MECHANISM_PARAM_INVALID:
    case CKR_ATTRIBUTE_SENSITIVE:
    case CKR_ATTRIBUTE_TYPE_INVALID:
      break;
    default:
      session->broken = TRUE;
      break;
    }
  kw_ckr_set_error (error, rv, function);
  return FALSE;
}

/**
 * kw_pkcs11_session_is_public:
 * @session: a session on loan
 *
 * Asks the token whether nobody is logged in on it. Blocks; the session's thread.
 *
 * Returns: whether private objects are out of sight
 */
gboolean
kw_pkcs11_session_is_public (KwPkcs11Session *session)
{
  CK_SESSION_INFO info = { 0 };

  g_return_val_if_fail (session != NULL, FALSE);

  return session->functions->C_GetSessionInfo (session->handle, &info) == CKR_OK
         && (info.state == CKS_RO_PUBLIC_SESSION || info.state == CKS_RW_PUBLIC_SESSION);
}

/**
 * kw_pkcs11_pool_new:
 * @module: an initialised module
 * @slot: slot the token is in
 * @token_info: what the token tells of itself
 * @n_sessions: how many sessions are wanted
 *
 * Makes a pool; no session is opened yet. Any thread.
 *
 * Returns: (transfer full): the pool
 */
KwPkcs11Pool *
kw_pkcs11_pool_new (KwPkcs11Module *module,
                    CK_SLOT_ID slot,
                    const CK_TOKEN_INFO *token_info,
                    guint n_sessions)
{
  KwPkcs11Pool *self = NULL;
  guint total = 0;

  g_return_val_if_fail (KW_IS_PKCS11_MODULE (module), NULL);
  g_return_val_if_fail (token_info != NULL && n_sessions > 0, NULL);

  self = g_object_new (KW_TYPE_PKCS11_POOL, NULL);
  self->module = g_object_ref (module);
  self->generation = kw_pkcs11_module_get_generation (module);
  self->slot = slot;
  self->read_only = (token_info->flags & CKF_WRITE_PROTECTED) != 0;

  /* One more than wanted, for the login. */
  total = limit_sessions (n_sessions + 1, token_info->ulMaxSessionCount);
  if (!self->read_only)
    total = limit_sessions (total, token_info->ulMaxRwSessionCount);
  self->single = total < 2;
  self->size = kw_pkcs11_module_is_serial (module) || self->single ? 1 : total - 1;
  self->limit = self->size;
  return self;
}

/**
 * kw_pkcs11_pool_get_module:
 * @self: a pool
 *
 * Returns: (transfer none): the module its sessions are of. Any thread.
 */
KwPkcs11Module *
kw_pkcs11_pool_get_module (KwPkcs11Pool *self)
{
  g_return_val_if_fail (KW_IS_PKCS11_POOL (self), NULL);

  return self->module;
}

/**
 * kw_pkcs11_pool_get_generation:
 * @self: a pool
 *
 * Returns: the module's generation it belongs to. Any thread.
 */
guint64
kw_pkcs11_pool_get_generation (KwPkcs11Pool *self)
{
  g_return_val_if_fail (KW_IS_PKCS11_POOL (self), 0);

  return self->generation;
}

/**
 * kw_pkcs11_pool_get_slot:
 * @self: a pool
 *
 * Returns: the slot its sessions are opened on. Any thread.
 */
CK_SLOT_ID
kw_pkcs11_pool_get_slot (KwPkcs11Pool *self)
{
  g_return_val_if_fail (KW_IS_PKCS11_POOL (self), 0);

  return self->slot;
}

/**
 * kw_pkcs11_pool_get_size:
 * @self: a pool
 *
 * Returns: how many sessions can be on loan at once. Any thread.
 */
guint
kw_pkcs11_pool_get_size (KwPkcs11Pool *self)
{
  g_return_val_if_fail (KW_IS_PKCS11_POOL (self), 1);

  return self->size;
}

/**
 * kw_pkcs11_pool_borrow:
 * @self: a pool
 * @wait: whether to wait for a session when all are on loan
 * @out_session: (out caller-allocates): the session
 * @error: where to store the error
 *
 * Borrows a session and enters the module. Blocks; any worker thread.
 *
 * Returns: %FALSE with %KW_ERROR_TOKEN_GONE when the token was closed, %KW_ERROR_BUSY when there is
 *   no session, or an error of the module
 */
gboolean
kw_pkcs11_pool_borrow (KwPkcs11Pool *self,
                       gboolean wait,
                       KwPkcs11Session *out_session,
                       GError **error)
{
  CK_SESSION_HANDLE handle = CK_INVALID_HANDLE;
  CK_FUNCTION_LIST *functions = NULL;
  CK_RV rv = CKR_OK;

  g_return_val_if_fail (KW_IS_PKCS11_POOL (self), FALSE);

  if (!take_idle (self, wait, &handle, error))
    return FALSE;
  functions = kw_pkcs11_module_enter (self->module, self->generation, error);
  if (functions == NULL)
    {
      forget_session (self);
      return FALSE;
    }
  if (handle == CK_INVALID_HANDLE)
    rv = open_session (self, functions, &handle);
  if (rv == CKR_OK)
    {
      *out_session = (KwPkcs11Session){ .functions = functions, .handle = handle };
      return TRUE;
    }
  kw_pkcs11_module_leave (self->module);
  /* Ends, because the pool is smaller each time. */
  if (rv != CKR_SESSION_COUNT)
    forget_session (self);
  else if (shrink (self))
    return kw_pkcs11_pool_borrow (self, wait, out_session, error);
  kw_ckr_set_error (error, rv, "C_OpenSession");
  return FALSE;
}

/**
 * kw_pkcs11_pool_give_back:
 * @self: a pool
 * @session: a session borrowed from it
 *
 * Gives a session back, or closes it when it is broken or the pool is closed, and leaves the
 * module. Blocks; the session's thread.
 */
void
kw_pkcs11_pool_give_back (KwPkcs11Pool *self, KwPkcs11Session *session)
{
  gboolean keep = FALSE;

  g_return_if_fail (KW_IS_PKCS11_POOL (self));
  g_return_if_fail (session != NULL && session->functions != NULL);

  g_mutex_lock (&self->lock);
  keep = !session->broken && !self->closed;
  if (keep)
    {
      g_array_append_val (self->idle, session->handle);
      g_cond_signal (&self->given_back);
    }
  g_mutex_unlock (&self->lock);

  if (!keep)
    {
      close_handle (session->functions, session->handle);
      forget_session (self);
    }
  kw_pkcs11_module_leave (self->module);
  session->functions = NULL;
}

/**
 * kw_pkcs11_pool_drop_idle:
 * @self: a pool
 *
 * Closes the idle sessions: one of their kind turned out to be dead, so the others are likely dead
 * too. Blocks; any worker thread.
 */
void
kw_pkcs11_pool_drop_idle (KwPkcs11Pool *self)
{
  g_autoptr (GArray) dropped = NULL;
  CK_FUNCTION_LIST *functions = NULL;

  g_return_if_fail (KW_IS_PKCS11_POOL (self));

  g_mutex_lock (&self->lock);
  dropped = g_steal_pointer (&self->idle);
  self->idle = g_array_new (FALSE, FALSE, sizeof (CK_SESSION_HANDLE));
  self->n_open -= dropped->len;
  g_cond_broadcast (&self->given_back);
  g_mutex_unlock (&self->lock);

  if (dropped->len == 0)
    return;
  functions = kw_pkcs11_module_enter (self->module, self->generation, NULL);
  if (functions == NULL)
    return;
  for (guint i = 0; i < dropped->len; i++)
    close_handle (functions, g_array_index (dropped, CK_SESSION_HANDLE, i));
  kw_pkcs11_module_leave (self->module);
}

/**
 * kw_pkcs11_pool_login:
 * @self: a pool
 * @pin: (nullable): the PIN; %NULL where it is typed at the reader
 * @error: where to store the error
 *
 * Logs the user in, with exactly one C_Login. Blocks; any worker thread.
 *
 * Returns: %TRUE when logged in
 */
gboolean
kw_pkcs11_pool_login (KwPkcs11Pool *self, KwSecret *pin, GError **error)
{
  CK_FUNCTION_LIST *functions = NULL;
  gboolean closed = FALSE;
  gboolean ok = FALSE;

  g_return_val_if_fail (KW_IS_PKCS11_POOL (self), FALSE);

  if (self->single)
    return login_on_pooled_session (self, pin, error);
  g_mutex_lock (&self->lock);
  closed = self->closed;
  g_mutex_unlock (&self->lock);
  if (closed)
    {
      set_closed (error);
      return FALSE;
    }
  functions = kw_pkcs11_module_enter (self->module, self->generation, error);
  if (functions == NULL)
    return FALSE;
  g_atomic_int_inc (&self->n_logins);
  g_mutex_lock (&self->login_lock);
  ok = ensure_login_session (self, functions, error)
       && login_on (functions, self->login_session, pin, error);
  g_mutex_unlock (&self->login_lock);
  g_atomic_int_add (&self->n_logins, -1);
  kw_pkcs11_module_leave (self->module);
  return ok;
}

/**
 * kw_pkcs11_pool_is_idle:
 * @self: a pool
 *
 * Returns: whether no session is on loan and no login is under way. Any thread.
 */
gboolean
kw_pkcs11_pool_is_idle (KwPkcs11Pool *self)
{
  gboolean idle = FALSE;

  g_return_val_if_fail (KW_IS_PKCS11_POOL (self), TRUE);

  g_mutex_lock (&self->lock);
  idle = self->n_open == self->idle->len;
  g_mutex_unlock (&self->lock);
  return idle && g_atomic_int_get (&self->n_logins) == 0;
}

/**
 * kw_pkcs11_pool_close:
 * @self: a pool
 *
 * Lends no more sessions; those that come back are closed. Makes no call into the module and does
 * not block. Any thread.
 */
void
kw_pkcs11_pool_close (KwPkcs11Pool *self)
{
  g_return_if_fail (KW_IS_PKCS11_POOL (self));

  g_mutex_lock (&self->lock);
  self->closed = TRUE;
  g_cond_broadcast (&self->given_back);
  g_mutex_unlock (&self->lock);
}

/**
 * kw_pkcs11_pool_release:
 * @self: a pool
 *
 * Closes all sessions that are not on loan, the login's too. Blocks; the back end's thread.
 */
void
kw_pkcs11_pool_release (KwPkcs11Pool *self)
{
  CK_FUNCTION_LIST *functions = NULL;

  g_return_if_fail (KW_IS_PKCS11_POOL (self));

  kw_pkcs11_pool_close (self);
  kw_pkcs11_pool_drop_idle (self);
  functions = kw_pkcs11_module_enter (self->module, self->generation, NULL);
  if (functions == NULL)
    return;
  /* A login that hangs holds the lock; its session is left to C_Finalize. */
  if (g_mutex_trylock (&self->login_lock))
    {
      if (self->has_login_session)
        close_handle (functions, self->login_session);
      self->has_login_session = FALSE;
      g_mutex_unlock (&self->login_lock);
    }
  kw_pkcs11_module_leave (self->module);
}
