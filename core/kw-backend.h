/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-config.h"
#include "kw-token.h"

G_BEGIN_DECLS

/**
 * KwSlotInfo:
 *
 * One slot of a back end as `listslots` shows it: `lines` is a list of (indentation level, name, value) triples under two
 * headings, made by the back end, so that every field a PKCS#11 module tells is shown.
 */
typedef struct
{
  guint64 slot;
  GPtrArray *slot_fields;  /* element-type: char *, name and value in turn */
  GPtrArray *token_fields; /* likewise; empty when no token is present */
} KwSlotInfo;

void kw_slot_info_free (KwSlotInfo *info);

/**
 * KwTokenAccess:
 * @pin: (transfer none) (nullable): the user PIN; %NULL when none is configured
 * @pin_name: (transfer none): the setting it stands in, for messages, such as "[pkcs11] pin"
 * @timeout_usec: how long one operation may take, in microseconds
 *
 * How a token of a back end is to be used, as the configuration has it.
 */
typedef struct
{
  KwSecret *pin;
  const char *pin_name;
  gint64 timeout_usec;
} KwTokenAccess;

#define KW_TYPE_BACKEND (kw_backend_get_type ())
G_DECLARE_INTERFACE (KwBackend, kw_backend, KW, BACKEND, GObject)

/**
 * KwBackendInterface:
 * @get_name: short name of the back end ("pkcs11")
 * @configure: takes what it needs from the configuration; no I/O. Called once, first
 * @start: begins to look for tokens on a thread of its own. Never blocks; a module or token that is not there (yet) is
 *   no error but a status text
 * @stop: the reverse; no signal is emitted afterwards. Does not wait for calls in flight
 * @coldplug: finds the configured tokens now, blocking, for commands that need one and end. Errors say what is there
 * @list_slots: (element-type KwSlotInfo): describes all slots, blocking
 * @reset_token: a device had trouble with this token: drop it (`token-removed`), start the module or reader anew, with
 *   back-off when it happens again, and announce what is there (`token-added`, a new object). Main context
 * @get_status_text: one sentence on what it is waiting for, %NULL when all is well. Main context
 * @is_token_expected: whether a token that was dropped for its trouble may still be where it was; optional, by default it
 *   is not. Main context
 * @get_access: PIN and time limit for one of its tokens; optional, by default those of `[pkcs11]`. Main context
 *
 * Signals `token-added` and `token-removed`, each with a #KwToken, and `status-changed` are emitted in the main context.
 * Implementations register on the extension point %KW_BACKEND_EXTENSION_POINT.
 */
struct _KwBackendInterface
{
  GTypeInterface parent_iface;

  const char *(*get_name) (KwBackend *self);
  gboolean (*configure) (KwBackend *self, KwConfig *config, GError **error);
  void (*start) (KwBackend *self);
  void (*stop) (KwBackend *self);
  GPtrArray *(*coldplug) (KwBackend *self, GError **error);
  GPtrArray *(*list_slots) (KwBackend *self, GError **error);
  void (*reset_token) (KwBackend *self, KwToken *token);
  const char *(*get_status_text) (KwBackend *self);
  gboolean (*is_token_expected) (KwBackend *self, KwToken *token);
  void (*get_access) (KwBackend *self, KwToken *token, KwTokenAccess *out_access);
};

const char *kw_backend_get_name (KwBackend *self);

gboolean kw_backend_configure (KwBackend *self, KwConfig *config, GError **error);

void kw_backend_start (KwBackend *self);

void kw_backend_stop (KwBackend *self);

GPtrArray *kw_backend_coldplug (KwBackend *self, GError **error);

GPtrArray *kw_backend_list_slots (KwBackend *self, GError **error);

void kw_backend_reset_token (KwBackend *self, KwToken *token);

const char *kw_backend_get_status_text (KwBackend *self);

gboolean kw_backend_is_token_expected (KwBackend *self, KwToken *token);

gboolean kw_backend_get_access (KwBackend *self, KwToken *token, KwTokenAccess *out_access);

void kw_backend_emit_token_added (KwBackend *self, KwToken *token);

void kw_backend_emit_token_removed (KwBackend *self, KwToken *token);

void kw_backend_emit_status_changed (KwBackend *self);

G_END_DECLS
