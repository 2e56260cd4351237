/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "keyward-cards"

#include "kw-card-rig.h"

#include <errno.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/*
 * Virtual SmartCard-HSMs to try things on, until Ctrl-C or as long as a command runs. dev/cards builds and runs it.
 */

#define N_SHARES 2
#define BLANK "6A88"

typedef struct
{
  const char *bold;
  const char *red;
  const char *plain;
} Style;

static Style
style_for (int fd)
{
  const char *no_color = g_getenv ("NO_COLOR");
  const Style coloured = { "\033[1m", "\033[31m", "\033[0m" };
  const Style plain = { "", "", "" };

  return isatty (fd) && (no_color == NULL || no_color[0] == '\0') ? coloured : plain;
}

/* Always EXIT_FAILURE. */
static int
complain (const char *what, const char *what_to_do)
{
  Style style = style_for (STDERR_FILENO);

  g_printerr ("%sdev/cards: %s%s\n%s\n", style.red, what, style.plain, what_to_do);
  return EXIT_FAILURE;
}

/* A card whose state was kept is left as it is. */
static gboolean
set_up (KwCardRig *rig, guint card, GError **error)
{
  g_autofree char *label = g_strdup_printf ("Card %u", card + 1);
  g_autofree char *answer = kw_card_rig_transmit (rig, card, "00200081", error);
  g_autofree char *check_value = NULL;

  if (answer == NULL)
    return FALSE;
  if (strcmp (answer, BLANK) != 0)
    return TRUE;
  if (!kw_card_rig_initialise (rig, card, NULL, NULL, N_SHARES, label, error))
    return FALSE;
  check_value = kw_card_rig_import_shares (rig, card, N_SHARES, error);
  return check_value != NULL;
}

static char *
dup_check_value (KwCardRig *rig, guint card)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *status = kw_card_rig_transmit (rig, card, "8052000000", &error);

  if (status == NULL || strlen (status) < 24)
    return g_strdup ("none");
  return g_strndup (status + 4, 16);
}

static void
show_cards (KwCardRig *rig)
{
  Style style = style_for (STDOUT_FILENO);

  g_print ("%s%-10s %-22s %-18s %s%s\n", style.bold, "Serial", "Reader", "DKEK", "Control socket",
           style.plain);
  for (guint i = 0; i < kw_card_rig_get_n_cards (rig); i++)
    {
      g_autofree char *check_value = dup_check_value (rig, i);

      g_print ("%-10s %-22s %-18s %s\n", kw_card_rig_get_serial (rig, i),
               kw_card_rig_get_reader (rig, i), check_value,
               strrchr (kw_card_rig_get_control_path (rig, i), '/') + 1);
    }
  g_print ("\nPIN %s, SO-PIN %s; control sockets, traces and logs are in\n%s\n", KW_CARD_RIG_PIN,
           KW_CARD_RIG_SO_PIN, kw_card_rig_get_directory (rig));
}

static void
show_commands (KwCardRig *rig)
{
  Style style = style_for (STDOUT_FILENO);
  const char *last = kw_card_rig_get_n_cards (rig) > 1 ? "1" : "0";

  g_print ("\nIn another terminal, as the same user:\n\n%s", style.bold);
  g_print ("  export PCSCLITE_CSOCK_NAME=%s\n", kw_card_rig_get_socket_name (rig));
  g_print ("  export OPENSC_CONF=%s%s\n\n", kw_card_rig_get_opensc_conf (rig), style.plain);
  g_print ("  sc-hsm-tool --reader 0\n"
           "  pkcs11-tool --list-slots\n"
           "  pkcs11-tool --login --pin " KW_CARD_RIG_PIN " --keypairgen --key-type rsa:2048 \\\n"
           "    --id 10 --label mine\n"
           "  pkcs11-tool --list-objects\n"
           "  date | pkcs11-tool --login --pin " KW_CARD_RIG_PIN " --sign --id 10 \\\n"
           "    --mechanism SHA256-RSA-PKCS --output-file signature\n");
  g_print ("  sc-hsm-tool --reader 0 --pin " KW_CARD_RIG_PIN " --key-reference 1 \\\n"
           "    --wrap-key key.bin\n"
           "  sc-hsm-tool --reader %s --pin " KW_CARD_RIG_PIN " --key-reference 9 \\\n"
           "    --unwrap-key key.bin\n",
           last);
  g_print ("\nPull a card out, push it in, let it fail; 'quit' ends it:\n\n"
           "  echo eject | socat - UNIX:%s\n"
           "  echo insert | socat - UNIX:%s\n"
           "  echo 'fault ins=68,sw=6F00,count=1' | \\\n"
           "    socat - UNIX:%s\n",
           kw_card_rig_get_control_path (rig, 0), kw_card_rig_get_control_path (rig, 0),
           kw_card_rig_get_control_path (rig, 0));
  g_print ("\n%sThe cards are there until Ctrl-C.%s\n", style.bold, style.plain);
}

