/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-backend"

#include "config.h"

#include "kw-sc-backend.h"

#include "kw-error.h"
#include "kw-names.h"
#include "kw-sc-probe.h"
#include "kw-sc-status.h"
#include "kw-sc-udev.h"

/*
 * The back end for SmartCard-HSMs: all that are in a reader, or in those the configuration names. A thread watches the readers;
 * each card that is put in is looked at by another one and announced if it is a SmartCard-HSM that was initialised. All decisions
 * are made here, in the main context, each time the picture changes.
 *
 * A card that is pulled, or gave trouble, is dropped and looked at anew; no token object is ever used again. When no card is left
 * and that lasts, a sentence says why.
 *
 * Main context.
 */
struct _KwScBackend
{
  GObject parent_instance;

  KwConfig *config; /* owned; NULL until configured */
  KwScTiming timing;
  GMainContext *context;      /* owned */
  KwScMonitor *monitor;       /* owned; NULL when not started */
  KwScMonitor *ended_monitor; /* owned, nullable: the last one, stopped */
  KwScUdev *udev;             /* owned; NULL when not started */
  KwScSnapshot *snapshot;     /* owned, nullable: nothing seen yet */
  GHashTable *slots;          /* owned: name of a reader → Slot */
  GPtrArray *found;           /* owned, nullable: tokens of a coldplug */
  char *status;               /* owned; NULL = nothing to wait for */
  GSource *status_source;     /* owned, nullable: when to look at the status again */
  gint64 last_removed;        /* when the last token went; 0 = none did */
  gint64 last_udev;           /* when a device came or went; 0 = none did */
  gboolean gave_up;           /* a card that was being looked at was pulled */
};

typedef enum
{
  SLOT_IDLE,    /* no card, or none that answers to a reset */
  SLOT_PROBING, /* the card is being looked at */
  SLOT_TOKEN,   /* the card was announced */
  SLOT_BLANK,   /* a SmartCard-HSM that was never initialised */
  SLOT_FOREIGN, /* another card */
  SLOT_FAILED,  /* the card is looked at again in a while */
} SlotState;

typedef struct
{
  KwScBackend *backend; /* borrowed */
  char *reader;         /* owned */
  SlotState state;
  guint n_events;
  GBytes *atr;      /* owned */
  KwScProbe *probe; /* owned, nullable */
  gint64 probe_since;
  KwScToken *token; /* owned, nullable */
  gint64 token_since;
  gint64 delay;
  char *text;     /* owned, nullable: what is wrong */
  GSource *retry; /* owned, nullable */
} Slot;

static void kw_sc_backend_iface_init (KwBackendInterface *iface);

G_DEFINE_FINAL_TYPE_WITH_CODE (KwScBackend,
                               kw_sc_backend,
                               G_TYPE_OBJECT,
                               G_IMPLEMENT_INTERFACE (KW_TYPE_BACKEND, kw_sc_backend_iface_init))

#define END_WAIT_USEC (3 * G_USEC_PER_SEC / 2)
#define PIN_NAME "[hsm] hsm_pin"

static const KwScTiming default_timing = {
  .monitor = {
    .poll = 5 * G_USEC_PER_SEC,
    .first = G_USEC_PER_SEC / 10,
    .max = 2 * G_USEC_PER_SEC,
  },
  .blank = 2 * G_USEC_PER_SEC,
  .reset_first = G_USEC_PER_SEC / 4,
  .reset_max = 10 * G_USEC_PER_SEC,
  .calm = 30 * G_USEC_PER_SEC,
  .stuck = 10 * G_USEC_PER_SEC,
  .grace = 5 * G_USEC_PER_SEC,
  .settle = 3 * G_USEC_PER_SEC,
};

static void update_status (KwScBackend *self);

static void start_probe (Slot *slot);

/* --- sources --- */

static void
clear_source (GSource **source)
{
  if (*source == NULL)
    return;
  g_source_destroy (*source);
  g_clear_pointer (source, g_source_unref);
}

