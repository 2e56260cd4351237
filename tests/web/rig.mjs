// SPDX-License-Identifier: LGPL-2.1-or-later
// A daemon with its bus, its tokens and its state in a folder of its own, and tests that print TAP.

import { spawn, spawnSync } from 'node:child_process';
import { createHmac, randomBytes } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const keywardd = process.env.KW_TEST_KEYWARDD;
export const keyward = process.env.KW_TEST_KEYWARD;
export const jwtSecret = randomBytes(24).toString('hex');

const POLL_MILLISECONDS = 10;
const CARD_PIN = '648219';
const SLOW = process.env.KW_TEST_SANITIZED ? 4 : 1;

// --- TAP ---

let count = 0;
let failed = 0;

export async function test(name, body) {
  count++;
  try {
    await body();
    console.log(`ok ${count} - ${name}`);
  } catch (error) {
    failed++;
    console.log(`not ok ${count} - ${name}`);
    for (const line of String(error.stack || error).split('\n')) console.log(`# ${line}`);
  }
}

export function end() {
  console.log(`1..${count}`);
  process.exit(failed ? 1 : 0);
}

export function assert(condition, message) {
  if (!condition) throw new Error(message);
}

export function equal(actual, expected, what = 'value') {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  assert(a === b, `${what}: expected ${b}, got ${a}`);
}

// --- waiting ---

export const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

export async function until(what, condition, seconds = 20) {
  const by = Date.now() + seconds * 1000 * SLOW;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > by) throw new Error(`waited in vain for ${what}`);
    await pause(POLL_MILLISECONDS);
  }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer();
    server.on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

// --- tokens ---

const base64url = (data) => Buffer.from(data).toString('base64url');

