// One open store: the modules put together, and the disk's answers given to whom they belong.
//
//   open(): superblock -> parts -> recovery -> new superblock (incarnation) -> ready
//   ready --a write of ours fails--> failed: reads go on, writes are refused
//   close(): drain -> checkpoint, clean -> closed
//
// Everything runs on the thread of the reactor that owns the disk. Invariant: nothing is written
// before recovery has succeeded, and the first thing written is the superblock.

import { assert, SegmentCopier } from "../base/index.ts";
import type { Disk, DiskHandler, Poller, ReactorPort, TimerHandler } from "../ports/index.ts";
import { BlockLocks } from "./block-locks.ts";
import { BufferPool } from "./buffer-pool.ts";
import { Checkpoint } from "./checkpoint.ts";
import { StoreError } from "./errors.ts";
import { type Geometry, geometryOf } from "./geometry.ts";
import {
  BLOCK_BYTES,
  DURABILITY_POWER_LOSS_PROTECTED,
  DURABILITY_WRITE_THROUGH,
  RECORD_FRESH,
  RECORD_JOURNAL,
  RECORD_REDIRECT,
  SLAB_BYTES,
  STATE_OPEN,
  SUPERBLOCK_COPIES,
} from "./layouts.ts";
import { MetadataLog } from "./metadata-log.ts";
import { OP_KIND_CLEAR, OP_KIND_PAGE, OP_KIND_READ, OP_KIND_TABLE, OpTable } from "./op-table.ts";
import { PageCache } from "./page-cache.ts";
import { PageTree } from "./page-tree.ts";
import {
  type StoreParts,
  TAG_GROUP,
  TAG_INDEX_MASK,
  TAG_KIND_MASK,
  TAG_OP,
  TAG_PAGE,
  TAG_TASK,
} from "./parts.ts";
import { NO_BUGS, type PlantedBugs } from "./planted.ts";
import { ReadPath } from "./read-path.ts";
import { pageName, Recovery, type RecoveryReport, readSuperblock } from "./recovery.ts";
import { type FlowVolume, RequestFlow } from "./request-flow.ts";
import { RingIndex } from "./ring-index.ts";
import { RingJournal } from "./ring-journal.ts";
import { Scrub, type ScrubOptions } from "./scrub.ts";
import { SegmentView } from "./segments.ts";
import { SlabMap } from "./slab-map.ts";
import type { StoreVolume } from "./store-volume.ts";
import type { Superblock } from "./superblock.ts";
import { type DiskFacts, factsOf } from "./superblock-facts.ts";
import { ExtentTable, VolumeTable } from "./tables.ts";
import { TaskRunner } from "./task.ts";
import { Upkeep, type UpkeepParts } from "./upkeep.ts";
import { type StoredVolume, VolumeSet, type VolumeSpecification } from "./volume-set.ts";
import { WriteBack } from "./write-back.ts";
import { WritePath } from "./write-path.ts";

export type StorePhase = "closed" | "opening" | "ready" | "failed";

export interface StoreOptions {
  /** Pages of metadata in memory, 4 KiB each and each for 2 MiB of data. */
  readonly pageCacheCount?: number;
  /** Parts of requests on their way at once. */
  readonly operationCount?: number;
  /** Buffers of 64 KiB for fresh data and for reads that need private memory. */
  readonly bufferCount?: number;
  /** Runs of at least so many fresh blocks are written in place; shorter ones are journaled. */
  readonly freshBlocksMin?: number;
  /** Share of the ring at which write-back begins. */
  readonly writeBackAt?: number;
  readonly scrub?: ScrubOptions;
  /** Opened with a lower incarnation than this, the disk is an old copy of itself. */
  readonly incarnationMin?: number;
  readonly planted?: PlantedBugs;
}

export interface StoreModules {
  readonly disk: Disk;
  readonly reactor: ReactorPort;
}

