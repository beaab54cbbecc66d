// What the rounds of the comparison of paths come to: medians of the figures of each path, and the
// median of the ratios round by round. A bar stands for each row (Boost against classic), and the
// claim that reads gain most is held against the figures.

import type { Machine } from "./machine.ts";
import { median } from "./pair-report.ts";
import { VM_PATHS, type VmFigures, type VmPath, type VmResult } from "./vm-rows.ts";

/** Rate of Boost against classic, by where the disks lie. */
const RATIO_BARS: Readonly<Record<VmResult["place"], number>> = { tmpfs: 1, disk: 0.95 };

export interface VmRun {
  readonly machine: Machine;
  readonly load: string;
  /** The guest in words; "" when none was booted. */
  readonly guest: string;
  readonly roundCount: number;
  readonly sliceMs: number;
  readonly results: readonly VmResult[];
  /** Paths that do not run here: why. */
  readonly missing: Partial<Record<VmPath, string>>;
}

export interface VmSummary {
  readonly result: VmResult;
  readonly figures: Partial<Record<VmPath, VmFigures>>;
  /** Boost / classic. */
  readonly ratios: VmFigures;
  readonly bar: number;
  readonly isMet: boolean;
}

const KEYS = [
  "iops",
  "bytesPerSecond",
  "meanUs",
  "p50Us",
  "p99Us",
  "p999Us",
  "storageCpuUs",
  "clientCpuUs",
] as const satisfies readonly (keyof VmFigures)[];

function combine(all: readonly VmFigures[]): VmFigures {
  const entries = KEYS.map((key) => [key, median(all.map((one) => one[key]))] as const);
  return Object.fromEntries(entries) as unknown as VmFigures;
}

export function summarize(result: VmResult): VmSummary {
  const figures: Partial<Record<VmPath, VmFigures>> = {};
  for (const path of VM_PATHS) {
    const all = result.rounds.flatMap((round) => round[path] ?? []);
    if (all.length > 0) figures[path] = combine(all);
  }
  const pairs = result.rounds.flatMap(({ boost, classic }) => {
    if (boost === undefined || classic === undefined) return [];
    const entries = KEYS.map((key) => [key, boost[key] / classic[key]] as const);
    return [Object.fromEntries(entries) as unknown as VmFigures];
  });
  const ratios = combine(pairs);
  const bar = RATIO_BARS[result.place];
  return { result, figures, ratios, bar, isMet: ratios.iops >= bar };
}

/** "reads gain most": the ratios of pure reads against those of the other rows. */
export function readsGainMost(summaries: readonly VmSummary[]): {
  readonly reads: number;
  readonly others: number;
  readonly isTrue: boolean;
} {
  const gain = (isRead: boolean): number =>
    median(
      summaries
        .filter(({ result }) => (result.row.readPercent === 100) === isRead)
        .map(({ ratios }) => ratios.iops),
    );
  const reads = gain(true);
  const others = gain(false);
  return { reads, others, isTrue: reads > others };
}

const PLACES: Readonly<Record<VmResult["place"], string>> = {
  tmpfs: "disks on tmpfs",
  disk: "disks on the machine's disk",
};

export interface VmSection {
  readonly title: string;
  readonly where: VmResult["where"];
  readonly summaries: readonly VmSummary[];
}

/** In the guest and without, by place. */
export function sections(run: VmRun): readonly VmSection[] {
  const found: VmSection[] = [];
  for (const where of ["guest", "generator"] as const) {
    for (const place of ["tmpfs", "disk"] as const) {
      const some = run.results.filter((one) => one.where === where && one.place === place);
      if (some.length === 0) continue;
      const name = where === "guest" ? "In the guest" : "Without a guest";
      const title = `${name}, ${PLACES[place]}`;
      found.push({ title, where, summaries: some.map(summarize) });
    }
  }
  return found;
}

/** What stands above the tables, a sentence or two each. */
export function describeRun(run: VmRun): readonly string[] {
  const guest = run.guest === "" ? "" : ` The guest: ${run.guest}; fio in it.`;
  return [
    `${run.load}${guest}`,
    "Three nodes on one machine, one volume of 4 KiB blocks with two copies, both durable before " +
      "a write is answered. The same volume is attached at its owner in one way after the other: " +
      "Boost (vhost-user-blk), classic (QEMU's own iSCSI initiator to the local portal, " +
      "virtio-blk in front), and through qemu-storage-daemon's vhost-user export of the iSCSI " +
      "URL. Without a guest the project's own generators of both protocols take its place, " +
      "event-driven.",
    `${run.roundCount} rounds, in each every row over every path for ${run.sliceMs} ms, their ` +
      "order turned round by round. Figures are medians, ratios (Boost / classic) medians of the " +
      "ratios round by round. Storage CPU is that of all three daemons (and of " +
      "qemu-storage-daemon) per I/O, client CPU QEMU's or the generator's; times in microseconds.",
    ...Object.entries(run.missing).map(([path, why]) => `Without ${path}: ${why}.`),
  ];
}
