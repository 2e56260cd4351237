/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-faults.h"
#include "card-fixture.h"
#include "card-trace.h"

#include <glib/gstdio.h>
#include <string.h>

static const guint8 sign_2048[] = { 0x80, 0x68, 0x01, 0x20 };
static const guint8 cipher[] = { 0x80, 0x78, 0x01, 0x10 };

/* 0 when there is no rule. */
static guint
match (CardFaults *faults, const guint8 *apdu)
{
  guint16 status;

  return card_faults_match (faults, apdu, 4, &status) ? status : 0;
}

static void
test_rules (void)
{
  g_autoptr (CardFaults) faults = card_faults_new ();
  g_autoptr (GError) error = NULL;
  guint16 status;

  g_assert_cmphex (match (faults, sign_2048), ==, 0);
  g_assert_true (card_faults_add_rule (faults, "ins=68,sw=6F00", &error));
  g_assert_cmphex (match (faults, cipher), ==, 0);
  g_assert_cmphex (match (faults, sign_2048), ==, 0x6F00);
  g_assert_cmphex (match (faults, sign_2048), ==, 0);

  g_assert_true (card_faults_add_rule (faults, "sw=6400,ins=78,skip=1,count=2", &error));
  g_assert_cmphex (match (faults, cipher), ==, 0);
  g_assert_cmphex (match (faults, cipher), ==, 0x6400);
  g_assert_cmphex (match (faults, cipher), ==, 0x6400);
  g_assert_cmphex (match (faults, cipher), ==, 0);

  g_assert_true (card_faults_add_rule (faults, "ins=68,sw=6982,count=0", &error));
  for (guint i = 0; i < 10; i++)
    g_assert_cmphex (match (faults, sign_2048), ==, 0x6982);
  card_faults_clear_rules (faults);
  g_assert_cmphex (match (faults, sign_2048), ==, 0);
  g_assert_cmpuint (faults->n_applied, ==, 13);
  g_assert_false (card_faults_match (faults, sign_2048, 1, &status));
}

static void
test_bad_rules (void)
{
  static const char *const bad[] = { "",
                                     "ins=68",
                                     "sw=6F00",
                                     "ins=168,sw=6F00",
                                     "ins=68,sw=16F00",
                                     "ins=68,sw=xyz",
                                     "ins=68,sw=0",
                                     "ins=68,sw=5FFF",
                                     "ins=68,sw=7000",
                                     "ins=68,sw=8FFF",
                                     "ins=68,sw=A000",
                                     "ins=68;sw=6F00",
                                     "ins=68,sw=6F00,count=-1",
                                     "ins=68,sw=6F00,count=many",
                                     "ins=68,sw=6F00,skip=",
                                     "ins=68,sw=6F00,often=1",
                                     "ins,sw" };
  g_autoptr (CardFaults) faults = card_faults_new ();

  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_false (card_faults_add_rule (faults, bad[i], &error));
      g_assert_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT);
      g_assert_nonnull (strstr (error->message, "ins=68,sw=6F00,count=1"));
    }
  g_assert_cmpuint (faults->rules->len, ==, 0);
  for (guint i = 0; i < CARD_MAX_FAULTS; i++)
    g_assert_true (card_faults_add_rule (faults, "ins=68,sw=6F00", NULL));
  g_assert_false (card_faults_add_rule (faults, "ins=68,sw=6F00", NULL));
}

