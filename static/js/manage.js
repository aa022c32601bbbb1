// The manage page: nothing is replaced while it is in use, and deleting can be undone for some seconds. Without
// this script everything works through plain forms.
import { complain, isPage, keepRegion, say } from './page.js';

const SECONDS = 7;
const TOLD = '[data-told], [role="alert"]';

/** @param {string} id */
const get = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

// --- Regions that htmx replaces ----------------------------------------------------------------

document.addEventListener('htmx:beforeRequest', (event) => {
  const { elt, requestConfig } = /** @type {CustomEvent} */ (event).detail;
  // A region does not poll while something in it is pressed or an address is being typed.
  const isAtWork = elt.matches(':active') || (elt.id === 'manage-people' && elt.contains(document.activeElement));
  if (requestConfig.verb === 'get' && isAtWork) event.preventDefault();
});

document.addEventListener('htmx:beforeSwap', (event) => {
  const { detail } = /** @type {CustomEvent} */ (event);
  // A whole page instead of the region must not be put in its place.
  if (isPage(detail.xhr)) detail.shouldSwap = false;
});

document.addEventListener('htmx:afterRequest', (event) => {
  const { xhr, requestConfig } = /** @type {CustomEvent} */ (event).detail;
  if (requestConfig.verb !== 'get' && isPage(xhr)) complain(requestConfig.elt);
});

keepRegion({
  within: '#manage',
  state: '#manage-now',
  fallbacks: (focused) => {
    const region = focused.closest('#manage > section');
    // If the pressed button is gone, the focus moves to the result.
    return region ? [`#${region.id} :is(${TOLD})`, `#${region.id} :is(h1, h2)`] : [];
  },
});

document.addEventListener('htmx:afterSettle', (event) => {
  const target = /** @type {Element} */ (event.target);
  const told = target.querySelector(TOLD);
  if (told) say(told.textContent ?? '');
  const wrong = target.querySelector('[aria-invalid="true"]');
  if (wrong instanceof HTMLElement) wrong.focus();
});

document.addEventListener('keydown', ({ key, target }) => {
  const asked = key === 'Escape' && target instanceof Element ? target.closest('.inline-ask') : null;
  if (!(asked instanceof HTMLDetailsElement)) return;
  asked.open = false;
  asked.querySelector('summary')?.focus();
});

// --- Deleting ----------------------------------------------------------------------------------

/** @type {HTMLFormElement | null} */ const ending = document.querySelector('form[data-undo]');
let left = 0;
let tick = 0;

function show() {
  get('m-undo').hidden = !left;
  if (ending) ending.hidden = left > 0;
  get('m-seconds').textContent = left === 1 ? '1 second' : `${left} seconds`;
}

function stop() {
  clearInterval(tick);
  left = 0;
  show();
}

ending?.addEventListener('submit', (event) => {
  event.preventDefault();
  left = SECONDS;
  show();
  say(`Deleting it in ${SECONDS} seconds.`);
  get('m-undo-button').focus();
  tick = window.setInterval(() => {
    left -= 1;
    if (left > 0) return show();
    clearInterval(tick);
    return ending.submit();
  }, 1000);
});

get('m-undo-button').addEventListener('click', () => {
  stop();
  say('It was not deleted.');
  get('m-delete').focus();
});

// Leaving the page does not undo it: delete now. (A beacon, because older browsers have no `keepalive` for fetch().)
addEventListener('pagehide', () => {
  if (!left || !ending) return;
  stop();
  navigator.sendBeacon(ending.action, new URLSearchParams(/** @type {any} */ (new FormData(ending))));
});

// The back/forward cache restores this page with outdated contents.
addEventListener('pageshow', ({ persisted }) => { if (persisted) location.reload(); });
