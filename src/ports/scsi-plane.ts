// What the control plane asks of the data plane for virtio-scsi: volumes as logical units of
// controllers, each a vhost-user socket with many of them. Plain data, like data-plane.ts.

import type { ReservationRecord } from "./reservation-record.ts";

/** A volume as a SCSI logical unit, whatever transport leads to it. */
export interface UnitSpec {
  readonly volumeId: string;
  readonly readOnly: boolean;
  /** NAA identifier of the unit (SPC-4 7.8.6.6): 8 or 16 bytes in hexadecimal. */
  readonly naa: string;
  /** What was kept of its persistent reservations. */
  readonly reservations: ReservationRecord | null;
  /** The volume was off since: without APTPL nothing of the record counts. */
  readonly powerWasLost: boolean;
}

/** A volume as a unit of a controller, which is made with its first unit. */
export interface ScsiSpec extends UnitSpec {
  /** Name of the controller. Who its guest is to reservations follows from it. */
  readonly controller: string;
  /** 0 to 255. */
  readonly lun: number;
  /** Of the controller: the same for all its units. */
  readonly socketPath: string;
  readonly socketMode: number;
  readonly socketGroupId: number;
  readonly queueCountMax: number;
  readonly packedAllowed: boolean;
  /** False: the socket waits for openController(), because more units are to come. */
  readonly listens: boolean;
}

/**
 * A unit in the place of a volume that is attached and cannot be served yet: it answers as a disk
 * that becomes ready.
 */
export interface HeldUnitSpec extends Omit<ScsiSpec, "reservations" | "powerWasLost"> {
  readonly name: string;
  readonly serial: string;
}

/** What has to be on one reactor, because units of one controller lie there. */
export interface PlacementGroup {
  readonly controllers: readonly string[];
  readonly diskIds: readonly string[];
  /** With volumes of the cluster, which are on the first. */
  readonly hasCluster: boolean;
}

export interface ScsiPlane {
  /** At a start, before anything is opened: what is opened later is placed accordingly. */
  placeTogether(groups: readonly PlacementGroup[]): void;
  /**
   * Makes the open volume a unit of a controller. Rejects with CONTROLLER_ELSEWHERE when the
   * controller is on another reactor than the volume. The last detach() ends the controller.
   * Where the volume's place is held, it takes that.
   */
  attachScsi(spec: ScsiSpec): Promise<void>;
  /** Front-ends may connect to a controller whose units did not listen. No error without one. */
  openController(controller: string): Promise<void>;
  /** Holds the place of a volume that is to come; nothing where it is there. */
  holdUnit(spec: HeldUnitSpec): Promise<void>;
  /** Gives a place up that is held; nothing where none is. */
  dropUnit(volumeId: string): Promise<void>;
  /** Throws CONTROLLER_ELSEWHERE where a volume of the cluster cannot be a unit of it. */
  requireNearCluster(controller: string): void;
}
