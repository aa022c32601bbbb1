// What fails on the way: which piece is sent again, after which pause, and what is told meanwhile.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../../static/js/upload/failure.js';
import { refusal } from '../../static/js/upload/put-part.js';
import { TransferUpload } from '../../static/js/upload/transfer-upload.js';
import { everythingHeld, failing, FakeBlob, FakeWorld, many, network, picked, putsOf, refused, upload } from './world.js';

test('a refused address is renewed once, with all its neighbours, and costs no wait', async () => {
  const { one, world } = await upload({ 'a': 8 * 12 });
  world.onPut = failing('f1/2', refused());
  await one.run();
  assert.equal(one.state, 'done');
  assert.equal(putsOf(world, 'f1/2'), 2);
  assert.ok(world.urlsGiven > 13, 'the neighbours were signed afresh too');
  assert.ok(everythingHeld(world));
  assert.deepEqual(world.pauses, [200, 300]); // These are the polls.
});

test('four refusals of one piece need nobody, and are not sent in one breath', async () => {
  const { one, world } = await upload({ 'a': 8 });
  world.onPut = failing('f1/1', refused(), refused(), refused(), refused());
  await one.run();
  assert.equal(one.state, 'done');
  assert.deepEqual(world.pauses.slice(0, 3), [1000, 2000, 4000]);
});

test('the cause of a refusal is shown from the second on, while it is tried again', async () => {
  const { one, world } = await upload({ 'a': 8 });
  const shown = [];
  world.onPut = () => { shown.push(one.waiting?.why); if (shown.length < 4) throw refused(); };
  await one.run();
  assert.deepEqual(shown, [undefined, undefined, 'refused', 'refused']);
});

test('fifty refusals in a row need nobody', async () => {
  const { one, world } = await upload({ 'a': 8 * 64 });
  let left = 50;
  world.onPut = () => { if (left > 0) { left -= 1; throw refused(); } };
  await one.run();
  assert.equal(one.state, 'done');
  assert.equal(world.puts.length, 64 + 50);
});

test('every piece may be refused once (a laptop that slept)', async () => {
  const { one, world } = await upload({ 'a': 8 * 8 });
  const seen = new Set();
  world.onPut = (key) => {
    if (!seen.has(key)) { seen.add(key); throw refused(); }
  };
  await one.run();
  assert.equal(one.state, 'done');
  assert.ok(everythingHeld(world));
});

test('an address that grew old while it waited is not even tried', async () => {
  const { one, world } = await upload({ 'a': 8 * 20 }, new FakeWorld({ expiresIn: 100 }));
  const urls = [];
  world.onPut = (key, { url }) => { urls.push(Number(url.split('?')[1])); world.time += 30_000; };
  await one.run();
  assert.ok(everythingHeld(world));
  assert.equal(world.puts.length, 20);
  assert.ok(Math.max(...urls) > 20, 'later pieces went to renewed addresses');
});

for (const [name, failures, why] of [
  ['refused from nine addresses', Array.from({ length: 9 }, () => refused()), 'refused'],
  ['not found at nine addresses', Array.from({ length: 9 }, () => refused(404)), 'refused'],
  ['full', [new Failure('storage-full', { status: 507 })], 'storage-full'],
  ['too large', [new Failure('too-large', { status: 413 })], 'too-large'],
]) {
  test(`one piece ${name} stops the others, keeps what is safe, and names the file; run() goes on from there`, async () => {
    const { one, world } = await upload({ 'name.bin': 8 * 40 });
    world.onPut = failing('f1/7', ...failures);
    await assert.rejects(one.run(), (error) => error.why === why && error.facts.path === 'name.bin');
    assert.equal(one.state, 'failed');
    assert.equal(world.inFlight, 0, 'nothing is left on the line');
    const safe = new Set(world.held.get('f1'));
    assert.ok(safe.size >= 1 && safe.size < 40);
    assert.equal(one.safeSize, safe.size * 8);
    assert.ok(!world.calls.includes('remove'), 'a failure gives nothing up');

    const before = world.puts.length;
    await one.run();
    assert.equal(one.state, 'done');
    assert.equal(world.puts.length - before, 40 - safe.size, 'only what was missing was sent');
    assert.ok(everythingHeld(world));
  });
}

