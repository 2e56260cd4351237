/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-keyring.h"
#include "kw-pool.h"

G_BEGIN_DECLS

/**
 * KwHealthState:
 * @KW_HEALTH_STARTING: devices were not looked for yet
 * @KW_HEALTH_WAITING: no device is ready
 * @KW_HEALTH_DEGRADED: work is done, but something wants attention
 * @KW_HEALTH_READY: all is well
 *
 * How the service is, in one word.
 */
typedef enum
{
  KW_HEALTH_STARTING,
  KW_HEALTH_WAITING,
  KW_HEALTH_DEGRADED,
  KW_HEALTH_READY,
} KwHealthState;

#define KW_N_HEALTH_STATES (KW_HEALTH_READY + 1)

const char *kw_health_state_to_string (KwHealthState state);

#define KW_TYPE_HEALTH (kw_health_get_type ())
G_DECLARE_FINAL_TYPE (KwHealth, kw_health, KW, HEALTH, GObject)

KwHealth *kw_health_new (KwPool *pool, KwKeyring *keyring);

KwHealthState kw_health_get_state (KwHealth *self);

gboolean kw_health_is_operational (KwHealth *self);

gboolean kw_health_is_consistent (KwHealth *self);

const char *kw_health_get_text (KwHealth *self);

guint kw_health_get_n_ready (KwHealth *self);

guint kw_health_get_n_devices (KwHealth *self);

G_END_DECLS
