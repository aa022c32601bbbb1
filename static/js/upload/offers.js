// What was begun in this browser and is not finished, on the first page: how much of it is safe, and the
// way to go on. Loaded only where something is remembered.
import { browserWorld } from './browser-world.js';
import { asFailure, explain } from './failure.js';
import { difference, listed, objections, recognise, severalAtOnce } from './fingerprint.js';
import { memory } from './memory.js';
import { Offer } from './offer.js';
import { insist } from './retry.js';
import { claim, isTaken, onTold, whenFree } from './tabs.js';

/** @typedef {import('./backend.js').Transfer} Transfer */
/** @typedef {import('./memory.js').Known} Known */
/** @typedef {import('./offer.js').State} State */
/** @typedef {import('./pick-files.js').Picked} Picked */
/** @typedef {{transfer: Transfer, token: string, blobs: Map<string, Blob>, held: Map<string, number[]>, hasHandles: boolean, release: () => void}} Resumed */
/**
 * @typedef {object} Ways
 * @property {(kind: 'files' | 'folder', take: (picking: Promise<Picked[]>) => void) => void} choose
 * @property {(resumed: Resumed) => Promise<void>} start
 * @property {string} [only] the one transfer that the page is about
 */

const DISCARD_TRIES = 2; // Somebody waits for it.

export class Offers {
  #place;
  #ways;
  #world = browserWorld(() => {});
  /** @type {Map<string, Offer>} */ #offers = new Map();

  /** @param {HTMLElement} place @param {Ways} ways */
  constructor(place, ways) {
    this.#place = place;
    this.#ways = ways;
    onTold(() => this.show());
  }

