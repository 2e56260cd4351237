/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* keyward-virtual-card: plays a SmartCard-HSM in a reader of vpcd. */

#include "card-control.h"
#include "card-faults.h"
#include "card-link.h"
#include "card-pool.h"
#include "card-store.h"
#include "card-trace.h"
#include "card.h"

#include <glib-unix.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define DEFAULT_HOST "127.0.0.1"
#define DEFAULT_VERSION "3.5"

#define MAX_ATR 33 /* bytes (ISO/IEC 7816-3, 8.2.1) */

/* Control bytes of vpcd. */
#define CONTROL_POWER_OFF 0
#define CONTROL_POWER_ON 1
#define CONTROL_RESET 2
#define CONTROL_ATR 4

#define EXIT_USAGE 2

static const struct
{
  const char *name;
  const char *hex;
} known_atrs[] = {
  { "4k", "3BDE18FF8191FE1FC38031815448534D317380214081071C" },
  { "4k-fast", "3BDE96FF8191FE1FC38031815448534D3173802140810792" },
  { "hsm1", "3BFE1800008131FE458031815448534D31738021408107FA" },
  { "contactless", "3B8E80018031815448534D3173802140810718" },
};

typedef struct
{
  GMainLoop *loop;
  Card *card;
  CardStore *store;
  CardTrace *trace;
  CardFaults *faults;
  CardLink *link;
  GBytes *atr;
  int exit_status;

  guint64 n_apdus;
  gboolean frozen;
  GBytes *held_frame; /* that came while it was frozen */
  GBytes *late_answer;
  guint late_id;
} Program;

static void
trace_event (Program *program, const char *text)
{
  if (program->trace)
    card_trace_event (program->trace, text);
}

static void
eject (Program *program)
{
  g_clear_handle_id (&program->late_id, g_source_remove);
  g_clear_pointer (&program->late_answer, g_bytes_unref);
  g_clear_pointer (&program->held_frame, g_bytes_unref);
  card_link_eject (program->link);
  card_reset (program->card);
  trace_event (program, "out");
}

/* The trace has an answer when it goes out, and so none that was lost with the card. */
static void
send_answer (Program *program, GBytes *answer)
{
  if (program->trace)
    card_trace_answer (program->trace, answer);
  card_link_send (program->link, answer);
}

static void
send_late_answer (Program *program)
{
  g_autoptr (GBytes) answer = g_steal_pointer (&program->late_answer);

  send_answer (program, answer);
}

/* A frozen card keeps its answer until it is thawed. */
static gboolean
on_late (gpointer user_data)
{
  Program *program = user_data;

  program->late_id = 0;
  if (!program->frozen)
    send_late_answer (program);
  return G_SOURCE_REMOVE;
}

/* What the card keeps is on the disk before its answer goes out. Without that there is no card any more. */
static gboolean
save (Program *program)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) state = NULL;

  if (!card_take_change (program->card) || !program->store)
    return TRUE;
  state = card_dup_state (program->card);
  if (card_store_save (program->store, state, &error))
    return TRUE;
  g_printerr ("%s: %s; the card ends here, with the state it had before\n", g_get_prgname (),
              error->message);
  program->exit_status = EXIT_FAILURE;
  g_main_loop_quit (program->loop);
  return FALSE;
}

static GBytes *
new_status (guint16 status)
{
  const guint8 bytes[] = { (guint8) (status >> 8), (guint8) status };

  return g_bytes_new (bytes, sizeof bytes);
}

static void
run_command (Program *program, const guint8 *apdu, gsize size)
{
  CardFaults *faults = program->faults;
  gint64 begin_usec = g_get_monotonic_time ();
  guint16 status;
  guint delay_ms, spent_ms;
  g_autoptr (GBytes) answer = NULL;

  program->n_apdus++;
  if (program->trace)
    card_trace_command (program->trace, apdu, size);
  if (card_faults_count_down (&faults->drop_after))
    {
      faults->drop_after = CARD_NEVER;
      eject (program);
      return;
    }

  answer = card_faults_match (faults, apdu, size, &status)
               ? new_status (status)
               : card_process (program->card, apdu, size);
  if (!save (program))
    return;
  delay_ms = card_faults_get_delay_ms (faults, apdu, size, answer);

  if (card_faults_count_down (&faults->corrupt_after))
    {
      g_autoptr (GBytes) sound = g_steal_pointer (&answer);

      answer = card_faults_corrupt (faults, sound);
    }

  spent_ms = (guint) ((g_get_monotonic_time () - begin_usec) / 1000);
  if (delay_ms <= spent_ms)
    {
      send_answer (program, answer);
      return;
    }
  program->late_answer = g_steal_pointer (&answer);
  program->late_id = g_timeout_add (delay_ms - spent_ms, on_late, program);
}

