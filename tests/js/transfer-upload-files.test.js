// Files that come and go while a transfer is sent: added, set aside, removed here or elsewhere.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../../static/js/upload/failure.js';
import { TransferUpload } from '../../static/js/upload/transfer-upload.js';
import { everythingHeld, FakeWorld, picked, refused, settle, upload } from './world.js';

test('a removed file is no longer sent, its address is not used, the rest completes', async () => {
  const { one, world } = await upload({ 'stay': 8 * 10, 'go': 8 * 10 });
  let removed;
  world.onPut = () => { if (world.puts.length > 6) removed ??= one.remove(one.files.get('f2')); };
  await one.run();
  await removed;
  assert.equal(one.state, 'done');
  assert.equal(one.totalSize, 80);
  assert.ok(!one.files.has('f2'));
  assert.equal(world.held.get('f1').size, 10);
  assert.ok(world.calls.indexOf('remove f2') < world.calls.indexOf('complete'));
});

test('a file set aside holds the completion back until it is brought back or removed', async () => {
  const { one, world } = await upload({ 'a': 8, 'b': 8 * 3 });
  const file = one.files.get('f2');
  one.setAside(file);
  const running = one.run();
  await settle();
  assert.deepEqual(world.puts, ['f1/1 from 0 for 8']);
  assert.ok(!world.calls.includes('complete'));
  one.bringBack(file);
  await running;
  assert.equal(world.held.get('f2').size, 3);
});

test('a file removed while its addresses are being signed does not fail the others', async () => {
  const { one, world } = await upload({ 'a': 8 * 2, 'b': 8 * 2 });
  let removed;
  world.onSign = async () => {
    if (removed) return;
    removed = one.remove(one.files.get('f2'));
    await removed;
  };
  await one.run();
  assert.equal(one.state, 'done');
  assert.equal(world.held.get('f1').size, 2);
  assert.equal(world.held.has('f2'), false);
});

// On its page, or by another program.
const removeElsewhere = (world, id) => { world.files = world.files.filter((file) => file.id !== id); };

test('of a file that was removed elsewhere nothing more is sent, and the others go on', async () => {
  const { one, world } = await upload({ 'stay': 8 * 12, 'go': 8 * 12 });
  const go = one.files.get('f2');
  world.polls = ['INIT', 'READY'];
  world.onPut = (key) => {
    if (world.puts.length === 6) removeElsewhere(world, 'f2');
    if (key.startsWith('f2') && world.puts.length > 6) throw refused(404); // Storage gave it up too.
  };
  await one.run();
  assert.equal(one.state, 'done');
  assert.ok(go.isGone && !one.files.has('f2'));
  assert.equal(one.totalSize, 96);
  assert.equal(world.held.get('f1').size, 12);
});

test('what was added while it was asked which files are left is one of them', async () => {
  const world = new FakeWorld();
  const owned = world.backend.of();
  const read = async () => {
    const told = world.transfer('INIT');
    await one.add(picked({ 'come': 8 }));
    owned.read = async () => world.transfer('READY');
    return told;
  };
  world.backend.of = () => Object.assign(owned, { read });
  const { one } = await upload({ 'go': 8, 'stay': 8 }, world);
  removeElsewhere(world, 'f1');
  await one.run();
  assert.deepEqual([...one.files.keys()], ['f2', 'f3']);
});

test('one that was removed elsewhere when all of it had been sent is not counted', async () => {
  const { one, world } = await upload({ 'stay': 8, 'go': 8 });
  world.polls = ['READY'];
  world.onComplete = () => removeElsewhere(world, 'f2');
  await one.run();
  assert.deepEqual([...one.files.keys()], ['f1']);
});

test('where no file is left, or no transfer, it is gone', async () => {
  for (const goes of [(world) => { world.files = []; }, (world) => { world.onSign = () => { throw new Failure('gone', { status: 404 }); }; }]) {
    const { one, world } = await upload({ 'a': 8, 'b': 8 });
    goes(world);
    await assert.rejects(one.run(), (error) => error.why === 'gone');
  }
});

