import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../../static/js/upload/failure.js';
import { BATCH } from '../../static/js/upload/part-sender.js';
import { refusal } from '../../static/js/upload/put-part.js';
import { TransferUpload } from '../../static/js/upload/transfer-upload.js';
import { FakeBlob, FakeWorld, many, picked, settle } from './world.js';

const refused = (status = 403) => new Failure('refused', { status });
const network = () => new Failure('storage-unreachable');

/** Fails the puts of one piece with these, one after the other, then lets it through. */
const failing = (key, ...failures) => (put) => {
  if (put !== key || !failures.length) return;
  throw failures.shift();
};

async function upload(sizes, world = new FakeWorld(), options = {}) {
  const one = await TransferUpload.create(picked(sizes, options), world);
  return { one, world };
}

const everythingHeld = (world) => world.files.every((file) => world.held.get(file.id)?.size === file.part_count);
const putsOf = (world, key) => world.puts.filter((put) => put.startsWith(`${key} `)).length;

test('every byte of every file is cut out once, then it is completed and polled until ready', async () => {
  const { one, world } = await upload({ 'a/one': 20, 'two': 8, 'empty': 0 });
  await one.run();
  assert.deepEqual([...world.puts].sort(), ['f1/1 from 0 for 8', 'f1/2 from 8 for 8', 'f1/3 from 16 for 4', 'f2/1 from 0 for 8', 'f3/1 from 0 for 0']);
  assert.deepEqual(world.calls, ['create 3', 'sign 5 of 3 after 0', 'complete', 'read PROCESSING', 'read READY']);
  assert.equal(one.state, 'done');
  assert.equal(one.safeSize, 28);
  assert.equal(one.sentSize, 28);
});

test('addresses are asked for across files, a hundred at a time, and a lane never idles for want of small files', async () => {
  const { one, world } = await upload({ ...many(200, 3), 'large': 8 * 30 });
  await one.run();
  const signs = world.calls.filter((call) => call.startsWith('sign')).map((call) => Number(call.split(' ')[1]));
  assert.equal(signs.reduce((sum, count) => sum + count, 0), 230);
  assert.ok(signs.every((count) => count <= BATCH), String(signs));
  assert.ok(signs.length <= 4, String(signs));
  assert.equal(world.mostInFlight, 6);
});

test('small files take turns with the pieces of large ones', async () => {
  const { one, world } = await upload({ 'large': 8 * 10, ...many(10, 3) });
  await one.run();
  const large = world.puts.map((put) => put.startsWith('f1/'));
  for (let at = 0; at < 16; at += 4) assert.equal(large.slice(at, at + 4).filter(Boolean).length, 2, `${large}`);
});

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

test('progress counts bytes on the line, and goes back when a piece has to be sent again', async () => {
  const { one, world } = await upload({ 'a': 8 });
  const seen = [];
  world.onChange = () => seen.push(one.sentSize);
  world.onPut = failing('f1/1', network());
  await one.run();
  const up = seen.indexOf(4);
  assert.ok(up >= 0 && seen.indexOf(0, up) > up, String(seen));
  assert.equal(one.sentSize, 8);
});

