// SPDX-License-Identifier: LGPL-2.1-or-later
// The status page in headless Chromium, with three cards that come and go. Run by keyward-cards.

import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';
import { Rig, assert, end, equal, test, until } from './rig.mjs';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const CHROMIUM = process.env.KW_TEST_CHROMIUM || '/usr/bin/chromium';
const MOMENT = 1000;

const rig = new Rig();
rig.useCards();
await rig.start();
await rig.mapCards();
await until('three devices', () => rig.isReady(3), 60);
rig.keyward('keys', 'generate', '--kind', 'aes256', '--label', 'page');
await until('the key', async () => (await rig.call('GET', '/api/v1/status')).json.state === 'ready');

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-proxy-server'],
});
const faults = [];
const foreign = [];

async function open(options = {}) {
  const context = await browser.newContext({ locale: 'en-GB', viewport: { width: 1280, height: 900 }, ...options });
  await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: rig.origin });
  const page = await context.newPage();
  page.on('console', (message) => { if (message.type() === 'error' || message.type() === 'warning') faults.push(message.text()); });
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('request', (request) => { if (!request.url().startsWith(rig.origin) && !request.url().startsWith('blob:')) foreign.push(request.url()); });
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener('securitypolicyviolation', (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  return page;
}

async function signIn(options) {
  const page = await open(options);
  await page.goto(rig.origin + rig.link());
  await page.waitForSelector('.card');
  return page;
}

async function axe(page, name) {
  // Straight into the page's world: the policy of the page allows no script element.
  const session = await page.context().newCDPSession(page);
  await session.send('Runtime.evaluate', { expression: AXE });
  const result = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  const found = result.violations.map((violation) => `${violation.id}: ${violation.nodes.map((node) => `${node.target.join(' ')} (${node.any.map((check) => check.message).join('; ')})`).join(', ')}`);
  equal(found, [], `axe on ${name}`);
}

const noSideways = async (page) => equal(await page.evaluate(() => (document.documentElement.scrollWidth > document.documentElement.clientWidth ? [...document.querySelectorAll('body *')].filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map((node) => `${node.tagName}.${node.className} ${node.textContent.slice(0, 40)}`).slice(0, 8) : [])), [], 'what sticks out');
const shot = (page, name) => page.screenshot({ path: Rig.artefact(`${name}.png`), fullPage: true });

await test('without a session there is a page that says how to come in', async () => {
  const page = await open();
  const response = await page.goto(`${rig.origin}/`);
  equal(response.status(), 401);
  assert((await page.textContent('body')).includes('keyward webui login'), 'the command is missing');
  await axe(page, 'the page to sign in');
  await shot(page, 'sign-in');
  faults.length = 0; // Chromium calls a 401 an error of the console
  await page.context().close();
});

await test('a link lets in once', async () => {
  const link = rig.link();
  const page = await open();
  await page.goto(rig.origin + link);
  await page.waitForSelector('.card');
  equal(new URL(page.url()).pathname, '/');
  const other = await open();
  const response = await other.goto(rig.origin + link);
  equal(response.status(), 401);
  assert((await other.textContent('body')).includes('used already'), 'what happened is missing');
  await axe(other, 'the page of a used link');
  faults.length = 0;
  await page.context().close();
  await other.context().close();
});

const page = await signIn();
const card = (state) => page.locator(`.card[data-state="${state}"]`);

await test('three devices, all green', async () => {
  await page.waitForFunction(() => document.querySelectorAll('.card[data-state="ready"]').length === 3);
  equal(await page.textContent('#verdict-title'), 'All is well');
  equal(await page.locator('#verdict').getAttribute('class'), 'verdict good');
  const cells = await page.locator('#keys tbody tr').first().locator('.chip').allTextContents();
  equal(cells, ['ok', 'ok', 'ok', 'ok'], 'the state of the key, on all and on each');
  const first = await card('ready').first().textContent();
  for (const word of ['PIN tries left', 'DKEK value', 'Firmware', 'Reader']) assert(first.includes(word), `${word} is missing: ${first}`);
  equal(await page.locator('#todo').isHidden(), true, 'nothing to do');
  await axe(page, 'all green');
  await noSideways(page);
  await shot(page, 'green');
});

await test('a card is pulled: its device turns within a second, without a reload', async () => {
  await page.evaluate(() => { window.still = true; });
  const serial = await card('ready').nth(1).getAttribute('data-serial');
  // From the moment the daemon knows it.
  await page.evaluate((wanted) => {
    window.turned = new Promise((resolve) => {
      const source = new EventSource('/api/v1/events');
      let told = null;
      source.addEventListener('devices', (event) => {
        if (told === null && !event.data.includes(`"serial":"${wanted}"`)) told = performance.now();
      });
      const timer = setInterval(() => {
        if (told !== null && !document.querySelector(`.card[data-serial="${wanted}"][data-state="ready"]`)) {
          clearInterval(timer);
          source.close();
          resolve(performance.now() - told);
        }
      }, 5);
    });
  }, serial);
  const start = Date.now();
  await rig.card(rig.cardOf(serial), 'eject');
  await page.waitForFunction((wanted) => !document.querySelector(`.card[data-serial="${wanted}"][data-state="ready"]`), serial);
  const whole = Date.now() - start;
  const late = await page.evaluate(() => window.turned);
  assert(late < MOMENT, `${late} ms after the daemon knew it`);
  assert(whole < 2 * MOMENT, `${whole} ms after the card was pulled`);
  console.log(`# ${Math.round(late)} ms after the daemon knew it, ${whole} ms after the card was pulled`);
  equal(await page.evaluate(() => window.still), true, 'reloaded');
  await page.waitForFunction(() => document.querySelectorAll('#keys thead th').length === 8);
  equal(await page.locator('#keys tbody tr').first().locator('.chip').count(), 3, 'cells of the matrix');
  assert((await page.textContent('#verdict-facts')).includes('2 of 2'), await page.textContent('#verdict-facts'));
  assert((await page.textContent('#news')).includes(serial), 'the event is missing');
  await rig.card(rig.cardOf(serial), 'insert');
  await page.waitForFunction(() => document.querySelectorAll('.card[data-state="ready"]').length === 3);
  await page.waitForFunction(() => document.querySelector('#verdict-title').textContent === 'All is well');
});

await test('Test HSM: all tests appear and pass', async () => {
  await page.click('#test-run');
  await page.waitForSelector('#test-results[data-state="done"]', { timeout: 60000 });
  const outcomes = await page.locator('#test-results tbody tr').evaluateAll((rows) => rows.map((row) => row.dataset.outcome));
  assert(outcomes.length > 15, `${outcomes.length} tests`);
  equal([...new Set(outcomes)], ['passed']);
  assert((await page.textContent('#test-summary')).startsWith('Passed:'), await page.textContent('#test-summary'));
  await axe(page, 'the results');
  await shot(page, 'tested');
});

await test('the results as text and as JSON', async () => {
  await page.click('#test-copy');
  const text = await page.evaluate(() => navigator.clipboard.readText());
  assert(text.includes('passed') && text.split('\n').length > 15, text);
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#test-download')]);
  assert(/^keyward-test-.*\.json$/.test(download.suggestedFilename()), download.suggestedFilename());
  const job = JSON.parse(readFileSync(await download.path(), 'utf8'));
  equal([job.state, job.failed], ['done', 0]);
});

await test('a card that fails is red, with advice', async () => {
  const serial = await card('ready').first().getAttribute('data-serial');
  await rig.card(rig.cardOf(serial), 'fault ins=84,sw=6F00,count=0');
  await page.click('#test-run');
  await page.waitForSelector('#test-results[data-state="running"]');
  await page.waitForSelector('#test-results[data-state="done"]', { timeout: 60000 });
  const row = page.locator('#test-results tbody tr[data-outcome="failed"]').first();
  assert((await row.textContent()).includes(serial), await row.textContent());
  assert((await row.locator('td').last().textContent()).length > 10, 'the advice is missing');
  assert((await page.textContent('#test-summary')).startsWith('Failed:'), 'the summary');
  const colour = await row.locator('.chip').evaluate((chip) => getComputedStyle(chip).color);
  equal(colour, 'rgb(161, 29, 29)', 'red');
  await axe(page, 'a failure');
  await shot(page, 'failed');
  await rig.card(rig.cardOf(serial), 'fault clear');
  await until('all of it', () => rig.isReady(3), 60);
});

await test('a device that wants attention: verdict, advice and the command to paste', async () => {
  await page.waitForFunction(() => document.querySelectorAll('.card[data-state="ready"]').length === 3);
  const serial = await card('ready').first().getAttribute('data-serial');
  await rig.card(rig.cardOf(serial), 'freeze');
  rig.spawn(process.env.KW_TEST_KEYWARD, ['--bus-address', rig.bus, 'test'], 'test');
  await page.waitForFunction((wanted) => !document.querySelector(`.card[data-serial="${wanted}"][data-state="ready"]`), serial, { timeout: 90000 });
  await page.waitForSelector('.card[data-state="stuck"]');
  await page.waitForSelector('#todo:not([hidden])');
  assert((await page.textContent('#todo-list')).includes(serial), await page.textContent('#todo-list'));
  assert(await page.locator('#todo-list code').first().isVisible(), 'the command');
  equal(await page.locator('#verdict').getAttribute('class'), 'verdict warn');
  await page.locator('#todo-list button').first().click();
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  equal(copied, await page.locator('#todo-list code').first().textContent());
  await axe(page, 'attention');
  await shot(page, 'attention');
  await rig.card(rig.cardOf(serial), 'thaw');
  await page.waitForFunction(() => document.querySelectorAll('.card[data-state="ready"]').length === 3, undefined, { timeout: 60000 });
});

await test('keyboard alone', async () => {
  const keys = await signIn();
  await keys.keyboard.press('Tab');
  equal(await keys.evaluate(() => document.activeElement.id), 'skip-link');
  const seen = [];
  for (let i = 0; i < 12 && seen.at(-1) !== 'test-run'; i++) {
    await keys.keyboard.press('Tab');
    seen.push(await keys.evaluate(() => document.activeElement.id));
  }
  equal(seen.includes('language') && seen.includes('sign-out') && seen.includes('test-run'), true, seen.join(' '));
  equal(await keys.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), 'solid', 'the focus shows');
  await keys.keyboard.press('Enter');
  await keys.waitForSelector('#test-results[data-state="done"]', { timeout: 60000 });
  await keys.context().close();
});

