// Used by every page: copy buttons, dates in the reader's own format, and changes announced to screen readers.
export { complain, exactly, isPage, keepRegion, renewTransfer, say };

const NEAR = 7 * 86_400_000;
const live = document.getElementById('live');

/** @param {string} words */
function say(words) {
  if (live && words) live.textContent = words;
}

/** Moves the focus there after the focused element is gone; otherwise Tab would start at the top of the page. @param {Element | null | undefined} place */
function focusOn(place) {
  if (!(place instanceof HTMLElement)) return;
  if (place.tabIndex < 0) place.tabIndex = -1;
  place.focus({ preventScroll: true });
}

// --- Dates: in the reader's time zone; relative when near, with the exact time in the title. ---

/** @param {Date} at */
function relative(at) {
  const seconds = (at.getTime() - Date.now()) / 1000;
  const near = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
  const minutes = Math.round(seconds / 60);
  if (Math.abs(minutes) < 90) return near.format(minutes, 'minute');
  const hours = Math.round(seconds / 3600);
  return Math.abs(hours) < 36 ? near.format(hours, 'hour') : near.format(Math.round(seconds / 86_400), 'day');
}

/** The full date and time, for the title of a date that is shown short or relative. @param {Date} at */
function exactly(at) {
  return at.toLocaleString(undefined, { dateStyle: 'full', timeStyle: 'long' });
}

/** @param {ParentNode} within */
function localizeTimes(within) {
  for (const time of within.querySelectorAll('time[data-local]')) {
    const at = new Date(time.getAttribute('datetime') ?? '');
    if (Number.isNaN(at.getTime())) continue;
    const day = at.toLocaleDateString(undefined, { dateStyle: 'long' });
    const near = time.getAttribute('data-local') === 'near';
    time.textContent = !near ? day : Math.abs(at.getTime() - Date.now()) < NEAR ? relative(at) : `on ${day}`;
    time.setAttribute('title', exactly(at));
  }
}

// --- Copying ---

/** @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without HTTPS there is no Clipboard API; execCommand still works.
    const area = document.createElement('textarea');
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
}

document.addEventListener('click', async (event) => {
  const button = event.target instanceof Element ? event.target.closest('[data-copy]') : null;
  const source = button && document.getElementById(button.getAttribute('data-copy') ?? '');
  if (!(button instanceof HTMLElement) || !source) return;
  await copy(source instanceof HTMLAnchorElement ? source.href : source.textContent ?? '');
  button.focus();
  button.dataset.words ??= button.textContent ?? '';
  button.textContent = 'Copied';
  say('Copied');
  setTimeout(() => { button.textContent = button.dataset.words ?? ''; }, 2000);
});

// --- A failed request is reported beside its button; regions that poll simply ask again. ---

/** @param {Element} from */
const formOf = (from) => from.closest('form') ?? from;

/**
 * Shows that the request of a form failed. The form may have its own text for this, which screen readers read
 * out each time it is hidden and shown again.
 * @param {Element} from
 */
function complain(from) {
  const form = formOf(from);
  let note = form.querySelector('.did-not');
  if (!(note instanceof HTMLElement)) {
    note = form.appendChild(Object.assign(document.createElement('p'), { className: 'said did-not', hidden: true }));
    note.setAttribute('role', 'alert');
    note.setAttribute('data-kind', 'wrong');
    note.textContent = 'That did not get through. Nothing was changed; try again in a moment.';
  }
  /** @type {HTMLElement} */ (note).hidden = false;
}

document.addEventListener('htmx:beforeRequest', (event) => {
  const { requestConfig } = /** @type {CustomEvent} */ (event).detail;
  const note = requestConfig.verb === 'get' ? null : formOf(requestConfig.elt).querySelector('.did-not');
  if (note instanceof HTMLElement) note.hidden = true;
});

for (const failure of ['htmx:sendError', 'htmx:responseError']) {
  document.addEventListener(failure, (event) => {
    const { requestConfig } = /** @type {CustomEvent} */ (event).detail;
    if (requestConfig.verb === 'get') return;
    // Otherwise this page would download a zip that another recipient asked for meanwhile.
    if (requestConfig.elt.matches('#zip form')) isZipAwaited = false;
    complain(requestConfig.elt);
  });
}

/** Whether the response is a whole page instead of the requested region. @param {XMLHttpRequest} xhr */
function isPage({ responseText }) {
  return /^\s*<!doctype/i.test(responseText);
}

