/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-log"

#include "config.h"

#include "kw-log.h"

#include "kw-error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

/*
 * What the daemon says, in hsmdaemon's encodings. Messages come from anywhere through kw_log() or GLib's own functions;
 * the installed logger formats them. A line is written with one write(), so lines of several threads do not mix.
 *
 * Fields given to kw_log() travel as GLib log fields whose names start with KEYWARD_; the journal gets them in upper
 * case, JSON gets them under their own names.
 */

#define MAX_FIELDS 24
#define FIELD_PREFIX "KEYWARD_"

struct _KwLogger
{
  GObject parent_instance;

  gint level; /* atomic; a GLogLevelFlags */
  KwLogEncoding encoding;
  char *path;       /* owned; a file's path, or "stderr", "stdout" */
  gboolean journal; /* stderr is the journal: send fields there */
  gint fd;          /* owned when path is a file */
};

G_DEFINE_FINAL_TYPE (KwLogger, kw_logger, G_TYPE_OBJECT)

typedef struct
{
  const char *nick;
  GLogLevelFlags level;
} LevelNick;

/* hsmdaemon's level names; GLib knows no panic or fatal, nothing is as serious as its critical. */
static const LevelNick level_nicks[] = {
  { "debug", G_LOG_LEVEL_DEBUG },    { "info", G_LOG_LEVEL_INFO },
  { "info", G_LOG_LEVEL_MESSAGE },   { "warn", G_LOG_LEVEL_WARNING },
  { "error", G_LOG_LEVEL_CRITICAL }, { "panic", G_LOG_LEVEL_CRITICAL },
  { "fatal", G_LOG_LEVEL_CRITICAL },
};

static const char *
level_to_nick (GLogLevelFlags level)
{
  for (guint i = 0; i < G_N_ELEMENTS (level_nicks); i++)
    {
      if ((level & G_LOG_LEVEL_MASK) == level_nicks[i].level)
        return level_nicks[i].nick;
    }
  return "fatal";
}

/* Numbers and lists of numbers as JSON writes them: no leading zeros, no empty elements. */
static gboolean
field_is_bare_json (const char *name, const char *value)
{
  if (g_str_has_suffix (name, "Ids"))
    return g_regex_match_simple ("^\\[((0|[1-9][0-9]*)(, ?(0|[1-9][0-9]*))*)?\\]$", value,
                                 G_REGEX_DOLLAR_ENDONLY, G_REGEX_MATCH_DEFAULT);
  if (g_str_equal (name, "port"))
    return value[0] != '\0' && strspn (value, "0123456789") == strlen (value)
           && (value[0] != '0' || value[1] == '\0');
  return FALSE;
}

static char *
format_time_stamp (void)
{
  g_autoptr (GDateTime) now = g_date_time_new_now_local ();
  g_autofree char *seconds = g_date_time_format (now, "%Y-%m-%dT%H:%M:%S");
  g_autofree char *zone = g_date_time_format (now, "%z");

  return g_strdup_printf ("%s.%03d%s", seconds, g_date_time_get_microsecond (now) / 1000, zone);
}

static gsize
field_length (const GLogField *field)
{
  return field->length < 0 ? strlen (field->value) : (gsize) field->length;
}

/* The name kw_log() was given, or NULL for GLib's own fields. */
static const char *
field_own_name (const GLogField *field)
{
  if (!g_str_has_prefix (field->key, FIELD_PREFIX))
    return NULL;
  return field->key + strlen (FIELD_PREFIX);
}

static GString *
format_json (GLogLevelFlags level, const char *message, const GLogField *fields, gsize n_fields)
{
  GString *line = g_string_sized_new (256);
  g_autofree char *time_stamp = format_time_stamp ();

  g_string_append_printf (line, "{\"level\":\"%s\",\"ts\":\"%s\",\"msg\":", level_to_nick (level),
                          time_stamp);
  kw_log_append_json_string (line, message);
  for (gsize i = 0; i < n_fields; i++)
    {
      const char *name = field_own_name (&fields[i]);

      if (name == NULL)
        continue;
      g_string_append_c (line, ',');
      kw_log_append_json_string (line, name);
      g_string_append_c (line, ':');
      if (field_is_bare_json (name, fields[i].value))
        g_string_append (line, fields[i].value);
      else
        kw_log_append_json_string (line, fields[i].value);
    }
  g_string_append (line, "}\n");
  return line;
}

static void
append_console_text (GString *line, const char *text)
{
  g_autofree char *made_valid = NULL;

  if (!g_utf8_validate (text, -1, NULL))
    {
      made_valid = g_utf8_make_valid (text, -1);
      text = made_valid;
    }
  for (const char *p = text; *p != '\0'; p++)
    {
      if (*p == '\\')
        g_string_append (line, "\\\\");
      else if (g_ascii_iscntrl (*p))
        g_string_append_printf (line, "\\x%02x", (guint) (guchar) *p);
      else
        g_string_append_c (line, *p);
    }
}

