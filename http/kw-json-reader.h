/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-secret.h"

G_BEGIN_DECLS

/**
 * KwJsonType:
 * @KW_JSON_NULL: null
 * @KW_JSON_BOOLEAN: true or false
 * @KW_JSON_NUMBER: a number
 * @KW_JSON_STRING: a string
 * @KW_JSON_ARRAY: an array
 * @KW_JSON_OBJECT: an object
 *
 * What a value is (RFC 8259, 3).
 */
typedef enum
{
  KW_JSON_NULL,
  KW_JSON_BOOLEAN,
  KW_JSON_NUMBER,
  KW_JSON_STRING,
  KW_JSON_ARRAY,
  KW_JSON_OBJECT,
} KwJsonType;

/**
 * KwJsonValue:
 * @type: what it is
 * @text: where it stands in the document, with its quotes or brackets; not ended by a NUL
 * @size: bytes of it
 *
 * A value of a document that was checked by kw_json_check(). Lives as long as the document.
 */
typedef struct
{
  KwJsonType type;
  const char *text;
  gsize size;
} KwJsonValue;

/**
 * KwJsonMember:
 * @name: name of a member that an object may have
 * @type: what it has to be
 * @required: it has to be there
 */
typedef struct
{
  const char *name;
  KwJsonType type;
  gboolean required;
} KwJsonMember;

gboolean kw_json_check (const char *text, gsize size, KwJsonValue *out_root, GError **error);

gboolean kw_json_read_object (const KwJsonValue *object,
                              const KwJsonMember *members,
                              guint n_members,
                              KwJsonValue *out_values,
                              GError **error);

gboolean kw_json_has_member (const KwJsonValue *object, const char *name);

gboolean kw_json_next (const KwJsonValue *array, gsize *position, KwJsonValue *out_value);

char *kw_json_dup_string (const KwJsonValue *value, const char *name, gsize max, GError **error);

KwSecret *kw_json_dup_secret (const KwJsonValue *value, const char *name, GError **error);

KwSecret *
kw_json_decode_base64 (const KwJsonValue *value, const char *name, gsize max, GError **error);

gboolean kw_json_get_unsigned (const KwJsonValue *value,
                               const char *name,
                               guint64 max,
                               guint64 *out_number,
                               GError **error);

G_END_DECLS
