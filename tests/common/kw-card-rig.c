/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-card-rig"

#include "kw-card-rig-private.h"
#include "kw-softhsm.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * Virtual SmartCard-HSMs behind a real pcscd, which nobody but the test can see: pcscd, its socket, the ports of the
 * readers and the cards are in namespaces of their own, held by keyward-card-namespace. Programs outside reach pcscd
 * through PCSCLITE_CSOCK_NAME, which names a path below /proc/PID/root of that holder and so stays the same while pcscd
 * is stopped, killed and started again. When the rig is freed, or the test ends in whatever way, the kernel closes the
 * holder's socket; then all processes end and the folder is removed.
 *
 * Each function that has a GError ends the program on failure when it is given %NULL instead, which is what tests want.
 */

#define HOLDER_SECONDS 30
#define PCSCD_SECONDS 30
#define CARD_SECONDS 20
#define CONTROL_SECONDS 20
#define END_SECONDS 10
#define RUN_SECONDS 120
#define LOOK_MSEC 500
#define POLL_USEC 2000
#define MAX_PACKET 65536
#define FIRST_PORT 45100
#define PCSCD "pcscd"

typedef struct
{
  char *name;       /* owned, as the holder knows it */
  char *reader;     /* owned, its name in PC/SC */
  char *serial;     /* owned */
  char *state;      /* owned, path */
  char *trace;      /* owned, path */
  char *control;    /* owned, path */
  char *log;        /* owned, path */
  char *pin;        /* owned */
  char **options;   /* owned, nullable */
  gboolean running; /* as far as the rig has started and ended it */
  gboolean ejected;
} Card;

struct _KwCardRig
{
  gboolean complete; /* all has started */
  guint n_cards;
  Card cards[KW_CARD_RIG_MAX_CARDS];
  char *directory;         /* owned */
  char *readers_directory; /* owned */
  char *opensc_conf;       /* owned */
  char *pcscd_log;         /* owned */
  char *pcscd_path;        /* owned */
  char *socket_name;       /* owned */
  char **environment;      /* owned */
  KwCardPcsc *pcsc;        /* owned, nullable */
  GSubprocess *holder;     /* owned, nullable */
  int holder_fd;           /* owned, -1 = none */
  guint time_limit;        /* seconds, for programs */
};

static Card *
card_of (KwCardRig *self, guint card)
{
  g_assert_cmpuint (card, <, self->n_cards);
  return &self->cards[card];
}

/* Sets @error, or ends the program when it is %NULL. Returns %FALSE always. */
gboolean
kw_card_rig_fail (GError **error, int code, const char *format, ...)
{
  g_autofree char *message = NULL;
  va_list arguments;

  va_start (arguments, format);
  message = g_strdup_vprintf (format, arguments);
  va_end (arguments);
  if (error == NULL)
    g_error ("%s", message);
  g_set_error_literal (error, G_IO_ERROR, code, message);
  return FALSE;
}

static char *
find_pcscd (void)
{
  char *path = g_find_program_in_path ("pcscd");

  if (path == NULL && g_file_test ("/usr/sbin/pcscd", G_FILE_TEST_IS_EXECUTABLE))
    path = g_strdup ("/usr/sbin/pcscd");
  return path;
}

static char *
dup_missing_part (void)
{
  static const char *const programs[] = { "sc-hsm-tool", "pkcs11-tool", "opensc-tool" };
  g_autofree char *pcscd = find_pcscd ();

  if (pcscd == NULL)
    return g_strdup ("pcscd is not installed");
  if (!g_file_test (KW_TEST_VPCD, G_FILE_TEST_EXISTS))
    return g_strdup ("vsmartcard-vpcd is not installed (" KW_TEST_VPCD ")");
  if (!g_file_test (KW_TEST_VIRTUAL_CARD, G_FILE_TEST_IS_EXECUTABLE))
    return g_strdup ("the virtual card was not built (" KW_TEST_VIRTUAL_CARD ")");
  for (gsize i = 0; i < G_N_ELEMENTS (programs); i++)
    {
      g_autofree char *path = g_find_program_in_path (programs[i]);

      if (path == NULL)
        return g_strdup_printf ("opensc is not installed (%s)", programs[i]);
    }
  return NULL;
}

/**
 * kw_card_rig_is_impossible:
 * @out_reason: (out) (optional): why
 *
 * Whether something that a rig needs is missing, or this machine permits no namespaces.
 *
 * Returns: %TRUE when there can be no rig here
 */
gboolean
kw_card_rig_is_impossible (char **out_reason)
{
  g_autofree char *reason = dup_missing_part ();
  g_autofree char *errors = NULL;
  g_autoptr (GError) error = NULL;
  const char *const argv[] = { KW_TEST_CARD_NAMESPACE, "--probe", NULL };
  int status = 0;

  if (reason == NULL
      && (!g_spawn_sync (NULL, (char **) argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL, &errors,
                         &status, &error)
          || status != 0))
    reason = g_strdup_printf ("a private pcscd needs namespaces: %s",
                              error != NULL ? error->message : g_strchomp (errors));
  if (reason == NULL)
    return FALSE;
  if (out_reason != NULL)
    *out_reason = g_steal_pointer (&reason);
  return TRUE;
}

