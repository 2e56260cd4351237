/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-sc-link.h"

G_BEGIN_DECLS

/* Kinds of files: the high byte of an id; the low one is the number of a key. */
#define KW_SC_FILE_KEY 0xCC
#define KW_SC_FILE_DESCRIPTION 0xC4
#define KW_SC_FILE_CERTIFICATE 0xCE

#define KW_SC_EF_CERTIFICATES 0x2F02
#define KW_SC_EF_TOKEN_INFO 0x2F03
#define KW_SC_EF_WRAPPED_KEY 0x2F10

#define KW_SC_MAX_FILE_BYTES 4096
#define KW_SC_MAX_KID 0xFE

#define KW_SC_FILE_ID(kind, kid) ((guint16) ((guint) (kind) << 8 | (guint) (kid)))

#define KW_SC_PIN_USER 0x81
#define KW_SC_PIN_SO 0x88

#define KW_SC_CHECK_VALUE_BYTES 8

/**
 * KwScApplet: what a card says when its applet is selected
 */
typedef struct
{
  guint options;
  guint version_major;
  guint version_minor;
} KwScApplet;

/**
 * KwScPinStatus:
 * @KW_SC_PIN_TRIES: so many tries are left, and nobody is logged in
 * @KW_SC_PIN_LOGGED_IN: somebody is logged in
 * @KW_SC_PIN_BLOCKED: there are no tries left
 * @KW_SC_PIN_TRANSPORT: it has to be changed before it can be used
 * @KW_SC_PIN_NONE: the card was never initialised
 *
 * What a card says of a PIN.
 */
typedef enum
{
  KW_SC_PIN_TRIES,
  KW_SC_PIN_LOGGED_IN,
  KW_SC_PIN_BLOCKED,
  KW_SC_PIN_TRANSPORT,
  KW_SC_PIN_NONE,
} KwScPinStatus;

/**
 * KwScDkek: the key that wraps others
 */
typedef struct
{
  gboolean exists;
  guint n_shares;
  guint n_missing;
  guint8 check_value[KW_SC_CHECK_VALUE_BYTES];
} KwScDkek;

gboolean kw_sc_card_select (KwScLink *link, KwScApplet *out_applet, GError **error);

gboolean kw_sc_card_exchange (KwScLink *link,
                              const KwScCommand *command,
                              KwScAnswer *out_answer,
                              GError **error);

gboolean kw_sc_card_run (KwScLink *link,
                         const KwScCommand *command,
                         const char *what,
                         KwScAnswer *out_answer,
                         GError **error);

gboolean kw_sc_card_read_pin_status (KwScLink *link,
                                     guint8 reference,
                                     KwScPinStatus *out_status,
                                     guint *out_tries,
                                     GError **error);

gboolean kw_sc_card_read_dkek (KwScLink *link, KwScDkek *out_dkek, GError **error);

GArray *kw_sc_card_enumerate (KwScLink *link, GError **error);

GByteArray *kw_sc_card_read_file (KwScLink *link, guint16 file_id, GError **error);

gboolean kw_sc_card_write_file (KwScLink *link, guint16 file_id, KwScSpan content, GError **error);

gboolean kw_sc_card_delete (KwScLink *link, guint16 file_id, GError **error);

G_END_DECLS
