// Which files are named to the server as whole, and when: never at the cost of the upload.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../../static/js/upload/failure.js';
import { TELL } from '../../static/js/upload/part-sender.js';
import { TransferUpload } from '../../static/js/upload/transfer-upload.js';
import { many, picked, upload } from './world.js';

const signs = (world) => world.calls.filter((call) => call.startsWith('sign'));
const alone = (world) => signs(world).filter((call) => call.startsWith('sign 0 '));

test('of a single file nothing is named, and no request is made for it', async () => {
  const { one, world } = await upload({ 'a': 8 * 300 });
  world.onPut = () => { world.time += TELL; };
  await one.run();
  assert.equal(one.state, 'done');
  assert.deepEqual(world.named, []);
  assert.deepEqual(alone(world), []);
});

test('what is whole is named by the next request for addresses, each once', async () => {
  const { one, world } = await upload({ 'large': 8 * 300, ...many(50, 3) });
  await one.run();
  assert.deepEqual(alone(world), [], 'no time has passed');
  const named = world.named.flat();
  assert.ok(named.length > 40, `${named.length}`);
  assert.equal(new Set(named).size, named.length);
  assert.ok(!named.includes('f1'), 'with the last piece of the last file all is told anyway');
});

test('while no address is needed it gets a request of its own, every few seconds at most', async () => {
  const { one, world } = await upload({ 'large': 8 * 60, ...many(20, 3) });
  world.onPut = () => { world.time += TELL / 10; };
  await one.run();
  assert.equal(one.state, 'done');
  assert.ok(alone(world).length >= 1, String(signs(world)));
  assert.ok(alone(world).length <= 8, `80 pieces are 40 s: ${signs(world)}`);
  assert.equal(new Set(world.named.flat()).size, 20);
});

test('nobody waits for an answer to that, or cares what it is', async () => {
  const { one, world } = await upload({ 'large': 8 * 60, ...many(5, 3) });
  world.onPut = () => { world.time += TELL / 10; };
  let count = 0;
  world.onSign = (wanted) => {
    if (wanted.length) return undefined;
    count += 1;
    if (count === 1) throw new Failure('gone', { status: 404 });
    return new Promise(() => {});
  };
  await one.run();
  assert.equal(one.state, 'done');
  assert.ok(count > 0);
  assert.equal(one.waiting, null);
});

test('a server that does not take a name is asked again without it', async () => {
  const { one, world } = await upload({ 'large': 8 * 300, ...many(20, 3) });
  world.onSign = (_wanted, _signal, sent) => { if (sent) throw new Failure('invalid', { status: 400 }); };
  await one.run();
  assert.equal(one.state, 'done');
  assert.ok(world.named.length > 0);
});

test('a failure that has nothing to do with names still stops it', async () => {
  const { one, world } = await upload({ 'large': 8 * 300, ...many(20, 3) });
  world.onSign = () => { if (signs(world).length > 1) throw new Failure('gone', { status: 410 }); };
  await assert.rejects(one.run(), (error) => error.why === 'gone');
});

test('a file that is taken out is not named any more', async () => {
  const { one, world } = await upload({ 'large': 8 * 300, ...many(5, 3) });
  world.onPut = (key) => { if (key === 'f1/6') for (const [id, file] of one.files) if (id !== 'f1') one.setAside(file); };
  const running = one.run();
  await new Promise((done) => { const look = () => (world.held.get('f1')?.size === 300 ? done() : setImmediate(look)); look(); });
  assert.deepEqual(world.named, []);
  await Promise.all(['f2', 'f3', 'f4', 'f5', 'f6'].map((id) => one.remove(one.files.get(id))));
  await running;
  assert.equal(one.state, 'done');
});

test('before a pause what is whole is named: it may be long', async () => {
  const { one, world } = await upload({ 'small': 3, 'large': 8 * 40 });
  world.onPut = () => { if (world.puts.length === 19) one.pause(); };
  await one.run();
  assert.equal(one.state, 'paused');
  assert.deepEqual(world.named, [['f1']]);
});

test('what is found whole after a reload is named, but for what is complete already', async () => {
  const { world } = await upload({ 'complete': 3, 'whole': 3, 'large': 8 * 40 });
  world.files[0].state = 'COMPLETE';
  world.held.set('f2', new Set([1]));
  const blobs = new Map(picked({ 'complete': 3, 'whole': 3, 'large': 8 * 40 }).map(({ file }, index) => [`f${index + 1}`, file]));
  const again = TransferUpload.resume(world.transfer('INIT'), 'secret', blobs, world);
  await again.run();
  assert.equal(again.state, 'done');
  assert.deepEqual(world.named, [['f2']]);
});

test('one request names no more than the server takes', async () => {
  const { one, world } = await upload({ ...many(1200, 0), 'large': 8 * 300 });
  for (const { id } of world.files.slice(0, 1200)) world.held.set(id, new Set([1]));
  for (const [id, file] of one.files) if (id !== 'f1201') file.keep([1]);
  await one.run();
  assert.ok(world.named.every((ids) => ids.length <= 500));
  assert.equal(world.named.flat().length, 1200);
});
