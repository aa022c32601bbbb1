// What was sent from this browser: enough to find each manage page again, until the sender removes the entry.
// One entry per transfer, so that two tabs never overwrite each other's. Without storage nothing is kept.

/** @typedef {{id: string, token: string, title: string, link: string, at: string}} Mine */

const PREFIX = 'beeline-sent:';

/**
 * The URL of the transfer's manage page. Files are added from that page, so there the token already holds the id.
 * @param {{id: string, adds?: boolean}} transfer @param {string} token
 */
export function manageUrl({ id, adds }, token) {
  return adds ? `/m/${token}` : `/m/${id}.${token}`;
}

/** @param {Mine} one */
export function keep(one) {
  try {
    localStorage.setItem(PREFIX + one.id, JSON.stringify(one));
  } catch { /* Denied or full: the page still shows the link. */ }
}

/** Updates an entry, unless the sender has removed it. @param {Mine} one */
export function renew(one) {
  if (all().some(({ id }) => id === one.id)) keep(one);
}

/** @param {string} id */
export function forget(id) {
  try {
    localStorage.removeItem(PREFIX + id);
  } catch { /* Without storage there is nothing to remove. */ }
}

/** All entries, the latest first. @returns {Mine[]} */
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
