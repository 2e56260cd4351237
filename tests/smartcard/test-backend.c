/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-sc-backend"

#include "kw-error.h"
#include "kw-sc-bench.h"

#include <string.h>

/*
 * The back end in the main loop, on virtual cards that come and go: which tokens it announces, and what it says while there are
 * none.
 */

#define skip_without_cards()                                                                       \
  G_STMT_START                                                                                     \
  {                                                                                                \
    if (kw_card_rig_is_missing ())                                                                 \
      return;                                                                                      \
  }                                                                                                \
  G_STMT_END

/* From nothing to a card that works: each state, and its sentence. */
static void
test_from_nothing (void)
{
  g_autoptr (Bench) bench = NULL;
  g_autofree char *empty = NULL;
  KwCardRig *rig = NULL;

  skip_without_cards ();
  bench = bench_new (sc_fixture_new_blank (1, NULL), BENCH_CONFIG, NULL);
  rig = bench->cards->rig;
  kw_card_rig_eject (rig, 0, NULL);
  kw_card_rig_stop_pcscd (rig, NULL);
  kw_backend_start (KW_BACKEND (bench->backend));
  g_assert_null (kw_backend_get_status_text (KW_BACKEND (bench->backend)));
  bench_wait_for_status (bench,
                         "pcscd is not running; start it with: systemctl start pcscd.socket");
  kw_card_rig_start_pcscd (rig, NULL);
  empty = g_strdup_printf ("Reader %s has no card in it", kw_card_rig_get_reader (rig, 0));
  bench_wait_for_status (bench, empty);
  kw_card_rig_insert (rig, 0, NULL);
  bench_wait_for_status (bench, "was never initialised; do that with: sc-hsm-tool --initialize");
  bench_wait_for_status (bench, kw_card_rig_get_serial (rig, 0));
  g_assert_cmpuint (bench->n_added, ==, 0);
  kw_card_rig_initialise (rig, 0, NULL, NULL, 1, "new", NULL);
  bench_wait_for_tokens (bench, 1);
  bench_wait_for_status (bench, NULL);
  g_assert_cmpstr (kw_token_get_info (g_ptr_array_index (bench->tokens, 0))->label, ==, "new");
  g_assert_cmpuint (bench->n_added, ==, 1);
}

static void
test_foreign_card (void)
{
  static const char *const options[] = { "--atr", "3B808100", NULL };
  g_autoptr (Bench) bench = NULL;

  skip_without_cards ();
  bench = bench_new (sc_fixture_new_blank (1, options), BENCH_CONFIG, NULL);
  g_free (kw_card_rig_control (bench->cards->rig, 0, "fault ins=A4,sw=6A82,count=0", NULL));
  kw_backend_start (KW_BACKEND (bench->backend));
  bench_wait_for_status (bench, "is no SmartCard-HSM (ATR 3B808100)");
  g_assert_cmpuint (bench->n_added, ==, 0);
}

static void
test_eject_and_insert (void)
{
  g_autoptr (Bench) bench = NULL;
  KwCardRig *rig = NULL;

  skip_without_cards ();
  bench = bench_new (sc_fixture_new (2, NULL), BENCH_CONFIG, NULL);
  rig = bench->cards->rig;
  kw_backend_start (KW_BACKEND (bench->backend));
  bench_wait_for_tokens (bench, 2);
  bench_wait_for_status (bench, NULL);
  for (guint i = 0; i < 3; i++)
    {
      kw_card_rig_eject (rig, i % 2, NULL);
      bench_wait_for_tokens (bench, 1);
      /* With one left, there is nothing to wait for. */
      bench_wait_for_status (bench, NULL);
      kw_card_rig_insert (rig, i % 2, NULL);
      bench_wait_for_tokens (bench, 2);
    }
  g_assert_cmpuint (bench->n_added, ==, 5);
  g_assert_cmpuint (bench->n_removed, ==, 3);
  kw_card_rig_eject (rig, 0, NULL);
  kw_card_rig_eject (rig, 1, NULL);
  bench_wait_for_tokens (bench, 0);
  bench_wait_for_status (bench, kw_card_rig_get_reader (rig, 0));
  bench_wait_for_status (bench, kw_card_rig_get_reader (rig, 1));
  bench_wait_for_status (bench, "has no card in it");
}

static void
test_pcscd_killed (void)
{
  g_autoptr (Bench) bench = NULL;
  KwCardRig *rig = NULL;

  skip_without_cards ();
  bench = bench_new (sc_fixture_new (2, NULL), BENCH_CONFIG, NULL);
  rig = bench->cards->rig;
  kw_backend_start (KW_BACKEND (bench->backend));
  bench_wait_for_tokens (bench, 2);
  for (guint i = 0; i < 2; i++)
    {
      kw_card_rig_kill_pcscd (rig, NULL);
      bench_wait_for_tokens (bench, 0);
      bench_wait_for_status (bench, "pcscd is not running");
      kw_card_rig_start_pcscd (rig, NULL);
      bench_wait_for_tokens (bench, 2);
      bench_wait_for_status (bench, NULL);
    }
  sc_login (g_ptr_array_index (bench->tokens, 0), KW_CARD_RIG_PIN);
}

