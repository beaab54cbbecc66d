// One open store: the modules put together, and the disk's answers given to whom they belong.
//
//   open(): superblock -> parts -> recovery -> new superblock (incarnation) -> ready
//   ready --a write of ours fails--> failed: reads go on, writes are refused
//   close(): drain -> checkpoint, clean -> closed
//
// Everything runs on the thread of the reactor that owns the disk. Invariant: nothing is written
// before recovery has succeeded, and the first thing written is the superblock.

import { assert } from "../base/index.ts";
import type { Disk, DiskHandler, Poller, ReactorPort, TimerHandler } from "../ports/index.ts";
import type { ReplicaNote } from "../ports/replica-note.ts";
import { StoreError } from "./errors.ts";
import { type Geometry, geometryOf } from "./geometry.ts";
import { BLOCK_BYTES, STATE_OPEN, SUPERBLOCK_COPIES } from "./layouts.ts";
import {
  OP_KIND_CLEAR,
  OP_KIND_IMAGE,
  OP_KIND_PAGE,
  OP_KIND_READ,
  OP_KIND_SCAN,
  OP_KIND_SLAB,
  OP_KIND_TABLE,
} from "./op-table.ts";
import { TAG_GROUP, TAG_INDEX_MASK, TAG_KIND_MASK, TAG_OP, TAG_PAGE, TAG_TASK } from "./parts.ts";
import { QuietTimers } from "./quiet-timers.ts";
import { type RecoveryReport, readSuperblock } from "./recovery.ts";
import type { FlowVolume } from "./request-flow.ts";
import {
  type AssemblyClient,
  assembleStore,
  freeAssembly,
  type StoreAssembly,
  type StoreOptions,
} from "./store-assembly.ts";
import { logRecovery, openingRefusal } from "./store-opening.ts";
import type { StoreReplica, StoreReplicaOptions } from "./store-replica.ts";
import { type StoreUsage, usageOf } from "./store-usage.ts";
import type { StoreVolume } from "./store-volume.ts";
import type { Superblock } from "./superblock.ts";
import { type DiskFacts, factsOf } from "./superblock-facts.ts";
import { TaskRunner } from "./task.ts";
import type { StoredVolume, VolumeSet, VolumeSpecification } from "./volume-set.ts";

export type StorePhase = "closed" | "opening" | "ready" | "failed";

export interface StoreModules {
  readonly disk: Disk;
  readonly reactor: ReactorPort;
}

const TIMER_SCRUB = 0;

export class Store implements DiskHandler, Poller, TimerHandler, AssemblyClient {
  phase: StorePhase = "closed";
  /** Why it failed; for status. */
  failure: string | null = null;
  private readonly options: StoreOptions;
  private readonly modules: StoreModules;
  private readonly runner: TaskRunner;
  private assembly: StoreAssembly | null = null;
  private recoveryReport: RecoveryReport | null = null;
  /** Recovery has read everything: upkeep may begin. */
  private isRecovered = false;
  private flushRequested = false;
  private readonly quiet: QuietTimers;
  /** What a stop does when the last operation has ended. */
  private idleThen: (() => void) | null = null;

  constructor(options: StoreOptions, modules: StoreModules) {
    this.options = options;
    this.modules = modules;
    this.runner = new TaskRunner(modules.disk);
    this.quiet = new QuietTimers(modules.reactor, this);
  }

  /** Recovers and begins to serve. The disk's completions must reach diskCompleted(). */
  open(done: (error: StoreError | null) => void): void {
    assert(this.phase === "closed" && this.assembly === null, "a store is opened twice");
    this.phase = "opening";
    const { memory } = this.modules.reactor;
    const arena = memory.allocate(SUPERBLOCK_COPIES * BLOCK_BYTES);
    const task = readSuperblock(this.modules.disk.capacityBytes, arena, memory);
    this.runner.start(task, (superblock) => {
      memory.free(arena);
      const { capacityBytes } = this.modules.disk;
      const error =
        superblock instanceof StoreError
          ? superblock
          : openingRefusal(superblock, this.options.incarnationMin, capacityBytes);
      if (error !== null) this.openFailed(error, done);
      else this.recover(superblock as Superblock, done);
    });
  }

  private openFailed(error: StoreError, done: (error: StoreError) => void): void {
    if (this.assembly !== null) freeAssembly(this.assembly);
    this.assembly = null;
    this.phase = "closed";
    this.failure = error.message;
    done(error);
  }