/**
 * kw_card_rig_is_missing:
 *
 * Marks the running test as skipped, with the reason, when there can be no rig here.
 *
 * Returns: whether there can be none
 */
gboolean
kw_card_rig_is_missing (void)
{
  g_autofree char *reason = NULL;

  if (!kw_card_rig_is_impossible (&reason))
    return FALSE;
  g_test_skip (reason);
  return TRUE;
}

/* --- the holder ------------------------------------------------------------------------------ */

/* One packet of the holder, as text; NULL when none comes in time. */
static char *
receive_packet (KwCardRig *self)
{
  struct pollfd polled = { .fd = self->holder_fd, .events = POLLIN };
  char packet[2048];
  ssize_t size = 0;

  if (poll (&polled, 1, HOLDER_SECONDS * 1000) != 1)
    return NULL;
  size = recv (self->holder_fd, packet, sizeof packet, 0);
  return size > 0 ? g_strndup (packet, (gsize) size) : NULL;
}

/* Sends strings to the holder. Returns what follows "ok", NULL with @error set for anything else. */
static char *
ask_holderv (KwCardRig *self, GError **error, const char *const *strings)
{
  g_autoptr (GString) packet = g_string_new (NULL);
  g_autofree char *answer = NULL;

  for (gsize i = 0; strings[i] != NULL; i++)
    g_string_append_len (packet, strings[i], (gssize) strlen (strings[i]) + 1);
  if (packet->len <= MAX_PACKET
      && send (self->holder_fd, packet->str, packet->len, MSG_NOSIGNAL) == (ssize_t) packet->len)
    answer = receive_packet (self);
  if (answer == NULL || !g_str_has_prefix (answer, "ok"))
    {
      kw_card_rig_fail (error, G_IO_ERROR_FAILED, "%s %s: %s", strings[0], strings[1],
                        answer == NULL ? "the holder of the namespaces is gone"
                        : g_str_has_prefix (answer, "error ") ? answer + strlen ("error ")
                                                              : answer);
      return NULL;
    }
  return g_strdup (g_strchug (answer + strlen ("ok")));
}

static gboolean
send_signal (KwCardRig *self, const char *name, int number, GError **error)
{
  g_autofree char *text = g_strdup_printf ("%d", number);
  const char *const strings[] = { "signal", name, text, NULL };
  g_autofree char *answer = ask_holderv (self, error, strings);

  return answer != NULL;
}

/* Waits until a process has ended. Returns FALSE when it has not in @seconds. */
static gboolean
wait_for_end (KwCardRig *self, const char *name, guint seconds, int *out_status, GError **error)
{
  const char *const strings[] = { "status", name, NULL };
  gint64 deadline = g_get_monotonic_time () + seconds * G_TIME_SPAN_SECOND;

  for (;;)
    {
      g_autofree char *answer = ask_holderv (self, error, strings);

      if (answer == NULL)
        return FALSE;
      if (g_str_has_prefix (answer, "ended "))
        {
          *out_status = (int) g_ascii_strtoll (answer + strlen ("ended "), NULL, 10);
          return TRUE;
        }
      if (g_get_monotonic_time () > deadline)
        return kw_card_rig_fail (error, G_IO_ERROR_TIMED_OUT, "%s does not end", name);
      g_usleep (POLL_USEC);
    }
}

static gboolean
has_ended (KwCardRig *self, const char *name)
{
  const char *const strings[] = { "status", name, NULL };
  g_autoptr (GError) error = NULL;
  g_autofree char *answer = ask_holderv (self, &error, strings);

  return answer == NULL || !g_str_has_prefix (answer, "running");
}

/* Ends a process; one that is asked by SIGTERM has to end with status 0. */
static gboolean
end_process (KwCardRig *self, const char *name, int number, GError **error)
{
  int status = 0;

  if (!send_signal (self, name, number, error)
      || !wait_for_end (self, name, END_SECONDS, &status, error))
    return FALSE;
  if (number != SIGKILL && !(WIFEXITED (status) && WEXITSTATUS (status) == 0))
    {
      g_autofree char *log = kw_card_rig_dup_log (self);

      return kw_card_rig_fail (error, G_IO_ERROR_FAILED,
                               "%s ended with status %d of waitpid, which is not 0:\n%s", name,
                               status, log);
    }
  return TRUE;
}

