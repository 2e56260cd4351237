/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-pin-guard"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-fake-token.h"
#include "kw-names.h"
#include "kw-pin-guard.h"
#include "kw-state-file.h"

#include <glib/gstdio.h>
#include <string.h>

#define SERIAL "DE 01/23"
#define WHO "Token Fake (" SERIAL ") "
#define RIGHT "648219"
#define WRONG "314159"
#define LATCHED                                                                                    \
  WHO "refused this PIN before, so it is not presented again; correct [pkcs11] pin, or run: "      \
      "keyward device retry " SERIAL
#define REFUSED WHO "refused the PIN; it is not presented again until [pkcs11] pin changes: wrong"
#define CUT_SHORT                                                                                  \
  "It is not known whether token Fake (" SERIAL ") refused this PIN, because the last login was "  \
  "cut short; if the PIN is right, run: keyward device retry " SERIAL

typedef struct
{
  char *directory;
  KwPinGuard *guard;
  KwFakeToken *token;
} Fixture;

static void
set_up (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  fixture->directory = kw_test_make_directory ();
  fixture->guard = kw_pin_guard_new (fixture->directory);
  fixture->token = kw_fake_token_new (SERIAL, RIGHT);
}

static void
tear_down (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_object_unref (fixture->guard);
  g_object_unref (fixture->token);
  kw_test_remove_directory (fixture->directory);
}

/* As a restart of the daemon. */
static void
restart (Fixture *fixture)
{
  g_object_unref (fixture->guard);
  fixture->guard = kw_pin_guard_new (fixture->directory);
}

static KwSecret *
make_pin (const char *pin)
{
  return pin != NULL ? kw_secret_new_copy (pin, strlen (pin), NULL) : NULL;
}

static gboolean
try_login (Fixture *fixture, const char *pin, GError **error)
{
  KwSecret *secret = make_pin (pin);
  gboolean ok = kw_pin_guard_login (fixture->guard, KW_TOKEN (fixture->token), secret, error);

  g_clear_pointer (&secret, kw_secret_unref);
  return ok;
}

static void
assert_login (Fixture *fixture, const char *pin)
{
  g_autoptr (GError) error = NULL;

  g_assert_true (try_login (fixture, pin, &error));
  g_assert_no_error (error);
}

static void
assert_refused (Fixture *fixture, const char *pin, KwError code, const char *message)
{
  g_autoptr (GError) error = NULL;

  g_assert_false (try_login (fixture, pin, &error));
  kw_assert_error (error, (gint) code, message);
}

/* What check says is what a login would say; neither is to change what the other finds. */
static void
assert_check (Fixture *fixture, const char *pin, gint code, const char *message)
{
  g_autoptr (GError) error = NULL;
  KwSecret *secret = make_pin (pin);
  guint before = kw_fake_token_get_n_calls (fixture->token, KW_FAKE_LOGIN);
  gboolean ok = kw_pin_guard_check (fixture->guard, KW_TOKEN (fixture->token),
                                    kw_fake_token_get_state (fixture->token), secret, NULL, &error);

  g_clear_pointer (&secret, kw_secret_unref);
  g_assert_cmpuint (kw_fake_token_get_n_calls (fixture->token, KW_FAKE_LOGIN), ==, before);
  g_assert_cmpint (ok, ==, message == NULL);
  if (message != NULL)
    kw_assert_error (error, code, message);
}

static guint
n_logins (Fixture *fixture)
{
  return kw_fake_token_get_n_calls (fixture->token, KW_FAKE_LOGIN);
}

static guint
forget (Fixture *fixture, const char *serial)
{
  g_autoptr (GError) error = NULL;
  guint n_forgotten = G_MAXUINT;

  g_assert_true (kw_pin_guard_forget (fixture->guard, serial, &n_forgotten, &error));
  g_assert_no_error (error);
  return n_forgotten;
}

static void
test_right_pin (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  assert_check (fixture, RIGHT, 0, NULL);
  assert_login (fixture, RIGHT);
  assert_login (fixture, RIGHT);
  assert_check (fixture, RIGHT, 0, NULL);
  g_assert_cmpuint (n_logins (fixture), ==, 2);
}

static void
test_wrong_pin_is_presented_once (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  assert_refused (fixture, WRONG, KW_ERROR_PIN_REFUSED, REFUSED);
  assert_refused (fixture, WRONG, KW_ERROR_PIN_LATCHED, LATCHED);
  restart (fixture);
  assert_check (fixture, WRONG, KW_ERROR_PIN_LATCHED, LATCHED);
  assert_refused (fixture, WRONG, KW_ERROR_PIN_LATCHED, LATCHED);
  g_assert_cmpuint (n_logins (fixture), ==, 1);
  g_assert_cmpint (kw_fake_token_get_state (fixture->token)->tries_left, ==, 2);
}

