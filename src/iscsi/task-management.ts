// Task management functions (RFC 7143 section 11.5): what they concern is really stopped before
// they are answered.
//
//   tasks that SCSI does not have yet are dropped at once; those that it has, it stops; its answer
//   comes when the last of them touches nothing any more, and then goes to the initiator
//
// Invariant: every request is answered once, unless its connection ends before.

import { getU32 } from "../base/index.ts";
import {
  LUN_BYTES,
  type ManagementHandler,
  TMF_ABORT_TASK as SCSI_ABORT_TASK,
  TMF_ABORT_TASK_SET as SCSI_ABORT_TASK_SET,
  TMF_CLEAR_ACA as SCSI_CLEAR_ACA,
  TMF_CLEAR_TASK_SET as SCSI_CLEAR_TASK_SET,
  TMF_COMPLETE as SCSI_COMPLETE,
  TMF_INCORRECT_LUN as SCSI_INCORRECT_LUN,
  TMF_LOGICAL_UNIT_RESET as SCSI_LUN_RESET,
  TMF_SUCCEEDED as SCSI_SUCCEEDED,
  TMF_TARGET_RESET as SCSI_TARGET_RESET,
} from "../scsi/index.ts";
import { isBefore } from "./layout-bytes.ts";
import {
  BHS,
  FLAG_FINAL,
  OP_SCSI_COMMAND,
  OP_TASK_RESPONSE,
  TASK_REQUEST,
  TASK_RESPONSE,
  TMF_ABORT_TASK,
  TMF_ABORT_TASK_SET,
  TMF_CLEAR_ACA,
  TMF_CLEAR_TASK_SET,
  TMF_COLD_RESET,
  TMF_COMPLETE,
  TMF_LUN_RESET,
  TMF_NO_LUN,
  TMF_NO_REASSIGNMENT,
  TMF_NO_TASK,
  TMF_NOT_SUPPORTED,
  TMF_REJECTED,
  TMF_TASK_REASSIGN,
  TMF_WARM_RESET,
} from "./layouts.ts";
import { TASKS_MAX } from "./limits.ts";
import type { PduWriter } from "./pdu-writer.ts";
import type { ScsiTasks } from "./scsi-tasks.ts";
import type { ScsiService } from "./target.ts";
import { TASK_ANSWERING, TASK_FREE, type TaskTable } from "./task-table.ts";

const SCSI_OPERATIONS: ReadonlyMap<number, number> = new Map([
  [TMF_ABORT_TASK_SET, SCSI_ABORT_TASK_SET],
  [TMF_CLEAR_ACA, SCSI_CLEAR_ACA],
  [TMF_CLEAR_TASK_SET, SCSI_CLEAR_TASK_SET],
  [TMF_LUN_RESET, SCSI_LUN_RESET],
  [TMF_WARM_RESET, SCSI_TARGET_RESET],
  [TMF_COLD_RESET, SCSI_TARGET_RESET],
]);

export interface TaskManagementOwner {
  hasOutput(): void;
  /** A command that has not come yet counts as having come and been aborted. */
  skipCommand(cmdSn: number): void;
  /** A command that was held is gone. */
  forgetHeld(slot: number): void;
  /** All sessions of the target end, once the answer is out. */
  coldReset(): void;
}

export class TaskManagement implements ManagementHandler {
  private readonly tasks: TaskTable;
  private readonly scsiTasks: ScsiTasks;
  private readonly scsi: ScsiService;
  private readonly writer: PduWriter;
  private readonly owner: TaskManagementOwner;
  private nexus = -1;
  private isEnding = false;

  constructor(
    tasks: TaskTable,
    scsiTasks: ScsiTasks,
    scsi: ScsiService,
    writer: PduWriter,
    owner: TaskManagementOwner,
  ) {
    this.tasks = tasks;
    this.scsiTasks = scsiTasks;
    this.scsi = scsi;
    this.writer = writer;
    this.owner = owner;
  }

  setNexus(nexus: number): void {
    this.nexus = nexus;
  }

  /** Answers go nowhere any more. */
  end(): void {
    this.isEnding = true;
  }

