// Live migration of a real guest, and the comparison of memories that checks it.

import assert from "node:assert/strict";
import { closeSync, openSync, readdirSync, readlinkSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { MIB, PAGE_BYTES } from "../base/index.ts";
import { sparseFile, testDirectory, testGuest } from "./_test-guest.ts";
import { compareMemory } from "./memory-compare.ts";
import { losesDirtyPages } from "./migration.ts";
import type { BootOptions } from "./qemu.ts";

const LIMIT = { timeout: 180_000 };

test(
  "a guest migrates with its running commands, after one cancelled attempt",
  LIMIT,
  async (t) => {
    const directory = await testDirectory(t);
    const path = await sparseFile(join(directory, "disk"), 64 * MIB);
    const options: BootOptions = {
      migratable: true,
      disks: [{ kind: "file", path, shared: true }],
      initramfs: { programs: [] },
    };
    const source = await testGuest(t, options);
    const refusing = await testGuest(t, { ...options, incoming: true });
    const cancelled = await source.migrateTo(refusing, {
      bandwidthBytesPerSecond: 4 * MIB,
      cancelWhen: (progress) => progress.transferredBytes > MIB,
    });
    assert.equal(cancelled.status, "cancelled");
    await refusing.kill();
    assert.equal(await source.must("echo still here"), "still here\n");

    const target = await testGuest(t, { ...options, incoming: true });
    // Ends only when the destination's commands have made the file.
    const carried = source.run("until [ -e /tmp/go ]; do usleep 10000; done; echo carried", {
      timeoutMs: 120_000,
    });
    const reading = "dd if=/dev/vda of=/tmp/copy bs=64k count=64 2>/dev/null";
    const busy = source.run(`until [ -e /tmp/go ]; do ${reading}; done; seq 1 2000`, {
      timeoutMs: 120_000,
    });
    const moved = await source.migrateTo(target, {
      bandwidthBytesPerSecond: 128 * MIB,
      compareMemory: true,
    });
    assert.equal(moved.status, "completed");
    assert.deepEqual(moved.differingPages, [], "every write reached the destination");
    t.diagnostic(`total ${moved.totalMs} ms, downtime ${moved.downtimeMs} ms`);
    assert.equal(source.running, false);
    assert.equal(((await target.qmp("query-status")) as { status: string }).status, "running");
    await target.must("touch /tmp/go");
    assert.equal((await carried).stdout, "carried\n");
    assert.equal((await busy).stdout.split("\n").length, 2001);
    assert.equal(target.boots, 1);
    await target.must("dd if=/dev/urandom of=/dev/vda bs=4k count=16 2>/dev/null && sync");
    await target.shutdown();
  },
);

test("one byte of difference between two memories is found, with its page", LIMIT, async (t) => {
  const options: BootOptions = { incoming: true, initramfs: { programs: [] } };
  const first = await testGuest(t, options);
  const second = await testGuest(t, options);
  assert.deepEqual(compareMemory(first.pid, second.pid), []);
  const directory = `/proc/${second.pid}/fd`;
  const number = readdirSync(directory).find((name) =>
    readlinkSync(join(directory, name)).includes("memfd:memory-backend"),
  );
  const memory = openSync(join(directory, number!), "r+");
  writeSync(memory, Buffer.from([1]), 0, 1, 5000 * PAGE_BYTES + 17);
  writeSync(memory, Buffer.from([1]), 0, 1, 256 * MIB - 1);
  closeSync(memory);
  assert.deepEqual(compareMemory(first.pid, second.pid), [
    5000 * PAGE_BYTES,
    256 * MIB - PAGE_BYTES,
  ]);
});

test("a guest that would lose writes is not migrated", LIMIT, async (t) => {
  const source = await testGuest(t, { initramfs: { programs: [] } });
  if (losesDirtyPages(source.qemuVersion, source.accelerator)) {
    await assert.rejects(source.migrateTo(source), { code: "option", advice: /migratable/ });
  }
  const fixed = { major: 9, minor: 0, text: "9.0.0" };
  assert.equal(losesDirtyPages(fixed, "tcg"), false);
  assert.equal(losesDirtyPages({ ...fixed, major: 8 }, "tcg"), true);
  assert.equal(losesDirtyPages({ ...fixed, major: 8 }, "kvm"), false);
});
