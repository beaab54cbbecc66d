// What a portal serves: targets by name, who may reach them, and how he proves himself; and what
// iSCSI calls of the SCSI device server behind one. The daemon keeps the directory; a portal asks
// it at each login, so that a change holds from the next on.

import type {
  ManagementHandler,
  NexusIdentity,
  ScsiTaskTable,
  ScsiTransport,
} from "../scsi/index.ts";
import type { ChapCredentials } from "./chap.ts";

/** A task management request as SCSI takes it. */
export interface ScsiManagement {
  /** Index of the nexus that it came from. */
  readonly nexus: number;
  /** Eight bytes; not looked at for functions that concern a target. */
  readonly lun: Uint8Array;
  /** A TMF_* of scsi/. */
  readonly management: number;
  /** ABORT TASK: the task, else -1. */
  readonly task: number;
}

/** The device server of one target: its tasks, and the I_T nexuses that commands come over. */
export interface ScsiService {
  readonly tasks: ScsiTaskTable;
  /** Index of the nexus, for ScsiTaskTable.nexus; -1 = there are too many. */
  addNexus(identity: NexusIdentity, transport: ScsiTransport): number;
  /** Stops the tasks of the nexus; `done` when nothing of them touches anything any more. */
  removeNexus(nexus: number, done: () => void): void;
  submit(task: number): void;
  dataOutReady(task: number): void;
  /** The handler hears of it once, possibly from inside the call; aborted tasks end before. */
  manage(request: ScsiManagement, handler: ManagementHandler, tag: number): void;
}

export interface TargetRedirect {
  /**
   * As TargetAddress has it: `10.0.0.2:3260` or `[fe80::1]:3260`. Null: nowhere at the moment; the
   * initiator is told to come again (RFC 7143 section 11.13.5, service unavailable).
   */
  readonly address: string | null;
  /** The initiator may remember it. */
  readonly isPermanent: boolean;
}

export interface IscsiTarget {
  /** An iqn., eui. or naa. name in lower case. */
  readonly name: string;
  /** For people; may be empty. */
  readonly alias: string;
  /** 1 to 65535; the relative target port of the nexuses, too. */
  readonly portalGroupTag: number;
  /** What SendTargets names, `address:port,tag` each; empty = the portal that is asked. */
  readonly addresses: readonly string[];
  /** Initiators that may log in, in lower case; null = all. */
  readonly initiators: ReadonlySet<string> | null;
  /** Null: nobody needs to prove anything. */
  readonly chap: ChapCredentials | null;
  /** Where it is served; null = here. */
  readonly redirect: TargetRedirect | null;
  readonly scsi: ScsiService;
}

export interface TargetDirectory {
  /** By its name in lower case. */
  find(name: string): IscsiTarget | null;
  /** In the order in which SendTargets names them. */
  list(): readonly IscsiTarget[];
  /** What a discovery session must prove; null = nothing. */
  readonly discoveryChap: ChapCredentials | null;
}
