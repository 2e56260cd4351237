/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-card-rig.h"
#include "kw-sc-token.h"

G_BEGIN_DECLS

#define SC_N_SHARES 2

/**
 * ScFixture: virtual cards that this process speaks to by its own libpcsclite
 */
typedef struct
{
  KwCardRig *rig;
} ScFixture;

ScFixture *sc_fixture_new_blank (guint n_cards, const char *const *card_options);

ScFixture *sc_fixture_new (guint n_cards, const char *const *card_options);

void sc_fixture_free (ScFixture *self);

KwToken *sc_fixture_open (ScFixture *self, guint card);

KwToken *sc_fixture_open_and_login (ScFixture *self, guint card);

void sc_login (KwToken *token, const char *pin);

GBytes *sc_id (guint8 id);

void
sc_run_ok (ScFixture *self, char **out_output, const char *program, ...) G_GNUC_NULL_TERMINATED;

char *sc_enumerate (ScFixture *self, guint card);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (ScFixture, sc_fixture_free)

G_END_DECLS
