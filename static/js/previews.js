// Looking at a file without leaving the page: its preview opens below its row, by mouse and by key, one at a time.
// Without this script each is a link to a page of its own.
import { renewTransfer } from './page.js';

const OPEN = 'a[data-look][aria-expanded="true"]';
const TOLD = '.did-not:not([hidden])';

/** @param {Element} link */
const regionOf = (link) => document.getElementById(link.getAttribute('aria-controls') ?? '');

/** @param {Element} link */
function close(link) {
  link.setAttribute('aria-expanded', 'false');
  const region = regionOf(link);
  if (!region) return;
  region.hidden = true;
  // A player would go on being heard.
  region.replaceChildren();
}

/** @param {Element} link */
function open(link) {
  for (const other of document.querySelectorAll(OPEN)) close(other);
  link.setAttribute('aria-expanded', 'true');
  link.dispatchEvent(new CustomEvent('look'));
}

document.addEventListener('click', (event) => {
  const link = event.target instanceof Element ? event.target.closest('a[data-look]') : null;
  // In a new tab it is a page of its own; so it is as long as htmx is not there.
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || !('htmx' in window)) return;
  event.preventDefault();
  if (link.matches(OPEN)) close(link);
  else open(link);
});

document.addEventListener('keydown', (event) => {
  const link = document.querySelector(OPEN);
  if (event.key !== 'Escape' || event.defaultPrevented || document.fullscreenElement || !(link instanceof HTMLElement)) return;
  const isWithin = regionOf(link)?.contains(document.activeElement);
  close(link);
  if (isWithin) link.focus();
});

document.addEventListener('htmx:beforeSwap', (event) => {
  const region = event.target instanceof Element && event.target.matches('.seen') ? event.target : null;
  const link = region && document.querySelector(`[aria-controls="${region.id}"]`);
  // Closed again before it came.
  if (link && !link.matches(OPEN)) event.preventDefault();
});

document.addEventListener('htmx:afterSwap', (event) => {
  if (!(event.target instanceof HTMLElement) || !event.target.matches('.seen')) return;
  event.target.hidden = false;
  event.target.scrollIntoView({ block: 'nearest' });
});

for (const failure of ['htmx:sendError', 'htmx:responseError']) {
  document.addEventListener(failure, (event) => {
    // The page of its own says what is wrong, or has it after all.
    if (event.target instanceof HTMLAnchorElement && event.target.matches('[data-look]')) location.assign(event.target.href);
  });
}

// --- The region around it is renewed after a download: what was open is opened again. ---

let reopen = '';

document.addEventListener('htmx:beforeSwap', (event) => {
  if (event.target instanceof Element && event.target.id === 'transfer') reopen = document.querySelector(OPEN)?.id ?? '';
});

document.addEventListener('htmx:afterSettle', () => {
  const link = reopen ? document.getElementById(reopen) : null;
  reopen = '';
  if (link) open(link);
});

// --- Whoever comes early sees pictures appear: the page looks again a few times, less and less often. ---

let looks = 0;

function lookAgain() {
  const from = document.getElementById('transfer')?.dataset.coming;
  if (!from || looks === 8) return;
  setTimeout(() => {
    // Nothing is taken away from under whoever looks at something or reads what went wrong; then it can wait.
    if (document.hidden || document.querySelector(OPEN) || document.querySelector(TOLD)) lookAgain();
    else renewTransfer(from);
  }, 1000 * 2 ** looks++);
}

lookAgain();
document.addEventListener('htmx:afterSettle', (event) => {
  // The event's target is what was there before or what is there now, as htmx has it.
  if (event.target instanceof Element && event.target.id === 'transfer') lookAgain();
});

// --- A signed address lives for minutes, a film for hours: then there is a fresh one at the same place. ---

/** @type {WeakMap<HTMLMediaElement, number>} */
const renewed = new WeakMap();

document.addEventListener('error', (event) => {
  const media = event.target;
  if (!(media instanceof HTMLMediaElement) || !media.currentTime || renewed.get(media) === media.currentTime) return;
  const at = media.currentTime;
  renewed.set(media, at);
  media.addEventListener('loadedmetadata', () => { media.currentTime = at; }, { once: true });
  media.load();
  void media.play().catch(() => {});
}, true);
