import assert from 'node:assert/strict';
import { test } from 'node:test';
import { safeSize, whatToChoose } from '../../static/js/upload/offers.js';

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

for (const [paths, words] of [
  [['a'], 'Choose the file again'],
  [['a', 'b'], 'Choose the files again'],
  [['trip/a'], 'Choose the folder again'],
  [['a', 'trip/b'], 'Choose the folder again'],
]) {
  test(`${paths} missing: ${words}`, () => assert.equal(whatToChoose(paths.map((path) => ({ path }))), words));
}