export interface StoreUsage {
  readonly totalBytes: number;
  readonly usedBytes: number;
  readonly freeBytes: number;
  readonly quarantinedBytes: number;
  /** Promised to writes on their way. */
  readonly reservedBytes: number;
  readonly ringBytes: number;
  readonly ringUsedBytes: number;
  readonly logBytes: number;
  readonly logUsedBytes: number;
  readonly badBlockCount: number;
  readonly damagedPageCount: number;
  readonly scrubPositionBytes: number;
  readonly scrubRounds: number;
  readonly counters: StoreCounters;
  readonly recovery: RecoveryReport | null;
}

export interface StoreCounters {
  readonly freshWrites: number;
  readonly redirectedWrites: number;
  readonly journaledWrites: number;
  readonly groupsWritten: number;
  readonly ringBlocksWritten: number;
  readonly logBlocksWritten: number;
  readonly writtenBackBlocks: number;
  readonly overtakenBlocks: number;
  readonly checkpoints: number;
  readonly pagesWritten: number;
  readonly pagesLoaded: number;
  readonly readRetries: number;
  readonly noSpaceErrors: number;
}

const PAGE_CACHE_DEFAULT = 16384;
const OPERATIONS_DEFAULT = 2048;
const BUFFERS_DEFAULT = 256;
const WRITE_BACK_AT_DEFAULT = 0.25;
/** After the last write, what is in place is marked as such. */
const MARK_DELAY_MS = 50;
const BAD_BLOCKS_MAX = 10_000;
const DAMAGE_LOGS_MAX = 1000;
const TIMER_MARK = 0;
const TIMER_SCRUB = 1;

type Parts = StoreParts & UpkeepParts & { volumes: VolumeTable; extents: ExtentTable };

export class Store implements DiskHandler, Poller, TimerHandler {
  phase: StorePhase = "closed";
  /** Why it failed; for status. */
  failure: string | null = null;
  private readonly options: StoreOptions;
  private readonly modules: StoreModules;
  private readonly runner: TaskRunner;
  private parts: Parts | null = null;
  private ops: OpTable | null = null;
  private ring: RingJournal | null = null;
  private cache: PageCache | null = null;
  private reads: ReadPath | null = null;
  private writes: WritePath | null = null;
  private upkeep: Upkeep | null = null;
  private flow: RequestFlow | null = null;
  private recovery: Recovery | null = null;
  private recoveryReport: RecoveryReport | null = null;
  private volumeSet: VolumeSet | null = null;
  private scrub: Scrub | null = null;
  private flushRequested = false;
  private markTimer = -1;
  private readonly badBlocks: Set<number> = new Set();
  private damagedPageCount = 0;
  private damageLogs = 0;

  constructor(options: StoreOptions, modules: StoreModules) {
    this.options = options;
    this.modules = modules;
    this.runner = new TaskRunner(modules.disk);
  }

  /** Recovers and begins to serve. The disk's completions must reach diskCompleted(). */
  open(done: (error: StoreError | null) => void): void {
    assert(this.phase === "closed" && this.parts === null, "a store is opened twice");
    this.phase = "opening";
    const { memory } = this.modules.reactor;
    const arena = memory.allocate(SUPERBLOCK_COPIES * BLOCK_BYTES);
    const task = readSuperblock(this.modules.disk.capacityBytes, arena, memory);
    this.runner.start(task, (superblock) => {
      memory.free(arena);
      const error = superblock instanceof StoreError ? superblock : this.refusal(superblock);
      if (error !== null) this.openFailed(error, done);
      else this.recover(superblock as Superblock, done);
    });
  }

  private openFailed(error: StoreError, done: (error: StoreError) => void): void {
    this.phase = "closed";
    this.failure = error.message;
    done(error);
  }

