// A worker that computes the checksums of pieces, so that the page stays responsive. A piece is read through one small
// buffer that is reused: memory use does not depend on the size of the piece, and it is several times as fast as reading
// the piece slice by slice.
import { base64, crc32 } from './crc32.js';

const BUFFER = 1024 * 1024;
// References to what is being read. Without them Chromium's garbage collector may collect a stream during a read, which
// then never ends.
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

// Some browsers (WebKit) have no BYOB reader for files. (They cannot iterate over a stream either.)
/** @param {ReadableStream<Uint8Array>} stream */
function byob(stream) {
  try {
    return stream.getReader({ mode: 'byob' });
  } catch {
    return null;
  }
}

// Browsers report a file that changed on disk with different errors. Reading one byte tells whether that is the cause.
/** @param {Blob} blob */
async function isReadable(blob) {
  try {
    await blob.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}
