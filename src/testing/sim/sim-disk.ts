// The lying disk: the Disk port over a SimMedia and a SimMemory. It does what real ones do, at their
// worst: it completes in any order, looks at a write's buffer at any moment until then, perhaps in
// two parts, writes a read's buffer likewise, fails, lies, and crashes.
//
// Invariants:
//  - nothing happens within a submit: bytes move and completions arrive as events of the scheduler;
//  - everything random comes from one stream, forked from the scheduler's seed;
//  - buffers and iovecs belong to the device until the completion: freed memory or changed iovecs
//    are the caller's defect and throw.

import { assert, EFAULT, EINVAL, EIO, ENOSPC, EOPNOTSUPP, type Prng } from "../../base/index.ts";
import { type Address, DEALLOCATE_PUNCH, type Disk, type DiskHandler } from "../../ports/index.ts";
import { type CrashChances, type CrashChoice, randomChoice } from "./crash-choice.ts";
import type { DiskOperation } from "./disk-operation.ts";
import { DiskTransfers } from "./disk-transfers.ts";
import { BLOCK_BYTES, SECTOR_BYTES } from "./sim-blocks.ts";
import { FaultSet, type InjectedFault } from "./sim-faults.ts";
import type { SimMedia } from "./sim-media.ts";
import type { SimMemory } from "./sim-memory.ts";
import type { SimScheduler } from "./sim-scheduler.ts";
import type { OperationKind, PendingFragment } from "./write-history.ts";

export interface SimDiskOptions {
  readonly media: SimMedia;
  readonly memory: SimMemory;
  readonly scheduler: SimScheduler;
  /** Completions in the order of submission, or by each one's own latency (the default). */
  readonly order?: "fifo" | "shuffled";
  /** 10 to 200 us by default. */
  readonly latencyMinUs?: number;
  readonly latencyMaxUs?: number;
  /** How often a transfer happens in two parts at two moments (default 0.25). */
  readonly splitChance?: number;
  readonly offsetAlignmentBytes?: number;
  readonly memoryAlignmentBytes?: number;
  /** Takes the medium's lock, which waits for a predecessor's writes (the default). */
  readonly exclusive?: boolean;
}

export interface CrashOptions {
  /** Power: the write cache is lost. Process: only what is in flight is uncertain. */
  readonly kind: "power" | "process";
  /** What becomes of each undurable write at a power cut; by the seed by default. */
  readonly choice?: (pending: readonly PendingFragment[]) => CrashChoice;
  readonly chances?: Partial<CrashChances>;
  /** How often a write in flight is kept, to land after a successor may have opened the medium. */
  readonly lateChance?: number;
}

interface SubmitExtra extends Partial<Pick<DiskOperation, "pieces" | "iovecs" | "isPunch">> {
  readonly durable?: boolean;
}

export class SimDisk implements Disk {
  readonly media: SimMedia;
  capacityBytes: number;
  readonly offsetAlignmentBytes: number;
  readonly memoryAlignmentBytes: number;
  supportsPunch = true;
  supportsZero = true;
  readonly faults: FaultSet = new FaultSet();
  readonly injected: InjectedFault[] = [];
  private readonly memory: SimMemory;
  private readonly scheduler: SimScheduler;
  private readonly prng: Prng;
  private readonly options: Required<
    Pick<SimDiskOptions, "order" | "latencyMinUs" | "latencyMaxUs" | "splitChance">
  >;
  private readonly transfers: DiskTransfers;
  private readonly inFlight: Map<number, DiskOperation> = new Map();
  private readonly stuck: DiskOperation[] = [];
  private handler: DiskHandler | null = null;
  private lastDueUs = 0;
  private isClosed = false;

  constructor(options: SimDiskOptions) {
    const { media, memory, scheduler } = options;
    this.media = media;
    this.memory = memory;
    this.scheduler = scheduler;
    this.capacityBytes = media.capacityBytes;
    this.offsetAlignmentBytes = options.offsetAlignmentBytes ?? BLOCK_BYTES;
    this.memoryAlignmentBytes = options.memoryAlignmentBytes ?? SECTOR_BYTES;
    assert(this.offsetAlignmentBytes % SECTOR_BYTES === 0, "offsets aligned to less than a sector");
    this.options = {
      order: options.order ?? "shuffled",
      latencyMinUs: options.latencyMinUs ?? 10,
      latencyMaxUs: options.latencyMaxUs ?? 200,
      splitChance: options.splitChance ?? 0.25,
    };
    this.prng = scheduler.fork();
    this.transfers = new DiskTransfers(media, memory, this.prng);
    if (options.exclusive ?? true) media.openExclusive(this);
  }

  /** Who hears of completions. Set before the first submit. */
  setHandler(handler: DiskHandler): void {
    this.handler = handler;
  }

  get inflightCount(): number {
    return this.inFlight.size;
  }

  read(tag: number, offsetBytes: number, address: Address, bytes: number): void {
    this.submit("read", tag, offsetBytes, bytes, { pieces: [[address, bytes]] });
  }

