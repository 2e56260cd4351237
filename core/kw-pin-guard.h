/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-token.h"

G_BEGIN_DECLS

/**
 * KwPinOutcome:
 * @KW_PIN_OUTCOME_ACCEPTED: the token took the PIN
 * @KW_PIN_OUTCOME_REFUSED: the token refused it
 * @KW_PIN_OUTCOME_UNTRIED: the token failed in a way that says nothing about the PIN and spent no try
 */
typedef enum
{
  KW_PIN_OUTCOME_ACCEPTED,
  KW_PIN_OUTCOME_REFUSED,
  KW_PIN_OUTCOME_UNTRIED,
} KwPinOutcome;

#define KW_TYPE_PIN_GUARD (kw_pin_guard_get_type ())
G_DECLARE_FINAL_TYPE (KwPinGuard, kw_pin_guard, KW, PIN_GUARD, GObject)

KwPinGuard *kw_pin_guard_new (const char *state_directory);

gboolean kw_pin_guard_login (KwPinGuard *self, KwToken *token, KwSecret *pin, GError **error);

gboolean kw_pin_guard_login_named (KwPinGuard *self,
                                   KwToken *token,
                                   KwSecret *pin,
                                   const char *pin_name,
                                   GError **error);

gboolean kw_pin_guard_check (KwPinGuard *self,
                             KwToken *token,
                             const KwPinState *state,
                             KwSecret *pin,
                             const char *pin_name,
                             GError **error);

gboolean
kw_pin_guard_forget (KwPinGuard *self, const char *serial, guint *out_n_forgotten, GError **error);

G_END_DECLS
