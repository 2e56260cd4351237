/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-stream"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-envelope.h"
#include "kw-error.h"
#include "kw-stream.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PREFIX_BYTES 6
#define ENVELOPE_BYTES (KW_ENVELOPE_OVERHEAD_BYTES + KW_STREAM_KEY_BYTES)
#define HEAD_BYTES (PREFIX_BYTES + ENVELOPE_BYTES)
#define SEALED_BYTES (KW_STREAM_CHUNK_BYTES + KW_ENVELOPE_TAG_BYTES)

static KwSecret *
new_key (void)
{
  guint8 bytes[KW_STREAM_KEY_BYTES];

  memset (bytes, 7, sizeof bytes);
  return kw_secret_new_copy (bytes, sizeof bytes, NULL);
}

/* A file in memory, to be read from its beginning. */
static int
open_bytes (const guint8 *data, gsize size)
{
  int fd = memfd_create ("stream", MFD_CLOEXEC);

  g_assert_cmpint (fd, >=, 0);
  while (size > 0)
    {
      gssize n = write (fd, data, size);

      g_assert_cmpint (n, >, 0);
      data += n;
      size -= (gsize) n;
    }
  g_assert_cmpint (lseek (fd, 0, SEEK_SET), ==, 0);
  return fd;
}

static GByteArray *
take_bytes (int fd)
{
  GByteArray *bytes = g_byte_array_new ();
  off_t size = lseek (fd, 0, SEEK_END);

  g_byte_array_set_size (bytes, (guint) size);
  if (size > 0)
    g_assert_cmpint (pread (fd, bytes->data, (size_t) size, 0), ==, size);
  close (fd);
  return bytes;
}

static GByteArray *
seal (const guint8 *data, gsize size)
{
  g_autofree guint8 *zeros = g_malloc0 (ENVELOPE_BYTES);
  g_autoptr (GBytes) envelope = g_bytes_new (zeros, ENVELOPE_BYTES);
  g_autoptr (KwSecret) key = new_key ();
  g_autoptr (GError) error = NULL;
  KwStream stream
      = { open_bytes (data, size), memfd_create ("out", MFD_CLOEXEC), NULL, NULL, NULL };

  g_assert_true (kw_stream_seal (&stream, envelope, key, &error));
  g_assert_no_error (error);
  close (stream.input);
  return take_bytes (stream.output);
}

/* What comes out, be it all or a part. */
static GByteArray *
open_sealed (const guint8 *data, gsize size, GError **error)
{
  g_autoptr (KwSecret) key = new_key ();
  KwStream stream
      = { open_bytes (data, size), memfd_create ("out", MFD_CLOEXEC), NULL, NULL, NULL };
  g_autoptr (GBytes) envelope = kw_stream_read_envelope (&stream, error);

  if (envelope != NULL)
    (void) kw_stream_open (&stream, key, error);
  close (stream.input);
  return take_bytes (stream.output);
}

static guint8 *
new_plain (gsize size)
{
  guint8 *plain = g_malloc (size + 1);

  for (gsize i = 0; i < size; i++)
    plain[i] = (guint8) (i * 31 + i / 251);
  return plain;
}

static void
test_sizes (void)
{
  static const gsize sizes[] = { 0,
                                 1,
                                 KW_STREAM_CHUNK_BYTES - 1,
                                 KW_STREAM_CHUNK_BYTES,
                                 KW_STREAM_CHUNK_BYTES + 1,
                                 3 * KW_STREAM_CHUNK_BYTES };

  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autofree guint8 *plain = new_plain (sizes[i]);
      g_autoptr (GByteArray) sealed = seal (plain, sizes[i]);
      g_autoptr (GError) error = NULL;
      g_autoptr (GByteArray) opened = open_sealed (sealed->data, sealed->len, &error);
      gsize n_chunks = MAX ((sizes[i] + KW_STREAM_CHUNK_BYTES - 1) / KW_STREAM_CHUNK_BYTES, 1);

      g_assert_no_error (error);
      g_assert_cmpmem (opened->data, opened->len, plain, sizes[i]);
      g_assert_cmpuint (sealed->len, ==, HEAD_BYTES + sizes[i] + n_chunks * KW_ENVELOPE_TAG_BYTES);
    }
}

/* Cut anywhere, it is found out, and what was written is a beginning of the plaintext. */
static void
test_cut (void)
{
  const gsize size = 2 * KW_STREAM_CHUNK_BYTES + 100;
  g_autofree guint8 *plain = new_plain (size);
  g_autoptr (GByteArray) sealed = seal (plain, size);
  const gsize cuts[] = { 0,
                         3,
                         PREFIX_BYTES,
                         HEAD_BYTES - 1,
                         HEAD_BYTES,
                         HEAD_BYTES + 10,
                         HEAD_BYTES + SEALED_BYTES - 1,
                         HEAD_BYTES + SEALED_BYTES,
                         HEAD_BYTES + SEALED_BYTES + 1,
                         HEAD_BYTES + 2 * (gsize) SEALED_BYTES,
                         sealed->len - 1 };

  for (guint i = 0; i < G_N_ELEMENTS (cuts); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (GByteArray) opened = open_sealed (sealed->data, cuts[i], &error);
      gint wanted = cuts[i] < HEAD_BYTES ? KW_ERROR_INVALID_ARGUMENT : KW_ERROR_DECRYPT_FAILED;

      g_assert_error (error, KW_ERROR, wanted);
      g_assert_cmpuint (opened->len % KW_STREAM_CHUNK_BYTES, ==, 0);
      g_assert_cmpmem (opened->data, opened->len, plain, opened->len);
      if (cuts[i] >= HEAD_BYTES)
        g_assert_nonnull (strstr (error->message, "throw away"));
    }
}

