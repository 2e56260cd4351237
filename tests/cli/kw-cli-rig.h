/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>
#include <json-glib/json-glib.h>

#include "kw-shim-control.h"
#include "kw-softhsm.h"

G_BEGIN_DECLS

#define KW_CLI_UNKNOWN_ID "6b5cc71e-e583-11f1-bdf4-7b469cea3bff"

/**
 * KwCliRig:
 * @hsm: SoftHSM2 tokens
 * @shim: control of the shim, which is used as the module when a test asks for it
 * @directory: for anything; removed at the end
 * @config: path of the configuration
 * @state: the state directory
 * @port: a port that was free
 *
 * One token called "one" and a configuration for it.
 */
typedef struct
{
  KwSoftHsm *hsm;
  KwShim *shim;
  char *directory;
  char *config;
  char *state;
  guint16 port;
} KwCliRig;

/**
 * KwCliRun:
 * @status: exit status; −1 when a signal ended it
 * @out: what it wrote to standard output
 * @err: and to standard error
 *
 * A program that has ended.
 */
typedef struct
{
  int status;
  char *out;
  char *err;
} KwCliRun;

KwCliRig *kw_cli_rig_new (void);

void kw_cli_rig_free (KwCliRig *self);

char *kw_cli_rig_dup_path (KwCliRig *self, const char *name);

void kw_cli_rig_write (const char *path, const char *text, int mode);

char *kw_cli_rig_read (const char *path);

void
kw_cli_rig_configure (KwCliRig *self, const char *module, const char *pkcs11, const char *rest);

KwCliRun *kw_cli_rig_run (KwCliRig *self, ...) G_GNUC_NULL_TERMINATED;

KwCliRun *kw_cli_rig_run_with_input (KwCliRig *self, const char *input, ...) G_GNUC_NULL_TERMINATED;

GSubprocessLauncher *kw_cli_rig_new_launcher (GSubprocessFlags flags);

KwCliRun *
kw_cli_rig_run_by (GSubprocessLauncher *launcher, const char *input, ...) G_GNUC_NULL_TERMINATED;

const char *kw_cli_rig_get_program (const char *name);

void kw_cli_run_free (KwCliRun *self);

void kw_cli_run_assert_ok (const KwCliRun *self);

void kw_cli_run_assert_silent_ok (const KwCliRun *self);

void kw_cli_run_assert_failed (const KwCliRun *self, int status, const char *message);

JsonNode *kw_cli_run_parse (const KwCliRun *self);

char *kw_cli_rig_generate (KwCliRig *self);

gboolean kw_cli_rig_tree_contains (const char *path, const char *text);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwCliRig, kw_cli_rig_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwCliRun, kw_cli_run_free)

G_END_DECLS
