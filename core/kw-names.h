/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Well-known strings: each stands here once. */

#define KW_CONFIG_FILE "/etc/keyward/keyward.toml"
#define KW_CONFIG_FILE_HSMDAEMON "/etc/hsmdaemon/hsmdaemon.toml"
#define KW_STATE_DIRECTORY "/var/lib/keyward"
#define KW_LINE_SOCKET "/run/keyward/owncloud.sock"
/* The name under which ownCloud's scripts call the commands. */
#define KW_PROGRAM_HSMDAEMON "hsmdaemon"
#define KW_SERVICE_USER "keyward"
#define KW_SERVICE_GROUP "keyward"

#define KW_ENV_PLUGIN_PATH "KEYWARD_PLUGIN_PATH"
#define KW_ENV_SBIN_PATH "KEYWARD_SBIN_PATH"
#define KW_ENV_LOCALE_PATH "KEYWARD_LOCALE_PATH"

#define KW_BACKEND_EXTENSION_POINT "keyward-backend"
#define KW_DOOR_EXTENSION_POINT "keyward-door"

#define KW_BACKEND_PKCS11 "pkcs11"
#define KW_BACKEND_SMARTCARD "smartcard"
#define KW_SOFTHSM_MODULE "/usr/lib/softhsm/libsofthsm2.so"

/* Names given to the sockets that systemd passes (FileDescriptorName=). */
#define KW_SOCKET_NAME_HTTP "http"
#define KW_SOCKET_NAME_LINE "line"

/* Files in the state directory. */
#define KW_STATE_FILE_PINS "pins.state"
#define KW_STATE_FILE_KEYS "keys.state"
#define KW_STATE_FILE_USES "uses.state"
#define KW_STATE_FILE_SESSIONS "sessions.state"
#define KW_STATE_FILE_AUDIT "audit.log"

#define KW_AUDIT_IDENTIFIER "keyward-audit"
#define KW_JWT_AUDIENCE "hsmdaemon"
#define KW_JWT_AUDIENCE_API "keyward"
#define KW_JWT_AUDIENCE_OWNCLOUD "owncloud"