  /** Makes the list what the memory tells. */
  async show() {
    // Once something is on its way in this tab, that is what the page is about.
    if (document.getElementById('sender')?.dataset.state !== 'ready') return;
    const rows = (await memory.all()).filter(({ id, adds }) => !this.#ways.only || (adds && id === this.#ways.only));
    for (const [id, offer] of this.#offers) if (offer.state !== 'over' && !rows.some((row) => row.id === id)) this.#drop(offer);
    for (const row of rows) {
      const known = this.#offers.get(row.id);
      if (!known) {
        const offer = new Offer(row, this.#place);
        this.#offers.set(row.id, offer);
        this.#listen(offer);
        void this.#ask(offer);
      } else if (known.state === 'open' && await isTaken(row.id)) void this.#ask(known);
    }
    this.#arrange();
  }

  /** @param {Offer} offer */
  #listen(offer) {
    offer.on('go', () => this.#continue(offer));
    offer.on('again', () => this.#ways.choose(offer.missing.some(({ path }) => path.includes('/')) ? 'folder' : 'files', (picking) => this.#take(offer, picking)));
    offer.on('discard', () => offer.askDiscard(true));
    offer.on('keep', () => offer.askDiscard(false));
    offer.on('discard-yes', () => this.#discard(offer));
    // Dropped on the offer itself: that is as good as choosing.
    offer.element.addEventListener('files', (event) => {
      if (offer.state !== 'open') return;
      event.preventDefault();
      void this.#take(offer, /** @type {CustomEvent<Promise<Picked[]>>} */ (event).detail);
    });
  }

  // --- Asking what is really there -----------------------------------------------------------------

  /** @param {Offer} offer @returns {Promise<void>} */
  async #ask(offer) {
    const { id, token } = offer.row;
    this.#turn(offer, 'asking', 'Finding out what is safe.');
    try {
      if (await isTaken(id)) {
        this.#turn(offer, 'elsewhere', 'This is being sent in another tab of this browser.');
        await whenFree(id, offer.ended.signal);
        await this.show();
        return this.#offers.has(id) ? await this.#ask(offer) : undefined;
      }
      const known = await memory.filesOf(id);
      const owned = this.#owned(offer, known);
      const wait = (/** @type {import('./failure.js').Failure} */ why) => this.#turn(offer, 'waiting', `${explain(why).title} What was sent is safe; we ask again by ourselves.`);
      const { signal } = offer.ended;
      const transfer = await insist(() => owned.read(signal), this.#world, signal, wait);
      const { files } = await insist(() => owned.held(signal), this.#world, signal, wait);
      offer.learn(transfer, new Map(files.map((file) => [file.id, file.held])), known);
    } catch (error) {
      if (offer.ended.signal.aborted) return undefined;
      const failure = asFailure(error);
      if (failure.why === 'gone') return this.#over(offer, 'It can no longer be continued: it was deleted, or it ran out of time.');
      const { title, text } = explain(failure);
      return this.#turn(offer, 'waiting', `${title} ${text}`);
    }
    return this.#tellHowFar(offer);
  }

  /** @param {Offer} offer */
  #tellHowFar(offer) {
    const { transfer, percent, needed } = offer;
    if (transfer?.status === 'READY') return this.#over(offer, 'It has arrived whole. Whoever has the link can download it.', true);
    if (transfer?.status !== 'INIT' && transfer?.status !== 'PROCESSING') return this.#over(offer, 'It can no longer be continued: it was deleted, or it ran out of time.');
    return this.#turn(offer, 'open', !needed.length ? 'All of it is safe. It only has to be checked.' : percent ? `${percent} % is already safe.` : 'Nothing of it is safe yet.');
  }

  /** @param {Offer} offer @param {string} words @param {boolean} [linked] */
  #over(offer, words, linked = false) {
    void memory.forget(offer.row.id);
    offer.linked = linked;
    this.#turn(offer, 'over', words);
  }

  // What was to be added to a transfer is a matter of its own.
  /** @param {Offer} offer @param {Map<string, Known>} [known] */
  #owned({ row: { id, token, adds }, known: learned }, known = learned) {
    return adds ? this.#world.backend.batchOf(id, token, () => known.keys()) : this.#world.backend.of(id, token);
  }

  // --- Going on --------------------------------------------------------------------------------------

  /** By the handles that were kept: nothing has to be chosen. @param {Offer} offer */
  async #continue(offer) {
    const before = offer.words;
    this.#turn(offer, 'busy', offer.missing.length ? 'Looking at the files.' : before);
    /** @type {import('./fingerprint.js').Refusal[]} */ const refused = [];
    /** @type {string[]} */ const moved = [];
    // The permission first, while the click still counts.
    const denied = !await allowed(offer.missing.flatMap(({ id }) => offer.known.get(id)?.handle ?? []));
    if (!denied) {
      await severalAtOnce(offer.missing, async (plan) => {
        const known = offer.known.get(plan.id);
        if (!known?.handle) return;
        try {
          const file = await fileAt(known.handle, known.from ?? plan.path);
          const why = await difference(plan, known, file);
          if (why) refused.push({ path: plan.path, why });
          else offer.found.set(plan.id, file);
        } catch {
          moved.push(plan.path);
        }
      });
    }
    if (!offer.missing.length) return this.#begin(offer);
    this.#turn(offer, 'open', before);
    offer.again = denied ? 'also' : 'only';
    const objected = new Set([...refused.map(({ path }) => path), ...moved]);
    return this.#refuse(offer, [
      denied && 'The files may not be read without your leave. Allow it, or choose them again.',
      moved.length && `${listed(moved)} ${moved.length === 1 ? 'is no longer where it was' : 'are no longer where they were'}.`,
      objections(refused, denied ? [] : offer.missing.map(({ path }) => path).filter((path) => !objected.has(path))),
    ]);
  }

