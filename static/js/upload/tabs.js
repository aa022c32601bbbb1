// Coordinates tabs, and keeps the screen on. Two tabs of one browser must not send the same transfer: the tab that does
// holds a Web Lock, which the browser releases however the tab ends. Where there are no Web Locks (they need https),
// nothing is prevented.

/** @param {string} id */
const named = (id) => `beeline-${id}`;

/** Takes the transfer's lock for this tab. @param {string} id @returns {Promise<(() => void) | null>} a function that releases it; null if another tab has it */
export function claim(id) {
  const { locks } = navigator;
  if (!locks) return Promise.resolve(() => {});
  return new Promise((resolve) => {
    locks.request(named(id), { ifAvailable: true }, (lock) => {
      if (!lock) return resolve(null);
      tell();
      return new Promise((/** @type {(value: void) => void} */ release) => resolve(() => { release(); tell(); }));
    }).catch(() => resolve(() => {}));
  });
}

/** Whether a tab holds the transfer's lock. @param {string} id */
export async function isTaken(id) {
  try {
    const { held } = await navigator.locks.query();
    return Boolean(held?.some(({ name }) => name === named(id)));
  } catch {
    return false;
  }
}

/** Resolves when no tab holds the lock. @param {string} id @param {AbortSignal} signal */
export async function whenFree(id, signal) {
  await navigator.locks.request(named(id), { mode: 'shared', signal }, () => {});
}

// Sending and receiving use separate channels: a channel does not receive its own messages, and this tab has to.
/** @type {BroadcastChannel | undefined} */ let mouth;

/** Tells every tab that a transfer was started, finished or forgotten. */
export function tell() {
  if ('BroadcastChannel' in globalThis) (mouth ??= new BroadcastChannel('beeline')).postMessage('');
}

/** @param {() => void} act called after each tell() */
export function onTold(act) {
  if ('BroadcastChannel' in globalThis) new BroadcastChannel('beeline').onmessage = act;
}

/** Keeps the screen on while something is sent, because a phone that sleeps sends nothing. */
export class StayAwake {
  #browser;
  #page;
  #wanted = false;
  /** @type {Promise<WakeLockSentinel | undefined> | undefined} */ #lock;

  /** @param {{wakeLock?: WakeLock}} [browser] @param {Document} [page] */
  constructor(browser = navigator, page = document) {
    this.#browser = browser;
    this.#page = page;
    // The browser releases the wake lock when the page is hidden.
    page.addEventListener('visibilitychange', () => { this.#lock = undefined; this.#take(); });
  }

  /** @param {boolean} wanted */
  set(wanted) {
    this.#wanted = wanted;
    if (wanted) return this.#take();
    this.#lock?.then((lock) => lock?.release().catch(() => {}));
    this.#lock = undefined;
    return undefined;
  }

  #take() {
    // It is refused on a low battery or without https. Then the screen goes dark, but nothing else happens.
    if (this.#wanted && this.#page.visibilityState === 'visible') this.#lock ??= this.#browser.wakeLock?.request('screen').catch(() => undefined);
  }
}
