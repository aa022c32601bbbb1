// The sender's page: shows the state of one upload and passes on what is pressed. The engine (../upload/) has no DOM.
import { browserWorld } from '../upload/browser-world.js';
import { Failure, asFailure, details, explain } from '../upload/failure.js';
import { memory, nameOf } from '../upload/memory.js';
import { tooMuch, withUniquePaths } from '../upload/pick-files.js';
import { Progress, plural, size, timeLeft } from '../upload/progress.js';
import { StayAwake, claim } from '../upload/tabs.js';
import { TransferUpload } from '../upload/transfer-upload.js';
import { FileList } from './file-list.js';
import { drawLine } from './line.js';
import { keep, manageUrl } from './mine.js';
import { OptionsForm, say } from './options-form.js';

/** @typedef {import('../upload/pick-files.js').Picked} Picked */
/** @typedef {'ready' | 'uploading' | 'paused' | 'checking' | 'done' | 'failed'} Shown */

const TICK = 250; // milliseconds
const NAME = 'Beeline';
// What is said of a new transfer with its first files, and of no other.
const OF_A_NEW_ONE = ['options', 'mail'];
// Everything has left: there is nothing to cancel any more.
const OVER = new Set(['checking', 'done']);
// Files that were refused like this would be refused again, and there is no list yet to remove one from.
const REFUSED = new Set(['invalid', 'too-large']);

