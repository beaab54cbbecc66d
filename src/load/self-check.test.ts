// The self-check runs, on one thread and on two, and leaves nothing behind. What it measures is
// judged by people: docs/load-generator.md.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { formatSelfCheck, runSelfCheck } from "./self-check.ts";

for (const options of [{}, { packed: true, indirect: false, queueCount: 2, depth: 4 }]) {
  test(`self-check: ${JSON.stringify(options)}`, async () => {
    const before = readdirSync("/proc/self/fd").length;
    const report = await runSelfCheck({ runtimeMs: 100, warmupMs: 20, ...options });
    assert.ok(report.oneThreadNsPerRequest > 0);
    assert.ok(report.iops > 0);
    assert.ok(report.latency.count > 0);
    assert.match(formatSelfCheck(report), /ns of CPU per request, device included/);
    assert.equal(readdirSync("/proc/self/fd").length, before);
  });
}
