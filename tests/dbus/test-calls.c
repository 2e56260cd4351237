/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-bus-calls"

#include "kw-bus-names.h"
#include "kw-bus-rig.h"
#include "kw-error.h"
#include "kw-limits.h"

#include <fcntl.h>
#include <gio/gunixfdlist.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * Calls on the bus when there is much of something: bytes, callers, options that nobody knows, and when callers, the bus or the
 * daemon go away.
 */

#define CONFIG "[hsm]\nhsm_keyid = [\"label:first\", \"label:second\"]\n"
#define WAIT_USEC (20 * G_TIME_SPAN_SECOND)
#define MEBIBYTE ((gsize) 1024 * 1024)
#define N_CLIENTS 200
#define N_FUZZ 3000
#define N_FLOOD 3000

typedef struct
{
  KwBusRig *rig;
  GDBusConnection *bus;
} Fixture;

static GVariant *
call (GDBusConnection *bus, const char *method, GVariant *parameters, GError **error)
{
  return kw_bus_rig_call (bus, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, method, parameters, error);
}

static gboolean
get_boolean (GDBusConnection *bus, const char *property)
{
  g_autoptr (GVariant) reply
      = kw_bus_rig_call (bus, KW_BUS_PATH, "org.freedesktop.DBus.Properties", "Get",
                         g_variant_new ("(ss)", KW_BUS_MANAGER_INTERFACE, property), NULL);
  g_autoptr (GVariant) value = NULL;

  if (reply == NULL)
    return FALSE;
  g_variant_get (reply, "(v)", &value);
  return g_variant_get_boolean (value);
}

static void
wait_until_consistent (GDBusConnection *bus)
{
  gint64 deadline = g_get_monotonic_time () + WAIT_USEC;

  while (!get_boolean (bus, "Consistent"))
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
}

static void
set_up (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  static const char *const labels[] = { "first", "second" };

  f->rig = kw_bus_rig_new (CONFIG);
  kw_bus_rig_start (f->rig);
  f->bus = kw_bus_rig_connect (f->rig, geteuid ());
  for (guint i = 0; i < G_N_ELEMENTS (labels); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (GVariant) reply G_GNUC_UNUSED
          = call (f->bus, "GenerateKey", g_variant_new ("(ssa{sv})", "aes256", labels[i], NULL),
                  &error);

      g_assert_no_error (error);
    }
  wait_until_consistent (f->bus);
}

static void
tear_down (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_clear_object (&f->bus);
  kw_bus_rig_free (f->rig);
}

static GVariant *
new_payload (gsize size)
{
  guint8 *bytes = g_malloc0 (size + 1);

  for (gsize i = 0; i < size; i++)
    bytes[i] = (guint8) (i * 13);
  return g_variant_new_from_data (G_VARIANT_TYPE_BYTESTRING, bytes, size, TRUE, g_free, bytes);
}