static void
test_latch_is_for_one_token (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  assert_refused (fixture, WRONG, KW_ERROR_PIN_REFUSED, REFUSED);
  g_object_unref (fixture->token);
  fixture->token = kw_fake_token_new ("other", WRONG);
  assert_login (fixture, WRONG);
}

static void
test_changed_pin_is_presented (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  kw_fake_token_get_state (fixture->token)->tries_left = 4;
  assert_refused (fixture, WRONG, KW_ERROR_PIN_REFUSED, REFUSED);
  assert_login (fixture, RIGHT);
  g_assert_cmpuint (n_logins (fixture), ==, 2);
}

/* As when the process was killed while the token thought about the PIN: the note stays. */
static gboolean
leave_pending (GKeyFile *contents,
               gboolean *out_changed,
               gpointer user_data G_GNUC_UNUSED,
               GError **error G_GNUC_UNUSED)
{
  g_auto (GStrv) groups = g_key_file_get_groups (contents, NULL);

  for (guint i = 0; groups[i] != NULL; i++)
    {
      g_autofree char *refused = g_key_file_get_string (contents, groups[i], "refused", NULL);

      if (refused == NULL)
        continue;
      g_key_file_set_string (contents, groups[i], "pending", refused);
      g_key_file_remove_key (contents, groups[i], "refused", NULL);
      *out_changed = TRUE;
    }
  return TRUE;
}

static void
test_pending_counts_as_refused (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  assert_refused (fixture, WRONG, KW_ERROR_PIN_REFUSED, REFUSED);
  g_assert_true (
      kw_state_file_update (fixture->directory, KW_STATE_FILE_PINS, leave_pending, NULL, NULL));
  restart (fixture);
  assert_refused (fixture, WRONG, KW_ERROR_PIN_LATCHED, CUT_SHORT);
  assert_check (fixture, WRONG, KW_ERROR_PIN_LATCHED, CUT_SHORT);
  g_assert_cmpuint (n_logins (fixture), ==, 1);
  g_assert_cmpuint (forget (fixture, NULL), ==, 1);
  kw_fake_token_set_pin (fixture->token, WRONG);
  assert_login (fixture, WRONG);
}

static gpointer
login_in_thread (gpointer data)
{
  try_login (data, RIGHT, NULL);
  return NULL;
}

/* The note is on the disk before the token hears of the PIN. */
static void
test_pending_is_written_first (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  GThread *thread = NULL;
  KwPinGuard *after_crash = kw_pin_guard_new (fixture->directory);
  g_autoptr (KwSecret) pin = make_pin (RIGHT);
  g_autoptr (GError) error = NULL;

  kw_fake_token_hold (fixture->token, KW_FAKE_LOGIN, TRUE);
  thread = g_thread_new ("login", login_in_thread, fixture);
  kw_fake_token_wait_inside (fixture->token, KW_FAKE_LOGIN, 1);
  g_assert_false (kw_pin_guard_login (after_crash, KW_TOKEN (fixture->token), pin, &error));
  kw_assert_error (error, KW_ERROR_PIN_LATCHED, CUT_SHORT);
  kw_fake_token_hold (fixture->token, KW_FAKE_LOGIN, FALSE);
  g_thread_join (thread);
  g_assert_cmpuint (n_logins (fixture), ==, 1);
  assert_login (fixture, RIGHT);
  g_object_unref (after_crash);
}

#define LOCKED "The PIN of token Fake (" SERIAL ") is locked; unlock it with the SO-PIN"
#define ONE_LEFT                                                                                   \
  WHO "has one try of its PIN left, which is never used by a program; log in once by hand, for "   \
      "example with: pkcs11-tool --login"
#define TWO_LEFT                                                                                   \
  WHO "has two tries of its PIN left and never accepted this one; if it is right, run: keyward "   \
      "device retry " SERIAL

static void
test_locked (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  KwPinState *state = kw_fake_token_get_state (fixture->token);

  assert_login (fixture, RIGHT);
  state->tries_left = 0;
  assert_refused (fixture, RIGHT, KW_ERROR_PIN_LOCKED, LOCKED);
  state->tries_left = -1;
  state->locked = TRUE;
  assert_refused (fixture, RIGHT, KW_ERROR_PIN_LOCKED, LOCKED);
  assert_check (fixture, RIGHT, KW_ERROR_PIN_LOCKED, LOCKED);
  g_assert_cmpuint (n_logins (fixture), ==, 1);
}

