/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-softhsm.h"

G_BEGIN_DECLS

#define KW_TEST_JWT_SECRET "f00dfeedf00dfeedf00dfeedf00dfeed"
#define KW_TEST_TOKEN_LABEL "rig"

typedef struct _KwDaemonRig KwDaemonRig;

KwDaemonRig *kw_daemon_rig_new (const char *module, const char *extra_config);

void kw_daemon_rig_free (KwDaemonRig *self);

void kw_daemon_rig_set_environment (KwDaemonRig *self, const char *name, const char *value);

void kw_daemon_rig_set_wrapper (KwDaemonRig *self, const char *const *command);

void kw_daemon_rig_set_config (KwDaemonRig *self, const char *text);

void kw_daemon_rig_pass_socket (KwDaemonRig *self, int fd, int target_fd);

void kw_daemon_rig_set_extra_config (KwDaemonRig *self, const char *text);

void kw_daemon_rig_set_pkcs11_config (KwDaemonRig *self, const char *text);

void kw_daemon_rig_set_pin (KwDaemonRig *self, const char *pin);

void kw_daemon_rig_set_log_level (KwDaemonRig *self, const char *level);

void kw_daemon_rig_launch (KwDaemonRig *self);

void kw_daemon_rig_start (KwDaemonRig *self);

char *kw_daemon_rig_dup_refusal (KwDaemonRig *self);

void kw_daemon_rig_stop (KwDaemonRig *self);

void kw_daemon_rig_kill (KwDaemonRig *self);

gboolean kw_daemon_rig_wait_for_exit (KwDaemonRig *self, guint seconds);

void kw_daemon_rig_wait_for_log (KwDaemonRig *self, const char *text);

char *kw_daemon_rig_dup_log (KwDaemonRig *self);

char *kw_daemon_rig_dup_audit (KwDaemonRig *self);

int kw_daemon_rig_get_pid (KwDaemonRig *self);

guint16 kw_daemon_rig_get_port (KwDaemonRig *self);

const char *kw_daemon_rig_get_directory (KwDaemonRig *self);

const char *kw_daemon_rig_get_config_path (KwDaemonRig *self);

KwSoftHsm *kw_daemon_rig_get_soft_hsm (KwDaemonRig *self);

char *kw_daemon_rig_dup_line_token (KwDaemonRig *self);

int kw_daemon_rig_connect_http (KwDaemonRig *self);

int kw_daemon_rig_connect_line (KwDaemonRig *self);

guint16 kw_test_find_free_port (void);

int kw_test_connect_tcp (guint16 port);

int kw_test_listen_tcp (guint16 *out_port);

char *kw_test_make_jwt (const char *secret, const char *header, const char *claims);

char *kw_test_make_claims (gint64 expires_in, gint64 issued_in, const char *audience);

char *kw_daemon_rig_make_jwt (KwDaemonRig *self);

/**
 * KwTestResponse: an HTTP response
 */
typedef struct
{
  guint status;
  char *head; /* status line and headers */
  GBytes *body;
} KwTestResponse;

void kw_test_response_free (KwTestResponse *response);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwTestResponse, kw_test_response_free)

void kw_test_send (int fd, gconstpointer data, gssize size);

KwTestResponse *kw_test_receive_response (int fd);

char *kw_test_receive_line (int fd);

gboolean kw_test_receive_end (int fd);

KwTestResponse *
kw_daemon_rig_post (KwDaemonRig *self, const char *path, const char *jwt, GBytes *body);

char *kw_daemon_rig_make_key (KwDaemonRig *self, char **out_pem);

GBytes *kw_test_encrypt (const char *pem, GBytes *plaintext);

GBytes *kw_test_uuid_to_bytes (const char *uuid);

gint64 kw_daemon_rig_time_first_answer (KwDaemonRig *self,
                                        const char *uuid,
                                        const char *jwt,
                                        GBytes *ciphertext);

guint kw_test_count_descriptors (int pid);

guint64 kw_test_resident_kib (int pid);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwDaemonRig, kw_daemon_rig_free)

G_END_DECLS
