// Unfinished uploads of this browser, offered on the home page: how much of each is safe, and how to continue it.
// Loaded only if there may be one.
import { exactly, say } from '../page.js';
import { browserWorld } from '../upload/browser-world.js';
import { asFailure, explain, insist } from '../upload/failure.js';
import { sizeHeld } from '../upload/file-upload.js';
import { difference, listed, objections, recognise, severalAtOnce } from '../upload/fingerprint.js';
import { memory, nameOf } from '../upload/memory.js';
import { plural, size } from '../upload/progress.js';
import { claim, isTaken, onTold, whenFree } from '../upload/tabs.js';
import { drawLine } from './line.js';
import { keep, manageUrl } from './mine.js';

/** @typedef {import('../upload/backend.js').FilePlan} FilePlan */
/** @typedef {import('../upload/backend.js').Transfer} Transfer */
/** @typedef {import('../upload/memory.js').Known} Known */
/** @typedef {import('../upload/memory.js').Row} Row */
/** @typedef {import('../upload/pick-files.js').Found} Found */
/** @typedef {import('../upload/pick-files.js').Picked} Picked */
/** @typedef {{transfer: Transfer, token: string, blobs: Map<string, Blob>, held: Map<string, number[]>, hasHandles: boolean, tells: boolean, request?: string, release: () => void}} Resumed */
/**
 * @typedef {object} Ways
 * @property {(kind: 'files' | 'folder', take: (picking: Promise<Found>) => void) => void} choose
 * @property {(resumed: Resumed) => Promise<void>} start
 * @property {(row: Row) => boolean} isHere whether the page is about it; what it says of one transfer, or of a file request, would be wrong of others
 */

