/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-audit"

#include "config.h"

#include "kw-audit.h"

#include "kw-error.h"
#include "kw-log.h"
#include "kw-names.h"
#include "kw-state-file.h"
#include "kw-uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <time.h>
#include <unistd.h>

/*
 * Who used which key when: one line for each use, apart from the debug log, never with payload or a secret. It goes to the
 * journal with fields of its own, or as JSON lines to a file. Each line is one write() and is there when the answer goes
 * out. Any thread.
 */
struct _KwAudit
{
  GObject parent_instance;

  char *path; /* owned; NULL = the journal; "stderr" */
  int fd;     /* −1 = the journal */

  GMutex lock;
  gint64 zone_second; /* guarded by lock: second for which the text below stands */
  char zone_text[32]; /* guarded by lock */
  gboolean failing;   /* guarded by lock: the last write failed, and that was said */
};

G_DEFINE_FINAL_TYPE (KwAudit, kw_audit, G_TYPE_OBJECT)

#define JOURNAL "journal"
#define STDERR "stderr"

static int
open_file (const char *path, GError **error)
{
  int fd = open (path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW, 0640);

  if (fd < 0)
    {
      int saved_errno = errno;

      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                   "Cannot open the audit log %s: %s; see [audit] path", path,
                   g_strerror (saved_errno));
      return -1;
    }
  kw_state_file_hand_over (fd, path);
  return fd;
}

/* "2026-11-21T07:46:00.123456Z", with the slow part made once a second. */
static void
append_time (KwAudit *self, GString *line)
{
  gint64 now = g_get_real_time ();
  gint64 second = now / G_USEC_PER_SEC;

  g_mutex_lock (&self->lock);
  if (self->zone_second != second)
    {
      time_t time = (time_t) second;
      struct tm parts;

      gmtime_r (&time, &parts);
      strftime (self->zone_text, sizeof self->zone_text, "%Y-%m-%dT%H:%M:%S", &parts);
      self->zone_second = second;
    }
  g_string_append (line, self->zone_text);
  g_mutex_unlock (&self->lock);
  g_string_append_printf (line, ".%06dZ", (int) (now % G_USEC_PER_SEC));
}

static void
append_member (GString *line, const char *name, const char *value)
{
  if (value == NULL)
    return;
  g_string_append_printf (line, ",\"%s\":", name);
  kw_log_append_json_string (line, value);
}

static void
write_line (KwAudit *self, const GString *line)
{
  gssize n = -1;
  int saved_errno = 0;
  gboolean say = FALSE;

  do
    n = write (self->fd, line->str, line->len);
  while (n < 0 && errno == EINTR);
  saved_errno = errno;
  g_mutex_lock (&self->lock);
  say = n < (gssize) line->len && !self->failing;
  self->failing = n < (gssize) line->len;
  g_mutex_unlock (&self->lock);
  if (say)
    kw_log (G_LOG_LEVEL_CRITICAL, "Audit lines are being lost", "path", self->path, "reason",
            n < 0 ? g_strerror (saved_errno) : "short write", NULL);
}

static const KwCaller *
record_caller (const KwAuditRecord *record)
{
  return record->job != NULL ? kw_job_get_caller (record->job) : record->caller;
}

static KwVerb
record_verb (const KwAuditRecord *record)
{
  return record->job != NULL ? kw_job_get_verb (record->job) : record->verb;
}

static void
write_to_file (KwAudit *self, const KwAuditRecord *record, const char *key, const char *uid)
{
  g_autoptr (GString) line = g_string_sized_new (320);
  const KwCaller *caller = record_caller (record);

  g_string_append (line, "{\"time\":\"");
  append_time (self, line);
  g_string_append_printf (line, "\",\"verb\":\"%s\"", kw_verb_to_string (record_verb (record)));
  append_member (line, "key", key);
  append_member (line, "result", record->result);
  append_member (line, "device", record->device);
  g_string_append_printf (line, ",\"usec\":%" G_GINT64_FORMAT, record->duration_usec);
  append_member (line, "by", kw_caller_kind_to_string (kw_caller_get_kind (caller)));
  append_member (line, "name", kw_caller_get_name (caller));
  append_member (line, "request", kw_caller_get_request_id (caller));
  append_member (line, "address", kw_caller_get_address (caller));
  if (uid != NULL)
    g_string_append_printf (line, ",\"uid\":%s", uid);
  g_string_append (line, "}\n");
  write_line (self, line);
}

