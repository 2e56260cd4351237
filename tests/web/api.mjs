// SPDX-License-Identifier: LGPL-2.1-or-later
// The JSON API on a SoftHSM2 token: every route, well and badly used, held to its own description.

import { Validator } from '@seriousme/openapi-schema-validator';
import Ajv2020 from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { spawnSync } from 'node:child_process';
import http from 'node:http';
import https from 'node:https';
import { Rig, assert, end, equal, keyward, makeJwt, pause, test, until } from './rig.mjs';

const N_LISTENERS = 200;
const CLIENT_SECRET = 'a client secret of good length';
const LOOKER_SECRET = 'another client, who only looks';
const b64 = (text) => Buffer.from(text).toString('base64');

const rig = new Rig();
rig.useSoftHsm();
await rig.start(`
[[api.client]]
name = "backup"
secret = "${CLIENT_SECRET}"
verbs = ["use-keys"]
keys = ["0"]

[[api.client]]
name = "watcher"
secret = "${LOOKER_SECRET}"
verbs = []

[[api.client]]
name = "stranger"
secret = "one who may use another key"
verbs = ["use-keys"]
keys = ["6ba7b810-9dad-11d1-80b4-00c04fd430c8"]
`);
const admin = makeJwt();
const backup = makeJwt({ secret: CLIENT_SECRET });
const watcher = makeJwt({ secret: LOOKER_SECRET });

await until('the token', () => rig.isReady(1));
rig.keyward('keys', 'generate', '--kind', 'aes256', '--label', 'api');
await until('the key', async () => (await rig.call('GET', '/api/v1/status')).json.encrypt_key === '0');

// --- the description ---

const description = (await rig.call('GET', '/api/v1/openapi.json')).json;
const ajv = new Ajv2020({ strict: false, allErrors: true });
addFormats(ajv);
ajv.addSchema({ $id: 'openapi', ...description });

function checkAgainst(path, method, response) {
  const described = description.paths[path][method.toLowerCase()].responses[response.status];
  assert(described, `${method} ${path}: status ${response.status} is not described`);
  if (response.status === 204 || response.status === 303) return;
  const type = response.type.split(';')[0];
  const content = described.content[type];
  assert(content, `${method} ${path}: type ${type} of status ${response.status} is not described`);
  if (!response.json) return;
  const pointer = `openapi#/paths/${path.replaceAll('~', '~0').replaceAll('/', '~1')}/${method.toLowerCase()}/responses/${response.status}/content/${type.replaceAll('/', '~1')}/schema`;
  const validate = ajv.compile({ $ref: pointer.replaceAll('{', '%7B').replaceAll('}', '%7D') });
  assert(validate(response.json), `${method} ${path}: ${ajv.errorsText(validate.errors)}: ${response.text.slice(0, 300)}`);
}

await test('the description is valid OpenAPI 3.1', async () => {
  const result = await new Validator().validate(structuredClone(description));
  assert(result.valid, JSON.stringify(result.errors));
  equal(description.openapi, '3.1.0');
});

const fill = (path) => path.replace('{serial}', 'nobody').replace('{id}', '0');
const routes = Object.entries(description.paths).flatMap(([path, methods]) => Object.keys(methods).map((method) => [method.toUpperCase(), path]));

await test('each route that is described is there, and refuses what it should', async () => {
  for (const [method, path] of routes) {
    if (path.endsWith('/events')) continue;
    const open = path.startsWith('/health/');
    const nobody = await rig.request(method, fill(path));
    equal(nobody.status === 200 || nobody.status === 503, open, `${method} ${path} without a caller (${nobody.status})`);
    if (!open) {
      equal(nobody.status, 401, `${method} ${path} without a caller`);
      assert(nobody.headers['www-authenticate'], 'WWW-Authenticate is missing');
    }
    checkAgainst(path, method, nobody);
    const wrong = await rig.call('PUT', fill(path), undefined, { jwt: admin });
    equal(wrong.status, 405, `PUT ${path}`);
    assert(wrong.headers.allow.split(', ').includes(method), `Allow of ${path}: ${wrong.headers.allow}`);
    await pause(250); // five refusals a second are listened to
  }
});

