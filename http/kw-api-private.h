/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-api.h"
#include "kw-health.h"
#include "kw-http-stream.h"
#include "kw-json-reader.h"
#include "kw-json-writer.h"
#include "kw-refusals.h"
#include "kw-verified-tokens.h"
#include "kw-web-sessions.h"

G_BEGIN_DECLS

#define KW_API_MAX_SMALL_BODY (64 * 1024) /* of requests that carry no message */
#define KW_API_JSON_ROOM (64 * 1024)      /* what JSON may need around a message */
#define KW_API_MAX_FINGERPRINT 64         /* characters */
#define KW_API_MAX_TESTS 8                /* that are kept */
#define KW_API_MAX_NEWS 100               /* of devices that came and went */
#define KW_API_MAX_KEYS 500               /* that are listed */

enum
{
  KW_STATUS_OK = 200,
  KW_STATUS_ACCEPTED = 202,
  KW_STATUS_NO_CONTENT = 204,
  KW_STATUS_SEE_OTHER = 303,
  KW_STATUS_NOT_MODIFIED = 304,
  KW_STATUS_BAD_REQUEST = 400,
  KW_STATUS_UNAUTHORIZED = 401,
  KW_STATUS_FORBIDDEN = 403,
  KW_STATUS_NOT_FOUND = 404,
  KW_STATUS_TOO_LARGE = 413,
  KW_STATUS_MISDIRECTED = 421,
  KW_STATUS_TOO_MANY_REQUESTS = 429,
  KW_STATUS_INTERNAL_SERVER_ERROR = 500,
  KW_STATUS_SERVICE_UNAVAILABLE = 503,
};

/**
 * KwApiAccess:
 * @KW_API_OPEN: everybody
 * @KW_API_LOOK: whoever is known, and everybody where `[webui] public_status` says so
 * @KW_API_ACT: whoever may use the class of verbs that the route states
 * @KW_API_COME_IN: whoever shows a link that lets him in, by a name of ours
 * @KW_API_PAGE: as %KW_API_LOOK, but who is unknown gets a page that tells him how to sign in
 *
 * Who may use a route.
 */
typedef enum
{
  KW_API_OPEN,
  KW_API_LOOK,
  KW_API_ACT,
  KW_API_COME_IN,
  KW_API_PAGE,
} KwApiAccess;

/* A route, and who may use it: one without a row is none. */
typedef struct
{
  const char *method;
  const char *path;
  KwApiAccess access;
  KwVerbClass verb_class; /* of KW_API_ACT */
  gsize max_body;         /* KW_API_MESSAGE_BODY = as large as messages may be */
  KwHttpHandleFunc handle;
} KwApiRoute;

#define KW_API_MESSAGE_BODY G_MAXSIZE

typedef struct
{
  KwApi *api; /* borrowed */
  const KwApiRoute *route;
} KwApiBinding;

/* Who calls, kept with his request. */
typedef struct
{
  KwCaller *caller; /* owned, nullable: anybody */
  char *cookie;     /* owned, nullable: what he showed; wiped */
} KwApiVisitor;

/* A test, as the API shows it. Main context. */
typedef struct
{
  guint number;
  KwSelfTest *test;
  KwApi *api; /* borrowed */
  guint render_id;
} KwApiTest;

struct _KwApi
{
  GObject parent_instance;

  KwConfig *config;         /* owned */
  KwService *service;       /* owned */
  GMainContext *context;    /* owned */
  KwHealth *health;         /* owned */
  KwRefusals *refusals;     /* owned */
  KwWebSessions *sessions;  /* owned */
  KwVerifiedTokens *tokens; /* owned */
  KwTickets *tickets;       /* owned */
  GThreadPool *threads;     /* owned: for large messages */
  GPtrArray *bindings;      /* of KwApiBinding */
  gint64 alive; /* atomic by its lock: monotonic time of the last turn of the main loop */

  GMutex lock;
  GHashTable *documents; /* name → GBytes: what is shown; guarded by lock */
  GPtrArray *listeners;  /* of KwHttpStream; guarded by lock */

  /* Main context. */
  guint render_id;
  guint tick_id;
  guint n_ticks;
  GQueue tests;  /* of KwApiTest, oldest first */
  guint n_tests; /* that there were */
  GQueue news;   /* of GBytes: JSON of what devices did, oldest first */
  guint n_news;
  GHashTable *states; /* serial → state as it was last told */
};

/* kw-api-visitor.c */

gboolean kw_api_check (KwHttpRequest *request, gpointer user_data);

KwCaller *kw_api_get_caller (KwHttpRequest *request);

const char *kw_api_get_cookie (KwHttpRequest *request);

/* kw-api-answer.c */

void kw_api_respond_error (KwHttpRequest *request, const GError *error);

void
kw_api_respond_problem (KwHttpRequest *request, guint status, const char *nick, const char *detail);

void
kw_api_write_problem (KwJsonWriter *writer, guint status, const char *nick, const char *detail);

void kw_api_write_error (KwJsonWriter *writer, const GError *error);

void kw_api_respond_json (KwHttpRequest *request, guint status, GBytes *json);

void kw_api_respond_document (KwHttpRequest *request, KwJsonWriter *writer, guint status);

/* kw-api-messages.c: encrypt, decrypt, rewrap, random. */

extern const KwApiRoute kw_api_message_routes[];
extern const guint kw_api_n_message_routes;

void kw_api_run_large (gpointer data, gpointer user_data);

/* kw-api-state.c: what there is, as JSON. */

extern const KwApiRoute kw_api_state_routes[];
extern const guint kw_api_n_state_routes;

void kw_api_render (KwApi *self);

void kw_api_render_figures (KwApi *self);

GBytes *kw_api_dup_document (KwApi *self, const char *name);

void kw_api_set_document (KwApi *self, const char *name, GBytes *json);

/* kw-api-events.c */

extern const KwApiRoute kw_api_event_routes[];
extern const guint kw_api_n_event_routes;

void kw_api_tell (KwApi *self, const char *event, GBytes *json);

void kw_api_beat (KwApi *self);

/* kw-api-admin.c */

extern const KwApiRoute kw_api_admin_routes[];
extern const guint kw_api_n_admin_routes;

void kw_api_test_free (gpointer data);

/* kw-api-health.c */

extern const KwApiRoute kw_api_health_routes[];
extern const guint kw_api_n_health_routes;

/* kw-api-page.c */

extern const KwApiRoute kw_api_page_routes[];
extern const guint kw_api_n_page_routes;

void kw_api_respond_sign_in (KwHttpRequest *request);

/* For handlers that need the main context. */

typedef void (*KwApiFunc) (KwApi *self, KwHttpRequest *request);

void kw_api_call (KwApi *self, KwHttpRequest *request, KwApiFunc func);

G_END_DECLS
