/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-job"

#include "config.h"

#include "kw-job-private.h"

/*
 * One thing that a caller wants done with a key: the question, and later the answer.
 */

static const struct
{
  const char *nick;
  KwVerbClass verb_class;
} verbs[] = {
  [KW_VERB_RSA_DECRYPT] = { "rsa-decrypt", KW_VERB_CLASS_USE_KEYS },
  [KW_VERB_GENERATE_RSA] = { "generate-rsa", KW_VERB_CLASS_MANAGE_KEYS },
  [KW_VERB_ENCRYPT] = { "encrypt", KW_VERB_CLASS_USE_KEYS },
  [KW_VERB_DECRYPT] = { "decrypt", KW_VERB_CLASS_USE_KEYS },
  [KW_VERB_REWRAP] = { "rewrap", KW_VERB_CLASS_USE_KEYS },
  [KW_VERB_RANDOM] = { "random", KW_VERB_CLASS_USE_KEYS },
  [KW_VERB_GENERATE_AES] = { "generate-aes", KW_VERB_CLASS_MANAGE_KEYS },
  [KW_VERB_RUN_TEST] = { "run-test", KW_VERB_CLASS_TEST },
  [KW_VERB_CHECK_KEYS] = { "check-keys", KW_VERB_CLASS_TEST },
  [KW_VERB_RETRY_DEVICE] = { "retry-device", KW_VERB_CLASS_MANAGE_DEVICES },
  [KW_VERB_ACCEPT_KEY] = { "accept-key", KW_VERB_CLASS_MANAGE_KEYS },
  [KW_VERB_UNLOCK] = { "unlock", KW_VERB_CLASS_UNLOCK },
  [KW_VERB_RELOAD] = { "reload", KW_VERB_CLASS_MANAGE_DEVICES },
  [KW_VERB_WEB_LOGIN] = { "web-login", KW_VERB_CLASS_TEST },
};

G_STATIC_ASSERT (G_N_ELEMENTS (verbs) == KW_N_VERBS);

static KwJob *
job_new (KwVerb verb, KwCaller *caller)
{
  KwJob *self = g_new0 (KwJob, 1);

  g_atomic_ref_count_init (&self->references);
  self->verb = verb;
  self->caller = kw_caller_ref (caller);
  return self;
}

/**
 * kw_verb_to_string:
 * @verb: a verb
 *
 * Returns: (transfer none): its nick, as the audit log shows it. Any thread.
 */
const char *
kw_verb_to_string (KwVerb verb)
{
  g_return_val_if_fail ((guint) verb < G_N_ELEMENTS (verbs), NULL);

  return verbs[verb].nick;
}

/**
 * kw_verb_get_class:
 * @verb: a verb
 *
 * Returns: the class it is granted with. Any thread.
 */
KwVerbClass
kw_verb_get_class (KwVerb verb)
{
  g_return_val_if_fail ((guint) verb < G_N_ELEMENTS (verbs), KW_VERB_CLASS_USE_KEYS);

  return verbs[verb].verb_class;
}

/**
 * kw_job_new_rsa_decrypt:
 * @caller: who asks
 * @key_id: CKA_ID of an RSA key
 * @padding: how the plaintext was padded
 * @ciphertext: one block, as long as the modulus
 *
 * Returns: (transfer full): a job that decrypts. Any thread.
 */
KwJob *
kw_job_new_rsa_decrypt (KwCaller *caller, GBytes *key_id, KwRsaPadding padding, GBytes *ciphertext)
{
  KwJob *self = job_new (KW_VERB_RSA_DECRYPT, caller);

  self->key_id = g_bytes_ref (key_id);
  self->padding = padding;
  self->input = g_bytes_ref (ciphertext);
  return self;
}

/**
 * kw_job_new_generate_rsa:
 * @caller: who asks
 * @bits: 2048, 3072 or 4096
 * @label: (nullable): CKA_LABEL
 *
 * Returns: (transfer full): a job that makes an RSA pair with a new UUID as its CKA_ID. Any thread.
 */
KwJob *
kw_job_new_generate_rsa (KwCaller *caller, guint bits, const char *label)
{
  KwJob *self = job_new (KW_VERB_GENERATE_RSA, caller);

  self->bits = bits;
  self->label = g_strdup (label);
  return self;
}

/**
 * kw_job_new_generate_aes:
 * @caller: who asks
 * @bits: 128, 192 or 256
 * @label: (nullable): CKA_LABEL
 *
 * Returns: (transfer full): a job that makes an AES key whose CKA_ID comes after those of all others, so that no key that is
 *   configured by its place becomes another one. Any thread.
 */
