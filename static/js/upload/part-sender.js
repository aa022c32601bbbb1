// Sends the pieces of all files to storage through one queue. A piece is first read for its checksum, gets its presigned
// URL (called "address" here) shortly before it is sent, and is then PUT, several pieces at a time ("lanes"), until
// storage holds everything. No DOM, no URLs of our own; everything it needs from the outside is passed in as `world`.
import { Backoff, Failure, asFailure, insist } from './failure.js';
import { DAMAGED } from './put-part.js';

/** @typedef {import('./backend.js').SignedPart} SignedPart */
/** @typedef {import('./file-upload.js').FileUpload} FileUpload */
/** @typedef {import('./transfer-upload.js').World} World */
/** @typedef {{file: FileUpload, number: number}} Taken */
/** @typedef {{file: FileUpload, part: SignedPart, staleAt: number}} Ready */

export const BATCH = 100; // most pieces in one request for addresses
export const AHEAD = 2 * 1024 * 1024 * 1024; // most bytes that are prepared ahead of the lanes
const SOON = 64 * 1024 * 1024; // bytes with addresses that keep the lanes busy during the next request
const MANY = 32; // while all lanes are busy, wait until a request can ask for this many pieces
export const TELL = 5_000; // milliseconds without a request for addresses, after which complete files are reported in a request of their own
const WHOLE = 500; // most complete files reported in one request
const READING = 2; // pieces given to the checksum worker at once, so that it is never idle
const REFUSALS = 8; // new addresses tried for one refused piece before the upload fails; the first without a pause
const REFUSED = 4_000; // longest pause between two of them, in milliseconds

export class PartSender {
  #world;
  #owned;
  #files;
  #onWait;
  #follow;
  #pace = new Pace();
  #queue = new PartQueue();
  /** Pieces that have their checksum but no address yet. @type {Taken[]} */ #prepared = [];
  /** Pieces that have an address and wait for a lane. @type {Ready[]} */ #ready = [];
  /** Complete files that were not reported to the server yet. @type {Set<FileUpload>} */ #whole = new Set();
  #askedAt = 0;
  #asked = 0; // addresses asked for since send() began
  /** Ends the PUTs of each file that are in flight. @type {Map<FileUpload, Set<AbortController>>} */ #lines = new Map();
  /** @type {Map<string, Backoff>} */ #backoffs = new Map();
  /** How often each piece was refused. @type {Map<string, number>} */ #refused = new Map();
  /** Requests for the pieces that storage holds, one at a time per file. @type {Map<FileUpload, Promise<void>>} */ #looks = new Map();
  /** The pending send(). @type {{resolve: () => void, reject: (reason: unknown) => void} | null} */ #round = null;
  /** @type {{reason: unknown} | null} */ #stopped = null;
  #failed = 0; // failed PUTs since a piece arrived
  #busy = 0;
  #reading = 0;
  #expected = 0;
  #asking = false;
  #asker = new AbortController();

  /**
   * @param {Map<string, FileUpload>} files the transfer's files; the owner adds and removes them
   * @param {import('./backend.js').Owned} owned @param {World} world
   * @param {(why: Failure | null) => void} onWait called with the failure that is being retried, and with null once something succeeds
   * @param {(signal: AbortSignal) => Promise<unknown>} follow drops the files that were removed from the transfer elsewhere
   */
  constructor(files, owned, world, onWait, follow) {
    this.#files = files;
    this.#owned = owned;
    this.#world = world;
    this.#onWait = onWait;
    this.#follow = follow;
  }

  /** Sends until storage holds everything; throws whatever stops it. Stored pieces are kept. @param {AbortSignal} signal @returns {Promise<void>} */
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

  /** Queues a file that has missing pieces. @param {FileUpload} file */
  add(file) {
    this.#queue.add(file);
    this.#note(file);
    this.#pump();
  }

  /** Runs work that may add files; send() does not finish before it has ended. @template T @param {() => Promise<T>} work */
  async expect(work) {
    this.#expected += 1;
    try {
      return await work();
    } finally {
      this.#expected -= 1;
      this.#pump();
    }
  }

  /** Stops sending this file. @param {FileUpload} file */
  drop(file) {
    this.#queue.drop(file);
    this.#whole.delete(file);
    this.#takeBack((one) => one.file === file);
    for (const line of this.#lines.get(file) ?? []) line.abort();
    this.#pump();
  }

  // Called whenever something ended or was added: fills the lanes, reads and asks ahead, or ends send().
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
    // Reading a piece cannot be aborted, so a stop does not wait for it.
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

  // --- Preparing: checksum and address ------------------------------------------------------------

  #prepare() {
    // The very first piece is read alone: two at once would both take twice as long, while all lanes wait for one of them.
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

  // Early enough that no lane waits for an address, late enough that one request asks for many. Requests grow with the
  // number of addresses asked for so far: a large file needs few of them, and a small one does not wait for its first.
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

  // Asks for addresses for the next prepared pieces, over many files in one request.
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
      // Perhaps not the transfer is gone, but only a file that was removed on the manage page.
      if (asFailure(error).why === 'gone') await this.#insist(() => this.#follow(signal), signal).catch((why) => { reason = why; });
      // A file that was removed during the request is no failure: the next request asks for the others. Nor is a
      // failure that may be due to the files reported as complete: the next request does not report them.
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

  // --- Reporting complete files -------------------------------------------------------------------
  // A file that the server knows to be complete can be downloaded while the others are still being sent. The report is
  // only a hint: the server checks with storage, and checks all files at the end anyway.

  /** @param {FileUpload} file */
  #note(file) {
    if (file.isStored && file.plan.state !== 'COMPLETE') this.#whole.add(file);
  }

