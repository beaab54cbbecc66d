import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { MIB } from "../base/index.ts";
import { sparseFile, testDirectory, testGuest } from "./_test-guest.ts";
import type { BootOptions } from "./qemu.ts";

const LIMIT = { timeout: 180_000 };

test(
  "a guest migrates with its running commands, after one cancelled attempt",
  LIMIT,
  async (t) => {
    const directory = await testDirectory(t);
    const path = await sparseFile(join(directory, "disk"), 64 * MIB);
    const options: BootOptions = {
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
    // Waits for a file that only the destination's commands make.
    const carried = source.run("until [ -e /tmp/go ]; do usleep 10000; done; echo carried", {
      timeoutMs: 120_000,
    });
    const noisy = source.run("for i in $(seq 1 2000); do echo $i; done", { timeoutMs: 120_000 });
    const moved = await source.migrateTo(target, { bandwidthBytesPerSecond: 1024 * MIB });
    assert.equal(moved.status, "completed");
    t.diagnostic(`total ${moved.totalMs} ms, downtime ${moved.downtimeMs} ms`);
    assert.equal(source.running, false);
    assert.equal(((await target.qmp("query-status")) as { status: string }).status, "running");
    await target.must("touch /tmp/go");
    assert.equal((await carried).stdout, "carried\n");
    assert.equal((await noisy).stdout.split("\n").length, 2001);
    assert.equal(target.boots, 1);
    await target.must("dd if=/dev/urandom of=/dev/vda bs=4k count=16 2>/dev/null && sync");
    await target.shutdown();
  },
);