await test('no route is missing in the description', async () => {
  const described = new Set(routes.map(([, path]) => path));
  const page = ['/', '/app.js', '/view.js', '/text.js', '/style.css', '/icon.svg', '/catalogue.json', '/login/{ticket}'];
  const known = JSON.parse(spawnSync(process.env.KW_TEST_LIST_ROUTES, { encoding: 'utf8' }).stdout);
  for (const [method, path] of known) {
    const generic = path.replace('/devices/*', '/devices/{serial}').replace(/\*/, path.startsWith('/login') ? '{ticket}' : '{id}');
    assert(page.includes(generic) || (described.has(generic) && method.toLowerCase() in description.paths[generic]), `${method} ${path} is not described`);
  }
  assert(known.length >= routes.length, 'there are fewer routes than described');
});

// --- looking ---

await test('what there is, as described', async () => {
  const serial = (await rig.call('GET', '/api/v1/devices')).json.devices[0].serial;
  for (const [path, real] of [['/api/v1/status'], ['/api/v1/devices'], ['/api/v1/devices/{serial}', `/api/v1/devices/${serial}`], ['/api/v1/keys'], ['/api/v1/news'],
    ['/api/v1/session'], ['/api/v1/openapi.json'], ['/health/alive'], ['/health/ready'], ['/health/state'], ['/metrics']]) {
    const response = await rig.call('GET', real || path, undefined, { jwt: watcher });
    equal(response.status, 200, path);
    checkAgainst(path, 'GET', response);
    equal(response.headers['cache-control'], 'no-store', path);
    assert(response.headers['content-security-policy'].startsWith("default-src 'none'"), path);
    const head = await rig.call('HEAD', real || path, undefined, { jwt: watcher });
    equal([head.status, head.bytes.length], [200, 0], `HEAD ${path}`);
  }
  const keys = (await rig.call('GET', '/api/v1/keys')).json.keys;
  equal(keys.map((key) => [key.id, key.state, key.encrypts, key.copies, key.devices.length]), [['0', 'ok', true, 1, 1]]);
  equal((await rig.call('GET', '/api/v1/devices/nobody')).status, 404);
  equal((await rig.call('GET', '/api/v1/jobs/77')).status, 404);
  equal((await rig.call('GET', '/api/v1/jobs/x')).status, 404);
  equal((await rig.call('GET', '/api/v1/nothing')).type, 'application/problem+json');
});

// --- messages ---

await test('there and back, as JSON and raw', async () => {
  for (const [text, associated] of [['', undefined], ['hello', undefined], ['x'.repeat(100000), 'header'], ['\u0000ü', '']]) {
    const sealed = await rig.call('POST', '/api/v1/encrypt', { plaintext: b64(text), ...(associated === undefined ? {} : { associated_data: b64(associated) }) });
    equal(sealed.status, 200, sealed.text.slice(0, 200));
    checkAgainst('/api/v1/encrypt', 'POST', sealed);
    equal(sealed.json.key, '0');
    const opened = await rig.call('POST', '/api/v1/decrypt', { ciphertext: sealed.json.ciphertext, ...(associated === undefined ? {} : { associated_data: b64(associated) }) });
    checkAgainst('/api/v1/decrypt', 'POST', opened);
    equal(Buffer.from(opened.json.plaintext, 'base64').toString(), text);
    // PHP writes slashes with a backslash.
    const php = await rig.call('POST', '/api/v1/decrypt', JSON.stringify({ ciphertext: sealed.json.ciphertext, associated_data: b64(associated || '') }).replaceAll('/', '\\/'));
    equal(php.json.plaintext, opened.json.plaintext);
    const raw = await rig.call('POST', '/api/v1/decrypt', Buffer.from(sealed.json.ciphertext, 'base64'), {
      headers: { 'Content-Type': 'application/octet-stream', ...(associated ? { 'Keyward-Associated-Data': b64(associated) } : {}) } });
    equal(raw.bytes.toString(), text);
    equal([raw.type, raw.headers['keyward-key']], ['application/octet-stream', '0']);
  }
  const raw = await rig.call('POST', '/api/v1/encrypt?key=0', Buffer.from('raw'), { headers: { 'Content-Type': 'application/octet-stream' } });
  const again = await rig.call('POST', '/api/v1/decrypt', { ciphertext: raw.bytes.toString('base64') });
  equal(Buffer.from(again.json.plaintext, 'base64').toString(), 'raw');
  const text = await rig.call('POST', '/api/v1/decrypt', { ciphertext: `keyward:1:${raw.bytes.toString('base64')}` });
  equal(text.json.plaintext, again.json.plaintext, 'an envelope as text');
  const same = await rig.call('POST', '/api/v1/rewrap', { ciphertext: raw.bytes.toString('base64') });
  checkAgainst('/api/v1/rewrap', 'POST', same);
  equal(same.json.changed, false);
  const chunked = await rig.call('POST', '/api/v1/encrypt', { plaintext: b64('chunked') }, { chunked: true });
  equal(chunked.status, 200);
});

