// Repairs blocks that a member found damaged, slab by slab, from a member that has them whole. The
// slab is held meanwhile, so that what is written is what the volume holds. The replica writes
// a slab to a new place: nothing is overwritten.

import type { Arena, Replica } from "../ports/index.ts";
import { type Member, ROLE_COUNTED } from "./member.ts";
import { BLOCKS_PER_SLAB, NONE, SLAB_BYTES } from "./owner-workspace.ts";
import { placeOf, readFromAny } from "./slab-work.ts";
import type { TakeoverParts } from "./takeover.ts";

/** More are found again by the next read, or by the scrub. */
const WAITING_MAX = 64;
const RETRY_MS = 5;

interface Repair {
  readonly slab: number;
  readonly member: Member;
}

export class Repairs {
  private readonly parts: TakeoverParts;
  private readonly waiting: Repair[] = [];
  private current: Repair | null = null;
  private lock: number = NONE;
  private isWaiting = false;
  repairedCount = 0;

  constructor(parts: TakeoverParts) {
    this.parts = parts;
  }

  add(firstBlock: number, endBlock: number, member: Member): void {
    const first = Math.floor(firstBlock / BLOCKS_PER_SLAB);
    const end = Math.ceil(endBlock / BLOCKS_PER_SLAB);
    for (let slab = first; slab < end; slab++) {
      const isKnown = (one: Repair | null): boolean => one?.slab === slab && one.member === member;
      if (this.waiting.length === WAITING_MAX || this.waiting.some(isKnown)) continue;
      if (!isKnown(this.current)) this.waiting.push({ slab, member });
    }
    this.next();
  }

  private next(): void {
    if (this.current !== null || this.parts.io.isSurrendered) return;
    const repair = this.waiting[0];
    if (repair === undefined) return;
    const lock = this.parts.io.order.lockSlab(repair.slab);
    if (lock === NONE) {
      this.tryLater();
      return;
    }
    this.waiting.shift();
    this.current = repair;
    this.lock = lock;
    this.parts.io.order.run();
  }

  /** As many slabs are held as may be. */
  private tryLater(): void {
    if (this.isWaiting) return;
    this.isWaiting = true;
    const timerFired = (): void => {
      this.isWaiting = false;
      this.next();
    };
    this.parts.modules.reactor.setTimer(RETRY_MS, { timerFired }, 0);
  }

  lockGranted(entry: number): void {
    const repair = this.current;
    if (entry !== this.lock || repair === null) {
      // Of a resync that is over: nobody needs the slab any more.
      this.parts.io.order.end(entry);
      return;
    }
    const { memory } = this.parts.modules.reactor;
    const arena = memory.allocate(SLAB_BYTES);
    const { member, slab } = repair;
    const { replica } = member;
    const sources = this.parts.members
      .filter((one) => one !== member && one.role === ROLE_COUNTED && one.isReady)
      .map((one) => one.replica as Replica);
    readFromAny(sources, slab, arena.address, (read) => {
      if ("failures" in read || replica === null || member.replica !== replica) {
        this.end(arena, false);
        return;
      }
      replica.writeSlab(placeOf(slab), read.image, arena.address, (failure) => {
        this.end(arena, failure === null);
      });
    });
  }

  private end(arena: Arena, isRepaired: boolean): void {
    const { io, modules, options } = this.parts;
    const { member, slab } = this.current as Repair;
    modules.reactor.memory.free(arena);
    if (isRepaired) {
      this.repairedCount += 1;
      modules.changed?.();
    }
    modules.reactor.log.log(isRepaired ? "info" : "warn", "slab-repair", {
      volume: options.volume,
      disk: member.disk,
      slab,
      isRepaired,
    });
    this.current = null;
    const { lock } = this;
    this.lock = NONE;
    if (io.isSurrendered) return;
    io.order.end(lock);
    io.order.run();
    this.next();
  }
}