static gboolean
start_holder (KwCardRig *self, GError **error)
{
  g_autoptr (GSubprocessLauncher) launcher = g_subprocess_launcher_new (G_SUBPROCESS_FLAGS_NONE);
  g_autofree char *answer = NULL;
  int ends[2];

  if (socketpair (AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return kw_card_rig_fail (error, G_IO_ERROR_FAILED, "socketpair: %s", g_strerror (errno));
  self->holder_fd = ends[0];
  g_subprocess_launcher_take_stdin_fd (launcher, ends[1]);
  self->holder = g_subprocess_launcher_spawn (launcher, error, KW_TEST_CARD_NAMESPACE,
                                              self->directory, NULL);
  /* The launcher keeps its copy of the holder's end otherwise. */
  g_subprocess_launcher_close (launcher);
  if (self->holder == NULL)
    return FALSE;
  answer = receive_packet (self);
  if (g_strcmp0 (answer, "ok") != 0)
    return kw_card_rig_fail (error, G_IO_ERROR_FAILED, "the namespaces cannot be made: %s",
                             answer != NULL ? answer : "no answer");
  self->socket_name = g_strdup_printf ("/proc/%s/root/run/pcscd/pcscd.comm",
                                       g_subprocess_get_identifier (self->holder));
  return TRUE;
}

/* --- files ----------------------------------------------------------------------------------- */

/* Readers that share one driver share its variables, and can stop pcscd for good; so each gets a copy. */
static gboolean
copy_driver (const char *copy, GError **error)
{
  g_autoptr (GFile) from = g_file_new_for_path (KW_TEST_VPCD);
  g_autoptr (GFile) to = g_file_new_for_path (copy);

  return g_file_copy (from, to, G_FILE_COPY_OVERWRITE, NULL, NULL, NULL, error);
}

static guint
port_of (guint card)
{
  return FIRST_PORT + 2 * card;
}

static gboolean
write_readers (KwCardRig *self, GError **error)
{
  g_autoptr (GString) text = g_string_new (NULL);
  g_autofree char *path = NULL;

  self->readers_directory = g_build_filename (self->directory, "readers", NULL);
  if (g_mkdir (self->readers_directory, 0700) != 0)
    return kw_card_rig_fail (error, G_IO_ERROR_FAILED, "%s: %s", self->readers_directory,
                             g_strerror (errno));
  for (guint i = 0; i < self->n_cards; i++)
    {
      g_autofree char *driver = g_strdup_printf ("%s/libifdvpcd-%u.so", self->directory, i + 1);

      if (!copy_driver (driver, error))
        return FALSE;
      g_string_append_printf (text,
                              "FRIENDLYNAME \"Keyward Card %u\"\nDEVICENAME /dev/null:0x%X\n"
                              "LIBPATH %s\nCHANNELID 0x%X\n\n",
                              i + 1, port_of (i), driver, port_of (i));
    }
  path = g_build_filename (self->readers_directory, "cards", NULL);
  return g_file_set_contents (path, text->str, -1, error);
}

/* OpenSC shows four readers unless told; vpcd adds a second, empty slot to each. */
static gboolean
write_opensc_conf (KwCardRig *self, GError **error)
{
  self->opensc_conf = g_build_filename (self->directory, "opensc.conf", NULL);
  return g_file_set_contents (
      self->opensc_conf,
      "app default {\n"
      "  ignored_readers = \" 00 01\";\n"
      "  framework pkcs15 {\n    use_file_caching = false;\n  }\n"
      "}\n"
      "app opensc-pkcs11 {\n"
      "  pkcs11 {\n    max_virtual_slots = 64;\n    slots_per_card = 1;\n  }\n"
      "}\n",
      -1, error);
}

static void
name_card (KwCardRig *self, guint index, const char *const *options, const char *state_directory)
{
  Card *card = &self->cards[index];
  const char *directory = state_directory != NULL ? state_directory : self->directory;
  g_autofree char *file = g_strdup_printf ("card%u.state", index + 1);

  card->name = g_strdup_printf ("card%u", index + 1);
  card->reader = g_strdup_printf ("Keyward Card %u 00 00", index + 1);
  card->serial = g_strdup_printf ("VTCARD%02u", index + 1);
  card->state = g_build_filename (directory, file, NULL);
  card->trace = g_strdup_printf ("%s/card%u.trace", self->directory, index + 1);
  card->control = g_strdup_printf ("%s/card%u.sock", self->directory, index + 1);
  card->log = g_strdup_printf ("%s/card%u.log", self->directory, index + 1);
  card->pin = g_strdup (KW_CARD_RIG_PIN);
  card->options = g_strdupv ((char **) options);
}

static void
make_environment (KwCardRig *self)
{
  self->environment = g_get_environ ();
  kw_card_rig_set_environment (self, "PCSCLITE_CSOCK_NAME", self->socket_name);
  kw_card_rig_set_environment (self, "OPENSC_CONF", self->opensc_conf);
  kw_card_rig_set_environment (self, "HOME", self->directory);
  kw_card_rig_set_environment (self, "LC_ALL", "C.UTF-8");
}

/* Waits until PC/SC sees a card whose process runs, or should. */
static gboolean
wait_for_start (KwCardRig *self, guint card, GError **error)
{
  Card *c = &self->cards[card];
  gint64 deadline = g_get_monotonic_time () + CARD_SECONDS * G_TIME_SPAN_SECOND;
  g_autofree char *log = NULL;

  do
    {
      gint64 look = g_get_monotonic_time () + LOOK_MSEC * G_TIME_SPAN_MILLISECOND;

      if (kw_card_pcsc_wait (self->pcsc, c->reader, TRUE, look))
        return TRUE;
      c->running = !has_ended (self, c->name);
    }
  while (c->running && g_get_monotonic_time () < deadline);
  log = kw_card_rig_dup_log (self);
  return kw_card_rig_fail (error, c->running ? G_IO_ERROR_TIMED_OUT : G_IO_ERROR_FAILED,
                           "%s %s:\n%s", c->name, c->running ? "is not seen" : "has ended", log);
}

/* Waits for all cards that are in their readers; pcscd looks after them every 0.4 s. */
static gboolean
wait_for_all (KwCardRig *self, GError **error)
{
  for (guint i = 0; i < self->n_cards; i++)
    {
      if (self->cards[i].running && !self->cards[i].ejected && !wait_for_start (self, i, error))
        return FALSE;
    }
  return TRUE;
}

static gboolean
spawn_card (KwCardRig *self, guint card, GError **error)
{
  Card *c = card_of (self, card);
  g_autofree char *port = g_strdup_printf ("%u", port_of (card));
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();
  g_auto (GStrv) request = NULL;
  g_autofree char *answer = NULL;

  g_strv_builder_add_many (builder, "spawn", c->name, c->log, KW_TEST_VIRTUAL_CARD, "--host",
                           "127.0.0.1", "--port", port, "--serial", c->serial, "--state", c->state,
                           "--trace", c->trace, "--control", c->control, NULL);
  if (c->options != NULL)
    g_strv_builder_addv (builder, (const char **) c->options);
  request = g_strv_builder_end (builder);
  answer = ask_holderv (self, error, (const char *const *) request);
  if (answer == NULL)
    return FALSE;
  c->running = TRUE;
  c->ejected = FALSE;
  return TRUE;
}

static gboolean
start_all (KwCardRig *self, GError **error)
{
  if (!start_holder (self, error) || !write_readers (self, error)
      || !write_opensc_conf (self, error))
    return FALSE;
  make_environment (self);
  if (!kw_card_rig_start_pcscd (self, error))
    return FALSE;
  for (guint i = 0; i < self->n_cards; i++)
    {
      if (!spawn_card (self, i, error))
        return FALSE;
    }
  return wait_for_all (self, error);
}

/**
 * kw_card_rig_new:
 * @n_cards: 1 to %KW_CARD_RIG_MAX_CARDS
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Starts pcscd and blank cards, and waits until PC/SC sees all of them.
 *
 * Returns: (transfer full) (nullable): the rig; %NULL = some G_IO_ERROR
 */
KwCardRig *
kw_card_rig_new (guint n_cards, GError **error)
{
  return kw_card_rig_new_full (n_cards, NULL, NULL, error);
}

/**
 * kw_card_rig_new_full:
 * @n_cards: 1 to %KW_CARD_RIG_MAX_CARDS
 * @card_options: (array zero-terminated=1) (nullable): more options for the program of each card
 * @state_directory: (nullable): existing folder for the states of the cards, which stay there; %NULL = the rig's own
 * @error: (nullable): %NULL = a failure ends the program
 *
 * As kw_card_rig_new(), with all that can be chosen.
 *
 * Returns: (transfer full) (nullable): the rig; %NULL = some G_IO_ERROR
 */
KwCardRig *
kw_card_rig_new_full (guint n_cards,
                      const char *const *card_options,
                      const char *state_directory,
                      GError **error)
{
  g_autoptr (KwCardRig) self = g_new0 (KwCardRig, 1);
  g_autoptr (GError) problem = NULL;

  self->holder_fd = -1;
  g_return_val_if_fail (n_cards >= 1 && n_cards <= KW_CARD_RIG_MAX_CARDS, NULL);
  self->n_cards = n_cards;
  self->time_limit = RUN_SECONDS;
  self->pcscd_path = find_pcscd ();
  self->directory = g_dir_make_tmp ("kw-cards-XXXXXX", &problem);
  if (self->directory != NULL)
    {
      self->pcscd_log = g_build_filename (self->directory, "pcscd.log", NULL);
      for (guint i = 0; i < n_cards; i++)
        name_card (self, i, card_options, state_directory);
      self->complete = start_all (self, &problem);
      if (self->complete)
        return g_steal_pointer (&self);
    }
  kw_card_rig_fail (error, problem->code, "%s", problem->message);
  return NULL;
}

static void
clear_card (Card *card)
{
  g_free (card->name);
  g_free (card->reader);
  g_free (card->serial);
  g_free (card->state);
  g_free (card->trace);
  g_free (card->control);
  g_free (card->log);
  g_free (card->pin);
  g_strfreev (card->options);
}

/* What a sanitizer has found in a card is seen here, in all tests that use one. */
static void
end_card (KwCardRig *self, Card *card)
{
  g_autoptr (GError) ignored = NULL;
  g_autofree char *log = NULL;
  int status = 0;

  /* It may have ended before, by itself, or be frozen: the holder deals with that. */
  if (!send_signal (self, card->name, SIGTERM, &ignored))
    g_clear_error (&ignored);
  if (!wait_for_end (self, card->name, 1, &status, &ignored) || status == 0)
    return;
  log = kw_card_rig_dup_log (self);
  if (g_test_initialized () && self->complete)
    g_error ("%s ended with status %d of waitpid, which is not 0:\n%s", card->name, status, log);
}

/**
 * kw_card_rig_free:
 * @self: (transfer full): a rig
 *
 * Ends everything and removes the folder. A card whose process has crashed, or ends with another status than 0, ends
 * the test.
 */
void
kw_card_rig_free (KwCardRig *self)
{
  for (guint i = 0; i < self->n_cards; i++)
    {
      if (self->cards[i].running)
        end_card (self, &self->cards[i]);
    }
  if (self->holder_fd >= 0)
    close (self->holder_fd);
  if (self->holder != NULL)
    g_subprocess_wait (self->holder, NULL, NULL);
  g_clear_object (&self->holder);
  if (self->directory != NULL)
    kw_soft_hsm_remove_tree (self->directory);
  g_clear_pointer (&self->pcsc, kw_card_pcsc_free);
  for (guint i = 0; i < self->n_cards; i++)
    clear_card (&self->cards[i]);
  g_free (self->directory);
  g_free (self->readers_directory);
  g_free (self->opensc_conf);
  g_free (self->pcscd_log);
  g_free (self->pcscd_path);
  g_free (self->socket_name);
  g_strfreev (self->environment);
  g_free (self);
}

/* --- what there is --------------------------------------------------------------------------- */

/**
 * kw_card_rig_get_n_cards:
 * @self: a rig
 *
 * Returns: how many cards it has, inserted or not
 */
guint
kw_card_rig_get_n_cards (KwCardRig *self)
{
  return self->n_cards;
}

/**
 * kw_card_rig_get_directory:
 * @self: a rig
 *
 * Returns: (transfer none): a folder that is removed at the end, free for other use
 */
const char *
kw_card_rig_get_directory (KwCardRig *self)
{
  return self->directory;
}

/**
 * kw_card_rig_get_socket_name:
 * @self: a rig
 *
 * Returns: (transfer none): value of PCSCLITE_CSOCK_NAME, the same as long as the rig lives
 */
const char *
kw_card_rig_get_socket_name (KwCardRig *self)
{
  return self->socket_name;
}

/**
 * kw_card_rig_get_opensc_conf:
 * @self: a rig
 *
 * With it OpenSC shows up to 8 cards, and not the empty second slot that vpcd adds to each.
 *
 * Returns: (transfer none): value of OPENSC_CONF
 */
const char *
kw_card_rig_get_opensc_conf (KwCardRig *self)
{
  return self->opensc_conf;
}

/**
 * kw_card_rig_get_reader:
 * @self: a rig
 * @card: a card of it
 *
 * Returns: (transfer none): the name of its reader in PC/SC
 */
const char *
kw_card_rig_get_reader (KwCardRig *self, guint card)
{
  return card_of (self, card)->reader;
}

/**
 * kw_card_rig_get_serial:
 * @self: a rig
 * @card: a card of it
 *
 * Returns: (transfer none): its serial number
 */
const char *
kw_card_rig_get_serial (KwCardRig *self, guint card)
{
  return card_of (self, card)->serial;
}

/**
 * kw_card_rig_get_trace_path:
 * @self: a rig
 * @card: a card of it
 *
 * Returns: (transfer none): the file with its APDUs
 */
const char *
kw_card_rig_get_trace_path (KwCardRig *self, guint card)
{
  return card_of (self, card)->trace;
}

/**
 * kw_card_rig_get_state_path:
 * @self: a rig
 * @card: a card of it
 *
 * Returns: (transfer none): the file that outlives its process
 */
const char *
kw_card_rig_get_state_path (KwCardRig *self, guint card)
{
  return card_of (self, card)->state;
}

/**
 * kw_card_rig_get_control_path:
 * @self: a rig
 * @card: a card of it
 *
 * Returns: (transfer none): the socket that takes its control lines
 */
const char *
kw_card_rig_get_control_path (KwCardRig *self, guint card)
{
  return card_of (self, card)->control;
}

/**
 * kw_card_rig_dup_log:
 * @self: a rig
 *
 * Returns: (transfer full): what pcscd and the cards have said so far
 */
char *
kw_card_rig_dup_log (KwCardRig *self)
{
  g_autoptr (GString) all = g_string_new (NULL);

  for (guint i = 0; i <= self->n_cards; i++)
    {
      const char *path = i < self->n_cards ? self->cards[i].log : self->pcscd_log;
      g_autofree char *text = NULL;

      if (g_file_get_contents (path, &text, NULL, NULL) && text[0] != '\0')
        g_string_append_printf (all, "%s:\n%s\n", i < self->n_cards ? self->cards[i].name : PCSCD,
                                text);
    }
  return g_string_free (g_steal_pointer (&all), FALSE);
}

/**
 * kw_card_rig_get_holder_pid:
 * @self: a rig
 *
 * Returns: the process that ends last of all that the rig has started
 */
int
kw_card_rig_get_holder_pid (KwCardRig *self)
{
  return (int) g_ascii_strtoll (g_subprocess_get_identifier (self->holder), NULL, 10);
}

KwCardPcsc *
kw_card_rig_get_pcsc (KwCardRig *self)
{
  return self->pcsc;
}

const char *
kw_card_rig_get_pin (KwCardRig *self, guint card)
{
  return card_of (self, card)->pin;
}

void
kw_card_rig_set_pin (KwCardRig *self, guint card, const char *pin)
{
  g_autofree char *copy = g_strdup (pin);

  g_free (card_of (self, card)->pin);
  self->cards[card].pin = g_steal_pointer (&copy);
}

/* --- what happens to cards ------------------------------------------------------------------- */

static int
connect_control (const char *path)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  int fd = -1;

  if (strlen (path) >= sizeof address.sun_path)
    return -1;
  g_strlcpy (address.sun_path, path, sizeof address.sun_path);
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect (fd, (struct sockaddr *) &address, sizeof address) != 0)
    {
      close (fd);
      return -1;
    }
  return fd;
}