  /** By files that were chosen again. @param {Offer} offer @param {Promise<Picked[]>} picking */
  async #take(offer, picking) {
    const before = offer.words;
    this.#turn(offer, 'busy', 'Looking at the files.');
    try {
      const { found, refused } = await recognise(offer.missing, offer.known, await picking);
      const plans = offer.missing.filter(({ id }) => found.has(id));
      const again = plans.map(({ id }) => /** @type {Picked} */ (found.get(id)));
      plans.forEach(({ id }, index) => {
        const { file, handle } = again[index];
        offer.found.set(id, file);
        offer.known.set(id, /** @type {Known} */ ({ ...offer.known.get(id), handle }));
      });
      // The next time they need not be chosen.
      if (offer.transfer && again.some(({ handle }) => handle)) void memory.add(offer.transfer, offer.row.token, plans, again);
      if (!offer.missing.length) return await this.#begin(offer);
      this.#turn(offer, 'open', before);
      const objected = new Set(refused.map(({ path }) => path));
      const missing = offer.missing.map(({ path }) => path).filter((path) => !objected.has(path));
      this.#refuse(offer, [!found.size && !refused.length && 'That is not what was being sent.', objections(refused, missing)]);
    } catch {
      this.#turn(offer, 'open', before);
      this.#refuse(offer, ['That could not be read.']);
    }
    return undefined;
  }

  /** @param {Offer} offer */
  async #begin(offer) {
    const { id, token } = offer.row;
    const release = await claim(id);
    if (!release) return this.#ask(offer);
    this.#turn(offer, 'busy', offer.words);
    let isThere = false;
    try {
      // It may be long since it was asked.
      const transfer = await this.#owned(offer).read();
      isThere = transfer.status === 'INIT' || transfer.status === 'PROCESSING';
      if (isThere) {
        await this.#ways.start({ transfer, token, release, blobs: offer.found, held: offer.held, hasHandles: offer.hasHandles });
        return this.#drop(offer);
      }
    } catch (error) {
      console.error(error);
    }
    release();
    // What else is in the way is told by asking again.
    await this.#ask(offer);
    if (isThere && offer.state === 'open') this.#refuse(offer, ['It could not be continued just now. Check your connection and try again.']);
    return undefined;
  }

  /** @param {Offer} offer */
  async #discard(offer) {
    const { id, token } = offer.row;
    const release = await claim(id);
    if (!release) return this.#ask(offer);
    const before = offer.words;
    this.#turn(offer, 'busy', 'Deleting what was sent.');
    try {
      await insist(() => this.#owned(offer).remove(), this.#world, undefined, undefined, DISCARD_TRIES);
    } catch (error) {
      const failure = asFailure(error);
      if (failure.why !== 'gone') {
        release();
        this.#turn(offer, 'open', before);
        return this.#refuse(offer, [`It was not discarded. ${explain(failure).title}`]);
      }
    }
    await memory.forget(id);
    release();
    const live = document.getElementById('live');
    if (live) live.textContent = 'Discarded. What was sent is deleted.';
    this.#drop(offer);
    /** @type {HTMLElement | null} */ (this.#place.querySelector('button:not([hidden])') ?? document.getElementById('choose-files'))?.focus();
    return undefined;
  }

  // --- Showing ---------------------------------------------------------------------------------------

  /** @param {Offer} offer @param {State} state @param {string} words */
  #turn(offer, state, words) {
    offer.turn(state, words);
    this.#arrange();
  }

  /** @param {Offer} offer @param {(string | false | 0)[]} words */
  #refuse(offer, words) {
    offer.refuse(words.filter(Boolean).join(' '));
    this.#arrange();
  }

  /** @param {Offer} offer */
  #drop(offer) {
    offer.ended.abort();
    offer.element.remove();
    this.#offers.delete(offer.row.id);
    this.#arrange();
  }

  // One primary button on the page: the first offer's, or else the one that chooses files.
  #arrange() {
    const section = /** @type {HTMLElement} */ (this.#place.closest('section'));
    section.hidden = !this.#offers.size;
    section.toggleAttribute('data-many', this.#offers.size > 1);
    const [first, ...others] = this.#place.querySelectorAll('[data-main]:not([hidden])');
    first?.classList.add('button-primary');
    for (const other of others) other.classList.remove('button-primary');
    document.getElementById('choose-files')?.classList.toggle('button-primary', !first);
  }
}

// Handles of one folder are one and the same, and what is granted once is not asked for again.
/** @param {FileSystemHandle[]} handles */
async function allowed(handles) {
  for (const handle of /** @type {Set<any>} */ (new Set(handles))) {
    try {
      if (handle.queryPermission && await handle.queryPermission({ mode: 'read' }) !== 'granted' && await handle.requestPermission({ mode: 'read' }) !== 'granted') return false;
    } catch {
      return false;
    }
  }
  return true;
}

/** @param {FileSystemHandle} handle its own, or of the folder that its path begins with @param {string} path */
async function fileAt(handle, path) {
  if (handle.kind === 'file') return /** @type {FileSystemFileHandle} */ (handle).getFile();
  const names = path.split('/').slice(1);
  const last = names.pop() ?? '';
  let folder = /** @type {FileSystemDirectoryHandle} */ (handle);
  for (const name of names) folder = await folder.getDirectoryHandle(name);
  return (await folder.getFileHandle(last)).getFile();
}
