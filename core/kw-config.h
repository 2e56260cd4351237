/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib-object.h>

#include "kw-grant.h"
#include "kw-key-selector.h"
#include "kw-secret.h"

G_BEGIN_DECLS

/**
 * KwLogEncoding:
 * @KW_LOG_ENCODING_JSON: one JSON object a line
 * @KW_LOG_ENCODING_CONSOLE: tab-separated text for people
 */
typedef enum
{
  KW_LOG_ENCODING_JSON,
  KW_LOG_ENCODING_CONSOLE,
} KwLogEncoding;

/**
 * KwLogConfig: table `[logger]`
 */
typedef struct
{
  GLogLevelFlags level; /* least serious level that is logged */
  char *path;           /* "stderr", "stdout" or a file's path */
  KwLogEncoding encoding;
} KwLogConfig;

/**
 * KwServerConfig: table `[server]`; times in seconds
 */
typedef struct
{
  char *hostname;
  guint16 port;
  char *socket;          /* NULL = none */
  char *tls_certificate; /* NULL = plain HTTP */
  char *tls_key;
  guint max_connections;
  guint header_timeout;
  guint body_timeout;
  guint idle_timeout;
  guint failed_decrypts; /* a minute and caller; 0 = no limit */
} KwServerConfig;

/**
 * KwJwtConfig: table `[jwt]`
 */
typedef struct
{
  KwSecret *secret; /* NULL = none configured */
  guint leeway;     /* seconds */
} KwJwtConfig;

/**
 * KwPkcs11Config: table `[pkcs11]`, or one of the tables `[[pkcs11]]`
 */
typedef struct
{
  char *module;     /* NULL = none configured */
  KwSecret *pin;    /* NULL = none needed; that of [hsm] where this table has none */
  char *pin_source; /* "file:…" or "credential:…", read by kw_config_load_pin(); else NULL */
  const char *pin_name; /* the setting the PIN stands in, for messages */
  gboolean has_slot;
  guint64 slot;
  char *token_label;
  char *token_serial;
  char *uri;
  guint sessions;
  gboolean extractable;
  guint timeout; /* seconds for one operation */
} KwPkcs11Config;

/**
 * KwHsmModel:
 * @KW_HSM_MODEL_PKCS11: the tokens of `[pkcs11]`
 * @KW_HSM_MODEL_SOFTHSM: the same, with SoftHSM2's module unless another is named
 * @KW_HSM_MODEL_SMARTCARD: all SmartCard-HSMs that are plugged in
 *
 * Where keys are kept; decides which back end is used.
 */
typedef enum
{
  KW_HSM_MODEL_PKCS11,
  KW_HSM_MODEL_SOFTHSM,
  KW_HSM_MODEL_SMARTCARD,
} KwHsmModel;

#define KW_N_HSM_MODELS (KW_HSM_MODEL_SMARTCARD + 1)

const char *kw_hsm_model_to_string (KwHsmModel model);

gboolean kw_hsm_model_from_string (const char *nick, KwHsmModel *out_model);

/**
 * KwHsmConfig: table `[hsm]`
 */
typedef struct
{
  gboolean
      encrypt_hsm; /* whether data may be encrypted; what was encrypted can be decrypted either way */
  KwHsmModel model;
  GPtrArray *key_ids;   /* of KwKeySelector: the first encrypts, all decrypt; perhaps empty */
  KwSecret *pin;        /* NULL = none */
  gsize max_plaintext;  /* bytes of one message */
  guint data_key_ttl;   /* seconds for which a data key is used again; 0 = one for each message */
  guint min_copies;     /* a key encrypts only while so many ready devices have it */
  guint check_interval; /* seconds; 0 = keys are checked when a device becomes ready only */
  gboolean replicate;   /* new keys are cloned to all devices */
  char *webadm_conf;    /* NULL = none */
} KwHsmConfig;

/**
 * KwSmartcardConfig: table `[smartcard]`
 */
