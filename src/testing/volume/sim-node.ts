// A replica of one volume in memory, with what the protocol asks of it: an epoch gate, sessions,
// fences that drain, stamps per slab, grants. Durable things survive crash(); what waits in its
// disk's queue does not.
//
// Invariant: a session that is not the latest changes nothing, unless a planted bug says so.

import { ENOSPC, ENOTCONN, ESTALE } from "../../base/index.ts";
import {
  type FenceAnswer,
  REPLICA_ZERO,
  type ReplicaFailure,
  type SlabPage,
  type SlabStamp,
  type Stamp,
} from "../../ports/index.ts";
import type { SimScheduler } from "../sim/index.ts";

export const BLOCK_BYTES = 4096;
export const SLAB_BLOCKS = 16;
export const GRANT_US = 2_000_000;
const PAGE_SLABS = 3;
const ABOVE_MAX = 2;

/** Holes on the replica's side of the protocol. */
export interface NodeBugs {
  readonly fenceWithoutDrain: boolean;
  readonly oldSessionNotFenced: boolean;
  readonly restartForgetsGrants: boolean;
}

/** Some writes take longer than others. */
export interface SlowDisk {
  readonly chance: number;
  readonly longestUs: number;
}

const SLOW_DISK: SlowDisk = { chance: 0.02, longestUs: 50_000 };

export const NO_NODE_BUGS: NodeBugs = {
  fenceWithoutDrain: false,
  oldSessionNotFenced: false,
  restartForgetsGrants: false,
};

/** A session as the node knows it: made by the owner's side, compared by identity. */
export interface NodeSession {
  readonly epoch: number;
  readonly process: string;
}

export interface SlabContent {
  readonly stamp: Stamp;
  /** null = zeroes. */
  readonly blocks: readonly (Uint8Array | null)[];
}

interface Queued {
  readonly apply: () => void;
  readonly answer: () => void;
  readonly event: number;
}

const ZERO: Stamp = { epoch: 0, sequence: 0 };

function compareStamps(a: Stamp, b: Stamp): number {
  return a.epoch !== b.epoch ? a.epoch - b.epoch : a.sequence - b.sequence;
}

export class SimNode {
  readonly disk: string;
  isUp = true;
  /** It has room for nothing: every write is refused, at once. */
  isFull = false;
  private readonly scheduler: SimScheduler;
  private readonly bugs: NodeBugs;
  slow: SlowDisk;
  /** Its clock against the true one. */
  private readonly clockRate: number;

  // Durable.
  private epoch = 0;
  private committed: Stamp = ZERO;
  private blocks: Map<number, Uint8Array> = new Map();
  private stamps: Map<number, Stamp> = new Map();
  private readonly damaged: Set<number> = new Set();

  // Lost in a crash.
  private session: NodeSession | null = null;
  private readonly queue: Set<Queued> = new Set();
  private grants: Map<string, number> = new Map();
  private restartedUs = -Infinity;
  /** Called when the process goes. */
  readonly onCrash: Set<() => void> = new Set();

  constructor(disk: string, scheduler: SimScheduler, bugs: NodeBugs, slow: SlowDisk = SLOW_DISK) {
    this.slow = slow;
    this.disk = disk;
    this.scheduler = scheduler;
    this.bugs = bugs;
    this.clockRate = 0.99 + scheduler.prng.unit() * 0.02;
  }

  private get nowUs(): number {
    return this.scheduler.clock.nowUs() * this.clockRate;
  }

  // Its process -----------------------------------------------------------------------------------

  crash(): void {
    if (!this.isUp) return;
    this.isUp = false;
    this.session = null;
    for (const one of this.queue) {
      this.scheduler.cancel(one.event);
      // It may have reached the medium all the same.
      if (this.scheduler.prng.chance(0.5)) one.apply();
    }
    this.queue.clear();
    this.grants.clear();
    for (const told of Array.from(this.onCrash)) told();
  }

