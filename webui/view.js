// SPDX-License-Identifier: LGPL-2.1-or-later
// What is shown: every function draws a part of the page from what the daemon told.

import { t, N_, sentence, language, shellWord } from './text.js';

const SVG = 'http://www.w3.org/2000/svg';
const CHART_SECONDS = 60;

const LABELS = {
  'skip-link': N_('Skip to content'), 'language-label': N_('Language'), 'sign-out': N_('Sign out'), 'todo-title': N_('What to do'),
  'devices-title': N_('Devices'), 'keys-title': N_('Keys'), 'test-title': N_('Test of devices and keys'), 'test-run': N_('Test HSM'),
  'test-cancel': N_('Cancel'), 'test-copy': N_('Copy as text'), 'test-download': N_('Download as JSON'), 'news-title': N_('Events'),
  'no-devices': N_('No device is plugged in.'), 'no-keys': N_('No key is configured yet. “keyward keys generate” makes one.'),
  'no-news': N_('Nothing has happened yet.'), 'api-link': N_('API description (OpenAPI)'),
  'test-note': N_('Random numbers, each key on each device, each pair of devices, PINs and DKEKs. Work goes on meanwhile.'),
};

const VERDICTS = {
  ready: ['good', N_('All is well')], degraded: ['warn', N_('Works, but needs attention')], waiting: ['bad', N_('Not working')],
  starting: ['unknown', N_('Starting')],
};

const DEVICE_STATES = {
  ready: ['good', N_('ready')], probing: ['unknown', N_('looking at it')], checking: ['unknown', N_('checking keys')],
  locked: ['warn', N_('locked')], degraded: ['warn', N_('in trouble')], 'pin-refused': ['bad', N_('PIN refused')],
  mismatched: ['bad', N_('holds another key')], unsupported: ['warn', N_('not usable')], stuck: ['bad', N_('does not answer')],
  gone: ['unknown', N_('unplugged')],
};

const KEY_STATES = {
  ok: ['good', N_('ok')], missing: ['warn', N_('missing')], different: ['bad', N_('different')], weak: ['warn', N_('weak')],
  unchecked: ['unknown', N_('not checked yet')],
};

const OUTCOMES = { passed: ['good', N_('passed')], failed: ['bad', N_('failed')], skipped: ['unknown', N_('skipped')] };

const TESTS = {
  device: N_('device'), random: N_('random numbers'), fingerprint: N_('fingerprint'), 'round-trip': N_('encrypt and decrypt'),
  pair: N_('pair of devices'), pin: N_('PIN'), dkek: N_('DKEK'), signature: N_('sign and verify'),
};

// What to paste for each thing that is not green.
const DEVICE_COMMANDS = {
  locked: () => 'keyward unlock', 'pin-refused': (device) => `keyward device retry ${shellWord(device.serial)}`, degraded: () => 'journalctl -u keywardd -n 50',
  mismatched: () => 'keyward keys', unsupported: () => 'keyward check', stuck: () => 'keyward devices',
};
const KEY_COMMANDS = {
  different: (key) => `keyward keys accept ${shellWord(key.id)}`, missing: () => 'keyward keys', weak: () => 'keyward keys generate --kind aes256 --label NEW',
};

const SHAPES = {
  good: 'M12 2a10 10 0 1 0 0 20a10 10 0 0 0 0-20zM7 12.500l3.500 3.500L17 9',
  warn: 'M12 2.500 22.500 21h-21zM12 9v6M12 17.500v1',
  bad: 'M8 2h8l6 6v8l-6 6H8l-6-6V8zM8.500 8.500l7 7M15.500 8.500l-7 7',
  unknown: 'M12 2a10 10 0 1 0 0 20a10 10 0 0 0 0-20zM9 9.500a3 3 0 1 1 4 2.800c-.700.300-1 .800-1 1.700M12 16.500v1',
};

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(key, '');
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function shape(tone) {
  return svg('svg', { viewBox: '0 0 24 24', 'aria-hidden': 'true', focusable: 'false' },
    svg('path', { d: SHAPES[tone], fill: 'none', stroke: 'currentColor', 'stroke-width': '2', 'stroke-linecap': 'round', 'stroke-linejoin': 'round' }));
}

