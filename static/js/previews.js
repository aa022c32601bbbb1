// Previews that open below a file's row, by mouse or keyboard, one at a time. Without this script each is a link
// to a page of its own.
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
  // A hidden player would go on playing.
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
  // The browser follows the link to the preview's own page: in a new tab, or while htmx is not loaded.
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
  // Closed again before the preview arrived.
  if (link && !link.matches(OPEN)) event.preventDefault();
});

document.addEventListener('htmx:afterSwap', (event) => {
  if (!(event.target instanceof HTMLElement) || !event.target.matches('.seen')) return;
  event.target.hidden = false;
  event.target.scrollIntoView({ block: 'nearest' });
});

for (const failure of ['htmx:sendError', 'htmx:responseError']) {
  document.addEventListener(failure, (event) => {
    // The preview's own page shows what is wrong, or succeeds after all.
    if (event.target instanceof HTMLAnchorElement && event.target.matches('[data-look]')) location.assign(event.target.href);
  });
}

// --- The surrounding region is replaced after a download: an open preview is opened again. ---

let reopen = '';

document.addEventListener('htmx:beforeSwap', (event) => {
  if (event.target instanceof Element && event.target.id === 'transfer') reopen = document.querySelector(OPEN)?.id ?? '';
});

document.addEventListener('htmx:afterSettle', () => {
  const link = reopen ? document.getElementById(reopen) : null;
  reopen = '';
  if (link) open(link);
});

// --- Previews that are still being made: the page asks again a few times, at growing intervals. ---

let looks = 0;

function lookAgain() {
  const from = document.getElementById('transfer')?.dataset.coming;
  if (!from || looks === 8) return;
  setTimeout(() => {
    // Wait while the page is hidden, or shows a preview or an error that reloading would remove.
    if (document.hidden || document.querySelector(OPEN) || document.querySelector(TOLD)) lookAgain();
    else renewTransfer(from);
  }, 1000 * 2 ** looks++);
}

lookAgain();
document.addEventListener('htmx:afterSettle', (event) => {
  // Depending on htmx, the target is the replaced element or the new one; both have this id.
  if (event.target instanceof Element && event.target.id === 'transfer') lookAgain();
});

// --- A presigned URL is valid for minutes, a film lasts hours: load() then gets a fresh one and seeks back. ---

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