typedef struct
{
  guint timeout; /* seconds for one operation */
  GStrv readers; /* globs; NULL = all readers */
} KwSmartcardConfig;

/**
 * KwLineConfig: table `[line]`
 */
typedef struct
{
  gboolean enabled; /* the table is there */
  char *socket;     /* NULL = no UNIX socket */
  char *hostname;
  guint16 port;       /* 0 = no TCP */
  GBytes *key;        /* CKA_ID; NULL = the only RSA key there is */
  GArray *allow_uids; /* of guint32; NULL = everybody who can open the socket */
  char *token_url;
  char *token_file;
  guint max_connections;
} KwLineConfig;

/**
 * KwAccessRule: one of the tables `[[access]]`
 */
typedef struct
{
  gboolean is_user; /* else it is for a group */
  guint32 id;       /* of the user or group */
  guint classes;    /* bit mask of 1u << KwVerbClass */
  GStrv keys;       /* NULL = all */
  guint line;       /* where it stands */
  gboolean has_who;
} KwAccessRule;

/**
 * KwWebuiConfig: table `[webui]`
 */
typedef struct
{
  gboolean public_status; /* anybody may look */
  GStrv hosts;            /* names of the server beside its own; NULL = none */
} KwWebuiConfig;

/**
 * KwApiClientConfig: one of the tables `[[api.client]]`
 */
typedef struct
{
  char *name;
  KwSecret *secret; /* that its tokens are signed with */
  char *secret_source; /* "file:…" or "credential:…", read by kw_config_load_secrets(); else NULL */
  guint classes;       /* bit mask of 1u << KwVerbClass */
  gboolean has_verbs;
  GStrv keys;     /* NULL = all */
  guint line;     /* where it stands */
  KwGrant *grant; /* classes and keys together */
} KwApiClientConfig;

#define KW_TYPE_CONFIG (kw_config_get_type ())
G_DECLARE_FINAL_TYPE (KwConfig, kw_config, KW, CONFIG, GObject)

KwConfig *kw_config_new_defaults (void);

KwConfig *kw_config_new_from_file (const char *path, GError **error);

KwConfig *kw_config_new_from_data (const char *path, const char *data, gsize size, GError **error);

const char *kw_config_find_file (void);

const char *kw_config_get_path (KwConfig *self);

gboolean kw_config_load_pin (KwConfig *self, GError **error);

gboolean kw_config_load_secrets (KwConfig *self, GError **error);

GStrv kw_config_dup_secret_files (KwConfig *self);

gboolean kw_config_check_server (KwConfig *self, GError **error);

gboolean kw_config_cap_connections (KwConfig *self, guint n_connections);

void kw_config_set_module (KwConfig *self, const char *module);

const KwLogConfig *kw_config_get_log (KwConfig *self);

const char *kw_config_get_audit_path (KwConfig *self);

const KwServerConfig *kw_config_get_server (KwConfig *self);

const KwJwtConfig *kw_config_get_jwt (KwConfig *self);

const KwPkcs11Config *kw_config_get_pkcs11 (KwConfig *self);

guint kw_config_get_n_pkcs11 (KwConfig *self);

const KwPkcs11Config *kw_config_get_pkcs11_table (KwConfig *self, guint index);

const KwHsmConfig *kw_config_get_hsm (KwConfig *self);

const KwSmartcardConfig *kw_config_get_smartcard (KwConfig *self);

gboolean kw_config_wants_backend (KwConfig *self, const char *name);

const KwLineConfig *kw_config_get_line (KwConfig *self);

GPtrArray *kw_config_get_access (KwConfig *self);

const KwWebuiConfig *kw_config_get_webui (KwConfig *self);

GPtrArray *kw_config_get_api_clients (KwConfig *self);

char *kw_config_dup_url (KwConfig *self);

GStrv kw_config_dup_differences (KwConfig *self, KwConfig *other);

const char *kw_config_get_state_directory (KwConfig *self);

gboolean kw_config_check_file_mode (const char *path, GError **error);

G_END_DECLS
