/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-web"

#include "kw-daemon-rig.h"

#include <arpa/inet.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * ownCloud's web API on the whole daemon, spoken by raw sockets.
 */

#define JWT_HEADER "{\"alg\":\"HS256\",\"typ\":\"JWT\"}"
#define N_REQUESTS_ON_ONE_CONNECTION 10000
#define BODY_LIMIT 65536

typedef struct
{
  KwDaemonRig *rig;
  char *pem;
  char *uuid;
  char *path;
  char *jwt;
  GBytes *plaintext;
  GBytes *ciphertext;
} Fixture;

static Fixture *
fixture_new (const char *extra_config)
{
  Fixture *f = g_new0 (Fixture, 1);

  f->rig = kw_daemon_rig_new (NULL, extra_config);
  kw_daemon_rig_start (f->rig);
  f->uuid = kw_daemon_rig_make_key (f->rig, &f->pem);
  f->path = g_strdup_printf ("/decrypt/%s", f->uuid);
  f->jwt = kw_daemon_rig_make_jwt (f->rig);
  f->plaintext = g_bytes_new_static ("0123456789abcdefghijklmnopqrstuv", 32);
  f->ciphertext = kw_test_encrypt (f->pem, f->plaintext);
  return f;
}

static void
fixture_free (Fixture *f)
{
  kw_daemon_rig_free (f->rig);
  g_free (f->pem);
  g_free (f->uuid);
  g_free (f->path);
  g_free (f->jwt);
  g_bytes_unref (f->plaintext);
  g_bytes_unref (f->ciphertext);
  g_free (f);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Fixture, fixture_free)

static void
assert_decrypts (Fixture *f)
{
  g_autoptr (KwTestResponse) response = kw_daemon_rig_post (f->rig, f->path, f->jwt, f->ciphertext);

  g_assert_cmpuint (response->status, ==, 200);
  g_assert_true (g_bytes_equal (response->body, f->plaintext));
}

static void
assert_body_contains (const KwTestResponse *response, const char *text)
{
  g_autofree char *body
      = g_strndup (g_bytes_get_data (response->body, NULL), g_bytes_get_size (response->body));

  if (strstr (body, text) == NULL)
    g_test_message ("body: %s", body);
  g_assert_nonnull (strstr (body, text));
}

/* Sends raw text on a new connection and gives the response, NULL when the daemon closes instead. */
static KwTestResponse *
exchange (Fixture *f, const char *text)
{
  int fd = kw_daemon_rig_connect_http (f->rig);
  KwTestResponse *response = NULL;

  kw_test_send (fd, text, -1);
  response = kw_test_receive_response (fd);
  close (fd);
  return response;
}

static char *
make_head (Fixture *f, const char *method, const char *path, const char *more)
{
  return g_strdup_printf ("%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n%s\r\n",
                          method, path, f->jwt, more);
}

static void
assert_status (Fixture *f, const char *method, const char *path, const char *more, guint status)
{
  g_autofree char *head = make_head (f, method, path, more);
  g_autoptr (KwTestResponse) response = exchange (f, head);

  g_assert_nonnull (response);
  g_assert_cmpuint (response->status, ==, status);
}

static void
test_conversation (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *double_slash = g_strconcat ("/", f->path, NULL);
  g_autofree char *upper = g_ascii_strup (f->uuid, -1);
  g_autofree char *upper_path = g_strconcat ("/decrypt/", upper, NULL);
  const char *const paths[] = { f->path, double_slash, upper_path };

  for (guint i = 0; i < G_N_ELEMENTS (paths); i++)
    {
      g_autoptr (KwTestResponse) response
          = kw_daemon_rig_post (f->rig, paths[i], f->jwt, f->ciphertext);

      g_assert_cmpuint (response->status, ==, 200);
      g_assert_true (g_bytes_equal (response->body, f->plaintext));
      g_assert_nonnull (strstr (response->head, "no-store"));
      g_assert_nonnull (strstr (response->head, "nosniff"));
    }
  g_assert_cmpuint (strlen (f->uuid), ==, 36);
  g_assert_cmpint (f->uuid[14], ==, '1');
}

static void
test_label_may_be_null (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  gint64 now = g_get_real_time () / G_USEC_PER_SEC;
  g_autofree char *claims = g_strdup_printf (
      "{\"iss\":\"oc\",\"sub\":null,\"aud\":\"hsmdaemon\",\"exp\":%" G_GINT64_FORMAT
      ",\"iat\":%" G_GINT64_FORMAT "}",
      now, now);
  g_autofree char *jwt = kw_test_make_jwt (KW_TEST_JWT_SECRET, JWT_HEADER, claims);
  g_autoptr (KwTestResponse) response = kw_daemon_rig_post (f->rig, "/keys/new", jwt, NULL);

  g_assert_cmpuint (response->status, ==, 200);
  assert_body_contains (response, "BEGIN PUBLIC KEY");
}

