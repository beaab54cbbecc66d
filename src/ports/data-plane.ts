// What the control plane (main thread: REST API, declared state) asks of the data plane (reactor
// threads). Plain data, so that it crosses threads by structured clone. Every call is answered
// within `timeoutMs` of the implementation or rejects with a RingstoreError.

import type { ClassicPlane } from "./classic-plane.ts";
import type { ClusterBacking } from "./cluster-plane.ts";
import type { ScsiPlane } from "./scsi-plane.ts";
import type { StoreDiskFacts, StoreDiskSpec, StoreDiskStats } from "./store-disk.ts";

export type Backing =
  | { readonly kind: "file"; readonly path: string; readonly direct: "auto" | "on" | "off" }
  | { readonly kind: "memory" }
  | { readonly kind: "null" }
  /** In the store, on a disk that is open. */
  | { readonly kind: "store"; readonly diskId: string }
  /** On several nodes of the cluster; see cluster-plane.ts. */
  | ClusterBacking;

export interface VolumeSpec {
  /** Stable identity (UUID). */
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly blockBytes: 512 | 4096;
  readonly readOnly: boolean;
  /** At most 20 ASCII bytes, shown to the guest by GET_ID. */
  readonly serial: string;
  readonly backing: Backing;
}

export interface AttachmentSpec {
  readonly volumeId: string;
  readonly socketPath: string;
  /** Mode of the socket file, e.g. 0o660. */
  readonly socketMode: number;
  /** Numeric group that owns the socket, or -1 to leave it. */
  readonly socketGroupId: number;
  readonly queueCountMax: number;
  readonly packedAllowed: boolean;
  readonly readOnly: boolean;
}

/** Cumulative counters of one attached volume since the daemon started. */
export interface VolumeStats {
  readonly volumeId: string;
  readonly readCount: number;
  readonly readBytes: number;
  readonly writeCount: number;
  readonly writeBytes: number;
  readonly flushCount: number;
  readonly discardCount: number;
  readonly errorCount: number;
  /** SCSI commands, of a volume that is attached by the classic path or to a controller. */
  readonly commandCount: number;
  readonly inflightCount: number;
  readonly readLatencyUs: LatencySummary;
  readonly writeLatencyUs: LatencySummary;
  readonly sessionCount: number;
  /** A front-end has started rings. */
  readonly connected: boolean;
  readonly ringErrorCount: number;
  /** Times requests lay on a ring without a kick, and times a guest had missed an interrupt. */
  readonly lateKickCount: number;
  readonly lateInterruptCount: number;
  readonly health: readonly HealthItem[];
}

export interface LatencySummary {
  readonly count: number;
  readonly sum: number;
  /** Cumulative counts by upper bound in microseconds, ascending; for Prometheus. */
  readonly buckets: readonly (readonly [upperBoundUs: number, cumulativeCount: number])[];
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
}

export interface HealthItem {
  /** Stable code such as DEVICE_STUCK. */
  readonly code: string;
  readonly message: string;
}

export interface ReactorStats {
  readonly index: number;
  readonly volumeCount: number;
  readonly loopCount: number;
  readonly sleepCount: number;
  readonly enterCount: number;
  readonly busyUs: number;
  readonly pollUs: number;
}

export interface OpenOptions {
  readonly create: boolean;
  /** The virtio-scsi controller that it will be a unit of: opened on its reactor. */
  readonly controller?: string;
}

export interface DataPlane extends ClassicPlane, ScsiPlane {
  /** Opens the backing (creating a file of the right size if `create`) and checks it. */
  openVolume(spec: VolumeSpec, options: OpenOptions): Promise<void>;
  closeVolume(volumeId: string): Promise<void>;
  /** Deletes the backing of a closed volume. */
  deleteBacking(spec: VolumeSpec): Promise<void>;
  resizeVolume(volumeId: string, sizeBytes: number): Promise<void>;
  /** Starts listening on the socket; resolves when a front-end can connect. */
  attach(spec: AttachmentSpec): Promise<void>;
  /** Stops listening, drains and closes the sessions. */
  detach(volumeId: string): Promise<void>;
  /**
   * Opens a disk of the store: takes its lock, recovers, resolves when volumes can be opened on it.
   * Rejects with DISK_STALE, before anything is written, when the disk is not the one or not in the
   * state that the spec says.
   */
  openDisk(spec: StoreDiskSpec): Promise<StoreDiskFacts>;
  /** Stops it cleanly; no volume on it may be open. */
  closeDisk(diskId: string): Promise<void>;
  volumeStats(): readonly VolumeStats[];
  /** Of every disk that is open or being opened. */
  diskStats(): readonly StoreDiskStats[];
  reactorStats(): readonly ReactorStats[];
  /** True when every thread answered within `timeoutMs`. Rejects never. */
  responds(timeoutMs: number): Promise<boolean>;
  /**
   * Finishes what is in flight, closes everything, ends the threads. Resolves with the ids of the
   * disks that were stopped cleanly.
   */
  stop(): Promise<readonly string[]>;
}
