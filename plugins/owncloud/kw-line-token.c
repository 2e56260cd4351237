/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-line-token"

#include "config.h"

#include "kw-line-token.h"

#include "kw-error.h"
#include "kw-log.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <gmodule.h>
#include <unistd.h>

/*
 * The token of the line socket: made anew at each start, and handed to ownCloud by a file or by a POST.
 *
 * The POST is made by a module of its own, loaded only where it is wanted: it brings an HTTP client and the fifteen
 * libraries behind that, which a daemon that never calls anybody need not carry.
 */

#define TOKEN_BYTES 32
#define HANDOVER_MODULE "handover/libkeyward-handover.so"
#define HANDOVER_SYMBOL "kw_handover_new"

typedef GObject *(*KwHandoverNew) (KwSecret *token, KwSecret *jwt_secret, const char *url);

/**
 * kw_line_token_new:
 * @error: where to store the error
 *
 * Makes a token: 32 random bytes in hexadecimal.
 *
 * Returns: (transfer full): the token; %NULL with %KW_ERROR_FAILED
 */
KwSecret *
kw_line_token_new (GError **error)
{
  static const char digits[] = "0123456789abcdef";
  g_autoptr (KwSecret) bytes = kw_secret_new_random (TOKEN_BYTES, error);
  KwSecret *token = NULL;

  if (bytes == NULL)
    return NULL;
  token = kw_secret_new (2 * TOKEN_BYTES, error);
  for (gsize i = 0; token != NULL && i < TOKEN_BYTES; i++)
    {
      guint8 byte = kw_secret_get_data (bytes)[i];

      kw_secret_get_data (token)[2 * i] = (guint8) digits[byte >> 4];
      kw_secret_get_data (token)[2 * i + 1] = (guint8) digits[byte & 0x0F];
    }
  return token;
}

static int
write_token (int fd, KwSecret *token)
{
  if (write (fd, kw_secret_get_data (token), kw_secret_get_size (token))
          != (gssize) kw_secret_get_size (token)
      || write (fd, "\n", 1) != 1 || fchmod (fd, 0640) != 0 || fsync (fd) != 0)
    return errno != 0 ? errno : EIO;
  return 0;
}

/**
 * kw_line_token_write_file:
 * @token: the token
 * @path: the file; replaced as a whole
 * @error: where to store the error
 *
 * Writes the token to a file of mode 0640 for those who fetch it themselves. Blocks; before the main loop runs.
 *
 * Returns: %FALSE with %KW_ERROR_CONFIG
 */
gboolean
kw_line_token_write_file (KwSecret *token, const char *path, GError **error)
{
  g_autofree char *temporary = g_strdup_printf ("%s.XXXXXX", path);
  int fd = g_mkstemp_full (temporary, O_WRONLY | O_CLOEXEC, 0600);
  int code = fd >= 0 ? 0 : errno;

  if (fd >= 0)
    {
      errno = 0;
      code = write_token (fd, token);
      close (fd);
      if (code == 0 && g_rename (temporary, path) != 0)
        code = errno;
      if (code != 0)
        g_unlink (temporary);
    }
  if (code == 0)
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_CONFIG, "[line] token_file: cannot write %s: %s", path,
               g_strerror (code));
  return FALSE;
}

/**
 * kw_line_token_start_handover:
 * @token: the token
 * @jwt_secret: secret that ownCloud shares
 * @url: where it takes the token
 * @error: where to store the error
 *
 * Begins to hand the token over by HTTP, until it is accepted. Main context.
 *
 * Returns: (transfer full): what does it; disposing of it gives up. %NULL with %KW_ERROR_FAILED when the module for it is
 *   not installed
 */
GObject *
kw_line_token_start_handover (KwSecret *token,
                              KwSecret *jwt_secret,
                              const char *url,
                              GError **error)
{
  g_autofree char *directory = NULL;
  g_autofree char *path = NULL;
  GModule *module = NULL;
  KwHandoverNew make = NULL;
  Dl_info info;

  /* It lies beside this plugin, wherever that is. */
  if (dladdr ((const void *) HANDOVER_SYMBOL, &info) != 0)
    {
      directory = g_path_get_dirname (info.dli_fname);
      path = g_build_filename (directory, HANDOVER_MODULE, NULL);
      module = g_module_open (path, G_MODULE_BIND_LAZY | G_MODULE_BIND_LOCAL);
    }
  if (module == NULL || !g_module_symbol (module, HANDOVER_SYMBOL, (gpointer *) &make))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_FAILED, "[line] token_url cannot be served: %s",
                   g_module_error ());
      return NULL;
    }
  g_module_make_resident (module);
  return make (token, jwt_secret, url);
}
