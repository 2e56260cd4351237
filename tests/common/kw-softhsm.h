/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

#define KW_TEST_SO_PIN "87654321"
#define KW_TEST_PIN "4711-pin"

typedef struct _KwSoftHsm KwSoftHsm;

const char *kw_soft_hsm_find_module (void);

gboolean kw_soft_hsm_is_missing (void);

KwSoftHsm *kw_soft_hsm_new (void);

void kw_soft_hsm_free (KwSoftHsm *self);

const char *kw_soft_hsm_get_directory (KwSoftHsm *self);

const char *kw_soft_hsm_get_conf (KwSoftHsm *self);

void
kw_soft_hsm_add_token (KwSoftHsm *self, const char *label, const char *so_pin, const char *pin);

void kw_soft_hsm_delete_token (KwSoftHsm *self, const char *label);

void kw_soft_hsm_delete_serial (KwSoftHsm *self, const char *serial);

void kw_soft_hsm_reinit_token (KwSoftHsm *self,
                               const char *label,
                               const char *new_label,
                               const char *so_pin,
                               const char *pin);

char **kw_soft_hsm_list_labels (KwSoftHsm *self);

char *kw_soft_hsm_dup_slot (KwSoftHsm *self, const char *label);

char *kw_soft_hsm_dup_serial (KwSoftHsm *self, const char *label);

void kw_soft_hsm_remove_tree (const char *path);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwSoftHsm, kw_soft_hsm_free)

G_END_DECLS
