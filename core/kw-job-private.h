/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-fingerprint.h"
#include "kw-job.h"
#include "kw-limits.h"

G_BEGIN_DECLS

#define KW_AES_BLOCK_BYTES 16

/*
 * The one thing that a device does for a message: a data key is made by the first key, or unwrapped by the one whose
 * fingerprint begins with the prefix. Filled in by the vault, carried out by the pool.
 */
typedef struct
{
  gboolean wrap; /* a new one, under the first key or the one that was asked for */
  guint8 iv[KW_AES_BLOCK_BYTES];
  guint8 prefix[KW_FINGERPRINT_PREFIX_BYTES]; /* unwrap: which key */
  KwSecret *input;                            /* owned */
  KwSecret *output;                           /* owned, nullable */
} KwKeyStep;

/*
 * A job on its way down (door → service → pool → device) and back. It belongs to one of them at a time, so nothing here
 * needs a lock.
 */
struct _KwJob
{
  gatomicrefcount references;
  KwVerb verb;
  KwCaller *caller; /* owned */

  /* what is asked */
  GBytes *key_id;  /* owned; chosen by the pool when a key is generated, unless the door did */
  guint reference; /* likewise: the number of the new key on cards */
  KwRsaPadding padding;
  GBytes *input;           /* owned, nullable: what is decrypted */
  KwSecret *message;       /* owned, nullable: what is encrypted */
  GBytes *associated_data; /* owned, nullable */
  char *wanted_key; /* owned, nullable: entry of hsm_keyid to encrypt under; NULL = the first */
  gsize n_random;
  guint bits;
  char *label; /* owned, nullable */
  gboolean may_run_here;
  gint cancelled; /* atomic; set by any thread */

  /* who is told */
  KwJobFunc callback;
  gpointer callback_data;
  KwJobFunc service_callback;
  gpointer service_data;

  /* on the way */
  gint64 started;    /* monotonic */
  gint64 deadline;   /* monotonic */
  gint64 park_until; /* monotonic */
  guint n_attempts;
  guint64 tried[KW_MAX_ATTEMPTS_PER_JOB]; /* numbers of the devices it was given to */
  guint64 wants_refresh;   /* which look for new keys may find its key; 0 = none was asked for */
  gboolean is_generating;  /* its turn to make a key has come */
  gboolean key_may_remain; /* what it made may still be on a device, though nobody is to use it */
  KwJobFunc after_generation; /* the service's callback, meanwhile */
  gpointer after_generation_data;
  GError *refusal; /* owned, nullable: a device cannot make such a key; another one may */
  KwKeyStep step;

  /* what came of it */
  KwSecret *plaintext;   /* owned, nullable */
  KwKey *key;            /* owned, nullable */
  GBytes *output;        /* owned, nullable: the envelope */
  gboolean changed;      /* it is another one than went in */
  char *key_name;        /* owned, nullable: entry of hsm_keyid that was used last */
  char *fingerprint;     /* owned, nullable: of that key */
  char *old_fingerprint; /* owned, nullable: of the key that a rewrapped message was under before */
  GError *error;         /* owned, nullable */
  char *last_reason;     /* owned, nullable: why the last attempt failed */
  char *device_name;     /* owned, nullable: the device that did it */
};

G_END_DECLS
