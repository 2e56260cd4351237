/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-sc-link.h"

G_BEGIN_DECLS

/**
 * KwScService:
 * @KW_SC_SERVICE_UNKNOWN: not looked yet
 * @KW_SC_SERVICE_RUNNING: pcscd answers
 * @KW_SC_SERVICE_ABSENT: pcscd does not run
 * @KW_SC_SERVICE_DENIED: pcscd refuses us
 * @KW_SC_SERVICE_FAILED: pcscd answers with errors
 *
 * How pcscd is.
 */
typedef enum
{
  KW_SC_SERVICE_UNKNOWN,
  KW_SC_SERVICE_RUNNING,
  KW_SC_SERVICE_ABSENT,
  KW_SC_SERVICE_DENIED,
  KW_SC_SERVICE_FAILED,
} KwScService;

/**
 * KwScReader: a reader, as pcscd shows it
 */
typedef struct
{
  char *name;
  gboolean present;   /* a card is in it */
  gboolean mute;      /* which does not answer */
  gboolean exclusive; /* which another program keeps to itself */
  guint n_events;     /* how often a card was put in or pulled out */
  GBytes *atr;        /* of the card; empty without one */
} KwScReader;

/**
 * KwScSnapshot: all readers at one moment. Immutable and reference-counted; any thread
 */
typedef struct
{
  gatomicrefcount references;
  KwScService service;
  char *text;         /* with KW_SC_SERVICE_DENIED and _FAILED: why */
  GPtrArray *readers; /* of KwScReader */
} KwScSnapshot;

KwScSnapshot *kw_sc_snapshot_new (KwScService service, const char *text);

KwScSnapshot *kw_sc_snapshot_ref (KwScSnapshot *self);

void kw_sc_snapshot_unref (KwScSnapshot *self);

KwScReader *kw_sc_snapshot_find (KwScSnapshot *self, const char *name);

gboolean kw_sc_snapshot_equal (KwScSnapshot *self, KwScSnapshot *other);

KwScSnapshot *kw_sc_snapshot_take (void);

/**
 * KwScMonitorTiming:
 * @poll: how often readers are looked at when nothing is heard
 * @first: after pcscd was not there, look again after so long …
 * @max: … doubling up to so long
 *
 * All times in microseconds.
 */
typedef struct
{
  gint64 poll;
  gint64 first;
  gint64 max;
} KwScMonitorTiming;

typedef struct _KwScMonitor KwScMonitor;

typedef void (*KwScMonitorFunc) (KwScSnapshot *snapshot, gpointer user_data);

KwScMonitor *
kw_sc_monitor_start (const KwScMonitorTiming *timing, KwScMonitorFunc func, gpointer user_data);

void kw_sc_monitor_wake (KwScMonitor *self);

void kw_sc_monitor_stop (KwScMonitor *self);

KwScMonitor *kw_sc_monitor_ref (KwScMonitor *self);

void kw_sc_monitor_close_link (KwScMonitor *self, KwScLink *link);

gboolean kw_sc_monitor_wait (KwScMonitor *self, gint64 timeout_usec);

void kw_sc_monitor_unref (KwScMonitor *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwScSnapshot, kw_sc_snapshot_unref)

G_END_DECLS