static GSource *
add_timeout (KwScBackend *self, gint64 usec, GSourceFunc func, gpointer data)
{
  GSource *source = g_timeout_source_new ((guint) ((usec + 999) / 1000));

  g_source_set_callback (source, func, data, NULL);
  g_source_set_static_name (source, "kw-sc-backend");
  g_source_attach (source, self->context);
  return source;
}

/* --- slots --- */

static void
drop_token (Slot *slot)
{
  g_autoptr (KwScToken) token = g_steal_pointer (&slot->token);

  if (token == NULL)
    return;
  slot->backend->last_removed = g_get_monotonic_time ();
  kw_token_close (KW_TOKEN (token));
  if (slot->backend->monitor != NULL)
    kw_backend_emit_token_removed (KW_BACKEND (slot->backend), KW_TOKEN (token));
}

static void
clear_slot (Slot *slot)
{
  if (slot->state == SLOT_PROBING || slot->state == SLOT_FAILED)
    slot->backend->gave_up = TRUE;
  slot->state = SLOT_IDLE;
  clear_source (&slot->retry);
  g_clear_pointer (&slot->probe, kw_sc_probe_drop);
  g_clear_pointer (&slot->text, g_free);
  drop_token (slot);
}

static void
slot_free (gpointer data)
{
  Slot *slot = data;

  clear_slot (slot);
  g_clear_pointer (&slot->atr, g_bytes_unref);
  g_free (slot->reader);
  g_free (slot);
}

static gboolean
on_retry (gpointer user_data)
{
  Slot *slot = user_data;

  clear_source (&slot->retry);
  start_probe (slot);
  update_status (slot->backend);
  return G_SOURCE_REMOVE;
}

/* The first trouble in a while costs no time, the next ones more and more. */
static gint64
next_delay (Slot *slot)
{
  const KwScTiming *timing = &slot->backend->timing;
  gint64 delay = slot->delay;

  slot->delay = delay == 0 ? timing->reset_first : MIN (delay * 2, timing->reset_max);
  return delay;
}

static void
set_text (Slot *slot, const char *text)
{
  g_free (slot->text);
  slot->text = g_strdup (text);
}

static void
take_failed_probe (Slot *slot, const GError *error)
{
  KwScBackend *self = slot->backend;

  if (g_error_matches (error, KW_ERROR, KW_ERROR_TOKEN_UNINITIALIZED))
    {
      slot->state = SLOT_BLANK;
      set_text (slot, error->message);
      slot->retry = add_timeout (self, self->timing.blank, on_retry, slot);
      return;
    }
  if (g_error_matches (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED))
    {
      const KwScReader *reader = kw_sc_snapshot_find (self->snapshot, slot->reader);
      g_autofree char *text
          = reader != NULL ? kw_sc_status_of_foreign_card (reader) : g_strdup (error->message);

      slot->state = SLOT_FOREIGN;
      set_text (slot, text);
      return;
    }
  slot->state = SLOT_FAILED;
  set_text (slot, error->message);
  next_delay (slot);
  slot->retry = add_timeout (self, slot->delay, on_retry, slot);
}

static void
on_probe_done (KwScProbe *probe G_GNUC_UNUSED,
               KwScToken *token,
               gboolean is_blank,
               const GError *error,
               gpointer user_data)
{
  Slot *slot = user_data;
  g_autoptr (KwScBackend) self = g_object_ref (slot->backend);

  g_clear_pointer (&slot->probe, kw_sc_probe_drop);
  if (is_blank)
    {
      slot->state = SLOT_BLANK;
      slot->retry = add_timeout (self, self->timing.blank, on_retry, slot);
    }
  else if (token == NULL)
    take_failed_probe (slot, error);
  else
    {
      slot->state = SLOT_TOKEN;
      slot->token_since = g_get_monotonic_time ();
      g_clear_pointer (&slot->text, g_free);
      g_set_object (&slot->token, token);
      kw_sc_token_set_closer (token, self->monitor);
      /* First, so that nobody who hears of the token finds a sentence that there is none. */
      update_status (self);
      kw_backend_emit_token_added (KW_BACKEND (self), KW_TOKEN (token));
      return;
    }
  update_status (self);
}

