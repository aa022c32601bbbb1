import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import { all } from '../../static/js/sender/mine.js';
import { SenderView } from '../../static/js/sender/view.js';
import { Failure } from '../../static/js/upload/failure.js';
import { memory } from '../../static/js/upload/memory.js';
import { FakeWorld, picked, settle } from './world.js';

// It would keep the process alive; there are no other tabs.
delete globalThis.BroadcastChannel;

/** What view.js says is to be seen. Nothing is painted. */
class FakePanel {
  shown = 'ready';
  limits = {};
  addsTo = null;
  wish = {};
  adds = false;
  tellsRecipients = false;
  isUnsent = false;
  listed = [];  // the paths that are in the list
  said = [];    // remarks and notices
  asked = 0;    // how often it was asked whether all is to be cancelled
  told = [];    // what stopped or paused, each once
  sums = [];    // the bytes of all, whenever they are shown anew
  files = { show: (files) => this.listed.push(...files.map(({ plan }) => plan.path)), touch: () => {} };

  constructor(acts) { this.acts = acts; }

  take(upload) { this.upload = upload; this.files.show([...upload.files.values()]); }

  start() { this.shown = 'uploading'; }

  prepare() {}

  refresh() {}

  hint() {}

  pause() { this.shown = 'paused'; this.told.push('paused'); }

  finish() { this.shown = 'done'; }

  fail(failure) { this.shown = 'failed'; this.failure = failure; this.told.push(failure.why); }

  showSums(failure) { this.sums.push([failure?.why, this.upload.totalSize]); }

  add(files) { this.files.show(files); this.told.push(`${files.length} added`); }

  clear() { this.shown = 'ready'; this.listed = []; }

  leaveOut() {}

  showManage() {}

  focusOnChoice() {}

  askCancel() { this.asked += 1; }

  remark(words) { if (words) this.said.push(words); }

  notice(words) { this.said.push(words); }
}

function page(world = new FakeWorld()) {
  let panel;
  const view = new SenderView((acts) => { panel = new FakePanel(acts); return panel; }, (onChange) => Object.assign(world, { onChange, getReady: () => {}, wake: () => {} }));
  return { view, panel, world };
}

/** Comes when the test lets it. */
function held() {
  let release;
  const promise = new Promise((resolve, reject) => { release = { resolve, reject }; });
  return { promise, ...release };
}

/** A transfer of one file that is ready, to which others may be added; no batch, or one of another device. */
function readyBefore({ batch = null } = {}) {
  const world = new FakeWorld();
  const ready = world.backend.of();
  world.plan({ path: 'a.txt', size: 8 });
  world.files[0].state = 'COMPLETE';
  const dropBatch = async () => { world.calls.push('drop batch'); await world.onDrop?.(); world.files.splice(1); };
  world.backend.batchOf = () => ({ ...ready, remove: dropBatch });
  world.backend.of = () => ({ ...ready, dropBatch, read: async () => { world.calls.push('read'); return { ...world.transfer('READY'), batch }; } });
  return world;
}

/** @param {ReturnType<typeof page>} where */
function adding({ panel }) {
  Object.assign(panel, { adds: true, addsTo: { id: 't', word: 't.word', count: 1, size: 8 } });
}

afterEach(() => { memory.works = true; delete globalThis.localStorage; });

test('files are sent, and are then ready', async () => {
  const { view, panel, world } = page();
  await view.accept(picked({ 'a': 8 * 3 }));
  assert.equal(panel.shown, 'done');
  assert.equal(world.held.get('f1').size, 3);
});

test('of what was cancelled while it was being added nothing is left, and its names are free again', async () => {
  const { view, panel, world } = page(readyBefore());
  adding({ panel });
  const answer = held();
  world.onAdd = () => answer.promise;
  const first = view.accept(picked({ 'two.bin': 8 }));
  await settle();
  panel.acts.cancel();
  assert.equal(panel.shown, 'ready');
  world.onAdd = undefined;
  const second = view.accept(picked({ 'two.bin': 8 }));
  await settle();
  answer.resolve();
  await first;
  await second;
  assert.equal(panel.shown, 'done');
  assert.deepEqual(world.calls.filter((call) => /^(add|drop)/.test(call)), ['add 1', 'drop batch', 'add 1']);
  assert.deepEqual(panel.listed, ['two.bin']);
});

