/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/* Fails the test unless @error is exactly this one; then clears it. */
#define kw_assert_error(error, wanted_code, wanted_message)                                        \
  G_STMT_START                                                                                     \
  {                                                                                                \
    g_assert_error (error, KW_ERROR, wanted_code);                                                 \
    g_assert_cmpstr ((error)->message, ==, wanted_message);                                        \
    g_clear_error (&(error));                                                                      \
  }                                                                                                \
  G_STMT_END

/* Runs the main loop until @condition holds. */
#define kw_iterate_until(condition)                                                                \
  G_STMT_START                                                                                     \
  {                                                                                                \
    while (!(condition))                                                                           \
      g_main_context_iteration (NULL, TRUE);                                                       \
  }                                                                                                \
  G_STMT_END

char *kw_test_make_directory (void);

void kw_test_remove_directory (char *directory);

char *kw_test_write_file (const char *directory, const char *name, const char *text, int mode);

char *kw_test_read_file (const char *directory, const char *name);

void kw_test_keep_quiet (void);

G_END_DECLS