static void
run_frame (Program *program, const guint8 *frame, gsize size)
{
  if (size > 1)
    {
      run_command (program, frame, size);
      return;
    }
  switch (frame[0])
    {
    case CONTROL_ATR:
      card_link_send (program->link, program->atr);
      return;
    case CONTROL_POWER_OFF:
    case CONTROL_POWER_ON:
    case CONTROL_RESET:
      card_reset (program->card);
      trace_event (program, frame[0] == CONTROL_POWER_OFF  ? "power off"
                            : frame[0] == CONTROL_POWER_ON ? "power on"
                                                           : "reset");
      break;
    default:
      break;
    }
  card_link_skip (program->link);
}

static void
freeze (Program *program)
{
  if (program->frozen)
    return;
  program->frozen = TRUE;
  trace_event (program, "frozen");
}

static void
on_frame (G_GNUC_UNUSED CardLink *link, const guint8 *frame, gsize size, gpointer user_data)
{
  Program *program = user_data;

  if (size > 1 && !program->frozen && card_faults_count_down (&program->faults->freeze_after))
    {
      program->faults->freeze_after = CARD_NEVER;
      freeze (program);
    }
  if (program->frozen)
    program->held_frame = g_bytes_new (frame, size);
  else
    run_frame (program, frame, size);
}

static void
thaw (Program *program)
{
  g_autoptr (GBytes) frame = NULL;

  if (!program->frozen)
    return;
  program->frozen = FALSE;
  trace_event (program, "thawed");
  if (program->late_answer && program->late_id == 0)
    send_late_answer (program);
  frame = g_steal_pointer (&program->held_frame);
  if (frame)
    run_frame (program, g_bytes_get_data (frame, NULL), g_bytes_get_size (frame));
}

static gboolean
read_count (const char *text, gint64 *out_count, GError **error)
{
  if (g_str_equal (text, "never"))
    {
      *out_count = CARD_NEVER;
      return TRUE;
    }
  if (g_ascii_string_to_signed (text, 10, 0, G_MAXINT32, out_count, NULL))
    return TRUE;
  g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
               "'%s' is no number of commands: 0 and up, or 'never'", text);
  return FALSE;
}

static char *
format_status (const Program *program)
{
  return g_strdup_printf ("ok serial=%s inserted=%s connected=%s frozen=%s apdus=%" G_GUINT64_FORMAT
                          " faults=%" G_GUINT64_FORMAT " delay-ms=%u realistic=%s",
                          card_get_serial (program->card),
                          card_link_is_inserted (program->link) ? "yes" : "no",
                          card_link_is_connected (program->link) ? "yes" : "no",
                          program->frozen ? "yes" : "no", program->n_apdus,
                          program->faults->n_applied, program->faults->delay_ms,
                          program->faults->realistic ? "yes" : "no");
}

/* Orders with one word after them. */
static gboolean
run_order_with_value (Program *program, const char *name, const char *value, GError **error)
{
  CardFaults *faults = program->faults;

  if (g_str_equal (name, "fault") && g_str_equal (value, "clear"))
    {
      card_faults_clear_rules (faults);
      return TRUE;
    }
  if (g_str_equal (name, "fault"))
    return card_faults_add_rule (faults, value, error);
  if (g_str_equal (name, "delay"))
    return card_faults_set_delay (faults, value, error);
  if (g_str_equal (name, "drop-after"))
    return read_count (value, &faults->drop_after, error);
  if (g_str_equal (name, "freeze-after"))
    return read_count (value, &faults->freeze_after, error);
  if (g_str_equal (name, "corrupt-after"))
    return read_count (value, &faults->corrupt_after, error);

  g_set_error (
      error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
      "there is no order '%s'; there are status, eject, insert, freeze, thaw, quit, fault RULE, "
      "fault clear, delay MS, drop-after N, freeze-after N, corrupt-after N",
      name);
  return FALSE;
}

