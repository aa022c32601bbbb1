// Turns what was dropped, chosen or pasted into a list of files with their paths. Where the browser provides file handles
// they are kept: with a handle, a file can be opened again after a reload without choosing it again.

/**
 * @typedef {object} Picked
 * @property {string} path
 * @property {File} file
 * @property {FileSystemHandle} [handle] of the file, or of the folder that it was found in
 * @property {string} [from] its original path, if that had to be changed
 */
/** @typedef {{picked: Picked[], unreadable: string[]}} Found unreadable: paths of files that could not be opened */
/** @typedef {{max_file_size?: number | null, max_transfer_size?: number | null, max_files?: number | null}} Limits */

const JUNK = /^(\.DS_Store|Thumbs\.db|desktop\.ini|Icon\r)$/i;
const AT_ONCE = 64; // files of a folder that are opened in parallel

/** @param {string} path */
const isJunk = (path) => JUNK.test(path.slice(path.lastIndexOf('/') + 1));

// Files of a folder come in the order of the disk, so they are sorted. Single files keep the order in which they were chosen.
const { compare } = new Intl.Collator(undefined, { numeric: true });
/** @param {Picked} a @param {Picked} b */
const byPath = (a, b) => compare(a.path, b.path);

/** From a file input, with or without folders. @param {Iterable<File>} files @returns {Picked[]} */
export function fromFiles(files) {
  const picked = Array.from(files, (file) => ({ path: file.webkitRelativePath || file.name, file })).filter(({ path }) => !isJunk(path));
  return picked[0]?.file.webkitRelativePath ? picked.sort(byPath) : picked;
}

/**
 * Opens the file dialog that returns handles. The list is empty if the dialog was cancelled; null if the browser has no
 * such dialog, or on phones, where a plain file input is better because it also offers camera and gallery.
 * @param {'showOpenFilePicker' | 'showDirectoryPicker'} dialog @returns {Promise<FileSystemHandle[] | null>}
 */
export async function askForHandles(dialog) {
  const browser = /** @type {any} */ (globalThis);
  if (!browser[dialog] || browser.navigator.userAgentData?.mobile) return null;
  try {
    return [await browser[dialog]({ multiple: true })].flat();
  } catch (error) {
    return /** @type {Error} */ (error).name === 'AbortError' ? [] : null;
  }
}

/** @param {FileSystemHandle[]} handles @returns {Promise<Found>} */
export async function fromHandles(handles) {
  /** @type {Found[]} */ const found = [];
  for (const handle of handles) found.push(await open(handle));
  return together(found);
}

/**
 * From a drop or a paste. The items are only valid during the event, so all of them are accessed synchronously.
 * @param {DataTransfer} data @returns {Promise<Found>}
 */
export function fromData(data) {
  const items = Array.from(data.items ?? []).filter((item) => item.kind === 'file');
  if (!items.length) return Promise.resolve({ picked: fromFiles(data.files), unreadable: [] });
  const found = items.map((item) => {
    const entry = item.webkitGetAsEntry?.();
    const file = entry?.isDirectory ? null : item.getAsFile();
    /** @type {Promise<FileSystemHandle | null> | undefined} */
    const handle = /** @type {any} */ (item).getAsFileSystemHandle?.();
    return fromItem(file, entry, handle);
  });
  return Promise.all(found).then(together);
}

/** @param {File | null} file @param {FileSystemEntry | null} entry @param {Promise<FileSystemHandle | null>} [asked] @returns {Promise<Found>} */
async function fromItem(file, entry, asked) {
  // Pasted files have no handle. Where getting or reading one fails, the older entry API still works.
  const handle = await asked?.catch(() => null);
  if (file) return openFile(file.name, async () => file, handle);
  const found = handle && await open(handle).catch((error) => (entry ? null : Promise.reject(error)));
  if (found && (found.picked.length || !entry)) return found;
  return entry ? walk(entry) : together([]);
}