static GString *
format_console (GLogLevelFlags level, const char *message, const GLogField *fields, gsize n_fields)
{
  GString *line = g_string_sized_new (256);
  g_autofree char *time_stamp = format_time_stamp ();

  g_string_append_printf (line, "%s\t%s\t", time_stamp, level_to_nick (level));
  append_console_text (line, message);
  for (gsize i = 0; i < n_fields; i++)
    {
      const char *name = field_own_name (&fields[i]);

      if (name == NULL)
        continue;
      g_string_append_printf (line, "\t%s=", name);
      append_console_text (line, fields[i].value);
    }
  g_string_append_c (line, '\n');
  return line;
}

static void
write_all (int fd, const GString *line)
{
  gsize n_written = 0;

  while (n_written < line->len)
    {
      gssize n = write (fd, line->str + n_written, line->len - n_written);

      if (n < 0 && errno == EINTR)
        continue;
      /* A log that cannot be written must not stop the service: the line is lost. */
      if (n <= 0)
        return;
      n_written += (gsize) n;
    }
}

static GLogWriterOutput
write_to_journal (GLogLevelFlags level, const GLogField *fields, gsize n_fields)
{
  GLogField upper[MAX_FIELDS + 8] = { { NULL, NULL, 0 } };
  char *names[MAX_FIELDS + 8] = { NULL };
  gsize n = 0;
  GLogWriterOutput result = G_LOG_WRITER_UNHANDLED;

  for (gsize i = 0; i < n_fields && n < G_N_ELEMENTS (upper); i++)
    {
      upper[n] = fields[i];
      if (field_own_name (&fields[i]) != NULL)
        {
          names[n] = g_ascii_strup (fields[i].key, -1);
          upper[n].key = names[n];
        }
      n++;
    }
  result = g_log_writer_journald (level, upper, n, NULL);
  for (gsize i = 0; i < n; i++)
    g_free (names[i]);
  return result;
}

static GLogWriterOutput
on_log (GLogLevelFlags level, const GLogField *fields, gsize n_fields, gpointer user_data)
{
  KwLogger *self = KW_LOGGER (user_data);
  g_autoptr (GString) line = NULL;
  g_autofree char *message = NULL;

  if ((level & G_LOG_LEVEL_MASK) > (GLogLevelFlags) g_atomic_int_get (&self->level))
    return G_LOG_WRITER_HANDLED;
  if (self->journal && write_to_journal (level, fields, n_fields) == G_LOG_WRITER_HANDLED)
    return G_LOG_WRITER_HANDLED;
  for (gsize i = 0; i < n_fields && message == NULL; i++)
    {
      if (g_str_equal (fields[i].key, "MESSAGE"))
        message = g_strndup (fields[i].value, field_length (&fields[i]));
    }
  if (self->encoding == KW_LOG_ENCODING_JSON)
    line = format_json (level, message != NULL ? message : "", fields, n_fields);
  else
    line = format_console (level, message != NULL ? message : "", fields, n_fields);
  write_all (g_atomic_int_get (&self->fd), line);
  return G_LOG_WRITER_HANDLED;
}

static gboolean
path_is_file (const char *path)
{
  return !g_str_equal (path, "stderr") && !g_str_equal (path, "stdout");
}

static int
open_log_file (const char *path, GError **error)
{
  int fd = open (path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0640);

  if (fd < 0)
    {
      int saved_errno = errno;

      g_set_error (error, KW_ERROR, KW_ERROR_CONFIG,
                   "Cannot open the log file %s: %s; see [logger] path", path,
                   g_strerror (saved_errno));
    }
  return fd;
}

static void
kw_logger_finalize (GObject *object)
{
  KwLogger *self = KW_LOGGER (object);

  if (self->path != NULL && path_is_file (self->path) && self->fd >= 0)
    close (self->fd);
  g_free (self->path);
  G_OBJECT_CLASS (kw_logger_parent_class)->finalize (object);
}

static void
kw_logger_class_init (KwLoggerClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_logger_finalize;
}

static void
kw_logger_init (KwLogger *self)
{
  self->fd = STDERR_FILENO;
}

/**
 * kw_log:
 * @level: how serious it is
 * @message: what happened, without variable parts
 * @first_field: (nullable): name of the first field
 * @...: its value, then further names and values, and %NULL; a %NULL value leaves its field out
 *
 * Logs one message with named fields. Never given a secret or payload. Any thread.
 */
void
kw_log (GLogLevelFlags level, const char *message, const char *first_field, ...)
{
  GLogField fields[MAX_FIELDS];
  char *names[MAX_FIELDS] = { NULL };
  gsize n = 0;
  va_list args;

  fields[n++] = (GLogField){ "MESSAGE", message, -1 };
  fields[n++] = (GLogField){ "GLIB_DOMAIN", "keyward", -1 };
  fields[n++] = (GLogField){ "PRIORITY",
                             (level & G_LOG_LEVEL_MASK) <= G_LOG_LEVEL_CRITICAL ? "3"
                             : (level & G_LOG_LEVEL_WARNING) != 0               ? "4"
                             : (level & G_LOG_LEVEL_DEBUG) != 0                 ? "7"
                                                                                : "6",
                             -1 };
  va_start (args, first_field);
  for (const char *name = first_field; name != NULL && n < MAX_FIELDS;
       name = va_arg (args, const char *))
    {
      const char *value = va_arg (args, const char *);

      if (value == NULL)
        continue;
      names[n] = g_strconcat (FIELD_PREFIX, name, NULL);
      fields[n] = (GLogField){ names[n], value, -1 };
      n++;
    }
  va_end (args);
  g_log_structured_array (level, fields, n);
  for (gsize i = 0; i < n; i++)
    g_free (names[i]);
}

