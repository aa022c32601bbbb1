// How many pieces to keep in flight: more while that makes it faster, fewer at once when it fails.

const FEWEST = 2;
const AT_FIRST = 6;
const LOOK = 2_000; // milliseconds that a number of lanes is tried for
const WORTH = 1.05; // one lane more has to bring this much
const CONTENT = 10; // looks that a number which was found best is kept for before the next is tried

export class Pace {
  #most;
  #from = 0; // when this look began
  #moved = 0; // bytes since
  #before = 0; // bytes per millisecond, with one lane fewer
  #rest = 0; // looks still to let pass
  #failedAt = -Infinity;

  lanes;

  /** @param {number} most pieces that the browser has connections for */
  constructor(most) {
    this.#most = Math.max(most, FEWEST);
    this.lanes = Math.min(AT_FIRST, this.#most);
  }

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
    } else if (speed > this.#before * WORTH && this.lanes < this.#most) {
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