static void
test_payloads (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  static const gsize sizes[] = { 0, MEBIBYTE, 16 * MEBIBYTE };
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (GVariant) payload = g_variant_ref_sink (new_payload (sizes[i]));
      g_autoptr (GVariant) sealed
          = call (f->bus, "Encrypt", g_variant_new ("(@aya{sv})", payload, NULL), &error);
      g_autoptr (GVariant) envelope = NULL;
      g_autoptr (GVariant) opened = NULL;
      g_autoptr (GVariant) plain = NULL;

      g_assert_no_error (error);
      envelope = g_variant_get_child_value (sealed, 0);
      opened = call (f->bus, "Decrypt", g_variant_new ("(@aya{sv})", envelope, NULL), &error);
      g_assert_no_error (error);
      plain = g_variant_get_child_value (opened, 0);
      g_assert_true (g_variant_equal (plain, payload));
    }
  g_assert_null (call (f->bus, "Encrypt",
                       g_variant_new ("(@aya{sv})", new_payload (16 * MEBIBYTE + 1), NULL),
                       &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
}

static gboolean
call_files (GDBusConnection *bus, const char *method, int input, int output, GError **error)
{
  g_autoptr (GUnixFDList) fds = g_unix_fd_list_new ();
  g_autoptr (GVariant) reply = NULL;

  g_assert_cmpint (g_unix_fd_list_append (fds, input, NULL), ==, 0);
  g_assert_cmpint (g_unix_fd_list_append (fds, output, NULL), ==, 1);
  reply = g_dbus_connection_call_with_unix_fd_list_sync (bus, KW_BUS_NAME, KW_BUS_PATH,
                                                         KW_BUS_MANAGER_INTERFACE, method,
                                                         g_variant_new ("(hha{sv})", 0, 1, NULL),
                                                         NULL, G_DBUS_CALL_FLAGS_NONE, G_MAXINT,
                                                         fds, NULL, NULL, error);
  return reply != NULL;
}

/* More than any message may have. */
static void
test_file (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  const gsize size = 16 * MEBIBYTE + 1;
  g_autofree guint8 *plain = g_malloc0 (size);
  g_autofree guint8 *back = g_malloc0 (size);
  g_autoptr (GError) error = NULL;
  int input = memfd_create ("plain", MFD_CLOEXEC);
  int sealed = memfd_create ("sealed", MFD_CLOEXEC);
  int opened = memfd_create ("opened", MFD_CLOEXEC);
  int nothing = open ("/dev/null", O_RDONLY | O_CLOEXEC);

  memset (plain, 'x', size);
  g_assert_cmpint (pwrite (input, plain, size, 0), ==, (gssize) size);
  g_assert_true (call_files (f->bus, "EncryptFile", input, sealed, &error));
  g_assert_no_error (error);
  g_assert_cmpint (lseek (sealed, 0, SEEK_SET), ==, 0);
  g_assert_true (call_files (f->bus, "DecryptFile", sealed, opened, &error));
  g_assert_no_error (error);
  g_assert_cmpint (pread (opened, back, size, 0), ==, (gssize) size);
  g_assert_cmpmem (back, size, plain, size);
  g_assert_cmpint (ftruncate (sealed, 100000), ==, 0);
  g_assert_cmpint (lseek (sealed, 0, SEEK_SET), ==, 0);
  g_assert_false (call_files (f->bus, "DecryptFile", sealed, opened, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_DECRYPT_FAILED);
  g_clear_error (&error);
  g_assert_false (call_files (f->bus, "EncryptFile", input, nothing, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
  close (input);
  close (sealed);
  close (opened);
  close (nothing);
}

static void
start_file (GDBusConnection *bus, int input, int output)
{
  g_autoptr (GUnixFDList) fds = g_unix_fd_list_new ();

  g_unix_fd_list_append (fds, input, NULL);
  g_unix_fd_list_append (fds, output, NULL);
  g_dbus_connection_call_with_unix_fd_list (bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE,
                                            "EncryptFile", g_variant_new ("(hha{sv})", 0, 1, NULL),
                                            NULL, G_DBUS_CALL_FLAGS_NONE, -1, fds, NULL, NULL,
                                            NULL);
  g_assert_true (g_dbus_connection_flush_sync (bus, NULL, NULL));
}

/* Its input never ends; when the client is gone the daemon lets go of the output. */
static void
test_dying_client (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GDBusConnection) client = kw_bus_rig_connect (f->rig, geteuid ());
  int input[2];
  int output[2];
  guint8 buffer[4096];
  struct pollfd end = { -1, POLLIN, 0 };
  gssize n = 1;

  g_assert_cmpint (pipe2 (input, O_CLOEXEC), ==, 0);
  g_assert_cmpint (pipe2 (output, O_CLOEXEC), ==, 0);
  start_file (client, input[0], output[1]);
  close (output[1]);
  /* It has begun: chunks of full size come out. */
  for (guint i = 0; i < 40; i++)
    {
      memset (buffer, 'x', sizeof buffer);
      g_assert_cmpint (write (input[1], buffer, sizeof buffer), ==, sizeof buffer);
    }
  g_assert_cmpint (read (output[0], buffer, sizeof buffer), >, 0);
  g_assert_true (g_dbus_connection_close_sync (client, NULL, NULL));
  end.fd = output[0];
  while (n > 0)
    {
      g_assert_cmpint (poll (&end, 1, (int) (WAIT_USEC / 1000)), ==, 1);
      n = read (output[0], buffer, sizeof buffer);
    }
  g_assert_cmpint (n, ==, 0);
  g_assert_true (get_boolean (f->bus, "Operational"));
  close (input[0]);
  close (input[1]);
  close (output[0]);
}

/* One caller does not get all threads. */
static void
test_files_are_bounded (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GDBusConnection) client = kw_bus_rig_connect (f->rig, geteuid ());
  int input[2];
  int output = open ("/dev/null", O_WRONLY | O_CLOEXEC);
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (pipe2 (input, O_CLOEXEC), ==, 0);
  for (guint i = 0; i < 4; i++)
    start_file (client, input[0], output);
  g_assert_false (call_files (client, "EncryptFile", input[0], output, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_BUSY);
  close (input[0]);
  close (input[1]);
  close (output);
}

typedef struct
{
  guint n_good;
  guint n_bad;
  guint n_ending; /* of these: told that the daemon is ending */
  guint n_busy;   /* of these: told that they have too much under way */
} Counts;

static void
on_answer (GObject *source, GAsyncResult *result, gpointer user_data)
{
  Counts *counts = user_data;
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_finish (G_DBUS_CONNECTION (source), result, &error);

  if (reply != NULL)
    counts->n_good++;
  else
    {
      counts->n_bad++;
      counts->n_ending += g_error_matches (error, KW_ERROR, KW_ERROR_UNAVAILABLE);
      counts->n_busy += g_error_matches (error, KW_ERROR, KW_ERROR_BUSY)
                        && strstr (error->message, "This caller has too many calls") != NULL;
    }
}

static void
start_encrypt (GDBusConnection *bus, Counts *counts)
{
  g_dbus_connection_call (bus, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Encrypt",
                          g_variant_new ("(@aya{sv})", g_variant_new_bytestring ("text"), NULL),
                          NULL, G_DBUS_CALL_FLAGS_NONE, -1, NULL, on_answer, counts);
}

static void
test_many_clients (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GPtrArray) clients = g_ptr_array_new_with_free_func (g_object_unref);
  Counts counts = { 0 };

  for (guint i = 0; i < N_CLIENTS; i++)
    g_ptr_array_add (clients, kw_bus_rig_connect (f->rig, geteuid ()));
  for (guint round = 0; round < 3; round++)
    {
      for (guint i = 0; i < clients->len; i++)
        start_encrypt (g_ptr_array_index (clients, i), &counts);
    }
  while (counts.n_good + counts.n_bad < 3 * N_CLIENTS)
    g_main_context_iteration (NULL, TRUE);
  g_assert_cmpuint (counts.n_good, ==, 3 * N_CLIENTS);
}

/* A call of Decrypt that takes a device's time; (transfer floating) */
static GVariant *
new_rsa_block (KwBusRig *rig)
{
  g_autofree char *pem = NULL;
  g_autofree char *uuid = kw_daemon_rig_make_key (kw_bus_rig_get_daemon (rig), &pem);
  g_autoptr (GBytes) plain = g_bytes_new_static ("text", 4);
  g_autoptr (GBytes) block = kw_test_encrypt (pem, plain);
  GVariantBuilder options;

  g_variant_builder_init (&options, G_VARIANT_TYPE_VARDICT);
  g_variant_builder_add (&options, "{sv}", KW_BUS_OPTION_KEY, g_variant_new_string (uuid));
  return g_variant_new ("(@aya{sv})",
                        g_variant_new_from_bytes (G_VARIANT_TYPE_BYTESTRING, block, TRUE),
                        &options);
}

/* Faster than a device can be: what is over the limit of one caller is refused, and another one is served. */
static void
test_calls_are_bounded (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GDBusConnection) client = kw_bus_rig_connect (f->rig, geteuid ());
  g_autoptr (GVariant) block = g_variant_ref_sink (new_rsa_block (f->rig));
  g_autoptr (GVariant) reply = NULL;
  g_autoptr (GError) error = NULL;
  Counts counts = { 0 };

  for (guint i = 0; i < N_FLOOD; i++)
    g_dbus_connection_call (client, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Decrypt",
                            block, NULL, G_DBUS_CALL_FLAGS_NONE, G_MAXINT, NULL, on_answer,
                            &counts);
  reply = call (f->bus, "Random", g_variant_new ("(u)", 8), &error);
  g_assert_no_error (error);
  while (counts.n_good + counts.n_bad < N_FLOOD)
    g_main_context_iteration (NULL, TRUE);
  g_assert_cmpuint (counts.n_good, >=, KW_MAX_BUS_CALLS_PER_PEER);
  g_assert_cmpuint (counts.n_busy, >, 0);
  g_assert_cmpuint (counts.n_busy, ==, counts.n_bad);
}

static guint
count_in_audit (KwBusRig *rig, const char *text)
{
  g_autofree char *audit = kw_daemon_rig_dup_audit (kw_bus_rig_get_daemon (rig));
  guint n = 0;

  for (const char *at = audit; (at = strstr (at, text)) != NULL; at++)
    n++;
  return n;
}

/* What a caller has left behind is not done for nobody: a message later the queue is empty, and the audit log says why. */
static void
test_leaving_client (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GDBusConnection) client = kw_bus_rig_connect (f->rig, geteuid ());
  g_autoptr (GVariant) block = g_variant_ref_sink (new_rsa_block (f->rig));
  g_autoptr (GVariant) reply = NULL;
  g_autoptr (GError) error = NULL;

  reply = call (client, "Decrypt", block, &error);
  g_assert_no_error (error);
  for (guint i = 0; i < KW_MAX_BUS_CALLS_PER_PEER; i++)
    g_dbus_connection_call (client, KW_BUS_NAME, KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE, "Decrypt",
                            block, NULL, G_DBUS_CALL_FLAGS_NONE, -1, NULL, NULL, NULL);
  g_assert_true (g_dbus_connection_flush_sync (client, NULL, NULL));
  g_assert_true (g_dbus_connection_close_sync (client, NULL, NULL));
  g_clear_pointer (&reply, g_variant_unref);
  reply = call (f->bus, "Decrypt", block, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (count_in_audit (f->rig, "\"cancelled\""), >, 0);
}

/* Counts answers, in the thread of the bus. */
static GDBusMessage *
count_answers (GDBusConnection *connection G_GNUC_UNUSED,
               GDBusMessage *message,
               gboolean incoming,
               gpointer user_data)
{
  GDBusMessageType type = g_dbus_message_get_message_type (message);

  if (incoming && (type == G_DBUS_MESSAGE_TYPE_METHOD_RETURN || type == G_DBUS_MESSAGE_TYPE_ERROR))
    g_atomic_int_inc ((gint *) user_data);
  return message;
}

/* @message: (transfer full) */
static void
send_without_answer (GDBusConnection *bus, GDBusMessage *message)
{
  g_dbus_message_set_flags (message, G_DBUS_MESSAGE_FLAGS_NO_REPLY_EXPECTED);
  g_assert_true (
      g_dbus_connection_send_message (bus, message, G_DBUS_SEND_MESSAGE_FLAGS_NONE, NULL, NULL));
  g_object_unref (message);
}

static GDBusMessage *
new_random_call (guint size)
{
  GDBusMessage *message = g_dbus_message_new_method_call (KW_BUS_NAME, KW_BUS_PATH,
                                                          KW_BUS_MANAGER_INTERFACE, "Random");

  g_dbus_message_set_body (message, g_variant_new ("(u)", size));
  return message;
}

/* Whoever wants no answer gets none, neither a good one nor an error, and what he wanted is done. */
static void
test_no_answer_wanted (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GDBusConnection) client = kw_bus_rig_connect (f->rig, geteuid ());
  gint64 deadline = g_get_monotonic_time () + WAIT_USEC;
  gint n_answers = 0;
  guint filter = g_dbus_connection_add_filter (client, count_answers, &n_answers, NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) reply = NULL;

  /* The first time it is not known yet who calls. */
  for (guint i = 0; i < 2; i++)
    {
      send_without_answer (client, new_random_call (8));
      send_without_answer (client, new_random_call (0));
      g_clear_pointer (&reply, g_variant_unref);
      reply = call (client, "Random", g_variant_new ("(u)", 9), &error);
      g_assert_no_error (error);
    }
  while (count_in_audit (f->rig, "\"random\"") < 6)
    {
      g_assert_cmpint (g_get_monotonic_time (), <, deadline);
      g_usleep (1000);
    }
  g_clear_pointer (&reply, g_variant_unref);
  reply = call (client, "Random", g_variant_new ("(u)", 9), &error);
  g_assert_no_error (error);
  g_assert_cmpint (g_atomic_int_get (&n_answers), ==, 3);
  g_dbus_connection_remove_filter (client, filter);
}