const GONE = 'It can no longer be continued: it was deleted or it expired.';
const DISCARD_TRIES = 2; // few, because the sender is waiting
const FEW = 3; // up to this many files are named

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

  /** Brings the list up to date with the memory. */
  async show() {
    // While this tab sends something, the page shows only that upload.
    if (document.getElementById('sender')?.dataset.state !== 'ready') return;
    const rows = (await memory.all()).filter(this.#ways.isHere);
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
    offer.on('without', () => this.#begin(offer, offer.missing));
    offer.on('discard', () => offer.askDiscard(true));
    offer.on('keep', () => offer.askDiscard(false));
    offer.on('discard-yes', () => this.#discard(offer));
    // Files that are dropped on an offer count as chosen for it.
    offer.element.addEventListener('files', (event) => {
      if (offer.state === 'over' || offer.state === 'elsewhere') return;
      event.preventDefault();
      const { detail } = /** @type {CustomEvent<Promise<Found>>} */ (event);
      if (offer.state === 'open') void this.#take(offer, detail);
      else if (offer.state !== 'busy') offer.dropped = detail;
    });
  }

  // --- Asking what storage holds -------------------------------------------------------------------

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
      const wait = (/** @type {import('../upload/failure.js').Failure} */ why) => this.#turn(offer, 'waiting', `${explain(why).title} What was sent is safe; we ask again by ourselves.`);
      const { signal } = offer.ended;
      const transfer = await insist(() => owned.read(signal), this.#world, signal, wait);
      const { files } = await insist(() => owned.held(signal), this.#world, signal, wait);
      offer.learn(transfer, new Map(files.map((file) => [file.id, file.held])), known);
    } catch (error) {
      if (offer.ended.signal.aborted) return undefined;
      const failure = asFailure(error);
      if (failure.why === 'gone') return this.#over(offer, GONE);
      if (failure.why === 'expired') return this.#tellExpired(offer);
      const { title, text } = explain(failure);
      return this.#turn(offer, 'waiting', `${title} ${text}`);
    }
    return this.#tellHowFar(offer);
  }

  /** @param {Offer} offer */
  #tellHowFar(offer) {
    const { transfer } = offer;
    if (transfer?.status === 'READY') return this.#tellWhole(offer);
    if (transfer?.status === 'EXPIRED') return this.#tellExpired(offer);
    if (transfer?.status !== 'INIT' && transfer?.status !== 'PROCESSING') return this.#over(offer, GONE);
    this.#turn(offer, 'open', howFar(offer, transfer.files));
    const { dropped } = offer;
    offer.dropped = null;
    return dropped ? this.#take(offer, dropped) : undefined;
  }

  /** @param {Offer} offer */
  #tellWhole(offer) {
    rememberSent(offer.row);
    this.#over(offer, 'It has arrived intact. Anyone with the link can download it.', offer.row.link);
  }

  // One click on its manage page revives it, as long as its bytes are kept.
  /** @param {Offer} offer */
  #tellExpired(offer) {
    rememberSent(offer.row);
    this.#over(offer, 'It has expired: nobody can download it now. Its page brings it back, as long as its files are kept.', manageUrl(offer.row, offer.row.token), 'Manage');
  }

  /** @param {Offer} offer @param {string} words @param {string} [link] @param {string} [named] */
  #over(offer, words, link = '', named = link) {
    void memory.forget(offer.row.id);
    offer.link = link;
    offer.named = named;
    this.#turn(offer, 'over', words);
  }

  // Files added to a ready transfer are a batch, which is read and removed without the transfer's earlier files.
  /** @param {Offer} offer @param {Map<string, Known>} [known] */
  #owned({ row: { id, token, adds }, known: learned }, known = learned) {
    return adds ? this.#world.backend.batchOf(id, token, () => known.keys()) : this.#world.backend.of(id, token);
  }

  // --- Continuing ------------------------------------------------------------------------------------

  /** Opens the files again through the stored handles, so that nothing has to be chosen. @param {Offer} offer */
  async #continue(offer) {
    const before = offer.words;
    this.#turn(offer, 'busy', offer.missing.length ? 'Looking at the files.' : before);
    /** @type {import('../upload/fingerprint.js').Refusal[]} */ const refused = [];
    /** @type {string[]} */ const moved = [];
    // Permission first: the browser grants it only shortly after a click.
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

  /** Continues with files that were chosen again. @param {Offer} offer @param {Promise<Found>} picking */
  async #take(offer, picking) {
    const before = offer.words;
    this.#turn(offer, 'busy', 'Looking at the files.');
    try {
      const { picked: chosen } = await picking;
      const { found, refused } = await recognise(offer.missing, offer.known, chosen);
      const plans = offer.missing.filter(({ id }) => found.has(id));
      const again = plans.map(({ id }) => /** @type {Picked} */ (found.get(id)));
      plans.forEach(({ id }, index) => {
        const { file, handle } = again[index];
        offer.found.set(id, file);
        offer.known.set(id, /** @type {Known} */ ({ ...offer.known.get(id), handle }));
      });
      // Next time they need not be chosen.
      if (offer.transfer && again.some(({ handle }) => handle)) void memory.add({ ...offer.transfer, tells: offer.row.tells, request: offer.row.request }, offer.row.token, plans, again);
      if (!offer.missing.length) return await this.#begin(offer);
      this.#turn(offer, 'open', before);
      const objected = new Set(refused.map(({ path }) => path));
      const missing = offer.missing.map(({ path }) => path).filter((path) => !objected.has(path));
      this.#refuse(offer, [!found.size && !refused.length && unwanted(chosen, offer.known), objections(refused, missing)]);
    } catch {
      this.#turn(offer, 'open', before);
      this.#refuse(offer, ['That could not be read.']);
    }
    return undefined;
  }

  /** @param {Offer} offer @param {FilePlan[]} [without] files to remove from the transfer before */
  async #begin(offer, without = []) {
    const { id, token } = offer.row;
    const release = await claim(id);
    if (!release) return this.#ask(offer);
    this.#turn(offer, 'busy', offer.words);
    let isThere = false;
    try {
      const owned = this.#owned(offer);
      for (const { id } of without) await owned.removeFile(id);
      // What is known of the transfer may be outdated.
      const transfer = await owned.read();
      isThere = transfer.status === 'INIT' || transfer.status === 'PROCESSING';
      if (isThere) {
        await this.#ways.start({ transfer, token, release, blobs: offer.found, held: offer.held, hasHandles: offer.hasHandles, tells: offer.row.tells ?? false, request: offer.row.request });
        return this.#drop(offer);
      }
    } catch (error) {
      console.error(error);
    }
    release();
    // Asking again shows the cause.
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
    say('Discarded. What was sent is deleted.');
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

  // One primary button on the page: the first offer's, or otherwise the one that chooses files.
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

