// One volume as an iSCSI target on its reactor: the target, its unit, and what sessions see of the
// ports of other nodes. Of a cluster's volume it is active or in standby (SPC-4 5.15.2), by turns,
// under the sessions that it has:
//
//   standby --the gate opens: taken, or given--> active --the gate is shut: handed over--> standby
//
// Invariants:
//  - nothing can reach the disk through a standby (hole H33: a command stuck in one gateway that
//    lands after the failover to another). Its unit has no device, and what lies behind the gate is
//    an owner that has claimed no epoch and has a session with no copy. Whoever hands over loses
//    the device first, and names the next owner when what was submitted has ended; whoever is taken
//    over from is fenced by every copy before the other serves. A late write is impossible by
//    construction, not by a check;
//  - each portal is a target port and a target port group of its own, with the number that is its
//    portal group tag, for as long as the front is there; the unit's identity is one on all;
//  - only implicit changes of state: there is no SET TARGET PORT GROUPS;
//  - a front that has been closed touches its device no more.

import type { ChapCredentials, IscsiTarget } from "../iscsi/index.ts";
import { TRANSFER_BYTES_MAX } from "../iscsi/index.ts";
import type {
  BlockDevice,
  ClassicChap,
  ClassicSpec,
  ReservationRecord,
  TargetPath,
} from "../ports/index.ts";
import {
  ACCESS_OPTIMIZED,
  ACCESS_STANDBY,
  type LogicalUnit,
  ScsiTarget,
  type TargetPortGroup,
} from "../scsi/index.ts";
import { ClassicService, type GatedTarget } from "./classic-service.ts";
import type { GatedVolume, ReactorUnits } from "./reactor-units.ts";
import { refusal, type VolumeFront } from "./reactor-volume.ts";

/** The portal that has the target. */
export interface FrontOwner {
  /** `address:port` as initiators reach it. */
  readonly address: string;
  /** New logins do not find it any more. */
  forget(front: ClassicFront): void;
  /** Ends its sessions. */
  drop(front: ClassicFront): void;
  /** Ends those over whose nexus `isMeant` says so. */
  dropSessions(front: ClassicFront, isMeant: (nexus: number) => boolean): void;
}

/** As TargetAddress has it (RFC 7143 section 13.8). */
export function pathText({ address, portTag }: TargetPath): string {
  return `${address},${portTag}`;
}

export function credentialsOf(chap: ClassicChap | null): ChapCredentials | null {
  if (chap === null) return null;
  const { user, secret, target } = chap;
  return {
    users: [{ name: user, secret }],
    target: target === null ? null : { name: target.user, secret: target.secret },
  };
}

function groupOf(portTag: number, isActive: boolean): TargetPortGroup {
  const state = isActive ? ACCESS_OPTIMIZED : ACCESS_STANDBY;
  return { id: portTag, state, isPreferred: isActive, ports: [portTag] };
}

export class ClassicFront implements VolumeFront, GatedTarget {
  readonly iscsi: IscsiTarget;
  readonly volumeId: string;
  private readonly spec: ClassicSpec;
  private readonly device: BlockDevice;
  private readonly service: ClassicService;
  private readonly scsi: ScsiTarget;
  private readonly unit: LogicalUnit;
  private readonly owner: FrontOwner;
  private isActive: boolean;
  private others: readonly TargetPath[] = [];

  constructor(spec: ClassicSpec, volume: GatedVolume, owner: FrontOwner, units: ReactorUnits) {
    const { engine } = units;
    this.owner = owner;
    this.spec = spec;
    this.volumeId = spec.volumeId;
    this.device = volume.device;
    this.isActive = volume.gate?.isHeld !== true;
    this.unit = units.open(spec, volume, {
      groups: this.groups(),
      transferBytesMax: TRANSFER_BYTES_MAX,
    });
    if (!this.isActive) this.takeDeviceAway();
    this.scsi = new ScsiTarget(engine);
    this.service = new ClassicService(engine, this.scsi, volume, this);
    this.scsi.addUnit(0, this.unit);
    this.iscsi = this.makeTarget(volume.name);
  }

  private makeTarget(alias: string): IscsiTarget {
    const { targetName, portTag, initiators, chap } = this.spec;
    const addresses = (): string[] => this.addresses();
    return {
      name: targetName,
      alias,
      portalGroupTag: portTag,
      get addresses() {
        return addresses();
      },
      initiators: initiators.length === 0 ? null : new Set(initiators),
      chap: credentialsOf(chap),
      redirect: null,
      scsi: this.service,
    };
  }

  /** The portal that is asked comes first. */
  private addresses(): string[] {
    const own = { address: this.owner.address, portTag: this.spec.portTag, isActive: true };
    return this.others.length === 0 ? [] : [own, ...this.others].map(pathText);
  }

  private groups(): TargetPortGroup[] {
    const { isActive } = this;
    // What was told of the others may be older than what we are.
    const others = this.others.map((one) => groupOf(one.portTag, one.isActive && !isActive));
    return [groupOf(this.spec.portTag, isActive), ...others].sort((a, b) => a.id - b.id);
  }

  private takeDeviceAway(): void {
    this.unit.setDevice(null, this.device.info);
  }

  /** The volume is served here from now on. */
  activate(): void {
    if (this.isActive) return;
    this.isActive = true;
    this.unit.setDevice(this.device);
    this.unit.setGroups(this.groups());
  }

  /**
   * It is about to be another node's: what has been submitted ends, nothing more begins. Sessions
   * of initiators that have never asked for the states of the ports end: they would take a unit in
   * standby for a broken one, and are led to the other node when they come again.
   */
  standDown(): void {
    if (!this.isActive) return;
    this.isActive = false;
    this.takeDeviceAway();
    // RESERVE of SPC-2 is of this node's sessions, and in no record.
    this.unit.reserver = null;
    this.unit.setGroups(this.groups());
    this.owner.dropSessions(this, (nexus) => !this.service.knowsPorts(nexus));
  }

  /** Portals of other nodes; initiators hear of it when the groups are others than before. */
  setPaths(others: readonly TargetPath[]): void {
    this.others = others.filter(({ portTag }) => portTag !== this.spec.portTag);
    const groups = this.groups();
    if (JSON.stringify(groups) !== JSON.stringify(this.unit.groups)) this.unit.setGroups(groups);
  }

  /** What the node that serves it has changed. Throws RingstoreError where it is damaged. */
  setReservations(record: ReservationRecord): void {
    // What counts is ours now, and what is on its way here is old.
    if (this.isActive) return;
    try {
      this.unit.reservations.replace(record);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw refusal("INVALID_REQUEST", error.message);
    }
  }

  /** The device has another size: initiators hear of it. */
  capacityChanged(): void {
    if (!this.isActive) this.takeDeviceAway();
    this.unit.capacityChanged();
  }

  /** Ends the sessions; `done` when nothing of them touches the device any more. */
  close(done: () => void): void {
    this.owner.forget(this);
    this.service.refuse(() => {
      this.scsi.removeUnit(0, () => {
        this.unit.close();
        done();
      });
    });
    this.owner.drop(this);
  }
}