/* What is called wrongly is told so by D-Bus itself, whether or not it is known who calls. */
static void
test_wrong_calls (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GDBusConnection) client = kw_bus_rig_connect (f->rig, geteuid ());

  for (guint i = 0; i < 2; i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (GVariant) reply = NULL;

      g_assert_null (call (client, "Random", g_variant_new ("(s)", "8"), &error));
      g_assert_error (error, G_DBUS_ERROR, G_DBUS_ERROR_INVALID_ARGS);
      g_clear_error (&error);
      g_assert_null (call (client, "Random", NULL, &error));
      g_assert_error (error, G_DBUS_ERROR, G_DBUS_ERROR_INVALID_ARGS);
      g_clear_error (&error);
      g_assert_null (call (client, "Encrypt", g_variant_new ("(ay)", NULL), &error));
      g_assert_error (error, G_DBUS_ERROR, G_DBUS_ERROR_INVALID_ARGS);
      g_clear_error (&error);
      g_assert_null (call (client, "random", g_variant_new ("(u)", 8), &error));
      g_assert_error (error, G_DBUS_ERROR, G_DBUS_ERROR_UNKNOWN_METHOD);
      g_clear_error (&error);
      g_assert_null (kw_bus_rig_call (client, KW_BUS_PATH "/none", KW_BUS_MANAGER_INTERFACE,
                                      "Random", g_variant_new ("(u)", 8), &error));
      g_assert_error (error, G_DBUS_ERROR, G_DBUS_ERROR_UNKNOWN_METHOD);
      g_clear_error (&error);
      reply = call (client, "Random", g_variant_new ("(u)", 8), &error);
      g_assert_no_error (error);
    }
}

