// What the control plane asks of the data plane for the classic path: volumes as iSCSI targets.
// Plain data, like data-plane.ts.

import type { ReservationRecord } from "./reservation-record.ts";
import type { UnitSpec } from "./scsi-plane.ts";

/** A name and a secret of CHAP (RFC 7143 section 12.1.3). */
export interface ClassicProof {
  readonly user: string;
  /** In no message, log or reply. */
  readonly secret: string;
}

/** What initiators prove themselves with. */
export interface ClassicChap extends ClassicProof {
  /** What the target proves itself with; null: who asks for that is refused. */
  readonly target: ClassicProof | null;
}

/** A volume as an iSCSI target with one logical unit, number 0. */
export interface ClassicSpec extends UnitSpec {
  /** An iqn. name in lower case. */
  readonly targetName: string;
  /** iSCSI names in lower case; empty = every initiator. */
  readonly initiators: readonly string[];
  readonly chap: ClassicChap | null;
  /** Target portal group tag, relative target port and target port group of this node's portal. */
  readonly portTag: number;
}

/** A portal through which a target is seen, on this node or another. */
export interface TargetPath {
  /** `address:port` as initiators reach it. */
  readonly address: string;
  /** As portTag of ClassicSpec. */
  readonly portTag: number;
  /** It serves the target; otherwise it is in standby. */
  readonly isActive: boolean;
}

/** Where portals listen, and how much initiators may have of one at once. */
export interface PortalSettings {
  /** An IP address of this node, not a wildcard: initiators are told it. */
  readonly host: string;
  /** Of the first reactor; 0 = a free one. Reactor i has port + i. */
  readonly port: number;
  readonly connectionsMax: number;
  readonly connectionsPerAddressMax: number;
  /** Who asks for the list of targets must prove himself; null: nobody has to. */
  readonly discovery: ClassicChap | null;
}

/** Cumulative since the daemon started, but for sessionCount. */
export interface PortalStats {
  readonly reactor: number;
  /** `address:port` as initiators reach it. */
  readonly address: string;
  /** Logged in now, discovery sessions included. */
  readonly sessionCount: number;
  readonly acceptedCount: number;
  /** Hung up on at once: too many. */
  readonly turnedAwayCount: number;
  readonly loginCount: number;
  readonly refusedLoginCount: number;
  /** Sessions ended because their initiator logged in again. */
  readonly reinstatedCount: number;
}

/** A target that another node of the cluster serves. */
export interface ElsewhereTarget {
  readonly targetName: string;
  /** As in ClassicSpec. */
  readonly initiators: readonly string[];
  /** `address:port` of its portal; null: nobody serves it at the moment, and somebody will. */
  readonly address: string | null;
  /** What discovery names: all portals through which it is seen at the moment. */
  readonly paths: readonly TargetPath[];
}

/** Keeps reservations with the volume; resolves when the record is safe. */
export type SaveReservations = (volumeId: string, record: ReservationRecord) => Promise<void>;

export interface ClassicPlane {
  /**
   * Makes the open volume a target; resolves with the portal's `address:port`. A volume that is
   * open as a standby is a target in standby: its sessions become active when it has been taken,
   * and are in standby again when it has been handed over.
   */
  attachClassic(spec: ClassicSpec): Promise<string>;
  /** Resolves with the portal's `address:port`; it listens from now on, if it did not. */
  openPortal(): Promise<string>;
  /**
   * All targets of other nodes, from now on: every portal that listens lists them, and sends
   * initiators there. A target that is attached here counts before one of the same name.
   */
  leadElsewhere(targets: readonly ElsewhereTarget[]): Promise<void>;
  /**
   * The portals of other nodes through which a target of this node is seen: target port groups of
   * its unit; initiators hear when that changes. None for one that has just been attached.
   */
  setPaths(volumeId: string, others: readonly TargetPath[]): Promise<void>;
  /** What another node wrote, for a target in standby. Rejected where it is damaged. */
  setReservations(volumeId: string, record: ReservationRecord): Promise<void>;
  /** Of each portal that listens. */
  portalStats(): readonly PortalStats[];
}
