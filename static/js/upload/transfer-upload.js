// One transfer on its way: all its files are sent, then checked. No DOM, no URLs; the world is passed in.
// What is safe is kept whatever fails: only cancel() gives it up, and run() goes on from there, after a
// pause, a failure, or in another life of the page: see resume().
import { newKey } from './backend.js';
import { Failure, asFailure, insist } from './failure.js';
import { FileUpload } from './file-upload.js';
import { PartSender } from './part-sender.js';
import { withUniquePaths } from './pick-files.js';

/** @typedef {import('./backend.js').Backend} Backend */
/** @typedef {import('./backend.js').Transfer} Transfer */
/** @typedef {import('./pick-files.js').Picked} Picked */
/**
 * @typedef {import('./failure.js').Patience & import('./file-upload.js').Means & {
 *   backend: Backend,
 *   diagnose: (failure: Failure) => Promise<Failure>,
 *   now: () => number,
 *   onChange: (file?: FileUpload) => void,
 * }} World
 *   now: milliseconds that never go back; checksum: absent where the browser cannot;
 *   diagnose: the same failure, or a better cause for it
 */
/** @typedef {'waiting' | 'uploading' | 'paused' | 'checking' | 'done' | 'failed' | 'cancelled'} State */

const POLLS = [200, 300, 500, 1000, 1000, 2000]; // milliseconds; the last one goes on
const TRIES = 4; // of what the sender sees at once whether it worked
const PAUSED = Symbol('paused');
// The server may or may not have done what it was asked. (A proxy answers "busy" for a server that is still at work.)
const UNANSWERED = new Set(['offline', 'server-unreachable', 'server-busy']);

export class TransferUpload {
  #world;
  #owned;
  #sender;
  /** @type {Set<string>} */ #sentAgain = new Set();
  #cancel = new AbortController();
  #isResumed = false;
  /** @type {Set<FileUpload>} */ #leaving = new Set();

  /** @type {Map<string, FileUpload>} */ files = new Map();
  /** @type {State} */ state = 'waiting';
  /** Files that the server has found whole. */ checkedCount = 0;
  /** Why the upload is stuck while it is being retried. @type {Failure | null} */ waiting = null;
  /** Why it stopped. @type {Failure | null} */ failure = null;
  /** What it began with, under the names it has here. @type {Picked[]} */ picked = [];
  /** Whether recipients are mailed once files that were added are there. */ tellsRecipients = false;

  /** Creates the transfer. Of what the server creates although `signal` is aborted nothing stays. @param {Picked[]} picked @param {World} world @param {AbortSignal} [signal] @param {(failure: Failure) => void} [onWait] */
  static async create(picked, world, signal, onWait) {
    // One key for all tries: if only the answer was lost, the next one is about the same transfer.
    const key = newKey();
    // The request itself is not cut off: only its answer tells what has to be removed.
    const created = await insist(() => world.backend.create({ files: specs(picked, world) }, key), world, signal, onWait);
    const upload = this.#begun(created, created.owner_token, picked, world);
    if (signal?.aborted) await upload.cancel();
    signal?.throwIfAborted();
    return upload;
  }

  /**
   * Adds to a transfer that is ready: what is there stays as it is until all of these have arrived.
   * Of what the server takes in although `signal` is aborted nothing stays, unless others are adding files as well.
   * @param {{id: string, token: string}} whole @param {Picked[]} picked @param {World} world @param {AbortSignal} [signal] @param {(failure: Failure) => void} [onWait]
   */
  static async addTo({ id, token }, picked, world, signal, onWait) {
    const owned = world.backend.of(id, token);
    const transfer = await insist(() => owned.read(signal), world, signal, onWait);
    const unique = withUniquePaths(picked, transfer.files.map(({ path }) => path));
    const key = newKey();
    try {
      const { files } = await insist(() => owned.addFiles(specs(unique, world), key), world, signal, onWait);
      signal?.throwIfAborted();
      return this.#begun({ ...transfer, adds: true, files }, token, unique, world);
    } catch (error) {
      // The server may have taken them in though its answer was lost.
      if (signal?.aborted && !transfer.batch) await insist(() => owned.dropBatch(), world, undefined, undefined, TRIES);
      throw error;
    }
  }