/* The daemon ends while callers wait, some of whom it never saw before: each hears something. */
static void
test_end_answers_all (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GPtrArray) clients = g_ptr_array_new_with_free_func (g_object_unref);
  Counts counts = { 0 };

  for (guint i = 0; i < 16; i++)
    {
      GDBusConnection *client = kw_bus_rig_connect (f->rig, geteuid ());
      g_autoptr (GVariant) reply G_GNUC_UNUSED = NULL;

      if (i % 2 == 0)
        reply = call (client, "Random", g_variant_new ("(u)", 8), NULL);
      g_ptr_array_add (clients, client);
    }
  for (guint i = 0; i < clients->len; i++)
    {
      GDBusConnection *client = g_ptr_array_index (clients, i);
      g_autoptr (GVariant) id = NULL;

      start_encrypt (client, &counts);
      /* The bus has passed it on when it answers what comes after it. */
      id = g_dbus_connection_call_sync (client, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                        "org.freedesktop.DBus", "GetId", NULL, NULL,
                                        G_DBUS_CALL_FLAGS_NONE, -1, NULL, NULL);
      g_assert_nonnull (id);
    }
  kw_daemon_rig_stop (kw_bus_rig_get_daemon (f->rig));
  while (counts.n_good + counts.n_bad < clients->len)
    g_main_context_iteration (NULL, TRUE);
  /* Whoever came too late heard that, and not nothing. */
  g_assert_cmpuint (counts.n_good + counts.n_ending, ==, clients->len);
}

