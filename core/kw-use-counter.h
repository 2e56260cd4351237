/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-key-matrix.h"

G_BEGIN_DECLS

/**
 * KwUse:
 * @KW_USE_ENCRYPT: something was encrypted
 * @KW_USE_DECRYPT: something was decrypted
 * @KW_USE_SIGN: something was signed
 *
 * What a key was used for.
 */
typedef enum
{
  KW_USE_ENCRYPT,
  KW_USE_DECRYPT,
  KW_USE_SIGN,
} KwUse;

#define KW_N_USES (KW_USE_SIGN + 1)

/**
 * KwUseDay:
 * @day: day in UTC as "2026-11-21"; "" for all days before those that are kept apart
 * @n: how often the key was used, by #KwUse
 */
typedef struct
{
  char day[11];
  guint64 n[KW_N_USES];
} KwUseDay;

/**
 * KwUseReport:
 * @first_day: (nullable): day of the first use, %NULL when there was none
 * @last_day: (nullable): day of the last use
 * @total: uses of all days, by #KwUse
 * @days: (element-type KwUseDay): uses by day, oldest first
 *
 * How much a key was used, which tells whether it may go.
 */
typedef struct
{
  char *first_day;
  char *last_day;
  guint64 total[KW_N_USES];
  GArray *days;
} KwUseReport;

void kw_use_report_free (KwUseReport *report);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwUseReport, kw_use_report_free)

#define KW_TYPE_USE_COUNTER (kw_use_counter_get_type ())
G_DECLARE_FINAL_TYPE (KwUseCounter, kw_use_counter, KW, USE_COUNTER, GObject)

KwUseCounter *kw_use_counter_new (const char *state_directory);

char *kw_use_counter_dup_aes_name (const char *fingerprint);

char *kw_use_counter_dup_rsa_name (GBytes *key_id);

char *kw_use_counter_dup_facts_name (const KwKeyFacts *facts);

void kw_use_counter_count (KwUseCounter *self, const char *name, KwUse use);

gboolean kw_use_counter_flush (KwUseCounter *self, GError **error);

void kw_use_counter_stop (KwUseCounter *self);

KwUseReport *kw_use_counter_report (KwUseCounter *self, const char *name, GError **error);

G_END_DECLS
