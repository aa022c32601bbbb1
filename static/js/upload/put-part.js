// The only XMLHttpRequest: one piece of a file to the storage. fetch cannot tell how far an upload is.
import { Failure } from './failure.js';

/** @typedef {import('./failure.js').Cause} Cause */
/**
 * @typedef {object} Piece
 * @property {string} url
 * @property {Record<string, string>} headers
 * @property {Blob} body sent as it is, never read
 */

/** Error codes that mean "the bytes do not match their checksum": AWS says the first, MinIO the second. */
export const DAMAGED = new Set(['BadDigest', 'XAmzContentChecksumMismatch']);
// S3 answers these with 400, but they mean that the connection failed, not that the request was wrong.
const BROKEN_LINE = new Set([...DAMAGED, 'RequestTimeout', 'IncompleteBody', 'XAmzContentSHA256Mismatch']);
const FULL = new Set(['XMinioStorageFull', 'QuotaExceeded', 'InsufficientStorage']);

/** What a line is said to be on which nothing moves. */ export const DEAD = 'nothing moved any more';
export const STALLED = 30_000; // milliseconds without a byte after which a line is taken for dead
const ANSWER = 90_000; // the same, once every byte has left: the storage may have to think
const SILENT = 3_000; // the same, when the network has just changed

/**
 * Resolves when the storage has it. 412 on a single PUT means that it had it already.
 * A line on which nothing moves is given up: browsers themselves wait for minutes.
 * @param {Piece} piece @param {AbortSignal} signal @param {(sent: number) => void} onProgress
 * @param {{isOffline: () => boolean, patience?: number, bell?: EventTarget, Request?: typeof XMLHttpRequest, watch?: typeof watchdog}} world
 *   bell: rings "renew" when the network has changed, and what was connected may be dead
 * @returns {Promise<void>}
 */
export function putPart({ url, headers, body }, signal, onProgress, { isOffline, patience = STALLED, bell, Request = XMLHttpRequest, watch = watchdog }) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const request = new Request();
    const abort = () => request.abort();
    let stalled = false;
    const dog = watch(() => { stalled = true; abort(); }, bell);
    signal.addEventListener('abort', abort);
    request.upload.onprogress = (event) => {
      dog.feed(event.loaded < body.size ? patience : Math.max(patience, ANSWER));
      onProgress(event.loaded);
    };
    request.onloadend = () => {
      signal.removeEventListener('abort', abort);
      dog.leave();
      const { status } = request;
      if (signal.aborted) reject(signal.reason);
      else if (status >= 200 && status < 300) resolve();
      else if (status === 412 && 'If-None-Match' in headers) resolve();
      else if (status) reject(refusal(status, request.responseText));
      else reject(new Failure(isOffline() ? 'offline' : 'storage-unreachable', stalled ? { code: DEAD } : {}));
    };
    request.open('PUT', url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    dog.feed(patience);
    request.send(body);
    return undefined;
  });
}

/** Barks when it was not fed for as long as it was told, or for a little when the bell rings. @param {() => void} bark @param {EventTarget} [bell] */
export function watchdog(bark, bell) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;
  let fedAt = 0;
  // One that was fed a moment ago may be dead all the same: its next bite has to come soon.
  const listen = () => { clearTimeout(timer); timer = setTimeout(bark, Math.max(0, fedAt + SILENT - performance.now())); };
  bell?.addEventListener('renew', listen);
  return {
    /** @param {number} milliseconds */
    feed(milliseconds) {
      fedAt = performance.now();
      clearTimeout(timer);
      timer = setTimeout(bark, milliseconds);
    },
    leave() {
      clearTimeout(timer);
      bell?.removeEventListener('renew', listen);
    },
  };
}

/** What the storage's answer means. @param {number} status @param {string} text */
export function refusal(status, text) {
  const code = /<Code>([^<]+)/.exec(text)?.[1] ?? '';
  const message = /<Message>([^<]+)/.exec(text)?.[1];
  const requestId = /<RequestId>([^<]+)/.exec(text)?.[1];
  return new Failure(cause(status, code, message ?? ''), { status, code, message, requestId });
}

/** @param {number} status @param {string} code @param {string} message @returns {Cause} */
function cause(status, code, message) {
  if (status === 507 || FULL.has(code)) return 'storage-full';
  // 409: storage is still writing the same object for an earlier try. The next try gets 200 or 412.
  if (status >= 500 || [408, 409, 429].includes(status) || BROKEN_LINE.has(code)) return 'storage-busy';
  if (code === 'RequestTimeTooSkewed' || /expired/i.test(message)) return 'clock';
  if (status === 413 || code === 'EntityTooLarge') return 'too-large';
  return 'refused';
}
