// @hot
// SCSI commands of one session: from the command to the device server, and the answer back. The
// transport's side of scsi/task.ts.
//
//   start -> [pieces] -> submit -> [fetchDataOut -> pieces -> data] -> taskDone -> answers -> sent
//
// Invariants:
//  - a read has memory for all it expects before SCSI hears of it, a write before it is asked for:
//    MAP_BUSY never happens;
//  - memory waits in order: the oldest command that waits is the next to be served, so that a long
//    one is not overtaken for ever;
//  - the answer of a task is queued after all its data, and nothing of it after it was aborted.

import { assert, FLAG_FAULTABLE } from "../base/index.ts";
import type { ReactorPort } from "../ports/index.ts";
import {
  ATTRIBUTE_ACA,
  ATTRIBUTE_HEAD_OF_QUEUE,
  ATTRIBUTE_ORDERED,
  ATTRIBUTE_SIMPLE,
  CDB_BYTES_MAX,
  LUN_BYTES,
  MAP_OK,
  type ScsiTransport,
  SENSE_BYTES_MAX,
  STATUS_CHECK_CONDITION,
  STATUS_GOOD,
  STATUS_TASK_SET_FULL,
  TMF_ABORT_TASK,
  writeSense,
} from "../scsi/index.ts";
import { DataOut, type DataOutOwner } from "./data-out.ts";
import {
  BHS,
  COMMAND_ATTRIBUTE_MASK,
  COMMAND_READ,
  COMMAND_WRITE,
  SCSI_COMMAND,
} from "./layouts.ts";
import { TASKS_MAX, TRANSFER_BYTES_MAX } from "./limits.ts";
import type { SessionParameters } from "./negotiation.ts";
import { type PduWriter, SENSE_STRIDE } from "./pdu-writer.ts";
import { SlotQueue } from "./slot-queue.ts";
import type { ScsiService } from "./target.ts";
import {
  TASK_ANSWERING,
  TASK_ARRIVING,
  TASK_FREE,
  TASK_GATHERING,
  TASK_GONE,
  TASK_IN_SCSI,
  TASK_STARVING,
  type TaskTable,
} from "./task-table.ts";

/** The iSCSI numbers of task attributes (11.3.1); untagged and the others count as simple. */
const ORDERED_NUMBER = 2;
const HEAD_OF_QUEUE_NUMBER = 3;
const ACA_NUMBER = 4;
/** Slots of the outbox that data of reads leaves to everything else. */
const OUTBOX_LEFT = 32;

/** What a session hears of its SCSI commands. */
export interface ScsiTasksOwner {
  /** Something was queued. */
  hasOutput(): void;
  /** A slot, a piece or a place in the window is free again. */
  hasRoom(): void;
  unitAttention(lun: number, code: number): void;
}

export class ScsiTasks implements ScsiTransport, DataOutOwner {
  readonly dataOut: DataOut;
  /** Tasks that SCSI has. */
  submittedCount = 0;
  private readonly reactor: ReactorPort;
  private readonly scsi: ScsiService;
  private readonly tasks: TaskTable;
  private readonly writer: PduWriter;
  private readonly parameters: SessionParameters;
  private readonly owner: ScsiTasksOwner;
  private readonly scsiTask: Int32Array = new Int32Array(TASKS_MAX).fill(-1);
  private readonly senses: Uint8Array = new Uint8Array(TASKS_MAX * SENSE_STRIDE);
  private readonly starving: SlotQueue = new SlotQueue();
  private readonly answers: SlotQueue = new SlotQueue();
  private nexus = -1;
  /** The connection is ending: nothing is sent any more. */
  private isEnding = false;

  constructor(
    reactor: ReactorPort,
    scsi: ScsiService,
    tasks: TaskTable,
    writer: PduWriter,
    parameters: SessionParameters,
    owner: ScsiTasksOwner,
  ) {
    this.reactor = reactor;
    this.scsi = scsi;
    this.tasks = tasks;
    this.writer = writer;
    this.parameters = parameters;
    this.owner = owner;
    this.dataOut = new DataOut(tasks, writer, parameters, this);
  }

  setNexus(nexus: number): void {
    this.nexus = nexus;
  }

  /** The device server's task behind a slot, or -1. */
  scsiTaskOf(slot: number): number {
    return this.scsiTask[slot];
  }

  // --- the way in -------------------------------------------------------------------------------

