// What the sender sees of one upload: the card, its buttons and its forms. view.js decides what happens; only the
// two forms send requests from here.
import { details, explain } from '../upload/failure.js';
import { leftOut } from '../upload/pick-files.js';
import { Progress, plural, size, timeLeft } from '../upload/progress.js';
import { StayAwake } from '../upload/tabs.js';
import { FileList } from './file-list.js';
import { drawLine } from './line.js';
import { OptionsForm, say } from './options-form.js';

/** @typedef {import('../upload/failure.js').Failure} Failure */
/** @typedef {import('../upload/file-upload.js').FileUpload} FileUpload */
/** @typedef {import('../upload/transfer-upload.js').TransferUpload} TransferUpload */
/** @typedef {import('./mail-form.js').Next} Next */
/** @typedef {'ready' | 'uploading' | 'paused' | 'checking' | 'done' | 'failed'} Shown */
/** How an upload can be continued after its tab was closed. @typedef {'not' | 'by-itself' | 'by-choosing-again'} Continuation */
/**
 * What view.js does when the sender presses a button, and what it answers to the panel.
 * @typedef {object} Acts
 * @property {() => unknown} start also continues or tries again
 * @property {() => unknown} pause
 * @property {() => unknown} cancel
 * @property {() => unknown} tryNow
 * @property {(tells: boolean) => void} tellRecipients
 * @property {() => void} edited the title or another option was saved
 * @property {(file: FileUpload) => boolean} setAside returns whether the file is set aside; if not, the sender was asked about the whole upload
 * @property {(file: FileUpload) => void} bringBack
 * @property {(file: FileUpload) => Promise<boolean>} remove resolves to whether the file is gone
 * @property {() => boolean} isAtRisk whether closing the tab now would lose something
 * @property {() => Continuation} continuation
 */

const NOTHING = { safeSize: 0, totalSize: 0 };
const PATIENCE = 2_000; // milliseconds that a cause must last before it is shown
/** What the sender still has to do before the link is mailed. @type {Record<Next, string>} */
const UNSENT = { 'send-mail': 'Not mailed yet: press Send.', 'confirm-code': 'Not mailed yet: enter the code.', 'copy': '' };
// Only a new transfer has these; files that are added to a transfer have no options of their own.
const OF_A_NEW_ONE = ['options', 'mail'];
// All files have been sent: there is nothing left to cancel.
export const OVER = new Set(['checking', 'done']);

export class Panel {
  #root;
  #acts;
  #options;
  #awake = new StayAwake();
  #progress = new Progress(() => performance.now());
  /** @type {TransferUpload | null} */ #upload = null;
  /** @type {import('../upload/backend.js').Backend | null} */ #backend = null;
  /** The last multiple of ten per cent that was announced. */ #said = 0;
  #titled = document.title;
  /** Undefined until its script is loaded. @type {ReturnType<typeof import('./mail-form.js').mailForm> | undefined} */ #mailForm;
  /** The button for the next step. @type {Next} */ #next = 'copy';
  /** When progress stopped, by performance.now(); 0 while there is progress. */ #waitingSince = 0;
  /** Bytes that were safe at the last refresh. */ #safeSize = 0;
  /** Paths of files that could not be read and were left out. @type {string[]} */ #unreadable = [];
  /** @type {Shown} */ shown = 'ready';
  /** Whether addresses are entered that nothing was mailed to yet. */ isUnsent = false;
  files;
  /** What one transfer may hold. @type {{max_file_size?: number, max_transfer_size?: number, max_files?: number}} */ limits;
  /** The transfer that files are added to, with the number and bytes of its present files. @type {{id: string, word: string, count: number, size: number} | null} */ addsTo;

