// What the main thread knows of an open volume without asking its reactor: counters and histograms
// read from shared memory, and what they say about its health.

import type { HealthItem, VolumeSpec, VolumeStats } from "../ports/data-plane.ts";
import { HistogramSnapshot, VOLUME_COUNTERS, type VolumeMeter } from "../telemetry/index.ts";

export interface MeteredVolume {
  readonly spec: VolumeSpec;
  readonly meter: VolumeMeter;
}

export function statsOf(volume: MeteredVolume, health: readonly HealthItem[]): VolumeStats {
  const { meter, spec } = volume;
  const { block } = meter;
  return {
    volumeId: spec.id,
    readCount: block.get("readCount"),
    readBytes: block.get("readBytes"),
    writeCount: block.get("writeCount"),
    writeBytes: block.get("writeBytes"),
    flushCount: block.get("flushCount"),
    discardCount: block.get("discardCount"),
    errorCount: block.get("errorCount"),
    commandCount: block.get("commandCount"),
    inflightCount: block.get("inflightCount"),
    readLatencyUs: HistogramSnapshot.of(meter.readLatency).summary(),
    writeLatencyUs: HistogramSnapshot.of(meter.writeLatency).summary(),
    sessionCount: block.get("openSessionCount"),
    connected: block.get("connected") === 1,
    ringErrorCount: block.get("ringErrorCount"),
    lateKickCount: block.get("lateKickCount"),
    lateInterruptCount: block.get("lateInterruptCount"),
    health,
  };
}

/** A number that changes when sessions or the device's health do. Cheap: looked at all the time. */
export function signatureOf({ meter }: MeteredVolume, stuckMs: number): number {
  const { counters } = meter;
  const isStuck = (counters[VOLUME_COUNTERS.oldestInflightUs] as number) >= stuckMs * 1000;
  const isConnected = counters[VOLUME_COUNTERS.connected] === 1;
  const sessionCount = counters[VOLUME_COUNTERS.openSessionCount] as number;
  return sessionCount * 4 + (isConnected ? 2 : 0) + (isStuck ? 1 : 0);
}

/** A local device cannot be hurried, only reported. */
export function deviceHealth(volume: MeteredVolume, stuckMs: number): readonly HealthItem[] {
  const oldestMs = volume.meter.block.get("oldestInflightUs") / 1000;
  if (oldestMs < stuckMs) return [];
  const { backing } = volume.spec;
  const what = backing.kind === "file" ? backing.path : `the ${backing.kind} device`;
  const message = `${what} has not answered a request for ${Math.floor(oldestMs / 1000)} s`;
  return [{ code: "DEVICE_STUCK", message }];
}
