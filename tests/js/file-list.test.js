import assert from 'node:assert/strict';
import { test } from 'node:test';
import { endOfName } from '../../static/js/sender/file-list.js';

// tests/test_words.py has the same table.
for (const [name, end] of [
  ['Short name.mov', ''],
  ['Coast road, evening.jpg.exe', 'ng.jpg.exe'],
  ['Überblick über die Änderungen im Frühjahr.pdf', 'hjahr.pdf'],
  ['תמונות מהטיול הגדול.zip', '.zip'],
  ['Отчёт за третий квартал 2024.docx', ' 2024.docx'],
  ['2024年年度報告書とその付録の一覧.pdf', '.pdf'],
  ['A letter with cafe\u0301s', 's'],
  ['Отчёт за третий квартал', ''],
  ['a name that ends in a line\n', ''],
]) {
  test(`of ${JSON.stringify(name)} stays in sight ${JSON.stringify(end)}`, () => assert.equal(endOfName(name), end));
}
