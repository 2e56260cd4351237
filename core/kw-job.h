/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-caller.h"
#include "kw-token.h"

G_BEGIN_DECLS

/**
 * KwVerb:
 * @KW_VERB_RSA_DECRYPT: decrypt one block with an RSA key
 * @KW_VERB_GENERATE_RSA: make an RSA pair
 * @KW_VERB_ENCRYPT: encrypt a message under the first key of `hsm_keyid`
 * @KW_VERB_DECRYPT: decrypt a message under any of them
 * @KW_VERB_REWRAP: encrypt anew under the first key what was encrypted under another
 * @KW_VERB_RANDOM: random bytes made by a device
 * @KW_VERB_GENERATE_AES: make an AES key
 * @KW_VERB_RUN_TEST: test devices and keys
 * @KW_VERB_CHECK_KEYS: look at all keys anew
 * @KW_VERB_RETRY_DEVICE: let a refused PIN be presented once more
 * @KW_VERB_ACCEPT_KEY: say which key is right
 * @KW_VERB_UNLOCK: give the PIN
 * @KW_VERB_RELOAD: read the configuration anew
 * @KW_VERB_WEB_LOGIN: let a browser in
 *
 * What a caller wants done.
 */
typedef enum
{
  KW_VERB_RSA_DECRYPT,
  KW_VERB_GENERATE_RSA,
  KW_VERB_ENCRYPT,
  KW_VERB_DECRYPT,
  KW_VERB_REWRAP,
  KW_VERB_RANDOM,
  KW_VERB_GENERATE_AES,
  KW_VERB_RUN_TEST,
  KW_VERB_CHECK_KEYS,
  KW_VERB_RETRY_DEVICE,
  KW_VERB_ACCEPT_KEY,
  KW_VERB_UNLOCK,
  KW_VERB_RELOAD,
  KW_VERB_WEB_LOGIN,
} KwVerb;

#define KW_N_VERBS (KW_VERB_WEB_LOGIN + 1)

const char *kw_verb_to_string (KwVerb verb);

KwVerbClass kw_verb_get_class (KwVerb verb);

typedef struct _KwJob KwJob;

typedef void (*KwJobFunc) (KwJob *job, gpointer user_data);

KwJob *
kw_job_new_rsa_decrypt (KwCaller *caller, GBytes *key_id, KwRsaPadding padding, GBytes *ciphertext);

KwJob *kw_job_new_generate_rsa (KwCaller *caller, guint bits, const char *label);

KwJob *kw_job_new_generate_aes (KwCaller *caller, guint bits, const char *label);

KwJob *kw_job_new_encrypt (KwCaller *caller, KwSecret *plaintext, GBytes *associated_data);

KwJob *kw_job_new_decrypt (KwCaller *caller, GBytes *envelope, GBytes *associated_data);

KwJob *kw_job_new_rewrap (KwCaller *caller, GBytes *envelope, GBytes *associated_data);

KwJob *kw_job_new_random (KwCaller *caller, gsize size);

KwJob *kw_job_ref (KwJob *self);

void kw_job_unref (KwJob *self);

void kw_job_set_key_id (KwJob *self, GBytes *key_id);

void kw_job_set_key_name (KwJob *self, const char *key_name);

void kw_job_cancel (KwJob *self);

gboolean kw_job_is_cancelled (const KwJob *self);

void kw_job_set_callback (KwJob *self, KwJobFunc callback, gpointer user_data);

void kw_job_set_may_run_here (KwJob *self, gboolean may_run_here);

KwVerb kw_job_get_verb (const KwJob *self);

KwCaller *kw_job_get_caller (const KwJob *self);

GBytes *kw_job_get_key_id (const KwJob *self);

KwSecret *kw_job_get_plaintext (const KwJob *self);

KwKey *kw_job_get_key (const KwJob *self);

GBytes *kw_job_get_envelope (const KwJob *self);

gboolean kw_job_get_changed (const KwJob *self);

const char *kw_job_get_key_name (const KwJob *self);

const char *kw_job_get_fingerprint (const KwJob *self);

const char *kw_job_get_device_name (const KwJob *self);

const GError *kw_job_get_error (const KwJob *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwJob, kw_job_unref)

G_END_DECLS
