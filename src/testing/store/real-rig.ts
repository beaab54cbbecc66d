// A store on a real disk without a daemon, for benchmarks and tests: a reactor in this thread,
// pre-written files on one disk, and the two devices that are compared on them: the file itself,
// every write durable (O_DIRECT with RWF_DSYNC), and a volume of a store in a file like it.

import { readFileSync } from "node:fs";
import { FLAG_DURABLE, MIB, OP_READ, OP_WRITE, Prng, RingstoreError } from "../../base/index.ts";
import { type BlockIo, formatDisk, Store, type StoreOptions } from "../../chunk/index.ts";
import { Histogram } from "../../load/index.ts";
import { FileDevice, Workspace } from "../../local/index.ts";
import type { Arena, BlockDevice, Disk, DiskHandler } from "../../ports/index.ts";
import { Reactor } from "../../reactor/index.ts";
import * as sys from "../../sys/index.ts";
import { createDisk, type OwnedDisk } from "../../uring/index.ts";
import { measureBacking } from "../../uring/measure.ts";

export const VOLUME_UUID = "00000000-0000-4000-8000-000000000001";
const SLOTS = 256;
const BUFFER_BYTES = 262144;

/** Work of one measurement. */
export interface Work {
  readonly op: "read" | "write";
  readonly bytes: number;
  readonly depth: number;
  readonly sequential: boolean;
  /** Ends after so many requests, or so much time, whichever comes first. */
  readonly countMax: number;
  readonly timeMaxMs: number;
}

export interface Measured {
  readonly count: number;
  readonly seconds: number;
  readonly perSecond: number;
  readonly meanUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly p9999Us: number;
  readonly maxUs: number;
  /** This process's processor time, all threads, per request. */
  readonly cpuUs: number;
  /** What this process had the device write, per byte of the requests. */
  readonly amplification: number;
}

export class BenchRig {
  readonly memory: sys.SystemMemory = new sys.SystemMemory();
  readonly reactor: Reactor;
  private readonly buffers: Arena;
  private readonly owner: number;
  private readonly descriptors: number[] = [];
  private completed: (slot: number, result: number) => void = () => undefined;

  constructor(pollMaxUs: number) {
    const log = { log: (): undefined => undefined };
    const clock = new sys.SystemClock();
    const { memory } = this;
    this.reactor = new Reactor(
      { requestSlots: SLOTS, ringEntries: 1024, watchesMax: 16, timersMax: 64, pollMaxUs },
      { memory, clock, log },
    );
    this.buffers = memory.allocate(SLOTS * BUFFER_BYTES);
    const prng = new Prng(1);
    for (let word = 0; word < this.buffers.u32.length; word++) this.buffers.u32[word] = prng.u32();
    const owner = {
      requestCompleted: (slot: number, result: number) => this.completed(slot, result),
    };
    this.owner = this.reactor.requests.addOwner(owner);
  }

  /** Runs the loop until `start`'s callback is called. */
  await<T>(start: (done: (value: T) => void) => void): T {
    let value: T | undefined;
    let isDone = false;
    start((result) => {
      value = result;
      isDone = true;
      this.reactor.stop();
    });
    while (!isDone) this.reactor.run();
    return value as T;
  }

  /** As a killed process would: nothing is said to the store. */
  abandon(): void {
    for (const fd of this.descriptors.splice(0)) sys.close(fd);
  }

  /** Writes one block at every `strideBytes`. */
  fill(device: BlockDevice, rangeBytes: number, strideBytes: number): void {
    const { requests } = this.reactor;
    const count = Math.floor(rangeBytes / strideBytes);
    let started = 0;
    let ended = 0;
    const begin = (): void => {
      const slot = requests.acquire(this.owner);
      requests.op[slot] = OP_WRITE;
      requests.offsetBytes[slot] = started * strideBytes;
      requests.addSegment(slot, this.buffers.address + slot * BUFFER_BYTES, 4096);
      started += 1;
      device.submit(slot);
    };
    this.completed = (slot, result) => {
      if (result < 0) throw new RingstoreError("BENCH", `a request failed: ${result}`);
      requests.release(slot);
      ended += 1;
      if (started < count) begin();
      else if (ended === started) this.reactor.stop();
    };
    while (started < Math.min(SLOTS, count)) begin();
    this.reactor.run();
  }

  openDisk(path: string, sizeBytes: number): OwnedDisk {
    const fd = sys.check(sys.open(path, sys.O_RDWR), "open", path);
    this.descriptors.push(fd);
    const options = { path, direct: "auto", readOnly: false, sizeBytes, blockBytes: 4096 } as const;
    const shape = measureBacking(fd, options);
    const geometry = { ...shape, fd, capacityBytes: shape.sizeBytes };
    const { reactor } = this;
    return createDisk(geometry, { ring: reactor.ring, scheduler: reactor, requestSlots: 4096 });
  }