/** @param {FileSystemHandle} handle @returns {Promise<Found>} */
async function open(handle) {
  if (handle.kind === 'file') return openFile(handle.name, () => /** @type {FileSystemFileHandle} */ (handle).getFile(), handle);
  /** @type {[path: string, handle: FileSystemFileHandle][]} */ const files = [];
  const folders = [{ path: handle.name, folder: /** @type {FileSystemDirectoryHandle} */ (handle) }];
  for (const { path, folder } of folders) {
    for await (const child of /** @type {AsyncIterable<FileSystemHandle>} */ (/** @type {any} */ (folder).values())) {
      const at = `${path}/${child.name}`;
      if (child.kind === 'directory') folders.push({ path: at, folder: /** @type {FileSystemDirectoryHandle} */ (child) });
      else files.push([at, /** @type {FileSystemFileHandle} */ (child)]);
    }
  }
  /** @type {Found[]} */ const found = [];
  while (files.length) found.push(...await Promise.all(files.splice(0, AT_ONCE).map(([path, one]) => openFile(path, () => one.getFile(), handle))));
  return sorted(together(found));
}

/** @param {FileSystemEntry} entry @returns {Promise<Found>} */
async function walk(entry) {
  if (entry.isFile) {
    return openFile(entry.fullPath.replace(/^\//, ''), () => new Promise((resolve, reject) => /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject)));
  }
  /** @type {Found[]} */ const found = [];
  for (const child of await children(/** @type {FileSystemDirectoryEntry} */ (entry))) found.push(await walk(child));
  return sorted(together(found));
}

// A file that cannot be opened (no permission, or deleted after its folder was listed) does not prevent the others from being sent.
/** @param {string} path @param {() => Promise<File>} getFile @param {FileSystemHandle | null} [handle] @returns {Promise<Found>} */
async function openFile(path, getFile, handle) {
  if (isJunk(path)) return together([]);
  try {
    return { picked: [{ path, file: await getFile(), ...(handle && { handle }) }], unreadable: [] };
  } catch {
    return { picked: [], unreadable: [path] };
  }
}

/** @param {Found[]} all @returns {Found} */
function together(all) {
  return { picked: all.flatMap(({ picked }) => picked), unreadable: all.flatMap(({ unreadable }) => unreadable) };
}

/** @param {Found} found @returns {Found} */
function sorted({ picked, unreadable }) {
  return { picked: picked.sort(byPath), unreadable };
}

/** A reader returns at most 100 entries at a time, and none at the end. @param {FileSystemDirectoryEntry} folder */
async function children(folder) {
  const reader = folder.createReader();
  /** @type {FileSystemEntry[]} */ const all = [];
  for (;;) {
    const some = await new Promise((/** @type {(entries: FileSystemEntry[]) => void} */ resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all;
    all.push(...some);
  }
}

/** Numbers paths that occur more than once: "a.txt", "a (2).txt". @param {Picked[]} picked @param {Iterable<string>} [taken] @returns {Picked[]} */
export function withUniquePaths(picked, taken = []) {
  const seen = new Set(taken);
  return picked.map((one) => {
    let free = one.path;
    for (let count = 2; seen.has(free); count += 1) free = numbered(one.path, count);
    seen.add(free);
    return free === one.path ? one : { ...one, path: free, from: one.from ?? one.path };
  });
}

/** @param {string} path @param {number} count */
function numbered(path, count) {
  const dot = path.lastIndexOf('.');
  const cut = dot > path.lastIndexOf('/') + 1 ? dot : path.length;
  return `${path.slice(0, cut)} (${count})${path.slice(cut)}`;
}

/** The words for files that could not be opened. @param {string[]} unreadable */
export function leftOut([first, ...others]) {
  if (!others.length) return `“${first}” could not be read and was left out.`;
  return `“${first}” and ${others.length.toLocaleString('en')} ${others.length === 1 ? 'other file' : 'other files'} could not be read and were left out.`;
}

/**
 * Says which limit is exceeded, or returns an empty string. The server checks too; this only saves a request.
 * @param {Picked[]} picked @param {Limits} limits @param {(bytes: number) => string} size
 * @param {{count: number, size: number}} [already]
 */
export function tooMuch(picked, limits, size, already = { count: 0, size: 0 }) {
  const { max_file_size: perFile, max_transfer_size: inAll, max_files: count } = limits;
  const large = perFile ? picked.find(({ file }) => file.size > perFile) : undefined;
  if (large && perFile) return `“${large.path}” is ${size(large.file.size)}. A file may be at most ${size(perFile)}.`;
  if (count && picked.length + already.count > count) return `These are ${(picked.length + already.count).toLocaleString('en')} files. A transfer may have at most ${count.toLocaleString('en')}.`;
  const total = picked.reduce((sum, { file }) => sum + file.size, already.size);
  if (inAll && total > inAll) return `Together they are ${size(total)}. A transfer may be at most ${size(inAll)}.`;
  return '';
}
