// Uploads one transfer: sends all of its files, then has the server check them. No DOM, no URLs; everything it needs
// from the outside is passed in as `world`. Whatever fails, the pieces that storage holds are kept: only cancel() gives
// them up. After a pause or a failure, run() continues from them; after a reload, resume() does.
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
 *   now: a monotonic clock in milliseconds; checksum: absent where the browser cannot compute one;
 *   diagnose: returns the failure, with a more precise cause if one was found
 */
/** @typedef {'waiting' | 'uploading' | 'paused' | 'checking' | 'done' | 'failed' | 'cancelled'} State */

const POLLS = [200, 300, 500, 1000, 1000, 2000]; // milliseconds between two polls; the last value repeats
const TRIES = 4; // retries of a request that the sender is waiting for, before its failure is shown
const PAUSED = Symbol('paused');
// After these the server may or may not have done what it was asked. (A proxy may answer 504 for a server that is still working.)
const UNANSWERED = new Set(['offline', 'server-unreachable', 'server-busy']);

export class TransferUpload {
  #world;
  #owned;
  #sender;
  /** @type {Set<string>} */ #sentAgain = new Set();
  #cancel = new AbortController();
  #isResumed = false;

  /** @type {Map<string, FileUpload>} */ files = new Map();
  /** @type {State} */ state = 'waiting';
  /** Number of files that the server has checked. */ checkedCount = 0;
  /** Why the upload is stuck while it is being retried. @type {Failure | null} */ waiting = null;
  /** The files it was created with; paths may differ from the originals, because they were made unique. @type {Picked[]} */ picked = [];
  /** Whether to mail the recipients once added files are complete. */ tellsRecipients = false;
  /** The file request that it is for, by its slug. @type {string | undefined} */ request;

  /** Creates the transfer. If `signal` is aborted meanwhile, what the server created all the same is deleted. @param {Picked[]} picked @param {World} world @param {AbortSignal} [signal] @param {(failure: Failure) => void} [onWait] @param {import('./backend.js').Options} [wish] */
  static async create(picked, world, signal, onWait, wish) {
    const created = await made((key) => world.backend.create({ ...wish, files: specs(picked, world) }, key), world, signal, onWait);
    return this.#begun(created, created.owner_token, picked, world, signal);
  }

  /**
   * Adds files to a transfer that is already READY. Its existing files stay downloadable, and the new ones appear once all have arrived.
   * If `signal` is aborted meanwhile, what the server added all the same is removed.
   * @param {{id: string, token: string}} whole @param {Picked[]} picked @param {World} world @param {AbortSignal} [signal] @param {(failure: Failure) => void} [onWait]
   */
  static async addTo({ id, token }, picked, world, signal, onWait) {
    const owned = world.backend.of(id, token);
    const transfer = await insist(() => owned.read(signal), world, signal, onWait);
    const unique = withUniquePaths(picked, transfer.files.map(({ path }) => path));
    const { files } = await made((key) => owned.addFiles(specs(unique, world), key), world, signal, onWait);
    return this.#begun({ ...transfer, adds: true, files }, token, unique, world, signal);
  }

