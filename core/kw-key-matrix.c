/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-key-matrix"

#include "config.h"

#include "kw-key-matrix-private.h"

#include <glib/gi18n.h>

/*
 * Devices across, keys down, and in each cell how the key is on the device. Made by the keyring, read by everybody.
 */
struct _KwKeyMatrix
{
  gatomicrefcount references;
  GPtrArray *devices; /* owned; of KwMatrixDevice */
  GPtrArray *keys;    /* owned; of Row */
};

typedef struct
{
  KwKeyFacts facts;
  KwMatrixCell *cells; /* owned; one for each device */
  guint n_cells;
} Row;

static const char *const state_nicks[] = {
  [KW_KEY_STATE_OK] = N_ ("ok"),
  [KW_KEY_STATE_MISSING] = N_ ("missing"),
  [KW_KEY_STATE_DIFFERENT] = N_ ("different"),
  [KW_KEY_STATE_WEAK] = N_ ("weak"),
  [KW_KEY_STATE_UNCHECKED] = N_ ("unchecked"),
};

G_STATIC_ASSERT (G_N_ELEMENTS (state_nicks) == KW_N_KEY_STATES);

static void
device_free (gpointer data)
{
  KwMatrixDevice *device = data;

  g_free (device->name);
  g_free (device->label);
  g_free (device);
}

static void
row_free (gpointer data)
{
  Row *row = data;

  for (guint i = 0; i < row->n_cells; i++)
    {
      g_clear_pointer (&row->cells[i].key, kw_key_unref);
      g_free (row->cells[i].advice);
    }
  g_free (row->cells);
  g_free (row->facts.id);
  g_free (row->facts.label);
  g_free (row->facts.fingerprint);
  g_free (row->facts.advice);
  g_free (row);
}

static const Row *
get_row (const KwKeyMatrix *self, guint key)
{
  return key < self->keys->len ? g_ptr_array_index (self->keys, key) : NULL;
}

static gboolean
facts_equal (const KwKeyFacts *a, const KwKeyFacts *b)
{
  return a->kind == b->kind && a->configured == b->configured && a->is_first == b->is_first
         && a->may_encrypt == b->may_encrypt && a->can_encrypt == b->can_encrypt
         && a->n_copies == b->n_copies && a->state == b->state && g_strcmp0 (a->id, b->id) == 0
         && g_strcmp0 (a->label, b->label) == 0 && g_strcmp0 (a->fingerprint, b->fingerprint) == 0
         && g_strcmp0 (a->advice, b->advice) == 0;
}

static gboolean
cells_equal (const KwMatrixCell *a, const KwMatrixCell *b)
{
  if (a->state != b->state || g_strcmp0 (a->advice, b->advice) != 0
      || (a->key == NULL) != (b->key == NULL))
    return FALSE;
  return a->key == NULL
         || (g_bytes_equal (kw_key_get_id (a->key), kw_key_get_id (b->key))
             && g_strcmp0 (kw_key_get_fingerprint (a->key), kw_key_get_fingerprint (b->key)) == 0);
}

static gboolean
devices_equal (const KwMatrixDevice *a, const KwMatrixDevice *b)
{
  return a->number == b->number && a->ready == b->ready && g_strcmp0 (a->name, b->name) == 0
         && g_strcmp0 (a->label, b->label) == 0;
}

/**
 * kw_key_state_to_string:
 * @state: a state
 *
 * Returns: (transfer none): its nick. Any thread.
 */
const char *
kw_key_state_to_string (KwKeyState state)
{
  g_return_val_if_fail ((guint) state < G_N_ELEMENTS (state_nicks), NULL);

  return state_nicks[state];
}

/**
 * kw_key_state_from_string:
 * @nick: nick of a state
 * @out_state: (out): the state
 *
 * Returns: %FALSE when @nick is unknown. Any thread.
 */
gboolean
kw_key_state_from_string (const char *nick, KwKeyState *out_state)
{
  g_return_val_if_fail (nick != NULL, FALSE);

  for (guint i = 0; i < G_N_ELEMENTS (state_nicks); i++)
    {
      if (g_str_equal (nick, state_nicks[i]))
        {
          *out_state = (KwKeyState) i;
          return TRUE;
        }
    }
  return FALSE;
}