static gboolean
run_order (Program *program, const char *name, const char *value, GError **error)
{
  if (value)
    return run_order_with_value (program, name, value, error);

  if (g_str_equal (name, "eject"))
    eject (program);
  else if (g_str_equal (name, "insert"))
    card_link_insert (program->link);
  else if (g_str_equal (name, "freeze"))
    freeze (program);
  else if (g_str_equal (name, "thaw"))
    thaw (program);
  else if (g_str_equal (name, "quit"))
    g_main_loop_quit (program->loop);
  else
    return run_order_with_value (program, name, "", error);
  return TRUE;
}

static char *
on_order (const char *line, gpointer user_data)
{
  Program *program = user_data;
  g_autoptr (GError) error = NULL;
  g_auto (GStrv) words = g_strsplit (line, " ", 2);

  if (!words[0])
    return g_strdup ("error an empty line is no order");
  if (!words[1] && g_str_equal (words[0], "status"))
    return format_status (program);
  if (run_order (program, words[0], words[1], &error))
    return g_strdup ("ok");
  return g_strdup_printf ("error %s", error->message);
}

static gboolean
on_signal (gpointer user_data)
{
  Program *program = user_data;

  g_main_loop_quit (program->loop);
  return G_SOURCE_CONTINUE;
}

static GBytes *
parse_atr (const char *text)
{
  const char *hex = text;
  guint8 bytes[MAX_ATR];
  gsize size;

  for (guint i = 0; i < G_N_ELEMENTS (known_atrs); i++)
    {
      if (g_ascii_strcasecmp (known_atrs[i].name, text) == 0)
        hex = known_atrs[i].hex;
    }
  size = strlen (hex) / 2;
  if (strlen (hex) % 2 != 0 || size < 2 || size > sizeof bytes)
    return NULL;
  for (gsize i = 0; i < size; i++)
    {
      gint high = g_ascii_xdigit_value (hex[2 * i]);
      gint low = g_ascii_xdigit_value (hex[2 * i + 1]);

      if (high < 0 || low < 0)
        return NULL;
      bytes[i] = (guint8) (high << 4 | low);
    }
  return g_bytes_new (bytes, size);
}

static gboolean
parse_version (const char *text, CardOptions *options)
{
  g_auto (GStrv) parts = g_strsplit (text, ".", -1);
  guint64 major, minor;

  if (g_strv_length (parts) != 2
      || !g_ascii_string_to_unsigned (parts[0], 10, 0, G_MAXUINT8, &major, NULL)
      || !g_ascii_string_to_unsigned (parts[1], 10, 0, G_MAXUINT8, &minor, NULL))
    return FALSE;
  options->version_major = (guint8) major;
  options->version_minor = (guint8) minor;
  return TRUE;
}

static char *option_host = NULL;
static int option_port = 0;
static char *option_serial = NULL;
static char *option_state = NULL;
static char *option_atr = NULL;
static char *option_version = NULL;
static char *option_seed = NULL;
static gboolean option_insecure = FALSE;
static char *option_trace = NULL;
static char *option_rsa_pool = NULL;
static int option_memory = CARD_DEFAULT_MEMORY;
static char *option_delay = NULL;
static gboolean option_realistic = FALSE;
static char **option_faults = NULL;
static char *option_drop_after = NULL;
static char *option_freeze_after = NULL;
static char *option_corrupt_after = NULL;
static gboolean option_no_implicit_select = FALSE;
static gboolean option_ejected = FALSE;
static char *option_control = NULL;

