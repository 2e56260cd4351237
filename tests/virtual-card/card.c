/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-private.h"

#include "card-cvc.h"

#include <gio/gio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <string.h>

#define CLA_ISO 0x00
#define CLA_HSM 0x80
#define CLA_SECURE_MESSAGING 0x0C

/* Five digits that count the certificates of a holder. */
#define HOLDER_SEQUENCE "00000"

#define AUTHORITY_NAME "VTDICA00001"
#define ROOT_NAME "VTSRCACC100001"

#define INS_SELECT 0xA4

#define RANDOM_PURPOSE "card"

typedef enum
{
  IN_ISO = 1 << 0,
  IN_HSM = 1 << 1,
  WANTS_LOGIN = 1 << 2,
} CommandFlags;

static const struct
{
  guint8 ins;
  CommandFlags flags;
  CardCommand run;
} commands[] = {
  { INS_SELECT, IN_ISO, card_command_select },
  { 0xB0, IN_ISO, card_command_read_plain },
  { 0xB1, IN_ISO, card_command_read },
  { 0xD7, IN_ISO | WANTS_LOGIN, card_command_update },
  { 0xE4, IN_ISO | WANTS_LOGIN, card_command_delete },
  { 0x58, IN_ISO | IN_HSM, card_command_enumerate },
  { 0x20, IN_ISO, card_command_verify },
  { 0x24, IN_ISO, card_command_change_reference_data },
  { 0x2C, IN_ISO, card_command_reset_retry_counter },
  { 0x84, IN_ISO, card_command_get_challenge },
  { 0x46, IN_ISO | WANTS_LOGIN, card_command_generate_pair },
  { 0x48, IN_ISO | IN_HSM | WANTS_LOGIN, card_command_generate_secret },
  { 0x50, IN_HSM, card_command_initialize },
  { 0x52, IN_HSM, card_command_dkek },
  { 0x62, IN_HSM | WANTS_LOGIN, card_command_decipher },
  { 0x68, IN_HSM | WANTS_LOGIN, card_command_sign },
  { 0x72, IN_HSM | WANTS_LOGIN, card_command_wrap },
  { 0x74, IN_HSM | WANTS_LOGIN, card_command_unwrap },
  { 0x78, IN_HSM | WANTS_LOGIN, card_command_cipher },
};

/**
 * card_serial_is_valid:
 * @serial: text
 *
 * Returns: whether it can be the serial number of a card: two capital letters, then capital letters and digits, and as long
 * as %CARD_MIN_SERIAL to %CARD_MAX_SERIAL
 */
gboolean
card_serial_is_valid (const char *serial)
{
  gsize size = strlen (serial);

  if (size < CARD_MIN_SERIAL || size > CARD_MAX_SERIAL)
    return FALSE;
  for (gsize i = 0; i < size; i++)
    {
      if (!g_ascii_isupper (serial[i]) && (i < 2 || !g_ascii_isdigit (serial[i])))
        return FALSE;
    }
  return TRUE;
}

static Card *
card_alloc (const CardOptions *options)
{
  Card *self = g_new0 (Card, 1);

  self->version[0] = options->version_major;
  self->version[1] = options->version_minor;
  self->max_memory = options->memory;
  self->needs_select = options->needs_select;
  self->rsa_source = options->rsa_source;
  self->rsa_source_data = options->rsa_source_data;
  self->random = options->seed ? card_random_new_seeded (*options->seed, RANDOM_PURPOSE, 0)
                               : card_random_new ();
  self->files = card_files_new ();
  card_reset (self);
  return self;
}

/* "VT" and eight hexadecimal digits: nobody shall take it for a real card. */
static char *
make_up_serial (CardRandom *random)
{
  guint8 bytes[4];

  card_random_fill (random, bytes, sizeof bytes);
  return g_strdup_printf ("VT%02X%02X%02X%02X", bytes[0], bytes[1], bytes[2], bytes[3]);
}