static GVariant *
random_value (GRand *rand)
{
  switch (g_rand_int_range (rand, 0, 7))
    {
    case 0:
      return g_variant_new_string ("label:first");
    case 1:
      return g_variant_new_bytestring ("x");
    case 2:
      return g_variant_new_uint64 (g_rand_int (rand));
    case 3:
      return g_variant_new_boolean (TRUE);
    case 4:
      return g_variant_new_variant (g_variant_new_string (""));
    case 5:
      return g_variant_new_strv (NULL, 0);
    default:
      return g_variant_new_handle (g_rand_int_range (rand, -2, 9));
    }
}

static GVariant *
random_options (GRand *rand)
{
  static const char *const names[]
      = { "associated-data", "key", "serial", "fingerprint", "progress", "", "Key", "key\n" };
  GVariantBuilder builder;
  gint n = g_rand_int_range (rand, 0, 20);

  g_variant_builder_init (&builder, G_VARIANT_TYPE_VARDICT);
  for (gint i = 0; i < n; i++)
    g_variant_builder_add (&builder, "{sv}",
                           names[g_rand_int_range (rand, 0, G_N_ELEMENTS (names))],
                           random_value (rand));
  return g_variant_builder_end (&builder);
}

/* Dictionaries of options at random: an answer to each, an error of ours where it is one, and the daemon lives. */
static void
test_random_options (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  static const char *const methods[]
      = { "Encrypt", "Decrypt", "Rewrap", "AcceptKey", "EncryptFile", "DecryptFile", "Unlock" };
  g_autoptr (GRand) rand = g_rand_new_with_seed ((guint32) g_test_rand_int ());

  for (guint i = 0; i < N_FUZZ; i++)
    {
      const char *method = methods[g_rand_int_range (rand, 0, G_N_ELEMENTS (methods))];
      GVariant *options = random_options (rand);
      GVariant *parameters = NULL;
      g_autoptr (GError) error = NULL;
      g_autoptr (GVariant) reply = NULL;

      if (g_str_has_suffix (method, "File"))
        parameters = g_variant_new ("(hh@a{sv})", 0, 1, options);
      else if (g_str_equal (method, "Unlock"))
        parameters = g_variant_new ("(h@a{sv})", 5, options);
      else if (g_str_equal (method, "AcceptKey"))
        parameters = g_variant_new ("(s@a{sv})", "label:none", options);
      else
        parameters = g_variant_new ("(@ay@a{sv})", g_variant_new_bytestring ("x"), options);
      reply = call (f->bus, method, parameters, &error);
      if (reply == NULL)
        g_assert_cmpuint (error->domain, ==, KW_ERROR);
    }
  g_assert_true (get_boolean (f->bus, "Operational"));
}

