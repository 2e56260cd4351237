/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-daemon-rig"

#include "kw-daemon-rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/*
 * The real daemon on a SoftHSM2 token of its own, in a private directory, on a free port; with what is needed to talk to
 * it as ownCloud does, and as no well-behaved client would. Everything it waits for has a deadline; a failure ends the
 * test.
 */
struct _KwDaemonRig
{
  KwSoftHsm *soft_hsm; /* owned */
  char *directory;     /* owned */
  char *config_path;   /* owned */
  char *line_path;     /* owned */
  char *token_path;    /* owned */
  char *log_path;      /* owned */
  char *module;        /* owned */
  char *pin;           /* owned */
  char *extra_config;  /* owned */
  char *log_level;     /* owned */
  char *whole_config;  /* owned, nullable */
  char *pkcs11_config; /* owned */
  char **wrapper;      /* owned, nullable */
  guint16 port;
  GSubprocessLauncher *launcher; /* owned */
  GSubprocess *process;          /* owned, nullable */
};

#define WAIT_SECONDS 60 /* sanitized builds on a busy machine are slow */
#define POLL_USEC 2000
#define START_TRIES 5
#define MAX_HEAD 65536

/**
 * kw_test_listen_tcp:
 * @out_port: (out): the port
 *
 * Returns: a socket that listens on a free port of the loopback
 */
