/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bench-cards"

#include "kw-bench.h"
#include "kw-card-rig.h"

#include <string.h>

/*
 * What a virtual card, pcscd and the reader between them take: if that is slow, every test on cards is.
 */

#define AES_KID 20
#define N_STATUS_RUNS 21
#define N_APDUS 1001
#define GOAL_STATUS_MSEC 100.0
#define GOAL_APDU_MSEC 1.0

static double
time_status (KwCardRig *rig)
{
  double values[N_STATUS_RUNS];

  for (guint i = 0; i < N_STATUS_RUNS; i++)
    {
      gint64 start = g_get_monotonic_time ();
      int status = kw_card_rig_run (rig, NULL, "sc-hsm-tool", NULL);

      values[i] = (double) (g_get_monotonic_time () - start) / 1000.0;
      g_assert_cmpint (status, ==, 0);
    }
  return kw_bench_median (values, N_STATUS_RUNS);
}

/* AES-CBC of @size bytes, in milliseconds. */
static double
time_apdu (KwCardSession *session, guint size)
{
  const gboolean extended = size > 255;
  const guint8 head[] = { 0x80, 0x78, AES_KID, 0x10 };
  const guint8 short_length[] = { (guint8) size };
  const guint8 long_length[] = { 0, (guint8) (size >> 8), (guint8) (size & 0xFF) };
  static const guint8 any_length[2] = { 0, 0 };
  g_autoptr (GByteArray) apdu = g_byte_array_new ();
  g_autofree double *values = g_new (double, N_APDUS);

  g_byte_array_append (apdu, head, sizeof head);
  g_byte_array_append (apdu, extended ? long_length : short_length,
                       extended ? sizeof long_length : sizeof short_length);
  g_byte_array_set_size (apdu, apdu->len + size);
  memset (apdu->data + apdu->len - size, 0x5A, size);
  g_byte_array_append (apdu, any_length, extended ? 2 : 1);
  for (guint i = 0; i < N_APDUS; i++)
    {
      gint64 start = g_get_monotonic_time ();
      g_autoptr (GBytes) answer = kw_card_session_transmit (session, apdu->data, apdu->len, NULL);

      values[i] = (double) (g_get_monotonic_time () - start) / 1000.0;
      g_assert_cmpuint (g_bytes_get_size (answer), ==, size + 2);
    }
  return kw_bench_median (values, N_APDUS);
}

static void
print (const char *title, double value, double goal)
{
  g_print ("%-30s %6.2f ms      goal %g%s\n", title, value, goal,
           value <= goal ? " ok" : " MISSED");
}

/**
 * kw_bench_cards:
 *
 * Measures a virtual card behind a pcscd of its own and prints the figures.
 *
 * Returns: %FALSE when there can be no such card here; the reason is on stderr
 */
gboolean
kw_bench_cards (void)
{
  static const guint sizes[] = { 16, 1024 };
  g_autoptr (KwCardRig) rig = NULL;
  g_autoptr (KwCardSession) session = NULL;
  g_autofree char *reason = NULL;
  g_autofree char *verified = NULL;

  if (kw_card_rig_is_impossible (&reason))
    {
      g_printerr ("keyward-bench: no cards: %s\n", reason);
      return FALSE;
    }
  rig = kw_card_rig_new (1, NULL);
  kw_card_rig_initialise (rig, 0, NULL, NULL, -1, "bench", NULL);
  kw_card_rig_generate_aes (rig, 0, AES_KID, 256, NULL, "bench", NULL);
  print ("card: one sc-hsm-tool", time_status (rig), GOAL_STATUS_MSEC);
  session = kw_card_session_new (rig, 0, NULL);
  verified = kw_card_session_transmit_hex (session, "0020008106363438323139", NULL);
  g_assert_cmpstr (verified, ==, "9000");
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autofree char *title = g_strdup_printf ("card: AES-CBC of %u bytes", sizes[i]);

      print (title, time_apdu (session, sizes[i]), GOAL_APDU_MSEC);
    }
  return TRUE;
}
