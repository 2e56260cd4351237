/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-fake-backend.h"
#include "kw-vault.h"

G_BEGIN_DECLS

#define KW_INSTANCE_PIN "648219"

/* A whole instance: record, devices, vault. */
typedef struct
{
  char *directory;
  KwConfig *config;
  KwKeyring *keyring;
  KwFakeBackend *backend;
  KwPool *pool;
  KwVault *vault;
  KwCaller *caller;
} KwInstance;

void kw_instance_set_up (KwInstance *self, gconstpointer settings);

void kw_instance_tear_down (KwInstance *self, gconstpointer settings);

KwFakeToken *kw_instance_new_card (const char *serial, char transport_key);

void kw_instance_add_key (KwFakeToken *card, const char *label, guint reference, guint8 value);

void kw_instance_plug (KwInstance *self, KwFakeToken *card);

KwDevice *kw_instance_get_device (KwInstance *self, KwFakeToken *card);

void kw_instance_wait_for_state (KwInstance *self, KwFakeToken *card, KwDeviceState state);

void kw_instance_wait_for_key (KwInstance *self, const char *id, KwKeyState state, guint n_copies);

char *kw_instance_dup_advice (KwInstance *self, const char *id);

KwJob *kw_instance_run (KwInstance *self, KwJob *job);

void kw_instance_start (KwInstance *self, KwJob *job, gint *n_ended);

GBytes *kw_instance_encrypt (KwInstance *self, const char *text);

void kw_instance_assert_decrypts (KwInstance *self, GBytes *envelope, const char *text);

G_END_DECLS
