// @hot
// The device server of one reactor: takes tasks from transports, checks them, runs them over block
// devices and ends them (SAM-5 clause 5). See task.ts for the seam.
//
//   submit -> check -> READ, WRITE: fetch -> map -> enter -> device.submit -> finish
//                   -> others: a CommandRun, stepped by advance()
//
// Invariants:
//  - a task is in its unit's order from submit to finish, and ends in finish() alone;
//  - READ and WRITE take one request slot, whose segments are the transport's memory: no copy, no
//    allocation;
//  - a task that is aborted ends when nothing of it is at the device any more (phase says so).

import {
  assert,
  FLAG_DURABLE,
  OP_READ,
  OP_WRITE,
  type RequestOwner,
  type RequestTable,
  type SegmentCopier,
} from "../base/index.ts";
import type { Memory } from "../ports/index.ts";
import {
  COMMAND_PASSES_ATTENTION,
  isAllowedByReservations,
  judgeMedium,
  judgeState,
  RESERVED_READ,
  RESERVED_WRITE,
} from "./access.ts";
import type { CommandRun } from "./command-run.ts";
import type { LogicalUnit, Nexus, NexusLink } from "./logical-unit.ts";
import { AbortList } from "./management.ts";
import { READ_PART } from "./read-part.ts";
import { CommandRunner } from "./runner.ts";
import {
  fieldPointer,
  SENSE_ABORTED,
  SENSE_DATA_PHASE,
  SENSE_INFORMATION_UNIT,
  SENSE_INVALID_FIELD_IN_CDB,
  SENSE_INVALID_OPCODE,
  SENSE_NONE,
  SENSE_STANDBY,
  senseOfResult,
  writeSense,
} from "./sense.ts";
import type { ScsiTarget } from "./target.ts";
import {
  ATTRIBUTE_ACA,
  CDB_BYTES_MAX,
  LUN_BYTES,
  MAP_BUSY,
  MAP_OK,
  ScsiTaskTable,
  SENSE_BYTES_MAX,
  STATUS_BUSY,
  STATUS_CHECK_CONDITION,
  STATUS_RESERVATION_CONFLICT,
  STATUS_TASK_SET_FULL,
} from "./task.ts";
import { PHASE_DEVICE, PHASE_FETCH, PHASE_NONE, PHASE_OUTSIDE, TaskOrder } from "./task-order.ts";
import {
  isForceUnitAccess,
  judgeTransfer,
  TRANSFER,
  TRANSFER_BLOCKS,
  TRANSFER_FIELD,
  TRANSFER_KIND,
  TRANSFER_LBA,
  TRANSFER_NONE,
  TRANSFER_READ,
  TRANSFER_WRITE_ATOMIC,
} from "./transfer.ts";

const NACA = 0x04;

export interface EngineModules {
  readonly requests: RequestTable;
  readonly memory: Memory;
  readonly copier: SegmentCopier;
}

/** Where each nexus belongs. */
export interface NexusPlace {
  readonly nexus: Nexus;
  readonly target: ScsiTarget;
}

export class ScsiEngine implements RequestOwner {
  readonly tasks: ScsiTaskTable;
  readonly requests: RequestTable;
  readonly memory: Memory;
  readonly order: TaskOrder;
  readonly aborts: AbortList;
  /** By nexus index; targets fill and empty it. */
  readonly places: (NexusPlace | null)[] = [];
  /** Per task: the nexus and logical unit it is of; null for a free one. */
  readonly links: (NexusLink | null)[];
  readonly isAborted: Uint8Array;

  readonly ownerIndex: number;
  private readonly runner: CommandRunner;
  private readonly runs: (CommandRun | null)[];
  /** READ and WRITE: bytes of the transport's memory that take part. */
  private readonly transferBytes: Uint32Array;

