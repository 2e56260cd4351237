/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-verified-tokens"

#include "config.h"

#include "kw-verified-tokens.h"

#include "kw-limits.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>

/*
 * A client shows the same token with each of thousands of requests. Once it was verified it is known by its SHA-256, until
 * it expires; the token itself is not kept. It is known together with the address and the user id it came from, since those
 * are part of who the caller is.
 *
 * Any thread.
 */
struct _KwVerifiedTokens
{
  GMutex lock;
  GHashTable *tokens; /* of Token, which are their own keys; guarded by lock */
};

typedef struct
{
  guint8 digest[32];
  KwCaller *caller;
  gint64 expires; /* seconds since 1970 */
} Token;

static guint
hash_token (gconstpointer key)
{
  guint hash = 0;

  memcpy (&hash, ((const Token *) key)->digest, sizeof hash);
  return hash;
}

static gboolean
tokens_are_equal (gconstpointer a, gconstpointer b)
{
  return CRYPTO_memcmp (((const Token *) a)->digest, ((const Token *) b)->digest, 32) == 0;
}

static void
token_free (gpointer data)
{
  Token *token = data;

  kw_caller_unref (token->caller);
  g_free (token);
}

static gboolean
make_digest (const char *token, const char *address, gint64 uid, guint8 *out_digest)
{
  EVP_MD_CTX *context = EVP_MD_CTX_new ();
  gboolean good = context != NULL && EVP_DigestInit_ex (context, EVP_sha256 (), NULL) == 1
                  && EVP_DigestUpdate (context, address, strlen (address) + 1) == 1
                  && EVP_DigestUpdate (context, &uid, sizeof uid) == 1
                  && EVP_DigestUpdate (context, token, strlen (token)) == 1
                  && EVP_DigestFinal_ex (context, out_digest, NULL) == 1;

  EVP_MD_CTX_free (context);
  return good;
}

/**
 * kw_verified_tokens_new:
 *
 * Returns: (transfer full): none yet
 */
KwVerifiedTokens *
kw_verified_tokens_new (void)
{
  KwVerifiedTokens *self = g_new0 (KwVerifiedTokens, 1);

  g_mutex_init (&self->lock);
  self->tokens = g_hash_table_new_full (hash_token, tokens_are_equal, token_free, NULL);
  return self;
}

/**
 * kw_verified_tokens_free:
 * @self: (transfer full): tokens
 *
 * Forgets all.
 */
void
kw_verified_tokens_free (KwVerifiedTokens *self)
{
  g_hash_table_unref (self->tokens);
  g_mutex_clear (&self->lock);
  g_free (self);
}

/**
 * kw_verified_tokens_find:
 * @self: tokens
 * @token: what somebody shows
 * @address: where he connects from
 * @uid: his user id on a UNIX socket, else %KW_CALLER_NO_UID
 *
 * Returns: (transfer full) (nullable): who he is; %NULL when the token has to be verified
 */
KwCaller *
kw_verified_tokens_find (KwVerifiedTokens *self, const char *token, const char *address, gint64 uid)
{
  Token wanted;
  const Token *known = NULL;
  KwCaller *caller = NULL;

  if (!make_digest (token, address, uid, wanted.digest))
    return NULL;
  g_mutex_lock (&self->lock);
  known = g_hash_table_lookup (self->tokens, &wanted);
  if (known != NULL && known->expires >= g_get_real_time () / G_USEC_PER_SEC)
    caller = kw_caller_ref (known->caller);
  else if (known != NULL)
    g_hash_table_remove (self->tokens, &wanted);
  g_mutex_unlock (&self->lock);
  return caller;
}

/**
 * kw_verified_tokens_add:
 * @self: tokens
 * @token: a token that was verified
 * @caller: who showed it
 * @expires: until when it is good, in seconds since 1970
 *
 * Keeps a token. When there are too many all others are forgotten, and will be verified again.
 */
void
kw_verified_tokens_add (KwVerifiedTokens *self, const char *token, KwCaller *caller, gint64 expires)
{
  Token *known = g_new0 (Token, 1);

  known->caller = kw_caller_ref (caller);
  known->expires = expires;
  if (!make_digest (token, kw_caller_get_address (caller), kw_caller_get_uid (caller),
                    known->digest))
    {
      token_free (known);
      return;
    }
  g_mutex_lock (&self->lock);
  if (g_hash_table_size (self->tokens) >= KW_MAX_VERIFIED_TOKENS)
    g_hash_table_remove_all (self->tokens);
  g_hash_table_add (self->tokens, known);
  g_mutex_unlock (&self->lock);
}

/**
 * kw_verified_tokens_forget:
 * @self: tokens
 *
 * Has all be verified again.
 */
void
kw_verified_tokens_forget (KwVerifiedTokens *self)
{
  g_mutex_lock (&self->lock);
  g_hash_table_remove_all (self->tokens);
  g_mutex_unlock (&self->lock);
}