// It became ready while no page was following: list it under "Sent from this device". Added files belong to a
// transfer that is listed already.
/** @param {Row} row */
function rememberSent({ id, token, name, link, created_at: at, adds }) {
  if (!adds) keep({ id, token, title: name, link, at });
}

// All files of a folder share one handle, so the browser asks once for each folder.
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

/** @param {FileSystemHandle} handle the file's own, or that of the first folder of its path @param {string} path */
async function fileAt(handle, path) {
  if (handle.kind === 'file') return /** @type {FileSystemFileHandle} */ (handle).getFile();
  const names = path.split('/').slice(1);
  const last = names.pop() ?? '';
  let folder = /** @type {FileSystemDirectoryHandle} */ (handle);
  for (const name of names) folder = await folder.getDirectoryHandle(name);
  return (await folder.getFileHandle(last)).getFile();
}

// --- One offer: what is known of its transfer, and its element on the page -------------------------

/**
 * asking: the server and storage; waiting: to ask again; elsewhere: in another tab; open: can be continued;
 * busy: working for the sender; over: nothing is left to do, and the memory has dropped it.
 * @typedef {'asking' | 'waiting' | 'elsewhere' | 'open' | 'busy' | 'over'} State
 */

/** Bytes of a file that storage holds. @param {FilePlan} plan @param {number[]} held */
export function safeSize(plan, held) {
  return plan.state === 'COMPLETE' ? plan.size : sizeHeld(plan, new Set(held));
}

/** A sentence that says how much is safe and what is still needed. @param {{safe: number, percent: number, needed: FilePlan[]}} of @param {FilePlan[]} files all of them */
export function howFar({ safe, percent, needed }, files) {
  if (!needed.length) return 'All of it is safe. It only has to be checked.';
  const said = safe ? `${percent || 'Less than 1'} % is already safe.` : 'Nothing of it is safe yet.';
  // The heading names the upload by its first file, which may be safe already.
  return needed.length < files.length && needed.length <= FEW ? `${said} Still needed: ${listed(needed.map(({ path }) => path))}.` : said;
}

/** The message shown when none of the chosen files is needed. @param {{path: string}[]} chosen @param {Map<string, {path: string}>} known */
export function unwanted(chosen, known) {
  const own = new Set([...known.values()].map(({ path }) => path));
  const paths = chosen.map(({ path }) => path).filter((path) => own.has(path));
  return paths.length ? `Not needed again: ${listed(paths)}.` : 'That is not what was being sent.';
}

/** The label of the button that chooses the missing files. @param {FilePlan[]} missing */
export function whatToChoose(missing) {
  if (missing.some(({ path }) => path.includes('/'))) return 'Choose the folder again';
  return missing.length === 1 ? 'Choose the file again' : 'Choose the files again';
}

class Offer {
  row;
  element;
  words = '';
  safe = 0; // bytes
  percent = 0;
  link = '';
  named = '';
  ended = new AbortController();
  /** @type {State} */ state = 'asking';
  /** @type {Transfer | null} */ transfer = null;
  /** @type {Map<string, Known>} */ known = new Map();
  /** @type {Map<string, number[]>} */ held = new Map();
  /** @type {Map<string, Blob>} */ found = new Map();
  /** Files that were dropped on it before it was known which are missing. @type {Promise<Found> | null} */ dropped = null;
  /** Whether choosing the files again is offered beside the stored handles, or instead of them. @type {'' | 'also' | 'only'} */ again = '';

  /** @param {Row} row @param {HTMLElement} place */
  constructor(row, place) {
    this.row = row;
    const template = /** @type {HTMLTemplateElement} */ (document.getElementById('offer-row'));
    this.element = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
    this.#one('.ask').addEventListener('keydown', ({ key }) => { if (key === 'Escape') this.askDiscard(false); });
    place.append(this.element);
    this.#name(row.name);
  }

