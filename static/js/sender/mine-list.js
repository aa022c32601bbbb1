// "Sent from this device": a list below the drop area, made from localStorage without any request.
import { exactly, say } from '../page.js';
import { all, forget, keep, manageUrl } from './mine.js';

const UNDO = 5_000; // milliseconds

/** @param {HTMLElement} card */
export function showMine(card) {
  const list = /** @type {HTMLElement} */ (card.querySelector('ul'));
  list.replaceChildren(...all().map((one) => row(card, one)));
  card.hidden = !list.children.length;
}

/** @param {HTMLElement} card @param {import('./mine.js').Mine} one */
function row(card, one) {
  const { id, title, at } = one;
  const template = /** @type {HTMLTemplateElement} */ (document.getElementById('mine-row'));
  const made = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
  const [link, when, button] = /** @type {[HTMLAnchorElement, HTMLElement, HTMLElement]} */ ([...made.children]);
  link.href = manageUrl(one, one.token);
  link.textContent = title;
  link.title = title;
  when.setAttribute('datetime', at);
  when.textContent = new Date(at).toLocaleDateString(undefined, { day: 'numeric', month: 'short', year: 'numeric' });
  when.title = exactly(new Date(at));
  button.setAttribute('aria-label', `Forget ${title} on this device`);
  let timer = 0;
  button.addEventListener('click', () => {
    if (timer) return undo();
    // Forgotten immediately, so that leaving the page does not undo it. The button stays, and keeps the focus.
    forget(id);
    made.dataset.state = 'removed';
    when.textContent = 'Forgotten';
    button.className = 'button button-small';
    button.textContent = 'Undo';
    button.setAttribute('aria-label', `Undo forgetting ${title}`);
    say(`Forgotten: ${title}. It can be undone for ${UNDO / 1000} seconds.`);
    timer = window.setTimeout(() => remove(card, made), UNDO);
    return undefined;
  });

  function undo() {
    clearTimeout(timer);
    keep(one);
    const fresh = row(card, one);
    made.replaceWith(fresh);
    fresh.querySelector('button')?.focus();
    say('It was not forgotten.');
  }
  return made;
}

/** @param {HTMLElement} card @param {HTMLElement} made */
function remove(card, made) {
  const next = made.nextElementSibling ?? made.previousElementSibling;
  const focused = made.contains(document.activeElement);
  made.remove();
  card.hidden = !next;
  // The focus moves to the next row, or to where a new upload begins.
  if (focused) (next?.querySelector('a') ?? document.getElementById('choose-files'))?.focus();
}
