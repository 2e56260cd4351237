// SPDX-License-Identifier: LGPL-2.1-or-later
// wrk sends requests for a minute while cards come and go: as long as one is ready, none fails. Run by keyward-cards.

import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { Rig, assert, end, equal, makeJwt, pause, test, until } from './rig.mjs';

const SECONDS = Number(process.env.KW_TEST_LOAD_SECONDS || 60);
const N_CONNECTIONS = 8;

const rig = new Rig();
rig.useCards();
await rig.start();
await rig.mapCards();
await until('three devices', () => rig.isReady(3), 60);
rig.keyward('keys', 'generate', '--kind', 'aes256', '--label', 'load');
await until('the key', async () => (await rig.call('GET', '/api/v1/status')).json.state === 'ready');

// A script of wrk: encrypt and decrypt in turn, and count what came.
function script(envelope) {
  return `
local n = 0
local list = { { "/api/v1/encrypt", '{"plaintext":"aGVsbG8="}' }, { "/api/v1/decrypt", '{"ciphertext":"${envelope}"}' } }
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() good = 0; bad = 0; texts = "" end
function request()
  n = n + 1
  local one = list[n % 2 + 1]
  return wrk.format("POST", one[1], { ["Authorization"] = "Bearer ${makeJwt()}", ["Content-Type"] = "application/json", ["Host"] = "localhost" }, one[2])
end
function response(status, headers, body)
  if status == 200 then good = good + 1 else bad = bad + 1; if #texts < 500 then texts = texts .. status .. " " .. body .. "; " end end
end
function done(summary, latency, requests)
  for _, thread in ipairs(threads) do print("good " .. thread:get("good") .. " bad " .. thread:get("bad") .. " texts " .. thread:get("texts")) end
  print("errors " .. summary.errors.connect .. " " .. summary.errors.read .. " " .. summary.errors.write .. " " .. summary.errors.timeout)
  print("longest " .. latency.max)
end
`;
}

await test(`${SECONDS} s of wrk while cards come and go: no 5xx while one is ready`, async () => {
  const { ciphertext } = (await rig.call('POST', '/api/v1/encrypt', { plaintext: Buffer.from('hello').toString('base64') })).json;
  writeFileSync(rig.path('load.lua'), script(ciphertext));
  const wrk = spawn('wrk', ['-t1', `-c${N_CONNECTIONS}`, `-d${SECONDS}s`, '--timeout', '20s', '-s', rig.path('load.lua'), `http://127.0.0.1:${rig.port}/`]);
  let output = '';
  wrk.stdout.on('data', (data) => { output += data; });
  wrk.stderr.on('data', (data) => { output += data; });
  const ended = new Promise((resolve) => { wrk.on('close', resolve); });
  let running = true;
  ended.then(() => { running = false; });
  let harms = 0;
  // One card is always left alone.
  for (let i = 0; running; i++) {
    const card = i % 2;
    const [harm, undo] = i % 5 === 4 ? ['freeze', 'thaw'] : ['eject', 'insert'];
    await rig.card(card, harm);
    harms++;
    await pause(700);
    await rig.card(card, undo);
    await pause(900);
  }
  await ended;
  assert(output.includes('longest '), output);
  const [, good, bad] = /^good (\d+) bad (\d+)/m.exec(output).map(Number);
  console.log(`# ${harms} harms; ${good} requests; the longest took ${Math.round(Number(/^longest ([\d.e+]+)$/m.exec(output)[1]) / 1000)} ms`);
  equal(bad, 0, output);
  equal(/^errors (.*)$/m.exec(output)[1], '0 0 0 0', 'connections');
  assert(good > SECONDS * 20, `${good} requests`);
  assert(harms > SECONDS / 3, `${harms} harms`);
  await until('all devices', () => rig.isReady(3), 60);
});

await test('the daemon ends well', () => rig.stopDaemon());
rig.destroy();
end();