static gboolean
on_signal (gpointer user_data)
{
  g_main_loop_quit (user_data);
  return G_SOURCE_CONTINUE;
}

static void
wait_for_signal (void)
{
  g_autoptr (GMainLoop) loop = g_main_loop_new (NULL, FALSE);

  g_unix_signal_add (SIGINT, on_signal, loop);
  g_unix_signal_add (SIGTERM, on_signal, loop);
  g_unix_signal_add (SIGHUP, on_signal, loop);
  g_main_loop_run (loop);
}

/* A command that runs beside the cards. */
typedef struct
{
  GSubprocess *process; /* borrowed */
  GMainLoop *loop;      /* borrowed */
} Run;

static gboolean
on_terminate (gpointer user_data)
{
  Run *run = user_data;

  g_subprocess_send_signal (run->process, SIGTERM);
  return G_SOURCE_CONTINUE;
}

static gboolean
on_hang_up (gpointer user_data)
{
  Run *run = user_data;

  g_subprocess_send_signal (run->process, SIGHUP);
  return G_SOURCE_CONTINUE;
}

static void
on_ended (GObject *process, GAsyncResult *result, gpointer user_data)
{
  Run *run = user_data;

  g_subprocess_wait_finish (G_SUBPROCESS (process), result, NULL);
  g_main_loop_quit (run->loop);
}

/* What would end this program is for the command to end by, and then the cards are put away. */
static void
wait_for_command (GSubprocess *process)
{
  g_autoptr (GMainLoop) loop = g_main_loop_new (NULL, FALSE);
  Run run = { process, loop };
  guint terminate_id = g_unix_signal_add (SIGTERM, on_terminate, &run);
  guint hang_up_id = g_unix_signal_add (SIGHUP, on_hang_up, &run);

  g_subprocess_wait_async (process, NULL, on_ended, &run);
  g_main_loop_run (loop);
  g_source_remove (terminate_id);
  g_source_remove (hang_up_id);
}

/* Without its cards the command has nothing to run on. */
static void
end_with_parent (G_GNUC_UNUSED gpointer user_data)
{
  (void) prctl (PR_SET_PDEATHSIG, SIGTERM);
}

/* Its exit status, as a shell has it. Ctrl-C is for the command, and ends this program by ending that. */
static int
run_command (KwCardRig *rig, char **command)
{
  g_autoptr (GSubprocessLauncher) launcher
      = g_subprocess_launcher_new (G_SUBPROCESS_FLAGS_STDIN_INHERIT);
  g_autoptr (GPtrArray) controls = g_ptr_array_new ();
  g_autofree char *control_list = NULL;
  g_autoptr (GSubprocess) process = NULL;
  g_autoptr (GError) error = NULL;

  g_subprocess_launcher_setenv (launcher, "PCSCLITE_CSOCK_NAME", kw_card_rig_get_socket_name (rig),
                                TRUE);
  for (guint i = 0; i < kw_card_rig_get_n_cards (rig); i++)
    g_ptr_array_add (controls, (char *) kw_card_rig_get_control_path (rig, i));
  g_ptr_array_add (controls, NULL);
  control_list = g_strjoinv (":", (char **) controls->pdata);
  g_subprocess_launcher_setenv (launcher, "KEYWARD_CARD_CONTROLS", control_list, TRUE);
  g_subprocess_launcher_setenv (launcher, "OPENSC_CONF", kw_card_rig_get_opensc_conf (rig), TRUE);
  g_subprocess_launcher_set_child_setup (launcher, end_with_parent, NULL, NULL);
  process = g_subprocess_launcher_spawnv (launcher, (const char *const *) command, &error);
  if (process == NULL)
    {
      complain (error->message, "What follows “--” must be a program and its arguments.");
      return 127;
    }
  signal (SIGINT, SIG_IGN);
  wait_for_command (process);
  return g_subprocess_get_if_exited (process) ? g_subprocess_get_exit_status (process)
                                              : 128 + g_subprocess_get_term_sig (process);
}

