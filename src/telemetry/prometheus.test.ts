// The Prometheus text: right values in base units, histograms that add up, escaped labels, series
// per volume that can be left out, and two scrapes at once that do not mix.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Disk } from "../model/disk-types.ts";
import { METRICS } from "../model/metrics.ts";
import type { Volume } from "../model/types.ts";
import type { LatencySummary, VolumeStats } from "../ports/data-plane.ts";
import type { StoreDiskStats } from "../ports/store-disk.ts";
import { type DaemonSample, MetricsExporter } from "./prometheus.ts";

const LATENCY: LatencySummary = {
  count: 5,
  sum: 2500,
  buckets: [
    [100, 1],
    [1000, 4],
  ],
  p50: 1,
  p99: 2,
  p999: 3,
};

const USAGE = {
  totalBytes: 900,
  usedBytes: 270,
  freeBytes: 600,
  quarantinedBytes: 30,
  badBlockCount: 7,
  scrubPositionBytes: 500,
  ringBytes: 80,
  ringUsedBytes: 40,
  uncertainCount: 0,
};

const DISK: Disk = {
  id: "d",
  name: "d1",
  path: "/dev/d1",
  state: "ready",
  sizeBytes: 1000,
  durability: "volatile",
  durabilityReason: "",
  createdAt: "",
  incarnation: 1,
  usage: USAGE,
  volumeCount: 0,
  task: null,
  lastCheck: null,
  health: [],
};

const DISK_STATS: StoreDiskStats = {
  diskId: "d",
  phase: "ready",
  progress: { step: "ready", doneBytes: 1, totalBytes: 1 },
  usage: USAGE,
  counters: { groupsWritten: 11 },
  health: [],
};

function sampleOf(readCount: number, version = "1.0"): DaemonSample {
  const volume: Volume = {
    id: "id1",
    name: "db1",
    sizeBytes: 4096,
    blockBytes: 512,
    readOnly: false,
    serial: "s",
    backing: { kind: "null" },
    createdAt: "2026-01-01T00:00:00.000Z",
    state: "connected",
    attachment: {
      generation: 1,
      socket: "/s",
      queueCountMax: 1,
      packedAllowed: true,
      readOnly: false,
      attachedAt: "2026-01-01T00:00:00.000Z",
      sessionCount: 1,
    },
    health: [],
  };
  const stats: VolumeStats = {
    volumeId: "id1",
    readCount,
    readBytes: 8192,
    writeCount: 1,
    writeBytes: 512,
    flushCount: 2,
    discardCount: 3,
    commandCount: 7,
    errorCount: 4,
    inflightCount: 5,
    readLatencyUs: LATENCY,
    writeLatencyUs: { ...LATENCY, count: 0, sum: 0, buckets: [] },
    sessionCount: 1,
    connected: true,
    ringErrorCount: 6,
    lateKickCount: 9,
    lateInterruptCount: 10,
    health: [],
  };
  return {
    version,
    startTimeSeconds: 12.5,
    residentBytes: 1000,
    heapUsedBytes: 500,
    cpuUserSeconds: 1.5,
    cpuSystemSeconds: 0.5,
    openDescriptorCount: 20,
    space: { totalBytes: 100, availableBytes: 50 },
    volumes: [volume],
    disks: [DISK, { ...DISK, id: "d2", name: "gone", state: "missing", usage: null }],
    diskStats: [DISK_STATS, { ...DISK_STATS, diskId: "removed meanwhile" }],
    volumeStats: [stats, { ...stats, volumeId: "deleted meanwhile" }],
    reactorStats: [
      {
        index: 0,
        volumeCount: 1,
        loopCount: 10,
        sleepCount: 3,
        enterCount: 7,
        busyUs: 1_500_000,
        pollUs: 250_000,
      },
    ],
    portalStats: [
      {
        reactor: 0,
        address: "127.0.0.1:3260",
        sessionCount: 2,
        acceptedCount: 9,
        turnedAwayCount: 1,
        loginCount: 5,
        refusedLoginCount: 3,
        reinstatedCount: 4,
      },
    ],
    items: [
      { code: "A", severity: "warn", message: "m", volume: null, disk: null },
      { code: "A", severity: "warn", message: "n", volume: "db1", disk: null },
    ],
    apiRequests: [{ method: "GET", route: "/v1/volumes/:name", status: 200, count: 9 }],
    rebuilds: {
      stages: ["copying", "waiting", "copying"],
      limit: { bytesPerSecond: null, currentBytesPerSecond: 512, movedBytes: 131_072 },
    },
  };
}

