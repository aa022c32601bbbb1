// From what a person drops, chooses or pastes to a list of files with their paths.

/** @typedef {{path: string, file: File}} Picked */
/** @typedef {{max_file_size?: number | null, max_transfer_size?: number | null, max_files?: number | null}} Limits */

const JUNK = /^(\.DS_Store|Thumbs\.db|desktop\.ini)$/i;

/** @param {Picked[]} picked */
const withoutJunk = (picked) => picked.filter(({ path }) => !JUNK.test(path.slice(path.lastIndexOf('/') + 1)));

/** From an input, with or without folders. @param {Iterable<File>} files @returns {Picked[]} */
export function fromFiles(files) {
  return withoutJunk(Array.from(files, (file) => ({ path: file.webkitRelativePath || file.name, file })));
}

/**
 * From a drop or a paste. The items are gone when the event is over, so they are taken hold of at once.
 * @param {DataTransfer} data @returns {Promise<Picked[]>}
 */
export function fromData(data) {
  const items = Array.from(data.items ?? []).filter((item) => item.kind === 'file');
  if (!items.length) return Promise.resolve(fromFiles(data.files));
  const found = items.map((item) => {
    const entry = item.webkitGetAsEntry?.();
    const file = entry?.isDirectory ? null : item.getAsFile();
    if (file) return Promise.resolve([{ path: file.name, file }]);
    return entry ? walk(entry) : Promise.resolve([]);
  });
  return Promise.all(found).then((lists) => withoutJunk(lists.flat()));
}

/** @param {FileSystemEntry} entry @returns {Promise<Picked[]>} */
async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((/** @type {(file: File) => void} */ resolve, reject) => /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject));
    return [{ path: entry.fullPath.replace(/^\//, ''), file }];
  }
  const picked = [];
  for (const child of await children(/** @type {FileSystemDirectoryEntry} */ (entry))) picked.push(...await walk(child));
  return picked;
}

/** A reader gives 100 at most at a time, and nothing when it is through. @param {FileSystemDirectoryEntry} folder */
async function children(folder) {
  const reader = folder.createReader();
  /** @type {FileSystemEntry[]} */ const all = [];
  for (;;) {
    const some = await new Promise((/** @type {(entries: FileSystemEntry[]) => void} */ resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all;
    all.push(...some);
  }
}

/** The same path twice gets a number: "a.txt", "a (2).txt". @param {Picked[]} picked @param {Iterable<string>} [taken] */
export function withUniquePaths(picked, taken = []) {
  const seen = new Set(taken);
  return picked.map(({ path, file }) => {
    let free = path;
    for (let count = 2; seen.has(free); count += 1) free = numbered(path, count);
    seen.add(free);
    return { path: free, file };
  });
}

/** @param {string} path @param {number} count */
function numbered(path, count) {
  const dot = path.lastIndexOf('.');
  const cut = dot > path.lastIndexOf('/') + 1 ? dot : path.length;
  return `${path.slice(0, cut)} (${count})${path.slice(cut)}`;
}

/**
 * What is too much, in plain words, or nothing. The server decides; this only saves the way there.
 * @param {Picked[]} picked @param {Limits} limits @param {(bytes: number) => string} size
 * @param {{count: number, size: number}} [already]
 */
export function tooMuch(picked, limits, size, already = { count: 0, size: 0 }) {
  const { max_file_size: perFile, max_transfer_size: inAll, max_files: count } = limits;
  const large = perFile ? picked.find(({ file }) => file.size > perFile) : undefined;
  if (large && perFile) return `“${large.path}” has ${size(large.file.size)}. One file may have ${size(perFile)} at most.`;
  if (count && picked.length + already.count > count) return `These are ${(picked.length + already.count).toLocaleString('en')} files. A transfer may have ${count.toLocaleString('en')} at most.`;
  const total = picked.reduce((sum, { file }) => sum + file.size, already.size);
  if (inAll && total > inAll) return `Together they have ${size(total)}. A transfer may have ${size(inAll)} at most.`;
  return '';
}