static void
test_label_too_long (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *label = g_strnfill (129, 'x');
  gint64 now = g_get_real_time () / G_USEC_PER_SEC;
  g_autofree char *claims
      = g_strdup_printf ("{\"sub\":\"%s\",\"aud\":\"hsmdaemon\",\"exp\":%" G_GINT64_FORMAT
                         ",\"iat\":%" G_GINT64_FORMAT "}",
                         label, now, now);
  g_autofree char *jwt = kw_test_make_jwt (KW_TEST_JWT_SECRET, JWT_HEADER, claims);
  g_autoptr (KwTestResponse) response = kw_daemon_rig_post (f->rig, "/keys/new", jwt, NULL);

  g_assert_cmpuint (response->status, ==, 400);
}

typedef struct
{
  const char *name;
  const char *header; /* NULL = HS256 */
  const char *secret; /* NULL = the right one */
  const char *audience;
  gint64 expires_in;
  gint64 issued_in;
  guint status;
} JwtCase;

static const JwtCase jwt_cases[] = {
  { "valid", NULL, NULL, "hsmdaemon", 120, 0, 200 },
  { "as occ makes it: expires now", NULL, NULL, "hsmdaemon", 0, 0, 200 },
  { "expired inside the leeway", NULL, NULL, "hsmdaemon", -60, -120, 200 },
  { "expired outside the leeway", NULL, NULL, "hsmdaemon", -300, -600, 401 },
  { "issued ahead inside the leeway", NULL, NULL, "hsmdaemon", 120, 60, 200 },
  { "issued ahead outside the leeway", NULL, NULL, "hsmdaemon", 600, 300, 401 },
  { "wrong audience", NULL, NULL, "somebody", 120, 0, 401 },
  { "wrong secret", NULL, "another secret of good length", "hsmdaemon", 120, 0, 401 },
  { "alg none, signed", "{\"alg\":\"none\",\"typ\":\"JWT\"}", NULL, "hsmdaemon", 120, 0, 401 },
  { "alg RS256 with an HMAC", "{\"alg\":\"RS256\",\"typ\":\"JWT\"}", NULL, "hsmdaemon", 120, 0,
    401 },
  { "alg HS512 with a SHA-256 HMAC", "{\"alg\":\"HS512\",\"typ\":\"JWT\"}", NULL, "hsmdaemon", 120,
    0, 401 },
  { "no alg", "{\"typ\":\"JWT\"}", NULL, "hsmdaemon", 120, 0, 401 },
  { "header is no JSON", "HS256", NULL, "hsmdaemon", 120, 0, 401 },
};

static void
test_jwt_table (gconstpointer data)
{
  Fixture *f = (Fixture *) data;

  for (guint i = 0; i < G_N_ELEMENTS (jwt_cases); i++)
    {
      const JwtCase *c = &jwt_cases[i];
      g_autofree char *claims = kw_test_make_claims (c->expires_in, c->issued_in, c->audience);
      g_autofree char *jwt = kw_test_make_jwt (c->secret != NULL ? c->secret : KW_TEST_JWT_SECRET,
                                               c->header != NULL ? c->header : JWT_HEADER, claims);
      g_autoptr (KwTestResponse) response
          = kw_daemon_rig_post (f->rig, f->path, jwt, f->ciphertext);

      g_test_message ("%s", c->name);
      g_assert_cmpuint (response->status, ==, c->status);
      if (c->status == 401)
        {
          assert_body_contains (response, "The token is not valid");
          g_assert_nonnull (strstr (response->head, "WWW-Authenticate: Bearer"));
        }
    }
}

static void
assert_token_refused (Fixture *f, const char *jwt)
{
  g_autoptr (KwTestResponse) response = kw_daemon_rig_post (f->rig, f->path, jwt, f->ciphertext);

  g_assert_cmpuint (response->status, ==, 401);
}

static void
test_jwt_malformed (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  gint64 now = g_get_real_time () / G_USEC_PER_SEC;
  g_autofree char *no_signature = g_strndup (f->jwt, (gsize) (strrchr (f->jwt, '.') - f->jwt + 1));
  g_autofree char *bad_utf8
      = g_strdup_printf ("{\"iss\":\"\xff\xfe\",\"aud\":\"hsmdaemon\",\"exp\":%" G_GINT64_FORMAT
                         ",\"iat\":0}",
                         now + 100);
  g_autofree char *no_expiry
      = g_strdup_printf ("{\"aud\":\"hsmdaemon\",\"iat\":%" G_GINT64_FORMAT "}", now);
  g_autofree char *text_expiry
      = g_strdup_printf ("{\"aud\":\"hsmdaemon\",\"exp\":\"%" G_GINT64_FORMAT
                         "\",\"iat\":%" G_GINT64_FORMAT "}",
                         now + 9, now);
  g_autofree char *no_issue
      = g_strdup_printf ("{\"aud\":\"hsmdaemon\",\"exp\":%" G_GINT64_FORMAT "}", now + 100);
  g_autofree char *audience_list = g_strdup_printf ("{\"aud\":[\"x\"],\"exp\":%" G_GINT64_FORMAT
                                                    ",\"iat\":%" G_GINT64_FORMAT "}",
                                                    now + 9, now);
  const char *const claims[]
      = { bad_utf8, no_expiry, text_expiry, no_issue, audience_list, "[]", "\"text\"", "", "{}" };

  for (gsize i = 0; i < strlen (f->jwt); i += 7)
    {
      g_autofree char *truncated = g_strndup (f->jwt, i);

      assert_token_refused (f, truncated);
    }
  assert_token_refused (f, no_signature);
  assert_token_refused (f, "...");
  assert_token_refused (f, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (claims); i++)
    {
      g_autofree char *jwt = kw_test_make_jwt (KW_TEST_JWT_SECRET, JWT_HEADER, claims[i]);

      assert_token_refused (f, jwt);
    }
  assert_decrypts (f);
}

