// An upload that stops and goes on from what is safe: aborted, cancelled, paused, begun in another life of
// the page.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TransferUpload } from '../../static/js/upload/transfer-upload.js';
import { FakeBlob, FakeWorld, network, picked, settle, upload } from './world.js';

test('an abort stops everything at once and keeps what is safe', async () => {
  const { one, world } = await upload({ 'a': 8 * 40 });
  const stop = new AbortController();
  world.onPut = () => { if (world.puts.length > 18) stop.abort(new Error('leave')); };
  await assert.rejects(one.run(stop.signal), /leave/);
  assert.equal(world.inFlight, 0);
  assert.equal(one.state, 'waiting');
  assert.ok(one.safeSize > 0);
  assert.ok(!world.calls.includes('remove'));
});

test('an abort during a rest or a request does not wait for its end', async () => {
  const { one, world } = await upload({ 'a': 8 });
  const stop = new AbortController();
  world.onSign = (_, signal) => new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason));
    setImmediate(() => stop.abort(new Error('leave')));
  });
  await assert.rejects(one.run(stop.signal));
  assert.deepEqual(world.puts, []);
});

test('cancel stops the lines and removes the transfer', async () => {
  const { one, world } = await upload({ 'a': 8 * 40 });
  let cancelled;
  world.onPut = () => { if (world.puts.length > 6) cancelled ??= one.cancel(); };
  await assert.rejects(one.run(), { name: 'AbortError' });
  await cancelled;
  assert.equal(one.state, 'cancelled');
  assert.equal(world.calls.at(-1), 'remove');
  assert.ok(!world.calls.includes('complete'));
});

// --- In another life of the page ---------------------------------------------------------------

/** A transfer that was begun before: storage holds 1 and 4 of the first file, all of the second. */
function begunBefore(status = 'INIT') {
  const world = new FakeWorld();
  world.plan({ path: 'a', size: 8 * 5 });
  world.plan({ path: 'b', size: 8 });
  world.files[1].state = 'COMPLETE';
  world.held.set('f1', new Set([1, 4])).set('f2', new Set([1]));
  return { world, one: TransferUpload.resume(world.transfer(status), 'secret', new Map([['f1', new FakeBlob(40)]]), world) };
}

test('a transfer that was begun before goes on from what the storage says it holds', async () => {
  const { world, one } = begunBefore();
  await one.run();
  assert.deepEqual([...world.puts].sort(), ['f1/2 from 8 for 8', 'f1/3 from 16 for 8', 'f1/5 from 32 for 8']);
  assert.equal(world.calls[0], 'held');
  assert.equal(one.state, 'done');
});

test('one that is being checked already is only waited for', async () => {
  const { world, one } = begunBefore('PROCESSING');
  await one.run();
  assert.deepEqual(world.puts, []);
  assert.deepEqual(world.calls, ['complete', 'read PROCESSING', 'read READY']);
});

test('a pause while the storage is asked loses nothing: it is asked again', async () => {
  const { world, one } = begunBefore();
  const owned = world.backend.of;
  let asked = 0;
  const { held } = owned();
  const slow = TransferUpload.resume(world.transfer('INIT'), 'secret', new Map([['f1', new FakeBlob(40)]]), Object.assign(world, {
    backend: { of: () => ({ ...owned(), held: async (signal) => { asked += 1; if (asked === 1) { slow.pause(); signal.throwIfAborted(); } return held(); } }) },
  }));
  await slow.run();
  assert.equal(slow.state, 'paused');
  await slow.run();
  assert.equal(asked, 2);
  assert.equal(world.puts.length, 3);
  assert.equal(one.state, 'waiting');
});

test('a file that was not chosen in this life of the page is asked for by name, and nothing of it is sent', async () => {
  const { world } = begunBefore();
  const one = TransferUpload.resume(world.transfer('INIT'), 'secret', new Map(), world);
  await assert.rejects(one.run(), (error) => error.why === 'not-chosen' && error.facts.path === 'a');
  assert.deepEqual(world.puts, []);
});

test('a file that storage held before and lost since is not said to have changed on disk', async () => {
  const { world, one } = begunBefore();
  world.files[1].state = 'OPEN';
  world.onComplete = () => { world.lose('f2', 1); world.polls = ['INIT']; };
  await assert.rejects(one.run(), (error) => error.why === 'not-chosen' && error.facts.path === 'b');
});

// --- Pause -------------------------------------------------------------------------------------

test('a pause lets go of what is on the line, keeps what is safe, and run() sends only the rest', async () => {
  const { one, world } = await upload({ 'a': 8 * 40 });
  world.onPut = () => { if (world.puts.length === 19) one.pause(); };
  await one.run();
  assert.equal(one.state, 'paused');
  assert.equal(one.waiting, null);
  assert.equal(world.inFlight, 0);
  const safe = world.held.get('f1').size;
  assert.equal(one.safeSize, safe * 8);
  assert.equal(one.sentSize, one.safeSize);
  assert.ok(!world.calls.includes('remove') && !world.calls.includes('complete'));
  const before = world.puts.length;
  await one.run();
  assert.equal(one.state, 'done');
  assert.equal(world.puts.length - before, 40 - safe);
});

test('a pause does not wait for the cause that is being looked for', async () => {
  const { one, world } = await upload({ 'a': 8 });
  world.onPut = () => { throw network(); };
  world.diagnose = () => { one.pause(); return new Promise(() => {}); };
  await one.run();
  assert.equal(one.state, 'paused');
});

test('while it is being checked there is nothing to pause', async () => {
  const { one, world } = await upload({ 'a': 8 });
  world.onComplete = () => one.pause();
  await one.run();
  assert.equal(one.state, 'done');
});

test('files come and go during a pause', async () => {
  const { one, world } = await upload({ 'a': 8 * 20, 'b': 8 * 2 });
  world.onPut = () => one.pause();
  await one.run();
  world.onPut = () => {};
  await one.add(picked({ 'late': 8 }));
  await one.remove(one.files.get('f2'));
  const puts = world.puts.length;
  await settle();
  assert.equal(world.puts.length, puts, 'nothing is sent');
  await one.run();
  assert.deepEqual([...one.files.keys()], ['f1', 'f3']);
  assert.equal(one.safeSize, 8 * 21);
});

test('cancel during a pause removes the transfer', async () => {
  const { one, world } = await upload({ 'a': 8 * 20 });
  world.onPut = () => one.pause();
  await one.run();
  await one.cancel();
  assert.equal(world.calls.at(-1), 'remove');
});
