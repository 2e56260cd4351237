/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-callers"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-backend.h"
#include "kw-fake-backend.h"
#include "kw-limits.h"
#include "kw-names.h"
#include "kw-plugins.h"
#include "kw-refusals.h"
#include "kw-verified-tokens.h"
#include "kw-web-sessions.h"

#include <string.h>
#include <unistd.h>

/*
 * What the API remembers of its callers: sessions of browsers, tokens that were verified, and who was refused.
 */

#define OTHER_UID 4242424

typedef struct
{
  char *directory;
  KwConfig *config;
  KwService *service;
} Fixture;

static void
set_up (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *text = NULL;
  g_autoptr (GError) error = NULL;

  f->directory = kw_test_make_directory ();
  text = g_strdup_printf ("[audit]\npath = \"%s/audit.log\"\n[state]\ndirectory = \"%s\"\n",
                          f->directory, f->directory);
  f->config = kw_config_new_from_data ("test", text, strlen (text), &error);
  g_assert_no_error (error);
  f->service = kw_service_new (f->config, &error);
  g_assert_no_error (error);
}

static void
tear_down (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  kw_service_stop (f->service);
  g_object_unref (f->service);
  g_object_unref (f->config);
  kw_test_remove_directory (f->directory);
}

static KwCaller *
new_caller (const char *address, gint64 uid)
{
  g_autoptr (KwGrant) grant = kw_grant_new_all ();

  return kw_caller_new_with_grant (KW_CALLER_API, "name", NULL, address, uid, grant);
}

static void
open_session (KwWebSessions *sessions, const char *address, char *out_cookie)
{
  g_autoptr (KwCaller) caller = new_caller (address, getuid ());
  g_autoptr (GError) error = NULL;

  g_assert_true (kw_web_sessions_open (sessions, caller, out_cookie, &error));
  g_assert_no_error (error);
}

static gboolean
is_in (KwWebSessions *sessions, const char *cookie, const char *address)
{
  g_autoptr (KwCaller) caller = kw_web_sessions_find (sessions, cookie, address);

  return caller != NULL;
}

static void
test_sessions (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  KwWebSessions *sessions = kw_web_sessions_new (f->directory, f->service);
  char first[KW_TICKET_CHARACTERS + 1];
  char second[KW_TICKET_CHARACTERS + 1];

  open_session (sessions, "127.0.0.1", first);
  open_session (sessions, "192.0.2.1", second);
  g_assert_cmpstr (first, !=, second);
  g_assert_true (is_in (sessions, first, "127.0.0.1"));
  g_assert_true (is_in (sessions, first, "::1"));
  g_assert_false (is_in (sessions, "nothing", "127.0.0.1"));
  /* A cookie that was stolen lets in neither the thief nor its owner. */
  g_assert_true (is_in (sessions, second, "192.0.2.1"));
  g_assert_false (is_in (sessions, second, "192.0.2.2"));
  g_assert_false (is_in (sessions, second, "192.0.2.1"));
  kw_web_sessions_close (sessions, first);
  g_assert_false (is_in (sessions, first, "127.0.0.1"));
  kw_web_sessions_free (sessions);
}

static void
test_too_many_sessions (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  KwWebSessions *sessions = kw_web_sessions_new (f->directory, f->service);
  char cookie[KW_TICKET_CHARACTERS + 1];
  g_autoptr (GPtrArray) cookies = g_ptr_array_new_with_free_func (g_free);
  guint n_in = 0;

  for (guint i = 0; i < KW_MAX_WEB_SESSIONS + 5; i++)
    {
      open_session (sessions, "127.0.0.1", cookie);
      g_ptr_array_add (cookies, g_strdup (cookie));
    }
  for (guint i = 0; i < cookies->len; i++)
    n_in += is_in (sessions, g_ptr_array_index (cookies, i), "127.0.0.1");
  g_assert_cmpuint (n_in, ==, KW_MAX_WEB_SESSIONS);
  kw_web_sessions_free (sessions);
}

/* What is written is no cookie; and what somebody wrote into the file is believed as far as it makes sense. */
static void
test_sessions_are_kept (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  KwWebSessions *sessions = kw_web_sessions_new (f->directory, f->service);
  g_autofree char *path = g_build_filename (f->directory, KW_STATE_FILE_SESSIONS, NULL);
  g_autofree char *contents = NULL;
  g_autoptr (GKeyFile) file = g_key_file_new ();
  g_auto (GStrv) groups = NULL;
  char cookie[KW_TICKET_CHARACTERS + 1];

  open_session (sessions, "127.0.0.1", cookie);
  kw_web_sessions_free (sessions);
  g_assert_true (g_file_get_contents (path, &contents, NULL, NULL));
  g_assert_null (strstr (contents, cookie));
  sessions = kw_web_sessions_new (f->directory, f->service);
  g_assert_true (is_in (sessions, cookie, "127.0.0.1"));
  kw_web_sessions_free (sessions);
  g_assert_true (g_key_file_load_from_file (file, path, G_KEY_FILE_NONE, NULL));
  groups = g_key_file_get_groups (file, NULL);
  g_key_file_set_int64 (file, groups[0], "expires", 1);
  g_assert_true (g_key_file_save_to_file (file, path, NULL));
  sessions = kw_web_sessions_new (f->directory, f->service);
  g_assert_false (is_in (sessions, cookie, "127.0.0.1"));
  kw_web_sessions_free (sessions);
  g_key_file_set_int64 (file, groups[0], "expires", G_MAXINT64);
  g_assert_true (g_key_file_save_to_file (file, path, NULL));
  sessions = kw_web_sessions_new (f->directory, f->service);
  g_assert_false (is_in (sessions, cookie, "127.0.0.1"));
  kw_web_sessions_free (sessions);
  g_assert_true (g_file_set_contents (path, "[", -1, NULL));
  sessions = kw_web_sessions_new (f->directory, f->service);
  g_assert_false (is_in (sessions, cookie, "127.0.0.1"));
  kw_web_sessions_free (sessions);
}