int
kw_test_listen_tcp (guint16 *out_port)
{
  struct sockaddr_in address
      = { .sin_family = AF_INET, .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  socklen_t size = sizeof address;
  int fd = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

  g_assert_cmpint (fd, >=, 0);
  g_assert_cmpint (bind (fd, (struct sockaddr *) &address, sizeof address), ==, 0);
  g_assert_cmpint (getsockname (fd, (struct sockaddr *) &address, &size), ==, 0);
  g_assert_cmpint (listen (fd, SOMAXCONN), ==, 0);
  *out_port = ntohs (address.sin_port);
  return fd;
}

/**
 * kw_test_find_free_port:
 *
 * Returns: a port that nobody listened on just now
 */
guint16
kw_test_find_free_port (void)
{
  guint16 port = 0;

  close (kw_test_listen_tcp (&port));
  return port;
}

/**
 * kw_test_connect_tcp:
 * @port: a port
 *
 * Returns: a blocking socket connected to that port of the loopback
 */
int
kw_test_connect_tcp (guint16 port)
{
  struct sockaddr_in address = { .sin_family = AF_INET,
                                 .sin_port = htons (port),
                                 .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  int fd = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int one = 1;

  g_assert_cmpint (fd, >=, 0);
  g_assert_cmpint (connect (fd, (struct sockaddr *) &address, sizeof address), ==, 0);
  setsockopt (fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

static void
write_config (KwDaemonRig *self)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *text = NULL;

  if (self->whole_config != NULL)
    {
      g_auto (GStrv) around_port = g_strsplit (self->whole_config, "@PORT@", -1);
      g_autofree char *port = g_strdup_printf ("%u", self->port);
      g_autofree char *whole = g_strjoinv (port, around_port);

      g_file_set_contents_full (self->config_path, whole, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600,
                                &error);
      g_assert_no_error (error);
      return;
    }
  text = g_strdup_printf ("[logger]\nlevel = \"%s\"\npath = \"%s\"\n"
                          "[jwt]\nsecret = \"%s\"\n"
                          "[pkcs11]\nmodule = \"%s\"\npin = \"%s\"\ntoken_label = \"%s\"\n%s"
                          "[state]\ndirectory = \"%s/state\"\n"
                          "%s\n",
                          self->log_level, self->log_path, KW_TEST_JWT_SECRET, self->module,
                          self->pin, KW_TEST_TOKEN_LABEL, self->pkcs11_config, self->directory,
                          self->extra_config);
  /* Tables may stand once only, so what a test adds to them is put in by these two marks. */
  {
    g_auto (GStrv) server = g_strsplit (text, "@SERVER@", 2);
    g_autofree char *server_keys = g_strdup_printf ("[server]\nport = %u\n", self->port);
    g_autofree char *with_server = server[1] != NULL
                                       ? g_strconcat (server[0], server_keys, server[1], NULL)
                                       : g_strconcat (text, server_keys, NULL);
    g_auto (GStrv) line = g_strsplit (with_server, "@LINE@", 2);
    g_autofree char *line_keys = g_strdup_printf ("[line]\nsocket = \"%s\"\ntoken_file = \"%s\"\n",
                                                  self->line_path, self->token_path);
    g_autofree char *whole = line[1] != NULL ? g_strconcat (line[0], line_keys, line[1], NULL)
                                             : g_strconcat (with_server, line_keys, NULL);

    g_file_set_contents_full (self->config_path, whole, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600,
                              &error);
  }
  g_assert_no_error (error);
}

/* A test that fails must not leave a daemon behind. Runs in the child. */
static void
end_with_parent (gpointer user_data G_GNUC_UNUSED)
{
  (void) prctl (PR_SET_PDEATHSIG, SIGKILL);
}

static void
spawn (KwDaemonRig *self)
{
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();
  g_autoptr (GError) error = NULL;
  g_auto (GStrv) argv = NULL;

  if (self->wrapper != NULL)
    g_strv_builder_addv (builder, (const char **) self->wrapper);
  g_strv_builder_add_many (builder, KW_TEST_KEYWARDD, "--config", self->config_path, NULL);
  argv = g_strv_builder_end (builder);
  self->process = g_subprocess_launcher_spawnv (self->launcher, (const char *const *) argv, &error);
  g_assert_no_error (error);
}

/**
 * kw_daemon_rig_new:
 * @module: (nullable): PKCS#11 module; %NULL = SoftHSM2
 * @extra_config: (nullable): TOML that is added; what follows a line "@SERVER@" or "@LINE@" goes into table [server] or
 *   [line]
 *
 * Makes a token and a configuration; nothing runs yet.
 *
 * Returns: (transfer full): the rig
 */
KwDaemonRig *
kw_daemon_rig_new (const char *module, const char *extra_config)
{
  KwDaemonRig *self = g_new0 (KwDaemonRig, 1);
  g_autoptr (GError) error = NULL;

  self->soft_hsm = kw_soft_hsm_new ();
  kw_soft_hsm_add_token (self->soft_hsm, KW_TEST_TOKEN_LABEL, KW_TEST_SO_PIN, KW_TEST_PIN);
  self->directory = g_dir_make_tmp ("kw-rig-XXXXXX", &error);
  g_assert_no_error (error);
  self->config_path = g_build_filename (self->directory, "keyward.toml", NULL);
  self->line_path = g_build_filename (self->directory, "line.sock", NULL);
  self->token_path = g_build_filename (self->directory, "line.token", NULL);
  self->log_path = g_build_filename (self->directory, "log", NULL);
  self->module = g_strdup (module != NULL ? module : kw_soft_hsm_find_module ());
  self->pin = g_strdup (KW_TEST_PIN);
  self->log_level = g_strdup ("debug");
  self->pkcs11_config = g_strdup ("");
  self->extra_config = g_strdup (extra_config != NULL ? extra_config : "");
  self->launcher = g_subprocess_launcher_new (G_SUBPROCESS_FLAGS_NONE);
  g_subprocess_launcher_set_child_setup (self->launcher, end_with_parent, NULL, NULL);
  g_subprocess_launcher_setenv (self->launcher, "SOFTHSM2_CONF",
                                kw_soft_hsm_get_conf (self->soft_hsm), TRUE);
  g_subprocess_launcher_setenv (self->launcher, "KEYWARD_PLUGIN_PATH", KW_TEST_PLUGIN_PATH, TRUE);
  /* No bus but what a test brings. */
  g_subprocess_launcher_setenv (self->launcher, "DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent",
                                TRUE);
  return self;
}

/**
 * kw_daemon_rig_free:
 * @self: (transfer full): a rig
 *
 * Ends the daemon and removes everything.
 */
void
kw_daemon_rig_free (KwDaemonRig *self)
{
  if (self->process != NULL)
    kw_daemon_rig_stop (self);
  kw_soft_hsm_remove_tree (self->directory);
  kw_soft_hsm_free (self->soft_hsm);
  g_object_unref (self->launcher);
  g_free (self->directory);
  g_free (self->config_path);
  g_free (self->line_path);
  g_free (self->token_path);
  g_free (self->log_path);
  g_free (self->module);
  g_free (self->pin);
  g_free (self->extra_config);
  g_free (self->log_level);
  g_free (self->whole_config);
  g_free (self->pkcs11_config);
  g_strfreev (self->wrapper);
  g_free (self);
}

/**
 * kw_daemon_rig_set_environment:
 * @self: a rig
 * @name: name of a variable
 * @value: its value in daemons launched from now on
 *
 * Sets a variable of the daemon's environment.
 */
void
kw_daemon_rig_set_environment (KwDaemonRig *self, const char *name, const char *value)
{
  g_subprocess_launcher_setenv (self->launcher, name, value, TRUE);
}

/**
 * kw_daemon_rig_pass_socket:
 * @self: a rig
 * @fd: (transfer full): a listening socket
 * @target_fd: the number it has in the daemon
 *
 * Lets the next daemon inherit a socket, as systemd does; the test sets LISTEN_FDS and its like.
 */
void
kw_daemon_rig_pass_socket (KwDaemonRig *self, int fd, int target_fd)
{
  g_subprocess_launcher_take_fd (self->launcher, fd, target_fd);
}

/**
 * kw_daemon_rig_set_extra_config:
 * @self: a rig
 * @text: as for kw_daemon_rig_new()
 *
 * Changes what is added to the configuration from the next launch on.
 */
void
kw_daemon_rig_set_extra_config (KwDaemonRig *self, const char *text)
{
  g_free (self->extra_config);
  self->extra_config = g_strdup (text);
}

/**
 * kw_daemon_rig_set_pkcs11_config:
 * @self: a rig
 * @text: lines for table [pkcs11]
 *
 * Adds to table [pkcs11] from the next launch on.
 */
void
kw_daemon_rig_set_pkcs11_config (KwDaemonRig *self, const char *text)
{
  g_free (self->pkcs11_config);
  self->pkcs11_config = g_strdup (text);
}

/**
 * kw_daemon_rig_set_wrapper:
 * @self: a rig
 * @command: (array zero-terminated=1): a program that runs the daemon in its own place, with its arguments
 *
 * Launches the daemon by another program from now on.
 */
void
kw_daemon_rig_set_wrapper (KwDaemonRig *self, const char *const *command)
{
  g_strfreev (self->wrapper);
  self->wrapper = g_strdupv ((char **) command);
}

/**
 * kw_daemon_rig_set_config:
 * @self: a rig
 * @text: a whole configuration; "@PORT@" stands for the port
 *
 * Uses a configuration of the test's own from the next launch on. It should log to "log" in the rig's directory.
 */
void
kw_daemon_rig_set_config (KwDaemonRig *self, const char *text)
{
  g_free (self->whole_config);
  self->whole_config = g_strdup (text);
}

/**
 * kw_daemon_rig_set_pin:
 * @self: a rig
 * @pin: the PIN that the configuration has from the next launch on
 *
 * Changes the configured PIN; the token keeps its own.
 */
void
kw_daemon_rig_set_pin (KwDaemonRig *self, const char *pin)
{
  g_free (self->pin);
  self->pin = g_strdup (pin);
}

/**
 * kw_daemon_rig_set_log_level:
 * @self: a rig
 * @level: `[logger] level` from the next launch on
 *
 * Changes what the daemon logs; "debug" at first.
 */
void
kw_daemon_rig_set_log_level (KwDaemonRig *self, const char *level)
{
  g_free (self->log_level);
  self->log_level = g_strdup (level);
}

/**
 * kw_daemon_rig_launch:
 * @self: a rig
 *
 * Starts the daemon on a free port and waits until it listens or has ended.
 */
void
kw_daemon_rig_launch (KwDaemonRig *self)
{
  for (guint i = 0; i < START_TRIES; i++)
    {
      g_autofree char *log = NULL;
      gint64 deadline = g_get_monotonic_time () + WAIT_SECONDS * G_TIME_SPAN_SECOND;

      self->port = kw_test_find_free_port ();
      write_config (self);
      g_unlink (self->log_path);
      spawn (self);
      do
        {
          g_usleep (POLL_USEC);
          g_free (log);
          log = kw_daemon_rig_dup_log (self);
          g_assert_cmpint (g_get_monotonic_time (), <, deadline);
        }
      while (strstr (log, "Server listening") == NULL && strstr (log, "Cannot start") == NULL
             && kill (kw_daemon_rig_get_pid (self), 0) == 0
             && g_subprocess_get_identifier (self->process) != NULL);
      if (strstr (log, "Address already in use") == NULL)
        return;
      g_assert_true (kw_daemon_rig_wait_for_exit (self, WAIT_SECONDS));
    }
  g_assert_not_reached ();
}

/**
 * kw_daemon_rig_start:
 * @self: a rig
 *
 * Starts the daemon and waits until its device is ready.
 */
void
kw_daemon_rig_start (KwDaemonRig *self)
{
  kw_daemon_rig_launch (self);
  kw_daemon_rig_wait_for_log (self, "\"state\":\"ready\"");
}

/**
 * kw_daemon_rig_dup_refusal:
 * @self: a rig whose daemon does not run
 *
 * Starts a daemon that must refuse to run: exit status 1.
 *
 * Returns: (transfer full): what it said on stderr
 */
char *
kw_daemon_rig_dup_refusal (KwDaemonRig *self)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GSubprocess) process = NULL;
  char *errors = NULL;

  self->port = kw_test_find_free_port ();
  write_config (self);
  g_unlink (self->log_path);
  g_subprocess_launcher_set_flags (self->launcher, G_SUBPROCESS_FLAGS_STDERR_PIPE);
  process = g_subprocess_launcher_spawn (self->launcher, &error, KW_TEST_KEYWARDD, "--config",
                                         self->config_path, NULL);
  g_assert_no_error (error);
  g_subprocess_launcher_set_flags (self->launcher, G_SUBPROCESS_FLAGS_NONE);
  g_subprocess_communicate_utf8 (process, NULL, NULL, NULL, &errors, &error);
  g_assert_no_error (error);
  g_assert_true (g_subprocess_get_if_exited (process));
  g_assert_cmpint (g_subprocess_get_exit_status (process), ==, 1);
  return errors;
}

/**
 * kw_daemon_rig_wait_for_exit:
 * @self: a rig whose daemon runs
 * @seconds: how long to wait
 *
 * Returns: %TRUE when it has ended, whatever its exit status
 */
gboolean
kw_daemon_rig_wait_for_exit (KwDaemonRig *self, guint seconds)
{
  gint64 deadline = g_get_monotonic_time () + (gint64) seconds * G_TIME_SPAN_SECOND;

  while (g_subprocess_get_identifier (self->process) != NULL)
    {
      if (g_get_monotonic_time () > deadline)
        return FALSE;
      g_main_context_iteration (NULL, FALSE);
      g_usleep (POLL_USEC);
    }
  g_clear_object (&self->process);
  return TRUE;
}

/**
 * kw_daemon_rig_stop:
 * @self: a rig whose daemon runs
 *
 * Ends the daemon as systemd does; it must end by itself with status 0.
 */
void
kw_daemon_rig_stop (KwDaemonRig *self)
{
  g_autoptr (GError) error = NULL;

  g_subprocess_send_signal (self->process, SIGTERM);
  g_subprocess_wait (self->process, NULL, &error);
  g_assert_no_error (error);
  if (!g_subprocess_get_successful (self->process))
    {
      g_autofree char *log = kw_daemon_rig_dup_log (self);

      g_test_message ("daemon's log:\n%s", log);
    }
  g_assert_true (g_subprocess_get_if_exited (self->process));
  g_assert_cmpint (g_subprocess_get_exit_status (self->process), ==, 0);
  g_clear_object (&self->process);
}

/**
 * kw_daemon_rig_kill:
 * @self: a rig whose daemon runs
 *
 * Ends the daemon as a power cut does.
 */
void
kw_daemon_rig_kill (KwDaemonRig *self)
{
  g_subprocess_force_exit (self->process);
  g_subprocess_wait (self->process, NULL, NULL);
  g_clear_object (&self->process);
}

/**
 * kw_daemon_rig_wait_for_log:
 * @self: a rig
 * @text: text that the log must show
 *
 * Waits for a line of the log.
 */
void
kw_daemon_rig_wait_for_log (KwDaemonRig *self, const char *text)
{
  gint64 deadline = g_get_monotonic_time () + WAIT_SECONDS * G_TIME_SPAN_SECOND;

  for (;;)
    {
      g_autofree char *log = kw_daemon_rig_dup_log (self);

      if (strstr (log, text) != NULL)
        return;
      if (g_get_monotonic_time () > deadline)
        g_test_message ("waited for %s in:\n%s", text, log);
      g_assert_cmpint (g_get_monotonic_time (), <=, deadline);
      g_usleep (POLL_USEC);
    }
}

static char *
dup_file (const char *path)
{
  char *text = NULL;

  if (!g_file_get_contents (path, &text, NULL, NULL))
    return g_strdup ("");
  return text;
}

/**
 * kw_daemon_rig_dup_log:
 * @self: a rig
 *
 * Returns: (transfer full): the log since the last launch
 */
char *
kw_daemon_rig_dup_log (KwDaemonRig *self)
{
  return dup_file (self->log_path);
}

/**
 * kw_daemon_rig_dup_audit:
 * @self: a rig
 *
 * Returns: (transfer full): the audit log
 */
char *
kw_daemon_rig_dup_audit (KwDaemonRig *self)
{
  g_autofree char *path = g_build_filename (self->directory, "state", "audit.log", NULL);

  return dup_file (path);
}

/**
 * kw_daemon_rig_get_pid:
 * @self: a rig
 *
 * Returns: the daemon's process id; 0 when it has ended
 */
int
kw_daemon_rig_get_pid (KwDaemonRig *self)
{
  const char *identifier
      = self->process != NULL ? g_subprocess_get_identifier (self->process) : NULL;

  return identifier != NULL ? (int) g_ascii_strtoll (identifier, NULL, 10) : 0;
}

/**
 * kw_daemon_rig_get_port:
 * @self: a rig
 *
 * Returns: the HTTP port
 */
guint16
kw_daemon_rig_get_port (KwDaemonRig *self)
{
  return self->port;
}

/**
 * kw_daemon_rig_get_directory:
 * @self: a rig
 *
 * Returns: (transfer none): its directory
 */
const char *
kw_daemon_rig_get_directory (KwDaemonRig *self)
{
  return self->directory;
}

/**
 * kw_daemon_rig_get_config_path:
 * @self: a rig
 *
 * Returns: (transfer none): the daemon's configuration file; written at each launch
 */
const char *
kw_daemon_rig_get_config_path (KwDaemonRig *self)
{
  return self->config_path;
}

/**
 * kw_daemon_rig_get_soft_hsm:
 * @self: a rig
 *
 * Returns: (transfer none): its tokens
 */
KwSoftHsm *
kw_daemon_rig_get_soft_hsm (KwDaemonRig *self)
{
  return self->soft_hsm;
}

/**
 * kw_daemon_rig_dup_line_token:
 * @self: a rig whose daemon runs
 *
 * Returns: (transfer full): the token of the line socket
 */
char *
kw_daemon_rig_dup_line_token (KwDaemonRig *self)
{
  return g_strstrip (dup_file (self->token_path));
}

/**
 * kw_daemon_rig_connect_http:
 * @self: a rig whose daemon runs
 *
 * Returns: a blocking socket connected to the web API
 */
int
kw_daemon_rig_connect_http (KwDaemonRig *self)
{
  return kw_test_connect_tcp (self->port);
}

/**
 * kw_daemon_rig_connect_line:
 * @self: a rig whose daemon runs
 *
 * Returns: a blocking socket connected to the line socket
 */
int
kw_daemon_rig_connect_line (KwDaemonRig *self)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

  g_assert_cmpint (fd, >=, 0);
  g_strlcpy (address.sun_path, self->line_path, sizeof address.sun_path);
  g_assert_cmpint (connect (fd, (struct sockaddr *) &address, sizeof address), ==, 0);
  return fd;
}

