import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Backend, newKey } from '../../static/js/upload/backend.js';

const answer = (status, body, headers = {}) => new Response(body === undefined ? null : typeof body === 'string' ? body : JSON.stringify(body), { status, headers });

function backendThat(answers, { offline = false } = {}) {
  const asked = [];
  const fetch = async (url, { method, headers, body, credentials, keepalive, signal }) => {
    asked.push({ url, method, token: headers.Authorization, key: headers['Idempotency-Key'], type: headers['Content-Type'], body: body && JSON.parse(body), credentials, keepalive });
    const next = answers.shift();
    return typeof next === 'function' ? next(signal) : next;
  };
  return { asked, backend: new Backend(fetch, () => offline) };
}

for (const [name, call, expected] of [
  ['create', (b) => b.create({ files: [] }, 'the-key'), ['POST', '/transfers', undefined, { files: [] }]],
  ['read', (b) => b.of('t', 'k').read(), ['GET', '/transfers/t', 'Bearer k', undefined]],
  ['edit', (b) => b.of('t', 'k').edit({ title: 'x' }), ['PATCH', '/transfers/t', 'Bearer k', { title: 'x' }]],
  ['remove', (b) => b.of('t', 'k').remove(), ['DELETE', '/transfers/t', 'Bearer k', undefined]],
  ['add files', (b) => b.of('t', 'k').addFiles([], 'the-key'), ['POST', '/transfers/t/files', 'Bearer k', { files: [] }]],
  ['remove a file', (b) => b.of('t', 'k').removeFile('f'), ['DELETE', '/transfers/t/files/f', 'Bearer k', undefined]],
  ['name', (b) => b.of('t', 'k').signParts([], 5, undefined, ['f']), ['POST', '/transfers/t/parts', 'Bearer k', { wanted: [], sent_size: 5, sent: ['f'] }]],
  ['sign', (b) => b.of('t', 'k').signParts([{ file: 'f', numbers: [1] }], 5), ['POST', '/transfers/t/parts', 'Bearer k', { wanted: [{ file: 'f', numbers: [1] }], sent_size: 5 }]],
  ['complete', (b) => b.of('t', 'k').complete(), ['POST', '/transfers/t/complete', 'Bearer k', {}]],
  ['mailCode', (b) => b.mailCode('a@b.org'), ['POST', '/senders/code', undefined, { email: 'a@b.org' }]],
  ['confirm', (b) => b.confirm('a@b.org', '123456'), ['POST', '/senders/confirm', undefined, { email: 'a@b.org', code: '123456' }]],
]) {
  test(`${name} asks for ${expected[0]} ${expected[1]}, without cookies`, async () => {
    const { asked, backend } = backendThat([answer(200, { fine: true })]);
    assert.deepEqual(await call(backend), { fine: true });
    assert.deepEqual([asked[0].method, asked[0].url, asked[0].token, asked[0].body], expected);
    assert.equal(asked[0].credentials, 'omit');
    assert.equal(asked[0].type, expected[3] === undefined ? undefined : 'application/json');
  });
}

test('what makes something carries a key, and keys are secrets that the server accepts', async () => {
  const { asked, backend } = backendThat([answer(201, {}), answer(201, {}), answer(200, {})]);
  await backend.create({ files: [] }, 'the-key');
  await backend.of('t', 'k').addFiles([], 'another');
  await backend.of('t', 'k').read();
  assert.deepEqual(asked.map(({ key }) => key), ['the-key', 'another', undefined]);
  assert.match(newKey(), /^[0-9a-f]{48}$/);
  assert.notEqual(newKey(), newKey());
});

test('what is held is asked page by page', async () => {
  const { asked, backend } = backendThat([answer(200, { files: [{ id: 'a' }, { id: 'b' }], next: 'b' }), answer(200, { files: [{ id: 'c' }], next: null })]);
  assert.deepEqual(await backend.of('t', 'k').held(), { files: [{ id: 'a' }, { id: 'b' }, { id: 'c' }] });
  assert.deepEqual(asked.map(({ method, url }) => `${method} ${url}`), ['GET /transfers/t/parts', 'GET /transfers/t/parts?after=b']);
});

