/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-job.h"

G_BEGIN_DECLS

#define KW_TYPE_AUDIT (kw_audit_get_type ())
G_DECLARE_FINAL_TYPE (KwAudit, kw_audit, KW, AUDIT, GObject)

/**
 * KwAuditRecord:
 * @job: (nullable): the job that was asked for, when it was one
 * @verb: what was asked, when there is no @job
 * @caller: (nullable): by whom, when there is no @job
 * @key: (nullable): which key it was about, when there is no @job
 * @device: (nullable): the device that did it
 * @result: "ok" or the nick of an error
 * @duration_usec: from the moment it was asked, in microseconds
 *
 * One use of a key, or one act of an administrator.
 */
typedef struct
{
  const KwJob *job;
  KwVerb verb;
  const KwCaller *caller;
  const char *key;
  const char *device;
  const char *result;
  gint64 duration_usec;
} KwAuditRecord;

KwAudit *kw_audit_new (const char *path, const char *state_directory, GError **error);

void kw_audit_write (KwAudit *self, const KwAuditRecord *record);

gboolean kw_audit_reopen (KwAudit *self, GError **error);

G_END_DECLS
