/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * Holds the namespaces that a card rig runs in, and starts its programs there.
 *
 *   keyward-card-namespace FOLDER   with a SOCK_SEQPACKET socket as its standard input
 *   keyward-card-namespace --probe  says whether this machine permits it, on stderr and by its status
 *
 * There are two processes. The outer one is in the mount namespace, so that /proc/PID/root/run/pcscd of it shows the
 * directory of the private pcscd for as long as the rig lives; it does nothing but wait for the inner one, and then
 * removes FOLDER. The inner one is process 1 of a process namespace: it takes requests from the socket, and when it
 * ends the kernel ends all that it started, frozen or not. It ends when the socket is closed, which the kernel does for
 * a test that is killed; and with the outer one.
 *
 * One packet is one request, of strings that end with NUL, and gets one packet back, "ok…" or "error …":
 *   spawn NAME LOG ARGV…   starts a program; its output is added to LOG
 *   signal NAME NUMBER     sends it a signal
 *   status NAME            "ok running", or "ok ended STATUS" with the status of waitpid()
 */

#define MAX_PROCESSES 32
#define MAX_NAME 32
#define MAX_PACKET 65536
#define MAX_ARGUMENTS 256
#define RUN_DIRECTORY "/run/pcscd"

extern char **environ;

typedef struct
{
  char name[MAX_NAME];
  pid_t pid;
  int running;
  int status; /* of waitpid () */
} Process;

typedef struct
{
  Process processes[MAX_PROCESSES];
  unsigned n_processes;
} Holder;

static void __attribute__ ((format (printf, 2, 3))) say (int fd, const char *format, ...)
{
  char text[1024];
  va_list arguments;
  int length = 0;

  va_start (arguments, format);
  length = vsnprintf (text, sizeof text, format, arguments);
  va_end (arguments);
  if (length >= (int) sizeof text)
    length = (int) sizeof text - 1;
  (void) !write (fd, text, (size_t) length);
}

static int
write_file (const char *path, const char *text)
{
  int fd = open (path, O_WRONLY | O_CLOEXEC);
  ssize_t written = 0;

  if (fd < 0)
    return -1;
  written = write (fd, text, strlen (text));
  close (fd);
  return written == (ssize_t) strlen (text) ? 0 : -1;
}

static int
map_user (uid_t uid, gid_t gid)
{
  char text[64];

  snprintf (text, sizeof text, "0 %u 1\n", (unsigned) uid);
  if (write_file ("/proc/self/uid_map", text) != 0)
    return -1;
  if (write_file ("/proc/self/setgroups", "deny") != 0 && errno != ENOENT)
    return -1;
  snprintf (text, sizeof text, "0 %u 1\n", (unsigned) gid);
  return write_file ("/proc/self/gid_map", text);
}

/* What failed, or NULL. Root needs no user namespace, except in containers that keep it from the others. */
static const char *
make_namespaces (void)
{
  const int flags = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC;
  uid_t uid = geteuid ();
  gid_t gid = getegid ();

  if (uid == 0 && unshare (flags) == 0)
    return NULL;
  if (unshare (flags | CLONE_NEWUSER) != 0)
    return "namespaces are not permitted here";
  if (map_user (uid, gid) != 0)
    return "the user cannot be mapped into a user namespace";
  /* Otherwise /proc/PID/root of this process would be closed to the user it belongs to. */
  (void) prctl (PR_SET_DUMPABLE, 1);
  return NULL;
}

