// A logical unit: one volume as SCSI shows it. It holds what all nexuses share (device, mode
// parameters, reservations, access states, task set), and for each nexus a link with what is its
// own (unit attentions, registration, access state).
//
// Invariants:
//  - a unit belongs to one engine: one thread touches it;
//  - TST is 001b: each nexus has a task set of its own. ORDERED orders among the tasks of one
//    nexus, ABORT and CLEAR TASK SET end the tasks of one nexus, so that an initiator that does
//    not send its data holds up nobody else;
//  - the identity (NAA, serial number) is that of the volume: the same on every path and node.

import { assert } from "../base/index.ts";
import type { BlockDevice, BlockDeviceInfo } from "../ports/index.ts";
import type { Reservations } from "./reservations.ts";
import {
  UA_ACCESS_STATE_CHANGED,
  UA_BUS_DEVICE_RESET,
  UA_CAPACITY_CHANGED,
  UA_INQUIRY_CHANGED,
  UA_THIN_THRESHOLD,
} from "./sense.ts";
import type { NexusIdentity, ScsiTransport } from "./task.ts";

/** Asymmetric access states (SPC-4 6.37). */
export const ACCESS_OPTIMIZED = 0x0;
export const ACCESS_NON_OPTIMIZED = 0x1;
export const ACCESS_STANDBY = 0x2;
export const ACCESS_UNAVAILABLE = 0x3;
export const ACCESS_TRANSITIONING = 0xf;

/** Unit attentions that one nexus can have pending; the oldest stay, more are dropped. */
const ATTENTIONS_MAX = 8;

export interface TargetPortGroup {
  /** TARGET PORT GROUP, 1 to 65535. */
  readonly id: number;
  /** An ACCESS_... */
  readonly state: number;
  readonly isPreferred: boolean;
  /** Relative target port identifiers. */
  readonly ports: readonly number[];
}

export interface UnitIdentity {
  /** NAA identifier of 8 or 16 bytes (SPC-4 7.8.6.6): one for the volume, on every path. */
  readonly naa: Uint8Array;
  /** T10 VENDOR IDENTIFICATION, at most 8 characters. */
  readonly vendor: string;
  /** At most 16 characters. */
  readonly product: string;
  /** At most 4 characters. */
  readonly revision: string;
  /** UNIT SERIAL NUMBER, at most 64 characters. */
  readonly serial: string;
}

/** Counts what a unit asks of its device. Called on the reactor's thread, for every operation. */
export interface UnitMeter {
  /** The request is about to be submitted. */
  started(slot: number): void;
  /** It has completed; its slot is still whole. `result` is negative for an error. */
  completed(slot: number, result: number): void;
}

export interface UnitOptions {
  readonly identity: UnitIdentity;
  readonly reservations: Reservations;
  readonly groups: readonly TargetPortGroup[];
  /** Longest transfer of one READ or WRITE; more is refused and VPD page B0h says so. */
  readonly transferBytesMax?: number;
  /**
   * Longest write the device applies whole or not at all, also through a crash. 0, the default:
   * WRITE ATOMIC is refused.
   */
  readonly atomicBytesMax?: number;
  /** The medium can be ejected and loaded. For conformance suites. */
  readonly isRemovable?: boolean;
  /** Writes are refused whatever the device says. */
  readonly isReadOnly?: boolean;
  /**
   * It keeps the place of a volume that is not there yet: INQUIRY, REPORT LUNS and REQUEST SENSE
   * are answered, everything else is NOT READY. See ScsiTarget.exchangeUnit().
   */
  readonly isPending?: boolean;
  readonly meter?: UnitMeter;
}

const TRANSFER_BYTES_MAX_DEFAULT: number = 4 * 1024 * 1024;

