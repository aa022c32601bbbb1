// This tab: which transfer it sends, and that the screen stays on meanwhile.
// Two tabs of one browser must not send the same transfer: whoever does holds its lock, and a tab that
// ends, however it ends, lets go of it. Without locks (they need https) nobody is kept from anything.

/** @param {string} id */
const named = (id) => `beeline-${id}`;

/** Takes the transfer for this tab. @param {string} id @returns {Promise<(() => void) | null>} what lets go of it; null while another tab has it */
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

/** Whether another tab has it. @param {string} id */
export async function isTaken(id) {
  try {
    const { held } = await navigator.locks.query();
    return Boolean(held?.some(({ name }) => name === named(id)));
  } catch {
    return false;
  }
}

/** Comes back when no tab has it. @param {string} id @param {AbortSignal} signal */
export async function whenFree(id, signal) {
  await navigator.locks.request(named(id), { mode: 'shared', signal }, () => {});
}

// One channel to speak and one to hear, so that this tab hears itself as well.
/** @type {BroadcastChannel | undefined} */ let mouth;

/** Tells every tab that something was begun, finished or forgotten. */
export function tell() {
  if ('BroadcastChannel' in globalThis) (mouth ??= new BroadcastChannel('beeline')).postMessage('');
}

/** @param {() => void} act when a tab has told */
export function onTold(act) {
  if ('BroadcastChannel' in globalThis) new BroadcastChannel('beeline').onmessage = act;
}

/** Keeps the screen from going dark while something is sent: a phone that sleeps sends nothing. */
export class StayAwake {
  #browser;
  #page;
  #wanted = false;
  /** @type {Promise<WakeLockSentinel | undefined> | undefined} */ #lock;

  /** @param {{wakeLock?: WakeLock}} [browser] @param {Document} [page] */
  constructor(browser = navigator, page = document) {
    this.#browser = browser;
    this.#page = page;
    // Whoever looks away loses it.
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
    // Not given on an empty battery, or without https: then the screen goes dark, no more.
    if (this.#wanted && this.#page.visibilityState === 'visible') this.#lock ??= this.#browser.wakeLock?.request('screen').catch(() => undefined);
  }
}
