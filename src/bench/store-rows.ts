// The rows of the store's benchmark: what is done, on what, and which bars stand for it.

import type { Measured, Work } from "../testing/store/real-rig.ts";

export interface Bar {
  /** What is compared with the raw file's figure, or taken as it is. */
  readonly figure: "rate" | "mean" | "cpu" | "amplification" | "stall";
  /** "ratio": store / raw; "value": the store's own. */
  readonly kind: "ratio" | "value";
  readonly sense: "least" | "most";
  readonly limit: number;
}

export interface StoreRow {
  readonly name: string;
  readonly work: Work;
  /** Of the raw file, when other than `work`: a long row is compared with a short one. */
  readonly rawWork?: Work;
  readonly bars: readonly Bar[];
  /** Pairs at most; long rows are run less often. */
  readonly pairsMax?: number;
}

const FOREVER = 1e9;

function work(op: "read" | "write", bytes: number, depth: number, rest: Partial<Work> = {}): Work {
  return { op, bytes, depth, sequential: false, countMax: FOREVER, timeMaxMs: 1000, ...rest };
}

const ratio = (figure: Bar["figure"], sense: Bar["sense"], limit: number): Bar => {
  return { figure, kind: "ratio", sense, limit };
};
const value = (figure: Bar["figure"], limit: number): Bar => {
  return { figure, kind: "value", sense: "most", limit };
};

/** Blocks of 4 KiB that fit into the ring. */
export function storeRows(ringBlocks: number, sliceMs: number): readonly StoreRow[] {
  const time = { timeMaxMs: sliceMs };
  const sequential = { ...time, sequential: true };
  // Below the share of the ring at which writers have to wait, drained before each slice.
  const burst = { countMax: Math.floor(ringBlocks * 0.6), timeMaxMs: 60_000 };
  const sustained = { countMax: ringBlocks * 10, timeMaxMs: 120_000 };
  return [
    {
      name: "4 KiB random overwrite, depth 1",
      work: work("write", 4096, 1, time),
      bars: [ratio("mean", "most", 1.25)],
    },
    {
      name: "4 KiB random overwrite, depth 32, within the ring",
      work: work("write", 4096, 32, burst),
      rawWork: work("write", 4096, 32, time),
      bars: [ratio("rate", "least", 1.5), value("cpu", 8)],
    },
    {
      name: "4 KiB random overwrite, depth 32, ten times the ring",
      work: work("write", 4096, 32, sustained),
      rawWork: work("write", 4096, 32, { timeMaxMs: sliceMs * 4 }),
      bars: [
        ratio("rate", "least", 0.85),
        value("amplification", 2.3),
        value("stall", 100_000),
        value("cpu", 8),
      ],
      pairsMax: 3,
    },
    {
      name: "4 KiB random read, depth 1",
      work: work("read", 4096, 1, time),
      bars: [ratio("mean", "most", 1.1)],
    },
    {
      name: "4 KiB random read, depth 32",
      work: work("read", 4096, 32, time),
      bars: [ratio("rate", "least", 0.9), value("cpu", 5)],
    },
    {
      name: "256 KiB sequential write, depth 8",
      work: work("write", 262144, 8, sequential),
      bars: [ratio("rate", "least", 0.9), value("amplification", 1.15)],
    },
    {
      name: "256 KiB sequential read, depth 8",
      work: work("read", 262144, 8, sequential),
      bars: [ratio("rate", "least", 0.9)],
    },
  ];
}

/** The figure that a bar is about. Stalls: the longest time a request took. */
export function figureOf(bar: Bar, measured: Measured): number {
  if (bar.figure === "rate") return measured.perSecond;
  if (bar.figure === "mean") return measured.meanUs;
  if (bar.figure === "cpu") return measured.cpuUs;
  return bar.figure === "stall" ? measured.p9999Us : measured.amplification;
}

export function isMet(bar: Bar, figure: number): boolean {
  return bar.sense === "least" ? figure >= bar.limit : figure <= bar.limit;
}
