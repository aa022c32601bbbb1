// One transfer on its way: one queue over all its files, several pieces in flight, then the check.
// No DOM, no URLs; the world is passed in. What is safe is kept whatever fails: only cancel() gives it up,
// and run() goes on from there. To continue after a reload, build it from the transfer as the server tells
// it and keep() in each file what the storage holds.
import { newKey } from './backend.js';
import { Failure, asFailure } from './failure.js';
import { FileUpload } from './file-upload.js';
import { PartQueue } from './part-queue.js';
import { Backoff, insist } from './retry.js';

/** @typedef {import('./backend.js').Backend} Backend */
/** @typedef {import('./backend.js').Transfer} Transfer */
/** @typedef {import('./backend.js').SignedPart} SignedPart */
/** @typedef {{path: string, file: Blob}} Picked */
/** @typedef {{file: FileUpload, number: number}} Taken */
/** @typedef {{file: FileUpload, part: SignedPart, staleAt: number}} Ready */
/**
 * @typedef {import('./retry.js').Patience & {
 *   backend: Backend,
 *   putPart: import('./file-upload.js').PutPart,
 *   now: () => number,
 *   onChange: (file?: FileUpload) => void,
 * }} World now: milliseconds that never go back
 */
/** @typedef {'waiting' | 'uploading' | 'checking' | 'done' | 'failed' | 'cancelled'} State */

export const LANES = 5;
export const BATCH = 100; // what one request for addresses may ask for
const REFUSALS = 4; // fresh addresses for one piece, the first at once, before a refusal is believed
const POLLS = [500, 1000, 1000, 2000]; // milliseconds; the last one goes on

/** What the server has to know of what was picked. @param {Picked[]} picked */
export function specs(picked) {
  return picked.map(({ path, file }) => ({ path, size: file.size, ...(file.type && { content_type: file.type }) }));
}

export class TransferUpload {
  #world;
  #owned;
  #queue = new PartQueue();
  /** @type {Ready[]} */ #ready = [];
  /** @type {Map<FileUpload, Set<AbortController>>} */ #lines = new Map();
  /** @type {Map<string, Backoff>} */ #backoffs = new Map();
  /** @type {Map<string, number>} */ #refused = new Map();
  /** @type {Set<string>} */ #sentAgain = new Set();
  /** @type {{resolve: () => void, reject: (reason: unknown) => void} | null} */ #round = null;
  /** @type {{reason: unknown} | null} */ #stopped = null;
  #busy = 0;
  #asking = false;
  #cancel = new AbortController();
  #asker = new AbortController();

  /** @type {Map<string, FileUpload>} */ files = new Map();
  /** @type {State} */ state = 'waiting';
  /** Files that the server has found whole. */ checkedCount = 0;
  /** Why nothing moves just now, while it is being tried again. @type {Failure | null} */ waiting = null;
  /** Why it stopped. @type {Failure | null} */ failure = null;

  /** Creates the transfer. @param {Picked[]} picked @param {World} world @param {AbortSignal} [signal] @param {(failure: Failure) => void} [onWait] */
  static async create(picked, world, signal, onWait) {
    // One key for all tries: if only the answer was lost, the next one is about the same transfer.
    const key = newKey();
    const created = await insist(() => world.backend.create({ files: specs(picked) }, key, signal), world, signal, onWait);
    return new TransferUpload(created, created.owner_token, picked.map(({ file }) => file), world);
  }

  /**
   * @param {Transfer} transfer @param {string} token its owner's
   * @param {Blob[]} blobs in the order of the transfer's files @param {World} world
   */
  constructor(transfer, token, blobs, world) {
    this.transfer = transfer;
    this.#world = world;
    this.#owned = world.backend.of(transfer.id, token);
    this.#admit(transfer.files, blobs);
  }

