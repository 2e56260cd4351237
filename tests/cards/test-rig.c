/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-rig"

#include "kw-card-rig.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/*
 * The rig itself: what happens to a card is seen through PC/SC in time, concerns no other card and no other rig, and
 * nothing is left behind, however the test ends.
 */

#define NOTICE_MSEC (g_getenv ("KW_TEST_SANITIZED") != NULL ? 4000 : 1000)
#define BLOCKED_MSEC 300
#define NOTE_VARIABLE "KW_TEST_NOTE"
#define GET_CHALLENGE "0084000008"
#define SELECT_CARD "00A404000BE82B0601040181C31F020100"

/* A card answers, whoever asks; blank ones too. */
static void
assert_answers (KwCardRig *rig, guint card)
{
  g_autofree char *answer = kw_card_rig_transmit (rig, card, SELECT_CARD, NULL);

  g_assert_true (g_str_has_suffix (answer, "9000"));
}

static gboolean
has_field (KwCardRig *rig, guint card, const char *field)
{
  g_autofree char *status = kw_card_rig_control (rig, card, "status", NULL);
  g_auto (GStrv) fields = g_strsplit (status, " ", -1);

  return g_strv_contains ((const char *const *) fields, field);
}

static void
test_eject_and_insert_are_seen (void)
{
  g_autoptr (KwCardRig) rig = NULL;

  if (kw_card_rig_is_missing ())
    return;
  rig = kw_card_rig_new (2, NULL);
  for (guint i = 0; i < 3; i++)
    {
      kw_card_rig_eject (rig, 0, NULL);
      g_assert_true (kw_card_rig_wait_for_card (rig, 0, FALSE, NOTICE_MSEC, NULL));
      g_assert_true (has_field (rig, 0, "inserted=no"));
      assert_answers (rig, 1);
      kw_card_rig_insert (rig, 0, NULL);
      g_assert_true (kw_card_rig_wait_for_card (rig, 0, TRUE, NOTICE_MSEC, NULL));
      g_assert_true (has_field (rig, 0, "inserted=yes"));
      assert_answers (rig, 0);
    }
}

