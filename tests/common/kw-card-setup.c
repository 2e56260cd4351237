/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-card-setup"

#include "kw-card-rig-private.h"

#include <string.h>

/*
 * Sets cards up: by OpenSC's tools where they can do it, and by APDUs where they cannot, which is all of AES, or take
 * too long, which is DKEK shares.
 */

#define SHARE_SIZE 32
#define DESCRIPTION 0xC4
#define CERTIFICATE 0xCE
#define PRIVATE_KEY 0xCC
#define READ_CHUNK 256
#define WRITE_CHUNK 512
#define STATUS_OK 0x9000
#define STATUS_END 0x6282

static guint
status_of (GBytes *response)
{
  gsize size = 0;
  const guint8 *data = g_bytes_get_data (response, &size);

  return size >= 2 ? (guint) data[size - 2] << 8 | data[size - 1] : 0;
}

/* Sends one command; its data, without the status word. Any status but 9000 and @also is a failure. */
static GBytes *
exchange (KwCardSession *session, const char *what, guint also, GByteArray *apdu, GError **error)
{
  g_autoptr (GBytes) response = kw_card_session_transmit (session, apdu->data, apdu->len, error);

  if (response == NULL)
    return NULL;
  if (status_of (response) != STATUS_OK && status_of (response) != also)
    {
      kw_card_rig_fail (error, G_IO_ERROR_FAILED, "%s: the card answers %04X", what,
                        status_of (response));
      return NULL;
    }
  return g_bytes_new_from_bytes (response, 0, g_bytes_get_size (response) - 2);
}

/* A command with data, in the extended form, which allows any length. */
static GByteArray *
command_new (guint8 class, guint8 instruction, guint8 p1, guint8 p2, gconstpointer data, gsize size)
{
  const guint8 head[]
      = { class, instruction, p1, p2, 0, (guint8) (size >> 8), (guint8) (size & 0xFF) };
  GByteArray *apdu = g_byte_array_new ();

  g_byte_array_append (apdu, head, size > 0 ? sizeof head : 4);
  if (size > 0)
    g_byte_array_append (apdu, data, (guint) size);
  return apdu;
}

static void
append_byte (GByteArray *array, guint8 byte)
{
  g_byte_array_append (array, &byte, 1);
}

static gboolean
verify (KwCardRig *self, KwCardSession *session, guint card, GError **error)
{
  const char *pin = kw_card_rig_get_pin (self, card);
  g_autoptr (GByteArray) apdu = g_byte_array_new ();
  g_autoptr (GBytes) answer = NULL;
  const guint8 head[] = { 0x00, 0x20, 0x00, 0x81, (guint8) strlen (pin) };

  g_byte_array_append (apdu, head, sizeof head);
  g_byte_array_append (apdu, (const guint8 *) pin, (guint) strlen (pin));
  answer = exchange (session, "PIN", STATUS_OK, apdu, error);
  return answer != NULL;
}

/* The content of an EF; empty when there is none. */
static GByteArray *
read_file (KwCardSession *session, guint8 kind, guint8 kid, GError **error)
{
  g_autoptr (GByteArray) content = g_byte_array_new ();

  for (;;)
    {
      const guint8 apdu[] = { 0x00,
                              0xB1,
                              kind,
                              kid,
                              0x04,
                              0x54,
                              0x02,
                              (guint8) (content->len >> 8),
                              (guint8) (content->len & 0xFF),
                              0x00 };
      g_autoptr (GBytes) response = kw_card_session_transmit (session, apdu, sizeof apdu, error);
      gsize size = 0;

      if (response == NULL)
        return NULL;
      size = g_bytes_get_size (response) - 2;
      if (status_of (response) != STATUS_OK && status_of (response) != STATUS_END)
        return g_steal_pointer (&content);
      g_byte_array_append (content, g_bytes_get_data (response, NULL), (guint) size);
      if (size < READ_CHUNK)
        return g_steal_pointer (&content);
    }
}

