/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-preparation"

#include "config.h"

#include "kw-preparation.h"

#include "kw-error.h"
#include "kw-limits.h"
#include "kw-uuid.h"

#include <string.h>

/*
 * What is to be found out before a key is made, so that nothing has to be taken back: whether enough devices can have it, and
 * of an AES key whether it would get into the way of one of `hsm_keyid`. For that all devices are looked at anew, since other
 * programs make keys too.
 *
 * An AES key is known by its place in the order of numbers or ids, so a new one comes after all others of all devices, with
 * the same number everywhere.
 *
 * Main context; devices are looked at by their threads.
 */

/* What is on one device. */
typedef struct
{
  KwDevice *device;   /* owned */
  GPtrArray *keys;    /* owned, nullable */
  GArray *references; /* owned, nullable; of guint */
  guint last;
  GError *error; /* owned, nullable */
} Survey;

typedef struct
{
  KwKeyring *keyring; /* owned */
  GPtrArray *origins; /* owned; of KwDevice */
  GPtrArray *surveys; /* owned; of Survey */
  KwPreparationWish wish;
  char *label;    /* owned */
  GBytes *key_id; /* owned, nullable */
  guint reference;
  guint n_pending;
  GMainContext *context; /* owned */
  KwPreparationFunc done;
  gpointer user_data;
  GError *error; /* owned, nullable */
} Preparation;

/* A survey on its way through the executor of its device. */
typedef struct
{
  Preparation *preparation; /* borrowed: it waits for all of them */
  Survey *survey;           /* owned */
} Errand;

static void
survey_free (gpointer data)
{
  Survey *survey = data;

  g_object_unref (survey->device);
  g_clear_pointer (&survey->keys, g_ptr_array_unref);
  g_clear_pointer (&survey->references, g_array_unref);
  g_clear_error (&survey->error);
  g_free (survey);
}

static void
errand_free (gpointer data)
{
  Errand *errand = data;

  g_clear_pointer (&errand->survey, survey_free);
  g_free (errand);
}

static void
finish (Preparation *preparation)
{
  const KwPreparationResult result
      = { preparation->origins, preparation->key_id, preparation->reference };

  preparation->done (preparation->error == NULL ? &result : NULL, preparation->error,
                     preparation->user_data);
  g_object_unref (preparation->keyring);
  g_ptr_array_unref (preparation->origins);
  g_ptr_array_unref (preparation->surveys);
  g_free (preparation->label);
  g_clear_pointer (&preparation->key_id, g_bytes_unref);
  g_main_context_unref (preparation->context);
  g_clear_error (&preparation->error);
  g_free (preparation);
}

/* --- who can have it --- */

/* Whether keys can be cloned from one device to another, as far as that can be told without trying. */
static gboolean
can_clone_between (KwDevice *a, KwDevice *b)
{
  KwToken *token_a = kw_device_get_token (a);
  KwToken *token_b = kw_device_get_token (b);

  return G_OBJECT_TYPE (token_a) == G_OBJECT_TYPE (token_b) && kw_token_can_clone (token_a)
         && kw_token_can_clone (token_b)
         && g_strcmp0 (kw_token_get_info (token_a)->dkek_check_value,
                       kw_token_get_info (token_b)->dkek_check_value)
                == 0;
}

static guint
count_copies (KwDevice *origin, GPtrArray *devices)
{
  guint n_copies = 1;

  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);

      n_copies += (guint) (device != origin && can_clone_between (origin, device));
    }
  return n_copies;
}

static char *
describe_too_few (guint n_devices, guint n_copies, guint min_copies)
{
  if (n_devices < min_copies && n_devices == 1)
    return g_strdup_printf (
        "1 device is ready, and min_copies is %u, so no key was made; plug in more devices",
        min_copies);
  if (n_devices < min_copies)
    return g_strdup_printf (
        "%u devices are ready, and min_copies is %u, so no key was made; plug in more devices",
        n_devices, min_copies);
  if (n_copies == 1)
    return g_strdup_printf (
        "Keys cannot be cloned between these devices, and min_copies is %u, so no key was made; use cards with the same "
        "transport key, or set min_copies = 1 in [hsm] and see to copies yourself",
        min_copies);
  return g_strdup_printf (
      "A key can be cloned to %u devices, and min_copies is %u, so no key was made; plug in more devices with the same "
      "transport key",
      n_copies, min_copies);
}

