// @hot
// What iSCSI calls of one volume's SCSI target, and what is counted on the way: commands, sessions,
// what the device was asked for.
//
// It is what stands behind the gate of a volume of the cluster. Sessions are no reason to keep a
// volume: while the gate is held (another node has it) they see a unit in standby, which has no
// device at all (reactor-classic.ts).
//
// Invariants:
//  - a nexus that has been added is counted until its last task has ended;
//  - once refuse() was called no nexus begins any more; `empty` is called when none is left.

import type { RequestTable } from "../base/index.ts";
import type { ScsiManagement, ScsiService } from "../iscsi/index.ts";
import type { Reactor } from "../reactor/index.ts";
import {
  type ManagementHandler,
  manage,
  type NexusIdentity,
  type ScsiEngine,
  type ScsiTarget,
  type ScsiTaskTable,
  type ScsiTransport,
  type UnitMeter,
} from "../scsi/index.ts";
import { VOLUME_COUNTERS, type VolumeMeter } from "../telemetry/index.ts";
import type { FrontGate, GatedFront } from "../vhost-user/index.ts";
import { add, countCompleted } from "../virtio/index.ts";

/** Counts for the classic path what virtio/blk.ts counts for guests. */
export class ClassicMeter implements UnitMeter {
  private readonly reactor: Reactor;
  private readonly requests: RequestTable;
  private readonly meter: VolumeMeter;
  private readonly counters: Float64Array;

  constructor(reactor: Reactor, meter: VolumeMeter) {
    this.reactor = reactor;
    this.requests = reactor.requests;
    this.meter = meter;
    this.counters = meter.counters;
  }

  started(slot: number): void {
    this.requests.startedUs[slot] = this.reactor.loopTimeUs;
    add(this.counters, VOLUME_COUNTERS.inflightCount, 1);
  }

  completed(slot: number, result: number): void {
    const { requests, counters } = this;
    const op = requests.op[slot];
    const bytes = result < 0 ? 0 : requests.lengthBytes[slot];
    add(counters, VOLUME_COUNTERS.inflightCount, -1);
    if (result < 0) add(counters, VOLUME_COUNTERS.errorCount, 1);
    this.meter.recordLatency(op, this.reactor.loopTimeUs - requests.startedUs[slot]);
    countCompleted(counters, op, bytes);
  }
}

/** What becomes of a target when its gate is opened, and when it is shut. */
export interface GatedTarget {
  activate(): void;
  standDown(): void;
}

export class ClassicService implements ScsiService, GatedFront {
  /** Nobody waits for the gate, and nobody keeps it open. */
  readonly isWaiting = false;
  readonly connected = false;
  /** As those of a volume that has just been opened. */
  readonly isPatient = true;
  readonly tasks: ScsiTaskTable;
  private readonly engine: ScsiEngine;
  private readonly target: ScsiTarget;
  private readonly counters: Float64Array;
  private readonly gate: FrontGate | null;
  private readonly front: GatedTarget | null;
  private nexusCount = 0;
  private isRefusing = false;
  private empty: () => void = () => {};

  constructor(
    engine: ScsiEngine,
    target: ScsiTarget,
    { meter, gate }: { readonly meter: VolumeMeter; readonly gate: FrontGate | null },
    front: GatedTarget | null = null,
  ) {
    this.tasks = engine.tasks;
    this.engine = engine;
    this.target = target;
    this.counters = meter.counters;
    this.gate = gate;
    this.front = front;
    gate?.guard(this);
  }

  // @cold
  gateOpened(): void {
    this.front?.activate();
  }

  // @cold
  gateHeld(): void {
    this.front?.standDown();
  }

  cutWaiting(): void {}

  submit(task: number): void {
    add(this.counters, VOLUME_COUNTERS.commandCount, 1);
    this.engine.submit(task);
  }

  dataOutReady(task: number): void {
    this.engine.dataOutReady(task);
  }

  // @cold
  manage(request: ScsiManagement, handler: ManagementHandler, tag: number): void {
    manage(this.engine, request, handler, tag);
  }

  // @cold
  addNexus(identity: NexusIdentity, transport: ScsiTransport): number {
    if (this.isRefusing) return -1;
    const nexus = this.target.addNexus(identity, transport);
    if (nexus < 0) return nexus;
    add(this.counters, VOLUME_COUNTERS.sessionCount, 1);
    this.countNexuses(1);
    return nexus;
  }

  // @cold
  removeNexus(nexus: number, done: () => void): void {
    this.target.removeNexus(nexus, () => {
      this.countNexuses(-1);
      done();
      if (this.isRefusing && this.nexusCount === 0) this.tellEmpty();
    });
  }

  // @cold
  private countNexuses(change: number): void {
    this.nexusCount += change;
    this.counters[VOLUME_COUNTERS.openSessionCount] = this.nexusCount;
    this.counters[VOLUME_COUNTERS.connected] = this.nexusCount > 0 ? 1 : 0;
  }

  /** Its initiator has asked by which ports the unit is seen, and in which state. */
  // @cold
  knowsPorts(nexus: number): boolean {
    return this.target.unitLink(nexus, 0)?.asksForStates === true;
  }

  /** Lets no session begin any more; `empty` is called once, at once when there is none. */
  // @cold
  refuse(empty: () => void): void {
    this.isRefusing = true;
    this.empty = empty;
    if (this.nexusCount === 0) this.tellEmpty();
  }

  // @cold
  private tellEmpty(): void {
    this.gate?.guard(null);
    const { empty } = this;
    this.empty = () => {};
    empty();
  }
}