  /** @param {Transfer} transfer @param {Map<string, number[]>} held @param {Map<string, Known>} known */
  learn(transfer, held, known) {
    Object.assign(this, { transfer, held, known });
    this.#name(nameOf(transfer));
    const total = transfer.total_size;
    this.safe = transfer.files.reduce((sum, plan) => sum + safeSize(plan, held.get(plan.id) ?? []), 0);
    const at = new Date(transfer.created_at);
    const begun = document.createElement('time');
    begun.dateTime = transfer.created_at;
    begun.textContent = at.toLocaleString(undefined, { month: 'short', day: 'numeric', hour: 'numeric', minute: '2-digit' });
    begun.title = exactly(at);
    const facts = [`${size(this.safe)} of ${size(total)}`, transfer.files.length > 1 && plural(transfer.files.length, 'file'), 'begun '];
    this.#one('.offer-facts').replaceChildren(facts.filter(Boolean).join(' · '), begun);
    this.percent = this.needed.length ? Math.min(99, Math.floor(100 * this.safe / (total || 1))) : 100;
    drawLine(this.#one('.beeline'), this.percent);
  }

  /** Files of which parts are still missing. */
  get needed() {
    const { transfer } = this;
    if (!transfer || transfer.status === 'PROCESSING') return [];
    return transfer.files.filter((plan) => plan.state !== 'COMPLETE' && (this.held.get(plan.id) ?? []).length < plan.part_count);
  }

  /** Needed files that were neither reopened nor chosen again yet. */
  get missing() {
    return this.needed.filter(({ id }) => !this.found.has(id));
  }

  get hasHandles() {
    return [...this.found.keys()].every((id) => this.known.get(id)?.handle);
  }

  /** @param {State} state @param {string} words */
  turn(state, words) {
    const { missing, element } = this;
    const open = state === 'open' || state === 'busy';
    const kept = !missing.length || missing.some(({ id }) => this.known.get(id)?.handle);
    this.state = state;
    this.words = words;
    element.dataset.state = state;
    element.setAttribute('aria-busy', String(state === 'busy'));
    this.#one('.offer-said').textContent = words;
    this.#one('.offer-refused').hidden = true;
    const show = { go: open && kept && this.again !== 'only', again: open && missing.length > 0 && (!kept || this.again !== ''), without: false, discard: open };
    for (const [name, shown] of Object.entries(show)) this.#button(name).hidden = !shown;
    const choice = whatToChoose(missing);
    this.#button('again').textContent = choice;
    this.#button('again').setAttribute('aria-label', `${choice}: ${this.#one('.offer-name').title}`);
    this.#button('again').toggleAttribute('data-main', !show.go);
    for (const button of element.querySelectorAll('button')) button.setAttribute('aria-disabled', String(state === 'busy'));
    this.#one('.offer-kind').hidden = state === 'over' || state === 'elsewhere';
    this.#one('.beeline').hidden = !open;
    this.#one('.offer-facts').hidden = !open;
    const link = /** @type {HTMLAnchorElement} */ (this.#one('.offer-link'));
    link.hidden = !this.link;
    link.href = this.link;
    link.textContent = this.named;
    if (state !== 'open') this.#one('.ask').hidden = true;
  }

  /** @param {string} words */
  refuse(words) {
    this.turn('open', this.words);
    const { missing } = this;
    this.#button('without').hidden = !missing.length || missing.length === this.transfer?.files.length;
    const note = this.#one('.offer-refused');
    note.textContent = words;
    note.hidden = false;
    if (!document.activeElement || document.activeElement === document.body) /** @type {HTMLElement | null} */ (this.element.querySelector('[data-main]:not([hidden])'))?.focus();
  }

  /** @param {boolean} asking */
  askDiscard(asking) {
    this.#one('.ask').hidden = !asking;
    this.#button('discard').setAttribute('aria-expanded', String(asking));
    this.#button(asking ? 'keep' : 'discard').focus();
  }

  /** @param {string} name @param {() => unknown} act */
  on(name, act) {
    this.#button(name).addEventListener('click', () => { if (this.state === 'open') void act(); });
  }

  /** @param {string} name */
  #name(name) {
    const place = this.#one('.offer-name');
    place.textContent = name;
    place.title = name;
    this.#button('go').setAttribute('aria-label', `Continue ${name}`);
    this.#button('discard').setAttribute('aria-label', `Discard ${name}`);
  }

  /** @param {string} name */
  #button(name) {
    return this.#one(`[data-do="${name}"]`);
  }

  /** @param {string} selector */
  #one(selector) {
    return /** @type {HTMLElement} */ (this.element.querySelector(selector));
  }
}
