// F61: the browser's events that end a pause between attempts, and those that end a request on which nothing moves.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { browserWorld } from '../../static/js/upload/browser-world.js';

const win = new EventTarget();
globalThis.addEventListener = win.addEventListener.bind(win);
Object.defineProperty(navigator, 'onLine', { value: true });
// Firefox has it since 124, Safari since 17.4.
delete AbortSignal.any;
globalThis.XMLHttpRequest = class {
  status = 0; upload = {};
  open() {}
  send() {}
  abort() { this.onloadend(); }
};
const world = browserWorld(() => {});

const settled = async (promise) => {
  let is = false;
  promise.then(() => { is = true; }, () => { is = true; });
  await new Promise(setImmediate);
  return is;
};

for (const name of ['online', 'pageshow', 'resume', 'visibilitychange']) {
  test(`F61: ${name} ends a pause`, async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const pause = world.pause(30_000);
    assert.ok(!await settled(pause));
    win.dispatchEvent(new Event(name));
    assert.ok(await settled(pause));
  });
}

for (const [name, ends] of [['online', true], ['offline', true], ['pageshow', true], ['resume', true], ['visibilitychange', false]]) {
  test(`F61: ${name} ${ends ? 'ends a request on which nothing has moved' : 'lets a request go on: the network is the same'}`, async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    let time = 0;
    t.mock.method(performance, 'now', () => time);
    const piece = { url: 'https://storage.test/x', headers: {}, body: new Blob(['abc']) };
    const put = world.putPart(piece, new AbortController().signal, () => {});
    time += 10_000;
    t.mock.timers.tick(10_000);
    assert.ok(!await settled(put));
    win.dispatchEvent(new Event(name));
    t.mock.timers.tick(0);
    assert.equal(await settled(put), ends);
  });
}

test('a pause that may be cancelled ends early, or with the reason for which it was cancelled', async () => {
  const cancel = new AbortController();
  const woken = world.pause(30_000, cancel.signal);
  assert.ok(!await settled(woken));
  world.wake();
  await woken;
  const cancelled = world.pause(30_000, cancel.signal);
  assert.ok(!await settled(cancelled));
  cancel.abort('Paused');
  await assert.rejects(cancelled, (reason) => reason === 'Paused');
  await assert.rejects(world.pause(30_000, cancel.signal), (reason) => reason === 'Paused');
});