static char *
base64url (gconstpointer data, gsize size)
{
  char *text = g_base64_encode (data, size);

  g_strdelimit (text, "+", '-');
  g_strdelimit (text, "/", '_');
  text[strcspn (text, "=")] = '\0';
  return text;
}

/**
 * kw_test_make_jwt:
 * @secret: key of HMAC-SHA-256
 * @header: JSON text of the header
 * @claims: text of the claims, JSON or not
 *
 * Signs whatever it is given with HS256.
 *
 * Returns: (transfer full): a token
 */
char *
kw_test_make_jwt (const char *secret, const char *header, const char *claims)
{
  g_autofree char *head = base64url (header, strlen (header));
  g_autofree char *body = base64url (claims, strlen (claims));
  g_autofree char *signed_text = g_strconcat (head, ".", body, NULL);
  g_autoptr (GHmac) hmac = g_hmac_new (G_CHECKSUM_SHA256, (const guint8 *) secret, strlen (secret));
  guint8 digest[32];
  gsize n_digest = sizeof digest;
  g_autofree char *signature = NULL;

  g_hmac_update (hmac, (const guint8 *) signed_text, -1);
  g_hmac_get_digest (hmac, digest, &n_digest);
  signature = base64url (digest, n_digest);
  return g_strconcat (signed_text, ".", signature, NULL);
}