/**
 * card_new:
 * @options: what it is to be
 *
 * Makes a card as it leaves the factory: blank, with a key of its own and two certificates in EF 2F02.
 *
 * Returns: (transfer full): the card
 */
Card *
card_new (const CardOptions *options)
{
  Card *self = card_alloc (options);
  const CardCurve *curve = card_curve_find (CARD_DEVICE_CURVE);
  CardKey *device_key = card_key_generate_ec (curve, self->random);
  g_autoptr (CardKey) authority_key = card_key_generate_ec (curve, self->random);
  g_autoptr (CardKey) root_key = card_key_generate_ec (curve, self->random);
  g_autofree char *holder = NULL;
  g_autoptr (GBytes) certificate = NULL;
  g_autoptr (GBytes) authority_certificate = NULL;
  GByteArray *content = g_byte_array_new ();

  self->serial = options->serial ? g_strdup (options->serial) : make_up_serial (self->random);
  self->keys[0] = device_key;

  holder = card_dup_holder (self);
  certificate = card_cvc_new_certificate (device_key, holder, authority_key, AUTHORITY_NAME);
  authority_certificate
      = card_cvc_new_certificate (authority_key, AUTHORITY_NAME, root_key, ROOT_NAME);
  g_byte_array_append (content, g_bytes_get_data (certificate, NULL),
                       (guint) g_bytes_get_size (certificate));
  g_byte_array_append (content, g_bytes_get_data (authority_certificate, NULL),
                       (guint) g_bytes_get_size (authority_certificate));
  card_put_file (self, CARD_FILE_CERTIFICATES, content);
  return self;
}

/**
 * card_new_from_state:
 * @options: what it is to be; its serial number, when given, must be that of @state
 * @state: from card_dup_state()
 * @error: return location for a #GError
 *
 * With a seed, the card counts its starts in what it keeps, and that is to be written before it is used.
 *
 * Returns: (transfer full): a card as it was when @state was taken; %NULL when @state is damaged, or another card's
 */
Card *
card_new_from_state (const CardOptions *options, GBytes *state, GError **error)
{
  g_autoptr (Card) self = card_alloc (options);

  if (!card_read_state (self, state, error))
    return NULL;
  if (options->serial && !g_str_equal (options->serial, self->serial))
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                   "this is the state of card %s, not of %s", self->serial, options->serial);
      return NULL;
    }
  if (options->seed)
    {
      /* Else it would give the same challenges and keys after each start. */
      self->kept.n_starts++;
      self->changed = TRUE;
      g_clear_pointer (&self->random, card_random_free);
      self->random = card_random_new_seeded (*options->seed, RANDOM_PURPOSE, self->kept.n_starts);
    }
  return g_steal_pointer (&self);
}

void
card_free (Card *self)
{
  for (guint i = 0; i < CARD_N_KEYS; i++)
    g_clear_pointer (&self->keys[i], card_key_free);
  g_tree_unref (self->files);
  card_random_free (self->random);
  g_free (self->serial);
  OPENSSL_cleanse (self, sizeof *self);
  g_free (self);
}

const char *
card_get_serial (const Card *self)
{
  return self->serial;
}

/**
 * card_dup_holder:
 * @self: the card
 *
 * Returns: (transfer full): its name in its certificate; OpenSC takes the serial number from there
 */
char *
card_dup_holder (const Card *self)
{
  return g_strconcat (self->serial, HOLDER_SEQUENCE, NULL);
}

/**
 * card_reset:
 * @self: the card
 *
 * What power off, power on and a reset do to it: nobody is logged in, and no file is selected.
 */
void
card_reset (Card *self)
{
  self->logged_in = FALSE;
  self->current_file = CARD_NO_FILE;
  self->selected = !self->needs_select;
}

/**
 * card_put_key:
 * @self: the card
 * @id: where
 * @key: (transfer full) (nullable): the key, in place of the one that is there; %NULL to remove that
 */
