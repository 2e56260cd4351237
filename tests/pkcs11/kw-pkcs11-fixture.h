/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-pkcs11-backend.h"
#include "kw-shim-control.h"
#include "kw-softhsm.h"

G_BEGIN_DECLS

/**
 * KwPkcs11Fixture:
 * @shim: the process's shim, behaving
 * @hsm: a private place for tokens
 * @config: the configuration
 * @backend: a back end; found its token by coldplug if there is one
 * @token: the token, logged in; %NULL if there is none
 * @functions: the module's functions, to do behind the token's back
 */
typedef struct
{
  KwShim *shim;
  KwSoftHsm *hsm;
  KwConfig *config;
  KwBackend *backend;
  KwToken *token;
  CK_FUNCTION_LIST *functions;
} KwPkcs11Fixture;

typedef void (*KwPkcs11Test) (KwPkcs11Fixture *fixture);

KwConfig *kw_pkcs11_fixture_make_config (const char *module, const char *settings);

void kw_pkcs11_fixture_set_up (KwPkcs11Fixture *self);

void kw_pkcs11_fixture_open (KwPkcs11Fixture *self, const char *settings);

void kw_pkcs11_fixture_reopen (KwPkcs11Fixture *self, const char *settings);

void kw_pkcs11_fixture_login (KwPkcs11Fixture *self);

void kw_pkcs11_fixture_tear_down (KwPkcs11Fixture *self);

void kw_pkcs11_add_test (const char *path, KwPkcs11Test test);

CK_SESSION_HANDLE kw_pkcs11_fixture_open_session (KwPkcs11Fixture *self);

CK_OBJECT_HANDLE
kw_pkcs11_fixture_find (KwPkcs11Fixture *self,
                        CK_SESSION_HANDLE session,
                        CK_OBJECT_CLASS object_class,
                        GBytes *id);

GBytes *kw_pkcs11_id (const char *text);

GBytes *kw_pkcs11_fixture_add_aes (KwPkcs11Fixture *self, const char *id);

KwKey *kw_pkcs11_fixture_add_rsa (KwPkcs11Fixture *self, const char *id);

int kw_pkcs11_test_main (int argc, char **argv, void (*add_tests) (void));

G_END_DECLS
