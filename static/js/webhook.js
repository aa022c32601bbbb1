// The page of a webhook polls: changes are announced, and nothing is replaced while it is pressed or read.
import { keepRegion } from './page.js';

document.addEventListener('htmx:beforeRequest', (event) => {
  const { elt, requestConfig } = /** @type {CustomEvent} */ (event).detail;
  // An error beside a form stays while the focus is in that form.
  const isReading = elt.querySelector('.did-not:not([hidden])')?.closest('form')?.contains(document.activeElement);
  if (requestConfig.verb === 'get' && (elt.matches(':active') || isReading)) event.preventDefault();
});

keepRegion({
  within: '#main',
  state: '#log',
  fallbacks: (focused) => {
    const heading = focused.closest('section')?.getAttribute('aria-labelledby');
    return heading ? [`#${heading}`] : [];
  },
});

// Each response with the log also holds the webhook's state; while it is the same, that part of the page stays.
document.addEventListener('htmx:oobBeforeSwap', (event) => {
  const { detail } = /** @type {CustomEvent} */ (event);
  const isSame = detail.target.dataset.state === detail.fragment.firstElementChild.dataset.state;
  detail.shouldSwap = !isSame && !detail.target.matches(':active');
});
