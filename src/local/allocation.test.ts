// The data path leaves nothing behind: a child process with an exposed collector pushes millions
// of requests through each device and reports how the heap changed.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { OP_READ, OP_WRITE, RequestTable, segmentArenaBytes } from "../base/index.ts";
import type { BlockDevice, Disk, DiskHandler } from "../ports/index.ts";
import { VolumeMeter } from "../telemetry/volume-meter.ts";
import { FakeMemory } from "./_fake-memory.ts";
import { FileDevice } from "./file-device.ts";
import { MemoryDevice } from "./memory-device.ts";
import { NullDevice } from "./null-device.ts";
import { Workspace } from "./workspace.ts";

const SLOTS = 128;
const BLOCK_BYTES = 4096;
const CAPACITY = 64 * 1048576;
const REQUEST_COUNT = 2_000_000;
const WARMUP_COUNT = 300_000;
/** Compiled code and inline caches still settle; a leak of one byte per request is 2 MB. */
const GROWTH_BYTES_MAX = 200_000;

/** Answers everything in full, out of two typed arrays; every 64th transfer comes short. */
class CountingDisk implements Disk {
  readonly capacityBytes = CAPACITY;
  readonly memoryAlignmentBytes = 512;
  readonly offsetAlignmentBytes = 512;
  handler: DiskHandler | null = null;
  private readonly tags = new Int32Array(SLOTS);
  private readonly results = new Int32Array(SLOTS);
  private readonly requests: RequestTable;
  private count = 0;
  private total = 0;

  constructor(requests: RequestTable) {
    this.requests = requests;
  }

  private add(tag: number, bytes: number): void {
    this.total += 1;
    this.tags[this.count] = tag;
    this.results[this.count] = this.total % 64 === 0 && bytes > 512 ? 512 : bytes;
    this.count += 1;
  }

  read(tag: number, _offsetBytes: number, _address: number, bytes: number): void {
    this.add(tag, bytes);
  }

  write(tag: number, _offsetBytes: number, _address: number, bytes: number): void {
    this.add(tag, bytes);
  }

  readv(tag: number): void {
    this.add(tag, this.requests.lengthBytes[tag] as number);
  }

  writev(tag: number): void {
    this.add(tag, this.requests.lengthBytes[tag] as number);
  }

  sync(tag: number): void {
    this.add(tag, 0);
  }

  deallocate(tag: number): void {
    this.add(tag, 0);
  }

  deliver(): void {
    while (this.count > 0) {
      this.count -= 1;
      this.handler?.diskCompleted(
        this.tags[this.count] as number,
        this.results[this.count] as number,
      );
    }
  }
}

/** Copies nothing and allocates nothing; the copier's own work is what is measured. */
class NoMemory extends FakeMemory {
  override copy(): void {}
  override fill(): void {}
  override copyFaultable(): number {
    return 0;
  }
}

class Driver {
  private readonly requests: RequestTable;
  private readonly meter: VolumeMeter;
  private readonly ownerIndex: number;
  completed = 0;

  constructor(requests: RequestTable, meter: VolumeMeter) {
    this.requests = requests;
    this.meter = meter;
    this.ownerIndex = requests.addOwner(this);
  }

  requestCompleted(slot: number, result: number): void {
    assert.equal(result, 0);
    this.meter.recordLatency(this.requests.op[slot] as number, this.completed % 1000);
    this.completed += 1;
    this.requests.release(slot);
  }

  /** One segment, several, or one that must be bounced. */
  submit(device: BlockDevice, index: number): void {
    const requests = this.requests;
    const slot = requests.acquire(this.ownerIndex);
    requests.op[slot] = index % 3 === 0 ? OP_WRITE : OP_READ;
    requests.flags[slot] = index % 7 === 0 ? 4 : 0;
    requests.offsetBytes[slot] = (index % 1000) * BLOCK_BYTES;
    const address = 0x7f1200000000 + (index % 5 === 0 ? 8 : 0);
    if (index % 4 === 0) {
      requests.addSegment(slot, address, 1024);
      requests.addSegment(slot, address + 4096, BLOCK_BYTES - 1024);
    } else {
      requests.addSegment(slot, address, BLOCK_BYTES);
    }
    device.submit(slot);
  }
}

function heapBytes(): number {
  const collect = globalThis.gc as () => void;
  collect();
  collect();
  return process.memoryUsage().heapUsed;
}

function measure(kind: string): void {
  const memory = new NoMemory();
  const requests = new RequestTable(SLOTS, memory.allocate(segmentArenaBytes(SLOTS)));
  const workspace = new Workspace({ bounceBufferCount: 4 }, { requests, memory });
  const disk = new CountingDisk(requests);
  const options = { capacityBytes: CAPACITY, blockBytes: 512, readOnly: false, serial: "s" };
  let device: BlockDevice;
  if (kind === "file") {
    const file = new FileDevice({ ...options, kind: "file" }, { workspace, disk });
    disk.handler = file;
    device = file;
  } else if (kind === "memory") {
    device = new MemoryDevice(options, { workspace });
  } else {
    device = new NullDevice(options, { requests });
  }
  const driver = new Driver(requests, new VolumeMeter());
  const push = (count: number): void => {
    for (let index = 0; index < count; index += 64) {
      for (let at = 0; at < 64; at++) driver.submit(device, index + at);
      while (device.inflightCount > 0) disk.deliver();
      requests.drain(SLOTS);
    }
  };
  push(WARMUP_COUNT);
  const before = heapBytes();
  push(REQUEST_COUNT);
  const growth = heapBytes() - before;
  process.stdout.write(JSON.stringify({ growth, completed: driver.completed }));
}

const isChild = process.argv[2] === "measure";
if (isChild) {
  measure(process.argv[3] as string);
} else {
  describe("2 million requests leave the heap as it was", () => {
    for (const kind of ["file", "memory", "null"]) {
      it(`${kind} device`, () => {
        const child = spawnSync(
          process.execPath,
          ["--expose-gc", fileURLToPath(import.meta.url), "measure", kind],
          { encoding: "utf8", timeout: 120_000 },
        );
        assert.equal(child.status, 0, child.stderr);
        const { growth, completed } = JSON.parse(child.stdout);
        assert.equal(completed, Math.ceil(WARMUP_COUNT / 64) * 64 + REQUEST_COUNT);
        assert.ok(growth < GROWTH_BYTES_MAX, `the heap grew by ${growth} bytes`);
      });
    }
  });
}