await test('large messages, up to the limit and one byte over it', async () => {
  const limit = 16 * 1024 * 1024;
  const raw = { headers: { 'Content-Type': 'application/octet-stream' } };
  const body = Buffer.alloc(limit, 'k');
  const sealed = await rig.call('POST', '/api/v1/encrypt', body, raw);
  equal(sealed.status, 200, sealed.text.slice(0, 100));
  const opened = await rig.call('POST', '/api/v1/decrypt', sealed.bytes, raw);
  assert(opened.bytes.equals(body), 'something else came back');
  equal((await rig.call('POST', '/api/v1/encrypt', Buffer.alloc(limit + 1), raw)).status, 413);
  equal((await rig.call('POST', '/api/v1/encrypt', { plaintext: b64('x'.repeat(1024 * 1024)) })).status, 200);
  const json = await rig.call('POST', '/api/v1/encrypt', JSON.stringify({ plaintext: body.toString('base64') }));
  equal(json.status, 200, json.text.slice(0, 100));
  const over = await rig.call('POST', '/api/v1/encrypt', JSON.stringify({ plaintext: Buffer.alloc(limit + 1).toString('base64') }));
  equal(over.status, 413, over.text.slice(0, 100));
  equal((await rig.call('POST', '/api/v1/random', ' '.repeat(65537))).status, 413);
  const chunked = await rig.call('POST', '/api/v1/random', ' '.repeat(70000), { chunked: true });
  equal(chunked.status, 413, 'chunked');
});

await test('random bytes', async () => {
  const random = await rig.call('POST', '/api/v1/random', { size: 32 });
  checkAgainst('/api/v1/random', 'POST', random);
  equal(Buffer.from(random.json.bytes, 'base64').length, 32);
  const other = await rig.call('POST', '/api/v1/random', { size: 32 });
  assert(random.json.bytes !== other.json.bytes, 'twice the same');
  for (const size of [-1, 1.5, 65537, '32', null]) equal((await rig.call('POST', '/api/v1/random', { size })).status, 400, `size ${size}`);
});

