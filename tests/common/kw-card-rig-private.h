/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-card-rig.h"

G_BEGIN_DECLS

/**
 * KwCardPcsc: a libpcsclite of the rig's own
 *
 * libpcsclite looks at PCSCLITE_CSOCK_NAME once in the life of a process. A program that has several rigs, one after
 * another or at once, loads a copy of the library for each, which has variables of its own.
 */
typedef struct _KwCardPcsc KwCardPcsc;

KwCardPcsc *kw_card_pcsc_new (const char *directory, const char *socket_name, GError **error);

void kw_card_pcsc_free (KwCardPcsc *self);

gboolean kw_card_pcsc_has_reader (KwCardPcsc *self, const char *reader);

gboolean
kw_card_pcsc_wait (KwCardPcsc *self, const char *reader, gboolean present, gint64 deadline);

KwCardPcsc *kw_card_rig_get_pcsc (KwCardRig *self);

const char *kw_card_rig_get_pin (KwCardRig *self, guint card);

void kw_card_rig_set_pin (KwCardRig *self, guint card, const char *pin);

gboolean kw_card_rig_fail (GError **error, int code, const char *format, ...) G_GNUC_PRINTF (3, 4);

G_END_DECLS
