/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pin-guard"

#include "config.h"

#include "kw-pin-guard.h"

#include "kw-error.h"
#include "kw-names.h"
#include "kw-state-file.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

/*
 * Stands between a PIN and a token, so that no card is ever locked by a program. For each token the state directory
 * remembers, as keyed hashes, the PIN it refused, the one it accepted last, and the one whose fate is not known because
 * the process ended while it was being presented. The last is written before a PIN is presented for the first time and
 * counts as refused.
 *
 * Rules: a refused PIN is not presented again until it changes or the administrator says so; the last try is never used;
 * with two tries left only a PIN that this token accepted before (or that the administrator asked to be tried) is used.
 *
 * Any thread; calls block on the token and on the disk.
 */
struct _KwPinGuard
{
  GObject parent_instance;

  char *state_directory; /* owned */
  GMutex lock;           /* held for a moment only, never over a call into a token */
  GHashTable *turns; /* owned; guarded by lock: group of a token → GMutex, held over its login */
  GHashTable *
      unrecorded; /* owned; guarded by lock: hashes of refused PINs that could not be written down */
};

G_DEFINE_FINAL_TYPE (KwPinGuard, kw_pin_guard, G_TYPE_OBJECT)

#define GROUP_GUARD "guard"
#define KEY_HASH_KEY "key"
#define GROUP_TOKEN_PREFIX "token "
#define KEY_REFUSED "refused"
#define KEY_ACCEPTED "accepted"
#define KEY_PENDING "pending"
#define KEY_RETRY "retry"
#define DEFAULT_PIN_NAME "[pkcs11] pin"
#define HASH_KEY_BYTES 32
#define HASH_BYTES 32

typedef struct
{
  KwToken *token;          /* borrowed */
  const KwPinState *state; /* borrowed */
  KwSecret *pin;           /* borrowed */
  const char *pin_name;    /* borrowed; the setting the PIN stands in */
  KwPinGuard *guard;       /* borrowed, nullable: who remembers what could not be written down */
  KwPinOutcome outcome;
} LoginStep;

static char *
token_group (const KwTokenInfo *info)
{
  g_autofree char *serial = g_uri_escape_string (info->serial, NULL, FALSE);
  g_autofree char *maker = g_uri_escape_string (info->manufacturer, NULL, FALSE);

  return g_strconcat (GROUP_TOKEN_PREFIX, serial, " ", maker, NULL);
}

/* HMAC-SHA-256 over serial number, a zero byte and the PIN; by libcrypto, in memory that is wiped. */
static char *
hash_pin (GKeyFile *contents, const KwTokenInfo *info, KwSecret *pin)
{
  g_autofree char *key = g_key_file_get_string (contents, GROUP_GUARD, KEY_HASH_KEY, NULL);
  gsize n_serial = strlen (info->serial) + 1;
  gsize n_pin = kw_secret_get_size (pin);
  g_autoptr (KwSecret) input = kw_secret_new (n_serial + n_pin, NULL);
  guint8 digest[HASH_BYTES];
  gsize n_digest = 0;
  GString *hex = NULL;

  if (key == NULL || input == NULL)
    return NULL;
  memcpy (kw_secret_get_data (input), info->serial, n_serial);
  memcpy (kw_secret_get_data (input) + n_serial, kw_secret_get_data (pin), n_pin);
  if (EVP_Q_mac (NULL, "HMAC", NULL, "SHA256", NULL, key, strlen (key), kw_secret_get_data (input),
                 n_serial + n_pin, digest, sizeof digest, &n_digest)
      == NULL)
    return NULL;
  hex = g_string_sized_new (2 * n_digest);
  for (gsize i = 0; i < n_digest; i++)
    g_string_append_printf (hex, "%02x", digest[i]);
  return g_string_free (hex, FALSE);
}

static gboolean
ensure_hash_key (GKeyFile *contents, gboolean *out_changed, GError **error)
{
  guint8 key[HASH_KEY_BYTES];
  g_autoptr (GString) hex = g_string_new (NULL);

  if (g_key_file_has_key (contents, GROUP_GUARD, KEY_HASH_KEY, NULL))
    return TRUE;
  if (RAND_priv_bytes (key, sizeof key) != 1)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED, "The random number generator failed");
      return FALSE;
    }
  for (guint i = 0; i < sizeof key; i++)
    g_string_append_printf (hex, "%02x", key[i]);
  g_key_file_set_comment (contents, NULL, NULL,
                          " Which PIN each token refused or accepted, as keyed hashes.", NULL);
  g_key_file_set_string (contents, GROUP_GUARD, KEY_HASH_KEY, hex->str);
  *out_changed = TRUE;
  return TRUE;
}

