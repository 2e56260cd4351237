/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The program as it stands, in a reader played by the test: orders, faults, and what is kept when it is killed. */

#include "card-fixture.h"

#include <errno.h>
#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* How long anything may take, in seconds. */
#define PATIENCE 20

/* In which a card that is silent is taken for frozen, in microseconds. */
#define SILENCE_USEC 150000

typedef struct
{
  char *directory;
  char *state_path;
  char *control_path;
  GSocket *listener;
  GSocket *card;
  GSubprocess *process;
} Reader;

static char *
get_path (Reader *reader, const char *name)
{
  return g_build_filename (reader->directory, name, NULL);
}

static void
reader_set_up (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GInetAddress) loopback = g_inet_address_new_loopback (G_SOCKET_FAMILY_IPV4);
  g_autoptr (GSocketAddress) address = g_inet_socket_address_new (loopback, 0);
  g_autoptr (GError) error = NULL;

  reader->directory = g_dir_make_tmp ("keyward-card-XXXXXX", &error);
  g_assert_no_error (error);
  reader->state_path = get_path (reader, "state");
  reader->control_path = get_path (reader, "control");
  reader->listener
      = g_socket_new (G_SOCKET_FAMILY_IPV4, G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_TCP, &error);
  g_assert_no_error (error);
  g_socket_bind (reader->listener, address, FALSE, &error);
  g_assert_no_error (error);
  g_socket_listen (reader->listener, &error);
  g_assert_no_error (error);
  g_socket_set_timeout (reader->listener, PATIENCE);
}

static void
kill_card (Reader *reader)
{
  g_clear_object (&reader->card);
  if (!reader->process)
    return;
  g_subprocess_force_exit (reader->process);
  g_subprocess_wait (reader->process, NULL, NULL);
  g_clear_object (&reader->process);
}

static void
reader_tear_down (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GDir) dir = NULL;
  const char *name;

  kill_card (reader);
  g_object_unref (reader->listener);
  dir = g_dir_open (reader->directory, 0, NULL);
  while ((name = g_dir_read_name (dir)))
    {
      g_autofree char *path = get_path (reader, name);

      if (g_unlink (path) != 0)
        g_rmdir (path);
    }
  g_rmdir (reader->directory);
  g_free (reader->directory);
  g_free (reader->state_path);
  g_free (reader->control_path);
}

static guint16
get_port (Reader *reader)
{
  g_autoptr (GSocketAddress) address = g_socket_get_local_address (reader->listener, NULL);

  return g_inet_socket_address_get_port (G_INET_SOCKET_ADDRESS (address));
}

/* Nothing is left when a test fails. */
static void
end_with_parent (G_GNUC_UNUSED gpointer user_data)
{
  prctl (PR_SET_PDEATHSIG, SIGKILL);
}

static GSubprocess *
spawn (Reader *reader, const char *const *options, GSubprocessFlags flags)
{
  g_autoptr (GPtrArray) argv = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GError) error = NULL;
  g_autoptr (GSubprocessLauncher) launcher = g_subprocess_launcher_new (flags);
  GSubprocess *process;

  g_ptr_array_add (argv, g_strdup (CARD_TEST_PROGRAM));
  g_ptr_array_add (argv, g_strdup_printf ("--port=%u", get_port (reader)));
  g_ptr_array_add (argv, g_strdup_printf ("--state=%s", reader->state_path));
  g_ptr_array_add (argv, g_strdup_printf ("--control=%s", reader->control_path));
  for (guint i = 0; options && options[i]; i++)
    g_ptr_array_add (argv, g_strdup (options[i]));
  g_ptr_array_add (argv, NULL);
  g_subprocess_launcher_set_child_setup (launcher, end_with_parent, NULL, NULL);
  process = g_subprocess_launcher_spawnv (launcher, (const char *const *) argv->pdata, &error);
  g_assert_no_error (error);
  return process;
}

static void
accept_card (Reader *reader)
{
  g_autoptr (GError) error = NULL;

  g_clear_object (&reader->card);
  reader->card = g_socket_accept (reader->listener, NULL, &error);
  g_assert_no_error (error);
  g_socket_set_timeout (reader->card, PATIENCE);
}

static void
start_card (Reader *reader, const char *const *options)
{
  reader->process = spawn (reader, options, G_SUBPROCESS_FLAGS_NONE);
  accept_card (reader);
}

/* Reads exactly so many bytes; FALSE when the card is gone. */
static gboolean
receive (Reader *reader, guint8 *bytes, gsize size)
{
  gsize n_read = 0;

  while (n_read < size)
    {
      gssize n
          = g_socket_receive (reader->card, (char *) bytes + n_read, size - n_read, NULL, NULL);

      if (n <= 0)
        return FALSE;
      n_read += (gsize) n;
    }
  return TRUE;
}

