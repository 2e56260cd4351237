/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-web-sessions"

#include "config.h"

#include "kw-web-sessions.h"

#include "kw-limits.h"
#include "kw-log.h"
#include "kw-names.h"
#include "kw-state-file.h"

#include <grp.h>
#include <pwd.h>
#include <string.h>

/*
 * Browsers that were let in by a link. Each has a cookie of 256 random bits, of which only a digest is kept here. A session
 * ends after twelve hours, when its user leaves, or when its cookie turns up at another address: then it was stolen.
 *
 * Sessions outlive the daemon, so that a page which is left open comes back by itself: digests are written to the state
 * directory. What their users may do is found out anew at the next start.
 *
 * Any thread.
 */
struct _KwWebSessions
{
  char *state_directory;
  GThreadPool *writer; /* one thread, which writes the file */

  GMutex lock;
  GHashTable *sessions; /* digest of the cookie → Session; guarded by lock */
};

typedef struct
{
  KwCaller *caller;
  gint64 expires; /* seconds since 1970 */
} Session;

#define KEY_EXPIRES "expires"
#define KEY_ADDRESS "address"
#define KEY_UID "uid"
#define KEY_NAME "name"
#define MAX_GROUPS 1024 /* of one user */

static gint64
get_seconds (void)
{
  return g_get_real_time () / G_USEC_PER_SEC;
}

static void
session_free (gpointer data)
{
  Session *session = data;

  kw_caller_unref (session->caller);
  g_free (session);
}

/* --- the file --- */

static gboolean
replace_contents (GKeyFile *contents,
                  gboolean *out_changed,
                  gpointer user_data,
                  GError **error G_GNUC_UNUSED)
{
  KwWebSessions *self = user_data;
  g_auto (GStrv) groups = g_key_file_get_groups (contents, NULL);
  GHashTableIter iter;
  gpointer key = NULL;
  gpointer value = NULL;

  for (guint i = 0; groups[i] != NULL; i++)
    (void) g_key_file_remove_group (contents, groups[i], NULL);
  g_mutex_lock (&self->lock);
  g_hash_table_iter_init (&iter, self->sessions);
  while (g_hash_table_iter_next (&iter, &key, &value))
    {
      const Session *session = value;
      const char *name = kw_caller_get_name (session->caller);

      g_key_file_set_int64 (contents, key, KEY_EXPIRES, session->expires);
      g_key_file_set_string (contents, key, KEY_ADDRESS, kw_caller_get_address (session->caller));
      g_key_file_set_int64 (contents, key, KEY_UID, kw_caller_get_uid (session->caller));
      if (name != NULL)
        g_key_file_set_string (contents, key, KEY_NAME, name);
    }
  g_mutex_unlock (&self->lock);
  *out_changed = TRUE;
  return TRUE;
}

/* On the writer's thread: all sessions as they are by then. */
static void
write_file (gpointer data, gpointer user_data G_GNUC_UNUSED)
{
  KwWebSessions *self = data;
  g_autoptr (GError) error = NULL;

  if (!kw_state_file_update (self->state_directory, KW_STATE_FILE_SESSIONS, replace_contents, self,
                             &error))
    kw_log (G_LOG_LEVEL_WARNING, "Sessions of browsers cannot be kept", "error", error->message,
            NULL);
}

static void
write_soon (KwWebSessions *self)
{
  g_thread_pool_push (self->writer, self, NULL);
}

static KwGrant *
resolve_user (KwService *service, gint64 uid)
{
  const struct passwd *user = getpwuid ((uid_t) uid);
  gid_t groups[MAX_GROUPS];
  int n_groups = MAX_GROUPS;

  if (user == NULL || getgrouplist (user->pw_name, user->pw_gid, groups, &n_groups) < 0)
    n_groups = 0;
  return kw_service_resolve_grant (service, uid, groups, (gsize) n_groups);
}

