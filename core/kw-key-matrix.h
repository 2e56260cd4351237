/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-key.h"

G_BEGIN_DECLS

/**
 * KwKeyState:
 * @KW_KEY_STATE_OK: there, and proven to be the recorded key
 * @KW_KEY_STATE_MISSING: not there
 * @KW_KEY_STATE_DIFFERENT: there is another key under its name, which is not used
 * @KW_KEY_STATE_WEAK: the recorded key, but something is known to be wrong with it: it decrypts, and does not encrypt
 * @KW_KEY_STATE_UNCHECKED: not known (yet)
 *
 * How a key is on a device, or on all of them.
 */
typedef enum
{
  KW_KEY_STATE_OK,
  KW_KEY_STATE_MISSING,
  KW_KEY_STATE_DIFFERENT,
  KW_KEY_STATE_WEAK,
  KW_KEY_STATE_UNCHECKED,
} KwKeyState;

#define KW_N_KEY_STATES (KW_KEY_STATE_UNCHECKED + 1)

const char *kw_key_state_to_string (KwKeyState state);

gboolean kw_key_state_from_string (const char *nick, KwKeyState *out_state);

/**
 * KwKeyFacts:
 * @id: for an AES key the entry of `hsm_keyid`; for an RSA key its UUID, or its CKA_ID in hex
 * @kind: its kind
 * @label: its label, where one is known, else ""
 * @fingerprint: (nullable): the recorded fingerprint, %NULL while there is none
 * @configured: it stands in `hsm_keyid`
 * @is_first: it stands there first, so it is the one to encrypt with
 * @may_encrypt: and nothing stands in its way
 * @can_encrypt: nothing would stand in the way of encrypting with it, first or not, when it is asked for by name
 * @n_copies: on how many ready devices it is, proven
 * @state: the most serious of its states on the devices
 * @advice: (nullable): what is wrong and what to do, %NULL when all is well
 *
 * What is to be said of one key.
 */
typedef struct
{
  char *id;
  KwKeyKind kind;
  char *label;
  char *fingerprint;
  gboolean configured;
  gboolean is_first;
  gboolean may_encrypt;
  gboolean can_encrypt;
  guint n_copies;
  KwKeyState state;
  char *advice;
} KwKeyFacts;

/**
 * KwMatrixDevice:
 * @name: serial number, or label where there is none
 * @label: label of the token
 * @number: number of the device object
 * @ready: it takes work
 *
 * One device of a matrix.
 */
typedef struct
{
  char *name;
  char *label;
  guint64 number;
  gboolean ready;
} KwMatrixDevice;

/**
 * KwMatrixCell:
 * @state: how the key is on the device
 * @key: (nullable): the key that is there
 * @advice: (nullable): what is wrong there
 *
 * One key on one device.
 */
typedef struct
{
  KwKeyState state;
  KwKey *key;
  char *advice;
} KwMatrixCell;

/**
 * KwKeyMatrix:
 *
 * Which key is how on which device, as it was at one moment. Immutable and reference-counted; any thread.
 */
typedef struct _KwKeyMatrix KwKeyMatrix;

KwKeyMatrix *kw_key_matrix_ref (KwKeyMatrix *self);

void kw_key_matrix_unref (KwKeyMatrix *self);

guint kw_key_matrix_get_n_keys (const KwKeyMatrix *self);

guint kw_key_matrix_get_n_devices (const KwKeyMatrix *self);

const KwKeyFacts *kw_key_matrix_get_key (const KwKeyMatrix *self, guint key);

const KwMatrixDevice *kw_key_matrix_get_device (const KwKeyMatrix *self, guint device);

const KwMatrixCell *kw_key_matrix_get_cell (const KwKeyMatrix *self, guint key, guint device);

const KwKeyFacts *kw_key_matrix_find_key (const KwKeyMatrix *self, const char *id);

const KwKeyFacts *kw_key_matrix_get_first_key (const KwKeyMatrix *self);

gboolean kw_key_matrix_is_green (const KwKeyMatrix *self);

gboolean kw_key_matrix_equal (const KwKeyMatrix *a, const KwKeyMatrix *b);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwKeyMatrix, kw_key_matrix_unref)

G_END_DECLS