static gboolean
write_file (KwCardSession *session, guint8 kind, guint8 kid, GByteArray *content, GError **error)
{
  for (guint at = 0; at == 0 || at < content->len; at += WRITE_CHUNK)
    {
      guint size = MIN (content->len - at, WRITE_CHUNK);
      const guint8 head[] = { 0x54, 0x02, (guint8) (at >> 8),   (guint8) (at & 0xFF),
                              0x53, 0x82, (guint8) (size >> 8), (guint8) (size & 0xFF) };
      g_autoptr (GByteArray) data = g_byte_array_new ();
      g_autoptr (GByteArray) apdu = NULL;
      g_autoptr (GBytes) answer = NULL;

      g_byte_array_append (data, head, sizeof head);
      g_byte_array_append (data, content->data + at, size);
      apdu = command_new (0x00, 0xD7, kind, kid, data->data, data->len);
      answer = exchange (session, "writing a file", STATUS_OK, apdu, error);
      if (answer == NULL)
        return FALSE;
    }
  return TRUE;
}

/* --- by OpenSC's tools ----------------------------------------------------------------------- */

/**
 * kw_card_rig_initialise:
 * @self: a rig
 * @card: a card of it
 * @so_pin: (nullable): 16 hexadecimal digits; the one it has, unless it is blank; %NULL = %KW_CARD_RIG_SO_PIN
 * @pin: (nullable): the PIN it gets, which the rig uses from now on; %NULL = %KW_CARD_RIG_PIN
 * @n_shares: DKEK shares it waits for; 0 = a DKEK that nobody knows, -1 = no DKEK
 * @label: the label it gets
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Initialises a card by sc-hsm-tool; all it held is lost.
 *
 * Returns: %TRUE; %FALSE = G_IO_ERROR_FAILED with what the tool said
 */
gboolean
kw_card_rig_initialise (KwCardRig *self,
                        guint card,
                        const char *so_pin,
                        const char *pin,
                        int n_shares,
                        const char *label,
                        GError **error)
{
  g_autoptr (GPtrArray) argv = g_ptr_array_new ();
  g_autofree char *shares = g_strdup_printf ("%d", n_shares);
  g_autofree char *output = NULL;
  const char *new_pin = pin != NULL ? pin : KW_CARD_RIG_PIN;
  const char *const fixed[]
      = { "sc-hsm-tool",  "--reader", kw_card_rig_get_reader (self, card),
          "--initialize", "--so-pin", so_pin != NULL ? so_pin : KW_CARD_RIG_SO_PIN,
          "--pin",        new_pin,    "--label",
          label };

  for (gsize i = 0; i < G_N_ELEMENTS (fixed); i++)
    g_ptr_array_add (argv, (gpointer) fixed[i]);
  if (n_shares >= 0)
    {
      g_ptr_array_add (argv, (gpointer) "--dkek-shares");
      g_ptr_array_add (argv, shares);
    }
  g_ptr_array_add (argv, NULL);
  /* The tool's status is 0 when the card has refused, and it says nothing when it has not. */
  if (kw_card_rig_runv (self, &output, (const char *const *) argv->pdata) != 0
      || strstr (output, "rror") != NULL || strstr (output, "ailed") != NULL
      || strstr (output, "incorrect") != NULL)
    return kw_card_rig_fail (error, G_IO_ERROR_FAILED, "sc-hsm-tool --initialize: %s", output);
  kw_card_rig_set_pin (self, card, new_pin);
  return TRUE;
}

/**
 * kw_card_rig_create_share_file:
 * @self: a rig
 * @card: a card of it, for its random numbers
 * @path: file that is made
 * @password: what the share is encrypted with
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Makes a DKEK share by sc-hsm-tool, which takes about 7 seconds.
 *
 * Returns: %TRUE; %FALSE = G_IO_ERROR_FAILED with what the tool said
 */
gboolean
kw_card_rig_create_share_file (KwCardRig *self,
                               guint card,
                               const char *path,
                               const char *password,
                               GError **error)
{
  g_autofree char *output = NULL;

  kw_card_rig_run (self, &output, "sc-hsm-tool", "--reader", kw_card_rig_get_reader (self, card),
                   "--create-dkek-share", path, "--password", password, NULL);
  if (strstr (output, "DKEK share created and saved") == NULL)
    return kw_card_rig_fail (error, G_IO_ERROR_FAILED, "sc-hsm-tool --create-dkek-share: %s",
                             output);
  return TRUE;
}