// A whole page with status 404 or 410 means that the transfer is gone; reloading shows that page.
document.addEventListener('htmx:beforeSwap', (event) => {
  const { detail } = /** @type {CustomEvent} */ (event);
  const isGone = detail.xhr.status === 404 || detail.xhr.status === 410;
  if (!isGone || !isPage(detail.xhr)) return;
  detail.shouldSwap = false;
  location.reload();
});

// --- Regions that htmx replaces ---

/** @param {Element} region */
const kept = (region) => [...region.querySelectorAll('details[data-keep]')].filter((one) => one instanceof HTMLDetailsElement);

/**
 * Keeps a region usable while htmx replaces it: open details are opened again, the focus stays or moves to a
 * fallback, and a changed state is announced. Each page lets htmx settle at once (`defaultSettleDelay` in its
 * htmx-config): later, the region would be painted before this is done, and the page would jump.
 * @param {object} region
 * @param {string} region.within selector of the element in which everything is replaced
 * @param {string} region.state selector of the element whose data-says (and data-title, if any) describe the state
 * @param {(focused: Element) => string[]} region.fallbacks selectors, best first, of what gets the focus if the focused element is gone
 */
function keepRegion({ within, state, fallbacks }) {
  const told = () => /** @type {HTMLElement | null} */ (document.querySelector(state))?.dataset ?? {};
  /** @type {Set<string>} */ let opened = new Set();
  /** @type {string[]} */ let places = [];
  let said = told().says;
  document.addEventListener('htmx:beforeSwap', (event) => {
    const region = document.querySelector(within);
    if (!region || !/** @type {CustomEvent} */ (event).detail.shouldSwap) return;
    opened = new Set(kept(region).filter((one) => one.open).map((one) => one.dataset.keep ?? ''));
    const { activeElement: focused } = document;
    places = [];
    if (focused && region.contains(focused)) places = [...(focused.id ? [`#${CSS.escape(focused.id)}`] : []), ...fallbacks(focused)];
  });
  document.addEventListener('htmx:afterSettle', () => {
    const region = document.querySelector(within);
    if (!region) return;
    localizeTimes(region);
    for (const one of kept(region)) one.open ||= opened.has(one.dataset.keep ?? '');
    const { says, title } = told();
    document.title = title ?? document.title;
    if (says !== said) say(says ?? '');
    said = says;
    if (document.activeElement === document.body) focusOn(places.map((place) => document.querySelector(place)).find(Boolean));
  });
}

// --- The recipient's page ---

document.addEventListener('htmx:beforeSwap', (event) => {
  // Do not replace the region while something in it is pressed: the next poll brings the same.
  if (document.querySelector('#transfer:active')) /** @type {CustomEvent} */ (event).detail.shouldSwap = false;
});

let zipState = document.getElementById('zip')?.dataset.state;
let isZipAwaited = false;

// Downloads a zip requested on this page as soon as it is made, however often the region was replaced meanwhile.
function lookAtZip() {
  const zip = document.getElementById('zip');
  if (!zip) return;
  if (zip.dataset.state !== zipState) say(zip.dataset.says ?? '');
  zipState = zip.dataset.state;
  zip.toggleAttribute('data-awaited', isZipAwaited);
  if (!isZipAwaited || zipState !== 'ready') return;
  isZipAwaited = false;
  zip.querySelector('form')?.requestSubmit();
}

document.addEventListener('submit', (event) => {
  if (event.target instanceof Element && event.target.matches('#zip[data-state="none"] form, #zip[data-state="failed"] form')) isZipAwaited = true;
});

document.addEventListener('htmx:afterSettle', lookAtZip);
keepRegion({ within: '#transfer', state: '#transfer', fallbacks: () => ['#transfer-title'] });

document.addEventListener('htmx:beforeSwap', (event) => {
  const { detail } = /** @type {CustomEvent} */ (event);
  const { activeElement: focused } = document;
  // htmx would restore the focus while the folder around it is still closed, and the page would jump.
  if (detail.shouldSwap && focused instanceof HTMLElement && focused.closest('#transfer') && detail.target.contains(focused)) focused.blur();
});

/** Reloads the recipient's region. @param {string} from */
function renewTransfer(from) {
  /** @type {any} */ (window).htmx?.ajax('GET', from, { target: '#transfer', swap: 'outerHTML' });
}

document.addEventListener('submit', (event) => {
  const region = document.getElementById('transfer');
  const from = region?.dataset.refresh;
  if (!from || !(event.target instanceof Element) || !event.target.matches('[data-download]')) return;
  // A download does not replace the page, but soon changes the number of downloads left.
  setTimeout(() => renewTransfer(from), 1500);
});

localizeTimes(document);
