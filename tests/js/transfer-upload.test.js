// A transfer's upload from its creation until it is ready: what is asked of whom, in which order, the
// check, and the checksums.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../../static/js/upload/failure.js';
import { BATCH } from '../../static/js/upload/part-sender.js';
import { refusal } from '../../static/js/upload/put-part.js';
import { TransferUpload } from '../../static/js/upload/transfer-upload.js';
import { everythingHeld, failing, FakeBlob, FakeWorld, many, network, picked, putsOf, settle, upload } from './world.js';

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
