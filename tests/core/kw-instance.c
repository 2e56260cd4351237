/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-instance"

#include "config.h"

#include "kw-instance.h"

#include "kw-core-fixture.h"
#include "kw-job-private.h"

#include <string.h>

/*
 * What Keyward is without doors and plugins: a record, a pool of fake cards, a vault, set up as a configuration says.
 */

/**
 * kw_instance_set_up:
 * @self: an empty instance
 * @settings: the configuration, as text
 *
 * Fixture function: makes all of it, and starts the pool.
 */
void
kw_instance_set_up (KwInstance *self, gconstpointer settings)
{
  const char *text = settings;
  g_autoptr (GError) error = NULL;
  g_autoptr (KwPinGuard) guard = NULL;
  g_autoptr (KwSecret) pin = kw_secret_new_copy (KW_INSTANCE_PIN, strlen (KW_INSTANCE_PIN), NULL);
  const KwHsmConfig *hsm = NULL;
  KwDeviceOptions options = { 0 };

  self->directory = kw_test_make_directory ();
  self->config = kw_config_new_from_data ("test.toml", text, strlen (text), &error);
  g_assert_no_error (error);
  hsm = kw_config_get_hsm (self->config);
  self->keyring = kw_keyring_new (self->directory);
  kw_keyring_set_keys (self->keyring, hsm->key_ids, hsm->encrypt_hsm, hsm->min_copies);
  guard = kw_pin_guard_new (self->directory);
  options.guard = guard;
  options.keyring = self->keyring;
  options.pin = pin;
  options.timeout_usec = 20 * G_TIME_SPAN_SECOND;
  self->pool = kw_pool_new (&options);
  kw_pool_set_replication (self->pool, hsm->replicate, hsm->min_copies);
  self->backend = kw_fake_backend_new ();
  kw_pool_add_backend (self->pool, KW_BACKEND (self->backend));
  self->vault = kw_vault_new (self->pool, self->keyring, hsm);
  self->caller = kw_caller_new (KW_CALLER_LOCAL, NULL, NULL, "unix", KW_CALLER_NO_UID);
  kw_pool_start (self->pool);
}

/**
 * kw_instance_tear_down:
 * @self: an instance
 * @settings: not used
 *
 * Fixture function: takes it down, and waits for all of it.
 */
void
kw_instance_tear_down (KwInstance *self, gconstpointer settings G_GNUC_UNUSED)
{
  gpointer pool = self->pool;
  gpointer vault = self->vault;

  kw_pool_stop (self->pool);
  kw_vault_stop (self->vault);
  g_object_add_weak_pointer (G_OBJECT (self->pool), &pool);
  g_object_add_weak_pointer (G_OBJECT (self->vault), &vault);
  g_object_unref (self->vault);
  g_object_unref (self->pool);
  while (pool != NULL || vault != NULL)
    if (!g_main_context_iteration (NULL, FALSE))
      g_thread_yield ();
  g_object_unref (self->backend);
  g_object_unref (self->keyring);
  g_object_unref (self->config);
  kw_caller_unref (self->caller);
  while (g_main_context_iteration (NULL, FALSE))
    ;
  kw_test_remove_directory (self->directory);
}

/**
 * kw_instance_new_card:
 * @serial: its serial number
 * @transport_key: what its keys are wrapped with
 *
 * Returns: (transfer full): a token that numbers its keys up to 254, as a card does
 */
KwFakeToken *
kw_instance_new_card (const char *serial, char transport_key)
{
  KwFakeToken *card = kw_fake_token_new (serial, KW_INSTANCE_PIN);

  kw_fake_token_set_transport_key (card, transport_key);
  kw_fake_token_set_numbered (card, 254);
  return card;
}

/**
 * kw_instance_add_key:
 * @card: a card
 * @label: label of the key
 * @reference: its number
 * @value: what it is made of
 *
 * Puts an AES key on the card.
 */
void
kw_instance_add_key (KwFakeToken *card, const char *label, guint reference, guint8 value)
{
  kw_fake_token_add_aes_key (card, &(KwKeyFields){ .reference = reference }, label, value);
}

/**
 * kw_instance_plug:
 * @self: an instance
 * @card: a card
 *
 * Plugs it in and waits until it is ready.
 */
void
kw_instance_plug (KwInstance *self, KwFakeToken *card)
{
  kw_fake_backend_plug (self->backend, card);
  kw_instance_wait_for_state (self, card, KW_DEVICE_READY);
}

