// @hot
// What the next request is: kind, place and size, from one seed. pick() sets the fields below and
// returns false when there is nothing (left) to do. The device is divided into aligned places;
// `random` draws one evenly, `zipf` draws few of them often, `sequential` goes through in order.

import { assert, SECTOR_BYTES } from "../base/index.ts";
import {
  BLK_T_DISCARD,
  BLK_T_FLUSH,
  BLK_T_IN,
  BLK_T_OUT,
  BLK_T_WRITE_ZEROES,
} from "../virtio/index.ts";
import { DRAW_LIMIT, Draw } from "./draw.ts";
import type { ResolvedOptions } from "./options.ts";

export const KIND_READ = 0;
export const KIND_WRITE = 1;
export const KIND_FLUSH = 2;
export const KIND_DISCARD = 3;
export const KIND_WRITE_ZEROES = 4;
export const KIND_COUNT = 5;
export const KIND_NAMES = ["read", "write", "flush", "discard", "writeZeroes"] as const;

/** virtio-blk request type of each kind. */
export const TYPE_OF_KIND: Uint32Array = Uint32Array.of(
  BLK_T_IN,
  BLK_T_OUT,
  BLK_T_FLUSH,
  BLK_T_DISCARD,
  BLK_T_WRITE_ZEROES,
);

/** What a phase of a run does. */
export const MODE_MIX = 0;
export const MODE_FILL = 1;
export const MODE_READ_BACK = 2;

const PATTERN_RANDOM = 0;
const PATTERN_SEQUENTIAL = 1;
const PATTERN_ZIPF = 2;

export class Workload {
  /** The request that pick() chose. */
  kind: number = KIND_READ;
  offsetBytes = 0;
  lengthBytes = 0;
  private mode: number = MODE_MIX;
  private readonly pattern: number;
  private readonly draw: Draw;
  private readonly areaBytes: number;
  private readonly alignBytes: number;
  private readonly blockBytes: number;
  private readonly blockBytesMax: number;
  private readonly placeCount: number;
  // Shares are parts of DRAW_LIMIT.
  private readonly readShare: number;
  private readonly discardShare: number;
  private readonly rangeShare: number;
  private readonly flushEvery: number;
  private writesSinceFlush = 0;
  private cursorBytes = 0;
  private sweepBytes = 0;
  // Zipf after Gray et al., "Quickly generating billion-record synthetic databases".
  private readonly theta: number;
  private readonly alpha: number;
  private readonly zetaN: number;
  private readonly eta: number;

  /** `maxRangeBytes`: limit of discards and write-zeroes. */
  constructor(options: ResolvedOptions, areaBytes: number) {
    assert(areaBytes >= options.blockBytesMax, "the area holds no request");
    this.draw = new Draw(options.seed);
    this.areaBytes = areaBytes;
    this.alignBytes = options.alignBytes;
    this.blockBytes = options.blockBytes;
    this.blockBytesMax = options.blockBytesMax;
    this.placeCount = Math.floor((areaBytes - options.blockBytesMax) / options.alignBytes) + 1;
    assert(this.placeCount <= DRAW_LIMIT, "more places than the generator can draw");
    this.pattern =
      options.pattern === "random"
        ? PATTERN_RANDOM
        : options.pattern === "zipf"
          ? PATTERN_ZIPF
          : PATTERN_SEQUENTIAL;
    this.readShare = shareOf(options.readPercent);
    this.discardShare = shareOf(options.discardPercent);
    this.rangeShare = shareOf(options.discardPercent + options.writeZeroesPercent);
    this.flushEvery = options.flushEvery;
    this.theta = options.zipfTheta;
    this.alpha = 1 / (1 - this.theta);
    const zeta2 = 1 + 0.5 ** this.theta;
    this.zetaN = zeta(this.placeCount, this.theta);
    this.eta = (1 - (2 / this.placeCount) ** (1 - this.theta)) / (1 - zeta2 / this.zetaN);
  }

  setMode(mode: number): void {
    this.mode = mode;
    this.sweepBytes = 0;
  }

  /** Chooses the next request; false when a sweep (fill, read back) has covered the area. */
  pick(): boolean {
    if (this.mode !== MODE_MIX) return this.sweep();
    this.lengthBytes = this.blockBytes;
    if (this.flushEvery > 0 && this.writesSinceFlush >= this.flushEvery) {
      this.writesSinceFlush = 0;
      this.kind = KIND_FLUSH;
      this.offsetBytes = 0;
      this.lengthBytes = 0;
      return true;
    }
    if (this.blockBytesMax !== this.blockBytes) {
      const steps = (this.blockBytesMax - this.blockBytes) / this.alignBytes;
      this.lengthBytes += this.draw.below(Math.floor(steps) + 1) * this.alignBytes;
    }
    this.kind = KIND_READ;
    if (this.rangeShare > 0 || this.readShare < DRAW_LIMIT) this.pickKind();
    this.pickPlace();
    return true;
  }

  private pickKind(): void {
    if (this.rangeShare > 0) {
      const draw = this.draw.draw();
      if (draw < this.rangeShare) {
        this.kind = draw < this.discardShare ? KIND_DISCARD : KIND_WRITE_ZEROES;
        return;
      }
    }
    if (this.readShare < DRAW_LIMIT && !this.draw.chance(this.readShare)) {
      this.kind = KIND_WRITE;
      this.writesSinceFlush += 1;
    }
  }

  private pickPlace(): void {
    if (this.pattern === PATTERN_SEQUENTIAL) {
      if (this.cursorBytes + this.lengthBytes > this.areaBytes) this.cursorBytes = 0;
      this.offsetBytes = this.cursorBytes;
      this.cursorBytes += Math.ceil(this.lengthBytes / this.alignBytes) * this.alignBytes;
    } else if (this.pattern === PATTERN_RANDOM) {
      this.offsetBytes = this.draw.below(this.placeCount) * this.alignBytes;
    } else {
      this.offsetBytes = this.zipfPlace() * this.alignBytes;
    }
  }

  private zipfPlace(): number {
    const u = this.draw.draw() / DRAW_LIMIT;
    const uz = u * this.zetaN;
    let rank = 0;
    if (uz >= 1) {
      rank =
        uz < 1 + 0.5 ** this.theta
          ? 1
          : Math.floor(this.placeCount * (this.eta * u - this.eta + 1) ** this.alpha);
    }
    // Ranks are scattered over the device: neighbours in popularity are not neighbours on disk.
    return (Math.imul(rank, 0x9e3779b1) >>> 0) % this.placeCount;
  }

  private sweep(): boolean {
    const left = this.areaBytes - this.sweepBytes;
    if (left < SECTOR_BYTES) return false;
    this.kind = this.mode === MODE_FILL ? KIND_WRITE : KIND_READ;
    this.offsetBytes = this.sweepBytes;
    this.lengthBytes = Math.min(this.blockBytesMax, left);
    this.sweepBytes += this.lengthBytes;
    return true;
  }
}

/** A percentage as a part of DRAW_LIMIT. */
function shareOf(percent: number): number {
  return Math.round((percent / 100) * DRAW_LIMIT);
}

/** Sum of k^-theta for k = 1..n: exact for the head, by integral for the tail. */
function zeta(n: number, theta: number): number {
  const exact = Math.min(n, 10000);
  let sum = 0;
  for (let k = 1; k <= exact; k++) sum += k ** -theta;
  if (n > exact) {
    sum += ((n + 0.5) ** (1 - theta) - (exact + 0.5) ** (1 - theta)) / (1 - theta);
  }
  return sum;
}