await test('what is wrong with a body is said', async () => {
  const cases = [
    ['', 'empty'], ['{', 'byte 1'], ['[]', 'object is wanted'], ['{"plaintext":1}', 'has to be a string'], ['{}', '“plaintext” is missing'],
    ['{"plaintext":"aGk=","plaintext":"aGk="}', 'twice'], ['{"plaintext":"aGk=","more":1}', 'no member "more"'], ['{"plaintext":"a"}', 'no base64'],
    ['{"plaintext":"aGk"}', 'no base64'], ['{"plaintext":"aGk=","associated_data":"?"}', 'no base64'], ['{"plaintext":"aGk=","key":"99"}', '99'],
    [`{"plaintext":${'['.repeat(17)}${']'.repeat(17)}}`, 'too many brackets'], ['['.repeat(100000), 'too many brackets'], ['{"plaintext":"\xff"}', null],
    [`{"plaintext":"","associated_data":"${b64('a'.repeat(65537))}"}`, 'more than 65536 bytes'],
  ];
  for (const [body, text] of cases) {
    const response = await rig.call('POST', '/api/v1/encrypt', body === '' ? Buffer.alloc(0) : body);
    assert(response.status === 400 || response.status === 404, `${body.slice(0, 60)}: ${response.status} ${response.text}`);
    checkAgainst('/api/v1/encrypt', 'POST', response);
    if (text) assert(response.json.detail.includes(text), `${body.slice(0, 60)}: ${response.json.detail}`);
  }
  const bytes = await rig.call('POST', '/api/v1/encrypt', Buffer.from([0x7b, 0xff, 0x7d]));
  assert(bytes.json.detail.includes('UTF-8'), bytes.text);
  equal((await rig.call('POST', '/api/v1/encrypt', '{}', { headers: { 'Content-Type': 'text/html' } })).status, 415);
  const encoded = await rig.call('POST', '/api/v1/encrypt', '{}', { headers: { 'Content-Encoding': 'gzip' } });
  equal(encoded.status, 415);
  equal((await rig.call('POST', '/api/v1/encrypt', Buffer.from('x'), { headers: { 'Content-Type': 'application/octet-stream', 'Keyward-Associated-Data': '*' } })).status, 400);
  const envelope = (await rig.call('POST', '/api/v1/encrypt', { plaintext: b64('whole') })).json.ciphertext;
  const damaged = Buffer.from(envelope, 'base64');
  damaged[damaged.length - 1] ^= 1;
  const refused = await rig.call('POST', '/api/v1/decrypt', { ciphertext: damaged.toString('base64') });
  equal([refused.status, refused.json.type], [422, 'urn:keyward:error:decrypt-failed']);
  checkAgainst('/api/v1/decrypt', 'POST', refused);
  equal((await rig.call('POST', '/api/v1/decrypt', { ciphertext: envelope, associated_data: b64('other') })).status, 422);
  equal((await rig.call('POST', '/api/v1/decrypt', { ciphertext: b64('no envelope at all') })).status, 400);
});

await test('batches, with bad members', async () => {
  const items = [{ plaintext: b64('one') }, { plaintext: 'bad!' }, { plaintext: b64('three'), associated_data: b64('a') }, { more: 1 }, 'x'];
  const sealed = await rig.call('POST', '/api/v1/encrypt', { items });
  equal(sealed.status, 200);
  checkAgainst('/api/v1/encrypt', 'POST', sealed);
  equal(sealed.json.results.map((result) => ('error' in result ? result.error.status : 200)), [200, 400, 200, 400, 400]);
  const opened = await rig.call('POST', '/api/v1/decrypt', { items: [
    { ciphertext: sealed.json.results[0].ciphertext }, { ciphertext: sealed.json.results[2].ciphertext }, { ciphertext: sealed.json.results[2].ciphertext, associated_data: b64('a') }] });
  checkAgainst('/api/v1/decrypt', 'POST', opened);
  equal(opened.json.results.map((result) => (result.error ? result.error.status : Buffer.from(result.plaintext, 'base64').toString())), ['one', 422, 'three']);
  const many = Array.from({ length: 100 }, (_, i) => ({ plaintext: b64(`message ${i}`) }));
  const hundred = await rig.call('POST', '/api/v1/encrypt', { items: many });
  equal(hundred.json.results.length, 100);
  const back = await rig.call('POST', '/api/v1/decrypt', { items: hundred.json.results.map(({ ciphertext }) => ({ ciphertext })) });
  equal(back.json.results.map((result) => Buffer.from(result.plaintext, 'base64').toString()), many.map((_, i) => `message ${i}`), 'order');
  equal((await rig.call('POST', '/api/v1/encrypt', { items: [...many, many[0]] })).status, 400, '101');
  equal((await rig.call('POST', '/api/v1/encrypt', { items: [] })).status, 400, 'none');
  equal((await rig.call('POST', '/api/v1/encrypt', { items: [], more: 1 })).status, 400);
  const random = await rig.call('POST', '/api/v1/random', { items: [{ size: 1 }, { size: 70000 }] });
  checkAgainst('/api/v1/random', 'POST', random);
  equal(random.json.results.map((result) => Boolean(result.error)), [false, true]);
});

// --- who may ---