test('the server is told how much is safe', async () => {
  const { one, world } = await upload(many(150, 8));
  await one.run();
  const told = world.calls.filter((call) => call.startsWith('sign')).map((call) => Number(call.split(' ').pop()));
  assert.equal(told[0], 0);
  assert.ok(told[1] > 0 && told[1] < 150 * 8, String(told));
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

test('a create whose answer was lost is repeated under the same key', async () => {
  const world = new FakeWorld();
  let lost = 2;
  world.onCreate = () => { if (lost-- > 0) throw new Failure('server-unreachable'); };
  await TransferUpload.create(picked({ 'a': 8 }), world);
  assert.equal(world.keys.length, 3);
  assert.equal(new Set(world.keys).size, 1);
  await TransferUpload.create(picked({ 'a': 8 }), world);
  assert.equal(new Set(world.keys).size, 2);
});

test('a file is announced with its own date, unless that is no date of our times', async () => {
  const world = new FakeWorld();
  let told;
  world.onCreate = (files) => { told = files; };
  const dated = (lastModified) => ({ path: `${lastModified}`, file: Object.assign(new FakeBlob(8), { lastModified }) });
  await TransferUpload.create([dated(1556938922000), dated(0), dated(8.64e15), dated(undefined)], world);
  assert.deepEqual(told.map((file) => file.modified_at), ['2019-05-04T03:02:02.000Z', undefined, undefined, undefined]);
});

test('a check that was given up is told, nothing is sent again, and Retry asks once more', async () => {
  const { one, world } = await upload({ 'a': 8 });
  world.polls = ['PROCESSING', 'INIT'];
  world.problem = { code: 'storage', message: 'Storage did not let us check the files.' };
  await assert.rejects(one.run(), (error) => error.why === 'not-checked' && error.facts.code === 'storage');
  assert.equal(world.puts.length, 1);
  world.problem = null;
  world.polls = ['PROCESSING', 'READY'];
  await one.run();
  assert.equal(world.puts.length, 1);
});

test('what was blocked while it was checked is not called sent', async () => {
  const { one, world } = await upload({ 'a': 8 });
  world.isBlocked = true;
  await assert.rejects(one.run(), (error) => error.why === 'blocked');
  assert.notEqual(one.state, 'done');
});

test('what comes back with a problem is sent again once, and only what the storage lacks', async () => {
  const { one, world } = await upload({ 'a': 8 * 3, 'b': 8 });
  world.polls = ['PROCESSING', 'INIT', 'PROCESSING', 'READY'];
  world.problems.set('f1', { code: 'parts_missing', message: 'a piece is missing' });
  let completes = 0;
  world.onComplete = () => { completes += 1; if (completes === 1) world.lose('f1', 2); };
  await one.run();
  assert.equal(one.state, 'done');
  assert.equal(putsOf(world, 'f1/2'), 2);
  assert.equal(world.puts.length, 5);
});

test('what comes back twice is a failure that names the file', async () => {
  const { one, world } = await upload({ 'a': 8 * 3, 'bad': 8 });
  world.polls = ['INIT'];
  world.problems.set('f2', { code: 'size_mismatch', message: 'it is short' });
  await assert.rejects(one.run(), (error) => error.why === 'incomplete' && error.facts.path === 'bad' && error.facts.code === 'size_mismatch');
  assert.equal(putsOf(world, 'f2/1'), 2, 'held, but said to be wrong: sent again once');
  assert.equal(putsOf(world, 'f1/1'), 1);
});

test('a complete that is refused because something is missing is answered by sending it', async () => {
  const { one, world } = await upload({ 'a': 8 * 3 });
  let completes = 0;
  world.onComplete = () => {
    completes += 1;
    if (completes > 1) return;
    world.lose('f1', 3);
    world.polls = ['INIT', 'READY'];
    throw new Failure('conflict', { status: 409, code: 'parts_missing' });
  };
  await one.run();
  assert.equal(putsOf(world, 'f1/3'), 2);
  assert.equal(one.state, 'done');
});

for (const [status, why] of [['EXPIRED', 'expired'], ['DELETED', 'gone']]) {
  test(`a transfer that is ${status} meanwhile ends the upload: ${why}`, async () => {
    const { one, world } = await upload({ 'a': 8 });
    world.polls = [status];
    await assert.rejects(one.run(), (error) => error.why === why);
  });
}

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

// --- Checksums ---------------------------------------------------------------------------------

test('every piece is read once, and leaves with its checksum', async () => {
  const world = new FakeWorld({ sums: true });
  const headers = new Map();
  world.onPut = (key, piece) => { headers.set(key, piece.headers['x-amz-checksum-crc32']); };
  const { one } = await upload({ 'a': 8 * 3 + 1, 'b': 5 }, world);
  await one.run();
  assert.deepEqual([...headers].sort(), [['f1/1', '0+8v1'], ['f1/2', '8+8v1'], ['f1/3', '16+8v1'], ['f1/4', '24+1v1'], ['f2/1', '0+5v1']]);
  assert.equal(world.read.length, 5);
});

test('the very first piece is read alone: the lanes wait for it', async () => {
  const { one, world } = await upload({ 'a': 100 }, new FakeWorld({ sums: true }));
  let reading = 0;
  const { checksum } = world;
  world.checksum = async (blob) => {
    assert.ok((reading += 1) === 1 || world.calls.some((call) => call.startsWith('sign')));
    try { return await checksum(blob); } finally { reading -= 1; }
  };
  await one.run();
  assert.ok(everythingHeld(world));
});

test('a store without checksums is sent none, and nothing is read for it', async () => {
  const world = new FakeWorld({ sums: true });
  const { plan } = world;
  world.plan = (spec) => plan.call(world, { ...spec, checksum_algorithm: null });
  world.onPut = (key, piece) => assert.ok(!('x-amz-checksum-crc32' in piece.headers));
  const { one } = await upload({ 'a': 8 * 3 }, world);
  await one.run();
  assert.deepEqual(world.read, []);
});

test('a browser that cannot make checksums asks for none', async () => {
  const { world } = await upload({ 'a': 8 });
  assert.equal(world.files[0].checksum_algorithm, null);
});

for (const code of ['BadDigest', 'XAmzContentChecksumMismatch']) {
  test(`what was damaged on the line (${code}) is read again, found unchanged, and sent again`, async () => {
    const world = new FakeWorld({ sums: true });
    world.onPut = failing('f1/2', refusal(400, `<Code>${code}</Code>`));
    const { one } = await upload({ 'a': 8 * 3 }, world);
    await one.run();
    assert.equal(putsOf(world, 'f1/2'), 2);
    assert.deepEqual(world.read, [0, 8, 16, 8]);
  });
}

test('a small file that storage is still writing for an earlier try is sent again', async () => {
  const { one, world } = await upload({ 'a': 8 });
  world.onPut = failing('f1/1', network(), refusal(409, '<Code>ConditionalRequestConflict</Code>'));
  await one.run();
  assert.equal(one.state, 'done');
  assert.equal(putsOf(world, 'f1/1'), 3);
});

test('what was damaged because the file was changed is not sent again', async () => {
  const world = new FakeWorld({ sums: true });
  let version = 1;
  world.onPut = (key) => { if (key === 'f1/2') { version = 2; throw new Failure('storage-busy', { status: 400, code: 'BadDigest' }); } };
  const { one } = await upload({ 'a': 8 * 3 }, world, { version: () => version });
  await assert.rejects(one.run(), (error) => error.why === 'file-changed' && error.facts.path === 'a');
  assert.equal(putsOf(world, 'f1/2'), 1);
});

test('a file that cannot be read for its checksum is named at once', async () => {
  const world = new FakeWorld({ sums: true });
  world.checksum = async () => { throw new Failure('file-changed', { code: 'NotReadableError' }); };
  const { one } = await upload({ 'a': 8 * 3 }, world);
  await assert.rejects(one.run(), (error) => error.why === 'file-changed' && error.facts.path === 'a');
  assert.deepEqual(world.puts, []);
  assert.equal(world.inFlight, 0);
});

test('a checksum that only could not be had just now is asked for again, and why is told', async () => {
  const world = new FakeWorld({ sums: true });
  const { checksum } = world;
  let lost = 2;
  const seen = [];
  world.checksum = (blob) => { seen.push(one.waiting?.why); if (lost-- > 0) throw new Failure('server-unreachable'); return checksum(blob); };
  const { one } = await upload({ 'a': 8 }, world);
  await one.run();
  assert.equal(one.state, 'done');
  assert.deepEqual(seen, [undefined, 'server-unreachable', 'server-unreachable']);
  assert.deepEqual(world.pauses.slice(0, 2), [500, 1000]);
});

test('a pause does not wait for a checksum that cannot be had just now', async () => {
  const world = new FakeWorld({ sums: true });
  world.checksum = async () => { one.pause(); throw new Failure('server-unreachable'); };
  const { one } = await upload({ 'a': 8 }, world);
  await one.run();
  assert.equal(one.state, 'paused');
});

test('whoever pauses or cancels does not wait for a piece that is being read, and it is not read again', async () => {
  const world = new FakeWorld({ sums: true });
  const { checksum } = world;
  let done;
  world.checksum = (blob) => (blob.offset === 16 && !done ? new Promise((resolve) => { done = () => resolve(checksum(blob)); }) : checksum(blob));
  const { one } = await upload({ 'a': 8 * 5 }, world);
  const running = one.run();
  await settle();
  one.pause();
  await running;
  assert.equal(one.state, 'paused');
  const again = one.run();
  await settle();
  done();
  await again;
  assert.equal(one.state, 'done');
  assert.equal(world.read.filter((offset) => offset === 16).length, 1);
  assert.ok(everythingHeld(world));
});

test('not more is read ahead than two GiB, and never all addresses at once', async () => {
  const part = 64 * 1024 * 1024;
  const world = new FakeWorld({ sums: true, partSize: part });
  let most = 0;
  world.onPut = async () => {
    most = Math.max(most, world.read.length - (world.held.get('f1')?.size ?? 0));
    for (let turn = 0; turn < 10; turn += 1) await settle(); // sending takes longer than reading
  };
  const { one } = await upload({ 'a': part * 60 }, world);
  await one.run();
  assert.ok(most <= 40, String(most));
  const signs = world.calls.filter((call) => call.startsWith('sign')).length;
  assert.ok(signs >= 3 && signs <= 10, String(signs));
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