KwJob *
kw_job_new_generate_aes (KwCaller *caller, guint bits, const char *label)
{
  KwJob *self = job_new (KW_VERB_GENERATE_AES, caller);

  self->bits = bits;
  self->label = g_strdup (label);
  return self;
}

/**
 * kw_job_new_encrypt:
 * @caller: who asks
 * @plaintext: the message
 * @associated_data: (nullable): what is not encrypted, but must be the same when the message is decrypted
 *
 * Returns: (transfer full): a job that encrypts under the first key; kw_job_get_envelope() has the result. Any thread.
 */
KwJob *
kw_job_new_encrypt (KwCaller *caller, KwSecret *plaintext, GBytes *associated_data)
{
  KwJob *self = job_new (KW_VERB_ENCRYPT, caller);

  self->message = kw_secret_ref (plaintext);
  self->associated_data = associated_data != NULL ? g_bytes_ref (associated_data) : NULL;
  return self;
}

static KwJob *
job_new_for_envelope (KwVerb verb, KwCaller *caller, GBytes *envelope, GBytes *associated_data)
{
  KwJob *self = job_new (verb, caller);

  self->input = g_bytes_ref (envelope);
  self->associated_data = associated_data != NULL ? g_bytes_ref (associated_data) : NULL;
  return self;
}

/**
 * kw_job_new_decrypt:
 * @caller: who asks
 * @envelope: what was encrypted, in bytes or as text
 * @associated_data: (nullable): as it was given then
 *
 * Returns: (transfer full): a job that decrypts; kw_job_get_plaintext() has the result. Any thread.
 */
KwJob *
kw_job_new_decrypt (KwCaller *caller, GBytes *envelope, GBytes *associated_data)
{
  return job_new_for_envelope (KW_VERB_DECRYPT, caller, envelope, associated_data);
}

/**
 * kw_job_new_rewrap:
 * @caller: who asks
 * @envelope: what was encrypted, in bytes or as text
 * @associated_data: (nullable): as it was given then
 *
 * Returns: (transfer full): a job that brings a message under the first key; kw_job_get_envelope() and kw_job_get_changed()
 *   have the result. Any thread.
 */
KwJob *
kw_job_new_rewrap (KwCaller *caller, GBytes *envelope, GBytes *associated_data)
{
  return job_new_for_envelope (KW_VERB_REWRAP, caller, envelope, associated_data);
}

/**
 * kw_job_new_random:
 * @caller: who asks
 * @size: how many bytes, 1 to KW_MAX_RANDOM_BYTES
 *
 * Returns: (transfer full): a job that lets a device make random bytes; kw_job_get_plaintext() has them. Any thread.
 */
KwJob *
kw_job_new_random (KwCaller *caller, gsize size)
{
  KwJob *self = job_new (KW_VERB_RANDOM, caller);

  self->n_random = size;
  return self;
}

/**
 * kw_job_ref:
 * @self: a job
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwJob *
kw_job_ref (KwJob *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_job_unref:
 * @self: (transfer full): a job
 *
 * Gives a reference back. Any thread.
 */
void
kw_job_unref (KwJob *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  kw_caller_unref (self->caller);
  g_clear_pointer (&self->key_id, g_bytes_unref);
  g_clear_pointer (&self->input, g_bytes_unref);
  g_clear_pointer (&self->message, kw_secret_unref);
  g_clear_pointer (&self->associated_data, g_bytes_unref);
  g_clear_pointer (&self->step.input, kw_secret_unref);
  g_clear_pointer (&self->step.output, kw_secret_unref);
  g_clear_pointer (&self->output, g_bytes_unref);
  g_free (self->key_name);
  g_free (self->wanted_key);
  g_free (self->fingerprint);
  g_free (self->old_fingerprint);
  g_free (self->label);
  g_clear_pointer (&self->plaintext, kw_secret_unref);
  g_clear_pointer (&self->key, kw_key_unref);
  g_clear_error (&self->error);
  g_free (self->last_reason);
  g_clear_error (&self->refusal);
  g_free (self->device_name);
  g_free (self);
}

/**
 * kw_job_set_key_id:
 * @self: a job that makes a key and was not submitted yet
 * @key_id: CKA_ID of the key to be made
 *
 * Chooses the id of the new key, which is a new UUID otherwise.
 */
void
kw_job_set_key_id (KwJob *self, GBytes *key_id)
{
  g_return_if_fail (self != NULL && self->key_id == NULL);

  self->key_id = g_bytes_ref (key_id);
}

/**
 * kw_job_set_key_name:
 * @self: a job that encrypts and was not submitted yet
 * @key_name: (nullable): an entry of `hsm_keyid`; %NULL for the first
 *
 * Chooses the key to encrypt under. It has to be as fit to encrypt as the first one has to be.
 */