  /** @param {HTMLElement} root @param {Acts} acts */
  constructor(root, acts) {
    this.#root = root;
    this.#acts = acts;
    this.limits = JSON.parse(root.dataset.limits ?? '{}');
    /** What a new transfer is created with: who sends it, or the file request that it is for. @type {import('../upload/backend.js').Options} */ this.wish = JSON.parse(root.dataset.wish ?? '{}');
    this.addsTo = root.dataset.addsTo ? JSON.parse(root.dataset.addsTo) : null;
    this.files = new FileList(root, acts);
    // When files are added to a transfer, its options are on its manage page.
    this.#options = document.getElementById('options') ? new OptionsForm(this.#form('options'), acts.edited, serverClock(root.dataset.now)) : null;
    if (document.getElementById('mail')) this.#expectMail();
    document.getElementById('tell-recipients')?.addEventListener('change', () => acts.tellRecipients(this.tellsRecipients));
    this.#on('cancel', () => this.askCancel());
    this.#on('cancel-no', () => this.#keepOn());
    this.#on('cancel-yes', () => acts.cancel());
    this.#on('retry', () => acts.start());
    this.#on('pause', () => (this.shown === 'paused' ? acts.start() : acts.pause()));
    this.#on('try-now', () => acts.tryNow());
    this.#on('share', () => navigator.share?.({ url: this.#link().href, title: this.#options?.title || 'Files for you' }).catch(() => {}));
    this.#get('cancel-ask').addEventListener('keydown', ({ key }) => { if (key === 'Escape') this.#keepOn(); });
    addEventListener('beforeunload', (event) => { if (acts.isAtRisk()) event.preventDefault(); });
  }

  /** Whether the box is checked: recipients are mailed once these files have arrived. */
  get tellsRecipients() {
    const box = document.getElementById('tell-recipients');
    return box instanceof HTMLInputElement && box.checked;
  }

  set tellsRecipients(tells) {
    const box = document.getElementById('tell-recipients');
    if (box instanceof HTMLInputElement) box.checked = tells;
  }

  /** Whether files are added to a transfer that is ready. (On the first page, such an upload can be continued.) */
  get adds() {
    return this.#upload?.transfer.adds ?? Boolean(this.addsTo);
  }

  // --- The states of an upload -------------------------------------------------------------------

