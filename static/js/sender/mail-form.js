// "Send to" and "Your e-mail": nothing is mailed before "Send" is pressed, so what is half typed goes nowhere.
// The address is confirmed once in this browser, by a code that was mailed to it.
import { asFailure, explain, sentence } from '../upload/failure.js';
import { say } from './options-form.js';

/** @typedef {import('../upload/transfer-upload.js').TransferUpload} TransferUpload */
/** @typedef {import('../upload/backend.js').Backend} Backend */
/** @typedef {HTMLInputElement | HTMLTextAreaElement} Field */

const KEPT = 'beeline-sender';
/** @type {MailForm | undefined} */ let only;

/** @param {HTMLFormElement} form @param {(mails: boolean) => void} onWish whether it is to go to somebody */
export function mailForm(form, onWish) {
  only ??= new MailForm(form, onWish);
  return only;
}

// What precedes an address in angle brackets is a name: quoted, in plain words, or as in "Diddley, Bo". A word
// with a dot inside is not taken for part of a name: it may be an address that lost its "@".
const NAMES = /(^|[\s,;])(?:"[^"]*"(?=\s*<)|[^\s@<,;]+(?=[^@<,;\n]*<)|[^\s@<,;.]+\.?(?=[\s,][^@<;\n]*<))/g;

/** The addresses in a text, and what may be meant as one. @param {string} text */
export function addressesIn(text) {
  return [...new Set(text.replace(NAMES, '$1').split(/[\s,;<>]+/).filter(Boolean))];
}

/** @param {string} word */
const isAddress = (word) => word.includes('@');

class MailForm {
  #form;
  #onWish;
  /** @type {TransferUpload | undefined} */ #upload;
  /** @type {Backend | undefined} */ #backend;
  #isSending = false;
  /** The address whose code is asked for. */ #asked = '';
  /** The addresses that are mailed, or will be once everything has arrived. @type {Set<string>} */ #saved = new Set();

  /** @param {HTMLFormElement} form @param {(mails: boolean) => void} onWish */
  constructor(form, onWish) {
    this.#form = form;
    this.#onWish = onWish;
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
    const { recipients = [], sender_email: sender } = upload.transfer;
    this.#field('o-recipients').value = recipients.filter(({ state }) => state !== 'revoked').map(({ email }) => email).join(', ');
    this.#field('o-sender').value = sender ?? kept().email ?? '';
    for (const id of ['o-recipients', 'o-sender', 'o-code']) this.#say(id, '', '');
    this.#ask('');
  }

  /** For the code that was mailed there, or no longer. @param {string} sender */
  #ask(sender) {
    this.#asked = sender;
    this.#get('code-field').hidden = !sender;
    this.#look();
  }

  #look() {
    this.#onWish(addressesIn(this.#field('o-recipients').value).some(isAddress));
  }

  // A second press is ignored while the first is being answered.
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
    if (wrong) return this.#say('o-recipients', 'wrong', `“${wrong}” is no e-mail address.`);
    if (!sender) return this.#say('o-sender', 'wrong', 'Enter your own address: they see it, and can answer.');
    if (sender === this.#asked && this.#field('o-code').value.trim()) return this.#confirm();
    const known = kept();
    const token = known.email === sender.toLowerCase() ? known.token : undefined;
    await this.#edit({ recipients, sender_email: sender }, token);
    if (this.#upload?.transfer.sender_confirmed) return this.#done();
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

  #done() {
    const { recipients = [], status } = /** @type {TransferUpload} */ (this.#upload).transfer;
    const count = recipients.filter(({ state }) => state !== 'revoked').length;
    const people = count === 1 ? '1 person' : `${count} people`;
    if (!count) return this.#say('o-sender', 'saved', 'Saved. We mail you what becomes of it.');
    this.#say('o-sender', 'saved', status === 'READY' ? `Sent to ${people}.` : `It goes to ${people} as soon as everything has arrived.`);
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

// --- The sender whom this browser knows; without storage the code is asked for each time. -----------

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
  } catch { /* It is asked for again. */ }
}

function forget() {
  try {
    localStorage.removeItem(KEPT);
  } catch { /* There was nothing. */ }
}
