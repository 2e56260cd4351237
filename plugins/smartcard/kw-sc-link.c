/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-link"

#include "config.h"

#include "kw-sc-link.h"

#include "kw-sc-error.h"
#include "kw-secret.h"

#include <openssl/crypto.h>

/*
 * A connection to the card in one reader, shared with other programs: a context of PC/SC and a handle of its own, because
 * libpcsclite lets one thread at a time use a context, and a card that hangs must hold up nothing but itself.
 *
 * When another program has reset the card, the connection takes notice and goes on; the count of resets tells the owner that
 * the login is gone. Any other failure is for good, and the owner makes a new connection.
 *
 * Commands and answers, which hold PINs and plaintext, pass through two locked buffers and are wiped out of them.
 *
 * One thread at a time; all calls but the getters block.
 */
struct _KwScLink
{
  char *reader; /* owned */
  SCARDCONTEXT context;
  SCARDHANDLE handle;
  DWORD protocol;
  gboolean has_context;
  gboolean has_handle;
  gboolean in_transaction;
  gboolean broken;
  guint n_resets;
  KwSecret *command; /* owned */
  KwSecret *answer;  /* owned */
  gsize n_answer;
};

#define PROTOCOLS (SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1)
#define MAX_ANSWER_BYTES 4096
#define MAX_RESETS_IN_A_ROW 3
#define MAX_SHARING_TRIES 6
#define SHARING_WAIT_USEC 50000 /* doubled each time: 1.5 seconds in all */

static gboolean
fail (KwScLink *self, LONG rv, const char *what, GError **error)
{
  self->broken = TRUE;
  kw_sc_set_rv_error (error, rv, self->reader, what);
  return FALSE;
}

static gboolean
check_alive (KwScLink *self, GError **error)
{
  if (!self->broken)
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE, "%s: the connection to the card failed before",
               self->reader);
  return FALSE;
}

/* Somebody who has the card to himself is often done in a moment. */
static LONG
connect_patiently (KwScLink *self)
{
  gulong wait = SHARING_WAIT_USEC;
  LONG rv = SCARD_S_SUCCESS;

  for (guint i = 1;; i++, wait *= 2)
    {
      rv = SCardConnect (self->context, self->reader, SCARD_SHARE_SHARED, PROTOCOLS, &self->handle,
                         &self->protocol);
      if (rv != SCARD_E_SHARING_VIOLATION || i >= MAX_SHARING_TRIES)
        return rv;
      g_usleep (wait);
    }
}

static gboolean
open_link (KwScLink *self, GError **error)
{
  LONG rv = SCardEstablishContext (SCARD_SCOPE_SYSTEM, NULL, NULL, &self->context);

  if (rv != SCARD_S_SUCCESS)
    return fail (self, rv, "SCardEstablishContext", error);
  self->has_context = TRUE;
  rv = connect_patiently (self);
  if (rv != SCARD_S_SUCCESS)
    return fail (self, rv, "SCardConnect", error);
  self->has_handle = TRUE;
  return TRUE;
}

/* After a reset by another program the handle is good for nothing but this. */
static gboolean
reconnect (KwScLink *self, GError **error)
{
  LONG rv = SCardReconnect (self->handle, SCARD_SHARE_SHARED, PROTOCOLS, SCARD_LEAVE_CARD,
                            &self->protocol);

  self->n_resets++;
  if (rv != SCARD_S_SUCCESS)
    return fail (self, rv, "SCardReconnect", error);
  return TRUE;
}

static void
wipe (KwScLink *self, gsize n_command)
{
  OPENSSL_cleanse (kw_secret_get_data (self->command), n_command);
}

static void
wipe_answer (KwScLink *self)
{
  OPENSSL_cleanse (kw_secret_get_data (self->answer), self->n_answer);
  self->n_answer = 0;
}

/**
 * kw_sc_link_new:
 * @reader: name of a reader
 * @error: where to store the error
 *
 * Connects to the card in a reader, without a reset and without selecting anything. Blocks.
 *
 * Returns: (transfer full): the connection; %NULL with %KW_ERROR_TOKEN_GONE, %KW_ERROR_DEVICE_FAILED, or
 *   %KW_ERROR_MODULE_FAILED when pcscd refuses us
 */
KwScLink *
kw_sc_link_new (const char *reader, GError **error)
{
  g_autoptr (KwScLink) self = g_new0 (KwScLink, 1);

  g_return_val_if_fail (reader != NULL, NULL);

  self->reader = g_strdup (reader);
  self->command = kw_secret_new (KW_SC_APDU_MAX_BYTES, error);
  if (self->command == NULL)
    return NULL;
  self->answer = kw_secret_new (MAX_ANSWER_BYTES, error);
  if (self->answer == NULL || !open_link (self, error))
    return NULL;
  return g_steal_pointer (&self);
}

/**
 * kw_sc_link_free:
 * @self: (transfer full): a connection
 *
 * Gives the card back as it is: logged in or not, and powered. Blocks.
 */