/* The bus goes away and comes back, at the same address. */
static void
test_bus_restart (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  gint64 deadline = 0;
  Counts counts = { 0 };
  Counts lost = { 0 };

  /* Calls are pouring in as it goes. */
  for (guint i = 0; i < N_FLOOD; i++)
    start_encrypt (f->bus, &lost);
  while (lost.n_good < N_FLOOD / 10 && lost.n_good + lost.n_bad < N_FLOOD)
    g_main_context_iteration (NULL, TRUE);
  g_assert_cmpuint (lost.n_good, >=, N_FLOOD / 10);
  kw_bus_rig_stop_bus (f->rig);
  while (lost.n_good + lost.n_bad < N_FLOOD)
    g_main_context_iteration (NULL, TRUE);
  g_clear_object (&f->bus);
  kw_daemon_rig_wait_for_log (kw_bus_rig_get_daemon (f->rig), "No D-Bus");
  kw_bus_rig_start_bus (f->rig);
  f->bus = kw_bus_rig_connect (f->rig, geteuid ());
  deadline = g_get_monotonic_time () + WAIT_USEC;
  while (!get_boolean (f->bus, "Operational"))
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
  start_encrypt (f->bus, &counts);
  while (counts.n_good + counts.n_bad < 1)
    g_main_context_iteration (NULL, TRUE);
  g_assert_cmpuint (counts.n_good, ==, 1);
}

