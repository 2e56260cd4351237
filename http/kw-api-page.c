/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-api"

#include "config.h"

#include "kw-api-private.h"

#include "kw-log.h"
#include "kw-webui-resources.h"

#include <openssl/crypto.h>
#include <string.h>

/*
 * The page, which is a handful of files inside the program, and the link that lets a browser in. Files are given out to
 * whoever may look; who may not gets a page that says how to come in, and the style sheet and icon it needs.
 */

#define RESOURCE_PREFIX "/org/keyward/webui/"
#define PAGE_POLICY                                                                                \
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "  \
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
#define COOKIE "keyward-session=%s; Path=/; HttpOnly; SameSite=Strict; Max-Age=%d%s"
#define DEFAULT_LANGUAGE "en"
#define MAX_LANGUAGES 16 /* that are looked at in a header */

static const char *const languages[] = { DEFAULT_LANGUAGE, "de", "fr" };

static void
respond_file (KwHttpRequest *request, guint status, const char *name, const char *type)
{
  g_autofree char *path = g_strconcat (RESOURCE_PREFIX, name, NULL);
  g_autoptr (GBytes) body
      = g_resource_lookup_data (kw_webui_get_resource (), path, G_RESOURCE_LOOKUP_FLAGS_NONE, NULL);
  static const KwHttpHeader headers[] = { { "Vary", "Cookie, Accept-Language" },
                                          { "Cross-Origin-Opener-Policy", "same-origin" },
                                          { "Cross-Origin-Resource-Policy", "same-origin" },
                                          { NULL, NULL } };
  const KwHttpResponse response = {
    .status = status, .content_type = type, .body = body, .policy = PAGE_POLICY, .headers = headers
  };

  kw_http_request_respond (request, &response);
}

/* Who is unknown learns how to come in. */
void
kw_api_respond_sign_in (KwHttpRequest *request)
{
  respond_file (request, KW_STATUS_UNAUTHORIZED, "sign-in.html", "text/html; charset=utf-8");
}

static void
handle_page (KwHttpRequest *request, gpointer user_data G_GNUC_UNUSED)
{
  respond_file (request, KW_STATUS_OK, "index.html", "text/html; charset=utf-8");
}

static void
handle_script (KwHttpRequest *request, gpointer user_data G_GNUC_UNUSED)
{
  respond_file (request, KW_STATUS_OK, "app.js", "text/javascript; charset=utf-8");
}

static void
handle_view_script (KwHttpRequest *request, gpointer user_data G_GNUC_UNUSED)
{
  respond_file (request, KW_STATUS_OK, "view.js", "text/javascript; charset=utf-8");
}

static void
handle_text_script (KwHttpRequest *request, gpointer user_data G_GNUC_UNUSED)
{
  respond_file (request, KW_STATUS_OK, "text.js", "text/javascript; charset=utf-8");
}

static void
handle_style (KwHttpRequest *request, gpointer user_data G_GNUC_UNUSED)
{
  respond_file (request, KW_STATUS_OK, "style.css", "text/css; charset=utf-8");
}

static void
handle_icon (KwHttpRequest *request, gpointer user_data G_GNUC_UNUSED)
{
  respond_file (request, KW_STATUS_OK, "icon.svg", "image/svg+xml");
}

static void
handle_openapi (KwHttpRequest *request, gpointer user_data G_GNUC_UNUSED)
{
  respond_file (request, KW_STATUS_OK, "openapi.json", "application/json");
}

/* --- languages --- */

static const char *
find_language (const char *tag)
{
  for (guint i = 0; i < G_N_ELEMENTS (languages); i++)
    {
      gsize n = strlen (languages[i]);

      if (g_ascii_strncasecmp (tag, languages[i], n) == 0 && !g_ascii_isalnum (tag[n]))
        return languages[i];
    }
  return NULL;
}

/* RFC 9110, 12.5.4: "de-CH, fr;q=0.7". */
static const char *
choose_language (const char *header)
{
  g_auto (GStrv) ranges = g_strsplit (header != NULL ? header : "", ",", MAX_LANGUAGES);
  const char *best = DEFAULT_LANGUAGE;
  double best_quality = 0.0;

  for (guint i = 0; ranges[i] != NULL; i++)
    {
      const char *language = find_language (g_strstrip (ranges[i]));
      const char *weight = strstr (ranges[i], "q=");
      double quality = weight != NULL ? g_ascii_strtod (weight + 2, NULL) : 1.0;

      if (language != NULL && quality > best_quality)
        {
          best = language;
          best_quality = quality;
        }
    }
  return best;
}

