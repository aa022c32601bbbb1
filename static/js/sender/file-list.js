// The list of files: a row for each file, and one that opens for each folder. Rows are made only when shown.
import { plural, size } from '../upload/progress.js';

/** @typedef {import('../upload/file-upload.js').FileUpload} FileUpload */
/** @typedef {{row: HTMLElement, files: FileUpload[], list: HTMLElement, shown: boolean, filling: boolean}} Folder */

const AT_FIRST = 200;
const PORTION = 100; // rows made in one step: thousands would freeze the page
const UNDO = 5_000; // milliseconds

export class FileList {
  #root;
  #list;
  #remove;
  #setAside;
  #bringBack;
  /** @type {Map<FileUpload, HTMLElement>} */ #rows = new Map();
  /** @type {Map<string, Folder>} */ #folders = new Map();
  /** @type {Set<FileUpload>} */ #touched = new Set();
  /** @type {FileUpload[]} */ #unshown = [];
  /** @type {Map<FileUpload, number>} */ #going = new Map();
  #failedPath = '';

  /** @param {HTMLElement} root @param {Pick<import('./panel.js').Acts, 'remove' | 'setAside' | 'bringBack'>} acts */
  constructor(root, { remove, setAside, bringBack }) {
    this.#root = root;
    this.#remove = remove;
    this.#setAside = setAside;
    this.#bringBack = bringBack;
    this.#list = /** @type {HTMLElement} */ (root.querySelector('#files'));
    this.#more.addEventListener('click', () => this.#showRest());
  }

  get #more() { return /** @type {HTMLElement} */ (this.#root.querySelector('#more-files')); }

  /** @param {FileUpload[]} files */
  show(files) {
    for (const file of files) {
      const slash = file.plan.path.indexOf('/');
      if (slash < 0) this.#unshown.push(file);
      else this.#folder(file.plan.path.slice(0, slash)).files.push(file);
      this.#touched.add(file);
    }
    this.#showMore(Math.min(files.length, Math.max(0, AT_FIRST - this.#rows.size)));
    this.refresh();
  }

