// The only file that calls our own API; it also declares the shapes of the answers.
import { Failure } from './failure.js';

/** @typedef {import('./failure.js').Cause} Cause */
/** @typedef {{path: string, size: number, content_type?: string, checksum_algorithm?: 'CRC32', modified_at?: string}} FileSpec */
/** @typedef {{title?: string, message?: string, expires_at?: string, max_downloads?: number | null, password?: string | null, recipients?: string[], sender_email?: string | null, sender_token?: string, file_request?: string}} Options */
/** @typedef {{id: string, email: string, state: string, failure: string | null}} Recipient */
/**
 * @typedef {object} FilePlan
 * @property {string} id
 * @property {string} path
 * @property {number} size
 * @property {'single' | 'multipart'} method
 * @property {number} part_size
 * @property {number} part_count
 * @property {'CRC32' | null} [checksum_algorithm] the checksum that each piece is sent with
 * @property {'OPEN' | 'COMPLETE' | 'ABORTED'} state
 * @property {{code: string, message: string} | null} problem
 * @property {boolean} [is_coming] belongs to a batch that is being added to a READY transfer
 */
/** @typedef {'INIT' | 'PROCESSING' | 'READY' | 'EXPIRED' | 'DELETED'} Status */
/**
 * @typedef {object} Transfer
 * @property {string} id
 * @property {string} slug
 * @property {string} link
 * @property {Status} status
 * @property {{code: string, message: string} | null} [problem] why the server gave up checking it
 * @property {boolean} [is_blocked] the operator of this site has blocked it
 * @property {string} [title]
 * @property {string} [message]
 * @property {string} created_at
 * @property {string} expires_at
 * @property {number | null} max_downloads
 * @property {boolean} [has_password] the password itself is never returned
 * @property {string | null} [sender_email]
 * @property {boolean} [sender_confirmed]
 * @property {Recipient[]} [recipients]
 * @property {number} total_size
 * @property {FilePlan[]} files
 * @property {{status: Status, problem: {code: string, message: string} | null, created_at: string} | null} [batch] more files that are being added
 * @property {boolean} [adds] this object describes only the batch: see batchOf()
 */
/** @typedef {{file: string, numbers: number[], crc32?: string[]}} Wanted crc32: one for each number, in base64 */
/** @typedef {{file: string, number: number, url: string, size: number, headers: Record<string, string>}} SignedPart */
/** @typedef {{id: string, state: FilePlan['state'], held: number[]}} HeldFile */

const TIMEOUT = 30_000;

/** @type {Record<number, Cause>} */
const CAUSES = { 400: 'invalid', 401: 'gone', 404: 'gone', 409: 'conflict', 410: 'gone', 413: 'too-large', 422: 'invalid', 429: 'too-many' };

export class Backend {
  #fetch;
  #isOffline;

  /** @param {typeof globalThis.fetch} send @param {() => boolean} isOffline */
  constructor(send, isOffline) {
    this.#fetch = send;
    this.#isOffline = isOffline;
  }

  /** @param {Options & {files: FileSpec[]}} wish @param {string} key see newKey() @param {AbortSignal} [signal] @returns {Promise<Transfer & {owner_token: string}>} */
  create(wish, key, signal) {
    return this.#ask('POST', '/transfers', undefined, wish, signal, { 'Idempotency-Key': key });
  }

  /** Mails a code to an address. @param {string} email */
  mailCode(email) {
    return this.#ask('POST', '/senders/code', undefined, { email });
  }

  /** Exchanges the code for a token that proves the address from now on. @param {string} email @param {string} code @returns {Promise<{sender_token: string}>} */
  confirm(email, code) {
    return this.#ask('POST', '/senders/confirm', undefined, { email, code });
  }

  /** The calls that the owner of one transfer may make. @param {string} id @param {string} token */
  of(id, token) {
    /** @param {string} method @param {string} path @param {unknown} [body] @param {AbortSignal} [signal] @param {Record<string, string>} [more] */
    const ask = (method, path, body, signal, more) => this.#ask(method, `/transfers/${id}${path}`, token, body, signal, more);
    return {
      /** @param {AbortSignal} [signal] @returns {Promise<Transfer>} */
      read: (signal) => ask('GET', '', undefined, signal),
      /** @param {Options} changes @param {AbortSignal} [signal] @returns {Promise<Transfer>} */
      edit: (changes, signal) => ask('PATCH', '', changes, signal),
      /** @param {AbortSignal} [signal] @returns {Promise<void>} */
      remove: (signal) => ask('DELETE', '', undefined, signal),
      /** @param {FileSpec[]} files @param {string} key see newKey() @param {AbortSignal} [signal] @returns {Promise<{files: FilePlan[]}>} */
      addFiles: (files, key, signal) => ask('POST', '/files', { files }, signal, { 'Idempotency-Key': key }),
      /** @param {string} file @param {AbortSignal} [signal] @returns {Promise<void>} */
      removeFile: (file, signal) => ask('DELETE', `/files/${file}`, undefined, signal),
      /** @param {Wanted[]} wanted @param {number} sentSize @param {AbortSignal} [signal] @param {string[]} [sent] ids of files that are complete @returns {Promise<{expires_in: number, parts: SignedPart[]}>} */
      signParts: (wanted, sentSize, signal, sent) => ask('POST', '/parts', { wanted, sent_size: sentSize, sent }, signal),
      /** Which pieces storage really holds. Follows the pages of the answer. @param {AbortSignal} [signal] @returns {Promise<{files: HeldFile[]}>} */
      held: async (signal) => {
        /** @type {HeldFile[]} */ const files = [];
        let next = '';
        do {
          const page = await ask('GET', `/parts${next && `?after=${next}`}`, undefined, signal);
          files.push(...page.files);
          next = page.next ?? '';
        } while (next);
        return { files };
      },
      /** @param {AbortSignal} [signal] @param {boolean} [tells] for a batch: whether to mail the recipients @returns {Promise<Transfer>} */
      complete: (signal, tells) => ask('POST', '/complete', tells ? { tell_recipients: true } : {}, signal),
      /** @param {AbortSignal} [signal] @returns {Promise<void>} */
      dropBatch: (signal) => ask('DELETE', '/batch', undefined, signal),
    };
  }

