// Upkeep: decides when to write back, when to write a checkpoint, and brings pages up to date after
// a recovery. Asked after everything that could change the answer; does nothing when all is well,
// so an idle store costs nothing.
//
//   ring >= 1/4 full, or somebody waits for room    -> write-back, batch after batch
//   log >= 1/2 full, or >= 1/2 of the pages dirty   -> checkpoint
//   the superblock is to name a feature             -> checkpoint
//   draining (stop, or a recovery that dropped writes) -> both, until nothing is left
//   idle with freed slabs in quarantine             -> write-back, until they are free
//
// Invariant: at most one batch and one checkpoint at a time; while recovered records wait for
// their pages a checkpoint keeps the log's tail.

import { assert } from "../base/index.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { STATE_CLEAN, STATE_OPEN } from "./layouts.ts";
import { OP_KIND_PAGE } from "./op-table.ts";
import { PAGE_READY } from "./page-cache.ts";
import type { PendingByPage } from "./pending-records.ts";
import type { TaskRunner } from "./task.ts";
import type { WriteBack, WriteBackParts } from "./write-back.ts";

/** Pages brought up to date at a time; requests keep the rest of the operations. */
const LOADING_MAX = 16;
/** Writes of write-back on the disk at a time. */
const DEPTH_GENTLE = 4;
const DEPTH_PRESSED = 96;
/** Operations that upkeep leaves to requests. */
const OPS_RESERVED = 8;

export interface UpkeepParts extends WriteBackParts {
  readonly runner: TaskRunner;
  readonly writeBack: WriteBack;
  readonly checkpoint: Checkpoint;
  readonly pending: PendingByPage;
  /** Share of the ring at which write-back begins. */
  readonly writeBackAt: number;
}

export interface UpkeepClient {
  /** Ring space, slabs or frames have become free. */
  roomMade(): void;
  readonly hasWaiting: boolean;
  readonly writesFailed: boolean;
  readonly oldestRead: number;
  /** Nothing of requests is on its way. */
  readonly isQuiet: boolean;
}

export class Upkeep {
  private readonly parts: UpkeepParts;
  private readonly client: UpkeepClient;
  private writingBack = false;
  private checkpointing = false;
  /** The log has no room for the next batch. */
  private isLogFull = false;
  private loadingCount = 0;
  private drained: (() => void) | null = null;
  private drainState = STATE_OPEN;
  private pumping = false;
  /** Idle: what waits in quarantine is to be free, pressed or not. */
  private releasing = false;

  constructor(parts: UpkeepParts, client: UpkeepClient) {
    this.parts = parts;
    this.client = client;
  }

  /** Empties ring and log into slabs and pages; requests must not come meanwhile. */
  drain(isFinal: boolean, done: () => void): void {
    assert(this.drained === null, "drained twice at once");
    this.drained = done;
    this.drainState = isFinal ? STATE_CLEAN : STATE_OPEN;
    this.pump();
  }

  /** The store has been idle for a while: gives back the slabs that only wait for write-back. */
  releaseQuarantine(): void {
    this.releaseSlabs();
    this.releasing = this.parts.slabs.quarantineCount > 0;
    if (this.releasing) this.pump();
  }

  /** Requests have come: what is written again soon is better left in the ring. */
  stopReleasing(): void {
    this.releasing = false;
  }

  get isBusy(): boolean {
    return this.writingBack || this.checkpointing || this.loadingCount > 0;
  }

  pump(): void {
    if (this.pumping) return;
    this.pumping = true;
    if (this.client.writesFailed) this.giveUp();
    else {
      if (!this.writingBack && this.wantsWriteBack()) this.startWriteBack();
      this.loadPending();
      if (!this.checkpointing && this.wantsCheckpoint()) this.startCheckpoint();
    }
    this.pumping = false;
  }

  /** A failed disk is drained as far as it will ever be once its last I/O has come back. */
  private giveUp(): void {
    if (this.drained === null || this.isBusy || !this.client.isQuiet) return;
    this.endDrain();
  }

  private endDrain(): void {
    const done = this.drained as () => void;
    this.drained = null;
    done();
  }