  restart(): void {
    this.isUp = true;
    if (!this.bugs.restartForgetsGrants) this.restartedUs = this.nowUs;
  }

  // Grants ----------------------------------------------------------------------------------------

  /** A heartbeat of `process`: until when it may count on us, or that it may not. */
  grant(process: string, epoch: number): boolean {
    if (!this.isUp || epoch !== this.epoch) return false;
    this.grants.set(process, this.nowUs + GRANT_US);
    return true;
  }

  private grantWaitUs(process: string): number {
    let untilUs = this.restartedUs + GRANT_US;
    for (const [other, endUs] of this.grants) {
      if (other !== process) untilUs = Math.max(untilUs, endUs);
    }
    return Math.max(0, untilUs - this.nowUs);
  }

  // The gate --------------------------------------------------------------------------------------

  fence(session: NodeSession, answer: (answer: FenceAnswer | ReplicaFailure) => void): void {
    if (session.epoch < this.epoch) {
      answer({ code: "stale-epoch", message: "a higher epoch was here", epoch: this.epoch });
      return;
    }
    const isResumed = session.epoch === this.epoch;
    this.epoch = session.epoch;
    this.session = session;
    const isLeft = isResumed ? this.bugs.oldSessionNotFenced : this.bugs.fenceWithoutDrain;
    if (!isLeft) this.drain();
    const above = this.slabsAbove(this.committed, 0);
    const fits = above.length <= ABOVE_MAX;
    answer({
      ...this.newest(),
      committedEpoch: this.committed.epoch,
      committedSequence: this.committed.sequence,
      above: fits ? above : [],
      uncertain: [],
      grantWaitUs: this.grantWaitUs(session.process),
      ...(fits ? {} : { cursor: 0 }),
    });
  }

  private newest(): Stamp {
    let newest = ZERO;
    for (const stamp of this.stamps.values()) {
      if (compareStamps(stamp, newest) > 0) newest = stamp;
    }
    return newest;
  }

  private drain(): void {
    for (const one of Array.from(this.queue)) {
      this.scheduler.cancel(one.event);
      this.finish(one);
    }
  }

  private finish(one: Queued): void {
    this.queue.delete(one);
    one.apply();
    one.answer();
  }

  /** 0: it may go on; else what it is refused with. */
  private refusal(session: NodeSession): number {
    if (session === this.session) return 0;
    if (session.epoch < this.epoch) return -ESTALE;
    return this.bugs.oldSessionNotFenced && session.epoch === this.epoch ? 0 : -ENOTCONN;
  }

  isCurrent(session: NodeSession): boolean {
    return session === this.session;
  }

  private enqueue(apply: () => void, answer: () => void): void {
    const { prng } = this.scheduler;
    const delayUs = 20 + prng.unit() * (prng.chance(this.slow.chance) ? this.slow.longestUs : 300);
    const one: Queued = {
      apply,
      answer,
      event: this.scheduler.after(delayUs, () => this.finish(one), { label: "disk write" }),
    };
    this.queue.add(one);
  }

  // Blocks ----------------------------------------------------------------------------------------

  write(
    session: NodeSession,
    op: number,
    firstBlock: number,
    data: readonly (Uint8Array | null)[],
    stamp: Stamp,
    committed: Stamp,
    answer: (result: number) => void,
  ): void {
    const refusal = this.refusal(session);
    if (refusal !== 0 || this.isFull) {
      answer(refusal !== 0 ? refusal : -ENOSPC);
      return;
    }
    const apply = (): void => {
      for (const [at, block] of data.entries()) {
        this.put(firstBlock + at, op === REPLICA_ZERO ? null : block);
        const slab = Math.floor((firstBlock + at) / SLAB_BLOCKS);
        if (compareStamps(stamp, this.stamps.get(slab) ?? ZERO) > 0) this.stamps.set(slab, stamp);
      }
      this.commit(committed);
    };
    this.enqueue(apply, () => answer(0));
  }