/* On a UNIX socket all come from one address: who shows a token there is told apart by his user id. */
static void
test_tokens_of_users (void)
{
  KwVerifiedTokens *tokens = kw_verified_tokens_new ();
  g_autoptr (KwCaller) caller = new_caller ("unix", 1000);
  g_autoptr (KwCaller) found = NULL;

  kw_verified_tokens_add (tokens, "a.b.c", caller, g_get_real_time () / G_USEC_PER_SEC + 100);
  found = kw_verified_tokens_find (tokens, "a.b.c", "unix", 1000);
  g_assert_true (found == caller);
  g_assert_null (kw_verified_tokens_find (tokens, "a.b.c", "unix", 1001));
  kw_verified_tokens_free (tokens);
}

/* Rights that were taken away in the configuration are gone from sessions that are open. */
static void
test_sessions_follow_the_configuration (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  KwWebSessions *sessions = kw_web_sessions_new (f->directory, f->service);
  g_autoptr (KwCaller) caller = new_caller ("127.0.0.1", OTHER_UID);
  g_autoptr (KwCaller) before = NULL;
  g_autoptr (KwCaller) after = NULL;
  char cookie[KW_TICKET_CHARACTERS + 1];

  g_assert_true (kw_web_sessions_open (sessions, caller, cookie, NULL));
  before = kw_web_sessions_find (sessions, cookie, "127.0.0.1");
  g_assert_true (kw_grant_allows_class (kw_caller_get_grant (before), KW_VERB_CLASS_TEST));
  kw_web_sessions_reconsider (sessions, f->service);
  after = kw_web_sessions_find (sessions, cookie, "127.0.0.1");
  g_assert_false (kw_grant_allows_class (kw_caller_get_grant (after), KW_VERB_CLASS_TEST));
  kw_web_sessions_free (sessions);
}

static void
test_tokens (void)
{
  KwVerifiedTokens *tokens = kw_verified_tokens_new ();
  g_autoptr (KwCaller) caller = new_caller ("192.0.2.1", KW_CALLER_NO_UID);
  gint64 now = g_get_real_time () / G_USEC_PER_SEC;
  g_autoptr (KwCaller) found = NULL;

  g_assert_null (kw_verified_tokens_find (tokens, "a.b.c", "192.0.2.1", KW_CALLER_NO_UID));
  kw_verified_tokens_add (tokens, "a.b.c", caller, now + 100);
  found = kw_verified_tokens_find (tokens, "a.b.c", "192.0.2.1", KW_CALLER_NO_UID);
  g_assert_true (found == caller);
  g_assert_null (kw_verified_tokens_find (tokens, "a.b.c", "192.0.2.2", KW_CALLER_NO_UID));
  g_assert_null (kw_verified_tokens_find (tokens, "a.b.d", "192.0.2.1", KW_CALLER_NO_UID));
  kw_verified_tokens_add (tokens, "old", caller, now - 1);
  g_assert_null (kw_verified_tokens_find (tokens, "old", "192.0.2.1", KW_CALLER_NO_UID));
  /* Too many are forgotten, and are no harm. */
  for (guint i = 0; i < KW_MAX_VERIFIED_TOKENS + 1; i++)
    {
      g_autofree char *token = g_strdup_printf ("token %u", i);

      kw_verified_tokens_add (tokens, token, caller, now + 100);
    }
  g_assert_null (kw_verified_tokens_find (tokens, "a.b.c", "192.0.2.1", KW_CALLER_NO_UID));
  kw_verified_tokens_free (tokens);
}

static void
test_refusals (void)
{
  KwRefusals *refusals = kw_refusals_new ();

  for (guint i = 0; i < KW_REFUSALS_PER_SECOND; i++)
    {
      g_assert_false (kw_refusals_are_too_many (refusals, "192.0.2.1"));
      kw_refusals_count (refusals, "192.0.2.1");
    }
  g_assert_true (kw_refusals_are_too_many (refusals, "192.0.2.1"));
  g_assert_false (kw_refusals_are_too_many (refusals, "192.0.2.2"));
  for (guint i = 0; i < KW_MAX_REFUSED_CALLERS + 1; i++)
    {
      g_autofree char *address = g_strdup_printf ("2001:db8::%x", i);

      kw_refusals_count (refusals, address);
    }
  g_assert_false (kw_refusals_are_too_many (refusals, "192.0.2.1"));
  kw_refusals_free (refusals);
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
  kw_test_keep_quiet ();
  kw_plugins_register_point (KW_BACKEND_EXTENSION_POINT, KW_TYPE_BACKEND);
  g_io_extension_point_implement (KW_BACKEND_EXTENSION_POINT, KW_TYPE_FAKE_BACKEND, "fake", 0);
  g_test_add ("/sessions/in-and-out", Fixture, NULL, set_up, test_sessions, tear_down);
  g_test_add ("/sessions/too-many", Fixture, NULL, set_up, test_too_many_sessions, tear_down);
  g_test_add ("/sessions/kept", Fixture, NULL, set_up, test_sessions_are_kept, tear_down);
  g_test_add ("/sessions/follow", Fixture, NULL, set_up, test_sessions_follow_the_configuration,
              tear_down);
  g_test_add_func ("/tokens/verified", test_tokens);
  g_test_add_func ("/tokens/users", test_tokens_of_users);
  g_test_add_func ("/refusals/counted", test_refusals);
  return g_test_run ();
}