function stick(tone) {
  return svg('svg', { viewBox: '0 0 32 32', 'aria-hidden': 'true', focusable: 'false' },
    svg('rect', { x: 2, y: 10, width: 19, height: 12, rx: 2, fill: 'none', stroke: 'currentColor', 'stroke-width': 2 }),
    svg('path', { d: 'M21 12h8v8h-8M24.500 14.500h1.500M24.500 17.500h1.500', fill: 'none', stroke: 'currentColor', 'stroke-width': 2 }),
    svg('g', { transform: 'translate(6.500 10.500) scale(.46)' },
      svg('path', { d: SHAPES[tone], fill: 'none', stroke: 'currentColor', 'stroke-width': 3.200, 'stroke-linecap': 'round', 'stroke-linejoin': 'round' })));
}

function chip(table, state) {
  const [tone, word] = table[state] || ['unknown', state];
  return element('span', { class: `chip ${tone}` }, shape(tone), t(word));
}

let commands = 0;

const byId = (id) => document.getElementById(id);

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function facts(pairs) {
  return pairs.filter(([, value]) => value !== null && value !== undefined && value !== '')
    .map(([name, value, plain]) => element('div', {}, element('dt', {}, name), element('dd', plain ? {} : { class: 'mono' }, value)));
}

function number(value) {
  return new Intl.NumberFormat(language(), { maximumFractionDigits: value < 10 ? 2 : 0 }).format(value);
}

function time(text) {
  return new Date(text).toLocaleTimeString(language());
}

export function drawLabels() {
  document.documentElement.lang = language();
  byId('language').value = language();
  for (const [id, text] of Object.entries(LABELS)) setText(byId(id), t(text));
  byId('test-results').querySelector('thead').replaceChildren(headRow([t('Test'), t('Of'), t('Result'), t('Time'), t('What to do')]));
}

function headRow(names) {
  return element('tr', {}, ...names.map((name) => element('th', { scope: 'col' }, name)));
}

export function drawVerdict(status, connected) {
  const box = byId('verdict');
  const [tone, word] = connected && status ? VERDICTS[status.state] || ['unknown', status.state] : ['unknown', N_('Not known')];
  box.className = `verdict ${tone}`;
  byId('verdict-icon').replaceChildren(shape(tone));
  setText(byId('verdict-title'), t(word));
  setText(byId('verdict-text'), connected && status ? sentence(status.text) : '');
  if (!status) return;
  byId('verdict-facts').replaceChildren(...facts([
    [t('Devices ready'), t('{n} of {all}', { n: status.ready_devices, all: status.devices }), true],
    [t('HSMs operational'), status.operational ? t('yes') : t('no'), true],
    [t('Keys consistent'), status.consistent ? t('yes, the same on all devices') : t('no'), true],
    [t('Key to encrypt with'), status.encrypt_key ?? t('none')],
  ]));
  setText(byId('version'), `Keyward ${status.version}`);
}

// Jobs a second as an area with its line, the time of a job as a dashed line; each fills the height by itself.
function chart(samples) {
  const x = (i) => ((i + CHART_SECONDS - samples.length) * 100) / (CHART_SECONDS - 1);
  const line = (figure) => {
    const peak = Math.max(0.01, ...samples.map(figure));
    return samples.map((sample, i) => `${x(i).toFixed(1)},${(29 - (figure(sample) / peak) * 27).toFixed(1)}`).join(' ');
  };
  const drawing = svg('svg', { class: 'chart', viewBox: '0 0 100 30', preserveAspectRatio: 'none', role: 'img', 'aria-label': t('Jobs a second, and the time of a job (dashed), in the last minute') });
  if (samples.length > 1) {
    const rates = line((sample) => sample.rate);
    drawing.append(svg('polygon', { class: 'area', points: `${x(0).toFixed(1)},30 ${rates} 100,30` }), svg('polyline', { points: rates }),
      svg('polyline', { class: 'latency', points: line((sample) => sample.latency) }));
  }
  return drawing;
}