/* One line, without its end; NULL when none comes in time. */
static char *
receive_line (int fd)
{
  g_autoptr (GString) line = g_string_new (NULL);
  gint64 deadline = g_get_monotonic_time () + CONTROL_SECONDS * G_TIME_SPAN_SECOND;

  while (g_get_monotonic_time () < deadline)
    {
      struct pollfd polled = { .fd = fd, .events = POLLIN };
      char letter = '\0';

      if (poll (&polled, 1, 100) != 1)
        continue;
      if (recv (fd, &letter, 1, 0) != 1)
        return NULL;
      if (letter == '\n')
        return g_string_free (g_steal_pointer (&line), FALSE);
      g_string_append_c (line, letter);
    }
  return NULL;
}

/**
 * kw_card_rig_control:
 * @self: a rig
 * @card: a card of it, whose process runs
 * @line: one command, such as "status" or "fault ins=68,sw=6F00,count=1"
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Tells a card what to do, on its control socket.
 *
 * Returns: (transfer full) (nullable): what it answers behind "ok"; %NULL = G_IO_ERROR_FAILED
 */
char *
kw_card_rig_control (KwCardRig *self, guint card, const char *line, GError **error)
{
  g_autofree char *request = g_strdup_printf ("%s\n", line);
  g_autofree char *answer = NULL;
  int fd = connect_control (card_of (self, card)->control);

  if (fd >= 0 && send (fd, request, strlen (request), MSG_NOSIGNAL) == (ssize_t) strlen (request))
    answer = receive_line (fd);
  if (fd >= 0)
    close (fd);
  if (answer == NULL || !g_str_has_prefix (answer, "ok"))
    {
      kw_card_rig_fail (error, G_IO_ERROR_FAILED, "%s: %s: %s", self->cards[card].name, line,
                        answer != NULL ? answer : "no answer on the control socket");
      return NULL;
    }
  return g_strdup (g_strchug (answer + strlen ("ok")));
}

