import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Memory, nameOf } from '../../static/js/upload/memory.js';

/** What IndexedDB does, without its ceremony: pieces are only ever added. */
class FakeShelf {
  kept = [];
  writes = [];
  read = [];
  rows = async () => this.kept.map(({ row }) => row);
  pieces = async (id) => this.read.filter((one) => one.id === id).map(({ piece }) => piece);
  write = async (row, id, pieces) => {
    this.writes.push({ row: row?.id ?? null, pieces: pieces.map((piece) => piece.length) });
    this.onWrite?.();
    if (row) this.kept = [...this.kept.filter((one) => one.row.id !== row.id), { row }];
    this.read.push(...pieces.map((piece) => ({ id, piece: structuredClone(piece) })));
  };
  erase = async (id) => { this.kept = this.kept.filter(({ row }) => row.id !== id); this.read = this.read.filter((one) => one.id !== id); };
}

const blob = (size, lastModified = 1000) => Object.assign(new Blob(['x'.repeat(size)]), { lastModified, name: 'f' });
const plan = (id, path, size) => ({ id, path, size });
const transfer = (files, more) => ({ id: 't1', link: 'https://example.test/d/s', title: '', created_at: '2026-11-20T10:00:00Z', expires_at: '2026-11-27T10:00:00Z', files, ...more });
const two = () => ({ plans: [plan('f1', 'a.mov', 10), plan('f2', 'b.mov', 20)], picked: [{ path: 'a.mov', file: blob(10) }, { path: 'b.mov', file: blob(20, 2000), handle: { kind: 'file' } }] });

test('a transfer is remembered with its token, its name and which file is which', async () => {
  const memory = new Memory(new FakeShelf());
  const { plans, picked } = two();
  await memory.remember(transfer(plans), 'secret', picked);
  assert.deepEqual(await memory.all(), [{
    id: 't1', token: 'secret', link: 'https://example.test/d/s', name: 'a.mov and 1 more', count: 2, size: 30, created_at: '2026-11-20T10:00:00Z', expires_at: '2026-11-27T10:00:00Z',
  }]);
  const files = await memory.filesOf('t1');
  assert.deepEqual([...files.keys()], ['f1', 'f2']);
  const { print, ...first } = files.get('f1');
  assert.deepEqual(first, { id: 'f1', path: 'a.mov', size: 10, lastModified: 1000 });
  assert.equal(typeof print, 'number');
  assert.deepEqual(files.get('f2').handle, { kind: 'file' });
});

test('thousands of files are one write, in pieces that keep the page quick, before their content is looked at', async () => {
  const shelf = new FakeShelf();
  const count = 1100;
  const plans = Array.from({ length: count }, (_, index) => plan(`f${index}`, `${index}`, 1));
  await new Memory(shelf).remember(transfer(plans), 'secret', plans.map(({ path }) => ({ path, file: blob(1) })));
  assert.deepEqual(shelf.writes[0], { row: 't1', pieces: [250, 250, 250, 250, 100] });
  assert.equal(shelf.writes.length, 1 + 5, 'and then the fingerprints, some at a time');
});

test('the large files are looked at first: of them the most would be lost', async () => {
  const seen = [];
  const watched = (size) => ({ size, lastModified: 1, slice: () => { seen.push(size); return new Blob(['x']); } });
  const plans = [plan('f1', 'small', 5), plan('f2', 'large', 900)];
  await new Memory(new FakeShelf()).remember(transfer(plans), 'secret', [{ path: 'small', file: watched(5) }, { path: 'large', file: watched(900) }]);
  assert.deepEqual(seen, [900, 5]);
});

test('a file that cannot be read is remembered all the same', async () => {
  const memory = new Memory(new FakeShelf());
  const unreadable = { size: 5, lastModified: 1, slice: () => ({ arrayBuffer: () => Promise.reject(new Error('NotReadableError')) }) };
  await memory.remember(transfer([plan('f1', 'a', 5)]), 'secret', [{ path: 'a', file: unreadable }]);
  assert.deepEqual((await memory.filesOf('t1')).get('f1'), { id: 'f1', path: 'a', size: 5, lastModified: 1 });
  assert.equal(memory.works, true);
});