  /** @param {Transfer} transfer @param {string} token @param {Picked[]} picked in the order of its files @param {World} world @param {AbortSignal} [signal] */
  static async #begun(transfer, token, picked, world, signal) {
    const upload = new TransferUpload(transfer, token, new Map(transfer.files.map(({ id }, index) => [id, picked[index].file])), world);
    upload.picked = picked;
    if (signal?.aborted) await upload.cancel();
    signal?.throwIfAborted();
    return upload;
  }

  /**
   * Continues an upload that was started before a reload, perhaps long ago. Which pieces storage holds is asked first.
   * @param {Transfer} transfer as the server reports it now @param {string} token the owner token
   * @param {Map<string, Blob>} blobs by file id, at least for the files that are not stored yet @param {World} world
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

  /** Sends what is missing and has it checked; returns when the transfer is ready or paused, throws when it fails. May be called again after a pause or a failure. @param {AbortSignal} [signal] */
  async run(signal) {
    this.#cancel = new AbortController();
    const stop = () => this.#cancel.abort(signal?.reason);
    signal?.addEventListener('abort', stop);
    if (signal?.aborted) stop();
    this.#sentAgain.clear();
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

  /** Stops sending; stored pieces are kept. Does nothing while the files are being checked. */
  pause() {
    if (this.state === 'uploading') this.#cancel.abort(PAUSED);
  }

  /** Stops, and deletes the transfer on the server. */
  async cancel() {
    this.#enter('cancelled');
    this.#cancel.abort(new DOMException('The sender cancelled.', 'AbortError'));
    await this.#briefly(() => this.#owned.remove());
  }

  /** @param {import('./backend.js').Options} changes @param {AbortSignal} [signal] @param {(failure: Failure) => void} [onWait] if given, the change is retried until the server answers */
  async edit(changes, signal, onWait) {
    const { files: _, ...rest } = await insist(() => this.#owned.edit(changes, signal), this.#world, signal, onWait, onWait ? Infinity : TRIES);
    Object.assign(this.transfer, rest);
  }

  /**
   * Adds files while the transfer is being sent. The transfer is not completed before the server has answered which files it now has.
   * @param {Picked[]} picked @param {(failure: Failure) => void} [onWait] called after each failed try that will be repeated
   */
  add(picked, onWait) {
    const wanted = specs(picked, this.#world);
    const key = newKey();
    return this.#sender.expect(async () => {
      const { files } = await this.#answered(() => this.#owned.addFiles(wanted, key), onWait);
      const added = this.#admit(files, new Map(files.map(({ id }, index) => [id, picked[index].file])));
      // It was cancelled before it was known that these files belong to it.
      if (this.state === 'cancelled') await this.#briefly(() => this.#owned.remove());
      return added;
    });
  }

  /** Stops sending one file until bringBack() or remove() is called. The transfer is not completed before that. @param {FileUpload} file */
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

  /** Whether all other files are set aside; without this one, the whole transfer is to be cancelled instead. @param {FileUpload} file */
  isLast(file) {
    return [...this.files.values()].every((one) => one === file || one.aside);
  }

  /** @param {FileUpload} file */
  async remove(file) {
    if (!file.aside) this.setAside(file);
    try {
      await this.#briefly(() => this.#owned.removeFile(file.id));
    } catch (error) {
      // It may have been removed on the manage page in the meantime, which is just as good.
      if (asFailure(error).why !== 'gone') {
        if (this.state !== 'cancelled') this.bringBack(file);
        throw error;
      }
    }
    this.#drop(file);
  }

  // --- Sending -----------------------------------------------------------------------------------

  async #send() {
    this.#enter('uploading');
    await this.#sender.send(this.#cancel.signal);
  }

  // After a reload: ask the server which pieces storage holds. True if everything was sent and is already being checked.
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

  /** Completes the transfer and waits for the result: true when it is ready, false when something has to be sent again. @param {AbortSignal} signal */
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

  // A 409 means that pieces are missing. That is no failure here: read() returns the state, and #sendAgain() finds out which.
  /** @param {AbortSignal} signal @returns {Promise<Transfer>} */
  async #settle(signal) {
    try {
      return await this.#insist(() => this.#owned.complete(signal, this.tellsRecipients), signal);
    } catch (error) {
      if (!(error instanceof Failure) || error.why !== 'conflict') throw error;
      return this.#insist(() => this.#owned.read(signal), signal);
    }
  }

  // Marks everything as missing that storage does not hold, whatever we believed. A file that is missing a second time is a failure.
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

  // Drops the files that were removed on the manage page. If none of ours are left, the transfer's status tells what
  // happened. Only files known before the request count: those added since cannot be in its answer.
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

  // For requests that change which files the transfer has. If no answer arrives, the server may have made the change
  // anyway, and giving up would leave files there that this page never sends. So it is retried until there is an
  // answer, or cancel() is called.
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
    if (this.state !== 'cancelled') this.#enter(signal.aborted ? 'waiting' : 'failed');
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

/**
 * Has the server make something. If `signal` is aborted meanwhile, it may have been made all the same: then its answer
 * is returned nevertheless, because only that tells what has to be removed.
 * @template T @param {(key: string) => Promise<T>} make @param {World} world @param {AbortSignal} [signal] @param {(failure: Failure) => void} [onWait]
 */
async function made(make, world, signal, onWait) {
  // The same key for every try: if only the answer was lost, the next try does not make it a second time.
  const key = newKey();
  let isUnanswered = false;
  const ask = async () => {
    try {
      return await make(key);
    } catch (error) {
      isUnanswered ||= UNANSWERED.has(asFailure(error).why);
      throw error;
    }
  };
  try {
    return await insist(ask, world, signal, onWait);
  } catch (error) {
    if (!signal?.aborted || !isUnanswered) throw error;
    return insist(ask, world, undefined, undefined, TRIES);
  }
}

/** The description of each picked file that the server needs. @param {Picked[]} picked @param {import('./file-upload.js').Means} means @returns {import('./backend.js').FileSpec[]} */
function specs(picked, { checksum }) {
  return picked.map(({ path, file }) => ({ path, size: file.size, ...(file.type && { content_type: file.type }), ...dated(file), ...(checksum && { checksum_algorithm: 'CRC32' }) }));
}

/** The file's modification time, unless it is absurd (1970 or earlier, or after 2096). @param {Blob & {lastModified?: number}} file */
function dated({ lastModified = 0 }) {
  return lastModified > 0 && lastModified < 4e12 && { modified_at: new Date(lastModified).toISOString() };
}