static void
read_session (KwWebSessions *self, KwService *service, GKeyFile *contents, const char *digest)
{
  gint64 expires = g_key_file_get_int64 (contents, digest, KEY_EXPIRES, NULL);
  gint64 uid = g_key_file_get_int64 (contents, digest, KEY_UID, NULL);
  g_autofree char *address = g_key_file_get_string (contents, digest, KEY_ADDRESS, NULL);
  g_autofree char *name = g_key_file_get_string (contents, digest, KEY_NAME, NULL);
  g_autoptr (KwGrant) grant = NULL;
  Session *session = NULL;

  if (address == NULL || uid < 0 || uid >= G_MAXUINT32 || expires <= get_seconds ()
      || expires > get_seconds () + KW_WEB_SESSION_SECONDS
      || g_hash_table_size (self->sessions) >= KW_MAX_WEB_SESSIONS)
    return;
  grant = resolve_user (service, uid);
  if (grant == NULL)
    return;
  session = g_new0 (Session, 1);
  session->caller = kw_caller_new_with_grant (KW_CALLER_API, name, NULL, address, uid, grant);
  session->expires = expires;
  g_hash_table_insert (self->sessions, g_strdup (digest), session);
}

static void
read_file (KwWebSessions *self, KwService *service)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GKeyFile) contents
      = kw_state_file_read (self->state_directory, KW_STATE_FILE_SESSIONS, &error);
  g_auto (GStrv) groups = contents != NULL ? g_key_file_get_groups (contents, NULL) : NULL;

  if (contents == NULL)
    kw_log (G_LOG_LEVEL_WARNING, "Sessions of browsers cannot be read", "error", error->message,
            NULL);
  for (guint i = 0; groups != NULL && groups[i] != NULL; i++)
    read_session (self, service, contents, groups[i]);
}

/**
 * kw_web_sessions_new:
 * @state_directory: where they are kept
 * @service: knows what users may do
 *
 * Reads the sessions that there were. Main context, at start.
 *
 * Returns: (transfer full): the sessions
 */
KwWebSessions *
kw_web_sessions_new (const char *state_directory, KwService *service)
{
  KwWebSessions *self = g_new0 (KwWebSessions, 1);

  g_mutex_init (&self->lock);
  self->state_directory = g_strdup (state_directory);
  self->sessions = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, session_free);
  self->writer = g_thread_pool_new (write_file, NULL, 1, FALSE, NULL);
  read_file (self, service);
  return self;
}

/**
 * kw_web_sessions_free:
 * @self: (transfer full): sessions
 *
 * Gives them back, when they are written.
 */
void
kw_web_sessions_free (KwWebSessions *self)
{
  g_thread_pool_free (self->writer, FALSE, TRUE);
  g_hash_table_unref (self->sessions);
  g_free (self->state_directory);
  g_mutex_clear (&self->lock);
  g_free (self);
}

/* With the lock held: drops what is over, and the one that is over first when there are too many. */
static void
make_room (KwWebSessions *self, gint64 now)
{
  GHashTableIter iter;
  gpointer key = NULL;
  gpointer value = NULL;
  const char *oldest = NULL;
  gint64 first = G_MAXINT64;

  g_hash_table_iter_init (&iter, self->sessions);
  while (g_hash_table_iter_next (&iter, &key, &value))
    {
      Session *session = value;

      if (session->expires <= now)
        g_hash_table_iter_remove (&iter);
      else if (session->expires < first)
        {
          first = session->expires;
          oldest = key;
        }
    }
  if (g_hash_table_size (self->sessions) >= KW_MAX_WEB_SESSIONS)
    g_hash_table_remove (self->sessions, oldest);
}

/**
 * kw_web_sessions_open:
 * @self: sessions
 * @caller: who is let in, from which address
 * @out_cookie: (out caller-allocates): what his browser shows from now on; to be wiped
 * @error: where to store the error
 *
 * Lets somebody in.
 *
 * Returns: %FALSE with an error when there is no randomness
 */