static void
test_last_try_is_never_used (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  KwPinState *state = kw_fake_token_get_state (fixture->token);

  assert_login (fixture, RIGHT);
  state->tries_left = 1;
  assert_refused (fixture, RIGHT, KW_ERROR_PIN_PROTECTED, ONE_LEFT);
  forget (fixture, SERIAL);
  assert_refused (fixture, RIGHT, KW_ERROR_PIN_PROTECTED, ONE_LEFT);
  state->tries_left = -1;
  state->final_try = TRUE;
  assert_refused (fixture, RIGHT, KW_ERROR_PIN_PROTECTED, ONE_LEFT);
  g_assert_cmpuint (n_logins (fixture), ==, 1);
}

static void
test_two_left_wants_an_accepted_pin (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  KwPinState *state = kw_fake_token_get_state (fixture->token);

  state->tries_left = 2;
  assert_refused (fixture, RIGHT, KW_ERROR_PIN_PROTECTED, TWO_LEFT);
  g_assert_cmpuint (n_logins (fixture), ==, 0);
  state->tries_left = 3;
  assert_login (fixture, RIGHT);
  state->tries_left = 2;
  restart (fixture);
  assert_login (fixture, RIGHT);
  assert_refused (fixture, WRONG, KW_ERROR_PIN_PROTECTED, TWO_LEFT);
  g_assert_cmpuint (n_logins (fixture), ==, 2);
}

static void
test_tries_not_told (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  kw_fake_token_get_state (fixture->token)->tries_left = -1;
  assert_login (fixture, RIGHT);
}

static void
test_retry_allows_one_more (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  KwPinState *state = kw_fake_token_get_state (fixture->token);

  assert_refused (fixture, WRONG, KW_ERROR_PIN_REFUSED, REFUSED);
  g_assert_cmpint (state->tries_left, ==, 2);
  g_assert_cmpuint (forget (fixture, "somebody else"), ==, 0);
  assert_refused (fixture, WRONG, KW_ERROR_PIN_LATCHED, LATCHED);
  g_assert_cmpuint (forget (fixture, SERIAL), ==, 1);
  assert_refused (fixture, WRONG, KW_ERROR_PIN_REFUSED, REFUSED);
  assert_refused (fixture, WRONG, KW_ERROR_PIN_LATCHED, LATCHED);
  g_assert_cmpuint (n_logins (fixture), ==, 2);
  g_assert_cmpint (state->tries_left, ==, 1);
}

static void
test_retry_is_used_up (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  KwPinState *state = kw_fake_token_get_state (fixture->token);

  assert_refused (fixture, WRONG, KW_ERROR_PIN_REFUSED, REFUSED);
  forget (fixture, NULL);
  g_assert_cmpuint (forget (fixture, NULL), ==, 0);
  assert_login (fixture, RIGHT);
  state->tries_left = 2;
  assert_refused (fixture, WRONG, KW_ERROR_PIN_PROTECTED, TWO_LEFT);
}

static void
test_accepted_then_refused (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  assert_login (fixture, RIGHT);
  kw_fake_token_set_pin (fixture->token, "new");
  assert_refused (fixture, RIGHT, KW_ERROR_PIN_REFUSED, REFUSED);
  assert_refused (fixture, RIGHT, KW_ERROR_PIN_LATCHED, LATCHED);
  g_assert_cmpuint (n_logins (fixture), ==, 2);
}

static void
test_each_answer (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  for (guint code = 0; code < KW_N_ERRORS; code++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *serial = g_strdup_printf ("token %u", code);
      gboolean refused = code == KW_ERROR_PIN_REFUSED || code == KW_ERROR_PIN_INVALID
                         || code == KW_ERROR_PIN_LOCKED;

      g_test_message ("%s", kw_error_to_string ((KwError) code));
      g_object_unref (fixture->token);
      fixture->token = kw_fake_token_new (serial, RIGHT);
      kw_fake_token_fail (fixture->token, KW_FAKE_LOGIN, (KwError) code, 1);
      g_assert_false (try_login (fixture, RIGHT, &error));
      g_assert_error (error, KW_ERROR, (gint) code);
      g_clear_error (&error);
      g_assert_cmpint (try_login (fixture, RIGHT, &error), ==, !refused);
      if (refused)
        g_assert_error (error, KW_ERROR, KW_ERROR_PIN_LATCHED);
    }
}

