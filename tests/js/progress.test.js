import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Progress, plural, size, timeLeft } from '../../static/js/upload/progress.js';

function run(steps, total = 1000) {
  let at = 0;
  const progress = new Progress(() => at);
  for (const [time, sent] of steps) {
    at = time;
    progress.update(sent, total);
  }
  return progress;
}

test('speed is what crossed the line over the last seconds', () => {
  const progress = run([[0, 0], [1000, 100], [2000, 200]]);
  assert.equal(progress.speed, 100);
  assert.equal(progress.secondsLeft, 8);
  assert.equal(progress.percent, 20);
});

test('an old burst is forgotten', () => {
  const steps = [[0, 0], [1000, 500]];
  for (let second = 2; second <= 20; second += 1) steps.push([second * 1000, 500 + second * 10]);
  assert.equal(run(steps).speed, 10);
});

test('going back is no negative speed, and what is sent again counts', () => {
  const progress = run([[0, 0], [1000, 200], [2000, 100], [3000, 200]]);
  assert.equal(progress.speed, 100);
  assert.equal(progress.percent, 20);
});

test('what is shown does not go back, unless there are other files now', () => {
  assert.deepEqual([run([[0, 200], [1000, 100]]).percent, run([[0, 200], [1000, 100]]).reached], [20, 200]);
  const progress = run([[0, 200]]);
  progress.update(200, 2000);
  assert.equal(progress.percent, 10);
});

test('a file that is removed and brought back is no speed', () => {
  let at = 0;
  const progress = new Progress(() => at);
  for (const [time, sent, total] of [[0, 8000, 9000], [1000, 8010, 9000], [2000, 20, 1000], [3000, 8030, 9000], [4000, 8040, 9000]]) {
    at = time;
    progress.update(sent, total);
  }
  assert.ok(progress.speed <= 10, String(progress.speed));
  assert.ok(progress.speed > 0);
});

test('a standstill shows as one', () => {
  const steps = [[0, 0]];
  for (let second = 1; second <= 20; second += 1) steps.push([second * 1000, 100]);
  const progress = run(steps);
  assert.equal(progress.speed, 0);
  assert.equal(timeLeft(progress.secondsLeft), '');
});

test('100 per cent only when everything has left; nothing to send is no division by zero', () => {
  assert.equal(run([[0, 9_999]], 10_000).percent, 99);
  assert.equal(run([[0, 10_000]], 10_000).percent, 100);
  assert.equal(run([[0, 0]], 0).percent, 0);
  assert.equal(run([[0, 0]], 0).secondsLeft, 0);
});

for (const [bytes, words] of [
  [0, '0 bytes'], [1, '1 byte'], [999, '999 bytes'], [1000, '1.0 kB'], [1234, '1.2 kB'], [9_949, '9.9 kB'], [9_950, '10 kB'], [9_951, '10 kB'],
  [999_499, '999 kB'], [999_500, '1.0 MB'], [1_234_567_890, '1.2 GB'], [53_687_091_200, '54 GB'], [5e12, '5.0 TB'], [5e15, '5000 TB'],
]) test(`${bytes} reads ${words}`, () => assert.equal(size(bytes), words));

for (const [seconds, words] of [
  [3, 'a few seconds left'], [12, '20 seconds left'], [50, '50 seconds left'], [70, 'about a minute left'], [150, 'about 3 minutes left'],
  [59 * 60, 'about 59 minutes left'], [3600, 'about an hour left'], [7200, 'about 2 hours left'], [72 * 3600, 'about 3 days left'], [Infinity, ''], [NaN, ''],
]) test(`${seconds} s reads ${words || 'nothing'}`, () => assert.equal(timeLeft(seconds), words));

test('plurals', () => assert.deepEqual([plural(1, 'file'), plural(2, 'file'), plural(12_000, 'file')], ['1 file', '2 files', '12,000 files']));
