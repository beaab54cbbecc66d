// Copies slabs to a member under resync, a few at a time: each is held, read from whoever has it,
// written, let go.
//
// Invariants: a slab is copied only while it is held; a lane's memory stays while slab I/O of it is
// on its way, also after stop(); what is on its way then is told to nobody.

import type { Arena, Replica } from "../ports/index.ts";
import { bugsOf } from "./owner-settings.ts";
import { NONE, SLAB_BYTES } from "./owner-workspace.ts";
import { placeOf, readFromAny } from "./slab-work.ts";
import type { TakeoverParts } from "./takeover.ts";

/** Enough to hide a round trip and a disk; few enough to leave the link to the guests. */
const LANES = 4;

interface Lane {
  readonly arena: Arena;
  isTaken: boolean;
  /** Slab I/O of it is on its way. */
  isCopying: boolean;
  lock: number;
  slab: number;
}

export interface CopierEnds {
  readonly target: Replica;
  /** The best first; asked anew for each slab. */
  readonly sources: () => readonly Replica[];
  /** The slab has been copied, or why it could not be. */
  readonly copied: (slab: number, problem: CopyProblem | null) => void;
}

export interface CopyProblem {
  readonly reason: string;
  /** Nobody who has the slab could be reached: ask again. */
  readonly mayPass: boolean;
}

export class SlabCopier {
  private readonly parts: TakeoverParts;
  private readonly ends: CopierEnds;
  private readonly lanes: Lane[] = [];
  private isStopped = false;

  constructor(parts: TakeoverParts, ends: CopierEnds) {
    this.parts = parts;
    this.ends = ends;
    const { memory } = parts.modules.reactor;
    for (let index = 0; index < LANES; index++) {
      const arena = memory.allocate(SLAB_BYTES);
      this.lanes.push({ arena, isTaken: false, isCopying: false, lock: NONE, slab: 0 });
    }
  }

  /** Nothing is under way, so nothing will be told. */
  get isIdle(): boolean {
    return this.lanes.every(({ isTaken }) => !isTaken);
  }

  /** False: all lanes are at work, it is too early by the rate, or no more slabs may be held. */
  take(slab: number): boolean {
    const { io, options, background } = this.parts;
    const lane = this.lanes.find(({ isTaken }) => !isTaken);
    if (lane === undefined || !io.order.canLock || !background.pace.take(SLAB_BYTES)) return false;
    lane.slab = slab;
    lane.isTaken = true;
    if (bugsOf(options).resyncWithoutLock) {
      this.copy(lane);
      return true;
    }
    lane.lock = io.order.lockSlab(slab);
    io.order.run();
    return true;
  }

  /** True when it was ours. */
  lockGranted(entry: number): boolean {
    const lane = this.lanes.find(({ lock }) => lock === entry);
    if (lane === undefined || entry === NONE) return false;
    this.copy(lane);
    return true;
  }

  private copy(lane: Lane): void {
    const { target, sources } = this.ends;
    const { address } = lane.arena;
    lane.isCopying = true;
    readFromAny(sources(), lane.slab, address, (read) => {
      if ("failures" in read) {
        const { failures } = read;
        const why = failures[0]?.message ?? "none can be reached";
        const mayPass = failures.every(({ code }) => code === "lost" || code === "limit");
        this.copied(lane, { reason: `no source has the slab whole: ${why}`, mayPass });
      } else if (this.isStopped) {
        this.copied(lane, { reason: "ended", mayPass: false });
      } else {
        target.writeSlab(placeOf(lane.slab), read.image, address, (failure) => {
          const problem = failure === null ? null : { reason: failure.code, mayPass: false };
          this.copied(lane, problem);
        });
      }
    });
  }

  private copied(lane: Lane, problem: CopyProblem | null): void {
    const { io, modules } = this.parts;
    const { lock, slab } = lane;
    lane.lock = NONE;
    lane.isTaken = false;
    lane.isCopying = false;
    if (this.isStopped) modules.reactor.memory.free(lane.arena);
    if (lock !== NONE && !io.isSurrendered) {
      io.order.end(lock);
      io.order.run();
    }
    if (!this.isStopped) this.ends.copied(slab, problem);
  }

  /** For good. A slab that is still waited for is let go by whoever is granted it. */
  stop(): void {
    if (this.isStopped) return;
    this.isStopped = true;
    for (const lane of this.lanes) {
      if (lane.isCopying) continue;
      lane.lock = NONE;
      this.parts.modules.reactor.memory.free(lane.arena);
    }
  }
}
