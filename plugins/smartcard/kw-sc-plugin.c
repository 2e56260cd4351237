/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-plugin"

#include "config.h"

#include "kw-names.h"
#include "kw-sc-backend.h"

#define PRIORITY 10

/*
 * Entry points of the GIO module. It is never unloaded: its types are static, and its threads may be in libpcsclite.
 */

/**
 * g_io_module_load: (skip)
 * @module: this module
 *
 * Puts the back end on its extension point. Main thread.
 */
void
g_io_module_load (GIOModule *module)
{
  g_type_module_use (G_TYPE_MODULE (module));
  g_io_extension_point_implement (KW_BACKEND_EXTENSION_POINT, KW_TYPE_SC_BACKEND,
                                  KW_BACKEND_SMARTCARD, PRIORITY);
}

/**
 * g_io_module_unload: (skip)
 * @module: this module
 *
 * Never called, because the module stays in use.
 */
void
g_io_module_unload (GIOModule *module G_GNUC_UNUSED)
{
}

/**
 * g_io_module_query: (skip)
 *
 * Returns: (transfer full): the extension points this module serves. Main thread.
 */
char **
g_io_module_query (void)
{
  const char *const extension_points[] = { KW_BACKEND_EXTENSION_POINT, NULL };

  return g_strdupv ((char **) extension_points);
}
