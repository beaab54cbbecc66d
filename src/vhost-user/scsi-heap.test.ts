// The data path of virtio-scsi allocates nothing, from the ring to the device and back.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

/** What the runtime itself allocates meanwhile, over a million commands; one number boxed is 12. */
const BYTES_MAX = 2;

test("a READ and a WRITE through a request ring allocate nothing", () => {
  const child = fileURLToPath(new URL("./_bench-scsi-heap.js", import.meta.url));
  const flags = ["--expose-gc", "--max-semi-space-size=64", "--min-semi-space-size=64"];
  const output = execFileSync(process.execPath, [...flags, child], { encoding: "utf8" });
  const { perRequest, readCount, writeCount } = JSON.parse(output);
  assert.deepEqual([readCount, writeCount], [3_400_016, 3_400_016]);
  assert.ok(perRequest.read < BYTES_MAX, `READ: ${perRequest.read} bytes each`);
  assert.ok(perRequest.write < BYTES_MAX, `WRITE: ${perRequest.write} bytes each`);
});
