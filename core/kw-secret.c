/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-secret"

#include "config.h"

#include "kw-secret.h"

#include "kw-error.h"
#include "kw-limits.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * Memory for secrets: PINs, tokens, plaintexts. It is locked (never swapped), left out of core dumps, wiped in forked
 * children, and wiped over its whole allocated size when the last reference goes.
 *
 * Small secrets, one of which is made for every decrypted message, come from one locked region cut into equal slots, so
 * that a request costs no system call. Larger ones, and those that find the region full, get pages of their own.
 *
 * Messages of megabytes would soon use up what a process may lock: kw_secret_new_unlocked() does all the rest for them.
 *
 * Any thread may create, reference and release a secret; its bytes belong to whoever holds it.
 */
struct _KwSecret
{
  gatomicrefcount references;
  guint8 *data;    /* owned: a slot of the arena, or pages of its own */
  gsize size;      /* bytes in use */
  gsize allocated; /* bytes reserved */
  gboolean in_arena;
  gboolean unlocked;
};

#define ARENA_SLOT_SIZE 1024
#define ARENA_N_SLOTS 128
#define N_SPARE 8
#define MAX_SPARE_BYTES (2 * 1024 * 1024) /* larger ones are given back at once */

/* Pages of an unlocked secret that is gone: wiped, and kept because the kernel takes longer to make new ones than it takes
   to decrypt a message into them. */
typedef struct
{
  guint8 *memory;
  gsize size;
} SparePages;

typedef struct
{
  GMutex lock;
  guint8 *memory;                    /* NULL when it could not be locked */
  guint8 *free_slots[ARENA_N_SLOTS]; /* guarded by lock */
  guint n_free_slots;                /* guarded by lock */
  SparePages spare[N_SPARE];         /* guarded by lock; oldest first */
  guint n_spare;                     /* guarded by lock */
} KwSecretArena;

static guint8 *
map_pages (gsize size, gboolean locked, GError **error)
{
  guint8 *memory = NULL;
  int saved_errno = 0;

  memory = mmap (NULL, size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | (locked ? 0 : MAP_POPULATE), -1, 0);
  if (memory == MAP_FAILED)
    {
      saved_errno = errno;
      g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "No memory for a secret: %s",
                   g_strerror (saved_errno));
      return NULL;
    }
  if (locked && mlock (memory, size) != 0)
    {
      saved_errno = errno;
      munmap (memory, size);
      g_set_error (error, KW_ERROR, KW_ERROR_FAILED,
                   "Cannot lock memory for a secret: %s; raise LimitMEMLOCK= (ulimit -l)",
                   g_strerror (saved_errno));
      return NULL;
    }
  /* Both fail only on kernels older than 4.14; the secret is still wiped there. */
  (void) madvise (memory, size, MADV_DONTDUMP);
  (void) madvise (memory, size, MADV_WIPEONFORK);
  return memory;
}

static KwSecretArena *
arena_get (void)
{
  static KwSecretArena *arena = NULL;

  if (g_once_init_enter (&arena))
    {
      KwSecretArena *made = g_new0 (KwSecretArena, 1);

      g_mutex_init (&made->lock);
      made->memory = map_pages (ARENA_SLOT_SIZE * ARENA_N_SLOTS, TRUE, NULL);
      if (made->memory != NULL)
        {
          for (guint i = ARENA_N_SLOTS; i > 0; i--)
            made->free_slots[made->n_free_slots++]
                = made->memory + (gsize) (i - 1) * ARENA_SLOT_SIZE;
        }
      g_once_init_leave (&arena, made);
    }
  return arena;
}

static guint8 *
arena_take_slot (void)
{
  KwSecretArena *arena = arena_get ();
  guint8 *slot = NULL;

  g_mutex_lock (&arena->lock);
  if (arena->n_free_slots > 0)
    slot = arena->free_slots[--arena->n_free_slots];
  g_mutex_unlock (&arena->lock);
  return slot;
}

static void
arena_give_slot (guint8 *slot)
{
  KwSecretArena *arena = arena_get ();

  g_mutex_lock (&arena->lock);
  arena->free_slots[arena->n_free_slots++] = slot;
  g_mutex_unlock (&arena->lock);
}

/* Pages that are large enough, and not so large that it would be a waste. */
static guint8 *
take_spare_pages (gsize size, gsize *out_size)
{
  KwSecretArena *arena = arena_get ();
  guint8 *memory = NULL;

  g_mutex_lock (&arena->lock);
  for (guint i = arena->n_spare; memory == NULL && i > 0; i--)
    {
      SparePages *spare = &arena->spare[i - 1];

      if (spare->size < size || spare->size / 2 > size)
        continue;
      memory = spare->memory;
      *out_size = spare->size;
      memmove (spare, spare + 1, (arena->n_spare - i) * sizeof *spare);
      arena->n_spare--;
    }
  g_mutex_unlock (&arena->lock);
  return memory;
}

