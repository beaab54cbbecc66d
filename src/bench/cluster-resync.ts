// What a copy that comes back costs: its node is killed under load, absent for a time, started
// again; counted are the bytes that were written meanwhile, the bytes that the resync moves, and
// the clients' latency during it against that before the loss.
//
// Slices are short and follow each other without rest, so that none lies half within the resync.

import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../base/index.ts";
import { type LoadReport, runLoadInChild } from "../load/index.ts";
import type { NodeCluster } from "../testing/nodes/node-cluster.ts";
import { median } from "./pair-report.ts";

export interface ResyncFigures {
  readonly absenceMs: number;
  readonly volumeBytes: number;
  /** Of the slabs that were written during the absence. */
  readonly writtenBytes: number;
  readonly movedBytes: number;
  readonly resyncMs: number;
  readonly before: SliceFigures;
  readonly during: SliceFigures;
}

export interface SliceFigures {
  readonly sliceCount: number;
  readonly perSecond: number;
  readonly meanUs: number;
  readonly p99Us: number;
}

const SLICE_MS = 500;
const SLICES_BEFORE = 12;
const POLL_MS = 20;
const SLAB_BYTES = 65536;
const WORK = { blockBytes: 4096, depth: 8, readPercent: 70, pattern: "random" } as const;
/** Of the volume; what lies beyond has not changed, and is not to be moved. */
const AREA_SHARE = 0.5;

function figuresOf(reports: readonly LoadReport[]): SliceFigures {
  return {
    sliceCount: reports.length,
    perSecond: median(reports.map((report) => report.iops)),
    meanUs: median(reports.map((report) => report.latency.meanUs)),
    p99Us: median(reports.map((report) => report.latency.p99Us)),
  };
}

export class ResyncBench {
  private readonly cluster: NodeCluster;
  private readonly volume: string;
  private readonly owner: number;
  private readonly areaBytes: number;
  private seed = 1;

  constructor(cluster: NodeCluster, volume: string, owner: number, sizeBytes: number) {
    this.areaBytes = sizeBytes * AREA_SHARE;
    this.cluster = cluster;
    this.volume = volume;
    this.owner = owner;
  }

  async run(absenceMs: number): Promise<ResyncFigures> {
    const { cluster, volume, owner } = this;
    const before: LoadReport[] = [];
    for (let slice = 0; slice < SLICES_BEFORE; slice++) before.push(await this.slice());
    const holders = await cluster.holders(owner, volume);
    const victim = holders.find((index) => index !== owner) as number;
    await cluster.kill(victim);
    const beganMs = performance.now();
    let writeCount = 0;
    while (performance.now() - beganMs < absenceMs) {
      writeCount += (await this.slice()).kinds.write?.count ?? 0;
    }
    await cluster.restart(victim);
    const during: LoadReport[] = [];
    let isOver = false;
    await this.untilResyncing(victim);
    const ended = this.untilInSync(victim).finally(() => {
      isOver = true;
    });
    while (!isOver) during.push(await this.slice());
    const { movedBytes, resyncMs } = await ended;
    // The last slice outlives the resync.
    const whole = during.length > 1 ? during.slice(0, -1) : during;
    return {
      absenceMs,
      volumeBytes: this.areaBytes / AREA_SHARE,
      writtenBytes: touchedBytes(this.areaBytes, writeCount),
      movedBytes,
      resyncMs,
      before: figuresOf(before),
      during: figuresOf(whole),
    };
  }

  private slice(): Promise<LoadReport> {
    const { areaBytes } = this;
    const socketPath = this.cluster.link(this.volume);
    this.seed += 1;
    const length = { runtimeMs: SLICE_MS, warmupMs: 0 };
    return runLoadInChild({ ...WORK, ...length, areaBytes, socketPath, seed: this.seed });
  }

  private async stateOf(index: number): Promise<string> {
    const { copies } = (await this.cluster.volume(this.owner, this.volume)).backing;
    return copies.find(({ node }) => node === `node${index + 1}`)?.state ?? "gone";
  }

  private async untilResyncing(index: number): Promise<void> {
    while (!["resyncing", "in-sync"].includes(await this.stateOf(index))) await sleep(POLL_MS);
  }

  private async untilInSync(index: number): Promise<{ movedBytes: number; resyncMs: number }> {
    const beganMs = performance.now();
    let movedBytes = 0;
    while ((await this.stateOf(index)) !== "in-sync") {
      const { rebuilds } = await this.cluster.api(this.owner).listRebuilds();
      const mine = rebuilds.find(({ volume }) => volume === this.volume);
      if (mine !== undefined) movedBytes = Math.max(movedBytes, mine.doneBytes);
      await sleep(POLL_MS);
    }
    return { movedBytes, resyncMs: performance.now() - beganMs };
  }
}

/** Of random writes: the expected number of slabs that at least one has met. */
function touchedBytes(areaBytes: number, writeCount: number): number {
  const slabCount = areaBytes / SLAB_BYTES;
  return slabCount * (1 - (1 - 1 / slabCount) ** writeCount) * SLAB_BYTES;
}

export function renderResync(figures: ResyncFigures): readonly string[] {
  const { before, during } = figures;
  const mib = (bytes: number): string => (bytes / MIB).toFixed(0);
  const row = (name: string, one: SliceFigures): string =>
    `| ${name} | ${one.sliceCount} | ${one.perSecond.toFixed(0)} | ${one.meanUs.toFixed(0)} | ` +
    `${one.p99Us.toFixed(0)} |`;
  const factor = during.p99Us / before.p99Us;
  const verdict = factor <= 2 ? "met" : "**missed**";
  const seconds = (ms: number, digits: number): string => (ms / 1000).toFixed(digits);
  return [
    "## A copy that was away",
    "",
    `Its node was killed and away for ${seconds(figures.absenceMs, 0)} s, under 4 KiB random`,
    "requests at depth 8, 70 % of them reads. Slabs of about",
    `${mib(figures.writtenBytes)} MiB were written meanwhile; the resync moved`,
    `${mib(figures.movedBytes)} MiB of the volume's ${mib(figures.volumeBytes)}, in`,
    `${seconds(figures.resyncMs, 1)} s. What it cost the client:`,
    "",
    "| | slices | /s | mean | p99 |",
    "| --- | --- | --- | --- | --- |",
    row("before", before),
    row("during the resync", during),
    "",
    `p99 ${factor.toFixed(2)} times that before (≤ 2: ${verdict}).`,
  ];
}