  constructor(modules: EngineModules, taskCount: number) {
    this.tasks = new ScsiTaskTable(taskCount);
    this.requests = modules.requests;
    this.memory = modules.memory;
    this.order = new TaskOrder(this.tasks);
    this.links = new Array<NexusLink | null>(taskCount).fill(null);
    this.isAborted = new Uint8Array(taskCount);
    this.transferBytes = new Uint32Array(taskCount);
    this.aborts = new AbortList(this);
    this.ownerIndex = modules.requests.addOwner(this);
    this.runner = new CommandRunner(this, modules.copier);
    this.runs = this.runner.runs;
  }

  /** Ends the engine: no task may be out. */
  // @cold
  close(): void {
    assert(this.tasks.freeTasks === this.tasks.capacity, "engine closed with tasks out");
    this.requests.removeOwner(this.ownerIndex);
    this.runner.close();
  }

  // What transports call --------------------------------------------------------------------------

  /** Starts a task whose fields are filled. It ends by taskDone or taskAborted, maybe at once. */
  submit(task: number): void {
    const { tasks } = this;
    tasks.markSubmitted(task);
    const place = this.places[tasks.nexus[task]] as NexusPlace;
    assert(place !== null && !place.nexus.isRemoved, "a task of a nexus that is gone");
    place.nexus.taskCount += 1;
    this.isAborted[task] = 0;
    const link = place.target.findLink(place.nexus, tasks.lun, task * LUN_BYTES);
    this.links[task] = link;
    this.order.add(link.unit, task);
    const at = task * CDB_BYTES_MAX;
    const opcode = tasks.cdb[at];
    const kind = TRANSFER_KIND[opcode];
    if (kind === TRANSFER_NONE || link.isAbsent) {
      this.runner.submit(place, link, task);
      return;
    }
    const reserved = kind === TRANSFER_READ ? RESERVED_READ : RESERVED_WRITE;
    if (!this.admit(task, link, reserved, 0, at + controlByte(opcode))) return;
    if (kind === TRANSFER_WRITE_ATOMIC && link.unit.atomicBytesMax === 0) {
      this.fail(task, SENSE_INVALID_OPCODE, -1, fieldPointer(true, 0, -1));
      return;
    }
    this.startTransfer(task, place, link, kind);
  }

  /** The data-out that fetchDataOut asked for lies ready. Ignored for a task that has ended. */
  dataOutReady(task: number): void {
    if (this.order.phase[task] !== PHASE_FETCH) return;
    this.order.phase[task] = PHASE_NONE;
    const run = this.runs[task];
    if (run !== null) this.runner.advance(run, 0);
    else this.mapTransfer(task, this.links[task] as NexusLink);
  }

  requestCompleted(slot: number, result: number): void {
    const task = this.requests.ownerTagA[slot];
    this.order.phase[task] = PHASE_NONE;
    const { meter } = (this.links[task] as NexusLink).unit;
    if (meter !== null) meter.completed(slot, result);
    if (this.isAborted[task] === 1) {
      this.finish(task);
      return;
    }
    const run = this.runs[task];
    if (run !== null) {
      this.runner.advance(run, result);
      return;
    }
    if (result < 0) {
      this.failTransfer(task, slot, result);
      return;
    }
    this.tasks.movedBytes[task] = this.transferBytes[task];
    this.finish(task);
  }

  // READ and WRITE --------------------------------------------------------------------------------

  /** The checks that come before the fields of the CDB. False: the task has ended. */
  admit(task: number, link: NexusLink, reserved: number, flags: number, control: number): boolean {
    if (link.attentionCount !== 0 && (flags & COMMAND_PASSES_ATTENTION) === 0) {
      this.fail(task, 0x060000 | link.takeAttention(), -1, 0);
      return false;
    }
    const state = judgeState(link, flags);
    if (state === SENSE_NONE && !isAllowedByReservations(link, reserved, flags)) {
      this.tasks.status[task] = STATUS_RESERVATION_CONFLICT;
      this.finish(task);
      return false;
    }
    const sense = state === SENSE_NONE ? judgeMedium(link, flags) : state;
    if (sense !== SENSE_NONE) {
      this.fail(task, sense, -1, 0);
      return false;
    }
    if ((this.tasks.cdb[control] & NACA) !== 0 || this.tasks.attribute[task] === ATTRIBUTE_ACA) {
      const byte = control - task * CDB_BYTES_MAX;
      this.fail(task, SENSE_INVALID_FIELD_IN_CDB, -1, fieldPointer(true, byte, 2));
      return false;
    }
    return true;
  }

