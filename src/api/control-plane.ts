// What the REST API asks of the daemon: the seam between HTTP and the volumes. Implemented by
// daemon/; tests hand in a small one. Every method rejects with an ApiError.

import type { Disk, DiskCreate, DiskRemoveReply } from "../model/disk-types.ts";
import type { SupportReply } from "../model/support-types.ts";
import type {
  AdviseReply,
  DeleteReply,
  DetachReply,
  Event,
  StatsReply,
  Status,
  VersionReply,
  Volume,
  VolumeAttach,
  VolumeCreate,
  VolumeResize,
} from "../model/types.ts";
import type { Log } from "../ports/log.ts";
import type { ClusterControl } from "./cluster-control.ts";

/** Who makes a request: decided by the socket it came in on, never by what it says. */
export interface Caller {
  readonly transport: "unix" | "tcp";
  /** Name of the token; "local" on the unix socket, whose file mode is the permission. */
  readonly name: string;
}

export interface AttachResult {
  readonly volume: Volume;
  readonly changed: boolean;
}

export interface RequestOptions {
  /** Check everything, change nothing. */
  readonly dryRun: boolean;
}

export interface DiskRemoveOptions extends RequestOptions {
  /** Of a disk that is gone, the volumes that lived on it are deleted with it. */
  readonly force: boolean;
}

export interface ControlPlane {
  readonly cluster: ClusterControl;
  version(): VersionReply;
  list(): readonly Volume[];
  show(name: string): Volume;
  create(request: VolumeCreate, caller: Caller, options: RequestOptions): Promise<Volume>;
  resize(name: string, request: VolumeResize, options: RequestOptions): Promise<Volume>;
  attach(name: string, request: VolumeAttach): Promise<AttachResult>;
  detach(name: string): Promise<DetachReply>;
  remove(name: string, options: RequestOptions): Promise<DeleteReply>;
  listDisks(): readonly Disk[];
  showDisk(name: string): Disk;
  /** Answers when the format has begun; it goes on after that. */
  createDisk(request: DiskCreate, caller: Caller, options: RequestOptions): Promise<Disk>;
  /** Answers when the check has begun. */
  checkDisk(name: string): Promise<Disk>;
  removeDisk(name: string, options: DiskRemoveOptions): Promise<DiskRemoveReply>;
  stats(): StatsReply;
  status(): Promise<Status>;
  advise(): Promise<AdviseReply>;
  eventsSince(seq: number): readonly Event[];
  /** The returned function ends it. */
  subscribe(listener: (event: Event) => void): () => void;
  /** For a support bundle; no secret. */
  support(): SupportReply;
  /** Prometheus text. */
  metrics(): Promise<string>;
}

export interface ApiModules {
  readonly controlPlane: ControlPlane;
  readonly log: Log;
  /** Called once per answered request; `route` is the pattern, never the caller's text. */
  readonly answered: (method: string, route: string, status: number) => void;
  /** Called with an error that proves a defect: the process must end. */
  readonly fatal: (error: unknown) => void;
}
