/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-backend.h"
#include "kw-sc-monitor.h"

G_BEGIN_DECLS

/**
 * KwScTiming:
 * @monitor: see there
 * @blank: how often a card that is not initialised is looked at
 * @reset_first: a card that failed twice in a row is tried again after so long, the first time at once …
 * @reset_max: … doubling up to so long
 * @calm: a card that lived for so long is tried again at once
 * @stuck: a card that does not answer for so long is said not to
 * @grace: after the last token went, nothing is said for so long: it may be back in a moment
 * @settle: how long pcscd may take to see a device that was just plugged in
 *
 * All times in microseconds.
 */
typedef struct
{
  KwScMonitorTiming monitor;
  gint64 blank;
  gint64 reset_first;
  gint64 reset_max;
  gint64 calm;
  gint64 stuck;
  gint64 grace;
  gint64 settle;
} KwScTiming;

#define KW_TYPE_SC_BACKEND (kw_sc_backend_get_type ())
G_DECLARE_FINAL_TYPE (KwScBackend, kw_sc_backend, KW, SC_BACKEND, GObject)

void kw_sc_backend_set_timing (KwScBackend *self, const KwScTiming *timing);

G_END_DECLS
