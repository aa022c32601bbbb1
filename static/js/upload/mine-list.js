// "Sent from this device": a quiet list below the drop area. Nothing is asked of anybody to show it.
import { all, forget, manageUrl } from './mine.js';

/** @param {HTMLElement} card */
export function showMine(card) {
  const list = /** @type {HTMLElement} */ (card.querySelector('ul'));
  const template = /** @type {HTMLTemplateElement} */ (document.getElementById('mine-row'));
  list.replaceChildren(...all().map((one) => row(template, one, () => leave(card, list, one.id))));
  card.hidden = !list.children.length;
}

/** @param {HTMLTemplateElement} template @param {import('./mine.js').Mine} one @param {() => void} onForget */
function row(template, { id, token, title, at }, onForget) {
  const made = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
  const link = /** @type {HTMLAnchorElement} */ (made.querySelector('a'));
  link.href = manageUrl(id, token);
  link.textContent = title;
  link.title = title;
  const when = /** @type {HTMLElement} */ (made.querySelector('time'));
  when.setAttribute('datetime', at);
  when.textContent = new Date(at).toLocaleDateString(undefined, { day: 'numeric', month: 'short', year: 'numeric' });
  const button = /** @type {HTMLElement} */ (made.querySelector('button'));
  button.setAttribute('aria-label', `Forget ${title} on this device`);
  button.addEventListener('click', onForget);
  return made;
}

/** @param {HTMLElement} card @param {HTMLElement} list @param {string} id */
function leave(card, list, id) {
  forget(id);
  showMine(card);
  // The focus goes to what has taken its place, or back to where a new one begins.
  const next = list.querySelector('button') ?? document.getElementById('choose-files');
  next?.focus();
}