static void
test_jwt_huge (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *huge = g_strnfill (1024 * 1024, 'A');
  int fd = kw_daemon_rig_connect_http (f->rig);
  g_autoptr (KwTestResponse) response = NULL;

  kw_test_send (fd, "POST /keys/new HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ", -1);
  kw_test_send (fd, huge, -1);
  kw_test_send (fd, "\r\nContent-Length: 0\r\n\r\n", -1);
  response = kw_test_receive_response (fd);
  /* With so much unread the kernel may reset the connection before the answer is read. */
  if (response != NULL)
    g_assert_cmpuint (response->status, ==, 431);
  close (fd);
  assert_decrypts (f);
}

static void
test_header_fields_too_large (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *filler = g_strnfill (7800, 'x');
  g_autofree char *more = g_strdup_printf ("X-Filler: %s\r\nContent-Length: 0\r\n", filler);

  assert_status (f, "POST", "/keys/new", more, 431);
}

static void
test_statuses (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *too_large = g_strdup_printf ("Content-Length: %d\r\n", BODY_LIMIT + 1);
  g_autofree char *slash = g_strconcat (f->path, "/", NULL);

  assert_status (f, "GET", "/nothing", "", 404);
  assert_status (f, "POST", "/keys", "Content-Length: 0\r\n", 404);
  assert_status (f, "POST", "/decrypt/", "Content-Length: 0\r\n", 404);
  assert_status (f, "POST", slash, "Content-Length: 0\r\n", 404);
  assert_status (f, "GET", "/keys/new", "", 405);
  assert_status (f, "DELETE", f->path, "", 405);
  assert_status (f, "POST", f->path, "", 411);
  assert_status (f, "POST", f->path, too_large, 413);
  assert_status (f, "POST", f->path, "Content-Length: 99999999999999999999\r\n", 413);
  assert_status (f, "POST", f->path, "Content-Type: application/json\r\nContent-Length: 256\r\n",
                 415);
  assert_status (f, "POST", f->path, "Content-Encoding: gzip\r\nContent-Length: 256\r\n", 415);
  assert_status (f, "POST", f->path, "Content-Length: 0\r\n", 400);
}

static void
test_method_not_allowed_says_what_is (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *head = make_head (f, "PUT", f->path, "");
  g_autoptr (KwTestResponse) response = exchange (f, head);

  g_assert_cmpuint (response->status, ==, 405);
  g_assert_nonnull (strstr (response->head, "Allow: POST"));
}

static void
test_wrong_lengths (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  const char *const bad[] = {
    "Content-Length: 256\r\nTransfer-Encoding: chunked\r\n",
    "Content-Length: 256\r\nContent-Length: 256\r\n",
    "Content-Length: 256\r\nContent-Length: 0\r\n",
    "Content-Length: -1\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: 0x10\r\n",
    "Content-Length: abc\r\n",
    "Content-Length: \r\n",
  };

  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autofree char *head = make_head (f, "POST", f->path, bad[i]);
      g_autoptr (KwTestResponse) response = exchange (f, head);

      g_test_message ("%s", bad[i]);
      g_assert_nonnull (response);
      g_assert_cmpuint (response->status, >=, 400);
      g_assert_cmpuint (response->status, <, 500);
    }
  assert_status (f, "POST", f->path, "Transfer-Encoding: gzip\r\n", 501);
  assert_decrypts (f);
}

static void
send_chunk (int fd, gconstpointer data, gsize size)
{
  g_autofree char *head = g_strdup_printf ("%" G_GSIZE_MODIFIER "x\r\n", size);

  kw_test_send (fd, head, -1);
  kw_test_send (fd, data, (gssize) size);
  kw_test_send (fd, "\r\n", -1);
}