  private recover(superblock: Superblock, done: (error: StoreError | null) => void): void {
    let geometry: Geometry;
    try {
      geometry = geometryOf(superblock);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      this.openFailed(error, done);
      return;
    }
    const environment = { ...this.modules, runner: this.runner };
    const assembly = assembleStore(superblock, geometry, this.options, environment, this);
    const { parts, recovery } = assembly;
    this.assembly = assembly;
    this.runner.start(recovery.run(), (report) => {
      if (report instanceof StoreError) {
        this.openFailed(report, done);
        return;
      }
      this.recoveryReport = report;
      parts.ring.incarnation = superblock.incarnation + 1;
      parts.metadataLog.incarnation = superblock.incarnation + 1;
      if (recovery.pending.pageCount > 0) parts.cache.pending = recovery.pending;
      const opened = {
        ...superblock,
        incarnation: superblock.incarnation + 1,
        generation: superblock.generation + 1,
        state: STATE_OPEN,
      };
      this.runner.start(parts.checkpoint.writeSuperblock(opened), (result) => {
        if (result !== 0) {
          this.openFailed(new StoreError("DISK_FAILED", `superblock: ${result}`), done);
          return;
        }
        this.isRecovered = true;
        // What was dropped must be gone for good before anything new is written.
        const isDoubtful = report.uncertain.length > 0 || recovery.doubtCount > 0;
        const hasDropped = isDoubtful && !parts.planted.keepUncertain;
        if (hasDropped) assembly.upkeep.drain(false, () => this.ready(done));
        else this.ready(done);
      });
    });
  }

  private ready(done: (error: StoreError | null) => void): void {
    if (this.phase === "failed") {
      done(new StoreError("DISK_FAILED", this.failure ?? "the disk failed"));
      return;
    }
    this.phase = "ready";
    this.modules.reactor.addPoller(this);
    logRecovery(this.modules.reactor.log, this.recoveryReport as RecoveryReport);
    this.all.upkeep.pump();
    this.all.volumeSet.beginReclaim();
    this.all.scrub.start();
    this.quiet.quiet();
    done(null);
  }

  private get all(): StoreAssembly {
    assert(this.assembly !== null, "a store is used before it is open");
    return this.assembly;
  }

  // --- the disk's answers ----------------------------------------------------------------------

  diskCompleted(tag: number, result: number): void {
    const index = tag & TAG_INDEX_MASK;
    const kind = tag & TAG_KIND_MASK;
    if (kind === TAG_OP) {
      const ops = this.all.parts.ops;
      const kindOfOp = ops.kind[index];
      if (kindOfOp === OP_KIND_READ || kindOfOp === OP_KIND_SLAB)
        this.all.reads.completed(index, result);
      else this.all.writes.dataWritten(index, result);
      this.all.parts.ring.advanceComplete();
    } else if (kind === TAG_GROUP) {
      this.all.parts.ring.completed(index, result);
      // First, as in roomMade(): the open group may have been full, and may be closed now.
      if (this.all.volumeSet.isWaiting) this.all.volumeSet.resume();
      this.all.writes.resume();
    } else if (kind === TAG_PAGE) {
      this.all.parts.cache.completed(index, result);
    } else {
      assert(kind === TAG_TASK, "an answer to nobody");
      this.runner.completed(index, result);
    }
    if (this.isRecovered) this.all.upkeep.pump();
  }

  groupDurable(_lsn: number, first: number): void {
    const ops = this.all.parts.ops;
    let op = first;
    while (op !== -1) {
      const next = ops.next[op] as number;
      ops.next[op] = -1;
      if (ops.kind[op] === OP_KIND_TABLE) this.all.volumeSet.recordDurable(op);
      else this.all.writes.opDurable(op);
      op = next;
    }
  }

  pageReady(op: number, result: number): void {
    const kind = this.all.parts.ops.kind[op] as number;
    if (kind === OP_KIND_READ || kind === OP_KIND_SLAB) this.all.reads.pageReady(op, result);
    else if (kind === OP_KIND_PAGE) this.all.upkeep.pageReady(op, result);
    else if (kind === OP_KIND_SCAN) {
      this.all.replicas.scans.pageReady(op, result);
      this.opReleased();
    } else this.all.writes.pageReady(op, result);
  }