test('added files and handles that came later are followed, and so are a new name and fewer files', async () => {
  const memory = new Memory(new FakeShelf());
  const { plans, picked } = two();
  await memory.remember(transfer(plans), 'secret', picked);
  const more = plan('f3', 'c.mov', 5);
  await memory.add(transfer([...plans, more]), 'secret', [more], [{ path: 'c.mov', file: blob(5) }]);
  await memory.add(transfer([...plans, more]), 'secret', [plans[0]], [{ path: 'a.mov', file: blob(10), handle: { kind: 'file' } }]);
  const files = await memory.filesOf('t1');
  assert.equal(files.size, 3);
  assert.ok(files.get('f1').handle && files.get('f1').print !== undefined);
  await memory.follow(transfer([more], { title: 'Rushes' }), 'secret');
  const [row] = await memory.all();
  assert.deepEqual([row.name, row.count, row.size, row.tells], ['Rushes', 1, 5, undefined]);
  await memory.follow(transfer([more], { tells: true }), 'secret');
  assert.equal((await memory.all())[0].tells, true, 'whether recipients are to be mailed');
  await memory.follow(transfer([more], { request: 'slug' }), 'secret');
  assert.equal((await memory.all())[0].request, 'slug', 'what it was asked for by');
});

test('what is forgotten stays forgotten, whatever was still being looked at', async () => {
  const shelf = new FakeShelf();
  const memory = new Memory(shelf);
  const { plans, picked } = two();
  const remembering = memory.remember(transfer(plans), 'secret', picked);
  shelf.onWrite = () => { shelf.onWrite = undefined; void memory.forget('t1'); };
  await remembering;
  await memory.follow(transfer(plans), 'secret');
  await memory.add(transfer(plans), 'secret', plans, picked);
  await memory.forget('t1');
  assert.deepEqual([shelf.kept, shelf.read], [[], []]);
});

test('the latest is the first', async () => {
  const memory = new Memory(new FakeShelf());
  for (const [id, at] of [['old', '2026-11-01'], ['new', '2026-11-20'], ['middle', '2026-11-10']]) {
    await memory.remember(transfer([], { id, created_at: `${at}T10:00:00Z` }), 'secret', []);
  }
  assert.deepEqual((await memory.all()).map(({ id }) => id), ['new', 'middle', 'old']);
});

test('where nothing can be kept nothing fails, and it says so', async () => {
  const denied = async () => { throw new DOMException('denied', 'SecurityError'); };
  const memory = new Memory({ rows: denied, pieces: denied, write: denied, erase: denied });
  const { plans, picked } = two();
  assert.equal(memory.works, true);
  await memory.remember(transfer(plans), 'secret', picked);
  assert.equal(memory.works, false);
  assert.deepEqual(await memory.all(), []);
  assert.equal((await memory.filesOf('t1')).size, 0);
  await memory.forget('t1');
});

for (const [title, paths, name] of [
  ['', ['Wedding.zip'], 'Wedding.zip'],
  ['', ['trip/only.raw'], 'only.raw'],
  ['', ['trip/a.raw', 'trip/day/b.raw'], 'trip'],
  ['', ['trip/a.raw', 'trips/b.raw'], 'trip/a.raw and 1 more'],
  ['', ['a', 'b', 'c'], 'a and 2 more'],
  ['Rushes', ['a', 'b'], 'Rushes'],
  ['', [], 'your files'],
]) {
  test(`${paths.join(', ') || 'nothing'} ${title && `titled ${title} `}is called ${name}`, () => {
    assert.equal(nameOf({ title, files: paths.map((path) => ({ path })) }), name);
  });
}
