// One file: which pieces it consists of, which of them storage holds, and which are being sent. No DOM, no URLs.
import { Failure } from './failure.js';

/** @typedef {import('./backend.js').FilePlan} FilePlan */
/** @typedef {import('./backend.js').SignedPart} SignedPart */
/** @typedef {(piece: import('./put-part.js').Piece, signal: AbortSignal, onProgress: (sent: number) => void) => Promise<void>} PutPart */
/** @typedef {{putPart: PutPart, checksum?: (blob: Blob) => Promise<string>}} Means */

/** Total size of these pieces of a file. (The last piece may be shorter than the others.) @param {FilePlan} plan @param {Set<number>} held */
export function sizeHeld({ size, part_size: each, part_count: count }, held) {
  return held.size * each - (held.has(count) ? count * each - size : 0);
}

export class FileUpload {
  #blob;
  #means;
  /** @type {Set<number>} */ #held = new Set();
  /** @type {Map<number, number>} */ #taken = new Map(); // piece number -> bytes sent so far
  /** Checksums, kept until the piece has arrived, so that a piece that is sent again is not read again. @type {Map<number, string>} */ #sums = new Map();
  #cursor = 1;
  /** The sender removed it, and can still undo that. */
  aside = false;
  /** It no longer belongs to the transfer. */
  isGone = false;

  /** @param {Blob | undefined} blob absent after a reload if storage held all of the file then: the sender was not asked to choose it again @param {FilePlan} plan @param {Means} means */
  constructor(blob, plan, means) {
    this.#blob = blob;
    this.plan = plan;
    this.#means = means;
    if (plan.state === 'COMPLETE') this.keep(Array.from({ length: plan.part_count }, (_, i) => i + 1));
  }

  get id() { return this.plan.id; }

  get isStored() { return this.#held.size === this.plan.part_count; }

  get isMoving() { return this.#taken.size > 0; }

  get hasMissing() { return this.#held.size + this.#taken.size < this.plan.part_count; }

  /** Whether each piece is sent with its checksum. */
  get isSummed() { return this.plan.checksum_algorithm === 'CRC32'; }

  /** Bytes that storage holds. */
  get safeSize() { return sizeHeld(this.plan, this.#held); }

  /** Bytes that were sent, including those of unfinished pieces. It decreases when a piece has to be sent again. */
  get sentSize() {
    let sent = this.safeSize;
    for (const bytes of this.#taken.values()) sent += bytes;
    return sent;
  }

  /** Replaces what was believed by the pieces that storage really holds. Pieces in flight still count as missing. @param {Iterable<number>} numbers */
  keep(numbers) {
    this.#held = new Set([...numbers].filter((number) => !this.#taken.has(number)));
    this.#cursor = 1;
  }

  /** Takes the next missing piece, so that it is sent once; 0 when there is none. */
  take() {
    if (!this.hasMissing) return 0;
    while (this.#held.has(this.#cursor) || this.#taken.has(this.#cursor)) this.#cursor += 1;
    this.#taken.set(this.#cursor, 0);
    return this.#cursor;
  }

  /** A piece that was taken did not arrive and is missing again. @param {number} number */
  giveBack(number) {
    this.#taken.delete(number);
    this.#cursor = Math.min(this.#cursor, number);
  }

  // --- Checksums ---------------------------------------------------------------------------------

  /** Whether sum() has to be called before the piece can be sent. @param {number} number */
  needsSum(number) { return this.isSummed && !this.#sums.has(number); }

  /** @param {number} number */
  knownSum(number) { return this.#sums.get(number) ?? ''; }

  /** Reads a piece and keeps its checksum. @param {number} number */
  async sum(number) {
    this.#sums.set(number, await this.#sum(number));
  }

  /** After storage reported a damaged piece: throws if the file on disk has changed, and returns if the connection was to blame. @param {number} number */
  async assertUnchanged(number) {
    if (this.#sums.has(number) && await this.#sum(number) !== this.#sums.get(number)) throw this.#changed('the checksum differs');
  }

  /** @param {number} number */
  #sum(number) {
    const { checksum } = this.#means;
    if (!checksum) throw new Failure('unexpected', { code: 'this browser cannot make checksums' });
    return checksum(this.#piece(number));
  }

  // --- Sending -----------------------------------------------------------------------------------

  /**
   * Sends one piece that was taken. After a failure it stays taken until the caller gives it back.
   * @param {SignedPart} part @param {AbortSignal} signal @param {(bytes: number) => void} onMoved called with the number of bytes sent since the last call
   */
  async put(part, signal, onMoved) {
    const { number, url, headers } = part;
    const body = this.#piece(number);
    if (body.size !== part.size) throw this.#changed(`${body.size} bytes where ${part.size} were`);
    try {
      await this.#means.putPart({ url, headers, body }, signal, (sent) => {
        const before = this.#taken.get(number);
        if (before === undefined) return;
        const now = Math.min(sent, body.size);
        this.#taken.set(number, now);
        onMoved(now - before);
      });
    } catch (error) {
      this.#taken.set(number, 0);
      signal.throwIfAborted();
      if (error instanceof Failure && !error.facts.status) await this.#assertReadable(body);
      throw error;
    }
    this.#taken.delete(number);
    this.#sums.delete(number);
    this.#held.add(number);
  }

  // The PUT of a file that changed on disk fails like a lost connection. Reading one byte tells the two apart.
  /** @param {Blob} body */
  async #assertReadable(body) {
    try {
      await body.slice(0, 1).arrayBuffer();
    } catch (error) {
      throw this.#changed(String(error));
    }
  }

  /** @param {number} number */
  #piece(number) {
    if (!this.#blob) throw new Failure('not-chosen', { path: this.plan.path });
    const start = (number - 1) * this.plan.part_size;
    return this.#blob.slice(start, start + this.sizeOf(number));
  }

  /** @param {string} code */
  #changed(code) {
    return new Failure('file-changed', { path: this.plan.path, code });
  }

  /** Size of a piece in bytes. @param {number} number */
  sizeOf(number) {
    return Math.min(this.plan.part_size, this.plan.size - (number - 1) * this.plan.part_size);
  }
}