gboolean
kw_web_sessions_open (KwWebSessions *self,
                      KwCaller *caller,
                      char out_cookie[KW_TICKET_CHARACTERS + 1],
                      GError **error)
{
  gint64 now = get_seconds ();
  Session *session = NULL;

  if (!kw_ticket_make (out_cookie, error))
    return FALSE;
  session = g_new0 (Session, 1);
  session->caller = kw_caller_ref (caller);
  session->expires = now + KW_WEB_SESSION_SECONDS;
  g_mutex_lock (&self->lock);
  make_room (self, now);
  g_hash_table_insert (self->sessions, kw_ticket_dup_digest ("session", out_cookie), session);
  g_mutex_unlock (&self->lock);
  write_soon (self);
  return TRUE;
}

/* A browser may reach the same server by both loopback addresses. */
static gboolean
is_same_place (const char *a, const char *b)
{
  const gboolean a_is_loopback = g_str_equal (a, "127.0.0.1") || g_str_equal (a, "::1");
  const gboolean b_is_loopback = g_str_equal (b, "127.0.0.1") || g_str_equal (b, "::1");

  return g_str_equal (a, b) || (a_is_loopback && b_is_loopback);
}

/**
 * kw_web_sessions_find:
 * @self: sessions
 * @cookie: what a browser shows
 * @address: where it connects from
 *
 * Finds who is behind a cookie. One from another address than it was given to ends its session.
 *
 * Returns: (transfer full) (nullable): who that is
 */
KwCaller *
kw_web_sessions_find (KwWebSessions *self, const char *cookie, const char *address)
{
  g_autofree char *digest = kw_ticket_dup_digest ("session", cookie);
  Session *session = NULL;
  KwCaller *caller = NULL;
  gboolean ended = FALSE;

  g_mutex_lock (&self->lock);
  session = g_hash_table_lookup (self->sessions, digest);
  if (session != NULL
      && (session->expires <= get_seconds ()
          || !is_same_place (kw_caller_get_address (session->caller), address)))
    {
      g_hash_table_remove (self->sessions, digest);
      session = NULL;
      ended = TRUE;
    }
  if (session != NULL)
    caller = kw_caller_ref (session->caller);
  g_mutex_unlock (&self->lock);
  if (ended)
    write_soon (self);
  return caller;
}

/**
 * kw_web_sessions_reconsider:
 * @self: sessions
 * @service: knows what users may do by now
 *
 * Finds out anew what the users of all sessions may do, after the configuration was read again. What polkit had granted is
 * gone with that. Main context.
 */
void
kw_web_sessions_reconsider (KwWebSessions *self, KwService *service)
{
  GHashTableIter iter;
  gpointer value = NULL;

  g_mutex_lock (&self->lock);
  g_hash_table_iter_init (&iter, self->sessions);
  while (g_hash_table_iter_next (&iter, NULL, &value))
    {
      Session *session = value;
      KwCaller *old = session->caller;
      g_autoptr (KwGrant) grant = resolve_user (service, kw_caller_get_uid (old));

      session->caller
          = kw_caller_new_with_grant (KW_CALLER_API, kw_caller_get_name (old), NULL,
                                      kw_caller_get_address (old), kw_caller_get_uid (old), grant);
      kw_caller_unref (old);
    }
  g_mutex_unlock (&self->lock);
}

/**
 * kw_web_sessions_close:
 * @self: sessions
 * @cookie: what a browser shows
 *
 * Ends a session.
 */
void
kw_web_sessions_close (KwWebSessions *self, const char *cookie)
{
  g_autofree char *digest = kw_ticket_dup_digest ("session", cookie);

  g_mutex_lock (&self->lock);
  g_hash_table_remove (self->sessions, digest);
  g_mutex_unlock (&self->lock);
  write_soon (self);
}

/**
 * kw_web_sessions_dup_forgery_token:
 * @cookie: what a browser shows
 *
 * What the page sends along with all that changes something. Another site can make a browser send the cookie, but can
 * read neither it nor this.
 *
 * Returns: (transfer full): the token
 */
char *
kw_web_sessions_dup_forgery_token (const char *cookie)
{
  return kw_ticket_dup_digest ("forgery", cookie);
}