static gboolean
entry_equals (GKeyFile *contents, const char *group, const char *key, const char *hash)
{
  g_autofree char *value = g_key_file_get_string (contents, group, key, NULL);

  return value != NULL && hash != NULL && strlen (value) == strlen (hash)
         && CRYPTO_memcmp (value, hash, strlen (hash)) == 0;
}

/* A refusal that could not be written down. */
static gboolean
is_unrecorded (KwPinGuard *self, const char *hash)
{
  gboolean found = FALSE;

  if (self == NULL || hash == NULL)
    return FALSE;
  g_mutex_lock (&self->lock);
  found = g_hash_table_contains (self->unrecorded, hash);
  g_mutex_unlock (&self->lock);
  return found;
}

static gboolean
check_tries (const KwTokenInfo *info,
             const KwPinState *state,
             gboolean accepted_before,
             gboolean retry,
             GError **error)
{
  if (state->locked || state->tries_left == 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_PIN_LOCKED,
                   "The PIN of token %s (%s) is locked; unlock it with the SO-PIN", info->label,
                   info->serial);
      return FALSE;
    }
  if (state->final_try || state->tries_left == 1)
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_PIN_PROTECTED,
          "Token %s (%s) has one try of its PIN left, which is never used by a program; log in once by hand, for "
          "example with: pkcs11-tool --login",
          info->label, info->serial);
      return FALSE;
    }
  if (state->tries_left == 2 && !accepted_before && !retry)
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_PIN_PROTECTED,
          "Token %s (%s) has two tries of its PIN left and never accepted this one; if it is right, run: keyward "
          "device retry %s",
          info->label, info->serial, info->serial);
      return FALSE;
    }
  return TRUE;
}

/* The token itself says that no wrong PIN was presented since the last right one. */
static gboolean
no_try_is_missing (const KwPinState *state)
{
  return !state->count_low && !state->final_try && (state->tries_left < 0 || state->tries_left > 2);
}

/* Applies the rules; with them satisfied, says whether this token accepted this PIN before. */
static gboolean
check_rules (GKeyFile *contents,
             const LoginStep *step,
             gboolean *out_accepted_before,
             GError **error)
{
  const KwTokenInfo *info = kw_token_get_info (step->token);
  g_autofree char *group = token_group (info);
  g_autofree char *hash = NULL;
  gboolean accepted_before = FALSE;
  gboolean retry = g_key_file_get_boolean (contents, group, KEY_RETRY, NULL);

  if (step->pin == NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_PIN_REQUIRED, "Token %s (%s) wants a PIN; set %s",
                   info->label, info->serial, step->pin_name);
      return FALSE;
    }
  hash = hash_pin (contents, info, step->pin);
  accepted_before = entry_equals (contents, group, KEY_ACCEPTED, hash);
  if (entry_equals (contents, group, KEY_REFUSED, hash)
      || (!retry && is_unrecorded (step->guard, hash)))
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_PIN_LATCHED,
          "Token %s (%s) refused this PIN before, so it is not presented again; correct %s, or run: "
          "keyward device retry %s",
          info->label, info->serial, step->pin_name, info->serial);
      return FALSE;
    }
  if (entry_equals (contents, group, KEY_PENDING, hash)
      && !(accepted_before && no_try_is_missing (step->state)))
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_PIN_LATCHED,
          "It is not known whether token %s (%s) refused this PIN, because the last login was cut short; if the "
          "PIN is right, run: keyward device retry %s",
          info->label, info->serial, info->serial);
      return FALSE;
    }
  if (!check_tries (info, step->state, accepted_before, retry, error))
    return FALSE;
  *out_accepted_before = accepted_before;
  return TRUE;
}

static gboolean
before_login (GKeyFile *contents, gboolean *out_changed, gpointer user_data, GError **error)
{
  const LoginStep *step = user_data;
  const KwTokenInfo *info = kw_token_get_info (step->token);
  g_autofree char *group = token_group (info);
  g_autofree char *hash = NULL;
  gboolean accepted_before = FALSE;

  if (!ensure_hash_key (contents, out_changed, error)
      || !check_rules (contents, step, &accepted_before, error))
    return FALSE;
  hash = hash_pin (contents, info, step->pin);
  if (hash == NULL)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED, "The hash of the PIN cannot be made");
      return FALSE;
    }
  g_key_file_set_string (contents, group, KEY_PENDING, hash);
  *out_changed = TRUE;
  return TRUE;
}