await test('clients may do what they are allowed', async () => {
  const sealed = await rig.call('POST', '/api/v1/encrypt', { plaintext: b64('for backup') }, { jwt: backup });
  equal(sealed.status, 200);
  const stranger = await rig.call('POST', '/api/v1/encrypt', { plaintext: b64('x') }, { jwt: makeJwt({ secret: 'one who may use another key' }) });
  equal(stranger.status, 403, stranger.text);
  const strange = await rig.call('POST', '/api/v1/decrypt', { ciphertext: sealed.json.ciphertext }, { jwt: makeJwt({ secret: 'one who may use another key' }) });
  equal(strange.status, 403, strange.text);
  for (const path of ['/api/v1/encrypt', '/api/v1/test', '/api/v1/check', '/api/v1/devices/x/retry', '/api/v1/keys/0/accept']) {
    const response = await rig.call('POST', path, {}, { jwt: watcher });
    equal(response.status, 403, path);
    assert(response.json.detail.includes('no right'), response.text);
  }
  equal((await rig.call('POST', '/api/v1/test', undefined, { jwt: backup })).status, 403);
  equal((await rig.call('POST', '/api/v1/keys/0/accept', undefined, { jwt: admin })).status, 403, 'the secret of [jwt] manages nothing');
});

await test('tokens that are not valid', async () => {
  const bad = {
    'another secret': makeJwt({ secret: 'wrong secret of good length' }), 'another audience': makeJwt({ audience: 'hsmdaemon' }), expired: makeJwt({ expires: -600 }),
    'no expiry': makeJwt({ claims: { exp: undefined } }), 'alg none': makeJwt({ header: { alg: 'none', typ: 'JWT' } }), 'HS512 in name': makeJwt({ header: { alg: 'HS512', typ: 'JWT' } }),
    garbage: 'x.y.z', empty: '', huge: 'a'.repeat(5000),
  };
  for (const [name, jwt] of Object.entries(bad)) {
    const response = await rig.request('GET', '/api/v1/status', { headers: { Authorization: `Bearer ${jwt}` } });
    equal(response.status, 401, name);
    await pause(250);
  }
  equal((await rig.request('GET', '/api/v1/status', { headers: { Authorization: 'Basic eDp5' } })).status, 401);
  await pause(1100);
});

await test('a token that expires is not remembered beyond', async () => {
  // The leeway is two minutes.
  const jwt = makeJwt({ expires: -118 });
  equal((await rig.call('GET', '/api/v1/status', undefined, { jwt })).status, 200);
  equal((await rig.call('GET', '/api/v1/status', undefined, { jwt })).status, 200);
  await until('the end of it', async () => (await rig.call('GET', '/api/v1/status', undefined, { jwt })).status === 401, 6);
});

await test('five failures a second, then 429; who is known goes on', async () => {
  await pause(1100);
  const wrong = { headers: { Authorization: 'Bearer x.y.z' } };
  const statuses = [];
  for (let i = 0; i < 8; i++) statuses.push((await rig.request('GET', '/api/v1/status', wrong)).status);
  equal(statuses, [401, 401, 401, 401, 401, 429, 429, 429]);
  equal((await rig.call('GET', '/api/v1/status', undefined, { jwt: admin })).status, 200, 'a known token');
  equal((await rig.request('GET', '/api/v1/status', { ...wrong, localAddress: '127.0.0.9' })).status, 401, 'another address');
  await pause(1100);
  equal((await rig.request('GET', '/api/v1/status', wrong)).status, 401, 'a second later');
  await pause(1100);
});

await test('names that are not ours', async () => {
  for (const [host, status] of [[`localhost:${rig.port}`, 200], ['127.0.0.1', 200], ['[::1]:1', 200], ['LOCALHOST', 200], ['evil.example', 421], ['localhost.evil.example', 421]]) {
    const response = await rig.call('GET', '/api/v1/status', undefined, { jwt: admin, headers: { Host: host } });
    equal(response.status, status, `Host ${host}`);
  }
  const link = rig.link();
  equal((await rig.request('GET', link, { headers: { Host: 'evil.example' } })).status, 421);
  equal((await rig.request('HEAD', link)).status, 401, 'HEAD lets nobody in');
  equal((await rig.request('GET', link)).status, 303, 'the link is still good');
});

