// What this browser remembers about unfinished transfers: the owner token, and which local file is which file of the
// transfer. Which pieces are stored is never remembered, only asked: the server and storage know. Where the browser
// stores nothing (private windows, or denied by its owner), everything else still works, and `works` is false.
import { fingerprint } from './crc32.js';

/** @typedef {import('./backend.js').Transfer & {tells?: boolean, request?: string}} Remembered tells: whether to mail the recipients once added files are complete; request: the slug of the file request that it is for */
/** @typedef {import('./pick-files.js').Picked} Picked */
/** @typedef {{id: string, token: string, link: string, name: string, count: number, size: number, created_at: string, expires_at: string, adds?: boolean, tells?: boolean, request?: string}} Row adds: the files are added to a READY transfer; tells, request: as above */
/**
 * @typedef {object} Known
 * @property {string} id the file's id on the server
 * @property {string} path
 * @property {string} [from] its original path, if that had to be changed
 * @property {number} size
 * @property {number} lastModified
 * @property {FileSystemHandle} [handle] of the file, or of the folder that it was found in
 * @property {number} [print] see fingerprint(); added later than the rest
 */
/**
 * The storage below Memory. Pieces are append-only records; applied in order they give the current state.
 * @typedef {object} Shelf
 * @property {() => Promise<Row[]>} rows
 * @property {(id: string) => Promise<Partial<Known>[][]>} pieces
 * @property {(row: Row | null, id: string, pieces: Partial<Known>[][]) => Promise<void>} write atomic
 * @property {(id: string) => Promise<void>} erase
 */

const PIECE = 250; // files per write: few enough to keep the page responsive

export class Memory {
  #shelf;
  /** @type {Set<string>} */ #forgotten = new Set();
  works = true;

  /** @param {Shelf} shelf */
  constructor(shelf) {
    this.#shelf = shelf;
  }

  /** @param {Remembered} transfer @param {string} token @param {Picked[]} picked in the order of its files */
  async remember(transfer, token, picked) {
    this.#forgotten.delete(transfer.id);
    await this.#write(rowOf(transfer, token), transfer.id, transfer.files.map((plan, index) => known(plan.id, picked[index])));
    await this.#look(transfer.id, transfer.files, picked);
  }

  /** Files that were added, or chosen again, so that handles are known now. @param {Remembered} transfer as it is now @param {string} token @param {{id: string}[]} plans @param {Picked[]} picked in the order of the plans */
  async add(transfer, token, plans, picked) {
    await this.#write(rowOf(transfer, token), transfer.id, plans.map(({ id }, index) => known(id, picked[index])));
    await this.#look(transfer.id, plans, picked);
  }

  /** Updates the row after files were removed or the name was changed. @param {Remembered} transfer @param {string} token */
  follow(transfer, token) {
    return this.#write(rowOf(transfer, token), transfer.id, []);
  }

  /** All unfinished transfers, the latest first. @returns {Promise<Row[]>} */
  async all() {
    const rows = await this.#try(() => this.#shelf.rows(), []);
    return rows.sort((a, b) => b.created_at.localeCompare(a.created_at));
  }

  /** @param {string} id @returns {Promise<Map<string, Known>>} by file id */
  async filesOf(id) {
    /** @type {Map<string, Known>} */ const files = new Map();
    for (const one of (await this.#try(() => this.#shelf.pieces(id), [])).flat()) {
      files.set(String(one.id), /** @type {Known} */ ({ ...files.get(String(one.id)), ...one }));
    }
    return files;
  }

  /** Forgets a transfer that is ready, cancelled or gone. @param {string} id */
  async forget(id) {
    this.#forgotten.add(id);
    await this.#try(() => this.#shelf.erase(id), undefined);
  }

  // Computes fingerprints, of the large files first: they take longest to send, and most would be lost without them.
  /** @param {string} id @param {{id: string}[]} plans @param {Picked[]} picked */
  async #look(id, plans, picked) {
    const order = plans.map((plan, index) => ({ id: plan.id, file: picked[index].file })).sort((a, b) => b.file.size - a.file.size);
    while (order.length && this.works && !this.#forgotten.has(id)) {
      /** @type {Partial<Known>[]} */ const prints = [];
      for (const one of order.splice(0, PIECE)) {
        // A file that cannot be read also stops the upload, which reports it.
        const print = await fingerprint(one.file).catch(() => undefined);
        if (print !== undefined) prints.push({ id: one.id, print });
      }
      await this.#write(null, id, prints);
    }
  }

