import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { test } from 'node:test';

test('no words stand in a template within a template: what squeezes the scripts takes their spaces away', () => {
  const nested = /`[^`]*\$\{[^}`]*`[^`]*\s[^`]*`/;
  const found = globSync('static/js/**/*.js').flatMap((name) => readFileSync(name, 'utf8').split('\n').filter((line) => nested.test(line)).map((line) => `${name}: ${line}`));
  assert.deepEqual(found, []);
});
