import assert from 'node:assert/strict';
import { test } from 'node:test';
import { askForHandles, fromData, fromFiles, fromHandles, leftOut, tooMuch, withUniquePaths } from '../../static/js/upload/pick-files.js';
import { size } from '../../static/js/upload/progress.js';

const file = (name, bytes = 1, webkitRelativePath = '') => ({ name, size: bytes, webkitRelativePath });
const paths = (picked) => picked.map(({ path }) => path);
const pathsOf = ({ picked }) => paths(picked);

/** A folder as a browser gives it: entries come in batches of 100, and an empty one ends it. */
function folder(fullPath, children) {
  return {
    isFile: false, isDirectory: true, fullPath,
    createReader: () => {
      const rest = [...children];
      return { readEntries: (resolve) => setImmediate(() => resolve(rest.splice(0, 100))) };
    },
  };
}
const leaf = (fullPath) => ({ isFile: true, isDirectory: false, fullPath, file: (resolve) => resolve(file(fullPath.split('/').pop())) });
const item = (entry) => ({ kind: 'file', webkitGetAsEntry: () => entry, getAsFile: () => entry && entry.isFile ? file(entry.fullPath.slice(1)) : null });

test('an input keeps the paths of a folder and leaves out what systems leave behind', () => {
  const files = [file('a.txt'), file('b.txt', 1, 'trip/day 1/b.txt'), file('.DS_Store', 1, 'trip/.DS_Store'), file('THUMBS.DB'), file('desktop.ini'), file('Icon\r', 0, 'trip/Icon\r'), file('my.DS_Store'), file('Icon')];
  assert.deepEqual(paths(fromFiles(files)), ['a.txt', 'trip/day 1/b.txt', 'my.DS_Store', 'Icon']);
});

test('a folder that is chosen comes in the order of its names, loose files as they were chosen', () => {
  assert.deepEqual(paths(fromFiles(['10.raw', '9.raw', 'a/1.raw'].map((name) => file(name, 1, `trip/${name}`)))), ['trip/9.raw', 'trip/10.raw', 'trip/a/1.raw']);
  assert.deepEqual(paths(fromFiles([file('b'), file('a')])), ['b', 'a']);
});

test('a dropped folder is walked to its end, in batches, and comes in the order of its names', async () => {
  const day = folder('/trip/day', Array.from({ length: 250 }, (_, index) => leaf(`/trip/day/${249 - index}.raw`)));
  const trip = folder('/trip', [leaf('/trip/notes.txt'), day, folder('/trip/empty', []), leaf('/trip/.DS_Store')]);
  const picked = pathsOf(await fromData({ items: [item(trip), item(leaf('/loose.bin')), { kind: 'string' }], files: [] }));
  assert.equal(picked.length, 252);
  assert.equal(picked[0], 'trip/day/0.raw');
  assert.equal(picked[249], 'trip/day/249.raw');
  assert.equal(picked[250], 'trip/notes.txt');
  assert.equal(picked[251], 'loose.bin');
});

test('the items are taken hold of before anything is awaited', async () => {
  let alive = true;
  const data = { get items() { assert.ok(alive); return [item(leaf('/a')), item(leaf('/b'))]; }, files: [] };
  const picking = fromData(data);
  alive = false;
  assert.deepEqual(pathsOf(await picking), ['a', 'b']);
});

test('where there are no items or no entries, plain files do', async () => {
  assert.deepEqual(pathsOf(await fromData({ files: [file('x')] })), ['x']);
  assert.deepEqual(pathsOf(await fromData({ items: [{ kind: 'file', getAsFile: () => file('image.png') }], files: [] })), ['image.png']);
});

test('a folder that cannot be read is an error, not an empty folder', async () => {
  const broken = { isFile: false, isDirectory: true, fullPath: '/x', createReader: () => ({ readEntries: (_, reject) => reject(new Error('NotFoundError')) }) };
  await assert.rejects(fromData({ items: [item(broken)], files: [] }));
});

/** Handles as Chromium gives them. */
const kept = (name) => ({ kind: 'file', name, getFile: async () => file(name) });
const keptFolder = (name, children) => ({ kind: 'directory', name, async* values() { yield* children; } });

test('a folder by its handle: every file has its path, in the order of these, and the folder as its handle', async () => {
  const day = keptFolder('day', Array.from({ length: 250 }, (_, index) => kept(`${249 - index}.raw`)));
  const trip = keptFolder('trip', [kept('notes.txt'), day, kept('.DS_Store'), keptFolder('empty', [])]);
  const { picked } = await fromHandles([trip, kept('loose.bin'), kept('Thumbs.db')]);
  assert.equal(picked.length, 252);
  assert.deepEqual([picked[0].path, picked[249].path, picked[250].path, picked[251].path], ['trip/day/0.raw', 'trip/day/249.raw', 'trip/notes.txt', 'loose.bin']);
  assert.equal(picked[1].handle, trip);
  assert.equal(picked[251].handle.kind, 'file');
});

const vanished = () => { throw new DOMException('', 'NotFoundError'); };

test('a file that cannot be opened is left out of its folder by name, and the others come', async () => {
  const lock = { ...kept('b~lock'), getFile: async () => vanished() };
  assert.deepEqual(await fromHandles([keptFolder('d', [kept('a'), lock]), lock]).then(({ picked, unreadable }) => [paths(picked), unreadable]), [['d/a'], ['d/b~lock', 'b~lock']]);
  const gone = { ...leaf('/d/b~lock'), file: (_, reject) => reject(new DOMException('', 'NotFoundError')) };
  const { picked, unreadable } = await fromData({ items: [item(folder('/d', [leaf('/d/a'), gone]))], files: [] });
  assert.deepEqual([paths(picked), unreadable], [['d/a'], ['d/b~lock']]);
});

