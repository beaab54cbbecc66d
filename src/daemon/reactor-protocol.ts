// What the main thread and a reactor say to each other: plain data, through a MessagePort. The
// port is read inside the reactor's loop when its eventfd says so; answers are posted back.
//
// Each command has one answer with its id. Commands are carried out in order; one that must wait
// (detach, stop) does not hold up the next.

import type { MessagePort } from "node:worker_threads";
import type {
  ClassicChap,
  ClassicSpec,
  ElsewhereTarget,
  PortalStats,
  TargetPath,
} from "../ports/classic-plane.ts";
import type {
  ClusterBacking,
  ClusterIdentity,
  ClusterPeer,
  FrontState,
  OwnerStats,
  PeerStats,
  ResyncPaceStats,
  StoredReplica,
  VolumeMembers,
} from "../ports/cluster-plane.ts";
import type { AttachmentSpec, VolumeSpec } from "../ports/data-plane.ts";
import type { ReplicaNote } from "../ports/replica-note.ts";
import type { ReservationRecord } from "../ports/reservation-record.ts";
import type { HeldUnitSpec, ScsiSpec } from "../ports/scsi-plane.ts";
import type { StoreDiskSpec, StoreDiskStats } from "../ports/store-disk.ts";
import type { OwnedRecord, RecordEntry, RecordSwap } from "../ports/volume-records.ts";
import type { ReactorOptions } from "../reactor/index.ts";
import type { BackingShape } from "../uring/index.ts";

/** Handed to the thread at its start. */
export interface ReactorStart {
  readonly index: number;
  readonly options: ReactorOptions;
  readonly trustMemory: boolean;
  /** Of each disk of the store; 0 = no scrub. */
  readonly scrubMibPerSecond?: number;
  /** CPUs the thread may run on; empty = wherever the process may. */
  readonly cpus: readonly number[];
  /** Eventfd the main thread signals after it has posted. */
  readonly wakeFd: number;
  /** The log rings of all reactors, this one's at `index`. */
  readonly logRings: readonly SharedArrayBuffer[];
  readonly counters: SharedArrayBuffer;
}

/** The first and only message to a reactor's worker. */
export interface ReactorOrder {
  readonly start: ReactorStart;
  readonly port: MessagePort;
}

/** What is opened for a volume: a descriptor that the main thread opened and locked, or nothing. */
export type OpenedForReactor =
  | { readonly kind: "memory" }
  | { readonly kind: "null" }
  /** On a disk that this reactor has open; `create`: it is made there first. */
  | { readonly kind: "store"; readonly diskId: string; readonly create: boolean }
  /** Members that this reactor reaches: see the spec's backing. */
  | { readonly kind: "cluster" }
  | (BackingShape & { readonly fd: number });

/** To the first reactor alone. */
export type ClusterCommand =
  | {
      readonly op: "startCluster";
      readonly identity: ClusterIdentity;
      readonly key: Uint8Array;
      /** A listening socket; the reactor's from now on. */
      readonly listenFd: number;
    }
  | { readonly op: "setPeers"; readonly peers: readonly ClusterPeer[] }
  | { readonly op: "makeReplica"; readonly diskId: string; readonly replica: StoredReplica }
  | { readonly op: "deleteReplica"; readonly diskId: string; readonly volumeId: string }
  | {
      readonly op: "noteReplica";
      readonly diskId: string;
      readonly volumeId: string;
      readonly note: ReplicaNote;
    }
  /** Answered with ListedReplica[]. */
  | { readonly op: "listReplicas"; readonly diskId: string }
  | { readonly op: "surrender"; readonly volumeId: string }
  | { readonly op: "take"; readonly volumeId: string; readonly backing: ClusterBacking }
  /** Answered when the volume has been let go of. */
  | { readonly op: "handOver"; readonly volumeId: string; readonly to: string }
  | { readonly op: "cutWaiting"; readonly volumeId: string }
  | { readonly op: "setResyncLimit"; readonly bytesPerSecond: number | null }
  | { readonly op: "setMembers"; readonly volumeId: string; readonly members: VolumeMembers }
  /** What the main thread found out for a "record" message. Not answered. */
  | {
      readonly op: "record";
      readonly askId: number;
      readonly answer: RecordEntry | RecordSwap | null;
    };