static void
test_no_login_required (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  kw_fake_token_get_state (fixture->token)->login_required = FALSE;
  assert_check (fixture, NULL, 0, NULL);
  assert_login (fixture, NULL);
  g_assert_cmpuint (n_logins (fixture), ==, 0);
}

static void
test_no_pin (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  assert_refused (fixture, NULL, KW_ERROR_PIN_REQUIRED, WHO "wants a PIN; set [pkcs11] pin");
  assert_check (fixture, NULL, KW_ERROR_PIN_REQUIRED, WHO "wants a PIN; set [pkcs11] pin");
}

static void
test_uninitialized (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  const char *message = WHO "has no user PIN yet; set one with: pkcs11-tool --init-pin --login "
                            "--login-type so";

  kw_fake_token_get_state (fixture->token)->initialized = FALSE;
  assert_refused (fixture, RIGHT, KW_ERROR_TOKEN_UNINITIALIZED, message);
  assert_check (fixture, RIGHT, KW_ERROR_TOKEN_UNINITIALIZED, message);
}

static void
test_pin_typed_at_the_reader (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  kw_fake_token_get_state (fixture->token)->protected_path = TRUE;
  assert_check (fixture, NULL, 0, NULL);
  assert_login (fixture, NULL);
  g_assert_cmpuint (n_logins (fixture), ==, 1);
}

static void
test_state_not_told (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  kw_fake_token_fail (fixture->token, KW_FAKE_GET_PIN_STATE, KW_ERROR_TOKEN_GONE, 1);
  assert_refused (fixture, RIGHT, KW_ERROR_TOKEN_GONE, "fake failure");
  g_assert_cmpuint (n_logins (fixture), ==, 0);
}

