// volume top: rates and latencies per volume, from the difference of two readings of the daemon's
// counters.

import { ClientError } from "../../client/index.ts";
import type { Latency, StatsReply, VolumeIo } from "../../model/types.ts";
import { checkVolumeName } from "../../model/volume-rules.ts";
import type { CommandRun } from "../command-spec.ts";
import { formatCount, formatMicroseconds, formatRate } from "../format.ts";
import { type Column, type Result, render } from "../output.ts";

const COLUMNS: readonly Column[] = [
  { title: "NAME" },
  { title: "READ/S", right: true },
  { title: "READ", right: true },
  { title: "WRITE/S", right: true },
  { title: "WRITE", right: true },
  { title: "READ-LAT", right: true },
  { title: "WRITE-LAT", right: true },
  { title: "INFLIGHT", right: true },
  { title: "ERRORS", right: true },
  { title: "READ-P99", right: true, wide: true },
  { title: "WRITE-P99", right: true, wide: true },
  { title: "FLUSH/S", right: true, wide: true },
  { title: "DISCARD/S", right: true, wide: true },
  { title: "SESSIONS", right: true, wide: true },
];

interface Rates {
  readonly name: string;
  readonly readsPerSecond: number;
  readonly readBytesPerSecond: number;
  readonly writesPerSecond: number;
  readonly writeBytesPerSecond: number;
  readonly flushesPerSecond: number;
  readonly discardsPerSecond: number;
  readonly readMeanUs: number;
  readonly writeMeanUs: number;
  readonly readP99Us: number;
  readonly writeP99Us: number;
  readonly inflightCount: number;
  readonly errorCount: number;
  readonly sessionCount: number;
}

export const top: CommandRun = async (context, { arguments: [only], options }) => {
  if (only !== undefined) checkVolumeName(only);
  const intervalMs = Number(options["interval"] ?? 1) * 1000;
  const live = context.streams.isTerminal && context.global.form !== "json";
  const rounds = Number(options["count"] ?? (live ? Number.POSITIVE_INFINITY : 1));
  let before = await context.client.stats();
  requireAttached(before, only);
  for (let round = 1; ; round++) {
    await new Promise((resolve) => setTimeout(resolve, intervalMs));
    const now = await context.client.stats();
    const result = resultOf(ratesBetween(before, now, only));
    if (round >= rounds && round === 1) return result;
    const clear = live ? "\u001b[H\u001b[2J" : "";
    context.streams.out(clear + (await render(result, context.global)));
    if (round >= rounds) return null;
    before = now;
  }
};

function requireAttached(stats: StatsReply, only: string | undefined): void {
  if (only === undefined || stats.volumes.some((volume) => volume.name === only)) return;
  throw new ClientError("volume_unavailable", `volume ${only} is not attached`, {
    advice: `see: ringstore volume show ${only}`,
  });
}

function resultOf(rates: readonly Rates[]): Result {
  const rows = rates.map((rate) => [
    rate.name,
    formatCount(rate.readsPerSecond),
    formatRate(rate.readBytesPerSecond),
    formatCount(rate.writesPerSecond),
    formatRate(rate.writeBytesPerSecond),
    formatMicroseconds(rate.readMeanUs),
    formatMicroseconds(rate.writeMeanUs),
    String(rate.inflightCount),
    String(rate.errorCount),
    formatMicroseconds(rate.readP99Us),
    formatMicroseconds(rate.writeP99Us),
    formatCount(rate.flushesPerSecond),
    formatCount(rate.discardsPerSecond),
    String(rate.sessionCount),
  ]);
  return {
    data: { volumes: rates },
    shown: { columns: COLUMNS, rows },
    names: rates.map((rate) => rate.name),
  };
}

function ratesBetween(before: StatsReply, now: StatsReply, only: string | undefined): Rates[] {
  const seconds = Math.max((now.atMs - before.atMs) / 1000, 0.001);
  const earlier = new Map(before.volumes.map((volume) => [volume.name, volume]));
  return now.volumes
    .filter((volume) => only === undefined || volume.name === only)
    .map((volume) => ratesOf(earlier.get(volume.name), volume, seconds));
}

function ratesOf(before: VolumeIo | undefined, now: VolumeIo, seconds: number): Rates {
  type Counter = "readCount" | "readBytes" | "writeCount" | "writeBytes" | "flushCount";
  const delta = (field: Counter | "discardCount"): number =>
    // Attached anew between the readings: it counts from zero.
    Math.max(0, now[field] - (before?.[field] ?? 0));
  return {
    name: now.name,
    readsPerSecond: delta("readCount") / seconds,
    readBytesPerSecond: delta("readBytes") / seconds,
    writesPerSecond: delta("writeCount") / seconds,
    writeBytesPerSecond: delta("writeBytes") / seconds,
    flushesPerSecond: delta("flushCount") / seconds,
    discardsPerSecond: delta("discardCount") / seconds,
    readMeanUs: meanBetween(before?.readLatency, before?.readCount, now.readLatency, now.readCount),
    writeMeanUs: meanBetween(
      before?.writeLatency,
      before?.writeCount,
      now.writeLatency,
      now.writeCount,
    ),
    readP99Us: now.readLatency.p99Us,
    writeP99Us: now.writeLatency.p99Us,
    inflightCount: now.inflightCount,
    errorCount: now.errorCount,
    sessionCount: now.sessionCount,
  };
}

/** Mean over the interval from two cumulative means. */
function meanBetween(
  before: Latency | undefined,
  countBefore: number | undefined,
  now: Latency,
  countNow: number,
): number {
  const count = countNow - (countBefore ?? 0);
  if (count <= 0) return 0;
  const sum = now.meanUs * countNow - (before?.meanUs ?? 0) * (countBefore ?? 0);
  return Math.max(0, sum / count);
}
