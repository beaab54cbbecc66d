// The rows of the classic path against tgt: what is done to one file, over iSCSI, by the project's
// generator, and the bars.

import { KIB } from "../base/index.ts";
import type { IscsiLoadOptions } from "../load/index.ts";
import type { PairBar } from "./pair-report.ts";
import type { BenchPlace } from "./place.ts";

export interface ClassicRow {
  readonly name: string;
  readonly place: BenchPlace;
  readonly work: Omit<IscsiLoadOptions, "url"> & { readonly blockBytes: number };
  readonly bars: readonly PairBar[];
}

const IOPS: readonly PairBar[] = [{ metric: "iops", kind: "least", ratio: 1.2 }];
const BANDWIDTH: readonly PairBar[] = [{ metric: "bandwidth", kind: "least", ratio: 1.2 }];

const KINDS = [
  ["read", 100],
  ["write", 0],
  ["70 % read, 30 % write", 70],
] as const;

function rowsOf(place: BenchPlace): readonly ClassicRow[] {
  const random = (depth: number, bars: readonly PairBar[]): readonly ClassicRow[] =>
    KINDS.map(([what, readPercent]) => ({
      name: `${place}, 4 KiB random ${what}, depth ${depth}`,
      place,
      work: { blockBytes: 4 * KIB, depth, readPercent },
      bars,
    }));
  const large = KINDS.slice(0, 2).map(
    ([what, readPercent]): ClassicRow => ({
      name: `${place}, 256 KiB sequential ${what}, depth 8`,
      place,
      work: { blockBytes: 256 * KIB, depth: 8, readPercent, pattern: "sequential" },
      bars: BANDWIDTH,
    }),
  );
  return [...random(1, []), ...random(32, IOPS), ...large];
}

export const CLASSIC_ROWS: readonly ClassicRow[] = [...rowsOf("tmpfs"), ...rowsOf("disk")];