  private refusal(superblock: Superblock): StoreError | null {
    const { incarnationMin } = this.options;
    if (incarnationMin !== undefined && superblock.incarnation < incarnationMin) {
      return new StoreError(
        "DISK_STALE",
        `the disk was last opened as incarnation ${superblock.incarnation}, ` +
          `but incarnation ${incarnationMin} has been seen: it is an old copy of itself`,
        { advice: "Bring the current disk back, or forget this one and restore its volumes." },
      );
    }
    if (superblock.diskBytes > this.modules.disk.capacityBytes) {
      const has = `${this.modules.disk.capacityBytes} of ${superblock.diskBytes} bytes`;
      return new StoreError("DISK_DAMAGED", `the disk has become smaller: ${has}`);
    }
    return null;
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
    const parts = this.build(superblock, geometry);
    const recovery = this.recovery as Recovery;
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
        // What was dropped must be gone for good before anything new is written.
        if (report.uncertain.length > 0) this.upkeep?.drain(false, () => this.ready(done));
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
    this.logRecovery();
    this.upkeep?.pump();
    this.volumeSet?.reclaim();
    this.scrub?.start();
    done(null);
  }

  private logRecovery(): void {
    const report = this.recoveryReport as RecoveryReport;
    const { log } = this.modules.reactor;
    log.log(
      report.uncertain.length + report.rottenBlocks > 0 ? "warn" : "info",
      "store.recovered",
      {
        clean: report.wasClean,
        logRecords: report.logRecords,
        ringGroups: report.ringGroups,
        ringRecords: report.ringRecords,
        uncertainWrites: report.uncertain.length,
        rottenBlocks: report.rottenBlocks,
        cutGroups: report.cutGroups,
      },
    );
    for (const { extent, block } of report.uncertain.slice(0, 100)) {
      log.log("warn", "store.uncertain-write", { extent, block });
    }
  }

  /** Makes every module, in the order in which they need each other. */
  private build(superblock: Superblock, geometry: Geometry): Parts {
    const { options } = this;
    const { disk, reactor } = this.modules;
    const { memory, requests } = reactor;
    const planted = options.planted ?? NO_BUGS;
    const isSafe =
      superblock.durability === DURABILITY_POWER_LOSS_PROTECTED ||
      superblock.durability === DURABILITY_WRITE_THROUGH;
    const ops = new OpTable(options.operationCount ?? OPERATIONS_DEFAULT);
    const base: StoreParts = {
      geometry,
      disk,
      memory,
      reactor,
      log: reactor.log,
      copier: new SegmentCopier(requests, memory),
      ops,
      tree: new PageTree(geometry),
      uuidWords: new Uint32Array(superblock.uuid.slice().buffer),
      journalId: superblock.journalId,
      planted,
      flushNeeded: !isSafe && !planted.trustCompletion,
      pageDamaged: (kind, number, fault) => this.pageDamaged(kind, number, fault),
      diskFailed: (what, result) => this.diskFailed(what, result),
    };
    const ring = new RingJournal(base);
    const cache = new PageCache(options.pageCacheCount ?? PAGE_CACHE_DEFAULT, base);
    const writeParts = {
      ...base,
      locks: new BlockLocks(ops),
      cache,
      ring,
      index: new RingIndex(geometry.ringBlocks),
      slabs: new SlabMap(geometry.slabCount),
      buffers: new BufferPool(options.bufferCount ?? BUFFERS_DEFAULT, memory),
      segments: new SegmentView(requests, memory, ops.capacity),
    };
    const metadataLog = new MetadataLog(base, ring);
    const tables = { volumes: new VolumeTable(geometry), extents: new ExtentTable(geometry) };
    const logParts = { ...writeParts, metadataLog, ...tables };
    const reads = new ReadPath(writeParts, this);
    const writeBack = new WriteBack(logParts, () => reads.oldestSequence);
    const checkpoint = new Checkpoint(logParts, superblock);
    const recovery = new Recovery(logParts, superblock);
    const { runner } = this;
    const writeBackAt = options.writeBackAt ?? WRITE_BACK_AT_DEFAULT;
    const parts = {
      ...logParts,
      runner,
      writeBack,
      checkpoint,
      pending: recovery.pending,
      writeBackAt,
    };
    this.parts = parts;
    this.ops = ops;
    this.ring = ring;
    this.cache = cache;
    this.reads = reads;
    this.recovery = recovery;
    this.writes = new WritePath(writeParts, this, options.freshBlocksMin);
    this.upkeep = new Upkeep(parts, this);
    this.flow = new RequestFlow(requests, ops, base.copier, this);
    this.volumeSet = new VolumeSet(parts, this.flow, this);
    this.scrub = new Scrub(parts, this, options.scrub ?? null);
    ring.setClient(this);
    cache.setClient(this);
    return parts;
  }

