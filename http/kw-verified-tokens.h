/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-caller.h"

G_BEGIN_DECLS

/**
 * KwVerifiedTokens:
 *
 * JSON Web Tokens that were verified and have not expired. Any thread.
 */
typedef struct _KwVerifiedTokens KwVerifiedTokens;

KwVerifiedTokens *kw_verified_tokens_new (void);

void kw_verified_tokens_free (KwVerifiedTokens *self);

KwCaller *kw_verified_tokens_find (KwVerifiedTokens *self,
                                   const char *token,
                                   const char *address,
                                   gint64 uid);

void kw_verified_tokens_add (KwVerifiedTokens *self,
                             const char *token,
                             KwCaller *caller,
                             gint64 expires);

void kw_verified_tokens_forget (KwVerifiedTokens *self);

G_END_DECLS