test('an attempt that is cancelled while the former is removed does not take the transfer from other tabs', async (context) => {
  const taken = [];
  const locks = { request: async (name, _, use) => { taken.push(name); await use({}); taken.pop(); } };
  Object.defineProperty(navigator, 'locks', { value: locks, configurable: true });
  context.after(() => delete navigator.locks);
  const { view, panel, world } = page(readyBefore());
  adding({ panel });
  const removal = held();
  world.onDrop = () => removal.promise;
  world.onAdd = () => panel.acts.cancel();
  const first = view.accept(picked({ 'two.bin': 8 }));
  await settle();
  world.onAdd = undefined;
  const second = view.accept(picked({ 'two.bin': 8 }));
  await settle();
  panel.acts.cancel();
  removal.resolve();
  await first;
  await second;
  await settle();
  assert.deepEqual(taken, []);
});

test('it is removed too where only the answer was lost', async () => {
  const { view, panel, world } = page(readyBefore());
  adding({ panel });
  world.onAdd = () => { if (panel.shown === 'uploading') throw new Failure('server-unreachable'); };
  world.onPause = async () => { if (panel.shown === 'uploading') panel.acts.cancel(); };
  await view.accept(picked({ 'two.bin': 8 }));
  await settle();
  assert.deepEqual(world.calls.filter((call) => /^(add|drop)/.test(call)), ['add 1', 'add 1', 'drop batch']);
  assert.equal(world.added.size, 1);
  assert.deepEqual(panel.said, ['Cancelled. What was there before stays.']);
});

test('also where others are adding to the same transfer', async () => {
  const { view, panel, world } = page(readyBefore({ batch: { status: 'INIT' } }));
  adding({ panel });
  world.onAdd = () => panel.acts.cancel();
  await view.accept(picked({ 'two.bin': 8 }));
  assert.deepEqual(world.calls.filter((call) => /^(add|drop)/.test(call)), ['add 1', 'drop batch']);
});

test('a transfer that was created although it was cancelled is removed', async () => {
  const { view, panel, world } = page();
  world.onCreate = () => panel.acts.cancel();
  await view.accept(picked({ 'a': 8 }));
  assert.deepEqual(world.calls, ['create 1', 'remove']);
  assert.equal(panel.shown, 'ready');
});

test('it is removed too where only the answer to its creation was lost', async () => {
  const { view, panel, world } = page();
  world.onCreate = () => { if (panel.shown === 'uploading') throw new Failure('server-unreachable'); };
  world.onPause = async () => { if (panel.shown === 'uploading') panel.acts.cancel(); };
  await view.accept(picked({ 'a': 8 }));
  await settle();
  assert.deepEqual(world.calls, ['create 1', 'create 1', 'remove']);
  assert.equal(new Set(world.keys).size, 1);
  assert.deepEqual(panel.said, ['Cancelled. Nothing was kept.']);
});

test('nothing is asked again for what was refused', async () => {
  const { view, panel, world } = page();
  world.onCreate = () => { panel.acts.cancel(); throw new Failure('invalid', { status: 422 }); };
  await view.accept(picked({ 'a': 8 }));
  await settle();
  assert.deepEqual(world.calls, ['create 1']);
  assert.deepEqual(panel.said, ['Cancelled. Nothing was kept.']);
});

test('whoever cannot be told what was cancelled learns that it stays for a while', async () => {
  const { view, panel, world } = page(readyBefore());
  adding({ panel });
  world.onAdd = () => panel.acts.cancel();
  world.onDrop = () => { throw new Failure('refused', { status: 403 }); };
  await view.accept(picked({ 'two.bin': 8 }));
  assert.deepEqual(panel.said, ['Cancelled. What was there before stays.', 'Cancelled. What was sent is removed within a day.']);
});

/** An upload that goes on, with files that are just being added to it. */
async function addingToOne() {
  const { view, panel, world } = page();
  const [line, answer] = [held(), held()];
  world.onPut = () => line.promise;
  const sent = view.accept(picked({ 'one.bin': 8 }));
  await settle();
  world.onAdd = () => answer.promise;
  const added = view.accept(picked({ 'two.bin': 8 }));
  await settle();
  panel.acts.cancel();
  world.onPut = () => {};
  line.resolve();
  await sent;
  return { view, panel, added, answer };
}

test('files that were added to a cancelled upload do not appear in the next one', async () => {
  const { view, panel, added, answer } = await addingToOne();
  const next = view.accept(picked({ 'three.bin': 8 }));
  answer.resolve();
  await added;
  await next;
  assert.deepEqual([panel.shown, panel.listed], ['done', ['three.bin']]);
});

