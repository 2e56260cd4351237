/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>
#include <gio/gunixfdlist.h>

#include "kw-cli.h"

G_BEGIN_DECLS

/**
 * KwCliObjectFunc:
 * @path: path of an object of the daemon
 * @properties: its properties, as a{sv}
 * @user_data: what was given with it
 *
 * Returns: whether to go on
 */
typedef gboolean (*KwCliObjectFunc) (const char *path,
                                     GVariant *properties,
                                     gpointer user_data,
                                     GError **error);

GDBusConnection *kw_cli_bus_open (KwCli *cli, GError **error);

GVariant *kw_cli_bus_call (GDBusConnection *bus,
                           const char *path,
                           const char *interface,
                           const char *method,
                           GVariant *parameters,
                           const char *reply_type,
                           GError **error);

gboolean kw_cli_bus_is_there (GDBusConnection *bus, GError **error);

GVariant *kw_cli_bus_call_with_fds (GDBusConnection *bus,
                                    const char *method,
                                    GVariant *parameters,
                                    GUnixFDList *fds,
                                    const char *reply_type,
                                    GError **error);

int kw_cli_bus_call_for_fd (GDBusConnection *bus, const char *method, GError **error);

GVariant *kw_cli_bus_get_manager (GDBusConnection *bus, GError **error);

gboolean kw_cli_bus_foreach (GDBusConnection *bus,
                             const char *interface,
                             KwCliObjectFunc func,
                             gpointer user_data,
                             GError **error);

const char *kw_cli_bus_get_string (GVariant *properties, const char *name);

gboolean kw_cli_bus_get_boolean (GVariant *properties, const char *name);

gint64 kw_cli_bus_get_integer (GVariant *properties, const char *name);

double kw_cli_bus_get_double (GVariant *properties, const char *name);

char **kw_cli_bus_dup_strings (GVariant *properties, const char *name);

G_END_DECLS
