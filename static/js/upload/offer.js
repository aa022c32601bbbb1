// One offer to go on: what is known of its transfer, and its place on the page.
import { sizeHeld } from './file-upload.js';
import { drawLine } from './line.js';
import { nameOf } from './memory.js';
import { plural, size } from './progress.js';

/** @typedef {import('./backend.js').FilePlan} FilePlan */
/** @typedef {import('./backend.js').Transfer} Transfer */
/** @typedef {import('./memory.js').Known} Known */
/** @typedef {import('./memory.js').Row} Row */
/**
 * asking, or waiting to ask again; elsewhere: in another tab; open: to be continued; busy: files are looked at;
 * over: there is nothing left to do, and it was forgotten.
 * @typedef {'asking' | 'waiting' | 'elsewhere' | 'open' | 'busy' | 'over'} State
 */

/** Bytes of a file that the storage holds. @param {FilePlan} plan @param {number[]} held */
export function safeSize(plan, held) {
  return plan.state === 'COMPLETE' ? plan.size : sizeHeld(plan, new Set(held));
}

/** What to ask for, by what is missing. @param {FilePlan[]} missing */
export function whatToChoose(missing) {
  if (missing.some(({ path }) => path.includes('/'))) return 'Choose the folder again';
  return missing.length === 1 ? 'Choose the file again' : 'Choose the files again';
}

export class Offer {
  row;
  element;
  words = '';
  percent = 0;
  linked = false;
  ended = new AbortController();
  /** @type {State} */ state = 'asking';
  /** @type {Transfer | null} */ transfer = null;
  /** @type {Map<string, Known>} */ known = new Map();
  /** @type {Map<string, number[]>} */ held = new Map();
  /** @type {Map<string, Blob>} */ found = new Map();
  /** Whether choosing again is offered beside the handles or in their place. @type {'' | 'also' | 'only'} */ again = '';

  /** @param {Row} row @param {HTMLElement} place */
  constructor(row, place) {
    this.row = row;
    const template = /** @type {HTMLTemplateElement} */ (document.getElementById('offer-row'));
    this.element = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
    place.append(this.element);
    this.#name(row.name);
  }

  /** @param {Transfer} transfer @param {Map<string, number[]>} held @param {Map<string, Known>} known */
  learn(transfer, held, known) {
    Object.assign(this, { transfer, held, known });
    this.#name(nameOf(transfer));
    const total = transfer.total_size;
    const safe = transfer.files.reduce((sum, plan) => sum + safeSize(plan, held.get(plan.id) ?? []), 0);
    const begun = new Date(transfer.created_at).toLocaleString(undefined, { month: 'short', day: 'numeric', hour: 'numeric', minute: '2-digit' });
    this.#one('.offer-facts').textContent = [`${size(safe)} of ${size(total)}`, transfer.files.length > 1 && plural(transfer.files.length, 'file'), `begun ${begun}`].filter(Boolean).join(' · ');
    this.percent = this.needed.length ? Math.min(99, Math.floor(100 * safe / (total || 1))) : 100;
    drawLine(this.#one('.beeline'), this.percent);
  }

  /** Files of which something has to be sent. */
  get needed() {
    const { transfer } = this;
    if (!transfer || transfer.status === 'PROCESSING') return [];
    return transfer.files.filter((plan) => plan.state !== 'COMPLETE' && (this.held.get(plan.id) ?? []).length < plan.part_count);
  }

  /** Those of them that were not found yet. */
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
    const show = { go: open && kept && this.again !== 'only', again: open && missing.length > 0 && (!kept || this.again !== ''), discard: open };
    for (const [name, shown] of Object.entries(show)) this.#button(name).hidden = !shown;
    this.#button('again').textContent = whatToChoose(missing);
    this.#button('again').toggleAttribute('data-main', !show.go);
    for (const button of element.querySelectorAll('button')) button.toggleAttribute('aria-disabled', state === 'busy');
    this.#one('.offer-kind').hidden = state === 'over' || state === 'elsewhere';
    this.#one('.beeline').hidden = !open;
    this.#one('.offer-facts').hidden = !open;
    const link = /** @type {HTMLAnchorElement} */ (this.#one('.offer-link'));
    link.hidden = !this.linked;
    if (this.linked) link.href = link.textContent = this.row.link;
    if (state !== 'open') this.#one('.ask').hidden = true;
  }

  /** @param {string} words */
  refuse(words) {
    this.turn('open', this.words);
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
