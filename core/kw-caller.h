/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-grant.h"

G_BEGIN_DECLS

/**
 * KwCallerKind:
 * @KW_CALLER_JWT: holder of the JWT secret, over HTTP
 * @KW_CALLER_LINE: holder of the line token
 * @KW_CALLER_LOCAL: a command run on this machine
 * @KW_CALLER_BUS: a peer on D-Bus
 * @KW_CALLER_API: somebody who uses the JSON API, by JWT or with a session
 *
 * How the caller proved who he is.
 */
typedef enum
{
  KW_CALLER_JWT,
  KW_CALLER_LINE,
  KW_CALLER_LOCAL,
  KW_CALLER_BUS,
  KW_CALLER_API,
} KwCallerKind;

#define KW_N_CALLER_KINDS (KW_CALLER_API + 1)

#define KW_CALLER_NO_UID ((gint64) -1)

typedef struct _KwCaller KwCaller;

KwCaller *kw_caller_new (KwCallerKind kind,
                         const char *name,
                         const char *request_id,
                         const char *address,
                         gint64 uid);

KwCaller *kw_caller_new_with_grant (KwCallerKind kind,
                                    const char *name,
                                    const char *request_id,
                                    const char *address,
                                    gint64 uid,
                                    KwGrant *grant);

KwCaller *kw_caller_ref (KwCaller *self);

void kw_caller_unref (KwCaller *self);

KwCallerKind kw_caller_get_kind (const KwCaller *self);

const char *kw_caller_kind_to_string (KwCallerKind kind);

const char *kw_caller_get_name (const KwCaller *self);

const char *kw_caller_get_request_id (const KwCaller *self);

const char *kw_caller_get_address (const KwCaller *self);

gint64 kw_caller_get_uid (const KwCaller *self);

KwGrant *kw_caller_get_grant (const KwCaller *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwCaller, kw_caller_unref)

G_END_DECLS
