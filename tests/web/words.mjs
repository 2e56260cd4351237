// SPDX-License-Identifier: LGPL-2.1-or-later
// The texts of the page, without a browser.

import { readFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';

const source = readFileSync(process.argv[2], 'utf8');
const texts = await import(`data:text/javascript,${encodeURIComponent(source)}`);
let count = 0;
let failed = 0;

async function test(name, body) {
  count++;
  try {
    await body();
    console.log(`ok ${count} - ${name}`);
  } catch (error) {
    failed++;
    console.log(`not ok ${count} - ${name}`);
    console.log(`# ${error.message}`);
  }
}

function equal(actual, expected) {
  if (actual !== expected) throw new Error(`expected ${expected}, got ${actual}`);
}

await test('a name of a device is one word of a command, whatever is in it', () => {
  for (const name of ['DENK0100001', 'label:my key', '$(reboot)', '`id`', "it's", '; id', 'a\nb', '"', '\\', '', '*', '~', '-x']) {
    const shown = spawnSync('sh', ['-c', `printf %s ${texts.shellWord(name)}`], { encoding: 'utf8' });
    equal(shown.stdout, name);
  }
  equal(texts.shellWord('DENK0100001'), 'DENK0100001');
});

await test('sentences are found by their pattern, and names are no texts', async () => {
  globalThis.fetch = async () => ({ ok: true, json: async () => ({ language: 'de', strings: { 'Device %s is gone': 'Gerät %s ist weg' } }) });
  await texts.loadCatalogue('de');
  equal(texts.sentence('Device X is gone'), 'Gerät X ist weg');
  for (const name of ['constructor', 'toString', '__proto__']) {
    equal(texts.sentence(name), name);
    equal(texts.sentence(`Device ${name} is gone`), `Gerät ${name} ist weg`);
  }
});

console.log(`1..${count}`);
process.exitCode = failed ? 1 : 0;