static void
test_damaged_record (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path G_GNUC_UNUSED
      = kw_test_write_file (fixture->directory, KW_STATE_FILE_PINS, "nonsense", 0600);
  g_autoptr (KwSecret) pin = make_pin (RIGHT);
  guint n_forgotten = 0;

  g_assert_false (try_login (fixture, RIGHT, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  g_clear_error (&error);
  g_assert_false (kw_pin_guard_forget (fixture->guard, NULL, &n_forgotten, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  g_clear_error (&error);
  g_assert_false (kw_pin_guard_check (fixture->guard, KW_TOKEN (fixture->token),
                                      kw_fake_token_get_state (fixture->token), pin, NULL, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  g_assert_cmpuint (n_logins (fixture), ==, 0);
}

static void
test_pin_is_not_in_the_file (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *text = NULL;
  g_autofree char *plain = g_compute_checksum_for_string (G_CHECKSUM_SHA256, WRONG, -1);

  assert_refused (fixture, WRONG, KW_ERROR_PIN_REFUSED, REFUSED);
  forget (fixture, NULL);
  assert_login (fixture, RIGHT);
  text = kw_test_read_file (fixture->directory, KW_STATE_FILE_PINS);
  g_assert_nonnull (strstr (text, "accepted="));
  g_assert_null (strstr (text, RIGHT));
  g_assert_null (strstr (text, WRONG));
  g_assert_null (strstr (text, plain));
}

static void
add (const char *path, void (*test) (Fixture *, gconstpointer))
{
  g_test_add (path, Fixture, NULL, set_up, test, tear_down);
}

typedef struct
{
  Fixture *fixture;
  KwSecret *pin;
  GError *error;
} HeldLogin;

static gpointer
log_in_thread (gpointer user_data)
{
  HeldLogin *held = user_data;

  g_assert_false (kw_pin_guard_login (held->fixture->guard, KW_TOKEN (held->fixture->token),
                                      held->pin, &held->error));
  return NULL;
}

/* The disk fills up, or the like, while the PIN is with the token. */
static void
test_refusal_that_cannot_be_written (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwSecret) pin = make_pin (WRONG);
  g_autoptr (GError) error = NULL;
  g_autofree char *lock = g_build_filename (fixture->directory, ".lock", NULL);
  HeldLogin held = { fixture, pin, NULL };
  GThread *thread = NULL;

  kw_fake_token_hold (fixture->token, KW_FAKE_LOGIN, TRUE);
  thread = g_thread_new ("login", log_in_thread, &held);
  kw_fake_token_wait_inside (fixture->token, KW_FAKE_LOGIN, 1);
  g_assert_cmpint (g_unlink (lock), ==, 0);
  g_assert_cmpint (g_mkdir (lock, 0700), ==, 0);
  kw_fake_token_hold (fixture->token, KW_FAKE_LOGIN, FALSE);
  g_thread_join (thread);
  /* It is told as what it is, so that nobody takes it for trouble of the device and tries again. */
  g_assert_error (held.error, KW_ERROR, KW_ERROR_PIN_REFUSED);
  g_clear_error (&held.error);
  g_assert_cmpint (g_rmdir (lock), ==, 0);
  g_assert_false (kw_pin_guard_login (fixture->guard, KW_TOKEN (fixture->token), pin, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_PIN_LATCHED);
  g_assert_cmpuint (kw_fake_token_get_n_calls (fixture->token, KW_FAKE_LOGIN), ==, 1);
}

/* A token whose login hangs keeps no other waiting. */
static void
test_tokens_do_not_wait_for_each_other (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwSecret) wrong = make_pin (WRONG);
  g_autoptr (KwSecret) right = make_pin (RIGHT);
  g_autoptr (KwFakeToken) other = kw_fake_token_new ("another", RIGHT);
  HeldLogin held = { fixture, wrong, NULL };
  GThread *thread = NULL;
  g_autoptr (GError) error = NULL;

  kw_fake_token_hold (fixture->token, KW_FAKE_LOGIN, TRUE);
  thread = g_thread_new ("login", log_in_thread, &held);
  kw_fake_token_wait_inside (fixture->token, KW_FAKE_LOGIN, 1);
  kw_pin_guard_login (fixture->guard, KW_TOKEN (other), right, &error);
  g_assert_no_error (error);
  kw_fake_token_hold (fixture->token, KW_FAKE_LOGIN, FALSE);
  g_thread_join (thread);
  g_assert_error (held.error, KW_ERROR, KW_ERROR_PIN_REFUSED);
  g_clear_error (&held.error);
}

/* Messages name the setting that the PIN stands in. */
static void
test_names_the_setting (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwSecret) wrong = make_pin (WRONG);

  for (guint i = 0; i < 3; i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_false (kw_pin_guard_login_named (fixture->guard, KW_TOKEN (fixture->token),
                                                i == 0 ? NULL : wrong, "[hsm] hsm_pin", &error));
      g_assert_nonnull (strstr (error->message, "[hsm] hsm_pin"));
    }
  g_assert_cmpuint (kw_fake_token_get_n_calls (fixture->token, KW_FAKE_LOGIN), ==, 1);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  add ("/pin-guard/right-pin", test_right_pin);
  add ("/pin-guard/wrong-pin-is-presented-once", test_wrong_pin_is_presented_once);
  add ("/pin-guard/refusal-that-cannot-be-written", test_refusal_that_cannot_be_written);
  add ("/pin-guard/tokens-do-not-wait-for-each-other", test_tokens_do_not_wait_for_each_other);
  add ("/pin-guard/names-the-setting", test_names_the_setting);
  add ("/pin-guard/latch-is-for-one-token", test_latch_is_for_one_token);
  add ("/pin-guard/changed-pin-is-presented", test_changed_pin_is_presented);
  add ("/pin-guard/pending-counts-as-refused", test_pending_counts_as_refused);
  add ("/pin-guard/pending-is-written-first", test_pending_is_written_first);
  add ("/pin-guard/locked", test_locked);
  add ("/pin-guard/last-try-is-never-used", test_last_try_is_never_used);
  add ("/pin-guard/two-left-wants-an-accepted-pin", test_two_left_wants_an_accepted_pin);
  add ("/pin-guard/tries-not-told", test_tries_not_told);
  add ("/pin-guard/retry-allows-one-more", test_retry_allows_one_more);
  add ("/pin-guard/retry-is-used-up", test_retry_is_used_up);
  add ("/pin-guard/accepted-then-refused", test_accepted_then_refused);
  add ("/pin-guard/each-answer", test_each_answer);
  add ("/pin-guard/no-login-required", test_no_login_required);
  add ("/pin-guard/no-pin", test_no_pin);
  add ("/pin-guard/uninitialized", test_uninitialized);
  add ("/pin-guard/pin-typed-at-the-reader", test_pin_typed_at_the_reader);
  add ("/pin-guard/state-not-told", test_state_not_told);
  add ("/pin-guard/damaged-record", test_damaged_record);
  add ("/pin-guard/pin-is-not-in-the-file", test_pin_is_not_in_the_file);
  return g_test_run ();
}