static void
test_wait_has_a_deadline (void)
{
  g_autoptr (KwCardRig) rig = NULL;
  g_autoptr (GError) error = NULL;
  gint64 start = 0;

  if (kw_card_rig_is_missing ())
    return;
  rig = kw_card_rig_new (1, NULL);
  start = g_get_monotonic_time ();
  g_assert_false (kw_card_rig_wait_for_card (rig, 0, FALSE, 200, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT);
  g_assert_cmpint (g_get_monotonic_time () - start, <, 2 * G_TIME_SPAN_SECOND);
}

typedef struct
{
  KwCardRig *rig;
  gint done; /* atomic */
} Asker;

static gpointer
ask_first_card (gpointer user_data)
{
  Asker *asker = user_data;

  assert_answers (asker->rig, 0);
  g_atomic_int_set (&asker->done, 1);
  return NULL;
}

static void
test_frozen_card_blocks_only_itself (void)
{
  g_autoptr (KwCardRig) rig = NULL;
  Asker asker = { NULL, 0 };
  GThread *thread = NULL;
  gint64 end = 0;

  if (kw_card_rig_is_missing ())
    return;
  rig = kw_card_rig_new (2, NULL);
  assert_answers (rig, 0);
  kw_card_rig_freeze (rig, 0, NULL);
  asker.rig = rig;
  thread = g_thread_new ("asker", ask_first_card, &asker);
  end = g_get_monotonic_time () + BLOCKED_MSEC * G_TIME_SPAN_MILLISECOND;
  while (g_get_monotonic_time () < end)
    assert_answers (rig, 1);
  g_assert_cmpint (g_atomic_int_get (&asker.done), ==, 0);
  kw_card_rig_thaw (rig, 0, NULL);
  g_thread_join (thread);
  g_assert_cmpint (asker.done, ==, 1);
}

static void
test_card_killed_and_started (void)
{
  g_autoptr (KwCardRig) rig = NULL;

  if (kw_card_rig_is_missing ())
    return;
  rig = kw_card_rig_new (2, NULL);
  kw_card_rig_kill_card (rig, 0, NULL);
  g_assert_true (kw_card_rig_wait_for_card (rig, 0, FALSE, NOTICE_MSEC, NULL));
  assert_answers (rig, 1);
  kw_card_rig_start_card (rig, 0, NULL);
  assert_answers (rig, 0);
  kw_card_rig_restart_card (rig, 0, NULL);
  assert_answers (rig, 0);
  kw_card_rig_stop_card (rig, 0, NULL);
  g_assert_true (kw_card_rig_wait_for_card (rig, 0, FALSE, NOTICE_MSEC, NULL));
}

static void
assert_challenge (KwCardRig *rig, gboolean good)
{
  g_autofree char *answer = kw_card_rig_transmit (rig, 0, GET_CHALLENGE, NULL);

  if (good)
    g_assert_cmpuint (strlen (answer), ==, 2 * 8 + 4);
  else
    g_assert_cmpstr (answer, ==, "6F00");
}

static void
test_faults_by_control (void)
{
  g_autoptr (KwCardRig) rig = NULL;
  g_autoptr (GError) error = NULL;
  gint64 start = 0;

  if (kw_card_rig_is_missing ())
    return;
  rig = kw_card_rig_new (1, NULL);
  assert_challenge (rig, TRUE);
  g_free (kw_card_rig_control (rig, 0, "fault ins=84,sw=6F00,count=2", NULL));
  assert_challenge (rig, FALSE);
  assert_challenge (rig, FALSE);
  assert_challenge (rig, TRUE);
  g_free (kw_card_rig_control (rig, 0, "drop-after 1", NULL));
  assert_challenge (rig, TRUE);
  start = g_get_monotonic_time ();
  g_assert_null (kw_card_rig_transmit (rig, 0, GET_CHALLENGE, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_FAILED);
  g_assert_cmpint (g_get_monotonic_time () - start, <, 10 * G_TIME_SPAN_SECOND);
  g_assert_true (kw_card_rig_wait_for_card (rig, 0, FALSE, NOTICE_MSEC, NULL));
  kw_card_rig_insert (rig, 0, NULL);
  g_assert_true (kw_card_rig_wait_for_card (rig, 0, TRUE, NOTICE_MSEC, NULL));
  assert_challenge (rig, TRUE);
}

static void
test_trace_has_the_commands (void)
{
  g_autoptr (KwCardRig) rig = NULL;
  g_autofree char *trace = NULL;
  g_autofree char *upper = NULL;

  if (kw_card_rig_is_missing ())
    return;
  rig = kw_card_rig_new (1, NULL);
  kw_card_rig_initialise (rig, 0, NULL, NULL, -1, "trace", NULL);
  assert_challenge (rig, TRUE);
  g_assert_true (g_file_get_contents (kw_card_rig_get_trace_path (rig, 0), &trace, NULL, NULL));
  upper = g_ascii_strup (trace, -1);
  g_assert_nonnull (strstr (upper, GET_CHALLENGE));
  /* The PIN, as it stands in VERIFY. */
  g_assert_null (strstr (upper, "363438323139"));
}

static void
test_card_that_does_not_start (void)
{
  static const char *const options[] = { "--no-such-option", NULL };
  g_autoptr (KwCardRig) rig = NULL;
  g_autoptr (GError) error = NULL;

  if (kw_card_rig_is_missing ())
    return;
  rig = kw_card_rig_new (1, NULL);
  kw_card_rig_stop_card (rig, 0, NULL);
  g_assert_true (kw_card_rig_wait_for_card (rig, 0, FALSE, NOTICE_MSEC, NULL));
  kw_card_rig_set_card_options (rig, 0, options);
  g_assert_false (kw_card_rig_start_card (rig, 0, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_FAILED);
  g_assert_nonnull (strstr (error->message, "card1 has ended"));
  g_clear_error (&error);
  g_assert_null (kw_card_rig_control (rig, 0, "status", &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_FAILED);
  g_clear_error (&error);
  g_assert_false (kw_card_rig_freeze (rig, 0, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_FAILED);
}

static void
test_pcscd_stopped_and_killed (void)
{
  g_autoptr (KwCardRig) rig = NULL;
  g_autofree char *socket_name = NULL;
  g_autoptr (GError) error = NULL;

  if (kw_card_rig_is_missing ())
    return;
  rig = kw_card_rig_new (2, NULL);
  socket_name = g_strdup (kw_card_rig_get_socket_name (rig));
  kw_card_rig_stop_pcscd (rig, NULL);
  g_assert_null (kw_card_rig_transmit (rig, 0, SELECT_CARD, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_FAILED);
  kw_card_rig_start_pcscd (rig, NULL);
  for (guint i = 0; i < 3; i++)
    {
      assert_answers (rig, 0);
      assert_answers (rig, 1);
      if (i == 0)
        {
          kw_card_rig_kill_pcscd (rig, NULL);
          kw_card_rig_start_pcscd (rig, NULL);
        }
      else
        kw_card_rig_restart_pcscd (rig, NULL);
    }
  g_assert_cmpstr (kw_card_rig_get_socket_name (rig), ==, socket_name);
  g_assert_true (g_file_test (socket_name, G_FILE_TEST_EXISTS));
}

static void
test_two_rigs_at_once (void)
{
  g_autoptr (KwCardRig) first = NULL;
  g_autoptr (KwCardRig) second = NULL;

  if (kw_card_rig_is_missing ())
    return;
  first = kw_card_rig_new (2, NULL);
  second = kw_card_rig_new (2, NULL);
  g_assert_cmpstr (kw_card_rig_get_socket_name (first), !=, kw_card_rig_get_socket_name (second));
  kw_card_rig_eject (first, 0, NULL);
  g_assert_true (kw_card_rig_wait_for_card (first, 0, FALSE, NOTICE_MSEC, NULL));
  assert_answers (second, 0);
  kw_card_rig_kill_pcscd (first, NULL);
  assert_answers (second, 0);
  assert_answers (second, 1);
  g_clear_pointer (&first, kw_card_rig_free);
  assert_answers (second, 1);
}

static void
test_eight_cards (void)
{
  g_autoptr (KwCardRig) rig = NULL;
  g_autofree char *output = NULL;

  if (kw_card_rig_is_missing ())
    return;
  rig = kw_card_rig_new (KW_CARD_RIG_MAX_CARDS, NULL);
  g_assert_cmpint (kw_card_rig_run (rig, &output, "opensc-tool", "--list-readers", NULL), ==, 0);
  for (guint i = 0; i < KW_CARD_RIG_MAX_CARDS; i++)
    {
      assert_answers (rig, i);
      g_assert_nonnull (strstr (output, kw_card_rig_get_reader (rig, i)));
      for (guint j = 0; j < i; j++)
        g_assert_cmpstr (kw_card_rig_get_serial (rig, i), !=, kw_card_rig_get_serial (rig, j));
    }
  g_assert_null (strstr (output, " 00 01"));
}

/* Processes whose command line has @text. */
static guint
count_processes (const char *text)
{
  g_autoptr (GDir) proc = g_dir_open ("/proc", 0, NULL);
  const char *name = NULL;
  guint n = 0;

  while ((name = g_dir_read_name (proc)) != NULL)
    {
      g_autofree char *path = g_build_filename ("/proc", name, "cmdline", NULL);
      g_autofree char *line = NULL;
      gsize size = 0;

      if (g_ascii_isdigit (name[0]) && g_file_get_contents (path, &line, &size, NULL))
        n += memmem (line, size, text, strlen (text)) != NULL;
    }
  return n;
}

static void
wait_until_gone (const char *directory)
{
  gint64 end = g_get_monotonic_time () + 10 * G_TIME_SPAN_SECOND;

  while (count_processes (directory) > 0 || g_file_test (directory, G_FILE_TEST_EXISTS))
    {
      g_assert_cmpint (g_get_monotonic_time (), <, end);
      g_usleep (10000);
    }
}

static void
test_free_leaves_nothing (void)
{
  KwCardRig *rig = NULL;
  g_autofree char *directory = NULL;

  if (kw_card_rig_is_missing ())
    return;
  rig = kw_card_rig_new (2, NULL);
  directory = g_strdup (kw_card_rig_get_directory (rig));
  /* The holder twice, pcscd, and the cards. */
  g_assert_cmpuint (count_processes (directory), ==, 5);
  kw_card_rig_freeze (rig, 1, NULL);
  kw_card_rig_free (rig);
  g_assert_cmpuint (count_processes (directory), ==, 0);
  g_assert_false (g_file_test (directory, G_FILE_TEST_EXISTS));
}

/* Runs as a process of its own. */
static void
test_killed_test_child (void)
{
  KwCardRig *rig = kw_card_rig_new (2, NULL);

  g_assert_true (
      g_file_set_contents (g_getenv (NOTE_VARIABLE), kw_card_rig_get_directory (rig), -1, NULL));
  raise (SIGKILL);
}

static void
test_killed_test_leaves_nothing (void)
{
  g_autofree char *note = NULL;
  g_autofree char *directory = NULL;

  if (kw_card_rig_is_missing ())
    return;
  note = g_strdup_printf ("%s/kw-note-%d", g_get_tmp_dir (), getpid ());
  g_setenv (NOTE_VARIABLE, note, TRUE);
  g_test_trap_subprocess ("/rig/end/killed-test/subprocess", 0, G_TEST_SUBPROCESS_DEFAULT);
  g_test_trap_assert_failed ();
  g_assert_true (g_file_get_contents (note, &directory, NULL, NULL));
  g_unlink (note);
  wait_until_gone (directory);
}

static void
test_host_sees_nothing (void)
{
  g_autoptr (KwCardRig) rig = NULL;
  g_autofree char *before = NULL;
  g_autofree char *after = NULL;
  g_autofree char *inside = NULL;
  g_autofree char *mounts = NULL;

  if (kw_card_rig_is_missing ())
    return;
  g_assert_true (g_file_get_contents ("/proc/self/mountinfo", &before, NULL, NULL));
  rig = kw_card_rig_new (1, NULL);
  g_assert_true (g_file_get_contents ("/proc/self/mountinfo", &after, NULL, NULL));
  g_assert_cmpstr (before, ==, after);
  mounts = g_strdup_printf ("/proc/%d/mountinfo", kw_card_rig_get_holder_pid (rig));
  g_assert_true (g_file_get_contents (mounts, &inside, NULL, NULL));
  g_assert_cmpstr (before, !=, inside);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/rig/end/killed-test", test_killed_test_leaves_nothing);
  g_test_add_func ("/rig/end/killed-test/subprocess", test_killed_test_child);
  g_test_add_func ("/rig/end/freed", test_free_leaves_nothing);
  g_test_add_func ("/rig/host-sees-nothing", test_host_sees_nothing);
  g_test_add_func ("/rig/card/eject-and-insert", test_eject_and_insert_are_seen);
  g_test_add_func ("/rig/card/wait-has-a-deadline", test_wait_has_a_deadline);
  g_test_add_func ("/rig/card/frozen", test_frozen_card_blocks_only_itself);
  g_test_add_func ("/rig/card/killed-and-started", test_card_killed_and_started);
  g_test_add_func ("/rig/card/faults", test_faults_by_control);
  g_test_add_func ("/rig/card/trace", test_trace_has_the_commands);
  g_test_add_func ("/rig/card/does-not-start", test_card_that_does_not_start);
  g_test_add_func ("/rig/card/eight", test_eight_cards);
  g_test_add_func ("/rig/pcscd/stopped-and-killed", test_pcscd_stopped_and_killed);
  g_test_add_func ("/rig/two-at-once", test_two_rigs_at_once);
  return g_test_run ();
}