  /** Stored bytes, and the ids of files that are reported as complete now. @returns {[number, string[] | undefined]} */
  #report() {
    this.#askedAt = this.#world.now();
    const safe = [...this.#files.values()].reduce((sum, file) => sum + (file.aside ? 0 : file.safeSize), 0);
    const named = [...this.#whole].slice(0, WHOLE);
    for (const file of named) this.#whole.delete(file);
    return [safe, named.length ? named.map(({ id }) => id) : undefined];
  }

  // Best effort: not awaited and not retried.
  #tell() {
    if (!this.#whole.size) return;
    const [safe, sent] = this.#report();
    this.#owned.signParts([], safe, undefined, sent).catch(() => {});
  }

  // --- Sending ------------------------------------------------------------------------------------

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
      this.#backoffs.clear(); // A success resets the backoff of every piece.
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

  // Decides whether a piece that failed is sent again at once, after a pause, or not at all. It is given back in any case,
  // so that a later send() finds it.
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

  // After a 404 storage may have dropped the whole multipart upload. Asking the server which pieces are held makes it
  // notice that and begin a new one. Lanes of the same file that get 404 at the same time share one request.
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

  // The address may merely have expired, and then all others have too: get new ones and try again at once. If the new
  // one is refused as well, the cause is shown, but a few more are tried before the upload fails.
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
    // The first failure may be chance; from the second on it is worth finding out the cause. That cannot be aborted, so
    // a pause does not wait for the result.
    const cause = backoff.tried ? await Promise.race([this.#world.diagnose(failure), aborted(signal)]) : failure;
    await backoff.rest(cause, signal, (why) => this.#onPieceWait(why));
  }

  // A piece that fails while others arrive is not worth showing. As many failures in a row as there are busy lanes are.
  /** @param {Failure} why */
  #onPieceWait(why) {
    if (this.#failed >= this.#busy) this.#onWait(why);
  }

  /** Aborts all requests and makes the pending send() throw the reason. Stored pieces are kept. @param {unknown} reason */
  #stop(reason) {
    this.#stopped ??= { reason };
    this.#asker.abort();
    this.#tell(); // It may be long until the next request.
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
    // Clear only a failure that was set here: an answer of our server does not mean that storage works again.
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

// --- Order and number of pieces in flight ---------------------------------------------------------

/**
 * The order in which pieces are sent. Small files (of one piece) and pieces of large files alternate, so that the round
 * trips of the small ones overlap with the transfer of the large ones.
 */
class PartQueue {
  /** @type {Set<FileUpload>} */ #small = new Set();
  /** @type {Set<FileUpload>} */ #large = new Set();
  #smallIsNext = true;

  /** Does nothing if the file has no missing piece, or was set aside. @param {FileUpload} file */
  add(file) {
    if (file.hasMissing && !file.aside) (file.plan.part_count === 1 ? this.#small : this.#large).add(file);
  }

  /** @param {FileUpload} file */
  drop(file) {
    this.#small.delete(file);
    this.#large.delete(file);
  }

  get isEmpty() { return this.#small.size + this.#large.size === 0; }

  /** Takes the next piece, or nothing when there is none. @returns {Taken | undefined} */
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
// the browser, and look like a stalled connection.
const MOST = 6;
const LOOK = 2_000; // milliseconds over which the speed with a number of lanes is measured
const WORTH = 1.05; // speed has to grow by this factor to justify one more lane
const CONTENT = 10; // number of measurements to wait after going back, before one more lane is tried again

/** How many pieces to keep in flight: one more while that increases the speed, half as many after a failure. */
export class Pace {
  #from = 0; // when this measurement began
  #moved = 0; // bytes sent since then
  #before = 0; // bytes per millisecond that one lane fewer achieved
  #rest = 0; // measurements to skip
  #failedAt = -Infinity;

  lanes = MOST;

  /** Begins a new measurement, after a time in which nothing was sent. @param {number} now milliseconds */
  start(now) {
    this.#from = now;
    this.#moved = 0;
    this.#before = 0;
  }

  /** Bytes were sent. @param {number} bytes @param {number} now */
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
      // The last step brought nothing: go back, and try again later, because connections change.
      this.lanes -= 1;
      this.#before = 0;
      this.#rest = CONTENT;
    }
  }

  /** Storage is overloaded, or the connection is bad. Lanes that fail at the same time count once. @param {number} now */
  failed(now) {
    if (now - this.#failedAt < LOOK) return;
    this.#failedAt = now;
    this.lanes = Math.max(FEWEST, Math.floor(this.lanes / 2));
    this.start(now);
    this.#rest = 1;
  }
}
