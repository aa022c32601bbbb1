// Failures: their causes, which of them are retried, and the words for them. No DOM, no URLs.

/**
 * @typedef {'offline' | 'server-unreachable' | 'server-busy' | 'storage-unreachable' | 'storage-blocked' | 'storage-busy'
 *   | 'storage-full' | 'clock' | 'refused' | 'gone' | 'expired' | 'blocked' | 'signed-out' | 'too-large' | 'too-many' | 'invalid' | 'conflict'
 *   | 'file-changed' | 'not-chosen' | 'incomplete' | 'others-coming' | 'elsewhere' | 'not-checked' | 'unexpected'} Cause
 * @typedef {{field: string, message: string}} FieldComplaint
 * @typedef {object} Facts
 * @property {string} [message] the other side's message, for people
 * @property {number} [status] the HTTP status, where there was an answer
 * @property {string} [code] the other side's error code
 * @property {string} [requestId]
 * @property {number} [retryAfter] seconds
 * @property {FieldComplaint[]} [fields]
 * @property {string} [path] the file it is about
 */

export class Failure extends Error {
  /** @param {Cause} why @param {Facts} [facts] */
  constructor(why, facts = {}) {
    super(facts.message ?? why);
    this.name = 'Failure';
    this.why = why;
    this.facts = facts;
  }

  /** The same failure, naming a file. @param {string} path */
  about(path) {
    return new Failure(this.why, { ...this.facts, path });
  }

  /** The same failure, naming the file that the server rejected. @param {{path: string}[]} files in the order of the request */
  among(files) {
    const [, at] = /^files\.(\d+)\./.exec(this.facts.fields?.[0]?.field ?? '') ?? [];
    const file = files[Number(at)];
    return file ? this.about(file.path) : this;
  }
}

/** Turns anything that was thrown into a Failure. @param {unknown} thrown */
export function asFailure(thrown) {
  if (thrown instanceof Failure) return thrown;
  return new Failure('unexpected', { code: thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown) });
}

/** @type {Record<Cause, [what: string, todo: string]>} */
const WORDS = {
  'offline': ['You are offline.', 'Check your connection.'],
  'server-unreachable': ['This site cannot be reached right now.', 'Check your connection.'],
  'server-busy': ['This site is busy right now.', 'Wait a moment.'],
  'storage-unreachable': ['The storage cannot be reached.', 'This site answers, so your connection works; a firewall may be in the way, or the storage is down.'],
  'storage-blocked': ['The storage does not accept files from this site.', 'It can be reached, so nothing is wrong with your connection. The operator of this site has to allow it.'],
  'storage-busy': ['The storage is busy right now.', 'Wait a moment.'],
  'storage-full': ['The storage is full.', 'The operator of this site has to make room.'],
  'clock': ['The storage refused, because two clocks disagree.', 'The operator of this site has to correct the clock of the server.'],
  'refused': ['The storage refused this file.', 'The operator of this site can find the cause with the details below.'],
  'gone': ['This upload is no longer there.', 'It was deleted or it expired. Start again with the same files.'],
  'expired': ['This transfer has expired.', 'Nobody can download it now. Under “Manage” one click brings it back, as long as its files are kept.'],
  'blocked': ['This transfer was blocked.', 'The operator of this site has blocked it. Ask them if you think this is a mistake.'],
  'signed-out': ['This page is out of date.', 'Reload it, then choose the files again.'],
  'too-large': ['This is more than can be sent at once.', 'Send fewer files at once, or put them into a zip first.'],
  'too-many': ['That was too much at once.', 'Wait a minute.'],
  'invalid': ['This could not be sent as it is.', ''],
  'conflict': ['This transfer can no longer be changed.', 'Start again with the same files.'],
  'file-changed': ['A file can no longer be read.', 'It was changed, moved or removed after you chose it. Add it again, then remove this one from the list.'],
  'not-chosen': ['A file has to be chosen again.', 'The storage lost what it had of it. Reload this page and choose the file.'],
  'incomplete': ['A file did not arrive completely.', 'Try again to send it once more.'],
  'others-coming': ['Other files are still being added to this.', 'They were started somewhere else. Finish them there or remove them from its page, and try again.'],
  'elsewhere': ['Another tab of this browser is adding files to this.', 'Continue there, or close it and try again.'],
  'not-checked': ['The files could not be checked.', 'Everything that was sent is kept. Try again in a while.'],
  'unexpected': ['Something went wrong.', 'The details below help to find out what.'],
};

/** @type {Record<string, string>} */
const FIELDS = { path: 'A name', size: 'A file', files: 'The files', title: 'The title', message: 'The message', expires_at: 'The expiry', max_downloads: 'The number of downloads', password: 'The password', code: 'The code', recipients: 'The addresses' };