await test('landmarks, labels and live regions', async () => {
  equal(await page.locator('main').count(), 1);
  equal(await page.locator('header').count(), 1);
  equal(await page.locator('footer').count(), 1);
  equal(await page.locator('[role="status"][aria-live="polite"]').count(), 2);
  equal(await page.locator('[role="alert"]').count(), 1);
});

await test('the daemon goes away, and the page comes back by itself', async () => {
  await rig.stopDaemon();
  await page.waitForSelector('#connection:not([hidden])');
  assert((await page.textContent('#connection')).includes('does not answer'), await page.textContent('#connection'));
  equal(await page.locator('#verdict').getAttribute('class'), 'verdict unknown');
  await shot(page, 'away');
  await rig.startDaemon();
  await page.waitForSelector('#connection', { state: 'hidden', timeout: 30000 });
  await page.waitForFunction(() => document.querySelectorAll('.card[data-state="ready"]').length === 3, undefined, { timeout: 60000 });
  await page.waitForFunction(() => document.querySelector('#verdict-title').textContent === 'All is well', undefined, { timeout: 30000 });
  equal(await page.evaluate(() => window.still), true, 'reloaded');
  for (let i = faults.length - 1; i >= 0; i--) if (faults[i].includes('net::ERR_') || faults[i].includes('Failed to load resource')) faults.splice(i, 1);
});

