/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-i18n"

#include "config.h"

#include "kw-i18n.h"

#include "kw-names.h"

#include <libintl.h>

/*
 * Where translations are: installed, or in the build tree that the environment names.
 */

/**
 * kw_i18n_get_directory:
 *
 * Returns: (transfer none): where translations are, a folder for each language in it. Any thread.
 */
const char *
kw_i18n_get_directory (void)
{
  const char *path = g_getenv (KW_ENV_LOCALE_PATH);

  return path != NULL ? path : KW_LOCALE_DIR;
}

/**
 * kw_i18n_init:
 *
 * Finds the translations. Once, after setlocale(), before any text is shown.
 */
void
kw_i18n_init (void)
{
  bindtextdomain (GETTEXT_PACKAGE, kw_i18n_get_directory ());
  bind_textdomain_codeset (GETTEXT_PACKAGE, "UTF-8");
  textdomain (GETTEXT_PACKAGE);
}
