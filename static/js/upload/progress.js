// Progress, speed and time left, and the words for them. No clock of its own.

const WINDOW = 8_000; // milliseconds over which the speed is averaged

export class Progress {
  /** @type {{at: number, moved: number}[]} */ #samples = [];
  #moved = 0; // Bytes sent for the speed: those sent twice count twice.
  #sent = 0;
  #total = 0;
  /** The most bytes that were ever sent: what is shown does not go back when some have to be sent again. */ reached = 0;

  /** @param {() => number} now */
  constructor(now) {
    this.now = now;
  }

  /** `sent` may decrease, when something has to be sent again. @param {number} sent @param {number} total */
  update(sent, total) {
    const isSameTask = total === this.#total; // When files were added or removed, the difference in bytes was not sent just now.
    if (isSameTask) this.#moved += Math.max(0, sent - this.#sent);
    this.#sent = sent;
    this.reached = isSameTask ? Math.max(this.reached, sent) : sent;
    this.#total = total;
    const at = this.now();
    this.#samples.push({ at, moved: this.#moved });
    while (this.#samples.length > 2 && this.#samples[1].at <= at - WINDOW) this.#samples.shift();
  }

  get share() { return this.#total ? Math.min(1, this.reached / this.#total) : 0; }

  /** Whole per cent; 100 only when everything was sent. */
  get percent() { return Math.floor(this.share * 100); }

  /** Bytes per second. */
  get speed() {
    const first = this.#samples[0];
    const last = this.#samples[this.#samples.length - 1];
    return first && last.at > first.at ? (last.moved - first.moved) * 1000 / (last.at - first.at) : 0;
  }

  /** Infinity while nothing moves. */
  get secondsLeft() {
    const left = this.#total - this.#sent;
    return left <= 0 ? 0 : left / this.speed;
  }
}

const UNITS = ['bytes', 'kB', 'MB', 'GB', 'TB'];

/** A size in decimal units, as file managers show it. @param {number} bytes */
export function size(bytes) {
  let unit = 0;
  while (bytes >= 999.5 && unit < UNITS.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  if (unit === 0) return bytes === 1 ? '1 byte' : `${Math.round(bytes)} bytes`;
  return `${bytes.toFixed(bytes < 9.95 ? 1 : 0)} ${UNITS[unit]}`;
}

/** @param {number} seconds */
export function timeLeft(seconds) {
  if (!Number.isFinite(seconds)) return '';
  if (seconds < 10) return 'a few seconds left';
  if (seconds < 55) return `${Math.ceil(seconds / 10) * 10} seconds left`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return minutes <= 1 ? 'about a minute left' : `about ${minutes} minutes left`;
  const hours = Math.round(minutes / 60);
  if (hours < 48) return hours === 1 ? 'about an hour left' : `about ${hours} hours left`;
  return `about ${Math.round(hours / 24)} days left`;
}

/** @param {number} count @param {string} one @param {string} [many] */
export function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString('en')} ${count === 1 ? one : many}`;
}
