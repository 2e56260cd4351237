/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-sc-token.h"

G_BEGIN_DECLS

/**
 * KwScProbe: a look at a card, on a thread of its own
 */
typedef struct _KwScProbe KwScProbe;

typedef void (*KwScProbeFunc) (KwScProbe *probe,
                               KwScToken *token,
                               gboolean is_blank,
                               const GError *error,
                               gpointer user_data);

KwScProbe *kw_sc_probe_start (const char *reader,
                              GBytes *atr,
                              gboolean blank_before,
                              KwScProbeFunc func,
                              gpointer user_data);

void kw_sc_probe_drop (KwScProbe *probe);

G_END_DECLS