/** Of the classic path, to every reactor that has a target. */
export type ClassicCommand =
  | {
      readonly op: "startPortal";
      /** A listening socket; the reactor's from now on. */
      readonly listenFd: number;
      /** `address:port` as initiators reach it. */
      readonly address: string;
      readonly connectionsMax: number;
      readonly connectionsPerAddressMax: number;
      readonly discovery: ClassicChap | null;
    }
  | { readonly op: "attachClassic"; readonly spec: ClassicSpec }
  /** Targets of the other reactors and of other nodes. Not answered. */
  | {
      readonly op: "setRedirects";
      readonly redirects: readonly ElsewhereTarget[];
    }
  /** Other portals of the volume's target. Not answered. */
  | { readonly op: "setPaths"; readonly volumeId: string; readonly others: readonly TargetPath[] }
  | {
      readonly op: "setReservations";
      readonly volumeId: string;
      readonly record: ReservationRecord;
    };

/** Of virtio-scsi controllers, and of the reservations of whatever is a SCSI unit. */
export type ScsiCommand =
  | { readonly op: "attachScsi"; readonly spec: ScsiSpec }
  | { readonly op: "listenScsi"; readonly controller: string }
  | { readonly op: "holdUnit"; readonly spec: HeldUnitSpec }
  | { readonly op: "dropUnit"; readonly volumeId: string }
  /** What became of a "reservation" message: 0 or a negated errno. Not answered. */
  | { readonly op: "reservationSaved"; readonly saveId: number; readonly result: number };

export type ReactorCommand =
  | ClusterCommand
  | ClassicCommand
  | ScsiCommand
  | {
      readonly op: "open";
      readonly spec: VolumeSpec;
      readonly backing: OpenedForReactor;
      readonly meter: SharedArrayBuffer;
    }
  | { readonly op: "close"; readonly volumeId: string }
  | {
      readonly op: "resize";
      readonly volumeId: string;
      readonly sizeBytes: number;
      /** Of the file or device behind it, now. */
      readonly backingBytes: number;
    }
  | { readonly op: "attach"; readonly spec: AttachmentSpec }
  | { readonly op: "detach"; readonly volumeId: string }
  /** Answered with StoreDiskFacts when the store has recovered. */
  | {
      readonly op: "openDisk";
      readonly spec: StoreDiskSpec;
      readonly backing: BackingShape & { readonly fd: number };
    }
  | { readonly op: "closeDisk"; readonly diskId: string }
  /** Removes a volume that is not open. One that is not there is no error. */
  | { readonly op: "deleteStored"; readonly diskId: string; readonly volumeId: string }
  | { readonly op: "ping" }
  /** Answered with the ids of the disks that were stopped cleanly. */
  | { readonly op: "stop"; readonly patienceMs: number };

export interface ReactorRequest {
  readonly id: number;
  readonly command: ReactorCommand;
}

/** A RingstoreError in plain words. Anything else that is thrown in a reactor ends the process. */
export interface WireError {
  readonly code: string;
  readonly message: string;
  readonly advice: string | undefined;
}

export type ReactorMessage =
  /** The reactor is set up, or why it cannot be: the thread ends then. */
  | { readonly kind: "ready" }
  | { readonly kind: "refused"; readonly error: WireError }
  | {
      readonly kind: "answer";
      readonly id: number;
      readonly error: WireError | null;
      readonly value: unknown;
    }
  /** Sent when it has changed, at most once a second. */
  | { readonly kind: "disk"; readonly stats: StoreDiskStats }
  /** The owner of a volume reads its record, or wants it changed: answered with "record". */
  | {
      readonly kind: "record";
      readonly askId: number;
      readonly volumeId: string;
      readonly swap: { readonly revision: number; readonly record: OwnedRecord } | null;
    }
  /** An initiator's PERSISTENT RESERVE OUT waits for it: answered with "reservationSaved". */
  | {
      readonly kind: "reservation";
      readonly saveId: number;
      readonly volumeId: string;
      readonly record: ReservationRecord;
    }
  /** Sent when they have changed, at most once a second. */
  | { readonly kind: "portal"; readonly stats: Omit<PortalStats, "reactor"> }
  /** Sent when they have changed. */
  | { readonly kind: "owner"; readonly stats: OwnerStats }
  /** At once. */
  | { readonly kind: "front"; readonly state: FrontState }
  | { readonly kind: "peers"; readonly peers: readonly PeerStats[] }
  | { readonly kind: "pace"; readonly pace: ResyncPaceStats }
  /** Before the answer to stop. The thread ends, or, with I/O still in the kernel, it stays. */
  | { readonly kind: "stopped"; readonly drained: boolean };