  private put(block: number, data: Uint8Array | null): void {
    if (data === null) this.blocks.delete(block);
    else this.blocks.set(block, data);
    this.damaged.delete(block);
  }

  private commit(committed: Stamp): void {
    if (compareStamps(committed, this.committed) > 0) this.committed = committed;
  }

  /** The blocks, or why not. */
  read(session: NodeSession, first: number, count: number): (Uint8Array | null)[] | number {
    const refusal = this.refusal(session);
    if (refusal !== 0) return refusal;
    const blocks: (Uint8Array | null)[] = [];
    for (let block = first; block < first + count; block++) {
      if (this.damaged.has(block)) return -74;
      blocks.push(this.blocks.get(block) ?? null);
    }
    return blocks;
  }

  /** Bitrot: reads of the block fail until it is written again. */
  damage(block: number): void {
    if (this.blocks.has(block)) this.damaged.add(block);
  }

  get damagedCount(): number {
    return this.damaged.size;
  }

  /** The medium reads well again: at the end there must be a good copy of everything. */
  mend(): void {
    this.damaged.clear();
  }

  // Slabs -----------------------------------------------------------------------------------------

  private slabsAbove(since: Stamp, from: number): SlabStamp[] {
    const numbers = Array.from(this.stamps.keys()).sort((a, b) => a - b);
    const found: SlabStamp[] = [];
    for (const number of numbers) {
      const stamp = this.stamps.get(number) as Stamp;
      if (number >= from && compareStamps(stamp, since) > 0) {
        found.push({ extentIndex: Math.floor(number / 4096), slab: number % 4096, ...stamp });
      }
    }
    return found;
  }

  listSlabs(session: NodeSession, since: Stamp, cursor: number): SlabPage | null {
    if (!this.isCurrent(session)) return null;
    const slabs = this.slabsAbove(since, cursor);
    if (slabs.length <= PAGE_SLABS) return { slabs, cursor: null };
    const page = slabs.slice(0, PAGE_SLABS);
    const next = slabs[PAGE_SLABS];
    return { slabs: page, cursor: next.extentIndex * 4096 + next.slab };
  }

  readSlab(session: NodeSession, slab: number): SlabContent | "damaged" | null {
    if (!this.isCurrent(session)) return null;
    const blocks: (Uint8Array | null)[] = [];
    for (let at = 0; at < SLAB_BLOCKS; at++) {
      if (this.damaged.has(slab * SLAB_BLOCKS + at)) return "damaged";
      blocks.push(this.blocks.get(slab * SLAB_BLOCKS + at) ?? null);
    }
    return { stamp: this.stamps.get(slab) ?? ZERO, blocks };
  }

  writeSlab(
    session: NodeSession,
    slab: number,
    content: SlabContent,
    answer: (isDone: boolean) => void,
  ): void {
    if (!this.isCurrent(session)) {
      answer(false);
      return;
    }
    const apply = (): void => {
      for (const [at, block] of content.blocks.entries()) this.put(slab * SLAB_BLOCKS + at, block);
      this.stamps.set(slab, content.stamp);
    };
    this.enqueue(apply, () => answer(true));
  }

  // For the checks --------------------------------------------------------------------------------

  /** A block in which the two differ; -1 when they are equal. */
  firstDifference(other: SimNode, ignored: ReadonlySet<number> = new Set()): number {
    const blocks = new Set([...this.blocks.keys(), ...other.blocks.keys()]);
    for (const block of blocks) {
      if (ignored.has(block) || this.blocks.get(block) === other.blocks.get(block)) continue;
      const mine = Buffer.from(this.blocks.get(block) ?? new Uint8Array(BLOCK_BYTES));
      const theirs = other.blocks.get(block) ?? new Uint8Array(BLOCK_BYTES);
      if (!mine.equals(theirs)) return block;
    }
    return -1;
  }
}
