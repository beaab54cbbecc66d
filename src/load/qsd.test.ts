// The driving side against a real back-end that is not ours: qemu-storage-daemon. Its absence
// skips these tests, which `npm test` does not allow: it installs the program first.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import * as sys from "../sys/index.ts";
import { Qsd, qsdInstalled } from "../testing/qsd.ts";
import { PROTOCOL_F_CONFIGURE_MEM_SLOTS } from "../vhost-user/messages.ts";
import { BLK_F_FLUSH, BLK_T_GET_ID, BLK_T_IN, BLK_T_OUT } from "../virtio/index.ts";
import { BlkQueue } from "./blk-queue.ts";
import { runLoadInChild, startLoad } from "./child.ts";
import { LoadError } from "./errors.ts";
import { bit } from "./front-end.ts";
import { LoadGuestMemory } from "./guest-memory.ts";
import type { LoadOptions } from "./options.ts";
import type { LoadReport } from "./report.ts";
import { runLoadSync } from "./run.ts";
import { BlkSession, type SessionOptions } from "./session.ts";
import type { SplitRing } from "./split-ring.ts";

const MIB = 1024 * 1024;
const DISK_BYTES = 64 * MIB;

describe("against qemu-storage-daemon", { skip: !qsdInstalled() }, () => {
  let folder = "";
  let path = "";
  let qsd: Qsd;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "ringstore-load-"));
    path = join(folder, "disk.raw");
    const fd = openSync(path, "w");
    ftruncateSync(fd, DISK_BYTES);
    closeSync(fd);
    qsd = await Qsd.start({
      backing: { kind: "file", path, direct: false, aio: "threads" },
      queueCount: 4,
    });
  });

  after(async () => {
    await qsd.stop();
    rmSync(folder, { recursive: true });
  });

  function load(options: Partial<LoadOptions>): LoadReport {
    const report = runLoadSync({
      socketPath: qsd.socketPath,
      warmupMs: 0,
      requestCount: 3000,
      ...options,
    });
    assert.deepEqual(report.failures, []);
    assert.equal(report.ok, true);
    assert.equal(report.wrongLengthCount, 0);
    return report;
  }

  for (const style of ["qemu", "libblkio"] as const) {
    for (const refuse of [false, true]) {
      const how = refuse ? "SET_MEM_TABLE" : "ADD_MEM_REG";
      test(`one request at a time, messages in ${style}'s order, memory by ${how}`, (context) => {
        const options: SessionOptions = {
          socketPath: qsd.socketPath,
          style,
          refuseProtocolFeatures: refuse ? [PROTOCOL_F_CONFIGURE_MEM_SLOTS] : [],
        };
        const session = BlkSession.open(options);
        context.after(() => session.close());
        assert.equal(session.config.capacityBytes, DISK_BYTES);
        assert.equal(session.config.queueCount, 4);
        assert.equal(session.config.blockBytes, 512);
        assert.equal(session.hasFeature(BLK_F_FLUSH), true);
        assert.equal(session.frontEnd.peerPid, qsd.pid);
        const memory = new LoadGuestMemory([
          { guestAddress: 0x100000000, bytes: MIB },
          { guestAddress: 0x200000000, bytes: MIB, kind: "tmpfs" },
        ]);
        const region = memory.regions[1] as (typeof memory.regions)[0];
        const kickFd = sys.check(sys.eventfd(), "eventfd");
        const callFd = sys.check(sys.eventfd(), "eventfd");
        const queue = new BlkQueue(memory, {
          index: 0,
          packed: false,
          size: 128,
          slotCount: 4,
          indirect: false,
          eventIndex: false,
          dataBytes: 4096,
          region,
          kickFd,
        });
        const ring = queue.split as SplitRing;
        session.start(memory, [{ ring, kickFd, callFd }]);
        const run = (slot: number, type: number, sector: number, bytes: number): number => {
          queue.submit(slot, type, sector, bytes, type !== BLK_T_OUT);
          if (queue.armNotifications()) assert.fail("nothing can have completed yet");
          queue.publish();
          // It signals once by itself after SET_VRING_CALL.
          while (queue.pending() === 0) {
            assert.equal(sys.pollOne(callFd, sys.POLLIN, 5000), sys.POLLIN, "no notification");
            sys.eventClear(callFd);
          }
          assert.equal(queue.pending(), 1);
          assert.equal(queue.takeCompleted(), slot);
          return queue.status;
        };
        const data = Uint8Array.from({ length: 4096 }, (_, index) => (index * 7 + 1) & 0xff);
        memory.write(queue.dataGpa[0] as number, data);
        assert.equal(run(0, BLK_T_OUT, 80, 4096), 0);
        assert.deepEqual(new Uint8Array(readFileSync(path).subarray(40960, 45056)), data);
        assert.equal(run(1, BLK_T_IN, 80, 4096), 0);
        assert.deepEqual(memory.read(queue.dataGpa[1] as number, 4096), data);
        assert.equal(run(2, BLK_T_IN, DISK_BYTES / 512, 4096), 1, "beyond the end");
        assert.equal(run(3, BLK_T_GET_ID, 0, 20), 0);
        const id = memory.read(queue.dataGpa[3] as number, 20);
        assert.equal(new TextDecoder().decode(id).replace(/\0+$/, ""), "vhost_user_blk");
        assert.deepEqual(session.stop(), [4]);
        session.close();
        for (const fd of [kickFd, callFd]) sys.close(fd);
        memory.close();
      });
    }
  }

  test("a session asks for what it needs and is told what is missing", () => {
    const open = (options: Partial<SessionOptions>): (() => BlkSession) => {
      return () => BlkSession.open({ socketPath: qsd.socketPath, ...options });
    };
    const unsupported = (pattern: RegExp) => (error: unknown) =>
      error instanceof LoadError && error.code === "UNSUPPORTED" && pattern.test(error.message);
    assert.throws(open({ packed: true }), unsupported(/RING_PACKED/));
    assert.throws(open({ inflight: true }), unsupported(/INFLIGHT_SHMFD/));
    assert.throws(open({ queueCount: 5 }), unsupported(/4 queues, 5 were asked/));
    const session = open({ refuseFeatures: [BLK_F_FLUSH] })();
    assert.equal(session.hasFeature(BLK_F_FLUSH), false);
    assert.notEqual(session.offeredFeatures & bit(BLK_F_FLUSH), 0n);
    session.close();
  });

  const RUNS: readonly Partial<LoadOptions>[] = [
    { polling: true },
    { polling: true, depth: 1, requestCount: 500 },
    { depth: 1, requestCount: 500, eventIndex: false },
    { queueCount: 4, indirect: false, eventIndex: false },
    { polling: true, queueCount: 3, pattern: "sequential", blockBytes: 65536 },
    { pattern: "zipf", segmentBytes: 1024, headerStrideBytes: 99, style: "libblkio" },
  ];
  for (const options of RUNS) {
    test(`reads: ${JSON.stringify(options)}`, () => {
      const report = load(options);
      assert.equal(report.requestCount, options.requestCount ?? 3000);
      assert.equal(report.kinds["read"]?.count, report.requestCount);
      assert.equal(report.target.pid, qsd.pid);
      assert.ok(report.latency.minUs > 0 && report.latency.maxUs >= report.latency.p50Us);
      assert.ok((report.targetCpuUsPerRequest ?? 0) > 0);
      assert.ok(report.iops > 0);
      if (options.polling === true) assert.equal(report.wakeCount, 0);
    });
  }

  test("verified mix of every request, several queues, sizes and offsets by sector", () => {
    const report = load({
      verify: true,
      readPercent: 50,
      discardPercent: 3,
      writeZeroesPercent: 3,
      flushEvery: 50,
      blockBytes: 512,
      blockBytesMax: 16384,
      areaBytes: 16 * MIB,
      queueCount: 4,
    });
    assert.deepEqual(Object.keys(report.kinds).sort(), [
      "discard",
      "flush",
      "read",
      "write",
      "writeZeroes",
    ]);
    // Read back: every sector of the area but those discarded last.
    assert.ok((report.verify?.checkedBlocks ?? 0) > 0.5 * ((16 * MIB) / 512));
    assert.equal(report.verify?.failureCount, 0);
  });

  test("damage done to the disk behind the back-end is found", () => {
    const options = { verify: true, readPercent: 0, areaBytes: MIB, requestCount: 100 };
    load({ ...options, seed: 3, readBack: false });
    // What another run has written is damage as well.
    const report = runLoadSync({
      socketPath: qsd.socketPath,
      warmupMs: 0,
      ...options,
      prefill: false,
      initialZeroes: true,
      seed: 4,
      requestCount: 1,
    });
    assert.equal(report.ok, false);
    assert.ok((report.verify?.failureCount ?? 0) >= 250);
    assert.match(report.failures[0] ?? "", /zeroes expected, found generation .* another run/);
  });

  test("in a child process, with progress, while this thread is free", async () => {
    const lines: string[] = [];
    let turns = 0;
    const timer = setInterval(() => (turns += 1), 10);
    const run = startLoad({
      socketPath: qsd.socketPath,
      runtimeMs: 800,
      warmupMs: 0,
      progress: (line) => lines.push(line),
    });
    const report = await run.report.finally(() => clearInterval(timer));
    assert.ok(report.requestCount > 0);
    assert.ok(turns > 5);
    assert.match(lines.join("\n"), /^run: /m);
    await assert.rejects(
      runLoadInChild({ socketPath: join(folder, "nothing") }),
      (error) => error instanceof LoadError && error.code === "CONNECT_FAILED",
    );
  });

  test("the command line prints a report, JSON, and exit codes a script can use", () => {
    const main = fileURLToPath(new URL("./main.js", import.meta.url));
    const bench = (...words: string[]): { status: number | null; out: string; err: string } => {
      const result = spawnSync(process.execPath, [main, ...words], { encoding: "utf8" });
      return { status: result.status, out: result.stdout, err: result.stderr };
    };
    const socket = ["--socket", qsd.socketPath, "--warmup", "0"];
    const text = bench(...socket, "--count", "500", "--rw", "randrw", "--mix", "30");
    assert.equal(text.status, 0, text.err);
    assert.match(text.out, /random 4 KiB, 30 % reads, depth 32, 1 queue, split, indirect/);
    assert.match(text.out, /p99\.9/);
    const json = bench(...socket, "--count", "100", "--bs", "8K", "--depth", "2", "--json");
    assert.equal(json.status, 0, json.err);
    const report = JSON.parse(json.out) as LoadReport;
    assert.equal(report.requestCount, 100);
    assert.equal(report.work.blockBytes, 8192);
    assert.equal(bench("--socket", "/nowhere").status, 20);
    assert.equal(bench(...socket, "--packed").status, 4);
    assert.equal(bench(...socket, "--rw", "nonsense").status, 2);
    assert.equal(bench(...socket, "--nonsense").status, 2);
    assert.equal(bench("--count", "1").status, 2);
    const help = bench("--help");
    assert.equal(help.status, 0);
    assert.match(help.out, /^Usage: ringstore bench --socket PATH/);
  });

  test("a back-end that dies ends a run that was not told to survive it", async () => {
    const victim = await Qsd.start({ backing: { kind: "null", sizeBytes: 64 * MIB } });
    const run = startLoad({
      socketPath: victim.socketPath,
      runtimeMs: 60000,
      // The first line comes half a second into the warm-up: then it is time to die.
      progress: () => victim.kill(),
    });
    await assert.rejects(
      run.report,
      (error) => error instanceof LoadError && error.code === "CLOSED",
    );
    await victim.stop();
  });
});
