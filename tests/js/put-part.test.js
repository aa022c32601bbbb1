import assert from 'node:assert/strict';
import { test } from 'node:test';
import { putPart, watchdog } from '../../static/js/upload/put-part.js';

/** An XMLHttpRequest that does what the test says. */
function requestThat(behave) {
  const made = [];
  class Request {
    status = 0; responseText = ''; headers = {}; upload = {};
    constructor() { made.push(this); }
    open(method, url) { Object.assign(this, { method, url }); }
    setRequestHeader(name, value) { this.headers[name] = value; }
    send(body) { this.body = body; queueMicrotask(() => behave(this)); }
    abort() { this.aborted = true; this.status = 0; this.onloadend(); }
    answer(status, text = '') { Object.assign(this, { status, responseText: text }); this.onloadend(); }
  }
  return { Request, made };
}

const put = (behave, { headers = {}, signal = new AbortController().signal, offline = false, onProgress = () => {}, watch } = {}) => {
  const { Request, made } = requestThat(behave);
  const body = new Blob(['abc']);
  return { made, body, done: putPart({ url: 'https://storage.test/x', headers, body }, signal, onProgress, { isOffline: () => offline, Request, watch }) };
};

test('it sends the Blob itself, with exactly the signed headers, and tells how far it is', async () => {
  const seen = [];
  const { done, made, body } = put((request) => {
    request.upload.onprogress({ loaded: 2 });
    request.answer(200);
  }, { headers: { 'x-amz-meta-beeline': 't' }, onProgress: (sent) => seen.push(sent) });
  await done;
  assert.equal(made[0].body, body);
  assert.deepEqual([made[0].method, made[0].url, made[0].headers, seen], ['PUT', 'https://storage.test/x', { 'x-amz-meta-beeline': 't' }, [2]]);
});

test('412 to "only if it is not there" means that it is there', async () => {
  await put((request) => request.answer(412), { headers: { 'If-None-Match': '*' } }).done;
  await assert.rejects(put((request) => request.answer(412)).done, (error) => error.why === 'refused');
});

const xml = (code, message = '') => `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${message}</Message><RequestId>r</RequestId></Error>`;
for (const [status, text, why] of [
  [403, xml('AccessDenied', 'Access Denied'), 'refused'],
  [403, xml('SignatureDoesNotMatch'), 'refused'],
  [403, xml('AccessDenied', 'Request has expired'), 'clock'],
  [403, xml('RequestTimeTooSkewed'), 'clock'],
  [404, xml('NoSuchUpload'), 'refused'],
  [400, xml('RequestTimeout'), 'storage-busy'],
  [400, xml('BadDigest'), 'storage-busy'],
  [400, xml('XAmzContentChecksumMismatch'), 'storage-busy'],
  [400, xml('EntityTooLarge'), 'too-large'],
  [400, xml('InvalidArgument'), 'refused'],
  [409, xml('ConditionalRequestConflict'), 'storage-busy'],
  [409, xml('OperationAborted'), 'storage-busy'],
  [413, '', 'too-large'],
  [429, '', 'storage-busy'],
  [500, xml('InternalError'), 'storage-busy'],
  [503, xml('SlowDown'), 'storage-busy'],
  [507, xml('XMinioStorageFull'), 'storage-full'],
]) {
  test(`${status} ${/<Code>(\w+)/.exec(text)?.[1] ?? ''} is ${why}`, async () => {
    await assert.rejects(put((request) => request.answer(status, text)).done, (error) => error.why === why && error.facts.status === status);
  });
}

for (const offline of [true, false]) {
  test(`no answer, ${offline ? 'offline' : 'online'}`, async () => {
    await assert.rejects(put((request) => request.answer(0), { offline }).done, (error) => error.why === (offline ? 'offline' : 'storage-unreachable'));
  });
}

test('an abort ends the request and comes out as its own reason', async () => {
  const stop = new AbortController();
  const reason = new Error('leave');
  const { done, made } = put(() => stop.abort(reason), { signal: stop.signal });
  await assert.rejects(done, reason);
  assert.ok(made[0].aborted);
});

test('what is aborted before it starts is not sent', async () => {
  const { done, made } = put(() => {}, { signal: AbortSignal.abort(new Error('leave')) });
  await assert.rejects(done, /leave/);
  assert.equal(made.length, 0);
});

test('a line on which nothing moves is given up, and may be tried again', async () => {
  const fed = [];
  let bark;
  let left = 0;
  const watch = (act) => { bark = act; return { feed: (time) => fed.push(time), leave: () => { left += 1; } }; };
  const { done, made } = put((request) => {
    request.upload.onprogress({ loaded: 1 });
    request.upload.onprogress({ loaded: 3 });
    bark();
  }, { watch });
  await assert.rejects(done, (error) => error.why === 'storage-unreachable' && /nothing moved/.test(error.facts.code));
  assert.ok(made[0].aborted);
  assert.deepEqual(fed, [30_000, 30_000, 90_000], 'more patience once all has left');
  assert.equal(left, 1);
});

test('the watchdog barks when it was not fed, and only then', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  let barks = 0;
  const dog = watchdog(() => { barks += 1; });
  dog.feed(100);
  t.mock.timers.tick(99);
  dog.feed(100);
  t.mock.timers.tick(99);
  assert.equal(barks, 0);
  t.mock.timers.tick(1);
  assert.equal(barks, 1);
  dog.feed(100);
  dog.leave();
  t.mock.timers.tick(1000);
  assert.equal(barks, 1);
});

test('when the network has changed, a line that is silent is given up soon, one that moves is not', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  let time = 0;
  t.mock.method(performance, 'now', () => time);
  const pass = (milliseconds) => { time += milliseconds; t.mock.timers.tick(milliseconds); };
  const bell = new EventTarget();
  let barks = 0;
  const dog = watchdog(() => { barks += 1; }, bell);
  const renew = () => bell.dispatchEvent(new Event('renew'));
  dog.feed(30_000);
  pass(2_000);
  renew();
  pass(500);
  dog.feed(30_000);
  pass(29_000);
  assert.equal(barks, 0, 'it moved after the change');
  renew();
  pass(0);
  assert.equal(barks, 1, 'it had been silent for long');
  dog.feed(90_000);
  pass(1_000);
  renew();
  pass(1_999);
  assert.equal(barks, 1);
  pass(1);
  assert.equal(barks, 2, 'it was fed a moment before the change, and never again');
  dog.feed(30_000);
  dog.leave();
  renew();
  pass(60_000);
  assert.equal(barks, 2);
});
