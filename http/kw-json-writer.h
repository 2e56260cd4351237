/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-secret.h"

G_BEGIN_DECLS

/**
 * KwJsonWriter:
 *
 * Writes a JSON document into memory for secrets. One thread at a time.
 */
typedef struct _KwJsonWriter KwJsonWriter;

KwJsonWriter *kw_json_writer_new (gsize expected);

void kw_json_writer_free (KwJsonWriter *self);

void kw_json_writer_add (KwJsonWriter *self, const char *text);

void kw_json_writer_add_string (KwJsonWriter *self, const char *text);

void kw_json_writer_add_base64 (KwJsonWriter *self, gconstpointer data, gsize size);

KwSecret *kw_json_writer_finish (KwJsonWriter *self, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwJsonWriter, kw_json_writer_free)

G_END_DECLS
