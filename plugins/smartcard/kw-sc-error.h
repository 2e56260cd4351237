/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-error.h"

#include <winscard.h>

G_BEGIN_DECLS

#define KW_SC_SW_OK 0x9000
#define KW_SC_SW_END_OF_FILE 0x6282
#define KW_SC_SW_WRONG_LENGTH 0x6700
#define KW_SC_SW_NOT_LOGGED_IN 0x6982
#define KW_SC_SW_PIN_BLOCKED 0x6983
#define KW_SC_SW_TRANSPORT_PIN 0x6984
#define KW_SC_SW_NOT_ALLOWED 0x6985
#define KW_SC_SW_WRONG_DATA 0x6A80
#define KW_SC_SW_NOT_PERMITTED 0x6A81
#define KW_SC_SW_FILE_NOT_FOUND 0x6A82
#define KW_SC_SW_FULL 0x6A84
#define KW_SC_SW_NO_REFERENCE 0x6A88
#define KW_SC_SW_UNKNOWN_INSTRUCTION 0x6D00
#define KW_SC_SW_UNKNOWN_CLASS 0x6E00

gboolean kw_sc_sw_is_tries (guint sw, guint *out_tries);

KwError kw_sc_sw_to_code (guint sw);

void kw_sc_set_sw_error (GError **error, guint sw, const char *what);

KwError kw_sc_rv_to_code (LONG rv);

void kw_sc_set_rv_error (GError **error, LONG rv, const char *reader, const char *what);

gboolean kw_sc_rv_means_no_service (LONG rv);

G_END_DECLS