static const GOptionEntry entries[] = {
  { "port", 0, 0, G_OPTION_ARG_INT, &option_port, "Port of the reader (needed)", "PORT" },
  { "host", 0, 0, G_OPTION_ARG_STRING, &option_host,
    "Numeric address of the reader (" DEFAULT_HOST ")", "ADDRESS" },
  { "serial", 0, 0, G_OPTION_ARG_STRING, &option_serial,
    "Serial number: two capital letters, then capital letters and digits, 11 in all at most",
    "SERIAL" },
  { "state", 0, 0, G_OPTION_ARG_FILENAME, &option_state,
    "Keep keys, PINs and counters in FILE (without it they end with the program)", "FILE" },
  { "atr", 0, 0, G_OPTION_ARG_STRING, &option_atr,
    "Answer to reset: 4k, 4k-fast, hsm1, contactless, or hexadecimal (4k)", "ATR" },
  { "version", 0, 0, G_OPTION_ARG_STRING, &option_version,
    "Version of the applet (" DEFAULT_VERSION ")", "M.m" },
  { "memory", 0, 0, G_OPTION_ARG_INT, &option_memory,
    "Memory for keys and files, in bytes, 8 MiB at most", "BYTES" },
  { "seed", 0, 0, G_OPTION_ARG_STRING, &option_seed,
    "Make challenges, EC and AES keys from a number, others after each start; RSA keys and the "
    "nonces of signatures are random all the same; needs --insecure-test-rng",
    "N" },
  { "insecure-test-rng", 0, 0, G_OPTION_ARG_NONE, &option_insecure,
    "Say that keys which anybody can guess are wanted", NULL },
  { "rsa-pool", 0, 0, G_OPTION_ARG_FILENAME, &option_rsa_pool,
    "Take RSA keys from DIR/rsa-BITS-*.pem as long as there are any; a file is removed when taken",
    "DIR" },
  { "trace", 0, 0, G_OPTION_ARG_FILENAME, &option_trace,
    "Log commands and answers to FILE, with PINs, shares and challenges masked", "FILE" },
  { "delay-ms", 0, 0, G_OPTION_ARG_STRING, &option_delay,
    "Let cryptographic commands take MS milliseconds at least", "MS" },
  { "realistic", 0, 0, G_OPTION_ARG_NONE, &option_realistic,
    "Let them take as long as on a real card: RSA-2048 300 ms, AES 50 ms", NULL },
  { "fault", 0, 0, G_OPTION_ARG_STRING_ARRAY, &option_faults,
    "Answer an instruction with a status word: ins=68,sw=6F00,count=1,skip=0 (several)", "RULE" },
  { "drop-after", 0, 0, G_OPTION_ARG_STRING, &option_drop_after, "Be pulled out after N commands",
    "N" },
  { "freeze-after", 0, 0, G_OPTION_ARG_STRING, &option_freeze_after,
    "Answer no more after N commands", "N" },
  { "corrupt-after", 0, 0, G_OPTION_ARG_STRING, &option_corrupt_after,
    "Answer with garbage after N commands", "N" },
  { "no-implicit-select", 0, 0, G_OPTION_ARG_NONE, &option_no_implicit_select,
    "After a reset, answer 6D00 until the applet is selected", NULL },
  { "ejected", 0, 0, G_OPTION_ARG_NONE, &option_ejected,
    "Start outside the reader (--control puts it in)", NULL },
  { "control", 0, 0, G_OPTION_ARG_FILENAME, &option_control, "Take orders on a UNIX socket",
    "PATH" },
  { NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL },
};

static gboolean
set_usage_error (GError **error, const char *text)
{
  g_set_error_literal (error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, text);
  return FALSE;
}

static gboolean
read_options (CardOptions *options, guint64 *seed, GError **error)
{
  g_autoptr (GInetAddress) host
      = g_inet_address_new_from_string (option_host ? option_host : DEFAULT_HOST);

  if (option_port < 1 || option_port > G_MAXUINT16)
    return set_usage_error (error, "--port is needed: 1 to 65535, the port of a reader of vpcd");
  if (!host)
    return set_usage_error (error, "--host takes a numeric address");
  if (option_serial && !card_serial_is_valid (option_serial))
    return set_usage_error (
        error,
        "--serial takes two capital letters, then capital letters and digits, 3 to 11 in all");
  if (!parse_version (option_version ? option_version : DEFAULT_VERSION, options))
    return set_usage_error (error, "--version takes two numbers up to 255, as in 3.5");
  if (option_memory < 0 || option_memory > CARD_MAX_MEMORY)
    return set_usage_error (error, "--memory takes a number of bytes, 8 MiB at most");
  if (!option_seed != !option_insecure)
    return set_usage_error (
        error, "--seed makes keys that anybody can guess: it goes with --insecure-test-rng, and "
               "that with it");
  if (option_seed && !g_ascii_string_to_unsigned (option_seed, 10, 0, G_MAXUINT64, seed, NULL))
    return set_usage_error (error, "--seed takes a number");

  options->serial = option_serial;
  options->memory = (gsize) option_memory;
  options->seed = option_seed ? seed : NULL;
  options->needs_select = option_no_implicit_select;
  if (option_rsa_pool)
    {
      options->rsa_source = card_pool_take;
      options->rsa_source_data = option_rsa_pool;
      if (!card_pool_check (option_rsa_pool, error))
        return FALSE;
    }
  return TRUE;
}

