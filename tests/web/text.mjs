// SPDX-License-Identifier: LGPL-2.1-or-later
// Sentences of the daemon as the page shows them: what cli/test-sentence.c shows of the commands, with the real catalogue.

import { readFileSync } from 'node:fs';

const [, , source, file] = process.argv;
const { loadCatalogue, sentence, t } = await import(`data:text/javascript,${encodeURIComponent(readFileSync(source, 'utf8'))}`);
let count = 0;

function check(name, found, expected) {
  count += 1;
  console.log(`${found === expected ? 'ok' : 'not ok'} ${count} - ${name}`);
  if (found !== expected) console.log(`# ${found}\n# where this is wanted:\n# ${expected}`);
}

check('English as it is', sentence('3 devices ready'), '3 devices ready');
globalThis.fetch = async () => ({ ok: true, json: async () => JSON.parse(readFileSync(file, 'utf8')) });
await loadCatalogue('de');
check('exact', sentence('No device is plugged in'), 'Kein Gerät ist eingesteckt');
check('by pattern', sentence('3 devices ready'), '3 Geräte bereit');
check('a number is wanted', sentence('many devices ready'), 'many devices ready');
check('in another order', sentence('Cannot write /x: No such file'), '/x kann nicht geschrieben werden: No such file');
check('within each other', sentence('Device A: The PIN of token a (b) is locked; unlock it with the SO-PIN'),
  'Gerät A: Die PIN des Tokens a (b) ist gesperrt; mit der SO-PIN entsperren');
check('names stay', sentence('unknown key "user" in table [test]; did you mean "port"?'),
  'unbekannte Einstellung "user" in Tabelle [test]; ist "port" gemeint?');
check('piece by piece', sentence('1 device ready. Device B: Just found'), '1 Gerät bereit. Gerät B: Gerade gefunden');
check('with its colon', sentence('Token T (1) refused the PIN; it is not presented again until [hsm] hsm_pin changes: the PIN is wrong'),
  'Token T (1) hat die PIN abgelehnt; sie wird nicht noch einmal vorgelegt, bis sich [hsm] hsm_pin ändert: die PIN ist falsch');
check('of a setting', sentence('/etc/x:3: [server] port must be a whole number from 1 to 65535'),
  '/etc/x:3: [server] port muss eine ganze Zahl von 1 bis 65535 sein');
check('unknown', sentence('Some thing. And: more; of it'), 'Some thing. And: more; of it');
check('no text of an object', sentence('constructor'), 'constructor');
check('nothing', sentence(undefined), '');
check('deep', sentence(`${'x: '.repeat(100)}It is gone`), `${'x: '.repeat(100)}It is gone`);
check('a text of the page', t('{n} of {all}', { n: 2, all: 3 }), '2 von 3');
console.log(`1..${count}`);
