// What must hold of a replica, whatever happened: a ModelVolume for its content, and for each slab
// the stamps that it may have. An owner's writes are told when they start and when they end.
//
// A slab has the newest stamp of what was applied to it, so at least that of the newest write that
// was acknowledged, and always one of a write that was started; after a slab write exactly its
// stamp. Stamps are one number here: epoch * 2^44 + sequence.

import { ModelVolume } from "../sim/index.ts";

const EPOCH_UNIT = 17592186044416;
const SLAB_BLOCKS = 16;
const BLOCK = 4096;
const STATE_DATA = 1;

export function stampOf(epoch: number, sequence: number): number {
  return epoch * EPOCH_UNIT + sequence;
}

export function stampText(stamp: number): string {
  return `(${Math.floor(stamp / EPOCH_UNIT)}, ${stamp % EPOCH_UNIT})`;
}

interface SlabModel {
  /** At least this, and one of `possible`. */
  floor: number;
  possible: number[];
}

export interface ModelWrite {
  readonly id: number;
  readonly stamp: number;
  readonly firstBlock: number;
  readonly blockCount: number;
  readonly isZero: boolean;
}

export interface ModelSlab {
  readonly ids: readonly number[];
  readonly slab: number;
  readonly stamp: number;
  readonly data: Uint8Array;
}

export class ReplicaModel {
  readonly content: ModelVolume;
  isCreated = false;
  /** The highest epoch that somebody tried to fence with, and that was answered. */
  epochAsked = 0;
  epochAnswered = 0;
  /** The highest committed stamp that the replica was told. */
  committed = 0;
  private readonly slabs: Map<number, SlabModel> = new Map();
  /** Something was written: its extent is there, and zeroes leave stamps. */
  private hasExtent = false;

  constructor(content: ModelVolume = new ModelVolume()) {
    this.content = content;
  }

  fork(): ReplicaModel {
    const copy = new ReplicaModel(this.content.fork());
    copy.isCreated = this.isCreated;
    copy.epochAsked = this.epochAsked;
    copy.epochAnswered = this.epochAnswered;
    copy.committed = this.committed;
    copy.hasExtent = this.hasExtent;
    for (const [slab, { floor, possible }] of this.slabs) {
      copy.slabs.set(slab, { floor, possible: [...possible] });
    }
    return copy;
  }

  private slab(slab: number): SlabModel {
    let found = this.slabs.get(slab);
    if (found === undefined) this.slabs.set(slab, (found = { floor: 0, possible: [0] }));
    return found;
  }

  private touched({ firstBlock, blockCount }: ModelWrite): SlabModel[] {
    const first = Math.floor(firstBlock / SLAB_BLOCKS);
    const last = Math.floor((firstBlock + blockCount - 1) / SLAB_BLOCKS);
    return Array.from({ length: last - first + 1 }, (_, index) => this.slab(first + index));
  }

  startWrite(
    stamp: number,
    firstBlock: number,
    blockCount: number,
    isZero: boolean,
  ): { readonly write: ModelWrite; readonly data: Uint8Array | null } {
    const offset = firstBlock * BLOCK;
    const bytes = blockCount * BLOCK;
    const started = isZero
      ? { id: this.content.startWriteZeroes(offset, bytes), data: null }
      : this.content.startWrite(offset, bytes);
    const write = { id: started.id, stamp, firstBlock, blockCount, isZero };
    for (const slab of this.touched(write)) slab.possible.push(stamp);
    return { write, data: started.data };
  }

  endWrite(write: ModelWrite, result: number): void {
    this.content.endWrite(write.id, result);
    if (result !== 0) return;
    if (!write.isZero) this.hasExtent = true;
    if (!this.hasExtent) return;
    for (const slab of this.touched(write)) {
      slab.floor = Math.max(slab.floor, write.stamp);
      slab.possible = slab.possible.filter((stamp) => stamp >= slab.floor);
    }
  }

  /** A whole slab is to become what an image says; nothing else of it may be on its way. */
  startSlab(slab: number, stamp: number, states: number): ModelSlab {
    const data = new Uint8Array(SLAB_BLOCKS * BLOCK).fill(0xee);
    const ids: number[] = [];
    for (let block = 0; block < SLAB_BLOCKS; block++) {
      const offset = (slab * SLAB_BLOCKS + block) * BLOCK;
      if (((states >>> (block * 2)) & 3) === STATE_DATA) {
        const started = this.content.startWrite(offset, BLOCK);
        data.set(started.data, block * BLOCK);
        ids.push(started.id);
      } else {
        ids.push(this.content.startWriteZeroes(offset, BLOCK));
      }
    }
    const found = this.slab(slab);
    found.floor = Math.min(found.floor, stamp);
    found.possible.push(stamp);
    return { ids, slab, stamp, data };
  }

  endSlab({ ids, slab, stamp }: ModelSlab, result: number): void {
    for (const id of ids) this.content.endWrite(id, result);
    if (result !== 0) return;
    this.hasExtent = true;
    const found = this.slab(slab);
    found.floor = stamp;
    found.possible = [stamp];
  }

  crashed(): void {
    this.content.crashed();
  }

  /** Null, or what is wrong with a slab that has this stamp. */
  faultOfStamp(slab: number, stamp: number): string | null {
    const { floor, possible } = this.slab(slab);
    if (stamp < floor) return `slab ${slab} has stamp ${stampText(stamp)}, not ${stampText(floor)}`;
    if (possible.includes(stamp)) return null;
    return `slab ${slab} has stamp ${stampText(stamp)}, which no write to it had`;
  }
}
