// @hot
// Data of writes: unsolicited in the first burst, and what R2Ts ask for (RFC 7143 sections 4.2.5.2,
// 11.7 and 11.8).
//
//   0        own data     first burst                              outBytes
//   |-- in the command --|-- unsolicited --|-- burst --|-- burst --|
//                                           R2T 0       R2T 1    up to MaxOutstandingR2T
//
// Invariants:
//  - within a sequence data comes in order, with DataSN from 0: anything else fails the command,
//    and what still comes for it is dropped;
//  - memory beyond the task's pieces is never named: offsets are checked against what was asked.

import { assert, getU32 } from "../base/index.ts";
import { DATA_OUT, FLAG_FINAL, RESERVED_TAG } from "./layouts.ts";
import { TASKS_MAX } from "./limits.ts";
import type { SessionParameters } from "./negotiation.ts";
import type { PduWriter } from "./pdu-writer.ts";
import { SlotQueue } from "./slot-queue.ts";
import { TASK_GATHERING, TASK_GONE, type TaskTable } from "./task-table.ts";

/** ABORTED COMMAND with the transport's codes (11.4.7.2), as key, code, qualifier. */
export const SENSE_UNEXPECTED_DATA = 0x0b0c0c;
const SENSE_WRONG_AMOUNT = 0x0b0c0d;
export const SENSE_CRC_ERROR = 0x0b4705;

/** R2Ts that one task may have outstanding, whatever an initiator would take. */
const BURSTS_MAX = 8;
const UNSOLICITED = -1;

/** What Data-Out leads to. */
export interface DataOutOwner {
  /** All data that SCSI wants is there. */
  dataComplete(slot: number): void;
  /** The task fails with this sense. */
  dataFailed(slot: number, sense: number): void;
  /** A task that was aborted while its data came in. */
  goneTaskIdle(slot: number): void;
}

export class DataOut {
  /** Data-Out PDUs that belong to nothing that is there (any more). */
  strayCount = 0;
  private readonly tasks: TaskTable;
  private readonly writer: PduWriter;
  private readonly parameters: SessionParameters;
  private readonly owner: DataOutOwner;
  /** Tasks that would ask, for which the outbox had no room. */
  private readonly askers: SlotQueue = new SlotQueue();
  private readonly burstTag: Uint32Array = new Uint32Array(TASKS_MAX * BURSTS_MAX);
  private readonly burstAt: Uint32Array = new Uint32Array(TASKS_MAX * BURSTS_MAX);
  private readonly burstEnd: Uint32Array = new Uint32Array(TASKS_MAX * BURSTS_MAX);
  private readonly burstSn: Uint32Array = new Uint32Array(TASKS_MAX * BURSTS_MAX);
  private readonly burstsMax: number;
  /** The PDU that comes in: its task, its burst or UNSOLICITED, and where its data belongs. */
  private slot = -1;
  private burst = UNSOLICITED;
  private offset = 0;
  private bytes = 0;
  private isFinal = false;

  constructor(
    tasks: TaskTable,
    writer: PduWriter,
    parameters: SessionParameters,
    owner: DataOutOwner,
  ) {
    this.tasks = tasks;
    this.writer = writer;
    this.parameters = parameters;
    this.owner = owner;
    this.burstsMax = Math.min(BURSTS_MAX, parameters.maxOutstandingR2T);
  }

  // --- asking -----------------------------------------------------------------------------------

  /** SCSI wants the first outBytes of the task's data, and there is memory for them. */
  gather(slot: number, nowUs: number): void {
    const { tasks } = this;
    tasks.state[slot] = TASK_GATHERING;
    tasks.heardUs[slot] = nowUs;
    this.goOn(slot);
  }

  /** Everything is there, or the next may be asked for. */
  private goOn(slot: number): void {
    const { tasks } = this;
    if (tasks.unsolicitedAt[slot] >= 0) return;
    if (tasks.burstCount[slot] === 0 && tasks.outDone[slot] >= tasks.outBytes[slot]) {
      this.owner.dataComplete(slot);
      return;
    }
    if (!this.ask(slot) && !this.askers.has(slot)) this.askers.push(slot);
  }

  /** Sends R2Ts as far as they are allowed; false: the outbox has no room for the next. */
  private ask(slot: number): boolean {
    const { tasks, writer } = this;
    if (tasks.askedBytes[slot] < tasks.outDone[slot]) {
      tasks.askedBytes[slot] = tasks.outDone[slot];
    }
    while (tasks.burstCount[slot] < this.burstsMax) {
      const at = tasks.askedBytes[slot];
      const left = tasks.outBytes[slot] - at;
      if (left <= 0) return true;
      if (writer.stream.freeSlots <= 1) return false;
      const bytes = left < this.parameters.maxBurstLength ? left : this.parameters.maxBurstLength;
      const index = slot * BURSTS_MAX + tasks.burstCount[slot];
      // Never RESERVED_TAG: the highest bit is clear.
      const tag =
        ((tasks.generation[slot] & 0x7ff) << 20) | (slot << 12) | (tasks.r2tSn[slot] & 0xfff);
      this.burstTag[index] = tag;
      this.burstAt[index] = at;
      this.burstEnd[index] = at + bytes;
      this.burstSn[index] = 0;
      tasks.burstCount[slot] += 1;
      tasks.askedBytes[slot] = at + bytes;
      writer.r2t(slot, tasks.headers.u8, tag, at, bytes);
    }
    return true;
  }

