/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-error.h"

#include "kw-error.h"

/* "pin-refused" becomes "PinRefused". */
static char *
dup_name (KwError code)
{
  g_auto (GStrv) words = g_strsplit (kw_error_to_string (code), "-", -1);
  GString *name = g_string_new (KW_BUS_ERROR_PREFIX);

  for (guint i = 0; words[i] != NULL; i++)
    {
      words[i][0] = g_ascii_toupper (words[i][0]);
      g_string_append (name, words[i]);
    }
  return g_string_free (name, FALSE);
}

/**
 * kw_bus_error_register:
 *
 * Gives each #KwError its name on D-Bus, for both sides: a service's error becomes a #KwError again at its client. May be
 * called more than once.
 */
void
kw_bus_error_register (void)
{
  static gsize done;

  if (!g_once_init_enter (&done))
    return;
  for (guint i = 0; i < KW_N_ERRORS; i++)
    {
      g_autofree char *name = dup_name (i);

      g_dbus_error_register_error (KW_ERROR, (gint) i, name);
    }
  g_once_init_leave (&done, 1);
}