static void
assert_damaged (const guint8 *data, gsize size)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GByteArray) opened G_GNUC_UNUSED = open_sealed (data, size, &error);

  g_assert_error (error, KW_ERROR, KW_ERROR_DECRYPT_FAILED);
}

static void
test_damage (void)
{
  const gsize size = 2 * KW_STREAM_CHUNK_BYTES;
  g_autofree guint8 *plain = new_plain (size);
  g_autoptr (GByteArray) sealed = seal (plain, size);
  g_autofree guint8 *swapped = g_memdup2 (sealed->data, sealed->len);

  /* Two chunks that changed places; the last one alone; bytes behind the end; one bit. */
  memcpy (swapped + HEAD_BYTES, sealed->data + HEAD_BYTES + SEALED_BYTES, SEALED_BYTES);
  memcpy (swapped + HEAD_BYTES + SEALED_BYTES, sealed->data + HEAD_BYTES, SEALED_BYTES);
  assert_damaged (swapped, sealed->len);
  assert_damaged (swapped, HEAD_BYTES + SEALED_BYTES);
  g_byte_array_append (sealed, (const guint8 *) "x", 1);
  assert_damaged (sealed->data, sealed->len);
  sealed->data[HEAD_BYTES + 5] ^= 1;
  assert_damaged (sealed->data, sealed->len - 1);
}

static void
test_bad_ends (void)
{
  g_autofree guint8 *zeros = g_malloc0 (ENVELOPE_BYTES);
  g_autoptr (GBytes) envelope = g_bytes_new (zeros, ENVELOPE_BYTES);
  g_autoptr (KwSecret) key = new_key ();
  g_autoptr (KwSecret) short_key = kw_secret_new_copy ("x", 1, NULL);
  g_autoptr (GError) error = NULL;
  int full = open ("/dev/full", O_WRONLY | O_CLOEXEC);
  int null = open ("/dev/null", O_RDONLY | O_CLOEXEC);
  int directory = open ("/", O_RDONLY | O_CLOEXEC);
  KwStream no_room = { null, full, NULL, NULL, NULL };
  KwStream no_input = { directory, full, NULL, NULL, NULL };

  g_assert_false (kw_stream_seal (&no_room, envelope, key, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  g_clear_error (&error);
  g_assert_null (kw_stream_read_envelope (&no_input, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  g_clear_error (&error);
  g_assert_false (kw_stream_open (&no_input, key, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  g_clear_error (&error);
  g_assert_false (kw_stream_open (&no_room, short_key, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
  close (full);
  close (null);
  close (directory);
}

typedef struct
{
  KwStream stream;
  GError *error;
} Run;

static gpointer
run_open (gpointer data)
{
  Run *run = data;
  g_autoptr (GBytes) envelope = kw_stream_read_envelope (&run->stream, &run->error);

  g_assert_null (envelope);
  return NULL;
}

/* A pipe into which nobody writes holds nobody up for ever. */
static void
test_cancelled (void)
{
  int ends[2];
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  Run run = { { -1, -1, NULL, NULL, cancellable }, NULL };
  GThread *thread = NULL;

  g_assert_cmpint (pipe2 (ends, O_CLOEXEC), ==, 0);
  run.stream.input = ends[0];
  thread = g_thread_new ("open", run_open, &run);
  g_cancellable_cancel (cancellable);
  g_thread_join (thread);
  g_assert_error (run.error, KW_ERROR, KW_ERROR_CANCELLED);
  g_clear_error (&run.error);
  close (ends[0]);
  close (ends[1]);
}

static void
test_associated_data (void)
{
  g_autoptr (GBytes) given = g_bytes_new_static ("x", 1);
  g_autoptr (GBytes) with = kw_stream_make_associated_data (given);
  g_autoptr (GBytes) without = kw_stream_make_associated_data (NULL);

  g_assert_cmpmem (g_bytes_get_data (with, NULL), g_bytes_get_size (with), "keyward file 1\0x", 16);
  g_assert_cmpmem (g_bytes_get_data (without, NULL), g_bytes_get_size (without), "keyward file 1\0",
                   15);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/stream/sizes", test_sizes);
  g_test_add_func ("/stream/cut", test_cut);
  g_test_add_func ("/stream/damage", test_damage);
  g_test_add_func ("/stream/bad-ends", test_bad_ends);
  g_test_add_func ("/stream/cancelled", test_cancelled);
  g_test_add_func ("/stream/associated-data", test_associated_data);
  return g_test_run ();
}