static void
start_probe (Slot *slot)
{
  gboolean blank_before = slot->state == SLOT_BLANK;

  /* A card that is only looked at to see whether it is still blank keeps its sentence meanwhile. */
  if (!blank_before)
    slot->state = SLOT_PROBING;
  slot->probe_since = g_get_monotonic_time ();
  slot->probe = kw_sc_probe_start (slot->reader, slot->atr, blank_before, on_probe_done, slot);
}

static gboolean
reader_is_wanted (KwScBackend *self, const char *name)
{
  const char *const *globs = (const char *const *) kw_config_get_smartcard (self->config)->readers;

  if (globs == NULL)
    return TRUE;
  for (guint i = 0; globs[i] != NULL; i++)
    {
      if (g_pattern_match_simple (globs[i], name))
        return TRUE;
    }
  return FALSE;
}

static gboolean
slot_is_outdated (gpointer key G_GNUC_UNUSED, gpointer value, gpointer user_data)
{
  const Slot *slot = value;
  KwScSnapshot *snapshot = user_data;

  return kw_sc_snapshot_find (snapshot, slot->reader) == NULL;
}

static void
take_reader (KwScBackend *self, const KwScReader *reader)
{
  Slot *slot = g_hash_table_lookup (self->slots, reader->name);

  if (slot == NULL)
    {
      slot = g_new0 (Slot, 1);
      slot->backend = self;
      slot->reader = g_strdup (reader->name);
      slot->atr = g_bytes_new (NULL, 0);
      g_hash_table_insert (self->slots, slot->reader, slot);
    }
  if (!reader->present || reader->mute || reader->n_events != slot->n_events
      || !g_bytes_equal (reader->atr, slot->atr))
    {
      clear_slot (slot);
      slot->delay = 0;
    }
  slot->n_events = reader->n_events;
  g_bytes_unref (slot->atr);
  slot->atr = g_bytes_ref (reader->atr);
  if (reader->present && !reader->mute && slot->state == SLOT_IDLE)
    start_probe (slot);
}

static void
on_snapshot (KwScSnapshot *snapshot, gpointer user_data)
{
  g_autoptr (KwScBackend) self = g_object_ref (user_data);
  KwScSnapshot *old = self->snapshot;

  self->snapshot = kw_sc_snapshot_ref (snapshot);
  g_clear_pointer (&old, kw_sc_snapshot_unref);
  g_hash_table_foreach_remove (self->slots, slot_is_outdated, snapshot);
  for (guint i = 0; i < snapshot->readers->len; i++)
    {
      const KwScReader *reader = g_ptr_array_index (snapshot->readers, i);

      if (reader_is_wanted (self, reader->name))
        take_reader (self, reader);
    }
  update_status (self);
}

static void
on_udev (gpointer user_data)
{
  KwScBackend *self = KW_SC_BACKEND (user_data);

  self->last_udev = g_get_monotonic_time ();
  kw_sc_monitor_wake (self->monitor);
  update_status (self);
}

/* --- status --- */

static gboolean
on_status_time (gpointer user_data)
{
  KwScBackend *self = KW_SC_BACKEND (user_data);

  clear_source (&self->status_source);
  update_status (self);
  return G_SOURCE_REMOVE;
}

static gint
compare_slots (gconstpointer a, gconstpointer b)
{
  const Slot *slot_a = *(const Slot *const *) a;
  const Slot *slot_b = *(const Slot *const *) b;

  return g_strcmp0 (slot_a->reader, slot_b->reader);
}

static GPtrArray *
sort_slots (KwScBackend *self)
{
  GPtrArray *slots = g_ptr_array_new ();
  GHashTableIter iter;
  gpointer slot = NULL;

  g_hash_table_iter_init (&iter, self->slots);
  while (g_hash_table_iter_next (&iter, NULL, &slot))
    g_ptr_array_add (slots, slot);
  g_ptr_array_sort (slots, compare_slots);
  return slots;
}

static void
add_sentence (GString *text, char *sentence)
{
  g_autofree char *owned = sentence;

  if (owned == NULL)
    return;
  g_string_append_printf (text, "%s%s", text->len > 0 ? ". " : "", owned);
}

