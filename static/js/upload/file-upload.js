// One file: which pieces it has, which the storage holds, which are on their way. No DOM, no URLs.
import { Failure } from './failure.js';

/** @typedef {import('./backend.js').FilePlan} FilePlan */
/** @typedef {import('./backend.js').SignedPart} SignedPart */
/** @typedef {(piece: import('./put-part.js').Piece, signal: AbortSignal, onProgress: (sent: number) => void) => Promise<void>} PutPart */

export class FileUpload {
  /** @type {Set<number>} */ #held = new Set();
  /** @type {Map<number, number>} */ #taken = new Map(); // number -> bytes on the line
  #cursor = 1;
  /** Set aside by the sender, who may still think better of it. */
  aside = false;

  /** @param {Blob} blob @param {FilePlan} plan @param {PutPart} putPart */
  constructor(blob, plan, putPart) {
    this.blob = blob;
    this.plan = plan;
    this.putPart = putPart;
    if (plan.state === 'COMPLETE') this.keep(Array.from({ length: plan.part_count }, (_, i) => i + 1));
  }

  get id() { return this.plan.id; }

  get isStored() { return this.#held.size === this.plan.part_count; }

  get isMoving() { return this.#taken.size > 0; }

  get hasMissing() { return this.#held.size + this.#taken.size < this.plan.part_count; }

  /** Bytes that the storage has. */
  get safeSize() {
    const last = this.#held.has(this.plan.part_count) ? this.#sizeOf(this.plan.part_count) - this.plan.part_size : 0;
    return this.#held.size * this.plan.part_size + last;
  }

  /** Bytes that left, safe or not. It goes back when a piece has to be sent again. */
  get sentSize() {
    let sent = this.safeSize;
    for (const bytes of this.#taken.values()) sent += bytes;
    return sent;
  }

  /** Forget what was believed; these the storage really holds. @param {Iterable<number>} numbers */
  keep(numbers) {
    this.#held = new Set(numbers);
    this.#cursor = 1;
  }

  /** The next piece to send, now spoken for; 0 when there is none. */
  take() {
    if (!this.hasMissing) return 0;
    while (this.#held.has(this.#cursor) || this.#taken.has(this.#cursor)) this.#cursor += 1;
    this.#taken.set(this.#cursor, 0);
    return this.#cursor;
  }

  /** A piece that was taken and did not arrive is missing again. @param {number} number */
  giveBack(number) {
    this.#taken.delete(number);
    this.#cursor = Math.min(this.#cursor, number);
  }

  /**
   * Sends one piece that was taken. On failure it stays taken: the caller decides when it is given back.
   * @param {SignedPart} part @param {AbortSignal} signal @param {() => void} onProgress
   */
  async put(part, signal, onProgress) {
    const { number, url, headers } = part;
    const start = (number - 1) * this.plan.part_size;
    const body = this.blob.slice(start, start + this.#sizeOf(number));
    if (body.size !== part.size) throw new Failure('file-changed', { path: this.plan.path });
    try {
      await this.putPart({ url, headers, body }, signal, (sent) => {
        if (!this.#taken.has(number)) return;
        this.#taken.set(number, Math.min(sent, body.size));
        onProgress();
      });
    } catch (error) {
      this.#taken.set(number, 0);
      signal.throwIfAborted();
      if (error instanceof Failure && !error.facts.status) await this.#assertReadable(body);
      throw error;
    }
    this.#taken.delete(number);
    this.#held.add(number);
  }

  // A file that changed on disk fails like a lost connection; one byte tells them apart.
  /** @param {Blob} body */
  async #assertReadable(body) {
    try {
      await body.slice(0, 1).arrayBuffer();
    } catch {
      throw new Failure('file-changed', { path: this.plan.path });
    }
  }

  /** @param {number} number */
  #sizeOf(number) {
    return Math.min(this.plan.part_size, this.plan.size - (number - 1) * this.plan.part_size);
  }
}
