/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-polkit.h"

#include "kw-bus-names.h"
#include "kw-error.h"

/*
 * Asks polkit, on the bus that the caller is on. It is asked by its D-Bus interface and not by its library, because that has one
 * connection to the system bus for all of a process, and no time limits.
 */

#define POLKIT_NAME "org.freedesktop.PolicyKit1"
#define POLKIT_PATH "/org/freedesktop/PolicyKit1/Authority"
#define POLKIT_INTERFACE "org.freedesktop.PolicyKit1.Authority"
#define FLAG_ALLOW_USER_INTERACTION 1
#define TIMEOUT_MSEC 5000
#define INTERACTIVE_TIMEOUT_MSEC 120000 /* somebody has to type a password */

typedef struct
{
  GDBusConnection *connection; /* owned */
  char *action;                /* owned */
  char *id;                    /* owned: to call it off */
} Check;

static void
check_free (gpointer data)
{
  Check *check = data;

  g_object_unref (check->connection);
  g_free (check->action);
  g_free (check->id);
  g_free (check);
}

/* A dialogue that nobody waits for is to go from the screen. */
static void
call_off (const Check *check)
{
  g_dbus_connection_call (check->connection, POLKIT_NAME, POLKIT_PATH, POLKIT_INTERFACE,
                          "CancelCheckAuthorization", g_variant_new ("(s)", check->id), NULL,
                          G_DBUS_CALL_FLAGS_NO_AUTO_START, TIMEOUT_MSEC, NULL, NULL, NULL);
}

static GError *
describe_failure (const Check *check, const GError *error)
{
  if (g_error_matches (error, G_DBUS_ERROR, G_DBUS_ERROR_SERVICE_UNKNOWN)
      || g_error_matches (error, G_DBUS_ERROR, G_DBUS_ERROR_NAME_HAS_NO_OWNER)
      || g_error_matches (error, G_DBUS_ERROR, G_DBUS_ERROR_SPAWN_SERVICE_NOT_FOUND))
    return g_error_new (
        KW_ERROR, KW_ERROR_NOT_AUTHORIZED,
        "This needs the right %s, and there is no polkit here: only root may, and whom "
        "[[access]] in keyward.toml names",
        check->action);
  if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT)
      || g_error_matches (error, G_DBUS_ERROR, G_DBUS_ERROR_TIMEOUT)
      || g_error_matches (error, G_DBUS_ERROR, G_DBUS_ERROR_TIMED_OUT))
    return g_error_new (KW_ERROR, KW_ERROR_NOT_AUTHORIZED,
                        "polkit did not answer in time whether %s is allowed, so it is not",
                        check->action);
  if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    return g_error_new_literal (KW_ERROR, KW_ERROR_CANCELLED, "The caller has left the bus");
  return g_error_new (KW_ERROR, KW_ERROR_NOT_AUTHORIZED,
                      "polkit could not be asked whether %s is allowed, so it is not: %s",
                      check->action, error->message);
}

static void
on_answer (GObject *source, GAsyncResult *result, gpointer user_data)
{
  g_autoptr (GTask) task = user_data;
  const Check *check = g_task_get_task_data (task);
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_finish (G_DBUS_CONNECTION (source), result, &error);
  gboolean authorised = FALSE;
  gboolean challenge = FALSE;

  if (reply == NULL)
    {
      if (g_dbus_error_is_remote_error (error))
        g_dbus_error_strip_remote_error (error);
      call_off (check);
      g_task_return_error (task, describe_failure (check, error));
      return;
    }
  g_variant_get (reply, "((bba{ss}))", &authorised, &challenge, NULL);
  if (authorised)
    g_task_return_boolean (task, TRUE);
  else
    g_task_return_new_error (
        task, KW_ERROR, KW_ERROR_NOT_AUTHORIZED,
        challenge ? "polkit wants a password for %s; call it from a session that can "
                    "ask for one, or as root"
                  : "polkit does not allow %s to this user",
        check->action);
}

/**
 * kw_bus_polkit_check:
 * @connection: the bus
 * @sender: unique name of the caller
 * @verb_class: what he wants to do
 * @interactive: he may be asked for a password
 * @cancellable: cancelled when he leaves
 * @callback: is told
 * @user_data: for @callback
 *
 * Asks polkit whether a caller may do something; the answer comes within a time limit. Main context.
 */
void
kw_bus_polkit_check (GDBusConnection *connection,
                     const char *sender,
                     KwVerbClass verb_class,
                     gboolean interactive,
                     GCancellable *cancellable,
                     GAsyncReadyCallback callback,
                     gpointer user_data)
{
  GTask *task = g_task_new (NULL, NULL, callback, user_data);
  Check *check = g_new0 (Check, 1);
  GVariantBuilder subject;

  check->connection = g_object_ref (connection);
  check->action = g_strconcat (KW_BUS_ACTION_PREFIX, kw_verb_class_to_string (verb_class), NULL);
  check->id = g_uuid_string_random ();
  g_task_set_task_data (task, check, check_free);
  g_variant_builder_init (&subject, G_VARIANT_TYPE_VARDICT);
  g_variant_builder_add (&subject, "{sv}", "name", g_variant_new_string (sender));
  g_dbus_connection_call (connection, POLKIT_NAME, POLKIT_PATH, POLKIT_INTERFACE,
                          "CheckAuthorization",
                          g_variant_new ("((sa{sv})sa{ss}us)", "system-bus-name", &subject,
                                         check->action, NULL,
                                         interactive ? FLAG_ALLOW_USER_INTERACTION : 0, check->id),
                          G_VARIANT_TYPE ("((bba{ss}))"), G_DBUS_CALL_FLAGS_NONE,
                          interactive ? INTERACTIVE_TIMEOUT_MSEC : TIMEOUT_MSEC, cancellable,
                          on_answer, task);
}

/**
 * kw_bus_polkit_check_finish:
 * @result: what the callback got
 * @error: where to store the error
 *
 * Returns: whether he may; %FALSE with %KW_ERROR_NOT_AUTHORIZED and a sentence, or %KW_ERROR_CANCELLED
 */
gboolean
kw_bus_polkit_check_finish (GAsyncResult *result, GError **error)
{
  return g_task_propagate_boolean (G_TASK (result), error);
}