static char *
describe_slot (Slot *slot, gint64 now)
{
  const KwScReader *reader = kw_sc_snapshot_find (slot->backend->snapshot, slot->reader);

  if (slot->probe != NULL && now - slot->probe_since >= slot->backend->timing.stuck)
    return g_strdup_printf (
        "The card in reader %s does not answer; pull it out and put it in again", slot->reader);
  if (slot->text != NULL)
    return g_strdup (slot->text);
  return reader != NULL && slot->state == SLOT_IDLE && reader->present
             ? kw_sc_status_of_reader (reader)
             : NULL;
}

static char *
describe_filter (KwScBackend *self)
{
  g_autoptr (GString) names = g_string_new (NULL);

  for (guint i = 0; i < self->snapshot->readers->len; i++)
    {
      const KwScReader *reader = g_ptr_array_index (self->snapshot->readers, i);

      g_string_append_printf (names, "%s%s", names->len > 0 ? ", " : "", reader->name);
    }
  return g_strdup_printf ("No reader has a name that [smartcard] readers allows; there are: %s",
                          names->str);
}

/* When the status has to be looked at again, although nothing happens before. */
static void
want_later (gint64 *when, gint64 time)
{
  *when = *when == 0 ? time : MIN (*when, time);
}

static void
describe_readers (KwScBackend *self, GString *text, gint64 now, gint64 *when)
{
  g_autoptr (GPtrArray) slots = sort_slots (self);
  gboolean may_come = FALSE;

  for (guint i = 0; i < slots->len; i++)
    {
      Slot *slot = g_ptr_array_index (slots, i);

      may_come |= slot->state == SLOT_TOKEN || slot->state == SLOT_PROBING;
      if (slot->probe != NULL && now - slot->probe_since < self->timing.stuck)
        want_later (when, slot->probe_since + self->timing.stuck);
      add_sentence (text, describe_slot (slot, now));
    }
  for (guint i = 0; i < slots->len && !may_come; i++)
    {
      Slot *slot = g_ptr_array_index (slots, i);
      const KwScReader *reader = kw_sc_snapshot_find (self->snapshot, slot->reader);

      if (reader != NULL && !reader->present)
        add_sentence (text, kw_sc_status_of_reader (reader));
    }
  if (slots->len == 0 && self->snapshot->readers->len > 0)
    add_sentence (text, describe_filter (self));
}

/* The sentence; %NULL = nothing to say. */
static char *
compose_status (KwScBackend *self, gint64 now, gint64 *when)
{
  g_autoptr (GString) text = g_string_new (NULL);
  g_auto (GStrv) devices = NULL;
  const char *const *names = NULL;

  if (self->snapshot == NULL)
    return NULL;
  devices = self->udev != NULL ? kw_sc_udev_list (self->udev) : g_new0 (char *, 1);
  names = (const char *const *) devices;
  add_sentence (text, kw_sc_status_of_service (self->snapshot, names));
  if (self->snapshot->service == KW_SC_SERVICE_RUNNING)
    {
      /* pcscd takes a moment to see what the kernel has seen just now. */
      if (self->last_udev != 0 && now - self->last_udev < self->timing.settle && names[0] != NULL)
        want_later (when, self->last_udev + self->timing.settle);
      else
        add_sentence (text, kw_sc_status_of_missing_reader (self->snapshot, names));
      describe_readers (self, text, now, when);
    }
  return text->len > 0 ? g_string_free (g_steal_pointer (&text), FALSE) : NULL;
}

static gboolean
has_token (KwScBackend *self)
{
  GHashTableIter iter;
  gpointer slot = NULL;

  g_hash_table_iter_init (&iter, self->slots);
  while (g_hash_table_iter_next (&iter, NULL, &slot))
    {
      if (((Slot *) slot)->token != NULL)
        return TRUE;
    }
  return FALSE;
}

