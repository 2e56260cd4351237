/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-grant"

#include "config.h"

#include "kw-access.h"
#include "kw-core-fixture.h"
#include "kw-error.h"

#include <string.h>

static void
test_nicks (void)
{
  KwVerbClass verb_class = KW_VERB_CLASS_USE_KEYS;

  for (guint i = 0; i < KW_N_VERB_CLASSES; i++)
    {
      g_assert_true (
          kw_verb_class_from_string (kw_verb_class_to_string ((KwVerbClass) i), &verb_class));
      g_assert_cmpint (verb_class, ==, i);
    }
  g_assert_false (kw_verb_class_from_string ("everything", &verb_class));
}

static void
test_every_verb_has_a_class (void)
{
  static const KwVerbClass classes[KW_N_VERBS] = {
    [KW_VERB_GENERATE_RSA] = KW_VERB_CLASS_MANAGE_KEYS,
    [KW_VERB_GENERATE_AES] = KW_VERB_CLASS_MANAGE_KEYS,
    [KW_VERB_RUN_TEST] = KW_VERB_CLASS_TEST,
    [KW_VERB_CHECK_KEYS] = KW_VERB_CLASS_TEST,
    [KW_VERB_RETRY_DEVICE] = KW_VERB_CLASS_MANAGE_DEVICES,
    [KW_VERB_ACCEPT_KEY] = KW_VERB_CLASS_MANAGE_KEYS,
    [KW_VERB_UNLOCK] = KW_VERB_CLASS_UNLOCK,
    [KW_VERB_RELOAD] = KW_VERB_CLASS_MANAGE_DEVICES,
    [KW_VERB_WEB_LOGIN] = KW_VERB_CLASS_TEST,
  };

  for (guint i = 0; i < KW_N_VERBS; i++)
    g_assert_cmpint (kw_verb_get_class ((KwVerb) i), ==, classes[i]);
}

static void
test_keys (void)
{
  static const char *const keys[] = { "0", "Label:Master", NULL };
  g_autoptr (KwGrant) grant = kw_grant_new (1u << KW_VERB_CLASS_USE_KEYS, keys);
  g_autoptr (KwGrant) all = kw_grant_new_all ();
  g_autoptr (KwGrant) none = kw_grant_new (0, NULL);

  g_assert_true (kw_grant_allows_class (grant, KW_VERB_CLASS_USE_KEYS));
  g_assert_false (kw_grant_allows_class (grant, KW_VERB_CLASS_TEST));
  g_assert_true (kw_grant_allows_key (grant, KW_VERB_CLASS_USE_KEYS, "label:master"));
  g_assert_false (kw_grant_allows_key (grant, KW_VERB_CLASS_USE_KEYS, "1"));
  g_assert_false (kw_grant_allows_key (grant, KW_VERB_CLASS_USE_KEYS, NULL));
  g_assert_false (kw_grant_allows_key (grant, KW_VERB_CLASS_MANAGE_KEYS, "0"));
  g_assert_true (kw_grant_allows_key (all, KW_VERB_CLASS_UNLOCK, NULL));
  g_assert_true (kw_grant_allows_key (all, KW_VERB_CLASS_USE_KEYS, "1"));
  g_assert_false (kw_grant_allows_class (none, KW_VERB_CLASS_USE_KEYS));
}

/* Verbs of the one on keys of the other are granted by neither. */
static void
test_merging_widens_nothing (void)
{
  static const char *const keys[] = { "0", NULL };
  g_autoptr (KwGrant) a = kw_grant_new (1u << KW_VERB_CLASS_USE_KEYS, keys);
  g_autoptr (KwGrant) b = kw_grant_new (1u << KW_VERB_CLASS_MANAGE_KEYS, NULL);
  g_autoptr (KwGrant) both = kw_grant_merge (a, b);
  g_autoptr (KwGrant) alone = kw_grant_merge (NULL, a);

  g_assert_true (kw_grant_allows_key (both, KW_VERB_CLASS_USE_KEYS, "0"));
  g_assert_false (kw_grant_allows_key (both, KW_VERB_CLASS_USE_KEYS, "1"));
  g_assert_true (kw_grant_allows_key (both, KW_VERB_CLASS_MANAGE_KEYS, "1"));
  g_assert_false (kw_grant_allows_key (alone, KW_VERB_CLASS_MANAGE_KEYS, "1"));
}

static KwAccess *
parse_access (const char *text)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwConfig) config = kw_config_new_from_data ("t", text, strlen (text), &error);

  g_assert_no_error (error);
  return kw_access_new (config);
}