  /** @param {Transfer} transfer @param {string} token @param {Picked[]} picked in the order of its files @param {World} world */
  static #begun(transfer, token, picked, world) {
    const upload = new TransferUpload(transfer, token, new Map(transfer.files.map(({ id }, index) => [id, picked[index].file])), world);
    upload.picked = picked;
    return upload;
  }

  /**
   * Goes on with a transfer that was begun before, perhaps long ago: what the storage holds is asked first.
   * @param {Transfer} transfer as the server tells it now @param {string} token its owner's
   * @param {Map<string, Blob>} blobs by the id of the file, at least for those that are not COMPLETE @param {World} world
   */
  static resume(transfer, token, blobs, world) {
    const upload = new TransferUpload(transfer, token, blobs, world);
    upload.#isResumed = true;
    return upload;
  }

  /** @param {Transfer} transfer @param {string} token @param {Map<string, Blob>} blobs @param {World} world */
  constructor(transfer, token, blobs, world) {
    this.transfer = transfer;
    this.token = token;
    this.#world = world;
    this.#owned = transfer.adds ? world.backend.batchOf(transfer.id, token, () => this.files.keys()) : world.backend.of(transfer.id, token);
    this.#sender = new PartSender(this.files, this.#owned, world, (why) => this.#meet(why), (signal) => this.#follow(this.#owned.read(signal)));
    this.#admit(transfer.files, blobs);
  }

  get totalSize() { return this.#sum((file) => file.plan.size); }

  get safeSize() { return this.#sum((file) => file.safeSize); }

  get sentSize() { return this.#sum((file) => file.sentSize); }

  /** Sends what is missing, has it checked, and returns when it is ready or paused. May be called again then, or after a failure. @param {AbortSignal} [signal] */
  async run(signal) {
    this.#cancel = new AbortController();
    const stop = () => this.#cancel.abort(signal?.reason);
    signal?.addEventListener('abort', stop);
    if (signal?.aborted) stop();
    this.#sentAgain.clear();
    this.failure = null;
    try {
      this.#enter('uploading');
      let isSent = this.#isResumed && await this.#believe();
      do {
        if (!isSent) await this.#send();
        this.#enter('checking');
        isSent = await this.#check(this.#cancel.signal);
      } while (!isSent);
      this.#enter('done');
    } catch (error) {
      this.#fail(error);
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }

  /** Stops sending; what is safe stays safe. Nothing happens while it is being checked. */
  pause() {
    if (this.state === 'uploading') this.#cancel.abort(PAUSED);
  }

  /** Gives everything up, here and there. */
  async cancel() {
    this.#enter('cancelled');
    this.#cancel.abort(new DOMException('The sender cancelled.', 'AbortError'));
    await this.#briefly(() => this.#owned.remove());
  }

  /** @param {import('./backend.js').Options} changes @param {AbortSignal} [signal] */
  async edit(changes, signal) {
    const { files: _, ...rest } = await this.#briefly(() => this.#owned.edit(changes, signal), signal);
    Object.assign(this.transfer, rest);
  }

  /**
   * Adds files while the transfer is being sent. Nothing completes before the server has said which files it took.
   * @param {Picked[]} picked @param {(failure: Failure) => void} [onWait] called for each try that failed while there is to be another
   */
  add(picked, onWait) {
    const wanted = specs(picked, this.#world);
    const key = newKey();
    return this.#sender.expect(async () => {
      const { files } = await this.#answered(() => this.#owned.addFiles(wanted, key), onWait);
      return this.#admit(files, new Map(files.map(({ id }, index) => [id, picked[index].file])));
    });
  }

  /** Stops sending one file; bringBack() or remove() decides. Nothing completes before that. @param {FileUpload} file */
  setAside(file) {
    file.aside = true;
    this.#sender.drop(file);
    this.#changed(file);
  }

  /** @param {FileUpload} file */
  bringBack(file) {
    file.aside = false;
    this.#sender.add(file);
    this.#changed(file);
  }

  /** Whether nothing stays when it goes; then all is to be cancelled instead. @param {FileUpload} file */
  isLast(file) {
    return [...this.files.values()].every((one) => one === file || this.#leaving.has(one));
  }

  /** @param {FileUpload} file */
  async remove(file) {
    if (!file.aside) this.setAside(file);
    this.#leaving.add(file);
    try {
      await this.#briefly(() => this.#owned.removeFile(file.id));
    } catch (error) {
      // What was removed on the transfer's page meanwhile is not there to be removed.
      if (asFailure(error).why !== 'gone') {
        if (this.state !== 'cancelled') this.bringBack(file);
        throw error;
      }
    } finally {
      this.#leaving.delete(file);
    }
    this.#drop(file);
  }

  // --- Sending -----------------------------------------------------------------------------------

  async #send() {
    this.#enter('uploading');
    await this.#sender.send(this.#cancel.signal);
  }

  // The page that began this is gone: believe the storage. True if all was sent and is being checked.
  async #believe() {
    const { signal } = this.#cancel;
    if (this.transfer.status === 'INIT') {
      const { files } = await this.#insist(() => this.#owned.held(signal), signal);
      for (const { id, held } of files) this.files.get(id)?.keep(held);
    }
    this.#isResumed = false;
    return this.transfer.status !== 'INIT';
  }

  // --- Checking ----------------------------------------------------------------------------------

  /** True when it is ready; false when something has to be sent again. @param {AbortSignal} signal */
  async #check(signal) {
    let transfer = await this.#follow(this.#settle(signal));
    for (let poll = 0; transfer.status === 'PROCESSING'; poll += 1) {
      await this.#world.pause(POLLS[Math.min(poll, POLLS.length - 1)], signal);
      transfer = await this.#insist(() => this.#owned.read(signal), signal);
      this.checkedCount = transfer.files.filter((plan) => plan.state === 'COMPLETE').length;
      this.#changed();
    }
    if (transfer.is_blocked) throw new Failure('blocked');
    if (transfer.status === 'READY') return true;
    if (transfer.status !== 'INIT') throw new Failure(transfer.status === 'EXPIRED' ? 'expired' : 'gone', { code: transfer.status });
    if (transfer.problem) throw new Failure('not-checked', transfer.problem);
    await this.#sendAgain(transfer, signal);
    return false;
  }

  // "Something is missing" is an answer, not a failure: the server tells what.
  /** @param {AbortSignal} signal @returns {Promise<Transfer>} */
  async #settle(signal) {
    try {
      return await this.#insist(() => this.#owned.complete(signal, this.tellsRecipients), signal);
    } catch (error) {
      if (!(error instanceof Failure) || error.why !== 'conflict') throw error;
      return this.#insist(() => this.#owned.read(signal), signal);
    }
  }

  // Believe the storage: what it does not hold is missing, whatever we thought. Once per file.
  /** @param {Transfer} transfer @param {AbortSignal} signal */
  async #sendAgain(transfer, signal) {
    const held = await this.#insist(() => this.#owned.held(signal), signal);
    const problems = new Map(transfer.files.map((plan) => [plan.id, plan.problem]));
    /** @type {Failure | null} */ let repeated = null;
    let missing = 0;
    let others = false;
    for (const { id, state, held: numbers } of held.files) {
      const file = this.files.get(id);
      if (!file && state !== 'COMPLETE') others = true;
      if (!file) continue;
      const problem = problems.get(id);
      if (state !== 'COMPLETE') file.keep(problem && numbers.length === file.plan.part_count ? [] : numbers);
      if (file.isStored) continue;
      missing += 1;
      if (this.#sentAgain.has(id)) repeated = new Failure('incomplete', { path: file.plan.path, ...problem });
      this.#sentAgain.add(id);
    }
    if (!missing && others) throw new Failure('others-coming');
    if (repeated || !missing) throw repeated ?? new Failure('incomplete', { code: 'nothing_missing' });
  }

  // --- Small things ------------------------------------------------------------------------------

  // Files are removed on its page too; what became of all of them is told by its status. What was added
  // after the question is not in its answer.
  /** @param {Promise<Transfer>} asked */
  async #follow(asked) {
    const known = [...this.files.values()];
    const transfer = await asked;
    const there = new Set(transfer.files.map(({ id }) => id));
    if (known.some(({ id }) => there.has(id))) for (const file of known) if (!there.has(file.id)) this.#drop(file);
    return transfer;
  }

  /** @param {FileUpload} file */
  #drop(file) {
    file.aside = file.isGone = true;
    this.files.delete(file.id);
    this.#sender.drop(file);
    this.#changed(file);
  }

  /** @param {import('./backend.js').FilePlan[]} plans @param {Map<string, Blob>} blobs */
  #admit(plans, blobs) {
    return plans.map((plan) => {
      const file = new FileUpload(blobs.get(plan.id), plan, this.#world);
      this.files.set(plan.id, file);
      this.#sender.add(file);
      return file;
    });
  }

  /** @template T @param {() => Promise<T>} work @param {AbortSignal} signal */
  async #insist(work, signal) {
    const result = await insist(work, this.#world, signal, (why) => this.#meet(why));
    this.waiting = null;
    return result;
  }

  /** @template T @param {() => Promise<T>} work @param {AbortSignal} [signal] @param {(failure: Failure) => void} [onWait] */
  #briefly(work, signal, onWait) {
    return insist(work, this.#world, signal, onWait, TRIES);
  }

  // For a request after which the transfer may have other files than we know of. The server may have done what it
  // did not answer, so giving up would leave files there that nobody sends: only an answer, or cancel(), ends this.
  /** @template T @param {() => Promise<T>} work @param {(failure: Failure) => void} [onWait] @returns {Promise<T>} */
  async #answered(work, onWait) {
    for (;;) {
      try {
        return await this.#briefly(work, undefined, onWait);
      } catch (error) {
        if (!UNANSWERED.has(asFailure(error).why) || this.state === 'cancelled') throw error;
      }
    }
  }

  /** @param {unknown} error */
  #fail(error) {
    this.waiting = null;
    const { signal } = this.#cancel;
    if (signal.aborted && signal.reason === PAUSED) return this.#enter('paused');
    if (this.state !== 'cancelled') {
      if (!signal.aborted) this.failure = asFailure(error);
      this.#enter(signal.aborted ? 'waiting' : 'failed');
    }
    throw error;
  }

  /** @param {Failure | null} why */
  #meet(why) {
    this.waiting = why;
    this.#changed();
  }

  /** @param {State} state */
  #enter(state) {
    this.state = state;
    this.#changed();
  }

  /** @param {FileUpload} [file] */
  #changed(file) {
    this.#world.onChange(file);
  }

  /** @param {(file: FileUpload) => number} count */
  #sum(count) {
    let total = 0;
    for (const file of this.files.values()) if (!file.aside) total += count(file);
    return total;
  }
}

/** What the server has to know of what was picked. @param {Picked[]} picked @param {import('./file-upload.js').Means} means @returns {import('./backend.js').FileSpec[]} */
function specs(picked, { checksum }) {
  return picked.map(({ path, file }) => ({ path, size: file.size, ...(file.type && { content_type: file.type }), ...dated(file), ...(checksum && { checksum_algorithm: 'CRC32' }) }));
}

/** When it was changed, unless its clock was wrong by centuries. @param {Blob & {lastModified?: number}} file */
function dated({ lastModified = 0 }) {
  return lastModified > 0 && lastModified < 4e12 && { modified_at: new Date(lastModified).toISOString() };
}
