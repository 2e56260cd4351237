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
  const found = catalogue.strings[text] || text;
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

const FORMAT = /%(?:\d+\$)?[-+ #0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|z|j|t|q)?([diuxXscp])/g;

function toPattern(text) {
  const parts = text.split(FORMAT);
  const source = parts
    .map((part, i) => (i % 2 ? (part === 's' ? '([\\s\\S]+?)' : '([\\s\\S]+?)') : part.replace(/%%/g, '%').replace(/[.*+?^${}()|[\]\\]/g, '\\$&')))
    .join('');
  return new RegExp(`^${source}$`);
}

function fill(text, values) {
  let next = 0;
  return text
    .replace(/%(?:(\d+)\$)?[-+ #0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|z|j|t|q)?[diuxXscp]/g,
      (whole, place) => values[place ? Number(place) - 1 : next++] ?? '')
    .replace(/%%/g, '%');
}

// A sentence of the daemon: as it is, by its pattern, or piece by piece.
export function sentence(text) {
  if (!text || catalogue.language === 'en') return text || '';
  if (catalogue.strings[text]) return catalogue.strings[text];
  patterns ??= Object.keys(catalogue.strings)
    .filter((key) => key.includes('%') && key.replace(FORMAT, '').trim().length > 3)
    .sort((a, b) => b.length - a.length)
    .map((key) => [toPattern(key), catalogue.strings[key]]);
  for (const [pattern, translation] of patterns) {
    const match = pattern.exec(text);
    if (match) return fill(translation, match.slice(1).map((value) => sentence(value)));
  }
  const cut = text.indexOf('. ');
  if (cut > 0) return `${sentence(text.slice(0, cut))}. ${sentence(text.slice(cut + 2))}`;
  const colon = text.indexOf(': ');
  if (colon > 0) {
    const rest = text.slice(colon + 2);
    const translated = sentence(rest);
    if (translated !== rest) return `${text.slice(0, colon)}: ${translated}`;
  }
  return text;
}
