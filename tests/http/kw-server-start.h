/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-http-server.h"

KwHttpServer *kw_server_start (KwServerConfig *config, const KwHttpRoute *route, guint16 *out_port);