  private startTransfer(task: number, place: NexusPlace, link: NexusLink, kind: number): void {
    const { tasks } = this;
    const { unit } = link;
    const sense = judgeTransfer(tasks.cdb, task * CDB_BYTES_MAX, kind, unit);
    if (sense !== SENSE_NONE || unit.device === null) {
      const field = TRANSFER[TRANSFER_FIELD];
      const pointer = field < 0 ? 0 : fieldPointer(true, field >>> 3, field & 7);
      this.fail(task, sense, -1, pointer);
      return;
    }
    const { blockBytes } = unit.device.info;
    const from = TRANSFER[TRANSFER_LBA] * blockBytes;
    const wanted = TRANSFER[TRANSFER_BLOCKS] * blockBytes;
    tasks.wantedBytes[task] = wanted;
    const isRead = kind === TRANSFER_READ;
    const room = isRead ? tasks.dataInBytes[task] : tasks.dataOutBytes[task];
    const bytes = wanted < room ? wanted : room;
    if (bytes === 0) {
      this.finish(task);
      return;
    }
    const isExclusive = kind === TRANSFER_WRITE_ATOMIC;
    // An atomic write that the initiator has no data for would be half a write.
    if (bytes % blockBytes !== 0 || (isExclusive && bytes < wanted)) {
      if (isRead) this.runner.start(place, link, READ_PART, task);
      else this.fail(task, SENSE_INFORMATION_UNIT, -1, 0);
      return;
    }
    this.transferBytes[task] = bytes;
    this.order.claim(unit, task, from, from + bytes, isExclusive);
    if (isRead) {
      this.mapTransfer(task, link);
      return;
    }
    this.order.phase[task] = PHASE_FETCH;
    link.nexus.transport.fetchDataOut(task, bytes);
  }

  private mapTransfer(task: number, link: NexusLink): void {
    const isRead = TRANSFER_KIND[this.tasks.cdb[task * CDB_BYTES_MAX]] === TRANSFER_READ;
    if (!this.mapData(task, link.nexus, isRead, this.transferBytes[task])) {
      this.finish(task);
      return;
    }
    if (this.order.enter(link.unit, task)) this.submitTransfer(task, link.unit, isRead);
  }

  private submitTransfer(task: number, unit: LogicalUnit, isRead: boolean): void {
    const { requests } = this;
    if (unit.device === null) {
      this.fail(task, SENSE_STANDBY, -1, 0);
      return;
    }
    const slot = this.tasks.slot[task];
    requests.op[slot] = isRead ? OP_READ : OP_WRITE;
    requests.offsetBytes[slot] = this.order.from[task];
    if (!isRead) {
      const at = task * CDB_BYTES_MAX;
      if (!unit.isWriteCached || isForceUnitAccess(this.tasks.cdb, at)) {
        requests.flags[slot] = requests.flags[slot] | FLAG_DURABLE;
      }
    }
    this.order.phase[task] = PHASE_DEVICE;
    if (unit.meter !== null) unit.meter.started(slot);
    unit.device.submit(slot);
  }

  private failTransfer(task: number, slot: number, result: number): void {
    const isRead = this.requests.op[slot] === OP_READ;
    const unit = (this.links[task] as NexusLink).unit;
    const blockBytes = unit.device === null ? 0 : unit.device.info.blockBytes;
    // Only of a single block is it known where the error lies.
    const isOne = this.transferBytes[task] === blockBytes;
    const lba = isOne ? this.order.from[task] / blockBytes : -1;
    this.fail(task, senseOfResult(result, isRead), lba, 0);
  }

  // Request slots ---------------------------------------------------------------------------------