for (const [name, failure] of [
  ['no answer', () => network()],
  ['500', () => new Failure('storage-busy', { status: 500 })],
  ['503', () => new Failure('storage-busy', { status: 503 })],
]) {
  test(`${name}: only that piece is sent again, after a rest, from a fresh address`, async () => {
    const { one, world } = await upload({ 'a': 8 * 6, 'b': 5 });
    const urls = [];
    const fail = failing('f1/3', failure(), failure(), failure());
    world.onPut = (key, { url }) => { if (key === 'f1/3') urls.push(url); fail(key); };
    await one.run();
    assert.equal(one.state, 'done');
    assert.equal(world.puts.length, 7 + 3);
    assert.equal(new Set(urls).size, 4, 'four tries, four addresses');
    assert.equal(one.waiting, null);
  });
}

test('a storage that never answers is tried for ever, with pauses that grow up to a limit, and its cause is found out', async () => {
  const { one, world } = await upload({ 'a': 8 });
  world.diagnose = async () => new Failure('storage-blocked');
  const seen = new Set();
  world.onPut = () => { seen.add(one.waiting?.why); if (world.puts.length < 100) throw network(); };
  await one.run();
  assert.deepEqual(world.pauses.slice(0, 9), [500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000, 10_000]);
  assert.deepEqual([...seen], [undefined, 'storage-unreachable', 'storage-blocked'], 'once is chance, twice is asked about');
  assert.equal(one.state, 'done');
});

test('a storage that answers that it is busy is left alone for longer', async () => {
  const { one, world } = await upload({ 'a': 8 });
  world.onPut = () => { if (world.puts.length < 10) throw new Failure('storage-busy', { status: 503 }); };
  await one.run();
  assert.deepEqual(world.pauses.slice(4, 9), [8000, 16_000, 30_000, 30_000, 30_000]);
});

test('what is being waited for stays in sight until something arrives', async () => {
  const { one, world } = await upload({ 'a': 8 });
  const seen = [];
  world.onSign = () => { seen.push(one.waiting?.why); };
  world.onPut = failing('f1/1', network(), network());
  await one.run();
  assert.deepEqual(seen, [undefined, 'storage-unreachable', 'storage-unreachable']);
  assert.equal(one.waiting, null);
});

test('a piece that fails while others arrive is not told, and failures in a row on all lanes are', async () => {
  const { one, world } = await upload(many(40, 8));
  const told = [];
  let tried = 0;
  const failing = (count) => { tried += 1; told.push(one.waiting?.why); if (count) throw new Failure('storage-busy', { status: 503 }); };
  world.onPut = () => failing(tried % 10 === 4 || (tried >= 20 && tried < 30));
  await one.run();
  assert.equal(one.state, 'done');
  assert.deepEqual([...new Set(told.slice(0, 21))], [undefined]);
  assert.equal(told[29], 'storage-busy');
  assert.equal(one.waiting, null);
});

test('progress makes the pauses short again: a line on which one put of six arrives gets there', async () => {
  const { one, world } = await upload({ 'a': 8 * 12 });
  let tried = 0;
  world.onPut = () => { tried += 1; if (tried % 6) throw network(); };
  await one.run();
  assert.ok(everythingHeld(world));
  assert.ok(world.pauses.length > 50 && Math.max(...world.pauses) < 30_000, String(world.pauses));
});

test('while the machine knows that it is offline, no budget is spent', async () => {
  const { one, world } = await upload({ 'a': 8 });
  world.offline = true;
  world.onPut = () => { if (world.offline) throw new Failure('offline'); };
  world.onPause = () => { if (world.pauses.length === 50) world.offline = false; };
  await one.run();
  assert.equal(one.state, 'done');
  assert.equal(world.pauses.filter((pause) => pause === 30_000).length, 50);
});