  openRaw(path: string, sizeBytes: number): BlockDevice {
    const disk = this.openDisk(path, sizeBytes);
    const { requests } = this.reactor;
    const workspace = new Workspace({}, { requests, memory: this.memory });
    const facts = { capacityBytes: sizeBytes, blockBytes: 4096, readOnly: false, serial: "raw" };
    const device = new FileDevice({ ...facts, kind: "file" }, { workspace, disk });
    disk.setHandler(device);
    return device;
  }

  /** Formats the file at `path` as a store. */
  format(path: string, ringBytes: number): void {
    const fd = sys.check(sys.open(path, sys.O_RDWR), "open", path);
    const options = {
      uuid: new Uint8Array(16).fill(7),
      label: "bench",
      durability: "volatile",
      journalId: 1,
      createdAtMs: 0,
      ringBytes,
    } as const;
    formatDisk(fileIo(fd), this.memory, options, () => undefined, false);
    sys.close(fd);
  }

  openStore(path: string, sizeBytes: number, options: StoreOptions = {}): Store {
    const disk: Disk & { setHandler(handler: DiskHandler): void } = this.openDisk(path, sizeBytes);
    const store = new Store(options, { disk, reactor: this.reactor });
    disk.setHandler(store);
    const error = this.await<RingstoreError | null>((done) => store.open(done));
    if (error !== null) throw error;
    return store;
  }

  /** Keeps `depth` requests on their way. Offsets lie below `rangeBytes`. */
  measure(device: BlockDevice, rangeBytes: number, work: Work, seed: number): Measured {
    const { requests, clock } = this.reactor;
    const histogram = new Histogram();
    const prng = new Prng(seed);
    const places = Math.floor(rangeBytes / work.bytes);
    let next = work.sequential ? 0 : -1;
    let started = 0;
    let ended = 0;
    const op = work.op === "read" ? OP_READ : OP_WRITE;
    const startUs = clock.nowUs();
    const endUs = startUs + work.timeMaxMs * 1000;
    const begin = (): void => {
      const slot = requests.acquire(this.owner);
      requests.op[slot] = op;
      requests.flags[slot] = work.op === "write" ? FLAG_DURABLE : 0;
      const place = next >= 0 ? next++ % places : prng.below(places);
      requests.offsetBytes[slot] = place * work.bytes;
      requests.addSegment(slot, this.buffers.address + slot * BUFFER_BYTES, work.bytes);
      requests.startedUs[slot] = clock.nowUs();
      started += 1;
      device.submit(slot);
    };
    const cpu = process.cpuUsage();
    const written = writtenBytes();
    this.completed = (slot, result) => {
      if (result < 0) throw new RingstoreError("BENCH", `a request failed: ${result}`);
      histogram.record(clock.nowUs() - (requests.startedUs[slot] as number));
      requests.release(slot);
      ended += 1;
      if (started < work.countMax && clock.nowUs() < endUs) begin();
      else if (ended === started) this.reactor.stop();
    };
    for (let index = 0; index < Math.min(work.depth, work.countMax); index++) begin();
    this.reactor.run();
    const seconds = (clock.nowUs() - startUs) / 1e6;
    const used = process.cpuUsage(cpu);
    const report = histogram.report();
    return {
      count: ended,
      seconds,
      perSecond: ended / seconds,
      meanUs: report.meanUs,
      p50Us: report.p50Us,
      p99Us: report.p99Us,
      p9999Us: histogram.percentileUs(0.9999),
      maxUs: report.maxUs,
      cpuUs: (used.user + used.system) / ended,
      amplification: (writtenBytes() - written) / (ended * work.bytes),
    };
  }
}

/** Bytes that this process has had written to devices. */
function writtenBytes(): number {
  return Number(/^write_bytes: (\d+)/m.exec(readFileSync("/proc/self/io", "utf8"))?.[1] ?? 0);
}

function fileIo(fd: number): BlockIo {
  const status = sys.fstat(fd);
  if (typeof status === "number") throw new RingstoreError("BENCH", `fstat: ${status}`);
  return {
    capacityBytes: status.sizeBytes,
    read: (offsetBytes, address, bytes) => sys.pread(fd, address, bytes, offsetBytes),
    write: (offsetBytes, address, bytes) => sys.pwrite(fd, address, bytes, offsetBytes),
    sync: () => sys.fdatasync(fd),
  };
}

/** Every byte written once, so that the file system has nothing left to allocate. */
export function prewrite(path: string, bytes: number, memory: sys.SystemMemory): void {
  const flags = sys.O_RDWR | sys.O_CREAT;
  const direct = sys.open(path, flags | sys.O_DIRECT, 0o600);
  // Not everywhere: on tmpfs of older kernels, for one.
  const fd = direct >= 0 ? direct : sys.check(sys.open(path, flags, 0o600), "open", path);
  const buffer = memory.allocate(8 * MIB);
  for (let at = 0; at < bytes; at += 8 * MIB) {
    const piece = Math.min(8 * MIB, bytes - at);
    sys.check(sys.pwrite(fd, buffer.address, piece, at), "pwrite", path);
  }
  sys.check(sys.fdatasync(fd), "fdatasync", path);
  memory.free(buffer);
  sys.close(fd);
}
