/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-token"

#include "config.h"

#include "kw-cli-token.h"

#include "kw-audit.h"
#include "kw-cli-access.h"
#include "kw-cli-config.h"
#include "kw-cli-prompt.h"
#include "kw-device.h"
#include "kw-error.h"
#include "kw-names.h"
#include "kw-plugins.h"
#include "kw-uuid.h"

#include <unistd.h>

/*
 * The configured token, opened without the daemon: the same back end, PIN guard, keyring and audit log as there, used by
 * this process for one thing, as the user of the service where root runs it. A running daemon sees what changed in the
 * state directory.
 */
struct _KwCliToken
{
  KwConfig *config;   /* owned */
  KwBackend *backend; /* owned */
  KwDevice *device;   /* owned */
  KwKeyring *keyring; /* owned */
  KwCaller *caller;   /* owned: who runs this, whatever user it goes on as */
};

/* Loads the plugins, once. Doors are among them: they are left alone, but would complain if nobody knew their kind. */
void
kw_cli_load_plugins (void)
{
  kw_plugins_register_point (KW_DOOR_EXTENSION_POINT, G_TYPE_OBJECT);
  kw_plugins_load ();
}

/* All back ends, configured. Loads the plugins. */
GPtrArray *
kw_cli_new_backends (KwConfig *config, GError **error)
{
  kw_cli_load_plugins ();
  return kw_plugins_new_backends (config, error);
}

/* The first token that a back end finds; when none does, the first reason. */
static KwToken *
find_token (KwCliToken *self, GError **error)
{
  g_autoptr (GError) first_error = NULL;
  g_autoptr (GPtrArray) backends = kw_cli_new_backends (self->config, error);

  if (backends == NULL)
    return NULL;
  for (guint i = 0; i < backends->len; i++)
    {
      g_autoptr (GPtrArray) tokens
          = kw_backend_coldplug (g_ptr_array_index (backends, i),
                                 first_error == NULL ? &first_error : NULL);

      if (tokens == NULL)
        continue;
      self->backend = g_object_ref (g_ptr_array_index (backends, i));
      return g_object_ref (g_ptr_array_index (tokens, 0));
    }
  g_propagate_error (error, g_steal_pointer (&first_error));
  return NULL;
}

static KwSecret *
ask_for_pin (KwToken *token, GError **error)
{
  const KwTokenInfo *info = kw_token_get_info (token);
  g_autofree char *label = kw_cli_dup_printable (info->label);
  g_autofree char *prompt = g_strdup_printf ("PIN of token %s (%s): ", label, info->serial);

  return kw_cli_prompt_secret (prompt, error);
}

/* The configured PIN; without one, or when it is a credential of the service, the one that is typed. */
static gboolean
load_pin (KwCliToken *self, KwToken *token, gboolean may_ask, KwSecret **out_pin, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  gboolean loaded = kw_config_load_pin (self->config, &local_error);
  KwSecret *pin = kw_config_get_pkcs11 (self->config)->pin;

  if (loaded && pin != NULL)
    {
      *out_pin = kw_secret_ref (pin);
      return TRUE;
    }
  if (may_ask && kw_cli_prompt_is_possible ()
      && (loaded || g_error_matches (local_error, KW_ERROR, KW_ERROR_CONFIG)))
    {
      *out_pin = ask_for_pin (token, error);
      return *out_pin != NULL;
    }
  if (!loaded)
    g_propagate_error (error, g_steal_pointer (&local_error));
  return loaded;
}

static gboolean
log_in (KwCliToken *self, KwToken *token, GError **error)
{
  const char *state_directory = kw_config_get_state_directory (self->config);
  g_autoptr (KwPinGuard) guard = kw_pin_guard_new (state_directory);
  g_autoptr (KwSecret) pin = NULL;
  KwPinState state = { 0 };
  KwDeviceOptions options = { 0 };

  if (!kw_token_get_pin_state (token, &state, error))
    return FALSE;
  if (state.login_required && !load_pin (self, token, !state.protected_path, &pin, error))
    return FALSE;
  self->keyring = kw_keyring_new (state_directory);
  if (!kw_keyring_load (self->keyring, NULL, error)
      || !kw_pin_guard_login (guard, token, pin, error))
    return FALSE;
  options.guard = guard;
  options.keyring = self->keyring;
  options.pin = pin;
  options.timeout_usec = (gint64) kw_config_get_pkcs11 (self->config)->timeout * G_USEC_PER_SEC;
  self->device = kw_device_new (token, &options);
  return TRUE;
}