static void
test_chunked_body (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *head = make_head (f, "POST", f->path, "Transfer-Encoding: chunked\r\n");
  const guint8 *ciphertext = g_bytes_get_data (f->ciphertext, NULL);
  int fd = kw_daemon_rig_connect_http (f->rig);
  g_autoptr (KwTestResponse) response = NULL;

  kw_test_send (fd, head, -1);
  send_chunk (fd, ciphertext, 100);
  send_chunk (fd, ciphertext + 100, 156);
  kw_test_send (fd, "0\r\n\r\n", -1);
  response = kw_test_receive_response (fd);
  g_assert_cmpuint (response->status, ==, 200);
  g_assert_true (g_bytes_equal (response->body, f->plaintext));
  close (fd);
}

static void
test_chunked_body_too_large (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *head = make_head (f, "POST", f->path, "Transfer-Encoding: chunked\r\n");
  g_autofree char *chunk = g_strnfill (4096, 'x');
  int fd = kw_daemon_rig_connect_http (f->rig);
  g_autoptr (KwTestResponse) response = NULL;

  kw_test_send (fd, head, -1);
  for (gsize n = 0; n <= BODY_LIMIT; n += 4096)
    send_chunk (fd, chunk, 4096);
  kw_test_send (fd, "0\r\n\r\n", -1);
  response = kw_test_receive_response (fd);
  g_assert_cmpuint (response->status, ==, 413);
  close (fd);
  /* Far more than the limit is not even read to its end. */
  fd = kw_daemon_rig_connect_http (f->rig);
  kw_test_send (fd, head, -1);
  for (gsize n = 0; n <= (gsize) BODY_LIMIT * 8; n += 4096)
    send_chunk (fd, chunk, 4096);
  g_assert_true (kw_test_receive_end (fd));
  close (fd);
}

static void
test_pipelining (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *decrypt = make_head (f, "POST", f->path, "Content-Length: 256\r\n");
  g_autofree char *nothing = make_head (f, "GET", "/nothing", "");
  int fd = kw_daemon_rig_connect_http (f->rig);
  g_autoptr (GByteArray) bytes = g_byte_array_new ();

  for (guint i = 0; i < 5; i++)
    {
      g_byte_array_append (bytes, (const guint8 *) decrypt, (guint) strlen (decrypt));
      g_byte_array_append (bytes, g_bytes_get_data (f->ciphertext, NULL), 256);
      g_byte_array_append (bytes, (const guint8 *) nothing, (guint) strlen (nothing));
    }
  kw_test_send (fd, bytes->data, bytes->len);
  for (guint i = 0; i < 5; i++)
    {
      g_autoptr (KwTestResponse) first = kw_test_receive_response (fd);
      g_autoptr (KwTestResponse) second = kw_test_receive_response (fd);

      g_assert_cmpuint (first->status, ==, 200);
      g_assert_true (g_bytes_equal (first->body, f->plaintext));
      g_assert_cmpuint (second->status, ==, 404);
    }
  close (fd);
}

static void
test_many_requests_on_one_connection (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *decrypt = make_head (f, "POST", f->path, "Content-Length: 256\r\n");
  int fd = kw_daemon_rig_connect_http (f->rig);
  guint n_requests = g_test_quick () && g_getenv ("KW_TEST_SANITIZED") != NULL
                         ? N_REQUESTS_ON_ONE_CONNECTION / 10
                         : N_REQUESTS_ON_ONE_CONNECTION;

  for (guint i = 0; i < n_requests; i++)
    {
      g_autoptr (KwTestResponse) response = NULL;

      kw_test_send (fd, decrypt, -1);
      kw_test_send (fd, g_bytes_get_data (f->ciphertext, NULL), 256);
      response = kw_test_receive_response (fd);
      g_assert_nonnull (response);
      g_assert_cmpuint (response->status, ==, 200);
      g_assert_true (g_bytes_equal (response->body, f->plaintext));
    }
  close (fd);
}

static void
test_expect_continue (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *head
      = make_head (f, "POST", f->path, "Expect: 100-continue\r\nContent-Length: 256\r\n");
  int fd = kw_daemon_rig_connect_http (f->rig);
  g_autoptr (KwTestResponse) response = NULL;

  kw_test_send (fd, head, -1);
  kw_test_send (fd, g_bytes_get_data (f->ciphertext, NULL), 256);
  response = kw_test_receive_response (fd);
  g_assert_cmpuint (response->status, ==, 200);
  close (fd);
}

static GBytes *
random_bytes (gsize size, guint8 first)
{
  guint8 *bytes = g_malloc (size);

  for (gsize i = 0; i < size; i++)
    bytes[i] = (guint8) (i * 37 + 11);
  bytes[0] = first;
  return g_bytes_new_take (bytes, size);
}