  write(tag: number, offsetBytes: number, address: Address, bytes: number, durable: boolean): void {
    this.submit("write", tag, offsetBytes, bytes, { pieces: [[address, bytes]], durable });
  }

  readv(tag: number, offsetBytes: number, iovecs: Address, count: number): void {
    const pieces = this.transfers.iovecs(iovecs, count);
    const bytes = pieces.reduce((sum, [, length]) => sum + length, 0);
    this.submit("read", tag, offsetBytes, bytes, { pieces, iovecs });
  }

  writev(tag: number, offsetBytes: number, iovecs: Address, count: number, durable: boolean): void {
    const pieces = this.transfers.iovecs(iovecs, count);
    const bytes = pieces.reduce((sum, [, length]) => sum + length, 0);
    this.submit("write", tag, offsetBytes, bytes, { pieces, iovecs, durable });
  }

  sync(tag: number): void {
    this.submit("sync", tag, 0, 0, {});
  }

  deallocate(tag: number, offsetBytes: number, bytes: number, mode: number): void {
    this.submit("deallocate", tag, offsetBytes, bytes, { isPunch: mode === DEALLOCATE_PUNCH });
  }

  private submit(
    kind: OperationKind,
    tag: number,
    offsetBytes: number,
    bytes: number,
    extra: SubmitExtra,
  ): void {
    assert(!this.isClosed, "an operation on a disk that was closed or has crashed");
    const { pieces = [], iovecs = 0, durable = false, isPunch = false } = extra;
    for (const [address, length] of pieces) this.memory.touchable(address, length);
    const fault = this.faults.strike(kind, offsetBytes, bytes, this.prng);
    const isLie = fault?.kind === "undurable";
    const operation: DiskOperation = {
      id: this.media.submit(kind, { offsetBytes, bytes }, durable, isLie),
      kind,
      tag,
      offsetBytes,
      bytes,
      pieces,
      iovecs,
      isPunch,
      fault,
      actualOffsetBytes: offsetBytes,
      transfers: [],
      result: 0,
    };
    this.inFlight.set(operation.id, operation);
    this.plan(operation);
    this.schedule(operation);
  }

  /** Decides how it will end, and which bytes will move. */
  private plan(operation: DiskOperation): void {
    const { kind, offsetBytes, bytes, fault, pieces } = operation;
    if (kind === "sync") {
      operation.result = fault?.kind === "eio" ? -EIO : 0;
    } else {
      const offsetMask = this.offsetAlignmentBytes - 1;
      const isOffset = ((offsetBytes | bytes) & offsetMask) === 0 && offsetBytes >= 0;
      const isMemory = pieces.every(
        ([address, length]) =>
          address % this.memoryAlignmentBytes === 0 && (length & offsetMask) === 0,
      );
      const room = Math.max(0, this.capacityBytes - offsetBytes);
      const moved = Math.min(bytes, room);
      const isSupported = operation.isPunch ? this.supportsPunch : this.supportsZero;
      if (!isOffset || !isMemory) {
        operation.result = -EINVAL;
      } else if (kind === "deallocate" && !isSupported) {
        operation.result = -EOPNOTSUPP;
      } else if (moved === 0 && bytes > 0 && kind !== "read") {
        operation.result = -ENOSPC;
      } else {
        this.planTransfers(operation, moved);
      }
    }
    this.noteFault(operation);
  }

  private planTransfers(operation: DiskOperation, room: number): void {
    const { prng } = this;
    const { kind, fault } = operation;
    const isData = kind === "read" || kind === "write";
    const units = room / this.offsetAlignmentBytes;
    let moved = room;
    operation.result = isData ? room : 0;
    if (fault?.kind === "short" && isData && units > 1) {
      moved = prng.between(1, units - 1) * this.offsetAlignmentBytes;
      operation.result = moved;
    } else if (fault?.kind === "eio") {
      // What a failed write leaves is old, new, or the first part new.
      moved = kind === "read" ? 0 : prng.between(0, units) * this.offsetAlignmentBytes;
      operation.result = -EIO;
    } else if (fault?.kind === "enospc" && kind !== "read") {
      moved = 0;
      operation.result = -ENOSPC;
    } else if (fault?.kind === "lost" && kind !== "read") {
      moved = 0;
    } else if (fault?.kind === "misdirected") {
      operation.actualOffsetBytes = this.elsewhere(operation, moved);
    }
    if (moved === 0) return;
    const sectors = moved / SECTOR_BYTES;
    if (kind !== "deallocate" && sectors > 1 && prng.chance(this.options.splitChance)) {
      const cut = prng.between(1, sectors - 1) * SECTOR_BYTES;
      operation.transfers.push([0, cut], [cut, moved]);
      if (prng.chance(0.5)) operation.transfers.reverse();
    } else {
      operation.transfers.push([0, moved]);
    }
  }

