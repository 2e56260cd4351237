/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-bus-call.h"

G_BEGIN_DECLS

/**
 * KwBusFiles:
 *
 * Calls that work on descriptors: files are encrypted and decrypted, each on a thread of its own, and PINs read. Main context.
 */
typedef struct _KwBusFiles KwBusFiles;

/**
 * KwBusPinFunc:
 * @call: (transfer full): the call
 * @caller: who calls
 * @pin: (nullable): what was read
 * @error: (nullable): why nothing was
 * @user_data: what was given with it
 */
typedef void (*KwBusPinFunc) (KwBusCall *call,
                              KwCaller *caller,
                              KwSecret *pin,
                              const GError *error,
                              gpointer user_data);

KwBusFiles *kw_bus_files_new (GDBusConnection *connection, KwService *service);

void kw_bus_files_free (KwBusFiles *self);

void kw_bus_files_encrypt_for (KwBusCall *call, KwCaller *caller, gpointer user_data);

void kw_bus_files_decrypt_for (KwBusCall *call, KwCaller *caller, gpointer user_data);

void kw_bus_files_read_pin (KwBusFiles *self,
                            KwBusCall *call,
                            KwCaller *caller,
                            KwBusPinFunc func,
                            gpointer user_data);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwBusFiles, kw_bus_files_free)

G_END_DECLS
