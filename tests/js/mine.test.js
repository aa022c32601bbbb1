import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';

import { all, forget, keep, manageUrl } from '../../static/js/sender/mine.js';

const one = (/** @type {string} */ id, /** @type {string} */ at) => ({ id, token: 't'.repeat(43), title: `Title ${id}`, link: `http://localhost/d/${id}`, at });
const known = Object.getOwnPropertyDescriptor(globalThis, 'localStorage');

/** A storage as browsers have it: its keys are its own properties. */
class Storage {
  /** @param {string} key */ getItem(key) { return /** @type {any} */ (this)[key] ?? null; }
  /** @param {string} key @param {string} value */ setItem(key, value) { /** @type {any} */ (this)[key] = value; }
  /** @param {string} key */ removeItem(key) { delete /** @type {any} */ (this)[key]; }
}

/** @param {() => unknown} get */
const storage = (get) => Object.defineProperty(globalThis, 'localStorage', { get, configurable: true });

beforeEach(() => {
  const held = new Storage();
  storage(() => held);
});
afterEach(() => { if (known) Object.defineProperty(globalThis, 'localStorage', known); });

test('what was sent is found again, the latest first, and forgotten one by one', () => {
  keep(one('a', '2026-01-01T00:00:00Z'));
  keep(one('b', '2026-02-01T00:00:00Z'));
  keep(one('b', '2026-02-01T00:00:00Z'));
  assert.deepEqual(all().map(({ id }) => id), ['b', 'a']);
  forget('b');
  forget('never there');
  assert.deepEqual(all().map(({ id }) => id), ['a']);
  assert.equal(manageUrl({ id: 'a' }, 'secret'), '/m/a.secret');
  assert.equal(manageUrl({ id: 'a', adds: true }, 'a.secret'), '/m/a.secret');
});

test('what others keep here, and what is damaged, is passed over', () => {
  keep(one('a', '2026-01-01T00:00:00Z'));
  localStorage.setItem('beeline-sender', '{"email":"ada@example.org"}');
  localStorage.setItem('beeline-sent:x', '{"id":"x"');
  localStorage.setItem('beeline-sent:y', '{"id":"y","token":5}');
  localStorage.setItem('beeline-sent:z', 'null');
  assert.deepEqual(all().map(({ id }) => id), ['a']);
});

test('where nothing may be kept nothing is, and nobody is stopped by it', () => {
  storage(() => { throw new Error('denied'); });
  keep(one('a', '2026-01-01T00:00:00Z'));
  forget('a');
  assert.deepEqual(all(), []);
});