  clear() {
    for (const timer of this.#going.values()) clearTimeout(timer);
    this.#list.replaceChildren();
    for (const map of [this.#rows, this.#folders, this.#going, this.#touched]) map.clear();
    this.#unshown = [];
    this.#failedPath = '';
    this.#more.hidden = true;
  }

  /** Marks a file as changed; refresh() then updates its row. @param {FileUpload} file */
  touch(file) {
    this.#touched.add(file);
  }

  /** Marks the file that stopped the upload, until it is sent again or removed. @param {string} [path] */
  fail(path = '') {
    this.#failedPath = path;
    for (const file of this.#rows.keys()) this.#touched.add(file);
    this.refresh();
  }

  refresh() {
    /** @type {Set<Folder>} */ const folders = new Set();
    for (const file of this.#touched) {
      if (file.isGone) this.#drop(file);
      const row = this.#rows.get(file);
      if (row) this.#renew(row, file);
      const folder = this.#folderOf(file);
      if (folder) folders.add(folder);
    }
    this.#touched.clear();
    folders.forEach((folder) => this.#renewFolder(folder));
  }

  // --- Rows --------------------------------------------------------------------------------------

  /** @param {number} count @returns {HTMLElement | undefined} the first of them */
  #showMore(count) {
    const rows = this.#unshown.splice(0, count).map((file) => this.#row(file, file.plan.path));
    this.#list.append(...rows);
    this.#more.hidden = !this.#unshown.length;
    this.#more.textContent = `Show ${plural(this.#unshown.length, 'more file', 'more files')}`;
    return rows[0];
  }

  async #showRest() {
    // The button disappears, so the focus moves to the first row that it has added.
    this.#showMore(PORTION)?.querySelector('button')?.focus();
    while (this.#unshown.length) {
      await breath();
      this.#showMore(PORTION);
    }
  }

  /** @param {FileUpload} file @param {string} name */
  #row(file, name) {
    const row = this.#clone('row');
    nameInto(row, name);
    part(row, '.file-size').textContent = size(file.plan.size);
    const button = part(row, 'button');
    button.setAttribute('aria-label', `Remove ${file.plan.path}`);
    button.addEventListener('click', () => this.#toggle(file, row));
    this.#rows.set(file, row);
    this.#renew(row, file);
    return row;
  }

  /** @param {HTMLElement} row @param {FileUpload} file */
  #renew(row, file) {
    const { size: whole, path } = file.plan;
    if (file.isMoving && this.#failedPath === path) this.#failedPath = '';
    const [state, icon, words] = file.aside ? ['removed', 'remove', 'Removed']
      : file.isStored ? ['sent', 'done', 'Sent']
      : this.#failedPath === path ? ['failed', 'alert', 'Failed']
      : file.sentSize ? ['sending', 'sending', `${Math.floor(100 * file.sentSize / whole)} %`]
      : ['waiting', 'waiting', 'Waiting'];
    const line = part(row, '.file-state');
    if (line.textContent !== words) line.textContent = words;
    if (row.dataset.state === state) return;
    row.dataset.state = state;
    row.querySelector('.icon use')?.setAttribute('href', `#i-${icon}`);
  }

  // --- Removing, which can be undone for a few seconds ---------------------------------------------

  /** @param {FileUpload} file @param {HTMLElement} row */
  #toggle(file, row) {
    if (this.#going.has(file)) return this.#undo(file, row);
    if (!this.#setAside(file)) return undefined;
    const button = part(row, 'button');
    button.className = 'button button-small';
    button.textContent = 'Undo';
    button.setAttribute('aria-label', `Undo removing ${file.plan.path}`);
    this.#going.set(file, window.setTimeout(() => this.#removeNow(file, row), UNDO));
    return undefined;
  }

  /** @param {FileUpload} file @param {HTMLElement} row */
  #undo(file, row) {
    clearTimeout(this.#going.get(file));
    this.#going.delete(file);
    this.#bringBack(file);
    const fresh = this.#row(file, part(row, '.name').title);
    row.replaceWith(fresh);
    part(fresh, 'button').focus();
  }

  /** @param {FileUpload} file @param {HTMLElement} row */
  async #removeNow(file, row) {
    this.#going.delete(file);
    if (await this.#remove(file)) this.refresh();
    else if (row.isConnected) row.replaceWith(this.#row(file, part(row, '.name').title));
  }

  /** @param {FileUpload} file */
  #drop(file) {
    clearTimeout(this.#going.get(file));
    this.#going.delete(file);
    // Another file may be added under the same path.
    if (file.plan.path === this.#failedPath) this.#failedPath = '';
    let row = this.#rows.get(file);
    this.#rows.delete(file);
    this.#unshown = this.#unshown.filter((one) => one !== file);
    this.#showMore(0);
    const folder = this.#folderOf(file);
    if (folder) {
      folder.files = folder.files.filter((one) => one !== file);
      if (!folder.files.length) ({ row } = folder);
    }
    if (!row) return;
    // The same folder may be added again.
    if (row === folder?.row) this.#folders.delete(part(row, '.name').title);
    const next = row.nextElementSibling ?? row.previousElementSibling;
    const focused = row.contains(document.activeElement);
    row.remove();
    if (focused) /** @type {HTMLElement | null | undefined} */ (next?.querySelector('button, summary'))?.focus();
  }

  // --- Folders -----------------------------------------------------------------------------------

  /** @param {FileUpload} file */
  #folderOf(file) {
    const { path } = file.plan;
    return path.includes('/') ? this.#folders.get(path.slice(0, path.indexOf('/'))) : undefined;
  }

  /** @param {string} name */
  #folder(name) {
    const known = this.#folders.get(name);
    if (known) return known;
    const row = this.#clone('folder-row');
    /** @type {Folder} */ const folder = { row, files: [], list: part(row, 'ul'), shown: false, filling: false };
    nameInto(row, name);
    row.querySelector('details')?.addEventListener('toggle', () => this.#open(folder, name));
    this.#folders.set(name, folder);
    this.#list.append(row);
    return folder;
  }

  /** @param {Folder} folder @param {string} name */
  async #open(folder, name) {
    folder.shown = true;
    if (folder.filling) return;
    folder.filling = true;
    for (let unmade = folder.files; unmade.length; await breath()) {
      unmade = folder.files.filter((file) => !this.#rows.has(file));
      if (!folder.row.isConnected) break;
      folder.list.append(...unmade.slice(0, PORTION).map((file) => this.#row(file, file.plan.path.slice(name.length + 1))));
    }
    folder.filling = false;
  }

  /** @param {Folder} folder */
  #renewFolder(folder) {
    const { row, files } = folder;
    const stored = files.filter((file) => file.isStored).length;
    part(row, '.file-state').textContent = stored === files.length ? `${plural(files.length, 'file')} sent` : `${stored} of ${plural(files.length, 'file')}`;
    part(row, '.file-size').textContent = size(files.reduce((sum, file) => sum + file.plan.size, 0));
    const list = part(row, 'ul');
    if (folder.shown && list.childElementCount < files.length) void this.#open(folder, part(row, '.name').title);
  }

  /** @param {string} id */
  #clone(id) {
    const template = /** @type {HTMLTemplateElement} */ (this.#root.querySelector(`#${id}`));
    return /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
  }
}

/** Lets the browser paint and handle events. */
const breath = () => new Promise((resolve) => { setTimeout(resolve); });

/** @param {ParentNode} within @param {string} selector */
function part(within, selector) {
  return /** @type {HTMLElement} */ (within.querySelector(selector));
}

// A long name is cut in its middle, so that its end, where names differ, stays visible.
/** @param {HTMLElement} row @param {string} name */
function nameInto(row, name) {
  const whole = part(row, '.name');
  whole.title = name;
  whole.dir = 'auto';
  const tail = endOfName(name);
  if (!tail) {
    whole.textContent = name;
    return;
  }
  const [spoken, cut, start, end] = ['visually-hidden', 'name-cut', 'name-start', 'name-end'].map((kind) => {
    const span = document.createElement('span');
    span.className = kind;
    return span;
  });
  spoken.textContent = name;
  start.textContent = name.slice(0, -tail.length);
  end.textContent = tail;
  cut.dir = 'auto';
  cut.setAttribute('aria-hidden', 'true');
  cut.append(start, end);
  whole.replaceChildren(spoken, cut);
}

/** The end of a name that is never cut off, as in app/words.py. Only ASCII, because other letters may join their neighbours. @param {string} name */
export function endOfName(name) {
  return name.length > 14 && /[ -~]{1,10}$/.exec(name)?.[0] || '';
}