static gboolean
read_fault_options (CardFaults *faults, GError **error)
{
  if (option_realistic && option_delay)
    return set_usage_error (error, "--realistic and --delay-ms exclude each other");
  if (option_realistic || option_delay)
    {
      if (!card_faults_set_delay (faults, option_realistic ? "realistic" : option_delay, error))
        return FALSE;
    }
  for (guint i = 0; option_faults && option_faults[i]; i++)
    {
      if (!card_faults_add_rule (faults, option_faults[i], error))
        return FALSE;
    }
  return (!option_drop_after || read_count (option_drop_after, &faults->drop_after, error))
         && (!option_freeze_after || read_count (option_freeze_after, &faults->freeze_after, error))
         && (!option_corrupt_after
             || read_count (option_corrupt_after, &faults->corrupt_after, error));
}

/* The card of the state file, or a new one, written there at once. */
static gboolean
open_card (Program *program, const CardOptions *options, GError **error)
{
  g_autoptr (GBytes) state = NULL;

  if (option_state)
    {
      program->store = card_store_new (option_state, error);
      if (!program->store || !card_store_load (program->store, &state, error))
        return FALSE;
    }
  if (state)
    {
      program->card = card_new_from_state (options, state, error);
      if (!program->card)
        {
          g_prefix_error (error, "%s: ", option_state);
          return FALSE;
        }
    }
  else
    {
      program->card = card_new (options);
    }
  return save (program);
}

static gboolean
set_up (Program *program, int *argc, char ***argv, GError **error)
{
  g_autoptr (GOptionContext) context = g_option_context_new (NULL);
  CardOptions options = { 0 };
  guint64 seed;

  g_option_context_set_summary (
      context,
      "Plays a SmartCard-HSM in a reader of vpcd, for tests and demonstrations. Keys lie in the "
      "state file as they are: never give it anything that matters.");
  g_option_context_add_main_entries (context, entries, NULL);
  if (!g_option_context_parse (context, argc, argv, error))
    return FALSE;
  if (*argc > 1)
    return set_usage_error (error, "there are no arguments beside options");
  if (!read_options (&options, &seed, error) || !read_fault_options (program->faults, error))
    return FALSE;
  if (options.seed)
    card_faults_seed (program->faults, *options.seed);
  program->atr = parse_atr (option_atr ? option_atr : known_atrs[0].name);
  if (!program->atr)
    return set_usage_error (
        error, "--atr takes 4k, 4k-fast, hsm1, contactless, or 2 to 33 bytes in hexadecimal");
  if (option_trace && !(program->trace = card_trace_new (option_trace, error)))
    return FALSE;
  return open_card (program, &options, error);
}

int
main (int argc, char **argv)
{
  Program program = { .faults = card_faults_new () };
  g_autoptr (CardControl) control = NULL;
  g_autoptr (GError) error = NULL;

  g_set_prgname ("keyward-virtual-card");
  /* Keys of tests are not worth much, but core files have no use either. */
  setrlimit (RLIMIT_CORE, &(struct rlimit){ 0, 0 });
  program.loop = g_main_loop_new (NULL, FALSE);

  if (!set_up (&program, &argc, &argv, &error))
    {
      if (error)
        g_printerr ("%s: %s\n", g_get_prgname (), error->message);
      program.exit_status = error && error->domain == G_OPTION_ERROR ? EXIT_USAGE : EXIT_FAILURE;
    }
  else if (option_control
           && !(control = card_control_new (option_control, on_order, &program, &error)))
    {
      g_printerr ("%s: %s\n", g_get_prgname (), error->message);
      program.exit_status = EXIT_FAILURE;
    }
  else
    {
      g_unix_signal_add (SIGTERM, on_signal, &program);
      g_unix_signal_add (SIGINT, on_signal, &program);
      program.link = card_link_new (option_host ? option_host : DEFAULT_HOST, (guint16) option_port,
                                    on_frame, &program);
      if (!option_ejected)
        card_link_insert (program.link);
      g_main_loop_run (program.loop);
    }

  g_clear_handle_id (&program.late_id, g_source_remove);
  g_clear_pointer (&control, card_control_free);
  g_clear_pointer (&program.link, card_link_free);
  g_clear_pointer (&program.late_answer, g_bytes_unref);
  g_clear_pointer (&program.held_frame, g_bytes_unref);
  g_clear_pointer (&program.card, card_free);
  g_clear_pointer (&program.store, card_store_free);
  g_clear_pointer (&program.trace, card_trace_free);
  g_clear_pointer (&program.atr, g_bytes_unref);
  card_faults_free (program.faults);
  g_main_loop_unref (program.loop);
  return program.exit_status;
}
