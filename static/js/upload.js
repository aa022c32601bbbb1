// Entry point of the home page: passes dropped, chosen or pasted files to the view. The engine is loaded one
// second after the page, or earlier if it is needed.
import { askForHandles, fromData, fromFiles, fromHandles, leftOut } from './upload/pick-files.js';

/** @typedef {import('./upload/pick-files.js').Found} Found */
/** @typedef {(picking: Promise<Found>) => void} Take */

/** @type {Promise<import('./sender/view.js').SenderView> | undefined} */
let loading;
const view = () => {
  loading ??= import('./sender/view.js').then(({ SenderView }) => SenderView.on(element('sender')));
  loading.catch(() => { loading = undefined; });
  return loading;
};

/** @param {string} id */
function element(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @param {Promise<Found>} picking @param {boolean} [deliberate] false for a paste, which gets no message if it has no files */
async function accept(picking, deliberate = true) {
  try {
    const [sender, { picked, unreadable }] = await Promise.all([view(), picking]);
    if (picked.length) await sender.accept(picked, unreadable);
    else if (unreadable.length) sender.notice(leftOut(unreadable));
    else if (deliberate) sender.notice('There are no files in that.');
  } catch (error) {
    const notice = element('notice');
    notice.textContent = 'That could not be read. Check your connection and try again.';
    notice.hidden = false;
    console.error(error);
  }
}

// Receives the next files of the inputs: the new transfer, or the offer that asked for them.
/** @type {Take} */ let taker = accept;

/** @param {'files' | 'folder'} kind @param {Take} take */
async function choose(kind, take) {
  const handles = await askForHandles(kind === 'files' ? 'showOpenFilePicker' : 'showDirectoryPicker');
  if (handles?.length) take(fromHandles(handles));
  if (handles) return;
  taker = take;
  element(`${kind}-input`).click();
}

element('choose-files').addEventListener('click', () => choose('files', accept));
element('add-files').addEventListener('click', () => choose('files', accept));
element('choose-folder').addEventListener('click', () => choose('folder', accept));
for (const id of ['files-input', 'folder-input']) {
  const field = /** @type {HTMLInputElement} */ (element(id));
  field.addEventListener('change', () => {
    const picked = fromFiles(field.files ?? []);
    field.value = '';
    const take = taker;
    taker = accept;
    take(Promise.resolve({ picked, unreadable: [] }));
  });
}
if (!('webkitdirectory' in HTMLInputElement.prototype)) element('choose-folder').hidden = true;

const veil = element('veil');
/** @param {DragEvent} event */
const bringsFiles = (event) => event.dataTransfer?.types.includes('Files') ?? false;

document.addEventListener('dragover', (event) => {
  if (!bringsFiles(event)) return;
  event.preventDefault();
  void view();
  veil.hidden = false;
});
// Whoever moves on enters the next element before leaving the last one. (Safari has no relatedTarget in these events.)
/** @type {EventTarget | null} */ let entered = null;
document.addEventListener('dragenter', ({ target }) => { entered = target; });
document.addEventListener('dragleave', ({ target }) => { if (target === entered) veil.hidden = true; });
document.addEventListener('drop', (event) => {
  veil.hidden = true;
  if (!bringsFiles(event) || !event.dataTransfer) return;
  event.preventDefault();
  const detail = fromData(event.dataTransfer);
  const offer = event.target instanceof Element ? event.target.closest('.offer') : null;
  // An offer takes the files by cancelling the event.
  if (offer?.dispatchEvent(new CustomEvent('files', { detail, cancelable: true })) !== false) void accept(detail);
});
document.addEventListener('paste', (event) => {
  // In a text field a paste is text, even if the clipboard also holds a picture of it.
  if (event.target instanceof Element && event.target.matches('textarea, input:not([type="checkbox"])')) return;
  if (!event.clipboardData?.types.includes('Files')) return;
  event.preventDefault();
  void accept(fromData(event.clipboardData), false);
});

addEventListener('load', () => setTimeout(view, 1000));

// Whether IndexedDB may hold unfinished uploads; if not, nothing more is loaded. (Browsers without
// indexedDB.databases() always look.)
async function remembersSomething() {
  const kept = await indexedDB.databases?.();
  return !kept || kept.some(({ name }) => name === 'beeline');
}
remembersSomething().then(async (something) => {
  if (!something) return;
  const { Offers } = await import('./sender/offers.js');
  const { addsTo, wish } = element('sender').dataset;
  const only = addsTo && JSON.parse(addsTo).id;
  const asked = wish && JSON.parse(wish).file_request;
  /** @param {import('./upload/memory.js').Row} row */
  const isHere = ({ id, adds, request }) => (only ? Boolean(adds) && id === only : !asked || request === asked);
  await new Offers(element('offers'), { choose, start: async (resumed) => (await view()).resume(resumed), isHere }).show();
}).catch(() => { /* Without IndexedDB there is nothing to offer. */ });

// Lists what was sent from this browser. The only request is for the script that does it.
async function showSent() {
  const card = document.getElementById('mine');
  const isKept = Object.keys(localStorage).some((key) => key.startsWith('beeline-sent:'));
  if (card && (isKept || !card.hidden)) (await import('./sender/mine-list.js')).showMine(card);
}
const tellSent = () => { showSent().catch(() => { /* Without storage there is no list. */ }); };
tellSent();
// Restored from the back/forward cache: a transfer may have been deleted on another page.
addEventListener('pageshow', ({ persisted }) => { if (persisted) tellSent(); });
