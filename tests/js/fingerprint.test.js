import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fingerprint } from '../../static/js/upload/crc32.js';
import { difference, listed, objections, recognise } from '../../static/js/upload/fingerprint.js';

const KIB = 1024;
const content = (size, change = -1) => {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 1) bytes[at] = at % 251;
  if (change >= 0) bytes[change] ^= 1;
  return bytes;
};
const file = (bytes, name = 'a.mov', lastModified = 1000) => new File([bytes], name, { lastModified });
const plan = (path, size, id = path) => ({ id, path, size });

for (const size of [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 100 * KIB, 128 * KIB, 300 * KIB]) {
  test(`of ${size} bytes, a change at either end is seen`, async () => {
    const before = await fingerprint(file(content(size)));
    assert.equal(before, await fingerprint(file(content(size))));
    if (size) assert.notEqual(before, await fingerprint(file(content(size, 0))));
    if (size) assert.notEqual(before, await fingerprint(file(content(size, size - 1))));
  });
}

test('however large a file is, only its two ends are read', async () => {
  const read = [];
  const huge = { size: 1e12, slice: (from, to = 1e12) => { read.push(to - from); return new Blob(['x']); } };
  await fingerprint(huge);
  assert.deepEqual(read, [64 * KIB, 64 * KIB]);
});

const known = async (bytes, more) => ({ lastModified: 1000, print: await fingerprint(file(bytes)), ...more });
const LARGE = content(200 * KIB);

for (const [what, chosen, expected] of [
  ['the same', file(LARGE), /^$/],
  ['larger', file(new Uint8Array(200 * KIB + 3_000_000)), /^it is 3\.0 MB larger$/],
  ['smaller', file(content(200 * KIB - 1)), /^it is 1 byte smaller$/],
  ['saved again', file(LARGE, 'a.mov', Date.UTC(2026, 10, 3, 12)), /^it was saved again on .*2026/],
  ['other inside', file(content(200 * KIB, 10)), /^its content is different$/],
]) {
  test(`a file that is ${what}: ${expected}`, async () => {
    assert.match(await difference(plan('a.mov', 200 * KIB), await known(LARGE), chosen), expected);
  });
}

test('without a fingerprint, size and date have to do; without a memory, the size', async () => {
  const other = file(content(200 * KIB, 10));
  assert.equal(await difference(plan('a.mov', 200 * KIB), { lastModified: 1000 }, other), '');
  assert.equal(await difference(plan('a.mov', 200 * KIB), undefined, file(LARGE, 'a.mov', 5)), '');
});

test('a file that cannot be read is not the one', async () => {
  const broken = { size: 10, lastModified: 1000, slice: () => ({ arrayBuffer: () => Promise.reject(new Error('gone')) }) };
  assert.equal(await difference(plan('a', 10), { lastModified: 1000, print: 5 }, broken), 'it can no longer be read');
});

const ten = content(10);
const at = (path, bytes = ten, lastModified = 1000) => ({ path, file: file(bytes, path.split('/').pop(), lastModified) });

async function tried(wanted, chosen, from = {}) {
  const memory = new Map();
  for (const path of wanted) memory.set(path, await known(ten, { from: from[path] }));
  const { found, refused } = await recognise(wanted.map((path) => plan(path, 10)), memory, chosen);
  return { found: [...found.keys()], refused: refused.map(({ path }) => path) };
}

test('files are found by their path, whatever else was chosen with them', async () => {
  assert.deepEqual(await tried(['trip/a', 'trip/day/b'], [at('trip/day/b'), at('trip/extra'), at('trip/a')]), { found: ['trip/a', 'trip/day/b'], refused: [] });
});

test('one that changed is refused, and the others are found', async () => {
  assert.deepEqual(await tried(['a', 'b'], [at('a', content(11)), at('b')]), { found: ['b'], refused: ['a'] });
});

test('a loose file does for one in a folder, if it is the same; if not, it is just another', async () => {
  assert.deepEqual(await tried(['trip/a', 'trip/b'], [at('a'), at('b', content(11))]), { found: ['trip/a'], refused: [] });
});

test('two of one name are told apart by what is in them', async () => {
  assert.deepEqual(await tried(['a', 'a (2)'], [at('a', content(10, 3)), at('a')], { 'a (2)': 'a' }), { found: ['a', 'a (2)'], refused: [] });
});

test('what is found brings its handle along', async () => {
  const { found } = await recognise([plan('a', 10)], new Map(), [{ ...at('a'), handle: 'h' }]);
  assert.equal(found.get('a').handle, 'h');
});

test('a thousand files are not all looked at at once', async () => {
  let open = 0;
  let most = 0;
  const slow = { size: 10, lastModified: 1000, slice: () => ({ arrayBuffer: async () => { open += 1; most = Math.max(most, open); await new Promise(setImmediate); open -= 1; return new ArrayBuffer(8); } }) };
  const wanted = Array.from({ length: 200 }, (_, index) => plan(`f${index}`, 10));
  const memory = new Map(wanted.map(({ id }) => [id, { lastModified: 1000, print: 1 }]));
  await recognise(wanted, memory, wanted.map(({ path }) => ({ path, file: slow })));
  assert.ok(most > 1 && most <= 32, String(most));
});

test('an objection names the files and says why', () => {
  assert.equal(objections([{ path: 'a.mov', why: 'it is 3 MB larger' }], []), '“a.mov” has changed since: it is 3 MB larger. Sending it would mix two versions.');
  const many = Array.from({ length: 6 }, (_, index) => ({ path: `f${index}`, why: 'its content is different' }));
  assert.match(objections(many, ['x']), /“f2” has changed since: its content is different\. So have 3 more\. Sending them would mix two versions\. Still missing: “x”\.$/);
  assert.equal(objections([], ['a', 'b', 'c', 'd', 'e']), 'Still missing: “a”, “b”, “c” and 2 more.');
  assert.equal(listed(['a']), '“a”');
});
