// Uppy Companion with only its S3 routes turned on: no providers, no sessions, no metrics, no log.
// Prints its port.

import { Agent } from "node:http";

import * as companion from "@uppy/companion";

// Companion logs through this.
console.log = () => {};
const given = process.env;
const { app } = companion.app({
  secret: "only-for-benchmarks",
  filePath: given.FILES,
  server: { host: "127.0.0.1", protocol: "http" },
  uploadUrls: [given.S3_ENDPOINT_URL],
  corsOrigins: true,
  metrics: false,
  s3: {
    key: given.S3_ACCESS_KEY_ID,
    secret: given.S3_SECRET_ACCESS_KEY,
    bucket: given.BUCKET,
    region: given.S3_REGION,
    endpoint: given.S3_ENDPOINT_URL,
    forcePathStyle: true,
    expires: 3600,
    awsClientOptions: {
      // Otherwise presigned URLs contain the checksum of an empty body, and accept no other.
      requestChecksumCalculation: "WHEN_REQUIRED",
      // Companion makes an S3 client for every request, and each would keep its own connection open.
      requestHandler: { httpAgent: new Agent({ keepAlive: true, maxSockets: 50 }) },
    },
  },
});

const server = app.listen(0, "127.0.0.1", () => {
  process.stdout.write(`${server.address().port}\n`);
});
