// How often addresses are asked for, in a world whose clock goes on only when everybody waits: one reader,
// and a line that the lanes share.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TransferUpload } from '../../static/js/upload/transfer-upload.js';
import { FakeWorld, MIB, picked, settle } from './world.js';

const PARTS = 320;
const LANES = 6;
const SIGNING = 100; // milliseconds

/** Milliseconds that a piece takes to be read, and on the whole line. */
async function send(reading, sending) {
  const world = new FakeWorld({ sums: reading > 0, partSize: 32 * MIB });
  const waiting = [];
  const until = (at) => new Promise((resolve) => { waiting.push({ at, resolve }); });
  let readAt = 0;
  if (reading) world.checksum = async () => { await until(readAt = Math.max(readAt, world.time) + reading); return 'sum'; };
  world.onPut = () => until(world.time + sending * LANES);
  world.onSign = () => until(world.time + SIGNING);
  const one = await TransferUpload.create(picked({ film: PARTS * 32 * MIB }), world);
  let isOver = false;
  const over = one.run().finally(() => { isOver = true; });
  for (await settle(); !isOver; await settle()) {
    const next = waiting.sort((a, b) => a.at - b.at).shift();
    if (!next) continue;
    world.time = Math.max(world.time, next.at);
    next.resolve();
  }
  await over;
  return { asked: world.calls.filter((call) => call.startsWith('sign')).length, time: world.time };
}

for (const [words, reading, sending, most] of [['somewhat faster than the line', 56, 80, 16], ['much faster than the line', 40, 280, 10], ['not needed', 0, 80, 7]]) {
  test(`ten GiB ask for addresses ${most} times at most where reading is ${words}, and the line is never idle for long`, async () => {
    const { asked, time } = await send(reading, sending);
    assert.ok(asked <= most, String(asked));
    assert.ok(time < PARTS * sending * 1.06, String(time));
  });
}

for (const [words, reading] of [['slower than', 100], ['about as fast as', 84]]) {
  test(`where reading is ${words} the line, nobody waits for a larger request`, async () => {
    const { time } = await send(reading, 80);
    assert.ok(time < PARTS * reading * 1.06, String(time));
  });
}