  // --- the disk's answers -----------------------------------------------------------------------

  diskCompleted(tag: number, result: number): void {
    const index = tag & TAG_INDEX_MASK;
    const kind = tag & TAG_KIND_MASK;
    if (kind === TAG_OP) {
      const ops = this.ops as OpTable;
      const isRead = ops.kind[index] === OP_KIND_READ;
      if (isRead) this.reads?.completed(index, result);
      else this.writes?.dataWritten(index, result);
      this.ring?.advanceComplete();
    } else if (kind === TAG_GROUP) {
      this.ring?.completed(index, result);
      this.writes?.resume();
    } else if (kind === TAG_PAGE) {
      this.cache?.completed(index, result);
    } else {
      assert(kind === TAG_TASK, "an answer to nobody");
      this.runner.completed(index, result);
    }
    this.upkeep?.pump();
  }

  groupDurable(_lsn: number, first: number): void {
    const ops = this.ops as OpTable;
    let op = first;
    while (op !== -1) {
      const next = ops.next[op] as number;
      ops.next[op] = -1;
      if (ops.kind[op] === OP_KIND_TABLE) this.volumeSet?.recordDurable(op);
      else this.writes?.opDurable(op);
      op = next;
    }
  }

  pageReady(op: number, result: number): void {
    const kind = (this.ops as OpTable).kind[op] as number;
    if (kind === OP_KIND_READ) this.reads?.pageReady(op, result);
    else if (kind === OP_KIND_PAGE) this.upkeep?.pageReady(op, result);
    else this.writes?.pageReady(op, result);
  }

  /** An operation has ended. Whose was it? */
  opDone(op: number, result: number): void {
    const ops = this.ops as OpTable;
    const slot = ops.slot[op] as number;
    const kind = ops.kind[op] as number;
    ops.release(op);
    if (slot >= 0) (this.flow as RequestFlow).oneDone(slot, result);
    else if (kind === OP_KIND_READ) this.scrub?.slabDone(result);
    else if (kind === OP_KIND_CLEAR) this.volumeSet?.slabCleared(result);
    if (kind === OP_KIND_READ) this.readEnded();
    if ((this.writes as WritePath).hasWaiting) this.writes?.resume();
    if ((this.flow as RequestFlow).hasParked) this.flow?.resume();
  }

  private readEnded(): void {
    const { slabs } = this.parts as Parts;
    if (slabs.quarantineCount > 0) this.upkeep?.releaseSlabs();
    if (this.reads?.hasWaiting === true) this.reads.resume();
  }

  // --- what the modules ask ---------------------------------------------------------------------

  get writesFailed(): boolean {
    return this.phase === "failed";
  }

  get nextReadSequence(): number {
    return (this.reads as ReadPath).nextSequence;
  }

  get oldestRead(): number {
    return (this.reads as ReadPath).oldestSequence;
  }

  get hasWaiting(): boolean {
    return (this.writes as WritePath).hasWaiting || (this.flow as RequestFlow).hasParked;
  }

  /** No request and no record is on its way. */
  get isQuiet(): boolean {
    const ring = this.ring as RingJournal;
    const isIdle = (this.flow as RequestFlow).inflightCount === 0;
    return isIdle && !ring.hasUnwritten && !ring.isWriting && ring.completeLsn === ring.nextLsn - 1;
  }

  isWritingBack(location: number): boolean {
    return (this.parts as Parts).writeBack.covers(location);
  }

  beginRead(op: number): void {
    this.reads?.begin(op);
  }

  beginWrite(op: number): void {
    this.writes?.begin(op);
  }