/* Finds the configured token and logs in, by the rules of the PIN guard. */
KwCliToken *
kw_cli_token_open (KwCli *cli, GError **error)
{
  g_autoptr (KwCliToken) self = g_new0 (KwCliToken, 1);
  g_autoptr (KwToken) token = NULL;
  gboolean guessed = FALSE;

  self->caller = kw_caller_new (KW_CALLER_LOCAL, g_get_user_name (), NULL, "local", getuid ());
  self->config = kw_cli_config_load (cli, error);
  if (self->config == NULL || !kw_cli_config_ensure_module (cli, self->config, &guessed, error))
    return NULL;
  /* What the configuration names is read as whoever runs this; why it cannot be is told when it is needed. */
  kw_config_load_pin (self->config, NULL);
  if (!kw_cli_become_service (kw_config_get_state_directory (self->config), error))
    return NULL;
  token = find_token (self, error);
  if (token == NULL && guessed)
    g_prefix_error (error, "%s (no [pkcs11] module is configured): ",
                    kw_config_get_pkcs11 (self->config)->module);
  if (token == NULL || !log_in (self, token, error))
    return NULL;
  return g_steal_pointer (&self);
}

void
kw_cli_token_close (KwCliToken *self)
{
  g_return_if_fail (self != NULL);

  if (self->device != NULL)
    kw_device_close (self->device);
  g_clear_object (&self->device);
  g_clear_object (&self->keyring);
  g_clear_object (&self->backend);
  g_clear_object (&self->config);
  kw_caller_unref (self->caller);
  g_free (self);
}

/* An RSA key of the token, if it is the one that was recorded under its id. */
KwKey *
kw_cli_token_find_key (KwCliToken *self, GBytes *id, GError **error)
{
  g_autoptr (KwKey) key
      = kw_token_find_key (kw_device_get_token (self->device), KW_KEY_KIND_RSA, id, error);
  g_autoptr (GPtrArray) keys = g_ptr_array_new ();
  g_autoptr (GPtrArray) admitted = NULL;
  g_autoptr (GPtrArray) different = NULL;

  if (key == NULL)
    return NULL;
  g_ptr_array_add (keys, key);
  admitted = kw_keyring_admit (self->keyring, keys, &different, error);
  if (admitted == NULL)
    return NULL;
  if (different->len > 0)
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_KEY_MISMATCH,
          "The key %s on the token is not the one recorded under this id, so it is not used; if it was replaced "
          "on purpose, run: keyward keys accept %s",
          kw_key_get_uuid (key), kw_key_get_uuid (key));
      return NULL;
    }
  return g_steal_pointer (&key);
}

/* Opened before the key is used: what cannot be recorded is not done. */
static KwAudit *
open_audit (KwCliToken *self, GError **error)
{
  return kw_audit_new (kw_config_get_audit_path (self->config),
                       kw_config_get_state_directory (self->config), error);
}

static void
write_audit (KwCliToken *self, KwAudit *audit, KwJob *job, gint64 started, const GError *error)
{
  KwAuditRecord record = {
    .job = job,
    .device = kw_device_get_name (self->device),
    .result = error == NULL ? "ok" : kw_error_to_string ((KwError) error->code),
    .duration_usec = g_get_monotonic_time () - started,
  };

  kw_audit_write (audit, &record);
}

/* Makes an RSA pair with a new UUID, and records its fingerprint. */
KwKey *
kw_cli_token_generate_rsa (KwCliToken *self, guint bits, const char *label, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  g_autoptr (KwAudit) audit = open_audit (self, error);
  g_autoptr (KwJob) job = kw_job_new_generate_rsa (self->caller, bits, label);
  g_autoptr (GBytes) id = audit != NULL ? kw_uuid_new_v1 (error) : NULL;
  gint64 started = g_get_monotonic_time ();
  KwKey *key = NULL;

  if (id == NULL)
    return NULL;
  kw_job_set_key_id (job, id);
  key = kw_device_generate_rsa (self->device, bits, id, label, &local_error);
  if (key != NULL && !kw_device_record_key (self->device, key, &local_error))
    g_clear_pointer (&key, kw_key_unref);
  write_audit (self, audit, job, started, local_error);
  if (key == NULL)
    g_propagate_error (error, g_steal_pointer (&local_error));
  return key;
}

/* Decrypts one block whose plaintext is padded by PKCS#1 v1.5. */
KwSecret *
kw_cli_token_rsa_decrypt (KwCliToken *self, GBytes *id, GBytes *ciphertext, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  g_autoptr (KwAudit) audit = open_audit (self, error);
  g_autoptr (KwJob) job
      = kw_job_new_rsa_decrypt (self->caller, id, KW_RSA_PADDING_PKCS1, ciphertext);
  g_autoptr (KwKey) key = NULL;
  gint64 started = g_get_monotonic_time ();
  KwSecret *plaintext = NULL;

  if (audit == NULL)
    return NULL;
  key = kw_cli_token_find_key (self, id, &local_error);
  if (key != NULL)
    plaintext
        = kw_device_rsa_decrypt (self->device, id, KW_RSA_PADDING_PKCS1, ciphertext, &local_error);
  write_audit (self, audit, job, started, local_error);
  if (plaintext == NULL)
    g_propagate_error (error, g_steal_pointer (&local_error));
  return plaintext;
}