  get totalSize() { return this.#sum((file) => file.plan.size); }

  get safeSize() { return this.#sum((file) => file.safeSize); }

  get sentSize() { return this.#sum((file) => file.sentSize); }

  /** Sends what is missing, has it checked, and returns when it is ready. May be called again after a failure. @param {AbortSignal} [signal] */
  async run(signal) {
    this.#cancel = new AbortController();
    const stop = () => this.#cancel.abort(signal?.reason);
    signal?.addEventListener('abort', stop);
    if (signal?.aborted) stop();
    this.#sentAgain.clear();
    this.failure = null;
    try {
      do {
        this.#enter('uploading');
        await this.#sendMissing(this.#cancel.signal);
        this.#enter('checking');
      } while (!await this.#check(this.#cancel.signal));
      this.#enter('done');
    } catch (error) {
      this.#fail(error);
      throw error;
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }

  /** Gives everything up, here and there. */
  async cancel() {
    this.#enter('cancelled');
    this.#cancel.abort(new DOMException('The sender cancelled.', 'AbortError'));
    await insist(() => this.#owned.remove(), this.#world);
  }

  /** @param {import('./backend.js').Options} changes @param {AbortSignal} [signal] */
  async edit(changes, signal) {
    const { files: _, ...rest } = await insist(() => this.#owned.edit(changes, signal), this.#world, signal);
    Object.assign(this.transfer, rest);
  }

  /** More files for the same link, while it is still being sent. @param {Picked[]} picked */
  async add(picked) {
    const { files } = await insist(() => this.#owned.addFiles(specs(picked)), this.#world, this.#cancel.signal);
    const added = this.#admit(files, picked.map(({ file }) => file));
    this.#pump();
    return added;
  }

  /** Stops sending one file; bringBack() or remove() decides. Nothing completes before that. @param {FileUpload} file */
  setAside(file) {
    file.aside = true;
    this.#queue.drop(file);
    this.#returnReady((ready) => ready.file === file);
    for (const line of this.#lines.get(file) ?? []) line.abort();
    this.#changed(file);
  }

  /** @param {FileUpload} file */
  bringBack(file) {
    file.aside = false;
    this.#queue.add(file);
    this.#changed(file);
    this.#pump();
  }

  /** @param {FileUpload} file */
  async remove(file) {
    if (!file.aside) this.setAside(file);
    try {
      await insist(() => this.#owned.removeFile(file.id), this.#world, this.#cancel.signal);
    } catch (error) {
      if (!this.#cancel.signal.aborted) this.bringBack(file);
      throw error;
    }
    this.files.delete(file.id);
    this.#changed(file);
    this.#pump();
  }

  // --- Sending -----------------------------------------------------------------------------------

  /** @param {AbortSignal} signal @returns {Promise<void>} */
  async #sendMissing(signal) {
    signal.throwIfAborted();
    const stop = () => this.#stop(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
    this.#stopped = null;
    this.#asker = new AbortController();
    this.#refused.clear();
    this.#backoffs.clear();
    for (const file of this.files.values()) this.#queue.add(file);
    try {
      await new Promise((/** @type {(value: void) => void} */ resolve, reject) => {
        this.#round = { resolve, reject };
        this.#pump();
      });
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  // Called whenever something has ended or come: fills the lanes, asks ahead, or ends the round.
  #pump() {
    if (!this.#round) return;
    if (!this.#stopped) {
      while (this.#busy < LANES) {
        const ready = this.#nextReady();
        if (!ready) break;
        void this.#send(ready);
      }
      if (this.#ready.length < LANES && !this.#asking && !this.#queue.isEmpty) void this.#askAhead();
    }
    if (this.#busy || this.#asking) return;
    const { resolve, reject } = this.#round;
    if (this.#stopped) {
      this.#round = null;
      reject(this.#stopped.reason);
    } else if ([...this.files.values()].every((file) => file.isStored && !file.aside)) {
      this.#round = null;
      resolve();
    }
  }

  #nextReady() {
    const now = this.#world.now();
    this.#returnReady((ready) => ready.staleAt <= now);
    return this.#ready.shift();
  }

  // Addresses are signed just before they are used, many files and pieces in one request.
  async #askAhead() {
    this.#asking = true;
    const { signal } = this.#asker;
    const taken = this.#queue.take(BATCH);
    try {
      const answer = await this.#insist(() => this.#owned.signParts(wanted(taken), this.safeSize, signal), signal);
      this.#admitReady(taken, answer.parts, this.#world.now() + answer.expires_in * 900);
    } catch (error) {
      this.#giveBack(taken);
      // A file removed while it was asked for is no failure: the rest is asked for again.
      if (!taken.some(({ file }) => file.aside || !this.files.has(file.id))) this.#stop(error);
    }
    this.#asking = false;
    this.#pump();
  }

  /** @param {Taken[]} taken @param {SignedPart[]} parts @param {number} staleAt */
  #admitReady(taken, parts, staleAt) {
    const signed = new Map(parts.map((part) => [`${part.file} ${part.number}`, part]));
    const left = taken.filter((one) => !signed.has(`${one.file.id} ${one.number}`));
    if (left.length) throw new Failure('unexpected', { code: 'addresses_missing' });
    for (const { file, number } of taken) {
      const part = /** @type {SignedPart} */ (signed.get(`${file.id} ${number}`));
      if (file.aside) file.giveBack(number);
      else this.#ready.push({ file, part, staleAt });
    }
  }

  /** @param {Ready} ready */
  async #send({ file, part }) {
    const line = new AbortController();
    const lines = this.#lines.get(file) ?? new Set();
    this.#lines.set(file, lines.add(line));
    this.#busy += 1;
    try {
      await file.put(part, line.signal, () => this.#changed(file));
      this.#backoffs.clear(); // Progress refills everybody's budget.
      this.waiting = null;
    } catch (error) {
      await this.#weigh(file, part, error, line.signal);
    }
    lines.delete(line);
    this.#busy -= 1;
    this.#changed(file);
    this.#pump();
  }

  // A piece did not arrive: now, later, or never again? It is always given back, so that run() finds it.
  /** @param {FileUpload} file @param {SignedPart} part @param {unknown} error @param {AbortSignal} signal */
  async #weigh(file, part, error, signal) {
    try {
      if (signal.aborted) return;
      const failure = asFailure(error).about(file.plan.path);
      const key = `${file.id} ${part.number}`;
      const { status } = failure.facts;
      const refused = this.#refused.get(key) ?? 0;
      if ((status === 403 || status === 404) && refused < REFUSALS) {
        // The address may only be too old. Then so are the others.
        this.#refused.set(key, refused + 1);
        this.#returnReady(() => true);
        if (refused) await this.#world.pause(2 ** refused * 500 * this.#world.random(), signal);
        return;
      }
      const backoff = this.#backoffs.get(key) ?? new Backoff(this.#world);
      this.#backoffs.set(key, backoff);
      await backoff.rest(failure, signal, (why) => this.#waitFor(why));
    } catch (reason) {
      if (!signal.aborted) this.#stop(reason);
    } finally {
      file.giveBack(part.number);
      this.#queue.add(file);
    }
  }

  // One failure for good ends the round; the others are let go, and what is safe stays safe.
  /** @param {unknown} reason */
  #stop(reason) {
    this.#stopped ??= { reason };
    this.#asker.abort();
    this.#returnReady(() => true);
    for (const lines of this.#lines.values()) for (const line of lines) line.abort();
    this.#pump();
  }

  // --- Checking ----------------------------------------------------------------------------------

  /** True when it is ready; false when something has to be sent again. @param {AbortSignal} signal */
  async #check(signal) {
    let transfer = await this.#settle(signal);
    for (let poll = 0; transfer.status === 'PROCESSING'; poll += 1) {
      await this.#world.pause(POLLS[Math.min(poll, POLLS.length - 1)], signal);
      transfer = await this.#insist(() => this.#owned.read(signal), signal);
      this.checkedCount = transfer.files.filter((plan) => plan.state === 'COMPLETE').length;
      this.#changed();
    }
    if (transfer.status === 'READY') return true;
    if (transfer.status !== 'INIT') throw new Failure('gone', { code: transfer.status });
    if (transfer.problem) throw new Failure('not-checked', transfer.problem);
    await this.#sendAgain(transfer, signal);
    return false;
  }

  // "Something is missing" is an answer, not a failure: the server tells what.
  /** @param {AbortSignal} signal @returns {Promise<Transfer>} */
  async #settle(signal) {
    try {
      return await this.#insist(() => this.#owned.complete(signal), signal);
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
    for (const { id, state, held: numbers } of held.files) {
      const file = this.files.get(id);
      if (!file) continue;
      const problem = problems.get(id);
      if (state !== 'COMPLETE') file.keep(problem && numbers.length === file.plan.part_count ? [] : numbers);
      if (file.isStored) continue;
      missing += 1;
      if (this.#sentAgain.has(id)) repeated = new Failure('incomplete', { path: file.plan.path, ...problem });
      this.#sentAgain.add(id);
    }
    if (repeated || !missing) throw repeated ?? new Failure('incomplete', { code: 'nothing_missing' });
  }

  // --- Small things ------------------------------------------------------------------------------

  /** @param {import('./backend.js').FilePlan[]} plans @param {Blob[]} blobs */
  #admit(plans, blobs) {
    return plans.map((plan, index) => {
      const file = new FileUpload(blobs[index], plan, this.#world.putPart);
      this.files.set(plan.id, file);
      this.#queue.add(file);
      return file;
    });
  }

  /** @param {(ready: Ready) => boolean} which */
  #returnReady(which) {
    const back = this.#ready.filter(which);
    if (!back.length) return;
    this.#ready = this.#ready.filter((ready) => !which(ready));
    this.#giveBack(back.map(({ file, part }) => ({ file, number: part.number })));
  }

  /** @param {Taken[]} taken */
  #giveBack(taken) {
    for (const { file, number } of taken) {
      file.giveBack(number);
      if (this.files.has(file.id)) this.#queue.add(file);
    }
  }

  /** @template T @param {() => Promise<T>} work @param {AbortSignal} signal */
  async #insist(work, signal) {
    let waited = false;
    const result = await insist(work, this.#world, signal, (why) => { waited = true; this.#waitFor(why); });
    // An answer of the server says nothing about a storage that is being waited for.
    if (waited) this.waiting = null;
    return result;
  }

  /** @param {Failure} why */
  #waitFor(why) {
    this.waiting = why;
    this.#changed();
  }

  /** @param {unknown} error */
  #fail(error) {
    if (this.state === 'cancelled') return;
    this.waiting = null;
    if (this.#cancel.signal.aborted) return this.#enter('waiting');
    this.failure = asFailure(error);
    this.#enter('failed');
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

/** @param {Taken[]} taken @returns {import('./backend.js').Wanted[]} */
function wanted(taken) {
  /** @type {Map<string, number[]>} */ const numbers = new Map();
  for (const { file, number } of taken) numbers.set(file.id, [...(numbers.get(file.id) ?? []), number]);
  return [...numbers].map(([file, list]) => ({ file, numbers: list }));
}
