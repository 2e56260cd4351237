/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-device.h"

G_BEGIN_DECLS

/**
 * KwPreparationWish:
 * @kind: kind of the new key
 * @label: (nullable): its label
 * @key_id: (nullable): its CKA_ID, where the caller chose one
 * @replicate: it shall be cloned to all devices
 * @min_copies: and be on so many in the end
 *
 * What somebody wants to have made.
 */
typedef struct
{
  KwKeyKind kind;
  const char *label;
  GBytes *key_id;
  gboolean replicate;
  guint min_copies;
} KwPreparationWish;

/**
 * KwPreparationResult:
 * @origins: (element-type KwDevice): the devices on which it may be made
 * @key_id: its CKA_ID
 * @reference: the number it shall have on all devices; 0 where keys have none
 *
 * How it is to be made. Everything is borrowed.
 */
typedef struct
{
  GPtrArray *origins;
  GBytes *key_id;
  guint reference;
} KwPreparationResult;

/* One of @result and @error is %NULL. */
typedef void (*KwPreparationFunc) (const KwPreparationResult *result,
                                   const GError *error,
                                   gpointer user_data);

void kw_prepare_generation (KwKeyring *keyring,
                            GPtrArray *devices,
                            const KwPreparationWish *wish,
                            KwPreparationFunc done,
                            gpointer user_data);

G_END_DECLS
