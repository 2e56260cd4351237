/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-token"

#include "config.h"

#include "kw-sc-token.h"

#include "kw-limits.h"
#include "kw-sc-crypto.h"
#include "kw-sc-cvc.h"
#include "kw-sc-description.h"
#include "kw-sc-error.h"
#include "kw-sc-generate.h"
#include "kw-sc-wrap.h"

#include <glib/gi18n.h>
#include <string.h>

/*
 * One SmartCard-HSM in a reader, for as long as it stays there and gives no trouble.
 *
 * The card has one state for all programs: who is logged in, every program is, and whoever selects the applet logs everybody
 * out, which OpenSC's tools do each time they start. A card that says that nobody is logged in makes the call fail with
 * NOT_LOGGED_IN, and the device renews the login by the rules for PINs. From a login on the card is kept in a transaction until
 * the call it was renewed for is through, so that the same does not happen again in between; a moment later at the latest it is
 * let go.
 *
 * Otherwise there is a transaction only around what takes several commands. A single command needs none: the card does it as a
 * whole, and other programs, which ask for their turn ten times a second only, get it while we are busy.
 *
 * The interface's slots are called by one worker thread; close() by the main context.
 */
struct _KwScToken
{
  GObject parent_instance;

  KwTokenInfo *info;   /* owned; immutable */
  KwScApplet applet;   /* immutable */
  gint closed;         /* atomic */
  KwScMonitor *closer; /* owned, nullable: closes the connection in the end */

  GMutex lock;             /* held over each slot but get_info and close */
  GCond lease_ends;        /* with lock */
  KwScLink *link;          /* owned; guarded by lock */
  GPtrArray *keys;         /* owned, nullable; of KwScKey; guarded by lock */
  gboolean keys_are_fresh; /* guarded by lock: no other program can have changed them since */
  gboolean logged_in;      /* guarded by lock: by us, as far as is known */
  guint n_resets_seen;     /* guarded by lock */
  gint max_tries;        /* guarded by lock: most tries that were ever seen; −1 = none seen yet */
  gint last_tries;       /* guarded by lock: tries as told last; −1 = none told */
  gboolean has_lease;    /* guarded by lock: a transaction is open since a login */
  guint lease_number;    /* guarded by lock */
  gint64 lease_deadline; /* guarded by lock; monotonic */
};

static void kw_sc_token_iface_init (KwTokenInterface *iface);

G_DEFINE_FINAL_TYPE_WITH_CODE (KwScToken,
                               kw_sc_token,
                               G_TYPE_OBJECT,
                               G_IMPLEMENT_INTERFACE (KW_TYPE_TOKEN, kw_sc_token_iface_init))

#define CLA_ISO 0x00
#define INS_VERIFY 0x20
#define LEASE_USEC G_USEC_PER_SEC
#define MIN_PIN_BYTES 6
#define MAX_PIN_BYTES 15
#define MANUFACTURER "www.CardContact.de"
#define DEFAULT_LABEL "SmartCard-HSM"

#define TAG_SEQUENCE 0x30
#define TAG_LABEL 0x80
#define TAG_INTEGER 0x02

#define OPTION_RESET_BY_SO_PIN 0x01
#define OPTION_TRANSPORT_PIN 0x02
#define OPTION_SESSION_PIN 0x04
#define OPTION_REPLACE_CERTIFICATE 0x08
#define OPTION_COMBINED_AUTHENTICATION 0x10

static const struct
{
  guint bit;
  const char *text;
} option_texts[] = {
  { OPTION_RESET_BY_SO_PIN, N_ ("user PIN reset with SO-PIN enabled") },
  { OPTION_TRANSPORT_PIN, N_ ("transport PIN") },
  { OPTION_SESSION_PIN, N_ ("session PIN") },
  { OPTION_REPLACE_CERTIFICATE, N_ ("certificates can be replaced") },
  { OPTION_COMBINED_AUTHENTICATION, N_ ("PIN and public key are both needed") },
};

/* ATRs of the cards with more memory; what others with this applet are called stands below. */
static const char *const atrs_4k[] = {
  "3bde18ff8191fe1fc38031815448534d317380214081071c",
  "3bde96ff8191fe1fc38031815448534d3173802140810792",
};

/* --- who it is --- */

static char *
dup_hex (const guint8 *data, gsize size)
{
  GString *text = g_string_sized_new (2 * size);

  for (gsize i = 0; i < size; i++)
    g_string_append_printf (text, "%02x", data[i]);
  return g_string_free (text, FALSE);
}

static const char *
name_model (GBytes *atr)
{
  g_autofree char *hex = dup_hex (g_bytes_get_data (atr, NULL), g_bytes_get_size (atr));

  for (gsize i = 0; i < G_N_ELEMENTS (atrs_4k); i++)
    {
      if (g_str_equal (hex, atrs_4k[i]))
        return "SmartCard-HSM 4K";
    }
  return "SmartCard-HSM";
}

