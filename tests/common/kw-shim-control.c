/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-shim-control"

#include "kw-shim-control.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * A test's side of the PKCS#11 shim. The shim and the test map one file, so a test also controls a
 * shim that a daemon in another process has loaded; pass it KW_SHIM_ENV_CONTROL in its environment.
 */
struct _KwShim
{
  char *path;         /* owned */
  KwShimState *state; /* owned, mapped */
};

#define KW_SHIM_NAME(name) #name,
static const char *const function_names[] = { KW_SHIM_FUNCTIONS (KW_SHIM_NAME) };
#undef KW_SHIM_NAME

/**
 * kw_shim_new:
 *
 * Makes a control file and names it in the environment, for this process and its children. Do so
 * before the module is loaded.
 *
 * Returns: (transfer full): the test's side of the shim
 */
KwShim *
kw_shim_new (void)
{
  KwShim *self = g_new0 (KwShim, 1);
  g_autoptr (GError) error = NULL;
  gint fd = g_file_open_tmp ("keyward-shim-XXXXXX", &self->path, &error);

  g_assert_no_error (error);
  g_assert_cmpint (ftruncate (fd, sizeof (KwShimState)), ==, 0);
  self->state = mmap (NULL, sizeof (KwShimState), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  g_assert_true (self->state != MAP_FAILED);
  close (fd);
  self->state->magic = KW_SHIM_MAGIC;
  g_setenv (KW_SHIM_ENV_CONTROL, self->path, TRUE);
  return self;
}

/**
 * kw_shim_free:
 * @self: (transfer full): the shim
 *
 * Clears all faults, so that nothing hangs any more, and removes the control file.
 */
void
kw_shim_free (KwShim *self)
{
  kw_shim_clear_all (self);
  g_unlink (self->path);
  munmap (self->state, sizeof (KwShimState));
  g_free (self->path);
  g_free (self);
}

/**
 * kw_shim_get_module_path:
 *
 * Returns: (transfer none): path of the shim, for `[pkcs11] module`
 */
const char *
kw_shim_get_module_path (void)
{
  return KW_TEST_SHIM_PATH;
}

/**
 * kw_shim_function_name:
 * @function: a function
 *
 * Returns: (transfer none): its name
 */
const char *
kw_shim_function_name (KwShimFunction function)
{
  return function_names[function];
}

/**
 * kw_shim_set_fault:
 * @self: the shim
 * @function: which function
 * @fault: what it does wrong
 * @rv: what it returns, for the faults that return something
 * @skip: how many calls pass unharmed first
 * @times: how many calls go wrong, or KW_SHIM_ALWAYS
 *
 * Makes a function misbehave.
 */
void
kw_shim_set_fault (KwShim *self,
                   KwShimFunction function,
                   KwShimFault fault,
                   gulong rv,
                   gint skip,
                   gint times)
{
  KwShimRow *row = &self->state->rows[function];

  g_atomic_int_set (&row->fault, KW_SHIM_FAULT_NONE);
  g_atomic_int_set (&row->rv, (guint) rv);
  g_atomic_int_set (&row->skip, skip);
  g_atomic_int_set (&row->times, times);
  g_atomic_int_set (&row->fault, (gint) fault);
}

/**
 * kw_shim_fail:
 * @self: the shim
 * @function: which function
 * @rv: what it returns
 * @times: how often, or KW_SHIM_ALWAYS
 *
 * Makes a function fail without doing anything.
 */
void
kw_shim_fail (KwShim *self, KwShimFunction function, gulong rv, gint times)
{
  kw_shim_set_fault (self, function, KW_SHIM_FAULT_FAIL, rv, 0, times);
}

/**
 * kw_shim_hang:
 * @self: the shim
 * @function: which function
 *
 * Makes a function hang until kw_shim_clear().
 */
void
kw_shim_hang (KwShim *self, KwShimFunction function)
{
  kw_shim_set_fault (self, function, KW_SHIM_FAULT_HANG, 0, 0, KW_SHIM_ALWAYS);
}

/**
 * kw_shim_clear:
 * @self: the shim
 * @function: which function
 *
 * Makes a function behave; calls that hang go on.
 */
void
kw_shim_clear (KwShim *self, KwShimFunction function)
{
  g_atomic_int_set (&self->state->rows[function].fault, KW_SHIM_FAULT_NONE);
}

/**
 * kw_shim_clear_all:
 * @self: the shim
 *
 * Makes everything behave.
 */
void
kw_shim_clear_all (KwShim *self)
{
  for (gsize i = 0; i < KW_SHIM_N_FUNCTIONS; i++)
    kw_shim_clear (self, (KwShimFunction) i);
  kw_shim_set_cant_lock (self, FALSE);
  kw_shim_set_token_flags (self, 0, 0);
  kw_shim_set_max_sessions (self, 0);
}

/**
 * kw_shim_set_cant_lock:
 * @self: the shim
 * @cant_lock: whether it refuses to lock
 *
 * Makes C_Initialize refuse an application with several threads.
 */
void
kw_shim_set_cant_lock (KwShim *self, gboolean cant_lock)
{
  g_atomic_int_set (&self->state->cant_lock, cant_lock);
}

/**
 * kw_shim_set_token_flags:
 * @self: the shim
 * @set_flags: CKF_… that are set
 * @clear_flags: CKF_… that are cleared
 *
 * Changes the flags that C_GetTokenInfo tells, for example CKF_USER_PIN_FINAL_TRY.
 */
void
kw_shim_set_token_flags (KwShim *self, gulong set_flags, gulong clear_flags)
{
  g_atomic_int_set (&self->state->set_flags, (guint) set_flags);
  g_atomic_int_set (&self->state->clear_flags, (guint) clear_flags);
}

/**
 * kw_shim_set_max_sessions:
 * @self: the shim
 * @max_sessions: ulMaxSessionCount that C_GetTokenInfo tells; 0 = the truth
 *
 * Makes a token tell that it allows few sessions, and refuse more.
 */
void
kw_shim_set_max_sessions (KwShim *self, gint max_sessions)
{
  g_atomic_int_set (&self->state->max_session_count, max_sessions);
}

/**
 * kw_shim_get_calls:
 * @self: the shim
 * @function: which function
 *
 * Returns: how often it was called
 */
guint
kw_shim_get_calls (KwShim *self, KwShimFunction function)
{
  return (guint) g_atomic_int_get (&self->state->rows[function].calls);
}

/**
 * kw_shim_reset_calls:
 * @self: the shim
 *
 * Counts all calls from zero again.
 */
void
kw_shim_reset_calls (KwShim *self)
{
  for (gsize i = 0; i < KW_SHIM_N_FUNCTIONS; i++)
    g_atomic_int_set (&self->state->rows[i].calls, 0);
}

/**
 * kw_shim_get_open_sessions:
 * @self: the shim
 *
 * Returns: how many sessions are open, in all processes
 */
gint
kw_shim_get_open_sessions (KwShim *self)
{
  return g_atomic_int_get (&self->state->open_sessions);
}

/**
 * kw_shim_get_hanging:
 * @self: the shim
 *
 * Returns: how many calls hang
 */
gint
kw_shim_get_hanging (KwShim *self)
{
  return g_atomic_int_get (&self->state->hanging);
}