/**
 * kw_key_matrix_new:
 *
 * Returns: (transfer full): an empty matrix. Any thread.
 */
KwKeyMatrix *
kw_key_matrix_new (void)
{
  KwKeyMatrix *self = g_new0 (KwKeyMatrix, 1);

  g_atomic_ref_count_init (&self->references);
  self->devices = g_ptr_array_new_with_free_func (device_free);
  self->keys = g_ptr_array_new_with_free_func (row_free);
  return self;
}

/**
 * kw_key_matrix_add_device:
 * @self: a matrix without keys
 * @name: what the device is called
 * @label: label of its token
 * @number: its number
 * @ready: it takes work
 *
 * Adds a column.
 */
void
kw_key_matrix_add_device (KwKeyMatrix *self,
                          const char *name,
                          const char *label,
                          guint64 number,
                          gboolean ready)
{
  KwMatrixDevice *device = NULL;

  g_return_if_fail (self != NULL && self->keys->len == 0);

  device = g_new0 (KwMatrixDevice, 1);
  device->name = g_strdup (name);
  device->label = g_strdup (label);
  device->number = number;
  device->ready = ready;
  g_ptr_array_add (self->devices, device);
}

/**
 * kw_key_matrix_add_key:
 * @self: a matrix with all its devices
 * @id: what the key is called
 * @kind: its kind
 *
 * Adds a row, unchecked on each device.
 *
 * Returns: (transfer none): what is said of the key, to be filled in
 */
KwKeyFacts *
kw_key_matrix_add_key (KwKeyMatrix *self, const char *id, KwKeyKind kind)
{
  Row *row = NULL;

  g_return_val_if_fail (self != NULL, NULL);

  row = g_new0 (Row, 1);
  row->n_cells = self->devices->len;
  row->cells = g_new0 (KwMatrixCell, MAX (row->n_cells, 1));
  for (guint i = 0; i < row->n_cells; i++)
    row->cells[i].state = KW_KEY_STATE_UNCHECKED;
  row->facts.id = g_strdup (id);
  row->facts.kind = kind;
  row->facts.label = g_strdup ("");
  row->facts.state = KW_KEY_STATE_UNCHECKED;
  g_ptr_array_add (self->keys, row);
  return &row->facts;
}

/**
 * kw_key_matrix_edit_cell:
 * @self: a matrix that is being made
 * @key: number of the row
 * @device: number of the column
 *
 * Returns: (transfer none): the cell, to be filled in
 */
KwMatrixCell *
kw_key_matrix_edit_cell (KwKeyMatrix *self, guint key, guint device)
{
  Row *row = NULL;

  g_return_val_if_fail (self != NULL && key < self->keys->len, NULL);
  row = g_ptr_array_index (self->keys, key);
  g_return_val_if_fail (device < row->n_cells, NULL);

  return &row->cells[device];
}

/**
 * kw_key_matrix_ref:
 * @self: a matrix
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwKeyMatrix *
kw_key_matrix_ref (KwKeyMatrix *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_key_matrix_unref:
 * @self: (transfer full): a matrix
 *
 * Gives a reference back. Any thread.
 */
void
kw_key_matrix_unref (KwKeyMatrix *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_ptr_array_unref (self->keys);
  g_ptr_array_unref (self->devices);
  g_free (self);
}

/**
 * kw_key_matrix_get_n_keys:
 * @self: a matrix
 *
 * Returns: how many keys it has: those of `hsm_keyid` in their order, then the RSA keys. Any thread.
 */
guint
kw_key_matrix_get_n_keys (const KwKeyMatrix *self)
{
  g_return_val_if_fail (self != NULL, 0);

  return self->keys->len;
}

/**
 * kw_key_matrix_get_n_devices:
 * @self: a matrix
 *
 * Returns: how many devices it has. Any thread.
 */
guint
kw_key_matrix_get_n_devices (const KwKeyMatrix *self)
{
  g_return_val_if_fail (self != NULL, 0);

  return self->devices->len;
}

/**
 * kw_key_matrix_get_key:
 * @self: a matrix
 * @key: number of a key, from 0
 *
 * Returns: (transfer none): what is said of it. Any thread.
 */