void
card_put_key (Card *self, guint8 id, CardKey *key)
{
  g_clear_pointer (&self->keys[id], card_key_free);
  self->keys[id] = key;
  self->changed = TRUE;
}

/**
 * card_wipe:
 * @self: the card
 *
 * Removes all keys but the card's own, all files but its certificates, and what was kept besides.
 */
void
card_wipe (Card *self)
{
  GByteArray *certificates = g_byte_array_ref (card_get_file (self, CARD_FILE_CERTIFICATES));
  guint64 n_starts = self->kept.n_starts;

  for (guint i = 1; i < CARD_N_KEYS; i++)
    g_clear_pointer (&self->keys[i], card_key_free);
  g_tree_unref (self->files);
  self->files = card_files_new ();
  card_put_file (self, CARD_FILE_CERTIFICATES, certificates);
  OPENSSL_cleanse (&self->kept, sizeof self->kept);
  self->kept.n_starts = n_starts;
  self->logged_in = FALSE;
  self->current_file = CARD_NO_FILE;
  self->changed = TRUE;
}

/**
 * card_take_change:
 * @self: the card
 *
 * Returns: whether anything of what it keeps has changed since the last call; then it must be written before the answer is
 * given
 */
gboolean
card_take_change (Card *self)
{
  gboolean changed = self->changed;

  self->changed = FALSE;
  return changed;
}

static guint
dispatch (Card *self, const CardApdu *apdu, CardAnswer *answer)
{
  CommandFlags class_flag = apdu->cla == CLA_HSM ? IN_HSM : IN_ISO;

  if (apdu->cla != CLA_ISO && apdu->cla != CLA_HSM)
    return (apdu->cla & ~CLA_HSM & ~CLA_SECURE_MESSAGING) == 0
               ? CARD_SW_SECURE_MESSAGING_NOT_SUPPORTED
               : CARD_SW_CLA_NOT_SUPPORTED;
  if (!self->selected && apdu->ins != INS_SELECT)
    return CARD_SW_INS_NOT_SUPPORTED;

  for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
    {
      if (commands[i].ins != apdu->ins)
        continue;
      if (!(commands[i].flags & class_flag))
        return CARD_SW_CLA_NOT_SUPPORTED;
      if ((commands[i].flags & WANTS_LOGIN) && !self->logged_in)
        return CARD_SW_NOT_LOGGED_IN;
      return commands[i].run (self, apdu, answer);
    }
  return CARD_SW_INS_NOT_SUPPORTED;
}

/**
 * card_process:
 * @self: the card
 * @apdu: any bytes
 * @size: how many
 *
 * Does what a command says. Commands that are refused change nothing but the counters of PINs.
 *
 * Returns: (transfer full): data, if there is any, and the status word: %CARD_MAX_RESPONSE bytes at most
 */
GBytes *
card_process (Card *self, const guint8 *bytes, gsize size)
{
  CardAnswer answer = { .data = g_byte_array_new () };
  CardApdu apdu;
  gsize max_size;
  guint status;
  guint8 trailer[CARD_STATUS_SIZE];

  if (card_apdu_parse (bytes, size, &apdu))
    {
      status = dispatch (self, &apdu, &answer);
      /* The longest Le asks for more than a frame of the reader can carry. */
      max_size = MIN (apdu.max_response, CARD_MAX_RESPONSE - sizeof trailer);
      if (answer.data->len > max_size)
        {
          if (!answer.may_be_cut)
            g_error ("command %02X answered more than it may", apdu.ins);
          g_byte_array_set_size (answer.data, (guint) max_size);
        }
      /* Of errors in libcrypto the status word tells enough. */
      ERR_clear_error ();
    }
  else
    {
      status = CARD_SW_WRONG_LENGTH;
    }

  trailer[0] = (guint8) (status >> 8);
  trailer[1] = (guint8) status;
  g_byte_array_append (answer.data, trailer, sizeof trailer);
  return g_byte_array_free_to_bytes (answer.data);
}