/**
 * kw_card_rig_import_share_file:
 * @self: a rig
 * @card: a card of it that waits for shares
 * @path: a share file
 * @password: what the share is encrypted with
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Imports a DKEK share by sc-hsm-tool, which takes about 7 seconds.
 *
 * Returns: (transfer full) (nullable): what the tool said, with the check value after the last share; %NULL =
 *   G_IO_ERROR_FAILED
 */
char *
kw_card_rig_import_share_file (KwCardRig *self,
                               guint card,
                               const char *path,
                               const char *password,
                               GError **error)
{
  g_autofree char *output = NULL;

  kw_card_rig_run (self, &output, "sc-hsm-tool", "--reader", kw_card_rig_get_reader (self, card),
                   "--import-dkek-share", path, "--password", password, NULL);
  if (strstr (output, "DKEK share imported") == NULL)
    {
      kw_card_rig_fail (error, G_IO_ERROR_FAILED, "sc-hsm-tool --import-dkek-share: %s", output);
      return NULL;
    }
  return g_steal_pointer (&output);
}

/* A bit for each key on the card. */
static gboolean
list_keys (KwCardRig *self, guint card, gboolean out_kids[256], GError **error)
{
  static const guint8 enumerate[] = { 0x80, 0x58, 0x00, 0x00, 0x00, 0x00, 0x00 };
  g_autoptr (KwCardSession) session = kw_card_session_new (self, card, error);
  g_autoptr (GByteArray) apdu = g_byte_array_new ();
  g_autoptr (GBytes) answer = NULL;
  const guint8 *ids = NULL;
  gsize size = 0;

  g_byte_array_append (apdu, enumerate, sizeof enumerate);
  if (session != NULL)
    answer = exchange (session, "ENUMERATE", STATUS_OK, apdu, error);
  if (answer == NULL)
    return FALSE;
  ids = g_bytes_get_data (answer, &size);
  memset (out_kids, 0, 256 * sizeof *out_kids);
  for (gsize i = 0; i + 1 < size; i += 2)
    {
      if (ids[i] == PRIVATE_KEY)
        out_kids[ids[i + 1]] = TRUE;
    }
  return TRUE;
}

static guint8
generate (KwCardRig *self,
          guint card,
          const char *type,
          const char *id,
          const char *label,
          GError **error)
{
  g_autofree char *output = NULL;
  gboolean before[256], after[256];
  int status = 0;

  if (!list_keys (self, card, before, error))
    return 0;
  status = kw_card_rig_run (self, &output, "pkcs11-tool", "--slot-description",
                            kw_card_rig_get_reader (self, card), "--login", "--pin",
                            kw_card_rig_get_pin (self, card), "--keypairgen", "--key-type", type,
                            "--id", id, "--label", label, NULL);
  if (!list_keys (self, card, after, error))
    return 0;
  for (guint kid = 1; status == 0 && kid < 256; kid++)
    {
      if (after[kid] && !before[kid])
        return (guint8) kid;
    }
  kw_card_rig_fail (error, G_IO_ERROR_FAILED, "pkcs11-tool --keypairgen %s: %s", type, output);
  return 0;
}

/**
 * kw_card_rig_generate_rsa:
 * @self: a rig
 * @card: an initialised card of it
 * @bits: length of the modulus
 * @id: CKA_ID in hexadecimal
 * @label: CKA_LABEL
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Makes a key pair on the card by pkcs11-tool, which takes the lowest free key reference.
 *
 * Returns: the key reference; 0 = G_IO_ERROR_FAILED with what the tool said
 */
guint8
kw_card_rig_generate_rsa (KwCardRig *self,
                          guint card,
                          guint bits,
                          const char *id,
                          const char *label,
                          GError **error)
{
  g_autofree char *type = g_strdup_printf ("rsa:%u", bits);

  return generate (self, card, type, id, label, error);
}

