/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-bench"

#include "kw-sc-bench.h"

#include <string.h>

#define WAIT_SECONDS 30

const KwScTiming bench_quick_timing = {
  .monitor = {
    .poll = G_USEC_PER_SEC,
    .first = G_USEC_PER_SEC / 50,
    .max = G_USEC_PER_SEC / 5,
  },
  .blank = G_USEC_PER_SEC / 5,
  .reset_first = G_USEC_PER_SEC / 10,
  .reset_max = G_USEC_PER_SEC,
  .calm = 30 * G_USEC_PER_SEC,
  .stuck = G_USEC_PER_SEC / 2,
  .grace = 0,
  .settle = 0,
};

static void
on_added (KwBackend *backend G_GNUC_UNUSED, KwToken *token, Bench *bench)
{
  g_ptr_array_add (bench->tokens, g_object_ref (token));
  bench->n_added++;
}

static void
on_removed (KwBackend *backend G_GNUC_UNUSED, KwToken *token, Bench *bench)
{
  g_assert_true (g_ptr_array_remove (bench->tokens, token));
  bench->n_removed++;
}

/**
 * bench_new:
 * @cards: (transfer full) (nullable): cards that go with it
 * @config: text of a configuration
 * @timing: (nullable): how long to wait for what; %NULL = bench_quick_timing
 *
 * Returns: (transfer full): a back end that is configured and not started
 */
Bench *
bench_new (ScFixture *cards, const char *config, const KwScTiming *timing)
{
  Bench *bench = g_new0 (Bench, 1);
  g_autoptr (GError) error = NULL;

  bench->cards = cards;
  bench->tokens = g_ptr_array_new_with_free_func (g_object_unref);
  bench->config = kw_config_new_from_data ("test.toml", config, strlen (config), &error);
  g_assert_no_error (error);
  kw_config_load_pin (bench->config, &error);
  g_assert_no_error (error);
  bench->backend = g_object_new (KW_TYPE_SC_BACKEND, NULL);
  kw_sc_backend_set_timing (bench->backend, timing != NULL ? timing : &bench_quick_timing);
  g_assert_true (kw_backend_configure (KW_BACKEND (bench->backend), bench->config, &error));
  g_signal_connect (bench->backend, "token-added", G_CALLBACK (on_added), bench);
  g_signal_connect (bench->backend, "token-removed", G_CALLBACK (on_removed), bench);
  return bench;
}

/**
 * bench_free:
 * @bench: (transfer full): a bench
 *
 * Stops the back end and ends the cards.
 */
void
bench_free (Bench *bench)
{
  kw_backend_stop (KW_BACKEND (bench->backend));
  g_ptr_array_unref (bench->tokens);
  g_object_unref (bench->backend);
  g_object_unref (bench->config);
  g_clear_pointer (&bench->cards, sc_fixture_free);
  g_free (bench);
}

static gboolean
on_tick (gpointer user_data)
{
  *(gboolean *) user_data = TRUE;
  return G_SOURCE_REMOVE;
}

/* Lets the loop run for a moment, or until something happens. */
static void
turn (void)
{
  gboolean over = FALSE;
  guint source = g_timeout_add (20, on_tick, &over);

  g_main_context_iteration (NULL, TRUE);
  if (!over)
    g_source_remove (source);
}

/**
 * bench_wait_for_tokens:
 * @bench: a bench
 * @n: how many tokens
 *
 * Runs the loop until so many tokens are there.
 */
void
bench_wait_for_tokens (Bench *bench, guint n)
{
  gint64 deadline = g_get_monotonic_time () + WAIT_SECONDS * G_TIME_SPAN_SECOND;

  while (bench->tokens->len != n)
    {
      if (g_get_monotonic_time () > deadline)
        g_error ("%u tokens, not %u; status: %s", bench->tokens->len, n,
                 kw_backend_get_status_text (KW_BACKEND (bench->backend)));
      turn ();
    }
}

/**
 * bench_wait_for_status:
 * @bench: a bench
 * @part: (nullable): what the status says; %NULL = nothing
 *
 * Runs the loop until the status says so.
 */
void
bench_wait_for_status (Bench *bench, const char *part)
{
  gint64 deadline = g_get_monotonic_time () + WAIT_SECONDS * G_TIME_SPAN_SECOND;

  for (;;)
    {
      const char *text = kw_backend_get_status_text (KW_BACKEND (bench->backend));

      if (part == NULL ? text == NULL : text != NULL && strstr (text, part) != NULL)
        return;
      if (g_get_monotonic_time () > deadline)
        g_error ("no “%s” in status: %s", part, text);
      turn ();
    }
}

/**
 * bench_run_for:
 * @msec: how long
 *
 * Runs the loop.
 */
void
bench_run_for (guint msec)
{
  gint64 until = g_get_monotonic_time () + msec * G_TIME_SPAN_MILLISECOND;

  while (g_get_monotonic_time () < until)
    turn ();
}