/* Whoever waits for a card is not told to go away while it is likely to be back in a moment. */
static void
test_grace (void)
{
  g_autoptr (Bench) bench = NULL;
  KwScTiming timing = bench_quick_timing;
  gint64 start = 0;

  skip_without_cards ();
  timing.grace = G_USEC_PER_SEC;
  bench = bench_new (sc_fixture_new (1, NULL), BENCH_CONFIG, &timing);
  kw_backend_start (KW_BACKEND (bench->backend));
  bench_wait_for_tokens (bench, 1);
  kw_card_rig_eject (bench->cards->rig, 0, NULL);
  bench_wait_for_tokens (bench, 0);
  start = g_get_monotonic_time ();
  g_assert_null (kw_backend_get_status_text (KW_BACKEND (bench->backend)));
  bench_wait_for_status (bench, "has no card in it");
  g_assert_cmpint (g_get_monotonic_time () - start, >=, G_USEC_PER_SEC / 2);
}

static void
test_reset_token (void)
{
  g_autoptr (Bench) bench = NULL;
  g_autoptr (KwToken) first = NULL;
  g_autoptr (GError) error = NULL;
  KwPinState state = { 0 };

  skip_without_cards ();
  bench = bench_new (sc_fixture_new (1, NULL), BENCH_CONFIG, NULL);
  kw_backend_start (KW_BACKEND (bench->backend));
  bench_wait_for_tokens (bench, 1);
  first = g_object_ref (g_ptr_array_index (bench->tokens, 0));
  kw_backend_reset_token (KW_BACKEND (bench->backend), first);
  g_assert_cmpuint (bench->tokens->len, ==, 0);
  g_assert_false (kw_token_get_pin_state (first, &state, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE);
  bench_wait_for_tokens (bench, 1);
  g_assert_true (g_ptr_array_index (bench->tokens, 0) != (gpointer) first);
  /* A second time in a row takes a while, and is said. */
  kw_backend_reset_token (KW_BACKEND (bench->backend), g_ptr_array_index (bench->tokens, 0));
  bench_wait_for_status (bench, "gave errors several times");
  bench_wait_for_tokens (bench, 1);
  bench_wait_for_status (bench, NULL);
  /* A token that is not there any more is nobody's. */
  kw_backend_reset_token (KW_BACKEND (bench->backend), first);
  g_assert_cmpuint (bench->tokens->len, ==, 1);
}

static void
test_reader_filter (void)
{
  g_autoptr (Bench) bench = NULL;
  g_autoptr (Bench) none = NULL;

  skip_without_cards ();
  bench = bench_new (sc_fixture_new (2, NULL),
                     BENCH_CONFIG "[smartcard]\nreaders = [\"*Card 2*\"]\n", NULL);
  kw_backend_start (KW_BACKEND (bench->backend));
  bench_wait_for_tokens (bench, 1);
  g_assert_cmpstr (kw_token_get_info (g_ptr_array_index (bench->tokens, 0))->label, ==, "card 2");
  bench_run_for (200);
  g_assert_cmpuint (bench->tokens->len, ==, 1);
  none = bench_new (NULL, BENCH_CONFIG "[smartcard]\nreaders = [\"Nothing*\"]\n", NULL);
  kw_backend_start (KW_BACKEND (none->backend));
  bench_wait_for_status (none, "No reader has a name that [smartcard] readers allows; there are: ");
  bench_wait_for_status (none, kw_card_rig_get_reader (bench->cards->rig, 1));
}

static void
test_frozen_card (void)
{
  g_autoptr (Bench) bench = NULL;
  KwCardRig *rig = NULL;

  skip_without_cards ();
  bench = bench_new (sc_fixture_new (2, NULL), BENCH_CONFIG, NULL);
  rig = bench->cards->rig;
  kw_card_rig_freeze (rig, 0, NULL);
  kw_backend_start (KW_BACKEND (bench->backend));
  bench_wait_for_tokens (bench, 1);
  bench_wait_for_status (bench, "does not answer; pull it out and put it in again");
  g_assert_cmpuint (bench->tokens->len, ==, 1);
  kw_card_rig_thaw (rig, 0, NULL);
  bench_wait_for_tokens (bench, 2);
  bench_wait_for_status (bench, NULL);
}

/* Errors while it is looked at: tried again until it works. */
static void
test_card_that_fails_at_first (void)
{
  g_autoptr (Bench) bench = NULL;

  skip_without_cards ();
  bench = bench_new (sc_fixture_new (1, NULL), BENCH_CONFIG, NULL);
  g_free (kw_card_rig_control (bench->cards->rig, 0, "fault ins=B1,sw=6F00,count=3", NULL));
  kw_backend_start (KW_BACKEND (bench->backend));
  bench_wait_for_status (bench, "the card had an error of its own");
  bench_wait_for_tokens (bench, 1);
  bench_wait_for_status (bench, NULL);
}

static void
test_access (void)
{
  g_autoptr (Bench) bench = NULL;
  KwTokenAccess access = { 0 };

  skip_without_cards ();
  bench = bench_new (sc_fixture_new (1, NULL), BENCH_CONFIG "[smartcard]\ntimeout = 7\n", NULL);
  kw_backend_start (KW_BACKEND (bench->backend));
  bench_wait_for_tokens (bench, 1);
  g_assert_true (kw_backend_get_access (KW_BACKEND (bench->backend),
                                        g_ptr_array_index (bench->tokens, 0), &access));
  g_assert_true (kw_secret_equal (access.pin, KW_CARD_RIG_PIN, strlen (KW_CARD_RIG_PIN)));
  g_assert_cmpstr (access.pin_name, ==, "[hsm] hsm_pin");
  g_assert_cmpint (access.timeout_usec, ==, 7 * G_USEC_PER_SEC);
  g_assert_cmpstr (kw_backend_get_name (KW_BACKEND (bench->backend)), ==, "smartcard");
}

static void
test_coldplug (void)
{
  g_autoptr (Bench) bench = NULL;
  g_autoptr (Bench) other = NULL;
  g_autoptr (GPtrArray) tokens = NULL;
  g_autoptr (GPtrArray) slots = NULL;
  g_autoptr (GError) error = NULL;
  const KwSlotInfo *slot = NULL;

  skip_without_cards ();
  bench = bench_new (sc_fixture_new (2, NULL), BENCH_CONFIG, NULL);
  tokens = kw_backend_coldplug (KW_BACKEND (bench->backend), &error);
  g_assert_no_error (error);
  g_assert_cmpuint (tokens->len, ==, 2);
  slots = kw_backend_list_slots (KW_BACKEND (bench->backend), &error);
  g_assert_no_error (error);
  g_assert_cmpuint (slots->len, >=, 2);
  slot = g_ptr_array_index (slots, 0);
  g_assert_cmpuint (slot->token_fields->len, >, 0);
  kw_card_rig_eject (bench->cards->rig, 0, NULL);
  kw_card_rig_eject (bench->cards->rig, 1, NULL);
  g_assert_true (kw_card_rig_wait_for_card (bench->cards->rig, 0, FALSE, 5000, NULL));
  g_assert_true (kw_card_rig_wait_for_card (bench->cards->rig, 1, FALSE, 5000, NULL));
  other = bench_new (NULL, BENCH_CONFIG, NULL);
  g_assert_null (kw_backend_coldplug (KW_BACKEND (other->backend), &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_TOKEN_NOT_FOUND);
  g_assert_nonnull (strstr (error->message, "has no card in it"));
  g_clear_error (&error);
  kw_card_rig_stop_pcscd (bench->cards->rig, NULL);
  g_assert_null (kw_backend_coldplug (KW_BACKEND (other->backend), &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED);
  g_assert_nonnull (strstr (error->message, "pcscd is not running"));
  g_clear_error (&error);
  g_assert_null (kw_backend_list_slots (KW_BACKEND (other->backend), &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_MODULE_FAILED);
}

/* Started and stopped at any moment: no signal afterwards, and an end in time. */
static void
test_stop (void)
{
  g_autoptr (ScFixture) cards = NULL;

  skip_without_cards ();
  cards = sc_fixture_new (1, NULL);
  for (guint i = 0; i < 20; i++)
    {
      g_autoptr (Bench) bench = bench_new (NULL, BENCH_CONFIG, NULL);
      guint n = 0;
      gint64 start = 0;

      kw_backend_start (KW_BACKEND (bench->backend));
      bench_run_for (i * 10);
      kw_backend_stop (KW_BACKEND (bench->backend));
      n = bench->n_added + bench->n_removed;
      bench_run_for (50);
      g_assert_cmpuint (bench->n_added + bench->n_removed, ==, n);
      start = g_get_monotonic_time ();
      g_clear_object (&bench->backend);
      g_assert_cmpint (g_get_monotonic_time () - start, <, G_TIME_SPAN_SECOND);
      bench->backend = g_object_new (KW_TYPE_SC_BACKEND, NULL);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/backend/from-nothing", test_from_nothing);
  g_test_add_func ("/backend/foreign-card", test_foreign_card);
  g_test_add_func ("/backend/eject-and-insert", test_eject_and_insert);
  g_test_add_func ("/backend/pcscd-killed", test_pcscd_killed);
  g_test_add_func ("/backend/grace", test_grace);
  g_test_add_func ("/backend/reset-token", test_reset_token);
  g_test_add_func ("/backend/reader-filter", test_reader_filter);
  g_test_add_func ("/backend/frozen-card", test_frozen_card);
  g_test_add_func ("/backend/fails-at-first", test_card_that_fails_at_first);
  g_test_add_func ("/backend/access", test_access);
  g_test_add_func ("/backend/coldplug", test_coldplug);
  g_test_add_func ("/backend/stop", test_stop);
  return g_test_run ();
}