static void
test_failed_decrypts_look_alike (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *other_pem = NULL;
  g_autofree char *other_uuid G_GNUC_UNUSED = kw_daemon_rig_make_key (f->rig, &other_pem);
  g_autoptr (GBytes) for_other = kw_test_encrypt (other_pem, f->plaintext);
  g_autoptr (GBytes) garbage = random_bytes (256, 1);
  g_autoptr (GBytes) above_modulus = random_bytes (256, 0xff);
  g_autoptr (GBytes) too_short = random_bytes (255, 1);
  g_autoptr (GBytes) too_long = random_bytes (257, 1);
  g_autoptr (GBytes) one = random_bytes (1, 1);
  GBytes *const bad[] = { garbage, above_modulus, too_short, too_long, one, for_other };
  g_autofree char *audit = NULL;
  guint n_failed = 0;

  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (KwTestResponse) response = kw_daemon_rig_post (f->rig, f->path, f->jwt, bad[i]);

      g_assert_cmpuint (response->status, ==, 500);
      g_assert_cmpmem (g_bytes_get_data (response->body, NULL), g_bytes_get_size (response->body),
                       "The data cannot be decrypted with this key\n", 43);
    }
  audit = kw_daemon_rig_dup_audit (f->rig);
  for (const char *p = audit; (p = strstr (p, "decrypt-failed")) != NULL; p++)
    n_failed++;
  g_assert_cmpuint (n_failed, >=, G_N_ELEMENTS (bad));
}

static void
test_unknown_keys_are_server_errors (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autoptr (KwTestResponse) unknown
      = kw_daemon_rig_post (f->rig, "/decrypt/6ba7b810-9dad-11d1-80b4-00c04fd430c8", f->jwt,
                            f->ciphertext);
  g_autoptr (KwTestResponse) malformed
      = kw_daemon_rig_post (f->rig, "/decrypt/nonsense", f->jwt, f->ciphertext);

  g_assert_cmpuint (unknown->status, ==, 500);
  assert_body_contains (unknown, "No device holds this key");
  g_assert_cmpuint (malformed->status, ==, 500);
  assert_body_contains (malformed, "UUID");
}

static void
test_audit_line (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  g_autofree char *audit = NULL;
  g_autofree char *log = NULL;
  g_autofree char *plaintext = NULL;

  assert_decrypts (f);
  audit = kw_daemon_rig_dup_audit (f->rig);
  log = kw_daemon_rig_dup_log (f->rig);
  g_assert_nonnull (strstr (audit, "\"verb\":\"rsa-decrypt\""));
  g_assert_nonnull (strstr (audit, f->uuid));
  g_assert_nonnull (strstr (audit, "\"result\":\"ok\""));
  g_assert_nonnull (strstr (audit, "\"name\":\"oc1234\""));
  g_assert_nonnull (strstr (audit, "\"request\":\"request-1\""));
  g_assert_nonnull (strstr (audit, "\"address\":\"127.0.0.1\""));
  g_assert_nonnull (strstr (audit, "\"by\":\"jwt\""));
  g_assert_nonnull (strstr (log, "\"msg\":\"Decrypted\""));
  g_assert_nonnull (strstr (log, "\"msg\":\"generated keypair\",\"tokenID\""));
  /* Neither holds a secret or payload. */
  plaintext = g_strndup (g_bytes_get_data (f->plaintext, NULL), 32);
  for (guint i = 0; i < 2; i++)
    {
      const char *text = i == 0 ? audit : log;

      g_assert_null (strstr (text, f->jwt));
      g_assert_null (strstr (text, KW_TEST_JWT_SECRET));
      g_assert_null (strstr (text, KW_TEST_PIN));
      g_assert_null (strstr (text, plaintext));
    }
}

