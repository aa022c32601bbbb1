// The page of a webhook: its log is renewed by itself; what has changed is said, and nothing goes from under a finger.
import { localizeTimes, say } from './page.js';

let said = document.getElementById('log')?.dataset.says;

document.addEventListener('htmx:beforeRequest', (event) => {
  const { elt, requestConfig } = /** @type {CustomEvent} */ (event).detail;
  // Whoever reads why nothing was sent again goes on reading.
  const isReading = elt.querySelector('.did-not:not([hidden])')?.closest('form')?.contains(document.activeElement);
  if (requestConfig.verb === 'get' && (elt.matches(':active') || isReading)) event.preventDefault();
});

document.addEventListener('htmx:afterSettle', () => {
  const log = document.getElementById('log');
  if (!log) return;
  localizeTimes(log);
  if (log.dataset.says !== said) say(log.dataset.says ?? '');
  said = log.dataset.says;
});
