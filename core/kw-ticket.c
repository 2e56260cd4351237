/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-ticket"

#include "config.h"

#include "kw-ticket.h"

#include "kw-error.h"
#include "kw-limits.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

/*
 * Tickets that let somebody in once: who has proven by one door who he is gets a ticket there, and is known by it at
 * another. A ticket is good for a minute and for one use. Only a digest of it is kept, under which it is found: looking one
 * up tells nothing about others by its time, and who reads our memory learns none.
 *
 * Any thread.
 */
struct _KwTickets
{
  gatomicrefcount references;
  GMutex lock;
  GQueue open; /* of Ticket, oldest first; guarded by lock */
};

typedef struct
{
  char *digest;
  KwCaller *holder;
  gint64 expires; /* monotonic */
} Ticket;

static void
ticket_free (gpointer data)
{
  Ticket *ticket = data;

  g_free (ticket->digest);
  kw_caller_unref (ticket->holder);
  g_free (ticket);
}

/**
 * kw_ticket_make:
 * @out_text: (out caller-allocates): room for %KW_TICKET_CHARACTERS and a NUL; to be wiped by the caller
 * @error: where to store the error
 *
 * Makes 256 random bits, in base64url. Any thread.
 *
 * Returns: %FALSE with %KW_ERROR_FAILED when there is no randomness
 */
gboolean
kw_ticket_make (char *out_text, GError **error)
{
  guint8 bytes[KW_TICKET_BYTES];
  guchar text[KW_TICKET_CHARACTERS + 2];

  if (RAND_priv_bytes (bytes, sizeof bytes) != 1)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED, "There are no random numbers");
      return FALSE;
    }
  EVP_EncodeBlock (text, bytes, sizeof bytes);
  for (guint i = 0; i < KW_TICKET_CHARACTERS; i++)
    out_text[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : (char) text[i];
  out_text[KW_TICKET_CHARACTERS] = '\0';
  OPENSSL_cleanse (bytes, sizeof bytes);
  OPENSSL_cleanse (text, sizeof text);
  return TRUE;
}

/**
 * kw_ticket_dup_digest:
 * @purpose: what the digest is for
 * @ticket: a ticket
 *
 * Returns: (transfer full): SHA-256 over both, in hex: to be kept in place of a ticket, or derived from it. Any thread.
 */
char *
kw_ticket_dup_digest (const char *purpose, const char *ticket)
{
  g_autoptr (GChecksum) checksum = g_checksum_new (G_CHECKSUM_SHA256);

  g_checksum_update (checksum, (const guchar *) purpose, (gssize) strlen (purpose) + 1);
  g_checksum_update (checksum, (const guchar *) ticket, -1);
  return g_strdup (g_checksum_get_string (checksum));
}

/**
 * kw_tickets_new:
 *
 * Returns: (transfer full): no tickets yet. Any thread.
 */
KwTickets *
kw_tickets_new (void)
{
  KwTickets *self = g_new0 (KwTickets, 1);

  g_atomic_ref_count_init (&self->references);
  g_mutex_init (&self->lock);
  g_queue_init (&self->open);
  return self;
}

/**
 * kw_tickets_ref:
 * @self: tickets
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwTickets *
kw_tickets_ref (KwTickets *self)
{
  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_tickets_unref:
 * @self: (transfer full): tickets
 *
 * Gives a reference back. Any thread.
 */
void
kw_tickets_unref (KwTickets *self)
{
  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_queue_clear_full (&self->open, ticket_free);
  g_mutex_clear (&self->lock);
  g_free (self);
}

/* With the lock held. */
static void
forget_old (KwTickets *self, gint64 now)
{
  Ticket *oldest = g_queue_peek_head (&self->open);

  while (oldest != NULL && (oldest->expires <= now || self->open.length >= KW_MAX_WEB_LOGINS))
    {
      ticket_free (g_queue_pop_head (&self->open));
      oldest = g_queue_peek_head (&self->open);
    }
}

/**
 * kw_tickets_issue:
 * @self: tickets
 * @holder: who it is for
 * @error: where to store the error
 *
 * Makes a ticket. When too many are open the oldest one is withdrawn. Any thread.
 *
 * Returns: (transfer full): its text, %KW_TICKET_CHARACTERS without a NUL; %NULL with an error
 */
KwSecret *
kw_tickets_issue (KwTickets *self, KwCaller *holder, GError **error)
{
  char text[KW_TICKET_CHARACTERS + 1];
  gint64 now = g_get_monotonic_time ();
  KwSecret *secret = NULL;
  Ticket *ticket = NULL;

  if (!kw_ticket_make (text, error))
    return NULL;
  secret = kw_secret_new_copy (text, KW_TICKET_CHARACTERS, error);
  if (secret != NULL)
    {
      ticket = g_new0 (Ticket, 1);
      ticket->digest = kw_ticket_dup_digest ("ticket", text);
      ticket->holder = kw_caller_ref (holder);
      ticket->expires = now + KW_TICKET_SECONDS * G_TIME_SPAN_SECOND;
      g_mutex_lock (&self->lock);
      forget_old (self, now);
      g_queue_push_tail (&self->open, ticket);
      g_mutex_unlock (&self->lock);
    }
  OPENSSL_cleanse (text, sizeof text);
  return secret;
}

/**
 * kw_tickets_redeem:
 * @self: tickets
 * @ticket: what somebody shows
 *
 * Lets the holder of a ticket in, and makes it void. Any thread.
 *
 * Returns: (transfer full) (nullable): who it was made for; %NULL when it is none of ours, was used, or is too old
 */
KwCaller *
kw_tickets_redeem (KwTickets *self, const char *ticket)
{
  g_autofree char *digest = kw_ticket_dup_digest ("ticket", ticket);
  gint64 now = g_get_monotonic_time ();
  KwCaller *holder = NULL;

  g_mutex_lock (&self->lock);
  for (GList *link = self->open.head; holder == NULL && link != NULL; link = link->next)
    {
      Ticket *one = link->data;

      if (!g_str_equal (one->digest, digest))
        continue;
      if (one->expires > now)
        holder = kw_caller_ref (one->holder);
      g_queue_delete_link (&self->open, link);
      ticket_free (one);
      break;
    }
  g_mutex_unlock (&self->lock);
  return holder;
}
