/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/** CARD_MAX_APDU: longest command looked at, in bytes: header, extended Lc, 65,535 bytes, extended Le */
#define CARD_MAX_APDU (4 + 3 + 65535 + 2)

/** CARD_MAX_RESPONSE: longest answer in bytes, with the status word: what a frame of vpcd can carry */
#define CARD_MAX_RESPONSE 65535

/** CARD_STATUS_SIZE: bytes of a status word */
#define CARD_STATUS_SIZE 2

/** CARD_MAX_SHORT_LE, CARD_MAX_EXTENDED_LE: what Le 00 and Le 0000 stand for, in bytes (ISO/IEC 7816-4, 5.1) */
#define CARD_MAX_SHORT_LE 256
#define CARD_MAX_EXTENDED_LE 65536

/**
 * CardStatus:
 *
 * Status words (ISO/IEC 7816-4, 5.6) in the sense that the SmartCard-HSM gives them.
 */
typedef enum
{
  CARD_SW_OK = 0x9000,
  CARD_SW_END_OF_FILE = 0x6282,
  CARD_SW_TRIES_LEFT = 0x63C0, /* plus the number of tries, 0…15 */
  CARD_SW_EXECUTION_ERROR = 0x6400,
  CARD_SW_WRONG_LENGTH = 0x6700,
  CARD_SW_SECURE_MESSAGING_NOT_SUPPORTED = 0x6882,
  CARD_SW_NOT_LOGGED_IN = 0x6982,
  CARD_SW_PIN_BLOCKED = 0x6983,
  CARD_SW_DATA_INVALIDATED = 0x6984,
  CARD_SW_CONDITIONS_NOT_SATISFIED = 0x6985,
  CARD_SW_COMMAND_NOT_ALLOWED = 0x6986,
  CARD_SW_WRONG_DATA = 0x6A80,
  CARD_SW_FUNCTION_NOT_SUPPORTED = 0x6A81,
  CARD_SW_FILE_NOT_FOUND = 0x6A82,
  CARD_SW_MEMORY_FULL = 0x6A84,
  CARD_SW_WRONG_P1_P2 = 0x6A86,
  CARD_SW_REFERENCE_NOT_FOUND = 0x6A88,
  CARD_SW_WRONG_OFFSET = 0x6B00,
  CARD_SW_INS_NOT_SUPPORTED = 0x6D00,
  CARD_SW_CLA_NOT_SUPPORTED = 0x6E00,
  CARD_SW_INTERNAL_ERROR = 0x6F00,
} CardStatus;

/**
 * CardApdu:
 * @cla: class byte
 * @ins: instruction byte
 * @p1: first parameter
 * @p2: second parameter
 * @data: command data, inside the bytes that were parsed; %NULL when @size is 0
 * @size: bytes of @data (Nc), 0…65,535
 * @max_response: bytes that the caller takes (Ne), 0…65,536; 0 when the command has no Le
 *
 * A command APDU, taken apart.
 */
typedef struct
{
  guint8 cla;
  guint8 ins;
  guint8 p1;
  guint8 p2;
  const guint8 *data;
  gsize size;
  gsize max_response;
} CardApdu;

gboolean card_apdu_parse (const guint8 *bytes, gsize size, CardApdu *out_apdu);

G_END_DECLS