function deviceCard(device, samples) {
  const [tone] = DEVICE_STATES[device.state] || ['unknown'];
  const last = samples.length ? samples[samples.length - 1].rate : 0;
  return element('article', { class: `card ${tone}`, 'data-serial': device.serial, 'data-state': device.state, 'aria-label': t('Device {serial}', { serial: device.serial }) },
    element('div', { class: 'card-head' }, element('span', { class: 'picture' }, stick(tone)),
      element('div', {}, element('h3', { class: 'mono' }, device.serial), chip(DEVICE_STATES, device.state))),
    device.text && device.state !== 'ready' ? element('p', {}, sentence(device.text)) : null,
    element('dl', { class: 'facts' }, ...facts([
      [t('Label'), device.label], [t('Firmware'), device.firmware], [t('Reader'), device.reader], [t('Options'), device.options && device.options.split(', ').map(sentence).join(', '), true],
      [t('PIN tries left'), device.pin_tries_left < 0 ? null : String(device.pin_tries_left)],
      [t('SO-PIN tries left'), device.so_pin_tries_left < 0 ? null : String(device.so_pin_tries_left)],
      [t('DKEK value'), device.dkek_check_value], [t('Jobs'), number(device.jobs)], [t('Errors'), number(device.errors)], [t('Fail-overs'), number(device.failovers)],
    ])),
    element('figure', {}, chart(samples), element('figcaption', {}, device.jobs === 0 ? t('No jobs yet') :
      t('{rate} jobs a second, median {median} ms, 99 % under {p99} ms', { rate: number(last), median: number(device.median_milliseconds), p99: number(device.p99_milliseconds) }))));
}

export function drawDevices(devices, rates) {
  const old = new Map([...byId('devices').children].map((node) => [node.dataset.serial, node]));
  byId('devices').replaceChildren(...devices.map((device) => {
    const samples = rates.get(device.serial) || [];
    const key = JSON.stringify([language(), { ...device, since: '' }, samples]);
    const before = old.get(device.serial);
    if (before && before.drawnFrom === key) return before;
    const card = deviceCard(device, samples);
    card.drawnFrom = key;
    return card;
  }));
  byId('no-devices').hidden = devices.length > 0;
}

function keyRow(key, serials) {
  const cells = new Map(key.devices.map((cell) => [cell.serial, cell]));
  const label = (name, node) => { node.setAttribute('data-label', name); return node; };
  const role = key.encrypts ? t('encrypts and decrypts') : key.first ? t('first, but may not encrypt') : key.configured ? t('decrypts') : t('RSA service');
  return element('tr', { 'data-key': key.id, 'data-state': key.state },
    label(t('Key'), element('th', { scope: 'row' }, element('span', { class: 'mono' }, key.id), key.label ? element('span', { class: 'quiet' }, ` ${key.label}`) : null)),
    label(t('Kind'), element('td', {}, key.kind.toUpperCase())),
    label(t('Use'), element('td', {}, role)),
    label(t('Copies'), element('td', {}, String(key.copies))),
    label(t('Fingerprint'), element('td', { class: 'mono' }, key.fingerprint ? key.fingerprint.slice(0, 16) : '–')),
    label(t('State'), element('td', {}, chip(KEY_STATES, key.state))),
    ...serials.map((serial) => label(serial, element('td', {}, cells.has(serial) ? chip(KEY_STATES, cells.get(serial).state) : '–'))));
}

export function drawKeys(keys, devices) {
  const serials = devices.map((device) => device.serial);
  const table = byId('keys');
  table.hidden = keys.length === 0;
  byId('no-keys').hidden = keys.length > 0;
  table.tHead.replaceChildren(headRow([t('Key'), t('Kind'), t('Use'), t('Copies'), t('Fingerprint'), t('State'), ...serials]));
  table.tBodies[0].replaceChildren(...keys.map((key) => keyRow(key, serials)));
}

function todoItem(tone, what, text, command) {
  const item = element('li', { class: tone }, element('strong', {}, what), ' ', text);
  if (command) {
    const id = `command-${++commands}`;
    const copy = element('button', { type: 'button', class: 'plain small', 'aria-describedby': id }, t('Copy'));
    copy.addEventListener('click', () => copyText(command, copy));
    item.append(element('div', { class: 'command' }, element('code', { id }, command), copy));
  }
  return item;
}

