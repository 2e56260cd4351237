/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A folder of RSA keys made beforehand, as PEM files rsa-BITS-*.pem. */

#include "card-pool.h"

#include <dirent.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <string.h>
#include <unistd.h>

/* Largest PEM file, in bytes. */
#define MAX_PEM 16384

/**
 * card_pool_check:
 * @directory: folder with keys
 * @error: return location for a #GError
 *
 * Returns: whether it is a folder that can be read
 */
gboolean
card_pool_check (const char *directory, GError **error)
{
  DIR *dir = opendir (directory);

  if (!dir)
    {
      g_set_error (error, G_IO_ERROR, g_io_error_from_errno (errno),
                   "cannot read the folder %s: %s", directory, g_strerror (errno));
      return FALSE;
    }
  closedir (dir);
  return TRUE;
}

static CardKey *
load (const char *path, guint bits)
{
  g_autofree char *content = NULL;
  gsize size;
  BIO *bio;
  EVP_PKEY *pair;
  CardKey *key = NULL;

  if (!g_file_get_contents (path, &content, &size, NULL) || size > MAX_PEM)
    return NULL;
  bio = BIO_new_mem_buf (content, (int) size);
  pair = PEM_read_bio_PrivateKey (bio, NULL, NULL, (void *) "");
  BIO_free (bio);
  OPENSSL_cleanse (content, size);
  if (pair)
    key = card_key_new_rsa_from_pair (pair);
  EVP_PKEY_free (pair);
  ERR_clear_error ();
  if (key && key->bits != bits)
    g_clear_pointer (&key, card_key_free);
  return key;
}

/**
 * card_pool_take:
 * @bits: size of the modulus that is wanted
 * @directory: (type filename): folder with keys
 *
 * Takes a key out of the folder: its file is renamed first, so that two cards never get the same one, and removed. One
 * that holds no such key is left under another name.
 *
 * Returns: (transfer full) (nullable): a key, or %NULL when there is none of that size left
 */
CardKey *
card_pool_take (guint bits, gpointer directory)
{
  g_autoptr (GDir) dir = g_dir_open (directory, 0, NULL);
  g_autofree char *prefix = g_strdup_printf ("rsa-%u-", bits);
  const char *name;

  while (dir && (name = g_dir_read_name (dir)))
    {
      g_autofree char *path = g_build_filename (directory, name, NULL);
      g_autofree char *taken = g_strdup_printf ("%s.taken-%d", path, (int) getpid ());
      g_autofree char *bad = NULL;
      CardKey *key;

      if (!g_str_has_prefix (name, prefix) || !g_str_has_suffix (name, ".pem")
          || g_rename (path, taken) != 0)
        continue;
      key = load (taken, bits);
      if (key)
        {
          g_unlink (taken);
          return key;
        }
      bad = g_strconcat (path, ".bad", NULL);
      g_rename (taken, bad);
      g_printerr ("%s holds no RSA key of %u bits, so it is called %s.bad now\n", path, bits, name);
    }
  return NULL;
}