  /** The command's turn has come. */
  start(slot: number): void {
    const { tasks } = this;
    if (tasks.faultSense[slot] !== 0) {
      this.answerFault(slot);
      return;
    }
    const flags = tasks.headers.u8[tasks.headerAt(slot) + 1];
    const isRead = (flags & COMMAND_READ) !== 0 && (flags & COMMAND_WRITE) === 0;
    tasks.setNeeded(slot, isRead ? bounded(tasks.expectedBytes[slot]) : 0);
    if (this.starving.first >= 0 || !tasks.takePieces(slot)) {
      tasks.state[slot] = TASK_STARVING;
      this.starving.push(slot);
      return;
    }
    this.submit(slot, flags);
  }

  private submit(slot: number, flags: number): void {
    const { tasks, scsi } = this;
    const table = scsi.tasks;
    const task = table.acquire();
    if (task < 0) {
      this.answerStatus(slot, STATUS_TASK_SET_FULL);
      return;
    }
    const { u8 } = tasks.headers;
    const header = tasks.headerAt(slot);
    const cdbAt = task * CDB_BYTES_MAX;
    for (let index = 0; index < 16; index++) {
      table.cdb[cdbAt + index] = u8[header + SCSI_COMMAND.cdb + index];
    }
    const lunAt = task * LUN_BYTES;
    for (let index = 0; index < LUN_BYTES; index++) {
      table.lun[lunAt + index] = u8[header + BHS.lun + index];
    }
    const expected = bounded(tasks.expectedBytes[slot]);
    table.nexus[task] = this.nexus;
    table.attribute[task] = attributeOf(flags & COMMAND_ATTRIBUTE_MASK);
    if ((flags & COMMAND_WRITE) !== 0) table.dataOutBytes[task] = expected;
    else if ((flags & COMMAND_READ) !== 0) table.dataInBytes[task] = expected;
    table.transportTagA[task] = slot;
    this.scsiTask[slot] = task;
    this.submittedCount += 1;
    tasks.state[slot] = TASK_IN_SCSI;
    scsi.submit(task);
  }

  /** Pieces have become free: the oldest that waits goes on. */
  feed(): void {
    const { tasks, starving } = this;
    while (starving.first >= 0 && !this.isEnding) {
      const slot = starving.first;
      if (!tasks.takePieces(slot)) return;
      starving.shift();
      if (this.scsiTask[slot] >= 0) {
        this.dataOut.gather(slot, this.reactor.loopTimeUs);
      } else if (tasks.faultSense[slot] !== 0) {
        this.answerFault(slot);
      } else {
        this.submit(slot, tasks.headers.u8[tasks.headerAt(slot) + 1]);
      }
    }
  }

  fetchDataOut(task: number, bytes: number): void {
    const { tasks } = this;
    const slot = this.scsi.tasks.transportTagA[task];
    tasks.outBytes[slot] = bytes;
    tasks.setNeeded(slot, bytes);
    tasks.takeFirstPiece(slot, bytes);
    if (this.starving.first >= 0 || !tasks.takePieces(slot)) {
      tasks.state[slot] = TASK_STARVING;
      this.starving.push(slot);
      return;
    }
    this.dataOut.gather(slot, this.reactor.loopTimeUs);
    this.owner.hasOutput();
  }

  dataComplete(slot: number): void {
    this.tasks.state[slot] = TASK_IN_SCSI;
    this.scsi.dataOutReady(this.scsiTask[slot]);
  }

  mapDataOut(task: number, slot: number, bytes: number): number {
    return this.mapPieces(this.scsi.tasks.transportTagA[task], slot, bytes);
  }

  mapDataIn(task: number, slot: number, bytes: number): number {
    return this.mapPieces(this.scsi.tasks.transportTagA[task], slot, bytes);
  }

  private mapPieces(own: number, slot: number, bytes: number): number {
    const { tasks } = this;
    const { requests } = this.reactor;
    let offset = 0;
    while (offset < bytes) {
      const room = tasks.contiguousAt(own, offset);
      const piece = room < bytes - offset ? room : bytes - offset;
      const isAdded = requests.addSegment(slot, tasks.addressAt(own, offset), piece);
      assert(isAdded, "more pieces than a request has segments");
      offset += piece;
    }
    assert((requests.flags[slot] & FLAG_FAULTABLE) === 0, "our own memory cannot fault");
    return MAP_OK;
  }

