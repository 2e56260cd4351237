// SPDX-License-Identifier: LGPL-2.1-or-later
// What happens: events of the daemon come in, the page is drawn from them, buttons ask the daemon for something.

import { loadCatalogue } from './text.js';
import * as view from './view.js';

const RETRY_MILLISECONDS = 1000;
const SILENCE_MILLISECONDS = 25000;
const CHART_SECONDS = 60;

const state = { status: null, devices: [], keys: [], news: [], job: null, session: { token: null, verbs: [] }, connection: 'lost' };
const rates = new Map();
let counted = new Map();
let source = null;
let lastHeard = 0;

const byId = (id) => document.getElementById(id);

function draw() {
  view.drawConnection(state.connection);
  view.drawVerdict(state.status, state.connection === 'open');
  view.drawTodo(state.status, state.devices, state.keys);
  view.drawDevices(state.devices, rates);
  view.drawKeys(state.keys, state.devices);
  view.drawTest(state.job, state.session.verbs.includes('test'));
  view.drawNews(state.news);
  byId('sign-out').hidden = !state.session.token;
}

// Once a second: how many jobs each device has done since.
function sample() {
  for (const device of state.devices) {
    const before = counted.get(device.serial);
    const samples = rates.get(device.serial) || [];
    samples.push({ rate: before === undefined ? 0 : Math.max(0, device.jobs - before), latency: device.median_milliseconds });
    if (samples.length > CHART_SECONDS) samples.shift();
    rates.set(device.serial, samples);
  }
  counted = new Map(state.devices.map((device) => [device.serial, device.jobs]));
  view.drawDevices(state.devices, rates);
}

async function loadSession() {
  const response = await fetch('/api/v1/session');
  if (response.status === 401) {
    state.connection = 'signed-out';
    return false;
  }
  if (response.ok) state.session = await response.json();
  return response.ok;
}

function hear(event, key) {
  lastHeard = Date.now();
  const data = JSON.parse(event.data);
  state[key] = key in { devices: 1, keys: 1, news: 1 } ? data[key] : data;
  draw();
}

function lose() {
  source?.close();
  source = null;
  if (state.connection !== 'signed-out') state.connection = 'lost';
  draw();
  setTimeout(connect, RETRY_MILLISECONDS);
}

async function connect() {
  try {
    if (!(await loadSession())) {
      lose();
      return;
    }
  } catch {
    lose();
    return;
  }
  source = new EventSource('/api/v1/events');
  source.onopen = () => {
    lastHeard = Date.now();
    state.connection = 'open';
    draw();
  };
  source.onerror = lose;
  for (const key of ['status', 'devices', 'keys', 'news', 'job']) source.addEventListener(key, (event) => hear(event, key));
  source.addEventListener('beat', () => { lastHeard = Date.now(); });
}

// A host that was switched off closes no connection.
function watch() {
  if (source && state.connection === 'open' && Date.now() - lastHeard > SILENCE_MILLISECONDS) lose();
}

async function ask(method, path) {
  const response = await fetch(path, { method, headers: state.session.token ? { 'X-Keyward-Token': state.session.token } : {} });
  if (!response.ok) {
    const problem = await response.json().catch(() => ({ detail: response.statusText }));
    throw new Error(problem.detail);
  }
  return response;
}

async function runTest() {
  try {
    const response = await ask('POST', '/api/v1/test');
    state.job = await response.json();
    draw();
  } catch (error) {
    byId('test-summary').textContent = error.message;
  }
}

function download() {
  const link = document.createElement('a');
  const name = `keyward-test-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}.json`;
  link.href = URL.createObjectURL(new Blob([JSON.stringify(state.job, null, 2)], { type: 'application/json' }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), RETRY_MILLISECONDS);
}

async function signOut() {
  await ask('DELETE', '/api/v1/session').catch(() => {});
  state.session = { token: null, verbs: [] };
  source?.close();
  window.location.reload();
}

async function changeLanguage(wanted) {
  window.localStorage.setItem('language', wanted);
  await loadCatalogue(wanted);
  view.drawLabels();
  draw();
}

byId('test-run').addEventListener('click', runTest);
byId('test-cancel').addEventListener('click', () => ask('DELETE', `/api/v1/jobs/${state.job.id}`).catch(() => {}));
byId('test-copy').addEventListener('click', (event) => view.copyText(view.testAsText(state.job), event.currentTarget));
byId('test-download').addEventListener('click', download);
byId('sign-out').addEventListener('click', signOut);
byId('language').addEventListener('change', (event) => changeLanguage(event.target.value));

await loadCatalogue(window.localStorage.getItem('language')).catch(() => {});
view.drawLabels();
draw();
connect();
setInterval(sample, 1000);
setInterval(watch, 1000);
