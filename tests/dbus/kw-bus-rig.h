/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-daemon-rig.h"

G_BEGIN_DECLS

#define KW_TEST_OTHER_UID 65534

/* Environment: a program that runs dbus-broker; without it the bus is dbus-daemon. */
#define KW_TEST_BROKER "KW_TEST_BROKER"

/**
 * KwBusRig:
 *
 * A bus as strict as the system's, which anybody may come to, with the daemon on it.
 */
typedef struct _KwBusRig KwBusRig;

KwBusRig *kw_bus_rig_new (const char *extra_config);

void kw_bus_rig_free (KwBusRig *self);

void kw_bus_rig_start_bus (KwBusRig *self);

void kw_bus_rig_stop_bus (KwBusRig *self);

void kw_bus_rig_start (KwBusRig *self);

KwDaemonRig *kw_bus_rig_get_daemon (KwBusRig *self);

const char *kw_bus_rig_get_address (KwBusRig *self);

GDBusConnection *kw_bus_rig_connect (KwBusRig *self, guint uid);

GVariant *kw_bus_rig_call (GDBusConnection *bus,
                           const char *path,
                           const char *interface,
                           const char *method,
                           GVariant *parameters,
                           GError **error);

char *kw_bus_rig_wait_for_object (GDBusConnection *bus, const char *interface, gint64 timeout_usec);

/**
 * KwPolkitMode:
 *
 * What the stand-in for polkit answers; it may also say nothing, or leave when it is asked.
 */
typedef enum
{
  KW_POLKIT_ALLOWS,
  KW_POLKIT_DENIES,
  KW_POLKIT_WANTS_PASSWORD,
  KW_POLKIT_DELAYS,
  KW_POLKIT_VANISHES,
} KwPolkitMode;

typedef struct _KwPolkit KwPolkit;

KwPolkit *kw_polkit_new (KwBusRig *rig);

void kw_polkit_free (KwPolkit *self);

void kw_polkit_set_mode (KwPolkit *self, KwPolkitMode mode);

char *kw_polkit_dup_last_action (KwPolkit *self);

guint kw_polkit_get_last_flags (KwPolkit *self);

G_END_DECLS
