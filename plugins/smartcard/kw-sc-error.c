/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-error"

#include "config.h"

#include "kw-sc-error.h"

#include <glib/gi18n.h>

/*
 * What a card answers, and what pcscd answers, as errors of ours: one table each. The sentence is for whoever looks after
 * the service; the number is kept in it, for whoever looks it up.
 */

#define SW_TRIES_MASK 0xFFF0
#define SW_TRIES 0x63C0

static const struct
{
  guint16 sw;
  KwError code;
  const char *text;
} sw_table[] = {
  { KW_SC_SW_END_OF_FILE, KW_ERROR_DEVICE_FAILED, N_ ("the file ends earlier") },
  { 0x6300, KW_ERROR_PIN_REFUSED, N_ ("the PIN is wrong") },
  { 0x6400, KW_ERROR_DEVICE_FAILED, N_ ("the card could not do it") },
  { 0x6581, KW_ERROR_DEVICE_FAILED, N_ ("the card's memory is damaged; replace the card") },
  { KW_SC_SW_WRONG_LENGTH, KW_ERROR_DEVICE_FAILED,
    N_ ("the length is wrong; perhaps the reader cannot pass on long commands") },
  { 0x6881, KW_ERROR_DEVICE_FAILED, N_ ("the card knows no logical channels") },
  { 0x6882, KW_ERROR_DEVICE_FAILED, N_ ("the card wants no secure messaging") },
  { 0x6900, KW_ERROR_NOT_SUPPORTED, N_ ("the card does not allow it") },
  { KW_SC_SW_NOT_LOGGED_IN, KW_ERROR_NOT_LOGGED_IN, N_ ("nobody is logged in") },
  { KW_SC_SW_PIN_BLOCKED, KW_ERROR_PIN_LOCKED,
    N_ ("the PIN is locked; unlock it with the SO-PIN") },
  { KW_SC_SW_TRANSPORT_PIN, KW_ERROR_NOT_SUPPORTED,
    N_ ("the key was used as often as it may be, or the PIN is still the one for transport") },
  { KW_SC_SW_NOT_ALLOWED, KW_ERROR_NOT_SUPPORTED, N_ ("the card does not allow it in this state") },
  { 0x6986, KW_ERROR_NOT_SUPPORTED, N_ ("the card does not allow it without a file") },
  { KW_SC_SW_WRONG_DATA, KW_ERROR_INVALID_ARGUMENT, N_ ("the card does not take the data") },
  { KW_SC_SW_NOT_PERMITTED, KW_ERROR_NOT_SUPPORTED,
    N_ ("the key is of another kind, or was made without permission for this") },
  { KW_SC_SW_FILE_NOT_FOUND, KW_ERROR_KEY_NOT_FOUND, N_ ("it is not on the card") },
  { KW_SC_SW_FULL, KW_ERROR_TOKEN_FULL,
    N_ ("the card's memory is full; delete keys that are not needed any more") },
  { 0x6A86, KW_ERROR_DEVICE_FAILED, N_ ("the card does not know these parameters") },
  { KW_SC_SW_NO_REFERENCE, KW_ERROR_KEY_NOT_FOUND, N_ ("the key is not on the card") },
  { 0x6B00, KW_ERROR_DEVICE_FAILED, N_ ("the card does not know these parameters") },
  { KW_SC_SW_UNKNOWN_INSTRUCTION, KW_ERROR_NOT_SUPPORTED, N_ ("the card cannot do this") },
  { KW_SC_SW_UNKNOWN_CLASS, KW_ERROR_NOT_SUPPORTED, N_ ("the card cannot do this") },
  { 0x6F00, KW_ERROR_DEVICE_FAILED, N_ ("the card had an error of its own") },
};

#define POLKIT_TEXT                                                                                  \
  "pcscd refuses this user; allow keywardd's user the actions org.debian.pcsc-lite.access_pcsc and " \
  "org.debian.pcsc-lite.access_card in polkit"

