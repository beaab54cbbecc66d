// From a sample of the daemon to the series of each metric in model/metrics.ts. Base units here:
// microseconds become seconds.

import type { DiskState } from "../model/disk-types.ts";
import { metricOf } from "../model/metrics.ts";
import type { VolumeState } from "../model/types.ts";
import type { LatencySummary } from "../ports/data-plane.ts";
import type { DaemonSample, HistogramSeries, Labels, SampleSeries, Series } from "./prometheus.ts";

const US_PER_SECOND = 1e6;

const VOLUME_STATES: readonly VolumeState[] = [
  "creating",
  "detached",
  "attached",
  "connected",
  "standby",
  "unavailable",
  "deleting",
];

const DISK_STATES: readonly DiskState[] = [
  "formatting",
  "opening",
  "ready",
  "checking",
  "failed",
  "missing",
  "stale",
];

class Collection {
  readonly plain: Map<string, Series[]> = new Map();
  readonly histograms: Map<string, HistogramSeries[]> = new Map();

  add(name: string, labels: Labels, value: number): void {
    push(this.plain, metricOf(`ringstore_${name}`).name, { labels, value });
  }

  addLatency(name: string, labels: Labels, summary: LatencySummary): void {
    push(this.histograms, metricOf(`ringstore_${name}`).name, {
      labels,
      count: summary.count,
      sum: summary.sum / US_PER_SECOND,
      buckets: summary.buckets.map(([upperUs, count]) => [upperUs / US_PER_SECOND, count] as const),
    });
  }
}

function push<T>(map: Map<string, T[]>, key: string, value: T): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}

export function seriesOf(sample: DaemonSample): SampleSeries {
  const collection = new Collection();
  addDaemon(collection, sample);
  addReactors(collection, sample);
  addPortals(collection, sample);
  addDisks(collection, sample);
  addRebuilds(collection, sample);
  addVolumes(collection, sample);
  return collection;
}

function addDaemon(to: Collection, sample: DaemonSample): void {
  to.add("build_info", { version: sample.version }, 1);
  to.add("start_time_seconds", {}, sample.startTimeSeconds);
  to.add("process_resident_bytes", {}, sample.residentBytes);
  to.add("process_heap_used_bytes", {}, sample.heapUsedBytes);
  to.add("process_cpu_seconds_total", { mode: "user" }, sample.cpuUserSeconds);
  to.add("process_cpu_seconds_total", { mode: "system" }, sample.cpuSystemSeconds);
  to.add("process_open_descriptors", {}, sample.openDescriptorCount);
  to.add("data_filesystem_size_bytes", {}, sample.space.totalBytes);
  to.add("data_filesystem_available_bytes", {}, sample.space.availableBytes);
  for (const state of VOLUME_STATES) {
    const count = sample.volumes.filter((volume) => volume.state === state).length;
    to.add("volumes", { state }, count);
  }
  const byCode = new Map<string, { labels: Labels; count: number }>();
  for (const { code, severity } of sample.items) {
    const key = `${code} ${severity}`;
    const before = byCode.get(key)?.count ?? 0;
    byCode.set(key, { labels: { code, severity }, count: before + 1 });
  }
  for (const { labels, count } of byCode.values()) to.add("health_items", labels, count);
  for (const { method, route, status, count } of sample.apiRequests) {
    to.add("api_requests_total", { method, route, status }, count);
  }
}

const REBUILD_STAGES = ["waiting", "copying", "entering"];

function addRebuilds(to: Collection, { rebuilds }: DaemonSample): void {
  if (rebuilds === null) return;
  const { stages, limit } = rebuilds;
  for (const stage of REBUILD_STAGES) {
    to.add("rebuilds", { stage }, stages.filter((one) => one === stage).length);
  }
  const mode = limit.bytesPerSecond === null ? "auto" : "fixed";
  to.add("rebuild_moved_bytes_total", {}, limit.movedBytes);
  to.add("rebuild_limit_bytes_per_second", { mode }, limit.currentBytesPerSecond);
}

function addReactors(to: Collection, sample: DaemonSample): void {
  for (const stats of sample.reactorStats) {
    const labels = { reactor: stats.index };
    to.add("reactor_volumes", labels, stats.volumeCount);
    to.add("reactor_loops_total", labels, stats.loopCount);
    to.add("reactor_sleeps_total", labels, stats.sleepCount);
    to.add("reactor_enters_total", labels, stats.enterCount);
    to.add("reactor_busy_seconds_total", labels, stats.busyUs / US_PER_SECOND);
    to.add("reactor_poll_seconds_total", labels, stats.pollUs / US_PER_SECOND);
  }
}

