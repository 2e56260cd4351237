/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-card-pcsc"

#include "kw-card-rig-private.h"

#include <dlfcn.h>
#include <string.h>
#include <winscard.h>

#define LIBRARY "libpcsclite.so.1"
#define SOCKET_VARIABLE "PCSCLITE_CSOCK_NAME"
#define MAX_RESPONSE 65544
#define MAX_NAMES 4096
#define POLL_USEC 5000

struct _KwCardPcsc
{
  void *module; /* owned */
  LONG (*establish_context) (DWORD, LPCVOID, LPCVOID, LPSCARDCONTEXT);
  LONG (*release_context) (SCARDCONTEXT);
  LONG (*list_readers) (SCARDCONTEXT, LPCSTR, LPSTR, LPDWORD);
  LONG (*get_status_change) (SCARDCONTEXT, DWORD, SCARD_READERSTATE *, DWORD);
  LONG (*connect) (SCARDCONTEXT, LPCSTR, DWORD, DWORD, LPSCARDHANDLE, LPDWORD);
  LONG (*disconnect) (SCARDHANDLE, DWORD);
  LONG (*begin_transaction) (SCARDHANDLE);
  LONG (*end_transaction) (SCARDHANDLE, DWORD);
  LONG (*transmit)
  (SCARDHANDLE, const SCARD_IO_REQUEST *, LPCBYTE, DWORD, SCARD_IO_REQUEST *, LPBYTE, LPDWORD);
  const char *(*stringify_error) (const LONG);
};

struct _KwCardSession
{
  KwCardPcsc *pcsc; /* borrowed */
  SCARDCONTEXT context;
  SCARDHANDLE handle;
  DWORD protocol;
  gboolean connected;
};

static gboolean
copy_library (const char *copy, GError **error)
{
  void *original = dlopen (LIBRARY, RTLD_NOW | RTLD_LOCAL);
  g_autoptr (GFile) from = NULL;
  g_autoptr (GFile) to = g_file_new_for_path (copy);
  Dl_info info = { NULL };

  if (original == NULL || dladdr (dlsym (original, "SCardEstablishContext"), &info) == 0)
    return kw_card_rig_fail (error, G_IO_ERROR_NOT_FOUND, LIBRARY " cannot be loaded");
  from = g_file_new_for_path (info.dli_fname);
  dlclose (original);
  return g_file_copy (from, to, G_FILE_COPY_OVERWRITE, NULL, NULL, NULL, error);
}

static void
find_symbols (KwCardPcsc *self)
{
  const struct
  {
    const char *name;
    gpointer *slot;
  } symbols[] = {
    { "SCardEstablishContext", (gpointer *) &self->establish_context },
    { "SCardReleaseContext", (gpointer *) &self->release_context },
    { "SCardListReaders", (gpointer *) &self->list_readers },
    { "SCardGetStatusChange", (gpointer *) &self->get_status_change },
    { "SCardConnect", (gpointer *) &self->connect },
    { "SCardDisconnect", (gpointer *) &self->disconnect },
    { "SCardBeginTransaction", (gpointer *) &self->begin_transaction },
    { "SCardEndTransaction", (gpointer *) &self->end_transaction },
    { "SCardTransmit", (gpointer *) &self->transmit },
    { "pcsc_stringify_error", (gpointer *) &self->stringify_error },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (symbols); i++)
    {
      *symbols[i].slot = dlsym (self->module, symbols[i].name);
      g_assert_nonnull (*symbols[i].slot);
    }
}

/*
 * Loads a copy of the library into @directory, for the pcscd behind @socket_name. The environment is changed for a
 * moment, so no other thread may look at it now.
 */
KwCardPcsc *
kw_card_pcsc_new (const char *directory, const char *socket_name, GError **error)
{
  g_autofree char *copy = g_build_filename (directory, LIBRARY, NULL);
  g_autofree char *before = g_strdup (g_getenv (SOCKET_VARIABLE));
  KwCardPcsc *self = NULL;
  SCARDCONTEXT context = 0;

  if (!copy_library (copy, error))
    return NULL;
  self = g_new0 (KwCardPcsc, 1);
  self->module = dlopen (copy, RTLD_NOW | RTLD_LOCAL);
  if (self->module == NULL)
    {
      kw_card_rig_fail (error, G_IO_ERROR_FAILED, "%s", dlerror ());
      g_free (self);
      return NULL;
    }
  find_symbols (self);
  g_setenv (SOCKET_VARIABLE, socket_name, TRUE);
  if (self->establish_context (SCARD_SCOPE_SYSTEM, NULL, NULL, &context) == SCARD_S_SUCCESS)
    self->release_context (context);
  if (before != NULL)
    g_setenv (SOCKET_VARIABLE, before, TRUE);
  else
    g_unsetenv (SOCKET_VARIABLE);
  return self;
}

