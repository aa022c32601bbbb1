// The worker, run by a stand-in for its own global scope.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { base64, crc32 } from '../../static/js/upload/crc32.js';

let ask;
const answers = [];
globalThis.addEventListener = (name, handle) => { ask = (data) => handle({ data }); };
globalThis.postMessage = (answer) => answers.push(answer);
await import('../../static/js/upload/checksum-worker.js');

const bytes = Uint8Array.from({ length: 3_000_001 }, (_, at) => at % 251);
const sum = base64(crc32(bytes));

async function answerTo(blob) {
  await ask({ id: 7, blob });
  return answers.pop();
}

/** As WebKit has them: it lends no buffers to a file, and cannot iterate. */
const plainStream = (blob) => {
  const stream = blob.stream();
  return { getReader: (wish) => { if (wish?.mode === 'byob') throw new TypeError('Invalid mode'); return stream.getReader(); } };
};

/** A file whose stream breaks after a while. */
const breaking = (arrayBuffer) => ({
  stream: () => new ReadableStream({ pull: (controller) => controller.error(new TypeError('network error')) }),
  slice: () => ({ arrayBuffer }),
});

test('a piece is read whole, through one buffer', async () => {
  assert.deepEqual(await answerTo(new Blob([bytes])), { id: 7, sum });
});

test('a browser that neither lends buffers nor iterates over streams makes the same checksum', async () => {
  assert.deepEqual(await answerTo({ stream: () => plainStream(new Blob([bytes])) }), { id: 7, sum });
});

test('an empty file has one too', async () => {
  assert.deepEqual(await answerTo(new Blob([])), { id: 7, sum: 'AAAAAA==' });
  assert.deepEqual(await answerTo({ stream: () => plainStream(new Blob([])) }), { id: 7, sum: 'AAAAAA==' });
});

test('when it cannot be read, it is said whether that is because of the file', async () => {
  const gone = async () => { throw new DOMException('changed', 'NotReadableError'); };
  assert.deepEqual(await answerTo(breaking(gone)), { id: 7, error: 'TypeError: network error', isReadable: false });
  assert.deepEqual(await answerTo(breaking(async () => new ArrayBuffer(1))), { id: 7, error: 'TypeError: network error', isReadable: true });
});