test('nor is the next one told that they were not added', async () => {
  const { view, panel, added, answer } = await addingToOne();
  const next = view.accept(picked({ 'three.bin': 8 }));
  answer.reject(new Failure('gone', { status: 404 }));
  await added;
  await next;
  assert.deepEqual(panel.said, ['Cancelled. Nothing was kept.']);
});

/** An upload of these files of which nothing arrives. */
async function stuck(sizes) {
  const { view, panel, world } = page();
  world.onPut = (_, { signal }) => new Promise((_resolve, reject) => { signal.addEventListener('abort', () => reject(signal.reason)); });
  const sent = view.accept(picked(sizes));
  await settle();
  return { view, panel, world, sent };
}

test('the only file that is left is not removed without a question, for that is to cancel', async () => {
  const { panel, sent } = await stuck({ 'a': 8, 'b': 8 });
  const [a, b] = panel.upload.files.values();
  assert.ok(panel.acts.setAside(a));
  assert.ok(!panel.acts.setAside(b), 'the other one is about to go');
  assert.deepEqual([panel.asked, a.aside, b.aside], [1, true, false]);
  assert.ok(await panel.acts.remove(a));
  assert.equal(await panel.acts.remove(b), false);
  assert.deepEqual([panel.asked, panel.shown, b.aside], [2, 'uploading', false]);
  panel.acts.cancel();
  await sent;
});

test('while paused, sums follow what is added and removed, and the pause is not told again', async () => {
  const { view, panel, sent } = await stuck({ 'a': 8, 'b': 8 });
  panel.acts.pause();
  await sent;
  await view.accept(picked({ 'c': 8, 'd': 8 }));
  assert.deepEqual([panel.told, panel.sums], [['paused', '2 added'], [[undefined, 32]]]);
  await panel.acts.remove([...panel.upload.files.values()][0]);
  assert.deepEqual([panel.told.length, panel.sums.at(-1)], [2, [undefined, 24]]);
});

test('once stopped, too, and the cause is not told again', async () => {
  const { view, panel, world } = page();
  world.onSign = () => { throw new Failure('refused', { status: 400 }); };
  await view.accept(picked({ 'a': 8, 'b': 8 }));
  await view.accept(picked({ 'c': 8, 'd': 8 }));
  assert.deepEqual([panel.told, panel.sums], [['refused', '2 added'], [['refused', 32]]]);
  await panel.acts.remove([...panel.upload.files.values()][0]);
  assert.deepEqual([panel.told.length, panel.sums.at(-1)], [2, ['refused', 24]]);
});

test('once the file that stopped it is removed, it is only paused', async () => {
  const { view, panel, world } = page();
  world.onPut = (key) => { if (key.startsWith('f1/')) throw new Failure('refused', { status: 400 }); };
  await view.accept(picked({ 'a': 8, 'b': 8 }));
  const [a, b] = panel.upload.files.values();
  await panel.acts.remove(b);
  assert.deepEqual(panel.told, ['refused'], 'the cause is still there');
  await view.accept(picked({ 'c': 8 }));
  await panel.acts.remove(a);
  assert.deepEqual([panel.shown, panel.told], ['paused', ['refused', '1 added', 'paused']]);
  await panel.acts.start();
  assert.equal(panel.shown, 'done');
});

test('nor is it the last one while others are being added, unless they cannot be', async () => {
  const { view, panel, world, sent } = await stuck({ 'a': 8 });
  const answer = held();
  world.onAdd = () => answer.promise;
  const [a] = panel.upload.files.values();
  const added = view.accept(picked({ 'b': 8 }));
  await settle();
  assert.ok(panel.acts.setAside(a));
  assert.equal(panel.asked, 0);
  answer.reject(new Failure('invalid', { status: 422 }));
  await added;
  assert.equal(await panel.acts.remove(a), false);
  assert.deepEqual([panel.asked, a.aside], [1, false]);
  panel.acts.cancel();
  await sent;
});