  private elsewhere(operation: DiskOperation, bytes: number): number {
    const { offsetBytes, fault } = operation;
    const last = this.capacityBytes - bytes;
    const distance = fault?.distanceBytes;
    if (distance !== undefined) {
      return Math.max(0, Math.min(last, offsetBytes + distance));
    }
    const places = Math.floor(last / BLOCK_BYTES) + 1;
    const within = offsetBytes % BLOCK_BYTES;
    let actual = offsetBytes;
    for (let tries = 0; tries < 100 && actual === offsetBytes; tries++) {
      actual = Math.min(last, this.prng.below(places) * BLOCK_BYTES + within);
    }
    return actual;
  }

  private noteFault(operation: DiskOperation): void {
    const { fault, kind, offsetBytes, bytes, actualOffsetBytes } = operation;
    if (fault === null) return;
    this.injected.push({ kind: fault.kind, on: kind, offsetBytes, bytes, actualOffsetBytes });
  }

  private schedule(operation: DiskOperation): void {
    const { prng, scheduler, options } = this;
    const { kind, fault } = operation;
    const spread = options.latencyMaxUs - options.latencyMinUs;
    const extraUs = fault?.kind === "slow" ? (fault.delayUs ?? 100_000) : 0;
    const nowUs = scheduler.clock.nowUs();
    let latencyUs = options.latencyMinUs + prng.unit() * spread + extraUs;
    if (options.order === "fifo") {
      latencyUs = Math.max(latencyUs, this.lastDueUs - nowUs + 0.001);
    }
    this.lastDueUs = Math.max(this.lastDueUs, nowUs + latencyUs);
    const moments = operation.transfers.map(() => prng.unit() * latencyUs);
    moments.sort((a, b) => a - b);
    const isStuck = fault?.kind === "stuck";
    // What is stuck may be stuck before its bytes have moved, or after.
    const hasMoved = !isStuck || prng.chance(0.5);
    for (const [index, momentUs] of moments.entries()) {
      if (!hasMoved) break;
      const label = `${kind} ${operation.id} data`;
      scheduler.after(momentUs, () => this.transfer(operation, index), { owner: this, label });
    }
    if (isStuck) {
      this.stuck.push(operation);
      return;
    }
    const label = `${kind} ${operation.id} completion`;
    scheduler.after(latencyUs, () => this.complete(operation), { owner: this, label });
  }

  private transfer(operation: DiskOperation, index: number): void {
    const range = operation.transfers[index];
    if (range === null || range === undefined) return;
    operation.transfers[index] = null;
    if (!this.transfers.move(operation, range[0], range[1])) operation.result = -EFAULT;
  }

  private complete(operation: DiskOperation): void {
    this.transfers.checkIovecs(operation);
    for (let index = 0; index < operation.transfers.length; index++) {
      this.transfer(operation, index);
    }
    this.inFlight.delete(operation.id);
    this.media.complete(operation.id, operation.result);
    assert(this.handler !== null, "a disk without a handler completed");
    this.handler.diskCompleted(operation.tag, operation.result);
  }

  get stuckCount(): number {
    return this.stuck.length;
  }

  /** Lets everything that is stuck complete. */
  releaseStuck(): void {
    for (const operation of this.stuck.splice(0)) {
      const label = `${operation.kind} ${operation.id} completion, released`;
      const delayUs = this.options.latencyMinUs;
      this.scheduler.after(delayUs, () => this.complete(operation), { owner: this, label });
    }
  }

  /** Ends it in good order; nothing may be in flight. */
  close(): void {
    assert(this.inFlight.size === 0, "a disk closed with operations in flight");
    this.isClosed = true;
    this.media.release(this);
  }

  /**
   * The process or the machine dies: nothing completes any more, and the medium is left as the
   * choice, or the seed, says. Returns the choice of a power cut. The medium can be opened again.
   */
  crash(options: CrashOptions): CrashChoice | null {
    this.isClosed = true;
    this.scheduler.cancelOwned(this);
    const lateChance = options.lateChance ?? 0;
    for (const operation of this.inFlight.values()) {
      this.abandon(operation, options.kind === "process", lateChance);
    }
    this.inFlight.clear();
    this.stuck.length = 0;
    this.media.release(this);
    if (options.kind === "process") return null;
    const choose = options.choice ?? ((all) => randomChoice(all, this.prng, options.chances));
    return this.media.powerCut(choose);
  }

  /** What has not moved yet is dropped, or is the kernel's: it lands now (no power cut), or late. */
  private abandon(operation: DiskOperation, isCarriedOut: boolean, lateChance: number): void {
    const { prng } = this;
    const isWrite = operation.kind === "write" || operation.kind === "deallocate";
    for (const [index, range] of operation.transfers.entries()) {
      if (range === null || !isWrite) continue;
      operation.transfers[index] = null;
      if (prng.chance(lateChance)) {
        const late = this.transfers.sample(operation, range[0], range[1]);
        if (late !== null) this.media.addLateWrite(late);
      } else if (isCarriedOut && prng.chance(0.5)) {
        this.transfers.move(operation, range[0], range[1]);
      }
    }
    if (isCarriedOut) this.media.complete(operation.id, isWrite ? 0 : -EIO);
  }
}
