// A world for the engine to live in: a server, a storage and a clock that do what the test says and
// write down what was asked of them. Nothing here sleeps.
import { Failure } from '../../static/js/upload/failure.js';
import { TransferUpload } from '../../static/js/upload/transfer-upload.js';

/** Lets everything that is ready happen. */
export const settle = async () => { for (let i = 0; i < 5; i += 1) await new Promise(setImmediate); };

export const MIB = 1024 * 1024;

/** A Blob that costs nothing: only its size and what was cut from it are real. */
export class FakeBlob {
  constructor(size, { offset = 0, readable = () => true, type = '', version = () => 1 } = {}) {
    Object.assign(this, { size, offset, readable, type, version });
  }

  slice(start, end) {
    const to = Math.min(end, this.size);
    return new FakeBlob(Math.max(0, to - start), { offset: this.offset + start, readable: this.readable, version: this.version });
  }

  async arrayBuffer() {
    if (!this.readable()) throw new DOMException('changed', 'NotReadableError');
    return new ArrayBuffer(this.size);
  }
}

export class FakeWorld {
  calls = [];        // what was asked of the server, in words
  puts = [];         // every piece that reached the line: "f1/2 from 8 for 8"
  held = new Map();  // file id -> Set of numbers: what the storage has
  named = [];        // the files that each request said were whole
  pauses = [];
  time = 0;
  offline = false;
  inFlight = 0;
  mostInFlight = 0;
  urlsGiven = 0;
  planned = 0;
  polls = ['PROCESSING', 'READY'];
  problems = new Map();
  keys = [];
  added = new Map(); // what was added under each key
  problem = null;
  isBlocked = false;
  changes = 0;

  constructor({ partSize = 8, expiresIn = 3600, sums = false } = {}) {
    Object.assign(this, { partSize, expiresIn });
    this.read = []; // what was read for its checksum
    if (sums) this.checksum = async (blob) => { this.read.push(blob.offset); await new Promise(setImmediate); return `${blob.offset}+${blob.size}v${blob.version()}`; };
    this.files = [];
    this.onPut = () => {};          // (key, piece) => void | Promise; throw to fail
    this.onSign = () => {};
    this.backend = { create: async (wish, key) => { this.keys.push(key); return this.#create(wish); }, of: () => this.#owned() };
  }

  now = () => this.time;
  random = () => 1;
  isOffline = () => this.offline;
  diagnose = async (failure) => failure;
  onChange = () => { this.changes += 1; };

  pause = async (milliseconds, signal) => {
    this.pauses.push(milliseconds);
    this.time += milliseconds;
    await new Promise(setImmediate);
    signal?.throwIfAborted();
    await this.onPause?.(milliseconds);
    signal?.throwIfAborted();
  };

  putPart = async ({ url, headers, body }, signal, onProgress) => {
    const key = url.split('?')[0];
    this.puts.push(`${key} from ${body.offset} for ${body.size}`);
    this.inFlight += 1;
    this.mostInFlight = Math.max(this.mostInFlight, this.inFlight);
    try {
      await new Promise(setImmediate);
      signal.throwIfAborted();
      onProgress(body.size / 2);
      await this.onPut(key, { url, headers, body, signal, onProgress });
      signal.throwIfAborted();
      const [id, number] = key.split('/');
      this.#holds(id).add(Number(number));
    } finally {
      this.inFlight -= 1;
    }
  };

  lose(id, ...numbers) {
    for (const number of numbers) this.#holds(id).delete(number);
  }

  #holds(id) {
    if (!this.held.has(id)) this.held.set(id, new Set());
    return this.held.get(id);
  }

  plan({ path, size, checksum_algorithm = null }) {
    const single = size <= this.partSize;
    this.planned += 1;
    const plan = {
      id: `f${this.planned}`, path, size, method: single ? 'single' : 'multipart', part_size: this.partSize,
      part_count: Math.max(1, Math.ceil(size / this.partSize)), state: 'OPEN', problem: null, checksum_algorithm,
    };
    this.files.push(plan);
    return plan;
  }

  transfer(status) {
    return { id: 't', slug: 's', link: 'https://example.test/d/s', status, title: '', expires_at: '', max_downloads: null, total_size: 0, is_blocked: this.isBlocked, problem: status === 'INIT' ? this.problem : null,
      files: this.files.map((file) => ({ ...file, problem: status === 'INIT' ? this.problems.get(file.id) ?? null : null })) };
  }

  #create({ files }) {
    this.calls.push(`create ${files.length}`);
    this.onCreate?.(files);
    this.files = [];
    this.planned = 0;
    files.forEach((file) => this.plan(file));
    return { ...this.transfer('INIT'), owner_token: 'secret' };
  }