export async function copyText(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = t('Copied');
  } catch {
    // Without TLS, and away from the loopback, browsers keep the clipboard to themselves.
    const area = element('textarea', { 'aria-hidden': 'true' });
    area.value = text;
    document.body.append(area);
    area.select();
    button.textContent = document.execCommand('copy') ? t('Copied') : t('Could not copy');
    area.remove();
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

export function drawTodo(status, devices, keys) {
  const items = [];
  if (status && status.state === 'waiting' && devices.length === 0) items.push(todoItem('bad', t('No device'), sentence(status.text), 'systemctl status pcscd.socket'));
  for (const device of devices) {
    const [tone] = DEVICE_STATES[device.state] || ['unknown'];
    if (tone === 'warn' || tone === 'bad') {
      items.push(todoItem(tone, t('Device {serial}', { serial: device.serial }), sentence(device.text), DEVICE_COMMANDS[device.state]?.(device)));
    }
  }
  for (const key of keys) {
    const [tone] = KEY_STATES[key.state] || ['unknown'];
    if (key.advice) items.push(todoItem(tone === 'good' ? 'warn' : tone, t('Key {id}', { id: key.id }), sentence(key.advice), KEY_COMMANDS[key.state]?.(key)));
  }
  const before = byId('todo-list');
  const drawnFrom = items.map((item) => item.textContent).join('\n');
  byId('todo').hidden = items.length === 0;
  if (before.drawnFrom === drawnFrom) return;
  before.drawnFrom = drawnFrom;
  before.replaceChildren(...items);
}

export function drawNews(news) {
  byId('no-news').hidden = news.length > 0;
  byId('news').replaceChildren(...[...news].reverse().map((item) => element('li', {},
    element('time', { datetime: item.time, class: 'quiet' }, time(item.time)), element('span', { class: 'mono' }, item.serial), chip(DEVICE_STATES, item.state),
    item.text && item.state !== 'ready' ? element('span', { class: 'quiet' }, sentence(item.text)) : null)));
}

function duration(microseconds) {
  return t('{n} ms', { n: number(microseconds / 1000) });
}

function resultRow(result) {
  const label = (name, node) => { node.setAttribute('data-label', name); return node; };
  return element('tr', { 'data-outcome': result.outcome },
    label(t('Test'), element('th', { scope: 'row' }, t(TESTS[result.test] || result.test))),
    label(t('Of'), element('td', {}, sentence(result.subject))),
    label(t('Result'), element('td', {}, chip(OUTCOMES, result.outcome))),
    label(t('Time'), element('td', { class: 'time' }, duration(result.microseconds))),
    label(t('What to do'), element('td', {}, result.advice ? sentence(result.advice) : '–')));
}

export function summary(job) {
  if (!job) return '';
  const counts = t('{passed} passed, {failed} failed, {skipped} skipped', job);
  if (job.state === 'running') return t('Running: {counts}', { counts });
  return job.failed > 0 ? t('Failed: {counts}', { counts }) : t('Passed: {counts}', { counts });
}

export function drawTest(job, mayTest) {
  const running = Boolean(job) && job.state === 'running';
  byId('test-run').hidden = !mayTest;
  byId('test-run').disabled = running;
  byId('test-cancel').hidden = !running || !mayTest;
  byId('test-copy').hidden = byId('test-download').hidden = !job || running;
  byId('test-progress').hidden = !running;
  byId('test-results').hidden = !job;
  if (!job) return;
  byId('test-progress').value = job.progress;
  setText(byId('test-summary'), summary(job));
  byId('test-summary').className = running ? '' : job.failed > 0 ? 'chip bad' : 'chip good';
  byId('test-results').dataset.job = job.id;
  byId('test-results').dataset.state = job.state;
  byId('test-results').tBodies[0].replaceChildren(...job.results.map(resultRow));
}

export function testAsText(job) {
  const lines = job.results.map((result) => [t(OUTCOMES[result.outcome][1]).padEnd(12), t(TESTS[result.test] || result.test).padEnd(22),
    sentence(result.subject), duration(result.microseconds), result.advice ? sentence(result.advice) : ''].filter(Boolean).join('  '));
  return [...lines, '', summary(job), ''].join('\n');
}

export function drawConnection(state) {
  const banner = byId('connection');
  const texts = {
    lost: t('The daemon does not answer. What is shown may be old; trying again…'),
    'signed-out': t('This browser is not signed in any more. Run “keyward webui login” on the host and open its link.'),
  };
  banner.hidden = !(state in texts);
  setText(banner, texts[state] || '');
}
