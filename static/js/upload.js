// The entry of the first page: takes hold of what is dropped, chosen or pasted, and hands it to the view.
// The engine is loaded when the page has come to rest, or at the first sign that it is wanted.
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

/** @param {Promise<Found>} picking @param {boolean} [deliberate] a paste without files is nobody's mistake */
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

// Who gets what the input brings next: the transfer to be, unless an offer asked for it.
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
document.addEventListener('dragleave', (event) => { if (!event.relatedTarget) veil.hidden = true; });
document.addEventListener('drop', (event) => {
  veil.hidden = true;
  if (!bringsFiles(event) || !event.dataTransfer) return;
  event.preventDefault();
  const detail = fromData(event.dataTransfer);
  const offer = event.target instanceof Element ? event.target.closest('.offer') : null;
  // An offer that wants files says so by taking them.
  if (offer?.dispatchEvent(new CustomEvent('files', { detail, cancelable: true })) !== false) void accept(detail);
});
document.addEventListener('paste', (event) => {
  // Where one types, a paste is text, though some programs put a picture of it beside it.
  if (event.target instanceof Element && event.target.matches('textarea, input:not([type="checkbox"])')) return;
  if (!event.clipboardData?.types.includes('Files')) return;
  event.preventDefault();
  void accept(fromData(event.clipboardData), false);
});

addEventListener('load', () => setTimeout(view, 1000));

// Who never began anything here loads nothing more. (Not every browser can tell; those look.)
async function remembersSomething() {
  const kept = await indexedDB.databases?.();
  return !kept || kept.some(({ name }) => name === 'beeline');
}
remembersSomething().then(async (something) => {
  if (!something) return;
  const { Offers } = await import('./sender/offers.js');
  const { addsTo } = element('sender').dataset;
  const only = addsTo && JSON.parse(addsTo).id;
  await new Offers(element('offers'), { choose, start: async (resumed) => (await view()).resume(resumed), only }).show();
}).catch(() => { /* Without a memory there is nothing to offer. */ });

// So is what was sent from here before: no request but for the script that shows it.
async function showSent() {
  const card = document.getElementById('mine');
  const isKept = Object.keys(localStorage).some((key) => key.startsWith('beeline-sent:'));
  if (card && (isKept || !card.hidden)) (await import('./sender/mine-list.js')).showMine(card);
}
const tellSent = () => { showSent().catch(() => { /* Nothing is kept here. */ }); };
tellSent();
// Back from a page on which one of them was deleted.
addEventListener('pageshow', ({ persisted }) => { if (persisted) tellSent(); });
