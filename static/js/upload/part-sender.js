// The line to the storage: one queue over all files; pieces are read for their checksum, get an address
// shortly before they leave, and are sent, several at a time, until the storage has them all.
// No DOM, no URLs; the world is passed in.
import { Backoff, Failure, asFailure, insist } from './failure.js';
import { DAMAGED } from './put-part.js';

/** @typedef {import('./backend.js').SignedPart} SignedPart */
/** @typedef {import('./file-upload.js').FileUpload} FileUpload */
/** @typedef {import('./transfer-upload.js').World} World */
/** @typedef {{file: FileUpload, number: number}} Taken */
/** @typedef {{file: FileUpload, part: SignedPart, staleAt: number}} Ready */

export const BATCH = 100; // pieces that one request for addresses may ask for
export const AHEAD = 2 * 1024 * 1024 * 1024; // bytes that are prepared before their turn, at most
const SOON = 64 * 1024 * 1024; // bytes with addresses that are enough for the time which a request takes
const MANY = 32; // pieces that a request is worth waiting for, while all lanes are busy
export const TELL = 5_000; // milliseconds without such a request after which files that are whole get one of their own
const WHOLE = 500; // files that one request may name
const READING = 2; // pieces with the checksum worker, so that it never waits for us
const REFUSALS = 8; // fresh addresses for one piece, the first at once, before a refusal is believed
const REFUSED = 4_000; // milliseconds of rest between two of them, at most

export class PartSender {
  #world;
  #owned;
  #files;
  #onWait;
  #follow;
  #pace = new Pace();
  #queue = new PartQueue();
  /** Have their checksum, and no address yet. @type {Taken[]} */ #prepared = [];
  /** @type {Ready[]} */ #ready = [];
  /** Whole, and not named to the server yet. @type {Set<FileUpload>} */ #whole = new Set();
  #askedAt = 0;
  #asked = 0; // addresses, since send() began
  /** @type {Map<FileUpload, Set<AbortController>>} */ #lines = new Map();
  /** @type {Map<string, Backoff>} */ #backoffs = new Map();
  /** @type {Map<string, number>} */ #refused = new Map();
  /** @type {Map<FileUpload, Promise<void>>} */ #looks = new Map();
  /** @type {{resolve: () => void, reject: (reason: unknown) => void} | null} */ #round = null;
  /** @type {{reason: unknown} | null} */ #stopped = null;
  #failed = 0; // failed PUTs since a piece arrived
  #busy = 0;
  #reading = 0;
  #expected = 0;
  #asking = false;
  #asker = new AbortController();

  /**
   * @param {Map<string, FileUpload>} files the transfer's, as they come and go
   * @param {import('./backend.js').Owned} owned @param {World} world
   * @param {(why: Failure | null) => void} onWait why nothing moves; null when something does again
   * @param {(signal: AbortSignal) => Promise<unknown>} follow drops the files that the transfer no longer has
   */
  constructor(files, owned, world, onWait, follow) {
    this.#files = files;
    this.#owned = owned;
    this.#world = world;
    this.#onWait = onWait;
    this.#follow = follow;
  }