static gboolean
do_control (KwCardRig *self, guint card, const char *line, GError **error)
{
  g_autofree char *answer = kw_card_rig_control (self, card, line, error);

  return answer != NULL;
}

/**
 * kw_card_rig_eject:
 * @self: a rig
 * @card: a card of it
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Takes a card out of its reader. Its process goes on. PC/SC notices a little later.
 *
 * Returns: %TRUE; %FALSE = G_IO_ERROR_FAILED
 */
gboolean
kw_card_rig_eject (KwCardRig *self, guint card, GError **error)
{
  card_of (self, card)->ejected = TRUE;
  return do_control (self, card, "eject", error);
}

/**
 * kw_card_rig_insert:
 * @self: a rig
 * @card: a card of it
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Puts a card into its reader again. PC/SC notices a little later.
 *
 * Returns: %TRUE; %FALSE = G_IO_ERROR_FAILED
 */
gboolean
kw_card_rig_insert (KwCardRig *self, guint card, GError **error)
{
  card_of (self, card)->ejected = FALSE;
  return do_control (self, card, "insert", error);
}

/**
 * kw_card_rig_freeze:
 * @self: a rig
 * @card: a card of it
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Stops the process of a card, as a token hangs. What is sent to it waits for the thaw.
 *
 * Returns: %TRUE; %FALSE = G_IO_ERROR_FAILED
 */
