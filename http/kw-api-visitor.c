/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-api"

#include "config.h"

#include "kw-api-private.h"

#include "kw-jwt.h"
#include "kw-log.h"
#include "kw-names.h"

#include <openssl/crypto.h>
#include <string.h>

/*
 * Who calls, found out before the body of a request is read: by his user id on a UNIX socket, by a JSON Web Token, or by
 * the cookie of a browser that was let in.
 *
 * A browser is a special guest, since any page of any site can make it send requests. So the Host header has to be a
 * name of ours (against a foreign name that was made to point here), and with a cookie whatever changes something has to
 * come from a page of ours (Origin), which knows the token against forgery.
 *
 * The threads of the server.
 */

#define BEARER "Bearer "
#define COOKIE_NAME "keyward-session"
#define HEADER_FORGERY "X-Keyward-Token"
#define MAX_HOST_BYTES 255
#define TOO_MANY "Too many requests with a wrong token, cookie or link; wait a second"

static void
visitor_free (gpointer data)
{
  KwApiVisitor *visitor = data;

  g_clear_pointer (&visitor->caller, kw_caller_unref);
  if (visitor->cookie != NULL)
    OPENSSL_cleanse (visitor->cookie, strlen (visitor->cookie));
  g_free (visitor->cookie);
  g_free (visitor);
}

KwCaller *
kw_api_get_caller (KwHttpRequest *request)
{
  KwApiVisitor *visitor = kw_http_request_get_data (request);

  return visitor->caller;
}

const char *
kw_api_get_cookie (KwHttpRequest *request)
{
  KwApiVisitor *visitor = kw_http_request_get_data (request);

  return visitor->cookie;
}

/* The host without its port; NULL for what is none. */
static char *
dup_host_name (const char *host)
{
  const char *end = NULL;

  if (strlen (host) > MAX_HOST_BYTES)
    return NULL;
  if (host[0] == '[')
    {
      end = strchr (host, ']');
      return end != NULL ? g_strndup (host + 1, (gsize) (end - host - 1)) : NULL;
    }
  return g_strndup (host, strcspn (host, ":"));
}

/* Addresses cannot be made to point elsewhere; of names there are ours alone. */
static gboolean
host_is_ours (KwApi *self, const char *host)
{
  const KwWebuiConfig *webui = kw_config_get_webui (self->config);
  g_autofree char *name = host != NULL ? dup_host_name (host) : NULL;

  if (name == NULL)
    return FALSE;
  if (g_hostname_is_ip_address (name) || g_ascii_strcasecmp (name, "localhost") == 0
      || g_ascii_strcasecmp (name, kw_config_get_server (self->config)->hostname) == 0)
    return TRUE;
  for (guint i = 0; webui->hosts != NULL && webui->hosts[i] != NULL; i++)
    {
      if (g_ascii_strcasecmp (name, webui->hosts[i]) == 0)
        return TRUE;
    }
  return FALSE;
}

static char *
find_cookie (KwHttpRequest *request)
{
  const char *header = kw_http_request_get_header (request, "Cookie");
  g_auto (GStrv) pairs = header != NULL ? g_strsplit (header, ";", -1) : NULL;

  for (guint i = 0; pairs != NULL && pairs[i] != NULL; i++)
    {
      const char *pair = g_strstrip (pairs[i]);
      gsize n_name = strlen (COOKIE_NAME);

      if (strncmp (pair, COOKIE_NAME "=", n_name + 1) == 0
          && strlen (pair + n_name + 1) == KW_TICKET_CHARACTERS)
        return g_strdup (pair + n_name + 1);
    }
  return NULL;
}

