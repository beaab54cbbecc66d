// Where slabs stamped above a given stamp can be, without reading every page: the pointers of the
// page tree say in which checkpoint a page was last written, and for each replica this remembers
// pairs (generation, stamp): at that moment the newest stamp applied was `stamp`, and every page on
// the disk was of `generation` or older. Whatever is stamped above it was applied later, so it is
// in a page of a higher generation, in one that is in memory, or in recovered records.
//
// A pair is taken when a checkpoint begins. Two survive a restart in the volume's own entry: (the
// generation of its page less one, its newest stamp), and (base generation, committed stamp), which
// keeps a fence after a crash from reading more than the last checkpoints changed.
//
// Invariant: a pair stays true for ever; too few pairs cost reading, never a slab.

import type { Geometry } from "./geometry.ts";
import { VOLUMES_PER_PAGE } from "./layouts.ts";
import { generationOf, type PageTree } from "./page-tree.ts";
import { isNewer } from "./stamps.ts";
import type { VolumeTable } from "./tables.ts";

interface Pair {
  readonly generation: number;
  readonly low: number;
  readonly high: number;
}

/** Of one volume, in order; beyond it every second of the older half is dropped. */
const PAIRS_MAX = 32;

export class StampHistory {
  private readonly volumes: VolumeTable;
  private readonly pairs: Map<number, Pair[]> = new Map();

  constructor(volumes: VolumeTable) {
    this.volumes = volumes;
  }

  /** After the volumes' pages were read, before anything is replayed. */
  load(tree: PageTree, geometry: Geometry): void {
    for (let volume = 0; volume < geometry.volumeCount; volume++) {
      if (!this.volumes.isReplica(volume)) continue;
      const generation = generationOf(tree.leaf[Math.floor(volume / VOLUMES_PER_PAGE)] as number);
      this.add(volume, this.committedPair(volume));
      this.add(volume, this.newestPair(volume, Math.max(generation - 1, 0)));
    }
  }

  private committedPair(volume: number): Pair {
    const { volumes } = this;
    const generation = volumes.baseGeneration(volume);
    return { generation, low: volumes.committedLow(volume), high: volumes.committedHigh(volume) };
  }

  private newestPair(volume: number, generation: number): Pair {
    const { volumes } = this;
    return { generation, low: volumes.newestLow(volume), high: volumes.newestHigh(volume) };
  }

  private add(volume: number, pair: Pair): void {
    let list = this.pairs.get(volume);
    if (list === undefined) this.pairs.set(volume, (list = []));
    const last = list.at(-1);
    if (last !== undefined && last.low === pair.low && last.high === pair.high) list.pop();
    list.push(pair);
    if (list.length <= PAIRS_MAX) return;
    this.pairs.set(
      volume,
      list.filter((_, index) => index >= PAIRS_MAX / 2 || index % 2 === 0),
    );
  }

  /** Before a checkpoint copies its first page; the last one was of `generation`. */
  checkpointBegins(generation: number): void {
    const { volumes } = this;
    for (let volume = 0; volume < volumes.capacity; volume++) {
      if (!volumes.isReplica(volume)) continue;
      this.add(volume, this.newestPair(volume, generation));
      const low = volumes.committedLow(volume);
      const base = this.generationFor(volume, low, volumes.committedHigh(volume));
      if (base > volumes.baseGeneration(volume)) volumes.setBaseGeneration(volume, base);
    }
  }

  /** Slabs stamped above this are in no page of the disk of this generation or an older one. */
  generationFor(volume: number, low: number, high: number): number {
    let generation = 0;
    for (const pair of this.pairs.get(volume) ?? []) {
      if (!isNewer(pair.low, pair.high, low, high))
        generation = Math.max(generation, pair.generation);
    }
    return generation;
  }
}
