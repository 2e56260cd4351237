/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-owncloud-plugin"

#include "config.h"

#include "kw-names.h"
#include "kw-owncloud-door.h"

/*
 * What GIO calls when it loads this module.
 */

#define NAME "owncloud"
#define PRIORITY 10

void g_io_module_load (GIOModule *module);
void g_io_module_unload (GIOModule *module);
char **g_io_module_query (void);

void
g_io_module_load (GIOModule *module)
{
  g_type_module_use (G_TYPE_MODULE (module));
  g_io_extension_point_implement (KW_DOOR_EXTENSION_POINT, KW_TYPE_OWNCLOUD_DOOR, NAME, PRIORITY);
}

void
g_io_module_unload (GIOModule *module G_GNUC_UNUSED)
{
}

char **
g_io_module_query (void)
{
  const char *const points[] = { KW_DOOR_EXTENSION_POINT, NULL };

  return g_strdupv ((char **) points);
}
