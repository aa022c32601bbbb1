// Title, message, expiry, limit and password: each is saved when it changes, and the result is shown beside it.
import { asFailure, explain } from '../upload/failure.js';
import { plural } from '../upload/progress.js';

/** @typedef {HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement} Field */

const TYPING = 800; // milliseconds without typing before a field is saved
const DAY = 86_400_000;
const SHORTEST = 4; // characters of a password

export class OptionsForm {
  #form;
  /** @type {import('../upload/transfer-upload.js').TransferUpload | null} */ #upload = null;
  #edited;
  #now;
  /** @type {Map<string, string>} */ #saved = new Map();
  /** @type {Map<string, AbortController>} */ #saving = new Map();
  /** @type {Map<string, number>} */ #timers = new Map();

  /** @type {Promise<boolean>} */ #turn = Promise.resolve(true);
  #password;
  #show;
  #remove;

  /** @param {HTMLFormElement} form @param {() => void} edited called when a field was saved @param {() => number} now the server's time */
  constructor(form, edited, now) {
    this.#form = form;
    this.#edited = edited;
    this.#now = now;
    this.#password = /** @type {HTMLInputElement} */ (form.elements.namedItem('password'));
    this.#show = /** @type {HTMLButtonElement} */ (form.querySelector('#show-password'));
    this.#remove = /** @type {HTMLButtonElement} */ (form.querySelector('#remove-password'));
    this.#show.addEventListener('click', () => this.#reveal(this.#password.type === 'password'));
    this.#remove.addEventListener('click', () => this.#unprotect());
    form.addEventListener('submit', (event) => event.preventDefault());
    form.addEventListener('change', (event) => this.#save(/** @type {Field} */ (event.target)));
    // The page is being left: save now, without waiting for requests in progress.
    addEventListener('pagehide', () => {
      this.#turn = Promise.resolve(true);
      for (const field of this.#fields) void this.#save(field);
    });
    form.addEventListener('input', (event) => {
      const field = /** @type {Field} */ (event.target);
      clearTimeout(this.#timers.get(field.name));
      if (field === this.#password && [...field.value].length < SHORTEST) return;
      this.#timers.set(field.name, window.setTimeout(() => this.#save(field), TYPING));
    });
  }

  get title() {
    return this.#fields.find(({ name }) => name === 'title')?.value ?? '';
  }

  get #fields() {
    const all = /** @type {Field[]} */ ([...this.#form.elements]);
    return all.filter(({ name }) => name);
  }

  /** Binds the form to a transfer. @param {import('../upload/transfer-upload.js').TransferUpload} upload */
  serve(upload) {
    this.#upload = upload;
    // Changes of the former transfer that are still being retried are not for this one.
    for (const saving of this.#saving.values()) saving.abort();
    this.#form.reset();
    for (const field of this.#fields) {
      this.#fill(field, upload.transfer);
      this.#saved.set(field.name, field.value);
      say(field, '', '');
    }
    this.#reveal(false);
    this.#protect(upload.transfer.has_password ?? false);
  }

  // A continued transfer already has values.
  /** @param {Field} field @param {import('../upload/backend.js').Transfer} transfer */
  #fill(field, { title, message, max_downloads: most, expires_at: end, created_at: begun }) {
    if (field.name === 'title' && title) field.value = title;
    if (field.name === 'message' && message) field.value = message;
    if (field.name === 'max_downloads' && most) field.value = String(most);
    if (field.name !== 'expires_at' || !(field instanceof HTMLSelectElement)) return;
    // If the date passes before all files have arrived, the server restarts the original lifetime then: show its days.
    const left = Date.parse(end) - this.#now();
    const days = Math.max(1, Math.round((left > 0 ? left : Date.parse(end) - Date.parse(begun)) / DAY));
    if (![...field.options].some(({ value }) => Number(value) === days)) field.add(new Option(plural(days, 'day'), String(days)));
    field.value = String(days);
  }

  /** @param {Field} field */
  async #save(field) {
    clearTimeout(this.#timers.get(field.name));
    const { name, value } = field;
    if (!this.#upload || this.#saved.get(name) === value) return;
    if (name === 'max_downloads' && !/^\s*([1-9]\d*)?\s*$/.test(value)) return say(field, 'wrong', 'Enter a number of at least 1, or nothing.');
    // An emptied field is usually being retyped: until then the old password protects the files.
    if (field === this.#password && !value) return this.#protect(this.#upload.transfer.has_password ?? false);
    const send = () => this.#send(field, this.#change(name, value));
    if (!await (field === this.#password ? this.#inTurn(send) : send())) return;
    this.#saved.set(name, value);
    this.#edited();
    say(field, 'saved', field === this.#password ? 'Saved. A password is set.' : 'Saved');
    if (field === this.#password) this.#remove.hidden = false;
  }

  async #unprotect() {
    clearTimeout(this.#timers.get('password'));
    if (!this.#upload || !await this.#inTurn(() => this.#send(this.#password, { password: null }))) return;
    this.#password.value = '';
    this.#saved.set('password', '');
    this.#protect(false);
    say(this.#password, 'saved', 'Removed. The link opens without one.');
    this.#password.focus();
  }

  // One at a time: of two simultaneous requests, the server might apply the older one last.
  /** @param {() => Promise<boolean>} send */
  #inTurn(send) {
    this.#turn = this.#turn.then(send);
    return this.#turn;
  }

  /** Shows whether a password is set. @param {boolean} isSet */
  #protect(isSet) {
    this.#remove.hidden = !isSet;
    say(this.#password, '', isSet ? 'A password is set. Type another to change it.' : '');
  }

  /** @param {boolean} isShown */
  #reveal(isShown) {
    this.#password.type = isShown ? 'text' : 'password';
    this.#show.textContent = isShown ? 'Hide' : 'Show';
    this.#show.setAttribute('aria-label', `${this.#show.textContent} the password`);
  }

  /** Whether the change was saved; if not, the line beside the field says why. @param {Field} field @param {import('../upload/backend.js').Options} change */
  async #send(field, change) {
    const { name } = field;
    this.#saving.get(name)?.abort();
    const mine = new AbortController();
    this.#saving.set(name, mine);
    try {
      await this.#upload?.edit(change, mine.signal, (why) => say(field, '', `Not saved yet. ${explain(why).title}`));
      return !mine.signal.aborted;
    } catch (error) {
      if (mine.signal.aborted) return false;
      const failure = asFailure(error);
      say(field, 'wrong', `${failure.facts.fields?.length ? '' : 'Not saved. '}${explain(failure).title}`);
      return false;
    }
  }

  /** @param {string} name @param {string} value @returns {import('../upload/backend.js').Options} */
  #change(name, value) {
    if (name === 'max_downloads') return { max_downloads: value.trim() ? Number(value) : null };
    if (name === 'expires_at') return { expires_at: new Date(this.#now() + Number(value) * DAY).toISOString() };
    return { [name]: value };
  }
}

/** Sets the message beside a field, and marks the field as wrong or right. @param {Field} field @param {'saved' | 'wrong' | ''} kind @param {string} words */
export function say(field, kind, words) {
  const line = document.getElementById(field.getAttribute('aria-describedby') ?? '');
  if (!line) return;
  line.dataset.kind = kind;
  // An outcome is announced each time, but what is being retried only once.
  if (kind || line.textContent !== words) line.textContent = words;
  if (kind === 'wrong') field.setAttribute('aria-invalid', 'true');
  else field.removeAttribute('aria-invalid');
}
