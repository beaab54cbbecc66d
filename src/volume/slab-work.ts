// Slabs read from one member and written to another: what equalising, resync and repair have in
// common. A slab is named by its number in the volume.

import type { Replica, ReplicaFailure, SlabImage, Stamp } from "../ports/index.ts";

export const SLABS_PER_EXTENT = 4096;

export const slabNumber = (at: { readonly extentIndex: number; readonly slab: number }): number =>
  at.extentIndex * SLABS_PER_EXTENT + at.slab;

export interface SlabPlace {
  readonly extentIndex: number;
  readonly slab: number;
}

export const placeOf = (number: number): SlabPlace => ({
  extentIndex: Math.floor(number / SLABS_PER_EXTENT),
  slab: number % SLABS_PER_EXTENT,
});

export function isNewer(a: Stamp | SlabImage, b: Stamp | SlabImage): boolean {
  return a.epoch !== b.epoch ? a.epoch > b.epoch : a.sequence > b.sequence;
}

export type SlabRead =
  | { readonly image: SlabImage; readonly source: number }
  | { readonly failures: readonly ReplicaFailure[] };

/** Reads a slab from the first of `sources` that has it whole. */
export function readFromAny(
  sources: readonly Replica[],
  number: number,
  address: number,
  done: (read: SlabRead) => void,
): void {
  const failures: ReplicaFailure[] = [];
  const attempt = (at: number): void => {
    if (at === sources.length) {
      done({ failures });
      return;
    }
    sources[at].readSlab(placeOf(number), address, (image) => {
      if ("code" in image) {
        failures.push(image);
        attempt(at + 1);
      } else {
        done({ image, source: at });
      }
    });
  };
  attempt(0);
}