void
kw_job_set_key_name (KwJob *self, const char *key_name)
{
  g_return_if_fail (self != NULL && self->verb == KW_VERB_ENCRYPT);

  g_free (self->wanted_key);
  self->wanted_key = g_strdup (key_name);
}

/**
 * kw_job_cancel:
 * @self: a job, submitted or not
 *
 * Says that nobody waits for it any more: it ends with %KW_ERROR_CANCELLED as soon as it is not in the hands of a device. What a
 * device is doing is not broken off. Any thread.
 */
void
kw_job_cancel (KwJob *self)
{
  g_return_if_fail (self != NULL);

  g_atomic_int_set (&self->cancelled, TRUE);
}

/**
 * kw_job_is_cancelled:
 * @self: a job
 *
 * Returns: whether nobody waits for it any more. Any thread.
 */
gboolean
kw_job_is_cancelled (const KwJob *self)
{
  return g_atomic_int_get (&self->cancelled);
}

/**
 * kw_job_set_callback:
 * @self: a job that was not submitted yet
 * @callback: told once when the job has ended, on any thread; must not block
 * @user_data: for @callback
 *
 * Says who wants the answer.
 */
void
kw_job_set_callback (KwJob *self, KwJobFunc callback, gpointer user_data)
{
  self->callback = callback;
  self->callback_data = user_data;
}

/**
 * kw_job_set_may_run_here:
 * @self: a job that was not submitted yet
 * @may_run_here: the submitting thread may be kept by the token, for ever if the token hangs
 *
 * Lets a fast token be used on the submitting thread.
 */
void
kw_job_set_may_run_here (KwJob *self, gboolean may_run_here)
{
  self->may_run_here = may_run_here;
}

/**
 * kw_job_get_verb:
 * @self: a job
 *
 * Returns: what is asked
 */
KwVerb
kw_job_get_verb (const KwJob *self)
{
  return self->verb;
}

/**
 * kw_job_get_caller:
 * @self: a job
 *
 * Returns: (transfer none): who asks
 */
KwCaller *
kw_job_get_caller (const KwJob *self)
{
  return self->caller;
}

/**
 * kw_job_get_key_id:
 * @self: a job
 *
 * Returns: (transfer none) (nullable): CKA_ID of the key it is about
 */
GBytes *
kw_job_get_key_id (const KwJob *self)
{
  return self->key_id;
}

/**
 * kw_job_get_plaintext:
 * @self: a job that has ended
 *
 * Returns: (transfer none) (nullable): what was decrypted, or random bytes
 */
KwSecret *
kw_job_get_plaintext (const KwJob *self)
{
  return self->plaintext;
}

/**
 * kw_job_get_key:
 * @self: a job that has ended
 *
 * Returns: (transfer none) (nullable): the key that was made
 */
KwKey *
kw_job_get_key (const KwJob *self)
{
  return self->key;
}

/**
 * kw_job_get_envelope:
 * @self: a job that has ended
 *
 * Returns: (transfer none) (nullable): what was encrypted or rewrapped, in bytes; kw_envelope_to_text() makes text of it
 */
GBytes *
kw_job_get_envelope (const KwJob *self)
{
  return self->output;
}

/**
 * kw_job_get_changed:
 * @self: a job that rewraps and has ended
 *
 * Returns: %FALSE when the message was under the first key already, so that what came out is what went in
 */
gboolean
kw_job_get_changed (const KwJob *self)
{
  return self->changed;
}

/**
 * kw_job_get_key_name:
 * @self: a job that has ended
 *
 * Returns: (transfer none) (nullable): the entry of `hsm_keyid` that was used; when rewrapping, the one it is under now
 */
const char *
kw_job_get_key_name (const KwJob *self)
{
  return self->key_name;
}

/**
 * kw_job_get_fingerprint:
 * @self: a job that has ended
 *
 * Returns: (transfer none) (nullable): fingerprint of that key in hex
 */
const char *
kw_job_get_fingerprint (const KwJob *self)
{
  return self->fingerprint;
}

/**
 * kw_job_get_device_name:
 * @self: a job that has ended
 *
 * Returns: (transfer none) (nullable): the device that did it; %NULL when none had to
 */
const char *
kw_job_get_device_name (const KwJob *self)
{
  return self->device_name;
}

/**
 * kw_job_get_error:
 * @self: a job that has ended
 *
 * Returns: (transfer none) (nullable): why it failed; %NULL when it did not
 */
const GError *
kw_job_get_error (const KwJob *self)
{
  return self->error;
}