static void
send_frame (Reader *reader, const char *hex)
{
  g_autoptr (GBytes) payload = card_test_parse_hex (hex);
  gsize size;
  const char *bytes = g_bytes_get_data (payload, &size);
  const char length[] = { (char) (size >> 8), (char) size };

  /* In two pieces, as vpcd does. */
  g_socket_send (reader->card, length, sizeof length, NULL, NULL);
  g_socket_send (reader->card, bytes, size, NULL, NULL);
}

static char *
receive_frame (Reader *reader)
{
  guint8 length[2];
  g_autofree guint8 *bytes = NULL;
  gsize size;

  if (!receive (reader, length, sizeof length))
    return NULL;
  size = (gsize) length[0] << 8 | length[1];
  bytes = g_malloc (size + 1);
  if (!receive (reader, bytes, size))
    return NULL;
  return card_test_format_hex (bytes, size);
}

static void
assert_frame (Reader *reader, const char *hex, const char *wanted)
{
  g_autofree char *answer = NULL;

  send_frame (reader, hex);
  answer = receive_frame (reader);
  g_assert_cmpstr (answer, ==, wanted);
}

static char *
order (Reader *reader, const char *line)
{
  g_autoptr (GSocketAddress) address = g_unix_socket_address_new (reader->control_path);
  g_autoptr (GSocketClient) client = g_socket_client_new ();
  g_autoptr (GSocketConnection) connection = NULL;
  g_autoptr (GDataInputStream) input = NULL;
  g_autoptr (GError) error = NULL;
  char *answer;

  g_socket_client_set_timeout (client, PATIENCE);
  connection = g_socket_client_connect (client, G_SOCKET_CONNECTABLE (address), NULL, &error);
  g_assert_no_error (error);
  g_output_stream_write_all (g_io_stream_get_output_stream (G_IO_STREAM (connection)), line,
                             strlen (line), NULL, NULL, &error);
  g_assert_no_error (error);
  input = g_data_input_stream_new (g_io_stream_get_input_stream (G_IO_STREAM (connection)));
  answer = g_data_input_stream_read_line (input, NULL, NULL, &error);
  g_assert_no_error (error);
  return answer;
}

static void
assert_order (Reader *reader, const char *line, const char *wanted)
{
  g_autofree char *answer = order (reader, line);

  g_assert_cmpstr (answer, ==, wanted);
}

#define INITIALIZE "8050000019 80020001 8106" CARD_TEST_PIN_HEX "8208" CARD_TEST_SO_PIN_HEX "910103"
#define WRONG_PIN "0020008106313131313131"

static void
test_frames (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  static const char *const options[] = { "--serial=VTFRAME", NULL };

  start_card (reader, options);
  assert_frame (reader, "04", "3BDE18FF8191FE1FC38031815448534D317380214081071C");
  send_frame (reader, "01");
  send_frame (reader, "7F"); /* no control byte there is: it has no answer */
  assert_frame (reader, "04", "3BDE18FF8191FE1FC38031815448534D317380214081071C");
  assert_frame (reader, "0084", "6700");
  assert_frame (reader, "00200081", "6A88");
  assert_frame (reader, INITIALIZE, "9000");
  assert_frame (reader, CARD_TEST_LOGIN, "9000");
  send_frame (reader, "02");
  assert_frame (reader, "00200081", "63C3");
  assert_frame (reader, CARD_TEST_LOGIN, "9000");
  send_frame (reader, "00");
  send_frame (reader, "01");
  assert_frame (reader, "00200081", "63C3");
}

