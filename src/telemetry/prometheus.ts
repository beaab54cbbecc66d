// The Prometheus text of one daemon. prom-client formats; the values come from the caller's sample
// in collect(), because the counters themselves live in memory shared with the reactors.
//
// Names, kinds and help come from model/metrics.ts; a value for a name that is not there throws.

import { Counter, Gauge, Registry } from "prom-client";
import type { Disk } from "../model/disk-types.ts";
import { METRICS, type Metric } from "../model/metrics.ts";
import type { RebuildLimit } from "../model/rebuild-types.ts";
import type { StatusItem, Volume } from "../model/types.ts";
import type { PortalStats } from "../ports/classic-plane.ts";
import type { ReactorStats, VolumeStats } from "../ports/data-plane.ts";
import type { StoreDiskStats } from "../ports/store-disk.ts";
import { seriesOf } from "./prometheus-series.ts";

export interface ApiRequestCount {
  readonly method: string;
  /** The route's pattern, never what the caller typed. */
  readonly route: string;
  readonly status: number;
  readonly count: number;
}

/** Everything the text is made of, taken at one moment. */
export interface DaemonSample {
  readonly version: string;
  readonly startTimeSeconds: number;
  readonly residentBytes: number;
  readonly heapUsedBytes: number;
  readonly cpuUserSeconds: number;
  readonly cpuSystemSeconds: number;
  readonly openDescriptorCount: number;
  readonly space: { readonly totalBytes: number; readonly availableBytes: number };
  readonly volumes: readonly Volume[];
  readonly disks: readonly Disk[];
  readonly diskStats: readonly StoreDiskStats[];
  readonly volumeStats: readonly VolumeStats[];
  readonly reactorStats: readonly ReactorStats[];
  /** Of the classic path; empty before the first volume is attached so. */
  readonly portalStats: readonly PortalStats[];
  readonly items: readonly StatusItem[];
  readonly apiRequests: readonly ApiRequestCount[];
  /** null: in no cluster. */
  readonly rebuilds: RebuildSample | null;
}

export interface RebuildSample {
  readonly stages: readonly string[];
  readonly limit: RebuildLimit;
}

export type Labels = Readonly<Record<string, string | number>>;

export interface Series {
  readonly labels: Labels;
  readonly value: number;
}

export interface HistogramSeries {
  readonly labels: Labels;
  readonly count: number;
  readonly sum: number;
  /** Cumulative counts by upper bound, ascending. */
  readonly buckets: readonly (readonly [upperBound: number, count: number])[];
}

export interface SampleSeries {
  readonly plain: ReadonlyMap<string, readonly Series[]>;
  readonly histograms: ReadonlyMap<string, readonly HistogramSeries[]>;
}

export interface ExporterOptions {
  readonly volumeMetrics: boolean;
}

export class MetricsExporter {
  readonly #registry = new Registry();
  #current: SampleSeries = { plain: new Map(), histograms: new Map() };

  constructor(options: ExporterOptions) {
    for (const metric of METRICS) {
      if (!metric.perVolume || options.volumeMetrics) this.#register(metric);
    }
  }

  /** One text at a time: collect() runs before the first wait, so samples do not mix. */
  async text(sample: DaemonSample): Promise<string> {
    this.#current = seriesOf(sample);
    return await this.#registry.metrics();
  }

  #register(metric: Metric): void {
    const { name, help } = metric;
    const labelNames = [...metric.labels];
    const registers = [this.#registry];
    const seriesNow = (): readonly Series[] => this.#current.plain.get(name) ?? [];
    switch (metric.kind) {
      case "gauge":
        new Gauge({
          name,
          help,
          labelNames,
          registers,
          collect() {
            this.reset();
            for (const { labels, value } of seriesNow()) this.set({ ...labels }, value);
          },
        });
        break;
      case "counter":
        new Counter({
          name,
          help,
          labelNames,
          registers,
          collect() {
            this.reset();
            for (const { labels, value } of seriesNow()) this.inc({ ...labels }, value);
          },
        });
        break;
      case "histogram":
        // prom-client's Histogram only observes values one by one; ours are counted already. The
        // registry needs no more of a metric than its name and get().
        this.#registry.registerMetric({
          name,
          get: async () => ({
            name,
            help,
            type: "histogram",
            aggregator: "sum",
            values: (this.#current.histograms.get(name) ?? []).flatMap((series) =>
              histogramLines(name, series),
            ),
          }),
        } as never);
        break;
    }
  }
}

interface Line {
  readonly metricName: string;
  readonly labels: Labels;
  readonly value: number;
}

function histogramLines(name: string, series: HistogramSeries): Line[] {
  const { labels, count, sum } = series;
  const lines: Line[] = series.buckets.map(([upperBound, value]) => ({
    metricName: `${name}_bucket`,
    labels: { ...labels, le: upperBound },
    value,
  }));
  lines.push({ metricName: `${name}_bucket`, labels: { ...labels, le: "+Inf" }, value: count });
  lines.push({ metricName: `${name}_sum`, labels, value: sum });
  lines.push({ metricName: `${name}_count`, labels, value: count });
  return lines;
}