static char *
describe_options (guint options)
{
  g_autoptr (GString) text = g_string_new (NULL);

  for (gsize i = 0; i < G_N_ELEMENTS (option_texts); i++)
    {
      if ((options & option_texts[i].bit) != 0)
        g_string_append_printf (text, "%s%s", text->len > 0 ? ", " : "", option_texts[i].text);
    }
  if (text->len == 0)
    g_string_append (text, N_ ("user PIN cannot be reset with the SO-PIN"));
  return g_string_free (g_steal_pointer (&text), FALSE);
}

static char *
parse_label (KwScSpan file)
{
  KwScSpan fields = { 0 };
  KwScSpan label = { 0 };
  g_autofree char *text = NULL;

  if (!kw_sc_tlv_read (&file, TAG_SEQUENCE, &fields) || !kw_sc_tlv_find (fields, TAG_LABEL, &label)
      || label.size == 0 || label.size > KW_MAX_KEY_LABEL_BYTES)
    return g_strdup (DEFAULT_LABEL);
  text = g_strndup ((const char *) label.data, label.size);
  return g_utf8_make_valid (text, -1);
}

static gboolean
read_label (KwScLink *link, char **out_label, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  g_autoptr (GByteArray) file = kw_sc_card_read_file (link, KW_SC_EF_TOKEN_INFO, &local_error);

  if (file == NULL && !g_error_matches (local_error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND))
    {
      g_propagate_error (error, g_steal_pointer (&local_error));
      return FALSE;
    }
  *out_label
      = file != NULL ? parse_label ((KwScSpan){ file->data, file->len }) : g_strdup (DEFAULT_LABEL);
  return TRUE;
}

static char *
read_serial (KwScLink *link, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  g_autoptr (GByteArray) file = kw_sc_card_read_file (link, KW_SC_EF_CERTIFICATES, &local_error);

  if (file != NULL)
    return kw_sc_cvc_dup_serial ((KwScSpan){ file->data, file->len }, error);
  if (g_error_matches (local_error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND))
    g_set_error_literal (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                         "The card has no certificate that tells its serial number");
  else
    g_propagate_error (error, g_steal_pointer (&local_error));
  return NULL;
}

static gboolean
read_dkek_info (KwScLink *link, KwTokenInfo *info, GError **error)
{
  KwScDkek dkek = { 0 };

  if (!kw_sc_card_read_dkek (link, &dkek, error))
    return FALSE;
  info->dkek_shares = dkek.n_shares;
  info->dkek_shares_missing = dkek.n_missing;
  if (dkek.exists && dkek.n_missing == 0)
    info->dkek_check_value = dup_hex (dkek.check_value, sizeof dkek.check_value);
  return TRUE;
}

static gboolean
read_so_pin (KwScLink *link, KwTokenInfo *info, GError **error)
{
  KwScPinStatus status = KW_SC_PIN_NONE;
  guint tries = 0;

  if (!kw_sc_card_read_pin_status (link, KW_SC_PIN_SO, &status, &tries, error))
    return FALSE;
  if (status == KW_SC_PIN_TRIES || status == KW_SC_PIN_BLOCKED)
    info->so_pin_tries_left = (gint) tries;
  return TRUE;
}

static gboolean
set_blank (const KwTokenInfo *info, GError **error)
{
  g_set_error (
      error, KW_ERROR, KW_ERROR_TOKEN_UNINITIALIZED,
      "The SmartCard-HSM %s in reader %s was never initialised; do that with: sc-hsm-tool --initialize",
      info->serial, info->reader);
  return FALSE;
}

/* Right behind the selection, while nobody can be logged in and the card tells how many tries there are. */
static gboolean
read_first_tries (KwScToken *self, KwScLink *link, const KwTokenInfo *info, GError **error)
{
  KwScPinStatus status = KW_SC_PIN_NONE;
  guint tries = 0;

  if (!kw_sc_card_read_pin_status (link, KW_SC_PIN_USER, &status, &tries, error))
    return FALSE;
  if (status == KW_SC_PIN_NONE)
    return set_blank (info, error);
  if (status == KW_SC_PIN_TRIES)
    self->max_tries = (gint) tries;
  return TRUE;
}

static gboolean
read_info (KwScToken *self, KwScLink *link, GBytes *atr, GError **error)
{
  g_autoptr (KwTokenInfo) info = kw_token_info_new ();

  if (!kw_sc_card_select (link, &self->applet, error))
    return FALSE;
  info->serial = read_serial (link, error);
  info->reader = g_utf8_make_valid (kw_sc_link_get_reader (link), -1);
  if (info->serial == NULL || !read_first_tries (self, link, info, error)
      || !read_label (link, &info->label, error) || !read_dkek_info (link, info, error)
      || !read_so_pin (link, info, error))
    return FALSE;
  info->model = g_strdup (name_model (atr));
  info->manufacturer = g_strdup (MANUFACTURER);
  info->firmware
      = g_strdup_printf ("%u.%u", self->applet.version_major, self->applet.version_minor);
  info->options = describe_options (self->applet.options);
  self->info = g_steal_pointer (&info);
  return TRUE;
}

/* --- calls --- */