/* Those from which most others can have the key. */
static gboolean
find_origins (Preparation *preparation, GPtrArray *devices)
{
  guint most = 0;
  g_autofree char *text = NULL;

  for (guint i = 0; i < devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (devices, i);
      guint n_copies = preparation->wish.replicate ? count_copies (device, devices) : 1;

      if (n_copies > most)
        g_ptr_array_set_size (preparation->origins, 0);
      most = MAX (most, n_copies);
      if (n_copies == most)
        g_ptr_array_add (preparation->origins, g_object_ref (device));
    }
  if (!preparation->wish.replicate || most >= preparation->wish.min_copies)
    return TRUE;
  text = describe_too_few (devices->len, most, preparation->wish.min_copies);
  g_set_error_literal (&preparation->error, KW_ERROR, KW_ERROR_UNAVAILABLE, text);
  return FALSE;
}

/* --- what it must not get into the way of --- */

static guint
count_aes (GPtrArray *keys)
{
  guint n = 0;

  for (guint i = 0; i < keys->len; i++)
    n += kw_key_get_kind (g_ptr_array_index (keys, i)) == KW_KEY_KIND_AES;
  return n;
}

static gboolean
check_label_on_device (const Preparation *preparation, const Survey *survey, GError **error)
{
  for (guint i = 0; i < survey->keys->len; i++)
    {
      const KwKey *key = g_ptr_array_index (survey->keys, i);

      if (kw_key_get_kind (key) != KW_KEY_KIND_AES
          || !g_str_equal (kw_key_get_label (key), preparation->label))
        continue;
      g_set_error (
          error, KW_ERROR, KW_ERROR_KEY_EXISTS,
          "Device %s has an AES key with the label \"%s\" already, so no key was made; give "
          "the new one another label",
          kw_device_get_name (survey->device), preparation->label);
      return FALSE;
    }
  return TRUE;
}

/* Whether an entry of hsm_keyid would mean the new key instead of the one that is on record. */
static gboolean
check_entry (Preparation *preparation, const KwKeySelector *selector)
{
  const char *id = kw_key_selector_get_text (selector);
  const char *label = kw_key_selector_get_label (selector);
  g_autofree char *recorded = kw_keyring_dup_recorded (preparation->keyring, id);
  guint place = 0;

  if (recorded == NULL)
    return TRUE;
  if (g_strcmp0 (label, preparation->label) == 0)
    {
      g_set_error (
          &preparation->error, KW_ERROR, KW_ERROR_KEY_EXISTS,
          "Another key is on record as %s of hsm_keyid, on a device that is not here, so no key was made; give the "
          "new one another label",
          id);
      return FALSE;
    }
  if (!kw_key_selector_get_place (selector, &place))
    return TRUE;
  for (guint i = 0; i < preparation->surveys->len; i++)
    {
      const Survey *survey = g_ptr_array_index (preparation->surveys, i);

      if (count_aes (survey->keys) != place)
        continue;
      g_set_error (
          &preparation->error, KW_ERROR, KW_ERROR_KEY_EXISTS,
          "Device %s does not have key %s of hsm_keyid, and a new key would take its place there, so none was made; "
          "clone key %s to the device first, or unplug it",
          kw_device_get_name (survey->device), id, id);
      return FALSE;
    }
  return TRUE;
}

static gboolean
check_names (Preparation *preparation)
{
  g_autoptr (GPtrArray) selectors = kw_keyring_ref_selectors (preparation->keyring);

  for (guint i = 0; preparation->label[0] != '\0' && i < preparation->surveys->len; i++)
    {
      if (!check_label_on_device (preparation, g_ptr_array_index (preparation->surveys, i),
                                  &preparation->error))
        return FALSE;
    }
  for (guint i = 0; i < selectors->len; i++)
    {
      if (!check_entry (preparation, g_ptr_array_index (selectors, i)))
        return FALSE;
    }
  return TRUE;
}

/* --- which name it gets --- */

static gboolean
is_taken (const Preparation *preparation, guint reference)
{
  for (guint i = 0; i < preparation->surveys->len; i++)
    {
      const Survey *survey = g_ptr_array_index (preparation->surveys, i);

      for (guint j = 0; survey->references != NULL && j < survey->references->len; j++)
        {
          if (g_array_index (survey->references, guint, j) == reference)
            return TRUE;
        }
    }
  return FALSE;
}

