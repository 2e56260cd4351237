/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Every limit on what comes from outside, with its unit. */

#define KW_MAX_CONFIG_BYTES (256 * 1024)
#define KW_MAX_CONFIG_KEYS 1024
#define KW_MAX_CONFIG_DOTS 64 /* in one line: how deep a dotted key nests */
#define KW_MAX_SECRET_BYTES 4096
#define KW_MIN_JWT_SECRET_BYTES 16
#define KW_MAX_PIN_BYTES 255
#define KW_MAX_STATE_FILE_BYTES (4 * 1024 * 1024)

#define KW_MAX_PKCS11_TABLES 32
#define KW_MAX_ACCESS_TABLES 64
#define KW_MAX_CONFIGURED_KEYS 16 /* in hsm_keyid */
#define KW_MAX_FORMER_KEYS 8      /* of each of them: those that were accepted before */
#define KW_MAX_SEARCHED_KEYS 64 /* AES keys of a device among which a recorded one is looked for */
#define KW_MAX_HELD_KEYS 256    /* keys that are being made, or that nobody may use */
#define KW_MAX_COPIES 32
#define KW_MAX_PLAINTEXT_BYTES (64 * 1024 * 1024) /* what max_plaintext may be set to */
#define KW_MAX_ASSOCIATED_BYTES 65536             /* associated data of one message */
#define KW_MAX_BYTES_UNDER_WAY                                                                     \
  (256 * 1024 * 1024) /* of all messages that are processed at a time */
#define KW_MAX_DATA_KEY_TTL_SECONDS 60
#define KW_MAX_DATA_KEY_BYTES (G_GUINT64_CONSTANT (1) << 32)    /* encrypted with one data key */
#define KW_MAX_DATA_KEY_MESSAGES (G_GUINT64_CONSTANT (1) << 24) /* likewise; nonces are random */
#define KW_MAX_CACHED_DATA_KEYS 64                              /* that were unwrapped */

#define KW_MAX_USE_KEYS 1024 /* keys whose uses are counted */
#define KW_MAX_USE_DAYS 92   /* days that are kept apart for each of them */

#define KW_MAX_KEY_ID_BYTES 64
#define KW_MAX_KEY_LABEL_BYTES 128
#define KW_MAX_KEYS_PER_TOKEN 65536
#define KW_MIN_RSA_BITS 1024
#define KW_MAX_RSA_BITS 4096
#define KW_MAX_RSA_BYTES (KW_MAX_RSA_BITS / 8)
#define KW_MAX_RANDOM_BYTES 65536
#define KW_MAX_WRAPPED_KEY_BYTES 8192
#define KW_MAX_SESSIONS 64
#define KW_MAX_SLOTS 256

#define KW_MAX_QUEUED_JOBS 1024    /* of one device */
#define KW_MAX_PARKED_JOBS 1024    /* waiting for a device to come back */
#define KW_MAX_ATTEMPTS_PER_JOB 6  /* devices (or lives of one) a job is tried on */
#define KW_MAX_KNOWN_DEVICES 256   /* whose figures are kept when they are unplugged */
#define KW_MAX_BUDGET_CALLERS 4096 /* callers whose failed decrypts are counted at a time */

#define KW_MAX_HTTP_BODY_BYTES KW_MAX_BYTES_UNDER_WAY /* of all large requests at a time */
#define KW_MAX_LOCKED_BODY_BYTES 4096    /* a body up to this size lies in memory that is locked */
#define KW_MAX_STREAM_BYTES (256 * 1024) /* that wait for a slow reader of a stream */
#define KW_MAX_EVENT_LISTENERS 1000
#define KW_MAX_JSON_DEPTH 16
#define KW_MAX_JSON_NAME_BYTES 64 /* of a name or number that is looked at or shown */
#define KW_MAX_BATCH 100          /* messages in one request */
#define KW_MAX_API_CLIENTS 32
#define KW_MAX_VERIFIED_TOKENS 1024 /* JSON Web Tokens that need not be verified again */
#define KW_MAX_WEB_SESSIONS 64
#define KW_MAX_WEB_LOGINS 16        /* links that were not used yet */
#define KW_MAX_REFUSED_CALLERS 4096 /* addresses whose failures are counted */

#define KW_MAX_BUS_CALLS 8192         /* on D-Bus at a time */
#define KW_MAX_BUS_CALLS_PER_PEER 512 /* of one caller */
#define KW_MAX_BUS_FILES 16           /* files that are encrypted or decrypted at a time */
#define KW_MAX_BUS_FILES_PER_PEER 4   /* for one caller */
#define KW_MAX_BUS_OPTIONS 16         /* of one call */
#define KW_MAX_PEER_GROUPS 1024       /* groups of a caller that are looked at */

#define KW_MAX_CATALOGUE_BYTES (4 * 1024 * 1024) /* translations in one language */
#define KW_MAX_CATALOGUE_TEXTS 16384
#define KW_MAX_SENTENCE_BYTES 4096 /* that is looked for by its pattern */
#define KW_MAX_SENTENCE_DEPTH 8    /* sentences within a sentence */

#define KW_GENERATE_TIMEOUT_FACTOR                                                                 \
  12 /* making a key may take this many times as long as using one */
