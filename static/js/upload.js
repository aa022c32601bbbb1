// The entry of the first page: takes hold of what is dropped, chosen or pasted, and hands it to the view.
// The engine is loaded when the page has come to rest, or at the first sign that it is wanted.
import { fromData, fromFiles } from './upload/pick-files.js';

/** @typedef {import('./upload/pick-files.js').Picked} Picked */

/** @type {Promise<import('./upload/view.js').SenderView> | undefined} */
let loading;
const view = () => {
  loading ??= import('./upload/view.js').then(({ SenderView }) => new SenderView(element('sender')));
  loading.catch(() => { loading = undefined; });
  return loading;
};

/** @param {string} id */
function element(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @param {Promise<Picked[]>} picking @param {boolean} [deliberate] a paste without files is nobody's mistake */
async function accept(picking, deliberate = true) {
  try {
    const [sender, picked] = await Promise.all([view(), picking]);
    if (picked.length) await sender.accept(picked);
    else if (deliberate) sender.notice('There are no files in that.');
  } catch (error) {
    const notice = element('notice');
    notice.textContent = 'That could not be read. Check your connection and try again.';
    notice.hidden = false;
    console.error(error);
  }
}

for (const [button, input] of [['choose-files', 'files-input'], ['add-files', 'files-input'], ['choose-folder', 'folder-input']]) {
  const field = /** @type {HTMLInputElement} */ (element(input));
  element(button).addEventListener('click', () => field.click());
}
for (const id of ['files-input', 'folder-input']) {
  const field = /** @type {HTMLInputElement} */ (element(id));
  field.addEventListener('change', () => {
    const picked = fromFiles(field.files ?? []);
    field.value = '';
    void accept(Promise.resolve(picked));
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
  void accept(fromData(event.dataTransfer));
});
document.addEventListener('paste', (event) => {
  if (!event.clipboardData?.types.includes('Files')) return;
  event.preventDefault();
  void accept(fromData(event.clipboardData), false);
});

addEventListener('load', () => setTimeout(view, 1000));