gboolean
kw_card_rig_freeze (KwCardRig *self, guint card, GError **error)
{
  return send_signal (self, card_of (self, card)->name, SIGSTOP, error);
}

/**
 * kw_card_rig_thaw:
 * @self: a rig
 * @card: a card of it that is frozen
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Lets the process of a card go on.
 *
 * Returns: %TRUE; %FALSE = G_IO_ERROR_FAILED
 */
gboolean
kw_card_rig_thaw (KwCardRig *self, guint card, GError **error)
{
  return send_signal (self, card_of (self, card)->name, SIGCONT, error);
}

/**
 * kw_card_rig_set_card_options:
 * @self: a rig
 * @card: a card of it
 * @options: (array zero-terminated=1) (nullable): options for its program
 *
 * Changes the options that are added from the next start of the card on.
 */
void
kw_card_rig_set_card_options (KwCardRig *self, guint card, const char *const *options)
{
  g_strfreev (card_of (self, card)->options);
  self->cards[card].options = g_strdupv ((char **) options);
}

/**
 * kw_card_rig_start_card:
 * @self: a rig whose pcscd runs
 * @card: a card of it whose process does not run
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Starts the process of a card and waits until PC/SC sees it. What it stored before is still there.
 *
 * Returns: %TRUE; %FALSE = some G_IO_ERROR
 */
gboolean
kw_card_rig_start_card (KwCardRig *self, guint card, GError **error)
{
  return spawn_card (self, card, error) && wait_for_start (self, card, error);
}

/**
 * kw_card_rig_stop_card:
 * @self: a rig
 * @card: a card of it whose process runs
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Ends the process of a card by SIGTERM; it must end by itself with status 0.
 *
 * Returns: %TRUE; %FALSE = some G_IO_ERROR
 */
gboolean
kw_card_rig_stop_card (KwCardRig *self, guint card, GError **error)
{
  card_of (self, card)->running = FALSE;
  return end_process (self, self->cards[card].name, SIGTERM, error);
}