/**
 * kw_card_rig_generate_ec:
 * @self: a rig
 * @card: an initialised card of it
 * @curve: its name for pkcs11-tool, such as "prime256v1"
 * @id: CKA_ID in hexadecimal
 * @label: CKA_LABEL
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Makes a key pair on the card by pkcs11-tool, which takes the lowest free key reference.
 *
 * Returns: the key reference; 0 = G_IO_ERROR_FAILED with what the tool said
 */
guint8
kw_card_rig_generate_ec (KwCardRig *self,
                         guint card,
                         const char *curve,
                         const char *id,
                         const char *label,
                         GError **error)
{
  g_autofree char *type = g_strdup_printf ("EC:%s", curve);

  return generate (self, card, type, id, label, error);
}

/* --- by APDUs -------------------------------------------------------------------------------- */

/**
 * kw_card_rig_import_shares:
 * @self: a rig
 * @card: a card of it that waits for shares
 * @n_shares: how many
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Imports the first @n_shares of the rig's shares, which are always the same: cards that have got equally many of them
 * take each other's keys.
 *
 * Returns: (transfer full) (nullable): the check value of the DKEK, 16 capital hexadecimal digits; %NULL =
 *   G_IO_ERROR_FAILED
 */
char *
kw_card_rig_import_shares (KwCardRig *self, guint card, guint n_shares, GError **error)
{
  g_autoptr (KwCardSession) session = kw_card_session_new (self, card, error);
  g_autofree char *status = NULL;

  if (session == NULL)
    return NULL;
  for (guint i = 0; i < n_shares; i++)
    {
      const guint8 head[] = { 0x80, 0x52, 0x00, 0x00, SHARE_SIZE };
      guint8 share[SHARE_SIZE];
      g_autoptr (GByteArray) apdu = g_byte_array_new ();
      g_autoptr (GBytes) answer = NULL;

      for (guint j = 0; j < SHARE_SIZE; j++)
        share[j] = (guint8) (0x40 + 0x1F * i + 7 * j);
      g_byte_array_append (apdu, head, sizeof head);
      g_byte_array_append (apdu, share, sizeof share);
      append_byte (apdu, 0x00);
      answer = exchange (session, "DKEK share", STATUS_OK, apdu, error);
      if (answer == NULL)
        return NULL;
    }
  status = kw_card_session_transmit_hex (session, "8052000000", error);
  if (status == NULL)
    return NULL;
  /* How many in all, how many are missing, check value. */
  if (strlen (status) < 24 || strncmp (status + 2, "00", 2) != 0)
    {
      kw_card_rig_fail (error, G_IO_ERROR_FAILED, "the DKEK is not complete: %s", status);
      return NULL;
    }
  return g_strndup (status + 4, 16);
}

/* How CardContact's module describes a secret key; lengths are all below 128. */
static GByteArray *
describe_aes (guint8 kid, guint bits, const char *label)
{
  const guint8 n_label = (guint8) strlen (label);
  const guint8 id[] = { 0x30, 0x08, 0x04, 0x01, kid, 0x03, 0x03, 0x07, 0xC0, 0x10 };
  const guint8 rest[] = {
    0xA0, 0x06, 0x30, 0x04, 0x02, 0x02, (guint8) (bits >> 8), (guint8) (bits & 0xFF), 0xA1, 0x06,
    0x30, 0x04, 0x30, 0x02, 0x04, 0x00
  };
  const guint8 head[] = { 0xA8, (guint8) (4 + n_label + sizeof id + sizeof rest),
                          0x30, (guint8) (2 + n_label),
                          0x0C, n_label };
  GByteArray *description = g_byte_array_new ();

  g_byte_array_append (description, head, sizeof head);
  g_byte_array_append (description, (const guint8 *) label, n_label);
  g_byte_array_append (description, id, sizeof id);
  g_byte_array_append (description, rest, sizeof rest);
  return description;
}

/**
 * kw_card_rig_generate_aes:
 * @self: a rig
 * @card: an initialised card of it
 * @kid: key reference, 1 to 254
 * @bits: 128, 192 or 256
 * @algorithms: (nullable): ids of what is allowed with it, in hexadecimal; %NULL = "1011189293": CBC, CMAC, wrapping
 * @label: label of its description, at most 80 bytes
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Makes an AES key on the card, with the description that CardContact's module would write; OpenSC does not show it.
 *
 * Returns: %TRUE; %FALSE = G_IO_ERROR_FAILED with the status word
 */