await test('German by Accept-Language, French by the switch', async () => {
  const german = await signIn({ locale: 'de-DE' });
  await german.waitForFunction(() => document.querySelector('#verdict-title').textContent === 'Alles in Ordnung');
  equal(await german.evaluate(() => document.documentElement.lang), 'de');
  equal(await german.textContent('#devices-title'), 'Geräte');
  const left = await german.evaluate(() => document.body.innerText.match(/\b(Devices|ready|Firmware version|What to do|tries left|Copies)\b/g));
  equal(left, null, 'English words');
  await noSideways(german);
  await axe(german, 'German');
  await shot(german, 'german');
  await german.selectOption('#language', 'fr');
  await german.waitForFunction(() => document.documentElement.lang === 'fr');
  equal(await german.textContent('#devices-title'), 'Appareils');
  await shot(german, 'french');
  await german.reload();
  await german.waitForFunction(() => document.documentElement.lang === 'fr');
  await german.context().close();
});

await test('dark', async () => {
  const dark = await signIn({ colorScheme: 'dark' });
  await dark.waitForFunction(() => document.querySelectorAll('.card[data-state="ready"]').length === 3);
  const ground = await dark.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  equal(ground, 'rgb(18, 22, 27)');
  await axe(dark, 'dark');
  await shot(dark, 'dark');
  await dark.context().close();
});

await test('360 pixels wide, without sideways scroll', async () => {
  const narrow = await signIn({ viewport: { width: 360, height: 740 } });
  await narrow.waitForFunction(() => document.querySelectorAll('.card[data-state="ready"]').length === 3);
  await narrow.click('#test-run');
  await narrow.waitForSelector('#test-results[data-state="done"]', { timeout: 60000 });
  await noSideways(narrow);
  await narrow.selectOption('#language', 'de');
  await narrow.waitForFunction(() => document.documentElement.lang === 'de');
  await noSideways(narrow);
  await axe(narrow, '360 pixels');
  await shot(narrow, 'narrow');
  await narrow.context().close();
});

await test('first paint and weight', async () => {
  const fresh = await signIn();
  const paint = await fresh.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime);
  console.log(`# first paint after ${Math.round(paint)} ms`);
  await fresh.context().close();
});

await test('sign out', async () => {
  const leaving = await signIn();
  await Promise.all([leaving.waitForNavigation(), leaving.click('#sign-out')]);
  assert((await leaving.textContent('body')).includes('keyward webui login'), 'still in');
  await leaving.context().close();
  for (let i = faults.length - 1; i >= 0; i--) if (faults[i].includes('401')) faults.splice(i, 1);
});

await test('no error in the console, no violation of the policy, no other host', async () => {
  equal(await page.evaluate(() => window.violations), []);
  equal(faults, []);
  equal(foreign, []);
});

await browser.close();
await test('the daemon ends well', () => rig.stopDaemon());
rig.destroy();
end();