/* The lowest number after those of all AES keys that is free everywhere. */
static gboolean
choose_reference (Preparation *preparation)
{
  const char *holder = "";
  guint highest = 0;
  guint last = G_MAXUINT;
  gboolean numbered = FALSE;

  for (guint i = 0; i < preparation->surveys->len; i++)
    {
      const Survey *survey = g_ptr_array_index (preparation->surveys, i);

      if (survey->references == NULL)
        continue;
      numbered = TRUE;
      last = MIN (last, survey->last);
      for (guint j = 0; j < survey->keys->len; j++)
        {
          const KwKey *key = g_ptr_array_index (survey->keys, j);

          if (kw_key_get_kind (key) != KW_KEY_KIND_AES || kw_key_get_reference (key) <= highest)
            continue;
          highest = kw_key_get_reference (key);
          holder = kw_device_get_name (survey->device);
        }
    }
  if (!numbered)
    return TRUE;
  for (guint reference = highest + 1; reference <= last; reference++)
    {
      if (is_taken (preparation, reference))
        continue;
      preparation->reference = reference;
      return TRUE;
    }
  g_set_error (
      &preparation->error, KW_ERROR, KW_ERROR_TOKEN_FULL,
      "No number is left for a new key: it has to come after those of all AES keys, the highest of which is %u on "
      "device %s, and %u is the last; so none was made. Remove keys with high numbers that are not needed, from all "
      "devices",
      highest, holder, last);
  return FALSE;
}

/* Adds one to a number in bytes; FALSE when there is none that is higher. */
static gboolean
increment (guint8 *number, gsize size)
{
  for (gsize i = size; i > 0; i--)
    {
      number[i - 1]++;
      if (number[i - 1] != 0)
        return TRUE;
    }
  return FALSE;
}

/* Raises an id until it comes after another one. */
static gboolean
raise_above (guint8 *bytes, gsize size, GBytes *other)
{
  gsize n_other = 0;
  const guint8 *data = g_bytes_get_data (other, &n_other);
  gsize n_head = MIN (n_other, size / 2);

  /* lint: allow secret-compare — ids are public */
  if (n_other == 0 || memcmp (bytes, data, n_head) > 0)
    return TRUE;
  memcpy (bytes, data, n_head);
  return increment (bytes, n_head);
}

/* A new UUID; where keys are ordered by their ids, one that comes after those of all AES keys. */
static gboolean
choose_id (Preparation *preparation)
{
  g_autoptr (GBytes) id = kw_uuid_new_v1 (&preparation->error);
  g_autofree guint8 *bytes = NULL;
  gsize size = 0;

  if (id == NULL)
    return FALSE;
  bytes = g_bytes_unref_to_data (g_steal_pointer (&id), &size);
  for (guint i = 0; i < preparation->surveys->len; i++)
    {
      const Survey *survey = g_ptr_array_index (preparation->surveys, i);

      for (guint j = 0; j < survey->keys->len; j++)
        {
          const KwKey *key = g_ptr_array_index (survey->keys, j);

          if (kw_key_get_kind (key) != KW_KEY_KIND_AES || survey->references != NULL
              || raise_above (bytes, size, kw_key_get_id (key)))
            continue;
          g_set_error (
              &preparation->error, KW_ERROR, KW_ERROR_TOKEN_FULL,
              "No id is left for a new key: it has to come after those of all AES keys, and device %s has one with "
              "the highest there is; so none was made. Remove that key, or give it another CKA_ID",
              kw_device_get_name (survey->device));
          return FALSE;
        }
    }
  preparation->key_id = g_bytes_new_take (g_steal_pointer (&bytes), size);
  return TRUE;
}

/* All devices were looked at. */
static void
conclude (Preparation *preparation)
{
  for (guint i = 0; i < preparation->surveys->len; i++)
    {
      const Survey *survey = g_ptr_array_index (preparation->surveys, i);

      if (survey->error == NULL)
        continue;
      g_set_error (
          &preparation->error, KW_ERROR, KW_ERROR_UNAVAILABLE,
          "Device %s could not be looked at, so no key was made: %s; try again, or unplug it",
          kw_device_get_name (survey->device), survey->error->message);
      finish (preparation);
      return;
    }
  if (preparation->wish.kind == KW_KEY_KIND_AES && check_names (preparation))
    (void) choose_reference (preparation);
  if (preparation->error == NULL && preparation->key_id == NULL)
    (void) choose_id (preparation);
  finish (preparation);
}