/**
 * kw_card_rig_kill_card:
 * @self: a rig
 * @card: a card of it whose process runs
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Ends the process of a card by SIGKILL, as a power cut does.
 *
 * Returns: %TRUE; %FALSE = some G_IO_ERROR
 */
gboolean
kw_card_rig_kill_card (KwCardRig *self, guint card, GError **error)
{
  card_of (self, card)->running = FALSE;
  return end_process (self, self->cards[card].name, SIGKILL, error);
}

/**
 * kw_card_rig_restart_card:
 * @self: a rig
 * @card: a card of it whose process runs
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Kills the process of a card, waits until PC/SC misses it, and starts it again.
 *
 * Returns: %TRUE; %FALSE = some G_IO_ERROR
 */
gboolean
kw_card_rig_restart_card (KwCardRig *self, guint card, GError **error)
{
  return kw_card_rig_kill_card (self, card, error)
         && kw_card_rig_wait_for_card (self, card, FALSE, CARD_SECONDS * 1000, error)
         && kw_card_rig_start_card (self, card, error);
}

/* --- what happens to pcscd ------------------------------------------------------------------- */

static gboolean
wait_for_readers (KwCardRig *self, GError **error)
{
  gint64 deadline = g_get_monotonic_time () + PCSCD_SECONDS * G_TIME_SPAN_SECOND;

  for (guint i = 0; i < self->n_cards; i++)
    {
      while (!kw_card_pcsc_has_reader (self->pcsc, self->cards[i].reader))
        {
          gboolean ended = has_ended (self, PCSCD);

          if (ended || g_get_monotonic_time () > deadline)
            {
              g_autofree char *log = kw_card_rig_dup_log (self);

              return kw_card_rig_fail (error, G_IO_ERROR_FAILED, "pcscd %s:\n%s",
                                       ended ? "has ended" : "shows no reader", log);
            }
          g_usleep (POLL_USEC);
        }
    }
  return TRUE;
}

/**
 * kw_card_rig_start_pcscd:
 * @self: a rig whose pcscd does not run
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Starts pcscd, and waits until it has its readers and sees the cards that are in them.
 *
 * Returns: %TRUE; %FALSE = some G_IO_ERROR
 */
gboolean
kw_card_rig_start_pcscd (KwCardRig *self, GError **error)
{
  const char *const request[] = { "spawn",
                                  PCSCD,
                                  self->pcscd_log,
                                  self->pcscd_path != NULL ? self->pcscd_path : PCSCD,
                                  "--foreground",
                                  "--config",
                                  self->readers_directory,
                                  NULL };
  g_autofree char *answer = ask_holderv (self, error, request);

  if (answer == NULL)
    return FALSE;
  if (self->pcsc == NULL)
    self->pcsc = kw_card_pcsc_new (self->directory, self->socket_name, error);
  return self->pcsc != NULL && wait_for_readers (self, error) && wait_for_all (self, error);
}

/**
 * kw_card_rig_stop_pcscd:
 * @self: a rig whose pcscd runs
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Ends pcscd by SIGTERM. The cards try to connect until it is started again.
 *
 * Returns: %TRUE; %FALSE = some G_IO_ERROR
 */
gboolean
kw_card_rig_stop_pcscd (KwCardRig *self, GError **error)
{
  return end_process (self, PCSCD, SIGTERM, error);
}

/**
 * kw_card_rig_kill_pcscd:
 * @self: a rig whose pcscd runs
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Ends pcscd by SIGKILL. Its socket stays behind, and nobody listens there.
 *
 * Returns: %TRUE; %FALSE = some G_IO_ERROR
 */
gboolean
kw_card_rig_kill_pcscd (KwCardRig *self, GError **error)
{
  return end_process (self, PCSCD, SIGKILL, error);
}

/**
 * kw_card_rig_restart_pcscd:
 * @self: a rig whose pcscd runs
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Stops and starts pcscd.
 *
 * Returns: %TRUE; %FALSE = some G_IO_ERROR
 */
gboolean
kw_card_rig_restart_pcscd (KwCardRig *self, GError **error)
{
  return kw_card_rig_stop_pcscd (self, error) && kw_card_rig_start_pcscd (self, error);
}

/**
 * kw_card_rig_wait_for_card:
 * @self: a rig
 * @card: a card of it
 * @present: whether it shall be in its reader, or not
 * @milliseconds: how long to wait
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Waits until PC/SC sees a card, or misses it.
 *
 * Returns: %TRUE; %FALSE = G_IO_ERROR_TIMED_OUT
 */
gboolean
kw_card_rig_wait_for_card (KwCardRig *self,
                           guint card,
                           gboolean present,
                           guint milliseconds,
                           GError **error)
{
  Card *c = card_of (self, card);
  gint64 deadline = g_get_monotonic_time () + milliseconds * G_TIME_SPAN_MILLISECOND;
  g_autofree char *log = NULL;

  if (kw_card_pcsc_wait (self->pcsc, c->reader, present, deadline))
    return TRUE;
  log = kw_card_rig_dup_log (self);
  return kw_card_rig_fail (error, G_IO_ERROR_TIMED_OUT, "%s was not %s in %u ms:\n%s", c->reader,
                           present ? "filled" : "empty", milliseconds, log);
}

/* --- programs -------------------------------------------------------------------------------- */

