// The flow of one upload on the sender's page: how it starts, continues, pauses and ends. panel.js shows it; the
// engine (../upload/) sends it.
import { browserWorld } from '../upload/browser-world.js';
import { Failure, asFailure, explain } from '../upload/failure.js';
import { memory, nameOf } from '../upload/memory.js';
import { tooMuch, withUniquePaths } from '../upload/pick-files.js';
import { size } from '../upload/progress.js';
import { claim } from '../upload/tabs.js';
import { TransferUpload } from '../upload/transfer-upload.js';
import { keep, manageUrl, renew } from './mine.js';
import { OVER, Panel } from './panel.js';

/** @typedef {import('../upload/pick-files.js').Picked} Picked */
/** @typedef {import('../upload/file-upload.js').FileUpload} FileUpload */
/** @typedef {import('./panel.js').Acts} Acts */

const TICK = 250; // milliseconds
// Before there is a list to remove files from, these causes let the sender choose other files: the same would be
// refused again.
const REFUSED = new Set(['invalid', 'too-large', 'signed-out']);
// After these there is nothing left to continue.
const ENDED = new Set(['gone', 'expired', 'blocked']);

export class SenderView {
  #panel;
  #world;
  /** Releases this tab's claim to the transfer; null if another tab holds it. @type {Promise<(() => void) | null> | undefined} */ #claimed;
  /** Whether this browser can open all of the files again by itself. */ #hasHandles = false;
  /** @type {TransferUpload | null} */ #upload = null;
  /** Files chosen for a transfer that is not created yet. @type {Picked[]} */ #picked = [];
  /** Why there is no progress right now. @type {Failure | null} */ #waiting = null;
  /** Why the upload stopped. @type {Failure | null} */ #failure = null;
  /** @type {ReturnType<typeof setInterval> | undefined} */ #tick;
  /** The transfer (or the files added to one) that is being created. @type {Promise<TransferUpload> | undefined} */ #beginning;
  /** How many additions of files are in progress. */ #adding = 0;
  /** Settles when the last cancelled upload is removed and its claim released. @type {Promise<unknown>} */ #ending = Promise.resolve();
  /** Aborted when the sender cancels: later results of that upload are not shown. */ #doing = new AbortController();

