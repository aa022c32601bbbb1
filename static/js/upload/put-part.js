// PUTs one piece of a file to storage. The only XMLHttpRequest here: fetch() does not report the progress of an upload.
import { Failure } from './failure.js';

/** @typedef {import('./failure.js').Cause} Cause */
/**
 * @typedef {object} Piece
 * @property {string} url
 * @property {Record<string, string>} headers
 * @property {Blob} body sent as it is; its bytes are never read here
 */

/** Error codes that mean "the bytes do not match their checksum": AWS uses the first, MinIO the second. */
export const DAMAGED = new Set(['BadDigest', 'XAmzContentChecksumMismatch']);
// S3 answers these with 400, but they mean that the connection failed, not that the request was wrong.
const BROKEN_LINE = new Set([...DAMAGED, 'RequestTimeout', 'IncompleteBody', 'XAmzContentSHA256Mismatch']);
const FULL = new Set(['XMinioStorageFull', 'QuotaExceeded', 'InsufficientStorage']);

/** The code of the failure when a connection has stalled. */ export const DEAD = 'nothing moved any more';
export const STALLED = 30_000; // milliseconds without progress, after which a connection is considered dead
const ANSWER = 90_000; // the same, once every byte was sent and only the answer is missing: storage may need time
const SILENT = 3_000; // the same, right after the network has changed

/**
 * Resolves when storage has the piece. With If-None-Match, 412 means that an earlier try had already stored it.
 * A stalled connection is aborted, because browsers themselves wait for minutes.
 * @param {Piece} piece @param {AbortSignal} signal @param {(sent: number) => void} onProgress
 * @param {{isOffline: () => boolean, patience?: number, bell?: EventTarget, Request?: typeof XMLHttpRequest, watch?: typeof watchdog}} world
 *   bell: dispatches "renew" when the network has changed and open connections may be dead
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

/** Calls bark() when feed() was not called again within the time given to it; after "renew", within a few seconds. @param {() => void} bark @param {EventTarget} [bell] */
export function watchdog(bark, bell) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;
  let fedAt = 0;
  // A connection that moved just before the network changed may be dead all the same: it has to move again soon.
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

/** Turns an error answer of storage into a Failure. @param {number} status @param {string} text */
export function refusal(status, text) {
  const code = /<Code>([^<]+)/.exec(text)?.[1] ?? '';
  const message = /<Message>([^<]+)/.exec(text)?.[1];
  const requestId = /<RequestId>([^<]+)/.exec(text)?.[1];
  return new Failure(cause(status, code, message ?? ''), { status, code, message, requestId });
}

/** @param {number} status @param {string} code @param {string} message @returns {Cause} */
function cause(status, code, message) {
  if (status === 507 || FULL.has(code)) return 'storage-full';
  // 409: storage is still writing the same object for an earlier try. The next one gets 200 or 412.
  if (status >= 500 || [408, 409, 429].includes(status) || BROKEN_LINE.has(code)) return 'storage-busy';
  if (code === 'RequestTimeTooSkewed' || /expired/i.test(message)) return 'clock';
  if (status === 413 || code === 'EntityTooLarge') return 'too-large';
  return 'refused';
}
