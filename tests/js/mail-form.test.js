import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addressesIn } from '../../static/js/upload/mail-form.js';

for (const [text, expected] of [
  ['', []],
  ['bo@example.org', ['bo@example.org']],
  ['bo@example.org, cy@example.org;di@example.org\neve@example.org  fay@example.org', ['bo@example.org', 'cy@example.org', 'di@example.org', 'eve@example.org', 'fay@example.org']],
  ['Bo Diddley <bo@example.org>, Cy <cy@example.org>', ['bo@example.org', 'cy@example.org']],
  ['bo@example.org,,bo@example.org', ['bo@example.org']],
  ['nobody', []],
]) {
  test(`addresses in ${JSON.stringify(text)}`, () => assert.deepEqual(addressesIn(text), expected));
}
