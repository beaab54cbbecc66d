// The loop allocates nothing: two million turns with requests through each kind of disk, timers and
// watches, in a process of its own with the garbage collector watched.
//
// This file is also that process: it is started again with RINGSTORE_MEMORY_RUN set.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { OP_READ, type RequestOwner } from "../base/index.ts";
import type { Address, Disk, DiskHandler, Poller, TimerHandler } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import { SyncDisk, UringDisk } from "../uring/index.ts";
import { Reactor } from "./reactor.ts";

const TURN_COUNT = 2_000_000;
const WARM_UP_TURNS = 100_000;
/** The compiler works beside us, and on a loaded machine it takes its time. */
const WARM_UP_MS = 2000;
const DEPTH = 2;
/** What V8 itself may come to in the meantime: feedback, optimised code, statistics. */
const GROWTH_BYTES_MAX = 512 * 1024;
const COLLECTIONS_MAX = 3;

/** A queue whose guest always has `depth` reads in flight, and a disk under it. */
class BusyQueue implements Poller, RequestOwner, DiskHandler {
  completedCount = 0;
  private readonly reactor: Reactor;
  private readonly disk: Disk;
  private readonly buffer: Address;
  private readonly owner: number;
  private credit: number;

  constructor(reactor: Reactor, disk: Disk & { setHandler(handler: DiskHandler): void }) {
    this.reactor = reactor;
    this.disk = disk;
    this.buffer = reactor.memory.allocate(4096).address;
    this.owner = reactor.requests.addOwner(this);
    this.credit = DEPTH;
    disk.setHandler(this);
  }

  poll(): number {
    const requests = this.reactor.requests;
    let count = 0;
    while (this.credit > 0) {
      const slot = requests.acquire(this.owner);
      requests.op[slot] = OP_READ;
      requests.offsetBytes[slot] = (this.completedCount % 16) * 4096;
      requests.startedUs[slot] = this.reactor.loopTimeUs;
      requests.addSegment(slot, this.buffer, 4096);
      this.disk.readv(slot, requests.offsetBytes[slot], requests.segmentsAddress(slot), 1);
      this.credit -= 1;
      count += 1;
    }
    return count;
  }

  diskCompleted(slot: number, result: number): void {
    this.reactor.requests.complete(slot, result);
  }

  requestCompleted(slot: number, result: number): void {
    if (result !== 4096) throw new Error(`read gave ${result}`);
    this.completedCount += 1;
    this.credit += 1;
    this.reactor.requests.release(slot);
    this.reactor.requestFlush(this);
  }

  arm(): boolean {
    return this.credit > 0;
  }

  disarm(): void {}
  flush(): void {}
}

class Ticker implements TimerHandler {
  private readonly reactor: Reactor;
  firedCount = 0;

  constructor(reactor: Reactor) {
    this.reactor = reactor;
  }

  timerFired(tag: number): void {
    this.firedCount += 1;
    this.reactor.setTimer(1, this, tag);
  }
}

function makeReactor(): Reactor {
  const memory = new sys.SystemMemory();
  return new Reactor(
    { requestSlots: 64, ringEntries: 64, watchesMax: 16, timersMax: 16, pollMaxUs: 50 },
    { memory, clock: new sys.SystemClock(), log: { log(): void {} } },
  );
}

function measure(kind: string): void {
  const collect = (globalThis as { gc?: () => void }).gc as () => void;
  const reactor = makeReactor();
  const geometry = { capacityBytes: 65536, memoryAlignmentBytes: 1, offsetAlignmentBytes: 1 };
  const folder = mkdtempSync(join(tmpdir(), "ringstore-memory-"));
  const path = join(folder, "file");
  writeFileSync(path, Buffer.alloc(65536));
  const fd = sys.check(sys.open(path, sys.O_RDWR), "open", path);
  rmSync(folder, { recursive: true });
  const { ring } = reactor;
  const disk =
    kind === "uring"
      ? new UringDisk(ring, fd, geometry)
      : new SyncDisk({ ring, scheduler: reactor }, fd, geometry, 64);
  const queue = new BusyQueue(reactor, disk);
  reactor.addPoller(queue);
  const ticker = new Ticker(reactor);
  reactor.setTimer(1, ticker, 0);
  const event = sys.check(sys.eventfd(), "eventfd");
  let eventCount = 0;
  const handler = {
    ready(): void {
      eventCount += 1;
      sys.eventClear(event);
    },
  };
  reactor.watch(event, sys.POLLIN, handler, 0);
  const run = (turns: number): void => {
    for (let index = 0; index < turns; index++) {
      if (index % 1024 === 0) sys.eventSignal(event);
      reactor.turn();
    }
  };
  const warmAtMs = performance.now() + WARM_UP_MS;
  while (performance.now() < warmAtMs) run(WARM_UP_TURNS);
  collect();
  collect();
  const before = process.memoryUsage().heapUsed;
  process.stdout.write("BEGIN\n");
  run(TURN_COUNT);
  process.stdout.write("END\n");
  collect();
  collect();
  const growth = process.memoryUsage().heapUsed - before;
  const result = { growth, completed: queue.completedCount, fired: ticker.firedCount, eventCount };
  process.stdout.write(`RESULT ${JSON.stringify(result)}\n`);
}

interface Outcome {
  readonly growth: number;
  readonly collections: number;
  readonly trace: string;
}

function runChild(kind: "uring" | "direct"): Outcome {
  const child = spawnSync(
    process.execPath,
    ["--expose-gc", "--trace-gc", fileURLToPath(import.meta.url)],
    {
      env: { ...process.env, RINGSTORE_MEMORY_RUN: kind, NODE_TEST_CONTEXT: undefined },
      encoding: "utf8",
      maxBuffer: 64 * 1024 * 1024,
      timeout: 240_000,
    },
  );
  assert.equal(child.status, 0, child.stderr);
  const [, trace = ""] = /BEGIN\n([\s\S]*)END\n/.exec(child.stdout) ?? [];
  const [, json = "{}"] = /RESULT (.*)/.exec(child.stdout) ?? [];
  const result = JSON.parse(json) as {
    growth: number;
    completed: number;
    fired: number;
    eventCount: number;
  };
  assert.ok(result.completed > TURN_COUNT / 10, json);
  assert.ok(result.fired > 10, json);
  assert.ok(result.eventCount > 100, json);
  const collections = trace.split(/Scavenge|Mark-Compact/).length - 1;
  return { growth: result.growth, collections, trace };
}

const run = process.env["RINGSTORE_MEMORY_RUN"];
if (run !== undefined) {
  measure(run);
} else {
  for (const kind of ["uring", "direct"] as const) {
    test(`two million busy turns, ${kind} disk: no heap growth, no garbage`, () => {
      const { growth, collections, trace } = runChild(kind);
      assert.ok(growth < GROWTH_BYTES_MAX, `${growth} bytes of growth`);
      assert.ok(collections <= COLLECTIONS_MAX, `${collections} collections\n${trace}`);
    });
  }
}
