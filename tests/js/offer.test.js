import assert from 'node:assert/strict';
import { test } from 'node:test';

// page.js, of which offers.js uses a little, looks at the page when it is loaded.
globalThis.document = { getElementById: () => null, querySelector: () => null, querySelectorAll: () => [], addEventListener: () => {} };
const { howFar, safeSize, unwanted, whatToChoose } = await import('../../static/js/sender/offers.js');

const plan = (size, partSize, state = 'OPEN') => ({ size, part_size: partSize, part_count: Math.max(1, Math.ceil(size / partSize)), state });

for (const [size, held, state, safe] of [
  [20, [], 'OPEN', 0],
  [20, [1], 'OPEN', 8],
  [20, [1, 2, 3], 'OPEN', 20],
  [20, [3], 'OPEN', 4],
  [20, [], 'COMPLETE', 20],
  [0, [1], 'OPEN', 0],
  [5, [1], 'OPEN', 5],
]) {
  test(`of ${size} bytes in eights, ${held.length ? held : 'none'} held, ${state}: ${safe} are safe`, () => {
    assert.equal(safeSize(plan(size, 8, state), held), safe);
  });
}

for (const [safe, percent, needed, count, words] of [
  [0, 0, 'a', 1, 'Nothing of it is safe yet.'],
  [1, 0, 'a', 1, 'Less than 1 % is already safe.'],
  [80, 80, 'a', 1, '80 % is already safe.'],
  [80, 80, 'a', 2, '80 % is already safe. Still needed: “a”.'],
  [0, 0, 'abc', 4, 'Nothing of it is safe yet. Still needed: “a”, “b”, “c”.'],
  [80, 80, 'abcd', 5, '80 % is already safe.'],
  [100, 100, '', 2, 'All of it is safe. It only has to be checked.'],
]) {
  test(`of ${count} files, ${percent} per cent and ${safe} bytes, ${needed || 'nothing'} needed: ${words}`, () => {
    assert.equal(howFar({ safe, percent, needed: [...needed].map((path) => ({ path })) }, Array(count)), words);
  });
}

test('what was chosen and is not missing is told apart from what is none of it', () => {
  const known = new Map([['f1', { path: 'a.txt' }], ['f2', { path: 'b.bin' }]]);
  assert.equal(unwanted([{ path: 'a.txt' }, { path: 'x' }], known), 'Not needed again: “a.txt”.');
  assert.equal(unwanted([{ path: 'x' }], known), 'That is not what was being sent.');
});

for (const [paths, words] of [
  [['a'], 'Choose the file again'],
  [['a', 'b'], 'Choose the files again'],
  [['trip/a'], 'Choose the folder again'],
  [['a', 'trip/b'], 'Choose the folder again'],
]) {
  test(`${paths} missing: ${words}`, () => assert.equal(whatToChoose(paths.map((path) => ({ path }))), words));
}
