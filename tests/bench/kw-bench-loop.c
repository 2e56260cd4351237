/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bench-loop"

#include "kw-bench.h"

#include <gmodule.h>
#include <p11-kit/pkcs11.h>
#include <string.h>

/*
 * The yardstick: C_DecryptInit and C_Decrypt in this process, on the token that the daemon uses, sessions and handles
 * ready beforehand.
 */

#define MAX_SLOTS 16
#define MAX_PLAINTEXT 512

typedef struct
{
  const KwBenchSetup *setup;
  CK_FUNCTION_LIST *functions;
  CK_SESSION_HANDLE session;
  CK_OBJECT_HANDLE key;
  gint64 end;
  GArray *samples; /* of guint32: microseconds */
} LoopThread;

static struct
{
  GModule *module;
  CK_FUNCTION_LIST *functions;
  CK_SLOT_ID slot;
  CK_SESSION_HANDLE login;
} loop;

static void
check (CK_RV rv, const char *what)
{
  if (rv != CKR_OK)
    g_error ("%s: 0x%lx", what, rv);
}

static CK_SESSION_HANDLE
open_session (void)
{
  CK_SESSION_HANDLE session = 0;

  check (loop.functions->C_OpenSession (loop.slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL,
                                        &session),
         "C_OpenSession");
  return session;
}

static CK_OBJECT_HANDLE
find_key (const KwBenchSetup *setup, CK_SESSION_HANDLE session)
{
  CK_OBJECT_CLASS private_key = CKO_PRIVATE_KEY;
  CK_ATTRIBUTE template[] = {
    { CKA_CLASS, &private_key, sizeof private_key },
    { CKA_ID, (void *) g_bytes_get_data (setup->key_id, NULL), g_bytes_get_size (setup->key_id) },
  };
  CK_OBJECT_HANDLE key = 0;
  CK_ULONG n = 0;

  check (loop.functions->C_FindObjectsInit (session, template, G_N_ELEMENTS (template)),
         "C_FindObjectsInit");
  check (loop.functions->C_FindObjects (session, &key, 1, &n), "C_FindObjects");
  check (loop.functions->C_FindObjectsFinal (session), "C_FindObjectsFinal");
  g_assert_cmpuint (n, ==, 1);
  return key;
}

static gpointer
loop_thread (gpointer user_data)
{
  LoopThread *self = user_data;
  CK_MECHANISM mechanism = { CKM_RSA_PKCS, NULL, 0 };
  gsize n_ciphertext = 0;
  const guint8 *ciphertext = g_bytes_get_data (self->setup->ciphertext, &n_ciphertext);
  gint64 before = g_get_monotonic_time ();

  while (before < self->end)
    {
      guint8 plaintext[MAX_PLAINTEXT];
      CK_ULONG n_plaintext = sizeof plaintext;
      gint64 after = 0;
      guint32 sample = 0;

      check (self->functions->C_DecryptInit (self->session, &mechanism, self->key),
             "C_DecryptInit");
      check (self->functions->C_Decrypt (self->session, (guint8 *) ciphertext, n_ciphertext,
                                         plaintext, &n_plaintext),
             "C_Decrypt");
      g_assert_cmpmem (plaintext, n_plaintext, g_bytes_get_data (self->setup->plaintext, NULL),
                       g_bytes_get_size (self->setup->plaintext));
      after = g_get_monotonic_time ();
      sample = (guint32) (after - before);
      g_array_append_val (self->samples, sample);
      before = after;
    }
  return NULL;
}

static int
compare_samples (gconstpointer a, gconstpointer b)
{
  guint32 x = *(const guint32 *) a;
  guint32 y = *(const guint32 *) b;

  return x < y ? -1 : x > y;
}

/**
 * kw_bench_figures_from_samples:
 * @samples: (element-type guint32): durations in microseconds; sorted here
 * @seconds: how long it took altogether
 * @out_figures: (out): the figures
 *
 * Makes figures of durations.
 */