  /** The request in `slot`, whose turn it is. */
  execute(slot: number): void {
    const { tasks } = this;
    const header = tasks.headerAt(slot);
    const operation = tasks.headers.u8[header + 1] & 0x7f;
    tasks.state[slot] = TASK_ANSWERING;
    if (operation === TMF_ABORT_TASK) {
      this.abortTask(slot, header);
      return;
    }
    const scsiOperation = SCSI_OPERATIONS.get(operation);
    if (scsiOperation === undefined) {
      const isReassign = operation === TMF_TASK_REASSIGN;
      this.answer(slot, isReassign ? TMF_NO_REASSIGNMENT : TMF_NOT_SUPPORTED);
      return;
    }
    if (operation !== TMF_CLEAR_ACA) {
      const isAll = operation === TMF_WARM_RESET || operation === TMF_COLD_RESET;
      this.dropWaiting(slot, header, isAll);
    }
    this.manage(slot, scsiOperation, -1);
  }

  private manage(slot: number, operation: number, task: number): void {
    const lun = this.scsiTasks.lunOf(slot);
    this.scsi.manage({ nexus: this.nexus, lun, management: operation, task }, this, slot);
  }

  private abortTask(slot: number, header: number): void {
    const { tasks, scsiTasks, writer } = this;
    const { u8 } = tasks.headers;
    const reference = getU32(u8, header + TASK_REQUEST.referencedTaskTag);
    const found = tasks.find(reference);
    if (found >= 0 && found !== slot && scsiTasks.isPending(found)) {
      if (!this.hasSameLun(found, header)) {
        this.answer(slot, TMF_NO_TASK);
        return;
      }
      const task = scsiTasks.scsiTaskOf(found);
      if (task >= 0) {
        this.manage(slot, SCSI_ABORT_TASK, task);
        return;
      }
      this.drop(found);
      this.answer(slot, TMF_COMPLETE);
      return;
    }
    // 11.5.5: a command that may still come must never be executed.
    const refCmdSn = getU32(u8, header + TASK_REQUEST.refCmdSn);
    const isAhead = !isBefore(refCmdSn, writer.expCmdSn) && !isBefore(writer.maxCmdSn, refCmdSn);
    if (isAhead && isBefore(refCmdSn, tasks.cmdSn[slot])) {
      this.owner.skipCommand(refCmdSn);
      this.answer(slot, TMF_COMPLETE);
      return;
    }
    this.answer(slot, TMF_NO_TASK);
  }

  private drop(slot: number): void {
    this.owner.forgetHeld(slot);
    this.scsiTasks.abandon(slot);
  }

  private hasSameLun(slot: number, header: number): boolean {
    const { tasks } = this;
    const { u8 } = tasks.headers;
    const other = tasks.headerAt(slot);
    for (let index = BHS.lun; index < BHS.lun + LUN_BYTES; index++) {
      if (u8[other + index] !== u8[header + index]) return false;
    }
    return true;
  }

  /** Of this session: what SCSI does not have, of one logical unit or of all. */
  private dropWaiting(own: number, header: number, isAll: boolean): void {
    const { tasks, scsiTasks } = this;
    for (let slot = 0; slot < TASKS_MAX; slot++) {
      if (slot === own || tasks.state[slot] === TASK_FREE || tasks.opcode[slot] !== OP_SCSI_COMMAND)
        continue;
      if (!scsiTasks.isPending(slot) || scsiTasks.scsiTaskOf(slot) >= 0) continue;
      if (!isAll && !this.hasSameLun(slot, header)) continue;
      // Answers that are complete in the outbox go out in front of ours.
      if (tasks.isOpen[slot] === 0) continue;
      // Commands after the request are none of its business.
      if (tasks.isImmediate[slot] === 0 && !isBefore(tasks.cmdSn[slot], tasks.cmdSn[own])) continue;
      this.drop(slot);
    }
  }

  managementDone(slot: number, response: number): void {
    if (this.isEnding) return;
    if (response === SCSI_COMPLETE || response === SCSI_SUCCEEDED) {
      this.answer(slot, TMF_COMPLETE);
      const operation = this.tasks.headers.u8[this.tasks.headerAt(slot) + 1] & 0x7f;
      if (operation === TMF_COLD_RESET) this.owner.coldReset();
      return;
    }
    this.answer(slot, response === SCSI_INCORRECT_LUN ? TMF_NO_LUN : TMF_REJECTED);
  }

  private answer(slot: number, response: number): void {
    const { tasks, writer } = this;
    tasks.closePlace(slot);
    const at = writer.begin(OP_TASK_RESPONSE, FLAG_FINAL, tasks.tag[slot], true);
    writer.stream.out.u8[at + TASK_RESPONSE.response] = response;
    writer.stream.finishInline(at, 0);
    tasks.release(slot);
    this.owner.hasOutput();
  }
}
