/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-service.h"
#include "kw-vault.h"

G_BEGIN_DECLS

struct _KwService
{
  GObject parent_instance;

  KwConfig *config;         /* owned; as it was at the start */
  KwConfig *current_config; /* owned; as it was read last */
  KwAccess *access;         /* owned; guarded by access_lock */
  GMutex access_lock;
  KwHealth *health;   /* owned */
  KwMetrics *metrics; /* owned */
  KwTickets *tickets; /* owned */
  KwVault *vault;     /* owned */
  KwPool *pool;       /* owned */
  KwUseCounter *uses; /* owned */
  KwKeyring *keyring; /* owned */
  KwAudit *audit;     /* owned */
  KwPinGuard *guard;  /* owned */
  KwSelfTest *test;   /* owned, nullable: the last one */
  int watch_fd;       /* owned: the state directory; −1 = it is not watched */
  guint watch_source;
  guint reload_source;

  guint max_failures; /* a minute and caller; 0 = no limit */
  GMutex budget_lock;
  GHashTable *failures; /* owned; address or uid → FailureCount; guarded by budget_lock */
};

G_END_DECLS