void
kw_card_pcsc_free (KwCardPcsc *self)
{
  dlclose (self->module);
  g_free (self);
}

/* Whether pcscd runs and has a reader of that name. */
gboolean
kw_card_pcsc_has_reader (KwCardPcsc *self, const char *reader)
{
  char names[MAX_NAMES];
  DWORD size = sizeof names;
  SCARDCONTEXT context = 0;
  gboolean found = FALSE;

  if (self->establish_context (SCARD_SCOPE_SYSTEM, NULL, NULL, &context) != SCARD_S_SUCCESS)
    return FALSE;
  if (self->list_readers (context, NULL, names, &size) == SCARD_S_SUCCESS)
    {
      for (const char *name = names; *name != '\0'; name += strlen (name) + 1)
        found = found || strcmp (name, reader) == 0;
    }
  self->release_context (context);
  return found;
}

/* One look, which lasts until something changes or until the deadline. */
static gboolean
has_state (KwCardPcsc *self,
           SCARDCONTEXT context,
           const char *reader,
           gboolean present,
           gint64 deadline)
{
  SCARD_READERSTATE state = { .szReader = reader, .dwCurrentState = SCARD_STATE_UNAWARE };

  for (;;)
    {
      gint64 left = (deadline - g_get_monotonic_time ()) / 1000;
      LONG rv = self->get_status_change (context, (DWORD) MAX (left, 0), &state, 1);

      if (rv != SCARD_S_SUCCESS)
        return FALSE;
      if (((state.dwEventState & SCARD_STATE_PRESENT) != 0) == present
          && (state.dwEventState & (SCARD_STATE_UNKNOWN | SCARD_STATE_UNAVAILABLE)) == 0)
        return TRUE;
      if (left <= 0)
        return FALSE;
      state.dwCurrentState = state.dwEventState;
    }
}

/* Waits until PC/SC says that there is a card in the reader, or none; @deadline is of g_get_monotonic_time(). */
gboolean
kw_card_pcsc_wait (KwCardPcsc *self, const char *reader, gboolean present, gint64 deadline)
{
  do
    {
      SCARDCONTEXT context = 0;

      if (self->establish_context (SCARD_SCOPE_SYSTEM, NULL, NULL, &context) == SCARD_S_SUCCESS)
        {
          gboolean done = has_state (self, context, reader, present, deadline);

          self->release_context (context);
          if (done)
            return TRUE;
        }
      g_usleep (POLL_USEC);
    }
  while (g_get_monotonic_time () < deadline);
  return FALSE;
}

/**
 * kw_card_session_new:
 * @rig: a rig
 * @card: a card of it
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Connects to a card, shared with others, and begins a transaction: nobody else reaches the card until the session is
 * freed. Has no deadline; with a frozen card it waits for the thaw.
 *
 * Returns: (transfer full) (nullable): the session; %NULL = G_IO_ERROR_FAILED, with the name of the PC/SC error
 */
KwCardSession *
kw_card_session_new (KwCardRig *rig, guint card, GError **error)
{
  g_autoptr (KwCardSession) self = g_new0 (KwCardSession, 1);
  const char *reader = kw_card_rig_get_reader (rig, card);
  LONG rv = 0;

  self->pcsc = kw_card_rig_get_pcsc (rig);
  rv = self->pcsc->establish_context (SCARD_SCOPE_SYSTEM, NULL, NULL, &self->context);
  if (rv == SCARD_S_SUCCESS)
    rv = self->pcsc->connect (self->context, reader, SCARD_SHARE_SHARED,
                              SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &self->handle,
                              &self->protocol);
  self->connected = rv == SCARD_S_SUCCESS;
  if (rv == SCARD_S_SUCCESS)
    rv = self->pcsc->begin_transaction (self->handle);
  if (rv != SCARD_S_SUCCESS)
    {
      kw_card_rig_fail (error, G_IO_ERROR_FAILED, "%s: %s", reader,
                        self->pcsc->stringify_error (rv));
      return NULL;
    }
  return g_steal_pointer (&self);
}

