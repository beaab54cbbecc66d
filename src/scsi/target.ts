// A SCSI target device: logical units by number, and the nexuses that see them. An iSCSI target
// node is one, and so is a virtio-scsi controller.
//
// Invariants:
//  - a logical unit may be in several targets of one engine; its state is one;
//  - a number without a logical unit leads to a link that is absent: commands for it run like
//    others, and only INQUIRY, REPORT LUNS and REQUEST SENSE are answered (SPC-4 4.2.2);
//  - a nexus is gone when its last task has ended: only then is `done` called.

import { assert } from "../base/index.ts";
import type { ScsiEngine } from "./engine.ts";
import { LogicalUnit, Nexus, NexusLink } from "./logical-unit.ts";
import { nexusId, Reservations, VolatileReservationStore } from "./reservations.ts";
import { UA_CAPACITY_CHANGED, UA_LUNS_CHANGED, UA_POWER_ON } from "./sense.ts";
import type { NexusIdentity, ScsiTransport } from "./task.ts";

/** Logical unit numbers of a target: 0 to 255, what REPORT LUNS shows in peripheral addressing. */
export const LUNS_MAX = 256;
/** Nexuses of one engine. */
const NEXUSES_MAX = 4096;

export class ScsiTarget {
  readonly engine: ScsiEngine;
  readonly units: (LogicalUnit | null)[] = [];
  private readonly nexuses: Set<Nexus> = new Set();
  private readonly absentUnit: LogicalUnit = makeAbsentUnit();
  private readonly absentLinks: Map<Nexus, NexusLink> = new Map();

  constructor(engine: ScsiEngine) {
    this.engine = engine;
  }

  /** Adds a logical unit; initiators that are there hear of it. */
  addUnit(lun: number, unit: LogicalUnit): void {
    assert(lun >= 0 && lun < LUNS_MAX, "a logical unit number outside 0 to 255");
    assert((this.units[lun] ?? null) === null, "a logical unit number used twice");
    while (this.units.length <= lun) this.units.push(null);
    this.units[lun] = unit;
    this.tellLunsChanged();
    for (const nexus of this.nexuses) nexus.links[lun] = unit.link(nexus, lun);
  }

  /**
   * Puts the volume's unit where one has kept its place: none goes and none comes. Initiators hear
   * of a unit that begins, and that its capacity is known now. Returns the one that was there.
   */
  exchangeUnit(lun: number, unit: LogicalUnit): LogicalUnit {
    const pending = this.units[lun] ?? null;
    assert(pending?.isPending === true && !unit.isPending, "an exchange of a unit that serves");
    assert(pending.firstTask < 0, "a unit that is not there yet keeps a task");
    this.units[lun] = unit;
    for (const nexus of this.nexuses) {
      pending.unlink(nexus.links[lun] as NexusLink);
      const link = unit.link(nexus, lun);
      nexus.links[lun] = link;
      link.attend(UA_POWER_ON);
      link.attend(UA_CAPACITY_CHANGED);
    }
    return pending;
  }

  /** Takes a logical unit away: stops its tasks of this target, then calls `done`. */
  removeUnit(lun: number, done: () => void): void {
    const unit = this.units[lun] ?? null;
    assert(unit !== null, "removal of a logical unit that is not there");
    this.units[lun] = null;
    const links = [...this.nexuses].map((nexus) => nexus.links[lun] as NexusLink);
    for (const nexus of this.nexuses) nexus.links[lun] = null;
    const tasks = this.engine.aborts.tasksOf(unit, (link) => links.includes(link));
    this.engine.aborts.abort(tasks, () => {
      for (const link of links) unit.unlink(link);
      this.tellLunsChanged();
      done();
    });
  }

  /** Begins a nexus; its index goes into the task table. -1: there are too many. */
  addNexus(identity: NexusIdentity, transport: ScsiTransport): number {
    const { transportId, relativePort } = identity;
    assert(transportId.length > 0 && transportId.length % 4 === 0, "a TransportID of whole words");
    const { places } = this.engine;
    let index = places.indexOf(null);
    if (index < 0) index = places.length;
    if (index >= NEXUSES_MAX) return -1;
    const nexus = new Nexus(index, identity, transport, nexusId(transportId, relativePort));
    places[index] = { nexus, target: this };
    this.nexuses.add(nexus);
    for (let lun = 0; lun < this.units.length; lun++) {
      const link = this.units[lun]?.link(nexus, lun) ?? null;
      nexus.links[lun] = link;
      link?.attend(UA_POWER_ON);
    }
    this.absentLinks.set(nexus, new NexusLink(nexus, this.absentUnit, -1));
    return index;
  }

  /**
   * The nexus is lost: its tasks are stopped (taskAborted for each), what it held ends, and when
   * nothing of it touches memory any more `done` is called. Persistent registrations stay.
   */
  removeNexus(index: number, done: () => void): void {
    const place = this.engine.places[index];
    assert(place?.target === this, "removal of a nexus that is not there");
    const { nexus } = place;
    assert(!nexus.isRemoved, "a nexus removed twice");
    nexus.isRemoved = true;
    const links = [...this.linksOf(nexus), this.absentLinkOf(nexus)];
    const tasks = links.flatMap((link) =>
      this.engine.aborts.tasksOf(link.unit, (one) => one === link),
    );
    this.engine.aborts.abort(tasks, () => {
      const end = (): void => {
        for (const link of links) link.unit.unlink(link);
        this.nexuses.delete(nexus);
        this.absentLinks.delete(nexus);
        this.engine.places[index] = null;
        done();
      };
      // Tasks of units that were taken away meanwhile may still be ending.
      if (nexus.taskCount === 0) end();
      else nexus.removed = end;
    });
  }

  /** The link of a nexus to the unit that LUN_BYTES at `at` name; an absent one for others. */
  findLink(nexus: Nexus, lun: Uint8Array, at: number): NexusLink {
    return nexus.links[decodeLun(lun, at)] ?? this.absentLinkOf(nexus);
  }

  /** Undefined: there is no such nexus of this target, or no such unit. */
  unitLink(index: number, lun: number): NexusLink | undefined {
    const place = this.engine.places[index] ?? null;
    return place?.target === this ? (place.nexus.links[lun] ?? undefined) : undefined;
  }

  linksOf(nexus: Nexus): NexusLink[] {
    return nexus.links.filter((link) => link !== null);
  }

  private absentLinkOf(nexus: Nexus): NexusLink {
    return this.absentLinks.get(nexus) as NexusLink;
  }

  private tellLunsChanged(): void {
    for (const nexus of this.nexuses) {
      for (const link of this.linksOf(nexus)) link.attend(UA_LUNS_CHANGED);
    }
  }
}

/**
 * The number in a single level LUN structure (SAM-5 4.7): peripheral device addressing on bus 0,
 * or flat space addressing. -1 for every other.
 */
export function decodeLun(lun: Uint8Array, at: number): number {
  for (let index = 2; index < 8; index++) if (lun[at + index] !== 0) return -1;
  const method = lun[at] >>> 6;
  if (method === 0) return lun[at] === 0 ? lun[at + 1] : -1;
  return method === 1 ? ((lun[at] & 0x3f) << 8) | lun[at + 1] : -1;
}

function makeAbsentUnit(): LogicalUnit {
  return new LogicalUnit({
    identity: { naa: new Uint8Array(8), vendor: "", product: "", revision: "", serial: "" },
    reservations: new Reservations(new VolatileReservationStore()),
    groups: [],
  });
}
