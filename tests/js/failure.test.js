import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure, asFailure, details, explain } from '../../static/js/upload/failure.js';

const CAUSES = ['offline', 'server-unreachable', 'server-busy', 'storage-unreachable', 'storage-blocked', 'storage-busy', 'storage-full', 'clock', 'refused', 'gone', 'expired', 'blocked', 'too-large', 'too-many', 'invalid', 'conflict', 'file-changed', 'not-chosen', 'incomplete', 'unexpected'];

for (const why of CAUSES) {
  test(`${why}: says what happened, in plain words`, () => {
    const words = Object.values(explain(new Failure(why), { safe: '62 %' })).join(' ');
    assert.ok(words.length > 20);
    assert.doesNotMatch(words, /!|undefined|bucket|presigned|\bparts?\b|multipart|CORS/i);
  });
}

test('what is safe is said, and that it continues by itself', () => {
  assert.deepEqual(explain(new Failure('offline'), { safe: '62 %', waiting: true }), { title: 'You are offline.', text: '62 % is safe. It continues by itself.' });
});

test('nothing is promised of a transfer that is gone', () => {
  for (const why of ['gone', 'blocked']) assert.doesNotMatch(explain(new Failure(why), { safe: '62 %' }).text, /safe/);
});

test('the file is named', () => {
  assert.equal(explain(new Failure('incomplete', { path: 'a/b.mov' })).title, '“a/b.mov” did not arrive completely.');
  assert.equal(explain(new Failure('refused', { path: 'b.mov' })).title, 'The storage refused “b.mov”.');
});

test('for bad input the server has the better words', () => {
  const failure = new Failure('invalid', { message: 'Please check', fields: [{ field: 'files.0.path', message: 'is too long' }] });
  assert.equal(explain(failure).title, 'A name is too long.');
});

test('what is said beside a field is a sentence', () => {
  const said = (field, message) => explain(new Failure('invalid', { fields: [{ field, message }] })).title;
  assert.equal(said('code', 'is not the one that was mailed'), 'The code is not the one that was mailed.');
  assert.equal(said('password', 'must be at least 4 characters'), 'The password must be at least 4 characters.');
  assert.equal(said('sender_email', 'is not an e-mail address'), 'This is not an e-mail address.');
});

test('bad input is told with the file that it is about', () => {
  const files = [{ path: 'a' }, { path: 'trip/b' }];
  const about = (field, message) => Object.values(explain(new Failure('invalid', { fields: [{ field, message }] }).among(files))).join(' ');
  assert.equal(about('files.1.path', 'must not be absolute'), 'The name “trip/b” must not be absolute. Change it or leave it out, and choose again.');
  assert.equal(about('files.0.size', 'is too large'), 'The file “a” is too large. Change it or leave it out, and choose again.');
  assert.equal(about('files', 'are too many').trim(), 'The files are too many.');
  assert.equal(about('files.7.path', 'is too long').trim(), 'A name is too long.');
});

test('of what is too much the server tells more than that', () => {
  const message = 'Too many unfinished transfers from your network. Finish or cancel some.';
  assert.deepEqual(explain(new Failure('too-many', { message }), { waiting: true }), { title: message, text: 'It continues by itself.' });
  assert.equal(explain(new Failure('too-many')).title, 'That was too much at once.');
});

test('details are one fact a line, and only facts', () => {
  const failure = new Failure('refused', { status: 403, code: 'AccessDenied', requestId: 'r1', path: 'x' });
  assert.equal(details(failure), 'cause: refused\nstatus: 403\ncode: AccessDenied\nfile: x\nrequest: r1');
});

test('whatever is thrown becomes a failure', () => {
  assert.equal(asFailure(new TypeError('odd')).facts.code, 'TypeError: odd');
  assert.equal(asFailure('odd').why, 'unexpected');
});