  private wantsWriteBack(): boolean {
    const { ring, slabs, writeBackAt, writeBack } = this.parts;
    const isPressed =
      this.drained !== null ||
      ring.usedBlocks >= ring.blockCount * writeBackAt ||
      ring.groupCount >= ring.mask * 0.75 ||
      this.client.hasWaiting ||
      (this.releasing && slabs.quarantineCount > 0) ||
      (slabs.freeCount < slabs.quarantineCount && slabs.quarantineCount > 0);
    if (!isPressed || ring.completeLsn === ring.settledLsn) return false;
    if (!writeBack.hasWork) return false;
    this.isLogFull = !writeBack.hasLogRoom;
    return !this.isLogFull;
  }

  private startWriteBack(): void {
    this.writingBack = true;
    const ended = (result: number): void => {
      this.writingBack = false;
      if (result !== 0) {
        this.parts.diskFailed("write-back", result);
        return;
      }
      this.releaseSlabs();
      this.client.roomMade();
      this.pump();
    };
    this.parts.runner.start(this.parts.writeBack.batch(), ended, this.writeBackDepth());
  }

  /** Write-back takes the disk from requests: gently as long as the ring has room for them. */
  private writeBackDepth(): number {
    const { ring } = this.parts;
    const isPressed = this.drained !== null || this.client.hasWaiting;
    return isPressed || ring.usedBlocks * 2 > ring.blockCount ? DEPTH_PRESSED : DEPTH_GENTLE;
  }

  /** Frees slabs in quarantine whose time has come. */
  releaseSlabs(): void {
    const { slabs, metadataLog } = this.parts;
    slabs.releaseQuarantine(metadataLog.settledLsn, this.client.oldestRead);
  }

  private wantsCheckpoint(): boolean {
    const { cache, metadataLog, pending, ring, checkpoint } = this.parts;
    if (checkpoint.isFeatureNew) return true;
    if (cache.isStarved && cache.dirtyCount > 0) return true;
    if (cache.dirtyCount * 2 > cache.frameCount) return true;
    // What follows is about the log's tail, which stays while recovered records wait.
    if (pending.pageCount > 0 || this.loadingCount > 0) return false;
    if (this.isLogFull || metadataLog.usedBlocks * 2 > metadataLog.blockCount) return true;
    if (this.drained === null) return false;
    ring.dropEmpty();
    return ring.groupCount === 0 && !this.writingBack && this.client.isQuiet;
  }

  private startCheckpoint(): void {
    const { pending, checkpoint, ring } = this.parts;
    const keepTail = pending.pageCount > 0;
    const isDrained = ring.groupCount === 0 && !this.writingBack && this.client.isQuiet;
    const isLast = this.drained !== null && isDrained && !keepTail;
    this.checkpointing = true;
    this.isLogFull = false;
    const task = checkpoint.run(isLast ? this.drainState : STATE_OPEN, keepTail);
    this.parts.runner.start(task, (result) => {
      this.checkpointing = false;
      if (result !== 0) {
        this.parts.diskFailed("checkpoint", result);
        return;
      }
      this.client.roomMade();
      if (isLast) this.endDrain();
      this.pump();
    });
  }

  /** Loads pages that recovered records wait for: loading applies them. */
  private loadPending(): void {
    // Pages that were never written are there at once, and nothing would ask again.
    while (this.loadingCount === 0 && this.loadSome());
  }

  /** False when there is nothing to load, or no room for it. */
  private loadSome(): boolean {
    const { pending, ops, cache, geometry } = this.parts;
    if (pending.pageCount === 0 || cache.dirtyCount * 2 > cache.frameCount) return false;
    const pages: number[] = [];
    for (const page of pending.pages()) {
      if (pages.length === LOADING_MAX || ops.freeCount - pages.length <= OPS_RESERVED) break;
      pages.push(page);
    }
    this.loadingCount += pages.length;
    for (const page of pages) {
      const op = ops.acquire(OP_KIND_PAGE, -1);
      ops.extent[op] = page;
      assert(page >= geometry.slabPageStart, "records wait for a page that is always there");
      if (cache.acquire(op, page) === PAGE_READY) this.pageReady(op, 0);
    }
    return pages.length > 0;
  }

  /** A page that upkeep asked for is there, and up to date; or it is damaged, and told of. */
  pageReady(op: number, result: number): void {
    const { ops, cache, pending } = this.parts;
    if (result === 0) cache.unpin(op);
    else pending.forget(ops.extent[op] as number);
    ops.release(op);
    this.loadingCount -= 1;
    if (this.loadingCount === 0) this.pump();
  }
}
