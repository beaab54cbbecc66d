// telemetry/: shared-memory counters and latency histograms, logs out of reactors, Prometheus text.

export * from "./counters.ts";
export { Histogram } from "./histogram.ts";
export { EXPORT_BOUNDS_US, HistogramSnapshot } from "./histogram-snapshot.ts";
export { LimitedLog, type LimitedLogOptions } from "./limited-log.ts";
export {
  createLogRing,
  type LineSink,
  LogRingReader,
  LogRingWriter,
} from "./log-ring.ts";
export { formatLine, type LineContext, RingLog } from "./ring-log.ts";
export { VOLUME_METER_BYTES, VolumeMeter } from "./volume-meter.ts";
