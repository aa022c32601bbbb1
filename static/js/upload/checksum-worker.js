// A worker that reads pieces of files and answers their checksums, so that the page stays quick.
// They are read through one small buffer that is used again and again: memory stays flat however large
// a piece is, and it is several times as fast as cutting the piece up and reading the slices.
import { base64, crc32 } from './crc32.js';

const BUFFER = 1024 * 1024;
// Chromium's garbage collector takes a stream that is being read and that nobody else holds on to; then
// the read never ends.
/** @type {Set<unknown>} */ const reading = new Set();

addEventListener('message', async ({ data: { id, blob } }) => {
  const stream = blob.stream();
  reading.add(stream);
  try {
    postMessage({ id, sum: base64(await checksum(stream)) });
  } catch (error) {
    postMessage({ id, error: error instanceof Error ? `${error.name}: ${error.message}` : String(error) });
  }
  reading.delete(stream);
});

/** @param {ReadableStream<Uint8Array<ArrayBuffer>>} stream */
async function checksum(stream) {
  let sum = 0;
  const reader = byob(stream);
  if (!reader) {
    for await (const bytes of stream) sum = crc32(bytes, sum);
    return sum;
  }
  reading.add(reader);
  try {
    let buffer = new ArrayBuffer(BUFFER);
    for (;;) {
      const { value } = await reader.read(new Uint8Array(buffer));
      if (!value?.length) return sum;
      sum = crc32(value, sum);
      buffer = value.buffer;
    }
  } finally {
    reading.delete(reader);
  }
}

// Some browsers lend no buffers to a file.
/** @param {ReadableStream<Uint8Array>} stream */
function byob(stream) {
  try {
    return stream.getReader({ mode: 'byob' });
  } catch {
    return null;
  }
}