static KwScKeyTraits
get_traits (KwScToken *self)
{
  /* A weakness of the random numbers in these two versions. */
  gboolean weak = self->applet.version_major == 3
                  && (self->applet.version_minor == 1 || self->applet.version_minor == 2);

  return (KwScKeyTraits){ .can_be_wrapped = self->info->dkek_check_value != NULL,
                          .aes_is_weak = weak,
                          .firmware = self->info->firmware };
}

static void
forget_login (KwScToken *self)
{
  self->logged_in = FALSE;
  self->keys_are_fresh = FALSE;
}

static void
end_lease (KwScToken *self)
{
  if (!self->has_lease)
    return;
  self->has_lease = FALSE;
  self->lease_number++;
  g_cond_broadcast (&self->lease_ends);
}

static gboolean
enter (KwScToken *self, gboolean wants_transaction, GError **error)
{
  g_mutex_lock (&self->lock);
  if (g_atomic_int_get (&self->closed))
    {
      g_set_error (error, KW_ERROR, KW_ERROR_TOKEN_GONE, "Token %s is gone", self->info->label);
      g_mutex_unlock (&self->lock);
      return FALSE;
    }
  if (wants_transaction && !self->has_lease && !kw_sc_link_begin (self->link, error))
    {
      g_mutex_unlock (&self->lock);
      return FALSE;
    }
  return TRUE;
}

/* Takes notice of what the card or the link said of the login. */
static void
note_outcome (KwScToken *self, const GError *error)
{
  guint n_resets = kw_sc_link_get_n_resets (self->link);

  if (n_resets != self->n_resets_seen || g_error_matches (error, KW_ERROR, KW_ERROR_NOT_LOGGED_IN))
    forget_login (self);
  self->n_resets_seen = n_resets;
}

static void
leave (KwScToken *self)
{
  end_lease (self);
  kw_sc_link_end (self->link);
  g_mutex_unlock (&self->lock);
}

typedef gboolean (*TokenCall) (KwScToken *self, gpointer data, GError **error);

static gboolean
run_call (KwScToken *self,
          gboolean wants_transaction,
          TokenCall call,
          gpointer data,
          GError **error)
{
  g_autoptr (GError) local_error = NULL;
  gboolean ok = FALSE;

  if (!enter (self, wants_transaction, error))
    return FALSE;
  ok = call (self, data, &local_error);
  note_outcome (self, local_error);
  leave (self);
  if (!ok)
    g_propagate_error (error, g_steal_pointer (&local_error));
  return ok;
}

/* --- PIN --- */

static gpointer
lease_thread (gpointer user_data)
{
  g_autoptr (KwScToken) self = user_data;
  guint number = 0;

  g_mutex_lock (&self->lock);
  number = self->lease_number;
  while (self->has_lease && self->lease_number == number
         && g_get_monotonic_time () < self->lease_deadline)
    g_cond_wait_until (&self->lease_ends, &self->lock, self->lease_deadline);
  if (self->has_lease && self->lease_number == number)
    {
      end_lease (self);
      kw_sc_link_end (self->link);
    }
  g_mutex_unlock (&self->lock);
  return NULL;
}

static void
start_lease (KwScToken *self)
{
  GThread *thread = g_thread_try_new ("kw-sc-lease", lease_thread, g_object_ref (self), NULL);

  if (thread == NULL)
    {
      g_object_unref (self);
      return;
    }
  g_thread_unref (thread);
  self->lease_deadline = g_get_monotonic_time () + LEASE_USEC;
  self->has_lease = TRUE;
}

/* Tries that are left; while somebody is logged in there are as many as there ever were, because a login restores them. */
static gint
known_tries (KwScToken *self, KwScPinStatus status, guint tries)
{
  if (status == KW_SC_PIN_LOGGED_IN)
    return self->max_tries;
  self->max_tries = MAX (self->max_tries, (gint) tries);
  return (gint) tries;
}

static gboolean
read_pin_state (KwScToken *self, KwPinState *out_state, GError **error)
{
  KwScPinStatus status = KW_SC_PIN_NONE;
  guint tries = 0;
  KwScApplet applet = { 0 };

  if (!kw_sc_card_read_pin_status (self->link, KW_SC_PIN_USER, &status, &tries, error))
    return FALSE;
  /* Another program is logged in, and the tries were never seen: the card tells them when nobody is. */
  if (status == KW_SC_PIN_LOGGED_IN && self->max_tries < 0
      && (!kw_sc_card_select (self->link, &applet, error)
          || !kw_sc_card_read_pin_status (self->link, KW_SC_PIN_USER, &status, &tries, error)))
    return FALSE;
  if (status == KW_SC_PIN_TRANSPORT)
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_PIN_PROTECTED,
          "Token %s (%s) still has its transport PIN; give it one of its own with: pkcs11-tool "
          "--change-pin",
          self->info->label, self->info->serial);
      return FALSE;
    }
  if (status == KW_SC_PIN_NONE)
    return set_blank (self->info, error);
  self->last_tries = known_tries (self, status, tries);
  *out_state = (KwPinState){
    .login_required = TRUE,
    .initialized = TRUE,
    .locked = status == KW_SC_PIN_BLOCKED,
    .final_try = self->last_tries == 1,
    .count_low = self->last_tries >= 0 && self->last_tries < self->max_tries,
    .tries_left = self->last_tries,
  };
  return TRUE;
}

