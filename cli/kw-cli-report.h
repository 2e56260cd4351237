/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct _KwCliReport KwCliReport;

KwCliReport *kw_cli_report_new (void);

void kw_cli_report_free (KwCliReport *self);

void kw_cli_report_ok (KwCliReport *self, const char *name, const char *format, ...)
    G_GNUC_PRINTF (3, 4);

void kw_cli_report_note (KwCliReport *self, const char *name, const char *format, ...)
    G_GNUC_PRINTF (3, 4);

void kw_cli_report_problem (KwCliReport *self,
                            const char *name,
                            const char *advice,
                            const char *format,
                            ...) G_GNUC_PRINTF (4, 5);

guint kw_cli_report_count_problems (const KwCliReport *self);

gboolean kw_cli_report_print (const KwCliReport *self, gboolean json, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwCliReport, kw_cli_report_free)

G_END_DECLS