  // --- the way back -----------------------------------------------------------------------------

  taskDone(task: number): void {
    const { tasks } = this;
    const table = this.scsi.tasks;
    const slot = table.transportTagA[task];
    this.leaveScsi(slot);
    if (tasks.state[slot] === TASK_GONE || this.isEnding) {
      this.drop(slot);
      return;
    }
    tasks.status[slot] = table.status[task];
    tasks.wantedBytes[slot] = table.wantedBytes[task];
    const bytes = table.senseBytes[task];
    tasks.senseBytes[slot] = bytes;
    const from = task * SENSE_BYTES_MAX;
    const to = slot * SENSE_STRIDE;
    for (let index = 0; index < bytes; index++) {
      this.senses[to + index] = table.sense[from + index];
    }
    if (table.dataInBytes[task] > 0) tasks.inBytes[slot] = table.movedBytes[task];
    this.answer(slot);
  }

  private leaveScsi(slot: number): void {
    this.scsiTask[slot] = -1;
    this.submittedCount -= 1;
  }

  private answer(slot: number): void {
    this.dataOut.forget(slot);
    this.tasks.state[slot] = TASK_ANSWERING;
    this.answers.push(slot);
    this.pump();
  }

  // @cold
  private answerFault(slot: number): void {
    const { tasks } = this;
    tasks.status[slot] = STATUS_CHECK_CONDITION;
    const triple = tasks.faultSense[slot];
    tasks.senseBytes[slot] = writeSense(this.senses, slot * SENSE_STRIDE, false, triple, -1, 0);
    this.answer(slot);
  }

  // @cold
  private answerStatus(slot: number, status: number): void {
    this.tasks.status[slot] = status;
    this.tasks.senseBytes[slot] = 0;
    this.answer(slot);
  }

  /** Queues answers as far as the outbox has room. */
  pump(): void {
    const { answers, writer } = this;
    let queued = 0;
    while (answers.first >= 0 && writer.stream.freeSlots > OUTBOX_LEFT) {
      queued += 1;
      const slot = answers.first;
      if (!this.queueNext(slot)) continue;
      answers.shift();
      if (this.tasks.sendingCount[slot] === 0) this.free(slot);
    }
    if (queued > 0) this.owner.hasOutput();
  }

  /** Queues the next PDU of an answer; true: it was the last. */
  private queueNext(slot: number): boolean {
    const { tasks, writer, parameters } = this;
    const at = tasks.inDone[slot];
    const left = tasks.inBytes[slot] - at;
    if (left <= 0) {
      tasks.closePlace(slot);
      writer.scsiResponse(slot, this.senses);
      return true;
    }
    let bytes = tasks.contiguousAt(slot, at);
    if (bytes > left) bytes = left;
    if (bytes > parameters.peerSegmentBytes) bytes = parameters.peerSegmentBytes;
    const inBurst = at % parameters.maxBurstLength;
    if (bytes > parameters.maxBurstLength - inBurst) bytes = parameters.maxBurstLength - inBurst;
    const isEnd = bytes === left;
    const isLast = isEnd && tasks.status[slot] === STATUS_GOOD;
    const isFinal = isEnd || inBurst + bytes === parameters.maxBurstLength;
    if (isLast) tasks.closePlace(slot);
    writer.dataIn(slot, tasks.addressAt(slot, at), bytes, isLast, isFinal);
    tasks.inDone[slot] = at + bytes;
    return isLast;
  }

  /** A PDU with data of the task has gone out. */
  sent(slot: number): void {
    const { tasks } = this;
    assert(tasks.sendingCount[slot] > 0, "a task sent more than it had");
    tasks.sendingCount[slot] -= 1;
    if (tasks.sendingCount[slot] > 0) return;
    const isOver = tasks.state[slot] === TASK_GONE || tasks.isOpen[slot] === 0;
    if (isOver && !this.answers.has(slot)) this.free(slot);
  }

  private free(slot: number): void {
    const { tasks } = this;
    if (tasks.isReceiving[slot] === 1) {
      tasks.state[slot] = TASK_GONE;
      return;
    }
    tasks.release(slot);
    this.feed();
    this.owner.hasRoom();
  }

  // --- the end of tasks -------------------------------------------------------------------------