gboolean
kw_card_rig_generate_aes (KwCardRig *self,
                          guint card,
                          guint8 kid,
                          guint bits,
                          const char *algorithms,
                          const char *label,
                          GError **error)
{
  const char *allowed = algorithms != NULL ? algorithms : "1011189293";
  g_autofree char *apdu
      = g_strdup_printf ("0048%02X%02X%02X91%02X%s", kid, 0xB0 + bits / 64 - 2,
                         (guint) strlen (allowed) / 2 + 2, (guint) strlen (allowed) / 2, allowed);
  g_autofree char *answer = NULL;
  g_autoptr (GByteArray) description = describe_aes (kid, bits, label);
  g_autoptr (KwCardSession) session = kw_card_session_new (self, card, error);

  if (session == NULL || !verify (self, session, card, error))
    return FALSE;
  answer = kw_card_session_transmit_hex (session, apdu, error);
  if (answer == NULL)
    return FALSE;
  if (strcmp (answer, "9000") != 0)
    return kw_card_rig_fail (error, G_IO_ERROR_FAILED, "AES key: the card answers %s", answer);
  return write_file (session, DESCRIPTION, kid, description, error);
}

typedef struct
{
  GBytes *blob;
  GByteArray *description;
  GByteArray *certificate;
} Wrapped;

static void
wrapped_clear (Wrapped *self)
{
  g_clear_pointer (&self->blob, g_bytes_unref);
  g_clear_pointer (&self->description, g_byte_array_unref);
  g_clear_pointer (&self->certificate, g_byte_array_unref);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Wrapped, wrapped_clear)

static gboolean
take_out (KwCardRig *self, guint card, guint8 kid, Wrapped *wrapped, GError **error)
{
  const guint8 wrap[] = { 0x80, 0x72, kid, 0x92, 0x00, 0x00, 0x00 };
  g_autoptr (KwCardSession) session = kw_card_session_new (self, card, error);
  g_autoptr (GByteArray) apdu = g_byte_array_new ();

  if (session == NULL || !verify (self, session, card, error))
    return FALSE;
  g_byte_array_append (apdu, wrap, sizeof wrap);
  wrapped->blob = exchange (session, "WRAP", STATUS_OK, apdu, error);
  if (wrapped->blob == NULL)
    return FALSE;
  wrapped->description = read_file (session, DESCRIPTION, kid, error);
  if (wrapped->description == NULL)
    return FALSE;
  wrapped->certificate = read_file (session, CERTIFICATE, kid, error);
  return wrapped->certificate != NULL;
}

/**
 * kw_card_rig_clone:
 * @self: a rig
 * @from: a card of it that has a DKEK
 * @to: another one with the same DKEK
 * @kid: key reference on both
 * @error: (nullable): %NULL = a failure ends the program
 *
 * Copies a key with its description and certificate, wrapped under the DKEK.
 *
 * Returns: %TRUE; %FALSE = G_IO_ERROR_FAILED with the status word
 */
gboolean
kw_card_rig_clone (KwCardRig *self, guint from, guint to, guint8 kid, GError **error)
{
  g_auto (Wrapped) wrapped = { NULL };
  g_autoptr (KwCardSession) session = NULL;
  g_autoptr (GByteArray) apdu = NULL;
  g_autoptr (GBytes) answer = NULL;

  if (!take_out (self, from, kid, &wrapped, error))
    return FALSE;
  session = kw_card_session_new (self, to, error);
  if (session == NULL || !verify (self, session, to, error))
    return FALSE;
  apdu = command_new (0x80, 0x74, kid, 0x93, g_bytes_get_data (wrapped.blob, NULL),
                      g_bytes_get_size (wrapped.blob));
  answer = exchange (session, "UNWRAP", STATUS_OK, apdu, error);
  if (answer == NULL)
    return FALSE;
  if (wrapped.description->len > 0
      && !write_file (session, DESCRIPTION, kid, wrapped.description, error))
    return FALSE;
  return wrapped.certificate->len == 0
         || write_file (session, CERTIFICATE, kid, wrapped.certificate, error);
}
