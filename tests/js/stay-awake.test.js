import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StayAwake } from '../../static/js/upload/tabs.js';
import { settle } from './world.js';

function phone() {
  const said = [];
  const page = Object.assign(new EventTarget(), { visibilityState: 'visible' });
  const wakeLock = { request: async (kind) => { said.push(`take ${kind}`); return { release: async () => { said.push('let go'); } }; } };
  const look = (visibilityState) => { page.visibilityState = visibilityState; page.dispatchEvent(new Event('visibilitychange')); };
  return { said, page, look, awake: new StayAwake({ wakeLock }, page) };
}

test('the screen stays on while something is sent, and no longer', async () => {
  const { said, awake } = phone();
  awake.set(true);
  awake.set(true);
  await settle();
  assert.deepEqual(said, ['take screen']);
  awake.set(false);
  await settle();
  assert.deepEqual(said, ['take screen', 'let go']);
});

test('whoever looks away loses it, and gets it again on coming back', async () => {
  const { said, awake, look } = phone();
  awake.set(true);
  look('hidden');
  look('visible');
  assert.deepEqual(said, ['take screen', 'take screen']);
  awake.set(false);
  look('hidden');
  look('visible');
  await settle();
  assert.deepEqual(said, ['take screen', 'take screen', 'let go']);
});

test('nobody is in sight: it is taken later', () => {
  const { said, awake, look, page } = phone();
  page.visibilityState = 'hidden';
  awake.set(true);
  assert.deepEqual(said, []);
  look('visible');
  assert.deepEqual(said, ['take screen']);
});

test('where it is refused or unknown, nothing happens', async () => {
  const page = Object.assign(new EventTarget(), { visibilityState: 'visible' });
  new StayAwake({ wakeLock: { request: () => Promise.reject(new Error('battery')) } }, page).set(true);
  const other = new StayAwake({}, page);
  other.set(true);
  other.set(false);
  await settle();
});
