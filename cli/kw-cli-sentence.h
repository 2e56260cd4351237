/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * KwCliSentences:
 *
 * The sentences of one language, to be found by what they are made from.
 */
typedef struct _KwCliSentences KwCliSentences;

KwCliSentences *kw_cli_sentences_new_from_file (const char *path);

void kw_cli_sentences_free (KwCliSentences *self);

char *kw_cli_sentences_translate (KwCliSentences *self, const char *sentence);

char *kw_cli_translate (const char *sentence);

char *kw_cli_translate_output (const char *sentence);

gboolean kw_cli_output_sentence (const char *sentence, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwCliSentences, kw_cli_sentences_free)

G_END_DECLS
