/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-status"

#include "config.h"

#include "kw-sc-status.h"

/*
 * Why there is no card to work with, in a sentence for the administrator. Three parties can be to blame, and each is named:
 * pcscd, which may not run, or refuse; the way between the kernel and pcscd, when a device is plugged in that pcscd does not
 * show; and what is, or is not, in a reader.
 */

static char *
list_devices (const char *const *devices)
{
  return g_strjoinv (", ", (char **) devices);
}

/**
 * kw_sc_status_of_service:
 * @snapshot: what was seen
 * @devices: (array zero-terminated=1): names of devices that the kernel knows
 *
 * Returns: (transfer full) (nullable): what is wrong with pcscd. Any thread.
 */
char *
kw_sc_status_of_service (KwScSnapshot *snapshot, const char *const *devices)
{
  g_autofree char *names = list_devices (devices);

  switch (snapshot->service)
    {
    case KW_SC_SERVICE_ABSENT:
      if (devices[0] != NULL)
        return g_strdup_printf (
            "pcscd is not running, so what is plugged in cannot be used (%s); start it with: systemctl start "
            "pcscd.socket",
            names);
      return g_strdup ("pcscd is not running; start it with: systemctl start pcscd.socket");
    case KW_SC_SERVICE_DENIED:
    case KW_SC_SERVICE_FAILED:
      return g_strdup (snapshot->text);
    case KW_SC_SERVICE_UNKNOWN:
    case KW_SC_SERVICE_RUNNING:
    default:
      return NULL;
    }
}

/**
 * kw_sc_status_of_missing_reader:
 * @snapshot: what was seen, while pcscd runs
 * @devices: (array zero-terminated=1): names of devices that the kernel knows
 *
 * Returns: (transfer full) (nullable): which reader is missing. Any thread.
 */
char *
kw_sc_status_of_missing_reader (KwScSnapshot *snapshot, const char *const *devices)
{
  g_autofree char *names = list_devices (devices);
  guint n_devices = g_strv_length ((char **) devices);

  if (snapshot->readers->len == 0 && n_devices == 0)
    return g_strdup ("No card reader and no SmartCard-HSM is plugged in");
  if (n_devices <= snapshot->readers->len)
    return NULL;
  return g_strdup_printf (
      "%s, but pcscd shows %s: %s; run pcscd --hotplug or restart pcscd, and see that its driver for USB (libccid) "
      "is installed",
      n_devices == 1 ? "A device is plugged in" : "Devices are plugged in",
      snapshot->readers->len == 0 ? "no reader" : "fewer readers", names);
}

/**
 * kw_sc_status_of_reader:
 * @reader: a reader
 *
 * Returns: (transfer full) (nullable): what can be seen from outside to be wrong with it. Any thread.
 */
char *
kw_sc_status_of_reader (const KwScReader *reader)
{
  if (!reader->present)
    return g_strdup_printf ("Reader %s has no card in it", reader->name);
  if (reader->mute)
    return g_strdup_printf (
        "The card in reader %s does not answer; put it in the right way round, with its contacts wiped",
        reader->name);
  return NULL;
}

/**
 * kw_sc_status_of_foreign_card:
 * @reader: a reader
 *
 * Returns: (transfer full): that its card is no SmartCard-HSM. Any thread.
 */
char *
kw_sc_status_of_foreign_card (const KwScReader *reader)
{
  g_autoptr (GString) atr = g_string_new (NULL);
  gsize size = 0;
  const guint8 *bytes = g_bytes_get_data (reader->atr, &size);

  for (gsize i = 0; i < size; i++)
    g_string_append_printf (atr, "%02X", bytes[i]);
  return g_strdup_printf ("The card in reader %s is no SmartCard-HSM (ATR %s)", reader->name,
                          atr->str);
}
