import assert from 'node:assert/strict';
import { test } from 'node:test';
import { diagnosis } from '../../static/js/upload/browser-world.js';
import { Failure } from '../../static/js/upload/failure.js';

const STORE = 'https://storage.test/bucket/key';

/** A diagnosis of a network in which only these questions are answered. */
function network(...answered) {
  const asked = [];
  const ask = async (url, { mode }) => {
    asked.push(`${mode} ${url}`);
    if (!answered.includes(`${mode} ${url}`)) throw new TypeError('Failed to fetch');
  };
  const state = { offline: false, time: 0 };
  return { asked, state, diagnose: diagnosis(() => STORE, () => state.offline, ask, () => state.time) };
}
const lost = () => new Failure('storage-unreachable', { path: 'a' });
const OURS = 'same-origin /health';
const THERE = `no-cors ${STORE}`;
const ADMITS = `cors ${STORE}`;

for (const [name, answered, why] of [
  ['this site answers and the storage does not', [OURS], 'storage-unreachable'],
  ['neither answers', [], 'server-unreachable'],
  ['the storage is there and does not admit us', [OURS, THERE], 'storage-blocked'],
  ['everything answers again', [OURS, THERE, ADMITS], 'storage-unreachable'],
]) {
  test(`${name}: ${why}`, async () => {
    const failure = await network(...answered).diagnose(lost());
    assert.equal(failure.why, why);
    assert.equal(failure.facts.path, 'a');
  });
}

test('a machine that knows that it is offline asks nobody', async () => {
  const { asked, state, diagnose } = network();
  state.offline = true;
  assert.equal((await diagnose(lost())).why, 'offline');
  assert.deepEqual(asked, []);
});

test('many pieces that fail together ask once; later it is asked again', async () => {
  const { asked, state, diagnose } = network(OURS);
  await Promise.all([diagnose(lost()), diagnose(lost()), diagnose(lost())]);
  assert.equal(asked.length, 3);
  state.time = 11_000;
  await diagnose(lost());
  assert.equal(asked.length, 6);
});

test('what has a cause already keeps it', async () => {
  const busy = new Failure('storage-busy', { status: 503 });
  assert.equal(await network().diagnose(busy), busy);
});