static void
test_delays (void)
{
  static const struct
  {
    guint8 apdu[4];
    gsize response_size;
    guint realistic_ms;
    gboolean is_crypto;
  } commands[] = {
    { { 0x80, 0x68, 1, 0x20 }, 256, 300, TRUE },  { { 0x80, 0x62, 1, 0x21 }, 256, 300, TRUE },
    { { 0x80, 0x68, 1, 0x33 }, 512, 2400, TRUE }, { { 0x80, 0x78, 1, 0x10 }, 32, 50, TRUE },
    { { 0x80, 0x68, 1, 0x70 }, 70, 100, TRUE },   { { 0x80, 0x62, 1, 0x80 }, 65, 100, TRUE },
    { { 0x80, 0x72, 1, 0x92 }, 89, 100, TRUE },   { { 0x00, 0x46, 1, 0x00 }, 670, 3000, TRUE },
    { { 0x00, 0x84, 0, 0x00 }, 8, 0, FALSE },     { { 0x00, 0xA4, 4, 0x00 }, 12, 0, FALSE },
  };
  g_autoptr (CardFaults) faults = card_faults_new ();
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
    {
      const guint8 *apdu = commands[i].apdu;
      g_autofree guint8 *bytes = g_malloc0 (commands[i].response_size + CARD_STATUS_SIZE);
      g_autoptr (GBytes) answer = NULL;

      bytes[commands[i].response_size] = 0x90;
      answer = g_bytes_new (bytes, commands[i].response_size + CARD_STATUS_SIZE);

      g_assert_true (card_faults_set_delay (faults, "realistic", &error));
      g_assert_cmpuint (card_faults_get_delay_ms (faults, apdu, 4, answer), ==,
                        commands[i].realistic_ms);
      g_assert_true (card_faults_set_delay (faults, "70", &error));
      g_assert_cmpuint (card_faults_get_delay_ms (faults, apdu, 4, answer), ==,
                        commands[i].is_crypto ? 70 : 0);
      g_assert_true (card_faults_set_delay (faults, "0", &error));
      g_assert_cmpuint (card_faults_get_delay_ms (faults, apdu, 4, answer), ==, 0);
    }
  g_assert_false (card_faults_set_delay (faults, "600001", &error));
  g_assert_cmpstr (error->message, ==,
                   "'600001' is no delay: milliseconds up to 600000, or 'realistic'");
  g_assert_false (card_faults_set_delay (faults, "", NULL));
  g_assert_false (card_faults_set_delay (faults, "-1", NULL));
}

/* What is refused takes no time; an EC pair takes less than one of RSA. */
static void
test_delays_by_what_is_done (void)
{
  g_autoptr (CardFaults) faults = card_faults_new ();
  g_autoptr (GBytes) done = card_test_parse_hex ("9000");
  g_autoptr (GBytes) refused = card_test_parse_hex ("6A80");
  g_autoptr (GBytes) make_ec = card_test_make_ec_command (1, "prime256v1");
  g_autoptr (GBytes) make_rsa
      = card_test_parse_hex ("00460100 000019 7F4915060A04007F000702020201028203010001 02020400");
  gsize ec_size, rsa_size;
  const guint8 *ec = g_bytes_get_data (make_ec, &ec_size);
  const guint8 *rsa = g_bytes_get_data (make_rsa, &rsa_size);

  g_assert_true (card_faults_set_delay (faults, "realistic", NULL));
  g_assert_cmpuint (card_faults_get_delay_ms (faults, ec, ec_size, done), ==, 300);
  g_assert_cmpuint (card_faults_get_delay_ms (faults, rsa, rsa_size, done), ==, 3000);
  g_assert_cmpuint (card_faults_get_delay_ms (faults, rsa, rsa_size, refused), ==, 0);
  g_assert_true (card_faults_set_delay (faults, "70", NULL));
  g_assert_cmpuint (card_faults_get_delay_ms (faults, rsa, rsa_size, done), ==, 70);
  g_assert_cmpuint (card_faults_get_delay_ms (faults, rsa, rsa_size, refused), ==, 0);
}

static void
test_count_down (void)
{
  gint64 commands = 2;

  g_assert_false (card_faults_count_down (&commands));
  g_assert_false (card_faults_count_down (&commands));
  g_assert_true (card_faults_count_down (&commands));
  g_assert_true (card_faults_count_down (&commands));
  commands = CARD_NEVER;
  g_assert_false (card_faults_count_down (&commands));
  g_assert_cmpint (commands, ==, CARD_NEVER);
}

/* Garbage is never the sound answer, and the same from the same seed. */
static void
test_corrupt (void)
{
  static const char *const answers[] = { "9000", "0102030405060708090A0B0C0D0E0F109000" };
  g_autoptr (CardFaults) seeded = card_faults_new ();
  g_autoptr (CardFaults) same = card_faults_new ();
  g_autoptr (CardFaults) other = card_faults_new ();
  guint n_other = 0;

  card_faults_seed (seeded, 7);
  card_faults_seed (same, 7);
  for (guint i = 0; i < G_N_ELEMENTS (answers); i++)
    {
      g_autoptr (GBytes) sound = card_test_parse_hex (answers[i]);

      for (guint j = 0; j < 300; j++)
        {
          g_autoptr (GBytes) corrupt = card_faults_corrupt (seeded, sound);
          g_autoptr (GBytes) again = card_faults_corrupt (same, sound);
          g_autoptr (GBytes) unlike = card_faults_corrupt (other, sound);

          g_assert_cmpuint (g_bytes_get_size (corrupt), >=, CARD_STATUS_SIZE);
          g_assert_false (g_bytes_equal (sound, corrupt));
          g_assert_false (g_bytes_equal (sound, unlike));
          g_assert_true (g_bytes_equal (again, corrupt));
          n_other += !g_bytes_equal (unlike, corrupt);
        }
    }
  g_assert_cmpuint (n_other, >, 100);
}

