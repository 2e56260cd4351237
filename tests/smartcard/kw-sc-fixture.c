/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-fixture"

#include "kw-sc-fixture.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

/*
 * libpcsclite reads the name of pcscd's socket once in the life of a process, and each test has a pcscd of its own. So the name
 * stays the same, and is a link that each fixture points to its own.
 */

#define SOCKET_VARIABLE "PCSCLITE_CSOCK_NAME"

static const char *
get_link (void)
{
  static char *link = NULL;

  if (link == NULL)
    {
      link = g_strdup_printf ("%s/kw-sc-%d.comm", g_get_tmp_dir (), getpid ());
      g_setenv (SOCKET_VARIABLE, link, TRUE);
    }
  return link;
}

static void
point_to (KwCardRig *rig)
{
  g_unlink (get_link ());
  if (rig != NULL)
    g_assert_cmpint (symlink (kw_card_rig_get_socket_name (rig), get_link ()), ==, 0);
}

/**
 * sc_fixture_new_blank:
 * @n_cards: how many
 * @card_options: (nullable): options for the program that plays the cards
 *
 * Returns: (transfer full): cards as they leave the factory
 */
ScFixture *
sc_fixture_new_blank (guint n_cards, const char *const *card_options)
{
  ScFixture *self = g_new0 (ScFixture, 1);

  get_link ();
  self->rig = kw_card_rig_new_full (n_cards, card_options, NULL, NULL);
  point_to (self->rig);
  return self;
}

/**
 * sc_fixture_new:
 * @n_cards: how many
 * @card_options: (nullable): options for the program that plays the cards
 *
 * Returns: (transfer full): cards that are initialised and have the same DKEK
 */
ScFixture *
sc_fixture_new (guint n_cards, const char *const *card_options)
{
  ScFixture *self = sc_fixture_new_blank (n_cards, card_options);

  for (guint i = 0; i < n_cards; i++)
    {
      g_autofree char *label = g_strdup_printf ("card %u", i + 1);

      kw_card_rig_initialise (self->rig, i, NULL, NULL, SC_N_SHARES, label, NULL);
      g_free (kw_card_rig_import_shares (self->rig, i, SC_N_SHARES, NULL));
    }
  return self;
}

/**
 * sc_fixture_free:
 * @self: (transfer full): a fixture
 *
 * Ends pcscd and the cards.
 */
void
sc_fixture_free (ScFixture *self)
{
  point_to (NULL);
  kw_card_rig_free (self->rig);
  g_free (self);
}

/**
 * sc_fixture_open:
 * @self: a fixture
 * @card: number of a card
 *
 * Returns: (transfer full): its token
 */
KwToken *
sc_fixture_open (ScFixture *self, guint card)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) atr = g_bytes_new_static ("", 0);
  KwScToken *token = kw_sc_token_new (kw_card_rig_get_reader (self->rig, card), atr, &error);

  g_assert_no_error (error);
  return KW_TOKEN (token);
}

/**
 * sc_login:
 * @token: a token
 * @pin: a PIN it takes
 *
 * Logs in.
 */
void
sc_login (KwToken *token, const char *pin)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) secret = kw_secret_new_copy (pin, strlen (pin), &error);
  KwPinState state = { 0 };

  g_assert_no_error (error);
  kw_token_get_pin_state (token, &state, &error);
  g_assert_no_error (error);
  kw_token_login (token, secret, &error);
  g_assert_no_error (error);
}

/**
 * sc_fixture_open_and_login:
 * @self: a fixture
 * @card: number of a card
 *
 * Returns: (transfer full): its token, logged in
 */
KwToken *
sc_fixture_open_and_login (ScFixture *self, guint card)
{
  KwToken *token = sc_fixture_open (self, card);

  sc_login (token, KW_CARD_RIG_PIN);
  return token;
}

/**
 * sc_id:
 * @id: a byte
 *
 * Returns: (transfer full): the CKA_ID that consists of it
 */
GBytes *
sc_id (guint8 id)
{
  return g_bytes_new (&id, 1);
}

/**
 * sc_run_ok:
 * @self: a fixture
 * @out_output: (out) (optional): what it said
 * @program: a program
 * @...: its arguments
 *
 * Runs a program on the cards, which must end with status 0.
 */
void
sc_run_ok (ScFixture *self, char **out_output, const char *program, ...)
{
  g_autoptr (GPtrArray) argv = g_ptr_array_new ();
  g_autofree char *output = NULL;
  va_list arguments;
  int status = 0;

  g_ptr_array_add (argv, (gpointer) program);
  va_start (arguments, program);
  for (const char *argument = va_arg (arguments, char *); argument != NULL;
       argument = va_arg (arguments, char *))
    g_ptr_array_add (argv, (gpointer) argument);
  va_end (arguments);
  g_ptr_array_add (argv, NULL);
  status = kw_card_rig_runv (self->rig, &output, (const char *const *) argv->pdata);
  if (status != 0)
    g_error ("status %d of %s:\n%s", status, program, output);
  if (out_output != NULL)
    *out_output = g_steal_pointer (&output);
}

/**
 * sc_enumerate:
 * @self: a fixture
 * @card: number of a card
 *
 * Returns: (transfer full): ids of all keys and files on it, in hexadecimal
 */
char *
sc_enumerate (ScFixture *self, guint card)
{
  return kw_card_rig_transmit (self->rig, card, "80580000000000", NULL);
}