static void
on_changed (GDBusConnection *connection G_GNUC_UNUSED,
            const char *sender G_GNUC_UNUSED,
            const char *path G_GNUC_UNUSED,
            const char *interface G_GNUC_UNUSED,
            const char *signal G_GNUC_UNUSED,
            GVariant *parameters,
            gpointer user_data)
{
  GPtrArray *changes = user_data;

  g_ptr_array_add (changes, g_variant_ref (parameters));
}

/* hsm_keyid changes in the file: one signal has the new list. */
static void
test_one_signal (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GPtrArray) changes = g_ptr_array_new_with_free_func ((GDestroyNotify) g_variant_unref);
  const char *path = kw_daemon_rig_get_config_path (kw_bus_rig_get_daemon (f->rig));
  g_autofree char *text = NULL;
  char *list = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) reply = NULL;
  guint n_lists = 0;

  g_dbus_connection_signal_subscribe (f->bus, KW_BUS_NAME, "org.freedesktop.DBus.Properties",
                                      "PropertiesChanged", KW_BUS_PATH, KW_BUS_MANAGER_INTERFACE,
                                      G_DBUS_SIGNAL_FLAGS_NONE, on_changed, changes, NULL);
  g_assert_true (g_file_get_contents (path, &text, NULL, &error));
  list = strstr (text, ", \"label:second\"");
  memset (list, ' ', strlen (", \"label:second\""));
  g_assert_true (g_file_set_contents_full (path, text, -1, G_FILE_SET_CONTENTS_NONE, 0600, &error));
  reply = call (f->bus, "Reload", NULL, &error);
  g_assert_no_error (error);
  while (changes->len == 0)
    g_main_context_iteration (NULL, TRUE);
  for (guint i = 0; i < changes->len; i++)
    {
      g_autoptr (GVariant) values = g_variant_get_child_value (g_ptr_array_index (changes, i), 1);
      g_autoptr (GVariant) invalidated
          = g_variant_get_child_value (g_ptr_array_index (changes, i), 2);
      g_autoptr (GVariant) ids = g_variant_lookup_value (values, "KeyIds", NULL);

      n_lists += ids != NULL;
      g_assert_cmpuint (g_variant_n_children (invalidated), ==, 0);
    }
  g_assert_cmpuint (n_lists, ==, 1);
}

static const char logind_xml[]
    = "<node><interface name='org.freedesktop.login1.Manager'>"
      "<method name='Inhibit'><arg type='s' direction='in'/><arg type='s' direction='in'/>"
      "<arg type='s' direction='in'/><arg type='s' direction='in'/><arg type='h' direction='out'/>"
      "</method></interface></node>";

typedef struct
{
  int lock; /* our end of the inhibitor */
  guint n_inhibits;
} Logind;