static void
update_status (KwScBackend *self)
{
  gint64 now = g_get_monotonic_time ();
  gint64 when = 0;
  g_autofree char *status = NULL;

  if (self->monitor == NULL)
    return;
  /* Cards that went a moment ago are likely to come back, and callers wait as long as nothing is said. */
  if (!has_token (self) && self->last_removed != 0 && now - self->last_removed < self->timing.grace)
    want_later (&when, self->last_removed + self->timing.grace);
  else
    status = compose_status (self, now, &when);
  clear_source (&self->status_source);
  if (when != 0)
    self->status_source = add_timeout (self, MAX (when - now, 0) + 1, on_status_time, self);
  if (g_strcmp0 (status, self->status) == 0 && !self->gave_up)
    return;
  self->gave_up = FALSE;
  g_free (self->status);
  self->status = g_steal_pointer (&status);
  kw_backend_emit_status_changed (KW_BACKEND (self));
}

/* --- without being started --- */

static void
cold_reader (KwScBackend *self, const KwScReader *reader, GPtrArray *tokens, GString *text)
{
  g_autoptr (GError) error = NULL;
  KwScToken *token = NULL;

  if (!reader_is_wanted (self, reader->name))
    return;
  if (!reader->present || reader->mute)
    {
      add_sentence (text, kw_sc_status_of_reader (reader));
      return;
    }
  token = kw_sc_token_new (reader->name, reader->atr, &error);
  if (token != NULL)
    g_ptr_array_add (tokens, token);
  else if (g_error_matches (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED))
    add_sentence (text, kw_sc_status_of_foreign_card (reader));
  else
    add_sentence (text, g_strdup (error->message));
}

static GPtrArray *
kw_sc_backend_coldplug (KwBackend *backend, GError **error)
{
  KwScBackend *self = KW_SC_BACKEND (backend);
  g_autoptr (GPtrArray) tokens = g_ptr_array_new_with_free_func (g_object_unref);
  g_autoptr (GString) text = g_string_new (NULL);
  g_autoptr (KwScUdev) udev = NULL;
  g_auto (GStrv) devices = NULL;

  g_return_val_if_fail (self->config != NULL && self->monitor == NULL, NULL);

  if (self->found != NULL)
    return g_ptr_array_copy (self->found, (GCopyFunc) (void (*) (void)) g_object_ref, NULL);
  udev = kw_sc_udev_new (on_udev, self);
  devices = kw_sc_udev_list (udev);
  g_clear_pointer (&self->snapshot, kw_sc_snapshot_unref);
  self->snapshot = kw_sc_snapshot_take ();
  add_sentence (text, kw_sc_status_of_service (self->snapshot, (const char *const *) devices));
  for (guint i = 0; i < self->snapshot->readers->len; i++)
    cold_reader (self, g_ptr_array_index (self->snapshot->readers, i), tokens, text);
  if (tokens->len > 0)
    {
      self->found = g_ptr_array_ref (tokens);
      return g_ptr_array_copy (tokens, (GCopyFunc) (void (*) (void)) g_object_ref, NULL);
    }
  if (self->snapshot->service == KW_SC_SERVICE_RUNNING)
    add_sentence (text,
                  kw_sc_status_of_missing_reader (self->snapshot, (const char *const *) devices));
  if (text->len == 0)
    add_sentence (text, describe_filter (self));
  g_set_error_literal (error, KW_ERROR,
                       self->snapshot->service == KW_SC_SERVICE_RUNNING ? KW_ERROR_TOKEN_NOT_FOUND
                                                                        : KW_ERROR_MODULE_FAILED,
                       text->str);
  return NULL;
}

static void
add_field (GPtrArray *fields, const char *name, char *value)
{
  g_ptr_array_add (fields, g_strdup (name));
  g_ptr_array_add (fields, value);
}

static void
describe_token (GPtrArray *fields, const KwTokenInfo *info)
{
  add_field (fields, "Manufacturer ID", g_strdup (info->manufacturer));
  add_field (fields, "Model", g_strdup (info->model));
  add_field (fields, "Firmware version", g_strdup (info->firmware));
  add_field (fields, "Serial number", g_strdup (info->serial));
  add_field (fields, "Initialized", g_strdup ("yes"));
  add_field (fields, "Label", g_strdup (info->label));
  add_field (fields, "Options", g_strdup (info->options));
  add_field (fields, "SO-PIN tries left",
             info->so_pin_tries_left >= 0 ? g_strdup_printf ("%d", info->so_pin_tries_left)
                                          : g_strdup ("unavailable"));
  add_field (fields, "DKEK shares", g_strdup_printf ("%u", info->dkek_shares));
  add_field (fields, "DKEK shares missing", g_strdup_printf ("%u", info->dkek_shares_missing));
  add_field (fields, "DKEK check value",
             g_strdup (info->dkek_check_value != NULL ? info->dkek_check_value : "none"));
}