/* The secrets that a token may be signed with: that of [jwt], and those of the clients. */
static KwCaller *
verify_token (KwApi *self, const char *token, const char *address, gint64 uid, gint64 *out_expires)
{
  const KwJwtConfig *jwt = kw_config_get_jwt (self->config);
  GPtrArray *clients = kw_config_get_api_clients (self->config);
  g_autoptr (KwJwtClaims) claims = NULL;
  g_autoptr (KwGrant) grant = NULL;

  if (jwt->secret != NULL)
    claims = kw_jwt_verify (token, jwt->secret, KW_JWT_AUDIENCE_API, jwt->leeway, NULL);
  if (claims != NULL)
    {
      grant = kw_grant_new (1u << KW_VERB_CLASS_USE_KEYS | 1u << KW_VERB_CLASS_TEST, NULL);
      *out_expires = claims->expires + jwt->leeway;
      return kw_caller_new_with_grant (KW_CALLER_API, claims->issuer, claims->request_id, address,
                                       uid, grant);
    }
  for (guint i = 0; i < clients->len; i++)
    {
      const KwApiClientConfig *client = g_ptr_array_index (clients, i);

      claims = kw_jwt_verify (token, client->secret, KW_JWT_AUDIENCE_API, jwt->leeway, NULL);
      if (claims == NULL)
        continue;
      *out_expires = claims->expires + jwt->leeway;
      return kw_caller_new_with_grant (KW_CALLER_API, client->name, claims->request_id, address,
                                       uid, client->grant);
    }
  return NULL;
}

/* Counts a refusal, and answers for good. */
static gboolean
refuse (KwApi *self, KwHttpRequest *request, const char *address, const char *detail)
{
  if (kw_refusals_are_too_many (self->refusals, address))
    kw_api_respond_problem (request, KW_STATUS_TOO_MANY_REQUESTS, "too-many-refusals", TOO_MANY);
  else
    {
      kw_refusals_count (self->refusals, address);
      kw_log (G_LOG_LEVEL_WARNING, "Caller refused", "address", address, "error", detail, NULL);
      kw_api_respond_problem (request, KW_STATUS_UNAUTHORIZED, "not-authenticated", detail);
    }
  return FALSE;
}

static KwCaller *
find_by_token (KwApi *self, const char *token, const char *address, gint64 uid)
{
  KwCaller *caller = kw_verified_tokens_find (self->tokens, token, address, uid);
  gint64 expires = 0;

  if (caller != NULL || kw_refusals_are_too_many (self->refusals, address))
    return caller;
  caller = verify_token (self, token, address, uid, &expires);
  if (caller != NULL)
    kw_verified_tokens_add (self->tokens, token, caller, expires);
  return caller;
}

/* FALSE when the request was answered. A visitor without a caller is anybody. */
static gboolean
find_visitor (KwApi *self, KwHttpRequest *request, KwApiVisitor *visitor)
{
  gint64 uid = KW_CALLER_NO_UID;
  const char *address = kw_http_request_get_peer (request, &uid);
  const char *header = kw_http_request_get_header (request, "Authorization");

  if (header != NULL && g_ascii_strncasecmp (header, BEARER, strlen (BEARER)) == 0)
    {
      visitor->caller = find_by_token (self, header + strlen (BEARER), address, uid);
      return visitor->caller != NULL
             || refuse (
                 self, request, address,
                 "The token is not valid; it has to be a JSON Web Token for “keyward” (aud), "
                 "signed with HS256, that has not expired");
    }
  if (header != NULL)
    return refuse (self, request, address, "Authorization: only Bearer is known here");
  if (uid != KW_CALLER_NO_UID)
    {
      gsize n_groups = 0;
      const guint32 *groups = kw_http_request_get_groups (request, &n_groups);
      g_autoptr (KwGrant) grant = kw_service_resolve_grant (self->service, uid, groups, n_groups);

      if (grant != NULL)
        visitor->caller = kw_caller_new_with_grant (KW_CALLER_API, NULL, NULL, address, uid, grant);
    }
  if (visitor->caller != NULL)
    return TRUE;
  visitor->cookie = find_cookie (request);
  if (visitor->cookie != NULL)
    visitor->caller = kw_web_sessions_find (self->sessions, visitor->cookie, address);
  if (visitor->cookie == NULL || visitor->caller != NULL)
    return TRUE;
  /* An old cookie is no attack, but a guess would look the same. It costs nobody else at that address his turn. */
  visitor->many_cookies = kw_refusals_are_too_many (self->old_cookies, address);
  kw_refusals_count (self->old_cookies, address);
  return TRUE;
}

