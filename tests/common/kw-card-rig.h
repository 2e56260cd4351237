/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

#define KW_CARD_RIG_MAX_CARDS 8
#define KW_CARD_RIG_PIN "648219"
#define KW_CARD_RIG_SO_PIN "3537363231383830"

typedef struct _KwCardRig KwCardRig;
typedef struct _KwCardSession KwCardSession;

gboolean kw_card_rig_is_impossible (char **out_reason);

gboolean kw_card_rig_is_missing (void);

KwCardRig *kw_card_rig_new (guint n_cards, GError **error);

KwCardRig *kw_card_rig_new_full (guint n_cards,
                                 const char *const *card_options,
                                 const char *state_directory,
                                 GError **error);

void kw_card_rig_free (KwCardRig *self);

/* What there is. */

guint kw_card_rig_get_n_cards (KwCardRig *self);

const char *kw_card_rig_get_directory (KwCardRig *self);

const char *kw_card_rig_get_socket_name (KwCardRig *self);

const char *kw_card_rig_get_opensc_conf (KwCardRig *self);

const char *kw_card_rig_get_reader (KwCardRig *self, guint card);

const char *kw_card_rig_get_serial (KwCardRig *self, guint card);

const char *kw_card_rig_get_trace_path (KwCardRig *self, guint card);

const char *kw_card_rig_get_state_path (KwCardRig *self, guint card);

const char *kw_card_rig_get_control_path (KwCardRig *self, guint card);

char *kw_card_rig_dup_log (KwCardRig *self);

int kw_card_rig_get_holder_pid (KwCardRig *self);

/* What happens to cards and to pcscd. */

char *kw_card_rig_control (KwCardRig *self, guint card, const char *line, GError **error);

gboolean kw_card_rig_eject (KwCardRig *self, guint card, GError **error);

gboolean kw_card_rig_insert (KwCardRig *self, guint card, GError **error);

gboolean kw_card_rig_freeze (KwCardRig *self, guint card, GError **error);

gboolean kw_card_rig_thaw (KwCardRig *self, guint card, GError **error);

void kw_card_rig_set_card_options (KwCardRig *self, guint card, const char *const *options);

gboolean kw_card_rig_start_card (KwCardRig *self, guint card, GError **error);

gboolean kw_card_rig_stop_card (KwCardRig *self, guint card, GError **error);

gboolean kw_card_rig_kill_card (KwCardRig *self, guint card, GError **error);

gboolean kw_card_rig_restart_card (KwCardRig *self, guint card, GError **error);

gboolean kw_card_rig_start_pcscd (KwCardRig *self, GError **error);

gboolean kw_card_rig_stop_pcscd (KwCardRig *self, GError **error);

gboolean kw_card_rig_kill_pcscd (KwCardRig *self, GError **error);

gboolean kw_card_rig_restart_pcscd (KwCardRig *self, GError **error);

gboolean kw_card_rig_wait_for_card (KwCardRig *self,
                                    guint card,
                                    gboolean present,
                                    guint milliseconds,
                                    GError **error);

/* Programs that speak to the cards. */

void kw_card_rig_set_environment (KwCardRig *self, const char *name, const char *value);

char **kw_card_rig_dup_environment (KwCardRig *self);

void kw_card_rig_set_time_limit (KwCardRig *self, guint seconds);

int kw_card_rig_run (KwCardRig *self, char **out_output, const char *program, ...)
    G_GNUC_NULL_TERMINATED;

int kw_card_rig_runv (KwCardRig *self, char **out_output, const char *const *argv);

/* APDUs, by a libpcsclite of the rig's own. */

KwCardSession *kw_card_session_new (KwCardRig *rig, guint card, GError **error);

void kw_card_session_free (KwCardSession *self);

GBytes *
kw_card_session_transmit (KwCardSession *self, gconstpointer apdu, gsize n_apdu, GError **error);

char *kw_card_session_transmit_hex (KwCardSession *self, const char *apdu, GError **error);

char *kw_card_rig_transmit (KwCardRig *self, guint card, const char *apdu, GError **error);

/* Setting cards up. */

gboolean kw_card_rig_initialise (KwCardRig *self,
                                 guint card,
                                 const char *so_pin,
                                 const char *pin,
                                 int n_shares,
                                 const char *label,
                                 GError **error);

char *kw_card_rig_import_shares (KwCardRig *self, guint card, guint n_shares, GError **error);

gboolean kw_card_rig_create_share_file (KwCardRig *self,
                                        guint card,
                                        const char *path,
                                        const char *password,
                                        GError **error);

char *kw_card_rig_import_share_file (KwCardRig *self,
                                     guint card,
                                     const char *path,
                                     const char *password,
                                     GError **error);

guint8 kw_card_rig_generate_rsa (KwCardRig *self,
                                 guint card,
                                 guint bits,
                                 const char *id,
                                 const char *label,
                                 GError **error);

guint8 kw_card_rig_generate_ec (KwCardRig *self,
                                guint card,
                                const char *curve,
                                const char *id,
                                const char *label,
                                GError **error);

gboolean kw_card_rig_generate_aes (KwCardRig *self,
                                   guint card,
                                   guint8 kid,
                                   guint bits,
                                   const char *algorithms,
                                   const char *label,
                                   GError **error);

gboolean kw_card_rig_clone (KwCardRig *self, guint from, guint to, guint8 kid, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwCardRig, kw_card_rig_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwCardSession, kw_card_session_free)

G_END_DECLS
