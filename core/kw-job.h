/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-caller.h"
#include "kw-token.h"

G_BEGIN_DECLS

/**
 * KwVerb:
 * @KW_VERB_RSA_DECRYPT: decrypt one block with an RSA key
 * @KW_VERB_GENERATE_RSA: make an RSA pair
 *
 * What a caller wants done.
 */
typedef enum
{
  KW_VERB_RSA_DECRYPT,
  KW_VERB_GENERATE_RSA,
} KwVerb;

#define KW_N_VERBS (KW_VERB_GENERATE_RSA + 1)

const char *kw_verb_to_string (KwVerb verb);

typedef struct _KwJob KwJob;

typedef void (*KwJobFunc) (KwJob *job, gpointer user_data);

KwJob *
kw_job_new_rsa_decrypt (KwCaller *caller, GBytes *key_id, KwRsaPadding padding, GBytes *ciphertext);

KwJob *kw_job_new_generate_rsa (KwCaller *caller, guint bits, const char *label);

KwJob *kw_job_ref (KwJob *self);

void kw_job_unref (KwJob *self);

void kw_job_set_key_id (KwJob *self, GBytes *key_id);

void kw_job_set_callback (KwJob *self, KwJobFunc callback, gpointer user_data);

void kw_job_set_may_run_here (KwJob *self, gboolean may_run_here);

KwVerb kw_job_get_verb (const KwJob *self);

KwCaller *kw_job_get_caller (const KwJob *self);

GBytes *kw_job_get_key_id (const KwJob *self);

KwSecret *kw_job_get_plaintext (const KwJob *self);

KwKey *kw_job_get_key (const KwJob *self);

const GError *kw_job_get_error (const KwJob *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwJob, kw_job_unref)

G_END_DECLS
