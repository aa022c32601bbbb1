// What the sender sees. The DOM of the first page is touched here, in file-list.js and in options-form.js,
// and nowhere in the engine.
import { Backend } from './backend.js';
import { asFailure, details, explain } from './failure.js';
import { FileList } from './file-list.js';
import { OptionsForm } from './options-form.js';
import { tooMuch, withUniquePaths } from './pick-files.js';
import { Progress, plural, size, timeLeft } from './progress.js';
import { putPart } from './put-part.js';
import { pause } from './retry.js';
import { TransferUpload } from './transfer-upload.js';

/** @typedef {import('./pick-files.js').Picked} Picked */
/** @typedef {import('./failure.js').Failure} Failure */
/** @typedef {'ready' | 'uploading' | 'checking' | 'done' | 'failed'} Shown */

const TICK = 250; // milliseconds
const NAME = 'Beeline';

export class SenderView {
  #root;
  #limits;
  #files;
  #options;
  #wake = new EventTarget();
  /** @type {TransferUpload | null} */ #upload = null;
  /** @type {Picked[]} */ #picked = [];
  #progress = new Progress(() => performance.now());
  /** @type {Shown} */ #shown = 'ready';
  /** @type {Failure | null} */ #waiting = null;
  #said = 0;
  #titled = document.title;
  #tick = 0;
  #creating = new AbortController();

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    this.#limits = JSON.parse(root.dataset.limits ?? '{}');
    this.#files = new FileList(root, {
      remove: (file) => this.#remove(file),
      setAside: (file, aside) => (aside ? this.#upload?.setAside(file) : this.#upload?.bringBack(file)),
    });
    this.#options = new OptionsForm(this.#form('options'));
    this.#on('cancel', () => this.#askCancel(true));
    this.#on('cancel-no', () => this.#askCancel(false));
    this.#on('cancel-yes', () => this.#cancel());
    this.#on('retry', () => this.#start());
    this.#on('try-now', () => this.#wake.dispatchEvent(new Event('wake')));
    this.#on('share', () => navigator.share?.({ url: this.#link().href, title: this.#options.title || 'Files for you' }).catch(() => {}));
    addEventListener('online', () => this.#wake.dispatchEvent(new Event('wake')));
    addEventListener('beforeunload', (event) => { if (this.#shown === 'uploading') event.preventDefault(); });
  }

  /** Files have come, by whatever way. @param {Picked[]} picked */
  async accept(picked) {
    if (this.#shown === 'checking' || this.#shown === 'done' || this.#shown === 'failed') {
      return this.#trouble('These files were not added.', this.#shown === 'failed' ? 'Continue or cancel this transfer first.' : 'This transfer is complete. Choose “Send something else” to start another.');
    }
    const upload = this.#upload;
    const already = upload ? [...upload.files.values()] : this.#picked.map(({ path, file }) => ({ plan: { path, size: file.size } }));
    const excess = tooMuch(picked, this.#limits, size, { count: already.length, size: already.reduce((sum, { plan }) => sum + plan.size, 0) });
    if (excess) return this.notice(excess);
    const unique = withUniquePaths(picked, already.map(({ plan }) => plan.path));
    if (upload) return this.#add(upload, unique);
    if (this.#shown !== 'ready') return this.notice('One moment: the first files are just being taken in.');
    this.#picked = unique;
    return this.#start();
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
    this.#said = 0;
    this.#progress = new Progress(() => performance.now());
    this.#show('uploading');
    this.#get('heading').focus({ preventScroll: true });
    this.#tick ||= window.setInterval(() => this.#refresh(), TICK);
    try {
      this.#upload ??= await this.#create();
      await this.#upload.run();
    } catch (error) {
      if (this.#upload?.state !== 'cancelled' && !this.#creating.signal.aborted) this.#fail(asFailure(error));
    } finally {
      clearInterval(this.#tick);
      this.#tick = 0;
    }
    if (this.#upload?.state === 'done') this.#finish();
  }

  async #create() {
    this.#creating = new AbortController();
    const total = this.#picked.reduce((sum, { file }) => sum + file.size, 0);
    this.#text('heading', `Preparing ${plural(this.#picked.length, 'file')}`);
    this.#text('bytes', size(total));
    const upload = await TransferUpload.create(this.#picked, this.#world(), this.#creating.signal, (why) => { this.#waiting = why; });
    this.#waiting = null;
    const link = this.#link();
    link.href = upload.transfer.link;
    link.title = upload.transfer.link;
    link.textContent = upload.transfer.link.replace(/^https?:\/\//, '');
    this.#get('share').hidden = !navigator.share;
    this.#options.serve(upload);
    this.#files.show([...upload.files.values()]);
    this.#picked = [];
    return upload;
  }

  /** @param {TransferUpload} upload @param {Picked[]} picked */
  async #add(upload, picked) {
    try {
      this.#files.show(await upload.add(picked));
    } catch (error) {
      const { title, text } = explain(asFailure(error));
      this.#trouble('These files were not added.', `${title} ${text}`);
    }
  }

  /** @param {import('./file-upload.js').FileUpload} file @returns {Promise<boolean>} whether it is gone */
  async #remove(file) {
    const upload = this.#upload;
    if (!upload) return false;
    try {
      if (upload.files.size === 1) await this.#cancel();
      else await upload.remove(file);
      return true;
    } catch (error) {
      const { title, text } = explain(asFailure(error));
      this.#trouble(`“${file.plan.path}” was not removed.`, `${title} ${text}`);
      return false;
    }
  }

  async #cancel() {
    this.#creating.abort();
    const upload = this.#upload;
    this.#upload = null;
    this.#picked = [];
    this.#askCancel(false);
    this.#files.clear();
    this.#show('ready');
    document.title = this.#titled;
    this.notice('Cancelled. Nothing was kept.');
    this.#get('choose-files').focus();
    try {
      await upload?.cancel();
    } catch (error) {
      if (asFailure(error).why !== 'gone') this.notice('Cancelled. What was sent is removed within a day.');
    }
  }

  #finish() {
    this.#files.refresh();
    this.#show('done');
    this.#draw(100);
    const count = this.#upload?.files.size ?? 0;
    this.#text('heading', count === 1 ? 'Your file is ready to download' : `Your ${plural(count, 'file')} are ready to download`);
    this.#text('bytes', size(this.#upload?.totalSize ?? 0));
    document.title = `Sent · ${NAME}`;
    this.#say('Sent. The files are ready to download.');
  }

  /** @param {Failure} failure */
  #fail(failure) {
    this.#refresh();
    this.#show('failed');
    this.#files.fail(failure.facts.path);
    const { title, text } = explain(failure, { safe: this.#safe() });
    this.#text('heading', 'The upload has stopped');
    this.#trouble(title, text, failure);
    this.#get('retry').hidden = failure.why === 'gone';
    document.title = `Stopped · ${NAME}`;
    this.#say(`${title} ${text}`);
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
    for (const id of ['share-block', 'options']) if (!linked) this.#get(id).hidden = true;
    // One primary action at a time: while it has stopped, that is to try again.
    this.#get('copy').classList.toggle('button-primary', shown !== 'failed');
    if (shown !== 'failed') this.#text('figure', { ready: '', uploading: '0 %', checking: 'Checking', done: 'Sent' }[shown]);
    this.#text('link-hint', {
      ready: '', failed: '',
      uploading: 'It works already: whoever opens it sees the upload coming. Keep this tab open until everything is sent.',
      checking: 'Everything has left this computer. Keep this tab open a moment longer, in case something has to be sent again.',
      done: 'Whoever has this link can download. You can close this tab.',
    }[shown]);
    for (const id of ['bytes', 'speed', 'time-left']) this.#text(id, '');
    this.#get('trouble').hidden = true;
  }

  // Four times a second while something is going on.
  #refresh() {
    const upload = this.#upload;
    if (!upload) return this.#showWaiting();
    if (upload.state === 'uploading' || upload.state === 'checking') {
      if (this.#shown !== upload.state) this.#show(upload.state);
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
    this.#draw(percent);
    this.#text('figure', `${percent} %`);
    this.#text('heading', `Sending ${plural(upload.files.size, 'file')}`);
    this.#text('bytes', `${size(upload.sentSize)} of ${size(upload.totalSize)}`);
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
    this.#draw(100);
    this.#text('heading', 'Making sure that everything arrived whole');
    this.#text('bytes', count > 1 ? `${upload.checkedCount} of ${plural(count, 'file')}` : size(upload.totalSize));
    document.title = `Checking · ${NAME}`;
  }

  #showWaiting() {
    if (this.#shown === 'failed') return;
    const why = this.#waiting;
    if (why) {
      const { title, text } = explain(why, { safe: this.#safe(), waiting: true });
      this.#trouble(title, text, undefined, true);
      document.title = `Waiting · ${NAME}`;
    } else if (this.#get('trouble').dataset.waiting) {
      this.#get('trouble').hidden = true;
      delete this.#get('trouble').dataset.waiting;
    }
  }

  /** @param {string} title @param {string} text @param {Failure} [failure] @param {boolean} [waiting] */
  #trouble(title, text, failure, waiting = false) {
    const box = this.#get('trouble');
    if (!box.hidden && this.#get('trouble-title').textContent === title) return this.#text('trouble-text', text);
    box.hidden = false;
    if (waiting) box.dataset.waiting = 'yes';
    else delete box.dataset.waiting;
    this.#text('trouble-title', title);
    this.#text('trouble-text', text);
    this.#get('retry').hidden = !failure;
    this.#get('try-now').hidden = !waiting;
    this.#get('trouble-actions').hidden = !failure && !waiting;
    this.#get('trouble-facts').hidden = !failure;
    this.#text('facts', failure ? details(failure) : '');
    if (!failure) this.#say(`${title} ${text}`);
  }

  /** @param {boolean} asking */
  #askCancel(asking) {
    this.#get('cancel-ask').hidden = !asking;
    this.#get('cancel').setAttribute('aria-expanded', String(asking));
    this.#get(asking ? 'cancel-no' : 'cancel').focus();
  }

  /** @param {number} percent */
  #draw(percent) {
    const line = this.#get('line');
    line.setAttribute('aria-valuenow', String(percent));
    line.querySelector('.beeline-drawn')?.setAttribute('stroke-dasharray', `${percent} 200`);
    line.querySelector('.beeline-now')?.setAttribute('cx', `${percent}%`);
  }

  // --- Small things ------------------------------------------------------------------------------

  /** @returns {import('./transfer-upload.js').World} */
  #world() {
    const isOffline = () => !navigator.onLine;
    return {
      backend: new Backend((...call) => fetch(...call), isOffline),
      putPart: (piece, signal, onProgress) => putPart(piece, signal, onProgress, { isOffline }),
      pause: (milliseconds, signal) => this.#pauseOrWake(milliseconds, signal),
      isOffline,
      random: Math.random,
      now: () => performance.now(),
      onChange: (file) => { if (file) this.#files.touch(file); },
    };
  }

  // The network coming back, or the sender's impatience, ends a pause.
  /** @param {number} milliseconds @param {AbortSignal} [signal] @returns {Promise<void>} */
  #pauseOrWake(milliseconds, signal) {
    return new Promise((resolve, reject) => {
      const done = () => { this.#wake.removeEventListener('wake', done); resolve(); };
      this.#wake.addEventListener('wake', done);
      pause(milliseconds, signal).then(done, reject);
    });
  }

  #safe() {
    const upload = this.#upload;
    return upload?.safeSize ? `${Math.floor(100 * upload.safeSize / upload.totalSize)} %` : undefined;
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
