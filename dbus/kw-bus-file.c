/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-file.h"

#include "kw-bus-names.h"
#include "kw-bus-options.h"
#include "kw-error.h"
#include "kw-limits.h"
#include "kw-stream.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gunixfdlist.h>
#include <poll.h>
#include <unistd.h>

#define PROGRESS_USEC (250 * G_TIME_SPAN_MILLISECOND)
#define PIN_TIMEOUT_USEC (5 * G_TIME_SPAN_SECOND)

/* Given to threads, so it is counted. */
struct _KwBusFiles
{
  gatomicrefcount n_references;
  GDBusConnection *connection; /* owned */
  KwService *service;          /* owned */
  gint n_running;              /* atomic */
};

/* A file on its way. Belongs to its thread once that runs. */
typedef struct
{
  KwBusFiles *files; /* owned */
  KwBusCall *call;   /* answered by the thread */
  KwCaller *caller;  /* owned */
  gboolean encrypt;
  int input;                 /* owned */
  int output;                /* owned */
  char *key;                 /* owned, nullable: to encrypt under */
  char *progress;            /* owned, nullable: how the caller calls it */
  char *sender;              /* owned */
  GBytes *associated_data;   /* owned */
  GCancellable *cancellable; /* owned */
  gint64 last_progress;      /* monotonic */
  GMutex lock;
  GCond ended;
  gboolean job_ended; /* guarded by lock */
} Passage;

static void
files_unref (KwBusFiles *self)
{
  if (!g_atomic_ref_count_dec (&self->n_references))
    return;
  g_object_unref (self->connection);
  g_object_unref (self->service);
  g_free (self);
}

static void
passage_free (Passage *passage)
{
  if (passage->input >= 0)
    close (passage->input);
  if (passage->output >= 0)
    close (passage->output);
  g_clear_pointer (&passage->caller, kw_caller_unref);
  g_free (passage->key);
  g_free (passage->progress);
  g_free (passage->sender);
  g_clear_pointer (&passage->associated_data, g_bytes_unref);
  g_clear_object (&passage->cancellable);
  g_mutex_clear (&passage->lock);
  g_cond_clear (&passage->ended);
  files_unref (passage->files);
  g_free (passage);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Passage, passage_free)

/* To the caller alone. */
static void
on_progress (guint64 n_bytes, gpointer user_data)
{
  Passage *passage = user_data;
  gint64 now = g_get_monotonic_time ();

  if (passage->progress == NULL || now - passage->last_progress < PROGRESS_USEC)
    return;
  passage->last_progress = now;
  (void) g_dbus_connection_emit_signal (passage->files->connection, passage->sender, KW_BUS_PATH,
                                        KW_BUS_MANAGER_INTERFACE, "FileProgress",
                                        g_variant_new ("(st)", passage->progress, n_bytes), NULL);
}

static void
on_job_done (KwJob *job G_GNUC_UNUSED, gpointer user_data)
{
  Passage *passage = user_data;

  g_mutex_lock (&passage->lock);
  passage->job_ended = TRUE;
  g_cond_signal (&passage->ended);
  g_mutex_unlock (&passage->lock);
}

/* Has a device wrap or unwrap the key of the file, and waits for that: this thread has nothing else to do. */
static gboolean
run_job (Passage *passage, KwJob *job, GError **error)
{
  kw_job_set_callback (job, on_job_done, passage);
  kw_service_submit (passage->files->service, kw_job_ref (job));
  g_mutex_lock (&passage->lock);
  while (!passage->job_ended)
    g_cond_wait (&passage->ended, &passage->lock);
  g_mutex_unlock (&passage->lock);
  if (kw_job_get_error (job) == NULL)
    return TRUE;
  g_propagate_error (error, g_error_copy (kw_job_get_error (job)));
  return FALSE;
}

static KwJob *
encrypt_file (Passage *passage, const KwStream *stream, GError **error)
{
  g_autoptr (KwSecret) key = kw_secret_new_random (KW_STREAM_KEY_BYTES, error);
  g_autoptr (KwJob) job = NULL;

  if (key == NULL)
    return NULL;
  job = kw_job_new_encrypt (passage->caller, key, passage->associated_data);
  kw_job_set_key_name (job, passage->key);
  if (!run_job (passage, job, error)
      || !kw_stream_seal (stream, kw_job_get_envelope (job), key, error))
    return NULL;
  return g_steal_pointer (&job);
}