  /** An operation has ended. Whose was it? */
  opDone(op: number, result: number): void {
    const ops = this.all.parts.ops;
    const slot = ops.slot[op] as number;
    const kind = ops.kind[op] as number;
    const write = ops.write[op] as number;
    if (kind === OP_KIND_SLAB) this.all.parts.locks.leave(op, this.all.writes);
    if (kind === OP_KIND_SLAB || kind === OP_KIND_IMAGE) {
      this.all.replicas.slabs.slabDone(op, result);
    }
    ops.release(op);
    if (slot >= 0) this.all.flow.oneDone(slot, result);
    else if (write >= 0) this.all.replicas.writes.opDone(write, result);
    else if (kind === OP_KIND_READ) this.all.scrub.slabDone(result);
    else if (kind === OP_KIND_CLEAR) this.all.volumeSet.slabCleared(result);
    if (kind === OP_KIND_READ || kind === OP_KIND_SLAB) this.readEnded();
    this.opReleased();
  }

  /** An operation is free: whoever waits for one, or for what it had, goes on. */
  private opReleased(): void {
    const { ops } = this.all.parts;
    // Writes give back buffers too.
    if (this.all.reads.hasWaiting) this.all.reads.resume();
    if (this.all.volumeSet.isWaiting) this.all.volumeSet.resume();
    if (this.all.writes.hasWaiting) this.all.writes.resume();
    if (this.all.flow.hasParked) this.all.flow.resume();
    this.all.replicas.resume();
    this.failStarved();
    if (this.idleThen === null || ops.freeCount < ops.capacity) return;
    const then = this.idleThen;
    this.idleThen = null;
    then();
  }

  private readEnded(): void {
    const { slabs } = this.all.parts;
    if (slabs.quarantineCount > 0) this.all.upkeep.releaseSlabs();
  }

  // --- what the modules ask --------------------------------------------------------------------

  get served(): StoreAssembly | null {
    return this.phase === "ready" ? this.assembly : null;
  }

  get writesFailed(): boolean {
    return this.phase === "failed";
  }

  get nextReadSequence(): number {
    return this.all.reads.nextSequence;
  }

  get oldestRead(): number {
    return this.all.reads.oldestSequence;
  }

  get hasWaiting(): boolean {
    const { writes, flow, replicas } = this.all;
    return writes.hasWaiting || flow.hasParked || replicas.writes.hasParked;
  }

  /** No request and no record is on its way. */
  get isQuiet(): boolean {
    const ring = this.all.parts.ring;
    const isIdle = this.all.flow.inflightCount === 0 && this.all.replicas.isIdle;
    if (this.writesFailed) return isIdle && !ring.isWriting;
    return isIdle && !ring.hasUnwritten && !ring.isWriting && ring.completeLsn === ring.nextLsn - 1;
  }

  isWritingBack(location: number): boolean {
    return this.all.parts.writeBack.covers(location);
  }

  beginRead(op: number): void {
    this.all.reads.begin(op);
    this.failStarved();
  }

  private failStarved(): void {
    if (this.phase === "failed") this.all.parts.cache.failStarved();
  }

  beginWrite(op: number): void {
    this.all.writes.begin(op);
  }

  takeExtent(volume: FlowVolume, index: number): number {
    return this.all.volumeSet.takeExtent(volume, index);
  }

  roomWanted(): void {
    this.all.upkeep.pump();
  }

  roomMade(): void {
    // First: requests that need an extent wait behind the records that wait for room.
    this.all.volumeSet.resume();
    this.all.writes.resume();
    this.all.flow.resume();
    this.all.replicas.resume();
  }

  slabLocked(op: number): void {
    this.all.reads.begin(op);
    this.failStarved();
  }

  commitMoved(): void {
    if (this.phase === "ready") this.quiet.mark();
  }

  groupOpened(): void {
    this.quiet.written();
    this.turnWanted();
  }

  turnWanted(): void {
    if (this.flushRequested) return;
    this.flushRequested = true;
    if (this.phase === "ready" || this.phase === "failed") this.modules.reactor.requestFlush(this);
    else this.flush();
  }

  timerFired(tag: number): void {
    assert(tag === TIMER_SCRUB, "a timer of nobody");
    this.all.scrub.timerFired();
  }

  setScrubTimer(delayMs: number): void {
    this.modules.reactor.setTimer(delayMs, this, TIMER_SCRUB);
  }

  // --- Poller: groups are closed once per turn of the loop -------------------------------------

  poll(): number {
    return 0;
  }

  arm(): boolean {
    return false;
  }

  disarm(): void {}

  flush(): void {
    this.flushRequested = false;
    const { replicas, writes, parts } = this.all;
    // First: those who are told of a write often begin the next.
    replicas.turn();
    if (this.writesFailed) return;
    writes.data.flush();
    if (parts.ring.hasUnwritten) replicas.addCommits();
    parts.ring.flush();
  }

  // --- damage ----------------------------------------------------------------------------------

