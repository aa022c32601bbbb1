// "Send to" and "Your e-mail": nothing is mailed before "Send" is pressed, so half-typed addresses go nowhere.
// The sender's address is confirmed once per browser, by a code that is mailed to it.
import { asFailure, explain, sentence } from '../upload/failure.js';
import { say } from './options-form.js';

/** @typedef {import('../upload/transfer-upload.js').TransferUpload} TransferUpload */
/** @typedef {import('../upload/backend.js').Backend} Backend */
/** @typedef {HTMLInputElement | HTMLTextAreaElement} Field */

const KEPT = 'beeline-sender';
/** @type {MailForm | undefined} */ let only;

/** @typedef {'copy' | 'send-mail' | 'confirm-code'} Next the button for the next step */

/** @param {HTMLFormElement} form @param {(next: Next, isUnsent: boolean) => void} onChange isUnsent: whether addresses are entered that nothing was mailed to yet */
export function mailForm(form, onChange) {
  only ??= new MailForm(form, onChange);
  return only;
}

// What precedes an address in angle brackets is a name: quoted, in plain words, or as in "Diddley, Bo". A word
// with a dot inside is not treated as part of a name: it may be an address without its "@".
const NAMES = /(^|[\s,;])(?:"[^"]*"(?=\s*<)|[^\s@<,;]+(?=[^@<,;\n]*<)|[^\s@<,;.]+\.?(?=[\s,][^@<;\n]*<))/g;

/** The addresses in a text, and words that may be meant as one. @param {string} text */
export function addressesIn(text) {
  return [...new Set(text.replace(NAMES, '$1').split(/[\s,;<>]+/).filter(Boolean))];
}

/** @param {string} word */
const isAddress = (word) => word.includes('@');

class MailForm {
  #form;
  #onChange;
  /** @type {TransferUpload | undefined} */ #upload;
  /** @type {Backend | undefined} */ #backend;
  #isSending = false;
  /** The address whose confirmation code is awaited. */ #asked = '';
  /** Addresses that were mailed, or will be once all files have arrived. @type {Set<string>} */ #saved = new Set();