/** An I_T nexus: a session of an initiator with a target. */
export class Nexus {
  readonly index: number;
  readonly identity: NexusIdentity;
  readonly transport: ScsiTransport;
  /** What reservations know it by. */
  readonly id: string;
  /** By logical unit number. */
  readonly links: (NexusLink | null)[] = [];
  /** Results of EXTENDED COPY by list identifier. */
  readonly copyResults: Map<number, Uint8Array> = new Map();
  taskCount = 0;
  /** Set while the nexus is being removed: called when its last task has ended. */
  removed: (() => void) | null = null;
  isRemoved = false;

  constructor(index: number, identity: NexusIdentity, transport: ScsiTransport, id: string) {
    this.index = index;
    this.identity = identity;
    this.transport = transport;
    this.id = id;
  }
}

/** What one nexus and one logical unit have with each other: an I_T_L nexus. */
export class NexusLink {
  readonly nexus: Nexus;
  readonly unit: LogicalUnit;
  /** -1: see isAbsent. */
  readonly lun: number;
  isRegistered = false;
  isHolder = false;
  preventsRemoval = false;
  accessState: number = ACCESS_OPTIMIZED;
  /** It has asked for the states of the ports: it knows of several. */
  asksForStates = false;
  attentionCount = 0;
  private readonly attentions: Uint16Array = new Uint16Array(ATTENTIONS_MAX);

  constructor(nexus: Nexus, unit: LogicalUnit, lun: number) {
    this.nexus = nexus;
    this.unit = unit;
    this.lun = lun;
  }

  /** There is no logical unit with the number that the initiator used. */
  get isAbsent(): boolean {
    return this.lun < 0;
  }

  /** Establishes a unit attention: ASC << 8 | ASCQ. One that is pending is not repeated. */
  attend(code: number): void {
    for (let index = 0; index < this.attentionCount; index++) {
      if (this.attentions[index] === code) return;
    }
    if (this.attentionCount === ATTENTIONS_MAX) return;
    this.attentions[this.attentionCount] = code;
    this.attentionCount += 1;
    this.nexus.transport.unitAttention(this.lun, code);
  }

  /** Takes the oldest unit attention; 0 when there is none. */
  takeAttention(): number {
    if (this.attentionCount === 0) return 0;
    const code = this.attentions[0];
    this.attentions.copyWithin(0, 1);
    this.attentionCount -= 1;
    return code;
  }

  /** Forgets a pending unit attention, if it is there. */
  forget(code: number): void {
    const at = this.attentions.subarray(0, this.attentionCount).indexOf(code);
    if (at < 0) return;
    this.attentions.copyWithin(at, at + 1);
    this.attentionCount -= 1;
  }
}

export class LogicalUnit {
  readonly identity: UnitIdentity;
  readonly reservations: Reservations;
  readonly transferBytesMax: number;
  readonly atomicBytesMax: number;
  readonly isRemovable: boolean;
  readonly isPending: boolean;
  readonly meter: UnitMeter | null;
  readonly links: Set<NexusLink> = new Set();
  groups: readonly TargetPortGroup[];
  /** Null where the volume is served elsewhere: then nothing but standby commands is answered. */
  device: BlockDevice | null = null;
  /** The medium is there: false after an eject. */
  isLoaded = true;

  // Mode parameters that can be changed (mode-pages.ts).
  isWriteCached = true;
  isDescriptorSense = false;
  isSoftwareProtected = false;

  /** Holder of RESERVE(6) or RESERVE(10). */
  reserver: NexusLink | null = null;

  // Task set; see task-order.ts. Tasks are linked by the engine's arrays.
  firstTask = -1;
  lastTask = -1;
  orderedCount = 0;
  exclusiveCount = 0;
  blockedCount = 0;

  private readonly isReadOnly: boolean;
  private knownInfo: BlockDeviceInfo | null = null;

