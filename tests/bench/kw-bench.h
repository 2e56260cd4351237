/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

#include "kw-daemon-rig.h"

G_BEGIN_DECLS

/**
 * KwBenchMode: how clients speak to the daemon
 */
typedef enum
{
  KW_BENCH_LOOP, /* no daemon: the bare PKCS#11 loop in this process */
  KW_BENCH_LINE_KEPT,
  KW_BENCH_LINE_CLOSED,
  KW_BENCH_HTTP_KEPT,
  KW_BENCH_HTTP_CLOSED,
  KW_BENCH_N_MODES,
} KwBenchMode;

/**
 * KwBenchFigures: what one run measured
 */
typedef struct
{
  double per_second;
  double p50_usec;
  double p99_usec;
} KwBenchFigures;

/**
 * KwBenchSetup: what all runs have in common
 */
typedef struct
{
  KwDaemonRig *rig;
  const char *module;
  const char *pin;
  GBytes *key_id;
  GBytes *ciphertext;
  GBytes *plaintext;
  char *key_uuid;
  char *jwt;
  char *line_token;
  double seconds;
} KwBenchSetup;

void kw_bench_loop_open (const KwBenchSetup *setup);

void kw_bench_loop_run (const KwBenchSetup *setup, guint n_threads, KwBenchFigures *out_figures);

void kw_bench_loop_close (void);

void kw_bench_clients_run (const KwBenchSetup *setup,
                           KwBenchMode mode,
                           guint n_clients,
                           KwBenchFigures *out_figures);

void kw_bench_figures_from_samples (GArray *samples, double seconds, KwBenchFigures *out_figures);

double kw_bench_median (double *values, guint n);

gboolean kw_bench_cards (void);

gboolean kw_bench_pool (void);

void kw_bench_bus (guint rounds, double seconds);

void kw_bench_bus_serve (const char *address);

void kw_bench_api (guint rounds, double seconds);

int kw_bench_soup_server (guint16 port);

G_END_DECLS
