// The guest's short fio jobs, what is read from their terse output (fio(1), "Terse output"), and
// the table of it.

import { formatBytes, KIB } from "../../base/index.ts";

export interface FioResult {
  readonly name: string;
  /** Read or written altogether. */
  readonly bytes: number;
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly meanUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
}

export interface FioJob {
  readonly name: string;
  readonly command: string;
}

/** Direct I/O on `device` for `seconds`; its output is for parseFio(). */
export function fioCommand(device: string, seconds: number, options: string): string {
  return (
    `fio --name=j --filename=${device} --direct=1 --ioengine=libaio --size=256M --time_based ` +
    `--runtime=${seconds} --minimal --terse-version=3 --percentile_list=50:99:99.9 ${options}`
  );
}

export function fioJobs(device: string, seconds: number): readonly FioJob[] {
  const job = (name: string, options: string): FioJob => {
    return { name, command: fioCommand(device, seconds, options) };
  };
  return [
    job("4 KiB random write, depth 32", "--rw=randwrite --bs=4k --iodepth=32"),
    job("4 KiB random read, depth 32", "--rw=randread --bs=4k --iodepth=32"),
    job("4 KiB random read, depth 1", "--rw=randread --bs=4k --iodepth=1"),
    job("256 KiB sequential read, depth 8", "--rw=read --bs=256k --iodepth=8"),
  ];
}

/** First field of the read and of the write group in terse version 3, counted from 0. */
const READ_GROUP = 5;
const WRITE_GROUP = 46;
const GROUP_FIELDS = 41;
const TOTAL_KIB = 0;
const BANDWIDTH_KIB = 1;
const IOPS = 2;
const MEAN_US = 34;
const FIRST_PERCENTILE = 12;
const PERCENTILE_COUNT = 20;

/** Reads or writes of a job: numbers, and times by percentile. */
interface Group {
  readonly numbers: readonly number[];
  readonly percentilesUs: ReadonlyMap<number, number>;
}

function groupAt(fields: readonly string[], first: number): Group {
  const own = fields.slice(first, first + GROUP_FIELDS);
  const percentilesUs = new Map<number, number>();
  for (const field of own.slice(FIRST_PERCENTILE, FIRST_PERCENTILE + PERCENTILE_COUNT)) {
    const [name = "", us = ""] = field.split("%=");
    if (Number(name) > 0) percentilesUs.set(Number(name), Number(us));
  }
  return { numbers: own.map(Number), percentilesUs };
}

/**
 * Reads one line of `fio --minimal`. Of reads and writes together percentiles are those of the
 * slower kind. Throws when it is not one.
 */
export function parseFio(name: string, text: string): FioResult {
  const line = text.split("\n").find((candidate) => candidate.startsWith("3;fio")) ?? "";
  const fields = line.split(";");
  if (fields.length < WRITE_GROUP + MEAN_US + 1) throw new Error(`fio said: ${text.slice(0, 500)}`);
  const groups = [READ_GROUP, WRITE_GROUP]
    .map((first) => groupAt(fields, first))
    .filter(({ numbers }) => (numbers[TOTAL_KIB] ?? 0) > 0);
  const sum = (value: (group: Group) => number): number =>
    groups.reduce((total, group) => total + value(group), 0);
  const at =
    (index: number) =>
    (group: Group): number =>
      group.numbers[index] ?? Number.NaN;
  const iops = sum(at(IOPS));
  const percentile = (wanted: number): number =>
    groups.length === 0
      ? Number.NaN
      : Math.max(...groups.map((group) => group.percentilesUs.get(wanted) ?? Number.NaN));
  return {
    name,
    bytes: sum(at(TOTAL_KIB)) * KIB,
    iops,
    bytesPerSecond: sum(at(BANDWIDTH_KIB)) * KIB,
    meanUs: sum((group) => at(IOPS)(group) * at(MEAN_US)(group)) / iops,
    p50Us: percentile(50),
    p99Us: percentile(99),
    p999Us: percentile(99.9),
  };
}

const COLUMN_WIDTHS: readonly number[] = [34, 10, 14, 12, 12];

function row(cells: readonly string[]): string {
  const [name = "", ...figures] = cells;
  const padded = figures.map((cell, index) => cell.padStart(COLUMN_WIDTHS[index + 1] as number));
  return name.padEnd(COLUMN_WIDTHS[0] as number) + padded.join("");
}

/** `1234` -> `"1.2 ms"`. */
function formatUs(us: number): string {
  return us < 1000 ? `${us.toFixed(0)} us` : `${(us / 1000).toFixed(1)} ms`;
}

export function fioTable(results: readonly FioResult[]): string {
  const lines = results.map((result) =>
    row([
      result.name,
      result.iops.toFixed(0),
      `${formatBytes(Math.round(result.bytesPerSecond / KIB) * KIB)}/s`,
      formatUs(result.meanUs),
      formatUs(result.p99Us),
    ]),
  );
  return [row(["In the guest", "IOPS", "bandwidth", "mean", "p99"]), ...lines].join("\n");
}
