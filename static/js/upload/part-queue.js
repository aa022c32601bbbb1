// Whose turn it is. Files of one piece and pieces of large files take turns, so that the round trips
// of the small ones hide behind the bytes of the large ones.

/** @typedef {import('./file-upload.js').FileUpload} FileUpload */

export class PartQueue {
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

  /** At most so many pieces, each now spoken for. @param {number} limit @returns {{file: FileUpload, number: number}[]} */
  take(limit) {
    const taken = [];
    while (taken.length < limit && !this.isEmpty) {
      const [first, second] = this.#smallIsNext ? [this.#small, this.#large] : [this.#large, this.#small];
      const [file] = first.size ? first : second;
      const number = file.take();
      if (number) taken.push({ file, number });
      if (!file.hasMissing) this.drop(file);
      this.#smallIsNext = !this.#smallIsNext;
    }
    return taken;
  }
}