/* SCARD_E_UNSUPPORTED_FEATURE has the number of SCARD_E_UNEXPECTED in pcsc-lite. */
static const struct
{
  LONG rv;
  KwError code;
  const char *text;
} rv_table[] = {
  { SCARD_E_SHARING_VIOLATION, KW_ERROR_DEVICE_FAILED,
    N_ ("another program keeps the card to itself; often it is scdaemon of GnuPG, to which "
        "“disable-ccid” and “pcsc-shared” in scdaemon.conf teach manners") },
  { SCARD_W_SECURITY_VIOLATION, KW_ERROR_MODULE_FAILED, N_ (POLKIT_TEXT) },
  { SCARD_E_NO_ACCESS, KW_ERROR_MODULE_FAILED, N_ (POLKIT_TEXT) },
  { SCARD_E_NO_SERVICE, KW_ERROR_TOKEN_GONE,
    N_ ("pcscd does not run; start it with: systemctl start pcscd.socket") },
  { SCARD_E_SERVICE_STOPPED, KW_ERROR_TOKEN_GONE, N_ ("pcscd was stopped") },
  { SCARD_P_SHUTDOWN, KW_ERROR_TOKEN_GONE, N_ ("pcscd is being stopped") },
  { SCARD_E_INVALID_HANDLE, KW_ERROR_TOKEN_GONE, N_ ("pcscd was started anew") },
  { SCARD_F_COMM_ERROR, KW_ERROR_TOKEN_GONE, N_ ("the connection to pcscd broke off") },
  { SCARD_W_REMOVED_CARD, KW_ERROR_TOKEN_GONE, N_ ("the card was pulled out") },
  { SCARD_E_NO_SMARTCARD, KW_ERROR_TOKEN_GONE, N_ ("there is no card in the reader") },
  { SCARD_E_READER_UNAVAILABLE, KW_ERROR_TOKEN_GONE, N_ ("the reader was pulled out") },
  { SCARD_E_UNKNOWN_READER, KW_ERROR_TOKEN_GONE, N_ ("the reader was pulled out") },
  { SCARD_E_NO_READERS_AVAILABLE, KW_ERROR_TOKEN_GONE, N_ ("there is no reader") },
  { SCARD_W_RESET_CARD, KW_ERROR_SESSION_LOST, N_ ("another program reset the card") },
  { SCARD_W_UNPOWERED_CARD, KW_ERROR_DEVICE_FAILED, N_ ("the card has no power") },
  { SCARD_W_UNRESPONSIVE_CARD, KW_ERROR_DEVICE_FAILED,
    N_ ("the card does not answer; pull it out, wipe its contacts and put it in again") },
  { SCARD_E_NOT_TRANSACTED, KW_ERROR_DEVICE_FAILED,
    N_ ("the card did not answer; perhaps it was pulled out") },
  { SCARD_E_COMM_DATA_LOST, KW_ERROR_DEVICE_FAILED, N_ ("the reader lost data on the way") },
  { SCARD_E_TIMEOUT, KW_ERROR_DEVICE_FAILED, N_ ("the card took too long") },
  { SCARD_E_PROTO_MISMATCH, KW_ERROR_NOT_SUPPORTED, N_ ("the card speaks neither T=0 nor T=1") },
  { SCARD_E_INSUFFICIENT_BUFFER, KW_ERROR_DEVICE_FAILED,
    N_ ("the answer is longer than any may be") },
  { SCARD_E_NO_MEMORY, KW_ERROR_DEVICE_FAILED, N_ ("pcscd has no memory left") },
  { SCARD_E_SERVER_TOO_BUSY, KW_ERROR_DEVICE_FAILED, N_ ("pcscd is too busy") },
  { SCARD_W_UNSUPPORTED_CARD, KW_ERROR_NOT_SUPPORTED, N_ ("the reader cannot use this card") },
  { SCARD_E_CARD_UNSUPPORTED, KW_ERROR_NOT_SUPPORTED, N_ ("the reader cannot use this card") },
  { SCARD_E_CANCELLED, KW_ERROR_CANCELLED, N_ ("it was given up") },
};

/**
 * kw_sc_sw_is_tries:
 * @sw: a status word
 * @out_tries: (out): tries of the PIN that are left
 *
 * Returns: %FALSE when it tells of no tries. Any thread.
 */
