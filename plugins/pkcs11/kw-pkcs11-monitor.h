/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-config.h"
#include "kw-pkcs11-token.h"

G_BEGIN_DECLS

/**
 * KwPkcs11Timing:
 * @load_first: after a module that could not be loaded or initialised, try again after so long …
 * @load_max: … doubling up to so long
 * @look_first: after no token was found, look again after so long …
 * @look_max: … doubling up to so long
 * @check: how often a token that is there is looked at
 * @reset_first: the second reset in a row waits for so long, the first does not …
 * @reset_max: … doubling up to so long
 * @calm: a token that lived for so long is reset without waiting again
 * @stuck: a call into the module that takes so long is said not to return
 * @share_first: while other tokens of the module work, it is started anew for one that is missing or
 *   in trouble only after so long …
 * @share_max: … doubling up to so long
 *
 * All times in microseconds.
 */
typedef struct
{
  gint64 load_first;
  gint64 load_max;
  gint64 look_first;
  gint64 look_max;
  gint64 check;
  gint64 reset_first;
  gint64 reset_max;
  gint64 calm;
  gint64 stuck;
  gint64 share_first;
  gint64 share_max;
} KwPkcs11Timing;

/**
 * KwPkcs11News:
 * @KW_PKCS11_NEWS_ADDED: a token was found
 * @KW_PKCS11_NEWS_REMOVED: the token is gone
 * @KW_PKCS11_NEWS_STATUS: there is something to wait for, or nothing any more
 *
 * What a monitor has to tell.
 */
typedef enum
{
  KW_PKCS11_NEWS_ADDED,
  KW_PKCS11_NEWS_REMOVED,
  KW_PKCS11_NEWS_STATUS,
} KwPkcs11News;

typedef void (*KwPkcs11NewsFunc) (KwPkcs11News news,
                                  KwPkcs11Token *token,
                                  const char *status,
                                  gpointer user_data);

typedef struct _KwPkcs11Monitor KwPkcs11Monitor;

GPtrArray *kw_pkcs11_look_for_tokens (KwPkcs11Module *module, GPtrArray *tables, GError **error);

KwPkcs11Monitor *kw_pkcs11_monitor_start (KwPkcs11Module *module,
                                          KwConfig *config,
                                          GPtrArray *tables,
                                          const KwPkcs11Timing *timing,
                                          KwPkcs11NewsFunc func,
                                          gpointer user_data);

void kw_pkcs11_monitor_reset (KwPkcs11Monitor *self, KwPkcs11Token *token);

gint64 kw_pkcs11_monitor_get_busy_usec (KwPkcs11Monitor *self);

void kw_pkcs11_monitor_stop (KwPkcs11Monitor *self);

gboolean kw_pkcs11_monitor_wait (KwPkcs11Monitor *self, gint64 timeout_usec);

void kw_pkcs11_monitor_unref (KwPkcs11Monitor *self);

G_END_DECLS
