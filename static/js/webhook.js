// The page of a webhook is renewed by itself: what has changed is said, and nothing goes from under a finger.
import { focusOn, localizeTimes, say } from './page.js';

let said = document.getElementById('log')?.dataset.says;
/** What has the focus, and the heading of where it is. */
let [focused, heading] = ['', ''];

document.addEventListener('htmx:beforeRequest', (event) => {
  const { elt, requestConfig } = /** @type {CustomEvent} */ (event).detail;
  // Whoever reads why nothing was sent again goes on reading.
  const isReading = elt.querySelector('.did-not:not([hidden])')?.closest('form')?.contains(document.activeElement);
  if (requestConfig.verb === 'get' && (elt.matches(':active') || isReading)) event.preventDefault();
});

document.addEventListener('htmx:beforeSwap', () => {
  focused = document.activeElement?.id ?? '';
  heading = document.activeElement?.closest('section')?.getAttribute('aria-labelledby') ?? '';
});

// How it is doing comes with each log; while that is the same, what is focused or open there stays.
document.addEventListener('htmx:oobBeforeSwap', (event) => {
  const { detail } = /** @type {CustomEvent} */ (event);
  const isSame = detail.target.dataset.state === detail.fragment.firstElementChild.dataset.state;
  detail.shouldSwap = !isSame && !detail.target.matches(':active');
});

document.addEventListener('htmx:afterSettle', () => {
  const log = document.getElementById('log');
  if (!log) return;
  localizeTimes(document);
  if (log.dataset.says !== said) say(log.dataset.says ?? '');
  said = log.dataset.says;
  // What was pressed may be gone.
  if (heading && document.activeElement === document.body) focusOn(document.getElementById(focused) ?? document.getElementById(heading));
});