await test('browsers: links, cookies, forgery, theft', async () => {
  const link = rig.link();
  const first = await rig.request('GET', link);
  equal(first.status, 303);
  const [cookie, ...attributes] = first.headers['set-cookie'][0].split('; ');
  equal(attributes.sort(), ['HttpOnly', 'Max-Age=43200', 'Path=/', 'SameSite=Strict']);
  const second = await rig.request('GET', link);
  equal(second.status, 401, 'a second use');
  assert(second.text.includes('keyward webui login'), 'what to do is missing');
  equal((await rig.request('GET', '/login/short')).status, 401);
  const { json } = await rig.request('GET', '/api/v1/session', { headers: { Cookie: `a=b; ${cookie}; c=d` } });
  assert(json.token && json.verbs.includes('test'), JSON.stringify(json));
  const right = { Cookie: cookie, Origin: rig.origin, 'X-Keyward-Token': json.token };
  const post = (headers) => rig.request('POST', '/api/v1/random', { headers: { 'Content-Type': 'application/json', ...headers }, body: '{"size":1}' });
  equal((await post(right)).status, 200, 'as the page does it');
  for (const [name, change] of Object.entries({ 'no token': { 'X-Keyward-Token': undefined }, 'wrong token': { 'X-Keyward-Token': 'a'.repeat(64) }, 'no origin': { Origin: undefined },
    'another origin': { Origin: 'http://evil.example' }, 'another port': { Origin: 'http://localhost:1' }, 'null': { Origin: 'null' }, https: { Origin: rig.origin.replace('http', 'https') } })) {
    const headers = Object.fromEntries(Object.entries({ ...right, ...change }).filter(([, value]) => value !== undefined));
    const response = await post(headers);
    equal(response.status, 403, name);
  }
  equal((await post({ ...right, 'Content-Type': 'text/plain' })).status, 415, 'a form of another site');
  const thief = await rig.request('GET', '/api/v1/status', { headers: { Cookie: cookie }, localAddress: '127.0.0.2' });
  equal(thief.status, 401, 'a stolen cookie');
  equal((await rig.request('GET', '/api/v1/status', { headers: { Cookie: cookie } })).status, 401, 'and then its owner signs in anew');
  const other = await rig.signIn();
  const out = await rig.request('DELETE', '/api/v1/session', { headers: { Cookie: other.cookie, Origin: rig.origin, 'X-Keyward-Token': other.token } });
  equal(out.status, 204);
  equal((await rig.request('GET', '/api/v1/status', { headers: { Cookie: other.cookie } })).status, 401, 'after signing out');
  await pause(1100);
});

await test('a session outlives the daemon', async () => {
  const { cookie } = await rig.signIn();
  await rig.stopDaemon();
  await rig.startDaemon();
  equal((await rig.request('GET', '/api/v1/session', { headers: { Cookie: cookie } })).status, 200);
  await until('the token', () => rig.isReady(1));
  await until('the key', async () => (await rig.call('GET', '/api/v1/status')).json.encrypt_key === '0');
});

await test('a peer on the UNIX socket is known by his user id', async () => {
  const response = await rig.request('GET', '/api/v1/session', { socket: rig.socket });
  equal(response.status, 200);
  assert(response.json.verbs.includes('manage-keys'), response.text);
  equal((await rig.request('POST', '/api/v1/random', { socket: rig.socket, body: '{"size":4}', headers: { 'Content-Type': 'application/json' } })).status, 200);
});

// --- administration ---

await test('Test HSM as a job', async () => {
  const begun = await rig.call('POST', '/api/v1/test');
  equal(begun.status, 202, begun.text);
  checkAgainst('/api/v1/test', 'POST', begun);
  equal(begun.headers.location, `/api/v1/jobs/${begun.json.id}`);
  const done = await until('its end', async () => {
    const response = await rig.call('GET', begun.headers.location);
    checkAgainst('/api/v1/jobs/{id}', 'GET', response);
    return response.json.state === 'done' && response.json;
  });
  equal(done.failed, 0, JSON.stringify(done.results));
  assert(done.passed > 3, `${done.passed} passed`);
  const cancelled = await rig.call('DELETE', begun.headers.location);
  equal(cancelled.status, 200);
});

