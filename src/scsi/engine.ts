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
import type { Address, Arena, Memory } from "../ports/index.ts";
import {
  COMMAND_PASSES_ATTENTION,
  isAllowedByReservations,
  judgeAccess,
  RESERVED_READ,
  RESERVED_WRITE,
} from "./access.ts";
import {
  CommandRun,
  REPLY_BYTES_MAX,
  type RunHost,
  STEP_DEVICE,
  STEP_ENTER,
  STEP_FETCH,
  STEP_SCRATCH,
} from "./command-run.ts";
import { findCommand } from "./commands.ts";
import type { LogicalUnit, Nexus, NexusLink } from "./logical-unit.ts";
import { AbortList } from "./management.ts";
import { READ_PART } from "./read-part.ts";
import { ScratchPool } from "./scratch-pool.ts";
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
  PHASE_DEVICE,
  PHASE_FETCH,
  PHASE_NONE,
  PHASE_OUTSIDE,
  PHASE_SCRATCH,
  TaskOrder,
} from "./task-order.ts";
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
  STATUS_GOOD,
  STATUS_RESERVATION_CONFLICT,
  STATUS_TASK_SET_FULL,
} from "./task.ts";
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

export class ScsiEngine implements RequestOwner, RunHost {
  readonly tasks: ScsiTaskTable;
  readonly requests: RequestTable;
  readonly memory: Memory;
  readonly order: TaskOrder;
  readonly replyArena: Arena;
  readonly aborts: AbortList;
  /** By nexus index; targets fill and empty it. */
  readonly places: (NexusPlace | null)[] = [];
  /** Per task: the nexus and logical unit it is of; null for a free one. */
  readonly links: (NexusLink | null)[];
  readonly isAborted: Uint8Array;

  private readonly copier: SegmentCopier;
  private readonly scratch: ScratchPool;
  private readonly runs: (CommandRun | null)[];
  private readonly ownerIndex: number;
  /** READ and WRITE: bytes of the transport's memory that take part. */
  private readonly transferBytes: Uint32Array;

  constructor(modules: EngineModules, taskCount: number) {
    this.tasks = new ScsiTaskTable(taskCount);
    this.requests = modules.requests;
    this.memory = modules.memory;
    this.copier = modules.copier;
    this.order = new TaskOrder(this.tasks);
    this.replyArena = modules.memory.allocate(REPLY_BYTES_MAX);
    this.scratch = new ScratchPool(modules.memory);
    this.links = new Array<NexusLink | null>(taskCount).fill(null);
    this.runs = new Array<CommandRun | null>(taskCount).fill(null);
    this.isAborted = new Uint8Array(taskCount);
    this.transferBytes = new Uint32Array(taskCount);
    this.aborts = new AbortList(this);
    this.ownerIndex = modules.requests.addOwner(this);
  }

