// What a test and its target process say to each other: one JSON object per line over a socket
// pair. The test asks, the target answers in order; log lines come in between, as they happen, so
// that every line logged before an answer is here before that answer.

export type TargetBacking =
  | { readonly kind: "null" }
  | { readonly kind: "memory" }
  /** A file of that size is made where there is none. `direct` opens it with O_DIRECT. */
  | { readonly kind: "file"; readonly path: string; readonly direct?: boolean };

export interface TargetDeviceOptions {
  readonly name: string;
  /** Default: memory. */
  readonly backing?: TargetBacking;
  /** Default 64 MiB. */
  readonly sizeBytes?: number;
  /** Default 512. */
  readonly blockBytes?: 512 | 4096;
  readonly readOnly?: boolean;
  /** Default 16. */
  readonly queueCountMax?: number;
  /** Default true. */
  readonly packedAllowed?: boolean;
  readonly trustMemory?: boolean;
  /** Default: the name. */
  readonly serial?: string;
  /** A planted bug, for tests of the tests: see target-devices.ts. */
  readonly plantedBug?: PlantedBug;
  /** A virtio-scsi controller whose unit 0 the backing is; virtio-blk without. */
  readonly scsi?: {
    /** Unit 0 is that of this other controller instead; the backing is not used. */
    readonly sharesWith?: string;
  };
}

/** Bugs that only a target of tests can have. */
export type PlantedBug =
  /** A read of several segments writes one byte behind its last one. */
  | "overrun"
  /** Of a memory table with three regions or more, one is not unmapped at the end. */
  | "leak-region"
  /** A discard is never answered. */
  | "swallow-discard";

export type TargetRequest =
  | { readonly op: "add"; readonly device: TargetDeviceOptions; readonly socketPath: string }
  | { readonly op: "remove"; readonly name: string }
  | { readonly op: "resize"; readonly name: string; readonly sizeBytes: number }
  /** While held, requests stay at the device; released, they are done and answered. */
  | { readonly op: "hold"; readonly name: string; readonly held: boolean }
  /** A controller gets unit `lun`, the same volume as unit 0, or loses it. */
  | { readonly op: "plug"; readonly name: string; readonly lun: number; readonly isThere: boolean }
  | { readonly op: "counts" };

export interface TargetCounts {
  /** Descriptors open, without the one that listed them. */
  readonly fdCount: number;
  /** Mappings shared with somebody else: guest memory, logs, inflight regions, io_uring. */
  readonly sharedMapCount: number;
  /** Pieces of memory allocated and not freed. */
  readonly arenaCount: number;
  readonly watchCount: number;
  readonly timerCount: number;
  readonly pollerCount: number;
  /** Slots of the request table that are not in use. */
  readonly freeSlotCount: number;
  readonly threadCount: number;
  readonly rssBytes: number;
  readonly loopCount: number;
  readonly devices: Readonly<Record<string, TargetDeviceCounts>>;
}

export interface TargetDeviceCounts {
  readonly sessionCount: number;
  readonly connected: boolean;
  /** Requests at the device. */
  readonly heldCount: number;
  readonly counters: Readonly<Record<string, number>>;
}

export interface TargetLogLine {
  readonly level: string;
  readonly event: string;
  readonly fields: Readonly<Record<string, string | number | boolean | null>>;
}

/** An answer carries `id` and either `result` or `error`; a log line carries `log`. */
export interface TargetMessage {
  readonly id?: number;
  readonly result?: unknown;
  readonly error?: string;
  readonly log?: TargetLogLine;
}

/** Where the target finds its end of the socket pair. */
export const CONTROL_FD = 3;