test('too much mail is no reason to ask again at once', async () => {
  const { backend } = backendThat([answer(429, { error: { code: 'too_much_mail', message: 'Too many mails' } }, { 'Retry-After': '900' })]);
  await assert.rejects(backend.mailCode('a@b.org'), (error) => error.why === 'invalid' && error.facts.message === 'Too many mails');
});

test('a proof of the sender that is too old is told apart from what a sender could correct', async () => {
  const { backend } = backendThat([answer(400, { error: { code: 'invalid', message: 'Some fields are not valid.', fields: [{ field: 'sender_token', message: 'does not prove this address: confirm it again' }] } })]);
  await assert.rejects(backend.create({ files: [] }, 'the-key'), (error) => error.why === 'signed-out' && error.facts.fields[0].field === 'sender_token');
});

test('what is changed is not lost with the page', async () => {
  const { asked, backend } = backendThat([answer(200, {}), answer(200, {})]);
  await backend.of('t', 'k').edit({ password: 'x' });
  await backend.of('t', 'k').read();
  assert.deepEqual(asked.map(({ keepalive }) => keepalive), [true, false]);
});

test('an empty answer is no error', async () => {
  assert.equal(await backendThat([answer(204)]).backend.of('t', 'k').remove(), undefined);
});

for (const [status, why] of [[400, 'invalid'], [401, 'gone'], [404, 'gone'], [409, 'conflict'], [410, 'gone'], [413, 'too-large'], [415, 'unexpected'], [429, 'too-many'], [500, 'server-busy'], [502, 'server-busy'], [503, 'server-busy']]) {
  test(`${status} is ${why}, with what the server said`, async () => {
    const body = { error: { code: 'some_code', message: 'Some words', fields: [{ field: 'title', message: 'too long' }], request_id: 'r1' } };
    const { backend } = backendThat([answer(status, body, { 'Retry-After': '3' })]);
    await assert.rejects(backend.of('t', 'k').read(), (error) => {
      assert.equal(error.why, why);
      assert.deepEqual(error.facts, { status, code: 'some_code', message: 'Some words', fields: body.error.fields, requestId: 'r1', retryAfter: 3 });
      return true;
    });
  });
}

test('what has expired is told from what is gone: it can be brought back', async () => {
  for (const [reason, why] of [['expired', 'expired'], ['deleted', 'gone']]) {
    const { backend } = backendThat([answer(410, { error: { code: 'gone', message: 'Some words' }, reason })]);
    await assert.rejects(backend.of('t', 'k').complete(), (error) => error.why === why);
  }
});

test('what the operator has blocked says so, and any other 403 does not', async () => {
  for (const [code, why] of [['blocked', 'blocked'], ['forbidden', 'unexpected']]) {
    const { backend } = backendThat([answer(403, { error: { code, message: 'Some words', request_id: 'r1' } })]);
    await assert.rejects(backend.of('t', 'k').complete(), (error) => error.why === why);
  }
});

test('a page of a proxy in between is a failure too', async () => {
  const { backend } = backendThat([answer(502, '<html>Bad gateway</html>', { 'X-Request-ID': 'r2' })]);
  await assert.rejects(backend.of('t', 'k').read(), (error) => error.why === 'server-busy' && error.facts.requestId === 'r2');
});

for (const offline of [true, false]) {
  test(`no answer while the machine ${offline ? 'knows that it is offline' : 'believes to be online'}`, async () => {
    const { backend } = backendThat([() => { throw new TypeError('Failed to fetch'); }], { offline });
    await assert.rejects(backend.of('t', 'k').read(), (error) => error.why === (offline ? 'offline' : 'server-unreachable'));
  });
}

