// Every object that crosses the REST API, as plain types. The schemas in schemas.ts are checked
// against these by the compiler, so a field exists in both or the build fails. Types only: the CLI
// and the browser pay nothing for them.
//
// Rules: sizes are bytes, times are RFC 3339 strings in UTC, durations carry their unit in the
// name. Fields are only ever added; a client ignores fields it does not know.

import type { ClusterBackingView, ClusterView } from "./cluster-types.ts";

export type BackingKind = "file" | "memory" | "null" | "store";
export type DirectMode = "auto" | "on" | "off";

export type VolumeBacking =
  | {
      readonly kind: "file";
      readonly path: string;
      readonly direct: DirectMode;
      /** True when Ringstore made the file: it is then deleted with the volume. */
      readonly managed: boolean;
    }
  | { readonly kind: "memory" }
  | { readonly kind: "null" }
  /** In the store, on the disk of that name. */
  | { readonly kind: "store"; readonly disk: string }
  /** On several nodes of the cluster. */
  | ClusterBackingView;

export type Severity = "warn" | "error";

export interface Health {
  /** Stable code, e.g. BACKING_UNAVAILABLE. */
  readonly code: string;
  readonly severity: Severity;
  readonly message: string;
}

export type VolumeState =
  | "creating"
  | "detached"
  /** Declared attached, its socket is served, no front-end has started rings. */
  | "attached"
  /** A front-end has started rings. */
  | "connected"
  /** Another node has it; the socket here is for a guest that moves. */
  | "standby"
  /** Declared attached but not served: see `health`. */
  | "unavailable"
  | "deleting";

/** A volume as an iSCSI target. Secrets are in no reply. */
export interface ClassicAttachment {
  /** An iqn. name. */
  readonly target: string;
  readonly lun: number;
  /** `HOST:PORT` of the portal; null while the target is not served. */
  readonly portal: string | null;
  /** Null while the target is not served. */
  readonly url: string | null;
  /** The name that initiators prove themselves with; null: nobody has to. */
  readonly chapUser: string | null;
  /** The name that the target proves itself with, to initiators that ask; null: it cannot. */
  readonly chapTargetUser: string | null;
  /** Who may log in; empty: everybody. */
  readonly initiators: readonly string[];
}

/** A volume as a unit of a virtio-scsi controller, whose socket is the attachment's. */
export interface ScsiAttachment {
  readonly controller: string;
  readonly lun: number;
}

export interface Attachment {
  /** Grows by one with every attach of this volume. */
  readonly generation: number;
  /** Absolute path of the vhost-user socket; null: attached by the classic path. */
  readonly socket: string | null;
  /** By the classic path; null: by vhost-user. A daemon before it left it out. */
  readonly classic?: ClassicAttachment | null;
  /** To a virtio-scsi controller; null: not. A daemon before it left it out. */
  readonly scsi?: ScsiAttachment | null;
  readonly queueCountMax: number;
  readonly packedAllowed: boolean;
  readonly readOnly: boolean;
  readonly attachedAt: string;
  /** Sessions open now, on the socket or with the target. */
  readonly sessionCount: number;
}

export interface Volume {
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly blockBytes: 512 | 4096;
  readonly readOnly: boolean;
  readonly serial: string;
  readonly backing: VolumeBacking;
  readonly createdAt: string;
  readonly state: VolumeState;
  readonly attachment: Attachment | null;
  readonly health: readonly Health[];
}

export interface VolumeList {
  readonly volumes: readonly Volume[];
}

export interface VolumeCreate {
  readonly name: string;
  /** May be left out when `path` names something that exists: its size is taken. */
  readonly sizeBytes?: number;
  readonly blockBytes?: 512 | 4096;
  readonly readOnly?: boolean;
  readonly serial?: string;
  readonly backing?: BackingKind;
  /** An existing file or block device to serve, instead of a new file in the data directory. */
  readonly path?: string;
  readonly direct?: DirectMode;
  /** The disk to live on, with backing store; by default the one with the most free space. */
  readonly disk?: string;
  /** Copies on so many nodes of the cluster; what is on one disk has none of the settings above. */
  readonly replicas?: number;
}

export interface VolumeResize {
  readonly sizeBytes: number;
  /** Needed to make a volume smaller: everything beyond the new size is lost. */
  readonly allowDataLoss?: boolean;
}

/** A name of CHAP, and the secret that proves it. */
export interface ChapProof {
  readonly user: string;
  readonly secret: string;
}

export interface ClassicAttach {
  /** What initiators must prove themselves with; `target`: what the target does, when asked. */
  readonly chap?: ChapProof & { readonly target?: ChapProof };
  /** The only ones that may log in. */
  readonly initiators?: readonly string[];
}

export interface ScsiAttach {
  /** Named by the same rule as a volume; the first volume that is attached to it makes it. */
  readonly controller: string;
  /** 0 to 255; the lowest free one by default. */
  readonly lun?: number;
}

export interface VolumeAttach {
  /** As an iSCSI target instead of by vhost-user: without queues, packed rings and VM memory. */
  readonly classic?: ClassicAttach;
  /** As a unit of a virtio-scsi controller instead of with a socket of its own. */
  readonly scsi?: ScsiAttach;
  readonly queueCountMax?: number;
  readonly packedAllowed?: boolean;
  readonly readOnly?: boolean;
  /** Of a volume of the cluster: also when a node that is alive has it. That node is cut off. */
  readonly takeOver?: boolean;
  /**
   * Of a volume of the cluster that another node has: its guest is about to move here. The socket
   * takes connections; rings start when that node has handed the volume over. With classic: the
   * target is taken over when that node is gone.
   */
  readonly standby?: boolean;
  /** Only for the printed command line: the VM's memory size. */
  readonly vmMemoryBytes?: number;
}

