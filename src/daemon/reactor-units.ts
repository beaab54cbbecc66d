// SCSI on one reactor, whatever transport leads to it: the device server that iSCSI targets
// (reactor-classic.ts) and virtio-scsi controllers (reactor-scsi.ts) share, and the logical unit of
// a volume that is attached to either, with its persistent reservations.
//
// Invariants:
//  - everything here runs on the reactor's thread;
//  - the device server is made with the first unit: a node without SCSI pays nothing for it;
//  - a reservation holds when the main thread has said that it is kept.

import { assert } from "../base/index.ts";
import type { BlockDevice, HeldUnitSpec, ReservationRecord, UnitSpec } from "../ports/index.ts";
import type { Reactor } from "../reactor/index.ts";
import {
  LogicalUnit,
  type ReservationStore,
  Reservations,
  ScsiEngine,
  type UnitOptions,
  VolatileReservationStore,
} from "../scsi/index.ts";
import type { VolumeMeter } from "../telemetry/index.ts";
import type { FrontGate } from "../vhost-user/index.ts";
import { ClassicMeter } from "./classic-service.ts";
import type { ReactorMessage } from "./reactor-protocol.ts";
import { refusal } from "./reactor-volume.ts";

/** Commands of all sessions and guests that the device server has at once. */
const TASK_COUNT = 4096;

/** What a unit is made over. */
export interface UnitVolume {
  readonly name: string;
  readonly device: BlockDevice;
  readonly meter: VolumeMeter;
}

/** What a unit of a target or of a controller is made over. */
export interface GatedVolume extends UnitVolume {
  /** Of a volume of the cluster. */
  readonly gate: FrontGate | null;
}

export interface ReactorUnitsModules {
  readonly reactor: Reactor;
  readonly copier: ConstructorParameters<typeof ScsiEngine>[0]["copier"];
  readonly send: (message: ReactorMessage) => void;
}

export class ReactorUnits {
  private readonly modules: ReactorUnitsModules;
  private made: ScsiEngine | null = null;
  private readonly saves: Map<number, (result: number) => void> = new Map();
  private nextSaveId = 1;

  constructor(modules: ReactorUnitsModules) {
    this.modules = modules;
  }

  get engine(): ScsiEngine {
    if (this.made !== null) return this.made;
    const { reactor, copier } = this.modules;
    const { requests, memory } = reactor;
    this.made = new ScsiEngine({ requests, memory, copier }, TASK_COUNT);
    return this.made;
  }

  /**
   * `groups`: of the target ports that lead to it. Throws RingstoreError when the kept
   * reservations are damaged.
   */
  open(
    spec: UnitSpec,
    { device, meter }: UnitVolume,
    options: Pick<UnitOptions, "groups"> & { readonly transferBytesMax?: number },
  ): LogicalUnit {
    const store: ReservationStore = {
      save: (record, done) => this.save(spec.volumeId, record, done),
    };
    const unit = new LogicalUnit({
      identity: identityOf(spec.naa, device.info.serial),
      reservations: keptReservations(store, spec),
      isReadOnly: spec.readOnly,
      meter: new ClassicMeter(this.modules.reactor, meter),
      ...options,
    });
    unit.setDevice(device);
    return unit;
  }

  /** It looks like the volume's, and keeps its place. Nothing is known of its reservations. */
  openPending(
    { naa, serial, readOnly }: HeldUnitSpec,
    options: Pick<UnitOptions, "groups">,
  ): LogicalUnit {
    return new LogicalUnit({
      identity: identityOf(naa, serial),
      reservations: new Reservations(new VolatileReservationStore()),
      isReadOnly: readOnly,
      isPending: true,
      ...options,
    });
  }

  // Reservations are kept by the main thread ------------------------------------------------------

  private save(volumeId: string, record: ReservationRecord, done: (result: number) => void): void {
    const saveId = this.nextSaveId;
    this.nextSaveId += 1;
    this.saves.set(saveId, done);
    this.modules.send({ kind: "reservation", saveId, volumeId, record });
  }

  reservationSaved(saveId: number, result: number): void {
    const done = this.saves.get(saveId);
    assert(done !== undefined, "a reservation saved twice");
    this.saves.delete(saveId);
    done(result);
  }
}

function identityOf(naa: string, serial: string): UnitOptions["identity"] {
  const bytes = Buffer.from(naa, "hex");
  return { naa: bytes, vendor: "RINGSTOR", product: "VOLUME", revision: "1", serial };
}

function keptReservations(store: ReservationStore, spec: UnitSpec): Reservations {
  try {
    return new Reservations(store, spec.reservations, spec.powerWasLost);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw refusal("INVALID_REQUEST", error.message);
  }
}
