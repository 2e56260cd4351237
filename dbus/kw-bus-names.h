/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Names on D-Bus, for the service and for those who call it. */

#define KW_BUS_NAME "org.keyward1"
#define KW_BUS_PATH "/org/keyward1"
#define KW_BUS_DEVICE_PATH KW_BUS_PATH "/device/"
#define KW_BUS_KEY_PATH KW_BUS_PATH "/key/"
#define KW_BUS_JOB_PATH KW_BUS_PATH "/job/"
#define KW_BUS_ACTION_PREFIX "org.keyward1."

#define KW_BUS_MANAGER_INTERFACE "org.keyward1.Manager"
#define KW_BUS_DEVICE_INTERFACE "org.keyward1.Device"
#define KW_BUS_KEY_INTERFACE "org.keyward1.Key"
#define KW_BUS_JOB_INTERFACE "org.keyward1.Job"

/* Options of methods. */
#define KW_BUS_OPTION_ASSOCIATED_DATA "associated-data"
#define KW_BUS_OPTION_FINGERPRINT "fingerprint"
#define KW_BUS_OPTION_KEY "key"
#define KW_BUS_OPTION_SERIAL "serial"
#define KW_BUS_OPTION_PROGRESS "progress"

/* Facts that come with answers. */
#define KW_BUS_FACT_KEY "key"
#define KW_BUS_FACT_FINGERPRINT "fingerprint"
#define KW_BUS_FACT_DEVICE "device"
#define KW_BUS_FACT_CHANGED "changed"
