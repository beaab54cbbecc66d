// Steps the commands that are generators (command-run.ts): starts them, waits with them, ends them.
// The engine owns the tasks; here is what only such commands need: the memory they build replies
// in, scratch buffers, slots for their own operations.

import type { RequestTable, SegmentCopier } from "../base/index.ts";
import type { Address, Arena, Memory } from "../ports/index.ts";
import { COMMAND_PASSES_ATTENTION } from "./access.ts";
import type { Command } from "./command.ts";
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
import type { NexusPlace, ScsiEngine } from "./engine.ts";
import type { LogicalUnit, NexusLink } from "./logical-unit.ts";
import { ScratchPool } from "./scratch-pool.ts";
import {
  fieldPointer,
  SENSE_INVALID_FIELD_IN_CDB,
  SENSE_INVALID_OPCODE,
  SENSE_NONE,
} from "./sense.ts";
import { CDB_BYTES_MAX, type ScsiTaskTable, STATUS_GOOD, STATUS_TASK_SET_FULL } from "./task.ts";
import {
  PHASE_DEVICE,
  PHASE_FETCH,
  PHASE_NONE,
  PHASE_OUTSIDE,
  PHASE_SCRATCH,
  type TaskOrder,
} from "./task-order.ts";

export class CommandRunner implements RunHost {
  readonly tasks: ScsiTaskTable;
  readonly requests: RequestTable;
  readonly memory: Memory;
  readonly order: TaskOrder;
  readonly replyArena: Arena;
  /** By task; null where the task is none of these commands. */
  readonly runs: (CommandRun | null)[];
  private readonly engine: ScsiEngine;
  private readonly copier: SegmentCopier;
  private readonly scratch: ScratchPool;

  constructor(engine: ScsiEngine, copier: SegmentCopier) {
    this.engine = engine;
    this.copier = copier;
    this.tasks = engine.tasks;
    this.requests = engine.requests;
    this.memory = engine.memory;
    this.order = engine.order;
    this.replyArena = engine.memory.allocate(REPLY_BYTES_MAX);
    this.scratch = new ScratchPool(engine.memory);
    this.runs = new Array<CommandRun | null>(engine.tasks.capacity).fill(null);
  }

  close(): void {
    this.memory.free(this.replyArena);
    this.scratch.close();
  }

  /** A task that is no READ or WRITE, or is for no logical unit. */
  submit(place: NexusPlace, link: NexusLink, task: number): void {
    const { engine } = this;
    const at = task * CDB_BYTES_MAX;
    const { cdb } = this.tasks;
    const command = findCommand(cdb[at], cdb[at + 1] & 0x1f, link.isAbsent);
    if (typeof command === "number") {
      // Unit attentions come before the operation code; nothing else does.
      if (!engine.admit(task, link, 0, 0xff & ~COMMAND_PASSES_ATTENTION, at + 5)) return;
      let pointer = 0;
      if (command === SENSE_INVALID_OPCODE) pointer = fieldPointer(true, 0, -1);
      else if (command === SENSE_INVALID_FIELD_IN_CDB) pointer = fieldPointer(true, 1, 4);
      engine.fail(task, command, -1, pointer);
      return;
    }
    const control = at + command.usage.length - 1;
    if (!engine.admit(task, link, command.reserved, command.flags, control)) return;
    this.start(place, link, command, task);
  }

  start(place: NexusPlace, link: NexusLink, command: Command, task: number): void {
    const run = new CommandRun(this, place.target, link, command, task);
    this.runs[task] = run;
    run.steps = command.run?.(run) ?? null;
    this.advance(run, 0);
  }

  /** Runs a command until it waits or ends. */
  advance(run: CommandRun, result: number): void {
    const { task } = run;
    const { phase } = this.order;
    let value = result;
    for (;;) {
      if (this.engine.isAborted[task] === 1) {
        this.engine.finish(task);
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
          if (run.stepDevice === null) return;
          run.unit.meter?.started(run.stepSlot);
          run.stepDevice.submit(run.stepSlot);
          return;
        default:
          phase[task] = PHASE_OUTSIDE;
          this.waitOutside(run);
          return;
      }
    }
    this.end(run);
  }

  private waitOutside(run: CommandRun): void {
    run.outside?.((result) => {
      this.order.phase[run.task] = PHASE_NONE;
      this.advance(run, result);
    });
  }

  private end(run: CommandRun): void {
    const { task } = run;
    if (run.senseCode !== SENSE_NONE) {
      this.engine.fail(task, run.senseCode, run.senseInformation, run.senseSpecific);
      return;
    }
    if (this.tasks.status[task] === STATUS_GOOD) this.tasks.status[task] = run.status;
    this.engine.finish(task);
  }

  // What the engine calls at the end of a task ----------------------------------------------------

  /** Before the task leaves its unit. */
  endSlots(run: CommandRun): void {
    if (run.workSlot >= 0) this.requests.release(run.workSlot);
    run.workSlot = -1;
    if (this.order.phase[run.task] === PHASE_SCRATCH) this.scratch.forget(run.task);
  }

  /** Afterwards: its scratch buffer goes to the next that waits for one. */
  passScratch(run: CommandRun): void {
    if (run.scratch === null) return;
    const next = this.scratch.giveBack(run.scratch);
    run.scratch = null;
    if (next < 0) return;
    const waiting = this.runs[next] as CommandRun;
    waiting.scratch = this.scratch.take(next);
    this.order.phase[next] = PHASE_NONE;
    this.advance(waiting, 0);
  }

  // RunHost ---------------------------------------------------------------------------------------

  mapOut(run: CommandRun, bytes: number): boolean {
    return this.map(run, false, bytes);
  }

  mapIn(run: CommandRun, bytes: number): boolean {
    return this.map(run, true, bytes);
  }

  private map(run: CommandRun, isIn: boolean, bytes: number): boolean {
    if (this.engine.mapData(run.task, run.link.nexus, isIn, bytes)) return true;
    run.status = this.tasks.status[run.task];
    return false;
  }

  scatter(task: number, skipBytes: number, from: Address, bytes: number): number {
    return this.copier.scatter(this.tasks.slot[task], skipBytes, from, bytes);
  }

  gather(task: number, skipBytes: number, to: Address, bytes: number): number {
    return this.copier.gather(this.tasks.slot[task], skipBytes, to, bytes);
  }

  takeWorkSlot(run: CommandRun): boolean {
    const slot = this.requests.acquire(this.engine.ownerIndex);
    if (slot < 0) {
      run.status = STATUS_TASK_SET_FULL;
      return false;
    }
    this.requests.ownerTagA[slot] = run.task;
    run.workSlot = slot;
    return true;
  }

  abortOthers(unit: LogicalUnit, ids: readonly string[], done: () => void): void {
    this.engine.aborts.abortNexuses(unit, ids, done);
  }
}
