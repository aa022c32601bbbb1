// Asks the worker for checksums. No words for the sender, no URLs of ours.
import { Failure } from './failure.js';

/** @typedef {{resolve: (sum: string) => void, reject: (reason: unknown) => void}} Asked */

export class Checksums {
  #worker;
  /** @type {Map<number, Asked>} */ #asked = new Map();
  #last = 0;

  /** @param {Worker} worker running checksum-worker.js */
  constructor(worker) {
    this.#worker = worker;
    worker.onmessage = ({ data: { id, sum, error } }) => {
      const asked = this.#asked.get(id);
      this.#asked.delete(id);
      if (error) asked?.reject(new Failure('file-changed', { code: error }));
      else asked?.resolve(sum);
    };
    worker.onerror = (event) => {
      for (const { reject } of this.#asked.values()) reject(new Failure('unexpected', { code: `checksum worker: ${event.message}` }));
      this.#asked.clear();
    };
  }

  /** The CRC32 of a piece in S3's base64; a Failure when it cannot be read any more. @param {Blob} blob @returns {Promise<string>} */
  of(blob) {
    return new Promise((resolve, reject) => {
      this.#last += 1;
      this.#asked.set(this.#last, { resolve, reject });
      this.#worker.postMessage({ id: this.#last, blob });
    });
  }
}
