// The browser as the engine sees it: network, time, and what wakes a waiting upload up.
import { Backend } from './backend.js';
import { Failure, pause } from './failure.js';
import { DEAD, STALLED, putPart } from './put-part.js';

/** @typedef {import('./transfer-upload.js').World} World */

const QUESTION = 5_000; // milliseconds that a question about the network may take
const BELIEVED = 10_000; // milliseconds that its answer is good for
const WAKES = ['online', 'pageshow', 'resume', 'visibilitychange'];
const RENEWS = ['online', 'pageshow', 'resume']; // what was connected may be dead

/** @param {World['onChange']} onChange @returns {World & {wake: () => void, getReady: () => void}} */
export function browserWorld(onChange) {
  const isOffline = () => !navigator.onLine;
  const checksums = new Checksums(makeWorker, isOffline);
  const bell = new EventTarget();
  const wake = () => bell.dispatchEvent(new Event('wake'));
  // All of these pass the window, those of the document too.
  for (const name of WAKES) addEventListener(name, wake, true);
  for (const name of RENEWS) addEventListener(name, () => bell.dispatchEvent(new Event('renew')), true);
  const limit = new StallLimit();
  let storage = ''; // where the last piece went, without what is secret of it
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
 * How long a connection may be silent before it is taken for dead. A connection that was only very slow has to get
 * more time on its next try, so the limit doubles with each outage, and halves again with each piece that arrives.
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
 * The browser says nothing about why a request to the storage failed. Our own server tells whether the
 * network works; the storage, asked so that its answer may not be read, whether it is there at all; and
 * asked once more so that it may, whether it admits this site.
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
  // A refusal by CORS is a TypeError, like no connection at all; a question that timed out says nothing about CORS.
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

// The network coming back, the page being looked at again, or impatience ends a pause.
/** @param {EventTarget} bell @param {number} milliseconds @param {AbortSignal} [signal] @returns {Promise<void>} */
function pauseOrWake(bell, milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const awake = new AbortController();
    const done = () => { bell.removeEventListener('wake', done); awake.abort(); resolve(); };
    bell.addEventListener('wake', done);
    pause(milliseconds, signal && AbortSignal.any([signal, awake.signal])).then(done, (reason) => { if (!awake.signal.aborted) { bell.removeEventListener('wake', done); reject(reason); } });
  });
}

// --- Checksums, asked of a worker ----------------------------------------------------------------

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

  /** The worker, which is made if there is none. Early is better: after a new release its script is no longer there. */
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

  /** The CRC32 of a piece in S3's base64; a Failure when it cannot be read any more. @param {Blob} blob @returns {Promise<string>} */
  of(blob) {
    return new Promise((resolve, reject) => {
      const worker = this.start();
      this.#last += 1;
      this.#asked.set(this.#last, { resolve, reject });
      worker.postMessage({ id: this.#last, blob });
    });
  }

  // It answers nothing any more; the next question makes another. Without a message its script could not
  // be loaded, which may work the next time.
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
