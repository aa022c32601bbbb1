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
    postMessage({ id, error: error instanceof Error ? `${error.name}: ${error.message}` : String(error), isReadable: await isReadable(blob) });
  }
  reading.delete(stream);
});

/** @param {ReadableStream<Uint8Array<ArrayBuffer>>} stream */
async function checksum(stream) {
  const lender = byob(stream);
  const plain = lender ? null : stream.getReader();
  const read = (/** @type {ArrayBuffer} */ buffer) => lender?.read(new Uint8Array(buffer)) ?? /** @type {ReadableStreamDefaultReader} */ (plain).read();
  reading.add(lender ?? plain);
  try {
    let sum = 0;
    let buffer = new ArrayBuffer(lender ? BUFFER : 0);
    for (;;) {
      const { done, value } = await read(buffer);
      if (done) return sum;
      sum = crc32(value, sum);
      buffer = value.buffer;
    }
  } finally {
    reading.delete(lender ?? plain);
  }
}

// Some browsers lend no buffers to a file. (The same ones cannot iterate over a stream.)
/** @param {ReadableStream<Uint8Array>} stream */
function byob(stream) {
  try {
    return stream.getReader({ mode: 'byob' });
  } catch {
    return null;
  }
}

// Not every browser names what happens to the stream of a file that changed on disk; one byte tells.
/** @param {Blob} blob */
async function isReadable(blob) {
  try {
    await blob.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}