static KwJob *
decrypt_file (Passage *passage, const KwStream *stream, GError **error)
{
  g_autoptr (GBytes) envelope = kw_stream_read_envelope (stream, error);
  g_autoptr (KwJob) job = NULL;

  if (envelope == NULL)
    return NULL;
  job = kw_job_new_decrypt (passage->caller, envelope, passage->associated_data);
  if (!run_job (passage, job, error) || !kw_stream_open (stream, kw_job_get_plaintext (job), error))
    return NULL;
  return g_steal_pointer (&job);
}

static void
add_fact (GVariantBuilder *builder, const char *name, const char *text)
{
  if (text != NULL)
    g_variant_builder_add (builder, "{sv}", name, g_variant_new_string (text));
}

static gpointer
run_passage (gpointer data)
{
  g_autoptr (Passage) passage = data;
  const KwStream stream
      = { passage->input, passage->output, on_progress, passage, passage->cancellable };
  g_autoptr (GError) error = NULL;
  g_autoptr (KwJob) job = passage->encrypt ? encrypt_file (passage, &stream, &error)
                                           : decrypt_file (passage, &stream, &error);
  GVariantBuilder facts;

  /* Whoever reads the output sees its end when he hears the answer. */
  close (passage->output);
  passage->output = -1;
  kw_bus_peer_remove_file (kw_bus_call_get_peer (passage->call));
  g_atomic_int_add (&passage->files->n_running, -1);
  if (job == NULL)
    {
      kw_bus_call_fail (passage->call, error);
      return NULL;
    }
  g_variant_builder_init (&facts, G_VARIANT_TYPE_VARDICT);
  add_fact (&facts, KW_BUS_FACT_KEY, kw_job_get_key_name (job));
  add_fact (&facts, KW_BUS_FACT_FINGERPRINT, kw_job_get_fingerprint (job));
  add_fact (&facts, KW_BUS_FACT_DEVICE, kw_job_get_device_name (job));
  kw_bus_call_return (passage->call, g_variant_new ("(a{sv})", &facts));
  return NULL;
}

/* A descriptor of the message, for us to keep; @access: how it has to be open, −1 = as it likes. */
static int
take_descriptor (KwBusCall *call, gsize index, int access, GError **error)
{
  GUnixFDList *fds = g_dbus_message_get_unix_fd_list (kw_bus_call_get_message (call));
  g_autoptr (GVariant) argument = kw_bus_call_ref_argument (call, index);
  gint32 handle = -1;
  int fd = -1;
  int flags = 0;

  handle = g_variant_get_handle (argument);
  if (fds == NULL || handle < 0 || handle >= g_unix_fd_list_get_length (fds))
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                           "The descriptor did not come with the message");
      return -1;
    }
  fd = g_unix_fd_list_get (fds, handle, error);
  flags = fd >= 0 ? fcntl (fd, F_GETFL) : 0;
  if (fd >= 0
      && ((flags & O_PATH) != 0
          || ((flags & O_ACCMODE) != access && (flags & O_ACCMODE) != O_RDWR)))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT, "The descriptor is not open for %s",
                   access == O_RDONLY ? "reading" : "writing");
      close (fd);
      return -1;
    }
  return fd;
}

static gboolean
fill_passage (Passage *passage, GError **error)
{
  g_autoptr (GVariant) options = kw_bus_call_ref_argument (passage->call, 2);
  KwBusOption known[] = { { KW_BUS_OPTION_ASSOCIATED_DATA, "ay", NULL },
                          { KW_BUS_OPTION_PROGRESS, "s", NULL },
                          { KW_BUS_OPTION_KEY, "s", NULL } };
  gsize n_known = passage->encrypt ? 3 : 2;
  g_autoptr (GBytes) associated_data = NULL;

  if (!kw_bus_options_read (options, known, n_known, error))
    return FALSE;
  associated_data = kw_bus_option_dup_bytes (&known[0]);
  passage->progress = g_strdup (kw_bus_option_get_string (&known[1]));
  passage->key = g_strdup (kw_bus_option_get_string (&known[2]));
  kw_bus_options_clear (known, n_known);
  passage->associated_data = kw_stream_make_associated_data (associated_data);
  passage->input = take_descriptor (passage->call, 0, O_RDONLY, error);
  if (passage->input >= 0)
    passage->output = take_descriptor (passage->call, 1, O_WRONLY, error);
  return passage->output >= 0;
}