export function makeJwt({ secret = jwtSecret, audience = 'keyward', expires = 600, claims = {}, header = { alg: 'HS256', typ: 'JWT' } } = {}) {
  const now = Math.floor(Date.now() / 1000);
  const signed = `${base64url(JSON.stringify(header))}.${base64url(JSON.stringify({ iss: 'test', aud: audience, iat: now, exp: now + expires, ...claims }))}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

// --- the daemon ---

export class Rig {
  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), 'keyward-web-'));
    this.environment = { ...process.env, LC_ALL: 'C.UTF-8', LANGUAGE: '' };
    this.children = [];
    this.serverConfig = '';
    this.client = http;
    process.on('exit', () => this.destroy());
  }

  // Where screenshots and logs are kept when somebody wants to look at them.
  static artefact(name) {
    const directory = process.env.KW_TEST_ARTEFACTS || join(process.cwd(), 'artefacts');
    mkdirSync(directory, { recursive: true });
    return join(directory, name);
  }

  path(name) {
    return join(this.directory, name);
  }

  spawn(program, args, name) {
    const log = openSync(this.path(`${name}.out`), 'a');
    const child = spawn(program, args, { env: this.environment, stdio: ['ignore', log, log] });
    closeSync(log);
    this.children.push(child);
    return child;
  }

  // Three cards, when this runs inside keyward-cards.
  useCards() {
    this.controls = process.env.KEYWARD_CARD_CONTROLS.split(':');
    writeFileSync(this.path('pin'), `${CARD_PIN}\n`, { mode: 0o600 });
    this.token = `[hsm]\nhsm_model = "smartcard"\nhsm_keyid = 0\nhsm_pin = "file:${this.path('pin')}"\n`;
  }

  // A SoftHSM2 token with an AES key.
  useSoftHsm(more = '') {
    const module = ['/usr/lib/softhsm/libsofthsm2.so', '/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so'].find(existsSync);
    const pin = 'api-4711';
    mkdirSync(this.path('tokens'));
    writeFileSync(this.path('softhsm2.conf'), `directories.tokendir = ${this.path('tokens')}\nobjectstore.backend = file\nlog.level = ERROR\n`);
    this.environment.SOFTHSM2_CONF = this.path('softhsm2.conf');
    this.run('softhsm2-util', ['--init-token', '--free', '--label', 'web', '--so-pin', '12345678', '--pin', pin]);
    writeFileSync(this.path('pin'), `${pin}\n`, { mode: 0o600 });
    this.token = `[hsm]\nhsm_model = "softhsm"\nhsm_keyid = 0\nhsm_pin = "file:${this.path('pin')}"\n${more}\n[pkcs11]\ntoken_label = "web"\n`;
  }

  run(program, args, options = {}) {
    const result = spawnSync(program, args, { env: this.environment, encoding: 'utf8', timeout: 60000 * SLOW, ...options });
    if (result.status !== 0 && !options.mayFail) throw new Error(`${program} ${args.join(' ')}: ${result.stdout}${result.stderr}${result.error || ''}`);
    return result;
  }

  keyward(...args) {
    return this.run(keyward, ['--bus-address', this.bus, ...args]).stdout.trim();
  }

  async start(config = '') {
    this.port = await freePort();
    this.origin = `http://localhost:${this.port}`;
    this.socket = this.path('http.sock');
    this.bus = `unix:path=${this.path('bus')}`;
    mkdirSync(this.path('state'));
    writeFileSync(this.path('keyward.toml'), `[logger]
path = "${this.path('keywardd.log')}"
level = "info"
[audit]
path = "${this.path('audit.log')}"
[server]
port = ${this.port}
socket = "${this.socket}"
${this.serverConfig}[jwt]
secret = "${jwtSecret}"
[state]
directory = "${this.path('state')}"
${this.token}
${config}`, { mode: 0o600 });
    this.spawn('dbus-daemon', ['--session', '--nofork', '--nopidfile', `--address=${this.bus}`], 'bus');
    await until('the bus', () => existsSync(this.path('bus')));
    await this.startDaemon();
  }

  async startDaemon() {
    this.daemon = this.spawn(keywardd, ['--config', this.path('keyward.toml'), '--bus-address', this.bus], 'daemon');
    await until('the daemon', async () => {
      assert(this.daemon.exitCode === null, `keywardd ended: ${readFileSync(this.path('daemon.out'), 'utf8')}`);
      return (await this.request('GET', '/health/alive').catch(() => ({}))).status === 200;
    });
  }

  async stopDaemon() {
    assert(this.daemon.exitCode === null && this.daemon.signalCode === null, `the daemon is gone already: ${this.daemon.signalCode || this.daemon.exitCode}`);
    const gone = new Promise((resolve) => { this.daemon.on('exit', (code, signal) => resolve([code, signal])); });
    this.daemon.kill('SIGTERM');
    // It ends by itself, and leaves nothing behind that a sanitizer would find.
    equal(await gone, [0, null], `the end of the daemon: ${readFileSync(this.path('daemon.out'), 'utf8').slice(-3000)}`);
  }

  destroy() {
    for (const child of this.children.splice(0).reverse()) {
      if (child.exitCode === null) child.kill('SIGKILL');
    }
    if (process.env.KW_TEST_KEEP) console.log(`# kept: ${this.directory}`);
    else rmSync(this.directory, { recursive: true, force: true });
  }

  log() {
    return readFileSync(this.path('keywardd.log'), 'utf8');
  }

  // An order to a virtual card.
  card(number, order) {
    return new Promise((resolve, reject) => {
      const socket = net.createConnection(this.controls[number], () => socket.end(`${order}\n`));
      let answer = '';
      socket.setEncoding('utf8');
      socket.on('data', (data) => { answer += data; });
      socket.on('error', reject);
      socket.on('end', () => (answer.startsWith('ok') ? resolve(answer) : reject(new Error(`card ${number}: ${order}: ${answer}`))));
    });
  }

  // One HTTP request, with every header as it is given.
  request(method, path, { headers = {}, body = null, socket = null, agent = undefined, localAddress = undefined, chunked = false } = {}) {
    const where = socket ? { socketPath: socket } : { host: '127.0.0.1', port: this.port, localAddress };
    return new Promise((resolve, reject) => {
      const length = body !== null && !chunked ? { 'Content-Length': Buffer.byteLength(body) } : {};
      const request = this.client.request({ ...where, method, rejectUnauthorized: false, path, agent: agent || false, headers: { Host: `localhost:${this.port}`, ...length, ...headers } }, (response) => {
        const chunks = [];
        response.on('data', (chunk) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const bytes = Buffer.concat(chunks);
          const type = response.headers['content-type'] || '';
          resolve({ status: response.statusCode, headers: response.headers, type, bytes, text: bytes.toString('utf8'),
            json: type.includes('json') && bytes.length ? JSON.parse(bytes.toString('utf8')) : null });
        });
      });
      request.on('error', reject);
      if (body !== null) request.write(body);
      request.end();
    });
  }

  // A request of a caller with a JSON Web Token.
  call(method, path, json, { jwt = makeJwt(), headers = {}, ...more } = {}) {
    const body = json === undefined ? null : typeof json === 'string' || Buffer.isBuffer(json) ? json : JSON.stringify(json);
    const type = body !== null && !('Content-Type' in headers) ? { 'Content-Type': 'application/json' } : {};
    return this.request(method, path, { ...more, body, headers: { ...(jwt ? { Authorization: `Bearer ${jwt}` } : {}), ...type, ...headers } });
  }

  // What “keyward webui login” prints, as a path.
  link() {
    const url = this.keyward('webui', 'login').split('\n').find((line) => line.includes('/login/')).trim();
    return new URL(url).pathname;
  }

  async signIn(more = {}) {
    const response = await this.request('GET', this.link(), more);
    equal(response.status, 303, 'status of the link');
    const cookie = response.headers['set-cookie'][0].split(';')[0];
    const session = (await this.request('GET', '/api/v1/session', { ...more, headers: { Cookie: cookie } })).json;
    return { cookie, token: session.token, setCookie: response.headers['set-cookie'][0] };
  }

  // Which card has a serial number.
  async mapCards() {
    this.cards = new Map();
    for (let i = 0; i < this.controls.length; i++) this.cards.set(/serial=(\S+)/.exec(await this.card(i, 'status'))[1], i);
  }

  cardOf(serial) {
    assert(this.cards.has(serial), `no card has the serial number ${serial}: ${[...this.cards.keys()]}`);
    return this.cards.get(serial);
  }

  async isReady(devices) {
    const { json } = await this.call('GET', '/api/v1/status');
    return json && json.ready_devices === devices;
  }
}
