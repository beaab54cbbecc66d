// Declared state: what the daemon promised, kept on disk so that it keeps the promise after a
// restart. One file per volume. Plain types; the schema is in declared-schema.ts.
//
// Sockets and managed data files have no path here: both follow from the data directory, the name
// and the id, so that a data directory can be moved.

import type { DiskDurability } from "./disk-types.ts";
import type { DirectMode } from "./types.ts";

/**
 * Formats of a declaration. Numbers are never used again; a file has the lowest that tells its
 * content, so that an older version still reads what it understands.
 */
export const DECLARED_FORMAT_FIRST = 1;
/** Volumes in the store. */
export const DECLARED_FORMAT_STORE = 2;
/** Volumes that are attached by the classic path. */
export const DECLARED_FORMAT_CLASSIC = 3;
/** Volumes that are units of a virtio-scsi controller. */
export const DECLARED_FORMAT_SCSI = 4;
/** Targets that prove themselves: an older version would serve them without. */
export const DECLARED_FORMAT_MUTUAL = 5;
export const DECLARED_FORMATS: readonly number[] = [
  DECLARED_FORMAT_FIRST,
  DECLARED_FORMAT_STORE,
  DECLARED_FORMAT_CLASSIC,
  DECLARED_FORMAT_SCSI,
  DECLARED_FORMAT_MUTUAL,
];

export type DeclaredBacking =
  | {
      readonly kind: "file";
      /** null: `volumes/<id>.img` in the data directory, made and deleted by Ringstore. */
      readonly path: string | null;
      readonly direct: DirectMode;
    }
  | { readonly kind: "memory" }
  | { readonly kind: "null" }
  | { readonly kind: "store"; readonly diskId: string };

/**
 * ```
 *            declare            backing made          declare
 *  (nothing) -------> creating -------------> ready ----------> deleting -----> (nothing)
 *                        |                                          ^  backing and file removed
 *                        +-------------- found at start ------------+
 * ```
 * A volume found "creating" at start was never promised to anybody: it is taken back.
 */
export type DeclaredPhase = "creating" | "ready" | "deleting";

/** As an iSCSI target. Secrets are in files of their own (classic-keeper.ts). */
export interface DeclaredClassic {
  readonly chapUser: string | null;
  /** What the target proves itself as; absent: it cannot. Only with a chapUser. */
  readonly chapTargetUser?: string;
  /** In lower case, sorted; empty: everybody. */
  readonly initiators: readonly string[];
}

/** As a unit of a virtio-scsi controller: there is one as long as a volume is declared to be. */
export interface DeclaredScsi {
  readonly controller: string;
  readonly lun: number;
}

export interface DeclaredAttachment {
  /** Of a controller's units, the controller's: the same for all of them. */
  readonly queueCountMax: number;
  readonly packedAllowed: boolean;
  readonly readOnly: boolean;
  readonly attachedAt: string;
  /** Absent: by vhost-user. */
  readonly classic?: DeclaredClassic;
  /** Absent: with a socket, or as a target, of its own. */
  readonly scsi?: DeclaredScsi;
}

/** Persistent reservations of a volume, as scsi/ wants them kept (ports/reservation-record.ts). */
export interface DeclaredReservations {
  /** The volume's id: also the file's name. */
  readonly name: string;
  /** Of the machine's boot in which they were saved. */
  readonly bootId: string;
  readonly record: {
    readonly generation: number;
    readonly aptpl: boolean;
    readonly type: number;
    readonly holder: number;
    readonly registrations: readonly {
      readonly transportId: string;
      readonly relativePort: number;
      readonly key: string;
    }[];
  };
}

export interface DeclaredVolume {
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly blockBytes: 512 | 4096;
  readonly readOnly: boolean;
  readonly serial: string;
  readonly backing: DeclaredBacking;
  readonly createdAt: string;
  readonly phase: DeclaredPhase;
  /** A resize that was promised and may have happened in part; it is finished at start. */
  readonly resizeToBytes: number | null;
  /** Of the latest attachment; 0 before the first. */
  readonly generation: number;
  readonly attachment: DeclaredAttachment | null;
}

/**
 * ```
 *            declare             formatted        declare
 *  (nothing) -------> formatting ---------> ready -------> (nothing), the data stays on the disk
 * ```
 * A disk found "formatting" at start is opened if it got as far as that, otherwise taken back.
 */
export type DeclaredDiskPhase = "formatting" | "ready";

/** A disk of the store that belongs to this node. */
export interface DeclaredDisk {
  /** UUID in the superblock. */
  readonly id: string;
  readonly name: string;
  readonly path: string;
  readonly phase: DeclaredDiskPhase;
  readonly durability: DiskDurability;
  /** How that was found out, or that it was said so. */
  readonly durabilityReason: string;
  readonly createdAt: string;
  readonly sizeBytes: number;
  /** Of the last opening; a disk that says less was rolled back. */
  readonly incarnation: number;
  /** It was closed cleanly after that. */
  readonly clean: boolean;
}

/** The daemon's own identity. */
export interface DeclaredNode {
  readonly id: string;
  readonly createdAt: string;
}

/**
 * How a volume of the cluster is attached on this node. Whether it is, is in the metadata.
 * "detaching": what is not detached yet is not served again.
 */
export interface DeclaredClusterAttachment {
  readonly volumeId: string;
  /** Of the volume: its socket's name. */
  readonly name: string;
  readonly phase: "attached" | "detaching";
  readonly queueCountMax: number;
  readonly packedAllowed: boolean;
  readonly readOnly: boolean;
  readonly attachedAt: string;
  /** Absent: by vhost-user. */
  readonly classic?: DeclaredClassic;
  /** Absent: with a socket, or as a target, of its own. */
  readonly scsi?: DeclaredScsi;
}