  /** The task's data cannot be right: SCSI gives it back, then the initiator hears why. */
  // @cold
  dataFailed(slot: number, sense: number): void {
    const { tasks } = this;
    tasks.faultSense[slot] = sense;
    const task = this.scsiTask[slot];
    // Not with SCSI yet: start() answers when its turn comes.
    if (task < 0) return;
    this.starving.remove(slot);
    this.abortInScsi(slot);
  }

  // @cold
  goneTaskIdle(slot: number): void {
    if (this.tasks.sendingCount[slot] === 0 && this.scsiTask[slot] < 0) this.free(slot);
  }

  // @cold
  private abortInScsi(slot: number): void {
    const request = {
      nexus: this.nexus,
      lun: this.lunOf(slot),
      management: TMF_ABORT_TASK,
      task: this.scsiTask[slot],
    };
    this.scsi.manage(request, { managementDone: (): void => {} }, 0);
  }

  /** The logical unit number of a request. */
  // @cold
  lunOf(slot: number): Uint8Array {
    const at = this.tasks.headerAt(slot) + BHS.lun;
    return this.tasks.headers.u8.slice(at, at + LUN_BYTES);
  }

  // @cold
  taskAborted(task: number): void {
    const { tasks } = this;
    const slot = this.scsi.tasks.transportTagA[task];
    this.leaveScsi(slot);
    this.dataOut.forget(slot);
    this.starving.remove(slot);
    if (!this.isEnding && tasks.faultSense[slot] !== 0 && tasks.state[slot] !== TASK_GONE) {
      this.answerFault(slot);
      return;
    }
    this.drop(slot);
  }

  /** A task that SCSI does not have goes without an answer. False: SCSI has it. */
  // @cold
  abandon(slot: number): boolean {
    const { tasks } = this;
    if (tasks.state[slot] === TASK_FREE || tasks.state[slot] === TASK_GONE) return true;
    if (this.scsiTask[slot] >= 0) return false;
    this.drop(slot);
    return true;
  }

  // @cold
  private drop(slot: number): void {
    const { tasks } = this;
    this.starving.remove(slot);
    this.answers.remove(slot);
    this.dataOut.forget(slot);
    tasks.closePlace(slot);
    tasks.state[slot] = TASK_GONE;
    if (tasks.sendingCount[slot] === 0) this.free(slot);
  }

  /** The connection is gone; what SCSI has comes back by taskAborted or taskDone. */
  // @cold
  end(): void {
    this.isEnding = true;
  }

  /** Nothing is sent or received any more: everything that SCSI does not have is freed. */
  // @cold
  sweep(): void {
    const { tasks } = this;
    for (let slot = 0; slot < TASKS_MAX; slot++) {
      tasks.sendingCount[slot] = 0;
      tasks.isReceiving[slot] = 0;
    }
    for (let slot = 0; slot < TASKS_MAX; slot++) {
      if (tasks.state[slot] === TASK_GONE && this.scsiTask[slot] < 0) this.free(slot);
      else if (tasks.state[slot] !== TASK_FREE) this.abandon(slot);
    }
  }

  /** Is there a task that has waited for its data since before `sinceUs`? */
  // @cold
  hasLateData(sinceUs: number): boolean {
    const { tasks } = this;
    for (let slot = 0; slot < TASKS_MAX; slot++) {
      if (tasks.state[slot] === TASK_GATHERING && tasks.heardUs[slot] < sinceUs) return true;
    }
    return false;
  }

  // @cold
  unitAttention(lun: number, code: number): void {
    this.owner.unitAttention(lun, code);
  }

  /** May a task management function still concern it? */
  // @cold
  isPending(slot: number): boolean {
    const state = this.tasks.state[slot];
    return state !== TASK_FREE && state !== TASK_GONE && state !== TASK_ARRIVING;
  }
}

/** The most that one command moves; SCSI refuses more by itself. */
function bounded(bytes: number): number {
  return bytes < TRANSFER_BYTES_MAX ? bytes : TRANSFER_BYTES_MAX;
}

function attributeOf(number: number): number {
  if (number === ORDERED_NUMBER) return ATTRIBUTE_ORDERED;
  if (number === HEAD_OF_QUEUE_NUMBER) return ATTRIBUTE_HEAD_OF_QUEUE;
  return number === ACA_NUMBER ? ATTRIBUTE_ACA : ATTRIBUTE_SIMPLE;
}
