import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Checksums, StallLimit, diagnosis } from '../../static/js/upload/browser-world.js';
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

test('a storage that only answers too late is not one that refuses this site', async () => {
  const ask = async (url, { mode }) => { if (mode === 'cors') throw new DOMException('', 'TimeoutError'); };
  const failure = await diagnosis(() => STORE, () => false, ask)(lost());
  assert.equal(failure.why, 'storage-unreachable');
});

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

// --- How long a line may be silent ---------------------------------------------------------------

test('lines that go dead together are one outage, however many they are', () => {
  let time = 0;
  const limit = new StallLimit(() => time);
  time = 30_000;
  for (let line = 0; line < 6; line += 1) { limit.stalled(); time += 500; }
  assert.equal(limit.milliseconds, 60_000);
  limit.arrived();
  assert.equal(limit.milliseconds, 30_000);
});

test('each further outage before a piece arrives doubles the patience, up to a limit', () => {
  let time = 0;
  const limit = new StallLimit(() => time);
  const seen = [];
  for (let outage = 0; outage < 5; outage += 1) { time += limit.milliseconds; limit.stalled(); seen.push(limit.milliseconds); }
  assert.deepEqual(seen, [60_000, 120_000, 240_000, 240_000, 240_000]);
  limit.arrived();
  assert.equal(limit.milliseconds, 120_000);
});

// --- Checksums, asked of a worker ----------------------------------------------------------------

/** Workers that say what the test lets them say. */
function checksums({ offline = false } = {}) {
  const made = [];
  const make = () => {
    const worker = { asked: [], ended: false, postMessage: (question) => worker.asked.push(question), terminate: () => { worker.ended = true; } };
    made.push(worker);
    return worker;
  };
  return { made, sums: new Checksums(make, () => offline) };
}
const answered = (worker, more) => worker.onmessage({ data: { id: worker.asked.at(-1).id, ...more } });

test('one worker answers for all pieces, and may be started before the first', async () => {
  const { made, sums } = checksums();
  sums.start();
  const asked = [sums.of('one'), sums.of('two')];
  assert.equal(made.length, 1);
  for (const { id, blob } of made[0].asked.reverse()) made[0].onmessage({ data: { id, sum: `of ${blob}` } });
  assert.deepEqual(await Promise.all(asked), ['of one', 'of two']);
});

for (const [offline, why] of [[false, 'server-unreachable'], [true, 'offline']]) {
  test(`a worker whose script could not be loaded is a failure in passing (${why}), and the next question makes another`, async () => {
    const { made, sums } = checksums({ offline });
    const first = sums.of('a');
    made[0].onerror({});
    await assert.rejects(first, (error) => error.why === why);
    assert.ok(made[0].ended);
    const second = sums.of('a');
    answered(made[1], { sum: 'fine' });
    assert.equal(await second, 'fine');
  });
}

test('a worker that could not be started early is made again for the first piece', async () => {
  const { made, sums } = checksums();
  sums.start();
  made[0].onerror({});
  const asked = sums.of('a');
  answered(made[1], { sum: 'fine' });
  assert.equal(await asked, 'fine');
});

test('a worker with a mistake in it says which, and nobody waits for it', async () => {
  const { made, sums } = checksums();
  const asked = [sums.of('a'), sums.of('b')];
  made[0].onerror({ message: 'x is not a function' });
  for (const one of asked) await assert.rejects(one, (error) => error.why === 'unexpected' && error.facts.code.includes('x is not'));
});

for (const [isReadable, why] of [[false, 'file-changed'], [true, 'unexpected']]) {
  test(`a piece that cannot be read, of a file that can${isReadable ? '' : 'not'}: ${why}`, async () => {
    const { made, sums } = checksums();
    const asked = sums.of('a');
    answered(made[0], { error: 'TypeError: network error', isReadable });
    await assert.rejects(asked, (error) => error.why === why && error.facts.code === 'TypeError: network error');
  });
}
