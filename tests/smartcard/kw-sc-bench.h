/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-sc-backend.h"
#include "kw-sc-fixture.h"

G_BEGIN_DECLS

#define BENCH_CONFIG "[hsm]\nhsm_model = \"smartcard\"\nhsm_pin = \"" KW_CARD_RIG_PIN "\"\n"

extern const KwScTiming bench_quick_timing;

/**
 * Bench: a back end in the main loop, and what it announced
 */
typedef struct
{
  ScFixture *cards; /* owned, nullable */
  KwScBackend *backend;
  KwConfig *config;
  GPtrArray *tokens; /* announced and not withdrawn */
  guint n_added;
  guint n_removed;
} Bench;

Bench *bench_new (ScFixture *cards, const char *config, const KwScTiming *timing);

void bench_free (Bench *bench);

void bench_wait_for_tokens (Bench *bench, guint n);

void bench_wait_for_status (Bench *bench, const char *part);

void bench_run_for (guint msec);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Bench, bench_free)

G_END_DECLS