  /** @param {(acts: Acts) => Panel} makePanel @param {typeof browserWorld} [makeWorld] */
  constructor(makePanel, makeWorld = browserWorld) {
    this.#panel = makePanel(this.#acts());
    this.#world = makeWorld((file) => {
      if (file) this.#panel.files.touch(file);
      if (file?.isGone && this.#upload) this.#remember(this.#upload);
    });
    this.#world.getReady();
  }

  /** @param {HTMLElement} root */
  static on(root) {
    return new SenderView((acts) => new Panel(root, acts));
  }

  /** @returns {Acts} */
  #acts() {
    return {
      start: () => this.#start(),
      pause: () => this.#upload?.pause(),
      cancel: () => { if (!this.#upload || !OVER.has(this.#upload.state)) void this.#cancel(); },
      tryNow: () => this.#world.wake(),
      tellRecipients: (tells) => this.#tellRecipients(tells),
      edited: () => this.#edited(),
      remove: (file) => this.#remove(file),
      setAside: (file) => this.#setAside(file),
      bringBack: (file) => this.#upload?.bringBack(file),
      isAtRisk: () => this.#isAtRisk(),
      continuation: () => (!memory.works ? 'not' : this.#hasHandles ? 'by-itself' : 'by-choosing-again'),
    };
  }

  /** Takes files that were chosen, dropped or pasted. @param {Picked[]} picked @param {string[]} [unreadable] paths of files that had to be left out */
  async accept(picked, unreadable = []) {
    const panel = this.#panel;
    if (this.#failure?.why === 'gone') void this.#clear();
    const upload = this.#upload;
    panel.remark('');
    if (OVER.has(panel.shown) || this.#failure?.why === 'expired') return panel.remark('These files were not added. This transfer is complete. Choose “Send something else” to start another.');
    if (panel.shown === 'failed' && !upload) return panel.remark('These files were not added. Try again or cancel this first.');
    const already = upload ? [...upload.files.values()] : this.#picked.map(({ path, file }) => ({ plan: { path, size: file.size } }));
    const there = panel.addsTo ?? { count: 0, size: 0 };
    const excess = tooMuch(picked, panel.limits, size, { count: there.count + already.length, size: already.reduce((sum, { plan }) => sum + plan.size, there.size) });
    if (excess) return panel.notice(excess);
    const unique = withUniquePaths(picked, already.map(({ plan }) => plan.path));
    if (upload) return this.#add(upload, unique, unreadable);
    if (panel.shown !== 'ready') return panel.notice('One moment: the first files are just being taken in.');
    this.#picked = unique;
    panel.leaveOut(unreadable);
    return this.#start();
  }

  /** Continues an upload that was begun before this page was loaded. @param {import('./offers.js').Resumed} resumed */
  resume({ transfer, token, blobs, held, hasHandles, tells, request, release }) {
    if (this.#panel.shown !== 'ready') throw new Error('Something else is on its way.');
    this.#claimed = Promise.resolve(release);
    this.#hasHandles = hasHandles;
    const upload = TransferUpload.resume(transfer, token, blobs, this.#world);
    // Storage is asked again immediately; until it answers, the line shows what is known already.
    for (const [id, numbers] of held) upload.files.get(id)?.keep(numbers);
    this.#panel.tellsRecipients = upload.tellsRecipients = tells;
    upload.request = request;
    this.#take(upload);
    void this.#start();
  }

  /** Shows one line about the last action. @param {string} words */
  notice(words) {
    this.#panel.notice(words);
  }

  // --- Sending -----------------------------------------------------------------------------------

  async #start() {
    this.#waiting = this.#failure = null;
    this.#panel.start();
    this.#refresh();
    this.#tick ||= setInterval(() => this.#refresh(), TICK);
    const { signal } = this.#doing = new AbortController();
    /** @type {Failure | null} */ let failure = null;
    try {
      await (this.#upload ?? await this.#create(signal)).run();
    } catch (error) {
      failure = asFailure(error);
    }
    // Cancelled: by now the page may show another upload.
    if (signal.aborted) return;
    this.#rest();
    if (failure) this.#fail(failure);
    else if (this.#upload?.state === 'done') this.#finish();
    else if (this.#upload?.state === 'paused') this.#panel.pause();
  }

  /** @param {AbortSignal} signal */
  async #create(signal) {
    const picked = this.#picked;
    this.#panel.prepare(picked.length, picked.reduce((sum, { file }) => sum + file.size, 0));
    this.#beginning = this.#begin(picked, signal, (why) => { this.#waiting = why; });
    const upload = await this.#beginning;
    signal.throwIfAborted();
    this.#waiting = null;
    this.#picked = [];
    this.#hasHandles = picked.every(({ handle }) => handle);
    this.#claimed ??= claim(upload.transfer.id);
    upload.tellsRecipients = this.#panel.tellsRecipients;
    upload.request = this.#panel.wish.file_request;
    void memory.remember(now(upload), upload.token, upload.picked).then(() => this.#panel.hint());
    this.#take(upload);
    return upload;
  }

  /** @param {Picked[]} picked @param {AbortSignal} signal @param {(why: Failure) => void} onWait */
  async #begin(picked, signal, onWait) {
    const { addsTo, wish } = this.#panel;
    if (!addsTo) return TransferUpload.create(picked, this.#world, signal, onWait, wish);
    // Until then a cancelled batch still occupies its file names and the claim.
    await this.#ending;
    signal.throwIfAborted();
    this.#claimed ??= claim(addsTo.id);
    if (!await this.#claimed) {
      this.#claimed = undefined;
      throw new Failure('elsewhere');
    }
    return TransferUpload.addTo({ id: addsTo.id, token: addsTo.word }, picked, this.#world, signal, onWait);
  }

  /** From now on the page is about this upload. @param {TransferUpload} upload */
  #take(upload) {
    this.#upload = upload;
    this.#panel.take(upload, this.#world.backend);
  }

  #refresh() {
    this.#waiting = this.#upload ? this.#upload.waiting : this.#waiting;
    this.#panel.refresh(this.#waiting);
  }

  // Stops the regular refresh: nothing is being sent.
  #rest() {
    clearInterval(this.#tick);
    this.#tick = undefined;
  }

  // --- Adding and removing files -----------------------------------------------------------------

  /** @param {TransferUpload} upload @param {Picked[]} picked @param {string[]} unreadable */
  async #add(upload, picked, unreadable) {
    this.#adding += 1;
    try {
      const added = await upload.add(picked, (why) => { if (upload === this.#upload) this.#tellNotYet(why); });
      if (upload !== this.#upload) return;
      this.#panel.leaveOut(unreadable);
      this.#panel.add(added);
      this.#hasHandles &&= picked.every(({ handle }) => handle);
      void memory.add(now(upload), upload.token, added, picked);
      this.#showAgain();
    } catch (error) {
      if (upload !== this.#upload) return;
      const { title, text } = explain(asFailure(error).among(picked));
      this.#panel.remark(`These files were not added. ${title} ${text}`.trim());
    } finally {
      this.#adding -= 1;
    }
  }

  /** Shown while adding files is retried, until this site answers. @param {Failure} why */
  #tellNotYet(why) {
    const { title, text } = explain(why, { waiting: true });
    this.#panel.remark(`These files are not added yet. ${title} ${text}`);
  }

  // While nothing is sent, nothing else updates the totals on the panel.
  #showAgain() {
    if (this.#failure || this.#panel.shown === 'paused') this.#panel.showSums(this.#failure);
  }

  // Removing the last file cancels the upload, so ask first. While others are being added it may not be the last.
  /** @param {FileUpload} file @returns {boolean} whether it is set aside */
  #setAside(file) {
    const isAsked = !this.#adding && this.#upload?.isLast(file);
    if (isAsked) this.#panel.askCancel();
    else this.#upload?.setAside(file);
    return !isAsked;
  }

  /** @param {FileUpload} file @returns {Promise<boolean>} whether it is gone */
  async #remove(file) {
    const upload = this.#upload;
    if (!upload) return false;
    // It has become the last one meanwhile: others were removed elsewhere, or could not be added.
    if (upload.isLast(file)) {
      upload.bringBack(file);
      this.#panel.askCancel();
      return false;
    }
    try {
      await upload.remove(file);
      if (this.#failure?.facts.path === file.plan.path) {
        // What stopped the upload is gone.
        this.#failure = null;
        this.#panel.pause();
      } else this.#showAgain();
      return true;
    } catch (error) {
      if (upload !== this.#upload) return true;
      const { title, text } = explain(asFailure(error));
      this.#panel.remark(`“${file.plan.path}” was not removed. ${title} ${text}`.trim());
      return false;
    }
  }

  // --- Ending ------------------------------------------------------------------------------------

  async #cancel() {
    const doing = this.#doing;
    doing.abort();
    this.#rest();
    const upload = this.#upload;
    const { adds } = this.#panel;
    const ending = upload ? upload.cancel() : this.#failure ? undefined : this.#beginning;
    this.#ending = Promise.allSettled([ending, this.#clear()]);
    this.notice(adds ? 'Cancelled. What was there before stays.' : 'Cancelled. Nothing was kept.');
    this.#panel.focusOnChoice();
    try {
      await ending;
    } catch (error) {
      const isRemoved = error === doing.signal.reason || asFailure(error).why === 'gone';
      if (!isRemoved && doing === this.#doing) this.notice('Cancelled. What was sent is removed within a day.');
    }
  }

  #clear() {
    const upload = this.#upload;
    this.#upload = this.#failure = null;
    this.#picked = [];
    this.#panel.clear();
    return this.#letGo(upload);
  }

  // Nothing is left to continue: removes the upload from the memory and releases the claim.
  /** @param {TransferUpload | null} upload */
  async #letGo(upload) {
    const claimed = this.#claimed;
    this.#claimed = undefined;
    if (upload) await memory.forget(upload.transfer.id);
    (await claimed)?.();
  }

  #finish() {
    void this.#letGo(this.#upload);
    this.#rememberSent();
    this.#panel.finish();
  }

  /** @param {Failure} failure */
  #fail(failure) {
    if (!this.#upload && REFUSED.has(failure.why)) return this.#chooseAnew(failure.among(this.#picked));
    this.#failure = failure;
    if (failure.why === 'gone') void this.#letGo(this.#upload);
    if (failure.why === 'expired') this.#rememberSent();
    this.#panel.fail(failure);
  }

  /** @param {Failure} failure */
  #chooseAnew(failure) {
    const { title, text } = explain(failure);
    void this.#clear();
    this.notice(`${title} ${text}`.trim());
    this.#panel.focusOnChoice();
  }

  // Lists it under "Sent from this device" on the home page, with a link to its manage page.
  #rememberSent() {
    if (!this.#upload) return;
    const { transfer, token } = this.#upload;
    this.#panel.showManage(manageUrl(transfer, token));
    if (!transfer.adds) keep(mineOf(this.#upload));
  }

  // The title names the upload in offers to continue it; it may be edited after everything has arrived.
  #edited() {
    const upload = this.#upload;
    if (!upload) return;
    if (this.#panel.shown === 'done') renew(mineOf(upload));
    else this.#remember(upload);
  }

  /** @param {boolean} tells */
  #tellRecipients(tells) {
    if (!this.#upload) return;
    this.#upload.tellsRecipients = tells;
    this.#remember(this.#upload);
  }

  /** @param {TransferUpload} upload */
  #remember(upload) {
    void memory.follow(now(upload), upload.token);
  }

  #isAtRisk() {
    const { shown, isUnsent } = this.#panel;
    // All files are on the server, but nobody is mailed before the sender has pressed Send.
    if (OVER.has(shown)) return isUnsent;
    // With the memory, everything but the parts in flight can be continued later.
    if (memory.works) return shown === 'uploading' && !this.#waiting;
    const isOver = ENDED.has(this.#failure?.why ?? '');
    return Boolean(this.#upload) && !isOver && (shown === 'uploading' || shown === 'paused' || shown === 'failed');
  }
}

/** The transfer with its present files. @param {TransferUpload} upload @returns {import('../upload/memory.js').Remembered} */
function now({ transfer, files, tellsRecipients, request }) {
  return { ...transfer, files: [...files.values()].map(({ plan }) => plan), tells: tellsRecipients, request };
}

/** What "Sent from this device" keeps of an upload. @param {TransferUpload} upload @returns {import('./mine.js').Mine} */
function mineOf(upload) {
  const { transfer: { id, link, created_at: at }, token } = upload;
  return { id, token, title: nameOf(now(upload)), link, at };
}