test('where the browser keeps nothing, closing the tab asks as long as there is something to lose', async () => {
  const { panel, world, sent } = await stuck({ 'a': 8 });
  assert.ok(panel.acts.isAtRisk());
  panel.acts.pause();
  await sent;
  memory.works = true;
  assert.ok(!panel.acts.isAtRisk());
  memory.works = false;
  assert.ok(panel.acts.isAtRisk());
  assert.equal(panel.acts.continuation(), 'not');
  world.onSign = () => { throw new Failure('refused', { status: 400 }); };
  await panel.acts.start();
  assert.ok(panel.acts.isAtRisk(), 'it has stopped, and can be tried again');
  world.onSign = () => { throw new Failure('expired', { status: 410 }); };
  await panel.acts.start();
  assert.equal(panel.shown, 'failed');
  assert.ok(!panel.acts.isAtRisk(), 'there is nothing to continue');
});

for (const shown of ['checking', 'done']) {
  test(`closing the tab asks when it is ${shown}, if addresses are typed that nothing was mailed to`, async () => {
    const { view, panel } = page();
    await view.accept(picked({ 'a': 8 }));
    panel.shown = shown;
    for (const works of [true, false]) {
      Object.assign(memory, { works });
      panel.isUnsent = false;
      assert.ok(!panel.acts.isAtRisk());
      panel.isUnsent = true;
      assert.ok(panel.acts.isAtRisk());
    }
  });
}

/** Where "Sent from this device" is kept. */
function storage() {
  const kept = new Map();
  const methods = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: (key) => kept.delete(key) };
  globalThis.localStorage = new Proxy({}, { get: (_, name) => methods[name], ownKeys: () => [...kept.keys()], getOwnPropertyDescriptor: () => ({ configurable: true, enumerable: true }) });
  return kept;
}

test('what is titled after it is done is found by its title, unless it was forgotten', async () => {
  const kept = storage();
  const { view, panel } = page();
  await view.accept(picked({ 'two.bin': 8 }));
  panel.upload.transfer.created_at = '2026-01-01T00:00:00Z';
  kept.set('beeline-sent:t', JSON.stringify({ ...JSON.parse(kept.get('beeline-sent:t')), at: '2026-01-01T00:00:00Z' }));
  await panel.upload.edit({ title: 'Holiday in Rome' });
  panel.acts.edited();
  assert.deepEqual(all().map(({ title }) => title), ['Holiday in Rome']);
  kept.clear();
  panel.acts.edited();
  assert.deepEqual(all(), []);
});

test('who was signed in too long ago is told to reload the page, and nothing has begun', async () => {
  const { view, panel, world } = page();
  world.backend.create = async () => { throw new Failure('signed-out', { status: 400, fields: [{ field: 'sender_token', message: 'does not prove this address: confirm it again' }] }); };
  await view.accept(picked({ 'a': 8 }));
  assert.equal(panel.shown, 'ready');
  assert.deepEqual(panel.said, ['This page is out of date. Reload it, then choose the files again.']);
});

test('that recipients are to be mailed is remembered with the upload, and known again when it is continued', async (context) => {
  const remembered = context.mock.method(memory, 'follow', async () => {});
  const { panel, sent } = await stuck({ 'a': 8 });
  panel.acts.tellRecipients(true);
  assert.equal(remembered.mock.calls.at(-1).arguments[0].tells, true);
  panel.acts.cancel();
  await sent;

  const later = page();
  const plan = later.world.plan({ path: 'a', size: 8 });
  later.view.resume({ transfer: later.world.transfer('INIT'), token: 'secret', blobs: new Map([[plan.id, picked({ 'a': 8 })[0].file]]), held: new Map(), hasHandles: true, tells: true, release: () => {} });
  assert.ok(later.panel.tellsRecipients);
  assert.ok(later.panel.upload.tellsRecipients);
  for (let i = 0; i < 20 && later.panel.shown !== 'done'; i += 1) await settle();
  assert.equal(later.panel.shown, 'done');
});

test('which file request it is for is remembered with the upload, also after it was continued', async (context) => {
  const remembered = context.mock.method(memory, 'remember', async () => {});
  const followed = context.mock.method(memory, 'follow', async () => {});
  const first = page();
  first.panel.wish = { file_request: 'slug' };
  await first.view.accept(picked({ 'a': 8 }));
  assert.equal(remembered.mock.calls.at(-1).arguments[0].request, 'slug');

  const later = page();
  const plan = later.world.plan({ path: 'a', size: 8 });
  later.view.resume({ transfer: later.world.transfer('INIT'), token: 'secret', blobs: new Map([[plan.id, picked({ 'a': 8 })[0].file]]), held: new Map(), hasHandles: true, tells: false, request: 'slug', release: () => {} });
  later.panel.acts.edited();
  assert.equal(followed.mock.calls.at(-1).arguments[0].request, 'slug');
});