  takeExtent(volume: FlowVolume, index: number): number {
    return (this.volumeSet as VolumeSet).takeExtent(volume, index);
  }

  roomWanted(): void {
    this.upkeep?.pump();
  }

  roomMade(): void {
    this.writes?.resume();
    this.flow?.resume();
    this.volumeSet?.resume();
  }

  groupOpened(): void {
    if (this.markTimer === -1) {
      this.markTimer = this.modules.reactor.setTimer(MARK_DELAY_MS, this, TIMER_MARK);
    }
    if (this.flushRequested) return;
    this.flushRequested = true;
    if (this.phase === "ready") this.modules.reactor.requestFlush(this);
    else this.flush();
  }

  timerFired(tag: number): void {
    if (tag === TIMER_SCRUB) {
      this.scrub?.timerFired();
      return;
    }
    assert(tag === TIMER_MARK, "a timer of nobody");
    this.markTimer = -1;
    const ring = this.ring as RingJournal;
    if (this.phase !== "ready") return;
    if (ring.completeLsn < ring.nextLsn - 1 || ring.hasUnwritten) {
      this.markTimer = this.modules.reactor.setTimer(MARK_DELAY_MS, this, TIMER_MARK);
    } else ring.writeMark();
  }

  setScrubTimer(delayMs: number): void {
    this.modules.reactor.setTimer(delayMs, this, TIMER_SCRUB);
  }

  // --- Poller: groups are closed once per turn of the loop ----------------------------------------

  poll(): number {
    return 0;
  }

  arm(): boolean {
    return false;
  }

  disarm(): void {}

  flush(): void {
    this.flushRequested = false;
    if (!this.writesFailed) this.ring?.flush();
  }

  // --- damage -------------------------------------------------------------------------------------

  blockDamaged(extent: number, block: number, slab: number, result: number): void {
    if (this.badBlocks.size < BAD_BLOCKS_MAX) this.badBlocks.add(extent * 65536 + block);
    this.damageLogs += 1;
    if (this.damageLogs > DAMAGE_LOGS_MAX) return;
    const volume = this.volumeSet?.nameOf(extent) ?? "";
    const fields = { volume, extent, block, slab, result };
    this.modules.reactor.log.log("error", "store.bad-block", fields);
  }

  private pageDamaged(kind: number, number: number, fault: string): void {
    this.damagedPageCount += 1;
    this.damageLogs += 1;
    if (this.damageLogs > DAMAGE_LOGS_MAX) return;
    const fields = { page: pageName(kind, number), fault };
    this.modules.reactor.log.log("error", "store.bad-page", fields);
  }

  private diskFailed(what: string, result: number): void {
    if (this.phase === "failed") return;
    this.phase = "failed";
    this.failure = `${what}: ${result}`;
    this.modules.reactor.log.log("error", "store.disk-failed", { what, result });
    const ring = this.ring as RingJournal;
    ring.failed = true;
    for (let lsn = ring.durableLsn + 1; lsn <= ring.nextLsn; lsn++) {
      this.failGroup(ring.takeOps(lsn));
    }
    this.writes?.resume();
    this.flow?.resume();
    this.volumeSet?.resume();
    this.upkeep?.pump();
  }

  private failGroup(first: number): void {
    const ops = this.ops as OpTable;
    let op = first;
    while (op !== -1) {
      const next = ops.next[op] as number;
      ops.next[op] = -1;
      if (ops.kind[op] === OP_KIND_TABLE) this.volumeSet?.recordFailed(op);
      else this.writes?.opFailed(op);
      op = next;
    }
  }

  // --- volumes ------------------------------------------------------------------------------------

  createVolume(spec: VolumeSpecification, done: (error: StoreError | null) => void): void {
    this.whenReady(done, (set) => set.create(spec, done));
  }

  resizeVolume(uuid: string, sizeBytes: number, done: (error: StoreError | null) => void): void {
    this.whenReady(done, (set) => set.resize(uuid, sizeBytes, done));
  }