function addPortals(to: Collection, sample: DaemonSample): void {
  for (const stats of sample.portalStats) {
    const labels = { reactor: stats.reactor };
    to.add("iscsi_sessions", labels, stats.sessionCount);
    to.add("iscsi_connections_total", labels, stats.acceptedCount);
    to.add("iscsi_connections_refused_total", labels, stats.turnedAwayCount);
    to.add("iscsi_logins_total", labels, stats.loginCount);
    to.add("iscsi_logins_refused_total", labels, stats.refusedLoginCount);
    to.add("iscsi_reinstatements_total", labels, stats.reinstatedCount);
  }
}

function addDisks(to: Collection, sample: DaemonSample): void {
  for (const state of DISK_STATES) {
    const count = sample.disks.filter((disk) => disk.state === state).length;
    to.add("disks", { state }, count);
  }
  const names = new Map(sample.disks.map((disk) => [disk.id, disk.name]));
  for (const { name, sizeBytes, usage } of sample.disks) {
    const disk = { disk: name };
    to.add("disk_size_bytes", disk, sizeBytes);
    if (usage === null) continue;
    to.add("disk_data_bytes", disk, usage.totalBytes);
    to.add("disk_used_bytes", disk, usage.usedBytes);
    to.add("disk_free_bytes", disk, usage.freeBytes);
    to.add("disk_quarantined_bytes", disk, usage.quarantinedBytes);
    to.add("disk_ring_bytes", disk, usage.ringBytes);
    to.add("disk_ring_used_bytes", disk, usage.ringUsedBytes);
    to.add("disk_bad_blocks", disk, usage.badBlockCount);
    to.add("disk_uncertain_writes", disk, usage.uncertainCount);
    to.add("disk_scrub_position_bytes", disk, usage.scrubPositionBytes);
  }
  for (const { diskId, counters } of sample.diskStats) {
    const disk = names.get(diskId);
    if (disk === undefined) continue;
    for (const [counter, value] of Object.entries(counters)) {
      to.add("disk_store_total", { disk, counter }, value);
    }
  }
}

function addVolumes(to: Collection, sample: DaemonSample): void {
  const names = new Map<string, string>();
  for (const volume of sample.volumes) {
    const labels = { volume: volume.name };
    names.set(volume.id, volume.name);
    to.add("volume_size_bytes", labels, volume.sizeBytes);
    to.add("volume_attached", labels, volume.attachment === null ? 0 : 1);
    to.add("volume_connected", labels, volume.state === "connected" ? 1 : 0);
  }
  for (const stats of sample.volumeStats) {
    const name = names.get(stats.volumeId);
    // Deleted between the two reads of the sample.
    if (name === undefined) continue;
    const volume = { volume: name };
    to.add("volume_sessions", volume, stats.sessionCount);
    to.add("volume_operations_total", { ...volume, op: "read" }, stats.readCount);
    to.add("volume_operations_total", { ...volume, op: "write" }, stats.writeCount);
    to.add("volume_operations_total", { ...volume, op: "flush" }, stats.flushCount);
    to.add("volume_operations_total", { ...volume, op: "discard" }, stats.discardCount);
    to.add("volume_bytes_total", { ...volume, op: "read" }, stats.readBytes);
    to.add("volume_bytes_total", { ...volume, op: "write" }, stats.writeBytes);
    to.add("volume_errors_total", volume, stats.errorCount);
    to.add("volume_scsi_commands_total", volume, stats.commandCount);
    to.add("volume_ring_errors_total", volume, stats.ringErrorCount);
    to.add("volume_late_wakeups_total", { ...volume, of: "volume" }, stats.lateKickCount);
    to.add("volume_late_wakeups_total", { ...volume, of: "guest" }, stats.lateInterruptCount);
    to.add("volume_inflight_requests", volume, stats.inflightCount);
    to.addLatency("volume_latency_seconds", { ...volume, op: "read" }, stats.readLatencyUs);
    to.addLatency("volume_latency_seconds", { ...volume, op: "write" }, stats.writeLatencyUs);
  }
}
