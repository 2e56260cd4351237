/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "card-key.h"

G_BEGIN_DECLS

/** CARD_MAX_HOLDER_NAME, CARD_MAX_AUTHORITY_NAME: longest CHR and CAR that OpenSC takes, in bytes */
#define CARD_MAX_HOLDER_NAME 20
#define CARD_MAX_AUTHORITY_NAME 16

/** CARD_TAG_*: elements of CV certificates (BSI TR-03110-3, D.2) */
#define CARD_TAG_CERTIFICATE 0x7F21
#define CARD_TAG_CERTIFICATE_BODY 0x7F4E
#define CARD_TAG_PROFILE 0x5F29
#define CARD_TAG_AUTHORITY 0x42
#define CARD_TAG_PUBLIC_KEY 0x7F49
#define CARD_TAG_OID 0x06
#define CARD_TAG_HOLDER 0x5F20
#define CARD_TAG_SIGNATURE 0x5F37
#define CARD_TAG_REQUEST 0x67

GBytes *card_cvc_new_certificate (const CardKey *key,
                                  const char *holder,
                                  const CardKey *authority_key,
                                  const char *authority);

gsize card_cvc_get_request_size (const CardCurve *curve,
                                 guint rsa_bits,
                                 gsize exponent_size,
                                 gsize holder_size,
                                 gsize authority_size,
                                 const CardCurve *device_curve,
                                 gsize device_holder_size);

GBytes *card_cvc_new_request (const CardKey *key,
                              GBytes *holder,
                              GBytes *authority,
                              const CardKey *device_key,
                              const char *device_holder);

G_END_DECLS