static gboolean
after_login (GKeyFile *contents,
             gboolean *out_changed,
             gpointer user_data,
             GError **error G_GNUC_UNUSED)
{
  const LoginStep *step = user_data;
  const KwTokenInfo *info = kw_token_get_info (step->token);
  g_autofree char *group = token_group (info);
  g_autofree char *hash = hash_pin (contents, info, step->pin);

  *out_changed = g_key_file_remove_key (contents, group, KEY_PENDING, NULL);
  if (step->outcome == KW_PIN_OUTCOME_UNTRIED)
    return TRUE;
  *out_changed = TRUE;
  g_key_file_remove_key (contents, group, KEY_RETRY, NULL);
  if (step->outcome == KW_PIN_OUTCOME_ACCEPTED)
    {
      g_key_file_set_string (contents, group, KEY_ACCEPTED, hash);
      g_key_file_remove_key (contents, group, KEY_REFUSED, NULL);
    }
  else
    {
      g_key_file_set_string (contents, group, KEY_REFUSED, hash);
      if (entry_equals (contents, group, KEY_ACCEPTED, hash))
        g_key_file_remove_key (contents, group, KEY_ACCEPTED, NULL);
    }
  return TRUE;
}

static KwPinOutcome
outcome_of (const GError *error)
{
  if (error == NULL)
    return KW_PIN_OUTCOME_ACCEPTED;
  if (g_error_matches (error, KW_ERROR, KW_ERROR_PIN_REFUSED)
      || g_error_matches (error, KW_ERROR, KW_ERROR_PIN_INVALID)
      || g_error_matches (error, KW_ERROR, KW_ERROR_PIN_LOCKED))
    return KW_PIN_OUTCOME_REFUSED;
  return KW_PIN_OUTCOME_UNTRIED;
}

static gboolean
check_initialized (KwToken *token, const KwPinState *state, GError **error)
{
  if (state->initialized)
    return TRUE;
  g_set_error (
      error, KW_ERROR, KW_ERROR_TOKEN_UNINITIALIZED,
      "Token %s (%s) has no user PIN yet; set one with: pkcs11-tool --init-pin --login --login-type so",
      kw_token_get_info (token)->label, kw_token_get_info (token)->serial);
  return FALSE;
}

/* Whether the record has it that this token took this PIN last. */
static gboolean
was_accepted (KwPinGuard *self, const LoginStep *step)
{
  g_autoptr (GKeyFile) contents
      = kw_state_file_read (self->state_directory, KW_STATE_FILE_PINS, NULL);
  g_autofree char *group = token_group (kw_token_get_info (step->token));
  g_autofree char *hash = NULL;

  if (contents == NULL || step->pin == NULL)
    return FALSE;
  hash = hash_pin (contents, kw_token_get_info (step->token), step->pin);
  return entry_equals (contents, group, KEY_ACCEPTED, hash);
}

/* A refusal that cannot be written down is kept in memory: better than to present the PIN once more. */
static void
remember_refusal (KwPinGuard *self, const LoginStep *step)
{
  g_autoptr (GKeyFile) contents
      = kw_state_file_read (self->state_directory, KW_STATE_FILE_PINS, NULL);
  char *hash
      = contents != NULL ? hash_pin (contents, kw_token_get_info (step->token), step->pin) : NULL;

  if (hash == NULL)
    return;
  g_mutex_lock (&self->lock);
  g_hash_table_add (self->unrecorded, hash);
  g_mutex_unlock (&self->lock);
}

/*
 * The intention is written before the PIN is presented and the outcome after it. For a PIN that the token took before, that
 * need not reach the disk at once: should a power cut take it back, the token's own counter tells whether a try is missing.
 */
static gboolean
present_pin (KwPinGuard *self, LoginStep *step, GError **error)
{
  const KwTokenInfo *info = kw_token_get_info (step->token);
  gboolean known = was_accepted (self, step);
  g_autoptr (GError) login_error = NULL;
  g_autoptr (GError) write_error = NULL;
  gboolean written = FALSE;

  if (!(known ? kw_state_file_update_quickly : kw_state_file_update) (self->state_directory,
                                                                      KW_STATE_FILE_PINS,
                                                                      before_login, step, error))
    return FALSE;
  kw_token_login (step->token, step->pin, &login_error);
  step->outcome = outcome_of (login_error);
  written = (known && login_error == NULL ? kw_state_file_update_quickly
                                          : kw_state_file_update) (self->state_directory,
                                                                   KW_STATE_FILE_PINS, after_login,
                                                                   step, &write_error);
  if (login_error == NULL && written)
    return TRUE;
  if (login_error == NULL)
    {
      g_propagate_error (error, g_steal_pointer (&write_error));
      return FALSE;
    }
  if (step->outcome == KW_PIN_OUTCOME_REFUSED)
    {
      if (!written)
        remember_refusal (self, step);
      g_prefix_error (&login_error,
                      "Token %s (%s) refused the PIN; it is not presented again until %s changes: ",
                      info->label, info->serial, step->pin_name);
    }
  g_propagate_error (error, g_steal_pointer (&login_error));
  return FALSE;
}

