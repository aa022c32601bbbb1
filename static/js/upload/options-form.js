// Title, message, expiry and limit: saved as they change, each with its own word beside it.
import { asFailure, explain } from './failure.js';
import { plural } from './progress.js';

/** @typedef {HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement} Field */

const TYPING = 800; // milliseconds of rest before what was typed is saved
const DAY = 86_400_000;

export class OptionsForm {
  #form;
  /** @type {import('./transfer-upload.js').TransferUpload | null} */ #upload = null;
  #createdAt = 0;
  /** @type {Map<string, string>} */ #saved = new Map();
  /** @type {Map<string, AbortController>} */ #saving = new Map();
  /** @type {Map<string, number>} */ #timers = new Map();

  /** @param {HTMLFormElement} form */
  constructor(form) {
    this.#form = form;
    form.addEventListener('submit', (event) => event.preventDefault());
    form.addEventListener('change', (event) => this.#save(/** @type {Field} */ (event.target)));
    form.addEventListener('input', (event) => {
      const field = /** @type {Field} */ (event.target);
      clearTimeout(this.#timers.get(field.name));
      this.#timers.set(field.name, window.setTimeout(() => this.#save(field), TYPING));
    });
  }

  get title() {
    return this.#fields.find(({ name }) => name === 'title')?.value ?? '';
  }

  get #fields() {
    return /** @type {Field[]} */ ([...this.#form.elements]);
  }

  /** From now on it is this transfer's. @param {import('./transfer-upload.js').TransferUpload} upload */
  serve(upload) {
    this.#upload = upload;
    // Not by the reader's clock, which may be wrong by years.
    this.#createdAt = Date.parse(upload.transfer.created_at);
    this.#form.reset();
    for (const field of this.#fields) {
      this.#fill(field, upload.transfer);
      this.#saved.set(field.name, field.value);
      this.#say(field, '', '');
    }
  }

  // A transfer that is continued brings what was said about it before.
  /** @param {Field} field @param {import('./backend.js').Transfer} transfer */
  #fill(field, { title, message, max_downloads: most, expires_at: end }) {
    if (field.name === 'title' && title) field.value = title;
    if (field.name === 'message' && message) field.value = message;
    if (field.name === 'max_downloads' && most) field.value = String(most);
    if (field.name !== 'expires_at' || !(field instanceof HTMLSelectElement)) return;
    const days = Math.round((Date.parse(end) - this.#createdAt) / DAY);
    if (![...field.options].some(({ value }) => Number(value) === days)) field.add(new Option(plural(days, 'day'), String(days)));
    field.value = String(days);
  }

  /** @param {Field} field */
  async #save(field) {
    clearTimeout(this.#timers.get(field.name));
    const { name, value } = field;
    if (!this.#upload || this.#saved.get(name) === value) return;
    if (name === 'max_downloads' && !/^\s*([1-9]\d*)?\s*$/.test(value)) return this.#say(field, 'wrong', 'Enter a number of at least 1, or nothing.');
    this.#saving.get(name)?.abort();
    const mine = new AbortController();
    this.#saving.set(name, mine);
    try {
      await this.#upload.edit(this.#change(name, value), mine.signal);
      this.#saved.set(name, value);
      this.#say(field, 'saved', 'Saved');
    } catch (error) {
      if (mine.signal.aborted) return;
      const failure = asFailure(error);
      const complaint = failure.facts.fields?.find((one) => one.field === name) ?? failure.facts.fields?.[0];
      this.#say(field, 'wrong', complaint ? capital(complaint.message) : `Not saved. ${explain(failure).title}`);
    }
  }

  /** @param {string} name @param {string} value @returns {import('./backend.js').Options} */
  #change(name, value) {
    if (name === 'max_downloads') return { max_downloads: value.trim() ? Number(value) : null };
    if (name === 'expires_at') return { expires_at: new Date(this.#createdAt + Number(value) * DAY).toISOString() };
    return { [name]: value };
  }

  /** @param {Field} field @param {'saved' | 'wrong' | ''} kind @param {string} words */
  #say(field, kind, words) {
    const line = document.getElementById(field.getAttribute('aria-describedby') ?? '');
    if (!line) return;
    line.dataset.kind = kind;
    line.textContent = words;
    if (kind === 'wrong') field.setAttribute('aria-invalid', 'true');
    else field.removeAttribute('aria-invalid');
  }
}

/** @param {string} text */
function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