const KwKeyFacts *
kw_key_matrix_get_key (const KwKeyMatrix *self, guint key)
{
  const Row *row = NULL;

  g_return_val_if_fail (self != NULL, NULL);
  row = get_row (self, key);
  g_return_val_if_fail (row != NULL, NULL);

  return &row->facts;
}

/**
 * kw_key_matrix_get_device:
 * @self: a matrix
 * @device: number of a device, from 0
 *
 * Returns: (transfer none): the device. Any thread.
 */
const KwMatrixDevice *
kw_key_matrix_get_device (const KwKeyMatrix *self, guint device)
{
  g_return_val_if_fail (self != NULL && device < self->devices->len, NULL);

  return g_ptr_array_index (self->devices, device);
}

/**
 * kw_key_matrix_get_cell:
 * @self: a matrix
 * @key: number of a key, from 0
 * @device: number of a device, from 0
 *
 * Returns: (transfer none): the key on the device. Any thread.
 */
const KwMatrixCell *
kw_key_matrix_get_cell (const KwKeyMatrix *self, guint key, guint device)
{
  const Row *row = NULL;

  g_return_val_if_fail (self != NULL, NULL);
  row = get_row (self, key);
  g_return_val_if_fail (row != NULL && device < row->n_cells, NULL);

  return &row->cells[device];
}

/**
 * kw_key_matrix_find_key:
 * @self: a matrix
 * @id: what a key is called
 *
 * Returns: (transfer none) (nullable): what is said of it. Any thread.
 */
const KwKeyFacts *
kw_key_matrix_find_key (const KwKeyMatrix *self, const char *id)
{
  g_return_val_if_fail (self != NULL && id != NULL, NULL);

  for (guint i = 0; i < self->keys->len; i++)
    {
      const Row *row = get_row (self, i);

      if (g_str_equal (row->facts.id, id))
        return &row->facts;
    }
  return NULL;
}

/**
 * kw_key_matrix_get_first_key:
 * @self: a matrix
 *
 * Returns: (transfer none) (nullable): the key to encrypt with, %NULL when `hsm_keyid` is empty. Any thread.
 */
const KwKeyFacts *
kw_key_matrix_get_first_key (const KwKeyMatrix *self)
{
  const Row *row = NULL;

  g_return_val_if_fail (self != NULL, NULL);

  row = get_row (self, 0);
  return row != NULL && row->facts.is_first ? &row->facts : NULL;
}

/**
 * kw_key_matrix_is_green:
 * @self: a matrix
 *
 * Returns: %TRUE when every configured key is on every device as it should be. Any thread.
 */
gboolean
kw_key_matrix_is_green (const KwKeyMatrix *self)
{
  g_return_val_if_fail (self != NULL, FALSE);

  for (guint i = 0; i < self->keys->len; i++)
    {
      const Row *row = get_row (self, i);

      if (row->facts.configured
          && (row->facts.state != KW_KEY_STATE_OK || row->facts.advice != NULL))
        return FALSE;
    }
  return TRUE;
}

/**
 * kw_key_matrix_equal:
 * @a: a matrix
 * @b: another matrix
 *
 * Returns: %TRUE when they say the same. Any thread.
 */
gboolean
kw_key_matrix_equal (const KwKeyMatrix *a, const KwKeyMatrix *b)
{
  g_return_val_if_fail (a != NULL && b != NULL, FALSE);

  if (a->keys->len != b->keys->len || a->devices->len != b->devices->len)
    return FALSE;
  for (guint i = 0; i < a->devices->len; i++)
    {
      if (!devices_equal (g_ptr_array_index (a->devices, i), g_ptr_array_index (b->devices, i)))
        return FALSE;
    }
  for (guint i = 0; i < a->keys->len; i++)
    {
      const Row *row_a = get_row (a, i);
      const Row *row_b = get_row (b, i);

      if (!facts_equal (&row_a->facts, &row_b->facts))
        return FALSE;
      for (guint j = 0; j < row_a->n_cells; j++)
        {
          if (!cells_equal (&row_a->cells[j], &row_b->cells[j]))
            return FALSE;
        }
    }
  return TRUE;
}
