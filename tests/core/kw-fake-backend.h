/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-backend.h"
#include "kw-fake-token.h"

G_BEGIN_DECLS

#define KW_TYPE_FAKE_BACKEND (kw_fake_backend_get_type ())
G_DECLARE_FINAL_TYPE (KwFakeBackend, kw_fake_backend, KW, FAKE_BACKEND, GObject)

KwFakeBackend *kw_fake_backend_new (void);

KwFakeBackend *kw_fake_backend_get_newest (void);

void kw_fake_backend_plug (KwFakeBackend *self, KwFakeToken *token);

void kw_fake_backend_unplug (KwFakeBackend *self, KwFakeToken *token);

void kw_fake_backend_set_status_text (KwFakeBackend *self, const char *text);

void kw_fake_backend_set_expecting (KwFakeBackend *self, gboolean expecting);

guint kw_fake_backend_get_n_resets (KwFakeBackend *self);

gboolean kw_fake_backend_is_running (KwFakeBackend *self);

G_END_DECLS