  deleteVolume(uuid: string, done: (error: StoreError | null) => void): void {
    this.whenReady(done, (set) => set.remove(uuid, done));
  }

  private whenReady(done: (error: StoreError) => void, work: (set: VolumeSet) => void): void {
    if (this.phase === "ready") work(this.volumeSet as VolumeSet);
    else done(new StoreError("STORE_CLOSED", `the store is ${this.phase}`));
  }

  listVolumes(): StoredVolume[] {
    return this.volumeSet?.list() ?? [];
  }

  /** Throws StoreError when there is no such volume, or it is open. */
  openVolume(uuid: string, facts: { readOnly: boolean; serial: string }): StoreVolume {
    if (this.volumeSet === null) throw new StoreError("STORE_CLOSED", "the store is not open");
    return this.volumeSet.open(uuid, facts);
  }

  // --- facts --------------------------------------------------------------------------------------

  progress(): { step: string; doneBytes: number; totalBytes: number } {
    const step = this.phase === "opening" ? (this.recovery?.step ?? "superblock") : this.phase;
    const totalBytes = this.modules.disk.capacityBytes;
    return { step, doneBytes: this.phase === "opening" ? 0 : totalBytes, totalBytes };
  }

  facts(): DiskFacts {
    return factsOf((this.parts as Parts).checkpoint.superblock);
  }

  usage(): StoreUsage {
    const { geometry, slabs, ring, metadataLog, checkpoint, writeBack, cache } = this
      .parts as Parts;
    const writes = this.writes as WritePath;
    const heldCount = slabs.slabCount - slabs.freeCount - slabs.usedCount - slabs.quarantineCount;
    return {
      totalBytes: slabs.slabCount * SLAB_BYTES,
      usedBytes: slabs.usedCount * SLAB_BYTES,
      freeBytes: slabs.freeCount * SLAB_BYTES,
      quarantinedBytes: slabs.quarantineCount * SLAB_BYTES,
      reservedBytes: heldCount * SLAB_BYTES,
      ringBytes: geometry.ringBytes,
      ringUsedBytes: ring.usedBlocks * BLOCK_BYTES,
      logBytes: geometry.logBytes,
      logUsedBytes: metadataLog.usedBlocks * BLOCK_BYTES,
      badBlockCount: this.badBlocks.size,
      damagedPageCount: this.damagedPageCount,
      scrubPositionBytes: this.scrub?.positionBytes ?? 0,
      scrubRounds: checkpoint.scrubRounds,
      recovery: this.recoveryReport,
      counters: {
        freshWrites: writes.classCounts[RECORD_FRESH] as number,
        redirectedWrites: writes.classCounts[RECORD_REDIRECT] as number,
        journaledWrites: writes.classCounts[RECORD_JOURNAL] as number,
        groupsWritten: ring.groupsWritten,
        ringBlocksWritten: ring.blocksWritten,
        logBlocksWritten: metadataLog.blocksWritten,
        writtenBackBlocks: writeBack.blocksWritten,
        overtakenBlocks: writeBack.blocksOvertaken,
        checkpoints: checkpoint.count,
        pagesWritten: checkpoint.pagesWritten,
        pagesLoaded: cache.loadCount,
        readRetries: this.reads?.retryCount ?? 0,
        noSpaceErrors: writes.noSpaceCount,
      },
    };
  }

  // --- the end ------------------------------------------------------------------------------------

  /** A clean stop: every volume is closed before. After a failure, as far as that goes. */
  close(done: () => void): void {
    if (this.phase === "closed" || this.upkeep === null) {
      done();
      return;
    }
    assert(this.phase !== "opening", "a store is closed while it opens");
    this.scrub?.stop();
    this.volumeSet?.stop(() => {
      this.upkeep?.drain(true, () => {
        this.modules.reactor.removePoller(this);
        if (this.markTimer !== -1) this.modules.reactor.cancelTimer(this.markTimer);
        this.markTimer = -1;
        this.phase = "closed";
        done();
      });
    });
  }
}