static gboolean
kw_sc_token_get_pin_state (KwToken *token, KwPinState *out_state, GError **error)
{
  KwScToken *self = KW_SC_TOKEN (token);
  g_autoptr (GError) local_error = NULL;
  gboolean ok = FALSE;

  if (!enter (self, FALSE, error))
    return FALSE;
  ok = read_pin_state (self, out_state, &local_error);
  note_outcome (self, local_error);
  /* Asked between a login and the call it was made for: the card is kept. */
  if (self->has_lease && ok)
    g_mutex_unlock (&self->lock);
  else
    leave (self);
  if (!ok)
    g_propagate_error (error, g_steal_pointer (&local_error));
  return ok;
}

static gboolean
check_pin_form (KwScToken *self, KwSecret *pin, GError **error)
{
  if (pin == NULL)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_PIN_REQUIRED, "Token %s wants a PIN",
                   self->info->label);
      return FALSE;
    }
  if (kw_secret_get_size (pin) >= MIN_PIN_BYTES && kw_secret_get_size (pin) <= MAX_PIN_BYTES)
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_PIN_INVALID,
               "The PIN of a SmartCard-HSM has %d to %d characters", MIN_PIN_BYTES, MAX_PIN_BYTES);
  return FALSE;
}

/* The rules were applied to the tries as they were told last; in between somebody may have used some up. */
static gboolean
check_tries_again (KwScToken *self, GError **error)
{
  gint told = self->last_tries;
  KwPinState state = { 0 };

  if (!read_pin_state (self, &state, error))
    return FALSE;
  if (!state.locked && !(state.final_try && told != state.tries_left) && state.tries_left >= told)
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_PIN_PROTECTED,
               "The PIN was not presented: another program is using up tries of it; left: %d",
               state.tries_left);
  return FALSE;
}

static gboolean
verify_pin (KwScToken *self, KwSecret *pin, GError **error)
{
  const KwScCommand command = {
    CLA_ISO, INS_VERIFY, 0x00, KW_SC_PIN_USER, kw_secret_get_data (pin), kw_secret_get_size (pin), 0
  };
  KwScAnswer answer = { 0 };

  forget_login (self);
  if (!kw_sc_link_transmit (self->link, &command, &answer, error))
    return FALSE;
  if (answer.sw == KW_SC_SW_OK)
    {
      self->logged_in = TRUE;
      return TRUE;
    }
  if (answer.sw == KW_SC_SW_WRONG_LENGTH || answer.sw == KW_SC_SW_WRONG_DATA)
    g_set_error (error, KW_ERROR, KW_ERROR_PIN_INVALID,
                 "A PIN of this length is none that the card takes (status %04X)", answer.sw);
  else
    kw_sc_set_sw_error (error, answer.sw, "VERIFY");
  return FALSE;
}

/* What was told of the token must not change under its object. Others who set the card up log us out, so this is the time. */
static gboolean
check_is_the_same (KwScToken *self, GError **error)
{
  g_autoptr (KwTokenInfo) now = kw_token_info_new ();

  if (!read_label (self->link, &now->label, error) || !read_dkek_info (self->link, now, error))
    return FALSE;
  if (g_str_equal (now->label, self->info->label)
      && g_strcmp0 (now->dkek_check_value, self->info->dkek_check_value) == 0
      && now->dkek_shares == self->info->dkek_shares
      && now->dkek_shares_missing == self->info->dkek_shares_missing)
    return TRUE;
  g_set_error (
      error, KW_ERROR, KW_ERROR_TOKEN_GONE,
      "Another program set token %s (%s) up anew, or gave it DKEK shares; it is looked at again",
      self->info->label, self->info->serial);
  return FALSE;
}

static gboolean
kw_sc_token_login (KwToken *token, KwSecret *pin, GError **error)
{
  KwScToken *self = KW_SC_TOKEN (token);
  g_autoptr (GError) local_error = NULL;
  gboolean ok = FALSE;

  if (!check_pin_form (self, pin, error) || !enter (self, TRUE, error))
    return FALSE;
  ok = check_is_the_same (self, &local_error) && check_tries_again (self, &local_error)
       && verify_pin (self, pin, &local_error);
  note_outcome (self, local_error);
  end_lease (self);
  if (ok)
    start_lease (self);
  if (self->has_lease)
    g_mutex_unlock (&self->lock);
  else
    leave (self);
  if (!ok)
    g_propagate_error (error, g_steal_pointer (&local_error));
  return ok;
}

/* --- keys --- */

