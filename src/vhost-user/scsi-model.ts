// A virtio-scsi controller behind a vhost-user socket: one SCSI target with logical units that come
// and go, and for each session a guest with an I_T nexus (virtio 1.2, section 5.6). The initiator
// port is the same for all sessions of a socket, so that a guest keeps its persistent reservations
// through restarts and migrations.
//
// Reading order: layouts-scsi.ts, scsi-guest.ts, scsi-requests.ts, scsi-control.ts, scsi-events.ts.

import { assert } from "../base/index.ts";
import type { ReactorPort } from "../ports/index.ts";
import {
  type LogicalUnit,
  LUNS_MAX,
  type NexusIdentity,
  type NexusLink,
  type ScsiEngine,
  ScsiTarget,
} from "../scsi/index.ts";
import type { BlkMeter } from "../virtio/index.ts";
import type { DeviceModel, GuestDevice } from "./guest-device.ts";
import { FIRST_REQUEST_RING } from "./layouts-scsi.ts";
import { ScsiConfig } from "./scsi-config.ts";
import { ScsiGuest } from "./scsi-guest.ts";

/** Rings have eight bits of index. */
const REQUEST_QUEUES_MAX: number = 256 - FIRST_REQUEST_RING;

export interface ScsiModelOptions {
  readonly requestQueueCount: number;
  readonly packedAllowed: boolean;
  /** Of the controller: kicks, interrupts, what is no READ or WRITE of a unit. */
  readonly meter: BlkMeter;
  /** Who the guest is to reservations, and the controller's port. */
  readonly identity: NexusIdentity;
}

export class ScsiModel implements DeviceModel {
  readonly ringCountMax: number;
  readonly requestQueueCount: number;
  readonly packedAllowed: boolean;
  readonly meter: BlkMeter;
  readonly engine: ScsiEngine;
  readonly reactor: Pick<ReactorPort, "loopTimeUs">;
  private readonly target: ScsiTarget;
  private readonly identity: NexusIdentity;
  private readonly guests: Set<ScsiGuest> = new Set();
  private readonly meters: (BlkMeter | null)[] = new Array<BlkMeter | null>(LUNS_MAX).fill(null);

  constructor(
    engine: ScsiEngine,
    reactor: Pick<ReactorPort, "loopTimeUs">,
    options: ScsiModelOptions,
  ) {
    const { requestQueueCount } = options;
    assert(
      requestQueueCount >= 1 && requestQueueCount <= REQUEST_QUEUES_MAX,
      "request queue count out of range",
    );
    this.engine = engine;
    this.reactor = reactor;
    this.target = new ScsiTarget(engine);
    this.identity = options.identity;
    this.requestQueueCount = requestQueueCount;
    this.ringCountMax = FIRST_REQUEST_RING + requestQueueCount;
    this.packedAllowed = options.packedAllowed;
    this.meter = options.meter;
  }

  newGuest(guestState: number | null): GuestDevice {
    const { requestQueueCount, packedAllowed } = this;
    const config = new ScsiConfig({ requestQueueCount, packedAllowed });
    if (guestState !== null) config.restoreGuestState(guestState);
    return new ScsiGuest(this, config);
  }

  // Logical units ---------------------------------------------------------------------------------

  /** Numbers in use, in order. */
  get luns(): number[] {
    return this.target.units.flatMap((unit, lun) => (unit === null ? [] : [lun]));
  }

  /**
   * Adds a unit as `lun`, 0 to 255 and free; guests are told. `meter` counts its commands and, for
   * a unit that has no meter of its own, what they move.
   */
  addUnit(lun: number, unit: LogicalUnit, meter: BlkMeter): void {
    this.meters[lun] = meter;
    this.target.addUnit(lun, unit);
    for (const guest of this.guests) guest.unitAdded(lun);
  }

  /** Puts a volume's unit where one has kept its place, and returns that one. */
  exchangeUnit(lun: number, unit: LogicalUnit, meter: BlkMeter): LogicalUnit {
    this.meters[lun] = meter;
    return this.target.exchangeUnit(lun, unit);
  }

  /** Takes a unit away; `done` when its tasks have ended. Commands find it gone at once. */
  removeUnit(lun: number, done: () => void): void {
    this.target.removeUnit(lun, () => {
      this.meters[lun] = null;
      for (const guest of this.guests) guest.unitRemoved(lun);
      done();
    });
  }

  // What guests call ------------------------------------------------------------------------------

  meterOf(link: NexusLink): BlkMeter {
    if (link.isAbsent) return this.meter;
    return this.meters[link.lun] ?? this.meter;
  }

  /** Begins the guest's nexus; -1 when there are too many. */
  addGuest(guest: ScsiGuest): number {
    const index = this.target.addNexus(this.identity, guest);
    if (index >= 0) this.guests.add(guest);
    return index;
  }

  removeGuest(guest: ScsiGuest): void {
    this.guests.delete(guest);
    let isGone = false;
    this.target.removeNexus(guest.nexus, () => {
      isGone = true;
    });
    assert(isGone, "a nexus outlives the tasks of its guest");
  }
}
