/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-http-server.h"
#include "kw-http-stream.h"

#include <microhttpd.h>

G_BEGIN_DECLS

typedef enum
{
  KW_HTTP_PHASE_HEADERS, /* new, nothing asked yet */
  KW_HTTP_PHASE_BODY,
  KW_HTTP_PHASE_ANSWER, /* a token is at work, or the answer is being sent */
  KW_HTTP_PHASE_IDLE,   /* kept alive between requests */
} KwHttpPhase;

typedef struct
{
  KwHttpServer *server; /* borrowed: it outlives its connections */
  int fd;               /* borrowed from libmicrohttpd */
  KwHttpPhase phase;    /* atomic */
  gint64 since;         /* monotonic; written by the event thread before the phase */
  char *peer;           /* owned; made on first use by the event thread */
  gint64 uid;
  GArray *groups; /* owned, nullable: of guint32; made with the peer */
} KwHttpConnection;

struct _KwHttpRequest
{
  gatomicrefcount references;
  KwHttpServer *server;         /* owned */
  KwHttpConnection *connection; /* borrowed; only while the request is being handled */
  struct MHD_Connection *mhd;   /* borrowed; NULL once libmicrohttpd is through with it */
  const KwHttpRoute *route; /* borrowed from the server, whose routes never change after start */
  char *argument;           /* owned, nullable */
  GByteArray *body;         /* owned, nullable */
  GBytes *body_bytes;       /* owned, nullable */
  KwSecret *secret_body;    /* owned, nullable: with room for what is still to come */
  gsize n_announced;        /* Content-Length; 0 when there is none */
  gsize n_received;
  gpointer data; /* owned with destroy */
  GDestroyNotify destroy;
  gboolean is_head;
  gboolean wants_problem; /* errors of the server are told as problem documents (RFC 9457) */
  gboolean no_room;       /* event thread: for the body */
  gboolean has_body;      /* event thread: the headers announce one */
  gboolean handled;       /* event thread: the answer is there, or somebody will give it */

  GMutex lock;
  struct MHD_Response *response; /* guarded by lock; owned until queued */
  guint status;                  /* guarded by lock */
  gboolean answered;             /* guarded by lock */
  gboolean suspended;            /* guarded by lock */
};

#define KW_HTTP_STREAM_BLOCK_BYTES 4096

/* Between the files of the server. */

void kw_http_request_cut (KwHttpRequest *request);

void
kw_http_request_respond_raw (KwHttpRequest *request, guint status, struct MHD_Response *response);

void kw_http_request_respond_text_with (KwHttpRequest *request,
                                        guint status,
                                        const char *text,
                                        const KwHttpHeader *headers);

void kw_http_request_add_headers (KwHttpRequest *request,
                                  struct MHD_Response *response,
                                  const KwHttpResponse *answer);

void kw_http_server_return_body (KwHttpServer *self, gsize n_bytes);

void kw_http_server_forget_pending (KwHttpServer *self, KwHttpRequest *request);

gboolean kw_http_server_is_quiesced (KwHttpServer *self);

gboolean kw_http_server_add_stream (KwHttpServer *self, KwHttpStream *stream);

void kw_http_server_remove_stream (KwHttpServer *self, KwHttpStream *stream);

gboolean kw_http_server_is_secure (KwHttpServer *self);

G_END_DECLS