/**
 * kw_instance_get_device:
 * @self: an instance
 * @card: a card that is plugged in
 *
 * Returns: (transfer none): the device for it
 */
KwDevice *
kw_instance_get_device (KwInstance *self, KwFakeToken *card)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (self->pool);
  KwDevice *found = NULL;

  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);

      if (kw_device_get_token (device) == KW_TOKEN (card))
        found = device;
    }
  g_assert_nonnull (found);
  return found;
}

/**
 * kw_instance_wait_for_state:
 * @self: an instance
 * @card: a card that is plugged in
 * @state: a state
 *
 * Waits until the device is in that state.
 */
void
kw_instance_wait_for_state (KwInstance *self, KwFakeToken *card, KwDeviceState state)
{
  KwDevice *device = kw_instance_get_device (self, card);

  kw_iterate_until (kw_device_get_state (device) == state);
}

static gboolean
key_is (KwInstance *self, const char *id, KwKeyState state, guint n_copies)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (self->keyring);
  const KwKeyFacts *facts = kw_key_matrix_find_key (matrix, id);

  return facts != NULL && facts->state == state && facts->n_copies == n_copies;
}

/**
 * kw_instance_wait_for_key:
 * @self: an instance
 * @id: an entry of `hsm_keyid`
 * @state: a state
 * @n_copies: on how many devices it is
 *
 * Waits until the matrix says so.
 */
void
kw_instance_wait_for_key (KwInstance *self, const char *id, KwKeyState state, guint n_copies)
{
  kw_iterate_until (key_is (self, id, state, n_copies));
}

/**
 * kw_instance_dup_advice:
 * @self: an instance
 * @id: an entry of `hsm_keyid`
 *
 * Returns: (transfer full) (nullable): what is to be done about the key
 */
char *
kw_instance_dup_advice (KwInstance *self, const char *id)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (self->keyring);

  return g_strdup (kw_key_matrix_find_key (matrix, id)->advice);
}

static void
on_done (KwJob *job G_GNUC_UNUSED, gpointer user_data)
{
  g_atomic_int_inc ((gint *) user_data);
  g_main_context_wakeup (NULL);
}

/**
 * kw_instance_start:
 * @self: an instance
 * @job: a job
 * @n_ended: counts its end
 *
 * Has a job done, by the vault or by the pool alone.
 */
void
kw_instance_start (KwInstance *self, KwJob *job, gint *n_ended)
{
  KwVerb verb = job->verb;

  job->service_callback = on_done;
  job->service_data = n_ended;
  if (verb == KW_VERB_ENCRYPT || verb == KW_VERB_DECRYPT || verb == KW_VERB_REWRAP)
    kw_vault_submit (self->vault, kw_job_ref (job));
  else
    kw_pool_submit (self->pool, kw_job_ref (job));
}

/**
 * kw_instance_run:
 * @self: an instance
 * @job: (transfer full): a job
 *
 * Has a job done and waits for its end.
 *
 * Returns: (transfer full): the job
 */
KwJob *
kw_instance_run (KwInstance *self, KwJob *job)
{
  gint n_ended = 0;

  kw_instance_start (self, job, &n_ended);
  kw_iterate_until (g_atomic_int_get (&n_ended) > 0);
  g_assert_cmpint (n_ended, ==, 1);
  return job;
}

/**
 * kw_instance_encrypt:
 * @self: an instance
 * @text: a message
 *
 * Returns: (transfer full): its envelope
 */
GBytes *
kw_instance_encrypt (KwInstance *self, const char *text)
{
  g_autoptr (KwSecret) message = kw_secret_new_copy (text, strlen (text), NULL);
  g_autoptr (KwJob) job = kw_instance_run (self, kw_job_new_encrypt (self->caller, message, NULL));

  g_assert_no_error (job->error);
  return g_bytes_ref (kw_job_get_envelope (job));
}

/**
 * kw_instance_assert_decrypts:
 * @self: an instance
 * @envelope: an envelope
 * @text: what is in it
 *
 * Decrypts it.
 */
void
kw_instance_assert_decrypts (KwInstance *self, GBytes *envelope, const char *text)
{
  g_autoptr (KwJob) job = kw_instance_run (self, kw_job_new_decrypt (self->caller, envelope, NULL));

  g_assert_no_error (job->error);
  g_assert_true (kw_secret_equal (kw_job_get_plaintext (job), text, strlen (text)));
}
