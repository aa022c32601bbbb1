// Drives WeTransfer's own JavaScript SDK as a program of its user's would: what to send comes as
// JSON on standard input, what came of it leaves as JSON on standard output.
"use strict";

const { readFileSync } = require("node:fs");
const { createRequire } = require("node:module");

const sdkPath = require.resolve("@wetransfer/js-sdk");
const ofSdk = createRequire(sdkPath);
// Its address is no option of its own, but that of the axios it brings.
const axios = ofSdk("axios");
require("@wetransfer/js-sdk/src/request");
axios.defaults.baseURL = process.env.BASE_URL;
// Version 1.2.0 names a function that it forgot to import, and cannot be made without one.
globalThis.getFileUploadURLToTransfer =
  require("@wetransfer/js-sdk/src/transfers/actions").getFileUploadURLToTransfer;

const createWTClient = require(sdkPath);

async function main() {
  const asked = JSON.parse(readFileSync(0, "utf8"));
  const client = await createWTClient(process.env.API_KEY, {
    logger: { level: "error" },
    chunkRetries: 0,
    retries: 2,
    ...asked.options,
  });
  const files = (asked.files ?? []).map(({ name, path }) => {
    const content = readFileSync(path);
    return { name, size: content.length, content };
  });
  if (asked.board) {
    const board = await client.board.create(asked.board);
    await client.board.addLinks(board, asked.links);
    await client.board.addFiles(board, files);
    return { added: board, found: await client.board.find(board.id) };
  }
  const made = await client.transfer.create({ message: asked.message, files });
  return { made, found: await client.transfer.find(made.id) };
}

main().then(
  (result) => process.stdout.write(JSON.stringify(result)),
  (error) => {
    const told = error.raw?.response ?? error.raw?.raw?.response;
    process.stdout.write(JSON.stringify({ error: error.message, status: told?.status }));
    process.exitCode = 1;
  },
);