static void
give_spare_pages (guint8 *memory, gsize size)
{
  KwSecretArena *arena = arena_get ();
  SparePages oldest = { memory, size };

  if (size <= MAX_SPARE_BYTES)
    {
      g_mutex_lock (&arena->lock);
      if (arena->n_spare < N_SPARE)
        oldest = (SparePages){ NULL, 0 };
      else
        {
          oldest = arena->spare[0];
          memmove (arena->spare, arena->spare + 1, (N_SPARE - 1) * sizeof *arena->spare);
          arena->n_spare--;
        }
      arena->spare[arena->n_spare++] = (SparePages){ memory, size };
      g_mutex_unlock (&arena->lock);
    }
  if (oldest.memory != NULL)
    munmap (oldest.memory, oldest.size);
}

static gsize
round_up_to_pages (gsize size)
{
  gsize page = (gsize) sysconf (_SC_PAGESIZE);

  return (size + page - 1) / page * page;
}

/**
 * kw_secret_new:
 * @size: number of bytes; 0 is allowed
 * @error: where to store the error
 *
 * Reserves memory for a secret, filled with zeros. Any thread.
 *
 * Returns: (transfer full): the secret; %NULL with %KW_ERROR_FAILED when memory cannot be had or locked
 */
KwSecret *
kw_secret_new (gsize size, GError **error)
{
  g_autofree KwSecret *self = g_new0 (KwSecret, 1);

  g_return_val_if_fail (size < G_MAXSIZE / 2, NULL);

  g_atomic_ref_count_init (&self->references);
  self->size = size;
  if (size <= ARENA_SLOT_SIZE)
    {
      self->data = arena_take_slot ();
      self->allocated = ARENA_SLOT_SIZE;
      self->in_arena = self->data != NULL;
    }
  if (self->data == NULL)
    {
      self->allocated = round_up_to_pages (MAX (size, 1));
      self->data = map_pages (self->allocated, TRUE, error);
      if (self->data == NULL)
        return NULL;
    }
  return g_steal_pointer (&self);
}

/**
 * kw_secret_new_unlocked:
 * @size: number of bytes; 0 is allowed
 * @error: where to store the error
 *
 * Reserves memory for a message that is too large to be locked: it is left out of core dumps and of forked children and is
 * wiped in the end, but it may be swapped out. Any thread.
 *
 * Returns: (transfer full): the secret; %NULL with %KW_ERROR_FAILED when there is no memory
 */
KwSecret *
kw_secret_new_unlocked (gsize size, GError **error)
{
  g_autofree KwSecret *self = g_new0 (KwSecret, 1);

  g_return_val_if_fail (size < G_MAXSIZE / 2, NULL);

  g_atomic_ref_count_init (&self->references);
  self->size = size;
  self->unlocked = TRUE;
  self->allocated = round_up_to_pages (MAX (size, 1));
  self->data = take_spare_pages (self->allocated, &self->allocated);
  if (self->data == NULL)
    self->data = map_pages (self->allocated, FALSE, error);
  return self->data != NULL ? g_steal_pointer (&self) : NULL;
}

/**
 * kw_secret_new_copy:
 * @data: bytes to copy
 * @size: how many
 * @error: where to store the error
 *
 * Copies bytes into a new secret. Wiping the source is the caller's duty. Any thread.
 *
 * Returns: (transfer full): the secret, or %NULL with an error as for kw_secret_new()
 */
KwSecret *
kw_secret_new_copy (gconstpointer data, gsize size, GError **error)
{
  KwSecret *self = NULL;

  g_return_val_if_fail (data != NULL || size == 0, NULL);

  self = kw_secret_new (size, error);
  if (self != NULL && size > 0)
    memcpy (self->data, data, size);
  return self;
}

/**
 * kw_secret_new_take_string:
 * @string: (transfer full): a string from g_malloc(); wiped and freed here, also on failure
 * @error: where to store the error
 *
 * Moves a string into a new secret, without its final NUL. Any thread.
 *
 * Returns: (transfer full): the secret, or %NULL with an error as for kw_secret_new()
 */
KwSecret *
kw_secret_new_take_string (char *string, GError **error)
{
  KwSecret *self = NULL;
  gsize size = 0;

  g_return_val_if_fail (string != NULL, NULL);

  size = strlen (string);
  self = kw_secret_new_copy (string, size, error);
  OPENSSL_cleanse (string, size);
  g_free (string);
  return self;
}