static void
on_inhibit (GDBusConnection *connection G_GNUC_UNUSED,
            const char *sender G_GNUC_UNUSED,
            const char *path G_GNUC_UNUSED,
            const char *interface G_GNUC_UNUSED,
            const char *method G_GNUC_UNUSED,
            GVariant *parameters,
            GDBusMethodInvocation *invocation,
            gpointer user_data)
{
  Logind *logind = user_data;
  g_autoptr (GUnixFDList) fds = g_unix_fd_list_new ();
  const char *mode = NULL;
  int ends[2];

  g_variant_get (parameters, "(&s&s&s&s)", NULL, NULL, NULL, &mode);
  g_assert_cmpstr (mode, ==, "delay");
  g_assert_cmpint (pipe2 (ends, O_CLOEXEC), ==, 0);
  if (logind->lock >= 0)
    close (logind->lock);
  logind->lock = ends[0];
  logind->n_inhibits++;
  g_unix_fd_list_append (fds, ends[1], NULL);
  close (ends[1]);
  g_dbus_method_invocation_return_value_with_unix_fd_list (invocation, g_variant_new ("(h)", 0),
                                                           fds);
}

static void
emit_sleep (GDBusConnection *bus, gboolean sleeping)
{
  g_assert_true (g_dbus_connection_emit_signal (bus, NULL, "/org/freedesktop/login1",
                                                "org.freedesktop.login1.Manager", "PrepareForSleep",
                                                g_variant_new ("(b)", sleeping), NULL));
}

/* The inhibitor is there while all is awake, let go of before sleep, and taken again after it. */
static void
test_sleep (Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
  static const GDBusInterfaceVTable vtable = { .method_call = on_inhibit };
  g_autoptr (GDBusNodeInfo) node = g_dbus_node_info_new_for_xml (logind_xml, NULL);
  Logind logind = { -1, 0 };
  guint8 byte = 0;
  guint name_id = 0;

  g_dbus_connection_register_object (f->bus, "/org/freedesktop/login1", node->interfaces[0],
                                     &vtable, &logind, NULL, NULL);
  name_id = g_bus_own_name_on_connection (f->bus, "org.freedesktop.login1",
                                          G_BUS_NAME_OWNER_FLAGS_NONE, NULL, NULL, NULL, NULL);
  while (logind.n_inhibits < 1)
    g_main_context_iteration (NULL, TRUE);
  emit_sleep (f->bus, TRUE);
  /* The end of the file is the daemon's closing its end. */
  g_assert_cmpint (read (logind.lock, &byte, 1), ==, 0);
  emit_sleep (f->bus, FALSE);
  while (logind.n_inhibits < 2)
    g_main_context_iteration (NULL, TRUE);
  kw_daemon_rig_wait_for_log (kw_bus_rig_get_daemon (f->rig), "The system has woken up");
  wait_until_consistent (f->bus);
  g_bus_unown_name (name_id);
  close (logind.lock);
}

static void
skip_broker (void)
{
  g_test_skip ("dbus-broker is not installed, or this is not root");
}

int
main (int argc, char **argv)
{
  g_autofree char *launcher = g_find_program_in_path ("dbus-broker-launch");

  g_test_init (&argc, &argv, NULL);
  if (g_getenv (KW_TEST_BROKER) != NULL && (launcher == NULL || geteuid () != 0))
    {
      g_test_add_func ("/broker", skip_broker);
      return g_test_run ();
    }
#define ADD(name, func) g_test_add ("/calls/" name, Fixture, NULL, set_up, func, tear_down)
  ADD ("payloads", test_payloads);
  ADD ("file", test_file);
  ADD ("dying-client", test_dying_client);
  ADD ("files-are-bounded", test_files_are_bounded);
  ADD ("many-clients", test_many_clients);
  ADD ("calls-are-bounded", test_calls_are_bounded);
  ADD ("leaving-client", test_leaving_client);
  ADD ("no-answer-wanted", test_no_answer_wanted);
  ADD ("wrong-calls", test_wrong_calls);
  ADD ("end-answers-all", test_end_answers_all);
  ADD ("random-options", test_random_options);
  ADD ("bus-restart", test_bus_restart);
  ADD ("one-signal", test_one_signal);
  ADD ("sleep", test_sleep);
  return g_test_run ();
}