/**
 * kw_card_session_free:
 * @self: (transfer full): a session
 *
 * Ends the transaction and the connection; the card keeps its power, and who is logged in.
 */
void
kw_card_session_free (KwCardSession *self)
{
  if (self->connected)
    {
      self->pcsc->end_transaction (self->handle, SCARD_LEAVE_CARD);
      self->pcsc->disconnect (self->handle, SCARD_LEAVE_CARD);
    }
  if (self->context != 0)
    self->pcsc->release_context (self->context);
  g_free (self);
}

/**
 * kw_card_session_transmit:
 * @self: a session
 * @apdu: (array length=n_apdu): a command
 * @n_apdu: its length in bytes
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Sends one command. Any status word is an answer, not an error.
 *
 * Returns: (transfer full) (nullable): data and status word; %NULL = G_IO_ERROR_FAILED, with the name of the PC/SC error
 */
GBytes *
kw_card_session_transmit (KwCardSession *self, gconstpointer apdu, gsize n_apdu, GError **error)
{
  SCARD_IO_REQUEST protocol
      = { .dwProtocol = self->protocol, .cbPciLength = sizeof (SCARD_IO_REQUEST) };
  g_autofree guint8 *response = g_malloc (MAX_RESPONSE);
  DWORD size = MAX_RESPONSE;
  LONG rv
      = self->pcsc->transmit (self->handle, &protocol, apdu, (DWORD) n_apdu, NULL, response, &size);

  if (rv != SCARD_S_SUCCESS)
    {
      kw_card_rig_fail (error, G_IO_ERROR_FAILED, "%s", self->pcsc->stringify_error (rv));
      return NULL;
    }
  /* What vpcd makes of a card that goes in the middle of a command: success, without even a status word. */
  if (size < 2)
    {
      kw_card_rig_fail (error, G_IO_ERROR_FAILED, "the card has given no answer");
      return NULL;
    }
  return g_bytes_new (response, size);
}

static GBytes *
bytes_from_hex (const char *text)
{
  GByteArray *bytes = g_byte_array_new ();

  for (const char *at = text; *at != '\0'; at++)
    {
      guint8 byte = 0;

      if (*at == ' ')
        continue;
      g_assert_true (g_ascii_isxdigit (at[0]) && g_ascii_isxdigit (at[1]));
      byte = (guint8) (g_ascii_xdigit_value (at[0]) << 4 | g_ascii_xdigit_value (at[1]));
      g_byte_array_append (bytes, &byte, 1);
      at++;
    }
  return g_byte_array_free_to_bytes (bytes);
}

static char *
hex_from_bytes (GBytes *bytes)
{
  gsize size = 0;
  const guint8 *data = g_bytes_get_data (bytes, &size);
  GString *text = g_string_sized_new (2 * size);

  for (gsize i = 0; i < size; i++)
    g_string_append_printf (text, "%02X", data[i]);
  return g_string_free (text, FALSE);
}

/**
 * kw_card_session_transmit_hex:
 * @self: a session
 * @apdu: a command in hexadecimal; spaces may stand between bytes
 * @error: (nullable): %NULL = a failure ends the program
 *
 * As kw_card_session_transmit(), in text.
 *
 * Returns: (transfer full) (nullable): data and status word in capital hexadecimal digits
 */
char *
kw_card_session_transmit_hex (KwCardSession *self, const char *apdu, GError **error)
{
  g_autoptr (GBytes) command = bytes_from_hex (apdu);
  g_autoptr (GBytes) response = kw_card_session_transmit (self, g_bytes_get_data (command, NULL),
                                                          g_bytes_get_size (command), error);

  return response != NULL ? hex_from_bytes (response) : NULL;
}

/**
 * kw_card_rig_transmit:
 * @self: a rig
 * @card: a card of it
 * @apdu: a command in hexadecimal; spaces may stand between bytes
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Sends one command in a session of its own.
 *
 * Returns: (transfer full) (nullable): data and status word in capital hexadecimal digits
 */
char *
kw_card_rig_transmit (KwCardRig *self, guint card, const char *apdu, GError **error)
{
  g_autoptr (KwCardSession) session = kw_card_session_new (self, card, error);

  return session != NULL ? kw_card_session_transmit_hex (session, apdu, error) : NULL;
}