/**
 * kw_card_rig_set_environment:
 * @self: a rig
 * @name: name of a variable
 * @value: (nullable): its value in programs run from now on; %NULL = it is unset
 *
 * Sets a variable of the programs that the rig runs.
 */
void
kw_card_rig_set_environment (KwCardRig *self, const char *name, const char *value)
{
  self->environment = value != NULL ? g_environ_setenv (self->environment, name, value, TRUE)
                                    : g_environ_unsetenv (self->environment, name);
}

/**
 * kw_card_rig_dup_environment:
 * @self: a rig
 *
 * Returns: (transfer full): the environment of the programs that the rig runs
 */
char **
kw_card_rig_dup_environment (KwCardRig *self)
{
  return g_strdupv (self->environment);
}

/**
 * kw_card_rig_set_time_limit:
 * @self: a rig
 * @seconds: how long programs may take from now on; 120 at first
 *
 * Sets the time limit of kw_card_rig_run().
 */
void
kw_card_rig_set_time_limit (KwCardRig *self, guint seconds)
{
  self->time_limit = seconds;
}

/* A test that fails must not leave a program behind. Runs in the child. */
static void
end_with_parent (gpointer user_data G_GNUC_UNUSED)
{
  (void) prctl (PR_SET_PDEATHSIG, SIGKILL);
}

typedef struct
{
  GSubprocess *process;
  GBytes *output;
  gboolean done;
  gboolean timed_out;
} Run;

static void
on_end (GObject *source, GAsyncResult *result, gpointer user_data)
{
  Run *run = user_data;

  g_subprocess_communicate_finish (G_SUBPROCESS (source), result, &run->output, NULL, NULL);
  run->done = TRUE;
}

static gboolean
on_time_limit (gpointer user_data)
{
  Run *run = user_data;

  run->timed_out = TRUE;
  g_subprocess_force_exit (run->process);
  return G_SOURCE_CONTINUE;
}

static void
communicate (Run *run, GMainContext *context, guint seconds)
{
  g_autoptr (GSource) source = g_timeout_source_new_seconds (seconds);

  g_source_set_callback (source, on_time_limit, run, NULL);
  g_source_attach (source, context);
  g_subprocess_communicate_async (run->process, NULL, NULL, on_end, run);
  while (!run->done)
    g_main_context_iteration (context, TRUE);
  g_source_destroy (source);
}

/**
 * kw_card_rig_runv:
 * @self: a rig
 * @out_output: (out) (optional): what the program said on stdout and stderr, as valid UTF-8
 * @argv: (array zero-terminated=1): a program and its arguments
 *
 * Runs a program that finds the rig's cards. One that cannot be started, or takes longer than the time limit, ends the
 * test.
 *
 * Returns: its exit status, or 128 and the number of the signal that ended it
 */
int
kw_card_rig_runv (KwCardRig *self, char **out_output, const char *const *argv)
{
  g_autoptr (GSubprocessLauncher) launcher = g_subprocess_launcher_new (
      G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_MERGE);
  g_autoptr (GMainContext) context = g_main_context_new ();
  g_autoptr (GSubprocess) process = NULL;
  g_autoptr (GError) error = NULL;
  g_autofree char *text = NULL;
  g_autofree char *command = g_strjoinv (" ", (char **) argv);
  Run run = { NULL };

  g_subprocess_launcher_set_child_setup (launcher, end_with_parent, NULL, NULL);
  g_subprocess_launcher_set_environ (launcher, self->environment);
  g_main_context_push_thread_default (context);
  process = g_subprocess_launcher_spawnv (launcher, argv, &error);
  g_assert_no_error (error);
  run.process = process;
  communicate (&run, context, self->time_limit);
  g_main_context_pop_thread_default (context);
  text = run.output != NULL && g_bytes_get_size (run.output) > 0
             ? g_utf8_make_valid (g_bytes_get_data (run.output, NULL),
                                  (gssize) g_bytes_get_size (run.output))
             : g_strdup ("");
  g_clear_pointer (&run.output, g_bytes_unref);
  if (run.timed_out)
    g_error ("%s took longer than %u s:\n%s", command, self->time_limit, text);
  if (g_test_initialized ())
    g_test_message ("$ %s\n%s", command, text);
  if (out_output != NULL)
    *out_output = g_steal_pointer (&text);
  return g_subprocess_get_if_exited (process) ? g_subprocess_get_exit_status (process)
                                              : 128 + g_subprocess_get_term_sig (process);
}

/**
 * kw_card_rig_run:
 * @self: a rig
 * @out_output: (out) (optional): what the program said on stdout and stderr, as valid UTF-8
 * @program: a program
 * @...: its arguments, and %NULL
 *
 * As kw_card_rig_runv().
 *
 * Returns: its exit status, or 128 and the number of the signal that ended it
 */
int
kw_card_rig_run (KwCardRig *self, char **out_output, const char *program, ...)
{
  g_autoptr (GPtrArray) argv = g_ptr_array_new ();
  va_list arguments;

  va_start (arguments, program);
  for (const char *argument = program; argument != NULL; argument = va_arg (arguments, char *))
    g_ptr_array_add (argv, (gpointer) argument);
  va_end (arguments);
  g_ptr_array_add (argv, NULL);
  return kw_card_rig_runv (self, out_output, (const char *const *) argv->pdata);
}