static void
test_users_and_groups (void)
{
  g_autoptr (KwAccess) access
      = parse_access ("[hsm]\nhsm_keyid = [0, 1]\n"
                      "[[access]]\nuser = \"7001\"\nverbs = [\"use-keys\"]\n"
                      "keys = [\"0\"]\n"
                      "[[access]]\ngroup = \"7002\"\nverbs = [\"test\"]\n");
  const guint32 groups[] = { 7009, 7002 };
  g_autoptr (KwGrant) user = kw_access_resolve (access, 7001, NULL, 0);
  g_autoptr (KwGrant) both = kw_access_resolve (access, 7001, groups, G_N_ELEMENTS (groups));
  g_autoptr (KwGrant) group = kw_access_resolve (access, 7003, groups, G_N_ELEMENTS (groups));
  g_autoptr (KwGrant) other = kw_access_resolve (access, 7002, NULL, 0);
  g_autoptr (KwGrant) nobody = kw_access_resolve (access, KW_CALLER_NO_UID, NULL, 0);
  g_autoptr (KwGrant) root = kw_access_resolve (access, 0, NULL, 0);

  g_assert_true (kw_grant_allows_key (user, KW_VERB_CLASS_USE_KEYS, "0"));
  g_assert_false (kw_grant_allows_key (user, KW_VERB_CLASS_USE_KEYS, "1"));
  g_assert_false (kw_grant_allows_class (user, KW_VERB_CLASS_TEST));
  g_assert_true (kw_grant_allows_class (both, KW_VERB_CLASS_TEST));
  g_assert_true (kw_grant_allows_key (both, KW_VERB_CLASS_USE_KEYS, "0"));
  g_assert_true (kw_grant_allows_class (group, KW_VERB_CLASS_TEST));
  g_assert_false (kw_grant_allows_class (group, KW_VERB_CLASS_USE_KEYS));
  for (guint i = 0; i < KW_N_VERB_CLASSES; i++)
    {
      g_assert_false (kw_grant_allows_class (other, (KwVerbClass) i));
      g_assert_false (kw_grant_allows_class (nobody, (KwVerbClass) i));
      g_assert_true (kw_grant_allows_key (root, (KwVerbClass) i, NULL));
    }
}

/* Each kind of caller with and without a grant, for each verb. */
static void
test_each_kind_and_verb (void)
{
  g_autoptr (KwGrant) all = kw_grant_new_all ();
  g_autoptr (KwGrant) none = kw_grant_new (0, NULL);

  for (guint kind = 0; kind < KW_N_CALLER_KINDS; kind++)
    {
      g_autoptr (KwCaller) bare = kw_caller_new ((KwCallerKind) kind, NULL, NULL, "x", 1000);
      g_autoptr (KwCaller) full
          = kw_caller_new_with_grant ((KwCallerKind) kind, NULL, NULL, "x", 1000, all);
      g_autoptr (KwCaller) empty
          = kw_caller_new_with_grant ((KwCallerKind) kind, NULL, NULL, "x", 1000, none);
      gboolean needs_grant = kind == KW_CALLER_BUS || kind == KW_CALLER_API;

      for (guint verb = 0; verb < KW_N_VERBS; verb++)
        {
          gboolean ever = TRUE;
          g_autoptr (GError) error = NULL;

          if (kind == KW_CALLER_LINE)
            ever = verb == KW_VERB_RSA_DECRYPT;
          if (kind == KW_CALLER_JWT)
            ever = verb <= KW_VERB_RANDOM;
          g_assert_true (kw_access_check_verb (full, (KwVerb) verb, NULL) == ever);
          g_assert_true (kw_access_check_verb (bare, (KwVerb) verb, NULL)
                         == (ever && !needs_grant));
          g_assert_false (kw_access_check_verb (empty, (KwVerb) verb, &error));
          g_assert_error (error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED);
        }
    }
}

static void
test_refusal_names_the_key (void)
{
  static const char *const keys[] = { "0", NULL };
  g_autoptr (KwGrant) grant
      = kw_grant_new (1u << KW_VERB_CLASS_USE_KEYS | 1u << KW_VERB_CLASS_MANAGE_KEYS, keys);
  g_autoptr (KwCaller) caller
      = kw_caller_new_with_grant (KW_CALLER_BUS, NULL, NULL, "bus", 1000, grant);
  g_autoptr (GError) error = NULL;

  g_assert_true (kw_access_check_key (caller, KW_VERB_DECRYPT, "0", &error));
  g_assert_false (kw_access_check_key (caller, KW_VERB_DECRYPT, "1", &error));
  kw_assert_error (error, KW_ERROR_NOT_AUTHORIZED,
                   "Key 1 is none of those that this caller may use for this");
  g_assert_false (kw_access_check_key (caller, KW_VERB_GENERATE_AES, NULL, &error));
  kw_assert_error (error, KW_ERROR_NOT_AUTHORIZED,
                   "Who makes keys has to have the right to all keys");
  g_assert_false (kw_access_check_verb (caller, KW_VERB_UNLOCK, &error));
  kw_assert_error (
      error, KW_ERROR_NOT_AUTHORIZED,
      "This needs the right “unlock”; the administrator can give it in a table [[access]] of keyward.toml");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/grant/nicks", test_nicks);
  g_test_add_func ("/grant/every-verb-has-a-class", test_every_verb_has_a_class);
  g_test_add_func ("/grant/keys", test_keys);
  g_test_add_func ("/grant/merging-widens-nothing", test_merging_widens_nothing);
  g_test_add_func ("/access/users-and-groups", test_users_and_groups);
  g_test_add_func ("/access/each-kind-and-verb", test_each_kind_and_verb);
  g_test_add_func ("/access/refusal-names-the-key", test_refusal_names_the_key);
  return g_test_run ();
}