static gboolean
login_in_turn (KwPinGuard *self,
               KwToken *token,
               KwSecret *pin,
               const char *pin_name,
               GError **error)
{
  KwPinState state = { 0 };
  LoginStep step = { token, &state, pin, pin_name, self, KW_PIN_OUTCOME_UNTRIED };

  if (!kw_token_get_pin_state (token, &state, error))
    return FALSE;
  if (!state.login_required)
    return TRUE;
  if (!check_initialized (token, &state, error))
    return FALSE;
  if (state.protected_path && pin == NULL)
    return kw_token_login (token, NULL, error);
  return present_pin (self, &step, error);
}

static void
turn_free (gpointer data)
{
  g_mutex_clear (data);
  g_free (data);
}

/* One login at a time for each token; one that hangs holds up no other token. Turns are kept as long as the guard. */
static GMutex *
get_turn (KwPinGuard *self, KwToken *token)
{
  g_autofree char *group = token_group (kw_token_get_info (token));
  GMutex *turn = NULL;

  g_mutex_lock (&self->lock);
  turn = g_hash_table_lookup (self->turns, group);
  if (turn == NULL)
    {
      turn = g_new0 (GMutex, 1);
      g_mutex_init (turn);
      g_hash_table_insert (self->turns, g_steal_pointer (&group), turn);
    }
  g_mutex_unlock (&self->lock);
  return turn;
}

static void
kw_pin_guard_finalize (GObject *object)
{
  KwPinGuard *self = KW_PIN_GUARD (object);

  g_free (self->state_directory);
  g_hash_table_unref (self->turns);
  g_hash_table_unref (self->unrecorded);
  g_mutex_clear (&self->lock);
  G_OBJECT_CLASS (kw_pin_guard_parent_class)->finalize (object);
}

static void
kw_pin_guard_class_init (KwPinGuardClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_pin_guard_finalize;
}

static void
kw_pin_guard_init (KwPinGuard *self)
{
  g_mutex_init (&self->lock);
  self->turns = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, turn_free);
  self->unrecorded = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
}

/**
 * kw_pin_guard_new:
 * @state_directory: where refused PINs are remembered
 *
 * Returns: (transfer full): a guard
 */
KwPinGuard *
kw_pin_guard_new (const char *state_directory)
{
  KwPinGuard *self = g_object_new (KW_TYPE_PIN_GUARD, NULL);

  self->state_directory = g_strdup (state_directory);
  return self;
}

/**
 * kw_pin_guard_login:
 * @self: the guard
 * @token: the token
 * @pin: (nullable): the configured PIN
 * @error: where to store the error
 *
 * kw_pin_guard_login_named() for the PIN of `[pkcs11]`.
 *
 * Returns: %TRUE when the token may be used; otherwise %KW_ERROR_PIN_REFUSED (a try was spent), %KW_ERROR_PIN_LATCHED,
 *   %KW_ERROR_PIN_PROTECTED, %KW_ERROR_PIN_LOCKED, %KW_ERROR_PIN_REQUIRED (none was), or device trouble
 */
gboolean
kw_pin_guard_login (KwPinGuard *self, KwToken *token, KwSecret *pin, GError **error)
{
  return kw_pin_guard_login_named (self, token, pin, NULL, error);
}

/**
 * kw_pin_guard_login_named:
 * @self: the guard
 * @token: the token
 * @pin: (nullable): the configured PIN
 * @pin_name: (nullable): the setting it stands in, for messages; %NULL = "[pkcs11] pin"
 * @error: where to store the error
 *
 * Logs in if the token wants it and the rules allow it; presents the PIN at most once. Logins of different tokens do not
 * wait for each other. Any thread; blocks.
 *
 * Returns: %TRUE when the token may be used; otherwise %KW_ERROR_PIN_REFUSED (a try was spent), %KW_ERROR_PIN_LATCHED,
 *   %KW_ERROR_PIN_PROTECTED, %KW_ERROR_PIN_LOCKED, %KW_ERROR_PIN_REQUIRED (none was), or device trouble
 */