static const char *
mount_private (void)
{
  struct stat status;
  const char *target = stat (RUN_DIRECTORY, &status) == 0 ? RUN_DIRECTORY : "/run";

  if (mount (NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
    return "mounts cannot be made private";
  if (mount ("keyward", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755") != 0)
    return "no tmpfs can be mounted on " RUN_DIRECTORY;
  if (mkdir (RUN_DIRECTORY, 0755) != 0 && errno != EEXIST)
    return RUN_DIRECTORY " cannot be made";
  return NULL;
}

/*
 * For programs that look themselves up by their process id; sanitizers do. Mounts of its own again, because the outer
 * process is not in that /proc. Containers may refuse it.
 */
static void
mount_proc (void)
{
  if (unshare (CLONE_NEWNS) == 0 && mount (NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
    (void) mount ("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

static const char *
raise_loopback (void)
{
  struct ifreq request = { .ifr_name = "lo" };
  int fd = socket (AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const char *problem = NULL;

  if (fd < 0)
    return "there is no IPv4";
  if (ioctl (fd, SIOCGIFFLAGS, &request) != 0)
    problem = "there is no loopback device";
  request.ifr_flags |= IFF_UP | IFF_RUNNING;
  if (problem == NULL && ioctl (fd, SIOCSIFFLAGS, &request) != 0)
    problem = "the loopback device cannot be brought up";
  close (fd);
  return problem;
}

static Process *
find_process (Holder *self, const char *name)
{
  for (unsigned i = 0; i < self->n_processes; i++)
    {
      if (strcmp (self->processes[i].name, name) == 0)
        return &self->processes[i];
    }
  return NULL;
}

static void
reap (Holder *self)
{
  int status = 0;
  pid_t pid = 0;

  while ((pid = waitpid (-1, &status, WNOHANG)) > 0)
    {
      for (unsigned i = 0; i < self->n_processes; i++)
        {
          if (self->processes[i].pid == pid && self->processes[i].running)
            {
              self->processes[i].running = 0;
              self->processes[i].status = status;
            }
        }
    }
}

static int
start_program (const char *log, char *const *argv, pid_t *out_pid)
{
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none, all;
  int error = 0;

  sigemptyset (&none);
  sigfillset (&all);
  posix_spawn_file_actions_init (&actions);
  posix_spawn_file_actions_addopen (&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen (&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2 (&actions, 1, 2);
  posix_spawnattr_init (&attributes);
  posix_spawnattr_setsigmask (&attributes, &none);
  posix_spawnattr_setsigdefault (&attributes, &all);
  posix_spawnattr_setflags (&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  error = posix_spawnp (out_pid, argv[0], &actions, &attributes, argv, environ);
  posix_spawnattr_destroy (&attributes);
  posix_spawn_file_actions_destroy (&actions);
  return error;
}

static void
do_spawn (Holder *self, int fd, char **arguments, unsigned n_arguments)
{
  Process *process = NULL;
  int error = 0;

  if (n_arguments < 4 || strlen (arguments[1]) >= MAX_NAME)
    {
      say (fd, "error spawn takes a name, a log and a command");
      return;
    }
  process = find_process (self, arguments[1]);
  if (process != NULL && process->running)
    {
      say (fd, "error %s runs already", arguments[1]);
      return;
    }
  if (process == NULL)
    {
      if (self->n_processes == MAX_PROCESSES)
        {
          say (fd, "error there are too many processes");
          return;
        }
      process = &self->processes[self->n_processes++];
      snprintf (process->name, sizeof process->name, "%s", arguments[1]);
    }
  error = start_program (arguments[2], arguments + 3, &process->pid);
  process->running = error == 0;
  process->status = 0;
  if (error != 0)
    say (fd, "error %s cannot be started: %s", arguments[3], strerror (error));
  else
    say (fd, "ok");
}

static void
do_signal (Holder *self, int fd, char **arguments, unsigned n_arguments)
{
  Process *process = n_arguments == 3 ? find_process (self, arguments[1]) : NULL;

  if (process == NULL || !process->running)
    say (fd, "error there is no such process");
  else if (kill (process->pid, (int) strtol (arguments[2], NULL, 10)) != 0)
    say (fd, "error %s", strerror (errno));
  else
    say (fd, "ok");
}

static void
do_status (Holder *self, int fd, char **arguments, unsigned n_arguments)
{
  Process *process = n_arguments == 2 ? find_process (self, arguments[1]) : NULL;

  if (process == NULL)
    say (fd, "error there is no such process");
  else if (process->running)
    say (fd, "ok running");
  else
    say (fd, "ok ended %d", process->status);
}

static void
serve_request (Holder *self, int fd, char *packet, size_t size)
{
  char *arguments[MAX_ARGUMENTS + 1] = { NULL };
  unsigned n_arguments = 0;

  for (size_t at = 0; at < size && n_arguments < MAX_ARGUMENTS; at += strlen (packet + at) + 1)
    arguments[n_arguments++] = packet + at;
  if (n_arguments > 0 && strcmp (arguments[0], "spawn") == 0)
    do_spawn (self, fd, arguments, n_arguments);
  else if (n_arguments > 0 && strcmp (arguments[0], "signal") == 0)
    do_signal (self, fd, arguments, n_arguments);
  else if (n_arguments > 0 && strcmp (arguments[0], "status") == 0)
    do_status (self, fd, arguments, n_arguments);
  else
    say (fd, "error there is no such request");
}

/* Process 1 of the process namespace. */
static int
run_inner (int fd)
{
  static char packet[MAX_PACKET + 1];
  Holder self = { .n_processes = 0 };
  struct pollfd polled[2] = { { .fd = fd, .events = POLLIN }, { .events = POLLIN } };
  const char *problem = NULL;
  sigset_t child;

  sigemptyset (&child);
  sigaddset (&child, SIGCHLD);
  sigprocmask (SIG_BLOCK, &child, NULL);
  polled[1].fd = signalfd (-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
  problem = polled[1].fd < 0 ? "there is no signalfd" : raise_loopback ();
  if (problem != NULL)
    {
      say (fd, "error %s: %s", problem, strerror (errno));
      return EXIT_FAILURE;
    }
  mount_proc ();
  say (fd, "ok");
  for (;;)
    {
      struct signalfd_siginfo info;
      ssize_t size = 0;

      if (poll (polled, 2, -1) < 0 && errno != EINTR)
        return EXIT_FAILURE;
      while (read (polled[1].fd, &info, sizeof info) > 0)
        ;
      reap (&self);
      if (polled[0].revents == 0)
        continue;
      size = read (fd, packet, MAX_PACKET);
      if (size <= 0)
        return EXIT_SUCCESS;
      packet[size] = '\0';
      serve_request (&self, fd, packet, (size_t) size);
    }
}

static int
remove_entry (const char *path, const struct stat *status, int kind, struct FTW *place)
{
  (void) status;
  (void) kind;
  (void) place;
  (void) remove (path);
  return 0;
}

static int
run_outer (int fd, const char *folder)
{
  const char *problem = make_namespaces ();
  pid_t pid = 0;
  int status = 0;

  if (problem == NULL)
    problem = mount_private ();
  if (problem == NULL)
    {
      pid = fork ();
      if (pid < 0)
        problem = "no process can be started in a process namespace";
    }
  if (problem != NULL)
    {
      say (fd, "error %s: %s", problem, strerror (errno));
      return EXIT_FAILURE;
    }
  if (pid == 0)
    {
      (void) prctl (PR_SET_PDEATHSIG, SIGKILL);
      return run_inner (fd);
    }
  /* Only the test and the inner process hold the socket: the end of either must be seen by the other. */
  close (fd);
  while (waitpid (pid, &status, 0) < 0 && errno == EINTR)
    ;
  if (folder != NULL)
    (void) nftw (folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
  /* Not by main(): LeakSanitizer would start a process there, which cannot be in a namespace that has ended. */
  _exit (WIFEXITED (status) ? WEXITSTATUS (status) : EXIT_FAILURE);
}

/* The inner process is done as soon as it has said "ok": its peer is closed. */
static int
probe (void)
{
  int ends[2];
  char answer[1024];
  ssize_t size = 0;
  pid_t pid = 0;

  if (socketpair (AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0 || (pid = fork ()) < 0)
    return EXIT_FAILURE;
  if (pid == 0)
    {
      close (ends[0]);
      return run_outer (ends[1], NULL);
    }
  close (ends[1]);
  size = read (ends[0], answer, sizeof answer - 1);
  close (ends[0]);
  while (waitpid (pid, NULL, 0) < 0 && errno == EINTR)
    ;
  if (size == 2 && memcmp (answer, "ok", 2) == 0)
    return EXIT_SUCCESS;
  answer[size > 0 ? size : 0] = '\0';
  fprintf (stderr, "%s\n",
           strncmp (answer, "error ", 6) == 0 ? answer + 6 : "the namespaces cannot be made");
  return EXIT_FAILURE;
}

int
main (int argc, char **argv)
{
  int fd = -1;

  signal (SIGPIPE, SIG_IGN);
  if (argc != 2)
    {
      fprintf (stderr, "usage: keyward-card-namespace FOLDER | --probe\n");
      return 2;
    }
  if (strcmp (argv[1], "--probe") == 0)
    return probe ();
  /* Ctrl-C is for the test; this here ends by the end of the test. */
  (void) setsid ();
  fd = fcntl (0, F_DUPFD_CLOEXEC, 3);
  if (fd < 0)
    return EXIT_FAILURE;
  close (0);
  (void) open ("/dev/null", O_RDONLY);
  return run_outer (fd, argv[1]);
}
