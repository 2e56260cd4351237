/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-keyring.h"
#include "kw-pool.h"

G_BEGIN_DECLS

/**
 * KwTestOutcome:
 * @KW_TEST_PASSED: as it should be
 * @KW_TEST_FAILED: not so; the advice says what to do
 * @KW_TEST_SKIPPED: could not be found out; the advice says why
 *
 * How one test ended.
 */
typedef enum
{
  KW_TEST_PASSED,
  KW_TEST_FAILED,
  KW_TEST_SKIPPED,
} KwTestOutcome;

#define KW_N_TEST_OUTCOMES (KW_TEST_SKIPPED + 1)

const char *kw_test_outcome_to_string (KwTestOutcome outcome);

/**
 * KwTestResult:
 * @name: which test: "device", "random", "fingerprint", "round-trip", "signature", "pair", "pin" or "dkek"
 * @subject: what was tested, such as "DENK0100001, key 0"
 * @outcome: how it ended
 * @duration_usec: how long it took, in microseconds
 * @advice: what was found and what to do; "" when all is well. What failed always has it
 *
 * One line of a test report.
 */
typedef struct
{
  const char *name;
  char *subject;
  KwTestOutcome outcome;
  gint64 duration_usec;
  char *advice;
} KwTestResult;

#define KW_TYPE_SELF_TEST (kw_self_test_get_type ())
G_DECLARE_FINAL_TYPE (KwSelfTest, kw_self_test, KW, SELF_TEST, GObject)

KwSelfTest *kw_self_test_new (KwPool *pool, KwKeyring *keyring);

void kw_self_test_set_device (KwSelfTest *self, const char *device);

void kw_self_test_start (KwSelfTest *self);

void kw_self_test_cancel (KwSelfTest *self);

gboolean kw_self_test_is_running (KwSelfTest *self);

gboolean kw_self_test_is_ending (KwSelfTest *self);

guint kw_self_test_get_n_steps (KwSelfTest *self);

GPtrArray *kw_self_test_get_results (KwSelfTest *self);

guint kw_self_test_count (KwSelfTest *self, KwTestOutcome outcome);

gboolean kw_self_test_is_random_enough (const guint8 *bytes, gsize size, char **out_reason);

G_END_DECLS