test('who removes what was removed elsewhere has what they want', async () => {
  const { one, world } = await upload({ 'a': 8, 'b': 8 });
  world.onRemove = () => { throw new Failure('gone', { status: 404 }); };
  await one.remove(one.files.get('f2'));
  assert.deepEqual([...one.files.keys()], ['f1']);
});

test('a removal that the server refuses brings the file back', async () => {
  const { one, world } = await upload({ 'a': 8, 'b': 8 });
  const owned = world.backend.of;
  const again = new TransferUpload(world.transfer('INIT'), 'secret', new Map(picked({ 'a': 8, 'b': 8 }).map(({ file }, index) => [`f${index + 1}`, file])), {
    ...world, diagnose: world.diagnose, onChange: world.onChange, putPart: world.putPart, pause: world.pause, now: world.now, random: world.random, isOffline: world.isOffline,
    backend: { of: () => ({ ...owned(), removeFile: async () => { throw new Failure('conflict', { status: 409 }); } }) },
  });
  await assert.rejects(again.remove(again.files.get('f2')), (error) => error.why === 'conflict');
  await again.run();
  assert.ok(everythingHeld(world));
  assert.equal(one.state, 'waiting');
});

test('of two that go at once the second is the last, and without any file nothing completes', async () => {
  const { one, world } = await upload({ 'a': 8, 'b': 8 });
  const [a, b] = one.files.values();
  assert.ok(!one.isLast(b));
  const running = assert.rejects(one.run(), { name: 'AbortError' });
  const removed = one.remove(a);
  assert.ok(one.isLast(b));
  await removed;
  assert.ok(one.isLast(b));
  await one.remove(b);
  await settle();
  assert.ok(!world.calls.includes('complete'));
  await one.cancel();
  await running;
});

test('a file that the server would not let go is one that stays', async () => {
  const { one, world } = await upload({ 'a': 8, 'b': 8 });
  const [a, b] = one.files.values();
  world.onRemove = () => { throw new Failure('conflict', { status: 409 }); };
  await assert.rejects(one.remove(a));
  assert.ok(!one.isLast(b));
});

test('files added on the way go the same way', async () => {
  const { one, world } = await upload({ 'a': 8 * 6 });
  let added;
  world.onPut = () => { added ??= one.add(picked({ 'late': 8 * 2 })); };
  await one.run();
  await added;
  assert.equal(world.held.get('f2').size, 2);
  assert.equal(one.totalSize, 64);
});

test('files whose adding was not answered are added once', async () => {
  const { one, world } = await upload({ 'a': 8 });
  let lost = 2;
  world.onAdd = () => { if (lost-- > 0) throw new Failure('server-unreachable'); };
  await one.add(picked({ 'late': 8 }));
  assert.deepEqual(world.files.map(({ path }) => path), ['a', 'late']);
  await one.add(picked({ 'later': 8 }));
  await one.run();
  assert.deepEqual([...world.added.values()].map(([{ path }]) => path), ['late', 'later'], 'each under a key of its own');
  assert.ok(everythingHeld(world));
});

test('an addition whose answers are lost for long is neither given up nor made twice, and what it waits for is told', async () => {
  const { one, world } = await upload({ 'a': 8 });
  const told = [];
  let lost = 20;
  world.onAdd = () => { if (lost-- > 0) throw new Failure('server-busy', { status: 504 }); };
  const adding = one.add(picked({ 'late': 8 }), ({ why }) => told.push(why));
  await Promise.all([one.run(), adding]);
  assert.deepEqual(world.files.map(({ path }) => path), ['a', 'late']);
  assert.equal(one.state, 'done');
  assert.ok(everythingHeld(world));
  assert.ok(told.length >= 2 && told.every((why) => why === 'server-busy'), String(told));
});

test('an addition that was not answered is given up when all is cancelled', async () => {
  const { one, world } = await upload({ 'a': 8 });
  world.onAdd = () => { throw new Failure('server-unreachable'); };
  const adding = one.add(picked({ 'late': 8 }));
  await settle();
  await one.cancel();
  await assert.rejects(adding, (error) => error.why === 'server-unreachable');
});

