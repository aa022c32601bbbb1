// Implements the engine's `World` in a browser: network, time, and the events that wake a waiting upload up.
import { Backend } from './backend.js';
import { Failure, pause } from './failure.js';
import { DEAD, STALLED, putPart } from './put-part.js';

/** @typedef {import('./transfer-upload.js').World} World */

const QUESTION = 5_000; // timeout in milliseconds of a request that diagnoses the network
const BELIEVED = 10_000; // milliseconds for which its result is reused
const WAKES = ['online', 'pageshow', 'resume', 'visibilitychange'];
const RENEWS = ['offline', 'online', 'pageshow', 'resume']; // after these, open connections may be dead

/** @param {World['onChange']} onChange @returns {World & {wake: () => void, getReady: () => void}} */
export function browserWorld(onChange) {
  const isOffline = () => !navigator.onLine;
  const checksums = new Checksums(makeWorker, isOffline);
  const bell = new EventTarget();
  const wake = () => bell.dispatchEvent(new Event('wake'));
  // Listening on the window in the capture phase also catches what the document dispatches.
  for (const name of WAKES) addEventListener(name, wake, true);
  for (const name of RENEWS) addEventListener(name, () => bell.dispatchEvent(new Event('renew')), true);
  const limit = new StallLimit();
  let storage = ''; // URL of the last piece, without its signature
  return {
    backend: new Backend((...call) => fetch(...call), isOffline),
    putPart: async (piece, signal, onProgress) => {
      storage = piece.url.split('?')[0];
      try {
        await putPart(piece, signal, onProgress, { isOffline, bell, patience: limit.milliseconds });
        limit.arrived();
      } catch (error) {
        if (error instanceof Failure && error.facts.code === DEAD) limit.stalled();
        throw error;
      }
    },
    checksum: (blob) => checksums.of(blob),
    getReady: () => { checksums.start(); },
    diagnose: diagnosis(() => storage, isOffline),
    pause: (milliseconds, signal) => pauseOrWake(bell, milliseconds, signal),
    isOffline,
    random: Math.random,
    now: () => performance.now(),
    onChange,
    wake,
  };
}

/**
 * How long a connection may be silent before it is considered dead. It may only have been very slow, and then the next
 * try needs more time: the limit doubles with each outage, up to four minutes, and halves with each piece that arrives.
 */
export class StallLimit {
  #now;
  #outages = 0;
  #stalledAt = -Infinity;

  /** @param {() => number} [now] */
  constructor(now = () => performance.now()) {
    this.#now = now;
  }

