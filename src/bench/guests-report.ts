// The comparison inside a guest as Markdown: medians of what fio says in the guest and of the
// back-end's CPU per I/O, and the median of the ratios pair by pair. No bars: under emulation the
// guest's own CPU is most of each I/O.

import { KIB } from "../base/index.ts";
import type { FioResult } from "../daemon/show/fio.ts";
import type { RunFacts } from "./boost-report.ts";
import { machineText } from "./machine.ts";
import { figure, median } from "./pair-report.ts";

export interface GuestJob {
  readonly name: string;
  readonly backing: "null" | "disk";
  /** fio's options. */
  readonly options: string;
  readonly blockBytes: number;
}

/** One run of a job over one back-end. */
export interface GuestRun {
  readonly fio: FioResult;
  /** CPU time the back-end used meanwhile. */
  readonly backendCpuUs: number;
}

export interface GuestResult {
  readonly job: GuestJob;
  readonly pairs: readonly { readonly ours: GuestRun; readonly theirs: GuestRun }[];
}

const small = (rw: string, depth: number): string => `--rw=${rw} --bs=4k --iodepth=${depth}`;

function jobsOn(backing: GuestJob["backing"]): GuestJob[] {
  const job = (name: string, options: string, blockBytes: number): GuestJob => {
    return { name: `${backing}, ${name}`, backing, options, blockBytes };
  };
  return [
    job("4 KiB random read, depth 1", small("randread", 1), 4 * KIB),
    job("4 KiB random write, depth 1", small("randwrite", 1), 4 * KIB),
    job("4 KiB random read, depth 32", small("randread", 32), 4 * KIB),
    job("4 KiB random write, depth 32", small("randwrite", 32), 4 * KIB),
    job("256 KiB sequential read, depth 8", "--rw=read --bs=256k --iodepth=8", 256 * KIB),
    job("256 KiB sequential write, depth 8", "--rw=write --bs=256k --iodepth=8", 256 * KIB),
  ];
}

export const GUEST_JOBS: readonly GuestJob[] = [...jobsOn("null"), ...jobsOn("disk")];

export function cpuUsPerIo({ fio, backendCpuUs }: GuestRun, blockBytes: number): number {
  return (backendCpuUs * blockBytes) / fio.bytes;
}

function rowText({ job, pairs }: GuestResult): string {
  const values: readonly ((run: GuestRun) => number)[] = [
    ({ fio }) => fio.iops,
    ({ fio }) => fio.meanUs,
    ({ fio }) => fio.p99Us,
    (run) => cpuUsPerIo(run, job.blockBytes),
  ];
  const side = (runs: readonly GuestRun[]): string[] =>
    values.map((value) => figure(median(runs.map(value))));
  const ratios = values.map((value) =>
    median(pairs.map(({ ours, theirs }) => value(ours) / value(theirs))).toFixed(2),
  );
  const ours = side(pairs.map((pair) => pair.ours));
  const theirs = side(pairs.map((pair) => pair.theirs));
  return `| ${[job.name, ...ours, ...theirs, ...ratios].join(" | ")} |`;
}

export function renderGuests(
  results: readonly GuestResult[],
  run: RunFacts & { readonly seconds: number; readonly guest: string },
): string {
  const heads = (name: string): string =>
    ["IOPS", "mean", "p99", "CPU"].map((head) => `${name} ${head}`).join(" | ");
  return [
    "# Boost inside a guest",
    "",
    `Measured by \`npm run bench:boost -- --guests\` on: ${machineText(run.machine)}`,
    run.load,
    "",
    `${run.guest} Its disks are four: for nothing ("null") and for a file on the machine's disk`,
    "with O_DIRECT one of Ringstore's and one of qemu-storage-daemon's, each with one queue. fio",
    `runs on one after the other, ${run.pairCount} pairs of ${run.seconds} s per row, in turns.`,
    "Figures are medians; ratios (Ringstore / qemu-storage-daemon, the last four columns)",
    "are medians of the ratios pair by pair. Latency is fio's, in the guest; CPU is the back-end",
    "process's own per I/O, polling included; both in microseconds. There is no bar: an emulated",
    "guest spends most of each I/O on itself.",
    "",
    `| work in the guest | ${heads("Ringstore")} | ${heads("peer")} | ${heads("ratio")} |`,
    `|${" --- |".repeat(13)}`,
    ...results.map(rowText),
    "",
  ].join("\n");
}