  /** Ends the engine: no task may be out. */
  // @cold
  close(): void {
    assert(this.tasks.freeTasks === this.tasks.capacity, "engine closed with tasks out");
    this.requests.removeOwner(this.ownerIndex);
    this.memory.free(this.replyArena);
    this.scratch.close();
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
      this.submitCommand(place, link, task);
      return;
    }
    const reserved = kind === TRANSFER_READ ? RESERVED_READ : RESERVED_WRITE;
    if (!this.admit(task, link, reserved, 0, at + controlByte(opcode))) return;
    if (kind === TRANSFER_WRITE_ATOMIC && link.unit.atomicBytesMax === 0) {
      this.fail(task, SENSE_INVALID_OPCODE, -1, fieldPointer(true, 0, -1));
      return;
    }
    this.startTransfer(task, link, kind);
  }

  /** The data-out that fetchDataOut asked for lies ready. Ignored for a task that has ended. */
  dataOutReady(task: number): void {
    if (this.order.phase[task] !== PHASE_FETCH) return;
    this.order.phase[task] = PHASE_NONE;
    const run = this.runs[task];
    if (run !== null) this.advance(run, 0);
    else this.mapTransfer(task, this.links[task] as NexusLink);
  }

  requestCompleted(slot: number, result: number): void {
    const task = this.requests.ownerTagA[slot];
    this.order.phase[task] = PHASE_NONE;
    if (this.isAborted[task] === 1) {
      this.finish(task);
      return;
    }
    const run = this.runs[task];
    if (run !== null) {
      this.advance(run, result);
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
  private admit(
    task: number,
    link: NexusLink,
    reserved: number,
    flags: number,
    control: number,
  ): boolean {
    if (link.attentionCount !== 0 && (flags & COMMAND_PASSES_ATTENTION) === 0) {
      this.fail(task, 0x060000 | link.takeAttention(), -1, 0);
      return false;
    }
    if (!isAllowedByReservations(link, reserved, flags)) {
      this.tasks.status[task] = STATUS_RESERVATION_CONFLICT;
      this.finish(task);
      return false;
    }
    const sense = judgeAccess(link, flags);
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

  private startTransfer(task: number, link: NexusLink, kind: number): void {
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
      if (isRead) this.readParted(task, link);
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

  /** Room for a part of a block: through memory of our own. */
  // @cold
  private readParted(task: number, link: NexusLink): void {
    const place = this.places[this.tasks.nexus[task]] as NexusPlace;
    this.start(new CommandRun(this, place.target, link, READ_PART, task));
  }

  private mapTransfer(task: number, link: NexusLink): void {
    const isRead = TRANSFER_KIND[this.tasks.cdb[task * CDB_BYTES_MAX]] === TRANSFER_READ;
    if (!this.map(task, link.nexus, isRead, this.transferBytes[task])) {
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
  private map(task: number, nexus: Nexus, isIn: boolean, bytes: number): boolean {
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

  // @cold
  mapOut(run: CommandRun, bytes: number): boolean {
    return this.mapRun(run, false, bytes);
  }

  // @cold
  mapIn(run: CommandRun, bytes: number): boolean {
    return this.mapRun(run, true, bytes);
  }

  // @cold
  private mapRun(run: CommandRun, isIn: boolean, bytes: number): boolean {
    if (this.map(run.task, run.link.nexus, isIn, bytes)) return true;
    run.status = this.tasks.status[run.task];
    return false;
  }

  scatter(task: number, skipBytes: number, from: Address, bytes: number): number {
    return this.copier.scatter(this.tasks.slot[task], skipBytes, from, bytes);
  }

  gather(task: number, skipBytes: number, to: Address, bytes: number): number {
    return this.copier.gather(this.tasks.slot[task], skipBytes, to, bytes);
  }

  // @cold
  takeWorkSlot(run: CommandRun): boolean {
    const slot = this.requests.acquire(this.ownerIndex);
    if (slot < 0) {
      run.status = STATUS_TASK_SET_FULL;
      return false;
    }
    this.requests.ownerTagA[slot] = run.task;
    run.workSlot = slot;
    return true;
  }

  // Other commands --------------------------------------------------------------------------------

  // @cold
  private submitCommand(place: NexusPlace, link: NexusLink, task: number): void {
    const at = task * CDB_BYTES_MAX;
    const { cdb } = this.tasks;
    const command = findCommand(cdb[at], cdb[at + 1] & 0x1f, link.isAbsent);
    if (typeof command === "number") {
      // Unit attentions come before the opcode.
      if (!this.admit(task, link, 0, 0xfe & ~COMMAND_PASSES_ATTENTION, at + 31)) return;
      let pointer = 0;
      if (command === SENSE_INVALID_OPCODE) pointer = fieldPointer(true, 0, -1);
      else if (command === SENSE_INVALID_FIELD_IN_CDB) pointer = fieldPointer(true, 1, 4);
      this.fail(task, command, -1, pointer);
      return;
    }
    const control = at + command.usage.length - 1;
    if (!this.admit(task, link, command.reserved, command.flags, control)) return;
    this.start(new CommandRun(this, place.target, link, command, task));
  }

  // @cold
  private start(run: CommandRun): void {
    this.runs[run.task] = run;
    run.steps = run.command.run?.(run) ?? null;
    this.advance(run, 0);
  }

  /** Runs a command until it waits or ends. */
  // @cold
  private advance(run: CommandRun, result: number): void {
    const { task } = run;
    const { phase } = this.order;
    let value = result;
    for (;;) {
      if (this.isAborted[task] === 1) {
        this.finish(task);
        return;
      }
      const step = run.steps?.next(value);
      if (step === undefined || step.done === true) break;
      value = 0;
      switch (step.value) {
        case STEP_FETCH:
          phase[task] = PHASE_FETCH;
          run.link.nexus.transport.fetchDataOut(task, run.stepBytes);
          return;
        case STEP_ENTER:
          if (!this.order.enter(run.unit, task)) return;
          continue;
        case STEP_SCRATCH:
          run.scratch = this.scratch.take(task);
          if (run.scratch !== null) continue;
          phase[task] = PHASE_SCRATCH;
          return;
        case STEP_DEVICE:
          phase[task] = PHASE_DEVICE;
          run.stepDevice?.submit(run.stepSlot);
          return;
        default:
          phase[task] = PHASE_OUTSIDE;
          this.waitOutside(run);
          return;
      }
    }
    this.endRun(run);
  }

  // @cold
  private waitOutside(run: CommandRun): void {
    run.outside?.((result) => {
      this.order.phase[run.task] = PHASE_NONE;
      this.advance(run, result);
    });
  }

  // @cold
  private endRun(run: CommandRun): void {
    const { task } = run;
    if (run.senseCode !== SENSE_NONE) {
      this.fail(task, run.senseCode, run.senseInformation, run.senseSpecific);
      return;
    }
    if (this.tasks.status[task] === STATUS_GOOD) this.tasks.status[task] = run.status;
    this.finish(task);
  }

  // @cold
  abortOthers(unit: LogicalUnit, ids: readonly string[], done: () => void): void {
    this.aborts.abortNexuses(unit, ids, done);
  }

  // The end of tasks ------------------------------------------------------------------------------

  /** Ends a task with CHECK CONDITION. */
  fail(task: number, code: number, information: number, keySpecific: number): void {
    this.setSense(task, code, information, keySpecific);
    this.finish(task);
  }

  private setSense(task: number, code: number, information: number, keySpecific: number): void {
    const link = this.links[task];
    const isDescriptor = link !== null && link.unit.isDescriptorSense;
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
    if (run !== null) this.endRunSlots(run);
    this.order.remove(unit, task);
    this.runs[task] = null;
    if (this.isAborted[task] === 1) nexus.transport.taskAborted(task);
    else nexus.transport.taskDone(task);
    if (tasks.slot[task] >= 0) this.requests.release(tasks.slot[task]);
    tasks.slot[task] = -1;
    this.links[task] = null;
    tasks.release(task);
    nexus.taskCount -= 1;
    if (run !== null) this.passScratch(run);
    if (unit.blockedCount !== 0) this.wakeBlocked(unit);
    if (this.aborts.pendingCount !== 0) this.aborts.taskEnded(task);
    if (nexus.removed !== null && nexus.taskCount === 0) this.endNexus(nexus);
  }

  private wakeBlocked(unit: LogicalUnit): void {
    for (let task = this.order.ready(unit); task >= 0; task = this.order.ready(unit)) {
      const run = this.runs[task];
      if (run !== null) {
        this.advance(run, 0);
      } else {
        const isRead = TRANSFER_KIND[this.tasks.cdb[task * CDB_BYTES_MAX]] === TRANSFER_READ;
        this.submitTransfer(task, unit, isRead);
      }
    }
  }

  // @cold
  private endRunSlots(run: CommandRun): void {
    if (run.workSlot >= 0) this.requests.release(run.workSlot);
    run.workSlot = -1;
    if (this.order.phase[run.task] === PHASE_SCRATCH) this.scratch.forget(run.task);
  }

  /** The scratch buffer of a command that has ended goes to the next that waits. */
  // @cold
  private passScratch(run: CommandRun): void {
    if (run.scratch === null) return;
    const next = this.scratch.giveBack(run.scratch);
    run.scratch = null;
    if (next < 0) return;
    const waiting = this.runs[next] as CommandRun;
    waiting.scratch = this.scratch.take(next);
    this.order.phase[next] = PHASE_NONE;
    this.advance(waiting, 0);
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