  get milliseconds() { return STALLED * 2 ** this.#outages; }

  arrived() { this.#outages = Math.max(0, this.#outages - 1); }

  /** All connections of one outage stall within seconds of each other; they count once. */
  stalled() {
    const now = this.#now();
    if (now - this.#stalledAt < STALLED) return;
    this.#stalledAt = now;
    this.#outages = Math.min(3, this.#outages + 1);
  }
}

const makeWorker = () => new Worker(new URL('./checksum-worker.js', import.meta.url), { type: 'module' });

/**
 * The browser does not say why a request to storage failed. Three requests find out: one to our own server, whether the
 * network works; one to storage in mode `no-cors`, whether it can be reached at all; and one in mode `cors`, whether it
 * allows requests from this site.
 * @param {() => string} storage @param {() => boolean} isOffline @param {typeof fetch} [ask] @param {() => number} [now]
 * @returns {World['diagnose']}
 */
export function diagnosis(storage, isOffline, ask = fetch, now = () => performance.now()) {
  /** @type {Promise<Failure['why']> | undefined} */ let found;
  let foundAt = -Infinity;
  /** @param {string} url @param {RequestMode} mode */
  const send = (url, mode) => ask(url, { mode, cache: 'no-store', credentials: 'omit', signal: AbortSignal.timeout(QUESTION) });
  /** @param {string} url @param {RequestMode} mode */
  const answers = (url, mode) => send(url, mode).then(() => true, () => false);
  // A refusal by CORS is a TypeError, as is a failed connection. A timeout is not, and says nothing about CORS.
  /** @param {string} url */
  const refuses = (url) => send(url, 'cors').then(() => false, (error) => error instanceof TypeError);
  /** @returns {Promise<Failure['why']>} */
  const look = async () => {
    if (isOffline()) return 'offline';
    const [site, isThere, isRefused] = await Promise.all([answers('/health', 'same-origin'), answers(storage(), 'no-cors'), refuses(storage())]);
    if (isThere && isRefused) return 'storage-blocked';
    return site || isThere ? 'storage-unreachable' : 'server-unreachable';
  };
  return async (failure) => {
    if (failure.why !== 'storage-unreachable') return failure;
    if (now() - foundAt > BELIEVED) {
      foundAt = now();
      found = look();
    }
    return new Failure(await found ?? failure.why, failure.facts);
  };
}

// A pause that ends early when the network is back, the page is visible again, or the sender presses "Try now".
/** @param {EventTarget} bell @param {number} milliseconds @param {AbortSignal} [signal] */
async function pauseOrWake(bell, milliseconds, signal) {
  signal?.throwIfAborted();
  // Not AbortSignal.any(): older browsers that we support do not have it.
  const awake = new AbortController();
  const wake = () => awake.abort();
  bell.addEventListener('wake', wake);
  signal?.addEventListener('abort', wake);
  // Rejected when it ended early; only the caller's own signal is an error.
  await pause(milliseconds, awake.signal).catch(() => {});
  bell.removeEventListener('wake', wake);
  signal?.removeEventListener('abort', wake);
  signal?.throwIfAborted();
}

// --- Checksums, computed in a worker --------------------------------------------------------------

/** @typedef {{resolve: (sum: string) => void, reject: (reason: unknown) => void}} Asked */

export class Checksums {
  #make;
  #isOffline;
  /** @type {Worker | null} */ #worker = null;
  /** @type {Map<number, Asked>} */ #asked = new Map();
  #last = 0;

  /** @param {() => Worker} make one that runs checksum-worker.js @param {() => boolean} isOffline */
  constructor(make, isOffline) {
    this.#make = make;
    this.#isOffline = isOffline;
  }

  /** Starts the worker if there is none, and returns it. Call it early: after a new release its script can no longer be loaded. */
  start() {
    if (this.#worker) return this.#worker;
    const worker = this.#make();
    worker.onmessage = ({ data: { id, sum, error, isReadable } }) => {
      const asked = this.#asked.get(id);
      this.#asked.delete(id);
      if (error) asked?.reject(new Failure(isReadable ? 'unexpected' : 'file-changed', { code: error }));
      else asked?.resolve(sum);
    };
    worker.onerror = ({ message }) => this.#lose(message);
    this.#worker = worker;
    return worker;
  }

  /** The CRC32 of a piece, in base64 as S3 expects it. Throws a Failure if the piece can no longer be read. @param {Blob} blob @returns {Promise<string>} */
  of(blob) {
    return new Promise((resolve, reject) => {
      const worker = this.start();
      this.#last += 1;
      this.#asked.set(this.#last, { resolve, reject });
      worker.postMessage({ id: this.#last, blob });
    });
  }

  // The worker has failed; the next call starts another. An error without a message means that its script could not be
  // loaded, which may work the next time.
  /** @param {string | undefined} message */
  #lose(message) {
    this.#worker?.terminate();
    this.#worker = null;
    const failure = message ? new Failure('unexpected', { code: `checksum worker: ${message}` })
      : new Failure(this.#isOffline() ? 'offline' : 'server-unreachable', { code: 'checksum worker: not loaded' });
    for (const { reject } of this.#asked.values()) reject(failure);
    this.#asked.clear();
  }
}
