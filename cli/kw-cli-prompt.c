/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-prompt"

#include "config.h"

#include "kw-cli-prompt.h"

#include "kw-cli-sentence.h"
#include "kw-error.h"
#include "kw-limits.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

/*
 * Asks for a PIN at the terminal, without echo. Signals that end or stop the process are held back meanwhile and delivered
 * after the terminal was put right, so that nobody is left with a terminal that shows nothing.
 */

static const int held_signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP };

gboolean
kw_cli_prompt_is_possible (void)
{
  return isatty (STDIN_FILENO) == 1;
}

static gboolean
set_echo_off (const struct termios *usual)
{
  struct termios quiet = *usual;

  quiet.c_lflag &= ~(tcflag_t) (ECHO | ECHONL);
  quiet.c_lflag |= ICANON;
  return tcsetattr (STDIN_FILENO, TCSAFLUSH, &quiet) == 0;
}

static KwSecret *
new_line_buffer (GError **error)
{
  /* A byte more, to see that a line is too long, and one for its end. */
  return kw_secret_new (KW_MAX_PIN_BYTES + 2, error);
}

static gboolean
set_read_error (GError **error, const char *reason)
{
  g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "No PIN was read: %s", reason);
  return FALSE;
}

/* Adds what there is to read; @out_done when the line is complete. */
static gboolean
read_some (int fd, KwSecret *line, gsize *in_out_n_read, gboolean *out_done, GError **error)
{
  guint8 *data = kw_secret_get_data (line);
  gssize n = read (fd, data + *in_out_n_read, 1);
  int saved_errno = errno;

  if (n < 0 && saved_errno == EINTR)
    return TRUE;
  if (n < 0)
    return set_read_error (error, g_strerror (saved_errno));
  *out_done = n == 0 || data[*in_out_n_read] == '\n';
  if (!*out_done)
    (*in_out_n_read)++;
  if (*in_out_n_read == kw_secret_get_size (line))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_PIN_INVALID, "A PIN has at most %d bytes",
                   KW_MAX_PIN_BYTES);
      return FALSE;
    }
  return TRUE;
}

static KwSecret *
finish_line (KwSecret *line, gsize n_read, GError **error)
{
  if (n_read > 0 && kw_secret_get_data (line)[n_read - 1] == '\r')
    n_read--;
  if (n_read > KW_MAX_PIN_BYTES)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_PIN_INVALID, "A PIN has at most %d bytes",
                   KW_MAX_PIN_BYTES);
      return NULL;
    }
  kw_secret_truncate (line, n_read);
  return kw_secret_ref (line);
}

/* Reads the first line of @fd, byte by byte so that nothing behind it is taken; an empty one is an empty secret. */
KwSecret *
kw_cli_read_secret_line (int fd, GError **error)
{
  g_autoptr (KwSecret) line = new_line_buffer (error);
  gsize n_read = 0;
  gboolean done = FALSE;

  while (line != NULL && !done)
    {
      if (!read_some (fd, line, &n_read, &done, error))
        return NULL;
    }
  return line != NULL ? finish_line (line, n_read, error) : NULL;
}

/* Gives a signal that was held back its usual effect, with the terminal as it was before. */
static void
deliver_signal (int signal_fd, const struct termios *usual, const sigset_t *held)
{
  struct signalfd_siginfo info;

  if (read (signal_fd, &info, sizeof info) != sizeof info)
    return;
  tcsetattr (STDIN_FILENO, TCSAFLUSH, usual);
  raise ((int) info.ssi_signo);
  sigprocmask (SIG_UNBLOCK, held, NULL);
  /* Here again after SIGTSTP and fg. */
  sigprocmask (SIG_BLOCK, held, NULL);
  set_echo_off (usual);
}

static KwSecret *
read_quietly (int signal_fd, const struct termios *usual, const sigset_t *held, GError **error)
{
  g_autoptr (KwSecret) line = new_line_buffer (error);
  gsize n_read = 0;
  gboolean done = FALSE;

  while (line != NULL && !done)
    {
      struct pollfd sources[] = { { STDIN_FILENO, POLLIN, 0 }, { signal_fd, POLLIN, 0 } };

      if (poll (sources, G_N_ELEMENTS (sources), -1) < 0 && errno != EINTR)
        {
          set_read_error (error, g_strerror (errno));
          return NULL;
        }
      if (sources[1].revents != 0)
        deliver_signal (signal_fd, usual, held);
      else if (sources[0].revents != 0 && !read_some (STDIN_FILENO, line, &n_read, &done, error))
        return NULL;
    }
  return line != NULL ? finish_line (line, n_read, error) : NULL;
}

/* Asks at the terminal; the answer may be empty. */
KwSecret *
kw_cli_prompt_secret (const char *prompt, GError **error)
{
  KwSecret *secret = NULL;
  struct termios usual;
  sigset_t held;
  sigset_t before;
  int signal_fd = -1;

  if (tcgetattr (STDIN_FILENO, &usual) != 0)
    {
      set_read_error (error, "standard input is no terminal");
      return NULL;
    }
  sigemptyset (&held);
  for (guint i = 0; i < G_N_ELEMENTS (held_signals); i++)
    sigaddset (&held, held_signals[i]);
  signal_fd = signalfd (-1, &held, SFD_CLOEXEC | SFD_NONBLOCK);
  sigprocmask (SIG_BLOCK, &held, &before);
  if (signal_fd >= 0 && set_echo_off (&usual))
    {
      g_autofree char *translated = kw_cli_translate (prompt);

      g_printerr ("%s", translated);
      secret = read_quietly (signal_fd, &usual, &held, error);
      g_printerr ("\n");
    }
  else
    set_read_error (error, "the terminal's echo cannot be turned off");
  tcsetattr (STDIN_FILENO, TCSAFLUSH, &usual);
  sigprocmask (SIG_SETMASK, &before, NULL);
  if (signal_fd >= 0)
    close (signal_fd);
  return secret;
}
