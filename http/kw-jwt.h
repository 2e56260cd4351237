/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-secret.h"

G_BEGIN_DECLS

/**
 * KwJwtClaims:
 * @issuer: (nullable): "iss"
 * @subject: (nullable): "sub"
 * @request_id: (nullable): "rid"
 *
 * What a verified JSON Web Token says.
 */
typedef struct
{
  char *issuer;
  char *subject;
  char *request_id;
  gint64 expires; /* seconds since 1970 */
} KwJwtClaims;

void kw_jwt_claims_free (KwJwtClaims *claims);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwJwtClaims, kw_jwt_claims_free)

KwJwtClaims *kw_jwt_verify (const char *token,
                            KwSecret *secret,
                            const char *audience,
                            guint leeway,
                            GError **error);

char *kw_jwt_sign (KwSecret *secret,
                   const char *issuer,
                   const char *audience,
                   guint lifetime,
                   GError **error);

G_END_DECLS
