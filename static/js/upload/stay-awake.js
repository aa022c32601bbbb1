// Keeps the screen from going dark while something is sent: a phone that sleeps sends nothing.

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
