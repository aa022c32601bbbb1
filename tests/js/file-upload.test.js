import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FileUpload } from '../../static/js/upload/file-upload.js';
import { FakeBlob } from './world.js';

const plan = (size, partSize) => ({ id: 'f', path: 'p', size, method: 'multipart', part_size: partSize, part_count: Math.max(1, Math.ceil(size / partSize)), state: 'OPEN', problem: null });
const file = (size, partSize = 8) => new FileUpload(new FakeBlob(size), plan(size, partSize), { putPart: async () => {} });

for (const [size, count, last] of [[0, 1, 0], [1, 1, 1], [8, 1, 8], [9, 2, 1], [16, 2, 8], [23, 3, 7]]) {
  test(`${size} bytes by 8: ${count} pieces, the last of ${last}; safe bytes add up`, async () => {
    const cut = [];
    const one = new FileUpload(new FakeBlob(size), plan(size, 8), { putPart: async ({ body }) => { cut.push([body.offset, body.size]); } });
    for (let number = one.take(); number; number = one.take()) {
      await one.put({ number, url: 'u', size: number < count ? 8 : last, headers: {} }, new AbortController().signal, () => {});
    }
    assert.equal(cut.length, count);
    assert.deepEqual(cut.at(-1), [(count - 1) * 8, last]);
    assert.equal(one.safeSize, size);
    assert.ok(one.isStored);
  });
}

test('a piece is spoken for once, and is there again when given back', () => {
  const one = file(24);
  assert.deepEqual([one.take(), one.take(), one.take(), one.take()], [1, 2, 3, 0]);
  one.giveBack(2);
  assert.deepEqual([one.take(), one.take()], [2, 0]);
});

test('what the storage holds is not taken; the short last piece counts as what it is', () => {
  const one = file(20);
  one.keep([1, 3]);
  assert.equal(one.safeSize, 12);
  assert.deepEqual([one.take(), one.take()], [2, 0]);
});

test('a piece that is on its way when the storage is asked is counted once it has arrived', async () => {
  const one = file(24);
  assert.deepEqual([one.take(), one.take()], [1, 2]);
  one.keep([1]);
  assert.ok(one.hasMissing);
  assert.equal(one.safeSize, 0);
  await one.put({ number: 1, url: 'u', size: 8, headers: {} }, new AbortController().signal, () => {});
  assert.equal(one.safeSize, 8);
  one.giveBack(2);
  assert.deepEqual([one.take(), one.take(), one.take()], [2, 3, 0]);
});

test('a piece that failed counts nothing while it rests', async () => {
  const one = new FileUpload(new FakeBlob(8), plan(8, 8), { putPart: async (_, __, onProgress) => { onProgress(6); throw new Error('x'); } });
  one.take();
  await assert.rejects(one.put({ number: 1, url: 'u', size: 8, headers: {} }, new AbortController().signal, () => assert.equal(one.sentSize, 6)));
  assert.equal(one.sentSize, 0);
  assert.equal(one.take(), 0);
});