/* Whenever it is killed, it has kept what it said before. */
static void
test_killed (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  static const char *const options[] = { "--serial=VTKILLED", NULL };
  static const struct
  {
    const char *command;
    const char *answer;
    const char *user_tries;
    const char *so_tries;
  } steps[] = {
    { INITIALIZE, "9000", "63C3", "63CF" },
    { WRONG_PIN, "63C2", "63C2", "63CF" },
    { WRONG_PIN, "63C1", "63C1", "63CF" },
    { CARD_TEST_LOGIN, "9000", "63C3", "63CF" },
    { WRONG_PIN, "63C2", "63C2", "63CF" },
    { "00200088083131313131313131", "63CE", "63C2", "63CE" },
    { "002C0081 0E 3131313131313131" CARD_TEST_PIN_HEX, "63CD", "63C2", "63CD" },
    { "00240081 0C 313131313131" CARD_TEST_PIN_HEX, "63C1", "63C1", "63CD" },
    { WRONG_PIN, "6983", "6983", "63CD" },
    { "80500000 19 80020001 8106" CARD_TEST_PIN_HEX "8208 3131313131313131 910103", "63CC", "6983",
      "63CC" },
    { "002C0081 0E" CARD_TEST_SO_PIN_HEX CARD_TEST_PIN_HEX, "9000", "63C3", "63CF" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (steps); i++)
    {
      start_card (reader, options);
      assert_frame (reader, steps[i].command, steps[i].answer);
      kill_card (reader);
      start_card (reader, options);
      assert_frame (reader, "00200081", steps[i].user_tries);
      assert_frame (reader, "00200088", steps[i].so_tries);
      kill_card (reader);
    }
}

/* Killed at any moment, with its answer unread, it has spent the try or it has not: there is nothing between, and the state is
 * whole. */
static void
test_killed_at_any_moment (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  g_autoptr (GRand) random = g_rand_new_with_seed (22);
  guint tries = 3;
  guint n_old = 0, n_new = 0;

  start_card (reader, NULL);
  assert_frame (reader, INITIALIZE, "9000");
  for (guint i = 0; i < 40; i++)
    {
      const char *command = tries > 1 ? WRONG_PIN : CARD_TEST_LOGIN;
      guint next = tries > 1 ? tries - 1 : 3;
      g_autofree char *answer = NULL;
      guint now;

      send_frame (reader, command);
      g_usleep ((gulong) g_rand_int_range (random, 0, 3000));
      kill_card (reader);
      start_card (reader, NULL);
      send_frame (reader, "00200081");
      answer = receive_frame (reader);
      g_assert_cmpuint (strlen (answer), ==, 4);
      g_assert_true (g_str_has_prefix (answer, "63C"));
      now = (guint) g_ascii_xdigit_value (answer[3]);
      g_assert_true (now == tries || now == next);
      n_old += now == tries;
      n_new += now == next;
      tries = now;
    }
  g_test_message ("%u times the old number of tries, %u times the new one", n_old, n_new);
}

/* Keys and files too. */
static void
test_kept (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  static const char *const options[] = { "--serial=VTKEPT", NULL };
  g_autofree char *answer = NULL;
  g_autofree char *again = NULL;

  start_card (reader, options);
  assert_frame (reader, INITIALIZE, "9000");
  assert_frame (reader, CARD_TEST_LOGIN, "9000");
  assert_frame (reader, "804805B2", "9000");
  assert_frame (reader, "00D7C405 07 54020000 530130", "9000");
  send_frame (reader, "80780510 10 00000000000000000000000000000000 00");
  answer = receive_frame (reader);
  kill_card (reader);
  start_card (reader, NULL);
  assert_frame (reader, "80580000 000000", "CC00CC05C4059000");
  assert_frame (reader, CARD_TEST_LOGIN, "9000");
  send_frame (reader, "80780510 10 00000000000000000000000000000000 00");
  again = receive_frame (reader);
  g_assert_cmpstr (again, ==, answer);
}

static void
test_control (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  static const char *const options[] = { "--serial=VTCONTROL", NULL };
  g_autofree char *long_line = g_strnfill (5000, 'x');

  start_card (reader, options);
  assert_frame (reader, "00200081", "6A88");
  assert_order (
      reader, "status\n",
      "ok serial=VTCONTROL inserted=yes connected=yes frozen=no apdus=1 faults=0 delay-ms=0 "
      "realistic=no");
  assert_order (reader, "eject\n", "ok");
  g_assert_null (receive_frame (reader));
  assert_order (
      reader, "status\n",
      "ok serial=VTCONTROL inserted=no connected=no frozen=no apdus=1 faults=0 delay-ms=0 "
      "realistic=no");
  assert_order (reader, "insert\n", "ok");
  accept_card (reader);
  assert_order (reader, "insert\n", "ok");
  assert_frame (reader, "00200081", "6A88");

  assert_order (reader, "fault ins=20,sw=6400\n", "ok");
  assert_frame (reader, "00200081", "6400");
  assert_frame (reader, "00200081", "6A88");
  assert_order (reader, "fault ins=20,sw=6400,count=0\n", "ok");
  assert_order (reader, "fault clear\n", "ok");
  assert_frame (reader, "00200081", "6A88");
  assert_order (reader, "delay realistic\n", "ok");
  assert_order (
      reader, "status\n",
      "ok serial=VTCONTROL inserted=yes connected=yes frozen=no apdus=5 faults=1 delay-ms=0 "
      "realistic=yes");

  assert_order (reader, "\n", "error an empty line is no order");
  assert_order (reader, "fault\n",
                "error a fault needs ins= and sw=, as in ins=68,sw=6F00,count=1");
  assert_order (reader, "delay soon\n",
                "error 'soon' is no delay: milliseconds up to 600000, or 'realistic'");
  assert_order (reader, "drop-after x\n",
                "error 'x' is no number of commands: 0 and up, or 'never'");
  assert_order (
      reader, "jump\n",
      "error there is no order 'jump'; there are status, eject, insert, freeze, thaw, quit, "
      "fault RULE, fault clear, delay MS, drop-after N, freeze-after N, corrupt-after N");
  assert_order (reader, "\xff\n", "error this is not text");
  assert_order (reader, long_line, "error the line is too long");
  assert_order (reader, "quit\n", "ok");
  g_assert_true (g_subprocess_wait_check (reader->process, NULL, NULL));
  g_assert_false (g_file_test (reader->control_path, G_FILE_TEST_EXISTS));
}

static void
assert_silent (Reader *reader)
{
  g_assert_false (g_socket_condition_timed_wait (reader->card, G_IO_IN, SILENCE_USEC, NULL, NULL));
}

static void
test_faults (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  static const char *const options[] = { "--fault=ins=20,sw=6F00,skip=1",
                                         "--fault=ins=84,sw=6400,count=2", "--drop-after=6", NULL };

  start_card (reader, options);
  assert_frame (reader, "00200081", "6A88");
  assert_frame (reader, "00200081", "6F00");
  assert_frame (reader, "0084000008", "6400");
  assert_frame (reader, "0084000008", "6400");
  assert_frame (reader, "00200081", "6A88");
  assert_frame (reader, "00200081", "6A88");
  send_frame (reader, "00200081");
  g_assert_null (receive_frame (reader)); /* pulled out */
  assert_order (reader, "insert\n", "ok");
  accept_card (reader);
  assert_frame (reader, "00200081", "6A88");

  assert_order (reader, "fault ins=20,sw=6900\n", "ok");
  assert_frame (reader, "00200081", "6900");
  assert_order (reader, "freeze-after 1\n", "ok");
  assert_frame (reader, "00200081", "6A88");
  send_frame (reader, "00200088");
  assert_silent (reader);
  assert_order (reader, "thaw\n", "ok");
  {
    g_autofree char *late = receive_frame (reader);

    g_assert_cmpstr (late, ==, "6A88");
  }
  assert_order (reader, "freeze\n", "ok");
  send_frame (reader, "04");
  assert_silent (reader);
  assert_order (reader, "eject\n", "ok");
  assert_order (reader, "thaw\n", "ok");
  assert_order (reader, "insert\n", "ok");
  accept_card (reader);

  assert_order (reader, "corrupt-after 0\n", "ok");
  for (guint i = 0; i < 60; i++)
    {
      g_autofree char *answer = NULL;

      send_frame (reader, "00200081");
      answer = receive_frame (reader);
      g_assert_cmpstr (answer, !=, "6A88");
    }
  assert_order (reader, "corrupt-after never\n", "ok");
  assert_frame (reader, "00200081", "6A88");
}

/* What takes its time can be cut short by pulling the card. */
static void
test_delay (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  static const char *const options[] = { "--delay-ms=120", NULL };
  gint64 begin_usec;

  start_card (reader, options);
  assert_frame (reader, INITIALIZE, "9000");
  assert_frame (reader, CARD_TEST_LOGIN, "9000");
  begin_usec = g_get_monotonic_time ();
  assert_frame (reader, "804805B2", "9000");
  g_assert_cmpint (g_get_monotonic_time () - begin_usec, >=, 119 * G_TIME_SPAN_MILLISECOND);

  assert_order (reader, "delay 600000\n", "ok");
  send_frame (reader, "804806B2");
  assert_silent (reader);
  assert_order (reader, "eject\n", "ok");
  g_assert_null (receive_frame (reader));
  assert_order (reader, "insert\n", "ok");
  accept_card (reader);
  /* It was done nevertheless, as by a card that loses its power a moment too late. */
  assert_frame (reader, "80580000 000000", "CC00CC05CC069000");
}

/* What a frozen card has computed does not go out, or into the trace, until it is thawed; nor ever, when it is pulled out. */
static void
test_freeze_while_busy (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *path = get_path (reader, "trace");
  g_autofree char *option = g_strconcat ("--trace=", path, NULL);
  const char *const options[] = { option, "--delay-ms=400", NULL };
  g_autofree char *content = NULL;
  g_autofree char *answer = NULL;

  start_card (reader, options);
  assert_frame (reader, INITIALIZE, "9000");
  assert_frame (reader, CARD_TEST_LOGIN, "9000");
  send_frame (reader, "804805B2");
  assert_order (reader, "freeze\n", "ok");
  for (guint i = 0; i < 4; i++)
    assert_silent (reader);
  assert_order (reader, "thaw\n", "ok");
  answer = receive_frame (reader);
  g_assert_cmpstr (answer, ==, "9000");

  /* Thawed before it is ready, it answers in its time. */
  assert_order (reader, "delay 1000\n", "ok");
  send_frame (reader, "804806B2");
  assert_order (reader, "freeze\n", "ok");
  assert_order (reader, "thaw\n", "ok");
  assert_silent (reader);
  g_clear_pointer (&answer, g_free);
  answer = receive_frame (reader);
  g_assert_cmpstr (answer, ==, "9000");

  assert_order (reader, "delay 400\n", "ok");
  send_frame (reader, "804807B2");
  assert_order (reader, "freeze\n", "ok");
  for (guint i = 0; i < 4; i++)
    assert_silent (reader);
  assert_order (reader, "eject\n", "ok");
  assert_order (reader, "thaw\n", "ok");
  g_assert_true (g_file_get_contents (path, &content, NULL, NULL));
  g_assert_true (g_str_has_suffix (content, "> 804805B2\n# frozen\n# thawed\n< 9000\n"
                                            "> 804806B2\n# frozen\n# thawed\n< 9000\n"
                                            "> 804807B2\n# frozen\n# out\n# thawed\n"));
}

/* To thaw a card that is not frozen does nothing. */
static void
test_thaw_too_early (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  static const char *const options[] = { "--freeze-after=1", NULL };
  g_autofree char *answer = NULL;

  start_card (reader, options);
  assert_order (reader, "thaw\n", "ok");
  assert_frame (reader, "00200081", "6A88");
  assert_order (reader, "thaw\n", "ok");
  send_frame (reader, "00200081");
  assert_silent (reader);
  assert_order (reader, "thaw\n", "ok");
  answer = receive_frame (reader);
  g_assert_cmpstr (answer, ==, "6A88");
  assert_frame (reader, "00200081", "6A88");
}

static void
test_comes_back (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  start_card (reader, NULL);
  assert_frame (reader, INITIALIZE, "9000");
  assert_frame (reader, CARD_TEST_LOGIN, "9000");
  for (guint i = 0; i < 3; i++)
    {
      g_socket_close (reader->card, NULL);
      accept_card (reader);
      assert_frame (reader, "04", "3BDE18FF8191FE1FC38031815448534D317380214081071C");
    }
}

static void
test_trace (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *path = get_path (reader, "trace");
  g_autofree char *option = g_strconcat ("--trace=", path, NULL);
  const char *const options[]
      = { option, "--version=3.1", "--atr=3B8E80018031815448534D3173802140810718", NULL };
  g_autofree char *challenge = NULL;
  g_autofree char *content = NULL;

  start_card (reader, options);
  assert_frame (reader, "04", "3B8E80018031815448534D3173802140810718");
  assert_frame (reader, "00A404000BE82B0601040181C31F020100",
                "6F0A82017885050000030301"
                "9000");
  assert_frame (reader, INITIALIZE, "9000");
  assert_frame (reader, CARD_TEST_LOGIN, "9000");
  send_frame (reader, "02");
  assert_frame (reader, "00200081", "63C3");
  send_frame (reader, "0084000004");
  challenge = receive_frame (reader);
  g_assert_cmpuint (strlen (challenge), ==, 12);
  assert_order (reader, "freeze\n", "ok");
  assert_order (reader, "freeze\n", "ok");
  assert_order (reader, "thaw\n", "ok");
  assert_order (reader, "thaw\n", "ok");
  g_assert_true (g_file_get_contents (path, &content, NULL, NULL));
  g_assert_cmpstr (content, ==,
                   "> 00A404000BE82B0601040181C31F020100\n< 6F0A820178850500000303019000\n"
                   "> 8050000019800200018106************8208****************910103\n< 9000\n"
                   "> 0020008106************\n< 9000\n# reset\n> 00200081\n< 63C3\n"
                   "> 0084000004\n< ********9000\n# frozen\n# thawed\n");
  g_assert_null (strstr (content, CARD_TEST_PIN_HEX));
}

/* Runs the program to its end; returns what it says on standard error. */
static char *
run_to_end (Reader *reader, const char *const *options, int wanted_status)
{
  g_autoptr (GSubprocess) process = spawn (reader, options, G_SUBPROCESS_FLAGS_STDERR_PIPE);
  g_autoptr (GError) error = NULL;
  char *text = NULL;

  g_subprocess_communicate_utf8 (process, NULL, NULL, NULL, &text, &error);
  g_assert_no_error (error);
  g_assert_true (g_subprocess_get_if_exited (process));
  g_assert_cmpint (g_subprocess_get_exit_status (process), ==, wanted_status);
  return text;
}

static void
assert_refused (Reader *reader, const char *option, int status, const char *wanted)
{
  const char *const options[] = { option, NULL };
  g_autofree char *text = run_to_end (reader, options, status);
  g_autofree char *whole = g_strdup_printf ("keyward-virtual-card: %s\n", wanted);

  g_assert_cmpstr (text, ==, whole);
  g_assert_false (g_file_test (reader->state_path, G_FILE_TEST_EXISTS));
}

static void
test_bad_options (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  assert_refused (reader, "--port=0", 2,
                  "--port is needed: 1 to 65535, the port of a reader of vpcd");
  assert_refused (reader, "--host=localhost", 2, "--host takes a numeric address");
  assert_refused (
      reader, "--serial=x", 2,
      "--serial takes two capital letters, then capital letters and digits, 3 to 11 in all");
  assert_refused (reader, "--version=3", 2, "--version takes two numbers up to 255, as in 3.5");
  assert_refused (reader, "--version=3.256", 2, "--version takes two numbers up to 255, as in 3.5");
  assert_refused (reader, "--memory=-1", 2, "--memory takes a number of bytes, 8 MiB at most");
  assert_refused (reader, "--memory=8388609", 2, "--memory takes a number of bytes, 8 MiB at most");
  assert_refused (
      reader, "--seed=1", 2,
      "--seed makes keys that anybody can guess: it goes with --insecure-test-rng, and that with it");
  assert_refused (
      reader, "--insecure-test-rng", 2,
      "--seed makes keys that anybody can guess: it goes with --insecure-test-rng, and that with it");
  assert_refused (reader, "--atr=3B8", 2,
                  "--atr takes 4k, 4k-fast, hsm1, contactless, or 2 to 33 bytes in hexadecimal");
  assert_refused (reader, "--atr=3BXX", 2,
                  "--atr takes 4k, 4k-fast, hsm1, contactless, or 2 to 33 bytes in hexadecimal");
  assert_refused (reader, "--fault=ins=68", 1,
                  "a fault needs ins= and sw=, as in ins=68,sw=6F00,count=1");
  assert_refused (reader, "--delay-ms=x", 1,
                  "'x' is no delay: milliseconds up to 600000, or 'realistic'");
  assert_refused (reader, "--drop-after=-5", 1,
                  "'-5' is no number of commands: 0 and up, or 'never'");
  assert_refused (reader, "surplus", 2, "there are no arguments beside options");
  assert_refused (reader, "--what", 2, "Unknown option --what");
  assert_refused (reader, "--trace=/nonexistent/trace", 1,
                  "cannot write /nonexistent/trace: No such file or directory");
  assert_refused (reader, "--rsa-pool=/nonexistent", 1,
                  "cannot read the folder /nonexistent: No such file or directory");
  {
    const char *const both[] = { "--realistic", "--delay-ms=5", NULL };
    g_autofree char *text = run_to_end (reader, both, 2);
    const char *const seeded[] = { "--seed=x", "--insecure-test-rng", NULL };
    g_autofree char *seed_text = run_to_end (reader, seeded, 2);

    g_assert_cmpstr (text, ==,
                     "keyward-virtual-card: --realistic and --delay-ms exclude each other\n");
    g_assert_cmpstr (seed_text, ==, "keyward-virtual-card: --seed takes a number\n");
  }
}

static void
test_damaged_state (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  static const char *const other_serial[] = { "--serial=VTOTHER", NULL };
  g_autofree char *content = NULL;
  g_autofree char *after = NULL;
  g_autofree char *text = NULL;
  g_autofree char *wanted = NULL;
  gsize size, after_size;

  start_card (reader, NULL);
  assert_frame (reader, INITIALIZE, "9000");
  kill_card (reader);
  g_assert_true (g_file_get_contents (reader->state_path, &content, &size, NULL));
  text = run_to_end (reader, other_serial, 1);
  g_assert_nonnull (strstr (text, ", not of VTOTHER"));

  content[size / 2] ^= 4;
  g_assert_true (g_file_set_contents (reader->state_path, content, (gssize) size, NULL));
  g_clear_pointer (&text, g_free);
  text = run_to_end (reader, NULL, 1);
  wanted = g_strdup_printf (
      "keyward-virtual-card: %s: the state is damaged: its checksum does not fit\n",
      reader->state_path);
  g_assert_cmpstr (text, ==, wanted);
  g_assert_true (g_file_get_contents (reader->state_path, &after, &after_size, NULL));
  g_assert_cmpmem (content, size, after, after_size);
}

static void
test_state_in_use (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *text = NULL;
  g_autofree char *wanted = NULL;

  start_card (reader, NULL);
  assert_frame (reader, INITIALIZE, "9000");
  text = run_to_end (reader, NULL, 1);
  wanted = g_strdup_printf ("keyward-virtual-card: %s is the state of a card that runs already\n",
                            reader->state_path);
  g_assert_cmpstr (text, ==, wanted);
  assert_frame (reader, "00200081", "63C3");
}

/* Nor by another name of it: a link to the file, a path through a link to its folder, or a hard link. */
static void
test_state_by_other_names (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *state = g_steal_pointer (&reader->state_path);
  g_autofree char *link_to_file = get_path (reader, "link");
  g_autofree char *folder = get_path (reader, "folder");
  g_autofree char *through_folder = g_build_filename (folder, "state", NULL);
  g_autofree char *second_name = get_path (reader, "second-name");
  g_autofree char *nowhere = get_path (reader, "nowhere");
  const struct
  {
    const char *path;
    const char *wanted;
  } refused[] = { { link_to_file, " is the state of a card that runs already" },
                  { through_folder, " is the state of a card that runs already" },
                  { nowhere, "cannot find " } };

  g_assert_cmpint (symlink (reader->directory, folder), ==, 0);
  g_assert_cmpint (symlink (state, link_to_file), ==, 0);
  g_assert_cmpint (symlink ("/nonexistent/state", nowhere), ==, 0);
  reader->state_path = g_strdup (through_folder);
  start_card (reader, NULL);
  assert_frame (reader, INITIALIZE, "9000");
  g_free (reader->state_path);
  reader->state_path = g_strdup (state);
  {
    g_autofree char *text = run_to_end (reader, NULL, 1);

    g_assert_nonnull (strstr (text, " is the state of a card that runs already"));
  }
  for (guint i = 0; i < G_N_ELEMENTS (refused); i++)
    {
      g_autofree char *text = NULL;

      g_free (reader->state_path);
      reader->state_path = g_strdup (refused[i].path);
      text = run_to_end (reader, NULL, 1);
      g_assert_nonnull (strstr (text, refused[i].wanted));
    }

  /* By a link it can be used, and stays where it is. */
  kill_card (reader);
  g_free (reader->state_path);
  reader->state_path = g_strdup (link_to_file);
  start_card (reader, NULL);
  assert_frame (reader, WRONG_PIN, "63C2");
  kill_card (reader);
  g_assert_true (g_file_test (link_to_file, G_FILE_TEST_IS_SYMLINK));
  g_free (reader->state_path);
  reader->state_path = g_strdup (state);
  start_card (reader, NULL);
  assert_frame (reader, "00200081", "63C2");
  kill_card (reader);

  g_assert_cmpint (link (state, second_name), ==, 0);
  {
    g_autofree char *text = run_to_end (reader, NULL, 1);

    g_assert_nonnull (strstr (text, " has 2 names (hard links)"));
  }
}

/* Where its state cannot be kept the card gives no answer, so that nobody counts on it. */
static void
test_state_not_written (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *in_the_way = g_strconcat (reader->state_path, ".new", NULL);
  g_autofree char *text = NULL;
  g_autofree char *wanted = NULL;

  reader->process = spawn (reader, NULL, G_SUBPROCESS_FLAGS_STDERR_PIPE);
  accept_card (reader);
  assert_frame (reader, INITIALIZE, "9000");
  g_assert_cmpint (g_mkdir (in_the_way, 0700), ==, 0);
  send_frame (reader, WRONG_PIN);
  g_assert_null (receive_frame (reader));
  g_subprocess_communicate_utf8 (reader->process, NULL, NULL, NULL, &text, NULL);
  wanted = g_strdup_printf (
      "keyward-virtual-card: cannot write %s: Is a directory; the card ends here, with the "
      "state it had before\n",
      in_the_way);
  g_assert_cmpstr (text, ==, wanted);
  g_assert_cmpint (g_subprocess_get_exit_status (reader->process), ==, 1);
  kill_card (reader);
  g_assert_cmpint (g_rmdir (in_the_way), ==, 0);
  start_card (reader, NULL);
  assert_frame (reader, "00200081", "63C3");
}

static void
test_state_elsewhere (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  g_free (reader->state_path);
  reader->state_path = g_strdup ("/nonexistent/state");
  {
    g_autofree char *text = run_to_end (reader, NULL, 1);

    g_assert_cmpstr (
        text, ==,
        "keyward-virtual-card: cannot open the folder /nonexistent: No such file or directory\n");
  }
  g_free (reader->state_path);
  reader->state_path = g_strdup (reader->directory);
  {
    g_autofree char *text = run_to_end (reader, NULL, 1);

    g_assert_nonnull (strstr (text, " is no regular file"));
  }
}

static void
test_control_in_use (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *text = NULL;
  g_autofree char *first = g_steal_pointer (&reader->control_path);

  /* One that was left behind by a program that was killed is taken over. */
  reader->control_path = g_strdup (first);
  start_card (reader, NULL);
  assert_frame (reader, "00200081", "6A88");
  kill_card (reader);
  g_assert_true (g_file_test (first, G_FILE_TEST_EXISTS));
  start_card (reader, NULL);
  assert_frame (reader, "00200081", "6A88");
  assert_order (reader, "eject\n", "ok");

  g_free (reader->state_path);
  reader->state_path = get_path (reader, "other-state");
  text = run_to_end (reader, NULL, 1);
  g_assert_nonnull (strstr (text, "cannot listen on "));
  g_clear_pointer (&text, g_free);
  g_free (reader->control_path);
  reader->control_path = g_strnfill (200, 'x');
  text = run_to_end (reader, NULL, 1);
  g_assert_nonnull (strstr (text, "is too long for the path of a socket"));
  g_free (reader->control_path);
  reader->control_path = g_strdup (first);
}

static void
write_key (const char *path, int bits)
{
  EVP_PKEY *key = EVP_RSA_gen ((unsigned int) bits);
  FILE *file = fopen (path, "w");

  g_assert_nonnull (file);
  g_assert_true (PEM_write_PrivateKey (file, key, NULL, NULL, 0, NULL, NULL));
  fclose (file);
  EVP_PKEY_free (key);
}

static void
test_rsa_pool (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  g_autofree char *key = get_path (reader, "rsa-1024-a.pem");
  g_autofree char *wrong_size = get_path (reader, "rsa-1024-b.pem");
  g_autofree char *no_key = get_path (reader, "rsa-1024-c.pem");
  g_autofree char *wrong_size_bad = g_strconcat (wrong_size, ".bad", NULL);
  g_autofree char *no_key_bad = g_strconcat (no_key, ".bad", NULL);
  g_autofree char *other = get_path (reader, "rsa-2048-a.pem");
  g_autofree char *option = g_strconcat ("--rsa-pool=", reader->directory, NULL);
  const char *const options[] = { option, NULL };
  static const char generate[]
      = "0046%02X0000 0037 5F290100 4209555443413030303031 7F4915060A04007F00070202020102"
        "8203010001 02020400 5F200D56545445535430313030303031 0000";

  write_key (key, 1024);
  write_key (wrong_size, 2048);
  write_key (other, 2048);
  g_assert_true (g_file_set_contents (no_key, "nothing", -1, NULL));
  reader->process = spawn (reader, options, G_SUBPROCESS_FLAGS_STDERR_SILENCE);
  accept_card (reader);
  assert_frame (reader, INITIALIZE, "9000");
  assert_frame (reader, CARD_TEST_LOGIN, "9000");
  for (guint i = 1; i <= 2; i++)
    {
      g_autofree char *command = g_strdup_printf (generate, i);
      g_autofree char *answer = NULL;

      send_frame (reader, command);
      answer = receive_frame (reader);
      g_assert_true (g_str_has_prefix (answer, "67"));
      g_assert_true (g_str_has_suffix (answer, "9000"));
    }
  g_assert_false (g_file_test (key, G_FILE_TEST_EXISTS));
  g_assert_false (g_file_test (wrong_size, G_FILE_TEST_EXISTS));
  g_assert_false (g_file_test (no_key, G_FILE_TEST_EXISTS));
  g_assert_true (g_file_test (wrong_size_bad, G_FILE_TEST_EXISTS));
  g_assert_true (g_file_test (no_key_bad, G_FILE_TEST_EXISTS));
  g_assert_true (g_file_test (other, G_FILE_TEST_EXISTS));
}

static void
test_ejected_and_terminated (Reader *reader, G_GNUC_UNUSED gconstpointer data)
{
  static const char *const options[] = { "--ejected", "--no-implicit-select", NULL };
  g_autofree char *status = NULL;

  reader->process = spawn (reader, options, G_SUBPROCESS_FLAGS_NONE);
  for (guint i = 0; i < 1000 && !g_file_test (reader->control_path, G_FILE_TEST_EXISTS); i++)
    g_usleep (10000);
  status = order (reader, "status\n");
  g_assert_nonnull (strstr (status, " inserted=no connected=no "));
  assert_order (reader, "insert\n", "ok");
  accept_card (reader);
  assert_frame (reader, "00200081", "6D00");
  g_subprocess_send_signal (reader->process, SIGTERM);
  g_assert_true (g_subprocess_wait_check (reader->process, NULL, NULL));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, func)                                                                            \
  g_test_add ("/card-program/" name, Reader, NULL, reader_set_up, func, reader_tear_down)
  ADD ("frames", test_frames);
  ADD ("killed", test_killed);
  ADD ("killed-at-any-moment", test_killed_at_any_moment);
  ADD ("kept", test_kept);
  ADD ("control", test_control);
  ADD ("faults", test_faults);
  ADD ("delay", test_delay);
  ADD ("freeze-while-busy", test_freeze_while_busy);
  ADD ("thaw-too-early", test_thaw_too_early);
  ADD ("comes-back", test_comes_back);
  ADD ("trace", test_trace);
  ADD ("bad-options", test_bad_options);
  ADD ("damaged-state", test_damaged_state);
  ADD ("state-in-use", test_state_in_use);
  ADD ("state-by-other-names", test_state_by_other_names);
  ADD ("state-not-written", test_state_not_written);
  ADD ("state-elsewhere", test_state_elsewhere);
  ADD ("control-in-use", test_control_in_use);
  ADD ("rsa-pool", test_rsa_pool);
  ADD ("ejected-and-terminated", test_ejected_and_terminated);
  return g_test_run ();
}