  /** Takes a slot and has the transport map its data. False: the task's status says why. */
  mapData(task: number, nexus: Nexus, isIn: boolean, bytes: number): boolean {
    const { requests, tasks } = this;
    assert(tasks.slot[task] < 0, "data mapped twice");
    const slot = requests.acquire(this.ownerIndex);
    if (slot < 0) {
      tasks.status[task] = STATUS_TASK_SET_FULL;
      tasks.wantedBytes[task] = 0;
      return false;
    }
    requests.ownerTagA[slot] = task;
    const { transport } = nexus;
    const answer = isIn
      ? transport.mapDataIn(task, slot, bytes)
      : transport.mapDataOut(task, slot, bytes);
    if (answer === MAP_OK && requests.lengthBytes[slot] === bytes) {
      tasks.slot[task] = slot;
      return true;
    }
    requests.release(slot);
    tasks.wantedBytes[task] = 0;
    if (answer === MAP_BUSY) tasks.status[task] = STATUS_BUSY;
    else this.setSense(task, SENSE_DATA_PHASE, -1, 0);
    return false;
  }

  // The end of tasks ------------------------------------------------------------------------------

  /** Ends a task with CHECK CONDITION. */
  fail(task: number, code: number, information: number, keySpecific: number): void {
    this.setSense(task, code, information, keySpecific);
    this.finish(task);
  }

  private setSense(task: number, code: number, information: number, keySpecific: number): void {
    const link = this.links[task];
    const isDescriptor = link?.unit.isDescriptorSense === true;
    const at = task * SENSE_BYTES_MAX;
    const { tasks } = this;
    tasks.status[task] = STATUS_CHECK_CONDITION;
    tasks.senseBytes[task] = writeSense(
      tasks.sense,
      at,
      isDescriptor,
      code === SENSE_NONE ? SENSE_ABORTED : code,
      information,
      keySpecific,
    );
  }

  /** Stops a task: at once, or when what it has at the device or outside is done. */
  // @cold
  abort(task: number): void {
    if (this.isAborted[task] === 1) return;
    this.isAborted[task] = 1;
    const phase = this.order.phase[task];
    if (phase === PHASE_DEVICE || phase === PHASE_OUTSIDE || phase === PHASE_NONE) return;
    this.finish(task);
  }

  /** Ends a task, whatever it was. */
  finish(task: number): void {
    const { tasks } = this;
    const link = this.links[task] as NexusLink;
    const { nexus, unit } = link;
    const run = this.runs[task];
    if (run !== null) this.runner.endSlots(run);
    this.order.remove(unit, task);
    this.runs[task] = null;
    if (this.isAborted[task] === 1) nexus.transport.taskAborted(task);
    else nexus.transport.taskDone(task);
    if (tasks.slot[task] >= 0) this.requests.release(tasks.slot[task]);
    tasks.slot[task] = -1;
    this.links[task] = null;
    tasks.release(task);
    nexus.taskCount -= 1;
    if (run !== null) this.runner.passScratch(run);
    if (unit.blockedCount !== 0) this.wakeBlocked(unit);
    if (this.aborts.pendingCount !== 0) this.aborts.taskEnded(task);
    if (nexus.removed !== null && nexus.taskCount === 0) this.endNexus(nexus);
  }

  private wakeBlocked(unit: LogicalUnit): void {
    for (let task = this.order.ready(unit); task >= 0; task = this.order.ready(unit)) {
      const run = this.runs[task];
      if (run !== null) {
        this.runner.advance(run, 0);
      } else {
        const isRead = TRANSFER_KIND[this.tasks.cdb[task * CDB_BYTES_MAX]] === TRANSFER_READ;
        this.submitTransfer(task, unit, isRead);
      }
    }
  }

  // @cold
  private endNexus(nexus: Nexus): void {
    const { removed } = nexus;
    nexus.removed = null;
    removed?.();
  }
}

/** Offset of the CONTROL byte in a CDB of this operation code (SPC-4 4.3). */
function controlByte(opcode: number): number {
  if (opcode < 0x20) return 5;
  if (opcode < 0x60) return 9;
  return opcode >= 0xa0 && opcode < 0xc0 ? 11 : 15;
}