  #owned() {
    const say = (words) => { this.calls.push(words); };
    return {
      read: async () => { const status = this.polls.length > 1 ? this.polls.shift() : this.polls[0]; say(`read ${status}`); return this.transfer(status); },
      edit: async (changes) => { say(`edit ${Object.keys(changes)}`); return { ...this.transfer('INIT'), ...changes }; },
      remove: async () => say('remove'),
      addFiles: async (specs, key) => {
        say(`add ${specs.length}`);
        if (!this.added.has(key)) this.added.set(key, specs.map((spec) => this.plan(spec)));
        await this.onAdd?.(key);
        return { files: this.added.get(key) };
      },
      removeFile: async (id) => { say(`remove ${id}`); await this.onRemove?.(id); this.files = this.files.filter((file) => file.id !== id); },
      signParts: async (wanted, sentSize, signal, sent) => {
        if (sent) this.named.push(sent);
        say(`sign ${wanted.reduce((sum, { numbers }) => sum + numbers.length, 0)} of ${wanted.length} after ${sentSize}`);
        await this.onSign(wanted, signal, sent);
        signal?.throwIfAborted();
        const parts = wanted.flatMap(({ file, numbers, crc32 }) => numbers.map((number, index) => {
          const plan = this.files.find(({ id }) => id === file);
          if (!plan) throw new Failure('gone', { status: 404 });
          this.urlsGiven += 1;
          const size = Math.min(plan.part_size, plan.size - (number - 1) * plan.part_size);
          return { file, number, url: `${file}/${number}?${this.urlsGiven}`, size, headers: { ...(plan.method === 'single' && { 'If-None-Match': '*' }), ...(crc32 && { 'x-amz-checksum-crc32': crc32[index] }) } };
        }));
        return { expires_in: this.expiresIn, parts: parts.reverse() };
      },
      held: async () => { say('held'); await this.onHeld?.(); return { files: this.files.map(({ id, state }) => ({ id, state, held: [...this.#holds(id)] })) }; },
      complete: async () => { say('complete'); await this.onComplete?.(); return this.transfer('PROCESSING'); },
    };
  }
}

/** @param {Record<string, number>} sizes */
export const picked = (sizes, options = {}) => Object.entries(sizes).map(([path, size]) => ({ path, file: new FakeBlob(size, options) }));

export const many = (count, size) => Object.fromEntries(Array.from({ length: count }, (_, index) => [`file ${index}`, size]));

/** A new transfer of files of these sizes, ready to run, and the world that it is in. */
export async function upload(sizes, world = new FakeWorld(), options = {}) {
  const one = await TransferUpload.create(picked(sizes, options), world);
  return { one, world };
}

export const refused = (status = 403) => new Failure('refused', { status });
export const network = () => new Failure('storage-unreachable');

/** Fails the puts of one piece with these, one after the other, then lets it through. */
export const failing = (key, ...failures) => (put) => {
  if (put !== key || !failures.length) return;
  throw failures.shift();
};

export const everythingHeld = (world) => world.files.every((file) => world.held.get(file.id)?.size === file.part_count);
export const putsOf = (world, key) => world.puts.filter((put) => put.startsWith(`${key} `)).length;
