// The data path keeps nothing: five million requests leave the heap as it was.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

/** Code that is optimised late, and what the runtime keeps: one byte per ten requests. */
const GROWTH_BYTES_MAX = 512 * 1024;

test("five million requests allocate nothing that stays", () => {
  const child = fileURLToPath(new URL("./_bench-heap.js", import.meta.url));
  const output = execFileSync(process.execPath, ["--expose-gc", child], { encoding: "utf8" });
  const grown = JSON.parse(output) as Record<string, number>;
  assert.equal(Object.keys(grown).length, 4);
  for (const [shape, bytes] of Object.entries(grown)) {
    assert.ok(bytes < GROWTH_BYTES_MAX, `${shape}: the heap grew by ${bytes} bytes`);
  }
});
