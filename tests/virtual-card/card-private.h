/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "card-apdu.h"
#include "card-dkek.h"
#include "card-key.h"
#include "card.h"

G_BEGIN_DECLS

/** CARD_N_KEYS: places for keys; number 0 is the card's own key */
#define CARD_N_KEYS 256

/** CARD_MAX_KEY_ID: the last that a key can have */
#define CARD_MAX_KEY_ID 0xFE

/** CARD_MIN_PIN, CARD_MAX_PIN: length of a user PIN, in bytes */
#define CARD_MIN_PIN 6
#define CARD_MAX_PIN 15

/** CARD_SO_PIN_SIZE: length of the SO-PIN, in bytes */
#define CARD_SO_PIN_SIZE 8

/** CARD_MAX_SO_TRIES: wrong SO-PINs before it is blocked */
#define CARD_MAX_SO_TRIES 15

/** CARD_OPTION_*: low byte of the options */
#define CARD_OPTION_RESET_BY_SO_PIN 0x01
#define CARD_OPTION_TRANSPORT_PIN 0x02

/** CARD_FILE_*: file ids */
#define CARD_FILE_CERTIFICATES 0x2F02
#define CARD_FILE_TOKEN_INFO 0x2F03
#define CARD_FILE_WRAPPED_KEY 0x2F10
#define CARD_FILE_KEYS 0xCC00
#define CARD_FILE_REQUESTS 0xCE00
#define CARD_FILE_PROTECTED_DATA 0xCD00

/** CARD_FILE_OVERHEAD: what a file takes of the memory beside its bytes */
#define CARD_FILE_OVERHEAD 8

/** CARD_MAX_FILE_SIZE: largest file, in bytes: its end can be named by an offset, and one answer can hold it */
#define CARD_MAX_FILE_SIZE (CARD_MAX_RESPONSE - CARD_STATUS_SIZE)

/** CARD_NO_FILE: no current file */
#define CARD_NO_FILE (-1)

/**
 * CardPersistent:
 *
 * What a card keeps when it is unplugged: all that stands in a state file, beside keys and files.
 */
typedef struct
{
  gboolean initialized;
  guint8 options[2];
  gboolean pin_is_transport; /* and was not changed yet */
  guint8 pin[CARD_MAX_PIN];
  gsize pin_size;
  guint8 pin_max_tries;
  guint8 pin_tries;
  guint8 so_pin[CARD_SO_PIN_SIZE];
  guint8 so_tries;
  gboolean has_dkek;
  guint8 dkek_shares;
  guint8 dkek_missing;
  guint8 dkek[CARD_DKEK_SIZE];
  guint64 n_starts; /* with a seed, after the first */
} CardPersistent;

struct _Card
{
  char *serial;
  guint8 version[2];
  gsize max_memory;
  gboolean needs_select;
  CardRsaSource rsa_source;
  gpointer rsa_source_data;
  CardRandom *random;

  CardPersistent kept;
  GTree *files; /* id as a pointer → GByteArray */
  CardKey *keys[CARD_N_KEYS];
  gboolean changed;

  gboolean selected;
  gboolean logged_in;
  gint current_file;
};

/* One answer being made. */
typedef struct
{
  GByteArray *data;
  gboolean may_be_cut; /* when it is longer than Le */
} CardAnswer;

typedef guint (*CardCommand) (Card *self, const CardApdu *apdu, CardAnswer *answer);

GTree *card_files_new (void);

GByteArray *card_get_file (const Card *self, guint16 id);

gboolean card_has_memory_for (const Card *self, gsize more, gsize less);

void card_put_file (Card *self, guint16 id, GByteArray *content);

void card_remove_file (Card *self, guint16 id);

void card_put_key (Card *self, guint8 id, CardKey *key);

void card_wipe (Card *self);

gboolean card_read_state (Card *self, GBytes *state, GError **error);

char *card_dup_holder (const Card *self);

guint card_command_select (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_read (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_read_plain (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_update (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_delete (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_enumerate (Card *self, const CardApdu *apdu, CardAnswer *answer);

guint card_command_verify (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_change_reference_data (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_reset_retry_counter (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_initialize (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_get_challenge (Card *self, const CardApdu *apdu, CardAnswer *answer);

guint card_command_dkek (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_generate_pair (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_generate_secret (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_sign (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_decipher (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_cipher (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_wrap (Card *self, const CardApdu *apdu, CardAnswer *answer);
guint card_command_unwrap (Card *self, const CardApdu *apdu, CardAnswer *answer);

G_END_DECLS