/**
 * kw_secret_new_random:
 * @size: number of bytes
 * @error: where to store the error
 *
 * Makes a secret of random bytes from the operating system's generator. Any thread.
 *
 * Returns: (transfer full): the secret, or %NULL with %KW_ERROR_FAILED
 */
KwSecret *
kw_secret_new_random (gsize size, GError **error)
{
  g_autoptr (KwSecret) self = kw_secret_new (size, error);

  if (self == NULL)
    return NULL;
  if (RAND_priv_bytes (self->data, (int) size) != 1)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED, "The random number generator failed");
      return NULL;
    }
  return g_steal_pointer (&self);
}

/**
 * kw_secret_new_from_file:
 * @path: file to read
 * @max_size: most bytes that the file may have
 * @error: where to store the error
 *
 * Reads a file into a secret, without passing its bytes through other memory. One line end at the end of the file is
 * left off. Blocks; any thread.
 *
 * Returns: (transfer full): the secret, or %NULL with %KW_ERROR_FAILED (the message names the file)
 */
KwSecret *
kw_secret_new_from_file (const char *path, gsize max_size, GError **error)
{
  g_autoptr (KwSecret) self = NULL;
  gsize n_read = 0;
  int saved_errno = 0;
  int fd = -1;

  g_return_val_if_fail (path != NULL, NULL);

  /* Room for a line end and one byte more, which tells a file that goes on from one that ends there. */
  self = kw_secret_new (max_size + 3, error);
  if (self == NULL)
    return NULL;
  fd = open (path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0)
    {
      saved_errno = errno;
      g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "Cannot open %s: %s", path,
                   g_strerror (saved_errno));
      return NULL;
    }
  while (n_read < self->size)
    {
      gssize n = read (fd, self->data + n_read, self->size - n_read);

      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        saved_errno = errno;
      if (n <= 0)
        break;
      n_read += (gsize) n;
    }
  close (fd);
  if (saved_errno != 0)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "Cannot read %s: %s", path,
                   g_strerror (saved_errno));
      return NULL;
    }
  if (n_read > 0 && self->data[n_read - 1] == '\n')
    n_read--;
  if (n_read > 0 && self->data[n_read - 1] == '\r')
    n_read--;
  if (n_read > max_size)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "%s is longer than %" G_GSIZE_FORMAT " bytes",
                   path, max_size);
      return NULL;
    }
  kw_secret_truncate (self, n_read);
  return g_steal_pointer (&self);
}

/**
 * kw_secret_ref:
 * @self: a secret
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwSecret *
kw_secret_ref (KwSecret *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_secret_unref:
 * @self: (transfer full): a secret
 *
 * Gives a reference back; with the last one the memory is wiped over its allocated size. Any thread.
 */
void
kw_secret_unref (KwSecret *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  OPENSSL_cleanse (self->data, self->allocated);
  if (self->in_arena)
    arena_give_slot (self->data);
  else if (self->unlocked)
    give_spare_pages (self->data, self->allocated);
  else
    munmap (self->data, self->allocated);
  g_free (self);
}

/**
 * kw_secret_get_data:
 * @self: a secret
 *
 * Returns: (transfer none): its bytes, never %NULL; not ended by a NUL. Any thread that holds a reference.
 */
guint8 *
kw_secret_get_data (const KwSecret *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  return self->data;
}

/**
 * kw_secret_get_size:
 * @self: a secret
 *
 * Returns: the number of its bytes. Any thread that holds a reference.
 */
gsize
kw_secret_get_size (const KwSecret *self)
{
  g_return_val_if_fail (self != NULL, 0);

  return self->size;
}

/**
 * kw_secret_truncate:
 * @self: a secret that nobody else holds yet
 * @size: new number of bytes, at most the present one
 *
 * Shortens a secret; the bytes cut off are wiped at once.
 */
void
kw_secret_truncate (KwSecret *self, gsize size)
{
  g_return_if_fail (self != NULL);
  g_return_if_fail (size <= self->size);

  OPENSSL_cleanse (self->data + size, self->size - size);
  self->size = size;
}

/**
 * kw_secret_equal:
 * @self: a secret
 * @data: bytes to compare with
 * @size: how many
 *
 * Compares in a time that depends on the sizes alone. Any thread that holds a reference.
 *
 * Returns: %TRUE when size and bytes are the same
 */
gboolean
kw_secret_equal (const KwSecret *self, gconstpointer data, gsize size)
{
  g_return_val_if_fail (self != NULL, FALSE);

  return self->size == size && CRYPTO_memcmp (self->data, data, size) == 0;
}
