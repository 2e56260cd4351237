/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-fingerprint.h"
#include "kw-secret.h"

G_BEGIN_DECLS

#define KW_ENVELOPE_WRAP_IV_BYTES 16
#define KW_ENVELOPE_DATA_KEY_BYTES 32
#define KW_ENVELOPE_NONCE_BYTES 12
#define KW_ENVELOPE_TAG_BYTES 16
#define KW_ENVELOPE_HEADER_BYTES 74
#define KW_ENVELOPE_OVERHEAD_BYTES (KW_ENVELOPE_HEADER_BYTES + KW_ENVELOPE_TAG_BYTES)
#define KW_ENVELOPE_TEXT_PREFIX "keyward:1:"

/**
 * KwEnvelopeHeader:
 * @prefix: first bytes of the fingerprint of the key that the data key is wrapped with
 * @wrap_iv: IV of the wrapping
 * @wrapped_key: the wrapped data key
 * @nonce: nonce of the message
 *
 * What stands before a message in its envelope. Nothing of it is secret.
 */
typedef struct
{
  guint8 prefix[KW_FINGERPRINT_PREFIX_BYTES];
  guint8 wrap_iv[KW_ENVELOPE_WRAP_IV_BYTES];
  guint8 wrapped_key[KW_ENVELOPE_DATA_KEY_BYTES];
  guint8 nonce[KW_ENVELOPE_NONCE_BYTES];
} KwEnvelopeHeader;

gboolean kw_envelope_read_header (GBytes *envelope, KwEnvelopeHeader *out_header, GError **error);

GBytes *kw_envelope_seal (const KwEnvelopeHeader *header,
                          const KwSecret *data_key,
                          const KwSecret *plaintext,
                          GBytes *associated_data,
                          GError **error);

KwSecret *kw_envelope_open (GBytes *envelope,
                            const KwSecret *data_key,
                            GBytes *associated_data,
                            GError **error);

char *kw_envelope_to_text (GBytes *envelope);

GBytes *kw_envelope_from_text (const char *text, gsize size, GError **error);

gboolean kw_envelope_is_text (GBytes *data);

GBytes *kw_envelope_decode (GBytes *data, GError **error);

G_END_DECLS