  blockDamaged(extent: number, block: number, slab: number, result: number): void {
    const { parts, volumeSet } = this.all;
    parts.damage.block(volumeSet.nameOf(extent), extent, block, slab, result);
  }

  diskFailed(what: string, result: number): void {
    if (this.phase === "failed") return;
    this.phase = "failed";
    this.failure = `${what}: ${result}`;
    this.modules.reactor.log.log("error", "store.disk-failed", { what, result });
    const ring = this.all.parts.ring;
    ring.failed = true;
    this.all.writes.data.drop();
    for (let lsn = ring.durableLsn + 1; lsn <= ring.nextLsn; lsn++) {
      this.failGroup(ring.takeOps(lsn));
    }
    this.all.writes.resume();
    this.all.flow.resume();
    this.all.volumeSet.resume();
    this.all.replicas.resume();
    this.failStarved();
    this.all.upkeep.pump();
  }

  private failGroup(first: number): void {
    const ops = this.all.parts.ops;
    let op = first;
    while (op !== -1) {
      const next = ops.next[op] as number;
      ops.next[op] = -1;
      if (ops.kind[op] === OP_KIND_TABLE) this.all.volumeSet.recordFailed(op);
      else this.all.writes.opFailed(op);
      op = next;
    }
  }

  createVolume(spec: VolumeSpecification, done: (error: StoreError | null) => void): void {
    this.whenReady(done, (set) => set.create(spec, done));
  }

  resizeVolume(uuid: string, sizeBytes: number, done: (error: StoreError | null) => void): void {
    this.whenReady(done, (set) => set.resize(uuid, sizeBytes, done));
  }

  deleteVolume(uuid: string, done: (error: StoreError | null) => void): void {
    this.whenReady(done, (set) => set.remove(uuid, done));
  }

  noteReplica(uuid: string, note: ReplicaNote, done: (error: StoreError | null) => void): void {
    this.whenReady(done, (set) => set.note(uuid, note, done));
  }

  private whenReady(done: (error: StoreError) => void, work: (set: VolumeSet) => void): void {
    if (this.phase === "ready") work(this.all.volumeSet);
    else done(new StoreError("STORE_CLOSED", `the store is ${this.phase}`));
  }

  listVolumes(): StoredVolume[] {
    return this.assembly?.volumeSet.list() ?? [];
  }

  /** Throws StoreError when there is no such volume, or it is open. */
  openVolume(uuid: string, facts: { readOnly: boolean; serial: string }): StoreVolume {
    if (this.assembly === null) throw new StoreError("STORE_CLOSED", "the store is not open");
    return this.assembly.volumeSet.open(uuid, facts);
  }

  /**
   * A volume that was made with `isReplica`, for an owner; any number may have it open. Throws
   * StoreError when there is no such replica.
   */
  openReplica(uuid: string, options: StoreReplicaOptions): StoreReplica {
    if (this.assembly === null) throw new StoreError("STORE_CLOSED", "the store is not open");
    return this.assembly.replicas.open(uuid, options);
  }

  progress(): { step: string; doneBytes: number; totalBytes: number } {
    const step =
      this.phase === "opening" ? (this.assembly?.recovery.step ?? "superblock") : this.phase;
    const totalBytes = this.modules.disk.capacityBytes;
    return { step, doneBytes: this.phase === "opening" ? 0 : totalBytes, totalBytes };
  }

  facts(): DiskFacts {
    return factsOf(this.all.parts.checkpoint.superblock);
  }

  usage(): StoreUsage {
    return usageOf(this.all, this.recoveryReport);
  }

  /** Empties ring and log into slabs and pages. No request may come meanwhile. */
  drain(done: () => void): void {
    this.all.upkeep.drain(false, done);
  }

  // --- the end ---------------------------------------------------------------------------------

  /** A clean stop: every volume is closed before. After a failure, as far as that goes. */
  close(done: () => void): void {
    if (this.phase === "closed" || this.assembly === null) {
      done();
      return;
    }
    assert(this.phase !== "opening", "a store is closed while it opens");
    this.all.scrub.stop();
    this.quiet.end();
    this.all.volumeSet.stop(() => {
      this.all.upkeep.drain(true, () => {
        this.modules.reactor.removePoller(this);
        this.phase = "closed";
        this.whenIdle(() => {
          freeAssembly(this.all);
          done();
        });
      });
    });
  }

  /** Scrub may still read: its memory must stay until it has. */
  private whenIdle(then: () => void): void {
    const { ops } = this.all.parts;
    if (ops.freeCount === ops.capacity) then();
    else this.idleThen = then;
  }
}