test('nothing completes while it is not known yet which files were added', async () => {
  const { one, world } = await upload({ 'a': 8 });
  let answer;
  world.onAdd = () => new Promise((resolve) => { answer = resolve; });
  const added = one.add(picked({ 'late': 8 }));
  const running = one.run();
  await settle();
  assert.equal(world.held.get('f1').size, 1);
  assert.ok(!world.calls.includes('complete'));
  answer();
  await Promise.all([added, running]);
  assert.ok(everythingHeld(world));
  assert.equal(world.calls.filter((call) => call === 'complete').length, 1);
});

test('files that could not be added hold nothing back, and a pause does not wait for them', async () => {
  const { one, world } = await upload({ 'a': 8 });
  let refuse;
  world.onAdd = () => new Promise((_resolve, reject) => { refuse = reject; });
  const added = assert.rejects(one.add(picked({ 'late': 8 })));
  const running = one.run();
  await settle();
  one.pause();
  await running;
  assert.equal(one.state, 'paused');
  world.files.pop();
  refuse(new Failure('invalid', { status: 422 }));
  await added;
  await one.run();
  assert.equal(one.state, 'done');
});

// --- More for what is there ----------------------------------------------------------------------

/** A transfer of one file that is there; what is added to it is told by batchOf(). */
function readyBefore() {
  const world = new FakeWorld();
  world.plan({ path: 'a.txt', size: 8 });
  world.files[0].state = 'COMPLETE';
  world.held.set('f1', new Set([1]));
  const ready = world.backend.of();
  world.backend.batchOf = () => ({ ...ready, complete: async (signal, tells) => { world.calls.push(`tells ${tells}`); return ready.complete(signal); } });
  world.backend.of = () => ({ ...ready, read: async () => world.transfer('READY') });
  return world;
}

test('what is added takes another name than what is there, and only it is sent', async () => {
  const world = readyBefore();
  const one = await TransferUpload.addTo({ id: 't', token: 'word' }, picked({ 'a.txt': 8, 'b': 16 }), world);
  assert.deepEqual([...one.files.values()].map(({ plan }) => plan.path), ['a (2).txt', 'b']);
  assert.deepEqual(one.picked.map(({ path, from }) => [path, from]), [['a (2).txt', 'a.txt'], ['b', undefined]], 'by this it is found again');
  one.tellsRecipients = true;
  await one.run();
  assert.deepEqual([...world.puts].sort(), ['f2/1 from 0 for 8', 'f3/1 from 0 for 8', 'f3/2 from 8 for 8']);
  assert.equal(one.state, 'done');
  assert.ok(world.calls.includes('tells true'));
});

test('a batch whose announcement was not answered is announced again under the same key', async () => {
  const world = readyBefore();
  let lost = 2;
  world.onAdd = () => { if (lost-- > 0) throw new Failure('server-unreachable'); };
  const one = await TransferUpload.addTo({ id: 't', token: 'word' }, picked({ 'b': 8 }), world);
  assert.equal(one.files.size, 1);
  assert.equal(world.added.size, 1);
});

test('what was just being added to a batch when that was cancelled is removed too', async () => {
  const world = readyBefore();
  const one = await TransferUpload.addTo({ id: 't', token: 'word' }, picked({ 'b': 8 }), world);
  let answer;
  world.onAdd = () => new Promise((resolve) => { answer = resolve; });
  const added = one.add(picked({ 'c': 8 }));
  await settle();
  await one.cancel();
  answer();
  await added;
  assert.deepEqual(world.calls, ['add 1', 'add 1', 'remove', 'remove']);
});

test('while others are still adding it says so, and nothing of it is lost', async () => {
  const world = readyBefore();
  world.plan({ path: 'from another tab', size: 8 });
  const one = await TransferUpload.addTo({ id: 't', token: 'word' }, picked({ 'b': 8 }), world);
  world.polls = ['INIT', 'READY'];
  await assert.rejects(one.run(), (error) => error.why === 'others-coming');
  await one.run();
  assert.equal(one.state, 'done');
  assert.equal(world.puts.length, 1);
});