test('a file that the storage has dropped is begun anew, once the server was asked what is held; no other is sent again', async () => {
  const { one, world } = await upload({ 'dropped': 8 * 20, 'other': 8 * 20 });
  let isDropped = false;
  const others = () => world.puts.filter((put) => put.startsWith('f2/')).length;
  world.onPut = (key) => {
    if (!key.startsWith('f1/')) return;
    if (key === 'f1/9' && putsOf(world, key) === 1) { isDropped = true; world.held.get('f1').clear(); }
    if (isDropped) throw refused(404);
  };
  world.onHeld = () => { isDropped = false; };
  await one.run();
  assert.equal(one.state, 'done');
  assert.ok(everythingHeld(world));
  assert.equal(others(), 20);
  const asked = world.calls.filter((call) => call === 'held').length;
  assert.ok(asked >= 1 && asked <= 3, `lanes ask together: ${asked}`);
  assert.equal(one.safeSize, one.totalSize);
});

test('what the server cannot find out while storage answers 404 is asked again, and a pause does not wait for it', async () => {
  const { one, world } = await upload({ 'a': 8 * 3 });
  let asked = 0;
  world.onPut = () => { if (asked < 3) throw refused(404); };
  world.onHeld = () => { asked += 1; if (asked < 3) throw new Failure('server-busy', { status: 503 }); };
  await one.run();
  assert.equal(one.state, 'done');
  world.onHeld = () => { again.pause(); throw new Failure('server-busy', { status: 503 }); };
  const again = await TransferUpload.create(picked({ 'a': 8 }), world);
  world.held.clear();
  world.onPut = () => { throw refused(404); };
  await again.run();
  assert.equal(again.state, 'paused');
});

test('a file that changed on disk is told apart from a lost connection, at once', async () => {
  const { one, world } = await upload({ 'a': 8, 'b': 8 }, new FakeWorld(), { readable: () => false });
  world.onPut = failing('f2/1', network());
  await assert.rejects(one.run(), (error) => error.why === 'file-changed' && error.facts.path === 'b');
  assert.deepEqual(world.pauses, []);
});

test('a file that shrank is not sent short', async () => {
  const world = new FakeWorld();
  world.plan({ path: 'a', size: 20 });
  const one = new TransferUpload(world.transfer('INIT'), 'secret', new Map([['f1', new FakeBlob(12)]]), world);
  await assert.rejects(one.run(), (error) => error.why === 'file-changed');
});

test('every request to the server is tried again while it is down', async () => {
  const { one, world } = await upload({ 'a': 8 });
  let down = 3;
  const stumble = () => { if (down > 0) { down -= 1; throw new Failure('server-unreachable'); } };
  world.onSign = stumble;
  world.onComplete = stumble;
  await one.run();
  assert.equal(one.state, 'done');
  assert.deepEqual(world.pauses.slice(0, 3), [500, 1000, 2000]);
});

test('Retry-After is kept', async () => {
  const { one, world } = await upload({ 'a': 8 });
  let first = true;
  world.onSign = () => { if (first) { first = false; throw new Failure('server-busy', { status: 503, retryAfter: 7 }); } };
  await one.run();
  assert.equal(world.pauses[0], 7000);
});

test('a small file that storage is still writing for an earlier try is sent again', async () => {
  const { one, world } = await upload({ 'a': 8 });
  world.onPut = failing('f1/1', network(), refusal(409, '<Code>ConditionalRequestConflict</Code>'));
  await one.run();
  assert.equal(one.state, 'done');
  assert.equal(putsOf(world, 'f1/1'), 3);
});

test('a random storm: whatever fails in passing, every byte arrives and nothing is sent without need', async () => {
  let seed = 7;
  const random = () => { seed = (seed * 16807) % 2147483647; return seed / 2147483647; };
  for (let round = 0; round < 40; round += 1) {
    const { one, world } = await upload({ ...many(1 + Math.floor(random() * 30), 5), 'large': 8 * Math.floor(2 + random() * 60) + 3 });
    const refusedOnce = new Set();
    let faults = 0;
    world.onPut = (key) => {
      const dice = random();
      if (dice > 0.2) return;
      if (dice < 0.05 && !refusedOnce.has(key)) { refusedOnce.add(key); faults += 1; throw refused(); }
      if (dice < 0.15) { faults += 1; throw network(); }
    };
    await one.run();
    const pieces = world.files.reduce((sum, file) => sum + file.part_count, 0);
    assert.ok(everythingHeld(world), `round ${round}`);
    assert.equal(world.puts.length, pieces + faults, `round ${round}`);
    assert.equal(one.safeSize, one.totalSize);
  }
});