  /**
   * As of(), for files that are added to a READY transfer: the calls work as if the transfer consisted of these files only.
   * @param {string} id @param {string} token @param {() => Iterable<string>} ours ids of the files that this page sends
   * @returns {Owned}
   */
  batchOf(id, token, ours) {
    const whole = this.of(id, token);
    return {
      ...whole,
      read: async (signal) => batchIn(await whole.read(signal), ours()),
      complete: async (signal, tells) => batchIn(await whole.complete(signal, tells), ours()),
      remove: async () => {
        const { files } = await whole.read();
        const coming = files.filter(({ is_coming: comes }) => comes).map(({ id }) => id);
        const mine = new Set(ours());
        if (coming.every((id) => mine.has(id))) return whole.dropBatch();
        // Another device is adding files as well: they stay.
        for (const id of coming) if (mine.has(id)) await whole.removeFile(id);
        return undefined;
      },
    };
  }

  /** @param {string} method @param {string} url @param {string | undefined} token @param {unknown} body @param {AbortSignal} [signal] @param {Record<string, string>} [more] @returns {Promise<any>} */
  async #ask(method, url, token, body, signal, more) {
    signal?.throwIfAborted();
    const limit = new AbortController();
    const stop = () => limit.abort(signal?.reason);
    const timer = setTimeout(() => limit.abort(), TIMEOUT);
    signal?.addEventListener('abort', stop);
    /** @type {Record<string, string>} */
    const headers = { Accept: 'application/json', ...more };
    if (token) headers.Authorization = `Bearer ${token}`;
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    try {
      const call = this.#fetch;
      const answer = await call(url, {
        method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: 'omit', cache: 'no-store', signal: limit.signal,
        keepalive: method === 'PATCH', // The last edit is saved even if the page is being closed.
      });
      const text = await answer.text();
      if (!answer.ok) throw refusal(answer, text);
      return text ? JSON.parse(text) : undefined;
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof Failure) throw error;
      throw new Failure(this.#isOffline() ? 'offline' : 'server-unreachable', { code: String(error) });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
    }
  }
}

// The answer reduced to our files: those of other devices in the same batch, or in a later one, are theirs to send. Once
// ours come no more, they either belong to the transfer or were given up.
/** @param {Transfer} transfer @param {Iterable<string>} ours @returns {Transfer} */
function batchIn(transfer, ours) {
  const mine = new Set(ours);
  const files = transfer.files.filter(({ id }) => mine.has(id));
  const batch = files.some(({ is_coming: comes }) => comes) ? transfer.batch : null;
  const over = files.length ? 'READY' : 'DELETED';
  return {
    ...transfer, adds: true, files, problem: batch?.problem ?? null, created_at: batch?.created_at ?? transfer.created_at,
    status: transfer.status === 'READY' ? batch?.status ?? over : transfer.status, total_size: files.reduce((sum, file) => sum + file.size, 0),
  };
}

/** @param {Response} answer @param {string} text */
function refusal(answer, text) {
  /** @type {any} */
  let said = {};
  try {
    said = JSON.parse(text);
  } catch { /* A proxy's own page: the status has to do. */ }
  const { error = {}, reason } = said;
  // An expired transfer can be brought back, so it is not "gone". A limit on mail is not retried: the sender is told. Where
  // only some may send, a page is given a proof of who it is for, which expires.
  const why = error.code === 'blocked' ? 'blocked' : reason === 'expired' ? 'expired' : error.fields?.[0]?.field === 'sender_token' ? 'signed-out' : ['too_much_mail', 'sender_not_allowed'].includes(error.code) ? 'invalid' : CAUSES[answer.status];
  return new Failure(why ?? (answer.status >= 500 ? 'server-busy' : 'unexpected'), {
    status: answer.status,
    code: error.code,
    message: error.message,
    fields: error.fields,
    requestId: error.request_id ?? answer.headers.get('X-Request-ID') ?? undefined,
    retryAfter: Number(answer.headers.get('Retry-After')) || undefined,
  });
}

/** A secret idempotency key: a request that is repeated under it is carried out once. (randomUUID() needs a secure context.) */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(24)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** @typedef {ReturnType<Backend['of']>} Owned */
