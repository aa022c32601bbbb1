import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addressesIn } from '../../static/js/sender/mail-form.js';

for (const [text, expected] of [
  ['', []],
  ['bo@example.org', ['bo@example.org']],
  ['bo@example.org, cy@example.org;di@example.org\neve@example.org  fay@example.org', ['bo@example.org', 'cy@example.org', 'di@example.org', 'eve@example.org', 'fay@example.org']],
  ['Bo Diddley <bo@example.org>, Cy <cy@example.org>', ['bo@example.org', 'cy@example.org']],
  ['bo@example.org,,bo@example.org', ['bo@example.org']],
  ['nobody', ['nobody']],
  ['bo@example.org, cy.example.org', ['bo@example.org', 'cy.example.org']],
  ['bo@example.org cy.example.org Di Diddley <di@example.org> eve.example.org', ['bo@example.org', 'di@example.org', 'eve.example.org']],
  ['cy.example.org, Bo <bo@example.org>', ['cy.example.org', 'bo@example.org']],
  ['"Diddley, Bo (b.d.)" <bo@example.org>; Di.Diddley<di@example.org>', ['bo@example.org', 'di@example.org']],
  ['Diddley, Bo J. <bo@example.org>; Cy <cy@example.org>', ['bo@example.org', 'cy@example.org']],
  [' ,;', []],
]) {
  test(`addresses in ${JSON.stringify(text)}`, () => assert.deepEqual(addressesIn(text), expected));
}
