// The page of a webhook renews itself: what has changed is read out, and nothing is replaced while it is pressed or read.
import { keepRegion } from './page.js';

document.addEventListener('htmx:beforeRequest', (event) => {
  const { elt, requestConfig } = /** @type {CustomEvent} */ (event).detail;
  // A complaint beside a form stays as long as the focus is in that form.
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

// Each log brings the webhook's state along; as long as that is the same, its part of the page is not replaced.
document.addEventListener('htmx:oobBeforeSwap', (event) => {
  const { detail } = /** @type {CustomEvent} */ (event);
  const isSame = detail.target.dataset.state === detail.fragment.firstElementChild.dataset.state;
  detail.shouldSwap = !isSame && !detail.target.matches(':active');
});