gboolean
kw_pin_guard_login_named (KwPinGuard *self,
                          KwToken *token,
                          KwSecret *pin,
                          const char *pin_name,
                          GError **error)
{
  g_autoptr (GMutexLocker) locker = NULL;

  g_return_val_if_fail (KW_IS_PIN_GUARD (self), FALSE);

  locker = g_mutex_locker_new (get_turn (self, token));
  return login_in_turn (self, token, pin, pin_name != NULL ? pin_name : DEFAULT_PIN_NAME, error);
}

/**
 * kw_pin_guard_check:
 * @self: the guard
 * @token: the token
 * @state: what it says of its PIN
 * @pin: (nullable): the configured PIN
 * @pin_name: (nullable): the setting it stands in, for messages; %NULL = "[pkcs11] pin"
 * @error: where to store the error
 *
 * Tells whether kw_pin_guard_login() would present the PIN, without doing so. Any thread; reads a file.
 *
 * Returns: %FALSE with the error that a login would end with
 */
gboolean
kw_pin_guard_check (KwPinGuard *self,
                    KwToken *token,
                    const KwPinState *state,
                    KwSecret *pin,
                    const char *pin_name,
                    GError **error)
{
  g_autoptr (GKeyFile) contents = NULL;
  LoginStep step = { token, state,
                     pin,   pin_name != NULL ? pin_name : DEFAULT_PIN_NAME,
                     NULL,  KW_PIN_OUTCOME_UNTRIED };
  gboolean accepted_before = FALSE;

  g_return_val_if_fail (KW_IS_PIN_GUARD (self), FALSE);

  if (!state->login_required)
    return TRUE;
  if (!check_initialized (token, state, error))
    return FALSE;
  if (state->protected_path && pin == NULL)
    return TRUE;
  contents = kw_state_file_read (self->state_directory, KW_STATE_FILE_PINS, error);
  return contents != NULL && check_rules (contents, &step, &accepted_before, error);
}

typedef struct
{
  const char *serial;
  guint n_forgotten;
} ForgetStep;

static gboolean
forget_entries (GKeyFile *contents,
                gboolean *out_changed,
                gpointer user_data,
                GError **error G_GNUC_UNUSED)
{
  ForgetStep *step = user_data;
  g_auto (GStrv) groups = g_key_file_get_groups (contents, NULL);
  g_autofree char *escaped
      = step->serial != NULL ? g_uri_escape_string (step->serial, NULL, FALSE) : NULL;
  g_autofree char *prefix = escaped != NULL ? g_strconcat (GROUP_TOKEN_PREFIX, escaped, " ", NULL)
                                            : g_strdup (GROUP_TOKEN_PREFIX);

  for (guint i = 0; groups[i] != NULL; i++)
    {
      if (!g_str_has_prefix (groups[i], prefix))
        continue;
      if (!g_key_file_has_key (contents, groups[i], KEY_REFUSED, NULL)
          && !g_key_file_has_key (contents, groups[i], KEY_PENDING, NULL) && step->serial == NULL)
        continue;
      g_key_file_remove_key (contents, groups[i], KEY_REFUSED, NULL);
      g_key_file_remove_key (contents, groups[i], KEY_PENDING, NULL);
      g_key_file_set_boolean (contents, groups[i], KEY_RETRY, TRUE);
      step->n_forgotten++;
      *out_changed = TRUE;
    }
  return TRUE;
}

/**
 * kw_pin_guard_forget:
 * @self: the guard
 * @serial: (nullable): serial number of a token; %NULL = all that refused a PIN
 * @out_n_forgotten: (out): number of tokens whose PIN may be tried once more
 * @error: where to store the error
 *
 * Forgets that a PIN was refused, because the administrator said so. Any thread; blocks on the disk.
 *
 * Returns: %TRUE on success
 */
gboolean
kw_pin_guard_forget (KwPinGuard *self, const char *serial, guint *out_n_forgotten, GError **error)
{
  ForgetStep step = { serial, 0 };

  g_return_val_if_fail (KW_IS_PIN_GUARD (self), FALSE);

  if (!kw_state_file_update (self->state_directory, KW_STATE_FILE_PINS, forget_entries, &step,
                             error))
    return FALSE;
  *out_n_forgotten = step.n_forgotten;
  return TRUE;
}