static void
handle_catalogue (KwHttpRequest *request, gpointer user_data G_GNUC_UNUSED)
{
  const char *asked = kw_http_request_get_query (request, "language");
  const char *language = asked != NULL ? find_language (asked) : NULL;
  g_autofree char *name = NULL;

  if (language == NULL)
    language = choose_language (kw_http_request_get_header (request, "Accept-Language"));
  name = g_strdup_printf ("catalogue-%s.json", language);
  respond_file (request, KW_STATUS_OK, name, "application/json");
}

/* --- coming in --- */

static gboolean
let_in (KwApi *self, KwHttpRequest *request, KwCaller *holder)
{
  gint64 uid = KW_CALLER_NO_UID;
  const char *address = kw_http_request_get_peer (request, &uid);
  g_autoptr (KwCaller) caller
      = kw_caller_new_with_grant (KW_CALLER_API, kw_caller_get_name (holder), NULL, address,
                                  kw_caller_get_uid (holder), kw_caller_get_grant (holder));
  char cookie[KW_TICKET_CHARACTERS + 1];
  g_autofree char *header = NULL;
  g_autoptr (GError) error = NULL;

  if (!kw_web_sessions_open (self->sessions, caller, cookie, &error))
    {
      kw_api_respond_error (request, error);
      return FALSE;
    }
  header = g_strdup_printf (COOKIE, cookie, KW_WEB_SESSION_SECONDS,
                            kw_http_request_is_secure (request) ? "; Secure" : "");
  {
    const KwHttpHeader headers[]
        = { { "Set-Cookie", header }, { "Location", "/" }, { NULL, NULL } };
    const KwHttpResponse response = { .status = KW_STATUS_SEE_OTHER, .headers = headers };

    kw_http_request_respond (request, &response);
  }
  OPENSSL_cleanse (cookie, sizeof cookie);
  OPENSSL_cleanse (header, strlen (header));
  kw_log (G_LOG_LEVEL_INFO, "Browser signed in", "address", address, NULL);
  return TRUE;
}

static void
handle_login (KwHttpRequest *request, gpointer user_data)
{
  KwApi *self = ((const KwApiBinding *) user_data)->api;
  gint64 uid = KW_CALLER_NO_UID;
  const char *address = kw_http_request_get_peer (request, &uid);
  g_autoptr (KwCaller) holder = NULL;

  if (kw_refusals_are_too_many (self->refusals, address))
    {
      kw_api_respond_problem (request, KW_STATUS_TOO_MANY_REQUESTS, "too-many-refusals",
                              "Too many wrong links; wait a second");
      return;
    }
  /* Whoever only asks whether there is something gets no use out of the one there is. */
  if (!kw_http_request_is_head (request))
    holder = kw_tickets_redeem (self->tickets, kw_http_request_get_argument (request));
  if (holder != NULL)
    {
      (void) let_in (self, request, holder);
      return;
    }
  kw_refusals_count (self->refusals, address);
  kw_log (G_LOG_LEVEL_WARNING, "Link refused", "address", address, NULL);
  respond_file (request, KW_STATUS_UNAUTHORIZED, "link-over.html", "text/html; charset=utf-8");
}

const KwApiRoute kw_api_page_routes[] = {
  { "GET", "/", KW_API_PAGE, 0, KW_API_MAX_SMALL_BODY, handle_page },
  { "GET", "/app.js", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_script },
  { "GET", "/view.js", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_view_script },
  { "GET", "/text.js", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_text_script },
  { "GET", "/style.css", KW_API_OPEN, 0, KW_API_MAX_SMALL_BODY, handle_style },
  { "GET", "/icon.svg", KW_API_OPEN, 0, KW_API_MAX_SMALL_BODY, handle_icon },
  { "GET", "/catalogue.json", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_catalogue },
  { "GET", "/api/v1/openapi.json", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_openapi },
  { "GET", "/login/*", KW_API_COME_IN, 0, KW_API_MAX_SMALL_BODY, handle_login },
};

const guint kw_api_n_page_routes = G_N_ELEMENTS (kw_api_page_routes);
