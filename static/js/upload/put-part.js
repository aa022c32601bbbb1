// The only XMLHttpRequest: one piece of a file to the storage. fetch cannot tell how far an upload is.
import { Failure } from './failure.js';

/** @typedef {import('./failure.js').Cause} Cause */
/**
 * @typedef {object} Piece
 * @property {string} url
 * @property {Record<string, string>} headers
 * @property {Blob} body sent as it is, never read
 */

// These are 400s of S3 that mean "the line broke", not "you are wrong".
const BROKEN_LINE = new Set(['RequestTimeout', 'IncompleteBody', 'BadDigest', 'XAmzContentSHA256Mismatch']);
const FULL = new Set(['XMinioStorageFull', 'QuotaExceeded', 'InsufficientStorage']);

/**
 * Resolves when the storage has it. 412 on a single PUT means that it had it already.
 * @param {Piece} piece @param {AbortSignal} signal @param {(sent: number) => void} onProgress
 * @param {{isOffline: () => boolean, Request?: typeof XMLHttpRequest}} world
 * @returns {Promise<void>}
 */
export function putPart({ url, headers, body }, signal, onProgress, { isOffline, Request = XMLHttpRequest }) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const request = new Request();
    const abort = () => request.abort();
    signal.addEventListener('abort', abort);
    request.upload.onprogress = (event) => onProgress(event.loaded);
    request.onloadend = () => {
      signal.removeEventListener('abort', abort);
      const { status } = request;
      if (signal.aborted) reject(signal.reason);
      else if (status >= 200 && status < 300) resolve();
      else if (status === 412 && 'If-None-Match' in headers) resolve();
      else reject(status ? refusal(status, request.responseText) : new Failure(isOffline() ? 'offline' : 'storage-unreachable'));
    };
    request.open('PUT', url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.send(body);
    return undefined;
  });
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
  if (status >= 500 || status === 429 || status === 408 || BROKEN_LINE.has(code)) return 'storage-busy';
  if (code === 'RequestTimeTooSkewed' || /expired/i.test(message)) return 'clock';
  if (status === 413 || code === 'EntityTooLarge') return 'too-large';
  return 'refused';
}
