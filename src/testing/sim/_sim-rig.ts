// What the simulator's own tests stand on: one disk with its medium, memory and scheduler, and a list
// of completions; and a device that writes straight through to it, with bugs to choose from.

import {
  assert,
  FLAG_DURABLE,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  type RequestTable,
} from "../../base/index.ts";
import {
  type Arena,
  type BlockDevice,
  type BlockDeviceInfo,
  DEALLOCATE_PUNCH,
  DEALLOCATE_ZERO,
  type DiskHandler,
} from "../../ports/index.ts";
import { SimDisk, type SimDiskOptions } from "./sim-disk.ts";
import { SimMedia, type SimMediaOptions } from "./sim-media.ts";
import { SimMemory } from "./sim-memory.ts";
import { SimScheduler } from "./sim-scheduler.ts";

const MEMORY_BYTES = 4 * 1048576;
const CAPACITY_BYTES = 1048576;

export interface RigOptions extends Partial<SimDiskOptions>, Partial<SimMediaOptions> {
  readonly seed?: number;
}

export class Rig implements DiskHandler {
  readonly scheduler: SimScheduler;
  readonly memory: SimMemory;
  readonly media: SimMedia;
  readonly disk: SimDisk;
  readonly arena: Arena;
  /** [tag, result] in the order of completion. */
  readonly completions: [number, number][] = [];

  constructor(options: RigOptions = {}) {
    this.scheduler = options.scheduler ?? new SimScheduler(options.seed ?? 1);
    this.memory = options.memory ?? new SimMemory(MEMORY_BYTES);
    this.media = options.media ?? new SimMedia({ capacityBytes: CAPACITY_BYTES, ...options });
    const { scheduler, memory, media } = this;
    this.disk = new SimDisk({ ...options, scheduler, memory, media });
    this.disk.setHandler(this);
    this.arena = this.memory.allocate(262144);
  }

  diskCompleted(tag: number, result: number): void {
    this.completions.push([tag, result]);
  }

  result(tag: number): number | undefined {
    return this.completions.find(([one]) => one === tag)?.[1];
  }

  /** Fills a buffer of its own place in the arena and submits a write of it. */
  write(tag: number, offsetBytes: number, bytes: number, byte: number, durable = false): void {
    const at = (tag % 8) * 32768;
    this.arena.u8.fill(byte, at, at + bytes);
    this.disk.write(tag, offsetBytes, this.arena.address + at, bytes, durable);
  }

  run(): void {
    this.scheduler.runUntilIdle();
  }

  /** The first byte of each sector of the range, as a reader sees it. */
  bytesAt(offsetBytes: number, bytes: number): number[] {
    const data = this.media.read(offsetBytes, bytes);
    return Array.from({ length: bytes / 512 }, (_, sector) => data[sector * 512]);
  }
}

/** Completions with this tag are nobody's. */
const UNWANTED = 65536;

/** Forgets about syncs; or answers a write before the disk has (from memory of its own). */
export type DeviceBug = "none" | "no-sync" | "early-ack";

/** Writes in place, with a sync for each flush and each durable write. */
export class InPlaceDevice implements BlockDevice, DiskHandler {
  readonly info: BlockDeviceInfo;
  inflightCount = 0;
  private readonly disk: SimDisk;
  private readonly requests: RequestTable;
  private readonly memory: SimMemory;
  private readonly bug: DeviceBug;

  constructor(disk: SimDisk, requests: RequestTable, memory: SimMemory, bug: DeviceBug = "none") {
    this.memory = memory;
    this.disk = disk;
    this.requests = requests;
    this.bug = bug;
    disk.setHandler(this);
    this.info = {
      capacityBytes: disk.capacityBytes,
      blockBytes: 512,
      physicalBlockBytes: 4096,
      optimalIoBytes: 4096,
      readOnly: false,
      canDiscard: true,
      discardGranularityBytes: 4096,
      serial: "in-place",
    };
  }

  submit(slot: number): void {
    const { requests, disk } = this;
    this.inflightCount += 1;
    const op = requests.op[slot];
    const offsetBytes = requests.offsetBytes[slot];
    const iovecs = requests.segmentsAddress(slot);
    const count = requests.segmentCount[slot];
    const isDurable = (requests.flags[slot] & FLAG_DURABLE) !== 0;
    if (op === OP_READ) disk.readv(slot, offsetBytes, iovecs, count);
    else if (op === OP_FLUSH && this.bug === "no-sync") this.finish(slot, 0);
    else if (op === OP_FLUSH) disk.sync(slot);
    else if (op === OP_WRITE && this.bug === "early-ack") this.writeEarly(slot, offsetBytes);
    else if (op === OP_WRITE) disk.writev(slot, offsetBytes, iovecs, count, isDurable);
    else {
      const mode = op === OP_DISCARD ? DEALLOCATE_PUNCH : DEALLOCATE_ZERO;
      disk.deallocate(slot, offsetBytes, requests.lengthBytes[slot], mode);
    }
  }

  private writeEarly(slot: number, offsetBytes: number): void {
    const { requests, memory } = this;
    const bytes = requests.lengthBytes[slot];
    const copy = memory.allocate(bytes);
    let done = 0;
    for (let index = 0; index < requests.segmentCount[slot]; index++) {
      const length = requests.segmentBytes(slot, index);
      memory.copy(copy.address + done, requests.segmentAddress(slot, index), length);
      done += length;
    }
    this.disk.write(UNWANTED, offsetBytes, copy.address, bytes, true);
    this.finish(slot, 0);
  }

  diskCompleted(slot: number, result: number): void {
    if (slot !== UNWANTED) this.finish(slot, Math.min(0, result));
  }

  private finish(slot: number, result: number): void {
    assert(this.inflightCount > 0, "more completions than requests");
    this.inflightCount -= 1;
    this.requests.complete(slot, result);
  }
}
