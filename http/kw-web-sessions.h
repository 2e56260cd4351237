/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-caller.h"
#include "kw-service.h"
#include "kw-ticket.h"

G_BEGIN_DECLS

#define KW_WEB_SESSION_SECONDS (12 * 60 * 60)

/**
 * KwWebSessions:
 *
 * Browsers that were let in. Any thread.
 */
typedef struct _KwWebSessions KwWebSessions;

KwWebSessions *kw_web_sessions_new (const char *state_directory, KwService *service);

void kw_web_sessions_free (KwWebSessions *self);

gboolean kw_web_sessions_open (KwWebSessions *self,
                               KwCaller *caller,
                               char out_cookie[KW_TICKET_CHARACTERS + 1],
                               GError **error);

KwCaller *kw_web_sessions_find (KwWebSessions *self, const char *cookie, const char *address);

void kw_web_sessions_reconsider (KwWebSessions *self, KwService *service);

void kw_web_sessions_close (KwWebSessions *self, const char *cookie);

char *kw_web_sessions_dup_forgery_token (const char *cookie);

G_END_DECLS
