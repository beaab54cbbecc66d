// The rows of the comparison of paths: what is done to one volume with two copies on three nodes,
// in a guest by fio and without one by the project's own generators, and what is measured of each.

import { KIB } from "../base/index.ts";
import type { BenchPlace } from "./place.ts";

/**
 * boost: vhost-user, the guest's rings are served by the daemon. classic: QEMU's initiator (without
 * a guest: ours) to the local portal. qsd: qemu-storage-daemon's vhost-user export of that URL.
 */
export const VM_PATHS = ["boost", "classic", "qsd"] as const;
export type VmPath = (typeof VM_PATHS)[number];

export interface VmRow {
  readonly name: string;
  readonly blockBytes: number;
  readonly depth: number;
  readonly readPercent: number;
  readonly pattern: "random" | "sequential";
}

function row(what: string, depth: number, readPercent: number): VmRow {
  const name = `4 KiB random ${what}, depth ${depth}`;
  return { name, blockBytes: 4 * KIB, depth, readPercent, pattern: "random" };
}

function large(what: string, readPercent: number): VmRow {
  const name = `256 KiB sequential ${what}, depth 8`;
  return { name, blockBytes: 256 * KIB, depth: 8, readPercent, pattern: "sequential" };
}

export const VM_ROWS: readonly VmRow[] = [
  ...[1, 32, 128].map((depth) => row("read", depth, 100)),
  ...[1, 32, 128].map((depth) => row("write", depth, 0)),
  ...[1, 32, 128].map((depth) => row("70 % read, 30 % write", depth, 70)),
  large("read", 100),
  large("write", 0),
];

/** fio's words for a row. */
export function fioWords({ blockBytes, depth, readPercent, pattern }: VmRow): string {
  const prefix = pattern === "random" ? "rand" : "";
  const kind = readPercent === 100 ? "read" : readPercent === 0 ? "write" : "rw";
  const mix = kind === "rw" ? ` --rwmixread=${readPercent}` : "";
  return `--rw=${prefix}${kind}${mix} --bs=${blockBytes / KIB}k --iodepth=${depth}`;
}

/** Of one run of a row over one path. Times in microseconds, CPU per I/O. */
export interface VmFigures {
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly meanUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  /** Of all daemons of the cluster, and of qemu-storage-daemon where it is in the way. */
  readonly storageCpuUs: number;
  /** Of QEMU, with the guest; without a guest of the generator. */
  readonly clientCpuUs: number;
}

/** Rounds of a row, in each round once over every path. */
export interface VmResult {
  readonly row: VmRow;
  readonly place: BenchPlace;
  readonly where: "guest" | "generator";
  readonly rounds: readonly Partial<Record<VmPath, VmFigures>>[];
}
