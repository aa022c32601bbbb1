// Recognises whether a file that was chosen again is the one that was being sent. No DOM, no URLs.
import { fingerprint } from './crc32.js';
import { size as inWords } from './progress.js';

/** @typedef {import('./backend.js').FilePlan} FilePlan */
/** @typedef {import('./memory.js').Known} Known */
/** @typedef {{path: string, file: File}} Candidate */
/** @typedef {{path: string, why: string}} Refusal */

const AT_ONCE = 32;
const FIRST_FEW = 3;

/**
 * How the file differs from the one that was being sent; empty if it does not. If nothing is remembered, only sizes are compared.
 * @param {FilePlan} plan @param {Known | undefined} known @param {File} file
 */
export async function difference(plan, known, file) {
  const more = file.size - plan.size;
  if (more) return `it is ${inWords(Math.abs(more))} ${more > 0 ? 'larger' : 'smaller'}`;
  if (known && known.lastModified !== file.lastModified) return `it was saved again on ${new Date(file.lastModified).toLocaleString(undefined, { dateStyle: 'long', timeStyle: 'short' })}`;
  try {
    if (known?.print !== undefined && known.print !== await fingerprint(file)) return 'its content is different';
  } catch {
    return 'it can no longer be read';
  }
  return '';
}

/**
 * Finds the wanted files among the chosen ones by their path; a file chosen without its folder by its name.
 * Other chosen files are ignored.
 * @template {Candidate} T @param {FilePlan[]} wanted @param {Map<string, Known>} known by the file's id @param {T[]} chosen
 * @returns {Promise<{found: Map<string, T>, refused: Refusal[]}>}
 */
export async function recognise(wanted, known, chosen) {
  /** @type {Map<string, T[]>} */ const at = new Map();
  for (const one of chosen) at.set(one.path, [...(at.get(one.path) ?? []), one]);
  /** @type {Map<string, T>} */ const found = new Map();
  /** @type {Refusal[]} */ const refused = [];
  await severalAtOnce(wanted, async (plan) => {
    const one = known.get(plan.id);
    const meant = at.get(one?.from ?? plan.path) ?? at.get(plan.path);
    let why = '';
    for (const candidate of meant ?? at.get(plan.path.slice(plan.path.lastIndexOf('/') + 1)) ?? []) {
      why = await difference(plan, one, candidate.file);
      if (!why) return found.set(plan.id, candidate);
    }
    // A file chosen without its folder may have the right name and still be a different file: no objection is made.
    return meant && refused.push({ path: plan.path, why });
  });
  return { found, refused };
}

/** Runs the work for all of a long list, a limited number at a time. @template T @param {T[]} list @param {(one: T) => Promise<unknown>} work */
export async function severalAtOnce(list, work) {
  for (let at = 0; at < list.length; at += AT_ONCE) await Promise.all(list.slice(at, at + AT_ONCE).map(work));
}

/** Sentences that say why files were refused, and which are still missing. @param {Refusal[]} refused @param {string[]} missing */
export function objections(refused, missing) {
  const said = refused.slice(0, FIRST_FEW).map(({ path, why }) => `“${path}” has changed since: ${why}.`);
  if (refused.length > FIRST_FEW) said.push(`So have ${(refused.length - FIRST_FEW).toLocaleString('en')} more.`);
  if (refused.length) said.push(`Sending ${refused.length === 1 ? 'it' : 'them'} would mix two versions.`);
  if (missing.length) said.push(`Still missing: ${listed(missing)}.`);
  return said.join(' ');
}

/** The first few names, and the number of the others. @param {string[]} names */
export function listed(names) {
  const first = names.slice(0, FIRST_FEW).map((name) => `“${name}”`).join(', ');
  return names.length > FIRST_FEW ? `${first} and ${(names.length - FIRST_FEW).toLocaleString('en')} more` : first;
}