  /** @param {HTMLFormElement} form @param {(next: Next, isUnsent: boolean) => void} onChange */
  constructor(form, onChange) {
    this.#form = form;
    this.#onChange = onChange;
    form.addEventListener('submit', (event) => { event.preventDefault(); void this.#alone(() => this.#send()); });
    form.addEventListener('input', () => this.#look());
    this.#get('confirm-code').addEventListener('click', () => this.#alone(() => this.#confirm()));
    this.#field('o-code').addEventListener('keydown', (event) => {
      if (/** @type {KeyboardEvent} */ (event).key !== 'Enter') return;
      event.preventDefault();
      void this.#alone(() => this.#confirm());
    });
  }

  /** Binds the form to a transfer. @param {TransferUpload} upload @param {Backend} backend */
  serve(upload, backend) {
    this.#upload = upload;
    this.#backend = backend;
    this.#form.reset();
    const { sender_email: sender, sender_confirmed: isConfirmed } = upload.transfer;
    this.#field('o-recipients').value = this.#recipients.join(', ');
    this.#saved = new Set(isConfirmed ? this.#recipients : []);
    this.#field('o-sender').value = sender ?? kept().email ?? '';
    for (const id of ['o-recipients', 'o-sender', 'o-code']) this.#say(id, '', '');
    this.#ask('');
  }

  /** Called when all files have arrived. */
  finish() {
    if (this.#saved.size) this.#tell();
  }

  /** The transfer's recipients whose links are not revoked. */
  get #recipients() {
    return (this.#upload?.transfer.recipients ?? []).filter(({ state }) => state !== 'revoked').map(({ email }) => email);
  }

  /** Shows the field for the code that was mailed to this address; an empty address hides it. @param {string} sender */
  #ask(sender) {
    this.#asked = sender;
    this.#get('code-field').hidden = !sender;
    this.#look();
  }

  #look() {
    const isUnsent = addressesIn(this.#field('o-recipients').value).some((one) => isAddress(one) && !this.#saved.has(one));
    this.#onChange(this.#asked ? 'confirm-code' : isUnsent ? 'send-mail' : 'copy', isUnsent);
  }

  // A second press is ignored while the first request is running.
  /** @param {() => Promise<void>} work */
  async #alone(work) {
    if (this.#isSending || !this.#upload) return;
    this.#isSending = true;
    try {
      await work();
    } catch (error) {
      this.#complain(asFailure(error));
    } finally {
      this.#isSending = false;
    }
  }

  async #send() {
    const recipients = addressesIn(this.#field('o-recipients').value);
    const sender = this.#field('o-sender').value.trim();
    for (const id of ['o-recipients', 'o-sender', 'o-code']) this.#say(id, '', '');
    const wrong = recipients.find((one) => !isAddress(one));
    if (wrong) return this.#say('o-recipients', 'wrong', `“${wrong}” is not an e-mail address.`);
    if (!sender) return this.#say('o-sender', 'wrong', 'Enter your own address: recipients see it and can reply.');
    if (sender === this.#asked && this.#field('o-code').value.trim()) return this.#confirm();
    const known = kept();
    const token = known.email === sender.toLowerCase() ? known.token : undefined;
    await this.#edit({ recipients, sender_email: sender }, token);
    if (this.#upload?.transfer.sender_confirmed) {
      this.#saved = new Set(recipients);
      this.#ask('');
      return this.#tell();
    }
    await this.#backend?.mailCode(sender);
    this.#ask(sender);
    this.#say('o-code', '', `We have mailed a code to ${sender}. Enter it here once; then it is sent.`);
    this.#field('o-code').focus();
  }

  /** @param {import('../upload/backend.js').Options} change @param {string | undefined} token */
  async #edit(change, token) {
    try {
      await this.#upload?.edit(token ? { ...change, sender_token: token } : change);
    } catch (error) {
      if (!token || asFailure(error).facts.fields?.[0]?.field !== 'sender_token') throw error;
      // The token has expired.
      forget();
      await this.#upload?.edit(change);
    }
  }

  async #confirm() {
    const email = this.#field('o-sender').value.trim();
    const { sender_token: token } = await /** @type {Backend} */ (this.#backend).confirm(email, this.#field('o-code').value);
    keep(email.toLowerCase(), token);
    this.#field('o-code').value = '';
    this.#ask('');
    await this.#send();
    this.#get('send-mail').focus();
  }

  #tell() {
    const { length: count } = this.#recipients;
    const people = count === 1 ? '1 person' : `${count} people`;
    if (!count) return this.#say('o-sender', 'saved', 'Saved. We mail you what becomes of it.');
    this.#say('o-sender', 'saved', this.#upload?.state === 'done' ? `Sent to ${people}.` : `It will be sent to ${people} as soon as everything has arrived.`);
  }

  /** @param {import('../upload/failure.js').Failure} failure */
  #complain(failure) {
    const [first] = failure.facts.fields ?? [];
    const place = !first ? 'o-sender' : first.field.startsWith('recipients') ? 'o-recipients' : first.field === 'code' ? 'o-code' : 'o-sender';
    const which = /^recipients\.(\d+)$/.exec(first?.field ?? '');
    const { title } = explain(failure);
    const named = which ? sentence(`“${addressesIn(this.#field('o-recipients').value)[Number(which[1])]}” ${first?.message}`) : title;
    this.#say(place, 'wrong', first || failure.facts.code === 'too_much_mail' ? named : `Not sent. ${title}`);
  }

  /** @param {string} id @param {'saved' | 'wrong' | ''} kind @param {string} words */
  #say(id, kind, words) {
    say(this.#field(id), kind, words);
  }

  /** @param {string} id */
  #field(id) {
    return /** @type {Field} */ (this.#get(id));
  }

  /** @param {string} id */
  #get(id) {
    return /** @type {HTMLElement} */ (document.getElementById(id));
  }
}

// --- The confirmed sender, in localStorage; without it the code is asked for each time. -------------

/** @returns {{email?: string, token?: string}} */
function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT) ?? '{}');
  } catch {
    return {};
  }
}

/** @param {string} email @param {string} token */
function keep(email, token) {
  try {
    localStorage.setItem(KEPT, JSON.stringify({ email, token }));
  } catch { /* The code is asked for again. */ }
}

function forget() {
  try {
    localStorage.removeItem(KEPT);
  } catch { /* Nothing was stored. */ }
}
