/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-grant"

#include "config.h"

#include "kw-grant.h"

/*
 * What somebody may do. A grant is a list of rules, each with its verbs and its keys, so that grants which are put together
 * allow what each of them allows and nothing else. Any thread.
 */

typedef struct
{
  guint classes; /* bit mask of 1u << KwVerbClass */
  GStrv keys;    /* owned, nullable: all keys */
} Rule;

struct _KwGrant
{
  gatomicrefcount references;
  GArray *rules; /* owned; of Rule */
};

static const char *const class_nicks[] = {
  [KW_VERB_CLASS_USE_KEYS] = "use-keys",
  [KW_VERB_CLASS_TEST] = "test",
  [KW_VERB_CLASS_MANAGE_DEVICES] = "manage-devices",
  [KW_VERB_CLASS_MANAGE_KEYS] = "manage-keys",
  [KW_VERB_CLASS_UNLOCK] = "unlock",
};

G_STATIC_ASSERT (G_N_ELEMENTS (class_nicks) == KW_N_VERB_CLASSES);

static void
rule_clear (gpointer data)
{
  Rule *rule = data;

  g_strfreev (rule->keys);
}

static void
add_rule (KwGrant *self, guint classes, const char *const *keys)
{
  Rule rule = { classes, g_strdupv ((char **) keys) };

  g_array_append_val (self->rules, rule);
}

static KwGrant *
grant_new (void)
{
  KwGrant *self = g_new0 (KwGrant, 1);

  g_atomic_ref_count_init (&self->references);
  self->rules = g_array_new (FALSE, FALSE, sizeof (Rule));
  g_array_set_clear_func (self->rules, rule_clear);
  return self;
}

static gboolean
rule_has_key (const Rule *rule, const char *key)
{
  if (rule->keys == NULL)
    return TRUE;
  for (guint i = 0; key != NULL && rule->keys[i] != NULL; i++)
    {
      if (g_ascii_strcasecmp (rule->keys[i], key) == 0)
        return TRUE;
    }
  return FALSE;
}

/**
 * kw_verb_class_to_string:
 * @verb_class: a class of verbs
 *
 * Returns: (transfer none): its nick, as `[[access]]` and polkit have it. Any thread.
 */
const char *
kw_verb_class_to_string (KwVerbClass verb_class)
{
  g_return_val_if_fail ((guint) verb_class < G_N_ELEMENTS (class_nicks), NULL);

  return class_nicks[verb_class];
}

/**
 * kw_verb_class_from_string:
 * @nick: nick of a class
 * @out_class: (out): the class
 *
 * Returns: %FALSE when @nick is unknown. Any thread.
 */
gboolean
kw_verb_class_from_string (const char *nick, KwVerbClass *out_class)
{
  g_return_val_if_fail (nick != NULL, FALSE);

  for (guint i = 0; i < G_N_ELEMENTS (class_nicks); i++)
    {
      if (g_str_equal (nick, class_nicks[i]))
        {
          *out_class = (KwVerbClass) i;
          return TRUE;
        }
    }
  return FALSE;
}

/**
 * kw_grant_new:
 * @classes: bit mask of 1u << #KwVerbClass
 * @keys: (nullable): entries of `hsm_keyid` and UUIDs, compared without case; %NULL for all keys
 *
 * Returns: (transfer full): a grant of these verbs on these keys. Any thread.
 */
KwGrant *
kw_grant_new (guint classes, const char *const *keys)
{
  KwGrant *self = grant_new ();

  if (classes != 0)
    add_rule (self, classes, keys);
  return self;
}

/**
 * kw_grant_new_all:
 *
 * Returns: (transfer full): a grant of everything. Any thread.
 */
KwGrant *
kw_grant_new_all (void)
{
  return kw_grant_new ((1u << KW_N_VERB_CLASSES) - 1, NULL);
}

/**
 * kw_grant_merge:
 * @a: (nullable): a grant
 * @b: (nullable): another one
 *
 * Returns: (transfer full): a grant of what one of them allows. Any thread.
 */
KwGrant *
kw_grant_merge (KwGrant *a, KwGrant *b)
{
  KwGrant *const both[] = { a, b };
  KwGrant *self = grant_new ();

  for (guint i = 0; i < G_N_ELEMENTS (both); i++)
    {
      for (guint j = 0; both[i] != NULL && j < both[i]->rules->len; j++)
        {
          const Rule *rule = &g_array_index (both[i]->rules, Rule, j);

          add_rule (self, rule->classes, (const char *const *) rule->keys);
        }
    }
  return self;
}

/**
 * kw_grant_ref:
 * @self: a grant
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwGrant *
kw_grant_ref (KwGrant *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_grant_unref:
 * @self: (transfer full): a grant
 *
 * Gives a reference back. Any thread.
 */
void
kw_grant_unref (KwGrant *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_array_unref (self->rules);
  g_free (self);
}

/**
 * kw_grant_allows_class:
 * @self: a grant
 * @verb_class: a class of verbs
 *
 * Returns: whether its verbs are granted, be it on some keys only. Any thread.
 */
gboolean
kw_grant_allows_class (const KwGrant *self, KwVerbClass verb_class)
{
  g_return_val_if_fail (self != NULL && (guint) verb_class < KW_N_VERB_CLASSES, FALSE);

  for (guint i = 0; i < self->rules->len; i++)
    {
      if ((g_array_index (self->rules, Rule, i).classes & (1u << verb_class)) != 0)
        return TRUE;
    }
  return FALSE;
}

/**
 * kw_grant_allows_key:
 * @self: a grant
 * @verb_class: a class of verbs
 * @key: (nullable): entry of `hsm_keyid` or UUID; %NULL for keys that nobody named, such as one that is to be made
 *
 * Returns: whether its verbs are granted on this key. Any thread.
 */
gboolean
kw_grant_allows_key (const KwGrant *self, KwVerbClass verb_class, const char *key)
{
  g_return_val_if_fail (self != NULL && (guint) verb_class < KW_N_VERB_CLASSES, FALSE);

  for (guint i = 0; i < self->rules->len; i++)
    {
      const Rule *rule = &g_array_index (self->rules, Rule, i);

      if ((rule->classes & (1u << verb_class)) != 0 && rule_has_key (rule, key))
        return TRUE;
    }
  return FALSE;
}
