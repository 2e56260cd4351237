/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-caller"

#include "config.h"

#include "kw-caller.h"

/*
 * Who asks: resolved once by a door, immutable afterwards. Any thread.
 */
struct _KwCaller
{
  gatomicrefcount references;
  KwCallerKind kind;
  char *name;       /* owned, nullable */
  char *request_id; /* owned, nullable */
  char *address;    /* owned */
  gint64 uid;
  KwGrant *grant; /* owned, nullable: what his kind may do */
};

static const char *const caller_kinds[] = {
  [KW_CALLER_JWT] = "jwt", [KW_CALLER_LINE] = "line", [KW_CALLER_LOCAL] = "local",
  [KW_CALLER_BUS] = "bus", [KW_CALLER_API] = "api",
};

/**
 * kw_caller_new:
 * @kind: how the caller proved who he is
 * @name: (nullable): the name he gives himself (a JWT's issuer)
 * @request_id: (nullable): his number for this request
 * @address: where he connects from: an IP address, or "unix"
 * @uid: his user id on a UNIX socket, else %KW_CALLER_NO_UID
 *
 * Returns: (transfer full): the caller, with the rights that his kind has by itself: a peer on D-Bus and a user of the API
 *   have none. Any thread.
 */
KwCaller *
kw_caller_new (KwCallerKind kind,
               const char *name,
               const char *request_id,
               const char *address,
               gint64 uid)
{
  return kw_caller_new_with_grant (kind, name, request_id, address, uid, NULL);
}

/**
 * kw_caller_new_with_grant:
 * @kind: how the caller proved who he is
 * @name: (nullable): the name he gives himself, or the unit he belongs to
 * @request_id: (nullable): his number for this request
 * @address: where he connects from: an IP address, "unix", or his name on the bus
 * @uid: his user id, where it is known, else %KW_CALLER_NO_UID
 * @grant: (nullable): what he may do, of what his kind may; %NULL as for kw_caller_new()
 *
 * Returns: (transfer full): the caller. Any thread.
 */
KwCaller *
kw_caller_new_with_grant (KwCallerKind kind,
                          const char *name,
                          const char *request_id,
                          const char *address,
                          gint64 uid,
                          KwGrant *grant)
{
  KwCaller *self = g_new0 (KwCaller, 1);

  g_atomic_ref_count_init (&self->references);
  self->kind = kind;
  self->name = g_strdup (name);
  self->request_id = g_strdup (request_id);
  self->address = g_strdup (address);
  self->uid = uid;
  self->grant = grant != NULL ? kw_grant_ref (grant) : NULL;
  return self;
}

/**
 * kw_caller_ref:
 * @self: a caller
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwCaller *
kw_caller_ref (KwCaller *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_caller_unref:
 * @self: (transfer full): a caller
 *
 * Gives a reference back. Any thread.
 */
void
kw_caller_unref (KwCaller *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_free (self->name);
  g_free (self->request_id);
  g_free (self->address);
  g_clear_pointer (&self->grant, kw_grant_unref);
  g_free (self);
}

/**
 * kw_caller_kind_to_string:
 * @kind: a kind of caller
 *
 * Returns: (transfer none): its nick, as the audit log shows it. Any thread.
 */
const char *
kw_caller_kind_to_string (KwCallerKind kind)
{
  g_return_val_if_fail ((guint) kind < G_N_ELEMENTS (caller_kinds), NULL);

  return caller_kinds[kind];
}

/**
 * kw_caller_get_kind:
 * @self: a caller
 *
 * Returns: how he proved who he is. Any thread.
 */
KwCallerKind
kw_caller_get_kind (const KwCaller *self)
{
  return self->kind;
}

/**
 * kw_caller_get_name:
 * @self: a caller
 *
 * Returns: (transfer none) (nullable): the name he gives himself. Any thread.
 */
const char *
kw_caller_get_name (const KwCaller *self)
{
  return self->name;
}

/**
 * kw_caller_get_request_id:
 * @self: a caller
 *
 * Returns: (transfer none) (nullable): his number for this request. Any thread.
 */
const char *
kw_caller_get_request_id (const KwCaller *self)
{
  return self->request_id;
}

/**
 * kw_caller_get_address:
 * @self: a caller
 *
 * Returns: (transfer none): where he connects from. Any thread.
 */
const char *
kw_caller_get_address (const KwCaller *self)
{
  return self->address;
}

/**
 * kw_caller_get_uid:
 * @self: a caller
 *
 * Returns: his user id, or %KW_CALLER_NO_UID. Any thread.
 */
gint64
kw_caller_get_uid (const KwCaller *self)
{
  return self->uid;
}

/**
 * kw_caller_get_grant:
 * @self: a caller
 *
 * Returns: (transfer none) (nullable): what he was granted; %NULL = what his kind may do by itself. Any thread.
 */
KwGrant *
kw_caller_get_grant (const KwCaller *self)
{
  return self->grant;
}
