/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-jwt"

#include "config.h"

#include "kw-jwt.h"

#include "kw-error.h"
#include "kw-uuid.h"

#include <errno.h>
#include <jwt.h>
#include <stdlib.h>
#include <string.h>

/*
 * JSON Web Tokens (RFC 7519) signed with HS256 and nothing else, by libjwt. Why a token is refused is for the log; the
 * caller only hears that it was.
 */

#define MAX_TOKEN_BYTES (12 * 1024)
#define MAX_CLAIM_BYTES 1024
#define CLAIM_REQUEST_ID "rid"

G_DEFINE_AUTOPTR_CLEANUP_FUNC (jwt_t, jwt_free)

static gboolean
refuse (GError **error, const char *reason)
{
  g_set_error (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED, "The token is not valid: %s", reason);
  return FALSE;
}

static gboolean
check_times (jwt_t *jwt, guint leeway, GError **error)
{
  gint64 now = g_get_real_time () / G_USEC_PER_SEC;
  gint64 expires = 0;
  gint64 issued = 0;

  errno = 0;
  expires = jwt_get_grant_int (jwt, "exp");
  if (errno != 0)
    return refuse (error, "it has no time of expiry (exp)");
  issued = jwt_get_grant_int (jwt, "iat");
  if (errno != 0)
    return refuse (error, "it has no time of issue (iat)");
  if (expires < now - leeway)
    return refuse (error, "it has expired (exp); are both clocks right?");
  if (issued > now + leeway)
    return refuse (error, "it was issued in the future (iat); are both clocks right?");
  return TRUE;
}

static char *
dup_claim (jwt_t *jwt, const char *name)
{
  const char *value = jwt_get_grant (jwt, name);

  if (value == NULL || strlen (value) > MAX_CLAIM_BYTES)
    return NULL;
  return g_strdup (value);
}

/**
 * kw_jwt_claims_free:
 * @claims: (transfer full): claims
 *
 * Frees claims. Any thread.
 */
void
kw_jwt_claims_free (KwJwtClaims *claims)
{
  g_free (claims->issuer);
  g_free (claims->subject);
  g_free (claims->request_id);
  g_free (claims);
}

/**
 * kw_jwt_verify:
 * @token: what followed "Bearer "
 * @secret: the shared secret
 * @audience: "aud" that the token must have
 * @leeway: seconds by which "exp" may have passed and "iat" may lie ahead
 * @error: where to store the error
 *
 * Verifies a token: signature, algorithm, audience, times. Any thread.
 *
 * Returns: (transfer full): its claims; %NULL with %KW_ERROR_NOT_AUTHORIZED, whose message is for the log
 */
KwJwtClaims *
kw_jwt_verify (const char *token,
               KwSecret *secret,
               const char *audience,
               guint leeway,
               GError **error)
{
  g_autoptr (jwt_t) jwt = NULL;
  g_autoptr (KwJwtClaims) claims = NULL;
  const char *token_audience = NULL;

  g_return_val_if_fail (token != NULL && secret != NULL, NULL);

  if (strlen (token) > MAX_TOKEN_BYTES)
    {
      refuse (error, "it is too long");
      return NULL;
    }
  if (jwt_decode (&jwt, token, kw_secret_get_data (secret), (int) kw_secret_get_size (secret)) != 0)
    {
      refuse (
          error,
          "it cannot be read, or its signature is wrong; is the secret the same on both sides?");
      return NULL;
    }
  if (jwt_get_alg (jwt) != JWT_ALG_HS256)
    {
      refuse (error, "it is not signed with HS256");
      return NULL;
    }
  token_audience = jwt_get_grant (jwt, "aud");
  if (token_audience == NULL || !g_str_equal (token_audience, audience))
    {
      refuse (error, "it is meant for somebody else (aud)");
      return NULL;
    }
  if (!check_times (jwt, leeway, error))
    return NULL;
  claims = g_new0 (KwJwtClaims, 1);
  /* So far ahead that a leeway may be added. */
  claims->expires = MIN (jwt_get_grant_int (jwt, "exp"), G_MAXINT64 / 2);
  claims->issuer = dup_claim (jwt, "iss");
  claims->subject = dup_claim (jwt, "sub");
  claims->request_id = dup_claim (jwt, CLAIM_REQUEST_ID);
  return g_steal_pointer (&claims);
}

/**
 * kw_jwt_sign:
 * @secret: the shared secret
 * @issuer: "iss"
 * @audience: "aud"
 * @lifetime: seconds until it expires
 * @error: where to store the error
 *
 * Makes a token signed with HS256. Any thread.
 *
 * Returns: (transfer full): the token; %NULL with %KW_ERROR_FAILED
 */
char *
kw_jwt_sign (KwSecret *secret,
             const char *issuer,
             const char *audience,
             guint lifetime,
             GError **error)
{
  g_autoptr (jwt_t) jwt = NULL;
  g_autoptr (GBytes) id = kw_uuid_new_v1 (error);
  g_autofree char *id_text = NULL;
  char *token = NULL;
  char *result = NULL;
  gint64 now = g_get_real_time () / G_USEC_PER_SEC;

  if (id == NULL)
    return NULL;
  id_text = kw_uuid_from_bytes (id);
  if (jwt_new (&jwt) == 0
      && jwt_set_alg (jwt, JWT_ALG_HS256, kw_secret_get_data (secret),
                      (int) kw_secret_get_size (secret))
             == 0
      && jwt_add_grant (jwt, "iss", issuer) == 0 && jwt_add_grant (jwt, "aud", audience) == 0
      && jwt_add_grant (jwt, "jti", id_text) == 0 && jwt_add_grant_int (jwt, "iat", (long) now) == 0
      && jwt_add_grant_int (jwt, "exp", (long) (now + lifetime)) == 0)
    token = jwt_encode_str (jwt);
  if (token == NULL)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED, "The JSON Web Token cannot be made");
      return NULL;
    }
  result = g_strdup (token);
  free (token);
  return result;
}