/**
 * kw_log_append_json_string:
 * @json: text to append to
 * @text: a string; bytes that are no UTF-8 are replaced
 *
 * Appends a string as JSON writes it (RFC 8259, 7), with quotes. Any thread.
 */
void
kw_log_append_json_string (GString *json, const char *text)
{
  g_autofree char *made_valid = NULL;

  g_return_if_fail (json != NULL && text != NULL);

  if (!g_utf8_validate (text, -1, NULL))
    {
      made_valid = g_utf8_make_valid (text, -1);
      text = made_valid;
    }
  g_string_append_c (json, '"');
  for (const char *p = text; *p != '\0'; p++)
    {
      if (*p == '"' || *p == '\\')
        g_string_append_printf (json, "\\%c", *p);
      else if (*p == '\n')
        g_string_append (json, "\\n");
      else if (g_ascii_iscntrl (*p))
        g_string_append_printf (json, "\\u%04x", (guint) (guchar) *p);
      else
        g_string_append_c (json, *p);
    }
  g_string_append_c (json, '"');
}

/**
 * kw_log_level_from_string:
 * @nick: "debug", "info", "warn", "error", "panic" or "fatal"
 * @out_level: (out): the level
 *
 * Returns: %FALSE when @nick is unknown. Any thread.
 */
gboolean
kw_log_level_from_string (const char *nick, GLogLevelFlags *out_level)
{
  g_return_val_if_fail (nick != NULL, FALSE);

  for (guint i = 0; i < G_N_ELEMENTS (level_nicks); i++)
    {
      if (g_str_equal (nick, level_nicks[i].nick))
        {
          *out_level
              = level_nicks[i].level == G_LOG_LEVEL_INFO ? G_LOG_LEVEL_INFO : level_nicks[i].level;
          return TRUE;
        }
    }
  return FALSE;
}

/**
 * kw_logger_new:
 * @config: table `[logger]`
 * @error: where to store the error
 *
 * Opens the log. When it goes to stderr and that is the journal, lines go there with their fields.
 *
 * Returns: (transfer full): the logger; %NULL with %KW_ERROR_CONFIG when the file cannot be opened
 */
KwLogger *
kw_logger_new (const KwLogConfig *config, GError **error)
{
  g_autoptr (KwLogger) self = g_object_new (KW_TYPE_LOGGER, NULL);

  self->level = (gint) config->level;
  self->encoding = config->encoding;
  self->path = g_strdup (config->path);
  if (g_str_equal (config->path, "stdout"))
    self->fd = STDOUT_FILENO;
  else if (path_is_file (config->path))
    {
      self->fd = open_log_file (config->path, error);
      if (self->fd < 0)
        return NULL;
    }
  else
    self->journal = g_log_writer_is_journald (STDERR_FILENO);
  return g_steal_pointer (&self);
}

/**
 * kw_logger_install:
 * @self: a logger
 *
 * Makes it the writer of all that GLib and kw_log() log from now on. May be called once in a process, since GLib allows no
 * more; the logger then lives as long as the process.
 */
void
kw_logger_install (KwLogger *self)
{
  g_return_if_fail (KW_IS_LOGGER (self));

  g_log_set_writer_func (on_log, g_object_ref (self), g_object_unref);
}

/**
 * kw_logger_set_level:
 * @self: a logger
 * @level: least serious level that is logged
 *
 * Changes what is logged from now on. Any thread.
 */
void
kw_logger_set_level (KwLogger *self, GLogLevelFlags level)
{
  g_return_if_fail (KW_IS_LOGGER (self));

  g_atomic_int_set (&self->level, (gint) level);
}

/**
 * kw_logger_reopen:
 * @self: a logger
 * @error: where to store the error
 *
 * Opens the log file again, after it was rotated. Main context.
 *
 * Returns: %FALSE with %KW_ERROR_CONFIG when that fails; the old file stays in use
 */
gboolean
kw_logger_reopen (KwLogger *self, GError **error)
{
  int fresh = -1;

  g_return_val_if_fail (KW_IS_LOGGER (self), FALSE);

  if (!path_is_file (self->path))
    return TRUE;
  fresh = open_log_file (self->path, error);
  if (fresh < 0)
    return FALSE;
  /* The old number now means the new file, so a thread that is just writing is not disturbed. */
  (void) dup3 (fresh, self->fd, O_CLOEXEC);
  close (fresh);
  return TRUE;
}
