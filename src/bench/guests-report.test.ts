// The guest comparison's arithmetic and its table: CPU per I/O from bytes, ratios pair by pair.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  cpuUsPerIo,
  GUEST_JOBS,
  type GuestJob,
  type GuestRun,
  renderGuests,
} from "./guests-report.ts";
import { describeMachine } from "./machine.ts";

function run(iops: number, backendCpuUs: number): GuestRun {
  const times = { meanUs: 10, p50Us: 9, p99Us: 20, p999Us: 30 };
  const fio = { name: "x", bytes: 100 * 4096, iops, bytesPerSecond: 0, ...times };
  return { fio, backendCpuUs };
}

test("CPU per I/O counts the requests by their bytes", () => {
  assert.equal(cpuUsPerIo(run(1, 500), 4096), 5);
  assert.equal(cpuUsPerIo(run(1, 500), 8192), 10);
});

test("a row: medians of both sides, and the medians of the ratios", () => {
  const pairs = [
    { ours: run(200, 500), theirs: run(100, 1000) },
    { ours: run(20, 500), theirs: run(10, 1000) },
    { ours: run(2, 500), theirs: run(1, 1000) },
  ];
  const text = renderGuests([{ job: GUEST_JOBS[0] as GuestJob, pairs }], {
    machine: describeMachine(),
    load: "Quiet.",
    pairCount: 3,
    seconds: 2,
    guest: "A guest.",
  });
  const row = text
    .split("\n")
    .find((line) => line.startsWith("| null, 4 KiB random read, depth 1"));
  assert.equal(
    row?.split(" | ").slice(1).join(" "),
    "20.0 10.0 20.0 5.00 10.0 10.0 20.0 10.0 2.00 1.00 1.00 0.50 |",
  );
});

test("every job names its device, depth and size once", () => {
  assert.equal(new Set(GUEST_JOBS.map(({ name }) => name)).size, GUEST_JOBS.length);
  for (const { options, blockBytes } of GUEST_JOBS) {
    assert.ok(options.includes(`--bs=${blockBytes / 1024}k`), options);
  }
});
