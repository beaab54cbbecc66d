// The work that Boost is compared on, row by row, with the bar each row must reach. Ratios are
// ours / qemu-storage-daemon's, pair by pair within one run.

import { GIB, KIB } from "../base/index.ts";
import type { LoadOptions } from "../load/index.ts";
import type { PairBar } from "./pair-report.ts";

export type Backing = "null" | "tmpfs" | "disk";

export interface Row {
  readonly name: string;
  readonly backing: Backing;
  readonly work: Omit<LoadOptions, "socketPath">;
  readonly bars: readonly PairBar[];
  /** Poll window of our daemon in microseconds; 0 = event-driven. */
  readonly pollUs: number;
}

export const FILE_BYTES: number = GIB;

const least = (metric: PairBar["metric"], ratio: number): PairBar => ({
  metric,
  kind: "least",
  ratio,
});
const most = (metric: PairBar["metric"], ratio: number): PairBar => ({
  metric,
  kind: "most",
  ratio,
});

const read = (depth: number): Row["work"] => ({ blockBytes: 4 * KIB, depth, readPercent: 100 });
const write = (depth: number): Row["work"] => ({ blockBytes: 4 * KIB, depth, readPercent: 0 });
const stream = (readPercent: number): Row["work"] => ({
  blockBytes: 256 * KIB,
  depth: 8,
  readPercent,
  pattern: "sequential",
});

/** The daemon's default window: what users get. */
const POLL_US = 50;
const DEPTH_32 = [least("iops", 2), most("cpu", 0.5)];
const DISK = [least("iops", 0.95), most("meanLatency", 1.1), most("cpu", 0.8)];

export const ROWS: readonly Row[] = [
  {
    name: "null, depth 32, read",
    backing: "null",
    work: read(32),
    bars: [least("iops", 1), most("cpu", 1.25)],
    pollUs: POLL_US,
  },
  {
    name: "null, depth 1, read",
    backing: "null",
    work: read(1),
    bars: [most("meanLatency", 0.3), most("p99Latency", 1.1)],
    pollUs: POLL_US,
  },
  {
    name: "null, depth 1, read, our polling off",
    backing: "null",
    work: read(1),
    bars: [most("meanLatency", 1.1), most("p99Latency", 1.1)],
    pollUs: 0,
  },
  {
    name: "tmpfs, depth 32, read",
    backing: "tmpfs",
    work: read(32),
    bars: DEPTH_32,
    pollUs: POLL_US,
  },
  {
    name: "tmpfs, depth 32, write",
    backing: "tmpfs",
    work: write(32),
    bars: DEPTH_32,
    pollUs: POLL_US,
  },
  {
    name: "tmpfs, depth 1, read",
    backing: "tmpfs",
    work: read(1),
    bars: [most("meanLatency", 1.1)],
    pollUs: POLL_US,
  },
  {
    name: "tmpfs, depth 1, write",
    backing: "tmpfs",
    work: write(1),
    bars: [most("meanLatency", 1.1)],
    pollUs: POLL_US,
  },
  { name: "disk, depth 1, read", backing: "disk", work: read(1), bars: DISK, pollUs: POLL_US },
  { name: "disk, depth 1, write", backing: "disk", work: write(1), bars: DISK, pollUs: POLL_US },
  { name: "disk, depth 32, read", backing: "disk", work: read(32), bars: DISK, pollUs: POLL_US },
  { name: "disk, depth 32, write", backing: "disk", work: write(32), bars: DISK, pollUs: POLL_US },
  {
    name: "tmpfs, 256 KiB sequential read, depth 8",
    backing: "tmpfs",
    work: stream(100),
    bars: [least("bandwidth", 1.2)],
    pollUs: POLL_US,
  },
  {
    name: "tmpfs, 256 KiB sequential write, depth 8",
    backing: "tmpfs",
    work: stream(0),
    bars: [least("bandwidth", 1.2)],
    pollUs: POLL_US,
  },
  {
    name: "disk, 256 KiB sequential read, depth 8",
    backing: "disk",
    work: stream(100),
    bars: [least("bandwidth", 0.95)],
    pollUs: POLL_US,
  },
  {
    name: "disk, 256 KiB sequential write, depth 8",
    backing: "disk",
    work: stream(0),
    bars: [least("bandwidth", 0.95)],
    pollUs: POLL_US,
  },
];

/** Our own: four queues must not lose to one on the same CPUs. Ratio = 4 queues / 1 queue. */
export const QUEUE_ROWS: readonly { readonly name: string; readonly backing: Backing }[] = [
  { name: "null, 4 queues of depth 32 against 1", backing: "null" },
  { name: "tmpfs, 4 queues of depth 32 against 1", backing: "tmpfs" },
];
