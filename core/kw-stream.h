/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-secret.h"

G_BEGIN_DECLS

#define KW_STREAM_KEY_BYTES 32
#define KW_STREAM_CHUNK_BYTES 65536
#define KW_STREAM_ASSOCIATED_DATA "keyward file 1"

/**
 * KwStreamFunc:
 * @n_bytes: bytes of plaintext that are done
 * @user_data: what was given with it
 *
 * Is told of progress, on the thread that works.
 */
typedef void (*KwStreamFunc) (guint64 n_bytes, gpointer user_data);

/**
 * KwStream:
 * @input: descriptor that is read to its end
 * @output: descriptor that is written
 * @progress: (nullable): told after each chunk
 * @user_data: for @progress
 * @cancellable: (nullable): ends it
 *
 * From where to where.
 */
typedef struct
{
  int input;
  int output;
  KwStreamFunc progress;
  gpointer user_data;
  GCancellable *cancellable;
} KwStream;

GBytes *kw_stream_make_associated_data (GBytes *associated_data);

gboolean kw_stream_seal (const KwStream *self, GBytes *envelope, KwSecret *key, GError **error);

GBytes *kw_stream_read_envelope (const KwStream *self, GError **error);

gboolean kw_stream_open (const KwStream *self, KwSecret *key, GError **error);

G_END_DECLS