  /** Sends until the storage holds everything; throws what stops it, and what is safe stays safe. @param {AbortSignal} signal @returns {Promise<void>} */
  async send(signal) {
    signal.throwIfAborted();
    const stop = () => this.#stop(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
    this.#stopped = null;
    this.#asker = new AbortController();
    this.#refused.clear();
    this.#backoffs.clear();
    this.#pace.start(this.#world.now());
    this.#askedAt = this.#world.now();
    this.#asked = 0;
    this.#failed = 0;
    for (const file of this.#files.values()) {
      this.#queue.add(file);
      this.#note(file);
    }
    try {
      await new Promise((/** @type {(value: void) => void} */ resolve, reject) => {
        this.#round = { resolve, reject };
        this.#pump();
      });
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  /** It has something missing, or has again. @param {FileUpload} file */
  add(file) {
    this.#queue.add(file);
    this.#note(file);
    this.#pump();
  }

  /** Does what may bring more files; send() goes on until that has ended. @template T @param {() => Promise<T>} work */
  async expect(work) {
    this.#expected += 1;
    try {
      return await work();
    } finally {
      this.#expected -= 1;
      this.#pump();
    }
  }

  /** Nothing of it leaves any more. @param {FileUpload} file */
  drop(file) {
    this.#queue.drop(file);
    this.#whole.delete(file);
    this.#takeBack((one) => one.file === file);
    for (const line of this.#lines.get(file) ?? []) line.abort();
    this.#pump();
  }

  // Called whenever something has ended or come: fills the lanes, prepares and asks ahead, or ends the round.
  #pump() {
    if (!this.#round) return;
    if (!this.#stopped) {
      while (this.#busy < this.#pace.lanes) {
        const ready = this.#nextReady();
        if (!ready) break;
        void this.#send(ready);
      }
      this.#prepare();
      if (!this.#asking && this.#isTimeToAsk()) void this.#askAhead();
    }
    // Nothing ends the reading of a piece; whoever stops does not wait for it.
    if (this.#busy || this.#asking || (this.#reading && !this.#stopped)) return;
    const { resolve, reject } = this.#round;
    if (this.#stopped) {
      this.#round = null;
      reject(this.#stopped.reason);
    } else if (!this.#expected && this.#files.size && [...this.#files.values()].every((file) => file.isStored && !file.aside)) {
      this.#round = null;
      resolve();
    }
  }

  // --- Before it leaves --------------------------------------------------------------------------

  #prepare() {
    // Two that are read at once end together, and the lanes wait for the very first one.
    while (this.#reading < (this.#asked ? READING : 1) && !this.#queue.isEmpty && this.#mayPrepare()) {
      const taken = this.#queue.take();
      if (!taken) return;
      if (taken.file.needsSum(taken.number)) void this.#read(taken);
      else this.#prepared.push(taken);
    }
  }

  #mayPrepare() {
    const count = this.#prepared.length + this.#ready.length + this.#reading;
    if (count < 2 * this.#pace.lanes) return true;
    let bytes = this.#bytesReady();
    for (const { file, number } of this.#prepared) bytes += file.sizeOf(number);
    return count < BATCH && bytes < AHEAD;
  }

  #bytesReady() {
    return this.#ready.reduce((sum, { part }) => sum + part.size, 0);
  }

  // Early enough that no lane waits for an address, late enough that one request brings many: the more were
  // asked for already, the more it may bring, so that a large file needs few requests and a small one no patience.
  #isTimeToAsk() {
    const { length: count } = this.#prepared;
    const { lanes } = this.#pace;
    const { length: ready } = this.#ready;
    if (!count || ready >= Math.max(lanes, count / 4) || this.#bytesReady() >= SOON) return false;
    const left = ready + this.#busy;
    if (!this.#reading || left < lanes / 2) return true;
    return count >= (left < lanes ? lanes : Math.max(lanes, Math.min(MANY, this.#asked / 2)));
  }

  /** @param {Taken} taken */
  async #read(taken) {
    this.#reading += 1;
    const { signal } = this.#asker;
    try {
      await this.#insist(() => taken.file.sum(taken.number), signal);
      if (this.#stopped || taken.file.aside) this.#giveBack([taken]);
      else this.#prepared.push(taken);
    } catch (error) {
      this.#giveBack([taken]);
      if (!signal.aborted && !taken.file.aside) this.#stop(asFailure(error).about(taken.file.plan.path));
    }
    this.#reading -= 1;
    this.#pump();
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
    const taken = this.#prepared.splice(0, BATCH);
    this.#asked += taken.length;
    const [safe, sent] = this.#report();
    try {
      const answer = await this.#insist(() => this.#owned.signParts(wanted(taken), safe, signal, sent), signal);
      this.#admitReady(taken, answer.parts, this.#world.now() + answer.expires_in * 900);
    } catch (error) {
      this.#giveBack(taken);
      let reason = error;
      // It may not be the transfer, but a file that was removed on its page.
      if (asFailure(error).why === 'gone') await this.#insist(() => this.#follow(signal), signal).catch((why) => { reason = why; });
      // A file removed while it was asked for is no failure: the rest is asked for again, and without
      // those that were named, in case it was for them.
      if (!sent && !taken.some(({ file }) => file.aside)) this.#stop(reason);
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

  // --- What is whole -----------------------------------------------------------------------------
  // The server need not wait for the others to let a file be downloaded, once it knows that all of it
  // was sent. That is only a word: it asks the storage, and at the end it asks for every file anyway.

  /** @param {FileUpload} file */
  #note(file) {
    if (file.isStored && file.plan.state !== 'COMPLETE') this.#whole.add(file);
  }

  /** Bytes that are safe, and the files that are named now. @returns {[number, string[] | undefined]} */
  #report() {
    this.#askedAt = this.#world.now();
    const safe = [...this.#files.values()].reduce((sum, file) => sum + (file.aside ? 0 : file.safeSize), 0);
    const named = [...this.#whole].slice(0, WHOLE);
    for (const file of named) this.#whole.delete(file);
    return [safe, named.length ? named.map(({ id }) => id) : undefined];
  }

  // Nobody waits for it, and it is not repeated.
  #tell() {
    if (!this.#whole.size) return;
    const [safe, sent] = this.#report();
    this.#owned.signParts([], safe, undefined, sent).catch(() => {});
  }

  // --- On its way --------------------------------------------------------------------------------

  /** @param {Ready} ready */
  async #send({ file, part }) {
    const line = new AbortController();
    const lines = this.#lines.get(file) ?? new Set();
    this.#lines.set(file, lines.add(line));
    this.#busy += 1;
    try {
      await file.put(part, line.signal, (bytes) => this.#moved(file, bytes));
      this.#note(file);
      this.#failed = 0;
      this.#backoffs.clear(); // Progress refills everybody's budget.
      this.#onWait(null);
    } catch (error) {
      await this.#weigh(file, part, error, line.signal);
    }
    lines.delete(line);
    if (!lines.size) this.#lines.delete(file);
    this.#busy -= 1;
    this.#world.onChange(file);
    this.#pump();
  }

  /** @param {FileUpload} file @param {number} bytes */
  #moved(file, bytes) {
    this.#pace.moved(bytes, this.#world.now());
    this.#world.onChange(file);
    if (!this.#asking && this.#world.now() >= this.#askedAt + TELL) this.#tell();
  }

  // A piece did not arrive: now, later, or never again? It is always given back, so that send() finds it.
  /** @param {FileUpload} file @param {SignedPart} part @param {unknown} error @param {AbortSignal} signal */
  async #weigh(file, part, error, signal) {
    try {
      if (signal.aborted) return;
      this.#failed += 1;
      const failure = asFailure(error).about(file.plan.path);
      const { status, code } = failure.facts;
      if (DAMAGED.has(code ?? '')) await file.assertUnchanged(part.number);
      if (status === 404) await this.#look(file, signal);
      if (status === 403 || status === 404) return await this.#refresh(file, part, failure, signal);
      await this.#rest(file, part, failure, signal);
    } catch (reason) {
      if (!signal.aborted) this.#stop(reason);
    } finally {
      file.giveBack(part.number);
      this.#queue.add(file);
    }
  }

  // Storage may have dropped all that it had of this file. The server finds out when it is asked what is
  // held, and begins it anew; all lanes that are told so at once ask once.
  /** @param {FileUpload} file @param {AbortSignal} signal */
  #look(file, signal) {
    const look = this.#looks.get(file) ?? this.#keepHeld(file, signal).finally(() => this.#looks.delete(file));
    this.#looks.set(file, look);
    return look;
  }

  /** @param {FileUpload} file @param {AbortSignal} signal */
  async #keepHeld(file, signal) {
    const { files } = await this.#insist(() => this.#owned.held(signal), signal);
    file.keep(files.find(({ id }) => id === file.id)?.held ?? []);
    this.#world.onChange(file);
  }

  // The address may only be too old; then so are the others. A fresh one is tried at once, and if that
  // is refused too its cause is told, while it is tried a few times more before it is believed.
  /** @param {FileUpload} file @param {SignedPart} part @param {Failure} failure @param {AbortSignal} signal */
  async #refresh(file, part, failure, signal) {
    const key = `${file.id} ${part.number}`;
    const refused = this.#refused.get(key) ?? 0;
    if (refused >= REFUSALS) throw failure;
    this.#refused.set(key, refused + 1);
    this.#returnReady(() => true);
    if (!refused) return;
    this.#onPieceWait(failure);
    await this.#world.pause(Math.min(REFUSED, 2 ** refused * 500) * this.#world.random(), signal);
  }

  /** @param {FileUpload} file @param {SignedPart} part @param {Failure} failure @param {AbortSignal} signal */
  async #rest(file, part, failure, signal) {
    const key = `${file.id} ${part.number}`;
    const backoff = this.#backoffs.get(key) ?? new Backoff(this.#world);
    this.#backoffs.set(key, backoff);
    if (failure.why !== 'offline') this.#pace.failed(this.#world.now());
    // Once is chance. When it happens again it is worth a question or two to find out why.
    // Nothing ends that question; whoever pauses does not wait for its answer.
    const cause = backoff.tried ? await Promise.race([this.#world.diagnose(failure), aborted(signal)]) : failure;
    await backoff.rest(cause, signal, (why) => this.#onPieceWait(why));
  }

  // One piece that fails while others arrive is no news. As many failures in a row as there are pieces in flight are.
  /** @param {Failure} why */
  #onPieceWait(why) {
    if (this.#failed >= this.#busy) this.#onWait(why);
  }

  /** Lets everything go; what is safe stays safe, and the pending send() throws the reason. @param {unknown} reason */
  #stop(reason) {
    this.#stopped ??= { reason };
    this.#asker.abort();
    this.#tell(); // It may be long until it goes on.
    this.#takeBack(() => true);
    for (const lines of this.#lines.values()) for (const line of lines) line.abort();
    this.#pump();
  }

  // --- Small things ------------------------------------------------------------------------------

  /** @param {(one: {file: FileUpload}) => boolean} which */
  #takeBack(which) {
    const back = this.#prepared.filter(which);
    this.#prepared = this.#prepared.filter((one) => !which(one));
    this.#giveBack(back);
    this.#returnReady(which);
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
      if (this.#files.has(file.id)) this.#queue.add(file);
    }
  }

  /** @template T @param {() => Promise<T>} work @param {AbortSignal} signal */
  async #insist(work, signal) {
    let waited = false;
    const result = await insist(work, this.#world, signal, (why) => { waited = true; this.#onWait(why); });
    // An answer of the server says nothing about a storage that is being waited for.
    if (waited) this.#onWait(null);
    return result;
  }
}

/** Never resolves; rejects with the signal's reason. @param {AbortSignal} signal @returns {Promise<never>} */
function aborted(signal) {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

/** @param {Taken[]} taken @returns {import('./backend.js').Wanted[]} */
function wanted(taken) {
  /** @type {Map<string, import('./backend.js').Wanted>} */ const asked = new Map();
  for (const { file, number } of taken) {
    const one = asked.get(file.id) ?? { file: file.id, numbers: [], ...(file.isSummed && { crc32: [] }) };
    asked.set(file.id, one);
    one.numbers.push(number);
    one.crc32?.push(file.knownSum(number));
  }
  return [...asked.values()];
}

// --- Whose turn, and how many at once ------------------------------------------------------------

/**
 * Whose turn it is. Files of one piece and pieces of large files take turns, so that the round trips
 * of the small ones hide behind the bytes of the large ones.
 */
class PartQueue {
  /** @type {Set<FileUpload>} */ #small = new Set();
  /** @type {Set<FileUpload>} */ #large = new Set();
  #smallIsNext = true;

  /** A file that has something missing, or has again. @param {FileUpload} file */
  add(file) {
    if (file.hasMissing && !file.aside) (file.plan.part_count === 1 ? this.#small : this.#large).add(file);
  }

  /** @param {FileUpload} file */
  drop(file) {
    this.#small.delete(file);
    this.#large.delete(file);
  }

  get isEmpty() { return this.#small.size + this.#large.size === 0; }

  /** The next piece, now spoken for; nothing when there is none. @returns {Taken | undefined} */
  take() {
    while (!this.isEmpty) {
      const [first, second] = this.#smallIsNext ? [this.#small, this.#large] : [this.#large, this.#small];
      const [file] = first.size ? first : second;
      const number = file.take();
      if (!file.hasMissing) this.drop(file);
      this.#smallIsNext = !this.#smallIsNext;
      if (number) return { file, number };
    }
    return undefined;
  }
}

const FEWEST = 2;
// Browsers open six connections to an HTTP/1.1 server, and S3 speaks nothing newer. A seventh piece would wait inside
// the browser, and look like a connection on which nothing moves.
const MOST = 6;
const LOOK = 2_000; // milliseconds that a number of lanes is tried for
const WORTH = 1.05; // one lane more has to bring this much
const CONTENT = 10; // looks that a number which was found best is kept for before the next is tried

/** How many pieces to keep in flight: more while that makes it faster, fewer at once when it fails. */
export class Pace {
  #from = 0; // when this look began
  #moved = 0; // bytes since
  #before = 0; // bytes per millisecond, with one lane fewer
  #rest = 0; // looks still to let pass
  #failedAt = -Infinity;

  lanes = MOST;

  /** Nothing was measured while nothing was sent. @param {number} now milliseconds */
  start(now) {
    this.#from = now;
    this.#moved = 0;
    this.#before = 0;
  }

  /** So many bytes crossed the line, all lanes busy. @param {number} bytes @param {number} now */
  moved(bytes, now) {
    this.#moved += bytes;
    const time = now - this.#from;
    if (time < LOOK) return;
    const speed = this.#moved / time;
    this.#from = now;
    this.#moved = 0;
    if (this.#rest > 0) {
      this.#rest -= 1;
    } else if (speed > this.#before * WORTH && this.lanes < MOST) {
      this.#before = speed;
      this.lanes += 1;
    } else if (speed <= this.#before * WORTH && this.lanes > FEWEST) {
      // The last step brought nothing: back, and see again later, for lines change.
      this.lanes -= 1;
      this.#before = 0;
      this.#rest = CONTENT;
    }
  }

  /** Something is overloaded, or the line is bad. All lanes may say so at once. @param {number} now */
  failed(now) {
    if (now - this.#failedAt < LOOK) return;
    this.#failedAt = now;
    this.lanes = Math.max(FEWEST, Math.floor(this.lanes / 2));
    this.start(now);
    this.#rest = 1;
  }
}
