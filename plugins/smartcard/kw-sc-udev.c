/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-udev"

#include "config.h"

#include "kw-sc-udev.h"

#include <glib-unix.h>
#include <libudev.h>
#include <string.h>

/*
 * What the kernel knows of card readers on USB, whether or not pcscd does: devices with an interface of the class for smart
 * cards, sticks with a chip of their own among them. It is only asked when readers or cards are missing, to tell an administrator
 * whose fault that is; nothing is opened.
 *
 * Main context. What is read are files of the kernel in memory.
 */
struct _KwScUdev
{
  struct udev *udev;            /* owned, nullable: there is none here */
  struct udev_monitor *monitor; /* owned, nullable */
  guint source;
  KwScUdevFunc func;
  gpointer user_data;
};

#define SUBSYSTEM "usb"
#define TYPE_INTERFACE "usb_interface"
#define TYPE_DEVICE "usb_device"
#define CLASS_SMART_CARD "0b"
#define MAX_DEVICES 64
#define MAX_NAME 80

/* Sticks that are a SmartCard-HSM, by vendor and product. */
static const struct
{
  const char *vendor;
  const char *product;
  const char *name;
} known_devices[] = {
  { "20a0", "4230", "Nitrokey HSM" },
  { "04e6", "5816", "SmartCard-HSM" },
  { "04e6", "5817", "SmartCard-HSM" },
};

static gboolean
on_udev_event (gint fd G_GNUC_UNUSED, GIOCondition condition, gpointer user_data)
{
  KwScUdev *self = user_data;
  struct udev_device *device = udev_monitor_receive_device (self->monitor);

  if (device != NULL)
    {
      udev_device_unref (device);
      self->func (self->user_data);
    }
  else if ((condition & (G_IO_ERR | G_IO_HUP)) != 0)
    {
      self->source = 0;
      return G_SOURCE_REMOVE;
    }
  return G_SOURCE_CONTINUE;
}

static void
start_monitor (KwScUdev *self)
{
  self->monitor = udev_monitor_new_from_netlink (self->udev, "udev");
  if (self->monitor == NULL
      || udev_monitor_filter_add_match_subsystem_devtype (self->monitor, SUBSYSTEM, TYPE_DEVICE) < 0
      || udev_monitor_enable_receiving (self->monitor) < 0)
    {
      g_debug ("There is no news of USB devices");
      g_clear_pointer (&self->monitor, udev_monitor_unref);
      return;
    }
  self->source
      = g_unix_fd_add (udev_monitor_get_fd (self->monitor),
                       (GIOCondition) (G_IO_IN | G_IO_ERR | G_IO_HUP), on_udev_event, self);
}

/**
 * kw_sc_udev_new:
 * @func: (scope notified): called when a USB device came or went
 * @user_data: passed to @func
 *
 * Returns: (transfer full): the watch, which knows of no devices where there is no udev. Main context.
 */
KwScUdev *
kw_sc_udev_new (KwScUdevFunc func, gpointer user_data)
{
  KwScUdev *self = g_new0 (KwScUdev, 1);

  self->func = func;
  self->user_data = user_data;
  self->udev = udev_new ();
  if (self->udev != NULL)
    start_monitor (self);
  return self;
}

/**
 * kw_sc_udev_free:
 * @self: (transfer full): the watch
 *
 * Ends it. Main context.
 */
void
kw_sc_udev_free (KwScUdev *self)
{
  g_return_if_fail (self != NULL);

  g_clear_handle_id (&self->source, g_source_remove);
  g_clear_pointer (&self->monitor, udev_monitor_unref);
  g_clear_pointer (&self->udev, udev_unref);
  g_free (self);
}

/* Text that came from a device: printable, and not too long. */
static char *
clean_name (const char *name)
{
  g_autofree char *valid = g_utf8_make_valid (name, -1);
  GString *clean = g_string_new (NULL);

  g_strstrip (valid);
  for (const char *at = valid; *at != '\0' && clean->len < MAX_NAME; at = g_utf8_next_char (at))
    {
      if (g_unichar_isprint (g_utf8_get_char (at)))
        g_string_append_unichar (clean, g_utf8_get_char (at));
    }
  return g_string_free (clean, FALSE);
}

static char *
name_device (struct udev_device *device)
{
  const char *vendor = udev_device_get_sysattr_value (device, "idVendor");
  const char *product = udev_device_get_sysattr_value (device, "idProduct");
  const char *text = udev_device_get_sysattr_value (device, "product");
  g_autofree char *clean_vendor = clean_name (vendor != NULL ? vendor : "?");
  g_autofree char *clean_product = clean_name (product != NULL ? product : "?");
  g_autofree char *clean_text = clean_name (text != NULL ? text : "card reader");

  for (gsize i = 0; i < G_N_ELEMENTS (known_devices); i++)
    {
      if (g_ascii_strcasecmp (clean_vendor, known_devices[i].vendor) == 0
          && g_ascii_strcasecmp (clean_product, known_devices[i].product) == 0)
        return g_strdup_printf ("%s (%s:%s)", known_devices[i].name, clean_vendor, clean_product);
    }
  return g_strdup_printf ("%s (%s:%s)", clean_text, clean_vendor, clean_product);
}

static void
add_interface (KwScUdev *self, const char *path, GHashTable *seen, GStrvBuilder *names)
{
  struct udev_device *interface = udev_device_new_from_syspath (self->udev, path);
  const char *class = NULL;
  struct udev_device *device = NULL;

  if (interface == NULL)
    return;
  class = udev_device_get_sysattr_value (interface, "bInterfaceClass");
  if (class != NULL && g_ascii_strcasecmp (class, CLASS_SMART_CARD) == 0)
    device = udev_device_get_parent_with_subsystem_devtype (interface, SUBSYSTEM, TYPE_DEVICE);
  if (device != NULL && g_hash_table_size (seen) < MAX_DEVICES
      && g_hash_table_add (seen, g_strdup (udev_device_get_syspath (device))))
    {
      g_autofree char *name = name_device (device);

      g_strv_builder_add (names, name);
    }
  udev_device_unref (interface);
}

/**
 * kw_sc_udev_list:
 * @self: the watch
 *
 * Returns: (transfer full): names of the card readers and sticks that are plugged in, perhaps none. Main context.
 */
char **
kw_sc_udev_list (KwScUdev *self)
{
  g_autoptr (GStrvBuilder) names = g_strv_builder_new ();
  g_autoptr (GHashTable) seen = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  struct udev_enumerate *enumerate = NULL;
  struct udev_list_entry *entry = NULL;

  g_return_val_if_fail (self != NULL, NULL);

  if (self->udev != NULL)
    enumerate = udev_enumerate_new (self->udev);
  if (enumerate == NULL)
    return g_strv_builder_end (names);
  udev_enumerate_add_match_subsystem (enumerate, SUBSYSTEM);
  udev_enumerate_add_match_property (enumerate, "DEVTYPE", TYPE_INTERFACE);
  udev_enumerate_scan_devices (enumerate);
  udev_list_entry_foreach (entry, udev_enumerate_get_list_entry (enumerate))
      add_interface (self, udev_list_entry_get_name (entry), seen, names);
  udev_enumerate_unref (enumerate);
  return g_strv_builder_end (names);
}
