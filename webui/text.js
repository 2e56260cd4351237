// SPDX-License-Identifier: LGPL-2.1-or-later
// Texts in the language of the reader. The page's own are looked up; sentences of the daemon come in English, as they stand
// in its log, and are found by their pattern.

let catalogue = { language: 'en', strings: Object.create(null) };
let patterns = null;

export function language() {
  return catalogue.language;
}

export async function loadCatalogue(wanted) {
  const response = await fetch('/catalogue.json' + (wanted ? `?language=${wanted}` : ''));
  if (response.ok) {
    const { language: code, strings } = await response.json();
    // Without what every object has: “constructor” is a text like others.
    catalogue = { language: code, strings: Object.assign(Object.create(null), strings) };
    patterns = null;
  }
}

// t('{n} of {all} ready', { n: 2, all: 3 })
export function t(text, values = {}) {
  const found = Object.hasOwn(catalogue.strings, text) ? catalogue.strings[text] : text;
  return found.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

// A name that devices or the configuration chose, as one word of a command line: nothing in it is for the shell.
export function shellWord(text) {
  return /^[\w.:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

// Marks a text that is looked up elsewhere.
export function N_(text) {
  return text;
}

const FORMAT = /%(?:\d+\$)?[-+ #0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|z|j|t|q)?([diouxXscpeg])/g;
const CLASSES = { d: '(-?[0-9]+)', i: '(-?[0-9]+)', u: '(-?[0-9]+)', o: '([0-9A-Fa-f]+)', x: '([0-9A-Fa-f]+)', X: '([0-9A-Fa-f]+)' };
const MIN_PATTERN_CHARACTERS = 4;
const MAX_DEPTH = 8;
const CUTS = ['. ', ': ', '; '];
// A setting, of which something is said: "[server] port must be …".
const SETTING = /^(\[+[^\]]+\]+ \S+|[a-z0-9]+_\w+) ([\s\S]+)$/;

// What stands in quotes or brackets is a name, not a sentence.
function toPattern(text, translation) {
  const parts = text.split(FORMAT);
  const source = parts
    .map((part, i) => (i % 2 ? CLASSES[part] || '([\\s\\S]*?)' : part.replace(/%%/g, '%').replace(/[.*+?^${}()|[\]\\]/g, '\\$&')))
    .join('');
  const names = [];
  for (let i = 0, before = ''; i < parts.length; i += 2) {
    before += parts[i];
    names.push(/[“[]$/.test(before) || (before.endsWith('"') && before.split('"').length % 2 === 0));
  }
  return { pattern: new RegExp(`^${source}$`), names, translation };
}

function fill(text, values) {
  let next = 0;
  return text
    .replace(/%(?:(\d+)\$)?[-+ #0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|z|j|t|q)?[diouxXscpeg]/g,
      (whole, place) => values[place ? Number(place) - 1 : next++] ?? '')
    .replace(/%%/g, '%');
}

// As a whole: as it is, or by its pattern; undefined when it is not known.
function lookUp(text, depth) {
  if (Object.hasOwn(catalogue.strings, text)) return catalogue.strings[text];
  patterns ??= Object.keys(catalogue.strings)
    .filter((key) => key.includes('%') && key !== key.replace(FORMAT, '') && key.replace(FORMAT, '').trim().length >= MIN_PATTERN_CHARACTERS)
    .sort((a, b) => b.length - a.length)
    .map((key) => toPattern(key, catalogue.strings[key]));
  for (const { pattern, names, translation } of patterns) {
    const match = pattern.exec(text);
    if (match) return fill(translation, match.slice(1).map((value, i) => (names[i] ? value : translate(value, depth + 1))));
  }
  return undefined;
}

// Cut where one sentence was put behind another: where one of the two is known, else at the first place.
function translatePieces(text, depth) {
  const setting = SETTING.exec(text);
  const said = setting ? translate(setting[2], depth + 1) : undefined;
  if (setting && said !== setting[2]) return `${setting[1]} ${said}`;
  const places = CUTS.map((cut) => [text.indexOf(cut), cut]).filter(([at]) => at > 0);
  const split = ([at, cut]) => [text.slice(0, at), cut, text.slice(at + cut.length)];
  for (const [before, cut, rest] of places.map(split)) {
    const whole = lookUp(before + cut, depth + 1);
    if (whole !== undefined) return whole + translate(rest, depth + 1);
    const first = lookUp(before, depth + 1);
    if (first !== undefined) return first + cut + translate(rest, depth + 1);
    const second = lookUp(rest, depth + 1);
    if (second !== undefined) return translate(before, depth + 1) + cut + second;
  }
  if (places.length === 0) return text;
  const [before, cut, rest] = split(places.sort(([a], [b]) => a - b)[0]);
  return translate(before, depth + 1) + cut + translate(rest, depth + 1);
}

function translate(text, depth) {
  if (!text || depth > MAX_DEPTH) return text;
  return lookUp(text, depth) ?? translatePieces(text, depth);
}

// A sentence of the daemon: as a whole, or piece by piece. cli/kw-cli-sentence.c does the same.
export function sentence(text) {
  if (!text || catalogue.language === 'en') return text || '';
  return translate(text, 0);
}