static void
start_passage (KwBusFiles *self, KwBusCall *call, KwCaller *caller, gboolean encrypt)
{
  g_autoptr (Passage) passage = g_new0 (Passage, 1);
  g_autoptr (GError) error = NULL;
  GThread *thread = NULL;

  g_atomic_ref_count_inc (&self->n_references);
  g_mutex_init (&passage->lock);
  g_cond_init (&passage->ended);
  passage->files = self;
  passage->call = call;
  passage->caller = kw_caller_ref (caller);
  passage->encrypt = encrypt;
  passage->input = -1;
  passage->output = -1;
  passage->sender = g_strdup (g_dbus_message_get_sender (kw_bus_call_get_message (call)));
  passage->cancellable = g_object_ref (kw_bus_call_get_cancellable (call));
  if (!fill_passage (passage, &error))
    {
      kw_bus_call_fail (call, error);
      return;
    }
  if (!kw_bus_peer_add_file (kw_bus_call_get_peer (call)))
    {
      kw_bus_call_take_error (
          call,
          g_error_new_literal (KW_ERROR, KW_ERROR_BUSY,
                               "This caller has too many files under way; wait for one to end"));
      return;
    }
  if (g_atomic_int_add (&self->n_running, 1) < KW_MAX_BUS_FILES)
    thread = g_thread_try_new ("kw-file", run_passage, passage, &error);
  if (thread == NULL)
    {
      kw_bus_peer_remove_file (kw_bus_call_get_peer (call));
      g_atomic_int_add (&self->n_running, -1);
      kw_bus_call_take_error (
          call, g_error_new_literal (KW_ERROR, KW_ERROR_BUSY,
                                     "Too many files are under way; try again in a moment"));
      return;
    }
  g_steal_pointer (&passage);
  g_thread_unref (thread);
}

/**
 * kw_bus_files_new:
 * @connection: the bus
 * @service: does the work
 *
 * Returns: (transfer full): no files yet
 */
KwBusFiles *
kw_bus_files_new (GDBusConnection *connection, KwService *service)
{
  KwBusFiles *self = g_new0 (KwBusFiles, 1);

  g_atomic_ref_count_init (&self->n_references);
  self->connection = g_object_ref (connection);
  self->service = g_object_ref (service);
  return self;
}

void
kw_bus_files_free (KwBusFiles *self)
{
  files_unref (self);
}

/**
 * kw_bus_files_encrypt_for:
 * @call: (transfer full): a call of EncryptFile()
 * @caller: who calls
 * @user_data: the #KwBusFiles
 *
 * Encrypts from one descriptor to the other.
 */
void
kw_bus_files_encrypt_for (KwBusCall *call, KwCaller *caller, gpointer user_data)
{
  start_passage (user_data, call, caller, TRUE);
}

/**
 * kw_bus_files_decrypt_for:
 * @call: (transfer full): a call of DecryptFile()
 * @caller: who calls
 * @user_data: the #KwBusFiles
 *
 * Decrypts from one descriptor to the other.
 */
void
kw_bus_files_decrypt_for (KwBusCall *call, KwCaller *caller, gpointer user_data)
{
  start_passage (user_data, call, caller, FALSE);
}

typedef struct
{
  KwBusCall *call;
  KwCaller *caller; /* owned */
  KwBusPinFunc func;
  gpointer user_data;
  int fd; /* owned */
} PinReading;

static void
pin_reading_free (gpointer data)
{
  PinReading *reading = data;

  kw_caller_unref (reading->caller);
  close (reading->fd);
  g_free (reading);
}