static gboolean
reload_keys (KwScToken *self, GError **error)
{
  const KwScKeyTraits traits = get_traits (self);
  g_autoptr (GPtrArray) keys
      = kw_sc_keys_load (self->link, &traits, self->keys_are_fresh ? self->keys : NULL, error);

  if (keys == NULL)
    return FALSE;
  /* What an AES key was proven by stands as long as this object does: another key in its place must not pass for it. */
  for (guint i = 0; self->keys != NULL && i < keys->len; i++)
    {
      KwScKey *key = g_ptr_array_index (keys, i);

      for (guint j = 0; j < self->keys->len; j++)
        {
          const KwScKey *known = g_ptr_array_index (self->keys, j);

          if (known == key || !known->has_proof || kw_key_get_kind (key->key) != KW_KEY_KIND_AES
              || !g_bytes_equal (kw_key_get_id (known->key), kw_key_get_id (key->key)))
            continue;
          memcpy (key->proof_plain, known->proof_plain, sizeof key->proof_plain);
          memcpy (key->proof_cipher, known->proof_cipher, sizeof key->proof_cipher);
          key->has_proof = TRUE;
        }
    }
  g_clear_pointer (&self->keys, g_ptr_array_unref);
  self->keys = g_steal_pointer (&keys);
  self->keys_are_fresh = self->logged_in;
  return TRUE;
}

static KwScKey *
search_cache (KwScToken *self, KwKeyKind kind, GBytes *id, guint *out_n_found)
{
  KwScKey *found = NULL;

  *out_n_found = 0;
  for (guint i = 0; self->keys != NULL && i < self->keys->len; i++)
    {
      KwScKey *key = g_ptr_array_index (self->keys, i);

      if (kw_key_get_kind (key->key) != kind || !g_bytes_equal (kw_key_get_id (key->key), id))
        continue;
      found = key;
      (*out_n_found)++;
    }
  return found;
}

static KwScKey *
find_cached (KwScToken *self, KwKeyKind kind, GBytes *id, GError **error)
{
  guint n_found = 0;
  KwScKey *key = search_cache (self, kind, id, &n_found);

  if (n_found == 1)
    return kw_sc_key_ref (key);
  if (n_found == 0)
    g_set_error (error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND, "Token %s has no such %s key",
                 self->info->label, kw_key_kind_to_string (kind));
  else
    g_set_error (error, KW_ERROR, KW_ERROR_AMBIGUOUS,
                 "Token %s has several %s keys with the same id", self->info->label,
                 kw_key_kind_to_string (kind));
  return NULL;
}

static KwScKey *
ensure_key (KwScToken *self, KwKeyKind kind, GBytes *id, GError **error)
{
  guint n_found = 0;

  search_cache (self, kind, id, &n_found);
  if (n_found == 0 && !reload_keys (self, error))
    return NULL;
  return find_cached (self, kind, id, error);
}

static gboolean
id_is_taken (KwScToken *self, GBytes *id)
{
  for (guint i = 0; self->keys != NULL && i < self->keys->len; i++)
    {
      const KwScKey *key = g_ptr_array_index (self->keys, i);

      if (g_bytes_equal (kw_key_get_id (key->key), id))
        return TRUE;
    }
  return FALSE;
}

static gboolean
check_id_is_free (KwScToken *self, GBytes *id, GError **error)
{
  if (!reload_keys (self, error))
    return FALSE;
  if (!id_is_taken (self, id))
    return TRUE;
  g_set_error (error, KW_ERROR, KW_ERROR_KEY_EXISTS, "Token %s holds a key with this id already",
               self->info->label);
  return FALSE;
}

static gboolean
call_list_keys (KwScToken *self, gpointer data, GError **error)
{
  GPtrArray *keys = data;

  if (!reload_keys (self, error))
    return FALSE;
  for (guint i = 0; i < self->keys->len; i++)
    {
      const KwScKey *key = g_ptr_array_index (self->keys, i);

      g_ptr_array_add (keys, kw_key_ref (key->key));
    }
  return TRUE;
}

static GPtrArray *
kw_sc_token_list_keys (KwToken *token, GError **error)
{
  g_autoptr (GPtrArray) keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);

  return run_call (KW_SC_TOKEN (token), TRUE, call_list_keys, keys, error) ? g_steal_pointer (&keys)
                                                                           : NULL;
}

typedef struct
{
  KwKeyKind kind;
  GBytes *id;
  KwKey *key;
} FindCall;

static gboolean
call_find_key (KwScToken *self, gpointer data, GError **error)
{
  FindCall *call = data;
  g_autoptr (KwScKey) key = NULL;

  if (!reload_keys (self, error))
    return FALSE;
  key = find_cached (self, call->kind, call->id, error);
  if (key == NULL)
    return FALSE;
  call->key = kw_key_ref (key->key);
  return TRUE;
}

static KwKey *
kw_sc_token_find_key (KwToken *token, KwKeyKind kind, GBytes *id, GError **error)
{
  FindCall call = { kind, id, NULL };

  return run_call (KW_SC_TOKEN (token), TRUE, call_find_key, &call, error) ? call.key : NULL;
}

/* --- work --- */

typedef struct
{
  GBytes *id;
  KwRsaPadding padding;
  GBytes *ciphertext;
  KwSecret *plaintext;
} DecryptCall;

static gboolean
call_decrypt (KwScToken *self, gpointer data, GError **error)
{
  DecryptCall *call = data;
  g_autoptr (KwScKey) key = ensure_key (self, KW_KEY_KIND_RSA, call->id, error);

  if (key == NULL)
    return FALSE;
  call->plaintext = kw_sc_rsa_decrypt (self->link, key, call->padding, call->ciphertext, error);
  return call->plaintext != NULL;
}

