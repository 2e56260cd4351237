/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "card.h"

G_BEGIN_DECLS

#define CARD_TEST_SERIAL "VTTEST01"
#define CARD_TEST_PIN "648219"
#define CARD_TEST_PIN_HEX "363438323139"
#define CARD_TEST_SO_PIN_HEX "3537363231383830"

/* Most data that a command can carry, in bytes. */
#define CARD_TEST_MAX_DATA 65535

/* A command that logs in with CARD_TEST_PIN. */
#define CARD_TEST_LOGIN "0020008106" CARD_TEST_PIN_HEX

GBytes *card_test_parse_hex (const char *hex);

char *card_test_format_hex (gconstpointer bytes, gsize size);

GBytes *card_test_send (Card *card, const char *hex, guint wanted_status);

GBytes *card_test_send_bytes (Card *card, GBytes *apdu, guint wanted_status);

GBytes *card_test_make_apdu (const char *header, gconstpointer data, gsize size, const char *le);

Card *card_test_new_blank (void);

Card *card_test_new (guint n_shares);

void card_test_import_shares (Card *card, guint n_shares);

void card_test_make_rsa (Card *card, guint8 id, guint bits);

GBytes *card_test_make_ec_command (guint8 id, const char *curve);

#define card_test_expect(card, hex, status) g_bytes_unref (card_test_send ((card), (hex), (status)))

G_END_DECLS