test('a dropped folder of which nothing can be read by its handle is read the old way', async () => {
  const dropped = { ...item(folder('/d', [leaf('/d/a')])), getAsFileSystemHandle: async () => keptFolder('d', [{ ...kept('a'), getFile: async () => vanished() }]) };
  const { picked, unreadable } = await fromData({ items: [dropped], files: [] });
  assert.deepEqual([paths(picked), unreadable], [['d/a'], []]);
});

test('what is left out is named, and the rest of it counted', () => {
  assert.equal(leftOut(['d/a']), '“d/a” could not be read and was left out.');
  assert.equal(leftOut(['d/a', 'b']), '“d/a” and 1 other file could not be read and were left out.');
  assert.equal(leftOut(['d/a', 'b', 'c']), '“d/a” and 2 other files could not be read and were left out.');
});

test('a drop brings handles where there are some, and does without where not', async () => {
  const withHandle = (entry, handle) => ({ ...item(entry), getAsFileSystemHandle: () => handle });
  const trip = keptFolder('trip', [kept('a.raw')]);
  const tripEntry = folder('/trip', [leaf('/trip/a.raw')]);
  const loose = kept('loose.bin');
  const { picked } = await fromData({ items: [
    withHandle(tripEntry, Promise.resolve(trip)),
    withHandle(leaf('/loose.bin'), Promise.resolve(loose)),
    withHandle(leaf('/pasted.png'), Promise.reject(new Error('no'))),
    withHandle(tripEntry, Promise.resolve({ kind: 'directory', name: 'trip', values() { throw new Error('denied'); } })),
  ] });
  assert.deepEqual(paths(picked), ['trip/a.raw', 'loose.bin', 'pasted.png', 'trip/a.raw']);
  assert.deepEqual(picked.map(({ handle }) => handle), [trip, loose, undefined, undefined]);
});

test('the dialog that gives handles: thought better of is no error, and where there is none the input does', async () => {
  const refusing = (name) => async () => { throw Object.assign(new Error(name), { name }); };
  assert.equal(await askForHandles('showOpenFilePicker'), null);
  try {
    globalThis.showOpenFilePicker = async ({ multiple }) => (multiple ? ['a', 'b'] : []);
    assert.deepEqual(await askForHandles('showOpenFilePicker'), ['a', 'b']);
    globalThis.showDirectoryPicker = async () => 'folder';
    assert.deepEqual(await askForHandles('showDirectoryPicker'), ['folder']);
    globalThis.showOpenFilePicker = refusing('AbortError');
    assert.deepEqual(await askForHandles('showOpenFilePicker'), []);
    globalThis.showOpenFilePicker = refusing('SecurityError');
    assert.equal(await askForHandles('showOpenFilePicker'), null);
  } finally {
    delete globalThis.showOpenFilePicker;
    delete globalThis.showDirectoryPicker;
  }
});

test('a file that had to get another name remembers where it was found', () => {
  const unique = withUniquePaths([{ path: 'a', file: file('a') }, { path: 'a', file: file('a') }]);
  assert.deepEqual(unique.map(({ from }) => from), [undefined, 'a']);
  assert.deepEqual(withUniquePaths(unique, ['a', 'a (2)']).map(({ path, from }) => [path, from]), [['a (3)', 'a'], ['a (2) (2)', 'a']]);
});

for (const [given, taken, expected] of [
  [['a.txt', 'a.txt', 'a.txt'], [], ['a.txt', 'a (2).txt', 'a (3).txt']],
  [['a.txt'], ['a.txt', 'a (2).txt'], ['a (3).txt']],
  [['x.y/name', 'x.y/name'], [], ['x.y/name', 'x.y/name (2)']],
  [['d/.env', 'd/.env'], [], ['d/.env', 'd/.env (2)']],
  [['a/x', 'b/x'], [], ['a/x', 'b/x']],
]) {
  test(`${given} beside ${taken || 'nothing'} becomes ${expected}`, () => {
    assert.deepEqual(paths(withUniquePaths(given.map((path) => ({ path, file: file(path) })), taken)), expected);
  });
}

const limits = { max_file_size: 100, max_transfer_size: 150, max_files: 3 };
for (const [sizes, already, words] of [
  [[100, 50], undefined, /^$/],
  [[101], undefined, /A file may be at most 100 bytes/],
  [[100, 51], undefined, /Together they are 151 bytes/],
  [[10], { count: 1, size: 141 }, /Together they are 151 bytes/],
  [[1, 1, 1, 1], undefined, /These are 4 files/],
  [[1, 1], { count: 2, size: 2 }, /These are 4 files/],
]) {
  test(`${sizes} after ${JSON.stringify(already)}: ${words}`, () => {
    assert.match(tooMuch(sizes.map((bytes, index) => ({ path: `f${index}`, file: file('f', bytes) })), limits, size, already), words);
  });
}

test('no limit is no limit', () => {
  assert.equal(tooMuch([{ path: 'f', file: file('f', 1e15) }], { max_file_size: null, max_transfer_size: null, max_files: null }, size), '');
});