gboolean
kw_sc_sw_is_tries (guint sw, guint *out_tries)
{
  if ((sw & SW_TRIES_MASK) != SW_TRIES)
    return FALSE;
  *out_tries = sw & ~SW_TRIES_MASK;
  return TRUE;
}

static gsize
find_sw (guint sw)
{
  gsize i = 0;

  while (i < G_N_ELEMENTS (sw_table) && sw_table[i].sw != sw)
    i++;
  return i;
}

/**
 * kw_sc_sw_to_code:
 * @sw: a status word other than 9000
 *
 * Returns: what it means, %KW_ERROR_DEVICE_FAILED for one that is not known. Any thread.
 */
KwError
kw_sc_sw_to_code (guint sw)
{
  gsize i = find_sw (sw);
  guint tries = 0;

  if (kw_sc_sw_is_tries (sw, &tries))
    return tries > 0 ? KW_ERROR_PIN_REFUSED : KW_ERROR_PIN_LOCKED;
  return i < G_N_ELEMENTS (sw_table) ? sw_table[i].code : KW_ERROR_DEVICE_FAILED;
}

/**
 * kw_sc_set_sw_error:
 * @error: where to store the error
 * @sw: a status word other than 9000
 * @what: what was tried, such as "VERIFY"
 *
 * Sets the error that a status word stands for. Any thread.
 */
void
kw_sc_set_sw_error (GError **error, guint sw, const char *what)
{
  gsize i = find_sw (sw);
  guint tries = 0;

  if (kw_sc_sw_is_tries (sw, &tries))
    g_set_error (error, KW_ERROR, (gint) kw_sc_sw_to_code (sw),
                 "%s: the PIN is wrong; tries left: %u (status %04X)", what, tries, sw);
  else
    g_set_error (error, KW_ERROR, (gint) kw_sc_sw_to_code (sw), "%s: %s (status %04X)", what,
                 i < G_N_ELEMENTS (sw_table) ? sw_table[i].text : "the card's answer is not known",
                 sw);
}

static gsize
find_rv (LONG rv)
{
  gsize i = 0;

  /* Codes that came through 32 bits may have lost their upper half. */
  while (i < G_N_ELEMENTS (rv_table) && (guint32) rv_table[i].rv != (guint32) rv)
    i++;
  return i;
}

/**
 * kw_sc_rv_to_code:
 * @rv: a return value of libpcsclite other than SCARD_S_SUCCESS
 *
 * Returns: what it means, %KW_ERROR_DEVICE_FAILED for one that is not known. Any thread.
 */
KwError
kw_sc_rv_to_code (LONG rv)
{
  gsize i = find_rv (rv);

  return i < G_N_ELEMENTS (rv_table) ? rv_table[i].code : KW_ERROR_DEVICE_FAILED;
}

/**
 * kw_sc_set_rv_error:
 * @error: where to store the error
 * @rv: a return value of libpcsclite other than SCARD_S_SUCCESS
 * @reader: (nullable): the reader
 * @what: the function that returned it
 *
 * Sets the error that a return value stands for. Any thread.
 */
void
kw_sc_set_rv_error (GError **error, LONG rv, const char *reader, const char *what)
{
  gsize i = find_rv (rv);

  g_set_error (error, KW_ERROR, (gint) kw_sc_rv_to_code (rv), "%s%s%s (%s: 0x%08X)",
               reader != NULL ? reader : "", reader != NULL ? ": " : "",
               i < G_N_ELEMENTS (rv_table) ? rv_table[i].text : "pcscd or the reader failed", what,
               (guint) (guint32) rv);
}

/**
 * kw_sc_rv_means_no_service:
 * @rv: a return value of libpcsclite
 *
 * Returns: whether pcscd is not there, or not the same any more. Any thread.
 */
gboolean
kw_sc_rv_means_no_service (LONG rv)
{
  return rv == SCARD_E_NO_SERVICE || rv == SCARD_E_SERVICE_STOPPED || rv == SCARD_E_INVALID_HANDLE
         || rv == SCARD_F_COMM_ERROR || rv == SCARD_P_SHUTDOWN;
}
