/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-key.h"
#include "kw-sc-card.h"

#include <openssl/evp.h>

G_BEGIN_DECLS

#define KW_SC_BLOCK_BYTES 16

/**
 * KwScKey: a key on a card, with what its uses are checked against. Reference-counted; used by the token's thread alone
 */
typedef struct
{
  gatomicrefcount references;
  guint8 kid;
  KwKey *key;           /* owned */
  EVP_PKEY *public_key; /* owned; NULL for AES keys and where the card does not tell */
  GBytes *description;  /* owned, nullable: content of EF C4xx */
  gboolean has_proof;   /* an AES key makes proof_cipher of proof_plain, and the reverse */
  guint8 proof_plain[KW_SC_BLOCK_BYTES];
  guint8 proof_cipher[KW_SC_BLOCK_BYTES];
} KwScKey;

KwScKey *kw_sc_key_ref (KwScKey *self);

void kw_sc_key_unref (KwScKey *self);

/**
 * KwScKeyTraits: what is the same for all keys of a card
 */
typedef struct
{
  gboolean can_be_wrapped; /* the card has a complete DKEK */
  gboolean aes_is_weak;    /* its firmware makes weak AES keys */
  const char *firmware;
} KwScKeyTraits;

GPtrArray *
kw_sc_keys_load (KwScLink *link, const KwScKeyTraits *traits, GPtrArray *known, GError **error);

KwScKey *kw_sc_keys_read (KwScLink *link, const KwScKeyTraits *traits, guint8 kid, GError **error);

gboolean kw_sc_key_ensure_proof (KwScKey *self, KwScLink *link, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwScKey, kw_sc_key_unref)

G_END_DECLS
