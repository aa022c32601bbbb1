import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Pace } from '../../static/js/upload/part-sender.js';

/** Sends for so many seconds over a line whose speed depends on the lanes; the lanes after each second. */
function drive(pace, seconds, speed, from = 0) {
  const seen = [];
  for (let second = 1; second <= seconds; second += 1) {
    pace.moved(speed(pace.lanes), (from + second) * 1000);
    seen.push(pace.lanes);
  }
  return seen;
}

const started = () => { const pace = new Pace(); pace.start(0); return pace; };
/** As started(), after a failure that halved its lanes. */
const halved = () => { const pace = started(); pace.failed(0); return pace; };

test('it begins with the six connections that browsers open, and never has more', () => {
  assert.equal(started().lanes, 6);
  assert.equal(Math.max(...drive(started(), 100, (lanes) => lanes * 10)), 6);
});

test('where each lane brings more it takes as many as it may', () => {
  assert.equal(drive(halved(), 20, (lanes) => lanes * 10).at(-1), 6);
});

test('where one lane more brings nothing it goes back, and tries again only now and then', () => {
  const seen = drive(halved(), 200, () => 100);
  const high = seen.filter((lanes) => lanes > 3).length;
  assert.ok(high < seen.length / 4, String(seen));
  assert.ok(Math.max(...seen) <= 4);
});

test('it notices that a line has become wider', () => {
  const pace = halved();
  drive(pace, 30, () => 100);
  assert.ok(pace.lanes <= 4);
  assert.equal(drive(pace, 90, (lanes) => lanes * 50, 30).at(-1), 6);
});

test('a failure halves the lanes, once for all that fail together, and never below two', () => {
  const pace = started();
  drive(pace, 20, (lanes) => lanes * 10);
  pace.failed(20_100);
  pace.failed(20_101);
  pace.failed(20_102);
  assert.equal(pace.lanes, 3);
  for (let at = 30_000; at < 60_000; at += 3000) pace.failed(at);
  assert.equal(pace.lanes, 2);
});
