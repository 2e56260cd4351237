/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kw-api-private.h"

/*
 * Prints the routes of the API as JSON, for the test that holds them to their description.
 */

static void
print_routes (const KwApiRoute *routes, guint n_routes, gboolean *first)
{
  for (guint i = 0; i < n_routes; i++)
    {
      g_print ("%s[\"%s\",\"%s\"]", *first ? "" : ",", routes[i].method, routes[i].path);
      *first = FALSE;
    }
}

int
main (void)
{
  gboolean first = TRUE;

  g_print ("[");
  print_routes (kw_api_message_routes, kw_api_n_message_routes, &first);
  print_routes (kw_api_state_routes, kw_api_n_state_routes, &first);
  print_routes (kw_api_event_routes, kw_api_n_event_routes, &first);
  print_routes (kw_api_admin_routes, kw_api_n_admin_routes, &first);
  print_routes (kw_api_health_routes, kw_api_n_health_routes, &first);
  print_routes (kw_api_page_routes, kw_api_n_page_routes, &first);
  g_print ("]\n");
  return 0;
}
