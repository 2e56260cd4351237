/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-access"

#include "config.h"

#include "kw-access.h"

#include "kw-error.h"

#include <unistd.h>

/*
 * Who may do what: what the kind of a caller allows at most, what he was granted, and what the tables `[[access]]` grant to
 * users and groups. Nothing is allowed that is not said here. Any thread.
 */
struct _KwAccess
{
  gatomicrefcount references;
  KwConfig *config; /* owned */
};

#define VERB(name) (1u << KW_VERB_##name)
#define ALL_VERBS ((1u << KW_N_VERBS) - 1)

/* The doors that ownCloud's protocols come through have rights of their own; the others need a grant. */
static const struct
{
  guint verbs;
  gboolean needs_grant;
} kinds[] = {
  [KW_CALLER_JWT] = { VERB (RSA_DECRYPT) | VERB (GENERATE_RSA) | VERB (ENCRYPT) | VERB (DECRYPT)
                          | VERB (REWRAP) | VERB (RANDOM),
                      FALSE },
  [KW_CALLER_LINE] = { VERB (RSA_DECRYPT), FALSE },
  [KW_CALLER_LOCAL] = { ALL_VERBS, FALSE },
  [KW_CALLER_BUS] = { ALL_VERBS, TRUE },
  [KW_CALLER_API] = { ALL_VERBS, TRUE },
};

G_STATIC_ASSERT (G_N_ELEMENTS (kinds) == KW_N_CALLER_KINDS);

static gboolean
rule_is_for (const KwAccessRule *rule, gint64 uid, const guint32 *groups, gsize n_groups)
{
  if (rule->is_user)
    return uid == (gint64) rule->id;
  for (gsize i = 0; i < n_groups; i++)
    {
      if (groups[i] == rule->id)
        return TRUE;
    }
  return FALSE;
}

/**
 * kw_access_new:
 * @config: the configuration
 *
 * Returns: (transfer full): what its tables `[[access]]` say. Any thread.
 */
KwAccess *
kw_access_new (KwConfig *config)
{
  KwAccess *self = g_new0 (KwAccess, 1);

  g_atomic_ref_count_init (&self->references);
  self->config = g_object_ref (config);
  return self;
}

/**
 * kw_access_ref:
 * @self: the tables
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwAccess *
kw_access_ref (KwAccess *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_access_unref:
 * @self: (transfer full): the tables
 *
 * Gives a reference back. Any thread.
 */
void
kw_access_unref (KwAccess *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_object_unref (self->config);
  g_free (self);
}

/**
 * kw_access_resolve:
 * @self: the tables
 * @uid: a user id, or %KW_CALLER_NO_UID
 * @groups: (array length=n_groups): ids of all groups he is in
 * @n_groups: how many
 *
 * Returns: (transfer full): what this user may do; everything for root and for the user of the daemon itself. Any thread.
 */
KwGrant *
kw_access_resolve (const KwAccess *self, gint64 uid, const guint32 *groups, gsize n_groups)
{
  GPtrArray *rules = NULL;
  KwGrant *grant = NULL;

  g_return_val_if_fail (self != NULL, NULL);

  if (uid == 0 || uid == (gint64) geteuid ())
    return kw_grant_new_all ();
  rules = kw_config_get_access (self->config);
  grant = kw_grant_new (0, NULL);
  for (guint i = 0; i < rules->len; i++)
    {
      const KwAccessRule *rule = g_ptr_array_index (rules, i);
      g_autoptr (KwGrant) one = NULL;
      g_autoptr (KwGrant) before = NULL;

      if (!rule_is_for (rule, uid, groups, n_groups))
        continue;
      one = kw_grant_new (rule->classes, (const char *const *) rule->keys);
      before = grant;
      grant = kw_grant_merge (before, one);
    }
  return grant;
}

/**
 * kw_access_check_verb:
 * @caller: who asks
 * @verb: for what
 * @error: where to store the error
 *
 * Checks what can be told before it is known which key is meant. Any thread.
 *
 * Returns: %FALSE with %KW_ERROR_NOT_AUTHORIZED
 */
gboolean
kw_access_check_verb (const KwCaller *caller, KwVerb verb, GError **error)
{
  KwCallerKind kind = kw_caller_get_kind (caller);
  KwGrant *grant = kw_caller_get_grant (caller);
  KwVerbClass verb_class = kw_verb_get_class (verb);

  if ((kinds[kind].verbs & (1u << verb)) == 0)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED,
                           "This is not permitted to this caller");
      return FALSE;
    }
  if (grant != NULL ? kw_grant_allows_class (grant, verb_class) : !kinds[kind].needs_grant)
    return TRUE;
  g_set_error (
      error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED,
      "This needs the right “%s”; the administrator can give it in a table [[access]] of keyward.toml",
      kw_verb_class_to_string (verb_class));
  return FALSE;
}

/**
 * kw_access_check_key:
 * @caller: who asks
 * @verb: for what
 * @key: (nullable): entry of `hsm_keyid` or UUID; %NULL for a key that is to be made
 * @error: where to store the error
 *
 * Checks what kw_access_check_verb() does, and that it may be done with this key. Any thread.
 *
 * Returns: %FALSE with %KW_ERROR_NOT_AUTHORIZED, naming the key
 */
gboolean
kw_access_check_key (const KwCaller *caller, KwVerb verb, const char *key, GError **error)
{
  KwGrant *grant = kw_caller_get_grant (caller);

  if (!kw_access_check_verb (caller, verb, error))
    return FALSE;
  if (grant == NULL || kw_grant_allows_key (grant, kw_verb_get_class (verb), key))
    return TRUE;
  if (key != NULL)
    g_set_error (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED,
                 "Key %s is none of those that this caller may use for this", key);
  else
    g_set_error_literal (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED,
                         "Who makes keys has to have the right to all keys");
  return FALSE;
}
