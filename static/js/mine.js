// "My transfers": the list follows its form. Without this script the form is sent by its button.
import { complain, keepRegion } from './page.js';

keepRegion({ within: '#mine-list', state: '#mine-list', fallbacks: () => ['#mine-q'] });

for (const failure of ['htmx:sendError', 'htmx:responseError']) {
  document.addEventListener(failure, (event) => complain(/** @type {Element} */ (event.target)));
}
document.addEventListener('htmx:beforeSwap', () => document.querySelector('.did-not')?.setAttribute('hidden', ''));

// The back/forward cache restores this page with an outdated list, and perhaps after signing out.
addEventListener('pageshow', ({ persisted }) => { if (persisted) location.reload(); });