static gboolean
take_survey (gpointer user_data)
{
  Errand *errand = user_data;
  Preparation *preparation = errand->preparation;

  g_ptr_array_add (preparation->surveys, g_steal_pointer (&errand->survey));
  preparation->n_pending--;
  if (preparation->n_pending == 0)
    conclude (preparation);
  return G_SOURCE_REMOVE;
}

static void
run_survey (gpointer user_data)
{
  Errand *errand = user_data;
  Survey *survey = errand->survey;

  survey->keys
      = kw_device_survey_keys (survey->device, &survey->references, &survey->last, &survey->error);
}

/* The work keeps its own; what goes to the main context is another one with the results. */
static void
on_survey_done (gpointer user_data,
                KwWorkOutcome outcome,
                gboolean was_running,
                gint64 duration_usec G_GNUC_UNUSED)
{
  Errand *errand = user_data;
  Errand *result = g_new0 (Errand, 1);
  g_autoptr (GSource) source = g_idle_source_new ();

  result->preparation = errand->preparation;
  result->survey = g_new0 (Survey, 1);
  result->survey->device = g_object_ref (errand->survey->device);
  if (outcome == KW_WORK_RAN)
    {
      result->survey->keys = g_steal_pointer (&errand->survey->keys);
      result->survey->references = g_steal_pointer (&errand->survey->references);
      result->survey->last = errand->survey->last;
      result->survey->error = g_steal_pointer (&errand->survey->error);
    }
  else
    g_set_error_literal (&result->survey->error, KW_ERROR, KW_ERROR_TIMEOUT,
                         outcome == KW_WORK_OVERDUE ? "it did not answer in time" : "it is gone");
  if (outcome == KW_WORK_OVERDUE && was_running)
    kw_device_report_stuck (errand->survey->device);
  g_source_set_priority (source, G_PRIORITY_DEFAULT);
  g_source_set_callback (source, take_survey, result, errand_free);
  g_source_attach (source, result->preparation->context);
}

static void
send_survey (Preparation *preparation, KwDevice *device)
{
  Errand *errand = g_new0 (Errand, 1);
  KwWork *work = NULL;
  g_autoptr (GError) error = NULL;
  Survey *failed = NULL;

  errand->preparation = preparation;
  errand->survey = g_new0 (Survey, 1);
  errand->survey->device = g_object_ref (device);
  work = kw_work_new (run_survey, on_survey_done, kw_device_get_timeout_usec (device), errand,
                      errand_free);
  kw_work_set_long (work);
  preparation->n_pending++;
  if (kw_executor_submit (kw_device_get_executor (device), work, FALSE, &error))
    return;
  preparation->n_pending--;
  failed = g_new0 (Survey, 1);
  failed->device = g_object_ref (device);
  failed->error = g_steal_pointer (&error);
  g_ptr_array_add (preparation->surveys, failed);
}

/**
 * kw_prepare_generation:
 * @keyring: the record
 * @devices: (element-type KwDevice): all ready devices, one at least
 * @wish: what is wanted; copied
 * @done: told once how to make it, or why it is not to be made; perhaps before this returns. Main context
 * @user_data: for @done
 *
 * Finds out how a key is to be made. Main context; nothing changes.
 */
void
kw_prepare_generation (KwKeyring *keyring,
                       GPtrArray *devices,
                       const KwPreparationWish *wish,
                       KwPreparationFunc done,
                       gpointer user_data)
{
  Preparation *preparation = NULL;

  g_return_if_fail (KW_IS_KEYRING (keyring) && devices != NULL && wish != NULL && done != NULL);

  preparation = g_new0 (Preparation, 1);
  preparation->keyring = g_object_ref (keyring);
  preparation->origins = g_ptr_array_new_with_free_func (g_object_unref);
  preparation->surveys = g_ptr_array_new_with_free_func (survey_free);
  preparation->wish = *wish;
  preparation->label = g_strdup (wish->label != NULL ? wish->label : "");
  preparation->key_id = wish->key_id != NULL ? g_bytes_ref (wish->key_id) : NULL;
  preparation->context = g_main_context_ref_thread_default ();
  preparation->done = done;
  preparation->user_data = user_data;
  if (!find_origins (preparation, devices))
    {
      finish (preparation);
      return;
    }
  /* RSA keys are known by their ids alone. */
  for (guint i = 0; wish->kind == KW_KEY_KIND_AES && i < devices->len; i++)
    send_survey (preparation, g_ptr_array_index (devices, i));
  if (preparation->n_pending == 0)
    conclude (preparation);
}
