// The rows of the cluster's benchmark: what is done to a volume with two copies on three daemons,
// what it is compared with in the same run, and which bars stand for it.

import type { LoadOptions } from "../load/index.ts";
import type { BenchPlace } from "./place.ts";

export interface ClusterBar {
  /** "difference": of the means, in microseconds; "ratio": ours / theirs; "value": ours alone. */
  readonly kind: "difference" | "ratio" | "value";
  readonly figure: "rate" | "mean" | "cpu";
  readonly sense: "least" | "most";
  readonly limit: number;
}

/**
 * - "two writers": the slower of two plain processes that do the same at the same time, each on its
 *   own pre-written file of that disk, O_DIRECT and durable;
 * - "one writer": one of them alone;
 * - "store": a volume of an unreplicated store, through Boost as well;
 * - "nothing": the bars are figures of their own.
 */
export type Against = "two writers" | "one writer" | "store" | "nothing";

export interface ClusterRow {
  readonly name: string;
  readonly place: BenchPlace;
  readonly work: Partial<LoadOptions> & { readonly blockBytes: number; readonly depth: number };
  readonly op: "read" | "write";
  /** Bytes in all; null = as long as a slice lasts. */
  readonly totalBytes: number | null;
  readonly against: Against;
  readonly bars: readonly ClusterBar[];
  readonly pairsMax?: number;
}

const BLOCK = 4096;
const LARGE = 262144;

function random(op: "read" | "write", depth: number): ClusterRow["work"] {
  return { blockBytes: BLOCK, depth, readPercent: op === "read" ? 100 : 0, pattern: "random" };
}

export function clusterRows(ringBytes: number): readonly ClusterRow[] {
  const write = { op: "write", totalBytes: null } as const;
  const read = { op: "read", totalBytes: null } as const;
  return [
    {
      ...write,
      name: "4 KiB random write, depth 1",
      place: "disk",
      work: random("write", 1),
      against: "two writers",
      bars: [{ kind: "difference", figure: "mean", sense: "most", limit: 60 }],
    },
    {
      ...write,
      name: "4 KiB random write, depth 32, disks on tmpfs",
      place: "tmpfs",
      work: random("write", 32),
      against: "nothing",
      bars: [
        { kind: "value", figure: "rate", sense: "least", limit: 60_000 },
        { kind: "value", figure: "cpu", sense: "most", limit: 20 },
      ],
    },
    {
      ...write,
      name: "4 KiB random write, depth 32, within the ring",
      place: "disk",
      work: random("write", 32),
      // Below the share of the ring at which writers have to wait.
      totalBytes: ringBytes * 0.5,
      against: "one writer",
      bars: [{ kind: "ratio", figure: "rate", sense: "least", limit: 1.5 }],
    },
    {
      ...write,
      name: "4 KiB random write, depth 32, ten times the ring",
      place: "disk",
      work: random("write", 32),
      totalBytes: ringBytes * 10,
      against: "one writer",
      bars: [{ kind: "ratio", figure: "rate", sense: "least", limit: 0.45 }],
      pairsMax: 3,
    },
    {
      ...read,
      name: "4 KiB random read, depth 1",
      place: "disk",
      work: random("read", 1),
      against: "store",
      bars: [{ kind: "ratio", figure: "mean", sense: "most", limit: 1.15 }],
    },
    {
      ...read,
      name: "4 KiB random read, depth 32",
      place: "disk",
      work: random("read", 32),
      against: "store",
      bars: [{ kind: "ratio", figure: "rate", sense: "least", limit: 1 / 1.15 }],
    },
    {
      ...write,
      name: "256 KiB sequential write, depth 8",
      place: "disk",
      work: { blockBytes: LARGE, depth: 8, readPercent: 0, pattern: "sequential" },
      against: "two writers",
      bars: [{ kind: "ratio", figure: "rate", sense: "least", limit: 0.8 }],
    },
  ];
}

/** What both sides are measured by. */
export interface Figures {
  readonly perSecond: number;
  readonly meanUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  /** Of all processes that serve it, per request. */
  readonly cpuUs: number;
}

export interface ClusterPair {
  readonly ours: Figures;
  readonly theirs: Figures | null;
}

function figureOf(bar: ClusterBar, figures: Figures): number {
  if (bar.figure === "rate") return figures.perSecond;
  return bar.figure === "mean" ? figures.meanUs : figures.cpuUs;
}

export function outcomeOf(bar: ClusterBar, pair: ClusterPair): number {
  const ours = figureOf(bar, pair.ours);
  if (bar.kind === "value" || pair.theirs === null) return ours;
  const theirs = figureOf(bar, pair.theirs);
  return bar.kind === "ratio" ? ours / theirs : ours - theirs;
}

export function isMet(bar: ClusterBar, outcome: number): boolean {
  return bar.sense === "least" ? outcome >= bar.limit : outcome <= bar.limit;
}