/** What a person or a program needs to start a VM on the volume. */
export interface AttachReply {
  readonly volume: string;
  /** Null: attached by the classic path, see `classic`. */
  readonly socket: string | null;
  readonly classic?: ClassicAttachment | null;
  /** Of a unit of a virtio-scsi controller: what is printed below is the controller's. */
  readonly scsi?: ScsiAttachment | null;
  readonly generation: number;
  /** False when the volume was attached before. */
  readonly changed: boolean;
  /** QEMU arguments by the first version they are right for, ready for execve. */
  readonly qemu: { readonly "7.2": readonly string[]; readonly "9.2": readonly string[] };
  /** The same without the shared memory part: for a VM that has it. */
  readonly qemuDevice: { readonly "7.2": readonly string[]; readonly "9.2": readonly string[] };
  /** A `<disk>` element for `virsh attach-device`; of a controller, a `<qemu:commandline>`. */
  readonly libvirtXml: string;
  /** The `<memoryBacking>` element the domain must have; "" for the classic path. */
  readonly libvirtMemoryXml: string;
}

export interface DetachReply {
  readonly volume: string;
  /** False when the volume was not attached. */
  readonly changed: boolean;
}

export interface DeleteReply {
  readonly volume: string;
  /** The data file that was removed, null when there was none or it was not ours to remove. */
  readonly removedPath: string | null;
  /** The disk of the store on which its space becomes free, null when it had none there. */
  readonly removedFromDisk: string | null;
  /** Of a volume of the cluster: so many copies go. */
  readonly removedCopyCount?: number;
}

export interface Latency {
  readonly meanUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
}

/** Counters are cumulative since the daemon started; latencies too. */
export interface VolumeIo {
  readonly name: string;
  readonly connected: boolean;
  readonly sessionCount: number;
  readonly readCount: number;
  readonly readBytes: number;
  readonly writeCount: number;
  readonly writeBytes: number;
  readonly flushCount: number;
  readonly discardCount: number;
  readonly errorCount: number;
  readonly ringErrorCount: number;
  /** Wake-ups that a guest's emulator lost, made good by the volume's second look. */
  readonly lateKickCount: number;
  readonly lateInterruptCount: number;
  readonly inflightCount: number;
  readonly readLatency: Latency;
  readonly writeLatency: Latency;
}

export interface StatsReply {
  /** Monotonic milliseconds of the daemon: the difference of two replies is the interval. */
  readonly atMs: number;
  /** Attached volumes only. */
  readonly volumes: readonly VolumeIo[];
}

export type HealthSummary = "ok" | "warn" | "error";

export interface StatusItem extends Health {
  /** The volume it is about, null when it is not about one. */
  readonly volume: string | null;
  /** The disk it is about, null when it is not about one. */
  readonly disk: string | null;
}

export interface IoRate {
  readonly readsPerSecond: number;
  readonly readBytesPerSecond: number;
  readonly writesPerSecond: number;
  readonly writeBytesPerSecond: number;
}

export interface PortalView {
  /** `HOST:PORT` as initiators reach it. */
  readonly address: string;
  readonly sessionCount: number;
}

export interface Status {
  readonly health: HealthSummary;
  readonly version: string;
  readonly nodeId: string;
  readonly uptimeSeconds: number;
  readonly dataDirectory: string;
  readonly volumes: {
    readonly total: number;
    readonly attached: number;
    readonly connected: number;
    readonly unavailable: number;
    readonly declaredBytes: number;
  };
  readonly disks: {
    readonly total: number;
    readonly ready: number;
    readonly totalBytes: number;
    readonly freeBytes: number;
  };
  readonly dataFilesystem: { readonly totalBytes: number; readonly availableBytes: number };
  /** null: this daemon is in no cluster. */
  readonly cluster: ClusterView | null;
  /** Where initiators reach volumes of the classic path; empty before there was one. */
  readonly portals?: readonly PortalView[];
  readonly reactorCount: number;
  readonly residentBytes: number;
  readonly io: IoRate;
  readonly items: readonly StatusItem[];
}

export interface Advice extends StatusItem {
  /** The command that fixes it or shows more; null when only the operator can know. */
  readonly command: string | null;
}

export interface AdviseReply {
  readonly advice: readonly Advice[];
}

export type EventType =
  | "daemon.started"
  | "daemon.reloaded"
  | "volume.created"
  | "volume.deleted"
  | "volume.resized"
  | "volume.attached"
  | "volume.detached"
  | "volume.restored"
  | "volume.handed-over"
  | "volume.taken"
  | "volume.unavailable"
  | "volume.connected"
  | "volume.disconnected"
  | "volume.health"
  | "volume.rolled-back"
  | "copy.planned"
  | "copy.replaced"
  | "copy.dropped"
  | "node.draining"
  | "node.active"
  | "node.removed"
  | "disk.draining"
  | "disk.active"
  | "disk.added"
  | "disk.ready"
  | "disk.unavailable"
  | "disk.failed"
  | "disk.corruption"
  | "disk.health"
  | "disk.checked"
  | "disk.removed"
  | "disk.rolled-back";

export interface Event {
  /** Grows by one; starts anew with each start of the daemon. */
  readonly seq: number;
  readonly at: string;
  readonly type: EventType;
  readonly volume: string | null;
  readonly disk: string | null;
  readonly message: string;
}

export interface EventList {
  readonly events: readonly Event[];
}

export interface VersionReply {
  readonly version: string;
  readonly apiVersion: number;
  readonly node: string;
}

export interface ErrorReply {
  readonly code: string;
  readonly message: string;
  readonly advice?: string;
}