/* To the end of what there is, or to the end of the first line. */
static gboolean
read_pin (int fd, KwSecret *buffer, gsize *out_n, GError **error)
{
  gint64 deadline = g_get_monotonic_time () + PIN_TIMEOUT_USEC;
  guint8 *bytes = kw_secret_get_data (buffer);

  *out_n = 0;
  while (*out_n < kw_secret_get_size (buffer))
    {
      struct pollfd poll_fd = { fd, POLLIN, 0 };
      gint64 left = deadline - g_get_monotonic_time ();
      gssize n = -1;

      if (left <= 0)
        {
          g_set_error_literal (error, KW_ERROR, KW_ERROR_TIMEOUT,
                               "No PIN came through the descriptor; write it, and close your end");
          return FALSE;
        }
      if (poll (&poll_fd, 1, (int) (left / 1000) + 1) <= 0)
        continue;
      n = read (fd, bytes + *out_n, kw_secret_get_size (buffer) - *out_n);
      if (n < 0 && (errno == EINTR || errno == EAGAIN))
        continue;
      if (n < 0)
        {
          g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "The PIN cannot be read: %s",
                       g_strerror (errno));
          return FALSE;
        }
      if (n == 0)
        return TRUE;
      *out_n += (gsize) n;
      if (bytes[*out_n - 1] == '\n')
        {
          (*out_n)--;
          return TRUE;
        }
    }
  g_set_error (error, KW_ERROR, KW_ERROR_PIN_INVALID, "A PIN has at most %d bytes",
               KW_MAX_PIN_BYTES);
  return FALSE;
}

static void
pin_thread (GTask *task,
            gpointer source_object G_GNUC_UNUSED,
            gpointer task_data,
            GCancellable *cancellable G_GNUC_UNUSED)
{
  const PinReading *reading = task_data;
  GError *error = NULL;
  g_autoptr (KwSecret) buffer = kw_secret_new (KW_MAX_PIN_BYTES + 1, &error);
  KwSecret *pin = NULL;
  gsize n = 0;

  if (buffer != NULL && read_pin (reading->fd, buffer, &n, &error))
    pin = kw_secret_new_copy (kw_secret_get_data (buffer), n, &error);
  if (pin != NULL)
    g_task_return_pointer (task, pin, (GDestroyNotify) kw_secret_unref);
  else
    g_task_return_error (task, error);
}

static void
on_pin_read (GObject *source G_GNUC_UNUSED, GAsyncResult *result, gpointer user_data G_GNUC_UNUSED)
{
  const PinReading *reading = g_task_get_task_data (G_TASK (result));
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) pin = g_task_propagate_pointer (G_TASK (result), &error);

  if (kw_bus_peer_is_gone (kw_bus_call_get_peer (reading->call)))
    kw_bus_call_take_error (reading->call, g_error_new_literal (KW_ERROR, KW_ERROR_CANCELLED,
                                                                "The caller has left the bus"));
  else
    reading->func (reading->call, reading->caller, pin, error, reading->user_data);
}

/**
 * kw_bus_files_read_pin:
 * @self: the files
 * @call: (transfer full): a call whose first argument is a descriptor
 * @caller: who calls
 * @func: is told what was read
 * @user_data: for @func
 *
 * Reads a PIN: what comes until the end or the first newline, within a time limit.
 */
void
kw_bus_files_read_pin (KwBusFiles *self G_GNUC_UNUSED,
                       KwBusCall *call,
                       KwCaller *caller,
                       KwBusPinFunc func,
                       gpointer user_data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GTask) task = NULL;
  PinReading *reading = NULL;
  int fd = take_descriptor (call, 0, O_RDONLY, &error);

  if (fd < 0)
    {
      kw_bus_call_fail (call, error);
      return;
    }
  reading = g_new0 (PinReading, 1);
  reading->call = call;
  reading->caller = kw_caller_ref (caller);
  reading->func = func;
  reading->user_data = user_data;
  reading->fd = fd;
  task = g_task_new (NULL, NULL, on_pin_read, NULL);
  g_task_set_task_data (task, reading, pin_reading_free);
  g_task_run_in_thread (task, pin_thread);
}
