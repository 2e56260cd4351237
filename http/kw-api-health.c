/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-api"

#include "config.h"

#include "kw-api-private.h"

#include "kw-metrics.h"

#include <string.h>
#include <unistd.h>

/*
 * For machines that watch: three questions about health, which anybody may ask, and figures in the text format of Prometheus
 * (version 0.0.4). None of them ever calls a token.
 */

#define ALIVE_LIMIT_USEC (10 * G_TIME_SPAN_SECOND)
#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

static gint64
last_turn (KwApi *self)
{
  gint64 turn = 0;

  g_mutex_lock (&self->lock);
  turn = self->alive;
  g_mutex_unlock (&self->lock);
  return turn;
}

static void
handle_alive (KwHttpRequest *request, gpointer user_data)
{
  KwApi *self = ((const KwApiBinding *) user_data)->api;

  if (g_get_monotonic_time () - last_turn (self) < ALIVE_LIMIT_USEC)
    kw_http_request_respond_text (request, KW_STATUS_OK, "alive");
  else
    kw_http_request_respond_text (request, KW_STATUS_SERVICE_UNAVAILABLE,
                                  "The main loop does not turn any more; restart the service");
}

static void
tell_ready (KwApi *self, KwHttpRequest *request)
{
  kw_http_request_respond_text (request,
                                kw_health_is_operational (self->health)
                                    ? KW_STATUS_OK
                                    : KW_STATUS_SERVICE_UNAVAILABLE,
                                kw_health_get_text (self->health));
}

static void
handle_ready (KwHttpRequest *request, gpointer user_data)
{
  kw_api_call (((const KwApiBinding *) user_data)->api, request, tell_ready);
}

static void
tell_state (KwApi *self, KwHttpRequest *request)
{
  g_autoptr (KwJsonWriter) writer = kw_json_writer_new (0);

  kw_json_writer_add (writer, "{\"state\":");
  kw_json_writer_add_string (writer,
                             kw_health_state_to_string (kw_health_get_state (self->health)));
  kw_json_writer_add (writer, ",\"text\":");
  kw_json_writer_add_string (writer, kw_health_get_text (self->health));
  kw_json_writer_add (writer, "}");
  kw_api_respond_document (request, writer, KW_STATUS_OK);
}

static void
handle_state (KwHttpRequest *request, gpointer user_data)
{
  kw_api_call (((const KwApiBinding *) user_data)->api, request, tell_state);
}

/* --- figures --- */