static GPtrArray *
kw_sc_backend_list_slots (KwBackend *backend, GError **error)
{
  KwScBackend *self = KW_SC_BACKEND (backend);
  GPtrArray *descriptions = NULL;
  g_autoptr (KwScSnapshot) snapshot = NULL;
  static const char *const no_devices[] = { NULL };

  g_return_val_if_fail (self->config != NULL && self->monitor == NULL, NULL);

  snapshot = kw_sc_snapshot_take ();
  if (snapshot->service != KW_SC_SERVICE_RUNNING)
    {
      g_autofree char *text = kw_sc_status_of_service (snapshot, no_devices);

      g_set_error_literal (error, KW_ERROR, KW_ERROR_MODULE_FAILED, text);
      return NULL;
    }
  descriptions = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_slot_info_free);
  for (guint i = 0; i < snapshot->readers->len; i++)
    {
      const KwScReader *reader = g_ptr_array_index (snapshot->readers, i);
      KwSlotInfo *description = g_new0 (KwSlotInfo, 1);
      g_autoptr (KwScToken) token = reader->present && !reader->mute
                                        ? kw_sc_token_new (reader->name, reader->atr, NULL)
                                        : NULL;

      description->slot = i;
      description->slot_fields = g_ptr_array_new_with_free_func (g_free);
      description->token_fields = g_ptr_array_new_with_free_func (g_free);
      add_field (description->slot_fields, "Description", g_strdup (reader->name));
      add_field (description->slot_fields, "Token present",
                 g_strdup (reader->present ? "yes" : "no"));
      if (token != NULL)
        describe_token (description->token_fields, kw_token_get_info (KW_TOKEN (token)));
      g_ptr_array_add (descriptions, description);
    }
  return descriptions;
}

/* --- the interface --- */

static const char *
kw_sc_backend_get_name (KwBackend *backend G_GNUC_UNUSED)
{
  return KW_BACKEND_SMARTCARD;
}

static gboolean
kw_sc_backend_configure (KwBackend *backend, KwConfig *config, GError **error G_GNUC_UNUSED)
{
  g_set_object (&KW_SC_BACKEND (backend)->config, config);
  return TRUE;
}

static void
kw_sc_backend_start (KwBackend *backend)
{
  KwScBackend *self = KW_SC_BACKEND (backend);

  g_return_if_fail (self->config != NULL);

  if (self->monitor != NULL)
    return;
  self->monitor = kw_sc_monitor_start (&self->timing.monitor, on_snapshot, self);
  self->udev = kw_sc_udev_new (on_udev, self);
}

static void
kw_sc_backend_stop (KwBackend *backend)
{
  KwScBackend *self = KW_SC_BACKEND (backend);
  KwScMonitor *monitor = g_steal_pointer (&self->monitor);

  g_clear_pointer (&self->udev, kw_sc_udev_free);
  clear_source (&self->status_source);
  g_hash_table_remove_all (self->slots);
  if (monitor == NULL)
    return;
  kw_sc_monitor_stop (monitor);
  g_clear_pointer (&self->ended_monitor, kw_sc_monitor_unref);
  self->ended_monitor = monitor;
}

static void
kw_sc_backend_reset_token (KwBackend *backend, KwToken *token)
{
  KwScBackend *self = KW_SC_BACKEND (backend);
  GHashTableIter iter;
  gpointer value = NULL;
  Slot *slot = NULL;
  gint64 delay = 0;

  g_hash_table_iter_init (&iter, self->slots);
  while (slot == NULL && g_hash_table_iter_next (&iter, NULL, &value))
    {
      if (KW_TOKEN (((Slot *) value)->token) == token)
        slot = value;
    }
  if (slot == NULL)
    return;
  if (g_get_monotonic_time () - slot->token_since >= self->timing.calm)
    slot->delay = 0;
  delay = next_delay (slot);
  clear_slot (slot);
  slot->state = SLOT_FAILED;
  if (delay == 0)
    start_probe (slot);
  else
    {
      g_autofree char *text = g_strdup_printf (
          "The card in reader %s gave errors several times; it is tried again in a moment",
          slot->reader);

      set_text (slot, text);
      slot->retry = add_timeout (self, delay, on_retry, slot);
    }
  update_status (self);
}