void
kw_sc_link_free (KwScLink *self)
{
  g_return_if_fail (self != NULL);

  kw_sc_link_end (self);
  if (self->has_handle)
    SCardDisconnect (self->handle, SCARD_LEAVE_CARD);
  if (self->has_context)
    SCardReleaseContext (self->context);
  g_clear_pointer (&self->command, kw_secret_unref);
  g_clear_pointer (&self->answer, kw_secret_unref);
  g_free (self->reader);
  g_free (self);
}

/**
 * kw_sc_link_get_reader:
 * @self: a connection
 *
 * Returns: (transfer none): name of its reader. Any thread.
 */
const char *
kw_sc_link_get_reader (KwScLink *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  return self->reader;
}

/**
 * kw_sc_link_get_n_resets:
 * @self: a connection
 *
 * Returns: how often the card was found to have been reset; each time, the login is gone
 */
guint
kw_sc_link_get_n_resets (KwScLink *self)
{
  g_return_val_if_fail (self != NULL, 0);

  return self->n_resets;
}

/**
 * kw_sc_link_begin:
 * @self: a connection that is in no transaction
 * @error: where to store the error
 *
 * Keeps other programs away from the card until kw_sc_link_end(). Waits for those that keep us away. Blocks.
 *
 * Returns: %FALSE with %KW_ERROR_TOKEN_GONE or %KW_ERROR_DEVICE_FAILED
 */
gboolean
kw_sc_link_begin (KwScLink *self, GError **error)
{
  g_return_val_if_fail (self != NULL && !self->in_transaction, FALSE);

  if (!check_alive (self, error))
    return FALSE;
  for (guint i = 1;; i++)
    {
      LONG rv = SCardBeginTransaction (self->handle);

      if (rv == SCARD_S_SUCCESS)
        {
          self->in_transaction = TRUE;
          return TRUE;
        }
      if (rv != SCARD_W_RESET_CARD || i >= MAX_RESETS_IN_A_ROW)
        return fail (self, rv, "SCardBeginTransaction", error);
      if (!reconnect (self, error))
        return FALSE;
    }
}

/**
 * kw_sc_link_end:
 * @self: a connection
 *
 * Ends the transaction, if it is in one, and wipes the last answer. Blocks.
 */
void
kw_sc_link_end (KwScLink *self)
{
  g_return_if_fail (self != NULL);

  if (self->answer != NULL)
    wipe_answer (self);
  if (!self->in_transaction)
    return;
  self->in_transaction = FALSE;
  /* That it fails shows with the next command, which says why. */
  SCardEndTransaction (self->handle, SCARD_LEAVE_CARD);
}

static LONG
transmit_once (KwScLink *self, gsize n_command)
{
  DWORD n_answer = MAX_ANSWER_BYTES;
  LONG rv = SCardTransmit (self->handle,
                           self->protocol == SCARD_PROTOCOL_T0 ? SCARD_PCI_T0 : SCARD_PCI_T1,
                           kw_secret_get_data (self->command), n_command, NULL,
                           kw_secret_get_data (self->answer), &n_answer);

  self->n_answer = rv == SCARD_S_SUCCESS ? MIN (n_answer, MAX_ANSWER_BYTES) : 0;
  return rv;
}

/**
 * kw_sc_link_transmit:
 * @self: a connection
 * @command: a command
 * @out_answer: (out): what the card answered, whatever the status word; its data lasts until the next call
 * @error: where to store the error
 *
 * Sends a command. A command that pcscd did not pass on because the card had been reset is sent again; one that may have
 * reached the card never is. Blocks.
 *
 * Returns: %FALSE with %KW_ERROR_TOKEN_GONE or %KW_ERROR_DEVICE_FAILED when no answer came
 */
gboolean
kw_sc_link_transmit (KwScLink *self,
                     const KwScCommand *command,
                     KwScAnswer *out_answer,
                     GError **error)
{
  gsize n_command = 0;
  LONG rv = SCARD_S_SUCCESS;

  g_return_val_if_fail (self != NULL && command != NULL, FALSE);

  if (!check_alive (self, error))
    return FALSE;
  wipe_answer (self);
  n_command = kw_sc_apdu_build (command, kw_secret_get_data (self->command), KW_SC_APDU_MAX_BYTES);
  g_return_val_if_fail (n_command > 0, FALSE);
  rv = transmit_once (self, n_command);
  for (guint i = 1; rv == SCARD_W_RESET_CARD && i < MAX_RESETS_IN_A_ROW; i++)
    {
      if (!reconnect (self, error))
        {
          wipe (self, n_command);
          return FALSE;
        }
      rv = transmit_once (self, n_command);
    }
  wipe (self, n_command);
  if (rv != SCARD_S_SUCCESS)
    return fail (self, rv, "SCardTransmit", error);
  /* A card that goes away in the middle of a command leaves less than a status word behind, and no error. */
  if (!kw_sc_apdu_parse_answer (kw_secret_get_data (self->answer), self->n_answer,
                                &out_answer->data, &out_answer->sw))
    return fail (self, SCARD_E_NOT_TRANSACTED, "SCardTransmit", error);
  return TRUE;
}