static void
test_listens_on_both_loopbacks (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
  int fd = socket (AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  g_autoptr (KwTestResponse) response = NULL;

  if (fd < 0 || g_access ("/proc/net/if_inet6", F_OK) != 0)
    {
      g_test_skip ("this machine has no IPv6");
      return;
    }
  address.sin6_port = htons (kw_daemon_rig_get_port (f->rig));
  g_assert_cmpint (connect (fd, (struct sockaddr *) &address, sizeof address), ==, 0);
  kw_test_send (fd, "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", -1);
  response = kw_test_receive_response (fd);
  g_assert_cmpuint (response->status, ==, 404);
  close (fd);
}

static void
test_connections_come_back (gconstpointer data)
{
  Fixture *f = (Fixture *) data;
  int pid = kw_daemon_rig_get_pid (f->rig);
  guint before = 0;

  assert_decrypts (f);
  before = kw_test_count_descriptors (pid);
  for (guint i = 0; i < 500; i++)
    {
      int fd = kw_daemon_rig_connect_http (f->rig);
      g_autoptr (KwTestResponse) response = NULL;

      kw_test_send (fd, "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", -1);
      response = kw_test_receive_response (fd);
      g_assert_cmpuint (response->status, ==, 404);
      close (fd);
    }
  for (gint64 end = g_get_monotonic_time () + 10 * G_TIME_SPAN_SECOND;
       kw_test_count_descriptors (pid) > before && g_get_monotonic_time () < end;)
    g_usleep (10000);
  g_assert_cmpuint (kw_test_count_descriptors (pid), <=, before);
}

static void
test_slow_peers_are_closed (void)
{
  g_autoptr (Fixture) f
      = fixture_new ("@SERVER@\nheader_timeout = 1\nbody_timeout = 1\nidle_timeout = 1\n");
  g_autofree char *head = make_head (f, "POST", f->path, "Content-Length: 256\r\n");
  int headers = kw_daemon_rig_connect_http (f->rig);
  int body = kw_daemon_rig_connect_http (f->rig);
  int idle = kw_daemon_rig_connect_http (f->rig);
  g_autoptr (KwTestResponse) response = NULL;

  kw_test_send (idle, "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", -1);
  response = kw_test_receive_response (idle);
  g_assert_cmpuint (response->status, ==, 404);
  kw_test_send (body, head, -1);
  /* A byte now and then keeps no connection alive. */
  for (guint i = 0; i < 30; i++)
    {
      kw_test_send (headers, i == 0 ? "POST /" : "x", -1);
      kw_test_send (body, "x", 1);
      g_usleep (100000);
    }
  g_assert_true (kw_test_receive_end (headers));
  g_assert_true (kw_test_receive_end (body));
  g_assert_true (kw_test_receive_end (idle));
  assert_decrypts (f);
  close (headers);
  close (body);
  close (idle);
}

static void
test_connection_cap (void)
{
  g_autoptr (Fixture) f = fixture_new ("@SERVER@\nmax_connections = 4\n");
  int sockets[12];
  int late = -1;
  g_autofree char *head = make_head (f, "POST", f->path, "Content-Length: 256\r\n");
  g_autoptr (KwTestResponse) response = NULL;
  int pid = kw_daemon_rig_get_pid (f->rig);
  guint before = kw_test_count_descriptors (pid);

  for (guint i = 0; i < G_N_ELEMENTS (sockets); i++)
    sockets[i] = kw_daemon_rig_connect_http (f->rig);
  g_usleep (300000);
  g_assert_cmpuint (kw_test_count_descriptors (pid), <=, before + 4);
  late = kw_daemon_rig_connect_http (f->rig);
  kw_test_send (late, head, -1);
  kw_test_send (late, g_bytes_get_data (f->ciphertext, NULL), 256);
  for (guint i = 0; i < G_N_ELEMENTS (sockets); i++)
    close (sockets[i]);
  response = kw_test_receive_response (late);
  g_assert_cmpuint (response->status, ==, 200);
  close (late);
}

static guint64
cpu_ticks (int pid)
{
  g_autofree char *path = g_strdup_printf ("/proc/%d/stat", pid);
  g_autofree char *text = NULL;
  g_auto (GStrv) fields = NULL;

  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  fields = g_strsplit (strrchr (text, ')') + 2, " ", -1);
  return g_ascii_strtoull (fields[11], NULL, 10) + g_ascii_strtoull (fields[12], NULL, 10);
}

static gboolean
have_program (const char *name)
{
  g_autofree char *path = g_find_program_in_path (name);

  if (path == NULL)
    g_test_skip_printf ("%s is not installed", name);
  return path != NULL;
}

static void
test_out_of_descriptors (void)
{
  const char *const wrapper[] = { "prlimit", "--nofile=96:96", NULL };
  g_autoptr (Fixture) f = fixture_new (NULL);
  int pid = 0;
  int http[64];
  int line[64];
  guint64 ticks = 0;
  gint64 start = 0;

  if (!have_program ("prlimit"))
    return;
  kw_daemon_rig_stop (f->rig);
  kw_daemon_rig_set_wrapper (f->rig, wrapper);
  kw_daemon_rig_start (f->rig);
  pid = kw_daemon_rig_get_pid (f->rig);
  for (guint i = 0; i < G_N_ELEMENTS (http); i++)
    {
      http[i] = kw_daemon_rig_connect_http (f->rig);
      line[i] = kw_daemon_rig_connect_line (f->rig);
    }
  g_usleep (200000);
  ticks = cpu_ticks (pid);
  g_usleep (2 * G_USEC_PER_SEC);
  ticks = cpu_ticks (pid) - ticks;
  g_test_message ("%" G_GUINT64_FORMAT " ticks in 2 s", ticks);
  g_assert_cmpuint (ticks, <=, (guint64) (sysconf (_SC_CLK_TCK) * 2 / 20)); /* 5 % */
  for (guint i = 0; i < G_N_ELEMENTS (http); i++)
    {
      close (http[i]);
      close (line[i]);
    }
  start = g_get_monotonic_time ();
  assert_decrypts (f);
  g_assert_cmpint (g_get_monotonic_time () - start, <, G_TIME_SPAN_SECOND);
}

static void
test_budget_of_failures (void)
{
  g_autoptr (Fixture) f = fixture_new ("@SERVER@\nfailed_decrypts = 3\n");
  g_autoptr (GBytes) garbage = random_bytes (256, 1);
  g_autoptr (KwTestResponse) refused = NULL;
  g_autoptr (KwTestResponse) good = NULL;

  for (guint i = 0; i < 3; i++)
    {
      g_autoptr (KwTestResponse) response = kw_daemon_rig_post (f->rig, f->path, f->jwt, garbage);

      g_assert_cmpuint (response->status, ==, 500);
    }
  refused = kw_daemon_rig_post (f->rig, f->path, f->jwt, garbage);
  g_assert_cmpuint (refused->status, ==, 429);
  g_assert_nonnull (strstr (refused->head, "Retry-After: 60"));
  /* Else the budget would tell good from bad. */
  good = kw_daemon_rig_post (f->rig, f->path, f->jwt, f->ciphertext);
  g_assert_cmpuint (good->status, ==, 429);
}

static void
test_no_device (void)
{
  g_autoptr (KwDaemonRig) rig = kw_daemon_rig_new (NULL, NULL);
  g_autofree char *jwt = kw_daemon_rig_make_jwt (rig);
  g_autoptr (KwTestResponse) response = NULL;

  kw_soft_hsm_delete_token (kw_daemon_rig_get_soft_hsm (rig), KW_TEST_TOKEN_LABEL);
  kw_daemon_rig_launch (rig);
  kw_daemon_rig_wait_for_log (rig, "Waiting for a device");
  response = kw_daemon_rig_post (rig, "/keys/new", jwt, NULL);
  g_assert_cmpuint (response->status, ==, 503);
  g_assert_nonnull (strstr (response->head, "Retry-After: 5"));
  assert_body_contains (response, "No device is ready: ");
}

/* Lets curl do a request; gives what it printed. */
static char *
run_curl (Fixture *f, const char *const *more)
{
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();
  g_auto (GStrv) argv = NULL;
  g_autoptr (GSubprocess) process = NULL;
  g_autoptr (GError) error = NULL;
  g_autofree char *header = g_strdup_printf ("Authorization: Bearer %s", f->jwt);
  g_autofree char *body
      = g_build_filename (kw_daemon_rig_get_directory (f->rig), "ciphertext", NULL);
  g_autofree char *data = g_strconcat ("@", body, NULL);
  g_autoptr (GBytes) output = NULL;

  g_file_set_contents (body, g_bytes_get_data (f->ciphertext, NULL), 256, &error);
  g_assert_no_error (error);
  g_strv_builder_add_many (builder, "curl", "-s", "-S", "-X", "POST", "-H", header, "--data-binary",
                           data, NULL);
  for (guint i = 0; more[i] != NULL; i++)
    g_strv_builder_add (builder, more[i]);
  argv = g_strv_builder_end (builder);
  process = g_subprocess_newv ((const char *const *) argv, G_SUBPROCESS_FLAGS_STDOUT_PIPE, &error);
  g_assert_no_error (error);
  g_subprocess_communicate (process, NULL, NULL, &output, NULL, &error);
  g_assert_no_error (error);
  return g_strndup (g_bytes_get_data (output, NULL), g_bytes_get_size (output));
}

static void
test_unix_socket (void)
{
  g_autofree char *directory = g_dir_make_tmp ("kw-web-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (directory, "http.sock", NULL);
  g_autofree char *config = g_strdup_printf ("@SERVER@\nsocket = \"%s\"\n", path);
  g_autoptr (Fixture) f = fixture_new (config);
  g_autofree char *url = g_strconcat ("http://localhost", f->path, NULL);
  const char *const arguments[] = { "--unix-socket", path, url, NULL };
  g_autofree char *output = NULL;
  g_autofree char *audit = NULL;
  g_autofree char *uid = g_strdup_printf ("\"address\":\"unix\",\"uid\":%u", (guint) getuid ());

  if (!have_program ("curl"))
    return;
  output = run_curl (f, arguments);
  g_assert_cmpmem (output, strlen (output), g_bytes_get_data (f->plaintext, NULL), 32);
  audit = kw_daemon_rig_dup_audit (f->rig);
  g_assert_nonnull (strstr (audit, uid));
  kw_soft_hsm_remove_tree (directory);
}

static void
make_certificate (const char *directory)
{
  g_autofree char *command = g_strdup_printf (
      "openssl req -x509 -newkey rsa:2048 -nodes -keyout %s/key.pem -out %s/cert.pem -days 2 -subj "
      "/CN=localhost -addext subjectAltName=DNS:localhost",
      directory, directory);
  g_autofree char *key = g_strconcat (directory, "/key.pem", NULL);
  g_autofree char *errors = NULL;
  int status = 0;

  g_assert_true (g_spawn_command_line_sync (command, NULL, &errors, &status, NULL));
  g_assert_cmpint (status, ==, 0);
  g_assert_cmpint (chmod (key, 0600), ==, 0);
}

static void
test_tls (void)
{
  g_autofree char *directory = g_dir_make_tmp ("kw-tls-XXXXXX", NULL);
  g_autofree char *config
      = g_strdup_printf ("@SERVER@\ntls_certificate = \"%s/cert.pem\"\ntls_key = \"%s/key.pem\"\n",
                         directory, directory);
  g_autofree char *certificate = g_strconcat (directory, "/cert.pem", NULL);
  g_autoptr (Fixture) f = NULL;
  g_autofree char *url = NULL;
  g_autofree char *output = NULL;

  if (!have_program ("curl") || !have_program ("openssl"))
    return;
  make_certificate (directory);
  f = g_new0 (Fixture, 1);
  f->rig = kw_daemon_rig_new (NULL, config);
  f->jwt = kw_daemon_rig_make_jwt (f->rig);
  f->plaintext = g_bytes_new_static ("", 0);
  f->ciphertext = random_bytes (256, 1);
  kw_daemon_rig_start (f->rig);
  url = g_strdup_printf ("https://localhost:%u/keys/new", kw_daemon_rig_get_port (f->rig));
  {
    const char *const arguments[] = { "--cacert", certificate, url, NULL };

    output = run_curl (f, arguments);
  }
  g_assert_nonnull (strstr (output, "BEGIN PUBLIC KEY"));
  kw_soft_hsm_remove_tree (directory);
}

static void
test_tls_key_must_be_private (void)
{
  g_autofree char *directory = g_dir_make_tmp ("kw-tls-XXXXXX", NULL);
  g_autofree char *config
      = g_strdup_printf ("@SERVER@\ntls_certificate = \"%s/cert.pem\"\ntls_key = \"%s/key.pem\"\n",
                         directory, directory);
  g_autofree char *key = g_strconcat (directory, "/key.pem", NULL);
  g_autoptr (KwDaemonRig) rig = NULL;
  g_autofree char *log = NULL;

  if (!have_program ("openssl"))
    return;
  make_certificate (directory);
  g_assert_cmpint (chmod (key, 0644), ==, 0);
  rig = kw_daemon_rig_new (NULL, config);
  kw_daemon_rig_launch (rig);
  g_assert_true (kw_daemon_rig_wait_for_exit (rig, 10));
  log = kw_daemon_rig_dup_log (rig);
  g_assert_nonnull (strstr (log, "[server] tls_key"));
  g_assert_nonnull (strstr (log, "chmod"));
  kw_soft_hsm_remove_tree (directory);
}

int
main (int argc, char **argv)
{
  g_autoptr (Fixture) f = NULL;
  int result = 0;
  const struct
  {
    const char *path;
    GTestDataFunc function;
  } shared[] = {
    { "/web/conversation", test_conversation },
    { "/web/label/may-be-null", test_label_may_be_null },
    { "/web/label/too-long", test_label_too_long },
    { "/web/jwt/table", test_jwt_table },
    { "/web/jwt/malformed", test_jwt_malformed },
    { "/web/jwt/huge", test_jwt_huge },
    { "/web/http/header-fields-too-large", test_header_fields_too_large },
    { "/web/http/statuses", test_statuses },
    { "/web/http/method-not-allowed", test_method_not_allowed_says_what_is },
    { "/web/http/wrong-lengths", test_wrong_lengths },
    { "/web/http/chunked", test_chunked_body },
    { "/web/http/chunked-too-large", test_chunked_body_too_large },
    { "/web/http/pipelining", test_pipelining },
    { "/web/http/many-requests", test_many_requests_on_one_connection },
    { "/web/http/expect-continue", test_expect_continue },
    { "/web/http/both-loopbacks", test_listens_on_both_loopbacks },
    { "/web/http/connections-come-back", test_connections_come_back },
    { "/web/decrypt/failures-look-alike", test_failed_decrypts_look_alike },
    { "/web/decrypt/unknown-keys", test_unknown_keys_are_server_errors },
    { "/web/audit", test_audit_line },
  };

  g_test_init (&argc, &argv, NULL);
  f = fixture_new ("@SERVER@\nfailed_decrypts = 0\n");
  for (guint i = 0; i < G_N_ELEMENTS (shared); i++)
    g_test_add_data_func (shared[i].path, f, shared[i].function);
  g_test_add_func ("/web/http/slow-peers", test_slow_peers_are_closed);
  g_test_add_func ("/web/http/connection-cap", test_connection_cap);
  g_test_add_func ("/web/http/out-of-descriptors", test_out_of_descriptors);
  g_test_add_func ("/web/decrypt/budget", test_budget_of_failures);
  g_test_add_func ("/web/no-device", test_no_device);
  g_test_add_func ("/web/unix-socket", test_unix_socket);
  g_test_add_func ("/web/tls", test_tls);
  g_test_add_func ("/web/tls/key-must-be-private", test_tls_key_must_be_private);
  result = g_test_run ();
  return result;
}