  /** @param {Row | null} row @param {string} id @param {Partial<Known>[]} files */
  async #write(row, id, files) {
    if (this.#forgotten.has(id)) return;
    /** @type {Partial<Known>[][]} */ const pieces = [];
    for (let at = 0; at < files.length; at += PIECE) pieces.push(files.slice(at, at + PIECE));
    await this.#try(() => this.#shelf.write(row, id, pieces), undefined);
  }

  /** @template T @param {() => Promise<T>} work @param {T} otherwise */
  async #try(work, otherwise) {
    try {
      return await work();
    } catch {
      this.works = false;
      return otherwise;
    }
  }
}

/** @param {string} id @param {Picked} picked @returns {Known} */
function known(id, { path, from, file, handle }) {
  return { id, path, size: file.size, lastModified: file.lastModified, ...(from && { from }), ...(handle && { handle }) };
}

/** @param {Remembered} transfer @param {string} token @returns {Row} */
function rowOf(transfer, token) {
  const { id, link, files, created_at, expires_at, adds, tells, request } = transfer;
  return { ...(adds && { adds }), ...(tells && { tells }), ...(request && { request }), id, token, link, name: nameOf(transfer), count: files.length, size: files.reduce((sum, file) => sum + file.size, 0), created_at, expires_at };
}

/** What a person would call the transfer: its title, its only file, or its only folder. @param {{title?: string, files: {path: string}[]}} transfer */
export function nameOf({ title, files }) {
  if (title || !files.length) return title || 'your files';
  const [first] = files;
  if (files.length === 1) return first.path.slice(first.path.lastIndexOf('/') + 1);
  const folder = first.path.slice(0, first.path.indexOf('/') + 1);
  if (folder && files.every(({ path }) => path.startsWith(folder))) return folder.slice(0, -1);
  return `${first.path} and ${(files.length - 1).toLocaleString('en')} more`;
}

// --- IndexedDB: it can store handles, and with strict durability a finished write is on disk -------

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

class Database {
  /** @type {Promise<IDBDatabase> | undefined} */ #opened;

  /** @param {IDBTransactionMode} mode */
  async #begin(mode) {
    this.#opened ??= (async () => {
      const asked = indexedDB.open('beeline', 1);
      asked.onupgradeneeded = () => {
        asked.result.createObjectStore('transfers', { keyPath: 'id' });
        asked.result.createObjectStore('files', { autoIncrement: true }).createIndex('transfer', 'transfer');
      };
      const database = await answer(asked);
      database.onversionchange = () => database.close();
      return database;
    })();
    const change = (await this.#opened).transaction(['transfers', 'files'], mode, { durability: 'strict' });
    const transfers = change.objectStore('transfers');
    const files = change.objectStore('files');
    const done = new Promise((/** @type {(value: void) => void} */ resolve, reject) => {
      change.oncomplete = () => resolve();
      change.onabort = () => reject(change.error);
    });
    done.catch(() => {}); // Readers do not await it, and its failure must not count as unhandled.
    return { transfers, files, done };
  }

  async rows() {
    return answer((await this.#begin('readonly')).transfers.getAll());
  }

  /** @param {string} id */
  async pieces(id) {
    const records = await answer((await this.#begin('readonly')).files.index('transfer').getAll(id));
    return records.map(({ files }) => files);
  }

  /** @param {Row | null} row @param {string} id @param {Partial<Known>[][]} pieces */
  async write(row, id, pieces) {
    const { transfers, files, done } = await this.#begin('readwrite');
    if (row) transfers.put(row);
    for (const piece of pieces) await answer(store(files, id, piece));
    await done;
  }

  /** @param {string} id */
  async erase(id) {
    const { transfers, files, done } = await this.#begin('readwrite');
    transfers.delete(id);
    for (const key of await answer(files.index('transfer').getAllKeys(id))) files.delete(key);
    await done;
  }
}

/** @param {IDBObjectStore} files @param {string} transfer @param {Partial<Known>[]} piece */
function store(files, transfer, piece) {
  try {
    return files.add({ transfer, files: piece });
  } catch {
    // A handle that cannot be stored is left out; then the file has to be chosen again.
    return files.add({ transfer, files: piece.map(({ handle: _, ...rest }) => rest) });
  }
}

export const memory = new Memory(new Database());