void
kw_bench_figures_from_samples (GArray *samples, double seconds, KwBenchFigures *out_figures)
{
  g_assert_cmpuint (samples->len, >, 0);
  g_array_sort (samples, compare_samples);
  out_figures->per_second = samples->len / seconds;
  out_figures->p50_usec = g_array_index (samples, guint32, samples->len / 2);
  out_figures->p99_usec = g_array_index (samples, guint32, samples->len - 1 - samples->len / 100);
}

/**
 * kw_bench_loop_open:
 * @setup: what to measure
 *
 * Loads the module and logs in.
 */
void
kw_bench_loop_open (const KwBenchSetup *setup)
{
  CK_C_GetFunctionList get_functions = NULL;
  CK_C_INITIALIZE_ARGS args = { .flags = CKF_OS_LOCKING_OK };
  CK_SLOT_ID slots[MAX_SLOTS];
  CK_ULONG n_slots = MAX_SLOTS;
  gboolean found = FALSE;

  loop.module = g_module_open (setup->module, G_MODULE_BIND_LOCAL);
  g_assert_nonnull (loop.module);
  g_assert_true (g_module_symbol (loop.module, "C_GetFunctionList", (gpointer *) &get_functions));
  check (get_functions (&loop.functions), "C_GetFunctionList");
  check (loop.functions->C_Initialize (&args), "C_Initialize");
  check (loop.functions->C_GetSlotList (CK_TRUE, slots, &n_slots), "C_GetSlotList");
  for (CK_ULONG i = 0; i < n_slots && !found; i++)
    {
      CK_TOKEN_INFO info;

      check (loop.functions->C_GetTokenInfo (slots[i], &info), "C_GetTokenInfo");
      found = memcmp (info.label, KW_TEST_TOKEN_LABEL " ", strlen (KW_TEST_TOKEN_LABEL) + 1) == 0;
      loop.slot = slots[i];
    }
  g_assert_true (found);
  loop.login = open_session ();
  check (loop.functions->C_Login (loop.login, CKU_USER, (guint8 *) setup->pin, strlen (setup->pin)),
         "C_Login");
}

/**
 * kw_bench_loop_run:
 * @setup: what to measure
 * @n_threads: threads, each with a session
 * @out_figures: (out): the figures
 *
 * Decrypts for a while.
 */
void
kw_bench_loop_run (const KwBenchSetup *setup, guint n_threads, KwBenchFigures *out_figures)
{
  g_autofree LoopThread *threads = g_new0 (LoopThread, n_threads);
  g_autofree GThread **handles = g_new0 (GThread *, n_threads);
  g_autoptr (GArray) samples = g_array_new (FALSE, FALSE, sizeof (guint32));
  gint64 start = 0;

  for (guint i = 0; i < n_threads; i++)
    {
      threads[i].setup = setup;
      threads[i].functions = loop.functions;
      threads[i].session = open_session ();
      threads[i].key = find_key (setup, threads[i].session);
      threads[i].samples = g_array_sized_new (FALSE, FALSE, sizeof (guint32), 16384);
    }
  start = g_get_monotonic_time ();
  for (guint i = 0; i < n_threads; i++)
    {
      threads[i].end = start + (gint64) (setup->seconds * G_USEC_PER_SEC);
      handles[i] = g_thread_new ("loop", loop_thread, &threads[i]);
    }
  for (guint i = 0; i < n_threads; i++)
    g_thread_join (handles[i]);
  for (guint i = 0; i < n_threads; i++)
    {
      g_array_append_vals (samples, threads[i].samples->data, threads[i].samples->len);
      g_array_unref (threads[i].samples);
      check (loop.functions->C_CloseSession (threads[i].session), "C_CloseSession");
    }
  kw_bench_figures_from_samples (samples,
                                 (double) (g_get_monotonic_time () - start) / G_USEC_PER_SEC,
                                 out_figures);
}

/**
 * kw_bench_loop_close:
 *
 * Logs out.
 */
void
kw_bench_loop_close (void)
{
  check (loop.functions->C_Finalize (NULL), "C_Finalize");
}