describe("the Prometheus text", () => {
  test("values, units and kinds", async () => {
    const text = await new MetricsExporter({ volumeMetrics: true }).text(sampleOf(8));
    const lines = text.split("\n");
    for (const line of [
      'ringstore_build_info{version="1.0"} 1',
      "ringstore_start_time_seconds 12.5",
      'ringstore_process_cpu_seconds_total{mode="user"} 1.5',
      'ringstore_volumes{state="connected"} 1',
      'ringstore_volumes{state="detached"} 0',
      'ringstore_disks{state="ready"} 1',
      'ringstore_disks{state="missing"} 1',
      'ringstore_disk_size_bytes{disk="gone"} 1000',
      'ringstore_disk_free_bytes{disk="d1"} 600',
      'ringstore_disk_quarantined_bytes{disk="d1"} 30',
      'ringstore_disk_ring_used_bytes{disk="d1"} 40',
      'ringstore_disk_bad_blocks{disk="d1"} 7',
      'ringstore_disk_scrub_position_bytes{disk="d1"} 500',
      'ringstore_disk_store_total{disk="d1",counter="groupsWritten"} 11',
      'ringstore_health_items{code="A",severity="warn"} 2',
      'ringstore_api_requests_total{method="GET",route="/v1/volumes/:name",status="200"} 9',
      'ringstore_reactor_busy_seconds_total{reactor="0"} 1.5',
      'ringstore_reactor_poll_seconds_total{reactor="0"} 0.25',
      'ringstore_rebuilds{stage="copying"} 2',
      'ringstore_rebuilds{stage="entering"} 0',
      "ringstore_rebuild_moved_bytes_total 131072",
      'ringstore_rebuild_limit_bytes_per_second{mode="auto"} 512',
      'ringstore_volume_operations_total{volume="db1",op="read"} 8',
      'ringstore_volume_operations_total{volume="db1",op="discard"} 3',
      'ringstore_volume_bytes_total{volume="db1",op="write"} 512',
      'ringstore_volume_ring_errors_total{volume="db1"} 6',
      'ringstore_volume_late_wakeups_total{volume="db1",of="volume"} 9',
      'ringstore_volume_late_wakeups_total{volume="db1",of="guest"} 10',
      'ringstore_volume_latency_seconds_bucket{volume="db1",op="read",le="0.0001"} 1',
      'ringstore_volume_latency_seconds_bucket{volume="db1",op="read",le="0.001"} 4',
      'ringstore_volume_latency_seconds_bucket{volume="db1",op="read",le="+Inf"} 5',
      'ringstore_volume_latency_seconds_sum{volume="db1",op="read"} 0.0025',
      'ringstore_volume_latency_seconds_count{volume="db1",op="read"} 5',
      'ringstore_volume_latency_seconds_bucket{volume="db1",op="write",le="+Inf"} 0',
    ]) {
      assert.ok(lines.includes(line), `${line} is missing from\n${text}`);
    }
    for (const metric of METRICS) {
      assert.ok(lines.includes(`# TYPE ${metric.name} ${metric.kind}`), metric.name);
      assert.ok(lines.includes(`# HELP ${metric.name} ${metric.help}`), metric.name);
    }
    assert.ok(!text.includes("deleted meanwhile"));
    assert.ok(!text.includes("removed meanwhile"));
    const samples = lines.filter((line) => line !== "" && !line.startsWith("#"));
    const declared = new Set(METRICS.map((metric) => metric.name));
    for (const line of samples) {
      const name = (line.split(/[{ ]/)[0] as string).replace(/_(bucket|sum|count)$/, "");
      assert.ok(declared.has(name) || declared.has(line.split(/[{ ]/)[0] as string), line);
    }
    assert.equal(new Set(samples.map((line) => line.replace(/ \S+$/, ""))).size, samples.length);
  });

  test("the series of volumes can be left out", async () => {
    const text = await new MetricsExporter({ volumeMetrics: false }).text(sampleOf(8));
    assert.ok(!text.includes("ringstore_volume_"));
    assert.ok(text.includes('ringstore_volumes{state="connected"} 1'));
  });

  test("a counter that starts anew is told as it is, and scrapes do not mix", async () => {
    const exporter = new MetricsExporter({ volumeMetrics: true });
    const [first, second] = await Promise.all([
      exporter.text(sampleOf(100, "a")),
      exporter.text(sampleOf(3, "b")),
    ]);
    for (const [text, version, count] of [
      [first, "a", 100],
      [second, "b", 3],
    ] as const) {
      assert.ok(text.includes(`version="${version}"`));
      assert.ok(text.includes(`volume="db1",op="read"} ${count}\n`), `${version}`);
    }
  });
});