static void
begin_metric (GString *text, const char *name, const char *type, const char *help)
{
  g_string_append_printf (text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label's value, with the escapes of the format. */
static char *
dup_label (const char *value)
{
  GString *label = g_string_new (value);

  g_string_replace (label, "\\", "\\\\", 0);
  g_string_replace (label, "\"", "\\\"", 0);
  g_string_replace (label, "\n", "\\n", 0);
  return g_string_free (label, FALSE);
}

static void
add_service (KwApi *self, GString *text)
{
  begin_metric (text, "keyward_build_info", "gauge", "Version of the daemon.");
  g_string_append_printf (text, "keyward_build_info{version=\"%s\"} 1\n", KW_VERSION);
  begin_metric (text, "keyward_state", "gauge", "State of the service; the one that is 1.");
  for (guint i = 0; i < KW_N_HEALTH_STATES; i++)
    g_string_append_printf (text, "keyward_state{state=\"%s\"} %d\n",
                            kw_health_state_to_string ((KwHealthState) i),
                            kw_health_get_state (self->health) == (KwHealthState) i);
  begin_metric (text, "keyward_consistent", "gauge",
                "Whether each configured key is the recorded one on all devices.");
  g_string_append_printf (text, "keyward_consistent %d\n",
                          kw_health_is_consistent (self->health) ? 1 : 0);
}

static void
add_device_states (GString *text, GPtrArray *devices)
{
  guint n[KW_N_DEVICE_STATES] = { 0 };

  for (guint i = 0; i < devices->len; i++)
    n[kw_device_get_state (g_ptr_array_index (devices, i))]++;
  begin_metric (text, "keyward_devices", "gauge", "Devices by state.");
  for (guint i = 0; i < KW_N_DEVICE_STATES; i++)
    g_string_append_printf (text, "keyward_devices{state=\"%s\"} %u\n",
                            kw_device_state_to_string ((KwDeviceState) i), n[i]);
}

typedef gint64 (*DeviceFigure) (KwDevice *device);

static gint64
figure_jobs (KwDevice *device)
{
  KwDeviceFigures figures;

  kw_device_get_figures (device, &figures);
  return (gint64) figures.n_jobs;
}

static gint64
figure_errors (KwDevice *device)
{
  KwDeviceFigures figures;

  kw_device_get_figures (device, &figures);
  return (gint64) figures.n_errors;
}

static gint64
figure_failovers (KwDevice *device)
{
  KwDeviceFigures figures;

  kw_device_get_figures (device, &figures);
  return (gint64) figures.n_failovers;
}

static gint64
figure_queue (KwDevice *device)
{
  KwDeviceFigures figures;

  kw_device_get_figures (device, &figures);
  return figures.n_outstanding;
}

static gint64
figure_pin_tries (KwDevice *device)
{
  return kw_device_get_pin_tries_left (device);
}

static gint64
figure_so_pin_tries (KwDevice *device)
{
  return kw_token_get_info (kw_device_get_token (device))->so_pin_tries_left;
}

static const struct
{
  const char *name;
  const char *type;
  const char *help;
  DeviceFigure figure;
} device_figures[] = {
  { "keyward_device_jobs_total", "counter", "Jobs that a device did, good or bad.", figure_jobs },
  { "keyward_device_errors_total", "counter", "Jobs that ended with trouble of the device.",
    figure_errors },
  { "keyward_device_failovers_total", "counter", "Jobs that were given to another device then.",
    figure_failovers },
  { "keyward_device_queue_jobs", "gauge", "Jobs that wait or run on a device.", figure_queue },
  { "keyward_device_pin_tries_left", "gauge", "Tries left of the user PIN.", figure_pin_tries },
  { "keyward_device_so_pin_tries_left", "gauge", "Tries left of the SO-PIN.", figure_so_pin_tries },
};

static void
add_devices (GString *text, GPtrArray *devices)
{
  for (guint i = 0; i < G_N_ELEMENTS (device_figures); i++)
    {
      begin_metric (text, device_figures[i].name, device_figures[i].type, device_figures[i].help);
      for (guint j = 0; j < devices->len; j++)
        {
          KwDevice *device = g_ptr_array_index (devices, j);
          gint64 value = device_figures[i].figure (device);
          g_autofree char *serial = dup_label (kw_device_get_name (device));

          /* What a token does not tell is left out. */
          if (value >= 0)
            g_string_append_printf (text, "%s{serial=\"%s\"} %" G_GINT64_FORMAT "\n",
                                    device_figures[i].name, serial, value);
        }
    }
}

static void
add_keys (KwApi *self, GString *text)
{
  g_autoptr (KwKeyMatrix) matrix = kw_keyring_ref_matrix (kw_service_get_keyring (self->service));

  begin_metric (text, "keyward_key_copies", "gauge",
                "On how many ready devices a configured key is, proven.");
  for (guint i = 0; i < kw_key_matrix_get_n_keys (matrix); i++)
    {
      const KwKeyFacts *facts = kw_key_matrix_get_key (matrix, i);
      g_autofree char *id = dup_label (facts->id);

      if (facts->configured)
        g_string_append_printf (text, "keyward_key_copies{key=\"%s\"} %u\n", id, facts->n_copies);
    }
  begin_metric (text, "keyward_key_encrypts", "gauge",
                "Whether a configured key is the one to encrypt with, and may.");
  for (guint i = 0; i < kw_key_matrix_get_n_keys (matrix); i++)
    {
      const KwKeyFacts *facts = kw_key_matrix_get_key (matrix, i);
      g_autofree char *id = dup_label (facts->id);

      if (facts->configured)
        g_string_append_printf (text, "keyward_key_encrypts{key=\"%s\"} %d\n", id,
                                facts->is_first && facts->may_encrypt ? 1 : 0);
    }
}

/* Numbers with a point, whatever the locale. */
static void
append_seconds (GString *text, guint64 usec)
{
  char number[G_ASCII_DTOSTR_BUF_SIZE];

  g_string_append (text, g_ascii_formatd (number, sizeof number, "%.6g",
                                          (double) usec / (double) G_USEC_PER_SEC));
}

static void
add_results (GString *text, KwMetrics *metrics)
{
  begin_metric (text, "keyward_requests_total", "counter", "Requests by verb and result.");
  for (guint verb = 0; verb < KW_N_VERBS; verb++)
    {
      KwMetricsReading reading;

      kw_metrics_read (metrics, (KwVerb) verb, &reading);
      for (guint i = 0; i <= KW_N_ERRORS; i++)
        {
          /* Success is always told, so that a rate has a beginning. */
          if (i > 0 && reading.n[i] == 0)
            continue;
          g_string_append_printf (
              text, "keyward_requests_total{verb=\"%s\",result=\"%s\"} %" G_GUINT64_FORMAT "\n",
              kw_verb_to_string ((KwVerb) verb),
              i == 0 ? "ok" : kw_error_to_string ((KwError) (i - 1)), reading.n[i]);
        }
    }
}

static void
add_durations (GString *text, KwMetrics *metrics)
{
  static const char name[] = "keyward_request_duration_seconds";

  begin_metric (text, name, "histogram", "How long requests took, by verb.");
  for (guint verb = 0; verb < KW_N_VERBS; verb++)
    {
      const char *verb_name = kw_verb_to_string ((KwVerb) verb);
      KwMetricsReading reading;

      kw_metrics_read (metrics, (KwVerb) verb, &reading);
      for (guint i = 0; i < KW_N_METRICS_BUCKETS; i++)
        {
          g_string_append_printf (text, "%s_bucket{verb=\"%s\",le=\"", name, verb_name);
          append_seconds (text, (guint64) kw_metrics_get_bound (i));
          g_string_append_printf (text, "\"} %" G_GUINT64_FORMAT "\n", reading.buckets[i]);
        }
      g_string_append_printf (text, "%s_bucket{verb=\"%s\",le=\"+Inf\"} %" G_GUINT64_FORMAT "\n",
                              name, verb_name, reading.n_all);
      g_string_append_printf (text, "%s_sum{verb=\"%s\"} ", name, verb_name);
      append_seconds (text, reading.sum_usec);
      g_string_append_printf (text, "\n%s_count{verb=\"%s\"} %" G_GUINT64_FORMAT "\n", name,
                              verb_name, reading.n_all);
    }
}

static void
add_memory (GString *text)
{
  g_autofree char *statm = NULL;
  g_auto (GStrv) fields = NULL;
  guint64 pages = 0;

  if (!g_file_get_contents ("/proc/self/statm", &statm, NULL, NULL))
    return;
  fields = g_strsplit (statm, " ", 3);
  if (g_strv_length (fields) < 2
      || !g_ascii_string_to_unsigned (fields[1], 10, 0, G_MAXUINT32, &pages, NULL))
    return;
  begin_metric (text, "process_resident_memory_bytes", "gauge", "Resident memory in bytes.");
  g_string_append_printf (text, "process_resident_memory_bytes %" G_GUINT64_FORMAT "\n",
                          pages * (guint64) sysconf (_SC_PAGESIZE));
}

static void
tell_metrics (KwApi *self, KwHttpRequest *request)
{
  g_autoptr (GPtrArray) devices = kw_pool_dup_devices (kw_service_get_pool (self->service));
  KwMetrics *metrics = kw_service_get_metrics (self->service);
  GString *text = g_string_new (NULL);
  g_autoptr (GBytes) body = NULL;
  KwHttpResponse response = { .status = KW_STATUS_OK, .content_type = METRICS_TYPE };

  add_service (self, text);
  add_device_states (text, devices);
  add_devices (text, devices);
  add_keys (self, text);
  add_results (text, metrics);
  add_durations (text, metrics);
  add_memory (text);
  body = g_string_free_to_bytes (text);
  response.body = body;
  kw_http_request_respond (request, &response);
}

static void
handle_metrics (KwHttpRequest *request, gpointer user_data)
{
  kw_api_call (((const KwApiBinding *) user_data)->api, request, tell_metrics);
}

const KwApiRoute kw_api_health_routes[] = {
  { "GET", "/health/alive", KW_API_OPEN, 0, KW_API_MAX_SMALL_BODY, handle_alive },
  { "GET", "/health/ready", KW_API_OPEN, 0, KW_API_MAX_SMALL_BODY, handle_ready },
  { "GET", "/health/state", KW_API_OPEN, 0, KW_API_MAX_SMALL_BODY, handle_state },
  { "GET", "/metrics", KW_API_LOOK, 0, KW_API_MAX_SMALL_BODY, handle_metrics },
};

const guint kw_api_n_health_routes = G_N_ELEMENTS (kw_api_health_routes);
