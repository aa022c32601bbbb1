// What was sent from this browser: enough to find its manage page again, until the sender has it forgotten.
// One entry for each transfer, so that two tabs never overwrite each other. Without storage nothing is kept.

/** @typedef {{id: string, token: string, title: string, link: string, at: string}} Mine */

const PREFIX = 'beeline-sent:';

/**
 * The transfer's manage page. What is added to a transfer was begun there, and its token is already the page's own.
 * @param {{id: string, adds?: boolean}} transfer @param {string} token
 */
export function manageUrl({ id, adds }, token) {
  return adds ? `/m/${token}` : `/m/${id}.${token}`;
}

/** @param {Mine} one */
export function keep(one) {
  try {
    localStorage.setItem(PREFIX + one.id, JSON.stringify(one));
  } catch { /* Denied or full: its link still stands on the page. */ }
}

/** Keeps what has changed of one that is kept; the sender may have had it forgotten. @param {Mine} one */
export function renew(one) {
  if (all().some(({ id }) => id === one.id)) keep(one);
}

/** @param {string} id */
export function forget(id) {
  try {
    localStorage.removeItem(PREFIX + id);
  } catch { /* Nothing is kept. */ }
}

/** The latest first. @returns {Mine[]} */
export function all() {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX)).map(read).filter((one) => one !== null).sort((a, b) => b.at.localeCompare(a.at));
  } catch {
    return [];
  }
}

/** @param {string} key @returns {Mine | null} */
function read(key) {
  try {
    const one = JSON.parse(localStorage.getItem(key) ?? '');
    const isWhole = ['id', 'token', 'title', 'link', 'at'].every((name) => typeof one[name] === 'string');
    return isWhole ? one : null;
  } catch {
    return null;
  }
}