typedef struct
{
  gboolean realistic;
  char *state_directory; /* owned, nullable */
  char **command;        /* owned, nullable: from the “--” on */
  gint64 n_cards;
} Options;

static gboolean
parse_options (Options *options, int argc, char **argv, GError **error)
{
  const GOptionEntry entries[]
      = { { "realistic", 0, 0, G_OPTION_ARG_NONE, &options->realistic,
            "Take as long as real cards do", NULL },
          { "state-dir", 0, 0, G_OPTION_ARG_FILENAME, &options->state_directory,
            "Keep the states of the cards in DIR", "DIR" },
          G_OPTION_ENTRY_NULL };
  g_autoptr (GOptionContext) context = g_option_context_new ("[N] [-- COMMAND…]");
  int n_own = argc;

  for (int i = 1; i < argc && n_own == argc; i++)
    {
      if (strcmp (argv[i], "--") == 0)
        n_own = i;
    }
  if (n_own < argc)
    options->command = g_strdupv (argv + n_own + 1);
  g_option_context_add_main_entries (context, entries, NULL);
  if (!g_option_context_parse (context, &n_own, &argv, error))
    return FALSE;
  options->n_cards = 2;
  if (n_own > 2 || (options->command != NULL && options->command[0] == NULL))
    {
      g_set_error_literal (error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED,
                           n_own > 2 ? "there is one number too many, or a “--” missing"
                                     : "a command is missing behind “--”");
      return FALSE;
    }
  if (n_own < 2)
    return TRUE;
  return g_ascii_string_to_signed (argv[1], 10, 1, KW_CARD_RIG_MAX_CARDS, &options->n_cards, error);
}

static void
clear_options (Options *options)
{
  g_free (options->state_directory);
  g_strfreev (options->command);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Options, clear_options)

static int
make_state_directory (Options *options)
{
  g_autofree char *given = g_steal_pointer (&options->state_directory);

  if (given == NULL)
    return EXIT_SUCCESS;
  options->state_directory = g_canonicalize_filename (given, NULL);
  if (g_mkdir_with_parents (options->state_directory, 0700) == 0)
    return EXIT_SUCCESS;
  return complain (g_strerror (errno), "Name a folder behind --state-dir that can be written to.");
}

int
main (int argc, char **argv)
{
  static const char *const realistic[] = { "--realistic", NULL };
  g_auto (Options) options = { FALSE };
  g_autoptr (KwCardRig) rig = NULL;
  g_autoptr (GError) error = NULL;
  g_autofree char *reason = NULL;

  g_set_prgname ("dev/cards");
  if (!parse_options (&options, argc, argv, &error))
    {
      g_printerr ("dev/cards: %s\nSee dev/cards --help.\n", error->message);
      return 2;
    }
  if (kw_card_rig_is_impossible (&reason))
    return complain (reason,
                     "dev/install-deps installs what is missing. Namespaces need root, or a\n"
                     "system that lets users make them.");
  if (make_state_directory (&options) != EXIT_SUCCESS)
    return EXIT_FAILURE;
  rig = kw_card_rig_new_full ((guint) options.n_cards, options.realistic ? realistic : NULL,
                              options.state_directory, &error);
  if (rig == NULL)
    return complain (error->message, "dev/test cards shows whether the cards work at all.");
  for (guint i = 0; i < options.n_cards; i++)
    {
      if (!set_up (rig, i, &error))
        return complain (error->message,
                         "If this is about a state that was kept, remove its file.");
    }
  if (options.command != NULL)
    return run_command (rig, options.command);
  show_cards (rig);
  show_commands (rig);
  wait_for_signal ();
  return EXIT_SUCCESS;
}
