import assert from 'node:assert/strict';
import { test } from 'node:test';
import zlib from 'node:zlib';
import { base64, crc32 } from '../../static/js/upload/crc32.js';

const bytes = (size) => Uint8Array.from({ length: size }, (_, at) => (at * 2_654_435_761) >>> 13);

for (const size of [0, 1, 3, 4, 15, 16, 17, 31, 4096, 100_003]) {
  test(`${size} bytes: the same as zlib's, whole and piece by piece`, () => {
    const all = bytes(size);
    const half = all.slice(0, size >> 1);
    assert.equal(crc32(all), zlib.crc32(all));
    assert.equal(crc32(all.slice(size >> 1), crc32(half)), zlib.crc32(all));
  });
}

test('it is written as S3 writes it', () => {
  const check = crc32(new TextEncoder().encode('123456789'));
  assert.equal(check, 0xcbf43926);
  assert.equal(base64(check), 'y/Q5Jg==');
  assert.equal(base64(0), 'AAAAAA==');
});