test('an abort is passed on and comes out as itself', async () => {
  const stop = new AbortController();
  const reason = new Error('leave');
  const { backend } = backendThat([(signal) => new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason));
    stop.abort(reason);
  })]);
  await assert.rejects(backend.of('t', 'k').read(stop.signal), reason);
});

// --- What is added to a transfer that is ready ---------------------------------------------------

const there = { id: 'a', size: 5, is_coming: false };
const coming = { id: 'b', size: 7, is_coming: true };
const theirs = { id: 'theirs', size: 1, is_coming: true };
const whole = { id: 't', status: 'READY', batch: null, created_at: 'then', total_size: 5, files: [there] };

for (const [name, told, expected] of [
  ['files come', { ...whole, batch: { status: 'INIT', problem: { code: 'storage' }, created_at: 'now' }, files: [there, coming] }, { status: 'INIT', created_at: 'now', total_size: 7, files: ['b'], problem: { code: 'storage' } }],
  ['they are checked', { ...whole, batch: { status: 'PROCESSING', problem: null, created_at: 'now' }, files: [there, coming] }, { status: 'PROCESSING', created_at: 'now', total_size: 7, files: ['b'], problem: null }],
  ['they are there', { ...whole, files: [there, { ...coming, is_coming: false }] }, { status: 'READY', created_at: 'then', total_size: 7, files: ['b'], problem: null }],
  ['they were given up', whole, { status: 'DELETED', created_at: 'then', total_size: 0, files: [], problem: null }],
  ['another device adds more', { ...whole, batch: { status: 'INIT', problem: null, created_at: 'now' }, files: [there, coming, theirs] }, { status: 'INIT', created_at: 'now', total_size: 7, files: ['b'], problem: null }],
  ['they are there, and another device adds more', { ...whole, batch: { status: 'INIT', problem: null, created_at: 'now' }, files: [there, { ...coming, is_coming: false }, theirs] }, { status: 'READY', created_at: 'then', total_size: 7, files: ['b'], problem: null }],
  ['they were removed, and another device adds more', { ...whole, batch: { status: 'INIT', problem: null, created_at: 'now' }, files: [there, theirs] }, { status: 'DELETED', created_at: 'then', total_size: 0, files: [], problem: null }],
  ['all of it has expired', { ...whole, status: 'EXPIRED', files: [there, coming] }, { status: 'EXPIRED', created_at: 'then', total_size: 7, files: ['b'], problem: null }],
]) {
  test(`a batch looks like a transfer of its own: ${name}`, async () => {
    const { backend } = backendThat([answer(200, told)]);
    const { adds, status, created_at, total_size, files, problem } = await backend.batchOf('t', 'k', () => ['b', 'removed']).read();
    assert.deepEqual({ status, created_at, total_size, files: files.map(({ id }) => id), problem }, expected);
    assert.equal(adds, true);
  });
}

test('who gives a batch up removes nothing else, and recipients are told only if that is wanted', async () => {
  const { asked, backend } = backendThat([answer(200, { ...whole, files: [there, coming] }), answer(204), answer(202, whole), answer(202, whole)]);
  const batch = backend.batchOf('t', 'k', () => ['b', 'removed']);
  await batch.remove();
  await batch.complete();
  await batch.complete(undefined, true);
  assert.deepEqual(asked.map(({ method, url, body }) => [method, url, body]), [
    ['GET', '/transfers/t', undefined], ['DELETE', '/transfers/t/batch', undefined], ['POST', '/transfers/t/complete', {}], ['POST', '/transfers/t/complete', { tell_recipients: true }],
  ]);
});

test('nor what another device is adding to the same transfer', async () => {
  const files = [there, coming, theirs, { ...coming, id: 'c' }];
  const { asked, backend } = backendThat([answer(200, { ...whole, files }), answer(204), answer(204)]);
  await backend.batchOf('t', 'k', () => ['b', 'c', 'removed']).remove();
  assert.deepEqual(asked.slice(1).map(({ method, url }) => [method, url]), [['DELETE', '/transfers/t/files/b'], ['DELETE', '/transfers/t/files/c']]);
});
