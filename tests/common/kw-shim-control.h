/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-shim-state.h"

G_BEGIN_DECLS

typedef struct _KwShim KwShim;

KwShim *kw_shim_new (void);

void kw_shim_free (KwShim *self);

const char *kw_shim_get_module_path (void);

const char *kw_shim_function_name (KwShimFunction function);

void kw_shim_set_fault (KwShim *self,
                        KwShimFunction function,
                        KwShimFault fault,
                        gulong rv,
                        gint skip,
                        gint times);

void kw_shim_fail (KwShim *self, KwShimFunction function, gulong rv, gint times);

void kw_shim_hang (KwShim *self, KwShimFunction function);

void kw_shim_clear (KwShim *self, KwShimFunction function);

void kw_shim_clear_all (KwShim *self);

void kw_shim_set_cant_lock (KwShim *self, gboolean cant_lock);

void kw_shim_set_token_flags (KwShim *self, gulong set_flags, gulong clear_flags);

void kw_shim_set_max_sessions (KwShim *self, gint max_sessions);

guint kw_shim_get_calls (KwShim *self, KwShimFunction function);

void kw_shim_reset_calls (KwShim *self);

gint kw_shim_get_open_sessions (KwShim *self);

gint kw_shim_get_hanging (KwShim *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwShim, kw_shim_free)

G_END_DECLS