  constructor(options: UnitOptions) {
    const { naa } = options.identity;
    assert(naa.length === 8 || naa.length === 16, "an NAA identifier has 8 or 16 bytes");
    this.identity = options.identity;
    this.reservations = options.reservations;
    this.groups = options.groups;
    this.transferBytesMax = options.transferBytesMax ?? TRANSFER_BYTES_MAX_DEFAULT;
    this.atomicBytesMax = options.atomicBytesMax ?? 0;
    this.isRemovable = options.isRemovable ?? false;
    this.isReadOnly = options.isReadOnly ?? false;
    this.isPending = options.isPending ?? false;
    this.meter = options.meter ?? null;
    this.reservations.addListener(this);
  }

  /** Ends the unit. No target may have it any more. */
  close(): void {
    assert(this.links.size === 0, "a logical unit closed while targets have it");
    this.reservations.removeListener(this);
  }

  get isWriteProtected(): boolean {
    return this.isReadOnly || this.isSoftwareProtected || this.info?.readOnly === true;
  }

  /**
   * Gives the unit its volume, or takes it away (null): requests in flight end as they end.
   * `known` is what is known of a volume that is served elsewhere: initiators that find a path in
   * standby want to see capacity and limits there, too.
   */
  setDevice(device: BlockDevice | null, known: BlockDeviceInfo | null = null): void {
    this.device = device;
    this.knownInfo = known;
  }

  /** What is known of the volume; null where nothing is. */
  get info(): BlockDeviceInfo | null {
    return this.device === null ? this.knownInfo : this.device.info;
  }

  /** The device's capacity has changed: initiators hear of it. */
  capacityChanged(): void {
    this.attendAll(UA_CAPACITY_CHANGED);
  }

  /** The pool behind a thinly provisioned volume runs low (SBC-3 4.7.3.8). */
  spaceRunsLow(): void {
    this.attendAll(UA_THIN_THRESHOLD);
  }

  /** Says that what INQUIRY shows has changed. */
  inquiryChanged(): void {
    this.attendAll(UA_INQUIRY_CHANGED);
  }

  /** New states of the target port groups; nexuses whose state changes hear of it. */
  setGroups(groups: readonly TargetPortGroup[]): void {
    this.groups = groups;
    for (const link of this.links) link.accessState = this.accessStateOf(link.nexus);
    this.attendAll(UA_ACCESS_STATE_CHANGED);
  }

  groupOf(relativePort: number): TargetPortGroup | undefined {
    return this.groups.find((group) => group.ports.includes(relativePort));
  }

  attendAll(code: number, except: NexusLink | null = null): void {
    for (const link of this.links) if (link !== except) link.attend(code);
  }

  // What targets and the engine call --------------------------------------------------------------

  link(nexus: Nexus, lun: number): NexusLink {
    const link = new NexusLink(nexus, this, lun);
    link.accessState = this.accessStateOf(nexus);
    this.links.add(link);
    this.refreshReservation(link);
    return link;
  }

  /** Ends what the nexus held here: not its registration, which outlives it. */
  unlink(link: NexusLink): void {
    if (this.reserver === link) this.reserver = null;
    this.links.delete(link);
  }

  /** The logical unit reset condition (SAM-5 6.3.3), after all tasks have ended. */
  reset(): void {
    this.reserver = null;
    this.isWriteCached = true;
    this.isDescriptorSense = false;
    this.isSoftwareProtected = false;
    for (const link of this.links) link.preventsRemoval = false;
    this.attendAll(UA_BUS_DEVICE_RESET);
  }

  reservationsChanged(): void {
    for (const link of this.links) this.refreshReservation(link);
  }

  get isRemovalPrevented(): boolean {
    for (const link of this.links) if (link.preventsRemoval) return true;
    return false;
  }

  private refreshReservation(link: NexusLink): void {
    const { id } = link.nexus;
    link.isRegistered = this.reservations.find(id) !== undefined;
    link.isHolder = this.reservations.isHolder(id);
  }

  private accessStateOf(nexus: Nexus): number {
    return this.groupOf(nexus.identity.relativePort)?.state ?? ACCESS_OPTIMIZED;
  }
}