/* A card that was not pulled in the meantime, and is being looked at or will be. */
static gboolean
kw_sc_backend_is_token_expected (KwBackend *backend, KwToken *token)
{
  KwScBackend *self = KW_SC_BACKEND (backend);
  const Slot *slot = g_hash_table_lookup (self->slots, kw_token_get_info (token)->reader);

  return slot != NULL && (slot->state == SLOT_PROBING || slot->state == SLOT_FAILED);
}

static const char *
kw_sc_backend_get_status_text (KwBackend *backend)
{
  return KW_SC_BACKEND (backend)->status;
}

static void
kw_sc_backend_get_access (KwBackend *backend,
                          KwToken *token G_GNUC_UNUSED,
                          KwTokenAccess *out_access)
{
  KwScBackend *self = KW_SC_BACKEND (backend);

  *out_access = (KwTokenAccess){
    .pin = kw_config_get_hsm (self->config)->pin,
    .pin_name = PIN_NAME,
    .timeout_usec = (gint64) kw_config_get_smartcard (self->config)->timeout * G_USEC_PER_SEC,
  };
}

static void
kw_sc_backend_dispose (GObject *object)
{
  KwScBackend *self = KW_SC_BACKEND (object);

  kw_sc_backend_stop (KW_BACKEND (self));
  /* The process is about to end, and better without a thread in a library that ends too. */
  if (self->ended_monitor != NULL && !kw_sc_monitor_wait (self->ended_monitor, END_WAIT_USEC))
    g_debug ("A call into libpcsclite does not return");
  g_clear_pointer (&self->ended_monitor, kw_sc_monitor_unref);
  g_clear_pointer (&self->found, g_ptr_array_unref);
  g_clear_pointer (&self->snapshot, kw_sc_snapshot_unref);
  g_clear_object (&self->config);

  G_OBJECT_CLASS (kw_sc_backend_parent_class)->dispose (object);
}

static void
kw_sc_backend_finalize (GObject *object)
{
  KwScBackend *self = KW_SC_BACKEND (object);

  g_hash_table_unref (self->slots);
  g_main_context_unref (self->context);
  g_free (self->status);

  G_OBJECT_CLASS (kw_sc_backend_parent_class)->finalize (object);
}

static void
kw_sc_backend_class_init (KwScBackendClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  object_class->dispose = kw_sc_backend_dispose;
  object_class->finalize = kw_sc_backend_finalize;
}

static void
kw_sc_backend_init (KwScBackend *self)
{
  self->timing = default_timing;
  self->context = g_main_context_ref_thread_default ();
  self->slots = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, slot_free);
}

static void
kw_sc_backend_iface_init (KwBackendInterface *iface)
{
  iface->get_name = kw_sc_backend_get_name;
  iface->configure = kw_sc_backend_configure;
  iface->start = kw_sc_backend_start;
  iface->stop = kw_sc_backend_stop;
  iface->coldplug = kw_sc_backend_coldplug;
  iface->list_slots = kw_sc_backend_list_slots;
  iface->reset_token = kw_sc_backend_reset_token;
  iface->get_status_text = kw_sc_backend_get_status_text;
  iface->is_token_expected = kw_sc_backend_is_token_expected;
  iface->get_access = kw_sc_backend_get_access;
}

/**
 * kw_sc_backend_set_timing:
 * @self: a back end that was not started
 * @timing: how long to wait for what
 *
 * Changes the waits from their defaults, so that tests need not wait as long as people may. Main context.
 */
void
kw_sc_backend_set_timing (KwScBackend *self, const KwScTiming *timing)
{
  g_return_if_fail (KW_IS_SC_BACKEND (self));
  g_return_if_fail (timing != NULL && self->monitor == NULL);

  self->timing = *timing;
}