static gboolean
origin_is_ours (KwHttpRequest *request)
{
  const char *origin = kw_http_request_get_header (request, "Origin");
  const char *host = kw_http_request_get_header (request, "Host");
  g_autofree char *ours
      = g_strconcat (kw_http_request_is_secure (request) ? "https://" : "http://", host, NULL);

  return origin != NULL && g_ascii_strcasecmp (origin, ours) == 0;
}

static gboolean
forgery_token_is_right (KwHttpRequest *request, const char *cookie)
{
  const char *shown = kw_http_request_get_header (request, HEADER_FORGERY);
  g_autofree char *right = kw_web_sessions_dup_forgery_token (cookie);

  return shown != NULL && strlen (shown) == strlen (right)
         && CRYPTO_memcmp (shown, right, strlen (right)) == 0;
}

static gboolean
check_forgery (KwHttpRequest *request, const KwApiRoute *route, const char *cookie)
{
  if (cookie == NULL || g_str_equal (route->method, "GET"))
    return TRUE;
  if (origin_is_ours (request) && forgery_token_is_right (request, cookie))
    return TRUE;
  kw_api_respond_problem (request, KW_STATUS_FORBIDDEN, "forged",
                          "The request does not come from a page of this service");
  return FALSE;
}

static gboolean
check_access (KwApi *self, KwHttpRequest *request, const KwApiRoute *route, KwApiVisitor *visitor)
{
  gboolean anybody_may_look = kw_config_get_webui (self->config)->public_status;

  if (visitor->caller == NULL && (route->access == KW_API_ACT || !anybody_may_look))
    {
      if (route->access == KW_API_PAGE)
        kw_api_respond_sign_in (request);
      else if (visitor->many_cookies)
        kw_api_respond_problem (request, KW_STATUS_TOO_MANY_REQUESTS, "too-many-refusals",
                                TOO_MANY);
      else
        kw_api_respond_problem (request, KW_STATUS_UNAUTHORIZED, "not-authenticated",
                                "This takes a JSON Web Token, or a browser that was signed in by "
                                "“keyward webui login”");
      return FALSE;
    }
  if (route->access == KW_API_ACT
      && !kw_grant_allows_class (kw_caller_get_grant (visitor->caller), route->verb_class))
    {
      g_autofree char *detail = g_strdup_printf ("This caller has no right to “%s”",
                                                 kw_verb_class_to_string (route->verb_class));

      kw_api_respond_problem (request, KW_STATUS_FORBIDDEN,
                              kw_error_to_string (KW_ERROR_NOT_AUTHORIZED), detail);
      return FALSE;
    }
  return check_forgery (request, route, visitor->cookie);
}

/* The check of all routes of the API. */
gboolean
kw_api_check (KwHttpRequest *request, gpointer user_data)
{
  const KwApiBinding *binding = user_data;
  KwApiVisitor *visitor = g_new0 (KwApiVisitor, 1);

  kw_http_request_set_data (request, visitor, visitor_free);
  if (binding->route->access == KW_API_OPEN)
    return TRUE;
  if (!host_is_ours (binding->api, kw_http_request_get_header (request, "Host")))
    {
      kw_api_respond_problem (request, KW_STATUS_MISDIRECTED, "foreign-host",
                              "This service has another name; names that are right are set by "
                              "[webui] hosts");
      return FALSE;
    }
  if (binding->route->access == KW_API_COME_IN)
    return TRUE;
  return find_visitor (binding->api, request, visitor)
         && check_access (binding->api, request, binding->route, visitor);
}