static void
assert_traced (const char *command, const char *wanted)
{
  g_autoptr (GBytes) bytes = card_test_parse_hex (command);
  g_autofree char *text
      = card_trace_format_command (g_bytes_get_data (bytes, NULL), g_bytes_get_size (bytes));

  g_assert_cmpstr (text, ==, wanted);
}

static void
test_trace_masks (void)
{
  assert_traced ("80580000000000", "80580000000000");
  assert_traced ("00200081", "00200081");
  assert_traced ("0020008106363438323139", "0020008106************");
  assert_traced ("0020008106363438323139 00", "0020008106************00");
  assert_traced ("00240081 04 36343832", "0024008104********");
  assert_traced ("002C0081 000002 3634", "002C0081000002****");
  assert_traced ("8050000019 80020001 8106363438323139 82083537363231383830 910103",
                 "805000001980020001"
                 "8106************"
                 "8208****************"
                 "910103");
  /* There, only what is known to be no secret is shown. */
  assert_traced ("805000000E 93020101 970101 95020102 9801FF", "805000000E93020101"
                                                               "970101"
                                                               "9502****"
                                                               "9801**");
  assert_traced ("8052000000", "8052000000");
  assert_traced ("8052000002 ABCD 00", "8052000002****00");
  /* What cannot be taken apart is masked from where secrets may begin. */
  assert_traced ("00200081063634", "00200081******");
  assert_traced ("8050000004 8106 3634", "8050000004********");
  assert_traced ("00", "00");
  assert_traced ("0020", "0020");
}

static void
test_trace_file (void)
{
  g_autofree char *directory = g_dir_make_tmp ("keyward-trace-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (directory, "trace", NULL);
  g_autofree char *missing = g_build_filename (directory, "no", "trace", NULL);
  g_autofree char *content = NULL;
  g_autofree char *wanted = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (CardTrace) trace = card_trace_new (path, &error);
  g_autoptr (GBytes) answer = card_test_parse_hex ("0102 9000");
  g_autoptr (GBytes) refusal = card_test_parse_hex ("6700");
  static const guint8 challenge[] = { 0x00, 0x84, 0x00, 0x00, 0x02 };

  g_assert_no_error (error);
  card_trace_command (trace, sign_2048, sizeof sign_2048);
  card_trace_answer (trace, answer);
  card_trace_event (trace, "reset");
  card_trace_command (trace, challenge, sizeof challenge);
  card_trace_answer (trace, answer);
  card_trace_command (trace, challenge, sizeof challenge);
  card_trace_answer (trace, refusal);
  card_trace_command (trace, sign_2048, sizeof sign_2048);
  card_trace_answer (trace, answer);
  g_assert_true (g_file_get_contents (path, &content, NULL, NULL));
  g_assert_cmpstr (content, ==,
                   "> 80680120\n< 01029000\n# reset\n"
                   "> 0084000002\n< ****9000\n> 0084000002\n< 6700\n> 80680120\n< 01029000\n");

  g_assert_null (card_trace_new (missing, &error));
  wanted = g_strdup_printf ("cannot write %s: No such file or directory", missing);
  g_assert_cmpstr (error->message, ==, wanted);
  g_unlink (path);
  g_rmdir (directory);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/card-faults/rules", test_rules);
  g_test_add_func ("/card-faults/bad-rules", test_bad_rules);
  g_test_add_func ("/card-faults/delays", test_delays);
  g_test_add_func ("/card-faults/delays-by-what-is-done", test_delays_by_what_is_done);
  g_test_add_func ("/card-faults/count-down", test_count_down);
  g_test_add_func ("/card-faults/corrupt", test_corrupt);
  g_test_add_func ("/card-trace/masks", test_trace_masks);
  g_test_add_func ("/card-trace/file", test_trace_file);
  return g_test_run ();
}