/**
 * kw_test_make_claims:
 * @expires_in: seconds from now to "exp"
 * @issued_in: seconds from now to "iat"
 * @audience: "aud"
 *
 * Returns: (transfer full): claims as ownCloud makes them
 */
char *
kw_test_make_claims (gint64 expires_in, gint64 issued_in, const char *audience)
{
  gint64 now = g_get_real_time () / G_USEC_PER_SEC;

  return g_strdup_printf (
      "{\"iss\":\"oc1234\",\"sub\":\"master\",\"aud\":\"%s\",\"exp\":%" G_GINT64_FORMAT
      ",\"iat\":%" G_GINT64_FORMAT ",\"rid\":\"request-1\",\"jti\":\"1\"}",
      audience, now + expires_in, now + issued_in);
}

/**
 * kw_daemon_rig_make_jwt:
 * @self: a rig
 *
 * Returns: (transfer full): a token that the daemon accepts for an hour
 */
char *
kw_daemon_rig_make_jwt (KwDaemonRig *self G_GNUC_UNUSED)
{
  g_autofree char *claims = kw_test_make_claims (3600, 0, "hsmdaemon");

  return kw_test_make_jwt (KW_TEST_JWT_SECRET, "{\"alg\":\"HS256\",\"typ\":\"JWT\"}", claims);
}

