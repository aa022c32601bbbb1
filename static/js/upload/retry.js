// What is worth another try, and when. No DOM, no URLs.
import { asFailure } from './failure.js';

/** @typedef {import('./failure.js').Failure} Failure */
/**
 * The part of the world that retrying needs.
 * @typedef {object} Patience
 * @property {(milliseconds: number, signal?: AbortSignal) => Promise<void>} pause may end early when the network is back
 * @property {() => boolean} isOffline
 * @property {() => number} random
 */

const PASSING = new Set(['offline', 'server-unreachable', 'server-busy', 'storage-unreachable', 'storage-blocked', 'storage-busy', 'too-many']);

const FIRST = 500; // milliseconds
const LONGEST = 30_000;
const UNANSWERED = 10_000; // the same where nobody answered: asking costs nobody anything, and a line comes back unannounced

/** Whether the same request may succeed later. @param {Failure} failure */
export function isRetryable(failure) {
  return PASSING.has(failure.why);
}

/** Exponential backoff with full jitter. There is always another try, unless it is told how many. */
export class Backoff {
  /** Tries that failed while there was a network. */ tried = 0;

  /** @param {Patience} world @param {number} [tries] */
  constructor(world, tries = Infinity) {
    this.world = world;
    this.tries = tries;
  }

  /**
   * Rests before the next try; throws the failure when there is to be none.
   * While the machine knows that it is offline, waiting costs nothing of the budget.
   * @param {unknown} thrown @param {AbortSignal} [signal] @param {(failure: Failure) => void} [onWait]
   */
  async rest(thrown, signal, onWait) {
    signal?.throwIfAborted();
    const failure = asFailure(thrown);
    const offline = this.world.isOffline();
    if (!isRetryable(failure) || (!offline && this.tried >= this.tries)) throw failure;
    const longest = failure.facts.status ? LONGEST : UNANSWERED;
    const ceiling = Math.min(longest, FIRST * 2 ** this.tried) * this.world.random();
    if (!offline) this.tried += 1;
    onWait?.(failure);
    await this.world.pause(offline ? LONGEST : Math.max((failure.facts.retryAfter ?? 0) * 1000, ceiling), signal);
  }
}

/**
 * Does the work until it succeeds or is not worth another try.
 * @template T
 * @param {() => Promise<T>} work @param {Patience} world @param {AbortSignal} [signal]
 * @param {(failure: Failure) => void} [onWait] @param {number} [tries] for what somebody waits for
 * @returns {Promise<T>}
 */
export async function insist(work, world, signal, onWait, tries) {
  const backoff = new Backoff(world, tries);
  for (;;) {
    try {
      return await work();
    } catch (error) {
      await backoff.rest(error, signal, onWait);
    }
  }
}

/** A pause that an abort ends. @param {number} milliseconds @param {AbortSignal} [signal] @returns {Promise<void>} */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => { clearTimeout(timer); reject(signal?.reason); };
    const timer = setTimeout(() => { signal?.removeEventListener('abort', stop); resolve(); }, milliseconds);
    if (signal?.aborted) stop();
    signal?.addEventListener('abort', stop, { once: true });
  });
}