static KwSecret *
kw_sc_token_rsa_decrypt (KwToken *token,
                         GBytes *id,
                         KwRsaPadding padding,
                         GBytes *ciphertext,
                         GError **error)
{
  DecryptCall call = { id, padding, ciphertext, NULL };

  return run_call (KW_SC_TOKEN (token), FALSE, call_decrypt, &call, error) ? call.plaintext : NULL;
}

typedef struct
{
  GBytes *id;
  GBytes *digest;
  GBytes *signature;
} SignCall;

static gboolean
call_sign (KwScToken *self, gpointer data, GError **error)
{
  SignCall *call = data;
  guint n_found = 0;
  g_autoptr (KwScKey) key = NULL;

  search_cache (self, KW_KEY_KIND_EC, call->id, &n_found);
  key = ensure_key (self, n_found > 0 ? KW_KEY_KIND_EC : KW_KEY_KIND_RSA, call->id, error);
  if (key == NULL && error != NULL && g_error_matches (*error, KW_ERROR, KW_ERROR_KEY_NOT_FOUND))
    {
      /* The keys were read just now, and it may be of the other kind. */
      g_clear_error (error);
      key = find_cached (self, KW_KEY_KIND_EC, call->id, error);
    }
  if (key == NULL)
    return FALSE;
  call->signature = kw_sc_sign_sha256 (self->link, key, call->digest, error);
  return call->signature != NULL;
}

static GBytes *
kw_sc_token_sign (KwToken *token, GBytes *id, GBytes *sha256_digest, GError **error)
{
  SignCall call = { id, sha256_digest, NULL };

  return run_call (KW_SC_TOKEN (token), FALSE, call_sign, &call, error) ? call.signature : NULL;
}

typedef struct
{
  GBytes *id;
  gboolean encrypt;
  const guint8 *iv;
  gconstpointer data;
  gsize size;
  KwSecret *output;
} AesCall;

static gboolean
call_aes_cbc (KwScToken *self, gpointer data, GError **error)
{
  AesCall *call = data;
  g_autoptr (KwScKey) key = ensure_key (self, KW_KEY_KIND_AES, call->id, error);

  if (key == NULL)
    return FALSE;
  call->output
      = kw_sc_aes_cbc (self->link, key, call->encrypt, call->iv, call->data, call->size, error);
  return call->output != NULL;
}

static KwSecret *
kw_sc_token_aes_cbc (KwToken *token,
                     GBytes *id,
                     gboolean encrypt,
                     const guint8 *iv,
                     gconstpointer data,
                     gsize size,
                     GError **error)
{
  AesCall call = { id, encrypt, iv, data, size, NULL };

  return run_call (KW_SC_TOKEN (token), FALSE, call_aes_cbc, &call, error) ? call.output : NULL;
}

typedef struct
{
  guint8 *data;
  gsize size;
} RandomCall;

static gboolean
call_random (KwScToken *self, gpointer data, GError **error)
{
  RandomCall *call = data;

  return kw_sc_random (self->link, call->data, call->size, error);
}

static gboolean
kw_sc_token_random (KwToken *token, guint8 *data, gsize size, GError **error)
{
  RandomCall call = { data, size };

  return run_call (KW_SC_TOKEN (token), FALSE, call_random, &call, error);
}

/* --- what lasts --- */

/* Reads a key that was made or copied just now, and adds it to those that are known. */
static KwKey *
take_new_key (KwScToken *self, guint8 kid, GError **error)
{
  const KwScKeyTraits traits = get_traits (self);
  KwScKey *key = kw_sc_keys_read (self->link, &traits, kid, error);

  if (key == NULL)
    {
      if (error != NULL && *error == NULL)
        g_set_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                     "Key %u is not on the card, which took it before", kid);
      return NULL;
    }
  g_ptr_array_add (self->keys, key);
  return kw_key_ref (key->key);
}

/* The number that was asked for, or one that is free; 0 with an error. */
static guint8
choose_kid (KwScToken *self, guint reference, GError **error)
{
  if (reference == 0)
    return kw_sc_find_free_kid (self->link, error);
  return kw_sc_check_kid_is_free (self->link, reference, error) ? (guint8) reference : 0;
}

typedef struct
{
  KwScNewKey wanted;
  guint reference;
  KwKey *key;
} GenerateCall;

static gboolean
call_generate (KwScToken *self, gpointer data, GError **error)
{
  GenerateCall *call = data;
  guint8 kid = 0;

  if (!check_id_is_free (self, call->wanted.id, error))
    return FALSE;
  kid = choose_kid (self, call->reference, error);
  if (kid == 0 || !kw_sc_generate_key (self->link, &call->wanted, kid, error))
    return FALSE;
  call->key = take_new_key (self, kid, error);
  return call->key != NULL;
}

static KwKey *
generate (KwToken *token, const KwScNewKey *wanted, guint reference, GError **error)
{
  KwScToken *self = KW_SC_TOKEN (token);
  GenerateCall call = { .wanted = *wanted, .reference = reference };

  call.wanted.serial = self->info->serial;
  return run_call (self, TRUE, call_generate, &call, error) ? call.key : NULL;
}