await test('check, retry, accept', async () => {
  const check = await rig.call('POST', '/api/v1/check');
  equal(check.status, 200, check.text);
  checkAgainst('/api/v1/check', 'POST', check);
  const { cookie, token } = await rig.signIn();
  const headers = { Cookie: cookie, Origin: rig.origin, 'X-Keyward-Token': token };
  const accept = await rig.request('POST', '/api/v1/keys/0/accept', { headers });
  equal(accept.status, 204, accept.text);
  checkAgainst('/api/v1/keys/{id}/accept', 'POST', accept);
  const wrong = await rig.request('POST', '/api/v1/keys/0/accept', { headers: { ...headers, 'Content-Type': 'application/json' }, body: `{"fingerprint":"${'0'.repeat(32)}"}` });
  assert(wrong.status >= 400, 'a fingerprint that nobody has');
  checkAgainst('/api/v1/keys/{id}/accept', 'POST', wrong);
  equal((await rig.request('POST', '/api/v1/keys/0/accept', { headers: { ...headers, 'Content-Type': 'application/json' }, body: '{"x":1}' })).status, 400);
  const nobody = await rig.request('POST', '/api/v1/devices/nobody/retry', { headers });
  assert(nobody.status >= 400, nobody.text);
  checkAgainst('/api/v1/devices/{serial}/retry', 'POST', nobody);
});

await test('what is done is in the audit log', async () => {
  const audit = rig.run('cat', [rig.path('audit.log')]).stdout;
  for (const verb of ['encrypt', 'decrypt', 'run-test', 'check-keys', 'accept-key']) assert(audit.includes(verb), `${verb} is missing`);
  assert(audit.includes('"backup"'), 'the client is missing');
});

// --- figures ---

await test('figures pass promtool', async () => {
  const envelope = Buffer.from((await rig.call('POST', '/api/v1/encrypt', { plaintext: b64('x') })).json.ciphertext, 'base64');
  envelope[envelope.length - 1] ^= 1;
  equal((await rig.call('POST', '/api/v1/decrypt', { ciphertext: envelope.toString('base64') })).status, 422);
  const { text } = await rig.call('GET', '/metrics');
  const result = spawnSync(process.env.KW_TEST_PROMTOOL, ['check', 'metrics'], { input: text, encoding: 'utf8' });
  equal([result.status, result.stdout + result.stderr], [0, ''], 'promtool');
  for (const name of ['keyward_devices{state="ready"} 1', 'keyward_consistent 1', 'keyward_key_copies{key="0"} 1', 'keyward_requests_total{verb="encrypt",result="ok"}',
    'keyward_requests_total{verb="decrypt",result="decrypt-failed"}', 'keyward_request_duration_seconds_bucket{verb="encrypt",le="+Inf"}', 'keyward_build_info{version=', 'process_resident_memory_bytes',
    'keyward_device_jobs_total', 'keyward_device_queue_jobs']) assert(text.includes(name), `${name} is missing`);
  const rules = spawnSync(process.env.KW_TEST_PROMTOOL, ['check', 'rules', process.env.KW_TEST_ALERT_RULES], { encoding: 'utf8' });
  equal(rules.status, 0, rules.stdout + rules.stderr);
});

// --- events ---

function listen(jwt = watcher) {
  return new Promise((resolve, reject) => {
    const request = http.get({ host: '127.0.0.1', port: rig.port, path: '/api/v1/events', agent: false, headers: { Host: 'localhost', Authorization: `Bearer ${jwt}` } }, (response) => {
      const listener = { request, status: response.statusCode, type: response.headers['content-type'], text: '', ended: false };
      response.setEncoding('utf8');
      response.on('data', (data) => { listener.text += data; });
      response.on('error', () => { listener.ended = true; });
      response.on('close', () => { listener.ended = true; });
      resolve(listener);
    });
    request.on('error', reject);
  });
}

await test('200 listeners hear of a job, and leave nothing behind', async () => {
  const descriptors = () => rig.run('ls', [`/proc/${rig.daemon.pid}/fd`]).stdout.split('\n').length;
  const before = descriptors();
  const listeners = [];
  for (let i = 0; i < N_LISTENERS; i++) listeners.push(await listen());
  equal(listeners.map(({ status, type }) => [status, type]).find(([status, type]) => status !== 200 || type !== 'text/event-stream'), undefined);
  await until('the first events', () => listeners.every(({ text }) => ['status', 'devices', 'keys', 'news'].every((name) => text.includes(`event: ${name}\n`))));
  for (const listener of listeners) listener.text = '';
  await rig.call('POST', '/api/v1/test');
  await until('the job at all of them', () => listeners.every(({ text }) => text.includes('event: job\n') && text.includes('"state":"done"')));
  await until('a beat at all of them', () => listeners.every(({ text }) => text.includes('event: beat')), 15);
  for (const { request } of listeners) request.destroy();
  await until('their end', () => descriptors() <= before + 2, 30);
});