/**
 * kw_test_send:
 * @fd: a blocking socket
 * @data: bytes
 * @size: how many; −1 = a string
 *
 * Sends everything; a peer that has closed is no failure here.
 */
void
kw_test_send (int fd, gconstpointer data, gssize size)
{
  gsize n_left = size < 0 ? strlen (data) : (gsize) size;
  const char *p = data;

  while (n_left > 0)
    {
      gssize n = send (fd, p, n_left, MSG_NOSIGNAL);

      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        return;
      p += n;
      n_left -= (gsize) n;
    }
}

static gssize
receive (int fd, gpointer data, gsize size)
{
  struct timeval limit = { .tv_sec = WAIT_SECONDS };
  gssize n = 0;

  setsockopt (fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  do
    n = recv (fd, data, size, 0);
  while (n < 0 && errno == EINTR);
  g_assert_false (n < 0 && errno == EAGAIN);
  return n;
}

/**
 * kw_test_response_free:
 * @response: (transfer full): a response
 *
 * Frees a response.
 */
void
kw_test_response_free (KwTestResponse *response)
{
  g_free (response->head);
  g_bytes_unref (response->body);
  g_free (response);
}

static gsize
stated_length (const char *head)
{
  const char *length = NULL;

  for (const char *line = head; line != NULL && length == NULL; line = strstr (line, "\r\n"))
    {
      line += line[0] == '\r' ? 2 : 0;
      if (g_ascii_strncasecmp (line, "content-length:", 15) == 0)
        length = line + 15;
    }
  return length != NULL ? (gsize) g_ascii_strtoull (length, NULL, 10) : 0;
}

/**
 * kw_test_receive_response:
 * @fd: a blocking socket
 *
 * Returns: (transfer full) (nullable): the next response; %NULL when the peer closed instead
 */
KwTestResponse *
kw_test_receive_response (int fd)
{
  g_autoptr (GString) head = g_string_new (NULL);
  g_autofree guint8 *body = NULL;
  KwTestResponse *response = NULL;
  gsize n_body = 0;

  while (!g_str_has_suffix (head->str, "\r\n\r\n"))
    {
      char c = 0;

      if (receive (fd, &c, 1) <= 0)
        return NULL;
      g_string_append_c (head, c);
      g_assert_cmpuint (head->len, <, MAX_HEAD);
      if (g_str_equal (head->str, "HTTP/1.1 100 Continue\r\n\r\n"))
        g_string_truncate (head, 0);
    }
  n_body = stated_length (head->str);
  body = g_malloc (n_body + 1);
  for (gsize n_read = 0; n_read < n_body;)
    {
      gssize n = receive (fd, body + n_read, n_body - n_read);

      if (n <= 0)
        return NULL;
      n_read += (gsize) n;
    }
  response = g_new0 (KwTestResponse, 1);
  response->status = (guint) g_ascii_strtoull (head->str + strlen ("HTTP/1.1 "), NULL, 10);
  response->head = g_string_free (g_steal_pointer (&head), FALSE);
  response->body = g_bytes_new_take (g_steal_pointer (&body), n_body);
  return response;
}

/**
 * kw_test_receive_line:
 * @fd: a blocking socket
 *
 * Returns: (transfer full) (nullable): the next line, without its CRLF; %NULL when the peer closed instead
 */
char *
kw_test_receive_line (int fd)
{
  g_autoptr (GString) line = g_string_new (NULL);

  while (!g_str_has_suffix (line->str, "\r\n"))
    {
      char c = 0;

      if (receive (fd, &c, 1) <= 0)
        return NULL;
      g_string_append_c (line, c);
    }
  g_string_truncate (line, line->len - 2);
  return g_string_free (g_steal_pointer (&line), FALSE);
}

/**
 * kw_test_receive_end:
 * @fd: a blocking socket
 *
 * Returns: %TRUE when the peer closes without another byte
 */
gboolean
kw_test_receive_end (int fd)
{
  char c = 0;

  return receive (fd, &c, 1) <= 0;
}

/**
 * kw_daemon_rig_post:
 * @self: a rig whose daemon runs
 * @path: path of the request
 * @jwt: (nullable): token
 * @body: (nullable): body
 *
 * Makes one request on a connection of its own.
 *
 * Returns: (transfer full): the response
 */
KwTestResponse *
kw_daemon_rig_post (KwDaemonRig *self, const char *path, const char *jwt, GBytes *body)
{
  int fd = kw_daemon_rig_connect_http (self);
  gsize n_body = body != NULL ? g_bytes_get_size (body) : 0;
  g_autofree char *authorization
      = jwt != NULL ? g_strdup_printf ("Authorization: Bearer %s\r\n", jwt) : g_strdup ("");
  g_autofree char *head
      = g_strdup_printf ("POST %s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %" G_GSIZE_FORMAT
                         "\r\nConnection: close\r\n\r\n",
                         path, authorization, n_body);
  KwTestResponse *response = NULL;

  kw_test_send (fd, head, -1);
  if (body != NULL)
    kw_test_send (fd, g_bytes_get_data (body, NULL), (gssize) n_body);
  response = kw_test_receive_response (fd);
  close (fd);
  g_assert_nonnull (response);
  return response;
}

/**
 * kw_daemon_rig_make_key:
 * @self: a rig whose daemon runs
 * @out_pem: (out) (optional): its public half
 *
 * Makes a key by the web API.
 *
 * Returns: (transfer full): its UUID
 */
char *
kw_daemon_rig_make_key (KwDaemonRig *self, char **out_pem)
{
  g_autofree char *jwt = kw_daemon_rig_make_jwt (self);
  g_autoptr (KwTestResponse) response = kw_daemon_rig_post (self, "/keys/new", jwt, NULL);
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_autoptr (GError) error = NULL;
  JsonObject *object = NULL;

  g_assert_cmpuint (response->status, ==, 200);
  json_parser_load_from_data (parser, g_bytes_get_data (response->body, NULL),
                              (gssize) g_bytes_get_size (response->body), &error);
  g_assert_no_error (error);
  object = json_node_get_object (json_parser_get_root (parser));
  if (out_pem != NULL)
    *out_pem = g_strdup (json_object_get_string_member (object, "publicKey"));
  return g_strdup (json_object_get_string_member (object, "privateKeyId"));
}

/**
 * kw_test_encrypt:
 * @pem: an RSA public key
 * @plaintext: what to encrypt
 *
 * Encrypts with PKCS#1 v1.5 by OpenSSL, as ownCloud does.
 *
 * Returns: (transfer full): the ciphertext
 */
GBytes *
kw_test_encrypt (const char *pem, GBytes *plaintext)
{
  BIO *bio = BIO_new_mem_buf (pem, -1);
  EVP_PKEY *key = PEM_read_bio_PUBKEY (bio, NULL, NULL, NULL);
  EVP_PKEY_CTX *context = EVP_PKEY_CTX_new (key, NULL);
  gsize n = 0;
  guint8 *ciphertext = NULL;

  g_assert_nonnull (key);
  n = (gsize) EVP_PKEY_get_size (key);
  ciphertext = g_malloc (n);
  g_assert_cmpint (EVP_PKEY_encrypt_init (context), ==, 1);
  g_assert_cmpint (EVP_PKEY_CTX_set_rsa_padding (context, RSA_PKCS1_PADDING), ==, 1);
  g_assert_cmpint (EVP_PKEY_encrypt (context, ciphertext, &n, g_bytes_get_data (plaintext, NULL),
                                     g_bytes_get_size (plaintext)),
                   ==, 1);
  EVP_PKEY_CTX_free (context);
  EVP_PKEY_free (key);
  BIO_free (bio);
  return g_bytes_new_take (ciphertext, n);
}

/**
 * kw_test_uuid_to_bytes:
 * @uuid: a UUID
 *
 * Returns: (transfer full): its 16 bytes
 */
GBytes *
kw_test_uuid_to_bytes (const char *uuid)
{
  GByteArray *bytes = g_byte_array_new ();

  for (const char *p = uuid; *p != '\0'; p += *p == '-' ? 1 : 2)
    {
      guint8 byte = (guint8) (g_ascii_xdigit_value (p[0]) << 4 | g_ascii_xdigit_value (p[1]));

      if (*p != '-')
        g_byte_array_append (bytes, &byte, 1);
    }
  g_assert_cmpuint (bytes->len, ==, 16);
  return g_byte_array_free_to_bytes (bytes);
}

/**
 * kw_daemon_rig_time_first_answer:
 * @self: a rig whose daemon does not run
 * @uuid: a key
 * @jwt: token
 * @ciphertext: what to decrypt
 *
 * Starts the daemon and asks as soon as it takes a connection.
 *
 * Returns: microseconds from the start to the whole answer
 */
gint64
kw_daemon_rig_time_first_answer (KwDaemonRig *self,
                                 const char *uuid,
                                 const char *jwt,
                                 GBytes *ciphertext)
{
  g_autoptr (KwTestResponse) response = NULL;
  g_autofree char *path = g_strdup_printf ("/decrypt/%s", uuid);
  struct sockaddr_in address = { .sin_family = AF_INET,
                                 .sin_port = htons (self->port),
                                 .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  gint64 start = g_get_monotonic_time ();
  int result = -1;

  spawn (self);
  while (result != 0)
    {
      int fd = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

      result = connect (fd, (struct sockaddr *) &address, sizeof address);
      close (fd);
      if (result != 0)
        g_usleep (200);
      g_assert_cmpint (g_get_monotonic_time () - start, <, WAIT_SECONDS * G_TIME_SPAN_SECOND);
    }
  response = kw_daemon_rig_post (self, path, jwt, ciphertext);
  g_assert_cmpuint (response->status, ==, 200);
  return g_get_monotonic_time () - start;
}

/**
 * kw_test_count_descriptors:
 * @pid: a process
 *
 * Returns: how many descriptors it has open
 */
guint
kw_test_count_descriptors (int pid)
{
  g_autofree char *path = g_strdup_printf ("/proc/%d/fd", pid);
  g_autoptr (GDir) directory = g_dir_open (path, 0, NULL);
  guint n = 0;

  g_assert_nonnull (directory);
  while (g_dir_read_name (directory) != NULL)
    n++;
  return n;
}

/**
 * kw_test_resident_kib:
 * @pid: a process
 *
 * Returns: its resident memory in KiB
 */
guint64
kw_test_resident_kib (int pid)
{
  g_autofree char *path = g_strdup_printf ("/proc/%d/status", pid);
  g_autofree char *text = dup_file (path);
  const char *line = strstr (text, "VmRSS:");

  g_assert_nonnull (line);
  return g_ascii_strtoull (line + strlen ("VmRSS:"), NULL, 10);
}
