// What the clients of a node's cluster volumes see: the latency of their requests over a window, of
// all volumes together, from the histograms that the front ends write. For the pace of resyncs.
//
// Only volumes with requests in the window are looked at. The first look at a volume is a mark:
// what it counted before belongs to no window.

import { HistogramSnapshot, type VolumeMeter } from "../telemetry/index.ts";
import type { ClientSight, ClientWindow } from "../volume/index.ts";

interface Marked {
  readonly requestCount: number;
  readonly latency: HistogramSnapshot;
}

export class ReactorClients implements ClientSight {
  private readonly meters: () => Iterable<VolumeMeter>;
  private marked: Map<VolumeMeter, Marked> = new Map();

  constructor(meters: () => Iterable<VolumeMeter>) {
    this.meters = meters;
  }

  mark(): void {
    const marked = new Map<VolumeMeter, Marked>();
    for (const meter of this.meters()) {
      const requestCount = requestsOf(meter);
      const before = this.marked.get(meter);
      const isSame = before?.requestCount === requestCount;
      marked.set(meter, isSame ? before : { requestCount, latency: latencyOf(meter) });
    }
    this.marked = marked;
  }

  read(): ClientWindow {
    let window = HistogramSnapshot.empty();
    for (const meter of this.meters()) {
      const before = this.marked.get(meter);
      if (before === undefined || before.requestCount === requestsOf(meter)) continue;
      window = window.merge(latencyOf(meter).since(before.latency));
    }
    return { count: window.count, p99Us: window.percentileUs(0.99) };
  }
}

function requestsOf({ block }: VolumeMeter): number {
  return block.get("readCount") + block.get("writeCount");
}

function latencyOf({ readLatency, writeLatency }: VolumeMeter): HistogramSnapshot {
  return HistogramSnapshot.of(readLatency).merge(HistogramSnapshot.of(writeLatency));
}