export class SenderView {
  #root;
  #limits;
  #files;
  #options;
  /** The transfer that more files are for, with what it has. @type {{id: string, word: string, count: number, size: number} | null} */ #addsTo;
  #world = browserWorld((file) => {
    if (file) this.#files.touch(file);
    if (file?.isGone && this.#upload) void memory.follow(this.#now(this.#upload), this.#upload.token);
  });
  #awake = new StayAwake();
  /** What lets other tabs have it again. @type {Promise<(() => void) | null> | undefined} */ #claimed;
  #hasHandles = false;
  /** @type {TransferUpload | null} */ #upload = null;
  /** @type {Picked[]} */ #picked = [];
  #progress = new Progress(() => performance.now());
  /** @type {Shown} */ #shown = 'ready';
  /** @type {Failure | null} */ #waiting = null;
  #said = 0;
  #titled = document.title;
  #tick = 0;
  /** What is going on now: of what was cancelled nothing is shown any more. */ #doing = new AbortController();
  /** Whether it goes to somebody by mail; then that is the thing to do, and not to copy the link. */ #mails = false;
  #takesMail = false;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    this.#limits = JSON.parse(root.dataset.limits ?? '{}');
    this.#files = new FileList(root, {
      remove: (file) => this.#remove(file),
      setAside: (file, aside) => (aside ? this.#upload?.setAside(file) : this.#upload?.bringBack(file)),
    });
    this.#addsTo = root.dataset.addsTo ? JSON.parse(root.dataset.addsTo) : null;
    // What is added to has its options on its own page.
    this.#options = document.getElementById('options') ? new OptionsForm(this.#form('options')) : null;
    // Without mail-form.js the browser would send the form to this address, and leave what is being sent.
    document.getElementById('mail')?.addEventListener('submit', (event) => { event.preventDefault(); void this.#offerMailAgain(); });
    document.getElementById('tell-recipients')?.addEventListener('change', () => this.#choosesToTell());
    this.#on('cancel', () => this.#askCancel(true));
    this.#on('cancel-no', () => this.#askCancel(false));
    this.#on('cancel-yes', () => (this.#upload && OVER.has(this.#upload.state) ? undefined : this.#cancel()));
    this.#on('retry', () => this.#start());
    this.#on('pause', () => (this.#shown === 'paused' ? this.#start() : this.#upload?.pause()));
    this.#on('try-now', () => this.#world.wake());
    this.#on('share', () => navigator.share?.({ url: this.#link().href, title: this.#options?.title || 'Files for you' }).catch(() => {}));
    this.#get('cancel-ask').addEventListener('keydown', ({ key }) => { if (key === 'Escape') this.#askCancel(false); });
    // Only what is in flight this moment would be lost, so only then is it asked.
    addEventListener('beforeunload', (event) => { if (this.#shown === 'uploading' && !this.#waiting) event.preventDefault(); });
    this.#world.getReady();
  }

  /** Files have come, by whatever way. @param {Picked[]} picked */
  async accept(picked) {
    if (this.#root.dataset.stopped === 'gone') this.#clear();
    const upload = this.#upload;
    this.#get('remark').hidden = true;
    if (OVER.has(this.#shown) || this.#root.dataset.stopped === 'expired') return this.#trouble('These files were not added.', 'This transfer is complete. Choose “Send something else” to start another.');
    if (this.#shown === 'failed' && !upload) return this.#trouble('These files were not added.', 'Try again or cancel this first.');
    const already = upload ? [...upload.files.values()] : this.#picked.map(({ path, file }) => ({ plan: { path, size: file.size } }));
    const there = this.#addsTo ?? { count: 0, size: 0 };
    const excess = tooMuch(picked, this.#limits, size, { count: there.count + already.length, size: already.reduce((sum, { plan }) => sum + plan.size, there.size) });
    if (excess) return this.notice(excess);
    const unique = withUniquePaths(picked, already.map(({ plan }) => plan.path));
    if (upload) return this.#add(upload, unique);
    if (this.#shown !== 'ready') return this.notice('One moment: the first files are just being taken in.');
    this.#picked = unique;
    return this.#start();
  }

  /** Goes on with what another life of the page began. @param {import('./offers.js').Resumed} resumed */
  resume({ transfer, token, blobs, held, hasHandles, release }) {
    if (this.#shown !== 'ready') throw new Error('Something else is on its way.');
    this.#claimed = Promise.resolve(release);
    this.#hasHandles = hasHandles;
    const upload = TransferUpload.resume(transfer, token, blobs, this.#world);
    // It is asked again at once; until then the line does not fall back to its start.
    for (const [id, numbers] of held) upload.files.get(id)?.keep(numbers);
    this.#take(upload);
    void this.#start();
  }

  /** One line about what was just tried. @param {string} words */
  notice(words) {
    if (this.#shown !== 'ready') return this.#trouble(words, '');
    const notice = this.#get('notice');
    notice.textContent = words;
    notice.hidden = false;
  }

  // --- What happens ------------------------------------------------------------------------------

  async #start() {
    this.#get('notice').hidden = true;
    this.#waiting = null;
    this.#said = this.#upload ? this.#percent(this.#upload) : 0;
    this.#progress = new Progress(() => performance.now());
    // The button that was pressed stays; where it goes, the focus goes to the heading.
    const pressed = document.activeElement;
    this.#show('uploading');
    this.#awake.set(true);
    if (pressed !== this.#get('pause')) this.#get('heading').focus({ preventScroll: true });
    this.#refresh();
    this.#tick ||= window.setInterval(() => this.#refresh(), TICK);
    const { signal } = this.#doing = new AbortController();
    /** @type {Failure | null} */ let failure = null;
    try {
      await (this.#upload ?? await this.#create(signal)).run();
    } catch (error) {
      failure = asFailure(error);
    }
    // Cancelled; by now the page may be about another.
    if (signal.aborted) return;
    this.#ease();
    if (failure) this.#fail(failure);
    else if (this.#upload?.state === 'done') this.#finish();
    else if (this.#upload?.state === 'paused') this.#rest();
  }

  // Nothing goes on any more.
  #ease() {
    clearInterval(this.#tick);
    this.#tick = 0;
    this.#awake.set(false);
  }

  /** @param {AbortSignal} signal */
  async #create(signal) {
    const total = this.#picked.reduce((sum, { file }) => sum + file.size, 0);
    this.#text('heading', `Preparing ${plural(this.#picked.length, 'file')}`);
    this.#text('bytes', size(total));
    const picked = this.#picked;
    const upload = await this.#begin(picked, signal, (why) => { this.#waiting = why; });
    signal.throwIfAborted();
    this.#waiting = null;
    this.#picked = [];
    this.#hasHandles = picked.every(({ handle }) => handle);
    this.#claimed ??= claim(upload.transfer.id);
    this.#choosesToTell(upload);
    void memory.remember(upload.transfer, upload.token, upload.picked).then(() => this.#hint());
    this.#take(upload);
    return upload;
  }

  /** @param {Picked[]} picked @param {AbortSignal} signal @param {(why: Failure) => void} onWait */
  async #begin(picked, signal, onWait) {
    if (!this.#addsTo) return TransferUpload.create(picked, this.#world, signal, onWait);
    const { id, word } = this.#addsTo;
    this.#claimed ??= claim(id);
    if (!await this.#claimed) {
      this.#claimed = undefined;
      throw new Failure('elsewhere');
    }
    return TransferUpload.addTo({ id, token: word }, picked, this.#world, signal, onWait);
  }

  #choosesToTell(upload = this.#upload) {
    const box = document.getElementById('tell-recipients');
    if (upload) upload.tellsRecipients = box instanceof HTMLInputElement && box.checked;
  }

  /** From now on the page is about this one. @param {TransferUpload} upload */
  #take(upload) {
    this.#upload = upload;
    const link = this.#link();
    link.href = upload.transfer.link;
    link.title = upload.transfer.link;
    link.textContent = upload.transfer.link.replace(/^https?:\/\//, '');
    this.#get('share').hidden = !navigator.share;
    if (!upload.transfer.adds) {
      this.#options?.serve(upload);
      this.#offerMail(upload).catch(() => { /* Send tries again. */ });
    }
    this.#files.show([...upload.files.values()]);
  }

  // Only where mail is sent from here at all.
  /** @param {TransferUpload} upload */
  async #offerMail(upload) {
    if (!document.getElementById('mail')) return;
    const { mailForm } = await import('./mail-form.js');
    mailForm(this.#form('mail'), (mails) => { this.#mails = mails; this.#choosePrimary(); }).serve(upload, this.#world.backend);
    this.#takesMail = true;
  }

  // Send was pressed, and what sends is not there yet.
  async #offerMailAgain() {
    const upload = this.#upload;
    if (!upload || this.#takesMail) return undefined;
    const form = this.#form('mail');
    const fields = [.../** @type {NodeListOf<HTMLInputElement | HTMLTextAreaElement>} */ (form.querySelectorAll('input, textarea'))];
    const typed = fields.map(({ value }) => value);
    try {
      await this.#offerMail(upload);
    } catch {
      return say(/** @type {HTMLInputElement} */ (this.#get('o-sender')), 'wrong', 'Not sent. Check your connection and try again.');
    }
    fields.forEach((field, index) => { field.value = typed[index] || field.value; });
    return form.requestSubmit();
  }

  /** @param {TransferUpload} upload @param {Picked[]} picked */
  async #add(upload, picked) {
    try {
      const added = await upload.add(picked);
      this.#files.show(added);
      this.#hasHandles &&= picked.every(({ handle }) => handle);
      void memory.add(this.#now(upload), upload.token, added, picked);
      if (this.#shown === 'paused') this.#rest();
      if (this.#shown === 'failed' && upload.failure) this.#fail(upload.failure);
    } catch (error) {
      const { title, text } = explain(asFailure(error).among(picked));
      this.#trouble('These files were not added.', `${title} ${text}`);
    }
  }

  /** @param {import('../upload/file-upload.js').FileUpload} file @returns {Promise<boolean>} whether it is gone */
  async #remove(file) {
    const upload = this.#upload;
    if (!upload) return false;
    try {
      if (upload.isLast(file)) await this.#cancel();
      else {
        await upload.remove(file);
        if (this.#shown === 'paused') this.#rest();
      }
      return true;
    } catch (error) {
      if (upload !== this.#upload) return true;
      const { title, text } = explain(asFailure(error));
      this.#trouble(`“${file.plan.path}” was not removed.`, `${title} ${text}`);
      return false;
    }
  }

  async #cancel() {
    this.#doing.abort();
    this.#ease();
    const upload = this.#upload;
    this.#clear();
    this.notice(upload?.transfer.adds ? 'Cancelled. What was there before stays.' : 'Cancelled. Nothing was kept.');
    this.#get('choose-files').focus();
    try {
      await upload?.cancel();
    } catch (error) {
      if (asFailure(error).why !== 'gone') this.notice('Cancelled. What was sent is removed within a day.');
    }
  }

  // As it was when the page came.
  #clear() {
    const upload = this.#upload;
    this.#upload = null;
    this.#picked = [];
    this.#askNoMore();
    this.#files.clear();
    this.#show('ready');
    void this.#letGo(upload);
    document.title = this.#titled;
  }

  // Nobody has to go on with it: not here, not in another tab, not tomorrow.
  /** @param {TransferUpload | null} upload */
  async #letGo(upload) {
    const claimed = this.#claimed;
    this.#claimed = undefined;
    if (upload) await memory.forget(upload.transfer.id);
    (await claimed)?.();
  }

  #rest() {
    const upload = /** @type {TransferUpload} */ (this.#upload);
    const percent = this.#percent(upload);
    this.#files.refresh();
    this.#show('paused');
    drawLine(this.#get('line'), percent);
    this.#text('figure', `${percent} %`);
    this.#text('heading', percent ? `Paused. ${percent} % is safe.` : 'Paused. What was sent is safe.');
    this.#text('bytes', `${size(upload.safeSize)} of ${size(upload.totalSize)}`);
    document.title = `Paused · ${NAME}`;
    this.#say(this.#get('heading').textContent ?? '');
  }

  #finish() {
    void this.#letGo(this.#upload);
    this.#rememberSent();
    this.#files.refresh();
    // From here, whatever host the link names: pictures come from nowhere else.
    this.#get('qr').setAttribute('src', `${new URL(this.#link().href).pathname}.svg`);
    this.#show('done');
    drawLine(this.#get('line'), 100);
    const count = this.#upload?.files.size ?? 0;
    const added = count === 1 ? 'The file was added' : `${plural(count, 'file')} were added`;
    this.#text('heading', this.#upload?.transfer.adds ? added : count === 1 ? 'Your file is ready to download' : `Your ${plural(count, 'file')} are ready to download`);
    this.#text('bytes', size(this.#upload?.totalSize ?? 0));
    document.title = `Sent · ${NAME}`;
    this.#say('Sent. The files are ready to download.');
  }

  // What has expired is brought back on its page.
  #showManage() {
    this.#rememberSent();
    this.#get('manage').parentElement?.removeAttribute('hidden');
    this.#get('manage').classList.add('button-primary');
  }

  // Its manage page is found again from the first page of this browser, as long as nobody lets it forget.
  #rememberSent() {
    if (!this.#upload) return;
    const { transfer, token } = this.#upload;
    this.#get('manage').setAttribute('href', manageUrl(transfer, token));
    if (!transfer.adds) keep({ id: transfer.id, token, title: nameOf(this.#now(this.#upload)), link: transfer.link, at: transfer.created_at });
  }

  /** @param {Failure} failure */
  #fail(failure) {
    if (!this.#upload && REFUSED.has(failure.why)) return this.#chooseAnew(failure.among(this.#picked));
    this.#refresh();
    this.#show('failed');
    if (failure.why === 'gone') void this.#letGo(this.#upload);
    this.#files.fail(failure.facts.path);
    const { title, text } = explain(failure, { safe: this.#safe() });
    const isExpired = failure.why === 'expired';
    this.#text('heading', isExpired ? 'Everything has arrived' : 'The upload has stopped');
    // What has left is not all that counts any more, and nothing is being checked.
    const percent = this.#upload ? this.#percent(this.#upload) : 0;
    drawLine(this.#get('line'), percent);
    this.#text('figure', isExpired ? 'Expired' : percent < 100 ? `${percent} %` : 'Stopped');
    this.#trouble(title, text, failure);
    const isGone = failure.why === 'gone';
    this.#root.dataset.stopped = failure.why;
    this.#get('retry').hidden = isGone || isExpired || failure.why === 'blocked';
    this.#get('start-again').hidden = !isGone;
    if (isGone || isExpired) this.#askNoMore();
    if (isGone || isExpired) this.#get('cancel').hidden = true;
    if (isExpired) this.#showManage();
    // What had the focus may be hidden now.
    if (!document.activeElement?.getClientRects().length) this.#get('heading').focus({ preventScroll: true });
    document.title = `Stopped · ${NAME}`;
    this.#say(`${title} ${text}`);
  }

  /** @param {Failure} failure */
  #chooseAnew(failure) {
    const { title, text } = explain(failure);
    this.#clear();
    this.notice(`${title} ${text}`.trim());
    this.#get('choose-files').focus();
  }

  // --- What is shown -----------------------------------------------------------------------------

  /** @param {Shown} shown */
  #show(shown) {
    this.#shown = shown;
    this.#root.dataset.state = shown;
    this.#root.toggleAttribute('data-stopped', shown === 'failed');
    for (const one of this.#root.querySelectorAll('[data-when]')) {
      const when = one.getAttribute('data-when')?.split(' ') ?? [];
      one.toggleAttribute('hidden', !when.includes(shown));
    }
    const linked = Boolean(this.#upload);
    const adds = this.#upload?.transfer.adds;
    for (const id of ['share-block', 'options', 'mail', 'pause', 'contents']) if (!linked || (adds && OF_A_NEW_ONE.includes(id))) document.getElementById(id)?.setAttribute('hidden', '');
    this.#choosePrimary();
    this.#get('pause').classList.toggle('button-primary', shown === 'paused');
    this.#text('pause', shown === 'paused' ? 'Continue' : 'Pause');
    this.#text('cancel-no', shown === 'uploading' ? 'Keep sending' : 'Keep it');
    if (shown !== 'failed' && shown !== 'paused') this.#text('figure', { ready: '', uploading: '0 %', checking: 'Checking', done: 'Sent' }[shown]);
    this.#hint();
    for (const id of ['bytes', 'speed', 'time-left']) this.#text(id, '');
    for (const id of ['trouble', 'remark']) this.#get(id).hidden = true;
    if (OVER.has(shown)) this.#askNoMore();
  }

  // One primary action at a time: while it rests or has stopped, that is to go on.
  #choosePrimary() {
    const isMoving = this.#shown !== 'failed' && this.#shown !== 'paused';
    const next = document.getElementById('code-field')?.hidden === false ? 'confirm-code' : this.#mails ? 'send-mail' : 'copy';
    for (const id of ['copy', 'send-mail', 'confirm-code']) document.getElementById(id)?.classList.toggle('button-primary', isMoving && id === next);
  }

  // What the link does already, and whether this tab is still needed.
  #hint() {
    const adds = this.#upload?.transfer.adds;
    const stay = !memory.works ? 'Keep this tab open until everything is sent.'
      : this.#hasHandles ? 'You can close this tab: it can be continued here later.'
      : 'You can close this tab: it can be continued here later, by choosing the same files again.';
    this.#text('link-hint', {
      ready: '', failed: '',
      uploading: adds ? `Whoever has it downloads what is there; these appear once all have arrived. ${stay}` : `It works already: whoever opens it sees the upload coming. ${stay}`,
      paused: adds ? `Whoever has it downloads what is there; these wait for the rest. ${stay}` : `It works already, and waits for the rest. ${stay}`,
      checking: memory.works ? 'Everything has left this computer. You can close this tab: if something has to be sent again, it can be continued here.'
        : 'Everything has left this computer. Keep this tab open a moment longer, in case something has to be sent again.',
      done: 'Whoever has this link, and the password if you set one, can download. You can close this tab.',
    }[this.#shown]);
  }

  // Four times a second while something is going on.
  #refresh() {
    const upload = this.#upload;
    if (!upload) return this.#showWaiting();
    if (upload.state === 'uploading' || upload.state === 'checking') {
      if (this.#shown !== upload.state) {
        this.#progress = new Progress(() => performance.now());
        this.#show(upload.state);
      }
      if (!this.#linkShown()) this.#show(this.#shown);
    }
    this.#waiting = upload.waiting;
    if (this.#shown === 'uploading') this.#showProgress(upload);
    if (this.#shown === 'checking') this.#showCheck(upload);
    this.#files.refresh();
    this.#showWaiting();
  }

  #linkShown() {
    return !this.#get('share-block').hidden;
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
    document.title = `${percent} % · ${NAME}`;
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
    this.#text('heading', 'Making sure that everything arrived whole');
    this.#text('bytes', count > 1 ? `${upload.checkedCount} of ${plural(count, 'file')}` : size(upload.totalSize));
    document.title = `Checking · ${NAME}`;
  }

  #showWaiting() {
    if (this.#shown === 'failed') return;
    const why = this.#waiting;
    if (why) {
      const { title, text } = explain(why, { safe: this.#safe(), waiting: true });
      this.#trouble(title, text, why, true);
      document.title = `Waiting · ${NAME}`;
    } else this.#get('trouble').hidden = true;
  }

  // What was only tried is said in a line of its own: what has stopped keeps its cause and its way on.
  /** @param {string} title @param {string} text @param {Failure} [failure] @param {boolean} [waiting] */
  #trouble(title, text, failure, waiting = false) {
    const box = this.#get(failure ? 'trouble' : 'remark');
    if (!failure) box.textContent = `${title} ${text}`.trim();
    else {
      this.#text('facts', details(failure));
      this.#text('trouble-text', text);
      if (!box.hidden && this.#get('trouble-title').textContent === title) return;
      this.#text('trouble-title', title);
      this.#get('retry').hidden = waiting;
      this.#get('try-now').hidden = !waiting;
      if (waiting) this.#say(`${title} ${text}`);
    }
    box.hidden = false;
  }

  /** @param {boolean} asking */
  #askCancel(asking) {
    this.#get('cancel-ask').hidden = !asking;
    this.#get('cancel').setAttribute('aria-expanded', String(asking));
    this.#get(asking ? 'cancel-no' : 'cancel').focus();
  }

  #askNoMore() {
    const ask = this.#get('cancel-ask');
    if (ask.contains(document.activeElement)) this.#get('heading').focus({ preventScroll: true });
    ask.hidden = true;
    this.#get('cancel').setAttribute('aria-expanded', 'false');
  }

  // --- Small things ------------------------------------------------------------------------------

  /** The transfer with the files that it has by now. @param {TransferUpload} upload */
  #now({ transfer, files }) {
    return { ...transfer, files: [...files.values()].map(({ plan }) => plan) };
  }

  #safe() {
    const upload = this.#upload;
    return upload?.safeSize ? `${this.#percent(upload)} %` : undefined;
  }

  /** Whole per cent that are safe. @param {TransferUpload} upload */
  #percent({ safeSize, totalSize }) {
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
