// The sender's page: what is open or typed stays, what has changed is said, and deleting can be undone for some seconds.
// Without this script everything works by its forms.
import { complain, focusOn, isPage, localizeTimes, say } from './page.js';

const SECONDS = 7;
const TOLD = '[data-told], [role="alert"]';

/** @param {string} id */
const get = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

// --- Regions that are renewed ------------------------------------------------------------------

/** @type {Set<string>} */ let opened = new Set();
let said = get('manage-now').dataset.says;
/** What has the focus, and in which region. */
let [focused, around] = ['', ''];

const kept = () => [...document.querySelectorAll('#manage details[data-keep]')].filter((one) => one instanceof HTMLDetailsElement);

document.addEventListener('htmx:beforeRequest', (event) => {
  const { elt, requestConfig } = /** @type {CustomEvent} */ (event).detail;
  // Nothing is renewed by itself under whoever is about to press something there.
  const isAtWork = elt.matches(':active') || (elt.id === 'manage-people' && elt.contains(document.activeElement));
  if (requestConfig.verb === 'get' && isAtWork) event.preventDefault();
});

document.addEventListener('htmx:beforeSwap', (event) => {
  const { detail } = /** @type {CustomEvent} */ (event);
  // A page where a region was asked for: it is no longer ours to see.
  if (isPage(detail.xhr)) detail.shouldSwap = false;
  opened = new Set(kept().filter((one) => one.open).map((one) => one.dataset.keep ?? ''));
  focused = document.activeElement?.id ?? '';
  around = document.activeElement?.closest('#manage > section')?.id ?? '';
});

document.addEventListener('htmx:afterRequest', (event) => {
  const { xhr, requestConfig } = /** @type {CustomEvent} */ (event).detail;
  if (requestConfig.verb !== 'get' && isPage(xhr)) complain(requestConfig.elt);
});

document.addEventListener('htmx:afterSettle', (event) => {
  const target = /** @type {Element} */ (event.target);
  localizeTimes(get('manage'));
  for (const one of kept()) one.open ||= opened.has(one.dataset.keep ?? '');
  const now = get('manage-now').dataset;
  document.title = now.title ?? document.title;
  if (now.says !== said) say(now.says ?? '');
  said = now.says;
  const told = target.querySelector(TOLD);
  if (told) say(told.textContent ?? '');
  const wrong = target.querySelector('[aria-invalid="true"]');
  if (wrong instanceof HTMLElement) wrong.focus();
  if (!around || document.activeElement !== document.body) return;
  // What was pressed may be gone: then the focus goes to what came of it.
  const region = get(around);
  focusOn(document.getElementById(focused) ?? region.querySelector(TOLD) ?? region.querySelector('h1, h2'));
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

// Whoever leaves meant it.
addEventListener('pagehide', () => {
  if (!left || !ending) return;
  stop();
  void fetch(ending.action, { method: 'POST', body: new URLSearchParams(/** @type {any} */ (new FormData(ending))), keepalive: true });
});

// The browser may bring this page back as it was left, with what is no longer so.
addEventListener('pageshow', ({ persisted }) => { if (persisted) location.reload(); });
