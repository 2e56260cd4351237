/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-error.h"
#include "kw-token.h"

G_BEGIN_DECLS

/**
 * KwFakeCall:
 *
 * The calls of a token that can be counted, held up and made to fail.
 */
typedef enum
{
  KW_FAKE_GET_PIN_STATE,
  KW_FAKE_LOGIN,
  KW_FAKE_LIST_KEYS,
  KW_FAKE_RSA_DECRYPT,
  KW_FAKE_AES_CBC,
  KW_FAKE_RANDOM,
  KW_FAKE_GENERATE_AES,
  KW_FAKE_GENERATE_RSA,
  KW_FAKE_DELETE_KEY,
  KW_FAKE_EXPORT_KEY,
  KW_FAKE_IMPORT_KEY,
  KW_FAKE_SIGN,
  KW_FAKE_CLOSE,
} KwFakeCall;

#define KW_N_FAKE_CALLS (KW_FAKE_CLOSE + 1)

#define KW_TYPE_FAKE_TOKEN (kw_fake_token_get_type ())
G_DECLARE_FINAL_TYPE (KwFakeToken, kw_fake_token, KW, FAKE_TOKEN, GObject)

KwFakeToken *kw_fake_token_new (const char *serial, const char *pin);

KwKey *kw_fake_key_new (const char *id, const char *material);

void kw_fake_token_add_key (KwFakeToken *self, const char *id, const char *material);

void kw_fake_token_add_aes_key (KwFakeToken *self,
                                const KwKeyFields *fields,
                                const char *label,
                                guint8 value);

void kw_fake_token_set_transport_key (KwFakeToken *self, char transport_key);

void kw_fake_token_set_numbered (KwFakeToken *self, guint last);

void kw_fake_token_set_can_clone (KwFakeToken *self, gboolean can_clone, const char *check_value);

void kw_fake_token_make_signing_key (KwFakeToken *self, const char *id, KwKeyKind kind);

guint kw_fake_token_get_n_keys (KwFakeToken *self);

void kw_fake_token_remove_keys (KwFakeToken *self);

void kw_fake_token_set_pin (KwFakeToken *self, const char *pin);

KwPinState *kw_fake_token_get_state (KwFakeToken *self);

void kw_fake_token_set_concurrency (KwFakeToken *self, guint concurrency);

void kw_fake_token_log_out (KwFakeToken *self);

void kw_fake_token_fail (KwFakeToken *self, KwFakeCall call, KwError code, guint times);

void kw_fake_token_hold (KwFakeToken *self, KwFakeCall call, gboolean hold);

void kw_fake_token_wait_inside (KwFakeToken *self, KwFakeCall call, guint n_inside);

guint kw_fake_token_get_n_calls (KwFakeToken *self, KwFakeCall call);

void kw_fake_token_use_real_random (KwFakeToken *self);

G_END_DECLS
