/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-ticket"

#include "config.h"

#include "kw-limits.h"
#include "kw-ticket.h"

#include <string.h>

static KwCaller *
new_caller (gint64 uid)
{
  g_autoptr (KwGrant) grant = kw_grant_new_all ();

  return kw_caller_new_with_grant (KW_CALLER_BUS, ":1.7", NULL, "bus", uid, grant);
}

static char *
issue (KwTickets *tickets, gint64 uid)
{
  g_autoptr (KwCaller) caller = new_caller (uid);
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) ticket = kw_tickets_issue (tickets, caller, &error);

  g_assert_no_error (error);
  g_assert_cmpuint (kw_secret_get_size (ticket), ==, KW_TICKET_CHARACTERS);
  return g_strndup ((const char *) kw_secret_get_data (ticket), KW_TICKET_CHARACTERS);
}

static gint64
redeem (KwTickets *tickets, const char *ticket)
{
  g_autoptr (KwCaller) caller = kw_tickets_redeem (tickets, ticket);

  return caller != NULL ? kw_caller_get_uid (caller) : KW_CALLER_NO_UID;
}

static void
test_once (void)
{
  g_autoptr (KwTickets) tickets = kw_tickets_new ();
  g_autofree char *first = issue (tickets, 1);
  g_autofree char *second = issue (tickets, 2);

  g_assert_cmpstr (first, !=, second);
  for (gsize i = 0; i < KW_TICKET_CHARACTERS; i++)
    g_assert_true (g_ascii_isalnum (first[i]) || first[i] == '-' || first[i] == '_');
  g_assert_cmpint (redeem (tickets, second), ==, 2);
  g_assert_cmpint (redeem (tickets, second), ==, KW_CALLER_NO_UID);
  g_assert_cmpint (redeem (tickets, first), ==, 1);
  g_assert_cmpint (redeem (tickets, first), ==, KW_CALLER_NO_UID);
}

static void
test_what_is_none (void)
{
  g_autoptr (KwTickets) tickets = kw_tickets_new ();
  g_autofree char *ticket = issue (tickets, 1);
  g_autofree char *longer = g_strconcat (ticket, "A", NULL);
  g_autofree char *shorter = g_strndup (ticket, KW_TICKET_CHARACTERS - 1);
  g_autofree char *other = g_strdup (ticket);

  other[0] = other[0] == 'A' ? 'B' : 'A';
  g_assert_cmpint (redeem (tickets, ""), ==, KW_CALLER_NO_UID);
  g_assert_cmpint (redeem (tickets, longer), ==, KW_CALLER_NO_UID);
  g_assert_cmpint (redeem (tickets, shorter), ==, KW_CALLER_NO_UID);
  g_assert_cmpint (redeem (tickets, other), ==, KW_CALLER_NO_UID);
  g_assert_cmpint (redeem (tickets, ticket), ==, 1);
}

/* Whoever makes too many loses the oldest. */
static void
test_too_many (void)
{
  g_autoptr (KwTickets) tickets = kw_tickets_new ();
  g_autoptr (GPtrArray) texts = g_ptr_array_new_with_free_func (g_free);

  for (guint i = 0; i < KW_MAX_WEB_LOGINS + 3; i++)
    g_ptr_array_add (texts, issue (tickets, i));
  for (guint i = 0; i < 3; i++)
    g_assert_cmpint (redeem (tickets, g_ptr_array_index (texts, i)), ==, KW_CALLER_NO_UID);
  for (guint i = 3; i < texts->len; i++)
    g_assert_cmpint (redeem (tickets, g_ptr_array_index (texts, i)), ==, i);
}

static void
test_digests_are_for_one_purpose (void)
{
  g_autofree char *session = kw_ticket_dup_digest ("session", "abc");
  g_autofree char *same = kw_ticket_dup_digest ("session", "abc");
  g_autofree char *forgery = kw_ticket_dup_digest ("forgery", "abc");
  g_autofree char *shifted = kw_ticket_dup_digest ("sessiona", "bc");

  g_assert_cmpuint (strlen (session), ==, 64);
  g_assert_cmpstr (session, ==, same);
  g_assert_cmpstr (session, !=, forgery);
  g_assert_cmpstr (session, !=, shifted);
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/ticket/once", test_once);
  g_test_add_func ("/ticket/none", test_what_is_none);
  g_test_add_func ("/ticket/too-many", test_too_many);
  g_test_add_func ("/ticket/digests", test_digests_are_for_one_purpose);
  return g_test_run ();
}