static KwKey *
kw_sc_token_generate_rsa (KwToken *token, guint bits, GBytes *id, const char *label, GError **error)
{
  const KwScNewKey wanted = { KW_KEY_KIND_RSA, bits, id, label, NULL };

  return generate (token, &wanted, 0, error);
}

static KwKey *
kw_sc_token_generate_aes (KwToken *token,
                          guint bits,
                          GBytes *id,
                          const char *label,
                          guint reference,
                          GError **error)
{
  const KwScKeyTraits traits = get_traits (KW_SC_TOKEN (token));
  const KwScNewKey wanted = { KW_KEY_KIND_AES, bits, id, label, NULL };

  if (traits.aes_is_weak)
    {
      g_set_error (
          error, KW_ERROR, KW_ERROR_NOT_SUPPORTED,
          "Firmware %s makes AES keys that can be guessed; make the key on another device and "
          "clone it",
          traits.firmware);
      return NULL;
    }
  return generate (token, &wanted, reference, error);
}

typedef struct
{
  KwKeyKind kind;
  GBytes *id;
  GBytes *wrapped;
} NamedCall;

static gboolean
call_delete (KwScToken *self, gpointer data, GError **error)
{
  NamedCall *call = data;
  g_autoptr (KwScKey) key = NULL;

  if (!reload_keys (self, error))
    return FALSE;
  key = find_cached (self, call->kind, call->id, error);
  if (key == NULL || !kw_sc_delete_key (self->link, key->kid, error))
    return FALSE;
  g_ptr_array_remove (self->keys, key);
  return TRUE;
}

static gboolean
kw_sc_token_delete_key (KwToken *token, KwKeyKind kind, GBytes *id, GError **error)
{
  NamedCall call = { kind, id, NULL };

  return run_call (KW_SC_TOKEN (token), TRUE, call_delete, &call, error);
}

static gboolean
call_export (KwScToken *self, gpointer data, GError **error)
{
  NamedCall *call = data;
  g_autoptr (KwScKey) key = NULL;

  if (!reload_keys (self, error))
    return FALSE;
  key = find_cached (self, call->kind, call->id, error);
  if (key == NULL)
    return FALSE;
  call->wrapped = kw_sc_export_key (self->link, key, error);
  return call->wrapped != NULL;
}

static GBytes *
kw_sc_token_export_key (KwToken *token, KwKeyKind kind, GBytes *id, GError **error)
{
  NamedCall call = { kind, id, NULL };

  return run_call (KW_SC_TOKEN (token), TRUE, call_export, &call, error) ? call.wrapped : NULL;
}

typedef struct
{
  KwScSpan file;
  GBytes *id; /* borrowed */
  guint reference;
  KwKey *key;
} ImportCall;

static gboolean
call_import (KwScToken *self, gpointer data, GError **error)
{
  ImportCall *call = data;
  guint8 kid = 0;

  if (!check_id_is_free (self, call->id, error))
    return FALSE;
  kid = choose_kid (self, call->reference, error);
  if (kid == 0 || !kw_sc_import_key (self->link, call->file, kid, error))
    return FALSE;
  call->key = take_new_key (self, kid, error);
  return call->key != NULL;
}

static KwKey *
kw_sc_token_import_key (KwToken *token, GBytes *wrapped_key, guint reference, GError **error)
{
  ImportCall call = { .reference = reference };
  g_autoptr (KwScWrapped) wrapped = NULL;

  call.file.data = g_bytes_get_data (wrapped_key, &call.file.size);
  wrapped = kw_sc_wrapped_parse (call.file, error);
  if (wrapped == NULL)
    return NULL;
  call.id = wrapped->parsed_description->id;
  return run_call (KW_SC_TOKEN (token), TRUE, call_import, &call, error) ? call.key : NULL;
}

static gboolean
call_list_references (KwScToken *self, gpointer data, GError **error)
{
  GArray **kids = data;

  *kids = kw_sc_list_kids (self->link, error);
  return *kids != NULL;
}

static GArray *
kw_sc_token_list_references (KwToken *token, guint *out_last, GError **error)
{
  GArray *kids = NULL;

  if (!run_call (KW_SC_TOKEN (token), FALSE, call_list_references, &kids, error))
    return NULL;
  *out_last = KW_SC_MAX_KID;
  return kids;
}

static gboolean
kw_sc_token_can_clone (KwToken *token)
{
  return KW_SC_TOKEN (token)->info->dkek_check_value != NULL;
}

/* --- the object --- */

static const KwTokenInfo *
kw_sc_token_get_info (KwToken *token)
{
  return KW_SC_TOKEN (token)->info;
}

static guint
kw_sc_token_get_concurrency (KwToken *token G_GNUC_UNUSED)
{
  return 1;
}