/** A server's complaint about a field, as a sentence. @param {FieldComplaint} complaint @param {string} [path] of the file that it concerns */
function complain({ field, message }, path) {
  const subject = FIELDS[field.slice(field.lastIndexOf('.') + 1)] ?? 'This';
  return path ? `${subject.replace('A ', 'The ')} “${path}” ${message}` : `${subject} ${message}`;
}

/**
 * The words for a failure: what happened, how much is safe, and what to do.
 * @param {Failure} failure
 * @param {{safe?: string, waiting?: boolean}} [so] safe: "62 %"; waiting: it is being retried automatically
 * @returns {{title: string, text: string}}
 */
export function explain(failure, { safe, waiting } = {}) {
  const { path, message, fields } = failure.facts;
  const [what, todo] = WORDS[failure.why];
  // Only the server knows which limit was exceeded, so its message is shown.
  const said = failure.why === 'invalid' && fields?.length ? complain(fields[0], path)
    : ['invalid', 'too-many'].includes(failure.why) ? message : undefined;
  const kept = safe && !['gone', 'expired', 'blocked'].includes(failure.why) ? `${safe} is safe.` : '';
  const next = waiting ? 'It continues by itself.' : said && path ? 'Change it or leave it out, and choose again.' : todo;
  return {
    title: said ? sentence(said) : path ? what.replace('A file', `“${path}”`).replace('this file', `“${path}”`) : what,
    text: [kept, next].filter(Boolean).join(' '),
  };
}

/** Technical details for support, one fact per line. @param {Failure} failure */
export function details(failure) {
  const { status, code, message, requestId, path, fields } = failure.facts;
  const facts = { cause: failure.why, status, code, message, file: path, fields: fields?.map((f) => `${f.field}: ${f.message}`).join('; '), request: requestId };
  return Object.entries(facts).filter(([, value]) => value).map(([name, value]) => `${name}: ${value}`).join('\n');
}

/** @param {string} text */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.?]$/.test(text) ? '' : '.');
}

// --- Trying again --------------------------------------------------------------------------------

/**
 * The part of `World` that retrying needs.
 * @typedef {object} Patience
 * @property {(milliseconds: number, signal?: AbortSignal) => Promise<void>} pause may end early, when the network is back
 * @property {() => boolean} isOffline
 * @property {() => number} random
 */

/** Causes after which the same request may succeed later. */
const PASSING = new Set(['offline', 'server-unreachable', 'server-busy', 'storage-unreachable', 'storage-blocked', 'storage-busy', 'too-many']);

const FIRST = 500; // milliseconds
const LONGEST = 30_000;
const UNANSWERED = 10_000; // the same if there was no answer: trying again costs little, and nothing tells when a connection works again

/** Exponential backoff with full jitter. The number of tries is unlimited unless one is given. */
export class Backoff {
  /** Failed tries, without those made while the browser was offline. */ tried = 0;

  /** @param {Patience} world @param {number} [tries] */
  constructor(world, tries = Infinity) {
    this.world = world;
    this.tries = tries;
  }

  /**
   * Waits before the next try; throws the failure if there is to be none.
   * Tries made while the browser says that it is offline do not count.
   * @param {unknown} thrown @param {AbortSignal} [signal] @param {(failure: Failure) => void} [onWait]
   */
  async rest(thrown, signal, onWait) {
    signal?.throwIfAborted();
    const failure = asFailure(thrown);
    const offline = this.world.isOffline();
    if (!PASSING.has(failure.why) || (!offline && this.tried >= this.tries)) throw failure;
    const longest = failure.facts.status ? LONGEST : UNANSWERED;
    const ceiling = Math.min(longest, FIRST * 2 ** this.tried) * this.world.random();
    if (!offline) this.tried += 1;
    onWait?.(failure);
    await this.world.pause(offline ? LONGEST : Math.max((failure.facts.retryAfter ?? 0) * 1000, ceiling), signal);
  }
}

/**
 * Repeats the work until it succeeds; throws a failure that is not worth another try.
 * @template T
 * @param {() => Promise<T>} work @param {Patience} world @param {AbortSignal} [signal]
 * @param {(failure: Failure) => void} [onWait] @param {number} [tries] a limit, for work that the sender is waiting for
 * @returns {Promise<T>}
 */
export async function insist(work, world, signal, onWait, tries) {
  const backoff = new Backoff(world, tries);
  for (;;) {
    try {
      return await work();
    } catch (error) {
      await backoff.rest(error, signal, onWait);
    }
  }
}

/** Resolves after the time has passed; rejects when the signal is aborted. @param {number} milliseconds @param {AbortSignal} [signal] @returns {Promise<void>} */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => { clearTimeout(timer); reject(signal?.reason); };
    const timer = setTimeout(() => { signal?.removeEventListener('abort', stop); resolve(); }, milliseconds);
    if (signal?.aborted) stop();
    signal?.addEventListener('abort', stop, { once: true });
  });
}