static void
write_to_journal (const KwAuditRecord *record, const char *key, const char *uid)
{
  const KwCaller *caller = record_caller (record);
  const char *verb = kw_verb_to_string (record_verb (record));
  const char *by = kw_caller_kind_to_string (kw_caller_get_kind (caller));
  g_autofree char *duration = g_strdup_printf ("%" G_GINT64_FORMAT, record->duration_usec);
  g_autofree char *message
      = g_strdup_printf ("%s key %s by %s %s: %s", verb, key != NULL ? key : "-", by,
                         kw_caller_get_name (caller) != NULL ? kw_caller_get_name (caller) : "-",
                         record->result);
  const char *values[] = {
    "MESSAGE",           message,
    "PRIORITY",          "6",
    "SYSLOG_IDENTIFIER", KW_AUDIT_IDENTIFIER,
    "KEYWARD_VERB",      verb,
    "KEYWARD_KEY",       key,
    "KEYWARD_RESULT",    record->result,
    "KEYWARD_DEVICE",    record->device,
    "KEYWARD_USEC",      duration,
    "KEYWARD_BY",        by,
    "KEYWARD_NAME",      kw_caller_get_name (caller),
    "KEYWARD_REQUEST",   kw_caller_get_request_id (caller),
    "KEYWARD_ADDRESS",   kw_caller_get_address (caller),
    "KEYWARD_UID",       uid,
  };
  GLogField fields[G_N_ELEMENTS (values) / 2];
  gsize n = 0;

  for (gsize i = 0; i < G_N_ELEMENTS (values); i += 2)
    {
      if (values[i + 1] != NULL)
        fields[n++] = (GLogField){ values[i], values[i + 1], -1 };
    }
  g_log_writer_journald (G_LOG_LEVEL_INFO, fields, n, NULL);
}

static void
kw_audit_finalize (GObject *object)
{
  KwAudit *self = KW_AUDIT (object);

  if (self->fd > STDERR_FILENO)
    close (self->fd);
  g_free (self->path);
  g_mutex_clear (&self->lock);
  G_OBJECT_CLASS (kw_audit_parent_class)->finalize (object);
}

static void
kw_audit_class_init (KwAuditClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_audit_finalize;
}

static void
kw_audit_init (KwAudit *self)
{
  g_mutex_init (&self->lock);
  self->fd = -1;
}

/**
 * kw_audit_new:
 * @path: (nullable): `[audit] path`; %NULL = the journal when stderr is the journal, else a file in the state directory
 * @state_directory: made when it is missing and used
 * @error: where to store the error
 *
 * Opens the audit log.
 *
 * Returns: (transfer full): the log; %NULL with %KW_ERROR_CONFIG when it cannot be opened
 */
KwAudit *
kw_audit_new (const char *path, const char *state_directory, GError **error)
{
  g_autoptr (KwAudit) self = g_object_new (KW_TYPE_AUDIT, NULL);

  if (g_strcmp0 (path, JOURNAL) == 0 || (path == NULL && g_log_writer_is_journald (STDERR_FILENO)))
    return g_steal_pointer (&self);
  if (g_strcmp0 (path, STDERR) == 0)
    {
      self->path = g_strdup (STDERR);
      self->fd = STDERR_FILENO;
      return g_steal_pointer (&self);
    }
  if (path == NULL)
    {
      /* A failure shows in the next step, which names the file. */
      (void) g_mkdir_with_parents (state_directory, 0700);
      self->path = g_build_filename (state_directory, KW_STATE_FILE_AUDIT, NULL);
    }
  else
    self->path = g_strdup (path);
  self->fd = open_file (self->path, error);
  if (self->fd < 0)
    return NULL;
  return g_steal_pointer (&self);
}

/**
 * kw_audit_write:
 * @self: the audit log
 * @record: one use of a key, or one act of an administrator
 *
 * Writes one line. A log that cannot be written is reported once and does not stop the service. Any thread.
 */
void
kw_audit_write (KwAudit *self, const KwAuditRecord *record)
{
  g_autofree char *key = NULL;
  g_autofree char *uid = NULL;
  const KwCaller *caller = NULL;

  g_return_if_fail (KW_IS_AUDIT (self));

  caller = record_caller (record);
  if (record->job == NULL)
    key = g_strdup (record->key);
  else if (kw_job_get_key_name (record->job) != NULL)
    key = g_strdup (kw_job_get_key_name (record->job));
  else if (kw_job_get_key_id (record->job) != NULL)
    key = kw_uuid_from_bytes (kw_job_get_key_id (record->job));
  if (kw_caller_get_uid (caller) != KW_CALLER_NO_UID)
    uid = g_strdup_printf ("%" G_GINT64_FORMAT, kw_caller_get_uid (caller));
  if (self->fd < 0)
    write_to_journal (record, key, uid);
  else
    write_to_file (self, record, key, uid);
}

/**
 * kw_audit_reopen:
 * @self: the audit log
 * @error: where to store the error
 *
 * Opens the file again, after it was rotated. Main context.
 *
 * Returns: %FALSE with %KW_ERROR_CONFIG; the old file stays in use
 */
gboolean
kw_audit_reopen (KwAudit *self, GError **error)
{
  int fresh = -1;

  g_return_val_if_fail (KW_IS_AUDIT (self), FALSE);

  if (self->fd <= STDERR_FILENO)
    return TRUE;
  fresh = open_file (self->path, error);
  if (fresh < 0)
    return FALSE;
  (void) dup3 (fresh, self->fd, O_CLOEXEC);
  close (fresh);
  return TRUE;
}