  /** Shows that the upload is being sent, or is about to be. */
  start() {
    this.#get('notice').hidden = true;
    this.#said = this.#percent;
    // The button that was pressed keeps the focus; if it is hidden now, the heading gets it.
    const pressed = document.activeElement;
    this.#show('uploading');
    if (pressed !== this.#get('pause')) this.#get('heading').focus({ preventScroll: true });
  }

  /** Shows that the transfer is being created. @param {number} count of files @param {number} total their bytes */
  prepare(count, total) {
    this.#text('heading', `Preparing ${plural(count, 'file')}`);
    this.#text('bytes', size(total));
  }

  /** From now on the panel shows this upload. @param {TransferUpload} upload @param {import('../upload/backend.js').Backend} backend */
  take(upload, backend) {
    this.#upload = upload;
    this.#backend = backend;
    const link = this.#link();
    link.href = upload.transfer.link;
    link.title = upload.transfer.link;
    link.textContent = upload.transfer.link.replace(/^https?:\/\//, '');
    this.#get('share').hidden = !navigator.share;
    if (!upload.transfer.adds) {
      this.#options?.serve(upload);
      this.#offerMail().catch(() => { /* Send tries again. */ });
    }
    this.files.show([...upload.files.values()]);
  }

  /** Updates the panel; called four times a second while files are sent or checked. @param {Failure | null} waiting why there is no progress */
  refresh(waiting) {
    const upload = this.#upload;
    if (upload) {
      const { state } = upload;
      if ((state === 'uploading' || state === 'checking') && (this.shown !== state || this.#get('share-block').hidden)) this.#show(state);
      if (this.shown === 'uploading') this.#showProgress(upload);
      if (this.shown === 'checking') this.#showCheck(upload);
      this.files.refresh();
    }
    this.#showWaiting(waiting);
  }

  /** Say in the tab how it is. @param {string} words */
  #entitle(words) {
    document.title = `${words} · ${document.querySelector('.logo')?.textContent}`;
  }

  pause() {
    this.#show('paused');
    this.showSums(null);
    this.#entitle('Paused');
    this.#say(this.#get('heading').textContent ?? '');
  }

  finish() {
    const upload = /** @type {TransferUpload} */ (this.#upload);
    this.files.refresh();
    // A path on this site, whatever host the link names: the CSP allows no pictures from other hosts.
    this.#get('qr').setAttribute('src', `${new URL(this.#link().href).pathname}.svg`);
    this.#show('done');
    drawLine(this.#get('line'), 100);
    const count = upload.files.size;
    this.#text('heading', upload.transfer.adds ? wereAdded(count) : count === 1 ? 'Your file is ready to download' : `Your ${plural(count, 'file')} are ready to download`);
    this.#text('bytes', size(upload.totalSize));
    this.#mailForm?.finish();
    this.#showDone();
    this.#say(this.isUnsent ? `The files are ready to download. ${UNSENT[this.#next]}` : 'Sent. The files are ready to download.');
  }

  /** @param {Failure} failure */
  fail(failure) {
    const isGone = failure.why === 'gone';
    const isExpired = failure.why === 'expired';
    const focused = document.activeElement;
    this.#show('failed');
    this.#root.dataset.stopped = failure.why;
    this.files.fail(failure.facts.path);
    this.#text('heading', isExpired ? 'Everything has arrived' : 'The upload has stopped');
    this.showSums(failure);
    this.#get('retry').hidden = isGone || isExpired || failure.why === 'blocked';
    this.#get('start-again').hidden = !isGone;
    if (isGone || isExpired) {
      this.#askNoMore();
      this.#get('cancel').hidden = true;
    }
    if (isExpired) {
      // It can be revived on its manage page.
      this.#get('manage').parentElement?.removeAttribute('hidden');
      this.#get('manage').classList.add('button-primary');
    }
    this.#keepFocus(focused);
    this.#entitle('Stopped');
    this.#say(`${this.#get('trouble-title').textContent} ${this.#get('trouble-text').textContent}`);
  }

  /** Shows how much is safe while nothing is sent; also after files were added or removed. @param {Failure | null} failure why the upload has stopped; null if it is paused */
  showSums(failure) {
    const { safeSize, totalSize } = this.#upload ?? NOTHING;
    // What was in flight does not count now.
    const percent = this.#percent;
    this.files.refresh();
    drawLine(this.#get('line'), percent);
    if (failure) {
      const { title, text } = explain(failure, { safe: this.#safe() });
      this.#text('figure', failure.why === 'expired' ? 'Expired' : percent < 100 ? `${percent} %` : 'Stopped');
      this.#trouble(title, text, failure);
    } else {
      this.#text('figure', `${percent} %`);
      this.#text('heading', percent ? `Paused. ${percent} % is safe.` : 'Paused. What was sent is safe.');
      this.#text('bytes', `${size(safeSize)} of ${size(totalSize)}`);
    }
  }

  /** Shows files that were added to the upload. @param {FileUpload[]} added */
  add(added) {
    this.files.show(added);
    this.remark('');
    this.#say(`${wereAdded(added.length)}.`);
  }

  /** Resets the panel to what it was when the page was opened. */
  clear() {
    this.#upload = null;
    this.isUnsent = false;
    this.#next = 'copy';
    this.#unreadable = [];
    this.#askNoMore();
    this.files.clear();
    this.#show('ready');
    document.title = this.#titled;
  }

  /** Sets the link to the manage page. @param {string} url */
  showManage(url) {
    this.#get('manage').setAttribute('href', url);
  }

  /** Asks whether to stop the upload and remove everything. */
  askCancel() {
    this.#text('cancel-words', `Stop, and remove ${this.adds ? 'what was sent of these' : 'everything that was sent'}?`);
    this.#get('cancel-ask').hidden = false;
    this.#get('cancel').setAttribute('aria-expanded', 'true');
    this.#get('cancel-no').focus();
  }

  // --- Remarks and hints -------------------------------------------------------------------------

  /** From now on, until the end, remarks name these files too. @param {string[]} unreadable paths of files that could not be read */
  leaveOut(unreadable) {
    this.#unreadable.push(...unreadable);
  }

  /** Shows the outcome of an extra action. #trouble stays: it says why the upload waits or has stopped. @param {string} said if empty, files that were left out are named again */
  remark(said) {
    const remark = this.#get('remark');
    const words = said || (this.#unreadable.length ? leftOut(this.#unreadable) : '');
    // Setting the same text again would make screen readers announce it again.
    if (remark.hidden || remark.textContent !== words) remark.textContent = words;
    remark.hidden = !words;
  }

  /** Shows one line; before an upload it is in the drop area. @param {string} words */
  notice(words) {
    if (this.shown !== 'ready') return this.remark(words);
    const notice = this.#get('notice');
    notice.textContent = words;
    notice.hidden = false;
  }

  /** Moves the focus to where a new upload begins. */
  focusOnChoice() {
    this.#get('choose-files').focus();
  }

  /** Shows what the link already does, and whether this tab is still needed. */
  hint() {
    const adds = this.#upload?.transfer.adds;
    const continuation = this.#acts.continuation();
    const stay = {
      'not': 'Keep this tab open until everything is sent.',
      'by-itself': 'You can close this tab: it can be continued here later.',
      'by-choosing-again': 'You can close this tab: it can be continued here later, by choosing the same files again.',
    }[continuation];
    const waits = adds ? `Anyone who has it can download what is there; these wait for the rest. ${stay}` : `It already works, and waits for the rest. ${stay}`;
    this.#text('link-hint', {
      ready: '',
      uploading: adds ? `Anyone who has it can download what is there; these appear once all have arrived. ${stay}` : `It already works: anyone who opens it sees the upload arriving. ${stay}`,
      paused: waits, failed: waits,
      checking: `Everything has left this computer. ${this.isUnsent ? UNSENT[this.#next]
        : continuation === 'not' ? 'Keep this tab open a moment longer, in case something has to be sent again.'
          : 'You can close this tab: if something has to be sent again, it can be continued here.'}`,
      done: `Anyone who has this link, and the password if you set one, can download. ${this.isUnsent ? UNSENT[this.#next] : 'You can close this tab.'}`,
    }[this.shown]);
  }

  // --- Painting ----------------------------------------------------------------------------------

  /** @param {Shown} shown */
  #show(shown) {
    const focused = document.activeElement;
    if (shown !== this.shown) this.#progress = new Progress(() => performance.now());
    this.shown = shown;
    this.#awake.set(shown === 'uploading' || shown === 'checking');
    this.#root.dataset.state = shown;
    this.#root.toggleAttribute('data-stopped', shown === 'failed');
    for (const one of this.#root.querySelectorAll('[data-when]')) {
      const when = one.getAttribute('data-when')?.split(' ') ?? [];
      one.toggleAttribute('hidden', !when.includes(shown));
    }
    const upload = this.#upload;
    for (const id of ['share-block', 'options', 'mail', 'pause', 'contents']) if (!upload || (upload.transfer.adds && OF_A_NEW_ONE.includes(id))) document.getElementById(id)?.setAttribute('hidden', '');
    this.#choosePrimary();
    this.#get('pause').classList.toggle('button-primary', shown === 'paused');
    this.#text('pause', shown === 'paused' ? 'Continue' : 'Pause');
    this.#text('cancel-no', shown === 'uploading' ? 'Keep sending' : 'Keep it');
    if (shown !== 'failed' && shown !== 'paused') this.#text('figure', { ready: '', uploading: '0 %', checking: 'Checking', done: 'Sent' }[shown]);
    this.hint();
    for (const id of ['bytes', 'speed', 'time-left']) this.#text(id, '');
    this.#get('trouble').hidden = true;
    this.remark('');
    if (OVER.has(shown)) this.#askNoMore();
    if (shown !== 'ready') this.#keepFocus(focused);
  }

  // What had the focus may be hidden now: then the heading gets it, and not the top of the page.
  /** @param {Element | null} focused */
  #keepFocus(focused) {
    if (focused && !focused.getClientRects().length) this.#get('heading').focus({ preventScroll: true });
  }

  // One primary button at a time: while paused or failed it is Continue or Try again.
  #choosePrimary() {
    const isMoving = this.shown !== 'failed' && this.shown !== 'paused';
    for (const id of ['copy', 'send-mail', 'confirm-code']) document.getElementById(id)?.classList.toggle('button-primary', isMoving && id === this.#next);
  }

  // "Sent" would be untrue while addresses are entered that nothing was mailed to.
  #showDone() {
    const word = this.isUnsent ? 'Ready' : 'Sent';
    this.#text('figure', word);
    this.#entitle(word);
    this.hint();
    const { adds, sender_confirmed: isMailed } = /** @type {TransferUpload} */ (this.#upload).transfer;
    this.#text('manage-hint', adds ? '' : `Under “Manage” you can follow downloads, and change or delete the transfer. ${isMailed ? 'The e-mail you get leads there too.' : 'Nobody else knows its address: keep it if you need it in another browser.'}`);
  }

  /** @param {TransferUpload} upload */
  #showProgress(upload) {
    const progress = this.#progress;
    progress.update(upload.sentSize, upload.totalSize);
    const { percent, speed } = progress;
    drawLine(this.#get('line'), percent);
    this.#text('figure', `${percent} %`);
    this.#text('heading', `Sending ${plural(upload.files.size, 'file')}`);
    this.#text('bytes', `${size(progress.reached)} of ${size(upload.totalSize)}`);
    this.#text('speed', speed >= 1 ? `${size(speed)}/s` : '');
    this.#text('time-left', speed >= 1 ? timeLeft(progress.secondsLeft) : '');
    this.#entitle(`${percent} %`);
    const tenth = Math.floor(percent / 10) * 10;
    if (tenth > this.#said) {
      this.#said = tenth;
      this.#say(`${tenth} % sent`);
    }
  }

  /** @param {TransferUpload} upload */
  #showCheck(upload) {
    const count = upload.files.size;
    drawLine(this.#get('line'), 100);
    this.#text('heading', 'Making sure everything arrived intact');
    this.#text('bytes', count > 1 ? `${upload.checkedCount} of ${plural(count, 'file')}` : size(upload.totalSize));
    this.#entitle('Checking');
  }

  /** @param {Failure | null} why */
  #showWaiting(why) {
    if (this.shown === 'failed') return;
    const safeSize = this.#upload?.safeSize ?? 0;
    if (!why || safeSize > this.#safeSize) this.#waitingSince = 0;
    if (why) this.#waitingSince ||= performance.now();
    this.#safeSize = safeSize;
    // Most causes pass quickly, or concern one part while others arrive. Offline nothing arrives: show it immediately.
    if (why && (why.why === 'offline' || performance.now() - this.#waitingSince >= PATIENCE)) {
      const { title, text } = explain(why, { safe: this.#safe(), waiting: true });
      this.#trouble(title, text, why, true);
      this.#entitle('Waiting');
    } else if (!this.#get('trouble').hidden) {
      const focused = document.activeElement;
      this.#get('trouble').hidden = true;
      this.#keepFocus(focused);
    }
  }

  /** @param {string} title @param {string} text @param {Failure} failure @param {boolean} [waiting] */
  #trouble(title, text, failure, waiting = false) {
    const box = this.#get('trouble');
    this.#text('facts', details(failure));
    this.#text('trouble-text', text);
    if (!box.hidden && this.#get('trouble-title').textContent === title) return;
    this.#text('trouble-title', title);
    this.#get('retry').hidden = waiting;
    this.#get('try-now').hidden = !waiting;
    if (waiting) this.#say(`${title} ${text}`);
    box.hidden = false;
  }

  #keepOn() {
    this.#askNoMore();
    this.#get('cancel').focus();
  }

  #askNoMore() {
    const ask = this.#get('cancel-ask');
    if (ask.contains(document.activeElement)) this.#get('heading').focus({ preventScroll: true });
    ask.hidden = true;
    this.#get('cancel').setAttribute('aria-expanded', 'false');
  }

  // --- The form that mails the link --------------------------------------------------------------

  // Only on a site that sends mail.
  #expectMail() {
    // Early: after a new release the script can no longer be loaded.
    loadMailForm().catch(() => { /* It is tried again for each transfer, and by Send. */ });
    const form = this.#form('mail');
    // Until it is loaded, the browser itself would submit the form, and leave the upload.
    form.addEventListener('submit', (event) => { event.preventDefault(); void this.#offerMailAgain(); });
    form.addEventListener('input', () => {
      const isTyped = form.querySelector('textarea')?.value.includes('@') ?? false;
      if (!this.#mailForm) this.#turnMail(isTyped ? 'send-mail' : 'copy', isTyped);
    });
  }

  async #offerMail() {
    const { mailForm } = document.getElementById('mail') ? await loadMailForm() : {};
    if (!mailForm || !this.#upload || !this.#backend) return;
    this.#mailForm = mailForm(this.#form('mail'), (next, isUnsent) => this.#turnMail(next, isUnsent));
    this.#mailForm.serve(this.#upload, this.#backend);
    if (this.shown === 'done') this.#mailForm.finish();
  }

  /** @param {Next} next @param {boolean} isUnsent */
  #turnMail(next, isUnsent) {
    this.#next = next;
    this.isUnsent = isUnsent;
    this.#choosePrimary();
    if (this.shown === 'done') this.#showDone();
    else this.hint();
  }

  // Send was pressed before the form's script could be loaded.
  async #offerMailAgain() {
    if (!this.#upload || this.#mailForm) return undefined;
    const form = this.#form('mail');
    const fields = [.../** @type {NodeListOf<HTMLInputElement | HTMLTextAreaElement>} */ (form.querySelectorAll('input, textarea'))];
    const typed = fields.map(({ value }) => value);
    try {
      await this.#offerMail();
    } catch {
      return say(/** @type {HTMLInputElement} */ (this.#get('o-sender')), 'wrong', 'Not sent. Check your connection and try again. If that does not help, choose “Manage” once everything has arrived, and send it from there.');
    }
    fields.forEach((field, index) => { field.value = typed[index] || field.value; });
    form.dispatchEvent(new Event('input'));
    return form.requestSubmit();
  }

  // --- Helpers -----------------------------------------------------------------------------------

  #safe() {
    return this.#upload?.safeSize ? `${this.#percent} %` : undefined;
  }

  /** How much is safe, in whole per cent. */
  get #percent() {
    const { safeSize, totalSize } = this.#upload ?? NOTHING;
    return totalSize ? Math.floor(100 * safeSize / totalSize) : 0;
  }

  #link() {
    return /** @type {HTMLAnchorElement} */ (this.#get('link'));
  }

  /** @param {string} words */
  #say(words) {
    const live = document.getElementById('live');
    if (live) live.textContent = words;
  }

  /** @param {string} id @param {string} words */
  #text(id, words) {
    const one = this.#get(id);
    if (one.textContent !== words) one.textContent = words;
  }

  /** @param {string} id @param {() => unknown} act */
  #on(id, act) {
    this.#get(id).addEventListener('click', () => { void act(); });
  }

  /** @param {string} id */
  #form(id) {
    return /** @type {HTMLFormElement} */ (this.#get(id));
  }

  /** @param {string} id */
  #get(id) {
    return /** @type {HTMLElement} */ (document.getElementById(id));
  }
}

const loadMailForm = () => import('./mail-form.js');

/** @param {number} count of files */
const wereAdded = (count) => (count === 1 ? 'The file was added' : `${plural(count, 'file')} were added`);

/** A clock of the server's time, by which transfers expire; the sender's own clock may be wrong by years. @param {string} [told] when the page was made @returns {() => number} */
function serverClock(told = '') {
  const ahead = (Date.parse(told) || Date.now()) - Date.now();
  return () => Date.now() + ahead;
}
