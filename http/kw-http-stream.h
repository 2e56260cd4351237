/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-http-server.h"

G_BEGIN_DECLS

/**
 * KwHttpStream:
 *
 * An answer without an end, to which more is added as it happens. Reference-counted; any thread.
 */
typedef struct _KwHttpStream KwHttpStream;

KwHttpStream *kw_http_stream_new (KwHttpRequest *request, const KwHttpResponse *response);

KwHttpStream *kw_http_stream_ref (KwHttpStream *self);

void kw_http_stream_unref (KwHttpStream *self);

gboolean kw_http_stream_push (KwHttpStream *self, GBytes *bytes);

void kw_http_stream_close (KwHttpStream *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwHttpStream, kw_http_stream_unref)

G_END_DECLS