  /** The outbox has moved. */
  askMore(): void {
    while (this.askers.first >= 0) {
      if (!this.ask(this.askers.first)) return;
      this.askers.shift();
    }
  }

  /** The task is over. */
  forget(slot: number): void {
    this.askers.remove(slot);
    this.tasks.burstCount[slot] = 0;
    this.tasks.unsolicitedAt[slot] = -1;
  }

  // --- taking -----------------------------------------------------------------------------------

  /** A header at `at` of `u8`. False: its data is of no use. */
  header(u8: Uint8Array, at: number, dataBytes: number): boolean {
    this.slot = -1;
    const tag = getU32(u8, at + DATA_OUT.initiatorTaskTag);
    const transferTag = getU32(u8, at + DATA_OUT.targetTransferTag);
    const offset = getU32(u8, at + DATA_OUT.bufferOffset);
    const dataSn = getU32(u8, at + DATA_OUT.dataSn);
    this.isFinal = (u8[at + 1] & FLAG_FINAL) !== 0;
    this.offset = offset;
    this.bytes = dataBytes;
    if (transferTag === RESERVED_TAG) return this.unsolicitedHeader(tag, dataSn);
    return this.solicitedHeader(tag, transferTag, dataSn);
  }

  private unsolicitedHeader(tag: number, dataSn: number): boolean {
    const { tasks } = this;
    const slot = tasks.find(tag);
    if (slot < 0 || tasks.unsolicitedAt[slot] < 0) return this.stray();
    const end = this.offset + this.bytes;
    const limit = this.parameters.firstBurstLength;
    if (this.offset !== tasks.unsolicitedAt[slot] || dataSn !== tasks.unsolicitedSn[slot]) {
      return this.fail(slot, SENSE_WRONG_AMOUNT);
    }
    if (end > limit || end > tasks.expectedBytes[slot]) {
      return this.fail(slot, SENSE_UNEXPECTED_DATA);
    }
    return this.begin(slot, UNSOLICITED);
  }

  private solicitedHeader(tag: number, transferTag: number, dataSn: number): boolean {
    const { tasks } = this;
    const slot = (transferTag >>> 12) & (TASKS_MAX - 1);
    if (tasks.state[slot] !== TASK_GATHERING || tasks.tag[slot] !== tag) return this.stray();
    const first = slot * BURSTS_MAX;
    for (let burst = 0; burst < tasks.burstCount[slot]; burst++) {
      const index = first + burst;
      if (this.burstTag[index] !== transferTag) continue;
      const isNext = this.offset === this.burstAt[index] && dataSn === this.burstSn[index];
      if (!isNext || this.offset + this.bytes > this.burstEnd[index]) {
        return this.fail(slot, SENSE_WRONG_AMOUNT);
      }
      return this.begin(slot, burst);
    }
    return this.stray();
  }

  private begin(slot: number, burst: number): boolean {
    this.slot = slot;
    this.burst = burst;
    this.tasks.isReceiving[slot] = 1;
    return true;
  }

  private stray(): boolean {
    this.strayCount += 1;
    return false;
  }

  private fail(slot: number, sense: number): boolean {
    this.forget(slot);
    this.owner.dataFailed(slot, sense);
    return false;
  }

  /** The task whose data comes in, or -1. */
  get incomingSlot(): number {
    return this.slot;
  }

  /** Where in the task the PDU's data begins. */
  get incomingOffset(): number {
    return this.offset;
  }

  /** The PDU is whole. */
  end(isDigestGood: boolean, nowUs: number): void {
    const { tasks, slot, burst } = this;
    this.slot = -1;
    if (slot < 0) return;
    tasks.isReceiving[slot] = 0;
    if (tasks.state[slot] === TASK_GONE) {
      this.owner.goneTaskIdle(slot);
      return;
    }
    if (!isDigestGood) {
      this.fail(slot, SENSE_CRC_ERROR);
      return;
    }
    tasks.heardUs[slot] = nowUs;
    tasks.outDone[slot] += this.bytes;
    const end = this.offset + this.bytes;
    if (burst === UNSOLICITED) this.endUnsolicited(slot, end);
    else this.endSolicited(slot, burst, end);
  }

  private endUnsolicited(slot: number, end: number): void {
    const { tasks } = this;
    const { firstBurstLength } = this.parameters;
    const expected = tasks.expectedBytes[slot];
    const limit = expected < firstBurstLength ? expected : firstBurstLength;
    tasks.unsolicitedSn[slot] += 1;
    tasks.unsolicitedAt[slot] = this.isFinal || end >= limit ? -1 : end;
    if (tasks.state[slot] === TASK_GATHERING) this.goOn(slot);
  }

  private endSolicited(slot: number, burst: number, end: number): void {
    const { tasks } = this;
    const index = slot * BURSTS_MAX + burst;
    this.burstAt[index] = end;
    this.burstSn[index] += 1;
    if (end < this.burstEnd[index]) {
      if (this.isFinal) this.fail(slot, SENSE_WRONG_AMOUNT);
      return;
    }
    const last = tasks.burstCount[slot] - 1;
    assert(last >= 0, "a burst of a task without bursts");
    const from = slot * BURSTS_MAX + last;
    this.burstTag[index] = this.burstTag[from];
    this.burstAt[index] = this.burstAt[from];
    this.burstEnd[index] = this.burstEnd[from];
    this.burstSn[index] = this.burstSn[from];
    tasks.burstCount[slot] = last;
    this.goOn(slot);
  }
}
