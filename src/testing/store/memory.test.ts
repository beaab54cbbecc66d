// The store's hot path leaves nothing behind: half a million requests, with the ring gone round a
// hundred times, and the heap is as large as before.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { cleanupOf } from "../soak/cleanup.ts";
import { memoryFolder } from "../soak/places.ts";

const GROWTH_BYTES_MAX = 1_000_000;

test("half a million requests to a store, no heap growth", (context) => {
  const folder = memoryFolder(cleanupOf(context));
  const child = fileURLToPath(new URL("./_memory-child.js", import.meta.url));
  const output = execFileSync(process.execPath, ["--expose-gc", child, join(folder, "disk")], {
    encoding: "utf8",
  });
  const report = JSON.parse(output) as Record<string, number>;
  context.diagnostic(output);
  assert.ok((report["writtenBack"] as number) > 100_000, "the ring went round");
  assert.ok((report["checkpoints"] as number) > 0, "a checkpoint was written");
  assert.ok((report["grownBytes"] as number) < GROWTH_BYTES_MAX, "the heap has grown");
});