await test('events end with the daemon, which ends at once', async () => {
  const listeners = [await listen(), await listen()];
  const start = Date.now();
  await rig.stopDaemon();
  assert(Date.now() - start < 4000, `it took ${Date.now() - start} ms`);
  await until('the end of the events', () => listeners.every(({ ended }) => ended));
  await rig.startDaemon();
});

await test('health when no token is there', async () => {
  await until('the token', () => rig.isReady(1));
  equal((await rig.request('GET', '/health/ready')).status, 200);
  await rig.stopDaemon();
  rig.run('sh', ['-c', `mv '${rig.path('tokens')}' '${rig.path('tokens-away')}' && mkdir '${rig.path('tokens')}'`]);
  await rig.startDaemon();
  const ready = await rig.request('GET', '/health/ready');
  equal(ready.status, 503);
  assert(ready.text.length > 20 && ready.headers['retry-after'] === undefined, ready.text);
  equal((await rig.request('GET', '/health/alive')).status, 200);
  const state = (await rig.request('GET', '/health/state')).json;
  assert(['waiting', 'starting'].includes(state.state), JSON.stringify(state));
  const refused = await rig.call('POST', '/api/v1/encrypt', { plaintext: '' });
  equal(refused.status, 503, refused.text);
  assert(refused.headers['retry-after'], 'Retry-After is missing');
  checkAgainst('/api/v1/encrypt', 'POST', refused);
});

await test('anybody may look, and nobody act, where the configuration says so', async () => {
  const open = new Rig();
  open.useSoftHsm();
  await open.start('[webui]\npublic_status = true\nhosts = ["keys.example"]\n');
  for (const path of ['/', '/api/v1/status', '/api/v1/devices', '/api/v1/keys', '/metrics']) equal((await open.request('GET', path)).status, 200, path);
  equal((await open.request('GET', '/api/v1/status', { headers: { Host: 'keys.example' } })).status, 200);
  equal((await open.request('GET', '/api/v1/status', { headers: { Host: 'evil.example' } })).status, 421);
  for (const path of ['/api/v1/encrypt', '/api/v1/test', '/api/v1/check']) {
    equal((await open.request('POST', path, { body: '{}', headers: { 'Content-Type': 'application/json' } })).status, 401, path);
  }
  equal((await open.request('GET', '/api/v1/session')).json, { token: null, verbs: [] });
  open.destroy();
});

await test('under TLS cookies are for TLS alone', async () => {
  const secure = new Rig();
  secure.useSoftHsm();
  secure.run('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '1', '-subj', '/CN=localhost', '-keyout', secure.path('key.pem'), '-out', secure.path('cert.pem')]);
  secure.serverConfig = `tls_certificate = "${secure.path('cert.pem')}"\ntls_key = "${secure.path('key.pem')}"\n`;
  secure.client = https;
  await secure.start();
  const link = await until('its place on the bus', () => secure.run(keyward, ['--bus-address', secure.bus, 'webui', 'login'], { mayFail: true }).stdout.trim());
  assert(link.startsWith(`https://localhost:${secure.port}/login/`), link);
  const response = await secure.request('GET', new URL(link).pathname);
  equal(response.status, 303);
  assert(response.headers['set-cookie'][0].split('; ').includes('Secure'), response.headers['set-cookie'][0]);
  const cookie = response.headers['set-cookie'][0].split(';')[0];
  const { json } = await secure.request('GET', '/api/v1/session', { headers: { Cookie: cookie } });
  const act = (origin) => secure.request('DELETE', '/api/v1/session', { headers: { Cookie: cookie, Origin: origin, 'X-Keyward-Token': json.token } });
  equal((await act(`http://localhost:${secure.port}`)).status, 403, 'a page without TLS');
  equal((await act(`https://localhost:${secure.port}`)).status, 204);
  secure.destroy();
});

rig.destroy();
end();
