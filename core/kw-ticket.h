/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-caller.h"
#include "kw-secret.h"

G_BEGIN_DECLS

#define KW_TICKET_SECONDS 60
#define KW_TICKET_BYTES 32      /* of randomness */
#define KW_TICKET_CHARACTERS 43 /* the same in base64url without padding */

/**
 * KwTickets:
 *
 * Tickets that let somebody in once. Reference-counted; any thread.
 */
typedef struct _KwTickets KwTickets;

KwTickets *kw_tickets_new (void);

KwTickets *kw_tickets_ref (KwTickets *self);

void kw_tickets_unref (KwTickets *self);

KwSecret *kw_tickets_issue (KwTickets *self, KwCaller *holder, GError **error);

KwCaller *kw_tickets_redeem (KwTickets *self, const char *ticket);

gboolean kw_ticket_make (char *out_text, GError **error);

char *kw_ticket_dup_digest (const char *purpose, const char *ticket);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwTickets, kw_tickets_unref)

G_END_DECLS