static void
kw_sc_token_close (KwToken *token)
{
  KwScToken *self = KW_SC_TOKEN (token);

  g_atomic_int_set (&self->closed, TRUE);
  /* Somebody inside notices by himself; a card that is merely kept is let go. */
  if (!g_mutex_trylock (&self->lock))
    return;
  self->lease_deadline = 0;
  g_cond_broadcast (&self->lease_ends);
  g_mutex_unlock (&self->lock);
}

static gpointer
free_link_thread (gpointer data)
{
  kw_sc_link_free (data);
  return NULL;
}

static void
kw_sc_token_finalize (GObject *object)
{
  KwScToken *self = KW_SC_TOKEN (object);
  GThread *thread = NULL;

  /* pcscd is told that we leave; that may take it a while, and this may be the main context. */
  if (self->link != NULL && self->closer != NULL)
    kw_sc_monitor_close_link (self->closer, self->link);
  else if (self->link != NULL)
    thread = g_thread_try_new ("kw-sc-close", free_link_thread, self->link, NULL);
  if (thread != NULL)
    g_thread_unref (thread);
  g_clear_pointer (&self->closer, kw_sc_monitor_unref);
  g_clear_pointer (&self->keys, g_ptr_array_unref);
  g_clear_pointer (&self->info, kw_token_info_free);
  g_cond_clear (&self->lease_ends);
  g_mutex_clear (&self->lock);

  G_OBJECT_CLASS (kw_sc_token_parent_class)->finalize (object);
}

static void
kw_sc_token_class_init (KwScTokenClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = kw_sc_token_finalize;
}

static void
kw_sc_token_init (KwScToken *self)
{
  g_mutex_init (&self->lock);
  g_cond_init (&self->lease_ends);
  self->max_tries = -1;
  self->last_tries = -1;
}

static void
kw_sc_token_iface_init (KwTokenInterface *iface)
{
  iface->get_info = kw_sc_token_get_info;
  iface->get_concurrency = kw_sc_token_get_concurrency;
  iface->get_pin_state = kw_sc_token_get_pin_state;
  iface->login = kw_sc_token_login;
  iface->list_keys = kw_sc_token_list_keys;
  iface->find_key = kw_sc_token_find_key;
  iface->rsa_decrypt = kw_sc_token_rsa_decrypt;
  iface->sign = kw_sc_token_sign;
  iface->aes_cbc = kw_sc_token_aes_cbc;
  iface->random = kw_sc_token_random;
  iface->generate_rsa = kw_sc_token_generate_rsa;
  iface->generate_aes = kw_sc_token_generate_aes;
  iface->delete_key = kw_sc_token_delete_key;
  iface->export_key = kw_sc_token_export_key;
  iface->import_key = kw_sc_token_import_key;
  iface->list_references = kw_sc_token_list_references;
  iface->can_clone = kw_sc_token_can_clone;
  iface->close = kw_sc_token_close;
}

/**
 * kw_sc_token_new:
 * @reader: name of a reader with a card in it
 * @atr: the card's answer to reset
 * @error: where to store the error
 *
 * Looks at a card, which logs everybody out. Blocks.
 *
 * Returns: (transfer full): the token; %NULL with %KW_ERROR_NOT_SUPPORTED when the card is no SmartCard-HSM,
 *   %KW_ERROR_TOKEN_UNINITIALIZED when it is blank, or an error of the device
 */
KwScToken *
kw_sc_token_new (const char *reader, GBytes *atr, GError **error)
{
  g_autoptr (KwScToken) self = g_object_new (KW_TYPE_SC_TOKEN, NULL);
  g_autoptr (KwScLink) link = kw_sc_link_new (reader, error);

  g_return_val_if_fail (atr != NULL, NULL);

  if (link == NULL || !kw_sc_link_begin (link, error) || !read_info (self, link, atr, error))
    return NULL;
  kw_sc_link_end (link);
  self->n_resets_seen = kw_sc_link_get_n_resets (link);
  self->link = g_steal_pointer (&link);
  return g_steal_pointer (&self);
}

/**
 * kw_sc_token_is_blank:
 * @reader: name of a reader with a SmartCard-HSM in it
 * @out_blank: (out): whether it was still not initialised
 * @error: where to store the error
 *
 * Looks at a card without disturbing whoever may be initialising it. Blocks.
 *
 * Returns: %FALSE with an error of the device
 */
gboolean
kw_sc_token_is_blank (const char *reader, gboolean *out_blank, GError **error)
{
  g_autoptr (KwScLink) link = kw_sc_link_new (reader, error);
  KwScPinStatus status = KW_SC_PIN_NONE;
  guint tries = 0;

  if (link == NULL || !kw_sc_card_read_pin_status (link, KW_SC_PIN_USER, &status, &tries, error))
    return FALSE;
  *out_blank = status == KW_SC_PIN_NONE;
  return TRUE;
}

/**
 * kw_sc_token_set_closer:
 * @self: a token that nobody has yet
 * @closer: closes its connection to the card in the end
 *
 * Lets somebody wait for connections to be closed. Main context.
 */
void
kw_sc_token_set_closer (KwScToken *self, KwScMonitor *closer)
{
  g_return_if_fail (KW_IS_SC_TOKEN (self) && self->closer == NULL);

  self->closer = kw_sc_monitor_ref (closer);
}
