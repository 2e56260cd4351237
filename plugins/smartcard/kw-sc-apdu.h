/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-sc-tlv.h"

G_BEGIN_DECLS

#define KW_SC_APDU_MAX_DATA 1024 /* bytes of data in a command: cards have buffers of 1,232 */
#define KW_SC_APDU_ANY 65536     /* an answer of any length */
#define KW_SC_APDU_MAX_BYTES (4 + 3 + KW_SC_APDU_MAX_DATA + 2)

/**
 * KwScCommand: a command for a card
 */
typedef struct
{
  guint8 cla;
  guint8 ins;
  guint8 p1;
  guint8 p2;
  gconstpointer data; /* borrowed, nullable */
  gsize n_data;
  gsize n_expected; /* bytes of the answer at most; 0 = none, KW_SC_APDU_ANY = any */
} KwScCommand;

gsize kw_sc_apdu_build (const KwScCommand *command, guint8 *out_bytes, gsize n_bytes);

gboolean
kw_sc_apdu_parse_answer (const guint8 *bytes, gsize size, KwScSpan *out_data, guint *out_sw);

G_END_DECLS
